//! Which program is run for which event, and with what environment.
//!
//! Knows: programs of services, the events that wait for each, how many may wait. Never: processes, how long
//! one may run, why an event happened.
//! Source: docs/observability.md, "A program for events".

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::history::{Owner, PastEvent, utc};

/// How many events may wait for a program; a further one displaces the oldest.
const MOST_WAITING: usize = 100;

/// The keys of all events that a program can be run for.
pub(super) const KEYS: &[&str] = &[
    "event",
    "service",
    "group",
    "channel",
    "address",
    "cause",
    "after",
    "limit",
    "clients",
    "last",
    "reason",
    "uid",
    "http",
    "exit_code",
    "command",
    "signal",
    "why",
    "connections",
    "within",
    "what",
    "text",
    "listen",
    "services",
    "pid",
    "left_out",
    "lines",
];
/// What else the environment says about an event.
const BESIDE: &[&str] = &["level", "time", "line", "skipped"];

/// The programs that are run for events, and the events that wait for them.
#[derive(Debug, Default)]
pub struct Hooks {
    waiting: Mutex<HookPosts>,
    /// Signalled when there is more to do, or less.
    moved: Condvar,
    /// Is there any program?
    are_there: AtomicBool,
}

#[derive(Debug, Default)]
struct HookPosts {
    /// By service.
    posts: BTreeMap<Owner, HookPost>,
    /// The services that share each program: it is run only once for an event of the process, however many
    /// services use it.
    programs: BTreeMap<Arc<Path>, BTreeSet<Owner>>,
    /// Services with waiting events whose program is not running, in the order in which they became ready.
    ready: VecDeque<Owner>,
    /// No program is run any more.
    is_over: bool,
}

/// The events that wait for one service's program.
#[derive(Debug)]
struct HookPost {
    /// What operators call the service.
    label: String,
    program: Arc<Path>,
    events: VecDeque<PastEvent>,
    /// Events that were displaced since the program was last run.
    skipped: u64,
    is_running: bool,
    /// The service no longer has this program; it is still run for the events that wait.
    is_left: bool,
}

/// One run of a program.
#[derive(Debug, PartialEq, Eq)]
pub struct HookRun {
    /// The service it is run for.
    pub owner: Owner,
    /// The program.
    pub program: PathBuf,
    /// The variables added to its environment.
    pub environment: Vec<(String, String)>,
    /// How many events it has missed since its last run.
    pub skipped: u64,
}

/// What the thread that runs programs has to do.
#[derive(Debug, PartialEq, Eq)]
pub enum HookTask {
    /// Run a program.
    Run(HookRun),
    /// Look at the running programs: one has ended, or the time is over.
    Look,
    /// Stop.
    End,
}

impl Hooks {
    /// Sets the program of the service called `label`; `None` removes it. Events that wait for the previous
    /// program are passed to the new one.
    pub fn set(&self, owner: Owner, label: &str, program: Option<&Path>) {
        let mut waiting = self.waiting();
        let HookPosts { posts, programs, .. } = &mut *waiting;
        if let Some(post) = posts.get(&owner)
            && let Some(owners) = programs.get_mut(&post.program)
        {
            owners.remove(&owner);
            if owners.is_empty() {
                programs.remove(&post.program);
            }
        }
        match (program, posts.get_mut(&owner)) {
            (None, None) => {}
            (None, Some(post)) => {
                post.is_left = true;
                if post.events.is_empty() && !post.is_running {
                    posts.remove(&owner);
                }
            }
            (Some(program), post) => {
                let program: Arc<Path> = program.into();
                programs.entry(Arc::clone(&program)).or_default().insert(owner);
                if let Some(post) = post {
                    (post.program, post.is_left) = (program, false);
                    label.clone_into(&mut post.label);
                } else {
                    let (label, events) = (label.to_owned(), VecDeque::new());
                    let post =
                        HookPost { label, program, events, skipped: 0, is_running: false, is_left: false };
                    posts.insert(owner, post);
                }
            }
        }
        self.are_there.store(!programs.is_empty(), Ordering::Relaxed);
    }

    /// Queues an event for the programs that are to be run for it. Never blocks.
    pub(super) fn offer(&self, event: &PastEvent) {
        if !self.are_there.load(Ordering::Relaxed) {
            return;
        }
        let mut waiting = self.waiting();
        let HookPosts { posts, programs, ready, is_over } = &mut *waiting;
        if *is_over {
            return;
        }
        let hear = |owner: &Owner| {
            let Some(post) = posts.get_mut(owner).filter(|post| !post.is_left) else { return };
            if post.events.is_empty() && !post.is_running {
                ready.push_back(*owner);
            }
            if post.events.len() == MOST_WAITING {
                post.events.pop_front();
                post.skipped += 1;
            }
            post.events.push_back(event.clone());
        };
        match event.owner {
            Owner::PROCESS => programs.values().filter_map(BTreeSet::first).for_each(hear),
            owner => std::iter::once(&owner).for_each(hear),
        }
        drop(waiting);
        self.moved.notify_all();
    }

    /// Waits until there is something to do, at most for `patience` if it is given. Returns a program to run
    /// only if `is_room`.
    pub fn next(&self, is_room: bool, patience: Option<Duration>, ended: impl Fn() -> bool) -> HookTask {
        let mut waiting = self.waiting();
        let mut is_late = false;
        loop {
            if waiting.is_over {
                return HookTask::End;
            }
            if ended() || is_late {
                return HookTask::Look;
            }
            if is_room && let Some(run) = waiting.take() {
                return HookTask::Run(run);
            }
            waiting = match patience {
                Some(patience) => {
                    let (waiting, timeout) =
                        self.moved.wait_timeout(waiting, patience).unwrap_or_else(PoisonError::into_inner);
                    is_late = timeout.timed_out();
                    waiting
                }
                None => self.moved.wait(waiting).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    /// Notes that the program of this service has ended. `note` is called before the program is run again, to
    /// record the result.
    pub fn ended(&self, owner: Owner, note: impl FnOnce()) {
        let mut waiting = self.waiting();
        note();
        if let Some(post) = waiting.posts.get_mut(&owner) {
            post.is_running = false;
            match (post.events.is_empty(), post.is_left) {
                (false, _) => waiting.ready.push_back(owner),
                (true, true) => _ = waiting.posts.remove(&owner),
                (true, false) => {}
            }
        }
        drop(waiting);
        self.moved.notify_all();
    }

    /// Lets the waiting events be handled for at most `patience`; afterwards no program is run. Returns how
    /// many events were not handled.
    pub fn finish(&self, patience: Duration) -> usize {
        let is_busy = |waiting: &mut HookPosts| {
            waiting.posts.values().any(|post| post.is_running || !post.events.is_empty())
        };
        let waiting = self.moved.wait_timeout_while(self.waiting(), patience, is_busy);
        let mut waiting = waiting.unwrap_or_else(PoisonError::into_inner).0;
        waiting.is_over = true;
        let left = waiting.posts.values().map(|post| post.events.len()).sum();
        drop(waiting);
        self.moved.notify_all();
        left
    }

    fn waiting(&self) -> MutexGuard<'_, HookPosts> {
        // The value is consistent even after a panic, since nothing between two changes can panic.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl HookPosts {
    /// Takes the next run and marks its program as running.
    fn take(&mut self) -> Option<HookRun> {
        while let Some(owner) = self.ready.pop_front() {
            let Some(post) = self.posts.get_mut(&owner).filter(|post| !post.is_running) else { continue };
            let Some(event) = post.events.pop_front() else { continue };
            post.is_running = true;
            let skipped = std::mem::take(&mut post.skipped);
            let label = (event.owner != Owner::PROCESS).then_some(&post.label[..]);
            let environment = environment(&event, label, skipped);
            return Some(HookRun { owner, program: post.program.to_path_buf(), environment, skipped });
        }
        None
    }
}

/// `BALANCE_EVENT`, ...
fn environment(event: &PastEvent, label: Option<&str>, skipped: u64) -> Vec<(String, String)> {
    let mut all: BTreeMap<String, String> = event
        .fields()
        .filter(|(key, _)| KEYS.contains(key))
        .map(|(key, value)| (variable(key), value))
        .collect();
    let mut set = |key: &str, value: String| _ = all.insert(variable(key), value);
    set("level", event.severity.name().to_owned());
    set("time", utc(event.at).to_string());
    set("line", event.to_string());
    if skipped > 0 {
        set("skipped", skipped.to_string());
    }
    if let Some(label) = label {
        set("service", label.to_owned());
    }
    all.into_iter().collect()
}

fn variable(key: &str) -> String {
    format!("BALANCE_{}", key.to_ascii_uppercase())
}

/// The names of all variables that a program's environment may get. Variables of these names in our own
/// environment are not passed on.
pub fn hook_variables() -> Vec<String> {
    KEYS.iter().chain(BESIDE).map(|key| variable(key)).collect()
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::observe::Severity;

    fn event(owner: Owner, line: &str) -> PastEvent {
        PastEvent::new(SystemTime::UNIX_EPOCH, Severity::Notice, owner, line, 0)
    }

    /// The next run.
    fn run(hooks: &Hooks) -> Option<HookRun> {
        match hooks.next(true, Some(Duration::ZERO), || false) {
            HookTask::Run(run) => Some(run),
            HookTask::Look | HookTask::End => None,
        }
    }

    fn told(run: &HookRun, name: &str) -> Option<String> {
        run.environment.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone())
    }

    fn event_of(run: Option<HookRun>) -> String {
        run.and_then(|run| told(&run, "BALANCE_EVENT")).unwrap_or_default()
    }

    #[test]
    fn a_service_hears_one_event_after_the_other_and_another_one_beside_it() {
        let hooks = Hooks::default();
        let [web, mail, none] = [(); 3].map(|()| Owner::new_service());
        hooks.set(web, "web", Some(Path::new("/web")));
        hooks.set(mail, "mail", Some(Path::new("/mail")));
        for owner in [web, none, web, mail] {
            hooks.offer(&event(
                owner,
                "event=channel_up service=x group=0 channel=1 address=[::1]:80 after=1.0s",
            ));
        }
        let first = run(&hooks).expect("web's first");
        assert_eq!((first.owner, &first.program), (web, &PathBuf::from("/web")));
        let names =
            ["BALANCE_SERVICE", "BALANCE_GROUP", "BALANCE_ADDRESS", "BALANCE_LEVEL", "BALANCE_SKIPPED"];
        let values = names.map(|name| told(&first, name).unwrap_or_default());
        assert_eq!(values, ["web", "0", "[::1]:80", "notice", ""]);
        assert_eq!(run(&hooks).map(|run| run.owner), Some(mail));
        assert_eq!(run(&hooks), None, "each runs, and web's second waits");
        hooks.ended(web, || ());
        assert_eq!(run(&hooks).map(|run| run.owner), Some(web));
        hooks.ended(mail, || ());
        hooks.ended(web, || ());
        assert_eq!(run(&hooks), None);
        assert_eq!(hooks.finish(Duration::from_secs(60)), 0, "nobody is waited for");
    }

    #[test]
    fn an_event_of_the_process_is_heard_once_by_each_program() {
        let hooks = Hooks::default();
        let [a, b, c] = [(); 3].map(|()| Owner::new_service());
        for (owner, program) in [(a, "/one"), (b, "/one"), (c, "/two")] {
            hooks.set(owner, "s", Some(Path::new(program)));
        }
        let heard = |line: &str| {
            hooks.offer(&event(Owner::PROCESS, line));
            let runs: Vec<_> = std::iter::from_fn(|| run(&hooks)).collect();
            runs.iter().for_each(|run| hooks.ended(run.owner, || ()));
            assert!(runs.iter().all(|run| told(run, "BALANCE_SERVICE").is_none()));
            runs.into_iter().map(|run| run.owner).collect::<Vec<_>>()
        };
        assert_eq!(heard("event=note text=x"), [a, c]);
        hooks.set(a, "s", None);
        assert_eq!(heard("event=note text=x"), [b, c]);
        hooks.set(b, "s", Some(Path::new("/two")));
        assert_eq!(heard("event=note text=x"), [b], "one program is left");
        hooks.set(b, "s", None);
        hooks.set(c, "s", None);
        assert_eq!(heard("event=note text=x"), []);
        assert!(hooks.waiting().posts.is_empty());
    }

    #[test]
    fn a_program_is_told_all_that_an_event_says_and_nothing_that_was_said_to_others() {
        use crate::observe::Event;
        use crate::sched::{ChannelId, ChannelKey, GroupId};

        let channel = ChannelKey { group: GroupId::FIRST, channel: ChannelId::new(1).expect("small") };
        let (address, cause, after): (std::net::SocketAddr, _, _) =
            (([10, 0, 0, 1], 80).into(), "why".to_owned(), Duration::from_secs(1));
        let text = || "text".to_owned();
        let events = [
            Event::Started { listen: vec![address.into(); 2], pid: 7 },
            Event::Ejected { channel, address: address.into(), cause },
            Event::ChannelUp { channel, address: address.into(), after },
            Event::ChannelUpAgain { after },
            Event::MaxConnections { limit: 7 },
            Event::ClientsRefused {
                clients: 7,
                last: address.into(),
                reason: crate::sched::End::Refused(crate::sched::Rule::Denied),
            },
            Event::GreetingsFull { last: address.into(), cause: text() },
            Event::DialFailed { channel, cause: text() },
            Event::Commanded { by: crate::observe::Commander::Uid(0), command: text() },
            Event::Commanded { by: crate::observe::Commander::Http(address.ip()), command: text() },
            Event::CommandFailed { by: crate::observe::Commander::Uid(0), command: text(), exit_code: 65 },
            Event::SignalIgnored { signal: text(), why: "why" },
            Event::Stopping { connections: 1, within: Some(after) },
            Event::WorkerPanic { what: text() },
            Event::AccessLinesDropped { lines: 7, cause: text() },
            Event::Note { severity: Severity::Notice, text: text() },
        ];
        let names = hook_variables();
        for line in events.map(|event| event.to_string()) {
            let event = PastEvent::new(SystemTime::UNIX_EPOCH, Severity::Notice, Owner::PROCESS, &line, 2);
            let told = environment(&event, Some("web"), 3);
            assert!(told.iter().all(|(name, _)| names.contains(name)), "{told:?}");
            for (key, value) in event.fields() {
                assert!(told.contains(&(variable(key), value)), "{key} in {told:?}");
            }
            let beside = ["LEVEL", "TIME", "LINE", "SKIPPED", "SERVICE", "LEFT_OUT"];
            let is_told = |name: &&str| told.iter().any(|(told, _)| *told == format!("BALANCE_{name}"));
            assert!(beside.iter().all(is_told), "{told:?}");
        }
    }

    #[test]
    fn a_burst_leaves_the_last_hundred_and_says_how_many_went() {
        let hooks = Hooks::default();
        let web = Owner::new_service();
        hooks.set(web, "web", Some(Path::new("/web")));
        let offer = |n: usize| hooks.offer(&event(web, &format!("event=e{n}")));
        offer(0);
        assert_eq!(event_of(run(&hooks)), "e0");
        (1..=200).for_each(offer);
        hooks.ended(web, || ());
        let next = run(&hooks).expect("one that was kept");
        assert_eq!((next.skipped, told(&next, "BALANCE_SKIPPED").as_deref()), (100, Some("100")));
        assert_eq!(event_of(Some(next)), "e101");
        hooks.ended(web, || ());
        let next = run(&hooks).expect("one that was kept");
        assert_eq!((next.skipped, told(&next, "BALANCE_SKIPPED")), (0, None));
        // Another program gets what is left; no program gets nothing more.
        hooks.set(web, "web", Some(Path::new("/other")));
        hooks.ended(web, || ());
        assert_eq!(run(&hooks).map(|run| run.program), Some(PathBuf::from("/other")));
        hooks.set(web, "web", None);
        offer(999);
        hooks.ended(web, || ());
        let left = std::iter::from_fn(|| {
            let run = run(&hooks)?;
            hooks.ended(web, || ());
            Some(event_of(Some(run)))
        });
        assert_eq!(left.last().as_deref(), Some("e200"));
        assert!(hooks.waiting().posts.is_empty(), "it is forgotten");
    }

    #[test]
    fn the_end_waits_for_what_runs_but_not_long_and_counts_what_was_not_heard() {
        let hooks = Hooks::default();
        let web = Owner::new_service();
        hooks.set(web, "web", Some(Path::new("/web")));
        (0..3).for_each(|_| hooks.offer(&event(web, "event=drained")));
        assert!(run(&hooks).is_some());
        assert_eq!(hooks.finish(Duration::ZERO), 2);
        assert_eq!(hooks.next(true, None, || false), HookTask::End);
        hooks.offer(&event(web, "event=drained"));
        assert_eq!(hooks.finish(Duration::ZERO), 2, "nothing more is taken");
    }
}
