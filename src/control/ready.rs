//! Whether a service is ready for clients, and if not, why. Used by `ready`, `/readyz` and metrics.
//!
//! Knows: what makes a channel usable, the words of `status`. Never: who asks, how it is sent.
//! Source: docs/observability.md, "Ready or not".

use crate::control::services::{ManagedService, Services};
use crate::control::status::{health_word, shown_address, state_word, why};
use crate::sched::{ChannelSnapshot, GroupId, Snapshot};

/// Maximum number of channels named for one service.
const MOST_NAMED: usize = 8;

/// Whether one service is ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadyState {
    /// Its name, or where it listens.
    pub service: String,
    /// Why it is not ready, in one line; `None`: it is.
    pub why_not: Option<String>,
}

impl ReadyState {
    /// The state of this service.
    pub(crate) fn of(service: &ManagedService) -> Self {
        let why_not = if service.is_killed() {
            Some("draining".to_owned())
        } else if let Some(at) = service.not_listening() {
            Some(format!("not listening on {at}"))
        } else if let Some(lost) = service.lost_socket() {
            let at = service.listen().first().map_or_else(String::new, ToString::to_string);
            Some(format!("no client finds {at}: {lost}"))
        } else if service.table.lock_at((service.now)()).has_up() {
            None
        } else {
            Some(reasons(&service.survey()))
        };
        Self { service: service.label(), why_not }
    }

    /// The states of all services of a process. Stopped services do not count, unless all are stopped.
    pub(crate) fn of_all(services: &Services) -> Vec<Self> {
        let mut asked = services.all();
        if asked.iter().any(|one| !one.is_killed()) {
            asked.retain(|one| !one.is_killed());
        }
        asked.iter().map(|one| Self::of(one)).collect()
    }
}

/// Are all services ready? If there is none, no client can be served, so the answer is no.
pub(crate) fn are_ready(all: &[ReadyState]) -> bool {
    !all.is_empty() && all.iter().all(|one| one.why_not.is_none())
}

/// One line for each service that is not ready.
pub(crate) fn lines(all: &[ReadyState]) -> String {
    let line = |one: &ReadyState| Some(format!("{}: {}\n", one.service, one.why_not.as_ref()?));
    let lines: String = all.iter().filter_map(line).collect();
    if lines.is_empty() && all.is_empty() { "no service\n".to_owned() } else { lines }
}

fn reasons(table: &Snapshot) -> String {
    let all = table.groups.iter().flat_map(|group| group.channels.iter().map(|channel| (group.id, channel)));
    let count = all.clone().count();
    let mut parts: Vec<String> =
        all.take(MOST_NAMED).map(|(group, channel)| reason(group, channel)).collect();
    if count > MOST_NAMED {
        parts.push(format!("and {} more", count - MOST_NAMED));
    }
    if parts.is_empty() {
        "no channels".to_owned()
    } else {
        format!("no usable channel: {}", parts.join("; "))
    }
}

/// The part of a channel's `status` line that says why no client gets it.
fn reason(group: GroupId, channel: &ChannelSnapshot) -> String {
    let (group, number, address) = (group.index(), channel.id.index(), shown_address(channel));
    let (state, health) = (state_word(channel.state), health_word(channel.health.state));
    let weight = if channel.weight.get() == 0 { " weight 0" } else { "" };
    let why = match why(channel).as_str() {
        "-" => String::new(),
        why => format!(" ({why})"),
    };
    format!("{group} {number} {address} {state} {health}{weight}{why}")
}
