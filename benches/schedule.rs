//! What one pick costs (next, connected and the end of the lease), from 1 to 10 000 channels. The growth must be flat.
//!
//! `cargo bench --bench schedule`

use std::hint::black_box;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::time::Duration;

use balance::sched::{
    Addresses, AdminState, ChannelId, ChannelKey, ClientAddr, GroupId, Lease, Policy, Rules, Table, Weight,
};
use divan::Bencher;

const SIZES: [usize; 4] = [1, 64, 1_000, 10_000];

fn main() {
    divan::main();
}

fn table(size: usize, policy: Policy, maxc: impl Fn(usize) -> Option<NonZeroU32>) -> Table {
    let mut table = Table::new(Rules { shards: 2, ..Rules::CLASSIC });
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

/// Every bucket was asked for before, as on a site that has run for a while.
#[divan::bench(args = SIZES, sample_size = 2_000)]
fn hash(bencher: Bencher<'_, '_>, size: usize) {
    let mut table = table(size, Policy::Hash, |_| None);
    for n in 0..1_u32 << 20 {
        drop(pick(&mut table, ClientAddr::from(IpAddr::from(n.to_be_bytes()))));
    }
    measure(bencher, table);
}

/// The first half of the channels is full, so every round has to get past it.
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

/// Every pick fills its channel and every end frees it: the dearest way through.
#[divan::bench(args = SIZES, sample_size = 2_000)]
fn round_robin_one_slot_each(bencher: Bencher<'_, '_>, size: usize) {
    measure(bencher, table(size, Policy::RoundRobin, |_| Some(NonZeroU32::MIN)));
}

/// Weights 1 to 3, so that turns go by weight.
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

/// Looks at every channel.
#[divan::bench(args = SIZES, sample_size = 200)]
fn least_connections(bencher: Bencher<'_, '_>, size: usize) {
    measure(bencher, table(size, Policy::LeastConnections, |_| None));
}

#[divan::bench(args = SIZES, sample_size = 2_000)]
fn two_choices(bencher: Bencher<'_, '_>, size: usize) {
    measure(bencher, table(size, Policy::TwoChoices, |_| None));
}
