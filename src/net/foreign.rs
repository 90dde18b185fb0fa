//! `--transparent`: from which address a client's connection to a channel comes, and in which order the
//! channel's addresses are tried for that.
//!
//! Knows: whose address it is, what operators were told about it. Never: how a socket gets an address,
//! whether replies come back.
//! Source: docs/transparent.md.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU8, Ordering};

use crate::observe::{Event, Log, Severity};
use crate::sched::{Lease, Peers};
use crate::spec::Address;
use crate::sys::transparent::{OwnAddress, source_for};

/// Why clients' own addresses could not be used, as far as operators were told: each reason once per service.
#[derive(Debug, Default)]
pub(super) struct Foreign(AtomicU8);

impl Foreign {
    /// The client's address, if a connection for it to this target can come from there. Otherwise logs the
    /// reason, once, and returns `None`.
    pub(super) fn source(&self, peers: &Peers, target: Address, log: &Log) -> Option<IpAddr> {
        source_for(peers.client(), target).map_err(|why| self.tell(peers, target, why, log)).ok()
    }

    fn tell(&self, peers: &Peers, target: Address, why: OwnAddress, log: &Log) {
        let bit = 1 << why as u8;
        if self.0.fetch_or(bit, Ordering::Relaxed) & bit != 0 {
            return;
        }
        let text = format!(
            "--transparent: client {peers} is connected to {target} from an address of this host: {}; logged once",
            why.words()
        );
        log.tell(&Event::Note { severity: Severity::Warning, text });
    }
}

/// The index of the channel's address to try as the `n`-th, from 0, for a client. Addresses of the client's
/// own family come first, since only these can be reached from its address.
pub(super) fn nth_address(lease: &Lease, n: usize, peers: &Peers) -> usize {
    let Some(client) = peers.client().ip() else { return n };
    let is_v4 = client.is_ipv4();
    let all = 0..lease.addresses().as_slice().len();
    let fits = |&at: &usize| {
        let net = lease.target(at, 1).and_then(|address| address.net());
        net.is_some_and(|address| address.ip().to_canonical().is_ipv4() == is_v4)
    };
    let (first, rest): (Vec<_>, Vec<_>) = all.partition(fits);
    // There is no address after the last one.
    first.into_iter().chain(rest).nth(n).unwrap_or(n)
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::sched::{Addresses, AdminState, GroupId, Rules, Table};

    #[test]
    fn addresses_of_the_clients_family_come_first() {
        let at = |text: &str| text.parse::<SocketAddr>().expect("an address");
        let list = ["[2001:db8::1]:80", "10.0.0.1:80", "[2001:db8::2]:80", "10.0.0.2:80"];
        let mut table = Table::new(Rules::CLASSIC);
        let addresses = Addresses::new(list.iter().map(|text| at(text).into()).collect()).expect("four");
        table.create(GroupId::FIRST, addresses, None, AdminState::Enabled).expect("a slot");
        for (client, order) in [("192.0.2.7:5", [1, 3, 0, 2]), ("[2001:db8::7]:5", [0, 2, 1, 3])] {
            let peers = Peers::from(at(client));
            let mut route = table.begin(at(client).ip().into());
            let lease = table.next(&mut route).expect("the channel");
            let found: Vec<usize> = (0..4).map(|n| nth_address(&lease, n, &peers)).collect();
            assert_eq!(found, order, "{client}");
            assert_eq!(nth_address(&lease, 4, &peers), 4, "there is no fifth");
        }
    }
}
