//! The most recent events with their times, for later questions.
//!
//! Knows: how many are kept and how long a line may be, which service an event belongs to. Never: why an
//! event happened, where the log goes.
//! Source: docs/observability.md, "Events".

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use super::Severity;

/// How many events are kept.
pub const EVENTS_KEPT: usize = 1_000;
/// How many of them may be events that strangers can cause, so that these cannot displace all others.
const STRANGERS_KEPT: usize = 100;
/// How the line of such an event begins.
const BY_STRANGERS: &str = "event=wrong_token ";
/// Longer lines are cut, so that all lines together take at most about 1 MiB.
const LINE_MAX: usize = 1_024;

/// What an event belongs to: the process, or one service for as long as it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Owner(u64);

impl Owner {
    /// The process.
    pub const PROCESS: Self = Self(0);

    /// A new service, different from all others.
    pub fn new_service() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// An event that was logged. `Display` prints its line in `events`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PastEvent {
    /// When it happened, by the wall clock at that time.
    pub at: SystemTime,
    /// How much it matters.
    pub severity: Severity,
    /// What it belongs to.
    pub owner: Owner,
    /// Its log line, beginning with `event=`.
    pub line: Arc<str>,
}

impl PastEvent {
    /// An event whose line has the text `line`, cut if it is too long. `left_out` is how many equal ones were
    /// suppressed before it.
    pub fn new(at: SystemTime, severity: Severity, owner: Owner, line: &str, left_out: u64) -> Self {
        let mut line = line.to_owned();
        finish(&mut line, LINE_MAX, left_out);
        Self { at, severity, owner, line: line.into() }
    }

    /// Its time in milliseconds since 1970.
    pub fn millis(&self) -> u64 {
        let since = self.at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    /// The keys and values of the line. Quotes and backslashes are unescaped; control characters stay
    /// escaped.
    pub fn fields(&self) -> impl Iterator<Item = (&str, String)> {
        let mut rest = &*self.line;
        std::iter::from_fn(move || {
            let (key, behind) = rest.trim_start_matches(' ').split_once('=')?;
            let Some(quoted) = behind.strip_prefix('"') else {
                let (value, behind) = behind.split_once(' ').unwrap_or((behind, ""));
                rest = behind;
                return Some((key, value.to_owned()));
            };
            let (mut value, mut chars) = (String::new(), quoted.chars());
            loop {
                match chars.next() {
                    // Without a closing quote the value was cut.
                    None | Some('"') => break,
                    Some('\\') => match chars.next() {
                        Some(plain @ ('"' | '\\' | '\'')) => value.push(plain),
                        other => value.extend(['\\'].into_iter().chain(other)),
                    },
                    Some(plain) => value.push(plain),
                }
            }
            rest = chars.as_str();
            Some((key, value))
        })
    }

    /// The event with these parts, as another process sent them. `None` if they are not an event.
    pub fn of_parts(millis: u64, level: &str, owner: Owner, line: &str) -> Option<Self> {
        let at = SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(millis))?;
        let is_line = line.starts_with("event=") && !line.contains(char::is_control);
        is_line.then_some(Self::new(at, Severity::named(level)?, owner, line, 0))
    }
}

impl fmt::Display for PastEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", utc(self.at), self.severity.name(), self.line)
    }
}

/// Prints a time as `2026-11-28T23:59:59.123Z` (RFC 3339). Times before 1970 and after 9999 become the
/// nearest time in that range.
pub fn utc(at: SystemTime) -> impl fmt::Display {
    /// The last second of the year 9999.
    const LAST: Duration = Duration::from_secs(253_402_300_799);
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().min(LAST);
    humantime::format_rfc3339_millis(SystemTime::UNIX_EPOCH + since)
}

/// Cuts a line that is too long, and appends how many equal ones were suppressed.
pub(super) fn finish(text: &mut String, most: usize, left_out: u64) {
    // Leaves room for the count and the newline.
    let mut end = (most - 40).min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    if left_out > 0 {
        text.push_str(&format!(" left_out={left_out}"));
    }
}

/// The most recent events of a process, oldest first.
#[derive(Debug, Default)]
pub(super) struct History(VecDeque<PastEvent>);

impl History {
    pub(super) fn push(&mut self, event: PastEvent) {
        let is_by_strangers = |event: &PastEvent| event.line.starts_with(BY_STRANGERS);
        if is_by_strangers(&event)
            && self.0.iter().filter(|event| is_by_strangers(event)).count() >= STRANGERS_KEPT
            && let Some(oldest) = self.0.iter().position(is_by_strangers)
        {
            self.0.remove(oldest);
        }
        if self.0.len() == EVENTS_KEPT {
            self.0.pop_front();
        }
        self.0.push_back(event);
    }

    /// The last `most` events that `is_wanted` accepts, oldest first.
    pub(super) fn last(&self, most: usize, is_wanted: impl Fn(&PastEvent) -> bool) -> Vec<PastEvent> {
        let mut found: Vec<_> =
            self.0.iter().rev().filter(|event| is_wanted(event)).take(most).cloned().collect();
        found.reverse();
        found
    }

    /// Merges the events of another process by time; for equal times, its events come first. Each process's
    /// events stay in order, whatever its clock did.
    pub(super) fn merge(&mut self, others: Vec<PastEvent>) {
        let mut ours = std::mem::take(&mut self.0).into_iter().peekable();
        let mut others = others.into_iter().peekable();
        loop {
            let next = match (ours.peek(), others.peek()) {
                (Some(our), Some(other)) if our.at < other.at => ours.next(),
                (_, Some(_)) => others.next(),
                (_, None) => ours.next(),
            };
            match next {
                Some(event) => self.push(event),
                None => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(millis: u64, line: &str) -> PastEvent {
        PastEvent::of_parts(millis, "notice", Owner::PROCESS, line).expect("an event")
    }

    fn lines(history: &History, most: usize) -> Vec<String> {
        history.last(most, |_| true).iter().map(|event| event.line.to_string()).collect()
    }

    #[test]
    fn the_last_thousand_are_kept_oldest_first() {
        let mut history = History::default();
        for n in 0..1_500 {
            history.push(event(n, &format!("event=note text={n}")));
        }
        assert_eq!(lines(&history, 2), ["event=note text=1498", "event=note text=1499"]);
        let all = lines(&history, usize::MAX);
        assert_eq!((all.len(), &all[0][..]), (EVENTS_KEPT, "event=note text=500"));
        assert_eq!(lines(&history, 0), Vec::<String>::new());
    }

    #[test]
    fn what_strangers_cause_pushes_out_only_its_like() {
        let mut history = History::default();
        let stranger = |n: u32| super::super::Event::WrongToken { from: std::net::Ipv4Addr::from(n).into() };
        history.push(event(0, "event=started"));
        for n in 1..=5_000 {
            history.push(event(n.into(), &stranger(n).to_string()));
        }
        history.push(event(5_001, "event=drained"));
        let all = lines(&history, usize::MAX);
        let expected: Vec<_> =
            (5_001 - STRANGERS_KEPT as u32..=5_000).map(|n| stranger(n).to_string()).collect();
        assert_eq!((&all[0][..], &all[1..all.len() - 1]), ("event=started", &expected[..]));
        assert_eq!(all.last().map(String::as_str), Some("event=drained"));
    }

    #[test]
    fn a_line_says_when_how_grave_and_what() {
        let told = event(1_795_910_399_123, "event=channel_up group=0 channel=1");
        assert_eq!(told.to_string(), "2026-11-28T23:59:59.123Z notice event=channel_up group=0 channel=1");
        assert_eq!(PastEvent::of_parts(told.millis(), "notice", Owner::PROCESS, &told.line), Some(told));
        assert!(event(u64::MAX, "event=a").to_string().starts_with("9999-12-31T23:59:59.000Z"));
        let before = PastEvent { at: SystemTime::UNIX_EPOCH - Duration::from_secs(9), ..event(0, "event=a") };
        assert!(before.to_string().starts_with("1970-01-01T00:00:00.000Z"));
    }

    #[test]
    fn a_line_is_read_back_key_by_key() {
        let text = r#"event=note service=web text="a \"b\" \\ it's = \u{1b} \n" left_out=3"#;
        let fields: Vec<_> = event(0, text).fields().map(|(key, value)| format!("{key}|{value}")).collect();
        let expected = ["event|note", "service|web", r#"text|a "b" \ it's = \u{1b} \n"#, "left_out|3"];
        assert_eq!(fields, expected);
        // Cut and invalid lines come to an end, too.
        for odd in ["event=a text=\"x \\", "event=", "event=a b", "event=a =\"\"=", "event=a \"b\"=c"] {
            assert!(event(0, odd).fields().count() <= 4, "{odd}");
        }
    }

    #[test]
    fn a_long_line_is_cut_and_keeps_its_count() {
        let long = format!("event=note text={}", "\u{e9}".repeat(5_000));
        let told = PastEvent::new(SystemTime::UNIX_EPOCH, Severity::Error, Owner::PROCESS, &long, 7);
        assert!(told.line.len() <= LINE_MAX && told.line.ends_with("\u{e9} left_out=7"), "{}", told.line);
    }

    #[test]
    fn what_no_event_could_say_is_not_taken_from_another_process() {
        for line in ["", "text", "event=a\nevent=b", "event=\u{1b}[2J"] {
            assert_eq!(PastEvent::of_parts(0, "notice", Owner::PROCESS, line), None, "{line:?}");
        }
        assert_eq!(PastEvent::of_parts(0, "loud", Owner::PROCESS, "event=a"), None);
    }

    #[test]
    fn those_of_another_process_come_first_and_each_side_keeps_its_order() {
        let mut history = History::default();
        // Our clock was set back in between.
        for (at, name) in [(50, "d"), (30, "e"), (70, "g")] {
            history.push(event(at, &format!("event={name}")));
        }
        let others = [(10, "a"), (40, "b"), (20, "c"), (60, "f")];
        history.merge(others.iter().map(|(at, name)| event(*at, &format!("event={name}"))).collect());
        let names: String = lines(&history, 10).iter().map(|line| &line[6..]).collect();
        assert_eq!(names, "abcdefg");
    }
}
