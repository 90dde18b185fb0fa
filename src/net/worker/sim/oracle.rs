//! What must be true after each round and at the end.
//!
//! Knows: what workers promise. Never: how they keep it.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::super::Stage;
use super::peers::{Heard, asks, client_at};
use super::world::{Channel, Fate, Routing, World};
use crate::net::hearing;
use crate::net::shared::Desk;
use crate::observe::Event;
use crate::sched::{BadGreeting, ChannelKey, End, GroupId, Loss, OwnFault, Rule};
use crate::sys::poller::{Kind as Watched, Token};
use crate::wire::relay::Side;

/// Within this time whatever holds a socket that was closed lets go of it.
const SHORTLY: Duration = Duration::from_secs(10);

/// A broken promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// Bytes arrive that were not sent like that.
    Bytes,
    /// A clean end although bytes are missing.
    CleanEnd,
    /// A count is wrong.
    Counts,
    /// A deadline was acted on before all earlier events were seen.
    Cut,
    /// A client waits for something that is available.
    LostWakeUp,
    /// A message was not handled.
    Message,
    /// A connection ends without a reason.
    Needless,
    /// A panic loses more than the connection that it happened in.
    Panic,
    /// A client counts as connected where nobody listens.
    RefusingPort,
    /// A client is where it may not be.
    Place,
    /// Many rounds without any progress.
    Spin,
    /// It does not come to an end.
    Stuck,
    /// A connection ends twice.
    Twice,
    /// A socket is watched that no worker has any more.
    Watch,
}

#[derive(Debug, Clone)]
pub(super) struct Violation {
    pub(super) kind: Kind,
    pub(super) what: String,
}

impl World {
    /// Checks what a worker has logged in its round.
    pub(super) fn after_round(&mut self, seat: usize) {
        for event in self.log.take() {
            self.trace(|_| format!("  {event}"));
            match event {
                Event::Opened { client, channel, address } => {
                    self.stats.opened += 1;
                    let Some(id) = client_at(client.client().key()) else { continue };
                    let is_dead = self.services.iter().any(|served| {
                        let is_it = |it: &&Channel| it.address() == address;
                        served.channels.iter().find(is_it).is_some_and(|it| it.fate == Fate::Dead)
                    });
                    self.check_place(id, channel);
                    if is_dead {
                        self.violate(Kind::RefusingPort, || {
                            format!("client {id} is connected to {channel:?}")
                        });
                    }
                    if std::mem::replace(&mut self.clients[id as usize].was_opened, true) {
                        self.violate(Kind::Twice, || format!("client {id} is connected twice"));
                    }
                }
                Event::MovedOn { client, .. } => {
                    let Some(id) = client_at(client.client().key()) else { continue };
                    self.clients[id as usize].has_moved_on = true;
                    // A client that was connected can be connected again after that.
                    if !std::mem::take(&mut self.clients[id as usize].was_opened) {
                        self.violate(Kind::Twice, || format!("client {id} leaves what it had not"));
                    }
                }
                Event::Closed { client, how, .. } => {
                    self.stats.closed += 1;
                    if let Some(id) = client_at(client.client().key()) {
                        self.ended(seat, id as usize, how);
                    }
                }
                Event::ClientLost { client, reason } => {
                    self.stats.lost += 1;
                    if let Some(id) = client_at(client.client().key()) {
                        self.ended(seat, id as usize, reason);
                    }
                }
                Event::Ejected { address, cause, .. } | Event::ChannelFailed { address, cause, .. } => {
                    let is_living = self.services.iter().any(|served| {
                        served.channels.iter().any(|it| it.address() == address && it.fate == Fate::Living)
                    });
                    // An injected error is nobody's answer.
                    let is_ours = self.is_troubled && cause.contains(&Errno::IO.to_string());
                    if is_living && !is_ours {
                        self.violate(Kind::Cut, || format!("{address} has answered, and yet: {cause}"));
                    }
                }
                _ => {}
            }
        }
        let worker = &self.seats[seat].worker;
        let is_ours = |token: &Token| {
            let connection = worker.connections.get(token.key as usize);
            connection.is_some_and(|connection| {
                let is_other = match &connection.stage {
                    Stage::Dialing(dial) => token.side == Side::Server && dial.has_other(token.generation),
                    _ => false,
                };
                is_other || connection.token(token.key as usize, token.side) == *token
            })
        };
        let find = || {
            let watched = worker.poller.sockets().into_iter();
            watched.filter(|token| token.kind == Watched::Socket).find(|token| !is_ours(token))
        };
        let mut lost = find();
        // A child of another test has, between its fork and its exec, a copy of each socket. One that was closed
        // here is watched until then.
        let begun = Instant::now();
        while lost.is_some() && begun.elapsed() < SHORTLY {
            std::thread::sleep(Duration::from_millis(1));
            lost = find();
        }
        if let Some(lost) = lost {
            self.violate(Kind::Watch, || format!("worker {seat} hears of {lost:?}, which is nobody's"));
        }
        self.hear_answers(false);
        if self.awake().is_empty() {
            self.check_rest();
        }
    }

    /// Checks whether a client may be connected, and to this channel.
    fn check_place(&mut self, id: u32, channel: ChannelKey) {
        let client = &self.clients[id as usize];
        let served = &self.services[client.service];
        let is_late = self.can_be_given_up(id as usize);
        let is_right = match (served.routing, channel.group == GroupId::FIRST) {
            (Routing::None, _) => true,
            (Routing::Shared, true) | (Routing::Strict, _) => asks(id),
            (Routing::Shared, false) => !asks(id) || is_late,
        };
        if !is_right {
            self.violate(Kind::Place, || format!("client {id} is connected to {channel:?}"));
        } else if served.came_denied.contains(&id) {
            self.violate(Kind::Place, || format!("client {id} is denied and connected to {channel:?}"));
        }
    }

    /// May the worker have stopped waiting for what the client asks for?
    fn can_be_given_up(&self, id: usize) -> bool {
        let client = &self.clients[id];
        let patience = self.services[client.service].service.options().greeting_timeout;
        client.peer.is_shut || client.peer.fled || self.now - client.came_at >= patience.as_micros() as u64
    }

    /// Checks the end of a client's connection.
    fn ended(&mut self, seat: usize, id: usize, how: End) {
        let client = &self.clients[id];
        let host = client.server.map(|server| &self.hosts[server]);
        let sent = [client.peer.sent, host.map_or(0, |host| host.peer.sent)];
        let client_fled = client.peer.fled;
        let host_fled = host.is_none_or(|host| host.peer.fled);
        let is_steady = client.steady.is_some();
        let served = &self.services[client.service];
        let came_at = client.came_at;
        let options = served.service.options();
        let was_kicked = served.was_kicked;
        let has_left = client_fled || (client.peer.is_shut && client.peer.sent == 0);
        let is_always = |it: &&Channel| it.fate == Fate::Living && it.maxc.is_none() && !it.was_touched;
        let has_always = |group: Option<usize>| {
            let mut all = served.channels.iter().filter(is_always);
            all.any(|it| group.is_none_or(|group| it.key.group.index() == group))
        };
        let asks = asks(id as u32);
        let always_one = match served.routing {
            Routing::None => has_always(None),
            Routing::Shared => has_always(Some(1)) && (!asks || has_always(Some(0))),
            Routing::Strict => has_always(Some(0)),
        };
        let may_be_denied = served.ever_denied.contains(&(id as u32));
        let came: usize = self.clients.iter().filter(|other| other.service == client.service).count();
        let may_be_too_many = served.client_max.is_some_and(|max| came > max.get() as usize);
        let is_not_served = served.routing == Routing::Strict && (!asks || self.can_be_given_up(id));
        let has_moved_on = client.has_moved_on;
        let is_troubled = self.is_troubled;
        if self.clients[id].end.is_some() {
            return self.violate(Kind::Twice, || format!("client {id} ends twice: {how}"));
        }
        self.clients[id].end = Some(how);
        self.clients[id].at_end = Some(sent);
        let needless = match how {
            End::ClientClosed | End::ChannelClosed => false,
            End::ClientReset => !client_fled && !is_troubled,
            End::ChannelReset => !host_fled && !is_troubled,
            // Half-closed and idle too long has this name, whichever of the two timeouts it was.
            End::Idle | End::HalfClosed => options.idle_timeout.is_none(),
            End::Lifetime => true,
            End::Kicked | End::Closed | End::ChannelDown | End::Removed | End::AddressRemoved => !was_kicked,
            End::Refused(Rule::Denied) => !may_be_denied,
            End::Refused(Rule::ClientMax) => !may_be_too_many,
            End::Refused(Rule::ClientRate) => true,
            End::ShutDown => !self.was_shut_down,
            End::Ours(_) | End::Lost(Loss::Ours) => !is_troubled,
            // A client that has left the channel which always accepts does not come back to it.
            End::Lost(Loss::NoChannel(_) | Loss::QueueFull) => {
                always_one && !is_troubled && !was_kicked && !has_moved_on
            }
            End::Lost(Loss::Left) => !has_left && !is_troubled,
            End::Lost(Loss::QueueTimeout | Loss::PauseTimeout) => false,
            End::Lost(Loss::BadGreeting(BadGreeting::CutShort)) => !has_left && !is_troubled,
            End::Lost(Loss::NotServed) => !is_not_served,
            End::Lost(Loss::BadGreeting(_) | Loss::NoTls | Loss::GreetingsFull) => true,
            End::Lost(Loss::GreetingTimeout) => options.accept_proxy.is_none(),
        };
        if needless {
            self.violate(Kind::Needless, || format!("client {id}: {how}"));
        }
        if how == End::Ours(OwnFault::Panic) {
            self.stats.panicked += 1;
        }
        if how == End::Idle && is_steady {
            self.violate(Kind::Cut, || format!("client {id}, who has sent all the time, is idle"));
        }
        if how == End::Idle && self.is_winding_down {
            self.violate(Kind::LostWakeUp, || format!("client {id} could go on and was left idle"));
        }
        if let End::Lost(why @ (Loss::QueueTimeout | Loss::GreetingTimeout)) = how {
            let patience = match why {
                Loss::QueueTimeout => options.queue_timeout,
                _ => options.greeting_timeout,
            };
            match why {
                Loss::QueueTimeout => self.stats.queue_timeouts += 1,
                _ => self.stats.greeting_timeouts += 1,
            }
            let deadline = came_at + patience.as_micros() as u64;
            let untold = self.seats[seat].worker.poller.untold();
            if untold.iter().any(|news| news.since.max(news.from) < deadline) {
                self.violate(Kind::Cut, || {
                    format!("client {id} was given up ({why}), and there was news: {untold:?}")
                });
            }
        }
    }

    /// Checks the state when all workers sleep and every event has been reported.
    pub(super) fn check_rest(&mut self) {
        for at in 0..self.services.len() {
            let table = self.services[at].service.dialer.table.clone();
            if !table.is_anyone_waiting() {
                continue;
            }
            let grants = table.lock_at(Duration::from_micros(self.now)).grant();
            if !grants.is_empty() {
                let count = grants.len();
                drop(grants);
                self.violate(Kind::LostWakeUp, || {
                    format!("{count} in line of service {at} wait beside a slot")
                });
            }
        }
        self.check_held();
    }

    /// Checks that first bytes count as long as they are held for a channel, and no longer.
    fn check_held(&mut self) {
        let mut wrong = None;
        for seat in &self.seats {
            for (_, connection) in &seat.worker.connections {
                let held = connection.relay.held_from(Side::Client);
                let rare = connection.rare.as_deref();
                let are_counted = [
                    rare.is_some_and(|rare| rare.header.is_some()),
                    rare.is_some_and(|rare| rare.held.is_some()),
                ];
                let is_much = [connection.kept_of_header(), held].map(|bytes| bytes > hearing::SMALL);
                let have_to_be = match &connection.stage {
                    Stage::Greeted | Stage::Waiting(_) | Stage::Dialing(_) => is_much,
                    Stage::Greeting(_) => [is_much[0], false],
                    // What it has got is counted as before, until more has gone over its connection.
                    Stage::Relaying { .. } if connection.delivered == [0; 2] => are_counted,
                    Stage::Relaying { .. } | Stage::Over => [false; 2],
                };
                if are_counted != have_to_be {
                    wrong = Some((connection.id, are_counted, have_to_be));
                }
            }
        }
        if let Some((id, are_counted, have_to_be)) = wrong {
            let what =
                format!("connection {id} counts header and first bytes: {are_counted:?}, not {have_to_be:?}");
            self.violate(Kind::Counts, || what);
        }
    }

    /// Checks the state at the end.
    pub(super) fn check_end(&mut self) {
        self.hear_answers(true);
        let mut wrong = Vec::new();
        for seat in &self.seats {
            let worker = &seat.worker;
            let id = worker.id;
            let mut holds = |holds: bool, what: &str| {
                if !holds {
                    wrong.push(format!("worker {id}: {what}"));
                }
            };
            let left: Vec<_> =
                worker.connections.iter().map(|(key, connection)| (key, connection.id)).collect();
            if !left.is_empty() {
                return self.violate(Kind::Stuck, || format!("worker {id} still has {left:?}"));
            }
            holds(worker.timers.next().is_none(), "a timer is left");
            holds(worker.queue.is_empty(), "somebody is queued");
            holds(worker.inbox.is_empty(), "a message is left");
            holds(self.shared.desks[id].load.get() == 0, "its load is not 0");
            holds(worker.doors.starved_until().is_none(), "a door starves");
        }
        for (at, served) in self.services.iter().enumerate() {
            let mut table = served.service.dialer.table.lock();
            let (active, waiting) = (table.active(), table.waiting());
            let connections = served.service.connections();
            if (active, waiting, connections) != (0, 0, 0) {
                wrong.push(format!(
                    "service {at}: {active} slots taken, {waiting} wait, {connections} connections"
                ));
            }
            let kept = &served.service.kept_greetings;
            if !kept.is_empty() {
                wrong.push(format!(
                    "service {at}: first bytes are counted of clients that are gone: {kept:?}"
                ));
            }
            let counted = served.service.gate().clients();
            if !counted.is_empty() {
                wrong.push(format!("service {at}: {counted:?} are counted and gone"));
            }
            for channel in table.snapshot().groups.iter().flat_map(|group| &group.channels) {
                self.stats.outrun += channel.ended.outrun;
                if channel.active != 0 {
                    wrong.push(format!("service {at}: {} active at {:?}", channel.active, channel.id));
                }
            }
        }
        if !self.shared.budget.is_whole() {
            wrong.push("the budget is not whole".to_owned());
        }
        if !wrong.is_empty() {
            return self.violate(Kind::Counts, || wrong.join("; "));
        }
        let admitted: u64 = self.shared.desks.iter().map(Desk::numbered).sum();
        let told = self.stats.closed + self.stats.lost;
        let unaccounted = admitted.abs_diff(told);
        if told > admitted || unaccounted > self.panics as u64 {
            self.violate(Kind::Counts, || format!("{admitted} were taken, and {told} have ended"));
        }
        if self.stats.panicked > self.panics as u64 {
            let (lost, panics) = (self.stats.panicked, self.panics);
            self.violate(Kind::Panic, || format!("{panics} panics have ended {lost} connections"));
        }
        for id in 0..self.clients.len() {
            self.check_client(id);
        }
    }

    /// Checks what a client and its server have received at the end.
    fn check_client(&mut self, id: usize) {
        let client = &self.clients[id];
        let host = client.server.map(|server| &self.hosts[server].peer);
        let peer = &client.peer;
        let (client_sent, host_sent) = match client.at_end {
            Some([client_sent, host_sent]) => (client_sent, host_sent),
            // A panic lost the report of its end: what both had sent by then is unknown.
            None if self.panics > 0 => (0, 0),
            None => (peer.sent, host.map_or(0, |host| host.sent)),
        };
        let how = client.end;
        if let Some(at) = peer.wrong_at {
            return self.violate(Kind::Bytes, || format!("client {id} gets a wrong byte at {at}"));
        }
        if peer.heard == Heard::End && !peer.fled && peer.got < host_sent {
            let got = peer.got;
            return self.violate(Kind::CleanEnd, || {
                format!("client {id} has {got} of {host_sent} bytes and hears an end: {how:?}")
            });
        }
        let Some(host) = host else { return };
        if let Some(at) = host.wrong_at {
            return self
                .violate(Kind::Bytes, || format!("the host of client {id} gets a wrong byte at {at}"));
        }
        if host.heard == Heard::End && !host.fled && host.got < client_sent {
            let got = host.got;
            self.violate(Kind::CleanEnd, || {
                format!("the host of client {id} has {got} of {client_sent} bytes and hears an end: {how:?}")
            });
        }
    }

    /// Checks that all services have stopped.
    pub(super) fn check_drained(&mut self) {
        let drained = self.drained.load(Ordering::SeqCst);
        if drained != 1 {
            self.violate(Kind::Counts, || format!("the last service has stopped {drained} times"));
        }
    }
}
