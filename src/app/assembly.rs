//! All that serves in a process, put together.
//!
//! Knows: the parts. Never: how they are made, what is served.

use std::sync::Arc;

use super::deadlines::Deadlines;
use super::keeper::Bell;
use super::roster::Roster;
use super::scribe::Scribe;
use crate::names::Resolver;
use crate::net::server::Server;
use crate::probe::Minder;
use crate::process::Shutdown;
use crate::sys::Clock;

/// All that serves, without a service yet.
pub(super) struct Assembly {
    /// Who writes the access log, if there is one.
    pub(super) scribe: Option<Scribe>,
    pub(super) shutdown: Shutdown,
    pub(super) server: Server,
    pub(super) minder: Minder,
    pub(super) names: Resolver,
    pub(super) clock: Clock,
    pub(super) deadlines: Arc<Deadlines>,
    pub(super) roster: Arc<Roster>,
    /// Rung when there is something to keep.
    pub(super) bell: Arc<Bell>,
}
