//! What the command line means: defaults, ranges and what excludes what. [`RawArgs`] become an [`Invocation`].
//!
//! Knows: defaults and legal ranges, and why. Never: how a setting is carried out, whether a host or service exists.
//! Source: docs/compatibility.md, "Command line" and "Exit codes".

use std::ffi::OsStr;
use std::num::NonZeroUsize;
use std::time::Duration;

use super::choosing::{PolicyWord, SLOW_START, hash_balance};
use super::cli::{RawArgs, Shell};
use super::duration::{LONGEST, SHORTEST, parse_duration};
use super::groups::parse_groups;
use super::health::{check, fail_open, on_down};
use super::limits::{Limits, limits};
use super::target::{NO_CHANNELS, TargetError, invalid_address, is_host, whole_number};
use super::usage::usage;
use super::values::{Count, Span, unless_zero};
use crate::spec::{Keepalive, ListenHost, ListenSpec, Policy, PortWord, ProcessSpec, ServiceSpec};

/// Long enough for a retransmitted SYN or two, as ever.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A peer that vanished after the other side had closed must not hold its slot for ever.
pub(super) const HALF_CLOSE_TIMEOUT: Duration = Duration::from_secs(3_600);
/// More threads than any machine this was tried on has cores.
const MAX_WORKERS: u32 = 1_024;
/// The most the kernel takes as TCP_KEEPIDLE and TCP_KEEPINTVL, in seconds.
const MAX_KEEPALIVE_SECONDS: u64 = 32_767;
/// The most the kernel takes as TCP_KEEPCNT.
const MAX_KEEPALIVE_PROBES: u64 = 127;

const CONNECT: Span = Span { option: "-t (--connect-timeout)", least: SHORTEST, most: LONGEST, zero: None };
const IDLE: Span =
    Span { option: "-T (--idle-timeout)", least: SHORTEST, most: LONGEST, zero: Some("never") };
const HALF_CLOSE: Span =
    Span { option: "--half-close-timeout", least: SHORTEST, most: LONGEST, zero: Some("never") };
const WORKERS: Count = Count { option: "--workers", least: 1, most: MAX_WORKERS, zero: None };

/// What the program was asked to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Invocation {
    /// Listen and hand clients to channels.
    Serve(Box<Serve>),
    /// `-c`: send commands to a running instance.
    Command {
        /// Which one.
        instance: Instance,
        /// The commands. Bytes that were not UTF-8 were replaced; no command has such a word.
        text: String,
    },
    /// `-i`: a shell on a running instance.
    Shell {
        /// Which one.
        instance: Instance,
    },
    /// `--man`: print the manual page.
    Man,
    /// `--completions`: print a completion script.
    Completions(Shell),
}

/// The running instance that a controller talks to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    /// `-b`, as typed but without brackets. `None`: not said.
    pub bind: Option<String>,
    /// `-6`: an instance on the IPv6 wildcard is meant; of no weight with `bind`.
    pub ipv6: bool,
    /// Its port.
    pub port: PortWord,
    /// `-d`.
    pub debug: bool,
}

/// Everything an instance is started with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Serve {
    /// What the process is asked for.
    pub process: ProcessSpec,
    /// What it serves.
    pub service: ServiceSpec,
}

/// Why the command line means nothing. Prints as the contract has it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// Exit 64. The whole text for stderr, which ends with a newline.
    #[error("{text}")]
    Usage {
        /// A line that says what is wrong and what would be right, then the usage.
        text: String,
    },
    /// Exit 64: PORT is neither 1..=65535 nor, as far as can be seen or was found out, a service.
    #[error("invalid port [{word}], exiting.")]
    InvalidPort {
        /// PORT as typed.
        word: String,
    },
    /// Exit 65: an address that cannot be one, or that was found to be unknown.
    #[error("{}", invalid_address(word))]
    InvalidAddress {
        /// The whole word as typed.
        word: String,
    },
    /// Exit 69: `!` or `%` with no channel before it.
    #[error("{NO_CHANNELS}")]
    EmptyGroup,
}

impl SettingsError {
    pub(super) fn usage(wrong: impl AsRef<str>) -> Self {
        Self::Usage { text: usage(wrong.as_ref()) }
    }
}

impl From<TargetError> for SettingsError {
    fn from(error: TargetError) -> Self {
        match error {
            TargetError::InvalidAddress { word } => Self::InvalidAddress { word },
            TargetError::EmptyGroup => Self::EmptyGroup,
            TargetError::UnknownOption { .. }
            | TargetError::BadOption { .. }
            | TargetError::RepeatedOption { .. } => Self::usage(error.to_string()),
            TargetError::TooManyGroups | TargetError::TooManyChannels => {
                Self::Usage { text: format!("{error}\n") }
            }
        }
    }
}

impl TryFrom<RawArgs> for Invocation {
    type Error = SettingsError;

    /// PORT is judged first, then the options, then the channels in order. Every option is judged in every mode, so that
    /// a wrong one is found even where it has no effect.
    fn try_from(raw: RawArgs) -> Result<Self, SettingsError> {
        if raw.man {
            return Ok(Self::Man);
        }
        if let Some(shell) = raw.completions {
            return Ok(Self::Completions(shell));
        }
        only_one_mode(&raw)?;
        let Some(port) = &raw.port else {
            return Err(SettingsError::usage(
                "no PORT; give a number from 1 to 65535 or the name of a service",
            ));
        };
        let port = port_word(port)?;
        let policy = PolicyWord::read(&raw)?;
        let mut serve = serve(&raw, port, policy.later())?;
        if !raw.interactive && raw.command.is_none() {
            let groups = &mut serve.service.groups;
            *groups = parse_groups(&raw.channels)?;
            policy.apply(groups)?;
            return Ok(Self::Serve(Box::new(serve)));
        }
        let ListenSpec { host, port } = serve.service.listen;
        let bind = match host {
            ListenHost::Host(host) => Some(host),
            ListenHost::AnyV4 | ListenHost::AnyV6 => None,
        };
        let instance = Instance { bind, ipv6: raw.ipv6, port, debug: raw.debug };
        Ok(match raw.command {
            Some(text) => Self::Command { instance, text: text.to_string_lossy().into_owned() },
            None => Self::Shell { instance },
        })
    }
}

/// `-i` and `-c` exclude each other and take exactly one positional (that it is there at all is checked elsewhere).
fn only_one_mode(raw: &RawArgs) -> Result<(), SettingsError> {
    let extra = raw.channels.first().map(|word| word.display());
    match (raw.interactive, &raw.command, extra) {
        (true, Some(_), _) => Err(SettingsError::usage("-i and -c cannot be used together; choose one")),
        (true, None, Some(word)) => Err(SettingsError::usage(format!(
            "'{word}' is one word too many; -i takes one PORT and nothing else"
        ))),
        (false, Some(_), Some(word)) => Err(SettingsError::usage(format!(
            "'{word}' is one word too many; -c takes one PORT, and a CMD of several words needs quotes"
        ))),
        _ => Ok(()),
    }
}

/// All options; no channels yet.
fn serve(raw: &RawArgs, port: PortWord, policy: Policy) -> Result<Serve, SettingsError> {
    let listen = match (&raw.bind, raw.ipv6) {
        (Some(word), _) => ListenHost::Host(host(word)?),
        (None, true) => ListenHost::AnyV6,
        (None, false) => ListenHost::AnyV4,
    };
    let connect_timeout = connect_timeout(raw.connect_timeout.as_deref())?;
    let idle_timeout = IDLE.read(raw.idle_timeout.as_deref())?;
    let half_close_timeout =
        HALF_CLOSE.read(raw.half_close_timeout.as_deref())?.unwrap_or(HALF_CLOSE_TIMEOUT);
    let Limits { max_connections, queue, queue_timeout, max_lifetime } = limits(raw)?;
    let process = ProcessSpec {
        foreground: raw.foreground,
        debug: raw.debug,
        dump: raw.dump,
        control_group: raw.control_group.as_deref().map(control_group).transpose()?,
        workers: workers(raw.workers.as_deref())?,
        busy_poll: raw.busy_poll.as_deref().map(|word| word == "on"),
    };
    let service = ServiceSpec {
        name: None,
        listen: ListenSpec { host: listen, port },
        groups: Vec::new(),
        source: raw.source.as_deref().map(host).transpose()?,
        connect_timeout,
        idle_timeout: idle_timeout.and_then(unless_zero),
        half_close_timeout: unless_zero(half_close_timeout),
        autodisable: raw.autodisable,
        hash_failover: raw.hash_failover,
        client_keepalive: keepalive("-K (--client-keepalive)", raw.client_keepalive.as_deref())?,
        server_keepalive: keepalive("-k (--server-keepalive)", raw.server_keepalive.as_deref())?,
        later_policy: policy,
        hash_balance: hash_balance(raw)?,
        slow_start: SLOW_START.read(raw.slow_start.as_deref())?.and_then(unless_zero),
        eject: !raw.no_eject,
        check: check(raw)?,
        fail_open: fail_open(raw),
        on_down: on_down(raw),
        refuse_when_down: raw.refuse_when_down,
        max_connections,
        queue,
        queue_timeout,
        max_lifetime,
    };
    Ok(Serve { process, service })
}

fn port_word(word: &OsStr) -> Result<PortWord, SettingsError> {
    let port = word.to_str().and_then(PortWord::parse);
    port.ok_or_else(|| SettingsError::InvalidPort { word: word.to_string_lossy().into_owned() })
}

/// The address of `-b` or `-B`. Brackets around an IPv6 address are habit from elsewhere; they do no harm.
fn host(word: &OsStr) -> Result<String, SettingsError> {
    let bare = word.to_str().map(|text| {
        let inside = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        inside.filter(|inside| inside.contains(':')).unwrap_or(text)
    });
    match bare.filter(|bare| is_host(bare)) {
        Some(bare) => Ok(bare.to_owned()),
        None => Err(SettingsError::InvalidAddress { word: word.to_string_lossy().into_owned() }),
    }
}

fn connect_timeout(word: Option<&OsStr>) -> Result<Duration, SettingsError> {
    let is_zero = word.is_some_and(|word| parse_duration(&word.to_string_lossy()) == Ok(Duration::ZERO));
    if is_zero {
        return Err(SettingsError::usage(
            "-t (--connect-timeout) must be more than 0; it is 5 seconds without -t",
        ));
    }
    Ok(CONNECT.read(word)?.unwrap_or(CONNECT_TIMEOUT))
}

/// `idle:interval:count`, whole numbers.
fn keepalive(option: &str, word: Option<&OsStr>) -> Result<Option<Keepalive>, SettingsError> {
    let Some(word) = word else { return Ok(None) };
    let wrong = || {
        SettingsError::usage(format!(
            "{option} '{}' is not IDLE:INTVL:CNT; give seconds, seconds and a count, such as 60:10:6 \
             (1 to {MAX_KEEPALIVE_SECONDS}, the same, 1 to {MAX_KEEPALIVE_PROBES})",
            word.display()
        ))
    };
    let text = word.to_string_lossy();
    let parts: Vec<_> = text.split(':').map(|part| whole_number(part).flatten()).collect();
    let [Some(idle), Some(interval), Some(count)] = parts[..] else { return Err(wrong()) };
    let seconds = 1..=MAX_KEEPALIVE_SECONDS;
    let probes = 1..=MAX_KEEPALIVE_PROBES;
    if !seconds.contains(&idle) || !seconds.contains(&interval) || !probes.contains(&count) {
        return Err(wrong());
    }
    let count = u32::try_from(count).map_err(|_| wrong())?;
    let (idle, interval) = (Duration::from_secs(idle), Duration::from_secs(interval));
    Ok(Some(Keepalive { idle, interval, count }))
}

fn control_group(word: &OsStr) -> Result<String, SettingsError> {
    let is_name = |name: &&str| !name.is_empty() && !name.contains(|c: char| c.is_control() || c == ':');
    word.to_str().filter(is_name).map(str::to_owned).ok_or_else(|| {
        let shown = word.display();
        SettingsError::usage(format!("--control-group '{shown}' is not the name of a unix group"))
    })
}

fn workers(word: Option<&OsStr>) -> Result<Option<NonZeroUsize>, SettingsError> {
    let number = WORKERS.read(word)?;
    Ok(number.and_then(|n| usize::try_from(n).ok()).and_then(NonZeroUsize::new))
}
