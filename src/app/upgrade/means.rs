//! What a handover needs of this process: its server, services and sockets, and what it was asked to do
//! meanwhile.
//!
//! Knows: who has them. Never: when there is a handover, what is done in it.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use rustix::process::Pid;

use super::super::roster::Roster;
use crate::control::{Control, HttpServer};
use crate::handover::message::EndAsked;
use crate::net::server::Server;
use crate::sys::Clock;

pub(super) struct HandoverMeans {
    pub(super) server: Server,
    pub(super) roster: Arc<Roster>,
    pub(super) clock: Clock,
    control: OnceLock<Weak<Control>>,
    http: OnceLock<Weak<HttpServer>>,
    /// What this process was asked to do while another one takes over.
    asked: Mutex<Option<EndAsked>>,
    /// What of that the other process was told.
    told: Mutex<Option<EndAsked>>,
    /// The new process, while it serves and this one still hands over.
    receiver: Mutex<Option<Pid>>,
}

impl HandoverMeans {
    pub(super) fn new(server: Server, roster: Arc<Roster>, clock: Clock) -> Self {
        Self {
            server,
            roster,
            clock,
            control: OnceLock::new(),
            http: OnceLock::new(),
            asked: Mutex::default(),
            told: Mutex::default(),
            receiver: Mutex::default(),
        }
    }

    pub(super) fn attach(&self, control: &Arc<Control>) {
        let _ = self.control.set(Arc::downgrade(control));
    }

    pub(super) fn attach_http(&self, http: &Arc<HttpServer>) {
        let _ = self.http.set(Arc::downgrade(http));
    }

    pub(super) fn control(&self) -> Option<Arc<Control>> {
        self.control.get().and_then(Weak::upgrade)
    }

    /// The HTTP server, if there is one.
    pub(super) fn http(&self) -> Option<Arc<HttpServer>> {
        self.http.get().and_then(Weak::upgrade)
    }

    pub(super) fn asked(&self) -> MutexGuard<'_, Option<EndAsked>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn told(&self) -> MutexGuard<'_, Option<EndAsked>> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn receiver(&self) -> MutexGuard<'_, Option<Pid>> {
        self.receiver.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
