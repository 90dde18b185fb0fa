//! What is known when the doctor is asked.
//!
//! Knows: plain values. Never: where they come from, what is thought of them.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::net::IpAddr;
use std::time::Duration;

use super::kernel::KernelSigns;
use crate::control::directory::process_name;
use crate::sched::Snapshot;
use crate::spec::{Address, ListenSpan, ServiceSpec};

/// What only the process knows of itself.
#[derive(Debug, Clone, Default)]
pub struct ProcessSigns {
    /// The limit of open files; `None`: there is none, or nobody knows.
    pub descriptor_limit: Option<u64>,
    /// Descriptors that clients can still have.
    pub descriptors_free: Option<u64>,
    /// Threads that serve clients.
    pub workers: usize,
    /// `--loopback-congestion`, if there is one.
    pub loopback_congestion: Option<String>,
    /// Channels that lead back to their own service without a maxc: where that listens, and what there is to say.
    pub circles: Vec<(ListenSpan, String)>,
    /// Addresses of `-B` that this host does not have.
    pub sources: Vec<WaySign>,
    /// What `--transparent` lacks.
    pub transparent: Vec<WaySign>,
    /// Lines of the log that nobody took.
    pub dropped_lines: u64,
    /// Lines of the access log that could not be written.
    pub access_lines_dropped: u64,
    /// What has become of the clocks.
    pub clocks: ClockSigns,
    /// What the process has given up; `None`: it was not asked to.
    pub privileges: Option<PrivilegeSigns>,
    /// What the system had counted when the process began to serve.
    pub before: KernelSigns,
}

/// What the process has given up.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PrivilegeSigns {
    /// What holds, in one line.
    pub holds: String,
    /// What was asked for and does not hold: what, why it matters, what to do.
    pub lacks: Vec<(String, String, String)>,
}

/// What is wrong with where the connections of a service come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaySign {
    /// Where it listens.
    pub listen: ListenSpan,
    /// What was found.
    pub found: String,
    /// Why it matters.
    pub why: String,
    /// What to do.
    pub cure: String,
    /// Clients are not served, because of it.
    pub is_broken: bool,
}

/// How the clocks have behaved since the process began to serve.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ClockSigns {
    /// How far somebody has set the wall clock, in milliseconds; forward is positive.
    pub stepped_millis: i64,
    /// How long the machine was suspended.
    pub suspended: Duration,
    /// How often the process could not run for more than a second, ...
    pub pauses: u64,
    /// ... and the longest time.
    pub longest_pause: Duration,
}

/// One service.
#[derive(Debug, Clone)]
pub(crate) struct ServiceSigns {
    /// Its name, or where it listens.
    pub(crate) label: String,
    /// It takes no clients any more, and others may listen where it did.
    pub(crate) is_draining: bool,
    /// Where its process takes commands by port: where it listens or, if it does so no more, another service. `None`: by the name
    /// of the process alone.
    pub(crate) asked_at: Option<Address>,
    /// Where it listens, or did before it drained.
    pub(crate) listen: Vec<ListenSpan>,
    /// What it was asked for.
    pub(crate) spec: ServiceSpec,
    /// Its channels.
    pub(crate) table: Snapshot,
    /// Clients now.
    pub(crate) connections: usize,
    /// How many connections have been idle for long, and the longest time; `None`: it was not looked at.
    pub(crate) idle: Option<(usize, Duration)>,
}

impl ServiceSigns {
    /// What a command for this service begins with; behind it come the quoted command and this.
    pub(crate) fn command(&self, text: &str) -> String {
        let (bind, port) = match self.asked_at {
            Some(Address::Net(at)) if !at.ip().is_unspecified() => {
                (format!("-b {} ", at.ip()), at.port().to_string())
            }
            Some(Address::Net(at)) => (String::new(), at.port().to_string()),
            Some(Address::Unix(name)) => (String::new(), name.to_string()),
            None => (String::new(), process_name(std::process::id())),
        };
        match text.contains(' ') {
            true => format!("balance {bind}-c \"{text}\" {port}"),
            false => format!("balance {bind}-c {text} {port}"),
        }
    }
}

/// What a name means now.
#[derive(Debug, Clone)]
pub(crate) struct NameSign {
    /// The name.
    pub(crate) host: String,
    /// What it meant when it was looked up last; sorted.
    pub(crate) known: Vec<IpAddr>,
    /// What it means now, or why it means nothing; sorted. `None`: nobody has answered yet.
    pub(crate) found: Option<Result<Vec<IpAddr>, String>>,
}

/// The file by which the process is asked.
#[derive(Debug, Clone)]
pub(crate) struct SocketSign {
    /// Where it is.
    pub(crate) path: String,
    /// Its permissions; `None`: it is gone, or is not ours any more.
    pub(crate) mode: Option<u32>,
    /// A group was named that may use it.
    pub(crate) group_named: bool,
}

/// All of it.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    pub(crate) process: ProcessSigns,
    pub(crate) services: Vec<ServiceSigns>,
    pub(crate) names: Vec<NameSign>,
    pub(crate) sockets: Vec<SocketSign>,
    pub(crate) kernel: KernelSigns,
    /// A service of the process takes clients, be it among those that are looked at or not.
    pub(crate) is_serving: bool,
}

impl Case {
    /// The services that take clients.
    pub(crate) fn serving(&self) -> impl Iterator<Item = &ServiceSigns> {
        self.services.iter().filter(|service| !service.is_draining)
    }

    /// A command for the process: for one that serves, if any does.
    pub(crate) fn command(&self, text: &str) -> String {
        let service = self.serving().next().or_else(|| self.services.first());
        service.map_or_else(String::new, |service| service.command(text))
    }
}
