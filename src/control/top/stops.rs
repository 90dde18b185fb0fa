//! Signals while `top` uses the terminal: it must be restored before they take effect.
//!
//! Knows: which signals end or stop a process. Never: the screen, the loop.

use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use nix::unistd::{Pid, getpgid, getppid, getsid};
use signal_hook::consts::{SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP, SIGWINCH};
use signal_hook::iterator::Signals;
use signal_hook::low_level::emulate_default_handler;

use super::news::{NewsTeller, TopNews};
use super::screen;

/// Signals that end the process.
const ENDS: [i32; 4] = [SIGTERM, SIGHUP, SIGINT, SIGQUIT];
/// If the loop hangs in a write to the terminal, it cannot act on a signal. After this time it is not waited
/// for any more.
const PATIENCE: Duration = Duration::from_secs(2);

/// Where signals are reported. Handlers cannot be removed again, so this stays as long as the process lives.
static HEARER: OnceLock<Mutex<Option<NewsTeller>>> = OnceLock::new();

/// Signals are reported until this is dropped.
#[derive(Debug)]
pub(super) struct Signalled(());

/// Does this signal end the process?
pub(super) fn is_end(signal: i32) -> bool {
    ENDS.contains(&signal)
}

/// Does this signal stop the process?
pub(super) fn is_stop(signal: i32) -> bool {
    signal == SIGTSTP
}

/// Does this signal continue a stopped process?
pub(super) fn is_continued(signal: i32) -> bool {
    signal == SIGCONT
}

/// Does what the signal does by default.
pub(super) fn obey(signal: i32) {
    // This can fail only for unknown signals.
    let _ = emulate_default_handler(signal);
}

impl Signalled {
    /// Reports signals from now on. Before that they have their usual effect, and the terminal is unchanged.
    pub(super) fn to(teller: NewsTeller) -> std::io::Result<Self> {
        if HEARER.get().is_none() {
            let mut signals =
                Signals::new(ENDS.into_iter().chain([SIGTSTP, SIGCONT, SIGWINCH]).collect::<Vec<_>>())?;
            let _ = HEARER.set(Mutex::new(None));
            let watch = move || signals.forever().for_each(hear);
            thread::Builder::new().name("signals".into()).spawn(watch)?;
        }
        *hearer() = Some(teller);
        Ok(Self(()))
    }
}

impl Drop for Signalled {
    fn drop(&mut self) {
        *hearer() = None;
    }
}

fn hearer() -> MutexGuard<'static, Option<NewsTeller>> {
    HEARER.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner)
}

fn hear(signal: i32) {
    let teller = hearer().clone();
    match teller {
        Some(teller) => {
            teller.tell(TopNews::Signal(signal));
            if is_end(signal) {
                thread::sleep(PATIENCE);
                if hearer().is_some() {
                    screen::give_back_modes();
                    obey(signal);
                }
            }
        }
        // The shell handles this one itself.
        None if signal == SIGINT => {}
        None if is_end(signal) || is_stop(signal) => obey(signal),
        None => {}
    }
}

/// Is there a shell that can continue us after we stop? Without one, we would be stopped for ever.
pub(super) fn can_stop() -> bool {
    // A parent in a pid namespace above ours is shown as 0.
    let of =
        |pid: i32| Some((getsid(Some(Pid::from_raw(pid))).ok()?, getpgid(Some(Pid::from_raw(pid))).ok()?));
    let Some((session, group)) = of(0) else { return false };
    let mut parent = getppid().as_raw();
    for _ in 0..64 {
        match of(parent).filter(|_| parent > 0) {
            Some((its_session, _)) if its_session != session => return false,
            Some((_, its_group)) if its_group != group => return true,
            Some(_) => {}
            None => return false,
        }
        let stat = std::fs::read_to_string(format!("/proc/{parent}/stat")).unwrap_or_default();
        // The name in front may contain anything, so this looks for the last bracket.
        let above = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1)?.parse().ok());
        parent = above.unwrap_or(0);
    }
    false
}
