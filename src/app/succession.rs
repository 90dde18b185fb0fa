//! Takes everything over from another process; this is the side of the new process.
//!
//! Knows: what each deed of the handover means here. Never: the order of the deeds (`handover::successor`),
//! how a connection is taken over.
//! Source: docs/upgrade.md.

use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, PoisonError};
use std::thread;

use super::assembly::Assembly;
use super::controllers::{self, AtWork};
use super::environment::{self, Environment};
use super::fenced;
use super::heir::{Heir, receive, send, span_of};
use super::kept::{self, Kept};
use super::lockdown;
use super::lookup::Resolved;
use super::origin::{Inheritance, Origin, monotonic};
use super::passed::{kept_place, place_of};
use super::past;
use super::prepared::Got;
use super::roster::Source;
use super::roster::estate::Legacy;
use super::scribe;
use super::start::{self, Means};
use super::web::{self, Web};
use super::{Failure, counted, exit, plan};
use crate::handover::connection::{ConnectionRecord, StageRecord};
use crate::handover::message::{
    Acceptance, Batch, Done, FORMAT, FromPredecessor, Go, LeftCount, OfferedService,
};
use crate::handover::successor::{Settlement, Successor, SuccessorDeed, SuccessorNews, SuccessorWord};
use crate::net::server::{Running, Server};
use crate::net::{Arriving, Reserved};
use crate::observe::{Event, Log, Owner, Severity};
use crate::process::{self, Notifier, Shutdown};
use crate::sched::{ChannelCounts, ChannelKey, ClientCounts, Ended, HeldSlots, Lists, SharedTable};
use crate::spec::{Address, ListenSpan, ProcessSpec, ServiceSpec};
use crate::sys::Clock;
use crate::sys::passing::{DescriptorsLost, HandoverStream};
use crate::sys::socket_file::SocketFileId;

/// Takes over and serves until the end. Returns the exit code.
///
/// # Errors
/// This process cannot serve. The predecessor goes on, if it is alive.
pub(super) fn start(
    settings: &ProcessSpec,
    services: Vec<(ServiceSpec, Resolved)>,
    source: Option<Source>,
    origin: Origin,
    environment: &Environment,
    heir: &mut Heir,
) -> Result<u8, Failure> {
    let foreground = start::is_foreground(settings);
    let means = start::means(settings, &services, &[], heir.descriptor_count())?;
    let log = if foreground {
        Log::stderr(settings.debug).timed(settings.log_time)
    } else {
        Log::syslog(settings.debug)
    };
    log.never_wait();
    let clock = Clock::resume(monotonic().saturating_sub(heir.offer.began));
    let os = |e: io::Error| Failure::new(exit::OS, start::not_begun(&e));
    let web = web::open(settings, |wanted| heir.take_http(&wanted))?;
    let kept = match heir.offer.keeps_no_state {
        true => kept::begin(settings.state.as_ref(), source.as_ref(), &log),
        false => kept::succeed(settings.state.as_ref(), source.as_ref(), &log),
    };
    let access = scribe::open(settings, foreground)?;
    if !heir.offer.is_fenced {
        let specs = services.iter().map(|(spec, _)| spec);
        let fence = lockdown::fence(settings, specs, source.as_ref(), &origin, environment);
        fence.iter().for_each(|fence| lockdown::close(fence, &log));
    }
    fenced::tell_refused(&log);
    let make = means.make(settings, source, start::seed(), &log, access);
    let assembly = start::assemble(make, clock, &log).map_err(os)?;
    if !foreground {
        // Like a process in the background: it must not keep a file system busy.
        let _ = std::env::set_current_dir("/");
    }
    process::forbid_core_files();
    assembly.roster.bind_new(&services, &heir.offer.services)?;
    let taking = Taking {
        heirs: heirs(&heir.offer.services, &services),
        settings,
        kept,
        web,
        environment,
        services: Some(services),
        origin: Some(origin),
        assembly: Some(assembly),
        log: log.clone(),
        means,
    };
    let (shutdown, at_work) = taking.run(heir)?;
    at_work.roster.keep_files();
    Ok(start::serve_to_the_end(shutdown, at_work, settings, &log))
}

/// For each offered service, the address of the service that it becomes here, if any.
fn heirs(offered: &[OfferedService], services: &[(ServiceSpec, Resolved)]) -> Vec<Option<Address>> {
    let now: Vec<ListenSpan> = offered.iter().map(span_of).collect();
    let wanted: Vec<ListenSpan> = services.iter().map(|(_, found)| found.span()).collect();
    let mut heirs = vec![None; offered.len()];
    for (was, number) in plan::pair(&now, &wanted).kept {
        heirs[was] = Some(wanted[number].first());
    }
    heirs
}

/// Tells the service manager to drop listeners of the predecessor that nobody serves any more.
fn forget_listeners(offered: &[OfferedService], at_work: &AtWork) {
    let Some(served) = at_work.roster.listeners() else { return };
    // The manager has Unix sockets by their files, too: one that was made anew is another one.
    let served: HashSet<String> = served.iter().filter_map(|(listener, _)| kept_place(listener)).collect();
    let places = offered.iter().flat_map(|one| {
        let file = one.file.map(|(device, number)| SocketFileId { device, number });
        one.listen.iter().map(move |at| place_of(*at, file))
    });
    places
        .flatten()
        .filter(|place| !served.contains(place))
        .for_each(|place| process::forget_listener(&place));
}

/// A serving process, and the channel that starts taking connections over from the given stream.
type Serving = (Shutdown, AtWork, SyncSender<(HandoverStream, Successor)>);

/// The part of the handover until this process serves.
struct Taking<'a> {
    settings: &'a ProcessSpec,
    kept: Kept,
    web: Option<Web>,
    environment: &'a Environment,
    services: Option<Vec<(ServiceSpec, Resolved)>>,
    origin: Option<Origin>,
    assembly: Option<Assembly>,
    log: Log,
    means: Means,
    /// For each offered service, the address of the service that it becomes here, if it is served here.
    heirs: Vec<Option<Address>>,
}

impl Taking<'_> {
    fn run(mut self, heir: &mut Heir) -> Result<(Shutdown, AtWork), Failure> {
        let Some(mut stream) = heir.stream.take() else { return Err(self.failed("it was begun already")) };
        let mut deeds = VecDeque::from(heir.machine.learn(SuccessorNews::Prepared(Ok(()))));
        let mut go: Option<Box<Go>> = None;
        let mut served: Option<Serving> = None;
        loop {
            while let Some(deed) = deeds.pop_front() {
                match deed {
                    SuccessorDeed::Send(word) => {
                        let is_serving = word == SuccessorWord::Serving;
                        let acceptance = self.acceptance();
                        let news = match send(&stream, &word, Some(&acceptance)) {
                            Ok(()) => SuccessorNews::Sent(word),
                            Err(_) => SuccessorNews::Unsent(word),
                        };
                        deeds.extend(heir.machine.learn(news));
                        if is_serving && let Some((shutdown, at_work, begin)) = served.take() {
                            // The thread waits for this.
                            let _ = begin.send((stream, heir.machine.clone()));
                            return Ok((shutdown, at_work));
                        }
                    }
                    SuccessorDeed::Serve { listeners_only } => {
                        let result = match listeners_only {
                            true => self.serve_afresh(heir),
                            false => self.serve(heir, go.take().map_or_else(Go::default, |go| *go)),
                        };
                        let outcome = result.as_ref().map(|_| ()).map_err(|failure| failure.message.clone());
                        match result {
                            Ok(one) => served = Some(one),
                            // Clients may have come in already; they go with this process.
                            Err(failure) => self
                                .log
                                .tell(&Event::Note { severity: Severity::Error, text: failure.message }),
                        }
                        deeds.extend(heir.machine.learn(SuccessorNews::Served(outcome)));
                    }
                    SuccessorDeed::GoOnAlone { .. } => {
                        let text = format!("process {} has died; its ports are served on", heir.predecessor);
                        self.log.tell(&Event::Note { severity: Severity::Warning, text });
                        let (shutdown, at_work, _) = self.serve_afresh(heir)?;
                        return Ok((shutdown, at_work));
                    }
                    SuccessorDeed::Settle(_) => {
                        let Some((shutdown, at_work, _)) = served.take() else {
                            return Err(self.failed("it was over"));
                        };
                        return Ok((shutdown, at_work));
                    }
                    SuccessorDeed::End(why) => return Err(self.failed(&why)),
                    SuccessorDeed::Prepare
                    | SuccessorDeed::Check(_)
                    | SuccessorDeed::Adopt(_)
                    | SuccessorDeed::Drop(_)
                    | SuccessorDeed::Trim => {}
                }
            }
            let news = receive(&mut stream);
            deeds.extend(match news {
                Ok(Some((message, ..))) => {
                    let more = heir.machine.learn(SuccessorNews::Heard(&message));
                    if let FromPredecessor::Go(state) = message {
                        go = Some(state);
                    }
                    more
                }
                Ok(None) => heir.machine.learn(SuccessorNews::PredecessorEnded),
                Err(e) => heir.machine.learn(SuccessorNews::Garbled(e.to_string())),
            });
        }
    }

    fn failed(&self, why: &str) -> Failure {
        Failure::new(exit::OS, format!("balance: cannot take over: {why}"))
    }

    fn acceptance(&self) -> Acceptance {
        let services = self.heirs.iter().enumerate().filter_map(|(number, heir)| heir.map(|_| number));
        Acceptance {
            format: FORMAT,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            services: services.collect(),
        }
    }

    /// Serves with the whole state of the predecessor.
    fn serve(&mut self, heir: &mut Heir, go: Go) -> Result<Serving, Failure> {
        let mut wanted = self.services.take().unwrap_or_default();
        let Some(assembly) = self.assembly.take() else { return Err(self.failed("it was begun already")) };
        // A service that an operator has stopped since the offer stays stopped.
        let stopped = go.services.iter().zip(&self.heirs).filter(|(record, _)| record.killed);
        let stopped: Vec<Address> = stopped.filter_map(|(_, heir)| *heir).collect();
        wanted.retain(|(_, found)| !stopped.contains(&found.place()));
        if wanted.is_empty() {
            return Err(self.failed("no service takes clients any more"));
        }
        assembly.server.number_above(go.next_id);
        // No client is accepted until all of the state is in force.
        assembly.server.hold_doors();
        let mut numbers = Vec::new();
        let mut legacies = Vec::new();
        let mut expected = Vec::new();
        let mut holds: HashMap<usize, Vec<(ChannelKey, u32)>> = HashMap::new();
        let owners: Vec<Owner> = go.services.iter().map(|_| Owner::new_service()).collect();
        self.log.inherit(past::events(&go.events, &owners));
        if go.debug.is_some() {
            self.log.set_debug(go.debug);
        }
        let all = go.services.into_iter().zip(&heir.offer.services).zip(&mut heir.listeners);
        for (number, ((record, offered), listeners)) in all.enumerate() {
            if self.heirs.get(number).copied().flatten().is_none() || record.killed {
                continue;
            }
            for group in &record.table.groups {
                for (at, channel) in group.channels.iter().enumerate() {
                    if let (Some(channel), Some(key)) = (channel, ChannelKey::new(group.number, at)) {
                        holds.entry(number).or_default().push((key, channel.active));
                    }
                }
            }
            numbers.push(number);
            expected.push(record.connections);
            let (offered, listeners) = (offered.clone(), std::mem::take(listeners).into_values().collect());
            legacies.push(Legacy { offered, record, listeners, owner: owners[number] });
        }
        let is_alone = wanted.len() == 1 && legacies.len() == 1;
        // They were read a moment ago, and clients wait, so they are not read again.
        let lists: Vec<Lists> = wanted.iter().map(|(_, found)| found.lists.clone()).collect();
        let inherited = assembly.roster.inherit(legacies, is_alone, &lists, |at, tables| {
            let service = numbers[at];
            let mine = holds.get(&service).into_iter().flatten().filter(|&&(_, active)| active > 0);
            let mut table = SharedTable::lock(tables);
            mine.filter_map(|&(key, active)| Some(((service, key), table.hold(key, active)?))).collect()
        });
        let (services, held) = inherited.map_err(|e| self.failed(&e.to_string()))?;
        services.iter().zip(expected).for_each(|((running, _), clients)| running.expect(clients));
        let services: HashMap<usize, (Running, SharedTable)> = numbers.into_iter().zip(services).collect();
        for change in assembly.roster.settle(wanted)? {
            self.log.tell(&Event::Note { severity: Severity::Notice, text: format!("upgrade: {change}") });
        }
        let inheritance = Arc::new(Inheritance {
            pid: heir.predecessor,
            draining: go.connections.into(),
            is_coming: true.into(),
            ..Inheritance::default()
        });
        let server = assembly.server.clone();
        let clock = assembly.clock;
        // The changes by hand came with the tables, so they are not restored from the state file.
        let kept = std::mem::take(&mut self.kept);
        let from = Some(Arc::clone(&inheritance));
        let (shutdown, at_work) = self.let_controllers_in(heir, assembly, kept, from)?;
        forget_listeners(&heir.offer.services, &at_work);
        let (log, done, doors) = (self.log.clone(), shutdown.notifier(), server.clone());
        let incoming = Incoming { server, clock, services, held, inheritance, log, done, batch: None };
        // This comes before any client: if it failed later, the connections could not be taken over any more.
        let begin = incoming
            .take_in()
            .map_err(|e| self.failed(&format!("cannot start a thread to take connections over: {e}")))?;
        heir.let_go();
        doors.release_doors();
        at_work.roster.warn_of_ways();
        Ok((shutdown, at_work, begin))
    }

    /// Serves with the predecessor's listeners, and nothing else of its state.
    fn serve_afresh(&mut self, heir: &mut Heir) -> Result<Serving, Failure> {
        let wanted = self.services.take().unwrap_or_default();
        let Some(assembly) = self.assembly.take() else { return Err(self.failed("it was begun already")) };
        let mut kept = std::mem::take(&mut self.kept);
        kept.read();
        let got = |_, place| {
            heir.take_listener(place).or_else(|| assembly.roster.take_bound(place).map(Got::Bound))
        };
        let prepared = start::prepare(wanted, &mut kept, got, self.means.workers(), start::seed())?;
        assembly.roster.open(prepared).map_err(|e| self.failed(&e.to_string()))?;
        kept.tell(&self.log);
        let (shutdown, at_work) = self.let_controllers_in(heir, assembly, kept, None)?;
        heir.let_go();
        // No connections will come.
        let (begin, _) = sync_channel(1);
        Ok((shutdown, at_work, begin))
    }

    fn let_controllers_in(
        &mut self,
        heir: &mut Heir,
        assembly: Assembly,
        kept: Kept,
        inheritance: Option<Arc<Inheritance>>,
    ) -> Result<(Shutdown, AtWork), Failure> {
        let inherited = heir.take_endpoint().and_then(|endpoint| {
            endpoint.map_err(|e| self.log.tell(&Event::NoRendezvous { cause: e.to_string() })).ok()
        });
        let group = self.settings.control_group.as_ref().map(|group| &group.name[..]);
        let endpoint = match inherited {
            Some(endpoint) => Some(environment::regroup(endpoint, group, &self.log)?),
            None => environment::bind(assembly.roster.names(), group, self.environment, &self.log)?,
        };
        let Some(origin) = self.origin.take() else { return Err(self.failed("it was begun already")) };
        let keeper = start::keep(kept, &assembly, &self.log);
        let (shutdown, at_work) =
            controllers::serve((endpoint, self.web.take()), assembly, origin, keeper, inheritance, &self.log);
        at_work.roster.list_all();
        at_work.upgrader.set_heir();
        Ok((shutdown, at_work))
    }
}

/// A batch of connections that was received.
struct Batched {
    batch: Batch,
    attached: Vec<u8>,
    descriptors: Result<Vec<OwnedFd>, DescriptorsLost>,
    /// The connections made from it.
    arriving: Vec<Arriving>,
}

/// The part of the handover in which connections come.
struct Incoming {
    server: Server,
    clock: Clock,
    services: HashMap<usize, (Running, SharedTable)>,
    /// Slots of connections that the predecessor still has.
    held: HashMap<(usize, ChannelKey), HeldSlots>,
    inheritance: Arc<Inheritance>,
    log: Log,
    /// Notified when no more connections will come.
    done: Notifier,
    /// A received batch that is not ours yet.
    batch: Option<Batched>,
}

impl Incoming {
    /// Starts the thread that takes connections over. It begins when it gets the stream, and ends when no
    /// more connections will come.
    ///
    /// # Errors
    /// There is no thread for it.
    fn take_in(mut self) -> io::Result<SyncSender<(HandoverStream, Successor)>> {
        let (begin, begun) = sync_channel::<(HandoverStream, Successor)>(1);
        let work = move || {
            match begun.recv() {
                Ok((stream, mut machine)) => self.run(stream, &mut machine),
                // The predecessor has ended already.
                Err(_) => self.settle(Settlement::Ended, &Done::default()),
            }
            self.inheritance.is_coming.store(false, Ordering::SeqCst);
            self.done.drained();
        };
        thread::Builder::new().name("succession".into()).spawn(work)?;
        Ok(begin)
    }

    fn run(&mut self, mut stream: HandoverStream, machine: &mut Successor) {
        while !machine.is_over() {
            let news = receive(&mut stream);
            let mut left = Vec::new();
            let mut done = Done::default();
            let deeds = match news {
                Ok(Some((message, attached, descriptors))) => {
                    let deeds = machine.learn(SuccessorNews::Heard(&message));
                    match message {
                        FromPredecessor::Batch(batch) if self.batch.is_none() => {
                            self.batch = Some(Batched { batch, attached, descriptors, arriving: Vec::new() });
                        }
                        FromPredecessor::Left(counts) => left = counts,
                        FromPredecessor::Done(all) => done = all,
                        _ => {}
                    }
                    deeds
                }
                Ok(None) => machine.learn(SuccessorNews::PredecessorEnded),
                Err(e) => machine.learn(SuccessorNews::Garbled(e.to_string())),
            };
            let mut deeds = VecDeque::from(deeds);
            while let Some(deed) = deeds.pop_front() {
                match deed {
                    SuccessorDeed::Send(word) => {
                        let news = match send(&stream, &word, None) {
                            Ok(()) => SuccessorNews::Sent(word),
                            Err(_) => SuccessorNews::Unsent(word),
                        };
                        deeds.extend(machine.learn(news));
                    }
                    SuccessorDeed::Check(number) => {
                        let room = self.check();
                        deeds.extend(machine.learn(SuccessorNews::Checked(number, room)));
                    }
                    SuccessorDeed::Adopt(_) => self.adopt(),
                    SuccessorDeed::Drop(_) => self.batch = None,
                    SuccessorDeed::Trim => self.trim(&left),
                    SuccessorDeed::Settle(how) => self.settle(how, &done),
                    SuccessorDeed::End(why) => {
                        // This process serves, so it goes on with what it has.
                        let text = format!("upgrade: cannot understand the old process: {why}");
                        self.log.tell(&Event::Note { severity: Severity::Error, text });
                        self.settle(Settlement::Ended, &done);
                    }
                    SuccessorDeed::Prepare
                    | SuccessorDeed::Serve { .. }
                    | SuccessorDeed::GoOnAlone { .. } => {}
                }
            }
        }
    }

    /// Reserves descriptors for a batch, and checks that it is valid.
    fn check(&mut self) -> Result<(), String> {
        let Some(mut batched) = self.batch.take() else { return Err("there is no batch".to_owned()) };
        let count = batched.batch.connections.len();
        let reserved = self.server.admits(count).ok_or("no descriptors are left for them");
        let arriving = reserved.map_err(str::to_owned).and_then(|taken| self.unfold(&mut batched, taken));
        let result = arriving.map(|arriving| batched.arriving = arriving);
        self.batch = Some(batched);
        result
    }

    /// Makes connections from the received records and descriptors.
    fn unfold(&mut self, batched: &mut Batched, taken: Vec<Reserved>) -> Result<Vec<Arriving>, String> {
        let descriptors = std::mem::replace(&mut batched.descriptors, Ok(Vec::new()));
        let mut descriptors = descriptors.map_err(|e| e.to_string())?.into_iter();
        let mut bytes = &batched.attached[..];
        let mut arriving = Vec::new();
        for (record, taken) in batched.batch.connections.drain(..).zip(taken) {
            let (mine, rest) = bytes.split_at_checked(held_by(&record)).ok_or("bytes are missing")?;
            bytes = rest;
            let client = descriptors.next().ok_or("a descriptor is missing")?;
            let key = match &record.stage {
                StageRecord::Relaying(relaying) => ChannelKey::new(relaying.group, relaying.channel),
                StageRecord::Greeting | StageRecord::Unheard(_) | StageRecord::Waiting(_) => None,
            };
            let server = if key.is_some() { descriptors.next() } else { None };
            let found = self.services.get(&record.service).ok_or("its service is not served here")?;
            let slot = key.and_then(|key| {
                let held = self.held.get_mut(&(record.service, key)).and_then(HeldSlots::take);
                held.or_else(|| found.1.lock_at(self.clock.now()).slot(key))
            });
            let service = found.0.id();
            let one = Arriving { service, bytes: mine.to_vec(), client, server, slot, taken, record };
            one.check().map_err(|e| e.to_string())?;
            arriving.push(one);
        }
        Ok(arriving)
    }

    /// Takes over the batch.
    fn adopt(&mut self) {
        let Some(mut batched) = self.batch.take() else { return };
        if batched.arriving.is_empty() {
            // There was no room for all of it, and the predecessor is dead. So as many as possible are taken,
            // one by one.
            let reserved =
                (0..batched.batch.connections.len()).map_while(|_| self.server.admits(1)?.pop()).collect();
            batched.arriving = self.unfold(&mut batched, reserved).unwrap_or_default();
        }
        let count = batched.arriving.len() as u64;
        if let Err(e) = self.server.arrive(batched.arriving) {
            let text = format!("upgrade: {e}");
            return self.log.tell(&Event::Note { severity: Severity::Error, text });
        }
        self.inheritance.carried.fetch_add(count, Ordering::Relaxed);
        let left = self.inheritance.draining.load(Ordering::Relaxed);
        self.inheritance.draining.store(left.saturating_sub(count), Ordering::Relaxed);
    }

    /// Notes how many connections the predecessor still has.
    fn trim(&mut self, left: &[LeftCount]) {
        let mut now: HashMap<(usize, ChannelKey), u32> = HashMap::new();
        for one in left {
            if let Some(key) = ChannelKey::new(one.group, one.channel) {
                now.insert((one.service, key), one.active);
            }
        }
        for (of, held) in &mut self.held {
            held.shrink_to(now.get(of).copied().unwrap_or(0));
        }
        self.serve_lines();
    }

    fn serve_lines(&self) {
        self.services.values().for_each(|(running, _)| running.serve_line());
    }

    /// Ends the handover: no more connections will come.
    fn settle(&mut self, how: Settlement, done: &Done) {
        for one in &done.counted {
            if let (Some((_, table)), Some(key)) =
                (self.services.get(&one.service), ChannelKey::new(one.group, one.channel))
            {
                let mut table = table.lock_at(self.clock.now());
                let counts = ChannelCounts {
                    totalc: one.totalc,
                    failed: one.failed,
                    sent_bytes: one.sent_bytes,
                    rcvd_bytes: one.rcvd_bytes,
                    ended: Ended::restore(&one.tally),
                };
                table.add_counted(key, &counts);
            }
        }
        for one in &done.served {
            if let Some((_, table)) = self.services.get(&one.service) {
                table.lock().add_served(&ClientCounts::restore(&one.tally), &one.losses);
            }
        }
        for one in &done.ejected {
            if let (Some((running, table)), Some(key)) =
                (self.services.get(&one.service), ChannelKey::new(one.group, one.channel))
                && table.lock_at(self.clock.now()).take_ejection(key, &one.health)
            {
                running.table_changed();
            }
        }
        self.held.clear();
        // Clients that were still being connected are looked after when they arrive.
        self.server.settle();
        self.services.values().for_each(|(running, _)| running.expect_nobody());
        self.serve_lines();
        let carried = self.inheritance.carried.load(Ordering::Relaxed);
        self.inheritance.draining.store(done.draining, Ordering::Relaxed);
        let carried = counted(usize::try_from(carried).unwrap_or(usize::MAX), "connection");
        let text = match how {
            Settlement::Done => format!(
                "upgrade: {carried} carried from process {}, draining {}",
                self.inheritance.pid, done.draining
            ),
            Settlement::Ended => {
                format!("upgrade: process {} has ended; {carried} carried from it", self.inheritance.pid)
            }
        };
        self.log.tell(&Event::Note { severity: Severity::Notice, text });
        *self.inheritance.asked.lock().unwrap_or_else(PoisonError::into_inner) = done.asked;
    }
}

fn held_by(record: &ConnectionRecord) -> usize {
    match &record.stage {
        StageRecord::Relaying(relaying) => relaying.relay.flows.iter().map(|flow| flow.held).sum(),
        StageRecord::Greeting | StageRecord::Unheard(_) | StageRecord::Waiting(_) => record.held,
    }
}
