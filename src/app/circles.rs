//! Finds channels that lead back to their own service, as far as that is possible before the first client.
//!
//! Knows: which services a circle goes through, that a maxc anywhere on it makes it finite. Never: what
//! happens to a client, how an address of this host is told from others.

use std::collections::{BTreeMap, BTreeSet};

use super::prepared::Prepared;
use crate::net;
use crate::sched::{Addresses, ChannelKey, Snapshot};
use crate::spec::{Address, ListenSpan};

/// A channel without a maxc that leads to a service of this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Edge {
    from: usize,
    to: usize,
    channel: ChannelKey,
    address: Address,
}

/// A service: where it listens and where its channels lead.
pub(super) struct Junction {
    pub(super) name: Option<String>,
    pub(super) listen: Vec<ListenSpan>,
    /// Its channels without a maxc.
    pub(super) channels: Vec<(ChannelKey, Addresses)>,
}

impl Junction {
    fn of(service: &Prepared) -> Self {
        let name = service.parts.spec.name.as_ref().map(|name| name.as_str().to_owned());
        Self::at(name, service.listen(), service.parts.table.lock().snapshot())
    }

    /// A service with the channels of this table.
    pub(super) fn at(name: Option<String>, listen: Vec<ListenSpan>, table: Snapshot) -> Self {
        // Disabled channels count too: that may change, but where they lead stays.
        let channels = table.groups.into_iter().flat_map(|group| {
            let unbounded = group.channels.into_iter().filter(|channel| channel.maxc.is_none());
            unbounded.map(move |one| (ChannelKey { group: group.id, channel: one.id }, one.addresses))
        });
        Self { name, listen, channels: channels.collect() }
    }
}

/// A warning for each channel on a circle, with the number of its service.
pub(super) fn warnings(services: &[&Prepared]) -> Vec<(usize, String)> {
    warnings_of(&services.iter().map(|service| Junction::of(service)).collect::<Vec<_>>())
}

/// The same for services that are being served already.
pub(super) fn warnings_of(services: &[Junction]) -> Vec<(usize, String)> {
    let edges = edges(services);
    let text = |edge: &Edge| {
        let (group, channel) = (edge.channel.group.index(), edge.channel.channel.index());
        let address = edge.address;
        let text = if edge.from == edge.to {
            format!(
                "channel {channel} of group {group} leads back to this service ({address}): without a maxc balance \
                 does not connect to it"
            )
        } else {
            let to = &services[edge.to];
            let to = match &to.name {
                Some(name) => format!("service {name}"),
                None => {
                    let listen = to.listen.iter().map(ToString::to_string).collect::<Vec<_>>();
                    format!("the service on {}", listen.join(", "))
                }
            };
            format!(
                "channel {channel} of group {group} leads to {to} ({address}), which leads back here: if no channel \
                 on the way has a maxc, a client is connected there only once"
            )
        };
        (edge.from, text)
    };
    circles(&edges).map(text).collect()
}

/// The channels without a maxc that lead from one service to another.
fn edges(services: &[Junction]) -> Vec<Edge> {
    // Indexed by port, so that with many ports not every pair of service and channel is compared.
    let mut listeners: BTreeMap<u16, Vec<(usize, Address)>> = BTreeMap::new();
    for (to, service) in services.iter().enumerate() {
        for at in service.listen.iter().flat_map(|span| span.each()) {
            listeners.entry(at.port()).or_default().push((to, at));
        }
    }
    let mut edges = Vec::new();
    for (from, service) in services.iter().enumerate() {
        for (channel, addresses) in &service.channels {
            let mut found = BTreeSet::new();
            // A channel without a port leads to all ports of its service, so all of them are looked at.
            let ports = service.listen.iter().filter(|_| addresses.follow_clients());
            let ports = ports.flat_map(|span| span.ports());
            let each = addresses.as_slice().iter().flat_map(|address| {
                let own = (!addresses.follow_clients()).then_some(address.port());
                ports.clone().chain(own).map(move |port| address.with_port(port))
            });
            for address in each {
                for &(to, listener) in listeners.get(&address.port()).into_iter().flatten() {
                    if !found.contains(&to) && net::is_reached(listener, address) {
                        found.insert(to);
                        edges.push(Edge { from, to, channel: *channel, address });
                    }
                }
            }
        }
    }
    edges
}

/// The edges from whose end one can get back to their beginning.
fn circles(edges: &[Edge]) -> impl Iterator<Item = &Edge> {
    let mut next: BTreeMap<usize, BTreeSet<usize>> = BTreeMap::new();
    for edge in edges {
        next.entry(edge.from).or_default().insert(edge.to);
    }
    edges.iter().filter(move |edge| leads(&next, edge.to, edge.from))
}

fn leads(next: &BTreeMap<usize, BTreeSet<usize>>, from: usize, to: usize) -> bool {
    let mut seen = BTreeSet::from([from]);
    let mut open = vec![from];
    while let Some(at) = open.pop() {
        if at == to {
            return true;
        }
        open.extend(next.get(&at).into_iter().flatten().filter(|&&beyond| seen.insert(beyond)));
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sched::{ChannelId, GroupId};

    #[test]
    fn a_way_is_of_a_circle_if_one_gets_back() {
        let edge = |(from, to)| Edge {
            from,
            to,
            channel: ChannelKey {
                group: GroupId::FIRST,
                channel: ChannelId::new(0).expect("the first number"),
            },
            address: ([127, 0, 0, 1], 80).into(),
        };
        for (edges, expected) in [
            (&[][..], &[][..]),
            (&[(0, 0)], &[(0, 0)]),
            (&[(0, 1), (1, 2), (0, 2)], &[]),
            (&[(0, 1), (1, 0)], &[(0, 1), (1, 0)]),
            (&[(0, 1), (1, 2), (2, 1), (2, 3)], &[(1, 2), (2, 1)]),
            (&[(0, 1), (1, 2), (2, 0), (1, 1)], &[(0, 1), (1, 2), (2, 0), (1, 1)]),
        ] {
            let edges: Vec<Edge> = edges.iter().copied().map(edge).collect();
            let found: Vec<_> = circles(&edges).map(|edge| (edge.from, edge.to)).collect();
            assert_eq!(found, expected, "{edges:?}");
        }
    }
}
