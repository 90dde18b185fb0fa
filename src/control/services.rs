//! The services that operators can reach in this process, and which of them a word means.
//!
//! Knows: names, addresses, what may be done to each service. Never: sessions, the protocol, how a list looks.
//! Source: docs/control.md, "Several services in one process".

use std::collections::HashSet;
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};
use std::thread;
use std::time::Duration;

use ipnet::IpNet;

use crate::control::argument::HostPort;
use crate::control::directory::{Place, process_name};
use crate::control::doctor::ProcessSigns;
use crate::control::endpoint::Names;
use crate::observe::{Log, Tap, TapStart};
use crate::sched::{Addresses, ChannelKey, EndedSnapshot, SessionSnapshot, SharedTable, Snapshot, Survey};
use crate::spec::{ListenSpan, ServiceSpec};

/// Between two pieces of a survey.
const LET_IN: Duration = Duration::from_micros(100);

/// One service, as far as operators are concerned. The closures are called without the table's lock.
#[allow(clippy::type_complexity, reason = "a closure's type is plainest where it is used")]
pub struct ManagedService {
    /// What it is called, if it has a name.
    pub name: RwLock<Option<String>>,
    /// Where it listens.
    pub listen: RwLock<Vec<ListenSpan>>,
    /// Where its line has it listen besides, and it does not.
    pub not_listening: RwLock<Option<Arc<String>>>,
    /// It listens nowhere: `listen` says where it should.
    pub listens_nowhere: AtomicBool,
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
    /// What it was asked for, with the channels of its line.
    pub spec: Arc<dyn Fn() -> ServiceSpec + Send + Sync>,
    /// What is otherwise than its line has it, in the file or on the command line.
    pub differences: Arc<dyn Fn(&Snapshot) -> Vec<String> + Send + Sync>,
    /// It was made of a file.
    pub has_file: bool,
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
            .field("listen", &self.listen())
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
    /// Closes the connections of clients from a network; how many there were.
    pub close_clients: Arc<dyn Fn(IpNet) -> usize + Send + Sync>,
    /// Shows the bytes of one connection from now on; `None` = there is none of that number.
    pub tap: Arc<dyn Fn(u64) -> Option<(TapStart, Tap)> + Send + Sync>,
    /// All connections, or those of a channel.
    pub sessions: Arc<dyn Fn(Option<ChannelKey>) -> Vec<SessionSnapshot> + Send + Sync>,
    /// The last so many connections that have ended, as far as they are remembered, the last one last.
    pub ended: Arc<dyn Fn(usize) -> Vec<EndedSnapshot> + Send + Sync>,
    /// Looks up the names of all channels, or of one, and waits for the answers. `None`: they have not all come in time.
    pub look_up: Arc<dyn Fn(Option<ChannelKey>) -> Option<Vec<ResolvedName>> + Send + Sync>,
    /// The table was changed.
    pub changed: Arc<dyn Fn() + Send + Sync>,
    /// Clients accepted and not yet closed.
    pub connections: Arc<dyn Fn() -> usize + Send + Sync>,
}

/// A name that was looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedName {
    /// The name as it was typed.
    pub name: String,
    /// Its addresses, or why there are none.
    pub addresses: Result<Vec<String>, String>,
}

/// One line of `services`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceSnapshot {
    /// Its name, if it has one.
    pub name: Option<String>,
    /// Where it listens.
    pub listen: Vec<ListenSpan>,
    /// Channels that are enabled and up.
    pub up: usize,
    /// All channels.
    pub channels: usize,
    /// Clients accepted and not yet closed.
    pub connections: usize,
    /// It takes no clients any more.
    pub is_draining: bool,
    /// It has lost its port, and `listen` says which.
    pub listens_nowhere: bool,
    /// All its channels are paused.
    pub is_paused: bool,
    /// Clients that wait for a channel.
    pub waiting: usize,
    /// An operator has changed it since its file was read; `None`: it was not made of a file.
    pub differs: Option<bool>,
}

impl ServiceSnapshot {
    /// Whether it is as its file has it; `None`: it was not made of a file.
    pub(crate) fn file_word(&self) -> Option<&'static str> {
        self.differs.map(|differs| if differs { "changed" } else { "same" })
    }
}

impl ManagedService {
    /// What `services` says of it.
    pub(crate) fn snapshot(&self) -> ServiceSnapshot {
        let ((up, channels), is_paused, waiting) = {
            let table = self.table.lock_at((self.now)());
            (table.up_and_all(), table.is_paused(), table.waiting())
        };
        let differs = self.has_file.then(|| !(self.differences)(&self.survey()).is_empty());
        ServiceSnapshot {
            differs,
            name: self.name(),
            listen: self.listen(),
            up,
            channels,
            connections: (self.plane.connections)(),
            is_draining: self.is_killed(),
            listens_nowhere: self.listens_nowhere(),
            is_paused,
            waiting,
        }
    }

    /// What `services` says of it, all its channels, and what is otherwise than its line has it. What is said of
    /// the service and of its channels goes together.
    pub(crate) fn whole(&self) -> (ServiceSnapshot, Snapshot, Option<Vec<String>>) {
        let table = self.survey();
        let differences = (self.differences)(&table);
        let waiting = self.table.lock_at((self.now)()).waiting();
        let channels = || table.groups.iter().flat_map(|group| &group.channels);
        let service = ServiceSnapshot {
            differs: self.has_file.then_some(!differences.is_empty()),
            name: self.name(),
            listen: self.listen(),
            up: channels().filter(|channel| channel.is_up()).count(),
            channels: channels().count(),
            connections: (self.plane.connections)(),
            is_draining: self.is_killed(),
            listens_nowhere: self.listens_nowhere(),
            is_paused: table.paused,
            waiting,
        };
        (service, table, Some(differences))
    }

    /// All channels. Clients wait for the table's lock for a piece of it at most, however many channels there are.
    pub(crate) fn survey(&self) -> Snapshot {
        let mut survey = Survey::default();
        while self.table.lock_at((self.now)()).survey(&mut survey) {
            // The lock goes to whoever asks for it first, and one who waits has to wake up to ask.
            thread::sleep(LET_IN);
        }
        survey.stale_lists = self.table.gate().stale_lists();
        survey.not_listening = self.not_listening();
        survey.finish()
    }

    pub(crate) fn is_killed(&self) -> bool {
        self.killed.load(Ordering::SeqCst)
    }

    /// Has it lost the port?
    pub(crate) fn listens_nowhere(&self) -> bool {
        self.listens_nowhere.load(Ordering::SeqCst)
    }

    /// Where its line has it listen, and it does not.
    pub(crate) fn not_listening(&self) -> Option<Arc<String>> {
        self.not_listening.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Can the next client be served?
    pub(crate) fn is_ready(&self) -> bool {
        !self.is_killed() && self.not_listening().is_none() && self.table.lock_at((self.now)()).has_up()
    }

    /// How many of its channels are enabled and up, and how many there are.
    pub(crate) fn up_and_all(&self) -> (usize, usize) {
        self.table.lock_at((self.now)()).up_and_all()
    }

    pub(crate) fn is_present(&self) -> bool {
        !self.is_killed() || (self.plane.connections)() > 0
    }

    /// What it is called, if it has a name.
    pub(crate) fn name(&self) -> Option<String> {
        self.name.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Where it listens; at least one.
    pub fn listen(&self) -> Vec<ListenSpan> {
        self.listen.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// It listens there from now on; nowhere, it is found by its `place` still.
    /// `missing`: where its line has it listen besides, which could not be had.
    pub fn set_listen(&self, listen: Vec<ListenSpan>, place: ListenSpan, missing: &[ListenSpan]) {
        self.listens_nowhere.store(listen.is_empty(), Ordering::SeqCst);
        let listen = if listen.is_empty() { vec![place] } else { listen };
        *self.listen.write().unwrap_or_else(PoisonError::into_inner) = listen;
        let all: Vec<String> = missing.iter().map(ListenSpan::to_string).collect();
        let missing = (!all.is_empty()).then(|| Arc::new(all.join(", ")));
        *self.not_listening.write().unwrap_or_else(PoisonError::into_inner) = missing;
    }

    /// Gives it another name.
    pub fn rename(&self, name: Option<&str>) {
        *self.name.write().unwrap_or_else(PoisonError::into_inner) = name.map(str::to_owned);
    }

    /// The names of its entries.
    pub(crate) fn entries(&self) -> Vec<String> {
        Names { listen: self.listen(), name: self.name() }.entries().collect()
    }

    /// Its name, or where it listens.
    pub(crate) fn label(&self) -> String {
        let address = || self.listen().first().map_or_else(|| "-".to_owned(), ListenSpan::to_string);
        self.name().unwrap_or_else(address)
    }
}

/// `80`, or `80-90`.
fn ports(word: &str) -> Option<(u16, u16)> {
    let (first, last) = word.split_once('-').unwrap_or((word, word));
    Some((first.parse().ok()?, last.parse().ok()?))
}

/// Why a word means no service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Unclear {
    /// There is none.
    Unknown,
    /// There are several: their labels.
    Several(Vec<String>),
}

/// What a process has taken over from the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CarriedCount {
    /// Connections that came over.
    pub carried: u64,
    /// Connections that the process before still has; `None`: nobody knows any more.
    pub draining: Option<u64>,
    /// The process before.
    pub pid: u32,
}

/// What may be done to the whole process. Called without any lock.
#[derive(Clone)]
#[allow(clippy::type_complexity, reason = "a closure's type is plainest where it is used")]
pub struct ProcessHands {
    /// `reload`, with `clean` if that is true: what has changed, line by line, or why nothing has.
    pub reload: Arc<dyn Fn(bool) -> Result<Vec<String>, String> + Send + Sync>,
    /// Opens the access log again, if there is one: whether that has worked.
    pub reopen: Arc<dyn Fn() -> Option<Result<(), String>> + Send + Sync>,
    /// `upgrade`, to the program at this path if there is one: what was handed over, or why nothing was.
    pub upgrade: Arc<dyn Fn(Option<Vec<u8>>) -> Result<String, String> + Send + Sync>,
    /// Hands the ports over to the process of this number, at the other end of the stream: what came of it.
    pub give: Arc<dyn Fn(UnixStream, u32) -> Result<String, String> + Send + Sync>,
    /// The last service was stopped, and takes no clients any more.
    pub stopped: Arc<dyn Fn() + Send + Sync>,
    /// What hands everything over to another process is to stop, as it stops for SIGTERM. Does not wait for it, ...
    pub call_off: Arc<dyn Fn() + Send + Sync>,
    /// ... as this does, if it was called off: until the other process has gone, or this one.
    pub await_called_off: Arc<dyn Fn() + Send + Sync>,
    /// What only the process knows of itself, for `doctor`.
    pub signs: Arc<dyn Fn() -> ProcessSigns + Send + Sync>,
    /// What a host means, or why it means nothing. May take its time.
    pub look_up: Arc<dyn Fn(&str) -> Result<Vec<IpAddr>, String> + Send + Sync>,
    /// What was taken over from another process, if anything was.
    pub carried: Arc<dyn Fn() -> Option<CarriedCount> + Send + Sync>,
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
    /// Those that drain beside others of their name, and what they are called meanwhile.
    told_apart: Mutex<Vec<(Weak<ManagedService>, String)>>,
    pub(crate) process: ProcessHands,
}

impl Services {
    /// These, in the order in which `services` lists them.
    pub fn new(services: Vec<Arc<ManagedService>>, process: ProcessHands) -> Self {
        Self { all: RwLock::new(services), told_apart: Mutex::default(), process }
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

    /// Those that there still are, each with a label that no other has. Those that take clients come first and are called as they are called; who
    /// drains beside a successor of its name is `web (draining)`, another one `web (draining 2)`, and each keeps that as long as it is there.
    pub(crate) fn labelled(&self) -> Vec<(String, Arc<ManagedService>)> {
        let mut all = self.present();
        all.sort_by_key(|service| service.is_killed());
        let mut told_apart = self.told_apart.lock().unwrap_or_else(PoisonError::into_inner);
        told_apart.retain(|(one, _)| {
            one.upgrade().is_some_and(|one| all.iter().any(|other| Arc::ptr_eq(&one, other)))
        });
        // What one has been called is not given to another while it is there.
        let mut taken: HashSet<String> = told_apart.iter().map(|(_, label)| label.clone()).collect();
        let mut labelled = Vec::new();
        for service in all {
            let known = told_apart.iter().find(|(one, _)| std::ptr::eq(one.as_ptr(), Arc::as_ptr(&service)));
            let label = match known {
                Some((_, label)) => label.clone(),
                None => {
                    let own = service.label();
                    let apart = (1_u64..).map(|number| match number {
                        1 => format!("{own} (draining)"),
                        number => format!("{own} (draining {number})"),
                    });
                    let free = std::iter::once(own.clone()).chain(apart).find(|label| !taken.contains(label));
                    let label = free.unwrap_or_else(|| own.clone());
                    if label != own {
                        told_apart.push((Arc::downgrade(&service), label.clone()));
                    }
                    label
                }
            };
            taken.insert(label.clone());
            labelled.push((label, service));
        }
        labelled
    }

    /// The one that a word means for those who see [labels](Self::labelled), too.
    pub(crate) fn find_labelled(&self, word: &str) -> Result<Arc<ManagedService>, Unclear> {
        let labelled =
            || self.labelled().into_iter().find(|(label, _)| label == word).map(|(_, service)| service);
        self.find(word).or_else(|unclear| labelled().ok_or(unclear))
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

    /// None takes clients any more, whatever operators say.
    pub fn retire(&self) {
        self.all().iter().for_each(|one| one.killed.store(true, Ordering::SeqCst));
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
        let is_meant: Box<dyn Fn(&ListenSpan) -> bool> = if let Ok(typed) = word.parse::<ListenSpan>() {
            let (first, last) = typed.ports().into_inner();
            let has = move |ports: RangeInclusive<u16>| ports.contains(&first) && ports.contains(&last);
            let place = |at: ListenSpan| at.first().net().map(Place::from);
            match typed.unix() {
                Some(_) => Box::new(move |at| *at == typed),
                None => Box::new(move |at| has(at.ports()) && place(*at) == place(typed)),
            }
        } else if let Some((first, last)) = ports(word) {
            Box::new(move |at| at.ports().contains(&first) && at.ports().contains(&last))
        } else {
            return Err(Unclear::Unknown);
        };
        let meant: Vec<_> = all.iter().filter(|service| service.listen().iter().any(&is_meant)).collect();
        let is_wildcard = |service: &&&Arc<ManagedService>| {
            service.listen().iter().any(|at| at.ip().is_some_and(|ip| ip.is_unspecified()))
        };
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
