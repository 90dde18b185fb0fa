//! Facts for `doctor` that only the process knows: its limits, circles, and what happened to its clocks.
//!
//! Knows: the kernel's counters when the process began to serve, how a pause shows. Never: what a fact means.

use std::net::IpAddr;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use super::keeper::Bell;
use super::roster::Roster;
use super::scribe::Scribe;
use super::{denied, fenced};
use crate::control::{ClockSigns, KernelSigns, ProcessSigns};
use crate::names::resolve;
use crate::net::server::Server;
use crate::observe::Log;

/// The interval of the thread that notices pauses of the process.
const BEAT: Duration = Duration::from_secs(2);
/// If the thread wakes up later than this, the process was held up.
const LATE: Duration = Duration::from_secs(1);

/// Collects facts about a process that serves.
pub(super) struct Watch {
    server: Server,
    roster: Weak<Roster>,
    log: Log,
    access: Option<Scribe>,
    bell: Arc<Bell>,
    loopback_congestion: Option<String>,
    before: KernelSigns,
    /// The difference to the monotonic clock of the wall clock, and of the clock that also counts suspended
    /// time; in milliseconds.
    ahead: [i64; 2],
    pauses: Arc<Pauses>,
}

/// Pauses in which the process could not run.
#[derive(Default)]
struct Pauses {
    count: AtomicU64,
    longest_millis: AtomicU64,
}

impl Watch {
    /// Begins to watch now.
    pub(super) fn begin(
        server: &Server,
        roster: &Arc<Roster>,
        loopback_congestion: Option<String>,
        (log, access, bell): (&Log, Option<Scribe>, Arc<Bell>),
    ) -> Self {
        let pauses = Arc::new(Pauses::default());
        let seen = Arc::downgrade(&pauses);
        // If there is no thread, pauses are not noticed.
        let _ = thread::Builder::new().name("pulse".into()).spawn(move || beat(&seen));
        Self {
            server: server.clone(),
            // Weak, because the roster owns this value indirectly.
            roster: Arc::downgrade(roster),
            log: log.clone(),
            access,
            bell,
            loopback_congestion,
            before: KernelSigns::read(Path::new("/"), &[]),
            ahead: ahead(),
            pauses,
        }
    }

    /// The facts of now.
    pub(super) fn signs(&self) -> ProcessSigns {
        let [wall, boot] = ahead();
        let [sources, transparent] = self.roster.upgrade().map(|roster| roster.ways()).unwrap_or_default();
        let suspended = u64::try_from(boot - self.ahead[1]).unwrap_or(0);
        ProcessSigns {
            descriptor_limit: Some(self.server.descriptor_limit()).filter(|&limit| limit != u64::MAX),
            descriptors_free: Some(self.server.budget().left() as u64),
            workers: self.server.loads().len(),
            loopback_congestion: self.loopback_congestion.clone(),
            circles: self.roster.upgrade().map(|roster| roster.circles()).unwrap_or_default(),
            sources,
            transparent,
            dropped_lines: self.log.dropped_lines(),
            logs_to_syslog: self.log.is_syslog(),
            access_lines_dropped: self.access.as_ref().map_or(0, |scribe| scribe.access().dropped()),
            access_trouble: self.access.as_ref().and_then(Scribe::trouble),
            state_trouble: self.bell.trouble(),
            clocks: ClockSigns {
                stepped_millis: wall - self.ahead[0],
                suspended: Duration::from_millis(suspended),
                pauses: self.pauses.count.load(Ordering::Relaxed),
                longest_pause: Duration::from_millis(self.pauses.longest_millis.load(Ordering::Relaxed)),
            },
            privileges: self
                .roster
                .upgrade()
                .and_then(|roster| fenced::signs(&roster.process(), roster.takes_addresses())),
            before: self.before.clone(),
        }
    }
}

/// The addresses of a host, or why there are none.
pub(super) fn look_up(host: &str) -> Result<Vec<IpAddr>, String> {
    let found = resolve::addresses(host, 0).map_err(|e| match denied::of_lookup() {
        Some(why) => format!("{e}; {why}"),
        None => e.to_string(),
    })?;
    Ok(found.iter().map(std::net::SocketAddr::ip).collect())
}

/// Measures how late it wakes up, until nobody needs that. While it sleeps it costs nothing.
fn beat(seen: &Weak<Pauses>) {
    let mut last = Instant::now();
    loop {
        thread::sleep(BEAT);
        let Some(pauses) = seen.upgrade() else { return };
        let now = Instant::now();
        let late = now.duration_since(last).saturating_sub(BEAT);
        last = now;
        if late > LATE {
            let millis = u64::try_from(late.as_millis()).unwrap_or(u64::MAX);
            pauses.longest_millis.fetch_max(millis, Ordering::Relaxed);
            pauses.count.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The two differences that `Watch::ahead` holds.
fn ahead() -> [i64; 2] {
    let millis = |clock| {
        let time = clock_gettime(clock);
        time.tv_sec * 1_000 + time.tv_nsec / 1_000_000
    };
    let monotonic = millis(ClockId::Monotonic);
    [millis(ClockId::Realtime) - monotonic, slept_clock().map_or(0, |clock| millis(clock) - monotonic)]
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn slept_clock() -> Option<ClockId> {
    Some(ClockId::Boottime)
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn slept_clock() -> Option<ClockId> {
    None
}
