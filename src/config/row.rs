//! A row of the table of options, and what the rows share.
//!
//! Knows: the properties of an option. Never: single options, how a page is laid out.

use super::draft::Draft;
use super::values::Bad;
use super::wrong::{Word, Wrong};
use crate::spec::{HostSpec, Named};

/// One option.
pub(super) struct Row {
    pub(super) short: Option<char>,
    pub(super) long: &'static str,
    /// Older long names, which are still accepted.
    pub(super) older: &'static [&'static str],
    pub(super) value: Value,
    pub(super) scope: Scope,
    /// One line, for `--help` and the manual page.
    pub(super) help: &'static str,
    /// What holds without the option, in words for readers. Empty: nothing to say.
    pub(super) default: &'static str,
    /// Paragraphs for the manual page.
    pub(super) more: &'static str,
    /// Reads the value; for a flag, which has none, the word is the option itself.
    pub(super) read: fn(&mut Draft, &Word) -> Result<(), Bad>,
    /// The value as it would be typed; for a flag, any text that differs when the flag is set. A value is
    /// printed only if it differs from the default.
    pub(super) print: fn(&Draft) -> String,
    /// What must hold of the rest of the line. Otherwise the option has no effect, and is an error.
    pub(super) needs: &'static [Need],
    /// Whether the option may be repeated, and each one counts.
    pub(super) repeats: bool,
    /// Whether the value is a list with commas. Repeated on one line, the lists are joined.
    pub(super) joins: bool,
}

/// The value that an option takes.
#[derive(Clone, Copy)]
pub(super) enum Value {
    /// No value.
    Flag,
    /// Any word, with its name in help.
    Word(&'static str),
    /// A host or an address.
    Host,
    /// Hosts or addresses, separated by commas.
    Hosts,
    /// A file or a directory.
    Path,
    /// A program.
    Program,
    /// One of these words; the first field is the name in help.
    OneOf(&'static str, &'static [&'static str]),
    /// Any word, and those that a shell offers; the first field is the name in help.
    Like(&'static str, fn() -> Vec<&'static str>),
}

/// What an option belongs to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    /// The process; it holds once, for all services.
    Process,
    /// A service; it is given on a line, or as a default.
    Service,
    /// Something else than serving, or the files to read. Only on the command line.
    Ask,
}

/// A rule about the rest of the line that an option depends on.
#[derive(Clone, Copy)]
pub(super) struct Need {
    pub(super) is_met: fn(&Draft) -> bool,
    /// The message, which follows the option's name.
    pub(super) wrong: &'static str,
}

impl Row {
    /// All long names; the first one is used on pages.
    pub(super) fn names(&self) -> impl Iterator<Item = &'static str> {
        std::iter::once(self.long).chain(self.older.iter().copied())
    }

    /// The name as messages show it: `-t (--connect-timeout)` or `--queue`.
    pub(super) fn name(&self) -> String {
        match self.short {
            Some(short) => format!("-{short} (--{})", self.long),
            None => format!("--{}", self.long),
        }
    }

    /// The short form if there is one, otherwise the long one.
    pub(super) fn shortest(&self) -> String {
        self.short.map_or_else(|| format!("--{}", self.long), |short| format!("-{short}"))
    }

    /// An example of its use: `-t TIME`.
    pub(super) fn example(&self) -> String {
        format!("{} {}", self.shortest(), self.value.name()).trim_end().to_owned()
    }

    /// Reads a value, or for a flag the option itself. `name` is the option as it was typed.
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
    /// The name of the value in help; empty for a flag.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Flag => "",
            Self::Word(name) | Self::OneOf(name, _) | Self::Like(name, _) => name,
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

/// For options that have no effect on a Unix socket.
pub(super) const NEEDS_PORT: Need = Need {
    is_met: |draft| !draft.is_unix(),
    wrong: "is for TCP ports, and this service listens on a Unix socket; leave it out",
};
/// For options that go by the addresses of clients.
pub(super) const NEEDS_ADDRESSES: Need = Need {
    is_met: Draft::has_addresses,
    wrong: "goes by the addresses of clients, and clients of a Unix socket have none; use --socket-mode and --socket-group, or \
            --accept-proxy unix if a proxy announces them",
};

pub(super) const TIME: Value = Value::Word("TIME");
pub(super) const NUMBER: Value = Value::Word("N");
pub(super) const KEEPALIVE: Value = Value::Word("IDLE:INTVL:CNT");
pub(super) const SWITCH: Value = Value::OneOf("on|off", &["on", "off"]);

/// The values of fields that a row does not give.
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

/// Reads the name or the number of a Unix group. Whether the group exists is asked later.
pub(super) fn unix_group(word: &Word) -> Result<Named, Bad> {
    let is_name = |name: &&str| !name.is_empty() && !name.contains(|c: char| c.is_control() || c == ':');
    let name = word.as_str().filter(is_name);
    let name = name.ok_or_else(|| Bad::Value("is not the name of a Unix group".to_owned()))?;
    Ok(Named { name: name.to_owned(), typed: word.typed() })
}

/// The name; empty for `None`.
pub(super) fn name_of(named: Option<&Named>) -> String {
    named.map_or_else(String::new, |named| named.name.clone())
}

pub(super) fn on_off(is_on: bool) -> String {
    if is_on { "on".to_owned() } else { "off".to_owned() }
}

pub(super) fn print_host(host: &Option<HostSpec>) -> String {
    host.as_ref().map_or_else(String::new, |host| host.name.clone())
}
