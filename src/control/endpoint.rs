//! The control socket of an instance: how it is created safely, and under which names.
//!
//! Knows: the socket, its mode and group, the names of services. Never: the protocol, commands.
//! Source: docs/control.md, "Where the socket is".

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{AtFlags, Gid, Mode, RawMode};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::control::directory::{
    Directory, OpenDirectory, Unsafe, entry_name, service_entry_name, service_name,
};
use crate::control::entry::{self, Entry, PutError, Putting, own_descriptor, unlikely_name};
use crate::control::peer;
use crate::handover::message::OfferedControl;
use crate::spec::ListenSpan;

/// Length of the listen queue of the control socket.
pub(crate) const BACKLOG: i32 = 64;
/// How many temporary names are tried before giving up. More than one is needed only if somebody blocks us on
/// purpose.
const TEMPORARY_NAMES: u32 = 16;

/// What is needed to create an endpoint.
#[derive(Debug, Clone)]
pub struct EndpointOptions {
    /// The directories to try, in this order.
    pub directories: Vec<Directory>,
    /// The names by which each service of the instance is found; at least one service.
    pub services: Vec<Names>,
    /// A Unix group (name or number) whose members may control the instance too.
    pub group: Option<String>,
}

/// The names by which a service is found.
#[derive(Debug, Clone)]
pub struct Names {
    /// The addresses at which it listens; at least one.
    pub listen: Vec<ListenSpan>,
    /// Its name, if it has one.
    pub name: Option<String>,
}

impl Names {
    /// The names of its entries.
    pub(crate) fn entries(&self) -> impl Iterator<Item = String> {
        let addresses = self.listen.iter().map(|at| entry_name(*at));
        addresses.chain(self.name.as_deref().map(service_entry_name))
    }
}

/// Why there is no endpoint.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// Another instance of the same user answers there. It keeps its entry.
    #[error("another instance answers at {}", .0.display())]
    Busy(PathBuf),
    /// The control group does not exist.
    #[error("unknown group {0:?}")]
    UnknownGroup(String),
    /// No directory can be used. The causes, in the order of the directories.
    #[error("cannot make a control socket {}", list(.0))]
    NoDirectory(Vec<(PathBuf, io::Error)>),
}

fn list(causes: &[(PathBuf, io::Error)]) -> String {
    let causes: Vec<String> =
        causes.iter().map(|(path, cause)| format!("{}: {cause}", path.display())).collect();
    if causes.is_empty() {
        "in any directory: none is known".into()
    } else {
        format!("at {}", causes.join(", "))
    }
}

/// The listening control socket of an instance. Dropping it removes its entries, so a parent that has forked
/// must leave by `exit` without dropping it.
#[derive(Debug)]
pub struct Endpoint {
    pub(crate) listener: UnixListener,
    pub(crate) entries: Entries,
    /// Names that could not be had, and why. The control socket works without them.
    pub(crate) missed: Vec<(PathBuf, io::Error)>,
    pub(crate) owner: u32,
    pub(crate) group_named: bool,
    /// Why the group was not given the socket, though one was named.
    pub(crate) ungrouped: Option<io::Error>,
}

impl Endpoint {
    /// Creates the socket in the first directory where that is possible. Entries left behind by an instance
    /// that is gone, or planted by somebody else, are replaced; links are never followed.
    ///
    /// # Errors
    /// An instance of ours answers there, the group is unknown, or no directory can be used.
    pub fn bind(options: &EndpointOptions) -> Result<Self, EndpointError> {
        let group = match &options.group {
            None => None,
            Some(name) => Some(group_id(name).ok_or_else(|| EndpointError::UnknownGroup(name.clone()))?),
        };
        let names: Vec<String> = options.services.iter().flat_map(Names::entries).collect();
        let Some(first) = names.first() else {
            return Err(EndpointError::NoDirectory(Vec::new()));
        };
        let mut causes = Vec::new();
        for directory in &options.directories {
            let mut ungrouped = None;
            let bound = bind_in(directory, first, group).or_else(|error| match error {
                // Only root may give a file to a group that it is not in. For its user and root it can be had all the same.
                PutError::Io(cause) if group.is_some() && cause.kind() == ErrorKind::PermissionDenied => {
                    let bound = bind_in(directory, first, None);
                    ungrouped = Some(cause);
                    bound
                }
                other => Err(other),
            });
            let group = group.filter(|_| ungrouped.is_none());
            match bound {
                Ok((listener, entry, putting)) => {
                    let mut entries = Entries::of(first.clone(), entry, group);
                    let mut missed = entries.name_all(&names, putting);
                    let owner = peer::own_uid();
                    // That we may not use a directory is normal; that it is not safe is reported.
                    missed.extend(causes.into_iter().filter(|(_, cause)| Unsafe::is_cause_of(cause)));
                    let group_named = group.is_some();
                    return Ok(Self { listener, entries, missed, owner, group_named, ungrouped });
                }
                Err(PutError::Busy(path)) => return Err(EndpointError::Busy(path)),
                Err(PutError::Io(error)) => causes.push((directory.path().join(first), error)),
            }
        }
        Err(EndpointError::NoDirectory(causes))
    }

    /// Takes over the socket of another process, which then gives it up.
    ///
    /// # Errors
    /// None of its names exists any more, or its directory cannot be trusted.
    pub fn inherit(listener: OwnedFd, offered: &OfferedControl) -> io::Result<Self> {
        let path = offered.directory.clone();
        let directory = if offered.is_shared { Directory::Shared(path) } else { Directory::Private(path) };
        let opened = Arc::new(directory.make()?);
        let entries = Entries::inherit(&opened, offered)?;
        Ok(Self {
            listener: UnixListener::from(listener),
            entries,
            missed: Vec::new(),
            owner: peer::own_uid(),
            group_named: offered.group_named,
            ungrouped: None,
        })
    }

    /// Gives a socket that was taken over to the group that is named now, or takes it from the group that it had. If the
    /// group cannot have it, it is for its user and root alone.
    ///
    /// # Errors
    /// The group is unknown. Nothing has changed then.
    pub fn regroup(&mut self, group: Option<&str>) -> Result<(), EndpointError> {
        let wanted = match group {
            None => None,
            Some(name) => Some(group_id(name).ok_or_else(|| EndpointError::UnknownGroup(name.to_owned()))?),
        };
        if wanted != self.entries.group {
            self.ungrouped = self.entries.regroup(wanted).err();
            if self.ungrouped.is_some() {
                // The cause was told already.
                let _ = self.entries.regroup(None);
            }
            self.group_named = self.entries.group.is_some();
        }
        Ok(())
    }

    /// Why the members of the group that was named may not use it.
    pub fn ungrouped(&self) -> Option<&io::Error> {
        self.ungrouped.as_ref()
    }

    /// The path of its first name; `None` if it has no name any more.
    pub fn path(&self) -> Option<PathBuf> {
        self.entries.path()
    }

    /// Names that could not be had, and why.
    pub fn missed(&self) -> &[(PathBuf, io::Error)] {
        &self.missed
    }

    /// Removes the entries that are still ours. Call this before closing the TCP listeners: until then no
    /// successor can have put its own there.
    pub fn remove(&mut self) {
        self.entries.remove_all();
    }
}

/// The entries of a control socket, by the plain name of each. If somebody else has the plain name, the file
/// is called differently.
#[derive(Debug)]
pub(crate) struct Entries {
    first: String,
    by_name: BTreeMap<String, Entry>,
    /// Names of services that were stopped, the oldest first.
    stopped: VecDeque<String>,
    /// The directory of the entries that another process has taken over.
    left: Option<Arc<OpenDirectory>>,
    /// The group whose members may control the instance, too.
    group: Option<Gid>,
}

/// Maximum number of names of stopped services that are kept.
const MOST_STOPPED: usize = 256;
/// The message for a service name that another instance also has.
const SHARED: &str = "another instance has a service of this name; commands need the port to tell them apart";

impl Entries {
    /// The paths of the entries, each with its permissions if it is still ours.
    pub(crate) fn look(&self) -> Vec<(PathBuf, Option<u32>)> {
        let mode = |entry: &Entry| {
            let stat = entry::look(entry.directory(), entry.name()).ok()?;
            (entry.is_still_ours() && stat.is_socket()).then_some(stat.mode & 0o7777)
        };
        self.by_name.values().map(|entry| (entry.path(), mode(entry))).collect()
    }

    fn of(first: String, entry: Entry, group: Option<Gid>) -> Self {
        Self {
            by_name: BTreeMap::from([(first.clone(), entry)]),
            first,
            stopped: VecDeque::new(),
            left: None,
            group,
        }
    }

    fn inherit(directory: &Arc<OpenDirectory>, offered: &OfferedControl) -> io::Result<Self> {
        let mut by_name: BTreeMap<String, Entry> = BTreeMap::new();
        let mut failure = io::Error::from(ErrorKind::NotFound);
        for (name, file) in &offered.names {
            match Entry::inherit(directory, file) {
                Ok(entry) if by_name.values().next().is_none_or(|other| other.is_file_of(&entry)) => {
                    by_name.insert(name.clone(), entry);
                }
                // Another socket has got this name meanwhile.
                Ok(entry) => entry.forget(),
                Err(error) => failure = error,
            }
        }
        let first = by_name.keys().next().cloned().ok_or(failure)?;
        let stopped = offered.stopped.iter().filter(|name| by_name.contains_key(*name)).cloned().collect();
        let owned = by_name
            .values()
            .next()
            .filter(|_| offered.group_named)
            .map(|entry| rustix::fs::statat(directory.as_ref(), entry.name(), AtFlags::SYMLINK_NOFOLLOW));
        let group = owned.transpose()?.map(|file| Gid::from_raw(file.st_gid));
        Ok(Self { first, by_name, stopped, left: None, group })
    }

    /// Gives the socket to another group, or to none.
    ///
    /// # Errors
    /// It has no name any more, or what chown(2) or chmod(2) says.
    fn regroup(&mut self, group: Option<Gid>) -> io::Result<()> {
        // All names are links to one file.
        let Some(entry) = self.by_name.values().find(|entry| entry.is_still_ours()) else {
            return Err(ErrorKind::NotFound.into());
        };
        let directory = entry.directory().as_ref();
        if group.is_some() {
            rustix::fs::chownat(directory, entry.name(), None, group, AtFlags::SYMLINK_NOFOLLOW)?;
        }
        let mode = Mode::from_raw_mode(mode_for(group));
        rustix::fs::chmodat(directory, entry.name(), mode, AtFlags::empty())?;
        self.group = group;
        Ok(())
    }

    /// What another process needs to take the entries over.
    pub(crate) fn offer(&self, group_named: bool) -> OfferedControl {
        let directory = self.by_name.values().next().map(|entry| entry.directory().path().to_owned());
        OfferedControl {
            directory: directory.unwrap_or_default(),
            is_shared: self.by_name.values().next().is_some_and(|entry| entry.directory().is_shared()),
            names: self.by_name.iter().map(|(name, entry)| (name.clone(), entry.name().to_owned())).collect(),
            stopped: self.stopped.iter().cloned().collect(),
            group_named,
        }
    }

    /// Gives the entries up without removing them: another process has them from now on.
    pub(crate) fn forget_all(&mut self) {
        self.left = self.by_name.values().next().map(|entry| Arc::clone(entry.directory()));
        std::mem::take(&mut self.by_name).into_values().for_each(Entry::forget);
        self.stopped.clear();
    }

    /// Creates a new socket with this one name, beside the entries that another process has taken over.
    pub(crate) fn begin_apart(&mut self, name: String) -> io::Result<UnixListener> {
        let directory = self.left.take().ok_or(ErrorKind::NotFound)?;
        let (listener, entry, putting) = bind_at(&directory, &name, self.group).map_err(unbound)?;
        putting.sweep();
        self.first.clone_from(&name);
        self.by_name.insert(name, entry);
        Ok(listener)
    }

    /// Creates the entries again that were deleted or replaced. Returns those that could not be created, and
    /// why.
    pub(crate) fn restore(&mut self) -> Vec<(PathBuf, io::Error)> {
        let Some(directory) = self.by_name.values().next().map(|entry| Arc::clone(entry.directory())) else {
            return Vec::new();
        };
        let lost: Vec<String> = self
            .by_name
            .iter()
            .filter(|(_, entry)| !entry.is_still_ours())
            .map(|(name, _)| name.clone())
            .collect();
        if lost.len() == self.by_name.len() {
            // A new name is a link to an existing one, and there is none left.
            return Vec::new();
        }
        for name in &lost {
            self.by_name.remove(name);
        }
        self.name_all(&lost, Putting::new(&directory))
    }

    /// Do all its names still exist?
    pub(crate) fn are_all_there(&self) -> bool {
        self.by_name.values().all(Entry::is_still_ours)
    }

    /// Do none of its names exist any more?
    pub(crate) fn are_all_lost(&self) -> bool {
        self.by_name.values().all(|entry| !entry.is_still_ours())
    }

    /// Creates a new socket with all its names. Returns the names that could not be had, and why.
    pub(crate) fn begin_again_all(&mut self) -> io::Result<(UnixListener, Vec<(PathBuf, io::Error)>)> {
        let directory = self.by_name.values().next().map(|entry| Arc::clone(entry.directory()));
        let directory = directory.ok_or(ErrorKind::NotFound)?;
        let names: Vec<String> = self.by_name.keys().cloned().collect();
        let first = if names.contains(&self.first) { &self.first } else { &names[0] }.clone();
        let (listener, entry, putting) = bind_at(&directory, &first, self.group).map_err(unbound)?;
        std::mem::take(&mut self.by_name).into_values().for_each(Entry::forget);
        self.by_name.insert(first.clone(), entry);
        self.first = first;
        let missed = self.name_all(&names, putting);
        Ok((listener, missed))
    }

    pub(crate) fn path(&self) -> Option<PathBuf> {
        self.by_name.get(&self.first).or_else(|| self.by_name.values().next()).map(Entry::path)
    }

    /// The entries with these names.
    pub(crate) fn named<'a>(&'a mut self, names: &[String]) -> impl Iterator<Item = &'a mut Entry> {
        let wanted = |name: &&String| names.contains(name);
        self.by_name.iter_mut().filter(move |(name, _)| wanted(name)).map(|(_, entry)| entry)
    }

    pub(crate) fn remove_all(&mut self) {
        self.by_name.values_mut().for_each(Entry::remove);
        self.by_name.clear();
        self.stopped.clear();
    }

    /// Does this name stay when its service is stopped? Another program may listen at the service's address
    /// next, so those names go. A command for the name of a service must reach nobody else, so that name
    /// stays.
    pub(crate) fn stays(name: &str) -> bool {
        service_name(name).is_some()
    }

    /// Removes these names. Those that stay are kept, up to a limit; beyond it the oldest goes.
    pub(crate) fn retire(&mut self, names: &[String]) {
        for name in names {
            if !self.by_name.contains_key(name) || self.stopped.contains(name) {
                continue;
            }
            if Self::stays(name) {
                self.stopped.push_back(name.clone());
            } else {
                self.remove(name);
            }
            if self.stopped.len() > MOST_STOPPED
                && let Some(oldest) = self.stopped.pop_front()
            {
                self.remove(&oldest);
            }
        }
    }

    fn remove(&mut self, name: &str) {
        if let Some(mut entry) = self.by_name.remove(name) {
            entry.remove();
        }
    }

    /// These names are wanted again. A kept name that another process has taken meanwhile is given up first.
    fn begin_again(&mut self, wanted: &BTreeSet<&String>) {
        let (again, stopped) =
            std::mem::take(&mut self.stopped).into_iter().partition(|name| wanted.contains(name));
        self.stopped = stopped;
        let again: VecDeque<String> = again;
        for name in again {
            if self.by_name.get(&name).is_some_and(|entry| !entry.is_still_ours()) {
                self.remove(&name);
            }
        }
    }

    /// Makes these the names of the socket: new ones are added first, then all others go. Returns those that
    /// could not be had, and why.
    pub(crate) fn become_these(&mut self, names: &[String]) -> Vec<(PathBuf, io::Error)> {
        let Some(directory) = self.by_name.values().next().map(|entry| Arc::clone(entry.directory())) else {
            return Vec::new();
        };
        let wanted: BTreeSet<&String> = names.iter().collect();
        self.begin_again(&wanted);
        let missed = self.name_all(names, Putting::new(&directory));
        let gone: Vec<String> = self.by_name.keys().filter(|name| !wanted.contains(name)).cloned().collect();
        // One name must remain, since new names are links to an existing one.
        if gone.len() < self.by_name.len() {
            self.retire(&gone);
        }
        missed
    }

    /// Makes this the only name, since the others are for a successor. If it cannot be had, no name is left,
    /// and the reason is returned.
    pub(crate) fn become_this(&mut self, name: String) -> Option<(PathBuf, io::Error)> {
        let missed = match self.by_name.values().next().map(|entry| Arc::clone(entry.directory())) {
            Some(directory) => self.name_all(std::slice::from_ref(&name), Putting::new(&directory)).pop(),
            None => None,
        };
        let own = self.by_name.remove(&name);
        self.remove_all();
        self.by_name.extend(own.map(|entry| (name, entry)));
        missed
    }

    /// Gives the socket all these names, and removes what an earlier instance has left under them.
    fn name_all(&mut self, names: &[String], mut putting: Putting) -> Vec<(PathBuf, io::Error)> {
        let mut missed = Vec::new();
        for name in names {
            if self.by_name.contains_key(name) {
                continue;
            }
            let Some(original) = self.by_name.values().find(|entry| entry.is_still_ours()) else { continue };
            match putting.link(original, name) {
                Ok(entry) => _ = self.by_name.insert(name.clone(), entry),
                Err(PutError::Busy(path)) if service_name(name).is_some() => {
                    match putting.share(original, name) {
                        Ok((entry, is_shared)) => {
                            self.by_name.insert(name.clone(), entry);
                            if is_shared {
                                missed.push((path, io::Error::other(SHARED)));
                            }
                        }
                        Err(error) => missed.push((path, error)),
                    }
                }
                Err(PutError::Busy(path)) => {
                    missed.push((path, io::Error::other("another instance answers there")));
                }
                Err(PutError::Io(error)) => missed.push((original.path().with_file_name(name), error)),
            }
        }
        putting.sweep();
        missed
    }
}

fn unbound(error: PutError) -> io::Error {
    match error {
        PutError::Busy(path) => io::Error::other(format!("another instance answers at {}", path.display())),
        PutError::Io(error) => error,
    }
}

/// Binds the socket to a temporary name, listens, and only then gives it its first name. So a client meets
/// either the old socket or one that listens.
fn bind_in(
    directory: &Directory,
    name: &str,
    group: Option<Gid>,
) -> Result<(UnixListener, Entry, Putting), PutError> {
    bind_at(&Arc::new(directory.make().map_err(PutError::Io)?), name, group)
}

/// The permissions of a control socket, which decide who may connect.
fn mode_for(group: Option<Gid>) -> RawMode {
    if group.is_some() { 0o660 } else { 0o600 }
}

fn bind_at(
    opened: &Arc<OpenDirectory>,
    name: &str,
    group: Option<Gid>,
) -> Result<(UnixListener, Entry, Putting), PutError> {
    let mode = mode_for(group);
    let made = || -> io::Result<(Socket, Entry)> {
        let (socket, temporary) = bind_temporary(opened, name, mode)?;
        let (entry, seen) = Entry::of_socket(opened, temporary)?;
        if !seen.is_socket() || !seen.is_own() || seen.mode & 0o777 != mode {
            return Err(io::Error::other("the socket's file is not as it was made"));
        }
        if let Some(group) = group {
            let flags = AtFlags::SYMLINK_NOFOLLOW;
            rustix::fs::chownat(opened.as_ref(), entry.name(), None, Some(group), flags)?;
        }
        socket.listen(BACKLOG)?;
        Ok((socket, entry))
    };
    let (socket, mut entry) = made().map_err(PutError::Io)?;
    let mut putting = Putting::new(opened);
    putting.rename(&mut entry, name)?;
    Ok((UnixListener::from(OwnedFd::from(socket)), entry, putting))
}

fn bind_temporary(directory: &OpenDirectory, name: &str, mode: RawMode) -> io::Result<(Socket, String)> {
    let mut in_the_way = io::Error::from(ErrorKind::AddrInUse);
    for _ in 0..TEMPORARY_NAMES {
        let temporary = unlikely_name(name);
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        let (address, is_direct) = address_in(directory, &temporary)?;
        match bind_with_mode(&socket, &address, mode) {
            Ok(()) => return Ok((socket, temporary)),
            // There is no /proc to reach the directory by its descriptor.
            Err(error) if error.kind() == ErrorKind::NotFound && !is_direct => {
                return Err(too_long(directory));
            }
            // bind(2) follows no link and replaces nothing.
            Err(error) if error.kind() == ErrorKind::AddrInUse => in_the_way = error,
            Err(error) => return Err(error),
        }
    }
    Err(in_the_way)
}

/// The address of a socket in the directory, and whether it uses the directory's own path. If that is too
/// long for an address, the path goes through our descriptor of the directory.
fn address_in(directory: &OpenDirectory, name: &str) -> io::Result<(SockAddr, bool)> {
    if let Ok(address) = SockAddr::unix(directory.path().join(name)) {
        return Ok((address, true));
    }
    let address = SockAddr::unix(own_descriptor(directory).join(name)).map_err(|_| too_long(directory))?;
    Ok((address, false))
}

fn too_long(directory: &OpenDirectory) -> io::Error {
    let length = directory.path().as_os_str().len();
    io::Error::other(format!(
        "the path of the directory has {length} bytes, which is too long for a Unix socket; set BALANCE_RUN_DIR to a shorter one"
    ))
}

/// Binds so that the socket's file has this mode from the first moment.
fn bind_with_mode(socket: &Socket, address: &SockAddr, mode: RawMode) -> io::Result<()> {
    if cfg!(all(target_os = "linux", not(portable))) {
        // On Linux the file gets the mode of the socket, and the umask can only narrow it.
        rustix::fs::fchmod(socket, Mode::from_raw_mode(mode))?;
        if mode & 0o077 == 0 {
            return socket.bind(address);
        }
    }
    // The umask belongs to the whole process. The program binds before it has threads; callers with several
    // threads take turns here.
    static UMASK: Mutex<()> = Mutex::new(());
    let _turn = UMASK.lock().unwrap_or_else(PoisonError::into_inner);
    let before = rustix::process::umask(Mode::from_raw_mode(0o777 & !mode));
    let bound = socket.bind(address);
    rustix::process::umask(before);
    bound
}

/// Does this Unix group exist? A number is always accepted.
pub fn is_group(name: &str) -> bool {
    group_id(name).is_some()
}

/// The number of a Unix group; `None`: there is no group of this name.
pub fn group_number(name: &str) -> Option<u32> {
    group_id(name).map(Gid::as_raw)
}

/// The name of a Unix group; its number if it has none.
pub fn group_name(number: u32) -> String {
    let found = nix::unistd::Group::from_gid(nix::unistd::Gid::from_raw(number));
    found.ok().flatten().map_or_else(|| number.to_string(), |group| group.name)
}

fn group_id(name: &str) -> Option<Gid> {
    if let Ok(number) = name.parse() {
        return Some(Gid::from_raw(number));
    }
    let group = nix::unistd::Group::from_name(name).ok().flatten()?;
    Some(Gid::from_raw(group.gid.as_raw()))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::net::SocketAddr;
    use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
    use std::os::unix::net::UnixStream;
    use std::path::Path;

    use super::*;
    use crate::control::scratch::Scratch;

    fn options(scratch: &Scratch) -> EndpointOptions {
        let listen = vec![SocketAddr::from(([127, 0, 0, 1], 80)).into()];
        let services = vec![Names { listen, name: None }];
        EndpointOptions { directories: vec![scratch.shared()], services, group: None }
    }

    fn is_socket(path: &Path) -> bool {
        fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket())
    }

    #[test]
    fn an_endpoint_is_private_and_gone_when_removed() {
        let scratch = Scratch::new();
        let mut endpoint = Endpoint::bind(&options(&scratch)).expect("bound");
        let path = endpoint.path().expect("a name");
        assert_eq!(path, scratch.path().join("balance.80.127.0.0.1"));
        assert_eq!(fs::symlink_metadata(&path).expect("there").permissions().mode() & 0o7777, 0o600);
        assert_eq!(scratch.names(), ["balance.80.127.0.0.1"], "no temporary name is left");
        endpoint.remove();
        assert!(scratch.names().is_empty());
        endpoint.remove();
    }

    #[test]
    fn a_stale_entry_a_link_and_a_file_are_replaced() {
        let scratch = Scratch::new();
        let path = scratch.path().join("balance.80.127.0.0.1");
        let target = scratch.path().join("precious");
        fs::write(&target, "precious").expect("written");
        let plants: [(&str, &dyn Fn()); 4] = [
            ("stale socket", &|| drop(UnixListener::bind(&path).expect("bound"))),
            ("link", &|| symlink(&target, &path).expect("linked")),
            ("dangling link", &|| symlink("/nonexistent/x", &path).expect("linked")),
            ("file", &|| fs::write(&path, "x").expect("written")),
        ];
        for (what, plant) in plants {
            plant();
            let endpoint = Endpoint::bind(&options(&scratch)).expect(what);
            assert!(is_socket(&path), "{what}");
            assert!(UnixStream::connect(&path).is_ok(), "{what}");
            drop(endpoint);
            assert!(fs::symlink_metadata(&path).is_err(), "{what}");
        }
        assert_eq!(fs::read(&target).expect("read"), b"precious");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_directory_may_have_a_path_that_is_too_long_for_a_socket() {
        let scratch = Scratch::new();
        let long = scratch.path().join("x".repeat(120));
        fs::create_dir(&long).expect("made");
        let directories = vec![Directory::Private(long.clone())];
        fs::set_permissions(&long, fs::Permissions::from_mode(0o700)).expect("our own");
        let mut endpoint =
            Endpoint::bind(&EndpointOptions { directories, ..options(&scratch) }).expect("bound");
        let path = long.join("balance.80.127.0.0.1");
        assert_eq!(endpoint.path().as_deref(), Some(path.as_path()));
        assert!(is_socket(&path));
        endpoint.remove();
        assert!(!is_socket(&path));
    }

    #[test]
    fn a_directory_in_the_way_is_moved_aside() {
        for file in [None, Some("file")] {
            let scratch = Scratch::new();
            let planted = scratch.path().join("balance.80.127.0.0.1");
            fs::create_dir(&planted).expect("made");
            if let Some(file) = file {
                fs::write(planted.join(file), "precious").expect("written");
            }
            let endpoint = Endpoint::bind(&options(&scratch)).expect("bound");
            assert_eq!(endpoint.path().as_deref(), Some(planted.as_path()));
            assert!(UnixStream::connect(&planted).is_ok());
            drop(endpoint);
            // This process must not remove a directory with foreign contents.
            let left: Vec<bool> =
                scratch.names().iter().map(|name| name.starts_with(".balance.80.")).collect();
            assert_eq!(left, vec![true; usize::from(file.is_some())]);
        }
    }

    #[test]
    fn a_directory_that_is_not_safe_is_passed_over_and_told() {
        let (scratch, next) = (Scratch::new(), Scratch::new());
        fs::set_permissions(scratch.path(), fs::Permissions::from_mode(0o777)).expect("our own");
        let mut options = options(&scratch);
        let Err(EndpointError::NoDirectory(causes)) = Endpoint::bind(&options) else { panic!("bound") };
        assert_eq!(causes.len(), 1);
        options.directories.push(next.private());
        let endpoint = Endpoint::bind(&options).expect("bound");
        assert_eq!(endpoint.path().expect("a name"), next.path().join("private/balance.80.127.0.0.1"));
        assert_eq!(endpoint.missed().len(), 1);
        assert!(scratch.names().is_empty());
    }

    #[test]
    fn what_is_left_of_an_instance_that_was_killed_is_taken_away() {
        let scratch = Scratch::new();
        let left = scratch.path().join("balance.80.127.0.0.1");
        drop(UnixListener::bind(&left).expect("bound"));
        for name in ["balance.81.127.0.0.1", "service.old"] {
            fs::hard_link(&left, scratch.path().join(name)).expect("linked");
        }
        drop(UnixListener::bind(scratch.path().join("balance.82.127.0.0.1")).expect("bound"));
        let endpoint = Endpoint::bind(&options(&scratch)).expect("bound");
        // It does not remove what others left.
        assert_eq!(scratch.names(), ["balance.80.127.0.0.1", "balance.82.127.0.0.1"]);
        assert!(UnixStream::connect(endpoint.path().expect("a name")).is_ok());
    }

    #[test]
    fn a_live_instance_keeps_its_entry() {
        let scratch = Scratch::new();
        let first = Endpoint::bind(&options(&scratch)).expect("bound");
        let before = fs::symlink_metadata(first.path().expect("a name")).expect("there").ino();
        assert!(
            matches!(Endpoint::bind(&options(&scratch)), Err(EndpointError::Busy(path)) if Some(&path) == first.path().as_ref())
        );
        assert_eq!(fs::symlink_metadata(first.path().expect("a name")).expect("there").ino(), before);
    }

    #[test]
    fn an_entry_that_is_another_file_by_now_is_left_alone() {
        let scratch = Scratch::new();
        let first = Endpoint::bind(&options(&scratch)).expect("bound");
        fs::remove_file(first.path().expect("a name")).expect("removed");
        let second = Endpoint::bind(&options(&scratch)).expect("bound");
        drop(first);
        assert!(is_socket(&second.path().expect("a name")));
    }

    #[test]
    fn a_named_group_may_connect() {
        let scratch = Scratch::new();
        let own = rustix::process::getegid().as_raw();
        let named = |group: String| EndpointOptions { group: Some(group), ..options(&scratch) };
        let endpoint = Endpoint::bind(&named(own.to_string())).expect("bound");
        let meta = fs::symlink_metadata(endpoint.path().expect("a name")).expect("there");
        assert_eq!((meta.permissions().mode() & 0o777, meta.gid()), (0o660, own));
        let unknown = Endpoint::bind(&named("no such group".into()));
        assert!(matches!(unknown, Err(EndpointError::UnknownGroup(_))));
    }

    #[test]
    fn all_services_are_names_of_one_socket_and_go_one_by_one() {
        let scratch = Scratch::new();
        let at = |port| ListenSpan::from(SocketAddr::from(([127, 0, 0, 1], port)));
        let services = vec![
            Names { listen: vec![at(80), at(81)], name: Some("web".into()) },
            Names { listen: vec![at(25)], name: None },
        ];
        // An entry that a dead instance left under one of the names.
        drop(UnixListener::bind(scratch.path().join("service.web")).expect("bound"));
        let mut endpoint = Endpoint::bind(&EndpointOptions { services, ..options(&scratch) }).expect("bound");
        assert!(endpoint.missed().is_empty(), "{:?}", endpoint.missed());
        let all = ["balance.25.127.0.0.1", "balance.80.127.0.0.1", "balance.81.127.0.0.1", "service.web"];
        assert_eq!(scratch.names(), all);
        for name in all {
            assert!(UnixStream::connect(scratch.path().join(name)).is_ok(), "{name}");
        }
        endpoint
            .entries
            .retire(&["balance.80.127.0.0.1", "balance.81.127.0.0.1", "service.web"].map(str::to_owned));
        assert_eq!(scratch.names(), ["balance.25.127.0.0.1", "service.web"], "the name stays");
        let all: Vec<String> = (0..=MOST_STOPPED).map(|i| format!("service.n{i}")).collect();
        let wanted: Vec<String> = all.iter().cloned().chain(["balance.25.127.0.0.1".into()]).collect();
        assert!(endpoint.entries.become_these(&wanted).is_empty());
        endpoint.entries.become_these(&wanted[all.len()..]);
        assert_eq!(scratch.names().len(), MOST_STOPPED + 1, "as many as are kept");
        assert!(!scratch.names().contains(&"service.web".into()), "not the oldest");
        drop(endpoint);
        assert!(scratch.names().is_empty());
    }

    #[test]
    fn names_come_and_go_and_what_stays_is_never_gone() {
        let scratch = Scratch::new();
        let mut endpoint = Endpoint::bind(&options(&scratch)).expect("bound");
        let kept = fs::symlink_metadata(scratch.path().join("balance.80.127.0.0.1")).expect("there").ino();
        let names = |all: &[&str]| all.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        assert!(endpoint.entries.become_these(&names(&["balance.81.127.0.0.1", "service.web"])).is_empty());
        assert_eq!(scratch.names(), ["balance.81.127.0.0.1", "service.web"]);
        assert!(endpoint.entries.become_these(&names(&["service.web", "balance.80.127.0.0.1"])).is_empty());
        assert_eq!(scratch.names(), ["balance.80.127.0.0.1", "service.web"]);
        let path = scratch.path().join("balance.80.127.0.0.1");
        assert_eq!(fs::symlink_metadata(&path).expect("there").ino(), kept, "it is the same socket");
        assert!(UnixStream::connect(path).is_ok());
    }

    #[test]
    fn a_name_that_another_instance_answers_to_is_missed_and_the_others_serve() {
        let scratch = Scratch::new();
        let first = Endpoint::bind(&options(&scratch)).expect("bound");
        let at = |port| ListenSpan::from(SocketAddr::from(([127, 0, 0, 1], port)));
        let services = [81, 80].map(|port| Names { listen: vec![at(port)], name: None });
        let second = Endpoint::bind(&EndpointOptions { services: services.into(), ..options(&scratch) })
            .expect("bound");
        assert_eq!(second.missed().len(), 1);
        drop(second);
        assert_eq!(scratch.names(), ["balance.80.127.0.0.1"], "the other's is left alone");
        drop(first);
    }

    #[test]
    fn names_that_were_all_taken_away_come_back_with_another_socket() {
        let scratch = Scratch::new();
        let mut endpoint = Endpoint::bind(&options(&scratch)).expect("bound");
        let all: Vec<String> = ["balance.80.127.0.0.1", "service.web"].map(str::to_owned).into();
        assert!(endpoint.entries.become_these(&all).is_empty());
        assert!(!endpoint.entries.are_all_lost());
        for name in &all {
            fs::remove_file(scratch.path().join(name)).expect("ours");
        }
        assert!(endpoint.entries.are_all_lost());
        let (_listener, missed) = endpoint.entries.begin_again_all().expect("a socket");
        assert!(missed.is_empty(), "{missed:?}");
        assert_eq!(scratch.names(), all);
        for name in &all {
            assert!(UnixStream::connect(scratch.path().join(name)).is_ok(), "{name}");
        }
    }
}
