//! Sets of channel numbers: the usable channels of a group, and those that a route has tried.
//!
//! Knows: numbers below 64 * 64 * 64. Never: what they number.

/// A set that finds "the first member from here on" in three steps, however many members or gaps there are:
/// each level has a bit for every word of the level below that is not empty.
#[derive(Debug, Default)]
pub(super) struct BitTree {
    leaves: Vec<u64>,
    middle: Vec<u64>,
    top: u64,
}

impl BitTree {
    /// Numbers must be below this.
    const CAPACITY: usize = 64 * 64 * 64;

    pub(super) fn insert(&mut self, number: usize) {
        debug_assert!(number < Self::CAPACITY);
        let (leaf, middle) = (number / 64, number / 4096);
        if self.leaves.len() <= leaf {
            self.leaves.resize(leaf + 1, 0);
            self.middle.resize(middle + 1, 0);
        }
        self.leaves[leaf] |= bit(number);
        self.middle[middle] |= bit(leaf);
        self.top |= bit(middle);
    }

    pub(super) fn remove(&mut self, number: usize) {
        let (leaf, middle) = (number / 64, number / 4096);
        let Some(word) = self.leaves.get_mut(leaf) else { return };
        *word &= !bit(number);
        if *word != 0 {
            return;
        }
        self.middle[middle] &= !bit(leaf);
        if self.middle[middle] == 0 {
            self.top &= !bit(middle);
        }
    }

    pub(super) fn contains(&self, number: usize) -> bool {
        self.leaves.get(number / 64).is_some_and(|word| word & bit(number) != 0)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.top == 0
    }

    /// The smallest member that is at least `from` and was not tried.
    pub(super) fn first_from(&self, from: usize, tried: &Tried) -> Option<usize> {
        let mut leaf = from / 64;
        let mut mask = u64::MAX << (from % 64);
        loop {
            let found = self.leaf_from(leaf)?;
            if found != leaf {
                mask = u64::MAX;
            }
            let word = self.leaves[found] & mask & !tried.word(found);
            if word != 0 {
                return Some(found * 64 + lowest(word));
            }
            leaf = found + 1;
            mask = u64::MAX;
        }
    }

    /// All members, in order.
    pub(super) fn members(&self) -> impl Iterator<Item = usize> + '_ {
        const NOBODY: &Tried = &Tried(Vec::new());
        self.iter(NOBODY)
    }

    /// All members that were not tried, in order.
    pub(super) fn iter<'a>(&'a self, tried: &'a Tried) -> impl Iterator<Item = usize> + 'a {
        let mut from = 0;
        std::iter::from_fn(move || {
            let number = self.first_from(from, tried)?;
            from = number + 1;
            Some(number)
        })
    }

    /// The first non-empty leaf at or after `leaf`.
    fn leaf_from(&self, leaf: usize) -> Option<usize> {
        let middle = leaf / 64;
        let word = self.middle.get(middle)? & (u64::MAX << (leaf % 64));
        if word != 0 {
            return Some(middle * 64 + lowest(word));
        }
        let above = if middle < 63 { self.top & (u64::MAX << (middle + 1)) } else { 0 };
        if above == 0 {
            return None;
        }
        let middle = lowest(above);
        Some(middle * 64 + lowest(self.middle[middle]))
    }
}

/// The channels of one group that a route has tried. They are usually few, so only words that are not empty
/// are kept, in order. Waiting clients keep their set.
#[derive(Debug, Default, Clone)]
pub(super) struct Tried(Vec<(u32, u64)>);

impl Tried {
    pub(super) fn insert(&mut self, number: usize) {
        let Ok(index) = u32::try_from(number / 64) else { return };
        match self.find(index) {
            Ok(at) => self.0[at].1 |= bit(number),
            Err(at) => self.0.insert(at, (index, bit(number))),
        }
    }

    pub(super) fn contains(&self, number: usize) -> bool {
        self.word(number / 64) & bit(number) != 0
    }

    /// All members, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        self.0.iter().flat_map(|&(index, word)| {
            (0..64)
                .filter(move |&number| word & bit(number) != 0)
                .map(move |number| index as usize * 64 + number)
        })
    }

    fn word(&self, index: usize) -> u64 {
        let index = u32::try_from(index).unwrap_or(u32::MAX);
        self.find(index).map_or(0, |at| self.0[at].1)
    }

    fn find(&self, index: u32) -> Result<usize, usize> {
        self.0.binary_search_by_key(&index, |&(index, _)| index)
    }
}

fn bit(number: usize) -> u64 {
    1 << (number % 64)
}

fn lowest(word: u64) -> usize {
    word.trailing_zeros() as usize
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn tree(members: &[usize]) -> BitTree {
        let mut tree = BitTree::default();
        members.iter().for_each(|&number| tree.insert(number));
        tree
    }

    fn tried(members: &[usize]) -> Tried {
        let mut tried = Tried::default();
        members.iter().for_each(|&number| tried.insert(number));
        tried
    }

    #[test]
    fn the_first_from_here_is_found_over_gaps_of_every_size() {
        let check = |members: &[usize], skip: &[usize], from, expected| {
            let found = tree(members).first_from(from, &tried(skip));
            assert_eq!(found, expected, "{members:?} without {skip:?} from {from}");
        };
        check(&[], &[], 0, None);
        check(&[0], &[], 0, Some(0));
        check(&[0], &[], 1, None);
        check(&[63, 64], &[], 63, Some(63));
        check(&[63, 64], &[], 64, Some(64));
        check(&[63, 64], &[63], 0, Some(64));
        check(&[0, 4095], &[], 1, Some(4095));
        check(&[0, 4096], &[], 1, Some(4096));
        check(&[0, 65_534], &[], 1, Some(65_534));
        check(&[0, 65_534], &[65_534], 1, None);
        check(&[0, 65_534], &[], 65_535, None);
        check(&[262_143], &[], 0, Some(262_143));
        check(&[262_142], &[], 262_143, None);
        check(&[5, 9_000], &[5], 3, Some(9_000));
        check(&[5], &[5, 100_000], 0, None);
    }

    #[test]
    fn it_agrees_with_an_ordered_set_through_random_changes() {
        let mut state = 7_u64;
        let mut random = move |below: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % below
        };
        let (mut tree, mut oracle) = (BitTree::default(), BTreeSet::new());
        let skip = tried(&[1, 64, 500, 4_100, 12_000]);
        let skipped = |number: &&usize| !skip.contains(**number);
        for step in 0..20_000 {
            let number = random(if step % 2 == 0 { 300 } else { 20_000 });
            if random(2) == 0 {
                tree.insert(number);
                oracle.insert(number);
            } else {
                tree.remove(number);
                oracle.remove(&number);
            }
            assert_eq!(tree.contains(number), oracle.contains(&number), "step {step}, number {number}");
            let from = random(21_000);
            let expected = oracle.range(from..).find(skipped).copied();
            assert_eq!(tree.first_from(from, &skip), expected, "step {step}, from {from}");
        }
        assert!(tree.iter(&skip).eq(oracle.iter().filter(skipped).copied()));
    }

    #[test]
    fn removing_what_was_never_in_changes_nothing() {
        let mut tree = tree(&[70]);
        tree.remove(0);
        tree.remove(200_000);
        assert_eq!(tree.first_from(0, &Tried::default()), Some(70));
        assert!(!tree.contains(0) && !tree.contains(200_000));
    }

    #[test]
    fn an_emptied_stretch_at_the_end_is_no_way_out() {
        let mut tree = tree(&[0, 5_000]);
        tree.remove(5_000);
        assert_eq!(tree.first_from(1, &Tried::default()), None);
    }

    #[test]
    fn tried_holds_what_was_put_in_and_nothing_else() {
        let mut tried = Tried::default();
        assert!(!tried.contains(0));
        tried.insert(0);
        assert!(tried.contains(0) && !tried.contains(1) && !tried.contains(64));
        [65_000, 63, 64, 0, 128].into_iter().for_each(|number| tried.insert(number));
        assert_eq!(tried.iter().collect::<Vec<_>>(), [0, 63, 64, 128, 65_000]);
        assert!(tried.contains(65_000) && !tried.contains(65_001) && !tried.contains(usize::MAX));
    }
}
