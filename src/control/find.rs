//! Finds the instance that an operator means, among all entries of all run directories.
//!
//! Knows: entries and their names and owners, which of several is meant. Never: commands, terminals.
//! Source: docs/control.md, "Finding the instance".

use std::collections::BTreeSet;
use std::io::{self, BufReader, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::control::client::{AskError, Client};
use crate::control::directory::{
    Directory, OpenDirectory, Place, Unsafe, entry_name, entry_place, plain_name, service_entry_name,
};
use crate::control::entry::{self, EntryStat, look};
use crate::control::patience::Patient;
use crate::control::peer;
use crate::control::render::{HANDED_OVER, VERSION};
use crate::control::wire::{Greeting, LineRead, LineReader, PROTOCOL, Status, printable};
use crate::spec::{Address, ListenSpan, UnixName};

/// How long an instance may take to send its greeting. Commands may take longer, since they can need DNS.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long to keep asking for a name whose instance has just gone: another process may be taking it over.
pub(super) const HANDING_OVER: Duration = Duration::from_millis(1500);
/// Maximum number of addresses that a message lists.
const MOST_NAMED: usize = 4;
/// The pause between two such attempts.
pub(super) const ASK_AGAIN: Duration = Duration::from_millis(20);

/// Which instance is meant.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// The directories of entries, in the order of the search.
    pub directories: Vec<Directory>,
    /// The service of the instance that is meant.
    pub service: Which,
}

/// How a service is named.
#[derive(Debug, Clone)]
pub enum Which {
    /// By the port where it listens.
    Port {
        /// The port.
        port: u16,
        /// All addresses of the host that was given with `-b`; `None`: none was given.
        addresses: Option<Vec<Place>>,
        /// `-6`: look for `::` before `0.0.0.0`.
        ipv6: bool,
    },
    /// By its name.
    Name {
        /// The name.
        name: String,
        /// The number of the port with this name in the services database, if there is one.
        port: Option<u16>,
    },
    /// By its Unix socket.
    Unix {
        /// The name of the socket.
        name: UnixName,
    },
    /// By the process, whatever it serves.
    Process {
        /// The process id.
        pid: u32,
    },
}

impl Which {
    /// The arguments that name it.
    pub(super) fn typed(&self) -> String {
        match self {
            Self::Port { port, addresses, ipv6 } => match addresses.as_deref() {
                Some([place, ..]) => format!("-b {} {port}", place.typed()),
                _ if *ipv6 => format!("-6 {port}"),
                _ => port.to_string(),
            },
            Self::Name { name, .. } => name.clone(),
            Self::Unix { name } => name.to_string(),
            Self::Process { pid } => format!("process.{pid}"),
        }
    }
}

/// Why there is no instance to talk to. The messages are for the operator.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    /// No instance serves this port.
    #[error("no master process, exiting.")]
    None,
    /// No instance has a service of this name.
    #[error("no service {name} is running{}", port_instead(*.port))]
    NoService {
        /// The name.
        name: String,
        /// The port that has the same name.
        port: Option<u16>,
    },
    /// The process exists, but is no instance that we can control.
    #[error(
        "no master process, exiting.\nbalance: process {pid} is no instance of balance that you can control; balance --list shows those that \
         run"
    )]
    NoProcess {
        /// The process id.
        pid: u32,
    },
    /// Several instances have a service of this name.
    #[error("balance: several services are called {name}, say which by address and port: {}", meant(.services))]
    SeveralServices {
        /// The name.
        name: String,
        /// The process id of each, and where it listens, if it said so.
        services: Vec<(u32, Option<Address>)>,
    },
    /// The port alone does not say which instance is meant.
    #[error("balance: several instances have port {port}, say which with -b: {}", list(.places))]
    Several {
        /// The port.
        port: u16,
        /// The addresses at which these instances listen.
        places: Vec<Place>,
    },
    /// A command that changes something needs an instance named by its address, or, without `-b`, one that
    /// listens on all addresses.
    #[error("no master process, exiting.\nbalance: port {port} is served on {} only; to change that instance, add {}",
        list(.places), bind_options(.places))]
    NotNamed {
        /// The port.
        port: u16,
        /// The addresses on which instances serve this port.
        places: Vec<Place>,
    },
    /// A directory that may hold the entry cannot be trusted.
    #[error("no master process, exiting.\nbalance: {} is skipped: {cause}", .path.display())]
    NotLookedInto {
        /// The directory.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// No instance has this port at the address, but others have it elsewhere.
    #[error("no master process, exiting.\nbalance: port {port} is served on {}; to ask that instance, {}",
        list(.places), instead(.places))]
    OtherAddress {
        /// The port.
        port: u16,
        /// The addresses on which instances serve this port.
        places: Vec<Place>,
    },
    /// There is an entry, but the system does not let us use it.
    #[error("balance: cannot connect to {}: {cause}", .path.display())]
    Denied {
        /// The entry.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// There is an instance, but we may not connect to it.
    #[error(
        "balance: cannot connect to {}: {cause}; only {}and those in its --control-group may control this instance",
        .path.display(), allowed(*.owner)
    )]
    NotAllowed {
        /// The entry.
        path: PathBuf,
        /// Why.
        cause: io::Error,
        /// The user id of its owner.
        owner: u32,
    },
    /// The entry belongs to another user, whom we cannot trust.
    #[error("balance: {} is served by user {uid}, who is neither you nor root: not used", .path.display())]
    Stranger {
        /// The entry.
        path: PathBuf,
        /// The user id of the process that serves it.
        uid: u32,
    },
    /// Two other users have an entry for it.
    #[error(
        "balance: {} and {} both have an instance there, and one may be a fake; run this as the user that you mean: \
         setpriv --reuid={} --clear-groups balance ...",
        peer::called(.users[0]), peer::called(.users[1]), .users[0]
    )]
    Contested {
        /// Their user ids.
        users: [u32; 2],
    },
    /// The instance is in another network namespace, where the same port means another one.
    #[error(
        "no master process, exiting.\nbalance: process {pid} serves this in another network namespace: \
         nsenter --net=/proc/{pid}/ns/net balance ..."
    )]
    Elsewhere {
        /// Its process id.
        pid: u32,
    },
    /// It does not send its greeting in time, or closes the connection before.
    #[error("balance: the instance at {} does not answer: {cause}{}", .path.display(), advice(cause))]
    Silent {
        /// The entry.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// It answers, but refuses us.
    #[error("balance: the instance at {} says: {text}", .path.display())]
    Refused {
        /// The entry.
        path: PathBuf,
        /// The reason that it gives.
        text: String,
    },
    /// It speaks another version of the protocol.
    #[error(
        "balance: the instance is balance {} (pid {}) and speaks control protocol {}, this is balance {VERSION} and \
         speaks {PROTOCOL}: use the program of the instance, e.g. /proc/{}/exe",
        .0.version, .0.pid, .0.protocol, .0.pid
    )]
    OtherProtocol(Greeting),
    /// What answers is not an instance of balance.
    #[error("balance: {} is not a balance instance: it greets with {text:?}; remove it if nobody needs it", .path.display())]
    Unknown {
        /// The entry.
        path: PathBuf,
        /// Its first line.
        text: String,
    },
}

impl FindError {
    /// Can another entry still be the instance that is meant?
    fn is_passed_over(&self) -> bool {
        matches!(
            self,
            Self::None
                | Self::Denied { .. }
                | Self::NotAllowed { .. }
                | Self::Stranger { .. }
                | Self::Elsewhere { .. }
        )
    }

    /// Is there an instance that refuses us?
    pub(super) fn is_denial(&self) -> bool {
        match self {
            Self::NotAllowed { .. } => true,
            Self::Refused { text, .. } => text.starts_with("denied: "),
            _ => false,
        }
    }

    /// This error, or `other` if this one says only that no instance was found.
    fn or_else(self, other: impl FnOnce() -> Self) -> Self {
        if matches!(self, Self::None) { other() } else { self }
    }
}

/// How to see why an instance does not answer, if it is still there.
fn advice(cause: &io::Error) -> &'static str {
    match cause.kind() {
        ErrorKind::TimedOut | ErrorKind::WouldBlock => {
            "; balance --list shows its pid, and ps -o stat= -p PID prints T if it is stopped"
        }
        _ => "",
    }
}

/// What to type to reach an instance at one of these addresses.
fn instead(places: &[Place]) -> String {
    let has_v4 = places.contains(&Place::from(IpAddr::from(Ipv4Addr::UNSPECIFIED)));
    let one = |place: &Place| match place {
        place if *place == Place::from(IpAddr::from(Ipv4Addr::UNSPECIFIED)) => "leave -b away".to_owned(),
        place if place.is_wildcard() && !has_v4 => "leave -b away".to_owned(),
        place => format!("use -b {}", place.typed()),
    };
    places.iter().map(one).collect::<Vec<_>>().join(" or ")
}

/// Users who are allowed, as a phrase: `root, user 1000 (ann) `.
fn allowed(owner: u32) -> String {
    match owner {
        peer::ROOT => "root ".to_owned(),
        owner => format!("root, {} ", peer::called(owner)),
    }
}

fn port_instead(port: Option<u16>) -> String {
    port.map_or_else(String::new, |port| format!("; for port {port}, which has the same name, type {port}"))
}

/// What to type for each of these services.
fn meant(services: &[(u32, Option<Address>)]) -> String {
    let one = |(pid, listens): &(u32, Option<Address>)| match listens {
        Some(at) => format!("{} (process {pid})", typed(*at)),
        None => format!("process {pid}"),
    };
    services.iter().map(one).collect::<Vec<_>>().join(" or ")
}

/// The arguments that name the service listening there.
fn typed(at: Address) -> String {
    let at = match at {
        Address::Net(at) => at,
        Address::Unix(name) => return name.to_string(),
    };
    match at.ip().to_canonical() {
        IpAddr::V4(ip) if ip.is_unspecified() => at.port().to_string(),
        IpAddr::V6(ip) if ip.is_unspecified() => format!("-6 {}", at.port()),
        _ => format!("-b {} {}", Place::from(at).typed(), at.port()),
    }
}

fn list(places: &[Place]) -> String {
    places.iter().map(Place::typed).collect::<Vec<_>>().join(", ")
}

fn bind_options(places: &[Place]) -> String {
    places.iter().map(|place| format!("-b {}", place.typed())).collect::<Vec<_>>().join(" or ")
}

/// The entries of the run directories, and what was learned while looking for an instance.
pub(super) struct Search {
    entries: Vec<Found>,
    /// Directories that exist but cannot be trusted.
    unsafe_directories: Vec<(PathBuf, io::Error)>,
    /// Other users whose sockets made us wait in vain. A user may have thousands of such entries, so none of
    /// theirs is asked again.
    tiresome: BTreeSet<u32>,
}

/// An entry of a run directory.
pub(super) struct Found {
    directory: Arc<OpenDirectory>,
    name: String,
    pub(super) seen: EntryStat,
    /// Whether an instance answered here that has gone meanwhile or was about to.
    has_gone: AtomicBool,
}

impl Found {
    /// Its plain name, without a suffix that makes it unique.
    pub(super) fn plain(&self) -> &str {
        plain_name(&self.name)
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join(&self.name)
    }

    /// The name of its file.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn directory(&self) -> &OpenDirectory {
        &self.directory
    }

    /// Did an instance go away when this entry was asked?
    pub(super) fn has_gone(&self) -> bool {
        self.has_gone.load(Ordering::Relaxed)
    }

    fn goes(&self) -> FindError {
        self.has_gone.store(true, Ordering::Relaxed);
        FindError::None
    }

    pub(super) fn is_strange(&self) -> bool {
        self.seen.owner != 0 && !self.seen.is_own()
    }
}

impl Search {
    /// Reads all directories that can be trusted and sorts the entries: ours and root's first; among equals,
    /// those in directories named first; then plain names before others. `plain` are names to look for even
    /// in a directory that cannot be listed; `is_wanted` says which other names count.
    pub(super) fn new(directories: &[Directory], plain: &[String], is_wanted: impl Fn(&str) -> bool) -> Self {
        let mut search =
            Self { entries: Vec::new(), unsafe_directories: Vec::new(), tiresome: BTreeSet::new() };
        for directory in directories {
            let opened = match directory.open() {
                Ok(opened) => Arc::new(opened),
                Err(cause) => {
                    if Unsafe::is_cause_of(&cause) {
                        search.unsafe_directories.push((directory.path().to_owned(), cause));
                    }
                    continue;
                }
            };
            let listed = opened.names().filter(|name| is_wanted(plain_name(name)));
            let names: BTreeSet<String> = plain.iter().cloned().chain(listed).collect();
            let found = names.into_iter().filter_map(|name| {
                let seen = look(&opened, &name).ok()?;
                Some(Found { directory: Arc::clone(&opened), name, seen, has_gone: AtomicBool::new(false) })
            });
            search.entries.extend(found);
        }
        // A plain name is a prefix of those beside it and so sorts before them. The sort by owner is stable.
        search.entries.sort_by_key(Found::is_strange);
        search
    }

    fn has_gone(&self) -> bool {
        self.entries.iter().any(Found::has_gone)
    }

    /// The error if nothing was found.
    fn failure(&mut self) -> FindError {
        match self.not_looked_into().next() {
            Some((path, cause)) => FindError::NotLookedInto { path, cause },
            None => FindError::None,
        }
    }

    /// Directories that exist but cannot be trusted, and why.
    pub(super) fn not_looked_into(&mut self) -> impl Iterator<Item = (PathBuf, io::Error)> + use<> {
        std::mem::take(&mut self.unsafe_directories).into_iter()
    }

    /// All entries that were found.
    pub(super) fn take(self) -> Vec<Found> {
        self.entries
    }

    /// The first live instance with this port at this address.
    fn at(&mut self, port: u16, place: Place) -> Result<Client, FindError> {
        self.first(|plain| is_at(plain, port, place), &place.with_port(port).to_string())
    }

    /// The first live instance among the entries whose plain name matches.
    fn first(&mut self, is_it: impl Fn(&str) -> bool, service: &str) -> Result<Client, FindError> {
        let (mut failure, mut strange): (_, Option<Client>) = (FindError::None, None);
        for found in self.entries.iter().filter(|found| is_it(found.plain())) {
            if found.is_strange() && self.tiresome.contains(&found.seen.owner) {
                continue;
            }
            match found.meet(service) {
                Ok(client) if !found.is_strange() => return Ok(client),
                // Two other users claim it. One may be a fake, and we cannot tell which.
                Ok(client) => match &strange {
                    Some(other) if other.uid() != client.uid() => {
                        return Err(FindError::Contested { users: [other.uid(), client.uid()] });
                    }
                    Some(_) => {}
                    None => strange = Some(client),
                },
                Err(FindError::None) => {}
                Err(error) => {
                    if matches!(error, FindError::Silent { .. }) {
                        self.tiresome.insert(found.seen.owner);
                    }
                    failure = error;
                }
            }
        }
        strange.ok_or(failure)
    }

    /// The only instance with a service of this name.
    fn named(&mut self, name: &str, port: Option<u16>) -> Result<Client, FindError> {
        let entry = service_entry_name(name);
        let mut live: Vec<Client> = Vec::new();
        let mut met = BTreeSet::new();
        for found in self.entries.iter().filter(|found| found.plain() == entry && !found.is_strange()) {
            if met.insert(found.seen.file)
                && let Ok(client) = found.meet(name)
            {
                live.push(client);
            }
        }
        match live.len() {
            0 => self.first(|plain| plain == entry, name).map_err(|error| {
                error
                    .or_else(|| self.failure())
                    .or_else(|| FindError::NoService { name: name.to_owned(), port })
            }),
            1 => live.pop().ok_or(FindError::None),
            _ => {
                let services = live.iter_mut().map(|client| (client.pid(), listens(client, name))).collect();
                Err(FindError::SeveralServices { name: name.to_owned(), services })
            }
        }
    }

    /// The instance that is this process, by any of its entries.
    fn process(&mut self, pid: u32) -> Result<Client, FindError> {
        let mut met = BTreeSet::new();
        let mut failure = FindError::NoProcess { pid };
        for found in &self.entries {
            if !met.insert(found.seen.file) || !may_be_of(found, pid) {
                continue;
            }
            let met =
                found.reach(PATIENCE).and_then(|(stream, uid)| found.greet(&stream, uid, None, PATIENCE));
            match met {
                Ok((mut client, greeting)) if greeting.pid == pid => {
                    client
                        .wait_for_ever()
                        .map_err(|cause| FindError::Silent { path: found.path(), cause })?;
                    return Ok(client);
                }
                Err(FindError::OtherProtocol(greeting)) if greeting.pid == pid => {
                    failure = FindError::OtherProtocol(greeting);
                }
                _ => {}
            }
        }
        Err(failure)
    }

    /// No instance has the port at the address that was typed, if one was. Looks whether others have it
    /// elsewhere.
    fn elsewhere(&mut self, port: u16, is_typed: bool) -> FindError {
        let places = if is_typed { self.places(port, |_| true) } else { BTreeSet::new() };
        let places: Vec<Place> =
            places.into_iter().filter(|place| self.at(port, *place).is_ok()).take(MOST_NAMED).collect();
        if places.is_empty() { FindError::None } else { FindError::OtherAddress { port, places } }
    }

    /// The addresses for which there are entries with this port.
    fn places(&self, port: u16, is_wanted: impl Fn(Place) -> bool) -> BTreeSet<Place> {
        self.entries
            .iter()
            .filter_map(|found| entry_place(found.plain()))
            .filter(|(of, place)| of.contains(&port) && is_wanted(*place))
            .map(|(_, place)| place)
            .collect()
    }

    /// The only instance at one of these addresses. It was not named exactly, so the session may only look.
    fn the_only(
        &mut self,
        port: u16,
        is_change: bool,
        is_near: impl Fn(Place) -> bool,
    ) -> Result<Client, FindError> {
        let places = self.places(port, is_near);
        let (mut places_of_live, mut live, mut failure) = (Vec::new(), None, FindError::None);
        for place in places {
            match self.at(port, place) {
                Ok(found) => {
                    places_of_live.push(place);
                    live = Some(found);
                }
                Err(FindError::None) => {}
                Err(error) => failure = error,
            }
        }
        let places = places_of_live;
        match live {
            None => Err(failure),
            Some(_) if is_change => Err(FindError::NotNamed { port, places }),
            Some(_) if places.len() > 1 => Err(FindError::Several { port, places }),
            Some(mut client) => {
                client.only_looks(FindError::NotNamed { port, places }.to_string());
                Ok(client)
            }
        }
    }
}

/// Is this the entry name of this port and address?
fn is_at(plain: &str, port: u16, place: Place) -> bool {
    entry_place(plain).is_some_and(|(ports, at)| at == place && ports.contains(&port))
}

/// Does the entry belong to the user of this process? Otherwise an instance could claim to be a process that
/// it is not.
fn may_be_of(entry: &Found, pid: u32) -> bool {
    use std::os::unix::fs::MetadataExt;
    !entry.is_strange()
        || std::fs::metadata(format!("/proc/{pid}")).is_ok_and(|process| process.uid() == entry.seen.owner)
}

/// Where the service of this name listens, according to its instance.
fn listens(client: &mut Client, name: &str) -> Option<Address> {
    let mut at = None;
    let asked = client.ask(b"services", |line| {
        let mut words = line.split_whitespace();
        if words.next() == Some(name) {
            let listen = words.next().and_then(|listen| listen.split(',').next()?.parse().ok());
            at = listen.map(ListenSpan::first);
        }
    });
    asked.ok().and(at)
}

/// Is there an entry for a service of this name?
pub fn is_service(directories: &[Directory], name: &str) -> bool {
    let entry = service_entry_name(name);
    let search = Search::new(directories, std::slice::from_ref(&entry), |plain| plain == entry);
    search.entries.iter().any(|found| found.plain() == entry)
}

/// Finds the instance and starts a session with it. `is_change`: the session will change something.
///
/// # Errors
/// There is no such instance, it is not clear which one is meant, or it does not answer properly.
pub fn find(wanted: &Wanted, is_change: bool) -> Result<Client, FindError> {
    let mut until = None;
    loop {
        let (found, has_gone) = find_once(wanted, is_change);
        if has_gone && until.is_none() {
            until = Some(Instant::now() + HANDING_OVER);
        }
        match found {
            Err(
                FindError::None
                | FindError::NoService { .. }
                | FindError::NoProcess { .. }
                | FindError::OtherAddress { .. },
            ) if until.is_some_and(|until| Instant::now() < until) => {
                thread::sleep(ASK_AGAIN);
            }
            found => return found,
        }
    }
}

/// The result of one search, and whether an instance that may have been meant has just gone.
fn find_once(wanted: &Wanted, is_change: bool) -> (Result<Client, FindError>, bool) {
    match &wanted.service {
        Which::Name { name, port } => {
            let entry = service_entry_name(name);
            let mut search =
                Search::new(&wanted.directories, std::slice::from_ref(&entry), |plain| plain == entry);
            (search.named(name, *port), search.has_gone())
        }
        Which::Unix { name } => {
            let entry = entry_name((*name).into());
            let mut search =
                Search::new(&wanted.directories, std::slice::from_ref(&entry), |plain| plain == entry);
            let found = search.first(|plain| plain == entry, &name.to_string());
            (found.map_err(|error| error.or_else(|| search.failure())), search.has_gone())
        }
        Which::Process { pid } => {
            let mut search = Search::new(&wanted.directories, &[], |_| true);
            (search.process(*pid), search.has_gone())
        }
        Which::Port { port, addresses, ipv6 } => {
            let typed = addresses.clone().unwrap_or_else(|| wildcards(*ipv6).into());
            let names: Vec<String> =
                typed.iter().map(|place| entry_name(place.with_port(*port).into())).collect();
            let mut search = Search::new(&wanted.directories, &names, |plain| {
                entry_place(plain).is_some_and(|(of, _)| of.contains(port))
            });
            let mut failure = FindError::None;
            for place in &typed {
                match search.at(*port, *place) {
                    Ok(client) => return (Ok(client), false),
                    Err(error) if error.is_passed_over() => failure = error.or_else(|| failure),
                    Err(error) => return (Err(error), search.has_gone()),
                }
            }
            let near = |place: Place| match addresses {
                // An address typed without a zone matches one with a zone.
                Some(typed) => !typed.contains(&place) && typed.iter().any(|typed| place.is_near(*typed)),
                None => !place.is_wildcard(),
            };
            let found = search
                .the_only(*port, is_change, near)
                .map_err(|error| error.or_else(|| failure))
                .map_err(|error| error.or_else(|| search.elsewhere(*port, addresses.is_some())))
                .map_err(|error| error.or_else(|| search.failure()));
            (found, search.has_gone())
        }
    }
}

fn wildcards(ipv6: bool) -> [Place; 2] {
    let mut both =
        [IpAddr::from(Ipv4Addr::UNSPECIFIED), IpAddr::from(Ipv6Addr::UNSPECIFIED)].map(Place::from);
    if ipv6 {
        both.reverse();
    }
    both
}

impl Found {
    /// Starts a session with a live entry, if its server can be trusted, has this service and is in our
    /// network namespace.
    fn meet(&self, service: &str) -> Result<Client, FindError> {
        let (stream, uid) = self.reach(PATIENCE)?;
        let (mut client, _) = self.greet(&stream, uid, Some(service), PATIENCE)?;
        client.wait_for_ever().map_err(|cause| FindError::Silent { path: self.path(), cause })?;
        Ok(client)
    }

    /// Connects to a live entry whose server can be trusted. Returns also the user id of the server.
    pub(super) fn reach(&self, patience: Duration) -> Result<(UnixStream, u32), FindError> {
        let path = self.path();
        match entry::connect(&self.directory, &self.name, patience) {
            Ok((stream, mode)) => match peer::uid(&stream) {
                Ok(uid) if peer::may_trust(uid, peer::own_uid(), mode) => Ok((stream, uid)),
                Ok(uid) => Err(FindError::Stranger { path, uid }),
                Err(cause) => Err(FindError::Denied { path, cause }),
            },
            Err(cause) if cause.kind() == ErrorKind::PermissionDenied && !self.seen.is_own() => {
                Err(FindError::NotAllowed { path, cause, owner: self.seen.owner })
            }
            Err(cause) if cause.kind() == ErrorKind::PermissionDenied => {
                Err(FindError::Denied { path, cause })
            }
            Err(cause) if cause.kind() == ErrorKind::WouldBlock => {
                Err(FindError::Silent { path, cause: ErrorKind::TimedOut.into() })
            }
            // Its path is too long for a socket address, and there is no other way to reach it.
            Err(cause) if cause.kind() == ErrorKind::InvalidInput => Err(FindError::Denied { path, cause }),
            // The entry is gone, or no process listens there.
            Err(_) => Err(FindError::None),
        }
    }

    /// Reads the greeting and asks for the service that is meant. The name of an entry proves nothing: where
    /// hard links are not restricted, every user can give every socket another name. Each answer has to come
    /// within `patience`.
    pub(super) fn greet(
        &self,
        stream: &UnixStream,
        uid: u32,
        service: Option<&str>,
        patience: Duration,
    ) -> Result<(Client, Greeting), FindError> {
        let path = self.path();
        let silent = |cause| FindError::Silent { path: path.clone(), cause };
        let mut lines = LineReader::new(BufReader::new(Patient::new(stream, patience).map_err(silent)?));
        let line = match lines.read() {
            Ok(LineRead::Whole(line)) => printable(line),
            Ok(LineRead::TooLong) => String::from("a very long line"),
            // The process ended while our connection was in its listen queue, for example by `kill -9`.
            Ok(LineRead::End) => return Err(self.goes()),
            Err(cause) if matches!(cause.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => {
                return Err(self.goes());
            }
            Ok(LineRead::Rest(_)) => return Err(silent(ErrorKind::UnexpectedEof.into())),
            Err(cause) => return Err(silent(cause)),
        };
        if let Some(text) = line.strip_prefix(". ") {
            return Err(FindError::Refused { path, text: text.into() });
        }
        let Some(greeting) = Greeting::parse(&line) else {
            return Err(FindError::Unknown { path, text: line.chars().take(80).collect() });
        };
        if greeting.protocol != PROTOCOL {
            return Err(FindError::OtherProtocol(greeting));
        }
        let mut client = Client::new(stream.try_clone().map_err(silent)?, lines, &greeting, uid);
        if let Some(service) = service {
            if peer::is_elsewhere(greeting.namespace) {
                return Err(FindError::Elsewhere { pid: greeting.pid });
            }
            match client.ask(format!("use {service}").as_bytes(), |_| ()) {
                Ok(Status { code: 0, service, is_draining: false, .. }) => client.begins_at(service),
                // An older instance with one service, which does not know `use`.
                Ok(Status { code: 64, .. }) if greeting.services == 1 => {}
                // Another instance, or one whose service has just gone.
                Ok(Status { code: HANDED_OVER, .. }) | Err(AskError::Gone | AskError::Unheard) => {
                    return Err(self.goes());
                }
                Ok(_) | Err(AskError::Closed(_)) => return Err(FindError::None),
                Err(AskError::Garbled(text)) => return Err(FindError::Unknown { path, text }),
            }
        }
        Ok((client, greeting))
    }
}
