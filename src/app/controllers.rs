//! How operators control an instance: where its socket is, and what its commands may do to the other rooms.
//!
//! Knows: the environment variables, the public interfaces of control and net. Never: a command's syntax, the
//! protocol.

use std::env;
use std::ffi::OsString;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use super::assembly::Assembly;
use super::deadlines::Deadlines;
use super::doctor::{self, Watch};
use super::keeper::{Bell, Keeper};
use super::origin::{Inheritance, Origin};
use super::plan::{self, LineSource};
use super::prepared::Served;
use super::reporter::Reporter;
use super::roster::{Roster, Written};
use super::scribe::Scribe;
use super::upgrade::Upgrader;
use super::web::{self, Web};
use super::{Failure, saved};
use crate::config::{self, Instance};
use crate::control::{
    Control, Directory, Endpoint, EndpointError, EndpointOptions, HostPort, HttpServer, Interactive,
    ManagedService, Names, OneShot, Place, Plane, Port, ProcessHands, Register, ResolvedName, Services,
    Wanted, Which,
};
use crate::handover::message::EndAsked;
use crate::names::{NameReport, Residence, Resolver, resolve};
use crate::net::server::{Running, Server};
use crate::observe::{Event, Log, Severity};
use crate::probe::{Alarm, Minder};
use crate::process::{self, Cause, PassedError, PassedListener, Shutdown, Variables};
use crate::sched::{Addresses, SharedTable};
use crate::spec::{Address, ListenSpan, PortWord, PortsSpec, ProcessSpec, ServiceSpec, UnixName};
use crate::sys::Clock;
use crate::sys::listen::ListenerHandle;

/// The directory where instances and controllers of all users find each other.
const RUN_DIRECTORY: &str = "/run/balance";
/// The parent of the users' private directories.
const USER_DIRECTORIES: &str = "/run/user";
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

/// What is taken from the environment, read once.
pub(super) struct Environment {
    /// Socket activation: the process id that the descriptors are for, their number, and their names.
    listen: [Option<OsString>; 3],
    /// The directories for an instance's socket, the preferred one first.
    directories: Vec<Directory>,
    /// The directories where a controller looks for it. Root also looks into those of the users.
    searched: Vec<Directory>,
    history: Option<PathBuf>,
    /// A warning about a variable that was ignored.
    ignored: Option<String>,
}

impl Environment {
    pub(super) fn read() -> Self {
        // Relative paths in these variables must be ignored (XDG Base Directory Specification).
        let absolute = |name| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let named = env::var_os("BALANCE_RUN_DIR").filter(|path| !path.is_empty()).map(PathBuf::from);
        let ignored = named.as_ref().filter(|path| path.is_relative()).map(|path| {
            let path = path.display();
            format!("BALANCE_RUN_DIR '{path}' is not an absolute path; {RUN_DIRECTORY} is used in its place")
        });
        let shared = named.filter(|path| path.is_absolute()).unwrap_or_else(|| RUN_DIRECTORY.into());
        let mut directories = vec![Directory::Shared(shared)];
        let uid = rustix::process::geteuid().as_raw();
        // The directory that a login session uses, for shells that do not set the variable.
        let usual = PathBuf::from(format!("{USER_DIRECTORIES}/{uid}"));
        let runtime = absolute("XDG_RUNTIME_DIR").or_else(|| usual.is_dir().then_some(usual));
        directories.extend(runtime.map(|path| Directory::Private(path.join("balance"))));
        let mut searched = directories.clone();
        if uid == 0 {
            let others = std::fs::read_dir(USER_DIRECTORIES).into_iter().flatten().flatten();
            searched.extend(others.map(|user| Directory::Private(user.path().join("balance"))));
            searched.dedup();
        }
        let state = absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")));
        Self {
            listen: ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"].map(env::var_os),
            directories,
            searched,
            history: state.map(|path| path.join("balance/history")),
            ignored,
        }
    }

    /// The same for the user that this process has become. Sockets of socket activation were taken before.
    pub(super) fn of_another_user(&self) -> Self {
        let mut new = Self::read();
        // The private directories of the previous user cannot be used.
        new.directories.retain(|one| match one {
            Directory::Shared(_) => true,
            Directory::Private(path) => {
                rustix::fs::access(path.parent().unwrap_or(path), rustix::fs::Access::WRITE_OK).is_ok()
            }
        });
        new
    }

    /// The directories for an instance's socket.
    pub(super) fn directories(&self) -> impl Iterator<Item = &Path> {
        self.directories.iter().map(Directory::path)
    }

    /// Creates the directory for all users if it is missing. A failure is reported when it is used.
    pub(super) fn make_shared_directory(&self) {
        for directory in &self.directories {
            if matches!(directory, Directory::Shared(_)) {
                directory.make_if_missing();
            }
        }
    }

    /// Logs the warning about an ignored variable.
    pub(super) fn warn(&self, log: &Log) {
        if let Some(text) = &self.ignored {
            let note = Event::Note { severity: Severity::Warning, text: text.clone() };
            log.tell(&note);
        }
    }

    /// Takes the listeners of socket activation.
    pub(super) fn passed_listeners(&self) -> Result<Vec<PassedListener>, PassedError> {
        let [pid, count, names] = self.listen.each_ref().map(Option::as_deref);
        process::passed_listeners(Variables { pid, count, names })
    }

    /// The service that is meant. A word that names a service means that service, whatever else it could
    /// mean. With an address (`-b`), the word means a port: a service's name needs no address, and the name
    /// of another service must not reach this one.
    fn wanted(&self, instance: &Instance) -> Result<Wanted, Failure> {
        let directories = self.searched.clone();
        let word = match &instance.ports {
            PortsSpec::One(port) => port.clone(),
            // Any port of the range means the service.
            PortsSpec::Range(range) => PortWord::Number(range.first()),
            PortsSpec::Unix(name) => {
                if instance.debug {
                    self.say_where(&format!("the instance on {name}"));
                }
                return Ok(Wanted { directories, service: Which::Unix { name: *name } });
            }
        };
        if let PortWord::Name(name) = &word
            && instance.bind.is_none()
            && crate::control::is_service(&directories, name)
        {
            let port = resolve::service_port(name);
            if instance.debug {
                self.say_where(&format!("service {name}"));
            }
            return Ok(Wanted { directories, service: Which::Name { name: name.clone(), port } });
        }
        if instance.bind.is_none()
            && let Some(pid) = running_process(&word)
        {
            return Ok(Wanted { directories, service: Which::Process { pid } });
        }
        let port = super::lookup::port_number(&word, &instance.typed).map_err(|error| {
            let failure = Failure::from(error);
            if instance.bind.is_some() {
                return failure;
            }
            if let Some(failure) = no_such_process(&word) {
                return failure;
            }
            let drains = match &word {
                PortWord::Name(name) => crate::control::draining(&directories, name),
                PortWord::Number(_) => None,
            };
            let why = drains.unwrap_or_else(|| {
                "balance: no port and no running service has this name; balance --list shows those that run"
                    .to_owned()
            });
            // The rest of the message is for a start.
            let first = failure.message.lines().next().unwrap_or_default();
            Failure::new(failure.code, format!("{first}\n{why}"))
        })?;
        let addresses = match &instance.bind {
            None => None,
            Some(host) => {
                let found = super::lookup::addresses(host, port)?;
                Some(found.into_iter().map(Place::from).collect())
            }
        };
        if instance.debug {
            self.say_where(&format!("the instance on port {port}"));
        }
        let service = Which::Port { port, addresses, ipv6: instance.ipv6 };
        Ok(Wanted { directories, service })
    }
}

impl Environment {
    /// Logs where the instance is looked for.
    fn say_where(&self, what: &str) {
        let places: Vec<String> =
            self.searched.iter().map(|place| place.path().display().to_string()).collect();
        let text = format!("looking for {what} in {}", places.join(", "));
        Log::stderr(true).tell(&Event::Note { severity: Severity::Debug, text });
    }
}

/// The process id in `process.PID`.
fn process_number(word: &PortWord) -> Option<rustix::process::Pid> {
    let PortWord::Name(name) = word else { return None };
    let pid: i32 = name.strip_prefix("process.")?.parse().ok()?;
    rustix::process::Pid::from_raw(pid).filter(|_| pid > 0)
}

fn has_ended(pid: rustix::process::Pid) -> bool {
    rustix::process::test_kill_process(pid) == Err(rustix::io::Errno::SRCH)
}

/// The id of a running process, if the word has the form `process.PID`.
fn running_process(word: &PortWord) -> Option<u32> {
    let pid = process_number(word).filter(|pid| !has_ended(*pid))?;
    Some(pid.as_raw_nonzero().get().unsigned_abs())
}

/// The failure if the word has this form and the process has ended.
fn no_such_process(word: &PortWord) -> Option<Failure> {
    let pid = process_number(word).filter(|pid| has_ended(*pid))?;
    let text = format!("no master process, exiting.\nbalance: process {} has ended", pid.as_raw_nonzero());
    Some(Failure::new(super::exit::UNAVAILABLE, text))
}

/// Carries out `-c`.
pub(super) fn one_shot(instance: &Instance, text: &str, environment: &Environment) -> Result<u8, Failure> {
    environment.warn(&Log::stderr(false));
    let wanted = environment.wanted(instance)?;
    let (directories, name) = (wanted.directories.clone(), name_of(&wanted));
    let code = crate::control::one_shot(&OneShot { wanted, text: text.as_bytes().to_vec() });
    if let Some(name) = name.filter(|_| code == super::exit::UNAVAILABLE) {
        crate::control::tell_draining(&directories, &name);
    }
    Ok(code)
}

/// The name of the service, if it was given by name.
fn name_of(wanted: &Wanted) -> Option<String> {
    match &wanted.service {
        Which::Name { name, .. } => Some(name.clone()),
        Which::Port { .. } | Which::Unix { .. } | Which::Process { .. } => None,
    }
}

/// Carries out `-i`.
pub(super) fn shell(instance: &Instance, environment: &Environment) -> Result<u8, Failure> {
    environment.warn(&Log::stderr(false));
    let wanted = environment.wanted(instance)?;
    Ok(crate::control::interactive(&Interactive { wanted, history: environment.history.clone() }))
}

/// Asks the instance that listens at this place for its ports; `None`: there is no instance.
///
/// # Errors
/// It belongs to another user, or does not answer.
pub(super) fn ask_for(place: Address, environment: &Environment) -> io::Result<Option<(UnixStream, u32)>> {
    crate::control::ask_for(&environment.directories, place)
}

/// The first of these addresses at which an instance of our user answers soon, and its process id.
pub(super) fn holder(span: ListenSpan, environment: &Environment) -> Option<(Address, u32)> {
    crate::control::holder(&environment.directories, span)
}

/// The addresses among these for which there are entries of instances.
pub(super) fn entries_on(span: ListenSpan, environment: &Environment) -> Vec<Address> {
    crate::control::entries_on(&environment.directories, span)
}

/// Carries out `--list`.
pub(super) fn list(environment: &Environment) -> u8 {
    environment.warn(&Log::stderr(false));
    crate::control::list(&environment.searched)
}

/// Makes the control socket. If that fails, the service starts without one and logs it, since a service that
/// cannot be controlled is better than none. Only an unknown group is an error, since it is a mistake on the
/// command line.
///
/// # Errors
/// The control group is unknown.
pub(super) fn bind(
    services: Vec<Names>,
    group: Option<&str>,
    environment: &Environment,
    log: &Log,
) -> Result<Option<Endpoint>, Failure> {
    let options = EndpointOptions {
        directories: environment.directories.clone(),
        services,
        group: group.map(str::to_owned),
    };
    match Endpoint::bind(&options) {
        Ok(endpoint) => {
            for (path, cause) in endpoint.missed() {
                let cause = format!("no control socket at {}: {cause}", path.display());
                log.tell(&Event::NoRendezvous { cause });
            }
            if let (Some(cause), Some(group)) = (endpoint.ungrouped(), group) {
                let text = format!(
                    "--control-group {group}: its members cannot give commands, since the user of balance may not give them the control socket: \
                     {cause}; make this user a member of the group (in a unit of systemd: SupplementaryGroups={group}), and restart balance"
                );
                log.tell(&Event::Note { severity: Severity::Warning, text });
            }
            Ok(Some(endpoint))
        }
        Err(e @ EndpointError::UnknownGroup(_)) => {
            Err(Failure::new(super::exit::BAD_DATA, format!("balance: --control-group: {e}")))
        }
        Err(e) => {
            let cause = format!(
                "{e}; no command will find this instance. Set BALANCE_RUN_DIR to a directory of yours, here and for balance -c"
            );
            log.tell(&Event::NoRendezvous { cause });
            Ok(None)
        }
    }
}

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
            // 3.57 has one answer for all causes, so the cause is only logged.
            let ports = of_line.read().unwrap_or_else(PoisonError::into_inner).spec.listen.ports.clone();
            resolve_channel(wanted, &ports).inspect_err(|e| {
                let text = format!("no address for {}: {e}", wanted.host);
                heard.tell(&Event::Note { severity: Severity::Notice, text });
            })
        }),
        kill: Arc::new(move || {
            told.tell(&Event::Stopping { connections: killed.connections() as u64, within: None });
            places.iter().filter_map(|at| at.net()).for_each(process::forget_listener);
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

fn resolve_channel(wanted: &HostPort, service: &PortsSpec) -> io::Result<Addresses> {
    if wanted.host.starts_with(UnixName::PREFIX) {
        let name: UnixName = wanted.host.parse().map_err(io::Error::other)?;
        return Ok(Addresses::from(Address::Unix(name)).named(&name.to_string()));
    }
    // Brackets around an IPv6 address are accepted, but `save` must print the host as the command line takes
    // it.
    let inside = wanted.host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let host = inside.filter(|inside| inside.contains(':')).unwrap_or(&wanted.host);
    if !config::is_host(host) || host.contains(',') {
        return Err(io::Error::other("that cannot be a host"));
    }
    let named = |name: &str| resolve::service_port(name).ok_or_else(|| io::Error::other("no such service"));
    let port = match (&wanted.port, service) {
        (Port::Number(number), _) => number.get(),
        (Port::Service(name), _) | (Port::OfService, PortsSpec::One(PortWord::Name(name))) => named(name)?,
        (Port::OfService, PortsSpec::One(PortWord::Number(number))) => number.get(),
        // 0: the port that each client came to.
        (Port::OfService, PortsSpec::Range(_)) => 0,
        (Port::OfService, PortsSpec::Unix(_)) => {
            return Err(io::Error::other("clients come by a Unix socket, which has no port; give one"));
        }
    };
    let found = resolve::addresses(host, port)?;
    if let Some(why) = resolve::why_no_zone(host, &found) {
        return Err(io::Error::other(why));
    }
    Addresses::new(found.into_iter().map(Address::from).collect())
        .map(|addresses| addresses.named(host))
        .ok_or_else(|| io::Error::other("the name has no address"))
}
