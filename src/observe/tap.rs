//! One session's bytes on their way from the worker that moves them to a reader that wants to see them.
//!
//! Knows: chunks, their direction, how many wait, what was left out. Never: connections, how a chunk is
//! shown, who reads.
//! Source: docs/observability.md, "One session's bytes".
//!
//! The worker copies a chunk into a bounded channel and goes on. Bytes for which there is no room are counted
//! instead, and the reader is told the number at the place where they are missing. The worker never waits.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use crate::observe::Direction;
use crate::sched::{Address, ChannelKey, End, Peers};

/// Maximum number of bytes that wait for the reader of a tap, including the memory needed to keep them.
pub const TAP_ROOM: usize = 1 << 20;
/// Maximum number of chunks that wait.
const CHUNKS: usize = 2_048;
/// Approximate memory for a chunk beside its bytes.
const CHUNK_COST: usize = 64;

/// The session when the tap began.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TapStart {
    /// When the tap began.
    pub at: SystemTime,
    /// The client, if the system still knows it.
    pub client: Option<Peers>,
    /// The address that the client connected to.
    pub service: Option<Address>,
    /// Its channel and the address used; `None` while it waits for one.
    pub channel: Option<(ChannelKey, Option<Address>)>,
    /// Bytes from the client that were relayed before and are not shown.
    pub sent_bytes: u64,
    /// The same for bytes from the channel.
    pub rcvd_bytes: u64,
}

/// Something that happened in a session. The fields apply in this order: what was left out, the channel that
/// was left, the sides that ended, the bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TapPiece {
    /// When the last of it happened.
    pub at: SystemTime,
    /// How many bytes were left out, indexed by [`Direction`].
    pub left_out: [u64; 2],
    /// The channel that closed its connection at once, so that the client moved to another one.
    pub moved_on: Option<ChannelKey>,
    /// Which sides have ended their direction.
    pub ended: [bool; 2],
    /// The bytes as they were read; may be empty.
    pub bytes: Vec<u8>,
    /// The direction of the bytes.
    pub direction: Direction,
}

/// Why a tap shows nothing more of its session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TapEnd {
    /// The session has ended.
    Session(End),
    /// The session is moving to another process, or back from there.
    Left,
}

/// The last message about a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastWords {
    /// How many bytes were left out at the end, indexed by [`Direction`].
    pub left_out: [u64; 2],
    /// Which sides have ended since the last piece.
    pub ended: [bool; 2],
    /// Why there is no more.
    pub why: TapEnd,
    /// When that was.
    pub at: SystemTime,
}

#[derive(Debug, Default)]
struct TapLink {
    /// Bytes that wait for the reader, including [`CHUNK_COST`] per chunk.
    waiting: AtomicUsize,
    /// The reader is gone.
    is_over: AtomicBool,
    last: OnceLock<LastWords>,
}

/// Creates a tap: the reader's end, and the end for the worker that has the session.
pub fn new_tap() -> (Tap, TapSource) {
    let (sender, pieces) = sync_channel(CHUNKS);
    let link = Arc::new(TapLink::default());
    let source = TapSource {
        sender,
        link: Arc::clone(&link),
        left_out: [0; 2],
        ended: [false; 2],
        moved_on: None,
        is_behind: false,
    };
    (Tap { pieces, link }, source)
}

/// The worker's end. If it is dropped without [`TapSource::end`], the reader does not learn why the session
/// is gone.
#[derive(Debug, Clone)]
pub struct TapSource {
    sender: SyncSender<TapPiece>,
    link: Arc<TapLink>,
    /// Not passed on yet.
    left_out: [u64; 2],
    /// Not passed on yet.
    ended: [bool; 2],
    /// Not passed on yet.
    moved_on: Option<ChannelKey>,
    /// There was no room. Nothing is copied until half of the room is free, since one large gap is better
    /// than many.
    is_behind: bool,
}

impl TapSource {
    /// Is the reader gone?
    pub fn is_over(&self) -> bool {
        self.link.is_over.load(Ordering::Relaxed)
    }

    /// Passes on bytes that were read; an empty slice means that the side has ended its direction. Never
    /// blocks.
    pub fn saw(&mut self, direction: Direction, bytes: &[u8]) {
        self.ended[direction as usize] |= bytes.is_empty();
        self.tell(direction, bytes);
    }

    /// Passes on that the session's channel closed its connection at once, so that the client moves to
    /// another one.
    pub fn moved_on(&mut self, from: ChannelKey) {
        self.moved_on = Some(from);
        self.tell(Direction::Rcvd, &[]);
    }

    fn tell(&mut self, direction: Direction, bytes: &[u8]) {
        let way = direction as usize;
        let cost = bytes.len() + CHUNK_COST;
        let waiting = self.link.waiting.load(Ordering::Acquire);
        let most = if self.is_behind { TAP_ROOM / 2 } else { TAP_ROOM };
        self.is_behind = waiting.saturating_add(cost) > most;
        let mut copy = Vec::new();
        if self.is_behind || copy.try_reserve_exact(bytes.len()).is_err() {
            return self.leave_out(way, bytes);
        }
        copy.extend_from_slice(bytes);
        let piece = TapPiece {
            at: now(),
            left_out: self.left_out,
            moved_on: self.moved_on,
            ended: self.ended,
            bytes: copy,
            direction,
        };
        // Counted before the reader can take it out and subtract it.
        self.link.waiting.fetch_add(cost, Ordering::AcqRel);
        match self.sender.try_send(piece) {
            Ok(()) => (self.left_out, self.ended, self.moved_on) = ([0; 2], [false; 2], None),
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.link.waiting.fetch_sub(cost, Ordering::AcqRel);
                self.is_behind = true;
                self.leave_out(way, bytes);
            }
        }
    }

    fn leave_out(&mut self, way: usize, bytes: &[u8]) {
        self.left_out[way] = self.left_out[way].saturating_add(bytes.len() as u64);
    }

    /// Ends the tap and tells the reader why.
    pub fn end(self, why: TapEnd) {
        let last = LastWords { left_out: self.left_out, ended: self.ended, why, at: now() };
        // Only one worker has the session, so this is set only once.
        let _ = self.link.last.set(last);
    }
}

/// The reader's end. When it is dropped, the worker stops copying.
#[derive(Debug)]
pub struct Tap {
    pieces: Receiver<TapPiece>,
    link: Arc<TapLink>,
}

/// The result of [`Tap::look`].
#[derive(Debug, PartialEq, Eq)]
pub enum TapLook {
    /// A piece.
    Piece(TapPiece),
    /// Nothing so far.
    Nothing,
    /// The tap is over. `None`: nobody knows why.
    Over(Option<LastWords>),
}

impl Tap {
    /// Returns the next piece; waits for it at most for `patience`.
    pub fn look(&self, patience: Duration) -> TapLook {
        match self.pieces.recv_timeout(patience) {
            Ok(piece) => {
                self.link.waiting.fetch_sub(piece.bytes.len() + CHUNK_COST, Ordering::AcqRel);
                TapLook::Piece(piece)
            }
            Err(RecvTimeoutError::Timeout) => TapLook::Nothing,
            Err(RecvTimeoutError::Disconnected) => TapLook::Over(self.link.last.get().copied()),
        }
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.link.is_over.store(true, Ordering::Relaxed);
    }
}

/// The time of day, for the reader; no decision depends on it.
#[allow(clippy::disallowed_methods)]
fn now() -> SystemTime {
    SystemTime::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(tap: &Tap) -> TapPiece {
        match tap.look(Duration::ZERO) {
            TapLook::Piece(piece) => piece,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn bytes_and_ends_come_in_their_order() {
        let (tap, mut source) = new_tap();
        source.saw(Direction::Sent, b"GET");
        source.saw(Direction::Rcvd, b"200");
        source.saw(Direction::Sent, b"");
        let pieces = [(); 3].map(|()| piece(&tap));
        assert_eq!(pieces.each_ref().map(|piece| &*piece.bytes), [&b"GET"[..], b"200", b""]);
        assert_eq!(pieces.each_ref().map(|piece| piece.ended[0]), [false, false, true]);
        assert!(pieces.iter().all(|piece| piece.left_out == [0; 2] && !piece.ended[1]));
        assert_eq!(tap.look(Duration::ZERO), TapLook::Nothing);
        source.end(TapEnd::Session(End::ClientClosed));
        let TapLook::Over(Some(last)) = tap.look(Duration::ZERO) else { panic!("it is over") };
        assert_eq!(
            (last.why, last.left_out, last.ended),
            (TapEnd::Session(End::ClientClosed), [0; 2], [false; 2])
        );
    }

    #[test]
    fn what_there_is_no_room_for_is_counted_where_it_is_missing() {
        let (tap, mut source) = new_tap();
        let chunk = [b'x'; 60_000];
        for _ in 0..100 {
            source.saw(Direction::Rcvd, &chunk);
        }
        source.saw(Direction::Sent, b"");
        assert!(source.link.waiting.load(Ordering::SeqCst) <= TAP_ROOM);
        let mut seen = 0;
        while let TapLook::Piece(piece) = tap.look(Duration::ZERO) {
            assert_eq!((piece.left_out, piece.ended), ([0; 2], [false; 2]));
            seen += 1;
        }
        assert_eq!(source.link.waiting.load(Ordering::SeqCst), 0);
        source.saw(Direction::Rcvd, b"later");
        let later = piece(&tap);
        assert_eq!(later.left_out, [0, (100 - seen) * 60_000]);
        assert_eq!((later.ended, &*later.bytes), ([true, false], &b"later"[..]));
        source.saw(Direction::Rcvd, b"more");
        assert_eq!(piece(&tap).left_out, [0; 2], "it is told once");
    }

    #[test]
    fn there_is_one_gap_and_not_one_for_each_chunk_that_is_read() {
        let (tap, mut source) = new_tap();
        let chunk = [b'x'; 60_000];
        (0..20).for_each(|_| source.saw(Direction::Sent, &chunk));
        piece(&tap);
        source.saw(Direction::Sent, b"y");
        assert_eq!(source.left_out, [3 * 60_000 + 1, 0], "there is room for one, and it is not worth it");
        (0..10).for_each(|_| drop(piece(&tap)));
        source.saw(Direction::Sent, b"z");
        assert_eq!(source.left_out, [0, 0]);
    }

    #[test]
    fn many_small_chunks_are_bounded_too() {
        let (tap, mut source) = new_tap();
        (0..100_000).for_each(|_| source.saw(Direction::Sent, b"x"));
        let mut seen = 0;
        while let TapLook::Piece(_) = tap.look(Duration::ZERO) {
            seen += 1;
        }
        assert_eq!(seen, CHUNKS as u64);
        source.saw(Direction::Sent, b"x");
        assert_eq!(piece(&tap).left_out, [100_000 - seen, 0]);
    }

    #[test]
    fn the_end_is_told_however_much_waits() {
        let (tap, mut source) = new_tap();
        (0..100).for_each(|_| source.saw(Direction::Sent, &[b'x'; 60_000]));
        let left_out = source.left_out;
        source.end(TapEnd::Left);
        let last = loop {
            match tap.look(Duration::ZERO) {
                TapLook::Piece(_) => {}
                TapLook::Over(last) => break last.expect("it was told"),
                TapLook::Nothing => panic!("it is over"),
            }
        };
        assert_eq!((last.left_out, last.why), (left_out, TapEnd::Left));
    }

    #[test]
    fn whoever_looks_no_more_is_noticed_and_a_source_that_is_lost_as_well() {
        let (tap, mut source) = new_tap();
        assert!(!source.is_over());
        drop(tap);
        assert!(source.is_over());
        source.saw(Direction::Sent, b"for nobody");
        let (tap, source) = new_tap();
        drop(source);
        assert_eq!(tap.look(Duration::ZERO), TapLook::Over(None));
    }
}
