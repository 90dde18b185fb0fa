//! Notices that the reader of our stdout has gone, even while nothing is written.
//!
//! Knows: a pipe without a reader, the socket that an answer comes by. Never: what is asked, what is printed.

use std::io;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use rustix::event::{PollFd, PollFlags};

/// Watches the reader of stdout while an answer comes by a socket.
#[derive(Debug)]
pub(crate) struct Reader {
    has_gone: Arc<AtomicBool>,
}

impl Reader {
    /// Shuts the socket down as soon as nobody reads stdout any more. If no thread can be started, that is
    /// noticed at the next write.
    pub(crate) fn watch(socket: UnixStream) -> Self {
        let has_gone = Arc::new(AtomicBool::new(false));
        let gone = Arc::clone(&has_gone);
        let watch = move || {
            if await_end_of(io::stdout()) {
                gone.store(true, Ordering::SeqCst);
                // This fails if the instance has closed the socket, and then nobody waits.
                let _ = socket.shutdown(Shutdown::Both);
            }
        };
        let _ = thread::Builder::new().name("reader".into()).spawn(watch);
        Self { has_gone }
    }

    /// Has the reader gone?
    pub(crate) fn has_gone(&self) -> bool {
        self.has_gone.load(Ordering::SeqCst)
    }
}

/// Waits until nobody reads this any more; with a file or a terminal, for ever. `false`: the system cannot
/// tell.
fn await_end_of(output: impl std::os::fd::AsFd) -> bool {
    loop {
        let mut polled = [PollFd::new(&output, PollFlags::empty())];
        match rustix::event::poll(&mut polled, None) {
            Ok(_) => return polled[0].revents().intersects(PollFlags::ERR | PollFlags::HUP),
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_reader_is_noticed_without_a_write() {
        let (reader, writer) = io::pipe().expect("a pipe");
        let waits = thread::spawn(move || await_end_of(writer));
        assert!(!waits.is_finished());
        drop(reader);
        assert!(waits.join().expect("no panic"));
    }
}
