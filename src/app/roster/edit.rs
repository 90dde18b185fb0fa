//! Makes one change of a reload in a table that clients use, and describes it.
//!
//! Knows: what each change does. Never: which changes to make (that is in `plan`), when.
//! Source: docs/reload.md.

use std::collections::BTreeSet;

use super::super::counted;
use super::super::plan::{self, LinedGroup, PlannedEdit};
use crate::config;
use crate::sched::{Addresses, AdminState, ChannelKey, GroupId, ShownAddress, Table};

/// Makes one change. Returns a description, or why it was not made; `None`: there is nothing to report.
/// `kicks`: connections of a removed channel are about to be closed.
pub(super) fn apply_edit(
    edit: &PlannedEdit,
    groups: &mut [LinedGroup],
    table: &mut Table,
    kicks: bool,
) -> Option<Result<String, String>> {
    match *edit {
        PlannedEdit::SetPolicy(id, policy) => {
            table.set_policy(id, policy);
            Some(Ok(format!("group {} has policy {}", id.index(), config::policy_name(policy))))
        }
        PlannedEdit::Create(number, place) => {
            let id = GroupId::new(number)?;
            let channel = groups.get_mut(number)?.channels.get_mut(place)?;
            // Its weight and options are set before any client is sent to it.
            let made = table.create(id, channel.addresses.clone(), channel.maxc, AdminState::Disabled);
            let Ok(made) = made else {
                return Some(Err(format!(
                    "group {number}: {} is not added, since the group has used up its numbers; restart balance to use them again",
                    channel.label()
                )));
            };
            let key = ChannelKey { group: id, channel: made };
            channel.key = Some(key);
            table.set_weight(key, channel.weight).ok()?;
            table.set_manner(key, channel.manner.clone()).ok()?;
            table.set_state(key, channel.state).ok()?;
            table.settle_family(key, &channel.addresses);
            Some(Ok(format!("group {number} channel {}: {} is added", made.index(), channel.label())))
        }
        PlannedEdit::Apply(key, number, place) => {
            let channel = groups.get(number)?.channels.get(place)?;
            let before = table.channel(key)?;
            let mut parts = Vec::new();
            if before.retires {
                table.keep(key).ok()?;
                parts.push("is there again".to_owned());
            }
            if before.maxc != channel.maxc {
                table.set_maxc(key, channel.maxc).ok()?;
                parts.push(format!("maxc {}", channel.maxc.map_or(0, std::num::NonZeroU32::get)));
            }
            if before.weight != channel.weight {
                table.set_weight(key, channel.weight).ok()?;
                parts.push(format!("weight {}", channel.weight.get()));
            }
            if before.manner != channel.manner {
                table.set_manner(key, channel.manner.clone()).ok()?;
                parts.push(plan::manner_words(&channel.manner));
            }
            if before.state != channel.state {
                table.set_state(key, channel.state).ok()?;
                parts.push(plan::state_word(channel.state).to_owned());
            }
            let at = key.channel.index();
            Some(Ok(format!("group {number} channel {at}: {}: {}", channel.label(), parts.join(", "))))
        }
        PlannedEdit::Readdress(key, number, place) => {
            let channel = groups.get(number)?.channels.get(place)?;
            if table.is_head(key) {
                let moved = table.settle_family(key, &channel.addresses)?;
                let at = key.channel.index();
                let all = moved.now.join(", ");
                let is_other = !moved.joined.is_empty() || !moved.left.is_empty();
                return is_other.then(|| {
                    Ok(format!("group {number} channel {at}: {} stands for others: {all}", channel.label()))
                });
            }
            let ips = |addresses: &Addresses| {
                let all = addresses.as_slice().iter();
                all.map(|address| address.net().map(|at| at.ip())).collect::<BTreeSet<_>>()
            };
            let before = table.channel(key).map(|one| one.addresses);
            let moved = table.readdress(key, channel.addresses.clone()).ok()??;
            let is_other_port = |before: &Addresses| {
                before.port() != channel.addresses.port() && ips(before) == ips(&channel.addresses)
            };
            if before.is_some_and(|before| is_other_port(&before)) {
                let (at, to) = (key.channel.index(), port_words(channel.addresses.port()));
                return Some(Ok(format!(
                    "group {number} channel {at}: {} is connected to at {to}",
                    channel.label()
                )));
            }
            let all = channel.addresses.as_slice().iter();
            let all: Vec<String> = all.map(|address| ShownAddress(*address).to_string()).collect();
            let at = key.channel.index();
            let is_other = !moved.added.is_empty() || !moved.left.is_empty();
            is_other.then(|| {
                Ok(format!(
                    "group {number} channel {at}: {} has other addresses: {}",
                    channel.label(),
                    all.join(", ")
                ))
            })
        }
        PlannedEdit::Undo(key, number, place) => {
            let channel = groups.get(number)?.channels.get(place)?;
            let at = key.channel.index();
            table.undo_members(key).then(|| {
                Ok(format!(
                    "group {number} channel {at}: {}: all its channels are as the word says",
                    channel.label()
                ))
            })
        }
        PlannedEdit::Retire(key) => {
            let label = table.channel(key).map(|one| plan::label(&one.addresses))?;
            let ones = table.ones(key);
            let left = table.retire(key).ok()?;
            let of_ones = ones.iter().filter(|&&one| one != key);
            let left =
                left + of_ones.filter_map(|&one| table.channel(one)).map(|one| one.active).sum::<u32>();
            let (number, at) = (key.group.index(), key.channel.index());
            let left = match left {
                0 => String::new(),
                // The caller closes them and reports how many there were.
                _ if kicks => String::new(),
                left => format!(", {} left", counted(left as usize, "connection")),
            };
            Some(Ok(format!("group {number} channel {at}: {label} is removed{left}")))
        }
    }
}

/// The port at which a channel is connected to, in words.
fn port_words(port: u16) -> String {
    match port {
        0 => "the port that each client came to".to_owned(),
        port => format!("port {port}"),
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use std::num::NonZeroU32;

    use proptest::prelude::*;

    use super::*;
    use crate::sched::{Addresses, ClientAddr, Rules};
    use crate::spec::{ChannelManner, Policy, Weight};

    /// A line: for each group its policy and its channels, given by host, weight, limit and state.
    type Line = Vec<(Policy, Vec<(u8, u32, u32, bool)>)>;

    fn line() -> impl Strategy<Value = Line> {
        let channel = (0..5_u8, 1..3_u32, 0..2_u32, any::<bool>());
        let policy = prop::sample::select(vec![Policy::RoundRobin, Policy::Hash]);
        prop::collection::vec((policy, prop::collection::vec(channel, 0..6)), 1..4)
    }

    fn lined(line: &Line) -> Vec<LinedGroup> {
        let groups = line.iter().map(|(policy, channels)| {
            let channels = channels.iter().map(|&(host, weight, maxc, enabled)| {
                let addresses = Addresses::from(SocketAddr::from(([10, 0, 0, host], 80)));
                plan::Lined {
                    addresses: addresses.named(&format!("h{host}")),
                    maxc: NonZeroU32::new(maxc),
                    weight: Weight::new(weight).expect("small"),
                    state: if enabled { AdminState::Enabled } else { AdminState::Disabled },
                    manner: ChannelManner::default(),
                    has_service_port: false,
                    key: None,
                }
            });
            LinedGroup { policy: *policy, channels: channels.collect() }
        });
        groups.collect()
    }

    fn reload(
        table: &mut Table,
        before: &[LinedGroup],
        wanted: &Line,
        clean: bool,
    ) -> (Vec<LinedGroup>, Vec<PlannedEdit>) {
        let mut wanted = lined(wanted);
        let steps = plan::steps(before, &mut wanted, &table.snapshot(), clean);
        for edit in &steps {
            apply_edit(edit, &mut wanted, table, false);
        }
        (wanted, steps)
    }

    fn differences(lines: &[LinedGroup], table: &mut Table) -> Vec<String> {
        plan::differences(lines, &table.snapshot(), plan::LineSource::File)
    }

    /// What commands do to the table: each deed is a group, a channel and the kind of the change.
    fn by_hand(table: &mut Table, deeds: &[(usize, usize, u8)]) {
        for &(group, channel, what) in deeds {
            let Some(key) = ChannelKey::new(group, channel) else { continue };
            match what {
                0 => _ = table.set_state(key, AdminState::Disabled),
                1 => _ = table.set_weight(key, Weight::new(7).expect("small")),
                2 => _ = table.set_maxc(key, NonZeroU32::new(7)),
                3 => _ = table.set_state(key, AdminState::Disabled).and_then(|_| table.remove(key)),
                4 => {
                    let address = Addresses::from(SocketAddr::from(([10, 0, 0, 99], 80)));
                    let _ =
                        table.set_state(key, AdminState::Disabled).and_then(|_| table.assign(key, address));
                }
                _ => {
                    let address = Addresses::from(SocketAddr::from(([10, 0, 0, 3], 80))).named("h3");
                    let _ = table.create(key.group, address, None, AdminState::Enabled);
                }
            }
        }
    }

    proptest! {
        #[test]
        fn a_table_becomes_what_its_lines_say(
            lines in prop::collection::vec(line(), 1..5),
            deeds in prop::collection::vec((0..3_usize, 0..6_usize, 0..6_u8), 0..6),
            clients in 0..4_usize,
        ) {
            let mut table = Table::new(Rules::CLASSIC);
            let mut before = Vec::new();
            let mut leases = Vec::new();
            for line in &lines {
                before = reload(&mut table, &before, line, false).0;
                prop_assert_eq!(differences(&before, &mut table), Vec::<String>::new());
                let (_, steps) = reload(&mut table, &before, line, false);
                prop_assert_eq!(steps, vec![], "read again it is the same");
                for _ in 0..clients {
                    let mut route = table.begin(ClientAddr::from(std::net::IpAddr::from([192, 0, 2, 1])));
                    leases.extend(table.next(&mut route).ok());
                }
            }
            by_hand(&mut table, &deeds);
            let line = &lines[lines.len() - 1];
            let told = differences(&before, &mut table);
            let (kept, steps) = reload(&mut table, &before, line, false);
            prop_assert_eq!(steps, vec![], "what was done by hand stays");
            prop_assert_eq!(differences(&kept, &mut table), told);
            let (clean, _) = reload(&mut table, &kept, line, true);
            prop_assert_eq!(differences(&clean, &mut table), Vec::<String>::new());
            // A removed channel disappears with its last connection.
            drop(leases);
            let wanted: usize = clean.iter().map(|group| group.channels.len()).sum();
            let there: usize = table.snapshot().groups.iter().map(|group| group.channels.len()).sum();
            prop_assert_eq!(there, wanted);
        }
    }
}
