//! The control socket's client: finds the instance, believes it or not, asks it.
//!
//! Knows: where entries are, greeting and status lines. Never: what a command means, terminals.
//! Source: docs/control.md, "Finding the instance" and "The protocol".

use std::collections::BTreeSet;
use std::io::{self, BufReader, ErrorKind, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::control::directory::{Directory, entry_address, entry_name, service_entry_name};
use crate::control::endpoint;
use crate::control::peer;
use crate::control::render::VERSION;
use crate::control::wire::{Greeting, Line, Lines, PROTOCOL, Status, printable};

/// How long an instance may take to say hello. Commands may take longer: they ask DNS.
const PATIENCE: Duration = Duration::from_secs(5);

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
        addresses: Option<Vec<IpAddr>>,
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
    #[error("balance: several instances have port {port}, say which with -b: {}", list(.addresses))]
    Several {
        /// The port.
        port: u16,
        /// Their addresses.
        addresses: Vec<IpAddr>,
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

fn list(addresses: &[IpAddr]) -> String {
    addresses.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(", ")
}

/// Why an answer did not come.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// The instance went away.
    #[error("no master process, exiting.")]
    Gone,
    /// It says what no instance says.
    #[error("balance: the instance's answer makes no sense: {0:?}")]
    Garbled(String),
}

/// A session with an instance.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    lines: Lines<BufReader<UnixStream>>,
    pid: u32,
    /// Where it begins, if there are several services.
    service: Option<String>,
}

impl Client {
    /// Finds the instance and starts a session with it.
    ///
    /// # Errors
    /// When there is none, it is not clear which one is meant, or it does not talk to us.
    pub fn find(wanted: &Wanted) -> Result<Self, FindError> {
        match &wanted.service {
            Which::Port { port, addresses: Some(addresses), .. } => Self::first(wanted, *port, addresses),
            Which::Port { port, addresses: None, ipv6 } => Self::by_port(wanted, *port, *ipv6),
            Which::Name(name) => Self::by_name(wanted, name),
        }
    }

    fn by_name(wanted: &Wanted, name: &str) -> Result<Self, FindError> {
        let mut failure = FindError::None;
        for directory in wanted.directories.iter().filter(|directory| directory.open().is_ok()) {
            match reach(&directory.path().join(service_entry_name(name))) {
                Ok((stream, path)) => return Self::greet(stream, path, name),
                Err(FindError::None) => {}
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    /// The first that lives, of all addresses and directories.
    fn first(wanted: &Wanted, port: u16, addresses: &[IpAddr]) -> Result<Self, FindError> {
        let mut failure = FindError::None;
        for address in addresses {
            for directory in &wanted.directories {
                if directory.open().is_err() {
                    continue;
                }
                match reach(&directory.path().join(entry_name(port, *address))) {
                    Ok((stream, path)) => return Self::greet(stream, path, &place(port, *address)),
                    Err(FindError::None) => {}
                    Err(error) => failure = error,
                }
            }
        }
        Err(failure)
    }

    fn by_port(wanted: &Wanted, port: u16, ipv6: bool) -> Result<Self, FindError> {
        let mut wildcards = [IpAddr::from(Ipv4Addr::UNSPECIFIED), IpAddr::from(Ipv6Addr::UNSPECIFIED)];
        if ipv6 {
            wildcards.reverse();
        }
        let mut failure = match Self::first(wanted, port, &wildcards) {
            Err(FindError::None) => FindError::None,
            // An entry that cannot be used does not hide an instance that can.
            Err(failure @ (FindError::Denied { .. } | FindError::Stranger { .. })) => failure,
            other => return other,
        };
        let others: BTreeSet<IpAddr> =
            wanted.directories.iter().flat_map(|place| entries(place, port)).collect();
        let mut live = Vec::new();
        for address in others.into_iter().filter(|address| !wildcards.contains(address)) {
            for place in wanted.directories.iter().filter(|place| place.open().is_ok()) {
                match reach(&place.path().join(entry_name(port, address))) {
                    Ok(found) => {
                        live.push((address, found));
                        break;
                    }
                    Err(FindError::None) => {}
                    Err(error) => failure = error,
                }
            }
        }
        if live.len() > 1 {
            let addresses = live.into_iter().map(|(address, _)| address).collect();
            return Err(FindError::Several { port, addresses });
        }
        match live.pop() {
            Some((address, (stream, path))) => Self::greet(stream, path, &place(port, address)),
            None => Err(failure),
        }
    }

    /// Hears who is there, and says which of several services is meant.
    fn greet(stream: UnixStream, path: PathBuf, service: &str) -> Result<Self, FindError> {
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
        let mut client = Self { stream, lines, pid: greeting.pid, service: None };
        if greeting.services > 1 {
            match client.ask(format!("use {service}").as_bytes(), |_| ()) {
                Ok(Status { code: 0, service, .. }) => client.service = service,
                // The name of a service that has just gone.
                Ok(_) | Err(AskError::Gone) => return Err(FindError::None),
                Err(AskError::Garbled(text)) => return Err(FindError::Unknown { path, text }),
            }
        }
        client.stream.set_read_timeout(None).map_err(silent)?;
        Ok(client)
    }

    /// The service that the session began with, where there are several.
    pub fn service(&self) -> Option<&str> {
        self.service.as_deref()
    }

    /// The socket, to be shut down by whoever does not want to wait for the answer any longer.
    ///
    /// # Errors
    /// There is no descriptor for it.
    pub fn socket(&self) -> io::Result<UnixStream> {
        self.stream.try_clone()
    }

    /// The process of the instance.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Sends one line and hands each line of the answer to `body`, newline included.
    ///
    /// # Errors
    /// When the instance goes away before its answer is complete, or says what no instance says.
    pub fn ask(&mut self, line: &[u8], mut body: impl FnMut(&str)) -> Result<Status, AskError> {
        // Whatever the text holds, it is one line to the instance: a newline separates commands as `;` does.
        let mut sent: Vec<u8> = line.iter().map(|&byte| if byte == b'\n' { b';' } else { byte }).collect();
        sent.push(b'\n');
        // It may have gone, but may also have answered before it went: what comes in tells.
        let _ = self.stream.write_all(&sent);
        loop {
            let line = match self.lines.read() {
                Ok(Line::Whole(line)) => line,
                Ok(Line::TooLong) => return Err(AskError::Garbled("a very long line".into())),
                Ok(Line::Rest(_) | Line::End) | Err(_) => return Err(AskError::Gone),
            };
            match line.strip_prefix(b".") {
                None => body(&(printable(line) + "\n")),
                Some(stuffed) if stuffed.starts_with(b".") => body(&(printable(stuffed) + "\n")),
                Some(_) => {
                    let line = printable(line);
                    return Status::parse(&line).ok_or(AskError::Garbled(line));
                }
            }
        }
    }
}

/// Where a service listens, as `use` takes it.
fn place(port: u16, address: IpAddr) -> String {
    SocketAddr::new(address, port).to_string()
}

/// A connection to a live entry whose server may be believed.
fn reach(path: &Path) -> Result<(UnixStream, PathBuf), FindError> {
    let path = path.to_owned();
    match endpoint::connect(&path, PATIENCE) {
        Ok((stream, mode)) => match peer::uid(&stream) {
            Ok(uid) if peer::may_trust(uid, peer::own_uid(), mode) => Ok((stream, path)),
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

/// The addresses of all entries of a port.
fn entries(directory: &Directory, port: u16) -> Vec<IpAddr> {
    if directory.open().is_err() {
        return Vec::new();
    }
    let Ok(names) = std::fs::read_dir(directory.path()) else { return Vec::new() };
    names
        .filter_map(|name| entry_address(name.ok()?.file_name().to_str()?, port))
        .map(|address| address.to_canonical())
        .collect()
}
