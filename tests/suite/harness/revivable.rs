//! A server that can be stopped and started again on the same address.

use std::net::SocketAddr;

use super::servers::name_then_echo;
use super::{Server, own_address};

/// Sends its name, then echoes. Its address belongs to this test alone, so no other test takes it meanwhile.
pub(crate) struct Revivable {
    pub(crate) addr: SocketAddr,
    name: &'static str,
    server: Option<Server>,
    /// Connections accepted by the servers that were stopped.
    accepted: usize,
}

impl Revivable {
    /// A running server.
    pub(crate) fn new(name: &'static str) -> Self {
        let mut server = Self::stopped(name);
        server.start();
        server
    }

    /// A server that does not run yet.
    pub(crate) fn stopped(name: &'static str) -> Self {
        Self { addr: own_address(), name, server: None, accepted: 0 }
    }

    /// Starts it. Does nothing if it runs.
    pub(crate) fn start(&mut self) {
        let (addr, name) = (self.addr, self.name);
        let start = || Server::at(addr, move |stream, _| name_then_echo(stream, name));
        self.server.get_or_insert_with(start);
    }

    /// Stops it as a crash would: connects are refused from now on, connections are reset.
    pub(crate) fn stop(&mut self) {
        if let Some(server) = self.server.take() {
            self.accepted += server.accepted();
            server.crash();
        }
    }

    /// The number of connections accepted so far.
    pub(crate) fn accepted(&self) -> usize {
        self.accepted + self.server.as_ref().map_or(0, Server::accepted)
    }
}

impl std::fmt::Display for Revivable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.addr.fmt(f)
    }
}
