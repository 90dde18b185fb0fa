//! One row of the table of options, and what the rows share.
//!
//! Knows: what can be said of an option. Never: single options, how a page is laid out.

use super::draft::Draft;
use super::values::Bad;
use super::wrong::{Word, Wrong};
use crate::spec::{HostSpec, Named};

/// One option.
pub(super) struct Row {
    pub(super) short: Option<char>,
    pub(super) long: &'static str,
    /// Older long names, which are still understood.
    pub(super) older: &'static [&'static str],
    pub(super) value: Value,
    pub(super) scope: Scope,
    /// One line, for `--help` and the manual page.
    pub(super) help: &'static str,
    /// What holds without the option, for readers. Empty: nothing worth saying.
    pub(super) default: &'static str,
    /// Paragraphs for the manual page.
    pub(super) more: &'static str,
    /// Reads the value; of a flag, which has none, the option itself.
    pub(super) read: fn(&mut Draft, &Word) -> Result<(), Bad>,
    /// The value as it would be typed; of a flag anything that differs from what holds without it. What does not differ
    /// from that is not printed.
    pub(super) print: fn(&Draft) -> String,
    /// What has to hold of the rest of the line, or this option is of no use, or means nothing.
    pub(super) needs: &'static [Need],
    /// It may be given several times, and each counts.
    pub(super) repeats: bool,
    /// Its value is a list with commas: given several times in one line, those are one list.
    pub(super) joins: bool,
}

/// What an option takes.
#[derive(Clone, Copy)]
pub(super) enum Value {
    /// Nothing.
    Flag,
    /// A word; the name is for help.
    Word(&'static str),
    /// A host or an address.
    Host,
    /// Hosts or addresses with commas between.
    Hosts,
    /// A file or a directory.
    Path,
    /// A program.
    Program,
    /// One of these; the name is for help.
    OneOf(&'static str, &'static [&'static str]),
}

/// What an option is for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    /// The process: once, whatever it serves.
    Process,
    /// A service: on each line, or as a default.
    Service,
    /// Something else than serving, or where the lines come from. For the command line only.
    Ask,
}

/// A rule between two options.
#[derive(Clone, Copy)]
pub(super) struct Need {
    pub(super) is_met: fn(&Draft) -> bool,
    /// What stands behind the option's name in the message.
    pub(super) wrong: &'static str,
}

impl Row {
    /// All its long names, the one that pages use first.
    pub(super) fn names(&self) -> impl Iterator<Item = &'static str> {
        std::iter::once(self.long).chain(self.older.iter().copied())
    }

    /// As messages have it: `-t (--connect-timeout)`, `--queue`.
    pub(super) fn name(&self) -> String {
        match self.short {
            Some(short) => format!("-{short} (--{})", self.long),
            None => format!("--{}", self.long),
        }
    }

    /// The shorter way to type it.
    pub(super) fn shortest(&self) -> String {
        self.short.map_or_else(|| format!("--{}", self.long), |short| format!("-{short}"))
    }

    /// An example of its use: `-t TIME`.
    pub(super) fn example(&self) -> String {
        format!("{} {}", self.shortest(), self.value.name()).trim_end().to_owned()
    }

    /// Reads a value, or for a flag the option itself. `name`: as it was typed.
    ///
    /// # Errors
    /// The whole message.
    pub(super) fn apply(&self, name: &str, draft: &mut Draft, word: &Word) -> Result<(), Wrong> {
        let value = word.shown();
        (self.read)(draft, word).map_err(|bad| match bad {
            Bad::Value(wrong) => Wrong::Usage(format!("{name} '{value}' {wrong}")),
            Bad::Rule(wrong) => Wrong::Usage(format!("{name} {wrong}")),
            Bad::Address(wrong) => wrong,
        })
    }
}

impl Value {
    /// Its name in help. Empty for a flag.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Flag => "",
            Self::Word(name) | Self::OneOf(name, _) => name,
            Self::Host => "ADDR",
            Self::Hosts => "ADDR[,ADDR]",
            Self::Path => "FILE",
            Self::Program => "PROG",
        }
    }

    pub(super) fn is_flag(self) -> bool {
        matches!(self, Self::Flag)
    }
}

/// What makes no sense for a Unix socket.
pub(super) const NEEDS_PORT: Need = Need {
    is_met: |draft| !draft.is_unix(),
    wrong: "is for TCP ports, and this service listens on a Unix socket; leave it out",
};
/// What is about addresses of clients.
pub(super) const NEEDS_ADDRESSES: Need = Need {
    is_met: Draft::has_addresses,
    wrong: "goes by the addresses of clients, and clients of a Unix socket have none; use --socket-mode and --socket-group, or \
            --accept-proxy unix if a proxy announces them",
};

pub(super) const TIME: Value = Value::Word("TIME");
pub(super) const NUMBER: Value = Value::Word("N");
pub(super) const KEEPALIVE: Value = Value::Word("IDLE:INTVL:CNT");
pub(super) const SWITCH: Value = Value::OneOf("on|off", &["on", "off"]);

/// What most rows say where they say nothing.
pub(super) const PLAIN: Row = Row {
    short: None,
    long: "",
    older: &[],
    value: Value::Flag,
    scope: Scope::Service,
    help: "",
    default: "",
    more: "",
    read: |_, _| Ok(()),
    print: |_| String::new(),
    needs: &[],
    repeats: false,
    joins: false,
};

pub(super) fn set<T>(setting: &mut T, value: T) -> Result<(), Bad> {
    *setting = value;
    Ok(())
}

pub(super) fn is_on(word: &Word) -> bool {
    word.text == *"on"
}

/// The name or the number of a Unix group, which nobody has been asked for yet.
pub(super) fn unix_group(word: &Word) -> Result<Named, Bad> {
    let is_name = |name: &&str| !name.is_empty() && !name.contains(|c: char| c.is_control() || c == ':');
    let name = word.as_str().filter(is_name);
    let name = name.ok_or_else(|| Bad::Value("is not the name of a Unix group".to_owned()))?;
    Ok(Named { name: name.to_owned(), typed: word.typed() })
}

/// Nothing for `None`.
pub(super) fn name_of(named: Option<&Named>) -> String {
    named.map_or_else(String::new, |named| named.name.clone())
}

pub(super) fn on_off(is_on: bool) -> String {
    if is_on { "on".to_owned() } else { "off".to_owned() }
}

pub(super) fn print_host(host: &Option<HostSpec>) -> String {
    host.as_ref().map_or_else(String::new, |host| host.name.clone())
}
