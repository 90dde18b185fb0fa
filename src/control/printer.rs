//! Answers on stdout and complaints on stderr.
//!
//! Knows: what a failed write means. Never: what is printed.

use std::io::{self, ErrorKind, Write};

use crate::control::watch::AnswerSink;

/// Exit code: the answer could not be printed (sysexits: `EX_IOERR`).
pub(super) const IO_ERROR: u8 = 74;

/// Writes until a write fails, and nothing after that. The instance carries the commands out all the same.
pub(super) struct Printer<W: Write> {
    out: W,
    pub(super) failure: Option<io::Error>,
}

impl<W: Write> Printer<W> {
    pub(super) fn new(out: W) -> Self {
        Self { out, failure: None }
    }

    pub(super) fn print(&mut self, text: &str) {
        if self.failure.is_none() {
            self.failure = self.out.write_all(text.as_bytes()).err();
        }
    }

    pub(super) fn flush(&mut self) {
        if self.failure.is_none() {
            self.failure = self.out.flush().err();
        }
    }

    /// The exit code: `code` if the reader has gone away, since it has seen what it wanted; an error if the
    /// answer could not be written, such as on a full disk.
    pub(super) fn end(mut self, code: u8) -> u8 {
        self.flush();
        match self.failure {
            Some(error) if error.kind() != ErrorKind::BrokenPipe && code == 0 => {
                complain(&format!("balance: cannot write the answer: {error}"));
                IO_ERROR
            }
            _ => code,
        }
    }
}

impl<W: Write> AnswerSink for Printer<W> {
    fn take(&mut self, part: &str) {
        self.print(part);
        self.flush();
    }

    fn has_failed(&self) -> bool {
        self.failure.is_some()
    }
}

/// Writes a line to stderr.
pub(super) fn complain(text: &str) {
    // If stderr is closed, there is nowhere to report that.
    let _ = writeln!(io::stderr().lock(), "{text}");
}
