//! The slots of one channel: who holds one, how a slot is given back, the bytes moved.
//!
//! Knows: that a `Slot` is given back when it is dropped, from any thread. Never: groups, policies, admin
//! states.

use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::reach::AddressOrder;
use super::tally::{ChannelTally, Ended};
use super::{Addresses, ChannelKey, DialCause, End};
use crate::spec::{Address, ProxyVersion};

/// How many seconds old an answer may be to count as given now.
const LATELY: u32 = 10;

/// Was it within the last [`LATELY`] seconds?
fn is_lately(at: &AtomicU32, now: Duration) -> bool {
    let at = at.load(Relaxed);
    at > 0 && second_of(now).saturating_sub(at) <= LATELY
}

/// The number of a second since the start of the instance, counted from 1.
fn second_of(now: Duration) -> u32 {
    u32::try_from(now.as_secs()).unwrap_or(u32::MAX).saturating_add(1)
}

/// How the first byte from a channel came on one of its connections.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FirstByte {
    /// It came later than `--first-byte` allows.
    pub is_late: bool,
    /// It came before the client had sent anything.
    pub is_unasked: bool,
}

/// One occupied slot of a channel. Apart from [`HeldSlots`](super::HeldSlots), dropping it is the only way in
/// which the channel's connection count goes down.
#[derive(Debug)]
pub struct Slot {
    slots: Arc<Slots>,
}

impl Slot {
    /// A slot that is already counted.
    pub(super) fn of(slots: Arc<Slots>) -> Self {
        Self { slots }
    }

    /// The channel of the slot.
    pub fn key(&self) -> ChannelKey {
        self.slots.key
    }

    /// Counts bytes moved from client to channel. `shard` is the caller's worker number, taken modulo the
    /// number of shards.
    pub fn add_sent(&self, shard: usize, bytes: u64) {
        self.slots.shard(shard).sent_bytes.fetch_add(bytes, Relaxed);
    }

    /// Counts bytes moved from channel to client.
    pub fn add_rcvd(&self, shard: usize, bytes: u64) {
        self.slots.shard(shard).rcvd_bytes.fetch_add(bytes, Relaxed);
    }

    /// Reports that the first byte from the channel arrived at time `now`.
    pub fn answered(&self, now: Duration, byte: FirstByte) {
        let slots = &self.slots;
        // Plain loads first: workers share the cache line, and there is hardly ever anything to write.
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

    /// Counts that its connection has ended, how, and after which time.
    pub fn ended(&self, shard: usize, how: End, lasted: Duration) {
        self.slots.shard(shard).tally.ended(how, lasted);
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.slots.release(1);
    }
}

/// A slot, and what is needed to connect its client to the channel.
#[derive(Debug)]
pub struct Lease {
    slot: Slot,
    addresses: Addresses,
    /// The order in which the addresses are tried. `None`: as they are listed.
    order: Option<Arc<AddressOrder>>,
    /// The channel's number of returns when the lease was taken.
    returns: u32,
    /// The PROXY header to send before the client's bytes.
    proxy: Option<ProxyVersion>,
}

impl Lease {
    /// The channel of the slot.
    pub fn key(&self) -> ChannelKey {
        self.slot.key()
    }

    /// The slot.
    pub fn slot(&self) -> &Slot {
        &self.slot
    }

    /// Keeps only the slot, which is all that a connected client needs.
    pub fn into_slot(self) -> Slot {
        self.slot
    }

    /// The channel's addresses when the lease was taken.
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// The `n`-th address to try, from 0, for a client that connected to the port `came_to`. Addresses that
    /// are known not to answer come last. `None` if there is no `n`-th address.
    pub fn target(&self, n: usize, came_to: u16) -> Option<Address> {
        let at = match &self.order {
            Some(order) => usize::from(*order.list().get(n)?),
            None => n,
        };
        let target = *self.addresses.as_slice().get(at)?;
        Some(if self.addresses.follow_clients() { target.with_port(came_to) } else { target })
    }

    /// How many of the addresses from the `n`-th on, which is included, are as likely to answer as the
    /// `n`-th; at least 1.
    pub fn alike_from(&self, n: usize) -> usize {
        let all = self.addresses.as_slice().len();
        let answering = self.order.as_ref().map_or(all, |order| order.answering());
        let end = if n < answering { answering } else { all };
        end.saturating_sub(n).max(1)
    }

    /// The PROXY header that the channel wanted when the lease was taken. `None`: none.
    pub fn proxy(&self) -> Option<ProxyVersion> {
        self.proxy
    }

    /// Tells a dial that began before the channel returned from one that began after.
    pub(super) fn returns(&self) -> u32 {
        self.returns
    }
}

/// The bytes that one worker moved, and its counts. A cache line of its own, so that workers do not slow each
/// other down.
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
    /// Number of existing leases. It goes up only with the table locked, but may go down at any time.
    active: AtomicU32,
    /// The table takes this channel for full, or uses its load: the next lease that ends must report it.
    full: AtomicBool,
    freed: Arc<Freed>,
    /// A connection was closed at once without a byte, and none has brought a byte since.
    closes_early: AtomicBool,
    /// The second of the instance, counted from 1, in which a connection last brought a byte; 0 if none has.
    answered_at: AtomicU32,
    /// The same for a byte that was not late ...
    served_at: AtomicU32,
    /// ... and for a byte that came before its client had sent anything.
    unasked_at: AtomicU32,
    /// A client has waited too long for a byte, and none has got one in time since.
    is_silent: AtomicBool,
    shards: Box<[Shard]>,
}

impl Slots {
    /// `shards` is the number of workers that count bytes; 0 is treated as 1.
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

    /// Counts connections that already exist, whatever the limit. Returns how many were counted: all, unless
    /// the counter would overflow. Call it with the table locked.
    pub(super) fn occupy_beyond(&self, connections: u32) -> u32 {
        let counted = connections.min((u32::MAX / 2).saturating_sub(self.active()));
        self.active.fetch_add(counted, SeqCst);
        counted
    }

    /// Is there a slot below `limit`? If not, the next lease that ends adds the channel to the list of freed
    /// channels. Call it with the table locked: then no slot can be taken meanwhile, but leases may end.
    ///
    /// The race: a lease may end just while this is decided. This function sets `full` first and then reads
    /// `active` again; `release` lowers `active` first and then reads `full`. All four accesses are
    /// sequentially consistent, so they cannot both see the old value. Either this function sees the slot
    /// that came back, or the lease sees the flag, or both. In the last case the channel is listed
    /// needlessly, which is harmless, because the reader of the list calls this function again.
    pub(super) fn has_room(&self, limit: u32) -> bool {
        self.has_room_while(limit, || ())
    }

    /// The same, with a hook for tests that end leases at the worst moment.
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

    /// Has it answered clients, and closed no connection at once since?
    pub(super) fn answers(&self) -> bool {
        self.answered_at.load(Relaxed) > 0 && !self.closes_early.load(Relaxed)
    }

    /// Has it answered clients within the last seconds, and closed no connection at once since?
    pub(super) fn answers_now(&self, now: Duration) -> bool {
        self.answers() && is_lately(&self.answered_at, now)
    }

    /// Has it answered clients in time within the last seconds, and kept none waiting since?
    pub(super) fn serves_now(&self, now: Duration) -> bool {
        self.answers() && !self.is_silent.load(Relaxed) && is_lately(&self.served_at, now)
    }

    /// The same for clients that had sent nothing.
    pub(super) fn speaks_first(&self, now: Duration) -> bool {
        self.serves_now(now) && is_lately(&self.unasked_at, now)
    }

    /// A client has waited too long for a byte. `true` if it is the first since a client got its byte in
    /// time.
    pub(super) fn fell_silent(&self) -> bool {
        !self.is_silent.swap(true, Relaxed)
    }

    /// A connection was closed at once without a byte. `true` if it is the first since a connection brought a
    /// byte.
    pub(super) fn closed_early(&self) -> bool {
        !self.closes_early.swap(true, Relaxed)
    }

    /// Forgets connections that were closed at once, and clients that waited too long.
    pub(super) fn forgive(&self) {
        self.closes_early.store(false, Relaxed);
        self.is_silent.store(false, Relaxed);
    }

    /// Makes the next lease that ends add the channel to the list of freed channels. Call it with the table
    /// locked, before `active` is read.
    pub(super) fn watch(&self) {
        self.full.store(true, SeqCst);
    }

    /// Gives back this many slots.
    pub(super) fn release(&self, slots: u32) {
        self.active.fetch_sub(slots, SeqCst);
        // A plain load first, so that leases of a channel that is not full do not write the flag.
        if self.full.load(SeqCst) && self.full.swap(false, SeqCst) {
            self.freed.push(self.key);
        }
    }

    fn shard(&self, number: usize) -> &Shard {
        &self.shards[number % self.shards.len()]
    }

    /// Sent and received bytes of all workers.
    pub(super) fn bytes(&self) -> (u64, u64) {
        self.shards.iter().fold((0, 0), |(sent, rcvd), shard| {
            (
                sent.wrapping_add(shard.sent_bytes.load(Relaxed)),
                rcvd.wrapping_add(shard.rcvd_bytes.load(Relaxed)),
            )
        })
    }

    /// Adds bytes moved in another process. If the channel has sent bytes there, it counts as having
    /// answered.
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

    /// Counts a successful connect and the time it took. The table is locked, so one shard is enough.
    pub(super) fn connected(&self, took: Duration) {
        self.shard(0).tally.connected(took);
    }

    /// Counts a failed connect. The table is locked here, too.
    pub(super) fn failed(&self, cause: DialCause) {
        self.shard(0).tally.failed(cause);
    }

    /// Counts a connect that was given up because another channel answered first. The table is locked here,
    /// too.
    pub(super) fn outrun(&self, has_answered: bool) {
        self.shard(0).tally.outrun(has_answered);
    }

    /// What all workers have counted about its connections.
    pub(super) fn ended(&self) -> Ended {
        let mut all = Ended::default();
        self.shards.iter().for_each(|shard| shard.tally.add_to(&mut all));
        all
    }

    /// Adds what another process counted.
    pub(super) fn add_ended(&self, ended: &Ended) {
        self.shard(0).tally.add_counted(ended);
    }
}

/// Channels that were full and got a slot back. Leases write it without the table's lock; the next pick reads
/// it.
#[derive(Debug, Default)]
pub(super) struct Freed {
    list: Mutex<Vec<ChannelKey>>,
    /// Is `list` not empty? Changed only with `list` locked, read without. Sequentially consistent, because
    /// the wait queue relies on it: see `Line`.
    any: AtomicBool,
}

impl Freed {
    fn push(&self, key: ChannelKey) {
        let mut list = self.lock();
        list.push(key);
        self.any.store(true, SeqCst);
    }

    /// Moves the list into `out`, which must be empty. Costs one load if there is nothing.
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
