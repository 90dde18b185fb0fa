//! A client from its arrival to its channel.
//!
//! Knows: the poller's watches, what the dial says. Never: which channel, whose fault.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use super::{Connection, KEY_BITS, NEVER, Phase, STARVED_MS, TURNED_AWAY, Waiting, Worker, millis};
use crate::net::dial::{Attempt, Dial, Search, Waited};
use crate::observe::Event;
use crate::sched::{AdminState, Grant, NoChannel, Ticket};
use crate::sys::descriptors::Taken;
use crate::sys::socket;
use crate::wire::relay::{Ending, Ready, Relay, Side};

/// Why a client goes on to the next channel though nobody failed.
pub(super) const CLOSED_MEANWHILE: &str = "the channel was closed meanwhile";

impl Worker {
    /// Takes a client in; its load is counted already.
    pub(super) fn admit(&mut self, client: OwnedFd, address: SocketAddr, taken: Taken) {
        let key = self.connections.vacant_key();
        let (search, grants) = Dial::begin(address, self.tag(key), &self.shared.dialer);
        self.shared.deliver(grants);
        let phase = match search {
            Search::On(dial) => Phase::Dialing(dial),
            Search::InLine(ticket) => {
                let place = Waited { ticket, until: self.patience_in_line() };
                Phase::Waiting(Box::new(Waiting { place, client: address }))
            }
            Search::Over(why) => {
                self.turn_away(address, why);
                drop(client);
                drop(taken);
                self.departed();
                return;
            }
        };
        let connection = Connection {
            client,
            phase,
            relay: Relay::new(),
            generations: [self.next_watch(), 0],
            delivered: [0; 2],
            id: self.next_id(),
            opened_at: self.now,
            moved_at: self.now,
            expires_at: NEVER,
            deadline: None,
            address: self.shared.log.is_debug().then(|| Box::new(address)),
            muted: [false; 2],
            queued: false,
            _taken: taken,
        };
        self.connections.insert(connection);
        if let Some(connection) = self.connections.get(key)
            && let Err(e) = self.poller.add(&connection.client, connection.token(key, Side::Client))
        {
            self.unwatched(key, &e);
            return;
        }
        self.guarded(key, |worker| worker.search(key));
    }

    /// Goes on with a client that has no channel yet.
    pub(super) fn search(&mut self, key: usize) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        match &connection.phase {
            Phase::Dialing(_) => self.dial(key),
            Phase::Waiting(_) => self.wait_in_line(key),
            Phase::Relaying { .. } | Phase::Over => {}
        }
    }

    /// Until when a client waits that gets in line now.
    fn patience_in_line(&self) -> u64 {
        self.now.saturating_add(millis(self.shared.options.queue_timeout).max(1))
    }

    fn wait_in_line(&mut self, key: usize) {
        let Some(connection) = self.connections.get(key) else { return };
        let Phase::Waiting(waiting) = &connection.phase else { return };
        self.set_deadline(key, Some(waiting.place.until));
        // A slot may have come free while we got in line, and whoever gave it back may have seen nobody there yet.
        self.shared.serve_line();
    }

    /// A slot for a client in line. If the client is not there any more, the slot is the next one's.
    pub(super) fn granted(&mut self, grant: Grant) {
        let Grant { ticket, tag, route, lease } = grant;
        let key = (tag & KEY_BITS) as usize;
        if let Some(connection) = self.connections.get_mut(key)
            && let Phase::Waiting(waiting) = &connection.phase
            && waiting.place.ticket == ticket
        {
            // Closing a channel's connections may have come before the grant.
            let state = self.shared.dialer.table.lock().state(lease.key());
            let dial = Dial::new(waiting.client, route, lease, Some(waiting.place));
            connection.phase = Phase::Dialing(Box::new(dial));
            self.guarded(key, |worker| match state {
                Some(AdminState::DisabledHard) => worker.dial_moves_on(key, CLOSED_MEANWHILE),
                _ => worker.dial(key),
            });
            return;
        }
        drop(lease);
        self.shared.serve_line();
    }

    pub(super) fn dial(&mut self, key: usize) {
        let tag = self.tag(key);
        let watch = self.next_watch();
        let Some(connection) = self.connections.get_mut(key) else { return };
        connection.generations[Side::Server as usize] = watch;
        let token = connection.token(key, Side::Server);
        let Phase::Dialing(dial) = &mut connection.phase else { return };
        let patience = millis(self.shared.options.connect_timeout).max(1);
        let wait = match dial.attempt(tag, &self.shared.dialer, self.now, patience) {
            Attempt::Started => {
                let watched = dial.server.as_ref().map(|server| self.poller.add(server, token));
                if let Some(Err(e)) = watched {
                    return self.unwatched(key, &e);
                }
                patience
            }
            Attempt::Wait => STARVED_MS,
            Attempt::Over(end) => return self.search_ended(key, end),
        };
        self.set_deadline(key, Some(self.now.saturating_add(wait)));
    }

    /// Nothing can be dialled now: a place in line, or the end.
    fn search_ended(&mut self, key: usize, end: Result<Ticket, NoChannel>) {
        let Some(connection) = self.connections.get(key) else { return };
        let Phase::Dialing(dial) = &connection.phase else { return };
        let (client, waited) = (dial.client, dial.waited);
        match end {
            Ok(ticket) => {
                let until = waited.map_or_else(|| self.patience_in_line(), |waited| waited.until);
                let place = Waited { ticket, until };
                if let Some(connection) = self.connections.get_mut(key) {
                    connection.phase = Phase::Waiting(Box::new(Waiting { place, client }));
                }
                self.wait_in_line(key);
            }
            Err(why) => {
                self.turn_away(client, why);
                self.close(key, Ending { reset_client: false, reset_server: false }, TURNED_AWAY);
            }
        }
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
                NoChannel::Down => "all channels are down",
                NoChannel::Full => "all channels are full",
                NoChannel::Failed => "all channels failed",
            };
            self.shared.log.tell(&Event::ClientLost { client: client.ip(), reason: reason.into() });
        }
    }

    /// The channel answered, one way or the other.
    pub(super) fn dialed(&mut self, key: usize, ready: Ready) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        let Phase::Dialing(dial) = &mut connection.phase else { return };
        let Some(server) = &dial.server else { return };
        if ready.error
            && let Some(error) = socket::take_error(server)
        {
            return self.dial_failed(key, &error);
        }
        // An error that is no error any more says nothing; whether there is a connection, the kernel knows.
        if ready.writable && (!ready.error || socket::is_connected(server)) {
            self.connected(key, ready);
        }
    }

    pub(super) fn connected(&mut self, key: usize, ready: Ready) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        if !matches!(connection.phase, Phase::Dialing(_)) {
            return;
        }
        let id = connection.id;
        // A panic below loses this connection and nothing else: its slot and its sockets go with the dial.
        let Phase::Dialing(dial) = std::mem::replace(&mut connection.phase, Phase::Over) else { return };
        let client = dial.client;
        let target = dial.target();
        let Some((server, lease)) = dial.succeeded(&self.shared.dialer) else { return };
        let expires_at = self.lifetime(id);
        if self.shared.log.is_debug()
            && let Some(address) = target
        {
            self.shared.log.tell(&Event::Opened { client, channel: lease.key(), address });
        }
        let Some(connection) = self.connections.get_mut(key) else { return };
        connection.phase = Phase::Relaying { server, lease };
        connection.moved_at = self.now;
        connection.expires_at = expires_at;
        connection.relay.note(Side::Server, ready);
        self.rearm(key);
        self.turn(key);
        self.announce(key);
    }

    /// A server that has got no data by now may be one that speaks first: it has to hear of its client.
    fn announce(&self, key: usize) {
        if let Some(connection) = self.connections.get(key)
            && connection.delivered[Side::Server as usize] == 0
            && let Some(server) = connection.fd(Side::Server)
        {
            socket::acknowledge(server);
        }
    }

    pub(super) fn dial_failed(&mut self, key: usize, error: &io::Error) {
        let tag = self.tag(key);
        let Some(connection) = self.connections.get_mut(key) else { return };
        let Phase::Dialing(dial) = &mut connection.phase else { return };
        match dial.failed(error, tag, &self.shared.dialer) {
            Ok(()) => self.dial(key),
            Err(end) => self.search_ended(key, end),
        }
        // The slot of the channel that failed is free again.
        self.shared.serve_line();
    }

    /// The channel that a client is being connected to is closed by an operator, or went down: on to the next one.
    pub(super) fn dial_moves_on(&mut self, key: usize, why: &str) {
        let tag = self.tag(key);
        let Some(connection) = self.connections.get_mut(key) else { return };
        let Phase::Dialing(dial) = &mut connection.phase else { return };
        match dial.move_on(why, tag, &self.shared.dialer) {
            Ok(()) => self.dial(key),
            Err(end) => self.search_ended(key, end),
        }
        self.shared.serve_line();
    }
}
