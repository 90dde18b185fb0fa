//! Names in a run directory: how an entry is created, hidden and removed safely, and how to find out who
//! listens there.
//!
//! Knows: sockets as files, their owners and modes, what other users may do in a directory that all may write
//! to. Never: how a socket is made, which names an instance has, commands.
//! Source: docs/control.md, "Where the socket is".

use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::BuildHasher;
use std::io::{self, BufReader, ErrorKind, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{AtFlags, FileType, RawMode};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::control::directory::{OpenDirectory, name_apart, plain_name, service_name};
use crate::control::patience::Patient;
use crate::control::peer;
use crate::control::wire::{Greeting, LineRead, LineReader, Status, printable};

/// How long an instance of ours may take to send its greeting.
const HELLO: Duration = Duration::from_secs(1);
/// How long connecting to an instance of ours may take.
const KNOCK: Duration = Duration::from_millis(200);

/// A file, whatever its name is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct FileId {
    device: u64,
    number: u64,
}

/// What is known of an entry without opening it. Links are not followed.
pub(crate) struct EntryStat {
    pub(crate) file: FileId,
    pub(crate) owner: u32,
    pub(crate) mode: RawMode,
    pub(crate) names: u64,
}

impl EntryStat {
    pub(crate) fn is_socket(&self) -> bool {
        FileType::from_raw_mode(self.mode) == FileType::Socket
    }

    pub(crate) fn is_own(&self) -> bool {
        self.owner == peer::own_uid()
    }
}

// The widths of these types differ between systems.
#[allow(clippy::unnecessary_cast, trivial_numeric_casts, clippy::useless_conversion)]
impl From<rustix::fs::Stat> for EntryStat {
    fn from(stat: rustix::fs::Stat) -> Self {
        Self {
            file: FileId { device: stat.st_dev as u64, number: stat.st_ino as u64 },
            owner: stat.st_uid,
            mode: stat.st_mode,
            names: stat.st_nlink as u64,
        }
    }
}

/// Looks up what a name means now.
pub(crate) fn look(directory: &OpenDirectory, name: &str) -> io::Result<EntryStat> {
    Ok(rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?.into())
}

/// A name in a directory. It is ours as long as it still means the same file. Dropping it removes the name.
pub(crate) struct Entry {
    directory: Arc<OpenDirectory>,
    /// Its current name.
    name: String,
    /// Its plain name while it is hidden; `None` while it is not.
    shown: Option<String>,
    file: Option<FileId>,
}

impl Entry {
    /// The name that a socket has just been bound to.
    ///
    /// # Errors
    /// It does not exist.
    pub(crate) fn of_socket(directory: &Arc<OpenDirectory>, name: String) -> io::Result<(Self, EntryStat)> {
        let seen = look(directory, &name)?;
        Ok((Self { directory: Arc::clone(directory), name, shown: None, file: Some(seen.file) }, seen))
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn directory(&self) -> &Arc<OpenDirectory> {
        &self.directory
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.directory.path().join(self.shown.as_ref().unwrap_or(&self.name))
    }

    /// Makes a second name for the same file. `EXIST`: the name is taken.
    fn link(&self, name: &str) -> rustix::io::Result<Self> {
        let (fd, none) = (&self.directory, AtFlags::empty());
        rustix::fs::linkat(fd, self.name.as_str(), fd, name, none)?;
        let directory = Arc::clone(&self.directory);
        Ok(Self { directory, name: name.to_owned(), shown: None, file: self.file })
    }

    /// Renames it, replacing what is there. A directory that somebody planted is moved aside, if we may;
    /// links are replaced, not followed.
    fn rename(&mut self, to: &str) -> io::Result<()> {
        let fd = &self.directory;
        match rustix::fs::renameat(fd, self.name.as_str(), fd, to) {
            Ok(()) => {}
            Err(rustix::io::Errno::ISDIR | rustix::io::Errno::EXIST | rustix::io::Errno::NOTEMPTY) => {
                exchange(fd, &self.name, to)?;
                // A directory that is not empty stays under a name that nobody looks at.
                let _ = rustix::fs::unlinkat(fd, self.name.as_str(), AtFlags::REMOVEDIR);
            }
            Err(error) => return Err(error.into()),
        }
        to.clone_into(&mut self.name);
        Ok(())
    }

    /// Does the name still mean our file?
    pub(crate) fn is_still_ours(&self) -> bool {
        look(&self.directory, &self.name).is_ok_and(|seen| Some(seen.file) == self.file)
    }

    /// Renames the entry so that no client finds it any more. [`Entry::show`] brings it back.
    pub(crate) fn hide(&mut self) {
        let name = self.name.clone();
        if self.shown.is_none() && self.is_still_ours() && self.rename(&unlikely_name(&name)).is_ok() {
            self.shown = Some(name);
        }
    }

    /// Undoes [`Entry::hide`]. If the name was taken meanwhile, the entry gets one beside it.
    pub(crate) fn show(&mut self) {
        let Some(name) = self.shown.take() else { return };
        if self.is_still_ours() && self.rename(&name).is_err() {
            // If this fails, too, the entry stays hidden: there is no other name by which somebody would look
            // for it.
            let _ = self.rename(&beside(&name, true));
        }
    }

    /// Takes over a name that the previous process had for this socket. Its file is called `file` now.
    ///
    /// # Errors
    /// It does not exist, or is not a socket of ours.
    pub(crate) fn inherit(directory: &Arc<OpenDirectory>, file: &str) -> io::Result<Self> {
        let (entry, seen) = Self::of_socket(directory, file.to_owned())?;
        if seen.is_socket() && seen.is_own() {
            return Ok(entry);
        }
        entry.forget();
        Err(io::Error::other("the socket's file is not as it was made"))
    }

    /// Gives the name up without removing it: another process has it from now on.
    pub(crate) fn forget(mut self) {
        self.file = None;
    }

    /// Are both names of the same file?
    pub(crate) fn is_file_of(&self, other: &Self) -> bool {
        self.file == other.file
    }

    /// Removes the name if it is still ours.
    pub(crate) fn remove(&mut self) {
        if self.is_still_ours() {
            // A failure cannot be helped, and an entry that nobody listens on does no harm.
            let _ = rustix::fs::unlinkat(&self.directory, self.name.as_str(), AtFlags::empty());
        }
        self.file = None;
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        if self.file.is_some() {
            self.remove();
        }
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Entry").field(&self.path()).finish()
    }
}

#[cfg(target_os = "linux")]
fn exchange(fd: &OpenDirectory, one: &str, other: &str) -> io::Result<()> {
    Ok(rustix::fs::renameat_with(fd, one, fd, other, rustix::fs::RenameFlags::EXCHANGE)?)
}

/// Other systems have no call that exchanges two names in one step.
#[cfg(not(target_os = "linux"))]
fn exchange(_: &OpenDirectory, _: &str, _: &str) -> io::Result<()> {
    Err(ErrorKind::IsADirectory.into())
}

/// Removes a name of a file of ours that nobody listens on any more. A successor may have put its own there
/// since we looked. So the name is moved aside first, where nobody can change it, and looked at again.
/// Returns whether it was removed.
pub(crate) fn clear(directory: &OpenDirectory, name: &str, dead: FileId) -> bool {
    let aside = unlikely_name(name);
    let none = AtFlags::empty();
    if rustix::fs::renameat(directory, name, directory, aside.as_str()).is_err() {
        return false;
    }
    let is_dead = look(directory, &aside).is_ok_and(|seen| seen.file == dead);
    if !is_dead && rustix::fs::linkat(directory, aside.as_str(), directory, name, none).is_err() {
        // Yet another file has the name by now, or this one cannot be linked.
        return false;
    }
    rustix::fs::unlinkat(directory, aside.as_str(), none).is_ok() && is_dead
}

/// The id of the process that made an [`unlikely_name`].
pub(crate) fn maker(name: &str) -> Option<u32> {
    name.rsplit('.').nth(1)?.parse().ok()
}

/// A name that no client looks at, and that nobody can have planted before.
pub(crate) fn unlikely_name(name: &str) -> String {
    let name = name.trim_start_matches('.');
    format!(".{name}.{}.{:08x}", std::process::id(), random() as u32)
}

fn random() -> u64 {
    RandomState::new().hash_one(std::process::id())
}

/// A name to use instead of a plain one that is taken: the usual one, or one that cannot be foreseen.
fn beside(plain: &str, is_unlikely: bool) -> String {
    let usual = name_apart(plain_name(plain), peer::own_uid(), peer::own_namespace());
    if is_unlikely { format!("{usual}.{:08x}", random() as u32) } else { usual }
}

/// Why an entry cannot be created.
#[derive(Debug)]
pub(crate) enum PutError {
    /// An instance of ours, in our network namespace, answers there.
    Busy(PathBuf),
    Io(io::Error),
}

/// Who answers under a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Occupant {
    /// No instance that has a right to the name; what is there may be replaced.
    Nobody,
    /// An instance of ours in our network namespace.
    Ours,
    /// An instance in another network namespace, where the same address and port mean something else.
    Elsewhere,
}

/// Creates names of one socket in one directory.
pub(crate) struct Putting {
    directory: Arc<OpenDirectory>,
    /// Who answered at the file met last: one file may have thousands of names.
    last: Option<(FileId, Occupant)>,
    /// Whether a socket of another user has made us wait in vain. Then no other such socket is asked, since
    /// there may be thousands.
    is_tired: bool,
    /// Files of ours that nobody listens on any more, and that have other names.
    dead: Vec<FileId>,
}

impl Putting {
    pub(crate) fn new(directory: &Arc<OpenDirectory>) -> Self {
        Self { directory: Arc::clone(directory), last: None, is_tired: false, dead: Vec::new() }
    }

    /// Renames `entry`, which has a temporary name so far, to this plain name. If somebody else has that (an
    /// entry of another user that must not be touched, or an instance in another network namespace), it gets
    /// a name beside it.
    pub(crate) fn rename(&mut self, entry: &mut Entry, plain: &str) -> Result<(), PutError> {
        self.put(plain, |name| entry.rename(name))
    }

    /// Makes one more name for it, or one beside that.
    pub(crate) fn link(&mut self, original: &Entry, plain: &str) -> Result<Entry, PutError> {
        match original.link(plain) {
            Ok(entry) => return Ok(entry),
            Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(PutError::Io(error.into())),
        }
        let mut made = None;
        self.put(plain, |name| {
            let mut entry = original.link(&unlikely_name(name))?;
            entry.rename(name)?;
            made = Some(entry);
            Ok(())
        })?;
        made.ok_or_else(|| PutError::Io(ErrorKind::Other.into()))
    }

    /// Handles the name of a service that another instance of ours has. If that instance has stopped the
    /// service, we take the name. Else ours gets a name beside it, clients find both, and the result is
    /// `true`.
    pub(crate) fn share(&mut self, original: &Entry, plain: &str) -> io::Result<(Entry, bool)> {
        let is_served = self.is_served(plain).unwrap_or(true);
        let name = if is_served { beside(plain, true) } else { plain.to_owned() };
        let mut entry = original.link(&unlikely_name(&name))?;
        entry.rename(&name)?;
        Ok((entry, is_served))
    }

    /// Does the instance with this service name still serve the service?
    fn is_served(&self, plain: &str) -> io::Result<bool> {
        let (mut stream, _) = connect(&self.directory, plain, KNOCK)?;
        let mut lines = LineReader::new(BufReader::new(Patient::new(&stream, HELLO)?));
        writeln!(stream, "use {}", service_name(plain).unwrap_or_default())?;
        loop {
            let LineRead::Whole(line) = lines.read()? else { return Ok(true) };
            let line = printable(line);
            if line.starts_with(". ") {
                let status = Status::parse(&line);
                return Ok(status.is_none_or(|status| status.code == 0 && !status.is_draining));
            }
        }
    }

    /// Removes the other names of the sockets found dead. Nobody can listen on a socket's file again, so none
    /// of them can come back to life meanwhile.
    pub(crate) fn sweep(self) {
        if self.dead.is_empty() {
            return;
        }
        let directory = &*self.directory;
        for name in directory.names() {
            if let Ok(seen) = look(directory, &name)
                && seen.is_own()
                && self.dead.contains(&seen.file)
            {
                clear(directory, &name, seen.file);
            }
        }
    }

    fn put(&mut self, plain: &str, mut put: impl FnMut(&str) -> io::Result<()>) -> Result<(), PutError> {
        let mut failure = None;
        for name in [plain.to_owned(), beside(plain, false), beside(plain, true)] {
            let error = match self.occupant(&name) {
                Occupant::Ours => return Err(PutError::Busy(self.directory.path().join(name))),
                Occupant::Elsewhere => io::Error::from(ErrorKind::AddrInUse),
                Occupant::Nobody => match put(&name) {
                    Ok(()) => return Ok(()),
                    Err(error) => error,
                },
            };
            // The operator can do something about the first error.
            failure.get_or_insert(error);
        }
        Err(PutError::Io(failure.unwrap_or_else(|| ErrorKind::AddrInUse.into())))
    }

    fn occupant(&mut self, name: &str) -> Occupant {
        let Ok(seen) = look(&self.directory, name) else { return Occupant::Nobody };
        if let Some((_, occupant)) = self.last.filter(|(file, _)| *file == seen.file) {
            return occupant;
        }
        let occupant = self.ask(name, &seen);
        self.last = Some((seen.file, occupant));
        occupant
    }

    fn ask(&mut self, name: &str, seen: &EntryStat) -> Occupant {
        if self.is_tired && !seen.is_own() {
            return Occupant::Nobody;
        }
        let (stream, _) = match connect(&self.directory, name, KNOCK) {
            Ok(connected) => connected,
            // It is alive, but its listen queue is full. So only the owner of the file is known.
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.is_tired |= !seen.is_own();
                return if seen.is_own() { Occupant::Ours } else { Occupant::Nobody };
            }
            Err(_) => {
                if seen.is_own() && seen.is_socket() && seen.names > 1 {
                    self.dead.push(seen.file);
                }
                return Occupant::Nobody;
            }
        };
        let is_own = peer::uid(&stream).is_ok_and(|uid| uid == peer::own_uid());
        match namespace_of(&stream) {
            Ok(theirs) if peer::is_elsewhere(theirs) => Occupant::Elsewhere,
            Ok(_) if is_own => Occupant::Ours,
            Err(_) if is_own => Occupant::Ours,
            Ok(_) => Occupant::Nobody,
            Err(_) => {
                self.is_tired = true;
                Occupant::Nobody
            }
        }
    }
}

/// The network namespace that the instance names in its greeting; `None`: its greeting is none or has no
/// namespace.
fn namespace_of(stream: &UnixStream) -> io::Result<Option<u64>> {
    match LineReader::new(BufReader::new(Patient::new(stream, HELLO)?)).read()? {
        LineRead::Whole(line) => {
            Ok(Greeting::parse(&printable(line)).and_then(|greeting| greeting.namespace))
        }
        _ => Ok(None),
    }
}

/// Connects to the socket of this entry. Also returns the mode of its file. If the server takes longer than
/// `patience` to accept, the error is [`ErrorKind::WouldBlock`].
pub(crate) fn connect(
    directory: &OpenDirectory,
    name: &str,
    patience: Duration,
) -> io::Result<(UnixStream, RawMode)> {
    let (seen, held) = hold(directory, name)?;
    if !seen.is_socket() {
        return Err(ErrorKind::ConnectionRefused.into());
    }
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_write_timeout(Some(patience))?;
    let connected = match &held {
        Some(held) => socket.connect(&SockAddr::unix(own_descriptor(held))?),
        None => Err(ErrorKind::NotFound.into()),
    };
    match connected {
        // There is no /proc here.
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            socket.connect(&SockAddr::unix(directory.path().join(name))?)?;
        }
        other => other?,
    }
    socket.set_write_timeout(None)?;
    Ok((UnixStream::from(OwnedFd::from(socket)), seen.mode))
}

/// Holds the file open, so that we connect to the file that we looked at. In a directory that all may write
/// to, somebody may put a link in its place meanwhile, and connect(2) follows links.
#[cfg(target_os = "linux")]
fn hold(directory: &OpenDirectory, name: &str) -> io::Result<(EntryStat, Option<OwnedFd>)> {
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let held = rustix::fs::openat(directory, name, flags, Mode::empty())?;
    Ok((rustix::fs::fstat(&held)?.into(), Some(held)))
}

#[cfg(not(target_os = "linux"))]
fn hold(directory: &OpenDirectory, name: &str) -> io::Result<(EntryStat, Option<OwnedFd>)> {
    Ok((look(directory, name)?, None))
}

/// A path to the file of a descriptor.
pub(crate) fn own_descriptor(held: impl AsFd) -> PathBuf {
    use std::os::fd::AsRawFd;
    Path::new("/proc/self/fd").join(held.as_fd().as_raw_fd().to_string())
}
