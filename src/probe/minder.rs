//! The thread that checks the channels of all services: it makes probes on time, and closes ports while no
//! channel is up.
//!
//! Knows: which service has something to do, which probe is for which service. Never: thresholds and delays
//! (the table has those), how a probe is made, how a connection is closed.
//! Source: docs/health.md.
//!
//! A service costs nothing while it has nothing to do: the thread looks at it only when a probe of it is due
//! or was answered, or when its alarm rang.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::io::{self, ErrorKind};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use super::engine::{Engine, PARTING};
use super::order::{Findings, Outcome};
use super::shutter::Shutter;
use super::ward::Ward;
use crate::observe::{Event, Log, Severity};
use crate::sched::{Happened, Probe, ProbeResult};
use crate::sys::Clock;
use crate::sys::descriptors::Budget;
use crate::sys::poller::Waker;

/// How many probes are started at a time, so that answers are not kept waiting.
const PROBES: usize = 64;
/// How many services are looked at at a time, for the same reason.
const WARDS: usize = 64;
/// How long [`Minder::stop`] waits for the thread to notice.
const FAREWELL: Duration = Duration::from_millis(200);

/// Messages that the thread has not read yet.
#[derive(Debug, Default)]
struct Unseen {
    rung: BTreeSet<u64>,
    added: Vec<(u64, Ward)>,
    changed: Vec<(u64, Ward)>,
    removed: HashSet<u64>,
    last_ward: u64,
    has_ended: bool,
}

#[derive(Debug)]
struct Inbox {
    news: Mutex<Unseen>,
    waker: Waker,
}

impl Inbox {
    fn news(&self) -> MutexGuard<'_, Unseen> {
        // The value is consistent even after a panic: each change of it is a single call.
        self.news.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells the thread that one service has something to do. All copies are the same alarm.
#[derive(Debug, Clone)]
pub struct Alarm {
    inbox: Arc<Inbox>,
    ward: u64,
}

impl Alarm {
    /// Tells the thread that the table has changed: there may be probes to make, or a port to close or open.
    /// The thread then looks at everything.
    pub fn ring(&self) {
        // If a ring of this service is still unread, that is enough.
        if self.inbox.news().rung.insert(self.ward) {
            self.inbox.waker.wake();
        }
    }
}

/// The handle of the thread that checks the channels of all services. All clones are the same one.
#[derive(Debug, Clone)]
pub struct Minder {
    inbox: Arc<Inbox>,
    /// Disconnected when the thread has ended.
    ended: Arc<Mutex<Receiver<()>>>,
}

impl Minder {
    /// Starts the thread, without services. It takes descriptors from `budget`.
    ///
    /// # Errors
    /// There is no descriptor for its poller, or the thread cannot be started.
    pub(crate) fn start(clock: Clock, log: &Log, budget: Arc<Budget>) -> io::Result<Self> {
        let engine = Engine::new(budget)?;
        let inbox = Arc::new(Inbox { news: Mutex::default(), waker: engine.waker() });
        let mut rounds = Rounds {
            engine,
            clock,
            log: log.clone(),
            inbox: Arc::clone(&inbox),
            wards: HashMap::new(),
            rung: BTreeSet::new(),
            agenda: BTreeSet::new(),
            under_way: BTreeMap::new(),
            last_probe: 0,
            done: VecDeque::new(),
        };
        let (running, ended) = sync_channel(0);
        thread::Builder::new().name("health".into()).spawn(move || {
            rounds.run();
            // The engine goes first: dropping it kills the programs of checks.
            drop(rounds);
            drop(running);
        })?;
        Ok(Self { inbox, ended: Arc::new(Mutex::new(ended)) })
    }

    /// The alarm of a service. Ringing it has no effect before [`mind`](Self::mind) is called.
    pub fn alarm(&self) -> Alarm {
        let mut news = self.inbox.news();
        news.last_ward += 1;
        Alarm { inbox: Arc::clone(&self.inbox), ward: news.last_ward }
    }

    /// Starts to check a service.
    pub fn mind(&self, alarm: &Alarm, ward: Ward) {
        let mut news = self.inbox.news();
        // If its removal was requested but not read yet, the service stays.
        news.removed.remove(&alarm.ward);
        news.added.push((alarm.ward, ward));
        drop(news);
        alarm.ring();
    }

    /// Changes how a service is checked. Running probes are cancelled, since they ask what is no longer
    /// wanted.
    pub fn change(&self, alarm: &Alarm, ward: Ward) {
        self.inbox.news().changed.push((alarm.ward, ward));
        alarm.ring();
    }

    /// Stops checking a service. Running probes are cancelled.
    pub fn leave(&self, alarm: &Alarm) {
        self.inbox.news().removed.insert(alarm.ward);
        alarm.ring();
    }

    /// Ends the thread and the programs that it runs. Takes a moment at most, since the process is about to
    /// end.
    pub fn stop(&self) {
        self.inbox.news().has_ended = true;
        self.inbox.waker.wake();
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        // Nothing is ever sent; this waits until the sender is dropped.
        let _ = ended.recv_timeout(FAREWELL + PARTING);
    }
}

/// A service and its state.
struct Minded {
    ward: Ward,
    shutter: Shutter,
    /// When it is looked at next if nothing happens before.
    due: Option<Duration>,
}

/// The state of the thread.
struct Rounds {
    engine: Engine,
    clock: Clock,
    log: Log,
    inbox: Arc<Inbox>,
    wards: HashMap<u64, Minded>,
    /// Services whose alarms rang and that were not looked at yet.
    rung: BTreeSet<u64>,
    /// When each service is due, each at most once.
    agenda: BTreeSet<(Duration, u64)>,
    /// The running probes, with the service that each belongs to.
    under_way: BTreeMap<u64, (u64, Probe)>,
    last_probe: u64,
    /// Findings that were not applied yet.
    done: VecDeque<(u64, Findings)>,
}

impl Rounds {
    /// Works until the process is about to end.
    fn run(&mut self) {
        while !self.inbox.news().has_ended {
            if catch_unwind(AssertUnwindSafe(|| self.mind())).is_err() {
                self.log.tell(&Event::WorkerPanic { what: "health".into() });
            }
        }
    }

    fn mind(&mut self) {
        loop {
            if self.learn() {
                return;
            }
            // After a panic this goes on where it stopped: each item is removed before it is handled.
            while let Some((id, findings)) = self.done.pop_front() {
                self.answered(id, findings);
            }
            while let Some(id) = self.rung.pop_first() {
                self.look_at(id);
                if let Some(Minded { ward, .. }) = self.wards.get(&id) {
                    // Waiting clients may be able to have a channel now.
                    (ward.hands.serve_line)();
                }
            }
            let now = self.clock.now();
            let due: Vec<u64> =
                self.agenda.iter().take_while(|(at, _)| *at <= now).take(WARDS).map(|&(_, id)| id).collect();
            due.into_iter().for_each(|id| self.look_at(id));
            let until = self.agenda.first().map(|&(at, _)| self.clock.instant(at));
            self.engine.wait(until, &mut self.done);
        }
    }

    /// Reads the messages. `true`: the thread has to end.
    fn learn(&mut self) -> bool {
        let (rung, added, changed, removed) = {
            let mut news = self.inbox.news();
            if news.has_ended {
                return true;
            }
            let Unseen { rung, added, changed, removed, .. } = &mut *news;
            (std::mem::take(rung), std::mem::take(added), std::mem::take(changed), std::mem::take(removed))
        };
        self.rung.extend(rung);
        let is_new = |id: &u64| !self.wards.contains_key(id);
        let (new, minded): (Vec<_>, Vec<_>) = added.into_iter().partition(|(id, _)| is_new(id));
        for (id, ward) in new {
            self.wards.insert(id, Minded { ward, shutter: Shutter::default(), due: None });
        }
        // A service that was removed and added again before this was read only changes its settings.
        for (id, ward) in minded.into_iter().chain(changed) {
            self.call_off(id);
            if let Some(minded) = self.wards.get_mut(&id) {
                minded.ward = ward;
            }
        }
        self.forget(&removed);
        false
    }

    /// Cancels the running probes of a service.
    fn call_off(&mut self, ward: u64) {
        let of_it = |(_, (id, _)): &(&u64, &(u64, Probe))| *id == ward;
        let orphans: HashSet<u64> = self.under_way.iter().filter(of_it).map(|(&id, _)| id).collect();
        self.engine.cancel(&orphans);
        let Some(minded) = self.wards.get(&ward) else { return };
        let mut table = minded.ward.table.lock_at(self.clock.now());
        for id in orphans {
            if let Some((_, probe)) = self.under_way.remove(&id) {
                table.probed(&probe, ProbeResult::Unknown);
            }
        }
    }

    fn forget(&mut self, wards: &HashSet<u64>) {
        if wards.is_empty() {
            return;
        }
        for id in wards {
            if let Some(Minded { due: Some(at), .. }) = self.wards.remove(id) {
                self.agenda.remove(&(at, *id));
            }
        }
        let orphans: HashSet<u64> =
            self.under_way.iter().filter(|(_, (ward, _))| wards.contains(ward)).map(|(&id, _)| id).collect();
        self.under_way.retain(|id, _| !orphans.contains(id));
        self.engine.cancel(&orphans);
    }

    /// Starts a service's probes that are due, closes or opens its port if needed, and notes when it is due
    /// next.
    fn look_at(&mut self, id: u64) {
        let Some(minded) = self.wards.get_mut(&id) else { return };
        let Minded { ward, shutter, due } = minded;
        let now = self.clock.now();
        let (probes, next, has_up, news, doubts, has_another) = {
            let mut table = ward.table.lock_at(now);
            let (probes, next) = (table.probes_due(PROBES), table.next_probe());
            let (has_up, is_out) = (table.has_up(), table.is_out());
            let told = table.outage();
            let news = match told.since {
                None if is_out => {
                    told.since = Some(now);
                    Some(Event::NoChannelUp)
                }
                Some(since) if has_up => {
                    told.since = None;
                    Some(Event::ChannelUpAgain { after: now.saturating_sub(since) })
                }
                None | Some(_) => None,
            };
            (probes, next, has_up, news, table.take_doubts(), table.has_another())
        };
        for probe in probes {
            self.last_probe += 1;
            self.engine.start(ward.order(self.last_probe, &probe));
            self.under_way.insert(self.last_probe, (id, probe));
        }
        news.iter().for_each(|event| ward.log.tell(event));
        (ward.hands.doubt)(doubts);
        if has_another {
            (ward.hands.another)();
        }
        // A closed port whose option was switched off is opened, too.
        let shut = ward.refuse_when_down && !has_up;
        if shutter.is_due(shut, now) {
            move_shutter(ward, shutter, shut, now);
        }
        // The predecessor may already have logged it. A port that could not be moved yet logs nothing.
        if shutter.retry_at.is_none() {
            let was_refusing =
                std::mem::replace(&mut ward.table.lock_at(now).outage().is_refusing, shutter.is_shut());
            match (was_refusing, shutter.is_shut()) {
                (false, true) => ward.log.tell(&Event::Refusing),
                (true, false) => ward.log.tell(&Event::Welcoming),
                (false, false) | (true, true) => {}
            }
        }
        let next = [next, shutter.retry_at].into_iter().flatten().min();
        if *due != next {
            if let Some(at) = due.take() {
                self.agenda.remove(&(at, id));
            }
            self.agenda.extend(next.map(|at| (at, id)));
            *due = next;
        }
    }

    fn answered(&mut self, id: u64, findings: Findings) {
        let Some((ward_id, probe)) = self.under_way.remove(&id) else { return };
        let Some(Minded { ward, .. }) = self.wards.get(&ward_id) else { return };
        let Findings { outcome, up, down } = findings;
        let result = match outcome {
            Outcome::Up => ProbeResult::Good,
            Outcome::Down(why) => ProbeResult::Bad(why),
            Outcome::Unknown(cause) => {
                let text = format!(
                    "cannot check group {} channel {}: {cause}",
                    probe.channel.group.index(),
                    probe.channel.channel.index()
                );
                ward.log.tell(&Event::Note { severity: Severity::Debug, text });
                ProbeResult::Unknown
            }
        };
        let (seen, transition) = {
            let mut table = ward.table.lock_at(self.clock.now());
            (table.seen(&probe, up, &down), table.probed(&probe, result))
        };
        for transition in seen.into_iter().chain(transition) {
            let kicks = ward.checks.kick && matches!(transition.what, Happened::Down(_));
            ward.log.tell(&Event::from(transition));
            if kicks {
                (ward.hands.kick)(probe.channel);
            }
            (ward.hands.serve_line)();
        }
        self.look_at(ward_id);
    }
}

fn move_shutter(ward: &Ward, shutter: &mut Shutter, shut: bool, now: Duration) {
    match if shut { (ward.hands.shut)() } else { (ward.hands.open)() } {
        Ok(()) => shutter.moved(shut),
        // Another process holds the listeners, too, for a while.
        Err(e) if e.kind() == ErrorKind::WouldBlock => shutter.stuck(now),
        Err(e) => {
            let text = format!("cannot {} listening: {e}", if shut { "stop" } else { "go on" });
            ward.log.tell(&Event::Note { severity: Severity::Error, text });
            shutter.stuck(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr, TcpListener};
    use std::num::NonZeroU16;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Instant;

    use super::super::ward::{Checks, Hands};
    use super::*;
    use crate::sched::{
        Addresses, AdminState, ChannelKey, CheckRules, GroupId, HealthRules, Rules, SharedTable, Table,
    };
    use crate::spec::{Address, ChannelManner, Check, ProxyVersion, UnixName};
    use crate::sys::Outgoing;

    fn listener() -> TcpListener {
        TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port")
    }

    fn minder() -> Minder {
        Minder::start(Clock::start(), &Log::stderr(false), Budget::new(500, 0)).expect("a thread")
    }

    const OFTEN: CheckRules = CheckRules { interval: Duration::from_millis(5), rise: 1, fall: 1 };

    /// A service with one channel.
    fn ward(address: SocketAddr, check: Option<CheckRules>, lines: &Arc<AtomicUsize>) -> Ward {
        let health = HealthRules { check, ..HealthRules::NONE };
        let mut table = Table::new(Rules { health, ..Rules::CLASSIC });
        table.create(GroupId::FIRST, Addresses::from(address), None, AdminState::Enabled).expect("a slot");
        let lines = Arc::clone(lines);
        let count = move || {
            let _ = lines.fetch_add(1, Ordering::SeqCst);
        };
        let (check, timeout) = (Arc::new(Check::Tcp), Duration::from_secs(9));
        Ward {
            table: SharedTable::new(table),
            log: Log::stderr(false),
            first_port: 1,
            outgoing: Outgoing::default(),
            connect_timeout: Duration::from_secs(9),
            checks: Checks { check, timeout, port: None, kick: false },
            refuse_when_down: false,
            hands: Hands {
                kick: Box::new(|_| ()),
                shut: Box::new(|| Ok(())),
                open: Box::new(|| Ok(())),
                serve_line: Box::new(count),
                doubt: Box::new(|_| ()),
                another: Box::new(|| ()),
                leads_back: Box::new(|_, _| None),
            },
        }
    }

    #[test]
    fn a_service_that_is_left_is_not_checked_any_more_and_the_others_are() {
        let (first, second) = (listener(), listener());
        let address = |listener: &TcpListener| listener.local_addr().expect("it is bound");
        let minder = minder();
        let lines = Arc::default();
        let (one, two) = (minder.alarm(), minder.alarm());
        minder.mind(&one, ward(address(&first), Some(OFTEN), &lines));
        for _ in 0..3 {
            first.accept().expect("a check");
        }
        minder.leave(&one);
        minder.mind(&two, ward(address(&second), Some(OFTEN), &lines));
        second.accept().expect("a check");
        // Whatever was begun before is in the queue by now.
        first.set_nonblocking(true).expect("a flag");
        while first.accept().is_ok() {}
        for _ in 0..20 {
            second.accept().expect("a check");
        }
        assert_eq!(first.accept().map_err(|e| e.kind()).err(), Some(io::ErrorKind::WouldBlock));
        minder.stop();
    }

    #[test]
    fn a_service_that_is_left_and_minded_again_before_anybody_looks_is_minded() {
        let checked = listener();
        let address = checked.local_addr().expect("it is bound");
        let minder = minder();
        let (lines, one) = (Arc::default(), minder.alarm());
        checked.set_nonblocking(true).expect("a flag");
        minder.mind(&one, ward(address, Some(OFTEN), &lines));
        for _ in 0..50 {
            minder.leave(&one);
            minder.mind(&one, ward(address, Some(OFTEN), &lines));
            let end = Instant::now() + Duration::from_secs(20);
            while checked.accept().is_ok() {}
            while checked.accept().is_err() {
                assert!(Instant::now() < end, "nobody checks it");
                thread::yield_now();
            }
        }
        minder.stop();
    }

    #[test]
    fn only_whose_alarm_rings_is_looked_at() {
        let minder = minder();
        let (quiet, rung): (Arc<AtomicUsize>, Arc<AtomicUsize>) = Default::default();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 9));
        let alarms: Vec<Alarm> = (0..100).map(|_| minder.alarm()).collect();
        for (n, alarm) in alarms.iter().enumerate() {
            minder.mind(alarm, ward(address, None, if n == 7 { &rung } else { &quiet }));
        }
        let until = |n| {
            while rung.load(Ordering::SeqCst) < n {
                thread::yield_now()
            }
        };
        until(1);
        while quiet.load(Ordering::SeqCst) < 99 {
            thread::yield_now();
        }
        for n in 2..10 {
            alarms[7].ring();
            until(n);
        }
        assert_eq!(quiet.load(Ordering::SeqCst), 99);
        minder.stop();
    }

    #[test]
    fn a_unix_socket_is_checked_where_it_is_whatever_port_is_to_be_asked() {
        let mut table = Table::new(Rules {
            health: HealthRules { check: Some(OFTEN), ..HealthRules::NONE },
            ..Rules::CLASSIC
        });
        let name: UnixName = "unix:/run/none.sock".parse().expect("a name");
        let made = table.create(GroupId::FIRST, Address::from(name).into(), None, AdminState::Enabled);
        let key = ChannelKey { group: GroupId::FIRST, channel: made.expect("a slot") };
        let proxy = Some(ProxyVersion::V2);
        table.set_manner(key, ChannelManner { proxy, ..ChannelManner::default() }).expect("it is there");
        table.advance(Duration::from_secs(1));
        let probe = table.probes_due(1).pop().expect("it is due");
        let mut ward = ward(SocketAddr::from(([127, 0, 0, 1], 9)), Some(OFTEN), &Arc::default());
        ward.checks.port = NonZeroU16::new(7);
        let order = ward.order(1, &probe);
        assert_eq!((order.port, order.proxy), (None, proxy), "what listens there knows of headers");
    }
}
