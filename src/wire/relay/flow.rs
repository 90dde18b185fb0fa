//! One direction of a relay: what it holds between two turns, and how far it has come.
//!
//! Knows: bytes that were read and not yet delivered, of whom they are. Never: the other direction, the
//! sides, when to read.

use crate::wire::pace::Pace;

/// The state of one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FlowStage {
    /// The source may send more.
    Open,
    /// The source has ended. Held bytes go out first, then the end.
    Draining,
    /// The end was passed on.
    Ended,
    /// The destination is gone, so nothing can be delivered.
    Dropped,
}

/// What one direction holds between two turns. An idle connection holds nothing.
#[derive(Debug)]
pub(super) enum Held<P> {
    Nothing,
    Bytes {
        bytes: Box<[u8]>,
        at: u32,
        /// How many of the bytes, from the first one, balance has added itself: a header in front of the
        /// source's bytes.
        lead: u16,
    },
    Pipe {
        pipe: P,
        len: u32,
    },
}

impl<P> Held<P> {
    /// Holds bytes of the source, the first `lead` of which balance has added.
    pub(super) fn bytes(bytes: Box<[u8]>, lead: usize) -> Self {
        Self::Bytes { bytes, at: 0, lead: u16::try_from(lead).unwrap_or(u16::MAX) }
    }

    /// How many bytes are held, and how many of them balance has added.
    pub(super) fn count(&self) -> (usize, usize) {
        match self {
            Self::Nothing => (0, 0),
            Self::Bytes { bytes, at, lead } => {
                (bytes.len() - *at as usize, usize::from(*lead).saturating_sub(*at as usize))
            }
            Self::Pipe { len, .. } => (*len as usize, 0),
        }
    }

    /// The header in front of the source's first bytes, while none of it has been sent and none of the
    /// source's bytes has been read.
    pub(super) fn lead(&self) -> Option<&[u8]> {
        match self {
            Self::Bytes { bytes, at: 0, lead } if bytes.len() == usize::from(*lead) => Some(bytes),
            _ => None,
        }
    }
}

/// One direction.
#[derive(Debug)]
pub(super) struct Flow<P> {
    pub(super) held: Held<P>,
    pub(super) urgent: Option<u8>,
    /// The held bytes came before the relay began and were not reported by
    /// [`Kernel::saw`](super::Kernel::saw).
    pub(super) untold: bool,
    /// Something was written and not flushed.
    pub(super) unflushed: bool,
    pub(super) stage: FlowStage,
    pub(super) splicing: bool,
    /// [`Kernel::expect_bulk`](super::Kernel::expect_bulk) was called.
    pub(super) is_bulk: bool,
    /// The last read may have ended at the urgent mark.
    pub(super) is_mark_near: bool,
    /// While copying: how many full reads in a row. While splicing: how many small splices in a row.
    pub(super) streak: u8,
    pub(super) pace: Pace,
}

impl<P> Flow<P> {
    pub(super) fn new() -> Self {
        Self {
            held: Held::Nothing,
            urgent: None,
            is_mark_near: false,
            untold: false,
            unflushed: false,
            stage: FlowStage::Open,
            splicing: false,
            is_bulk: false,
            streak: 0,
            pace: Pace::default(),
        }
    }

    pub(super) fn holds_data(&self) -> bool {
        self.urgent.is_some()
            || match self.held {
                Held::Nothing => false,
                Held::Bytes { .. } => true,
                Held::Pipe { len, .. } => len > 0,
            }
    }

    /// Are bytes waiting to be delivered, held here or kept back by the kernel side?
    pub(super) fn is_waiting(&self) -> bool {
        self.unflushed || self.holds_data()
    }
}
