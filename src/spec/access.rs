//! Who may connect to a service.
//!
//! Knows: lists of networks, limits per client. Never: how a list is written, what a file contains, who has
//! connected.

use std::fmt;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use super::Typed;

/// The value of `--allow` or `--deny`: networks, and files that list networks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetList {
    /// The items in the order in which they were typed; never empty.
    pub items: Vec<NetItem>,
    /// The whole word as typed, for messages.
    pub typed: Typed,
}

/// One item of a [`NetList`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NetItem {
    /// A network. All bits after its prefix are 0, and an IPv4-mapped address is stored as IPv4.
    Net(IpNet),
    /// The absolute path of a file with one network per line. Whether the file exists is checked later.
    File(PathBuf),
}

impl NetList {
    /// The paths of all files in the list.
    pub fn files(&self) -> impl Iterator<Item = &PathBuf> {
        self.items.iter().filter_map(|item| match item {
            NetItem::File(path) => Some(path),
            NetItem::Net(_) => None,
        })
    }
}

/// The value of `--client-rate`: how many new connections one client may open in a period.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientRate {
    /// The number of connections.
    pub count: NonZeroU32,
    /// The period, 1 ms to a day.
    pub per: Duration,
}

/// The value of `--client-prefix`: addresses that share this many leading bits count as one client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientPrefix {
    /// Leading bits of an IPv4 address, 1..=32.
    pub v4: u8,
    /// Leading bits of an IPv6 address, 1..=128.
    pub v6: u8,
}

impl Default for ClientPrefix {
    /// A whole IPv4 address, or an IPv6 /64. A provider gives a customer at least a /64.
    fn default() -> Self {
        Self { v4: 32, v6: 64 }
    }
}

impl fmt::Display for ClientPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{},{}", self.v4, self.v6)
    }
}
