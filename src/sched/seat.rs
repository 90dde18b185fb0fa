//! The numbers by which hashing knows clients and channels.
//!
//! Knows: addresses, host names, arithmetic that is the same on every machine. Never: which channels there
//! are, weights.
//! Source: docs/policies.md, "What a channel is known by".
//!
//! All of this is a promise: clients of running sites stay with their servers through restarts, upgrades and
//! changes of addresses. Do not change any constant or rule here; `schedule_sim::hashing` checks them.

use std::net::{IpAddr, Ipv6Addr};

use super::{Addresses, ClientAddr};
use crate::spec::Address;

const V4: u64 = 0x243f_6a88_85a3_08d3;
const V6: u64 = 0x1319_8a2e_0370_7344;
const NAME: u64 = 0x4528_21e6_38d0_1377;
const SEAT: u64 = 0xa409_3822_299f_31d0;
const SPOT: u64 = 0x082e_fa98_ec4e_6c89;

/// A set of clients that always map to the same channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bucket(pub(super) u16);

impl Bucket {
    /// How many buckets there are.
    pub(super) const COUNT: usize = 1 << 16;

    pub(super) fn of(client: ClientAddr) -> Self {
        // The highest bits of a multiplication are mixed best.
        Self((mix_ip(client.ip()) >> 48) as u16)
    }

    pub(super) fn index(self) -> usize {
        usize::from(self.0)
    }

    /// What the bucket contributes to its scores.
    pub(super) fn spot(self) -> u64 {
        mix(SPOT ^ u64::from(self.0))
    }
}

/// What a channel is known by: its host as it was typed, and its port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Seat {
    host: u64,
    port: u16,
}

impl Seat {
    pub(super) fn of(addresses: &Addresses) -> Self {
        let host = match addresses.host().map(Host::of) {
            Some(Host::Literal(ip)) => mix_ip(ip),
            Some(Host::Path(path)) => mix_name(path.bytes()),
            Some(Host::Name(name)) => mix_name(name.bytes().map(|byte| byte.to_ascii_lowercase())),
            // The smallest address, so that the resolver's order does not matter.
            Some(Host::Number) | None => mix_address(smallest(addresses)),
        };
        Self { host, port: smallest(addresses).port() }
    }

    /// What the channel contributes to its scores, as the `nth` of those with the same seat.
    pub(super) fn key(self, nth: usize) -> u64 {
        let place = (nth as u64) << 16 | u64::from(self.port);
        mix(mix(SEAT ^ place) ^ self.host)
    }
}

/// The kind of host that was typed.
#[derive(Debug, PartialEq, Eq)]
enum Host<'a> {
    /// An address, never an IPv4-mapped one. Its zone is valid only on this machine, so it is ignored.
    Literal(IpAddr),
    /// An IPv4 address in an old notation, such as `127.1` or `0x7f000001`; the system says which address it
    /// is.
    Number,
    /// A Unix socket of this machine.
    Path(&'a str),
    /// Anything else, without the dot that may end it.
    Name(&'a str),
}

/// Is this a name, so that a resolver may return other addresses for it later?
pub fn is_name(typed: &str) -> bool {
    matches!(Host::of(typed), Host::Name(_))
}

impl<'a> Host<'a> {
    fn of(typed: &'a str) -> Self {
        if typed.starts_with("unix:") {
            return Self::Path(typed);
        }
        if let Ok(ip) = typed.parse::<IpAddr>() {
            return Self::Literal(ip.to_canonical());
        }
        if let Some((ip, _zone)) = typed.split_once('%')
            && let Ok(ip) = ip.parse::<Ipv6Addr>()
        {
            return Self::Literal(IpAddr::V6(ip).to_canonical());
        }
        let name = typed.strip_suffix('.').unwrap_or(typed);
        if name.rsplit('.').next().is_some_and(is_number) { Self::Number } else { Self::Name(name) }
    }
}

/// Does a label look like a number? No host name ends with one; every resolver takes such a host for an
/// address.
fn is_number(label: &str) -> bool {
    let hex = label.strip_prefix("0x").or_else(|| label.strip_prefix("0X"));
    match hex {
        Some(digits) => digits.bytes().all(|digit| digit.is_ascii_hexdigit()),
        None => !label.is_empty() && label.bytes().all(|digit| digit.is_ascii_digit()),
    }
}

fn smallest(addresses: &Addresses) -> Address {
    let canonical = |address: &Address| address.canonical();
    addresses.as_slice().iter().copied().min_by_key(canonical).unwrap_or_else(|| addresses.first())
}

fn mix_address(address: Address) -> u64 {
    match address {
        Address::Net(address) => mix_ip(address.ip().to_canonical()),
        Address::Unix(name) => mix_name(name.to_string().bytes()),
    }
}

/// The bits of an address in network order, so that the result is the same on every machine.
fn mix_ip(ip: IpAddr) -> u64 {
    match ip {
        IpAddr::V4(v4) => mix(V4 ^ u64::from(v4.to_bits())),
        IpAddr::V6(v6) => {
            let bits = v6.to_bits();
            mix(mix(V6 ^ (bits >> 64) as u64) ^ bits as u64)
        }
    }
}

/// Eight bytes at a time, the first one lowest. Missing bytes at the end are 0; the length distinguishes them
/// from real zeros.
fn mix_name(bytes: impl Iterator<Item = u8>) -> u64 {
    let (mut hash, mut word, mut length) = (NAME, 0_u64, 0_u64);
    for byte in bytes {
        word |= u64::from(byte) << (length % 8 * 8);
        length += 1;
        if length % 8 == 0 {
            hash = mix(hash ^ word);
            word = 0;
        }
    }
    mix(mix(hash ^ word) ^ length)
}

/// Every bit of the result depends on every bit of `x`, and no two `x` give the same result (the finalizer of
/// splitmix64).
pub(super) fn mix(x: u64) -> u64 {
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seat(host: &str, addresses: &[&str]) -> Seat {
        let list = addresses.iter().map(|address| address.parse().expect("an address")).collect();
        Seat::of(&Addresses::new(list).expect("not empty").named(host))
    }

    #[test]
    fn spellings_of_one_host_are_one_seat() {
        let rows: [&[(&str, &str)]; 7] = [
            &[
                ("web1.example", "10.0.0.1:80"),
                ("WEB1.Example", "10.9.9.9:80"),
                ("web1.example.", "[::1]:80"),
            ],
            &[
                ("10.0.0.1", "10.0.0.1:80"),
                ("::ffff:10.0.0.1", "[::ffff:10.0.0.1]:80"),
                ("::FFFF:a00:1", "10.0.0.1:80"),
            ],
            &[
                ("127.1", "127.0.0.1:80"),
                ("0x7f.1", "127.0.0.1:80"),
                ("2130706433", "127.0.0.1:80"),
                ("127.0.0.1", "127.0.0.1:80"),
            ],
            &[("2001:db8::a", "[2001:db8::a]:80"), ("2001:DB8:0:0::000A", "[2001:db8::a]:80")],
            &[("fe80::1%eth0", "[fe80::1]:80"), ("fe80::1%3", "[fe80::1]:80"), ("fe80::1", "[fe80::1]:80")],
            &[("web1", "10.0.0.1:80"), ("web1.", "10.0.0.2:80")],
            &[("unix:/run/x", "0.0.0.0:80")],
        ];
        let mut seen = Vec::new();
        for row in rows {
            let seats: Vec<Seat> = row.iter().map(|&(host, address)| seat(host, &[address])).collect();
            assert!(seats.iter().all(|seat| *seat == seats[0]), "{row:?}: {seats:?}");
            assert!(!seen.contains(&seats[0]), "{row:?} is another host");
            seen.push(seats[0]);
        }
        for (host, address) in [
            ("unix:/run/X", "0.0.0.0:80"),
            ("web1.example", "10.0.0.1:81"),
            ("web1.example..", "10.0.0.1:80"),
            ("web1%eth0", "10.0.0.1:80"),
            ("127.0.0.1a", "127.0.0.1:80"),
        ] {
            let seat = seat(host, &[address]);
            assert!(!seen.contains(&seat), "{host} is none of the others");
            seen.push(seat);
        }
    }

    #[test]
    fn a_name_stays_where_it_is_whatever_it_resolves_to() {
        let today = seat("db", &["10.0.0.1:5432", "[2001:db8::1]:5432"]);
        assert_eq!(seat("db", &["[2001:db8::1]:5432", "10.0.0.1:5432"]), today);
        assert_eq!(seat("db", &["10.0.0.77:5432"]), today);
        assert_ne!(seat("db2", &["10.0.0.1:5432", "[2001:db8::1]:5432"]), today);
    }

    #[test]
    fn what_was_never_typed_is_known_by_its_smallest_address() {
        let list = |addresses: &[&str]| {
            let list = addresses.iter().map(|address| address.parse().expect("an address")).collect();
            Seat::of(&Addresses::new(list).expect("not empty"))
        };
        let one = list(&["10.0.0.9:80", "10.0.0.1:80"]);
        assert_eq!(list(&["10.0.0.1:80", "10.0.0.9:80"]), one);
        assert_eq!(list(&["[::ffff:10.0.0.1]:80"]), one);
        assert_eq!(seat("10.0.0.1", &["10.0.0.1:80"]), one);
    }

    #[test]
    fn no_text_is_taken_for_another_of_other_length() {
        let names: Vec<String> =
            (0..40).map(|n| "\0".repeat(n)).chain((0..40).map(|n| "a".repeat(n))).collect();
        let mut hashes: Vec<u64> = names.iter().map(|name| mix_name(name.bytes())).collect();
        hashes.sort_unstable();
        hashes.dedup();
        assert_eq!(hashes.len(), names.len() - 1, "only the empty one is there twice");
    }

    #[test]
    fn any_host_at_all_has_a_seat() {
        for host in ["", ".", "%", "%%", "::%", "0x", "0x.", "1.", "unix:", "ÄÖ", "\u{0}", "a%::1"] {
            let _ = seat(host, &["10.0.0.1:80"]);
        }
    }

    #[test]
    fn neighbours_spread_over_the_buckets() {
        let mut seen = vec![false; Bucket::COUNT];
        for n in 0..65_536_u32 {
            seen[Bucket::of(ClientAddr::from(IpAddr::V4((0xc0a8_0000 + n).into()))).index()] = true;
        }
        let hit = seen.iter().filter(|&&hit| hit).count();
        // As many as random numbers would hit: 1 - 1/e of all.
        assert!(hit.abs_diff(41_427) < 600, "{hit} buckets hit");
    }
}
