//! The options of a channel, which follow its first comma: one row for each, with how it is read and printed.
//!
//! Knows: their names and legal values. Never: hosts and ports, what a weight does.

use std::borrow::Cow;
use std::ffi::OsStr;

use super::check::{print_check, read_check};
use super::number::whole_number;
use crate::spec::{
    AdminState, ChannelCheck, ChannelManner, ChannelSpec, FamilyKind, ProxyVersion, Typed, Weight,
};

/// One option of a channel.
struct ChannelOptionRow {
    name: &'static str,
    /// The ways to write it, for messages.
    forms: &'static [&'static str],
    /// Reads what follows `=`; `None` if there is no `=`. The error says what is wrong and what would be
    /// right.
    read: fn(&mut ChannelSpec, Option<&str>) -> Result<(), Cow<'static, str>>,
    /// The option as it would be typed; empty if the channel has the default.
    print: fn(&ChannelSpec) -> String,
}

/// All options of a channel, in the order in which they are printed.
static CHANNEL_OPTIONS: &[ChannelOptionRow] = &[
    ChannelOptionRow {
        name: "weight",
        forms: &["weight=N"],
        read: |channel, value| {
            channel.weight = read_weight(value)?;
            Ok(())
        },
        print: |channel| match channel.weight {
            Weight::ONE => String::new(),
            weight => format!("weight={}", weight.get()),
        },
    },
    ChannelOptionRow {
        name: "proxy",
        forms: &["proxy", "proxy=v1"],
        read: |channel, value| {
            channel.manner.proxy = Some(match value {
                None | Some("v2") => ProxyVersion::V2,
                Some("v1") => ProxyVersion::V1,
                Some(_) => return Err("is not known; give proxy for version 2 or proxy=v1".into()),
            });
            Ok(())
        },
        print: |channel| match channel.manner.proxy {
            None => String::new(),
            Some(ProxyVersion::V2) => "proxy".to_owned(),
            Some(ProxyVersion::V1) => "proxy=v1".to_owned(),
        },
    },
    ChannelOptionRow {
        name: "check",
        forms: &["check=SPEC"],
        read: |channel, value| {
            channel.manner.check = match value {
                None => {
                    return Err(
                        "needs a value; give one such as check=tcp, check=http:/healthz or check=none".into(),
                    );
                }
                Some("none") => ChannelCheck::Never,
                Some(spec) => ChannelCheck::Own(
                    read_check(OsStr::new(spec)).map_err(|wrong| Cow::from(wrong.to_string()))?,
                ),
            };
            Ok(())
        },
        print: |channel| {
            print_channel_check(&channel.manner.check)
                .map_or_else(String::new, |spec| format!("check={spec}"))
        },
    },
    ChannelOptionRow {
        name: "disabled",
        forms: &["disabled", "disabled=hard"],
        read: |channel, value| {
            channel.state = match value {
                None => AdminState::Disabled,
                Some("hard") => AdminState::DisabledHard,
                Some(_) => return Err("is not known; give disabled or disabled=hard".into()),
            };
            Ok(())
        },
        print: |channel| match channel.state {
            AdminState::Enabled => String::new(),
            AdminState::Disabled => "disabled".to_owned(),
            AdminState::DisabledHard => "disabled=hard".to_owned(),
        },
    },
    ChannelOptionRow {
        name: "each",
        forms: &["each"],
        read: |channel, value| {
            channel.family = Some(FamilyKind::Each);
            value.map_or(Ok(()), |_| Err("takes no value; give each".into()))
        },
        print: |channel| match channel.family {
            Some(FamilyKind::Each) => "each".to_owned(),
            Some(FamilyKind::Service) | None => String::new(),
        },
    },
    ChannelOptionRow {
        name: "lazy",
        forms: &["lazy"],
        read: |channel, value| {
            channel.lazy = true;
            value.map_or(Ok(()), |_| Err("takes no value; give lazy".into()))
        },
        print: |channel| if channel.lazy { "lazy".to_owned() } else { String::new() },
    },
];

/// Added to the message about an unknown option that follows a check: the comma may have been meant as part
/// of the check.
const NO_COMMA: &str = ". A comma ends a channel's check; in send: and expect: write \\x2c";
/// The options that say how a channel is connected to and checked: its manner.
const OF_MANNER: &[&str] = &["proxy", "check"];

/// Reads options, separated by commas, into the channel. `word` is the whole channel, for the message.
///
/// # Errors
/// One line that says what is wrong and what would be right.
pub(super) fn read_channel_options(
    channel: &mut ChannelSpec,
    options: &str,
    word: &str,
) -> Result<(), String> {
    read_rows(channel, options, word, |_| true)
}

fn read_rows(
    channel: &mut ChannelSpec,
    options: &str,
    word: &str,
    is_legal: fn(&ChannelOptionRow) -> bool,
) -> Result<(), String> {
    let mut said = Vec::new();
    for option in options.split(',') {
        let (name, value) =
            option.split_once('=').map_or((option, None), |(name, value)| (name, Some(value)));
        let row = CHANNEL_OPTIONS.iter().find(|row| row.name == name && is_legal(row));
        let row = row.ok_or_else(|| {
            let forms = all_forms(is_legal);
            let hint = if said.last() == Some(&"check") { NO_COMMA } else { "" };
            format!("unknown option '{option}' in [{word}]; a channel has {forms}{hint}")
        })?;
        if said.contains(&name) {
            return Err(format!("{name} is there twice in [{word}]; give it once"));
        }
        said.push(name);
        (row.read)(channel, value).map_err(|wrong| format!("{option} in [{word}] {wrong}"))?;
    }
    Ok(())
}

/// The options of a channel that differ from the defaults, each with a comma before it.
pub(super) fn print_channel_options(channel: &ChannelSpec) -> String {
    let options = CHANNEL_OPTIONS.iter().map(|row| (row.print)(channel)).filter(|option| !option.is_empty());
    options.flat_map(|option| [",".to_owned(), option]).collect()
}

/// Reads the options of a channel's manner, separated by commas.
///
/// # Errors
/// One line that says what is wrong and what would be right.
pub fn read_manner(options: &str) -> Result<ChannelManner, String> {
    let mut channel = plain(ChannelManner::default());
    let is_of_manner = |row: &ChannelOptionRow| OF_MANNER.contains(&row.name);
    read_rows(&mut channel, options, options, is_of_manner)?;
    Ok(channel.manner)
}

/// The text that [`read_manner`] reads as this; empty if nothing differs from the default.
pub fn print_manner(manner: &ChannelManner) -> String {
    print_channel_options(&plain(manner.clone())).trim_start_matches(',').to_owned()
}

/// The channel's check as it is written after `check=`. `None`: the channel has the check of its service.
pub fn print_channel_check(check: &ChannelCheck) -> Option<String> {
    match check {
        ChannelCheck::AsService => None,
        ChannelCheck::Never => Some("none".to_owned()),
        // A comma would end the check. Only texts that are sent or expected can have one.
        ChannelCheck::Own(check) => Some(print_check(check).replace(',', "\\x2c")),
    }
}

fn plain(manner: ChannelManner) -> ChannelSpec {
    ChannelSpec {
        typed: Typed::default(),
        host: "-".to_owned(),
        port: None,
        lazy: false,
        family: None,
        maxc: None,
        weight: Weight::ONE,
        state: AdminState::Enabled,
        manner,
    }
}

/// The forms of the options that `which` selects, such as `weight=N, disabled, disabled=hard and lazy`.
fn all_forms(which: fn(&ChannelOptionRow) -> bool) -> String {
    let rows = CHANNEL_OPTIONS.iter().filter(|row| which(row));
    let forms: Vec<_> = rows.flat_map(|row| row.forms).copied().collect();
    match forms.split_last() {
        Some((last, [])) => (*last).to_owned(),
        Some((last, others)) => format!("{} and {last}", others.join(", ")),
        None => String::new(),
    }
}

/// Reads the value of `weight=`. The error says what is wrong with it.
fn read_weight(value: Option<&str>) -> Result<Weight, &'static str> {
    match value.map(whole_number) {
        None => Err("needs a number; give weight=0 to weight=256"),
        Some(None) => Err("is not a number; give 0 to 256"),
        Some(Some(number)) => number
            .and_then(|n| u32::try_from(n).ok())
            .and_then(Weight::new)
            .ok_or("is out of range; give 0 to 256"),
    }
}
