//! One service that the health thread checks.
//!
//! Knows: its table, how its channels are checked, how to reach the data plane. Never: sockets, when a probe
//! is due.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use super::order::Order;
use crate::observe::Log;
use crate::sched::{ChannelKey, Probe, Purpose, SharedTable};
use crate::spec::{Address, ChannelCheck, Check};
use crate::sys::Outgoing;

/// Maximum timeout of a probe of an ejected channel, whatever `-t` says: the next probe may succeed sooner.
const RETURN_PATIENCE: Duration = Duration::from_secs(2);

/// How channels are checked.
#[derive(Debug, Clone)]
pub struct Checks {
    /// The check of channels that have none of their own.
    pub check: Arc<Check>,
    /// How long a probe may take.
    pub timeout: Duration,
    /// The port to check instead of the channel's.
    pub port: Option<NonZeroU16>,
    /// Whether connections of a channel that goes down are closed.
    pub kick: bool,
}

/// What the thread can do in the data plane.
pub struct Hands {
    /// Closes the connections of a channel, sooner or later.
    pub kick: Box<dyn Fn(ChannelKey) + Send>,
    /// Makes the listeners refuse connects.
    pub shut: Box<dyn Fn() -> io::Result<()> + Send>,
    /// Makes the listeners listen again.
    pub open: Box<dyn Fn() -> io::Result<()> + Send>,
    /// Gives free slots to clients in the wait queue.
    pub serve_line: Box<dyn Fn() + Send>,
    /// Called with the names of channels that have failed: they may have other addresses by now.
    pub doubt: Box<dyn Fn(BTreeSet<String>) + Send>,
    /// Called when a channel has come up, so that channels which stayed only for want of one can be removed.
    pub another: Box<dyn Fn() + Send>,
    /// Would a connection to this address of a channel come back to the service itself, without end? Returns
    /// a text that says so, if it would.
    pub leads_back: Box<dyn Fn(ChannelKey, Address) -> Option<String> + Send>,
}

impl fmt::Debug for Hands {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hands").finish_non_exhaustive()
    }
}

/// A service whose channels are checked.
#[derive(Debug)]
pub struct Ward {
    /// Its table.
    pub table: SharedTable,
    /// Where its events are logged.
    pub log: Log,
    /// The lowest port that it listens on, at which channels without a port of their own are probed.
    pub first_port: u16,
    /// How connections to channels are made.
    pub outgoing: Outgoing,
    /// `-t`: how long a connect to a channel may take.
    pub connect_timeout: Duration,
    /// How channels are checked.
    pub checks: Checks,
    /// Whether connects are refused while no channel is up.
    pub refuse_when_down: bool,
    /// How to reach the data plane.
    pub hands: Hands,
}

impl Ward {
    /// The order to the engine for a probe.
    pub(super) fn order(&self, id: u64, probe: &Probe) -> Order {
        let (check, timeout, port) = match probe.purpose {
            Purpose::Return | Purpose::Doubt | Purpose::Asked => {
                (Arc::new(Check::Tcp), self.connect_timeout.min(RETURN_PATIENCE), None)
            }
            Purpose::Check => {
                let Checks { check, timeout, port, .. } = &self.checks;
                let check = match &probe.manner.check {
                    ChannelCheck::Own(own) => Arc::new(own.clone()),
                    ChannelCheck::AsService | ChannelCheck::Never => Arc::clone(check),
                };
                (check, *timeout, port.map(NonZeroU16::get))
            }
        };
        let (addresses, outgoing) = (probe.addresses.clone(), self.outgoing.clone());
        // A Unix socket has no port, so another one cannot be checked.
        let is_unix = addresses.iter().any(|address| address.unix().is_some());
        let port = port.filter(|_| !is_unix);
        // The port of the check is another program's, which need not understand the PROXY header.
        let proxy = probe.manner.proxy.filter(|_| port.is_none());
        let follow_clients = !is_unix && addresses.iter().any(|address| address.port() == 0);
        let port = port.or(follow_clients.then_some(self.first_port));
        let leads_back = |&address: &Address| {
            let target = port.map_or(address, |port| address.with_port(port));
            Some((address, (self.hands.leads_back)(probe.channel, target)?))
        };
        let barred = addresses.iter().filter_map(leads_back).collect();
        Order { id, addresses, barred, port, check, proxy, timeout, outgoing }
    }
}
