//! Clients of which something has to be heard before a channel is chosen for them.
//!
//! Knows: how long that may take, how much of it may be kept. Never: what it means, which channel.
//!
//! Who has nothing to say first comes by here without a system call and without memory.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::unheard::{SaidByProxy, Unheard};
use super::{RESET, STARVED_MS, Stage, Worker, millis};
use crate::sched::{Announced, BadGreeting, End, Loss};
use crate::sys::poller::Readiness;
use crate::sys::socket;
use crate::wire::greeting::Greeted;
use crate::wire::relay::{Ending, Side};

impl<P: Readiness> Worker<P> {
    /// Has something to be heard of a client before it is served? Then that is waited for, and otherwise it is served.
    pub(super) fn greet(&mut self, key: usize, seen: SocketAddr) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        let options = connection.service.options();
        if !options.accept_proxy.as_ref().is_some_and(|senders| senders.includes(seen.ip())) {
            drop(options);
            return self.greeted(key, seen);
        }
        let until = self.now.saturating_add(millis(options.greeting_timeout).max(1));
        drop(options);
        self.await_greeting(key, until, Vec::new());
    }

    /// Waits for what a client has to say first, of which this has come.
    pub(super) fn await_greeting(&mut self, key: usize, until: u64, said: Vec<u8>) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        connection.stage = Stage::Greeting(Box::new(Unheard::new(&connection.service, until, said)));
        self.set_deadline(key, Some(until));
    }

    /// Reads what a client says first, until it has said it all or has nothing more to say now.
    pub(super) fn hear(&mut self, key: usize) {
        loop {
            let Some(connection) = self.connections.get_mut(key) else { return };
            let Stage::Greeting(unheard) = &mut connection.stage else { return };
            let room = unheard.reader.room().min(self.scratch.len());
            if !unheard.hearing.has_room(room) {
                // The kernel keeps it meanwhile.
                return self.hear_later(key);
            }
            let error = match socket::read(&connection.client, &mut self.scratch[..room]) {
                Ok(0) => return self.fell_silent(key),
                Ok(n) => match unheard.reader.feed(&self.scratch[..n]) {
                    Ok(None) => {
                        unheard.hearing.keep(unheard.reader.bytes().len());
                        continue;
                    }
                    Ok(Some(greeted)) => return self.heard(key, greeted),
                    Err(why) => return self.close(key, RESET, End::Lost(Loss::BadGreeting(why.into()))),
                },
                Err(error) => error,
            };
            return match error.kind() {
                io::ErrorKind::WouldBlock => {}
                io::ErrorKind::Interrupted | io::ErrorKind::OutOfMemory => self.hear_later(key),
                _ => self.close(key, RESET, End::ClientReset),
            };
        }
    }

    /// No event tells when it is worth looking again.
    fn hear_later(&mut self, key: usize) {
        let Some(connection) = self.connections.get(key) else { return };
        let Stage::Greeting(unheard) = &connection.stage else { return };
        let next = unheard.until.min(self.now.saturating_add(STARVED_MS));
        self.set_deadline(key, Some(next));
    }

    /// A client has ended without having said what it has to say first. One that has said nothing has changed its mind.
    fn fell_silent(&mut self, key: usize) {
        let Some(connection) = self.connections.get(key) else { return };
        let Stage::Greeting(unheard) = &connection.stage else { return };
        if unheard.reader.bytes().is_empty() {
            self.close(key, Ending { reset_client: false, reset_server: true }, End::ClientClosed);
        } else {
            self.close(key, RESET, End::Lost(Loss::BadGreeting(BadGreeting::CutShort)));
        }
    }

    /// It is time for a client to have said what it has to say, or to look again.
    pub(super) fn greeting_expired(&mut self, key: usize) {
        // It may be there and was not read.
        self.hear(key);
        let Some(connection) = self.connections.get(key) else { return };
        let Stage::Greeting(unheard) = &connection.stage else { return };
        let until = unheard.until;
        if until <= self.now {
            return self.close(key, RESET, End::Lost(Loss::GreetingTimeout));
        }
        if connection.deadline.is_none() {
            self.set_deadline(key, Some(until));
        }
    }

    /// A client has said what it has to say first.
    fn heard(&mut self, key: usize, greeted: Greeted) {
        self.set_deadline(key, None);
        let now = self.now;
        let Some(connection) = self.connections.get_mut(key) else { return };
        let Greeted { addresses, tlvs, rest } = greeted;
        connection.stage = Stage::Greeted;
        connection.moved_at = now;
        connection.relay.hold(Side::Client, rest);
        let claim = addresses.map(|[client, local]| Announced { client, local });
        if claim.is_some() || !tlvs.is_empty() {
            connection.announce(SaidByProxy { claim, tlvs });
        }
        // It was let in before it was known whom it speaks for.
        let client = connection.client_ip();
        if let Err(rule) = connection.service.let_in(client) {
            let service = Arc::clone(&connection.service);
            self.close(key, RESET, End::Refused(rule));
            return self.tell_refusal(&service, client, End::Refused(rule));
        }
        // Whoever has it next serves it.
        if !self.shared.leaving.load(Ordering::SeqCst) {
            self.greet_again(key);
        }
    }
}
