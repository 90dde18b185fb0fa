//! Finding the instance that an operator means, among all entries of all run directories.
//!
//! Knows: entries and what they are called, whose they are, which of several is meant. Never: commands, terminals.
//! Source: docs/control.md, "Finding the instance".

use std::collections::BTreeMap;
use std::io::{self, BufReader, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{AtFlags, CWD};

use crate::control::client::{AskError, Client};
use crate::control::directory::{Directory, Place, entry_name, entry_place, plain_name, service_entry_name};
use crate::control::endpoint;
use crate::control::peer;
use crate::control::render::VERSION;
use crate::control::wire::{Greeting, Line, Lines, PROTOCOL, Status, printable};

/// How long an instance may take to say hello. Commands may take longer: they ask DNS.
const PATIENCE: Duration = Duration::from_secs(5);
/// Entries looked at in a directory. More than this and somebody plays games in it.
const ENTRIES: usize = 65_536;

/// Which instance is meant.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Where entries are, in the order to look.
    pub directories: Vec<Directory>,
    /// Which service of which instance.
    pub service: Which,
}

/// What a service is looked for by.
#[derive(Debug, Clone)]
pub enum Which {
    /// Where it listens.
    Port {
        /// The port.
        port: u16,
        /// All addresses of the host that was given with `-b`; `None`: none was given.
        addresses: Option<Vec<Place>>,
        /// `-6`: look for `::` before `0.0.0.0`.
        ipv6: bool,
    },
    /// Its name.
    Name(String),
}

/// Why there is no instance to talk to. The messages are for the operator.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    /// Nobody serves it.
    #[error("no master process, exiting.")]
    None,
    /// The port alone does not say which.
    #[error("balance: several instances have port {port}, say which with -b: {}", list(.places))]
    Several {
        /// The port.
        port: u16,
        /// Their addresses.
        places: Vec<Place>,
    },
    /// Without `-b`, what changes something is for an instance on all addresses, and there is none.
    #[error(
        "no master process, exiting.\nbalance: port {port} is served on {} only: to change an instance, say which with -b: {}",
        list(.places), bind_options(.places)
    )]
    NotOnAll {
        /// The port.
        port: u16,
        /// Where there are instances with this port.
        places: Vec<Place>,
    },
    /// There is an entry, but we may not use it.
    #[error("balance: cannot connect to {}: {cause}", .path.display())]
    Denied {
        /// The entry.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// The entry is another user's, who may not be believed.
    #[error("balance: {} is served by user {uid}, who is neither you nor root: not used", .path.display())]
    Stranger {
        /// The entry.
        path: PathBuf,
        /// Who serves it.
        uid: u32,
    },
    /// The instance listens in another network namespace, where the same port is another one.
    #[error(
        "no master process, exiting.\nbalance: process {pid} serves this in another network namespace: \
         nsenter --net=/proc/{pid}/ns/net balance ..."
    )]
    Elsewhere {
        /// Its process.
        pid: u32,
    },
    /// It does not say hello in time, or goes away before.
    #[error("balance: the instance at {} does not answer: {cause}", .path.display())]
    Silent {
        /// The entry.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// It does not let us in.
    #[error("balance: the instance at {} says: {text}", .path.display())]
    Refused {
        /// The entry.
        path: PathBuf,
        /// What it says.
        text: String,
    },
    /// It speaks another protocol.
    #[error(
        "balance: the instance is balance {} (pid {}) and speaks control protocol {}, this is balance {VERSION} and \
         speaks {PROTOCOL}: use the program of the instance, e.g. /proc/{}/exe",
        .0.version, .0.pid, .0.protocol, .0.pid
    )]
    OtherProtocol(Greeting),
    /// It is something else.
    #[error("balance: {} is no balance instance: it greets with {text:?}; remove it if nobody needs it", .path.display())]
    Unknown {
        /// The entry.
        path: PathBuf,
        /// Its first line.
        text: String,
    },
}

impl FindError {
    /// Does it leave open that another entry is the one that is meant?
    fn is_passed_over(&self) -> bool {
        matches!(self, Self::None | Self::Denied { .. } | Self::Stranger { .. } | Self::Elsewhere { .. })
    }
}

fn list(places: &[Place]) -> String {
    places.iter().map(Place::to_string).collect::<Vec<_>>().join(", ")
}

fn bind_options(places: &[Place]) -> String {
    places.iter().map(|place| format!("-b {place}")).collect::<Vec<_>>().join(", ")
}

/// An entry of a run directory.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub(super) path: PathBuf,
    /// Its name, without what only tells it apart.
    plain: String,
    /// Ours or root's come first, then those in directories named first, then those that go by their plain name.
    order: (bool, usize, bool),
}

/// The entries of all directories that can be trusted, best first. `plain` are names to look for even in a directory that
/// cannot be listed.
pub(super) fn entries(directories: &[Directory], plain: &[String]) -> Vec<Found> {
    let mut found: BTreeMap<PathBuf, Found> = BTreeMap::new();
    for (number, directory) in directories.iter().enumerate() {
        if directory.open().is_err() {
            continue;
        }
        let listed = std::fs::read_dir(directory.path()).into_iter().flatten().flatten().take(ENTRIES);
        let listed = listed.filter_map(|entry| entry.file_name().into_string().ok());
        for name in plain.iter().cloned().chain(listed) {
            let is_ours = name.starts_with("balance.") || name.starts_with("service.");
            let path = directory.path().join(&name);
            let Ok(stat) = rustix::fs::statat(CWD, &path, AtFlags::SYMLINK_NOFOLLOW) else { continue };
            if is_ours {
                let is_strange = stat.st_uid != 0 && stat.st_uid != peer::own_uid();
                let plain = plain_name(&name).to_owned();
                let order = (is_strange, number, plain != name);
                found.insert(path.clone(), Found { path, plain, order });
            }
        }
    }
    let mut found: Vec<Found> = found.into_values().collect();
    found.sort_by_key(|entry| entry.order);
    found
}

/// Is there a service of this name, as far as its entry says?
pub fn is_service(directories: &[Directory], name: &str) -> bool {
    let entry = service_entry_name(name);
    entries(directories, std::slice::from_ref(&entry)).iter().any(|found| found.plain == entry)
}

/// Finds the instance and starts a session with it. `is_change`: the session is to change something.
///
/// # Errors
/// When there is none, it is not clear which one is meant, or it does not talk to us.
pub fn find(wanted: &Wanted, is_change: bool) -> Result<Client, FindError> {
    match &wanted.service {
        Which::Name(name) => {
            let entry = service_entry_name(name);
            let entries = entries(&wanted.directories, std::slice::from_ref(&entry));
            first(entries.iter().filter(|found| found.plain == entry), name)
        }
        Which::Port { port, addresses, ipv6 } => {
            let typed = addresses.clone().unwrap_or_else(|| wildcards(*ipv6).into());
            let names: Vec<String> = typed.iter().map(|place| entry_name(*port, *place)).collect();
            let entries = entries(&wanted.directories, &names);
            let mut failure = FindError::None;
            for typed in typed {
                match at(&entries, *port, |place| place.is_meant_by(typed)) {
                    Ok((client, _)) => return Ok(client),
                    Err(error @ FindError::None) if matches!(failure, FindError::None) => failure = error,
                    Err(FindError::None) => {}
                    Err(error) if error.is_passed_over() => failure = error,
                    Err(error) => return Err(error),
                }
            }
            if addresses.is_some() { Err(failure) } else { the_only(&entries, *port, is_change, failure) }
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

/// The only instance that has this port, on whatever address.
fn the_only(
    entries: &[Found],
    port: u16,
    is_change: bool,
    mut failure: FindError,
) -> Result<Client, FindError> {
    let places = entries.iter().filter_map(|found| entry_place(&found.plain));
    let mut places: Vec<Place> =
        places.filter(|(of, place)| *of == port && !place.is_wildcard()).map(|(_, place)| place).collect();
    places.sort();
    places.dedup();
    let mut live = Vec::new();
    for place in places {
        match at(entries, port, |other| other == place) {
            Ok(found) => live.push(found),
            Err(FindError::None) => {}
            Err(error) => failure = error,
        }
    }
    let places: Vec<Place> = live.iter().map(|(_, place)| *place).collect();
    match live.pop() {
        None => Err(failure),
        Some(_) if is_change => Err(FindError::NotOnAll { port, places }),
        Some(_) if !live.is_empty() => Err(FindError::Several { port, places }),
        Some((mut client, place)) => {
            client.only_looks(FindError::NotOnAll { port, places: vec![place] }.to_string());
            Ok(client)
        }
    }
}

/// The first that lives of those at a place.
fn at(entries: &[Found], port: u16, is_meant: impl Fn(Place) -> bool) -> Result<(Client, Place), FindError> {
    let mut failure = FindError::None;
    for found in entries {
        let Some((of, place)) = entry_place(&found.plain) else { continue };
        if of != port || !is_meant(place) {
            continue;
        }
        match meet(&found.path, &place.with_port(port).to_string()) {
            Ok(client) => return Ok((client, place)),
            Err(FindError::None) => {}
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

fn first<'a>(entries: impl Iterator<Item = &'a Found>, service: &str) -> Result<Client, FindError> {
    let mut failure = FindError::None;
    for found in entries {
        match meet(&found.path, service) {
            Ok(client) => return Ok(client),
            Err(FindError::None) => {}
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

/// A session with a live entry whose server may be believed, at one of its services.
pub(super) fn meet(path: &Path, service: &str) -> Result<Client, FindError> {
    let (stream, uid) = reach(path)?;
    greet(stream, path.to_owned(), uid, Some(service))
}

/// A connection to a live entry whose server may be believed, and who that is.
pub(super) fn reach(path: &Path) -> Result<(UnixStream, u32), FindError> {
    let path = path.to_owned();
    match endpoint::connect(&path, PATIENCE) {
        Ok((stream, mode)) => match peer::uid(&stream) {
            Ok(uid) if peer::may_trust(uid, peer::own_uid(), mode) => Ok((stream, uid)),
            Ok(uid) => Err(FindError::Stranger { path, uid }),
            Err(cause) => Err(FindError::Denied { path, cause }),
        },
        Err(cause) if cause.kind() == ErrorKind::PermissionDenied => Err(FindError::Denied { path, cause }),
        Err(cause) if cause.kind() == ErrorKind::WouldBlock => {
            Err(FindError::Silent { path, cause: ErrorKind::TimedOut.into() })
        }
        // Not there, or nobody behind it.
        Err(_) => Err(FindError::None),
    }
}

/// Hears who is there, and says which of several services is meant.
pub(super) fn greet(
    stream: UnixStream,
    path: PathBuf,
    uid: u32,
    service: Option<&str>,
) -> Result<Client, FindError> {
    let silent = |cause| FindError::Silent { path: path.clone(), cause };
    stream.set_read_timeout(Some(PATIENCE)).map_err(silent)?;
    let mut lines = Lines::new(BufReader::new(stream.try_clone().map_err(silent)?));
    let line = match lines.read() {
        Ok(Line::Whole(line)) => printable(line),
        Ok(Line::TooLong) => String::from("a very long line"),
        // It went while we were waiting to be let in: `kill -9` leaves a queue that nobody reads.
        Ok(Line::End) => return Err(FindError::None),
        Err(cause) if matches!(cause.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => {
            return Err(FindError::None);
        }
        Ok(Line::Rest(_)) => return Err(silent(ErrorKind::UnexpectedEof.into())),
        // How a read says that its time is over.
        Err(cause) if cause.kind() == ErrorKind::WouldBlock => {
            return Err(silent(ErrorKind::TimedOut.into()));
        }
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
    if let (Some(theirs), Some(ours), true) = (greeting.namespace, peer::own_namespace(), service.is_some())
        && theirs != ours
    {
        return Err(FindError::Elsewhere { pid: greeting.pid });
    }
    let services = greeting.services;
    let mut client = Client::new(stream.try_clone().map_err(silent)?, lines, &greeting, uid);
    if let Some(service) = service.filter(|_| services > 1) {
        match client.ask(format!("use {service}").as_bytes(), |_| ()) {
            Ok(Status { code: 0, service, .. }) => client.begins_at(service),
            // The name of a service that has just gone.
            Ok(_) | Err(AskError::Gone | AskError::Closed(_)) => return Err(FindError::None),
            Err(AskError::Garbled(text)) => return Err(FindError::Unknown { path, text }),
        }
    }
    stream.set_read_timeout(None).map_err(silent)?;
    Ok(client)
}
