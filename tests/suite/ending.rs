//! How connections and instances end when somebody else decides it: operators, signals, timeouts.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::Signal;
use socket2::{Domain, Socket, Type};

use crate::harness::{
    Client, DEADLINE, Instance, Received, Server, Setup, eventually, own_address, private_network, settled,
    uninterrupted,
};

/// Sends until it is told to stop or nobody takes any more.
fn flood() -> (Server, Arc<AtomicBool>) {
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let server = Server::with(move |mut stream, _| {
        stream.set_write_timeout(Some(Duration::from_millis(50))).expect("a timeout");
        while !stopped.load(Ordering::SeqCst) {
            match stream.write(&[b'x'; 65_536]) {
                Err(e) if !matches!(e.kind(), std::io::ErrorKind::WouldBlock) => return,
                _ => {}
            }
        }
    });
    (server, stop)
}

#[test]
fn a_silent_half_closed_connection_ends_after_its_timeout() {
    let server = Server::silent();
    let instance = Setup::new().start(["--half-close-timeout", "300ms", "PORT", &server.to_string()]);
    let mut half_closed = instance.connect();
    let open = instance.connect();
    server.await_accepted(2);
    half_closed.shut_wr();
    assert_eq!(half_closed.ending(), Received::End);
    instance.await_show("one is left", |rows| rows[0].c == 1);
    assert!(open.is_quiet_for(Duration::from_millis(600)), "a connection that is open both ways stays");
    drop(open);
    instance.end();
}

#[test]
fn a_hard_disable_ends_live_connections_and_shows_so_while_a_soft_one_lets_them_live() {
    let (soft, hard) = (Server::echo(), Server::echo());
    let instance = Instance::before(&[&soft, &hard]);
    // One after the other: two that wait to be accepted at the same time may get their channels in either order.
    let [mut first, mut second] = [(); 2].map(|()| {
        let mut client = instance.connect();
        client.send("x");
        client.recv(1);
        client
    });
    instance.ctl("disable 0").out("channel 0 disabled\n").code(0);
    instance.ctl("disable 1 hard").out("channel 1 disabled\n").code(0);
    assert_eq!(second.ending(), Received::End, "nothing was under way");
    let rows = instance.await_show("the hard one is gone", |rows| rows[1].c == 0);
    assert_eq!([&rows[0].state[..], &rows[1].state], ["dis", "DIS"]);
    first.send("y");
    assert_eq!(first.recv(1), b"y", "the soft one lives on");
    drop(first);
    instance.end();
}

#[test]
fn a_download_cut_short_by_the_operator_ends_in_a_reset() {
    let (server, stop) = flood();
    let instance = Instance::before(&[&server]);
    let mut client = Client::connect_narrow(instance.addr);
    client.recv(1);
    // Until everything between the server and us is full.
    settled("nothing moves any more", || instance.show()[0].rcvd);
    instance.ctl("disable 0 hard").code(0);
    stop.store(true, Ordering::SeqCst);
    assert_eq!(client.ending(), Received::Reset);
    instance.end();
}

#[test]
fn a_download_cut_short_by_a_signal_ends_in_a_reset() {
    let (server, stop) = flood();
    let mut instance = Instance::before(&[&server]);
    let mut client = Client::connect_narrow(instance.addr);
    client.recv(1);
    settled("nothing moves any more", || instance.show()[0].rcvd);
    instance.signal(Signal::INT);
    assert_eq!(instance.wait(), 0);
    stop.store(true, Ordering::SeqCst);
    assert_eq!(client.ending(), Received::Reset);
}

/// A download that its reader does not take.
pub(crate) struct Stalled {
    reader: TcpStream,
    _sender: TcpStream,
    sent_bytes: usize,
}

impl Stalled {
    /// Its segments are small, so that the kernel keeps little of it.
    fn new(instance: &Instance, channel: &TcpListener) -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        socket.set_recv_buffer_size(2048).expect("an option");
        socket.set_tcp_mss(512).expect("an option");
        socket.connect(&instance.addr.into()).expect("connected");
        let reader = TcpStream::from(socket);
        reader.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        let (mut sender, _) = channel.accept().expect("the client's channel");
        sender.set_nonblocking(true).expect("a mode");
        let mut sent_bytes = 0;
        while sent_bytes < 150_000
            && let Ok(n) = sender.write(&[b'x'; 50_000])
        {
            sent_bytes += n;
        }
        Self { reader, _sender: sender, sent_bytes }
    }

    /// How it ended, and whether all of it came.
    fn ending(&mut self) -> (Received, bool) {
        let (mut got, mut buffer) = (0, [0; 65_536]);
        loop {
            match uninterrupted(|| self.reader.read(&mut buffer)) {
                Ok(0) => return (Received::End, got == self.sent_bytes),
                Ok(n) => got += n,
                Err(e) if e.kind() == ErrorKind::ConnectionReset => return (Received::Reset, false),
                Err(e) => panic!("after {got} bytes: {e}"),
            }
        }
    }
}

/// So many of them, once nothing moves any more.
pub(crate) fn stalled_downloads(instance: &Instance, channel: &TcpListener, number: usize) -> Vec<Stalled> {
    let downloads = (0..number).map(|_| Stalled::new(instance, channel)).collect();
    settled("nothing moves any more", || instance.show()[0].rcvd);
    downloads
}

/// How many were reset, and how many miss bytes and saw a clean end.
pub(crate) fn endings(downloads: &mut [Stalled]) -> [usize; 2] {
    let endings: Vec<_> = downloads.iter_mut().map(Stalled::ending).collect();
    [(Received::Reset, false), (Received::End, false)]
        .map(|what| endings.iter().filter(|&e| *e == what).count())
}

#[test]
fn nobody_who_misses_bytes_sees_a_clean_end_however_many_they_are_when_the_instance_is_stopped() {
    const CLIENTS: usize = 2_000;
    let channel = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let to = channel.local_addr().expect("it is bound");
    // More workers than cores, so that no one of them has all the time there is.
    let mut instance = Instance::before(&[&"--workers", &"4", &to]);
    let mut downloads = stalled_downloads(&instance, &channel, CLIENTS);
    instance.signal(Signal::INT);
    assert_eq!(instance.wait(), 0);
    assert_eq!(endings(&mut downloads), [CLIENTS, 0]);
}

#[test]
fn a_controller_that_does_not_read_keeps_nobody_from_the_port() {
    let address = own_address();
    let ip = address.ip().to_string();
    let mut instance = Setup::binding(address).start(["-b", &ip, "PORT", "127.0.0.1:9"]);
    let name = format!("balance.{}.{ip}", address.port());
    let path = instance.directory.path().join("run").join(name);
    let mut session = UnixStream::connect(&path).expect("the control socket");
    session
        .write_all("show;".repeat(12_000).as_bytes())
        .and_then(|()| session.write_all(b"\n"))
        .expect("sent");
    let mut greeting = [0; 8];
    session.read_exact(&mut greeting).expect("a greeting");
    instance.signal(Signal::TERM);
    assert_eq!(instance.wait(), 0);
    drop(eventually("the port is free", || TcpListener::bind(instance.addr).ok()));
    assert!(!path.exists(), "its name is gone, too");
}

#[test]
fn turnover_at_the_descriptor_limit_is_told_in_a_few_lines() {
    let server = Server::echo();
    let instance = Setup::new().shell("ulimit -n 40;").start(["PORT", &server.to_string()]);
    let mut waiting: std::collections::VecDeque<Client> = (0..40).map(|_| instance.connect()).collect();
    for _ in 0..80 {
        let mut served = waiting.pop_front().expect("forty");
        served.send("x");
        assert_eq!(served.recv(1), b"x");
        drop(served);
        waiting.push_back(instance.connect());
    }
    let told = instance.stderr().lines().filter(|line| line.contains("descriptors")).count();
    assert!((1..=4).contains(&told), "{told} lines:\n{}", instance.stderr());
    drop(waiting);
    instance.end();
}

#[test]
fn clients_that_are_gone_free_the_slots_of_a_hung_server() {
    private_network(
        "the time for which a closed connection is remembered is a setting of the network",
        || {
            std::fs::write("/proc/sys/net/ipv4/tcp_fin_timeout", "2").expect("a setting of our own network");
            // It takes connections and does nothing with them.
            let (_hung, stop) = std::sync::mpsc::channel::<()>();
            let stop = std::sync::Mutex::new(stop);
            let server = Server::with(move |_stream, _| {
                let _ = stop.lock().map(|stop| stop.recv());
            });
            let instance = Instance::before(&[&format!("{server}:5")]);
            let patient = instance.connect();
            patient.shut_wr();
            let open = instance.connect();
            for number in 0..3 {
                let mut client = instance.connect();
                client.send("hello");
                instance.await_show("it has its slot", |rows| rows[0].c >= 3);
                match number {
                    // Ends its own direction, and then forgets all of it.
                    0 => {
                        client.shut_wr();
                        instance.await_show("its end was heard", |_| instance.half_closed() >= 2);
                        client.rst();
                    }
                    _ => drop(client),
                }
            }
            instance.await_show("whoever is there", |rows| rows[0].c == 2);
            assert_eq!(instance.half_closed(), 1, "{}", instance.ctl("sessions").stdout);
            assert!(patient.is_quiet_for(std::time::Duration::from_millis(50)), "it may wait for its answer");
            drop((patient, open));
            instance.terminate();
        },
    );
}

#[test]
fn clients_that_reset_free_the_slots_of_a_server_that_takes_nothing() {
    let (_hung, stop) = std::sync::mpsc::channel::<()>();
    let stop = std::sync::Mutex::new(stop);
    let server = Server::with(move |_stream, _| {
        let _ = stop.lock().expect("nobody panics").recv();
    });
    let instance = Instance::start(["-d", "PORT", &format!("{server}:3")]);
    // More than the server's system takes, less than all systems on the way do: the rest waits here.
    let clients: Vec<_> = (0..3)
        .map(|_| {
            let mut client = instance.connect();
            client.send(vec![b'x'; 300_000]);
            client
        })
        .collect();
    instance.await_show("all slots are taken", |rows| rows[0].c == 3);
    clients.into_iter().for_each(Client::rst);
    instance.await_show("their slots are free", |rows| rows[0].c == 0);
    instance.await_told([("closed", 3)]);
    let told = instance.told("closed");
    assert!(told.len() == 3 && told.iter().all(|line| line.contains("how=\"client reset\"")), "{told:#?}");
    instance.end();
}
