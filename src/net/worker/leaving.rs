//! A worker's clients that go to another process, and those that come from one or come back.
//!
//! Knows: what has to be kept of a client for the process that has it next, how a client is continued. Never:
//! which process that is, how it gets there.
//!
//! A poller's watch lasts as long as any process has the socket open. So a client that leaves is no longer
//! watched: otherwise this worker would get its events, and nobody could tell what they are for.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::unheard::{SaidByProxy, Unheard};
use super::{Connection, NEVER, RESET, Rare, Silence, Stage, Waiting, Worker, logging, millis, tenths};
use crate::handover::connection::{
    ConnectionRecord, RelayingRecord, StageRecord, UnheardRecord, WaitingRecord,
};
use crate::net::dial::{Dial, Waited};
use crate::net::planted::{self, Bug};
use crate::net::shared::{Left, LinePlace, PackOrder, Parcel, TRAY_BYTES, Unpacked, Who};
use crate::net::sockets::Sockets;
use crate::observe::TapEnd;
use crate::sched::{ChannelKey, End, Peers, Route, Turn};
use crate::spec::ClientSource;
use crate::sys::poller::Readiness;
use crate::sys::socket;
use crate::wire::greeting::{TlsRequest, Wants};
use crate::wire::relay::{Relay, Side};

/// The stage at which a client is continued.
enum Begin {
    Greeting,
    Unheard,
    Waiting(WaitingRecord),
    Relaying,
}

impl<P: Readiness> Worker<P> {
    /// Clients are accepted again, and no client leaves any more.
    pub(super) fn release_doors(&mut self) {
        for door in self.doors.release() {
            self.resume(door);
        }
        self.take_back();
        for key in self.keys(|connection| matches!(connection.stage, Stage::Greeted)) {
            self.guarded(key, |worker| worker.greet_again(key));
        }
    }

    /// Continues clients that it put on the tray and that nobody has taken.
    pub(super) fn take_back(&mut self) {
        let id = self.id;
        let back: Vec<Parcel> =
            self.shared.tray().extract_if(.., |parcel| parcel.guest.desk() == Some(id)).collect();
        self.receive(back.into_iter().map(Unpacked::new).collect());
    }

    /// Serves a client without a channel as a new one.
    pub(super) fn greet_again(&mut self, key: usize) {
        match self.connections.get(key).map(|connection| socket::client(&connection.client)) {
            Some(Some(seen)) => self.greeted(key, seen),
            Some(None) => self.close(key, RESET, End::ClientReset),
            None => {}
        }
    }

    /// A dial has failed and its client leaves: the process that gets it next finds it a channel.
    pub(super) fn keep_back(&mut self, key: usize) {
        self.set_deadline(key, None);
        if let Some(connection) = self.connections.get_mut(key) {
            connection.stage = Stage::Greeted;
        }
        // It stays after all.
        if !self.shared.leaving.load(Ordering::SeqCst) {
            self.greet_again(key);
        }
    }

    /// The places of waiting clients.
    pub(super) fn who_waits(&self) -> Vec<LinePlace> {
        let place = |connection: &Connection| match &connection.stage {
            Stage::Waiting(waiting) => Some((connection.service.id, waiting.place.ticket.number())),
            _ => None,
        };
        self.connections.iter().filter_map(|(_, connection)| place(connection)).collect()
    }

    /// The number of clients by stage.
    pub(super) fn count(&self) -> Left {
        let is_dialing = |connection: &Connection| matches!(connection.stage, Stage::Dialing(_));
        let dialing = self.connections.iter().filter(|(_, connection)| is_dialing(connection)).count();
        Left { dialing, others: self.connections.len() - dialing }
    }

    /// Puts clients on the tray.
    pub(super) fn pack(&mut self, wanted: &PackOrder) {
        if !self.shared.leaving.load(Ordering::SeqCst) {
            // The caller has given up.
            return;
        }
        let is_wanted = |connection: &Connection| {
            let service = connection.service.id;
            wanted.of.as_ref().is_none_or(|of| of.contains(&service))
                && match (&connection.stage, &wanted.who) {
                    (Stage::Greeting(_) | Stage::Greeted, Who::Greeting)
                    | (Stage::Relaying { .. }, Who::Relaying) => true,
                    (Stage::Waiting(waiting), Who::InLine(places)) => {
                        places.contains(&(service, waiting.place.ticket.number()))
                    }
                    _ => false,
                }
        };
        let all = self.connections.iter().filter(|(_, connection)| is_wanted(connection));
        let keys: Vec<usize> = all.map(|(key, _)| key).take(wanted.most).collect();
        // Once a client belongs to nobody, nothing may go wrong.
        let time = self.shared.clock.now();
        let mut left = wanted.bytes;
        for key in keys {
            let Some(connection) = self.connections.get(key) else { continue };
            let held = match &connection.stage {
                Stage::Greeting(unheard) => unheard.reader.bytes().len(),
                _ => connection.relay.held_bytes(),
            };
            let held = held + connection.said().map_or(0, |said| said.tlvs.len());
            if left.is_some_and(|left| held > left) {
                return;
            }
            left = Some(left.map_or(TRAY_BYTES, |left| left - held));
            self.guarded(key, |worker| {
                if let Some(parcel) = worker.let_go(key, time) {
                    worker.shared.tray().push(parcel);
                }
            });
        }
    }

    /// Gives up one client. `None`: it stays.
    fn let_go(&mut self, key: usize, time: Duration) -> Option<Parcel> {
        let now = self.now;
        let since = |at: u64| Duration::from_millis(now.saturating_sub(at));
        let age = self.age(self.connections.get(key)?);
        let connection = self.connections.get_mut(key)?;
        let peer = socket::client(&connection.client);
        let known = peer.or(connection.address());
        let bytes;
        let mut asks_for_tls = connection.rare.as_ref().is_some_and(|rare| rare.asks_for_tls);
        let (stage, client) = match &mut connection.stage {
            Stage::Dialing(_) | Stage::Over => return None,
            Stage::Greeting(_) | Stage::Greeted if peer.is_none() => {
                self.close(key, RESET, End::ClientReset);
                return None;
            }
            Stage::Greeting(unheard) => {
                bytes = unheard.reader.bytes().to_vec();
                let left = Duration::from_millis(unheard.until.saturating_sub(now));
                let Wants { header, hello, tls } = unheard.reader.wants();
                asks_for_tls = tls == TlsRequest::Granted;
                let may_ask = tls == TlsRequest::Awaited;
                let record = UnheardRecord { left, header, hello, may_ask };
                (StageRecord::Unheard(record), peer.unwrap_or(ClientSource::UNKNOWN))
            }
            Stage::Greeted => {
                bytes = connection.relay.let_go(Side::Client).into_vec();
                (StageRecord::Greeting, peer.unwrap_or(ClientSource::UNKNOWN))
            }
            Stage::Waiting(waiting) => {
                let place = waiting.place;
                if !connection.service.dialer.table.lock().leave_line(place.ticket) {
                    // Its turn has come.
                    return None;
                }
                let left = Duration::from_millis(place.until.saturating_sub(now));
                let ticket = place.ticket.number();
                bytes = connection.relay.let_go(Side::Client).into_vec();
                (
                    StageRecord::Waiting(WaitingRecord {
                        ticket,
                        left,
                        in_pause: place.in_pause,
                        waited: place.so_far(now),
                    }),
                    waiting.peers.seen,
                )
            }
            Stage::Relaying { server, slot } => {
                let mut sockets = Sockets {
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
                };
                // If there is no memory, it stays for now, and nothing is lost.
                let (relay, held) = connection.relay.pack(&mut sockets).ok()?;
                bytes = held;
                let (group, channel) = (slot.key().group.index(), slot.key().channel.index());
                let record = RelayingRecord { group, channel, relay };
                let client = known.unwrap_or(ClientSource::UNKNOWN);
                (StageRecord::Relaying(Box::new(record)), client)
            }
        };
        let record = ConnectionRecord {
            service: 0,
            id: connection.id,
            client,
            announced: connection.said().map(|said| Box::new(said.into())),
            held: if matches!(stage, StageRecord::Relaying(_)) { 0 } else { bytes.len() },
            stage,
            age,
            idle: since(connection.moved_at),
            half_closed: (connection.half_closed_at > 0)
                .then(|| since(u64::from(connection.half_closed_at) * 100)),
            expires_in: Some(connection.expires_at())
                .filter(|&at| at != NEVER)
                .map(|at| Duration::from_millis(at.saturating_sub(now))),
            delivered: connection.delivered,
            acknowledged: connection.rare.as_ref().map_or(0, |rare| rare.acknowledged),
            asked_often: connection.asked_often,
            asks_for_tls,
            past: connection.past().iter().map(|key| (key.group.index(), key.channel.index())).collect(),
            trace: connection.trace().map(|trace| Box::new(logging::told(trace))),
        };
        self.set_deadline(key, None);
        let connection = self.connections.try_remove(key)?;
        self.taps.end(key, TapEnd::Left);
        let Connection { client, stage, rare, taken, service: guest, .. } = connection;
        if !planted::has(Bug::StaysWatched) {
            self.poller.remove(&client);
        }
        let (server, slot) = match stage {
            Stage::Relaying { server, slot } => {
                self.poller.remove(&server);
                (Some(server), Some(slot))
            }
            _ => (None, None),
        };
        let link = rare.and_then(|rare| rare.link);
        Some(Parcel { record, bytes, client, server, slot, link, packed_at: Some(time), taken, guest })
    }

    /// Continues clients from another process or from the tray.
    pub(super) fn receive(&mut self, received: Vec<Unpacked>) {
        let time = self.shared.clock.now();
        for parcel in received.into_iter().filter_map(Unpacked::into_parcel) {
            let comes_from_elsewhere = parcel.packed_at.is_none();
            if let Some((key, begin, record)) = self.take_in(parcel, time) {
                self.guarded(key, |worker| match worker.fate(key).filter(|_| comes_from_elsewhere) {
                    Some(how) => worker.abandon(key, how),
                    None => worker.go_on_with(key, begin, &record),
                });
            }
        }
    }

    /// Was it closed while it was on its way?
    fn fate(&self, key: usize) -> Option<End> {
        let connection = self.connections.get(key)?;
        let channel = match &connection.stage {
            Stage::Relaying { slot, .. } => Some(slot.key()),
            _ => None,
        };
        connection.service.fate(connection.client_ip(), channel)
    }

    fn take_in(&mut self, parcel: Parcel, time: Duration) -> Option<(usize, Begin, ConnectionRecord)> {
        let Parcel { record, bytes, client, server, slot, link, packed_at, taken, guest } = parcel;
        // That it was away is nobody's fault, but its age counts.
        let away = packed_at.map_or(Duration::ZERO, |at| time.saturating_sub(at));
        let now = self.now;
        let ago = |age: Duration| now.saturating_sub(millis(age));
        let relay = match &record.stage {
            StageRecord::Relaying(relaying) => Relay::unpack(&relaying.relay, &bytes),
            StageRecord::Unheard(_) => Ok(Relay::new()),
            StageRecord::Greeting | StageRecord::Waiting(_) => {
                let mut relay = Relay::new();
                relay.hold(Side::Client, bytes.as_slice().into());
                Ok(relay)
            }
        };
        let announced: Option<Box<SaidByProxy>> =
            record.announced.as_deref().map(|said| Box::new(said.into()));
        let claimed = announced.as_ref().and_then(|said| said.claim);
        let peers = Peers { seen: record.client, claimed };
        let (begin, stage, relay) = match (&record.stage, server, slot, relay) {
            (StageRecord::Relaying(_), Some(server), Some(slot), Ok(relay))
                if !self.shared.ends.load(Ordering::Relaxed) =>
            {
                (Begin::Relaying, Stage::Relaying { server, slot }, relay)
            }
            (StageRecord::Waiting(waiting), None, None, Ok(relay)) => {
                (Begin::Waiting(*waiting), Stage::Greeted, relay)
            }
            (StageRecord::Greeting, None, None, Ok(relay)) => (Begin::Greeting, Stage::Greeted, relay),
            (StageRecord::Unheard(unheard), None, None, Ok(relay)) => {
                let until = self.now.saturating_add(millis(unheard.left).max(1));
                let tls = match (record.asks_for_tls, unheard.may_ask) {
                    (true, _) => TlsRequest::Granted,
                    (false, true) => TlsRequest::Awaited,
                    (false, false) => TlsRequest::Never,
                };
                let wants = Wants { header: unheard.header, hello: unheard.hello, tls };
                let unheard = Unheard::new(&guest, peers.client(), wants, until, bytes);
                (Begin::Unheard, Stage::Greeting(Box::new(unheard)), relay)
            }
            // The record was checked before; or the process ends.
            (_, server, ..) => {
                socket::reset_on_close(&client);
                server.iter().for_each(socket::reset_on_close);
                return None;
            }
        };
        let expires_at = record
            .expires_in
            .map_or(NEVER, |left| self.now.saturating_add(millis(left.saturating_sub(away))));
        let is_known = guest.log.is_debug() && !record.client.is_unknown();
        let rare = Rare {
            address: is_known.then_some(record.client),
            announced,
            link,
            expires_at,
            acknowledged: record.acknowledged,
            unread: false,
            undumped: false,
            trace: self.trace_again((peers, guest.came_to()), record.age + away, record.trace.as_deref()),
            asks_for_tls: record.asks_for_tls,
            past: record
                .past
                .iter()
                .filter_map(|&(group, channel)| ChannelKey::new(group, channel))
                .collect(),
            header: None,
            held: None,
        };
        let is_rare = rare.trace.is_some()
            || rare.address.is_some()
            || rare.announced.is_some()
            || rare.link.is_some()
            || rare.asks_for_tls
            || !rare.past.is_empty()
            || expires_at != NEVER
            || rare.acknowledged > 0;
        let mut connection = Connection {
            client,
            stage,
            relay,
            generations: [self.next_watch(), self.next_watch()],
            delivered: record.delivered,
            id: record.id,
            accepted_at: millis(self.shared.clock.now()).saturating_sub(millis(record.age + away)),
            moved_at: ago(record.idle),
            // Unknown here: only the previous process could see whether it was closed at once.
            connected_at: 0,
            deadline: None,
            rare: is_rare.then(|| Box::new(rare)),
            half_closed_at: record.half_closed.map_or(0, |age| tenths(ago(age + away))),
            asked_often: record.asked_often,
            silence: Silence::Unknown,
            muted: [false; 2],
            queued: false,
            taken,
            service: guest,
            peer: record.client.into(),
        };
        connection.count_header();
        match connection.stage {
            Stage::Greeted => connection.count_held(),
            // It stays with its channel.
            Stage::Relaying { .. } => connection.got_through(),
            Stage::Greeting(_) | Stage::Waiting(_) | Stage::Dialing(_) | Stage::Over => {}
        }
        Some((self.connections.insert(connection), begin, record))
    }

    /// Continues a client that was served by another process.
    fn go_on_with(&mut self, key: usize, begin: Begin, record: &ConnectionRecord) {
        for side in [Side::Client, Side::Server] {
            let Some(connection) = self.connections.get(key) else { return };
            let Some(fd) = connection.fd(side) else { continue };
            if let Err(e) = self.poller.add(fd, connection.token(key, side)) {
                return self.unwatched(key, &e);
            }
        }
        match begin {
            Begin::Relaying => {
                self.rearm(key);
                // What it holds goes out without any event.
                if let Some(connection) = self.connections.get_mut(key) {
                    connection.queued = true;
                    self.queue.push_back(key);
                }
            }
            Begin::Waiting(waiting) => self.get_back_in_line(key, waiting, record),
            Begin::Unheard => {
                if let Some(Stage::Greeting(unheard)) = self.connections.get(key).map(|one| &one.stage) {
                    let until = unheard.until;
                    self.set_deadline(key, Some(until));
                }
            }
            Begin::Greeting if self.shared.leaving.load(Ordering::SeqCst) => {}
            Begin::Greeting => self.greeted(key, record.client),
        }
    }

    /// Gives a client that waited in another process its place here.
    fn get_back_in_line(&mut self, key: usize, waiting: WaitingRecord, record: &ConnectionRecord) {
        let tag = self.tag(key);
        let Some(connection) = self.connections.get(key) else { return };
        let service = Arc::clone(&connection.service);
        let peers = connection.peers(record.client);
        let Some(within) = self.within(key) else { return self.not_served(key) };
        let mut grants = Vec::new();
        let turn = {
            let mut table = service.dialer.table.lock_at(self.shared.clock.now());
            let route = Route::past(peers.client().key().into(), within, connection.past());
            table.rejoin(route, tag, waiting.ticket, &mut grants)
        };
        service.dialer.deliver.all(grants);
        match turn {
            Turn::Now(route, lease) => {
                let dial = Dial::new(peers, connection.service.came_to(), route, lease, None);
                if let Some(connection) = self.connections.get_mut(key) {
                    connection.stage = Stage::Dialing(Box::new(dial));
                }
                self.dial(key);
            }
            Turn::Later(ticket) => {
                let until = self.now.saturating_add(millis(waiting.left).max(1));
                let since = self.now.saturating_sub(millis(waiting.waited));
                let before = Waited { ticket, since, until, in_pause: waiting.in_pause };
                let place = self.place(&service, ticket, Some(before));
                if let Some(connection) = self.connections.get_mut(key) {
                    connection.stage = Stage::Waiting(Box::new(Waiting { place, peers }));
                }
                self.wait_in_line(key);
            }
            Turn::Never(why) => self.turn_away(key, why),
        }
    }
}
