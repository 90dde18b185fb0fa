//! What the access log learns about a connection, from its beginning to its end.
//!
//! Knows: what is collected, and when a record is due. Never: what a line looks like, where it goes.

use std::time::{Duration, SystemTime};

use super::{Connection, Stage, Worker, millis};
use crate::handover::connection::{AttemptErrorRecord, FailedAttemptRecord, TraceRecord};
use crate::net::shared::Guest;
use crate::observe::{AccessDue, AccessMoment, AccessRecord, AttemptError, ConnectionTrace, PathInfo};
use crate::sched::{ChannelKey, DialCause, End, Peers};
use crate::sys::poller::Readiness;
use crate::sys::socket;
use crate::wire::relay::Side;

impl<P: Readiness> Worker<P> {
    /// Starts to collect for a client, if there is an access log.
    pub(super) fn trace_of(&self, client: Peers, came_to: u16) -> Option<Box<ConnectionTrace>> {
        self.shared.options.access.as_ref()?;
        Some(Box::new(ConnectionTrace::new(client, came_to, SystemTime::now(), self.shared.clock.now())))
    }

    /// Does the same for a client that another process accepted `age` ago; `told` is what that process had
    /// collected.
    pub(super) fn trace_again(
        &self,
        (client, came_to): (Peers, u16),
        age: Duration,
        told: Option<&TraceRecord>,
    ) -> Option<Box<ConnectionTrace>> {
        let mut trace = self.trace_of(client, came_to)?;
        trace.began = trace.began.checked_sub(age).unwrap_or(SystemTime::UNIX_EPOCH);
        trace.began_at = trace.began_at.saturating_sub(age);
        if let Some(told) = told {
            trace.began = SystemTime::UNIX_EPOCH.checked_add(told.began).unwrap_or(trace.began);
            trace.failed = told.failed.iter().filter_map(failed_again).collect();
            trace.attempts = told.attempts;
            (trace.queued, trace.connect) = (told.queued, told.connect);
            (trace.address, trace.first_byte) = (told.address, told.first_byte);
        }
        Some(trace)
    }

    /// The channel's first byte has reached its client.
    pub(super) fn first_byte(&mut self, key: usize) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        let Some(trace) = connection.trace() else { return };
        if trace.first_byte.is_none() {
            trace.first_byte = Some(self.shared.clock.now().saturating_sub(trace.began_at));
        }
    }

    /// A client has got its channel.
    pub(super) fn log_start(&self, key: usize) {
        if let Some(access) = &self.shared.options.access
            && access.moments().start
            && let Some(connection) = self.connections.get(key)
            && let Some(trace) = connection.rare.as_ref().and_then(|rare| rare.trace.as_deref())
        {
            let lasted = self.lasted(connection);
            let is_first = connection.past().is_empty();
            let moment = if is_first { AccessMoment::Start } else { AccessMoment::MovedOn };
            let record = self.record(connection, trace.clone(), moment, lasted);
            access.tell(Box::new(record));
        }
    }

    /// The record of an open connection, if one is due.
    pub(super) fn open_record(&self, connection: &Connection, due: &AccessDue) -> Option<AccessRecord> {
        let trace = connection.rare.as_ref()?.trace.as_deref().filter(|trace| due.is_due(trace.began_at))?;
        let mut record = self.record(connection, trace.clone(), AccessMoment::Open, self.lasted(connection));
        self.add_wait(connection, &mut record);
        Some(record)
    }

    /// Adds the time that a client has waited so far, if it still waits.
    fn add_wait(&self, connection: &Connection, record: &mut AccessRecord) {
        if let Stage::Waiting(waiting) = &connection.stage {
            record.trace.queued = Some(waiting.place.so_far(self.now));
        }
    }

    /// Logs the end of a connection. Its descriptors are closed first, so that logging delays nobody.
    pub(super) fn log_end(&self, mut connection: Connection, how: End, lasted: Duration) {
        if let Some(access) = &self.shared.options.access
            && access.moments().end
            && let Some(trace) = connection.rare.as_mut().and_then(|rare| rare.trace.take())
        {
            let mut record = self.record(&connection, *trace, AccessMoment::End(how), lasted);
            self.add_wait(&connection, &mut record);
            drop(connection);
            access.tell(Box::new(record));
        }
    }

    /// Logs a client that was not let in.
    pub(super) fn log_refusal(&self, service: &Guest, id: u64, client: Peers, how: End) {
        if let Some(access) = &self.shared.options.access
            && access.moments().end
            && let Some(trace) = self.trace_of(client, service.came_to())
        {
            access.tell(Box::new(AccessRecord {
                service: service.log.label(),
                id,
                channel: None,
                trace: *trace,
                lasted: Duration::ZERO,
                sent_bytes: 0,
                rcvd_bytes: 0,
                paths: [None; 2],
                moment: AccessMoment::End(how),
            }));
        }
    }

    /// The time since a connection was accepted, in whole milliseconds.
    pub(super) fn age(&self, connection: &Connection) -> Duration {
        Duration::from_millis(millis(self.shared.clock.now()).saturating_sub(connection.accepted_at))
    }

    /// How long a connection has lasted, in whole milliseconds, or as exactly as the access log reports it.
    /// Metrics use the same value.
    pub(super) fn lasted(&self, connection: &Connection) -> Duration {
        match connection.rare.as_ref().and_then(|rare| rare.trace.as_deref()) {
            Some(trace) => self.shared.clock.now().saturating_sub(trace.began_at),
            None => self.age(connection),
        }
    }

    fn record(
        &self,
        connection: &Connection,
        trace: ConnectionTrace,
        moment: AccessMoment,
        lasted: Duration,
    ) -> AccessRecord {
        let path = |side| {
            let (rtt, retransmits) = connection.fd(side).and_then(socket::path)?;
            Some(PathInfo { rtt, retransmits })
        };
        let channel = match &connection.stage {
            Stage::Relaying { slot, .. } => Some(slot.key()),
            _ => None,
        };
        AccessRecord {
            service: connection.service.log.label(),
            id: connection.id,
            channel,
            trace,
            lasted,
            sent_bytes: connection.delivered[Side::Server as usize],
            rcvd_bytes: connection.delivered[Side::Client as usize],
            paths: [path(Side::Client), path(Side::Server)],
            moment,
        }
    }
}

/// What is sent to the process that has the connection next.
pub(super) fn told(trace: &ConnectionTrace) -> TraceRecord {
    let failed = trace.failed.iter().map(|one| FailedAttemptRecord {
        group: one.channel.group.index(),
        channel: one.channel.channel.index(),
        address: one.address,
        error: match &one.error {
            AttemptError::Known(cause) => AttemptErrorRecord::Known(cause.to_string()),
            AttemptError::System(number) => AttemptErrorRecord::System(*number),
        },
    });
    TraceRecord {
        began: trace.began.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default(),
        failed: failed.collect(),
        attempts: trace.attempts,
        queued: trace.queued,
        connect: trace.connect,
        address: trace.address,
        first_byte: trace.first_byte,
    }
}

fn failed_again(told: &FailedAttemptRecord) -> Option<crate::observe::FailedAttempt> {
    Some(crate::observe::FailedAttempt {
        channel: ChannelKey::new(told.group, told.channel)?,
        address: told.address,
        error: match &told.error {
            AttemptErrorRecord::Known(words) => {
                AttemptError::Known(DialCause::named(words).unwrap_or(DialCause::Other))
            }
            AttemptErrorRecord::System(number) => AttemptError::System(*number),
        },
    })
}
