//! System calls on one socket: accept, connect, options, and two questions for which there is no safe
//! wrapper.
//!
//! Knows: flags and options, how systems differ. Never: what a socket is for.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, Shutdown, SocketAddrAny, SocketType, sockopt};

pub(crate) use super::fault::ConnectError;
use super::fault::{as_shortage, is_exhausted};
use super::sources::Sources;
use super::unix;
use crate::spec::{Address, ClientSource, Keepalive};
#[cfg(test)]
use crate::sys::trouble::{self, FaultPoint};

/// How connections to channels are made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outgoing {
    /// `-B`: the source addresses.
    pub sources: Sources,
    /// `-k`: keepalive times. `None`: the system's.
    pub keepalive: Option<Keepalive>,
    /// `--transparent`: connections for clients come from the clients' addresses. `sources` is empty then.
    pub transparent: bool,
}

impl Outgoing {
    /// Did the operator choose the source address of connections?
    pub(crate) fn is_bound(&self) -> bool {
        self.transparent || !self.sources.is_empty()
    }
}

/// Accepts the next client of a listener.
///
/// # Errors
/// `WouldBlock` if no client is waiting; otherwise what accept(2) says.
pub(crate) fn accept(listener: impl AsFd) -> io::Result<(OwnedFd, ClientSource)> {
    #[cfg(test)]
    trouble::strike(FaultPoint::Accept)?;
    #[cfg(not(target_vendor = "apple"))]
    let (fd, peer) = {
        use rustix::net::SocketFlags;
        rustix::net::acceptfrom_with(listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC)?
    };
    // On Apple's systems the flags cannot be set in the same call, so a program started at this moment may
    // inherit the socket.
    #[cfg(target_vendor = "apple")]
    let (fd, peer) = {
        let (fd, peer) = rustix::net::acceptfrom(listener)?;
        rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC)?;
        rustix::io::ioctl_fionbio(&fd, true)?;
        (fd, peer)
    };
    let client = peer.and_then(|peer| source(&fd, peer));
    // A client that is already gone has no address any more.
    Ok((fd, client.ok_or(io::ErrorKind::ConnectionAborted)?))
}

/// The client at the other end. `None`: the system does not know it any more.
pub(crate) fn client(fd: impl AsFd) -> Option<ClientSource> {
    let fd = fd.as_fd();
    source(fd, rustix::net::getpeername(fd).ok().flatten()?)
}

/// The client at the other end of a connection whose peer address is `peer`.
fn source(fd: impl AsFd, peer: SocketAddrAny) -> Option<ClientSource> {
    match SocketAddr::try_from(peer) {
        Ok(address) => Some(canonical(address).into()),
        // A client's Unix socket usually has no name, but the system knows its process.
        Err(_) => unix::is_unix(&fd).then(|| {
            // Otherwise urgent bytes are lost. A system without this option has no urgent bytes on Unix
            // sockets.
            let _ = sockopt::set_socket_oobinline(&fd, true);
            unix::peer(fd).into()
        }),
    }
}

/// The address with an IPv4-mapped address as IPv4, whatever the listener's family.
fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        ip @ IpAddr::V4(_) => SocketAddr::new(ip, address.port()),
        IpAddr::V6(_) => address,
    }
}

/// Creates a non-blocking TCP socket.
pub(crate) fn stream(address: SocketAddr) -> io::Result<OwnedFd> {
    socket(address, SocketType::STREAM)
}

fn datagram(address: SocketAddr) -> io::Result<OwnedFd> {
    socket(address, SocketType::DGRAM)
}

fn socket(address: SocketAddr, kind: SocketType) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    #[cfg(not(target_vendor = "apple"))]
    let fd = {
        use rustix::net::SocketFlags;
        rustix::net::socket_with(family, kind, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC, None)?
    };
    // On Apple's systems the flags cannot be set in the same call, so a program started at this moment may
    // inherit the socket.
    #[cfg(target_vendor = "apple")]
    let fd = {
        let fd = rustix::net::socket(family, kind, None)?;
        rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC)?;
        rustix::io::ioctl_fionbio(&fd, true)?;
        fd
    };
    Ok(fd)
}

/// Sets the options of every connection: no delay, keepalive, urgent bytes in their place in the stream.
///
/// Connections inherit these from their listener, so clients' sockets need no further call.
pub(crate) fn set_stream_options(fd: impl AsFd, keepalive: Option<Keepalive>) -> io::Result<()> {
    let fd = fd.as_fd();
    sockopt::set_tcp_nodelay(fd, true)?;
    sockopt::set_socket_keepalive(fd, true)?;
    // In line, an urgent byte cannot be lost: at worst it arrives as a normal byte.
    sockopt::set_socket_oobinline(fd, true)?;
    if let Some(timing) = keepalive {
        #[cfg(not(target_os = "openbsd"))]
        {
            sockopt::set_tcp_keepidle(fd, timing.idle)?;
            sockopt::set_tcp_keepintvl(fd, timing.interval)?;
            sockopt::set_tcp_keepcnt(fd, timing.count)?;
        }
    }
    Ok(())
}

/// The keepalive times of a socket.
#[cfg(not(target_os = "openbsd"))]
pub(crate) fn keepalive_of(fd: impl AsFd) -> io::Result<Keepalive> {
    let fd = fd.as_fd();
    Ok(Keepalive {
        idle: sockopt::tcp_keepidle(fd)?,
        interval: sockopt::tcp_keepintvl(fd)?,
        count: sockopt::tcp_keepcnt(fd)?,
    })
}

/// Probes a silent peer every few seconds from now on. A peer that has closed the whole connection looks like
/// one that has closed only its direction. But the kernel of the former forgets the connection after a while
/// (`tcp_fin_timeout`) and then answers a probe with a reset. The silence after which a peer is given up does
/// not get shorter.
pub(crate) fn ask_often(fd: impl AsFd) {
    #[cfg(not(target_os = "openbsd"))]
    {
        const EVERY: Duration = Duration::from_secs(5);
        const MOST: u128 = 127;
        let fd = fd.as_fd();
        let (Ok(idle), Ok(interval), Ok(count)) =
            (sockopt::tcp_keepidle(fd), sockopt::tcp_keepintvl(fd), sockopt::tcp_keepcnt(fd))
        else {
            return;
        };
        let silence = interval.as_millis() * u128::from(count);
        let interval = interval.min(EVERY);
        let count =
            silence.div_ceil(interval.as_millis().max(1)).clamp(u128::from(count), MOST.max(count.into()));
        // If this fails, the connection stays as it was.
        let _ = sockopt::set_tcp_keepcnt(fd, u32::try_from(count).unwrap_or(u32::MAX));
        let _ = sockopt::set_tcp_keepintvl(fd, interval);
        let _ = sockopt::set_tcp_keepidle(fd, idle.min(EVERY));
    }
}

/// Are both directions of this socket closed? If this side has closed none, the peer of a Unix socket has closed
/// both. Over TCP that cannot be known: a peer that has closed both looks like one that has closed its direction.
pub(crate) fn has_hung_up(fd: impl AsFd) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut asked = [PollFd::new(&fd, PollFlags::empty())];
    // An error says nothing about the peer.
    let answered = poll(&mut asked, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }));
    answered.is_ok_and(|ready| ready > 0) && asked[0].revents().contains(PollFlags::HUP)
}

/// When the server's kernel learns that the connection is established.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HandshakeAck {
    /// At once.
    AtOnce,
    /// With the first data, which saves a segment. If there is none, call [`acknowledge`]; the kernel waits
    /// at most 200 ms by itself. A system that cannot do this acknowledges at once.
    WithData,
}

/// Starts a connection. `Ok` means that the connect has begun, not that the connection is established.
///
/// # Errors
/// What socket(2), bind(2) of the source address, or connect(2) says at once.
pub(crate) fn connect(address: Address, how: &Outgoing, ack: HandshakeAck) -> Result<OwnedFd, ConnectError> {
    let address = match address {
        Address::Net(address) => address,
        Address::Unix(name) => return unix::connect(name),
    };
    let mut sources = how.sources.towards(address);
    let mut source = sources.next();
    loop {
        let error = match connect_from(source, address, how.keepalive, ack) {
            // Another source address may work.
            Err(error @ (ConnectError::Ports(_) | ConnectError::Ours(_))) => error,
            begun => return begun,
        };
        source = sources.next();
        if source.is_none() || matches!(&error, ConnectError::Ours(e) if is_exhausted(e)) {
            return Err(error);
        }
    }
}

/// Starts a connection from this source address.
fn connect_from(
    source: Option<SocketAddr>,
    address: SocketAddr,
    keepalive: Option<Keepalive>,
    ack: HandshakeAck,
) -> Result<OwnedFd, ConnectError> {
    let fd = outgoing(source, address, keepalive).map_err(|e| match e.kind() {
        // On systems where bind cannot leave the choice of the port to connect.
        io::ErrorKind::AddrInUse => ConnectError::Ports(e),
        _ => ConnectError::Ours(e),
    })?;
    match start(&fd, address, ack) {
        Ok(()) => Ok(fd),
        // The system returns the same error if this host has no source address for the target, so that is
        // checked.
        Err(e) if lacks_port(&e) && has_source(address, source) => Err(ConnectError::Ports(e)),
        Err(e) => Err(ConnectError::Target(e)),
    }
}

/// May this error mean that all source ports are in use?
pub(super) fn lacks_port(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::ADDRNOTAVAIL | Errno::ADDRINUSE))
}

/// Starts the connect of a socket that is bound, if it has to be.
pub(super) fn start(fd: &OwnedFd, address: SocketAddr, ack: HandshakeAck) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    if ack == HandshakeAck::WithData {
        // The option only saves a segment; the connection works without it.
        let _ = sockopt::set_tcp_quickack(fd, false);
    }
    #[cfg(not(target_os = "linux"))]
    let _ = ack;
    #[cfg(test)]
    trouble::strike(FaultPoint::Connect)?;
    match rustix::net::connect(fd, &address) {
        Ok(()) | Err(Errno::INPROGRESS | Errno::INTR) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// Sends the acknowledgement that [`HandshakeAck::WithData`] held back, if it has not been sent yet.
pub(crate) fn acknowledge(fd: impl AsFd) {
    // If it fails, the kernel's own timer sends it.
    #[cfg(target_os = "linux")]
    let _ = sockopt::set_tcp_quickack(fd, true);
    #[cfg(not(target_os = "linux"))]
    let _ = fd;
}

fn outgoing(
    source: Option<SocketAddr>,
    address: SocketAddr,
    keepalive: Option<Keepalive>,
) -> io::Result<OwnedFd> {
    let fd = stream(address)?;
    set_stream_options(&fd, keepalive)?;
    if let Some(source) = source {
        bind_source(&fd, source, address)?;
    }
    Ok(fd)
}

/// Binds the address without a port, so that the source address does not use up ports.
pub(super) fn bind_source(fd: &OwnedFd, source: SocketAddr, towards: SocketAddr) -> io::Result<()> {
    let source = match (source.ip().to_canonical(), towards) {
        (IpAddr::V4(v4), SocketAddr::V6(to)) if to.ip().to_ipv4_mapped().is_some() => {
            SocketAddr::new(IpAddr::V6(v4.to_ipv6_mapped()), 0)
        }
        (IpAddr::V4(v4), _) => SocketAddr::new(IpAddr::V4(v4), 0),
        (IpAddr::V6(_), _) => source,
    };
    if source.is_ipv4() != towards.is_ipv4() {
        return Err(io::Error::new(
            io::ErrorKind::AddrNotAvailable,
            format!("source address {} is of another family than {}", source.ip(), towards.ip()),
        ));
    }
    #[cfg(target_os = "linux")]
    nix::sys::socket::setsockopt(fd, nix::sys::socket::sockopt::IpBindAddressNoPort, &true)?;
    Ok(rustix::net::bind(fd, &source)?)
}

/// Maximum number of unsent bytes on a connection that [`take_to_loopback`] changed. Bytes that wait in a
/// longer queue are no longer in the processor's caches when they are read.
#[cfg(target_os = "linux")]
const UNSENT_MOST: u32 = 512 * 1024;

/// Sets the congestion control algorithm of a connection within this host. Connections to other hosts keep
/// theirs.
#[cfg(target_os = "linux")]
pub(crate) fn take_to_loopback(fd: impl AsFd, congestion: &str) {
    let fd = fd.as_fd();
    let peer = rustix::net::getpeername(fd).ok().flatten().and_then(|any| SocketAddr::try_from(any).ok());
    let is_loopback = peer.is_some_and(|peer| peer.ip().to_canonical().is_loopback());
    // If these fail, the connection is only slower.
    if is_loopback && sockopt::set_tcp_congestion(fd, congestion).is_ok() {
        let _ = socket2::SockRef::from(&fd).set_tcp_notsent_lowat(UNSENT_MOST);
    }
}

/// Checks that connections may use this congestion control algorithm.
///
/// # Errors
/// The system does not have it, or allows it only to privileged users.
#[cfg(target_os = "linux")]
pub(crate) fn offers_congestion(name: &str) -> io::Result<()> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
    sockopt::set_tcp_congestion(&socket, name).map_err(|e| match e {
        Errno::NOENT => {
            io::Error::other("the system does not have it (sysctl net.ipv4.tcp_available_congestion_control)")
        }
        Errno::PERM => io::Error::other(
            "this user may not use it; reno is for all users (sysctl net.ipv4.tcp_allowed_congestion_control lists those that are)",
        ),
        e => e.into(),
    })
}

/// Does nothing: only Linux lets a program choose.
#[cfg(not(target_os = "linux"))]
pub(crate) fn take_to_loopback(_fd: impl AsFd, _congestion: &str) {}

/// Always an error: only Linux lets a program choose.
///
/// # Errors
/// Always.
#[cfg(not(target_os = "linux"))]
pub(crate) fn offers_congestion(_name: &str) -> io::Result<()> {
    Err(io::Error::other("only Linux has the option"))
}

/// Reads available bytes.
pub(crate) fn read(fd: impl AsFd, buf: &mut [u8]) -> io::Result<usize> {
    #[cfg(test)]
    trouble::strike(FaultPoint::Read)?;
    let (n, _) = rustix::net::recv(fd, buf, RecvFlags::empty()).map_err(as_shortage)?;
    Ok(n)
}

/// Writes as many bytes as fit. If the peer is gone this returns an error and raises no signal, since Rust
/// programs ignore SIGPIPE.
pub(crate) fn write(fd: impl AsFd, buf: &[u8]) -> io::Result<usize> {
    #[cfg(test)]
    trouble::strike(FaultPoint::Write)?;
    rustix::net::send(fd, buf, SendFlags::empty()).map_err(as_shortage)
}

/// Writes as many bytes as fit; the kernel may hold them back until the bytes that follow at once.
pub(crate) fn write_more(fd: impl AsFd, buf: &[u8]) -> io::Result<usize> {
    #[cfg(target_os = "linux")]
    let flags = SendFlags::MORE;
    #[cfg(not(target_os = "linux"))]
    let flags = SendFlags::empty();
    rustix::net::send(fd, buf, flags).map_err(as_shortage)
}

/// Sends one urgent byte.
pub(crate) fn write_urgent(fd: impl AsFd, byte: u8) -> io::Result<()> {
    let fd = fd.as_fd();
    // Few programs use urgent bytes on Unix sockets, and not every system supports them: the byte goes as a
    // normal one.
    let is_unix = sockopt::socket_domain(fd).is_ok_and(|family| family == AddressFamily::UNIX);
    let flags = if is_unix { SendFlags::empty() } else { SendFlags::OOB };
    rustix::net::send(fd, &[byte], flags).map_err(as_shortage)?;
    Ok(())
}

/// Ends our direction of the connection.
pub(crate) fn shutdown_write(fd: impl AsFd) -> io::Result<()> {
    rustix::net::shutdown(fd, Shutdown::Write).map_err(as_shortage)
}

/// Takes the pending error of a socket. `None` if there is none.
pub(crate) fn take_error(fd: impl AsFd) -> Option<io::Error> {
    match sockopt::socket_error(fd) {
        Ok(Ok(())) => None,
        Ok(Err(e)) | Err(e) => Some(e.into()),
    }
}

/// The local address of a socket.
pub(crate) fn local(fd: impl AsFd) -> Option<SocketAddr> {
    rustix::net::getsockname(fd).ok().and_then(|any| SocketAddr::try_from(any).ok())
}

/// The peer's address. `None`: the socket is no longer connected.
pub(crate) fn peer(fd: impl AsFd) -> Option<SocketAddr> {
    rustix::net::getpeername(fd).ok().flatten().and_then(|any| SocketAddr::try_from(any).ok())
}

/// Is the socket connected to itself? TCP does that when a client connects to a local port on which nobody
/// listens, and the system picks the same port as its source.
pub(crate) fn is_to_itself(fd: impl AsFd) -> bool {
    let fd = fd.as_fd();
    let theirs = || peer(fd);
    local(fd).is_some_and(|ours| theirs() == Some(ours))
}

/// Checks that connections can come from this local address. Sends nothing.
///
/// # Errors
/// What bind(2) says: this host does not have the address.
pub fn may_come_from(source: SocketAddr) -> io::Result<()> {
    Ok(rustix::net::bind(datagram(source)?, &source)?)
}

/// Is this an address of this host? Sends nothing.
pub(crate) fn is_here(address: SocketAddr) -> bool {
    let ours = towards(address, None).ok().and_then(local);
    ours.is_some_and(|ours| ours.ip().to_canonical() == address.ip().to_canonical())
}

/// Does this host have a source address for connections to `address`? Sends nothing.
fn has_source(address: SocketAddr, source: Option<SocketAddr>) -> bool {
    towards(address, source).is_ok()
}

/// A datagram socket connected to an address. This asks the kernel for the route without sending anything.
fn towards(address: SocketAddr, source: Option<SocketAddr>) -> io::Result<OwnedFd> {
    let fd = datagram(address)?;
    if let Some(source) = source {
        bind_source(&fd, source, address)?;
    }
    rustix::net::connect(&fd, &address)?;
    Ok(fd)
}

/// Is the connection established?
pub(crate) fn is_connected(fd: impl AsFd) -> bool {
    rustix::net::getpeername(fd).is_ok_and(|peer| peer.is_some())
}

/// How many received bytes are unread. `usize::MAX` if the system does not say, so that nobody is wrongly
/// taken to have sent nothing.
pub(crate) fn unread(fd: impl AsFd) -> usize {
    rustix::io::ioctl_fionread(fd).ok().and_then(|n| usize::try_from(n).ok()).unwrap_or(usize::MAX)
}

/// Makes closing this socket send a reset.
pub(crate) fn reset_on_close(fd: impl AsFd) {
    let fd = fd.as_fd();
    if sockopt::set_socket_linger(fd, Some(Duration::ZERO)).is_err() {
        // If the option is refused, this call resets the connection at once. A socket that is already dead
        // refuses both, and its peer knows that.
        let _ = rustix::net::connect_unspec(fd);
    }
}

/// After a write failed for want of room: will an event report when there is room? If nothing is in flight,
/// nothing will be acknowledged, and the write failed for want of memory.
#[cfg(target_os = "linux")]
pub(crate) fn will_tell_of_room(fd: impl AsFd) -> bool {
    unsent(fd) > 0
}

/// Other systems do not report it.
#[cfg(not(target_os = "linux"))]
pub(crate) fn will_tell_of_room(_fd: impl AsFd) -> bool {
    true
}

/// Is the next byte to read the urgent one?
#[allow(unsafe_code, reason = "no safe wrapper of sockatmark exists")]
pub(crate) fn at_mark(fd: impl AsFd) -> io::Result<bool> {
    // The number of the ioctl behind it differs between systems and processors, and the C library knows it.
    unsafe extern "C" {
        // SAFETY: POSIX.1-2001 has this function with this signature. It takes any number, and looks at no memory of ours.
        safe fn sockatmark(fd: std::ffi::c_int) -> std::ffi::c_int;
    }
    match sockatmark(fd.as_fd().as_raw_fd()) {
        -1 => Err(io::Error::last_os_error()),
        at => Ok(at != 0),
    }
}

/// How many written bytes the peer has not acknowledged yet; 0 if the system cannot tell.
#[cfg(target_os = "linux")]
#[allow(unsafe_code, reason = "no safe wrapper of SIOCOUTQ exists")]
pub(crate) fn unsent(fd: impl AsFd) -> usize {
    // `SIOCOUTQ` has the same number as `TIOCOUTQ`, which differs between processors.
    const SIOCOUTQ: rustix::ioctl::Opcode = libc::TIOCOUTQ as rustix::ioctl::Opcode;
    // SAFETY: the request writes one int through the pointer that `Getter` owns; `fd` is open for the whole call.
    let left = unsafe { rustix::ioctl::ioctl(fd, rustix::ioctl::Getter::<SIOCOUTQ, i32>::new()) };
    left.ok().and_then(|n| usize::try_from(n).ok()).unwrap_or(0)
}

/// How many written bytes the peer has not acknowledged yet; always 0, since this system cannot tell.
#[cfg(not(target_os = "linux"))]
pub(crate) fn unsent(_fd: impl AsFd) -> usize {
    0
}

/// How long ago the peer last sent an acknowledgement of any kind. `None` if the system cannot tell, as of a Unix
/// socket.
#[cfg(target_os = "linux")]
pub(crate) fn since_acknowledged(fd: impl AsFd) -> Option<Duration> {
    match tcp_info(&fd) {
        Some(info) => Some(Duration::from_millis(info.tcpi_last_ack_recv.into())),
        None if unix::is_unix(&fd) => None,
        // A kernel that cannot tell just now does not make a peer silent.
        None => Some(Duration::ZERO),
    }
}

/// The smoothed round-trip time to the peer, and the number of retransmitted segments. `None` if the system
/// cannot tell.
#[cfg(target_os = "linux")]
pub(crate) fn path(fd: impl AsFd) -> Option<(Duration, u32)> {
    let info = tcp_info(fd)?;
    Some((Duration::from_micros(info.tcpi_rtt.into()), info.tcpi_total_retrans))
}

/// Always `None`, since this system cannot tell.
#[cfg(not(target_os = "linux"))]
pub(crate) fn path(_fd: impl AsFd) -> Option<(Duration, u32)> {
    None
}

#[cfg(target_os = "linux")]
#[allow(unsafe_code, reason = "no safe wrapper of TCP_INFO exists")]
fn tcp_info(fd: impl AsFd) -> Option<libc::tcp_info> {
    // SAFETY: the structure consists of integers only, of which all may be 0.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut length = libc::socklen_t::try_from(size_of_val(&info)).ok()?;
    // SAFETY: the system writes at most `length` bytes to `info`, which is so long and ours; `fd` is open for the call.
    let result = unsafe {
        libc::getsockopt(
            fd.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut length,
        )
    };
    (result == 0).then_some(info)
}

/// Always `None`, since this system cannot tell.
#[cfg(not(target_os = "linux"))]
pub(crate) fn since_acknowledged(_fd: impl AsFd) -> Option<Duration> {
    None
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};

    use rustix::event::{PollFd, PollFlags, poll};

    use super::*;

    /// Connects to a listener that does not block; the socket, once it says that it stands.
    fn connected(listener: &TcpListener, ack: HandshakeAck) -> OwnedFd {
        let address = listener.local_addr().expect("it is bound");
        let fd = connect(address.into(), &Outgoing::default(), ack).expect("loopback takes it");
        poll(&mut [PollFd::new(&fd, PollFlags::OUT)], None).expect("a poll");
        assert!(take_error(&fd).is_none());
        fd
    }

    fn listener() -> TcpListener {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        listener.set_nonblocking(true).expect("an option");
        listener
    }

    fn await_client(listener: &TcpListener) {
        poll(&mut [PollFd::new(listener, PollFlags::IN)], None).expect("a poll");
        listener.accept().expect("it is there");
    }

    #[test]
    fn a_connection_within_the_host_takes_another_congestion_control() {
        let listener = listener();
        let fd = connected(&listener, HandshakeAck::AtOnce);
        let lowat = || socket2::SockRef::from(&fd).tcp_notsent_lowat().expect("an option");
        take_to_loopback(&fd, "reno");
        assert_eq!((&sockopt::tcp_congestion(&fd).expect("an option")[..], lowat()), ("reno", UNSENT_MOST));
        take_to_loopback(&fd, "nonesuch");
        assert_eq!(sockopt::tcp_congestion(&fd).expect("an option"), "reno");
        offers_congestion("reno").expect("every Linux has it");
        offers_congestion("nonesuch").expect_err("no Linux has it");
    }

    #[test]
    fn a_handshake_is_acknowledged_with_the_first_data_or_when_asked_to() {
        let listener = listener();
        // The kernel waits no longer than 200 ms, and a busy machine may take that long between two calls.
        let held = (0..20).find_map(|_| {
            let fd = connected(&listener, HandshakeAck::WithData);
            let is_held = listener.accept().is_err_and(|e| e.kind() == io::ErrorKind::WouldBlock);
            is_held.then_some(fd)
        });
        acknowledge(held.expect("one that is held back"));
        await_client(&listener);

        let fd = connected(&listener, HandshakeAck::WithData);
        write(&fd, b"x").expect("room for a byte");
        await_client(&listener);
    }

    #[test]
    fn a_handshake_is_acknowledged_at_once_otherwise() {
        let listener = listener();
        // On loopback what was sent has arrived, but for a machine so busy that its kernel puts it off.
        let is_there = (0..20).any(|_| {
            let _fd = connected(&listener, HandshakeAck::AtOnce);
            listener.accept().is_ok()
        });
        assert!(is_there);
    }
}
