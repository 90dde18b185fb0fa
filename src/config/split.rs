//! Splits words into options and positionals.
//!
//! Knows: which options take a value, and which words are legal where a value is one of a few. Never: what
//! other values mean, what the positionals are.
//! Source: docs/compatibility.md, "Command line".
//!
//! As with getopt, options may follow positionals, short options may be written together, an option that
//! takes a value takes the next word whatever it is, and `--` ends the options.

use std::ffi::OsStr;

use super::draft::Draft;
use super::options::options;
use super::row::{Row, Value};
use super::wrong::{LineError, Word, Wrong};

/// How similar (Jaro, 0 to 1) an unknown option must be to a known one to be offered as a correction.
const ALIKE: f64 = 0.7;

/// An option that was given.
#[derive(Clone)]
pub(super) struct GivenOption {
    pub(super) row: &'static Row,
    /// The older name, if that was typed.
    pub(super) older: Option<&'static str>,
    /// Its value; for a flag the option itself.
    pub(super) word: Word,
}

impl GivenOption {
    /// The option as messages show it: for an older name, with the current one.
    pub(super) fn name(&self) -> String {
        named(self.row, self.older)
    }

    /// Reads its value into the draft.
    ///
    /// # Errors
    /// The whole message.
    pub(super) fn apply(&self, draft: &mut Draft) -> Result<(), Wrong> {
        self.row.apply(&self.name(), draft, &self.word)
    }
}

fn named(row: &Row, older: Option<&str>) -> String {
    older.map_or_else(|| row.name(), |older| format!("--{older} (now --{})", row.long))
}

/// The words of a line, sorted by kind.
#[derive(Default)]
pub(super) struct Split {
    /// In the order of the words.
    pub(super) options: Vec<GivenOption>,
    pub(super) positionals: Vec<Word>,
    /// Whether a word follows an unknown option. It may be the option's value or the first positional.
    pub(super) is_unsure: bool,
    /// In the order of the words: unknown options, and values that are missing, not allowed or not legal.
    pub(super) errors: Vec<LineError>,
}

impl Split {
    pub(super) fn of(words: &[Word]) -> Self {
        let raw = clap_lex::RawArgs::new(words.iter().map(|word| &word.text));
        let mut cursor = raw.cursor();
        let mut split = Self::default();
        let mut rest = words.iter();
        while let (Some(arg), Some(word)) = (raw.next(&mut cursor), rest.next()) {
            let is_value_next = raw
                .peek(&cursor)
                .is_some_and(|next| !next.to_value_os().as_encoded_bytes().starts_with(b"-"));
            // Takes the next word as the value of an option.
            let mut next = || raw.next_os(&mut cursor).and(rest.next()).cloned();
            if arg.is_escape() {
                split.positionals.extend(rest.cloned());
                return split;
            } else if let Some((name, value)) = arg.to_long() {
                split.long(word, name.ok(), value, is_value_next, &mut next);
            } else if let Some(mut flags) = arg.to_short() {
                while let Some(flag) = flags.next_flag() {
                    let row = flag.ok().and_then(|flag| options().find(|row| row.short == Some(flag)));
                    let Some(row) = row else {
                        let flag = flag.map_or_else(|rest| rest.to_string_lossy().into_owned(), String::from);
                        split.errors.push(word.wrong(unknown(&format!("-{flag}"))));
                        split.is_unsure |= is_value_next;
                        break;
                    };
                    if row.value.is_flag() {
                        split.options.push(GivenOption { row, older: None, word: word.clone() });
                        continue;
                    }
                    let attached = flags.next_value_os();
                    // `-t=2` means `-t 2`.
                    let attached = attached.map(|value| strip_equals(value).unwrap_or(value));
                    split.value(row, None, word, attached, &mut next);
                    break;
                }
            } else {
                split.positionals.push(word.clone());
            }
        }
        split
    }

    fn long(
        &mut self,
        word: &Word,
        name: Option<&str>,
        value: Option<&OsStr>,
        is_value_next: bool,
        next: &mut dyn FnMut() -> Option<Word>,
    ) {
        let row = name.and_then(|name| options().find(|row| row.names().any(|known| known == name)));
        let older =
            row.zip(name).and_then(|(row, name)| row.older.iter().copied().find(|older| *older == name));
        match (row, value) {
            (None, _) => {
                self.is_unsure |= value.is_none() && is_value_next;
                let shown = word.shown();
                let option = shown.split_once('=').map_or(shown.as_str(), |(option, _)| option);
                self.errors.push(word.wrong(unknown(option)));
            }
            (Some(row @ Row { value: Value::Flag, .. }), Some(value)) => {
                let (name, shown, example) = (named(row, older), value.display(), row.shortest());
                self.errors.push(word.wrong(Wrong::Usage(format!(
                    "option {name} takes no value, but has '{shown}'; write {example}"
                ))));
            }
            (Some(row @ Row { value: Value::Flag, .. }), None) => {
                self.options.push(GivenOption { row, older, word: word.clone() });
            }
            (Some(row), value) => self.value(row, older, word, value, next),
        }
    }

    fn value(
        &mut self,
        row: &'static Row,
        older: Option<&'static str>,
        word: &Word,
        attached: Option<&OsStr>,
        next: &mut dyn FnMut() -> Option<Word>,
    ) {
        let value = match attached {
            Some(text) => Some(Word { text: text.to_owned(), at: word.at.clone() }),
            None => next(),
        };
        match value {
            Some(value) => {
                if let Value::OneOf(_, legal) = row.value
                    && !legal.iter().any(|word| value.text == **word)
                {
                    let (shown, name, legal) = (value.shown(), named(row, older), legal.join(", "));
                    let wrong = format!("'{shown}' is not a value of {name}; it is one of {legal}");
                    self.errors.push(value.wrong(Wrong::Usage(wrong)));
                } else {
                    self.given(row, older, value);
                }
            }
            None => {
                let (name, example) = (named(row, older), row.example());
                self.errors.push(word.wrong(Wrong::Usage(format!("option {name} needs a value: {example}"))));
            }
        }
    }

    /// Records an option and its value.
    fn given(&mut self, row: &'static Row, older: Option<&'static str>, value: Word) {
        let before = self.options.iter_mut().find(|given| row.joins && std::ptr::eq(given.row, row));
        match before {
            Some(before) => {
                before.word.text.push(",");
                before.word.text.push(value.text);
            }
            None => self.options.push(GivenOption { row, older, word: value }),
        }
    }

    /// The options in the order of the words. Of an option that is repeated, only the last is kept, unless
    /// each counts.
    pub(super) fn last_options(&self) -> Vec<&GivenOption> {
        let mut seen: Vec<&Row> = Vec::new();
        let mut is_last = |given: &&GivenOption| {
            let is_new = given.row.repeats || !seen.iter().any(|row| std::ptr::eq(*row, given.row));
            seen.extend((is_new && !given.row.repeats).then_some(given.row));
            is_new
        };
        let mut last: Vec<_> = self.options.iter().rev().filter(|given| is_last(given)).collect();
        last.reverse();
        last
    }
}

fn strip_equals(value: &OsStr) -> Option<&OsStr> {
    clap_lex::OsStrExt::strip_prefix(value, "=")
}

fn unknown(option: &str) -> Wrong {
    let meant = match option {
        "-h" => Some("help"),
        "-v" | "-V" => Some("version"),
        _ => option.strip_prefix("--").and_then(most_alike),
    };
    Wrong::Usage(match meant {
        Some(meant) => format!("unknown option '{option}'; did you mean '--{meant}'?"),
        None => format!("unknown option '{option}'; 'balance --help' lists all options"),
    })
}

fn most_alike(name: &str) -> Option<&'static str> {
    let likeness = |known: &str| strsim::jaro(name, known);
    let best = options().flat_map(Row::names).max_by(|a, b| likeness(a).total_cmp(&likeness(b)))?;
    (likeness(best) > ALIKE).then_some(best)
}
