//! The content of an answer in JSON.
//!
//! Knows: plain values. Never: how they look, where they come from.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::time::Duration;

use crate::control::doctor::Diagnosis;
use crate::control::services::{CarriedCount, DeniedNet, ServiceSnapshot};
use crate::observe::PastEvent;
use crate::sched::{EndedSnapshot, SessionSnapshot, Snapshot};
use crate::spec::Section;

/// One answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// When the answer was made: the time since the beginning of 1970 by the system's clock. All ages in the
    /// answer are relative to it.
    pub taken_at: Duration,
    /// Facts about the process that answers.
    pub process: ProcessFacts,
    /// The content of the answer.
    pub told: Content,
}

/// Facts about the process that are in every answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessFacts {
    /// The process id.
    pub pid: u32,
    /// The time since the start of the instance, including earlier processes that handed it over.
    pub uptime: Duration,
    /// The connections that it has taken over, if any.
    pub carried: Option<CarriedCount>,
}

/// The content of an answer.
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
        /// Which groups are for which clients.
        sections: Vec<Section>,
        /// What differs from the file; `None`: the service was not made from a file.
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
        /// Its connections that have ended, the latest last.
        list: Vec<EndedSnapshot>,
    },
    /// `denied`.
    Denied {
        /// The service that was asked.
        service: ServiceSnapshot,
        /// What is denied to it, or to all services.
        list: Vec<DeniedNet>,
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
