//! A channel's own options, which stand behind its first comma: `weight=N`, `disabled`, `disabled=hard`.
//!
//! Knows: their names and legal values. Never: hosts and ports, what a weight does.

use super::number::whole_number;
use crate::spec::{AdminState, ChannelSpec, Weight};

/// Reads `weight=N`, `disabled` and `disabled=hard`, with commas between. `None` for what was not said. `word` is the whole
/// channel, for the message.
///
/// # Errors
/// One line that says what is wrong and what would be right.
pub(super) fn read_channel_options(
    options: &str,
    word: &str,
) -> Result<(Option<Weight>, Option<AdminState>), String> {
    let (mut weight, mut state) = (None, None);
    for option in options.split(',') {
        let bad = |wrong: &str| format!("{option} in [{word}] {wrong}");
        let repeated = |option: &str| format!("{option} is there twice in [{word}]; give it once");
        match option.split_once('=').map_or((option, None), |(name, value)| (name, Some(value))) {
            ("weight", _) if weight.is_some() => return Err(repeated("weight")),
            ("weight", value) => weight = Some(read_weight(value).map_err(bad)?),
            ("disabled", _) if state.is_some() => return Err(repeated("disabled")),
            ("disabled", None) => state = Some(AdminState::Disabled),
            ("disabled", Some("hard")) => state = Some(AdminState::DisabledHard),
            ("disabled", Some(_)) => return Err(bad("is not known; give disabled or disabled=hard")),
            _ => {
                return Err(format!(
                    "unknown option '{option}' in [{word}]; a channel has weight=N, disabled and disabled=hard"
                ));
            }
        }
    }
    Ok((weight, state))
}

/// The options of a channel that say something else than the default, with their commas.
pub(super) fn print_channel_options(channel: &ChannelSpec) -> String {
    let weight = match channel.weight {
        Weight::ONE => String::new(),
        weight => format!(",weight={}", weight.get()),
    };
    let state = match channel.state {
        AdminState::Enabled => "",
        AdminState::Disabled => ",disabled",
        AdminState::DisabledHard => ",disabled=hard",
    };
    weight + state
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
