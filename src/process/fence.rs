//! Limits the process to the files that it needs, by Landlock.
//!
//! Knows: the kernel's rules for directories, how many of them are in force. Never: which files are needed,
//! and what for.
//! Source: docs/systemd.md, "Without root".

use std::path::PathBuf;
use std::sync::OnceLock;

/// What may be opened from now on. A directory includes everything below it. Paths that do not exist are
/// skipped.
#[derive(Debug, Clone, Default)]
pub struct Fence {
    /// What may be read.
    pub read: Vec<PathBuf>,
    /// What may be read and run.
    pub run: Vec<PathBuf>,
    /// What may be read and written, and where files may be created and removed.
    pub write: Vec<PathBuf>,
}

/// How much of the limit is in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FenceState {
    /// Everything that this version asks for.
    Whole,
    /// As much as an older kernel supports.
    InPart,
    /// Nothing: the kernel has no Landlock.
    Unknown,
    /// The limit of the predecessor, which this process inherited.
    Inherited,
}

static STATE: OnceLock<FenceState> = OnceLock::new();

impl FenceState {
    /// The state in this process. `None`: Landlock was not asked for.
    pub fn now() -> Option<Self> {
        STATE.get().copied()
    }

    /// Is any limit in force?
    pub fn holds(self) -> bool {
        self != Self::Unknown
    }
}

/// Notes that the predecessor's limit is in force here, too. Nothing is added to it: each process in a row
/// would add a layer, and the kernel allows 16.
pub fn inherit_fence() {
    let _ = STATE.set(FenceState::Inherited);
}

impl Fence {
    /// Puts the limit in force for good: for this thread, for threads that it starts, and for all programs
    /// they start.
    ///
    /// # Errors
    /// The kernel supports Landlock but refuses.
    pub fn close(&self) -> Result<FenceState, String> {
        let state = imp::close(self)?;
        let _ = STATE.set(state);
        Ok(state)
    }
}

#[cfg(target_os = "linux")]
mod imp {
    use landlock::{
        ABI, Access, AccessFs, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetStatus, path_beneath_rules,
    };

    use super::{Fence, FenceState};

    /// The newest version of Landlock that balance knows.
    const KNOWN: ABI = ABI::V5;

    pub(super) fn close(fence: &Fence) -> Result<FenceState, String> {
        let all = AccessFs::from_all(KNOWN);
        let run = AccessFs::from_read(KNOWN);
        let read = run & !AccessFs::Execute;
        let write = all & !AccessFs::Execute;
        let result = Ruleset::default()
            .handle_access(all)
            .and_then(Ruleset::create)
            .and_then(|rules| rules.add_rules(path_beneath_rules(&fence.read, read)))
            .and_then(|rules| rules.add_rules(path_beneath_rules(&fence.run, run)))
            .and_then(|rules| rules.add_rules(path_beneath_rules(&fence.write, write)))
            .and_then(|rules| rules.restrict_self());
        match result {
            Ok(status) => Ok(match status.ruleset {
                RulesetStatus::FullyEnforced => FenceState::Whole,
                RulesetStatus::PartiallyEnforced => FenceState::InPart,
                RulesetStatus::NotEnforced => FenceState::Unknown,
            }),
            Err(error) => Err(error.to_string()),
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod imp {
    use super::{Fence, FenceState};

    pub(super) fn close(_: &Fence) -> Result<FenceState, String> {
        Ok(FenceState::Unknown)
    }
}
