//! A program in a terminal of its own, with somebody who types.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::process::{Child, Command, ExitStatus};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};

use super::{BALANCE, DEADLINE, Directory, Instance, eventually, pause};

/// Our side of the terminal.
pub(crate) struct Terminal {
    keyboard: File,
    program: Child,
    /// The output so far.
    said: Arc<Mutex<Vec<u8>>>,
}

impl Terminal {
    /// The interactive shell of this instance.
    pub(crate) fn shell(instance: &Instance) -> Self {
        let at = [instance.addr.ip().to_string(), "-i".to_owned(), instance.port()];
        Self::of(&instance.directory, &["-b", &at[0], &at[1], &at[2]])
    }

    /// `balance` with these arguments and its files in this directory.
    pub(crate) fn of(directory: &Directory, args: &[&str]) -> Self {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let ours = openpt(flags).expect("a terminal");
        grantpt(&ours).expect("it is ours");
        unlockpt(&ours).expect("it is new");
        let theirs = File::from(ioctl_tiocgptpeer(&ours, flags).expect("the other side"));
        // No process is in between: what happens to the program is its own doing.
        let program = Command::new("setsid")
            .args(["--ctty", BALANCE])
            .args(args)
            .env("BALANCE_RUN_DIR", directory.path().join("run"))
            .env("HOME", directory.path())
            .env_remove("XDG_STATE_HOME")
            .env("TERM", "xterm")
            .stdin(theirs.try_clone().expect("a descriptor"))
            .stdout(theirs.try_clone().expect("a descriptor"))
            .stderr(theirs)
            .spawn()
            .expect("setsid: apt-get install util-linux");
        let keyboard = File::from(ours);
        let mut screen = keyboard.try_clone().expect("a descriptor");
        let said = Arc::default();
        let heard = Arc::clone(&said);
        // Reading fails with EIO when the program ends.
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            loop {
                match screen.read(&mut buffer) {
                    Ok(0) => return,
                    Ok(count) => lock(&heard).extend(buffer.get(..count).unwrap_or_default()),
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(_) => return,
                }
            }
        });
        Self { keyboard, program, said }
    }

    /// The output so far.
    pub(crate) fn said(&self) -> String {
        String::from_utf8_lossy(&lock(&self.said)).into_owned()
    }

    pub(crate) fn types(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).expect("a terminal takes what is typed");
    }

    /// Waits until the output contains `text`.
    #[track_caller]
    pub(crate) fn awaits(&self, text: &str) {
        let end = Instant::now() + DEADLINE;
        while !self.said().contains(text) {
            assert!(Instant::now() < end, "{text:?} is not in {:?}", self.said());
            pause();
        }
    }

    /// Types this until `fact` is true of the output: Ctrl-C discards what was typed around it. The program
    /// gets a moment each time, so that nothing piles up if it does not read.
    #[track_caller]
    pub(crate) fn types_until(&mut self, keys: &str, fact: impl Fn(&str) -> bool) {
        let end = Instant::now() + DEADLINE;
        loop {
            self.types(keys);
            let moment = Instant::now() + Duration::from_millis(300);
            while Instant::now() < moment {
                if fact(&self.said()) {
                    return;
                }
                pause();
            }
            assert!(Instant::now() < end, "{keys:?} does not help: {:?}", self.said());
        }
    }

    /// Waits until the program has ended by itself.
    pub(crate) fn ends(&mut self) -> ExitStatus {
        let program = &mut self.program;
        eventually("it was left", || program.try_wait().expect("our own child"))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.program.kill();
        let _ = self.program.wait();
    }
}

fn lock(said: &Mutex<Vec<u8>>) -> std::sync::MutexGuard<'_, Vec<u8>> {
    said.lock().unwrap_or_else(PoisonError::into_inner)
}
