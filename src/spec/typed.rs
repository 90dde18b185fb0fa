//! Words as somebody typed them, and where: what a message needs to name them.
//!
//! Knows: the word, its file, line and column. Never: what it means.

use std::fmt;
use std::sync::Arc;

/// A word as it was typed. It is for messages only and not part of the setting, so any two of them are equal.
#[derive(Debug, Clone, Default)]
pub struct Typed {
    /// The word. Bytes that were not UTF-8 were replaced; empty if nobody typed it.
    pub text: String,
    /// Where it stands in a file. `None`: on the command line, or nowhere.
    pub at: Option<Spot>,
}

impl PartialEq for Typed {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Typed {}

/// A place in a file. Prints as `FILE:LINE:COLUMN`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spot {
    /// The file as it is to be named in messages.
    pub file: Arc<str>,
    /// Counted from 1.
    pub line: u32,
    /// Counted from 1, in characters.
    pub column: u32,
}

impl fmt::Display for Spot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}
