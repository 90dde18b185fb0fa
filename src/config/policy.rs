//! `--policy`: the names of policies, and which group of a line gets which policy.
//!
//! Knows: that `%` makes a group a hash group, that a list may have a policy for later groups. Never: how a
//! policy chooses.

use crate::spec::{GroupSpec, Policy, reserved_groups};

/// The policy of this name: `rr`, `leastconn`, `p2c`, `first` or `hash`. `None`: no policy has this name.
pub fn policy_named(name: &str) -> Option<Policy> {
    Policy::named(name)
}

/// The name that [`policy_named`] knows a policy by.
pub fn policy_name(policy: Policy) -> &'static str {
    policy.name()
}

/// The value of `--policy`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum PolicyWord {
    /// One policy, for all groups that `%` does not end, and for groups that are created later.
    All(Policy),
    /// A list: one policy for each group, and perhaps one more for groups that are created later.
    Each(Vec<Policy>),
}

impl PolicyWord {
    /// Reads the value of `--policy`.
    ///
    /// # Errors
    /// What is wrong with the word, and what would be right.
    pub(super) fn read(text: &str) -> Result<Self, String> {
        let policies = text.split(',').map(|name| {
            policy_named(name).ok_or_else(|| {
                let at = if name == text { String::new() } else { format!("has '{name}', which ") };
                format!(
                    "{at}is not a policy; give one of {}, or a list such as leastconn,rr with one for each group",
                    Policy::NAMES.map(|(name, _)| name).join(", ")
                )
            })
        });
        let policies = policies.collect::<Result<Vec<_>, _>>()?;
        Ok(match policies[..] {
            [policy] => Self::All(policy),
            _ => Self::Each(policies),
        })
    }

    /// The shortest value for the policies of these groups and of later ones.
    pub(super) fn of(groups: &[GroupSpec], later: Policy) -> Self {
        let is_reserved = reserved_groups(groups);
        let groups: Vec<&GroupSpec> = groups
            .iter()
            .zip(is_reserved)
            .filter(|(_, is_reserved)| !is_reserved)
            .map(|(group, _)| group)
            .collect();
        let mut turning = groups.iter().map(|group| group.policy).filter(|policy| *policy != Policy::Hash);
        if turning.clone().all(|policy| policy == later) {
            return Self::All(later);
        }
        if later == Policy::RoundRobin && turning.all(|policy| policy == Policy::RoundRobin) {
            return Self::All(Policy::RoundRobin);
        }
        let own = groups.iter().map(|group| group.policy);
        // A list of one policy is a single word, which would be for later groups as well.
        let last = (later != Policy::RoundRobin || groups.len() == 1).then_some(later);
        Self::Each(own.chain(last).collect())
    }

    pub(super) fn print(&self) -> String {
        match self {
            Self::All(policy) => policy_name(*policy).to_owned(),
            Self::Each(policies) => {
                policies.iter().map(|policy| policy_name(*policy)).collect::<Vec<_>>().join(",")
            }
        }
    }

    /// Sets the policies of the groups, which are round robin or hash by their ends. Returns the policy of
    /// groups that are created later.
    ///
    /// # Errors
    /// What is wrong with a list that is too short or too long, or that has another policy than hash for a
    /// group that `%` ends, and what would be right.
    pub(super) fn apply(&self, groups: &mut [GroupSpec]) -> Result<Policy, String> {
        let policies = match self {
            Self::All(policy) => {
                groups
                    .iter_mut()
                    .filter(|group| group.policy != Policy::Hash)
                    .for_each(|group| group.policy = *policy);
                return Ok(*policy);
            }
            Self::Each(policies) => policies,
        };
        // One more policy than there are groups is for later groups. Without groups, that is not possible.
        let reserved = reserved_groups(groups);
        let all = groups;
        let own = all.iter_mut().zip(&reserved).filter(|(_, is_reserved)| !**is_reserved);
        let mut groups: Vec<&mut GroupSpec> = own.map(|(group, _)| group).collect();
        let later = match policies.len().checked_sub(groups.len()) {
            Some(0) => Policy::RoundRobin,
            Some(1) if !groups.is_empty() => policies.last().copied().unwrap_or(Policy::RoundRobin),
            _ => {
                return Err(format!(
                    "has {} policies, but the number of groups is {}; give one for each group, or one word for all",
                    policies.len(),
                    groups.len()
                ));
            }
        };
        for (index, (group, policy)) in groups.iter_mut().zip(policies).enumerate() {
            if group.policy == Policy::Hash && *policy != Policy::Hash {
                return Err(format!(
                    "has {} for group {index}, which % makes hash; write hash there, or end the group with !",
                    policy_name(*policy)
                ));
            }
            group.policy = *policy;
        }
        // The groups of a service name's SRV priorities have the policy of the group with its word.
        for index in 1..all.len() {
            if reserved[index] {
                all[index].policy = all[index - 1].policy;
            }
        }
        Ok(later)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_policy_has_one_name() {
        for (name, policy) in Policy::NAMES {
            // A new policy must be added to the table, too. Then this match does not compile until it is
            // extended.
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
}
