//! A reload, from the request to the report.
//!
//! Knows: when a reload is possible, what it reads, how it ends. Never: how one thing of it is done
//! (`carrying`, `moving`).
//! Source: docs/reload.md.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::thread;

use super::super::plan;
use super::super::{Failure, exit, files, lists, lookup, ways};
use super::moving::{has_access, is_lost};
use super::{MOST_TOLD, Members, ReloadNews, Reread, Roster, RosterEntry, Source, label_logs, warnings};
use crate::config;
use crate::observe::{Event, Severity};
use crate::process;
use crate::spec::ListenSpan;

/// The end of the message if a reload has changed nothing.
pub(super) const NOTHING: &str = "nothing was changed";
/// The end of the message if a reload has changed only a part.
pub(super) const NOT_ALL: &str = "not everything is as the files say; see above";
const BROKE_OFF: &str = "it stopped in the middle, because of a fault in balance itself; all services go on, some of them as \
                         the files say now; reload again";

impl Members {
    /// Has anybody a Unix socket that is to be made anew, or to be given its permissions again?
    fn have_odd_sockets(&self) -> bool {
        let is_odd = |member: &RosterEntry| {
            member.served.listeners.iter().any(is_lost)
                || !has_access(&member.served, &member.served.parts.spec)
        };
        self.all.iter().any(is_odd)
    }
}

impl Roster {
    /// Reloads on a thread of its own, because looking up names may take long. All calls until it begins
    /// count as one.
    pub(in crate::app) fn reload_soon(self: &Arc<Self>) {
        let has_files = || self.watched().iter().any(|one| lists::has_files(&one.table));
        // While another reload has them, they are asked later.
        let is_odd = || self.members.try_lock().map_or(true, |members| members.have_odd_sockets());
        if self.source.is_none() && !has_files() && !is_odd() {
            let why = "there is no file to read again";
            return self.tools.log.tell(&Event::SignalIgnored { signal: "HUP".into(), why });
        }
        if self.is_wanted.swap(true, Ordering::SeqCst) {
            return;
        }
        let roster = Arc::clone(self);
        let spawned = thread::Builder::new().name("reload".into()).spawn(move || {
            let _turn = roster.turn.lock().unwrap_or_else(PoisonError::into_inner);
            roster.is_wanted.store(false, Ordering::SeqCst);
            // The outcome is logged.
            let _ = roster.reload(false);
        });
        if let Err(e) = spawned {
            self.is_wanted.store(false, Ordering::SeqCst);
            let text = format!("reload: cannot start a thread: {e}");
            self.tools.log.tell(&Event::Note { severity: Severity::Error, text });
        }
    }

    /// Reads the files again and changes the services accordingly. Returns what has changed, one line each.
    ///
    /// # Errors
    /// There is an error in the files, or something that they ask for is not possible. Then nothing has
    /// changed.
    pub(in crate::app) fn reload(&self, clean: bool) -> Result<Vec<String>, Failure> {
        process::tell_reloading();
        let outcome = self.reload_and_tell(clean);
        let why = outcome.as_ref().err().and_then(|failure| failure.message.lines().next());
        let why = why.map(|why| why.strip_prefix("balance: ").unwrap_or(why));
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = why.map(str::to_owned);
        process::tell_ready(
            &why.map_or_else(|| "reloaded".to_owned(), |why| format!("reload failed: {why}")),
        );
        (self.done)();
        outcome
    }

    /// Why the last reload failed, in one line; `None`: it did not.
    pub(in crate::app) fn last_trouble(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn reload_and_tell(&self, clean: bool) -> Result<Vec<String>, Failure> {
        match catch_unwind(AssertUnwindSafe(|| self.reload_now(clean))) {
            Ok(Ok(ReloadNews { made, missed, warnings })) => {
                self.tell(&made);
                missed.iter().for_each(|what| self.complain(what));
                let told: Vec<String> = made
                    .into_iter()
                    .chain(warnings.into_iter().map(|text| format!("warning: {text}")))
                    .collect();
                match missed.is_empty() {
                    true => Ok(told),
                    false => {
                        let lines: Vec<String> = told.into_iter().chain(missed).collect();
                        Err(Failure::new(exit::OS, format!("{}\nbalance: {NOT_ALL}", lines.join("\n"))))
                    }
                }
            }
            Ok(Err(mut failure)) => {
                if !failure.message.trim_end().ends_with(NOTHING) {
                    failure.message = format!("{}\nbalance: {NOTHING}", failure.message.trim_end());
                }
                self.complain_of_each(&failure.message);
                Err(failure)
            }
            Err(_) => {
                self.recover();
                self.complain(BROKE_OFF);
                Err(Failure::new(exit::OS, format!("balance: {BROKE_OFF}")))
            }
        }
    }

    /// After a panic: makes sure that operators find all services that are being served.
    fn recover(&self) {
        let members = self.members();
        for member in members.all.iter().filter(|one| one.rank.is_none() && !one.is_killed()) {
            // It was marked as removed, but is still served.
            member.service.killed.store(false, Ordering::SeqCst);
        }
        self.list(&members.all);
        self.watch(&members.all);
        label_logs(&members.all);
    }

    fn complain(&self, what: &str) {
        let text = format!("reload: {what}");
        self.tools.log.tell_each_time(&Event::Note { severity: Severity::Error, text });
    }

    /// One event for each error, since a log line must be one line.
    fn complain_of_each(&self, message: &str) {
        let reasons = |line: &&str| !line.is_empty() && !line.ends_with(NOTHING);
        for reason in message.lines().filter(reasons).take(MOST_TOLD) {
            let reason = reason.strip_prefix("balance: ").unwrap_or(reason);
            let text = format!("reload failed, {NOTHING}: {reason}");
            self.tools.log.tell_each_time(&Event::Note { severity: Severity::Error, text });
        }
    }

    fn tell(&self, changes: &[String]) {
        let note = |text| self.tools.log.tell(&Event::Note { severity: Severity::Notice, text });
        for change in changes.iter().take(MOST_TOLD) {
            note(format!("reload: {change}"));
        }
        match changes.len() {
            0 => note("reload: nothing has changed".to_owned()),
            all if all > MOST_TOLD => note(format!("reload: and {} more changes", all - MOST_TOLD)),
            _ => {}
        }
    }

    pub(super) fn reload_now(&self, clean: bool) -> Result<ReloadNews, Failure> {
        let mut members = self.members();
        let members = &mut *members;
        let nothing = |text: &str| Err(Failure::new(exit::CONFIG, format!("balance: {text}")));
        let has_files = || members.all.iter().any(|one| lists::has_files(&one.served.parts.table));
        if self.source.is_none() && !clean && !has_files() && !members.have_odd_sockets() {
            return nothing(
                "there is no file to read again; the service was given on the command line (reload clean drops what was \
                 changed by hand)",
            );
        }
        if self.is_frozen.load(Ordering::SeqCst) {
            let text = "balance: another process is taking over just now; try again";
            return Err(Failure::new(exit::LATER, text));
        }
        if members.all.iter().all(RosterEntry::is_killed) {
            return nothing("the instance was told to stop");
        }
        let (process, specs) = match &self.source {
            Some(Source { files, directory }) => {
                files::read(files, directory).map_err(|errors| Failure::told(errors, NOTHING))?
            }
            // The command line has not changed.
            None => {
                let specs = members.all.iter().map(|member| member.written().spec.clone());
                (members.process.clone(), specs.collect())
            }
        };
        let known = members.all.iter().flat_map(RosterEntry::known).collect();
        let (found, failed) =
            lookup::services(&specs, known).map_err(|errors| Failure::told(errors, NOTHING))?;
        let wanted: Vec<Reread> =
            specs.into_iter().zip(found).map(|(spec, found)| Reread { spec, found }).collect();
        // A service that was stopped by hand starts again if its line still exists.
        members.all.retain(|member| !member.is_killed());
        let now: Vec<ListenSpan> = members.all.iter().map(|member| member.served.parts.span).collect();
        let spans: Vec<ListenSpan> = wanted.iter().map(|one| one.found.span()).collect();
        let pairing = plan::pair(&now, &spans);
        let was_transparent = |number| {
            let mut kept = pairing.kept.iter().filter(|&&(_, at)| at == number);
            kept.any(|&(was, _)| members.all[was].served.parts.outgoing.transparent)
        };
        let new = wanted.iter().enumerate().filter(|&(number, _)| !was_transparent(number));
        if let Some(failure) = ways::refused(new.map(|(_, one)| (&one.spec, &one.found)), false) {
            return Err(failure);
        }
        let mut changes = ReloadNews { made: failed, ..ReloadNews::default() };
        let before: BTreeSet<String> = warnings(&members.all).into_iter().map(|(_, text)| text).collect();
        self.carry_out(members, wanted, &pairing, clean, &mut changes)?;
        for (number, text) in warnings(&members.all) {
            if !before.contains(&text) {
                let note = Event::Note { severity: Severity::Warning, text: text.clone() };
                members.all[number].served.log.tell(&note);
                changes.warnings.push(format!("{}: {text}", members.all[number].label()));
            }
        }
        let later = config::process_changes(&members.process, &process);
        changes.made.extend(
            later.iter().map(|name| format!("{name}: the new value applies after an upgrade or a restart")),
        );
        Ok(changes)
    }
}
