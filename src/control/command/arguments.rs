//! The words behind the name of a command, read as its arguments. `None` means: these words are wrong.
//!
//! Knows: how many words, in which order, and what each has to be. Never: the name before them, what exists.
//! Source: docs/control.md, "Commands".
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::num::NonZeroU32;
use std::time::Duration;

use ipnet::IpNet;

use super::meaning::{Command, Form, WaitGoal};
use crate::config::{parse_duration, parse_net_around, read_manner};
use crate::control::argument::{HostPort, Number};
use crate::control::wire::printable;
use crate::spec::{ChannelCheck, ChannelManner, Check, UnixName};

pub(super) fn alone(args: &[&[u8]], command: Command) -> Option<Command> {
    args.is_empty().then_some(command)
}

/// The arguments without the last word `json`, and the form that it stands for.
pub(super) fn form_of<'a>(args: &'a [&'a [u8]]) -> (&'a [&'a [u8]], Form) {
    match args {
        [args @ .., b"json"] => (args, Form::Json),
        args => (args, Form::Text),
    }
}

/// The form, if there is no other argument; else `None`.
pub(super) fn only_form(args: &[&[u8]]) -> Option<Form> {
    if let ([], form) = form_of(args) { Some(form) } else { None }
}

pub(super) fn one_number(args: &[&[u8]]) -> Option<Number> {
    if let [number] = args { Number::parse(number) } else { None }
}

/// The channel; `Some(None)`: all channels; `None`: the arguments are wrong.
#[allow(clippy::option_option, reason = "the outer one says that it cannot be understood")]
pub(super) fn one_or_all(args: &[&[u8]]) -> Option<Option<Number>> {
    match args {
        [] | [b"all"] => Some(None),
        [number] => Number::parse(number).map(Some),
        _ => None,
    }
}

pub(super) fn two_numbers(args: &[&[u8]]) -> Option<(Number, Number)> {
    if let [first, second] = args { Some((Number::parse(first)?, Number::parse(second)?)) } else { None }
}

pub(super) fn disable(args: &[&[u8]]) -> Option<Command> {
    let (channel, hard) = match args {
        [channel] | [channel, b"soft"] => (channel, false),
        [channel, b"hard"] => (channel, true),
        _ => return None,
    };
    Some(Command::Disable { channel: Number::parse(channel)?, hard })
}

pub(super) fn create(args: &[&[u8]]) -> Option<Command> {
    let (last, before) = args.split_last()?;
    let (last, options) = match last.iter().position(|&byte| byte == b',') {
        Some(at) => (&last[..at], Some(&last[at + 1..])),
        None => (*last, None),
    };
    let target = match before {
        [] if is_unix(last) => HostPort::unix(last),
        // A Unix socket has no port.
        [host] if is_unix(host) => None,
        [host] => HostPort::parse(host, last),
        _ => return None,
    };
    let manner = options.map_or_else(
        || Ok(ChannelManner::default()),
        |options| read_manner(&String::from_utf8_lossy(options)).and_then(without_program),
    );
    Some(Command::Create { target, manner })
}

/// Only the person who starts the instance or writes its files may choose a program to run, not everybody who
/// may give commands.
fn without_program(manner: ChannelManner) -> Result<ChannelManner, String> {
    match manner.check {
        ChannelCheck::Own(Check::Exec(_)) => {
            Err("check=exec: cannot be given at run time; write it in the service's line".to_owned())
        }
        _ => Ok(manner),
    }
}

pub(super) fn assign(args: &[&[u8]]) -> Option<Command> {
    let (channel, target) = match args {
        [channel, name] if is_unix(name) => (channel, HostPort::unix(name)),
        [channel, name, _] if is_unix(name) => (channel, None),
        [channel, host, port] => (channel, HostPort::parse(host, port)),
        _ => return None,
    };
    Some(Command::Assign { channel: Number::parse(channel)?, target })
}

fn is_unix(word: &[u8]) -> bool {
    word.starts_with(UnixName::PREFIX.as_bytes())
}

pub(super) fn wait(args: &[&[u8]]) -> Option<Command> {
    let (channel, rest) = args.split_first()?;
    let (until, rest) = match rest {
        [b"up", rest @ ..] => (WaitGoal::Up, rest),
        rest => (WaitGoal::Idle, rest),
    };
    let patience = match rest {
        [] => None,
        [time] => Some(time_of(time)?),
        _ => return None,
    };
    Some(Command::Wait { channel: Number::parse(channel)?, until, patience })
}

pub(super) fn net_of(word: &[u8]) -> Result<IpNet, String> {
    let text = std::str::from_utf8(word).map_err(|_| "is not UTF-8".to_owned()).and_then(parse_net_around);
    text.map_err(|why| format!("{} {why}", printable(word)))
}

/// The words after the network may be in any order, each at most once.
pub(super) fn deny(args: &[&[u8]]) -> Option<Command> {
    let (net, rest) = args.split_first()?;
    let (mut time, mut kick, mut all) = (None, false, false);
    for word in rest {
        let is_new = match *word {
            b"kick" => !std::mem::replace(&mut kick, true),
            b"all" => !std::mem::replace(&mut all, true),
            word => time.replace(time_of(word).filter(|time| !time.is_zero())?).is_none(),
        };
        if !is_new {
            return None;
        }
    }
    Some(Command::Deny { net: net_of(net), time, kick, all })
}

pub(super) fn time_of(word: &[u8]) -> Option<Duration> {
    parse_duration(std::str::from_utf8(word).ok()?).ok()
}

/// A number that is too large means all of them.
pub(super) fn last_of(number: &Number) -> Option<usize> {
    let is_negative = number.to_string().starts_with('-');
    (!is_negative).then(|| number.index().unwrap_or(usize::MAX))
}

pub(super) fn maxc(args: &[&[u8]]) -> Option<Command> {
    let (channel, limit) = two_numbers(args)?;
    Some(Command::Maxc { channel, maxc: NonZeroU32::new(limit.to_u32()?) })
}
