//! The thread that writes the access log.
//!
//! Knows: when lines are written, what is reported about lost ones. Never: what a line says, how a file is
//! written.
//! Source: docs/observability.md, "The access log".

use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use self::sink::LineSink;
use super::{Failure, exit};
use crate::observe::{
    AccessDue, AccessEntry, AccessLog, AccessMoments, AccessRecord, ENTRIES_WAITING, Event, LineStyle, Log,
    Severity, write_line,
};
use crate::spec::{AccessLogSpec, LineFormat, Named, ProcessSpec};
use crate::sys::Clock;

#[cfg(test)]
mod rate;
mod sink;

/// Number of descriptors that it uses: the file or socket, and the one that replaces it. Both are reserved,
/// however many clients there are.
pub(super) const DESCRIPTORS: usize = 2;
/// How long lines are gathered before they are written.
const GATHERING: Duration = Duration::from_millis(10);
/// Size in bytes from which they are written at once.
const BATCH: usize = 64 * 1024;
/// How often the connected clients are looked at, if there are lines at intervals.
const LOOK: Duration = Duration::from_secs(1);
/// Minimum time between two messages about lost lines.
const TOLD_EVERY: Duration = Duration::from_secs(10);
/// How long a request to open the file again waits for the result.
const REOPENED_WITHIN: Duration = Duration::from_secs(3);

/// Returns the records that are due for connected clients.
type Connected = dyn Fn(AccessDue) -> Vec<AccessRecord> + Send + Sync;

/// An open log to which nobody writes yet.
pub(super) struct OpenedLog {
    sink: LineSink,
    style: LineStyle,
    moments: AccessMoments,
}

/// Opens the target of the access log; `None`: there is no access log.
///
/// # Errors
/// It cannot be opened.
pub(super) fn open(settings: &ProcessSpec, is_foreground: bool) -> Result<Option<OpenedLog>, Failure> {
    let Some(AccessLogSpec { target, format, moments }) = settings.access() else { return Ok(None) };
    let sink = match &*target.name {
        AccessLogSpec::SYSLOG => LineSink::syslog(),
        AccessLogSpec::STDOUT if is_foreground => LineSink::stdout(),
        AccessLogSpec::STDOUT => return Err(no_stdout(&target)),
        path => LineSink::file(path.as_ref()).map_err(|e| refused(&target, exit::OS, &e.to_string()))?,
    };
    let style = match format {
        LineFormat::Text => LineStyle::Text,
        LineFormat::Json => LineStyle::Json,
    };
    let moments = AccessMoments { start: moments.start, end: moments.end, every: moments.every };
    Ok(Some(OpenedLog { sink, style, moments }))
}

/// Why a start would refuse the access log, without making its file; `None`: it would not. `is_its_user`:
/// this process runs as the user who would open it.
pub(super) fn why_not(settings: &ProcessSpec, is_foreground: bool, is_its_user: bool) -> Option<Failure> {
    let AccessLogSpec { target, .. } = settings.access()?;
    match &*target.name {
        AccessLogSpec::SYSLOG => None,
        AccessLogSpec::STDOUT if is_foreground => None,
        AccessLogSpec::STDOUT => Some(no_stdout(&target)),
        path => {
            let error = sink::try_open(path.as_ref()).err()?;
            let counts = is_its_user || error.kind() != io::ErrorKind::PermissionDenied;
            counts.then(|| refused(&target, exit::OS, &error.to_string()))
        }
    }
}

fn no_stdout(target: &Named) -> Failure {
    refused(target, exit::USAGE, "needs -f (--foreground): in the background there is no stdout")
}

fn refused(target: &Named, code: u8, text: &str) -> Failure {
    let text = format!("--access-log {}: {text}", target.name);
    match &target.typed.at {
        Some(at) => Failure::new(exit::CONFIG, format!("{at}: {text}")),
        None => Failure::new(code, format!("balance: {text}")),
    }
}

impl OpenedLog {
    /// Starts the thread that writes.
    ///
    /// # Errors
    /// There is no thread for it.
    pub(super) fn start(self, log: &Log) -> io::Result<Scribe> {
        let (access, entries) = AccessLog::new(self.moments);
        let (ends, ended) = channel();
        let orders = Arc::new(Orders::default());
        let mut writing = Writing {
            access: access.clone(),
            entries,
            orders: Arc::clone(&orders),
            sink: self.sink,
            style: self.style,
            log: log.clone(),
            batch: Vec::new(),
            looked_until: None,
            told: None,
            unsaid: 0,
            cause: None,
        };
        thread::Builder::new().name("access".into()).spawn(move || {
            writing.run();
            drop(ends);
        })?;
        Ok(Scribe { access, orders, ended: Arc::new(Mutex::new(Some(ended))) })
    }
}

/// Requests to the thread besides lines.
#[derive(Default)]
struct Orders {
    wanted: Mutex<ScribeOrders>,
    connected: OnceLock<(Clock, Box<Connected>)>,
    /// Why the last lines could not be written, or the file could not be opened again.
    trouble: Mutex<Option<String>>,
}

#[derive(Default)]
struct ScribeOrders {
    /// Those who wait for the file to be opened again.
    reopen: Vec<SyncSender<Result<(), String>>>,
    stop: bool,
}

impl Orders {
    fn wanted(&self) -> MutexGuard<'_, ScribeOrders> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_trouble(&self, why: Option<String>) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = why;
    }
}

/// The access log of a process. Cheap to clone.
#[derive(Clone)]
pub(super) struct Scribe {
    access: AccessLog,
    orders: Arc<Orders>,
    /// The channel is closed when the thread ends.
    ended: Arc<Mutex<Option<Receiver<()>>>>,
}

impl Scribe {
    /// The handle by which records are written.
    pub(super) fn access(&self) -> AccessLog {
        self.access.clone()
    }

    /// Why the log cannot be written now; `None`: it can.
    pub(super) fn trouble(&self) -> Option<String> {
        self.orders.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sets where records at intervals come from, and the clock for that.
    pub(super) fn watch(&self, clock: Clock, connected: Box<Connected>) {
        let _ = self.orders.connected.set((clock, connected));
    }

    /// Opens the file again, and waits until that is done.
    ///
    /// # Errors
    /// It could not be opened, or has not been opened yet.
    pub(super) fn reopen(&self) -> Result<(), String> {
        let (tells, told) = sync_channel(1);
        self.orders.wanted().reopen.push(tells);
        self.access.nudge();
        match told.recv_timeout(REOPENED_WITHIN) {
            Ok(outcome) => outcome,
            Err(RecvTimeoutError::Timeout) => {
                Err("a write to it takes long; balance opens it again as soon as that write has ended".into())
            }
            Err(RecvTimeoutError::Disconnected) => Err("the process ends".into()),
        }
    }

    /// The same without waiting. The result is logged.
    pub(super) fn reopen_soon(&self, log: &Log) {
        let (scribe, told) = (self.clone(), log.clone());
        let spawned =
            thread::Builder::new().name("reopen".into()).spawn(move || scribe.reopen_and_tell(&told));
        if let Err(e) = spawned {
            tell(log, Severity::Error, format!("cannot be opened again: cannot start a thread: {e}"));
        }
    }

    fn reopen_and_tell(&self, log: &Log) {
        match self.reopen() {
            Ok(()) => tell(log, Severity::Notice, "opened again".into()),
            Err(why) => tell(log, Severity::Error, why),
        }
    }

    /// Writes the waiting lines for at most this time, and ends the thread.
    pub(super) fn stop(&self, patience: Duration, log: &Log) {
        self.orders.wanted().stop = true;
        self.access.nudge();
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner).take();
        if ended.is_some_and(|ended| ended.recv_timeout(patience) == Err(RecvTimeoutError::Timeout)) {
            tell(log, Severity::Error, "the last lines are not written, since writing takes too long".into());
        }
    }
}

fn tell(log: &Log, severity: Severity, text: String) {
    log.tell(&Event::Note { severity, text: format!("access log: {text}") });
}

struct Writing {
    access: AccessLog,
    entries: Receiver<AccessEntry>,
    orders: Arc<Orders>,
    sink: LineSink,
    style: LineStyle,
    log: Log,
    /// Lines that are not written yet.
    batch: Vec<u8>,
    /// When the connected clients were looked at last, on their clock.
    looked_until: Option<Duration>,
    /// When lost lines were reported last.
    told: Option<Instant>,
    /// The number of lost lines at that time.
    unsaid: u64,
    /// Why lines could not be written, until that is reported.
    cause: Option<String>,
}

impl Writing {
    fn run(&mut self) {
        loop {
            match self.entries.recv_timeout(self.patience()) {
                Ok(entry) => {
                    self.take(entry);
                    if !self.orders.wanted().stop {
                        // During this time, a new line need not wake the thread.
                        thread::sleep(GATHERING);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => self.orders.wanted().stop = true,
            }
            let is_last = self.orders.wanted().stop;
            // At most this many lines per round. Otherwise requests would not be handled as long as lines
            // come faster than they are written.
            for _ in 0..ENTRIES_WAITING {
                let Ok(entry) = self.entries.try_recv() else { break };
                self.take(entry);
            }
            self.look();
            self.write();
            if is_last {
                self.access.lost(self.sink.close());
            }
            let asked = std::mem::take(&mut self.orders.wanted().reopen);
            if !asked.is_empty() {
                let outcome = self.reopen();
                asked.iter().for_each(|one| _ = one.try_send(outcome.clone()));
            }
            self.tell_lost(is_last);
            if is_last {
                break;
            }
        }
    }

    /// How long to wait for a line. 0 if the thread must end: with a full queue, it could not be woken for
    /// that.
    fn patience(&self) -> Duration {
        match (self.orders.wanted().stop, self.access.moments().every) {
            (true, _) => Duration::ZERO,
            (false, Some(_)) => LOOK,
            (false, None) => TOLD_EVERY,
        }
    }

    fn take(&mut self, entry: AccessEntry) {
        if let AccessEntry::Line(record) = entry {
            write_line(&mut self.batch, self.style, &record);
            if self.batch.len() >= BATCH {
                self.write();
            }
        }
    }

    fn write(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        let outcome = self.sink.write(&self.batch, &|| self.orders.wanted().stop);
        self.batch.clear();
        let trouble = self.sink.take_trouble();
        if let Some(text) = &trouble {
            tell(&self.log, Severity::Error, text.clone());
        }
        match outcome.as_ref().err().map(|lost| lost.cause.clone()).or(trouble) {
            None if self.sink.is_missed() => {}
            now => self.orders.set_trouble(now),
        }
        if let Err(lost) = outcome {
            self.access.lost(lost.lines);
            self.cause = Some(lost.cause);
            self.tell_lost(false);
        }
    }

    fn reopen(&mut self) -> Result<(), String> {
        let outcome = self.sink.reopen().map_err(|e| e.to_string());
        self.orders.set_trouble(outcome.as_ref().err().cloned());
        let lost = outcome?;
        if lost > 0 {
            self.access.lost(lost);
        }
        Ok(())
    }

    /// Reports how many lines were lost since the last report, but not too often, except the last time.
    fn tell_lost(&mut self, is_last: bool) {
        let is_soon = !is_last && self.told.is_some_and(|told| told.elapsed() < TOLD_EVERY);
        let lines = self.access.dropped() - self.unsaid;
        if lines == 0 || is_soon {
            return;
        }
        (self.told, self.unsaid) = (Some(Instant::now()), self.unsaid + lines);
        let cause = self.cause.take().unwrap_or_else(|| "they come faster than they can be written".into());
        self.log.tell(&Event::AccessLinesDropped { lines, cause });
    }

    /// Writes lines about clients for which the next interval is over.
    fn look(&mut self) {
        let Some(every) = self.access.moments().every else { return };
        let Some((clock, connected)) = self.orders.connected.get() else { return };
        let until = clock.now();
        let Some(after) = self.looked_until else {
            self.looked_until = Some(until);
            return;
        };
        if until.saturating_sub(after) < LOOK {
            return;
        }
        self.looked_until = Some(until);
        for record in connected(AccessDue { after, until, every }) {
            self.take(AccessEntry::Line(Box::new(record)));
        }
    }
}
