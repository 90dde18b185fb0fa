//! The file of `--state`: read once, replaced as a whole, renamed if it is bad, and locked for one instance.
//!
//! Knows: names in a directory, locks, what must be on disk before what. Never: what the text means, when it
//! is written.
//! Source: docs/state.md, "The file".
//!
//! Links are never followed, and the directory is opened anew each time, since it may be another one by now.
//! The instance that writes FILE locks `FILE.lock`, because FILE itself is replaced at each write.

use std::collections::hash_map::RandomState;
use std::fs::{self, File};
use std::hash::BuildHasher;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, FileType, FlockOperation, Mode, OFlags, flock};
use rustix::io::Errno;

use super::denied::{self, FileUse};
use super::state::KeptState;

/// Maximum size of a file in bytes, enough for half a million changes.
const LARGEST: u64 = 64 << 20;
/// The pause between two attempts to lock.
const RETRY: Duration = Duration::from_millis(5);
/// Mode of the file: it names servers, so only its owner may read it.
const PRIVATE: Mode = Mode::RUSR.union(Mode::WUSR);
/// Stands in a temporary name between the name and the random part.
const TEMPORARY: &str = ".tmp-";
/// A symbolic link, in messages.
const SYMLINK: &str = "a symbolic link";
/// Number of hexadecimal digits of the random part.
const DIGITS: usize = 16;

/// Identifies the file that a name meant at some time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Inode {
    device: u64,
    number: u64,
}

/// The state file, and whether we may write it.
#[derive(Debug)]
pub(super) struct StateFile {
    directory: PathBuf,
    name: String,
    lock: Option<OwnedFd>,
    /// Whether there may be a file that nobody has read. It is renamed instead of replaced.
    is_unread: bool,
    /// The file that was written or read last.
    known: Option<Inode>,
}

/// Why the file cannot be written.
#[derive(Debug, thiserror::Error)]
pub(super) enum StateFileError {
    /// Another instance writes it.
    #[error("another instance keeps its state there and has locked {}", .0.display())]
    Busy(PathBuf),
    /// There is something that is not a regular file; it is left as it is.
    #[error("it is {kind}, not a file{advice}", kind = .0, advice = if *.0 == SYMLINK { "; name the file itself" } else { "" })]
    NoFile(&'static str),
    /// The path has no file name.
    #[error("it names no file")]
    NoName,
    /// A system call failed.
    #[error("{act}: {source}")]
    Io {
        /// What the call was for, with the path.
        act: String,
        source: io::Error,
    },
}

fn failed(act: impl Into<String>) -> impl FnOnce(Errno) -> StateFileError {
    move |errno| StateFileError::Io { act: act.into(), source: errno.into() }
}

/// What a start finds in place of the state file.
#[derive(Debug)]
pub(super) enum StoredState {
    /// There is no file yet.
    Nothing,
    /// A valid file, and its text.
    State(KeptState, String),
    /// A file that cannot be used: why, and where it is now.
    Bad(String),
}

impl StateFile {
    /// A state file at this path; nothing is opened yet. `directory`: the one that the path is relative to.
    ///
    /// # Errors
    /// `NoName`.
    pub(super) fn at(path: &Path, directory: &Path) -> Result<Self, StateFileError> {
        let path = directory.join(path);
        let is_directory = path.as_os_str().as_encoded_bytes().ends_with(b"/");
        let name = path.file_name().and_then(|name| name.to_str()).filter(|_| !is_directory);
        let (Some(name), Some(parent)) = (name, path.parent()) else { return Err(StateFileError::NoName) };
        let (directory, name) = (parent.to_owned(), name.to_owned());
        Ok(Self { directory, name, lock: None, is_unread: true, known: None })
    }

    pub(super) fn path(&self) -> PathBuf {
        self.directory.join(&self.name)
    }

    fn beside(&self, end: &str) -> String {
        format!("{}{end}", self.name)
    }

    /// Locks and reads the file. A file that cannot be used is renamed to `FILE.bad`. Waits for at most
    /// `patience` for an instance that is about to end.
    ///
    /// # Errors
    /// Another instance uses the file, or it cannot be locked or read. Then it is unchanged.
    pub(super) fn take(&mut self, patience: Duration) -> Result<StoredState, StateFileError> {
        let directory = self.open_directory()?;
        let end = Instant::now() + patience;
        loop {
            match self.lock(&directory) {
                Err(StateFileError::Busy(_)) if Instant::now() < end => thread::sleep(RETRY),
                result => break result?,
            }
        }
        self.sweep(&directory);
        let why = match self.read(&directory) {
            Ok(None) => {
                self.is_unread = false;
                return Ok(StoredState::Nothing);
            }
            Ok(Some(bytes)) => match (KeptState::parse(&bytes), String::from_utf8(bytes)) {
                (Ok(state), Ok(text)) => {
                    self.is_unread = false;
                    return Ok(StoredState::State(state, text));
                }
                (Err(bad), _) => bad.to_string(),
                (_, Err(_)) => "it is not text".to_owned(),
            },
            Err(Unreadable::NoFile(kind)) => return Err(StateFileError::NoFile(kind)),
            Err(Unreadable::Because(why)) => why,
        };
        let bad = self.set_aside(&directory)?;
        Ok(StoredState::Bad(format!("{why}; it is now {}", bad.display())))
    }

    /// Locks the file of the predecessor. Its contents are not needed, since this process knows them, unless
    /// another program has written it.
    ///
    /// # Errors
    /// `Busy`: the predecessor still uses it. Else as for [`take`](Self::take).
    pub(super) fn inherit(&mut self) -> Result<(), StateFileError> {
        let directory = self.open_directory()?;
        self.lock(&directory)?;
        self.sweep(&directory);
        self.is_unread = match self.read(&directory) {
            Ok(Some(bytes)) => KeptState::parse(&bytes).is_err(),
            Ok(None) => false,
            Err(_) => true,
        };
        Ok(())
    }

    /// Reads the file without locking it. `None`: there is nothing that can be used.
    pub(super) fn peek(&self) -> Option<KeptState> {
        let bytes = self.look_at(&self.open_directory().ok()?).ok()??;
        KeptState::parse(&bytes).ok()
    }

    /// Why the file could not be used; changes nothing. `None`: it could.
    pub(super) fn why_not(&self) -> Option<String> {
        let directory = match self.open_directory() {
            Ok(directory) => directory,
            Err(error) => return Some(error.to_string()),
        };
        let access = rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK;
        if let Err(errno) = rustix::fs::accessat(&directory, ".", access, AtFlags::EACCESS) {
            let path = self.directory.display();
            return Some(format!("cannot write in {path}: {}", io::Error::from(errno)));
        }
        match self.look_at(&directory) {
            Ok(None) => None,
            Ok(Some(bytes)) => KeptState::parse(&bytes).err().map(|bad| {
                format!("{bad}; a start renames it to {} and goes on without it", self.beside(".bad"))
            }),
            Err(Unreadable::NoFile(kind)) => Some(StateFileError::NoFile(kind).to_string()),
            Err(Unreadable::Because(why)) => Some(why),
        }
    }

    /// Replaces the file with this text. When this returns without an error, the text survives even a power
    /// failure; before that, the old file does. Returns a message about a file that nobody had read.
    ///
    /// # Errors
    /// The file could not be written, or must not be.
    pub(super) fn write(&mut self, text: &str) -> Result<Option<String>, StateFileError> {
        let directory = self.open_directory()?;
        if !self.is_locked(&directory) {
            self.lock = None;
            self.lock(&directory)?;
            // Another instance may have used it meanwhile.
            self.is_unread |= self.inode(&directory, &self.name) != self.known;
        }
        let kind = match rustix::fs::statat(&directory, self.name.as_str(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Some(FileType::from_raw_mode(stat.st_mode)),
            Err(Errno::NOENT) => None,
            Err(errno) => return Err(failed("look at it")(errno)),
        };
        if let Some(kind) = kind.and_then(no_file) {
            return Err(StateFileError::NoFile(kind));
        }
        let mut told = None;
        if self.is_unread && kind.is_some() {
            let bad = self.set_aside(&directory)?;
            told = Some(format!("what was there had not been read, and is now {}", bad.display()));
        }
        self.is_unread = false;
        let temporary = format!("{}{TEMPORARY}{:0DIGITS$x}", self.name, random());
        let written = self.write_temporary(&directory, &temporary, text).and_then(|inode| {
            rustix::fs::renameat(&directory, temporary.as_str(), &directory, self.name.as_str())
                .map_err(failed("rename the new file"))?;
            Ok(inode)
        });
        match written {
            Ok(inode) => self.known = Some(inode),
            Err(error) => {
                let _ = rustix::fs::unlinkat(&directory, temporary.as_str(), AtFlags::empty());
                return Err(error);
            }
        }
        // Only after this is it certain that the new name survives a power failure.
        rustix::fs::fsync(&directory).map_err(failed("write the directory to disk"))?;
        Ok(told)
    }

    /// Is the file that was written or read last still there?
    pub(super) fn is_there(&self) -> bool {
        let Ok(directory) = self.open_directory() else { return false };
        self.known.is_some() && self.inode(&directory, &self.name) == self.known
    }

    /// Releases the file for another instance. Dropping does not release it: when a process goes to the
    /// background, the parent drops its copy, and the lock belongs to the child.
    pub(super) fn release(&mut self) {
        if let Some(lock) = self.lock.take() {
            // A child that has not yet executed its program may have a copy of the descriptor, so closing
            // ours is not enough.
            let _ = flock(&lock, FlockOperation::Unlock);
        }
    }

    /// The error with the reason why the system refuses the file, as far as that can be found.
    pub(super) fn told(&self, error: &StateFileError) -> String {
        let StateFileError::Io { source, .. } = error else { return error.to_string() };
        let lock = self.directory.join(self.beside(".lock"));
        let mut why = denied::reason(source, &self.path(), FileUse::Replace);
        if why.as_deref().is_none_or(denied::is_fenced) && lock.exists() {
            why = denied::reason(source, &lock, FileUse::Write);
        }
        why.map_or_else(|| error.to_string(), |why| format!("{error} ({why})"))
    }

    fn open_directory(&self) -> Result<OwnedFd, StateFileError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::open(&self.directory, flags, Mode::empty())
            .map_err(failed(format!("open the directory {}", self.directory.display())))
    }

    fn write_temporary(&self, directory: &OwnedFd, name: &str, text: &str) -> Result<Inode, StateFileError> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(directory, name, flags, PRIVATE).map_err(failed("make a new file"))?;
        // The umask may have taken away what the next start needs.
        let _ = rustix::fs::fchmod(&fd, PRIVATE);
        let mut file = File::from(fd);
        let io = |source| StateFileError::Io { act: "write the new file".into(), source };
        file.write_all(text.as_bytes()).map_err(io)?;
        file.sync_all().map_err(io)?;
        inode_of(&rustix::fs::fstat(&file)).ok_or_else(|| failed("look at the new file")(Errno::BADF))
    }

    fn lock(&mut self, directory: &OwnedFd) -> Result<(), StateFileError> {
        let name = self.beside(".lock");
        let path = self.directory.join(&name);
        let act = || format!("lock {}", path.display());
        // Without NONBLOCK, opening a fifo would wait.
        let flags = OFlags::RDWR
            | OFlags::CREATE
            | OFlags::NOFOLLOW
            | OFlags::NONBLOCK
            | OFlags::NOCTTY
            | OFlags::CLOEXEC;
        let lock = rustix::fs::openat(directory, name.as_str(), flags, PRIVATE).map_err(failed(act()))?;
        let stat = rustix::fs::fstat(&lock).map_err(failed(act()))?;
        if let Some(kind) = no_file(FileType::from_raw_mode(stat.st_mode)) {
            return Err(StateFileError::Io { act: act(), source: io::Error::other(format!("it is {kind}")) });
        }
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(StateFileError::Busy(path)),
            Err(errno) => return Err(failed(act())(errno)),
        }
        // A strange umask must not keep the next instance out.
        let mode = Mode::from_raw_mode(stat.st_mode);
        if !mode.contains(PRIVATE) && stat.st_uid == rustix::process::geteuid().as_raw() {
            let _ = rustix::fs::fchmod(&lock, mode | PRIVATE);
        }
        self.lock = Some(lock);
        if self.is_locked(directory) {
            return Ok(());
        }
        // The lock file was replaced since it was opened, so our lock does not count.
        self.lock = None;
        Err(StateFileError::Busy(path))
    }

    /// Do we hold the lock that others would see?
    fn is_locked(&self, directory: &OwnedFd) -> bool {
        let ours = self.lock.as_ref().and_then(|lock| inode_of(&rustix::fs::fstat(lock)));
        ours.is_some() && ours == self.inode(directory, &self.beside(".lock"))
    }

    fn inode(&self, directory: &OwnedFd, name: &str) -> Option<Inode> {
        inode_of(&rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW))
    }

    /// Reads the file; `None`: there is none.
    fn read(&mut self, directory: &OwnedFd) -> Result<Option<Vec<u8>>, Unreadable> {
        let bytes = self.look_at(directory)?;
        self.known = bytes.as_ref().and_then(|_| self.inode(directory, &self.name));
        Ok(bytes)
    }

    fn look_at(&self, directory: &OwnedFd) -> Result<Option<Vec<u8>>, Unreadable> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::NOCTTY | OFlags::CLOEXEC;
        let name = self.name.as_str();
        let stat = match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(Unreadable::because(errno)),
        };
        // This is checked before opening, because opening a device may have an effect.
        if let Some(kind) = no_file(FileType::from_raw_mode(stat.st_mode)) {
            return Err(Unreadable::NoFile(kind));
        }
        let fd = rustix::fs::openat(directory, name, flags, Mode::empty()).map_err(Unreadable::because)?;
        let stat = rustix::fs::fstat(&fd).map_err(Unreadable::because)?;
        if let Some(kind) = no_file(FileType::from_raw_mode(stat.st_mode)) {
            return Err(Unreadable::NoFile(kind));
        }
        let others = Mode::WGRP | Mode::WOTH;
        let is_shared = rustix::fs::fstat(directory)
            .is_ok_and(|stat| Mode::from_raw_mode(stat.st_mode).intersects(others));
        let is_trusted = [0, rustix::process::geteuid().as_raw()].contains(&stat.st_uid);
        if is_shared && !is_trusted {
            // In such a directory every user could have put it there, and it decides where clients go.
            let why = format!(
                "it belongs to another user (uid {}), in a directory that others can write",
                stat.st_uid
            );
            return Err(Unreadable::Because(why));
        }
        let mut bytes = Vec::new();
        let read = File::from(fd).take(LARGEST + 1).read_to_end(&mut bytes);
        read.map_err(|e| Unreadable::Because(format!("it cannot be read: {e}")))?;
        if bytes.len() as u64 > LARGEST {
            return Err(Unreadable::Because(format!("it is larger than {} MiB", LARGEST >> 20)));
        }
        Ok(Some(bytes))
    }

    /// Renames the file to `FILE.bad`, replacing an older one.
    fn set_aside(&mut self, directory: &OwnedFd) -> Result<PathBuf, StateFileError> {
        let bad = self.beside(".bad");
        rustix::fs::renameat(directory, self.name.as_str(), directory, bad.as_str())
            .map_err(failed(format!("set it aside as {}", self.directory.join(&bad).display())))?;
        (self.known, self.is_unread) = (None, false);
        Ok(self.directory.join(bad))
    }

    /// Removes temporary files of instances that were killed while they wrote. We hold the lock, so nobody is
    /// writing now.
    fn sweep(&self, directory: &OwnedFd) {
        let Ok(entries) = fs::read_dir(&self.directory) else { return };
        let begin = self.beside(TEMPORARY);
        for name in entries.flatten().map(|entry| entry.file_name()) {
            let Some(name) = name.to_str() else { continue };
            let is_ours = name.strip_prefix(&begin).is_some_and(|rest| {
                rest.len() == DIGITS && rest.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
            });
            if is_ours {
                let _ = rustix::fs::unlinkat(directory, name, AtFlags::empty());
            }
        }
    }
}

/// Why the file could not be read.
enum Unreadable {
    NoFile(&'static str),
    Because(String),
}

impl Unreadable {
    fn because(errno: Errno) -> Self {
        Self::Because(format!("it cannot be opened: {}", io::Error::from(errno)))
    }
}

/// What it is, in words; `None`: a regular file.
fn no_file(kind: FileType) -> Option<&'static str> {
    Some(match kind {
        FileType::RegularFile => return None,
        FileType::Directory => "a directory",
        FileType::Symlink => SYMLINK,
        FileType::Fifo => "a fifo",
        FileType::Socket => "a socket",
        FileType::CharacterDevice | FileType::BlockDevice => "a device",
        _ => "something else",
    })
}

fn inode_of(stat: &rustix::io::Result<rustix::fs::Stat>) -> Option<Inode> {
    #[allow(clippy::unnecessary_cast, reason = "the types differ between systems")]
    stat.as_ref().ok().map(|stat| Inode { device: stat.st_dev as u64, number: stat.st_ino as u64 })
}

fn random() -> u64 {
    RandomState::new().hash_one(std::process::id())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    struct Place(PathBuf);

    impl Place {
        fn new() -> Self {
            let path = std::env::temp_dir().join(format!("balance-state-{:x}", random()));
            fs::create_dir_all(&path).expect("a temporary directory");
            Self(path)
        }

        fn file(&self) -> StateFile {
            StateFile::at(Path::new("s"), &self.0).expect("it has a name")
        }

        fn text(&self, name: &str) -> Option<String> {
            fs::read_to_string(self.0.join(name)).ok()
        }

        fn names(&self) -> Vec<String> {
            let names = fs::read_dir(&self.0).expect("it is there").flatten();
            let mut names: Vec<_> = names.map(|one| one.file_name().to_string_lossy().into_owned()).collect();
            names.sort();
            names
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn empty() -> String {
        KeptState::default().print()
    }

    #[test]
    fn what_is_written_is_found_again_and_nothing_else_is_left() {
        let place = Place::new();
        let mut file = place.file();
        assert!(matches!(file.take(Duration::ZERO), Ok(StoredState::Nothing)));
        assert!(!file.is_there());
        file.write("old").expect("it is written");
        file.write(&empty()).expect("it is replaced");
        assert!(file.is_there());
        assert_eq!(place.names(), ["s", "s.lock"]);
        let mode = fs::metadata(place.0.join("s")).expect("it is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        file.release();
        assert!(
            matches!(place.file().take(Duration::ZERO), Ok(StoredState::State(_, text)) if text == empty())
        );
    }

    #[test]
    fn what_a_killed_instance_left_is_swept_and_what_is_not_ours_is_not() {
        let place = Place::new();
        let names = ["s.tmp-0123456789abcdef", "s.tmp-0123456789abcdeg", "s.tmp-1", "t.tmp-0123456789abcdef"];
        names.iter().for_each(|name| fs::write(place.0.join(name), "x").expect("a file"));
        place.file().take(Duration::ZERO).expect("it is taken");
        assert_eq!(place.names(), ["s.lock", names[1], names[2], names[3]].map(String::from));
    }

    #[test]
    fn one_instance_at_a_time_has_it() {
        let place = Place::new();
        let mut first = place.file();
        first.take(Duration::ZERO).expect("it is free");
        let mut second = place.file();
        assert!(matches!(second.take(Duration::from_millis(1)), Err(StateFileError::Busy(_))));
        assert!(matches!(second.write("mine"), Err(StateFileError::Busy(_))));
        first.write(&empty()).expect("it is ours");
        let waits = thread::spawn(move || second.take(Duration::from_secs(30)).map(|found| (found, second)));
        first.release();
        let (found, mut second) = waits.join().expect("no panic").expect("it is free");
        assert!(matches!(found, StoredState::State(..)));
        // The file of the lock is removed, and with it the lock.
        fs::remove_file(place.0.join("s.lock")).expect("it was there");
        let mut third = place.file();
        third.take(Duration::ZERO).expect("it is free");
        third.write("theirs").expect("it is theirs");
        assert!(matches!(second.write("ours"), Err(StateFileError::Busy(_))));
        third.release();
        let told = second.write("ours").expect("it is ours again").expect("there was another's");
        assert!(told.contains("s.bad"), "{told}");
        assert_eq!(
            (place.text("s").as_deref(), place.text("s.bad").as_deref()),
            (Some("ours"), Some("theirs"))
        );
    }

    #[test]
    fn what_is_bad_is_set_aside_with_the_reason() {
        let place = Place::new();
        let torn = &empty()[..20];
        let table: [(&[u8], &str); 5] = [
            (b"", "not a state file"),
            (b"\xff\xfe", "not a state file"),
            (torn.as_bytes(), "damaged or incomplete"),
            (b"balance-state 2\nx\n", "format 2"),
            (b"balance-state 1\n\xff\n", "damaged or incomplete"),
        ];
        for (bytes, why) in table {
            fs::write(place.0.join("s"), bytes).expect("a file");
            let mut file = place.file();
            match file.take(Duration::ZERO) {
                Ok(StoredState::Bad(told)) => assert!(told.contains(why) && told.contains("s.bad"), "{told}"),
                other => panic!("{other:?}"),
            }
            assert_eq!(fs::read(place.0.join("s.bad")).expect("it is there"), bytes);
            assert!(!place.0.join("s").exists());
            file.write(&empty()).expect("it goes on");
            assert!(file.why_not().is_none());
        }
    }

    #[test]
    fn what_is_no_file_is_left_alone() {
        let place = Place::new();
        let path = place.0.join("s");
        let make: [(&str, &dyn Fn()); 3] = [
            ("a directory", &|| fs::create_dir(&path).expect("a directory")),
            ("a symbolic link", &|| symlink("elsewhere", &path).expect("a link")),
            ("a fifo", &|| {
                let kind = nix::sys::stat::Mode::S_IRUSR;
                nix::unistd::mkfifo(&path, kind).expect("a fifo");
            }),
        ];
        for (kind, make) in make {
            make();
            let mut file = place.file();
            for told in [file.take(Duration::ZERO).map(drop), file.write("x").map(drop)] {
                let told = told.expect_err("it is no file").to_string();
                assert!(told.contains(kind), "{told}");
            }
            assert!(file.why_not().is_some_and(|why| why.contains(kind)));
            assert_eq!(place.names(), ["s", "s.lock"]);
            let _ = fs::remove_dir(&path).or_else(|_| fs::remove_file(&path));
            file.write(&empty()).expect("it goes on");
            fs::remove_file(&path).expect("it was there");
        }
        assert_eq!(place.text("elsewhere"), None);
    }

    #[test]
    fn what_cannot_be_set_aside_is_not_destroyed() {
        let place = Place::new();
        fs::write(place.0.join("s"), "precious").expect("a file");
        fs::create_dir_all(place.0.join("s.bad/full")).expect("a directory");
        let mut file = place.file();
        for told in [file.take(Duration::ZERO).map(drop), file.write("x").map(drop)] {
            assert!(told.expect_err("there is no place for it").to_string().contains("set it aside"));
        }
        assert_eq!(place.text("s").as_deref(), Some("precious"));
    }

    #[test]
    fn a_directory_that_comes_later_keeps_what_is_in_it() {
        let place = Place::new();
        let mut file = StateFile::at(Path::new("later/s"), &place.0).expect("it has a name");
        assert!(matches!(file.take(Duration::ZERO), Err(StateFileError::Io { .. })));
        assert!(file.why_not().is_some_and(|why| why.contains("later")));
        fs::create_dir(place.0.join("later")).expect("a directory");
        fs::write(place.0.join("later/s"), empty()).expect("a file");
        assert!(file.write("new").expect("it is there now").is_some_and(|told| told.contains("s.bad")));
        assert_eq!(place.text("later/s.bad"), Some(empty()));
        assert_eq!(place.text("later/s").as_deref(), Some("new"));
    }

    #[test]
    fn a_lock_that_was_planted_is_not_followed() {
        let place = Place::new();
        symlink("elsewhere", place.0.join("s.lock")).expect("a link");
        assert!(matches!(place.file().take(Duration::ZERO), Err(StateFileError::Io { .. })));
        assert_eq!(place.names(), ["s.lock"]);
    }

    #[test]
    fn a_path_without_a_name_is_refused() {
        for path in ["/", "..", "a/", "a/.."] {
            assert!(matches!(StateFile::at(Path::new(path), Path::new("/tmp")), Err(StateFileError::NoName)));
        }
    }
}
