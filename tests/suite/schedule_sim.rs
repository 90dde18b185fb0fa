//! Random histories of a table, compared with a naive model of the contract, and checked for what must always
//! be true.
//!
//! `BALANCE_SEED=n` replays one seed, `BALANCE_SEEDS=n` runs n seeds instead of 256.

mod compare;
mod concurrent;
mod crowd;
mod hashing;
mod health;
mod health_model;
mod line;
mod model;
mod policies;
mod preferences;
mod promises;
mod sequential;
mod weights;
mod world;

use std::net::{IpAddr, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind};

use balance::sched::{Addresses, ChannelId, ChannelKey, ClientAddr, GroupId};

/// splitmix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit as u64).expect("it is below a usize")
    }

    /// True once in `n`.
    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

/// Runs a history for every seed; a failure says which.
fn for_seeds(name: &str, history: impl Fn(&mut Random)) {
    let number = |name| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    let seeds = match number("BALANCE_SEED") {
        Some(seed) => seed..=seed,
        None => 1..=number("BALANCE_SEEDS").unwrap_or(256),
    };
    for seed in seeds {
        if catch_unwind(AssertUnwindSafe(|| history(&mut Random(seed)))).is_err() {
            panic!("{name}: seed {seed} failed (see above); BALANCE_SEED={seed} replays it");
        }
    }
}

fn group_id(n: usize) -> GroupId {
    GroupId::new(n).expect("a small number")
}

fn key(group: usize, channel: usize) -> ChannelKey {
    ChannelKey { group: group_id(group), channel: ChannelId::new(channel).expect("a small number") }
}

/// Group and number, for asserts.
fn place(key: ChannelKey) -> (usize, usize) {
    (key.group.index(), key.channel.index())
}

/// A channel's address from a small pool, so that some are equal; one in eight is spelled as a mapped one.
fn some_address(random: &mut Random) -> SocketAddr {
    let v4 = std::net::Ipv4Addr::new(10, 0, 0, random.below(20) as u8);
    let ip = if random.one_in(8) { IpAddr::V6(v4.to_ipv6_mapped()) } else { IpAddr::V4(v4) };
    SocketAddr::new(ip, 80 + random.below(2) as u16)
}

fn some_client(random: &mut Random) -> ClientAddr {
    ClientAddr::from(IpAddr::from([192, 0, 2, random.below(24) as u8]))
}

/// A first address and, for some, further ones that must not matter to scheduling. A third are of a typed host; of these
/// some are the same, and some are one in different spellings.
fn some_addresses(random: &mut Random) -> Addresses {
    const HOSTS: [&str; 8] =
        ["web", "WEB", "web.", "db.example", "10.0.0.3", "::ffff:10.0.0.3", "::A00:3", "2001:db8::0:1"];
    let mut list = vec![some_address(random)];
    while random.one_in(4) {
        list.push(some_address(random));
    }
    let port = list[0].port();
    list.iter_mut().for_each(|address| address.set_port(port));
    let addresses = Addresses::new(list.into_iter().map(Into::into).collect()).expect("at least one");
    if random.one_in(3) { addresses.named(HOSTS[random.below(HOSTS.len())]) } else { addresses }
}
