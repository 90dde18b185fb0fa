//! A worker's sessions whose bytes somebody wants to see.
//!
//! Knows: which of its connections are tapped, who gets their bytes. Never: sockets, who reads, how it is
//! shown.
//!
//! A tapped connection is copied and not spliced, since spliced bytes cannot be shown: `Sockets` gives its
//! relay no pipes. Bytes that are in a pipe when a tap begins were read before, and go out as usual. Nothing
//! else about the relay changes. For a worker without taps, all this costs one comparison.

use crate::observe::{TapEnd, TapSource};

/// A worker's tapped connections; there are few.
#[derive(Debug, Default)]
pub(super) struct Taps(Vec<Tapped>);

#[derive(Debug)]
struct Tapped {
    key: usize,
    /// Needed because keys are reused.
    id: u64,
    sources: Vec<TapSource>,
}

impl Taps {
    /// The taps of this connection. `None` if there are none.
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

    /// Adds a tap of this connection.
    pub(super) fn add(&mut self, key: usize, id: u64, source: TapSource) {
        // For quiet sessions, nothing else removes taps whose reader is gone.
        self.0.retain_mut(|tapped| {
            tapped.sources.retain(|source| !source.is_over());
            !tapped.sources.is_empty()
        });
        match self.0.iter_mut().find(|tapped| tapped.key == key && tapped.id == id) {
            Some(tapped) => tapped.sources.push(source),
            None => self.0.push(Tapped { key, id, sources: vec![source] }),
        }
    }

    /// Ends the taps of a connection that the worker no longer has.
    pub(super) fn end(&mut self, key: usize, why: TapEnd) {
        if let Some(at) = self.0.iter().position(|tapped| tapped.key == key) {
            self.0.swap_remove(at).sources.into_iter().for_each(|source| source.end(why));
        }
    }
}
