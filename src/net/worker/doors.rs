//! A worker's doors: the listeners of all services, and which of them accept clients now.
//!
//! Knows: watches of listeners, which door waits for what. Never: clients, free descriptors, other workers.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;

use slab::Slab;

use crate::net::service::{Service, ServiceId};
use crate::sys::listen::Listener;
use crate::sys::poller::{Kind, Readiness, Token};
use crate::wire::relay::Side;

/// Whether a door accepts clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Accepting {
    /// It accepts all clients.
    On,
    /// It waits for descriptors or places.
    Starved,
    /// No channel is up, and it refuses clients.
    Refusing,
    /// It accepts none: the waiting clients belong to another process.
    Held,
    /// It accepts none: its port is being given to another listener, or was to be.
    Aside,
}

/// One listener of one service.
#[derive(Debug)]
pub(super) struct Door {
    pub(super) service: Arc<Service>,
    pub(super) listener: Listener,
    pub(super) accepting: Accepting,
    /// It is among the doors where clients may wait.
    knocked: bool,
    generation: u16,
}

impl Door {
    fn token(&self, key: usize) -> Token {
        Token { kind: Kind::Listener, key: key as u32, side: Side::Client, generation: self.generation }
    }
}

/// All doors of a worker.
#[derive(Debug, Default)]
pub(super) struct Doors {
    doors: Slab<Door>,
    /// The doors of each service.
    of: BTreeMap<ServiceId, Vec<usize>>,
    /// The doors where clients may wait.
    knocked: VecDeque<usize>,
    /// The doors without descriptors or places, and until when each waits, in ms; the earliest first.
    starved: VecDeque<(u64, usize)>,
    generations: u16,
    /// No door accepts clients.
    is_held: bool,
}

impl Doors {
    pub(super) fn len(&self) -> usize {
        self.doors.len()
    }

    pub(super) fn get(&self, door: usize) -> Option<&Door> {
        self.doors.get(door)
    }

    /// Adds a door.
    pub(super) fn add(
        &mut self,
        service: Arc<Service>,
        listener: Listener,
        poller: &mut impl Readiness,
    ) -> io::Result<()> {
        self.generations = self.generations.wrapping_add(1);
        let generation = self.generations;
        let mut others =
            self.of.get(&service.id).into_iter().flatten().filter_map(|&key| self.doors.get(key));
        let is_shut = others.any(|door| door.accepting == Accepting::Refusing);
        let entry = self.doors.vacant_entry();
        let accepting = match (self.is_held, is_shut) {
            (true, _) => Accepting::Held,
            (false, true) => Accepting::Refusing,
            (false, false) => Accepting::On,
        };
        let door = Door { service, listener, accepting, knocked: false, generation };
        match accepting {
            Accepting::On => poller.add_listener(&door.listener, door.token(entry.key()))?,
            // Like the other doors of its service. One worker does it; for the others the listener has
            // already stopped.
            Accepting::Refusing => _ = door.listener.refuse(),
            Accepting::Starved | Accepting::Held | Accepting::Aside => {}
        }
        self.of.entry(door.service.id).or_default().push(entry.key());
        entry.insert(door);
        Ok(())
    }

    /// All services that have a door.
    pub(super) fn services(&self) -> Vec<ServiceId> {
        self.of.keys().copied().collect()
    }

    /// The doors of a service.
    pub(super) fn of(&self, service: ServiceId) -> Vec<usize> {
        self.of.get(&service).cloned().unwrap_or_default()
    }

    /// Removes a door for good; the listener is closed when the last worker has removed it.
    pub(super) fn remove(&mut self, key: usize, poller: &mut impl Readiness) {
        if let Some(door) = self.doors.try_remove(key) {
            if let Some(all) = self.of.get_mut(&door.service.id) {
                all.retain(|&other| other != key);
                if all.is_empty() {
                    self.of.remove(&door.service.id);
                }
            }
            if door.knocked {
                self.knocked.retain(|&knocked| knocked != key);
            }
            if door.accepting == Accepting::Starved {
                self.leave_starved(key);
            }
            poller.remove(&door.listener);
        }
    }

    /// Removes all doors.
    pub(super) fn clear(&mut self, poller: &mut impl Readiness) {
        self.knocked.clear();
        self.starved.clear();
        self.of.clear();
        for door in self.doors.drain() {
            poller.remove(&door.listener);
        }
    }

    /// The poller reports that a client waits at a door.
    pub(super) fn knock(&mut self, token: Token) {
        let key = token.key as usize;
        if self.doors.get(key).is_some_and(|door| door.token(key) == token) {
            self.knock_at(key);
        }
    }

    /// A client may wait at a door.
    pub(super) fn knock_at(&mut self, key: usize) {
        if let Some(door) = self.doors.get_mut(key)
            && !door.knocked
        {
            door.knocked = true;
            self.knocked.push_back(key);
        }
    }

    /// The number of doors where a client may wait.
    pub(super) fn knocked(&self) -> usize {
        self.knocked.len()
    }

    /// Takes one of these doors.
    pub(super) fn next_knock(&mut self) -> Option<usize> {
        let key = self.knocked.pop_front()?;
        if let Some(door) = self.doors.get_mut(key) {
            door.knocked = false;
        }
        Some(key)
    }

    /// Accepts no clients at this door until `until`, or until there is room again.
    pub(super) fn starve(&mut self, key: usize, until: u64, poller: &mut impl Readiness) {
        if let Some(door) = self.doors.get_mut(key)
            && door.accepting == Accepting::On
        {
            door.accepting = Accepting::Starved;
            self.starved.push_back((until, key));
            poller.remove(&door.listener);
        }
    }

    /// When the first starved door is to be checked. `None` if there is none.
    pub(super) fn starved_until(&self) -> Option<u64> {
        self.starved.front().map(|&(until, _)| until)
    }

    /// The number of starved doors.
    pub(super) fn starved(&self) -> usize {
        self.starved.len()
    }

    /// All starved doors, the one whose time comes first at the front.
    pub(super) fn all_starved(&self) -> impl Iterator<Item = usize> {
        self.starved.iter().map(|&(_, key)| key)
    }

    /// Lets the door whose time came first starve until `until`, unless it is resumed. Returns it.
    pub(super) fn starves_on(&mut self, until: u64) -> Option<usize> {
        let (_, key) = self.starved.pop_front()?;
        self.starved.push_back((until, key));
        Some(key)
    }

    /// Accepts clients again at a door that starves or refuses. `false`: it cannot be watched and starves
    /// until `until`.
    pub(super) fn resume(&mut self, key: usize, until: u64, poller: &mut impl Readiness) -> bool {
        let Some(door) = self.doors.get_mut(key) else { return true };
        let token = door.token(key);
        match door.accepting {
            Accepting::On | Accepting::Aside => return true,
            Accepting::Refusing | Accepting::Held if self.is_held => {
                door.accepting = Accepting::Held;
                return true;
            }
            Accepting::Starved => {}
            Accepting::Refusing | Accepting::Held => {
                door.accepting = Accepting::Starved;
                self.starved.push_back((until, key));
            }
        }
        // It is among the starved doors meanwhile, so it is checked again whatever goes wrong here.
        if poller.add_listener(&door.listener, token).is_err() {
            return false;
        }
        door.accepting = Accepting::On;
        self.leave_starved(key);
        true
    }

    fn leave_starved(&mut self, key: usize) {
        // Usually it was put there just now.
        if self.starved.back().is_some_and(|&(_, last)| last == key) {
            self.starved.pop_back();
        } else {
            self.starved.retain(|&(_, starved)| starved != key);
        }
    }

    /// Accepts no clients until [`Doors::resume`].
    pub(super) fn refuse(&mut self, key: usize, poller: &mut impl Readiness) {
        let Some(door) = self.doors.get_mut(key) else { return };
        match std::mem::replace(&mut door.accepting, Accepting::Refusing) {
            Accepting::On => poller.remove(&door.listener),
            Accepting::Starved => self.leave_starved(key),
            Accepting::Refusing | Accepting::Held | Accepting::Aside => {}
        }
    }

    /// Accepts no clients until [`Doors::set_back`]. A door that accepts none anyway stays as it is.
    pub(super) fn set_aside(&mut self, key: usize, poller: &mut impl Readiness) {
        let Some(door) = self.doors.get_mut(key) else { return };
        match door.accepting {
            Accepting::On => poller.remove(&door.listener),
            Accepting::Starved => {}
            Accepting::Refusing | Accepting::Held | Accepting::Aside => return,
        }
        let before = std::mem::replace(&mut door.accepting, Accepting::Aside);
        if before == Accepting::Starved {
            self.leave_starved(key);
        }
    }

    /// Allows a door that was set aside to be resumed.
    pub(super) fn set_back(&mut self, key: usize) {
        if let Some(door) = self.doors.get_mut(key)
            && door.accepting == Accepting::Aside
        {
            door.accepting = Accepting::Refusing;
        }
    }

    /// Accepts no client at any door, and leaves waiting clients to another process.
    pub(super) fn hold(&mut self, poller: &mut impl Readiness) {
        self.is_held = true;
        self.starved.clear();
        for (_, door) in &mut self.doors {
            match door.accepting {
                Accepting::On => poller.remove(&door.listener),
                Accepting::Starved => {}
                // It must not be opened when the others are.
                Accepting::Refusing | Accepting::Held | Accepting::Aside => continue,
            }
            door.accepting = Accepting::Held;
        }
    }

    /// Allows held doors to be resumed, and returns them.
    pub(super) fn release(&mut self) -> Vec<usize> {
        self.is_held = false;
        let held = self.doors.iter().filter(|(_, door)| door.accepting == Accepting::Held);
        held.map(|(key, _)| key).collect()
    }

    /// Calls `act` for all listeners of a service; returns the first error. `None`: it has no listeners any
    /// more.
    pub(super) fn move_all(
        &self,
        service: ServiceId,
        act: impl Fn(&Listener) -> io::Result<()>,
    ) -> Option<io::Result<()>> {
        let doors = self.of(service).into_iter().filter_map(|key| self.get(key));
        doors.map(|door| act(&door.listener)).reduce(|all, one| all.and(one))
    }
}
