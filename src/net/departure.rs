//! Clients on their way from this process to another one, and from another one to this.
//!
//! Knows: what travels with a client, in which order they leave. Never: the other process, how anything gets there.
//!
//! Whoever has left is nobody's client here, but counts as one until its [`Departing`] is dropped or taken back. What is dropped
//! closes two descriptors and does nothing to the connection, which is the other process's by then.

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

    /// Whose client it is.
    pub fn service(&self) -> ServiceId {
        self.service
    }

    /// What is known of it. The number of the service is what [`Departing::call_service`] has said.
    pub fn record(&self) -> &ConnectionRecord {
        &self.parcel.record
    }

    /// The other process knows its service by this number.
    pub fn call_service(&mut self, number: usize) {
        self.parcel.record.service = number;
    }

    /// What it holds.
    pub fn bytes(&self) -> &[u8] {
        &self.parcel.bytes
    }

    /// The client's, then the channel's if there is one.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        [Some(&self.parcel.client), self.parcel.server.as_ref()].into_iter().flatten().map(AsFd::as_fd)
    }
}

/// Descriptors for one client, taken from those that the process may have.
#[derive(Debug)]
pub struct Reserved(Taken);

/// A connection from another process.
#[derive(Debug)]
pub struct Arriving {
    /// What is known of it.
    pub record: ConnectionRecord,
    /// What it holds.
    pub bytes: Vec<u8>,
    /// Its client.
    pub client: OwnedFd,
    /// Its channel, if it is connected to one.
    pub server: Option<OwnedFd>,
    /// Whose client it is here.
    pub service: ServiceId,
    /// Its place at the channel, if it is connected to one.
    pub slot: Option<Slot>,
    /// From [`Server::admits`].
    pub taken: Reserved,
}

/// Why a connection cannot be continued here.
#[derive(Debug, thiserror::Error)]
pub enum ArriveError {
    /// Its service does not serve any more, or never did.
    #[error("connection {0} belongs to a service that is not here")]
    NoService(u64),
    /// What is told of it does not fit together.
    #[error("connection {id}: {source}")]
    Nonsense {
        /// What operators call it by.
        id: u64,
        /// What is wrong.
        source: io::Error,
    },
}

impl Arriving {
    /// Whether it can be gone on with, without touching it: to be asked before anybody is told that it has come.
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
        // Its socket knows for as long as there is one.
        let came_to = socket::local(&client).map_or(0, |at| at.port());
        let mut guest = Guest::carried(&service, came_to, shared);
        // Of one that has not said yet whom it speaks for nobody knows.
        if record.announced.is_some() || !service.awaits_header(record.client) {
            let announced = record.announced.as_ref().and_then(|said| said.addresses);
            guest.count_in(announced.map_or(record.client, |[client, _]| client.into()));
        }
        Ok(Parcel { record, bytes, client, server, slot, link, packed_at: None, taken, guest })
    }
}

/// Who is in line first goes first.
fn order(parcel: &Parcel) -> Option<u64> {
    match &parcel.record.stage {
        StageRecord::Waiting(waiting) => Some(waiting.ticket),
        // Those without a place are served after those with one.
        StageRecord::Greeting | StageRecord::Unheard(_) | StageRecord::Relaying(_) => None,
    }
}

impl Server {
    /// Stops to let clients in, those as well who have come already and were not let in: they are for whoever has the listeners
    /// next. From now on clients may leave by [`Server::pack`], and a dial that fails is not gone on with. `false`: a worker has
    /// not answered in time, and may still let clients in.
    pub fn hold_doors(&self) -> bool {
        let shared = &self.shared;
        // After the second round those have arrived whom one worker had let in for another.
        let all = shared.ask(PATIENCE, Message::HoldDoors).len() == shared.desks.len()
            && shared.ask(PATIENCE, Message::Settle).len() == shared.desks.len();
        shared.leaving.store(true, Ordering::SeqCst);
        all
    }

    /// Accepts clients again, and goes on with those that were held back. Clients that have left and were not taken
    /// back stay away.
    pub fn release_doors(&self) {
        self.shared.leaving.store(false, Ordering::SeqCst);
        self.shared.ask(PATIENCE, Message::ReleaseDoors);
    }

    /// Lets some clients leave, as many as this at most: first those in line, in their order, then those who have no channel, then
    /// those who are connected. None are left when it comes back empty and [`Server::left`] says so. Only after
    /// [`Server::hold_doors`].
    pub fn pack(&self, most: usize) -> Vec<Departing> {
        self.pack_some(most, None)
    }

    /// The same, with the clients of these services only.
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
                // What comes later lies on the tray when this is called again.
                let _ = answered.recv_timeout(PATIENCE);
                packed.append(&mut shared.tray());
                left = most.saturating_sub(packed.len());
            }
        }
        packed.sort_by_key(|parcel| (order(parcel).is_none(), order(parcel)));
        packed.into_iter().map(Departing::new).collect()
    }

    /// Takes clients back as they were. No other process has them or has touched them.
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

    /// Waits until the workers have all clients that have arrived.
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

    /// Above every number that a connection has got so far.
    pub fn next_id(&self) -> u64 {
        self.shared.next_id()
    }

    /// No connection gets this number, or a lower one, from now on.
    pub fn number_above(&self, id: u64) {
        self.shared.number_above(id);
    }

    /// Descriptors for so many clients from another process. `None`: there are not so many.
    pub fn admits(&self, clients: usize) -> Option<Vec<Reserved>> {
        (0..clients).map(|_| self.shared.budget.take(2).map(Reserved)).collect()
    }

    /// Goes on with clients from another process, however many clients there may be. Those in line have their places among each
    /// other.
    ///
    /// # Errors
    /// One of them cannot be gone on with ([`Arriving::check`]); then all are closed.
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
