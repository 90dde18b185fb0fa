//! The services of the process as they run, each with the line that it was made of, and what a reload makes of them.
//!
//! Knows: the order in which things come and go, what is told of it. Never: which of them do (that is `plan`'s), signals, commands.
//! Source: docs/reload.md.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::thread;
use std::time::Duration;

use super::lookup::{Known, Resolved};
use super::plan::{self, LinedGroup, Pairing, PlannedEdit};
use super::prepared::{BIND_PATIENCE, Parts, Prepared, Served};
use super::{Failure, counted, exit, files, lookup};
use crate::config::{self, Files};
use crate::control::{ManagedService, Register};
use crate::net::Phase;
use crate::net::server::Server;
use crate::observe::{End, Event, Log, Severity};
use crate::probe::{Alarm, Minder};
use crate::sched::{AdminState, ChannelKey, GroupId, SharedTable, Snapshot, Survey};
use crate::spec::{ListenHost, OnDown, ProcessSpec, ServiceSpec};
use crate::sys::Clock;

/// As many changes as the log is told one by one.
const MOST_TOLD: usize = 100;
/// Between two pieces of work on a table that clients use.
const LET_IN: Duration = Duration::from_micros(100);
/// Channels that are changed before clients get their turn.
const PIECE: usize = 64;

/// Where services come from.
#[derive(Debug, Clone)]
pub(super) struct Source {
    pub(super) files: Files,
    /// What their paths are relative to.
    pub(super) directory: PathBuf,
}

/// What all services are made with.
pub(super) struct Tools {
    pub(super) server: Server,
    pub(super) minder: Minder,
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
    /// Where its line has it listen.
    place: SocketAddr,
    /// What its hosts meant when they were looked up last.
    known: Known,
    written: Arc<RwLock<Written>>,
    served: Served,
    service: Arc<ManagedService>,
}

/// Makes of a service what operators have of it.
type Manage = Box<dyn Fn(&Served, &Arc<RwLock<Written>>) -> ManagedService + Send + Sync>;

/// What is in front of the members' lock.
pub(super) struct Roster {
    tools: Tools,
    source: Option<Source>,
    register: OnceLock<Register>,
    members: Mutex<Members>,
    /// How a service is made that operators have.
    manage: Manage,
    /// Called after a reload.
    done: Box<dyn Fn() + Send + Sync>,
    /// A reload was asked for that has not begun.
    is_wanted: AtomicBool,
    /// Held by the thread that reloads since it was asked to.
    turn: Mutex<()>,
}

struct Members {
    process: ProcessSpec,
    all: Vec<RosterEntry>,
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
            manage: Box::new(manage),
            done: Box::new(done),
            is_wanted: AtomicBool::new(false),
            turn: Mutex::default(),
        }
    }

    fn members(&self) -> MutexGuard<'_, Members> {
        // After a panic it is gone on with what there is: each member is whole.
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Serves these; operators find them once they are [registered](Self::register).
    ///
    /// # Errors
    /// A listener cannot be watched.
    pub(super) fn open(&self, services: Vec<(Prepared, Vec<LinedGroup>)>) -> io::Result<()> {
        let new = self.serve(services)?;
        self.members().all.extend(new);
        Ok(())
    }

    /// What operators have.
    pub(super) fn services(&self) -> Vec<Arc<ManagedService>> {
        self.members().all.iter().map(|member| Arc::clone(&member.service)).collect()
    }

    /// What is not about one service is told here.
    pub(super) fn log(&self) -> &Log {
        &self.tools.log
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

    /// Reads the files again, on a thread of its own: names may take long to look up. However often this is called meanwhile,
    /// it is done once more.
    pub(super) fn reload_soon(self: &Arc<Self>) {
        if self.source.is_none() {
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
        let Tools { server, minder, log, .. } = &self.tools;
        let alarms: Vec<Alarm> = services.iter().map(|_| minder.alarm()).collect();
        let logs: Vec<Log> = services.iter().map(|(one, _)| one.log(log)).collect();
        let with = services.iter().zip(&alarms).zip(&logs);
        let new = with.map(|(((one, _), alarm), log)| one.service(log, alarm.clone()));
        let opened = server.open(new.collect())?;
        let parts = services.into_iter().zip(opened).zip(alarms).zip(logs);
        Ok(parts
            .map(|((((prepared, groups), running), alarm), log)| {
                let Prepared { parts, listener, .. } = prepared;
                minder.mind(&alarm, parts.ward(&log, &running));
                self.enlist(Served { parts, listener: listener.handle(), running, alarm, log }, groups)
            })
            .collect())
    }

    fn enlist(&self, served: Served, groups: Vec<LinedGroup>) -> RosterEntry {
        let spec = served.parts.spec.clone();
        let known = known(&spec, &groups, &served.parts);
        let written = Arc::new(RwLock::new(Written { spec, groups }));
        let service = Arc::new((self.manage)(&served, &written));
        RosterEntry { place: served.parts.place, known, written, served, service }
    }

    /// Reads the files again and makes the services what they say now. What has changed, one line each.
    ///
    /// # Errors
    /// Something is wrong with the files, or with what they ask for. Then nothing has changed.
    pub(super) fn reload(&self, clean: bool) -> Result<Vec<String>, Failure> {
        let outcome = self.reload_now(clean).map_err(|mut failure| {
            if !failure.message.trim_end().ends_with(NOTHING) {
                failure.message = format!("{}\nbalance: {NOTHING}", failure.message.trim_end());
            }
            failure
        });
        match &outcome {
            Ok(changes) => self.tell(changes),
            Err(failure) => {
                let text = format!("reload: nothing has changed: {}", failure.message.trim_end());
                self.tools.log.tell(&Event::Note { severity: Severity::Error, text });
            }
        }
        (self.done)();
        outcome
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

    fn reload_now(&self, clean: bool) -> Result<Vec<String>, Failure> {
        let mut members = self.members();
        let members = &mut *members;
        let nothing = |text: &str| Err(Failure::new(exit::CONFIG, format!("balance: {text}")));
        let Some(Source { files, directory }) = &self.source else {
            return nothing("there is no file to read again; the service was given on the command line");
        };
        if members.all.iter().all(RosterEntry::is_killed) {
            return nothing("the instance was told to stop");
        }
        let (process, specs) =
            files::read(files, directory).map_err(|errors| Failure::told(errors, NOTHING))?;
        let known = members.all.iter().flat_map(|one| one.known.clone()).collect();
        let (found, failed) =
            lookup::services_again(&specs, known).map_err(|errors| Failure::told(errors, NOTHING))?;
        let wanted: Vec<Reread> =
            specs.into_iter().zip(found).map(|(spec, found)| Reread { spec, found }).collect();
        // One that was killed by hand is there again if its line still is.
        members.all.retain(|member| !member.is_killed());
        let now: Vec<SocketAddr> = members.all.iter().map(|member| member.place).collect();
        let places: Vec<SocketAddr> = wanted.iter().map(|one| one.found.listen.first()).collect();
        let pairing = plan::pair(&now, &places);
        let mut changes = failed;
        self.carry_out(members, wanted, &pairing, clean, &mut changes)?;
        let later = config::process_changes(&members.process, &process);
        changes.extend(
            later.iter().map(|name| format!("{name} has another value: it holds from the next start")),
        );
        Ok(changes)
    }

    fn carry_out(
        &self,
        members: &mut Members,
        wanted: Vec<Reread>,
        pairing: &Pairing,
        clean: bool,
        changes: &mut Vec<String>,
    ) -> Result<(), Failure> {
        let mut wanted: Vec<Option<Reread>> = wanted.into_iter().map(Some).collect();
        let count = wanted.len();
        let in_the_way: Vec<u16> = pairing.removed.iter().map(|&n| members.all[n].place.port()).collect();
        // All that can fail comes first.
        let (mut new, mut late, mut failures) = (Vec::new(), Vec::new(), Vec::new());
        let mut patience = BIND_PATIENCE;
        for &number in &pairing.added {
            let Some(Reread { spec, found }) = wanted[number].take() else { continue };
            // Its place may be a part of one that is about to be left.
            if in_the_way.contains(&found.listen.first().port()) {
                late.push((number, spec, found));
                continue;
            }
            match self.prepare(spec, found, &mut patience) {
                Ok(made) => new.push((number, made)),
                Err(failure) => failures.push(failure),
            }
        }
        if let Some(failure) = Failure::several(failures, NOTHING) {
            return Err(failure);
        }
        let mut all: Vec<Option<RosterEntry>> = std::iter::repeat_with(|| None).take(count).collect();
        let (numbers, new): (Vec<usize>, Vec<_>) = new.into_iter().unzip();
        let opened = self.serve(new).map_err(|e| Failure::new(exit::OS, format!("balance: {e}")))?;
        for (number, member) in numbers.into_iter().zip(opened) {
            changes.push(format!("{} is added, on {}", member.label(), member.place));
            all[number] = Some(member);
        }
        let mut before: Vec<Option<RosterEntry>> = members.all.drain(..).map(Some).collect();
        let mut order: Vec<(usize, usize)> = pairing.kept.clone();
        order.sort_unstable_by_key(|&(_, number)| number);
        for (was, number) in order {
            let (Some(mut member), Some(wanted)) = (before[was].take(), wanted[number].take()) else {
                continue;
            };
            self.change(&mut member, wanted, clean, changes);
            all[number] = Some(member);
        }
        // Names first: whoever gets one of these ports next finds its name free.
        let gone: Vec<RosterEntry> = before.into_iter().flatten().collect();
        gone.iter().for_each(|member| member.service.killed.store(true, Ordering::SeqCst));
        self.list(all.iter().flatten());
        for member in &gone {
            changes.push(self.remove(member));
        }
        if !late.is_empty() {
            for (number, spec, found) in late {
                let place = found.listen.first();
                let name =
                    spec.name.as_ref().map_or_else(|| place.to_string(), |name| name.as_str().to_owned());
                let made = self.prepare(spec, found, &mut patience);
                let opened = made.and_then(|made| {
                    self.serve(vec![made]).map_err(|e| Failure::new(exit::OS, format!("balance: {e}")))
                });
                match opened {
                    Ok(opened) => {
                        for member in opened {
                            changes.push(format!("{} is added, on {}", member.label(), member.place));
                            all[number] = Some(member);
                        }
                    }
                    // What was there is gone already, so this can only be told.
                    Err(failure) => {
                        changes.push(format!("service {name} is not served: {}", failure.message))
                    }
                }
            }
            self.list(all.iter().flatten());
        }
        members.all = all.into_iter().flatten().collect();
        label_logs(&members.all);
        Ok(())
    }

    fn prepare(
        &self,
        spec: ServiceSpec,
        found: Resolved,
        patience: &mut Duration,
    ) -> Result<(Prepared, Vec<LinedGroup>), Failure> {
        let groups = plan::lined(&spec.groups, &found.channels);
        Ok((Prepared::new(spec, found, None, self.tools.workers, self.tools.seed, patience)?, groups))
    }

    /// Tells operators' door which services there are.
    fn list<'a>(&self, members: impl Iterator<Item = &'a RosterEntry>) {
        let Some(register) = self.register.get() else { return };
        for (path, cause) in register.set(members.map(|member| Arc::clone(&member.service)).collect()) {
            let cause = format!("no control socket at {}: {cause}", path.display());
            self.tools.log.tell(&Event::NoRendezvous { cause });
        }
    }

    /// A service whose line is gone.
    fn remove(&self, member: &RosterEntry) -> String {
        let Served { running, alarm, .. } = &member.served;
        self.tools.minder.leave(alarm);
        running.stop_listening();
        let label = member.label();
        let kicks = member.written().spec.on_remove == OnDown::Kick;
        let left = if kicks { running.close_all(End::Kicked) } else { running.connections() };
        match (left, kicks) {
            (0, _) => format!("{label} is removed"),
            (left, true) => format!("{label} is removed, {} closed", counted(left, "connection")),
            (left, false) => format!("{label} is removed, {} left to end", counted(left, "connection")),
        }
    }

    /// A service whose line is there still, and may say other things.
    fn change(&self, member: &mut RosterEntry, wanted: Reread, clean: bool, changes: &mut Vec<String>) {
        let Reread { spec, found } = wanted;
        let before = changes.len();
        let mut told = Vec::new();
        let was = member.written().spec.clone();
        if was.name != spec.name {
            let name = spec.name.as_ref().map(|name| name.as_str());
            told.push(
                name.map_or_else(|| "has no name any more".to_owned(), |name| format!("is called {name}")),
            );
            member.service.rename(name);
        }
        told.extend(config::option_changes(&was, &spec));
        let mut groups = plan::lined(&spec.groups, &found.channels);
        let source = member.served.parts.outgoing.source;
        let is_other = options(&was) != options(&spec) || source != found.source;
        if is_other {
            if source != found.source && was.source == spec.source {
                told.push("connections come from another address, by its name".to_owned());
            }
            self.set_options(member, &spec, found.source, &mut told);
        }
        let label = member.label();
        changes.extend(told.into_iter().map(|what| format!("{label}: {what}")));
        let table = &member.served.parts.table;
        let on_remove = (spec.on_remove == OnDown::Kick).then_some(&member.served.running);
        let steps = {
            let written = member.written();
            plan::steps(&written.groups, &mut groups, &survey(table, self.tools.clock), clean)
        };
        if clean && table.lock_at(self.tools.clock.now()).resume_all() {
            changes.push(format!("{label}: is not paused any more"));
        }
        for piece in steps.chunks(PIECE) {
            let mut table = table.lock_at(self.tools.clock.now());
            for edit in piece {
                changes
                    .extend(apply_edit(edit, &mut groups, &mut table).map(|what| format!("{label}: {what}")));
            }
            drop(table);
            thread::sleep(LET_IN);
        }
        if let Some(running) = on_remove {
            for edit in &steps {
                if let PlannedEdit::Retire(key) = edit {
                    running.close_connections(*key);
                }
            }
        }
        member.known = known(&spec, &groups, &member.served.parts);
        member.served.parts.spec = spec.clone();
        *member.written.write().unwrap_or_else(PoisonError::into_inner) = Written { spec, groups };
        if !steps.is_empty() || changes.len() > before {
            member.served.running.table_changed();
            member.served.alarm.ring();
        }
    }

    fn set_options(
        &self,
        member: &mut RosterEntry,
        spec: &ServiceSpec,
        source: Option<SocketAddr>,
        told: &mut Vec<String>,
    ) {
        let Tools { minder, clock, workers, seed, .. } = &self.tools;
        let Served { parts, listener, running, alarm, log } = &mut member.served;
        parts.spec = spec.clone();
        parts.outgoing.source = source;
        parts.outgoing.keepalive = spec.server_keepalive;
        parts.table.lock_at(clock.now()).set_rules(parts.rules(*workers, *seed));
        if let Err(e) = listener.set_keepalive(spec.client_keepalive) {
            told.push(format!("keepalive of new clients stays as it was: {e}"));
        }
        running.change(parts.options());
        minder.change(alarm, parts.ward(log, running));
    }
}

const NOTHING: &str = "nothing was changed";

impl RosterEntry {
    fn is_killed(&self) -> bool {
        self.served.running.phase() != Phase::Serving
    }

    fn written(&self) -> std::sync::RwLockReadGuard<'_, Written> {
        self.written.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// `service web`, or by where it listens.
    fn label(&self) -> String {
        let written = self.written();
        match &written.spec.name {
            Some(name) => format!("service {}", name.as_str()),
            None => format!("service {}", self.served.listener.address()),
        }
    }
}

/// Where there are several services, each log line says whose it is.
fn label_logs(members: &[RosterEntry]) {
    for member in members {
        let name = member.written().spec.name.as_ref().map(|name| name.as_str().to_owned());
        let address = || (members.len() > 1).then(|| member.served.listener.address().to_string());
        member.served.log.rename(name.or_else(address).as_deref());
    }
}

/// All of a spec but its name, its channels and where it listens: what is set by options.
fn options(spec: &ServiceSpec) -> ServiceSpec {
    let mut options = spec.clone();
    (options.name, options.groups, options.listen.host) = (None, Vec::new(), ListenHost::AnyV4);
    options
}

/// What the hosts of a service mean.
fn known(spec: &ServiceSpec, groups: &[LinedGroup], parts: &Parts) -> Known {
    let channels = groups.iter().flat_map(|group| &group.channels);
    let named = channels
        .filter_map(|one| Some((one.addresses.host()?.to_owned(), one.addresses.as_slice().to_vec())));
    let mut known: Known = named.collect();
    if let ListenHost::Host(host) = &spec.listen.host {
        known.entry(host.name.clone()).or_insert_with(|| vec![parts.place]);
    }
    if let (Some(host), Some(source)) = (&spec.source, parts.outgoing.source) {
        known.entry(host.name.clone()).or_insert_with(|| vec![source]);
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

/// Makes one edit; what is to be told of it.
fn apply_edit(
    edit: &PlannedEdit,
    groups: &mut [LinedGroup],
    table: &mut crate::sched::Table,
) -> Option<String> {
    match *edit {
        PlannedEdit::SetPolicy(id, policy) => {
            table.set_policy(id, policy);
            Some(format!("group {} has policy {}", id.index(), config::policy_name(policy)))
        }
        PlannedEdit::Create(number, place) => {
            let id = GroupId::new(number)?;
            let channel = groups.get_mut(number)?.channels.get_mut(place)?;
            let spec = &channel.spec;
            // Its weight before anybody is sent to it.
            let made = table.create(id, channel.addresses.clone(), spec.maxc, AdminState::Disabled);
            let Ok(made) = made else {
                return Some(format!(
                    "group {number}: {} is not added, since the group has used up its numbers; restart to begin anew",
                    channel.label()
                ));
            };
            let key = ChannelKey { group: id, channel: made };
            channel.key = Some(key);
            table.set_weight(key, spec.weight).ok()?;
            table.set_state(key, spec.state).ok()?;
            Some(format!("group {number} channel {}: {} is added", made.index(), channel.label()))
        }
        PlannedEdit::Apply(key, number, place) => {
            let channel = groups.get(number)?.channels.get(place)?;
            let before = table.channel(key)?;
            let spec = &channel.spec;
            table.keep(key).ok()?;
            table.set_maxc(key, spec.maxc).ok()?;
            table.set_weight(key, spec.weight).ok()?;
            table.set_state(key, spec.state).ok()?;
            let mut parts = Vec::new();
            if before.retires {
                parts.push("is there again".to_owned());
            }
            if before.maxc != spec.maxc {
                parts.push(format!("maxc {}", spec.maxc.map_or(0, std::num::NonZeroU32::get)));
            }
            if before.weight != spec.weight {
                parts.push(format!("weight {}", spec.weight.get()));
            }
            if before.state != spec.state {
                parts.push(plan::state_word(spec.state).to_owned());
            }
            let at = key.channel.index();
            Some(format!("group {number} channel {at}: {}: {}", channel.label(), parts.join(", ")))
        }
        PlannedEdit::Readdress(key, number, place) => {
            let channel = groups.get(number)?.channels.get(place)?;
            let is_other = table.readdress(key, channel.addresses.clone()).ok()?;
            let all: Vec<String> = channel.addresses.as_slice().iter().map(SocketAddr::to_string).collect();
            let at = key.channel.index();
            is_other.then(|| {
                format!(
                    "group {number} channel {at}: {} has other addresses: {}",
                    channel.label(),
                    all.join(", ")
                )
            })
        }
        PlannedEdit::Retire(key) => {
            let label = table.channel(key).map(|one| plan::label(&one.addresses))?;
            let left = table.retire(key).ok()?;
            let (number, at) = (key.group.index(), key.channel.index());
            let left = match left {
                0 => String::new(),
                left => format!(", {} left", counted(left as usize, "connection")),
            };
            Some(format!("group {number} channel {at}: {label} is removed{left}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use proptest::prelude::*;

    use super::*;
    use crate::sched::{Addresses, ClientAddr, Rules, Table};
    use crate::spec::{ChannelSpec, Policy, Typed, Weight};

    /// A line: for each group its policy and channels, by host, weight, limit and state.
    type Line = Vec<(Policy, Vec<(u8, u32, u32, bool)>)>;

    fn line() -> impl Strategy<Value = Line> {
        let channel = (0..5_u8, 1..3_u32, 0..2_u32, any::<bool>());
        let policy = prop::sample::select(vec![Policy::RoundRobin, Policy::Hash]);
        prop::collection::vec((policy, prop::collection::vec(channel, 0..6)), 1..4)
    }

    fn lined(line: &Line) -> Vec<LinedGroup> {
        let groups = line.iter().map(|(policy, channels)| {
            let channels = channels.iter().map(|&(host, weight, maxc, enabled)| {
                let spec = ChannelSpec {
                    typed: Typed::default(),
                    host: format!("h{host}"),
                    port: None,
                    maxc: NonZeroU32::new(maxc),
                    weight: Weight::new(weight).expect("small"),
                    state: if enabled { AdminState::Enabled } else { AdminState::Disabled },
                };
                let addresses = Addresses::from(SocketAddr::from(([10, 0, 0, host], 80))).named(&spec.host);
                plan::Lined { spec, addresses, key: None }
            });
            LinedGroup { policy: *policy, channels: channels.collect() }
        });
        groups.collect()
    }

    fn reload(
        table: &mut Table,
        before: &[LinedGroup],
        wanted: &Line,
        clean: bool,
    ) -> (Vec<LinedGroup>, Vec<PlannedEdit>) {
        let mut wanted = lined(wanted);
        let steps = plan::steps(before, &mut wanted, &table.snapshot(), clean);
        for edit in &steps {
            apply_edit(edit, &mut wanted, table);
        }
        (wanted, steps)
    }

    fn differences(lines: &[LinedGroup], table: &mut Table) -> Vec<String> {
        plan::differences(lines, &table.snapshot())
    }

    /// What an operator does: to which channel, and what.
    fn by_hand(table: &mut Table, deeds: &[(usize, usize, u8)]) {
        for &(group, channel, what) in deeds {
            let Some(key) = ChannelKey::new(group, channel) else { continue };
            match what {
                0 => _ = table.set_state(key, AdminState::Disabled),
                1 => _ = table.set_weight(key, Weight::new(7).expect("small")),
                2 => _ = table.set_maxc(key, NonZeroU32::new(7)),
                3 => _ = table.set_state(key, AdminState::Disabled).and_then(|_| table.remove(key)),
                4 => {
                    let address = Addresses::from(SocketAddr::from(([10, 0, 0, 99], 80)));
                    let _ =
                        table.set_state(key, AdminState::Disabled).and_then(|_| table.assign(key, address));
                }
                _ => {
                    let address = Addresses::from(SocketAddr::from(([10, 0, 0, 3], 80))).named("h3");
                    let _ = table.create(key.group, address, None, AdminState::Enabled);
                }
            }
        }
    }

    proptest! {
        #[test]
        fn a_table_becomes_what_its_lines_say(
            lines in prop::collection::vec(line(), 1..5),
            deeds in prop::collection::vec((0..3_usize, 0..6_usize, 0..6_u8), 0..6),
            clients in 0..4_usize,
        ) {
            let mut table = Table::new(Rules::CLASSIC);
            let mut before = Vec::new();
            let mut leases = Vec::new();
            for line in &lines {
                before = reload(&mut table, &before, line, false).0;
                prop_assert_eq!(differences(&before, &mut table), Vec::<String>::new());
                let (_, steps) = reload(&mut table, &before, line, false);
                prop_assert_eq!(steps, vec![], "read again it is the same");
                for _ in 0..clients {
                    let mut route = table.begin(ClientAddr::from(std::net::IpAddr::from([192, 0, 2, 1])));
                    leases.extend(table.next(&mut route).ok());
                }
            }
            by_hand(&mut table, &deeds);
            let line = &lines[lines.len() - 1];
            let told = differences(&before, &mut table);
            let (kept, steps) = reload(&mut table, &before, line, false);
            prop_assert_eq!(steps, vec![], "what was done by hand stays");
            prop_assert_eq!(differences(&kept, &mut table), told);
            let (clean, _) = reload(&mut table, &kept, line, true);
            prop_assert_eq!(differences(&clean, &mut table), Vec::<String>::new());
            // Who was taken away goes with the last connection.
            drop(leases);
            let wanted: usize = clean.iter().map(|group| group.channels.len()).sum();
            let there: usize = table.snapshot().groups.iter().map(|group| group.channels.len()).sum();
            prop_assert_eq!(there, wanted);
        }
    }
}
