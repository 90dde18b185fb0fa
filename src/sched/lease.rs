//! The slots of one channel: who holds one, how a slot comes back, the bytes that moved.
//!
//! Knows: that a `Slot` is given back when it is dropped, from any thread. Never: groups, policies, admin states.

use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::reach::AddressOrder;
use super::tally::{ChannelTally, Ended};
use super::{Addresses, ChannelKey, DialCause, End};
use crate::spec::{Address, ProxyVersion};

/// An answer is not older than so many seconds if it was given "at the same time".
const LATELY: u32 = 10;

/// Was it in one of the last seconds?
fn is_lately(at: &AtomicU32, now: Duration) -> bool {
    let at = at.load(Relaxed);
    at > 0 && second_of(now).saturating_sub(at) <= LATELY
}

/// The number of a second of the instance, from 1.
fn second_of(now: Duration) -> u32 {
    u32::try_from(now.as_secs()).unwrap_or(u32::MAX).saturating_add(1)
}

/// How the first byte of a channel came, on one of its connections.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FirstByte {
    /// Later than it should have.
    pub is_late: bool,
    /// Before its client had said anything.
    pub is_unasked: bool,
}

/// One occupied slot of a channel. Dropping it is the only way the channel's connection count goes down, but for
/// [`HeldSlots`](super::HeldSlots).
#[derive(Debug)]
pub struct Slot {
    slots: Arc<Slots>,
}

impl Slot {
    /// One that is counted already.
    pub(super) fn of(slots: Arc<Slots>) -> Self {
        Self { slots }
    }

    /// Which channel the slot belongs to.
    pub fn key(&self) -> ChannelKey {
        self.slots.key
    }

    /// Counts bytes moved client -> channel. `shard` is the caller's worker number (taken modulo the shards of the
    /// table).
    pub fn add_sent(&self, shard: usize, bytes: u64) {
        self.slots.shard(shard).sent_bytes.fetch_add(bytes, Relaxed);
    }

    /// Counts bytes moved channel -> client.
    pub fn add_rcvd(&self, shard: usize, bytes: u64) {
        self.slots.shard(shard).rcvd_bytes.fetch_add(bytes, Relaxed);
    }

    /// Its connection has brought a byte of the channel at this time of the instance.
    pub fn answered(&self, now: Duration, byte: FirstByte) {
        let slots = &self.slots;
        // Plain loads first: workers share the line, and hardly ever is there anything to write.
        if slots.closes_early.load(Relaxed) {
            slots.closes_early.store(false, Relaxed);
        }
        let second = second_of(now);
        let note = |at: &AtomicU32, is_so: bool| {
            if is_so && at.load(Relaxed) != second {
                at.store(second, Relaxed);
            }
        };
        note(&slots.answered_at, true);
        note(&slots.served_at, !byte.is_late);
        note(&slots.unasked_at, byte.is_unasked && !byte.is_late);
        if !byte.is_late && slots.is_silent.load(Relaxed) {
            slots.is_silent.store(false, Relaxed);
        }
    }

    /// Counts that its connection has ended, and how, after so long.
    pub fn ended(&self, shard: usize, how: End, lasted: Duration) {
        self.slots.shard(shard).tally.ended(how, lasted);
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.slots.release(1);
    }
}

/// A slot and what its client needs to be connected to the channel.
#[derive(Debug)]
pub struct Lease {
    slot: Slot,
    addresses: Addresses,
    /// In which order they are tried; `None` = as they are listed.
    order: Option<Arc<AddressOrder>>,
    /// How often the channel had come back when the lease was taken.
    returns: u32,
    /// What goes in front of its client's bytes.
    proxy: Option<ProxyVersion>,
}

impl Lease {
    /// Which channel the slot belongs to.
    pub fn key(&self) -> ChannelKey {
        self.slot.key()
    }

    /// Its slot.
    pub fn slot(&self) -> &Slot {
        &self.slot
    }

    /// What a connected client needs of it.
    pub fn into_slot(self) -> Slot {
        self.slot
    }

    /// The channel's addresses, as they were when the lease was taken.
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// The address to try as the `n`-th, from 0, for a client that came to this port: those that are known not to answer come last.
    pub fn target(&self, n: usize, came_to: u16) -> Option<Address> {
        let at = match &self.order {
            Some(order) => usize::from(*order.list().get(n)?),
            None => n,
        };
        let target = *self.addresses.as_slice().get(at)?;
        Some(if self.addresses.follow_clients() { target.with_port(came_to) } else { target })
    }

    /// How many of the addresses from the `n`-th on are as likely to answer as it is, itself included: at least 1.
    pub fn alike_from(&self, n: usize) -> usize {
        let all = self.addresses.as_slice().len();
        let answering = self.order.as_ref().map_or(all, |order| order.answering());
        let end = if n < answering { answering } else { all };
        end.saturating_sub(n).max(1)
    }

    /// The PROXY header that the channel wanted in front of a client's bytes when the lease was taken.
    pub fn proxy(&self) -> Option<ProxyVersion> {
        self.proxy
    }

    /// Tells a dial that began before the channel came back from one that began after.
    pub(super) fn returns(&self) -> u32 {
        self.returns
    }
}

/// The bytes one worker moved, and what it counted. A cache line of its own, so that workers do not slow each other down.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Shard {
    sent_bytes: AtomicU64,
    rcvd_bytes: AtomicU64,
    tally: ChannelTally,
}

/// What a channel and its leases share.
#[derive(Debug)]
pub(super) struct Slots {
    key: ChannelKey,
    /// Leases alive. Goes up with the table locked, goes down at any time.
    active: AtomicU32,
    /// "The table holds this channel for full", or goes by its load: the next lease that ends must say so.
    full: AtomicBool,
    freed: Arc<Freed>,
    /// A connection was closed at once, without a byte, and none has brought a byte since.
    closes_early: AtomicBool,
    /// In which second of the instance a connection has brought a byte, counted from 1; 0 = none has.
    answered_at: AtomicU32,
    /// The same of a byte that was not late, ...
    served_at: AtomicU32,
    /// ... and of one that came before its client had said anything.
    unasked_at: AtomicU32,
    /// A client has waited for a byte for too long, and none has got one in time since.
    is_silent: AtomicBool,
    shards: Box<[Shard]>,
}

impl Slots {
    /// `shards` = how many workers count bytes; 0 is taken for 1.
    pub(super) fn new(key: ChannelKey, freed: Arc<Freed>, shards: usize) -> Self {
        let shards = std::iter::repeat_with(Shard::default).take(shards.max(1)).collect();
        Self {
            key,
            active: AtomicU32::new(0),
            full: AtomicBool::new(false),
            freed,
            closes_early: AtomicBool::new(false),
            answered_at: AtomicU32::new(0),
            served_at: AtomicU32::new(0),
            unasked_at: AtomicU32::new(0),
            is_silent: AtomicBool::new(false),
            shards,
        }
    }

    pub(super) fn key(&self) -> ChannelKey {
        self.key
    }

    pub(super) fn active(&self) -> u32 {
        self.active.load(SeqCst)
    }

    /// Takes a slot. Call it with the table locked, and only if there is room.
    pub(super) fn occupy(
        this: &Arc<Self>,
        addresses: Addresses,
        order: Option<Arc<AddressOrder>>,
        returns: u32,
        proxy: Option<ProxyVersion>,
    ) -> Lease {
        this.active.fetch_add(1, SeqCst);
        Lease { slot: Slot { slots: Arc::clone(this) }, addresses, order, returns, proxy }
    }

    /// Counts so many connections that are there already, whatever the limit, and answers how many: all but those that there
    /// would be no numbers for. Call it with the table locked.
    pub(super) fn occupy_beyond(&self, connections: u32) -> u32 {
        let counted = connections.min((u32::MAX / 2).saturating_sub(self.active()));
        self.active.fetch_add(counted, SeqCst);
        counted
    }

    /// Is there a slot below `limit`? If not, the next lease that ends puts the channel on the list of freed ones. Call
    /// it with the table locked (then no slot can be taken meanwhile, but leases may end).
    ///
    /// The race: a lease may end just while we decide. We raise `full` first and look at `active` again; `release`
    /// lowers `active` first and looks at `full` then. All four accesses are sequentially consistent, so they cannot
    /// both see the old value of the other: either we see the slot that came back, or it sees the flag, or both
    /// happen, and then the channel stands on the list needlessly, which is harmless because whoever reads the list
    /// asks here again.
    pub(super) fn has_room(&self, limit: u32) -> bool {
        self.has_room_while(limit, || ())
    }

    /// The same, with a place for a test to end leases at the worst moment.
    fn has_room_while(&self, limit: u32, meanwhile: impl FnOnce()) -> bool {
        if self.active.load(SeqCst) < limit {
            return true;
        }
        meanwhile();
        self.full.store(true, SeqCst);
        if self.active.load(SeqCst) < limit {
            self.full.store(false, SeqCst);
            return true;
        }
        false
    }

    /// Has it answered clients, and closed none at once since?
    pub(super) fn answers(&self) -> bool {
        self.answered_at.load(Relaxed) > 0 && !self.closes_early.load(Relaxed)
    }

    /// Has it done so within the last seconds?
    pub(super) fn answers_now(&self, now: Duration) -> bool {
        self.answers() && is_lately(&self.answered_at, now)
    }

    /// Has it answered clients in time within the last seconds, and kept none waiting since?
    pub(super) fn serves_now(&self, now: Duration) -> bool {
        self.answers() && !self.is_silent.load(Relaxed) && is_lately(&self.served_at, now)
    }

    /// The same of clients that had said nothing.
    pub(super) fn speaks_first(&self, now: Duration) -> bool {
        self.serves_now(now) && is_lately(&self.unasked_at, now)
    }

    /// A client has waited for a byte for too long. `true` = the first since one got its byte in time.
    pub(super) fn fell_silent(&self) -> bool {
        !self.is_silent.swap(true, Relaxed)
    }

    /// A connection was closed at once, without a byte. `true` = the first since one brought a byte.
    pub(super) fn closed_early(&self) -> bool {
        !self.closes_early.swap(true, Relaxed)
    }

    /// What it closed before is forgotten.
    pub(super) fn forgive(&self) {
        self.closes_early.store(false, Relaxed);
        self.is_silent.store(false, Relaxed);
    }

    /// From here on the next lease that ends puts the channel on the list of freed ones. To be called before `active` is
    /// looked at, with the table locked.
    pub(super) fn watch(&self) {
        self.full.store(true, SeqCst);
    }

    /// So many slots come back.
    pub(super) fn release(&self, slots: u32) {
        self.active.fetch_sub(slots, SeqCst);
        // The plain load first: of a channel that is not full nobody should have to write the flag.
        if self.full.load(SeqCst) && self.full.swap(false, SeqCst) {
            self.freed.push(self.key);
        }
    }

    fn shard(&self, number: usize) -> &Shard {
        &self.shards[number % self.shards.len()]
    }

    /// Sent and rcvd of all workers.
    pub(super) fn bytes(&self) -> (u64, u64) {
        self.shards.iter().fold((0, 0), |(sent, rcvd), shard| {
            (
                sent.wrapping_add(shard.sent_bytes.load(Relaxed)),
                rcvd.wrapping_add(shard.rcvd_bytes.load(Relaxed)),
            )
        })
    }

    /// Adds what was moved elsewhere. If the channel has answered there, it has answered.
    pub(super) fn add_bytes(&self, sent_bytes: u64, rcvd_bytes: u64) {
        if rcvd_bytes > 0 {
            self.answered_at.fetch_max(1, Relaxed);
        }
        self.shard(0).sent_bytes.fetch_add(sent_bytes, Relaxed);
        self.shard(0).rcvd_bytes.fetch_add(rcvd_bytes, Relaxed);
    }

    pub(super) fn reset_counters(&self) {
        for shard in &self.shards {
            shard.sent_bytes.store(0, Relaxed);
            shard.rcvd_bytes.store(0, Relaxed);
            shard.tally.reset();
        }
    }

    /// A connect was answered after so long. With the table locked, so that one place is enough for it.
    pub(super) fn connected(&self, took: Duration) {
        self.shard(0).tally.connected(took);
    }

    /// It could not be connected to. With the table locked, too.
    pub(super) fn failed(&self, cause: DialCause) {
        self.shard(0).tally.failed(cause);
    }

    /// Another channel has answered its client first. With the table locked, too.
    pub(super) fn outrun(&self, has_answered: bool) {
        self.shard(0).tally.outrun(has_answered);
    }

    /// What all workers have counted of its connections.
    pub(super) fn ended(&self) -> Ended {
        let mut all = Ended::default();
        self.shards.iter().for_each(|shard| shard.tally.add_to(&mut all));
        all
    }

    /// Adds what was counted elsewhere.
    pub(super) fn add_ended(&self, ended: &Ended) {
        self.shard(0).tally.add_counted(ended);
    }
}

/// Channels that were full and got a slot back. Leases write it without the table's lock, the next pick reads it.
#[derive(Debug, Default)]
pub(super) struct Freed {
    list: Mutex<Vec<ChannelKey>>,
    /// Is there anything in `list`? Changed only with `list` locked; looked at without. Sequentially consistent, because
    /// the line of waiting clients relies on it: see `Line`.
    any: AtomicBool,
}

impl Freed {
    fn push(&self, key: ChannelKey) {
        let mut list = self.lock();
        list.push(key);
        self.any.store(true, SeqCst);
    }

    /// Moves the list into `out`, which comes empty. Costs one load if there is nothing.
    pub(super) fn drain_into(&self, out: &mut Vec<ChannelKey>) {
        debug_assert!(out.is_empty());
        if !self.any.load(SeqCst) {
            return;
        }
        let mut list = self.lock();
        std::mem::swap(&mut *list, out);
        self.any.store(false, SeqCst);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<ChannelKey>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::super::{ChannelId, GroupId};
    use super::*;

    fn slots(shards: usize) -> (Arc<Slots>, Arc<Freed>) {
        let freed = Arc::new(Freed::default());
        let key = ChannelKey { group: GroupId::FIRST, channel: ChannelId::new(3).expect("small") };
        (Arc::new(Slots::new(key, Arc::clone(&freed), shards)), freed)
    }

    fn address() -> Addresses {
        Addresses::from(SocketAddr::from(([127, 0, 0, 1], 80)))
    }

    fn drained(freed: &Freed) -> usize {
        let mut out = Vec::new();
        freed.drain_into(&mut out);
        out.len()
    }

    #[test]
    fn a_lease_is_small_and_gives_its_slot_back() {
        assert!(size_of::<Lease>() <= 48, "{} bytes", size_of::<Lease>());
        let (slots, _) = slots(1);
        let (a, b) = (
            Slots::occupy(&slots, address(), None, 0, None),
            Slots::occupy(&slots, address(), None, 0, None),
        );
        assert_eq!((slots.active(), a.key(), b.addresses()), (2, slots.key(), &address()));
        drop(a);
        assert_eq!(slots.active(), 1);
        drop(b);
        assert_eq!(slots.active(), 0);
    }

    #[test]
    fn only_a_full_channel_tells_that_a_slot_came_back() {
        let (slots, freed) = slots(1);
        let leases: Vec<_> = (0..3).map(|_| Slots::occupy(&slots, address(), None, 0, None)).collect();
        assert!(slots.has_room(4));
        let mut leases = leases.into_iter();
        drop(leases.next());
        assert_eq!(drained(&freed), 0, "it never was full");
        assert!(!slots.has_room(2));
        drop(leases.next());
        assert_eq!(drained(&freed), 1);
        drop(leases.next());
        assert_eq!(drained(&freed), 0, "told once");
        assert!(slots.has_room(1));
        assert!(!slots.has_room(0), "no slot below a limit of none");
    }

    #[test]
    fn a_slot_that_comes_back_while_the_table_looks_is_not_lost() {
        for (held, limit, room) in [(1, 1, true), (2, 2, true), (3, 2, false)] {
            let (slots, freed) = slots(1);
            let mut leases: Vec<_> =
                (0..held).map(|_| Slots::occupy(&slots, address(), None, 0, None)).collect();
            let told = slots.has_room_while(limit, || drop(leases.pop()));
            assert_eq!(told, room, "{held} held, limit {limit}");
            leases.pop();
            assert_eq!(drained(&freed), usize::from(!room), "a full channel tells of the next one");
        }
    }

    #[test]
    fn a_lowered_limit_is_asked_for_again_until_there_is_room() {
        let (slots, freed) = slots(1);
        let mut leases: Vec<_> = (0..3).map(|_| Slots::occupy(&slots, address(), None, 0, None)).collect();
        assert!(!slots.has_room(1));
        for left in [2, 1] {
            leases.pop();
            assert_eq!(drained(&freed), 1, "{left} left");
            assert!(!slots.has_room(1), "{left} left");
        }
        leases.pop();
        assert_eq!(drained(&freed), 1);
        assert!(slots.has_room(1));
    }

    #[test]
    fn bytes_of_every_worker_add_up_and_go_to_zero() {
        let (slots, _) = slots(3);
        let slot = Slots::occupy(&slots, address(), None, 0, None).into_slot();
        for shard in 0..7 {
            slot.add_sent(shard, 1);
            slot.add_rcvd(shard, 10);
        }
        assert_eq!(slots.bytes(), (7, 70));
        slots.reset_counters();
        assert_eq!(slots.bytes(), (0, 0));
        assert_eq!(size_of::<Shard>(), 64);
    }

    #[test]
    fn no_workers_count_like_one() {
        let (slots, _) = slots(0);
        Slots::occupy(&slots, address(), None, 0, None).into_slot().add_sent(usize::MAX, 5);
        assert_eq!(slots.bytes(), (5, 0));
    }
}
