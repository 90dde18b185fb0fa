//! Options that print help.

use super::super::draft::Shell;
use super::super::row::{PLAIN, Row, Scope, Value, set};

/// The rows in the order of help, of the manual page and of `save`.
pub(in super::super) static ROWS: &[Row] = &[
    Row {
        long: "help",
        scope: Scope::Ask,
        help: "Print this help",
        read: |draft, _| set(&mut draft.ask.help, true),
        ..PLAIN
    },
    Row {
        long: "version",
        scope: Scope::Ask,
        help: "Print the version",
        read: |draft, _| set(&mut draft.ask.version, true),
        ..PLAIN
    },
    Row {
        long: "man",
        scope: Scope::Ask,
        help: "Print the manual page (man -l <(balance --man))",
        read: |draft, _| set(&mut draft.ask.man, true),
        ..PLAIN
    },
    Row {
        long: "completions",
        value: Value::OneOf("SHELL", &["bash", "zsh", "fish"]),
        scope: Scope::Ask,
        help: "Print a completion script: bash, zsh or fish",
        more: "Example: balance --completions bash",
        read: |draft, word| {
            let shell = match word.as_str() {
                Some("bash") => Shell::Bash,
                Some("zsh") => Shell::Zsh,
                _ => Shell::Fish,
            };
            set(&mut draft.ask.completions, Some(shell))
        },
        ..PLAIN
    },
];
