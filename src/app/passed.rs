//! Assigns listeners of socket activation to services.
//!
//! Knows: names, addresses, what was asked for. Never: descriptors' numbers, the environment.
//! Source: docs/compatibility.md, "Process".

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;

use super::lookup::Resolved;
use super::{Failure, exit};
use crate::process::{self, PassedAddress, PassedListener};
use crate::spec::{Address, ListenHost, ListenSpan, ServiceSpec, UnixName};
use crate::sys::listen::ListenerHandle;
use crate::sys::socket_file::{self, SocketFileId};

/// Where a service wants to listen.
#[derive(Debug, PartialEq)]
struct WantedAddress {
    name: Option<String>,
    ports: RangeInclusive<u16>,
    /// Any of these addresses. `None`: any address.
    ips: Option<Vec<(IpAddr, u32)>>,
    /// The name of the Unix socket, if it is one; then it has no port and no address.
    unix: Option<UnixName>,
}

/// A passed listener.
#[derive(Debug)]
pub(super) struct PassedSocket {
    name: Option<String>,
    pub(super) fd: OwnedFd,
    pub(super) address: Address,
    /// Under which words the service manager kept it for a previous process that has died. Then it need not be
    /// used. `None`: it did not.
    kept_at: Option<String>,
    /// The file of a Unix socket that a previous process has made.
    pub(super) file: Option<SocketFileId>,
}

/// The words under which the service manager keeps a listener: its address, and for a Unix socket the identity of
/// its file. The kernel knows such a socket by the path at which it was bound first, and that is another one.
/// `None`: it is not kept. Another process has made it, or its name is too long for the manager.
pub(super) fn kept_place(listener: &ListenerHandle) -> Option<String> {
    let at = listener.address();
    (at.unix().is_none() || !listener.is_passed()).then(|| place_of(at, listener.made()))?
}

/// The words for a listener at this address with this file.
pub(super) fn place_of(at: Address, file: Option<SocketFileId>) -> Option<String> {
    /// systemd takes names of 255 bytes; some are left for the beginning that `process` gives them.
    const LONGEST: usize = 240;
    let place = match at {
        Address::Unix(name) if !name.is_abstract() => {
            let SocketFileId { device, number } = file?;
            format!("{at} {device}.{number}")
        }
        _ => at.to_string(),
    };
    (place.len() <= LONGEST).then_some(place)
}

/// The Unix socket with a file that was kept under these words. `None`: it was something else.
fn kept_unix(place: &str) -> Option<(UnixName, SocketFileId)> {
    let (name, id) = place.strip_prefix("unix_")?.split_once(' ')?;
    let (device, number) = id.split_once('.')?;
    let id = SocketFileId { device: device.parse().ok()?, number: number.parse().ok()? };
    Some((format!("unix:{name}").parse().ok()?, id))
}

impl PassedSocket {
    fn of(passed: PassedListener) -> Result<Self, Failure> {
        let kept_at = passed.kept_at().map(str::to_owned);
        let PassedListener { name, fd, address } = passed;
        if let Some((name, id)) = kept_at.as_deref().and_then(kept_unix) {
            return Ok(Self { name: None, fd, address: name.into(), kept_at, file: Some(id) });
        }
        let address = match address {
            PassedAddress::Net(address) => Ok(address.into()),
            PassedAddress::Path(path) => UnixName::path(&path).map(Address::Unix),
            PassedAddress::Abstract(name) => UnixName::abstracted(&name).map(Address::Unix),
        };
        let address = address.map_err(|why| {
            Failure::new(
                exit::OS,
                format!("balance: LISTEN_FDS passes a Unix socket that cannot be served: {why}"),
            )
        })?;
        Ok(Self { name, fd, address, kept_at, file: None })
    }

    /// Is it a Unix socket that a previous process has made and that no client finds by its path any more?
    fn is_lost(&self) -> bool {
        let file = self.address.unix().zip(self.file);
        file.is_some_and(|(name, id)| socket_file::is_lost(name, id))
    }

    /// Does the service manager open it?
    pub(super) fn is_the_managers(&self) -> bool {
        self.kept_at.is_none()
    }
}

impl WantedAddress {
    fn of((service, found): &(ServiceSpec, Resolved)) -> Self {
        let (ports, found) = (found.span().ports(), &found.listen);
        let ips = match &service.listen.host {
            ListenHost::AnyV4 => None,
            ListenHost::AnyV6 => Some(vec![(Ipv6Addr::UNSPECIFIED.into(), 0)]),
            ListenHost::Host(_) => {
                Some(found.as_slice().iter().filter_map(|address| address.net()).map(ip_and_zone).collect())
            }
        };
        let name = service.name.as_ref().map(|name| name.as_str().to_owned());
        Self { name, ports, ips, unix: service.listen.ports.unix() }
    }

    /// How well it fits; lower is better. `None`: it does not fit.
    fn rank(&self, passed: &PassedSocket) -> Option<u8> {
        let address = match (passed.address, self.unix) {
            (Address::Net(address), None) if self.ports.contains(&address.port()) => address,
            (Address::Unix(name), Some(wanted)) if name == wanted => return Some(1),
            _ => return None,
        };
        let (ip, zone) = ip_and_zone(address);
        let fits = match &self.ips {
            Some(ips) if ips.contains(&(ip, zone)) => 1,
            Some(_) => return None,
            None if ip.is_unspecified() => 2,
            None => 3,
        };
        Some(if self.name.is_some() && self.name == passed.name { 0 } else { fits })
    }
}

/// An address in its canonical form, and the zone of a link-local one.
fn ip_and_zone(address: SocketAddr) -> (IpAddr, u32) {
    let zone = if let SocketAddr::V6(v6) = address { v6.scope_id() } else { 0 };
    (address.ip().to_canonical(), zone)
}

/// The listeners passed for one service, by port.
pub(super) type PassedByPort = BTreeMap<u16, PassedSocket>;

/// Gives each service the listeners passed for it, by its name or else by its address. Without `-b` and `-6`,
/// the port alone decides.
///
/// # Errors
/// A listener fits no service, so its clients would never be served. Or a listener has the name of a service
/// that listens elsewhere, so its clients would reach the wrong service.
pub(super) fn assign(
    passed: Vec<PassedListener>,
    services: &[(ServiceSpec, Resolved)],
) -> Result<Vec<PassedByPort>, Failure> {
    if passed.is_empty() {
        return Ok(services.iter().map(|_| PassedByPort::new()).collect());
    }
    let mut passed = passed.into_iter().map(PassedSocket::of).collect::<Result<Vec<_>, _>>()?;
    passed.retain(|one| {
        let is_lost = one.is_lost();
        if let Some(place) = one.kept_at.as_deref().filter(|_| is_lost) {
            process::forget_listener(place);
        }
        !is_lost
    });
    let places = services.iter().map(WantedAddress::of).collect::<Vec<_>>();
    if let Some(failure) = Failure::several(contradictions(&passed, &places), super::NOT_STARTED) {
        return Err(failure);
    }
    let (assigned, mut left) = match_up(passed, &places);
    // Listeners that the manager kept for a process that has died and that no line wants any more are closed,
    // so that their ports are free.
    left.retain(|one| {
        if let Some(place) = &one.kept_at {
            process::forget_listener(place);
        }
        one.kept_at.is_none()
    });
    if left.is_empty() {
        return Ok(assigned);
    }
    let unwanted: Vec<String> = left.iter().map(describe).collect();
    let wanted = match places.as_slice() {
        [only] => format!("the service listens on {}", describe_place(only)),
        _ => "no service listens there".to_owned(),
    };
    let text = format!("balance: LISTEN_FDS passes a listener at {}, but {wanted}", unwanted.join(" and "));
    Err(Failure::new(exit::OS, text))
}

/// The listeners for each place, and those that are left.
fn match_up(passed: Vec<PassedSocket>, places: &[WantedAddress]) -> (Vec<PassedByPort>, Vec<PassedSocket>) {
    // The best matches come first, so that a service that takes any address takes none that another one
    // names.
    let mut pairs: Vec<(u8, usize, usize)> = Vec::new();
    for (i, one) in passed.iter().enumerate() {
        pairs.extend(places.iter().enumerate().filter_map(|(j, place)| Some((place.rank(one)?, i, j))));
    }
    pairs.sort_unstable();
    let mut assigned: Vec<PassedByPort> = places.iter().map(|_| PassedByPort::new()).collect();
    let mut left: Vec<Option<PassedSocket>> = passed.into_iter().map(Some).collect();
    for (_, i, j) in pairs {
        let Some(port) = left[i].as_ref().map(|one| one.address.port()) else { continue };
        if let Entry::Vacant(free) = assigned[j].entry(port)
            && let Some(one) = left[i].take()
        {
            free.insert(one);
        }
    }
    (assigned, left.into_iter().flatten().collect())
}

/// Failures for listeners with the name of a service that listens elsewhere.
fn contradictions(passed: &[PassedSocket], places: &[WantedAddress]) -> Vec<Failure> {
    let named: HashMap<&str, &WantedAddress> =
        places.iter().filter_map(|place| Some((place.name.as_deref()?, place))).collect();
    let contradicted = passed.iter().filter_map(|one| {
        let name = one.name.as_deref()?;
        let place = named.get(name).filter(|place| place.rank(one).is_none())?;
        let text = format!(
            "balance: LISTEN_FDNAMES calls the listener at {} '{name}', but service {name} listens on {}",
            one.address,
            describe_place(place)
        );
        Some(Failure::new(exit::OS, text))
    });
    contradicted.collect()
}

fn describe(passed: &PassedSocket) -> String {
    match &passed.name {
        Some(name) if !name.is_empty() => format!("{} ({})", passed.address, name.escape_debug()),
        _ => passed.address.to_string(),
    }
}

fn describe_place(place: &WantedAddress) -> String {
    if let Some(name) = place.unix {
        return name.to_string();
    }
    let (first, last) = (*place.ports.start(), *place.ports.end());
    let at = |(ip, zone): &(IpAddr, u32)| match ip {
        IpAddr::V6(ip) => {
            ListenSpan::new(SocketAddr::from(SocketAddrV6::new(*ip, first, 0, *zone)), last).to_string()
        }
        IpAddr::V4(ip) => ListenSpan::new(SocketAddr::from((*ip, first)), last).to_string(),
    };
    match &place.ips {
        None if first < last => format!("ports {first}-{last}"),
        None => format!("port {first}"),
        Some(ips) => ips.iter().map(at).collect::<Vec<_>>().join(" or "),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    fn passed(name: Option<&str>, address: &str) -> PassedSocket {
        let fd = File::open("/dev/null").expect("a file").into();
        let address = address.parse().expect("an address");
        PassedSocket { name: name.map(str::to_owned), fd, address, kept_at: None, file: None }
    }

    fn place(name: Option<&str>, port: u16, ips: &[&str]) -> WantedAddress {
        let at = |ip: &&str| {
            ip_and_zone(
                format!("[{ip}]:0").parse().or_else(|_| format!("{ip}:0").parse()).expect("an address"),
            )
        };
        let ips: Vec<(IpAddr, u32)> = ips.iter().map(at).collect();
        WantedAddress {
            name: name.map(str::to_owned),
            ports: port..=port,
            ips: (!ips.is_empty()).then_some(ips),
            unix: None,
        }
    }

    /// Which sockets each service gets, and which are left over.
    fn matched(listeners: &[(Option<&str>, &str)], places: &[WantedAddress]) -> (Vec<String>, Vec<String>) {
        let listeners = listeners.iter().map(|(name, address)| passed(*name, address)).collect();
        let (assigned, left) = match_up(listeners, places);
        let text = |all: &PassedByPort| match all.is_empty() {
            true => "-".to_owned(),
            false => all.values().map(describe).collect::<Vec<_>>().join(" "),
        };
        (assigned.iter().map(text).collect(), left.iter().map(describe).collect())
    }

    #[test]
    fn a_port_without_an_address_takes_what_is_passed_for_it_and_no_other() {
        let any = [place(None, 80, &[])];
        for address in ["0.0.0.0:80", "[::]:80", "127.0.0.1:80", "[fe80::1]:80"] {
            assert_eq!(matched(&[(None, address)], &any).0, [address]);
        }
        let both = [(None, "0.0.0.0:80"), (None, "127.0.0.1:81")];
        assert_eq!(matched(&both, &any), (vec!["0.0.0.0:80".into()], vec!["127.0.0.1:81".into()]));
        let twice = [(None, "10.0.0.1:80"), (None, "0.0.0.0:80")];
        assert_eq!(matched(&twice, &any), (vec!["0.0.0.0:80".into()], vec!["10.0.0.1:80".into()]));
        assert_eq!(matched(&[], &any), (vec!["-".into()], vec![]));
    }

    #[test]
    fn a_service_on_several_ports_gets_one_for_each() {
        let mut places = [place(None, 80, &[]), place(Some("mail"), 81, &["10.0.0.1"])];
        places[0].ports = 80..=82;
        let all = [
            (None, "0.0.0.0:82"),
            (None, "10.0.0.1:81"),
            (None, "[::]:81"),
            (None, "0.0.0.0:83"),
            (None, "0.0.0.0:80"),
            (None, "10.0.0.2:80"),
        ];
        let (assigned, left) = matched(&all, &places);
        assert_eq!(assigned, ["0.0.0.0:80 [::]:81 0.0.0.0:82", "10.0.0.1:81"]);
        assert_eq!(left, ["0.0.0.0:83", "10.0.0.2:80"]);
        assert_eq!(describe_place(&places[0]), "ports 80-82");
        places[1].ports = 81..=90;
        assert_eq!(describe_place(&places[1]), "10.0.0.1:81-90");
    }

    #[test]
    fn an_address_is_compared_as_one_and_not_as_it_is_spelled() {
        let one = [place(None, 80, &["127.0.0.1", "::1"])];
        assert_eq!(matched(&[(None, "[::ffff:127.0.0.1]:80")], &one).0, ["[::ffff:127.0.0.1]:80"]);
        assert_eq!(matched(&[(None, "[::1]:80")], &one).0, ["[::1]:80"]);
        let local = [place(None, 80, &["fe80::1%2"])];
        assert_eq!(matched(&[(None, "[fe80::1%2]:80")], &local).0, ["[fe80::1%2]:80"]);
        assert_eq!(matched(&[(None, "[fe80::1%3]:80")], &local).1, ["[fe80::1%3]:80"]);
        assert_eq!(matched(&[(None, "127.0.0.2:80")], &one).1, ["127.0.0.2:80"]);
        assert_eq!(matched(&[(None, "0.0.0.0:80")], &one).1, ["0.0.0.0:80"]);
    }

    #[test]
    fn a_name_that_says_something_else_than_the_address_is_told() {
        let places = [place(Some("web"), 80, &[]), place(Some("mail"), 25, &["10.0.0.1"])];
        let told = |listeners: &[(Option<&str>, &str)]| {
            let listeners: Vec<_> = listeners.iter().map(|(name, address)| passed(*name, address)).collect();
            contradictions(&listeners, &places).into_iter().map(|one| one.message).collect::<Vec<_>>()
        };
        let swapped = told(&[(Some("mail"), "0.0.0.0:80"), (Some("web"), "10.0.0.1:25")]);
        let wrong = |address, name, place| {
            format!(
                "balance: LISTEN_FDNAMES calls the listener at {address} '{name}', but service {name} listens on {place}"
            )
        };
        assert_eq!(
            swapped,
            [wrong("0.0.0.0:80", "mail", "10.0.0.1:25"), wrong("10.0.0.1:25", "web", "port 80")]
        );
        assert!(
            told(&[(Some("web.socket"), "0.0.0.0:80"), (None, "10.0.0.1:25"), (Some("web"), "[::]:80")])
                .is_empty()
        );
    }

    #[test]
    fn a_unix_socket_is_known_by_its_name_alone() {
        let mut places = [place(Some("pg"), 1, &[]), place(None, 80, &[])];
        places[0].unix = "unix:/run/pg.sock".parse().ok();
        let all = [(Some("web"), "0.0.0.0:80"), (Some("x"), "unix:/run/pg.sock"), (Some("pg"), "unix:@pg")];
        let (assigned, left) = matched(&all, &places);
        assert_eq!(assigned, ["unix:/run/pg.sock (x)", "0.0.0.0:80 (web)"]);
        assert_eq!(left, ["unix:@pg (pg)"]);
        assert_eq!(describe_place(&places[0]), "unix:/run/pg.sock");
    }

    #[test]
    fn a_kept_unix_socket_is_known_by_the_words_under_which_it_was_kept() {
        let id = SocketFileId { device: 5, number: 77 };
        let place = |name: UnixName| place_of(name.into(), Some(id));
        for name in ["unix:/run/pg.sock", "unix:/run/a%20b%3A_.sock", "unix:/%25 1.2"] {
            let name: UnixName = name.parse().expect("a path");
            let kept = place(name).expect("it is short").replace(':', "_");
            assert_eq!(kept_unix(&kept), Some((name, id)), "{kept}");
        }
        for other in ["10.0.0.1_80", "unix_@app", "unix_/a", "unix_/a 5", "unix_/a x.7", "unix_a 5.77"] {
            assert_eq!(kept_unix(other), None, "{other}");
        }
        assert_eq!(place_of("unix:@app".parse().expect("a name"), None), Some("unix:@app".to_owned()));
        assert_eq!(place_of("unix:/a".parse().expect("a path"), None), None, "another process made it");
        let fits = [&b"/"[..], &[b'a'; 99]].concat();
        assert_eq!(place(UnixName::path(&fits).expect("a path")).map(|all| all.len()), Some(110));
        let long = [&b"/"[..], &[b' '; 90]].concat();
        assert_eq!(place(UnixName::path(&long).expect("a path")), None);
    }

    #[test]
    fn of_several_services_each_gets_its_own() {
        let places = [place(None, 80, &[]), place(None, 80, &["10.0.0.1"]), place(Some("mail"), 25, &[])];
        let all = [
            (None, "10.0.0.1:80"),
            (Some("x"), "0.0.0.0:25"),
            (Some("mail"), "10.0.0.1:25"),
            (None, "0.0.0.0:80"),
        ];
        let (assigned, left) = matched(&all, &places);
        assert_eq!(assigned, ["0.0.0.0:80", "10.0.0.1:80", "10.0.0.1:25 (mail)"]);
        assert_eq!(left, ["0.0.0.0:25 (x)"]);
        // A name alone does not change the port that a socket is for.
        assert_eq!(matched(&[(Some("mail"), "0.0.0.0:26")], &places).1, ["0.0.0.0:26 (mail)"]);
    }
}
