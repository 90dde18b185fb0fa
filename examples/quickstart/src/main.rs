//! The main job on real traffic, with nothing to set up: three small web servers, one `balance` in front of them, a
//! server that dies, and the table before and after.
//!
//! `cargo run -p quickstart`
//!
//! Knows: balance by the words of a command line. Never: what is inside it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, IsTerminal, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError, channel};
use std::thread;
use std::time::{Duration, Instant};

use balance::app;

type Failure = Box<dyn std::error::Error>;

/// Between two looks whether there is still something to wait for.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// How long `balance` may take to end by a signal.
const ENDED: Duration = Duration::from_secs(1);

/// A web server that says its name, until it is stopped.
struct Server {
    name: &'static str,
    address: SocketAddr,
    stopped: Arc<AtomicBool>,
}

impl Server {
    fn start(name: &'static str) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let address = listener.local_addr()?;
        let stopped = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&stopped);
        thread::spawn(move || {
            for client in listener.incoming() {
                if seen.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(client) = client else { continue };
                thread::spawn(move || answer(client, name));
            }
        });
        Ok(Self { name, address, stopped })
    }

    /// Closes the port: from now on connects are refused.
    fn kill(&self) {
        self.stopped.store(true, Ordering::SeqCst);
        // The accept that is under way has to come back once.
        drop(TcpStream::connect(self.address));
        let gone = Instant::now() + Duration::from_secs(2);
        while TcpStream::connect(self.address).is_ok() && Instant::now() < gone {
            thread::yield_now();
        }
    }
}

fn answer(client: TcpStream, name: &str) -> io::Result<()> {
    let mut lines = BufReader::new(&client).lines();
    while lines.next().transpose()?.is_some_and(|line| !line.is_empty()) {}
    let body = format!("hello from server {name}\n");
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    (&client).write_all(format!("{head}{body}").as_bytes())?;
    client.shutdown(Shutdown::Write)
}

/// One request through the balancer; which server answered.
fn request(port: u16) -> io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    match text.trim_end().rsplit(' ').next() {
        Some(name) if !name.is_empty() => Ok(name.to_owned()),
        _ => Err(io::Error::other("an empty answer")),
    }
}

fn traffic(out: &mut impl Write, port: u16, requests: u32) -> Result<(), Failure> {
    let started = Instant::now();
    let mut answers: BTreeMap<String, u32> = BTreeMap::new();
    for _ in 0..requests {
        let name = request(port).map_err(|cause| format!("a request was lost: {cause}"))?;
        *answers.entry(name).or_default() += 1;
    }
    let by: Vec<String> = answers.iter().map(|(name, count)| format!("{name} {count}")).collect();
    writeln!(
        out,
        "{requests} requests in {} ms, answered by: {}; lost: 0\n",
        started.elapsed().as_millis(),
        by.join(", ")
    )?;
    Ok(())
}

/// `balance` as from the command line.
fn balance(words: &[&str]) -> ExitCode {
    let program = std::iter::once("balance");
    app::run(program.chain(words.iter().copied()).map(OsString::from).collect())
}

fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

/// Runs `balance` until it ends; then the channel ends, too.
fn start(words: &[String]) -> Receiver<ExitCode> {
    let (ended, end) = channel();
    let line = words.to_vec();
    thread::spawn(move || {
        let code = balance(&line.iter().map(String::as_str).collect::<Vec<_>>());
        // Whoever does not wait for it any more need not know.
        _ = ended.send(code);
    });
    end
}

/// Waits for Enter, or for the end of `balance`, by ^C for example. `true` if it was Enter.
fn enter_or_end(instance: &Receiver<ExitCode>) -> bool {
    let (typed, line) = channel();
    thread::spawn(move || {
        io::stdin().lines().next();
        _ = typed.send(());
    });
    loop {
        if line.try_recv() != Err(TryRecvError::Empty) {
            return true;
        }
        match instance.recv_timeout(LOOK_AGAIN) {
            Err(RecvTimeoutError::Timeout) => (),
            Ok(_) | Err(RecvTimeoutError::Disconnected) => return false,
        }
    }
}

/// The whole of it, while `balance` serves.
fn show(
    out: &mut (impl Write + IsTerminal),
    servers: &[Server],
    port: u16,
    instance: &Receiver<ExitCode>,
) -> Result<(), Failure> {
    let number = port.to_string();
    let show = |out: &mut dyn Write| -> io::Result<()> {
        writeln!(out, "$ balance -b 127.0.0.1 -c show {number}")?;
        balance(&["-b", "127.0.0.1", "-c", "show", &number]);
        Ok(())
    };
    traffic(out, port, 300)?;
    show(out)?;

    writeln!(out, "\nnow server {} dies, and nobody notices:\n", servers[1].name)?;
    servers[1].kill();
    traffic(out, port, 300)?;
    show(out)?;

    if io::stdin().is_terminal() && out.is_terminal() {
        writeln!(
            out,
            "\nIt is still running. In another terminal:\n\n  \
             curl http://127.0.0.1:{number}/\n  \
             cargo run -- -b 127.0.0.1 -i {number}        (then: show, disable 0, enable 0, help)\n\n\
             Press Enter to end."
        )?;
        if !enter_or_end(instance) {
            return Ok(());
        }
    } else {
        writeln!(out, "\nRun it in a terminal and it stays, for you to poke at with curl and `balance -i`.")?;
    }
    balance(&["-b", "127.0.0.1", "-c", "kill 0", &number]);
    instance.recv()?;
    Ok(())
}

fn main() -> Result<(), Failure> {
    let mut out = io::stdout();
    let servers = [Server::start("a")?, Server::start("b")?, Server::start("c")?];
    let port = free_port()?;
    let mut words = vec!["-f".to_owned(), "-b".into(), "127.0.0.1".into(), port.to_string()];
    words.extend(servers.iter().map(|server| server.address.to_string()));

    writeln!(out, "$ balance {}\n", words.join(" "))?;
    let instance = start(&words);
    let ready = Instant::now() + Duration::from_secs(10);
    while request(port).is_err() {
        if instance.try_recv() != Err(TryRecvError::Empty) || Instant::now() > ready {
            return Err("balance did not start".into());
        }
        thread::yield_now();
    }
    match show(&mut out, &servers, port, &instance) {
        // ^C ends balance, and then nothing else here can go well.
        Err(_) if instance.recv_timeout(ENDED) != Err(RecvTimeoutError::Timeout) => Ok(()),
        result => result,
    }
}
