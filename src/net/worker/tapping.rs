//! A session that somebody wants to see.
//!
//! Knows: how a session stands when its tap begins. Never: who looks, how it is shown.

use std::time::SystemTime;

use super::{Connection, Stage, Worker};
use crate::net::service::ServiceId;
use crate::observe::{TapSource, TapStart};
use crate::spec::Address;
use crate::sys::poller::Readiness;
use crate::sys::socket;
use crate::wire::relay::Side;

impl<P: Readiness> Worker<P> {
    /// Shows a session's bytes from now on. `None` = it is not here.
    pub(super) fn tap(&mut self, service: ServiceId, id: u64, source: TapSource) -> Option<TapStart> {
        let is_meant = |connection: &Connection| connection.service.id == service && connection.id == id;
        let (key, connection) = self.connections.iter().find(|(_, connection)| is_meant(connection))?;
        let channel = match &connection.stage {
            Stage::Relaying { server, slot } => Some((slot.key(), socket::peer(server).map(Address::from))),
            Stage::Dialing(dial) => dial.channel().map(|channel| (channel, None)),
            Stage::Greeting(_) | Stage::Greeted | Stage::Waiting(_) | Stage::Over => None,
        };
        // What is held was read already; what came before the relay began is told of when it begins.
        let before =
            |from: Side| connection.delivered[from.peer() as usize] + connection.relay.told_from(from) as u64;
        let local = || socket::local(&connection.client).map(Address::from);
        let start = TapStart {
            at: SystemTime::now(),
            client: socket::client(&connection.client).map(|seen| connection.peers(seen)),
            // A Unix socket has had another name at first, and knows no other.
            service: connection.service.dialer.circle.unix().map(Address::Unix).or_else(local),
            channel,
            sent_bytes: before(Side::Client),
            rcvd_bytes: before(Side::Server),
        };
        self.taps.add(key, id, source);
        Some(start)
    }
}
