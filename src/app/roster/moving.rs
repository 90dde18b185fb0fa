//! A service that listens on other ports from now on: those that stay are not touched.
//!
//! Knows: which ports come and go, in which order. Never: lines, tables.
//! Source: docs/port-ranges.md.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use super::{Members, ReloadNews, Reread, Roster, RosterEntry, Served, count_of};
use crate::app::lookup::Resolved;
use crate::app::plan::Pairing;
use crate::app::{Failure, prepared};
use crate::spec::{ListenSpan, ServiceSpec};
use crate::sys::descriptors::Taken;
use crate::sys::listen::Listener;

/// What becomes of the listeners of a service.
pub(super) struct Widening {
    /// Where its line has it listen.
    span: ListenSpan,
    new: Vec<Listener>,
    /// The descriptors of these.
    taken: Option<Taken>,
    /// What somebody else of this process has to leave first.
    pub(super) late: Vec<SocketAddr>,
}

impl Members {
    /// Ports that one of them leaves: whoever comes there has to wait for that.
    pub(super) fn ports_that_go(&self, wanted: &[Option<Reread>], pairing: &Pairing) -> BTreeSet<u16> {
        let span = |number: usize| self.all[number].served.parts.span;
        let removed = pairing.removed.iter().flat_map(|&number| span(number).ports());
        let left = pairing.kept.iter().flat_map(|&(was, number)| {
            let stay = wanted[number].as_ref().map(|one| one.found.span().ports());
            span(was).ports().filter(move |port| stay.as_ref().is_some_and(|stay| !stay.contains(port)))
        });
        removed.chain(left).collect()
    }
}

impl Roster {
    /// Binds what a service does not listen on yet: all of it or nothing, but for what somebody else has to leave first.
    ///
    /// # Errors
    /// A port cannot be had, or no descriptor for it.
    pub(super) fn widen(
        &self,
        member: &RosterEntry,
        spec: &ServiceSpec,
        found: &Resolved,
        in_the_way: &BTreeSet<u16>,
        patience: &mut Duration,
    ) -> Result<Widening, Failure> {
        let span = found.span();
        let missing = missing(&member.served, span);
        let (late, now): (Vec<_>, Vec<_>) =
            missing.into_iter().partition(|at| in_the_way.contains(&at.port()));
        let taken = match now.len() {
            0 => None,
            count => Some(self.take_descriptors(spec, count)?),
        };
        let mut bind = |at: SocketAddr| match self.take_bound(at) {
            Some(listener) => Ok(listener),
            None => prepared::bind(at, spec, patience),
        };
        let new = now.into_iter().map(&mut bind).collect::<Result<_, _>>();
        let new = new.map_err(|error| Failure::at(&spec.listen.typed, error.into()))?;
        Ok(Widening { span, new, taken, late })
    }

    /// Opens the new ones, and closes those that the line does not have any more.
    pub(super) fn move_listeners(
        &self,
        member: &mut RosterEntry,
        Widening { span, new, taken, .. }: Widening,
        changes: &mut ReloadNews,
    ) {
        member.served.parts.span = span;
        let ports = |listeners: &[SocketAddr]| {
            let spans = ListenSpan::of(listeners.iter().copied());
            spans.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
        };
        let before = member.label();
        let new_at: Vec<SocketAddr> = new.iter().map(Listener::address).collect();
        if !new.is_empty() {
            match member.listen_too(new, taken) {
                Ok(()) => changes.made.push(format!("{before}: listens on {}, too", ports(&new_at))),
                Err(e) => {
                    changes.missed.push(format!("{before}: does not listen on {}: {e}", ports(&new_at)))
                }
            }
        }
        let at = member.served.listeners.iter().map(|one| one.address());
        let gone: Vec<SocketAddr> = at.filter(|at| !span.ports().contains(&at.port())).collect();
        if !gone.is_empty() {
            member.leave(&gone);
            changes.made.push(format!("{before}: listens on {} no more", ports(&gone)));
        }
        member.service.set_listen(member.served.listen());
    }

    /// Listens on what somebody else has left by now. What cannot be had is told: something has changed already.
    pub(super) fn listen_late(
        &self,
        member: &mut RosterEntry,
        late: &[SocketAddr],
        patience: &mut Duration,
        changes: &mut ReloadNews,
    ) {
        let spec = member.written_options();
        let mut listeners = Vec::new();
        for &at in late {
            let bound = match self.take_bound(at) {
                Some(listener) => Ok(listener),
                None => prepared::bind(at, &spec, patience),
            };
            match bound {
                Ok(listener) => listeners.push(listener),
                Err(e) => changes.missed.push(format!("{}: does not listen on {at}: {e}", member.label())),
            }
        }
        if listeners.is_empty() {
            return;
        }
        let label = member.label();
        let spans = ListenSpan::of(listeners.iter().map(Listener::address));
        let spans = spans.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let opened = match self.take_descriptors(&spec, listeners.len()) {
            Ok(taken) => member.listen_too(listeners, Some(taken)).map_err(|e| e.to_string()),
            Err(failure) => Err(failure.message),
        };
        match opened {
            Ok(()) => changes.made.push(format!("{label}: listens on {spans}, too")),
            Err(why) => changes.missed.push(format!("{label}: does not listen on {spans}: {why}")),
        }
        member.service.set_listen(member.served.listen());
    }
}

/// The addresses of a span on which a service has no listener.
fn missing(served: &Served, span: ListenSpan) -> Vec<SocketAddr> {
    let there: BTreeSet<u16> = served.listeners.iter().map(|one| one.address().port()).collect();
    span.each().filter(|at| !there.contains(&at.port())).collect()
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

    fn leave(&mut self, gone: &[SocketAddr]) {
        let ports: Vec<u16> = gone.iter().map(SocketAddr::port).collect();
        let leaves: BTreeSet<u16> = ports.iter().copied().collect();
        self.served.listeners.retain(|one| !leaves.contains(&one.address().port()));
        let left = self.served.listeners.iter().map(|one| one.address()).collect();
        self.served.running.stop_listening_on(&ports, left);
        if let Some(descriptors) = &mut self.descriptors {
            descriptors.give_back(count_of(gone.len()));
        }
    }
}
