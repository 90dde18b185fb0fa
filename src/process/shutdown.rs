//! What ends the instance: a signal, or word that nothing is left to do.
//!
//! Knows: signals, one pipe. Never: what is being drained, listeners, connections.
//! Source: docs/compatibility.md, "Process".

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGTERM};

/// What signal-hook writes for a signal.
const SIGNAL: u8 = b'X';
/// What a [`Notifier`] writes.
const DRAINED: u8 = b'D';

/// Why [`Shutdown::wait`] came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// SIGTERM, SIGINT, or SIGHUP where it stops.
    Signal,
    /// A [`Notifier`] was told that nothing is left to do.
    Drained,
}

/// What a lost terminal means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hangup {
    /// In the foreground: the end, unless the program was started under `nohup`.
    Stops,
    /// In the background: nothing.
    Ignored,
}

/// The one place that waits for the end.
#[derive(Debug)]
pub struct Shutdown {
    reader: UnixStream,
    writer: Arc<UnixStream>,
}

/// Tells [`Shutdown::wait`] that nothing is left to do. Cheap to clone, usable from any thread.
#[derive(Debug, Clone)]
pub struct Notifier(Arc<UnixStream>);

impl Notifier {
    /// Wakes the waiter. Never blocks: a pipe that is full wakes it anyway.
    pub fn drained(&self) {
        let _ = (&*self.0).write(&[DRAINED]);
    }
}

impl Shutdown {
    /// Takes over SIGTERM, SIGINT, SIGHUP and SIGCHLD for the whole process. From here on they no longer kill it.
    ///
    /// # Errors
    /// No descriptors for the pipe, or the system refuses a handler.
    pub fn install(hangup: Hangup) -> io::Result<Self> {
        let (reader, writer) = UnixStream::pair()?;
        writer.set_nonblocking(true)?;
        // Whoever started us may have ignored it, and then nobody could learn how a check's program ended.
        signal_hook::flag::register(SIGCHLD, Arc::default())?;
        let mut signals = vec![SIGTERM, SIGINT];
        match hangup {
            Hangup::Stops if !is_ignored(SIGHUP) => signals.push(SIGHUP),
            Hangup::Stops => {}
            // A handler that only sets a flag nobody reads: the safe way to spell "ignore".
            Hangup::Ignored => drop(signal_hook::flag::register(SIGHUP, Arc::default())?),
        }
        for signal in signals {
            signal_hook::low_level::pipe::register(signal, writer.try_clone()?)?;
        }
        Ok(Self { reader, writer: Arc::new(writer) })
    }

    /// A handle for whoever knows when the last connection ended.
    pub fn notifier(&self) -> Notifier {
        Notifier(Arc::clone(&self.writer))
    }

    /// Blocks until something ends the instance. May be called again: a second signal is a second answer.
    pub fn wait(&self) -> Cause {
        let mut byte = [0];
        loop {
            match (&self.reader).read(&mut byte) {
                Ok(1) if byte[0] == DRAINED => return Cause::Drained,
                Ok(1) => {
                    debug_assert_eq!(byte[0], SIGNAL);
                    return Cause::Signal;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // We hold a writer ourselves, so the stream cannot end; if it does, nothing can reach us any more.
                Ok(_) | Err(_) => return Cause::Signal,
            }
        }
    }
}

/// Was the signal ignored when the program was started, as `nohup` does it? Read from /proc, where asking the system
/// directly would need unsafe code; without /proc the answer is no.
fn is_ignored(signal: i32) -> bool {
    std::fs::read_to_string("/proc/self/status").is_ok_and(|status| is_ignored_in(&status, signal))
}

fn is_ignored_in(status: &str, signal: i32) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0);
    mask >> (signal - 1) & 1 == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    // One test for what is process-wide: the handlers stay installed.
    #[test]
    fn signals_and_notifiers_wake_the_waiter_in_order() {
        let shutdown = Shutdown::install(Hangup::Stops).expect("handlers");
        signal_hook::low_level::raise(SIGTERM).expect("a signal to ourselves");
        assert_eq!(shutdown.wait(), Cause::Signal);
        signal_hook::low_level::raise(SIGINT).expect("a signal to ourselves");
        assert_eq!(shutdown.wait(), Cause::Signal);
        let notifier = shutdown.notifier();
        std::thread::spawn(move || notifier.drained()).join().expect("telling does not panic");
        assert_eq!(shutdown.wait(), Cause::Drained);
    }

    #[test]
    fn a_notifier_never_blocks() {
        let (reader, writer) = UnixStream::pair().expect("a pair");
        writer.set_nonblocking(true).expect("non-blocking");
        let shutdown = Shutdown { reader, writer: Arc::new(writer) };
        let notifier = shutdown.notifier();
        for _ in 0..100_000 {
            notifier.drained();
        }
        assert_eq!(shutdown.wait(), Cause::Drained);
    }

    #[test]
    fn nohup_is_seen_in_the_mask_of_ignored_signals() {
        let status = "Name:\tbalance\nSigIgn:\t0000000000001001\nSigCgt:\tffffffffffffffff\n";
        assert!(is_ignored_in(status, SIGHUP));
        assert!(!is_ignored_in(status, SIGINT));
        assert!(!is_ignored_in("", SIGHUP));
        assert!(!is_ignored_in("SigIgn:\tzz\n", SIGHUP));
    }
}
