//! A client whose greeting is not complete, and what a proxy has said about one.
//!
//! Knows: what is kept of it, and how that gets to another process. Never: the worker, sockets.

use std::sync::Arc;

use crate::handover::connection::AnnouncedRecord;
use crate::net::hearing::Hearing;
use crate::net::service::Service;
use crate::sched::{Announced, BadGreeting, ClientSource};
use crate::wire::greeting::{GreetingError, GreetingReader, Introduced, Wants};

/// A client whose greeting is not complete.
pub(super) struct Unheard {
    pub(super) reader: GreetingReader,
    /// When the greeting times out, in ms of the worker's clock.
    pub(super) until: u64,
    /// Counts its bytes at its service.
    pub(super) hearing: Hearing,
}

impl Unheard {
    pub(super) fn new(
        service: &Arc<Service>,
        client: ClientSource,
        wants: Wants,
        until: u64,
        said: Vec<u8>,
    ) -> Self {
        let mut hearing = Hearing::of(&service.kept_greetings, client);
        hearing.keep(said.len());
        Self { reader: GreetingReader::new(wants, said), until, hearing }
    }
}

/// What a proxy has said about its client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SaidByProxy {
    pub(super) claim: Option<Announced>,
    /// The TLVs as they came, without the checksum.
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
