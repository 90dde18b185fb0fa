//! Goes to the background, and tells the caller how the start went.
//!
//! Knows: fork rules, descriptors 0-2 (including what a predecessor passes as standard input), the pipe by
//! which the instance tells its caller how the start went. Never: what the sockets are for, where settings
//! come from, what exit codes mean.
//! Source: docs/compatibility.md, "Process".

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;

use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, chdir, fork, getppid, getsid, setsid};
use rustix::fs::{Mode, OFlags};
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};

/// `EX_OSERR` of sysexits: the start ended without a message.
const SYSTEM_FAILED: u8 = 71;

/// The process in which [`detach`] returned.
#[derive(Debug)]
pub enum Detached {
    /// The process that the operator started. All it has to do is print this and exit.
    Caller(StartResult),
    /// The process in the background. It has to tell its caller how the start went.
    Instance(ReadyNotice),
}

/// How the start in the background went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartResult {
    /// The exit code; 0 means that it serves.
    pub code: u8,
    /// What to print on stderr; empty for nothing.
    pub message: String,
}

/// The instance's end of the pipe to its caller. If it is dropped without a message, the caller reports that
/// the start died.
#[derive(Debug)]
pub struct ReadyNotice {
    pipe: File,
    null: File,
}

impl ReadyNotice {
    /// Everything is bound and running: the caller exits with 0. From here on stderr is `/dev/null`.
    ///
    /// # Errors
    /// stderr cannot be redirected. The caller has been told, and the instance must end.
    pub fn serving(mut self) -> io::Result<()> {
        // Until now stderr was the caller's, so that a panic during the start could be read. It is redirected
        // first, so that a program that reads the caller's stderr to its end need not wait for this process.
        if let Err(error) = dup2_stderr(&self.null) {
            let error = io::Error::from(error);
            self.tell(SYSTEM_FAILED, &format!("balance: cannot redirect stderr: {error}"));
            return Err(error);
        }
        self.tell(0, "");
        Ok(())
    }

    /// The start failed: the caller prints `message` and exits with `code`.
    pub fn failed(mut self, code: u8, message: &str) {
        self.tell(code, message);
    }

    fn tell(&mut self, code: u8, message: &str) {
        // The caller may have been killed meanwhile; the instance runs on all the same.
        let _ = self.pipe.write_all(&[&[code], message.as_bytes()].concat());
    }
}

/// Forks into the background: a new session, `/` as working directory, stdin and stdout on `/dev/null`;
/// stderr follows at [`ReadyNotice::serving`]. Bound sockets and the umask are inherited. Returns in both
/// processes; in the caller only after the instance has reported how its start went, or died.
///
/// Call it before the first thread is started.
///
/// # Errors
/// The instance could not be forked. Later failures are in [`StartResult`].
pub fn detach() -> io::Result<Detached> {
    let at = |what: &'static str| move |e: io::Error| io::Error::new(e.kind(), format!("{what}: {e}"));
    let (reader, writer) = io::pipe().map_err(at("pipe"))?;
    let null = OpenOptions::new().read(true).write(true).open("/dev/null");
    let null = null.map_err(at("balance needs /dev/null to run in the background"))?;
    // SAFETY: no other thread runs yet, as the function's documentation demands, so the child is a complete
    // process: no lock is held by a thread that does not exist in it. Every descriptor is an `OwnedFd` that
    // each side closes for itself.
    #[allow(unsafe_code)]
    let forked = unsafe { fork() }.map_err(|e| at("fork()")(e.into()))?;
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

/// Sets up the background process. None of these steps fails on a working system; if one does, the message
/// says which.
fn settle(ready: ReadyNotice) -> ReadyNotice {
    let steps: [(&str, &dyn Fn() -> io::Result<()>); 4] = [
        ("start a session", &|| Ok(setsid().map(drop)?)),
        ("change to /", &|| Ok(chdir("/")?)),
        ("redirect stdin", &|| Ok(dup2_stdin(&ready.null)?)),
        ("redirect stdout", &|| Ok(dup2_stdout(&ready.null)?)),
    ];
    for (act, step) in steps {
        if let Err(error) = step() {
            // It serves all the same: a working instance with an odd working directory is better than none.
            // The message is printed while stderr is still the caller's.
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

/// Reads the message of the instance. `None`: it ended without one.
fn read_verdict(mut pipe: impl Read) -> Option<StartResult> {
    let mut said = Vec::new();
    pipe.read_to_end(&mut said).ok()?;
    let (&code, message) = said.split_first()?;
    Some(StartResult { code, message: String::from_utf8_lossy(message).into_owned() })
}

/// Takes standard input as a descriptor of our own and puts `/dev/null` in its place.
///
/// # Errors
/// It is not a socket, or there is no descriptor for it.
pub fn take_stdin() -> io::Result<OwnedFd> {
    let stdin = io::stdin();
    rustix::net::sockopt::socket_type(&stdin)?;
    let taken = rustix::io::fcntl_dupfd_cloexec(&stdin, 3)?;
    let null = rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::stdio::dup2_stdin(null)?;
    Ok(taken)
}

/// Is this the first process (PID 1) of a system or a container? Its end ends all others, so it must not go
/// to the background.
pub fn is_init() -> bool {
    std::process::id() == 1
}

/// Small programs that run as the first process of a container, start one program, and end when it ends.
const SMALL_INITS: [&str; 6] =
    ["tini", "tini-static", "docker-init", "dumb-init", "catatonit", "podman-init"];

/// Is our parent the first process of a container, and does it end with us? Its name, if so. `argv` is our
/// command line as it was given.
pub fn init_that_ends_with_us(argv: &[OsString]) -> Option<String> {
    if getppid().as_raw() != 1 {
        return None;
    }
    let name = fs::read_to_string("/proc/1/comm").ok()?.trim_end().to_owned();
    let line = fs::read("/proc/1/cmdline").ok()?;
    let line: Vec<&[u8]> = line.strip_suffix(b"\0").unwrap_or(&line).split(|&byte| byte == 0).collect();
    let argv: Vec<&[u8]> = argv.iter().map(|word| word.as_bytes()).collect();
    // A process in the background has a session of its own, and has come to this parent when another one ended.
    // Not rustix: a session whose leader is outside the container is 0, which is no process for it.
    let has_its_session = getsid(None).ok() == getsid(Some(Pid::from_raw(1))).ok();
    ends_with_child(&name, &line, &argv, has_its_session).then_some(name)
}

/// Does the first process end when its child does? `argv` is that of the child.
fn ends_with_child(name: &str, line: &[&[u8]], argv: &[&[u8]], has_its_session: bool) -> bool {
    let has_started_it = !argv.is_empty() && line.len() > argv.len() && line.ends_with(argv);
    has_started_it || has_its_session && SMALL_INITS.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_init_is_told_by_its_command_line_or_its_name() {
        let argv: [&[u8]; 3] = [b"balance", b"-f", b"80"];
        let with = |before: &[&'static [u8]]| -> Vec<&'static [u8]> { [before, &argv].concat() };
        for (ends, name, line, has_its_session) in [
            (true, "an-init", with(&[b"/an-init", b"--"]), false),
            (true, "tini", vec![&b"/tini"[..], b"--", b"/entry.sh"], true),
            // In the background, with a session of its own.
            (false, "tini", vec![&b"/tini"[..], b"--", b"/entry.sh"], false),
            (false, "systemd", vec![&b"/sbin/init"[..]], true),
            (false, "bash", vec![&b"bash"[..]], true),
            (false, "balance", with(&[]), false),
        ] {
            assert_eq!(ends_with_child(name, &line, &argv, has_its_session), ends, "{name}");
        }
        assert!(!ends_with_child("init", &[b"init"], &[], false));
    }

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
