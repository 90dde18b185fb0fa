//! Listeners that make room for others of the same reload: laid down before these are bound, and taken up again if they cannot be.
//!
//! Knows: whose listeners go, which of them are in the way, how they come back. Never: lines, tables, what else a reload does.
//! Source: docs/reload.md, "When something is wrong".

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};

use super::super::plan::Pairing;
use super::{Members, Reread};
use crate::net::server::Running;
use crate::spec::Address;
use crate::sys::listen::ListenerHandle;

/// Addresses with ports, found by the ones that nobody else can have beside them.
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
    /// Can nobody listen here as long as somebody listens there?
    pub(super) fn meet(&self, at: impl Into<Address>) -> bool {
        // The file of a Unix socket is taken over by whoever has its line, and nobody else wants it.
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

    /// Why nobody else of this process can have its place, if so: it is not ours alone to leave.
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
    /// What they do not listen on any more once the reload is done.
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

/// Listeners that are laid down. Dropped, it takes up those that are there still.
#[derive(Default)]
pub(super) struct Clearing(Vec<Laid>);

/// One that cannot be taken up again, and why.
pub(super) type Lost = (SocketAddr, io::Error);

impl Clearing {
    /// Lays these down, once whoever waits there was let in.
    pub(super) fn of(all: Vec<Leaving>) -> Self {
        by_service(&all).into_iter().for_each(|(running, ports)| running.set_aside(&ports));
        let mut clearing = Self::default();
        for leaving in all {
            // What cannot be laid down is in the way still, and the one who is to come says so.
            let listened = leaving.listener.lay_down().unwrap_or(true);
            clearing.0.push(Laid { leaving, listened });
        }
        clearing
    }

    /// Takes them up again. Those that cannot be.
    pub(super) fn take_up(mut self) -> Vec<Lost> {
        self.take_up_all()
    }

    /// The others have come: these can go.
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
        // Those of one service stand together.
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
