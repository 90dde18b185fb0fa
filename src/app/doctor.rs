//! What only the process knows when the doctor is asked: its limits, its circles, and what has become of its clocks.
//!
//! Knows: what the system had counted when the process began to serve, how a pause shows. Never: what is thought of it.

use std::net::IpAddr;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use super::fenced;
use super::roster::Roster;
use crate::control::{ClockSigns, KernelSigns, ProcessSigns};
use crate::names::resolve;
use crate::net::server::Server;
use crate::observe::{AccessLog, Log};

/// Between two looks at the clock, by which a pause of the process is seen.
const BEAT: Duration = Duration::from_secs(2);
/// A look that is later than this was held up.
const LATE: Duration = Duration::from_secs(1);

/// Watches over a process that serves.
pub(super) struct Watch {
    server: Server,
    roster: Weak<Roster>,
    log: Log,
    access: Option<AccessLog>,
    loopback_congestion: Option<String>,
    before: KernelSigns,
    /// How far the wall clock, and the one that runs while the machine sleeps, were before the one that does not; in milliseconds.
    ahead: [i64; 2],
    pauses: Arc<Pauses>,
}

/// Times in which the process could not run.
#[derive(Default)]
struct Pauses {
    count: AtomicU64,
    longest_millis: AtomicU64,
}

impl Watch {
    /// From now on.
    pub(super) fn begin(
        server: &Server,
        roster: &Arc<Roster>,
        loopback_congestion: Option<String>,
        (log, access): (&Log, Option<AccessLog>),
    ) -> Self {
        let pauses = Arc::new(Pauses::default());
        let seen = Arc::downgrade(&pauses);
        // Without a thread nobody hears of pauses, and that is all.
        let _ = thread::Builder::new().name("pulse".into()).spawn(move || beat(&seen));
        Self {
            server: server.clone(),
            // The roster has what has this.
            roster: Arc::downgrade(roster),
            log: log.clone(),
            access,
            loopback_congestion,
            before: KernelSigns::read(Path::new("/"), &[]),
            ahead: ahead(),
            pauses,
        }
    }

    /// What there is to say now.
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
            access_lines_dropped: self.access.as_ref().map_or(0, AccessLog::dropped),
            clocks: ClockSigns {
                stepped_millis: wall - self.ahead[0],
                suspended: Duration::from_millis(suspended),
                pauses: self.pauses.count.load(Ordering::Relaxed),
                longest_pause: Duration::from_millis(self.pauses.longest_millis.load(Ordering::Relaxed)),
            },
            privileges: self.roster.upgrade().and_then(|roster| fenced::signs(&roster.process())),
            before: self.before.clone(),
        }
    }
}

/// What a host means now, or why it means nothing.
pub(super) fn look_up(host: &str) -> Result<Vec<IpAddr>, String> {
    let found = resolve::addresses(host, 0).map_err(|e| e.to_string())?;
    Ok(found.iter().map(std::net::SocketAddr::ip).collect())
}

/// Looks at the clock now and then, until nobody wants to know. Asleep it costs nothing.
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

/// The wall clock and the one that runs while the machine sleeps, against the one that does not.
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
