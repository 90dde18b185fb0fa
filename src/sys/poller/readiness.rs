//! What a worker needs of a poller.
//!
//! Knows: what is promised about watches and events. Never: how a system keeps it.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use super::token::Token;
use crate::wire::relay::Ready;

/// Tells which descriptors can go on. The system's poller is one, and the simulator's, which knows of every order in which
/// a system may tell it, is another.
pub(crate) trait Readiness {
    /// Watches a connection's socket for everything, once and for all. Closing it ends the watch.
    fn add(&self, fd: impl AsFd, token: Token) -> io::Result<()>;
    /// Stops, or starts again, to report that a connection's socket has something to read. Started again, it reports what
    /// is there. Where a system cannot do that, it is reported anyway.
    fn set_reading(&self, fd: impl AsFd, token: Token, reading: bool) -> io::Result<()>;
    /// Watches a listener that other workers watch too.
    fn add_listener(&mut self, fd: impl AsFd, token: Token) -> io::Result<()>;
    /// Ends the watch of a listener.
    fn remove(&mut self, fd: impl AsFd);
    /// Waits for events, `None` = for ever. An interrupted wait reports none.
    fn wait(&mut self, timeout: Option<Duration>) -> io::Result<Seen>;
    /// How many events the last wait reported.
    fn events(&self) -> usize;
    /// The `i`-th event of the last wait: token and readiness.
    fn event(&self, i: usize) -> Option<(Token, Ready)>;
}

/// How much of what there was a wait reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seen {
    /// All of it.
    All,
    /// As many events as are taken at once; there may be more.
    Part,
    /// Nothing: a signal came first.
    Interrupted,
}
