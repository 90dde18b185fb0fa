//! All parts that serve in a process, put together.
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

/// All parts that serve, without a service yet.
pub(super) struct Assembly {
    /// The writer of the access log, if there is one.
    pub(super) scribe: Option<Scribe>,
    pub(super) shutdown: Shutdown,
    pub(super) server: Server,
    pub(super) minder: Minder,
    pub(super) names: Resolver,
    pub(super) clock: Clock,
    pub(super) deadlines: Arc<Deadlines>,
    pub(super) roster: Arc<Roster>,
    /// Rung when something may have changed that the state file keeps.
    pub(super) bell: Arc<Bell>,
}
