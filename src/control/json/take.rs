//! Gathers what an answer in JSON is made of.
//!
//! Knows: services, the clock. Never: how an answer looks.

use std::time::UNIX_EPOCH;

use super::document::{Content, Document, ProcessFacts};
use crate::control::doctor::Diagnosis;
use crate::control::services::{ManagedService, Services};
use crate::sched::ChannelKey;

/// Which answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Question {
    /// `show`
    Show,
    /// `status`: the same.
    Status,
    /// `sessions`, of all channels or of one.
    Sessions(Option<ChannelKey>),
    /// `ended`, the last so many.
    Ended(usize),
    /// `services`
    Services,
    /// `events`, the last so many.
    Events(usize),
    /// `doctor`: this.
    Doctor(Diagnosis),
}

/// The answer that a session of this service gets. Takes the table's lock as the answer in text does: for a piece at a time.
pub(crate) fn take(services: &Services, service: &ManagedService, asked: Question) -> Document {
    let channels = |word| {
        let sections = (service.spec)().sections;
        let (service, table, differences) = service.whole();
        Content::Channels { word, service, table, sections, differences }
    };
    let told = match asked {
        Question::Show => channels("show"),
        Question::Status => channels("status"),
        Question::Sessions(channel) => {
            Content::Sessions { service: service.snapshot(), list: (service.plane.sessions)(channel) }
        }
        Question::Ended(most) => {
            Content::Ended { service: service.snapshot(), list: (service.plane.ended)(most) }
        }
        Question::Events(most) => {
            Content::Events { service: service.snapshot(), list: service.log.events(most) }
        }
        Question::Doctor(diagnosis) => Content::Doctor(diagnosis),
        Question::Services => {
            Content::Services(services.present().iter().map(|one| one.snapshot()).collect())
        }
    };
    let process = ProcessFacts {
        pid: std::process::id(),
        uptime: (service.now)(),
        carried: (services.process.carried)(),
    };
    // Last: ages are of what was seen just before.
    let taken_at = UNIX_EPOCH.elapsed().unwrap_or_default();
    Document { taken_at, process, told }
}
