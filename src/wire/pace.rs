//! How much of a bulk transfer is taken on at once.
//!
//! Knows: how much the destination took before it was full. Never: pipes, sockets, time.
//!
//! What is taken on and not taken off waits in a pipe, which pins memory of the kernel for as long as the destination
//! likes. Much at once is cheap, though. So little is taken on where nothing is known yet: one that takes nothing pins
//! little. Of the others the pace says how much they are expected to take, and whether they have shown that they take what
//! they are given, so that more may wait for them if there is room.

/// The most that one splice moves, and the most a direction holds in its pipe, in bytes.
pub const PIPE_BYTES: usize = 1 << 20;
/// What one splice moves where the destination may be full, in bytes.
pub const LITTLE: usize = 64 * 1024;
/// A destination that took so much has shown that it takes what it is given, in KiB. More than all buffers on the way hold
/// that grow before anybody reads.
const PROOF_KIB: u16 = 16 * 1024;

/// The pace of one direction. In KiB, so that an idle connection does not pay for it.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Pace {
    /// What the destination took in all, up to the proof.
    total: u16,
    /// What it took since it was full last.
    taken: u16,
    /// What it takes between being full and being full again. 0 = it was not full yet.
    room: u16,
}

impl Pace {
    /// How much the destination is going to take, in bytes.
    pub(super) fn expected(self) -> usize {
        if !self.flows() {
            return LITTLE;
        }
        let left = usize::from(self.room.saturating_sub(self.taken)) * 1024;
        // One that was not full for so long is as fast as its source.
        if self.taken >= PROOF_KIB { PIPE_BYTES } else { left.clamp(LITTLE, PIPE_BYTES) }
    }

    /// Has it shown that it takes what it is given?
    pub(super) fn flows(self) -> bool {
        self.total >= PROOF_KIB
    }

    /// The destination took something.
    pub(super) fn took(&mut self, bytes: usize) {
        let kib = u16::try_from(bytes.div_ceil(1024)).unwrap_or(u16::MAX);
        self.taken = self.taken.saturating_add(kib).min(PROOF_KIB);
        self.total = self.total.saturating_add(kib).min(PROOF_KIB);
    }

    /// The destination is full.
    pub(super) fn full(&mut self) {
        // It was told twice, or of a moment's luck.
        if self.taken > 0 {
            self.room = if self.room == 0 { self.taken } else { self.room.midpoint(self.taken) };
        }
        self.taken = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: usize = 1024;

    /// What one full pipe of a pace ends as: the largest amount that is left when a destination stops taking.
    fn left_by(room: usize, pace: &mut Pace) -> usize {
        let mut left = room;
        loop {
            let most = pace.expected();
            pace.took(most.min(left));
            if most > left {
                pace.full();
                return most - left;
            }
            left -= most;
        }
    }

    #[test]
    fn one_that_was_never_read_pins_little() {
        for room in [0, 100 * KIB, 4_000 * KIB, 10_000 * KIB] {
            let mut pace = Pace::default();
            assert!(left_by(room, &mut pace) <= LITTLE && !pace.flows(), "{room}");
        }
    }

    #[test]
    fn one_that_reads_steadily_is_met_with_much_and_leaves_little() {
        let mut pace = Pace::default();
        for burst in 0..11 {
            assert!(!pace.flows() && pace.expected() == LITTLE, "{burst}");
            left_by(1_500 * KIB, &mut pace);
        }
        for _ in 0..10 {
            assert_eq!((pace.flows(), pace.expected()), (true, PIPE_BYTES));
            assert!(left_by(1_500 * KIB, &mut pace) <= LITTLE);
        }
    }

    #[test]
    fn one_that_is_never_full_is_fast() {
        let mut pace = Pace::default();
        for _ in 0..16 * 16 {
            assert_eq!((pace.flows(), pace.expected()), (false, LITTLE));
            pace.took(LITTLE);
        }
        assert_eq!(pace.expected(), PIPE_BYTES);
    }
}
