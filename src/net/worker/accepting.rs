//! How a worker accepts clients: which worker takes one, when it hands one over, what happens when
//! descriptors run out.
//!
//! Knows: the doors, the other workers' loads, the budget of descriptors, the limit on clients. Never: what
//! happens to a client.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::doors::{Accepting, Door};
use super::past::Past;
use super::untold::UntoldRefusals;
use super::{STARVED_MS, Worker};
use crate::net::service::{Service, ServiceId};
use crate::net::shared::{Guest, Message, Opened};
use crate::observe::Event;
use crate::sched::{End, Rule};
use crate::spec::ClientSource;
use crate::sys::descriptors::Taken;
use crate::sys::listen::AcceptError;
use crate::sys::poller::Readiness;
use crate::sys::socket;

/// How many clients are accepted at a time, so that other workers get some of a burst.
pub(super) const CLIENTS: usize = 8;
/// How many clients are accepted per turn at all doors together: with many services, clients that are already
/// served must not wait for that many newcomers at each door.
pub(super) const CLIENTS_A_TURN: usize = 64;
/// How many starved doors are checked when a client leaves. The others are checked a little later.
const DOORS_LOOKED_AT: usize = 64;
/// How many clients more than another a worker may have, however many they have.
const UNEVEN: usize = 8;
/// How many waiting clients are still accepted when a listener is about to close, so that a flood cannot keep
/// it open.
pub(super) const CLIENTS_AT_STOP: usize = 4096;

impl<P: Readiness> Worker<P> {
    /// Starts to serve these services.
    pub(super) fn open(&mut self, services: Vec<Opened>) -> io::Result<()> {
        for Opened { service, listeners } in services {
            for listener in listeners {
                self.doors.add(Arc::clone(&service), listener, &mut self.poller)?;
            }
        }
        Ok(())
    }

    /// Accepts no more clients of a service.
    pub(super) fn stop_listening(&mut self, service: ServiceId) {
        for door in self.doors.of(service) {
            // From here on no client finds the file of a Unix socket.
            self.doors.get(door).into_iter().for_each(|door| door.listener.remove_file());
            // Clients in the listen queue were promised service; later ones were not.
            self.accept(door, CLIENTS_AT_STOP);
            self.doors.remove(door, &mut self.poller);
        }
    }

    /// Does the same for these ports only.
    pub(super) fn stop_listening_on(&mut self, service: ServiceId, ports: &[u16]) {
        for door in self.doors_on(service, ports) {
            self.accept(door, CLIENTS_AT_STOP);
            self.doors.remove(door, &mut self.poller);
        }
    }

    /// Accepts the clients that already wait on these ports, then no more.
    pub(super) fn set_aside(&mut self, service: ServiceId, ports: &[u16]) {
        for door in self.doors_on(service, ports) {
            self.accept(door, CLIENTS_AT_STOP);
            self.doors.set_aside(door, &mut self.poller);
        }
    }

    /// Accepts clients on these ports again.
    pub(super) fn welcome_on(&mut self, service: ServiceId, ports: &[u16]) {
        for door in self.doors_on(service, ports) {
            self.doors.set_back(door);
            self.resume(door);
        }
    }

    fn doors_on(&self, service: ServiceId, ports: &[u16]) -> Vec<usize> {
        let mut all = self.doors.of(service);
        let is_on = |door: &Door| ports.contains(&door.listener.address().port());
        all.retain(|&door| self.doors.get(door).is_some_and(is_on));
        all
    }

    /// Accepts at most `most` clients; returns how many it accepted.
    pub(super) fn accept(&mut self, door: usize, most: usize) -> usize {
        let before = self.accepted;
        self.accept_up_to(door, most);
        self.accepted.wrapping_sub(before)
    }

    fn accept_up_to(&mut self, door: usize, most: usize) {
        let mut lost = 0;
        for _ in 0..most {
            let Some(Door { service, listener, accepting, .. }) = self.doors.get(door) else { return };
            if matches!(accepting, Accepting::Refusing | Accepting::Held | Accepting::Aside) {
                return;
            }
            let Some(taken) = self.shared.budget.take(2) else {
                self.starve(door);
                return;
            };
            let Some(mut guest) = Guest::enter(service, listener.address().port(), &self.shared) else {
                drop(taken);
                self.crowd(door);
                return;
            };
            match listener.accept() {
                Ok((client, address)) => {
                    self.accepted = self.accepted.wrapping_add(1);
                    lost = 0;
                    if service.ails.load(Ordering::Relaxed) {
                        service.ails.store(false, Ordering::Relaxed);
                    }
                    if let Err(rule) = guest.let_in_seen(address) {
                        drop(taken);
                        self.refuse_client(&guest, client, address, rule);
                        continue;
                    }
                    match self.lighter_desk() {
                        Some(desk) => {
                            guest.sit_at(desk);
                            self.shared.desks[desk].send(Message::Adopt(guest, client, address, taken));
                        }
                        None => {
                            guest.sit_at(self.id);
                            self.admit(guest, client, address, taken);
                        }
                    }
                }
                Err(error) => {
                    let service = Arc::clone(service);
                    drop(taken);
                    drop(guest);
                    match error {
                        AcceptError::Empty => return,
                        // This many in a row are not caused by the clients.
                        AcceptError::Client(_) if lost + 1 < CLIENTS => lost += 1,
                        AcceptError::Exhausted => return self.starve(door),
                        AcceptError::Client(e) | AcceptError::Other(e) => {
                            if !service.ails.swap(true, Ordering::Relaxed) {
                                service.log.tell(&Event::AcceptFailed { cause: e.to_string() });
                            }
                            return self.pause(door);
                        }
                    }
                }
            }
        }
        self.doors.knock_at(door);
    }

    /// Takes over a client that another worker accepted. Meanwhile it may have been denied, or counting of
    /// clients may have begun.
    pub(super) fn adopt(&mut self, mut guest: Guest, client: OwnedFd, address: ClientSource, taken: Taken) {
        if !guest.gate().is_open() && !guest.awaits_header(address) {
            let now = self.shared.clock.now();
            if address.ip().is_some_and(|ip| guest.gate().denies(ip, now)) {
                return self.refuse_client(&guest, client, address, Rule::Denied);
            }
            guest.count_in(address);
        }
        self.admit(guest, client, address, taken);
    }

    /// Closes a client that a rule keeps out with a reset, which costs neither side anything more. There may
    /// be any number of them, so they are counted, and logged one by one only if every client is.
    pub(super) fn refuse_client(
        &mut self,
        service: &Guest,
        client: OwnedFd,
        address: ClientSource,
        rule: Rule,
    ) {
        socket::reset_on_close(&client);
        drop(client);
        let (now, how) = (self.shared.clock.now(), End::Refused(rule));
        service.dialer.table.ended(self.id, how);
        let id = self.next_id();
        let past = Past {
            id,
            client: address.into(),
            claimed: None,
            channel: None,
            lasted: Duration::ZERO,
            ended_at: now,
            delivered: [0; 2],
        };
        self.past.add(service.id, how, past);
        if service.log.is_debug() {
            service.log.tell(&Event::ClientLost { client: address.into(), reason: how });
        }
        self.tell_refusal(service, address, how);
        self.log_refusal(service, id, address.into(), how);
    }

    /// Logs that clients are refused, now or when it is time for that.
    pub(super) fn tell_refusal(&mut self, service: &Arc<Service>, last: ClientSource, reason: End) {
        match service.refused(self.shared.clock.now()) {
            Some(clients) => {
                service.log.tell(&Event::ClientsRefused { clients, last, reason });
            }
            None => self.untold.add(service, last, reason, self.now),
        }
    }

    /// Logs how many were refused since the last time, if no further refused client has caused that.
    pub(super) fn tell_refusals(&mut self) {
        while let Some(UntoldRefusals { service, last, reason }) = self.untold.take(self.now) {
            match service.refused_before(self.shared.clock.now()) {
                Ok(0) => {}
                Ok(clients) => {
                    service.log.tell(&Event::ClientsRefused { clients, last, reason });
                }
                Err(()) => self.untold.add(&service, last, reason, self.now),
            }
        }
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
        // Handing a client over costs a wake-up, and among many connections one more does not matter. But new
        // connections may be the only busy ones among many idle ones, so one worker never keeps more than a
        // few more than the others.
        (mine > load + 1 + (mine / 8).min(UNEVEN)).then_some(least)
    }

    /// Out of descriptors: logs it once and waits for one.
    fn starve(&mut self, door: usize) {
        if !self.shared.starved.swap(true, Ordering::Relaxed) {
            let limit = self.shared.options.descriptor_limit;
            self.shared.log.tell(&Event::OutOfDescriptors { limit });
        }
        self.pipes.clear();
        self.pause(door);
    }

    /// The limit on clients is reached: further ones wait in the listen queue.
    fn crowd(&mut self, door: usize) {
        if let Some(Door { service, .. }) = self.doors.get(door)
            && let Some(limit) = service.options().max_connections
            && !service.crowded.swap(true, Ordering::Relaxed)
        {
            service.log.tell(&Event::MaxConnections { limit: limit.get() });
        }
        self.pause(door);
    }

    /// No channel of a service is up: accepts the clients that already wait, then no more.
    pub(super) fn refuse(&mut self, service: ServiceId) {
        for door in self.doors.of(service) {
            self.accept(door, CLIENTS_AT_STOP);
            self.doors.refuse(door, &mut self.poller);
        }
    }

    /// A channel is up again.
    pub(super) fn welcome(&mut self, service: ServiceId) {
        for door in self.doors.of(service) {
            self.resume(door);
        }
    }

    fn pause(&mut self, door: usize) {
        self.doors.starve(door, self.now + STARVED_MS, &mut self.poller);
    }

    pub(super) fn resume(&mut self, door: usize) {
        if self.doors.resume(door, self.now + STARVED_MS, &mut self.poller) {
            self.doors.knock_at(door);
        }
    }

    /// Lets doors that have starved long enough try again.
    pub(super) fn resume_starved(&mut self) {
        // Descriptors and places are shared by all these doors.
        let mut places = Vec::new();
        for _ in 0..self.doors.starved() {
            if self.doors.starved_until().is_none_or(|until| until > self.now) {
                return;
            }
            let Some(door) = self.doors.starves_on(self.now + STARVED_MS) else { return };
            let Some(Door { service, .. }) = self.doors.get(door) else { continue };
            // Watching the listener without a descriptor or place would be a busy loop.
            if service.has_room()
                && let Some(place) = self.shared.budget.take(2)
            {
                places.push(place);
                self.resume(door);
            }
        }
    }

    /// A client has left: one door may accept another.
    pub(super) fn resume_one(&mut self) {
        let mut starved = self.doors.all_starved().take(DOORS_LOOKED_AT);
        let has_room = |door: usize| self.doors.get(door).is_some_and(|door| door.service.has_room());
        let found = starved.find(|&door| has_room(door));
        drop(starved);
        if let Some(door) = found
            && self.shared.budget.take(2).is_some()
        {
            self.resume(door);
        }
    }

    /// Logs that descriptors are back, once there are plenty. At the very limit, every client that leaves
    /// makes room for only one.
    pub(super) fn tell_recovery(&self, service: &Service) {
        if service.crowded.load(Ordering::Relaxed) && service.has_emptied() {
            service.crowded.store(false, Ordering::Relaxed);
        }
        if self.shared.starved.load(Ordering::Relaxed)
            && self.shared.budget.has_recovered()
            && self.shared.starved.swap(false, Ordering::Relaxed)
        {
            self.shared.log.tell(&Event::DescriptorsBack);
        }
    }
}
