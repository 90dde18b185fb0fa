//! How many connections one client may have, and how often it may connect.
//!
//! Knows: the exact number of connections of each client that has any; clients that connected recently, in a
//! table of fixed size. Never: clocks, sockets, which service it is.
//!
//! No client is refused because of what others do. Clients with connections are counted exactly: there cannot
//! be more of them than connections. The number of clients that connected recently has no limit, so their
//! table has a fixed size. When it is full, the client farthest from its limit is forgotten. That can only
//! let a client in wrongly, and clients that connect once displace each other before they displace one that
//! connects often. No service takes room from another that has less of it.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use slab::Slab;

use crate::spec::{ClientPrefix, ClientRate};

/// The addresses that count as one client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct ClientKey(u128);

impl ClientKey {
    pub(super) fn new(client: IpAddr, prefix: ClientPrefix) -> Self {
        // An IPv4 address becomes an IPv4-mapped one here, which no client has: those were converted to IPv4.
        let (bits, kept) = match client.to_canonical() {
            IpAddr::V4(v4) => (v4.to_ipv6_mapped(), 96 + u32::from(prefix.v4)),
            IpAddr::V6(v6) => (v6, u32::from(prefix.v6)),
        };
        Self(u128::from(bits) & u128::MAX.checked_shl(128 - kept).unwrap_or(0))
    }

    /// The address under which another process is told about the client.
    pub(super) fn address(self) -> IpAddr {
        Ipv6Addr::from(self.0).to_canonical()
    }
}

/// A connection's place in the count of its client. Give it back exactly once, by
/// [`Gate::leave`](super::Gate::leave).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientPlace(u32);

impl ClientPlace {
    /// Stands for no place where an `Option` would take too much memory.
    pub const NONE: u32 = u32::MAX;

    /// The place as a number below [`ClientPlace::NONE`].
    pub fn number(self) -> u32 {
        self.0
    }

    /// The place of a number from [`ClientPlace::number`]; `None` for [`ClientPlace::NONE`].
    pub fn numbered(number: u32) -> Option<Self> {
        (number != Self::NONE).then_some(Self(number))
    }
}

/// Number of locks that clients are spread over; a power of two.
const SHARDS: u32 = 16;

/// The number of connections of each client that has any.
#[derive(Debug)]
pub(super) struct HeldByClient {
    hasher: RandomState,
    shards: [Mutex<CountShard>; SHARDS as usize],
}

#[derive(Debug, Default)]
struct CountShard {
    places: HashMap<ClientKey, usize>,
    counts: Slab<OneClient>,
}

#[derive(Debug)]
struct OneClient {
    client: ClientKey,
    here: u32,
    /// Connections in the predecessor.
    elsewhere: u32,
}

impl Default for HeldByClient {
    fn default() -> Self {
        Self { hasher: RandomState::new(), shards: std::array::from_fn(|_| Mutex::default()) }
    }
}

impl HeldByClient {
    /// Counts one more connection of a client if it has fewer than `most`. `None` if it has not.
    pub(super) fn enter(&self, client: ClientKey, most: u32) -> Option<ClientPlace> {
        self.change(client, |counted| {
            let is_below = counted.here.saturating_add(counted.elsewhere) < most;
            counted.here += u32::from(is_below);
            is_below
        })
    }

    /// Counts one more connection whatever the limit: it was let in by another process, or before there was a
    /// limit.
    pub(super) fn enter_anyway(&self, client: ClientKey) -> Option<ClientPlace> {
        self.change(client, |counted| {
            counted.here = counted.here.saturating_add(1);
            counted.elsewhere = counted.elsewhere.saturating_sub(1);
            true
        })
    }

    /// Notes that a client has this many connections in the predecessor.
    pub(super) fn expect(&self, client: ClientKey, connections: u32) {
        let _ = self.change(client, |counted| {
            counted.elsewhere = counted.elsewhere.saturating_add(connections);
            connections > 0
        });
    }

    /// Notes that no connections are left in the predecessor.
    pub(super) fn expect_nobody(&self) {
        for shard in &self.shards {
            let mut shard = lock(shard);
            let CountShard { places, counts } = &mut *shard;
            counts.retain(|_, counted| {
                counted.elsewhere = 0;
                let stays = counted.here > 0;
                if !stays {
                    places.remove(&counted.client);
                }
                stays
            });
        }
    }

    /// A connection has ended.
    pub(super) fn leave(&self, ClientPlace(number): ClientPlace) {
        let mut shard = lock(&self.shards[(number % SHARDS) as usize]);
        let place = (number / SHARDS) as usize;
        let Some(counted) = shard.counts.get_mut(place) else { return };
        counted.here = counted.here.saturating_sub(1);
        if counted.here == 0 && counted.elsewhere == 0 {
            let client = counted.client;
            shard.counts.remove(place);
            shard.places.remove(&client);
        }
    }

    /// Does this place belong to this client?
    pub(super) fn is_of(&self, ClientPlace(number): ClientPlace, client: ClientKey) -> bool {
        let shard = lock(&self.shards[(number % SHARDS) as usize]);
        shard.counts.get((number / SHARDS) as usize).is_some_and(|counted| counted.client == client)
    }

    /// Every client and the number of its connections.
    pub(super) fn all(&self) -> Vec<(ClientKey, u32)> {
        let of = |shard: &Mutex<CountShard>| {
            let shard = lock(shard);
            let all =
                shard.counts.iter().map(|(_, one)| (one.client, one.here.saturating_add(one.elsewhere)));
            all.collect::<Vec<_>>()
        };
        self.shards.iter().flat_map(of).collect()
    }

    /// Changes a client's count, which is created with 0 if there is none. `None` if `change` returned
    /// `false`.
    fn change(&self, client: ClientKey, change: impl FnOnce(&mut OneClient) -> bool) -> Option<ClientPlace> {
        let number = u32::try_from(self.hasher.hash_one(client) % u64::from(SHARDS)).unwrap_or(0);
        let mut shard = lock(&self.shards[number as usize]);
        let CountShard { places, counts } = &mut *shard;
        if let Some(&place) = places.get(&client) {
            return (change(counts.get_mut(place)?)).then(|| place_of(place, number)).flatten();
        }
        let mut counted = OneClient { client, here: 0, elsewhere: 0 };
        if !change(&mut counted) {
            return None;
        }
        let place = counts.insert(counted);
        places.insert(client, place);
        place_of(place, number)
    }
}

/// Descriptors run out long before these numbers do.
fn place_of(place: usize, shard: u32) -> Option<ClientPlace> {
    let number = u32::try_from(place).ok()?.checked_mul(SHARDS)?.checked_add(shard)?;
    ClientPlace::numbered(number).map(|_| ClientPlace(number))
}

/// How many clients one row of the table of rates holds.
const WAYS: usize = 8;

/// When each client that connected recently did so, for all services of a process.
#[derive(Debug)]
pub struct ClientRates {
    hasher: RandomState,
    size: usize,
    /// Created for the first client.
    rows: OnceLock<Box<[Mutex<[Came; WAYS]>]>>,
    services: AtomicU64,
}

/// One client. An entry so old that it has no effect any more counts as free.
#[derive(Debug, Clone, Copy, Default)]
struct Came {
    /// Identifies the client: bits of a hash with a secret key, followed by the number of the service.
    tag: u64,
    /// When the entry stops having an effect, in ns of the instance's clock.
    clear_at: u64,
}

/// The bits of a tag that hold the service.
const SERVICE_BITS: u64 = 0xffff;

impl Came {
    /// Two services with the same bits only share their room.
    fn service(&self) -> u64 {
        self.tag & SERVICE_BITS
    }
}

impl Default for ClientRates {
    /// Room for 131072 clients, 2.2 MB.
    fn default() -> Self {
        Self::new(16_384)
    }
}

impl ClientRates {
    fn new(size: usize) -> Self {
        Self {
            hasher: RandomState::new(),
            size: size.max(1),
            rows: OnceLock::new(),
            services: AtomicU64::new(0),
        }
    }

    /// A new number for a service that uses rates. Valid as long as its rate is the same: entries made with
    /// another rate mean nothing.
    pub(super) fn enlist(&self) -> u64 {
        self.services.fetch_add(1, Ordering::Relaxed)
    }

    /// May a client of this service connect now? If so, that is counted. A client may connect `count` times
    /// in any `per`; one that did so may connect once more after each `per / count`.
    pub(super) fn admit(&self, service: u64, client: ClientKey, rate: ClientRate, now: Duration) -> bool {
        let per = nanos(rate.per);
        let each = (per / u64::from(rate.count.get())).max(1);
        let now = nanos(now);
        let hash = self.hasher.hash_one((service, client));
        let tag = hash & !SERVICE_BITS | service & SERVICE_BITS;
        // The remainder is below the number of rows.
        let row = (hash % self.size as u64) as usize;
        let rows = self.rows.get_or_init(|| std::iter::repeat_with(Mutex::default).take(self.size).collect());
        let mut row = lock(&rows[row]);
        if let Some(known) = row.iter_mut().find(|came| came.tag == tag && came.clear_at > now) {
            let is_below = known.clear_at - now <= per.saturating_sub(each);
            if is_below {
                known.clear_at += each;
            }
            return is_below;
        }
        let new = Came { tag, clear_at: now.saturating_add(each) };
        if let Some(place) = place_for(&row[..], new, now) {
            row[place] = new;
        }
        true
    }
}

/// The place of a new entry in a full or partly full row. `None` if it has to be dropped.
fn place_for(row: &[Came], new: Came, now: u64) -> Option<usize> {
    if let Some(free) = row.iter().position(|came| came.clear_at <= now) {
        return Some(free);
    }
    let room = |service: u64| row.iter().filter(|came| came.service() == service).count();
    let least = |service: Option<u64>| {
        let of = row.iter().enumerate();
        let of = of.filter(|(_, came)| service.is_none_or(|service| came.service() == service));
        of.min_by_key(|(_, came)| came.clear_at)
    };
    let mine = room(new.service());
    // One service may allow a client one connection per day and another one per second, so entries of
    // different services cannot be compared by how far they are from their limit.
    let largest = row.iter().map(Came::service).max_by_key(|&service| room(service))?;
    if room(largest) > mine + 1 {
        return least(Some(largest)).map(|(place, _)| place);
    }
    let (place, least) = least((mine > 0).then(|| new.service()))?;
    (least.clear_at <= new.clear_at).then_some(place)
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;

    fn key(address: &str) -> ClientKey {
        ClientKey::new(address.parse().expect(address), ClientPrefix::default())
    }

    #[test]
    fn a_client_is_an_address_of_ipv4_or_a_64_of_ipv6() {
        for (one, other, is_same) in [
            ("192.0.2.1", "192.0.2.1", true),
            ("192.0.2.1", "::ffff:192.0.2.1", true),
            ("192.0.2.1", "192.0.2.2", false),
            ("2001:db8::1", "2001:db8::ffff:1", true),
            ("2001:db8::1", "2001:db8:0:1::1", false),
            ("0.0.0.0", "::", false),
        ] {
            assert_eq!(key(one) == key(other), is_same, "{one} {other}");
        }
        let wide =
            |address: &str| ClientKey::new(address.parse().expect(address), ClientPrefix { v4: 24, v6: 128 });
        assert_eq!(wide("192.0.2.1"), wide("192.0.2.2"));
        assert_ne!(wide("2001:db8::1"), wide("2001:db8::2"));
        assert_eq!(wide("192.0.2.1").address().to_string(), "192.0.2.0");
        assert_eq!(key("2001:db8::1:2").address().to_string(), "2001:db8::");
    }

    #[test]
    fn connections_are_counted_exactly_wherever_they_are() {
        let counts = HeldByClient::default();
        let (one, other) = (key("192.0.2.1"), key("192.0.2.2"));
        counts.expect(one, 2);
        counts.expect(other, 0);
        let first = counts.enter(one, 3).expect("the third");
        assert_eq!(counts.enter(one, 3), None);
        let second = counts.enter_anyway(one).expect("it has come over");
        assert_eq!(counts.enter(one, 3), None, "that is still three");
        assert_eq!(counts.all(), [(one, 3)]);
        counts.expect_nobody();
        let third = counts.enter(one, 3).expect("the one elsewhere has ended");
        let stranger = counts.enter(other, 1).expect("the first");
        assert!(counts.is_of(third, one) && !counts.is_of(stranger, one));
        [first, second, third, stranger].into_iter().for_each(|place| counts.leave(place));
        assert_eq!(counts.all(), []);
        assert!(
            counts.shards.iter().all(|shard| lock(shard).places.is_empty() && lock(shard).counts.is_empty())
        );
        counts.expect(one, 1);
        counts.expect_nobody();
        assert_eq!(counts.all(), []);
    }

    const TEN: ClientRate =
        ClientRate { count: NonZeroU32::new(10).expect("not 0"), per: Duration::from_secs(10) };

    #[test]
    fn a_client_comes_ten_times_at_once_and_then_once_a_second() {
        let rates = ClientRates::new(4);
        let comes = |ms| rates.admit(1, key("192.0.2.1"), TEN, Duration::from_millis(ms));
        assert_eq!((0..20).filter(|_| comes(500)).count(), 10);
        assert!(!comes(1_499) && comes(1_500) && !comes(1_500), "one each second");
        assert!(rates.admit(1, key("192.0.2.2"), TEN, Duration::from_millis(500)), "another client");
        assert!(rates.admit(2, key("192.0.2.1"), TEN, Duration::from_millis(500)), "another service");
        assert_eq!((0..20).filter(|_| comes(60_000)).count(), 10, "all is forgotten");
    }

    #[test]
    fn who_keeps_to_the_rate_is_never_refused() {
        let rates = ClientRates::new(1);
        // Ten in any ten seconds, as densely as possible.
        for round in 0..50 {
            for n in 0..10 {
                let at = Duration::from_millis(round * 10_000 + n * 7);
                assert!(rates.admit(1, key("192.0.2.1"), TEN, at), "{round} {n}");
            }
        }
    }

    #[test]
    fn strangers_can_neither_fill_the_table_nor_make_it_forget_who_is_at_the_limit() {
        let rates = ClientRates::new(2);
        let greedy = key("192.0.2.1");
        assert_eq!((0..20).filter(|_| rates.admit(1, greedy, TEN, Duration::ZERO)).count(), 10);
        for n in 0..100_000_u32 {
            let stranger =
                ClientKey::new(IpAddr::from((0x0a00_0000 + n).to_be_bytes()), ClientPrefix::default());
            assert!(rates.admit(1, stranger, TEN, Duration::from_millis(500)), "an honest client");
        }
        assert!(!rates.admit(1, greedy, TEN, Duration::from_millis(999)));
        assert!(rates.admit(1, greedy, TEN, Duration::from_millis(1_000)));
    }

    #[test]
    fn strangers_of_one_service_do_not_switch_off_the_limit_of_another() {
        let rates = ClientRates::new(2);
        let once_a_day =
            ClientRate { count: NonZeroU32::new(1).expect("not 0"), per: Duration::from_secs(86_400) };
        let client =
            |n: u32| ClientKey::new(IpAddr::from((0x0a00_0000 + n).to_be_bytes()), ClientPrefix::default());
        for n in 0..1_000 {
            assert!(rates.admit(1, client(n), once_a_day, Duration::ZERO));
        }
        let greedy = key("192.0.2.1");
        let mut admitted = 0;
        for n in 0..1_000 {
            admitted += u32::from(rates.admit(2, greedy, TEN, Duration::ZERO));
            assert!(rates.admit(1, client(1_000 + n), once_a_day, Duration::ZERO));
        }
        assert_eq!(admitted, 10);
        let many = (0..8).flat_map(|n| [client(n); 20]);
        assert!(many.filter(|&one| rates.admit(3, one, TEN, Duration::ZERO)).count() < 130, "some are known");
    }
}
