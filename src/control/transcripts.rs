//! Transcripts of commands and their answers, from words to text, on a real table.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use proptest::prelude::*;

use crate::control::argument::{HostPort, Port};
use crate::control::command::{COMMANDS, Form, WaitGoal, parse_line};
use crate::control::execute::{Effect, Reply, Session, apply, prepare};
use crate::control::render;
use crate::sched::{
    Addresses, AdminState, ChannelId, ChannelKey, ClientAddr, GroupId, Lease, Policy, Rules, Table,
};

fn lookup(target: &HostPort) -> Result<Addresses, String> {
    let ip: IpAddr = match target.host.as_str() {
        "localhost" => IpAddr::from([127, 0, 0, 1]),
        host => host.parse().map_err(|_| format!("no address for {host}"))?,
    };
    let port = match &target.port {
        Port::Number(port) => port.get(),
        Port::Service(name) if name == "smtp" => 25,
        Port::OfService => 0,
        Port::Service(name) => return Err(format!("no service {name}")),
    };
    Ok(SocketAddr::new(ip, port).into())
}

fn key(group: usize, channel: usize) -> ChannelKey {
    let (group, channel) =
        (GroupId::new(group).expect("a group"), ChannelId::new(channel).expect("a channel"));
    ChannelKey { group, channel }
}

/// Channels 127.0.0.1:9 (enabled) and :10 (disabled) in group 0, :11 (disabled) in group 1, a hash group.
fn small_table() -> Table {
    let mut table = Table::new(Rules::CLASSIC);
    let mut create = |group, port, state| {
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        table.create(key(group, 0).group, address.into(), None, state).expect("a slot");
    };
    create(0, 9, AdminState::Enabled);
    create(0, 10, AdminState::Disabled);
    create(1, 11, AdminState::Disabled);
    table.set_policy(key(1, 0).group, Policy::Hash);
    table
}

struct Operator {
    session: Session,
    table: Table,
}

impl Operator {
    fn new() -> Self {
        Self { session: Session::default(), table: small_table() }
    }

    fn replies(&mut self, line: &[u8]) -> Vec<Reply> {
        let reply = |command| match command {
            Ok(command) => match apply(prepare(command, lookup), &mut self.session, &mut self.table) {
                Reply::Pending(Effect::Show(Form::Text)) => Reply::Table(self.table.snapshot()),
                Reply::Pending(Effect::Status(Form::Text)) => {
                    Reply::Status(self.table.snapshot(), Vec::new(), Vec::new(), None)
                }
                reply => reply,
            },
            Err(error) => Reply::NoCommand(error),
        };
        parse_line(line).map(reply).collect()
    }

    /// The effects that the caller must carry out.
    fn leaves(&mut self, line: &str) -> Vec<Effect> {
        self.replies(line.as_bytes()).iter().filter_map(Reply::effect).collect()
    }

    /// A client's connection to the first channel that takes it.
    fn lease(&mut self) -> Lease {
        let mut route = self.table.begin(ClientAddr::from(IpAddr::from([127, 0, 0, 1])));
        self.table.next(&mut route).expect("a channel")
    }

    fn says(&mut self, line: &str) -> String {
        self.replies(line.as_bytes()).iter().map(render::text).collect()
    }

    #[track_caller]
    fn hears(&mut self, transcript: &[(&str, &str)]) {
        for (line, answer) in transcript {
            let expected = if answer.is_empty() { String::new() } else { format!("{answer}\n") };
            assert_eq!(self.says(line), expected, "{line:?}");
        }
    }
}

#[test]
fn show_is_the_table() {
    let expected = "\
GRP Type  #   S       ip-address  port    c      totalc maxc        sent        rcvd
  0   RR  0 ENA        127.0.0.1     9    0           0    0           0           0
  0   RR  1 dis        127.0.0.1    10    0           0    0           0           0
  1 Hash  0 dis        127.0.0.1    11    0           0    0           0           0
";
    assert_eq!(Operator::new().says("s"), expected);
}

#[test]
fn create_makes_a_disabled_channel() {
    let mut operator = Operator::new();
    operator.hears(&[
        ("group 2", ""),
        ("create localhost smtp", "channel created"),
        ("c ::ffff:10.1.1.3 80", "channel created"),
        ("create nowhere 80", "invalid address"),
        ("create localhost nowhere", "invalid address"),
        ("create localhost 65536", "invalid address"),
        ("create localhost", "syntax error"),
        ("create localhost 80 5", "syntax error"),
    ]);
    let tail = "  2   RR  0 dis        127.0.0.1    25    0           0    0           0           0
  2   RR  1 dis  ::ffff:10.1.1.3    80    0           0    0           0           0
";
    assert!(operator.says("show").ends_with(tail));
}

#[test]
fn assign_checks_in_the_order_of_3_57() {
    Operator::new().hears(&[
        ("assign 0 nowhere", "syntax error"),
        ("assign x localhost 80", "syntax error"),
        ("assign 2 nowhere 80", "unknown channel"),
        ("assign 99999999999999999999 localhost 80", "unknown channel"),
        ("assign 0 nowhere 80", "channel must be disabled to assign new address"),
        ("assign 1 nowhere 80", "invalid address"),
        ("assign 1 localhost 81", "channel reassigned"),
        ("d 1 hard", "channel 1 disabled"),
        ("assign 1 localhost 82", "channel reassigned"),
        ("enable 1", "channel 1 enabled"),
        ("assign 1 localhost 83", "channel must be disabled to assign new address"),
    ]);
}

#[test]
fn disable_and_enable_say_what_was_already_so() {
    Operator::new().hears(&[
        ("disable 0", "channel 0 disabled"),
        ("disable 0", "channel 0 already disabled"),
        ("disable 0 soft", "channel 0 already disabled"),
        ("disable 0 hard", "channel 0 disabled"),
        ("disable 0 hard", "channel 0 already disabled"),
        ("disable 0", "channel 0 already disabled"),
        ("enable 00", "channel 0 enabled"),
        ("enable 0", "channel 0 already enabled"),
        ("disable 7", "no such channel 7"),
        ("enable 65535", "no such channel 65535"),
        ("disable -1", "no such channel -1"),
        ("disable 0099999999999999999999", "no such channel 99999999999999999999"),
        ("disable x", "syntax error"),
        ("enable", "syntax error"),
    ]);
}

#[test]
fn a_hard_disabled_channel_shows_it_and_its_connections_are_to_be_closed() {
    let mut operator = Operator::new();
    let effects: Vec<_> = operator.replies(b"disable 0 hard").iter().map(Reply::effect).collect();
    assert_eq!(effects, [Some(Effect::CloseConnections(key(0, 0)))]);
    assert!(operator.says("show").contains("  0   RR  0 DIS "));
    assert_eq!(operator.replies(b"disable 0 hard;disable 0;enable 0").iter().find_map(Reply::effect), None);
    assert!(operator.says("show").contains("  0   RR  0 ENA "));
}

#[test]
fn group_changes_the_group_of_the_session_only() {
    let mut operator = Operator::new();
    operator.hears(&[
        ("group 1", ""),
        ("enable 0", "channel 0 enabled"),
        ("group 65534", ""),
        ("enable 0", "no such channel 0"),
        ("group 65535", "value out of range"),
        ("group -1", "value out of range"),
        ("group 99999999999999999999", "value out of range"),
        ("group x", "syntax error"),
        ("group", "syntax error"),
    ]);
    assert_eq!(operator.session.group.index(), 65_534);
    assert_eq!(operator.table.snapshot().groups.len(), 2);
}

#[test]
fn policies_belong_to_the_current_group() {
    let mut operator = Operator::new();
    operator.hears(&[
        ("hash", "group 0 set to hash"),
        ("group 1", ""),
        ("rr", "group 1 set to round robin"),
        ("r", "syntax error"),
    ]);
    let policies: Vec<_> = operator.table.snapshot().groups.iter().map(|group| group.policy).collect();
    assert_eq!(policies, [Policy::Hash, Policy::RoundRobin]);
}

#[test]
fn maxc_is_a_whole_number_and_0_is_no_limit() {
    let mut operator = Operator::new();
    operator.hears(&[
        ("maxc 0 12", "maxc of channel 0 changed to 12"),
        ("m 1 4294967295", "maxc of channel 1 changed to 4294967295"),
        ("maxc 2 1", "unknown channel"),
        ("maxc -1 1", "unknown channel"),
        ("maxc 0 x", "syntax error"),
        ("maxc 0 -5", "syntax error"),
        ("maxc 0 4294967296", "syntax error"),
        ("maxc 0", "syntax error"),
    ]);
    assert!(operator.says("show").contains("  0   RR  0 ENA        127.0.0.1     9    0           0   12 "));
    operator.hears(&[("maxc 0 0", "maxc of channel 0 changed to 0")]);
    assert_eq!(operator.table.channel(key(0, 0)).expect("there").maxc, None);
}

#[test]
fn mrtg_prints_counters_and_reset_zeroes_them() {
    let mut operator = Operator::new();
    let lease = operator.lease();
    lease.slot().add_sent(0, 5);
    lease.slot().add_rcvd(0, 7);
    operator.hears(&[
        ("mrtg-bytes 0 0", "7\n5\nUNKNOWN\ngroup 0 channel 0"),
        ("mrtg-conns 0 0", "1\nUNKNOWN\nUNKNOWN\ngroup 0 channel 0"),
        ("mrtg 1 0", "0\n0\nUNKNOWN\ngroup 1 channel 0"),
        ("mrtg-bytes 2 0", "unknown group"),
        ("mrtg-conns -1 0", "unknown group"),
        ("mrtg-bytes 65535 0", "unknown group"),
        ("mrtg-bytes 0 2", "unknown channel"),
        ("mrtg-conns 0 99999999999999999999", "unknown channel"),
        ("mrtg-bytes 0", "syntax error"),
        ("reset 0", "channel 0 counters reset"),
        ("mrtg-bytes 0 0", "0\n0\nUNKNOWN\ngroup 0 channel 0"),
        ("mrtg-conns 0 0", "0\nUNKNOWN\nUNKNOWN\ngroup 0 channel 0"),
        ("reset 99999999999999999999", "no such channel 99999999999999999999"),
        ("reset", "syntax error"),
    ]);
}

#[test]
fn drain_disables_and_tells_how_many_are_left() {
    let mut operator = Operator::new();
    let first = operator.lease();
    let second = operator.lease();
    operator.hears(&[
        ("drain 0", "channel 0 draining, 2 connections left"),
        ("disable 0", "channel 0 already disabled"),
        ("enable 0", "channel 0 enabled"),
        ("disable 0 hard", "channel 0 disabled"),
        ("dr 0", "channel 0 draining, 2 connections left"),
    ]);
    assert!(operator.says("show").contains("  0   RR  0 DIS "), "disabled hard is not made softer");
    drop(first);
    operator.hears(&[("drain 0", "channel 0 draining, 1 connection left")]);
    drop(second);
    operator.hears(&[
        ("drain 0", "channel 0 drained"),
        ("drain 1", "channel 1 drained"),
        ("drain 2", "no such channel 2"),
        ("drain -1", "no such channel -1"),
        ("drain 99999999999999999999", "no such channel 99999999999999999999"),
        ("drain", "usage: drain <channel>"),
        ("drain x", "usage: drain <channel>"),
        ("drain 0 hard", "usage: drain <channel>"),
        ("group 1; drain 0", "channel 0 drained"),
    ]);
}

#[test]
fn wait_takes_a_time_and_leaves_the_waiting_to_the_door() {
    let mut operator = Operator::new();
    let millis = |millis| Some(Duration::from_millis(millis));
    for (line, patience) in [
        ("wait 0", None),
        ("w 00 30", millis(30_000)),
        ("wait 0 250ms", millis(250)),
        ("wait 0 1.5", millis(1_500)),
        ("wait 0 1h", millis(3_600_000)),
        ("wait 0 0", millis(0)),
    ] {
        assert_eq!(operator.leaves(line), [Effect::Wait(key(0, 0), WaitGoal::Idle, patience)], "{line}");
        operator.hears(&[(line, "")]);
    }
    assert_eq!(operator.leaves("group 1; wait 0"), [Effect::Wait(key(1, 0), WaitGoal::Idle, None)]);
    assert_eq!(operator.leaves("wait 0 up"), [Effect::Wait(key(1, 0), WaitGoal::Up, None)]);
    assert_eq!(operator.leaves("wait 0 up 2"), [Effect::Wait(key(1, 0), WaitGoal::Up, millis(2_000))]);
    operator.hears(&[
        ("wait 1", "no such channel 1"),
        ("wait -1 5", "no such channel -1"),
        ("wait", "usage: wait <channel> [up] [<time>]"),
        ("wait x", "usage: wait <channel> [up] [<time>]"),
        ("wait 0 x", "usage: wait <channel> [up] [<time>]"),
        ("wait 0 -1", "usage: wait <channel> [up] [<time>]"),
        ("wait up", "usage: wait <channel> [up] [<time>]"),
        ("wait 0 up up", "usage: wait <channel> [up] [<time>]"),
        ("wait 0 2 up", "usage: wait <channel> [up] [<time>]"),
        ("wait 0 5 s", "usage: wait <channel> [up] [<time>]"),
        ("wait 0 5x", "usage: wait <channel> [up] [<time>]"),
        ("wait 0 3651d", "usage: wait <channel> [up] [<time>]"),
        ("wait 0 \u{663}", "usage: wait <channel> [up] [<time>]"),
    ]);
    let (idle, busy) = (key(0, 0).channel, key(0, 1).channel);
    assert_eq!(render::text(&Reply::Idle(idle)), "channel 0 idle\n");
    for (left, said) in
        [(1, "channel 1 still has 1 connection\n"), (12, "channel 1 still has 12 connections\n")]
    {
        let reply = Reply::StillBusy(busy, left);
        assert_eq!((render::text(&reply).as_str(), render::exit_code(&reply)), (said, 75));
    }
}

#[test]
fn kick_close_and_sessions_are_for_the_data_plane() {
    let mut operator = Operator::new();
    for (line, effects) in [
        ("kick 0", vec![Effect::Kick(key(0, 0))]),
        ("kic 1; group 1; kick 0", vec![Effect::Kick(key(0, 1)), Effect::Kick(key(1, 0))]),
        ("group 0; sessions", vec![Effect::Sessions(None, Form::Text)]),
        ("se 1", vec![Effect::Sessions(Some(key(0, 1)), Form::Text)]),
        ("close 0018446744073709551615", vec![Effect::CloseSession(u64::MAX)]),
        ("cl 0", vec![Effect::CloseSession(0)]),
        ("save", vec![Effect::Save]),
        (
            "se json; se 1 json",
            vec![Effect::Sessions(None, Form::Json), Effect::Sessions(Some(key(0, 1)), Form::Json)],
        ),
        ("s json; st json", vec![Effect::Show(Form::Json), Effect::Status(Form::Json)]),
        ("services json", vec![Effect::Services(Form::Json)]),
    ] {
        assert_eq!(operator.leaves(line), effects, "{line}");
    }
    operator.hears(&[
        ("kick 2", "no such channel 2"),
        ("kick -1", "no such channel -1"),
        ("kick", "usage: kick <channel>"),
        ("kick 0 1", "usage: kick <channel>"),
        ("sessions 2", "no such channel 2"),
        ("sessions 2 json", r#"{"schema":1,"answer":"error","error":"no such channel 2","exit_code":65}"#),
        ("sessions json 2", "usage: sessions [<channel>] [json]"),
        ("sessions json json", "usage: sessions [<channel>] [json]"),
        ("sessions x", "usage: sessions [<channel>] [json]"),
        ("sessions 0 1", "usage: sessions [<channel>] [json]"),
        ("close 18446744073709551616", "no such session 18446744073709551616"),
        ("close -1", "no such session -1"),
        ("close", "usage: close <id>"),
        ("close 1 2", "usage: close <id>"),
        ("close x", "usage: close <id>"),
        ("save x", "usage: save"),
        ("group 7; kick 0", "no such channel 0"),
    ]);
    for (count, said) in [(0, "0 connections"), (1, "1 connection"), (7, "7 connections")] {
        let reply = Reply::Kicked(key(0, 3).channel, count);
        assert_eq!(render::text(&reply), format!("channel 3 kicked, {said} closed\n"));
    }
}

#[test]
fn remove_wants_a_disabled_channel_without_connections_and_keeps_its_number() {
    let mut operator = Operator::new();
    let lease = operator.lease();
    let used = "channel must be disabled and without connections to be removed";
    operator.hears(&[
        ("remove 0", used),
        ("disable 0", "channel 0 disabled"),
        ("remove 0", used),
        ("remove 2", "no such channel 2"),
        ("remove", "usage: remove <channel>"),
        ("remove x", "usage: remove <channel>"),
        ("remove 0 1", "usage: remove <channel>"),
    ]);
    drop(lease);
    operator.hears(&[
        ("rem 0", "channel 0 removed"),
        ("remove 0", "no such channel 0"),
        ("enable 0", "no such channel 0"),
        ("maxc 0 1", "unknown channel"),
        ("assign 0 localhost 80", "unknown channel"),
        ("mrtg-bytes 0 0", "unknown channel"),
        ("wait 0", "no such channel 0"),
        ("create localhost 81", "channel created"),
        ("remove 2", "channel 2 removed"),
        ("create localhost 82", "channel created"),
    ]);
    let ports: Vec<_> = operator.table.snapshot().groups[0]
        .channels
        .iter()
        .map(|channel| (channel.id.index(), channel.addresses.first().port()))
        .collect();
    assert_eq!(ports, [(1, 10), (3, 82)]);
}

#[test]
fn a_weight_is_0_to_256() {
    let mut operator = Operator::new();
    let range = "value out of range, a weight is 0 to 256";
    operator.hears(&[
        ("weight 0 256", "weight of channel 0 changed to 256"),
        ("we 1 0", "weight of channel 1 changed to 0"),
        ("weight 1 007", "weight of channel 1 changed to 7"),
        ("weight 0 257", range),
        ("weight 0 -1", range),
        ("weight 0 99999999999999999999", range),
        ("weight 2 1", "no such channel 2"),
        ("weight 2 257", "no such channel 2"),
        ("weight 0", "usage: weight <channel> <weight>"),
        ("weight 0 x", "usage: weight <channel> <weight>"),
        ("weight 0 1.5", "usage: weight <channel> <weight>"),
        ("weight 0 1 1", "usage: weight <channel> <weight>"),
    ]);
    let weights: Vec<_> =
        operator.table.snapshot().groups[0].channels.iter().map(|c| c.weight.get()).collect();
    assert_eq!(weights, [256, 7]);
}

#[test]
fn policy_takes_every_name_and_no_short_ones() {
    let mut operator = Operator::new();
    let unknown = "unknown policy, it is one of rr, leastconn, p2c, first, hash";
    for (name, said, policy) in [
        ("leastconn", "least connections", Policy::LeastConnections),
        ("p2c", "power of two choices", Policy::TwoChoices),
        ("first", "first", Policy::First),
        ("hash", "hash", Policy::Hash),
        ("rr", "round robin", Policy::RoundRobin),
    ] {
        let (line, answer) = (format!("policy {name}"), format!("group 0 set to {said}"));
        operator.hears(&[(&line, &answer)]);
        assert_eq!(operator.table.snapshot().groups[0].policy, policy);
    }
    operator.hears(&[
        ("policy RR", unknown),
        ("policy lc", unknown),
        ("policy least", unknown),
        ("policy 0", unknown),
        ("policy", "usage: policy <name>"),
        ("policy rr hash", "usage: policy <name>"),
        ("group 5; p first", "group 5 set to first"),
    ]);
    let unreadable: Vec<_> = operator.replies(b"policy \xff").iter().map(render::exit_code).collect();
    assert_eq!(unreadable, [65]);
    assert_eq!(operator.table.snapshot().groups.len(), 3, "a group comes into being with its policy");
}

#[test]
fn status_and_show_have_the_same_channels() {
    let mut operator = Operator::new();
    operator.hears(&[(
        "enable 1; disable 0; remove 0",
        "channel 1 enabled\nchannel 0 disabled\nchannel 0 removed",
    )]);
    let channels = |text: &str, columns: [usize; 2]| {
        let channel = |line: &str| {
            let words: Vec<_> = line.split_whitespace().collect();
            columns.map(|column| words[column].to_owned())
        };
        text.lines().skip(1).map(channel).collect::<Vec<_>>()
    };
    let shown = channels(&operator.says("show"), [0, 2]);
    assert_eq!(shown, [["0", "1"], ["1", "0"]]);
    assert_eq!(channels(&operator.says("st"), [0, 1]), shown);
    operator.hears(&[
        ("status 0", "usage: status [json]"),
        ("show 0", "syntax error"),
        ("show JSON", "syntax error"),
        ("show js", "syntax error"),
        ("show json json", "syntax error"),
        ("services x", "usage: services [json]"),
    ]);
}

#[test]
fn help_says_what_every_command_does_in_one_column() {
    let help = Operator::new().says("help");
    assert_eq!(help.lines().count(), 1 + COMMANDS.len() + render::LONGER_FORMS.len());
    for row in COMMANDS {
        let usage = format!("{} {}", row.name, row.arguments);
        let line = help.lines().find(|line| line[2..].starts_with(usage.trim_end())).expect("its line");
        assert_eq!(line.find(row.help), Some(33), "{line}");
        assert!(!row.help.ends_with('.') && line.len() <= 120, "{line}");
    }
    for ((usage, help_text), line) in render::LONGER_FORMS.iter().zip(help.lines().skip(1 + COMMANDS.len())) {
        assert_eq!(line, format!("  {usage:<30} {help_text}"));
        let typed = usage.replace("<channel>", "0").replace("<time>", "5m");
        assert!(parse_line(typed.as_bytes()).all(|command| command.is_ok()), "{typed}");
    }
}

#[test]
fn version_tells_the_limits() {
    Operator::new().hears(&[("version", "  This is balance 4.0\n  MAXGROUPS=65535\n  MAXCHANNELS=65535")]);
}

#[test]
fn quit_and_kill_say_nothing_here_and_leave_it_to_the_door() {
    let mut operator = Operator::new();
    operator.hears(&[("", ""), ("  ;", ""), ("quit", ""), ("kill", "")]);
    let effects: Vec<_> = operator.replies(b"q;k").iter().map(Reply::effect).collect();
    assert_eq!(effects, [Some(Effect::Quit), Some(Effect::Kill(None))]);
}

#[test]
fn commands_after_a_failed_one_are_carried_out() {
    Operator::new()
        .hears(&[("disable 9; disable 0 ;x", "no such channel 9\nchannel 0 disabled\nsyntax error")]);
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(line in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut operator = Operator::new();
        for reply in operator.replies(&line) {
            let text = render::text(&reply);
            prop_assert!(text.is_empty() || text.ends_with('\n'));
        }
    }

    #[test]
    fn no_words_make_it_panic(line in "((create|assign|disable|enable|maxc|group|reset|mrtg-b|mrtg-c|h|rr|s|\\?|st|drain|wait|kick|remove|weight|policy|sessions|close|save|[a-z]{1,3}) ?(-?[0-9]{0,21}|::1|hard|localhost|first)( [0-9]{1,6}){0,2};){0,8}") {
        let mut operator = Operator::new();
        for reply in operator.replies(line.as_bytes()) {
            let text = render::text(&reply);
            let is_silent = matches!(reply, Reply::Done | Reply::Quit | Reply::Kill(_) | Reply::Pending(_));
            prop_assert_eq!(text.is_empty(), is_silent);
        }
    }
}
