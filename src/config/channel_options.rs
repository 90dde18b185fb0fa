//! A channel's own options, which stand behind its first comma: `weight=N`, `disabled`, `disabled=hard`.
//!
//! Knows: their names and legal values. Never: hosts and ports, what a weight does.

use super::target::{TargetError, whole_number};
use crate::spec::{AdminState, Weight};

/// Reads `weight=N`, `disabled` and `disabled=hard`, with commas between. `None` for what was not said.
pub(super) fn channel_options(
    options: &str,
    word: &str,
) -> Result<(Option<Weight>, Option<AdminState>), TargetError> {
    let (mut weight, mut state) = (None, None);
    for option in options.split(',') {
        let bad = |wrong| TargetError::BadOption { option: option.to_owned(), word: word.to_owned(), wrong };
        let repeated = |option| TargetError::RepeatedOption { option, word: word.to_owned() };
        match option.split_once('=').map_or((option, None), |(name, value)| (name, Some(value))) {
            ("weight", _) if weight.is_some() => return Err(repeated("weight")),
            ("weight", value) => weight = Some(read_weight(value).map_err(bad)?),
            ("disabled", _) if state.is_some() => return Err(repeated("disabled")),
            ("disabled", None) => state = Some(AdminState::Disabled),
            ("disabled", Some("hard")) => state = Some(AdminState::DisabledHard),
            ("disabled", Some(_)) => return Err(bad("is not known; give disabled or disabled=hard")),
            _ => {
                return Err(TargetError::UnknownOption { option: option.to_owned(), word: word.to_owned() });
            }
        }
    }
    Ok((weight, state))
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

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::*;
    use crate::spec::ChannelSpec;

    #[test]
    fn options_of_a_channel_stand_behind_the_first_comma() {
        use AdminState::{Disabled, DisabledHard, Enabled};
        let table = [
            ("h,weight=3", "h,weight=3", 3, Enabled),
            ("h:80:4,weight=0", "h:80:4,weight=0", 0, Enabled),
            ("h:80,weight=256", "h:80,weight=256", 256, Enabled),
            ("h::0,weight=001", "h", 1, Enabled),
            ("h,disabled", "h,disabled", 1, Disabled),
            ("h,disabled=hard", "h,disabled=hard", 1, DisabledHard),
            ("h,disabled,weight=2", "h,weight=2,disabled", 2, Disabled),
            ("2001:db8::1,weight=2", "[2001:db8::1],weight=2", 2, Enabled),
            ("[::1]:80,disabled", "[::1]:80,disabled", 1, Disabled),
            ("-,weight=2", "-:,weight=2", 2, Enabled),
        ];
        for (word, printed, weight, state) in table {
            let target = ChannelSpec::parse(OsStr::new(word)).unwrap_or_else(|e| panic!("{word}: {e}"));
            assert_eq!((target.weight.get(), target.state), (weight, state), "{word}");
            assert_eq!((target.typed.text.as_str(), target.to_string().as_str()), (word, printed));
        }
    }

    #[test]
    fn a_wrong_option_of_a_channel_is_named_with_what_would_be_right() {
        let unknown = "; a channel has weight=N, disabled and disabled=hard";
        let table = [
            ("host:80,weight=300", "weight=300 in [host:80,weight=300] is out of range; give 0 to 256".to_owned()),
            ("h,weight=257", "weight=257 in [h,weight=257] is out of range; give 0 to 256".to_owned()),
            (
                "h,weight=99999999999999999999999",
                "weight=99999999999999999999999 in [h,weight=99999999999999999999999] is out of range; give 0 to 256"
                    .to_owned(),
            ),
            ("h,weight=-1", "weight=-1 in [h,weight=-1] is not a number; give 0 to 256".to_owned()),
            ("h,weight=", "weight= in [h,weight=] is not a number; give 0 to 256".to_owned()),
            ("h,weight", "weight in [h,weight] needs a number; give weight=0 to weight=256".to_owned()),
            ("h,weight=1,weight=1", "weight is there twice in [h,weight=1,weight=1]; give it once".to_owned()),
            (
                "h,disabled,disabled=hard",
                "disabled is there twice in [h,disabled,disabled=hard]; give it once".to_owned(),
            ),
            (
                "h,disabled=soft",
                "disabled=soft in [h,disabled=soft] is not known; give disabled or disabled=hard".to_owned(),
            ),
            ("h,", format!("unknown option '' in [h,]{unknown}")),
            ("h,maxc=3", format!("unknown option 'maxc=3' in [h,maxc=3]{unknown}")),
            ("h,Weight=3", format!("unknown option 'Weight=3' in [h,Weight=3]{unknown}")),
            ("h, weight=3", format!("unknown option ' weight=3' in [h, weight=3]{unknown}")),
        ];
        for (word, message) in table {
            assert_eq!(ChannelSpec::parse(OsStr::new(word)).expect_err(word).to_string(), message);
        }
    }
}
