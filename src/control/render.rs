//! Replies as text. For commands of 3.57 the text is the same byte for byte, because scripts cut its columns
//! with awk.
//!
//! Knows: the columns and sentences, the exit codes of answers. Never: the live table, sockets.
//! Source: docs/control.md, "Commands".
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::fmt::{self, Display, Write};

use crate::config::{print_duration, print_net, print_sections};
use crate::control::command::{COMMANDS, OF_3_57};
use crate::control::execute::{Already, Reply};
use crate::control::json;
use crate::control::ready::{are_ready, lines};
use crate::control::services::{CarriedCount, ResolvedName};
use crate::control::status::{UNRESOLVED, denied, ended, services, sessions, state_word, status};
use crate::control::tapping::{MARK, TapStop};
use crate::sched::{
    ChannelId, ChannelSnapshot, GroupId, GroupSnapshot, MAX_CHANNELS, MAX_GROUPS, Policy, Snapshot, Weight,
};

/// Our version as commands print it: major and minor.
pub const VERSION: &str = concat!(env!("CARGO_PKG_VERSION_MAJOR"), ".", env!("CARGO_PKG_VERSION_MINOR"));

/// Exit code: another process has taken over, and the command was not carried out (sysexits: `EX_TEMPFAIL`).
pub const HANDED_OVER: u8 = 75;

/// The exit code of `-c` for a reply. For `doctor`: 0, 1 or 2, as its findings say. For all others, sysexits:
/// 0; 64 for a syntax error; 69 if the service is not available or could not be stopped or upgraded; 71 for a
/// file that cannot be opened; 75 for a wait that timed out and for anything to try again later; 77 for what
/// the caller may not do; 78 for wrong files; 65 for every other error.
pub fn exit_code(reply: &Reply) -> u8 {
    match reply {
        Reply::NoCommand(_) | Reply::NoTapFile | Reply::NeedsTerminal | Reply::RelativeProgram(_) => 64,
        Reply::NoSuchChannel(_)
        | Reply::UnknownChannel
        | Reply::UnknownGroup
        | Reply::OutOfRange
        | Reply::InvalidAddress(_)
        | Reply::MustBeDisabled
        | Reply::MustBeUnused
        | Reply::WeightOutOfRange
        | Reply::WeightOfRecords(_)
        | Reply::WrongOptions(_)
        | Reply::UnknownPolicy
        | Reply::NoNetwork(_)
        | Reply::NotDenied(_)
        | Reply::TooManyDenied(_)
        | Reply::NoSuchSession(_)
        | Reply::UnknownService(_)
        | Reply::SeveralServices(_)
        | Reply::NoSlot => 65,
        Reply::JsonError(error) => exit_code(error),
        Reply::ShutdownFailed | Reply::NotUpgraded(_) => 69,
        Reply::ReadyState(all) if !are_ready(all) => 69,
        Reply::Doctor(diagnosis) => diagnosis.exit_code(),
        Reply::Json(document) => match &document.told {
            json::Content::Doctor(diagnosis) => diagnosis.exit_code(),
            _ => 0,
        },
        Reply::NotReloaded(_) => 78,
        Reply::NotYourProgram(_) | Reply::NotYourTap(_) => 77,
        Reply::TapOver(_, TapStop::Left) | Reply::TooManyTaps(_) => 75,
        Reply::Reopened(None) => 69,
        Reply::Reopened(Some(Err(_))) => 71,
        Reply::LookedUp(Some(names)) if names.iter().all(|name| name.addresses.is_ok()) => 0,
        Reply::LookedUp(_) => 75,
        Reply::StillBusy(..) | Reply::WorksNotYet(..) | Reply::HandingOver | Reply::HandedOver => 75,
        Reply::Done
        | Reply::Quit
        | Reply::Kill(_)
        | Reply::ShutdownComplete
        | Reply::Table(_)
        | Reply::Status(..)
        | Reply::Reloaded(_)
        | Reply::Reopened(Some(Ok(())))
        | Reply::Upgraded(_)
        | Reply::Paused(..)
        | Reply::Resumed(..)
        | Reply::Pending(_)
        | Reply::Draining(..)
        | Reply::Idle(_)
        | Reply::Works(_)
        | Reply::Kicked(..)
        | Reply::Removed(_)
        | Reply::WeightChanged(..)
        | Reply::Sessions(_)
        | Reply::Ended(_)
        | Reply::SessionClosed(_)
        | Reply::NetDenied(..)
        | Reply::NetAllowed(_)
        | Reply::Denied(_)
        | Reply::TapOver(..)
        | Reply::CommandLine(_)
        | Reply::Services(_)
        | Reply::Events(_)
        | Reply::Debug(_)
        | Reply::Using(_)
        | Reply::ReadyState(_)
        | Reply::Help
        | Reply::Version
        | Reply::Created
        | Reply::Reassigned
        | Reply::Disabled(_)
        | Reply::DisabledHard(_)
        | Reply::AlreadyDisabled(_)
        | Reply::Enabled(_)
        | Reply::AlreadyEnabled(_)
        | Reply::CountersReset(_)
        | Reply::MaxcChanged(..)
        | Reply::PolicySet(..)
        | Reply::MrtgBytes(..)
        | Reply::MrtgConns(..) => 0,
    }
}

/// The text of the answer as whole lines; empty if there is nothing to say.
pub fn text(reply: &Reply) -> String {
    let mut out = String::new();
    write(&mut out, reply).expect("a String takes any text");
    out
}

/// Root and the user of the instance.
fn allowed(owner: u32) -> String {
    match owner {
        0 => "root".to_owned(),
        owner => format!("root and user {owner}"),
    }
}

fn write(out: &mut String, reply: &Reply) -> fmt::Result {
    match reply {
        Reply::Done | Reply::Quit | Reply::Kill(_) | Reply::Pending(_) => Ok(()),
        Reply::ShutdownComplete => writeln!(out, "shutdown complete, exiting."),
        Reply::ShutdownFailed => writeln!(out, "shutdown failed."),
        Reply::Table(snapshot) => table(out, snapshot),
        Reply::Status(snapshot, sections, differences, carried) => {
            status(out, snapshot)?;
            if !sections.is_empty() {
                writeln!(out, "names: {}", print_sections(sections))?;
            }
            differences.iter().try_for_each(|one| writeln!(out, "changed by hand: {one}"))?;
            let Some(CarriedCount { carried, draining, pid }) = carried else { return Ok(()) };
            let draining = draining.map_or_else(|| "unknown".to_owned(), |left| left.to_string());
            writeln!(out, "from process {pid}: carried {carried}, draining {draining}")
        }
        Reply::Reloaded(changes) if changes.is_empty() => writeln!(out, "nothing has changed"),
        Reply::Reloaded(changes) => changes.iter().try_for_each(|change| writeln!(out, "{change}")),
        Reply::Reopened(None) => {
            writeln!(out, "there is no access log; start balance with --access-log FILE")
        }
        Reply::Reopened(Some(Ok(()))) => writeln!(out, "access log opened again"),
        Reply::Reopened(Some(Err(why))) => writeln!(out, "access log not opened again: {why}"),
        Reply::NotReloaded(why) => writeln!(out, "{}", why.trim_end()),
        Reply::Upgraded(what) => writeln!(out, "{what}"),
        Reply::NotUpgraded(why) => writeln!(out, "no upgrade, this process goes on: {}", why.trim_end()),
        Reply::NotYourProgram(owner) => writeln!(
            out,
            "upgrade with a path is for {} only, since it runs that program as this user; use upgrade without a path",
            allowed(*owner)
        ),
        Reply::TapOver(id, why) => writeln!(out, "{MARK}{}", why.of(*id)),
        Reply::NotYourTap(owner) => {
            writeln!(out, "tap is for {} only, since it shows what clients send", allowed(*owner))
        }
        Reply::TooManyTaps(open) => {
            writeln!(out, "{open} taps are open, which is the maximum; end one of them")
        }
        Reply::NeedsTerminal => writeln!(
            out,
            "top is shown by the program that asks for it: type balance -c top PORT at a terminal, without other commands"
        ),
        Reply::NoTapFile => writeln!(
            out,
            "only balance -c writes a file: type balance -c 'tap ID FILE.pcapng' PORT, without other commands"
        ),
        Reply::HandedOver => {
            writeln!(out, "another process has taken over, and this was not carried out; ask again")
        }
        Reply::HandingOver => {
            writeln!(out, "another process is taking over just now, and nothing was changed; try again")
        }
        Reply::Paused(channel, already) => {
            let state = if *already == Already::So { "already paused" } else { "paused" };
            writeln!(out, "{} {state}", pausable(*channel))
        }
        Reply::Resumed(channel, Already::So, _) => match channel {
            Some(channel) => writeln!(out, "channel {} was not paused", channel.index()),
            None => writeln!(out, "no channel was paused"),
        },
        Reply::Resumed(channel, Already::Not, 0) => writeln!(out, "{} resumed", pausable(*channel)),
        Reply::Resumed(channel, Already::Not, waited) => {
            let s = if *waited == 1 { "" } else { "s" };
            writeln!(out, "{} resumed, {waited} client{s} waited", pausable(*channel))
        }
        Reply::Draining(channel, 0) => writeln!(out, "channel {} drained", channel.index()),
        Reply::Draining(channel, left) => {
            writeln!(out, "channel {} draining, {} left", channel.index(), connections(*left as usize))
        }
        Reply::Idle(channel) => writeln!(out, "channel {} idle", channel.index()),
        Reply::StillBusy(channel, left) => {
            writeln!(out, "channel {} still has {}", channel.index(), connections(*left as usize))
        }
        Reply::RelativeProgram(path) => writeln!(
            out,
            "upgrade: {path:?} is not an absolute path, and balance runs in another directory than you; give an absolute one, such as \
             $PWD/{}",
            path.trim_start_matches("./")
        ),
        Reply::Works(channel) => writeln!(out, "channel {} up", channel.index()),
        Reply::WorksNotYet(channel, why) => {
            let why = why.as_ref().map_or_else(String::new, |why| format!(": {why}"));
            writeln!(out, "channel {} is not up yet{why}", channel.index())
        }
        Reply::Kicked(channel, count) => {
            writeln!(out, "channel {} kicked, {} closed", channel.index(), connections(*count))
        }
        Reply::Removed(channel) => writeln!(out, "channel {} removed", channel.index()),
        Reply::WeightChanged(channel, weight) => {
            writeln!(out, "weight of channel {} changed to {}", channel.index(), weight.get())
        }
        Reply::Sessions(list) => sessions(out, list),
        Reply::Ended(list) => ended(out, list),
        Reply::SessionClosed(id) => writeln!(out, "session {id} closed"),
        Reply::NetDenied(net, time, closed) => {
            write!(out, "{} denied", print_net(*net))?;
            time.map_or(Ok(()), |time| write!(out, " for {}", print_duration(time)))?;
            closed.map_or(Ok(()), |closed| write!(out, ", {} closed", connections(closed)))?;
            writeln!(out)
        }
        Reply::NetAllowed(net) => writeln!(out, "{} not denied any more", print_net(*net)),
        Reply::NotDenied(net) => {
            writeln!(out, "{} was not denied by the command deny; denied lists what was", print_net(*net))
        }
        Reply::TooManyDenied(count) => {
            writeln!(
                out,
                "{count} networks are denied, which is the maximum; put them into a file for --deny"
            )
        }
        Reply::NoNetwork(why) => writeln!(out, "{why}"),
        Reply::Denied(list) => denied(out, list),
        Reply::LookedUp(None) => {
            writeln!(out, "not all names are answered yet; balance waits for the answers, see status")
        }
        Reply::LookedUp(Some(names)) if names.is_empty() => {
            writeln!(out, "there is no name to look up, only addresses")
        }
        Reply::LookedUp(Some(names)) => {
            names.iter().try_for_each(|ResolvedName { name, addresses }| match addresses {
                Ok(all) => writeln!(out, "{name}: {}", all.join(", ")),
                Err(why) => writeln!(out, "{name}: not found: {why}; see status for the addresses in use"),
            })
        }
        Reply::CommandLine(line) => writeln!(out, "{line}"),
        Reply::Help => help(out),
        Reply::Version => version(out),
        Reply::Created => writeln!(out, "channel created"),
        Reply::Reassigned => writeln!(out, "channel reassigned"),
        Reply::Disabled(channel) => writeln!(out, "channel {} disabled", channel.index()),
        Reply::DisabledHard(key) => writeln!(out, "channel {} disabled", key.channel.index()),
        Reply::AlreadyDisabled(channel) => writeln!(out, "channel {} already disabled", channel.index()),
        Reply::Enabled(channel) => writeln!(out, "channel {} enabled", channel.index()),
        Reply::AlreadyEnabled(channel) => writeln!(out, "channel {} already enabled", channel.index()),
        Reply::CountersReset(channel) => writeln!(out, "channel {} counters reset", channel.index()),
        Reply::MaxcChanged(channel, maxc) => {
            writeln!(out, "maxc of channel {} changed to {maxc}", channel.index())
        }
        Reply::PolicySet(group, Policy::Hash) => writeln!(out, "group {} set to hash", group.index()),
        Reply::PolicySet(group, Policy::RoundRobin) => {
            writeln!(out, "group {} set to round robin", group.index())
        }
        Reply::PolicySet(group, Policy::LeastConnections) => {
            writeln!(out, "group {} set to least connections", group.index())
        }
        Reply::PolicySet(group, Policy::TwoChoices) => {
            writeln!(out, "group {} set to power of two choices", group.index())
        }
        Reply::PolicySet(group, Policy::First) => writeln!(out, "group {} set to first", group.index()),
        Reply::MrtgBytes(group, channel) => {
            mrtg(out, &channel.rcvd_bytes, &channel.sent_bytes, *group, channel)
        }
        Reply::MrtgConns(group, channel) => mrtg(out, &channel.totalc, &"UNKNOWN", *group, channel),
        Reply::NoCommand(error) => writeln!(out, "{error}"),
        Reply::NoSuchChannel(number) => writeln!(out, "no such channel {number}"),
        Reply::UnknownChannel => writeln!(out, "unknown channel"),
        Reply::UnknownGroup => writeln!(out, "unknown group"),
        Reply::OutOfRange => writeln!(out, "value out of range"),
        Reply::InvalidAddress(_) => writeln!(out, "invalid address"),
        Reply::MustBeDisabled => writeln!(out, "channel must be disabled to assign new address"),
        Reply::MustBeUnused => {
            writeln!(out, "channel must be disabled and without connections to be removed")
        }
        Reply::WrongOptions(why) => writeln!(out, "{why}"),
        Reply::WeightOutOfRange => writeln!(out, "value out of range, a weight is 0 to {}", Weight::MAX),
        Reply::WeightOfRecords(channel) => writeln!(
            out,
            "channel {} has no weight of its own: its records say those of its channels, and weight changes that of each",
            channel.index()
        ),
        Reply::UnknownPolicy => writeln!(out, "unknown policy, it is one of rr, leastconn, p2c, first, hash"),
        Reply::NoSuchSession(number) => writeln!(out, "no such session {number}"),
        Reply::NoSlot => writeln!(out, "no channel slots available"),
        Reply::Services(list) => services(out, list),
        Reply::Debug(is_on) => writeln!(out, "debug is {}", if *is_on { "on" } else { "off" }),
        Reply::Events(list) => list.iter().try_for_each(|event| writeln!(out, "{event}")),
        Reply::Doctor(diagnosis) => write!(out, "{diagnosis}"),
        Reply::ReadyState(all) if are_ready(all) => writeln!(out, "ready"),
        Reply::ReadyState(all) => out.write_str(&lines(all)),
        Reply::Using(label) => writeln!(out, "using service {label}"),
        Reply::Json(report) => json::write(out, report),
        Reply::JsonError(error) => json::write_error(out, &text(error), exit_code(error)),
        Reply::UnknownService(word) => writeln!(out, "no such service {word}"),
        Reply::SeveralServices(labels) => {
            writeln!(out, "several services match, say which: {}", labels.join(", "))
        }
    }
}

/// Writes one line of the table. A value that is too wide pushes the rest to the right, so that awk still
/// finds the columns.
fn columns(out: &mut String, cells: [&dyn Display; 11]) -> fmt::Result {
    // `Display` pads numbers and `str`, but perhaps not addresses and our own types. So all cells are numbers
    // or text.
    let [group, policy, channel, state, ip, port, active, totalc, maxc, sent, rcvd] = cells;
    writeln!(
        out,
        "{group:>3} {policy:>4} {channel:>2} {state:>3} {ip:>16} {port:>5} {active:>4} {totalc:>11} {maxc:>4} {sent:>11} {rcvd:>11}"
    )
}

fn table(out: &mut String, snapshot: &Snapshot) -> fmt::Result {
    columns(
        out,
        [&"GRP", &"Type", &"#", &"S", &"ip-address", &"port", &"c", &"totalc", &"maxc", &"sent", &"rcvd"],
    )?;
    for group in &snapshot.groups {
        for channel in &group.channels {
            row(out, group, channel)?;
        }
    }
    Ok(())
}

fn connections(count: usize) -> String {
    if count == 1 { "1 connection".to_owned() } else { format!("{count} connections") }
}

fn row(out: &mut String, group: &GroupSnapshot, channel: &ChannelSnapshot) -> fmt::Result {
    let address = channel.addresses.first();
    let ip = if channel.addresses.is_known() { address.host() } else { UNRESOLVED.to_owned() };
    let port = match channel.addresses.port() {
        0 => "-".to_owned(),
        port => port.to_string(),
    };
    let policy = match group.policy {
        Policy::RoundRobin => "RR",
        Policy::Hash => "Hash",
        Policy::LeastConnections => "LC",
        Policy::TwoChoices => "P2C",
        Policy::First => "Fst",
    };
    let state = state_word(channel.state);
    columns(
        out,
        [
            &group.id.index(),
            &policy,
            &channel.id.index(),
            &state,
            &ip,
            &port,
            &channel.active,
            &channel.totalc,
            &channel.maxc.map_or(0, std::num::NonZeroU32::get),
            &channel.sent_bytes,
            &channel.rcvd_bytes,
        ],
    )
}

/// Forms of 3.57's commands that 3.57 does not have. `help` prints them at the end, so that 3.57's own lines
/// stay as they are.
pub(crate) const LONGER_FORMS: &[(&str, &str)] = &[
    ("disable <channel> hard", "the same as disable, and closes all connections of a channel"),
    ("kill <time>", "the same as kill, and closes what is left after time"),
    ("show json", "shows all channels as one line of JSON, see docs/json.md"),
];

fn help(out: &mut String) -> fmt::Result {
    let (old, new) = COMMANDS.split_at(OF_3_57);
    let mut rows: Vec<_> = old.iter().collect();
    // In alphabetical order, except for `create`, which 3.57 lists first.
    rows.sort_by_key(|row| (row.name != "create", row.name));
    writeln!(out, "available commands:")?;
    for row in rows.into_iter().chain(new) {
        writeln!(out, "  {:<30} {}", row.usage(), row.help)?;
    }
    LONGER_FORMS.iter().try_for_each(|(usage, help)| writeln!(out, "  {usage:<30} {help}"))
}

fn version(out: &mut String) -> fmt::Result {
    writeln!(out, "  This is balance {VERSION}\n  MAXGROUPS={MAX_GROUPS}\n  MAXCHANNELS={MAX_CHANNELS}")
}

fn mrtg(
    out: &mut String,
    first: &dyn Display,
    second: &dyn Display,
    group: GroupId,
    channel: &ChannelSnapshot,
) -> fmt::Result {
    let (group, channel) = (group.index(), channel.id.index());
    writeln!(out, "{first}\n{second}\nUNKNOWN\ngroup {group} channel {channel}")
}

/// What was paused or resumed, in words.
fn pausable(channel: Option<ChannelId>) -> String {
    channel.map_or_else(|| "all channels".to_owned(), |channel| format!("channel {}", channel.index()))
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::num::NonZeroU32;
    use std::time::Duration;

    use super::*;
    use crate::control::command::SyntaxError;
    use crate::control::services::ServiceSnapshot;
    use crate::sched::{
        Addresses, AdminState, ChannelId, ChannelKey, ClientCounts, End, Ended, HealthSnapshot, HealthState,
        Loss, NoChannel, SessionSnapshot,
    };
    use crate::sched::{Announced, Peers};
    use crate::spec::{ChannelManner, RouteName, Section};

    fn channel(id: usize, address: &str, state: AdminState) -> ChannelSnapshot {
        let address: SocketAddr = address.parse().expect("an address");
        ChannelSnapshot {
            retires: false,
            paused: false,
            id: ChannelId::new(id).expect("in range"),
            addresses: Addresses::from(address),
            addresses_out: Vec::new(),
            naming: None,
            member_of: None,
            used: Some(address.into()),
            unanswered: false,
            autodisabled: false,
            state,
            maxc: None,
            weight: Weight::ONE,
            manner: ChannelManner::default(),
            health: HealthSnapshot {
                state: HealthState::Up,
                age: Duration::from_secs(5),
                why: None,
                failing: None,
            },
            active: 0,
            waiting: 0,
            totalc: 0,
            failed: 0,
            last_error: None,
            connect_p50: None,
            connect_p99: None,
            sent_bytes: 0,
            rcvd_bytes: 0,
            ended: Ended::default(),
        }
    }

    fn group(id: usize, policy: Policy, channels: Vec<ChannelSnapshot>) -> GroupSnapshot {
        let numbers = channels.len();
        GroupSnapshot {
            id: GroupId::new(id).expect("in range"),
            policy,
            channels,
            families: Vec::new(),
            numbers,
        }
    }

    #[test]
    fn the_table_is_that_of_3_57_byte_for_byte() {
        let groups = vec![
            group(0, Policy::RoundRobin, vec![channel(0, "127.0.0.1:9", AdminState::Enabled)]),
            group(1, Policy::Hash, vec![channel(0, "127.0.0.1:11", AdminState::Disabled)]),
        ];
        let expected = "\
GRP Type  #   S       ip-address  port    c      totalc maxc        sent        rcvd
  0   RR  0 ENA        127.0.0.1     9    0           0    0           0           0
  1 Hash  0 dis        127.0.0.1    11    0           0    0           0           0
";
        assert_eq!(
            text(&Reply::Table(Snapshot {
                groups,
                paused: false,
                losses: Vec::new(),
                served: ClientCounts::default(),
                stale_lists: None,
                not_listening: None,
                lost_socket: None,
            })),
            expected
        );
    }

    #[test]
    fn wide_values_push_to_the_right_and_keep_their_column() {
        let mut wide =
            channel(1000, "[2001:db8:1111:2222:3333:4444:5555:6666]:65535", AdminState::DisabledHard);
        wide.maxc = NonZeroU32::new(u32::MAX);
        wide.active = 123_456;
        wide.totalc = u64::MAX;
        let mapped = channel(1, "[::ffff:10.1.1.3]:80", AdminState::Enabled);
        let groups = vec![group(12_345, Policy::Hash, vec![wide, mapped])];
        let expected = "\
GRP Type  #   S       ip-address  port    c      totalc maxc        sent        rcvd
12345 Hash 1000 DIS 2001:db8:1111:2222:3333:4444:5555:6666 65535 123456 18446744073709551615 4294967295           0           0
12345 Hash  1 ENA  ::ffff:10.1.1.3    80    0           0    0           0           0
";
        assert_eq!(
            text(&Reply::Table(Snapshot {
                groups,
                paused: false,
                losses: Vec::new(),
                served: ClientCounts::default(),
                stale_lists: None,
                not_listening: None,
                lost_socket: None,
            })),
            expected
        );
    }

    #[test]
    fn help_is_that_of_3_57_with_new_commands_below() {
        let expected = "\
available commands:
  create <host> <port>           creates a channel in the current group
  assign <channel> <host> <port> reassigns a channel in the current group
  disable <channel>              disables specified channel in current group
  enable <channel>               enables channel in current group
  group <group>                  changes current group to <group>
  hash                           sets distribution scheme of current group to Hash
  help                           prints this message
  kill                           kills master process and quits interactive mode
  maxc <channel> <maxc>          specifies new maxc for channel of current group
  mrtg-bytes <grp> <ch>          print bytes in/out in MRTG format
  mrtg-conns <grp> <ch>          print total connections in MRTG format
  quit                           quit interactive mode
  reset <channel>                reset all counters of channel in current group
  rr                             sets distribution scheme of current group to Round Robin
  show                           show all channels in all groups
  version                        show version id
  status [json]                  shows state and failures of all channels
  drain <channel>                disables a channel and prints how many connections are left
  wait <channel> [up] [<time>]   waits until a channel has no connections; up: until it works
  kick <channel>                 closes all connections of a channel
  remove <channel>               removes a disabled channel without connections
  weight <channel> <weight>      specifies new weight (0 to 256) for channel of current group
  policy <name>                  sets policy of current group: rr, leastconn, p2c, first, hash
  sessions [<channel>] [json]    lists the connections of all channels, or of one
  close <id>                     closes one connection
  save                           prints the command line that starts this instance as it is now
  services [json]                shows the services of this process
  use <service>                  changes the current service, by name, address:port or port
  reload [clean]                 reads the files again; clean: also drops changes made by hand
  reopen                         opens the file of the access log again
  pause [<channel>|all]          makes new clients of a channel, or of all channels, wait
  resume [<channel>|all]         ends a pause, and serves the clients that wait
  upgrade [<path>]               hands everything over to a new process, or to the program at path
  events [<number>] [json]       shows the last 20 events, or the last <number>, with times
  debug [on|off]                 switches debug messages on or off, or shows the setting
  ready [all]                    says whether current service, or each one, has a usable channel
  tap <id> [<limit>...] [<file>] shows what a connection carries, up to a limit (10m, 1GiB), or writes it to file.pcapng
  doctor [<service>] [json]      looks for what usually goes wrong, and says what to do
  top                            shows the instance live, in the terminal that -c top or -i runs in
  ended [<number>] [json]        shows the last connections that ended, and why: 20 or <number>
  deny <cidr> [<time>] [kick]    refuses clients from an address or a network; kick: closes their connections
  undeny <cidr> [all]            ends a deny
  denied [all] [json]            shows what deny refuses, and for how much longer
  resolve [<channel>]            looks names up now, of all channels of current service or of one
  disable <channel> hard         the same as disable, and closes all connections of a channel
  kill <time>                    the same as kill, and closes what is left after time
  show json                      shows all channels as one line of JSON, see docs/json.md
";
        assert_eq!(text(&Reply::Help), expected);
    }

    #[test]
    fn status_has_one_line_per_channel_and_tells_why() {
        let mut first = channel(0, "127.0.0.1:9", AdminState::Enabled);
        (first.totalc, first.failed, first.active, first.waiting) = (12, 3, 2, 4);
        (first.maxc, first.weight) = (NonZeroU32::new(2), Weight::new(7).expect("a weight"));
        first.last_error = Some(("connect: no answer in time".into(), Duration::from_secs(75)));
        (first.connect_p50, first.connect_p99) =
            (Some(Duration::from_micros(80)), Some(Duration::from_micros(3_500)));
        let mut second = channel(1, "[2001:db8::1]:80", AdminState::DisabledHard);
        let why = Some("connect: connection refused".to_owned());
        second.used = None;
        second.health =
            HealthSnapshot { state: HealthState::Ejected, age: Duration::from_secs(723), why, failing: None };
        second.last_error = Some(("connect: connection refused".into(), Duration::from_secs(723)));
        let mut third = channel(2, "10.0.0.1:80", AdminState::Disabled);
        third.health.state = HealthState::Ramping(16);
        let dead: SocketAddr = "10.0.0.2:80".parse().expect("an address");
        third.addresses = Addresses::new(vec![third.addresses.first(), dead.into()]).expect("two");
        third.addresses_out = vec![(dead.into(), "connect: no answer in time".into())];
        let mut fourth = channel(3, "10.0.0.3:80", AdminState::Enabled);
        (fourth.health.why, fourth.health.failing) = (Some("http: status 503".into()), Some((1, 3)));
        let mut fifth = channel(4, "10.0.0.4:80", AdminState::Enabled);
        (fifth.health.state, fifth.used) = (HealthState::Untried, None);
        let groups = vec![group(0, Policy::Hash, vec![first, second, third, fourth, fifth])];
        let expected = "\
group  chan address                state health     since weight    c/maxc queue    totalc  failed     p50     p99 addrs used                   options why
    0     0 127.0.0.1:9            ENA   up          5.0s      7       2/2     4        12       3    80us   3.5ms   1/1 127.0.0.1:9            -       last error 1m15s ago: connect: no answer in time
    0     1 [2001:db8::1]:80       DIS   ejected   12m03s      1       0/-     0         0       0       -       -   0/1 -                      -       connect: connection refused
    0     2 10.0.0.1:80            dis   ramp:25%    5.0s      1       0/-     0         0       0       -       -   1/2 10.0.0.1:80            -       10.0.0.2:80: connect: no answer in time
    0     3 10.0.0.3:80            ENA   up          5.0s      1       0/-     0         0       0       -       -   1/1 10.0.0.3:80            -       up 1/3: http: status 503
    0     4 10.0.0.4:80            ENA   untried     5.0s      1       0/-     0         0       0       -       -   1/1 -                      -       -
lost clients: 14 (no channel up 2, queue timeout 12)
ended: 17 (queue timeout 12, idle timeout 3, no channel up 2)
names: 0 @a.example @tls, 2 @
from process 4242: carried 4000, draining unknown
";
        let losses = vec![(Loss::NoChannel(NoChannel::Down), 2), (Loss::QueueTimeout, 12)];
        let ends = vec![
            (End::Idle, 3),
            (End::Lost(Loss::NoChannel(NoChannel::Down)), 2),
            (End::Lost(Loss::QueueTimeout), 12),
        ];
        let served = ClientCounts { ends, ..ClientCounts::default() };
        let carried = CarriedCount { carried: 4_000, draining: None, pid: 4242 };
        assert_eq!(
            text(&Reply::Status(
                Snapshot {
                    groups,
                    paused: false,
                    losses,
                    served,
                    stale_lists: None,
                    not_listening: None,
                    lost_socket: None
                },
                vec![
                    Section {
                        group: 0,
                        asked: vec![RouteName::Name("a.example".to_owned()), RouteName::Tls]
                    },
                    Section { group: 2, asked: vec![RouteName::Else] },
                ],
                Vec::new(),
                Some(carried)
            )),
            expected
        );
    }

    #[test]
    fn sessions_are_one_line_each() {
        let first = SessionSnapshot {
            id: 7,
            client: Some(Peers::from(SocketAddr::from(([127, 0, 0, 1], 4711)))),
            port: None,
            channel: Some(ChannelKey {
                group: GroupId::FIRST,
                channel: ChannelId::new(3).expect("in range"),
            }),
            begun: Duration::ZERO,
            age: Duration::from_secs(90_000),
            idle: Duration::from_millis(1_500),
            half_closed: Some(Duration::from_secs(75)),
            sent_bytes: 10,
            rcvd_bytes: 20,
        };
        let second =
            SessionSnapshot { id: 8, client: None, channel: None, half_closed: None, ..first.clone() };
        let (seen, client) = (SocketAddr::from(([10, 0, 0, 1], 5)), SocketAddr::from(([203, 0, 113, 7], 9)));
        let claimed = Some(Announced { client, local: seen });
        let third = SessionSnapshot {
            id: 9,
            client: Some(Peers { seen: seen.into(), claimed }),
            port: Some(20_005),
            ..second.clone()
        };
        // A line continuation would remove the blanks at the start of the lines.
        let expected =
            "      id client                     group  chan     age    idle        sent        rcvd state
       7 127.0.0.1:4711                 0     3   1d01h    1.5s          10          20 half-closed:1m15s
       8 -                              -     -   1d01h    1.5s          10          20 -
       9 203.0.113.7:9                  -     -   1d01h    1.5s          10          20 - via 10.0.0.1:5 port 20005
";
        assert_eq!(text(&Reply::Sessions(vec![first, second, third])), expected);
    }

    #[test]
    fn services_are_one_line_each() {
        let web = ServiceSnapshot {
            name: Some("web".into()),
            listen: vec!["0.0.0.0:80".parse().expect("an address"), "[::1]:80".parse().expect("an address")],
            up: 2,
            channels: 3,
            connections: 12,
            is_draining: false,
            listens_nowhere: false,
            is_paused: false,
            waiting: 0,
            differs: Some(true),
        };
        let other = ServiceSnapshot { name: None, is_draining: true, differs: None, ..web.clone() };
        let third = ServiceSnapshot { differs: Some(false), ..web.clone() };
        let expected = "\
name             listen                 up/channels connections state    file
web              0.0.0.0:80,[::1]:80            2/3          12 serving  changed
-                0.0.0.0:80,[::1]:80            2/3          12 draining -
web              0.0.0.0:80,[::1]:80            2/3          12 serving  same
";
        assert_eq!(text(&Reply::Services(vec![web, other, third])), expected);
    }

    #[test]
    fn mrtg_answers_are_four_lines() {
        let mut channel = channel(3, "127.0.0.1:9", AdminState::Enabled);
        (channel.rcvd_bytes, channel.sent_bytes, channel.totalc) = (7, 5, 2);
        let first = GroupId::FIRST;
        let bytes = Reply::MrtgBytes(first, Box::new(channel.clone()));
        assert_eq!(text(&bytes), "7\n5\nUNKNOWN\ngroup 0 channel 3\n");
        let conns = Reply::MrtgConns(first, Box::new(channel));
        assert_eq!(text(&conns), "2\nUNKNOWN\nUNKNOWN\ngroup 0 channel 3\n");
    }

    #[test]
    fn exit_codes_tell_syntax_errors_other_errors_and_failed_shutdowns() {
        let codes =
            [Reply::Done, Reply::NoCommand(SyntaxError::Plain), Reply::UnknownGroup, Reply::ShutdownFailed];
        assert_eq!(codes.map(|reply| exit_code(&reply)), [0, 64, 65, 69]);
    }
}
