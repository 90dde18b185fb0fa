//! Connections in JSON.
//!
//! Knows: names of fields. Never: sockets, the clock.
//! Source: docs/json.md. Names are part of the interface and do not change.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::time::Duration;

use serde::Serialize;

use super::units::{ago, seconds};
use crate::sched::{ClientSource, EndedSnapshot, SessionSnapshot};

#[derive(Serialize)]
pub(super) struct SessionObject {
    id: u64,
    client: Option<ClientSource>,
    via: Option<ClientSource>,
    port: Option<u16>,
    group: Option<usize>,
    channel: Option<usize>,
    accepted_at: String,
    age_seconds: f64,
    idle_seconds: f64,
    half_closed_seconds: Option<f64>,
    sent_bytes: u64,
    rcvd_bytes: u64,
}

impl SessionObject {
    pub(super) fn of(session: &SessionSnapshot, now: Duration) -> Self {
        Self {
            id: session.id,
            client: session.client.map(|client| client.client()),
            via: session.client.and_then(|client| client.via()),
            port: session.port,
            group: session.channel.map(|key| key.group.index()),
            channel: session.channel.map(|key| key.channel.index()),
            accepted_at: ago(now, session.age),
            age_seconds: seconds(session.age),
            idle_seconds: seconds(session.idle),
            half_closed_seconds: session.half_closed.map(seconds),
            sent_bytes: session.sent_bytes,
            rcvd_bytes: session.rcvd_bytes,
        }
    }
}

#[derive(Serialize)]
pub(super) struct EndedObject {
    id: u64,
    client: Option<ClientSource>,
    via: Option<ClientSource>,
    group: Option<usize>,
    channel: Option<usize>,
    accepted_at: String,
    ended_at: String,
    duration_seconds: f64,
    sent_bytes: u64,
    rcvd_bytes: u64,
    end: String,
}

impl EndedObject {
    pub(super) fn of(one: &EndedSnapshot, now: Duration) -> Self {
        Self {
            id: one.id,
            client: one.client.map(|client| client.client()),
            via: one.client.and_then(|client| client.via()),
            group: one.channel.map(|key| key.group.index()),
            channel: one.channel.map(|key| key.channel.index()),
            accepted_at: ago(now, one.age),
            ended_at: ago(now, one.ended),
            duration_seconds: seconds(one.age.saturating_sub(one.ended)),
            sent_bytes: one.sent_bytes,
            rcvd_bytes: one.rcvd_bytes,
            end: one.how.to_string(),
        }
    }
}
