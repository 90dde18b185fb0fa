//! The command line and the command language, byte for byte.
//!
//! Source: docs/compatibility.md, "Command line" and "The command language".

use std::net::TcpListener;

use crate::harness::{
    Directory, Finished, Instance, Run, Server, Setup, eventually, needs_root, own_address,
};

/// The version as the contract's X.Y.
fn version() -> &'static str {
    let version = env!("CARGO_PKG_VERSION");
    &version[..version.rfind('.').expect("three numbers")]
}

fn balance(args: &[&str]) -> Finished {
    Run::balance(&Directory::new()).args(args).finish()
}

const HEAD: &str = "GRP Type  #   S       ip-address  port    c      totalc maxc        sent        rcvd\n";

const HELP: &str = "\
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
";

/// `show` as the contract formats it, built from (group, policy, channel, state, address, maxc).
fn table(rows: &[(u32, &str, u32, &str, &str, u32)]) -> String {
    let mut text = HEAD.to_owned();
    for (group, policy, channel, state, address, maxc) in rows {
        let (ip, port) = address.rsplit_once(':').expect("an address has a port");
        text += &format!(
            "{group:>3} {policy:>4} {channel:>2} {state:>3} {ip:>16} {port:>5} {:>4} {:>11} {maxc:>4} {:>11} {:>11}\n",
            0, 0, 0, 0
        );
    }
    text
}

#[test]
fn wrong_usage_is_64_with_the_usage_text() {
    for args in [
        &[][..],
        &["-f"],
        &["-Z", "80", "127.0.0.1"],
        &["--no-such-option", "80"],
        &["-t", "x", "80", "127.0.0.1"],
        &["-t", "0", "80", "127.0.0.1"],
        &["-t", "-1", "80", "127.0.0.1"],
        &["-t", "", "80", "127.0.0.1"],
        &["-t", "5x", "80", "127.0.0.1"],
        &["-t", "99999999999999999999", "80", "127.0.0.1"],
        &["-T", "x", "80", "127.0.0.1"],
        &["-T", "-1", "80", "127.0.0.1"],
        &["-T", "99999999999999999999", "80", "127.0.0.1"],
        &["-t"],
        &["-b"],
        &["-i"],
        &["-i", "80", "127.0.0.1"],
        &["-c", "show"],
        &["-c", "show", "80", "81"],
        &["80", "127.0.0.1", "-c"],
    ] {
        let finished = balance(args).code(64);
        let text = finished.stderr.to_lowercase();
        assert!(text.contains("usage") && text.contains("balance") && text.contains("-b"), "{finished}");
        assert_eq!(finished.stdout, "", "{finished}");
    }
}

#[test]
fn a_port_that_is_none_is_64() {
    for port in
        ["0", "65536", "99999999999999999999", "no-such-service", "-1x", "80x", "1.5", " 80", "+80", ""]
    {
        // `--`: a port may look like an option.
        for mode in
            [&["-f", "--", port, "127.0.0.1"][..], &["--", port, "127.0.0.1"], &["-c", "show", "--", port]]
        {
            balance(mode).code(64).err(&format!("invalid port [{port}], exiting.")).out("");
        }
    }
}

#[test]
fn a_channel_that_is_none_is_65() {
    let port = own_address().port().to_string();
    for channel in [
        "no-such-host.invalid",
        "127.0.0.1:99999",
        "127.0.0.1:0",
        "127.0.0.1:no-such-service",
        "127.0.0.1:80:x",
        "127.0.0.1:80:-1",
        "127.0.0.1:80:99999999999999999999",
        "127.0.0.1:80:1:1",
        ":80",
        "",
        "[::1",
        "[]:80",
        "[::1]x",
    ] {
        for mode in [&["-f"][..], &[]] {
            let args: Vec<_> =
                mode.iter().chain([&"-b", &"127.0.0.1", &port.as_str(), &channel]).copied().collect();
            balance(&args).code(65).err("unknown or invalid address [").out("");
        }
    }
}

#[test]
fn an_invalid_address_is_told_with_the_reason_in_a_second_line() {
    let port = own_address().port().to_string();
    let number = |n| {
        format!("'{n}' is a number where a host should be; for port {n} of this machine write localhost:{n}")
    };
    let table: &[(&[&str], &str, &str)] = &[
        (&["8080"], "8080", &number(8080)),
        (&["127.0.0.1", "8080:80"], "8080:80", &number(8080)),
        (&["::1:80"], "::1:80", "no host has the address ::1:80; for port 80 of ::1 write [::1]:80"),
        (&["a:80!"], "a:80!", "'80!' is not a port; give a number from 1 to 65535 or the name of a service"),
        (&["a:80:x"], "a:80:x", "'x' is not a maxc; give a number from 0 to 4294967295, 0 for no limit"),
        (&["127.0.0.1:nosuch"], "127.0.0.1:nosuch", "no service 'nosuch' is known; give a number"),
        (&["-B", "8080", "127.0.0.1"], "8080", &number(8080)),
        (&["-b", "[::1]:80"], "[::1]:80", "give a host or an address here, without a port"),
    ];
    for (words, word, why) in table {
        let args = [&["-f", "-b", "127.0.0.1", &port], *words].concat();
        let said = balance(&args).code(65).out("").stderr;
        assert_eq!(said, format!("unknown or invalid address [{word}]\nbalance: {why}\n"), "{words:?}");
    }
    // What the resolver says of a name differs from machine to machine.
    let said = balance(&["-f", "-b", "127.0.0.1", &port, "no-such-host.invalid:80"]).code(65).out("").stderr;
    let (first, second) = said.split_once('\n').expect("two lines");
    assert_eq!(first, "unknown or invalid address [no-such-host.invalid:80]");
    assert!(second.starts_with("balance: no host 'no-such-host.invalid': "), "{said}");
    let advice = "; if the name comes later, write no-such-host.invalid:80,lazy\n";
    assert!(second.ends_with(advice), "{said}");
}

#[test]
fn the_end_of_a_group_without_channels_is_69() {
    let port = own_address().port().to_string();
    for groups in [&["!"][..], &["%"], &["127.0.0.1", "!", "!"], &["127.0.0.1", "%", "!", "127.0.0.1"]] {
        for mode in [&["-f", "-b", "127.0.0.1", &port][..], &["-b", "127.0.0.1", &port]] {
            balance(&[mode, groups].concat()).code(69).err("balance: no channels in group").out("");
        }
    }
}

#[test]
fn an_address_in_use_is_71_and_named_in_front_and_in_the_background() {
    let address = own_address();
    let _holder = TcpListener::bind(address).expect("an address of our own");
    let (ip, port) = (address.ip().to_string(), address.port().to_string());
    for mode in [&["-f"][..], &[]] {
        let args: Vec<_> =
            mode.iter().chain([&"-b", &ip.as_str(), &port.as_str(), &"127.0.0.1"]).copied().collect();
        let finished = balance(&args).code(71).err("bind(): Address already in use").out("");
        assert!(finished.stderr.contains(&ip) && finished.stderr.contains(&port), "{finished}");
    }
}

#[test]
fn an_address_of_somebody_else_is_71() {
    for mode in [&["-f"][..], &[]] {
        let args: Vec<_> = mode.iter().chain([&"-b", &"192.0.2.1", &"8888", &"127.0.0.1"]).copied().collect();
        balance(&args).code(71).err("bind(): Cannot assign requested address").out("");
    }
}

#[test]
fn a_controller_without_an_instance_is_69() {
    for mode in [&["-c", "show"][..], &["-i"]] {
        let finished = balance(&[mode, &["8888"]].concat()).code(69);
        let said = format!("{}{}", finished.stdout, finished.stderr);
        assert!(said.contains("no master process, exiting."), "{finished}");
    }
}

#[test]
fn help_and_version_go_to_stdout() {
    let help = balance(&["--help"]).code(0);
    assert!(help.stdout.contains("balance") && help.stderr.is_empty(), "{help}");
    let version_text = balance(&["--version"]).code(0);
    assert!(version_text.stdout.contains(version()), "{version_text}");
}

#[test]
fn options_may_stand_anywhere_and_cluster() {
    let a = Server::named("a");
    let server = a.to_string();
    for args in [
        &["-t2", "-T0", "PORT", &server][..],
        &["PORT", &server, "-t", "2"],
        &["PORT", "-b", "127.0.0.1", &server],
        &["PORT", &server, "-pHt2"],
        &["-adM", "PORT", &server],
        &["-Mat2", "--", "PORT", &server],
        &["-B127.0.0.1", "PORT", &server, "-b127.0.0.1"],
    ] {
        let instance = Instance::start(args);
        assert_eq!(instance.names(1), "a", "{args:?}");
        instance.end();
    }
}

#[test]
fn a_control_command_may_stand_after_the_port() {
    let instance = Instance::start(["-b", "127.0.0.1", "PORT"]);
    let port = instance.port();
    let run = |args: &[&str]| Run::balance(&instance.directory).args(args).finish();
    run(&["-b", "127.0.0.1", &port, "-c", "create 127.0.0.1 9"]).code(0).out("channel created\n");
    run(&["-M", "-c", "show", "-d", "-b", "127.0.0.1", &port]).code(0);
    run(&[&port, "-M", "-cshow"]).code(0).out(&table(&[(0, "RR", 0, "dis", "127.0.0.1:9", 0)]));
    run(&["-i", "-M", &port]).code(0);
    instance.end();
}

#[test]
fn groups_limits_and_ports_of_the_command_line_are_shown() {
    let instance = Instance::start(
        "PORT 127.0.0.1::12 127.0.0.1:25:4 ! 127.0.0.1:smtp 127.0.0.1:99 % [::1]:7:3 [::1] 127.0.0.1: ::1"
            .split(' '),
    );
    let port = instance.port();
    let own = format!("127.0.0.1:{port}");
    let own6 = format!("::1:{port}");
    let expected = table(&[
        (0, "RR", 0, "ENA", &own, 12),
        (0, "RR", 1, "ENA", "127.0.0.1:25", 4),
        (1, "Hash", 0, "ENA", "127.0.0.1:25", 0),
        (1, "Hash", 1, "ENA", "127.0.0.1:99", 0),
        (2, "RR", 0, "ENA", "::1:7", 3),
        (2, "RR", 1, "ENA", &own6, 0),
        (2, "RR", 2, "ENA", &own, 0),
    ]);
    let shown = instance.ctl("show").code(0).stdout;
    assert!(shown.starts_with(&expected), "{shown}\nexpected\n{expected}");
    instance.end();
}

#[test]
fn a_channel_with_too_many_colons_and_no_brackets_is_65() {
    let port = own_address().port().to_string();
    balance(&["-f", "-b", "127.0.0.1", &port, "127.0.0.1:1:2:3"])
        .code(65)
        .err("unknown or invalid address [");
}

/// The examples of the manual and of the project's announcement, as they are written, in a network of their own.
#[test]
fn the_examples_work_as_written() {
    if needs_root("the examples use privileged ports, names and addresses: a network of their own") {
        return;
    }
    let directory = Directory::new();
    let hosts = directory.file(
        "hosts.test",
        "127.0.0.1 localhost\n10.1.1.1 host1 mailserver1\n10.1.1.2 host2 mailserver2\n10.1.1.4 host3 failover1 mailserver\n\
         10.1.1.5 target.munich.net\n",
    );
    let script = format!(
        "mount --bind {} /etc/hosts
        ip link set lo up
        ip addr add 2001:db8::1/128 dev lo nodad
        ip addr add 10.1.1.3/32 dev lo
        try() {{ echo \"# $*\"; balance \"$@\"; }}
        try smtp host1 host2;                       balance -c show smtp; balance -c kill smtp
        try -b 2001:DB8::1 80 10.1.1.1 10.1.1.2;    balance -b 2001:db8::1 -c show 80
        try -b ::ffff:10.1.1.3 80 10.1.1.1 10.1.1.2; balance -b ::ffff:10.1.1.3 -c show 80
        try imap mailserver1::16 ! mailserver2;     balance -c show imap; balance -c kill imap
        try pop3 host1 host2 host3 ! failover1;     balance -c show pop3
        try telnet target.munich.net::1;            balance -c show telnet
        try 8888 localhost::12 ! localhost::4 ! localhost::2 localhost::2 ! localhost:25
        balance -c show 8888
        try imap mailserver;                        balance -c show 143
        balance -f 8889 host1 10.1.1.1:8000 & until balance -c show 8889 2>/dev/null; do :; done
        try -i 8889 </dev/null
        balance -b 2001:db8::1 -c kill 80; balance -b 10.1.1.3 -c kill 80
        for p in pop3 telnet 8888 imap 8889; do balance -c kill $p; done",
        hosts.display()
    );
    let finished = Run::script(
        &directory,
        &format!("exec unshare -mnpf --mount-proc --kill-child sh -ec '{}'", script.replace('\'', "'\\''")),
    )
    .finish();
    let finished = finished.code(0);
    let rows: Vec<_> = finished.stdout.lines().filter(|line| line.contains(" ENA ")).collect();
    let shown: Vec<String> = rows
        .iter()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .map(|w| format!("{}{}{} {}:{}:{}", w[0], w[1], w[2], w[4], w[5], w[8]))
        .collect();
    let expected = "0RR0 10.1.1.1:25:0
0RR1 10.1.1.2:25:0
0RR0 10.1.1.1:80:0
0RR1 10.1.1.2:80:0
0RR0 10.1.1.1:80:0
0RR1 10.1.1.2:80:0
0RR0 10.1.1.1:143:16
1RR0 10.1.1.2:143:0
0RR0 10.1.1.1:110:0
0RR1 10.1.1.2:110:0
0RR2 10.1.1.4:110:0
1RR0 10.1.1.4:110:0
0RR0 10.1.1.5:23:1
0RR0 127.0.0.1:8888:12
1RR0 127.0.0.1:8888:4
2RR0 127.0.0.1:8888:2
2RR1 127.0.0.1:8888:2
3RR0 127.0.0.1:25:0
0RR0 10.1.1.4:143:0
0RR0 10.1.1.1:8889:0
0RR1 10.1.1.1:8000:0";
    assert_eq!(shown.join("\n"), expected, "{finished}");
}

#[test]
fn the_shell_greets_prompts_and_answers_byte_for_byte() {
    let instance = Instance::start(["PORT", "127.0.0.1:9", "127.0.0.1:11:7", "!", "127.0.0.1:13", "%"]);
    let rows = table(&[
        (0, "RR", 0, "ENA", "127.0.0.1:9", 0),
        (0, "RR", 1, "ENA", "127.0.0.1:11", 7),
        (1, "Hash", 0, "ENA", "127.0.0.1:13", 0),
    ]);
    let greeting = format!(
        "\nbalance {} interactive command shell\nPID of master process is {}\n\nbalance[0] ",
        version(),
        instance.pid()
    );
    // (input, answer, group afterwards)
    let steps = [
        ("", String::new(), 0),
        ("show", rows.clone(), 0),
        ("s", rows.clone(), 0),
        ("  show  ", rows, 0),
        ("create 127.0.0.1 15", "channel created\n".into(), 0),
        ("create 127.0.0.1", "syntax error\n".into(), 0),
        ("create", "syntax error\n".into(), 0),
        ("create no-such-host.invalid 80", "invalid address\n".into(), 0),
        ("assign 2 127.0.0.1 17", "channel reassigned\n".into(), 0),
        ("assign 0 127.0.0.1 17", "channel must be disabled to assign new address\n".into(), 0),
        ("assign 9 127.0.0.1 17", "unknown channel\n".into(), 0),
        ("assign 2 no-such-host.invalid 17", "invalid address\n".into(), 0),
        ("assign 2 127.0.0.1", "syntax error\n".into(), 0),
        ("disable 0", "channel 0 disabled\n".into(), 0),
        ("disable 0", "channel 0 already disabled\n".into(), 0),
        ("disable 9", "no such channel 9\n".into(), 0),
        ("disable", "syntax error\n".into(), 0),
        ("enable 0", "channel 0 enabled\n".into(), 0),
        ("e 0", "channel 0 already enabled\n".into(), 0),
        ("enable 9", "no such channel 9\n".into(), 0),
        ("enable", "syntax error\n".into(), 0),
        ("group 1", String::new(), 1),
        ("g 130", String::new(), 130),
        ("group 65535", "value out of range\n".into(), 130),
        ("group 99999999999999999999", "value out of range\n".into(), 130),
        ("group x", "syntax error\n".into(), 130),
        ("group", "syntax error\n".into(), 130),
        ("group 1", String::new(), 1),
        ("rr", "group 1 set to round robin\n".into(), 1),
        ("ha", "group 1 set to hash\n".into(), 1),
        ("hash", "group 1 set to hash\n".into(), 1),
        ("group 0", String::new(), 0),
        ("maxc 1 5", "maxc of channel 1 changed to 5\n".into(), 0),
        ("m 1 0", "maxc of channel 1 changed to 0\n".into(), 0),
        ("maxc 9 5", "unknown channel\n".into(), 0),
        ("maxc 1 x", "syntax error\n".into(), 0),
        ("maxc 1 -1", "syntax error\n".into(), 0),
        ("maxc 1", "syntax error\n".into(), 0),
        ("reset 1", "channel 1 counters reset\n".into(), 0),
        ("r 1", "channel 1 counters reset\n".into(), 0),
        ("reset 9", "no such channel 9\n".into(), 0),
        ("reset", "syntax error\n".into(), 0),
        ("mrtg-bytes 1 0", "0\n0\nUNKNOWN\ngroup 1 channel 0\n".into(), 0),
        ("mrtg-conns 0 1", "0\nUNKNOWN\nUNKNOWN\ngroup 0 channel 1\n".into(), 0),
        ("mrtg 0 1", "0\n0\nUNKNOWN\ngroup 0 channel 1\n".into(), 0),
        ("mrtg-c 0 1", "0\nUNKNOWN\nUNKNOWN\ngroup 0 channel 1\n".into(), 0),
        ("mrtg-bytes 77 0", "unknown group\n".into(), 0),
        ("mrtg-conns 77 0", "unknown group\n".into(), 0),
        ("mrtg-bytes 0 77", "unknown channel\n".into(), 0),
        ("mrtg-bytes 0", "syntax error\n".into(), 0),
        ("version", format!("  This is balance {}\n  MAXGROUPS=65535\n  MAXCHANNELS=65535\n", version()), 0),
        ("v", format!("  This is balance {}\n  MAXGROUPS=65535\n  MAXCHANNELS=65535\n", version()), 0),
        ("nonsense", "syntax error\n".into(), 0),
        ("showx", "syntax error\n".into(), 0),
        ("SHOW", "syntax error\n".into(), 0),
    ];
    let mut input = String::new();
    let mut expected = greeting.clone();
    for (line, answer, group) in &steps {
        input += &format!("{line}\n");
        expected += &format!("{answer}balance[{group}] ");
    }
    let at_eof = instance.shell(&input).code(0);
    // Line by line, so that a failure shows the step.
    for (got, want) in at_eof.stdout.lines().zip(expected.lines()) {
        assert_eq!(got, want, "{at_eof}");
    }
    assert_eq!(at_eof.stdout, format!("{expected}\n"));
    assert_eq!(at_eof.stderr, "");
    instance.shell("quit\nshow\n").code(0).out(&greeting);
    instance.shell("q").code(0).out(&greeting);
    instance.end();
}

#[test]
fn help_starts_with_the_list_of_3_57() {
    let instance = Instance::start(["PORT"]);
    for word in ["help", "h", "?"] {
        let help = instance.ctl(word).code(0).stdout;
        assert!(help.starts_with(HELP), "{help}");
    }
    instance.end();
}

#[test]
fn one_shot_commands_say_how_they_went() {
    let instance = Instance::start(["PORT", "127.0.0.1:9"]);
    for (command, code, out) in [
        ("disable 0", 0, "channel 0 disabled\n"),
        ("disable 0", 0, "channel 0 already disabled\n"),
        ("enable 0", 0, "channel 0 enabled\n"),
        ("", 0, ""),
        ("group 5", 0, ""),
        ("quit", 0, ""),
        ("nonsense", 64, "syntax error\n"),
        ("disable", 64, "syntax error\n"),
        ("disable 7", 65, "no such channel 7\n"),
        ("maxc 7 1", 65, "unknown channel\n"),
        ("group 99999", 65, "value out of range\n"),
        ("create no-such-host.invalid 80", 65, "invalid address\n"),
        ("mrtg-bytes 9 0", 65, "unknown group\n"),
        ("assign 0 127.0.0.1 80", 65, "channel must be disabled to assign new address\n"),
    ] {
        instance.ctl(command).code(code).out(out);
    }
    instance.end();
}

#[test]
fn several_commands_in_one_go_share_the_current_group() {
    let instance = Instance::start(["PORT", "127.0.0.1:9", "!", "127.0.0.1:11"]);
    instance.ctl("group 1; disable 0").code(0).out("channel 0 disabled\n");
    instance.ctl("group 1;enable 0 ; ;hash").code(0).out("channel 0 enabled\ngroup 1 set to hash\n");
    let rows = instance.show();
    assert_eq!(
        (rows[0].state.as_str(), rows[1].state.as_str(), rows[1].policy.as_str()),
        ("ENA", "ENA", "Hash")
    );
    assert_eq!(instance.ctl("disable 9; disable 0").code, 65, "an error is not hidden by what follows");
    instance.end();
}

#[test]
fn numbers_are_read_whole() {
    let instance = Instance::start(["PORT", "127.0.0.1:9"]);
    for number in ["x", "99999999999999999999", "0x", "0.0", "''", "18446744073709551616", "4294967296"] {
        for command in ["disable", "enable", "reset"] {
            let finished = instance.ctl(&format!("{command} {number}"));
            assert!([64, 65].contains(&finished.code), "{finished}");
        }
    }
    let row = &instance.show()[0];
    assert_eq!(row.state, "ENA", "never channel 0 by accident");
    instance.end();
}

#[test]
fn wide_values_push_right_and_keep_their_columns() {
    let server = Server::with(|stream, _| {
        std::io::copy(&mut &stream, &mut std::io::sink()).expect("a sink takes everything");
    });
    let instance = Instance::before(&[&format!("{server}:65000")]);
    instance.ctl("maxc 0 123456").code(0);
    let mut client = instance.connect();
    client.send(vec![0; 1_234_567]);
    let rows = instance.await_show("all bytes", |rows| rows[0].sent == 1_234_567);
    let table = instance.ctl("show").code(0).stdout;
    assert_eq!(table, format!("{HEAD}{}", rows[0].text()));
    drop(client);
    instance.end();
}

#[test]
fn counters_are_reset_and_connections_are_not() {
    let server = Server::named("a");
    let instance = Instance::before(&[&server]);
    let (client, _) = instance.named();
    instance.await_show("a byte", |rows| rows[0].rcvd == 1);
    instance.ctl("mrtg-bytes 0 0").code(0).out("1\n0\nUNKNOWN\ngroup 0 channel 0\n");
    instance.ctl("mrtg-conns 0 0").code(0).out("1\nUNKNOWN\nUNKNOWN\ngroup 0 channel 0\n");
    instance.ctl("reset 0").code(0);
    let row = &instance.show()[0];
    assert_eq!((row.c, row.totalc, row.sent, row.rcvd), (1, 0, 0, 0));
    drop(client);
    instance.end();
}

#[test]
fn the_dump_in_the_background_is_left_off_with_a_warning() {
    let server = Server::named("a");
    let directory = Directory::new();
    let address = own_address();
    let (ip, port) = (address.ip().to_string(), address.port().to_string());
    let run = |args: &[&str]| Run::balance(&directory).args(args).finish();
    let started = run(&["-p", "-b", &ip, &port, &server.to_string()]).code(0).out("");
    assert!(started.stderr.contains("-p") && started.stderr.contains("-f"), "{started}");
    assert_eq!(started.stderr.lines().count(), 1, "{started}");
    let mut client = crate::harness::Client::connect(address);
    assert_eq!(client.recv(1), b"a");
    client.send("x");
    assert_eq!(client.recv(1), b"x", "nothing of the dump in the connection");
    run(&["-b", &ip, "-c", "kill", &port]).code(0).out("shutdown complete, exiting.\n");
    drop(client);
    eventually("the port is free", || TcpListener::bind(address).ok());
}

#[test]
fn a_port_may_be_a_service_name_for_every_mode() {
    // A name whose port the kernel hands out to nobody.
    let ip = own_address().ip();
    let instance = Setup::binding((ip, 6379).into()).start(["-b", &ip.to_string(), "redis", "127.0.0.1"]);
    assert_eq!(instance.show()[0].address, "127.0.0.1:6379");
    Run::balance(&instance.directory).args(["-c", "show", "redis"]).finish().code(0);
    instance.end();
}

#[test]
fn well_known_services_are_known_without_a_services_file() {
    if crate::harness::needs_root("a mount namespace") {
        return;
    }
    let directory = Directory::new();
    let script = "exec unshare -mn sh -ec '
        mount --bind /dev/null /etc/services
        ip link set lo up
        balance -b 127.0.0.1 smtp 127.0.0.1:imap
        balance -b 127.0.0.1 -c show 25
        balance -b 127.0.0.1 -c kill smtp'";
    let run = Run::script(&directory, script).finish().code(0);
    assert!(run.stdout.contains("127.0.0.1   143 "), "{run}");
}

#[test]
fn a_group_with_all_numbers_taken_says_so() {
    // 65 535 channels of one address are quick to make on the command line's side of the table.
    let channels = vec!["127.0.0.1:9"; 65_535];
    let instance = crate::harness::Setup::new().start(["PORT"].into_iter().chain(channels));
    instance.ctl("create 127.0.0.1 9").out("no channel slots available\n").code(65);
    instance.terminate();
}
