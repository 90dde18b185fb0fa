//! How operators control an instance: what its commands may do to the other rooms.
//!
//! Knows: the public interfaces of control and net. Never: where the control socket is, a command's syntax, the
//! protocol.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use super::assembly::Assembly;
use super::deadlines::Deadlines;
use super::doctor::{self, Watch};
use super::environment::Environment;
use super::keeper::{Bell, Keeper};
use super::origin::{Inheritance, Origin};
use super::plan::{self, LineSource};
use super::prepared::Served;
use super::reporter::Reporter;
use super::roster::{Roster, Written};
use super::saved;
use super::scribe::Scribe;
use super::upgrade::Upgrader;
use super::web::{self, Web};
use crate::config;
use crate::control::{
    Control, Endpoint, EndpointOptions, HostPort, HttpServer, ManagedService, Plane, Port, ProcessHands,
    Register, ResolvedName, Services,
};
use crate::handover::message::EndAsked;
use crate::names::{NameReport, Residence, Resolver, resolve};
use crate::net::server::{Running, Server};
use crate::observe::{Event, Log, Severity};
use crate::probe::{Alarm, Minder};
use crate::process::{self, Cause, Shutdown};
use crate::sched::{Addresses, SharedTable};
use crate::spec::{Address, PortWord, PortsSpec, ProcessSpec, ServiceSpec, UnixName};
use crate::sys::Clock;
use crate::sys::listen::ListenerHandle;

/// How long the command `resolve` waits for answers; most resolvers give up earlier.
const LOOKED_UP: Duration = Duration::from_secs(12);
/// How long the end of the process waits for an answer to be read.
const ANSWERED: Duration = Duration::from_secs(1);
/// The same if the process was told to end at once.
const INTERRUPTED: Duration = Duration::from_millis(50);
/// How long the end waits for event programs to receive the last events.
const HEARD: Duration = Duration::from_secs(1);
/// The same if the process was told to end at once.
const HEARD_AT_ONCE: Duration = Duration::from_millis(200);
/// How long the end waits for the last lines of the access log to be written.
const LOGGED: Duration = Duration::from_secs(2);
/// How long the end waits for the state file. If it takes longer, the disk hangs.
const KEPT: Duration = Duration::from_secs(5);

/// A running instance: the data plane, and the control socket unless it could not be made.
pub(super) struct AtWork {
    pub(super) clock: Clock,
    /// The time limits that operators set for draining.
    pub(super) deadlines: Arc<Deadlines>,
    keeper: Keeper,
    server: Server,
    minder: Minder,
    names: Resolver,
    control: Option<Arc<Control>>,
    services: Arc<Services>,
    /// Kept here because the HTTP server stops when it is dropped.
    _http: Option<Arc<HttpServer>>,
    pub(super) roster: Arc<Roster>,
    pub(super) upgrader: Arc<Upgrader>,
    /// The writer of the access log, if there is one.
    scribe: Option<Scribe>,
    /// Reports to the service manager.
    pub(super) reporter: Arc<Reporter>,
}

impl AtWork {
    /// Is there an access log?
    pub(super) fn writes_log(&self) -> bool {
        self.scribe.is_some()
    }

    /// Opens the access log again, if there is one, without waiting for that.
    pub(super) fn reopen_soon(&self) {
        if let Some(scribe) = &self.scribe {
            scribe.reopen_soon(self.roster.log());
        }
    }

    /// Stops taking clients: first the names go, except the one of this process, then the ports.
    pub(super) fn drain(&self) {
        // The state is written first, since the process that gets the port next reads it.
        self.keeper.finish();
        // Without a control socket, the services have to be marked here.
        if self.control.is_none() {
            self.services.retire();
        }
        if let Some((path, cause)) = self.control.as_ref().and_then(|control| control.drain()) {
            let cause = format!("no control socket at {}: {cause}", path.display());
            self.roster.log().tell(&Event::NoRendezvous { cause });
        }
        self.server.stop_listening();
    }

    /// Restores names of the control socket that somebody has deleted.
    pub(super) fn bring_names_back(&self) {
        let Some(control) = &self.control else { return };
        let log = self.roster.log();
        let again = || {
            Endpoint::bind(&EndpointOptions {
                directories: Environment::read().directories,
                services: self.roster.names(),
                group: self.roster.control_group(),
            })
        };
        let missed = match control.come_back(again) {
            None => return,
            Some(Ok(missed)) => missed,
            Some(Err(e)) => return log.tell(&Event::NoRendezvous { cause: e.to_string() }),
        };
        if missed.is_empty() {
            let text = "the control socket was deleted; balance has made it again".to_owned();
            log.tell(&Event::Note { severity: Severity::Warning, text });
        }
        for (path, cause) in missed {
            let cause = format!("no control socket at {}: {cause}", path.display());
            log.tell(&Event::NoRendezvous { cause });
        }
    }

    /// Another process has taken over. Makes this process reachable by its own name for what is left here.
    pub(super) fn go_apart(&self) {
        self.keeper.finish();
        let Some(control) = &self.control else { return };
        if let Err(cause) = control.go_apart() {
            self.roster.log().tell(&Event::NoRendezvous { cause: cause.to_string() });
        }
    }

    /// Is any service served, or does any have connections?
    pub(super) fn serves(&self) -> bool {
        self.server.has_services()
    }

    /// Ends everything that is left. The name is removed before the port is closed, so that the process that
    /// gets the port next finds the name free.
    pub(super) fn end(self, cause: Cause) {
        if let Some(control) = &self.control {
            control.remove();
        }
        let (patience, patience_for_hooks) = match cause {
            // After `kill`, its answer may still have to be sent.
            Cause::Drained => (ANSWERED, HEARD),
            _ => {
                self.server.shut_down();
                (INTERRUPTED, HEARD_AT_ONCE)
            }
        };
        self.minder.stop();
        self.names.stop();
        if let Some(control) = &self.control {
            control.stop(patience);
        }
        self.server.finish_dump();
        if let Some(scribe) = &self.scribe {
            scribe.stop(LOGGED, self.roster.log());
        }
        // Event programs are stopped after all else, so that they receive all events.
        self.roster.hooks().stop(patience_for_hooks);
        // The state is written last, after the last command was answered.
        if !self.keeper.stop(KEPT) {
            let text = "state file: the last changes are not written yet, since the disk does not answer";
            self.roster.log().tell(&Event::Note { severity: Severity::Error, text: text.into() });
        }
    }

    /// Number of clients being served.
    pub(super) fn connections(&self) -> u64 {
        self.server.connections() as u64
    }
}

/// Starts the services that control the instance: the control socket, if there is an endpoint, and HTTP.
pub(super) fn serve(
    (endpoint, web): (Option<Endpoint>, Option<Web>),
    assembly: Assembly,
    origin: Origin,
    keeper: Keeper,
    inheritance: Option<Arc<Inheritance>>,
    log: &Log,
) -> (Shutdown, AtWork) {
    let Assembly { scribe, shutdown, server, minder, names, clock, deadlines, roster, bell } = assembly;
    let loopback_congestion = server.loopback_congestion().map(str::to_owned);
    let upgrader = Upgrader::new(origin, server.clone(), Arc::clone(&roster), clock, shutdown.notifier());
    upgrader.set_keeps_state(keeper.keeps());
    // This must be known before an operator can ask for it.
    inheritance.into_iter().for_each(|from| upgrader.inherited(from));
    let watch = Watch::begin(&server, &roster, loopback_congestion, (log, scribe.clone(), Arc::clone(&bell)));
    let kept = keeper.keeps().then_some(bell);
    let services =
        Arc::new(Services::new(roster.services(), hands(&roster, &upgrader, watch, scribe.as_ref())));
    if let Some(scribe) = &scribe {
        let watched = server.clone();
        scribe.watch(clock, Box::new(move |due| watched.due(due)));
    }
    let control = endpoint.and_then(|endpoint| {
        crate::control::serve(endpoint, Arc::clone(&services))
            .map_err(|e| log.tell(&Event::NoRendezvous { cause: e.to_string() }))
            .ok()
    });
    let control = control.map(Arc::new);
    match &control {
        Some(control) => {
            roster.register(control.register());
            upgrader.attach(control);
        }
        None => roster.register(Register::without_names(Arc::clone(&services))),
    }
    let reporter = Reporter::new(server.clone(), Arc::clone(&services), Arc::clone(&roster));
    let http = web::serve(web, &services, (&server, control.as_ref()), (scribe.as_ref(), kept), clock, log);
    if let Some(http) = &http {
        upgrader.attach_http(http);
    }
    (
        shutdown,
        AtWork {
            clock,
            deadlines,
            keeper,
            server,
            minder,
            names,
            control,
            services,
            _http: http,
            roster,
            upgrader,
            scribe,
            reporter,
        },
    )
}

/// The actions on the process that operators have.
pub(super) fn hands(
    roster: &Arc<Roster>,
    upgrader: &Arc<Upgrader>,
    watch: Watch,
    scribe: Option<&Scribe>,
) -> ProcessHands {
    let [upgrades, gives, cancels, awaits, tells, stops] = [(); 6].map(|()| Arc::clone(upgrader));
    let (reloads, writes) = (Arc::clone(roster), scribe.cloned());
    ProcessHands {
        reload: Arc::new(move |clean| {
            let outcome = reloads.reload(clean);
            outcome.map_err(|failure| (failure.code != super::exit::LATER).then_some(failure.message))
        }),
        reopen: Arc::new(move || writes.as_ref().map(Scribe::reopen)),
        upgrade: Arc::new(move |path| upgrades.upgrade(path)),
        give: Arc::new(move |stream, pid| gives.give(stream, pid)),
        // The process that is started next gets the ports of services, and must be able to have the port of
        // HTTP as well.
        stopped: Arc::new(move || _ = stops.http().map(|http| http.let_go())),
        call_off: Arc::new(move || cancels.cancel(EndAsked::Drain)),
        await_called_off: Arc::new(move || awaits.await_called_off()),
        carried: Arc::new(move || tells.carried()),
        signs: Arc::new(move || watch.signs()),
        look_up: Arc::new(doctor::look_up),
    }
}

/// A service with the actions that operators have on it. `source`: where the line is that it is compared
/// with.
pub(super) fn manage(
    served: &Served,
    written: &Arc<RwLock<Written>>,
    ((minder, resolver), settings, clock): ((&Minder, &Resolver), &ProcessSpec, Clock),
    (deadlines, bell): (&Arc<Deadlines>, &Arc<Bell>),
    source: LineSource,
) -> ManagedService {
    let Served { parts, listeners, running, alarm, names, log } = served;
    let places: Vec<Address> = listeners.iter().map(ListenerHandle::address).collect();
    let (killed, told, heard) = (running.clone(), log.clone(), log.clone());
    let (ended, ends, end_log) = (running.clone(), Arc::clone(deadlines), log.clone());
    let (checks, checked) = (minder.clone(), alarm.clone());
    let (lookups, looked_up) = (resolver.clone(), names.clone());
    let (process, stopped) = (settings.clone(), Arc::clone(bell));
    let [line, lines, asked, of_line] = [(); 4].map(|()| Arc::clone(written));
    let socket = Arc::new(RwLock::new(served.unix_socket()));
    let saved_socket = Arc::clone(&socket);
    ManagedService {
        name: RwLock::new(parts.spec.name.as_ref().map(|name| name.as_str().to_owned())),
        listen: RwLock::new(served.listen()),
        not_listening: RwLock::default(),
        listens_nowhere: AtomicBool::new(false),
        socket,
        table: parts.table.clone(),
        resolve: Arc::new(move |wanted| {
            // 3.57 has one answer for all causes, so the cause is logged, and `balance -c` prints it on stderr.
            let ports = of_line.read().unwrap_or_else(PoisonError::into_inner).spec.listen.ports.clone();
            resolve_channel(wanted, &ports).map_err(|why| {
                let why = format!("no address for {}: {why}", wanted.host);
                heard.tell(&Event::Note { severity: Severity::Notice, text: why.clone() });
                why
            })
        }),
        kill: Arc::new(move || {
            told.tell(&Event::Stopping { connections: killed.connections() as u64, within: None });
            places.iter().for_each(|at| process::forget_listener(&at.to_string()));
            checks.leave(&checked);
            lookups.leave(&looked_up);
            let is_done = killed.stop_listening();
            stopped.stopped();
            is_done
        }),
        end: Arc::new(move |time| ends.end(&ended, &end_log, time)),
        plane: plane(
            running,
            &parts.table,
            alarm.clone(),
            names.clone(),
            (Arc::clone(bell), changed_ways(served, written, clock)),
        ),
        command_line: Arc::new(move |now| {
            let spec = line.read().unwrap_or_else(PoisonError::into_inner).spec.clone();
            let spec = ServiceSpec { groups: saved::groups(now, spec.later_policy, &spec.sections), ..spec };
            let socket = saved_socket.read().unwrap_or_else(PoisonError::into_inner).clone();
            let spec = saved::with_access(spec, socket.and_then(|socket| socket.access()));
            // A service from a file is printed as a line of a file, without the options of the process.
            match spec.listen.typed.at {
                Some(_) => config::print_line(&spec),
                None => config::command_line(&process, &spec),
            }
        }),
        spec: Arc::new(move || asked.read().unwrap_or_else(PoisonError::into_inner).spec.clone()),
        differences: Arc::new(move |now| {
            plan::differences(&lines.read().unwrap_or_else(PoisonError::into_inner).groups, now, source)
        }),
        has_file: source == LineSource::File,
        now: Arc::new(move || clock.now()),
        log: log.clone(),
        killed: AtomicBool::new(false),
    }
}

/// The actions of the data plane that controllers can use.
fn plane(
    running: &Running,
    table: &SharedTable,
    alarm: Alarm,
    names: Residence,
    (bell, ways): (Arc<Bell>, impl Fn() + Send + Sync + 'static),
) -> Plane {
    let asked = names.clone();
    // A channel may stand for a set of channels.
    let asked_alarm = alarm.clone();
    let [of_word, of_words] = [table.clone(), table.clone()];
    let [kicks, closes, shuts, taps, asks, remembers, serves, counts] = [(); 8].map(|()| running.clone());
    Plane {
        close_connections: Arc::new(move |channel| {
            let ones = of_word.lock().ones(channel);
            ones.into_iter().map(|one| kicks.close_connections(one)).sum()
        }),
        close_session: Arc::new(move |id| closes.close_session(id)),
        close_clients: Arc::new(move |net| shuts.close_clients(net)),
        tap: Arc::new(move |id| taps.tap(id)),
        sessions: Arc::new(move |channel| match channel {
            None => asks.sessions(None),
            Some(channel) => {
                let ones = of_words.lock().ones(channel);
                ones.into_iter().flat_map(|one| asks.sessions(Some(one))).collect()
            }
        }),
        ended: Arc::new(move |most| remembers.ended(most)),
        look_up: Arc::new(move |channel| {
            let resolved = |report: NameReport| ResolvedName { name: report.name, addresses: report.answer };
            Some(asked.ask(channel, LOOKED_UP)?.into_iter().map(resolved).collect())
        }),
        changed: Arc::new(move || {
            // The data plane is told directly: after `kill`, nobody listens to the alarm.
            serves.table_changed();
            alarm.ring();
            names.ring();
            bell.changed();
            ways();
        }),
        asked: Arc::new(move || asked_alarm.ring()),
        connections: Arc::new(move || counts.connections()),
    }
}

/// To be called when the channels of a service have changed.
fn changed_ways(served: &Served, written: &Arc<RwLock<Written>>, clock: Clock) -> impl Fn() + use<> {
    let (ways, written, log) = (Arc::clone(&served.parts.ways), Arc::clone(written), served.log.clone());
    move || {
        if written.read().unwrap_or_else(PoisonError::into_inner).spec.transparent {
            ways.changed(&log, clock);
        }
    }
}

fn resolve_channel(wanted: &HostPort, service: &PortsSpec) -> Result<Addresses, String> {
    if wanted.host.starts_with(UnixName::PREFIX) {
        let name: UnixName = wanted.host.parse::<UnixName>().map_err(|error| error.to_string())?;
        return Ok(Addresses::from(Address::Unix(name)).named(&name.to_string()));
    }
    // Brackets around an IPv6 address are accepted, but `save` must print the host as the command line takes
    // it.
    let inside = wanted.host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let host = inside.filter(|inside| inside.contains(':')).unwrap_or(&wanted.host);
    if !config::is_host(host) || host.contains(',') {
        return Err("that cannot be a host".to_owned());
    }
    let unknown = |name: &str| format!("no service '{name}' is known; give a number from 1 to 65535");
    let named = |name: &str| resolve::service_port(name).ok_or_else(|| unknown(name));
    let port = match (&wanted.port, service) {
        (Port::Number(number), _) => number.get(),
        (Port::Service(name), _) | (Port::OfService, PortsSpec::One(PortWord::Name(name))) => named(name)?,
        (Port::OfService, PortsSpec::One(PortWord::Number(number))) => number.get(),
        // 0: the port that each client came to.
        (Port::OfService, PortsSpec::Range(_)) => 0,
        (Port::OfService, PortsSpec::Unix(_)) => {
            return Err("clients come by a Unix socket, which has no port; give one".to_owned());
        }
    };
    let found = resolve::addresses(host, port).map_err(|error| error.to_string())?;
    if let Some(why) = resolve::why_no_zone(host, &found) {
        return Err(why);
    }
    Addresses::new(found.into_iter().map(Address::from).collect())
        .map(|addresses| addresses.named(host))
        .ok_or_else(|| "the name has no address".to_owned())
}
