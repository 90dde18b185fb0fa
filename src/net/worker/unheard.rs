//! A client of which something has to be heard first, and what a proxy has said of one.
//!
//! Knows: what is kept of it, and how that travels to another process. Never: the worker, sockets.

use std::sync::Arc;

use crate::handover::connection::AnnouncedRecord;
use crate::net::service::{Hearing, Service};
use crate::sched::{Announced, BadGreeting};
use crate::wire::greeting::{GreetingError, GreetingReader, Introduced, Wants};

/// A client that has not said all that it has to say first.
pub(super) struct Unheard {
    pub(super) reader: GreetingReader,
    /// Until when it has to have said it, in ms of the worker's clock.
    pub(super) until: u64,
    /// What its service has for what is kept of it.
    pub(super) hearing: Hearing,
}

impl Unheard {
    pub(super) fn new(service: &Arc<Service>, wants: Wants, until: u64, said: Vec<u8>) -> Self {
        let mut hearing = Hearing::of(service);
        hearing.keep(said.len());
        Self { reader: GreetingReader::new(wants, said), until, hearing }
    }
}

/// What a proxy has said of its client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SaidByProxy {
    pub(super) claim: Option<Announced>,
    /// As they came, without the checksum.
    pub(super) tlvs: Box<[u8]>,
}

impl From<Introduced> for SaidByProxy {
    fn from(Introduced { addresses, tlvs }: Introduced) -> Self {
        let claim = addresses.map(|[client, local]| Announced { client, local });
        Self { claim, tlvs }
    }
}

impl From<&SaidByProxy> for AnnouncedRecord {
    fn from(said: &SaidByProxy) -> Self {
        let addresses = said.claim.map(|Announced { client, local }| [client, local]);
        Self { addresses, tlvs: said.tlvs.to_vec() }
    }
}

impl From<&AnnouncedRecord> for SaidByProxy {
    fn from(said: &AnnouncedRecord) -> Self {
        let claim = said.addresses.map(|[client, local]| Announced { client, local });
        Self { claim, tlvs: said.tlvs.as_slice().into() }
    }
}

impl From<GreetingError> for BadGreeting {
    fn from(error: GreetingError) -> Self {
        match error {
            GreetingError::NoHeader => Self::NoHeader,
            GreetingError::Malformed => Self::Malformed,
        }
    }
}
