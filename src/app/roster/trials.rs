//! Tests of what reloads change in the services of a process, and what a fault during a reload does not
//! change.
//!
//! Knows: the parts of a process, put together without signals and operators. Never: the text of an answer.

use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use super::reloading::{NOT_ALL, NOTHING};
use super::*;
use crate::app::deadlines::Deadlines;
use crate::app::prepared::BIND_PATIENCE;
use crate::app::{controllers, files, lookup, plan};
use crate::names::resolve;
use crate::net::server::Options;
use crate::observe::Severity;
use crate::process::Notifier;
use crate::sched::GroupId;
use crate::sys::trouble::{self, FaultPoint, Mishap};

/// A process that serves the services of a file of its own.
struct Process {
    roster: Roster,
    server: Server,
    directory: PathBuf,
}

impl Process {
    fn start(name: &str, descriptors: u64) -> Self {
        let directory = std::env::temp_dir().join(format!(
            "balance-roster-{:016x}-{name}",
            std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0)
        ));
        fs::create_dir_all(&directory).expect("a directory");
        let (clock, log) = (Clock::start(), Log::kept(|| ()));
        let options = Options {
            workers: 2,
            busy_poll: false,
            loopback_congestion: None,
            seed: 7,
            dump: None,
            descriptor_limit: descriptors,
            access: None,
            own_descriptors: 0,
            first_id: 0,
        };
        let server = Server::start(clock, &log, options, || ()).expect("workers");
        let minder = Minder::start(clock, &log, server.budget()).expect("a thread");
        let names = Resolver::new(clock, &log, 7, resolve::answer);
        let (checks, stays, process) = (minder.clone(), names.clone(), ProcessSpec::default());
        let deadlines = Arc::new(Deadlines::new(Notifier::to_nobody()));
        let manage = move |served: &Served, written: &Arc<RwLock<Written>>| {
            controllers::manage(
                served,
                written,
                ((&checks, &stays), &ProcessSpec::default(), clock),
                (&deadlines, &Arc::default()),
                plan::LineSource::File,
            )
        };
        let hooks = ProgramHooks::new(&log, clock);
        let lists = ListWatch::new(&log);
        let rates = Arc::default();
        let tools = Tools {
            server: server.clone(),
            minder,
            names,
            hooks,
            lists,
            rates,
            clock,
            log,
            workers: 2,
            seed: 7,
        };
        let files =
            Files { paths: vec!["services".into()], words: Vec::new(), check_only: false, replace: false };
        let source = Source { files, directory: directory.clone() };
        let roster = Roster::new(tools, process, Some(source), manage, || ());
        // A reload of a process without services would end it.
        let process = Self { roster, server, directory };
        process.write(&line("seed", free_place()));
        process.open_all();
        process
    }

    fn write(&self, text: &str) {
        fs::write(self.directory.join("services"), text).expect("written");
    }

    /// Opens all services of the file, as a start does.
    fn open_all(&self) {
        let source = self.roster.source.as_ref().expect("there is one");
        let (_, specs) = files::read(&source.files, &source.directory).map_err(drop).expect("it is right");
        let found = lookup::services(&specs, Known::default()).map_err(drop).expect("addresses").0;
        let mut patience = BIND_PATIENCE;
        let made = specs.into_iter().zip(found).map(|(spec, found)| {
            let groups = plan::lined(&spec.groups, &found.channels);
            let made = Prepared::new(spec, found, |_| None, 2, 7, &mut patience);
            (made.map_err(drop).expect("a port"), groups)
        });
        self.roster.open(made.collect()).expect("served");
    }

    fn reload(&self, text: &str) -> Result<Vec<String>, String> {
        self.write(text);
        self.roster.reload(false).map_err(|failure| failure.message)
    }

    /// The addresses at which it serves and that it lists.
    fn managed(&self) -> Vec<SocketAddr> {
        let members = self.roster.members();
        members.all.iter().filter(|one| !one.is_killed()).filter_map(|one| one.place().net()).collect()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.server.stop_listening();
        self.server.shut_down();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// An address at which nothing listens, and that no other test gets: an address and a port of its own.
fn free_place() -> SocketAddr {
    static PLACES: AtomicU16 = AtomicU16::new(1);
    let number = PLACES.fetch_add(1, Ordering::Relaxed);
    let [high, low] = number.to_be_bytes();
    SocketAddr::from(([127, 90, high, low], 9_000 + number))
}

/// Whether a connect to this address succeeds.
fn is_served(place: SocketAddr) -> bool {
    std::net::TcpStream::connect(place).is_ok()
}

fn line(name: &str, at: SocketAddr) -> String {
    format!("{name}: -b {} {} 127.0.0.1:9 127.0.0.1:10\n", at.ip(), at.port())
}

#[test]
fn a_reload_that_panics_anywhere_leaves_nobody_without_a_master() {
    let process = Process::start("panics", 1_000);
    let places: [SocketAddr; 5] = std::array::from_fn(|_| free_place());
    let [a, b, c, d, e] = places;
    let before = [("a", a), ("b", b), ("c", c)].map(|(name, at)| line(name, at)).concat();
    let after = [("c", c), ("d", d), ("x", a), ("e", e)].map(|(name, at)| line(name, at)).concat();
    let after = after.replace(":10", ":11");
    let mut broken = 0;
    for point in [FaultPoint::Reload, FaultPoint::Clock] {
        for nth in 0.. {
            process.reload(&before).expect("it is right");
            process.roster.log().take();
            trouble::begin();
            trouble::plan(point, nth, Mishap::Panic);
            let outcome = trouble::during(|| process.reload(&after));
            trouble::calm();
            let managed = process.managed();
            for place in places {
                assert_eq!(managed.contains(&place), is_served(place), "{place} after {point:?} {nth}");
            }
            if trouble::happened().is_empty() {
                outcome.expect("nothing went wrong");
                assert_eq!(managed, [c, d, a, e]);
                break;
            }
            broken += 1;
            let why = outcome.expect_err("it was broken off");
            assert!(why.contains("reload again") && !why.contains(NOTHING), "{why}");
            let told = process.roster.log().take();
            let is_error = |event: &Event| matches!(event, Event::Note { severity: Severity::Error, text } if text.contains("reload again"));
            assert!(told.iter().any(is_error), "{told:?}");
            assert!(
                process.roster.services().iter().all(|one| !one.killed.load(Ordering::SeqCst)),
                "whoever is served takes commands"
            );
            process.reload(&after).expect("it is right");
            assert_eq!(process.managed(), [c, d, a, e], "{point:?} {nth}");
            assert!(!is_served(b));
            assert!(
                process.roster.members().all.iter().all(|one| one.written().groups[0].channels.len() == 2)
            );
        }
    }
    assert!(broken > 6, "{broken} panics");
}

#[test]
fn what_is_left_of_the_descriptors_bounds_what_is_added() {
    // Of 40 descriptors 10 are reserved, and one client must be served.
    let process = Process::start("descriptors", 40);
    let lines = |count: usize| {
        // A port that is free again may be given out twice.
        let mut places = std::collections::BTreeSet::new();
        while places.len() < count {
            places.insert(free_place());
        }
        places.iter().enumerate().map(|(n, place)| line(&format!("s{n}"), *place)).collect::<String>()
    };
    let before = process.managed();
    let why = process.reload(&lines(29)).expect_err("too many");
    assert!(why.contains("no file descriptor is left") && why.contains(NOTHING), "{why}");
    assert_eq!(process.managed(), before);
    process.reload(&lines(28)).expect("just enough");
    let budget = process.server.budget();
    assert!(budget.take(4).is_none(), "they are the listeners'");
    process.reload(&lines(1)).expect("the others are closed");
    assert!(budget.take(20).is_some(), "they are back");
}

#[test]
fn what_could_not_be_had_is_an_error_in_answer_and_log() {
    let process = Process::start("numbers", 1_000);
    let place = free_place();
    process.reload(&line("full", place)).expect("it is right");
    let table = process.roster.members().all[0].served.parts.table.clone();
    while table.lock().skip(GroupId::FIRST).is_ok() {}
    process.roster.log().take();
    let why = process.reload(&line("full", place).replace(":10", ":11")).expect_err("no number is left");
    assert!(
        why.contains("service full: group 0: 127.0.0.1:11 is not added, since the group has used up"),
        "{why}"
    );
    assert!(why.contains("127.0.0.1:10 is removed") && why.ends_with(NOT_ALL), "{why}");
    let is_error = |event: &Event| matches!(event, Event::Note { severity: Severity::Error, text } if text.contains("used up its numbers"));
    assert!(process.roster.log().take().iter().any(is_error));
}

#[test]
fn a_reload_warns_of_circles_that_it_makes_and_of_no_others() {
    let process = Process::start("circles", 1_000);
    let [a, b] = [free_place(), free_place()];
    let to = |name: &str, at: SocketAddr, channel: SocketAddr| {
        format!("{name}: -b {} {} {channel}\n", at.ip(), at.port())
    };
    let warned = |text: &str| -> Vec<String> {
        let mut told = process.reload(text).expect("it is right");
        told.retain(|line| line.starts_with("warning: "));
        told
    };
    assert_eq!(warned(&(to("a", a, b) + &line("b", b))), Vec::<String>::new());
    let circle = warned(&(to("a", a, b) + &to("b", b, a)));
    assert_eq!(circle.len(), 2, "{circle:?}");
    assert!(
        circle[0].starts_with(&format!("warning: service a: channel 0 of group 0 leads to service b ({b})")),
        "{circle:?}"
    );
    assert_eq!(
        warned(&(to("a", a, b) + &to("b", b, a) + &line("c", free_place()))),
        Vec::<String>::new(),
        "said once"
    );
    assert_eq!(warned(&to("a", a, a)).len(), 1);
}

/// Two services with ten ports between them, some of which move from one to the other.
fn ten_ports(ip: std::net::IpAddr, a: &str, b: &str) -> String {
    let line = |name: &str, ports: &str| format!("{name}: -b {ip} {ports} 127.0.0.1:9 127.0.0.1:10\n");
    line("a", a) + &line("b", b)
}

#[test]
fn ports_that_go_from_one_service_to_another_are_served_whatever_breaks() {
    let process = Process::start("swap", 1_000);
    let ip = free_place().ip();
    let (before, after) =
        (ten_ports(ip, "20000-20004", "20005-20009"), ten_ports(ip, "20000-20001", "20002-20009"));
    for nth in 0.. {
        process.reload(&before).expect("it is right");
        trouble::begin();
        trouble::plan(FaultPoint::Reload, nth, Mishap::Panic);
        let outcome = trouble::during(|| process.reload(&after));
        trouble::calm();
        for port in 20_000..20_010 {
            assert!(is_served((ip, port).into()), "port {port} after {nth}: {outcome:?}");
        }
        if trouble::happened().is_empty() {
            outcome.expect("nothing went wrong");
            assert!(nth > 1, "{nth} panics");
            break;
        }
        process.reload(&after).expect("it is right");
    }
    for port in 20_000..20_010 {
        assert!(is_served((ip, port).into()), "{port}");
    }
}

#[test]
fn a_port_that_cannot_be_taken_up_again_is_told_and_comes_back_with_the_next_reload() {
    let process = Process::start("lost", 1_000);
    let (place, other) = (free_place(), free_place().ip());
    let before = line("s", place);
    process.reload(&before).expect("it is right");
    let taken = std::net::TcpListener::bind((other, place.port())).expect("a port of our own");
    let after = format!("s: {} 127.0.0.1:9 127.0.0.1:10\nt: -b {other} 9000 127.0.0.1:9\n", place.port());
    let why = process.reload(&after).expect_err("it is another's");
    assert!(why.contains("Address already in use") && why.ends_with(NOTHING), "{why}");
    assert!(is_served(place) && process.managed() == [place], "as before: {why}");
    let not_listening = || process.roster.services()[0].survey().not_listening.map(|at| at.to_string());
    assert_eq!(not_listening(), None);
    trouble::begin();
    trouble::plan(FaultPoint::Listen, 0, Mishap::Error(rustix::io::Errno::ADDRINUSE));
    let why = trouble::during(|| process.reload(&after)).expect_err("it is another's");
    trouble::calm();
    assert!(
        why.contains(&format!("service s: listens on {place} no more: ")) && why.ends_with(NOT_ALL),
        "{why}"
    );
    assert!(!is_served(place) && process.managed() == [place] && !process.roster.is_over());
    assert_eq!(not_listening(), Some(place.to_string()));
    let snapshot = || process.roster.services()[0].snapshot();
    assert!(snapshot().listens_nowhere, "nobody is told that it serves");
    let said = process.reload(&before).expect("it is free");
    assert!(said.contains(&format!("service s: listens on {place} again")), "{said:?}");
    assert!(is_served(place));
    assert_eq!(not_listening(), None);
    assert!(!snapshot().listens_nowhere);
    drop(taken);
}
