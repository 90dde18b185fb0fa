//! The running services of the process, each with the line that it was made from.
//!
//! Knows: which services run, how a service begins, what others may see of it. Never: what a reload makes of
//! them, signals, commands.
//! Source: docs/reload.md.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::thread;
use std::time::Duration;

use super::hooks::ProgramHooks;
use super::keeper::ToKeep;
use super::lists::ListWatch;
use super::lookup::{Known, Resolved};
use super::plan::LinedGroup;
use super::prepared::{Parts, Prepared, Served};
use super::state::{Fact, KeptService, KeptState};
use super::surveyed::survey;
use super::{Failure, circles, restore, ways};
use crate::config::Files;
use crate::control::{ManagedService, Register, WaySign};
use crate::names::Resolver;
use crate::net::Phase;
use crate::net::server::{Running, Server};
use crate::observe::{Event, Log, Severity};
use crate::probe::{Alarm, Minder};
use crate::sched::{ChannelKey, ClientRates, SharedTable};
use crate::spec::{Address, ListenHost, ListenSpan, ProcessSpec, ServiceSpec};
use crate::sys::descriptors::Taken;
use crate::sys::listen::{Listener, ListenerHandle};
use crate::sys::{Clock, Outgoing};

mod carrying;
mod clearing;
mod edit;
pub(super) mod estate;
mod moving;
mod reloading;
#[cfg(test)]
mod trials;

/// Maximum number of changes that are logged one by one.
const MOST_TOLD: usize = 100;
/// The pause between two pieces of work on a table that clients use.
const LET_IN: Duration = Duration::from_micros(100);
/// Number of channels read under one lock when their names are gathered.
const NAMES_LOOKED_AT: usize = 256;
/// How long a table may be locked at once while it is being changed.
const HOLD: Duration = Duration::from_micros(300);

/// The files that services come from.
#[derive(Debug, Clone)]
pub(super) struct Source {
    pub(super) files: Files,
    /// The directory that their paths are relative to.
    pub(super) directory: PathBuf,
}

impl Source {
    /// The paths of its files and directories.
    pub(super) fn paths(&self) -> impl Iterator<Item = PathBuf> {
        self.files.paths.iter().map(|path| self.directory.join(path))
    }

    /// Is this one of the files, or would it be read as a member of one of the directories?
    pub(super) fn has(&self, path: &Path) -> bool {
        let same = |one: &Path, other: &Path| match (fs::canonicalize(one), fs::canonicalize(other)) {
            (Ok(one), Ok(other)) => one == other,
            _ => false,
        };
        let is_member = path.extension().is_some_and(|end| end == "conf");
        self.files.paths.iter().map(|file| self.directory.join(file)).any(|file| {
            same(&file, path) || (is_member && path.parent().is_some_and(|parent| same(&file, parent)))
        })
    }
}

/// The parts with which all services are made.
pub(super) struct Tools {
    pub(super) server: Server,
    pub(super) minder: Minder,
    pub(super) names: Resolver,
    pub(super) hooks: ProgramHooks,
    pub(super) lists: ListWatch,
    pub(super) rates: Arc<ClientRates>,
    pub(super) clock: Clock,
    pub(super) log: Log,
    pub(super) workers: usize,
    pub(super) seed: u64,
}

/// A service as its line describes it. Shared with those who report on it.
pub(super) struct Written {
    pub(super) spec: ServiceSpec,
    pub(super) groups: Vec<LinedGroup>,
}

/// One service.
struct RosterEntry {
    written: Arc<RwLock<Written>>,
    served: Served,
    service: Arc<ManagedService>,
    /// The descriptors of its listeners, taken from the budget for clients. They are given back when the
    /// service is removed.
    descriptors: Option<Taken>,
    /// The position of its line in the files. `None`: it has no line any more.
    rank: Option<usize>,
}

/// What a reload reports.
#[derive(Default)]
struct ReloadNews {
    made: Vec<String>,
    /// What the files say but could not be carried out.
    missed: Vec<String>,
    /// What is as the files say, but hardly intended.
    warnings: Vec<String>,
}

/// Makes the operators' view of a service.
type Manage = Box<dyn Fn(&Served, &Arc<RwLock<Written>>) -> ManagedService + Send + Sync>;

/// The roster, including what can be used without the members' lock.
pub(super) struct Roster {
    tools: Tools,
    source: Option<Source>,
    register: OnceLock<Register>,
    members: Mutex<Members>,
    /// Copies for the state file, since a reload may hold the members' lock for long.
    watched: Mutex<Vec<Watched>>,
    /// How the operators' view of a service is made.
    manage: Manage,
    /// A hook that is called after each reload.
    done: Box<dyn Fn() + Send + Sync>,
    /// Whether a reload was asked for that has not begun.
    is_wanted: AtomicBool,
    /// Held by the thread that reloads on a signal.
    turn: Mutex<()>,
    /// Whether another process is about to take over or does so.
    is_frozen: AtomicBool,
    /// Listeners that were bound before it is certain that they are needed.
    bound: Mutex<BTreeMap<Address, Listener>>,
    /// Why the last reload failed; `None`: it did not.
    trouble: Mutex<Option<String>>,
}

/// One service as the state file sees it.
struct Watched {
    /// The addresses where its line wants it to listen.
    span: ListenSpan,
    /// The addresses where it listens, which may be others.
    listen: Vec<ListenSpan>,
    written: Arc<RwLock<Written>>,
    table: SharedTable,
    running: Running,
    outgoing: Outgoing,
}

struct Members {
    process: ProcessSpec,
    all: Vec<RosterEntry>,
}

/// A service, its channels as its line describes them, and the descriptors of its listeners.
type Made = (Prepared, Vec<LinedGroup>, Taken);

/// A service that is about to be served.
struct Coming {
    /// The position of its line in the files.
    number: usize,
    made: Made,
}

/// A service from a file that was read again.
struct Reread {
    spec: ServiceSpec,
    found: Resolved,
}

impl Roster {
    /// A roster without services.
    pub(super) fn new(
        tools: Tools,
        process: ProcessSpec,
        source: Option<Source>,
        manage: impl Fn(&Served, &Arc<RwLock<Written>>) -> ManagedService + Send + Sync + 'static,
        done: impl Fn() + Send + Sync + 'static,
    ) -> Self {
        Self {
            tools,
            source,
            register: OnceLock::new(),
            members: Mutex::new(Members { process, all: Vec::new() }),
            watched: Mutex::default(),
            manage: Box::new(manage),
            done: Box::new(done),
            is_wanted: AtomicBool::new(false),
            turn: Mutex::default(),
            is_frozen: AtomicBool::new(false),
            bound: Mutex::default(),
            trouble: Mutex::default(),
        }
    }

    fn members(&self) -> MutexGuard<'_, Members> {
        // After a panic, work goes on with the present state. Each service is a member from before its first
        // client until after its last one.
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Serves these services. Operators find them after [registering](Self::register).
    ///
    /// # Errors
    /// A listener cannot be watched.
    pub(super) fn open(&self, services: Vec<(Prepared, Vec<LinedGroup>)>) -> io::Result<()> {
        self.begin_lives(&services);
        self.open_as_they_are(services)
    }

    /// The health of channels starts unknown now, however long ago the tables were filled.
    fn begin_lives(&self, services: &[(Prepared, Vec<LinedGroup>)]) {
        let now = self.tools.clock.now();
        services.iter().for_each(|(one, _)| one.parts.table.lock_at(now).begin_life());
    }

    fn open_as_they_are(&self, services: Vec<(Prepared, Vec<LinedGroup>)>) -> io::Result<()> {
        let new = self.serve(services)?;
        // Their listeners were opened before there was a budget, so they are counted now.
        let budget = self.tools.server.budget();
        let counted = |member: RosterEntry| {
            let count = count_of(member.served.listeners.len());
            RosterEntry { descriptors: Some(budget.count_in(count)), ..member }
        };
        let mut members = self.members();
        members.all.extend(new.into_iter().map(counted));
        self.watch(&members.all);
        Ok(())
    }

    /// The services as operators see them.
    pub(super) fn services(&self) -> Vec<Arc<ManagedService>> {
        self.members().all.iter().map(|member| Arc::clone(&member.service)).collect()
    }

    fn watch(&self, members: &[RosterEntry]) {
        let watched = members.iter().map(|member| Watched {
            span: member.served.parts.span,
            listen: member.served.listen(),
            written: Arc::clone(&member.written),
            table: member.served.parts.table.clone(),
            running: member.served.running.clone(),
            outgoing: member.served.parts.outgoing.clone(),
        });
        *self.watched() = watched.collect();
        self.tools.lists.watch(members.iter().map(|member| member.served.parts.table.clone()));
    }

    fn watched(&self) -> MutexGuard<'_, Vec<Watched>> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The operators' changes that are to be kept. During a reload, lines and tables may not fit together;
    /// what is seen then refers to lines that no longer exist, so it does no harm. This is called again
    /// afterwards.
    pub(super) fn look(&self) -> ToKeep {
        let all: Vec<_> = self
            .watched()
            .iter()
            .map(|one| (one.span, Arc::clone(&one.written), one.table.clone(), one.running.phase()))
            .collect();
        let is_over = !all.is_empty() && all.iter().all(|(.., phase)| *phase != Phase::Serving);
        let services = all.into_iter().map(|(span, written, table, _)| {
            let now = survey(&table, self.tools.clock);
            let written = written.read().unwrap_or_else(PoisonError::into_inner);
            let mut facts = restore::observe(&written.groups, written.spec.later_policy, &now);
            let denied = table.gate().denied(self.tools.clock.now());
            facts.extend(denied.into_iter().map(|denial| Fact::Denied {
                net: denial.net,
                until: denial.until.map(|until| until.since_1970),
            }));
            let (place, last) = (span.first(), *span.ports().end());
            KeptService { place, last, name: written.spec.name.clone(), facts }
        });
        let services = services.filter(|service| !service.facts.is_empty()).collect();
        ToKeep { state: KeptState { services }, is_over }
    }

    /// Channels without a maxc that lead back to their own service now: where the service listens, and the
    /// text for operators.
    pub(super) fn circles(&self) -> Vec<(ListenSpan, String)> {
        let all: Vec<_> = self
            .watched()
            .iter()
            .map(|one| (one.listen.clone(), Arc::clone(&one.written), one.table.clone()))
            .collect();
        let junction = |(listen, written, table): &(Vec<ListenSpan>, Arc<RwLock<Written>>, SharedTable)| {
            let written = written.read().unwrap_or_else(PoisonError::into_inner);
            let name = written.spec.name.as_ref().map(|name| name.as_str().to_owned());
            drop(written);
            circles::Junction::at(name, listen.clone(), survey(table, self.tools.clock))
        };
        let junctions: Vec<_> = all.iter().map(junction).collect();
        let warnings = circles::warnings_of(&junctions).into_iter();
        warnings.filter_map(|(at, text)| Some((*junctions[at].listen.first()?, text))).collect()
    }

    /// Problems with the source addresses of connections: own addresses that this host lacks, and what is
    /// missing to use those of clients.
    pub(super) fn ways(&self) -> [Vec<WaySign>; 2] {
        let all: Vec<_> = self
            .watched()
            .iter()
            .filter_map(|one| Some((*one.listen.first()?, one.outgoing.clone(), one.table.clone())))
            .collect();
        let sources = all.iter().filter_map(|(listen, outgoing, _)| ways::source_sign(*listen, outgoing));
        let transparent = all.iter().filter(|(_, outgoing, _)| outgoing.transparent);
        let transparent = transparent.filter_map(|(listen, outgoing, table)| {
            ways::transparent_sign(*listen, outgoing, &survey(table, self.tools.clock))
        });
        [sources.collect(), transparent.collect()]
    }

    /// Has any service `--transparent`?
    pub(super) fn takes_addresses(&self) -> bool {
        self.watched().iter().any(|one| one.outgoing.transparent)
    }

    /// Logs what `--transparent` lacks for channels that came from the predecessor. They are served all the
    /// same.
    pub(super) fn warn_of_ways(self: &Arc<Self>) {
        if !self.takes_addresses() {
            return;
        }
        let roster = Arc::clone(self);
        // On a thread, so that clients do not wait for it. If there is none, only `doctor` shows it.
        let _ = thread::Builder::new().name("ways".into()).spawn(move || {
            let [_, lacks] = roster.ways();
            for sign in lacks {
                let text = format!("service {}: {}", sign.listen, ways::in_words(&sign));
                roster.tools.log.tell(&Event::Note { severity: Severity::Warning, text });
            }
        });
    }

    /// The group whose members may control the process, too.
    pub(super) fn control_group(&self) -> Option<String> {
        self.members().process.control_group.as_ref().map(|group| group.name.clone())
    }

    /// The settings of the process.
    pub(super) fn process(&self) -> ProcessSpec {
        self.members().process.clone()
    }

    /// The log for everything that is not about one service.
    pub(super) fn log(&self) -> &Log {
        &self.tools.log
    }

    /// The programs that receive events.
    pub(super) fn hooks(&self) -> &ProgramHooks {
        &self.tools.hooks
    }

    /// Sets where the services are listed for operators.
    pub(super) fn register(&self, register: Register) {
        let _ = self.register.set(register);
    }

    /// Have all services been stopped and their connections ended, and is no service about to start?
    pub(super) fn is_over(&self) -> bool {
        // If the lock is held, a reload may start services; its thread asks again afterwards.
        let is_over = |members: &Members| members.all.iter().all(RosterEntry::is_killed);
        self.members.try_lock().is_ok_and(|members| is_over(&members)) && !self.tools.server.has_services()
    }

    /// Do the services come from files?
    pub(super) fn has_file(&self) -> bool {
        self.source.is_some()
    }

    fn serve(&self, services: Vec<(Prepared, Vec<LinedGroup>)>) -> io::Result<Vec<RosterEntry>> {
        let Tools { server, minder, names, log, .. } = &self.tools;
        services.iter().for_each(|(one, _)| one.parts.limit_clients(&self.tools.rates));
        let alarms: Vec<Alarm> = services.iter().map(|_| minder.alarm()).collect();
        let logs: Vec<Log> = services.iter().map(|(one, _)| one.log(log)).collect();
        let with = services.iter().zip(&alarms).zip(&logs);
        let new = with.map(|(((one, _), alarm), log)| one.service(log, alarm.clone()));
        let new = new.collect();
        // This comes before anything can happen, so that a program receives all events that `events` shows.
        services.iter().zip(&logs).for_each(|((one, _), log)| self.hook(&one.parts, one.place(), log));
        let opened = server.open(new).inspect_err(|_| {
            logs.iter().for_each(|log| self.tools.hooks.set(log, "", None));
        })?;
        let parts = services.into_iter().zip(opened).zip(alarms).zip(logs);
        Ok(parts
            .map(|((((prepared, groups), running), alarm), log)| {
                let Prepared { parts, listeners, .. } = prepared;
                let residence = names.residence(&parts.table);
                minder.mind(&alarm, parts.ward(&log, &running, &residence));
                names.mind(&residence, parts.resident(&log, &running, &alarm, self.tools.clock));
                let listeners = listeners.iter().map(Listener::handle).collect();
                self.enlist(Served { parts, listeners, running, alarm, names: residence, log }, groups)
            })
            .collect())
    }

    fn enlist(&self, mut served: Served, groups: Vec<LinedGroup>) -> RosterEntry {
        let spec = served.parts.spec.clone();
        // From now on the table has the channels.
        served.parts.spec.groups = Vec::new();
        let written = Arc::new(RwLock::new(Written { spec, groups }));
        let service = Arc::new((self.manage)(&served, &written));
        RosterEntry { written, served, service, descriptors: None, rank: None }
    }

    /// Sets the program that receives the events of a service, if it has one.
    fn hook(&self, parts: &Parts, place: String, log: &Log) {
        let name = parts.spec.name.as_ref().map(|name| name.as_str().to_owned());
        let label = name.unwrap_or(place);
        let program = parts.spec.on_change.as_ref().map(|named| Path::new(&named.name));
        self.tools.hooks.set(log, &label, program);
    }

    /// The listeners of all services that take clients. `None`: not known during a reload.
    pub(super) fn listeners(&self) -> Option<Vec<(ListenerHandle, Arc<OwnedFd>)>> {
        let members = self.members.try_lock().ok()?;
        let serving = members.all.iter().filter(|member| !member.is_killed());
        let listeners = serving.flat_map(|member| &member.served.listeners);
        Some(listeners.filter_map(|listener| Some((listener.clone(), listener.socket()?))).collect())
    }

    /// Updates the operators' list of services.
    fn list(&self, members: &[RosterEntry]) {
        let Some(register) = self.register.get() else { return };
        let services = members.iter().map(|member| Arc::clone(&member.service)).collect();
        for (path, cause) in register.set(services) {
            let cause = format!("no control socket at {}: {cause}", path.display());
            self.tools.log.tell(&Event::NoRendezvous { cause });
        }
    }
}

impl RosterEntry {
    fn is_killed(&self) -> bool {
        self.served.running.phase() != Phase::Serving
    }

    fn written(&self) -> std::sync::RwLockReadGuard<'_, Written> {
        self.written.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The known addresses of its hosts.
    fn known(&self) -> Known {
        known(&self.written(), &self.served.parts)
    }

    /// Its line without the channels, which may be many.
    fn written_options(&self) -> ServiceSpec {
        let mut written = self.written.write().unwrap_or_else(PoisonError::into_inner);
        let groups = std::mem::take(&mut written.spec.groups);
        let options = written.spec.clone();
        written.spec.groups = groups;
        options
    }

    /// The service for messages: `service web`, or with its address if it has no name.
    fn label(&self) -> String {
        let written = self.written();
        match &written.spec.name {
            Some(name) => format!("service {}", name.as_str()),
            None => format!("service {}", self.served.place()),
        }
    }

    /// The address that identifies the service as long as its line exists.
    fn place(&self) -> Address {
        self.served.parts.span.first()
    }
}

/// The number of descriptors for listeners.
fn count_of(listeners: usize) -> u16 {
    // A service has at most one listener per port.
    u16::try_from(listeners).unwrap_or(u16::MAX)
}

/// Warnings about services: circles, missing source addresses, what `--transparent` lacks. Each has the
/// number of its service.
fn warnings(members: &[RosterEntry]) -> Vec<(usize, String)> {
    let junction = |member: &RosterEntry| {
        let written = member.written();
        let channels = written.groups.iter().flat_map(|group| &group.channels);
        let unbounded = channels.filter(|channel| channel.maxc.is_none());
        let channels = unbounded.filter_map(|one| Some((one.key?, one.addresses.clone()))).collect();
        let name = written.spec.name.as_ref().map(|name| name.as_str().to_owned());
        circles::Junction { name, listen: member.served.listen(), channels }
    };
    let mut all = circles::warnings_of(&members.iter().map(junction).collect::<Vec<_>>());
    for (number, member) in members.iter().enumerate() {
        let Served { parts, .. } = &member.served;
        all.extend(ways::missing_sources(&parts.outgoing).map(|(text, _)| (number, text)));
        if parts.outgoing.transparent {
            let now = parts.table.lock().snapshot();
            let sign = ways::transparent_sign(parts.span, &parts.outgoing, &now);
            all.extend(sign.map(|sign| (number, ways::in_words(&sign))));
            let unrouted = ways::unrouted(parts.span, &parts.outgoing, &now);
            all.extend(unrouted.map(|text| (number, text)));
        }
    }
    all
}

/// If there are several services, each log line says which one it is about.
fn label_logs(members: &[RosterEntry]) {
    for member in members {
        let name = member.written().spec.name.as_ref().map(|name| name.as_str().to_owned());
        let address = || (members.len() > 1).then(|| member.served.place());
        member.served.log.rename(name.or_else(address).as_deref());
    }
}

/// The known addresses of the names of a service. For channels these are the addresses in use.
fn known(Written { spec, groups }: &Written, parts: &Parts) -> Known {
    let lined = groups.iter().flat_map(|group| &group.channels).map(|one| one.addresses.clone());
    let mut in_use = Vec::new();
    let mut from = ChannelKey::new(0, 0);
    while let Some(at) = from {
        let (found, next) = parts.table.lock().named(at, NAMES_LOOKED_AT);
        in_use.extend(found.into_iter().map(|(_, addresses)| addresses));
        from = next;
    }
    let named = lined.chain(in_use).filter_map(|addresses| {
        let host = addresses.host().filter(|host| host.parse::<IpAddr>().is_err())?;
        let own = addresses.as_slice().iter().filter_map(|address| address.net());
        let of_members =
            addresses.members().into_iter().flatten().flat_map(|member| member.addresses.iter().copied());
        let is_unix = addresses.first().unix().is_some();
        (!is_unix).then(|| (host.to_owned(), own.chain(of_members).collect::<Vec<_>>()))
    });
    let mut known: Known = named.collect();
    if let ListenHost::Host(host) = &spec.listen.host {
        let at = parts.span.first().net();
        at.into_iter().for_each(|at| _ = known.entry(host.name.clone()).or_insert_with(|| vec![at]));
    }
    for (host, source) in spec.sources.iter().zip(parts.outgoing.sources.as_slice()) {
        known.entry(host.name.clone()).or_insert_with(|| vec![*source]);
    }
    known
}
