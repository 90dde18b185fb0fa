//! A session with an instance: lines there, answers back.
//!
//! Knows: status lines, what may be asked of an instance that was not named exactly. Never: where entries are, what a
//! command means, terminals.
//! Source: docs/control.md, "The protocol".

use std::io::{self, BufReader, Write};
use std::os::unix::net::UnixStream;

use crate::control::command;
use crate::control::patience::Patient;
use crate::control::wire::{Greeting, LineRead, LineReader, Status, printable};

/// No instance that this may be asked of (sysexits: `EX_UNAVAILABLE`).
const UNAVAILABLE: u8 = 69;

/// Why an answer did not come.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// The instance went away.
    #[error("no master process, exiting.")]
    Gone,
    /// The instance ended the session: why.
    #[error("balance: the instance closed this session: {0}")]
    Closed(String),
    /// It says what no instance says.
    #[error("balance: the instance's answer makes no sense: {0:?}")]
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

    /// The socket, to be shut down by whoever does not want to wait for the answer any longer.
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
        if let Some(why) = &self.look_only
            && command::is_change(line)
        {
            body(&format!("{why}\n"));
            return Ok(Status { code: UNAVAILABLE, group: 0, end: true, service: None, is_draining: false });
        }
        // Whatever the text holds, it is one line to the instance: a newline separates commands as `;` does.
        let mut sent: Vec<u8> = line.iter().map(|&byte| if byte == b'\n' { b';' } else { byte }).collect();
        sent.push(b'\n');
        // It may have gone, but may also have answered before it went: what comes in tells.
        let _ = self.stream.write_all(&sent);
        loop {
            let line = match self.lines.read() {
                Ok(LineRead::Whole(line)) => line,
                Ok(LineRead::TooLong) => return Err(AskError::Garbled("a very long line".into())),
                Ok(LineRead::Rest(_) | LineRead::End) | Err(_) => return Err(AskError::Gone),
            };
            match line.strip_prefix(b".") {
                None => body(&(printable(line) + "\n")),
                Some(stuffed) if stuffed.starts_with(b".") => body(&(printable(stuffed) + "\n")),
                Some(_) => {
                    let line = printable(line);
                    if let Some(why) = line.strip_prefix(". closed: ") {
                        return Err(AskError::Closed(why.to_owned()));
                    }
                    return Status::parse(&line).ok_or(AskError::Garbled(line));
                }
            }
        }
    }
}
