//! The start of the serving process: bind, background, workers, controllers; and its end.
//!
//! Knows: the order of start and stop. Never: what a setting means, scheduling rules, byte copying.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use super::assembly::Assembly;
use super::circles;
use super::controllers::{self, AtWork};
use super::deadlines::Deadlines;
use super::environment::{self, Environment};
use super::fenced;
use super::heir::Heir;
use super::hooks::ProgramHooks;
use super::keeper::{self, Bell, Keeper};
use super::kept::{self, Kept};
use super::lists::ListWatch;
use super::lockdown;
use super::lookup::Resolved;
use super::origin::Origin;
use super::plan::{self, LineSource, LinedGroup};
use super::prepared::{BIND_PATIENCE, Got, Parts, Prepared, Served};
use super::roster::{Roster, Source, Tools, Written};
use super::scribe::{self, OpenedLog, Scribe};
use super::stop;
use super::web::{self, Web};
use super::{Failure, NOT_STARTED, counted, exit, passed, refused, replace, ways};
use crate::control::{Endpoint, HttpServer};
use crate::names::{Resolver, resolve};
use crate::net::server::{Options, Server};
use crate::observe::{Dump, Event, Log, Severity};
use crate::probe::Minder;
use crate::process::{self, Cause, Detached, Hangup, PassedListener, Shutdown};
use crate::spec::{Address, ListenSpan, Member, Name, ProcessSpec, ServiceSpec};
use crate::sys::{Clock, descriptors, given};

/// Descriptors that a process needs besides its listeners: the control socket, its directory and two to wake
/// it, three of the signal pipe, two of the health thread. A test compares this with a real process.
const OWN: usize = 9;
/// Descriptors of a worker: its poller and what wakes it.
const PER_WORKER: usize = 2;

/// The resources to serve with.
pub(super) struct Means {
    workers: usize,
    descriptor_limit: u64,
    own_descriptors: usize,
}

/// Raises the limit of open files, and counts what the process needs for itself. In the background, inherited
/// descriptors are closed. `offered`: number of open descriptors from another process, which become listeners
/// of this one or are closed.
///
/// # Errors
/// No descriptors would be left for a client.
pub(super) fn means(
    settings: &ProcessSpec,
    services: &[(ServiceSpec, Resolved)],
    passed: &[PassedListener],
    offered: usize,
) -> Result<Means, Failure> {
    let foreground = is_foreground(settings);
    if !foreground {
        // In the background, inherited descriptors would keep a file locked or a pipe open as long as we run.
        let ours: Vec<_> = passed.iter().map(|one| one.fd.as_fd()).collect();
        given::close_all_but(&ours);
    }
    let workers = settings.workers.map_or_else(process::cores, NonZeroUsize::get);
    let descriptor_limit = process::raise_descriptor_limit();
    let ports: usize = services.iter().map(|(_, found)| found.span().listeners()).sum();
    let listeners = ports.saturating_sub(passed.len());
    let log = Log::descriptors(foreground);
    let state = if settings.state.is_some() { keeper::DESCRIPTORS } else { 0 };
    let http = if settings.http.is_some() { HttpServer::descriptors(descriptor_limit) } else { 0 };
    let access = if settings.access_log.is_some() { scribe::DESCRIPTORS } else { 0 };
    let open = (given::open_below(descriptor_limit) + listeners).saturating_sub(offered);
    let own_descriptors = access + open + OWN + workers * PER_WORKER + log + state + http;
    if (own_descriptors + descriptors::LEAST) as u64 > descriptor_limit {
        return Err(too_few_descriptors(
            descriptor_limit,
            own_descriptors + descriptors::LEAST,
            workers,
            ports,
        ));
    }
    Ok(Means { workers, descriptor_limit, own_descriptors })
}

/// A number that cannot be predicted.
pub(super) fn seed() -> u64 {
    RandomState::new().hash_one(std::process::id())
}

pub(super) fn is_foreground(settings: &ProcessSpec) -> bool {
    settings.foreground || process::is_init()
}

/// Starts to serve, and serves until the end. Returns the exit code. In the background, the caller returns as
/// soon as the instance serves.
///
/// # Errors
/// What was typed cannot be served.
pub(super) fn start(
    settings: &ProcessSpec,
    services: Vec<(ServiceSpec, Resolved)>,
    passed: Vec<PassedListener>,
    source: Option<Source>,
    origin: Origin,
    environment: &Environment,
    heirs: &mut [Heir],
) -> Result<u8, Failure> {
    let warn = Log::stderr(settings.debug).timed(settings.log_time);
    environment.warn(&warn);
    fenced::tell_refused(&warn);
    let foreground = is_foreground(settings);
    let Means { workers, descriptor_limit, own_descriptors } =
        means(settings, &services, &passed, heirs.iter().map(Heir::descriptor_count).sum())?;
    // All random choices depend on this number.
    let seed = seed();
    let is_on_its_own = heirs.is_empty() && passed.is_empty();
    let mut passed = passed::assign(passed, &services)?;
    let mut kept = match heirs.is_empty() {
        true => kept::take(settings.state.as_ref(), source.as_ref(), &warn),
        // The process that is replaced uses the file until this one serves.
        false => kept::replace(settings.state.as_ref(), source.as_ref(), &warn),
    };
    let got = |number: usize, place: Address| {
        let passed = passed.get_mut(number).and_then(|passed| passed.remove(&place.port()));
        passed.map(Got::from).or_else(|| heirs.iter_mut().find_map(|heir| heir.take_listener(place)))
    };
    let specs = services.iter().map(|(spec, _)| spec);
    let fence = lockdown::fence(settings, specs, source.as_ref(), &origin, environment);
    let channels = services.iter().flat_map(|(spec, _)| &spec.groups).flat_map(|group| &group.members);
    let channels = channels.filter(|member| matches!(member, Member::Channel(_))).count();
    let spans: Vec<ListenSpan> = services.iter().map(|(_, found)| found.span()).collect();
    let unknown_groups = refused::socket_groups(services.iter().map(|(spec, _)| spec));
    if let Some(failure) = Failure::first_or_all(unknown_groups, NOT_STARTED) {
        return Err(failure);
    }
    if is_on_its_own {
        replace::refuse_hidden(&services, environment)?;
    }
    let prepared = prepare(services, &mut kept, got, workers, seed).map_err(|mut failure| {
        if failure.is_place_taken {
            let advice = replace::advice(&spans, !heirs.is_empty(), environment);
            // Several failures are a list with an end of its own.
            let is_one = failure.message.trim_end().lines().count() == 1;
            let Some(advice) = advice.or_else(|| is_one.then(|| who_has_it(&spans))) else { return failure };
            failure.message = format!("{}\n{advice}", failure.message.trim_end());
        }
        failure
    })?;
    let web = web::open(settings, |wanted| heirs.iter_mut().find_map(|heir| heir.take_http(&wanted)))?;
    let access = scribe::open(settings, foreground)?;
    process::forbid_core_files();
    let all: Vec<&Prepared> = prepared.iter().map(|(one, _)| one).collect();
    warn_of_what_is_odd(settings, &all, foreground, &warn);
    let listen: Vec<ListenSpan> = all.iter().flat_map(|one| one.listen()).collect();
    let names = all.iter().map(|one| one.names()).collect();
    let endpoint = match heirs {
        // The control socket of the other process has these names already.
        [heir] => heir.take_endpoint().and_then(Result::ok),
        _ => None,
    };
    let group = settings.control_group.as_ref().map(|group| &group.name[..]);
    let endpoint = match endpoint {
        Some(endpoint) => Some(endpoint),
        None => environment::bind(names, group, environment, &warn)?,
    };
    let ready = if foreground {
        None
    } else {
        match process::detach() {
            Ok(Detached::Caller(verdict)) => {
                // These now belong to the instance in the background, so they must not be removed here.
                std::mem::forget(endpoint);
                prepared.iter().for_each(|(one, _)| one.leave_files());
                return match verdict.code {
                    0 => Ok(0),
                    code => Err(Failure::new(code, verdict.message)),
                };
            }
            Ok(Detached::Instance(ready)) => Some(ready),
            Err(e) => return Err(Failure::new(exit::OS, format!("balance: {e}"))),
        }
    };
    // This comes before the first thread, since it must apply to all of them.
    fence.iter().for_each(|fence| lockdown::close(fence, &warn));
    if foreground {
        warn.never_wait();
    }
    // In the background, the log goes to syslog.
    let caller = (!foreground).then(|| warn.clone());
    let log = if foreground { warn } else { Log::syslog(settings.debug).remembering(&warn) };
    if !foreground {
        kept.warn_again(&log);
    }
    kept.tell(&log);
    let means = Means { workers, descriptor_limit, own_descriptors };
    let make = means.make(settings, source, seed, &log, access);
    let given: io::Result<()> = heirs.iter_mut().try_for_each(Heir::begin);
    let begun = given.and_then(|()| run(make, prepared, (endpoint, web), (origin, kept), &log));
    for heir in heirs.iter_mut() {
        let text = format!(
            "the ports were taken over from process {}, which serves its connections to their end",
            heir.predecessor()
        );
        heir.let_go();
        heir.served(begun.as_ref().map(|_| ()).map_err(ToString::to_string));
        if begun.is_ok() {
            let note = Event::Note { severity: Severity::Notice, text };
            [Some(&log), caller.as_ref()].into_iter().flatten().for_each(|log| log.tell(&note));
        }
    }
    if let Ok((_, at_work)) = &begun {
        at_work.roster.keep_files();
    }
    if let Ok((_, at_work)) = &begun
        && !heirs.is_empty()
    {
        at_work.roster.list_all();
        at_work.upgrader.set_heir();
    }
    let (shutdown, at_work) = match (begun, ready) {
        (Ok(running), None) => running,
        (Ok(running), Some(ready)) => {
            // The failure was reported to the caller, who prints it.
            if ready.serving().is_err() {
                return Ok(exit::OS);
            }
            running
        }
        (Err(e), ready) => {
            let message = not_begun(&e);
            return match ready {
                Some(ready) => {
                    ready.failed(exit::OS, &message);
                    Ok(exit::OS)
                }
                None => Err(Failure::new(exit::OS, message)),
            };
        }
    };
    log.greet(&greeting(&listen, channels));
    log.tell(&Event::Started { listen, pid: std::process::id() });
    Ok(serve_to_the_end(shutdown, at_work, settings, &log))
}

/// What to type about a port that another program has.
fn who_has_it(wanted: &[ListenSpan]) -> String {
    match wanted {
        [span] if span.unix().is_none() && span.listeners() == 1 => {
            format!("balance: find what has the port: ss -ltnp 'sport = :{}'", span.first().port())
        }
        [span] if span.unix().is_some() => "balance: find what listens there: ss -lxp".to_owned(),
        _ => "balance: find what has the ports: ss -ltnp".to_owned(),
    }
}

/// Makes services from their lines, including changes by hand. `got` is asked for an existing listener for
/// each address of the service with this number.
///
/// # Errors
/// Ports that cannot be bound.
pub(super) fn prepare(
    services: Vec<(ServiceSpec, Resolved)>,
    kept: &mut Kept,
    mut got: impl FnMut(usize, Address) -> Option<Got>,
    workers: usize,
    seed: u64,
) -> Result<Vec<(Prepared, Vec<LinedGroup>)>, Failure> {
    let (mut patience, mut failures) = (BIND_PATIENCE, Vec::new());
    let mut prepared = Vec::new();
    kept.pair(&services.iter().map(|(_, found)| found.span()).collect::<Vec<_>>());
    for (number, (spec, mut found)) in services.into_iter().enumerate() {
        let groups = plan::lined(&spec.groups, &found.channels);
        kept.restore(&spec, &mut found);
        match Prepared::new(spec, found, |place| got(number, place), workers, seed, &mut patience) {
            Ok(one) => prepared.push((one, groups)),
            Err(failure) => failures.push(failure),
        }
    }
    if let Some(failure) = Failure::several(failures, NOT_STARTED) {
        return Err(failure);
    }
    if prepared.len() > 1 {
        prepared.iter_mut().for_each(|(one, _)| one.joins_others());
    }
    Ok(prepared)
}

/// The message if the parts of a process cannot be started.
pub(super) fn not_begun(error: &io::Error) -> String {
    // Only the start of a thread fails in this way.
    let why = match error.kind() {
        io::ErrorKind::WouldBlock => {
            "; the user has too many threads (ulimit -u), or the service has (TasksMax= in the unit, pids.max of a container)"
        }
        _ => "",
    };
    format!("balance: cannot start: {error}{why}")
}

/// What a start in the foreground prints on a terminal.
fn greeting(listen: &[ListenSpan], channels: usize) -> String {
    /// Maximum number of addresses in the line.
    const MOST_LISTED: usize = 8;
    let first: Vec<String> = listen.iter().take(MOST_LISTED).map(ToString::to_string).collect();
    let more = match listen.len().saturating_sub(MOST_LISTED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let services = match listen.len() {
        1 => String::new(),
        services => format!("{}, ", counted(services, "service")),
    };
    format!("listening on {}{more}: {services}{}", first.join(", "), counted(channels, "channel"))
}

/// Serves until the end. Returns the exit code.
pub(super) fn serve_to_the_end(shutdown: Shutdown, at_work: AtWork, settings: &ProcessSpec, log: &Log) -> u8 {
    at_work.reporter.begin(log);
    let cause = stop::await_the_end(shutdown, &at_work, settings.drain_timeout, log);
    match (cause, at_work.upgrader.successor()) {
        // The service goes on elsewhere, so this is no news for event programs.
        (Cause::Drained, Some(successor)) => log.tell_again(&Event::Note {
            severity: Severity::Info,
            text: format!("no connection is left here, and process {} serves", successor.as_raw_nonzero()),
        }),
        (Cause::Drained, None) => log.tell(&Event::Drained),
        _ => log.tell(&Event::Stopping { connections: at_work.connections(), within: None }),
    }
    at_work.reporter.stops(Duration::ZERO);
    at_work.end(cause);
    0
}

impl Means {
    pub(super) fn workers(&self) -> usize {
        self.workers
    }

    /// The parts for a process with these resources.
    pub(super) fn make<'a>(
        &self,
        settings: &'a ProcessSpec,
        source: Option<Source>,
        seed: u64,
        log: &Log,
        access: Option<OpenedLog>,
    ) -> Make<'a> {
        let foreground = is_foreground(settings);
        let options = Options {
            workers: self.workers,
            busy_poll: settings.busy_poll.unwrap_or(false),
            loopback_congestion: settings.loopback_congestion.as_ref().map(|named| named.name.clone()),
            seed,
            access: None,
            dump: (settings.dump && foreground).then(|| Dump::stdout(log.clone())),
            descriptor_limit: self.descriptor_limit,
            own_descriptors: self.own_descriptors,
            first_id: 0,
        };
        let hangup = Hangup::of_this_process(foreground, given::ignores(process::HANGUP));
        Make { settings, source, options, hangup, access }
    }
}

/// What is needed to assemble the process.
pub(super) struct Make<'a> {
    pub(super) settings: &'a ProcessSpec,
    pub(super) source: Option<Source>,
    pub(super) options: Options,
    pub(super) hangup: Hangup,
    /// The access log, if there is one.
    pub(super) access: Option<OpenedLog>,
}

/// Starts signals, workers and the health thread.
///
/// # Errors
/// There is no thread or descriptor for it.
pub(super) fn assemble(
    Make { settings, source, mut options, hangup, access }: Make<'_>,
    clock: Clock,
    log: &Log,
) -> io::Result<Assembly> {
    let shutdown = Shutdown::install(hangup)?;
    let scribe = access.map(|access| access.start(log)).transpose()?;
    options.access = scribe.as_ref().map(Scribe::access);
    let [notifier, done, news] = [(); 3].map(|()| shutdown.notifier());
    let (workers, seed) = (options.workers, options.seed);
    let server = Server::start(clock, log, options, move || notifier.drained())?;
    let minder = Minder::start(clock, log, server.budget())?;
    let hooks = ProgramHooks::new(log, clock);
    let names = Resolver::new(clock, log, seed, resolve::answer);
    let tools = Tools {
        server: server.clone(),
        minder: minder.clone(),
        names: names.clone(),
        hooks,
        lists: ListWatch::new(log),
        rates: Arc::default(),
        clock,
        log: log.clone(),
        workers,
        seed,
    };
    let lines = if source.is_some() { LineSource::File } else { LineSource::CommandLine };
    let (checks, stays, process) = (minder.clone(), names.clone(), settings.clone());
    let deadlines = Arc::new(Deadlines::new(news));
    let (ends, bell) = (Arc::clone(&deadlines), Arc::new(Bell::default()));
    let [changes, reread] = [(); 2].map(|()| Arc::clone(&bell));
    let manage = move |served: &Served, written: &Arc<RwLock<Written>>| {
        controllers::manage(served, written, ((&checks, &stays), &process, clock), (&ends, &changes), lines)
    };
    let done = move || {
        reread.changed();
        done.drained();
    };
    let roster = Arc::new(Roster::new(tools, settings.clone(), source, manage, done));
    Ok(Assembly { scribe, shutdown, server, minder, names, clock, deadlines, bell, roster })
}

/// Starts the data plane and lets controllers in.
fn run(
    make: Make<'_>,
    prepared: Vec<(Prepared, Vec<LinedGroup>)>,
    doors: (Option<Endpoint>, Option<Web>),
    (origin, kept): (Origin, Kept),
    log: &Log,
) -> io::Result<(Shutdown, AtWork)> {
    let assembly = assemble(make, Clock::start(), log)?;
    assembly.roster.open(prepared)?;
    let keeper = keep(kept, &assembly, log);
    Ok(controllers::serve(doors, assembly, origin, keeper, None, log))
}

/// Starts to keep what operators change. If that is not possible, balance serves all the same.
pub(super) fn keep(kept: Kept, Assembly { roster, bell, .. }: &Assembly, log: &Log) -> Keeper {
    let bell = Arc::clone(bell);
    let Some(place) = kept.place else { return Keeper::none(bell) };
    let seen = Arc::clone(roster);
    Keeper::start(Arc::clone(&bell), place, move || seen.look(), log.clone()).unwrap_or_else(|e| {
        let text = format!("state file: balance keeps no changes, since no thread could be started: {e}");
        log.tell(&Event::Note { severity: Severity::Error, text });
        Keeper::none(bell)
    })
}

/// The failure for too low a limit: it is better to say so now than to refuse clients later.
fn too_few_descriptors(limit: u64, needed: usize, workers: usize, ports: usize) -> Failure {
    let threads = if workers == 1 { "worker" } else { "workers" };
    let (with, fewer) = match ports {
        0 | 1 => (String::new(), "--workers"),
        ports => (format!(" on {ports} ports"), "ports"),
    };
    let text = format!(
        "balance: the limit of open files is {limit}, but {needed} are needed to serve one client{with} with {workers} {threads}; \
         raise it (ulimit -n), or use fewer {fewer}"
    );
    Failure::new(exit::OS, text)
}

/// The arguments that name a service for `-c`.
fn asked_by(spec: &ServiceSpec, span: ListenSpan) -> String {
    match (&spec.name, span.first()) {
        (Some(name), _) => name.as_str().to_owned(),
        (None, Address::Unix(name)) => name.to_string(),
        (None, Address::Net(at)) if !at.ip().is_unspecified() => {
            format!("-b {} {}", at.ip().to_canonical(), at.port())
        }
        (None, Address::Net(at)) if at.is_ipv6() => format!("-6 {}", at.port()),
        (None, Address::Net(at)) => at.port().to_string(),
    }
}

/// Warns of settings that are possible but hardly intended.
fn warn_of_what_is_odd(settings: &ProcessSpec, services: &[&Prepared], foreground: bool, warn: &Log) {
    let tell = |text| warn.tell(&Event::Note { severity: Severity::Warning, text });
    if settings.dump && !foreground {
        tell("-p needs -f: the packet dump is off in the background".into());
    }
    for service in services {
        let spec = &service.parts.spec;
        let now = service.parts.table.lock().snapshot();
        if now.groups.iter().all(|group| group.channels.is_empty()) {
            let text = format!(
                "no channels: every client is closed until you create one: balance -c \"create HOST PORT; enable 0\" {}",
                asked_by(spec, service.listen().first().copied().unwrap_or(service.parts.span))
            );
            service.log(warn).tell(&Event::Note { severity: Severity::Warning, text });
        }
        let checks = refused::why_no_programs(spec).into_iter().map(|(_, why)| why);
        for text in checks.chain(spec.on_change.as_ref().and_then(refused::why_no_hook)) {
            // The program may be installed later, so this is only a warning.
            service.log(warn).tell(&Event::Note { severity: Severity::Warning, text });
        }
        if (spec.socket_mode.is_some() || spec.socket_group.is_some())
            && service.listeners.iter().all(|one| one.lacks_file())
        {
            let text = "balance has not made this socket, so --socket-mode and --socket-group have no effect: whoever made it sets its \
                        permissions (systemd: SocketMode=, SocketGroup=)";
            service.log(warn).tell(&Event::Note { severity: Severity::Warning, text: text.into() });
        }
    }
    let mut names = services.iter().filter_map(|service| service.parts.spec.name.as_ref()).peekable();
    if names.peek().is_some() {
        let ports = resolve::service_ports();
        for name in names.map(Name::as_str) {
            // After the end of this process, a command meant for it would reach another instance on that
            // port.
            if let Some(port) = ports.get(name) {
                tell(format!(
                    "service {name}: this is also the name of port {port}. While this process does not run, commands for \
                     {name} go to the instance on port {port}. Choose another name"
                ));
            }
        }
    }
    for service in services {
        let Parts { outgoing, span, table, .. } = &service.parts;
        let sources = ways::missing_sources(outgoing).map(|(text, _)| text);
        let now = outgoing.transparent.then(|| table.lock().snapshot());
        // The channels of the line were checked already, but not those that were changed by hand and
        // restored.
        let lacks = now.iter().filter_map(|now| ways::transparent_sign(*span, outgoing, now));
        let lacks = lacks.map(|sign| ways::in_words(&sign));
        let unrouted = now.iter().filter_map(|now| ways::unrouted(*span, outgoing, now));
        for text in sources.into_iter().chain(lacks).chain(unrouted) {
            service.log(warn).tell(&Event::Note { severity: Severity::Warning, text });
        }
    }
    for (service, text) in circles::warnings(services) {
        services[service].log(warn).tell(&Event::Note { severity: Severity::Warning, text });
    }
}
