//! Clients from which something has to be read before a channel is chosen.
//!
//! Knows: how long that may take, how many bytes may be kept. Never: what they mean, which channel.
//!
//! A client that need not send anything first passes here without a system call or memory.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::unheard::Unheard;
use super::{RESET, STARVED_MS, Stage, Worker, millis};
use crate::net::planted::{self, Bug};
use crate::observe::Event;
use crate::sched::{BadGreeting, End, GroupRange, Loss};
use crate::spec::{ClientSource, StartTls};
use crate::sys::fault::is_exhausted;
use crate::sys::poller::Readiness;
use crate::sys::socket;
use crate::wire::greeting::{Greeted, TlsRequest, Wants, asks_of};
use crate::wire::hello::{Asks, UNRECOGNIZED_NAME};
use crate::wire::relay::{Ending, Side};

impl<P: Readiness> Worker<P> {
    /// Waits for what a client has to send first, or serves it at once if there is nothing.
    pub(super) fn greet(&mut self, key: usize, seen: ClientSource) {
        let Some(connection) = self.connections.get(key) else { return };
        let options = connection.service.options();
        let header = options.accept_proxy.as_ref().is_some_and(|senders| senders.includes(seen));
        let hello = options.routes.is_some();
        let tls = match options.starttls {
            Some(StartTls::Postgres) if hello => TlsRequest::Awaited,
            _ => TlsRequest::Never,
        };
        let wants = Wants { header, hello, tls };
        if !header && !hello {
            drop(options);
            return self.greeted(key, seen);
        }
        let until = self.now.saturating_add(millis(options.greeting_timeout).max(1));
        drop(options);
        if let Some(connection) = self.connections.get_mut(key) {
            let unheard = Unheard::new(&connection.service, seen, wants, until, Vec::new());
            connection.stage = Stage::Greeting(Box::new(unheard));
        }
        self.set_deadline(key, Some(until));
    }

    /// Reads what a client sends first, until it is complete or nothing more has come.
    pub(super) fn hear(&mut self, key: usize) {
        loop {
            let Some(connection) = self.connections.get_mut(key) else { return };
            let Stage::Greeting(unheard) = &mut connection.stage else { return };
            if let Some(answer) = unheard.reader.answer() {
                match socket::write(&connection.client, &[answer]) {
                    Ok(_) => {}
                    // An empty send buffer has room for one byte, if there is memory.
                    Err(e) if is_exhausted(&e) || e.kind() == io::ErrorKind::WouldBlock => {
                        return self.hear_later(key);
                    }
                    Err(_) => return self.close(key, RESET, End::ClientReset),
                }
                match unheard.reader.answered() {
                    Ok(None) => continue,
                    Ok(Some(greeted)) => return self.heard(key, greeted),
                    Err(why) => return self.close(key, RESET, End::Lost(Loss::BadGreeting(why.into()))),
                }
            }
            let wanted = unheard.reader.room().min(self.scratch.len());
            let room = match unheard.hearing.may_read(unheard.reader.bytes().len(), wanted) {
                Ok(room) => room,
                // The kernel keeps the bytes meanwhile.
                Err(cause) if socket::unread(&connection.client) > 0 => {
                    return self.starve_greeting(key, cause);
                }
                // Nothing has to be kept of an end, which may make room.
                Err(_) => {
                    unheard.hearing.is_starved = false;
                    1
                }
            };
            let error = match socket::read(&connection.client, &mut self.scratch[..room]) {
                Ok(0) => return self.fell_silent(key),
                Ok(n) => {
                    let heard = unheard.reader.feed(&self.scratch[..n]);
                    unheard.hearing.keep(unheard.reader.kept());
                    if let Some(header) = unheard.reader.take_header() {
                        connection.announce(header.into());
                        // It was let in before it was known which client it announces.
                        let client = connection.client_source();
                        if let Stage::Greeting(unheard) = &mut connection.stage {
                            unheard.hearing.belongs_to(client);
                        }
                        if let Err(rule) = connection.service.let_in(client) {
                            let service = Arc::clone(&connection.service);
                            self.close(key, RESET, End::Refused(rule));
                            return self.tell_refusal(&service, client, End::Refused(rule));
                        }
                    }
                    match heard {
                        Ok(None) => continue,
                        Ok(Some(greeted)) => return self.heard(key, greeted),
                        Err(why) => return self.close(key, RESET, End::Lost(Loss::BadGreeting(why.into()))),
                    }
                }
                Err(error) => error,
            };
            return match error.kind() {
                io::ErrorKind::WouldBlock => {}
                io::ErrorKind::Interrupted | io::ErrorKind::OutOfMemory => self.hear_later(key),
                _ => self.close(key, RESET, End::ClientReset),
            };
        }
    }

    /// There is no room for what a client sends first.
    fn starve_greeting(&mut self, key: usize, cause: &str) {
        if let Some(connection) = self.connections.get(key) {
            let (service, last) = (&connection.service, connection.client_source());
            if service.kept_greetings.is_to_be_told(self.shared.clock.now()) {
                service.log.tell(&Event::GreetingsFull { last, cause: cause.to_owned() });
            }
        }
        self.hear_later(key);
    }

    /// No event reports when to try again.
    fn hear_later(&mut self, key: usize) {
        let Some(connection) = self.connections.get(key) else { return };
        let Stage::Greeting(unheard) = &connection.stage else { return };
        let next = unheard.until.min(self.now.saturating_add(STARVED_MS));
        self.set_deadline(key, Some(next));
    }

    /// A client has ended before its greeting was complete. One that has sent nothing has changed its mind.
    fn fell_silent(&mut self, key: usize) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        let Stage::Greeting(unheard) = &mut connection.stage else { return };
        let is_silent = unheard.reader.bytes().is_empty();
        match unheard.reader.give_up() {
            // Its channel decides what to make of that.
            Some(greeted) if !is_silent => self.heard(key, greeted),
            _ if is_silent => {
                self.close(key, Ending { reset_client: false, reset_server: true }, End::ClientClosed);
            }
            _ => self.close(key, RESET, End::Lost(Loss::BadGreeting(BadGreeting::CutShort))),
        }
    }

    /// The greeting has timed out, or it is time to try again.
    pub(super) fn greeting_expired(&mut self, key: usize) {
        // It may have come and not been read yet.
        self.hear(key);
        let Some(connection) = self.connections.get_mut(key) else { return };
        let Stage::Greeting(unheard) = &mut connection.stage else { return };
        if unheard.until <= self.now {
            // What it asks for may stand in the bytes that had no room: no server is the right one.
            if unheard.hearing.is_starved {
                return self.close(key, RESET, End::Lost(Loss::GreetingsFull));
            }
            return match unheard.reader.give_up() {
                // The client waits for its server to speak first, or its server will tell it what is missing.
                Some(greeted) => self.heard(key, greeted),
                None => self.close(key, RESET, End::Lost(Loss::GreetingTimeout)),
            };
        }
        if connection.deadline.is_none() {
            let until = unheard.until;
            self.set_deadline(key, Some(until));
        }
    }

    /// A client's greeting is complete.
    fn heard(&mut self, key: usize, greeted: Greeted) {
        self.set_deadline(key, None);
        let now = self.now;
        let Some(connection) = self.connections.get_mut(key) else { return };
        let before = std::mem::replace(&mut connection.stage, Stage::Greeted);
        connection.moved_at = now;
        connection.relay.hold(Side::Client, greeted.rest);
        connection.count_held();
        // What was counted so far is given back only now, so that nobody else gets its room.
        drop(before);
        if greeted.was_granted {
            connection.rare().asks_for_tls = true;
        }
        // The process that gets it next serves it.
        if !self.shared.leaving.load(Ordering::SeqCst) {
            self.greet_again(key);
        }
    }

    /// The groups that a client may go to, by what it asks for. `None`: there are none.
    pub(super) fn within(&self, key: usize) -> Option<GroupRange> {
        let connection = self.connections.get(key)?;
        let options = connection.service.options();
        match &options.routes {
            None => Some(GroupRange::ALL),
            Some(_) if planted::has(Bug::ForgetsRoutes) => Some(GroupRange::ALL),
            // Everything that it has sent is held for its channel.
            Some(routes) => routes.find(&asks_of(connection.relay.held_of(Side::Client))),
        }
    }

    /// No group serves what the client asks for. If it speaks TLS, it gets an alert that says so.
    pub(super) fn not_served(&mut self, key: usize) {
        let Some(connection) = self.connections.get(key) else { return };
        let speaks_tls = matches!(asks_of(connection.relay.held_of(Side::Client)), Asks::Tls { .. });
        // The alert fits into an empty send buffer; a client that is gone needs none.
        let is_told = speaks_tls && socket::write(&connection.client, &UNRECOGNIZED_NAME).is_ok();
        let ending = Ending { reset_client: !is_told, reset_server: true };
        self.close(key, ending, End::Lost(Loss::NotServed));
    }
}
