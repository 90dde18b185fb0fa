//! Everything around the workers: clients, servers, operators, the clock, and what may happen in between.
//!
//! Knows: the state of each client and each server, which messages were sent. Never: what is right (the
//! oracle knows).

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};
use std::time::Duration;

use ipnet::IpNet;
use rustix::io::Errno;

use super::super::{Look, Stage, WORKED_OFF, Worker};
use super::oracle::{Kind, Violation};
use super::peers::{HEADER, Heard, Peer, address_of};
use super::random::{Random, mix};
use super::{Plant, Stats};
use crate::net::changed::Changed;
use crate::net::planted;
use crate::net::routes::Routes;
use crate::net::service::{NewService, Service, ServiceOptions};
use crate::net::shared::{Desk, Guest, Message, Options, PackOrder, Parcel, Shared, Unpacked, Who};
use crate::observe::Log;
use crate::sched::{
    Addresses, AdminState, ChannelKey, ClientLimits, Denial, End, GroupId, HealthRules, ProbeResult, Rules,
    SharedTable, Table,
};
use crate::spec::{ChannelManner, ClientPrefix, ProxySenders, ProxyTlvs, ProxyVersion, RouteName, Section};
use crate::sys::clock::{Clock, Told};
use crate::sys::listen::Listener;
use crate::sys::poller::simulated::{Deal, Dealer};
use crate::sys::poller::{Kind as Watched, Readiness, Seen, Token};
use crate::sys::trouble::{self, FaultPoint, Mishap};
use crate::wire::relay::Side;

/// A worker and the state of its thread.
pub(super) struct Seat {
    pub(super) worker: Worker<Dealer>,
    /// The look in which it sleeps.
    look: Look,
    /// When it wakes by itself, in µs.
    wakes_at: Option<u64>,
}

/// How a channel treats connects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// It always accepts.
    Living,
    /// It always refuses.
    Dead,
    /// It accepts at times.
    Moody,
    /// It never answers.
    Silent,
}

pub(super) struct Channel {
    pub(super) key: ChannelKey,
    pub(super) fate: Fate,
    pub(super) maxc: Option<NonZeroU32>,
    listener: Listener,
    listens: bool,
    /// Its clients get a PROXY header.
    is_proxied: bool,
    /// An operator has changed it.
    pub(super) was_touched: bool,
}

impl Channel {
    pub(super) fn address(&self) -> SocketAddr {
        self.listener.address().net().expect("TCP")
    }
}

/// The listener as the health thread sees it.
enum Door {
    Open,
    Emptying(Vec<Receiver<()>>),
    Shutting(Receiver<Option<std::io::Result<()>>>),
    Shut,
    Opening(Receiver<Option<std::io::Result<()>>>),
}

pub(super) struct Served {
    pub(super) service: Arc<Service>,
    address: SocketAddr,
    pub(super) channels: Vec<Channel>,
    door: Door,
    pub(super) was_shut: bool,
    pub(super) was_kicked: bool,
    pub(super) routing: Routing,
    /// Maximum number of connections of all clients together.
    pub(super) client_max: Option<NonZeroU32>,
    /// The clients that operators deny, and those that were denied when they connected.
    denied: BTreeSet<u32>,
    pub(super) came_denied: BTreeSet<u32>,
    /// The clients that were denied at any time.
    pub(super) ever_denied: BTreeSet<u32>,
}

/// Which groups serve clients that ask for something: group 0 does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Routing {
    /// All groups serve everyone.
    None,
    /// Group 1 serves all others.
    Shared,
    /// No group serves the others.
    Strict,
}

pub(super) struct Client {
    pub(super) peer: Peer,
    pub(super) service: usize,
    to_send: u64,
    /// It sends a little all the time, at this interval in µs.
    pub(super) steady: Option<u64>,
    next_send: u64,
    pub(super) came_at: u64,
    /// The server's end.
    pub(super) server: Option<usize>,
    pub(super) was_opened: bool,
    /// Its server closed at once, and it moved to another one.
    pub(super) has_moved_on: bool,
    pub(super) end: Option<End>,
    /// What both had sent when the connection ended.
    pub(super) at_end: Option<[u64; 2]>,
}

pub(super) struct Host {
    pub(super) peer: Peer,
    to_send: Option<u64>,
}

/// An answer that somebody waits for.
trait Answer {
    /// `None`: not yet. `false`: there will be none.
    fn came(&self) -> Option<bool>;
}

impl<T> Answer for Receiver<T> {
    fn came(&self) -> Option<bool> {
        match self.try_recv() {
            Ok(_) => Some(true),
            Err(TryRecvError::Disconnected) => Some(false),
            Err(TryRecvError::Empty) => None,
        }
    }
}

pub(super) struct World {
    pub(super) random: Random,
    key: u64,
    plant: Plant,
    /// In µs.
    pub(super) now: u64,
    told: &'static Told,
    pub(super) shared: Arc<Shared>,
    pub(super) log: Log,
    pub(super) seats: Vec<Seat>,
    pub(super) services: Vec<Served>,
    pub(super) clients: Vec<Client>,
    pub(super) hosts: Vec<Host>,
    answers: Vec<(&'static str, Box<dyn Answer>)>,
    /// Messages without an answer.
    pub(super) unanswered: usize,
    /// Something goes wrong in this history.
    pub(super) is_troubled: bool,
    /// Clients leave and come back in this history.
    is_leaving: bool,
    pub(super) panics: usize,
    pub(super) drained: Arc<AtomicUsize>,
    pub(super) violation: Option<Violation>,
    pub(super) stats: Stats,
    is_traced: bool,
    trace: Vec<String>,
    /// Everything is being ended.
    pub(super) is_winding_down: bool,
    pub(super) was_shut_down: bool,
}

/// The sections for a routing.
fn sections(routing: Routing) -> Vec<Section> {
    let first = Section { group: 0, asked: vec![RouteName::Ssh] };
    let others = Section { group: 1, asked: vec![RouteName::Else] };
    match routing {
        Routing::None => Vec::new(),
        Routing::Shared => vec![first, others],
        Routing::Strict => vec![first],
    }
}

thread_local! {
    static TOLD: &'static Told = Box::leak(Box::default());
}

const MS: u64 = 1_000;
const SECOND: u64 = 1_000 * MS;
/// Maximum time for which an event is held back.
const HELD: u64 = 50 * MS;
/// The delay of events of a channel that never answers.
const NEVER: u64 = 1 << 60;
const CLIENTS: usize = 14;
const IDLE: Duration = Duration::from_secs(2);

fn told() {
    let _ = trouble::strike(FaultPoint::Tell);
}

impl World {
    pub(super) fn new(seed: u64, plant: Plant, is_traced: bool) -> Self {
        let mut random = Random::new(mix(seed) ^ 0x51b1);
        trouble::begin();
        planted::plant(plant.bug());
        let told_time = TOLD.with(|told| *told);
        let now = SECOND;
        told_time.set(now);
        let log = Log::kept(told);
        let workers = random.up_to(3) as usize;
        let mut desks = Vec::new();
        let mut dealers = Vec::new();
        for _ in 0..workers {
            let mut dealer = Dealer::new().expect("descriptors");
            if plant == Plant::ForgetsGenerations {
                dealer.forget_generations();
            }
            desks.push(Desk::new(dealer.waker(Token::WAKER).expect("a descriptor")));
            dealers.push(dealer);
        }
        // What the reserve leaves of the limit.
        let places = if random.chance(250) { random.up_to(4) } else { 100 };
        let options = Options {
            workers,
            busy_poll: false,
            loopback_congestion: None,
            seed: random.next(),
            dump: None,
            descriptor_limit: 2 * places + 1_000,
            access: None,
            own_descriptors: 1_000 - 64,
            first_id: 0,
        };
        let drained = Arc::new(AtomicUsize::new(0));
        let last = Arc::clone(&drained);
        let shared = Shared::new(options, Clock::told(told_time), &log, desks, move || {
            last.fetch_add(1, Ordering::SeqCst);
        });
        let seats = dealers
            .into_iter()
            .enumerate()
            .map(|(id, dealer)| {
                let worker = Worker::new(id, dealer, Arc::clone(&shared));
                let look = worker.plan();
                Seat { worker, look, wakes_at: None }
            })
            .collect();
        let is_troubled = random.chance(250);
        // The other bugs have to show as often as without that.
        let is_leaving = random.chance(400) && plant.is_of_leaving();
        let mut world = Self {
            random,
            key: mix(seed ^ 0xbeef),
            plant,
            now,
            told: told_time,
            shared,
            log,
            seats,
            services: Vec::new(),
            clients: Vec::new(),
            hosts: Vec::new(),
            answers: Vec::new(),
            unanswered: 0,
            is_troubled,
            is_leaving,
            panics: 0,
            drained,
            violation: None,
            stats: Stats::default(),
            is_traced,
            trace: Vec::new(),
            is_winding_down: false,
            was_shut_down: false,
        };
        for _ in 0..world.random.up_to(2) {
            world.serve();
        }
        world
    }

    pub(super) fn trace(&mut self, line: impl FnOnce(&Self) -> String) {
        if self.is_traced {
            let line = format!("{:>9} {}", self.now, line(self));
            self.trace.push(line);
        }
    }

    pub(super) fn take_trace(&mut self) -> Vec<String> {
        std::mem::take(&mut self.trace)
    }

    pub(super) fn violate(&mut self, kind: Kind, what: impl FnOnce() -> String) {
        if self.violation.is_none() {
            let what = what();
            self.trace(|_| format!("VIOLATION {kind:?}: {what}"));
            self.violation = Some(Violation { kind, what });
        }
    }

    /// Opens a new service at all workers.
    fn serve(&mut self) {
        let random = &mut self.random;
        let health = HealthRules { eject: random.chance(700), ..HealthRules::NONE };
        let queue = if random.chance(600) { NonZeroU32::new(random.up_to(20) as u32) } else { None };
        let rules = Rules { health, queue, shards: self.seats.len(), seed: random.next(), ..Rules::CLASSIC };
        let mut table = Table::new(rules);
        let mut channels = Vec::new();
        let is_tight = random.chance(600);
        let routing = match random.below(10) {
            0..6 => Routing::None,
            6..9 => Routing::Shared,
            _ => Routing::Strict,
        };
        let groups = if routing == Routing::Shared { 2 } else { 1 };
        for number in 0..random.up_to(4).max(groups) {
            // The first two channels get a group each, if there are two groups.
            let group = match (groups, number) {
                (1, _) | (_, 0) => GroupId::FIRST,
                (_, 1) => GroupId::new(1).expect("there are more"),
                _ => GroupId::new(random.below(groups) as usize).expect("there are more"),
            };
            let fate = match random.below(10) {
                0..5 => Fate::Living,
                5..7 => Fate::Dead,
                7..9 => Fate::Moody,
                _ => Fate::Silent,
            };
            let listener = Listener::bind(([127, 0, 0, 1], 0).into(), None).expect("a port");
            let maxc = if is_tight { NonZeroU32::new(random.up_to(3) as u32) } else { None };
            let addresses = Addresses::from(listener.address());
            let channel = table.create(group, addresses, maxc, AdminState::Enabled).expect("a number");
            let listens = fate != Fate::Dead;
            if !listens {
                listener.refuse().expect("on Linux it can be done");
            }
            let key = ChannelKey { group, channel };
            let proxy = match random.below(10) {
                0 => Some(ProxyVersion::V1),
                1..3 => Some(ProxyVersion::V2),
                _ => None,
            };
            table.set_manner(key, ChannelManner { proxy, ..ChannelManner::default() }).expect("it is there");
            let is_proxied = proxy.is_some();
            channels.push(Channel { key, fate, maxc, listener, listens, is_proxied, was_touched: false });
        }
        let options = ServiceOptions {
            outgoing: crate::sys::Outgoing::default(),
            connect_timeout: Duration::from_millis(500 + random.below(1_000)),
            race: random.chance(400).then(|| Duration::from_millis(1 + random.below(300))),
            first_byte: None,
            idle_timeout: random.chance(500).then_some(IDLE),
            half_close_timeout: None,
            max_lifetime: None,
            queue_timeout: Duration::from_millis(500 + random.below(5_000)),
            pause_timeout: Duration::from_secs(60),
            starttls: None,
            accept_proxy: random.chance(300).then_some(ProxySenders::Any),
            routes: Routes::new(&sections(routing)),
            greeting_timeout: Duration::from_millis(200 + random.below(2_000)),
            max_connections: if random.chance(200) { NonZeroU32::new(random.up_to(6) as u32) } else { None },
            proxy_tlvs: ProxyTlvs { unique_id: random.chance(300), crc32c: random.chance(300) },
        };
        let client_max = if random.chance(200) { NonZeroU32::new(random.up_to(6) as u32) } else { None };
        // All clients of the simulation are in this network.
        let limits = ClientLimits { max: client_max, rate: None, prefix: ClientPrefix { v4: 16, v6: 64 } };
        let listener = Listener::bind(([127, 0, 0, 1], 0).into(), None).expect("a port");
        let address = listener.address().net().expect("TCP");
        let table = SharedTable::new(table);
        table.gate().set_limits(limits, &Arc::default());
        let opened = self.shared.enlist(NewService {
            listeners: vec![listener],
            table,
            log: self.log.clone(),
            options,
            changed: Changed::new(|| ()),
        });
        let service = Arc::clone(&opened.service);
        self.trace(|_| {
            let channels = channels.iter().map(|channel| (channel.fate, channel.maxc)).collect::<Vec<_>>();
            format!("service at {address}: {channels:?}, {:?}", service.options())
        });
        for desk in 0..self.seats.len() {
            self.ask("Open", desk, |answer| Message::Open(vec![opened.clone()], answer));
        }
        self.services.push(Served {
            service,
            address,
            channels,
            door: Door::Open,
            was_shut: false,
            was_kicked: false,
            routing,
            client_max,
            denied: BTreeSet::new(),
            came_denied: BTreeSet::new(),
            ever_denied: BTreeSet::new(),
        });
    }

    fn ask<T: 'static>(
        &mut self,
        what: &'static str,
        desk: usize,
        message: impl FnOnce(std::sync::mpsc::SyncSender<T>) -> Message,
    ) {
        let (answer, answered) = sync_channel(1);
        self.shared.desks[desk].send(message(answer));
        self.answers.push((what, Box::new(answered)));
    }

    fn ask_all<T: 'static>(
        &mut self,
        what: &'static str,
        message: impl Fn(std::sync::mpsc::SyncSender<T>) -> Message,
    ) {
        for desk in 0..self.seats.len() {
            self.ask(what, desk, &message);
        }
    }

    /// Takes the answers that have arrived.
    pub(super) fn hear_answers(&mut self, is_last: bool) {
        let mut missing = Vec::new();
        self.answers.retain(|(what, answer)| match answer.came() {
            None if !is_last => true,
            Some(true) => false,
            None | Some(false) => {
                missing.push(*what);
                false
            }
        });
        self.unanswered += missing.len();
        if !missing.is_empty() {
            self.trace(|_| format!("no answer to {missing:?}"));
        }
        if self.unanswered > self.panics {
            self.violate(Kind::Message, || format!("nobody has answered {missing:?}"));
        }
    }

    // What may happen.

    /// Lets something happen somewhere.
    pub(super) fn act(&mut self) {
        match self.random.below(100) {
            0..12 => self.come(),
            12..35 => self.client_acts(),
            35..56 => self.host_acts(),
            56..66 => self.operate(),
            66..68 => self.turn_moody(),
            68..74 => self.mind_health(),
            74..76 if self.is_troubled => self.plan_trouble(),
            76 => self.pause(),
            86..100 if self.is_leaving => self.hand_over(),
            77..80 => self.repeat_news(),
            80..84 => self.advance(50 * MS),
            _ => self.advance(2 * MS),
        }
        self.mind_doors();
        self.gather();
    }

    /// A client connects.
    fn come(&mut self) {
        if self.clients.len() >= CLIENTS {
            return;
        }
        let service = self.random.below(self.services.len() as u64) as usize;
        let id = self.clients.len() as u32;
        let wants = if self.random.chance(50) { 300_000 } else { self.random.magnitude(12) } as u32;
        let length = if self.random.chance(50) { 300_000 } else { self.random.magnitude(12) };
        let is_steady =
            self.random.chance(400) && self.services[service].service.options().idle_timeout.is_some();
        let address = self.services[service].address;
        let proxied = self.services[service].service.options().accept_proxy.is_some();
        let routed = self.services[service].routing != Routing::None;
        let peer = match Peer::connect(address, self.key, id, wants, [proxied, routed]) {
            Ok(peer) => peer,
            // Refused.
            Err(_) => return,
        };
        let steady = is_steady.then_some(IDLE.as_micros() as u64 / 3);
        self.trace(|_| {
            format!("client {id} comes to {service}, sends {length}, wants {wants}, steady {steady:?}")
        });
        self.clients.push(Client {
            peer,
            service,
            to_send: HEADER + length,
            steady,
            next_send: self.now,
            came_at: self.now,
            server: None,
            was_opened: false,
            has_moved_on: false,
            end: None,
            at_end: None,
        });
        if self.services[service].denied.contains(&id) {
            self.services[service].came_denied.insert(id);
        }
        self.stats.clients += 1;
    }

    /// Denies a client that may be connected or not, or allows it again.
    fn deny(&mut self, at: usize) -> &'static str {
        let id = self.random.below(CLIENTS as u64) as u32;
        let net = IpNet::from(IpAddr::from(address_of(id)));
        let now = Duration::from_micros(self.now);
        let served = &mut self.services[at];
        let gate = served.service.gate();
        let service = served.service.id;
        if served.denied.remove(&id) {
            assert!(gate.undeny(net, now));
            // It may not have been checked yet.
            served.came_denied.remove(&id);
            return "undeny";
        }
        gate.deny(Denial { net, until: None }, now).expect("few are");
        served.denied.insert(id);
        served.ever_denied.insert(id);
        if self.random.chance(500) {
            self.services[at].was_kicked = true;
            self.ask_all("CloseClients", |answer| Message::CloseClients(service, net, End::Kicked, answer));
            return "deny and kick";
        }
        "deny"
    }

    fn client_acts(&mut self) {
        if self.clients.is_empty() {
            return;
        }
        let id = self.random.below(self.clients.len() as u64) as usize;
        let lot = self.random.below(100);
        let size = self.random.magnitude(14);
        let client = &mut self.clients[id];
        let left = client.to_send.saturating_sub(client.peer.sent);
        let is_done = client.peer.heard != Heard::Nothing;
        let what = match lot {
            0..50 if left > 0 && client.steady.is_none() => {
                format!("sends {}", client.peer.send(size.min(left)))
            }
            50..60 if left == 0 => {
                client.peer.shut();
                "ends".to_owned()
            }
            60..92 => format!("gets {}", client.peer.receive(size as usize, None).0),
            92..94 => {
                client.peer.reset();
                "resets".to_owned()
            }
            94..96 => {
                client.peer.close();
                "closes".to_owned()
            }
            _ if is_done => {
                client.peer.close();
                "closes in the end".to_owned()
            }
            _ => return,
        };
        self.trace(|_| format!("client {id} {what}"));
    }

    fn host_acts(&mut self) {
        self.welcome_hosts();
        if self.hosts.is_empty() {
            return;
        }
        let number = self.random.below(self.hosts.len() as u64) as usize;
        let lot = self.random.below(100);
        let size = self.random.magnitude(14);
        let host = &mut self.hosts[number];
        let left = host.to_send.map(|all| all.saturating_sub(host.peer.sent));
        let what = match (lot, left) {
            (0..40, Some(left)) if left > 0 => format!("sends {}", host.peer.send(size.min(left))),
            (40..50, Some(0)) => {
                host.peer.shut();
                "ends".to_owned()
            }
            (50..94, _) => return self.host_receives(number, size as usize),
            (94..96, _) => {
                host.peer.reset();
                "resets".to_owned()
            }
            (96..97, _) => {
                host.peer.close();
                "closes".to_owned()
            }
            _ => return,
        };
        self.trace(|_| format!("host {number} {what}"));
    }

    fn host_receives(&mut self, number: usize, most: usize) {
        let host = &mut self.hosts[number];
        let (count, client) = host.peer.receive(most, Some(self.key));
        if let Some((id, wants)) = client {
            host.to_send = Some(wants.into());
            match self.clients.get_mut(id as usize) {
                Some(client) => client.server = Some(number),
                None => self.violate(Kind::Bytes, || format!("host {number} is greeted by nobody: {id}")),
            }
        }
        if count > 0 {
            self.trace(|_| format!("host {number} gets {count}, client {client:?}"));
        }
    }

    /// Servers accept all connections that wait.
    fn welcome_hosts(&mut self) -> usize {
        let before = self.hosts.len();
        for served in &self.services {
            for channel in served.channels.iter().filter(|channel| channel.listens) {
                while let Ok((socket, _)) = channel.listener.accept() {
                    self.hosts.push(Host { peer: Peer::accepted(socket, channel.is_proxied), to_send: None });
                }
            }
        }
        let came = self.hosts.len() - before;
        if came > 0 {
            self.trace(|world| format!("hosts up to {}", world.hosts.len() - 1));
        }
        came
    }

    /// An operator gives a command.
    fn operate(&mut self) {
        let at = self.random.below(self.services.len() as u64) as usize;
        let number = self.random.below(self.services[at].channels.len() as u64) as usize;
        let service = Arc::clone(&self.services[at].service);
        let (id, key) = (service.id, self.services[at].channels[number].key);
        let lot = self.random.below(100);
        let table = &service.dialer.table;
        let what = match lot {
            0..30 => {
                self.services[at].was_kicked = true;
                self.ask_all("Close", |answer| Message::Close(id, key, End::Kicked, answer));
                "kick"
            }
            30..45 => {
                self.services[at].was_kicked = true;
                let _ =
                    table.lock_at(Duration::from_micros(self.now)).set_state(key, AdminState::DisabledHard);
                self.services[at].channels[number].was_touched = true;
                // Clients that waited for it may have something else now.
                self.shared.serve_line(&service);
                self.ask_all("Close", |answer| Message::Close(id, key, End::Kicked, answer));
                "disable hard"
            }
            45..55 => {
                let _ = table.lock_at(Duration::from_micros(self.now)).set_state(key, AdminState::Disabled);
                self.services[at].channels[number].was_touched = true;
                self.shared.serve_line(&service);
                "disable"
            }
            55..75 => {
                let _ = table.lock_at(Duration::from_micros(self.now)).set_state(key, AdminState::Enabled);
                self.shared.serve_line(&service);
                "enable"
            }
            75..85 => {
                let maxc = NonZeroU32::new(self.random.below(4) as u32);
                let _ = table.lock_at(Duration::from_micros(self.now)).set_maxc(key, maxc);
                self.services[at].channels[number].was_touched = true;
                self.shared.serve_line(&service);
                "maxc"
            }
            85..87 => {
                self.services[at].was_kicked = true;
                let session = self.random.up_to(2 * CLIENTS as u64);
                self.ask_all("CloseSession", |answer| Message::CloseSession(id, session, answer));
                "close a session"
            }
            87..90 => self.deny(at),
            90..93 => {
                self.ask_all("Sessions", |answer| Message::Sessions(id, None, 0, answer));
                "sessions"
            }
            _ => {
                if matches!(self.services[at].door, Door::Open) {
                    let answers = self.ask_desks(|answer| Message::Refuse(id, answer));
                    self.services[at].door = Door::Emptying(answers);
                    self.services[at].was_shut = true;
                } else if matches!(self.services[at].door, Door::Shut) {
                    self.open_door(at);
                }
                "door"
            }
        };
        self.trace(|_| format!("operator at service {at}, channel {number}: {what}"));
    }

    fn ask_desks<T>(&self, message: impl Fn(std::sync::mpsc::SyncSender<T>) -> Message) -> Vec<Receiver<T>> {
        let ask = |desk: &Desk| {
            let (answer, answered) = sync_channel(1);
            desk.send(message(answer));
            answered
        };
        self.shared.desks.iter().map(ask).collect()
    }

    fn open_door(&mut self, at: usize) {
        let id = self.services[at].service.id;
        let (answer, answered) = sync_channel(1);
        self.shared.desks[0].send(Message::OpenDoor(id, answer));
        self.services[at].door = Door::Opening(answered);
    }

    /// What the health thread does when it gets an answer.
    fn mind_doors(&mut self) {
        for at in 0..self.services.len() {
            let id = self.services[at].service.id;
            let welcome = match &self.services[at].door {
                Door::Open | Door::Shut => continue,
                Door::Emptying(answers) => {
                    // A receiver that got its answer reports afterwards that the sender is gone.
                    let is_answered = answers.iter().all(|answer| answer.came().is_some());
                    if is_answered {
                        let (answer, answered) = sync_channel(1);
                        self.shared.desks[0].send(Message::CloseDoor(id, answer));
                        self.services[at].door = Door::Shutting(answered);
                    }
                    continue;
                }
                Door::Shutting(answer) => match answer.try_recv() {
                    Err(TryRecvError::Empty) => continue,
                    Ok(Some(Err(_))) | Err(TryRecvError::Disconnected) => true,
                    Ok(None | Some(Ok(()))) => false,
                },
                Door::Opening(answer) => match answer.try_recv() {
                    Err(TryRecvError::Empty) => continue,
                    // Like the health thread: try again later.
                    Err(TryRecvError::Disconnected) => {
                        self.open_door(at);
                        continue;
                    }
                    Ok(_) => true,
                },
            };
            self.trace(|_| format!("the door of service {at} is {}", if welcome { "open" } else { "shut" }));
            self.services[at].door = if welcome { Door::Open } else { Door::Shut };
            if welcome {
                self.shared.desks.iter().for_each(|desk| desk.send(Message::Welcome(id)));
            }
        }
    }

    /// A server goes down or comes back.
    fn turn_moody(&mut self) {
        let at = self.random.below(self.services.len() as u64) as usize;
        let mut turned = None;
        for channel in self.services[at].channels.iter_mut().filter(|channel| channel.fate == Fate::Moody) {
            channel.listens = !channel.listens;
            let moved = if channel.listens { channel.listener.listen() } else { channel.listener.refuse() };
            moved.expect("on Linux it can be done");
            turned = Some((channel.key, channel.listens));
        }
        if let Some((key, listens)) = turned {
            self.trace(|_| format!("server of service {at}, {key:?} listens: {listens}"));
        }
    }

    /// Makes the probes that are due.
    fn mind_health(&mut self) {
        for at in 0..self.services.len() {
            let service = Arc::clone(&self.services[at].service);
            let due = service.dialer.table.lock_at(Duration::from_micros(self.now)).probes_due(10);
            for probe in due {
                let channel = self.services[at].channels.iter().find(|channel| channel.key == probe.channel);
                let is_good = channel.is_some_and(|channel| channel.listens && channel.fate != Fate::Silent);
                let result = if is_good { ProbeResult::Good } else { ProbeResult::Bad("bad".into()) };
                let mut table = service.dialer.table.lock_at(Duration::from_micros(self.now));
                let changed = table.probed(&probe, result);
                drop(table);
                if changed.is_some() {
                    self.trace(|_| format!("probed {changed:?}"));
                    self.shared.serve_line(&service);
                }
            }
        }
    }

    /// Clients leave, come back, or come from another process.
    fn hand_over(&mut self) {
        let is_leaving = self.shared.leaving.load(Ordering::SeqCst);
        match self.random.below(10) {
            _ if !is_leaving => {
                self.ask_all("HoldDoors", Message::HoldDoors);
                self.shared.leaving.store(true, Ordering::SeqCst);
                self.trace(|_| "doors are held".to_owned());
            }
            0..2 => self.stay(),
            2..7 => {
                let who = match self.random.below(4) {
                    0 => Who::Greeting,
                    1 => {
                        let all = self.seats.iter().flat_map(|seat| seat.worker.who_waits()).collect();
                        Who::InLine(Arc::new(all))
                    }
                    _ => Who::Relaying,
                };
                let most = self.random.up_to(8) as usize;
                let seat = self.random.below(self.seats.len() as u64) as usize;
                self.trace(|_| format!("worker {seat} is to let go of {most}: {who:?}"));
                let wanted = PackOrder { who, most, bytes: None, of: None };
                self.ask("Pack", seat, move |answer| Message::Pack(wanted.clone(), answer));
            }
            _ => self.bring_back(),
        }
    }

    /// No client leaves after all.
    fn stay(&mut self) {
        self.bring_back();
        self.shared.leaving.store(false, Ordering::SeqCst);
        self.ask_all("ReleaseDoors", Message::ReleaseDoors);
        self.trace(|_| "doors are released".to_owned());
    }

    /// Continues the clients on the tray, on the worker that had each or, as if it came from another process,
    /// on any.
    fn bring_back(&mut self) {
        let parcels = std::mem::take(&mut *self.shared.tray());
        for mut parcel in parcels {
            let back = parcel.guest.desk().expect("it was carried");
            let mut desk = back;
            self.stats.carried += 1;
            if self.random.chance(500) {
                desk = self.random.below(self.seats.len() as u64) as usize;
                let mut guest = Guest::carried(&parcel.guest, parcel.guest.came_to(), &self.shared);
                guest.sit_at(desk);
                // As if they were sent: other descriptors of the same sockets.
                let another = |fd: &std::os::fd::OwnedFd| fd.try_clone().expect("a descriptor");
                let (client, server) = (another(&parcel.client), parcel.server.as_ref().map(another));
                parcel = Parcel { client, server, packed_at: None, guest, ..parcel };
            }
            let id = parcel.record.id;
            self.trace(|_| format!("connection {id} of worker {back} goes on at worker {desk}"));
            self.shared.desks[desk].send(Message::Receive(vec![Unpacked::new(parcel)]));
        }
    }

    fn plan_trouble(&mut self) {
        let spot = [
            FaultPoint::Accept,
            FaultPoint::Clock,
            FaultPoint::Connect,
            FaultPoint::Message,
            FaultPoint::Read,
            FaultPoint::Tell,
            FaultPoint::Watch,
            FaultPoint::Write,
        ][self.random.below(8) as usize];
        let what = if matches!(spot, FaultPoint::Clock | FaultPoint::Message | FaultPoint::Tell)
            || self.random.chance(500)
        {
            Mishap::Panic
        } else {
            Mishap::Error(
                [Errno::NOMEM, Errno::NOBUFS, Errno::IO, Errno::MFILE][self.random.below(4) as usize],
            )
        };
        let after = if spot == FaultPoint::Message { 0 } else { self.random.below(8) as u32 };
        self.trace(|_| format!("ahead: {what:?} at {spot:?} after {after}"));
        trouble::plan(spot, after, what);
        if spot == FaultPoint::Message {
            // So that more messages follow it.
            self.operate();
            self.operate();
            self.operate();
        }
    }

    /// The process is stopped for a while, and the world goes on.
    fn pause(&mut self) {
        let until = self.now + self.random.magnitude(22);
        self.trace(|_| format!("stopped until {until}"));
        self.stats.pauses += 1;
        while self.now < until {
            for _ in 0..self.random.below(3) {
                if self.random.chance(500) {
                    self.client_acts()
                } else {
                    self.host_acts()
                }
                self.gather();
            }
            let step = (until - self.now).min(self.random.up_to(400 * MS));
            self.advance_by(step);
        }
    }

    /// The kernel reports events again.
    fn repeat_news(&mut self) {
        let seat = self.random.below(self.seats.len() as u64) as usize;
        let now = self.now;
        let poller = &mut self.seats[seat].worker.poller;
        let sockets: Vec<Token> =
            poller.sockets().into_iter().filter(|token| token.kind == Watched::Socket).collect();
        if !sockets.is_empty() {
            let token = sockets[self.random.below(sockets.len() as u64) as usize];
            poller.put(token, now, now);
        }
    }

    fn advance(&mut self, most: u64) {
        let step = self.random.up_to(most);
        self.advance_by(step);
    }

    /// Time passes, and steady clients send.
    pub(super) fn advance_by(&mut self, by: u64) {
        let until = self.now + by;
        while self.now < until {
            let steady =
                self.clients.iter().filter(|client| client.steady.is_some() && client.peer.is_open());
            let next = steady.map(|client| client.next_send).min().unwrap_or(u64::MAX);
            self.now = next.clamp(self.now, until);
            self.told.set(self.now);
            let now = self.now;
            for client in &mut self.clients {
                if let Some(every) = client.steady
                    && client.next_send <= now
                {
                    client.next_send = now + every;
                    if client.peer.is_open() && !client.peer.is_shut {
                        // The first bytes are the header.
                        client.peer.send(if client.peer.sent < HEADER { HEADER } else { 1 });
                    }
                }
            }
            self.gather();
        }
    }

    // The workers.

    /// Queues events as they come.
    pub(super) fn gather(&mut self) {
        for seat in 0..self.seats.len() {
            let mut fresh = self.seats[seat].worker.poller.fresh().expect("it can be asked");
            while !fresh.is_empty() {
                let token = fresh.swap_remove(self.random.below(fresh.len() as u64) as usize);
                let from = self.now + self.hold(seat, token);
                let now = self.now;
                self.seats[seat].worker.poller.put(token, now, from);
            }
        }
    }

    /// How long an event is held back.
    fn hold(&mut self, seat: usize, token: Token) -> u64 {
        if token.kind != Watched::Socket {
            return 0;
        }
        if token.side == Side::Server
            && let Some(connection) = self.seats[seat].worker.connections.get(token.key as usize)
            && let Stage::Dialing(dial) = &connection.stage
            && self.services.iter().any(|served| {
                served.service.id == connection.service.id
                    && served.channels.iter().any(|channel| {
                        Some(channel.key) == dial.channel_of(token.generation) && channel.fate == Fate::Silent
                    })
            })
        {
            return NEVER;
        }
        match self.random.below(100) {
            _ if self.is_winding_down => 0,
            0..70 => 0,
            70..95 => self.random.up_to(2 * MS),
            _ => self.random.up_to(HELD),
        }
    }

    /// May a worker run?
    fn is_awake(&mut self, seat: usize) -> bool {
        let now = self.now;
        let Seat { worker, wakes_at, .. } = &mut self.seats[seat];
        wakes_at.is_some_and(|at| at <= now) || worker.poller.untold().iter().any(|news| news.from <= now)
    }

    pub(super) fn awake(&mut self) -> Vec<usize> {
        (0..self.seats.len()).filter(|&seat| self.is_awake(seat)).collect()
    }

    /// Runs one of the workers that can go on.
    pub(super) fn work(&mut self) {
        let awake = self.awake();
        if !awake.is_empty() {
            let seat = awake[self.random.below(awake.len() as u64) as usize];
            self.round(seat);
        } else if self.random.chance(20) {
            // A signal.
            let seat = self.random.below(self.seats.len() as u64) as usize;
            self.round(seat);
        }
    }

    /// One round of a worker's loop.
    pub(super) fn round(&mut self, number: usize) {
        let is_late = self.seats[number].wakes_at.is_some_and(|at| at + 100 * MS < self.now);
        let deal = match self.random.below(100) {
            0..50 if is_late => Deal::Interrupted,
            0..5 => Deal::Interrupted,
            5..20 => Deal::Part(self.random.up_to(4) as usize),
            _ => Deal::All,
        };
        let now = self.now;
        let Seat { worker, look, .. } = &mut self.seats[number];
        worker.poller.deal(deal, now);
        let mut seen = worker.wait(look.patience);
        if self.plant == Plant::BelievesDeadlines {
            look.began = u64::MAX;
            look.patience = None;
            seen = seen.map(|_| Seen::All);
        }
        let told = worker.poller.events();
        let done = catch_unwind(AssertUnwindSafe(|| {
            trouble::during(|| {
                worker.looked(look, seen);
                worker.work_off();
            });
        }));
        if done.is_err() {
            worker.survive();
            while worker.next_event != WORKED_OFF {
                worker.work_off();
            }
        }
        self.stats.rounds += 1;
        self.gather();
        let worker = &mut self.seats[number].worker;
        let look = worker.plan();
        let wakes_at = look.patience.map(|patience| self.now + patience.as_micros() as u64);
        (self.seats[number].look, self.seats[number].wakes_at) = (look, wakes_at);
        self.trace(|_| format!("worker {number}: {deal:?}, told {told}, wakes at {wakes_at:?}"));
        let happened = trouble::happened();
        if !happened.is_empty() {
            self.panics += happened.iter().filter(|(_, what)| *what == Mishap::Panic).count();
            self.stats.mishaps += happened.len() as u64;
            self.trace(|_| format!("MISHAPS {happened:?}"));
        }
        self.after_round(number);
    }

    // The end.

    /// Starts to end everything.
    pub(super) fn begin_to_end(&mut self) {
        self.is_winding_down = true;
        trouble::calm();
        self.seats.iter_mut().for_each(|seat| seat.worker.poller.release());
        if self.shared.leaving.load(Ordering::SeqCst) && !self.was_shut_down {
            self.stay();
        }
        for at in 0..self.services.len() {
            let service = Arc::clone(&self.services[at].service);
            for channel in &mut self.services[at].channels {
                if channel.fate == Fate::Moody && !channel.listens {
                    channel.listener.listen().expect("on Linux it can be done");
                    channel.listens = true;
                }
                let state =
                    if channel.fate == Fate::Silent { AdminState::Disabled } else { AdminState::Enabled };
                let _ = service
                    .dialer
                    .table
                    .lock_at(Duration::from_micros(self.now))
                    .set_state(channel.key, state);
            }
            self.shared.serve_line(&service);
        }
        self.trace(|_| "to the end".to_owned());
    }

    /// Both programs of every connection do what is left to do. `true` if anything moved.
    pub(super) fn finish_peers(&mut self) -> bool {
        let mut moved = self.welcome_hosts() > 0;
        for client in &mut self.clients {
            client.steady = None;
            let Client { peer, to_send, .. } = client;
            if !peer.is_open() {
                continue;
            }
            moved |= peer.send(to_send.saturating_sub(peer.sent)) > 0;
            if peer.sent >= *to_send {
                peer.shut();
            }
            while peer.receive(65_536, None).0 > 0 {
                moved = true;
            }
            if peer.heard != Heard::Nothing {
                peer.close();
                moved = true;
            }
        }
        for number in 0..self.hosts.len() {
            if !self.hosts[number].peer.is_open() {
                continue;
            }
            loop {
                let before = self.hosts[number].peer.got;
                self.host_receives(number, 65_536);
                if self.hosts[number].peer.got == before {
                    break;
                }
                moved = true;
            }
            let Host { peer, to_send } = &mut self.hosts[number];
            if let Some(all) = *to_send {
                moved |= peer.send(all.saturating_sub(peer.sent)) > 0;
                if peer.sent >= all {
                    peer.shut();
                }
            }
            if peer.heard != Heard::Nothing
                && (peer.is_shut || to_send.is_none() || peer.heard == Heard::Reset)
            {
                peer.close();
                moved = true;
            }
        }
        moved
    }

    /// Goes on until nobody can do anything any more.
    pub(super) fn wind_down(&mut self) {
        self.begin_to_end();
        let mut fruitless = 0;
        let mut at_once = 0;
        let mut patience = 500;
        while self.violation.is_none() {
            for at in 0..self.services.len() {
                if matches!(self.services[at].door, Door::Shut) {
                    self.open_door(at);
                }
            }
            self.mind_doors();
            self.mind_health();
            let moved = self.finish_peers();
            self.gather();
            let awake = self.awake();
            if !awake.is_empty() {
                at_once += 1;
                if at_once > 20_000 {
                    self.violate(Kind::Spin, || "20000 rounds and no time passes".to_owned());
                }
                let seat = awake[self.random.below(awake.len() as u64) as usize];
                self.round(seat);
                continue;
            }
            self.check_rest();
            if moved {
                continue;
            }
            at_once = 0;
            let timers = self.seats.iter().filter_map(|seat| seat.wakes_at);
            // Nobody waits for a channel that stays down.
            let is_over = self.shared.desks.iter().all(|desk| desk.load.get() == 0);
            let probes = self.services.iter().filter_map(|served| {
                let next = served.service.dialer.table.lock().next_probe()?;
                Some(next.as_micros() as u64 + 1)
            });
            let Some(next) = timers.chain(probes.filter(|_| !is_over)).min() else {
                // The kernel may take its time for an end or an acknowledgement.
                if is_over || patience == 0 {
                    break;
                }
                patience -= 1;
                std::thread::sleep(Duration::from_millis(1));
                continue;
            };
            fruitless += 1;
            if fruitless > 50 {
                // The kernel may take its time for an acknowledgement.
                std::thread::sleep(Duration::from_millis(2));
            }
            if fruitless > 1_500 {
                self.violate(Kind::Stuck, || format!("still waits for {next}"));
            }
            let by = next.saturating_sub(self.now).max(1);
            self.advance_by(by);
        }
    }

    /// Accepts no new clients; the services stop.
    pub(super) fn stop_listening(&mut self) {
        let ids: Vec<_> = self.services.iter().map(|served| served.service.id).collect();
        for id in ids {
            self.ask_all("StopListening", |answer| Message::StopListening(id, answer));
        }
        self.trace(|_| "stop listening".to_owned());
    }

    /// The process ends.
    pub(super) fn shut_down(&mut self) {
        self.was_shut_down = true;
        self.ask_all("ShutDown", Message::ShutDown);
        self.trace(|_| "shut down".to_owned());
    }

    /// Finishes everything that was stopped.
    pub(super) fn see_off(&mut self) {
        for served in &self.services {
            served.service.drain();
            self.shared.see_the_last_off(&served.service);
        }
    }
}
