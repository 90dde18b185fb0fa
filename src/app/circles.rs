//! Channels that lead back to the service that they belong to, as far as that can be seen before the first client.
//!
//! Knows: which services a circle goes through, that a maxc anywhere on it makes it finite. Never: what becomes of a client, how an
//! address of this host is told from others.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use super::prepared::Prepared;
use crate::net;
use crate::sched::ChannelKey;

/// A channel without a maxc that leads to a service of this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Edge {
    from: usize,
    to: usize,
    channel: ChannelKey,
    address: SocketAddr,
}

/// What is to be said of each channel of a circle, with the number of its service.
pub(super) fn warnings(services: &[&Prepared]) -> Vec<(usize, String)> {
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
            let to = match &to.parts.spec.name {
                Some(name) => format!("service {}", name.as_str()),
                None => format!("the service on {}", to.listener.address()),
            };
            format!(
                "channel {channel} of group {group} leads to {to} ({address}), which leads back here: without a maxc \
                 on the way a client is connected there once and not again"
            )
        };
        (edge.from, text)
    };
    circles(&edges).map(text).collect()
}

/// The ways between services that no maxc bounds.
fn edges(services: &[&Prepared]) -> Vec<Edge> {
    // By port: who serves many ports does not pay for each pair of service and channel.
    let mut listeners: BTreeMap<u16, Vec<(usize, SocketAddr)>> = BTreeMap::new();
    for (to, service) in services.iter().enumerate() {
        let address = service.listener.address();
        listeners.entry(address.port()).or_default().push((to, address));
    }
    let mut edges = Vec::new();
    for (from, service) in services.iter().enumerate() {
        for group in service.parts.table.lock().snapshot().groups {
            // What the operator decided of a channel may change, where it leads stays.
            for channel in group.channels.iter().filter(|channel| channel.maxc.is_none()) {
                let mut found = BTreeSet::new();
                for &address in channel.addresses.as_slice() {
                    for &(to, listener) in listeners.get(&address.port()).into_iter().flatten() {
                        if !found.contains(&to) && net::is_reached(listener, address) {
                            found.insert(to);
                            let channel = ChannelKey { group: group.id, channel: channel.id };
                            edges.push(Edge { from, to, channel, address });
                        }
                    }
                }
            }
        }
    }
    edges
}

/// Those from whose end one gets back to their beginning.
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
