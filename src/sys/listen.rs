//! The listening socket: its address and options, and what an error of accept means.
//!
//! Knows: listener options, classes of accept errors. Never: what happens to a client.

use std::io;
use std::net::{Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Weak};

use rustix::io::Errno;
use rustix::net::sockopt;

use super::socket_file::{self, SocketFile, SocketFileId};
#[cfg(test)]
use super::trouble::{self, FaultPoint};
use super::{socket, unix};
use crate::spec::{Address, ClientSource, Keepalive, LostSocket, SocketAccess, UnixName};

/// Maximum length of the listen queue, as far as the system allows: a burst of clients waits instead of being
/// refused.
const BACKLOG: i32 = 65_535;

/// Which call failed while a listener was set up. Displays as 3.57 words it.
#[derive(Debug, thiserror::Error)]
#[error("{call}(): {} ({address})", describe(.source))]
pub struct ListenError {
    /// The name of the system call.
    pub call: &'static str,
    /// The address that it was for.
    pub address: Box<Address>,
    /// What the system said.
    pub source: io::Error,
}

/// The cause as strerror(3) words it, without the error number that Rust adds.
fn describe(error: &io::Error) -> String {
    let text = error.to_string();
    match text.split_once(" (os error") {
        Some((words, _)) => words.to_owned(),
        None => text,
    }
}

/// A bound, listening socket that all workers share. Dropping the last copy frees the port and removes the
/// file of a Unix socket.
#[derive(Debug, Clone)]
pub struct Listener {
    // The order matters: the file is removed while the socket still listens.
    file: Option<Arc<SocketFile>>,
    fd: Arc<OwnedFd>,
    address: Address,
    is_passed: bool,
}

/// A reference to a listener that may already be closed.
#[derive(Debug, Clone)]
pub struct ListenerHandle {
    file: Weak<SocketFile>,
    fd: Weak<OwnedFd>,
    address: Address,
    is_passed: bool,
}

impl ListenerHandle {
    /// The address it listens on.
    pub fn address(&self) -> Address {
        self.address
    }

    /// Does the service manager hold the socket, too? Shutting it down would then shut it down for both.
    pub fn is_passed(&self) -> bool {
        self.is_passed
    }

    /// The socket, to pass it to another process. `None`: it is closed.
    pub fn socket(&self) -> Option<Arc<OwnedFd>> {
        self.fd.upgrade()
    }

    /// The file of a Unix socket, if this process has to remove it. `None`: there is no such file, or another
    /// process removes it.
    pub fn file(&self) -> Option<SocketFileId> {
        self.file.upgrade().filter(|file| file.is_ours())?.id()
    }

    /// The file of a Unix socket, if this program made it, whichever process removes it.
    pub fn made(&self) -> Option<SocketFileId> {
        self.file.upgrade()?.id()
    }

    /// Why clients do not find a Unix socket by its path now. `None`: they do, or it has no path, or that cannot
    /// be found out.
    pub fn lost(&self) -> Option<LostSocket> {
        self.file.upgrade()?.lost()
    }

    /// Who may connect to a Unix socket with a file now. `None`: it has no file, or that cannot be found out.
    pub fn access(&self) -> Option<SocketAccess> {
        self.file.upgrade()?.access()
    }

    /// Did another process make the file of this Unix socket?
    pub fn has_foreign_file(&self) -> bool {
        self.file.upgrade().is_some_and(|file| file.is_foreign())
    }

    /// Says whether another process is to remove the file (`true`) or this one.
    pub fn leave_file(&self, is_left: bool) {
        if let Some(file) = self.file.upgrade() {
            if is_left { file.leave() } else { file.keep() }
        }
    }

    /// Sets who may connect to a Unix socket from now on.
    ///
    /// # Errors
    /// What chown(2) or chmod(2) says; `Unsupported` if balance has not made the socket's file.
    pub fn set_access(&self, access: SocketAccess) -> io::Result<()> {
        let text = "balance has not made the socket's file";
        let not_ours = || io::Error::new(io::ErrorKind::Unsupported, text);
        self.file.upgrade().ok_or_else(not_ours)?.set_access(access)
    }

    /// Sets the keepalive times of clients that connect from now on. `None`: the system's times.
    ///
    /// # Errors
    /// What setsockopt(2) says.
    pub fn set_keepalive(&self, keepalive: Option<Keepalive>) -> io::Result<()> {
        let (Some(fd), Some(address)) = (self.fd.upgrade(), self.address.net()) else { return Ok(()) };
        let usual = || socket::stream(address).and_then(|fresh| socket::keepalive_of(&fresh));
        socket::set_stream_options(&fd, Some(keepalive.map_or_else(usual, Ok)?))
    }
}

impl ListenerHandle {
    /// Stops listening but keeps the socket, so that another listener of this process can bind its port.
    /// `true`: it did listen.
    ///
    /// # Errors
    /// What shutdown(2) says. `PermissionDenied` for a socket passed by the service manager, which is not
    /// shut down.
    pub fn lay_down(&self) -> io::Result<bool> {
        let Some(fd) = self.fd.upgrade() else { return Ok(false) };
        if self.is_passed {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let listened = sockopt::socket_acceptconn(&fd)?;
        Listener { file: None, fd, address: self.address, is_passed: false }.free()?;
        Ok(listened)
    }

    /// Undoes [`lay_down`](Self::lay_down): listens again if it did listen, else claims the port for itself
    /// again. Does nothing if it is closed.
    ///
    /// # Errors
    /// What listen(2) says: another socket may have the port by now.
    pub fn take_up(&self, listened: bool) -> io::Result<()> {
        let Some(fd) = self.fd.upgrade() else { return Ok(()) };
        #[cfg(test)]
        trouble::strike(FaultPoint::Listen)?;
        match listened {
            true => Listener { file: None, fd, address: self.address, is_passed: self.is_passed }.listen(),
            false => Ok(sockopt::set_socket_reuseaddr(&fd, false)?),
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Listener {
    /// Binds and listens. `[::]` is dual-stack: IPv4 clients can connect, too.
    ///
    /// # Errors
    /// The failed call with its address and cause.
    pub fn bind(address: SocketAddr, keepalive: Option<Keepalive>) -> Result<Self, ListenError> {
        Self::bind_early(address, keepalive, false)
    }

    /// Binds and listens. With `freebind`, this host need not have the address yet.
    ///
    /// # Errors
    /// The failed call with its address and cause.
    pub fn bind_early(
        address: SocketAddr,
        keepalive: Option<Keepalive>,
        freebind: bool,
    ) -> Result<Self, ListenError> {
        let at =
            |call| move |source: io::Error| ListenError { call, address: Box::new(address.into()), source };
        let fd = socket::stream(address).map_err(at("socket"))?;
        sockopt::set_socket_reuseaddr(&fd, true).map_err(|e| at("setsockopt")(e.into()))?;
        if let SocketAddr::V6(v6) = address
            && (*v6.ip() == Ipv6Addr::UNSPECIFIED || v6.ip().to_ipv4_mapped().is_some())
        {
            sockopt::set_ipv6_v6only(&fd, false).map_err(|e| at("setsockopt")(e.into()))?;
        }
        if freebind {
            set_freebind(&fd, address).map_err(at("setsockopt"))?;
        }
        rustix::net::bind(&fd, &address).map_err(|e| at("bind")(e.into()))?;
        Self::prepare(fd, address, keepalive)
    }

    /// Listens on a Unix socket. An existing socket file on which nobody listens is replaced.
    ///
    /// # Errors
    /// The failed call with its address and cause.
    pub fn bind_unix(name: UnixName, access: SocketAccess) -> Result<Self, ListenError> {
        let address = Address::Unix(name);
        let at = |call| move |source: io::Error| ListenError { call, address: Box::new(address), source };
        let (fd, file) = if name.is_abstract() {
            let fd = unix::stream().map_err(at("socket"))?;
            let bound = unix::address(name).and_then(|to| Ok(rustix::net::bind(&fd, &to)?));
            bound.map_err(at("bind"))?;
            rustix::net::listen(&fd, BACKLOG).map_err(|e| at("listen")(e.into()))?;
            (fd, None)
        } else {
            let listened = socket_file::listen(name, access, BACKLOG);
            let (fd, file) = listened.map_err(|(call, source)| at(call)(source))?;
            (fd, Some(file))
        };
        Ok(Self { file, fd: Arc::new(fd), address, is_passed: false })
    }

    /// Takes over a Unix socket that another process bound. `file` is its file, if this process is to remove
    /// it later; until [`ListenerHandle::leave_file`] says so, the other process does.
    ///
    /// # Errors
    /// It cannot listen.
    pub fn inherit_unix(
        fd: OwnedFd,
        name: UnixName,
        file: Option<SocketFileId>,
    ) -> Result<Self, ListenError> {
        let address = Address::Unix(name);
        let at = |call| move |source: io::Error| ListenError { call, address: Box::new(address), source };
        rustix::io::ioctl_fionbio(&fd, true).map_err(|e| at("ioctl")(e.into()))?;
        rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC).map_err(|e| at("fcntl")(e.into()))?;
        rustix::net::listen(&fd, BACKLOG).map_err(|e| at("listen")(e.into()))?;
        let file = match file {
            Some(id) => Some(SocketFile::inherit(name, id)),
            None => (!name.is_abstract()).then(|| SocketFile::foreign(name)),
        };
        Ok(Self { file, fd: Arc::new(fd), address, is_passed: false })
    }

    /// Is there no file that this process may have to remove?
    pub fn lacks_file(&self) -> bool {
        self.file.as_ref().is_none_or(|file| file.is_foreign())
    }

    /// Do clients no longer find a Unix socket by its path?
    pub fn is_lost(&self) -> bool {
        self.file.as_ref().is_some_and(|file| file.lost().is_some())
    }

    /// Sets who may connect to a Unix socket from now on.
    ///
    /// # Errors
    /// What chown(2) or chmod(2) says.
    pub fn set_access(&self, access: SocketAccess) -> io::Result<()> {
        self.file.as_ref().map_or(Ok(()), |file| file.set_access(access))
    }

    /// Takes over a TCP socket that another process bound (socket activation, a predecessor). If it had
    /// stopped listening, it listens again.
    ///
    /// # Errors
    /// It is not a TCP socket, or it cannot listen.
    pub fn inherit(fd: OwnedFd, keepalive: Option<Keepalive>) -> Result<Self, ListenError> {
        let unknown = SocketAddr::from(([0, 0, 0, 0], 0));
        let address = rustix::net::getsockname(&fd)
            .map_err(io::Error::from)
            .and_then(|any| {
                SocketAddr::try_from(any).map_err(|_| io::Error::other("the inherited socket is not TCP/IP"))
            })
            .map_err(|source| ListenError {
                call: "getsockname",
                address: Box::new(unknown.into()),
                source,
            })?;
        let at =
            |call| move |source: io::Error| ListenError { call, address: Box::new(address.into()), source };
        // `listen` needs the option later, and connections inherit it from the listener.
        sockopt::set_socket_reuseaddr(&fd, true).map_err(|e| at("setsockopt")(e.into()))?;
        rustix::io::ioctl_fionbio(&fd, true).map_err(|e| at("ioctl")(e.into()))?;
        rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC).map_err(|e| at("fcntl")(e.into()))?;
        hold_port(&fd, address).map_err(at("bind"))?;
        Self::prepare(fd, address, keepalive)
    }

    fn prepare(fd: OwnedFd, address: SocketAddr, keepalive: Option<Keepalive>) -> Result<Self, ListenError> {
        let at =
            |call| move |source: io::Error| ListenError { call, address: Box::new(address.into()), source };
        socket::set_stream_options(&fd, keepalive).map_err(at("setsockopt"))?;
        rustix::net::listen(&fd, BACKLOG).map_err(|e| at("listen")(e.into()))?;
        let bound = rustix::net::getsockname(&fd).ok().and_then(|any| SocketAddr::try_from(any).ok());
        let address = bound.unwrap_or(address).into();
        Ok(Self { file: None, fd: Arc::new(fd), address, is_passed: false })
    }

    /// The same listener, marked as held by the service manager, too, if `is_passed`.
    #[must_use]
    pub fn passed(self, is_passed: bool) -> Self {
        Self { is_passed, ..self }
    }

    /// A handle that does not keep it open.
    pub fn handle(&self) -> ListenerHandle {
        let file = self.file.as_ref().map_or_else(Weak::new, Arc::downgrade);
        ListenerHandle {
            file,
            fd: Arc::downgrade(&self.fd),
            address: self.address,
            is_passed: self.is_passed,
        }
    }

    /// The address it listens on.
    pub fn address(&self) -> Address {
        self.address
    }

    /// Stops listening but keeps the port: connects are refused from now on. Nobody else can take the port,
    /// and no privilege is needed to listen again.
    ///
    /// # Errors
    /// The system cannot do this. (Linux can.)
    pub(crate) fn refuse(&self) -> io::Result<()> {
        let Some(address) = self.address.net() else {
            // A Unix socket that was shut down can never listen again.
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "a Unix socket cannot refuse for a while",
            ));
        };
        rustix::net::shutdown(&*self.fd, rustix::net::Shutdown::Read)?;
        // Not an error here: the port does refuse. If another socket took the port meanwhile, `listen`
        // reports it.
        let _ = hold_port(&self.fd, address);
        // Sockets that all have the option may share a port as long as none of them listens, so the option is
        // switched off.
        Ok(sockopt::set_socket_reuseaddr(&*self.fd, false)?)
    }

    /// Removes the file of a Unix socket, if that is this process's task. Afterwards nobody can connect
    /// except clients that already wait in the listen queue.
    pub(crate) fn remove_file(&self) {
        self.file.iter().for_each(|file| file.remove());
    }

    /// Stops listening for good, even if another process holds the socket, too: anyone may bind the port
    /// next.
    ///
    /// # Errors
    /// What shutdown(2) says.
    pub(crate) fn free(&self) -> io::Result<()> {
        self.remove_file();
        match rustix::net::shutdown(&*self.fd, rustix::net::Shutdown::Read) {
            // It did not listen any more.
            Ok(()) | Err(rustix::io::Errno::NOTCONN | rustix::io::Errno::INVAL) => {}
            Err(e) => return Err(e.into()),
        }
        if self.address.unix().is_some() {
            return Ok(());
        }
        // Sockets that all have the option may share a port as long as at most one of them listens.
        Ok(sockopt::set_socket_reuseaddr(&*self.fd, true)?)
    }

    /// Listens again.
    ///
    /// # Errors
    /// What listen(2) says, or bind(2) if the port was lost.
    pub(crate) fn listen(&self) -> io::Result<()> {
        if let Some(address) = self.address.net() {
            // Without the option, connections that are still open would prevent it.
            sockopt::set_socket_reuseaddr(&*self.fd, true)?;
            hold_port(&self.fd, address)?;
        }
        Ok(rustix::net::listen(&*self.fd, BACKLOG)?)
    }

    /// Accepts the next client.
    pub(crate) fn accept(&self) -> Result<(OwnedFd, ClientSource), AcceptError> {
        socket::accept(&*self.fd).map_err(AcceptError::from)
    }
}

/// Allows the socket to bind an address that no interface has.
#[cfg(target_os = "linux")]
fn set_freebind(fd: &OwnedFd, address: SocketAddr) -> io::Result<()> {
    let set = match address {
        SocketAddr::V4(_) => sockopt::set_ip_freebind(fd, true),
        SocketAddr::V6(_) => sockopt::set_ipv6_freebind(fd, true),
    };
    Ok(set?)
}

#[cfg(not(target_os = "linux"))]
fn set_freebind(_: &OwnedFd, _: SocketAddr) -> io::Result<()> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "this system has no IP_FREEBIND"))
}

/// Binds a port again that the kernel had chosen: the kernel releases such a port when the socket stops
/// listening, though getsockname(2) still shows it. Inherited sockets may have such a port.
fn hold_port(fd: &OwnedFd, address: SocketAddr) -> io::Result<()> {
    match rustix::net::bind(fd, &address) {
        // INVAL: the socket still has its port. ACCESS: the kernel checks the privilege before that; it never
        // chooses a port below 1024, so it has not released this one.
        Ok(()) | Err(Errno::INVAL | Errno::ACCESS) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// What an error of accept means for the listener.
#[derive(Debug)]
pub(crate) enum AcceptError {
    /// No client is waiting.
    Empty,
    /// This client is gone; the next one may be waiting.
    Client(io::Error),
    /// Descriptors or memory ran out: wait, and log it once.
    Exhausted,
    /// Any other error: wait, too. A listener never gives up.
    Other(io::Error),
}

impl From<io::Error> for AcceptError {
    fn from(error: io::Error) -> Self {
        match Errno::from_io_error(&error) {
            Some(Errno::AGAIN) => Self::Empty,
            // Linux reports pending network errors of the new socket through accept; they concern only that
            // client.
            Some(
                Errno::INTR
                | Errno::CONNABORTED
                | Errno::PROTO
                | Errno::NETDOWN
                | Errno::NOPROTOOPT
                | Errno::HOSTDOWN
                | Errno::HOSTUNREACH
                | Errno::OPNOTSUPP
                | Errno::NETUNREACH
                | Errno::PERM
                | Errno::TIMEDOUT
                | Errno::CONNRESET,
            ) => Self::Client(error),
            Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => Self::Exhausted,
            None if error.kind() == io::ErrorKind::ConnectionAborted => Self::Client(error),
            _ => Self::Other(error),
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::net::{Ipv4Addr, TcpStream};

    use socket2::{Domain, Socket, Type};

    use super::*;

    #[test]
    fn a_port_that_refuses_stays_ours_and_listens_again_though_connections_live_on() {
        for reuse_address in [false, true] {
            // As if inherited; the kernel chooses the port.
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
            socket.set_reuse_address(reuse_address).expect("an option");
            socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).expect("a free port");
            let listener = Listener::inherit(socket.into(), None).expect("it listens");
            let address = listener.address().net().expect("TCP");
            let client = TcpStream::connect(address).expect("it is let in");
            let live = listener.accept().expect("it is there");
            for _ in 0..2 {
                listener.refuse().expect("on Linux it can be done");
                let refused = TcpStream::connect(address).expect_err("nobody is let in");
                assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
                let other = Listener::bind(address, None).expect_err("it is ours");
                assert_eq!((other.call, other.source.kind()), ("bind", io::ErrorKind::AddrInUse));
                let another = listener.as_fd().try_clone_to_owned().expect("a descriptor");
                let heir = Listener::inherit(another, None).expect("it listens again");
                TcpStream::connect(address).expect("it is let in");
                drop(heir);
                TcpStream::connect(address).expect("it is let in still");
                listener.refuse().expect("on Linux it can be done");
                listener.listen().expect("it listens again");
                TcpStream::connect(address).expect("it is let in");
            }
            drop((client, live));
        }
    }
}
