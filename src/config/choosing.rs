//! `--policy`, `--hash-balance`, `--slow-start`: how groups choose.
//!
//! Knows: names of policies, which group of a command line gets which, legal ranges. Never: how a policy chooses.

use std::ffi::OsStr;

use super::cli::RawArgs;
use super::duration::{LONGEST, SHORTEST};
use super::settings::SettingsError;
use super::target::whole_number;
use super::values::Span;
use crate::spec::{GroupSpec, Policy};

const NAMES: [(&str, Policy); 5] = [
    ("rr", Policy::RoundRobin),
    ("leastconn", Policy::LeastConnections),
    ("p2c", Policy::TwoChoices),
    ("first", Policy::First),
    ("hash", Policy::Hash),
];

pub(super) const SLOW_START: Span =
    Span { option: "--slow-start", least: SHORTEST, most: LONGEST, zero: Some("off") };

/// The policy of this name: `rr`, `leastconn`, `p2c`, `first`, `hash`.
pub fn policy_named(name: &str) -> Option<Policy> {
    NAMES.iter().find(|(known, _)| *known == name).map(|(_, policy)| *policy)
}

/// The name that [`policy_named`] knows a policy by.
pub fn policy_name(policy: Policy) -> &'static str {
    // The table has every policy, as a test shows.
    NAMES.iter().find(|(_, known)| *known == policy).map_or("rr", |(name, _)| name)
}

/// `--policy` as it was typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum PolicyWord {
    /// One word: all groups that `%` does not end, and those that come later.
    All(Policy),
    /// A list: group by group.
    Each(Vec<Policy>),
}

impl PolicyWord {
    /// Without the option all groups are what their ends say.
    ///
    /// # Errors
    /// `Usage` for a name that is none.
    pub(super) fn read(raw: &RawArgs) -> Result<Self, SettingsError> {
        let Some(word) = &raw.policy else { return Ok(Self::All(Policy::RoundRobin)) };
        let text = word.to_string_lossy();
        let policies = text.split(',').map(|name| {
            policy_named(name).ok_or_else(|| {
                let at = if name == text { String::new() } else { format!(" has '{name}', which") };
                SettingsError::usage(format!(
                    "--policy '{text}'{at} is no policy; give one of {}, or a list such as leastconn,rr with one for \
                     each group",
                    NAMES.map(|(name, _)| name).join(", ")
                ))
            })
        });
        let policies = policies.collect::<Result<Vec<_>, _>>()?;
        Ok(match policies[..] {
            [policy] => Self::All(policy),
            _ => Self::Each(policies),
        })
    }

    /// The policy of groups that come into being later.
    pub(super) fn later(&self) -> Policy {
        match self {
            Self::All(policy) => *policy,
            Self::Each(_) => Policy::RoundRobin,
        }
    }

    /// Gives the groups, which are round robin or hash by their ends, their policies.
    ///
    /// # Errors
    /// `Usage` for a list that is too short or too long, or that has another policy than hash for a group that `%` ends.
    pub(super) fn apply(&self, groups: &mut [GroupSpec]) -> Result<(), SettingsError> {
        let policies = match self {
            Self::All(policy) => {
                groups
                    .iter_mut()
                    .filter(|group| group.policy != Policy::Hash)
                    .for_each(|group| group.policy = *policy);
                return Ok(());
            }
            Self::Each(policies) => policies,
        };
        let names = policies.iter().map(|policy| policy_name(*policy)).collect::<Vec<_>>().join(",");
        if policies.len() != groups.len() {
            return Err(SettingsError::usage(format!(
                "--policy '{names}' has {} policies, but the number of groups is {}; give one for each group, or one \
                 word for all",
                policies.len(),
                groups.len()
            )));
        }
        for (index, (group, policy)) in groups.iter_mut().zip(policies).enumerate() {
            if group.policy == Policy::Hash && *policy != Policy::Hash {
                return Err(SettingsError::usage(format!(
                    "--policy '{names}' has {} for group {index}, which % makes hash; write hash there, or end the \
                     group with !",
                    policy_name(*policy)
                )));
            }
            group.policy = *policy;
        }
        Ok(())
    }
}

/// `--hash-balance` in thousandths, 1000..=100000.
///
/// # Errors
/// `Usage` for anything else.
pub(super) fn hash_balance(raw: &RawArgs) -> Result<Option<u32>, SettingsError> {
    let Some(word) = &raw.hash_balance else { return Ok(None) };
    match thousandths(word) {
        Some(factor @ 1_000..=100_000) => Ok(Some(factor)),
        _ => Err(SettingsError::usage(format!(
            "--hash-balance '{}' is not a number from 1 to 100 with at most 3 decimals, such as 1.25",
            word.display()
        ))),
    }
}

fn thousandths(word: &OsStr) -> Option<u32> {
    let (whole, fraction) = word.to_str().map(|text| text.split_once('.').unwrap_or((text, "0")))?;
    if fraction.len() > 3 {
        return None;
    }
    let whole = whole_number(whole)??.checked_mul(1_000)?;
    let fraction = whole_number(&format!("{fraction:0<3}")).filter(|_| !fraction.is_empty())??;
    u32::try_from(whole.checked_add(fraction)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_policy_has_one_name() {
        for (name, policy) in NAMES {
            // A policy that is added must be added to the table: this match is what notices.
            match policy {
                Policy::RoundRobin
                | Policy::Hash
                | Policy::LeastConnections
                | Policy::TwoChoices
                | Policy::First => (),
            }
            assert_eq!(policy_named(name), Some(policy));
            assert_eq!(policy_name(policy), name);
        }
        for name in ["", "RR", "lc", "leastcon", "rr ", "hash,rr"] {
            assert_eq!(policy_named(name), None, "{name:?}");
        }
    }

    #[test]
    fn a_factor_is_read_to_the_thousandth() {
        let table = [
            ("1", Some(1_000)),
            ("1.0", Some(1_000)),
            ("1.25", Some(1_250)),
            ("01.255", Some(1_255)),
            ("100", Some(100_000)),
            ("0.5", Some(500)),
            ("100.001", Some(100_001)),
            ("", None),
            (".5", None),
            ("1.", None),
            ("1.2500", None),
            ("1.+5", None),
            ("1,25", None),
            ("+1", None),
            ("1e1", None),
            ("1.2.3", None),
            ("99999999999999999999", None),
            ("18446744073709551615", None),
            ("4294968", None),
        ];
        for (word, factor) in table {
            assert_eq!(thousandths(OsStr::new(word)), factor, "{word:?}");
        }
    }
}
