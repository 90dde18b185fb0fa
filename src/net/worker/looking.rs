//! Reports a worker's connections to operators.
//!
//! Knows: ages, bytes, the stage of each connection. Never: who asks, how it is printed.

use std::time::Duration;

use super::past::Past;
use super::{Connection, Stage, Worker};
use crate::net::service::ServiceId;
use crate::net::shared::Page;
use crate::observe::{AccessDue, AccessRecord};
use crate::sched::{ChannelKey, End, SessionSnapshot};
use crate::sys::poller::Readiness;
use crate::sys::socket;
use crate::wire::relay::Side;

/// How many places for connections are read at a time: the kernel is asked about each, and clients wait
/// meanwhile.
const AT_ONCE: usize = 256;

impl<P: Readiness> Worker<P> {
    /// Connections of a service, or of one channel, from this place on. A connection keeps its place.
    pub(super) fn sessions(
        &self,
        service: ServiceId,
        only: Option<ChannelKey>,
        from: usize,
    ) -> Page<SessionSnapshot> {
        self.page(from, |connection| {
            let is_wanted =
                connection.service.id == service && (only.is_none() || only == channel(connection));
            is_wanted.then(|| self.session(connection))
        })
    }

    /// Access log records of open connections of all services that are due, from this place on.
    pub(super) fn records(&self, due: &AccessDue, from: usize) -> Page<AccessRecord> {
        self.page(from, |connection| self.open_record(connection, due))
    }

    fn page<T>(&self, from: usize, tell: impl FnMut(&Connection) -> Option<T>) -> Page<T> {
        let until = from.saturating_add(AT_ONCE);
        let some = (from..until.min(self.connections.capacity())).filter_map(|key| self.connections.get(key));
        Page {
            list: some.filter_map(tell).collect(),
            next: (until < self.connections.capacity()).then_some(until),
        }
    }

    /// Remembers a connection that ends.
    pub(super) fn remember(&mut self, connection: &Connection, how: End, lasted: Duration) {
        let past = Past {
            id: connection.id,
            client: connection.peer,
            claimed: connection.claim(),
            channel: match &connection.stage {
                Stage::Relaying { slot, .. } => Some(slot.key()),
                Stage::Greeting(_) | Stage::Greeted | Stage::Waiting(_) | Stage::Dialing(_) | Stage::Over => {
                    None
                }
            },
            lasted,
            // Not the worker's own time, which stands still while the process is stopped.
            ended_at: self.shared.clock.now(),
            delivered: connection.delivered,
        };
        self.past.add(connection.service.id, how, past);
    }

    fn session(&self, connection: &Connection) -> SessionSnapshot {
        let since = |at: u64| Duration::from_millis(self.now.saturating_sub(at));
        SessionSnapshot {
            id: connection.id,
            // After a reset the kernel does not know it any more.
            client: Some(
                connection
                    .peers(socket::client(&connection.client).unwrap_or_else(|| connection.peer.into())),
            ),
            port: connection.service.dialer.circle.is_wide().then(|| connection.service.came_to()),
            channel: channel(connection),
            begun: Duration::from_millis(connection.accepted_at),
            age: self.age(connection),
            idle: since(connection.moved_at),
            half_closed: (connection.half_closed_at > 0)
                .then(|| since(u64::from(connection.half_closed_at) * 100)),
            sent_bytes: connection.delivered[Side::Server as usize],
            rcvd_bytes: connection.delivered[Side::Client as usize],
        }
    }
}

fn channel(connection: &Connection) -> Option<ChannelKey> {
    match &connection.stage {
        Stage::Dialing(dial) => dial.channel(),
        Stage::Greeting(_) | Stage::Greeted | Stage::Waiting(_) | Stage::Over => None,
        Stage::Relaying { slot, .. } => Some(slot.key()),
    }
}
