//! All workers and services of a process: started, opened, told to stop listening, told to close connections.
//!
//! Knows: how many workers there are and how to reach them. Never: what they do with a client.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::Duration;

use ipnet::IpNet;

use super::service::{NewService, Phase, Service, ServiceId, ServiceOptions};
pub use super::shared::Options;
use super::shared::{Desk, Message, Opened, PATIENCE, Shared};
use super::worker::Worker;
use crate::observe::{AccessDue, AccessRecord, Log, Tap, TapStart, new_tap};
use crate::sched::{ChannelKey, End, EndedSnapshot, SessionSnapshot};
use crate::spec::Address;
use crate::sys::Clock;
use crate::sys::descriptors::Budget;
use crate::sys::listen::Listener;
use crate::sys::poller::{Poller, Token};

/// The running data plane. Every clone is the same one.
#[derive(Clone)]
pub struct Server {
    pub(super) shared: Arc<Shared>,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("connections", &self.connections()).finish_non_exhaustive()
    }
}

impl Server {
    /// Starts the workers. `drained` is called when the last service has stopped: after [`Running::stop_listening`], its
    /// last connection has ended.
    ///
    /// # Errors
    /// No descriptor for a poller, or no thread.
    pub fn start(
        clock: Clock,
        log: &Log,
        options: Options,
        drained: impl Fn() + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let mut pollers = Vec::new();
        let mut desks = Vec::new();
        for _ in 0..options.workers.max(1) {
            let poller = Poller::new()?;
            let waker = poller.waker(Token::WAKER)?;
            pollers.push(poller);
            desks.push(Desk::new(waker));
        }
        let shared = Shared::new(options, clock, log, desks, drained);
        if let Some(dump) = &shared.options.dump {
            let told = Arc::clone(&shared);
            dump.start(move || told.desks.iter().for_each(|desk| desk.send(Message::DumpHasRoom)))?;
        }
        for (id, poller) in pollers.into_iter().enumerate() {
            let mut worker = Worker::new(id, poller, Arc::clone(&shared));
            thread::Builder::new().name(format!("worker-{id}")).spawn(move || worker.run())?;
        }
        Ok(Self { shared })
    }

    /// Begins to serve.
    ///
    /// # Errors
    /// A listener cannot be watched; then none of them is served.
    pub fn open(&self, services: Vec<NewService>) -> io::Result<Vec<Running>> {
        let shared = &self.shared;
        let opened: Vec<Opened> = services.into_iter().map(|new| shared.enlist(new)).collect();
        let answers = shared.ask(PATIENCE, |answer| Message::Open(opened.clone(), answer));
        let running: Vec<Running> = opened
            .into_iter()
            .map(|new| Running { shared: Arc::clone(shared), service: new.service })
            .collect();
        // Looked at after they were enlisted: either this is seen here, or they are seen there.
        let result = if shared.closing.load(Ordering::SeqCst) {
            Err(io::Error::other("the instance was told to stop"))
        } else if answers.len() < shared.desks.len() {
            Err(io::Error::from(io::ErrorKind::TimedOut))
        } else {
            answers.into_iter().collect()
        };
        match result {
            Ok(()) => Ok(running),
            Err(e) => {
                for service in running {
                    service.stop_listening();
                }
                Err(e)
            }
        }
    }

    /// Clients accepted and not yet closed, of all services.
    pub fn connections(&self) -> usize {
        self.shared.connections()
    }

    /// The same, of these services.
    pub fn connections_of(&self, services: &[ServiceId]) -> usize {
        let found = services.iter().filter_map(|&id| self.shared.service(id));
        found.map(|service| service.connections()).sum()
    }

    /// Was it told to take clients no more?
    pub fn is_closing(&self) -> bool {
        self.shared.closing.load(Ordering::SeqCst)
    }

    /// Is any service served, or has connections left?
    pub fn has_services(&self) -> bool {
        self.shared.has_services()
    }

    /// Does every worker come round to what it is told within this time? One that hangs, or is busy for longer with something else,
    /// does not.
    pub fn comes_round_within(&self, time: Duration) -> bool {
        self.shared.ask(time, Message::Settle).len() == self.shared.desks.len()
    }

    /// Connections that each worker carries.
    pub fn loads(&self) -> Vec<usize> {
        self.shared.desks.iter().map(|desk| desk.load.get()).collect()
    }

    /// How many descriptors the process may have; `u64::MAX` is no limit.
    pub fn descriptor_limit(&self) -> u64 {
        self.shared.options.descriptor_limit
    }

    /// The congestion control of bulk within this host, if there is one of its own.
    pub fn loopback_congestion(&self) -> Option<&str> {
        self.shared.options.loopback_congestion.as_deref()
    }

    /// What all who open descriptors in this process take them from.
    pub(crate) fn budget(&self) -> Arc<Budget> {
        Arc::clone(&self.shared.budget)
    }

    /// Accepts the clients in the listen queues, then frees all ports. No service can be opened from now on.
    pub fn stop_listening(&self) {
        self.shared.closing.store(true, Ordering::SeqCst);
        let services = self.shared.services();
        services.iter().for_each(|service| self.shared.free_ports(service));
        self.shared.ask(PATIENCE, Message::StopAll);
        for service in services {
            service.drain();
            self.shared.see_the_last_off(&service);
        }
    }

    /// Frees all ports and closes all connections, with a reset where bytes would be missed. The process is about to end,
    /// and then what is still open would end cleanly, so this takes as long as it takes.
    pub fn shut_down(&self) {
        self.shared.ends.store(true, Ordering::SeqCst);
        // Before a worker had closed its door, it may have handed a client to one that was done already.
        for _round in 0..2 {
            if !self.shared.see_all_off() {
                return;
            }
        }
    }

    /// What the access log is to tell of connections that go on, the oldest first.
    pub fn due(&self, due: AccessDue) -> Vec<AccessRecord> {
        let mut records = self.shared.all_pages(|from, answer| Message::Records(due, from, answer));
        records.sort_by_key(|record| (record.trace.began_at, record.id));
        records
    }

    /// Lets the dump be written to its end, if anybody reads it. The last thing that the process does.
    pub fn finish_dump(&self) {
        if let Some(dump) = &self.shared.options.dump {
            dump.finish();
        }
    }
}

/// A service that was opened. Every clone is the same one.
#[derive(Clone)]
pub struct Running {
    shared: Arc<Shared>,
    service: Arc<Service>,
}

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Running").field("service", &self.service.id).finish_non_exhaustive()
    }
}

impl Running {
    /// What it is called by.
    pub fn id(&self) -> ServiceId {
        self.service.id
    }

    /// Where it is in its life.
    pub fn phase(&self) -> Phase {
        self.service.phase()
    }

    /// Clients accepted and not yet closed.
    pub fn connections(&self) -> usize {
        self.service.connections()
    }

    /// The process before has so many clients of it, which count as ours do until they are carried or this is said again.
    pub fn expect(&self, clients: usize) {
        self.service.await_clients(true);
        self.service.expect(clients);
    }

    /// No more clients come from the process before.
    pub fn expect_nobody(&self) {
        self.service.expect(0);
        self.service.gate().expect_nobody();
        self.service.await_clients(false);
        self.shared.see_the_last_off(&self.service);
    }

    /// Accepts the clients in the listen queue, then frees the port. `true` when it is free (as far as this process holds it, or the one
    /// that it takes over from).
    pub fn stop_listening(&self) -> bool {
        let id = self.id();
        self.shared.free_ports(&self.service);
        let answers = self.shared.ask(PATIENCE, |answer| Message::StopListening(id, answer));
        self.service.drain();
        self.shared.see_the_last_off(&self.service);
        answers.len() == self.shared.desks.len()
    }

    /// Listens on more ports. `all`: where it listens then.
    ///
    /// # Errors
    /// A listener cannot be watched; then nobody comes in by any of them.
    pub fn listen_too(&self, new: Vec<Listener>, all: Vec<Address>) -> io::Result<()> {
        let ports: Vec<u16> = new.iter().map(|one| one.address().port()).collect();
        self.shared.relocate(&self.service, all, &new, &[]);
        let opened = Opened { service: Arc::clone(&self.service), listeners: new };
        let answers = self.shared.ask(PATIENCE, |answer| Message::Open(vec![opened.clone()], answer));
        let result = match answers.len() < self.shared.desks.len() {
            true => Err(io::ErrorKind::TimedOut.into()),
            false => answers.into_iter().collect(),
        };
        result.inspect_err(|_| self.leave_doors(&ports))
    }

    /// Accepts the clients in the listen queues of these ports, then frees them. `all`: where it listens then.
    pub fn stop_listening_on(&self, ports: &[u16], all: Vec<Address>) {
        self.leave_doors(ports);
        self.shared.relocate(&self.service, all, &[], ports);
    }

    /// Takes whoever waits to be accepted on these ports, then nobody until [`Running::welcome_on`].
    pub fn set_aside(&self, ports: &[u16]) {
        let ports: Arc<[u16]> = ports.into();
        self.shared.ask(PATIENCE, |answer| Message::SetAside(self.id(), Arc::clone(&ports), answer));
    }

    /// Takes clients on these ports again.
    pub fn welcome_on(&self, ports: &[u16]) {
        let ports: Arc<[u16]> = ports.into();
        self.shared
            .desks
            .iter()
            .for_each(|desk| desk.send(Message::WelcomeOn(self.id(), Arc::clone(&ports))));
    }

    fn leave_doors(&self, ports: &[u16]) {
        let ports: Arc<[u16]> = ports.into();
        self.shared.ask(PATIENCE, |answer| Message::StopListeningOn(self.id(), Arc::clone(&ports), answer));
    }

    /// Treats clients otherwise from now on, those that are served already as well.
    pub fn change(&self, options: ServiceOptions) {
        self.service.set_options(options);
        self.shared.desks.iter().for_each(|desk| desk.send(Message::Retime(self.id())));
        // A longer line, or a longer patience, changes nothing for who waits; more room does.
        self.serve_line();
    }

    /// Closes the connections of a channel; how many there were.
    pub fn close_connections(&self, channel: ChannelKey) -> usize {
        let id = self.id();
        self.service.condemn(Some(channel), End::Kicked);
        self.shared.ask(PATIENCE, |answer| Message::Close(id, channel, End::Kicked, answer)).into_iter().sum()
    }

    /// Closes all connections of the service for this reason; how many there were.
    pub fn close_all(&self, why: End) -> usize {
        let id = self.id();
        self.service.condemn(None, why);
        self.shared.ask(PATIENCE, |answer| Message::CloseAll(id, why, answer)).into_iter().sum()
    }

    /// Closes the connections of clients whose addresses are in a network; how many there were.
    pub fn close_clients(&self, net: IpNet) -> usize {
        let id = self.id();
        self.service.condemn_clients(net, End::Kicked);
        let answers = self.shared.ask(PATIENCE, |answer| Message::CloseClients(id, net, End::Kicked, answer));
        answers.into_iter().sum()
    }

    /// Closes one connection. `false` = there is none of that number.
    pub fn close_session(&self, session: u64) -> bool {
        let id = self.id();
        self.shared.ask(PATIENCE, |answer| Message::CloseSession(id, session, answer)).contains(&true)
    }

    /// Shows the bytes of one connection from now on. `None` = there is none of that number.
    pub fn tap(&self, session: u64) -> Option<(TapStart, Tap)> {
        let id = self.id();
        let (tap, source) = new_tap();
        let answers = self.shared.ask(PATIENCE, |answer| Message::Tap(id, session, source.clone(), answer));
        answers.into_iter().flatten().next().map(|start| (start, tap))
    }

    /// All connections, or those of one channel, the oldest first.
    pub fn sessions(&self, channel: Option<ChannelKey>) -> Vec<SessionSnapshot> {
        let id = self.id();
        let mut sessions = self.shared.all_pages(|from, answer| Message::Sessions(id, channel, from, answer));
        sessions.sort_by_key(SessionSnapshot::place);
        sessions
    }

    /// The last connections that have ended, as far as they are remembered, so many at most, the last one last.
    pub fn ended(&self, most: usize) -> Vec<EndedSnapshot> {
        // All workers count from the same moment, or their order would depend on who answers first.
        let (id, now) = (self.id(), self.shared.clock.now());
        let all = self.shared.ask(PATIENCE, |answer| Message::Ended(id, now, answer));
        let mut all: Vec<EndedSnapshot> = all.into_iter().flatten().collect();
        all.sort_by_key(|one| (std::cmp::Reverse(one.ended), one.id));
        all.split_off(all.len().saturating_sub(most))
    }

    /// Closes the connections of a channel, sooner or later.
    pub fn kick(&self, channel: ChannelKey) {
        self.service.condemn(Some(channel), End::ChannelDown);
        // Nobody waits for the count.
        let (answer, _) = sync_channel(1);
        for desk in self.shared.desks.iter() {
            desk.send(Message::Close(self.id(), channel, End::ChannelDown, answer.clone()));
        }
    }

    /// Closes the connections of a channel to these addresses, which are not its own any more, sooner or later.
    pub fn kick_addresses(&self, channel: ChannelKey, addresses: Vec<Address>) {
        let addresses: Arc<[Address]> = addresses.into();
        for desk in self.shared.desks.iter() {
            desk.send(Message::CloseAddresses(self.id(), channel, Arc::clone(&addresses)));
        }
    }

    /// Makes the listeners refuse, after the clients that wait already were accepted.
    ///
    /// # Errors
    /// The system does not stop to listen; then it goes on. `WouldBlock`: not while another process takes over, or is being taken over.
    pub fn refuse(&self) -> io::Result<()> {
        let id = self.id();
        if self.shared.leaving.load(Ordering::SeqCst) {
            // Its listeners are another process's as well.
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.shared.ask(PATIENCE, |answer| Message::Refuse(id, answer));
        let shut = self.shared.ask_one(|answer| Message::CloseDoor(id, answer)).flatten().unwrap_or(Ok(()));
        if shut.is_err() {
            self.welcome();
        }
        shut
    }

    /// Lets clients in again after [`Running::refuse`].
    ///
    /// # Errors
    /// The system does not listen again.
    pub fn admit(&self) -> io::Result<()> {
        let id = self.id();
        self.shared.ask_one(|answer| Message::OpenDoor(id, answer)).flatten().unwrap_or(Ok(()))?;
        self.welcome();
        Ok(())
    }

    fn welcome(&self) {
        self.shared.desks.iter().for_each(|desk| desk.send(Message::Welcome(self.id())));
    }

    /// Would a connection for a channel to this address come in by the service's own listeners, again and again? What is to be
    /// said of that, if so.
    pub fn leads_back(&self, channel: ChannelKey, target: Address) -> Option<String> {
        self.service.dialer.leads_back(channel, target).map(|error| error.to_string())
    }

    /// An operator has changed the table: those in line get what came free, and learn what they wait for now.
    pub fn table_changed(&self) {
        self.serve_line();
        let pauses = self.service.dialer.table.pauses();
        if self.service.pauses.swap(pauses, Ordering::SeqCst) != pauses {
            self.shared.desks.iter().for_each(|desk| desk.send(Message::PausesChanged(self.id())));
        }
    }

    /// Gives free slots to those in line: an operator, or a channel that came back, may have made room.
    pub fn serve_line(&self) {
        self.shared.serve_line(&self.service);
    }
}
