//! Splits a file into lines of words: comments, continued lines, and quotes as in a shell.
//!
//! Knows: what quotes and backslashes mean in a shell, and which of a shell's special characters are refused
//! here. Never: what a word means.
//! Source: docs/file.md, "Lines".
//!
//! A line with a shell's variables, pipes or jobs would mean something else here than in a shell, so
//! characters that are special in a shell must be quoted. Tabs and blanks separate words. A quote ends on the
//! line on which it began.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::sync::Arc;

use super::wrong::{LineError, Word, Wrong};
use crate::spec::Spot;

/// The longest line in bytes, continued lines counted together: enough for the most channels that a group can
/// have.
pub(super) const LONGEST_LINE: usize = 2 << 20;
/// How many plain bytes of a word are taken in one step.
const PLAIN: usize = 4 << 10;

/// The lines of a file, in order. Blank lines and comments are left out.
pub(super) struct SourceLines<'a> {
    rest: &'a [u8],
    file: Arc<str>,
    line: u32,
    column: u32,
}

/// A line that has at least one word or is wrong.
pub(super) struct SourceLine {
    pub(super) words: Vec<Word>,
    /// The first thing wrong. If there is one, the words are of no use.
    pub(super) error: Option<LineError>,
}

/// What the next byte belongs to.
#[derive(Clone)]
enum Within {
    Nothing,
    Comment,
    Word,
    /// A quote, and where it began.
    Single(Spot),
    Double(Spot),
}

impl<'a> SourceLines<'a> {
    pub(super) fn of(file: &str, text: &'a [u8]) -> Self {
        // Some editors write a byte order mark at the start of a file. It is not part of a word.
        let rest = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
        Self { rest, file: file.into(), line: 1, column: 1 }
    }

    fn spot(&self) -> Spot {
        Spot { file: Arc::clone(&self.file), line: self.line, column: self.column }
    }

    fn take(&mut self) -> Option<u8> {
        let (byte, rest) = self.rest.split_first()?;
        self.rest = rest;
        if *byte == b'\n' {
            (self.line, self.column) = (self.line.saturating_add(1), 1);
        } else if byte & 0xc0 != 0x80 {
            // The further bytes of a UTF-8 character are not columns.
            self.column = self.column.saturating_add(1);
        }
        Some(*byte)
    }

    /// Takes bytes that are never special within a word. It takes at most [`PLAIN`] of them, so that the
    /// caller can check the length of the line.
    fn take_plain(&mut self, word: &mut Vec<u8>) {
        let is_plain =
            |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b':' | b'-' | b'=' | b',');
        let (plain, rest) =
            self.rest.split_at(self.rest.iter().take(PLAIN).take_while(|byte| is_plain(byte)).count());
        word.extend_from_slice(plain);
        self.column = self.column.saturating_add(u32::try_from(plain.len()).unwrap_or(u32::MAX));
        self.rest = rest;
    }

    /// Whether at least one blank, and nothing but blanks, is left before the end of the line.
    fn only_blanks_left(&self) -> bool {
        let blanks = self.rest.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
        let behind = self.rest.get(blanks..).unwrap_or_default();
        blanks > 0 && matches!(behind, [] | [b'\n', ..] | [b'\r', b'\n', ..])
    }

    /// Takes the end of the line if it is next: LF or CR LF.
    fn take_end(&mut self) -> bool {
        let length = match self.rest {
            [b'\n', ..] => 1,
            [b'\r', b'\n', ..] => 2,
            _ => return false,
        };
        (0..length).for_each(|_| _ = self.take());
        true
    }
}

impl Iterator for SourceLines<'_> {
    type Item = SourceLine;

    fn next(&mut self) -> Option<SourceLine> {
        while !self.rest.is_empty() {
            let line = Reading::default().read(self);
            if !line.words.is_empty() || line.error.is_some() {
                return Some(line);
            }
        }
        None
    }
}

/// A line that is being read.
struct Reading {
    within: Within,
    word: Vec<u8>,
    begun: Option<Spot>,
    line: SourceLine,
}

impl Default for Reading {
    fn default() -> Self {
        let line = SourceLine { words: Vec::new(), error: None };
        Self { within: Within::Nothing, word: Vec::new(), begun: None, line }
    }
}

impl Reading {
    fn read(mut self, lines: &mut SourceLines<'_>) -> SourceLine {
        let (start, before) = (lines.spot(), lines.rest.len());
        loop {
            if before - lines.rest.len() > LONGEST_LINE {
                let most = LONGEST_LINE >> 20;
                self.wrong(start, format!("the line is longer than {most} MiB; write several services"));
                skip_line(lines);
                break;
            }
            if matches!(self.within, Within::Word) {
                lines.take_plain(&mut self.word);
            }
            let at = lines.spot();
            if lines.take_end() {
                break;
            }
            let Some(byte) = lines.take() else { break };
            self.byte(byte, at, lines);
        }
        if let Within::Single(at) | Within::Double(at) = self.within.clone() {
            self.wrong(at, "the quote is not closed on its line".to_owned());
        }
        self.end_word();
        self.line
    }

    fn byte(&mut self, byte: u8, at: Spot, lines: &mut SourceLines<'_>) {
        match (&self.within, byte) {
            (Within::Comment, _) => (),
            (_, 0..=8 | 10..=31 | 127) => {
                self.wrong(
                    at,
                    format!("there is a control character here (byte {byte:#04x}); a file is plain text"),
                );
            }
            (Within::Single(_), b'\'') | (Within::Double(_), b'"') => self.within = Within::Word,
            (Within::Single(_), _) => self.word.push(byte),
            (Within::Double(_), b'\\') => {
                if lines.take_end() {
                    return;
                }
                match lines.rest.first() {
                    Some(b'\\' | b'"' | b'$' | b'`') => self.word.extend(lines.take()),
                    _ => self.word.push(byte),
                }
            }
            (Within::Double(_), b'$' | b'`') => {
                self.special(at, byte, "a backslash before it, or single quotes, make it plain");
                self.word.push(byte);
            }
            (Within::Double(_), _) => self.word.push(byte),
            (Within::Nothing | Within::Word, b' ' | b'\t') => self.end_word(),
            (Within::Nothing, b'#') => self.within = Within::Comment,
            (Within::Nothing | Within::Word, b'\\') => {
                if lines.take_end() {
                    return;
                }
                if matches!(self.within, Within::Nothing) && lines.only_blanks_left() {
                    let wrong = "blanks follow the backslash, so the line does not go on; remove them";
                    self.wrong(at, wrong.to_owned());
                    return;
                }
                self.begin_word(&at);
                match lines.take() {
                    Some(literal) => self.word.push(literal),
                    None => self.wrong(at, "a backslash at the end of the file continues nothing".to_owned()),
                }
            }
            (Within::Nothing | Within::Word, b'\'') => {
                self.begin_word(&at);
                self.within = Within::Single(at);
            }
            (Within::Nothing | Within::Word, b'"') => {
                self.begin_word(&at);
                self.within = Within::Double(at);
            }
            (
                Within::Nothing | Within::Word,
                b'$' | b'`' | b';' | b'&' | b'|' | b'<' | b'>' | b'(' | b')',
            ) => {
                self.begin_word(&at);
                self.special(at, byte, "quote the word that has it: '...'");
                self.word.push(byte);
            }
            (Within::Nothing | Within::Word, _) => {
                self.begin_word(&at);
                self.word.push(byte);
            }
        }
    }

    fn begin_word(&mut self, at: &Spot) {
        if self.begun.is_none() {
            (self.begun, self.within) = (Some(at.clone()), Within::Word);
        }
    }

    fn end_word(&mut self) {
        if let Some(at) = self.begun.take() {
            let text = OsString::from_vec(std::mem::take(&mut self.word));
            self.line.words.push(Word { text, at: Some(at) });
        }
        self.within = Within::Nothing;
    }

    fn special(&mut self, at: Spot, byte: u8, cure: &str) {
        let shown = char::from(byte);
        self.wrong(at, format!("{shown} is special to a shell, but not here; {cure}"));
    }

    fn wrong(&mut self, at: Spot, wrong: String) {
        self.line.error.get_or_insert(LineError { at: Some(at), wrong: Wrong::Usage(wrong) });
    }
}

fn skip_line(lines: &mut SourceLines<'_>) {
    while !lines.take_end() && lines.take().is_some() {}
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use proptest::prelude::*;

    use super::super::quote::quoted;
    use super::*;

    /// The lines with `|` between them, their words with blanks between them; and the errors without the
    /// file's name.
    fn read(text: &str) -> (String, Vec<String>) {
        let mut errors = Vec::new();
        let lines: Vec<_> = SourceLines::of("f", text.as_bytes())
            .map(|line| {
                errors.extend(line.error.iter().map(|error| error.to_string().split_off(2)));
                line.words.iter().map(Word::shown).collect::<Vec<_>>().join(" ")
            })
            .collect();
        (lines.join(" | "), errors)
    }

    #[test]
    fn lines_are_split_as_a_shell_splits_them() {
        let table = [
            ("", ""),
            ("\n\n  \t\n# nothing\n   # here\n", ""),
            ("80 a b\n81 c", "80 a b | 81 c"),
            ("80\ta  b # c\n", "80 a b"),
            ("80 a#b '#' \\#\n", "80 a#b # #"),
            ("80 a \\\n   b\\\nc d\n81 x\n", "80 a bc d | 81 x"),
            ("80 a \\\r\n  b\r\n81\r\n", "80 a b | 81"),
            ("a'b c'd \"e f\" '' \"\"", "ab cd e f  "),
            ("'it'\\''s' \"it's\" 'a\"b' \"a\\\"b\"", "it's it's a\"b a\"b"),
            (r#""a\b\\c\$d\`e" 'a\b' a\b\\c"#, r"a\b\c$d`e a\b ab\c"),
            ("\"a\\\nb\"", "ab"),
            ("! % - * [::1]:80 ~ {a,b} a=b a?b x^y", "! % - * [::1]:80 ~ {a,b} a=b a?b x^y"),
            ("\u{feff}80 a", "80 a"),
            ("# ü \u{0}\u{1} ' \" $ ;\n80", "80"),
        ];
        for (text, words) in table {
            assert_eq!(read(text), (words.to_owned(), Vec::new()), "{text:?}");
        }
    }

    #[test]
    fn what_a_shell_would_do_something_with_has_to_be_quoted() {
        let quote = "is special to a shell, but not here; quote the word that has it: '...'";
        for special in ["$", "`", ";", "&", "|", "<", ">", "(", ")"] {
            let (words, errors) = read(&format!("80 a{special}b c\n81"));
            assert_eq!(
                (words, errors),
                (format!("80 a{special}b c | 81"), vec![format!("1:5: {special} {quote}")])
            );
        }
        let cure =
            "is special to a shell, but not here; a backslash before it, or single quotes, make it plain";
        assert_eq!(read("80 \"ä$x\"").1, [format!("1:6: $ {cure}")]);
    }

    #[test]
    fn what_is_no_line_is_told_with_its_place() {
        let table = [
            ("80 'a b\n81 c", "1:4: the quote is not closed on its line"),
            ("80\n  \"a\n", "2:3: the quote is not closed on its line"),
            ("80 a\\", "1:5: a backslash at the end of the file continues nothing"),
            ("80 a\u{0}b", "1:5: there is a control character here (byte 0x00); a file is plain text"),
            ("80 ä\u{7f}", "1:5: there is a control character here (byte 0x7f); a file is plain text"),
            ("80\rb", "1:3: there is a control character here (byte 0x0d); a file is plain text"),
        ];
        for (text, wrong) in table {
            assert_eq!(read(text).1, [wrong], "{text:?}");
        }
        let long = format!("80\n{}\n81 a", "a ".repeat(LONGEST_LINE));
        let one = format!("80 {}", "a".repeat(LONGEST_LINE + 2 * PLAIN));
        assert_eq!(read(&one).1, ["1:1: the line is longer than 2 MiB; write several services"]);
        let (words, errors) = read(&long);
        assert_eq!(errors, ["2:1: the line is longer than 2 MiB; write several services"]);
        assert!(words.starts_with("80 | a a ") && words.ends_with(" | 81 a"));
        let deep = format!("80 {}a", "\\\n".repeat(200_000));
        assert_eq!(read(&deep), ("80 a".to_owned(), Vec::new()));
    }

    #[test]
    fn words_know_where_they_stand() {
        let text = "80 ä b\\\n  c\n\n'd'  e";
        let spots: Vec<_> = SourceLines::of("x.conf", text.as_bytes())
            .flat_map(|line| line.words)
            .map(|word| format!("{} {}", word.shown(), word.at.expect("in a file")))
            .collect();
        let expected =
            ["80 x.conf:1:1", "ä x.conf:1:4", "b x.conf:1:6", "c x.conf:2:3", "d x.conf:4:1", "e x.conf:4:6"];
        assert_eq!(spots, expected);
    }

    #[test]
    fn a_shell_splits_the_same_lines_the_same_way() {
        let lines = [
            r#"a'b c'd "e f" '' "" x"#,
            r#"'it'\''s' "it's" 'a"b' "a\"b\c""#,
            r"a\ b \# a#b -- ! % 'x'#y # end",
            "a \\\n b\\\nc \"d\\\ne\"",
        ];
        for line in lines {
            let script = format!("printf '%s\\n' {line}");
            let output = Command::new("sh").args(["-c", &script]).output().expect("there is a shell");
            let shell = String::from_utf8(output.stdout).expect("text");
            let ours: Vec<_> = SourceLines::of("f", line.as_bytes()).flat_map(|line| line.words).collect();
            let ours: String = ours.iter().map(|word| word.shown() + "\n").collect();
            assert_eq!(ours, shell, "{line}");
        }
    }

    proptest! {
        #[test]
        fn quoted_words_are_read_as_they_were(words in prop::collection::vec("[^\u{0}-\u{8}\u{a}-\u{1f}\u{7f}]{0,8}", 1..6)) {
            let line = words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ");
            let read: Vec<_> = SourceLines::of("f", line.as_bytes()).collect();
            prop_assert_eq!(read.len(), 1);
            prop_assert_eq!(&read[0].error, &None);
            let again: Vec<_> = read[0].words.iter().map(Word::shown).collect();
            prop_assert_eq!(again, words);
        }

        #[test]
        fn any_bytes_are_answered(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            for line in SourceLines::of("f", &bytes) {
                prop_assert!(!line.words.is_empty() || line.error.is_some());
            }
        }
    }
}
