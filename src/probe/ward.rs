//! One service in the care of the thread that minds the channels.
//!
//! Knows: its table, how its channels are checked, how to reach the data plane. Never: sockets, when a probe is due.

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

/// A probe for a return does not wait for longer than this, whatever `-t` says: the next one may be luckier.
const RETURN_PATIENCE: Duration = Duration::from_secs(2);

/// How channels are checked.
#[derive(Debug, Clone)]
pub struct Checks {
    /// What a check asks of channels that have none of their own.
    pub check: Arc<Check>,
    /// How long an answer may take.
    pub timeout: Duration,
    /// The port to ask instead of the channel's.
    pub port: Option<NonZeroU16>,
    /// A channel that goes down loses its connections.
    pub kick: bool,
}

/// What the thread does to the data plane.
pub struct Hands {
    /// Closes the connections of a channel, sooner or later.
    pub kick: Box<dyn Fn(ChannelKey) + Send>,
    /// Makes the listeners refuse.
    pub shut: Box<dyn Fn() -> io::Result<()> + Send>,
    /// Makes the listeners listen again.
    pub open: Box<dyn Fn() -> io::Result<()> + Send>,
    /// Gives free slots to the clients that wait for one.
    pub serve_line: Box<dyn Fn() + Send>,
    /// Channels of these names have failed: the names may mean other addresses by now.
    pub doubt: Box<dyn Fn(BTreeSet<String>) + Send>,
    /// A channel has come up that an answer about a name was waiting for.
    pub another: Box<dyn Fn() + Send>,
    /// Would a connection for a channel to this address come in by the service itself, again and again? What is to be said of
    /// that, if so.
    pub leads_back: Box<dyn Fn(ChannelKey, Address) -> Option<String> + Send>,
}

impl fmt::Debug for Hands {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hands").finish_non_exhaustive()
    }
}

/// A service whose channels are minded.
#[derive(Debug)]
pub struct Ward {
    /// Its channels.
    pub table: SharedTable,
    /// Where its events go.
    pub log: Log,
    /// The lowest port that it listens on: that at which channels without a port of their own are probed.
    pub first_port: u16,
    /// How connections to channels are made.
    pub outgoing: Outgoing,
    /// `-t`: how long a channel may take to answer.
    pub connect_timeout: Duration,
    /// How channels are checked.
    pub checks: Checks,
    /// While no channel is up, connects are refused.
    pub refuse_when_down: bool,
    /// How the data plane is reached.
    pub hands: Hands,
}

impl Ward {
    /// What the engine is to do for a probe.
    pub(super) fn order(&self, id: u64, probe: &Probe) -> Order {
        let (check, timeout, port) = match probe.purpose {
            Purpose::Return | Purpose::Doubt => {
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
        // A Unix socket has no other port.
        let is_unix = addresses.iter().any(|address| address.unix().is_some());
        let port = port.filter(|_| !is_unix);
        // What listens at another port knows nothing of headers.
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
