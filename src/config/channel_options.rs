//! A channel's own options, which stand behind its first comma: one row each, with how it is read and printed.
//!
//! Knows: their names and legal values. Never: hosts and ports, what a weight does.

use super::number::whole_number;
use crate::spec::{AdminState, ChannelSpec, Weight};

/// One option of a channel.
struct ChannelOptionRow {
    name: &'static str,
    /// The ways to write it, for messages.
    forms: &'static [&'static str],
    /// Reads what stands behind `=`, if there is one. The error says what is wrong and what would be right.
    read: fn(&mut ChannelSpec, Option<&str>) -> Result<(), &'static str>,
    /// As it would be typed. Empty: it says no more than the default.
    print: fn(&ChannelSpec) -> String,
}

/// In the order in which they are printed.
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
        name: "disabled",
        forms: &["disabled", "disabled=hard"],
        read: |channel, value| {
            channel.state = match value {
                None => AdminState::Disabled,
                Some("hard") => AdminState::DisabledHard,
                Some(_) => return Err("is not known; give disabled or disabled=hard"),
            };
            Ok(())
        },
        print: |channel| match channel.state {
            AdminState::Enabled => String::new(),
            AdminState::Disabled => "disabled".to_owned(),
            AdminState::DisabledHard => "disabled=hard".to_owned(),
        },
    },
];

/// Reads options with commas between into the channel. `word` is the whole channel, for the message.
///
/// # Errors
/// One line that says what is wrong and what would be right.
pub(super) fn read_channel_options(
    channel: &mut ChannelSpec,
    options: &str,
    word: &str,
) -> Result<(), String> {
    let mut said = Vec::new();
    for option in options.split(',') {
        let (name, value) =
            option.split_once('=').map_or((option, None), |(name, value)| (name, Some(value)));
        let row = CHANNEL_OPTIONS
            .iter()
            .find(|row| row.name == name)
            .ok_or_else(|| format!("unknown option '{option}' in [{word}]; a channel has {}", all_forms()))?;
        if said.contains(&name) {
            return Err(format!("{name} is there twice in [{word}]; give it once"));
        }
        said.push(name);
        (row.read)(channel, value).map_err(|wrong| format!("{option} in [{word}] {wrong}"))?;
    }
    Ok(())
}

/// The options of a channel that say something else than the default, with their commas.
pub(super) fn print_channel_options(channel: &ChannelSpec) -> String {
    let options = CHANNEL_OPTIONS.iter().map(|row| (row.print)(channel)).filter(|option| !option.is_empty());
    options.flat_map(|option| [",".to_owned(), option]).collect()
}

/// `weight=N, disabled and disabled=hard`.
fn all_forms() -> String {
    let forms: Vec<_> = CHANNEL_OPTIONS.iter().flat_map(|row| row.forms).copied().collect();
    forms.split_last().map_or_else(String::new, |(last, others)| format!("{} and {last}", others.join(", ")))
}

/// The error says what is wrong.
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
