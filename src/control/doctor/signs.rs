//! The facts that `doctor` looks at.
//!
//! Knows: plain values. Never: where they come from, what they mean.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::net::IpAddr;
use std::time::Duration;

use super::kernel::KernelSigns;
use crate::control::directory::process_name;
use crate::sched::Snapshot;
use crate::spec::{Address, ListenSpan, ServiceSpec};

/// Facts that only the process itself knows.
#[derive(Debug, Clone, Default)]
pub struct ProcessSigns {
    /// The limit of open files; `None`: there is none, or it is not known.
    pub descriptor_limit: Option<u64>,
    /// Descriptors that are still free for clients; `None`: not known.
    pub descriptors_free: Option<u64>,
    /// Number of threads that serve clients.
    pub workers: usize,
    /// `--loopback-congestion`, if given.
    pub loopback_congestion: Option<String>,
    /// Channels without a maxc that lead back to their own service: where the service listens, and the text
    /// of the finding.
    pub circles: Vec<(ListenSpan, String)>,
    /// Problems with the source addresses of `-B`, such as one that this host does not have.
    pub sources: Vec<WaySign>,
    /// What is missing for `--transparent`.
    pub transparent: Vec<WaySign>,
    /// Lines of the log that were lost because nobody read them.
    pub dropped_lines: u64,
    /// The log goes to syslog, not to stderr.
    pub logs_to_syslog: bool,
    /// Lines of the access log that could not be written.
    pub access_lines_dropped: u64,
    /// Why the access log cannot be written now.
    pub access_trouble: Option<String>,
    /// Why the file of `--state` cannot be written now.
    pub state_trouble: Option<String>,
    /// What happened to the clocks.
    pub clocks: ClockSigns,
    /// The privileges that the process has given up; `None`: it was not asked to.
    pub privileges: Option<PrivilegeSigns>,
    /// The kernel's values when the process began to serve.
    pub before: KernelSigns,
}

/// The privileges that the process has given up.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PrivilegeSigns {
    /// What is in force, in one line.
    pub holds: String,
    /// What was asked for and is not in force: what, why it matters, what to do.
    pub lacks: Vec<(String, String, String)>,
}

/// A problem with the source addresses of a service's connections to channels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaySign {
    /// Where the service listens.
    pub listen: ListenSpan,
    /// What was found, in one line.
    pub found: String,
    /// Why it matters.
    pub why: String,
    /// What to do.
    pub cure: String,
    /// Whether clients are not served because of it.
    pub is_broken: bool,
}

/// How the clocks have behaved since the process began to serve.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ClockSigns {
    /// By how much the wall clock was set, in milliseconds; forward is positive.
    pub stepped_millis: i64,
    /// How long the machine was suspended.
    pub suspended: Duration,
    /// How often the process could not run for more than a second.
    pub pauses: u64,
    /// The longest of these pauses.
    pub longest_pause: Duration,
}

/// Facts about one service.
#[derive(Debug, Clone)]
pub(crate) struct ServiceSigns {
    /// Its name, or where it listens.
    pub(crate) label: String,
    /// Whether it takes no clients any more. Then other processes may listen where it did.
    pub(crate) is_draining: bool,
    /// The address by which its process takes commands: where the service listens, or if it no longer does,
    /// where another service of the process listens. `None`: commands reach it by the name of the process
    /// only.
    pub(crate) asked_at: Option<Address>,
    /// The addresses at which it listens, or listened before it drained.
    pub(crate) listen: Vec<ListenSpan>,
    /// The service as its line describes it.
    pub(crate) spec: ServiceSpec,
    /// Its groups and channels.
    pub(crate) table: Snapshot,
    /// Number of connections now.
    pub(crate) connections: usize,
    /// Who may connect to its Unix socket, if that is not as its line says.
    pub(crate) access: Option<AccessSign>,
    /// How many connections have been idle for long, and the longest time; `None`: not examined.
    pub(crate) idle: Option<(usize, Duration)>,
}

/// Who may connect to a Unix socket, as `660 www-data`, where that is otherwise than its line has it or for somebody else to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AccessSign {
    /// As the line has it.
    pub(crate) wanted: String,
    /// As it is.
    pub(crate) now: String,
    /// Somebody else has made the socket.
    pub(crate) is_foreign: bool,
}

impl ServiceSigns {
    /// The command line that sends this command to the service.
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

/// What a host name means now.
#[derive(Debug, Clone)]
pub(crate) struct NameSign {
    /// The name.
    pub(crate) host: String,
    /// The addresses of the last lookup, sorted. balance uses these.
    pub(crate) known: Vec<IpAddr>,
    /// The addresses of now, sorted, or why there are none. `None`: no name server has answered yet.
    pub(crate) found: Option<Result<Vec<IpAddr>, String>>,
}

/// A file of the control socket.
#[derive(Debug, Clone)]
pub(crate) struct SocketSign {
    /// Its path.
    pub(crate) path: String,
    /// Its permissions; `None`: it is gone or no longer ours.
    pub(crate) mode: Option<u32>,
    /// Whether `--control-group` named a group that may use it.
    pub(crate) group_named: bool,
    /// Why that group may not use it all the same.
    pub(crate) ungrouped: Option<String>,
}

/// Everything that `doctor` looks at.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    pub(crate) process: ProcessSigns,
    pub(crate) services: Vec<ServiceSigns>,
    pub(crate) names: Vec<NameSign>,
    pub(crate) sockets: Vec<SocketSign>,
    pub(crate) kernel: KernelSigns,
    /// Whether any service of the process takes clients, examined or not.
    pub(crate) is_serving: bool,
}

impl Case {
    /// The services that take clients.
    pub(crate) fn serving(&self) -> impl Iterator<Item = &ServiceSigns> {
        self.services.iter().filter(|service| !service.is_draining)
    }

    /// The command line that sends this command to the process, by a service that takes clients if there is
    /// one.
    pub(crate) fn command(&self, text: &str) -> String {
        let service = self.serving().next().or_else(|| self.services.first());
        service.map_or_else(String::new, |service| service.command(text))
    }
}
