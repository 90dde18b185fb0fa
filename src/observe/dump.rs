//! The packet dump of `-p`.
//!
//! Knows: bytes, direction, the 80-column rule, how much text waits for its reader. Never: connections,
//! files.
//! Source: docs/compatibility.md, "Packet dump".
//!
//! The text is written by a thread of its own, so that a slow reader delays only the traffic that is dumped.
//! The amount of waiting text is limited: a caller that wants to add to it first asks [`Dump::is_full`], and
//! is notified when there is room again.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::{Event, Log};

/// An output line ends after the byte that takes it past this column.
const COLUMNS: usize = 80;
/// Limit on waiting text in bytes. Callers that asked before it was reached may still exceed it.
const ROOM: usize = 1 << 20;
/// At the end of the process, a reader that has taken nothing for this long is not waited for.
const STALLED: Duration = Duration::from_secs(1);

/// The direction of a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From client to channel.
    Sent,
    /// From channel to client.
    Rcvd,
}

/// Appends one chunk as 3.57 prints it: a head line with the number of bytes, the bytes, a newline. An empty
/// chunk marks the end of the stream and is printed as the head and an empty line.
pub fn dump_chunk(direction: Direction, chunk: &[u8], out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let arrow = match direction {
        Direction::Sent => "->",
        Direction::Rcvd => "-<",
    };
    out.reserve(chunk.len() * 2 + 16);
    out.extend_from_slice(format!("{arrow} {}\n", chunk.len()).as_bytes());
    let mut column = 0;
    for &byte in chunk {
        match byte {
            b'\\' => {
                out.extend_from_slice(b"\\\\");
                column += 2;
            }
            b' '..=b'~' => {
                out.push(byte);
                column += 1;
            }
            _ => {
                out.extend_from_slice(&[b'\\', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
                column += 3;
            }
        }
        if byte == b'\n' || column > COLUMNS {
            out.push(b'\n');
            column = 0;
        }
    }
    out.push(b'\n');
}

/// The destination of the dump. Cheap to clone; chunks from all clones are written one after another, each as
/// a whole.
#[derive(Clone)]
pub struct Dump(Arc<Spool>);

struct Spool {
    waiting: Mutex<Unwritten>,
    /// Signalled when text was added or written, or when writing has stopped for good.
    moved: Condvar,
    /// The waiting text has reached its limit.
    full: AtomicBool,
    /// Writing has stopped for good.
    stopped: AtomicBool,
    log: Log,
}

/// The text that has not been written.
struct Unwritten {
    /// The output, until the writing thread takes it.
    out: Option<Box<dyn Write + Send>>,
    chunks: VecDeque<Vec<u8>>,
    /// Bytes in these chunks and in the one that is being written.
    bytes: usize,
    /// When the reader was last seen to take something, or when there was nothing to take.
    took_at: Instant,
}

impl std::fmt::Debug for Dump {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Dump").finish()
    }
}

// Whether a reader is stalled is measured here, so this code may read the clock.
#[allow(clippy::disallowed_methods)]
impl Dump {
    /// A dump to stdout. A slow reader slows the traffic down, as in 3.57, because a dump with gaps would
    /// mislead.
    pub fn stdout(log: Log) -> Self {
        Self::to(Box::new(Stdout), log)
    }

    /// A dump to any output.
    pub fn to(out: Box<dyn Write + Send>, log: Log) -> Self {
        let waiting =
            Unwritten { out: Some(out), chunks: VecDeque::new(), bytes: 0, took_at: Instant::now() };
        Self(Arc::new(Spool {
            waiting: Mutex::new(waiting),
            moved: Condvar::new(),
            full: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            log,
        }))
    }

    /// Starts the thread that writes. `has_room` is called whenever the dump is no longer full. Call it only
    /// once, after all forking.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start(&self, has_room: impl Fn() + Send + 'static) -> io::Result<()> {
        let Some(out) = self.waiting().out.take() else { return Ok(()) };
        let dump = self.clone();
        thread::Builder::new().name("dump".into()).spawn(move || dump.write(out, &has_room))?;
        Ok(())
    }

    /// Is the limit on waiting text reached?
    pub fn is_full(&self) -> bool {
        self.0.full.load(Ordering::SeqCst)
    }

    /// Adds one chunk; an empty one marks the end of that direction. Never blocks and never refuses: a caller
    /// that can wait asks [`is_full`](Self::is_full) first.
    pub fn chunk(&self, direction: Direction, chunk: &[u8]) {
        if self.0.stopped.load(Ordering::Relaxed) {
            return;
        }
        let mut text = Vec::new();
        dump_chunk(direction, chunk, &mut text);
        let mut waiting = self.waiting();
        if waiting.bytes == 0 {
            waiting.took_at = Instant::now();
        }
        waiting.bytes += text.len();
        waiting.chunks.push_back(text);
        if waiting.bytes > ROOM {
            self.0.full.store(true, Ordering::SeqCst);
        }
        drop(waiting);
        self.0.moved.notify_all();
    }

    /// Waits until everything is written, but not for a stalled reader. Called at the end of the process.
    pub fn finish(&self) {
        let mut waiting = self.waiting();
        while waiting.bytes > 0 {
            let left = STALLED.saturating_sub(waiting.took_at.elapsed());
            if left.is_zero() {
                return;
            }
            let woken = self.0.moved.wait_timeout(waiting, left);
            (waiting, _) = woken.unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Writes text as it comes. The first error ends the dump for good and is logged once; the traffic goes
    /// on.
    fn write(&self, mut out: Box<dyn Write + Send>, has_room: &dyn Fn()) {
        loop {
            let text = self.next();
            let written = out.write_all(&text).and_then(|()| out.flush());
            let is_over = written.is_err();
            if let Err(error) = written {
                self.0.stopped.store(true, Ordering::Relaxed);
                self.0.log.tell(&Event::DumpStopped { cause: error.to_string() });
            }
            let mut waiting = self.waiting();
            waiting.took_at = Instant::now();
            waiting.bytes = waiting.bytes.saturating_sub(text.len());
            if is_over {
                waiting.chunks.clear();
                waiting.bytes = 0;
            }
            // Only at half of the limit, since each notification wakes everybody who waits.
            let gets_room = waiting.bytes <= ROOM / 2 && self.0.full.swap(false, Ordering::SeqCst);
            drop(waiting);
            self.0.moved.notify_all();
            if gets_room {
                has_room();
            }
            if is_over {
                return;
            }
        }
    }

    fn next(&self) -> Vec<u8> {
        let mut waiting = self.waiting();
        loop {
            if let Some(text) = waiting.chunks.pop_front() {
                return text;
            }
            waiting = self.0.moved.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Unwritten> {
        // The value is consistent even after a panic, since nothing between two changes can panic.
        self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Standard output without std's line buffer, which would cut a chunk at its newlines into one write each. It
/// also reports a closed descriptor as an error, which std does not.
struct Stdout;

impl Write for Stdout {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        loop {
            match rustix::io::write(io::stdout(), buf) {
                // Another process that shares our terminal may have made it non-blocking.
                Err(rustix::io::Errno::AGAIN) => wait_writable()?,
                other => return Ok(other?),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn wait_writable() -> io::Result<()> {
    use rustix::event::{PollFd, PollFlags, poll};
    let stdout = io::stdout();
    match poll(&mut [PollFd::new(&stdout, PollFlags::OUT)], None) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, sync_channel};

    use super::*;

    fn dumped(direction: Direction, chunk: &[u8]) -> String {
        let mut out = Vec::new();
        dump_chunk(direction, chunk, &mut out);
        String::from_utf8(out).expect("the dump is ASCII")
    }

    #[test]
    fn the_real_sample_of_the_contract_comes_out_byte_for_byte() {
        let mut chunk = b"GET / HTTP/1.0\r\nA: b\\c\r\n\r\n".to_vec();
        chunk.extend((0..90).map(|i| b'0' + i % 10));
        chunk.extend_from_slice(b"\x80\x00end");
        assert_eq!(chunk.len(), 121);
        let sample = r"-> 121
GET / HTTP/1.0\0D\0A
A: b\\c\0D\0A
\0D\0A
012345678901234567890123456789012345678901234567890123456789012345678901234567890
123456789\80\00end
";
        assert_eq!(dumped(Direction::Sent, &chunk), sample);
    }

    #[test]
    fn the_end_of_a_stream_is_a_head_and_an_empty_line() {
        assert_eq!(dumped(Direction::Sent, b""), "-> 0\n\n");
        assert_eq!(dumped(Direction::Rcvd, b""), "-< 0\n\n");
    }

    #[test]
    fn a_line_ends_after_the_byte_that_takes_it_past_80_columns() {
        let plain = |n: usize| "a".repeat(n);
        assert_eq!(dumped(Direction::Rcvd, plain(80).as_bytes()), format!("-< 80\n{}\n", plain(80)));
        assert_eq!(dumped(Direction::Rcvd, plain(81).as_bytes()), format!("-< 81\n{}\n\n", plain(81)));
        assert_eq!(dumped(Direction::Rcvd, plain(82).as_bytes()), format!("-< 82\n{}\na\n", plain(81)));
        // An escape is not cut: it may take the line to 82 or 83 columns.
        let escaped = [plain(80).as_bytes(), b"\x00b"].concat();
        assert_eq!(dumped(Direction::Rcvd, &escaped), format!("-< 82\n{}\\00\nb\n", plain(80)));
        let backslashes = [plain(79).as_bytes(), b"\\b"].concat();
        assert_eq!(dumped(Direction::Rcvd, &backslashes), format!("-< 81\n{}\\\\\nb\n", plain(79)));
    }

    #[test]
    fn only_printable_ascii_stands_for_itself() {
        assert_eq!(dumped(Direction::Sent, b" ~\x7f\x1f\xff\t"), "-> 6\n ~\\7F\\1F\\FF\\09\n");
    }

    #[test]
    fn a_newline_byte_ends_the_line_once_also_past_80_columns() {
        let chunk = [b"a".repeat(79).as_slice(), b"\nb"].concat();
        assert_eq!(dumped(Direction::Sent, &chunk), format!("-> 81\n{}\\0A\nb\n", "a".repeat(79)));
    }

    /// Counts write calls and fails from a given one on.
    struct Failing(Arc<Mutex<(usize, usize)>>);

    impl Write for Failing {
        fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
            let mut state = self.0.lock().expect("no test panics with it");
            state.0 += 1;
            if state.0 > state.1 { Err(io::ErrorKind::BrokenPipe.into()) } else { Ok(buf.len()) }
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_chunk_is_one_write_and_the_first_error_ends_the_dump() {
        let state = Arc::new(Mutex::new((0, 2)));
        let dump = Dump::to(Box::new(Failing(Arc::clone(&state))), Log::syslog(false));
        for _ in 0..10 {
            dump.chunk(Direction::Sent, b"a\nb\nc");
        }
        dump.start(|| ()).expect("a thread");
        dump.finish();
        dump.chunk(Direction::Sent, b"for nobody");
        assert_eq!(
            state.lock().expect("no test panics with it").0,
            3,
            "two whole chunks, one failure, silence"
        );
    }

    /// Accepts a chunk whenever it is allowed to.
    struct Slow(Receiver<()>);

    impl Write for Slow {
        fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
            match self.0.recv() {
                Ok(()) => Ok(buf.len()),
                Err(_) => Err(io::ErrorKind::BrokenPipe.into()),
            }
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn whoever_adds_to_a_dump_that_nobody_reads_does_not_wait_and_is_told_of_room() {
        let (allow, allowed) = sync_channel(0);
        let (told, room) = sync_channel(1);
        let dump = Dump::to(Box::new(Slow(allowed)), Log::syslog(false));
        dump.start(move || told.send(()).unwrap_or_default()).expect("a thread");
        let mut chunks = 0;
        while !dump.is_full() {
            dump.chunk(Direction::Rcvd, &[b'x'; 60_000]);
            chunks += 1;
        }
        assert!((17..=18).contains(&chunks), "{chunks}: a megabyte may wait");
        assert!(room.try_recv().is_err());
        // Half of it is not read, since otherwise the callers that were notified would fill it again at once.
        (0..chunks / 2 + 1).for_each(|_| allow.send(()).expect("it writes"));
        room.recv().expect("it is told");
        assert!(!dump.is_full());
        // The end of the reader makes room, too.
        while !dump.is_full() {
            dump.chunk(Direction::Rcvd, &[b'x'; 60_000]);
        }
        drop(allow);
        room.recv().expect("it is told");
        dump.finish();
        dump.chunk(Direction::Rcvd, &[b'x'; 2 << 20]);
        assert!(!dump.is_full(), "of what nobody reads, nothing is kept");
    }

    #[test]
    fn the_end_waits_for_a_reader_that_reads_and_for_no_other() {
        let (allow, allowed) = sync_channel(100);
        let dump = Dump::to(Box::new(Slow(allowed)), Log::syslog(false));
        for _ in 0..50 {
            dump.chunk(Direction::Sent, b"x");
            allow.send(()).expect("it is there");
        }
        dump.start(|| ()).expect("a thread");
        dump.finish();
        assert_eq!(dump.waiting().bytes, 0);
        dump.chunk(Direction::Sent, b"for nobody");
        dump.finish();
        assert!(dump.waiting().bytes > 0);
        drop(allow);
    }
}
