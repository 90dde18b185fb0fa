//! The services that operators can reach in this process, and which of them a word means.
//!
//! Knows: names, addresses, what may be done to each service. Never: sessions, the protocol, how a list looks.
//! Source: docs/control.md, "Several services in one process".

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::thread;
use std::time::Duration;

use crate::control::argument::HostPort;
use crate::control::directory::{Place, process_name};
use crate::control::endpoint::Names;
use crate::observe::Log;
use crate::sched::{Addresses, ChannelKey, SessionSnapshot, SharedTable, Snapshot, Survey};

/// Between two pieces of a survey.
const LET_IN: Duration = Duration::from_micros(100);

/// One service, as far as operators are concerned. The closures are called without the table's lock.
#[allow(clippy::type_complexity, reason = "a closure's type is plainest where it is used")]
pub struct ManagedService {
    /// What it is called, if it has a name.
    pub name: RwLock<Option<String>>,
    /// Where it listens.
    pub listen: Vec<SocketAddr>,
    /// Its one table.
    pub table: SharedTable,
    /// Looks up an address; may take its time.
    pub resolve: Arc<dyn Fn(&HostPort) -> io::Result<Addresses> + Send + Sync>,
    /// Closes the TCP listeners and lets the connections live on; `true` = done. Called with the entry gone already, and
    /// perhaps more than once.
    pub kill: Arc<dyn Fn() -> bool + Send + Sync>,
    /// Closes what is left of the connections after so long; 0: now. Called after `kill` has worked.
    pub end: Arc<dyn Fn(Duration) + Send + Sync>,
    /// What only the data plane can do.
    pub plane: Plane,
    /// The command line that starts the service with the channels of the snapshot.
    pub command_line: Arc<dyn Fn(&Snapshot) -> String + Send + Sync>,
    /// What is otherwise than the file has it; `None`: it was not made of a file.
    pub differences: Option<Arc<dyn Fn(&Snapshot) -> Vec<String> + Send + Sync>>,
    /// The time since the start of the instance.
    pub now: Arc<dyn Fn() -> Duration + Send + Sync>,
    /// Where changes are told, with the uid of who made them.
    pub log: Log,
    /// `kill` has worked.
    pub killed: AtomicBool,
}

impl fmt::Debug for ManagedService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service")
            .field("name", &self.name())
            .field("listen", &self.listen)
            .finish_non_exhaustive()
    }
}

/// What only the data plane can do. Called without the table's lock.
#[derive(Clone)]
#[allow(clippy::type_complexity, reason = "a closure's type is plainest where it is used")]
pub struct Plane {
    /// Closes the connections of a channel; how many there were.
    pub close_connections: Arc<dyn Fn(ChannelKey) -> usize + Send + Sync>,
    /// Closes one connection; `false` = there is none of that number.
    pub close_session: Arc<dyn Fn(u64) -> bool + Send + Sync>,
    /// All connections, or those of a channel.
    pub sessions: Arc<dyn Fn(Option<ChannelKey>) -> Vec<SessionSnapshot> + Send + Sync>,
    /// The table was changed.
    pub changed: Arc<dyn Fn() + Send + Sync>,
    /// Clients accepted and not yet closed.
    pub connections: Arc<dyn Fn() -> usize + Send + Sync>,
}

/// One line of `services`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceSnapshot {
    /// Its name, if it has one.
    pub name: Option<String>,
    /// Where it listens.
    pub listen: Vec<SocketAddr>,
    /// Channels that are enabled and up.
    pub up: usize,
    /// All channels.
    pub channels: usize,
    /// Clients accepted and not yet closed.
    pub connections: usize,
    /// It takes no clients any more.
    pub is_draining: bool,
    /// All its channels are paused.
    pub is_paused: bool,
    /// An operator has changed it since its file was read; `None`: it was not made of a file.
    pub differs: Option<bool>,
}

impl ManagedService {
    /// What `services` says of it.
    pub(crate) fn snapshot(&self) -> ServiceSnapshot {
        let ((up, channels), is_paused) = {
            let table = self.table.lock_at((self.now)());
            (table.up_and_all(), table.is_paused())
        };
        let differs = self.differences.as_ref().map(|differences| !differences(&self.survey()).is_empty());
        ServiceSnapshot {
            differs,
            name: self.name(),
            listen: self.listen.clone(),
            up,
            channels,
            connections: (self.plane.connections)(),
            is_draining: self.is_killed(),
            is_paused,
        }
    }

    /// All channels. Clients wait for the table's lock for a piece of it at most, however many channels there are.
    pub(crate) fn survey(&self) -> Snapshot {
        let mut survey = Survey::default();
        while self.table.lock_at((self.now)()).survey(&mut survey) {
            // The lock goes to whoever asks for it first, and one who waits has to wake up to ask.
            thread::sleep(LET_IN);
        }
        survey.finish()
    }

    pub(crate) fn is_killed(&self) -> bool {
        self.killed.load(Ordering::SeqCst)
    }

    pub(crate) fn is_present(&self) -> bool {
        !self.is_killed() || (self.plane.connections)() > 0
    }

    /// What it is called, if it has a name.
    pub(crate) fn name(&self) -> Option<String> {
        self.name.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Gives it another name.
    pub fn rename(&self, name: Option<&str>) {
        *self.name.write().unwrap_or_else(PoisonError::into_inner) = name.map(str::to_owned);
    }

    /// The names of its entries.
    pub(crate) fn entries(&self) -> Vec<String> {
        Names { listen: self.listen.clone(), name: self.name() }.entries().collect()
    }

    /// Its name, or where it listens.
    pub(crate) fn label(&self) -> String {
        let address = || self.listen.first().map_or_else(|| "-".to_owned(), SocketAddr::to_string);
        self.name().unwrap_or_else(address)
    }
}

/// Why a word means no service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Unclear {
    /// There is none.
    Unknown,
    /// There are several: their labels.
    Several(Vec<String>),
}

/// What may be done to the whole process. Called without any lock.
#[derive(Clone)]
#[allow(clippy::type_complexity, reason = "a closure's type is plainest where it is used")]
pub struct ProcessHands {
    /// `reload`, with `clean` if that is true: what has changed, line by line, or why nothing has.
    pub reload: Arc<dyn Fn(bool) -> Result<Vec<String>, String> + Send + Sync>,
}

impl fmt::Debug for ProcessHands {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProcessHands").finish_non_exhaustive()
    }
}

/// All services of the process.
#[derive(Debug)]
pub struct Services {
    all: RwLock<Vec<Arc<ManagedService>>>,
    pub(crate) process: ProcessHands,
}

impl Services {
    /// These, in the order in which `services` lists them.
    pub fn new(services: Vec<Arc<ManagedService>>, process: ProcessHands) -> Self {
        Self { all: RwLock::new(services), process }
    }

    /// These from now on, and behind them those that still have connections.
    pub(crate) fn set(&self, services: Vec<Arc<ManagedService>>) {
        let mut all = self.all.write().unwrap_or_else(PoisonError::into_inner);
        let is_among = |one: &Arc<ManagedService>| services.iter().any(|other| Arc::ptr_eq(one, other));
        let left: Vec<_> =
            all.iter().filter(|one| one.is_killed() && one.is_present() && !is_among(one)).cloned().collect();
        *all = services.into_iter().chain(left).collect();
    }

    /// All that there are, those included that are gone and nobody has looked since.
    pub(crate) fn all(&self) -> Vec<Arc<ManagedService>> {
        self.all.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Those that there still are: one that was killed goes with its last connection.
    pub(crate) fn present(&self) -> Vec<Arc<ManagedService>> {
        self.all().into_iter().filter(|one| one.is_present()).collect()
    }

    /// Is there more than one?
    pub(crate) fn are_several(&self) -> bool {
        let all = self.all.read().unwrap_or_else(PoisonError::into_inner);
        all.iter().filter(|one| one.is_present()).nth(1).is_some()
    }

    /// The one that a session begins with: it takes clients, if any does, or has some left, if any has.
    pub(crate) fn first(&self) -> Option<Arc<ManagedService>> {
        let all = self.all.read().unwrap_or_else(PoisonError::into_inner);
        let serving = all.iter().find(|one| !one.is_killed());
        serving.or_else(|| all.iter().find(|one| one.is_present())).or_else(|| all.first()).cloned()
    }

    /// Does none of them take clients any more?
    pub(crate) fn are_killed(&self) -> bool {
        let all = self.all.read().unwrap_or_else(PoisonError::into_inner);
        all.iter().all(|one| one.is_killed())
    }

    /// The one that a word means: its name, `ADDRESS:PORT`, or a port that only one has. Our process's name means the one that a
    /// session begins with.
    pub(crate) fn find(&self, word: &str) -> Result<Arc<ManagedService>, Unclear> {
        let all = self.present();
        if let Some(named) = all.iter().find(|service| service.name().as_deref() == Some(word)) {
            return Ok(Arc::clone(named));
        }
        if word == process_name(std::process::id()) {
            return self.first().ok_or(Unclear::Unknown);
        }
        let is_meant: Box<dyn Fn(&SocketAddr) -> bool> = if let Ok(address) = word.parse::<SocketAddr>() {
            Box::new(move |at| at.port() == address.port() && Place::from(*at) == Place::from(address))
        } else if let Ok(port) = word.parse::<u16>() {
            Box::new(move |at| at.port() == port)
        } else {
            return Err(Unclear::Unknown);
        };
        let meant: Vec<_> = all.iter().filter(|service| service.listen.iter().any(&is_meant)).collect();
        let is_wildcard =
            |service: &&&Arc<ManagedService>| service.listen.iter().any(|at| at.ip().is_unspecified());
        match meant.as_slice() {
            [] => Err(Unclear::Unknown),
            [one] => Ok(Arc::clone(one)),
            // As a port alone means the instance that listens on all addresses.
            several => match several.iter().filter(is_wildcard).collect::<Vec<_>>().as_slice() {
                [one] => Ok(Arc::clone(one)),
                _ => Err(Unclear::Several(several.iter().map(|service| service.label()).collect())),
            },
        }
    }
}
