//! One service, as far as it can be made before there is a data plane: its table is filled and its ports are
//! bound.
//!
//! Knows: which settings become which room's options. Never: workers, the background, controllers.

use std::ffi::OsStr;
use std::io;
use std::num::NonZeroU32;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::denied::{self, FileUse};
use super::lookup::Resolved;
use super::passed::PassedSocket;
use super::way_watch::WayWatch;
use super::{Failure, exit};
use crate::config::CHECK_DEFAULTS;
use crate::control::{self, ListeningSocket, Names};
use crate::names::{Residence, Resident};
use crate::net::server::Running;
use crate::net::{Changed, NewService, Routes, ServiceOptions};
use crate::observe::{Log, Owner};
use crate::probe::{Alarm, Checks, Hands, Ward};
use crate::sched::{
    Addresses, ChannelKey, CheckRules, ClientLimits, ClientRates, GroupId, GroupRange, HealthRules, Rules,
    SharedTable, Table,
};
use crate::spec::{
    Address, Check, CheckSpec, GroupSpec, ListenSpan, LostSocket, Member, OnDown, Policy, Section,
    ServiceSpec, SocketAccess, UnixName, reserved_groups,
};
use crate::sys::listen::{ListenError, Listener, ListenerHandle};
use crate::sys::socket_file::{self, SocketFileId};
use crate::sys::{Clock, Outgoing, Sources};

/// How long a start waits for ports that the previous instance is just leaving, all ports together.
pub(super) const BIND_PATIENCE: Duration = Duration::from_millis(500);
pub(super) const BIND_RETRY: Duration = Duration::from_millis(5);

/// A service after everything that can fail because of what was typed. It only has to be served.
pub(super) struct Prepared {
    pub(super) parts: Parts,
    /// Its listeners in the order of their ports; at least one.
    pub(super) listeners: Vec<Listener>,
    /// The owner of its events.
    pub(super) owner: Owner,
    /// Whether it is the only service of the process.
    is_alone: bool,
}

/// A listener that exists already.
pub(super) enum Got {
    /// Passed by socket activation.
    Passed(PassedSocket),
    /// Left by the predecessor, with the file of a Unix socket if we are to remove that at our end. It may
    /// have been passed by socket activation.
    Left { fd: OwnedFd, file: Option<SocketFileId>, is_passed: bool },
    /// Bound by this process.
    Bound(Listener),
}

impl From<PassedSocket> for Got {
    fn from(passed: PassedSocket) -> Self {
        match passed.file {
            // A process that died has made it, so this one removes its file, as after an upgrade.
            Some(_) => Self::Left { fd: passed.fd, file: passed.file, is_passed: false },
            None => Self::Passed(passed),
        }
    }
}

/// The parts of a service without its listeners.
pub(super) struct Parts {
    pub(super) spec: ServiceSpec,
    pub(super) table: SharedTable,
    pub(super) outgoing: Outgoing,
    /// Where its line wants it to listen; passed sockets may be at another address.
    pub(super) span: ListenSpan,
    /// Looks at what `--transparent` lacks.
    pub(super) ways: Arc<WayWatch>,
}

/// A service that is being served.
pub(super) struct Served {
    pub(super) parts: Parts,
    /// By port, at least one. These are handles: the workers own the listeners and close them.
    pub(super) listeners: Vec<ListenerHandle>,
    pub(super) running: Running,
    /// Rung when its table has changed.
    pub(super) alarm: Alarm,
    /// Rung when the names of its channels have changed.
    pub(super) names: Residence,
    /// The log for its events.
    pub(super) log: Log,
}

impl Prepared {
    /// Fills the table and binds all ports, or none. `got` returns a socket that already listens at an
    /// address; `shards` is the number of counters that share no cache line; `patience` is what is left of
    /// [`BIND_PATIENCE`].
    ///
    /// # Errors
    /// A port cannot be bound.
    pub(super) fn new(
        spec: ServiceSpec,
        found: Resolved,
        mut got: impl FnMut(Address) -> Option<Got>,
        shards: usize,
        seed: u64,
        patience: &mut Duration,
    ) -> Result<Self, Failure> {
        let mut table = Table::new(rules(&spec, shards, seed));
        let span = found.span();
        let groups = found.changed.as_ref().unwrap_or(&spec.groups);
        declare(&mut table, groups, found.channels, spec.later_policy)?;
        for (key, decided) in &found.decided {
            table.decide_member(*key, (decided.host.clone(), decided.port), decided);
        }
        table.settle_families();
        let listener = |place| match got(place) {
            Some(Got::Passed(passed)) => {
                let is_passed = passed.is_the_managers();
                Ok(inherit(passed.fd, passed.address, None, &spec)?.passed(is_passed))
            }
            Some(Got::Left { fd, file, is_passed }) => {
                let left = inherit(fd, place, file, &spec)?.passed(is_passed);
                let access = access(&spec)?;
                if file.is_some() && !left.is_lost() && access != SocketAccess::default() {
                    // As in a reload, settings that are not given stay as they are.
                    let failed = |source| ListenError { call: "chmod", address: Box::new(place), source };
                    left.set_access(access).map_err(failed)?;
                }
                Ok(left)
            }
            Some(Got::Bound(listener)) => Ok(listener),
            None => bind(place, &spec, patience),
        };
        let listeners = span.each().map(listener).collect::<Result<_, _>>();
        let listeners = listeners.map_err(|error| Failure::at(&spec.listen.typed, error.into()))?;
        let outgoing = Outgoing {
            sources: Sources::new(found.sources),
            keepalive: spec.server_keepalive,
            transparent: spec.transparent,
        };
        let table = SharedTable::new(table);
        table.gate().set_lists(found.lists);
        for denial in found.denied {
            // This fails only if there are too many, and there were no more when they were kept.
            let _ = table.gate().deny(denial, Duration::ZERO);
        }
        let ways = WayWatch::new(&table, span);
        let parts = Parts { spec, table, outgoing, span, ways };
        Ok(Self { parts, listeners, owner: Owner::new_service(), is_alone: true })
    }

    /// A service from existing parts.
    pub(super) fn of(parts: Parts, listeners: Vec<Listener>, owner: Owner) -> Self {
        Self { parts, listeners, owner, is_alone: true }
    }

    /// Notes that the process has other services.
    pub(super) fn joins_others(&mut self) {
        self.is_alone = false;
    }

    /// A log for its events. If there are several services, each line says which one, as `services` and `use`
    /// call it.
    pub(super) fn log(&self, log: &Log) -> Log {
        match &self.parts.spec.name {
            Some(name) => log.of_service(self.owner, Some(name.as_str())),
            None if self.is_alone => log.of_service(self.owner, None),
            None => log.of_service(self.owner, Some(&self.place())),
        }
    }

    /// The addresses at which it listens.
    pub(super) fn listen(&self) -> Vec<ListenSpan> {
        ListenSpan::of(self.listeners.iter().map(Listener::address))
    }

    /// What a service without a name is called.
    pub(super) fn place(&self) -> String {
        self.listen().first().unwrap_or(&self.parts.span).to_string()
    }

    /// Leaves the files of its Unix sockets to another process.
    pub(super) fn leave_files(&self) {
        self.listeners.iter().for_each(|listener| listener.handle().leave_file(true));
    }

    /// The names by which operators find it.
    pub(super) fn names(&self) -> Names {
        let name = self.parts.spec.name.as_ref().map(|name| name.as_str().to_owned());
        Names { listen: self.listen(), name }
    }

    /// What the data plane gets of it. `log` is its own; `alarm` is rung when the data plane has changed the
    /// table.
    pub(super) fn service(&self, log: &Log, alarm: Alarm) -> NewService {
        let (listeners, table) = (self.listeners.clone(), self.parts.table.clone());
        let changed = Changed::new(move || alarm.ring());
        NewService { listeners, table, log: log.clone(), options: self.parts.options(), changed }
    }
}

impl Served {
    /// The addresses at which it listens.
    pub(super) fn listen(&self) -> Vec<ListenSpan> {
        ListenSpan::of(self.listeners.iter().map(ListenerHandle::address))
    }

    /// Its Unix socket as operators ask for it, if it listens on one.
    pub(super) fn unix_socket(&self) -> Option<Arc<dyn ListeningSocket>> {
        let socket = self.listeners.iter().find(|one| one.address().unix().is_some())?;
        Some(Arc::new(socket.clone()))
    }

    /// What a service without a name is called.
    pub(super) fn place(&self) -> String {
        self.listen().first().unwrap_or(&self.parts.span).to_string()
    }
}

impl ListeningSocket for ListenerHandle {
    fn lost(&self) -> Option<LostSocket> {
        self.lost()
    }

    fn access(&self) -> Option<SocketAccess> {
        self.access()
    }

    fn has_foreign_file(&self) -> bool {
        self.has_foreign_file()
    }
}

impl Parts {
    /// The options of its data plane.
    pub(super) fn options(&self) -> ServiceOptions {
        let spec = &self.spec;
        ServiceOptions {
            outgoing: self.outgoing.clone(),
            connect_timeout: spec.connect_timeout,
            race: spec.race,
            first_byte: spec.first_byte,
            idle_timeout: spec.idle_timeout,
            half_close_timeout: spec.half_close_timeout,
            max_lifetime: spec.max_lifetime,
            accept_proxy: spec.accept_proxy.clone(),
            routes: Routes::new(&spec.sections),
            starttls: spec.starttls,
            greeting_timeout: spec.greeting_timeout,
            queue_timeout: spec.queue_timeout,
            pause_timeout: spec.pause_timeout,
            max_connections: spec.max_connections,
            proxy_tlvs: spec.proxy_tlvs,
        }
    }

    /// Sets the limits for a single client in its gate.
    pub(super) fn limit_clients(&self, rates: &Arc<ClientRates>) {
        let spec = &self.spec;
        let limits =
            ClientLimits { max: spec.client_max, rate: spec.client_rate, prefix: spec.client_prefix };
        self.table.gate().set_limits(limits, rates);
    }

    /// The rules of its table.
    pub(super) fn rules(&self, workers: usize, seed: u64) -> Rules {
        rules(&self.spec, workers, seed)
    }

    /// What the health thread gets of it. `log` is its own.
    pub(super) fn ward(&self, log: &Log, running: &Running, names: &Residence) -> Ward {
        let [doubted, told] = [names.clone(), names.clone()];
        let [kicks, shuts, opens, serves, knows] = [(); 5].map(|()| running.clone());
        Ward {
            table: self.table.clone(),
            log: log.clone(),
            first_port: self.span.first().port(),
            outgoing: self.outgoing.clone(),
            connect_timeout: self.spec.connect_timeout,
            checks: checks(&self.spec),
            refuse_when_down: self.spec.refuse_when_down,
            hands: Hands {
                kick: Box::new(move |channel| kicks.kick(channel)),
                shut: Box::new(move || shuts.refuse()),
                open: Box::new(move || opens.admit()),
                serve_line: Box::new(move || serves.serve_line()),
                doubt: Box::new(move |names| doubted.doubt(names)),
                another: Box::new(move || told.another()),
                leads_back: Box::new(move |channel, target| knows.leads_back(channel, target)),
            },
        }
    }
}

impl Parts {
    /// What the thread that looks names up gets of it. `log` is its own.
    pub(super) fn resident(&self, log: &Log, running: &Running, alarm: &Alarm, clock: Clock) -> Resident {
        let (kicks, serves, alarm) = (running.clone(), running.clone(), alarm.clone());
        let ways = self.spec.transparent.then(|| (Arc::clone(&self.ways), log.clone()));
        let kick = self.spec.on_remove == OnDown::Kick;
        Resident {
            table: self.table.clone(),
            log: log.clone(),
            every: self.spec.resolve,
            ranges: ranges(&self.spec.sections),
            kick: kick.then(|| -> Box<dyn Fn(ChannelKey, Vec<Address>) + Send> {
                Box::new(move |channel, addresses| kicks.kick_addresses(channel, addresses))
            }),
            changed: Box::new(move || {
                serves.table_changed();
                alarm.ring();
                // A name may have the first address of its family, whose replies come another way.
                if let Some((ways, log)) = &ways {
                    ways.changed(log, clock);
                }
            }),
        }
    }
}

/// The group ranges for clients, by the name that they ask for.
fn ranges(sections: &[Section]) -> Vec<GroupRange> {
    let next = |number: usize| sections.get(number + 1).map(|next| next.group);
    let all = sections.iter().enumerate();
    all.filter_map(|(number, section)| GroupRange::new(section.group, next(number))).collect()
}

/// The rules of a table.
pub(super) fn rules(service: &ServiceSpec, workers: usize, seed: u64) -> Rules {
    let defaults = CHECK_DEFAULTS;
    let check = service.check.as_ref().unwrap_or(&defaults);
    let own_check = CheckRules { interval: check.interval, rise: check.rise, fall: check.fall };
    Rules {
        hash_failover: service.hash_failover,
        autodisable: service.autodisable,
        shards: workers,
        health: HealthRules {
            eject: service.eject,
            check: check.check.as_ref().map(|_| own_check),
            own_check,
            fail_open: service.fail_open,
            slow_start: service.slow_start,
        },
        hash_balance: service.hash_balance.and_then(NonZeroU32::new),
        queue: service.queue,
        policy: service.later_policy,
        seed,
    }
}

/// How channels are checked. Without `--check`, only channels with a check of their own are checked.
fn checks(service: &ServiceSpec) -> Checks {
    let kick = service.on_down == OnDown::Kick;
    let defaults = CHECK_DEFAULTS;
    let CheckSpec { check, timeout, port, .. } = service.check.as_ref().unwrap_or(&defaults);
    let check = check.clone().unwrap_or(Check::Tcp);
    Checks { check: Arc::new(check), timeout: *timeout, port: *port, kick }
}

/// Puts the channels into the table. `later`: the policy of groups that are made later.
pub(super) fn declare(
    table: &mut Table,
    groups: &[GroupSpec],
    channels: Vec<Vec<Option<Addresses>>>,
    later: Policy,
) -> Result<(), Failure> {
    let is_reserved = reserved_groups(groups);
    for (index, (group, found)) in groups.iter().zip(channels).enumerate() {
        let id = GroupId::new(index)
            .ok_or_else(|| Failure::new(exit::USAGE, "balance: too many groups on the command line"))?;
        // A group without channels and settings is not made, so that no client looks at it.
        if group.members.is_empty() && (group.policy == later || is_reserved[index]) {
            continue;
        }
        table.set_policy(id, group.policy);
        for (member, addresses) in group.members.iter().zip(found) {
            let too_many =
                |_| Failure::new(exit::USAGE, format!("balance: too many channels in group {index}"));
            let (Member::Channel(target), Some(addresses)) = (member, addresses) else {
                table.skip(id).map_err(too_many)?;
                continue;
            };
            let channel = table.create(id, addresses, target.maxc, target.state).map_err(too_many)?;
            let key = ChannelKey { group: id, channel };
            table.set_weight(key, target.weight).map_err(too_many)?;
            table.set_manner(key, target.manner.clone()).map_err(too_many)?;
        }
    }
    Ok(())
}

/// Takes over a listener that another process has opened. `file`: that of a Unix socket, if we are to remove
/// it at our end.
pub(super) fn inherit(
    fd: OwnedFd,
    address: Address,
    file: Option<SocketFileId>,
    spec: &ServiceSpec,
) -> Result<Listener, ListenError> {
    match address {
        Address::Net(_) => Listener::inherit(fd, spec.client_keepalive),
        Address::Unix(name) => {
            let left = Listener::inherit_unix(fd, name, file)?;
            if file.is_some() && left.is_lost() {
                // Somebody has removed the file. If its path is free, a new one is made, so that clients find
                // the service again.
                return access(spec).and_then(|access| Listener::bind_unix(name, access)).or(Ok(left));
            }
            Ok(left)
        }
    }
}

/// Who may connect to its Unix socket.
pub(super) fn access(spec: &ServiceSpec) -> Result<SocketAccess, ListenError> {
    let group = match &spec.socket_group {
        None => None,
        Some(group) => Some(control::group_number(&group.name).ok_or_else(|| ListenError {
            call: "getgrnam",
            address: Box::new(spec.listen.ports.unix().map_or(Address::NOWHERE, Address::Unix)),
            source: io::Error::other(format!("there is no group {:?}", group.name)),
        })?),
    };
    Ok(SocketAccess { mode: spec.socket_mode, group })
}

/// The error about the file of a Unix socket, with the reason why the system refuses it.
fn with_reason(name: UnixName, error: ListenError) -> ListenError {
    let path = Path::new(OsStr::from_bytes(name.as_bytes()));
    let why = if name.is_abstract() { None } else { denied::reason(&error.source, path, FileUse::Replace) };
    let Some(why) = why else { return error };
    let told = format!("{} ({why})", error.source);
    ListenError { source: io::Error::new(error.source.kind(), told), ..error }
}

/// Binds, and waits a moment for a port that is just being closed: `killall balance; balance ...` has no
/// pause in between. Each attempt for a Unix socket that is there connects to it, whoever has it, so the second
/// one is made when another file is at its path, or none, and the last one when the time is up.
pub(super) fn bind(
    address: Address,
    spec: &ServiceSpec,
    patience: &mut Duration,
) -> Result<Listener, ListenError> {
    let bind = || match address {
        Address::Net(address) => Listener::bind_early(address, spec.client_keepalive, spec.freebind),
        Address::Unix(name) => Listener::bind_unix(name, access(spec)?).map_err(|e| with_reason(name, e)),
    };
    let file = || address.unix().filter(|name| !name.is_abstract()).map(socket_file::at);
    loop {
        let before = file();
        match bind() {
            Err(e) if e.source.kind() == io::ErrorKind::AddrInUse && !patience.is_zero() => loop {
                thread::sleep(BIND_RETRY);
                *patience = patience.saturating_sub(BIND_RETRY);
                if patience.is_zero() || before.is_none() || file() != before {
                    break;
                }
            },
            result => return result,
        }
    }
}
