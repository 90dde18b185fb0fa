//! Runs a command to its end, with a deadline.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::{BALANCE, DEADLINE, Directory, pause};

/// A command to run.
pub(crate) struct Run {
    command: Command,
    stdin: Vec<u8>,
    deadline: Duration,
}

/// How a command ended, and its output.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) command: String,
    /// The exit code, or 128 + the signal as in a shell.
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Run {
    /// Any program.
    pub(crate) fn new(program: impl AsRef<OsStr>) -> Self {
        Self { command: Command::new(program), stdin: Vec::new(), deadline: DEADLINE }
    }

    /// `balance` with its control socket in this directory.
    pub(crate) fn balance(directory: &Directory) -> Self {
        let mut run = Self::new(BALANCE);
        run.environment(directory);
        run
    }

    /// A shell script that finds the program under test first in its PATH.
    pub(crate) fn script(directory: &Directory, script: &str) -> Self {
        let mut run = Self::new("sh");
        run.environment(directory);
        let own = std::path::Path::new(BALANCE).parent().expect("the program is in a directory");
        let path = format!("{}:{}:/usr/sbin:/sbin", own.display(), std::env::var("PATH").unwrap_or_default());
        run.command.env("PATH", path).arg("-ec").arg(script);
        run
    }

    fn environment(&mut self, directory: &Directory) {
        isolate(&mut self.command, directory);
    }

    pub(crate) fn env(mut self, key: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(key, value);
        self
    }

    pub(crate) fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    pub(crate) fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.command.args(args);
        self
    }

    pub(crate) fn stdin(mut self, bytes: impl AsRef<[u8]>) -> Self {
        self.stdin = bytes.as_ref().to_vec();
        self
    }

    /// Sets a longer deadline, for programs that take some time.
    pub(crate) fn within(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Runs it. stdin, stdout and stderr are files: processes that it leaves running cannot keep us waiting,
    /// and our reading cannot make it wait.
    #[track_caller]
    pub(crate) fn finish(mut self) -> Finished {
        let directory = Directory::new();
        let file = |name: &str| {
            let path = directory.path().join(name);
            File::options()
                .create(true)
                .truncate(true)
                .read(true)
                .write(true)
                .open(path)
                .expect("a file of our own")
        };
        let (mut stdin, stdout, stderr) = (file("stdin"), file("stdout"), file("stderr"));
        stdin.write_all(&self.stdin).expect("write to a file");
        stdin.rewind().expect("rewind a file");
        let command = format!("{:?}", self.command);
        self.command.stdin(stdin);
        self.command.stdout(Stdio::from(stdout.try_clone().expect("a descriptor")));
        self.command.stderr(Stdio::from(stderr.try_clone().expect("a descriptor")));
        let mut child = self.command.spawn().unwrap_or_else(|e| panic!("cannot run {command}: {e}"));
        let end = Instant::now() + self.deadline;
        let status = loop {
            match child.try_wait().expect("our own child") {
                Some(status) => break Some(status),
                None if Instant::now() > end => break None,
                None => pause(),
            }
        };
        if status.is_none() {
            let _ = child.kill();
            let _ = child.wait();
        }
        let (stdout, stderr) = (text(stdout), text(stderr));
        let Some(status) = status else {
            panic!("{command} did not end within {:?}\nstdout: {stdout}\nstderr: {stderr}", self.deadline)
        };
        let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
        let finished = Finished { command, code, stdout, stderr };
        assert!(![101, 134, 139].contains(&code), "it crashed: {finished}");
        assert!(!finished.stderr.contains("panicked"), "it panicked: {finished}");
        finished
    }
}

/// Sets the environment of every program in a test: directories of its own, no locale, and no inherited
/// variables that affect balance.
pub(crate) fn isolate(command: &mut Command, directory: &Directory) {
    for key in ["LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "NOTIFY_SOCKET"] {
        command.env_remove(key);
    }
    command.env("BALANCE_RUN_DIR", directory.path().join("run"));
    command.env("XDG_RUNTIME_DIR", directory.path());
    command.env("HOME", directory.path());
    command.env("LC_ALL", "C");
}

fn text(mut file: File) -> String {
    let mut bytes = Vec::new();
    file.rewind().expect("rewind a file");
    file.read_to_end(&mut bytes).expect("read a file of our own");
    String::from_utf8_lossy(&bytes).into_owned()
}

impl Finished {
    /// Asserts the exit code.
    #[track_caller]
    pub(crate) fn code(self, code: i32) -> Self {
        assert_eq!(self.code, code, "exit code of {self}");
        self
    }

    /// Asserts that stdout is exactly this.
    #[track_caller]
    pub(crate) fn out(self, stdout: &str) -> Self {
        assert_eq!(self.stdout, stdout, "stdout of {self}");
        self
    }

    /// Asserts that stderr contains this.
    #[track_caller]
    pub(crate) fn err(self, part: &str) -> Self {
        assert!(self.stderr.contains(part), "no {part:?} on stderr of {self}");
        self
    }
}

impl std::fmt::Display for Finished {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { command, code, stdout, stderr } = self;
        write!(f, "{command}\nexit code {code}\n--- stdout\n{stdout}\n--- stderr\n{stderr}\n---")
    }
}
