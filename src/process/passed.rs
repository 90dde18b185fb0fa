//! Listeners that somebody else opened for us: socket activation.
//!
//! Knows: the variables and the descriptors' numbers as sd_listen_fds(3) fixes them, what makes a socket a listener with streams.
//! Never: what is served on it.

use std::ffi::OsStr;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};
use rustix::net::{SocketAddrAny, SocketAddrUnix, SocketType, sockopt};

use super::manager::KEPT_PREFIX;

/// The first descriptor that is passed, by definition of the protocol.
const FIRST: i32 = 3;

/// One that was passed.
#[derive(Debug)]
pub struct PassedListener {
    /// What LISTEN_FDNAMES calls it.
    pub name: Option<String>,
    /// The socket. It listens, and is closed on exec.
    pub fd: OwnedFd,
    /// Where.
    pub address: PassedAddress,
}

/// Where a socket listens that was passed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PassedAddress {
    /// TCP.
    Net(SocketAddr),
    /// A Unix socket at a path.
    Path(Vec<u8>),
    /// A Unix socket with an abstract name.
    Abstract(Vec<u8>),
}

/// Why what was passed cannot be used. Whoever passed it expects it to be served, so each is a reason not to start.
#[derive(Debug, thiserror::Error)]
pub enum PassedError {
    /// A variable holds what it cannot hold.
    #[error("{name} '{value}' is not {right}")]
    Variable {
        /// The variable.
        name: &'static str,
        /// What it holds.
        value: String,
        /// What it should hold.
        right: &'static str,
    },
    /// There are not as many names as descriptors.
    #[error("LISTEN_FDS is {count}, but LISTEN_FDNAMES has {names} names")]
    Names {
        /// How many descriptors.
        count: usize,
        /// How many names.
        names: usize,
    },
    /// A descriptor that was promised is not there.
    #[error("LISTEN_FDS promises descriptor {fd}, which is not open")]
    Missing {
        /// Its number.
        fd: i32,
    },
    /// It is something else.
    #[error("descriptor {fd}, passed by LISTEN_FDS, is not a listening TCP or Unix socket: it is {what}")]
    NotAListener {
        /// Its number.
        fd: i32,
        /// What it is.
        what: &'static str,
    },
    /// The system does not say what it is.
    #[error("cannot use descriptor {fd}, passed by LISTEN_FDS: {source}")]
    System {
        /// Its number.
        fd: i32,
        /// What it says.
        source: io::Error,
    },
}

/// What the environment says of descriptors that are passed.
#[derive(Debug, Clone, Copy, Default)]
pub struct Variables<'a> {
    /// `LISTEN_PID`: the process that they are for.
    pub pid: Option<&'a OsStr>,
    /// `LISTEN_FDS`: how many.
    pub count: Option<&'a OsStr>,
    /// `LISTEN_FDNAMES`: what they are called, with colons between.
    pub names: Option<&'a OsStr>,
}

/// Takes the listeners that were passed in. None of them if they are meant for another process, or were taken already. Call it
/// before anything opens a descriptor.
///
/// # Errors
/// Garbage in the variables, or a descriptor that is no TCP socket that listens.
pub fn passed_listeners(variables: Variables<'_>) -> Result<Vec<PassedListener>, PassedError> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    let names = promised(variables, std::process::id())?;
    if names.is_empty() || TAKEN.swap(true, Ordering::Relaxed) {
        return Ok(Vec::new());
    }
    // All are looked for before one of them has an owner, who would close it.
    let numbered = (FIRST..).zip(names);
    let sockets = numbered.map(|(fd, name)| Ok((fd, name, take(fd)?))).collect::<Result<Vec<_>, _>>()?;
    let mut listeners = Vec::new();
    for (number, name, fd) in sockets {
        match judge(fd.as_fd(), number) {
            Ok(address) => listeners.push(PassedListener { name, fd, address }),
            // The manager kept it for the process before, which may have died while it had the port closed.
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
    /// The manager kept it for the process before, which has died. Nobody need want it.
    pub fn is_kept(&self) -> bool {
        self.name.as_deref().is_some_and(is_kept)
    }
}

/// The names, or their absence, of all that are promised to the process of this number.
fn promised(variables: Variables<'_>, me: u32) -> Result<Vec<Option<String>>, PassedError> {
    let number = |name, value: Option<&OsStr>| match value {
        None => Ok(None),
        Some(value) => match value.to_str().and_then(|text| text.parse::<u32>().ok()) {
            // A descriptor is a positive number.
            Some(number) if number <= i32::MAX.cast_unsigned() - FIRST.cast_unsigned() => Ok(Some(number)),
            _ => Err(PassedError::Variable {
                name,
                value: value.to_string_lossy().into_owned(),
                right: "a number",
            }),
        },
    };
    let (pid, count) = (variables.pid, variables.count);
    // Without a count nothing was passed, and without a process nobody knows to whom.
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
    // SAFETY: it is borrowed for two calls, which do nothing to a number that is not open but say so.
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

/// Where it listens, if it does and has streams.
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

/// `None`: it is of no family that is served.
fn address_of(any: SocketAddrAny) -> Option<PassedAddress> {
    if let Ok(address) = SocketAddr::try_from(any.clone()) {
        return Some(PassedAddress::Net(address));
    }
    let unix = SocketAddrUnix::try_from(any).ok()?;
    #[cfg(target_os = "linux")]
    if let Some(name) = unix.abstract_name() {
        return Some(PassedAddress::Abstract(name.to_vec()));
    }
    // One without a name does not listen, and that is said of it.
    Some(PassedAddress::Path(unix.path().map_or_else(Vec::new, |path| path.to_bytes().to_vec())))
}

/// TCP, also over several paths. There are other protocols with streams.
#[cfg(target_os = "linux")]
fn is_tcp(fd: BorrowedFd<'_>) -> rustix::io::Result<bool> {
    use rustix::net::ipproto;
    let protocol = sockopt::socket_protocol(fd)?;
    Ok(protocol.is_none_or(|protocol| protocol == ipproto::TCP || protocol == ipproto::MPTCP))
}

/// Of the internet's sockets with streams, those that listen are.
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
        let path = std::env::temp_dir().join(format!("balance-passed-{}", std::process::id()));
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
