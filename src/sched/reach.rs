//! Which addresses of a channel answer. One that does not is tried after the others, and probed until it
//! does.
//!
//! Knows: the order of the addresses, what dials and probes met. Never: thresholds and delays (`Health`), how
//! a probe is made.
//! Source: docs/health.md, "Names with several addresses".
//!
//! An address is ejected because a connect failed, or because a check failed while another address passed it.
//! A success of the same kind brings it back.

use std::sync::Arc;
use std::time::Duration;

use super::health::{Change, CheckMode, Health};
use super::random::Random;
use super::{HealthRules, ProbeResult, Purpose};
use crate::handover::table::HealthRecord;

/// The rules for an address: those of an ejected channel.
const RULES: HealthRules = HealthRules { eject: true, ..HealthRules::NONE };

/// The order in which a channel's addresses are tried, if it differs from the list.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct AddressOrder {
    list: Box<[u16]>,
    /// How many of them answer, as far as is known; they come first.
    answering: usize,
}

impl AddressOrder {
    pub(super) fn list(&self) -> &[u16] {
        &self.list
    }

    pub(super) fn answering(&self) -> usize {
        self.answering
    }
}

/// Identifies an address of a channel by when it was added, so that it is not taken for one that has its
/// place later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ProbedAddress {
    at: usize,
    life: u32,
}

#[derive(Debug)]
struct Reached {
    came: ProbedAddress,
    health: Health,
    /// What kind of failure ejected it.
    out_by: Purpose,
}

/// The addresses of a channel that has several.
#[derive(Debug)]
pub(super) struct Reach {
    list: Box<[Reached]>,
    /// `None`: all answer, so they are tried as listed.
    order: Option<Arc<AddressOrder>>,
}

impl Reach {
    /// `None` for a single address, whose health is the channel's own. `life` distinguishes these addresses
    /// from those that the channel had before.
    pub(super) fn of(count: usize, life: u32, now: Duration, random: &mut Random) -> Option<Box<Self>> {
        Self::carried(None, &vec![None; count], life, now, random)
    }

    /// Keeps what is known about addresses that remain. `places` says for each new address its index among
    /// the old ones in `before`, if it was there. `None` for a single address.
    pub(super) fn carried(
        before: Option<Box<Self>>,
        places: &[Option<usize>],
        life: u32,
        now: Duration,
        random: &mut Random,
    ) -> Option<Box<Self>> {
        if places.len() < 2 {
            return None;
        }
        let mut before: Vec<Option<Reached>> =
            before.map_or_else(Vec::new, |reach| reach.list.into_iter().map(Some).collect());
        let mut address = |(at, place): (usize, &Option<usize>)| {
            let stays = place.and_then(|place| before.get_mut(place)?.take());
            stays.unwrap_or_else(|| Reached {
                came: ProbedAddress { at, life },
                health: Health::new(&RULES, now, random),
                out_by: Purpose::Return,
            })
        };
        let list = places.iter().enumerate().map(&mut address).collect();
        let mut reach = Box::new(Self { list, order: None });
        reach.sort();
        Some(reach)
    }

    /// Why this address is ejected. `None` if it is not.
    pub(super) fn out_for(&self, at: usize) -> Option<&str> {
        self.list.get(at)?.health.ejected_for()
    }

    /// For each address, what is known, and whether a check ejected it.
    pub(super) fn record(&self) -> Vec<(HealthRecord, bool)> {
        let all = self.list.iter();
        all.map(|address| (address.health.record(), address.out_by == Purpose::Check)).collect()
    }

    /// What a predecessor knew about the same addresses in the same order.
    pub(super) fn restore(
        record: &[(HealthRecord, bool)],
        now: Duration,
        random: &mut Random,
    ) -> Option<Box<Self>> {
        let mut reach = Self::of(record.len(), 0, now, random)?;
        for (address, (health, by_check)) in reach.list.iter_mut().zip(record) {
            address.health = Health::restore(health, CheckMode::AsService, &RULES, now, random);
            address.out_by = if *by_check { Purpose::Check } else { Purpose::Return };
        }
        reach.sort();
        Some(reach)
    }

    pub(super) fn order(&self) -> Option<&Arc<AddressOrder>> {
        self.order.as_ref()
    }

    /// For each address, why it is ejected; `None` while it is not.
    pub(super) fn out(&self) -> impl Iterator<Item = Option<&str>> {
        self.list.iter().map(|address| address.health.ejected_for())
    }

    fn count_up(&self) -> usize {
        self.list.iter().filter(|address| address.health.is_up()).count()
    }

    /// When the next probe of an ejected address is due.
    pub(super) fn probe_at(&self) -> Option<Duration> {
        self.list.iter().filter_map(|address| address.health.probe_at()).min()
    }

    /// Starts the probe that is due. Returns the index of the address, its identity, the purpose, and the
    /// number of the probe.
    pub(super) fn begin_probe(&mut self, now: Duration) -> Option<(usize, ProbedAddress, Purpose, u32)> {
        let is_due = |address: &Reached| address.health.probe_at().is_some_and(|at| at <= now);
        let at = self.list.iter().position(is_due)?;
        let Reached { came, health, out_by } = &mut self.list[at];
        let (_, serial) = health.begin_probe(now);
        Some((at, *came, *out_by, serial))
    }

    /// An attempt that began at `begun` has failed. `true` if that ejects the address.
    pub(super) fn failed(
        &mut self,
        at: usize,
        by: Purpose,
        begun: Duration,
        why: &str,
        now: Duration,
        random: &mut Random,
    ) -> bool {
        let Some(Reached { health, out_by, .. }) = self.list.get_mut(at) else { return false };
        if health.has_returned_after(begun) {
            return false;
        }
        let returns = health.returns();
        let is_out = health.connect_failed(&RULES, returns, why, now, random);
        if is_out {
            *out_by = by;
            self.sort();
        }
        is_out
    }

    /// An attempt that began at `begun` was answered. Returns how long the address was ejected if that brings
    /// it back.
    pub(super) fn answered(
        &mut self,
        at: usize,
        by: Purpose,
        begun: Duration,
        now: Duration,
    ) -> Option<Duration> {
        let Reached { health, out_by, .. } = self.list.get_mut(at)?;
        // That it takes connections does not mean that it passes its check.
        if *out_by != by {
            return None;
        }
        let change = health.connect_succeeded(&RULES, begun, now);
        self.back(change)
    }

    /// Reports the result of a probe of one address.
    pub(super) fn probed(
        &mut self,
        place: ProbedAddress,
        serial: u32,
        result: ProbeResult,
        now: Duration,
        random: &mut Random,
    ) -> Option<Duration> {
        let address = self.list.iter_mut().find(|address| address.came == place)?;
        let change = address.health.probed(&RULES, serial, result, now, random);
        self.back(change)
    }

    fn back(&mut self, change: Option<Change>) -> Option<Duration> {
        let Some(Change::Returned(after)) = change else { return None };
        self.sort();
        Some(after)
    }

    fn sort(&mut self) {
        let answering = self.count_up();
        // A channel has far fewer addresses than 65536; any beyond would come last.
        let mut list: Vec<u16> = (0..=u16::MAX).take(self.list.len()).collect();
        list.sort_by_key(|&at| !self.list[usize::from(at)].health.is_up());
        let is_listed = answering == self.list.len();
        self.order = (!is_listed).then(|| Arc::new(AddressOrder { list: list.into(), answering }));
    }
}
