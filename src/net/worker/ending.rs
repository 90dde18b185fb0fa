//! Deadlines, and all ways in which a connection ends.
//!
//! Knows: when a connection has been idle too long, how its sockets are closed. Never: why an operator wants
//! it closed.

use std::hash::{DefaultHasher, Hasher};
use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use super::{Connection, NEVER, RESET, Silence, Stage, Worker, millis, tenths};
use crate::net::planted::{self, Bug};
use crate::net::service::{Service, ServiceId};
use crate::net::sockets::Sockets;
use crate::observe::{Event, TapEnd};
use crate::sched::{ChannelKey, End, Loss, OwnFault};
use crate::spec::Address;
use crate::sys::poller::Readiness;
use crate::sys::socket;
use crate::wire::relay::{Ending, Side};

/// How soon a connection is checked for which no event will come, in ms: at first ...
pub(super) const LATER_MS: u64 = 4;
/// ... and when it has been idle for long.
pub(super) const LATER_MOST_MS: u64 = 1_000;

/// A half-closed connection that is idle for this long may have lost a peer.
const DOUBT: Duration = Duration::from_secs(5);
/// A peer on a Unix socket that has closed both directions is given up after this time without a byte. Over TCP
/// its kernel forgets the connection after as long (`tcp_fin_timeout`). Until then, its last request may be
/// carried out.
const GONE: Duration = Duration::from_secs(60);
/// A server that ends a connection within this time without a byte has not served its client.
const AT_ONCE: Duration = Duration::from_secs(1);
/// If one side is gone and the other takes none of its remaining bytes for this long, the connection is
/// closed.
const BROKEN: Duration = Duration::from_secs(5);

impl<P: Readiness> Worker<P> {
    /// A deadline has passed.
    pub(super) fn expired(&mut self, key: usize) {
        let now = self.now;
        let Some(connection) = self.connections.get_mut(key) else { return };
        let expires_at = connection.expires_at();
        match &mut connection.stage {
            Stage::Dialing(_) => self.dial_expired(key),
            Stage::Greeting(_) => self.greeting_expired(key),
            Stage::Greeted | Stage::Over => {}
            Stage::Waiting(waiting) => {
                let place = waiting.place;
                // A slot may be free that was not handed out yet, or a grant may be on its way: only the
                // table knows.
                let service = Arc::clone(&connection.service);
                self.shared.serve_line(&service);
                let mut table = service.dialer.table.lock();
                // This worker may not have been told about a pause yet.
                if !place.in_pause && table.waits_for_pause(place.ticket) {
                    drop(table);
                    return self.wait_anew(key);
                }
                let is_over = table.leave_line(place.ticket);
                drop(table);
                if is_over {
                    let why = if place.in_pause { Loss::PauseTimeout } else { Loss::QueueTimeout };
                    self.abandon(key, End::Lost(why));
                }
            }
            Stage::Relaying { .. } if expires_at <= now => self.abandon(key, End::Lifetime),
            Stage::Relaying { .. } => self.relay_expired(key),
        }
    }

    /// A half-closed connection is idle, and its peers may be gone. Their kernels are probed from now on; a
    /// reset means that they are.
    fn doubt(&mut self, key: usize) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        connection.asked_often = true;
        for fd in [Side::Client, Side::Server].into_iter().filter_map(|side| connection.fd(side)) {
            socket::ask_often(fd);
        }
    }

    /// Is it half-closed, with peers that are not being probed yet?
    fn is_doubtful(&self, key: usize) -> bool {
        let connection = self.connections.get(key);
        connection.is_some_and(|connection| connection.relay.is_half_closed() && !connection.asked_often)
    }

    /// The side that has closed both directions, which the kernel tells of Unix sockets, if no byte has moved
    /// for long.
    fn gone_side(&mut self, key: usize) -> Option<Side> {
        let side = self.connections.get(key)?.half_closed_side()?;
        self.ask_progress(key);
        let connection = self.connections.get(key)?;
        let is_quiet = self.now.saturating_sub(connection.moved_at) >= millis(GONE);
        (is_quiet && socket::has_hung_up(connection.fd(side)?)).then_some(side)
    }

    fn relay_expired(&mut self, key: usize) {
        if let Some(connection) = self.connections.get_mut(key)
            && connection.rare.as_ref().is_some_and(|rare| rare.undumped)
        {
            // The reader of the dump holds it up.
            connection.moved_at = self.now;
            return self.rearm(key);
        }
        self.judge_silence(key);
        if self.is_doubtful(key) && self.is_quiet(key) {
            self.doubt(key);
        }
        if let Some(side) = self.gone_side(key) {
            return self.abandon(key, super::end_of(Some((side, true))));
        }
        if self.is_quiet(key) {
            let Some(connection) = self.connections.get(key) else { return };
            let relay = &connection.relay;
            let how = match (relay.broken(), relay.is_short(), relay.is_half_closed()) {
                (Some(side), ..) => super::end_of(relay.first_end().or(Some((side, true)))),
                (None, true, _) => End::Ours(OwnFault::Memory),
                (None, false, true) => End::HalfClosed,
                (None, false, false) => End::Idle,
            };
            return self.abandon(key, how);
        }
        self.rearm(key);
        self.turn(key);
    }

    /// Has a relaying connection been idle too long, in the kernel's view, too? A slow reader may need longer
    /// for a full buffer than the timeout, and those bytes were counted when they were written.
    fn is_quiet(&mut self, key: usize) -> bool {
        let seems = |worker: &Self| worker.due(key).is_some_and(|due| due <= worker.now);
        if !seems(self) {
            return false;
        }
        self.ask_progress(key);
        seems(self)
    }

    /// Asks the kernel how much the peers have acknowledged. If it is more than the last time, bytes have
    /// moved.
    fn ask_progress(&mut self, key: usize) {
        let now = self.now;
        let Some(connection) = self.connections.get_mut(key) else { return };
        let sides = [Side::Client, Side::Server]
            .map(|side| connection.fd(side).map(|fd| (socket::unsent(fd), socket::since_acknowledged(fd))));
        let unsent: usize = sides.iter().flatten().map(|(unsent, _)| unsent).sum();
        let acknowledged = connection.delivered.iter().sum::<u64>().saturating_sub(unsent as u64);
        let rare = connection.rare.as_deref();
        let (before, was_unread) = rare.map_or((0, false), |rare| (rare.acknowledged, rare.unread));
        // Of a Unix socket the kernel does not tell when its peer has read. If bytes were left at the last look,
        // or are now, that may have been a moment ago; otherwise they were read when they were written.
        let since = sides.iter().flatten().filter_map(|&(unsent, since)| {
            since.or_else(|| (was_unread || unsent > 0).then_some(Duration::ZERO))
        });
        // An end that is not acknowledged yet counts as a byte, so a smaller number than before means
        // nothing.
        if acknowledged > before
            && let Some(since) = since.min()
        {
            connection.moved_at = connection.moved_at.max(now.saturating_sub(millis(since)));
            connection.rare().acknowledged = acknowledged;
        }
        let unread = sides.iter().flatten().any(|(unsent, since)| since.is_none() && *unsent > 0);
        if unread != was_unread {
            connection.rare().unread = unread;
        }
    }

    /// When a relaying connection reaches its next timeout or its maximum lifetime.
    pub(super) fn due(&self, key: usize) -> Option<u64> {
        let connection = self.connections.get(key)?;
        let options = connection.service.options();
        let half_close = options.half_close_timeout.filter(|_| connection.relay.is_half_closed());
        let doubt = Some(DOUBT).filter(|_| self.is_doubtful(key));
        // It waits for memory as long as a dial may take.
        let short = connection.relay.is_short().then_some(options.connect_timeout);
        let broken = connection.relay.broken().map(|_| BROKEN);
        let quiet = [options.idle_timeout, half_close, doubt, short, broken].into_iter().flatten().min();
        let quiet_at = quiet.map(|quiet| connection.moved_at.saturating_add(millis(quiet).max(1)));
        let expires_at = Some(connection.expires_at()).filter(|&at| at != NEVER);
        let silent_at = connection.silent_at(options.first_byte);
        [quiet_at, expires_at, silent_at].into_iter().flatten().min()
    }

    /// Has a channel kept its client waiting too long? The kernel knows whether it has answered by now.
    fn judge_silence(&mut self, key: usize) {
        let heard = self.heard;
        let Some(connection) = self.connections.get_mut(key) else { return };
        let Some(limit) = connection.service.options().first_byte else { return };
        let Stage::Relaying { server, slot } = &connection.stage else { return };
        if connection.silent_at(Some(limit)).is_none_or(|at| at > heard) {
            return;
        }
        let has_spoken = connection.delivered[Side::Server as usize] > 0;
        let relay = &connection.relay;
        // Bytes that came from the channel and have not reached the client are not its fault; and an end is
        // judged separately.
        let is_silent = socket::unread(server) == 0
            && relay.held_from(Side::Server) == 0
            && relay.first_end().is_none_or(|(side, _)| side == Side::Client)
            && relay.broken().is_none();
        connection.silence = if has_spoken { Silence::Heard } else { Silence::Mutual };
        if is_silent {
            let spoken = has_spoken.then(|| connection.peers(connection.peer.into()));
            let waited = Duration::from_millis(self.now.saturating_sub(connection.moved_at));
            connection.service.dialer.silent(slot.key(), spoken, waited, limit);
        }
    }

    /// The client has sent its first bytes after it had waited too long: from now on it waits for the
    /// channel's answer to these.
    pub(super) fn await_first_byte(&mut self, key: usize, before: [u64; 2]) {
        if let Some(connection) = self.connections.get(key)
            && connection.silence == Silence::Mutual
            && before[Side::Server as usize] == 0
            && connection.delivered[Side::Server as usize] > 0
        {
            self.rearm(key);
        }
    }

    pub(super) fn rearm(&mut self, key: usize) {
        // No event tells when a peer has been gone for long.
        let is_asked = |connection: &Connection| connection.asked_often && connection.relay.is_half_closed();
        let asked_again =
            self.connections.get(key).is_some_and(is_asked).then(|| self.now.saturating_add(millis(GONE)));
        let next = [self.due(key), asked_again].into_iter().flatten().min();
        self.set_deadline(key, next);
    }

    pub(super) fn set_deadline(&mut self, key: usize, deadline: Option<u64>) {
        if let Some(connection) = self.connections.get_mut(key) {
            // Time 0 is the start: a deadline a millisecond later makes no difference.
            let deadline = deadline.map(|at| NonZeroU64::new(at).unwrap_or(NonZeroU64::MIN));
            self.timers.reset(key, connection.deadline.map(NonZeroU64::get), deadline.map(NonZeroU64::get));
            connection.deadline = deadline;
        }
    }

    /// A connection has ended by itself: reports if its channel has not served it.
    pub(super) fn judge(&self, key: usize, how: End) {
        if !matches!(how, End::ChannelClosed | End::ChannelReset) {
            return;
        }
        let Some(connection) = self.connections.get(key) else { return };
        let Stage::Relaying { slot, .. } = &connection.stage else { return };
        if connection.delivered[Side::Client as usize] == 0 && self.is_early(connection) {
            let spoken = connection.delivered[Side::Server as usize] > 0;
            let spoken = spoken.then(|| connection.peers(connection.peer.into()));
            connection.service.dialer.closed_early(slot.key(), spoken);
        }
    }

    /// Did its channel accept it just now?
    pub(super) fn is_early(&self, connection: &Connection) -> bool {
        let at = connection.connected_at;
        at > 0 && u64::from(tenths(self.now).saturating_sub(at)) * 100 < millis(AT_ONCE)
    }

    /// Ends a connection from outside.
    pub(super) fn abandon(&mut self, key: usize, how: End) {
        if let Some(ending) = self.ending(key) {
            self.close(key, ending, how);
        }
    }

    /// How to close a connection that is ended from outside now.
    pub(super) fn ending(&mut self, key: usize) -> Option<Ending> {
        let connection = self.connections.get_mut(key)?;
        Some(match &connection.stage {
            Stage::Greeting(_) | Stage::Greeted | Stage::Dialing(_) | Stage::Over => RESET,
            // Like a client that got no channel.
            Stage::Waiting(_) => Ending { reset_client: false, reset_server: true },
            Stage::Relaying { server, slot } => connection.relay.abandon(&mut Sockets {
                client: connection.client.as_fd(),
                server: server.as_fd(),
                pipes: &mut self.pipes,
                slot,
                shard: self.id,
                dump: None,
                taps: None,
                loopback_congestion: None,
                first_byte: None,
                delivered: &mut connection.delivered,
            }),
        })
    }

    /// When the maximum lifetime of a connection that began at `began` is over, varied by up to a tenth, so
    /// that clients which came together do not return together.
    pub(super) fn lifetime(&self, service: &Service, id: u64, began: u64) -> u64 {
        let Some(lifetime) = service.options().max_lifetime.map(millis) else { return NEVER };
        let mut lot = DefaultHasher::new();
        lot.write_u64(id ^ self.shared.options.seed);
        began.saturating_add(spread(lifetime, lot.finish()))
    }

    /// The timeouts of a service have changed; they apply to existing connections, too.
    pub(super) fn retime(&mut self, service: ServiceId) {
        let is_served = |connection: &Connection| {
            connection.service.id == service && matches!(connection.stage, Stage::Relaying { .. })
        };
        for key in self.keys(is_served) {
            let Some(connection) = self.connections.get(key) else { continue };
            let of = Arc::clone(&connection.service);
            let began = self.now.saturating_sub(millis(self.age(connection)));
            let expires_at = self.lifetime(&of, connection.id, began);
            if let Some(connection) = self.connections.get_mut(key) {
                connection.set_expires_at(expires_at);
            }
            // A deadline that comes too early does no harm. It may be there for another reason.
            let before =
                self.connections.get(key).and_then(|connection| connection.deadline).map(NonZeroU64::get);
            self.set_deadline(key, [before, self.due(key)].into_iter().flatten().min());
        }
    }

    /// Closes the connections of a channel for this reason; returns how many there were.
    pub(super) fn close_channel(&mut self, service: ServiceId, channel: ChannelKey, why: End) -> usize {
        // A client that is not connected yet has lost nothing: there may be another channel.
        let is_dialed = |connection: &Connection| match &connection.stage {
            Stage::Dialing(dial) => connection.service.id == service && dial.tries(channel),
            _ => false,
        };
        for key in self.keys(is_dialed) {
            self.guarded(key, |worker| worker.dial_moves_on(key, channel));
        }
        let is_served = |connection: &Connection| match &connection.stage {
            Stage::Relaying { slot, .. } => connection.service.id == service && slot.key() == channel,
            _ => false,
        };
        self.abandon_all(is_served, why)
    }

    /// Closes the connections of a channel to these addresses. A connect to one of them moves on by itself if
    /// it fails.
    pub(super) fn close_addresses(&mut self, service: ServiceId, channel: ChannelKey, addresses: &[Address]) {
        let is_of_it = |connection: &Connection| match &connection.stage {
            Stage::Relaying { server, slot, .. } => {
                let of_channel = connection.service.id == service && slot.key() == channel;
                let is_one = |address: SocketAddr| {
                    let address = Address::from(address);
                    // The addresses of a channel without a port of its own have port 0.
                    addresses.contains(&address) || addresses.contains(&address.with_port(0))
                };
                of_channel && socket::peer(server).is_some_and(is_one)
            }
            _ => false,
        };
        self.abandon_all(is_of_it, End::AddressRemoved);
    }

    /// Closes all connections, those that need a reset first: if the process is killed before all is done,
    /// the rest ends cleanly.
    pub(super) fn close_all(&mut self) {
        let clean = Ending { reset_client: false, reset_server: false };
        for key in self.keys(|_| true) {
            self.guarded(key, |worker| match worker.ending(key) {
                Some(ending) if ending != clean => worker.close(key, ending, End::ShutDown),
                _ => {}
            });
        }
        for key in self.keys(|_| true) {
            self.guarded(key, |worker| worker.abandon(key, End::ShutDown));
        }
    }

    /// Closes the connections of clients whose addresses are in a network, at any stage; returns how many
    /// there were.
    pub(super) fn close_clients(&mut self, service: ServiceId, net: IpNet, why: End) -> usize {
        let is_of_it = |connection: &Connection| {
            connection.service.id == service && connection.client_ip().is_some_and(|ip| net.contains(&ip))
        };
        self.abandon_all(is_of_it, why)
    }

    /// The limits per client may have changed: existing connections are counted, too.
    pub(super) fn recount(&mut self, service: ServiceId) {
        for (_, connection) in &mut self.connections {
            // A client whose PROXY header has not come yet is not known.
            let seen = connection.peer.into();
            let is_known = connection.said().is_some() || !connection.service.awaits_header(seen);
            if connection.service.id == service && is_known {
                let client = connection.client_source();
                connection.service.count_in(client);
            }
        }
    }

    /// Closes one connection. `false` if it is not here.
    pub(super) fn close_session(&mut self, service: ServiceId, id: u64) -> bool {
        self.abandon_all(|connection| connection.service.id == service && connection.id == id, End::Closed)
            > 0
    }

    pub(super) fn abandon_all(&mut self, which: impl Fn(&Connection) -> bool, how: End) -> usize {
        let keys = self.keys(which);
        for &key in &keys {
            self.guarded(key, |worker| worker.abandon(key, how));
        }
        keys.len()
    }

    pub(super) fn keys(&self, which: impl Fn(&Connection) -> bool) -> Vec<usize> {
        let all = self.connections.iter().filter(|(_, connection)| which(connection));
        all.map(|(key, _)| key).collect()
    }

    pub(super) fn close(&mut self, key: usize, mut ending: Ending, how: End) {
        if planted::has(Bug::EndsClean) {
            ending = Ending { reset_client: false, reset_server: false };
        }
        self.set_deadline(key, None);
        let Some(connection) = self.connections.try_remove(key) else { return };
        if ending.reset_client {
            socket::reset_on_close(&connection.client);
        }
        if let Stage::Dialing(dial) = &connection.stage
            && ending.reset_server
        {
            // The servers may have accepted already, and would take a close for a clean end.
            dial.servers().for_each(socket::reset_on_close);
        }
        if let Stage::Relaying { server, .. } = &connection.stage
            && ending.reset_server
        {
            socket::reset_on_close(server);
        }
        // A panic below is only our fault: both ends get what they should.
        if let Stage::Waiting(waiting) = &connection.stage {
            // If its turn has already come, the grant finds no client and goes to the next one.
            connection.service.dialer.table.lock().leave_line(waiting.place.ticket);
        }
        let how = match &connection.stage {
            Stage::Relaying { .. } => how,
            _ => how.without_channel(),
        };
        self.taps.end(key, TapEnd::Session(how));
        let lasted = self.lasted(&connection);
        self.remember(&connection, how, lasted);
        let table = &connection.service.dialer.table;
        table.ended(self.id, how);
        if let Stage::Waiting(waiting) = &connection.stage {
            table.waited(self.id, waiting.place.so_far(self.now));
        }
        if let Stage::Relaying { slot, .. } = &connection.stage {
            slot.ended(self.id, how, lasted);
            if let Some(client) = connection.told_peers() {
                connection.service.log.tell(&Event::Closed {
                    client,
                    channel: slot.key(),
                    sent_bytes: connection.delivered[Side::Server as usize],
                    rcvd_bytes: connection.delivered[Side::Client as usize],
                    how,
                });
            }
        } else {
            if let Some(why) = how.loss() {
                connection.service.dialer.table.lost(why);
            }
            if let Some(client) = connection.told_peers() {
                connection.service.log.tell(&Event::ClientLost { client, reason: how });
            }
        }
        let service = Arc::clone(&connection.service);
        self.log_end(connection, how, lasted);
        self.departed(&service);
    }

    /// There is one client less.
    fn departed(&mut self, service: &Service) {
        if self.shared.desks[self.id].load.get() == 0 {
            // Idle pipes are kept for the next bulk transfer; a worker without clients keeps none.
            self.pipes.clear();
        }
        self.tell_recovery(service);
        self.resume_one();
    }
}

/// A lifetime, varied by up to a tenth.
fn spread(lifetime: u64, lot: u64) -> u64 {
    lifetime - lifetime / 10 + lot % (lifetime / 5 + 1)
}

#[cfg(test)]
mod tests {
    use super::spread;

    #[test]
    fn a_lifetime_is_spread_by_a_tenth_to_both_sides() {
        let all: Vec<u64> = (0..400).map(|lot| spread(1_000, lot)).collect();
        assert_eq!((all.iter().min(), all.iter().max()), (Some(&900), Some(&1_100)));
        assert_eq!([0, 1, 7, u64::MAX].map(|lot| spread(1, lot)), [1; 4], "too short to be spread");
    }
}
