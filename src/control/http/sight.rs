//! What the page is made of, looked at once for all who ask at about the same time.
//!
//! Knows: how often what is looked at. Never: HTML, sockets.
//! Source: docs/observability.md, "The page".

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::history::{HourHistory, STEP, SampledService};
use crate::control::ready::ReadyState;
use crate::control::services::{ManagedService, ServiceSnapshot, Services};
use crate::observe::{Owner, PastEvent};
use crate::sched::{SessionSnapshot, Snapshot};

/// What was seen within this time is not looked at again: a thousand visitors cost traffic no more than five a second.
const FRESH: Duration = Duration::from_millis(200);
/// To list many sessions the workers are asked for them, so this is done more seldom ...
const SESSIONS_FRESH: Duration = Duration::from_secs(1);
/// ... by so much for each of this many.
const SESSIONS_PER_SECOND: usize = 10_000;
/// More are listed only for those who say that they want them.
const MANY_SESSIONS: usize = 2_000;
/// So many events are shown.
const EVENTS: usize = 40;

/// One service.
pub(crate) struct SeenService {
    pub(crate) label: String,
    pub(crate) snapshot: ServiceSnapshot,
    pub(crate) table: Snapshot,
    pub(crate) readiness: ReadyState,
    managed: Arc<ManagedService>,
}

/// Everything but sessions.
pub(crate) struct SeenProcess {
    pub(crate) at: SystemTime,
    pub(crate) services: Vec<SeenService>,
    /// The oldest first.
    pub(crate) events: Vec<PastEvent>,
}

/// A connection, and the service that it is of.
pub(crate) type SeenSession = (String, SessionSnapshot);

/// Looks, and remembers what it has seen.
pub(crate) struct Lookout {
    services: Arc<Services>,
    began: Instant,
    process: Option<(Instant, SeenProcess)>,
    sessions: Option<(Instant, Vec<SeenSession>)>,
    pub(crate) history: HourHistory,
    next_sample: Duration,
}

impl Lookout {
    pub(crate) fn new(services: Arc<Services>) -> Self {
        Self {
            services,
            began: Instant::now(),
            process: None,
            sessions: None,
            history: HourHistory::default(),
            next_sample: Duration::ZERO,
        }
    }

    /// The time of the history.
    pub(crate) fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// Until the next sample is to be taken.
    pub(crate) fn until_sample(&self) -> Duration {
        self.next_sample.saturating_sub(self.now())
    }

    /// Takes a sample if it is time.
    pub(crate) fn sample(&mut self) {
        let now = self.now();
        if now < self.next_sample {
            return;
        }
        // After a pause the steps begin anew: what was missed is a gap.
        self.next_sample = if now > self.next_sample + STEP { now + STEP } else { self.next_sample + STEP };
        // Anew, since steps are to be as long as they say.
        self.process = None;
        self.look();
        let seen = self.process.iter().flat_map(|(_, seen)| &seen.services);
        self.history.take(
            now,
            seen.map(|one| SampledService {
                label: &one.label,
                table: &one.table,
                connections: one.snapshot.connections,
            }),
        );
    }

    /// What was seen is not so any more.
    pub(crate) fn forget(&mut self) {
        (self.process, self.sessions) = (None, None);
    }

    /// Looks, unless it has just done so.
    pub(crate) fn look(&mut self) {
        if self.process.as_ref().is_none_or(|(at, _)| at.elapsed() >= FRESH) {
            self.process = Some((Instant::now(), see(&self.services)));
        }
    }

    /// What was seen last; `None`: nobody has looked yet.
    pub(crate) fn seen(&self) -> Option<&SeenProcess> {
        self.process.as_ref().map(|(_, seen)| seen)
    }

    /// Asks for the sessions of all services, unless that was just done. `wants_many`: even if there are many; `false`: there are too
    /// many to be listed for nothing.
    pub(crate) fn look_at_sessions(&mut self, wants_many: bool) -> bool {
        let Some((_, seen)) = &self.process else { return false };
        let count: usize = seen.services.iter().map(|one| one.snapshot.connections).sum();
        if count > MANY_SESSIONS && !wants_many {
            return false;
        }
        let known = self.sessions.as_ref();
        let extra = known.map_or(0, |(_, list)| list.len() / SESSIONS_PER_SECOND) as u64;
        if known.is_none_or(|(at, _)| at.elapsed() >= SESSIONS_FRESH + Duration::from_secs(extra)) {
            let sessions = seen.services.iter().flat_map(|one| {
                let list = (one.managed.plane.sessions)(None);
                list.into_iter().map(|session| (one.label.clone(), session))
            });
            self.sessions = Some((Instant::now(), sessions.collect()));
        }
        true
    }

    /// The sessions that were seen last.
    pub(crate) fn sessions(&self) -> &[SeenSession] {
        self.sessions.as_ref().map_or(&[], |(_, list)| list)
    }
}

fn see(services: &Services) -> SeenProcess {
    let all = services.labelled();
    let log = all.first().map(|(_, one)| one.log.of_service(Owner::PROCESS, None));
    let events = log.map_or_else(Vec::new, |log| log.events(EVENTS));
    let seen = all.into_iter().map(|(label, managed)| {
        let (snapshot, table, _) = managed.whole();
        SeenService { label, snapshot, table, readiness: ReadyState::of(&managed), managed }
    });
    SeenProcess { at: SystemTime::now(), services: seen.collect(), events }
}
