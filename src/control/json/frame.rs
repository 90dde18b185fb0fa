//! The part that all answers in JSON have: the version of the schema, the process, the service.
//!
//! Knows: names of fields. Never: the live table, the clock.
//! Source: docs/json.md. Names are part of the interface and do not change.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use super::ascii;
use super::channels::GroupObject;
use super::document::{Content, Document, ProcessFacts};
use super::events::EventObject;
use super::reasons::ReasonsObject;
use super::sessions::{EndedObject, SessionObject};
use super::units::{ago, rfc3339, seconds};
use crate::config::print_net;
use crate::control::doctor::Finding;
use crate::control::services::{CarriedCount, DeniedNet, ServiceSnapshot};
use crate::sched::{End, Loss};

/// The version of the schema. It stays when fields are added, and rises when a field is removed or changes
/// its meaning.
pub const SCHEMA: u32 = 1;

#[derive(Serialize)]
struct Frame<'a> {
    schema: u32,
    answer: &'static str,
    taken_at: String,
    process: ProcessObject,
    #[serde(flatten)]
    body: Body<'a>,
}

#[derive(Serialize)]
struct ProcessObject {
    pid: u32,
    version: &'static str,
    started_at: String,
    uptime_seconds: f64,
    taken_over: Option<TakenOverObject>,
}

#[derive(Serialize)]
struct TakenOverObject {
    pid: u32,
    carried: u64,
    draining: Option<u64>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Body<'a> {
    Channels {
        service: ServiceObject<'a>,
        changed_by_hand: Option<&'a [String]>,
        stale_lists: Option<&'a str>,
        not_listening: Option<&'a str>,
        lost_socket: Option<String>,
        lost: ReasonsObject,
        ended: ReasonsObject,
        groups: Vec<GroupObject<'a>>,
    },
    Sessions {
        service: ServiceObject<'a>,
        sessions: Vec<SessionObject>,
    },
    Ended {
        service: ServiceObject<'a>,
        ended: Vec<EndedObject>,
    },
    Denied {
        service: ServiceObject<'a>,
        denied: Vec<DeniedObject<'a>>,
    },
    Events {
        service: ServiceObject<'a>,
        events: Vec<EventObject<'a>>,
    },
    Services {
        services: Vec<ServiceObject<'a>>,
    },
    Doctor {
        verdict: &'static str,
        exit_code: u8,
        checks: usize,
        services_checked: usize,
        findings: Vec<FindingObject<'a>>,
        holds: Option<&'a str>,
    },
}

#[derive(Serialize)]
struct DeniedObject<'a> {
    service: &'a str,
    network: String,
    ends_at: Option<String>,
    left_seconds: Option<f64>,
}

#[derive(Serialize)]
struct FindingObject<'a> {
    severity: &'static str,
    check: &'static str,
    service: Option<&'a str>,
    found: &'a str,
    why: &'a str,
    #[serde(rename = "do")]
    cure: &'a str,
}

#[derive(Serialize)]
struct ServiceObject<'a> {
    name: Option<&'a str>,
    listen: Vec<String>,
    phase: &'static str,
    paused: bool,
    connections: usize,
    queue: usize,
    channels: usize,
    channels_up: usize,
    file: Option<&'static str>,
}

#[derive(Serialize)]
struct FailureObject<'a> {
    schema: u32,
    answer: &'static str,
    error: &'a str,
    exit_code: u8,
}

impl ProcessObject {
    fn of(facts: &ProcessFacts, now: Duration) -> Self {
        let taken_over = facts.carried.map(|CarriedCount { carried, draining, pid }| TakenOverObject {
            pid,
            carried,
            draining,
        });
        Self {
            pid: facts.pid,
            version: env!("CARGO_PKG_VERSION"),
            started_at: ago(now, facts.uptime),
            uptime_seconds: seconds(facts.uptime),
            taken_over,
        }
    }
}

impl<'a> ServiceObject<'a> {
    fn of(service: &'a ServiceSnapshot) -> Self {
        let phase = match (service.is_draining, service.connections) {
            (false, _) if service.listens_nowhere => "not-listening",
            (false, _) => "serving",
            (true, 0) => "stopped",
            (true, _) => "draining",
        };
        Self {
            name: service.name.as_deref(),
            listen: service.listen.iter().map(ToString::to_string).collect(),
            phase,
            paused: service.is_paused,
            connections: service.connections,
            queue: service.waiting,
            channels: service.channels,
            channels_up: service.up,
            file: service.file_word(),
        }
    }
}

impl<'a> DeniedObject<'a> {
    fn of(one: &'a DeniedNet, now: Duration) -> Self {
        let DeniedNet { service, net, left } = one;
        let ends_at = left.map(|left| rfc3339(now.saturating_add(left)));
        Self { service, network: print_net(*net), ends_at, left_seconds: left.map(seconds) }
    }
}

impl<'a> FindingObject<'a> {
    fn of(finding: &'a Finding) -> Self {
        let Finding { gravity, check, service, found, why, cure } = finding;
        let severity = gravity.name();
        Self { severity, check, service: service.as_deref(), found, why, cure }
    }
}

impl<'a> Frame<'a> {
    fn of(report: &'a Document) -> Self {
        let now = report.taken_at;
        let (answer, body) = match &report.told {
            Content::Channels { word, service, table, sections, differences } => {
                let groups = table.groups.iter().map(|group| GroupObject::of(group, sections, now)).collect();
                let service = ServiceObject::of(service);
                let changed_by_hand = differences.as_deref();
                let lost = ReasonsObject::of(&Loss::ALL, &table.losses);
                let ended = ReasonsObject::of(&End::ALL, &table.served.ends);
                let stale_lists = table.stale_lists.as_ref().map(|why| why.as_str());
                let not_listening = table.not_listening.as_ref().map(|at| at.as_str());
                let lost_socket = table.lost_socket.map(|lost| lost.to_string());
                (
                    *word,
                    Body::Channels {
                        service,
                        changed_by_hand,
                        stale_lists,
                        not_listening,
                        lost_socket,
                        lost,
                        ended,
                        groups,
                    },
                )
            }
            Content::Sessions { service, list } => {
                let sessions = list.iter().map(|session| SessionObject::of(session, now)).collect();
                ("sessions", Body::Sessions { service: ServiceObject::of(service), sessions })
            }
            Content::Ended { service, list } => {
                let ended = list.iter().map(|one| EndedObject::of(one, now)).collect();
                ("ended", Body::Ended { service: ServiceObject::of(service), ended })
            }
            Content::Denied { service, list } => {
                let denied = list.iter().map(|one| DeniedObject::of(one, now)).collect();
                ("denied", Body::Denied { service: ServiceObject::of(service), denied })
            }
            Content::Events { service, list } => {
                let events = list.iter().map(EventObject::of).collect();
                ("events", Body::Events { service: ServiceObject::of(service), events })
            }
            Content::Doctor(diagnosis) => {
                let body = Body::Doctor {
                    verdict: diagnosis.verdict(),
                    exit_code: diagnosis.exit_code(),
                    checks: diagnosis.checks,
                    services_checked: diagnosis.services,
                    findings: diagnosis.findings.iter().map(FindingObject::of).collect(),
                    holds: diagnosis.holds.as_deref(),
                };
                ("doctor", body)
            }
            Content::Services(list) => {
                ("services", Body::Services { services: list.iter().map(ServiceObject::of).collect() })
            }
        };
        let process = ProcessObject::of(&report.process, now);
        Self { schema: SCHEMA, answer, taken_at: rfc3339(now), process, body }
    }
}

/// Writes the answer as one line.
///
/// # Errors
/// Those of `out`.
pub fn write(out: &mut impl fmt::Write, report: &Document) -> fmt::Result {
    write_line(out, &Frame::of(report))
}

/// Writes an error as one line. `text` is its message in the text form.
///
/// # Errors
/// Those of `out`.
pub fn write_error(out: &mut impl fmt::Write, text: &str, exit_code: u8) -> fmt::Result {
    write_line(out, &FailureObject { schema: SCHEMA, answer: "error", error: text.trim_end(), exit_code })
}

#[derive(Serialize)]
struct CommandAnswerObject<'a> {
    schema: u32,
    answer: &'static str,
    text: &'a str,
    exit_code: u8,
}

/// The text answer of a command, wrapped as one line of JSON.
pub(crate) fn command_answer(text: &str, exit_code: u8) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write_line(&mut out, &CommandAnswerObject { schema: SCHEMA, answer: "command", text, exit_code });
    out
}

fn write_line(out: &mut impl fmt::Write, value: &impl Serialize) -> fmt::Result {
    let line = ascii::line(value).map_err(|_| fmt::Error)?;
    out.write_str(std::str::from_utf8(&line).map_err(|_| fmt::Error)?)?;
    out.write_char('\n')
}
