//! How much of a bulk transfer one splice takes.
//!
//! Knows: how much the destination took before it was full. Never: pipes, sockets, time.
//!
//! Bytes that were taken from the source wait in a pipe, which pins kernel memory for as long as the
//! destination does not read them. Large splices, however, cost less per byte. So a splice is small until the
//! destination has shown that it takes data; a destination that takes nothing pins little. After that, the
//! pace estimates how much the destination will take next.

/// Maximum size of one splice, and maximum number of bytes a direction holds in its pipe.
pub const PIPE_BYTES: usize = 1 << 20;
/// Size of one splice, in bytes, while the destination may be full.
pub const LITTLE: usize = 64 * 1024;
/// How much a destination must have taken, in KiB, to prove that it takes what it is given. This is more than
/// the buffers on the way hold before anybody reads.
const PROOF_KIB: u16 = 16 * 1024;

/// The pace of one direction. Counts in KiB in 16 bits, to keep idle connections small.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Pace {
    /// How much the destination has taken in all, up to the proof, in KiB.
    total: u16,
    /// How much it has taken since it was last full, in KiB.
    taken: u16,
    /// How much it takes between two times that it is full, in KiB; 0 if it has not been full yet.
    room: u16,
}

impl Pace {
    /// How many bytes the destination is expected to take.
    pub(super) fn expected(self) -> usize {
        if !self.flows() {
            return LITTLE;
        }
        let left = usize::from(self.room.saturating_sub(self.taken)) * 1024;
        // A destination that took so much without being full is as fast as its source.
        if self.taken >= PROOF_KIB { PIPE_BYTES } else { left.clamp(LITTLE, PIPE_BYTES) }
    }

    /// Has the destination shown that it takes what it is given?
    pub(super) fn flows(self) -> bool {
        self.total >= PROOF_KIB
    }

    /// Notes that the destination took this many bytes.
    pub(super) fn took(&mut self, bytes: usize) {
        let kib = u16::try_from(bytes.div_ceil(1024)).unwrap_or(u16::MAX);
        self.taken = self.taken.saturating_add(kib).min(PROOF_KIB);
        self.total = self.total.saturating_add(kib).min(PROOF_KIB);
    }

    /// Notes that the destination is full.
    pub(super) fn full(&mut self) {
        // With nothing taken since the last time, this is a repeated report or a brief chance.
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

    /// What is left of one full pipe when a destination stops taking, at most.
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
