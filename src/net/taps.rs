//! A worker's sessions whose bytes somebody wants to see.
//!
//! Knows: which of its connections are tapped, who is told of their bytes. Never: sockets, who looks, how it is shown.
//!
//! A tapped connection is copied and not spliced, since spliced bytes are never seen: `Sockets` gives its relay no pipes. What is in a pipe when
//! a tap begins was read before, and goes out as ever. Nothing else about the relay changes, and a worker without taps looks at one length for it.

use crate::observe::{TapEnd, TapSource};

/// A worker's tapped connections: few.
#[derive(Debug, Default)]
pub(super) struct Taps(Vec<Tapped>);

#[derive(Debug)]
struct Tapped {
    key: usize,
    /// A key is given out again.
    id: u64,
    sources: Vec<TapSource>,
}

impl Taps {
    /// Those who are to see this connection's bytes; `None`: nobody.
    pub(super) fn of(&mut self, key: usize, id: u64) -> Option<&mut [TapSource]> {
        if self.0.is_empty() {
            return None;
        }
        let at = self.0.iter().position(|tapped| tapped.key == key && tapped.id == id)?;
        self.0[at].sources.retain(|source| !source.is_over());
        if self.0[at].sources.is_empty() {
            self.0.swap_remove(at);
            return None;
        }
        Some(&mut self.0[at].sources)
    }

    /// One more is to see them.
    pub(super) fn add(&mut self, key: usize, id: u64, source: TapSource) {
        // Of sessions that are quiet, nobody else notices that.
        self.0.retain_mut(|tapped| {
            tapped.sources.retain(|source| !source.is_over());
            !tapped.sources.is_empty()
        });
        match self.0.iter_mut().find(|tapped| tapped.key == key && tapped.id == id) {
            Some(tapped) => tapped.sources.push(source),
            None => self.0.push(Tapped { key, id, sources: vec![source] }),
        }
    }

    /// The connection is not this worker's any more.
    pub(super) fn end(&mut self, key: usize, why: TapEnd) {
        if let Some(at) = self.0.iter().position(|tapped| tapped.key == key) {
            self.0.swap_remove(at).sources.into_iter().for_each(|source| source.end(why));
        }
    }
}
