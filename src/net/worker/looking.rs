//! A worker's connections, told to whoever asks.
//!
//! Knows: ages, bytes, where each connection stands. Never: who asks, how it is printed.

use std::net::SocketAddr;
use std::time::Duration;

use super::{Connection, Stage, Worker};
use crate::net::service::ServiceId;
use crate::sched::{ChannelKey, SessionSnapshot};
use crate::sys::poller::Readiness;
use crate::wire::relay::Side;

impl<P: Readiness> Worker<P> {
    /// All connections of a service, or those of one channel.
    pub(super) fn sessions(&self, service: ServiceId, only: Option<ChannelKey>) -> Vec<SessionSnapshot> {
        let all = self.connections.iter().map(|(_, connection)| connection);
        let ours = all.filter(|connection| connection.service.id == service);
        let wanted = ours.filter(|connection| only.is_none() || only == channel(connection));
        wanted.map(|connection| self.session(connection)).collect()
    }

    fn session(&self, connection: &Connection) -> SessionSnapshot {
        let client = rustix::net::getpeername(&connection.client).ok();
        let since = |at: u64| Duration::from_millis(self.now.saturating_sub(at));
        SessionSnapshot {
            id: connection.id,
            client: client.flatten().and_then(|any| SocketAddr::try_from(any).ok()),
            channel: channel(connection),
            age: since(connection.opened_at),
            idle: since(connection.moved_at),
            sent_bytes: connection.delivered[Side::Server as usize],
            rcvd_bytes: connection.delivered[Side::Client as usize],
        }
    }
}

fn channel(connection: &Connection) -> Option<ChannelKey> {
    match &connection.stage {
        Stage::Dialing(dial) => dial.channel(),
        Stage::Greeting | Stage::Waiting(_) | Stage::Over => None,
        Stage::Relaying { lease, .. } => Some(lease.key()),
    }
}
