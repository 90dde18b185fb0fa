//! Changes the ports of a service. Ports that stay are not touched.
//!
//! Knows: which ports come and go, in which order. Never: lines, tables.
//! Source: docs/port-ranges.md.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::PoisonError;
use std::time::Duration;

use super::clearing::{Lost, TakenPlaces};
use super::{Members, ReloadNews, Roster, RosterEntry, Served, count_of};
use crate::app::lookup::Resolved;
use crate::app::{Failure, prepared};
use crate::process;
use crate::spec::{Address, ListenSpan, ServiceSpec};
use crate::sys::descriptors::Taken;
use crate::sys::listen::{Listener, ListenerHandle};

/// The changes of a service's listeners.
pub(super) struct Widening {
    /// The addresses where its line wants it to listen.
    span: ListenSpan,
    new: Vec<Listener>,
    /// The descriptors of the new listeners.
    taken: Option<Taken>,
    /// Addresses that another service of this process has to give up first.
    pub(super) late: Vec<Address>,
}

impl Roster {
    /// Binds the addresses that a service does not listen on yet, all or none, except those that another
    /// service has to give up first.
    ///
    /// # Errors
    /// A port cannot be bound, or there is no descriptor for it.
    pub(super) fn widen(
        &self,
        member: &RosterEntry,
        spec: &ServiceSpec,
        found: &Resolved,
        in_the_way: &TakenPlaces,
        patience: &mut Duration,
    ) -> Result<Widening, Failure> {
        let span = found.span();
        let missing = unreachable(&member.served, span);
        let (late, now): (Vec<_>, Vec<_>) = missing.into_iter().partition(|&at| in_the_way.meet(at));
        let taken = match now.len() {
            0 => None,
            count => Some(self.take_descriptors(spec, count)?),
        };
        let mut bind = |at: Address| match self.take_bound(at) {
            Some(listener) => Ok(listener),
            None => prepared::bind(at, spec, patience),
        };
        let new = now.into_iter().map(&mut bind).collect::<Result<_, _>>();
        let new = new.map_err(|error| Failure::at(&spec.listen.typed, error.into()))?;
        Ok(Widening { span, new, taken, late })
    }

    /// Opens the new listeners, and closes those that the line does not have any more.
    pub(super) fn move_listeners(
        &self,
        member: &mut RosterEntry,
        Widening { span, new, taken, .. }: Widening,
        changes: &mut ReloadNews,
    ) {
        member.served.parts.span = span;
        let before = member.label();
        let new_at: Vec<Address> = new.iter().map(Listener::address).collect();
        if !new.is_empty() {
            // A socket that is made anew: whoever waits at the one that nobody finds any more is let in before that goes.
            let replaced: Vec<Address> =
                member.served.listeners.iter().filter(|one| is_lost(one)).map(|one| one.address()).collect();
            if !replaced.is_empty() {
                member.leave(&replaced);
            }
            let how = if member.served.listeners.is_empty() { " again" } else { ", too" };
            match member.listen_too(new, taken) {
                Ok(()) => changes.made.push(format!("{before}: listens on {}{how}", words(&new_at))),
                Err(e) => {
                    changes.missed.push(format!("{before}: does not listen on {}: {e}", words(&new_at)))
                }
            }
        }
        let at = member.served.listeners.iter().map(|one| one.address());
        let gone: Vec<Address> = at.filter(|at| !span.has_port_of(*at)).collect();
        if !gone.is_empty() {
            let held = member.still_held(|at| gone.contains(&at));
            member.leave(&gone);
            changes.made.push(format!("{before}: listens on {} no more{held}", words(&gone)));
        }
        member.tell_listen();
    }

    /// Binds the addresses that another service has just given up, all or none.
    ///
    /// # Errors
    /// A port cannot be bound, or there is no descriptor for it.
    pub(super) fn bind_late(
        &self,
        spec: &ServiceSpec,
        widening: &mut Widening,
        patience: &mut Duration,
    ) -> Result<(), Failure> {
        let late = std::mem::take(&mut widening.late);
        if late.is_empty() {
            return Ok(());
        }
        let taken = self.take_descriptors(spec, late.len())?;
        let bind = |at: Address| match self.take_bound(at) {
            Some(listener) => Ok(listener),
            None => prepared::bind(at, spec, patience),
        };
        let bound = late.into_iter().map(bind).collect::<Result<Vec<_>, _>>();
        widening.new.extend(bound.map_err(|error| Failure::at(&spec.listen.typed, error.into()))?);
        match &mut widening.taken {
            Some(mine) => mine.add(taken),
            mine @ None => *mine = Some(taken),
        }
        Ok(())
    }

    /// Handles listeners that were to make room and could not be opened again. Their services go on without
    /// them, and the next reload opens them.
    pub(super) fn lose(&self, members: &mut Members, lost: &[Lost], changes: &mut ReloadNews) {
        for member in &mut members.all {
            let is_mine = |at: &SocketAddr| member.served.listeners.iter().any(|one| one.address() == *at);
            let mine: Vec<&Lost> = lost.iter().filter(|(at, _)| is_mine(at)).collect();
            let Some((_, why)) = mine.first() else { continue };
            let gone: Vec<Address> = mine.iter().map(|(at, _)| (*at).into()).collect();
            let (label, at) = (member.label(), words(&gone));
            member.leave(&gone);
            member.tell_listen();
            changes.missed.push(format!(
                "{label}: listens on {at} no more: {why}; find what has the port (ss -ltnp), free it and reload"
            ));
        }
    }
}

/// Addresses as a log line shows them.
fn words(listeners: &[Address]) -> String {
    let spans = ListenSpan::of(listeners.iter().copied());
    spans.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// The addresses of a span on which a service has no listener.
fn missing(served: &Served, span: ListenSpan) -> Vec<Address> {
    let there: BTreeSet<u16> = served.listeners.iter().map(|one| one.address().port()).collect();
    span.each().filter(|at| !there.contains(&at.port())).collect()
}

/// The same, and those of a Unix socket of ours that clients do not find any more.
fn unreachable(served: &Served, span: ListenSpan) -> Vec<Address> {
    let lost = served.listeners.iter().filter(|one| is_lost(one)).map(ListenerHandle::address);
    lost.filter(|at| span.contains(*at)).chain(missing(served, span)).collect()
}

/// Whether its Unix socket has the permissions that its line asks for. `true` too if that cannot be known, or
/// if somebody else made the socket.
pub(super) fn has_access(served: &Served, spec: &ServiceSpec) -> bool {
    let Some(socket) = served.listeners.iter().find(|one| one.address().unix().is_some()) else {
        return true;
    };
    if spec.socket_mode.is_none() && spec.socket_group.is_none() || socket.has_foreign_file() {
        return true;
    }
    let wanted = prepared::access(spec).ok();
    wanted.zip(socket.access()).is_none_or(|(wanted, now)| wanted.holds(now))
}

/// Is it a Unix socket that clients do not find, and that we can make anew?
pub(super) fn is_lost(listener: &ListenerHandle) -> bool {
    listener.lost().is_some_and(|lost| !lost.is_passed)
}

impl RosterEntry {
    fn listen_too(&mut self, new: Vec<Listener>, taken: Option<Taken>) -> std::io::Result<()> {
        let handles = new.iter().map(Listener::handle).collect::<Vec<_>>();
        let mut all = self.served.listeners.clone();
        all.extend(handles);
        all.sort_by_key(|one| one.address().port());
        self.served.running.listen_too(new, all.iter().map(|one| one.address()).collect())?;
        self.served.listeners = all;
        match (&mut self.descriptors, taken) {
            (Some(mine), Some(more)) => mine.add(more),
            (mine @ None, more) => *mine = more,
            (Some(_), None) => {}
        }
        Ok(())
    }

    /// Updates for operators where it listens, and where it should.
    fn tell_listen(&self) {
        let missing = ListenSpan::of(missing(&self.served, self.served.parts.span));
        self.service.set_listen(self.served.listen(), self.served.parts.span, &missing);
        *self.service.socket.write().unwrap_or_else(PoisonError::into_inner) = self.served.unix_socket();
    }

    /// The ports whose listeners the service manager has, too.
    pub(super) fn passed_ports(&self) -> Vec<u16> {
        let passed = self.served.listeners.iter().filter(|one| one.is_passed());
        passed.map(|one| one.address().port()).collect()
    }

    /// A note for the log about closed listeners that the service manager still has: clients can still
    /// connect there, but nobody accepts them.
    pub(super) fn still_held(&self, goes: impl Fn(Address) -> bool) -> String {
        let passed = self.served.listeners.iter().filter(|one| one.is_passed()).map(|one| one.address());
        let passed: Vec<Address> = passed.filter(|at| goes(*at)).collect();
        match passed.is_empty() {
            true => String::new(),
            false => format!(
                "; systemd still listens on {}, and clients get no answer there: stop its .socket unit",
                words(&passed)
            ),
        }
    }

    fn leave(&mut self, gone: &[Address]) {
        let ports: Vec<u16> = gone.iter().map(|at| at.port()).collect();
        let leaves: BTreeSet<u16> = ports.iter().copied().collect();
        gone.iter().for_each(|at| process::forget_listener(&at.to_string()));
        self.served.listeners.retain(|one| !leaves.contains(&one.address().port()));
        let left = self.served.listeners.iter().map(|one| one.address()).collect();
        self.served.running.stop_listening_on(&ports, left);
        if let Some(descriptors) = &mut self.descriptors {
            descriptors.give_back(count_of(gone.len()));
        }
    }
}
