//! Instances that run as another user, of a program that every user may run.

use std::fmt::Display;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::{
    BALANCE, Directory, Finished, Instance, Run, Setup, copy_program, eventually, run_number, unique,
};

/// `nobody`, by number: no name has to be looked up for it.
pub(crate) const USER: u32 = 65_534;

/// How to start an instance with `--user`. Needs root.
pub(crate) struct Unprivileged {
    setup: Setup,
    program: PathBuf,
    user: String,
    before: String,
    through: String,
}

impl Unprivileged {
    /// Binds this address and becomes [`USER`].
    pub(crate) fn at(address: SocketAddr) -> Self {
        let setup = Setup::binding(address);
        let program = program_for_all(setup.directory());
        let user = format!("{USER}:{USER}");
        Self { setup, program, user, before: String::new(), through: String::new() }
    }

    /// Has this word for `--user`.
    pub(crate) fn user(self, user: &str) -> Self {
        Self { user: user.to_owned(), ..self }
    }

    /// Adds shell words before the program, such as `umask 022;`.
    pub(crate) fn before(self, words: &str) -> Self {
        Self { before: words.to_owned(), ..self }
    }

    /// Is run by this program, such as `setpriv --reuid=1`.
    pub(crate) fn through(self, program: &str) -> Self {
        Self { through: program.to_owned(), ..self }
    }

    /// Has a directory for control sockets in which every user can make files, as tmpfiles.d makes it: the
    /// user may not, and root believes no directory of another user.
    pub(crate) fn with_run_directory(self) -> Self {
        let run = self.directory().path().join("run");
        fs::create_dir(&run).expect("a new directory");
        set_mode(&run, 0o1777);
        self
    }

    /// The directory for the instance's files, into which every user may look.
    pub(crate) fn directory(&self) -> &Directory {
        self.setup.directory()
    }

    /// Starts `balance -f --user USER OPTIONS -b IP PORT CHANNEL`. Returns when it answers.
    #[track_caller]
    pub(crate) fn serve(self, options: &[&str], channel: &dyn Display) -> Instance {
        let (user, at, channel) = (self.user.clone(), self.setup.address(), channel.to_string());
        let (ip, port) = (at.ip().to_string(), at.port().to_string());
        self.start([&["--user", &user], options, &["-b", &ip, &port, &channel]].concat())
    }

    /// Starts `balance -f ARGS`. Returns when it answers.
    #[track_caller]
    pub(crate) fn start<S: ToString>(self, args: impl IntoIterator<Item = S>) -> Instance {
        let Self { setup, program, before, through, .. } = self;
        let run = format!("{before} exec {through} {} -f \"$@\";", program.display());
        let instance = setup.shell(&run).spawn(args);
        eventually("it answers", || (instance.ask("version").code == 0).then_some(()));
        instance
    }
}

impl Instance {
    /// Runs `balance -c COMMAND process.PID`: it is asked whatever it serves.
    pub(crate) fn ask(&self, command: &str) -> Finished {
        let process = format!("process.{}", self.pid());
        Run::balance(&self.directory).args(["-c", command, &process]).finish()
    }
}

/// A copy of the program in this directory, which is opened to all users.
pub(crate) fn program_for_all(directory: &Directory) -> PathBuf {
    let copy = directory.path().join("balance");
    copy_program(BALANCE, &copy);
    [directory.path(), &copy].into_iter().for_each(|path| set_mode(path, 0o755));
    copy
}

/// Makes a directory that [`USER`] can write.
pub(crate) fn own_directory(inside: &Directory, name: &str) -> PathBuf {
    let path = inside.path().join(name);
    fs::create_dir(&path).expect("a new directory");
    std::os::unix::fs::chown(&path, Some(USER), Some(USER)).expect("root may");
    path
}

pub(crate) fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("our own");
}

/// Lets every user read a file, or look into a directory.
pub(crate) fn open_to_all(path: &Path) {
    set_mode(path, if path.is_dir() { 0o755 } else { 0o644 });
}

/// A directory where no program expects to be able to write.
pub(crate) struct Elsewhere(pub(crate) PathBuf);

impl Elsewhere {
    pub(crate) fn new() -> Self {
        let path = Path::new("/srv").join(format!("balance-suite-{:08x}-{}", run_number(), unique()));
        fs::create_dir_all(&path).expect("root may");
        Self(path)
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Does this kernel have Landlock?
pub(crate) fn has_landlock() -> bool {
    let features = Run::new("python3")
        .args(["-c", "import ctypes;print(ctypes.CDLL(None).syscall(444,None,0,1))"])
        .finish()
        .stdout;
    features.trim().parse().is_ok_and(|version: i32| version > 0)
}
