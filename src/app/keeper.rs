//! The thread that writes down what operators change.
//!
//! Knows: when the file is written, how failures are reported, when the file is left to another instance.
//! Never: what the text means, how a file is replaced.
//! Source: docs/state.md, "When it is written".

use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::state::KeptState;
use super::statefile::{StateFile, StateFileError};
use crate::observe::{Event, Log, Severity};

/// Minimum time between two writes.
const PACE: Duration = Duration::from_secs(1);
/// Maximum time between two attempts while writing fails.
const LONGEST: Duration = Duration::from_secs(60);
/// The first pause before checking again whether the predecessor has released the file.
const FIRST_LOOK: Duration = Duration::from_millis(5);
/// Number of descriptors that writing needs: the lock, the directory and the new file.
pub(super) const DESCRIPTORS: usize = 3;

/// Tells the thread of changes. It exists even if there is no thread.
#[derive(Debug, Default)]
pub(super) struct Bell {
    rung: Mutex<Rung>,
    news: Condvar,
    trouble: Mutex<Option<String>>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Rung {
    /// Whether the state may have changed.
    changed: bool,
    /// Whether to write now, without the usual wait.
    at_once: bool,
    /// Whether this is the last write, after which the thread ends.
    last: bool,
}

impl Bell {
    fn rung(&self) -> MutexGuard<'_, Rung> {
        self.rung.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ring(&self, ring: impl FnOnce(&mut Rung)) {
        ring(&mut self.rung());
        self.news.notify_all();
    }

    /// Reports that an operator may have changed something, or that the lines have changed.
    pub(super) fn changed(&self) {
        self.ring(|rung| rung.changed = true);
    }

    /// Reports that a service was stopped, which may have been the last one.
    pub(super) fn stopped(&self) {
        self.ring(|rung| rung.at_once = true);
    }

    /// Why the state cannot be written now; `None`: it can, or it is not kept.
    pub(super) fn trouble(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_trouble(&self, why: Option<String>) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = why;
    }

    /// Waits for this time, or until the last write is asked for. Returns whether it is.
    fn is_last_within(&self, time: Duration) -> bool {
        let rung = self.news.wait_timeout_while(self.rung(), time, |rung| !rung.last);
        rung.unwrap_or_else(PoisonError::into_inner).0.last
    }

    /// Waits until there is something to do and its time has come.
    fn wait(&self, not_before: Option<Instant>) -> Rung {
        let mut rung = self.rung();
        loop {
            let left = not_before.map_or(Duration::ZERO, |at| at.saturating_duration_since(Instant::now()));
            if rung.at_once || rung.last || (rung.changed && left.is_zero()) {
                let seen = *rung;
                (rung.changed, rung.at_once) = (false, false);
                return seen;
            }
            rung = match rung.changed {
                true => self.news.wait_timeout(rung, left).unwrap_or_else(PoisonError::into_inner).0,
                false => self.news.wait(rung).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }
}

/// The state to keep.
pub(super) struct ToKeep {
    pub(super) state: KeptState,
    /// Whether this process only serves its remaining connections. Then the file belongs to its successor.
    pub(super) is_over: bool,
}

/// The file for the state, and what is known of it.
pub(super) struct KeepingPlace {
    pub(super) file: StateFile,
    /// The contents of the file, if known.
    pub(super) text: Option<String>,
    /// Why it cannot be written; this was logged already.
    pub(super) trouble: Option<String>,
    /// Whether the predecessor may still be using it.
    pub(super) is_inherited: bool,
}

/// The thread that writes the state file, if there is one.
pub(super) struct Keeper {
    bell: Arc<Bell>,
    /// The channel is closed when the thread ends.
    ended: Mutex<Option<Receiver<()>>>,
}

impl Keeper {
    /// A keeper that keeps nothing.
    pub(super) fn none(bell: Arc<Bell>) -> Self {
        Self { bell, ended: Mutex::default() }
    }

    /// Is the state kept?
    pub(super) fn keeps(&self) -> bool {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Starts the thread. It writes the state that `look` returns now, and whenever the bell has rung.
    ///
    /// # Errors
    /// There is no thread for it.
    pub(super) fn start(
        bell: Arc<Bell>,
        KeepingPlace { file, text, trouble, is_inherited }: KeepingPlace,
        look: impl Fn() -> ToKeep + Send + 'static,
        log: Log,
    ) -> io::Result<Self> {
        let (ends, ended) = channel();
        let trouble = trouble.map(|why| WriteTrouble { why, delay: PACE });
        bell.set_trouble(
            trouble.as_ref().map(|WriteTrouble { why, .. }| format!("{}: {why}", file.path().display())),
        );
        let keeping = Keeping { file, written: text, not_before: None, trouble, log, _ends: ends };
        let heard = Arc::clone(&bell);
        bell.changed();
        thread::Builder::new().name("state".into()).spawn(move || keeping.run(&heard, look, is_inherited))?;
        Ok(Self { bell, ended: Mutex::new(Some(ended)) })
    }

    /// Has the state written for the last time and the file released. Does not wait for that.
    pub(super) fn finish(&self) {
        self.bell.ring(|rung| rung.last = true);
    }

    /// The same, but waits for at most this time. `false`: it is not done, because a disk may hang.
    pub(super) fn stop(&self, patience: Duration) -> bool {
        self.finish();
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner).take();
        ended.is_none_or(|ended| ended.recv_timeout(patience) != Err(RecvTimeoutError::Timeout))
    }
}

/// Why writing fails, and how long to wait after the next failure.
struct WriteTrouble {
    why: String,
    delay: Duration,
}

struct Keeping {
    file: StateFile,
    /// The contents of the file, if known.
    written: Option<String>,
    not_before: Option<Instant>,
    trouble: Option<WriteTrouble>,
    log: Log,
    _ends: Sender<()>,
}

impl Keeping {
    fn run(mut self, bell: &Bell, look: impl Fn() -> ToKeep, is_inherited: bool) {
        if is_inherited {
            self.inherit(bell);
        }
        loop {
            let rung = bell.wait(self.not_before);
            let ToKeep { state, is_over } = look();
            if self.keep(&state.print()).is_err() {
                bell.changed();
            }
            let path = self.file.path();
            bell.set_trouble(
                self.trouble.as_ref().map(|WriteTrouble { why, .. }| format!("{}: {why}", path.display())),
            );
            if rung.last || is_over {
                break;
            }
        }
        self.file.release();
    }

    /// Waits until the predecessor releases the file, or this process is to end.
    fn inherit(&mut self, bell: &Bell) {
        let (mut delay, begun, mut is_told) = (FIRST_LOOK, Instant::now(), false);
        // Other errors are found, and logged, when the file is written.
        while let Err(StateFileError::Busy(_)) = self.file.inherit() {
            if bell.is_last_within(delay) {
                break;
            }
            delay = (delay * 2).min(PACE);
            if begun.elapsed() > LONGEST && !std::mem::replace(&mut is_told, true) {
                let path = self.file.path().display().to_string();
                let text = format!(
                    "state file {path}: another instance uses it; balance keeps changes once that one has ended"
                );
                self.tell(Severity::Warning, text);
            }
        }
    }

    /// Writes the text, unless the file contains it already.
    ///
    /// # Errors
    /// It could not be written, which was logged.
    fn keep(&mut self, text: &str) -> Result<(), ()> {
        if self.written.as_deref() == Some(text) && self.file.is_there() {
            return Ok(());
        }
        let path = self.file.path().display().to_string();
        let outcome = self.file.write(text);
        let now = Instant::now();
        match outcome {
            Ok(told) => {
                self.written = Some(text.to_owned());
                self.not_before = Some(now + PACE);
                if let Some(told) = told {
                    self.tell(Severity::Warning, format!("state file {path}: {told}"));
                }
                if self.trouble.take().is_some() {
                    self.tell(Severity::Notice, format!("state file {path}: balance can write it again"));
                }
                Ok(())
            }
            Err(error) => {
                let why = self.file.told(&error);
                let before = self.trouble.take();
                if before.as_ref().is_none_or(|before| before.why != why) {
                    self.tell(
                        Severity::Error,
                        format!("state file {path}: cannot write the changes: {why}; balance tries again"),
                    );
                }
                let delay = before.map_or(PACE, |before| (before.delay * 2).min(LONGEST));
                self.not_before = Some(now + delay);
                self.trouble = Some(WriteTrouble { why, delay });
                Err(())
            }
        }
    }

    fn tell(&self, severity: Severity, text: String) {
        self.log.tell(&Event::Note { severity, text });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bell_is_heard_at_its_time_and_what_cannot_wait_at_once() {
        let bell = Bell::default();
        bell.changed();
        assert!(bell.wait(None).changed);
        let later = Instant::now() + Duration::from_millis(20);
        bell.changed();
        bell.changed();
        assert!(bell.wait(Some(later)).changed);
        assert!(Instant::now() >= later);
        let never = Instant::now() + Duration::from_secs(3_600);
        bell.changed();
        bell.stopped();
        let rung = bell.wait(Some(never));
        assert!(rung.changed && rung.at_once && !rung.last);
        bell.ring(|rung| rung.last = true);
        assert!(bell.wait(Some(never)).last);
        assert!(bell.wait(Some(never)).last, "the last time it stays");
    }

    #[test]
    fn a_keeper_that_keeps_nothing_is_stopped_at_once() {
        assert!(Keeper::none(Arc::default()).stop(Duration::from_secs(3_600)));
    }
}
