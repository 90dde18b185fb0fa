//! All workers and services of a process: starts them, opens services, stops listening, closes connections.
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

/// The running data plane. All clones are the same one.
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
    /// Starts the workers. `drained` is called when the last service has stopped: after
    /// [`Running::stop_listening`] and the end of its last connection.
    ///
    /// # Errors
    /// There is no descriptor for a poller, or a thread cannot be started.
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

    /// Starts to serve.
    ///
    /// # Errors
    /// A listener cannot be watched, or the instance is stopping. None of the services is served then.
    pub fn open(&self, services: Vec<NewService>) -> io::Result<Vec<Running>> {
        let shared = &self.shared;
        let opened: Vec<Opened> = services.into_iter().map(|new| shared.enlist(new)).collect();
        let answers = shared.ask(PATIENCE, |answer| Message::Open(opened.clone(), answer));
        let running: Vec<Running> = opened
            .into_iter()
            .map(|new| Running { shared: Arc::clone(shared), service: new.service })
            .collect();
        // Read after they were enlisted: either this is seen here, or they are seen by `stop_listening`.
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

    /// The number of clients accepted and not yet closed, of all services.
    pub fn connections(&self) -> usize {
        self.shared.connections()
    }

    /// The same for these services.
    pub fn connections_of(&self, services: &[ServiceId]) -> usize {
        let found = services.iter().filter_map(|&id| self.shared.service(id));
        found.map(|service| service.connections()).sum()
    }

    /// Was it told to accept no more clients?
    pub fn is_closing(&self) -> bool {
        self.shared.closing.load(Ordering::SeqCst)
    }

    /// Is any service served, or does one still have connections?
    pub fn has_services(&self) -> bool {
        self.shared.has_services()
    }

    /// Does every worker answer a message within this time? A worker that hangs, or is busy longer with
    /// something else, does not.
    pub fn comes_round_within(&self, time: Duration) -> bool {
        self.shared.ask(time, Message::Settle).len() == self.shared.desks.len()
    }

    /// The number of connections that each worker has.
    pub fn loads(&self) -> Vec<usize> {
        self.shared.desks.iter().map(|desk| desk.load.get()).collect()
    }

    /// The limit on descriptors of the process; `u64::MAX` means none.
    pub fn descriptor_limit(&self) -> u64 {
        self.shared.options.descriptor_limit
    }

    /// The congestion control algorithm for bulk data within this host, if one is configured.
    pub fn loopback_congestion(&self) -> Option<&str> {
        self.shared.options.loopback_congestion.as_deref()
    }

    /// The budget from which all code in this process takes descriptors.
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

    /// Frees all ports and closes all connections, with a reset where bytes would be missed. It takes as long
    /// as necessary: the process is about to end, and connections that are still open then would end cleanly.
    pub fn shut_down(&self) {
        self.shared.ends.store(true, Ordering::SeqCst);
        // A worker that still accepted may have handed a client to one that had already finished.
        for _round in 0..2 {
            if !self.shared.see_all_off() {
                return;
            }
        }
    }

    /// Access log records of open connections that are due, oldest first.
    pub fn due(&self, due: AccessDue) -> Vec<AccessRecord> {
        let mut records = self.shared.all_pages(|from, answer| Message::Records(due, from, answer));
        records.sort_by_key(|record| (record.trace.began_at, record.id));
        records
    }

    /// Waits until the dump is written, if anybody reads it. The last thing that the process does.
    pub fn finish_dump(&self) {
        if let Some(dump) = &self.shared.options.dump {
            dump.finish();
        }
    }
}

/// A service that was opened. All clones are the same one.
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
    /// Its number.
    pub fn id(&self) -> ServiceId {
        self.service.id
    }

    /// The phase of its life.
    pub fn phase(&self) -> Phase {
        self.service.phase()
    }

    /// The number of clients accepted and not yet closed.
    pub fn connections(&self) -> usize {
        self.service.connections()
    }

    /// Notes how many clients of it the predecessor has. They count as our own until they are carried or this
    /// is called again.
    pub fn expect(&self, clients: usize) {
        self.service.await_clients(true);
        self.service.expect(clients);
    }

    /// Notes that no more clients come from the predecessor.
    pub fn expect_nobody(&self) {
        self.service.expect(0);
        self.service.gate().expect_nobody();
        self.service.await_clients(false);
        self.shared.see_the_last_off(&self.service);
    }

    /// Accepts the clients in the listen queue, then frees the port. `true` when the port is free, as far as
    /// this process or its predecessor holds it.
    pub fn stop_listening(&self) -> bool {
        let id = self.id();
        self.shared.free_ports(&self.service);
        let answers = self.shared.ask(PATIENCE, |answer| Message::StopListening(id, answer));
        self.service.drain();
        self.shared.see_the_last_off(&self.service);
        answers.len() == self.shared.desks.len()
    }

    /// Listens on more ports. `all` has all addresses on which it then listens.
    ///
    /// # Errors
    /// A listener cannot be watched. No client is accepted on any of the new ports then.
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

    /// Accepts the clients in the listen queues of these ports, then frees them. `all` has all addresses on
    /// which it then listens.
    pub fn stop_listening_on(&self, ports: &[u16], all: Vec<Address>) {
        self.leave_doors(ports);
        self.shared.relocate(&self.service, all, &[], ports);
    }

    /// Accepts the clients that wait on these ports, then none until [`Running::welcome_on`].
    pub fn set_aside(&self, ports: &[u16]) {
        let ports: Arc<[u16]> = ports.into();
        self.shared.ask(PATIENCE, |answer| Message::SetAside(self.id(), Arc::clone(&ports), answer));
    }

    /// Accepts clients on these ports again.
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

    /// Changes the options, also for clients that are already served.
    pub fn change(&self, options: ServiceOptions) {
        self.service.set_options(options);
        self.shared.desks.iter().for_each(|desk| desk.send(Message::Retime(self.id())));
        // A longer queue or timeout changes nothing for clients that already wait; more free slots do.
        self.serve_line();
    }

    /// Closes the connections of a channel; returns how many there were.
    pub fn close_connections(&self, channel: ChannelKey) -> usize {
        let id = self.id();
        self.service.condemn(Some(channel), End::Kicked);
        self.shared.ask(PATIENCE, |answer| Message::Close(id, channel, End::Kicked, answer)).into_iter().sum()
    }

    /// Closes all connections of the service for this reason; returns how many there were.
    pub fn close_all(&self, why: End) -> usize {
        let id = self.id();
        self.service.condemn(None, why);
        self.shared.ask(PATIENCE, |answer| Message::CloseAll(id, why, answer)).into_iter().sum()
    }

    /// Closes the connections of clients whose addresses are in a network; returns how many there were.
    pub fn close_clients(&self, net: IpNet) -> usize {
        let id = self.id();
        self.service.condemn_clients(net, End::Kicked);
        let answers = self.shared.ask(PATIENCE, |answer| Message::CloseClients(id, net, End::Kicked, answer));
        answers.into_iter().sum()
    }

    /// Closes one connection. `false` if there is none with this number.
    pub fn close_session(&self, session: u64) -> bool {
        let id = self.id();
        self.shared.ask(PATIENCE, |answer| Message::CloseSession(id, session, answer)).contains(&true)
    }

    /// Starts a tap of one connection's bytes. `None` if there is no connection with this number.
    pub fn tap(&self, session: u64) -> Option<(TapStart, Tap)> {
        let id = self.id();
        let (tap, source) = new_tap();
        let answers = self.shared.ask(PATIENCE, |answer| Message::Tap(id, session, source.clone(), answer));
        answers.into_iter().flatten().next().map(|start| (start, tap))
    }

    /// All connections, or those of one channel, oldest first.
    pub fn sessions(&self, channel: Option<ChannelKey>) -> Vec<SessionSnapshot> {
        let id = self.id();
        let mut sessions = self.shared.all_pages(|from, answer| Message::Sessions(id, channel, from, answer));
        sessions.sort_by_key(SessionSnapshot::place);
        sessions
    }

    /// The last connections that have ended, at most `most` and as far as they are remembered, the latest one
    /// last.
    pub fn ended(&self, most: usize) -> Vec<EndedSnapshot> {
        // All workers count from the same moment; otherwise the order would depend on which one answers
        // first.
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

    /// Closes the connections of a channel to these addresses, which it no longer has, sooner or later.
    pub fn kick_addresses(&self, channel: ChannelKey, addresses: Vec<Address>) {
        let addresses: Arc<[Address]> = addresses.into();
        for desk in self.shared.desks.iter() {
            desk.send(Message::CloseAddresses(self.id(), channel, Arc::clone(&addresses)));
        }
    }

    /// Makes the listeners refuse connects, after accepting the clients that already wait.
    ///
    /// # Errors
    /// The system cannot stop listening; the service then goes on accepting. `WouldBlock`: another process is
    /// taking over, or this one is.
    pub fn refuse(&self) -> io::Result<()> {
        let id = self.id();
        if self.shared.leaving.load(Ordering::SeqCst) {
            // Another process holds its listeners, too.
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.shared.ask(PATIENCE, |answer| Message::Refuse(id, answer));
        let shut = self.shared.ask_one(|answer| Message::CloseDoor(id, answer)).flatten().unwrap_or(Ok(()));
        if shut.is_err() {
            self.welcome();
        }
        shut
    }

    /// Accepts clients again after [`Running::refuse`].
    ///
    /// # Errors
    /// The system cannot listen again.
    pub fn admit(&self) -> io::Result<()> {
        let id = self.id();
        self.shared.ask_one(|answer| Message::OpenDoor(id, answer)).flatten().unwrap_or(Ok(()))?;
        self.welcome();
        Ok(())
    }

    fn welcome(&self) {
        self.shared.desks.iter().for_each(|desk| desk.send(Message::Welcome(self.id())));
    }

    /// Would a connection of a channel to this address reach the service's own listeners, without end?
    /// Returns a text that says so, if it would.
    pub fn leads_back(&self, channel: ChannelKey, target: Address) -> Option<String> {
        self.service.dialer.leads_back(channel, target).map(|error| error.to_string())
    }

    /// Call it after an operator has changed the table: waiting clients get free slots, and workers learn
    /// what their clients now wait for.
    pub fn table_changed(&self) {
        self.serve_line();
        let pauses = self.service.dialer.table.pauses();
        if self.service.pauses.swap(pauses, Ordering::SeqCst) != pauses {
            self.shared.desks.iter().for_each(|desk| desk.send(Message::PausesChanged(self.id())));
        }
    }

    /// Gives free slots to waiting clients: an operator, or a channel that came back, may have made room.
    pub fn serve_line(&self) {
        self.shared.serve_line(&self.service);
    }
}
