//! strace: shows which system calls a running instance makes, and makes them fail.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::{Instance, eventually};

/// strace on a running instance with all its threads, until it is dropped.
pub(crate) struct Tracer {
    child: Child,
    output: PathBuf,
}

impl Tracer {
    pub(crate) fn attach(instance: &Instance, expressions: &[&str]) -> Self {
        let output = instance.directory.path().join("strace");
        let mut command = Command::new("strace");
        command.args(["-f", "-qq", "-o"]).arg(&output);
        for expression in expressions {
            command.args(["-e", expression]);
        }
        command.args(["-p", &instance.pid().to_string()]).stdin(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().expect("strace: apt-get install strace");
        eventually("strace has all threads", || {
            let tasks = fs::read_dir(format!("/proc/{}/task", instance.pid())).ok()?;
            let is_traced = |status: String| !status.contains("TracerPid:\t0\n");
            tasks
                .flatten()
                .all(|task| fs::read_to_string(task.path().join("status")).is_ok_and(is_traced))
                .then_some(())
        });
        Self { child, output }
    }

    /// System calls within 300 ms, in the quietest of several windows. CPU time would show little, since a
    /// traced process mostly stands still.
    pub(crate) fn calls_when_quiet(&self) -> usize {
        let seen = || fs::read(&self.output).map_or(0, |text| text.iter().filter(|&&b| b == b'\n').count());
        let window = || {
            let before = seen();
            std::thread::sleep(Duration::from_millis(300));
            seen() - before
        };
        (0..5).map(|_| window()).min().unwrap_or(0)
    }

    /// The output so far.
    pub(crate) fn so_far(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.output).unwrap_or_default()).into_owned()
    }

    /// The complete output, after it has detached.
    pub(crate) fn detach(mut self) -> String {
        self.end();
        self.so_far()
    }

    fn end(&mut self) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).expect("a pid");
        // SIGTERM makes it detach from the traced process; SIGKILL would not always.
        let _ = kill_process(pid, Signal::TERM);
        let _ = self.child.wait();
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        self.end();
    }
}
