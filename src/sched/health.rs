//! Whether a channel is up: ejection after a failed connect, checks with rise and fall, the ramp after a
//! return.
//!
//! Knows: thresholds, delays, `now` as an argument. Never: how a probe is made, who disabled a channel, other
//! channels.
//! Source: docs/health.md.

use std::time::Duration;

use super::random::Random;
use crate::handover::table::{CheckedRecord, HealthRecord};
use crate::spec::ChannelCheck;

/// How soon an ejected channel is tried again ...
const FIRST_DELAY: Duration = Duration::from_millis(250);
/// ... and the maximum delay, reached by doubling.
const LAST_DELAY: Duration = Duration::from_secs(2);
/// A channel whose clients went elsewhere before it had answered is probed at most this often.
const DOUBTS_APART: Duration = Duration::from_secs(1);
/// A channel that closes its connections at once gets clients again after this time ...
const FIRST_REST: Duration = Duration::from_secs(1);
/// ... and, if it goes on, after twice as long each time, up to this.
const LAST_REST: Duration = Duration::from_secs(60);
/// A channel that fails again within this many times its last delay after a return counts as never having
/// returned.
const STAYED: u32 = 2;
/// Number of steps in which a returning channel's weight grows.
pub(super) const STEPS: u32 = 64;

/// The settings of active checks, except how one is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckRules {
    /// The time from one check to the next.
    pub interval: Duration,
    /// Successes in a row that bring a down channel up; at least 1.
    pub rise: u32,
    /// Failures in a row that bring an up channel down; at least 1.
    pub fall: u32,
}

/// Whether a channel is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CheckMode {
    /// As its service's `--check` says.
    AsService,
    Never,
    /// It has a check of its own.
    Own,
}

impl CheckMode {
    /// The settings of its checks; `None` if it is not checked.
    fn of(self, rules: &HealthRules) -> Option<CheckRules> {
        match self {
            Self::AsService => rules.check,
            Self::Never => None,
            Self::Own => Some(rules.own_check),
        }
    }
}

impl From<&ChannelCheck> for CheckMode {
    fn from(check: &ChannelCheck) -> Self {
        match check {
            ChannelCheck::AsService => Self::AsService,
            ChannelCheck::Never => Self::Never,
            ChannelCheck::Own(_) => Self::Own,
        }
    }
}

/// The settings of health in an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HealthRules {
    /// A channel whose connect fails is ejected.
    pub eject: bool,
    /// The service's checks. `None`: only channels with a check of their own are checked.
    pub check: Option<CheckRules>,
    /// The settings for channels with a check of their own.
    pub own_check: CheckRules,
    /// When no channel is up, the others are tried.
    pub fail_open: bool,
    /// How long a returning channel takes to reach its full weight. `None`: it has it at once.
    pub slow_start: Option<Duration>,
}

impl HealthRules {
    /// Without ejection and checks, as in 3.57.
    pub const NONE: Self = Self {
        eject: false,
        check: None,
        own_check: CheckRules { interval: Duration::from_secs(2), rise: 2, fall: 3 },
        fail_open: true,
        slow_start: None,
    };
}

/// The state of a channel in the words of `status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HealthState {
    /// Nothing indicates that it is down.
    Up,
    /// No client's connect and no check has reported anything about it yet. Counts as up.
    Untried,
    /// Up again, but with less than its full weight: this many 64ths.
    Ramping(u32),
    /// A client's connect failed, and no probe has succeeded since.
    Ejected,
    /// Health checks failed as often as `--check-fall` says.
    Down,
}

/// A channel's health at one instant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthSnapshot {
    /// The state.
    pub state: HealthState,
    /// How long it has been in this state.
    pub age: Duration,
    /// Why it is not up, or why its last check failed.
    pub why: Option<String>,
    /// It is up, but this many checks in a row have failed, of this many that bring it down.
    pub failing: Option<(u32, u32)>,
}

/// The purpose of a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Does an ejected channel take connections again?
    Return,
    /// Does a channel that has not answered a client in time take connections?
    Doubt,
    /// The health check that the operator configured.
    Check,
    /// An operator waits for a channel without checks: does it take connections now?
    Asked,
}

/// The result of a probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProbeResult {
    /// It succeeded.
    Good,
    /// It failed, and why.
    Bad(String),
    /// It could not be made, which says nothing about the channel.
    Unknown,
}

/// What changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    /// It takes connections again, after this time.
    Returned(Duration),
    /// It takes none, as a probe found out.
    Ejected(String),
    /// Checks report that it is down.
    Fell(String),
    /// Checks report that it is up again, after this time.
    Rose(Duration),
}

#[derive(Debug)]
struct Ejection {
    since: Duration,
    why: String,
    probe_at: Duration,
    /// It takes connections, but closes them at once or stays silent. So a client's successful connect does
    /// not bring it back.
    closes: bool,
}

#[derive(Debug)]
enum Checked {
    New,
    Up,
    /// Up, but with this many failures in a row so far; and why the last one failed.
    Failing(u32, String),
    Down {
        since: Duration,
        why: String,
        /// Successes in a row so far.
        successes: u32,
    },
}

/// The health of one channel. Times count from the start of the instance.
#[derive(Debug)]
pub(super) struct Health {
    ejection: Option<Ejection>,
    /// Its name has no address any more: since when, and in the resolver's words.
    absence: Option<(Duration, String)>,
    /// The delay before the probe that is due, or was last made.
    delay: Duration,
    /// How long it gets no clients if it closes its connections at once; the next time, or the last.
    rest: Duration,
    checked: Checked,
    check_at: Option<Duration>,
    /// When it is probed because a client did not wait for its answer.
    doubt_at: Option<Duration>,
    /// When it was last probed for that reason.
    doubted_at: Option<Duration>,
    /// When it is probed because an operator waits for its answer.
    asked_at: Option<Duration>,
    /// When the running probe, or the last one, began.
    begun_at: Duration,
    /// When the last successful probe began. With checks, only a check counts.
    proven_at: Option<Duration>,
    mode: CheckMode,
    /// Has anything been learned about it?
    is_tried: bool,
    /// The purpose of the running probe.
    in_flight: Option<Purpose>,
    /// Number of probes so far, to tell the answer to this one from the answer to an older one.
    serial: u32,
    /// Number of returns so far. A dial that began before the last return says nothing about the channel's
    /// present state.
    returns: u32,
    returned_at: Option<Duration>,
    /// Since when it has been in its present state.
    since: Duration,
    /// Since when its weight has been growing. `None`: it has its full weight.
    ramp_from: Option<Duration>,
}

impl Health {
    pub(super) fn new(rules: &HealthRules, now: Duration, random: &mut Random) -> Self {
        Self::of_mode(CheckMode::AsService, rules, now, random)
    }

    fn of_mode(mode: CheckMode, rules: &HealthRules, now: Duration, random: &mut Random) -> Self {
        Self {
            mode,
            ejection: None,
            absence: None,
            delay: FIRST_DELAY,
            rest: FIRST_REST,
            checked: Checked::New,
            // Spread out, so that not all channels are checked at the same moment.
            check_at: mode.of(rules).map(|check| now + share(check.interval.min(FIRST_DELAY), random)),
            doubt_at: None,
            doubted_at: None,
            asked_at: None,
            begun_at: now,
            proven_at: None,
            is_tried: false,
            in_flight: None,
            serial: 0,
            returns: 0,
            returned_at: None,
            since: now,
            ramp_from: None,
        }
    }

    /// The channel got other addresses: nothing that was known remains valid.
    pub(super) fn begin_anew(&mut self, rules: &HealthRules, now: Duration, random: &mut Random) {
        let (serial, returns) = (self.serial.wrapping_add(1), self.returns.wrapping_add(1));
        *self = Self { serial, returns, ..Self::of_mode(self.mode, rules, now, random) };
    }

    /// Changes how the channel is checked. The result of a running probe will be ignored.
    pub(super) fn change_check(
        &mut self,
        mode: CheckMode,
        rules: &HealthRules,
        now: Duration,
        random: &mut Random,
    ) {
        let was_up = self.is_up();
        self.mode = mode;
        self.serial = self.serial.wrapping_add(1);
        self.in_flight = None;
        match mode.of(rules) {
            None => (self.checked, self.check_at) = (Checked::New, None),
            Some(check) => self.check_at = Some(now + share(check.interval.min(FIRST_DELAY), random)),
        }
        self.note_rise(was_up, now);
    }

    fn note_rise(&mut self, was_up: bool, now: Duration) {
        if !was_up && self.is_up() {
            // A dial that began before says nothing about the channel's present state.
            self.returns = self.returns.wrapping_add(1);
            self.since = now;
        }
    }

    /// Everything that a successor needs to know.
    pub(super) fn record(&self) -> HealthRecord {
        HealthRecord {
            ejected: self.ejection.as_ref().map(|ejection| (ejection.since, ejection.why.clone())),
            delay: self.delay,
            closes: self.ejection.as_ref().is_some_and(|ejection| ejection.closes),
            rest: self.rest,
            checked: match &self.checked {
                Checked::New => CheckedRecord::New,
                Checked::Up => CheckedRecord::Up,
                Checked::Failing(failures, why) => CheckedRecord::Failing(*failures, why.clone()),
                Checked::Down { since, why, successes } => {
                    CheckedRecord::Down(*since, why.clone(), *successes)
                }
            },
            is_tried: self.is_tried,
            returned_at: self.returned_at,
            since: self.since,
            ramp_from: self.ramp_from,
            return_due: self.ejection.as_ref().map(|ejection| ejection.probe_at),
            check_due: self.check_at,
            absence: self.absence.clone(),
        }
    }

    /// The health that a predecessor recorded, without what the present rules could not have found out.
    /// Probes are due when they were planned; one that was running is made again now. Invalid values in the
    /// record are corrected: no event lies in the future, no probe is due later than a newly planned one
    /// could be, and no counter is so high that it could overflow.
    pub(super) fn restore(
        record: &HealthRecord,
        mode: CheckMode,
        rules: &HealthRules,
        now: Duration,
        random: &mut Random,
    ) -> Self {
        let count = |number: u32| number.min(u32::MAX / 2);
        let due = |at: Duration, span| at.min(now.saturating_add(longest(span)));
        let ejection = |(since, why): &(Duration, String)| Ejection {
            since: now.min(*since),
            why: why.clone(),
            probe_at: due(
                record.return_due.unwrap_or(now),
                if record.closes { LAST_REST } else { LAST_DELAY },
            ),
            closes: record.closes,
        };
        let check_at = |check: CheckRules| Some(due(record.check_due?, check.interval));
        let fresh = Self::of_mode(mode, rules, now, random);
        let mut health = Self {
            ejection: record.ejected.as_ref().map(ejection),
            absence: record.absence.as_ref().map(|(since, why)| (now.min(*since), why.clone())),
            delay: record.delay.clamp(FIRST_DELAY, LAST_DELAY),
            rest: record.rest.clamp(FIRST_REST, LAST_REST),
            checked: match &record.checked {
                CheckedRecord::New => Checked::New,
                CheckedRecord::Up => Checked::Up,
                CheckedRecord::Failing(failures, why) => Checked::Failing(count(*failures), why.clone()),
                CheckedRecord::Down(since, why, successes) => {
                    Checked::Down { since: now.min(*since), why: why.clone(), successes: count(*successes) }
                }
            },
            is_tried: record.is_tried,
            returned_at: record.returned_at.map(|at| now.min(at)),
            since: now.min(record.since),
            ramp_from: record.ramp_from.map(|at| now.min(at)),
            check_at: mode.of(rules).and_then(check_at).or(fresh.check_at),
            ..fresh
        };
        health.change_rules(rules, rules, now, random);
        health
    }

    /// Takes over an ejection that happened in the predecessor after it sent its record, for the time that is
    /// left of it. `false`: the channel is or was ejected here since, or is never ejected.
    pub(super) fn take_ejection(
        &mut self,
        record: &HealthRecord,
        rules: &HealthRules,
        now: Duration,
        random: &mut Random,
    ) -> bool {
        let Some((since, _)) = record.ejected.clone() else { return false };
        if !rules.eject || self.ejection.is_some() || self.returned_at.is_some_and(|at| at >= since) {
            return false;
        }
        let theirs = Self::restore(record, self.mode, rules, now, random);
        (self.ejection, self.delay, self.rest) = (theirs.ejection, theirs.delay, theirs.rest);
        (self.is_tried, self.ramp_from) = (true, None);
        true
    }

    /// Replaces the rules.
    pub(super) fn change_rules(
        &mut self,
        before: &HealthRules,
        rules: &HealthRules,
        now: Duration,
        random: &mut Random,
    ) {
        let was_up = self.is_up();
        if !rules.eject {
            (self.ejection, self.doubt_at) = (None, None);
        }
        let check = self.mode.of(rules);
        if check.is_none() {
            self.checked = Checked::New;
            self.check_at = None;
        } else if self.mode.of(before) != check {
            self.check_at = check.map(|check| now + share(check.interval.min(FIRST_DELAY), random));
        }
        if rules.slow_start.is_none() {
            self.ramp_from = None;
        }
        self.note_rise(was_up, now);
    }

    pub(super) fn is_up(&self) -> bool {
        self.ejection.is_none() && self.absence.is_none() && !matches!(self.checked, Checked::Down { .. })
    }

    /// Its name has no address any more (or none yet), which was confirmed. `false` if that was known.
    pub(super) fn vanish(&mut self, why: &str, now: Duration) -> bool {
        let since = self.absence.as_ref().map(|&(since, _)| since);
        self.absence = Some((since.unwrap_or(now), why.to_owned()));
        since.is_none()
    }

    /// Its name has an address. `false` if it had one before.
    pub(super) fn reappear(&mut self, rules: &HealthRules, now: Duration) -> bool {
        let was_gone = self.absence.take().is_some();
        if was_gone {
            self.rise(rules, now);
        }
        was_gone
    }

    pub(super) fn has_vanished(&self) -> bool {
        self.absence.is_some()
    }

    pub(super) fn is_ejected(&self) -> bool {
        self.ejection.is_some()
    }

    /// Is it ejected because it takes connections but serves nobody?
    pub(super) fn is_resting(&self) -> bool {
        self.ejection.as_ref().is_some_and(|ejection| ejection.closes)
    }

    /// An operator says that it serves again. `false` if it was not ejected for that reason.
    pub(super) fn end_rest(&mut self, rules: &HealthRules, now: Duration) -> bool {
        let rests = self.is_resting();
        if rests {
            self.ejection = None;
            self.rest = FIRST_REST;
            self.rise(rules, now);
        }
        rests
    }

    /// Why it is ejected. `None` if it is not.
    pub(super) fn ejected_for(&self) -> Option<&str> {
        self.ejection.as_ref().map(|ejection| &*ejection.why)
    }

    /// Has it returned after this time?
    pub(super) fn has_returned_after(&self, then: Duration) -> bool {
        self.returned_at.is_some_and(|at| at > then)
    }

    /// Is the probe with this number running?
    pub(super) fn awaits(&self, serial: u32) -> bool {
        self.in_flight.is_some() && self.serial == serial
    }

    /// A number that changes with every return.
    pub(super) fn returns(&self) -> u32 {
        self.returns
    }

    /// A client's dial failed, which began when `returns` had this value. `true` if that ejects the channel.
    pub(super) fn connect_failed(
        &mut self,
        rules: &HealthRules,
        returns: u32,
        why: &str,
        now: Duration,
        random: &mut Random,
    ) -> bool {
        self.is_tried = true;
        if !rules.eject || self.ejection.is_some() || returns != self.returns {
            return false;
        }
        let flaps = self.returned_at.is_some_and(|at| now.saturating_sub(at) < self.delay * STAYED);
        self.delay = if flaps { (self.delay * 2).min(LAST_DELAY) } else { FIRST_DELAY };
        let probe_at = now + jittered(self.delay, random);
        self.ejection = Some(Ejection { since: now, why: why.to_owned(), probe_at, closes: false });
        self.ramp_from = None;
        true
    }

    /// A client did not wait for the channel's answer: a probe finds out whether it takes connections.
    pub(super) fn doubt(&mut self, now: Duration) {
        let is_known = self.ejection.is_some() || self.in_flight == Some(Purpose::Doubt);
        if !is_known && self.doubt_at.is_none() {
            let soonest = self.doubted_at.map_or(now, |at| at.saturating_add(DOUBTS_APART));
            self.doubt_at = Some(soonest.max(now));
        }
    }

    /// An operator waits for it: the probe that shows whether it works is made soon.
    pub(super) fn ask(&mut self, rules: &HealthRules, now: Duration) {
        let soon = self.begun_at.saturating_add(FIRST_DELAY).max(now);
        if self.mode.of(rules).is_none() {
            self.asked_at = self.asked_at.or(Some(soon));
        }
        self.check_at = self.check_at.map(|at| at.min(soon));
        // A connect says nothing about one that takes connections and closes them.
        if let Some(ejection) = self.ejection.as_mut().filter(|ejection| !ejection.closes) {
            ejection.probe_at = ejection.probe_at.min(soon);
        }
    }

    /// Is it up, and has a probe succeeded that began after this time?
    pub(super) fn is_proven_after(&self, then: Duration) -> bool {
        self.is_up() && self.proven_at.is_some_and(|at| at > then)
    }

    fn doubt_probed(
        &mut self,
        rules: &HealthRules,
        result: ProbeResult,
        now: Duration,
        random: &mut Random,
    ) -> Option<Change> {
        match result {
            ProbeResult::Good => self.is_tried = true,
            ProbeResult::Bad(why) => {
                let ejects = self.connect_failed(rules, self.returns, &why, now, random);
                return ejects.then_some(Change::Ejected(why));
            }
            ProbeResult::Unknown => {}
        }
        None
    }

    /// The channel takes connections but serves nobody, and is ejected for that. A connect cannot tell
    /// whether this has changed, so the channel gets no clients for a time that grows if it goes on. `slack`
    /// is about how long it takes to notice. `false` if it was already ejected.
    pub(super) fn leave_alone(
        &mut self,
        why: &str,
        slack: Duration,
        now: Duration,
        random: &mut Random,
    ) -> bool {
        if self.ejection.is_some() {
            return false;
        }
        let spell = (self.rest * STAYED).saturating_add(slack);
        let goes_on = self.returned_at.is_some_and(|at| now.saturating_sub(at) < spell);
        self.rest = if goes_on { (self.rest * 2).min(LAST_REST) } else { FIRST_REST };
        let probe_at = now + jittered(self.rest, random);
        self.ejection = Some(Ejection { since: now, why: why.to_owned(), probe_at, closes: true });
        self.ramp_from = None;
        true
    }

    /// A connect failed by the channel's own fault, without consequences here.
    pub(super) fn learned(&mut self) {
        self.is_tried = true;
    }

    /// A client's dial, started at `begun`, succeeded. A dial that was running when the channel was ejected
    /// may have been answered before that, so it says nothing.
    pub(super) fn connect_succeeded(
        &mut self,
        rules: &HealthRules,
        begun: Duration,
        now: Duration,
    ) -> Option<Change> {
        self.is_tried = true;
        self.ejection.as_ref().filter(|ejection| begun >= ejection.since && !ejection.closes)?;
        self.come_back(rules, now)
    }

    fn come_back(&mut self, rules: &HealthRules, now: Duration) -> Option<Change> {
        let ejection = self.ejection.take()?;
        self.returned_at = Some(now);
        self.rise(rules, now);
        Some(Change::Returned(now.saturating_sub(ejection.since)))
    }

    fn rise(&mut self, rules: &HealthRules, now: Duration) {
        self.returns = self.returns.wrapping_add(1);
        if self.is_up() {
            self.since = now;
            self.start_ramp(rules, now);
        }
    }

    /// Lets its weight grow from little to full from now on, if the rules say so.
    pub(super) fn start_ramp(&mut self, rules: &HealthRules, now: Duration) {
        self.ramp_from = rules.slow_start.map(|_| now);
    }

    pub(super) fn ramp_from(&self) -> Option<Duration> {
        self.ramp_from
    }

    /// How much of its weight counts, in 64ths.
    pub(super) fn ramp(&self, rules: &HealthRules, now: Duration) -> u32 {
        let (Some(from), Some(whole)) = (self.ramp_from, rules.slow_start) else { return STEPS };
        let done = now.saturating_sub(from).as_millis() * u128::from(STEPS) / whole.as_millis().max(1);
        u32::try_from(done).unwrap_or(STEPS).clamp(1, STEPS)
    }

    /// When that will be more.
    pub(super) fn next_step(&self, rules: &HealthRules, now: Duration) -> Duration {
        let (Some(from), Some(whole)) = (self.ramp_from, rules.slow_start) else { return Duration::MAX };
        let steps = u128::from(self.ramp(rules, now)) + 1;
        let ms = (steps * whole.as_millis().max(1)).div_ceil(u128::from(STEPS));
        from.saturating_add(Duration::from_millis(u64::try_from(ms).unwrap_or(u64::MAX)))
    }

    /// Is its weight still growing? Ends the ramp if it is not.
    pub(super) fn is_ramping(&mut self, rules: &HealthRules, now: Duration) -> bool {
        if self.ramp_from.is_some() && self.ramp(rules, now) == STEPS {
            self.ramp_from = None;
        }
        self.ramp_from.is_some()
    }

    /// When the next probe is due. `None` while one is running, or if none is wanted.
    pub(super) fn probe_at(&self) -> Option<Duration> {
        if self.in_flight.is_some() {
            return None;
        }
        let ejection = self.ejection.as_ref().map(|ejection| ejection.probe_at);
        [ejection, self.doubt_at, self.check_at, self.asked_at].into_iter().flatten().min()
    }

    /// Starts the probe that is due; returns its purpose and number. A probe for a return goes first.
    pub(super) fn begin_probe(&mut self, now: Duration) -> (Purpose, u32) {
        let returning = self.ejection.as_ref().is_some_and(|ejection| ejection.probe_at <= now);
        let doubting = self.doubt_at.is_some_and(|at| at <= now);
        let asked = self.asked_at.is_some_and(|at| at <= now);
        let purpose = match (returning, doubting) {
            (true, _) => Purpose::Return,
            (false, true) => Purpose::Doubt,
            (false, false) if asked => Purpose::Asked,
            (false, false) => Purpose::Check,
        };
        if purpose != Purpose::Check {
            self.asked_at = None;
        }
        if returning || doubting {
            // Either purpose finds out whether it takes connections.
            (self.doubt_at, self.doubted_at) = (None, Some(now));
        }
        self.serial = self.serial.wrapping_add(1);
        self.in_flight = Some(purpose);
        self.begun_at = now;
        (purpose, self.serial)
    }

    /// The result of the probe with this number.
    pub(super) fn probed(
        &mut self,
        rules: &HealthRules,
        serial: u32,
        result: ProbeResult,
        now: Duration,
        random: &mut Random,
    ) -> Option<Change> {
        if serial != self.serial {
            return None;
        }
        let purpose = self.in_flight.take()?;
        if result == ProbeResult::Good && (purpose == Purpose::Check || self.mode.of(rules).is_none()) {
            self.proven_at = Some(self.begun_at);
        }
        match purpose {
            Purpose::Asked => {
                self.is_tried |= result == ProbeResult::Good;
                None
            }
            Purpose::Return => self.return_probed(rules, result, now, random),
            Purpose::Doubt => self.doubt_probed(rules, result, now, random),
            Purpose::Check => {
                let check = self.mode.of(rules)?;
                self.check_at = Some(now + jittered(check.interval, random));
                self.checked(rules, &check, result, now)
            }
        }
    }

    fn return_probed(
        &mut self,
        rules: &HealthRules,
        result: ProbeResult,
        now: Duration,
        random: &mut Random,
    ) -> Option<Change> {
        let ejection = self.ejection.as_mut()?;
        match result {
            ProbeResult::Good => return self.come_back(rules, now),
            ProbeResult::Bad(why) => {
                self.delay = (self.delay * 2).min(LAST_DELAY);
                // It takes no connections any more, so the next successful connect brings it back.
                (ejection.why, ejection.closes) = (why, false);
            }
            ProbeResult::Unknown => {}
        }
        ejection.probe_at = now + jittered(self.delay, random);
        None
    }

    fn checked(
        &mut self,
        rules: &HealthRules,
        check: &CheckRules,
        result: ProbeResult,
        now: Duration,
    ) -> Option<Change> {
        if result == ProbeResult::Unknown {
            return None;
        }
        self.is_tried = true;
        match (result, &mut self.checked) {
            (ProbeResult::Unknown, _) => None,
            (ProbeResult::Good, Checked::New | Checked::Up | Checked::Failing(..)) => {
                self.checked = Checked::Up;
                None
            }
            (ProbeResult::Good, Checked::Down { successes, since, .. }) => {
                *successes += 1;
                if *successes < check.rise {
                    return None;
                }
                let since = *since;
                self.checked = Checked::Up;
                self.rise(rules, now);
                Some(Change::Rose(now.saturating_sub(since)))
            }
            (ProbeResult::Bad(text), Checked::Down { successes, why, .. }) => {
                *successes = 0;
                *why = text;
                None
            }
            (ProbeResult::Bad(why), Checked::Up) if check.fall > 1 => {
                self.checked = Checked::Failing(1, why);
                None
            }
            (ProbeResult::Bad(text), Checked::Failing(failures, why)) if *failures + 1 < check.fall => {
                *failures += 1;
                *why = text;
                None
            }
            // The first answer about a channel that was never seen up is believed.
            (ProbeResult::Bad(why), Checked::New | Checked::Up | Checked::Failing(..)) => {
                self.checked = Checked::Down { since: now, why: why.clone(), successes: 0 };
                self.ramp_from = None;
                Some(Change::Fell(why))
            }
        }
    }

    /// `weighs` says that the policy of its group uses shares, so that a growing share matters.
    pub(super) fn snapshot(&self, rules: &HealthRules, weighs: bool, now: Duration) -> HealthSnapshot {
        if let Some((since, why)) = &self.absence {
            let (state, why) = (HealthState::Down, Some(why.clone()));
            return HealthSnapshot { state, age: now.saturating_sub(*since), why, failing: None };
        }
        let mut failing = None;
        let (state, since, why) = match (&self.checked, &self.ejection) {
            (Checked::Down { since, why, .. }, _) => (HealthState::Down, *since, Some(why.clone())),
            (_, Some(ejection)) => (HealthState::Ejected, ejection.since, Some(ejection.why.clone())),
            (checked, None) => {
                let ramp = if weighs { self.ramp(rules, now) } else { STEPS };
                let state = match (ramp, self.is_tried) {
                    (STEPS, false) => HealthState::Untried,
                    (STEPS, true) => HealthState::Up,
                    (steps, _) => HealthState::Ramping(steps),
                };
                let mut cause = None;
                if let (Checked::Failing(failures, why), Some(check)) = (checked, self.mode.of(rules)) {
                    (failing, cause) = (Some((*failures, check.fall)), Some(why.clone()));
                }
                (state, self.since, cause)
            }
        };
        HealthSnapshot { state, age: now.saturating_sub(since), why, failing }
    }
}

/// Varies a span by up to a tenth in either direction, so that channels which failed together are not probed
/// in step.
fn jittered(span: Duration, random: &mut Random) -> Duration {
    span - span / 10 + share(span / 5, random)
}

/// At least the longest result of [`jittered`].
fn longest(span: Duration) -> Duration {
    span.saturating_add(span / 10).saturating_add(Duration::from_nanos(1))
}

/// A random part of a span.
fn share(span: Duration, random: &mut Random) -> Duration {
    let nanos = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
    Duration::from_nanos(random.below(nanos.saturating_add(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;
    const EJECT: HealthRules = HealthRules { eject: true, ..HealthRules::NONE };
    const CHECK: HealthRules = HealthRules {
        check: Some(CheckRules { interval: Duration::from_secs(2), rise: 2, fall: 3 }),
        ..HealthRules::NONE
    };

    fn health(rules: &HealthRules) -> (Health, Random) {
        let mut random = Random::new(5);
        (Health::new(rules, Duration::ZERO, &mut random), random)
    }

    fn bad() -> ProbeResult {
        ProbeResult::Bad("no".into())
    }

    /// Waits until the next probe is due and reports its result; returns when that was, and what changed.
    fn probe(
        health: &mut Health,
        rules: &HealthRules,
        result: ProbeResult,
        random: &mut Random,
    ) -> (Duration, Option<Change>) {
        let at = health.probe_at().expect("a probe is due");
        let (_, serial) = health.begin_probe(at);
        assert_eq!(health.probe_at(), None, "one at a time");
        (at, health.probed(rules, serial, result, at, random))
    }

    #[test]
    fn a_failed_connect_ejects_and_the_first_good_probe_brings_back() {
        let (mut health, mut random) = health(&EJECT);
        assert_eq!(health.probe_at(), None);
        assert!(health.connect_failed(&EJECT, 0, "refused", MS(1_000), &mut random));
        assert!(!health.is_up());
        assert!(!health.connect_failed(&EJECT, 0, "again", MS(1_001), &mut random), "once");
        let mut before = MS(1_000);
        for delay in [250, 500, 1_000, 2_000, 2_000] {
            let (at, change) = probe(&mut health, &EJECT, bad(), &mut random);
            let waited = at - before;
            assert!(waited >= MS(delay * 9 / 10) && waited <= MS(delay * 11 / 10), "{waited:?} for {delay}");
            assert_eq!(change, None);
            before = at;
        }
        let (at, change) = probe(&mut health, &EJECT, ProbeResult::Good, &mut random);
        assert_eq!(change, Some(Change::Returned(at - MS(1_000))));
        assert!(health.is_up());
        assert_eq!(health.probe_at(), None);
    }

    #[test]
    fn a_channel_that_fails_right_after_its_return_waits_longer_and_one_that_stayed_does_not() {
        let (mut health, mut random) = health(&EJECT);
        health.connect_failed(&EJECT, 0, "", MS(0), &mut random);
        let (mut at, _) = probe(&mut health, &EJECT, ProbeResult::Good, &mut random);
        for delay in [500, 1_000, 2_000, 2_000] {
            let returns = health.returns();
            assert!(health.connect_failed(&EJECT, returns, "", at + MS(10), &mut random));
            let (next, _) = probe(&mut health, &EJECT, ProbeResult::Good, &mut random);
            assert!(next - at > MS(delay * 9 / 10), "{:?} for {delay}", next - at);
            at = next;
        }
        let returns = health.returns();
        assert!(health.connect_failed(&EJECT, returns, "", at + MS(4_000), &mut random));
        let wait = health.probe_at().expect("due") - at - MS(4_000);
        assert!(wait <= MS(275), "{wait:?}");
    }

    #[test]
    fn what_began_before_the_last_return_ejects_nobody() {
        let (mut health, mut random) = health(&EJECT);
        health.connect_failed(&EJECT, 0, "", MS(0), &mut random);
        probe(&mut health, &EJECT, ProbeResult::Good, &mut random);
        assert!(!health.connect_failed(&EJECT, 0, "an old dial", MS(5_000), &mut random));
        assert!(health.connect_failed(&EJECT, 1, "a new one", MS(5_000), &mut random));
    }

    #[test]
    fn a_client_that_gets_through_brings_the_channel_back_and_the_probe_under_way_is_no_matter() {
        let (mut health, mut random) = health(&EJECT);
        health.connect_failed(&EJECT, 0, "", MS(0), &mut random);
        let (purpose, serial) = health.begin_probe(MS(250));
        assert_eq!(purpose, Purpose::Return);
        assert_eq!(health.connect_succeeded(&EJECT, MS(255), MS(260)), Some(Change::Returned(MS(260))));
        assert_eq!(health.connect_succeeded(&EJECT, MS(255), MS(261)), None);
        assert_eq!(health.probed(&EJECT, serial, bad(), MS(300), &mut random), None);
        assert!(health.is_up());
    }

    #[test]
    fn a_dial_that_began_before_the_ejection_brings_nobody_back() {
        let (mut health, mut random) = health(&EJECT);
        health.connect_failed(&EJECT, 0, "", MS(1_000), &mut random);
        assert_eq!(health.connect_succeeded(&EJECT, MS(999), MS(1_001)), None);
        assert!(!health.is_up());
        assert_eq!(health.connect_succeeded(&EJECT, MS(1_000), MS(1_001)), Some(Change::Returned(MS(1))));
    }

    #[test]
    fn nothing_is_ejected_without_the_rule() {
        let (mut health, mut random) = health(&HealthRules::NONE);
        assert!(!health.connect_failed(&HealthRules::NONE, 0, "", MS(0), &mut random));
        assert_eq!((health.is_up(), health.probe_at()), (true, None));
    }

    #[test]
    fn checks_take_fall_failures_down_and_rise_successes_up() {
        let (mut health, mut random) = health(&CHECK);
        let mut step = |result: ProbeResult| {
            let change = probe(&mut health, &CHECK, result, &mut random).1;
            (change.is_some(), health.is_up())
        };
        assert_eq!(step(ProbeResult::Good), (false, true));
        assert_eq!(step(bad()), (false, true));
        assert_eq!(step(bad()), (false, true));
        assert_eq!(step(ProbeResult::Good), (false, true), "the row is broken");
        assert_eq!(step(bad()), (false, true));
        assert_eq!(step(ProbeResult::Unknown), (false, true), "says nothing");
        assert_eq!(step(bad()), (false, true));
        assert_eq!(step(bad()), (true, false));
        assert_eq!(step(ProbeResult::Good), (false, false));
        assert_eq!(step(bad()), (false, false));
        assert_eq!(step(ProbeResult::Good), (false, false));
        assert_eq!(step(ProbeResult::Good), (true, true));
    }

    #[test]
    fn failures_in_a_row_are_told_before_they_take_the_channel_down() {
        let (mut health, mut random) = health(&CHECK);
        let mut told = |result: ProbeResult| {
            let (at, _) = probe(&mut health, &CHECK, result, &mut random);
            let HealthSnapshot { state, why, failing, .. } = health.snapshot(&CHECK, true, at);
            (state, failing, why)
        };
        let no = Some("no".to_owned());
        assert_eq!(told(ProbeResult::Good), (HealthState::Up, None, None));
        assert_eq!(told(bad()), (HealthState::Up, Some((1, 3)), no.clone()));
        assert_eq!(told(ProbeResult::Unknown), (HealthState::Up, Some((1, 3)), no.clone()));
        assert_eq!(told(bad()), (HealthState::Up, Some((2, 3)), no.clone()));
        assert_eq!(told(ProbeResult::Good), (HealthState::Up, None, None));
        assert_eq!(told(bad()), (HealthState::Up, Some((1, 3)), no.clone()));
        told(bad());
        assert_eq!(told(bad()), (HealthState::Down, None, no));
    }

    #[test]
    fn a_channel_is_untried_until_something_is_learned_of_it() {
        let state = |health: &Health| health.snapshot(&HealthRules::NONE, true, MS(9)).state;
        let (mut health, mut random) = health(&HealthRules::NONE);
        assert_eq!(state(&health), HealthState::Untried);
        health.connect_failed(&HealthRules::NONE, 0, "no", MS(1), &mut random);
        assert_eq!(state(&health), HealthState::Up, "nothing ejects here, but it was tried");
        health.begin_anew(&HealthRules::NONE, MS(2), &mut random);
        assert_eq!(state(&health), HealthState::Untried, "another channel");
        health.connect_succeeded(&HealthRules::NONE, MS(2), MS(3));
        assert_eq!(state(&health), HealthState::Up);
    }

    #[test]
    fn the_first_check_of_all_is_believed() {
        let (mut health, mut random) = health(&CHECK);
        assert_eq!(health.snapshot(&CHECK, true, MS(0)).state, HealthState::Untried);
        let (at, change) = probe(&mut health, &CHECK, bad(), &mut random);
        assert!(at <= FIRST_DELAY, "soon: {at:?}");
        assert_eq!(change, Some(Change::Fell("no".into())));
        assert_eq!(health.snapshot(&CHECK, true, at).state, HealthState::Down);
    }

    #[test]
    fn a_new_channel_is_untried_under_every_policy_even_if_it_was_enabled_just_now() {
        let rules = HealthRules { slow_start: Some(Duration::from_secs(64)), ..CHECK };
        let (mut health, _) = health(&rules);
        health.start_ramp(&rules, MS(0));
        assert_eq!(health.snapshot(&rules, true, MS(0)).state, HealthState::Ramping(1));
        assert_eq!(health.snapshot(&rules, false, MS(0)).state, HealthState::Untried);
    }

    #[test]
    fn a_channel_that_is_ejected_and_down_comes_back_when_it_is_neither() {
        let both = HealthRules { eject: true, ..CHECK };
        let (mut health, mut random) = health(&both);
        probe(&mut health, &both, bad(), &mut random);
        health.connect_failed(&both, 0, "", MS(1_000), &mut random);
        let (_, change) = probe(&mut health, &both, ProbeResult::Good, &mut random);
        assert!(
            matches!(change, Some(Change::Returned(_))),
            "the probe for a return is due first: {change:?}"
        );
        assert!(!health.is_up(), "still down");
        probe(&mut health, &both, ProbeResult::Good, &mut random);
        probe(&mut health, &both, ProbeResult::Good, &mut random);
        assert!(health.is_up());
    }

    #[test]
    fn other_addresses_are_another_channel() {
        let (mut health, mut random) = health(&EJECT);
        health.connect_failed(&EJECT, 0, "", MS(0), &mut random);
        let (_, serial) = health.begin_probe(MS(250));
        health.begin_anew(&EJECT, MS(260), &mut random);
        assert!(health.is_up());
        assert_eq!(health.probed(&EJECT, serial, ProbeResult::Good, MS(300), &mut random), None);
        assert!(!health.connect_failed(&EJECT, 0, "of the old address", MS(301), &mut random));
    }

    #[test]
    fn a_returning_channel_gets_more_and_more() {
        let rules = HealthRules { slow_start: Some(Duration::from_secs(64)), ..EJECT };
        let (mut health, mut random) = health(&rules);
        assert_eq!(health.ramp(&rules, MS(0)), STEPS, "at the start of the instance there is no ramp");
        health.connect_failed(&rules, 0, "", MS(0), &mut random);
        let (at, _) = probe(&mut health, &rules, ProbeResult::Good, &mut random);
        for (seconds, steps) in [(0, 1), (1, 1), (10, 10), (63, 63)] {
            assert_eq!(health.ramp(&rules, at + Duration::from_secs(seconds)), steps);
            assert!(health.is_ramping(&rules, at + Duration::from_secs(seconds)));
            let next = health.next_step(&rules, at + Duration::from_secs(seconds));
            assert_eq!(health.ramp(&rules, next), steps + 1);
            assert_eq!(health.ramp(&rules, next - MS(1)), steps);
        }
        let state = |weighs| health.snapshot(&rules, weighs, at + Duration::from_secs(10)).state;
        assert_eq!(state(true), HealthState::Ramping(10));
        assert_eq!(state(false), HealthState::Up, "nobody goes by its share");
        assert!(!health.is_ramping(&rules, at + Duration::from_secs(64)));
        assert_eq!(health.ramp(&rules, at), STEPS, "over for good");
    }
}
