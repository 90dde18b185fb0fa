//! A client from its arrival to its channel.
//!
//! Knows: the poller's watches, what the dial says. Never: which channel, whose fault.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use super::{Connection, Phase, STARVED_MS, TURNED_AWAY, Worker, millis, token};
use crate::net::descriptors::Taken;
use crate::net::dial::{Attempt, Dial};
use crate::net::relay::{Ending, Ready, Relay, Side};
use crate::net::socket;
use crate::observe::Event;
use crate::sched::NoChannel;

impl Worker {
    /// Takes a client in; its load is counted already.
    pub(super) fn admit(&mut self, client: OwnedFd, address: SocketAddr, taken: Taken) {
        let dial = match Dial::begin(address, &self.shared.dialer) {
            Ok(dial) => dial,
            Err(why) => {
                self.turn_away(address, why);
                drop(client);
                drop(taken);
                self.departed();
                return;
            }
        };
        let connection = Connection {
            client,
            phase: Phase::Dialing(Box::new(dial)),
            relay: Relay::new(),
            delivered: [0; 2],
            moved_at: self.now,
            deadline: None,
            address: self.shared.log.is_debug().then(|| Box::new(address)),
            muted: [false; 2],
            queued: false,
            _taken: taken,
        };
        let key = self.connections.insert(Some(connection));
        if let Some(Some(connection)) = self.connections.get(key)
            && let Err(e) = self.poller.add(&connection.client, token(key, Side::Client))
        {
            self.unwatched(key, &e);
            return;
        }
        self.guarded(key, |worker| worker.dial(key));
    }

    pub(super) fn dial(&mut self, key: usize) {
        let Some(Some(connection)) = self.connections.get_mut(key) else { return };
        let Phase::Dialing(dial) = &mut connection.phase else { return };
        let patience = millis(self.shared.options.connect_timeout).max(1);
        let wait = match dial.attempt(&self.shared.dialer, self.now, patience) {
            Attempt::Started => {
                let watched =
                    dial.server.as_ref().map(|server| self.poller.add(server, token(key, Side::Server)));
                if let Some(Err(e)) = watched {
                    return self.unwatched(key, &e);
                }
                patience
            }
            Attempt::Wait => STARVED_MS,
            Attempt::Over(why) => {
                let client = dial.client;
                self.turn_away(client, why);
                return self.close(key, Ending { reset_client: false, reset_server: false }, TURNED_AWAY);
            }
        };
        self.set_deadline(key, Some(self.now.saturating_add(wait)));
    }

    /// A socket that cannot be watched cannot be served. Kernel memory or the system's limit of watches is used up.
    pub(super) fn unwatched(&mut self, key: usize, error: &io::Error) {
        self.shared.log.tell(&Event::AcceptFailed { cause: format!("cannot watch a socket: {error}") });
        self.close(key, Ending { reset_client: true, reset_server: true }, "cannot be watched");
    }

    pub(super) fn turn_away(&self, client: SocketAddr, why: NoChannel) {
        if self.shared.log.is_debug() {
            let reason = match why {
                NoChannel::Empty => "there is no channel",
                NoChannel::Disabled => "all channels are disabled",
                NoChannel::Full => "all channels are full",
                NoChannel::Failed => "all channels failed",
            };
            self.shared.log.tell(&Event::ClientLost { client: client.ip(), reason: reason.into() });
        }
    }

    /// The channel answered, one way or the other.
    pub(super) fn dialed(&mut self, key: usize, ready: Ready) {
        let Some(Some(connection)) = self.connections.get_mut(key) else { return };
        let Phase::Dialing(dial) = &mut connection.phase else { return };
        let Some(server) = &dial.server else { return };
        if ready.error
            && let Some(error) = socket::take_error(server)
        {
            return self.dial_failed(key, &error);
        }
        if !ready.writable {
            return;
        }
        self.connected(key, ready);
    }

    pub(super) fn connected(&mut self, key: usize, ready: Ready) {
        let Some(Some(mut connection)) = self.connections.get_mut(key).map(Option::take) else { return };
        let Phase::Dialing(dial) = connection.phase else { return };
        let client = dial.client;
        let target = dial.target();
        let Some((server, lease)) = dial.succeeded(&self.shared.dialer) else { return };
        if self.shared.log.is_debug()
            && let Some(address) = target
        {
            self.shared.log.tell(&Event::Opened { client, channel: lease.key(), address });
        }
        connection.phase = Phase::Relaying { server, lease };
        connection.moved_at = self.now;
        connection.relay.note(Side::Server, ready);
        if let Some(slot) = self.connections.get_mut(key) {
            *slot = Some(connection);
        }
        self.rearm(key);
        self.turn(key);
    }

    pub(super) fn dial_failed(&mut self, key: usize, error: &io::Error) {
        let Some(Some(connection)) = self.connections.get_mut(key) else { return };
        let Phase::Dialing(dial) = &mut connection.phase else { return };
        match dial.failed(error, &self.shared.dialer) {
            Ok(()) => self.dial(key),
            Err(why) => {
                let client = dial.client;
                self.turn_away(client, why);
                self.close(key, Ending { reset_client: false, reset_server: false }, TURNED_AWAY);
            }
        }
    }
}
