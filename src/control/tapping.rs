//! `tap`: what is asked for, and how it is shown.
//!
//! Knows: limits, the text of the dump, marks that no payload can forge, the lines that a program reads.
//! Never: sockets, who may look, files.
//! Source: docs/observability.md, "One session's bytes".
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::fmt::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use crate::config::{parse_duration, print_duration};
use crate::control::argument::Number;
use crate::observe::{Direction, LastWords, TapEnd, TapPiece, TapStart, dump_chunk};
use crate::sched::End;
use crate::spec::Address;

/// Maximum number of open taps. Each uses at most one megabyte.
pub(crate) const MAX_TAPS: usize = 16;
/// The beginning of our own lines. In the dump itself, a backslash is always followed by two hexadecimal
/// digits or another backslash.
pub(crate) const MARK: &str = "\\ ";
/// How long a tap lasts if no time is given.
const USUAL_TIME: Duration = Duration::from_secs(600);
/// How many bytes a tap shows if no size is given.
const USUAL_BYTES: u64 = 1 << 30;
/// Maximum number of bytes in one line that a program reads.
const LINE_BYTES: usize = 16 << 10;

/// The limits of a tap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TapBounds {
    /// For how long.
    pub time: Duration,
    /// How many bytes of both directions together.
    pub bytes: u64,
}

/// The form in which a tap is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TapForm {
    /// As `-p` does, for people.
    Text,
    /// In lines for a program (`pieces`).
    Pieces,
    /// In this file, which the asking program writes.
    File(Vec<u8>),
}

/// The arguments of `tap`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TapWanted {
    /// The connection, by its number in `sessions`.
    pub session: Number,
    /// The limits.
    pub bounds: TapBounds,
    /// The form.
    pub form: TapForm,
}

impl TapWanted {
    /// Reads a session number, then limits and a file in any order. `None`: the arguments are wrong.
    pub(crate) fn parse(words: &[&[u8]]) -> Option<Self> {
        let (session, more) = words.split_first()?;
        let (mut time, mut bytes, mut form) = (None, None, None);
        for word in more {
            let text = std::str::from_utf8(word).ok();
            let is_new = if let Some(found) = form_named(word) {
                form.replace(found).is_none()
            } else if let Some(found) = text.and_then(size) {
                bytes.replace(found).is_none()
            } else {
                time.replace(parse_duration(text?).ok()?).is_none()
            };
            // Each kind of argument may be given once.
            is_new.then_some(())?;
        }
        let bounds = TapBounds { time: time.unwrap_or(USUAL_TIME), bytes: bytes.unwrap_or(USUAL_BYTES) };
        Some(Self { session: Number::parse(session)?, bounds, form: form.unwrap_or(TapForm::Text) })
    }
}

fn form_named(word: &[u8]) -> Option<TapForm> {
    match word {
        b"pieces" => Some(TapForm::Pieces),
        b"-" => Some(TapForm::File(word.to_vec())),
        word if word.ends_with(b".pcapng") => Some(TapForm::File(word.to_vec())),
        _ => None,
    }
}

const SIZES: [(&str, u64); 3] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];

/// Reads a size such as `64KiB`, `10MiB` or `1GiB`.
fn size(word: &str) -> Option<u64> {
    let (digits, unit) = SIZES.iter().find_map(|(name, unit)| Some((word.strip_suffix(name)?, unit)))?;
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| digits.parse().ok()).flatten().and_then(|number: u64| number.checked_mul(*unit))
}

fn print_size(bytes: u64) -> String {
    let fits = SIZES.iter().find(|(_, unit)| bytes > 0 && bytes.is_multiple_of(*unit));
    fits.map_or_else(|| format!("{bytes} bytes"), |(name, unit)| format!("{}{name}", bytes / unit))
}

impl TapBounds {
    /// The limits as arguments of the command.
    pub(crate) fn words(&self) -> String {
        format!("{} {}KiB", print_duration(self.time), self.bytes.div_ceil(1 << 10))
    }
}

/// Why a tap has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TapStop {
    /// The session has ended.
    Ended(End),
    /// The session is being handed over to another process, or back.
    Left,
    /// The session is gone, for an unknown reason.
    Gone,
    /// The time is over.
    Time(Duration),
    /// The limit of bytes is reached; this is the limit.
    Bytes(u64),
    /// The instance closes its control sessions.
    Stopped,
    /// Nobody reads the output.
    Unread,
}

impl TapStop {
    /// The reason as a sentence.
    pub(crate) fn of(self, id: u64) -> String {
        match self {
            Self::Ended(how) => format!("session {id} has ended: {how}"),
            Self::Left => format!("session {id} is being handed over to another process"),
            Self::Gone => format!("session {id} is gone"),
            Self::Time(time) if time.is_zero() => format!("no time was given; session {id} goes on"),
            Self::Time(time) => format!("{} have passed; session {id} goes on", print_duration(time)),
            Self::Bytes(bytes) => format!("{} were shown; session {id} goes on", print_size(bytes)),
            Self::Stopped => format!("this process closes its control socket; session {id} was open"),
            Self::Unread => format!("nobody reads this; session {id} goes on"),
        }
    }
}

impl From<Option<LastWords>> for TapStop {
    fn from(last: Option<LastWords>) -> Self {
        match last.map(|last| last.why) {
            Some(TapEnd::Session(how)) => Self::Ended(how),
            Some(TapEnd::Left) => Self::Left,
            None => Self::Gone,
        }
    }
}

/// One of the places for open taps. Dropping it frees the place.
#[derive(Debug)]
pub(crate) struct TapPlace<'a>(&'a AtomicUsize);

impl<'a> TapPlace<'a> {
    /// Takes a place. `None`: all are taken.
    pub(crate) fn take(taken: &'a AtomicUsize) -> Option<Self> {
        let one_more = |now| (now < MAX_TAPS).then_some(now + 1);
        // The value is made only for a place that was taken, since dropping it frees one.
        taken.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_more).is_ok().then(|| Self(taken))
    }
}

impl Drop for TapPlace<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Turns what a tap sees into lines. The lines are printable, whatever was sent.
#[derive(Debug)]
pub(crate) struct TapText {
    is_for_program: bool,
}

impl TapText {
    pub(crate) fn of(form: &TapForm) -> Self {
        Self { is_for_program: *form != TapForm::Text }
    }

    /// Writes the state of the session at the beginning.
    pub(crate) fn start(&self, id: u64, start: &TapStart, out: &mut Vec<u8>) {
        let TapStart { at, client, service, channel, sent_bytes, rcvd_bytes } = start;
        let known = |address: Option<Address>| address.map_or_else(|| "-".to_owned(), |at| at.to_string());
        let service = known(*service);
        let text = if self.is_for_program {
            let client = client.map_or_else(|| "-".to_owned(), |client| client.client().to_string());
            let channel = known(channel.and_then(|(_, address)| address));
            format!("start {} {client} {service} {channel} {sent_bytes} {rcvd_bytes}\n", time(*at))
        } else {
            let client = client.map_or_else(|| "-".to_owned(), |client| client.to_string());
            let mut text = format!("{MARK}session {id}: client {client}, service {service}, ");
            let _ = match channel {
                None => write!(text, "no channel yet"),
                Some((key, address)) => {
                    let (group, channel) = (key.group.index(), key.channel.index());
                    write!(text, "group {group} channel {channel}, {}", known(*address))
                }
            };
            let _ = writeln!(text, "; not shown: {sent_bytes} bytes sent and {rcvd_bytes} received before");
            text
        };
        out.extend_from_slice(text.as_bytes());
    }

    /// Writes one piece of what has happened.
    pub(crate) fn piece(&self, piece: &TapPiece, out: &mut Vec<u8>) {
        if let Some(key) = piece.moved_on {
            self.before(piece.left_out, [false; 2], piece.at, out);
            if !self.is_for_program {
                let (group, channel) = (key.group.index(), key.channel.index());
                let text = format!(
                    "{MARK}group {group} channel {channel} has closed the connection at once; the client goes on to another channel\n"
                );
                out.extend_from_slice(text.as_bytes());
            }
            self.before([0; 2], piece.ended, piece.at, out);
        } else {
            self.before(piece.left_out, piece.ended, piece.at, out);
        }
        if piece.bytes.is_empty() {
            return;
        }
        if !self.is_for_program {
            return dump_chunk(piece.direction, &piece.bytes, out);
        }
        for bytes in piece.bytes.chunks(LINE_BYTES) {
            out.extend_from_slice(format!("bytes {} {} ", arrow(piece.direction), time(piece.at)).as_bytes());
            const HEX: &[u8; 16] = b"0123456789abcdef";
            out.extend(
                bytes.iter().flat_map(|byte| [HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]),
            );
            out.push(b'\n');
        }
    }

    /// Writes the end.
    pub(crate) fn last(&self, last: &LastWords, out: &mut Vec<u8>) {
        self.before(last.left_out, last.ended, last.at, out);
        if self.is_for_program {
            let how = match last.why {
                TapEnd::Session(End::ClientClosed | End::ChannelClosed) => "closed",
                TapEnd::Session(End::ClientReset) => "client-reset",
                TapEnd::Session(_) => "cut",
                TapEnd::Left => "left",
            };
            out.extend_from_slice(format!("over {how} {}\n", time(last.at)).as_bytes());
        }
    }

    fn before(&self, left_out: [u64; 2], ended: [bool; 2], at: SystemTime, out: &mut Vec<u8>) {
        let [sent, rcvd] = left_out;
        if left_out != [0; 2] {
            let text = match self.is_for_program {
                true => format!("left-out {sent} {rcvd}\n"),
                false => format!("{MARK}left out: {sent} bytes sent and {rcvd} received\n"),
            };
            out.extend_from_slice(text.as_bytes());
        }
        for direction in [Direction::Sent, Direction::Rcvd] {
            match (ended[direction as usize], self.is_for_program) {
                (false, _) => {}
                (true, true) => {
                    let text = format!("ended {} {}\n", arrow(direction), time(at));
                    out.extend_from_slice(text.as_bytes());
                }
                (true, false) => dump_chunk(direction, &[], out),
            }
        }
    }
}

fn arrow(direction: Direction) -> &'static str {
    match direction {
        Direction::Sent => "->",
        Direction::Rcvd => "-<",
    }
}

/// A time as seconds since 1970, with nanoseconds.
fn time(at: SystemTime) -> String {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    format!("{}.{:09}", since.as_secs(), since.subsec_nanos())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sched::{ChannelId, ChannelKey, GroupId};
    use std::net::SocketAddr;

    fn parsed(text: &str) -> Option<TapWanted> {
        TapWanted::parse(&text.split(' ').map(str::as_bytes).collect::<Vec<_>>())
    }

    fn at() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::new(7, 5)
    }

    fn piece(direction: Direction, bytes: &[u8]) -> TapPiece {
        TapPiece {
            at: at(),
            left_out: [0; 2],
            moved_on: None,
            ended: [false; 2],
            bytes: bytes.to_vec(),
            direction,
        }
    }

    fn shown(form: &TapForm, tell: impl Fn(&TapText, &mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        tell(&TapText::of(form), &mut out);
        String::from_utf8(out).expect("ASCII")
    }

    #[test]
    fn limits_and_a_file_come_in_any_order_and_once() {
        let usual = TapBounds { time: USUAL_TIME, bytes: USUAL_BYTES };
        for (text, bounds, form) in [
            ("7", usual, TapForm::Text),
            ("7 30", TapBounds { time: Duration::from_secs(30), ..usual }, TapForm::Text),
            ("7 2h 3MiB", TapBounds { time: Duration::from_secs(7_200), bytes: 3 << 20 }, TapForm::Text),
            (
                "7 64KiB 2h -",
                TapBounds { time: Duration::from_secs(7_200), bytes: 64 << 10 },
                TapForm::File(b"-".to_vec()),
            ),
            (
                "7 /tmp/30s.pcapng 1GiB",
                TapBounds { bytes: 1 << 30, ..usual },
                TapForm::File(b"/tmp/30s.pcapng".to_vec()),
            ),
            ("7 pieces", usual, TapForm::Pieces),
        ] {
            let session = Number::from(7);
            assert_eq!(parsed(text), Some(TapWanted { session, bounds, form }), "{text}");
        }
        for text in [
            "x",
            "7 30 40",
            "7 1KiB 1MiB",
            "7 - a.pcapng",
            "7 file",
            "7 KiB",
            "7 -1KiB",
            "7 99999999999GiB",
            "7 1kib",
            "7 10M",
        ] {
            assert_eq!(parsed(text), None, "{text}");
        }
        assert_eq!(TapWanted::parse(&[]), None);
        assert_eq!(TapWanted::parse(&[b"7", b"\xff"]), None);
    }

    #[test]
    fn it_is_shown_as_the_dump_shows_it() {
        let seen = piece(Direction::Sent, b"a\x1b[2J\\\n");
        let text = shown(&TapForm::Text, |to, out| to.piece(&seen, out));
        assert_eq!(text, "-> 7\na\\1B[2J\\\\\\0A\n\n");
        let text = shown(&TapForm::Pieces, |to, out| to.piece(&seen, out));
        assert_eq!(text, "bytes -> 7.000000005 611b5b324a5c0a\n");
    }

    #[test]
    fn what_was_left_out_and_who_has_ended_stand_before_what_came_then() {
        let seen = TapPiece { left_out: [3, 4], ended: [true, false], ..piece(Direction::Rcvd, b"x") };
        let text = shown(&TapForm::Text, |to, out| to.piece(&seen, out));
        assert_eq!(text, "\\ left out: 3 bytes sent and 4 received\n-> 0\n\n-< 1\nx\n");
        let text = shown(&TapForm::Pieces, |to, out| to.piece(&seen, out));
        assert_eq!(text, "left-out 3 4\nended -> 7.000000005\nbytes -< 7.000000005 78\n");
    }

    #[test]
    fn no_payload_looks_like_a_line_of_ours() {
        for payload in
            ["\n\\ left out: 9 bytes", "\\ left", "x\n\\\\ y", &("x".repeat(81) + "\\ left out"), "\\\n\\ a"]
        {
            let text =
                shown(&TapForm::Text, |to, out| to.piece(&piece(Direction::Sent, payload.as_bytes()), out));
            assert!(!text.lines().any(|line| line.starts_with(MARK)), "{text}");
        }
    }

    #[test]
    fn a_long_piece_is_several_lines_for_a_program() {
        let text = shown(&TapForm::Pieces, |to, out| to.piece(&piece(Direction::Rcvd, &[0x5a; 40_000]), out));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3);
        assert!(
            lines.iter().all(|line| line.starts_with("bytes -< 7.000000005 5a5a") && line.len() < 64 << 10)
        );
        assert_eq!(text.matches("5a").count(), 40_000);
    }

    #[test]
    fn the_first_line_says_which_session_it_is() {
        let (group, channel) = (GroupId::FIRST, ChannelId::new(1).expect("small"));
        let channel = Some((ChannelKey { group, channel }, Some(([10, 0, 0, 1], 80).into())));
        let start = TapStart {
            at: at(),
            client: Some(SocketAddr::from(([10, 0, 0, 9], 5)).into()),
            service: None,
            channel,
            sent_bytes: 1,
            rcvd_bytes: 2,
        };
        let text = shown(&TapForm::Text, |to, out| to.start(7, &start, out));
        assert_eq!(
            text,
            "\\ session 7: client 10.0.0.9:5, service -, group 0 channel 1, 10.0.0.1:80; not shown: 1 bytes sent and 2 received before\n"
        );
        let text = shown(&TapForm::Pieces, |to, out| to.start(7, &start, out));
        assert_eq!(text, "start 7.000000005 10.0.0.9:5 - 10.0.0.1:80 1 2\n");
    }

    #[test]
    fn the_end_is_told_in_the_words_of_all_ends() {
        let last = LastWords {
            left_out: [0, 9],
            ended: [false, true],
            why: TapEnd::Session(End::ChannelReset),
            at: at(),
        };
        let text = shown(&TapForm::Text, |to, out| to.last(&last, out));
        assert_eq!(text, "\\ left out: 0 bytes sent and 9 received\n-< 0\n\n");
        let text = shown(&TapForm::Pieces, |to, out| to.last(&last, out));
        assert_eq!(text, "left-out 0 9\nended -< 7.000000005\nover cut 7.000000005\n");
        assert_eq!(TapStop::from(Some(last)).of(7), "session 7 has ended: channel reset");
        assert_eq!(TapStop::Time(Duration::from_secs(90)).of(7), "90s have passed; session 7 goes on");
        assert_eq!(TapStop::Bytes(3 << 20).of(7), "3MiB were shown; session 7 goes on");
    }

    #[test]
    fn places_for_taps_come_back() {
        let taken = AtomicUsize::new(0);
        let places: Vec<_> = (0..MAX_TAPS).map(|_| TapPlace::take(&taken).expect("a place")).collect();
        assert!(TapPlace::take(&taken).is_none() && TapPlace::take(&taken).is_none());
        drop(places);
        assert!(TapPlace::take(&taken).is_some());
    }
}
