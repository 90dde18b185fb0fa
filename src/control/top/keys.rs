//! Makes keys of the bytes that a terminal sends.
//!
//! Knows: escape sequences of keys, pastes. Never: what a key does, the terminal.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::time::Duration;

/// A key that was typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TopKey {
    Char(char),
    /// A letter typed with Ctrl, in lower case.
    Ctrl(char),
    Up,
    Down,
    Left,
    Right,
    PageUp,
    PageDown,
    Home,
    End,
    Tab,
    BackTab,
    Enter,
    Esc,
    Backspace,
    /// A key without a meaning here.
    Other,
}

/// Maximum length of an escape sequence, in bytes.
const LONGEST: usize = 32;
/// The rest of an escape sequence comes within this time after its first byte.
const ESCAPE: Duration = Duration::from_millis(50);
/// A paste counts as ended if nothing comes for this long, even without its end mark.
const STOPPED: Duration = Duration::from_secs(1);
const PASTE: &[u8] = b"\x1b[200~";
const CTRL_C: u8 = 3;
const PASTED: &[u8] = b"\x1b[201~";

/// Makes keys of bytes, however the bytes are divided.
#[derive(Debug, Default)]
pub(super) struct KeyReader {
    pending: Vec<u8>,
    /// Whether we are inside a paste. Pasted text is no keys, so that a `y` in it confirms nothing.
    is_pasting: bool,
}

impl KeyReader {
    /// The keys that are complete with these bytes.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Vec<TopKey> {
        self.pending.extend_from_slice(bytes);
        let mut keys = Vec::new();
        while let Some((key, used)) = self.next() {
            self.pending.drain(..used);
            keys.extend(key);
        }
        keys
    }

    /// How long to wait for more bytes. `None`: no key has begun.
    pub(super) fn patience(&self) -> Option<Duration> {
        match self.pending.first() {
            _ if self.is_pasting => Some(STOPPED),
            Some(0x1b) => Some(ESCAPE),
            _ => None,
        }
    }

    /// Nothing came in this time. So what looked like the beginning of a sequence was the Esc key, or a paste
    /// has ended.
    pub(super) fn is_late(&mut self) -> Option<TopKey> {
        self.patience()?;
        self.pending.clear();
        let is_escape = !std::mem::take(&mut self.is_pasting);
        is_escape.then_some(TopKey::Esc)
    }

    /// The next key, if it has a meaning, and its number of bytes. `None`: more bytes are needed.
    fn next(&mut self) -> Option<(Option<TopKey>, usize)> {
        if self.is_pasting {
            return self.pasted();
        }
        let (&first, rest) = self.pending.split_first()?;
        match first {
            0x1b => self.escape(),
            b'\r' | b'\n' => Some((Some(TopKey::Enter), 1)),
            b'\t' => Some((Some(TopKey::Tab), 1)),
            0x7f | 0x08 => Some((Some(TopKey::Backspace), 1)),
            1..=26 => Some((Some(TopKey::Ctrl(char::from(first + b'a' - 1))), 1)),
            0..=31 => Some((Some(TopKey::Other), 1)),
            32..=126 => Some((Some(TopKey::Char(char::from(first))), 1)),
            _ => {
                let length = match first {
                    0xc2..=0xdf => 2,
                    0xe0..=0xef => 3,
                    0xf0..=0xf4 => 4,
                    _ => return Some((None, 1)),
                };
                let is_more = |byte: &u8| (0x80..0xc0).contains(byte);
                let there = rest.iter().take(length - 1).take_while(|byte| is_more(byte)).count();
                if there < length - 1 {
                    // A byte that cannot belong to the character ends it.
                    return (rest.len() > there).then_some((None, 1 + there));
                }
                let c =
                    std::str::from_utf8(&self.pending[..length]).ok().and_then(|text| text.chars().next());
                Some((c.filter(|c| !c.is_control()).map(TopKey::Char), length))
            }
        }
    }

    fn escape(&mut self) -> Option<(Option<TopKey>, usize)> {
        let body = &self.pending[1..];
        match body.first()? {
            b'O' => {
                let last = *body.get(1)?;
                Some((Some(named(last, b"")), 3))
            }
            b'[' => {
                if self.pending.starts_with(PASTE) {
                    self.is_pasting = true;
                    return Some((None, PASTE.len()));
                }
                // Function keys of the Linux console have one more letter.
                if body.get(1) == Some(&b'[') {
                    return body.get(2).map(|_| (Some(TopKey::Other), 4));
                }
                let is_last = |byte: &u8| (0x40..=0x7e).contains(byte);
                let Some(end) = body[1..].iter().position(is_last) else {
                    return (body.len() > LONGEST).then_some((None, self.pending.len()));
                };
                let last = body[1 + end];
                let key = named(last, &body[1..=end]);
                Some((Some(key), 1 + 1 + end + 1))
            }
            // The Esc key, directly followed by another key.
            _ => Some((Some(TopKey::Esc), 1)),
        }
    }

    /// Drops pasted text, except ^C, which terminals do not paste.
    fn pasted(&mut self) -> Option<(Option<TopKey>, usize)> {
        let leaves = self.pending.iter().position(|byte| *byte == CTRL_C);
        let end = self.pending.windows(PASTED.len()).position(|part| part == PASTED);
        match (end, leaves) {
            (Some(end), leaves) if leaves.is_none_or(|leaves| end < leaves) => {
                self.is_pasting = false;
                Some((None, end + PASTED.len()))
            }
            (_, Some(leaves)) => Some((Some(TopKey::Ctrl('c')), leaves + 1)),
            (_, None) => {
                let kept = self.pending.len().min(PASTED.len() - 1);
                let gone = self.pending.len() - kept;
                (gone > 0).then_some((None, gone))
            }
        }
    }
}

/// The key of a sequence with this last byte.
fn named(last: u8, arguments: &[u8]) -> TopKey {
    match (last, arguments) {
        (b'A', _) => TopKey::Up,
        (b'B', _) => TopKey::Down,
        (b'C', _) => TopKey::Right,
        (b'D', _) => TopKey::Left,
        (b'H', _) | (b'~', b"1" | b"7") => TopKey::Home,
        (b'F', _) | (b'~', b"4" | b"8") => TopKey::End,
        (b'~', b"5") => TopKey::PageUp,
        (b'~', b"6") => TopKey::PageDown,
        (b'Z', _) => TopKey::BackTab,
        (b'M', b"") => TopKey::Enter,
        _ => TopKey::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all_at_once(bytes: &[u8]) -> Vec<TopKey> {
        KeyReader::default().take(bytes)
    }

    #[test]
    fn keys_are_what_terminals_send() {
        use TopKey::{BackTab, Backspace, Char, Ctrl, Down, End, Enter, Esc, Home, Other, PageUp, Tab, Up};
        for (bytes, keys) in [
            (&b"aZ/"[..], &[Char('a'), Char('Z'), Char('/')][..]),
            (b"\x1b[A\x1bOB\x1b[1;5A", &[Up, Down, Up]),
            (b"\x1b[H\x1b[1~\x1bOF\x1b[4~\x1b[5~", &[Home, Home, End, End, PageUp]),
            (b"\t\x1b[Z\r\n\x7f\x08", &[Tab, BackTab, Enter, Enter, Backspace, Backspace]),
            (b"\x03\x1a\x0c\0", &[Ctrl('c'), Ctrl('z'), Ctrl('l'), Other]),
            (b"\x1bq", &[Esc, Char('q')]),
            (b"\x1b[[A\x1b[15~\x1bOP", &[Other, Other, Other]),
            ("\u{e9}\u{20ac}\u{1f600}".as_bytes(), &[Char('\u{e9}'), Char('\u{20ac}'), Char('\u{1f600}')]),
            (b"\xff\xc3(\xc2\x9b", &[Char('(')]),
            (b"\x1b[200~dy\x1b[A\r\x1b[201~x", &[Char('x')]),
        ] {
            assert_eq!(all_at_once(bytes), keys, "{bytes:?}");
            let mut reader = KeyReader::default();
            let bit_by_bit: Vec<TopKey> = bytes.iter().flat_map(|byte| reader.take(&[*byte])).collect();
            assert_eq!(bit_by_bit, keys, "{bytes:?}");
            assert_eq!(reader.patience(), None);
        }
    }

    #[test]
    fn an_escape_with_nothing_behind_it_is_a_key() {
        let mut reader = KeyReader::default();
        assert_eq!((reader.take(b"\x1b"), reader.patience()), (vec![], Some(ESCAPE)));
        assert_eq!((reader.is_late(), reader.is_late()), (Some(TopKey::Esc), None));
        assert_eq!(reader.take(b"\x1b["), []);
        assert_eq!(reader.is_late(), Some(TopKey::Esc));
    }

    #[test]
    fn a_paste_without_an_end_makes_nobody_deaf() {
        let mut reader = KeyReader::default();
        assert_eq!(reader.take(b"\x1b[200~y\x1b"), []);
        assert_eq!((reader.patience(), reader.is_late()), (Some(STOPPED), None));
        assert_eq!(
            (reader.patience(), reader.take(b"dy")),
            (None, vec![TopKey::Char('d'), TopKey::Char('y')])
        );
        // The end of the paste came late; then it is not a key, nor a part of one.
        assert_eq!(reader.take(b"\x1b[201~q"), [TopKey::Other, TopKey::Char('q')]);
        for bytes in [&b"\x1b[200~\x03"[..], b"\x1b[200~some text\x03y", b"\x1b[200~y\x03y\x1b[201~"] {
            assert_eq!(all_at_once(bytes), [TopKey::Ctrl('c')], "{bytes:?}");
        }
        assert_eq!(all_at_once(b"\x1b[200~y\x1b[201~\x03"), [TopKey::Ctrl('c')]);
    }

    #[test]
    fn no_bytes_are_kept_for_ever() {
        let mut reader = KeyReader::default();
        reader.take(b"\x1b[");
        for _ in 0..100 {
            reader.take(b"1234567890");
        }
        assert!(reader.pending.len() < 2 * LONGEST, "{}", reader.pending.len());
        reader.take(b"a\x1b[200~");
        reader.take(&[b'y'; 5_000]);
        assert!(reader.pending.len() < PASTED.len());
    }
}
