//! Listeners passed by the service manager: socket activation.
//!
//! Knows: the variables and descriptor numbers of sd_listen_fds(3), what makes a socket a stream listener.
//! Never: what is served on it.

use std::ffi::OsStr;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};
use rustix::net::{SocketAddrAny, SocketAddrUnix, SocketType, sockopt};

use super::manager::KEPT_PREFIX;

/// The first passed descriptor, as the protocol defines it.
const FIRST: i32 = 3;

/// A listener that was passed.
#[derive(Debug)]
pub struct PassedListener {
    /// Its name in LISTEN_FDNAMES.
    pub name: Option<String>,
    /// The socket. It listens, and is closed on exec.
    pub fd: OwnedFd,
    /// The address it listens on.
    pub address: PassedAddress,
}

/// The address of a passed socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PassedAddress {
    /// A TCP address.
    Net(SocketAddr),
    /// A Unix socket at this path.
    Path(Vec<u8>),
    /// A Unix socket with this abstract name.
    Abstract(Vec<u8>),
}

/// Why passed descriptors cannot be used. The sender expects them to be served, so each of these prevents the
/// start.
#[derive(Debug, thiserror::Error)]
pub enum PassedError {
    /// A variable has an invalid value.
    #[error("{name} '{value}' is not {right}")]
    Variable {
        /// The name of the variable.
        name: &'static str,
        /// Its value.
        value: String,
        /// What it should contain.
        right: &'static str,
    },
    /// The number of names differs from the number of descriptors.
    #[error("LISTEN_FDS is {count}, but LISTEN_FDNAMES has {names} names")]
    Names {
        /// The number of descriptors.
        count: usize,
        /// The number of names.
        names: usize,
    },
    /// An announced descriptor is not open.
    #[error("LISTEN_FDS promises descriptor {fd}, which is not open")]
    Missing {
        /// Its number.
        fd: i32,
    },
    /// A descriptor is something other than a listening TCP or Unix socket.
    #[error("descriptor {fd}, passed by LISTEN_FDS, is not a listening TCP or Unix socket: it is {what}")]
    NotAListener {
        /// Its number.
        fd: i32,
        /// What it is.
        what: &'static str,
    },
    /// The system does not say what a descriptor is.
    #[error("cannot use descriptor {fd}, passed by LISTEN_FDS: {source}")]
    System {
        /// Its number.
        fd: i32,
        /// What the system said.
        source: io::Error,
    },
}

/// What the environment says about passed descriptors.
#[derive(Debug, Clone, Copy, Default)]
pub struct Variables<'a> {
    /// `LISTEN_PID`: the process that they are for.
    pub pid: Option<&'a OsStr>,
    /// `LISTEN_FDS`: how many there are.
    pub count: Option<&'a OsStr>,
    /// `LISTEN_FDNAMES`: their names, separated by colons.
    pub names: Option<&'a OsStr>,
}

/// Takes the listeners that were passed. The result is empty if they are for another process or were already
/// taken. Call it before anything opens a descriptor.
///
/// # Errors
/// A variable is invalid, or a descriptor is not a listening TCP or Unix socket.
pub fn passed_listeners(variables: Variables<'_>) -> Result<Vec<PassedListener>, PassedError> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    let names = promised(variables, std::process::id())?;
    if names.is_empty() || TAKEN.swap(true, Ordering::Relaxed) {
        return Ok(Vec::new());
    }
    // All descriptors are checked before the first one gets an owner, which would close it on an error.
    let numbered = (FIRST..).zip(names);
    let sockets = numbered.map(|(fd, name)| Ok((fd, name, take(fd)?))).collect::<Result<Vec<_>, _>>()?;
    let mut listeners = Vec::new();
    for (number, name, fd) in sockets {
        match judge(fd.as_fd(), number) {
            Ok(address) => listeners.push(PassedListener { name, fd, address }),
            // The manager kept it for a process that may have died while the port was closed.
            Err(_) if name.as_deref().is_some_and(is_kept) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(listeners)
}

/// Is this the name of a listener that the manager keeps for us?
fn is_kept(name: &str) -> bool {
    name.starts_with(KEPT_PREFIX)
}

impl PassedListener {
    /// The words by which the manager kept it for an earlier process that died, with `_` for each colon. Then it
    /// is no error if no service claims it. `None`: it was not kept.
    pub fn kept_at(&self) -> Option<&str> {
        self.name.as_deref()?.strip_prefix(KEPT_PREFIX)
    }
}

/// The name, if any, of each descriptor passed to the process with this ID.
fn promised(variables: Variables<'_>, me: u32) -> Result<Vec<Option<String>>, PassedError> {
    let number = |name, value: Option<&OsStr>| match value {
        None => Ok(None),
        Some(value) => match value.to_str().and_then(|text| text.parse::<u32>().ok()) {
            // The highest descriptor must fit into an `i32`.
            Some(number) if number <= i32::MAX.cast_unsigned() - FIRST.cast_unsigned() => Ok(Some(number)),
            _ => Err(PassedError::Variable {
                name,
                value: value.to_string_lossy().into_owned(),
                right: "a number",
            }),
        },
    };
    let (pid, count) = (variables.pid, variables.count);
    // Without LISTEN_FDS nothing was passed, and without LISTEN_PID nobody knows to which process.
    let (Some(_), Some(_)) = (pid, count) else { return Ok(Vec::new()) };
    if number("LISTEN_PID", pid)? != Some(me) {
        return Ok(Vec::new());
    }
    let count = number("LISTEN_FDS", count)?.unwrap_or(0) as usize;
    let Some(names) = variables.names.filter(|names| !names.is_empty() && count > 0) else {
        return Ok(vec![None; count]);
    };
    let names: Vec<_> = names.to_string_lossy().split(':').map(|name| Some(name.to_owned())).collect();
    if names.len() == count { Ok(names) } else { Err(PassedError::Names { count, names: names.len() }) }
}

#[allow(unsafe_code, reason = "a number from the environment becomes an owned descriptor")]
fn take(number: i32) -> Result<OwnedFd, PassedError> {
    // SAFETY: it is borrowed for two calls, which only return an error if the number is not open.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    if fcntl_getfd(borrowed).is_err() {
        return Err(PassedError::Missing { fd: number });
    }
    fcntl_setfd(borrowed, FdFlags::CLOEXEC)
        .map_err(|e| PassedError::System { fd: number, source: e.into() })?;
    // SAFETY: the protocol says that it was opened for this process, whose id it names; nothing in it uses the number yet,
    // and `TAKEN` lets it become an owner once only.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// The address of a listening stream socket, or what the descriptor is instead.
fn judge(fd: BorrowedFd<'_>, number: i32) -> Result<PassedAddress, PassedError> {
    let is = |what| PassedError::NotAListener { fd: number, what };
    let failed = |e: rustix::io::Errno| PassedError::System { fd: number, source: e.into() };
    let kind = match sockopt::socket_type(fd) {
        Err(rustix::io::Errno::NOTSOCK) => return Err(is("not a socket")),
        kind => kind.map_err(failed)?,
    };
    let Some(address) = address_of(rustix::net::getsockname(fd).map_err(failed)?) else {
        return Err(is("a socket of another family"));
    };
    let is_net = matches!(address, PassedAddress::Net(_));
    if kind != SocketType::STREAM || is_net && !is_tcp(fd).map_err(failed)? {
        return Err(is("a socket of another protocol"));
    }
    if rustix::net::getpeername(fd).is_ok() {
        return Err(is("a connection (Accept=yes in its unit?)"));
    }
    if !sockopt::socket_acceptconn(fd).map_err(failed)? {
        return Err(is("a socket that does not listen"));
    }
    Ok(address)
}

/// `None`: the address family is not supported.
fn address_of(any: SocketAddrAny) -> Option<PassedAddress> {
    if let Ok(address) = SocketAddr::try_from(any.clone()) {
        return Some(PassedAddress::Net(address));
    }
    let unix = SocketAddrUnix::try_from(any).ok()?;
    #[cfg(target_os = "linux")]
    if let Some(name) = unix.abstract_name() {
        return Some(PassedAddress::Abstract(name.to_vec()));
    }
    // A Unix socket without a name does not listen, and the caller reports that.
    Some(PassedAddress::Path(unix.path().map_or_else(Vec::new, |path| path.to_bytes().to_vec())))
}

/// Is it TCP, including Multipath TCP? There are other stream protocols.
#[cfg(target_os = "linux")]
fn is_tcp(fd: BorrowedFd<'_>) -> rustix::io::Result<bool> {
    use rustix::net::ipproto;
    let protocol = sockopt::socket_protocol(fd)?;
    Ok(protocol.is_none_or(|protocol| protocol == ipproto::TCP || protocol == ipproto::MPTCP))
}

/// On other systems, stream sockets of the internet families are taken for TCP.
#[cfg(not(target_os = "linux"))]
fn is_tcp(_: BorrowedFd<'_>) -> rustix::io::Result<bool> {
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;

    fn of<'a>(pid: &'a str, count: &'a str, names: Option<&'a str>) -> Variables<'a> {
        Variables { pid: Some(pid.as_ref()), count: Some(count.as_ref()), names: names.map(AsRef::as_ref) }
    }

    #[test]
    fn what_is_promised_to_this_process_is_taken_at_its_word() {
        let count = |variables| promised(variables, 7).map(|names| names.len()).map_err(|e| e.to_string());
        assert_eq!(count(Variables::default()), Ok(0));
        assert_eq!(count(Variables { pid: Some("7".as_ref()), ..Variables::default() }), Ok(0));
        assert_eq!(count(Variables { count: Some("1".as_ref()), ..Variables::default() }), Ok(0));
        assert_eq!(count(of("8", "1", None)), Ok(0), "another process");
        assert_eq!(count(of("8", "many", None)), Ok(0), "none of our business");
        assert_eq!(count(of("7", "0", Some("a"))), Ok(0));
        assert_eq!(count(of("7", "2", None)), Ok(2));
        assert_eq!(count(of("7", "2", Some(""))), Ok(2));
        let wrong = |text: &str| Err(text.to_owned());
        assert_eq!(count(of("x", "1", None)), wrong("LISTEN_PID 'x' is not a number"));
        for count_word in ["many", "", "-1", "1 ", "2147483647", "99999999999"] {
            let text = format!("LISTEN_FDS '{count_word}' is not a number");
            assert_eq!(count(of("7", count_word, None)), wrong(&text));
        }
        let text = "LISTEN_FDS is 2, but LISTEN_FDNAMES has 3 names";
        assert_eq!(count(of("7", "2", Some("a:b:c"))), wrong(text));
        let names = promised(of("7", "2", Some("web:")), 7).expect("two names");
        assert_eq!(names, [Some("web".to_owned()), Some(String::new())]);
    }

    #[test]
    fn only_a_tcp_socket_that_listens_is_a_listener() {
        let judged = |fd: &dyn AsFd| judge(fd.as_fd(), 3).map_err(|e| e.to_string());
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let address = listener.local_addr().expect("an address");
        assert_eq!(judged(&listener), Ok(PassedAddress::Net(address)));
        let six = TcpListener::bind(("::1", 0)).expect("a free port");
        assert_eq!(judged(&six), Ok(PassedAddress::Net(six.local_addr().expect("an address"))));
        let is = |what: &str| {
            Err(format!(
                "descriptor 3, passed by LISTEN_FDS, is not a listening TCP or Unix socket: it is {what}"
            ))
        };
        let client = TcpStream::connect(address).expect("a connection");
        assert_eq!(judged(&client), is("a connection (Accept=yes in its unit?)"));
        let bound =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
        bound.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a free port");
        assert_eq!(judged(&bound), is("a socket that does not listen"));
        assert_eq!(
            judged(&UdpSocket::bind(("127.0.0.1", 0)).expect("a port")),
            is("a socket of another protocol")
        );
        let path = std::env::temp_dir().join(format!(
            "balance-passed-{:016x}",
            std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0)
        ));
        let at = PassedAddress::Path(path.as_os_str().as_encoded_bytes().to_vec());
        assert_eq!(judged(&UnixListener::bind(&path).expect("a socket")), Ok(at));
        std::fs::remove_file(path).expect("our own file");
        assert_eq!(
            judged(&UnixStream::pair().expect("a pair").0),
            is("a connection (Accept=yes in its unit?)")
        );
        assert_eq!(judged(&std::fs::File::open("/dev/null").expect("a file")), is("not a socket"));
    }

    #[test]
    fn a_descriptor_that_is_not_there_is_missed() {
        let missing = take(i32::MAX - 7).expect_err("nobody has so many");
        assert_eq!(
            missing.to_string(),
            format!("LISTEN_FDS promises descriptor {}, which is not open", i32::MAX - 7)
        );
    }
}
