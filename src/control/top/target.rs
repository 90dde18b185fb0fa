//! The target of a command as the operator has seen it, and whether it is still the same.
//!
//! Knows: what identifies processes, services, channels and connections. Never: sockets, the clock.
//! Source: docs/observability.md, "Top".
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::time::Duration;

use super::facts::{ChannelFacts, ServiceFacts, SessionFacts, Shown, span};
use super::looked::{StartSpan, TopLook};
use super::samples::ChannelAt;

/// How much the age of one connection may differ between two fetches.
const AGE_SLACK: Duration = Duration::from_secs(1);

/// The target of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TopTarget {
    /// The label of its service.
    pub(super) label: String,
    pid: u32,
    started: StartSpan,
    listen: Vec<Shown>,
    is_serving: bool,
    part: TargetPart,
}

/// The part of the service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum TargetPart {
    All,
    /// A channel, and its host and port as typed.
    Channel(ChannelAt, String),
    Session {
        id: u64,
        client: Option<Shown>,
        age: Duration,
    },
}

impl TargetPart {
    pub(super) fn channel(at: ChannelAt, channel: &ChannelFacts) -> Self {
        Self::Channel(at, typed(channel))
    }

    pub(super) fn session(session: &SessionFacts) -> Self {
        Self::Session { id: session.id, client: session.client.clone(), age: span(session.age_seconds) }
    }
}

impl TopTarget {
    /// This part of the shown service. `None`: no service is shown.
    pub(super) fn of(look: &TopLook, part: TargetPart) -> Option<Self> {
        let (label, table) = look.tables.first()?;
        Some(Self {
            label: label.clone(),
            pid: look.process.pid,
            started: look.started,
            listen: table.service.listen.clone(),
            is_serving: table.service.is_serving(),
            part,
        })
    }

    pub(super) fn wants_sessions(&self) -> bool {
        matches!(self.part, TargetPart::Session { .. })
    }

    /// What has changed in this state, so that the command would reach something else. `None`: nothing.
    pub(super) fn difference(&self, look: &TopLook) -> Option<String> {
        let process = &look.process;
        let is_successor = process.taken_over.as_ref().is_some_and(|before| before.pid == self.pid);
        if process.pid != self.pid && !is_successor {
            return Some(format!("another process answers now, {}", process.pid));
        }
        if !self.started.may_be(look.started) {
            return Some("the instance was started again".into());
        }
        let label = &self.label;
        let table = look.tables.iter().find(|(one, table)| one == label && is_called(&table.service, label));
        let Some((_, table)) = table else { return Some(format!("service {label} is not there any more")) };
        if table.service.listen != self.listen {
            return Some(format!("service {label} listens on {} now", addresses(&table.service.listen)));
        }
        if table.service.is_serving() != self.is_serving {
            return Some(format!("service {label} is {} now", table.service.phase));
        }
        match &self.part {
            TargetPart::All => None,
            TargetPart::Channel((group, number), seen) => {
                let group_now = table.groups.iter().find(|one| one.group == *group);
                let channel =
                    group_now.and_then(|one| one.channels.iter().find(|one| one.channel == *number));
                let Some(channel) = channel else {
                    return Some(format!("group {group} has no channel {number} any more"));
                };
                let now = typed(channel);
                (now != *seen).then(|| format!("group {group} channel {number} is {now} now, not {seen}"))
            }
            TargetPart::Session { id, client, age } => {
                let session = look.sessions.iter().flatten().find(|one| one.id == *id);
                let Some(session) = session else { return Some(format!("session {id} has ended")) };
                let is_same = session.client == *client && span(session.age_seconds) + AGE_SLACK >= *age;
                (!is_same).then(|| format!("session {id} is another connection now"))
            }
        }
    }
}

/// Is this the label of the service?
pub(super) fn is_called(service: &ServiceFacts, label: &str) -> bool {
    service.label() == label
}

/// The host and port of a channel as typed; its addresses can change at any time.
fn typed(channel: &ChannelFacts) -> String {
    match (&channel.host, channel.port) {
        (Some(host), Some(port)) => format!("{host}:{port}"),
        _ => channel.address.to_string(),
    }
}

fn addresses(listen: &[Shown]) -> String {
    listen.iter().map(Shown::as_str).collect::<Vec<_>>().join(",")
}
