//! Gathers the content of an answer in JSON.
//!
//! Knows: services, the clock. Never: how an answer looks.

use std::time::UNIX_EPOCH;

use super::document::{Content, Document, ProcessFacts};
use crate::control::doctor::Diagnosis;
use crate::control::services::{DeniedNet, ManagedService, Services};
use crate::sched::ChannelKey;

/// Which answer is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Question {
    /// `show`
    Show,
    /// `status`: the same content as `show`.
    Status,
    /// `sessions`, of all channels or of this one.
    Sessions(Option<ChannelKey>),
    /// `ended`: the last ones, this many at most.
    Ended(usize),
    /// `denied`: this.
    Denied(Vec<DeniedNet>),
    /// `services`
    Services,
    /// `events`: the last ones, this many at most.
    Events(usize),
    /// `doctor`, with its result.
    Doctor(Diagnosis),
}

/// The answer for a session of this service. Takes the table's lock piece by piece, as the text answer does.
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
        Question::Denied(list) => Content::Denied { service: service.snapshot(), list },
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
    // Read last, because all ages are relative to it.
    let taken_at = UNIX_EPOCH.elapsed().unwrap_or_default();
    Document { taken_at, process, told }
}
