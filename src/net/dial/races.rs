//! `--race`: several attempts for one client at a time. The first answer wins.
//!
//! Knows: which attempt is the current one, when another one is started beside it. Never: what happens to a
//! client whose attempts have all failed.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;

use super::{Dial, Dialer, Terms, Try};
use crate::net::failure::words_of;
use crate::observe::ConnectionTrace;
use crate::sched::{ChannelKey, DialCause, DialFailure, Lease};
use crate::sys::descriptors::Taken;
use crate::sys::fault::is_exhausted;
use crate::sys::socket::{self, ConnectError};

/// The result of starting an attempt beside those that are running.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::net) enum Beside {
    /// It has begun.
    Started,
    /// A resource on balance's side is missing; it may work later.
    NotNow,
    /// There is no other channel to try.
    Nobody,
}

impl Dial {
    fn all(&self) -> impl Iterator<Item = &Try> {
        self.current.iter().chain(&self.others)
    }

    /// The sockets of all running attempts.
    pub(in crate::net) fn servers(&self) -> impl Iterator<Item = &OwnedFd> {
        self.all().filter_map(|one| one.server.as_ref())
    }

    /// Is this channel being tried?
    pub(in crate::net) fn tries(&self, channel: ChannelKey) -> bool {
        self.all().any(|one| one.lease.key() == channel)
    }

    /// Is this the watch of an attempt beside the current one?
    pub(in crate::net) fn has_other(&self, watch: u16) -> bool {
        self.others.iter().any(|other| other.watch == watch)
    }

    /// The channel that the attempt with this watch tries.
    #[cfg(all(target_os = "linux", not(portable)))]
    #[cfg(test)]
    pub(in crate::net) fn channel_of(&self, watch: u16) -> Option<ChannelKey> {
        self.all().find(|one| one.watch == watch).map(|one| one.lease.key())
    }

    /// Makes the attempt with this watch the current one.
    pub(in crate::net) fn turn_to(&mut self, watch: u16) {
        self.turn_to_any(|one| one.watch == watch);
    }

    /// Makes the attempt at this channel the current one, and returns the watch of the current one.
    pub(in crate::net) fn turn_to_channel(&mut self, channel: ChannelKey) -> Option<u16> {
        self.turn_to_any(|one| one.lease.key() == channel);
        self.watch()
    }

    /// Makes an attempt that has timed out at `by` the current one, and returns its watch. `None` if there is
    /// none.
    pub(in crate::net) fn turn_to_overdue(&mut self, by: u64) -> Option<u16> {
        let is_over = |one: &Try| one.server.is_some() && one.deadline.is_some_and(|deadline| deadline <= by);
        if !self.current.as_ref().is_some_and(is_over) && !self.turn_to_any(is_over) {
            return None;
        }
        self.watch()
    }

    fn turn_to_any(&mut self, is_wanted: impl Fn(&Try) -> bool) -> bool {
        let (Some(current), Some(other)) =
            (&mut self.current, self.others.iter_mut().find(|one| is_wanted(one)))
        else {
            return false;
        };
        std::mem::swap(current, other);
        true
    }

    /// The next time at which there is something to do, whatever happens.
    pub(in crate::net) fn next_deadline(&self) -> Option<u64> {
        let deadlines = self.all().filter_map(|one| one.deadline);
        deadlines.chain(self.race_at).min()
    }

    /// Could one more attempt run beside those that are running?
    pub(in crate::net) fn may_race(&self) -> bool {
        self.kept.is_none() && self.server().is_some()
    }

    /// Tries one more channel beside those that are being tried, if its group has one. `extra` is the
    /// descriptor for it.
    pub(in crate::net) fn begin_beside(
        &mut self,
        terms: &Terms,
        extra: Taken,
        dialer: &Dialer,
        mut trace: Option<&mut ConnectionTrace>,
        mut watch: impl FnMut(&OwnedFd) -> io::Result<()>,
    ) -> Beside {
        loop {
            let Some(route) = self.route.as_mut().filter(|_| !dialer.leaving.load(Ordering::SeqCst)) else {
                return Beside::Nobody;
            };
            let mut grants = Vec::new();
            let lease = dialer.table.lock_at(dialer.clock.now()).next_beside(route, &mut grants);
            dialer.deliver.all(grants);
            let Some(lease) = lease else { return Beside::Nobody };
            let outgoing = dialer.outgoing.load();
            let client = outgoing.transparent.then_some(self.peers);
            let mut new = Try { watch: terms.watch, client, ..Try::new(lease, self.came_to) };
            let mut words = String::new();
            while let Some(target) = new.target() {
                new.begun = dialer.clock.now();
                let error = match new.connect((target, self.peers.seen), &outgoing, dialer, &mut watch) {
                    Ok(server) => {
                        new.deadline = Some(terms.now.saturating_add(new.share(terms)));
                        (new.server, new.extra) = (Some(server), Some(extra));
                        let before = self.current.replace(new);
                        self.others.extend(before);
                        return Beside::Started;
                    }
                    Err(error) => error,
                };
                match error {
                    ConnectError::Target(e)
                        if !is_exhausted(&e) && new.fault_of(&e) == DialFailure::Channel =>
                    {
                        words = format!("connect: {}", words_of(&e));
                        new.note(&e, DialFailure::Channel, &words, dialer, trace.as_deref_mut());
                        new.address += 1;
                    }
                    // Nothing depends on it, so it is not worth a search.
                    ConnectError::Target(_)
                    | ConnectError::Crowded(_)
                    | ConnectError::Ports(_)
                    | ConnectError::Ours(_) => {
                        let mut table = dialer.table.lock_at(dialer.clock.now());
                        table.give_back(route, new.lease);
                        let grants = table.grant();
                        drop(table);
                        dialer.deliver.all(grants);
                        return Beside::NotNow;
                    }
                }
            }
            let cause = new.cause.unwrap_or(DialCause::NoAnswer);
            let mut table = dialer.table.lock_at(dialer.clock.now());
            let transition = table.failed(new.lease, new.blame, cause, &words);
            let grants = table.grant();
            drop(table);
            dialer.deliver.all(grants);
            dialer.changed(transition);
        }
    }

    /// Resets the attempts that lost. Returns the slot of each, and whether it had been answered as well.
    pub(super) fn beaten(others: Vec<Try>, mut trace: Option<&mut ConnectionTrace>) -> Vec<(Lease, bool)> {
        let beaten = others.into_iter().map(|mut other| {
            if let Some(trace) = trace.as_deref_mut() {
                trace.outrun();
            }
            // The kernel knows whether it was answered.
            let has_answered = other.server.as_ref().is_some_and(socket::is_connected);
            other.give_up();
            (other.lease, has_answered)
        });
        beaten.collect()
    }
}
