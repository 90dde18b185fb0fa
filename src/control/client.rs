//! A session with an instance: lines there, answers back.
//!
//! Knows: status lines, what may be asked of an instance that was not named exactly. Never: where entries are, what a
//! command means, terminals.
//! Source: docs/control.md, "The protocol".

use std::io::{self, BufReader, ErrorKind, Write};
use std::os::unix::net::UnixStream;

use crate::control::command;
use crate::control::patience::Patient;
use crate::control::wire::{Greeting, LinePart, LineReader, Status, printable};

/// No instance that this may be asked of (sysexits: `EX_UNAVAILABLE`).
const UNAVAILABLE: u8 = 69;

/// As many bytes of an answer are handed on together.
const MOST_AT_ONCE: usize = 16 << 10;

/// Why an answer did not come.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// The instance went away, and may have done what it was asked for.
    #[error("no master process, exiting.")]
    Gone,
    /// It went away before it had read what it was asked for: it may be asked of another process.
    #[error("no master process, exiting.")]
    Unheard,
    /// The instance ended the session: why.
    #[error("balance: the instance closed this session: {0}")]
    Closed(String),
    /// It says what no instance says.
    #[error("balance: the instance gave an unexpected answer: {0:?}")]
    Garbled(String),
}

/// A session with an instance.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    lines: LineReader<BufReader<Patient>>,
    pid: u32,
    /// Whose it is.
    uid: u32,
    /// Where it begins, if there are several services.
    service: Option<String>,
    /// It was not named exactly: good enough to look at it. What is said to more than that.
    look_only: Option<String>,
}

impl Client {
    /// A session that has been greeted.
    pub(super) fn new(
        stream: UnixStream,
        lines: LineReader<BufReader<Patient>>,
        greeting: &Greeting,
        uid: u32,
    ) -> Self {
        Self { stream, lines, pid: greeting.pid, uid, service: None, look_only: None }
    }

    /// So far it had to answer soon; its commands may take their time.
    pub(super) fn wait_for_ever(&mut self) -> io::Result<()> {
        self.lines.input().get_mut().wait_for_ever()
    }

    pub(super) fn begins_at(&mut self, service: Option<String>) {
        self.service = service;
    }

    /// Only looking is allowed from now on; more is answered with `why`.
    pub(super) fn only_looks(&mut self, why: String) {
        self.look_only = Some(why);
    }

    /// The user whose instance it is.
    pub fn uid(&self) -> u32 {
        self.uid
    }

    /// The service that the session began with, where there are several.
    pub fn service(&self) -> Option<&str> {
        self.service.as_deref()
    }

    /// The socket, so that a thread that no longer waits for the answer can shut it down.
    ///
    /// # Errors
    /// There is no descriptor for it.
    pub fn socket(&self) -> io::Result<UnixStream> {
        self.stream.try_clone()
    }

    /// The process of the instance.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Sends one line and hands each line of the answer to `body`, newline included.
    ///
    /// # Errors
    /// When the instance goes away before its answer is complete, or says what no instance says.
    pub fn ask(&mut self, line: &[u8], mut body: impl FnMut(&str)) -> Result<Status, AskError> {
        let mut is_too_long = false;
        let status = self.ask_for(line, |line, _| {
            is_too_long |= !line.ends_with('\n');
            if !is_too_long {
                body(line);
            }
        })?;
        if is_too_long { Err(AskError::Garbled("a very long line".into())) } else { Ok(status) }
    }

    /// Sends one line and hands the answer to `body`, several lines at once where they came together: who writes each of ten
    /// thousand lines by itself keeps its reader busy. A very long line, as JSON has it, comes in parts.
    ///
    /// # Errors
    /// As for [`ask`](Self::ask).
    pub(super) fn ask_at_once(
        &mut self,
        line: &[u8],
        mut body: impl FnMut(&str),
    ) -> Result<Status, AskError> {
        let mut text = String::new();
        let asked = self.ask_for(line, |line, more| {
            text.push_str(line);
            if !more || text.len() >= MOST_AT_ONCE {
                body(&text);
                text.clear();
            }
        });
        if !text.is_empty() {
            body(&text);
        }
        asked
    }

    /// `body` gets each line, newline included, or parts of one, only the last of which ends with a newline; and whether there is more
    /// at hand.
    fn ask_for(&mut self, line: &[u8], mut body: impl FnMut(&str, bool)) -> Result<Status, AskError> {
        if let Some(why) = &self.look_only
            && command::is_change(line)
        {
            body(&format!("{why}\n"), false);
            return Ok(Status { code: UNAVAILABLE, group: 0, end: true, service: None, is_draining: false });
        }
        // Whatever the text holds, it is one line to the instance: a newline separates commands as `;` does.
        let mut sent: Vec<u8> = line.iter().map(|&byte| if byte == b'\n' { b';' } else { byte }).collect();
        sent.push(b'\n');
        // It may have gone, but may also have answered before it went: what comes in tells.
        let is_sent = self.stream.write_all(&sent).is_ok();
        let mut is_inside = false;
        loop {
            let LinePart { bytes, is_last } = match self.lines.read_part() {
                Ok(Some(part)) => part,
                // What it had not read when it closed its end is told by this error, and a line that has not been read to its end is none.
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return Err(AskError::Unheard),
                _ if !is_sent => return Err(AskError::Unheard),
                _ => return Err(AskError::Gone),
            };
            let is_first = !std::mem::replace(&mut is_inside, !is_last);
            let (mut text, is_status) = match bytes.strip_prefix(b".").filter(|_| is_first) {
                None => (printable(bytes), false),
                Some(stuffed) if stuffed.starts_with(b".") => (printable(stuffed), false),
                Some(_) => (printable(bytes), true),
            };
            match (is_status, is_last) {
                (true, false) => return Err(AskError::Garbled("a very long line".into())),
                (false, _) => {
                    if is_last {
                        text.push('\n');
                    }
                    body(&text, !self.lines.input().buffer().is_empty());
                }
                (true, true) => {
                    let line = text;
                    if let Some(why) = line.strip_prefix(". closed: ") {
                        return Err(AskError::Closed(why.to_owned()));
                    }
                    return Status::parse(&line).ok_or(AskError::Garbled(line));
                }
            }
        }
    }
}
