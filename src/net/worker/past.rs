//! The last connections of a worker that have ended, so that an operator can ask afterwards why.
//!
//! Knows: how many are kept. Never: who asks.

use std::collections::{BTreeMap, VecDeque};
use std::net::{Ipv6Addr, SocketAddr};
use std::time::Duration;

use crate::net::service::ServiceId;
use crate::sched::{Announced, ChannelKey, End, EndedSnapshot, Peers};
use crate::spec::{ClientSource, LocalPeer};
use crate::wire::relay::Side;

/// How many connections of a service with the same end are kept, so that frequent ends do not displace rare
/// ones.
const KEPT: usize = 32;
/// Maximum number of combinations of service and end. The oldest ones, such as those of removed services,
/// make room.
const MOST_KINDS: usize = 1_024;

/// What is remembered about a connection.
pub(super) struct Past {
    pub(super) id: u64,
    pub(super) client: ClientAddress,
    /// The client that it announced.
    pub(super) claimed: Option<Announced>,
    pub(super) channel: Option<ChannelKey>,
    pub(super) lasted: Duration,
    /// By the process's clock.
    pub(super) ended_at: Duration,
    pub(super) delivered: [u64; 2],
}

/// The last connections by service and end.
#[derive(Default)]
pub(super) struct PastConnections(BTreeMap<(ServiceId, End), VecDeque<Past>>);

impl PastConnections {
    pub(super) fn add(&mut self, service: ServiceId, how: End, past: Past) {
        if self.0.len() >= MOST_KINDS && !self.0.contains_key(&(service, how)) {
            let last = |past: &VecDeque<Past>| past.back().map_or(Duration::ZERO, |past| past.ended_at);
            let oldest = self.0.iter().min_by_key(|(_, past)| last(past)).map(|(&kind, _)| kind);
            oldest.and_then(|kind| self.0.remove(&kind));
        }
        let alike = self.0.entry((service, how)).or_default();
        if alike.len() >= KEPT {
            alike.pop_front();
        }
        alike.push_back(past);
    }

    pub(super) fn of(&self, service: ServiceId, now: Duration) -> Vec<EndedSnapshot> {
        let ours = self.0.iter().filter(|((id, _), _)| *id == service);
        let all = ours.flat_map(|(&(_, how), past)| past.iter().map(move |past| (how, past)));
        all.map(|(how, past)| EndedSnapshot {
            id: past.id,
            client: Some(ClientSource::from(past.client))
                .filter(|seen| !seen.is_unknown())
                .map(|seen| Peers { seen, claimed: past.claimed }),
            channel: past.channel,
            age: now.saturating_sub(past.ended_at) + past.lasted,
            ended: now.saturating_sub(past.ended_at),
            sent_bytes: past.delivered[Side::Server as usize],
            rcvd_bytes: past.delivered[Side::Client as usize],
            how,
        })
        .collect()
    }
}

/// A client's address in little memory, since each connection has one.
#[derive(Clone, Copy)]
pub(super) struct ClientAddress {
    ip: [u8; 16],
    port: u16,
}

impl From<SocketAddr> for ClientAddress {
    fn from(address: SocketAddr) -> Self {
        let ip = match address {
            SocketAddr::V4(v4) => v4.ip().to_ipv6_mapped(),
            SocketAddr::V6(v6) => *v6.ip(),
        };
        Self { ip: ip.octets(), port: address.port() }
    }
}

/// The first bytes of an address that stands for a client on a Unix socket; its port is 0. No TCP client has
/// such an address.
const LOCAL: [u8; 4] = [0xff, 0x0f, b'u', b'x'];

impl From<LocalPeer> for ClientAddress {
    fn from(LocalPeer { uid, pid }: LocalPeer) -> Self {
        let mut ip = [0; 16];
        let known = [u8::from(uid.is_some()), u8::from(pid.is_some())];
        let parts: [&[u8]; 4] =
            [&LOCAL, &known, &uid.unwrap_or(0).to_be_bytes(), &pid.unwrap_or(0).to_be_bytes()];
        ip.iter_mut().zip(parts.into_iter().flatten()).for_each(|(to, byte)| *to = *byte);
        Self { ip, port: 0 }
    }
}

impl From<ClientSource> for ClientAddress {
    fn from(client: ClientSource) -> Self {
        match client {
            ClientSource::Net(address) => address.into(),
            ClientSource::Local(peer) => peer.into(),
        }
    }
}

impl From<ClientAddress> for ClientSource {
    fn from(ClientAddress { ip, port }: ClientAddress) -> Self {
        match ip {
            [0xff, 0x0f, b'u', b'x', has_uid, has_pid, a, b, c, d, e, f, g, h, _, _] if port == 0 => {
                let number = |is_known: u8, bytes| (is_known > 0).then(|| u32::from_be_bytes(bytes));
                LocalPeer { uid: number(has_uid, [a, b, c, d]), pid: number(has_pid, [e, f, g, h]) }.into()
            }
            _ => SocketAddr::new(Ipv6Addr::from(ip).to_canonical(), port).into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn past(id: u64) -> Past {
        let client = SocketAddr::from(([192, 0, 2, 7], 4_711)).into();
        let ended_at = Duration::from_millis(id + 5);
        Past {
            id,
            client,
            claimed: None,
            channel: None,
            lasted: Duration::from_millis(5),
            ended_at,
            delivered: [1, 2],
        }
    }

    #[test]
    fn what_is_rare_is_not_driven_out_by_what_is_not() {
        let mut all = PastConnections::default();
        let (one, other) = (ServiceId(1), ServiceId(2));
        all.add(one, End::Idle, past(0));
        (1..1_000).for_each(|id| all.add(one, End::ClientClosed, past(id)));
        all.add(other, End::Kicked, past(1_000));
        let ids =
            |service| all.of(service, Duration::from_secs(2)).iter().map(|one| one.id).collect::<Vec<_>>();
        assert_eq!(ids(one).len(), KEPT + 1);
        assert!(ids(one).contains(&0) && ids(one).contains(&999) && !ids(one).contains(&900));
        assert_eq!(ids(other), [1_000]);
        let seen = &all.of(other, Duration::from_secs(2))[0];
        assert_eq!(seen.client.map(|client| client.to_string()).as_deref(), Some("192.0.2.7:4711"));
        assert_eq!((seen.age.as_millis(), seen.ended.as_millis()), (1_000, 995));
    }

    #[test]
    fn there_is_an_end_to_it() {
        let mut all = PastConnections::default();
        (0..3_000_u32).for_each(|id| all.add(ServiceId(id), End::Kicked, past(id.into())));
        assert_eq!(all.0.len(), MOST_KINDS);
        assert!(
            all.of(ServiceId(0), Duration::ZERO).is_empty()
                && all.of(ServiceId(2_999), Duration::ZERO).len() == 1
        );
    }

    #[test]
    fn an_address_comes_back_as_it_was() {
        for text in ["192.0.2.7:1", "[2001:db8::1]:65535", "[::1]:80"] {
            let address: SocketAddr = text.parse().expect("an address");
            assert_eq!(ClientSource::from(ClientAddress::from(address)), address);
        }
        let mapped: SocketAddr = "[::ffff:192.0.2.7]:1".parse().expect("an address");
        assert_eq!(ClientSource::from(ClientAddress::from(mapped)).to_string(), "192.0.2.7:1");
        for (uid, pid) in
            [(Some(0), Some(1)), (Some(u32::MAX), None), (None, None), (Some(0x0102_0304), Some(0x0506_0708))]
        {
            let client = ClientSource::from(LocalPeer { uid, pid });
            assert_eq!(ClientSource::from(ClientAddress::from(client)), client);
        }
    }
}
