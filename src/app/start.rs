//! The start of the process that serves, and its end: bind → background → workers → controllers → the end.
//!
//! Knows: the order of start and stop. Never: what a setting means, scheduling rules, byte copying.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::sync::{Arc, RwLock};

use super::circles;
use super::controllers::{self, AtWork, Environment};
use super::deadlines::Deadlines;
use super::lookup::Resolved;
use super::plan::{self, LinedGroup};
use super::prepared::{BIND_PATIENCE, Prepared, Served};
use super::roster::{Roster, Source, Tools, Written};
use super::stop;
use super::{Failure, NOT_STARTED, exit, passed, refused};
use crate::control::Endpoint;
use crate::names::resolve;
use crate::net::server::{Options, Server};
use crate::observe::{Dump, Event, Log, Severity};
use crate::probe::Minder;
use crate::process::{self, Cause, Detached, Hangup, PassedListener, Shutdown};
use crate::spec::{Name, ProcessSpec, ServiceSpec};
use crate::sys::{Clock, descriptors, given};

/// Descriptors that a process has for itself beside its listeners: the control socket, its directory and two to wake it, three
/// of the pipe that signals come by, two of the thread that minds channels. A test holds this against a process.
const OWN: usize = 9;
/// Those of a worker: its poller and what wakes it.
const PER_WORKER: usize = 2;

/// What there is to serve by.
pub(super) struct Means {
    workers: usize,
    descriptor_limit: u64,
    own_descriptors: usize,
}

/// Raises the limit of open files, and counts what the process needs for itself. In the background, what was inherited is closed.
///
/// # Errors
/// Nothing would be left for a client.
pub(super) fn means(
    settings: &ProcessSpec,
    services: usize,
    passed: &[PassedListener],
) -> Result<Means, Failure> {
    let foreground = is_foreground(settings);
    if !foreground {
        // In the background they would keep a file locked, or a pipe open, for as long as we run.
        let ours: Vec<_> = passed.iter().map(|one| one.fd.as_fd()).collect();
        given::close_all_but(&ours);
    }
    let workers = settings.workers.map_or_else(process::cores, NonZeroUsize::get);
    let descriptor_limit = process::raise_descriptor_limit();
    let listeners = services.saturating_sub(passed.len());
    let log = usize::from(!foreground);
    let own_descriptors = given::open_below(descriptor_limit) + listeners + OWN + workers * PER_WORKER + log;
    if (own_descriptors + descriptors::LEAST) as u64 > descriptor_limit {
        return Err(too_few_descriptors(descriptor_limit, own_descriptors + descriptors::LEAST, workers));
    }
    Ok(Means { workers, descriptor_limit, own_descriptors })
}

fn is_foreground(settings: &ProcessSpec) -> bool {
    settings.foreground || process::is_init()
}

/// Starts to serve and does so until the end; the exit code. In the background the caller comes back once it serves.
///
/// # Errors
/// What was typed cannot be served.
pub(super) fn start(
    settings: &ProcessSpec,
    services: Vec<(ServiceSpec, Resolved)>,
    passed: Vec<PassedListener>,
    source: Option<Source>,
    environment: &Environment,
) -> Result<u8, Failure> {
    environment.warn();
    let foreground = is_foreground(settings);
    let Means { workers, descriptor_limit, own_descriptors } = means(settings, services.len(), &passed)?;
    // Everything that is left to chance hangs on this one number.
    let seed = RandomState::new().hash_one(std::process::id());
    let passed = passed::assign(passed, &services)?;
    let (mut patience, mut failures) = (BIND_PATIENCE, Vec::new());
    let mut prepared = Vec::new();
    for ((spec, found), passed) in services.into_iter().zip(passed) {
        let groups = plan::lined(&spec.groups, &found.channels);
        match Prepared::new(spec, found, passed, workers, seed, &mut patience) {
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
    process::forbid_core_files();
    let warn = Log::stderr(settings.debug);
    let all: Vec<&Prepared> = prepared.iter().map(|(one, _)| one).collect();
    warn_of_what_is_odd(settings, &all, foreground, &warn);
    let listen = all.iter().map(|one| one.listener.address()).collect();
    let names = all.iter().map(|one| one.names()).collect();
    let endpoint = controllers::bind(
        names,
        settings.control_group.as_ref().map(|group| &group.name[..]),
        environment,
        &warn,
    )?;
    let ready = if foreground {
        None
    } else {
        match process::detach() {
            Ok(Detached::Caller(verdict)) => {
                // The endpoint's name now belongs to the instance.
                std::mem::forget(endpoint);
                return match verdict.code {
                    0 => Ok(0),
                    code => Err(Failure::new(code, verdict.message)),
                };
            }
            Ok(Detached::Instance(ready)) => Some(ready),
            Err(e) => return Err(Failure::new(exit::OS, format!("fork(): {e}"))),
        }
    };
    let log = if foreground { warn } else { Log::syslog(settings.debug) };
    let options = Options {
        workers,
        busy_poll: settings.busy_poll.unwrap_or(false),
        loopback_congestion: settings.loopback_congestion.as_ref().map(|named| named.name.clone()),
        seed,
        dump: (settings.dump && foreground).then(|| Dump::stdout(log.clone())),
        descriptor_limit,
        own_descriptors,
    };
    let hangup = Hangup::of_this_process(foreground, given::ignores(process::HANGUP));
    let make = Make { settings, source, options, hangup };
    let (shutdown, at_work) = match (run(make, prepared, endpoint, &log), ready) {
        (Ok(running), None) => running,
        (Ok(running), Some(ready)) => {
            // A failure here was told to the caller, who reports it.
            if ready.serving().is_err() {
                return Ok(exit::OS);
            }
            running
        }
        (Err(e), ready) => {
            let message = format!("balance: cannot start: {e}");
            return match ready {
                Some(ready) => {
                    ready.failed(exit::OS, &message);
                    Ok(exit::OS)
                }
                None => Err(Failure::new(exit::OS, message)),
            };
        }
    };
    log.tell(&Event::Started { listen, pid: std::process::id() });
    let cause = stop::await_the_end(shutdown, &at_work, settings.drain_timeout, &log);
    log.tell(&match cause {
        Cause::Drained => Event::Drained,
        _ => Event::Stopping { connections: at_work.connections(), within: None },
    });
    at_work.end(cause);
    Ok(0)
}

/// What the process is made with.
struct Make<'a> {
    settings: &'a ProcessSpec,
    source: Option<Source>,
    options: Options,
    hangup: Hangup,
}

/// Lets the data plane serve and controllers in.
fn run(
    Make { settings, source, options, hangup }: Make<'_>,
    prepared: Vec<(Prepared, Vec<LinedGroup>)>,
    endpoint: Option<Endpoint>,
    log: &Log,
) -> io::Result<(Shutdown, AtWork)> {
    let shutdown = Shutdown::install(hangup)?;
    let [notifier, done, news] = [(); 3].map(|()| shutdown.notifier());
    let clock = Clock::start();
    let (workers, seed) = (options.workers, options.seed);
    let server = Server::start(clock, log, options, move || notifier.drained())?;
    let minder = Minder::start(clock, log, server.budget())?;
    let tools =
        Tools { server: server.clone(), minder: minder.clone(), clock, log: log.clone(), workers, seed };
    let (from_file, checks, process) = (source.is_some(), minder.clone(), settings.clone());
    let deadlines = Arc::new(Deadlines::new(news));
    let ends = Arc::clone(&deadlines);
    let manage = move |served: &Served, written: &Arc<RwLock<Written>>| {
        controllers::manage(served, written, (&checks, &process, clock), &ends, from_file)
    };
    let roster = Roster::new(tools, settings.clone(), source, manage, move || done.drained());
    roster.open(prepared)?;
    let at_work = controllers::serve(endpoint, Arc::new(roster), (server, minder), (clock, deadlines), log);
    Ok((shutdown, at_work))
}

/// Better said now than found out by clients.
fn too_few_descriptors(limit: u64, needed: usize, workers: usize) -> Failure {
    let threads = if workers == 1 { "worker" } else { "workers" };
    let text = format!(
        "balance: the limit of open files is {limit}, but {needed} are needed to serve one client with {workers} {threads}; \
         raise it (ulimit -n), or use fewer --workers"
    );
    Failure::new(exit::OS, text)
}

/// What was typed and can be served, but hardly meant.
fn warn_of_what_is_odd(settings: &ProcessSpec, services: &[&Prepared], foreground: bool, warn: &Log) {
    let tell = |text| warn.tell(&Event::Note { severity: Severity::Warning, text });
    if settings.dump && !foreground {
        tell("-p needs -f: the packet dump is off in the background".into());
    }
    for service in services {
        if let Some(text) = service.parts.spec.check.as_ref().and_then(refused::why_no_program) {
            // It may be there later, so this is no reason not to serve.
            service.log(warn).tell(&Event::Note { severity: Severity::Warning, text });
        }
    }
    let mut names = services.iter().filter_map(|service| service.parts.spec.name.as_ref()).peekable();
    if names.peek().is_some() {
        let ports = resolve::service_ports();
        for name in names.map(Name::as_str) {
            // Once the process has gone, a command meant for it would reach whoever has the port.
            if let Some(port) = ports.get(name) {
                tell(format!(
                    "service {name}: this is also the name of port {port}, and when this process has ended, a command for \
                     {name} reaches that port"
                ));
            }
        }
    }
    for (service, text) in circles::warnings(services) {
        services[service].log(warn).tell(&Event::Note { severity: Severity::Warning, text });
    }
}
