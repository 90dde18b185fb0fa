//! The composition root: settings → bind → background → workers → controllers → the end.
//!
//! Knows: every room's front door, the order of start and stop, which settings become which room's options.
//! Never: scheduling rules, command syntax, byte copying.

use std::collections::hash_map::RandomState;
use std::ffi::OsString;
use std::hash::BuildHasher;
use std::io::{self, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::{NonZeroU32, NonZeroUsize};
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::config::{self, CliError, Invocation, Serve, SettingsError};
use crate::net::server::{Options, Running, Server};
use crate::net::{self, NewService, ServiceOptions, resolve};
use crate::observe::{Dump, Event, Log, Severity};
use crate::process::{self, Cause, Hangup, Notifier, Shutdown, Side};
use crate::sched::{Addresses, ChannelKey, CheckRules, GroupId, HealthRules, Rules, SharedTable, Table};
use crate::spec::{
    Check, CheckSpec, GroupSpec, Keepalive, ListenHost, Member, OnDown, PortWord, ServiceSpec,
};
use crate::sys::listen::{ListenError, Listener};
use crate::sys::{self, Clock};

mod controllers;
mod saved;

/// Exit codes of sysexits.h.
mod exit {
    pub(super) const USAGE: u8 = 64;
    pub(super) const BAD_DATA: u8 = 65;
    pub(super) const UNAVAILABLE: u8 = 69;
    pub(super) const OS: u8 = 71;
}

/// How long a start waits for a port that the instance before it is just leaving.
const BIND_PATIENCE: Duration = Duration::from_millis(500);
const BIND_RETRY: Duration = Duration::from_millis(5);

/// Why the program ends early: the exit code and what stderr gets.
#[derive(Debug)]
struct Failure {
    code: u8,
    message: String,
}

impl Failure {
    fn new(code: u8, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

impl From<SettingsError> for Failure {
    fn from(error: SettingsError) -> Self {
        let code = match error {
            SettingsError::Usage { .. } | SettingsError::InvalidPort { .. } => exit::USAGE,
            SettingsError::InvalidAddress { .. } => exit::BAD_DATA,
            SettingsError::EmptyGroup => exit::UNAVAILABLE,
        };
        Self::new(code, error.to_string())
    }
}

impl From<ListenError> for Failure {
    fn from(error: ListenError) -> Self {
        Self::new(exit::OS, error.to_string())
    }
}

/// Runs the program with the given `argv` (program name first) and says how it ended.
pub fn run(argv: Vec<OsString>) -> ExitCode {
    match dispatch(&argv) {
        Ok(code) => ExitCode::from(code),
        Err(Failure { code, message }) => {
            let end = if message.ends_with('\n') || message.is_empty() { "" } else { "\n" };
            // Whoever closed stderr does not want to know.
            let _ = write!(io::stderr(), "{message}{end}");
            ExitCode::from(code)
        }
    }
}

fn dispatch(argv: &[OsString]) -> Result<u8, Failure> {
    // First of all: the inherited descriptor has a fixed number, which nobody else may be given.
    let environment = controllers::Environment::read();
    let inherited =
        process::inherited_listener(environment.listen_pid.as_deref(), environment.listen_fds.as_deref());
    let raw = match config::parse(argv) {
        Ok(raw) => raw,
        Err(CliError::Help(text) | CliError::Version(text)) => return print(text.as_bytes()),
        Err(CliError::Usage { text }) => return Err(Failure::new(exit::USAGE, text)),
    };
    match Invocation::try_from(raw)? {
        Invocation::Serve(settings) => {
            let start = Start::prepare(&settings, inherited)?;
            start.run(&settings, &environment)
        }
        Invocation::Command { instance, text } => {
            let port = port_number(&instance.port)?;
            controllers::one_shot(&instance, port, &text, &environment)
        }
        Invocation::Shell { instance } => {
            let port = port_number(&instance.port)?;
            controllers::shell(&instance, port, &environment)
        }
        Invocation::Man => print(&config::man_page()),
        Invocation::Completions(shell) => print(&config::completions(shell)),
    }
}

/// A reader that went away has seen what it wanted.
fn print(text: &[u8]) -> Result<u8, Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text).and_then(|()| out.flush()) {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::new(exit::OS, format!("balance: cannot write to stdout: {e}")))
        }
        _ => Ok(0),
    }
}

fn port_number(word: &PortWord) -> Result<u16, Failure> {
    match word {
        PortWord::Number(n) => Ok(n.get()),
        PortWord::Name(name) => resolve::service_port(name)
            .ok_or_else(|| SettingsError::InvalidPort { word: name.clone() }.into()),
    }
}

fn first_address(host: &str, port: u16) -> Result<SocketAddr, Failure> {
    resolve::addresses(host, port)
        .ok()
        .and_then(|found| found.first().copied())
        .ok_or_else(|| SettingsError::InvalidAddress { word: host.to_owned() }.into())
}

/// Everything that can fail because of what was typed, done: what is left is to serve.
struct Start {
    listener: Listener,
    table: SharedTable,
    source: Option<SocketAddr>,
    workers: usize,
    busy_poll: bool,
    seed: u64,
}

impl Start {
    fn prepare(settings: &Serve, inherited: Option<std::os::fd::OwnedFd>) -> Result<Self, Failure> {
        let port = port_number(&settings.service.listen.port)?;
        let address = match &settings.service.listen.host {
            ListenHost::AnyV4 => SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port),
            ListenHost::AnyV6 => SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port),
            ListenHost::Host(host) => first_address(host, port)?,
        };
        let source = match &settings.service.source {
            Some(host) => Some(first_address(host, 0)?),
            None => None,
        };
        let cores = process::cores();
        let workers = settings.process.workers.map_or(cores.count, NonZeroUsize::get);
        let busy_poll = settings.process.busy_poll.unwrap_or_else(|| cores.can_be_spared());
        // Everything that is left to chance hangs on this one number.
        let seed = RandomState::new().hash_one(std::process::id());
        let mut table = Table::new(rules(&settings.service, workers, seed));
        declare(&mut table, &settings.service.groups, port)?;
        let keepalive = settings.service.client_keepalive;
        let listener = match inherited {
            Some(fd) => Listener::inherit(fd, keepalive)?,
            None => bind(address, keepalive)?,
        };
        Ok(Self { listener, table: SharedTable::new(table), source, workers, busy_poll, seed })
    }

    fn run(self, settings: &Serve, environment: &controllers::Environment) -> Result<u8, Failure> {
        let foreground = settings.process.foreground || process::is_init();
        let descriptor_limit = process::raise_descriptor_limit();
        process::forbid_core_files();
        let warn = Log::stderr(settings.process.debug);
        if settings.process.dump && !foreground {
            let text = "-p needs -f: the packet dump is off in the background".into();
            warn.tell(&Event::Note { severity: Severity::Warning, text });
        }
        if let Some(CheckSpec { check: Check::Exec(path), .. }) = &settings.service.check
            && let Err(e) = rustix::fs::access(path, rustix::fs::Access::EXEC_OK)
        {
            // It may be there later, so this is no reason not to serve.
            let text = format!("--check: cannot run {}: {}", path.display(), io::Error::from(e));
            warn.tell(&Event::Note { severity: Severity::Warning, text });
        }
        let endpoint = controllers::bind(
            self.listener.address(),
            settings.process.control_group.as_deref(),
            environment,
            &warn,
        )?;
        let ready = if foreground {
            None
        } else {
            match process::detach() {
                Ok(Side::Caller(verdict)) => {
                    // The endpoint's name now belongs to the instance.
                    std::mem::forget(endpoint);
                    return if verdict.code == 0 {
                        Ok(0)
                    } else {
                        Err(Failure::new(verdict.code, verdict.message))
                    };
                }
                Ok(Side::Instance(ready)) => Some(ready),
                Err(e) => return Err(Failure::new(exit::OS, format!("fork(): {e}"))),
            }
        };
        let log = if foreground { warn } else { Log::syslog(settings.process.debug) };
        let hangup = if foreground { Hangup::Stops } else { Hangup::Ignored };
        let listen = self.listener.address();
        let clock = Clock::start();
        let started = Shutdown::install(hangup).and_then(|shutdown| {
            let dump = (settings.process.dump && foreground).then(|| Dump::stdout(log.clone()));
            let limit = descriptor_limit;
            let (server, service, table) =
                self.start(settings, clock, &log, dump, limit, shutdown.notifier())?;
            Ok((
                shutdown,
                controllers::serve(endpoint, table, server, service, clock, settings.clone(), &log),
            ))
        });
        let (shutdown, running) = match (started, ready) {
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
        let cause = shutdown.wait();
        match cause {
            Cause::Drained => log.tell(&Event::Drained),
            Cause::Signal => log.tell(&Event::Stopping { connections: running.connections() }),
        }
        running.end(cause);
        Ok(0)
    }

    fn start(
        self,
        settings: &Serve,
        clock: Clock,
        log: &Log,
        dump: Option<Dump>,
        descriptor_limit: u64,
        notifier: Notifier,
    ) -> io::Result<(Server, Running, SharedTable)> {
        let process = Options {
            workers: self.workers,
            busy_poll: self.busy_poll,
            seed: self.seed,
            dump,
            descriptor_limit,
        };
        let options = ServiceOptions {
            outgoing: sys::Outgoing { source: self.source, keepalive: settings.service.server_keepalive },
            connect_timeout: settings.service.connect_timeout,
            idle_timeout: settings.service.idle_timeout,
            half_close_timeout: settings.service.half_close_timeout,
            max_lifetime: settings.service.max_lifetime,
            queue_timeout: settings.service.queue_timeout,
            max_connections: settings.service.max_connections,
            refuse_when_down: settings.service.refuse_when_down,
            checks: checks(&settings.service),
        };
        let server = Server::start(clock, log, process, move |_| notifier.drained())?;
        let table = self.table.clone();
        let new = NewService { listeners: vec![self.listener], table, log: log.clone(), options };
        let service = server.open(vec![new])?.remove(0);
        Ok((server, service, self.table))
    }
}

/// What the table goes by.
fn rules(service: &ServiceSpec, workers: usize, seed: u64) -> Rules {
    let check = service.check.as_ref();
    Rules {
        hash_failover: service.hash_failover,
        autodisable: service.autodisable,
        shards: workers,
        health: HealthRules {
            eject: service.eject,
            check: check.map(|check| CheckRules {
                interval: check.interval,
                rise: check.rise,
                fall: check.fall,
            }),
            fail_open: service.fail_open,
            slow_start: service.slow_start,
        },
        hash_balance: service.hash_balance.and_then(NonZeroU32::new),
        queue: service.queue,
        policy: service.later_policy,
        seed,
    }
}

/// How the data plane checks channels. Without `--check` it is never asked to.
fn checks(service: &ServiceSpec) -> net::Checks {
    let kick = service.on_down == OnDown::Kick;
    let Some(check) = &service.check else {
        return net::Checks { check: Arc::new(Check::Tcp), timeout: Duration::ZERO, port: None, kick };
    };
    net::Checks { check: Arc::new(check.check.clone()), timeout: check.timeout, port: check.port, kick }
}

/// Resolves the channels of the command line into the table.
fn declare(table: &mut Table, groups: &[GroupSpec], default_port: u16) -> Result<(), Failure> {
    for (index, group) in groups.iter().enumerate() {
        let id = GroupId::new(index)
            .ok_or_else(|| Failure::new(exit::USAGE, "balance: too many groups on the command line"))?;
        table.set_policy(id, group.policy);
        for place in &group.members {
            let too_many =
                |_| Failure::new(exit::USAGE, format!("balance: too many channels in group {index}"));
            let Member::Channel(target) = place else {
                table.skip(id).map_err(too_many)?;
                continue;
            };
            let invalid = || SettingsError::InvalidAddress { word: target.typed.text.clone() };
            let port = match &target.port {
                None => default_port,
                Some(PortWord::Number(n)) => n.get(),
                Some(PortWord::Name(name)) => resolve::service_port(name).ok_or_else(invalid)?,
            };
            let addresses = resolve::addresses(&target.host, port).map_err(|_| invalid())?;
            let addresses = Addresses::new(addresses).ok_or_else(invalid)?.named(&target.host);
            let channel = table.create(id, addresses, target.maxc, target.state).map_err(too_many)?;
            table.set_weight(ChannelKey { group: id, channel }, target.weight).map_err(too_many)?;
        }
    }
    Ok(())
}

/// Binds, and waits a moment for a port that is just being left: `killall balance; balance ...` has no sleep between.
fn bind(address: SocketAddr, keepalive: Option<Keepalive>) -> Result<Listener, Failure> {
    let started = Instant::now();
    loop {
        match Listener::bind(address, keepalive) {
            Err(e) if e.source.kind() == io::ErrorKind::AddrInUse && started.elapsed() < BIND_PATIENCE => {
                thread::sleep(BIND_RETRY);
            }
            result => return Ok(result?),
        }
    }
}
