//! Messages about operators' mistakes: they say what is wrong, and what would be right.
//!
//! Source: docs/compatibility.md, docs/file.md, docs/control.md.

use std::net::SocketAddr;

use crate::harness::{
    Client, Directory, Instance, Received, Refusing, Run, Server, Setup, eventually, needs_root, own_address,
};

#[test]
fn a_link_local_address_needs_its_interface() {
    let directory = Directory::new();
    let check = |args: &[&str]| Run::balance(&directory).arg("--check-only").args(args).finish();
    let cure = "fe80::1 is a link-local address; write it with its interface, such as fe80::1%";
    for (args, word) in [
        (&["80", "[fe80::1]"][..], "[fe80::1]"),
        (&["80", "127.0.0.1:9", "[fe80::1]:80:3"], "[fe80::1]:80:3"),
        (&["-b", "fe80::1", "80", "127.0.0.1:9"], "fe80::1"),
        (&["-B", "fe80::1", "80", "127.0.0.1:9"], "fe80::1"),
    ] {
        let said = check(args).code(65).out("").stderr;
        assert!(
            said.starts_with(&format!("unknown or invalid address [{word}]\nbalance: {cure}")),
            "{args:?}: {said}"
        );
    }
    // That is a host and a limit, as ever.
    check(&["80", "fe80::1"]).code(65).err("; the IPv6 address is written [fe80::1]\n");
    check(&["--freebind", "-b", "fe80::1%lo", "80", "fe80::1%lo", "[fe80::1%lo]:80"]).code(0);
    let file =
        directory.file("services", "* -B fe80::1\n80 127.0.0.1:9 [fe80::1]:81\n").display().to_string();
    let said = check(&["--file", &file]).code(78).out("").stderr;
    for place in ["1:6", "2:16"] {
        assert!(said.contains(&format!("services:{place}: unknown or invalid address [")), "{said}");
    }
    assert_eq!(said.matches(cure).count(), 2, "{said}");
    // A running instance takes none either, and its log says why.
    let instance = Instance::before(&[&"127.0.0.1:9"]);
    for command in ["create fe80::1 80", "create [fe80::1] 80", "disable 0; assign 0 fe80::1 80"] {
        let said = instance.ctl(command).code(65).stdout;
        assert!(said.ends_with("invalid address\n"), "{command}: {said}");
    }
    assert!(instance.stderr().contains(cure), "{}", instance.stderr());
    instance.end();
}

#[test]
fn a_check_finds_what_a_start_would_refuse_and_takes_nothing() {
    let directory = Directory::new();
    let not_executable = directory.file("not-executable", "#!/bin/sh\n").display().to_string();
    let text = format!(
        "* --control-group no-such-group\n\
         * --loopback-congestion nonesuch --check exec:{not_executable}\n\
         80 127.0.0.1\n\
         81 127.0.0.1\n\
         82 --check exec:/no/such/program 127.0.0.1\n\
         83 --check exec:/bin 127.0.0.1 no-such-host.invalid\n"
    );
    let file = directory.file("services", &text).display().to_string();
    let said =
        Run::balance(&directory).args(["--check-only", "--file", &file]).finish().code(78).out("").stderr;
    let place = |at: &str| format!("{file}:{at}: ");
    for (at, wrong) in [
        ("6:32", "unknown or invalid address [no-such-host.invalid]: no host "),
        ("1:19", "--control-group: unknown group \"no-such-group\"\n"),
        ("2:25", "--loopback-congestion nonesuch: the system does not have it "),
        ("2:42", &format!("--check: cannot run {not_executable}: Permission denied (os error 13)\n")),
        ("5:12", "--check: cannot run /no/such/program: No such file or directory (os error 2)\n"),
        ("6:12", "--check: cannot run /bin: it is not a file\n"),
    ] {
        assert_eq!(said.matches(&(place(at) + wrong)).count(), 1, "{at} {wrong}: {said}");
    }
    assert!(said.ends_with("balance: 6 errors; nothing was started\n"), "{said}");
    // A start finds what it needs at once, and takes a program that may be there later.
    directory.file("services", &text.replace("no-such-host.invalid", ""));
    let said = Run::balance(&directory).args(["--file", &file]).finish().code(78).out("").stderr;
    assert!(said.contains("unknown group") && said.contains("nonesuch: "), "{said}");
    assert!(said.ends_with("balance: 2 errors; nothing was started\n"), "{said}");
    // On the command line, as ever: the first thing that is wrong, by its own code.
    let check = |args: &[&str]| Run::balance(&directory).arg("--check-only").args(args).finish();
    let group = ["--control-group", "no-such-group", "80", "127.0.0.1"];
    check(&group).code(65).out("").err("balance: --control-group: unknown group \"no-such-group\"\n");
    Run::balance(&directory).args(group).finish().code(65).err("unknown group");
    check(&["--loopback-congestion", "nonesuch", "80"])
        .code(71)
        .err("balance: --loopback-congestion nonesuch: ");
    check(&["--check", "exec:/no/such", "80"]).code(65).err("balance: --check: cannot run /no/such: ");
    check(&["--check", "exec:/bin/true", "80"]).code(0).out("1 service, 0 channels\n");
    Run::script(&directory, "ulimit -n 12; exec balance --check-only --workers 2 80")
        .finish()
        .code(71)
        .err("balance: the limit of open files is 12, but ");
}

#[test]
fn a_check_opens_the_access_log_and_asks_for_addresses_without_taking_anything() {
    let directory = Directory::new();
    let check = |args: &[&str]| Run::balance(&directory).arg("--check-only").args(args).finish();
    let start = |args: &[&str]| Run::balance(&directory).args(args).finish();
    // 203.0.113.0/24 is for documentation: no host has it.
    for (args, code) in [
        (&["--access-log", "/nonexistent/x", "80", "127.0.0.1"][..], 71),
        (&["--access-log", "/", "80", "127.0.0.1"], 71),
        (&["--access-log", "-", "80", "127.0.0.1"], 64),
        (&["-b", "203.0.113.9", "80", "127.0.0.1"], 71),
        (&["-b", "203.0.113.9", "8000-8009", "127.0.0.1"], 71),
    ] {
        let (said, then) = (check(args).code(code).out(""), start(args).code(code));
        assert_eq!(said.stderr.lines().next(), then.stderr.lines().next(), "{args:?}");
    }
    let free = own_address();
    let (host, port) = (free.ip().to_string(), free.port().to_string());
    let http = ["--http", "203.0.113.9:7780", "-b", &host, &port, "127.0.0.1"];
    let said = check(&http).code(71).out("").stderr;
    assert_eq!(said, start(&http).code(71).stderr);
    check(&["--freebind", "-b", "203.0.113.9", "80", "127.0.0.1"]).code(0);
    // What is there stays as it is, and what is not there is not made.
    let log = directory.file("access.log", "a line\n").display().to_string();
    check(&["--access-log", &log, "80", "127.0.0.1"]).code(0);
    assert_eq!(std::fs::read_to_string(&log).expect("readable"), "a line\n");
    std::fs::remove_file(&log).expect("our own");
    check(&["--access-log", &log, "80", "127.0.0.1"]).code(0);
    assert!(!std::path::Path::new(&log).exists(), "a check makes nothing");
    // All at once, with their places in a file.
    let text = "* --access-log /nonexistent/x\n* --http 203.0.113.9:7780\n80 -b 203.0.113.9 127.0.0.1\n";
    let file = directory.file("services", text).display().to_string();
    let said = check(&["--file", &file]).code(78).out("").stderr;
    assert!(said.ends_with("balance: 3 errors; nothing was started\n"), "{said}");
    // A port that another program has is not missed: the running instance may be the one.
    let _taken = std::net::TcpListener::bind(free).expect("a free port");
    check(&["-b", &host, &port, "127.0.0.1"]).code(0).out("1 service, 1 channel\n");
}

#[test]
fn a_check_opens_the_access_log_as_the_user_of_the_service() {
    if needs_root("becoming another user") {
        return;
    }
    let directory = Directory::new();
    let log = directory.file("access.log", "").display().to_string();
    let args = ["--user", "nobody", "--access-log", &log, "80", "127.0.0.1"];
    let check = || Run::balance(&directory).arg("--check-only").args(args).finish();
    check().code(71).out("").err(&format!("balance: --access-log {log}: Permission denied"));
    std::os::unix::fs::chown(&log, Some(65_534), None).expect("root may");
    check().code(0);
}

#[test]
fn a_check_and_a_start_compare_passed_listeners_with_what_is_asked_for() {
    let directory = Directory::new();
    let text = "web: -b 127.0.0.1 1 127.0.0.1\nmail: -b 127.0.0.1 2 127.0.0.1\n";
    let file = directory.file("services", text).display().to_string();
    let setup = |script: &str, args: &[&str]| {
        let setup = Setup::new().within(Directory::new()).shell(script);
        let mut instance = setup.spawn(args);
        let (code, said) = (instance.wait(), instance.stderr());
        assert!(!said.contains("panicked"), "{said}");
        (code, said, instance.addr)
    };
    for check in [&["--check-only"][..], &[]] {
        let args = [check, &["--file", &file]].concat();
        let (code, said, addr) = setup("", &args);
        assert_eq!(code, 71, "{said}");
        let wrong =
            format!("balance: LISTEN_FDS passes a listener at {addr}, but no service listens there\n");
        assert_eq!(said, wrong);
        let (code, said, addr) = setup("export LISTEN_FDNAMES=mail;", &args);
        assert_eq!(code, 71, "{said}");
        let wrong = format!(
            "balance: LISTEN_FDNAMES calls the listener at {addr} 'mail', but service mail listens on 127.0.0.1:2\n"
        );
        assert_eq!(said, wrong);
        let (code, said, _) = setup("export LISTEN_FDS=2;", &[check, &["PORT"]].concat());
        assert_eq!((code, &said[..]), (71, "balance: LISTEN_FDS promises descriptor 4, which is not open\n"));
    }
    let (code, said, _) = setup("", &["--check-only", "PORT"]);
    assert_eq!(code, 0, "{said}");
}

#[test]
fn a_run_directory_may_be_long_and_must_be_absolute() {
    let server = Server::named("a");
    let setup = Setup::new();
    let long = setup.directory().path().join("x".repeat(150)).display().to_string();
    let mut instance =
        setup.shell(&format!("export BALANCE_RUN_DIR={long};")).spawn(["PORT", &server.to_string()]);
    let (ip, port) = (instance.addr.ip().to_string(), instance.port());
    let ctl = |directory: &str, command: &str| {
        let run = Run::balance(&instance.directory).env("BALANCE_RUN_DIR", directory);
        run.args(["-b", &ip, "-c", command, &port]).finish()
    };
    eventually("it answers", || (ctl(&long, "show").code == 0).then_some(()));
    let relative = "BALANCE_RUN_DIR 'run' is not an absolute path; /run/balance is used in its place";
    ctl("run", "show").code(69).out("").err(relative).err("no master process, exiting.\n");
    // In the directory of the system there may be others.
    let said = ctl("", "show").code(69).stderr;
    assert!(
        said.starts_with("no master process, exiting.\nbalance: ") && said.lines().count() == 2,
        "{said}"
    );
    // Told before the port is asked for, so that nothing has to be put into the directory of the system.
    Run::balance(&instance.directory)
        .env("BALANCE_RUN_DIR", "run")
        .args(["-f", "-b", &ip, &port, "127.0.0.1:9"])
        .finish()
        .code(71)
        .err(relative);
    ctl(&long, "kill").code(0);
    assert_eq!(instance.wait(), 0, "{}", instance.stderr());
    assert!(!instance.stderr().contains("no_rendezvous"), "{}", instance.stderr());
}

#[test]
fn a_blank_before_the_colon_of_a_name_is_told() {
    let directory = Directory::new();
    let file = directory.file("services", "web : 8080 a b\n").display().to_string();
    Run::balance(&directory).args(["--check-only", "--file", &file]).finish().code(78).out("").err(
        "services:1:5: unknown or invalid address [:]: the colon stands right behind the name of a service; write web: 8080\n\
         balance: 1 error; nothing was started\n",
    );
    let said = Run::balance(&directory).args(["web", ":", "80", "a"]).finish().code(65).out("").stderr;
    let start = "unknown or invalid address [:]\nbalance: the host is missing; write host[:port[:maxc]]. Only a line of a file";
    assert!(said.starts_with(start) && said.contains("web: 80"), "{said}");
}

#[test]
fn log_lines_say_whose_they_are_and_the_start_names_all() {
    let dead = Refusing::new();
    let addresses = [(); 3].map(|()| own_address());
    let setup = Setup::binding(addresses[2]);
    let line = |at: &SocketAddr| format!("-b {} {} {dead}\n", at.ip(), at.port());
    let text = format!("web: {}{}{}", line(&addresses[0]), line(&addresses[1]), line(&addresses[2]));
    let file = setup.directory().file("services", &text).display().to_string();
    let instance = setup.start(["-d", "--file", &file]);
    for address in addresses {
        assert_eq!(Client::connect(address).ending(), Received::End);
    }
    let labels = ["web".to_owned(), addresses[1].to_string(), addresses[2].to_string()];
    let told =
        eventually("all are ejected", || Some(instance.told("ejected")).filter(|told| told.len() == 3));
    for label in &labels {
        let of = |line: &String| line.contains(&format!("event=ejected service={label} group=0"));
        assert_eq!(told.iter().filter(|line| of(line)).count(), 1, "{label}: {told:#?}");
        // It is the word that `use` takes.
        instance.ctl(&format!("use {label}")).code(0).out(&format!("using service {label}\n"));
    }
    let [first, second, third] = addresses;
    let started = format!("event=started listen={first},{second},{third} services=3 pid=");
    assert!(instance.stderr().contains(&started), "{}", instance.stderr());
    instance.terminate();
}

#[test]
fn a_second_line_says_what_a_wrong_command_line_means() {
    let directory = Directory::new();
    let balance = |args: &[&str]| Run::balance(&directory).args(args).finish();
    let usual = "give a number from 1 to 65535 or the name of a service";
    for (args, code, first, second) in [
        (&["99999", "a"][..], 64, "invalid port [99999], exiting.", usual),
        (
            &["-t", "8081", "no-such"],
            64,
            "invalid port [no-such], exiting.",
            "-t (--connect-timeout) took '8081' as its value; 'no-such' was taken for PORT",
        ),
        (
            &["--queue", "8081", "no-such"],
            64,
            "invalid port [no-such], exiting.",
            "--queue took '8081' as its value; 'no-such' was taken for PORT",
        ),
        (&["help"], 64, "invalid port [help], exiting.", "help is a command: balance -c help PORT"),
        (
            &["status", "80"],
            65,
            "unknown or invalid address [80]",
            "status is a command: balance -c status 80",
        ),
        (
            &["drain", "0", "80"],
            65,
            "unknown or invalid address [80]",
            "drain is a command: balance -c \"drain 0\" 80",
        ),
    ] {
        let said = balance(args).code(code).out("").stderr;
        assert_eq!(said, format!("{first}\nbalance: {second}\n"), "{args:?}");
    }
    for args in [["-c", "show"], ["-i", "-f"]] {
        let said = balance(&args).code(64).stderr;
        assert!(said.starts_with("balance: no PORT; say which instance: balance -"), "{said}");
    }
}

#[test]
fn a_second_line_says_why_a_port_cannot_be_had() {
    let directory = Directory::new();
    let taken = std::net::TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let port = taken.local_addr().expect("bound").port();
    let said = Run::balance(&directory)
        .args(["-b", "127.0.0.1", &port.to_string(), "127.0.0.1:9"])
        .finish()
        .code(71)
        .stderr;
    assert_eq!(
        said,
        format!(
            "bind(): Address already in use (127.0.0.1:{port})\nbalance: find what has the port: ss -ltnp 'sport = :{port}'\n"
        )
    );
    if needs_root("a user who may not have low ports") {
        return;
    }
    let script =
        "exec unshare --net setpriv --reuid=65534 --regid=65534 --clear-groups balance 81 127.0.0.1:9";
    let said = Run::script(&directory, script).finish().code(71).stderr;
    assert_eq!(
        said,
        "bind(): Permission denied (0.0.0.0:81)\nbalance: ports below 1024 need root or CAP_NET_BIND_SERVICE\n"
    );
}

#[test]
fn stderr_says_what_a_syntax_error_means() {
    let instance = Instance::before(&[&"127.0.0.1:9"]);
    let of = format!("{} {}", instance.bind_option().join(" "), instance.port());
    let of = of.trim();
    let lists = format!("balance -c help {of} lists the commands");
    for (command, meant) in [
        ("pasue", format!("no command 'pasue'; did you mean pause? {lists}")),
        ("xyzzy", format!("no command 'xyzzy'; {lists}")),
        ("disable", "usage: disable <channel> [hard]".to_owned()),
        (
            "help drain",
            format!(
                "drain <channel>: disables a channel and prints how many connections are left; help takes no word, and {lists}"
            ),
        ),
    ] {
        let said = instance.ctl(command).code(64);
        assert_eq!(said.stderr, format!("balance: {meant}\n"), "{command}");
        said.out("syntax error\n");
    }
    // What says it itself is not said twice.
    assert_eq!(instance.ctl("drain x").code(64).out("usage: drain <channel>\n").stderr, "");
    assert_eq!(
        instance.ctl("show; no-such 1").code(64).stderr,
        format!("balance: no command 'no-such'; {lists}\n")
    );
    instance.end();
}

#[test]
fn without_an_instance_the_second_line_says_what_runs() {
    let server = Server::echo();
    let instance = Instance::before(&[&server]);
    let ctl =
        |port: &str| Run::balance(&instance.directory).args(["-c", "status", port]).finish().code(69).out("");
    let said = ctl("1").stderr;
    assert_eq!(
        said,
        format!("no master process, exiting.\nbalance: running here: {} (balance --list)\n", instance.port())
    );
    let client = instance.connect();
    eventually("it is connected", || (server.accepted() == 1).then_some(()));
    instance.ctl("kill").code(0);
    let (port, pid) = (instance.port(), instance.pid());
    let said = Run::balance(&instance.directory)
        .args(instance.bind_option())
        .args(["-c", "status", &port])
        .finish()
        .code(69)
        .stderr;
    assert_eq!(
        said,
        format!(
            "no master process, exiting.\nbalance: process {pid} takes no more clients and serves those it has; balance -c status process.{pid} shows them\n"
        )
    );
    drop(client);
    instance.killed();
}

#[test]
fn a_service_without_channels_starts_with_a_warning() {
    let instance = Instance::start(["PORT"]);
    let told = instance.told("note");
    let [note] = &told[..] else { panic!("{told:#?}") };
    let of = format!("{} {}", instance.bind_option().join(" "), instance.port());
    let how = format!("balance -c \\\"create HOST PORT; enable 0\\\" {}\"", of.trim());
    assert!(
        note.contains("level=warning")
            && note.contains("no channels: every client is closed")
            && note.contains(&how),
        "{note}"
    );
    instance.end();
}
