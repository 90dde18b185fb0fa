//! When a name is looked up, and what an answer means.
//!
//! Knows: names, intervals, how often and since when a name was reported as not existing; the time as an
//! argument. Never: who does the lookups, channels, threads.
//! Source: docs/names.md.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::sched::{FoundMember, NameSnapshot};

/// This many answers in a row must report that a name has no address ...
const ABSENCES: u32 = 3;
/// ... over at least this time before balance believes it.
const ABSENT_FOR: Duration = Duration::from_secs(30);
/// When a channel fails, its name is looked up at once, but not again within this time.
const AT_ONCE: Duration = Duration::from_secs(1);
/// A name without any known address is looked up at least this often.
const UNKNOWN: Duration = Duration::from_secs(2);
/// An answer counts as valid for at least this time, however short its TTL ...
const LEAST_TTL: Duration = Duration::from_secs(1);
/// ... and for at most this time.
const MOST_TTL: Duration = Duration::from_secs(3_600);
/// Failures carry no TTL. Where answers do, a failed lookup is repeated at least this often.
const ASK_AGAIN: Duration = Duration::from_secs(5);
/// A lookup without an answer after this time counts as failed; a later answer still counts.
const PATIENCE: Duration = Duration::from_secs(15);

/// A lookup that takes longer than this is slow, and so is its name until it is answered faster.
const SLOW: Duration = Duration::from_secs(1);
/// Maximum number of simultaneous lookups that may still be answered quickly.
const MOST_AT_ONCE: usize = 16;
/// A slow name is not looked up while this many lookup threads run.
const MOST_SLOW: usize = 16;
/// No name is looked up while this many lookup threads run. More than twice the limit for slow names, so that
/// names whose servers are silent leave room for others.
pub(super) const MOST_THREADS: usize = 64;

/// The answer of a resolver about a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NameAnswer {
    /// The addresses of the name; at least one, in no particular order.
    Found(Vec<SocketAddr>),
    /// The targets of a service name (SRV); at least one, in no particular order.
    Serves(Vec<FoundMember>),
    /// The name does not exist or has no address; in the resolver's words.
    Absent(String),
    /// The lookup failed, and why.
    Failed(String),
}

/// The answer of a resolver, and how long it is valid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToldName {
    /// The answer.
    pub answer: NameAnswer,
    /// How long the answer is valid from now on. `None`: the resolver does not say.
    pub holds: Option<Duration>,
}

impl From<NameAnswer> for ToldName {
    fn from(answer: NameAnswer) -> Self {
        Self { answer, holds: None }
    }
}

/// What an answer means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum AnswerMeaning {
    /// The name has these addresses. The time says how long its lookups had failed before; `None` if they had
    /// not.
    Has(Vec<SocketAddr>, Option<Duration>),
    /// The service name has these targets. The time is as in [`Has`](Self::Has).
    Serves(Vec<FoundMember>, Option<Duration>),
    /// Nothing changes, for this reason. `true`: this is the first failure in a row.
    Keeps(String, bool),
    /// The name has no address any more, for this reason. `true`: this is the first failure in a row.
    Gone(String, bool),
}

/// How a name is to be looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NameTerms {
    /// The interval between lookups. `None`: only on request.
    pub(super) every: Option<Duration>,
    /// Some channel has no address until the name is found.
    pub(super) is_unknown: bool,
    /// The resolver reports how long an answer is valid.
    pub(super) is_told: bool,
}

#[derive(Debug)]
struct BookedName {
    terms: NameTerms,
    /// When it is looked up next. `None`: only on request, or a lookup is running.
    due: Option<Duration>,
    /// When the last lookup was started.
    begun: Option<Duration>,
    /// A lookup is running.
    under_way: bool,
    /// The last lookup was not answered quickly.
    is_slow: bool,
    /// A channel failed or an operator asked during the running lookup: look it up again at this time.
    again: Option<Duration>,
    /// How many answers in a row have reported that it has no address, and since when.
    absent: Option<(u32, Duration)>,
    /// Since when lookups have failed, and the last reason.
    failing: Option<(Duration, String)>,
}

/// All names of a process.
#[derive(Debug)]
pub(super) struct NameBook {
    names: BTreeMap<Arc<str>, BookedName>,
    agenda: BTreeSet<(Duration, Arc<str>)>,
    /// When slow names are due; `agenda` has the others.
    slow: BTreeSet<(Duration, Arc<str>)>,
    /// Names being looked up that may still be answered quickly, by the time at which they become slow.
    young: BTreeSet<(Duration, Arc<str>)>,
    /// Names being looked up, by the time at which they are late. A late name is removed.
    awaited: BTreeSet<(Duration, Arc<str>)>,
    lot: u64,
}

impl NameBook {
    /// A book without names. `seed` determines the jitter.
    pub(super) fn new(seed: u64) -> Self {
        let [agenda, slow, young, awaited] = [(); 4].map(|()| BTreeSet::new());
        Self { names: BTreeMap::new(), agenda, slow, young, awaited, lot: seed }
    }

    /// Adds a name or changes its terms. A new name counts as looked up just now, unless some channel has no
    /// address without it. `known` is what a predecessor found out about it, and counts only for a new name.
    pub(super) fn want(
        &mut self,
        name: &Arc<str>,
        terms: NameTerms,
        known: Option<&NameSnapshot>,
        now: Duration,
    ) {
        let before = match self.names.get(name) {
            Some(entry) if entry.terms == terms => return,
            Some(entry) => entry.due,
            None => None,
        };
        let entry = self.names.entry(Arc::clone(name)).or_insert_with(|| BookedName {
            terms,
            due: None,
            begun: None,
            under_way: false,
            is_slow: false,
            again: None,
            absent: known.and_then(|known| known.absent).map(|(count, age)| (count, now.saturating_sub(age))),
            failing: known
                .and_then(|known| known.failing.clone())
                .map(|(why, age)| (now.saturating_sub(age), why)),
        });
        let was_unknown = entry.terms.is_unknown;
        entry.terms = terms;
        if entry.under_way {
            return;
        }
        let next = match entry.begun {
            None if terms.is_unknown => Some(now),
            // For how long that answer is valid is not known.
            None if terms.is_told && terms.every.is_some() => Some(now + LEAST_TTL),
            _ => self.next(terms, now),
        };
        // An earlier date stays, unless it was only due to a missing address.
        let next = match (before, next) {
            (Some(before), Some(next)) if !was_unknown || terms.is_unknown || terms.is_told => {
                Some(before.min(next))
            }
            (_, next) => next,
        };
        self.plan(name, next);
    }

    /// Removes all names but these.
    pub(super) fn keep(&mut self, wanted: &BTreeSet<Arc<str>>) {
        let gone: Vec<Arc<str>> = self.names.keys().filter(|name| !wanted.contains(*name)).cloned().collect();
        for name in gone {
            self.plan(&name, None);
            self.names.remove(&name);
            self.awaited.retain(|(_, awaited)| *awaited != name);
            self.young.retain(|(_, young)| *young != name);
        }
    }

    /// A channel with this name has failed. The name is looked up at once, unless it is looked up only on
    /// request.
    pub(super) fn doubt(&mut self, name: &str, now: Duration) {
        let may_be = |entry: &BookedName| entry.terms.every.is_some();
        if let Some((name, entry)) = self.names.get_key_value(name).filter(|(_, entry)| may_be(entry)) {
            let at = entry.begun.map_or(now, |begun| (begun + AT_ONCE).max(now));
            self.hurry(&name.clone(), at);
        }
    }

    /// An operator asks for the name: it is looked up at once. `false` if no channel has this name.
    pub(super) fn ask(&mut self, name: &str, now: Duration) -> bool {
        let Some((name, _)) = self.names.get_key_value(name) else { return false };
        self.hurry(&name.clone(), now);
        true
    }

    /// How many answers in a row have reported that the name has no address, and how long ago the first of
    /// them came.
    pub(super) fn absent(&self, name: &str, now: Duration) -> Option<(u32, Duration)> {
        let (count, since) = self.names.get(name)?.absent?;
        Some((count, now.saturating_sub(since)))
    }

    /// Is a lookup of the name running?
    pub(super) fn is_under_way(&self, name: &str) -> bool {
        self.names.get(name).is_some_and(|entry| entry.under_way)
    }

    fn hurry(&mut self, name: &Arc<str>, at: Duration) {
        let Some(entry) = self.names.get_mut(name) else { return };
        if entry.under_way {
            entry.again = Some(entry.again.map_or(at, |again| again.min(at)));
        } else if entry.due.is_none_or(|due| due > at) {
            self.plan(name, Some(at));
        }
    }

    /// Takes the next name that is due and marks its lookup as running. `threads` is the number of lookup
    /// threads that run, including those for names that were removed. Names that are answered quickly do not
    /// wait behind names whose servers are silent.
    pub(super) fn begin(&mut self, now: Duration, threads: usize) -> Option<Arc<str>> {
        while let Some((_, name)) = self.young.first().filter(|(at, _)| *at <= now).cloned() {
            self.young.pop_first();
            if let Some(entry) = self.names.get_mut(&name) {
                entry.is_slow = true;
            }
        }
        let is_due = |(at, _): &&(Duration, Arc<str>)| *at <= now;
        let next = self.agenda.first().filter(is_due).filter(|_| self.has_room(threads));
        let next = next.or_else(|| self.slow.first().filter(is_due).filter(|_| threads < MOST_SLOW));
        let (_, name) = next.cloned()?;
        self.plan(&name, None);
        let entry = self.names.get_mut(&name)?;
        (entry.under_way, entry.begun, entry.again) = (true, Some(now), None);
        self.awaited.insert((now.saturating_add(PATIENCE), Arc::clone(&name)));
        // A name that was slow before is not expected to be answered quickly.
        if !entry.is_slow {
            self.young.insert((now.saturating_add(SLOW), Arc::clone(&name)));
        }
        Some(name)
    }

    fn has_room(&self, threads: usize) -> bool {
        self.young.len() < MOST_AT_ONCE && threads < MOST_THREADS
    }

    /// When there is something to do if nothing happens before. `threads` is the number of lookup threads
    /// that run. `None`: nothing is due.
    pub(super) fn next_due(&self, threads: usize) -> Option<Duration> {
        let due = self.agenda.first().filter(|_| self.has_room(threads));
        let slow = self.slow.first().filter(|_| threads < MOST_SLOW);
        // There is room as soon as one of the running lookups becomes slow.
        let is_full = threads < MOST_THREADS && due.is_none();
        let room = self.young.first().zip(self.agenda.first()).filter(|_| is_full);
        let room = room.map(|((slow_at, _), (due, _))| *slow_at.max(due));
        let others = [due, slow, self.awaited.first()].into_iter().flatten().map(|&(at, _)| at);
        others.chain(room).min()
    }

    /// Takes one name whose resolver has not answered within [`PATIENCE`], and what that means. Returns each
    /// late name once, then `None`.
    pub(super) fn late(&mut self, now: Duration) -> Option<(Arc<str>, AnswerMeaning)> {
        let late = self.awaited.first().filter(|(at, _)| *at <= now).cloned()?;
        self.awaited.remove(&late);
        let (_, name) = late;
        let why = format!("no answer within {} s", PATIENCE.as_secs());
        let meaning = self.names.get_mut(&name)?.fail(why, now);
        Some((name, meaning))
    }

    /// Notes an answer and says what it means. `holds` is how long the answer is valid, if the resolver says
    /// so. `None` if no channel has this name any more.
    pub(super) fn answered(
        &mut self,
        name: &Arc<str>,
        answer: NameAnswer,
        holds: Option<Duration>,
        now: Duration,
    ) -> Option<AnswerMeaning> {
        let entry = self.names.get_mut(name).filter(|entry| entry.under_way)?;
        let slow_at = entry.begun.unwrap_or(now).saturating_add(SLOW);
        self.young.remove(&(slow_at, Arc::clone(name)));
        (entry.under_way, entry.is_slow) = (false, now >= slow_at);
        let meaning = entry.learn(answer, now);
        let (again, mut terms) = (entry.again.take().map(|at| at.max(now)), entry.terms);
        self.awaited.retain(|(_, awaited)| awaited != name);
        let is_known = matches!(meaning, AnswerMeaning::Has(..) | AnswerMeaning::Serves(..));
        terms.is_unknown &= !is_known;
        let ends = holds.filter(|_| is_known && terms.every.is_some());
        let next = match ends {
            Some(ends) => Some(now.saturating_add(ends.clamp(LEAST_TTL, MOST_TTL))),
            // Nobody says when the next answer may differ.
            None if terms.is_told && !is_known => {
                let every = terms.every.map(|every| every.min(ASK_AGAIN));
                self.next(NameTerms { every, ..terms }, now)
            }
            None => self.next(terms, now),
        };
        let next = [again, next].into_iter().flatten().min();
        self.plan(name, next);
        Some(meaning)
    }

    fn next(&mut self, terms: NameTerms, now: Duration) -> Option<Duration> {
        let unknown = terms.is_unknown.then_some(UNKNOWN);
        let span = [terms.every, unknown].into_iter().flatten().min()?;
        Some(now.saturating_add(self.jittered(span)))
    }

    /// Varies a span by up to a tenth in either direction, so that many names do not stay in step.
    fn jittered(&mut self, span: Duration) -> Duration {
        self.lot = self.lot.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let share = u32::try_from(self.lot >> 32).unwrap_or(0);
        span - span / 10 + (span / 5).mul_f64(f64::from(share) / f64::from(u32::MAX))
    }

    fn plan(&mut self, name: &Arc<str>, due: Option<Duration>) {
        let Some(entry) = self.names.get_mut(name) else { return };
        if let Some(before) = std::mem::replace(&mut entry.due, due) {
            let before = (before, Arc::clone(name));
            self.agenda.remove(&before);
            self.slow.remove(&before);
        }
        let agenda = if entry.is_slow { &mut self.slow } else { &mut self.agenda };
        agenda.extend(due.map(|at| (at, Arc::clone(name))));
    }
}

impl BookedName {
    fn learn(&mut self, answer: NameAnswer, now: Duration) -> AnswerMeaning {
        match answer {
            NameAnswer::Found(addresses) => {
                self.absent = None;
                let failing = self.failing.take();
                AnswerMeaning::Has(addresses, failing.map(|(since, _)| now.saturating_sub(since)))
            }
            NameAnswer::Serves(targets) => {
                self.absent = None;
                let failing = self.failing.take();
                AnswerMeaning::Serves(targets, failing.map(|(since, _)| now.saturating_sub(since)))
            }
            // A failed lookup says nothing about the name: neither that it exists nor that it does not.
            NameAnswer::Failed(why) => self.fail(why, now),
            NameAnswer::Absent(why) => {
                let (count, since) =
                    self.absent.map_or((1, now), |(count, since)| (count.saturating_add(1), since));
                self.absent = Some((count, since));
                let is_believed = count >= ABSENCES && now.saturating_sub(since) >= ABSENT_FOR;
                match self.fail(why, now) {
                    AnswerMeaning::Keeps(why, is_new) if is_believed => AnswerMeaning::Gone(why, is_new),
                    meaning => meaning,
                }
            }
        }
    }

    fn fail(&mut self, why: String, now: Duration) -> AnswerMeaning {
        let is_new = self.failing.is_none();
        let since = self.failing.as_ref().map_or(now, |&(since, _)| since);
        self.failing = Some((since, why.clone()));
        AnswerMeaning::Keeps(why, is_new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    const EVERY: NameTerms = NameTerms { every: Some(s(30)), is_unknown: false, is_told: false };

    fn book(terms: NameTerms) -> (NameBook, Arc<str>) {
        let (mut book, name) = (NameBook::new(1), Arc::from("db"));
        book.want(&name, terms, None, s(0));
        (book, name)
    }

    fn found(last: u8) -> NameAnswer {
        NameAnswer::Found(vec![SocketAddr::from(([10, 0, 0, last], 0))])
    }

    fn absent() -> NameAnswer {
        NameAnswer::Absent("no such name".to_owned())
    }

    fn failed() -> NameAnswer {
        NameAnswer::Failed("try again".to_owned())
    }

    /// Looks the name up at this time, even if it is not due.
    fn learn(book: &mut NameBook, name: &Arc<str>, at: Duration, answer: NameAnswer) -> AnswerMeaning {
        assert!(book.ask(name, at));
        assert_eq!(book.begin(at, 0).as_ref(), Some(name));
        book.answered(name, answer, None, at).expect("it is wanted")
    }

    #[test]
    fn a_name_is_looked_up_again_after_the_interval_and_a_tenth_more_or_less() {
        let (mut book, name) = book(EVERY);
        let mut now = s(0);
        for _ in 0..100 {
            let due = book.next_due(0).expect("it is due some time");
            let span = due - now;
            assert!((s(27)..=s(33)).contains(&span), "{span:?}");
            assert_eq!(book.begin(due - Duration::from_millis(1), 0), None);
            assert_eq!(book.begin(due, 0).as_ref(), Some(&name));
            assert_eq!(book.begin(due, 0), None, "once");
            assert_eq!(
                book.answered(&name, found(1), None, due),
                Some(AnswerMeaning::Has(vec![([10, 0, 0, 1], 0).into()], None))
            );
            now = due;
        }
    }

    #[test]
    fn without_an_interval_only_an_operator_has_it_looked_up() {
        let (mut book, name) = book(NameTerms { every: None, is_unknown: false, is_told: false });
        book.doubt("db", s(1));
        assert_eq!(book.next_due(0), None);
        assert!(book.ask("db", s(2)) && !book.ask("other", s(2)));
        assert_eq!(book.begin(s(2), 0).as_ref(), Some(&name));
        assert!(book.answered(&name, failed(), None, s(3)).is_some());
        assert_eq!(book.next_due(0), None);
    }

    #[test]
    fn a_failure_is_looked_into_at_once_and_at_most_once_a_second() {
        let (mut book, name) = book(EVERY);
        book.doubt("db", s(1));
        assert_eq!(book.begin(s(1), 0).as_ref(), Some(&name));
        // A channel that fails meanwhile may have failed after the resolver had answered.
        book.doubt("db", s(1));
        book.answered(&name, found(1), None, s(1)).expect("it is wanted");
        assert_eq!(book.next_due(0), Some(s(2)));
        assert_eq!(book.begin(s(2), 0).as_ref(), Some(&name));
        book.answered(&name, found(1), None, s(2)).expect("it is wanted");
        book.doubt("db", s(2));
        book.doubt("db", s(2));
        assert_eq!(book.next_due(0), Some(s(3)));
        book.doubt("unknown", s(2));
    }

    #[test]
    fn a_failure_changes_nothing_however_long_it_lasts() {
        let (mut book, name) = book(EVERY);
        let keeps = |is_new| AnswerMeaning::Keeps("try again".to_owned(), is_new);
        assert_eq!(learn(&mut book, &name, s(10), failed()), keeps(true));
        for at in 2..1_000 {
            assert_eq!(learn(&mut book, &name, s(10 * at), failed()), keeps(false));
        }
        let back = learn(&mut book, &name, s(20_000), found(2));
        assert_eq!(back, AnswerMeaning::Has(vec![([10, 0, 0, 2], 0).into()], Some(s(19_990))));
    }

    #[test]
    fn absence_is_believed_after_three_answers_over_thirty_seconds() {
        let gone = |meaning: &AnswerMeaning| matches!(meaning, AnswerMeaning::Gone(..));
        // The times and kinds of answers, and which of them is believed.
        let (yes, no) = (absent, failed);
        type Answer = (u64, fn() -> NameAnswer);
        let cases: [(&[Answer], Option<usize>); 6] = [
            (&[(0, yes), (1, yes), (2, yes), (29, yes), (30, yes), (31, yes)], Some(4)),
            (&[(0, yes), (100, yes), (200, yes)], Some(2)),
            (&[(0, yes), (600, yes)], None),
            (&[(0, yes), (20, || found(1)), (40, yes), (60, yes), (69, yes), (70, yes)], Some(5)),
            // A failed lookup in between changes nothing.
            (&[(0, yes), (20, no), (40, yes), (60, no), (80, yes)], Some(4)),
            (&[(0, no), (20, no), (40, no), (60, yes), (70, yes)], None),
        ];
        for (answers, believed) in cases {
            let (mut book, name) = book(EVERY);
            let meanings = answers.iter().map(|(at, answer)| learn(&mut book, &name, s(*at), answer()));
            let first = meanings.collect::<Vec<_>>().iter().position(gone);
            assert_eq!(first, believed, "{:?}", answers.iter().map(|(at, _)| at).collect::<Vec<_>>());
        }
    }

    #[test]
    fn what_a_predecessor_counted_counts() {
        let known = NameSnapshot {
            answered: None,
            failing: Some(("no such name".to_owned(), s(40))),
            absent: Some((2, s(31))),
        };
        let (mut book, name) = (NameBook::new(1), Arc::from("db"));
        book.want(&name, EVERY, Some(&known), s(100));
        assert_eq!(book.absent("db", s(102)), Some((2, s(33))));
        let gone = AnswerMeaning::Gone("no such name".to_owned(), false);
        assert_eq!(learn(&mut book, &name, s(102), absent()), gone);
        // It is not a new name any more.
        book.want(&name, NameTerms { every: Some(s(9)), ..EVERY }, Some(&NameSnapshot::default()), s(103));
        assert_eq!(book.absent("db", s(103)), Some((3, s(34))));
        let back = learn(&mut book, &name, s(110), found(1));
        assert_eq!(back, AnswerMeaning::Has(vec![([10, 0, 0, 1], 0).into()], Some(s(50))));
        assert_eq!(book.absent("db", s(110)), None);
    }

    #[test]
    fn a_name_that_nobody_knows_is_asked_for_at_once_and_often_until_it_is_known() {
        for every in [None, Some(s(30))] {
            let (mut book, name) = book(NameTerms { every, is_unknown: true, is_told: false });
            assert_eq!(book.begin(s(0), 0).as_ref(), Some(&name));
            book.answered(&name, absent(), None, s(0)).expect("it is wanted");
            let due = book.next_due(0).expect("soon");
            assert!(due <= s(3), "{due:?}");
            assert_eq!(book.begin(due, 0).as_ref(), Some(&name));
            book.answered(&name, found(1), None, due).expect("it is wanted");
            book.want(&name, NameTerms { every, is_unknown: false, is_told: false }, None, due);
            assert_eq!(book.next_due(0).is_some_and(|next| next > due + s(20)), every.is_some());
        }
    }

    #[test]
    fn how_long_the_first_answer_holds_is_not_forgotten() {
        let (mut book, name) = book(NameTerms { is_unknown: true, is_told: true, ..EVERY });
        assert_eq!(book.begin(s(0), 0).as_ref(), Some(&name));
        book.answered(&name, found(1), Some(s(2)), s(0)).expect("it is wanted");
        book.want(&name, NameTerms { is_told: true, ..EVERY }, None, s(0));
        assert_eq!(book.next_due(0), Some(s(2)));
    }

    #[test]
    fn a_resolver_that_says_nothing_has_failed_once_and_may_still_answer() {
        let (mut book, name) = book(EVERY);
        book.ask("db", s(0));
        assert_eq!(book.begin(s(0), 0).as_ref(), Some(&name));
        assert_eq!(book.next_due(MOST_THREADS), Some(PATIENCE), "nothing else wakes anybody");
        assert_eq!(book.late(PATIENCE - s(1)), None);
        let why = "no answer within 15 s".to_owned();
        assert_eq!(book.late(PATIENCE), Some((Arc::clone(&name), AnswerMeaning::Keeps(why, true))));
        assert_eq!(book.late(s(60)), None);
        assert_eq!(book.begin(s(600), 0), None, "it is not asked twice at a time");
        let answer = book.answered(&name, found(1), None, s(600));
        assert_eq!(answer, Some(AnswerMeaning::Has(vec![([10, 0, 0, 1], 0).into()], Some(s(585)))));
    }

    #[test]
    fn names_that_are_slow_leave_room_for_those_that_are_not() {
        let mut book = NameBook::new(1);
        let names: Vec<Arc<str>> = (0..200).map(|n| Arc::from(format!("silent{n:03}"))).collect();
        let good: Arc<str> = Arc::from("web");
        names.iter().chain([&good]).for_each(|name| book.want(name, EVERY, None, s(0)));
        // All are new, and the one that is answered comes last. Sixteen are started per second, until the
        // maximum number of threads is reached.
        names.iter().chain([&good]).for_each(|name| assert!(book.ask(name, s(1))));
        let mut threads = Vec::new();
        for second in 1..=5 {
            assert_eq!(book.begin(s(second) - Duration::from_millis(1), threads.len()), None);
            while let Some(name) = book.begin(s(second), threads.len()) {
                threads.push(name);
            }
            assert_eq!(threads.len(), MOST_THREADS.min(16 * second as usize));
            let wakes = (second < 4).then(|| s(second + 1)).or(Some(s(1) + PATIENCE));
            assert_eq!(book.next_due(threads.len()), wakes, "after {second} s");
        }
        // They finally fail and are slow from now on. The others are started, and one is answered quickly.
        let mut now = s(20);
        let mut is_answered = false;
        while !is_answered {
            for name in std::mem::take(&mut threads) {
                book.answered(&name, failed(), None, now);
            }
            while let Some(name) = book.begin(now, threads.len()) {
                if name == good {
                    is_answered = book.answered(&name, found(1), None, now).is_some();
                } else {
                    threads.push(name);
                }
            }
            now += s(1);
        }
        for name in std::mem::take(&mut threads) {
            book.answered(&name, failed(), None, now);
        }
        // All are due. Of two hundred slow ones, sixteen are being looked up; the other one is answered
        // quickly whenever it is asked for.
        now += s(600);
        for turn in 0..20 {
            assert!(book.ask("web", now));
            while let Some(name) = book.begin(now, threads.len()) {
                if name == good {
                    book.answered(&name, found(1), None, now);
                } else {
                    threads.push(name);
                }
            }
            assert_eq!((threads.len(), book.is_under_way("web")), (MOST_SLOW, false));
            let due = book.next_due(threads.len()).expect("it is due some time");
            assert!(due > now + s(20) || due == now + PATIENCE, "turn {turn}: {due:?}");
        }
    }

    #[test]
    fn what_nobody_has_any_more_is_forgotten_and_its_answer_means_nothing() {
        let (mut book, name) = book(EVERY);
        book.ask("db", s(0));
        assert_eq!(book.begin(s(0), 0).as_ref(), Some(&name));
        book.keep(&BTreeSet::new());
        assert_eq!((book.answered(&name, found(1), None, s(1)), book.next_due(0)), (None, None));
        assert_eq!(book.late(s(100)), None);
    }

    #[test]
    fn other_terms_hold_at_once() {
        let (mut book, name) = book(EVERY);
        book.want(&name, NameTerms { every: Some(s(1)), is_unknown: false, is_told: false }, None, s(5));
        assert!(book.next_due(0).is_some_and(|due| due < s(7)));
        book.want(&name, NameTerms { every: None, is_unknown: false, is_told: false }, None, s(5));
        assert_eq!(book.next_due(0), None);
    }

    #[test]
    fn an_answer_that_says_how_long_it_holds_is_asked_for_when_it_ends() {
        let terms = NameTerms { is_told: true, ..EVERY };
        let (mut book, name) = book(terms);
        assert_eq!(book.next_due(0), Some(s(1)), "nobody knows how long the first one holds");
        let mut now = s(1);
        for (holds, next) in [(5, 5), (0, 1), (1, 1), (86_400, 3_600)] {
            assert_eq!(book.begin(now, 0).as_ref(), Some(&name));
            book.answered(&name, found(1), Some(s(holds)), now).expect("it is wanted");
            assert_eq!(book.next_due(0), Some(now + s(next)));
            now += s(next);
        }
        assert_eq!(book.begin(now, 0).as_ref(), Some(&name));
        book.answered(&name, failed(), None, now).expect("it is wanted");
        let due = book.next_due(0).expect("it is due some time") - now;
        assert!((s(4)..=s(6)).contains(&due), "{due:?}");
        // Without an interval it is never looked up by itself.
        let (mut book, name) = self::book(NameTerms { every: None, ..terms });
        assert_eq!(book.next_due(0), None);
        learn(&mut book, &name, s(1), found(1));
        assert_eq!(book.next_due(0), None);
    }
}
