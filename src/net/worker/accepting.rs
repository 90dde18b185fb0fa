//! A worker's accepting: who takes a client, who hands it over, what happens when descriptors run out.
//!
//! Knows: the listener, the other workers' loads, the budget of descriptors, the limit of clients. Never: what becomes of a
//! client.

use std::sync::atomic::Ordering;

use super::{Accepting, LISTENER, STARVED_MS, Worker};
use crate::net::server::Message;
use crate::observe::Event;
use crate::sys::listen::AcceptError;

/// Clients accepted in one go, so that the other workers get some of a burst.
pub(super) const CLIENTS: usize = 8;
/// How many clients more than another a worker may have, however many they have.
const UNEVEN: usize = 8;
/// Clients still taken when the listener is about to close. A flood must not keep it from closing.
pub(super) const CLIENTS_AT_STOP: usize = 4096;

impl Worker {
    pub(super) fn drop_listener(&mut self) {
        if let Some(listener) = self.listener.take() {
            self.poller.remove(&listener);
        }
        self.accepting = Accepting::Stopped;
    }

    pub(super) fn accept(&mut self, most: usize) {
        if self.accepting == Accepting::Refusing {
            return;
        }
        for _ in 0..most {
            let Some(listener) = &self.listener else { return };
            let Some(taken) = self.shared.budget.take(2) else {
                self.starve();
                return;
            };
            let Some(place) = self.shared.place() else {
                drop(taken);
                self.crowd();
                return;
            };
            match listener.accept() {
                Ok((client, address)) => {
                    place.keep();
                    match self.lighter_desk() {
                        Some(desk) => {
                            self.shared.desks[desk].load.add();
                            self.shared.desks[desk].send(Message::Adopt(client, address, taken));
                        }
                        None => {
                            self.shared.desks[self.id].load.add();
                            self.admit(client, address, taken);
                        }
                    }
                }
                Err(AcceptError::Empty) => return,
                Err(AcceptError::Client) => {}
                Err(AcceptError::Exhausted) => {
                    drop((taken, place));
                    self.starve();
                    return;
                }
                Err(AcceptError::Other(e)) => {
                    self.shared.log.tell(&Event::AcceptFailed { cause: e.to_string() });
                    drop((taken, place));
                    self.pause();
                    return;
                }
            }
        }
        self.clients_wait = true;
    }

    /// The worker with the fewest connections, if it has clearly fewer than this one.
    pub(super) fn lighter_desk(&self) -> Option<usize> {
        let desks = &self.shared.desks;
        let mine = desks[self.id].load.get();
        if mine < 2 {
            return None;
        }
        let (least, load) =
            desks.iter().map(|desk| desk.load.get()).enumerate().min_by_key(|&(_, load)| load)?;
        // A hand-over costs a wake-up, and among many one more or less does not matter. But the new ones may be the only busy
        // ones among many idle ones, so more than a few are never left to one worker.
        (mine > load + 1 + (mine / 8).min(UNEVEN)).then_some(least)
    }

    /// Out of descriptors: wait for one, quietly.
    pub(super) fn starve(&mut self) {
        if !self.shared.starved.swap(true, Ordering::Relaxed) {
            let limit = self.shared.options.descriptor_limit;
            self.shared.log.tell(&Event::OutOfDescriptors { limit });
        }
        self.pipes.clear();
        self.pause();
    }

    /// As many clients as there may be: the next ones wait in the kernel's queue.
    fn crowd(&mut self) {
        if let Some(limit) = self.shared.options.max_connections
            && !self.shared.crowded.swap(true, Ordering::Relaxed)
        {
            self.shared.log.tell(&Event::MaxConnections { limit: limit.get() });
        }
        self.pause();
    }

    /// No channel is up: takes whoever waits already, then nobody.
    pub(super) fn refuse(&mut self) {
        if self.accepting == Accepting::Stopped || self.accepting == Accepting::Refusing {
            return;
        }
        self.accept(CLIENTS_AT_STOP);
        if self.accepting == Accepting::On
            && let Some(listener) = &self.listener
        {
            self.poller.remove(listener);
        }
        self.clients_wait = false;
        self.accepting = Accepting::Refusing;
    }

    /// A channel is up again.
    pub(super) fn welcome(&mut self) {
        if self.accepting == Accepting::Refusing {
            self.accepting = Accepting::Starved(self.now);
            self.resume_accepting();
            self.clients_wait = true;
        }
    }

    pub(super) fn pause(&mut self) {
        if self.accepting == Accepting::On
            && let Some(listener) = &self.listener
        {
            self.poller.remove(listener);
        }
        if matches!(self.accepting, Accepting::On | Accepting::Starved(_)) {
            self.accepting = Accepting::Starved(self.now + STARVED_MS);
        }
    }

    pub(super) fn resume_accepting(&mut self) {
        let Some(listener) = &self.listener else { return };
        // Waking the poller for a descriptor or a place that is not there would be a busy loop.
        let probe = self.shared.budget.take(2).zip(self.shared.place());
        if probe.is_none() {
            self.accepting = Accepting::Starved(self.now + STARVED_MS);
            return;
        }
        drop(probe);
        if self.poller.add_listener(listener, LISTENER).is_err() {
            self.accepting = Accepting::Starved(self.now + STARVED_MS);
            return;
        }
        self.accepting = Accepting::On;
    }

    /// Says that descriptors are back, once there are plenty: at the very limit every client that leaves makes room for one.
    pub(super) fn tell_recovery(&self) {
        if self.shared.crowded.load(Ordering::Relaxed) && self.shared.has_emptied() {
            self.shared.crowded.store(false, Ordering::Relaxed);
        }
        if self.shared.starved.load(Ordering::Relaxed)
            && self.shared.budget.has_recovered()
            && self.shared.starved.swap(false, Ordering::Relaxed)
        {
            self.shared.log.tell(&Event::DescriptorsBack);
        }
    }
}
