//! Starts a tap of a session.
//!
//! Knows: the state of a session when its tap begins. Never: who reads, how it is shown.

use std::time::SystemTime;

use super::{Connection, Stage, Worker};
use crate::net::service::ServiceId;
use crate::observe::{TapSource, TapStart};
use crate::spec::Address;
use crate::sys::poller::Readiness;
use crate::sys::socket;
use crate::wire::relay::Side;

impl<P: Readiness> Worker<P> {
    /// Starts a tap of a session's bytes. `None` if it is not here.
    pub(super) fn tap(&mut self, service: ServiceId, id: u64, source: TapSource) -> Option<TapStart> {
        let is_meant = |connection: &Connection| connection.service.id == service && connection.id == id;
        let (key, connection) = self.connections.iter().find(|(_, connection)| is_meant(connection))?;
        let channel = match &connection.stage {
            Stage::Relaying { server, slot } => Some((slot.key(), socket::peer(server).map(Address::from))),
            Stage::Dialing(dial) => dial.channel().map(|channel| (channel, None)),
            Stage::Greeting(_) | Stage::Greeted | Stage::Waiting(_) | Stage::Over => None,
        };
        // Held bytes were read already; bytes that came before the relay began are reported when it begins.
        let before =
            |from: Side| connection.delivered[from.peer() as usize] + connection.relay.told_from(from) as u64;
        let local = || socket::local(&connection.client).map(Address::from);
        let start = TapStart {
            at: SystemTime::now(),
            client: socket::client(&connection.client).map(|seen| connection.peers(seen)),
            // A Unix socket's own name may differ from its final one, and the kernel knows only the first.
            service: connection.service.dialer.circle.unix().map(Address::Unix).or_else(local),
            channel,
            sent_bytes: before(Side::Client),
            rcvd_bytes: before(Side::Server),
        };
        self.taps.add(key, id, source);
        Some(start)
    }
}
