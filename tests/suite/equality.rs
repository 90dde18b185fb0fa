//! All counts agree: after a random load with every kind of end, `show`, `status`, JSON, metrics and the
//! access log show the same numbers.
//!
//! There are several services, each with the ends that its options make; clients of all kinds at a time; and
//! commands, a reload and an upgrade meanwhile. The load follows from a seed that is printed;
//! `BALANCE_SEED=n` sets it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Mutex;

use serde_json::Value;

use super::access::fields;
use super::agree::{Numbers, difference, logged, of_json, of_log, of_metrics};
use super::http::get;
use super::relay_sim::random::Random;
use crate::harness::{
    BlackHole, Client, Finished, Instance, Refusing, Run, Server, Setup, eventually, own_address, script,
};

/// How many clients come at a time.
const THREADS: u64 = 4;
/// How often each thread does everything that clients do, in each of the three parts of the load.
const ROUNDS: usize = 2;

/// Services by their names, and what stands on their lines. `ECHO` and so on are servers.
const SERVICES: [(&str, &str); 18] = [
    ("web", "--no-eject -t 80ms ECHO REFUSING CLOSER RESETTER HOLE"),
    ("brief", "CLOSER"),
    ("moves", "CLOSER RESETTER ECHO"),
    ("long", "ECHO"),
    ("slow", "-T 40ms ECHO"),
    ("short", "--max-lifetime 60ms ECHO"),
    ("half", "--half-close-timeout 50ms DEAF"),
    ("full", "ECHO::1"),
    ("queue", "--queue 1 --queue-timeout 40ms ECHO::1"),
    ("dead", "--no-eject -t 40ms REFUSING HOLE"),
    ("down", "--fail-open off REFUSING"),
    ("off", "ECHO,disabled"),
    ("pause", "--pause-timeout 40ms ECHO"),
    ("denied", "--deny 127.0.0.0/8 ECHO"),
    ("max", "--client-max 1 ECHO"),
    ("rate", "--client-rate 1/1h ECHO"),
    ("proxied", "--accept-proxy any --greeting-timeout 40ms ECHO"),
    (
        "check",
        "--check exec:CHECK --check-timeout 20s --check-interval 50ms --check-fall 1 --check-rise 1 --on-down kick ECHO",
    ),
];

/// A service that a reload takes away, with those that it has.
const GONE: &str = "--on-remove kick ECHO";

struct World {
    instance: Instance,
    at: BTreeMap<&'static str, SocketAddr>,
    http: SocketAddr,
    /// Clients that came to each service, and those of them that certainly were taken.
    came: Mutex<BTreeMap<&'static str, (u64, u64)>>,
    /// Connections that their other end is to end.
    held: Mutex<Vec<Client>>,
}

impl World {
    /// A client of a service.
    fn connect(&self, service: &'static str) -> Guest<'_> {
        self.came.lock().expect("whole").entry(service).or_default().0 += 1;
        let client = Client::try_connect(self.at[service], None, None).ok();
        Guest { world: self, service, client, is_taken: false }
    }

    fn ask(&self, service: &str, command: &str) -> Finished {
        let at = self.at[service];
        let words = ["-b", &at.ip().to_string(), "-c", command, &at.port().to_string()].map(str::to_owned);
        Run::balance(&self.instance.directory).args(words).finish()
    }

    #[track_caller]
    fn json(&self, service: &str, command: &str) -> Value {
        serde_json::from_str(&self.ask(service, command).code(0).stdout).expect("JSON")
    }
}

/// A client that is surprised by nothing.
struct Guest<'a> {
    world: &'a World,
    service: &'static str,
    client: Option<Client>,
    is_taken: bool,
}

impl Guest<'_> {
    fn taken(&mut self) {
        if !std::mem::replace(&mut self.is_taken, true) {
            self.world.came.lock().expect("whole").entry(self.service).or_default().1 += 1;
        }
    }

    /// Sends so many bytes, if they can be sent.
    fn send(&mut self, bytes: u64) {
        if let Some(client) = &mut self.client {
            let _ = client.0.write_all(&vec![b'x'; usize::try_from(bytes).expect("few")]);
        }
    }

    /// Sends these bytes, if they can be sent.
    fn say(&mut self, bytes: &[u8]) {
        if let Some(client) = &mut self.client {
            let _ = client.0.write_all(bytes);
        }
    }

    /// Receives so many bytes, or what comes until the end.
    fn recv(&mut self, mut bytes: u64) {
        let mut buffer = [0; 4096];
        while bytes > 0 {
            let Some(client) = &mut self.client else { return };
            match client.read(&mut buffer) {
                Ok(0) => {
                    self.taken();
                    return;
                }
                Ok(got) => {
                    self.taken();
                    bytes = bytes.saturating_sub(got as u64);
                }
                Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => return,
                Err(e) => panic!("{}: {e}", self.service),
            }
        }
    }

    /// Receives so many bytes, which come for certain.
    fn recv_exactly(&mut self, bytes: u64) {
        let client = self.client.as_mut().expect("it is connected");
        client.recv(usize::try_from(bytes).expect("few"));
        self.taken();
    }

    fn until_over(&mut self) {
        self.recv(u64::MAX);
    }

    fn shut(&mut self) {
        if let Some(client) = &self.client {
            let _ = client.0.shutdown(std::net::Shutdown::Write);
        }
    }

    fn reset(&mut self) {
        self.client.take().into_iter().for_each(Client::rst);
    }
}

/// Something that a client, or some of them together, do.
type Deed = fn(&World, &mut Random);

const DEEDS: [Deed; 19] = [
    |world, random| {
        let mut guest = world.connect("web");
        guest.send(random.below(60_000));
        guest.shut();
        guest.until_over();
    },
    |world, random| {
        let mut guest = world.connect("web");
        let bytes = 1 + random.below(60_000);
        guest.send(bytes);
        guest.recv(random.below(bytes));
        guest.reset();
    },
    |world, _| world.connect("brief").until_over(),
    |world, random| {
        let mut guest = world.connect("moves");
        guest.send(random.below(60_000));
        guest.shut();
        guest.until_over();
    },
    |world, random| {
        let mut guest = world.connect("slow");
        guest.send(random.below(1_000));
        guest.until_over();
    },
    |world, random| {
        let mut guest = world.connect("short");
        guest.send(random.below(1_000));
        guest.until_over();
    },
    |world, _| {
        let mut guest = world.connect("half");
        guest.send(7);
        guest.until_over();
        // It keeps its direction open for ever.
        world.held.lock().expect("whole").extend(guest.client.take());
    },
    |world, random| {
        let (mut first, mut second) = (world.connect("full"), world.connect("full"));
        first.send(1 + random.below(100));
        first.recv(1);
        first.shut();
        second.shut();
        second.until_over();
        first.until_over();
    },
    |world, random| {
        let mut guests = [(); 3].map(|()| world.connect("queue"));
        for guest in &mut guests {
            guest.send(1 + random.below(100));
        }
        if random.chance(300) {
            guests[1].reset();
        }
        // Others want the channel, too: who of them has it, who waits, and who is refused, nobody knows.
        guests.iter_mut().for_each(|guest| guest.recv(1));
        for guest in &mut guests {
            guest.shut();
            guest.until_over();
        }
    },
    |world, _| world.connect("dead").until_over(),
    |world, _| world.connect("down").until_over(),
    |world, _| world.connect("off").until_over(),
    |world, _| world.connect("pause").until_over(),
    |world, _| world.connect("pause").reset(),
    |world, _| world.connect("denied").until_over(),
    |world, _| {
        for service in ["max", "rate"] {
            // They are one client, and so are those of other threads.
            let mut guests = [(); 2].map(|()| world.connect(service));
            for guest in &mut guests {
                guest.send(1);
                guest.recv(1);
            }
            for guest in &mut guests {
                guest.shut();
                guest.until_over();
            }
        }
    },
    |world, _| world.connect("proxied").until_over(),
    |world, random| {
        let mut guest = world.connect("proxied");
        guest.say(b"PROXY TCP4 203.0.113.7 192.0.2.1 4711 443\r\n");
        let bytes = 1 + random.below(60_000);
        guest.send(bytes);
        guest.shut();
        guest.until_over();
    },
    |world, _| {
        let mut guest = world.connect("proxied");
        guest.say(b"GET / HTTP/1.0\r\n\r\n");
        guest.until_over();
    },
];

/// Ends and causes that such a load must have.
const ENDS: [&str; 22] = [
    "client closed",
    "channel closed",
    "client reset",
    "channel reset",
    "idle timeout",
    "half-close timeout",
    "lifetime",
    "kicked",
    "channel down",
    "closed by operator",
    "all channels disabled",
    "no channel up",
    "all channels full",
    "all channels failed",
    "queue timeout",
    "pause timeout",
    "client left",
    "refused: denied",
    "refused: client max",
    "refused: client rate",
    "bad greeting: no header",
    "greeting timeout",
];

/// All threads do all deeds, each in an order of its own; meanwhile an operator does what operators do.
fn load(world: &World, seed: u64, operate: impl FnOnce()) {
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            scope.spawn(move || {
                let mut random = Random::new(seed << 8 | thread);
                for _ in 0..ROUNDS {
                    let mut deeds = DEEDS.to_vec();
                    while !deeds.is_empty() {
                        let next = random.below(deeds.len() as u64) as usize;
                        deeds.swap_remove(next)(world, &mut random);
                    }
                }
            });
        }
        operate();
    });
}

/// Connections that commands and checks end.
fn operate(world: &World, mark: &PathBuf) {
    for command in ["close", "kick"] {
        let mut guest = world.connect("check");
        guest.send(1);
        guest.recv(1);
        let id = &world.json("check", "sessions json")["sessions"][0]["id"];
        let command = if command == "close" { format!("close {id}") } else { "kick 0".to_owned() };
        world.ask("check", &command).code(0);
        guest.until_over();
    }
    let mut guest = world.connect("check");
    guest.send(1);
    guest.recv(1);
    std::fs::write(mark, "").expect("ours");
    guest.until_over();
    std::fs::remove_file(mark).expect("ours");
    let is_up = || world.json("check", "show json")["groups"][0]["channels"][0]["up"] == true;
    eventually("the channel is up again", || is_up().then_some(()));
    let mut guest = world.connect("pause");
    guest.send(1);
    guest.until_over();
}

/// All have ended, and been told of: what the access log, `show json` of each service and the metrics say.
fn sources(world: &World) -> (Numbers, Numbers, Numbers) {
    let services = || world.json("web", "services json");
    eventually("all have ended", || {
        let services = services();
        let mut all = services["services"].as_array().expect("a list").iter();
        all.all(|service| service["connections"] == 0).then_some(())
    });
    let (mut shown, mut status) = (Numbers::new(), Numbers::new());
    for (service, _) in SERVICES {
        shown.extend(of_json(&world.json(service, "show json"), service));
        status.extend(of_json(&world.json(service, "status json"), service));
    }
    assert_eq!(difference(&shown, &status), [""; 0], "show json and status json");
    let metrics = of_metrics(&get(world.http, "/metrics").1, str::to_owned);
    let is_end = |name: &&String| !name.contains('/');
    let ends: u64 = shown.iter().filter(|(name, _)| is_end(name)).map(|(_, count)| count).sum();
    let log = world.instance.directory.path().join("access.log");
    let lines = eventually("a line for each", || {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        // The last line may be half there.
        let text = text.get(..text.rfind('\n')?)?;
        let lines: Vec<_> = text.lines().map(fields).filter(|line| line["service"] != "gone").collect();
        (lines.len() as u64 >= ends).then_some(lines)
    });
    (of_log(&lines), shown, metrics)
}

#[track_caller]
fn agree(world: &World) -> Numbers {
    let (log, shown, metrics) = sources(world);
    assert_eq!(difference(&shown, &metrics), [""; 0], "show json and metrics");
    assert_eq!(difference(&log, &logged(&shown)), [""; 0], "access log and show json");
    for (service, _) in SERVICES {
        let at = |name: &str| shown.get(name).copied().unwrap_or(0);
        // The texts have fewer numbers.
        let show = world.ask(service, "show").code(0).stdout;
        let status = world.ask(service, "status").code(0).stdout;
        let row = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let channels =
            shown.keys().filter_map(|name| name.strip_prefix(&format!("{service} "))?.split_once(' '));
        let channels: BTreeSet<&str> =
            channels.map(|(first, _)| first).filter(|first| first.contains('/')).collect();
        for (number, channel) in show.lines().skip(1).map(row).enumerate() {
            let name = format!("{service} 0/{number}");
            let numbers = [channel[7].clone(), channel[9].clone(), channel[10].clone()];
            let wanted = ["totalc", "sent", "rcvd"].map(|what| at(&format!("{name} {what}")).to_string());
            assert_eq!(numbers, wanted, "{name}: {show}");
        }
        for (number, channel) in status.lines().skip(1).map(row).take(channels.len()).enumerate() {
            let prefix = format!("{service} 0/{number} failed ");
            let failed: u64 =
                shown.iter().filter(|(name, _)| name.starts_with(&prefix)).map(|(_, count)| count).sum();
            assert_eq!(channel[10], failed.to_string(), "{prefix}: {status}");
        }
        // Each client has one end, and each that was taken has one.
        let prefix = format!("{service} end ");
        let ends: u64 =
            shown.iter().filter(|(name, _)| name.starts_with(&prefix)).map(|(_, count)| count).sum();
        let (came, taken) = world.came.lock().expect("whole").get(service).copied().unwrap_or_default();
        assert!(
            (taken..=came).contains(&ends),
            "{service}: {ends} ends of {came} clients, {taken} were taken"
        );
        for name in channels {
            let sum = |of: &str| {
                let prefix = format!("{service} {name} {of} ");
                shown
                    .iter()
                    .filter(|(name, _)| name.starts_with(&prefix))
                    .map(|(_, count)| count)
                    .sum::<u64>()
            };
            let (totalc, ended) = (at(&format!("{service} {name} totalc")), sum("end") + sum("failed"));
            // Some were given up by their clients while they were being connected.
            assert!(totalc >= ended, "{service} {name}: {totalc} of {ended}");
        }
    }
    shown
}

#[test]
fn after_a_random_load_with_every_kind_of_end_all_forms_say_the_same_numbers() {
    let seed = std::env::var("BALANCE_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    println!("BALANCE_SEED={seed}");
    let (echo, closer, resetter) = (Server::echo(), Server::closer(), Server::resetter());
    let (refusing, hole) = (Refusing::new(), BlackHole::new());
    let deaf = Server::with(|stream, _| {
        // Ends its direction, and keeps the other open.
        let mut open = Client::of(stream);
        open.shut_wr();
        open.ending();
    });
    let mut at: BTreeMap<&'static str, SocketAddr> =
        SERVICES.iter().map(|&(name, _)| (name, own_address())).collect();
    at.insert("gone", own_address());
    let setup = Setup::binding(at["web"]);
    let mark = setup.directory().path().join("mark");
    let check = script(setup.directory(), "check", &format!("test ! -e {}", mark.display()));
    let servers = [
        ("ECHO::1", format!("{echo}:1")),
        ("ECHO", echo.to_string()),
        ("CLOSER", closer.to_string()),
        ("RESETTER", resetter.to_string()),
        ("REFUSING", refusing.to_string()),
        ("HOLE", hole.to_string()),
        ("DEAF", deaf.to_string()),
        ("CHECK", check.display().to_string()),
    ];
    let line = |name: &str, words: &str| {
        let words =
            servers.iter().fold(words.to_owned(), |words, (word, server)| words.replace(word, server));
        format!("{name}: -b {} {} {words}\n", at[name].ip(), at[name].port())
    };
    let text: String = SERVICES.iter().map(|&(name, words)| line(name, words)).collect();
    let file = setup.directory().file("services", &(text.clone() + &line("gone", GONE)));
    let (log, http) = (setup.directory().path().join("access.log").display().to_string(), own_address());
    let words = ["--access-log", &log, "--http", &http.to_string(), "--file", &file.display().to_string()]
        .map(str::to_owned);
    let instance = setup.start(words);
    let mut world = World { instance, at, http, came: Mutex::default(), held: Mutex::default() };
    world.ask("pause", "pause").code(0);

    load(&world, seed, || operate(&world, &mark));
    agree(&world);

    // Some stay for all that follows.
    let mut random = Random::new(seed);
    let mut long: Vec<_> = (0..20).map(|_| world.connect("long")).collect();
    let talk = |long: &mut Vec<Guest<'_>>, random: &mut Random| {
        for guest in long {
            let bytes = 1 + random.below(30_000);
            guest.send(bytes);
            guest.recv_exactly(bytes);
        }
    };
    talk(&mut long, &mut random);

    // A channel more, other times for those that are served, and a service less.
    let mut left: Vec<_> = (0..3).map(|_| world.connect("gone")).collect();
    for guest in &mut left {
        guest.send(1);
        guest.recv(1);
    }
    let other = text.replace("-t 80ms", "-t 70ms").replace("--max-lifetime 60ms", "--max-lifetime 50ms");
    let last = format!("{resetter} {hole}");
    let other = other.replace(&last, &format!("{last} {refusing}"));
    load(&world, seed + 1, || {
        std::fs::write(&file, &other).expect("ours");
        world.ask("web", "reload").code(0);
        left.iter_mut().for_each(Guest::until_over);
        talk(&mut long, &mut random);
        operate(&world, &mark);
    });
    drop(left);

    let upgraded = Mutex::new(None);
    load(&world, seed + 2, || {
        let told = world.ask("web", "upgrade").code(0).stdout;
        let pid = told.strip_prefix("process ").and_then(|rest| rest.split(' ').next()?.parse().ok());
        *upgraded.lock().expect("whole") = pid;
        talk(&mut long, &mut random);
        operate(&world, &mark);
    });
    for guest in &mut long {
        guest.shut();
        guest.until_over();
    }
    drop(long);
    let pid = upgraded.into_inner().expect("whole").expect("the answer names the new process");
    world.instance.succeed(pid);
    let shown = agree(&world);

    let ends: BTreeSet<&str> = shown.keys().filter_map(|name| Some(name.split_once(" end ")?.1)).collect();
    let missing: Vec<_> = ENDS.iter().filter(|&&end| !ends.contains(end)).collect();
    assert!(missing.is_empty(), "no {missing:?} in {ends:?}");
    let gone = lines_of(&world, "gone");
    assert!(gone.iter().all(|end| end == "service removed") && gone.len() == 3, "{gone:?}");
    world.instance.terminate();
}

fn lines_of(world: &World, service: &str) -> Vec<String> {
    let text =
        std::fs::read_to_string(world.instance.directory.path().join("access.log")).expect("it is there");
    let lines = text.lines().map(fields).filter(|line| line["service"] == service);
    lines.map(|line| line["end"].clone()).collect()
}
