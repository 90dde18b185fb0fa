//! What the page shows, looked up once for all clients that ask at about the same time.
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

/// Values younger than this are not looked up again. So a thousand visitors cost no more than five looks per
/// second.
const FRESH: Duration = Duration::from_millis(200);
/// Sessions are listed less often, because the workers have to be asked for them.
const SESSIONS_FRESH: Duration = Duration::from_secs(1);
/// For each of this many sessions, the list is kept for one second more.
const SESSIONS_PER_SECOND: usize = 10_000;
/// If there are more sessions, they are listed only on request.
const MANY_SESSIONS: usize = 2_000;
/// Number of events shown.
const EVENTS: usize = 40;

/// One service as the page shows it.
pub(crate) struct SeenService {
    pub(crate) label: String,
    pub(crate) snapshot: ServiceSnapshot,
    pub(crate) table: Snapshot,
    pub(crate) readiness: ReadyState,
    managed: Arc<ManagedService>,
}

/// All that the page shows except sessions.
pub(crate) struct SeenProcess {
    pub(crate) at: SystemTime,
    pub(crate) services: Vec<SeenService>,
    /// The oldest first.
    pub(crate) events: Vec<PastEvent>,
}

/// A connection and the label of its service.
pub(crate) type SeenSession = (String, SessionSnapshot);

/// Looks at the services and remembers what it has seen.
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

    /// Now, on the clock of the history.
    pub(crate) fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// The time until the next sample is due.
    pub(crate) fn until_sample(&self) -> Duration {
        self.next_sample.saturating_sub(self.now())
    }

    /// Takes a sample if it is due.
    pub(crate) fn sample(&mut self) {
        let now = self.now();
        if now < self.next_sample {
            return;
        }
        // After a pause of the process the steps begin anew; what was missed is a gap.
        self.next_sample = if now > self.next_sample + STEP { now + STEP } else { self.next_sample + STEP };
        // Looked up again, so that the steps have their exact length.
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

    /// Forgets what was seen, because it has changed.
    pub(crate) fn forget(&mut self) {
        (self.process, self.sessions) = (None, None);
    }

    /// Looks at all services, unless that was just done.
    pub(crate) fn look(&mut self) {
        if self.process.as_ref().is_none_or(|(at, _)| at.elapsed() >= FRESH) {
            self.process = Some((Instant::now(), see(&self.services)));
        }
    }

    /// What was seen last; `None`: nothing yet.
    pub(crate) fn seen(&self) -> Option<&SeenProcess> {
        self.process.as_ref().map(|(_, seen)| seen)
    }

    /// Lists the sessions of all services, unless that was just done. `wants_many`: even if there are many.
    /// Returns `false` if there are too many to list them without being asked.
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

    /// The sessions of the last list.
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
