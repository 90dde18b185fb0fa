//! One session's bytes, handed from the worker that moves them to whoever has asked to see them.
//!
//! Knows: chunks, which way they went, how many wait, what was left out. Never: connections, how a chunk is shown, who looks.
//! Source: docs/observability.md, "One session's bytes".
//!
//! The worker copies a chunk into a bounded channel and goes on. What there is no room for is counted instead, and whoever looks is told of it
//! at the place where it is missing. Nothing here waits for anybody on the worker's side.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use crate::observe::Direction;
use crate::sched::{Address, ChannelKey, End, Peers};

/// So many bytes may wait for the reader of a tap, including the memory that it takes to keep them.
pub const TAP_ROOM: usize = 1 << 20;
/// So many chunks may.
const CHUNKS: usize = 2_048;
/// What a chunk costs beside its bytes, about.
const CHUNK_COST: usize = 64;

/// A session as it was when the tap began.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TapStart {
    /// When that was.
    pub at: SystemTime,
    /// Its client, if the system still knows it.
    pub client: Option<Peers>,
    /// Where the client came in.
    pub service: Option<Address>,
    /// The channel it has; `None` while it waits for one.
    pub channel: Option<(ChannelKey, Option<Address>)>,
    /// Bytes of the client that had been taken before, and are not seen.
    pub sent_bytes: u64,
    /// The same of the channel.
    pub rcvd_bytes: u64,
}

/// Something of a session, in the order in which it happened: first what was left out, then the channel that it has left, then which
/// sides ended, then bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TapPiece {
    /// When the last of it was.
    pub at: SystemTime,
    /// Bytes that were left out, by [`Direction`].
    pub left_out: [u64; 2],
    /// This channel has closed its connection at once, and its client went on to another one.
    pub moved_on: Option<ChannelKey>,
    /// Which sides have ended their direction.
    pub ended: [bool; 2],
    /// Bytes as they were read; empty where there are none.
    pub bytes: Vec<u8>,
    /// Which way they went.
    pub direction: Direction,
}

/// Why a tap sees nothing more of its session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TapEnd {
    /// The session has ended.
    Session(End),
    /// It is on its way to another process, or back from there.
    Left,
}

/// The last message about a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastWords {
    /// Bytes that were left out at the end, by [`Direction`].
    pub left_out: [u64; 2],
    /// Sides that have ended since the last piece.
    pub ended: [bool; 2],
    /// Why there is no more.
    pub why: TapEnd,
    /// When that was.
    pub at: SystemTime,
}

#[derive(Debug, Default)]
struct TapLink {
    /// Bytes that wait to be looked at, with their cost.
    waiting: AtomicUsize,
    /// Nobody looks any more.
    is_over: AtomicBool,
    last: OnceLock<LastWords>,
}

/// A new tap: the end of the reader, and the end of the worker that has the session.
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

/// The worker's end. Dropped without [`TapSource::end`], the reader does not learn why the session is gone.
#[derive(Debug, Clone)]
pub struct TapSource {
    sender: SyncSender<TapPiece>,
    link: Arc<TapLink>,
    /// Not told yet.
    left_out: [u64; 2],
    /// Not told yet.
    ended: [bool; 2],
    /// Not told yet.
    moved_on: Option<ChannelKey>,
    /// There was no room. Before there is a good deal of it, nothing is copied: better one gap than many.
    is_behind: bool,
}

impl TapSource {
    /// Has the reader gone?
    pub fn is_over(&self) -> bool {
        self.link.is_over.load(Ordering::Relaxed)
    }

    /// These bytes were read; none: that side has ended its direction. Never waits.
    pub fn saw(&mut self, direction: Direction, bytes: &[u8]) {
        self.ended[direction as usize] |= bytes.is_empty();
        self.tell(direction, bytes);
    }

    /// The session's channel has closed its connection at once, and its client goes on to another one.
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
        // Before it can be taken out again.
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

    /// There is no more to see.
    pub fn end(self, why: TapEnd) {
        let last = LastWords { left_out: self.left_out, ended: self.ended, why, at: now() };
        // Only one worker has the session.
        let _ = self.link.last.set(last);
    }
}

/// The end that looks. Dropped, the worker copies nothing more.
#[derive(Debug)]
pub struct Tap {
    pieces: Receiver<TapPiece>,
    link: Arc<TapLink>,
}

/// What there is to see.
#[derive(Debug, PartialEq, Eq)]
pub enum TapLook {
    /// This.
    Piece(TapPiece),
    /// Nothing so far.
    Nothing,
    /// No more; `None`: and nobody knows why.
    Over(Option<LastWords>),
}

impl Tap {
    /// The next piece; waits for it as long as `patience`.
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

/// The time of day, for those who read it later; nothing is decided by it.
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
