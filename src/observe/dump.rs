//! The packet dump of `-p`.
//!
//! Knows: bytes, direction, the 80-column rule. Never: connections, files.
//! Source: docs/compatibility.md, "Packet dump".

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::{Event, Log};

/// The output line ends after the byte that takes it past this column.
const COLUMNS: usize = 80;

/// Which way a chunk went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Client -> channel.
    Sent,
    /// Channel -> client.
    Rcvd,
}

/// Appends one chunk as 3.57 prints it: a head line with the number of bytes, the bytes, a newline. An empty chunk is
/// the end of the stream and becomes the head and an empty line.
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

/// Where the dump goes. Cheap to clone; chunks of all clones are written whole, one after the other.
#[derive(Clone)]
pub struct Dump(Arc<Inner>);

struct Inner {
    stopped: AtomicBool,
    out: Mutex<Box<dyn Write + Send>>,
    log: Log,
}

impl std::fmt::Debug for Dump {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Dump").finish()
    }
}

impl Dump {
    /// To stdout. A reader that is slow slows the traffic down, as in 3.57: a dump with holes misleads.
    pub fn stdout(log: Log) -> Self {
        Self::to(Box::new(Stdout), log)
    }

    /// To any output.
    pub fn to(out: Box<dyn Write + Send>, log: Log) -> Self {
        Self(Arc::new(Inner { stopped: AtomicBool::new(false), out: Mutex::new(out), log }))
    }

    /// Dumps one chunk; an empty one is the end of that direction. The first write error ends the dump for good and is
    /// told to the log once; the traffic goes on.
    pub fn chunk(&self, direction: Direction, chunk: &[u8]) {
        if self.0.stopped.load(Ordering::Relaxed) {
            return;
        }
        let mut text = Vec::new();
        dump_chunk(direction, chunk, &mut text);
        let written = {
            let mut out = self.0.out.lock().unwrap_or_else(PoisonError::into_inner);
            out.write_all(&text).and_then(|()| out.flush())
        };
        if let Err(error) = written
            && !self.0.stopped.swap(true, Ordering::Relaxed)
        {
            self.0.log.tell(&Event::DumpStopped { cause: error.to_string() });
        }
    }
}

/// Standard output without std's line buffer, which would cut chunks at newlines into a write each, and without its
/// habit of taking a closed descriptor for success.
struct Stdout;

impl Write for Stdout {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        loop {
            match rustix::io::write(io::stdout(), buf) {
                // Whoever shares our terminal may have made it non-blocking.
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

    /// Counts write calls and fails from the given one on.
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
        assert_eq!(
            state.lock().expect("no test panics with it").0,
            3,
            "two whole chunks, one failure, silence"
        );
    }
}
