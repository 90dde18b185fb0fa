//! The JSON answers of an instance, as far as they are shown.
//!
//! Knows: names of fields, which characters may be shown. Never: sockets, the clock, where anything stands on
//! the screen.
//! Source: docs/json.md.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Deserializer};

use crate::control::status::age;

/// One answer.
#[derive(Debug)]
pub(super) enum AnswerFacts {
    Table(Box<TableFacts>),
    Services(ServicesFacts),
    Sessions(Vec<SessionFacts>),
    Events(Vec<EventFacts>),
    Failure(String),
}

/// The answer to `status json`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct TableFacts {
    pub(super) process: InstanceFacts,
    pub(super) service: ServiceFacts,
    pub(super) changed_by_hand: Option<Vec<Shown>>,
    pub(super) lost: CountFacts,
    pub(super) ended: CountFacts,
    pub(super) groups: Vec<GroupFacts>,
}

/// The answer to `services json`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct ServicesFacts {
    pub(super) taken_at: Shown,
    pub(super) process: InstanceFacts,
    pub(super) services: Vec<ServiceFacts>,
}

#[derive(Deserialize)]
struct SessionsFacts {
    sessions: Vec<SessionFacts>,
}

#[derive(Deserialize)]
struct EventsFacts {
    events: Vec<EventFacts>,
}

#[derive(Deserialize)]
struct FailureFacts {
    error: Shown,
}

#[derive(Deserialize)]
struct AnswerKind {
    answer: String,
}

/// The process that answers.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct InstanceFacts {
    pub(super) pid: u32,
    pub(super) version: Shown,
    pub(super) started_at: Shown,
    pub(super) uptime_seconds: f64,
    pub(super) taken_over: Option<TakenOverFacts>,
}

/// What was taken over from the previous process.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct TakenOverFacts {
    pub(super) pid: u32,
    pub(super) carried: u64,
    pub(super) draining: Option<u64>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct ServiceFacts {
    pub(super) name: Option<Shown>,
    pub(super) listen: Vec<Shown>,
    pub(super) phase: Shown,
    pub(super) paused: bool,
    pub(super) connections: u64,
    pub(super) queue: u64,
    pub(super) channels: u64,
    pub(super) channels_up: u64,
    pub(super) file: Option<Shown>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct GroupFacts {
    pub(super) group: u32,
    pub(super) policy: Shown,
    pub(super) channels: Vec<ChannelFacts>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct ChannelFacts {
    pub(super) channel: u32,
    pub(super) host: Option<Shown>,
    pub(super) port: Option<u16>,
    #[serde(deserialize_with = "address_if_known")]
    pub(super) address: Shown,
    pub(super) addresses: Vec<AddressFacts>,
    pub(super) used: Option<Shown>,
    pub(super) state: Shown,
    pub(super) autodisabled: bool,
    pub(super) removing: bool,
    pub(super) paused: bool,
    pub(super) up: bool,
    pub(super) health: Shown,
    pub(super) ramp_percent: Option<u32>,
    pub(super) health_age_seconds: f64,
    pub(super) why: Option<Shown>,
    pub(super) failing: Option<FailingFacts>,
    pub(super) weight: u32,
    pub(super) maxc: Option<u64>,
    pub(super) c: u64,
    pub(super) queue: u64,
    pub(super) totalc: u64,
    pub(super) failed: u64,
    pub(super) failures: CountFacts,
    pub(super) sent_bytes: u64,
    pub(super) rcvd_bytes: u64,
    pub(super) connect_p50_seconds: Option<f64>,
    pub(super) connect_p99_seconds: Option<f64>,
    pub(super) ended: CountFacts,
    pub(super) last_error: Option<LastErrorFacts>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct AddressFacts {
    pub(super) address: Shown,
    pub(super) up: bool,
    pub(super) why: Option<Shown>,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(default)]
pub(super) struct FailingFacts {
    pub(super) checks: u64,
    pub(super) fall: u64,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct LastErrorFacts {
    pub(super) error: Shown,
    pub(super) age_seconds: f64,
}

/// A total, and its parts by reason.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct CountFacts {
    pub(super) total: u64,
    pub(super) reasons: BTreeMap<String, u64>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct SessionFacts {
    pub(super) id: u64,
    pub(super) client: Option<Shown>,
    pub(super) group: Option<u32>,
    pub(super) channel: Option<u32>,
    pub(super) age_seconds: f64,
    pub(super) idle_seconds: f64,
    pub(super) half_closed_seconds: Option<f64>,
    pub(super) sent_bytes: u64,
    pub(super) rcvd_bytes: u64,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct EventFacts {
    pub(super) at: Shown,
    pub(super) level: Shown,
    pub(super) line: Shown,
}

/// Text from outside, made safe for a terminal: invisible and control characters are shown by their code
/// points.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Shown(String);

impl Shown {
    pub(super) fn new(text: &str) -> Self {
        let mut shown = String::with_capacity(text.len());
        for c in text.chars() {
            if is_unseen(c) {
                shown.push_str(&format!("<U+{:04X}>", u32::from(c)));
            } else {
                shown.push(c);
            }
        }
        Self(shown)
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Shown {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from).map(|text| Self::new(&text))
    }
}

/// The address is `null` if the channel's name has not been looked up successfully yet.
fn address_if_known<'de, D: Deserializer<'de>>(from: D) -> Result<Shown, D::Error> {
    Ok(Option::<Shown>::deserialize(from)?.unwrap_or_else(|| Shown::new("unresolved")))
}

/// Control characters, blanks other than the space, and characters without width (byte-order marks, direction
/// marks, joiners).
fn is_unseen(c: char) -> bool {
    let has_no_width = matches!(c,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
        | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{e0000}'..='\u{e0fff}');
    has_no_width || c.is_control() || (c != ' ' && c.is_whitespace())
}

/// Reads one line of an answer. `None`: it is not an answer in JSON.
pub(super) fn read_answer(line: &str) -> Option<AnswerFacts> {
    let kind: AnswerKind = serde_json::from_str(line).ok()?;
    match kind.answer.as_str() {
        "show" | "status" => serde_json::from_str(line).ok().map(|one| AnswerFacts::Table(Box::new(one))),
        "services" => serde_json::from_str(line).ok().map(AnswerFacts::Services),
        "sessions" => {
            serde_json::from_str(line).ok().map(|one: SessionsFacts| AnswerFacts::Sessions(one.sessions))
        }
        "events" => serde_json::from_str(line).ok().map(|one: EventsFacts| AnswerFacts::Events(one.events)),
        "error" => serde_json::from_str(line)
            .ok()
            .map(|one: FailureFacts| AnswerFacts::Failure(one.error.to_string())),
        _ => None,
    }
}

/// A number of seconds as a duration.
pub(super) fn span(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or_default()
}

impl ServiceFacts {
    /// The word by which `use` finds it.
    pub(super) fn label(&self) -> String {
        let first = || self.listen.first().map_or_else(|| "-".to_owned(), Shown::to_string);
        self.name.as_ref().map_or_else(first, Shown::to_string)
    }

    /// Its state in the word of `services`.
    pub(super) fn state(&self) -> &str {
        if self.paused && self.phase.as_str() == "serving" { "paused" } else { self.phase.as_str() }
    }

    pub(super) fn is_serving(&self) -> bool {
        self.phase.as_str() == "serving"
    }
}

impl ChannelFacts {
    /// The host name as typed, such as ` (web1.example)`, to follow the address; empty if the address itself
    /// was typed.
    pub(super) fn typed_host(&self) -> String {
        let host = self.host.as_ref().filter(|host| !self.address.as_str().starts_with(host.as_str()));
        host.map_or_else(String::new, |host| format!(" ({host})"))
    }

    /// Its health in the word of `status`.
    pub(super) fn health_word(&self) -> String {
        match self.ramp_percent {
            Some(percent) => format!("{}:{percent}%", self.health),
            None => self.health.to_string(),
        }
    }

    pub(super) fn is_enabled(&self) -> bool {
        self.state.as_str() == "ENA"
    }

    /// The most important word: the operator's decision if that is not to serve, else the health.
    pub(super) fn word(&self) -> String {
        match () {
            () if self.removing => "removing".to_owned(),
            () if !self.is_enabled() => self.state.to_string(),
            () if self.paused && self.up => "paused".to_owned(),
            () => self.health_word(),
        }
    }

    /// Connections and maxc as in `status`.
    pub(super) fn load(&self) -> String {
        match self.maxc {
            Some(maxc) => format!("{}/{maxc}", self.c),
            None => format!("{}/-", self.c),
        }
    }

    /// Addresses up and all, as in `status`.
    pub(super) fn addresses_word(&self) -> String {
        format!("{}/{}", self.addresses.iter().filter(|one| one.up).count(), self.addresses.len())
    }

    /// The column `why` as in `status`.
    pub(super) fn why_word(&self) -> String {
        let mut parts = Vec::new();
        if self.paused {
            parts.push("paused".to_owned());
        }
        if let Some(why) = &self.why {
            parts.push(match self.failing {
                Some(FailingFacts { checks, fall }) => format!("up {checks}/{fall}: {why}"),
                None => why.to_string(),
            });
        }
        if self.health.as_str() != "ejected" {
            let out = self
                .addresses
                .iter()
                .filter_map(|one| Some(format!("{}: {}", one.address, one.why.as_ref()?)));
            parts.extend(out);
        }
        if let Some(LastErrorFacts { error, age_seconds }) = &self.last_error
            && self.why.as_ref() != Some(error)
        {
            parts.push(format!("last error {} ago: {error}", age(span(*age_seconds))));
        }
        if parts.is_empty() { "-".into() } else { parts.join("; ") }
    }
}

impl SessionFacts {
    /// The column `state` as in `sessions`.
    pub(super) fn state(&self) -> String {
        self.half_closed_seconds
            .map_or_else(|| "-".to_owned(), |since| format!("half-closed:{}", age(span(since))))
    }
}

impl CountFacts {
    /// The counts as text, the most frequent reason first: `no channel up 2, queue full 9`.
    pub(super) fn words(&self) -> String {
        let mut all: Vec<(&String, u64)> =
            self.reasons.iter().map(|(why, count)| (why, *count)).filter(|(_, count)| *count > 0).collect();
        all.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        let words: Vec<String> =
            all.iter().map(|(why, count)| format!("{} {count}", Shown::new(why))).collect();
        words.join(", ")
    }
}
