//! Who may come to a service.
//!
//! Knows: lists of networks, limits of one client. Never: how a list is written, what is in a file, who has come.

use std::fmt;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use super::Typed;

/// `--allow`, `--deny`: networks and files of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetList {
    /// In the order in which they were typed; never empty.
    pub items: Vec<NetItem>,
    /// The whole word, for messages.
    pub typed: Typed,
}

/// One item of a [`NetList`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NetItem {
    /// A network without bits behind its prefix; never of IPv4-mapped addresses, which are IPv4.
    Net(IpNet),
    /// An absolute path: a file with one network on a line. Whether it is there is asked later.
    File(PathBuf),
}

impl NetList {
    /// The files.
    pub fn files(&self) -> impl Iterator<Item = &PathBuf> {
        self.items.iter().filter_map(|item| match item {
            NetItem::File(path) => Some(path),
            NetItem::Net(_) => None,
        })
    }
}

/// `--client-rate`: so many new connections of one client in so long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientRate {
    /// Connections.
    pub count: NonZeroU32,
    /// 1 ms to a day.
    pub per: Duration,
}

/// `--client-prefix`: addresses that have so many leading bits in common are one client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientPrefix {
    /// 1..=32
    pub v4: u8,
    /// 1..=128
    pub v6: u8,
}

impl Default for ClientPrefix {
    /// An IPv4 address, or an IPv6 /64, which is what a provider gives one customer at least.
    fn default() -> Self {
        Self { v4: 32, v6: 64 }
    }
}

impl fmt::Display for ClientPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{},{}", self.v4, self.v6)
    }
}
