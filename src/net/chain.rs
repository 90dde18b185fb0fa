//! Clients that go from one service of the process to another. A client that reaches a service a second time
//! would go round for ever.
//!
//! Knows: where the services listen, which of our own connections lead to them, which services their clients
//! have passed. Never: channels, what happens to a client.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use super::circle::{self, Delivery};
use crate::spec::{Address, ClientSource, UnixName};
use crate::sys::socket_file::is_same_socket;

/// For a service and a client of it: the services that the client has passed.
type Through = HashMap<(u32, ClientSource), Arc<[u32]>>;

/// The connections between the services of a process.
#[derive(Debug, Default)]
pub(super) struct Chains {
    /// The listening services by port. Every connection reads this, so readers do not wait for each other.
    listeners: RwLock<HashMap<u16, Vec<(u32, SocketAddr)>>>,
    /// The services that listen on Unix sockets.
    sockets: RwLock<Vec<(u32, UnixName)>>,
    /// Which services a client of a service has passed, if the client is a connection of ours.
    through: Mutex<Through>,
    /// Connections by Unix sockets have no address that distinguishes them. So for each service this counts,
    /// for all our connections that reached it by a Unix socket together, how many of them passed each other
    /// service.
    joint: Mutex<HashMap<u32, HashMap<u32, usize>>>,
}

/// A connection of ours to a service of ours, for as long as it lasts.
#[derive(Debug)]
pub(super) struct Link {
    chains: Arc<Chains>,
    /// Its local address. `None`: it uses a Unix socket.
    client: Option<SocketAddr>,
    services: Vec<u32>,
    through: Arc<[u32]>,
}

/// Where a connection to a target leads.
#[derive(Debug)]
pub(super) enum Hop {
    /// Out of the process.
    Out,
    /// To another service of ours, as its client.
    Within(Box<Link>),
    /// To a service that the client has already passed.
    Round,
}

impl Chains {
    /// Notes that this service listens on these addresses from now on.
    pub(super) fn enlist(&self, service: u32, addresses: impl IntoIterator<Item = Address>) {
        let mut listeners = self.listeners.write().unwrap_or_else(PoisonError::into_inner);
        for address in addresses {
            let address = match address {
                Address::Net(address) => circle::canonical(address),
                Address::Unix(name) => {
                    let mut sockets = self.sockets.write().unwrap_or_else(PoisonError::into_inner);
                    // One that was made anew is there already.
                    if !sockets.contains(&(service, name)) {
                        sockets.push((service, name));
                    }
                    continue;
                }
            };
            listeners.entry(address.port()).or_default().push((service, address));
        }
    }

    /// Notes that the service listens nowhere any more.
    pub(super) fn strike(&self, service: u32) {
        self.sockets.write().unwrap_or_else(PoisonError::into_inner).retain(|&(id, _)| id != service);
        let mut listeners = self.listeners.write().unwrap_or_else(PoisonError::into_inner);
        listeners.retain(|_, at| {
            at.retain(|&(id, _)| id != service);
            !at.is_empty()
        });
    }

    /// Notes that the service no longer listens on these ports.
    pub(super) fn strike_ports(&self, service: u32, ports: &[u16]) {
        let mut listeners = self.listeners.write().unwrap_or_else(PoisonError::into_inner);
        for port in ports {
            if let Some(at) = listeners.get_mut(port) {
                at.retain(|&(id, _)| id != service);
                if at.is_empty() {
                    listeners.remove(port);
                }
            }
        }
    }

    /// Where the connection leads that a service has made from `ours` to `target` for `client`. `bound` means
    /// that the operator chose the local address.
    pub(super) fn step(
        self: &Arc<Self>,
        service: u32,
        client: ClientSource,
        ours: SocketAddr,
        target: SocketAddr,
        bound: bool,
    ) -> Hop {
        let [ours, target] = [ours, target].map(circle::canonical);
        let is_reached = |listener: SocketAddr| match circle::reach(listener, target) {
            Delivery::Certain => true,
            // A connection within the host has the same address at both ends, unless the local address was
            // chosen.
            Delivery::IfHere => ours.ip() == target.ip() || bound && crate::sys::socket::is_here(target),
            Delivery::No => false,
        };
        let services: Vec<u32> = {
            let listeners = self.listeners.read().unwrap_or_else(PoisonError::into_inner);
            let at = listeners.get(&target.port()).into_iter().flatten();
            at.filter(|&&(id, address)| id != service && is_reached(address)).map(|&(id, _)| id).collect()
        };
        if services.is_empty() {
            return Hop::Out;
        }
        let through = self.before(service, client);
        let mut all = self.through();
        if services.iter().any(|id| through.contains(id)) {
            return Hop::Round;
        }
        for &id in &services {
            all.insert((id, ours.into()), Arc::clone(&through));
        }
        drop(all);
        Hop::Within(Box::new(Link { chains: Arc::clone(self), client: Some(ours), services, through }))
    }

    /// Where a connection to this Unix socket leads that a service is about to make for `client`.
    pub(super) fn step_by(self: &Arc<Self>, service: u32, client: ClientSource, target: UnixName) -> Hop {
        let services: Vec<u32> = {
            let sockets = self.sockets.read().unwrap_or_else(PoisonError::into_inner);
            let at = sockets.iter().filter(|&&(id, name)| id != service && is_same_socket(name, target));
            at.map(|&(id, _)| id).collect()
        };
        if services.is_empty() {
            return Hop::Out;
        }
        let through = self.before(service, client);
        if services.iter().any(|id| through.contains(id)) {
            return Hop::Round;
        }
        let mut joint = self.joint();
        for &id in &services {
            let ways = joint.entry(id).or_default();
            through.iter().for_each(|&passed| *ways.entry(passed).or_default() += 1);
        }
        drop(joint);
        Hop::Within(Box::new(Link { chains: Arc::clone(self), client: None, services, through }))
    }

    /// The services that a client of this service has passed, including this one.
    fn before(&self, service: u32, client: ClientSource) -> Arc<[u32]> {
        let before: Vec<u32> = match client {
            ClientSource::Local(peer) if peer.pid == Some(std::process::id()) => {
                self.joint().get(&service).into_iter().flat_map(HashMap::keys).copied().collect()
            }
            client => {
                let client = client.net().map_or(client, |client| circle::canonical(client).into());
                self.through().get(&(service, client)).map_or_else(Vec::new, |through| through.to_vec())
            }
        };
        before.into_iter().chain([service]).collect()
    }

    fn joint(&self) -> MutexGuard<'_, HashMap<u32, HashMap<u32, usize>>> {
        self.joint.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn through(&self) -> MutexGuard<'_, Through> {
        self.through.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        let Some(client) = self.client else {
            let mut joint = self.chains.joint();
            for service in &self.services {
                let Some(ways) = joint.get_mut(service) else { continue };
                for passed in self.through.iter() {
                    let Some(count) = ways.get_mut(passed) else { continue };
                    *count -= 1;
                    if *count == 0 {
                        ways.remove(passed);
                    }
                }
                if ways.is_empty() {
                    joint.remove(service);
                }
            }
            return;
        };
        let mut all = self.chains.through();
        for &service in &self.services {
            all.remove(&(service, client.into()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::LocalPeer;

    fn at(port: u16) -> SocketAddr {
        ([127, 0, 0, 1], port).into()
    }

    #[test]
    fn whoever_comes_to_a_service_again_goes_round() {
        let chains = Arc::new(Chains::default());
        for service in 0..3 {
            chains.enlist(service, [at(80 + service as u16).into()]);
        }
        let out = chains.step(0, at(5_000).into(), at(5_001), at(90), false);
        assert!(matches!(out, Hop::Out), "{out:?}");
        let first = chains.step(0, at(5_000).into(), at(5_001), at(81), false);
        let Hop::Within(first) = first else { panic!("{first:?}") };
        let second = chains.step(1, at(5_001).into(), at(5_002), at(82), false);
        let Hop::Within(second) = second else { panic!("{second:?}") };
        for port in [80, 81] {
            let round = chains.step(2, at(5_002).into(), at(5_003), at(port), false);
            assert!(matches!(round, Hop::Round), "{round:?}");
        }
        // Another client of the same service has not passed there.
        assert!(matches!(chains.step(2, at(6_000).into(), at(5_003), at(80), false), Hop::Within(_)));
        drop((first, second));
        assert!(chains.through().is_empty());
        chains.strike(1);
        assert!(matches!(chains.step(0, at(5_000).into(), at(5_001), at(81), false), Hop::Out));
    }

    #[test]
    fn whoever_comes_to_a_service_again_by_unix_sockets_goes_round() {
        let chains = Arc::new(Chains::default());
        let name = |number: u32| match format!("unix:@{number}").parse() {
            Ok(Address::Unix(name)) => name,
            other => panic!("{other:?}"),
        };
        (0..3).for_each(|service| chains.enlist(service, [Address::Unix(name(service))]));
        chains.enlist(3, [at(83).into()]);
        let ours = ClientSource::Local(LocalPeer { uid: Some(0), pid: Some(std::process::id()) });
        let other = ClientSource::Local(LocalPeer { uid: Some(0), pid: Some(1 << 30) });
        assert!(matches!(chains.step_by(0, other, name(9)), Hop::Out));
        // Not a connection that no service has made.
        drop(chains.step_by(1, ours, name(0)));
        let first = chains.step_by(0, other, name(1));
        let Hop::Within(first) = first else { panic!("{first:?}") };
        let second = chains.step_by(1, ours, name(2));
        let Hop::Within(second) = second else { panic!("{second:?}") };
        let third = chains.step(2, ours, at(5_003), at(83), false);
        let Hop::Within(third) = third else { panic!("{third:?}") };
        for to in [0, 1] {
            assert!(matches!(chains.step_by(2, ours, name(to)), Hop::Round));
        }
        for to in 0..3 {
            assert!(matches!(chains.step_by(3, at(5_003).into(), name(to)), Hop::Round));
        }
        // Another client has not passed there.
        assert!(matches!(chains.step_by(2, other, name(0)), Hop::Within(_)));
        drop((first, second, third));
        assert!(chains.joint().is_empty() && chains.through().is_empty());
        chains.strike(1);
        assert!(matches!(chains.step_by(0, other, name(1)), Hop::Out));
    }
}
