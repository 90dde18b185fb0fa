//! The access log: what is known of one connection, and the queue to whoever writes it down.
//!
//! Knows: what a line is to tell, how many lines may wait. Never: files, the time, who reads the lines.
//! Source: docs/observability.md, "The access log".

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use crate::sched::{Address, ChannelKey, DialCause, End, Peers};

pub(super) mod line;

/// So many entries wait for the writer at most. A tenth of a second of more connections than a host can make.
pub const ENTRIES_WAITING: usize = 16_384;
/// So many attempts of one connection are told; of the others, how many there were.
pub(super) const ATTEMPTS_TOLD: usize = 8;

/// The name by which lines call a service; it may get another one while it runs.
pub type ServiceLabel = Arc<RwLock<Option<Arc<str>>>>;

/// What is gathered of a connection while it lasts. Only while there is an access log.
#[derive(Debug, Clone, PartialEq)]
pub struct ConnectionTrace {
    /// Who it is.
    pub peers: Peers,
    /// The port that it came to; 0 if nobody knows.
    pub came_to: u16,
    /// When it was accepted, by the wall clock.
    pub began: SystemTime,
    /// When it was accepted, by the clock of the data plane.
    pub began_at: Duration,
    /// Attempts to connect that came to nothing; the first few of them.
    pub failed: Vec<FailedAttempt>,
    /// How many attempts were made.
    pub attempts: u32,
    /// How long it waited in line. `None`: it did not.
    pub queued: Option<Duration>,
    /// How long the attempt took that succeeded.
    pub connect: Option<Duration>,
    /// The channel's address that answered.
    pub address: Option<Address>,
    /// From the beginning until the first byte of the channel was delivered to the client.
    pub first_byte: Option<Duration>,
}

/// An attempt to connect that came to nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedAttempt {
    /// Which channel.
    pub channel: ChannelKey,
    /// At which address.
    pub address: Address,
    /// Why.
    pub error: AttemptError,
}

/// Why an attempt came to nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttemptError {
    /// A cause that has a name.
    Known(DialCause),
    /// Another error of the system; it stays a number until it is written.
    System(i32),
}

/// What the system knows of the path to one peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PathInfo {
    /// The smoothed round-trip time.
    pub rtt: Duration,
    /// Segments that were sent again, ever.
    pub retransmits: u32,
}

/// What a line is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccessMoment {
    /// It has got its channel.
    Start,
    /// It has got another channel, since its first one closed the connection at once.
    MovedOn,
    /// It goes on.
    Open,
    /// It has ended.
    End(End),
}

/// What is known of a connection at one moment.
#[derive(Debug, Clone)]
pub struct AccessRecord {
    /// The service that it came to.
    pub service: ServiceLabel,
    /// Its number.
    pub id: u64,
    /// What was gathered.
    pub trace: ConnectionTrace,
    /// The channel that it has. `None`: none.
    pub channel: Option<ChannelKey>,
    /// How long it has lasted.
    pub lasted: Duration,
    /// Bytes client -> channel.
    pub sent_bytes: u64,
    /// Bytes channel -> client.
    pub rcvd_bytes: u64,
    /// The paths to the client and to the channel, where the system knows them.
    pub paths: [Option<PathInfo>; 2],
    /// What has happened.
    pub moment: AccessMoment,
}

impl ConnectionTrace {
    /// Of a client that has just come.
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

    /// An attempt has come to nothing.
    pub fn failed(&mut self, channel: ChannelKey, address: Address, error: AttemptError) {
        self.attempts = self.attempts.saturating_add(1);
        if self.failed.len() < ATTEMPTS_TOLD {
            self.failed.push(FailedAttempt { channel, address, error });
        }
    }

    /// An attempt was given up, since another one had succeeded.
    pub fn outrun(&mut self) {
        self.attempts = self.attempts.saturating_add(1);
    }

    /// The channel that was connected to has not served its client.
    pub fn left(&mut self, channel: ChannelKey, error: AttemptError) {
        if let Some(address) = self.address.take()
            && self.failed.len() < ATTEMPTS_TOLD
        {
            self.failed.push(FailedAttempt { channel, address, error });
        }
        self.connect = None;
    }

    /// An attempt has succeeded.
    pub fn connected(&mut self, address: Option<Address>, took: Duration) {
        self.attempts = self.attempts.saturating_add(1);
        (self.address, self.connect) = (address, Some(took));
    }
}

/// What the writer gets.
#[derive(Debug)]
pub enum AccessEntry {
    /// A line.
    Line(Box<AccessRecord>),
    /// Nothing: there is something else to be done.
    Nudge,
}

/// Which lines there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AccessMoments {
    /// When a client has got its channel.
    pub start: bool,
    /// When a connection has ended.
    pub end: bool,
    /// Each time that it has gone on for so long.
    pub every: Option<Duration>,
}

/// Which connections lines are due of that come every so often: those that have gone on for so long once more between two moments of
/// the data plane's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AccessDue {
    /// The end of the span before.
    pub after: Duration,
    /// The end of this one.
    pub until: Duration,
    /// How often.
    pub every: Duration,
}

impl AccessDue {
    /// Is a line due of a connection that began then? Spans that follow each other tell of each time once.
    pub fn is_due(&self, began_at: Duration) -> bool {
        let times = |at: Duration| at.saturating_sub(began_at).as_nanos() / self.every.as_nanos().max(1);
        times(self.until) > times(self.after)
    }
}

/// The access log of a process, for the code that writes to it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct AccessLog {
    queue: SyncSender<AccessEntry>,
    moments: AccessMoments,
    dropped: Arc<AtomicU64>,
    /// The writer has lost lines that it has not said yet.
    is_behind: Arc<AtomicBool>,
}

impl AccessLog {
    /// A log, and where its lines come out.
    pub fn new(moments: AccessMoments) -> (Self, Receiver<AccessEntry>) {
        let (queue, entries) = sync_channel(ENTRIES_WAITING);
        (Self { queue, moments, dropped: Arc::default(), is_behind: Arc::default() }, entries)
    }

    /// Which lines there are.
    pub fn moments(&self) -> AccessMoments {
        self.moments
    }

    /// Leaves a record to the writer. Never waits: if too many wait already, it is lost and counted.
    pub fn tell(&self, record: Box<AccessRecord>) {
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) =
            self.queue.try_send(AccessEntry::Line(record))
        {
            self.lost(1);
        }
    }

    /// So many lines were lost.
    pub fn lost(&self, lines: u64) {
        if lines == 0 {
            return;
        }
        self.dropped.fetch_add(lines, Ordering::Relaxed);
        self.is_behind.store(true, Ordering::Relaxed);
    }

    /// Were lines lost since this was asked last?
    pub fn take_behind(&self) -> bool {
        self.is_behind.swap(false, Ordering::Relaxed)
    }

    /// How many lines were lost.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// The writer is to look around. If the queue is full it does so soon, without being told.
    pub fn nudge(&self) {
        let _ = self.queue.try_send(AccessEntry::Nudge);
    }
}

/// The name of a service at this moment.
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
