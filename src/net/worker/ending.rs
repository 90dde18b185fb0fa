//! Deadlines, and all ways in which a connection ends.
//!
//! Knows: when a connection has been quiet for too long, how its sockets are closed. Never: why an operator wants it gone.

use std::io;
use std::os::fd::AsFd;

use super::{Accepting, Connection, Phase, TURNED_AWAY, Worker, millis};
use crate::net::relay::{Ending, Side};
use crate::net::socket;
use crate::net::sockets::Sockets;
use crate::observe::Event;
use crate::sched::ChannelKey;

/// How often the last acknowledgement is looked for before a reset is passed on, in ms: at first, ...
pub(super) const LINGER_MS: u64 = 4;
/// ... and when it has been missing for long.
pub(super) const LINGER_MOST_MS: u64 = 1_000;

impl Worker {
    /// A deadline has come.
    pub(super) fn expired(&mut self, key: usize) {
        let now = self.now;
        let due = self.due(key);
        let Some(Some(connection)) = self.connections.get_mut(key) else { return };
        match &mut connection.phase {
            Phase::Dialing(dial) if dial.server.is_some() => {
                self.dial_failed(key, &io::Error::from(io::ErrorKind::TimedOut));
            }
            Phase::Dialing(_) => self.dial(key),
            Phase::Relaying { .. } if due.is_some_and(|due| due <= now) => self.abandon(key, "idle"),
            Phase::Relaying { .. } => {
                self.rearm(key);
                self.turn(key);
            }
        }
    }

    /// When a relaying connection has been quiet for too long.
    pub(super) fn due(&self, key: usize) -> Option<u64> {
        let connection = self.connections.get(key)?.as_ref()?;
        let options = &self.shared.options;
        let half_close = options.half_close_timeout.filter(|_| connection.relay.is_half_closed());
        let quiet = [options.idle_timeout, half_close].into_iter().flatten().min()?;
        Some(connection.moved_at.saturating_add(millis(quiet).max(1)))
    }

    pub(super) fn rearm(&mut self, key: usize) {
        let due = self.due(key);
        self.set_deadline(key, due);
    }

    pub(super) fn set_deadline(&mut self, key: usize, deadline: Option<u64>) {
        if let Some(Some(connection)) = self.connections.get_mut(key) {
            self.timers.reset(key, connection.deadline, deadline);
            connection.deadline = deadline;
        }
    }

    /// Ends a connection from outside.
    pub(super) fn abandon(&mut self, key: usize, how: &str) {
        let Some(Some(connection)) = self.connections.get_mut(key) else { return };
        let ending = match &connection.phase {
            Phase::Dialing(_) => Ending { reset_client: true, reset_server: true },
            Phase::Relaying { server, lease } => connection.relay.abandon(&mut Sockets {
                client: connection.client.as_fd(),
                server: server.as_fd(),
                pipes: &mut self.pipes,
                lease,
                shard: self.id,
                dump: None,
                delivered: &mut connection.delivered,
            }),
        };
        self.close(key, ending, how);
    }

    pub(super) fn close_channel(&mut self, channel: ChannelKey) {
        let of_channel = |connection: &Connection| match &connection.phase {
            Phase::Dialing(dial) => dial.channel() == Some(channel),
            Phase::Relaying { lease, .. } => lease.key() == channel,
        };
        self.abandon_all(of_channel, "closed by the operator");
    }

    pub(super) fn close_all(&mut self) {
        self.abandon_all(|_| true, "shut down");
    }

    pub(super) fn abandon_all(&mut self, which: impl Fn(&Connection) -> bool, how: &str) {
        let keys: Vec<usize> = self
            .connections
            .iter()
            .filter(|(_, slot)| slot.as_ref().is_some_and(&which))
            .map(|(key, _)| key)
            .collect();
        for key in keys {
            self.abandon(key, how);
        }
    }

    pub(super) fn close(&mut self, key: usize, ending: Ending, how: &str) {
        self.set_deadline(key, None);
        let Some(slot) = self.connections.get_mut(key) else { return };
        let Some(connection) = slot.take() else { return };
        self.freed.push(key);
        if ending.reset_client {
            socket::reset_on_close(&connection.client);
        }
        if let Phase::Dialing(dial) = &connection.phase {
            if let Some(server) = dial.server.as_ref().filter(|_| ending.reset_server) {
                // It may have accepted already, and would take a close for a clean end.
                socket::reset_on_close(server);
            }
            if connection.address.is_some() && how != TURNED_AWAY {
                let client = dial.client.ip();
                self.shared.log.tell(&Event::ClientLost { client, reason: how.to_owned() });
            }
        }
        if let Phase::Relaying { server, lease } = &connection.phase {
            if ending.reset_server {
                socket::reset_on_close(server);
            }
            if let Some(client) = &connection.address {
                self.shared.log.tell(&Event::Closed {
                    client: **client,
                    channel: lease.key(),
                    sent_bytes: connection.delivered[Side::Server as usize],
                    rcvd_bytes: connection.delivered[Side::Client as usize],
                    how: how.to_owned(),
                });
            }
        }
        drop(connection);
        self.departed();
    }

    /// One client fewer.
    pub(super) fn departed(&mut self) {
        self.shared.desks[self.id].load.subtract();
        self.shared.closed();
        if self.shared.desks[self.id].load.get() == 0 {
            // Idle pipes are for the next bulk transfer; a worker with nobody to serve keeps nothing.
            self.pipes.clear();
        }
        self.tell_recovery();
        if matches!(self.accepting, Accepting::Starved(_)) {
            self.resume_accepting();
        }
    }
}
