//! `--list`: every instance and service that this user can see, one line per service.
//!
//! Knows: entries, what instances say of their services, how the list looks. Never: which instance an
//! operator means.
//! Source: docs/control.md, "All instances".

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crate::control::client::AskError;
use crate::control::columns::{TextColumn, table};
use crate::control::directory::{Directory, Place, entry_place, service_name, unix_entry};
use crate::control::entry::{self, FileId};
use crate::control::find::{ASK_AGAIN, FindError, Found, HANDING_OVER, Search, Wanted, Which};
use crate::control::peer;
use crate::control::printer::{Printer, complain};
use crate::control::render::HANDED_OVER;
use crate::spec::{ListenSpan, UnixName};

/// How long connecting to an instance may take; all of its answers together may take the same time again.
const PATIENCE: Duration = Duration::from_secs(2);
/// Number of sockets that are asked at the same time.
const AT_ONCE: usize = 32;
/// Maximum number of services listed for one instance: a fake one could go on for ever.
const MAX_SERVICES: usize = 100_000;
/// Maximum number of services that a message names.
const MOST_NAMED: usize = 4;
/// Stands for a value that is not known.
const UNKNOWN: &str = "-";

/// Prints the list on stdout and returns the exit code. Removes entries of ours on which no process listens.
pub fn list(directories: &[Directory]) -> u8 {
    let mut search = Search::new(directories, &[], |name| kind(name).is_some());
    for (path, cause) in search.not_looked_into() {
        complain(&format!("balance: {} is skipped: {cause}", path.display()));
    }
    let mut sockets: BTreeMap<FileId, Vec<Found>> = BTreeMap::new();
    for found in search.take().into_iter().filter(|found| found.seen.is_socket()) {
        sockets.entry(found.seen.file).or_default().push(found);
    }
    let sockets: Vec<Vec<Found>> = sockets.into_values().collect();
    let mut rows = Vec::new();
    // Users whose sockets made us wait in vain. A user may have thousands of such entries, so no more of
    // theirs are asked.
    let mut tiresome = BTreeSet::new();
    let mut removed: BTreeMap<PathBuf, usize> = BTreeMap::new();
    for some in sockets.chunks(AT_ONCE) {
        for (names, said) in some.iter().zip(all_at_once(some, &tiresome)) {
            match said {
                Asked::Nothing | Asked::Gone(_) => {}
                Asked::Services(services) => rows.extend(services),
                Asked::Dead => {
                    for name in names.iter().filter(|name| name.seen.is_own() && is_over(name.name())) {
                        if entry::clear(name.directory(), name.name(), name.seen.file) {
                            *removed.entry(name.directory().path().to_owned()).or_default() += 1;
                        }
                    }
                }
                Asked::NoAnswer(unanswered) => {
                    if names.iter().any(Found::is_strange) {
                        tiresome.extend(names.first().map(|name| name.seen.owner));
                    }
                    rows.extend(unanswered);
                }
            }
        }
    }
    for (path, count) in removed {
        complain(&cleared(&path, count));
    }
    let mut printer = Printer::new(io::stdout().lock());
    printer.print(&text(rows));
    printer.end(0)
}

/// What an operator may have meant who asked for an instance that is not there. Other users are not asked.
pub(super) fn what_runs(wanted: &Wanted) -> String {
    let rows = rows_of_ours(&wanted.directories);
    if let Which::Port { port, .. } = &wanted.service {
        let drains = |row: &&ListRow| row.state.starts_with("draining") && row.has_port(*port);
        let pids: BTreeSet<u32> = rows.iter().filter(drains).filter_map(|row| row.pid).collect();
        if let Some(pid) = pids.first() {
            return format!(
                "process {pid} takes no more clients and serves those it has; balance -c status process.{pid} shows them"
            );
        }
    }
    let mut names: Vec<&str> = rows.iter().map(ListRow::typed).collect();
    names.dedup();
    let more = if names.len() > MOST_NAMED { ", ..." } else { "" };
    names.truncate(MOST_NAMED);
    if names.is_empty() {
        let places: Vec<_> = wanted.directories.iter().map(|one| one.path().display().to_string()).collect();
        let places = places.join(" or ");
        return format!(
            "no instance has its socket in {places}; if yours was started with another BALANCE_RUN_DIR, set it"
        );
    }
    format!("running here: {}{more} (balance --list)", names.join(", "))
}

/// What the instances of this user and of root say of their services.
fn rows_of_ours(directories: &[Directory]) -> Vec<ListRow> {
    let search = Search::new(directories, &[], |name| kind(name).is_some());
    let mut sockets: BTreeMap<FileId, Vec<Found>> = BTreeMap::new();
    for found in search.take().into_iter().filter(|found| found.seen.is_socket() && !found.is_strange()) {
        sockets.entry(found.seen.file).or_default().push(found);
    }
    let sockets: Vec<Vec<Found>> = sockets.into_values().collect();
    let said = sockets.chunks(AT_ONCE).flat_map(|some| all_at_once(some, &BTreeSet::new()));
    let rows = said.filter_map(|said| if let Asked::Services(rows) = said { Some(rows) } else { None });
    let mut rows: Vec<ListRow> = rows.flatten().collect();
    rows.sort_by_key(|row| row.first);
    rows
}

/// Services of this name that drain in processes which do not have the name any more, and how to reach each.
/// `None`: there are none.
pub fn draining(directories: &[Directory], name: &str) -> Option<String> {
    let search = Search::new(directories, &[], |name| kind(name).is_some());
    let mut sockets: BTreeMap<FileId, Vec<Found>> = BTreeMap::new();
    for found in search.take().into_iter().filter(|found| found.seen.is_socket()) {
        sockets.entry(found.seen.file).or_default().push(found);
    }
    let sockets: Vec<Vec<Found>> = sockets.into_values().collect();
    let mut processes = BTreeSet::new();
    for some in sockets.chunks(AT_ONCE) {
        for said in all_at_once(some, &BTreeSet::new()) {
            let Asked::Services(rows) = said else { continue };
            let drains = rows.iter().filter(|row| row.name == name && row.state.starts_with("draining"));
            processes.extend(drains.filter_map(|row| row.pid));
        }
    }
    let tell = |pid: &u32| {
        format!(
            "balance: service {name} of process {pid} takes no more clients, and is called process.{pid} until its last connection has ended"
        )
    };
    let all: Vec<String> = processes.iter().map(tell).collect();
    (!all.is_empty()).then(|| all.join("\n"))
}

/// Prints the text of [`draining`] on stderr, if there is any.
pub fn tell_draining(directories: &[Directory], name: &str) {
    if let Some(text) = draining(directories, name) {
        complain(&text);
    }
}

fn cleared(path: &Path, count: usize) -> String {
    let entries = if count == 1 { "entry" } else { "entries" };
    format!("balance: removed {count} dead {entries} from {}", path.display())
}

/// What the name of an entry means.
enum EntryName<'a> {
    Place(RangeInclusive<u16>, Place),
    Service(&'a str),
    Unix(String),
    /// A temporary name: the entry was being created or removed.
    Hidden,
}

fn kind(name: &str) -> Option<EntryName<'_>> {
    if name.starts_with(".balance.") || name.starts_with(".service.") {
        return Some(EntryName::Hidden);
    }
    let place = entry_place(name).map(|(ports, place)| EntryName::Place(ports, place));
    place
        .or_else(|| service_name(name).map(EntryName::Service))
        .or_else(|| unix_entry(name).map(EntryName::Unix))
}

/// Is it certain that nobody will ever listen here? A hidden name may belong to a socket that does not listen
/// yet.
fn is_over(name: &str) -> bool {
    match kind(name) {
        Some(EntryName::Hidden) => entry::maker(name).is_some_and(|pid| !peer::is_alive(pid)),
        _ => true,
    }
}

/// The result of asking a socket.
enum Asked {
    /// It has no name that counts.
    Nothing,
    /// No process listens.
    Dead,
    Services(Vec<ListRow>),
    /// It made us wait in vain. The rows say what its names tell.
    NoAnswer(Vec<ListRow>),
    /// The process has just gone, and another one may have taken over. If none has, the inner value is the
    /// result.
    Gone(Box<Self>),
}

/// One line of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
struct ListRow {
    /// The key for sorting; `None`: not known, and sorted to the end.
    first: Option<(u16, Place)>,
    ports: String,
    addresses: String,
    pid: Option<u32>,
    uid: u32,
    up: String,
    connections: String,
    state: String,
    name: String,
}

impl ListRow {
    /// The word that names it.
    fn typed(&self) -> &str {
        if self.name == UNKNOWN { &self.ports } else { &self.name }
    }

    fn has_port(&self, port: u16) -> bool {
        let number = |text: &str| text.parse::<u16>().ok();
        match self.ports.split_once('-') {
            Some((first, last)) => {
                number(first).zip(number(last)).is_some_and(|(first, last)| (first..=last).contains(&port))
            }
            None => number(&self.ports) == Some(port),
        }
    }
}

fn all_at_once(sockets: &[Vec<Found>], tiresome: &BTreeSet<u32>) -> Vec<Asked> {
    let ask = |names: &[Found]| ask(names, tiresome);
    thread::scope(|scope| {
        let asked: Vec<_> = sockets
            .iter()
            .map(|names| thread::Builder::new().spawn_scoped(scope, || ask(names)).map_err(|_| names))
            .collect();
        let said = asked.into_iter().map(|asked| match asked {
            Ok(thread) => thread.join().unwrap_or(Asked::Nothing),
            // Without a thread it only takes longer.
            Err(names) => ask(names),
        });
        said.collect()
    })
}

/// Asks the socket with these names. If a process leaves it that has handed it over, asks again for a while.
fn ask(names: &[Found], tiresome: &BTreeSet<u32>) -> Asked {
    let until = Instant::now() + HANDING_OVER;
    loop {
        match ask_once(names, tiresome) {
            // Sockets of other users are not asked again, since they could hold us up with this.
            Asked::Gone(_) if !names.iter().any(Found::is_strange) && Instant::now() < until => {
                thread::sleep(ASK_AGAIN);
            }
            Asked::Gone(said) => return *said,
            said => return said,
        }
    }
}

fn ask_once(names: &[Found], tiresome: &BTreeSet<u32>) -> Asked {
    let Some(found) = names.iter().find(|found| !matches!(kind(found.plain()), Some(EntryName::Hidden)))
    else {
        let is_dead =
            || names.first().is_some_and(|found| matches!(found.reach(PATIENCE), Err(FindError::None)));
        return if names.iter().any(|found| found.seen.is_own()) && is_dead() {
            Asked::Dead
        } else {
            Asked::Nothing
        };
    };
    let owner = found.seen.owner;
    if found.is_strange() && tiresome.contains(&owner) {
        return Asked::NoAnswer(by_name(names, owner, None, "not-answering"));
    }
    let (stream, uid) = match found.reach(PATIENCE) {
        Ok(reached) => reached,
        Err(FindError::None) => return Asked::Dead,
        Err(error) => return unanswered(names, owner, None, &error),
    };
    let pid = peer::pid(&stream);
    let (mut client, greeting) = match found.greet(&stream, uid, None, PATIENCE) {
        Ok(greeted) => greeted,
        // It ended before it accepted our connection. The next `--list` will find it dead.
        Err(FindError::None) => return Asked::Gone(Box::new(Asked::Nothing)),
        Err(error) => return unanswered(names, uid, pid, &error),
    };
    let pid = pid.or(Some(greeting.pid));
    let (mut rows, mut is_garbled) = (Vec::new(), false);
    let asked = client.ask(b"services", |line| {
        if rows.len() <= MAX_SERVICES {
            rows.push(ListRow::read(line, uid, pid));
        }
    });
    // The first line has the names of the columns.
    let mut rows: Vec<ListRow> = rows
        .into_iter()
        .skip(1)
        .map_while(|row| {
            is_garbled |= row.is_none();
            row
        })
        .collect();
    match asked {
        Err(AskError::Gone | AskError::Unheard) => {
            return Asked::Gone(Box::new(Asked::NoAnswer(by_name(names, uid, pid, "not-answering"))));
        }
        Err(_) => return Asked::NoAnswer(by_name(names, uid, pid, "not-answering")),
        Ok(status) if status.code == HANDED_OVER => {
            return Asked::Gone(Box::new(Asked::NoAnswer(by_name(names, uid, pid, "not-answering"))));
        }
        Ok(status) if status.code != 0 || is_garbled || rows.is_empty() => {
            return Asked::Services(by_name(names, uid, pid, "unknown"));
        }
        Ok(_) => {}
    }
    if peer::is_elsewhere(greeting.namespace) {
        rows.iter_mut().for_each(|row| row.state = "other-network".into());
    }
    Asked::Services(rows)
}

fn unanswered(names: &[Found], uid: u32, pid: Option<u32>, why: &FindError) -> Asked {
    let said = |pid, state| by_name(names, uid, pid, state);
    match why {
        FindError::Silent { .. } => Asked::NoAnswer(said(pid, "not-answering")),
        FindError::Refused { text, .. } if text.starts_with("busy") => Asked::Services(said(pid, "busy")),
        FindError::OtherProtocol(greeting) => {
            Asked::Services(said(pid.or(Some(greeting.pid)), "other-version"))
        }
        FindError::Unknown { .. } => Asked::Services(said(pid, "unknown")),
        _ => Asked::Services(said(pid, "no-access")),
    }
}

/// The rows for an instance that does not answer, made from the names of its entries.
fn by_name(names: &[Found], uid: u32, pid: Option<u32>, state: &str) -> Vec<ListRow> {
    let row = |at: Option<(u16, u16, Place)>, name: &str| ListRow {
        first: at.map(|(port, _, place)| (port, place)),
        ports: at.map_or_else(|| UNKNOWN.into(), |(first, last, _)| port_words(&(first..=last))),
        addresses: at.map_or_else(|| UNKNOWN.into(), |(.., place)| place.typed()),
        pid,
        uid,
        up: UNKNOWN.into(),
        connections: UNKNOWN.into(),
        state: state.into(),
        name: name.into(),
    };
    let kinds: Vec<EntryName<'_>> = names.iter().filter_map(|found| kind(found.plain())).collect();
    let place = |kind: &EntryName<'_>| match kind {
        EntryName::Place(ports, place) => Some((*ports.start(), *ports.end(), *place)),
        EntryName::Service(_) | EntryName::Unix(_) | EntryName::Hidden => None,
    };
    let places: BTreeSet<(u16, u16, Place)> = kinds.iter().filter_map(place).collect();
    let called: Vec<&str> = kinds
        .iter()
        .filter_map(|kind| if let EntryName::Service(name) = kind { Some(*name) } else { None })
        .collect();
    let sockets: BTreeSet<&String> = kinds
        .iter()
        .filter_map(|kind| if let EntryName::Unix(name) = kind { Some(name) } else { None })
        .collect();
    if places.is_empty() && sockets.is_empty() {
        return called.iter().map(|name| row(None, name)).collect();
    }
    // With several addresses or several names, it is not known which belong together.
    let is_one = places.len() + sockets.len() == 1;
    let name = if let ([name], true) = (called.as_slice(), is_one) { name } else { UNKNOWN };
    let sockets = sockets.into_iter().map(|socket| ListRow { addresses: socket.clone(), ..row(None, name) });
    places.into_iter().map(|place| row(Some(place), name)).chain(sockets).collect()
}

impl ListRow {
    /// Reads a line of the answer to `services`. `None`: it is not such a line.
    fn read(line: &str, uid: u32, pid: Option<u32>) -> Option<Self> {
        let mut words = line.split_whitespace();
        let mut word = || words.next().map(str::to_owned);
        let (name, listen, up, connections, state) = (word()?, word()?, word()?, word()?, word()?);
        let listen: Vec<ListenSpan> = listen.split(',').map(str::parse).collect::<Result<_, _>>().ok()?;
        let net = || listen.iter().filter_map(|at| Some((at.ports(), Place::from(at.first().net()?))));
        let ports: BTreeSet<(u16, u16)> = net().map(|(ports, _)| ports.into_inner()).collect();
        let addresses: BTreeSet<Place> = net().map(|(_, place)| place).collect();
        let sockets: BTreeSet<UnixName> = listen.iter().filter_map(|at| at.unix()).collect();
        let ports = joined(ports.iter().map(|&(first, last)| port_words(&(first..=last))));
        let addresses = addresses.iter().map(Place::typed).chain(sockets.iter().map(UnixName::to_string));
        Some(Self {
            first: net().map(|(ports, place)| (*ports.start(), place)).min(),
            ports: if ports.is_empty() { UNKNOWN.into() } else { ports },
            addresses: joined(addresses),
            pid,
            uid,
            up,
            connections,
            state,
            name,
        })
    }
}

/// Ports as text: `80` or `80-90`.
fn port_words(ports: &RangeInclusive<u16>) -> String {
    match ports.start() == ports.end() {
        true => ports.start().to_string(),
        false => format!("{}-{}", ports.start(), ports.end()),
    }
}

fn joined(words: impl Iterator<Item = String>) -> String {
    words.collect::<Vec<_>>().join(",")
}

/// The list, sorted by ports. No value in a column contains a blank.
fn text(mut rows: Vec<ListRow>) -> String {
    rows.sort_by(|a, b| {
        let place = |row: &ListRow| (row.first.is_none(), row.first);
        (place(a), &a.addresses, a.pid, &a.name).cmp(&(place(b), &b.addresses, b.pid, &b.name))
    });
    let mut users = BTreeMap::new();
    use TextColumn::{Left, Right};
    let columns = [Left(5), Left(22), Right(7), Left(10), Right(11), Right(11), Left(13), Left(0)];
    let head = ["port", "address", "pid", "user", "up/channels", "connections", "state", "name"];
    let mut lines = vec![head.map(str::to_owned)];
    for row in rows {
        let user = users
            .entry(row.uid)
            .or_insert_with(|| peer::user_name(row.uid).unwrap_or_else(|| row.uid.to_string()));
        let pid = row.pid.map_or_else(|| UNKNOWN.to_owned(), |pid| pid.to_string());
        let user = user.clone();
        lines.push([row.ports, row.addresses, pid, user, row.up, row.connections, row.state, row.name]);
    }
    table(columns, &lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_services_is_a_row_and_rows_are_listed_by_ports() {
        let read = |line: &str, pid| ListRow::read(line, 0, pid).expect("a row");
        let rows = vec![
            read("web              0.0.0.0:8080,[::]:8443         2/2           5 serving", Some(7)),
            read("-                127.0.0.10:80                  1/1           0 serving", Some(7)),
            read("-                127.0.0.9:80                   1/2           0 draining\n", None),
            read("pg               unix:/run/pg.sock              1/1           0 serving", Some(8)),
        ];
        let expected = "\
port      address                    pid user       up/channels connections state         name
80        127.0.0.9                    - root               1/2           0 draining      -
80        127.0.0.10                   7 root               1/1           0 serving       -
8080,8443 0.0.0.0,::                   7 root               2/2           5 serving       web
-         unix:/run/pg.sock            8 root               1/1           0 serving       pg
";
        assert_eq!(text(rows), expected);
        for line in ["", "web", "web 80 1/2 0 serving", "web 0.0.0.0:80 1/2 0", "syntax error"] {
            assert_eq!(ListRow::read(line, 0, None), None, "{line}");
        }
    }

    #[test]
    fn a_hidden_name_is_over_when_its_maker_is_gone() {
        let ours = entry::unlikely_name("balance.80.0.0.0.0");
        assert!(!is_over(&ours), "{ours}");
        // No system has a process with this number.
        assert!(is_over(".balance.80.0.0.0.0.2000000000.0badcafe"));
        assert!(!is_over(".balance.80.0.0.0.0.x.0badcafe"));
        assert!(is_over("balance.80.0.0.0.0"));
    }
}
