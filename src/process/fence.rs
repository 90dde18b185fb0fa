//! Closing all files off but those that the process needs: Landlock.
//!
//! Knows: the kernel's rules for directories, what of them holds here. Never: which files are needed, and what for.
//! Source: docs/systemd.md, "Without root".

use std::path::PathBuf;
use std::sync::OnceLock;

/// What may be opened from now on, all that is below it included. What is not there is passed over.
#[derive(Debug, Clone, Default)]
pub struct Fence {
    /// To be read.
    pub read: Vec<PathBuf>,
    /// To be read, and to be run.
    pub run: Vec<PathBuf>,
    /// To be read and written, and for files to be made and removed.
    pub write: Vec<PathBuf>,
}

/// How much of it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FenceState {
    /// All that this version knows.
    Whole,
    /// As much as an older kernel can do.
    InPart,
    /// The kernel has no Landlock.
    Unknown,
    /// The process before this one was fenced in, and so is this one.
    Inherited,
}

static STATE: OnceLock<FenceState> = OnceLock::new();

impl FenceState {
    /// Of this process; `None`: nothing was asked for.
    pub fn now() -> Option<Self> {
        STATE.get().copied()
    }

    /// Does anything hold?
    pub fn holds(self) -> bool {
        self != Self::Unknown
    }
}

/// What holds for the process before this one holds here as well, and no more is to be added: each process would add another
/// layer, and the kernel has 16.
pub fn inherit_fence() {
    let _ = STATE.set(FenceState::Inherited);
}

impl Fence {
    /// Closes it, for this thread, for those that it starts, and for all programs that these start: for good.
    ///
    /// # Errors
    /// The kernel has it and refuses.
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

    /// What this version knows of.
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
