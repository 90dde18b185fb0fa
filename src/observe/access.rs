//! The access log: what is known about one connection, and the queue to the writer.
//!
//! Knows: what a line contains, how many lines may wait. Never: files, the time, who reads the lines.
//! Source: docs/observability.md, "The access log".

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use crate::sched::{Address, ChannelKey, DialCause, End, Peers};

pub(super) mod line;

/// Maximum number of entries that wait for the writer. This is a tenth of a second of more connections than a
/// host can make.
pub const ENTRIES_WAITING: usize = 16_384;
/// Failed attempts of one connection that are recorded in detail; the others are only counted.
pub(super) const ATTEMPTS_TOLD: usize = 8;

/// The name of a service in log lines. It may change while the service runs.
pub type ServiceLabel = Arc<RwLock<Option<Arc<str>>>>;

/// What is collected about a connection while it lasts. Exists only if there is an access log.
#[derive(Debug, Clone, PartialEq)]
pub struct ConnectionTrace {
    /// Who the client is.
    pub peers: Peers,
    /// The port that the client connected to; 0 if unknown.
    pub came_to: u16,
    /// When the client was accepted, by the wall clock.
    pub began: SystemTime,
    /// When the client was accepted, by the data plane's clock.
    pub began_at: Duration,
    /// The first failed attempts to connect to a channel, at most `ATTEMPTS_TOLD`.
    pub failed: Vec<FailedAttempt>,
    /// How many attempts were made.
    pub attempts: u32,
    /// How long the client waited in the wait queue. `None`: it did not wait.
    pub queued: Option<Duration>,
    /// How long the successful connect took. `None`: there was none yet.
    pub connect: Option<Duration>,
    /// The address of the channel that the client is connected to.
    pub address: Option<Address>,
    /// The time from accept until the first byte from the channel was delivered to the client.
    pub first_byte: Option<Duration>,
}

/// An attempt to connect to a channel that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedAttempt {
    /// The channel.
    pub channel: ChannelKey,
    /// The channel's address that was tried.
    pub address: Address,
    /// The cause.
    pub error: AttemptError,
}

/// Why an attempt failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttemptError {
    /// A cause with a name of its own.
    Known(DialCause),
    /// Another error of the system, as its number; it becomes text when the line is written.
    System(i32),
}

/// What the system knows about the network path to a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PathInfo {
    /// The smoothed round-trip time.
    pub rtt: Duration,
    /// How many segments were retransmitted since the connection began.
    pub retransmits: u32,
}

/// What a line reports about a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccessMoment {
    /// The connection got its channel.
    Start,
    /// The connection moved to another channel, because the first one closed it at once.
    MovedOn,
    /// The connection is still open.
    Open,
    /// The connection ended, and how.
    End(End),
}

/// What is known about a connection at one moment.
#[derive(Debug, Clone)]
pub struct AccessRecord {
    /// The name of its service.
    pub service: ServiceLabel,
    /// The connection's number.
    pub id: u64,
    /// What was collected about it.
    pub trace: ConnectionTrace,
    /// Its channel; `None` if it has none.
    pub channel: Option<ChannelKey>,
    /// How long it has lasted.
    pub lasted: Duration,
    /// Bytes from client to channel.
    pub sent_bytes: u64,
    /// Bytes from channel to client.
    pub rcvd_bytes: u64,
    /// The paths to the client and to the channel; `None` where the system does not know.
    pub paths: [Option<PathInfo>; 2],
    /// What the line reports.
    pub moment: AccessMoment,
}

impl ConnectionTrace {
    /// The trace of a client that has just connected.
    pub fn new(peers: Peers, came_to: u16, began: SystemTime, began_at: Duration) -> Self {
        Self {
            peers,
            came_to,
            began,
            began_at,
            failed: Vec::new(),
            attempts: 0,
            queued: None,
            connect: None,
            address: None,
            first_byte: None,
        }
    }

    /// Records a failed attempt.
    pub fn failed(&mut self, channel: ChannelKey, address: Address, error: AttemptError) {
        self.attempts = self.attempts.saturating_add(1);
        if self.failed.len() < ATTEMPTS_TOLD {
            self.failed.push(FailedAttempt { channel, address, error });
        }
    }

    /// Counts an attempt that was given up because another one succeeded first.
    pub fn outrun(&mut self) {
        self.attempts = self.attempts.saturating_add(1);
    }

    /// Records that the connected channel did not serve its client, which leaves it.
    pub fn left(&mut self, channel: ChannelKey, error: AttemptError) {
        if let Some(address) = self.address.take()
            && self.failed.len() < ATTEMPTS_TOLD
        {
            self.failed.push(FailedAttempt { channel, address, error });
        }
        self.connect = None;
    }

    /// Records a successful attempt at this address, and how long it took.
    pub fn connected(&mut self, address: Option<Address>, took: Duration) {
        self.attempts = self.attempts.saturating_add(1);
        (self.address, self.connect) = (address, Some(took));
    }
}

/// What the writer receives.
#[derive(Debug)]
pub enum AccessEntry {
    /// A record to write as a line.
    Line(Box<AccessRecord>),
    /// Nothing to write, but the writer has something else to do.
    Nudge,
}

/// At which moments connections get lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AccessMoments {
    /// When a connection has got its channel.
    pub start: bool,
    /// When a connection has ended.
    pub end: bool,
    /// Again after each such period while it is open. `None`: never.
    pub every: Option<Duration>,
}

/// Finds the connections that are due for a periodic line: those that have completed another period between
/// two moments of the data plane's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AccessDue {
    /// The end of the previous span.
    pub after: Duration,
    /// The end of this span.
    pub until: Duration,
    /// The period.
    pub every: Duration,
}

impl AccessDue {
    /// Is a line due for a connection that began at `began_at`? Over consecutive spans, each period of a
    /// connection is reported once.
    pub fn is_due(&self, began_at: Duration) -> bool {
        let times = |at: Duration| at.saturating_sub(began_at).as_nanos() / self.every.as_nanos().max(1);
        times(self.until) > times(self.after)
    }
}

/// The access log of a process, for the code that adds to it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct AccessLog {
    queue: SyncSender<AccessEntry>,
    moments: AccessMoments,
    dropped: Arc<AtomicU64>,
    /// The writer has lost lines that it has not reported yet.
    is_behind: Arc<AtomicBool>,
}

impl AccessLog {
    /// Creates a log and the receiver from which the writer takes entries.
    pub fn new(moments: AccessMoments) -> (Self, Receiver<AccessEntry>) {
        let (queue, entries) = sync_channel(ENTRIES_WAITING);
        (Self { queue, moments, dropped: Arc::default(), is_behind: Arc::default() }, entries)
    }

    /// At which moments connections get lines.
    pub fn moments(&self) -> AccessMoments {
        self.moments
    }

    /// Passes a record to the writer. Never blocks: if the queue is full, the record is lost and counted.
    pub fn tell(&self, record: Box<AccessRecord>) {
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) =
            self.queue.try_send(AccessEntry::Line(record))
        {
            self.lost(1);
        }
    }

    /// Counts lines that were lost.
    pub fn lost(&self, lines: u64) {
        if lines == 0 {
            return;
        }
        self.dropped.fetch_add(lines, Ordering::Relaxed);
        self.is_behind.store(true, Ordering::Relaxed);
    }

    /// Were lines lost since the last call?
    pub fn take_behind(&self) -> bool {
        self.is_behind.swap(false, Ordering::Relaxed)
    }

    /// How many lines were lost since the start.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Tells the writer to look for other work. If the queue is full, it does so soon anyway.
    pub fn nudge(&self) {
        let _ = self.queue.try_send(AccessEntry::Nudge);
    }
}

/// The name of a service now.
pub(super) fn name_of(label: &ServiceLabel) -> Option<Arc<str>> {
    label.read().unwrap_or_else(PoisonError::into_inner).clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_due_once_in_each_span_however_often_it_is_looked() {
        let (every, began_at) = (Duration::from_secs(5), Duration::from_millis(2_300));
        for step in [1_000, 1_700, 4_999, 5_000, 61_000] {
            let step = Duration::from_millis(step);
            let spans =
                (0..60).map(|number| AccessDue { after: step * number, until: step * (number + 1), every });
            let due = spans.filter(|span| span.is_due(began_at)).count() as u128;
            let times = (step * 60 - began_at).as_nanos() / every.as_nanos();
            assert_eq!(due, times.min(60), "{step:?}");
        }
        let early = AccessDue { after: Duration::ZERO, until: Duration::from_secs(7), every };
        assert!(!early.is_due(began_at), "it is not so old");
    }
}
