//! Asks channels whether they speak TLS before a client's first message goes to them, because the client was
//! already told so.
//!
//! Knows: what is sent to the server, and what its answer means for the client. Never: how a channel is
//! chosen.
//! Source: docs/routing.md, "PostgreSQL".
//!
//! All of this is part of the dial and its timeout: a server that gives no answer counts as one that did not
//! accept the connection.

use std::io;

use super::{Stage, Worker};
use crate::sched::{End, Loss};
use crate::sys::poller::Readiness;
use crate::sys::socket;
use crate::wire::hello::HANDSHAKE_FAILURE;
use crate::wire::postgres::{SSL_REQUEST, YES};
use crate::wire::relay::{Ending, Ready};

impl<P: Readiness> Worker<P> {
    /// The channel is connected and is asked now.
    pub(super) fn ask_for_tls(&mut self, key: usize, ready: Ready) {
        let Some(connection) = self.connections.get(key) else { return };
        let Stage::Dialing(dial) = &connection.stage else { return };
        let header = dial.proxy().map(|version| self.header(version, key, dial.peers));
        let mut words = header.unwrap_or_default();
        words.extend_from_slice(&SSL_REQUEST);
        let Some(connection) = self.connections.get_mut(key) else { return };
        let Stage::Dialing(dial) = &mut connection.stage else { return };
        dial.ask(words, &connection.service.dialer);
        self.go_on_asking(key, ready);
    }

    /// Handles an event of a channel that is being asked.
    pub(super) fn go_on_asking(&mut self, key: usize, ready: Ready) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        let Stage::Dialing(dial) = &mut connection.stage else { return };
        let Some((server, words)) = dial.asked() else { return };
        // A long header may take more than one turn.
        while !words.is_empty() {
            match socket::write(server, words) {
                Ok(n) => _ = words.drain(..n),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(e) => return self.dial_failed(key, &e),
            }
        }
        let mut answer = [0];
        match socket::read(server, &mut answer) {
            Ok(0) => self.dial_failed(key, &io::ErrorKind::UnexpectedEof.into()),
            Ok(_) if answer == [YES] => self.connected(key, ready),
            Ok(_) => self.has_no_tls(key),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(e) => self.dial_failed(key, &e),
        }
    }

    /// The client was promised TLS, which its channel does not speak. That is a matter of the channel's
    /// configuration, not an outage.
    fn has_no_tls(&mut self, key: usize) {
        let Some(connection) = self.connections.get(key) else { return };
        // As in `not_served`.
        let is_told = socket::write(&connection.client, &HANDSHAKE_FAILURE).is_ok();
        let ending = Ending { reset_client: !is_told, reset_server: false };
        self.close(key, ending, End::Lost(Loss::NoTls));
    }
}
