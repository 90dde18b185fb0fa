//! Everything about controlling an instance: where its socket is, what its commands may do to the other rooms.
//!
//! Knows: the environment's variables, the front doors of control and net. Never: a command's syntax, the protocol.

use std::env;
use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use super::deadlines::Deadlines;
use super::prepared::Served;
use super::roster::{Roster, Written};
use super::{Failure, plan, saved};
use crate::config::{self, Instance};
use crate::control::{
    Control, Directory, Endpoint, EndpointError, EndpointOptions, HostPort, Interactive, ManagedService,
    Names, OneShot, Place, Plane, Port, ProcessHands, Services, Wanted, Which,
};
use crate::names::resolve;
use crate::net::server::{Running, Server};
use crate::observe::{Event, Log, Severity};
use crate::probe::{Alarm, Minder};
use crate::process::{self, Cause, PassedError, PassedListener, Variables};
use crate::sched::{Addresses, Snapshot};
use crate::spec::{PortWord, ProcessSpec, ServiceSpec};
use crate::sys::Clock;

/// Where instances and controllers of all users meet.
const RUN_DIRECTORY: &str = "/run/balance";
/// Where the users' private directories are.
const USER_DIRECTORIES: &str = "/run/user";
/// How long the end waits for an answer to be read, ...
const ANSWERED: Duration = Duration::from_secs(1);
/// ... and how long when somebody wants the process gone.
const INTERRUPTED: Duration = Duration::from_millis(50);

/// What is taken from the environment, read once.
pub(super) struct Environment {
    /// Socket activation: the process that the descriptors are for, how many there are, and their names.
    listen: [Option<OsString>; 3],
    /// Where an instance puts its socket, in the order of preference.
    directories: Vec<Directory>,
    /// Where a controller looks for it: root looks at the users' as well.
    searched: Vec<Directory>,
    history: Option<PathBuf>,
    /// What was not heeded, and why.
    ignored: Option<String>,
}

impl Environment {
    pub(super) fn read() -> Self {
        // A relative path in these variables is to be ignored (XDG Base Directory Specification).
        let absolute = |name| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let named = env::var_os("BALANCE_RUN_DIR").filter(|path| !path.is_empty()).map(PathBuf::from);
        let ignored = named.as_ref().filter(|path| path.is_relative()).map(|path| {
            let path = path.display();
            format!("BALANCE_RUN_DIR '{path}' is not an absolute path; {RUN_DIRECTORY} is used in its place")
        });
        let shared = named.filter(|path| path.is_absolute()).unwrap_or_else(|| RUN_DIRECTORY.into());
        let mut directories = vec![Directory::Shared(shared)];
        let uid = rustix::process::geteuid().as_raw();
        // Where a login session has it, for users whose shell did not say.
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

    /// Tells of what was not heeded.
    pub(super) fn warn(&self) {
        if let Some(text) = &self.ignored {
            let note = Event::Note { severity: Severity::Warning, text: text.clone() };
            Log::stderr(false).tell(&note);
        }
    }

    /// Takes the listeners that were passed in.
    pub(super) fn passed_listeners(&self) -> Result<Vec<PassedListener>, PassedError> {
        let [pid, count, names] = self.listen.each_ref().map(Option::as_deref);
        process::passed_listeners(Variables { pid, count, names })
    }

    /// The service that is meant: a word that a service goes by is that service, whatever else it may be. With an address, the
    /// word is a port's: a name needs none, and one that is not the service's must not reach it.
    fn wanted(&self, instance: &Instance) -> Result<Wanted, Failure> {
        let directories = self.searched.clone();
        if let PortWord::Name(name) = &instance.port
            && instance.bind.is_none()
            && crate::control::is_service(&directories, name)
        {
            let port = resolve::service_port(name);
            if instance.debug {
                self.say_where(&format!("service {name}"));
            }
            return Ok(Wanted { directories, service: Which::Name { name: name.clone(), port } });
        }
        let port = super::lookup::port_number(&instance.port, &instance.typed).map_err(|error| {
            let failure = Failure::from(error);
            if instance.bind.is_some() {
                return failure;
            }
            let why = "balance: neither a port nor a running service is called so";
            Failure::new(failure.code, format!("{}\n{why}", failure.message))
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
    /// Where it is looked for.
    fn say_where(&self, what: &str) {
        let places: Vec<String> =
            self.searched.iter().map(|place| place.path().display().to_string()).collect();
        let text = format!("looking for {what} in {}", places.join(", "));
        Log::stderr(true).tell(&Event::Note { severity: Severity::Debug, text });
    }
}

/// `-c`.
pub(super) fn one_shot(instance: &Instance, text: &str, environment: &Environment) -> Result<u8, Failure> {
    environment.warn();
    let wanted = environment.wanted(instance)?;
    Ok(crate::control::one_shot(&OneShot { wanted, text: text.as_bytes().to_vec() }))
}

/// `-i`.
pub(super) fn shell(instance: &Instance, environment: &Environment) -> Result<u8, Failure> {
    environment.warn();
    let wanted = environment.wanted(instance)?;
    Ok(crate::control::interactive(&Interactive { wanted, history: environment.history.clone() }))
}

/// `--list`.
pub(super) fn list(environment: &Environment) -> u8 {
    environment.warn();
    crate::control::list(&environment.searched)
}

/// Makes the control socket. An instance that nobody can control is better than none, so without one it serves too; the
/// operator is told. A group that does not exist is a mistake on the command line.
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
            Ok(Some(endpoint))
        }
        Err(e @ EndpointError::UnknownGroup(_)) => {
            Err(Failure::new(super::exit::BAD_DATA, format!("balance: --control-group: {e}")))
        }
        Err(e) => {
            log.tell(&Event::NoRendezvous { cause: e.to_string() });
            Ok(None)
        }
    }
}

/// An instance at work: the data plane, and the control socket unless there is nothing to make it by.
pub(super) struct AtWork {
    pub(super) clock: Clock,
    /// Told by operators.
    pub(super) deadlines: Arc<Deadlines>,
    server: Server,
    minder: Minder,
    control: Option<Control>,
    pub(super) roster: Arc<Roster>,
}

impl AtWork {
    /// Takes no clients any more: the names go, but one to ask this process by, and the ports after them.
    pub(super) fn drain(&self) {
        if let Some((path, cause)) = self.control.as_ref().and_then(Control::drain) {
            let cause = format!("no control socket at {}: {cause}", path.display());
            self.roster.log().tell(&Event::NoRendezvous { cause });
        }
        self.server.stop_listening();
    }

    /// Is any service served, or has connections left?
    pub(super) fn serves(&self) -> bool {
        self.server.has_services()
    }

    /// Ends what is left of it. The name goes first and the port after it: whoever gets the port next finds the name free.
    pub(super) fn end(self, cause: Cause) {
        if let Some(control) = &self.control {
            control.remove();
        }
        let patience = match cause {
            // After `kill`: its answer may still be on its way.
            Cause::Drained => ANSWERED,
            _ => {
                self.server.shut_down();
                INTERRUPTED
            }
        };
        self.minder.stop();
        if let Some(control) = &self.control {
            control.stop(patience);
        }
        self.server.finish_dump();
    }

    /// Clients being served.
    pub(super) fn connections(&self) -> u64 {
        self.server.connections() as u64
    }
}

/// Lets controllers in, if there is an endpoint to let them in by.
pub(super) fn serve(
    endpoint: Option<Endpoint>,
    roster: Arc<Roster>,
    (server, minder): (Server, Minder),
    (clock, deadlines): (Clock, Arc<Deadlines>),
    log: &Log,
) -> AtWork {
    let reloads = Arc::clone(&roster);
    let hands = ProcessHands {
        reload: Arc::new(move |clean| reloads.reload(clean).map_err(|failure| failure.message)),
    };
    let control = endpoint.and_then(|endpoint| {
        crate::control::serve(endpoint, Services::new(roster.services(), hands))
            .map_err(|e| log.tell(&Event::NoRendezvous { cause: e.to_string() }))
            .ok()
    });
    if let Some(control) = &control {
        roster.register(control.register());
    }
    AtWork { clock, deadlines, server, minder, control, roster }
}

/// What tells something of something.
type Tell<A, B> = Arc<dyn Fn(&A) -> B + Send + Sync>;

/// A service as operators have it. `from_file`: there is a line that it can differ from.
pub(super) fn manage(
    served: &Served,
    written: &Arc<RwLock<Written>>,
    (minder, settings, clock): (&Minder, &ProcessSpec, Clock),
    deadlines: &Arc<Deadlines>,
    from_file: bool,
) -> ManagedService {
    let Served { parts, listener, running, alarm, log } = served;
    let (killed, told, heard) = (running.clone(), log.clone(), log.clone());
    let (ended, ends, end_log) = (running.clone(), Arc::clone(deadlines), log.clone());
    let (checks, checked) = (minder.clone(), alarm.clone());
    let process = settings.clone();
    let [line, lines] = [(); 2].map(|()| Arc::clone(written));
    ManagedService {
        name: RwLock::new(parts.spec.name.as_ref().map(|name| name.as_str().to_owned())),
        listen: vec![listener.address()],
        table: parts.table.clone(),
        resolve: Arc::new(move |wanted| {
            // The answer has no room for the cause: 3.57 has one for all of them.
            resolve_channel(wanted).inspect_err(|e| {
                let text = format!("no address for {}: {e}", wanted.host);
                heard.tell(&Event::Note { severity: Severity::Notice, text });
            })
        }),
        kill: Arc::new(move || {
            told.tell(&Event::Stopping { connections: killed.connections() as u64, within: None });
            checks.leave(&checked);
            killed.stop_listening()
        }),
        end: Arc::new(move |time| ends.end(&ended, &end_log, time)),
        plane: plane(running, alarm.clone()),
        command_line: Arc::new(move |now| {
            let spec = line.read().unwrap_or_else(PoisonError::into_inner).spec.clone();
            let spec = ServiceSpec { groups: saved::groups(now, spec.later_policy), ..spec };
            // What came from a file is a line of it; the process's options are another.
            match spec.listen.typed.at {
                Some(_) => config::print_line(&spec),
                None => config::command_line(&process, &spec),
            }
        }),
        differences: from_file.then(|| -> Tell<Snapshot, Vec<String>> {
            Arc::new(move |now| {
                plan::differences(&lines.read().unwrap_or_else(PoisonError::into_inner).groups, now)
            })
        }),
        now: Arc::new(move || clock.now()),
        log: log.clone(),
        killed: AtomicBool::new(false),
    }
}

/// What controllers may ask of the data plane.
fn plane(running: &Running, alarm: Alarm) -> Plane {
    let [kicks, closes, asks, serves, counts] = [(); 5].map(|()| running.clone());
    Plane {
        close_connections: Arc::new(move |channel| kicks.close_connections(channel)),
        close_session: Arc::new(move |id| closes.close_session(id)),
        sessions: Arc::new(move |channel| asks.sessions(channel)),
        changed: Arc::new(move || {
            // Not left to the alarm: after `kill` nobody hears it.
            serves.table_changed();
            alarm.ring();
        }),
        connections: Arc::new(move || counts.connections()),
    }
}

fn resolve_channel(wanted: &HostPort) -> io::Result<Addresses> {
    // Brackets around an IPv6 address are habit; `save` has to print the host as one that the command line takes.
    let inside = wanted.host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let host = inside.filter(|inside| inside.contains(':')).unwrap_or(&wanted.host);
    if !config::is_host(host) || host.contains(',') {
        return Err(io::Error::other("that cannot be a host"));
    }
    let port = match &wanted.port {
        Port::Number(number) => number.get(),
        Port::Service(name) => {
            resolve::service_port(name).ok_or_else(|| io::Error::other("no such service"))?
        }
    };
    let found = resolve::addresses(host, port)?;
    if let Some(why) = resolve::why_no_zone(host, &found) {
        return Err(io::Error::other(why));
    }
    Addresses::new(found)
        .map(|addresses| addresses.named(host))
        .ok_or_else(|| io::Error::other("the name has no address"))
}
