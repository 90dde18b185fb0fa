//! Golden transcripts: what is typed and what is answered, from words to text, on a real table.

use std::io;
use std::net::{IpAddr, SocketAddr};

use proptest::prelude::*;

use crate::control::argument::{HostPort, Port};
use crate::control::command::parse_line;
use crate::control::execute::{Effect, Reply, Session, apply, prepare};
use crate::control::render;
use crate::sched::{Addresses, AdminState, ChannelId, ChannelKey, ClientAddr, GroupId, Policy, Rules, Table};

fn lookup(target: &HostPort) -> io::Result<Addresses> {
    let ip: IpAddr = match target.host.as_str() {
        "localhost" => IpAddr::from([127, 0, 0, 1]),
        host => host.parse().map_err(io::Error::other)?,
    };
    let port = match &target.port {
        Port::Number(port) => port.get(),
        Port::Service(name) if name == "smtp" => 25,
        Port::Service(_) => return Err(io::ErrorKind::NotFound.into()),
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
            Ok(command) => apply(prepare(command, lookup), &mut self.session, &mut self.table),
            Err(_) => Reply::SyntaxError,
        };
        parse_line(line).map(reply).collect()
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
    let mut route = operator.table.begin(ClientAddr::from(IpAddr::from([127, 0, 0, 1])));
    let lease = operator.table.next(&mut route).expect("a channel");
    lease.add_sent(0, 5);
    lease.add_rcvd(0, 7);
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
fn version_tells_the_limits() {
    Operator::new().hears(&[("version", "  This is balance 4.0\n  MAXGROUPS=65535\n  MAXCHANNELS=65535")]);
}

#[test]
fn quit_and_kill_say_nothing_here_and_leave_it_to_the_door() {
    let mut operator = Operator::new();
    operator.hears(&[("", ""), ("  ;", ""), ("quit", ""), ("kill", "")]);
    let effects: Vec<_> = operator.replies(b"q;k").iter().map(Reply::effect).collect();
    assert_eq!(effects, [Some(Effect::Quit), Some(Effect::Kill)]);
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
    fn no_words_make_it_panic(line in "((create|assign|disable|enable|maxc|group|reset|mrtg-b|mrtg-c|h|rr|s|\\?|[a-z]{1,3}) ?(-?[0-9]{0,21}|::1|hard|localhost)( [0-9]{1,6}){0,2};){0,8}") {
        let mut operator = Operator::new();
        for reply in operator.replies(line.as_bytes()) {
            let text = render::text(&reply);
            prop_assert_eq!(text.is_empty(), matches!(reply, Reply::Done | Reply::Quit | Reply::Kill));
        }
    }
}
