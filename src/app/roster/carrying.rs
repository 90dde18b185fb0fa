//! Carries out a reload: which services are added, changed and removed is known, and this makes it so.
//!
//! Knows: the order of the steps, what is logged about them. Never: which services come and go (that is in
//! `plan`), whether to reload.
//! Source: docs/reload.md.

use std::num::NonZeroU16;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use super::super::lookup::Resolved;
use super::super::plan::{self, Pairing, PlannedEdit};
use super::super::prepared::{self, BIND_PATIENCE, Got, Prepared, Served};
use super::super::{Failure, counted, exit};
use super::clearing::{Clearing, Leaving, TakenPlaces};
use super::edit;
use super::moving::has_access;
use super::reloading::NOTHING;
use super::{
    Coming, HOLD, LET_IN, Made, Members, ReloadNews, Reread, Roster, RosterEntry, Tools, Written, count_of,
    label_logs, survey,
};
use crate::config;
use crate::process;
use crate::sched::{End, Lists, SharedTable};
use crate::spec::{ListenHost, OnDown, PortWord, ServiceSpec};
use crate::sys::descriptors::Taken;
#[cfg(test)]
use crate::sys::trouble::{self, FaultPoint};
use crate::sys::{Outgoing, Sources};

impl Roster {
    pub(super) fn carry_out(
        &self,
        members: &mut Members,
        wanted: Vec<Reread>,
        pairing: &Pairing,
        clean: bool,
        changes: &mut ReloadNews,
    ) -> Result<(), Failure> {
        let mut wanted: Vec<Option<Reread>> = wanted.into_iter().map(Some).collect();
        let leaving = members.listeners_that_go(&wanted, pairing);
        let in_the_way: TakenPlaces = leaving.iter().map(Leaving::at).collect();
        #[allow(
            clippy::needless_late_init,
            reason = "dropped last: whatever goes wrong, those that take the place are closed before these are taken up again"
        )]
        let clearing;
        // All steps that can fail come first.
        let (mut new, mut late, mut failures) = (Vec::new(), Vec::new(), Vec::new());
        let mut patience = BIND_PATIENCE;
        for &number in &pairing.added {
            let Some(Reread { spec, found }) = wanted[number].take() else { continue };
            // If the address is used by a listener that goes in this reload, it is bound later.
            if found.span().each().any(|at| in_the_way.meet(at)) {
                late.push((number, spec, found));
                continue;
            }
            match self.prepare(spec, found, &mut patience) {
                Ok(made) => new.push(Coming { number, made }),
                Err(failure) => failures.push(failure),
            }
        }
        for (_, spec, found) in &late {
            let held = leaving.iter().find_map(|one| one.held(found.span().each()));
            failures.extend(held.map(|why| Failure::at(&spec.listen.typed, Failure::new(exit::OS, why))));
        }
        let mut widenings = Vec::new();
        for &(was, number) in &pairing.kept {
            let Some(Reread { spec, found }) = &wanted[number] else { continue };
            match self.widen(&members.all[was], spec, found, &in_the_way, &mut patience) {
                Ok(widening) => {
                    let held = leaving.iter().find_map(|one| one.held(widening.late.iter().copied()));
                    failures
                        .extend(held.map(|why| Failure::at(&spec.listen.typed, Failure::new(exit::OS, why))));
                    widenings.push((was, number, widening));
                }
                Err(failure) => failures.push(failure),
            }
        }
        if let Some(failure) = Failure::several(failures, NOTHING) {
            return Err(failure);
        }
        let late_places = late.iter().flat_map(|(.., found)| found.span().each());
        let widened = widenings.iter().flat_map(|(.., widening)| widening.late.iter().copied());
        let late_places: TakenPlaces = late_places.chain(widened).filter_map(|at| at.net()).collect();
        clearing = Clearing::of(leaving.into_iter().filter(|one| late_places.meet(one.at())).collect());
        let mut failures = Vec::new();
        // Clients that connect there at this moment are refused, so this does not wait.
        let mut at_once = Duration::ZERO;
        for (number, spec, found) in late {
            match self.prepare(spec, found, &mut at_once) {
                Ok(made) => new.push(Coming { number, made }),
                Err(failure) => failures.push(failure),
            }
        }
        for (_, number, widening) in &mut widenings {
            let Some(Reread { spec, .. }) = &wanted[*number] else { continue };
            failures.extend(self.bind_late(spec, widening, &mut at_once).err());
        }
        if let Some(failure) = Failure::several(failures, NOTHING) {
            drop((new, widenings));
            let lost = clearing.take_up();
            if lost.is_empty() {
                return Err(failure);
            }
            changes
                .missed
                .extend(failure.message.lines().filter(|line| !line.ends_with(NOTHING)).map(str::to_owned));
            self.lose(members, &lost, changes);
            self.watch(&members.all);
            return Ok(());
        }
        for member in &mut members.all {
            member.rank = None;
        }
        for &(was, number) in &pairing.kept {
            members.all[was].rank = Some(number);
        }
        // From here on, everything that is served is a member, even if a later step fails.
        self.take_in(members, new, changes)?;
        for (was, _, widening) in widenings {
            self.move_listeners(&mut members.all[was], widening, changes);
        }
        let mut order: Vec<(usize, usize)> = pairing.kept.clone();
        order.sort_unstable_by_key(|&(_, number)| number);
        for (was, number) in order {
            if let Some(wanted) = wanted[number].take() {
                self.change(&mut members.all[was], wanted, clean, changes);
            }
        }
        // Names go before ports, so that a process that gets one of these ports finds its name free.
        let is_gone = |member: &&RosterEntry| member.rank.is_none();
        members.all.iter().filter(is_gone).for_each(|one| one.service.killed.store(true, Ordering::SeqCst));
        members.all.sort_by_key(|member| member.rank.unwrap_or(usize::MAX));
        self.list(&members.all);
        changes.made.extend(members.all.iter().filter(is_gone).map(|member| self.remove(member)));
        members.all.retain(|member| member.rank.is_some());
        clearing.forget();
        members.all.sort_by_key(|member| member.rank);
        if !pairing.removed.is_empty() {
            self.list(&members.all);
        }
        self.watch(&members.all);
        label_logs(&members.all);
        Ok(())
    }

    /// Serves new services, all of them or none.
    fn take_in(
        &self,
        members: &mut Members,
        new: Vec<Coming>,
        changes: &mut ReloadNews,
    ) -> Result<(), Failure> {
        let (ranks, new): (Vec<_>, Vec<_>) = new
            .into_iter()
            .map(|Coming { number, made: (made, groups, taken) }| ((number, taken), (made, groups)))
            .unzip();
        self.begin_lives(&new);
        let opened = self.serve(new).map_err(|e| Failure::new(exit::OS, format!("balance: {e}")))?;
        let ranked = |(member, (number, taken))| RosterEntry {
            descriptors: Some(taken),
            rank: Some(number),
            ..member
        };
        let first = members.all.len();
        members.all.extend(opened.into_iter().zip(ranks).map(ranked));
        for member in &members.all[first..] {
            #[cfg(test)]
            let _ = trouble::strike(FaultPoint::Reload);
            changes.made.push(format!("{} is added, on {}", member.label(), member.served.parts.span));
        }
        Ok(())
    }

    /// Makes a service, which is not served yet.
    ///
    /// # Errors
    /// Its port cannot be bound, or there is no descriptor for it.
    fn prepare(&self, spec: ServiceSpec, found: Resolved, patience: &mut Duration) -> Result<Made, Failure> {
        // The descriptors are taken from those for clients, of which enough for one client must remain.
        let taken = self.take_descriptors(&spec, found.span().listeners())?;
        let groups = plan::lined(&spec.groups, &found.channels);
        let bound = |place| self.take_bound(place).map(Got::Bound);
        let Tools { workers, seed, .. } = self.tools;
        Ok((Prepared::new(spec, found, bound, workers, seed, patience)?, groups, taken))
    }

    pub(super) fn take_descriptors(&self, spec: &ServiceSpec, listeners: usize) -> Result<Taken, Failure> {
        let taken = self.tools.server.budget().take_for_listeners(count_of(listeners));
        taken.ok_or_else(|| {
            let what = match listeners {
                1 => "no file descriptor is left for its listener".to_owned(),
                listeners => format!("not enough file descriptors are left for its {listeners} listeners"),
            };
            let text =
                format!("balance: {what}; raise the limit (ulimit -n) and restart, or end some connections");
            Failure::at(&spec.listen.typed, Failure::new(exit::OS, text))
        })
    }

    /// Removes a service whose line is gone. Returns the text for the log.
    fn remove(&self, member: &RosterEntry) -> String {
        #[cfg(test)]
        let _ = trouble::strike(FaultPoint::Reload);
        let Served { running, alarm, names, log, .. } = &member.served;
        self.tools.hooks.set(log, "", None);
        self.tools.minder.leave(alarm);
        self.tools.names.leave(names);
        // Before the port is closed: otherwise the service manager would keep it open, and clients would wait there.
        member.served.listeners.iter().for_each(|one| process::forget_listener(&one.address().to_string()));
        running.stop_listening();
        let (label, held) = (member.label(), member.still_held(|_| true));
        let kicks = member.written().spec.on_remove == OnDown::Kick;
        let left = if kicks { running.close_all(End::Removed) } else { running.connections() };
        match (left, kicks) {
            (0, _) => format!("{label} is removed{held}"),
            (left, true) => format!("{label} is removed, {} closed{held}", counted(left, "connection")),
            (left, false) => {
                format!("{label} is removed, {} still open{held}", counted(left, "connection"))
            }
        }
    }

    /// Changes a service whose line still exists, as far as the line has changed.
    fn change(&self, member: &mut RosterEntry, wanted: Reread, clean: bool, changes: &mut ReloadNews) {
        #[cfg(test)]
        let _ = trouble::strike(FaultPoint::Reload);
        let Reread { mut spec, found } = wanted;
        let mut groups = plan::lined(&spec.groups, &found.channels);
        // There may be many, and they are needed only at the end.
        let members = std::mem::take(&mut spec.groups);
        let before = changes.made.len();
        let mut told = Vec::new();
        let was = member.written_options();
        if was.name != spec.name {
            let name = spec.name.as_ref().map(|name| name.as_str());
            told.push(
                name.map_or_else(|| "has no name any more".to_owned(), |name| format!("is called {name}")),
            );
            member.service.rename(name);
        }
        told.extend(config::option_changes(&was, &spec));
        let sources = Sources::new(found.sources);
        let is_elsewhere = member.served.parts.outgoing.sources != sources;
        let is_other_access = !has_access(&member.served, &spec);
        if options(&was) != options(&spec) || is_elsewhere || is_other_access {
            if is_elsewhere && was.sources == spec.sources {
                told.push("connections come from another address, by its name".to_owned());
            }
            let missed = self.set_options(member, &spec, sources, &mut told);
            let label = member.label();
            changes.missed.extend(missed.into_iter().map(|what| format!("{label}: {what}")));
        }
        let table = &member.served.parts.table;
        told.extend(set_lists(table, found.lists));
        if clean {
            let denied = table.gate().undeny_all(self.tools.clock.now());
            told.extend((denied > 0).then(|| format!("{} not denied any more", are(denied, "network"))));
        }
        let label = member.label();
        changes.made.extend(told.into_iter().map(|what| format!("{label}: {what}")));
        let table = &member.served.parts.table;
        let on_remove = (spec.on_remove == OnDown::Kick).then_some(&member.served.running);
        let steps = {
            let written = member.written();
            plan::steps(&written.groups, &mut groups, &survey(table, self.tools.clock), clean)
        };
        if clean && table.lock_at(self.tools.clock.now()).resume_all() {
            changes.made.push(format!("{label}: is not paused any more"));
        }
        // The log lines about channels that were removed and whose connections must be closed.
        let mut ends = Vec::new();
        let mut edits = steps.iter().peekable();
        while edits.peek().is_some() {
            let mut table = table.lock_at(self.tools.clock.now());
            let begun = self.tools.clock.now();
            for edit in edits.by_ref() {
                let ones = if let PlannedEdit::Retire(key) = edit { table.ones(*key) } else { Vec::new() };
                match edit::apply_edit(edit, &mut groups, &mut table, on_remove.is_some()) {
                    Some(Ok(made)) => {
                        if !ones.is_empty() {
                            ends.push((changes.made.len(), ones));
                        }
                        changes.made.push(format!("{label}: {made}"));
                    }
                    Some(Err(missed)) => changes.missed.push(format!("{label}: {missed}")),
                    None => {}
                }
                if self.tools.clock.now().saturating_sub(begun) >= HOLD {
                    break;
                }
            }
            drop(table);
            if edits.peek().is_some() {
                thread::sleep(LET_IN);
            }
        }
        if let Some(running) = on_remove {
            for (told, ones) in ends {
                let closed = ones.into_iter().map(|key| running.close_connections(key)).sum();
                if let Some(told) = changes.made.get_mut(told).filter(|_| closed > 0) {
                    told.push_str(&format!(", {} closed", counted(closed, "connection")));
                }
            }
        }
        member.served.parts.spec = spec.clone();
        let Served { parts, log, .. } = &member.served;
        self.hook(parts, member.served.place(), log);
        spec.groups = members;
        *member.written.write().unwrap_or_else(PoisonError::into_inner) = Written { spec, groups };
        if !steps.is_empty() || changes.made.len() > before {
            member.served.running.table_changed();
            member.served.alarm.ring();
            member.served.names.ring();
        }
    }

    /// Sets the options. Returns what could not be set.
    fn set_options(
        &self,
        member: &mut RosterEntry,
        spec: &ServiceSpec,
        sources: Sources,
        told: &mut Vec<String>,
    ) -> Vec<String> {
        let mut missed = Vec::new();
        let Tools { minder, names, clock, workers, seed, .. } = &self.tools;
        let is_other_access = !has_access(&member.served, spec);
        let Served { parts, listeners, running, alarm, names: residence, log } = &mut member.served;
        let said = |spec: &ServiceSpec| (spec.socket_mode, spec.socket_group.clone());
        let is_same = said(&parts.spec) == said(spec);
        // Somebody may have changed them, and an attempt before may have failed.
        if !is_same || is_other_access {
            let set = prepared::access(spec).map_err(|e| e.source);
            let set = set.and_then(|access| listeners.iter().try_for_each(|one| one.set_access(access)));
            match set {
                Ok(()) if is_same => {
                    told.push("the socket's permissions are as its line says again".to_owned())
                }
                Ok(()) => {}
                Err(e) => {
                    told.retain(|line| !line.starts_with("--socket-"));
                    missed.push(format!("the socket's permissions stay as they are: {e}"));
                }
            }
        }
        parts.spec = spec.clone();
        parts.outgoing =
            Outgoing { sources, keepalive: spec.server_keepalive, transparent: spec.transparent };
        parts.table.lock_at(clock.now()).set_rules(parts.rules(*workers, *seed));
        let mut set = listeners.iter().map(|listener| listener.set_keepalive(spec.client_keepalive));
        if let Some(Err(e)) = set.find(Result::is_err) {
            missed.push(format!("keepalive of new clients stays as it was: {e}"));
        }
        parts.limit_clients(&self.tools.rates);
        running.change(parts.options());
        minder.change(alarm, parts.ward(log, running, residence));
        names.mind(residence, parts.resident(log, running, alarm, *clock));
        missed
    }
}

/// Sets the lists. Returns a text for the log if only the contents of their files have changed.
fn set_lists(table: &SharedTable, new: Lists) -> Option<String> {
    let was = table.gate().lists();
    let is_told = (&was.allow, &was.deny) == (&new.allow, &new.deny) && was.rules != new.rules;
    let told = is_told
        .then(|| format!("files of --allow and --deny have changed: {}", counted(new.networks, "network")));
    table.gate().set_lists(new);
    told
}

/// A count with its verb: `1 network is`, `2 networks are`.
fn are(number: usize, noun: &str) -> String {
    format!("{} {}", counted(number, noun), if number == 1 { "is" } else { "are" })
}

/// The settings of a spec that options set: without name, channels and addresses.
fn options(spec: &ServiceSpec) -> ServiceSpec {
    debug_assert!(spec.groups.is_empty(), "they are of no use here, and many");
    let mut options = spec.clone();
    (options.name, options.listen.host) = (None, ListenHost::AnyV4);
    options.listen.ports = PortWord::Number(NonZeroU16::MIN).into();
    options
}
