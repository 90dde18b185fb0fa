//! What a reload costs clients that are served meanwhile: one service with many channels, busy clients and
//! new ones, and a file that changes again and again.
//!
//! `cargo bench --bench reload` (half a minute), or `cargo bench --bench reload -- CHANNELS RELOADS`

use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const BALANCE: &str = env!("CARGO_BIN_EXE_balance");

/// What changes in the file.
#[derive(Clone, Copy, PartialEq)]
enum Change {
    /// Nothing.
    Nothing,
    /// A hundredth of the channels is replaced.
    Some,
    /// Every channel gets another weight.
    All,
}

impl Change {
    const ALL: [Self; 3] = [Self::Nothing, Self::Some, Self::All];

    fn name(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Some => "1 % of the channels",
            Self::All => "every weight",
        }
    }
}

fn main() -> io::Result<()> {
    // Cargo also passes `--bench`.
    let numbers: Vec<usize> = std::env::args().skip(1).filter_map(|word| word.parse().ok()).collect();
    let [channels, reloads] =
        [(0, 10_000), (1, 30)].map(|(at, usual)| numbers.get(at).copied().unwrap_or(usual));
    measure(channels, reloads)
}

fn measure(channels: usize, reloads: usize) -> io::Result<()> {
    let directory = std::env::temp_dir().join(format!("balance-reload-{}", std::process::id()));
    std::fs::create_dir(&directory)?;
    let result = measure_in(&directory, channels, reloads);
    let _ = std::fs::remove_dir_all(&directory);
    result
}

fn measure_in(directory: &Path, channels: usize, reloads: usize) -> io::Result<()> {
    let server = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    let backend = server.local_addr()?.port();
    thread::spawn(move || echo(&server));
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
    let file = directory.join("services");
    let mut generation = 0;
    std::fs::write(&file, text(channels, port, backend, generation, 1))?;
    let balance = Running::start(directory, &file, port)?;
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let stop = Arc::new(AtomicBool::new(false));
    let out = &mut io::stdout();
    writeln!(
        out,
        "{channels} channels, {reloads} reloads of each kind, one client that asks and one that comes anew"
    )?;
    let [changed, median, most, asked, came] =
        ["changed", "reload p50", "reload max", "longest wait", "longest come"];
    writeln!(out, "{changed:<22} {median:>12} {most:>12} {asked:>14} {came:>14}")?;
    quiet(listen, &stop)?;
    for change in Change::ALL {
        stop.store(false, Ordering::SeqCst);
        let clients = Clients::start(listen, &stop);
        let mut times = Vec::new();
        for round in 0..reloads {
            generation += usize::from(change == Change::Some);
            let weight = if change == Change::All { 1 + (round + 1) % 2 } else { 1 };
            std::fs::write(&file, text(channels, port, backend, generation, weight))?;
            let begin = Instant::now();
            balance.command("reload")?;
            times.push(begin.elapsed());
            thread::sleep(Duration::from_millis(50));
        }
        stop.store(true, Ordering::SeqCst);
        let [asked, came] = clients.longest()?;
        times.sort_unstable();
        row(change.name(), times[times.len() / 2], times[times.len() - 1], asked, came)?;
        std::fs::write(&file, text(channels, port, backend, generation, 1))?;
        balance.command("reload")?;
    }
    Ok(())
}

fn row(name: &str, median: Duration, most: Duration, asked: Duration, came: Duration) -> io::Result<()> {
    let ms = |time: Duration| format!("{:.1} ms", time.as_secs_f64() * 1e3);
    writeln!(
        io::stdout(),
        "{name:<22} {:>12} {:>12} {:>14} {:>14}",
        ms(median),
        ms(most),
        ms(asked),
        ms(came)
    )
}

/// Measures how long clients wait at most while nothing happens.
fn quiet(listen: SocketAddr, stop: &Arc<AtomicBool>) -> io::Result<()> {
    let clients = Clients::start(listen, stop);
    thread::sleep(Duration::from_secs(3));
    stop.store(true, Ordering::SeqCst);
    let [asked, came] = clients.longest()?;
    row("(no reload)", Duration::ZERO, Duration::ZERO, asked, came)
}

/// Each channel has an address of its own on the loopback interface.
fn text(channels: usize, port: u16, backend: u16, generation: usize, weight: usize) -> String {
    let mut text = format!("many: -b 127.0.0.1 {port}");
    for number in 0..channels {
        // The first hundredth moves with each generation.
        let moved = if number < channels.div_ceil(100) { generation % 50 } else { 0 };
        let [high, low] = [(number >> 8) & 0xff, number & 0xff];
        let _ = write!(text, " \\\n127.{}.{high}.{low}:{backend},weight={weight}", 1 + moved);
    }
    text.push('\n');
    text
}

fn echo(server: &TcpListener) {
    for stream in server.incoming() {
        let Ok(mut stream) = stream else { continue };
        thread::spawn(move || {
            let mut buffer = [0; 64];
            while let Ok(got) = stream.read(&mut buffer) {
                if got == 0 || stream.write_all(&buffer[..got]).is_err() {
                    return;
                }
            }
        });
    }
}

/// Two clients, and the longest time that each has waited.
struct Clients([thread::JoinHandle<io::Result<Duration>>; 2]);

impl Clients {
    fn start(listen: SocketAddr, stop: &Arc<AtomicBool>) -> Self {
        let [first, second] = [(); 2].map(|()| Arc::clone(stop));
        let asks = thread::spawn(move || {
            let mut stream = connect(listen)?;
            longest(&first, || ask(&mut stream))
        });
        let comes = thread::spawn(move || longest(&second, || ask(&mut connect(listen)?)));
        Self([asks, comes])
    }

    fn longest(self) -> io::Result<[Duration; 2]> {
        let mut found = [Duration::ZERO; 2];
        for (found, client) in found.iter_mut().zip(self.0) {
            *found = client.join().map_err(|_| io::Error::other("a client panicked"))??;
        }
        Ok(found)
    }
}

fn longest(stop: &AtomicBool, mut act: impl FnMut() -> io::Result<()>) -> io::Result<Duration> {
    let mut longest = Duration::ZERO;
    while !stop.load(Ordering::SeqCst) {
        let begin = Instant::now();
        act()?;
        longest = longest.max(begin.elapsed());
        thread::sleep(Duration::from_micros(200));
    }
    Ok(longest)
}

fn connect(listen: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(listen)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    Ok(stream)
}

fn ask(stream: &mut TcpStream) -> io::Result<()> {
    stream.write_all(b"ping")?;
    stream.read_exact(&mut [0; 4])
}

/// The program being measured. Dropping this ends it.
struct Running {
    child: Child,
    directory: PathBuf,
    port: u16,
}

impl Running {
    fn start(directory: &Path, file: &Path, port: u16) -> io::Result<Self> {
        let child = Command::new(BALANCE)
            .args(["-f", "--file"])
            .arg(file)
            .env("BALANCE_RUN_DIR", directory)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let running = Self { child, directory: directory.to_owned(), port };
        let until = Instant::now() + Duration::from_secs(10);
        while running.command("version").is_err() {
            if Instant::now() > until {
                return Err(io::Error::other("it does not answer"));
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(running)
    }

    fn command(&self, words: &str) -> io::Result<()> {
        let output = Command::new(BALANCE)
            .args(["-b", "127.0.0.1", "-c", words, &self.port.to_string()])
            .env("BALANCE_RUN_DIR", &self.directory)
            .output()?;
        if output.status.success() {
            return Ok(());
        }
        Err(io::Error::other(String::from_utf8_lossy(&output.stdout).into_owned()))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
