//! The order in which a client prefers the channels of a hash group. This is the oracle's part on hashing.
//!
//! It knows nothing about hashing itself (see `hashing`): it asks a table without a past.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use balance::sched::{
    Addresses, AdminState, ClientAddr, DialCause, DialFailure, GroupId, Policy, Rules, Table, Weight,
};

use super::key;
use super::model::Channel;

/// In which order a client likes the channels of a hash group. Learned by asking a fresh table that never had others, in
/// which every channel is enabled, unlimited and refuses.
#[derive(Default)]
pub(super) struct Preferences(HashMap<(Vec<Seat>, ClientAddr), Vec<usize>>);

/// A channel as hashing sees it: what it is known by, and its weight.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Seat {
    host: String,
    port: u16,
    weight: u32,
}

impl Preferences {
    /// Numbers of those with a weight that were not removed.
    pub(super) fn of(&mut self, channels: &[Channel], client: ClientAddr) -> Vec<usize> {
        let left = || channels.iter().enumerate().filter(|(_, channel)| !channel.removed);
        let seats: Vec<Seat> = left().map(|(_, channel)| seat(channel)).collect();
        let order = self.0.entry((seats.clone(), client)).or_insert_with(|| ask_afresh(&seats, client));
        let numbers: Vec<usize> = left().map(|(c, _)| c).collect();
        order.iter().map(|&nth| numbers[nth]).collect()
    }
}

/// What a channel is known by: its host as it was typed, or else the smallest address, since the resolver may give the
/// addresses of a name in another order each day.
fn seat(channel: &Channel) -> Seat {
    let mut addresses = channel.addresses.as_slice().to_vec();
    addresses.sort_by_key(|address| address.canonical());
    let canonical = |ip: IpAddr| ip.to_canonical().to_string();
    let host = match channel.addresses.host() {
        None => canonical(addresses[0].net().expect("of the network").ip()),
        Some(typed) => match typed.parse() {
            Ok(ip) => canonical(ip),
            Err(_) => typed.trim_end_matches('.').to_lowercase(),
        },
    };
    Seat { host, port: addresses[0].port(), weight: channel.weight }
}

fn ask_afresh(seats: &[Seat], client: ClientAddr) -> Vec<usize> {
    let mut table = Table::new(Rules { hash_failover: true, ..Rules::CLASSIC });
    table.set_policy(GroupId::FIRST, Policy::Hash);
    for (n, Seat { host, port, weight }) in seats.iter().enumerate() {
        let addresses = Addresses::from(SocketAddr::from(([172, 16, 0, n as u8], *port))).named(host);
        let created = table.create(GroupId::FIRST, addresses, None, AdminState::Enabled);
        let number = created.expect("few channels").index();
        table.set_weight(key(0, number), Weight::new(*weight).expect("a legal one")).expect("it exists");
    }
    let (mut route, mut order) = (table.begin(client), Vec::new());
    while let Ok(lease) = table.next(&mut route) {
        order.push(lease.key().channel.index());
        table.failed(lease, DialFailure::Channel, DialCause::Refused, "refused");
    }
    let mut all = order.clone();
    all.sort_unstable();
    let weighed = (0..seats.len()).filter(|&nth| seats[nth].weight > 0);
    assert!(all.into_iter().eq(weighed), "every channel once: {order:?}");
    order
}
