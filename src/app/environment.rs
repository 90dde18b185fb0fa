//! Where instances and operators meet: what the environment says of that, and which instance an operator means.
//!
//! Knows: the environment variables, the directories of control sockets. Never: what a command does, the
//! protocol.

use std::env;
use std::ffi::OsString;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use super::Failure;
use crate::config::Instance;
use crate::control::{
    Directory, Endpoint, EndpointError, EndpointOptions, Interactive, Names, OneShot, Place, Wanted, Which,
};
use crate::names::resolve;
use crate::observe::{Event, Log, Severity};
use crate::process::{self, PassedError, PassedListener, Variables};
use crate::spec::{Address, ListenSpan, PortWord, PortsSpec};

/// The directory where instances and controllers of all users find each other.
const RUN_DIRECTORY: &str = "/run/balance";
/// The parent of the users' private directories.
const USER_DIRECTORIES: &str = "/run/user";

/// What is taken from the environment, read once.
pub(super) struct Environment {
    /// Socket activation: the process id that the descriptors are for, their number, and their names.
    listen: [Option<OsString>; 3],
    /// The directories for an instance's socket, the preferred one first.
    pub(super) directories: Vec<Directory>,
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
            tell_ungrouped(&endpoint, group, log);
            Ok(Some(endpoint))
        }
        Err(e @ EndpointError::UnknownGroup(_)) => Err(unknown_group(&e)),
        Err(e) => {
            let cause = format!(
                "{e}; no command will find this instance; to stop it, find its pid by ss -ltnp, and type kill PID. Set BALANCE_RUN_DIR to a \
                 directory of yours, here and for balance -c"
            );
            log.tell(&Event::NoRendezvous { cause });
            Ok(None)
        }
    }
}

/// Gives the control socket of another process to the control group of now.
///
/// # Errors
/// The control group is unknown.
pub(super) fn regroup(mut endpoint: Endpoint, group: Option<&str>, log: &Log) -> Result<Endpoint, Failure> {
    endpoint.regroup(group).map_err(|e| unknown_group(&e))?;
    tell_ungrouped(&endpoint, group, log);
    Ok(endpoint)
}

fn unknown_group(error: &EndpointError) -> Failure {
    Failure::new(super::exit::BAD_DATA, format!("balance: --control-group: {error}"))
}

fn tell_ungrouped(endpoint: &Endpoint, group: Option<&str>, log: &Log) {
    if let (Some(cause), Some(group)) = (endpoint.ungrouped(), group) {
        let text = format!(
            "--control-group {group}: its members cannot give commands, since the user of balance may not give them the control socket: \
             {cause}; make this user a member of the group (in a unit of systemd: SupplementaryGroups={group}), and restart balance"
        );
        log.tell(&Event::Note { severity: Severity::Warning, text });
    }
}
