//! What access rules cost allowed clients: a million networks, a million sources that are refused, and one
//! allowed client that connects again and again.
//!
//! `cargo bench --bench access` (two minutes), or `cargo bench --bench access -- NETWORKS SOURCES`

use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use balance::config::parse_nets;
use balance::sched::{Gate, Lists, RuleSet, Ruling};
use socket2::{Domain, Socket, Type};

const BALANCE: &str = env!("CARGO_BIN_EXE_balance");
/// The networks of the strangers. All of them are refused.
const STRANGERS: [u8; 2] = [128, 128];
/// Strangers per second, so few that the others have a core.
const PACE: u64 = 12_000;
/// The interval at which the allowed client connects.
const EVERY: Duration = Duration::from_millis(1);

fn main() -> io::Result<()> {
    // Cargo also passes `--bench`.
    let numbers: Vec<u64> = std::env::args().skip(1).filter_map(|word| word.parse().ok()).collect();
    let [networks, sources] = [0, 1].map(|at| numbers.get(at).copied().unwrap_or(1_000_000));
    let directory = std::env::temp_dir().join(format!("balance-access-{}", std::process::id()));
    std::fs::create_dir(&directory)?;
    let result = measure(&directory, networks, sources);
    let _ = std::fs::remove_dir_all(&directory);
    result
}

fn measure(directory: &Path, networks: u64, sources: u64) -> io::Result<()> {
    let list = directory.join("list");
    let text = file(networks);
    look_up(&text)?;
    std::fs::write(&list, &text)?;
    let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let backend = server.local_addr()?;
    thread::spawn(move || greet(&server));
    let list = list.display().to_string();
    let deny = format!("{list},127.{}.0.0/9", STRANGERS[0]);
    let limits = ["--client-max", "100", "--client-rate", "1000000/1s"];
    let all = [&["--deny", &deny][..], &limits].concat();
    let mut out = io::stdout();
    writeln!(
        out,
        "honest client, first byte, in us; beside it one of an instance without rules, at the same time"
    )?;
    let of = "p50 without   with   p99 without   with   RSS MiB without  with, before and after";
    writeln!(out, "{:<44} {:>9} {of}", "", "strangers")?;
    for (name, options, strangers, comes_to) in [
        ("nobody else", &all[..], 0, &[1][..]),
        ("strangers that a list refuses", &all, sources, &[1]),
        ("strangers that come for the first time, to both", &limits, sources / 4, &[0, 1]),
    ] {
        let both = [Running::start(directory, backend, &[])?, Running::start(directory, backend, options)?];
        let before = both[1].resident()?;
        let listen = [both[0].listen, both[1].listen];
        let comes_to: Vec<SocketAddr> = comes_to.iter().map(|&at| listen[at]).collect();
        let times = honest(listen, strangers, &comes_to, Duration::from_secs(8))?;
        let at = |of: usize, share: f64| {
            times[of][((times[of].len() - 1) as f64 * share) as usize].as_secs_f64() * 1e6
        };
        writeln!(
            out,
            "{name:<44} {strangers:>9} {:>11.0} {:>6.0} {:>13.0} {:>6.0} {:>17} {:>5} {:>5}",
            at(0, 0.5),
            at(1, 0.5),
            at(0, 0.99),
            at(1, 0.99),
            both[0].resident()?,
            before,
            both[1].resident()?
        )?;
    }
    Ok(())
}

/// Random numbers.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        // xorshift64*
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}

/// Half IPv4, half IPv6; none contains an address of this machine.
fn file(networks: u64) -> String {
    let (mut text, mut dice) = (String::new(), Dice(7));
    for number in 0..networks {
        let lot = dice.roll();
        if number % 2 == 0 {
            let length = 16 + lot % 17;
            let address = ((lot >> 8) as u32 & 0x3fff_ffff | 0x8000_0000) & (u32::MAX << (32 - length));
            let _ = writeln!(text, "{}/{length}", Ipv4Addr::from(address));
        } else {
            let length = 32 + lot % 33;
            let address =
                (u128::from(dice.roll()) << 64 & (u128::MAX >> 3) | 1 << 125) & (u128::MAX << (128 - length));
            let _ = writeln!(text, "{}/{length}", Ipv6Addr::from(address));
        }
    }
    text
}

/// Measures how long it takes to build the rules, and to look up an address.
fn look_up(text: &str) -> io::Result<()> {
    let begin = Instant::now();
    let nets =
        parse_nets(text.as_bytes()).map_err(|(line, _, why)| io::Error::other(format!("{line}: {why}")))?;
    let parsed = begin.elapsed();
    let count = nets.len();
    let rules = RuleSet::new(nets.into_iter().map(|net| (net, Ruling::Deny)), false);
    let sorted = begin.elapsed() - parsed;
    let bytes = rules.bytes();
    let gate = Gate::default();
    gate.set_lists(Lists { rules: Arc::new(rules), networks: count, ..Lists::default() });
    let mut dice = Dice(11);
    let asked: Vec<IpAddr> = (0..1_000_000)
        .map(|_| match dice.roll() {
            lot if lot % 2 == 0 => Ipv4Addr::from((lot >> 8) as u32).into(),
            lot => Ipv6Addr::from(u128::from(lot) << 61 | u128::from(dice.roll())).into(),
        })
        .collect();
    let begin = Instant::now();
    let denied = asked.iter().filter(|client| gate.denies(**client, Duration::ZERO)).count();
    let each = begin.elapsed().as_nanos() / asked.len() as u128;
    writeln!(
        io::stdout(),
        "{count} networks: read in {:.0} ms, sorted in {:.0} ms, {:.1} MiB; a look at a random one of a million addresses {each} ns, {} % denied",
        parsed.as_secs_f64() * 1e3,
        sorted.as_secs_f64() * 1e3,
        bytes as f64 / f64::from(1 << 20),
        denied * 100 / asked.len()
    )
}

/// Sends a byte to each client.
fn greet(server: &TcpListener) {
    server.incoming().flatten().for_each(|mut stream| _ = stream.write_all(b"h"));
}

/// Measures how long an allowed client waits for its first byte, at each of two instances in turn, while
/// strangers connect to some of them, and for at least the given time.
fn honest(
    listen: [SocketAddr; 2],
    strangers: u64,
    comes_to: &[SocketAddr],
    long: Duration,
) -> io::Result<[Vec<Duration>; 2]> {
    let left = Arc::new(AtomicU64::new(strangers));
    let flood: Vec<_> = (0..2)
        .map(|thread| {
            let (left, comes_to) = (Arc::clone(&left), comes_to.to_vec());
            thread::spawn(move || {
                let mut dice = Dice(100 + thread);
                let (begin, mut came) = (Instant::now(), 0);
                let one_less = |left: u64| left.checked_sub(1);
                while let Ok(number) = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less) {
                    stranger(&mut dice, comes_to[number as usize % comes_to.len()]);
                    came += 1;
                    let due = Duration::from_micros(came * 2_000_000 / PACE);
                    if let Some(early) = due.checked_sub(begin.elapsed()) {
                        thread::sleep(early);
                    }
                }
            })
        })
        .collect();
    let (begin, mut times) = (Instant::now(), [Vec::new(), Vec::new()]);
    while begin.elapsed() < long || left.load(Ordering::Relaxed) > 0 {
        for (listen, times) in listen.iter().zip(&mut times) {
            let came = Instant::now();
            TcpStream::connect(listen)?.read_exact(&mut [0])?;
            times.push(came.elapsed());
            thread::sleep(EVERY);
        }
    }
    flood.into_iter().for_each(|thread| drop(thread.join()));
    times.iter_mut().for_each(|times| times.sort_unstable());
    Ok(times)
}

/// Connects from an address of its own, and reads until it is refused.
fn stranger(dice: &mut Dice, listen: SocketAddr) {
    let [a, b, c, ..] = dice.roll().to_le_bytes();
    let from = SocketAddr::from(([127, STRANGERS[1] | a, b, c], 0));
    let come = || {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.bind(&from.into())?;
        socket.connect(&listen.into())?;
        socket.set_linger(Some(Duration::ZERO))?;
        TcpStream::from(socket).read(&mut [0])
    };
    let _ = come();
}

/// The program being measured. Dropping this ends it.
struct Running {
    child: Child,
    listen: SocketAddr,
}

impl Running {
    fn start(directory: &Path, server: SocketAddr, options: &[&str]) -> io::Result<Self> {
        let listen = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let child = Command::new(BALANCE)
            .arg("-f")
            .args(options)
            .args(["-b", "127.0.0.1", &listen.port().to_string(), &server.to_string()])
            .env("BALANCE_RUN_DIR", directory)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let running = Self { child, listen };
        let until = Instant::now() + Duration::from_secs(30);
        while TcpStream::connect(listen).is_err() {
            if Instant::now() > until {
                return Err(io::Error::other("it does not serve"));
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(running)
    }

    /// Memory in MiB.
    fn resident(&self) -> io::Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let digits =
            line.and_then(|line| line.split_whitespace().next()).and_then(|kib| kib.parse::<u64>().ok());
        Ok(digits.unwrap_or(0) / 1024)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
