//! Finding a channel for one client: address after address, channel after channel, until one answers.
//!
//! Knows: the table's route, whose fault a failure is. Never: how the choice is made, the payload, the clock.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use rustix::io::Errno;

use super::socket::{self, ConnectError, Outgoing};
use crate::observe::{Event, Log};
use crate::sched::{ChannelKey, DialFailure, Lease, NoChannel, Route, SharedTable, Transition};

/// What every dial of an instance needs.
#[derive(Debug, Clone)]
pub(super) struct Dialer {
    pub(super) table: SharedTable,
    pub(super) outgoing: Outgoing,
    pub(super) log: Log,
}

/// One client's search.
#[derive(Debug)]
pub(super) struct Dial {
    route: Route,
    /// `None` once the walk is over.
    lease: Option<Lease>,
    /// Which of the channel's addresses is being tried.
    address: usize,
    /// Did any of the channel's addresses fail by the channel's own fault?
    blame: DialFailure,
    /// When descriptors or memory were first missing, in ms of the worker's clock.
    starving_since: Option<u64>,
    /// The attempt under way.
    pub(super) server: Option<OwnedFd>,
    pub(super) client: SocketAddr,
}

/// What came of starting an attempt.
#[derive(Debug)]
pub(super) enum Attempt {
    /// `Dial::server` is on its way.
    Started,
    /// No descriptor or memory for it just now.
    Wait,
    /// Nothing is left to try.
    Over(NoChannel),
}

impl Dial {
    /// Takes the first lease of a client's walk.
    pub(super) fn begin(client: SocketAddr, dialer: &Dialer) -> Result<Self, NoChannel> {
        let mut table = dialer.table.lock();
        let mut route = table.begin(client.ip().into());
        let lease = table.next(&mut route)?;
        Ok(Self {
            route,
            lease: Some(lease),
            address: 0,
            blame: DialFailure::Local,
            starving_since: None,
            server: None,
            client,
        })
    }

    /// The channel being tried.
    pub(super) fn channel(&self) -> Option<ChannelKey> {
        self.lease.as_ref().map(Lease::key)
    }

    /// The address being tried.
    pub(super) fn target(&self) -> Option<SocketAddr> {
        self.lease.as_ref()?.addresses().as_slice().get(self.address).copied()
    }

    /// Starts on the current address, or on the first one after it that can be started on. Without descriptors or memory
    /// it waits, but no longer than `patience`, in ms like `now`.
    pub(super) fn attempt(&mut self, dialer: &Dialer, now: u64, patience: u64) -> Attempt {
        loop {
            let Some(target) = self.target() else { return Attempt::Over(NoChannel::Failed) };
            let (error, fault) = match socket::connect(target, &dialer.outgoing) {
                Ok(server) => {
                    self.server = Some(server);
                    self.starving_since = None;
                    return Attempt::Started;
                }
                Err(ConnectError::Ours(e) | ConnectError::Target(e)) if is_exhausted(&e) => {
                    let since = *self.starving_since.get_or_insert(now);
                    if now.saturating_sub(since) < patience {
                        return Attempt::Wait;
                    }
                    self.starving_since = None;
                    (e, DialFailure::Local)
                }
                Err(ConnectError::Ours(e)) => (e, DialFailure::Local),
                Err(ConnectError::Target(e)) => {
                    let fault = fault_of(&e);
                    (e, fault)
                }
            };
            if let Err(why) = self.failed_by(&error, fault, dialer) {
                return Attempt::Over(why);
            }
        }
    }

    /// The current address did not answer, or not as wished: moves on to the next address, or the next channel.
    pub(super) fn failed(&mut self, error: &io::Error, dialer: &Dialer) -> Result<(), NoChannel> {
        self.failed_by(error, fault_of(error), dialer)
    }

    fn failed_by(&mut self, error: &io::Error, fault: DialFailure, dialer: &Dialer) -> Result<(), NoChannel> {
        self.server = None;
        let Some(lease) = self.lease.take() else { return Err(NoChannel::Failed) };
        let addresses = lease.addresses().as_slice();
        if let Some(&address) = addresses.get(self.address) {
            tell(lease.key(), address, error, fault, &dialer.log);
        }
        if fault == DialFailure::Channel {
            self.blame = fault;
        }
        if self.address + 1 < addresses.len() {
            self.address += 1;
            self.lease = Some(lease);
            return Ok(());
        }
        let (transition, next) = {
            let mut table = dialer.table.lock();
            (table.failed(lease, self.blame), table.next(&mut self.route))
        };
        if let Some(Transition::Autodisabled(channel, address)) = transition {
            dialer.log.tell(&Event::Autodisabled { channel, address });
        }
        self.lease = Some(next?);
        self.address = 0;
        self.blame = DialFailure::Local;
        Ok(())
    }

    /// The current address answered: the lease is the connection's from now on.
    pub(super) fn succeeded(self, dialer: &Dialer) -> Option<(OwnedFd, Lease)> {
        let (server, lease) = (self.server?, self.lease?);
        dialer.table.lock().connected(self.route, &lease);
        Some((server, lease))
    }
}

fn tell(channel: ChannelKey, address: SocketAddr, error: &io::Error, fault: DialFailure, log: &Log) {
    let cause = || error.to_string();
    match fault {
        DialFailure::Channel if log.is_debug() => {
            log.tell(&Event::ChannelFailed { channel, address, cause: cause() });
        }
        DialFailure::Channel => {}
        DialFailure::Local => log.tell(&Event::DialFailed { channel, cause: cause() }),
    }
}

/// Nothing to do with the address: it would pass if others ended first.
fn is_exhausted(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM | Errno::AGAIN)
    )
}

fn fault_of(error: &io::Error) -> DialFailure {
    let ours = is_exhausted(error)
        || matches!(error.kind(), io::ErrorKind::AddrNotAvailable | io::ErrorKind::AddrInUse)
        || matches!(Errno::from_io_error(error), Some(Errno::AFNOSUPPORT | Errno::ACCESS | Errno::PERM));
    if ours { DialFailure::Local } else { DialFailure::Channel }
}
