//! Listeners that make room for others in the same reload: they are closed before the new ones are bound, and
//! opened again if that fails.
//!
//! Knows: whose listeners go, which of them are in the way, how they come back. Never: lines, tables, what
//! else a reload does.
//! Source: docs/reload.md, "When something is wrong".

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};

use super::super::plan::Pairing;
use super::{Members, Reread};
use crate::net::server::Running;
use crate::spec::Address;
use crate::sys::listen::ListenerHandle;

/// A set of addresses with ports. It finds whether another address conflicts with one of them.
#[derive(Default)]
pub(super) struct TakenPlaces(BTreeMap<u16, Vec<IpAddr>>);

impl FromIterator<SocketAddr> for TakenPlaces {
    fn from_iter<T: IntoIterator<Item = SocketAddr>>(all: T) -> Self {
        let mut places = Self::default();
        all.into_iter().for_each(|at| places.0.entry(at.port()).or_default().push(at.ip().to_canonical()));
        places
    }
}

impl TakenPlaces {
    /// Does this address conflict with one of the set, so that both cannot be listened on?
    pub(super) fn meet(&self, at: impl Into<Address>) -> bool {
        // A Unix socket never conflicts: the service whose line has it takes over its file.
        let Some(at) = at.into().net() else { return false };
        let ip = at.ip().to_canonical();
        let same = |other: &IpAddr| *other == ip || other.is_unspecified() || ip.is_unspecified();
        self.0.get(&at.port()).is_some_and(|all| all.iter().any(same))
    }
}

/// A listener that goes in this reload.
pub(super) struct Leaving {
    at: SocketAddr,
    running: Running,
    listener: ListenerHandle,
}

impl Leaving {
    pub(super) fn at(&self) -> SocketAddr {
        self.at
    }

    /// Why no other service can have its address: systemd has the listener, too. `None`: it can.
    pub(super) fn held(&self, places: impl IntoIterator<Item = Address>) -> Option<String> {
        let own: TakenPlaces = [self.at].into_iter().collect();
        let is_held = self.listener.is_passed() && places.into_iter().any(|at| own.meet(at));
        is_held.then(|| {
            format!(
                "systemd has this port: LISTEN_FDS passed {}; change its .socket unit, and restart balance",
                self.at
            )
        })
    }
}

impl Members {
    /// The listeners that will not be needed after the reload.
    pub(super) fn listeners_that_go(&self, wanted: &[Option<Reread>], pairing: &Pairing) -> Vec<Leaving> {
        let leaving = |number: usize, listener: &ListenerHandle| {
            let running = self.all[number].served.running.clone();
            Some(Leaving { at: listener.address().net()?, running, listener: listener.clone() })
        };
        let listeners = |number: usize| &self.all[number].served.listeners;
        let removed = pairing.removed.iter();
        let removed = removed.flat_map(|&was| listeners(was).iter().filter_map(move |one| leaving(was, one)));
        let left = pairing.kept.iter().flat_map(|&(was, number)| {
            let stay = wanted[number].as_ref().map(|one| one.found.span().ports());
            let goes = move |port: u16| stay.as_ref().is_some_and(|stay| !stay.contains(&port));
            let all = listeners(was).iter().filter(move |one| goes(one.address().port()));
            all.filter_map(move |one| leaving(was, one))
        });
        removed.chain(left).collect()
    }
}

struct Laid {
    leaving: Leaving,
    listened: bool,
}

/// Listeners that are closed for the moment. Dropping this opens them again.
#[derive(Default)]
pub(super) struct Clearing(Vec<Laid>);

/// A listener that could not be opened again, and why.
pub(super) type Lost = (SocketAddr, io::Error);

impl Clearing {
    /// Closes these listeners, after accepting the clients that wait there.
    pub(super) fn of(all: Vec<Leaving>) -> Self {
        by_service(&all).into_iter().for_each(|(running, ports)| running.set_aside(&ports));
        let mut clearing = Self::default();
        for leaving in all {
            // If it cannot be closed, binding the new listener fails and reports that.
            let listened = leaving.listener.lay_down().unwrap_or(true);
            clearing.0.push(Laid { leaving, listened });
        }
        clearing
    }

    /// Opens the listeners again. Returns those where that failed.
    pub(super) fn take_up(mut self) -> Vec<Lost> {
        self.take_up_all()
    }

    /// The new listeners are bound, so these stay closed.
    pub(super) fn forget(mut self) {
        self.0.clear();
    }

    fn take_up_all(&mut self) -> Vec<Lost> {
        let (mut lost, mut back) = (Vec::new(), Vec::new());
        for Laid { leaving, listened } in self.0.drain(..) {
            match leaving.listener.take_up(listened) {
                Ok(()) if listened => back.push(leaving),
                Ok(()) => {}
                Err(e) => lost.push((leaving.at(), e)),
            }
        }
        by_service(&back).into_iter().for_each(|(running, ports)| running.welcome_on(&ports));
        lost
    }
}

impl Drop for Clearing {
    fn drop(&mut self) {
        self.take_up_all();
    }
}

fn by_service(all: &[Leaving]) -> Vec<(&Running, Vec<u16>)> {
    let mut found: Vec<(&Running, Vec<u16>)> = Vec::new();
    for one in all {
        let port = one.at().port();
        // Listeners of one service are next to each other.
        match found.last_mut() {
            Some((running, ports)) if running.id() == one.running.id() => ports.push(port),
            _ => found.push((&one.running, vec![port])),
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_addresses_are_in_the_way_of_each_and_others_are_not() {
        let at = |text: &str| text.parse::<SocketAddr>().expect("an address");
        let one: TakenPlaces = [at("127.0.0.1:80")].into_iter().collect();
        let all: TakenPlaces = [at("[::]:80")].into_iter().collect();
        let table = [
            ("127.0.0.1:80", true, true),
            ("127.0.0.2:80", false, true),
            ("0.0.0.0:80", true, true),
            ("[::]:80", true, true),
            ("[::ffff:127.0.0.1]:80", true, true),
            ("[::1]:80", false, true),
            ("127.0.0.1:81", false, false),
        ];
        for (place, of_one, of_all) in table {
            assert_eq!((one.meet(at(place)), all.meet(at(place))), (of_one, of_all), "{place}");
        }
    }
}
