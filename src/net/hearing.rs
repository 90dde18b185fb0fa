//! How many bytes that clients said first a service keeps, and how many of them each client has: of greetings that
//! are not finished, and of clients that wait for a channel.
//!
//! Knows: the limits, who has how much. Never: sockets, what the bytes mean.
//!
//! A small greeting has room whatever others do. So a client that fills the memory with big ones that never
//! end keeps out neither those who say little, as nearly everybody does, nor big greetings of others.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::sched::ClientSource;

/// This many bytes of a client may be read whatever is kept of others.
pub(super) const SMALL: usize = 4 * 1024;
/// What is kept of them at most while they are read: the bytes, and the message taken out of its records.
const UNCOUNTED: usize = 2 * SMALL;
/// Maximum number of counted bytes of all clients of a service; further bytes wait in the kernel. It is
/// enough for a thousand greetings of maximum length.
const MOST: usize = 64 * 1024 * 1024;
/// Maximum number of counted bytes of one client.
const MOST_OF_ONE: usize = MOST / 8;
/// That greetings have no room is logged once in this time.
const TOLD_MS: u64 = 60_000;

/// What a service keeps of what its clients said first.
#[derive(Debug, Default)]
pub(super) struct KeptGreetings {
    all: AtomicUsize,
    /// The clients of which bytes are counted. Small greetings are not here.
    of_one: Mutex<HashMap<IpAddr, usize>>,
    /// When it may be logged again that there is no room, in ms of the process's clock.
    due: AtomicU64,
}

impl KeptGreetings {
    fn of_one(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.of_one.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, client: IpAddr, bytes: usize) {
        if bytes > 0 {
            self.all.fetch_add(bytes, Ordering::Relaxed);
            *self.of_one().entry(client).or_default() += bytes;
        }
    }

    fn take(&self, client: IpAddr, bytes: usize) {
        if bytes > 0 {
            self.all.fetch_sub(bytes, Ordering::Relaxed);
            if let Entry::Occupied(mut entry) = self.of_one().entry(client) {
                *entry.get_mut() = entry.get().saturating_sub(bytes);
                if *entry.get() == 0 {
                    entry.remove();
                }
            }
        }
    }

    /// Why so many more bytes of a client have no room, in words for the log. `None`: they have room.
    fn lacks_room(&self, client: IpAddr, bytes: usize) -> Option<&'static str> {
        if self.all.load(Ordering::Relaxed) + bytes > MOST {
            return Some("64 MiB of first messages");
        }
        let of_one = self.of_one().get(&client).copied().unwrap_or_default();
        (of_one + bytes > MOST_OF_ONE).then_some("8 MiB of first messages of this client")
    }

    /// Is there room for so many bytes of a client of which none are counted?
    pub(super) fn has_room(&self, client: ClientSource, bytes: usize) -> bool {
        bytes <= SMALL || self.lacks_room(household(client), bytes - SMALL).is_none()
    }

    /// Is nothing counted?
    #[cfg(all(test, target_os = "linux", not(portable)))]
    pub(super) fn is_empty(&self) -> bool {
        self.all.load(Ordering::Relaxed) == 0 && self.of_one().is_empty()
    }

    /// Is it time to log that there is no room? `true` at most once in a while.
    pub(super) fn is_to_be_told(&self, now: Duration) -> bool {
        let now = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        let due = |at: u64| (at <= now).then(|| now.saturating_add(TOLD_MS));
        self.due.fetch_update(Ordering::Relaxed, Ordering::Relaxed, due).is_ok()
    }
}

/// The bytes kept of what one client said first, counted at its service until this is dropped.
#[derive(Debug)]
pub(super) struct Hearing {
    kept: Arc<KeptGreetings>,
    client: IpAddr,
    counted: usize,
    /// Bytes wait in the kernel, since there was no room for them.
    pub(super) is_starved: bool,
}

impl Hearing {
    pub(super) fn of(kept: &Arc<KeptGreetings>, client: ClientSource) -> Self {
        Self { kept: Arc::clone(kept), client: household(client), counted: 0, is_starved: false }
    }

    /// How many of `wanted` bytes may be read if so many have been received and not used up.
    ///
    /// # Errors
    /// There is no room for any now. The error says why, in words for the log.
    pub(super) fn may_read(&mut self, received: usize, wanted: usize) -> Result<usize, &'static str> {
        let left = SMALL.saturating_sub(received);
        let room = if left > 0 {
            Ok(wanted.min(left))
        } else {
            self.kept.lacks_room(self.client, wanted).map_or(Ok(wanted), Err)
        };
        self.is_starved = room.is_err();
        room
    }

    /// Sets how many bytes are kept now of a greeting that is being read.
    pub(super) fn keep(&mut self, bytes: usize) {
        self.count(bytes.saturating_sub(UNCOUNTED));
    }

    /// What is counted for a client of which so many bytes are held for its channel. `None`: they are few.
    pub(super) fn of_held(kept: &Arc<KeptGreetings>, client: ClientSource, bytes: usize) -> Option<Self> {
        let counted = bytes.checked_sub(SMALL).filter(|&counted| counted > 0)?;
        let mut held = Self::of(kept, client);
        held.count(counted);
        Some(held)
    }

    fn count(&mut self, counted: usize) {
        let before = std::mem::replace(&mut self.counted, counted);
        self.kept.add(self.client, counted.saturating_sub(before));
        self.kept.take(self.client, before.saturating_sub(counted));
    }

    /// From now on the bytes are those of this client: a proxy has announced it.
    pub(super) fn belongs_to(&mut self, client: ClientSource) {
        let client = household(client);
        self.kept.add(client, self.counted);
        self.kept.take(std::mem::replace(&mut self.client, client), self.counted);
    }
}

impl Drop for Hearing {
    fn drop(&mut self) {
        self.kept.take(self.client, self.counted);
    }
}

/// The addresses that count as one client: with IPv6, one host may have as many as it likes.
fn household(client: ClientSource) -> IpAddr {
    match client.key().to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from(u128::from(v6) & !u128::from(u64::MAX)).into(),
        v4 @ IpAddr::V4(_) => v4,
    }
}
