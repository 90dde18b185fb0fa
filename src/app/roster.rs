//! The services of the process as they run, each with the line that it was made of, and what a reload makes of them.
//!
//! Knows: the order in which things come and go, what is told of it. Never: which of them do (that is `plan`'s), signals, commands.
//! Source: docs/reload.md.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::thread;
use std::time::Duration;

use super::hooks::ProgramHooks;
use super::keeper::ToKeep;
use super::lists::{self, ListWatch};
use super::lookup::{Known, Resolved};
use super::plan::{self, LinedGroup, Pairing, PlannedEdit};
use super::prepared::{BIND_PATIENCE, Got, Parts, Prepared, Served};
use super::state::{Fact, KeptService, KeptState};
use super::{Failure, circles, counted, exit, fenced, files, lookup, restore};
use crate::config::{self, Files};
use crate::control::{ManagedService, Register};
use crate::names::Resolver;
use crate::net::Phase;
use crate::net::server::{Running, Server};
use crate::observe::{Event, Log, Severity};
use crate::probe::{Alarm, Minder};
use crate::process;
use crate::sched::{ChannelKey, ClientRates, End, Lists, SharedTable, Snapshot, Survey};
use crate::spec::{ListenHost, ListenSpan, OnDown, PortWord, ProcessSpec, ServiceSpec};
use crate::sys::descriptors::Taken;
use crate::sys::listen::Listener;
#[cfg(test)]
use crate::sys::trouble::{self, FaultPoint};
use crate::sys::{Clock, Outgoing, Sources};

mod edit;
pub(super) mod estate;
mod moving;
#[cfg(test)]
mod trials;

/// As many changes as the log is told one by one.
const MOST_TOLD: usize = 100;
/// Between two pieces of work on a table that clients use.
const LET_IN: Duration = Duration::from_micros(100);
/// So many channels in one go, while their names are gathered.
const NAMES_LOOKED_AT: usize = 256;
/// As long as this clients may wait for a table that is being changed.
const HOLD: Duration = Duration::from_micros(300);

/// Where services come from.
#[derive(Debug, Clone)]
pub(super) struct Source {
    pub(super) files: Files,
    /// What their paths are relative to.
    pub(super) directory: PathBuf,
}

impl Source {
    /// Its files and directories.
    pub(super) fn paths(&self) -> impl Iterator<Item = PathBuf> {
        self.files.paths.iter().map(|path| self.directory.join(path))
    }

    /// Is this one of the files, or is it read because of its name if it stands in one of the directories?
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

/// What all services are made with.
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

/// What a service is as its line has it. Shared with those who tell of it.
pub(super) struct Written {
    pub(super) spec: ServiceSpec,
    pub(super) groups: Vec<LinedGroup>,
}

/// One service.
struct RosterEntry {
    written: Arc<RwLock<Written>>,
    served: Served,
    service: Arc<ManagedService>,
    /// The descriptors of its listeners, which clients cannot have. They are given back when the service is taken away.
    descriptors: Option<Taken>,
    /// Where it stands among the lines of the files. `None`: it has none any more.
    rank: Option<usize>,
}

/// What a reload has to tell.
#[derive(Default)]
struct ReloadNews {
    made: Vec<String>,
    /// What the files say, and could not be had.
    missed: Vec<String>,
    /// What is as the files say, but hardly meant.
    warnings: Vec<String>,
}

/// Makes of a service what operators have of it.
type Manage = Box<dyn Fn(&Served, &Arc<RwLock<Written>>) -> ManagedService + Send + Sync>;

/// What is in front of the members' lock.
pub(super) struct Roster {
    tools: Tools,
    source: Option<Source>,
    register: OnceLock<Register>,
    members: Mutex<Members>,
    /// What is looked at for the state file, while a reload may hold the members for long.
    watched: Mutex<Vec<Watched>>,
    /// How a service is made that operators have.
    manage: Manage,
    /// Called after a reload.
    done: Box<dyn Fn() + Send + Sync>,
    /// A reload was asked for that has not begun.
    is_wanted: AtomicBool,
    /// Held by the thread that reloads since it was asked to.
    turn: Mutex<()>,
    /// Another process is about to take over, or does.
    is_frozen: AtomicBool,
    /// Listeners that were bound before it is certain that they are wanted.
    bound: Mutex<BTreeMap<SocketAddr, Listener>>,
    /// Why the last reload has failed, if it has.
    trouble: Mutex<Option<String>>,
}

/// One service as the state file sees it.
struct Watched {
    place: SocketAddr,
    /// Where it listens, which may be elsewhere.
    listen: Vec<ListenSpan>,
    written: Arc<RwLock<Written>>,
    table: SharedTable,
    running: Running,
}

struct Members {
    process: ProcessSpec,
    all: Vec<RosterEntry>,
}

/// A service with its channels as its line has them, and the descriptors of its listeners.
type Made = (Prepared, Vec<LinedGroup>, Taken);

/// A service that is about to be served.
struct Coming {
    /// Where it stands among the lines of the files.
    number: usize,
    made: Made,
}

/// A service of a file that was read again.
struct Reread {
    spec: ServiceSpec,
    found: Resolved,
}

impl Roster {
    /// Nobody yet.
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
        // After a panic it is gone on with what there is: whoever is served is a member, from before the first client to after
        // the last one.
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Serves these; operators find them once they are [registered](Self::register).
    ///
    /// # Errors
    /// A listener cannot be watched.
    pub(super) fn open(&self, services: Vec<(Prepared, Vec<LinedGroup>)>) -> io::Result<()> {
        self.begin_lives(&services);
        self.open_as_they_are(services)
    }

    /// Nothing is known of channels before they are served, whenever their tables were filled.
    fn begin_lives(&self, services: &[(Prepared, Vec<LinedGroup>)]) {
        let now = self.tools.clock.now();
        services.iter().for_each(|(one, _)| one.parts.table.lock_at(now).begin_life());
    }

    fn open_as_they_are(&self, services: Vec<(Prepared, Vec<LinedGroup>)>) -> io::Result<()> {
        let new = self.serve(services)?;
        // Their listeners were counted before there was a budget.
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

    /// What operators have.
    pub(super) fn services(&self) -> Vec<Arc<ManagedService>> {
        self.members().all.iter().map(|member| Arc::clone(&member.service)).collect()
    }

    fn watch(&self, members: &[RosterEntry]) {
        let watched = members.iter().map(|member| Watched {
            place: member.place(),
            listen: member.served.listen(),
            written: Arc::clone(&member.written),
            table: member.served.parts.table.clone(),
            running: member.served.running.clone(),
        });
        *self.watched() = watched.collect();
        self.tools.lists.watch(members.iter().map(|member| member.served.parts.table.clone()));
    }

    fn watched(&self) -> MutexGuard<'_, Vec<Watched>> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What operators have changed, as far as it is to be kept. In the middle of a reload lines and tables do not fit together;
    /// what is seen then holds for lines that are not there any more, and so it does no harm. It is called again afterwards.
    pub(super) fn look(&self) -> ToKeep {
        let all: Vec<_> = self
            .watched()
            .iter()
            .map(|one| (one.place, Arc::clone(&one.written), one.table.clone(), one.running.phase()))
            .collect();
        let is_over = !all.is_empty() && all.iter().all(|(.., phase)| *phase != Phase::Serving);
        let services = all.into_iter().map(|(place, written, table, _)| {
            let now = survey(&table, self.tools.clock);
            let written = written.read().unwrap_or_else(PoisonError::into_inner);
            let mut facts = restore::observe(&written.groups, written.spec.later_policy, &now);
            let denied = table.gate().denied(self.tools.clock.now());
            facts.extend(denied.into_iter().map(|denial| Fact::Denied {
                net: denial.net,
                until: denial.until.map(|until| until.since_1970),
            }));
            KeptService { place, name: written.spec.name.clone(), facts }
        });
        let services = services.filter(|service| !service.facts.is_empty()).collect();
        ToKeep { state: KeptState { services }, is_over }
    }

    /// Channels without a maxc that lead back to their own service as they are now: where that listens, and what there is to say.
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

    /// The group whose members may control the process, too.
    pub(super) fn control_group(&self) -> Option<String> {
        self.members().process.control_group.as_ref().map(|group| group.name.clone())
    }

    /// What the process was asked to be.
    pub(super) fn process(&self) -> ProcessSpec {
        self.members().process.clone()
    }

    /// What is not about one service is told here.
    pub(super) fn log(&self) -> &Log {
        &self.tools.log
    }

    /// The programs that hear of events.
    pub(super) fn hooks(&self) -> &ProgramHooks {
        &self.tools.hooks
    }

    /// Where they are listed from now on.
    pub(super) fn register(&self, register: Register) {
        let _ = self.register.set(register);
    }

    /// Have all been stopped and nobody left to serve, and is nobody about to start one?
    pub(super) fn is_over(&self) -> bool {
        // Whoever holds the lock asks again when it is done.
        let is_over = |members: &Members| members.all.iter().all(RosterEntry::is_killed);
        self.members.try_lock().is_ok_and(|members| is_over(&members)) && !self.tools.server.has_services()
    }

    /// Were services read from files?
    pub(super) fn has_file(&self) -> bool {
        self.source.is_some()
    }

    /// Reads the files again, on a thread of its own: names may take long to look up. However often this is called meanwhile,
    /// it is done once more.
    pub(super) fn reload_soon(self: &Arc<Self>) {
        let has_files = || self.watched().iter().any(|one| lists::has_files(&one.table));
        if self.source.is_none() && !has_files() {
            let why = "there is no file to read again";
            return self.tools.log.tell(&Event::SignalIgnored { signal: "HUP".into(), why });
        }
        if self.is_wanted.swap(true, Ordering::SeqCst) {
            return;
        }
        let roster = Arc::clone(self);
        let spawned = thread::Builder::new().name("reload".into()).spawn(move || {
            let _turn = roster.turn.lock().unwrap_or_else(PoisonError::into_inner);
            roster.is_wanted.store(false, Ordering::SeqCst);
            // What came of it is told to the log.
            let _ = roster.reload(false);
        });
        if let Err(e) = spawned {
            self.is_wanted.store(false, Ordering::SeqCst);
            let text = format!("reload: no thread for it: {e}");
            self.tools.log.tell(&Event::Note { severity: Severity::Error, text });
        }
    }

    fn serve(&self, services: Vec<(Prepared, Vec<LinedGroup>)>) -> io::Result<Vec<RosterEntry>> {
        let Tools { server, minder, names, log, .. } = &self.tools;
        services.iter().for_each(|(one, _)| one.parts.limit_clients(&self.tools.rates));
        let alarms: Vec<Alarm> = services.iter().map(|_| minder.alarm()).collect();
        let logs: Vec<Log> = services.iter().map(|(one, _)| one.log(log)).collect();
        let with = services.iter().zip(&alarms).zip(&logs);
        let new = with.map(|(((one, _), alarm), log)| one.service(log, alarm.clone()));
        let new = new.collect();
        // Before anything can happen: a program hears of all that `events` shows.
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
                names.mind(&residence, parts.resident(&log, &running, &alarm));
                let listeners = listeners.iter().map(Listener::handle).collect();
                self.enlist(Served { parts, listeners, running, alarm, names: residence, log }, groups)
            })
            .collect())
    }

    fn enlist(&self, mut served: Served, groups: Vec<LinedGroup>) -> RosterEntry {
        let spec = served.parts.spec.clone();
        // Its channels are the table's from now on.
        served.parts.spec.groups = Vec::new();
        let written = Arc::new(RwLock::new(Written { spec, groups }));
        let service = Arc::new((self.manage)(&served, &written));
        RosterEntry { written, served, service, descriptors: None, rank: None }
    }

    /// The program of a service hears of its events from now on, if it has one.
    fn hook(&self, parts: &Parts, place: String, log: &Log) {
        let name = parts.spec.name.as_ref().map(|name| name.as_str().to_owned());
        let label = name.unwrap_or(place);
        let program = parts.spec.on_change.as_ref().map(|named| Path::new(&named.name));
        self.tools.hooks.set(log, &label, program);
    }

    /// Reads the files again and makes the services what they say now. What has changed, one line each.
    ///
    /// # Errors
    /// Something is wrong with the files, or with what they ask for. Then nothing has changed.
    pub(super) fn reload(&self, clean: bool) -> Result<Vec<String>, Failure> {
        process::tell_reloading();
        let outcome = self.reload_and_tell(clean);
        let why = outcome.as_ref().err().and_then(|failure| failure.message.lines().next());
        let why = why.map(|why| why.strip_prefix("balance: ").unwrap_or(why));
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = why.map(str::to_owned);
        process::tell_ready(
            &why.map_or_else(|| "reloaded".to_owned(), |why| format!("reload failed: {why}")),
        );
        (self.done)();
        outcome
    }

    /// The listeners of all services that take clients. `None`: just now nobody knows.
    pub(super) fn listeners(&self) -> Option<Vec<(SocketAddr, Arc<OwnedFd>)>> {
        let members = self.members.try_lock().ok()?;
        let serving = members.all.iter().filter(|member| !member.is_killed());
        let listeners = serving.flat_map(|member| &member.served.listeners);
        Some(listeners.filter_map(|listener| Some((listener.address(), listener.socket()?))).collect())
    }

    /// Why the last reload has failed, in one line; `None`: it has not.
    pub(super) fn last_trouble(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn reload_and_tell(&self, clean: bool) -> Result<Vec<String>, Failure> {
        match catch_unwind(AssertUnwindSafe(|| self.reload_now(clean))) {
            Ok(Ok(ReloadNews { made, missed, warnings })) => {
                self.tell(&made);
                missed.iter().for_each(|what| self.complain(what));
                let told: Vec<String> = made
                    .into_iter()
                    .chain(warnings.into_iter().map(|text| format!("warning: {text}")))
                    .collect();
                match missed.is_empty() {
                    true => Ok(told),
                    false => {
                        let lines: Vec<String> = told.into_iter().chain(missed).collect();
                        Err(Failure::new(exit::OS, format!("{}\nbalance: {NOT_ALL}", lines.join("\n"))))
                    }
                }
            }
            Ok(Err(mut failure)) => {
                if let Some(hint) = fenced::hint(&failure.message) {
                    failure.message = format!("{}\nbalance: {hint}", failure.message.trim_end());
                }
                if !failure.message.trim_end().ends_with(NOTHING) {
                    failure.message = format!("{}\nbalance: {NOTHING}", failure.message.trim_end());
                }
                self.complain_of_each(&failure.message);
                Err(failure)
            }
            Err(_) => {
                self.recover();
                self.complain(BROKE_OFF);
                Err(Failure::new(exit::OS, format!("balance: {BROKE_OFF}")))
            }
        }
    }

    /// After a panic: whoever is served is found by operators.
    fn recover(&self) {
        let members = self.members();
        for member in members.all.iter().filter(|one| one.rank.is_none() && !one.is_killed()) {
            // It was called gone already, and has not gone.
            member.service.killed.store(false, Ordering::SeqCst);
        }
        self.list(&members.all);
        self.watch(&members.all);
        label_logs(&members.all);
    }

    fn complain(&self, what: &str) {
        let text = format!("reload: {what}");
        self.tools.log.tell(&Event::Note { severity: Severity::Error, text });
    }

    /// One event for each thing that is wrong: in the log a line is a line.
    fn complain_of_each(&self, message: &str) {
        let reasons = |line: &&str| !line.is_empty() && !line.ends_with(NOTHING);
        for reason in message.lines().filter(reasons).take(MOST_TOLD) {
            let reason = reason.strip_prefix("balance: ").unwrap_or(reason);
            let text = format!("reload failed, {NOTHING}: {reason}");
            self.tools.log.tell(&Event::Note { severity: Severity::Error, text });
        }
    }

    fn tell(&self, changes: &[String]) {
        let note = |text| self.tools.log.tell(&Event::Note { severity: Severity::Notice, text });
        for change in changes.iter().take(MOST_TOLD) {
            note(format!("reload: {change}"));
        }
        match changes.len() {
            0 => note("reload: nothing has changed".to_owned()),
            all if all > MOST_TOLD => note(format!("reload: and {} more changes", all - MOST_TOLD)),
            _ => {}
        }
    }

    fn reload_now(&self, clean: bool) -> Result<ReloadNews, Failure> {
        let mut members = self.members();
        let members = &mut *members;
        let nothing = |text: &str| Err(Failure::new(exit::CONFIG, format!("balance: {text}")));
        let has_files = || members.all.iter().any(|one| lists::has_files(&one.served.parts.table));
        if self.source.is_none() && !clean && !has_files() {
            return nothing(
                "there is no file to read again; the service was given on the command line (reload clean drops what was \
                 changed by hand)",
            );
        }
        if self.is_frozen.load(Ordering::SeqCst) {
            return nothing("another process is taking over just now; try again");
        }
        if members.all.iter().all(RosterEntry::is_killed) {
            return nothing("the instance was told to stop");
        }
        let (process, specs) = match &self.source {
            Some(Source { files, directory }) => {
                files::read(files, directory).map_err(|errors| Failure::told(errors, NOTHING))?
            }
            // The command line says what it said.
            None => {
                let specs = members.all.iter().map(|member| member.written().spec.clone());
                (members.process.clone(), specs.collect())
            }
        };
        let known = members.all.iter().flat_map(RosterEntry::known).collect();
        let (found, failed) =
            lookup::services(&specs, known).map_err(|errors| Failure::told(errors, NOTHING))?;
        let wanted: Vec<Reread> =
            specs.into_iter().zip(found).map(|(spec, found)| Reread { spec, found }).collect();
        // One that was killed by hand is there again if its line still is.
        members.all.retain(|member| !member.is_killed());
        let now: Vec<ListenSpan> = members.all.iter().map(|member| member.served.parts.span).collect();
        let spans: Vec<ListenSpan> = wanted.iter().map(|one| one.found.span()).collect();
        let pairing = plan::pair(&now, &spans);
        let mut changes = ReloadNews { made: failed, ..ReloadNews::default() };
        let before: BTreeSet<String> = warnings(&members.all).into_iter().map(|(_, text)| text).collect();
        self.carry_out(members, wanted, &pairing, clean, &mut changes)?;
        for (number, text) in warnings(&members.all) {
            if !before.contains(&text) {
                let note = Event::Note { severity: Severity::Warning, text: text.clone() };
                members.all[number].served.log.tell(&note);
                changes.warnings.push(format!("{}: {text}", members.all[number].label()));
            }
        }
        let later = config::process_changes(&members.process, &process);
        changes.made.extend(
            later.iter().map(|name| format!("{name} has another value: it holds after upgrade or a restart")),
        );
        Ok(changes)
    }

    fn carry_out(
        &self,
        members: &mut Members,
        wanted: Vec<Reread>,
        pairing: &Pairing,
        clean: bool,
        changes: &mut ReloadNews,
    ) -> Result<(), Failure> {
        let mut wanted: Vec<Option<Reread>> = wanted.into_iter().map(Some).collect();
        let in_the_way = members.ports_that_go(&wanted, pairing);
        // All that can fail comes first.
        let (mut new, mut late, mut failures) = (Vec::new(), Vec::new(), Vec::new());
        let mut patience = BIND_PATIENCE;
        for &number in &pairing.added {
            let Some(Reread { spec, found }) = wanted[number].take() else { continue };
            // Its place may be a part of one that is about to be left.
            if found.span().ports().any(|port| in_the_way.contains(&port)) {
                late.push((number, spec, found));
                continue;
            }
            match self.prepare(spec, found, &mut patience) {
                Ok(made) => new.push(Coming { number, made }),
                Err(failure) => failures.push(failure),
            }
        }
        let mut widenings = Vec::new();
        for &(was, number) in &pairing.kept {
            let Some(Reread { spec, found }) = &wanted[number] else { continue };
            match self.widen(&members.all[was], spec, found, &in_the_way, &mut patience) {
                Ok(widening) => widenings.push((was, number, widening)),
                Err(failure) => failures.push(failure),
            }
        }
        if let Some(failure) = Failure::several(failures, NOTHING) {
            return Err(failure);
        }
        for member in &mut members.all {
            member.rank = None;
        }
        for &(was, number) in &pairing.kept {
            members.all[was].rank = Some(number);
        }
        // From here on whoever is served is a member, whatever goes wrong.
        self.take_in(members, new, changes)?;
        let mut late_ports = Vec::new();
        for (was, number, mut widening) in widenings {
            let late = std::mem::take(&mut widening.late);
            late_ports.extend((!late.is_empty()).then_some((number, late)));
            self.move_listeners(&mut members.all[was], widening, changes);
        }
        let mut order: Vec<(usize, usize)> = pairing.kept.clone();
        order.sort_unstable_by_key(|&(_, number)| number);
        for (was, number) in order {
            if let Some(wanted) = wanted[number].take() {
                self.change(&mut members.all[was], wanted, clean, changes);
            }
        }
        // Names first: whoever gets one of these ports next finds its name free.
        let is_gone = |member: &&RosterEntry| member.rank.is_none();
        members.all.iter().filter(is_gone).for_each(|one| one.service.killed.store(true, Ordering::SeqCst));
        members.all.sort_by_key(|member| member.rank.unwrap_or(usize::MAX));
        self.list(&members.all);
        changes.made.extend(members.all.iter().filter(is_gone).map(|member| self.remove(member)));
        members.all.retain(|member| member.rank.is_some());
        for (number, spec, found) in late {
            let span = found.span();
            let name = spec.name.as_ref().map_or_else(|| span.to_string(), |name| name.as_str().to_owned());
            let made = self.prepare(spec, found, &mut patience);
            let taken_in =
                made.and_then(|made| self.take_in(members, vec![Coming { number, made }], changes));
            // What was there is gone already, so this can only be told.
            if let Err(failure) = taken_in {
                changes.missed.push(format!("service {name} is not served: {}", failure.message));
            }
        }
        for (number, late) in &late_ports {
            let Some(member) = members.all.iter_mut().find(|member| member.rank == Some(*number)) else {
                continue;
            };
            self.listen_late(member, late, &mut patience, changes);
        }
        members.all.sort_by_key(|member| member.rank);
        if !pairing.removed.is_empty() || !late_ports.is_empty() {
            self.list(&members.all);
        }
        self.watch(&members.all);
        label_logs(&members.all);
        Ok(())
    }

    /// Serves new services, all of them or none.
    fn take_in(
        &self,
        members: &mut Members,
        new: Vec<Coming>,
        changes: &mut ReloadNews,
    ) -> Result<(), Failure> {
        let (ranks, new): (Vec<_>, Vec<_>) = new
            .into_iter()
            .map(|Coming { number, made: (made, groups, taken) }| ((number, taken), (made, groups)))
            .unzip();
        self.begin_lives(&new);
        let opened = self.serve(new).map_err(|e| Failure::new(exit::OS, format!("balance: {e}")))?;
        let ranked = |(member, (number, taken))| RosterEntry {
            descriptors: Some(taken),
            rank: Some(number),
            ..member
        };
        let first = members.all.len();
        members.all.extend(opened.into_iter().zip(ranks).map(ranked));
        for member in &members.all[first..] {
            #[cfg(test)]
            let _ = trouble::strike(FaultPoint::Reload);
            changes.made.push(format!("{} is added, on {}", member.label(), member.served.parts.span));
        }
        Ok(())
    }

    /// Makes a service, which is not served yet.
    ///
    /// # Errors
    /// Its port cannot be had, or no descriptor for it.
    fn prepare(&self, spec: ServiceSpec, found: Resolved, patience: &mut Duration) -> Result<Made, Failure> {
        // Clients get what is left, and one of them is always to be served.
        let taken = self.take_descriptors(&spec, found.span().ports().len())?;
        let groups = plan::lined(&spec.groups, &found.channels);
        let bound = |place| self.take_bound(place).map(Got::Bound);
        let Tools { workers, seed, .. } = self.tools;
        Ok((Prepared::new(spec, found, bound, workers, seed, patience)?, groups, taken))
    }

    fn take_descriptors(&self, spec: &ServiceSpec, listeners: usize) -> Result<Taken, Failure> {
        let taken = self.tools.server.budget().take_for_listeners(count_of(listeners));
        taken.ok_or_else(|| {
            let what = match listeners {
                1 => "no file descriptor is left for its listener".to_owned(),
                listeners => format!("not enough file descriptors are left for its {listeners} listeners"),
            };
            let text =
                format!("balance: {what}; raise the limit (ulimit -n) and restart, or end some connections");
            Failure::at(&spec.listen.typed, Failure::new(exit::OS, text))
        })
    }

    /// Tells operators' door which services there are.
    fn list(&self, members: &[RosterEntry]) {
        let Some(register) = self.register.get() else { return };
        let services = members.iter().map(|member| Arc::clone(&member.service)).collect();
        for (path, cause) in register.set(services) {
            let cause = format!("no control socket at {}: {cause}", path.display());
            self.tools.log.tell(&Event::NoRendezvous { cause });
        }
    }

    /// A service whose line is gone.
    fn remove(&self, member: &RosterEntry) -> String {
        #[cfg(test)]
        let _ = trouble::strike(FaultPoint::Reload);
        let Served { running, alarm, names, log, .. } = &member.served;
        self.tools.hooks.set(log, "", None);
        self.tools.minder.leave(alarm);
        self.tools.names.leave(names);
        running.stop_listening();
        let label = member.label();
        let kicks = member.written().spec.on_remove == OnDown::Kick;
        let left = if kicks { running.close_all(End::Removed) } else { running.connections() };
        match (left, kicks) {
            (0, _) => format!("{label} is removed"),
            (left, true) => format!("{label} is removed, {} closed", counted(left, "connection")),
            (left, false) => format!("{label} is removed, {} left to end", counted(left, "connection")),
        }
    }

    /// A service whose line is there still, and may say other things.
    fn change(&self, member: &mut RosterEntry, wanted: Reread, clean: bool, changes: &mut ReloadNews) {
        #[cfg(test)]
        let _ = trouble::strike(FaultPoint::Reload);
        let Reread { mut spec, found } = wanted;
        let mut groups = plan::lined(&spec.groups, &found.channels);
        // They may be many, and are of no interest until the end.
        let members = std::mem::take(&mut spec.groups);
        let before = changes.made.len();
        let mut told = Vec::new();
        let was = member.written_options();
        if was.name != spec.name {
            let name = spec.name.as_ref().map(|name| name.as_str());
            told.push(
                name.map_or_else(|| "has no name any more".to_owned(), |name| format!("is called {name}")),
            );
            member.service.rename(name);
        }
        told.extend(config::option_changes(&was, &spec));
        let sources = Sources::new(found.sources);
        let is_elsewhere = member.served.parts.outgoing.sources != sources;
        if options(&was) != options(&spec) || is_elsewhere {
            if is_elsewhere && was.sources == spec.sources {
                told.push("connections come from another address, by its name".to_owned());
            }
            self.set_options(member, &spec, sources, &mut told);
        }
        let table = &member.served.parts.table;
        told.extend(set_lists(table, found.lists));
        if clean {
            let denied = table.gate().undeny_all(self.tools.clock.now());
            told.extend((denied > 0).then(|| format!("{} not denied any more", are(denied, "network"))));
        }
        let label = member.label();
        changes.made.extend(told.into_iter().map(|what| format!("{label}: {what}")));
        let table = &member.served.parts.table;
        let on_remove = (spec.on_remove == OnDown::Kick).then_some(&member.served.running);
        let steps = {
            let written = member.written();
            plan::steps(&written.groups, &mut groups, &survey(table, self.tools.clock), clean)
        };
        if clean && table.lock_at(self.tools.clock.now()).resume_all() {
            changes.made.push(format!("{label}: is not paused any more"));
        }
        // Where the end of a channel is told whose connections are to be closed.
        let mut ends = Vec::new();
        let mut edits = steps.iter().peekable();
        while edits.peek().is_some() {
            let mut table = table.lock_at(self.tools.clock.now());
            let begun = self.tools.clock.now();
            for edit in edits.by_ref() {
                let ones = if let PlannedEdit::Retire(key) = edit { table.ones(*key) } else { Vec::new() };
                match edit::apply_edit(edit, &mut groups, &mut table, on_remove.is_some()) {
                    Some(Ok(made)) => {
                        if !ones.is_empty() {
                            ends.push((changes.made.len(), ones));
                        }
                        changes.made.push(format!("{label}: {made}"));
                    }
                    Some(Err(missed)) => changes.missed.push(format!("{label}: {missed}")),
                    None => {}
                }
                if self.tools.clock.now().saturating_sub(begun) >= HOLD {
                    break;
                }
            }
            drop(table);
            if edits.peek().is_some() {
                thread::sleep(LET_IN);
            }
        }
        if let Some(running) = on_remove {
            for (told, ones) in ends {
                let closed = ones.into_iter().map(|key| running.close_connections(key)).sum();
                if let Some(told) = changes.made.get_mut(told).filter(|_| closed > 0) {
                    told.push_str(&format!(", {} closed", counted(closed, "connection")));
                }
            }
        }
        member.served.parts.spec = spec.clone();
        let Served { parts, log, .. } = &member.served;
        self.hook(parts, member.served.place(), log);
        spec.groups = members;
        *member.written.write().unwrap_or_else(PoisonError::into_inner) = Written { spec, groups };
        if !steps.is_empty() || changes.made.len() > before {
            member.served.running.table_changed();
            member.served.alarm.ring();
            member.served.names.ring();
        }
    }

    fn set_options(
        &self,
        member: &mut RosterEntry,
        spec: &ServiceSpec,
        sources: Sources,
        told: &mut Vec<String>,
    ) {
        let Tools { minder, names, clock, workers, seed, .. } = &self.tools;
        let Served { parts, listeners, running, alarm, names: residence, log } = &mut member.served;
        parts.spec = spec.clone();
        parts.outgoing = Outgoing { sources, keepalive: spec.server_keepalive };
        parts.table.lock_at(clock.now()).set_rules(parts.rules(*workers, *seed));
        let mut set = listeners.iter().map(|listener| listener.set_keepalive(spec.client_keepalive));
        if let Some(Err(e)) = set.find(Result::is_err) {
            told.push(format!("keepalive of new clients stays as it was: {e}"));
        }
        parts.limit_clients(&self.tools.rates);
        running.change(parts.options());
        minder.change(alarm, parts.ward(log, running, residence));
        names.mind(residence, parts.resident(log, running, alarm));
    }
}

const NOTHING: &str = "nothing was changed";
const NOT_ALL: &str = "not everything is as the files say; see above";
const BROKE_OFF: &str = "it stopped in the middle, because of a fault in balance itself; all services go on, some of them as \
                         the files say now; reload again";

impl RosterEntry {
    fn is_killed(&self) -> bool {
        self.served.running.phase() != Phase::Serving
    }

    fn written(&self) -> std::sync::RwLockReadGuard<'_, Written> {
        self.written.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// What its hosts mean.
    fn known(&self) -> Known {
        known(&self.written(), &self.served.parts)
    }

    /// What its line says, but for its channels, which may be many.
    fn written_options(&self) -> ServiceSpec {
        let mut written = self.written.write().unwrap_or_else(PoisonError::into_inner);
        let groups = std::mem::take(&mut written.spec.groups);
        let options = written.spec.clone();
        written.spec.groups = groups;
        options
    }

    /// `service web`, or by where it listens.
    fn label(&self) -> String {
        let written = self.written();
        match &written.spec.name {
            Some(name) => format!("service {}", name.as_str()),
            None => format!("service {}", self.served.place()),
        }
    }

    /// What it is known by as long as its line is there.
    fn place(&self) -> SocketAddr {
        self.served.parts.span.first()
    }
}

/// So many descriptors.
fn count_of(listeners: usize) -> u16 {
    // A service has no more than there are ports.
    u16::try_from(listeners).unwrap_or(u16::MAX)
}

/// Lets in whom these lists let in. What there is to say of it, if only their files have changed.
fn set_lists(table: &SharedTable, new: Lists) -> Option<String> {
    let was = table.gate().lists();
    let is_told = (&was.allow, &was.deny) == (&new.allow, &new.deny) && was.rules != new.rules;
    let told = is_told
        .then(|| format!("files of --allow and --deny have changed: {}", counted(new.networks, "network")));
    table.gate().set_lists(new);
    told
}

/// `1 network is`, `2 networks are`.
fn are(number: usize, noun: &str) -> String {
    format!("{} {}", counted(number, noun), if number == 1 { "is" } else { "are" })
}

/// The channels that lead back to their own service.
fn warnings(members: &[RosterEntry]) -> Vec<(usize, String)> {
    let junction = |member: &RosterEntry| {
        let written = member.written();
        let channels = written.groups.iter().flat_map(|group| &group.channels);
        let unbounded = channels.filter(|channel| channel.maxc.is_none());
        let channels = unbounded.filter_map(|one| Some((one.key?, one.addresses.clone()))).collect();
        let name = written.spec.name.as_ref().map(|name| name.as_str().to_owned());
        circles::Junction { name, listen: member.served.listen(), channels }
    };
    circles::warnings_of(&members.iter().map(junction).collect::<Vec<_>>())
}

/// Where there are several services, each log line says whose it is.
fn label_logs(members: &[RosterEntry]) {
    for member in members {
        let name = member.written().spec.name.as_ref().map(|name| name.as_str().to_owned());
        let address = || (members.len() > 1).then(|| member.served.place());
        member.served.log.rename(name.or_else(address).as_deref());
    }
}

/// All of a spec but its name, its channels and where it listens: what is set by options.
fn options(spec: &ServiceSpec) -> ServiceSpec {
    debug_assert!(spec.groups.is_empty(), "they are of no use here, and many");
    let mut options = spec.clone();
    (options.name, options.listen.host) = (None, ListenHost::AnyV4);
    options.listen.ports = PortWord::Number(NonZeroU16::MIN).into();
    options
}

/// What the names of a service mean. Those of its channels have the addresses that clients are sent to.
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
        known.entry(host.name.clone()).or_insert_with(|| vec![parts.span.first()]);
    }
    for (host, source) in spec.sources.iter().zip(parts.outgoing.sources.as_slice()) {
        known.entry(host.name.clone()).or_insert_with(|| vec![*source]);
    }
    known
}

fn survey(table: &SharedTable, clock: Clock) -> Snapshot {
    let mut survey = Survey::default();
    while table.lock_at(clock.now()).survey(&mut survey) {
        thread::sleep(LET_IN);
    }
    survey.finish()
}
