//! Going to the background without leaving the caller in the dark.
//!
//! Knows: fork rules, descriptors 0-2 (what a process finds in its input that was started by the one before it, too), the pipe on which the instance tells its caller how the start went. Never: what
//! the sockets are for, where settings come from, exit codes' meaning.
//! Source: docs/compatibility.md, "Process".

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;

use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, chdir, fork, setsid};
use rustix::fs::{Mode, OFlags};
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};

/// `EX_OSERR` of sysexits: the start ended without a word.
const SYSTEM_FAILED: u8 = 71;

/// Which of the two processes a [`detach`] came back in.
#[derive(Debug)]
pub enum Detached {
    /// The one the operator started. It has nothing left to do but say this and exit.
    Caller(StartResult),
    /// The one in the background. It owes its caller a word.
    Instance(ReadyNotice),
}

/// How the start in the background went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartResult {
    /// The exit code; 0 means: it serves.
    pub code: u8,
    /// What to say on stderr; empty for nothing.
    pub message: String,
}

/// The instance's end of the line to its caller. Dropped without a word, the caller reports a start that died.
#[derive(Debug)]
pub struct ReadyNotice {
    pipe: File,
    null: File,
}

impl ReadyNotice {
    /// Everything is bound and running: the caller may exit 0. From here on stderr is `/dev/null`.
    ///
    /// # Errors
    /// stderr cannot be redirected. The caller has been told so; give up.
    pub fn serving(mut self) -> io::Result<()> {
        // Until now stderr was the caller's, so that a panic during the start could be read. It goes first: whoever
        // reads the caller's stderr to its end must not wait for us.
        if let Err(error) = dup2_stderr(&self.null) {
            let error = io::Error::from(error);
            self.tell(SYSTEM_FAILED, &format!("balance: cannot redirect stderr: {error}"));
            return Err(error);
        }
        self.tell(0, "");
        Ok(())
    }

    /// The start failed: the caller says `message` and exits with `code`.
    pub fn failed(mut self, code: u8, message: &str) {
        self.tell(code, message);
    }

    fn tell(&mut self, code: u8, message: &str) {
        // A caller that was killed meanwhile cannot be told anything, and a running instance does not mind.
        let _ = self.pipe.write_all(&[&[code], message.as_bytes()].concat());
    }
}

/// Forks into the background: new session, `/` as working directory, stdin and stdout on `/dev/null`; stderr follows at
/// [`ReadyNotice::serving`]. Bound sockets and the umask are inherited. Returns in both processes; in the caller's only when the
/// instance has given its verdict or died.
///
/// Call it before the first thread is started.
///
/// # Errors
/// The instance could not be forked. What fails later is a [`StartResult`].
pub fn detach() -> io::Result<Detached> {
    let (reader, writer) = io::pipe()?;
    let null = OpenOptions::new().read(true).write(true).open("/dev/null")?;
    // SAFETY: the caller keeps the promise above that no other thread runs yet, so the child is a whole process: no lock
    // is held by a thread that does not exist in it. Every descriptor is an `OwnedFd` that each side closes for itself.
    #[allow(unsafe_code)]
    let forked = unsafe { fork() }?;
    match forked {
        ForkResult::Parent { child } => {
            drop((writer, null));
            Ok(Detached::Caller(await_verdict(File::from(OwnedFd::from(reader)), child)))
        }
        ForkResult::Child => {
            drop(reader);
            Ok(Detached::Instance(settle(ReadyNotice { pipe: File::from(OwnedFd::from(writer)), null })))
        }
    }
}

/// The background's surroundings. None of these can fail on a sane system; if one does, the verdict says which.
fn settle(ready: ReadyNotice) -> ReadyNotice {
    let steps: [(&str, &dyn Fn() -> io::Result<()>); 4] = [
        ("start a session", &|| Ok(setsid().map(drop)?)),
        ("change to /", &|| Ok(chdir("/")?)),
        ("redirect stdin", &|| Ok(dup2_stdin(&ready.null)?)),
        ("redirect stdout", &|| Ok(dup2_stdout(&ready.null)?)),
    ];
    for (act, step) in steps {
        if let Err(error) = step() {
            // Served all the same: a working instance with an odd working directory is better than none. It is said where
            // stderr still leads.
            let _ = writeln!(io::stderr(), "balance: cannot {act}: {error}");
        }
    }
    ready
}

fn await_verdict(pipe: File, child: Pid) -> StartResult {
    read_verdict(pipe).unwrap_or_else(|| {
        let how = match waitpid(child, None) {
            Ok(WaitStatus::Exited(_, code)) => format!("exit code {code}"),
            Ok(WaitStatus::Signaled(_, signal, _)) => format!("signal {signal}"),
            Ok(status) => format!("{status:?}"),
            Err(error) => error.to_string(),
        };
        StartResult {
            code: SYSTEM_FAILED,
            message: format!("balance: the background process died while starting: {how}"),
        }
    })
}

/// `None`: the other side ended without a word.
fn read_verdict(mut pipe: impl Read) -> Option<StartResult> {
    let mut said = Vec::new();
    pipe.read_to_end(&mut said).ok()?;
    let (&code, message) = said.split_first()?;
    Some(StartResult { code, message: String::from_utf8_lossy(message).into_owned() })
}

/// Takes the input as a descriptor of ours, and puts `/dev/null` in its place.
///
/// # Errors
/// No descriptor for it, or it is no socket.
pub fn take_stdin() -> io::Result<OwnedFd> {
    let stdin = io::stdin();
    rustix::net::sockopt::socket_type(&stdin)?;
    let taken = rustix::io::fcntl_dupfd_cloexec(&stdin, 3)?;
    let null = rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::stdio::dup2_stdin(null)?;
    Ok(taken)
}

/// Is this the first process of a system or a container? Its end is the end of all others, so it must not go to the
/// background.
pub fn is_init() -> bool {
    std::process::id() == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ready() -> (File, ReadyNotice) {
        let (reader, writer) = io::pipe().expect("a pipe");
        let null = File::open("/dev/null").expect("/dev/null");
        (File::from(OwnedFd::from(reader)), ReadyNotice { pipe: File::from(OwnedFd::from(writer)), null })
    }

    #[test]
    fn a_failure_reaches_the_caller_with_code_and_message() {
        let (reader, ready) = ready();
        ready.failed(65, "unknown or invalid address [x]");
        let verdict = StartResult { code: 65, message: "unknown or invalid address [x]".into() };
        assert_eq!(read_verdict(reader), Some(verdict));
    }

    #[test]
    fn a_start_that_ends_without_a_word_has_no_verdict() {
        let (reader, ready) = ready();
        drop(ready);
        assert_eq!(read_verdict(reader), None);
    }

    #[test]
    fn a_caller_that_went_away_does_not_hurt() {
        let (reader, ready) = ready();
        drop(reader);
        ready.failed(71, "nobody hears this");
    }
}
