//! What a command line asks for: `argv` is read into an [`Invocation`].
//!
//! Knows: which options exclude each other, and in which order words are judged. Never: single options, how
//! an invocation is carried out.
//! Source: docs/compatibility.md, "Command line" and "Exit codes".

use std::ffi::OsString;
use std::path::PathBuf;

use super::draft::{Ask, Draft};
use super::file::FileReader;
use super::line::{NO_PORT, read_draft, read_options};
use super::man::man_page;
use super::page::{completions, help, version};
use super::split::Split;
use super::wrong::{LineError, Word, Wrong};
use crate::spec::{HostSpec, ListenHost, ListenSpec, PortsSpec, ProcessSpec, ServiceSpec, Typed};

/// What the program was asked to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Invocation {
    /// Serve: listen, and connect clients to channels.
    Serve(Box<Serve>),
    /// `-c`: send commands to a running instance.
    Command {
        /// The instance.
        instance: Instance,
        /// The commands. Bytes that are not UTF-8 were replaced by U+FFFD, which no command contains.
        text: String,
    },
    /// `-i`: open a shell on a running instance.
    Shell {
        /// The instance.
        instance: Instance,
    },
    /// `--list`: list all running instances.
    List,
    /// `--file`: serve the services that files define.
    Files(Files),
    /// `--help`, `--version`, `--man` or `--completions`: print this text.
    Print(Vec<u8>),
}

/// The running instance that `-c` or `-i` talks to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    /// The value of `-b`. `None`: not given.
    pub bind: Option<HostSpec>,
    /// Whether `-6` is given: the instance listens on the IPv6 wildcard. Ignored if `bind` is given.
    pub ipv6: bool,
    /// A port or the Unix socket of the instance; of a range, any of its ports.
    pub ports: PortsSpec,
    /// The word of PORT, for messages.
    pub typed: Typed,
    /// Whether `-d` is given.
    pub debug: bool,
}

/// Everything that an instance without files is started with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Serve {
    /// The settings of the process.
    pub process: ProcessSpec,
    /// The service.
    pub service: ServiceSpec,
    /// `--check-only`: judge everything, but start nothing.
    pub check_only: bool,
    /// `--replace`: take over the listening sockets of the instance that has the ports.
    pub replace: bool,
}

/// The services of files, and how to start them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// Files and directories, in the order given.
    pub paths: Vec<PathBuf>,
    /// The words of the command line, for [`FileReader::new`](super::FileReader::new).
    pub words: Vec<Word>,
    /// `--check-only`: judge everything, but start nothing.
    pub check_only: bool,
    /// `--replace`: take over the listening sockets of the instance that has the ports.
    pub replace: bool,
}

/// Reads `argv`, whose first word is the program's name. Whether hosts and services exist is asked later.
///
/// # Errors
/// The first thing wrong, in this order: an unknown option or a missing value, options that exclude each
/// other, PORT, the options, the channels. Each option is judged in each mode, so a wrong one is found even
/// where it has no effect.
pub fn parse(argv: &[OsString]) -> Result<Invocation, LineError> {
    let words: Vec<_> = argv.iter().skip(1).map(|text| Word { text: text.clone(), at: None }).collect();
    let split = Split::of(&words);
    let mut scratch = Draft::new(Draft::ANY_PORT, Typed::default());
    // Wrong options are reported below, in their place in the order.
    read_options(&split, &[], &mut scratch, &mut Vec::new());
    let ask = scratch.ask;
    if let Some(page) = page(&ask, &split)? {
        return Ok(Invocation::Print(page));
    }
    only_one_mode(&ask, &split)?;
    if ask.list {
        return Ok(Invocation::List);
    }
    if !ask.files.is_empty() {
        FileReader::new(&words)?;
        return Ok(Invocation::Files(Files {
            paths: ask.files,
            words,
            check_only: ask.check_only,
            replace: ask.replace,
        }));
    }
    if split.positionals.is_empty() {
        let asking = [(ask.interactive, "-i"), (ask.command.is_some(), "-c CMD")];
        return Err(match asking.iter().find(|(is_given, _)| *is_given) {
            Some((_, how)) => usage(format!(
                "no PORT; say which instance: balance {how} PORT ('balance --list' shows them)"
            )),
            None => usage(NO_PORT),
        });
    }
    let mut errors = Vec::new();
    let is_asking = ask.interactive || ask.command.is_some();
    let draft = read_draft(&split, &[], &mut errors);
    let draft = match (draft, errors.into_iter().next()) {
        (Some(draft), None) => draft,
        (_, Some(error)) => return Err(error),
        (None, None) => return Err(usage(NO_PORT)),
    };
    let ipv6 = draft.ipv6;
    let (process, service) = draft.settle();
    if !is_asking {
        return Ok(Invocation::Serve(Box::new(Serve {
            process,
            service,
            check_only: ask.check_only,
            replace: ask.replace,
        })));
    }
    let bind = match service.listen.host {
        ListenHost::Host(host) => Some(host),
        ListenHost::AnyV4 | ListenHost::AnyV6 => None,
    };
    let ListenSpec { ports, typed, .. } = service.listen;
    let instance = Instance { bind, ipv6, ports, typed, debug: process.debug };
    Ok(match ask.command {
        Some(text) => Invocation::Command { instance, text },
        None => Invocation::Shell { instance },
    })
}

fn usage(wrong: impl Into<String>) -> LineError {
    LineError { at: None, wrong: Wrong::Usage(wrong.into()) }
}

/// The page that was asked for. `--help` is answered even if other words are wrong.
fn page(ask: &Ask, split: &Split) -> Result<Option<Vec<u8>>, LineError> {
    if ask.help {
        return Ok(Some(help().into_bytes()));
    }
    match split.errors.first() {
        Some(error) => Err(error.clone()),
        None if ask.version => Ok(Some(version().into_bytes())),
        None if ask.man => Ok(Some(man_page())),
        None => Ok(ask.completions.map(completions)),
    }
}

/// `--list` cannot be given together with anything else that says what to do.
fn list_alone(ask: &Ask, split: &Split) -> Result<(), LineError> {
    let others = [
        (ask.interactive, "-i"),
        (ask.command.is_some(), "-c"),
        (!ask.files.is_empty(), "--file"),
        (ask.check_only, "--check-only"),
        (ask.replace, "--replace"),
    ];
    if let Some((_, other)) = others.iter().find(|(is_given, _)| *is_given) {
        return Err(usage(format!("--list and {other} cannot be used together; choose one")));
    }
    match split.positionals.first().map(Word::shown) {
        Some(word) => Err(usage(format!("'{word}' is one word too many; --list lists all instances"))),
        None => Ok(()),
    }
}

/// `-i`, `-c` and `--file` exclude each other. `-i` and `-c` take exactly one positional; a missing one is
/// reported elsewhere.
fn only_one_mode(ask: &Ask, split: &Split) -> Result<(), LineError> {
    if ask.list {
        return list_alone(ask, split);
    }
    let asking = match (ask.interactive, &ask.command) {
        (true, _) => Some("-i"),
        (false, Some(_)) => Some("-c"),
        (false, None) => None,
    };
    let serving =
        [(!ask.files.is_empty(), "--file"), (ask.check_only, "--check-only"), (ask.replace, "--replace")];
    if let (Some(asking), Some((_, serving))) = (asking, serving.iter().find(|(is_given, _)| *is_given)) {
        return Err(usage(format!(
            "{serving} and {asking} cannot be used together; {asking} takes the PORT of a running instance"
        )));
    }
    if let (false, Some(word)) = (ask.files.is_empty(), split.positionals.first()) {
        let word = word.shown();
        return Err(usage(format!("'{word}' is one word too many; with --file, services stand in the file")));
    }
    let extra = split.positionals.get(1).map(Word::shown);
    match (ask.interactive, &ask.command, extra) {
        (true, Some(_), _) => Err(usage("-i and -c cannot be used together; choose one")),
        (true, None, Some(word)) => {
            Err(usage(format!("'{word}' is one word too many; -i takes one PORT and nothing else")))
        }
        (false, Some(_), Some(word)) => Err(usage(format!(
            "'{word}' is one word too many; -c takes one PORT, and a CMD of several words needs quotes"
        ))),
        _ => Ok(()),
    }
}
