//! Clients on their way from this process to another one, and from another one to this.
//!
//! Knows: what goes with a client, in which order clients leave. Never: the other process, how anything gets
//! there.
//!
//! A client that has left is no longer served here, but is counted until its [`Departing`] is dropped or
//! taken back. Dropping it closes two descriptors and does nothing to the connection, which by then belongs
//! to the other process.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::sync_channel;

use super::server::Server;
use super::service::ServiceId;
pub use super::shared::Left;
use super::shared::{
    Guest, LinePlace, Message, PATIENCE, PackOrder, Parcel, Shared, TRAY_BYTES, Unpacked, Who,
};
use crate::handover::connection::{ConnectionRecord, StageRecord};
use crate::sched::Slot;
use crate::sys::descriptors::Taken;
use crate::sys::socket;
use crate::wire::greeting::GreetingReader;
use crate::wire::relay::Relay;

/// A connection that no worker has any more.
pub struct Departing {
    parcel: Parcel,
    service: ServiceId,
}

impl std::fmt::Debug for Departing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Departing").field("record", self.record()).finish_non_exhaustive()
    }
}

impl Departing {
    fn new(parcel: Parcel) -> Self {
        Self { service: parcel.guest.id, parcel }
    }

    /// The service that it is a client of.
    pub fn service(&self) -> ServiceId {
        self.service
    }

    /// What is known about it. The service's number in it is the one set by [`Departing::call_service`].
    pub fn record(&self) -> &ConnectionRecord {
        &self.parcel.record
    }

    /// Sets the number by which the other process knows the service.
    pub fn call_service(&mut self, number: usize) {
        self.parcel.record.service = number;
    }

    /// The bytes that it holds.
    pub fn bytes(&self) -> &[u8] {
        &self.parcel.bytes
    }

    /// The client's descriptor, then the channel's if it is connected to one.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        [Some(&self.parcel.client), self.parcel.server.as_ref()].into_iter().flatten().map(AsFd::as_fd)
    }
}

/// Descriptors for one client, taken from the process's budget.
#[derive(Debug)]
pub struct Reserved(Taken);

/// A connection from another process.
#[derive(Debug)]
pub struct Arriving {
    /// What is known about it.
    pub record: ConnectionRecord,
    /// The bytes that it holds.
    pub bytes: Vec<u8>,
    /// The client's socket.
    pub client: OwnedFd,
    /// The channel's socket, if it is connected to one.
    pub server: Option<OwnedFd>,
    /// The service that it is a client of in this process.
    pub service: ServiceId,
    /// Its slot of the channel, if it is connected to one.
    pub slot: Option<Slot>,
    /// Descriptors from [`Server::admits`].
    pub taken: Reserved,
}

/// Why a connection cannot be continued here.
#[derive(Debug, thiserror::Error)]
pub enum ArriveError {
    /// Its service is not served any more, or never was.
    #[error("connection {0} belongs to a service that is not here")]
    NoService(u64),
    /// What its record says is inconsistent.
    #[error("connection {id}: {source}")]
    Nonsense {
        /// The number that operators know it by.
        id: u64,
        /// What is wrong.
        source: io::Error,
    },
}

impl Arriving {
    /// Checks, without touching it, whether the connection can be continued. Call it before the other process
    /// is told that it has arrived.
    ///
    /// # Errors
    /// Its record makes no sense.
    pub fn check(&self) -> Result<(), ArriveError> {
        let id = self.record.id;
        let nonsense = |source| Err(ArriveError::Nonsense { id, source });
        let invalid = |why: &str| nonsense(io::Error::new(io::ErrorKind::InvalidData, why));
        match (&self.record.stage, &self.server, &self.slot) {
            (StageRecord::Relaying(_), None, _) => invalid("it has no descriptor of its channel"),
            (StageRecord::Relaying(_), Some(_), None) => invalid("it has no place at its channel"),
            (_, None, None) if self.bytes.len() > GreetingReader::MOST => invalid("it holds too much"),
            (_, None, None) => Ok(()),
            (StageRecord::Greeting | StageRecord::Unheard(_) | StageRecord::Waiting(_), ..) => {
                invalid("it has no channel")
            }
            (StageRecord::Relaying(relaying), Some(_), Some(_)) => {
                Relay::<()>::unpack(&relaying.relay, &self.bytes).map(|_| ()).or_else(nonsense)
            }
        }
    }

    fn into_parcel(self, shared: &Arc<Shared>) -> Result<Parcel, ArriveError> {
        self.check()?;
        let Self { record, bytes, client, server, service, slot, taken: Reserved(taken) } = self;
        let service = shared.service(service).ok_or(ArriveError::NoService(record.id))?;
        let link = match (&server, &slot) {
            (Some(server), Some(slot)) => service.dialer.link(record.client, slot.key(), server),
            _ => None,
        };
        // The socket knows the port as long as it is connected.
        let came_to = socket::local(&client).map_or(0, |at| at.port());
        let mut guest = Guest::carried(&service, came_to, shared);
        // A client whose PROXY header has not come yet is not known.
        if record.announced.is_some() || !service.awaits_header(record.client) {
            let announced = record.announced.as_ref().and_then(|said| said.addresses);
            guest.count_in(announced.map_or(record.client, |[client, _]| client.into()));
        }
        Ok(Parcel { record, bytes, client, server, slot, link, packed_at: None, taken, guest })
    }
}

/// Waiting clients go first, in the order of their places.
fn order(parcel: &Parcel) -> Option<u64> {
    match &parcel.record.stage {
        StageRecord::Waiting(waiting) => Some(waiting.ticket),
        // Clients without a place are served after those with one.
        StageRecord::Greeting | StageRecord::Unheard(_) | StageRecord::Relaying(_) => None,
    }
}

impl Server {
    /// Stops accepting clients, including those that already wait in the listen queues: they are for the
    /// process that has the listeners next. From now on clients may leave by [`Server::pack`], and no client
    /// whose dial fails gets another channel here. `false`: a worker has not answered in time, and may still
    /// accept clients.
    pub fn hold_doors(&self) -> bool {
        let shared = &self.shared;
        // After the second round, clients that one worker accepted for another have arrived.
        let all = shared.ask(PATIENCE, Message::HoldDoors).len() == shared.desks.len()
            && shared.ask(PATIENCE, Message::Settle).len() == shared.desks.len();
        shared.leaving.store(true, Ordering::SeqCst);
        all
    }

    /// Accepts clients again, and continues with those that were held back. Clients that have left and were
    /// not taken back stay away.
    pub fn release_doors(&self) {
        self.shared.leaving.store(false, Ordering::SeqCst);
        self.shared.ask(PATIENCE, Message::ReleaseDoors);
    }

    /// Lets at most `most` clients leave: first those in the wait queue, in their order, then those without a
    /// channel, then connected ones. None are left when the result is empty and [`Server::left`] says so.
    /// Only after [`Server::hold_doors`].
    pub fn pack(&self, most: usize) -> Vec<Departing> {
        self.pack_some(most, None)
    }

    /// Does the same for the clients of these services only.
    pub fn pack_of(&self, most: usize, services: impl IntoIterator<Item = ServiceId>) -> Vec<Departing> {
        self.pack_some(most, Some(Arc::new(services.into_iter().collect())))
    }

    fn pack_some(&self, most: usize, of: Option<Arc<BTreeSet<ServiceId>>>) -> Vec<Departing> {
        let shared = &self.shared;
        let mut packed = Vec::new();
        let mut left = most;
        let is_of = |service: &ServiceId| of.as_ref().is_none_or(|of| of.contains(service));
        let mut line: Vec<LinePlace> =
            shared.ask(PATIENCE, Message::WhoWaits).into_iter().flatten().collect();
        line.retain(|(service, _)| is_of(service));
        line.sort_unstable_by_key(|&(service, ticket)| (ticket, service));
        line.truncate(most);
        let line = Who::InLine(Arc::new(line.into_iter().collect()));
        for who in [line, Who::Greeting, Who::Relaying] {
            if matches!(&who, Who::InLine(places) if places.is_empty()) {
                continue;
            }
            for desk in shared.desks.iter() {
                if left == 0 {
                    break;
                }
                let held: usize = packed.iter().skip(1).map(|parcel: &Parcel| parcel.bytes.len()).sum();
                let bytes = (!packed.is_empty()).then(|| TRAY_BYTES.saturating_sub(held));
                let (answer, answered) = sync_channel(1);
                let wanted = PackOrder { who: who.clone(), most: left, bytes, of: of.clone() };
                desk.send(Message::Pack(wanted, answer));
                // Clients that a worker puts there later are found by the next call.
                let _ = answered.recv_timeout(PATIENCE);
                packed.append(&mut shared.tray());
                left = most.saturating_sub(packed.len());
            }
        }
        packed.sort_by_key(|parcel| (order(parcel).is_none(), order(parcel)));
        packed.into_iter().map(Departing::new).collect()
    }

    /// Takes clients back as they were. No other process may have them or have touched them.
    pub fn take_back(&self, departing: Vec<Departing>) {
        let mut parcels: Vec<Parcel> = departing.into_iter().map(|departing| departing.parcel).collect();
        for (number, desk) in self.shared.desks.iter().enumerate() {
            let (its, others): (Vec<_>, Vec<_>) =
                parcels.into_iter().partition(|parcel| parcel.guest.desk() == Some(number));
            desk.send(Message::Receive(its.into_iter().map(Unpacked::new).collect()));
            parcels = others;
        }
        self.shared.ask(PATIENCE, Message::Settle);
    }

    /// Waits until the workers have received all clients that have arrived.
    pub fn settle(&self) {
        self.shared.ask(PATIENCE, Message::Settle);
    }

    /// How many clients the workers have, without those that have left.
    pub fn left(&self) -> Left {
        let all = self.shared.ask(PATIENCE, Message::Count).into_iter();
        all.fold(Left::default(), |sum, one| Left {
            dialing: sum.dialing + one.dialing,
            others: sum.others + one.others,
        })
    }

    /// A number above those of all connections so far.
    pub fn next_id(&self) -> u64 {
        self.shared.next_id()
    }

    /// Makes the numbers of all later connections greater than `id`.
    pub fn number_above(&self, id: u64) {
        self.shared.number_above(id);
    }

    /// Descriptors for this many clients from another process. `None` if there are not enough.
    pub fn admits(&self, clients: usize) -> Option<Vec<Reserved>> {
        (0..clients).map(|_| self.shared.budget.take(2).map(Reserved)).collect()
    }

    /// Continues clients from another process, whatever the limit on clients. Waiting clients keep their
    /// order.
    ///
    /// # Errors
    /// One of them cannot be continued ([`Arriving::check`]). All are closed then.
    pub fn arrive(&self, arriving: Vec<Arriving>) -> Result<(), ArriveError> {
        let shared = &self.shared;
        let all = arriving.into_iter().map(|one| one.into_parcel(shared));
        let mut parcels: Vec<Parcel> = all.collect::<Result<_, _>>()?;
        parcels.sort_by_key(|parcel| (order(parcel).is_none(), order(parcel)));
        for mut parcel in parcels {
            let lightest = shared.desks.iter().enumerate().min_by_key(|(_, desk)| desk.load.get());
            let Some((number, desk)) = lightest else { continue };
            parcel.guest.sit_at(number);
            desk.send(Message::Receive(vec![Unpacked::new(parcel)]));
        }
        Ok(())
    }
}
