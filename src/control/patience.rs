//! Reading from a peer that may send nothing, or one byte at a time.
//!
//! Knows: one deadline for all reads together. Never: what is said.

use std::io::{self, ErrorKind, Read};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// The reading end of a stream, with a deadline.
#[derive(Debug)]
pub(crate) struct Patient {
    stream: UnixStream,
    until: Option<Instant>,
}

impl Patient {
    /// All reads must be finished within this time from now; later ones fail with [`ErrorKind::TimedOut`].
    ///
    /// # Errors
    /// The descriptor cannot be duplicated.
    pub(crate) fn new(stream: &UnixStream, patience: Duration) -> io::Result<Self> {
        Ok(Self { stream: stream.try_clone()?, until: Some(Instant::now() + patience) })
    }

    /// Removes the deadline.
    ///
    /// # Errors
    /// Those of the system call.
    pub(crate) fn wait_for_ever(&mut self) -> io::Result<()> {
        self.until = None;
        self.stream.set_read_timeout(None)
    }
}

impl Read for Patient {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Some(until) = self.until {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(ErrorKind::TimedOut.into());
            }
            self.stream.set_read_timeout(Some(left))?;
        }
        self.stream.read(buffer).map_err(|error| match error.kind() {
            // A socket reports a timeout as this error.
            ErrorKind::WouldBlock => ErrorKind::TimedOut.into(),
            _ => error,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn who_says_it_byte_by_byte_does_not_get_more_time() {
        let (mut talks, hears) = UnixStream::pair().expect("a pair");
        let mut hears = Patient::new(&hears, Duration::from_millis(50)).expect("a descriptor");
        let kind = loop {
            talks.write_all(b"x").expect("written");
            if let Err(error) = hears.read(&mut [0]) {
                break error.kind();
            }
        };
        assert_eq!(kind, ErrorKind::TimedOut);
        hears.wait_for_ever().expect("set");
        talks.write_all(b"y").expect("written");
        let mut rest = [0; 2];
        hears.read_exact(&mut rest[..1]).expect("read");
        assert!(rest[0] == b'x' || rest[0] == b'y');
    }
}
