//! A session with an instance: sends lines and reads the answers.
//!
//! Knows: status lines, what may be asked of an instance that was not named exactly. Never: where entries
//! are, what a command means, terminals.
//! Source: docs/control.md, "The protocol".

use std::io::{self, BufReader, ErrorKind, Write};
use std::os::unix::net::UnixStream;

use crate::control::command;
use crate::control::patience::Patient;
use crate::control::wire::{Greeting, LinePart, LineReader, Status, printable};

/// Exit code: no instance may get this command (sysexits: `EX_UNAVAILABLE`).
const UNAVAILABLE: u8 = 69;

/// Up to this many bytes of an answer are handed on together.
const MOST_AT_ONCE: usize = 16 << 10;

/// Why no answer came.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// The instance closed the connection. It may have carried out the command.
    #[error("no master process, exiting.")]
    Gone,
    /// The instance closed the connection before it had read the command, so the command may be sent to
    /// another process.
    #[error("no master process, exiting.")]
    Unheard,
    /// The instance ended the session, with this reason.
    #[error("balance: the instance closed this session: {0}")]
    Closed(String),
    /// The answer does not follow the protocol. This is the line.
    #[error("balance: the instance gave an unexpected answer: {0:?}")]
    Garbled(String),
}

/// A session with an instance.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    lines: LineReader<BufReader<Patient>>,
    pid: u32,
    /// The user id of the instance's owner.
    uid: u32,
    /// The service that the session begins with, if there are several.
    service: Option<String>,
    /// Set if the instance was not named exactly: then only commands that change nothing are sent. The text
    /// answers all others.
    look_only: Option<String>,
}

impl Client {
    /// A session whose greeting has been read.
    pub(super) fn new(
        stream: UnixStream,
        lines: LineReader<BufReader<Patient>>,
        greeting: &Greeting,
        uid: u32,
    ) -> Self {
        Self { stream, lines, pid: greeting.pid, uid, service: None, look_only: None }
    }

    /// Removes the time limit for answers. The greeting must come soon, but commands may take any time.
    pub(super) fn wait_for_ever(&mut self) -> io::Result<()> {
        self.lines.input().get_mut().wait_for_ever()
    }

    pub(super) fn begins_at(&mut self, service: Option<String>) {
        self.service = service;
    }

    /// From now on, commands that change something are not sent but answered with `why`.
    pub(super) fn only_looks(&mut self, why: String) {
        self.look_only = Some(why);
    }

    /// The user id of the instance's owner.
    pub fn uid(&self) -> u32 {
        self.uid
    }

    /// The service that the session began with; `None` if the process has only one.
    pub fn service(&self) -> Option<&str> {
        self.service.as_deref()
    }

    /// A second handle of the socket. Another thread can shut the session down with it.
    ///
    /// # Errors
    /// The descriptor cannot be duplicated.
    pub fn socket(&self) -> io::Result<UnixStream> {
        self.stream.try_clone()
    }

    /// The process id of the instance.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Sends one line and passes each line of the answer to `body`, newline included.
    ///
    /// # Errors
    /// The instance closes the session before its answer is complete, or the answer does not follow the
    /// protocol.
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

    /// Sends one line and passes the answer to `body`, several lines at once if they came together: ten
    /// thousand separate writes would keep the reader of our output busy. A very long line, such as one of
    /// JSON, comes in parts.
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

    /// Sends one line. `body` gets each line of the answer or a part of it, and whether more has already been
    /// received. Only the last part of a line ends with a newline.
    fn ask_for(&mut self, line: &[u8], mut body: impl FnMut(&str, bool)) -> Result<Status, AskError> {
        if let Some(why) = &self.look_only
            && command::is_change(line)
        {
            body(&format!("{why}\n"), false);
            let (service, cause) = (None, None);
            return Ok(Status { code: UNAVAILABLE, group: 0, end: true, service, is_draining: false, cause });
        }
        // The instance must see one line, whatever the text holds. A newline separates commands as `;` does.
        let mut sent: Vec<u8> = line.iter().map(|&byte| if byte == b'\n' { b';' } else { byte }).collect();
        sent.push(b'\n');
        // A failed write does not decide: the instance may have answered before it closed. What is read shows
        // that.
        let is_sent = self.stream.write_all(&sent).is_ok();
        let mut is_inside = false;
        loop {
            let LinePart { bytes, is_last } = match self.lines.read_part() {
                Ok(Some(part)) => part,
                // This error means that the instance closed without having read our line completely. It
                // carries out whole lines only.
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
