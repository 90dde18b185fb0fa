//! Turns by weight: smooth, and exact over every full round.
//!
//! Knows: weights, turns taken. Never: channels, who is usable, what a weight is for.
//!
//! Each member has its turns at the middles of `weight` equal parts of a round: with weights 3 and 1 that is 1/6, 3/6, 5/6
//! and 1/2, so the order is a a b a. The next turn is the earliest one; it costs O(log n), and in each round every member
//! gets exactly its weight. Times are fractions of different denominators, compared by multiplying out.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use super::bits::Tried;

/// When a turn is: `(2 turns + 1) / (2 weight)` rounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Turn {
    turns: u64,
    weight: u32,
    number: u16,
}

impl Ord for Turn {
    fn cmp(&self, other: &Self) -> Ordering {
        let mine = u128::from(2 * self.turns + 1) * u128::from(other.weight);
        let its = u128::from(2 * other.turns + 1) * u128::from(self.weight);
        mine.cmp(&its).then(self.number.cmp(&other.number))
    }
}

impl PartialOrd for Turn {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The turns of a group's members. Who is not in it takes no turns.
#[derive(Debug, Default)]
pub(super) struct Stride {
    queue: BTreeSet<Turn>,
    /// Each member's next turn, also of those who are out just now: by number.
    turns: Vec<Option<Turn>>,
    /// The turn that was taken last, as `(2 turns + 1, weight)`: that is what time it is.
    now: (u64, u32),
}

impl Stride {
    /// Lets a member take turns with this weight (above 0). One that comes, or comes back, starts at the turn that is due
    /// now: what it did not take while it was away is gone.
    pub(super) fn enter(&mut self, number: usize, weight: u32) {
        let Ok(short) = u16::try_from(number) else { return };
        if self.turns.len() <= number {
            self.turns.resize(number + 1, None);
        }
        let known = self.turns[number];
        if let Some(turn) = known {
            if turn.weight == weight && self.queue.contains(&turn) {
                return;
            }
            self.queue.remove(&turn);
        }
        let mut turn = Turn { turns: self.first_due(weight), weight, number: short };
        if let Some(known) = known.filter(|known| known.weight == weight) {
            // Leaving and coming back gains no turn.
            turn.turns = turn.turns.max(known.turns);
        }
        self.turns[number] = Some(turn);
        self.queue.insert(turn);
    }

    /// Takes a member out.
    pub(super) fn leave(&mut self, number: usize) {
        if let Some(Some(turn)) = self.turns.get(number) {
            self.queue.remove(turn);
        }
    }

    /// Whose turn it is, but for those who were tried.
    pub(super) fn next(&self, tried: &Tried) -> Option<usize> {
        self.queue.iter().map(|turn| usize::from(turn.number)).find(|&number| !tried.contains(number))
    }

    /// The member takes its turn.
    pub(super) fn take(&mut self, number: usize) {
        let Some(Some(turn)) = self.turns.get_mut(number) else { return };
        let was_in = self.queue.remove(turn);
        let taken = (2 * turn.turns + 1, turn.weight);
        turn.turns += 1;
        if was_in {
            self.queue.insert(*turn);
        }
        // A member whose turn came early, since others were tried before, does not turn the clock back.
        let (at, weight) = self.now;
        if u128::from(taken.0) * u128::from(weight.max(1)) > u128::from(at) * u128::from(taken.1) {
            self.now = taken;
        }
    }

    /// The number of the first turn of this weight that is not before now.
    fn first_due(&self, weight: u32) -> u64 {
        let (at, of) = (u128::from(self.now.0), u128::from(self.now.1.max(1)));
        // (2 turns + 1) / weight >= at / of
        let least = (at * u128::from(weight)).div_ceil(of);
        u64::try_from(least.saturating_sub(1).div_ceil(2)).unwrap_or(u64::MAX / 4)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(weights: &[u32], turns: usize) -> String {
        let mut stride = Stride::default();
        for (number, &weight) in weights.iter().enumerate() {
            stride.enter(number, weight);
        }
        take(&mut stride, turns)
    }

    fn take(stride: &mut Stride, turns: usize) -> String {
        let nobody = Tried::default();
        let mut taken = String::new();
        for _ in 0..turns {
            let number = stride.next(&nobody).expect("a member");
            stride.take(number);
            taken.push((b'a' + number as u8) as char);
        }
        taken
    }

    #[test]
    fn turns_are_spread_and_not_in_a_row() {
        for (weights, expected) in [
            (&[3, 1][..], "aabaaaba"),
            (&[1, 3], "babbbabb"),
            (&[2, 1, 1], "abcaabca"),
            (&[5, 1, 1], "aaabcaaaaabcaa"),
            (&[1], "aaa"),
            (&[256, 256], "abab"),
        ] {
            assert_eq!(order(weights, expected.len()), expected, "{weights:?}");
        }
    }

    #[test]
    fn every_round_is_exact() {
        for weights in [&[3, 1][..], &[7, 5, 3, 2], &[256, 1, 1], &[10, 10, 1], &[64, 63, 62, 1, 1, 9]] {
            let round: u32 = weights.iter().sum();
            let order = order(weights, round as usize * 5);
            for part in order.as_bytes().chunks(round as usize) {
                for (number, &weight) in weights.iter().enumerate() {
                    let got = part.iter().filter(|&&letter| letter == b'a' + number as u8).count();
                    assert_eq!(got, weight as usize, "{weights:?}");
                }
            }
        }
    }

    #[test]
    fn who_was_away_has_saved_nothing_up() {
        let mut stride = Stride::default();
        stride.enter(0, 1);
        stride.enter(1, 1);
        stride.leave(1);
        assert_eq!(take(&mut stride, 50), "a".repeat(50));
        stride.enter(1, 1);
        let after = take(&mut stride, 6);
        assert_eq!(after.matches('b').count(), 3, "{after}");
    }

    #[test]
    fn leaving_and_coming_back_gains_no_turn() {
        let mut stride = Stride::default();
        stride.enter(0, 1);
        stride.enter(1, 1);
        let mut taken = String::new();
        for _ in 0..10 {
            taken += &take(&mut stride, 1);
            for number in [0, 1] {
                stride.leave(number);
                stride.enter(number, 1);
            }
        }
        assert_eq!(taken, "ab".repeat(5));
    }

    #[test]
    fn another_weight_counts_from_now_on() {
        let mut stride = Stride::default();
        stride.enter(0, 1);
        stride.enter(1, 1);
        take(&mut stride, 1_001);
        stride.enter(0, 3);
        let after = take(&mut stride, 40);
        assert!((29..=31).contains(&after.matches('a').count()), "{after}");
    }

    #[test]
    fn tried_members_are_passed_over() {
        let mut stride = Stride::default();
        (0..3).for_each(|number| stride.enter(number, 2));
        let mut tried = Tried::default();
        tried.insert(0);
        assert_eq!(stride.next(&tried), Some(1));
        tried.insert(1);
        tried.insert(2);
        assert_eq!(stride.next(&tried), None);
    }
}
