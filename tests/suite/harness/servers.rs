//! The servers of a test.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use socket2::{Domain, SockRef, Socket, Type};

use super::{eventually, uninterrupted};

/// A server on a port of its own, with a thread per connection. Dropping it ends it with all its connections.
pub(crate) struct Server {
    pub(crate) addr: SocketAddr,
    shared: Arc<Shared>,
    listener: Arc<TcpListener>,
    acceptor: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    accepted: AtomicUsize,
    open: AtomicUsize,
    most: AtomicUsize,
    clients: Mutex<Vec<SocketAddr>>,
    streams: Mutex<Vec<(usize, TcpStream)>>,
}

impl Server {
    /// Every connection gets a thread of its own in `serve`, which also gets the connection's number.
    pub(crate) fn with(serve: impl Fn(TcpStream, usize) + Send + Sync + 'static) -> Self {
        Self::on(Ipv4Addr::LOCALHOST.into(), serve)
    }

    /// The same on this address.
    pub(crate) fn on(ip: IpAddr, serve: impl Fn(TcpStream, usize) + Send + Sync + 'static) -> Self {
        Self::at(SocketAddr::new(ip, 0), serve)
    }

    /// The same on this address and port, even while connections of an earlier server there are still ending.
    pub(crate) fn at(address: SocketAddr, serve: impl Fn(TcpStream, usize) + Send + Sync + 'static) -> Self {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).expect("a socket");
        if address.port() != 0 {
            socket.set_reuse_address(true).expect("an option");
        }
        // A port that was just left, or that another connection has for a moment, is free soon.
        eventually("a free port", || socket.bind(&address.into()).ok());
        // std's listen queue of 128 overflows in a burst, and what the kernel does then is not under test.
        socket.listen(4096).expect("listen");
        Self::over(socket.into(), serve)
    }

    fn over(listener: TcpListener, serve: impl Fn(TcpStream, usize) + Send + Sync + 'static) -> Self {
        let addr = listener.local_addr().expect("a bound socket has an address");
        let shared = Arc::new(Shared::default());
        let (serve, listener) = (Arc::new(serve), Arc::new(listener));
        let acceptor = std::thread::spawn({
            let (shared, listener) = (Arc::clone(&shared), Arc::clone(&listener));
            move || {
                for stream in listener.incoming() {
                    if shared.stop.load(Ordering::SeqCst) {
                        break;
                    }
                    if let Ok(stream) = stream {
                        take(&shared, &serve, stream);
                    }
                }
            }
        });
        Self { addr, shared, listener, acceptor: Some(acceptor) }
    }

    /// Echoes what it receives, including a half-close.
    pub(crate) fn echo() -> Self {
        Self::with(|stream, _| echo(stream))
    }

    /// Sends its name first, then echoes: shows which channel a client got.
    pub(crate) fn named(name: &'static str) -> Self {
        Self::with(move |stream, _| name_then_echo(stream, name))
    }

    /// The same on this address and port.
    pub(crate) fn named_at(address: SocketAddr, name: &'static str) -> Self {
        Self::at(address, move |stream, _| name_then_echo(stream, name))
    }

    /// The same on this address.
    pub(crate) fn named_on(ip: impl Into<IpAddr>, name: &'static str) -> Self {
        Self::on(ip.into(), move |stream, _| name_then_echo(stream, name))
    }

    /// Accepts connections and closes them.
    pub(crate) fn closer() -> Self {
        Self::with(|_, _| ())
    }

    /// Accepts connections and sends nothing until the test ends.
    pub(crate) fn silent() -> Self {
        Self::with(|mut stream, _| while matches!(stream.read(&mut [0; 4096]), Ok(1..)) {})
    }

    /// Resets every connection.
    pub(crate) fn resetter() -> Self {
        Self::with(|stream, _| SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("linger"))
    }

    /// The number of connections accepted so far.
    pub(crate) fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    /// The number of open connections.
    pub(crate) fn open(&self) -> usize {
        self.shared.open.load(Ordering::SeqCst)
    }

    /// The maximum number of connections that were open at once.
    pub(crate) fn most(&self) -> usize {
        self.shared.most.load(Ordering::SeqCst)
    }

    /// The addresses that connected, in order.
    pub(crate) fn clients(&self) -> Vec<SocketAddr> {
        self.shared.clients.lock().expect("no server thread panics with it").clone()
    }

    /// Ends like a program that crashes: its connections are reset.
    pub(crate) fn crash(self) {
        for (_, stream) in self.shared.streams.lock().expect("no server thread panics with it").iter() {
            SockRef::from(stream).set_linger(Some(Duration::ZERO)).expect("linger");
        }
    }

    /// Waits until this many connections were accepted.
    #[track_caller]
    pub(crate) fn await_accepted(&self, n: usize) {
        eventually("enough connections at the server", || (self.accepted() >= n).then_some(()));
    }

    /// Waits until no connection is open.
    #[track_caller]
    pub(crate) fn await_idle(&self) {
        eventually("no connection open at the server", || (self.open() == 0).then_some(()));
    }
}

fn take(
    shared: &Arc<Shared>,
    serve: &Arc<impl Fn(TcpStream, usize) + Send + Sync + 'static>,
    stream: TcpStream,
) {
    // No timeouts: a call with one fails with EINTR if the test's process is stopped and goes on. The end of
    // the test ends what waits.
    stream.set_nodelay(true).expect("no delay");
    let number = shared.accepted.load(Ordering::SeqCst);
    if let Ok(client) = stream.peer_addr() {
        shared.clients.lock().expect("no server thread panics with it").push(client);
    }
    if let Ok(twin) = stream.try_clone() {
        shared.streams.lock().expect("no server thread panics with it").push((number, twin));
    }
    let open = shared.open.fetch_add(1, Ordering::SeqCst) + 1;
    shared.most.fetch_max(open, Ordering::SeqCst);
    shared.accepted.fetch_add(1, Ordering::SeqCst);
    let (shared, serve) = (Arc::clone(shared), Arc::clone(serve));
    std::thread::spawn(move || {
        serve(stream, number);
        // The duplicate that `drop` uses to end a connection would keep the descriptor open.
        let mut streams = shared.streams.lock().expect("no server thread panics with it");
        streams.retain(|(twin, _)| *twin != number);
        shared.open.fetch_sub(1, Ordering::SeqCst);
    });
}

/// Echoes what it receives until the end, then half-closes.
pub(crate) fn echo(mut stream: TcpStream) {
    let mut buffer = [0; 16 << 10];
    loop {
        match uninterrupted(|| stream.read(&mut buffer)) {
            Ok(0) => break,
            Ok(n) if stream.write_all(&buffer[..n]).is_ok() => {}
            _ => return,
        }
    }
    let _ = stream.shutdown(Shutdown::Write);
}

pub(super) fn name_then_echo(mut stream: TcpStream, name: &str) {
    if stream.write_all(name.as_bytes()).is_ok() {
        echo(stream);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        // Wakes the accepting thread. Closing alone would not end the listening while another thread of ours,
        // between fork and exec, has a copy of the descriptor.
        if SockRef::from(&*self.listener).shutdown(Shutdown::Read).is_err() {
            let _ = TcpStream::connect_timeout(&self.addr, Duration::from_secs(1));
        }
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
        let streams = self.shared.streams.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        for (_, stream) in streams.iter() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl std::fmt::Display for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.addr.fmt(f)
    }
}
