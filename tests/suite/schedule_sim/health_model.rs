//! The health of one channel by the rules alone: ejection, checks, slow start. This is the oracle's part on
//! health.
//!
//! It knows when a probe may be due and when it must be, but not when it is, since that is random.

use std::time::Duration;

use balance::sched::{CheckRules, Happened, HealthRules, HealthState, ProbeResult, Purpose};

const FIRST_DELAY: Duration = Duration::from_millis(250);
const LAST_DELAY: Duration = Duration::from_secs(2);
/// Rounding of a tenth.
const GRAIN: Duration = Duration::from_nanos(20);

/// Something happens neither before the one nor after the other.
#[derive(Debug, Clone, Copy)]
pub(super) struct Window {
    pub(super) earliest: Duration,
    pub(super) latest: Duration,
}

impl Window {
    /// A tenth more or less than `delay` from now on.
    fn about(now: Duration, delay: Duration) -> Self {
        Self { earliest: (now + delay * 9 / 10).saturating_sub(GRAIN), latest: now + delay * 11 / 10 + GRAIN }
    }
}

#[derive(Debug)]
struct Ejected {
    since: Duration,
    why: String,
    due: Window,
}

#[derive(Debug)]
enum Checked {
    New,
    Up { bad: u32, why: String },
    Down { since: Duration, why: String, good: u32 },
}

#[derive(Debug)]
pub(super) struct Health {
    ejected: Option<Ejected>,
    delay: Duration,
    checked: Checked,
    pub(super) tried: bool,
    check_due: Option<Window>,
    /// The probe that was not answered yet.
    asked: Option<(u64, Purpose)>,
    /// How often it came back, rose or became another one.
    pub(super) lives: u32,
    returned_at: Option<Duration>,
    since: Duration,
    ramp_from: Option<Duration>,
}

impl Health {
    pub(super) fn new(rules: &HealthRules, now: Duration) -> Self {
        let soon =
            |check: CheckRules| Window { earliest: now, latest: now + check.interval.min(FIRST_DELAY) };
        Self {
            ejected: None,
            delay: FIRST_DELAY,
            checked: Checked::New,
            tried: false,
            check_due: rules.check.map(soon),
            asked: None,
            lives: 0,
            returned_at: None,
            since: now,
            ramp_from: None,
        }
    }

    /// Other addresses: nothing that was known holds.
    pub(super) fn begin_anew(&mut self, rules: &HealthRules, now: Duration) {
        *self = Self { lives: self.lives + 1, ..Self::new(rules, now) };
    }

    pub(super) fn is_up(&self) -> bool {
        self.ejected.is_none() && !self.is_down()
    }

    fn is_down(&self) -> bool {
        matches!(self.checked, Checked::Down { .. })
    }

    /// A dial that began in life `life` failed by the channel's fault.
    pub(super) fn dial_failed(
        &mut self,
        rules: &HealthRules,
        life: u32,
        why: &str,
        now: Duration,
    ) -> Option<Happened> {
        self.tried = true;
        if !rules.eject || self.ejected.is_some() || life != self.lives {
            return None;
        }
        let stayed = self.returned_at.is_none_or(|at| now - at >= self.delay * 2);
        self.delay = if stayed { FIRST_DELAY } else { (self.delay * 2).min(LAST_DELAY) };
        let due = Window::about(now, self.delay);
        self.ejected = Some(Ejected { since: now, why: why.into(), due });
        self.ramp_from = None;
        Some(Happened::Ejected(why.into()))
    }

    /// A client's connect or a probe got through.
    pub(super) fn comes_back(&mut self, rules: &HealthRules, now: Duration) -> Option<Happened> {
        self.tried = true;
        let since = self.ejected.take()?.since;
        self.returned_at = Some(now);
        self.begin_life(rules, now);
        Some(Happened::Returned(now - since))
    }

    fn begin_life(&mut self, rules: &HealthRules, now: Duration) {
        self.lives += 1;
        if self.is_up() {
            self.since = now;
            self.warm_up(rules, now);
        }
    }

    /// After a return, a rise, or when the operator enables it.
    pub(super) fn warm_up(&mut self, rules: &HealthRules, now: Duration) {
        self.ramp_from = rules.slow_start.map(|_| now);
    }

    /// 64ths of its weight.
    pub(super) fn steps(&self, rules: &HealthRules, now: Duration) -> u32 {
        let (Some(from), Some(whole)) = (self.ramp_from, rules.slow_start) else { return 64 };
        let steps = (now - from).as_micros() * 64 / whole.as_micros();
        u32::try_from(steps).map_or(64, |steps| steps.clamp(1, 64))
    }

    fn return_due(&self) -> Option<Window> {
        self.ejected.as_ref().map(|ejected| ejected.due)
    }

    /// When the next probe is due; `None` = there is none, or the last one was not answered yet.
    pub(super) fn next_probe(&self) -> Option<Window> {
        if self.asked.is_some() {
            return None;
        }
        let windows = [self.return_due(), self.check_due].into_iter().flatten();
        windows.reduce(|a, b| Window { earliest: a.earliest.min(b.earliest), latest: a.latest.min(b.latest) })
    }

    /// The table asks for a probe of this purpose: may it?
    pub(super) fn ask(&mut self, id: u64, purpose: Purpose, now: Duration) {
        assert!(self.asked.is_none(), "a second probe while one is under way: {self:?}");
        let due = match purpose {
            Purpose::Return => self.return_due(),
            Purpose::Doubt => panic!("no client has left a channel for another one"),
            Purpose::Check => self.check_due,
            Purpose::Asked => panic!("no operator waits for a channel here"),
        };
        let due = due.unwrap_or_else(|| panic!("nobody wants a {purpose:?} of {self:?}"));
        assert!(due.earliest <= now, "{purpose:?} too early, at {now:?}: {self:?}");
        let passed_over = purpose == Purpose::Check && self.return_due().is_some_and(|due| due.latest <= now);
        assert!(!passed_over, "a return goes first, at {now:?}: {self:?}");
        self.asked = Some((id, purpose));
    }

    /// Probe `id` was answered.
    pub(super) fn answered(
        &mut self,
        rules: &HealthRules,
        id: u64,
        result: &ProbeResult,
        now: Duration,
    ) -> Option<Happened> {
        let (_, purpose) = self.asked.take_if(|&mut (asked, _)| asked == id)?;
        match purpose {
            Purpose::Asked => panic!("no operator waits for a channel here"),
            Purpose::Return => self.return_answered(rules, result, now),
            Purpose::Doubt => None,
            Purpose::Check => {
                let check = rules.check.expect("nobody checks without rules");
                self.check_due = Some(Window::about(now, check.interval));
                self.check_answered(rules, check, result, now)
            }
        }
    }

    fn return_answered(
        &mut self,
        rules: &HealthRules,
        result: &ProbeResult,
        now: Duration,
    ) -> Option<Happened> {
        let ejected = self.ejected.as_mut()?;
        if let ProbeResult::Bad(why) = result {
            self.delay = (self.delay * 2).min(LAST_DELAY);
            ejected.why.clone_from(why);
        }
        ejected.due = Window::about(now, self.delay);
        if *result == ProbeResult::Good { self.comes_back(rules, now) } else { None }
    }

    fn check_answered(
        &mut self,
        rules: &HealthRules,
        check: CheckRules,
        result: &ProbeResult,
        now: Duration,
    ) -> Option<Happened> {
        self.tried |= *result != ProbeResult::Unknown;
        let is_first = matches!(self.checked, Checked::New);
        match (result, &mut self.checked) {
            (ProbeResult::Unknown, _) => {}
            (ProbeResult::Good, Checked::New | Checked::Up { .. }) => {
                self.checked = Checked::Up { bad: 0, why: String::new() };
            }
            (ProbeResult::Good, Checked::Down { since, good, .. }) => {
                *good += 1;
                if *good == check.rise {
                    let after = now - *since;
                    self.checked = Checked::Up { bad: 0, why: String::new() };
                    self.begin_life(rules, now);
                    return Some(Happened::Up(after));
                }
            }
            (ProbeResult::Bad(text), Checked::Down { why, good, .. }) => {
                (*good, *why) = (0, text.clone());
            }
            (ProbeResult::Bad(text), up) => {
                let bad = if let Checked::Up { bad, .. } = up { *bad + 1 } else { 1 };
                if is_first || bad == check.fall {
                    self.checked = Checked::Down { since: now, why: text.clone(), good: 0 };
                    self.ramp_from = None;
                    return Some(Happened::Down(text.clone()));
                }
                self.checked = Checked::Up { bad, why: text.clone() };
            }
        }
        None
    }

    /// State, age and cause as `status` tells them; `weighs` = the policy goes by shares.
    pub(super) fn told(
        &self,
        rules: &HealthRules,
        weighs: bool,
        now: Duration,
    ) -> (HealthState, Duration, Option<String>) {
        if let Checked::Down { since, why, .. } = &self.checked {
            return (HealthState::Down, now - *since, Some(why.clone()));
        }
        if let Some(Ejected { since, why, .. }) = &self.ejected {
            return (HealthState::Ejected, now - *since, Some(why.clone()));
        }
        let steps = self.steps(rules, now);
        let state = match self.checked {
            _ if weighs && steps < 64 => HealthState::Ramping(steps),
            _ if !self.tried => HealthState::Untried,
            _ => HealthState::Up,
        };
        let why = match &self.checked {
            Checked::Up { bad: 1.., why } => Some(why.clone()),
            _ => None,
        };
        (state, now - self.since, why)
    }
}
