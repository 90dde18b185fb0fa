//! One socket's system calls: accept, connect, options, the two questions no safe wrapper asks.
//!
//! Knows: flags and options, what differs between systems. Never: what a socket is for.

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

/// How a connection to a channel is made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outgoing {
    /// `-B`.
    pub sources: Sources,
    /// `-k`: keepalive timing; `None` = the system's.
    pub keepalive: Option<Keepalive>,
    /// `--transparent`: connections for clients come from the clients' addresses. Then there are no `sources`.
    pub transparent: bool,
}

impl Outgoing {
    /// Do connections come from addresses that were asked for?
    pub(crate) fn is_bound(&self) -> bool {
        self.transparent || !self.sources.is_empty()
    }
}

/// Takes the next client from a listener.
///
/// # Errors
/// `WouldBlock` when there is none; otherwise what accept(2) says.
pub(crate) fn accept(listener: impl AsFd) -> io::Result<(OwnedFd, ClientSource)> {
    #[cfg(test)]
    trouble::strike(FaultPoint::Accept)?;
    #[cfg(not(target_vendor = "apple"))]
    let (fd, peer) = {
        use rustix::net::SocketFlags;
        rustix::net::acceptfrom_with(listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC)?
    };
    // Only there a program that is started at this moment can inherit it.
    #[cfg(target_vendor = "apple")]
    let (fd, peer) = {
        let (fd, peer) = rustix::net::acceptfrom(listener)?;
        rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC)?;
        rustix::io::ioctl_fionbio(&fd, true)?;
        (fd, peer)
    };
    let client = peer.and_then(|peer| source(&fd, peer));
    // A client that is gone already has no address any more.
    Ok((fd, client.ok_or(io::ErrorKind::ConnectionAborted)?))
}

/// What the client at the other end is called; `None`: the system does not know it any more.
pub(crate) fn client(fd: impl AsFd) -> Option<ClientSource> {
    let fd = fd.as_fd();
    source(fd, rustix::net::getpeername(fd).ok().flatten()?)
}

/// Who is at the other end of a connection, which has this address there.
fn source(fd: impl AsFd, peer: SocketAddrAny) -> Option<ClientSource> {
    match SocketAddr::try_from(peer) {
        Ok(address) => Some(canonical(address).into()),
        // It has no name, as a rule, but is somebody's.
        Err(_) => unix::is_unix(&fd).then(|| {
            // Otherwise urgent bytes are lost. A system that does not know it here has none.
            let _ = sockopt::set_socket_oobinline(&fd, true);
            unix::peer(fd).into()
        }),
    }
}

/// An IPv4 client is called by its IPv4 address, whatever the listener is.
fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        ip @ IpAddr::V4(_) => SocketAddr::new(ip, address.port()),
        IpAddr::V6(_) => address,
    }
}

/// A new non-blocking TCP socket.
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
    // Only there a program that is started at this moment can inherit it.
    #[cfg(target_vendor = "apple")]
    let fd = {
        let fd = rustix::net::socket(family, kind, None)?;
        rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC)?;
        rustix::io::ioctl_fionbio(&fd, true)?;
        fd
    };
    Ok(fd)
}

/// Sets what every connection has: no delay, keepalive, urgent bytes kept in their place of the stream.
///
/// Connections inherit these from their listener, so clients' sockets cost no call.
pub(crate) fn set_stream_options(fd: impl AsFd, keepalive: Option<Keepalive>) -> io::Result<()> {
    let fd = fd.as_fd();
    sockopt::set_tcp_nodelay(fd, true)?;
    sockopt::set_socket_keepalive(fd, true)?;
    // In line, an urgent byte can never be lost: at worst it arrives as a plain one.
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

/// The times of keepalive that a socket has.
#[cfg(not(target_os = "openbsd"))]
pub(crate) fn keepalive_of(fd: impl AsFd) -> io::Result<Keepalive> {
    let fd = fd.as_fd();
    Ok(Keepalive {
        idle: sockopt::tcp_keepidle(fd)?,
        interval: sockopt::tcp_keepintvl(fd)?,
        count: sockopt::tcp_keepcnt(fd)?,
    })
}

/// From now on a quiet peer is asked every few seconds whether it still knows of the connection. A program that has closed it
/// whole cannot be told from one that has closed its own direction; but the kernel of the former forgets it after a while
/// (`tcp_fin_timeout`), and then its answer is a reset. Nobody is given up for less silence than before.
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
        // Where this does not work, the connection is as it was.
        let _ = sockopt::set_tcp_keepcnt(fd, u32::try_from(count).unwrap_or(u32::MAX));
        let _ = sockopt::set_tcp_keepintvl(fd, interval);
        let _ = sockopt::set_tcp_keepidle(fd, idle.min(EVERY));
    }
}

/// When the server learns that the connection stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HandshakeAck {
    /// At once.
    AtOnce,
    /// With the first data, which saves a segment. Without any, [`acknowledge`] is called for; the kernel itself waits up
    /// to 200 ms. Where a system cannot do this it acknowledges at once.
    WithData,
}

/// Begins a connection. `Ok` says that it is on its way, not that it stands.
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
            // From another address of ours it may be possible.
            Err(error @ (ConnectError::Ports(_) | ConnectError::Ours(_))) => error,
            begun => return begun,
        };
        source = sources.next();
        if source.is_none() || matches!(&error, ConnectError::Ours(e) if is_exhausted(e)) {
            return Err(error);
        }
    }
}

/// The same with this source.
fn connect_from(
    source: Option<SocketAddr>,
    address: SocketAddr,
    keepalive: Option<Keepalive>,
    ack: HandshakeAck,
) -> Result<OwnedFd, ConnectError> {
    let fd = outgoing(source, address, keepalive).map_err(|e| match e.kind() {
        // Where a bind cannot leave the port to the connect.
        io::ErrorKind::AddrInUse => ConnectError::Ports(e),
        _ => ConnectError::Ours(e),
    })?;
    match start(&fd, address, ack) {
        Ok(()) => Ok(fd),
        // Without an address of our own to go there from it is the same error.
        Err(e) if lacks_port(&e) && has_source(address, source) => Err(ConnectError::Ports(e)),
        Err(e) => Err(ConnectError::Target(e)),
    }
}

/// May this say that all source ports are taken?
pub(super) fn lacks_port(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::ADDRNOTAVAIL | Errno::ADDRINUSE))
}

/// Begins to connect a socket that is bound as it is to be.
pub(super) fn start(fd: &OwnedFd, address: SocketAddr, ack: HandshakeAck) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    if ack == HandshakeAck::WithData {
        // It only saves something: refused, the connection is as good.
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

/// Sends the acknowledgement that [`HandshakeAck::WithData`] held back, if it was not sent yet.
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

/// Binds without a port, so that the source address does not use ports up.
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

/// The most that waits unsent on a connection that [`take_to_loopback`] changed, in bytes: what has waited in a long queue is
/// out of the processor's caches when it is read.
#[cfg(target_os = "linux")]
const UNSENT_MOST: u32 = 512 * 1024;

/// Gives a connection within this host another congestion control. Connections to anywhere else keep what they have.
#[cfg(target_os = "linux")]
pub(crate) fn take_to_loopback(fd: impl AsFd, congestion: &str) {
    let fd = fd.as_fd();
    let peer = rustix::net::getpeername(fd).ok().flatten().and_then(|any| SocketAddr::try_from(any).ok());
    let is_loopback = peer.is_some_and(|peer| peer.ip().to_canonical().is_loopback());
    // Slower is all that it is if these fail.
    if is_loopback && sockopt::set_tcp_congestion(fd, congestion).is_ok() {
        let _ = socket2::SockRef::from(&fd).set_tcp_notsent_lowat(UNSENT_MOST);
    }
}

/// Whether a connection of ours may have this congestion control.
///
/// # Errors
/// The system does not have it, or has it for privileged users only.
#[cfg(target_os = "linux")]
pub(crate) fn offers_congestion(name: &str) -> io::Result<()> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
    sockopt::set_tcp_congestion(&socket, name).map_err(|e| match e {
        Errno::NOENT => {
            io::Error::other("the system does not have it (sysctl net.ipv4.tcp_available_congestion_control)")
        }
        Errno::PERM => io::Error::other("not for this user (sysctl net.ipv4.tcp_allowed_congestion_control)"),
        e => e.into(),
    })
}

/// Only Linux lets a program choose.
#[cfg(not(target_os = "linux"))]
pub(crate) fn take_to_loopback(_fd: impl AsFd, _congestion: &str) {}

/// Only Linux lets a program choose.
///
/// # Errors
/// Always.
#[cfg(not(target_os = "linux"))]
pub(crate) fn offers_congestion(_name: &str) -> io::Result<()> {
    Err(io::Error::other("only Linux has the option"))
}

/// Reads what is there.
pub(crate) fn read(fd: impl AsFd, buf: &mut [u8]) -> io::Result<usize> {
    #[cfg(test)]
    trouble::strike(FaultPoint::Read)?;
    let (n, _) = rustix::net::recv(fd, buf, RecvFlags::empty()).map_err(as_shortage)?;
    Ok(n)
}

/// Writes what fits. A peer that is gone is an error and never a signal: Rust programs ignore SIGPIPE.
pub(crate) fn write(fd: impl AsFd, buf: &[u8]) -> io::Result<usize> {
    #[cfg(test)]
    trouble::strike(FaultPoint::Write)?;
    rustix::net::send(fd, buf, SendFlags::empty()).map_err(as_shortage)
}

/// Writes what fits, and lets it wait for what follows at once.
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
    // Few programs know of urgent bytes on a Unix socket, and not every system has them there: it goes as a plain one.
    let is_unix = sockopt::socket_domain(fd).is_ok_and(|family| family == AddressFamily::UNIX);
    let flags = if is_unix { SendFlags::empty() } else { SendFlags::OOB };
    rustix::net::send(fd, &[byte], flags).map_err(as_shortage)?;
    Ok(())
}

/// Ends our direction.
pub(crate) fn shutdown_write(fd: impl AsFd) -> io::Result<()> {
    rustix::net::shutdown(fd, Shutdown::Write).map_err(as_shortage)
}

/// The pending error, taken.
pub(crate) fn take_error(fd: impl AsFd) -> Option<io::Error> {
    match sockopt::socket_error(fd) {
        Ok(Ok(())) => None,
        Ok(Err(e)) | Err(e) => Some(e.into()),
    }
}

/// The address that a socket has on our side.
pub(crate) fn local(fd: impl AsFd) -> Option<SocketAddr> {
    rustix::net::getsockname(fd).ok().and_then(|any| SocketAddr::try_from(any).ok())
}

/// The address that a socket has on the other side; `None`: nobody is there any more.
pub(crate) fn peer(fd: impl AsFd) -> Option<SocketAddr> {
    rustix::net::getpeername(fd).ok().flatten().and_then(|any| SocketAddr::try_from(any).ok())
}

/// Is the other end of a connection this end? TCP does that with a port of this host on which nobody listens, when the
/// system picks the same one as ours.
pub(crate) fn is_to_itself(fd: impl AsFd) -> bool {
    let fd = fd.as_fd();
    let theirs = || peer(fd);
    local(fd).is_some_and(|ours| theirs() == Some(ours))
}

/// Whether connections can come from this address of ours. Nothing is sent.
///
/// # Errors
/// What bind(2) says: this host does not have it.
pub fn may_come_from(source: SocketAddr) -> io::Result<()> {
    Ok(rustix::net::bind(datagram(source)?, &source)?)
}

/// Is this an address of this host? Nothing is sent.
pub(crate) fn is_here(address: SocketAddr) -> bool {
    let ours = towards(address, None).ok().and_then(local);
    ours.is_some_and(|ours| ours.ip().to_canonical() == address.ip().to_canonical())
}

/// Has this host an address from which it can go there? Nothing is sent.
fn has_source(address: SocketAddr, source: Option<SocketAddr>) -> bool {
    towards(address, source).is_ok()
}

/// A datagram socket that would send to an address: how the kernel is asked about the way there.
fn towards(address: SocketAddr, source: Option<SocketAddr>) -> io::Result<OwnedFd> {
    let fd = datagram(address)?;
    if let Some(source) = source {
        bind_source(&fd, source, address)?;
    }
    rustix::net::connect(&fd, &address)?;
    Ok(fd)
}

/// Does the other end stand?
pub(crate) fn is_connected(fd: impl AsFd) -> bool {
    rustix::net::getpeername(fd).is_ok_and(|peer| peer.is_some())
}

/// Bytes that have come in and were not read yet. Many if the system does not say: nobody may be taken to have sent nothing
/// because of that.
pub(crate) fn unread(fd: impl AsFd) -> usize {
    rustix::io::ioctl_fionread(fd).ok().and_then(|n| usize::try_from(n).ok()).unwrap_or(usize::MAX)
}

/// Makes the close of this socket a reset.
pub(crate) fn reset_on_close(fd: impl AsFd) {
    let fd = fd.as_fd();
    if sockopt::set_socket_linger(fd, Some(Duration::ZERO)).is_err() {
        // Whatever refuses the option, there is another way that resets at once. A socket that is dead already refuses both;
        // its peer has seen worse.
        let _ = rustix::net::connect_unspec(fd);
    }
}

/// A write was refused for want of room: will an event tell of room? Where nothing is under way nothing will be
/// acknowledged, and the refusal was for want of memory.
#[cfg(target_os = "linux")]
pub(crate) fn will_tell_of_room(fd: impl AsFd) -> bool {
    unsent(fd) > 0
}

/// Other systems do not say.
#[cfg(not(target_os = "linux"))]
pub(crate) fn will_tell_of_room(_fd: impl AsFd) -> bool {
    true
}

/// Is the next byte to read the urgent one?
#[allow(unsafe_code, reason = "no safe wrapper of sockatmark exists")]
pub(crate) fn at_mark(fd: impl AsFd) -> io::Result<bool> {
    // The number of the request behind it differs between systems and processors, and the C library knows it.
    unsafe extern "C" {
        // SAFETY: POSIX.1-2001 has this function with this signature. It takes any number, and looks at no memory of ours.
        safe fn sockatmark(fd: std::ffi::c_int) -> std::ffi::c_int;
    }
    match sockatmark(fd.as_fd().as_raw_fd()) {
        -1 => Err(io::Error::last_os_error()),
        at => Ok(at != 0),
    }
}

/// Bytes written and not yet acknowledged by the peer; 0 where the system cannot tell.
#[cfg(target_os = "linux")]
#[allow(unsafe_code, reason = "no safe wrapper of SIOCOUTQ exists")]
pub(crate) fn unsent(fd: impl AsFd) -> usize {
    // Sockets have it under another name and with the same number, which differs between processors.
    const SIOCOUTQ: rustix::ioctl::Opcode = libc::TIOCOUTQ as rustix::ioctl::Opcode;
    // SAFETY: the request writes one int through the pointer that `Getter` owns; `fd` is open for the whole call.
    let left = unsafe { rustix::ioctl::ioctl(fd, rustix::ioctl::Getter::<SIOCOUTQ, i32>::new()) };
    left.ok().and_then(|n| usize::try_from(n).ok()).unwrap_or(0)
}

/// Bytes written and not yet acknowledged by the peer; 0 where the system cannot tell.
#[cfg(not(target_os = "linux"))]
pub(crate) fn unsent(_fd: impl AsFd) -> usize {
    0
}

/// How long ago the peer acknowledged something, if only that it has nothing to acknowledge; `None` where the system
/// cannot tell.
#[cfg(target_os = "linux")]
pub(crate) fn since_acknowledged(fd: impl AsFd) -> Option<Duration> {
    // A kernel that cannot tell just now does not make a peer silent.
    Some(tcp_info(fd).map_or(Duration::ZERO, |info| Duration::from_millis(info.tcpi_last_ack_recv.into())))
}

/// The smoothed round-trip time to the peer, and how many segments were sent again; `None` where the system cannot tell.
#[cfg(target_os = "linux")]
pub(crate) fn path(fd: impl AsFd) -> Option<(Duration, u32)> {
    let info = tcp_info(fd)?;
    Some((Duration::from_micros(info.tcpi_rtt.into()), info.tcpi_total_retrans))
}

/// The same where the system cannot tell.
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

/// How long ago the peer acknowledged something; `None` where the system cannot tell.
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
