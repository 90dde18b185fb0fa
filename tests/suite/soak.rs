//! Upgrades and reloads, one after another, while many clients are served: no client may notice.
//!
//! `bench/upgrade` runs it at full size. Source: docs/upgrade.md.

use std::collections::{HashMap, VecDeque};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::epoll;

use crate::harness::{Direction, Setup, Stream, eventually, own_address};

/// Bytes of one request, and of its answer.
const REQUEST: usize = 700;

/// How long a client waits for an answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// What is asked for: `BALANCE_SOAK=HELD,FLOWING,NEW_PER_SECOND,ROUNDS,PAUSE`.
struct Size {
    held: usize,
    flowing: usize,
    per_second: u64,
    rounds: usize,
    /// How long a client waits between its answer and its next request. Without one the requests take all time there is.
    pause: Duration,
}

impl Size {
    fn asked() -> Self {
        let asked = std::env::var("BALANCE_SOAK").unwrap_or_else(|_| "300,60,300,5,0".into());
        let numbers: Vec<u64> = asked.split(',').map(|n| n.parse().expect("five numbers")).collect();
        let [held, flowing, per_second, rounds, pause] = numbers[..] else { panic!("five numbers") };
        let pause = Duration::from_millis(pause);
        Self { held: held as usize, flowing: flowing as usize, per_second, rounds: rounds as usize, pause }
    }
}

/// Echoes on one thread, however many there are.
fn serve(listener: TcpListener, stop: Arc<AtomicBool>) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        listener.set_nonblocking(true).expect("a mode");
        let poller = epoll::create(epoll::CreateFlags::CLOEXEC).expect("a poller");
        let (readable, own) = (epoll::EventFlags::IN, u64::MAX);
        epoll::add(&poller, &listener, epoll::EventData::new_u64(own), readable).expect("watched");
        let mut streams: HashMap<u64, TcpStream> = HashMap::new();
        let (mut events, mut buffer) = (Vec::with_capacity(256), vec![0; 64 * 1024]);
        let patience = rustix::event::Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
        while !stop.load(Ordering::Relaxed) {
            events.clear();
            let _ = epoll::wait(&poller, rustix::buffer::spare_capacity(&mut events), Some(&patience));
            for event in &events {
                let key = event.data.u64();
                if key == own {
                    while let Ok((stream, _)) = listener.accept() {
                        stream.set_nonblocking(true).expect("a mode");
                        stream.set_nodelay(true).expect("an option");
                        let key = stream.as_raw_fd() as u64;
                        epoll::add(&poller, &stream, epoll::EventData::new_u64(key), readable)
                            .expect("watched");
                        streams.insert(key, stream);
                    }
                    continue;
                }
                let Some(stream) = streams.get_mut(&key) else { continue };
                match stream.read(&mut buffer) {
                    // Requests are far smaller than the buffer of a socket.
                    Ok(n) if n > 0 => stream.write_all(&buffer[..n]).unwrap_or_default(),
                    Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                    _ => drop(streams.remove(&key)),
                }
            }
        }
    })
}

/// Clients that ask again `pause` after they have their answer, on one thread; how many requests were answered.
fn flow(
    to: SocketAddr,
    count: usize,
    pause: Duration,
    stop: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
) -> thread::JoinHandle<u64> {
    struct Flow {
        stream: TcpStream,
        keyed: Stream,
        at: u64,
        got: Vec<u8>,
    }
    let mut flows: Vec<Flow> = (0..count)
        .map(|n| {
            let stream = TcpStream::connect(to).expect("a connection");
            stream.set_nodelay(true).expect("an option");
            stream.set_nonblocking(true).expect("a mode");
            Flow { stream, keyed: Stream::new(n as u64, Direction::Sent), at: 0, got: Vec::new() }
        })
        .collect();
    thread::spawn(move || {
        let poller = epoll::create(epoll::CreateFlags::CLOEXEC).expect("a poller");
        for (n, flow) in flows.iter_mut().enumerate() {
            let data = epoll::EventData::new_u64(n as u64);
            epoll::add(&poller, flow.stream.as_fd(), data, epoll::EventFlags::IN).expect("watched");
            flow.stream.write_all(&flow.keyed.bytes(0, REQUEST)).expect("room for a request");
        }
        let (mut events, mut buffer) = (Vec::with_capacity(256), vec![0; REQUEST]);
        let (mut answered, mut open, mut news) = (0, count, Instant::now());
        let mut waiting: VecDeque<(Instant, usize)> = VecDeque::new();
        while open > 0 {
            let now = Instant::now();
            while waiting.front().is_some_and(|(due, _)| *due <= now) {
                let flow = &mut flows[waiting.pop_front().expect("it was seen").1];
                flow.stream.write_all(&flow.keyed.bytes(flow.at, REQUEST)).expect("room for a request");
            }
            let patience = waiting.front().map_or(PATIENCE, |(due, _)| due.saturating_duration_since(now));
            let patience = rustix::event::Timespec::try_from(patience).expect("a short time");
            events.clear();
            epoll::wait(&poller, rustix::buffer::spare_capacity(&mut events), Some(&patience)).expect("news");
            if !events.is_empty() {
                news = Instant::now();
            }
            assert!(news.elapsed() < PATIENCE, "nobody is answered any more");
            for event in &events {
                let flow = &mut flows[event.data.u64() as usize];
                let n = flow.stream.read(&mut buffer[..REQUEST - flow.got.len()]).expect("an answer");
                assert!(n > 0, "a connection was ended");
                flow.got.extend(&buffer[..n]);
                if flow.got.len() < REQUEST {
                    continue;
                }
                flow.keyed.check(flow.at, &flow.got);
                flow.got.clear();
                flow.at += REQUEST as u64;
                answered += 1;
                asked.fetch_add(1, Ordering::Relaxed);
                if stop.load(Ordering::Relaxed) {
                    epoll::delete(&poller, flow.stream.as_fd()).expect("it was watched");
                    open -= 1;
                    continue;
                }
                if pause.is_zero() {
                    flow.stream.write_all(&flow.keyed.bytes(flow.at, REQUEST)).expect("room for a request");
                } else {
                    waiting.push_back((Instant::now() + pause, event.data.u64() as usize));
                }
            }
        }
        answered
    })
}

/// Clients that come, ask once and go, so many per second; how long each connect took.
fn come(
    to: SocketAddr,
    per_second: u64,
    stop: Arc<AtomicBool>,
    times: Arc<Mutex<Vec<Duration>>>,
) -> Vec<thread::JoinHandle<()>> {
    const THREADS: u64 = 16;
    let one = |n: u64| {
        let (stop, times) = (Arc::clone(&stop), Arc::clone(&times));
        thread::spawn(move || {
            let (begin, mut done) = (Instant::now(), 0);
            let pace = Duration::from_secs_f64(THREADS as f64 / per_second as f64);
            while !stop.load(Ordering::Relaxed) {
                let due = begin + pace * done;
                thread::sleep(due.saturating_duration_since(Instant::now()));
                done += 1;
                let before = Instant::now();
                let mut stream = TcpStream::connect_timeout(&to, PATIENCE).expect("refused");
                let took = before.elapsed();
                let words = Stream::new(n << 40 | u64::from(done), Direction::Sent).bytes(0, 16);
                stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
                stream.write_all(&words).expect("it is served");
                let mut got = [0; 16];
                stream.read_exact(&mut got).expect("an answer");
                assert_eq!(got[..], words[..]);
                times.lock().expect("no panic").push(took);
            }
        })
    };
    (0..THREADS).map(one).collect()
}

fn percentile(times: &mut [Duration], percent: usize) -> Duration {
    times.sort_unstable();
    times.get((times.len() * percent / 100).min(times.len().saturating_sub(1))).copied().unwrap_or_default()
}

#[test]
fn nobody_notices_that_the_process_is_another_one() {
    let Size { held, flowing, per_second, rounds, pause } = Size::asked();
    let stop_server = Arc::new(AtomicBool::new(false));
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    // The queue of the standard library is short for thousands who come at once.
    rustix::net::listen(&listener, 4096).expect("it listens");
    let server = listener.local_addr().expect("an address");
    let served = serve(listener, Arc::clone(&stop_server));
    let listen = own_address();
    let setup = Setup::binding(listen);
    let text =
        |weight: u32| format!("web: -b {} {} {server}:20000,weight={weight}\n", listen.ip(), listen.port());
    let file = setup.directory().file("services", &text(1));
    let mut instance = setup.start(["--file".to_owned(), file.display().to_string()]);
    let mut quiet: Vec<TcpStream> = (0..held.saturating_sub(flowing))
        .map(|_| TcpStream::connect(listen).expect("a connection"))
        .collect();
    let (stop, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let flows = flow(listen, flowing, pause, Arc::clone(&stop), Arc::clone(&asked));
    let times = Arc::new(Mutex::new(Vec::new()));
    let comers = come(listen, per_second, Arc::clone(&stop), Arc::clone(&times));
    let await_comers = |n: usize| {
        eventually("new clients are served", || (times.lock().expect("no panic").len() >= n).then_some(()));
    };
    // What is quiet is measured for as long as one round takes, or a little more.
    await_comers((2 * per_second) as usize);
    let mut before = std::mem::take(&mut *times.lock().expect("no panic"));
    let (mut longest, mut carried) = (Duration::ZERO, 0);
    for round in 1..=rounds {
        let begin = Instant::now();
        let told = instance.upgrade();
        longest = longest.max(begin.elapsed());
        assert!(told.ends_with("draining 0\n"), "{told}");
        let number =
            told.split("carried ").nth(1).and_then(|rest| rest.split(',').next()?.parse::<usize>().ok());
        carried += number.expect("it says how many");
        instance.directory.file("services", &text(1 + round as u32 % 2));
        let told = instance.ctl("reload").code(0).stdout;
        assert!(told.contains("weight"), "{told}");
        let (answered, came) = (asked.load(Ordering::Relaxed), times.lock().expect("no panic").len());
        eventually("requests go on", || (asked.load(Ordering::Relaxed) > answered + flowing).then_some(()));
        await_comers(came + per_second as usize / 10);
    }
    stop.store(true, Ordering::Relaxed);
    let answered = flows.join().expect("no byte was lost");
    for comer in comers {
        comer.join().expect("nobody was refused");
    }
    for (n, stream) in quiet.iter_mut().enumerate() {
        let words = Stream::new(n as u64, Direction::Rcvd).bytes(0, 16);
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream.write_all(&words).expect("it is served");
        let mut got = [0; 16];
        stream.read_exact(&mut got).expect("an answer");
        assert_eq!(got[..], words[..]);
    }
    let mut during = std::mem::take(&mut *times.lock().expect("no panic"));
    let line = format!(
        "{rounds} upgrades and {rounds} reloads, {held} held, {flowing} of them asked {answered} times, {} came: 0 refused, 0 reset, 0 bytes lost\n\
         carried {carried}, the longest upgrade took {longest:.0?}\n\
         connect p50 {:.0?} (quiet {:.0?}), p99 {:.0?} (quiet {:.0?}), max {:.0?}\n",
        during.len(),
        percentile(&mut during, 50),
        percentile(&mut before, 50),
        percentile(&mut during, 99),
        percentile(&mut before, 99),
        percentile(&mut during, 100),
    );
    // Whoever measures wants to read it.
    std::io::stderr().write_all(line.as_bytes()).expect("stderr is open");
    drop(quiet);
    instance.end();
    stop_server.store(true, Ordering::Relaxed);
    served.join().expect("the server ends");
}
