//! What an answer in JSON is made of.
//!
//! Knows: plain values. Never: how they look, where they come from.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::time::Duration;

use crate::control::doctor::Diagnosis;
use crate::control::services::{CarriedCount, ServiceSnapshot};
use crate::observe::PastEvent;
use crate::sched::{EndedSnapshot, SessionSnapshot, Snapshot};
use crate::spec::Section;

/// One answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// When it was made: since the beginning of 1970, by the clock of the system. All that was seen was seen so long before as it says.
    pub taken_at: Duration,
    /// The process that answers.
    pub process: ProcessFacts,
    /// What is told.
    pub told: Content,
}

/// What all answers say of the process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessFacts {
    /// Its number.
    pub pid: u32,
    /// Since the start of the instance, earlier processes that handed it over included.
    pub uptime: Duration,
    /// What it has taken over, if anything.
    pub carried: Option<CarriedCount>,
}

/// What is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// `show` and `status`.
    Channels {
        /// Which of the two was asked for.
        word: &'static str,
        /// The service.
        service: ServiceSnapshot,
        /// Its channels.
        table: Snapshot,
        /// Which groups are for whom.
        sections: Vec<Section>,
        /// What is otherwise than the file has it; `None`: it was not made of a file.
        differences: Option<Vec<String>>,
    },
    /// `sessions`.
    Sessions {
        /// The service.
        service: ServiceSnapshot,
        /// Connections, the oldest first.
        list: Vec<SessionSnapshot>,
    },
    /// `ended`.
    Ended {
        /// The service.
        service: ServiceSnapshot,
        /// Its connections that have ended, the last one last.
        list: Vec<EndedSnapshot>,
    },
    /// `events`.
    Events {
        /// The service that was asked.
        service: ServiceSnapshot,
        /// Its events and those of the process, the oldest first.
        list: Vec<PastEvent>,
    },
    /// `services`.
    Services(Vec<ServiceSnapshot>),
    /// `doctor`.
    Doctor(Diagnosis),
}
