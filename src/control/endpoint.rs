//! The entry of an instance in a run directory: how it is made safely, how it goes, how it is connected to.
//!
//! Knows: sockets as files, their owners and modes. Never: the protocol, commands.
//! Source: docs/control.md, "Where the socket is".

use std::fmt;
use std::io::{self, BufReader, ErrorKind};
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, RawMode};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::control::directory::{Directory, Unsafe, entry_name, name_apart, service_entry_name};
use crate::control::peer;
use crate::control::wire::{Greeting, Line, Lines, printable};

/// Clients that the kernel keeps waiting for us.
const BACKLOG: i32 = 64;
/// How long an instance may take to say who it is.
const HELLO: Duration = Duration::from_secs(1);
/// Names tried for the socket before it is renamed; more than one only if somebody is in our way on purpose.
const TEMPORARY_NAMES: u32 = 16;

/// What an endpoint is made from.
#[derive(Debug, Clone)]
pub struct EndpointOptions {
    /// The places to try, in this order.
    pub directories: Vec<Directory>,
    /// What the services of the instance are found by, one each; at least one.
    pub services: Vec<Names>,
    /// A unix group (name or number) whose members may control the instance too.
    pub group: Option<String>,
}

/// What a service is found by.
#[derive(Debug, Clone)]
pub struct Names {
    /// Where it listens; at least one.
    pub listen: Vec<SocketAddr>,
    /// What it is called, if it has a name.
    pub name: Option<String>,
}

impl Names {
    fn entries(&self) -> impl Iterator<Item = String> {
        let addresses = self.listen.iter().map(|at| entry_name(at.port(), (*at).into()));
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
    /// No directory will do. The causes, in the order of the directories.
    #[error("cannot make a control socket in {}", list(.0))]
    NoDirectory(Vec<(PathBuf, io::Error)>),
}

fn list(causes: &[(PathBuf, io::Error)]) -> String {
    let causes: Vec<String> =
        causes.iter().map(|(path, cause)| format!("{}: {cause}", path.display())).collect();
    if causes.is_empty() { "any directory: none is known".into() } else { causes.join(", ") }
}

/// The listening control socket of an instance. Dropped in the process that serves, it is removed; a parent that
/// forked must leave by `exit`, without dropping it.
#[derive(Debug)]
pub struct Endpoint {
    pub(crate) listener: UnixListener,
    /// Those of each service, in the order of the services.
    pub(crate) entries: Vec<Vec<Entry>>,
    /// Names that could not be had, and why: the services are there all the same.
    missed: Vec<(PathBuf, io::Error)>,
    pub(crate) owner: u32,
    pub(crate) group_named: bool,
}

impl Endpoint {
    /// Makes the socket in the first directory where that is possible. What was left behind by an instance that is
    /// gone, or planted by somebody else, is replaced; links are never followed.
    ///
    /// # Errors
    /// When an instance of ours answers there, the group is unknown, or no directory will do.
    pub fn bind(options: &EndpointOptions) -> Result<Self, EndpointError> {
        let group = match &options.group {
            None => None,
            Some(name) => Some(group_id(name).ok_or_else(|| EndpointError::UnknownGroup(name.clone()))?),
        };
        let names: Vec<Vec<String>> =
            options.services.iter().map(|service| service.entries().collect()).collect();
        let Some(first) = names.first().and_then(|names| names.first()) else {
            return Err(EndpointError::NoDirectory(Vec::new()));
        };
        let mut causes = Vec::new();
        for directory in &options.directories {
            let path = directory.path().join(first);
            match bind_where_free(directory, first, group) {
                Err(BindError::Busy(path)) => return Err(EndpointError::Busy(path)),
                Ok((listener, entry)) => {
                    let mut entries = Vec::new();
                    let mut missed = Vec::new();
                    let mut made = Some(entry);
                    for names in &names {
                        let mut ours: Vec<Entry> = made.take().into_iter().collect();
                        let original =
                            entries.first().and_then(|all: &Vec<Entry>| all.first()).or(ours.first());
                        let Some(original) = original.map(Entry::handle) else { break };
                        for name in names.iter().skip(ours.len()) {
                            match original.link(name) {
                                Ok(entry) => ours.push(entry),
                                Err(BindError::Busy(path)) => {
                                    missed.push((path, io::Error::other("another instance answers there")));
                                }
                                Err(BindError::Io(error)) => {
                                    missed.push((original.path.with_file_name(name), error))
                                }
                            }
                        }
                        entries.push(ours);
                    }
                    let owner = peer::own_uid();
                    // That a directory is not for us is no news; that it is not safe is.
                    missed.extend(causes.into_iter().filter(|(_, cause)| Unsafe::is_cause_of(cause)));
                    return Ok(Self { listener, entries, missed, owner, group_named: group.is_some() });
                }
                Err(BindError::Io(error)) => causes.push((path, error)),
            }
        }
        Err(EndpointError::NoDirectory(causes))
    }

    /// Where it is: the first of its names.
    pub fn path(&self) -> Option<&Path> {
        self.entries.first()?.first().map(|entry| entry.path.as_path())
    }

    /// Names that could not be had, and why.
    pub fn missed(&self) -> &[(PathBuf, io::Error)] {
        &self.missed
    }

    /// Removes the entries that still are ours. To be called before the TCP listeners are closed: until then no
    /// successor can have put its own there.
    pub fn remove(&mut self) {
        self.entries.iter_mut().flatten().for_each(Entry::remove);
    }
}

/// A name in a directory that is ours as long as it is the same file.
pub(crate) struct Entry {
    directory: Arc<OwnedFd>,
    /// Its name now.
    name: String,
    /// Its name while it is not hidden.
    shown: Option<String>,
    path: PathBuf,
    file: Option<(u64, u64)>,
}

/// A socket's file, to make more names for it.
struct Handle {
    directory: Arc<OwnedFd>,
    name: String,
    path: PathBuf,
    file: Option<(u64, u64)>,
}

impl Handle {
    /// Gives the socket one more name. What was left behind there, or planted, is replaced; what answers is not.
    fn link(&self, name: &str) -> Result<Entry, BindError> {
        self.link_as(name).or_else(|error| match error {
            BindError::Io(_) => self.link_as(&own_name_apart(name)),
            BindError::Busy(_) if is_elsewhere(&self.path.with_file_name(name)) => {
                self.link_as(&own_name_apart(name))
            }
            BindError::Busy(_) => Err(error),
        })
    }

    fn link_as(&self, name: &str) -> Result<Entry, BindError> {
        let path = self.path.with_file_name(name);
        let entry = |name: &str| Entry {
            directory: Arc::clone(&self.directory),
            name: name.into(),
            shown: None,
            path: path.clone(),
            file: self.file,
        };
        let link = |to: &str| {
            let none = AtFlags::empty();
            rustix::fs::linkat(&self.directory, self.name.as_str(), &self.directory, to, none)
        };
        match link(name) {
            Ok(()) => return Ok(entry(name)),
            Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(BindError::Io(error.into())),
        }
        if listener_of(&path) == Some(peer::own_uid()) {
            return Err(BindError::Busy(path));
        }
        let temporary = format!(".{name}.{}.link", std::process::id());
        // One of a process of this number that is gone.
        let _ = rustix::fs::unlinkat(&self.directory, temporary.as_str(), AtFlags::empty());
        link(&temporary).map_err(io::Error::from)?;
        let mut made = entry(&temporary);
        rustix::fs::renameat(&self.directory, temporary.as_str(), &self.directory, name)
            .map_err(io::Error::from)?;
        made.name = name.into();
        Ok(made)
    }
}

impl Entry {
    fn handle(&self) -> Handle {
        let Self { directory, name, path, file, .. } = self;
        Handle { directory: Arc::clone(directory), name: name.clone(), path: path.clone(), file: *file }
    }

    /// Takes the entry out of sight, so that no client finds it any more, but [`Entry::show`] can bring it back.
    pub(crate) fn hide(&mut self) {
        let hidden = format!(".{}.{}.hidden", self.name, std::process::id());
        if self.shown.is_none() && self.rename(&hidden) {
            self.shown = Some(std::mem::replace(&mut self.name, hidden));
        }
    }

    /// Undoes [`Entry::hide`].
    pub(crate) fn show(&mut self) {
        let Some(name) = self.shown.take() else { return };
        if self.rename(&name) {
            self.name = name;
        }
    }

    fn rename(&self, to: &str) -> bool {
        let ours = stat(&self.directory, &self.name).is_ok_and(|stat| Some(identity(&stat)) == self.file);
        ours && rustix::fs::renameat(&self.directory, self.name.as_str(), &self.directory, to).is_ok()
    }

    pub(crate) fn remove(&mut self) {
        let Some(file) = self.file.take() else { return };
        if stat(&self.directory, &self.name).is_ok_and(|stat| identity(&stat) == file) {
            // Nothing can be done about a failure, and an entry that nobody listens on does no harm.
            let _ = rustix::fs::unlinkat(&self.directory, self.name.as_str(), AtFlags::empty());
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.remove();
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Entry").field(&self.path).finish()
    }
}

/// Why an entry cannot be made.
#[derive(Debug)]
enum BindError {
    /// An instance of ours, in our network namespace, answers there.
    Busy(PathBuf),
    Io(io::Error),
}

impl From<io::Error> for BindError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

fn own_name_apart(name: &str) -> String {
    name_apart(name, peer::own_uid(), peer::own_namespace())
}

/// Under its plain name; or, where somebody else has that (an entry of another user that must not be touched, a
/// directory, an instance in another network namespace), under a name of its own beside it.
fn bind_where_free(
    directory: &Directory,
    name: &str,
    group: Option<Gid>,
) -> Result<(UnixListener, Entry), BindError> {
    let path = directory.path().join(name);
    let plain = if listener_of(&path) == Some(peer::own_uid()) {
        if !is_elsewhere(&path) {
            return Err(BindError::Busy(path));
        }
        Err(io::Error::from(ErrorKind::AddrInUse))
    } else {
        bind_in(directory, name, group)
    };
    plain.or_else(|error| {
        let apart = own_name_apart(name);
        let path = directory.path().join(&apart);
        if listener_of(&path) == Some(peer::own_uid()) {
            return Err(BindError::Busy(path));
        }
        // The first error is the one that the operator can do something about.
        bind_in(directory, &apart, group).map_err(|_| BindError::Io(error))
    })
}

/// Is the instance that answers here in another network namespace?
fn is_elsewhere(path: &Path) -> bool {
    let Ok((stream, _)) = connect(path, HELLO) else { return false };
    if stream.set_read_timeout(Some(HELLO)).is_err() {
        return false;
    }
    let mut lines = Lines::new(BufReader::new(stream));
    let greeting = match lines.read() {
        Ok(Line::Whole(line)) => Greeting::parse(&printable(line)),
        _ => None,
    };
    let theirs = greeting.and_then(|greeting| greeting.namespace);
    theirs.is_some_and(|theirs| peer::own_namespace().is_some_and(|ours| ours != theirs))
}

/// Binds to a temporary name, then renames over the final one: that replaces whatever was there in one step, and a
/// client meets either the old socket or one that listens.
fn bind_in(directory: &Directory, name: &str, group: Option<Gid>) -> io::Result<(UnixListener, Entry)> {
    let fd = directory.make()?;
    let mode = if group.is_some() { 0o660 } else { 0o600 };
    let (socket, temporary) = bind_temporary(directory.path(), name, mode)?;
    let path = directory.path().join(name);
    let mut entry = Entry { directory: Arc::new(fd), name: temporary, shown: None, path, file: None };
    let made = stat(&entry.directory, &entry.name)?;
    entry.file = Some(identity(&made));
    if let Some(group) = group {
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        rustix::fs::chownat(&entry.directory, entry.name.as_str(), None, Some(group), flags)?;
    }
    let is_ours = FileType::from_raw_mode(made.st_mode) == FileType::Socket && made.st_uid == peer::own_uid();
    if !is_ours || made.st_mode & 0o777 != mode {
        return Err(io::Error::other("the socket's file is not as it was made"));
    }
    socket.listen(BACKLOG)?;
    rustix::fs::renameat(&entry.directory, entry.name.as_str(), &entry.directory, name)?;
    entry.name = name.into();
    Ok((UnixListener::from(OwnedFd::from(socket)), entry))
}

fn bind_temporary(directory: &Path, name: &str, mode: RawMode) -> io::Result<(Socket, String)> {
    let pid = std::process::id();
    let mut in_the_way = io::Error::from(ErrorKind::AddrInUse);
    for attempt in 0..TEMPORARY_NAMES {
        let temporary =
            if attempt == 0 { format!(".{name}.{pid}") } else { format!(".{name}.{pid}.{attempt}") };
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        match bind_with_mode(&socket, &SockAddr::unix(directory.join(&temporary))?, mode) {
            Ok(()) => return Ok((socket, temporary)),
            // bind(2) follows no link and replaces nothing.
            Err(error) if error.kind() == ErrorKind::AddrInUse => in_the_way = error,
            Err(error) => return Err(error),
        }
    }
    Err(in_the_way)
}

/// Binds so that the file has this mode from the first moment.
fn bind_with_mode(socket: &Socket, address: &SockAddr, mode: RawMode) -> io::Result<()> {
    if cfg!(all(target_os = "linux", not(portable))) {
        // Here the file takes its mode from the socket, and the umask can only narrow it.
        rustix::fs::fchmod(socket, Mode::from_raw_mode(mode))?;
        if mode & 0o077 == 0 {
            return socket.bind(address);
        }
    }
    // The umask is a thing of the whole process. The program binds before it has threads; whoever else does it in several
    // at once takes turns.
    static UMASK: Mutex<()> = Mutex::new(());
    let _turn = UMASK.lock().unwrap_or_else(PoisonError::into_inner);
    let before = rustix::process::umask(Mode::from_raw_mode(0o777 & !mode));
    let bound = socket.bind(address);
    rustix::process::umask(before);
    bound
}

/// A connection to whoever listens at this entry, and the mode of its file. A server that takes longer than `patience`
/// to let us in is [`ErrorKind::WouldBlock`].
pub(crate) fn connect(path: &Path, patience: Duration) -> io::Result<(UnixStream, RawMode)> {
    let stat = rustix::fs::statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Socket {
        return Err(ErrorKind::ConnectionRefused.into());
    }
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_write_timeout(Some(patience))?;
    socket.connect(&SockAddr::unix(path)?)?;
    socket.set_write_timeout(None)?;
    Ok((UnixStream::from(OwnedFd::from(socket)), stat.st_mode))
}

/// The user who listens at this entry, if anybody does.
fn listener_of(path: &Path) -> Option<u32> {
    match connect(path, Duration::from_millis(200)) {
        Ok((stream, _)) => peer::uid(&stream).ok(),
        // Alive, but its backlog is full: all that is known is whose file it is.
        Err(error) if error.kind() == ErrorKind::WouldBlock => {
            rustix::fs::statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW).ok().map(|stat| stat.st_uid)
        }
        Err(_) => None,
    }
}

fn stat(directory: impl AsFd, name: &str) -> io::Result<rustix::fs::Stat> {
    Ok(rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?)
}

// The widths of these two differ between systems.
#[allow(clippy::unnecessary_cast, trivial_numeric_casts)]
fn identity(stat: &rustix::fs::Stat) -> (u64, u64) {
    (stat.st_dev as u64, stat.st_ino as u64)
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
    use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};

    use super::*;
    use crate::control::scratch::Scratch;

    fn options(scratch: &Scratch) -> EndpointOptions {
        let listen = vec![SocketAddr::from(([127, 0, 0, 1], 80))];
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
        let path = endpoint.path().expect("a name").to_owned();
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

    #[test]
    fn what_cannot_be_replaced_makes_it_go_by_a_name_beside() {
        let scratch = Scratch::new();
        fs::create_dir(scratch.path().join("balance.80.127.0.0.1")).expect("made");
        let endpoint = Endpoint::bind(&options(&scratch)).expect("bound");
        let apart = own_name_apart("balance.80.127.0.0.1");
        assert_eq!(endpoint.path().expect("a name"), scratch.path().join(&apart));
        assert!(UnixStream::connect(scratch.path().join(&apart)).is_ok());
        assert!(matches!(Endpoint::bind(&options(&scratch)), Err(EndpointError::Busy(_))));
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
    fn temporary_names_in_the_way_are_stepped_over() {
        let scratch = Scratch::new();
        let temporary = format!(".balance.80.127.0.0.1.{}", std::process::id());
        symlink("/nonexistent/x", scratch.path().join(&temporary)).expect("linked");
        let endpoint = Endpoint::bind(&options(&scratch)).expect("bound");
        assert!(is_socket(endpoint.path().expect("a name")));
        assert_eq!(scratch.names(), [temporary.as_str(), "balance.80.127.0.0.1"]);
    }

    #[test]
    fn a_live_instance_keeps_its_entry() {
        let scratch = Scratch::new();
        let first = Endpoint::bind(&options(&scratch)).expect("bound");
        let before = fs::symlink_metadata(first.path().expect("a name")).expect("there").ino();
        assert!(
            matches!(Endpoint::bind(&options(&scratch)), Err(EndpointError::Busy(path)) if Some(path.as_path()) == first.path())
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
        assert!(is_socket(second.path().expect("a name")));
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
        let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let services = vec![
            Names { listen: vec![at(80), at(81)], name: Some("web".into()) },
            Names { listen: vec![at(25)], name: None },
        ];
        // What was left behind under one of the names.
        drop(UnixListener::bind(scratch.path().join("service.web")).expect("bound"));
        let mut endpoint = Endpoint::bind(&EndpointOptions { services, ..options(&scratch) }).expect("bound");
        assert!(endpoint.missed().is_empty(), "{:?}", endpoint.missed());
        let all = ["balance.25.127.0.0.1", "balance.80.127.0.0.1", "balance.81.127.0.0.1", "service.web"];
        assert_eq!(scratch.names(), all);
        for name in all {
            assert!(UnixStream::connect(scratch.path().join(name)).is_ok(), "{name}");
        }
        endpoint.entries[0].iter_mut().for_each(Entry::remove);
        assert_eq!(scratch.names(), ["balance.25.127.0.0.1"]);
        drop(endpoint);
        assert!(scratch.names().is_empty());
    }

    #[test]
    fn a_name_that_another_instance_answers_to_is_missed_and_the_others_serve() {
        let scratch = Scratch::new();
        let first = Endpoint::bind(&options(&scratch)).expect("bound");
        let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let services = [81, 80].map(|port| Names { listen: vec![at(port)], name: None });
        let second = Endpoint::bind(&EndpointOptions { services: services.into(), ..options(&scratch) })
            .expect("bound");
        assert_eq!(second.missed().len(), 1);
        drop(second);
        assert_eq!(scratch.names(), ["balance.80.127.0.0.1"], "the other's is left alone");
        drop(first);
    }
}
