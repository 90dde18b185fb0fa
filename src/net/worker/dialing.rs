//! A client from its arrival to its channel.
//!
//! Knows: the poller's watches, what the dial returns. Never: which channel, whose fault.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{Connection, Rare, STARVED_MS, Silence, Stage, Waiting, Worker, millis, tenths};
use crate::net::dial::races::Beside;
use crate::net::dial::{Attempt, Begun, Dial, Next, Succeeded, Terms, Waited};
use crate::net::planted::{self, Bug};
use crate::net::service::{Service, ServiceId};
use crate::net::shared::{Guest, key_of};
use crate::observe::{AttemptError, Event};
use crate::sched::{AdminState, ChannelKey, DialCause, End, Grant, Loss, OwnFault, Peers, Ticket, Turn};
use crate::spec::{ClientSource, ProxyVersion};
use crate::sys::descriptors::Taken;
use crate::sys::poller::{Readiness, Token};
use crate::sys::socket;
use crate::wire::proxy::encode::{self, Extras};
use crate::wire::relay::{Ending, Ready, Relay, Side};

/// A client moves on at most this many times from a channel that closed its connection at once.
const MOST_MOVES: usize = 8;

impl<P: Readiness> Worker<P> {
    /// Takes a client in; its load is already counted.
    pub(super) fn admit(&mut self, service: Guest, client: OwnedFd, address: ClientSource, taken: Taken) {
        if self.shared.ends.load(Ordering::Relaxed) {
            // It was handed over when all others had already been closed.
            return socket::reset_on_close(&client);
        }
        let is_debug = service.log.is_debug();
        let trace = self.trace_of(address.into(), service.came_to());
        let connection = Connection {
            client,
            stage: Stage::Greeted,
            relay: Relay::new(),
            generations: [self.next_watch(), 0],
            delivered: [0; 2],
            id: self.next_id(),
            accepted_at: millis(self.shared.clock.now()),
            moved_at: self.now,
            connected_at: 0,
            half_closed_at: 0,
            asked_often: false,
            silence: Silence::Unknown,
            deadline: None,
            rare: (is_debug || trace.is_some())
                .then(|| Box::new(Rare { address: is_debug.then_some(address), trace, ..Rare::default() })),
            muted: [false; 2],
            queued: false,
            taken,
            service,
            peer: address.into(),
        };
        let key = self.connections.insert(connection);
        self.guarded(key, |worker| worker.admitted(key, address));
    }

    fn admitted(&mut self, key: usize, client: ClientSource) {
        let Some(connection) = self.connections.get(key) else { return };
        match self.poller.add(&connection.client, connection.token(key, Side::Client)) {
            Ok(()) => self.greet(key, client),
            Err(e) => self.unwatched(key, &e),
        }
    }

    /// Everything that the choice of the client's channel depends on is known.
    pub(super) fn greeted(&mut self, key: usize, seen: ClientSource) {
        let tag = self.tag(key);
        let Some(within) = self.within(key) else { return self.not_served(key) };
        let Some(connection) = self.connections.get(key) else { return };
        let peers = connection.peers(seen);
        let stage = match Dial::begin(
            peers,
            connection.service.came_to(),
            within,
            tag,
            connection.past(),
            &connection.service.dialer,
        ) {
            Begun::Dial(dial) => Stage::Dialing(dial),
            Begun::Line(ticket) => {
                let place = self.place(&connection.service, ticket, None);
                Stage::Waiting(Box::new(Waiting { place, peers }))
            }
            Begun::Over(why) => return self.turn_away(key, why),
        };
        if let Some(connection) = self.connections.get_mut(key) {
            connection.stage = stage;
        }
        self.search(key);
        // An end that came earlier is not reported again.
        self.leave_if_silent(key);
    }

    /// Continues with a client that has no channel yet.
    pub(super) fn search(&mut self, key: usize) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        match &connection.stage {
            Stage::Dialing(_) => self.dial(key),
            Stage::Waiting(_) => self.wait_in_line(key),
            Stage::Greeting(_) | Stage::Greeted | Stage::Relaying { .. } | Stage::Over => {}
        }
    }

    /// What a waiting client waits for, and until when. If it waits for the same as `before`, it keeps the
    /// rest of its time.
    pub(super) fn place(&self, service: &Service, ticket: Ticket, before: Option<Waited>) -> Waited {
        let in_pause = service.dialer.table.lock().waits_for_pause(ticket);
        if let Some(before) = before.filter(|before| before.in_pause == in_pause) {
            return Waited { ticket, ..before };
        }
        let since = before.map_or(self.now, |before| before.since);
        let options = service.options();
        let patience = if in_pause { options.pause_timeout } else { options.queue_timeout };
        Waited { ticket, since, until: self.now.saturating_add(millis(patience).max(1)), in_pause }
    }

    pub(super) fn wait_in_line(&mut self, key: usize) {
        let Some(connection) = self.connections.get(key) else { return };
        let Stage::Waiting(waiting) = &connection.stage else { return };
        let service = Arc::clone(&connection.service);
        self.set_deadline(key, Some(waiting.place.until));
        // A slot may have become free while the client joined the queue, and the thread that gave it back may
        // not have seen it there.
        self.shared.serve_line(&service);
    }

    /// Channels were paused or resumed: waiting clients may now wait for something else.
    pub(super) fn pauses_changed(&mut self, service: ServiceId) {
        let waits = |connection: &Connection| {
            connection.service.id == service && matches!(connection.stage, Stage::Waiting(_))
        };
        for key in self.keys(waits) {
            self.guarded(key, |worker| worker.wait_anew(key));
        }
    }

    /// Updates what a waiting client waits for.
    pub(super) fn wait_anew(&mut self, key: usize) {
        let Some(connection) = self.connections.get(key) else { return };
        let Stage::Waiting(waiting) = &connection.stage else { return };
        let (service, before) = (Arc::clone(&connection.service), waiting.place);
        let place = self.place(&service, before.ticket, Some(before));
        if place.in_pause == before.in_pause {
            return;
        }
        if !place.in_pause {
            let mut grants = Vec::new();
            let ticket = place.ticket;
            let turn = service.dialer.table.lock_at(self.shared.clock.now()).ask_again(ticket, &mut grants);
            service.dialer.deliver.all(grants);
            match turn {
                Some(Turn::Later(_)) => {}
                Some(Turn::Now(route, lease)) => {
                    let tag = self.tag(key);
                    return self.granted(service.id, Grant { ticket, tag, route, lease });
                }
                Some(Turn::Never(why)) => return self.turn_away(key, why),
                // Its turn has come.
                None => return,
            }
        }
        if let Some(Stage::Waiting(waiting)) = self.connections.get_mut(key).map(|one| &mut one.stage) {
            waiting.place = place;
        }
        self.set_deadline(key, Some(place.until));
    }

    /// A slot for a waiting client. If the client is gone, the slot goes to the next one.
    pub(super) fn granted(&mut self, service: ServiceId, grant: Grant) {
        let key = key_of(grant.tag);
        if self.is_in_line(key, service, grant.ticket) {
            // A panic loses the client, and its slot goes to the next one.
            return self.guarded(key, |worker| worker.go_with(key, grant));
        }
        drop(grant);
        self.serve_line_of(service);
    }

    /// A grant was lost by a panic: its client is no longer in the queue and would wait for ever, so it is
    /// closed.
    pub(super) fn grant_was_lost(&mut self, service: ServiceId, tag: u64, ticket: Ticket) {
        let key = key_of(tag);
        if self.is_in_line(key, service, ticket) {
            self.close(key, Ending { reset_client: true, reset_server: true }, End::Ours(OwnFault::Panic));
        }
        self.serve_line_of(service);
    }

    fn is_in_line(&self, key: usize, service: ServiceId, ticket: Ticket) -> bool {
        self.connections.get(key).is_some_and(|connection| match &connection.stage {
            Stage::Waiting(waiting) => connection.service.id == service && waiting.place.ticket == ticket,
            _ => false,
        })
    }

    fn serve_line_of(&self, service: ServiceId) {
        if let Some(service) = self.shared.service(service) {
            self.shared.serve_line(&service);
        }
    }

    /// A waiting client has got a slot.
    fn go_with(&mut self, key: usize, Grant { route, lease, .. }: Grant) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        let Stage::Waiting(waiting) = &connection.stage else { return };
        let waited = waiting.place.so_far(self.now);
        connection.service.dialer.table.waited(self.id, waited);
        // The channel's connections may have been closed before the grant arrived.
        let channel = lease.key();
        let state = connection.service.dialer.table.lock().state(channel);
        let dial = Dial::new(waiting.peers, connection.service.came_to(), route, lease, Some(waiting.place));
        connection.stage = Stage::Dialing(Box::new(dial));
        if let Some(trace) = connection.trace() {
            trace.queued = Some(waited);
        }
        match state {
            Some(AdminState::DisabledHard) => self.dial_moves_on(key, channel),
            _ => self.dial(key),
        }
    }

    pub(super) fn dial(&mut self, key: usize) {
        let tag = self.tag(key);
        let watch = self.next_watch();
        let Some(connection) = self.connections.get_mut(key) else { return };
        connection.generations[Side::Server as usize] = watch;
        let token = connection.token(key, Side::Server);
        let Stage::Dialing(dial) = &mut connection.stage else { return };
        let service = &connection.service;
        let options = service.options();
        let patience = millis(options.connect_timeout).max(1);
        let race = options.race.map(|race| millis(race).max(1));
        let terms = Terms { tag, now: self.now, patience, watch };
        let poller = &mut self.poller;
        let trace = connection.rare.as_mut().and_then(|rare| rare.trace.as_deref_mut());
        let attempt = dial.attempt(&terms, &service.dialer, trace, |server| poller.add(server, token));
        let wait = match attempt {
            Attempt::Started(wait) => wait,
            Attempt::Wait => STARVED_MS,
            Attempt::Line(ticket) => return self.line_up(key, ticket),
            Attempt::Over(why) => return self.turn_away(key, why),
            Attempt::Others => return self.go_on_with_others(key),
            Attempt::Anew => return self.keep_back(key),
        };
        dial.set_deadline(self.now.saturating_add(wait));
        dial.race_at = race.filter(|_| dial.may_race()).map(|race| self.now.saturating_add(race));
        self.rearm_dial(key);
    }

    /// Sets the deadline to the first of the dial's times.
    fn rearm_dial(&mut self, key: usize) {
        if let Some(Connection { stage: Stage::Dialing(dial), .. }) = self.connections.get(key) {
            let at = dial.next_deadline();
            self.set_deadline(key, at);
        }
    }

    /// A time of a dial has come.
    pub(super) fn dial_expired(&mut self, key: usize) {
        // Not all events after this time have been seen.
        let heard = self.heard;
        let Some(connection) = self.connections.get_mut(key) else { return };
        let Stage::Dialing(dial) = &mut connection.stage else { return };
        if let Some(watch) = dial.turn_to_overdue(heard) {
            connection.generations[Side::Server as usize] = watch;
            self.dial_failed(key, &io::Error::from(io::ErrorKind::TimedOut));
        } else if dial.server().is_none() {
            self.dial(key);
        } else if dial.race_at.is_some_and(|at| at <= heard) {
            self.try_beside(key);
        } else {
            self.rearm_dial(key);
        }
    }

    /// The last attempt failed and others are running: one more is started at once.
    fn go_on_with_others(&mut self, key: usize) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        let Stage::Dialing(dial) = &connection.stage else { return };
        connection.generations[Side::Server as usize] = dial.watch().unwrap_or_default();
        self.try_beside(key);
    }

    /// No channel has answered in time: tries one more beside those being tried.
    fn try_beside(&mut self, key: usize) {
        let (tag, watch, now) = (self.tag(key), self.next_watch(), self.now);
        let extra = self.shared.budget.take(1);
        let Some(connection) = self.connections.get_mut(key) else { return };
        let options = connection.service.options();
        let token = Token { generation: watch, ..connection.token(key, Side::Server) };
        let Stage::Dialing(dial) = &mut connection.stage else { return };
        let patience = millis(options.connect_timeout).max(1);
        let race = options.race.filter(|_| dial.may_race()).map(|race| millis(race).max(1));
        let terms = Terms { tag, now, patience, watch };
        let begun = match (race, extra) {
            (None, _) => Beside::Nobody,
            (Some(_), None) => Beside::NotNow,
            (Some(_), Some(extra)) => {
                let poller = &mut self.poller;
                let trace = connection.rare.as_mut().and_then(|rare| rare.trace.as_deref_mut());
                dial.begin_beside(&terms, extra, &connection.service.dialer, trace, |server| {
                    poller.add(server, token)
                })
            }
        };
        if begun == Beside::Started {
            connection.generations[Side::Server as usize] = watch;
        }
        dial.race_at = race.filter(|_| begun != Beside::Nobody).map(|race| now.saturating_add(race));
        self.rearm_dial(key);
    }

    /// Continues after the channel being tried has failed.
    fn go_on(&mut self, key: usize, next: Next) {
        match next {
            Next::Dial => self.dial(key),
            Next::Line(ticket) => self.line_up(key, ticket),
            Next::Over(why) => self.turn_away(key, why),
            Next::Others => self.go_on_with_others(key),
            Next::Anew => self.keep_back(key),
        }
    }

    /// Nothing can be dialled now, but the client has a place in the wait queue.
    fn line_up(&mut self, key: usize, ticket: Ticket) {
        let Some(connection) = self.connections.get(key) else { return };
        let Stage::Dialing(dial) = &connection.stage else { return };
        let place = self.place(&connection.service, ticket, dial.waited);
        let waiting = Waiting { place, peers: dial.peers };
        if let Some(connection) = self.connections.get_mut(key) {
            connection.stage = Stage::Waiting(Box::new(waiting));
        }
        // An end that came during the dial is not reported again.
        self.leave_if_silent(key);
        self.wait_in_line(key);
    }

    /// A socket that cannot be watched cannot be served: kernel memory or the system's limit of watches is
    /// used up.
    pub(super) fn unwatched(&mut self, key: usize, error: &io::Error) {
        self.shared.log.tell(&Event::AcceptFailed { cause: format!("cannot watch a socket: {error}") });
        self.close(key, Ending { reset_client: true, reset_server: true }, End::Ours(OwnFault::Watch));
    }

    /// There is no channel for a client.
    pub(super) fn turn_away(&mut self, key: usize, why: Loss) {
        self.close(key, Ending { reset_client: false, reset_server: false }, End::Lost(why));
    }

    /// A channel tried beside the current one has answered.
    pub(super) fn other_dialed(&mut self, key: usize, watch: u16, ready: Ready) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        let Stage::Dialing(dial) = &mut connection.stage else { return };
        dial.turn_to(watch);
        connection.generations[Side::Server as usize] = watch;
        self.dialed(key, ready);
    }

    /// The channel has answered, in one way or another.
    pub(super) fn dialed(&mut self, key: usize, ready: Ready) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        let Stage::Dialing(dial) = &mut connection.stage else { return };
        let Some(server) = dial.server() else { return };
        // Only the kernel knows whether the connection is established; an event only says that it is worth
        // asking.
        if !socket::is_connected(server) && !planted::has(Bug::BelievesNews) {
            if let Some(error) = socket::take_error(server) {
                self.dial_failed(key, &error);
            }
        } else if dial.is_asking() {
            self.go_on_asking(key, ready);
        } else if ready.writable {
            let asks_for_tls = connection.rare.as_ref().is_some_and(|rare| rare.asks_for_tls);
            match dial.doubt(&connection.service.dialer) {
                Some(error) => self.dial_failed(key, &error),
                None if asks_for_tls => self.ask_for_tls(key, ready),
                None => self.connected(key, ready),
            }
        }
    }

    pub(super) fn connected(&mut self, key: usize, ready: Ready) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        if !matches!(connection.stage, Stage::Dialing(_)) {
            return;
        }
        let id = connection.id;
        // A panic below loses only this connection: its slot and its sockets go with the dial.
        let Stage::Dialing(dial) = std::mem::replace(&mut connection.stage, Stage::Over) else { return };
        let client = dial.peers;
        let target = dial.target();
        let was_asked = dial.is_asking();
        let service = Arc::clone(&connection.service);
        let trace = connection.trace();
        let succeeded = dial.succeeded(&service.dialer, trace);
        let Some(Succeeded { server, lease, link, took }) = succeeded else {
            // Without its dial it would stay for ever.
            return self.close(
                key,
                Ending { reset_client: true, reset_server: true },
                End::Ours(OwnFault::Call),
            );
        };
        let expires_at = self.lifetime(&service, id, self.now);
        if service.log.is_debug()
            && let Some(address) = target
        {
            service.log.tell(&Event::Opened { client, channel: lease.key(), address });
        }
        let version = lease.proxy().filter(|_| !was_asked);
        let header = version.map(|version| self.header(version, key, client));
        let is_led = header.is_some() || was_asked;
        let Some(connection) = self.connections.get_mut(key) else { return };
        connection.relay.lead(header.unwrap_or_default());
        connection.stage = Stage::Relaying { server, slot: lease.into_slot() };
        if link.is_some() {
            connection.rare().link = link;
        }
        if let Some(trace) = connection.trace() {
            trace.connected(target, took);
        }
        (connection.moved_at, connection.connected_at) = (self.now, tenths(self.now));
        connection.silence = Silence::Unknown;
        connection.set_expires_at(expires_at);
        connection.relay.ask_about_end();
        connection.relay.note(Side::Server, ready);
        if (ready.read_closed || ready.error) && self.leave_server(key, ready.error) {
            return;
        }
        self.rearm(key);
        self.log_start(key);
        self.turn(key);
        // The header has already told the server.
        if !is_led {
            self.announce(key);
        }
    }

    /// The PROXY header to send in front of the client's bytes.
    pub(super) fn header(&self, version: ProxyVersion, key: usize, peers: Peers) -> Vec<u8> {
        let Some(connection) = self.connections.get(key) else { return Vec::new() };
        let tlvs = connection.service.options().proxy_tlvs;
        let name = tlvs.unique_id.then(|| format!("{:016x}-{}", self.shared.options.seed, connection.id));
        let extras = Extras {
            passed: connection.said().map_or(&[][..], |said| &said.tlvs),
            unique_id: name.as_ref().map(String::as_bytes),
            crc32c: tlvs.crc32c,
        };
        let came_to = peers.claimed.map(|claim| claim.local).or_else(|| socket::local(&connection.client));
        encode::proxied(version, peers.client().net().zip(came_to), extras)
    }

    /// The server closed the connection before anything went over it: moves the client to another channel
    /// that is up. `false`: there is none, or the client has to be told.
    pub(super) fn leave_server(&mut self, key: usize, is_reset: bool) -> bool {
        let Some(connection) = self.connections.get(key) else { return false };
        let Stage::Relaying { server, slot } = &connection.stage else { return false };
        let is_untouched = connection.delivered == [0; 2] && connection.relay.is_fresh();
        if !is_untouched || !self.is_early(connection) || socket::unread(server) > 0 {
            return false;
        }
        let left = slot.key();
        let past = connection.past();
        if past.len() >= MOST_MOVES {
            return false;
        }
        // While it waits for another channel, its bytes are kept, and there may be no room for that.
        let is_counted = connection.rare.as_ref().is_some_and(|rare| rare.held.is_some());
        let (client, held) = (connection.client_source(), connection.relay.held_from(Side::Client));
        if !is_counted && !connection.service.kept_greetings.has_room(client, held) {
            return false;
        }
        let past = [past, &[left]].concat();
        let peers = connection.peers(connection.peer.into());
        let Some(within) = self.within(key) else { return false };
        let tag = self.tag(key);
        let next = connection.service.dialer.next_past(
            peers,
            connection.service.came_to(),
            within,
            tag,
            &past,
            is_reset,
        );
        let stage = match next {
            Some(Begun::Dial(dial)) => Stage::Dialing(dial),
            Some(Begun::Line(ticket)) => {
                let place = self.place(&connection.service, ticket, None);
                Stage::Waiting(Box::new(Waiting { place, peers }))
            }
            Some(Begun::Over(_)) | None => return false,
        };
        self.judge(key, if is_reset { End::ChannelReset } else { End::ChannelClosed });
        if connection.service.log.is_debug() {
            connection.service.log.tell(&Event::MovedOn { client: peers, channel: left });
        }
        if let Some(taps) = self.taps.of(key, connection.id) {
            taps.iter_mut().for_each(|tap| tap.moved_on(left));
        }
        let Some(connection) = self.connections.get_mut(key) else { return true };
        connection.relay.change_server();
        connection.count_held();
        connection.muted[Side::Server as usize] = false;
        let rare = connection.rare();
        (rare.past, rare.link) = (past, None);
        if let Some(trace) = &mut rare.trace {
            trace.left(left, AttemptError::Known(DialCause::ClosedAtOnce));
        }
        let service = Arc::clone(&connection.service);
        // The server's socket and the slot go with the old stage.
        connection.stage = stage;
        // A client in line may use the slot, though this one may not.
        self.shared.serve_line(&service);
        self.search(key);
        // An end that came earlier is not reported again.
        self.leave_if_silent(key);
        true
    }

    /// A server that has got no data by now may be one that speaks first, so its kernel has to learn that the
    /// connection is established.
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
        let Stage::Dialing(dial) = &mut connection.stage else { return };
        let trace = connection.rare.as_mut().and_then(|rare| rare.trace.as_deref_mut());
        let next = dial.failed(error, tag, &connection.service.dialer, trace);
        self.go_on(key, next);
    }

    /// An operator closed this channel's connections, or it went down, while a client is being connected to
    /// it: moves on to the next one.
    pub(super) fn dial_moves_on(&mut self, key: usize, channel: ChannelKey) {
        let tag = self.tag(key);
        let Some(connection) = self.connections.get_mut(key) else { return };
        let Stage::Dialing(dial) = &mut connection.stage else { return };
        if let Some(watch) = dial.turn_to_channel(channel) {
            connection.generations[Side::Server as usize] = watch;
        }
        let next = dial.move_on(tag, &connection.service.dialer);
        self.go_on(key, next);
    }
}
