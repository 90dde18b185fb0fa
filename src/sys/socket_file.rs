//! The file of a listening Unix socket: how it is made, how a stale one is replaced, and how it is removed.
//!
//! Knows: temporary names, permissions, which process a file belongs to. Never: who listens on what, clients.
//! Source: docs/unix-sockets.md, "Listening".
//!
//! Nobody can connect to a socket that does not listen yet. So the socket first gets its permissions, then
//! listens, and gets its final name last.

use std::collections::hash_map::RandomState;
use std::ffi::{OsStr, OsString};
use std::hash::BuildHasher;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rustix::fs::{AtFlags, FileType, FlockOperation, Gid, Mode, OFlags, Stat};
use rustix::io::Errno;
use rustix::net::SocketAddrUnix;

use super::unix;
use crate::spec::{LostSocket, SocketAccess, UnixName};

/// Identifies a file, whatever its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SocketFileId {
    /// The device that holds the file.
    pub device: u64,
    /// The inode number on the device.
    pub number: u64,
}

// The widths of these types differ between systems.
#[allow(clippy::unnecessary_cast, trivial_numeric_casts, clippy::useless_conversion)]
impl From<&Stat> for SocketFileId {
    fn from(stat: &Stat) -> Self {
        Self { device: stat.st_dev as u64, number: stat.st_ino as u64 }
    }
}

/// The file of a socket of this process. It is removed when this value is dropped, unless it was left to
/// another process.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    /// `None`: another process made it, and it did not exist when the socket came.
    id: Option<SocketFileId>,
    /// Another process made it and removes it.
    is_foreign: bool,
    is_ours: AtomicBool,
}

impl SocketFile {
    /// The file of a socket that the predecessor made. It is the predecessor's until [`keep`](Self::keep) is
    /// called. Another file may be there by now.
    pub(crate) fn inherit(name: UnixName, id: SocketFileId) -> Arc<Self> {
        let id = Some(id);
        Arc::new(Self { path: path_of(name), id, is_foreign: false, is_ours: AtomicBool::new(false) })
    }

    /// The file of a socket that somebody else made and will remove.
    pub(crate) fn foreign(name: UnixName) -> Arc<Self> {
        let path = path_of(name);
        let id = rustix::fs::stat(&path).ok().filter(is_socket).map(|stat| SocketFileId::from(&stat));
        Arc::new(Self { path, id, is_foreign: true, is_ours: AtomicBool::new(false) })
    }

    /// The identity of the file, if this program made it.
    pub(crate) fn id(&self) -> Option<SocketFileId> {
        self.id.filter(|_| !self.is_foreign)
    }

    /// Whether somebody else made it.
    pub(crate) fn is_foreign(&self) -> bool {
        self.is_foreign
    }

    /// Why a client does not find the socket by its path now. `None`: it does, or that cannot be found out.
    pub(crate) fn lost(&self) -> Option<LostSocket> {
        let lost = |is_replaced| Some(LostSocket { is_replaced, is_passed: self.is_foreign });
        // A link that leads to the file is a way to it, too.
        match rustix::fs::stat(&self.path) {
            Ok(stat) if is_socket(&stat) && self.id.is_none_or(|id| id == SocketFileId::from(&stat)) => None,
            Ok(_) => lost(true),
            Err(Errno::NOENT) => lost(false),
            // Something on the path is not a directory, or a link is broken.
            Err(Errno::NOTDIR | Errno::LOOP) => lost(true),
            // This process may no longer look there; others may.
            Err(_) => None,
        }
    }

    /// The permissions of the file now. `None`: it is not at its path, or that cannot be found out.
    pub(crate) fn access(&self) -> Option<SocketAccess> {
        let is_it = |stat: &Stat| is_socket(stat) && self.id == Some(SocketFileId::from(stat));
        let stat = rustix::fs::stat(&self.path).ok().filter(is_it)?;
        #[allow(clippy::useless_conversion, reason = "its width differs between systems")]
        let mode = u32::from(Mode::from_raw_mode(stat.st_mode).as_raw_mode()) & 0o777;
        Some(SocketAccess { mode: Some(mode), group: Some(stat.st_gid) })
    }

    /// Leaves the file to another process.
    pub(crate) fn leave(&self) {
        self.is_ours.store(false, Ordering::SeqCst);
    }

    /// Will this process remove the file?
    pub(crate) fn is_ours(&self) -> bool {
        self.is_ours.load(Ordering::SeqCst)
    }

    /// Makes this process responsible for the file.
    pub(crate) fn keep(&self) {
        self.is_ours.store(!self.is_foreign, Ordering::SeqCst);
    }

    fn is_there(&self) -> bool {
        rustix::fs::lstat(&self.path)
            .is_ok_and(|stat| is_socket(&stat) && Some(SocketFileId::from(&stat)) == self.id)
    }

    /// Sets who may connect from now on. What is `None` in `access` stays unchanged.
    ///
    /// # Errors
    /// The file is gone, or what chown(2) or chmod(2) says.
    pub(crate) fn set_access(&self, access: SocketAccess) -> io::Result<()> {
        let (Some(parent), Some(own)) = (self.path.parent(), self.path.file_name()) else { return Ok(()) };
        let Some(id) = self.id() else {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "balance has not made the socket's file"));
        };
        let directory = open_directory(parent)?;
        permit(&directory, own, id, access).map_err(|(_, e)| e)
    }

    /// Removes the file if it is this process's and no other file has replaced it. Call it while the socket
    /// still listens: nobody replaces the file of a socket that answers.
    pub(crate) fn remove(&self) {
        if self.is_ours.swap(false, Ordering::SeqCst) && self.is_there() {
            // Nothing can be done about a failure. The next process that wants the name replaces the stale
            // file.
            let _ = rustix::fs::unlink(&self.path);
        }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        self.remove();
    }
}

/// Is this file no longer at the path of its socket? `false`: it is, or that cannot be found out.
pub(crate) fn is_lost(name: UnixName, id: SocketFileId) -> bool {
    SocketFile::inherit(name, id).lost().is_some()
}

/// Do both names lead to the same socket file now?
pub(crate) fn is_same_socket(one: UnixName, other: UnixName) -> bool {
    let id = |name| {
        let stat = rustix::fs::stat(path_of(name)).ok()?;
        is_socket(&stat).then(|| SocketFileId::from(&stat))
    };
    one == other
        || !one.is_abstract() && !other.is_abstract() && id(one).is_some_and(|one| Some(one) == id(other))
}

fn path_of(name: UnixName) -> PathBuf {
    Path::new(OsStr::from_bytes(name.as_bytes())).to_owned()
}

fn is_socket(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Socket
}

/// How long to wait for others that are making a socket in the same directory, and how often to try. A
/// process that locks the directory for longer does something else.
const TURN_WITHIN: Duration = Duration::from_millis(300);
const TURN_RETRY: Duration = Duration::from_millis(5);
/// How many temporary names are tried. More than one is needed only if somebody interferes on purpose.
const TEMPORARY_NAMES: usize = 8;
/// The socket's name in its temporary directory.
const MADE: &str = "s";
/// Why a socket cannot be moved to another directory of the same file system.
const UNMOVED: &str = "with Landlock, Linux before 5.19 moves no file to another directory; restart balance, or use a directory \
                       in which only its user may make files";

/// Makes a socket, binds it, listens, and gives it its final name last. A socket file on which nobody listens is
/// replaced; any other file is left alone.
///
/// # Errors
/// The call that failed, and why.
pub(crate) fn listen(
    name: UnixName,
    access: SocketAccess,
    backlog: i32,
) -> Result<(OwnedFd, Arc<SocketFile>), (&'static str, io::Error)> {
    let path = path_of(name);
    let (Some(parent), Some(own)) = (path.parent(), path.file_name()) else {
        return Err(("bind", Errno::INVAL.into()));
    };
    let directory = open_directory(parent).map_err(|e| ("open", of_directory(e, parent)))?;
    let turn = take_turn(&directory);
    if turn.is_some() {
        Workshop::sweep(&directory);
    }
    let before = occupant(&directory, own, &path).map_err(|e| ("bind", e))?;
    let new = || unix::stream().map_err(|e| ("socket", e));
    let made = |id| {
        let (path, is_ours) = (path.clone(), AtomicBool::new(true));
        Arc::new(SocketFile { path, id: Some(id), is_foreign: false, is_ours })
    };
    let in_place = || {
        let socket = new()?;
        let id = bind_in_place(&socket, &directory, own, &path, before)?;
        let file = made(id);
        permit(&directory, own, id, access)?;
        rustix::net::listen(&socket, backlog).map_err(|e| ("listen", e.into()))?;
        Ok((socket, file))
    };
    let mut workshop = match Workshop::make(&directory) {
        Ok(workshop) => workshop,
        Err(e) if is_full(&e) && is_closed_to_others(&directory) => return in_place(),
        Err(e) => return Err(("mkdir", of_directory(e, parent))),
    };
    let socket = new()?;
    let id = workshop.bind(&socket, parent).map_err(|e| ("bind", e))?;
    permit(&workshop.directory, OsStr::new(MADE), id, access)?;
    rustix::net::listen(&socket, backlog).map_err(|e| ("listen", e.into()))?;
    let put = put(&workshop.directory, &directory, own, before);
    drop(workshop);
    match put {
        Ok(()) => Ok((socket, made(id))),
        Err(e) if e.kind() == io::ErrorKind::CrossesDevices => match is_closed_to_others(&directory) {
            true => in_place(),
            false => Err(("rename", io::Error::new(e.kind(), UNMOVED))),
        },
        Err(e) => Err(("rename", e)),
    }
}

/// Where a path leads. Two paths of one socket have the same.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct SocketPlace {
    directory: SocketFileId,
    /// The name in the directory.
    own: OsString,
}

/// Finds out, without a trace and without asking who listens there, what [`listen`] would refuse at this path.
/// `None`: this process may not look.
///
/// # Errors
/// As of [`listen`].
pub(crate) fn place_of(name: UnixName) -> Result<Option<SocketPlace>, (&'static str, io::Error)> {
    let path = path_of(name);
    let (Some(parent), Some(own)) = (path.parent(), path.file_name()) else {
        return Err(("bind", Errno::INVAL.into()));
    };
    let directory = match open_directory(parent) {
        Ok(directory) => directory,
        Err(Errno::ACCESS | Errno::PERM) => return Ok(None),
        Err(e) => return Err(("open", of_directory(e, parent))),
    };
    match socket_at(&directory, own) {
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => return Ok(None),
        known => known.map_err(|e| ("bind", e))?,
    };
    let stat = rustix::fs::fstat(&directory).map_err(|e| ("stat", e.into()))?;
    Ok(Some(SocketPlace { directory: SocketFileId::from(&stat), own: own.to_owned() }))
}

/// The file at the path of a socket, whatever it is. `None`: there is none.
pub(crate) fn at(name: UnixName) -> Option<SocketFileId> {
    rustix::fs::lstat(path_of(name)).ok().map(|stat| SocketFileId::from(&stat))
}

/// Opens the directory of a socket. Who may make files in it need not be able to list them.
fn open_directory(path: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = rustix::fs::open(path, flags | OFlags::RDONLY, Mode::empty());
    #[cfg(any(target_os = "linux", target_os = "android"))]
    if opened.as_ref().err() == Some(&Errno::ACCESS) {
        return rustix::fs::open(path, flags | OFlags::PATH, Mode::empty());
    }
    opened
}

/// Does the file system have no room for another file?
fn is_full(error: &io::Error) -> bool {
    let number = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(number, Some(Errno::NOSPC | Errno::DQUOT))
}

/// Can only this user and root put files into the directory?
fn is_closed_to_others(directory: &OwnedFd) -> bool {
    let Ok(stat) = rustix::fs::fstat(directory) else { return false };
    let is_ours = stat.st_uid == 0 || stat.st_uid == rustix::process::geteuid().as_raw();
    is_ours && !Mode::from_raw_mode(stat.st_mode).intersects(Mode::WGRP | Mode::WOTH)
}

/// Binds the socket at its path, where there is no room for a [`Workshop`] or nothing can be moved out of it, in
/// place of the stale file `dead`. Nobody else can put a file there: see [`is_closed_to_others`].
fn bind_in_place(
    socket: &OwnedFd,
    directory: &OwnedFd,
    own: &OsStr,
    path: &Path,
    dead: Option<SocketFileId>,
) -> Result<SocketFileId, (&'static str, io::Error)> {
    let id = || {
        let stat = rustix::fs::statat(directory, own, AtFlags::SYMLINK_NOFOLLOW).ok().filter(is_socket);
        stat.map(|stat| SocketFileId::from(&stat))
    };
    if dead.is_some() && id() == dead {
        rustix::fs::unlinkat(directory, own, AtFlags::empty()).map_err(|e| ("unlink", e.into()))?;
    }
    let bind = || Ok(rustix::net::bind(socket, &SocketAddrUnix::new(path)?)?);
    bind().map_err(|e: io::Error| ("bind", e))?;
    id().ok_or_else(|| ("bind", Errno::NOENT.into()))
}

/// A private temporary directory for the socket until it has its permissions. In the final directory, other
/// users might be allowed to replace the file by a link. Dropping the value removes the directory and the
/// socket in it.
struct Workshop<'a> {
    parent: &'a OwnedFd,
    name: String,
    /// Locked for as long as its process lives.
    directory: OwnedFd,
    /// The socket in it.
    made: Option<SocketFileId>,
}

impl<'a> Workshop<'a> {
    fn make(parent: &'a OwnedFd) -> io::Result<Self> {
        for _ in 0..TEMPORARY_NAMES {
            let number = RandomState::new().hash_one(std::process::id()) as u32;
            let name = format!(".{}.{number:08x}", std::process::id());
            match rustix::fs::mkdirat(parent, &name, Mode::RWXU) {
                Ok(()) => {}
                Err(Errno::EXIST) => continue,
                Err(e) => return Err(e.into()),
            }
            let opened = open_own(parent, &name).and_then(|directory| {
                // On a file system without locks, nobody takes the directory for an abandoned one either.
                let locked = rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive);
                if locked == Err(Errno::WOULDBLOCK) { Err(Errno::WOULDBLOCK.into()) } else { Ok(directory) }
            });
            match opened {
                Ok(directory) => return Ok(Self { parent, name, directory, made: None }),
                // Another process took it for an abandoned one.
                Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::WouldBlock) => {}
                Err(e) => return Err(e),
            }
        }
        Err(Errno::EXIST.into())
    }

    /// Binds the socket to a name in the directory. It uses the descriptor, because somebody could redirect
    /// the path.
    fn bind(&mut self, socket: &OwnedFd, parent: &Path) -> io::Result<SocketFileId> {
        let by_descriptor =
            Path::new("/proc/self/fd").join(self.directory.as_raw_fd().to_string()).join(MADE);
        match rustix::net::bind(socket, &SocketAddrUnix::new(by_descriptor)?) {
            Ok(()) => {}
            // There is no /proc.
            Err(Errno::NOENT) => {
                let by_path = SocketAddrUnix::new(parent.join(&self.name).join(MADE))?;
                rustix::net::bind(socket, &by_path)?;
            }
            Err(e) => return Err(e.into()),
        }
        self.made = socket_in(&self.directory);
        self.made.ok_or_else(|| Errno::NOENT.into())
    }

    /// Removes temporary directories whose process was killed. Call it only with the turn of [`take_turn`].
    fn sweep(parent: &'a OwnedFd) {
        let Ok(entries) = rustix::fs::Dir::read_from(parent) else { return };
        for entry in entries.flatten() {
            let Ok(name) = entry.file_name().to_str() else { continue };
            if !is_temporary(name) {
                continue;
            }
            let Ok(directory) = open_own(parent, name) else { continue };
            if rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive).is_ok() {
                // Its process is dead: the kernel gave us the lock.
                let made = socket_in(&directory);
                drop(Self { parent, name: name.to_owned(), directory, made });
            }
        }
    }
}

impl Drop for Workshop<'_> {
    fn drop(&mut self) {
        if self.made.is_some() && self.made == socket_in(&self.directory) {
            let _ = rustix::fs::unlinkat(&self.directory, MADE, AtFlags::empty());
        }
        let _ = rustix::fs::unlinkat(self.parent, &self.name, AtFlags::REMOVEDIR);
    }
}

fn socket_in(workshop: &OwnedFd) -> Option<SocketFileId> {
    let stat = rustix::fs::statat(workshop, MADE, AtFlags::SYMLINK_NOFOLLOW).ok()?;
    is_socket(&stat).then(|| SocketFileId::from(&stat))
}

/// Does the name look like that of a [`Workshop`]?
fn is_temporary(name: &str) -> bool {
    let parts = name.strip_prefix('.').and_then(|name| name.split_once('.'));
    parts.is_some_and(|(pid, number)| {
        !pid.is_empty()
            && pid.bytes().all(|byte| byte.is_ascii_digit())
            && number.len() == 8
            && number.bytes().all(|byte| byte.is_ascii_hexdigit())
    })
}

/// Opens a directory that belongs to our user and that no other user can access.
fn open_own(parent: &OwnedFd, name: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC;
    let directory = rustix::fs::openat(parent, name, flags, Mode::empty())?;
    let stat = rustix::fs::fstat(&directory)?;
    let is_closed = !Mode::from_raw_mode(stat.st_mode).intersects(Mode::RWXG | Mode::RWXO);
    match stat.st_uid == rustix::process::geteuid().as_raw() && is_closed {
        true => Ok(directory),
        false => Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!("somebody has put another directory in place of {name}, which was made a moment ago"),
        )),
    }
}

/// The error with the directory that it concerns.
fn of_directory(error: impl Into<io::Error>, directory: &Path) -> io::Error {
    let error = error.into();
    let text = error.to_string();
    let words = text.split_once(" (os error").map_or(text.as_str(), |(words, _)| words);
    io::Error::new(
        error.kind(),
        format!("{words}: the directory {}", directory.display().to_string().escape_debug()),
    )
}

/// Locks the directory, so that only one process at a time looks for an occupant and puts its own socket in
/// place. `None`: another program holds the lock; then [`put`] finds any conflict.
fn take_turn(directory: &OwnedFd) -> Option<OwnedFd> {
    take_turn_with(directory, thread::sleep)
}

/// The same with this way to wait.
fn take_turn_with(directory: &OwnedFd, mut wait: impl FnMut(Duration)) -> Option<OwnedFd> {
    let held = directory.try_clone().ok()?;
    let mut waited = Duration::ZERO;
    loop {
        match rustix::fs::flock(&held, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Some(held),
            Err(Errno::WOULDBLOCK | Errno::INTR) if waited < TURN_WITHIN => {
                wait(TURN_RETRY);
                waited += TURN_RETRY;
            }
            // A directory that this process may not list cannot be locked, and some file systems have no locks.
            Err(_) => return None,
        }
    }
}

/// The file at this name, if it may be replaced. `None`: there is no file.
///
/// # Errors
/// The file must not be replaced, and why.
fn occupant(directory: &OwnedFd, own: &OsStr, path: &Path) -> io::Result<Option<SocketFileId>> {
    let Some(id) = socket_at(directory, own)? else { return Ok(None) };
    match answers(path)? {
        true => Err(Errno::ADDRINUSE.into()),
        false => Ok(Some(id)),
    }
}

/// The socket at this name. `None`: nothing is there.
///
/// # Errors
/// It is something else, which is never replaced.
fn socket_at(directory: &OwnedFd, own: &OsStr) -> io::Result<Option<SocketFileId>> {
    let stat = match rustix::fs::statat(directory, own, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => stat,
        Err(Errno::NOENT) => return Ok(None),
        Err(e) => return Err(e.into()),
    };
    let kept = |what: &str| {
        let text = format!("{what} is there, which is not replaced; remove it, or give another path");
        Err(io::Error::new(io::ErrorKind::AlreadyExists, text))
    };
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Socket => {}
        FileType::Directory => return kept("a directory"),
        FileType::Symlink => return kept("a symbolic link"),
        FileType::RegularFile => return kept("a file"),
        _ => return kept("something that is no socket"),
    }
    Ok(Some(SocketFileId::from(&stat)))
}

/// Does anybody listen on this socket?
///
/// # Errors
/// That cannot be found out.
fn answers(path: &Path) -> io::Result<bool> {
    let unknown = |e: Errno| {
        let cause = io::Error::from(e);
        let text =
            format!("a socket is there, and whether anybody answers at it cannot be found out: {cause}");
        io::Error::new(cause.kind(), text)
    };
    let socket = unix::stream()?;
    let address = SocketAddrUnix::new(path)?;
    match rustix::net::connect(&socket, &address) {
        // Nobody listens, or the file is gone by now.
        Err(Errno::CONNREFUSED | Errno::NOENT) => Ok(false),
        // Somebody listens; the listen queue may be full.
        Ok(()) | Err(Errno::AGAIN | Errno::INPROGRESS | Errno::INTR) => Ok(true),
        // A socket for datagrams or packets that somebody has open.
        Err(Errno::PROTOTYPE) => Ok(true),
        Err(e) => Err(unknown(e)),
    }
}

/// Sets the group and permissions of this socket, but never of another file that has replaced it.
fn permit(
    directory: &OwnedFd,
    name: &OsStr,
    id: SocketFileId,
    access: SocketAccess,
) -> Result<(), (&'static str, io::Error)> {
    let check = |stat: &Stat| {
        let is_it = is_socket(stat) && SocketFileId::from(stat) == id;
        let text = "another file is at the path, which is not touched";
        let foreign = || ("stat", io::Error::new(io::ErrorKind::AlreadyExists, text));
        is_it.then_some(()).ok_or_else(foreign)
    };
    let gone = |e: Errno| match e {
        Errno::NOENT => ("open", io::Error::new(io::ErrorKind::NotFound, "the socket's file is gone")),
        e => ("open", e.into()),
    };
    let group = access.group.map(Gid::from_raw);
    let mode = access.mode().map(|mode| Mode::from_raw_mode(mode as _));
    #[cfg(any(target_os = "linux", target_os = "android"))]
    {
        // A file that is held by a descriptor cannot be replaced.
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(directory, name, flags, Mode::empty()).map_err(gone)?;
        check(&rustix::fs::fstat(&file).map_err(gone)?)?;
        if group.is_some() {
            rustix::fs::chownat(&file, "", None, group, AtFlags::EMPTY_PATH)
                .map_err(|e| ("chown", e.into()))?;
        }
        if let Some(mode) = mode {
            let by_descriptor = Path::new("/proc/self/fd").join(file.as_raw_fd().to_string());
            rustix::fs::chmod(by_descriptor, mode).map_err(|e| ("chmod", e.into()))?;
        }
    }
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    {
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        check(&rustix::fs::statat(directory, name, flags).map_err(gone)?)?;
        if group.is_some() {
            rustix::fs::chownat(directory, name, None, group, flags).map_err(|e| ("chown", e.into()))?;
        }
        if let Some(mode) = mode {
            rustix::fs::chmodat(directory, name, mode, flags).map_err(|e| ("chmod", e.into()))?;
        }
    }
    Ok(())
}

/// Gives the new socket its final name. `before` is the stale file to replace, if there is one.
fn put(workshop: &OwnedFd, directory: &OwnedFd, to: &OsStr, before: Option<SocketFileId>) -> io::Result<()> {
    match before {
        None => put_where_nothing_is(workshop, directory, to),
        Some(dead) => replace(workshop, directory, to, dead),
    }
}

/// Renames the socket to a name that must be free.
///
/// # Errors
/// `ADDRINUSE` if a file has that name by now.
fn put_where_nothing_is(workshop: &OwnedFd, directory: &OwnedFd, to: &OsStr) -> io::Result<()> {
    let taken = |e: Errno| match e {
        Errno::EXIST => Errno::ADDRINUSE.into(),
        e => io::Error::from(e),
    };
    #[cfg(target_os = "linux")]
    match rustix::fs::renameat_with(workshop, MADE, directory, to, rustix::fs::RenameFlags::NOREPLACE) {
        // The file system does not support this.
        Err(Errno::INVAL | Errno::NOSYS) => {}
        done => return done.map_err(taken),
    }
    rustix::fs::linkat(workshop, MADE, directory, to, AtFlags::empty()).map_err(taken)?;
    Ok(rustix::fs::unlinkat(workshop, MADE, AtFlags::empty())?)
}

/// Renames the socket to the name of the stale file `dead`.
///
/// # Errors
/// `ADDRINUSE` if another file has that name by now.
fn replace(workshop: &OwnedFd, directory: &OwnedFd, to: &OsStr, dead: SocketFileId) -> io::Result<()> {
    let is_dead = |at: &OwnedFd, name: &OsStr| {
        let stat = rustix::fs::statat(at, name, AtFlags::SYMLINK_NOFOLLOW);
        stat.is_ok_and(|stat| is_socket(&stat) && SocketFileId::from(&stat) == dead)
    };
    #[cfg(target_os = "linux")]
    {
        let exchange =
            || rustix::fs::renameat_with(workshop, MADE, directory, to, rustix::fs::RenameFlags::EXCHANGE);
        match exchange() {
            Ok(()) if is_dead(workshop, OsStr::new(MADE)) => {
                let _ = rustix::fs::unlinkat(workshop, MADE, AtFlags::empty());
                return Ok(());
            }
            Ok(()) => {
                match exchange() {
                    Err(Errno::NOENT) => put_where_nothing_is(workshop, directory, to)?,
                    done => done?,
                }
                return Err(Errno::ADDRINUSE.into());
            }
            Err(Errno::NOENT) => return put_where_nothing_is(workshop, directory, to),
            // The file system does not support this.
            Err(Errno::INVAL | Errno::NOSYS) => {}
            Err(e) => return Err(e.into()),
        }
    }
    if !is_dead(directory, to) {
        return Err(Errno::ADDRINUSE.into());
    }
    Ok(rustix::fs::renameat(workshop, MADE, directory, to)?)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};

    use super::*;

    struct Directory(PathBuf);

    impl Directory {
        fn new(name: &str) -> Self {
            let number = RandomState::new().hash_one(0);
            let path = std::env::temp_dir().join(format!("balance-{name}-{}-{number:x}", std::process::id()));
            fs::create_dir(&path).expect("made");
            Self(path)
        }

        fn at(&self, name: &str) -> (PathBuf, UnixName) {
            let path = self.0.join(name);
            let socket = UnixName::path(path.as_os_str().as_bytes()).expect("a short one");
            (path, socket)
        }

        fn names(&self) -> Vec<String> {
            let all = fs::read_dir(&self.0).expect("listed").flatten();
            all.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn try_listen(
        name: UnixName,
        access: SocketAccess,
    ) -> Result<(OwnedFd, Arc<SocketFile>), (&'static str, io::Error)> {
        listen(name, access, 16)
    }

    #[test]
    fn a_socket_has_its_permissions_and_its_name_and_is_gone_when_dropped() {
        let directory = Directory::new("file");
        let (path, name) = directory.at("x.sock");
        let group = rustix::process::getegid().as_raw();
        for (mode, group, seen) in
            [(Some(0o600), None, 0o600), (Some(0o777), Some(group), 0o777), (None, Some(group), 0o660)]
        {
            let (_socket, file) = try_listen(name, SocketAccess { mode, group }).expect("it is free");
            let meta = fs::symlink_metadata(&path).expect("there");
            assert_eq!((meta.permissions().mode() & 0o7777, meta.gid()), (seen, group.unwrap_or(meta.gid())));
            assert_eq!(directory.names(), ["x.sock"], "no temporary name is left");
            UnixStream::connect(&path).expect("it listens");
            drop(file);
            assert!(directory.names().is_empty());
        }
    }

    #[test]
    fn only_a_socket_at_which_nobody_answers_is_replaced() {
        let directory = Directory::new("taken");
        let (path, name) = directory.at("x");
        drop(UnixListener::bind(&path).expect("bound"));
        let (socket, file) = try_listen(name, SocketAccess::default()).expect("the old one is dead");
        let refused = |what: &str| {
            let before = fs::symlink_metadata(&path).expect("there").ino();
            let (_, e) = try_listen(name, SocketAccess::default()).expect_err(what);
            assert_eq!(fs::symlink_metadata(&path).expect("there").ino(), before, "{what}");
            assert_eq!(directory.names(), ["x"], "{what}");
            e
        };
        assert_eq!(refused("it answers").kind(), io::ErrorKind::AddrInUse);
        drop((socket, file));
        let datagrams = UnixDatagram::bind(&path).expect("bound");
        assert_eq!(refused("datagrams").kind(), io::ErrorKind::AddrInUse);
        drop(datagrams);
        fs::remove_file(&path).expect("removed");
        fs::write(&path, "precious").expect("written");
        assert!(refused("a file").to_string().contains("a file is there"));
        fs::remove_file(&path).expect("removed");
        std::os::unix::fs::symlink("/nonexistent", &path).expect("linked");
        assert!(refused("a link").to_string().contains("a symbolic link is there"));
        fs::remove_file(&path).expect("removed");
        fs::create_dir(&path).expect("made");
        assert!(refused("a directory").to_string().contains("a directory is there"));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_kernel_that_moves_no_file_is_no_reason_to_have_no_socket_where_nobody_else_makes_files() {
        use landlock::{
            ABI, Access, AccessFs, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetStatus,
            path_beneath_rules,
        };
        // As Landlock was before Linux 5.19: every file may be used, and none may be moved to another directory. It
        // holds for one thread.
        let fence = || {
            let all = AccessFs::from_all(ABI::V1);
            let rules = Ruleset::default().handle_access(all)?.create()?;
            rules.add_rules(path_beneath_rules(["/"], all))?.restrict_self()
        };
        let in_fence = move || {
            let directory = Directory::new("moved");
            let (path, name) = directory.at("x");
            if fence().expect("allowed").ruleset == RulesetStatus::NotEnforced {
                return;
            }
            drop(UnixListener::bind(&path).expect("bound"));
            let mode = |mode| fs::set_permissions(&directory.0, fs::Permissions::from_mode(mode));
            mode(0o777).expect("ours");
            let (call, e) = try_listen(name, SocketAccess::default()).expect_err("it has to be moved");
            assert_eq!((call, e.kind()), ("rename", io::ErrorKind::CrossesDevices));
            mode(0o755).expect("ours");
            let access = SocketAccess { mode: Some(0o640), group: None };
            let (_socket, file) = try_listen(name, access).expect("nobody else can put a file there");
            assert_eq!(
                (directory.names(), file.access().and_then(|now| now.mode)),
                (vec!["x".into()], access.mode)
            );
            UnixStream::connect(&path).expect("it listens");
        };
        thread::spawn(in_fence).join().expect("no panic");
    }

    #[test]
    fn somebody_elses_file_is_not_taken_away() {
        let directory = Directory::new("other");
        let (path, name) = directory.at("x");
        let (_socket, file) = try_listen(name, SocketAccess::default()).expect("free");
        fs::remove_file(&path).expect("removed");
        let _other = UnixListener::bind(&path).expect("bound");
        drop(file);
        assert_eq!(directory.names(), ["x"]);
        fs::remove_file(&path).expect("removed");
        let (_socket, file) = try_listen(name, SocketAccess::default()).expect("free");
        file.leave();
        let id = file.id().expect("it was made here");
        let heir = SocketFile::inherit(name, id);
        drop(file);
        assert_eq!(directory.names(), ["x"], "it was left to somebody");
        let other = SocketFile::inherit(name, SocketFileId { device: 0, number: 0 });
        other.keep();
        drop(other);
        assert_eq!(directory.names(), ["x"], "it is another one");
        drop(heir);
        assert_eq!(directory.names(), ["x"], "it was not ours yet");
        let foreign = SocketFile::foreign(name);
        foreign.keep();
        assert!(foreign.set_access(SocketAccess { mode: Some(0o600), group: None }).is_err());
        drop(foreign);
        assert_eq!(directory.names(), ["x"], "somebody else has made it");
        let heir = SocketFile::inherit(name, id);
        heir.keep();
        drop(heir);
        assert!(directory.names().is_empty());
    }

    #[test]
    fn a_socket_is_lost_when_its_path_leads_elsewhere_and_not_when_nobody_may_look() {
        let directory = Directory::new("lost");
        let (path, name) = directory.at("x");
        let (aside, _) = directory.at("y");
        let (_socket, file) = try_listen(name, SocketAccess::default()).expect("free");
        let foreign = SocketFile::foreign(name);
        let lost = |file: &SocketFile| file.lost().map(|lost| lost.is_replaced);
        assert_eq!((lost(&file), lost(&foreign)), (None, None));
        fs::rename(&path, &aside).expect("ours");
        assert_eq!((lost(&file), lost(&foreign)), (Some(false), Some(false)));
        assert_eq!(foreign.lost().map(|lost| lost.is_passed), Some(true));
        assert_eq!(SocketFile::foreign(name).lost().map(|lost| lost.is_replaced), Some(false));
        assert_eq!(file.access(), None);
        std::os::unix::fs::symlink(&aside, &path).expect("linked");
        assert_eq!((lost(&file), lost(&foreign)), (None, None), "clients follow links");
        fs::remove_file(&path).expect("removed");
        let _other = UnixListener::bind(&path).expect("bound");
        assert_eq!((lost(&file), lost(&foreign)), (Some(true), Some(true)));
        fs::remove_file(&path).expect("removed");
        fs::write(&path, "a file").expect("written");
        assert_eq!((lost(&file), lost(&foreign)), (Some(true), Some(true)));
        fs::remove_file(&path).expect("removed");
        fs::rename(&aside, &path).expect("ours");
        assert_eq!((lost(&file), lost(&foreign)), (None, None));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("ours");
        assert_eq!(file.access().and_then(|access| access.mode), Some(0o640));
        // Root can look everywhere.
        fs::set_permissions(&directory.0, fs::Permissions::from_mode(0o000)).expect("ours");
        assert_eq!((lost(&file), lost(&foreign)), (None, None));
        fs::set_permissions(&directory.0, fs::Permissions::from_mode(0o700)).expect("ours");
        let moved = directory.0.with_extension("moved");
        fs::rename(&directory.0, &moved).expect("ours");
        assert_eq!(lost(&file), Some(false));
        fs::write(&directory.0, "a file").expect("written");
        assert_eq!(lost(&file), Some(true));
        fs::remove_file(&directory.0).expect("removed");
        fs::rename(&moved, &directory.0).expect("ours");
        assert_eq!(lost(&file), None);
    }

    #[test]
    fn permissions_are_never_those_of_a_file_that_a_link_leads_to() {
        let directory = Directory::new("link");
        let (path, name) = directory.at("x");
        let (victim, _) = directory.at("victim");
        fs::write(&victim, "precious").expect("written");
        fs::set_permissions(&victim, fs::Permissions::from_mode(0o600)).expect("our own");
        let (_socket, file) = try_listen(name, SocketAccess::default()).expect("free");
        let access = SocketAccess { mode: Some(0o666), group: None };
        let refused = |kind: io::ErrorKind| {
            assert_eq!(file.set_access(access).expect_err("it is not the socket").kind(), kind);
            assert_eq!(fs::metadata(&victim).expect("there").permissions().mode() & 0o7777, 0o600);
        };
        fs::remove_file(&path).expect("removed");
        refused(io::ErrorKind::NotFound);
        std::os::unix::fs::symlink(&victim, &path).expect("linked");
        refused(io::ErrorKind::AlreadyExists);
        fs::remove_file(&path).expect("removed");
        fs::hard_link(&victim, &path).expect("linked");
        refused(io::ErrorKind::AlreadyExists);
        fs::remove_file(&path).expect("removed");
        let _other = UnixListener::bind(&path).expect("bound");
        refused(io::ErrorKind::AlreadyExists);
    }

    #[test]
    fn a_socket_is_made_where_nobody_else_can_put_anything() {
        let directory = Directory::new("workshop");
        let parent = OwnedFd::from(fs::File::open(&directory.0).expect("a directory"));
        let mut workshop = Workshop::make(&parent).expect("made");
        let at = directory.0.join(&workshop.name);
        let meta = fs::symlink_metadata(&at).expect("there");
        assert!(meta.is_dir() && meta.permissions().mode() & 0o777 == 0o700);
        let socket = unix::stream().expect("a socket");
        let id = workshop.bind(&socket, &directory.0).expect("bound");
        assert_eq!(id, SocketFileId::from(&rustix::fs::lstat(at.join(MADE)).expect("there")));
        // Another one leaves it alone while its process lives, and takes it away afterwards.
        Workshop::sweep(&parent);
        assert!(at.join(MADE).exists());
        fs::create_dir(directory.0.join(".7.notours")).expect("made");
        fs::write(directory.0.join(".7.0123abcd"), "a file").expect("written");
        drop(workshop);
        fs::create_dir(&at).expect("made");
        drop(UnixListener::bind(at.join(MADE)).expect("bound"));
        fs::set_permissions(&at, fs::Permissions::from_mode(0o700)).expect("our own");
        let (_socket, _file) = try_listen(directory.at("x").1, SocketAccess::default()).expect("free");
        let mut left = directory.names();
        left.sort();
        assert_eq!(left, [".7.0123abcd", ".7.notours", "x"]);
        // A directory that somebody has put in its place is not used.
        fs::create_dir(directory.0.join(".7.89abcdef")).expect("made");
        let open = fs::Permissions::from_mode(0o777);
        fs::set_permissions(directory.0.join(".7.89abcdef"), open).expect("our own");
        let refused = open_own(&parent, ".7.89abcdef").expect_err("others may write there");
        assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
    }

    #[test]
    fn nobody_waits_for_a_directory_that_cannot_be_locked() {
        let directory = Directory::new("turn");
        let open = |flags| {
            let flags = OFlags::DIRECTORY | OFlags::CLOEXEC | flags;
            rustix::fs::open(&directory.0, flags, Mode::empty()).expect("a directory")
        };
        #[cfg(any(target_os = "linux", target_os = "android"))]
        assert!(take_turn_with(&open(OFlags::PATH), |_| panic!("it waits")).is_none());
        let first = take_turn(&open(OFlags::RDONLY)).expect("nobody has it");
        let mut waits = 0;
        assert!(take_turn_with(&open(OFlags::RDONLY), |_| waits += 1).is_none());
        assert_eq!(TURN_RETRY * waits, TURN_WITHIN);
        drop(first);
    }

    #[test]
    fn of_many_who_want_a_dead_name_one_has_it() {
        let directory = Directory::new("race");
        let (path, name) = directory.at("x");
        for _ in 0..20 {
            drop(UnixListener::bind(&path).expect("bound"));
            let all: Vec<_> = thread::scope(|scope| {
                let threads: Vec<_> =
                    (0..4).map(|_| scope.spawn(|| try_listen(name, SocketAccess::default()))).collect();
                threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
            });
            let (won, lost): (Vec<_>, Vec<_>) = all.into_iter().partition(Result::is_ok);
            assert_eq!(won.len(), 1, "{lost:?}");
            assert!(lost.iter().flatten().next().is_none());
            for (_, e) in lost.into_iter().filter_map(Result::err) {
                assert_eq!(e.kind(), io::ErrorKind::AddrInUse, "{e}");
            }
            let (_, file) = won.into_iter().next().and_then(Result::ok).expect("one");
            assert_eq!(Some(SocketFileId::from(&rustix::fs::lstat(&path).expect("there"))), file.id());
            drop(file);
            assert!(directory.names().is_empty());
        }
    }
}
