//! Turns by weight: evenly spread, and exact over every full round.
//!
//! Knows: weights, turns taken. Never: channels, which are usable, what a weight is for.
//!
//! A member's turns are at the middles of `weight` equal parts of a round: with weights 3 and 1 they are at
//! 1/6, 3/6, 5/6 and at 1/2, so the order is a a b a. The next turn is the earliest one; finding it costs
//! O(log n), and in each round every member gets exactly its weight. Times are fractions with different
//! denominators, compared by cross-multiplication.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use super::bits::Tried;

/// The time of a turn, as in stride scheduling: `(2 turns + 1) / (2 weight)` rounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Pass {
    turns: u64,
    weight: u32,
    number: u16,
}

impl Ord for Pass {
    fn cmp(&self, other: &Self) -> Ordering {
        let mine = u128::from(2 * self.turns + 1) * u128::from(other.weight);
        let its = u128::from(2 * other.turns + 1) * u128::from(self.weight);
        mine.cmp(&its).then(self.number.cmp(&other.number))
    }
}

impl PartialOrd for Pass {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The turns of a group's members. Other channels take no turns.
#[derive(Debug, Default)]
pub(super) struct Stride {
    queue: BTreeSet<Pass>,
    /// Each member's next turn by number, including members that are out at the moment.
    turns: Vec<Option<Pass>>,
    /// The turn that was taken last, which is the present time. Each member's next turn comes after it, by at
    /// most one of the member's parts of a round. That alone makes every following round exact.
    now: Option<Pass>,
}

impl Stride {
    /// Lets a member take turns with this weight (above 0). A member that is new or comes back starts at its
    /// next turn from now on: turns that it missed meanwhile are lost.
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
        let mut turn = self.first_due(weight, short);
        if let Some(known) = known.filter(|known| known.weight == weight) {
            // Leaving and coming back gains no turn.
            turn.turns = turn.turns.max(known.turns);
        }
        self.put(turn);
    }

    /// Removes a member.
    pub(super) fn leave(&mut self, number: usize) {
        if let Some(Some(turn)) = self.turns.get(number) {
            self.queue.remove(turn);
        }
    }

    /// The member whose turn it is, without those that were tried.
    pub(super) fn next(&self, tried: &Tried) -> Option<usize> {
        self.queue.iter().map(|turn| usize::from(turn.number)).find(|&number| !tried.contains(number))
    }

    /// The member takes its turn. Members whose turn was earlier were passed over, and save nothing up by
    /// that.
    pub(super) fn take(&mut self, number: usize) {
        let Some(&Some(turn)) = self.turns.get(number) else { return };
        // A channel that is not a member but was picked when nothing else was left takes no turn.
        if !self.queue.remove(&turn) {
            return;
        }
        self.now = Some(turn);
        self.put(Pass { turns: turn.turns + 1, ..turn });
        while let Some(&late) = self.queue.first().filter(|&&first| first < turn) {
            self.queue.remove(&late);
            self.put(self.first_due(late.weight, late.number));
        }
    }

    fn put(&mut self, turn: Pass) {
        self.turns[usize::from(turn.number)] = Some(turn);
        self.queue.insert(turn);
    }

    /// The first turn of this weight after the one that was taken last.
    fn first_due(&self, weight: u32, number: u16) -> Pass {
        let Some(now) = self.now else { return Pass { turns: 0, weight, number } };
        // (2 turns + 1) / weight >= (2 now.turns + 1) / now.weight
        let least = (u128::from(2 * now.turns + 1) * u128::from(weight)).div_ceil(u128::from(now.weight));
        let turns = u64::try_from(least.saturating_sub(1).div_ceil(2)).unwrap_or(u64::MAX / 4);
        let turn = Pass { turns, weight, number };
        if turn > now { turn } else { Pass { turns: turns + 1, ..turn } }
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

    #[test]
    fn who_failed_for_long_does_not_catch_up() {
        let mut stride = Stride::default();
        stride.enter(0, 3);
        stride.enter(1, 1);
        let mut tried = Tried::default();
        tried.insert(0);
        for _ in 0..1_000 {
            // The first one fails, and the client goes on to the second.
            for tried in [&Tried::default(), &tried] {
                let number = stride.next(tried).expect("a member");
                stride.take(number);
            }
        }
        let after = take(&mut stride, 8);
        assert_eq!((after.matches('a').count(), after.matches('b').count()), (6, 2), "{after}");
    }

    #[test]
    fn the_first_round_after_somebody_came_is_exact() {
        let mut stride = Stride::default();
        stride.enter(1, 1);
        stride.enter(2, 2);
        assert_eq!(take(&mut stride, 2), "cb");
        stride.enter(0, 1);
        let round = take(&mut stride, 4);
        let counts = ['a', 'b', 'c'].map(|letter| round.matches(letter).count());
        assert_eq!(counts, [1, 1, 2], "{round}");
    }

    #[test]
    fn who_is_out_takes_no_turn() {
        let mut stride = Stride::default();
        stride.enter(0, 1);
        stride.enter(1, 2);
        take(&mut stride, 3);
        stride.leave(0);
        (0..50).for_each(|_| stride.take(0));
        stride.enter(0, 1);
        let after = take(&mut stride, 3);
        assert_eq!((after.matches('a').count(), after.matches('b').count()), (1, 2), "{after}");
    }
}
