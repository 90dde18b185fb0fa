//! What the roster hands over to another process, and how the roster of that process begins with it.
//!
//! Knows: services, lines and tables as values of the handover. Never: who is told of them, connections.
//! Source: docs/upgrade.md.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, Ordering};

use super::super::heir::{file_of, span_of};
use super::super::lists::{self, ListReader};
use super::super::lookup::{Known, Resolved};
use super::super::plan::{self, Lined, LinedGroup};
use super::super::prepared::{self, BIND_PATIENCE, Parts, Prepared};
use super::super::way_watch::WayWatch;
use super::{Failure, Roster, RosterEntry};
use crate::config;
use crate::control::Names;
use crate::handover::message::{
    DenialRecord, LinedChannelRecord, LinedGroupRecord, OfferedService, ServiceRecord,
};
use crate::handover::table::HealthRecord;
use crate::names::HeldNames;
use crate::net::server::Running;
use crate::observe::Owner;
use crate::sched::{
    Addresses, ChannelCounts, ChannelKey, ClientCounts, Denial, HeldSlots, Lists, Loss, SharedTable, Table,
    Until,
};
use crate::spec::{Address, ListenSpan, Member, ServiceSpec};
use crate::sys::listen::{ListenError, Listener, ListenerHandle};
use crate::sys::{Outgoing, Sources};

/// While this exists, nothing is reloaded.
pub(in crate::app) struct Frozen<'a> {
    is_frozen: &'a AtomicBool,
    /// Names do not get other addresses meanwhile, since what was offered must be what is handed over.
    _names: HeldNames,
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        self.is_frozen.store(false, Ordering::SeqCst);
    }
}

/// A service from another process, as it runs here.
pub(in crate::app) type InheritedService = (Running, SharedTable);

/// The counters of a service.
#[derive(Debug, Default)]
pub(in crate::app) struct Counts {
    pub(in crate::app) channels: HashMap<ChannelKey, ChannelCounts>,
    pub(in crate::app) served: ClientCounts,
    pub(in crate::app) losses: Vec<(Loss, u64)>,
}

/// A service that another process hands over.
pub(in crate::app) struct Legacy {
    pub(in crate::app) offered: OfferedService,
    pub(in crate::app) record: ServiceRecord,
    pub(in crate::app) listeners: Vec<OwnedFd>,
    /// The owner of its events in this process.
    pub(in crate::app) owner: Owner,
}

impl Roster {
    /// Prevents reloads until the result is dropped. `None`: they are prevented already.
    pub(in crate::app) fn freeze(&self) -> Option<Frozen<'_>> {
        let is_frozen = &self.is_frozen;
        (!is_frozen.swap(true, Ordering::SeqCst))
            .then(|| Frozen { is_frozen, _names: self.tools.names.hold() })
    }

    /// The services that another process can take over, their listeners, and the known addresses of their
    /// hosts.
    pub(in crate::app) fn offer(&self) -> (Vec<OfferedService>, Vec<ListenerHandle>, Known) {
        let members = self.members();
        let serving = || members.all.iter().filter(|member| !member.is_killed());
        let services = serving().map(|member| {
            let spec = member.written().spec.clone();
            OfferedService {
                name: spec.name.as_ref().map(|name| name.as_str().to_owned()),
                place: member.place(),
                listen: member.served.listeners.iter().map(ListenerHandle::address).collect(),
                file: member
                    .served
                    .listeners
                    .iter()
                    .find_map(|one| one.file())
                    .map(|id| (id.device, id.number)),
                passed: member.passed_ports(),
                line: config::print_line(&spec),
                sources: member.served.parts.outgoing.sources.as_slice().to_vec(),
            }
        });
        let listeners = serving().flat_map(|member| member.served.listeners.iter().cloned());
        let hosts = members.all.iter().flat_map(RosterEntry::known).collect();
        (services.collect(), listeners.collect(), hosts)
    }

    /// The same services as they run, in the same order.
    pub(in crate::app) fn offered(&self) -> Vec<Running> {
        let members = self.members();
        members
            .all
            .iter()
            .filter(|member| !member.is_killed())
            .map(|one| one.served.running.clone())
            .collect()
    }

    /// The owner of the events of each of these. `None`: it is gone.
    pub(in crate::app) fn owners(&self, of: &[Running]) -> Vec<Option<Owner>> {
        let members = self.members();
        let owner = |running: &Running| {
            let found = members.all.iter().find(|member| member.served.running.id() == running.id());
            Some(found?.served.log.owner())
        };
        of.iter().map(owner).collect()
    }

    /// The records of these services, which were offered.
    pub(in crate::app) fn records(&self, offered: &[Running]) -> Vec<ServiceRecord> {
        let members = self.members();
        let record = |running: &Running| {
            let found = members.all.iter().find(|member| member.served.running.id() == running.id());
            found.map_or_else(
                || ServiceRecord { killed: true, ..ServiceRecord::default() },
                |member| self.record(member),
            )
        };
        offered.iter().map(record).collect()
    }

    fn record(&self, member: &RosterEntry) -> ServiceRecord {
        let channel = |channel: &Lined| LinedChannelRecord {
            number: channel.key.map(|key| key.channel.index()),
            addresses: channel.addresses.as_slice().to_vec(),
            port: channel.addresses.port(),
        };
        let group =
            |group: &LinedGroup| LinedGroupRecord { channels: group.channels.iter().map(channel).collect() };
        let denial = |denial: Denial| DenialRecord {
            net: config::print_net(denial.net),
            until: denial.until.map(|until| (until.at, until.since_1970)),
        };
        let gate = member.served.parts.table.gate();
        ServiceRecord {
            table: member.served.parts.table.lock_at(self.tools.clock.now()).record(),
            lined: member.written().groups.iter().map(group).collect(),
            killed: member.is_killed(),
            connections: member.served.running.connections(),
            denied: gate.denied(self.tools.clock.now()).into_iter().map(denial).collect(),
            clients: gate.clients(),
        }
    }

    /// Stops checks and lookups for the channels of all services: another process does that now.
    pub(in crate::app) fn leave_channels(&self) {
        for member in &self.members().all {
            self.tools.minder.leave(&member.served.alarm);
            self.tools.names.leave(&member.served.names);
        }
    }

    /// Starts them again.
    pub(in crate::app) fn mind_channels(&self) {
        for member in &self.members().all {
            let super::Served { parts, running, alarm, names, log, .. } = &member.served;
            if !member.is_killed() {
                // If the port was closed because all channels are down, it is opened, and closed again if
                // they still are.
                if let Err(e) = running.admit() {
                    log.tell(&super::Event::AcceptFailed { cause: e.to_string() });
                }
                self.tools.minder.mind(alarm, parts.ward(log, running, names));
                self.tools.names.mind(names, parts.resident(log, running, alarm, self.tools.clock));
            }
        }
    }

    /// Binds the addresses that the other process does not have. This comes before that process is told to
    /// stop, so that all that can fail comes first. [`Roster::settle`] uses these listeners.
    ///
    /// # Errors
    /// An address cannot be bound.
    pub(in crate::app) fn bind_new(
        &self,
        wanted: &[(ServiceSpec, Resolved)],
        offered: &[OfferedService],
    ) -> Result<(), Failure> {
        let mut patience = BIND_PATIENCE;
        let mut failures = Vec::new();
        for (spec, found) in wanted {
            if let Err(error) = prepared::access(spec) {
                failures.push(Failure::at(&spec.listen.typed, error.into()));
                continue;
            }
            let there: Vec<ListenSpan> = offered.iter().map(span_of).collect();
            for place in found.span().each().filter(|&at| !there.iter().any(|span| span.contains(at))) {
                match prepared::bind(place, spec, &mut patience) {
                    Ok(listener) => {
                        self.bound.lock().unwrap_or_else(PoisonError::into_inner).insert(place, listener);
                    }
                    Err(error) => {
                        failures.push(Failure::at(&spec.listen.typed, error.into()));
                        // The other ports of the service would probably fail as well, and one message is
                        // enough.
                        break;
                    }
                }
            }
        }
        Failure::several(failures, super::super::NOT_STARTED).map_or(Ok(()), Err)
    }

    /// Serves what another process hands over, in the same state. `lists`: lists that were read already.
    ///
    /// # Errors
    /// It cannot be understood, or a listener cannot be watched.
    pub(in crate::app) fn inherit<K: Eq + std::hash::Hash>(
        &self,
        legacy: Vec<Legacy>,
        is_alone: bool,
        lists: &[Lists],
        hold: impl Fn(usize, &SharedTable) -> HashMap<K, HeldSlots>,
    ) -> io::Result<(Vec<InheritedService>, HashMap<K, HeldSlots>)> {
        let mut services = Vec::new();
        let mut held = HashMap::new();
        for (number, one) in legacy.into_iter().enumerate() {
            let (mut prepared, groups) = self.revive(one, lists)?;
            if !is_alone {
                prepared.joins_others();
            }
            // This comes before any client.
            held.extend(hold(number, &prepared.parts.table));
            services.push((prepared, groups));
        }
        self.open_as_they_are(services)?;
        let members = self.members();
        let opened =
            members.all.iter().map(|one| (one.served.running.clone(), one.served.parts.table.clone()));
        Ok((opened.collect(), held))
    }

    /// A listener that was bound before it was certain that it is needed.
    pub(in crate::app) fn take_bound(&self, place: Address) -> Option<Listener> {
        self.bound.lock().unwrap_or_else(PoisonError::into_inner).remove(&place)
    }

    /// Sets whether another process removes the files of these services' Unix sockets (`true`), or this one.
    pub(in crate::app) fn leave_files(&self, of: &[Running], are_left: bool) {
        let members = self.members();
        let is_meant = |member: &&RosterEntry| of.iter().any(|one| one.id() == member.served.running.id());
        for listener in members.all.iter().filter(is_meant).flat_map(|member| &member.served.listeners) {
            listener.leave_file(are_left);
        }
    }

    /// From now on, this process removes the files of all Unix sockets: it serves, and the predecessor knows
    /// that.
    pub(in crate::app) fn keep_files(&self) {
        let members = self.members();
        let listeners = members.all.iter().flat_map(|member| &member.served.listeners);
        listeners.for_each(|listener| listener.leave_file(false));
    }

    /// The names by which operators find the services.
    pub(in crate::app) fn names(&self) -> Vec<Names> {
        let names = |member: &RosterEntry| Names {
            listen: member.service.listen(),
            name: member.written().spec.name.as_ref().map(|name| name.as_str().to_owned()),
        };
        self.members().all.iter().filter(|member| !member.is_killed()).map(names).collect()
    }

    /// Updates the operators' list of services.
    pub(in crate::app) fn list_all(&self) {
        self.list(&self.members().all);
    }

    /// The counters of each of these services and their channels.
    pub(in crate::app) fn counted(&self, of: &[Running]) -> Vec<Counts> {
        self.each_table(of, |table| {
            let (served, losses) = table.counted_of_all();
            Counts { channels: table.counted().into_iter().collect(), served, losses }
        })
    }

    /// The number of connections of each channel, for each of these services.
    pub(in crate::app) fn active(&self, of: &[Running]) -> Vec<Vec<(ChannelKey, u32)>> {
        self.each_table(of, |table| table.busy())
    }

    /// The ejected channels of each of these services.
    pub(in crate::app) fn ejected(&self, of: &[Running]) -> Vec<Vec<(ChannelKey, HealthRecord)>> {
        self.each_table(of, |table| table.ejected())
    }

    fn each_table<T: Default>(&self, of: &[Running], ask: impl Fn(&mut Table) -> T) -> Vec<T> {
        let members = self.members();
        let one = |running: &Running| {
            let found = members.all.iter().find(|member| member.served.running.id() == running.id());
            found.map_or_else(T::default, |member| ask(&mut member.served.parts.table.lock()))
        };
        of.iter().map(one).collect()
    }

    fn revive(
        &self,
        Legacy { offered, record, listeners, owner }: Legacy,
        known: &[Lists],
    ) -> io::Result<(Prepared, Vec<LinedGroup>)> {
        let wrong = |why: String| io::Error::other(format!("the service on {}: {why}", offered.place));
        let (_, specs) = config::read_file("(the process before)", offered.line.as_bytes())
            .map_err(|errors| wrong(errors.first().map_or_else(String::new, ToString::to_string)))?;
        let [spec] = <[ServiceSpec; 1]>::try_from(specs).map_err(|_| wrong("its line is none".to_owned()))?;
        let rules = prepared::rules(&spec, self.tools.workers, self.tools.seed);
        let table =
            Table::restore(rules, &record.table, self.tools.clock.now()).map_err(|e| wrong(e.to_string()))?;
        let groups = lined(&spec, &record.lined)
            .ok_or_else(|| wrong("its channels are not those of its line".to_owned()))?;
        if listeners.is_empty() {
            return Err(wrong("no listener came with it".to_owned()));
        }
        let place = span_of(&offered).first();
        let file = file_of(&offered);
        let inherited = listeners.into_iter().map(|fd| {
            let listener = prepared::inherit(fd, place, file, &spec)?;
            let is_passed = offered.passed.contains(&listener.address().port());
            Ok::<_, ListenError>(listener.passed(is_passed))
        });
        let listeners = inherited.collect::<Result<_, _>>().map_err(|e| wrong(e.to_string()))?;
        let outgoing = Outgoing {
            sources: Sources::new(offered.sources.clone()),
            keepalive: spec.server_keepalive,
            transparent: spec.transparent,
        };
        let table = SharedTable::new(table);
        let (allow, deny) = (spec.allow.as_ref(), spec.deny.as_ref());
        let is_same = |known: &&Lists| known.allow.as_ref() == allow && known.deny.as_ref() == deny;
        let lists = known.iter().find(is_same).cloned().unwrap_or_else(|| {
            // If the files cannot be read any more, they are probably not in the lines that will be in force
            // in a moment.
            ListReader::default().lists(allow, deny).unwrap_or_else(|_| lists::without_files(allow, deny))
        });
        table.gate().set_lists(lists);
        let span = span_of(&offered);
        let ways = WayWatch::new(&table, span);
        let parts = Parts { spec, table, outgoing, span, ways };
        parts.limit_clients(&self.tools.rates);
        let gate = parts.table.gate();
        gate.expect(&record.clients);
        for denial in
            record.denied.iter().filter_map(|record| config::parse_net(&record.net).ok().zip(Some(record)))
        {
            let (net, record) = denial;
            let until = record.until.map(|(at, since_1970)| Until { at, since_1970 });
            // This fails only if there are too many, and the predecessor had no more.
            let _ = gate.deny(Denial { net, until }, self.tools.clock.now());
        }
        Ok((Prepared::of(parts, listeners, owner), groups))
    }

    /// Changes the services to the wanted ones, as a reload does. Returns what has changed, one line each.
    ///
    /// # Errors
    /// A new service cannot be served.
    pub(in crate::app) fn settle(
        &self,
        wanted: Vec<(ServiceSpec, Resolved)>,
    ) -> Result<Vec<String>, Failure> {
        let mut members = self.members();
        let members = &mut *members;
        let now: Vec<ListenSpan> = members.all.iter().map(|member| member.served.parts.span).collect();
        let spans: Vec<ListenSpan> = wanted.iter().map(|(_, found)| found.span()).collect();
        let pairing = plan::pair(&now, &spans);
        let wanted = wanted.into_iter().map(|(spec, found)| super::Reread { spec, found }).collect();
        let mut changes = super::ReloadNews::default();
        self.carry_out(members, wanted, &pairing, false, &mut changes)?;
        self.bound.lock().unwrap_or_else(PoisonError::into_inner).clear();
        Ok(changes.made.into_iter().chain(changes.missed).collect())
    }
}

/// The groups of a line with their addresses and keys from the records.
fn lined(spec: &ServiceSpec, records: &[LinedGroupRecord]) -> Option<Vec<LinedGroup>> {
    if spec.groups.len() != records.len() {
        return None;
    }
    let group = |(number, (group, record)): (usize, (&crate::spec::GroupSpec, &LinedGroupRecord))| {
        let specs = group.members.iter().filter_map(|member| match member {
            Member::Channel(spec) => Some(spec),
            Member::Gap => None,
        });
        let specs: Vec<_> = specs.collect();
        if specs.len() != record.channels.len() {
            return None;
        }
        let channels = specs.into_iter().zip(&record.channels).map(|(spec, record)| {
            let unknown = || Addresses::unknown(&spec.host, record.port);
            let addresses = Addresses::new(record.addresses.clone()).unwrap_or_else(unknown);
            let addresses = match spec.family {
                Some(kind) => Addresses::of_family(kind, &spec.host, record.port, None),
                None => addresses.named(&spec.host),
            };
            let addresses = addresses.lazily(spec.lazy);
            let key = record.number.and_then(|channel| ChannelKey::new(number, channel));
            Some(Lined::of(spec, addresses, key))
        });
        Some(LinedGroup { policy: group.policy, channels: channels.collect::<Option<_>>()? })
    };
    spec.groups.iter().zip(records).enumerate().map(group).collect()
}
