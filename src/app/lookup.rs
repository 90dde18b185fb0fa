//! Looks up hosts and services that were typed. Errors name the word and its place.
//!
//! Knows: the words' places, how a resolver's answer is phrased, which services would conflict. Never: what
//! an address is for.

use std::collections::{BTreeSet, HashMap};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use super::lists::ListReader;
use crate::config::{LineError, Places, Wrong};
use crate::names::resolve;
use crate::sched::{Addresses, ChannelKey, DecidedMember, Denial, FoundMember, Lists, is_name};
use crate::spec::{
    Address, ChannelSpec, FamilyKind, GroupSpec, HostSpec, ListenHost, ListenSpan, Member, PortWord,
    PortsSpec, ServiceSpec, Typed, is_service_name,
};

/// A service after all its names were looked up.
pub(super) struct Resolved {
    /// Where it listens, with the lowest of its ports. If a name has several addresses, the first one is
    /// used.
    pub(super) listen: Addresses,
    /// The highest of its ports.
    pub(super) last_port: u16,
    /// The addresses of `-B`. If a name has several, the first one is used.
    pub(super) sources: Vec<SocketAddr>,
    /// The addresses of the channels, by group and number; `None` for a gap.
    pub(super) channels: Vec<Vec<Option<Addresses>>>,
    /// The groups that the table begins with, if operators have changed those of the line.
    pub(super) changed: Option<Vec<GroupSpec>>,
    /// What operators decided about single channels of names that stand for several.
    pub(super) decided: Vec<(ChannelKey, DecidedMember)>,
    /// The lists of `--allow` and `--deny`.
    pub(super) lists: Lists,
    /// Networks that operators have denied.
    pub(super) denied: Vec<Denial>,
}

impl Resolved {
    /// The addresses where it is to listen.
    pub(super) fn span(&self) -> ListenSpan {
        ListenSpan::new(self.place(), self.last_port)
    }

    /// What identifies the service as long as its line exists: where it listens, with the lowest port.
    pub(super) fn place(&self) -> Address {
        self.listen.first()
    }
}

/// Looks up all names of the services, each name once. If a lookup fails, the addresses in `known` are used,
/// because a failing name server is no reason to lose a channel. Also returns messages about such failures.
///
/// # Errors
/// All errors, service by service.
pub(super) fn services(
    specs: &[ServiceSpec],
    known: Known,
) -> Result<(Vec<Resolved>, Vec<String>), Vec<LineError>> {
    let mut names = Lookups { known, ..Lookups::default() };
    names.ask_all(specs);
    let mut errors = Vec::new();
    let found: Vec<_> = specs.iter().filter_map(|spec| names.service(spec, &mut errors)).collect();
    if errors.is_empty() {
        errors = taken_twice(specs, &found);
    }
    if errors.is_empty() { Ok((found, names.failed)) } else { Err(errors) }
}

/// The earlier addresses of hosts.
pub(super) type Known = HashMap<String, Vec<SocketAddr>>;

/// The port number of a PORT word.
pub(super) fn port_number(word: &PortWord, typed: &Typed) -> Result<u16, LineError> {
    Lookups::default().port(word).map_err(|name| LineError::of(typed, Wrong::Port { word: name }))
}

/// All addresses of a host.
pub(super) fn addresses(host: &HostSpec, port: u16) -> Result<Vec<SocketAddr>, LineError> {
    Lookups::default().addresses(&host.name, port, &host.typed)
}

/// An error for each service that would listen at the same place as an earlier one.
fn taken_twice(specs: &[ServiceSpec], found: &[Resolved]) -> Vec<LineError> {
    let mut taken = Places::default();
    let mut errors = Vec::new();
    for (spec, found) in specs.iter().zip(found) {
        let (span, typed) = (found.span(), &spec.listen.typed);
        let ports = span.each().map(|at| at.port().to_string());
        let ports: Vec<String> = ports.collect();
        let met = taken.take(&ports, &found.place().into(), (span, typed));
        let met =
            met.and_then(|(port, (other, typed))| Some((port.parse().ok()?, *other, typed.at.as_ref()?)));
        let Some((port, other_span, other)) = met else { continue };
        let (address, place) = (span.at(port), other_span.at(port));
        let wrong = if address.unix().is_some() {
            format!("the service at {other} listens on {place}, too; give another path")
        } else if place == address {
            format!("the service at {other} listens on {place}, too; give another port or -b")
        } else {
            let is_wild = address.net().is_some_and(|address| address.ip().is_unspecified());
            let wild = if is_wild { address } else { place };
            format!(
                "{address} and {place} of the service at {other} cannot both be used, since {wild} takes all addresses; \
                 give another port, or each its own -b"
            )
        };
        errors.push(LineError::of(typed, Wrong::Usage(wrong)));
    }
    errors
}

/// The results of lookups so far.
#[derive(Default)]
struct Lookups {
    hosts: HashMap<String, Result<Vec<SocketAddr>, String>>,
    services: HashMap<String, Result<Vec<FoundMember>, String>>,
    ports: HashMap<String, Option<u16>>,
    known: Known,
    /// Answers to names that were looked up together and not used yet.
    asked: HashMap<String, NameSaid>,
    /// Messages about names that could not be looked up, but have earlier addresses.
    failed: Vec<String>,
    lists: ListReader,
}

/// The answer to a lookup.
enum NameSaid {
    Host(Result<Vec<SocketAddr>, String>),
    Service(Result<Vec<FoundMember>, String>),
}

impl NameSaid {
    fn of(name: &str) -> Self {
        if is_service_name(name) {
            Self::Service(resolve::service(name))
        } else {
            Self::Host(resolve::addresses(name, 0).map_err(|e| e.to_string()))
        }
    }
}

impl Lookups {
    /// Looks up all names at the same time, if there are several.
    fn ask_all(&mut self, specs: &[ServiceSpec]) {
        let hosts = specs.iter().flat_map(|spec| {
            let listen = match &spec.listen.host {
                ListenHost::Host(host) => Some(&*host.name),
                ListenHost::AnyV4 | ListenHost::AnyV6 => None,
            };
            let channels = spec.groups.iter().flat_map(|group| &group.members);
            let channels = channels.filter_map(|member| match member {
                Member::Channel(channel) if channel.unix().is_none() => Some(&*channel.host),
                Member::Channel(_) | Member::Gap => None,
            });
            listen.into_iter().chain(spec.sources.iter().map(|host| &*host.name)).chain(channels)
        });
        let names: BTreeSet<String> = hosts.filter(|host| is_name(host)).map(str::to_owned).collect();
        if names.len() > 1 {
            self.asked = resolve::all_at_once(names, NameSaid::of);
        }
    }

    /// `None` if there is an error. If PORT is wrong, its channels are still looked up.
    fn service(&mut self, spec: &ServiceSpec, errors: &mut Vec<LineError>) -> Option<Resolved> {
        let before = errors.len();
        let typed = &spec.listen.typed;
        let ports = match &spec.listen.ports {
            PortsSpec::One(port) => self.port(port).map(|port| port..=port),
            PortsSpec::Range(range) => Ok(range.first().get()..=range.last().get()),
            PortsSpec::Unix(_) => Ok(0..=0),
        };
        let ports = ports.map_err(|word| LineError::of(typed, Wrong::Port { word }));
        let (port, last_port) = keep(ports, errors).unwrap_or(1..=1).into_inner();
        // In a range, a channel without a port has port 0: the port of each client is used.
        let default = if port == last_port { port } else { 0 };
        let unix = spec.listen.ports.unix();
        let listen = match &spec.listen.host {
            _ if unix.is_some() => unix.map(|name| Address::Unix(name).into()),
            ListenHost::AnyV4 => Some(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)).into()),
            ListenHost::AnyV6 => Some(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)).into()),
            ListenHost::Host(host) => keep(self.host(host, port), errors),
        };
        let found = spec.sources.iter().filter_map(|host| keep(self.host(host, 0), errors));
        let sources = found.filter_map(|found| found.first().net()).collect();
        let mut member = |member: &Member| match member {
            Member::Channel(channel) if unix.is_some() && needs_port(channel) => {
                let why = "a channel needs a port here, since clients come by a Unix socket; write host:port";
                keep(Err(LineError::of(&channel.typed, Wrong::address(&channel.typed, why))), errors)
            }
            Member::Channel(channel) => keep(self.channel(channel, default), errors),
            Member::Gap => None,
        };
        let channels =
            spec.groups.iter().map(|group| group.members.iter().map(&mut member).collect()).collect();
        let lists = self.lists.lists(spec.allow.as_ref(), spec.deny.as_ref()).unwrap_or_else(|wrong| {
            // Other services may have the same files and errors.
            let new = wrong.into_iter().filter(|one| !errors.contains(one)).collect::<Vec<_>>();
            errors.extend(new);
            Lists::default()
        });
        let (denied, decided) = (Vec::new(), Vec::new());
        let found =
            Resolved { listen: listen?, last_port, sources, channels, changed: None, decided, lists, denied };
        (errors.len() == before).then_some(found)
    }

    fn channel(&mut self, channel: &ChannelSpec, default: u16) -> Result<Addresses, LineError> {
        if let Some(name) = channel.unix() {
            return Ok(Addresses::from(Address::Unix(name)).named(&channel.host));
        }
        let ChannelSpec { typed, host, port, .. } = channel;
        let wrong = |why: String| LineError::of(typed, Wrong::address(typed, why));
        let port = match port {
            None => default,
            Some(port) => self
                .port(port)
                .map_err(|name| wrong(format!("no service '{name}' is known; give a number")))?,
        };
        let family = |kind, members| Addresses::of_family(kind, host, port, members).lazily(channel.lazy);
        if channel.family == Some(FamilyKind::Service) {
            return self.targets(channel, if channel.port.is_some() { port } else { 0 });
        }
        let found = match self.addresses(host, port, typed) {
            // The thread that looks it up again will report why.
            Err(_) if channel.lazy => {
                return Ok(match channel.family {
                    Some(kind) => family(kind, None),
                    None => Addresses::unknown(host, port).lazily(true),
                });
            }
            found => found.map_err(|error| with_advice(error, channel))?,
        };
        if let Some(why) = resolve::why_no_zone(host, &found) {
            return Err(wrong(why));
        }
        if let Some(kind) = channel.family {
            return Ok(family(kind, Some(found.into_iter().map(FoundMember::of).collect())));
        }
        let addresses = Addresses::new(found.into_iter().map(Address::from).collect());
        let addresses = addresses.ok_or_else(|| wrong("the name has no address".to_owned()))?;
        Ok(addresses.named(host).lazily(channel.lazy))
    }

    /// Looks up the targets of an SRV name. `port`: the port for all targets; 0: each target has its own.
    fn targets(&mut self, channel: &ChannelSpec, port: u16) -> Result<Addresses, LineError> {
        let ChannelSpec { typed, host, lazy, .. } = channel;
        let family = |members| Addresses::of_family(FamilyKind::Service, host, port, members).lazily(*lazy);
        let asked = &mut self.asked;
        let found = self.services.entry(host.clone()).or_insert_with(|| match asked.remove(host) {
            Some(NameSaid::Service(said)) => said,
            Some(NameSaid::Host(_)) | None => resolve::service(host),
        });
        match found {
            Ok(found) => {
                let with_port = |one: &FoundMember| {
                    let mut one = one.clone();
                    one.port = if port == 0 { one.port } else { port };
                    one.addresses.iter_mut().for_each(|address| address.set_port(one.port));
                    one
                };
                Ok(family(Some(found.iter().map(with_port).collect())))
            }
            Err(_) if *lazy => Ok(family(None)),
            Err(cause) if self.known.contains_key(host) => {
                let told = format!("no service '{host}': {cause}; it keeps the channels it has");
                if !self.failed.contains(&told) {
                    self.failed.push(told);
                }
                Ok(family(None))
            }
            Err(cause) => {
                Err(LineError::of(typed, Wrong::address(typed, format!("no service '{host}': {cause}"))))
            }
        }
    }

    fn host(&mut self, host: &HostSpec, port: u16) -> Result<Addresses, LineError> {
        let found = self.addresses(&host.name, port, &host.typed)?;
        if let Some(why) = resolve::why_no_zone(&host.name, &found) {
            return Err(LineError::of(&host.typed, Wrong::address(&host.typed, why)));
        }
        let none = || LineError::of(&host.typed, Wrong::address(&host.typed, "the name has no address"));
        Addresses::new(found.into_iter().map(Address::from).collect()).ok_or_else(none)
    }

    fn addresses(&mut self, host: &str, port: u16, typed: &Typed) -> Result<Vec<SocketAddr>, LineError> {
        // An address is used as it is, and need not be remembered.
        if let Ok(ip) = host.parse() {
            return Ok(vec![SocketAddr::new(ip, port)]);
        }
        let found = match self.hosts.get(host) {
            Some(found) => found,
            None => {
                let looked_up = match self.asked.remove(host) {
                    Some(NameSaid::Host(said)) => said,
                    Some(NameSaid::Service(_)) | None => {
                        resolve::addresses(host, 0).map_err(|e| e.to_string())
                    }
                };
                let known = self.known.get(host).filter(|known| !known.is_empty());
                let found = match (looked_up, known) {
                    (Err(cause), Some(before)) => {
                        self.failed.push(format!("no host '{host}': {cause}; it keeps the addresses it has"));
                        Ok(before.clone())
                    }
                    (found, _) => found,
                };
                self.hosts.entry(host.to_owned()).or_insert(found)
            }
        };
        match found {
            Ok(found) => Ok(found.iter().map(|address| with_port(*address, port)).collect()),
            Err(cause) => {
                Err(LineError::of(typed, Wrong::address(typed, format!("no host '{host}': {cause}"))))
            }
        }
    }

    /// The number of a port.
    ///
    /// # Errors
    /// The name, if no service has it.
    fn port(&mut self, word: &PortWord) -> Result<u16, String> {
        match word {
            PortWord::Number(n) => Ok(n.get()),
            PortWord::Name(name) => {
                let found = self.ports.entry(name.clone()).or_insert_with(|| resolve::service_port(name));
                found.ok_or_else(|| name.clone())
            }
        }
    }
}

/// Adds to the message what to write instead. For compatibility, `fe80::1` is the host `fe80` with at most one
/// connection.
fn with_advice(mut error: LineError, channel: &ChannelSpec) -> LineError {
    let typed = &channel.typed.text;
    let word = typed.split(',').next().unwrap_or_default();
    if let Wrong::Address { why, .. } = &mut error.wrong {
        match word.parse::<Ipv6Addr>() {
            Ok(ip) if !channel.host.contains(':') => {
                why.push_str(&format!("; the IPv6 address is written [{ip}]"));
            }
            Err(_) if channel.host.contains(|c: char| c.is_ascii_alphabetic()) => {
                why.push_str(&format!("; if the name comes later, write {typed},lazy"));
            }
            _ => {}
        }
    }
    error
}

/// Does this channel have no port, so that the port of the client would be used?
fn needs_port(channel: &ChannelSpec) -> bool {
    channel.port.is_none() && channel.unix().is_none() && channel.family != Some(FamilyKind::Service)
}

fn with_port(mut address: SocketAddr, port: u16) -> SocketAddr {
    address.set_port(port);
    address
}

fn keep<T>(result: Result<T, LineError>, errors: &mut Vec<LineError>) -> Option<T> {
    result.map_err(|error| errors.push(error)).ok()
}
