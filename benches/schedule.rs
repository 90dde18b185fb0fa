//! What one pick costs (`next`, `connected` and the end of the lease), with 1 to 10 000 channels. The cost
//! must hardly grow.
//!
//! `cargo bench --bench schedule`

use std::hint::black_box;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::time::Duration;

use balance::sched::{
    Addresses, AdminState, ChannelId, ChannelKey, ClientAddr, DialCause, DialFailure, GroupId, Lease, Policy,
    Rules, Survey, Table, Turn, Weight,
};
use divan::Bencher;

const SIZES: [usize; 4] = [1, 64, 1_000, 10_000];

fn main() {
    divan::main();
}

fn table(size: usize, policy: Policy, maxc: impl Fn(usize) -> Option<NonZeroU32>) -> Table {
    filled(Rules { shards: 2, ..Rules::CLASSIC }, size, policy, maxc)
}

fn filled(rules: Rules, size: usize, policy: Policy, maxc: impl Fn(usize) -> Option<NonZeroU32>) -> Table {
    let mut table = Table::new(rules);
    table.set_policy(GroupId::FIRST, policy);
    for n in 0..size {
        let address = SocketAddr::from(([10, 0, (n >> 8) as u8, n as u8], 80));
        let created =
            table.create(GroupId::FIRST, Addresses::from(address), maxc(n), AdminState::Enabled).map(drop);
        created.expect("the sizes are below the limit");
    }
    table
}

fn pick(table: &mut Table, client: ClientAddr) -> Option<Lease> {
    let mut route = table.begin(client);
    let lease = table.next(&mut route).ok()?;
    table.connected(route, &lease, Duration::ZERO);
    Some(lease)
}

fn measure(bencher: Bencher<'_, '_>, mut table: Table) {
    let mut ip = 0_u32;
    bencher.bench_local(|| {
        ip = ip.wrapping_add(0x9e37_79b9);
        drop(pick(black_box(&mut table), ClientAddr::from(IpAddr::from(ip.to_be_bytes()))));
    });
}

#[divan::bench(args = SIZES, sample_size = 2_000)]
fn round_robin(bencher: Bencher<'_, '_>, size: usize) {
    measure(bencher, table(size, Policy::RoundRobin, |_| None));
}

/// Every bucket has been asked for before, as on a site that has run for some time.
#[divan::bench(args = SIZES, sample_size = 2_000)]
fn hash(bencher: Bencher<'_, '_>, size: usize) {
    let mut table = table(size, Policy::Hash, |_| None);
    for n in 0..1_u32 << 20 {
        drop(pick(&mut table, ClientAddr::from(IpAddr::from(n.to_be_bytes()))));
    }
    measure(bencher, table);
}

/// Bounded loads with three clients per channel: many clients' own channels have reached their bound. Every
/// bucket has been asked for before.
#[divan::bench(args = SIZES, sample_size = 2_000)]
fn hash_balance(bencher: Bencher<'_, '_>, size: usize) {
    let rules = Rules { hash_balance: NonZeroU32::new(1_250), ..Rules::CLASSIC };
    let mut table = filled(rules, size, Policy::Hash, |_| None);
    let leases: Vec<_> = (0..3 * size as u32).map(|n| pick(&mut table, some_client(n))).collect();
    for n in 0..1_u32 << 20 {
        drop(pick(&mut table, ClientAddr::from(IpAddr::from(n.to_be_bytes()))));
    }
    measure(bencher, table);
    drop(leases);
}

/// The first half of the channels is full, so every round has to skip it.
#[divan::bench(args = SIZES, sample_size = 2_000)]
fn round_robin_half_full(bencher: Bencher<'_, '_>, size: usize) {
    let full = |n| if n < size / 2 { Some(NonZeroU32::MIN) } else { NonZeroU32::new(1_000) };
    let mut table = table(size, Policy::RoundRobin, full);
    let client = ClientAddr::from(IpAddr::from([192, 0, 2, 1]));
    let leases: Vec<_> = (0..size / 2).map(|_| pick(&mut table, client)).collect();
    assert!(leases.iter().all(Option::is_some));
    measure(bencher, table);
    drop(leases);
}

/// Every pick fills its channel and every end frees it, which is the most expensive case.
#[divan::bench(args = SIZES, sample_size = 2_000)]
fn round_robin_one_slot_each(bencher: Bencher<'_, '_>, size: usize) {
    measure(bencher, table(size, Policy::RoundRobin, |_| Some(NonZeroU32::MIN)));
}

/// Weights 1 to 3, so that turns follow the weights.
#[divan::bench(args = SIZES, sample_size = 2_000)]
fn weighted_round_robin(bencher: Bencher<'_, '_>, size: usize) {
    let mut table = table(size, Policy::RoundRobin, |_| None);
    for n in 0..size {
        let channel = ChannelId::new(n).expect("the sizes are below the limit");
        let weight = Weight::new(1 + n as u32 % 3).expect("in range");
        table.set_weight(ChannelKey { group: GroupId::FIRST, channel }, weight).expect("it exists");
    }
    measure(bencher, table);
}

/// `leastconn` over all channels.
#[divan::bench(args = SIZES, sample_size = 200)]
fn least_connections(bencher: Bencher<'_, '_>, size: usize) {
    measure(bencher, table(size, Policy::LeastConnections, |_| None));
}

#[divan::bench(args = SIZES, sample_size = 2_000)]
fn two_choices(bencher: Bencher<'_, '_>, size: usize) {
    measure(bencher, table(size, Policy::TwoChoices, |_| None));
}

/// One piece of what `show` and `status` read: the longest time that clients wait for the lock.
#[divan::bench(args = SIZES, sample_size = 20)]
fn piece_of_a_survey(bencher: Bencher<'_, '_>, size: usize) {
    let mut table = table(size, Policy::RoundRobin, |_| None);
    bencher.bench_local(|| black_box(&mut table).survey(&mut Survey::default()));
}

const LINES: [usize; 5] = [10, 100, 1_000, 10_000, 100_000];

fn some_client(n: u32) -> ClientAddr {
    ClientAddr::from(IpAddr::from(n.wrapping_mul(0x9e37_79b9).to_be_bytes()))
}

/// Channel a has one slot, which is taken; b has room. `waiting` clients wait for a: because of hashing, or
/// because b failed for them.
struct Beside {
    table: Table,
    holder: Lease,
    /// Clients that b serves.
    of_b: Vec<ClientAddr>,
    next: u32,
}

fn create(table: &mut Table, last: u8, maxc: Option<NonZeroU32>) {
    let address = Addresses::from(SocketAddr::from(([10, 0, 0, last], 80)));
    table.create(GroupId::FIRST, address, maxc, AdminState::Enabled).expect("few channels");
}

fn beside(policy: Policy, waiting: usize) -> Beside {
    let mut table = Table::new(Rules { queue: NonZeroU32::new(200_000), ..Rules::CLASSIC });
    table.set_policy(GroupId::FIRST, policy);
    create(&mut table, 1, NonZeroU32::new(1));
    create(&mut table, 2, None);
    let mut holder = None;
    let mut of_b = Vec::new();
    let mut next = 0_u32;
    while table.waiting() < waiting || of_b.len() < 64 {
        let client = some_client(next);
        next += 1;
        let route = table.begin(client);
        match table.next_or_wait(route, 0, None, &mut Vec::new()) {
            Turn::Now(_, lease) if lease.key().channel.index() == 0 => holder = Some(lease),
            Turn::Now(route, lease) => {
                of_b.push(client);
                if policy != Policy::Hash {
                    table.failed(lease, DialFailure::Local, DialCause::NoPort, "refused");
                    drop(table.next_or_wait(route, 0, None, &mut Vec::new()));
                }
            }
            Turn::Later(ticket) if table.waiting() > waiting => drop(table.leave_line(ticket)),
            Turn::Later(_) => {}
            Turn::Never(why) => panic!("{why:?}"),
        }
    }
    Beside { table, holder: holder.expect("a has one"), of_b, next }
}

fn newcomers_of_b(bencher: Bencher<'_, '_>, mut beside: Beside) {
    let mut nth = 0;
    bencher.bench_local(|| {
        nth = (nth + 1) % beside.of_b.len();
        let table = black_box(&mut beside.table);
        assert!(table.grant().is_empty());
        let route = table.begin(beside.of_b[nth]);
        let Turn::Now(route, lease) = table.next_or_wait(route, 0, None, &mut Vec::new()) else {
            panic!("b has room")
        };
        table.connected(route, &lease, Duration::ZERO);
    });
}

/// Clients of a usable channel while others wait for another channel of their hash group.
#[divan::bench(args = LINES, sample_size = 20)]
fn newcomer_beside_a_line_of_hash(bencher: Bencher<'_, '_>, waiting: usize) {
    newcomers_of_b(bencher, beside(Policy::Hash, waiting));
}

/// Clients of a channel with room that failed for all waiting clients.
#[divan::bench(args = LINES, sample_size = 20)]
fn newcomer_beside_a_line_that_tried(bencher: Bencher<'_, '_>, waiting: usize) {
    newcomers_of_b(bencher, beside(Policy::RoundRobin, waiting));
}

/// A newcomer that joins the wait queue and leaves it again.
#[divan::bench(args = LINES, sample_size = 20)]
fn to_the_end_of_a_line_and_away(bencher: Bencher<'_, '_>, waiting: usize) {
    let mut beside = beside(Policy::Hash, waiting);
    let client = (beside.next..).map(some_client).find(|client| {
        let route = beside.table.begin(*client);
        match beside.table.next_or_wait(route, 0, None, &mut Vec::new()) {
            Turn::Later(ticket) => beside.table.leave_line(ticket),
            _ => false,
        }
    });
    let client = client.expect("one for a");
    bencher.bench_local(|| {
        let table = black_box(&mut beside.table);
        assert!(table.grant().is_empty());
        let route = table.begin(client);
        let Turn::Later(ticket) = table.next_or_wait(route, 0, None, &mut Vec::new()) else {
            panic!("a is full")
        };
        assert!(table.leave_line(ticket));
    });
}

/// A connection ends, the first waiting client gets its slot, and another client joins the queue.
#[divan::bench(args = LINES, sample_size = 20)]
fn slot_to_the_first_of_a_line(bencher: Bencher<'_, '_>, waiting: usize) {
    let Beside { mut table, holder, .. } = beside(Policy::RoundRobin, waiting);
    let mut holder = Some(holder);
    bencher.bench_local(|| {
        drop(holder.take());
        let mut grants = black_box(&mut table).grant();
        let grant = grants.pop().expect("a is free");
        holder = Some(grant.lease);
        let client = some_client(7);
        let route = table.begin(client);
        let Turn::Now(route, lease) = table.next_or_wait(route, 0, None, &mut Vec::new()) else {
            panic!("b has room")
        };
        table.failed(lease, DialFailure::Local, DialCause::NoPort, "refused");
        let Turn::Later(_) = table.next_or_wait(route, 0, None, &mut Vec::new()) else {
            panic!("all the rest is full")
        };
    });
}
