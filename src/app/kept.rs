//! What a start does with its state file: reads it, applies it to the new tables, and reports that.
//!
//! Knows: which service a fact is about, how a start goes on after an error. Never: when the file is written,
//! single facts.
//! Source: docs/state.md.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::thread;
use std::time::{Duration, SystemTime};

use super::keeper::KeepingPlace;
use super::lookup::Resolved;
use super::restore::{self, Restored};
use super::roster::Source;
use super::state::{Fact, FoundTarget, KeptService, KeptState};
use super::statefile::{StateFile, StateFileError, StoredState};
use super::{MOST_TOLD, counted, plan};
use crate::names::resolve;
use crate::observe::{Event, Log, Severity};
use crate::sched::{Addresses, Denial, Until};
use crate::spec::{Address, ListenSpan, Name, Named, ServiceSpec};

/// How long a start waits for the previous instance, which writes the file for the last time.
const PATIENCE: Duration = Duration::from_secs(3);

/// After this time, changes made before this process was started have been written.
const SETTLED: Duration = Duration::from_millis(1_200);
/// The message if --state names a file of services. It must not be overwritten because of such a mistake.
const IS_SOURCE: &str = "this is a configuration file of --file; balance keeps no changes";

/// The state that a start uses.
#[derive(Default)]
pub(super) struct Kept {
    /// Where the state is kept from now on. `None`: it is not kept.
    pub(super) place: Option<KeepingPlace>,
    name: String,
    state: KeptState,
    /// Services of the file that still exist, by the address where they listen now.
    paired: Vec<(Address, KeptService)>,
    looked_up: HashMap<String, Option<Vec<SocketAddr>>>,
    applied: usize,
    /// Why other facts do not apply.
    passed_over: Vec<String>,
    /// Warnings that were shown to the user who started the process.
    warned: Vec<String>,
}

/// Opens the file of `--state`, unless another instance uses it. Errors are reported and do not prevent the
/// start.
pub(super) fn take(named: Option<&Named>, source: Option<&Source>, warn: &Log) -> Kept {
    let Some(named) = named else { return Kept::default() };
    let mut kept = Kept { name: named.name.clone(), ..Kept::default() };
    let mut file = match at(named) {
        Ok(file) => file,
        Err(error) => {
            kept.warn(warn, &format!("{error}; balance keeps no changes"));
            return kept;
        }
    };
    if source.is_some_and(|source| source.has(&file.path())) {
        kept.warn(warn, IS_SOURCE);
        return kept;
    }
    let mut trouble = None;
    let text = match file.take(PATIENCE) {
        Ok(StoredState::Nothing) => None,
        Ok(StoredState::State(state, text)) => {
            kept.state = state;
            Some(text)
        }
        Ok(StoredState::Bad(why)) => {
            kept.warn(warn, &format!("{why}; balance starts without it"));
            None
        }
        Err(error @ StateFileError::Busy(_)) => {
            kept.warn(warn, &format!("{error}; this instance neither reads nor keeps any state"));
            return kept;
        }
        Err(error) => {
            let so = "balance starts without it and tries again to keep what is changed";
            let why = file.told(&error);
            kept.warn(warn, &format!("{why}; {so}"));
            trouble = Some(why);
            None
        }
    };
    kept.place = Some(KeepingPlace { file, text, trouble, is_inherited: false });
    kept
}

/// Opens the file of the predecessor, which writes it for the last time once this process serves.
pub(super) fn succeed(named: Option<&Named>, source: Option<&Source>, log: &Log) -> Kept {
    let Some(named) = named else { return Kept::default() };
    let mut kept = Kept { name: named.name.clone(), ..Kept::default() };
    match at(named) {
        Ok(file) if source.is_some_and(|source| source.has(&file.path())) => kept.warn(log, IS_SOURCE),
        Ok(file) => kept.place = Some(KeepingPlace { file, text: None, trouble: None, is_inherited: true }),
        Err(error) => kept.warn(log, &format!("{error}; balance keeps no changes")),
    }
    kept
}

/// Opens the file if the predecessor keeps no state. The file may belong to another instance, and its
/// contents are not the state of the predecessor's tables, so they are ignored.
pub(super) fn begin(named: Option<&Named>, source: Option<&Source>, log: &Log) -> Kept {
    let mut kept = take(named, source, log);
    kept.state = KeptState::default();
    kept
}

/// The same if the predecessor does not hand its tables over: waits until it has written its state, and reads
/// that.
pub(super) fn replace(named: Option<&Named>, source: Option<&Source>, log: &Log) -> Kept {
    let mut kept = succeed(named, source, log);
    if kept.place.is_some() {
        thread::sleep(SETTLED);
        kept.read();
    }
    kept
}

/// Why the file could not be used; `None`: it could.
pub(super) fn why_not(named: &Named, source: Option<&Source>) -> Option<String> {
    match at(named) {
        Ok(file) if source.is_some_and(|source| source.has(&file.path())) => Some(IS_SOURCE.to_owned()),
        Ok(file) => file.why_not(),
        Err(error) => Some(error.to_string()),
    }
}

/// The file at this path. In the background the process changes its directory, but the path is relative to
/// the present one.
fn at(named: &Named) -> Result<StateFile, StateFileError> {
    StateFile::at(Path::new(&named.name), &std::env::current_dir().unwrap_or_default())
}

impl Kept {
    fn warn(&mut self, warn: &Log, text: &str) {
        let text = format!("--state {}: {text}", self.name);
        self.warned.push(text.clone());
        warn.tell(&Event::Note { severity: Severity::Warning, text });
    }

    /// Reads what the predecessor has written last. If that cannot be used, the next write replaces it.
    pub(super) fn read(&mut self) {
        self.state = self.place.as_ref().and_then(|place| place.file.peek()).unwrap_or_default();
    }

    /// In the background: logs the warnings that only the user who started the process has seen.
    pub(super) fn warn_again(&self, log: &Log) {
        for text in &self.warned {
            log.tell_again(&Event::Note { severity: Severity::Warning, text: text.clone() });
        }
    }

    /// Finds which services of the file these are: by their first port, else by another one, as a reload
    /// does.
    pub(super) fn pair(&mut self, wanted: &[ListenSpan]) {
        let all = std::mem::take(&mut self.state.services);
        let then: Vec<ListenSpan> = all.iter().map(|one| ListenSpan::new(one.place, one.last)).collect();
        let pairs: HashMap<usize, usize> = plan::pair(&then, wanted).kept.into_iter().collect();
        for (number, service) in all.into_iter().enumerate() {
            match pairs.get(&number) {
                Some(&now) => self.paired.push((wanted[now].first(), service)),
                None => self.state.services.push(service),
            }
        }
    }

    /// Applies the changes for this service to what its table begins with.
    pub(super) fn restore(&mut self, spec: &ServiceSpec, found: &mut Resolved) {
        let place = found.place();
        let Some(at) = self.paired.iter().position(|(now, _)| *now == place) else { return };
        let (_, service) = self.paired.swap_remove(at);
        let was_port = if service.last == service.place.port() { service.last } else { 0 };
        let (denied, facts): (Vec<Fact>, Vec<Fact>) =
            service.facts.into_iter().partition(|fact| matches!(fact, Fact::Denied { .. }));
        found.denied = denied.iter().filter_map(denial).collect();
        self.applied += found.denied.len();
        let Self { looked_up, applied, passed_over, .. } = self;
        let mut look_up = |to: &FoundTarget| look_up(to, looked_up, passed_over);
        let Restored { groups, found: channels, decided, applied: count, passed_over: why } =
            restore::restore(
                &facts,
                &spec.groups,
                spec.later_policy,
                &found.channels,
                was_port,
                &mut look_up,
            );
        *applied += count;
        let label = spec.name.as_ref().map_or_else(|| place.to_string(), |name| name.as_str().to_owned());
        passed_over.extend(why.into_iter().map(|why| format!("service {label}: {why}")));
        (found.changed, found.channels, found.decided) = (Some(groups), channels, decided);
    }

    /// Reports what was applied and what was not, after all services were restored.
    pub(super) fn tell(&mut self, log: &Log) {
        let name = &self.name;
        let note = |text| {
            log.tell(&Event::Note { severity: Severity::Notice, text: format!("--state {name}: {text}") })
        };
        for service in std::mem::take(&mut self.state.services) {
            let label = service
                .name
                .as_ref()
                .map_or_else(|| service.place.to_string(), |name: &Name| name.as_str().to_owned());
            let place = service.place;
            self.passed_over.push(format!("service {label}: nothing listens on {place} any more"));
        }
        if self.applied > 0 {
            note(format!("{} from before the restart applied", counted(self.applied, "change")));
        }
        for why in self.passed_over.iter().take(MOST_TOLD) {
            note(why.clone());
        }
        if self.passed_over.len() > MOST_TOLD {
            note(format!("and {} more that no longer apply", self.passed_over.len() - MOST_TOLD));
        }
        self.passed_over.clear();
    }
}

/// A denial that is still in force. The clock of the instance is about to begin at 0.
fn denial(fact: &Fact) -> Option<Denial> {
    let Fact::Denied { net, until } = fact else { return None };
    let Some(since_1970) = *until else { return Some(Denial { net: *net, until: None }) };
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let at = Duration::from_secs(since_1970).checked_sub(now)?;
    Some(Denial { net: *net, until: Some(Until { at, since_1970 }) })
}

/// The present addresses of a host; if it cannot be looked up, those in the file.
fn look_up(
    to: &FoundTarget,
    known: &mut HashMap<String, Option<Vec<SocketAddr>>>,
    told: &mut Vec<String>,
) -> Addresses {
    let FoundTarget { target, found } = to;
    if found.first().unix().is_some() {
        return found.clone();
    }
    let addresses =
        known.entry(target.host.clone()).or_insert_with(|| match resolve::addresses(&target.host, 0) {
            Ok(found) => Some(found),
            Err(e) => {
                told.push(format!("no host '{}': {e}; its channel keeps its addresses", target.host));
                None
            }
        });
    let with_port = |address: SocketAddr| Address::from(address).with_port(target.port);
    let now = addresses.as_ref().and_then(|all| Addresses::new(all.iter().copied().map(with_port).collect()));
    now.map_or_else(|| found.clone(), |now| now.named(&target.host))
}
