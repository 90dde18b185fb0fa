//! The help text: what each key does.
//!
//! Knows: words. Never: the meaning of keys, which is in `desk`.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use super::paint::Ink;

/// The keys in the bottom line, the most important first.
pub(super) const KEYS: &[(&str, &str)] = &[
    ("q", "quit"),
    ("?", "help"),
    ("Tab", "service"),
    ("/", "filter"),
    ("<>", "sort"),
    ("d", "disable"),
    ("e", "enable"),
    ("2", "sessions"),
    ("3", "events"),
    ("Enter", "detail"),
    ("n", "drain"),
    ("K", "kick"),
    ("p", "pause"),
    ("r", "resume"),
    ("w", "weight"),
    ("m", "maxc"),
    ("o", "reverse"),
    ("Space", "freeze"),
];

const HELP: &str = "\
#Looking
Up Down j k, PgUp PgDn, Home End  select a row
Enter        all about it; Left and Right go on to the next; Esc goes back
1 2 3        channels, sessions, events
Tab          the next service (Shift-Tab: the one before)
/            filter: only rows with this text; Enter keeps it, Esc drops it
< >          sort by the column to the left or right
o            reverse the order
Space        freeze: no refresh until the next Space
^L           draw everything again
^Z           stop; fg goes on
q, ^C        quit

#Commands: each shows the line that is sent, and y sends it
d  disable the channel      D  disable hard: close its connections
e  enable it                n  drain it
K  kick: close its connections
p  pause it                 r  resume it
P  pause all channels       R  resume all channels
w  weight                   m  maxc
z  reset its counters       x  close the session (in sessions)

#Columns
chan     group and number     state    ENA is left out: up, ejected, ...
c/maxc   connections          conn/s   new connections a second
sent/s   bytes from clients   rcvd/s   bytes to clients, a second
p50      of the connect time  failed   attempts that failed
last 2m  bytes a second, sent and received; one scale for all channels
Rates are computed from the last two answers. k, M, G: thousands, millions, ...
The words are those of balance -c status and balance -c sessions.";

/// The lines of the help text.
pub(super) fn help_lines() -> Vec<(String, Ink)> {
    let line = |line: &str| match line.strip_prefix('#') {
        Some(head) => (head.to_owned(), Ink::Head),
        None => (line.to_owned(), Ink::Plain),
    };
    HELP.lines().map(line).collect()
}
