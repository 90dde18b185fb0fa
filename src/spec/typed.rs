//! Words as somebody typed them, and where: what a message needs to point to them.
//!
//! Knows: the word, its file, line and column. Never: what it means.

use std::fmt;
use std::sync::Arc;

/// A word as it was typed. It is used for messages only and is not part of the setting, so any two values are
/// equal.
#[derive(Debug, Clone, Default)]
pub struct Typed {
    /// The word. Bytes that were not UTF-8 were replaced; empty if nobody typed it.
    pub text: String,
    /// Its place in a file. `None`: it was on the command line, or nobody typed it.
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
    /// The file name as messages show it.
    pub file: Arc<str>,
    /// The line, counted from 1.
    pub line: u32,
    /// The column in characters, counted from 1.
    pub column: u32,
}

impl fmt::Display for Spot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}
