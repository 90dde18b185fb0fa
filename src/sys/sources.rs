//! `-B`: the source addresses of connections to channels.
//!
//! Knows: whose turn it is, and which of them can reach an address. Never: why a connection is made.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The source addresses, used in turn. Empty: the system chooses.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    list: Arc<[SocketAddr]>,
    /// How many connections were started; shared by all copies of the list. Not counted with a single usable
    /// address.
    turn: Arc<AtomicUsize>,
}

impl Sources {
    /// The addresses with their scopes; the port of each is 0.
    pub fn new(list: impl Into<Arc<[SocketAddr]>>) -> Self {
        Self { list: list.into(), turn: Arc::default() }
    }

    /// All addresses, in the order given.
    pub fn as_slice(&self) -> &[SocketAddr] {
        &self.list
    }

    /// Is the list empty, so that the system chooses?
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The addresses that a connection to `target` may use, beginning with the one whose turn it is. If none
    /// has the right family, all of them, so that the kernel's error says what is wrong.
    pub(super) fn towards(&self, target: SocketAddr) -> impl Iterator<Item = SocketAddr> {
        let fits = move |source: &&SocketAddr| {
            source.ip().to_canonical().is_ipv4() == target.ip().to_canonical().is_ipv4()
        };
        let fitting = self.list.iter().filter(fits).count();
        let turn = if fitting > 1 { self.turn.fetch_add(1, Ordering::Relaxed) % fitting } else { 0 };
        let of_family = move || self.list.iter().filter(move |source| fitting == 0 || fits(source)).copied();
        of_family().skip(turn).chain(of_family().take(turn))
    }
}

/// Equal if the addresses are; whose turn it is does not matter.
impl PartialEq for Sources {
    fn eq(&self, other: &Self) -> bool {
        self.list == other.list
    }
}

impl Eq for Sources {}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(list: &[&str]) -> Vec<SocketAddr> {
        list.iter().map(|ip| SocketAddr::new(ip.parse().expect("an address"), 0)).collect()
    }

    #[test]
    fn sources_of_the_family_take_turns() {
        let sources = Sources::new(addresses(&["10.0.0.1", "2001:db8::1", "10.0.0.2", "::ffff:10.0.0.3"]));
        let target = SocketAddr::from(([10, 9, 9, 9], 80));
        let turn = || sources.towards(target).map(|source| source.ip().to_canonical().to_string()).collect();
        let turns: Vec<Vec<String>> = (0..4).map(|_| turn()).collect();
        let [a, b, c] = ["10.0.0.1", "10.0.0.2", "10.0.0.3"];
        assert_eq!(turns, [[a, b, c], [b, c, a], [c, a, b], [a, b, c]]);
        let v6 = "[2001:db8::9]:80".parse().expect("an address");
        assert_eq!(sources.towards(v6).collect::<Vec<_>>(), addresses(&["2001:db8::1"]));
        let mapped = "[::ffff:10.9.9.9]:80".parse().expect("an address");
        assert_eq!(sources.towards(mapped).count(), 3, "a mapped address is an IPv4 one");
    }

    #[test]
    fn sources_of_another_family_are_tried_for_the_kernels_words() {
        let sources = Sources::new(addresses(&["2001:db8::1"]));
        assert_eq!(sources.towards(([10, 9, 9, 9], 80).into()).count(), 1);
        assert_eq!(Sources::default().towards(([10, 9, 9, 9], 80).into()).count(), 0);
    }
}
