//! Where the control sockets of instances are, and what their entries are called.
//!
//! Knows: which directories can be trusted, entry names. Never: sockets, the environment (paths are handed
//! in).
//! Source: docs/control.md, "Where the socket is".

use std::fmt;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use rustix::fs::{Mode, OFlags, RawMode};

use crate::control::peer;
use crate::spec::{Address, ListenSpan, UnixName};

/// A directory for entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Directory {
    /// For all users, such as `/run/balance`; created with mode 01777 if we may.
    Shared(PathBuf),
    /// For one user, such as `$XDG_RUNTIME_DIR/balance`; created with mode 0700.
    Private(PathBuf),
}

/// Other users could change what is in the directory. The text says how, and what to do.
#[derive(Debug, thiserror::Error)]
#[error("not a safe directory: {0}")]
pub(crate) struct Unsafe(String);

impl Unsafe {
    /// Is this the error of a directory that exists but cannot be trusted?
    pub(crate) fn is_cause_of(error: &io::Error) -> bool {
        error.get_ref().is_some_and(|inner| inner.is::<Self>())
    }

    fn error(why: impl Into<String>) -> io::Error {
        io::Error::new(ErrorKind::PermissionDenied, Self(why.into()))
    }
}

/// An open directory that can be trusted. All operations go through its descriptor, whatever its path means
/// by then.
#[derive(Debug)]
pub(crate) struct OpenDirectory {
    fd: OwnedFd,
    path: PathBuf,
    is_shared: bool,
}

impl OpenDirectory {
    /// The path by which it was opened.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Is it for all users?
    pub(crate) fn is_shared(&self) -> bool {
        self.is_shared
    }

    /// The names in it; nothing if it cannot be listed.
    pub(crate) fn names(&self) -> impl Iterator<Item = String> + use<> {
        let all = rustix::fs::Dir::read_from(&self.fd).into_iter().flatten().flatten();
        all.filter_map(|entry| Some(entry.file_name().to_str().ok()?.to_owned()))
    }
}

impl AsFd for OpenDirectory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

const STICKY: RawMode = 0o1000;
const BY_GROUP: RawMode = 0o020;
const BY_ALL: RawMode = 0o002;

impl Directory {
    /// Its path.
    pub fn path(&self) -> &Path {
        match self {
            Self::Shared(path) | Self::Private(path) => path,
        }
    }

    /// Opens the directory to look for entries, if it can be trusted. It must be a real directory (no link)
    /// of root or of ourselves, where nobody else can change the entries of others. A private one must be our
    /// own, and nobody else may write there. Root may also look into the private directories of others.
    pub(crate) fn open(&self) -> io::Result<OpenDirectory> {
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(self.path(), flags, Mode::empty())?;
        let stat = rustix::fs::fstat(&fd)?;
        let (own, may_write) = (peer::own_uid(), stat.st_mode & (BY_GROUP | BY_ALL));
        let is_open_to_all = match self {
            // Where others may write, only the sticky bit protects each user's entries.
            Self::Shared(_) if stat.st_mode & STICKY != 0 => false,
            // Our own group often has no other member.
            Self::Shared(_) if stat.st_gid == peer::own_gid() => may_write & BY_ALL != 0,
            Self::Shared(_) | Self::Private(_) => may_write != 0,
        };
        let is_strange = match self {
            Self::Shared(_) => stat.st_uid != own && stat.st_uid != 0,
            // Root may look into the private directories of users: it only reads there what the user may know
            // anyway.
            Self::Private(_) => stat.st_uid != own && own != 0,
        };
        if is_strange {
            return Err(Unsafe::error(format!("it belongs to user {}", stat.st_uid)));
        }
        if is_open_to_all {
            let cure = if matches!(self, Self::Shared(_)) { "+t" } else { "go-w" };
            let path = self.path().display();
            return Err(Unsafe::error(format!("others may change what is in it; chmod {cure} {path}")));
        }
        let is_shared = matches!(self, Self::Shared(_));
        Ok(OpenDirectory { fd, path: self.path().to_owned(), is_shared })
    }

    /// Opens the directory to put an entry there, and creates it if it is missing. In addition to what
    /// [`Directory::open`] requires, nobody else may be able to put another directory in its place.
    pub(crate) fn make(&self) -> io::Result<OpenDirectory> {
        let mode = match self {
            Self::Shared(_) => Mode::from_raw_mode(0o1777),
            Self::Private(_) => Mode::from_raw_mode(0o700),
        };
        match rustix::fs::mkdir(self.path(), mode) {
            Ok(()) => {
                let opened = self.open_for_good()?;
                // mkdir(2) applies the umask and may leave out the sticky bit.
                rustix::fs::fchmod(&opened, mode)?;
                Ok(opened)
            }
            Err(rustix::io::Errno::EXIST) => self.open_for_good(),
            // On a read-only /run, mkdir fails though the directory may exist.
            Err(error) => self.open_for_good().map_err(|_| error.into()),
        }
    }

    /// Creates the directory if it is missing and we may. Errors are ignored: the code that uses it reports
    /// them.
    pub fn make_if_missing(&self) {
        let _ = self.make();
    }

    fn open_for_good(&self) -> io::Result<OpenDirectory> {
        let opened = self.open()?;
        let owner = rustix::fs::fstat(&opened)?.st_uid;
        if matches!(self, Self::Private(_)) && owner != peer::own_uid() {
            return Err(Unsafe::error(format!("it belongs to user {owner}")));
        }
        let real = std::fs::canonicalize(self.path())?;
        for path in real.ancestors().skip(1) {
            let mode = rustix::fs::stat(path)?.st_mode;
            if mode & BY_ALL != 0 && mode & STICKY == 0 {
                let path = path.display();
                return Err(Unsafe::error(format!("all may change what is in {path}; chmod +t {path}")));
            }
        }
        Ok(opened)
    }
}

/// An IP address in the form in which entries and operators compare it: a v4-mapped address is its v4
/// address, and a link-local one has a zone, since every interface may have the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    ip: IpAddr,
    /// The number of the interface; 0 = no zone.
    zone: u32,
}

impl Place {
    /// Is it the wildcard address, which stands for all addresses?
    pub(crate) fn is_wildcard(self) -> bool {
        self.ip.is_unspecified()
    }

    /// Is it the address that was typed, apart from a zone that was left out?
    pub(crate) fn is_near(self, typed: Self) -> bool {
        self.ip == typed.ip && typed.zone == 0
    }

    /// The address as an operator types it, with the name of the interface.
    pub(crate) fn typed(&self) -> String {
        let name = Some(self.zone).filter(|zone| *zone != 0).and_then(interface_name);
        name.map_or_else(|| self.to_string(), |name| format!("{}%{name}", self.ip))
    }

    /// The address with a port, as `use` takes it.
    pub(crate) fn with_port(self, port: u16) -> SocketAddr {
        match self.ip {
            IpAddr::V4(ip) => SocketAddr::from((ip, port)),
            IpAddr::V6(ip) => SocketAddrV6::new(ip, port, 0, self.zone).into(),
        }
    }
}

fn interface_name(number: u32) -> Option<String> {
    // nix does not check for the error of a number that no interface has; then the name is empty.
    nix::net::if_::if_indextoname(number).ok()?.into_string().ok().filter(|name| !name.is_empty())
}

impl From<SocketAddr> for Place {
    fn from(address: SocketAddr) -> Self {
        let zone = if let SocketAddr::V6(v6) = address { v6.scope_id() } else { 0 };
        Self { ip: address.ip().to_canonical(), zone }
    }
}

impl From<IpAddr> for Place {
    fn from(ip: IpAddr) -> Self {
        Self { ip: ip.to_canonical(), zone: 0 }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.zone {
            0 => write!(f, "{}", self.ip),
            zone => write!(f, "{}%{zone}", self.ip),
        }
    }
}

impl FromStr for Place {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (ip, zone) = match text.split_once('%') {
            None => (text, 0),
            Some((ip, zone)) => (ip, zone.parse().map_err(drop)?),
        };
        Ok(Self { zone, ..Self::from(ip.parse::<IpAddr>().map_err(drop)?) })
    }
}

/// The name of the entry for an address with these ports.
pub(crate) fn entry_name(span: ListenSpan) -> String {
    let (ports, place) = match span.first() {
        Address::Net(first) => (span.ports(), Place::from(first)),
        Address::Unix(name) => return unix_entry_name(name),
    };
    match ports.start() == ports.end() {
        true => format!("balance.{}.{place}", ports.start()),
        false => format!("balance.{}-{}.{place}", ports.start(), ports.end()),
    }
}

/// The beginning of the entry name of a Unix socket.
const UNIX: &str = "balance.unix.";
/// A longer name is shortened. A socket is first bound under an even longer name made of this one, and a path
/// in a socket address has at most 107 bytes.
const LONGEST_PLAIN: usize = 50;
/// Number of bytes of a longer name that are kept in front of the checksum.
const BEGINNING: usize = 32;

/// The entry name of a Unix socket: its own name, with a comma for each slash (its own name has no commas).
/// If it is long, a checksum replaces all after the beginning; a program that finds such an entry asks for
/// the socket by its whole name.
fn unix_entry_name(name: UnixName) -> String {
    let own = name.to_string().replace('/', ",").replace(APART, "%7E");
    let own = own.strip_prefix(UnixName::PREFIX).unwrap_or(&own);
    match own.get(..BEGINNING) {
        Some(beginning) if own.len() > LONGEST_PLAIN => {
            // FNV-1a, because it gives the same value in every process.
            let sum = own.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |sum, byte| {
                (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
            });
            format!("{UNIX}{beginning},,{sum:016x}")
        }
        _ => format!("{UNIX}{own}"),
    }
}

/// The name of the Unix socket that an entry is for. If the entry's name was shortened, so is this one.
pub(crate) fn unix_entry(name: &str) -> Option<String> {
    Some(format!("{}{}", UnixName::PREFIX, plain_name(name).strip_prefix(UNIX)?.replace(',', "/")))
}

/// The entry name for the name of a service.
pub(crate) fn service_entry_name(name: &str) -> String {
    format!("service.{name}")
}

/// The entry name of a process that takes no clients any more. By then its successor has the names of its
/// services.
pub(crate) fn process_name(pid: u32) -> String {
    format!("process.{pid}")
}

/// The name of the service that an entry is for; `None` for other entries.
pub(crate) fn service_name(name: &str) -> Option<&str> {
    plain_name(name).strip_prefix("service.").filter(|name| !name.is_empty())
}

/// Separates a plain name from the suffix that makes it unique where the plain name is taken.
const APART: char = '~';

/// The name to use if another user, or an instance in another network namespace, has the plain one.
pub(crate) fn name_apart(name: &str, uid: u32, namespace: Option<u64>) -> String {
    format!("{name}{APART}{uid}.{}", namespace.unwrap_or(0))
}

/// The plain name of an entry, without such a suffix.
pub(crate) fn plain_name(name: &str) -> &str {
    name.split_once(APART).map_or(name, |(plain, _)| plain)
}

/// The ports and the address of an entry; `None` for other entries.
pub(crate) fn entry_place(name: &str) -> Option<(RangeInclusive<u16>, Place)> {
    let (ports, place) = plain_name(name).strip_prefix("balance.")?.split_once('.')?;
    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
    Some((first.parse().ok()?..=last.parse().ok()?, place.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;
    use crate::control::scratch::Scratch;

    #[test]
    fn names_carry_port_and_canonical_address() {
        let at = |address: &str| Place::from(address.parse::<SocketAddr>().expect("an address"));
        let name = |address: &str| entry_name(address.parse().expect("an address with ports"));
        assert_eq!(name("0.0.0.0:80"), "balance.80.0.0.0.0");
        assert_eq!(name("[::]:80"), "balance.80.::");
        assert_eq!(name("0.0.0.0:80-90"), "balance.80-90.0.0.0.0");
        assert_eq!(name("[::ffff:10.1.1.3]:80"), "balance.80.10.1.1.3");
        assert_eq!(name("[fe80::1%3]:80"), "balance.80.fe80::1%3");
        for address in ["[2001:db8::1]:80", "[fe80::1%3]:80", "10.1.1.3:80"] {
            assert_eq!(entry_place(&name(address)), Some((80..=80, at(address))));
            assert_eq!(entry_place(&name_apart(&name(address), 1000, Some(7))), Some((80..=80, at(address))));
            let range = name(&format!("{address}-90"));
            assert_eq!(entry_place(&range), Some((80..=90, at(address))), "{range}");
        }
        for (socket, entry) in [
            ("unix:/run/pg.sock", "balance.unix.,run,pg.sock"),
            ("unix:@pg~1", "balance.unix.@pg%7E1"),
            ("unix:/run/my%20app", "balance.unix.,run,my%20app"),
        ] {
            assert_eq!(name(socket), entry);
            assert_eq!(entry_place(entry), None);
            assert_eq!(unix_entry(entry).and_then(|text| text.parse().ok()), socket.parse::<UnixName>().ok());
            let apart = name_apart(entry, 1000, Some(7));
            assert_eq!(plain_name(&apart), entry);
        }
        let long = |last: char| format!("unix:/{}{last}", "%FF".repeat(105));
        assert!(name(&long('a')).len() < 64 && name(&long('a')) != name(&long('b')));
        assert!(at("[fe80::1%3]:80").is_near(at("[fe80::1]:80")));
        assert!(!at("[fe80::1%3]:80").is_near(at("[fe80::1%4]:80")));
        for name in ["balance.80", ".balance.80.0.0.0.0.7", "x", "balance.80.::%x", "balance.70000.::"] {
            assert_eq!(entry_place(name), None, "{name}");
        }
    }

    #[test]
    fn a_directory_where_all_may_write_and_nothing_is_sticky_is_refused() {
        let scratch = Scratch::new();
        for (mode, is_safe) in [(0o777, false), (0o1777, true), (0o775, true), (0o755, true), (0o700, true)] {
            fs::set_permissions(scratch.path(), fs::Permissions::from_mode(mode)).expect("our own");
            let opened = scratch.shared().open();
            assert_eq!(opened.is_ok(), is_safe, "{mode:o}");
            assert!(opened.err().is_none_or(|error| Unsafe::is_cause_of(&error)));
        }
    }

    #[test]
    fn directories_of_the_right_mode_are_made_and_unsafe_ones_refused() {
        let scratch = Scratch::new();
        let mode = |path: &Path| fs::symlink_metadata(path).expect("there").permissions().mode() & 0o7777;
        let shared = Directory::Shared(scratch.path().join("new"));
        shared.make().expect("made");
        assert_eq!(mode(shared.path()), 0o1777);
        scratch.private().make().expect("made");
        assert_eq!(mode(scratch.private().path()), 0o700);
        fs::set_permissions(scratch.private().path(), fs::Permissions::from_mode(0o770)).expect("set");
        assert!(scratch.private().make().is_err());
        let link = scratch.path().join("link");
        symlink(shared.path(), &link).expect("linked");
        assert!(Directory::Shared(link).make().is_err());
        assert!(Directory::Shared(scratch.path().join("no/where")).make().is_err());
    }
}
