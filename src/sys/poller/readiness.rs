//! What a worker needs from a poller.
//!
//! Knows: what is promised about watches and events. Never: how a system keeps the promises.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use super::token::Token;
use crate::wire::relay::Ready;

/// Reports which descriptors are ready. The system's poller implements it, and so does the simulator's, which
/// can report in every order in which a system may.
pub(crate) trait Readiness {
    /// Watches a connection's socket for everything. Closing the socket ends the watch.
    fn add(&self, fd: impl AsFd, token: Token) -> io::Result<()>;
    /// Stops or resumes reporting that a connection's socket is readable. When resumed, it reports data that
    /// is already there. On a system that cannot do this, readability is always reported.
    fn set_reading(&self, fd: impl AsFd, token: Token, reading: bool) -> io::Result<()>;
    /// Watches a listener that other workers watch, too.
    fn add_listener(&mut self, fd: impl AsFd, token: Token) -> io::Result<()>;
    /// Ends the watch of a listener.
    fn remove(&mut self, fd: impl AsFd);
    /// Waits for events; `None` means without limit. An interrupted wait reports none.
    fn wait(&mut self, timeout: Option<Duration>) -> io::Result<Seen>;
    /// How many events the last wait reported.
    fn events(&self) -> usize;
    /// The `i`-th event of the last wait.
    fn event(&self, i: usize) -> Option<(Token, Ready)>;
}

/// How complete the events of a wait are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seen {
    /// All events were reported.
    All,
    /// As many events as fit were reported; there may be more.
    Part,
    /// Nothing was reported, because a signal came first.
    Interrupted,
}
