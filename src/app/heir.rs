//! What a predecessor process leaves to this one, received over a stream.
//!
//! Knows: the stream, the offer and the descriptors that came with it. Never: what is made of it.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

use super::lockdown;
use super::lookup::Known;
use super::origin::HANDOVER;
use super::prepared::Got;
use super::web::HttpWanted;
use crate::control::Endpoint;
use crate::handover::frame;
use crate::handover::message::{Acceptance, FORMAT, FromPredecessor, FromSuccessor, Offer, OfferedService};
use crate::handover::successor::{Successor, SuccessorDeed, SuccessorNews, SuccessorWord};
use crate::process;
use crate::spec::{Address, ListenSpan};
use crate::sys::passing::{DescriptorsLost, HandoverStream};
use crate::sys::socket_file::SocketFileId;

/// How long sending a message may take. A predecessor that does not read it within this time hangs.
const SENT_WITHIN: Duration = Duration::from_secs(15);
/// The pause before reading again after a temporary error.
const TRY_AGAIN: Duration = Duration::from_millis(50);
/// How long one attempt to read waits.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// What a predecessor process leaves to this one.
pub(super) struct Heir {
    /// The stream; `None`: another thread reads it now.
    pub(super) stream: Option<HandoverStream>,
    pub(super) machine: Successor,
    pub(super) offer: Offer,
    /// The listeners of each service, by port.
    pub(super) listeners: Vec<BTreeMap<u16, OwnedFd>>,
    pub(super) control: Option<OwnedFd>,
    http: Option<OwnedFd>,
    pub(super) predecessor: u32,
}

impl Heir {
    /// `None`: this process was started on its own, or the process that started it died before it sent an
    /// offer.
    pub(super) fn of_this_process() -> Option<Self> {
        let predecessor = std::env::var(HANDOVER).ok()?.parse().ok()?;
        let heir = Self::of(UnixStream::from(process::take_stdin().ok()?), predecessor).ok()?;
        if heir.offer.is_fenced {
            // From the first moment on: it explains what this process cannot open.
            lockdown::inherit();
        }
        Some(heir)
    }

    /// Reads what is offered on this stream.
    ///
    /// # Errors
    /// Nothing is offered; the reason, if the other process gave one.
    pub(super) fn of(stream: UnixStream, predecessor: u32) -> Result<Self, Option<String>> {
        let mut stream = HandoverStream::from(stream);
        let mut machine = Successor::new();
        let (message, descriptors) = match receive(&mut stream) {
            Ok(Some((message @ FromPredecessor::Offer(_), _, Ok(descriptors)))) => (message, descriptors),
            Ok(Some((FromPredecessor::Unwilling(why), ..))) => return Err(Some(why)),
            // Without an offer it is not known what was left, so this becomes a start like any other.
            _ => return Err(None),
        };
        machine.learn(SuccessorNews::Heard(&message));
        let FromPredecessor::Offer(offer) = message else { return Err(None) };
        let mut descriptors = VecDeque::from(descriptors);
        let mut listeners = Vec::new();
        for service in &offer.services {
            let mine = descriptors.len().min(service.listen.len());
            listeners
                .push(service.listen.iter().map(|at| at.port()).zip(descriptors.drain(..mine)).collect());
        }
        let control = offer.control.as_ref().and_then(|_| descriptors.pop_front());
        let http = offer.http.and_then(|_| descriptors.pop_front());
        Ok(Self { stream: Some(stream), machine, offer, listeners, control, http, predecessor })
    }

    /// The path by which this process was started.
    pub(super) fn program(&self) -> &[u8] {
        &self.offer.program
    }

    /// The process id of the predecessor.
    pub(super) fn predecessor(&self) -> u32 {
        self.predecessor
    }

    /// The services of the predecessor.
    pub(super) fn services(&self) -> &[OfferedService] {
        &self.offer.services
    }

    /// Takes the listener for this address, if one was left.
    pub(super) fn take_listener(&mut self, place: Address) -> Option<Got> {
        let services = self.offer.services.iter().zip(&mut self.listeners);
        let mut of_place = services.filter(|(one, _)| span_of(one).contains(place));
        of_place.find_map(|(one, listeners)| {
            let (fd, is_passed) = (listeners.remove(&place.port())?, one.passed.contains(&place.port()));
            Some(Got::Left { fd, file: file_of(one), is_passed })
        })
    }

    /// Takes the listener of the HTTP server, if its address is the wanted one.
    pub(super) fn take_http(&mut self, wanted: &HttpWanted<'_>) -> Option<OwnedFd> {
        let is_wanted = |at: &SocketAddr| match wanted {
            HttpWanted::At(addresses) => addresses.contains(at),
            HttpWanted::InTheWay(port) => at.port() == *port,
        };
        self.offer.http.filter(is_wanted).and_then(|_| self.http.take())
    }

    /// Closes the descriptors that were not taken, so that these ports are free as soon as the predecessor
    /// has closed them, too.
    pub(super) fn let_go(&mut self) {
        self.listeners.clear();
        (self.control, self.http) = (None, None);
    }

    /// Number of received descriptors that this process still holds.
    pub(super) fn descriptor_count(&self) -> usize {
        let listeners: usize = self.listeners.iter().map(BTreeMap::len).sum();
        let stream = self.stream.iter().count();
        listeners + self.control.iter().count() + self.http.iter().count() + stream
    }

    /// Takes the control socket.
    pub(super) fn take_endpoint(&mut self) -> Option<io::Result<Endpoint>> {
        Some(Endpoint::inherit(self.control.take()?, self.offer.control.as_ref()?))
    }

    /// Used if only listeners are handed over: says that this process can serve, and waits until the
    /// predecessor takes no more clients.
    ///
    /// # Errors
    /// The predecessor refuses, or the stream fails.
    pub(super) fn begin(&mut self) -> io::Result<()> {
        let deeds = self.machine.learn(SuccessorNews::Prepared(Ok(())));
        let Some(stream) = &mut self.stream else { return Err(io::ErrorKind::NotConnected.into()) };
        let services = (0..self.offer.services.len()).collect();
        let acceptance =
            Acceptance { format: FORMAT, version: env!("CARGO_PKG_VERSION").to_owned(), services };
        for deed in deeds {
            if let SuccessorDeed::Send(word) = deed {
                send(stream, &word, Some(&acceptance))?;
            }
        }
        match receive(stream)? {
            Some((message @ FromPredecessor::Go(_), ..)) => {
                self.machine.learn(SuccessorNews::Heard(&message));
                Ok(())
            }
            Some(_) => Err(io::Error::other("it sent an unexpected message")),
            // The predecessor is dead, and its listeners are ours alone.
            None => Ok(()),
        }
    }

    /// Reports whether serving has begun.
    pub(super) fn served(&mut self, outcome: Result<(), String>) {
        let Some(stream) = &self.stream else { return };
        for deed in self.machine.learn(SuccessorNews::Served(outcome)) {
            if let SuccessorDeed::Send(word) = deed {
                // A dead predecessor need not hear it.
                let _ = send(stream, &word, None);
            }
        }
    }

    /// The addresses of hosts that the predecessor knows.
    pub(super) fn hosts(&self) -> Known {
        self.offer.hosts.clone().into_iter().collect()
    }

    /// Reports that this process cannot take over, and why.
    pub(super) fn fail(&mut self, why: &str) {
        for deed in self.machine.learn(SuccessorNews::Prepared(Err(why.to_owned()))) {
            if let SuccessorDeed::Send(word) = deed {
                // If the predecessor does not read this, it notices the failure anyway.
                let _ = self.stream.as_ref().map(|stream| send(stream, &word, None));
            }
        }
    }
}

/// The addresses at which the line of a service wants to listen.
pub(super) fn span_of(service: &OfferedService) -> ListenSpan {
    // All of them have the same IP address and differ in the port.
    let last = service.listen.iter().map(|at| at.port()).max();
    ListenSpan::new(service.place, last.unwrap_or_default())
}

/// The file of a service's Unix socket, if the predecessor made it.
pub(super) fn file_of(service: &OfferedService) -> Option<SocketFileId> {
    service.file.map(|(device, number)| SocketFileId { device, number })
}

/// A message, the bytes attached to it, and its descriptors.
pub(super) type Said = (FromPredecessor, Vec<u8>, Result<Vec<OwnedFd>, DescriptorsLost>);

/// Waits for the next message without a limit. `None`: the stream has ended.
pub(super) fn receive(stream: &mut HandoverStream) -> io::Result<Option<Said>> {
    loop {
        match stream.receive(Some(LOOK_AGAIN)) {
            Ok(Some(received)) => {
                let garbled = |e: io::Error| io::Error::new(io::ErrorKind::InvalidData, e.to_string());
                let message = received.message().map_err(garbled)?;
                let attached = received.attached().to_vec();
                return Ok(Some((message, attached, received.descriptors)));
            }
            Ok(None) => return Ok(None),
            Err(e) if matches!(e.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock) => {}
            // Only these errors mean that the other process is dead, or not balance.
            Err(e) if e.kind() == io::ErrorKind::InvalidData => return Err(e),
            Err(e) if matches!(e.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset) => {
                return Ok(None);
            }
            Err(_) => thread::sleep(TRY_AGAIN),
        }
    }
}

pub(super) fn send(
    stream: &HandoverStream,
    word: &SuccessorWord,
    acceptance: Option<&Acceptance>,
) -> io::Result<()> {
    let message = match word {
        SuccessorWord::Ready => FromSuccessor::Ready(acceptance.cloned().unwrap_or_default()),
        SuccessorWord::Serving => FromSuccessor::Serving,
        SuccessorWord::Taken(number) => FromSuccessor::Taken(*number),
        SuccessorWord::Refused(number, why) => FromSuccessor::Refused(*number, why.clone()),
        SuccessorWord::Settled => FromSuccessor::Settled,
        SuccessorWord::Failed(why) => FromSuccessor::Failed(why.clone()),
    };
    stream.send(&frame::write(&message, &[], 0)?, &[], SENT_WITHIN)
}
