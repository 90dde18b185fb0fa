//! The table as the threads of the program share it.
//!
//! Knows: one lock, and what can be asked without it. Never: what happens under it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::gate::Gate;
use super::losses::Losses;
use super::tally::ServiceTally;
use super::{End, Loss, Table};

/// The table of a service. Locked for one call at a time, never during a system call.
#[derive(Debug, Clone)]
pub struct SharedTable(Arc<Locked>);

#[derive(Debug)]
struct Locked {
    table: Mutex<Table>,
    waiting: Arc<AtomicUsize>,
    losses: Arc<Losses>,
    tally: Arc<ServiceTally>,
    pauses: Arc<AtomicUsize>,
    gate: Gate,
}

impl SharedTable {
    /// Shares a table.
    pub fn new(table: Table) -> Self {
        let (waiting, losses, tally, pauses) = (
            table.line.count(),
            Arc::clone(&table.losses),
            Arc::clone(&table.tally),
            Arc::clone(&table.pauses),
        );
        Self(Arc::new(Locked {
            table: Mutex::new(table),
            waiting,
            losses,
            tally,
            pauses,
            gate: Gate::default(),
        }))
    }
    /// Which clients are let in. Does not lock the table.
    pub fn gate(&self) -> &Gate {
        &self.0.gate
    }
    /// Locks the table and sets its time, which counts from the start of the instance. A panic under the lock
    /// does not end the instance: the table is used as it was left.
    pub fn lock_at(&self, now: Duration) -> MutexGuard<'_, Table> {
        let mut table = self.lock();
        table.advance(now);
        table
    }
    /// Locks the table where time does not matter.
    pub fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
    /// Does any client wait? Does not lock the table; see `Line` for why the answer is reliable after a slot
    /// was given back.
    pub fn is_anyone_waiting(&self) -> bool {
        self.0.waiting.load(Ordering::SeqCst) > 0
    }
    /// How many times pauses have changed. Does not lock the table.
    pub fn pauses(&self) -> usize {
        self.0.pauses.load(Ordering::SeqCst)
    }
    /// Counts a client that was lost before it had a channel. Does not lock the table.
    pub fn lost(&self, why: Loss) {
        self.0.losses.count(why);
    }
    /// Counts the end of a client's connection, whether it had a channel or not. `shard` is the caller's
    /// worker number. Does not lock the table.
    pub fn ended(&self, shard: usize, how: End) {
        self.0.tally.ended(shard, how);
    }
    /// Counts a client that left the wait queue after the time `long`. `shard` is the caller's worker number.
    /// Does not lock the table.
    pub fn waited(&self, shard: usize, long: Duration) {
        self.0.tally.waited(shard, long);
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, SocketAddr};
    use std::num::NonZeroU32;
    use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

    use super::super::{Addresses, AdminState, ClientAddr, GroupId, Lease, NoChannel, Rules};
    use super::*;

    /// A table with one group of channels with these limits (0 = none).
    fn table(limits: &[u32]) -> Table {
        let mut table = Table::new(Rules::CLASSIC);
        for &maxc in limits {
            let address = Addresses::from(SocketAddr::from(([127, 0, 0, 1], 80)));
            let maxc = NonZeroU32::new(maxc);
            table.create(GroupId::FIRST, address, maxc, AdminState::Enabled).expect("a slot");
        }
        table
    }

    fn pick(table: &mut Table) -> Result<Lease, NoChannel> {
        let mut route = table.begin(ClientAddr::from(IpAddr::from([192, 0, 2, 1])));
        let lease = table.next(&mut route)?;
        table.connected(route, &lease, Duration::ZERO);
        Ok(lease)
    }

    #[test]
    fn threads_never_exceed_maxc_and_lose_no_slot() {
        const THREADS: usize = 4;
        let limits = [1, 2, 3];
        let table = SharedTable::new(table(&limits));
        let live = limits.map(|_| AtomicU32::new(0));
        let rounds = if cfg!(debug_assertions) { 20_000 } else { 200_000 };
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let (table, live) = (table.clone(), &live);
                scope.spawn(move || {
                    let mut held = Vec::new();
                    for round in 0..rounds {
                        if let Ok(lease) = pick(&mut table.lock()) {
                            // `live` is raised after and lowered before the real count, so it is never above
                            // it.
                            let channel = lease.key().channel.index();
                            let now = live[channel].fetch_add(1, SeqCst) + 1;
                            assert!(now <= limits[channel], "{now} connections on channel {channel}");
                            held.push(lease);
                        }
                        let give_back = (round + thread) % 3 != 0;
                        if let Some(lease) = give_back.then(|| held.pop()).flatten() {
                            live[lease.key().channel.index()].fetch_sub(1, SeqCst);
                        }
                    }
                    for lease in held.drain(..) {
                        live[lease.key().channel.index()].fetch_sub(1, SeqCst);
                    }
                });
            }
        });
        let mut table = table.lock();
        assert_eq!(table.active(), 0);
        let all: Vec<_> = (0..6).map(|_| pick(&mut table).expect("every slot can be had again")).collect();
        assert_eq!(pick(&mut table).err(), Some(NoChannel::Full));
        assert_eq!(all.len() as u64, table.active());
    }

    #[test]
    fn a_panic_with_the_table_locked_leaves_it_usable() {
        let shared = SharedTable::new(table(&[0]));
        let clone = shared.clone();
        let panicked = std::thread::spawn(move || {
            let _guard = clone.lock();
            std::panic::resume_unwind(Box::new("on purpose"));
        });
        assert!(panicked.join().is_err());
        assert!(pick(&mut shared.lock()).is_ok());
    }
}
