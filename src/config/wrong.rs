//! The errors of this room: what is wrong with a word, and where it is.
//!
//! Knows: the fixed messages, how a place in a file is written. Never: exit codes, which grammar found the
//! error.
//! Source: docs/compatibility.md, "Exit codes".

use std::borrow::Cow;
use std::ffi::OsString;
use std::fmt;
use std::net::IpAddr;

use super::ports::why_no_ports;
use super::usage::usage;
use crate::spec::{Name, Spot, Typed};

/// The message about a group without channels.
const NO_CHANNELS: &str = "balance: no channels in group";

/// Characters without width: byte order and direction marks, joiners, the soft hyphen.
const UNSEEN: [char; 9] = [
    '\u{ad}', '\u{200b}', '\u{200c}', '\u{200d}', '\u{200e}', '\u{200f}', '\u{202a}', '\u{2060}', '\u{feff}',
];

/// How much of a word of a file a message shows, in characters.
const LONGEST_SHOWN: usize = 100;
/// How much of a message about a file is printed, in characters.
const LONGEST_TOLD: usize = 500;

/// A word of a line, and where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Word {
    /// The word; it may be any bytes.
    pub text: OsString,
    /// Where it is in a file. `None`: on the command line.
    pub at: Option<Spot>,
}

impl Word {
    /// The word as text. `None`: its bytes are not UTF-8.
    pub(super) fn as_str(&self) -> Option<&str> {
        self.text.to_str()
    }

    /// The word with its place, for messages about it that come later.
    pub(super) fn typed(&self) -> Typed {
        Typed { text: self.shown(), at: self.at.clone() }
    }

    /// The word; bytes that are not UTF-8 are replaced.
    pub(super) fn lossy(&self) -> Cow<'_, str> {
        self.text.to_string_lossy()
    }

    /// The word for messages. It is shortened if it comes from a file, which may have words of any length.
    pub(super) fn shown(&self) -> String {
        let text = self.lossy();
        if self.at.is_some() { shortened(&text, LONGEST_SHOWN) } else { text.into_owned() }
    }

    pub(super) fn wrong(&self, wrong: Wrong) -> LineError {
        LineError { at: self.at.clone(), wrong }
    }
}

/// Why a line is refused. `Display` writes the whole message: for the command line in the fixed form of the
/// original `balance`, for a file in one line that begins with `FILE:LINE:COLUMN`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LineError {
    /// Where it is in a file. `None`: on the command line.
    pub at: Option<Spot>,
    /// What is wrong.
    pub wrong: Wrong,
}

/// What is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wrong {
    /// One line that says what is wrong and what would be right.
    Usage(String),
    /// PORT is neither a number from 1 to 65535 nor a service name, or the service was not found.
    Port {
        /// PORT as it was typed.
        word: String,
    },
    /// An address that is not legal, or a host or service that was not found.
    Address {
        /// The whole word as it was typed.
        word: String,
        /// One line that says why, and what would be right.
        why: String,
    },
    /// `!` or `%` without a channel before it.
    EmptyGroup,
    /// A file of services that cannot be read.
    File {
        /// The path as it was typed.
        path: String,
        /// Why it cannot be read.
        cause: String,
    },
}

impl LineError {
    /// An error about a word that was typed and turned out later to be wrong.
    pub fn of(typed: &Typed, wrong: Wrong) -> Self {
        Self { at: typed.at.clone(), wrong }
    }

    /// Whether the error is about a file and not about the command line.
    pub fn is_of_file(&self) -> bool {
        self.at.is_some() || matches!(self.wrong, Wrong::File { .. })
    }
}

impl Wrong {
    /// An error about a typed word whose host or service was not found.
    pub fn address(typed: &Typed, why: impl Into<String>) -> Self {
        Self::Address { word: typed.text.clone(), why: why.into() }
    }
}

impl fmt::Display for LineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.at, &self.wrong) {
            (None, Wrong::Usage(wrong)) => f.write_str(&usage(wrong)),
            (None, Wrong::Port { word }) => {
                write!(f, "invalid port [{word}], exiting.\nbalance: {}", right_port(word))
            }
            (None, Wrong::Address { word, why }) => {
                write!(f, "unknown or invalid address [{word}]\nbalance: {why}")
            }
            (None, Wrong::EmptyGroup) => f.write_str(NO_CHANNELS),
            (_, Wrong::File { path, cause }) => write!(f, "{path}: cannot be read: {cause}"),
            (Some(at), Wrong::Usage(wrong)) => write!(f, "{at}: {}", shortened(wrong, LONGEST_TOLD)),
            (Some(at), Wrong::Port { word }) => {
                write!(f, "{at}: invalid port [{}]; {}", visible(word), right_port(word))
            }
            (Some(at), Wrong::Address { word, why }) => {
                let why = shortened(&visible(why), LONGEST_TOLD);
                write!(f, "{at}: unknown or invalid address [{}]: {why}", visible(word))
            }
            (Some(at), Wrong::EmptyGroup) => {
                write!(f, "{at}: no channels in group; write a channel before ! and %")
            }
        }
    }
}

impl std::error::Error for LineError {}

/// What would be right instead of this word. Two mistakes are common: an address together with the port, and
/// a name without a blank behind it.
fn right_port(word: &str) -> String {
    if let Some(why) = why_no_ports(word) {
        return why;
    }
    let usual = "give a number from 1 to 65535 or the name of a service";
    let Some((before, port)) =
        word.rsplit_once(':').filter(|(_, port)| port.parse::<u16>().is_ok_and(|n| n > 0))
    else {
        return usual.to_owned();
    };
    let inside = before.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(before);
    match inside {
        "" | "*" => format!("for port {port} write {port}"),
        _ if inside.parse::<IpAddr>().is_ok() => {
            format!("for port {port} of {inside} write -b {inside} {port}")
        }
        _ if Name::new(inside).is_some() => {
            format!(
                "for a service that is called {inside} write {inside}: {port}, for port {port} of an address -b {inside} {port}"
            )
        }
        _ => usual.to_owned(),
    }
}

/// A pasted word may contain characters that are not visible; they are shown as their numbers.
fn visible(text: &str) -> String {
    let is_unseen = |c: char| c != ' ' && (c.is_whitespace() || c.is_control() || UNSEEN.contains(&c));
    let mut shown = String::new();
    for c in text.chars() {
        if is_unseen(c) {
            shown.push_str(&format!("<U+{:04X}>", u32::from(c)));
        } else {
            shown.push(c);
        }
    }
    shown
}

fn shortened(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}
