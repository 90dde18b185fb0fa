//! The services of this process that operators can reach, and which of them a word means.
//!
//! Knows: names, addresses, what may be done to each service. Never: sessions, the protocol, how a list
//! looks.
//! Source: docs/control.md, "Several services in one process".

use std::collections::HashSet;
use std::fmt;
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
use crate::spec::{ListenSpan, LostSocket, ServiceSpec, SocketAccess};

/// The pause between two pieces of a survey.
const LET_IN: Duration = Duration::from_micros(100);

/// One service as operators can control it. Its closures are called without the table's lock.
#[allow(clippy::type_complexity, reason = "a closure's type is plainest where it is used")]
pub struct ManagedService {
    /// Its name, if it has one.
    pub name: RwLock<Option<String>>,
    /// Where it listens.
    pub listen: RwLock<Vec<ListenSpan>>,
    /// The addresses of its line where it could not listen, as text; `None`: it listens at all of them.
    pub not_listening: RwLock<Option<Arc<String>>>,
    /// Whether it listens nowhere; then `listen` says where it should.
    pub listens_nowhere: AtomicBool,
    /// Its Unix socket, if it listens on one.
    pub socket: Arc<RwLock<Option<Arc<dyn ListeningSocket>>>>,
    /// Its table.
    pub table: SharedTable,
    /// Looks up an address. This may take time.
    pub resolve: Arc<dyn Fn(&HostPort) -> Result<Addresses, String> + Send + Sync>,
    /// Closes the TCP listeners and leaves the connections open; `true` = done. Called after its entry was
    /// removed, and perhaps more than once.
    pub kill: Arc<dyn Fn() -> bool + Send + Sync>,
    /// Closes the remaining connections after this time; 0: now. Called after `kill` has worked.
    pub end: Arc<dyn Fn(Duration) + Send + Sync>,
    /// Actions that only the data plane can do.
    pub plane: Plane,
    /// The command line that starts the service with the channels of the snapshot.
    pub command_line: Arc<dyn Fn(&Snapshot) -> String + Send + Sync>,
    /// The service as its line describes it, with the channels of the line.
    pub spec: Arc<dyn Fn() -> ServiceSpec + Send + Sync>,
    /// What differs from its line in the file or on the command line.
    pub differences: Arc<dyn Fn(&Snapshot) -> Vec<String> + Send + Sync>,
    /// Whether it was made from a file.
    pub has_file: bool,
    /// The time since the start of the instance.
    pub now: Arc<dyn Fn() -> Duration + Send + Sync>,
    /// The log for changes; each is logged with the user id of the operator.
    pub log: Log,
    /// Whether `kill` has worked.
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

/// Actions that only the data plane can do. They are called without the table's lock.
#[derive(Clone)]
#[allow(clippy::type_complexity, reason = "a closure's type is plainest where it is used")]
pub struct Plane {
    /// Closes the connections of a channel and returns how many there were.
    pub close_connections: Arc<dyn Fn(ChannelKey) -> usize + Send + Sync>,
    /// Closes one connection; `false` = no connection has this number.
    pub close_session: Arc<dyn Fn(u64) -> bool + Send + Sync>,
    /// Closes the connections of clients from a network and returns how many there were.
    pub close_clients: Arc<dyn Fn(IpNet) -> usize + Send + Sync>,
    /// Starts to copy the bytes of one connection; `None` = no connection has this number.
    pub tap: Arc<dyn Fn(u64) -> Option<(TapStart, Tap)> + Send + Sync>,
    /// Lists all connections, or those of a channel.
    pub sessions: Arc<dyn Fn(Option<ChannelKey>) -> Vec<SessionSnapshot> + Send + Sync>,
    /// The connections that ended last, at most this many and as far as they are remembered; the latest comes
    /// last.
    pub ended: Arc<dyn Fn(usize) -> Vec<EndedSnapshot> + Send + Sync>,
    /// Looks up the names of all channels, or of one, and waits for the answers. `None`: they have not all
    /// come in time.
    pub look_up: Arc<dyn Fn(Option<ChannelKey>) -> Option<Vec<ResolvedName>> + Send + Sync>,
    /// Must be called after each change of the table.
    pub changed: Arc<dyn Fn() + Send + Sync>,
    /// Must be called after the table was asked whether a channel works: a check may be due.
    pub asked: Arc<dyn Fn() + Send + Sync>,
    /// Number of clients accepted and not yet closed.
    pub connections: Arc<dyn Fn() -> usize + Send + Sync>,
}

/// The result of looking up a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedName {
    /// The name as it was typed.
    pub name: String,
    /// Its addresses, or why there are none.
    pub addresses: Result<Vec<String>, String>,
}

/// One line of the answer to `services`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceSnapshot {
    /// Its name, if it has one.
    pub name: Option<String>,
    /// Where it listens.
    pub listen: Vec<ListenSpan>,
    /// Number of channels that are enabled and up.
    pub up: usize,
    /// Number of all channels.
    pub channels: usize,
    /// Number of clients accepted and not yet closed.
    pub connections: usize,
    /// Whether it takes no clients any more.
    pub is_draining: bool,
    /// Whether it has lost its port or the file of its Unix socket; then `listen` says which.
    pub listens_nowhere: bool,
    /// Whether all its channels are paused.
    pub is_paused: bool,
    /// Number of clients that wait for a channel.
    pub waiting: usize,
    /// Whether an operator has changed it since its file was read; `None`: it was not made from a file.
    pub differs: Option<bool>,
}

impl ServiceSnapshot {
    /// Whether it is the same as in its file, in a word; `None`: it was not made from a file.
    pub(crate) fn file_word(&self) -> Option<&'static str> {
        self.differs.map(|differs| if differs { "changed" } else { "same" })
    }
}

/// What the kernel says of a Unix socket that a service listens on.
pub trait ListeningSocket: std::fmt::Debug + Send + Sync {
    /// Why clients do not find the socket now; `None`: they find it, it has no file, or it is closed.
    fn lost(&self) -> Option<LostSocket>;
    /// The permissions of its file now; `None`: it has no file, or that cannot be known.
    fn access(&self) -> Option<SocketAccess>;
    /// Did somebody else make its file?
    fn has_foreign_file(&self) -> bool;
}

/// A network that is denied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeniedNet {
    /// To which service: its name, or where it listens.
    pub service: String,
    /// Whose clients.
    pub net: IpNet,
    /// For how much longer; `None`: until somebody ends it.
    pub left: Option<Duration>,
}

impl ManagedService {
    /// Its line of `services`.
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

    /// Its line of `services`, all its channels, and what differs from its line. The counts agree with the
    /// channels.
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

    /// All its channels. They are read piece by piece, so that clients never wait long for the table's lock,
    /// however many channels there are.
    pub(crate) fn survey(&self) -> Snapshot {
        let mut survey = Survey::default();
        while self.table.lock_at((self.now)()).survey(&mut survey) {
            // The mutex is not fair: a thread that waits for it has to wake up before it can take it, so we
            // leave it some time.
            thread::sleep(LET_IN);
        }
        survey.stale_lists = self.table.gate().stale_lists();
        survey.not_listening = self.not_listening();
        survey.lost_socket = self.lost_socket();
        survey.finish()
    }

    pub(crate) fn is_killed(&self) -> bool {
        self.killed.load(Ordering::SeqCst)
    }

    /// Has it lost its port, or does nobody find its Unix socket?
    pub(crate) fn listens_nowhere(&self) -> bool {
        self.listens_nowhere.load(Ordering::SeqCst) || self.lost_socket().is_some()
    }

    /// Why nobody finds its Unix socket just now. `None`: it has none, or clients find it.
    pub(crate) fn lost_socket(&self) -> Option<LostSocket> {
        self.with_socket(|socket| socket.lost())
    }

    /// What there is to know of its Unix socket, if it has one.
    pub(crate) fn with_socket<T>(&self, ask: impl FnOnce(&dyn ListeningSocket) -> Option<T>) -> Option<T> {
        let socket = self.socket.read().unwrap_or_else(PoisonError::into_inner).clone();
        ask(&*socket?)
    }

    /// The addresses of its line where it does not listen, as text; `None`: it listens at all of them.
    pub(crate) fn not_listening(&self) -> Option<Arc<String>> {
        self.not_listening.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Can the next client be served?
    pub(crate) fn is_ready(&self) -> bool {
        !self.is_killed()
            && self.not_listening().is_none()
            && self.lost_socket().is_none()
            && self.table.lock_at((self.now)()).has_up()
    }

    /// The number of channels that are enabled and up, and the number of all.
    pub(crate) fn up_and_all(&self) -> (usize, usize) {
        self.table.lock_at((self.now)()).up_and_all()
    }

    pub(crate) fn is_present(&self) -> bool {
        !self.is_killed() || (self.plane.connections)() > 0
    }

    /// Its name, if it has one.
    pub(crate) fn name(&self) -> Option<String> {
        self.name.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Where it listens; at least one address.
    pub fn listen(&self) -> Vec<ListenSpan> {
        self.listen.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sets where it listens from now on. If that is nowhere, operators still find it by `place`. `missing`:
    /// addresses of its line that it could not have.
    pub fn set_listen(&self, listen: Vec<ListenSpan>, place: ListenSpan, missing: &[ListenSpan]) {
        self.listens_nowhere.store(listen.is_empty(), Ordering::SeqCst);
        let listen = if listen.is_empty() { vec![place] } else { listen };
        *self.listen.write().unwrap_or_else(PoisonError::into_inner) = listen;
        let all: Vec<String> = missing.iter().map(ListenSpan::to_string).collect();
        let missing = (!all.is_empty()).then(|| Arc::new(all.join(", ")));
        *self.not_listening.write().unwrap_or_else(PoisonError::into_inner) = missing;
    }

    /// Changes its name.
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

/// Reads ports such as `80` or `80-90`.
fn ports(word: &str) -> Option<(u16, u16)> {
    let (first, last) = word.split_once('-').unwrap_or((word, word));
    Some((first.parse().ok()?, last.parse().ok()?))
}

/// Why a word does not name a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Unclear {
    /// No service matches.
    Unknown,
    /// Several services match. These are their labels.
    Several(Vec<String>),
}

/// What a process has taken over from its predecessor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CarriedCount {
    /// Number of connections that were handed over.
    pub carried: u64,
    /// Number of connections that the predecessor still has; `None`: not known any more.
    pub draining: Option<u64>,
    /// The process id of the predecessor.
    pub pid: u32,
}

/// Actions on the whole process. They are called without any lock.
#[derive(Clone)]
#[allow(clippy::type_complexity, reason = "a closure's type is plainest where it is used")]
pub struct ProcessHands {
    /// Reads the files again; `true`: also drops what operators changed. Returns what has changed, line by
    /// line, or why nothing has. `None`: another process is taking over.
    pub reload: Arc<dyn Fn(bool) -> Result<Vec<String>, Option<String>> + Send + Sync>,
    /// Opens the access log again and returns whether that worked; `None`: there is no access log.
    pub reopen: Arc<dyn Fn() -> Option<Result<(), String>> + Send + Sync>,
    /// Hands over to a new process, which runs the program at this path or (`None`) our own. Returns what was
    /// handed over, or why nothing was.
    pub upgrade: Arc<dyn Fn(Option<Vec<u8>>) -> Result<String, String> + Send + Sync>,
    /// Hands the ports over to the process with this id, at the other end of the stream. Returns the outcome
    /// in words.
    pub give: Arc<dyn Fn(UnixStream, u32) -> Result<String, String> + Send + Sync>,
    /// Called when the last service was stopped and takes no clients any more.
    pub stopped: Arc<dyn Fn() + Send + Sync>,
    /// Tells a handover in progress to stop, as SIGTERM would. Does not wait for that.
    pub call_off: Arc<dyn Fn() + Send + Sync>,
    /// Waits for the end of a handover that was called off: until the other process has gone, or this one.
    pub await_called_off: Arc<dyn Fn() + Send + Sync>,
    /// Facts for `doctor` that only the process itself knows.
    pub signs: Arc<dyn Fn() -> ProcessSigns + Send + Sync>,
    /// Looks up a host name: its addresses, or why there are none. May take time.
    pub look_up: Arc<dyn Fn(&str) -> Result<Vec<IpAddr>, String> + Send + Sync>,
    /// What was taken over from another process; `None`: nothing.
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
    /// Services that drain while another one has their name, and the label of each meanwhile.
    told_apart: Mutex<Vec<(Weak<ManagedService>, String)>>,
    pub(crate) process: ProcessHands,
}

impl Services {
    /// The services in the order in which `services` lists them.
    pub fn new(services: Vec<Arc<ManagedService>>, process: ProcessHands) -> Self {
        Self { all: RwLock::new(services), told_apart: Mutex::default(), process }
    }

    /// Replaces the services. Stopped ones that still have connections stay, after the new ones.
    pub(crate) fn set(&self, services: Vec<Arc<ManagedService>>) {
        let mut all = self.all.write().unwrap_or_else(PoisonError::into_inner);
        let is_among = |one: &Arc<ManagedService>| services.iter().any(|other| Arc::ptr_eq(one, other));
        let left: Vec<_> =
            all.iter().filter(|one| one.is_killed() && one.is_present() && !is_among(one)).cloned().collect();
        *all = services.into_iter().chain(left).collect();
    }

    /// All services, including stopped ones without connections that have not been removed yet.
    pub(crate) fn all(&self) -> Vec<Arc<ManagedService>> {
        self.all.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The services that still exist: a stopped one exists until its last connection ends.
    pub(crate) fn present(&self) -> Vec<Arc<ManagedService>> {
        self.all().into_iter().filter(|one| one.is_present()).collect()
    }

    /// The services that still exist, each with a unique label. Those that take clients come first, under
    /// their own names. A service that drains while a successor has its name is `web (draining)`, the next
    /// one `web (draining 2)`, and each keeps its label as long as it exists.
    pub(crate) fn labelled(&self) -> Vec<(String, Arc<ManagedService>)> {
        let mut all = self.present();
        all.sort_by_key(|service| service.is_killed());
        let mut told_apart = self.told_apart.lock().unwrap_or_else(PoisonError::into_inner);
        told_apart.retain(|(one, _)| {
            one.upgrade().is_some_and(|one| all.iter().any(|other| Arc::ptr_eq(&one, other)))
        });
        // A label in use is not given to another service.
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

    /// The service that a word means; here the word may also be one of the [labels](Self::labelled).
    pub(crate) fn find_labelled(&self, word: &str) -> Result<Arc<ManagedService>, Unclear> {
        let labelled =
            || self.labelled().into_iter().find(|(label, _)| label == word).map(|(_, service)| service);
        self.find(word).or_else(|unclear| labelled().ok_or(unclear))
    }

    /// Is there more than one service?
    pub(crate) fn are_several(&self) -> bool {
        let all = self.all.read().unwrap_or_else(PoisonError::into_inner);
        all.iter().filter(|one| one.is_present()).nth(1).is_some()
    }

    /// The service that a session begins with: the first that takes clients, else the first that has
    /// connections, else the first.
    pub(crate) fn first(&self) -> Option<Arc<ManagedService>> {
        let all = self.all.read().unwrap_or_else(PoisonError::into_inner);
        let serving = all.iter().find(|one| !one.is_killed());
        serving.or_else(|| all.iter().find(|one| one.is_present())).or_else(|| all.first()).cloned()
    }

    /// Marks all services as stopped, whatever operators do.
    pub fn retire(&self) {
        self.all().iter().for_each(|one| one.killed.store(true, Ordering::SeqCst));
    }

    /// Have all services been stopped?
    pub(crate) fn are_killed(&self) -> bool {
        let all = self.all.read().unwrap_or_else(PoisonError::into_inner);
        all.iter().all(|one| one.is_killed())
    }

    /// The service that a word means: its name, `ADDRESS:PORT`, or a port that only one service has. The name
    /// of our process means the service that a session begins with.
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
            // Without an address, a port means the service that listens on all addresses.
            several => match several.iter().filter(is_wildcard).collect::<Vec<_>>().as_slice() {
                [one] => Ok(Arc::clone(one)),
                _ => Err(Unclear::Several(several.iter().map(|service| service.label()).collect())),
            },
        }
    }
}
