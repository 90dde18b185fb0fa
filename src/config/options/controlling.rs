//! Options that talk to a running instance.

use super::super::row::{PLAIN, Row, Scope, Value, set};
use super::super::usage::command_names;

/// The rows in the order of help, of the manual page and of `save`.
pub(in super::super) static ROWS: &[Row] = &[
    Row {
        short: Some('c'),
        long: "command",
        value: Value::Like("CMD", || command_names().collect()),
        scope: Scope::Ask,
        help: "Send commands, separated by ';', and print the answers",
        more: "See COMMANDS and EXIT STATUS. Example: balance -c \"disable 1; show\" 80",
        // No command contains a word that is not UTF-8, so nothing is lost.
        read: |draft, word| set(&mut draft.ask.command, Some(word.lossy().into_owned())),
        ..PLAIN
    },
    Row {
        short: Some('i'),
        long: "interactive",
        scope: Scope::Ask,
        help: "Open an interactive shell",
        more: "Example: balance -i 80",
        read: |draft, _| set(&mut draft.ask.interactive, true),
        ..PLAIN
    },
    Row {
        long: "list",
        scope: Scope::Ask,
        help: "List all instances and services on this machine",
        more: "Prints one line for each service, with port, address, pid, user, channels that are up and connections. Of an \
               instance that does not answer, or that belongs to another user, it prints what is known. It removes the \
               entries that your own dead instances left behind. Example: balance --list",
        read: |draft, _| set(&mut draft.ask.list, true),
        ..PLAIN
    },
];
