//! Which channel of a group a client's address maps to.
//!
//! Knows: seats, weights, arithmetic that is the same on every machine. Never: which channels are usable,
//! cursors, randomness, hosts.
//!
//! A client falls into one of 65 536 buckets. Each pair of bucket and channel has a score, and the channel
//! with the highest score gets the bucket (rendezvous hashing). A channel that is added takes its share of
//! buckets from all others; one that is removed leaves its buckets to the next best; nothing else moves.
//! Scores depend on what a channel is known by, not on its number, so the order on the command line does not
//! matter. Running sites rely on the mapping: see `seat`.

use std::collections::BTreeMap;

use super::seat::{Bucket, Seat, mix};

/// In groups up to this size the winner is computed for every pick; larger groups remember each bucket's
/// winner.
const COMPUTED: usize = 32;
/// If at least this many channels change at once, all winners are forgotten, which is cheaper than correcting
/// them.
const MENDED: usize = 8;
/// How many of a bucket's best channels are remembered. With half of all channels down, one client in 65 536
/// needs more.
const RANKS: usize = 16;
/// Marks a winner that is not computed yet. It is never a channel, since their numbers end below
/// `MAX_CHANNELS`.
const UNKNOWN: u16 = u16::MAX;

/// What one channel contributes to its scores.
#[derive(Debug, Clone, Copy)]
struct Share {
    key: u64,
    /// 0: it wins nothing.
    weight: u32,
}

/// The score of one channel for a bucket.
#[derive(Debug, Clone, Copy)]
struct Score {
    hash: u64,
    weight: u32,
    number: usize,
}

impl Score {
    /// A total order. A weight of 2 wins twice as many buckets as a weight of 1: the winner is the lowest
    /// `-log(hash) / weight`, which for equal weights is the highest hash.
    fn beats(self, other: Self) -> bool {
        if self.weight != other.weight {
            let mine = u128::from(cost(self.hash)) * u128::from(other.weight);
            let its = u128::from(cost(other.hash)) * u128::from(self.weight);
            if mine != its {
                return mine < its;
            }
        }
        if self.hash != other.hash { self.hash > other.hash } else { self.number < other.number }
    }
}

/// The channels of one group as hashing sees them: all of them, usable or not.
#[derive(Debug, Default)]
pub(super) struct Seating {
    seats: Vec<Share>,
    /// Channels that are known by the same seat, in order of their numbers: the nth of them has the seat's
    /// nth key.
    same: BTreeMap<Seat, Vec<u16>>,
    /// The winner of each bucket, filled as it is asked for. It only caches what `compute` returns.
    winners: Option<Box<[u16]>>,
    /// The best `RANKS` channels of each bucket, best first, filled as they are asked for, and all forgotten
    /// when anything changes. Stored as number plus one; 0 is no channel.
    ranks: Vec<u16>,
}

impl Seating {
    /// Adds the next channel. With weight 0 it wins nothing.
    pub(super) fn push(&mut self, at: Seat, weight: u32) {
        let number = self.seats.len();
        let Ok(short) = u16::try_from(number) else { return };
        let same = self.same.entry(at).or_default();
        let key = at.key(same.len());
        same.push(short);
        self.seats.push(Share { key, weight });
        self.mend(&[number]);
    }

    /// Moves a channel to another seat.
    pub(super) fn change(&mut self, number: usize, from: Seat, to: Seat) {
        let Ok(short) = u16::try_from(number) else { return };
        if from == to || number >= self.seats.len() {
            return;
        }
        // The order among channels of one seat follows their numbers, whatever happened before. So the
        // mapping depends only on the present group, and a restart with the same channels moves no client.
        let mut changed = self.unseat(short, from);
        changed.push(number);
        let same = self.same.entry(to).or_default();
        let at = same.partition_point(|&n| n < short);
        same.insert(at, short);
        changed.extend(same[at + 1..].iter().map(|&n| usize::from(n)));
        self.rekey(to);
        self.mend(&changed);
    }

    /// Adds a channel again that was removed.
    pub(super) fn reseat(&mut self, number: usize, at: Seat, weight: u32) {
        let Ok(short) = u16::try_from(number) else { return };
        let same = self.same.entry(at).or_default();
        let place = same.partition_point(|&n| n < short);
        same.insert(place, short);
        let mut changed: Vec<usize> = same[place..].iter().map(|&n| usize::from(n)).collect();
        self.rekey(at);
        if let Some(seat) = self.seats.get_mut(number) {
            seat.weight = weight;
            changed.push(number);
        }
        self.mend(&changed);
    }

    /// Changes a channel's share of the buckets.
    pub(super) fn set_weight(&mut self, number: usize, weight: u32) {
        if let Some(seat) = self.seats.get_mut(number).filter(|seat| seat.weight != weight) {
            seat.weight = weight;
            self.mend(&[number]);
        }
    }

    /// Removes a channel for good; others with the same seat move up.
    pub(super) fn remove(&mut self, number: usize, at: Seat) {
        let Ok(short) = u16::try_from(number) else { return };
        let mut changed = self.unseat(short, at);
        if let Some(seat) = self.seats.get_mut(number) {
            seat.weight = 0;
            changed.push(number);
        }
        self.mend(&changed);
    }

    /// Removes a channel from its seat. Returns the other channels whose key changed by that.
    fn unseat(&mut self, short: u16, at: Seat) -> Vec<usize> {
        let Some(same) = self.same.get_mut(&at) else { return Vec::new() };
        same.retain(|&n| n != short);
        let after = same.partition_point(|&n| n < short);
        let changed = same[after..].iter().map(|&n| usize::from(n)).collect();
        if same.is_empty() {
            self.same.remove(&at);
        } else {
            self.rekey(at);
        }
        changed
    }

    /// The channel that a bucket maps to. `None` if no channel of the group has a weight.
    pub(super) fn winner(&mut self, bucket: Bucket) -> Option<usize> {
        if self.seats.len() <= COMPUTED {
            return self.compute(bucket);
        }
        let known = self.winners.as_ref().map_or(UNKNOWN, |winners| winners[bucket.index()]);
        if known != UNKNOWN {
            return Some(usize::from(known));
        }
        let winner = self.compute(bucket)?;
        let winners = self.winners.get_or_insert_with(|| vec![UNKNOWN; Bucket::COUNT].into());
        winners[bucket.index()] = u16::try_from(winner).unwrap_or(UNKNOWN);
        Some(winner)
    }

    /// The best channels of a bucket, best first; all others come after them. Empty in small groups, where
    /// looking at every channel is as fast.
    pub(super) fn ranks(&mut self, bucket: Bucket) -> impl Iterator<Item = usize> + '_ {
        let is_large = self.seats.len() > COMPUTED;
        if is_large && self.ranks.is_empty() {
            self.ranks = vec![0; Bucket::COUNT * RANKS];
        }
        let at = bucket.index() * RANKS;
        if self.ranks.get(at) == Some(&0) {
            for (nth, number) in self.rank(bucket).into_iter().enumerate() {
                self.ranks[at + nth] = u16::try_from(number + 1).unwrap_or(0);
            }
        }
        let row = self.ranks.get(at..at + RANKS).unwrap_or_default();
        row.iter().take_while(|&&next| next > 0).map(|&next| usize::from(next) - 1)
    }

    fn rank(&self, bucket: Bucket) -> Vec<usize> {
        let spot = bucket.spot();
        let mut best: Vec<Score> = Vec::with_capacity(RANKS + 1);
        for number in 0..self.seats.len() {
            let next = self.score(spot, number);
            let is_among = best.len() < RANKS || best.last().is_some_and(|&last| next.beats(last));
            if next.weight > 0 && is_among {
                let at = best.partition_point(|&other| other.beats(next));
                best.insert(at, next);
                best.truncate(RANKS);
            }
        }
        best.into_iter().map(|score| score.number).collect()
    }

    /// The candidate with the highest score for the bucket.
    pub(super) fn best_of(&self, bucket: Bucket, candidates: impl Iterator<Item = usize>) -> Option<usize> {
        let spot = bucket.spot();
        let better = |best: Score, next: Score| if next.beats(best) { next } else { best };
        let scores = candidates.map(|number| self.score(spot, number));
        scores.filter(|score| score.weight > 0).reduce(better).map(|best| best.number)
    }

    fn compute(&self, bucket: Bucket) -> Option<usize> {
        self.best_of(bucket, 0..self.seats.len())
    }

    fn score(&self, spot: u64, number: usize) -> Score {
        let seat = self.seats[number];
        Score { hash: mix(seat.key ^ spot), weight: seat.weight, number }
    }

    fn rekey(&mut self, at: Seat) {
        for (nth, &number) in self.same.get(&at).into_iter().flatten().enumerate() {
            self.seats[usize::from(number)].key = at.key(nth);
        }
    }

    /// Corrects the remembered winners after these channels got another key.
    fn mend(&mut self, changed: &[usize]) {
        self.ranks = Vec::new();
        if changed.len() > MENDED {
            self.winners = None;
        }
        let Some(mut winners) = self.winners.take() else { return };
        for (bucket, slot) in (0_u16..=u16::MAX).zip(winners.iter_mut()) {
            if *slot == UNKNOWN {
                continue;
            }
            let winner = usize::from(*slot);
            let best = if changed.contains(&winner) {
                None
            } else {
                self.best_of(Bucket(bucket), changed.iter().copied().chain([winner]))
            };
            *slot = best.and_then(|best| u16::try_from(best).ok()).unwrap_or(UNKNOWN);
        }
        self.winners = Some(winners);
    }
}

/// `-log2(hash / 2^64)` with 32 bits after the binary point. In integers, because the floating-point
/// logarithm may differ in its last bit between machines.
fn cost(hash: u64) -> u64 {
    let hash = hash.max(1);
    let whole = 63 - u64::from(hash.leading_zeros());
    let mut mantissa = hash << hash.leading_zeros();
    let mut fraction = 0;
    for _ in 0..32 {
        // The mantissa is 1.x with 63 bits after the point; its square gives the next bit of the logarithm.
        let square = (u128::from(mantissa) * u128::from(mantissa)) >> 63;
        let carry = square >> 64;
        fraction = fraction << 1 | carry as u64;
        mantissa = (square >> carry) as u64;
    }
    (64 << 32) - (whole << 32 | fraction)
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, SocketAddr};

    use super::super::Addresses;
    use super::*;

    fn seat(n: u32) -> Seat {
        let ip = IpAddr::V4((0x0a00_0000 + n).into());
        Seat::of(&Addresses::from(SocketAddr::new(ip, 80)))
    }

    fn seating(seats: impl IntoIterator<Item = Seat>) -> Seating {
        let mut seating = Seating::default();
        seats.into_iter().for_each(|seat| seating.push(seat, 1));
        seating
    }

    fn buckets() -> impl Iterator<Item = Bucket> {
        (0..=u16::MAX).map(Bucket)
    }

    /// Compares the remembered winner of every bucket with a computed one.
    fn check(seating: &mut Seating, what: &str) {
        for bucket in buckets() {
            assert_eq!(seating.winner(bucket), seating.compute(bucket), "{what}: {bucket:?}");
        }
    }

    #[test]
    fn nobody_wins_an_empty_group() {
        assert_eq!(seating([]).winner(Bucket(0)), None);
        assert_eq!(seating([seat(1)]).best_of(Bucket(0), std::iter::empty()), None);
        assert_eq!(seating([seat(1)]).winner(Bucket(9)), Some(0));
    }

    #[test]
    fn remembered_winners_are_the_computed_ones_through_every_edit() {
        let mut large = seating((0..40).map(seat));
        check(&mut large, "new");
        large.push(seat(100), 1);
        check(&mut large, "one more");
        large.push(seat(5), 1);
        check(&mut large, "one more of an address that is there");
        large.change(3, seat(3), seat(200));
        check(&mut large, "another address");
        large.change(5, seat(5), seat(201));
        check(&mut large, "the first of two goes, the second moves up");
        large.change(0, seat(0), seat(5));
        check(&mut large, "one comes before another of its address");
        (0..20).for_each(|_| large.push(seat(7), 1));
        check(&mut large, "many of one address");
        large.change(7, seat(7), seat(202));
        check(&mut large, "the first of many goes");
    }

    #[test]
    fn what_the_group_is_counts_and_not_how_it_became_so() {
        let mut edited = seating([1, 2, 2, 3, 1].map(seat));
        edited.change(1, seat(2), seat(9));
        edited.change(0, seat(1), seat(2));
        edited.change(3, seat(3), seat(1));
        let mut fresh = seating([2, 9, 2, 1, 1].map(seat));
        for bucket in buckets() {
            assert_eq!(edited.winner(bucket), fresh.winner(bucket), "{bucket:?}");
        }
    }

    #[test]
    fn buckets_are_shared_by_weight() {
        let mut weighted = Seating::default();
        for (n, weight) in [1, 2, 5].into_iter().enumerate() {
            weighted.push(seat(n as u32), weight);
        }
        let mut won = [0_u32; 3];
        buckets().for_each(|bucket| won[weighted.winner(bucket).expect("three channels")] += 1);
        for (won, expected) in won.into_iter().zip([8_192, 16_384, 40_960]) {
            assert!(won.abs_diff(expected) < 500, "{won} buckets, expected about {expected}");
        }
    }

    #[test]
    fn a_channel_without_weight_or_removed_leaves_its_buckets_to_the_next_best() {
        for size in [5, 40] {
            let mut full = seating((0..size).map(seat));
            let before: Vec<_> = buckets().map(|bucket| full.winner(bucket)).collect();
            let mut without = seating((0..size).map(seat));
            check(&mut without, "filled");
            without.set_weight(2, 0);
            check(&mut without, "no weight");
            let moved =
                |seating: &mut Seating, bucket: Bucket| seating.winner(bucket) != before[bucket.index()];
            let rightly = |bucket: Bucket| before[bucket.index()] == Some(2);
            assert!(buckets().all(|bucket| moved(&mut without, bucket) == rightly(bucket)));
            without.set_weight(2, 1);
            check(&mut without, "weight again");
            assert!(!buckets().any(|bucket| moved(&mut without, bucket)));
            without.remove(2, seat(2));
            check(&mut without, "removed");
            assert!(buckets().all(|bucket| moved(&mut without, bucket) == rightly(bucket)));
        }
    }

    #[test]
    fn when_the_first_of_an_address_is_removed_the_second_takes_its_seat() {
        let mut edited = seating([1, 2, 1, 3].map(seat));
        edited.remove(0, seat(1));
        let mut fresh = seating([2, 1, 3].map(seat));
        for bucket in buckets() {
            assert_eq!(edited.winner(bucket), fresh.winner(bucket).map(|number| number + 1), "{bucket:?}");
        }
        for number in 1..4 {
            edited.set_weight(number, 0);
        }
        assert_eq!(edited.winner(Bucket(3)), None);
    }

    #[test]
    fn equal_weights_of_any_size_are_even_weights() {
        let mut heavy = Seating::default();
        (0..9).for_each(|n| heavy.push(seat(n), u32::MAX));
        let mut even = seating((0..9).map(seat));
        assert!(buckets().all(|bucket| heavy.winner(bucket) == even.winner(bucket)));
    }

    #[test]
    fn the_cost_is_a_logarithm() {
        let rows = [
            (1 << 63, 1.0),
            (1 << 62, 2.0),
            (3 << 62, 0.415_037_499),
            (1, 64.0),
            (0, 64.0),
            (u64::MAX, 0.0),
            (0x1234_5678_9abc_def0, 3.813_781_19),
        ];
        for (hash, expected) in rows {
            let got = cost(hash) as f64 / (1_u64 << 32) as f64;
            assert!((got - expected).abs() < 1e-6, "{hash:#x}: {got}, expected {expected}");
        }
        for shift in 0..64 {
            let hash = u64::MAX >> shift;
            assert!(cost(hash) <= cost(hash - 1), "a higher hash never costs more: {hash:#x}");
        }
    }
}
