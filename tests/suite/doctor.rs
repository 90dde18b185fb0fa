//! `doctor`: each problem is made for real, and found; an instance without problems passes.

use std::fs;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::thread;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use super::harness::{
    BlackHole, Client, Directory, Finished, Instance, Refusing, Run, Server, Setup, eventually, own_address,
    port_range, private_network,
};

/// The findings of this check.
fn findings(told: &Finished, check: &str) -> Vec<String> {
    let is_its = |line: &&str| line.split([' ', ':']).nth(1) == Some(check);
    told.stdout.lines().filter(is_its).map(str::to_owned).collect()
}

/// The one finding of this check.
#[track_caller]
fn finding(instance: &Instance, check: &str) -> String {
    let told = instance.ctl("doctor");
    let mut found = findings(&told, check);
    assert_eq!(found.len(), 1, "{check}: {told}");
    let line = found.remove(0);
    let code = if line.starts_with("broken ") { 2 } else { 1 };
    assert!(told.code >= code, "{told}");
    assert!(line.contains(". Why: ") && line.contains(". Do: "), "what, why and what to do: {line}");
    line
}

#[track_caller]
fn no_finding(instance: &Instance, check: &str) {
    let told = instance.ctl("doctor");
    assert_eq!(findings(&told, check), Vec::<String>::new(), "{told}");
    assert!([0, 1, 2].contains(&told.code), "{told}");
}

/// An instance on an address of its own, on a port that no connection gets.
fn on_own(channels: &[&str]) -> Instance {
    let at = own_address();
    let (ip, port) = (at.ip().to_string(), at.port().to_string());
    let is_option = |word: &&&str| word.starts_with('-');
    let options = channels.iter().rposition(|word| is_option(&word)).map_or(0, |at| at + 2);
    let (options, channels) = channels.split_at(options);
    Setup::binding(at).start(["-b", &ip].iter().chain(options).chain([&&*port]).chain(channels))
}

fn set(setting: &str, value: &str) {
    fs::write(format!("/proc/sys/net/{setting}"), value).expect("a setting of our own network");
}

#[test]
fn a_healthy_instance_is_fine() {
    private_network("a network without anybody else's troubles", || {
        set("ipv4/tcp_congestion_control", "reno");
        let server = Server::named("a");
        let to = server.addr.to_string();
        // What a busy machine does to an instance is found, too: it is stopped for more than a second. Hardly five times.
        for round in 0.. {
            let instance = on_own(&[&to]);
            assert_eq!(instance.names(1), "a");
            let told = instance.ctl("doctor");
            let of_machine = ["pauses", "cpu-limit", "memory-limit", "swap", "system-files"];
            let is_of_machine =
                |line: &str| of_machine.iter().any(|check| line.starts_with(&format!("advice {check}:")));
            if told.code != 0 && round < 5 && told.stdout.lines().all(is_of_machine) {
                continue;
            }
            assert_eq!(told.code, 0, "{told}");
            assert!(told.stdout.starts_with("fine: ") && told.stdout.ends_with("found nothing\n"), "{told}");
            let json = instance.ctl("doctor json").stdout;
            let answer: Value = serde_json::from_str(&json).expect("JSON");
            let found = answer["findings"].as_array().expect("a list");
            let is_of_machine = |one: &Value| of_machine.iter().any(|check| one["check"] == *check);
            if round < 5 && !found.is_empty() && found.iter().all(is_of_machine) {
                continue;
            }
            assert_eq!((&answer["verdict"], &answer["exit_code"]), (&"fine".into(), &0.into()), "{json}");
            assert_eq!(answer["findings"].as_array().map(Vec::len), Some(0));
            instance.end();
            break;
        }
    });
}

#[test]
fn groups_without_a_usable_channel_are_broken_and_the_advice_repairs_them() {
    let server = Server::named("a");
    let to = server.addr.to_string();
    let instance = on_own(&[&to]);
    instance.ctl("disable 0").code(0);
    let line = finding(&instance, "groups");
    assert!(line.starts_with("broken groups ") && line.contains("is disabled"), "{line}");
    let (_, cure) = line.split_once(". Do: ").expect("advice");
    Run::script(&instance.directory, cure).finish().code(0);
    no_finding(&instance, "groups");
    // Weight 0 in a later group.
    instance.ctl(&format!(
        "disable 0; group 1; create {} {}; enable 0; weight 0 0",
        server.addr.ip(),
        server.addr.port()
    ));
    let told = instance.ctl("doctor").code(2);
    let second = findings(&told, "groups").remove(1);
    assert!(second.contains("group 1") && second.contains("has weight 0"), "{told}");
    let (_, cure) = second.split_once(". Do: ").expect("advice");
    Run::script(&instance.directory, cure).finish().code(0);
    // Now the first one is no more than advice.
    let line = finding(&instance, "groups");
    assert!(line.starts_with("advice groups ") && line.contains("group 0"), "{line}");
    instance.end();
}

#[test]
fn channels_that_do_not_answer_are_named_with_what_they_met() {
    let (server, refusing) = (Server::named("a"), Refusing::new());
    let instance = on_own(&[&refusing.addr().to_string(), &server.addr.to_string()]);
    instance.names(2);
    let line = finding(&instance, "channels");
    assert!(line.contains("1 of 2 channels in group 0") && line.contains("connection refused"), "{line}");
    no_finding(&instance, "groups");
    instance.end();
    // All of them: that is another matter.
    let instance = on_own(&[&refusing.addr().to_string()]);
    instance.connect().ending();
    let line = finding(&instance, "groups");
    assert!(line.starts_with("broken ") && line.contains("connection refused"), "{line}");
    no_finding(&instance, "channels");
    assert!(line.contains("--fail-open") && line.contains("start the server"), "{line}");
    instance.end();
    // What happens to the clients is another thing where the port is closed, and where there is no address.
    let to = refusing.addr().to_string();
    let instance = on_own(&["--refuse-when-down", "--check", "tcp", &to]);
    let line = eventually("it is down", || findings(&instance.ctl("doctor"), "groups").pop());
    assert!(line.contains("clients are refused (--refuse-when-down)"), "{line}");
    instance.end();
    let instance = on_own(&["no-such-host.invalid:80,lazy"]);
    let line = finding(&instance, "groups");
    assert!(line.contains("balance closes new clients"), "{line}");
    assert!(line.contains("Do: getent ahosts no-such-host.invalid; "), "{line}");
    instance.end();
    let instance = on_own(&[]);
    assert!(finding(&instance, "groups").contains("has no channel"));
    instance.end();
}

#[test]
fn a_server_whose_listen_queue_overflows_shows_by_slow_connects() {
    let hole = BlackHole::new();
    let instance = on_own(&["-t", "60", &hole.addr().to_string()]);
    let client = instance.connect();
    eventually("its request was dropped", || (instance.dials(hole.addr()) == 1).then_some(()));
    no_finding(&instance, "slow-connects");
    let _server = hole.accepts();
    let line = eventually("it was sent again", || findings(&instance.ctl("doctor"), "slow-connects").pop());
    assert!(line.contains("channel 0 in group 0") && line.contains("listen queue overflows"), "{line}");
    drop(client);
    instance.terminate();
}

#[test]
fn names_that_mean_nothing_or_something_else_are_found() {
    if super::harness::needs_root("a hosts file of its own") {
        return;
    }
    let server = Server::named("a");
    let directory = Directory::new();
    let (hosts, switch) =
        (directory.file("hosts", "127.0.0.1 web\n"), directory.file("nsswitch", "hosts: files\n"));
    let mounts = format!(
        "mount --bind {} /etc/hosts; mount --bind {} /etc/nsswitch.conf;",
        hosts.display(),
        switch.display()
    );
    let at = own_address();
    let setup = Setup::binding(at).mounting(&mounts);
    let channel = format!("web:{}", server.addr.port());
    let instance = setup.start(["-b", &at.ip().to_string(), &at.port().to_string(), &channel]);
    no_finding(&instance, "names");
    fs::write(&hosts, "127.0.0.2 web\n").expect("a file of ours");
    let line = finding(&instance, "names");
    assert!(line.starts_with("advice names: the name 'web' means 127.0.0.2 now"), "{line}");
    fs::write(&hosts, "127.0.0.2 nobody\n").expect("a file of ours");
    let line = finding(&instance, "names");
    assert!(line.starts_with("broken names: the name 'web' has no address now"), "{line}");
    assert_eq!(instance.names(1), "a", "it goes on with what it has");
    instance.end();
}

#[test]
fn a_channel_that_leads_back_is_found_until_it_has_a_maxc() {
    let at = own_address();
    let to = at.to_string();
    let instance = Setup::binding(at).start(["-b", &at.ip().to_string(), &at.port().to_string(), &to]);
    let line = finding(&instance, "circles");
    assert!(line.contains("channel 0 of group 0 leads back to this service"), "{line}");
    instance.ctl("maxc 0 3").code(0);
    no_finding(&instance, "circles");
    instance.end();
}

#[test]
fn clients_that_got_no_channel_for_maxc_are_counted() {
    let server = Server::named("a");
    let instance = on_own(&[&format!("{}:1", server.addr)]);
    no_finding(&instance, "full");
    let first = instance.named();
    instance.connect().ending();
    let line = finding(&instance, "full");
    assert!(line.contains("1 client got no channel") && line.contains("--queue"), "{line}");
    drop(first);
    instance.end();
}

#[test]
fn a_service_at_its_limit_of_clients_is_broken() {
    let server = Server::named("a");
    let instance = on_own(&["--max-connections", "2", &server.addr.to_string()]);
    let first = instance.named();
    no_finding(&instance, "limit");
    let second = instance.named();
    let line = finding(&instance, "limit");
    assert!(line.starts_with("broken ") && line.contains("2 clients, and --max-connections is 2"), "{line}");
    drop((first, second));
    instance.end();
}

#[test]
fn a_directory_that_is_not_safe_is_named_by_the_side_that_asks() {
    let directory = Directory::new();
    let run = directory.path().join("run");
    fs::create_dir_all(&run).expect("a directory of ours");
    fs::set_permissions(&run, fs::Permissions::from_mode(0o777)).expect("ours");
    let at = own_address();
    let (ip, port) = (at.ip().to_string(), at.port().to_string());
    let told = Run::balance(&directory).args(["-b", &ip, "-c", "doctor", &port]).finish().code(2);
    assert_eq!(told.stdout.lines().count(), 1, "{told}");
    assert!(told.stdout.contains("others may change what is in it; chmod +t"), "{told}");
}

#[test]
fn descriptors_are_held_against_limits_and_load() {
    let server = Server::named("a");
    let to = server.addr.to_string();
    let at = own_address();
    let (ip, port) = (at.ip().to_string(), at.port().to_string());
    let start = |limit: &str, channel: &str| {
        let args = ["--workers", "1", "-b", &ip, &port, channel];
        Setup::binding(at).shell(&format!("ulimit -n {limit};")).start(args)
    };
    let instance = start("200", &to);
    let line = finding(&instance, "descriptors");
    assert!(line.starts_with("advice descriptors: 200 descriptors are enough for "), "{line}");
    instance.end();
    let instance = start("4000", &format!("{to}:5000"));
    let line = finding(&instance, "descriptors");
    assert!(line.contains("allow 5000 clients, and 4000 descriptors are enough for 19"), "{line}");
    instance.ctl("maxc 0 100").code(0);
    no_finding(&instance, "descriptors");
    instance.end();
    let instance = start("40", &to);
    let mut clients = Vec::new();
    let line = eventually("none is left", || {
        clients.push(Client::connect(at));
        let line = finding(&instance, "descriptors");
        line.starts_with("broken ").then_some(line)
    });
    assert!(line.contains(" of 40 descriptors are left with "), "{line}");
    drop(clients);
    instance.end();
}

#[test]
fn a_short_listen_queue_is_found_and_so_is_one_that_has_overflowed() {
    private_network("a limit of its own", || {
        let server = Server::named("a");
        set("core/somaxconn", "128");
        let instance = on_own(&[&server.addr.to_string()]);
        let line = finding(&instance, "backlog");
        assert!(line.contains("128 places") && line.contains("sysctl -w net.core.somaxconn=4096"), "{line}");
        set("core/somaxconn", "4096");
        no_finding(&instance, "backlog");
        // Anybody's queue in this network: two places, and nobody accepts.
        let full =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
        full.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a free port");
        full.listen(0).expect("it listens");
        let to = full.local_addr().expect("bound");
        let mut clients = Vec::new();
        eventually("it overflows", || {
            let client =
                socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
            client.set_nonblocking(true).expect("a mode");
            let _ = client.connect(&to);
            clients.push(client);
            let told = instance.ctl("doctor");
            findings(&told, "backlog")
                .first()
                .filter(|line| line.contains("did not fit into a listen queue"))
                .map(|_| ())
        });
        drop(clients);
        instance.end();
    });
}

#[test]
fn source_ports_are_held_against_connections_to_one_server() {
    private_network("a range of ports of its own", || {
        port_range(40_000, 40_019);
        let at = own_address();
        let server = Server::named_at(SocketAddr::new(at.ip(), 9_000), "a");
        let instance = on_own(&[&server.addr.to_string()]);
        no_finding(&instance, "source-ports");
        let clients: Vec<_> = (0..16).map(|_| instance.named()).collect();
        let line = finding(&instance, "source-ports");
        assert!(line.starts_with("advice ") && line.contains("16 connections to "), "{line}");
        assert!(line.contains("20 source ports"), "{line}");
        // As many as there are, and no more will be.
        set("ipv4/ip_local_reserved_ports", "40010-40013");
        let line = finding(&instance, "source-ports");
        assert!(line.starts_with("broken ") && line.contains("16 source ports"), "{line}");
        drop(clients);
        set("ipv4/ip_local_reserved_ports", "");
        instance.await_show("all have gone", |rows| rows[0].c == 0);
        instance.ctl("maxc 0 21").code(0);
        let line = finding(&instance, "source-ports");
        assert!(line.contains("maxc allows 21 connections"), "{line}");
        instance.end();
    });
}

#[test]
fn a_port_that_connections_may_get_is_to_be_reserved() {
    private_network("a range of ports of its own", || {
        port_range(30_000, 40_000);
        let server = Server::named("a");
        let at = SocketAddr::from(([127, 0, 0, 1], 35_000));
        let instance = Setup::binding(at).start(["-b", "127.0.0.1", "35000", &server.addr.to_string()]);
        let line = finding(&instance, "listen-port");
        let (_, cure) = line.split_once(". Do: ").expect("advice");
        let (setting, value) = cure
            .strip_prefix("sysctl -w net.ipv4.")
            .and_then(|rest| rest.split_once('='))
            .expect("a setting");
        set(&format!("ipv4/{setting}"), value.split(' ').next().expect("a value"));
        no_finding(&instance, "listen-port");
        instance.end();
    });
}

#[test]
fn another_process_on_the_same_port_is_found() {
    let listener = |at: SocketAddr| {
        let socket =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
        socket.set_reuse_port(true).expect("an option");
        socket.bind(&at.into()).map(|()| {
            socket.listen(16).expect("it listens");
            TcpListener::from(socket)
        })
    };
    let at = own_address();
    let server = Server::named("a");
    let passed = listener(at).expect("a free port");
    let instance =
        Setup::passing(passed).start(["-b", &at.ip().to_string(), "PORT", &server.addr.to_string()]);
    // A copy of its descriptor may be in a child of another test for a moment, between fork and exec.
    let is_alone = || {
        eventually("nobody shares the port", || {
            findings(&instance.ctl("doctor"), "shared-port").is_empty().then_some(())
        });
    };
    is_alone();
    let other = listener(at).expect("both say that they share it");
    let line = finding(&instance, "shared-port");
    assert!(line.contains(&format!("listens on {at}, too")) && line.contains("SO_REUSEPORT"), "{line}");
    drop(other);
    is_alone();
    let other = listener(SocketAddr::from(([0, 0, 0, 0], at.port()))).expect("both say that they share it");
    let line = finding(&instance, "shared-port");
    assert!(line.contains("listens on 0.0.0.0:"), "{line}");
    drop(other);
    is_alone();
    instance.end();
}

#[test]
fn a_process_that_drains_is_not_told_to_stop_its_successor() {
    let server = Server::named("a");
    let to = server.addr.to_string();
    let mut old = on_own(&[&to]);
    let client = old.named();
    let (ip, port) = (old.addr.ip().to_string(), old.port());
    old.ctl("kill").code(0);
    let next = ["-b", &ip, &port, &to].map(str::to_owned);
    Run::balance(&old.directory).args(next).finish().code(0);
    let process = format!("process.{}", old.pid());
    let ask = |command: &str| Run::balance(&old.directory).args(["-c", command, &process]).finish();
    let told = ask("doctor");
    for check in ["shared-port", "listen-port", "backlog"] {
        assert_eq!(findings(&told, check), Vec::<String>::new(), "{told}");
    }
    assert!([0, 1, 2].contains(&told.code), "{told}");
    drop(client);
    assert_eq!(old.wait(), 0);
    no_finding(&old, "shared-port");
    old.ctl("kill").code(0);
}

#[test]
fn too_many_sockets_in_time_wait_are_found() {
    private_network("a limit of its own", || {
        set("ipv4/tcp_max_tw_buckets", "2");
        let server = Server::named("a");
        let instance = on_own(&[&server.addr.to_string()]);
        let line = eventually("there are two, and more", || {
            let (client, _) = instance.named();
            drop(client);
            let told = instance.ctl("doctor");
            findings(&told, "time-wait").pop()
        });
        assert!(line.contains("are in TIME_WAIT, 2 are the limit"), "{line}");
        instance.end();
    });
}

#[test]
fn a_congestion_control_that_paces_loopback_is_found() {
    private_network("a congestion control of its own", || {
        match fs::write("/proc/sys/net/ipv4/tcp_congestion_control", "bbr") {
            Err(e) if e.kind() == ErrorKind::NotFound => {
                return eprintln!("LEFT OUT: this kernel has no bbr");
            }
            result => result.expect("a setting of our own network"),
        }
        let server = Server::named("a");
        let to = server.addr.to_string();
        let instance = on_own(&[&to]);
        let line = finding(&instance, "congestion");
        assert!(
            line.contains("1 channel on loopback") && line.contains("--loopback-congestion reno"),
            "{line}"
        );
        instance.end();
        let instance = on_own(&["--loopback-congestion", "reno", &to]);
        no_finding(&instance, "congestion");
        instance.end();
    });
}

#[test]
fn a_process_that_was_stopped_is_found() {
    let server = Server::named("a");
    let instance = on_own(&[&server.addr.to_string()]);
    instance.signal(Signal::STOP);
    // So long it could not run: there is nothing to wait for but the time.
    thread::sleep(Duration::from_millis(3_500));
    instance.signal(Signal::CONT);
    let line = eventually("it has seen that", || {
        let told = instance.ctl("doctor");
        findings(&told, "pauses").pop()
    });
    assert!(line.contains("could not run for more than a second") && line.contains("SIGSTOP"), "{line}");
    instance.end();
}

#[test]
fn a_program_that_was_replaced_is_found() {
    let server = Server::named("a");
    let directory = Directory::new();
    let copy = directory.path().join("balance");
    let at = own_address();
    let setup = Setup::binding(at)
        .shell(&format!("cp \"$0\" '{0}'; set -- -f \"$@\"; exec '{0}' \"$@\";", copy.display()));
    let instance =
        setup.start(["-b", &at.ip().to_string(), &at.port().to_string(), &server.addr.to_string()]);
    no_finding(&instance, "program");
    fs::remove_file(&copy).expect("our own copy");
    let line = finding(&instance, "program");
    assert!(line.contains("-c upgrade"), "{line}");
    instance.end();
}

#[test]
fn a_control_socket_that_is_open_to_all_is_found() {
    if super::harness::needs_root("a group that may control it") {
        return;
    }
    let server = Server::named("a");
    let instance = on_own(&["--control-group", "root", &server.addr.to_string()]);
    no_finding(&instance, "control-socket");
    let run = instance.directory.path().join("run");
    let names: Vec<_> = fs::read_dir(&run).expect("its directory").flatten().map(|one| one.path()).collect();
    let open = |mode| {
        names
            .iter()
            .for_each(|path| fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("ours"));
    };
    open(0o666);
    let line = finding(&instance, "control-socket");
    assert!(
        line.starts_with("broken ") && line.contains("every user of this host has full control"),
        "{line}"
    );
    let (_, cure) = line.split_once(". Do: ").expect("advice");
    Run::script(&instance.directory, cure).finish().code(0);
    no_finding(&instance, "control-socket");
    open(0o600);
    let line = finding(&instance, "control-socket");
    assert!(line.starts_with("advice ") && line.contains("mode 0600"), "{line}");
    instance.end();
}

#[test]
fn nobody_who_answers_is_broken_and_whoever_has_the_port_is_named() {
    let directory = Directory::new();
    let at = own_address();
    let port = at.port().to_string();
    let ask = |command: &str| {
        Run::balance(&directory).args(["-b", &at.ip().to_string(), "-c", command, &port]).finish()
    };
    let told = ask("doctor").code(2);
    assert!(told.stdout.starts_with("broken control-socket: no instance answers"), "{told}");
    assert_eq!(told.stdout.lines().count(), 1, "{told}");
    let _other = TcpListener::bind(at).expect("a free port");
    let told = ask("doctor").code(2);
    assert!(told.stdout.contains(&format!("listens on {at}")), "{told}");
    let answer: Value = serde_json::from_str(&ask("doctor json").code(2).stdout).expect("JSON");
    assert_eq!(answer["exit_code"], 2);
    // Other commands say what they always did.
    ask("show").code(69).out("");
}

#[test]
fn one_service_is_looked_at_alone_and_others_are_told_apart() {
    let server = Server::named("a");
    let (one, two) = (own_address(), own_address());
    let directory = Directory::new();
    let lines = format!(
        "good: -b {} {} {server}\nbad: -b {} {} {refusing}:1,disabled\n",
        one.ip(),
        one.port(),
        two.ip(),
        two.port(),
        server = server.addr,
        refusing = server.addr
    );
    let file = directory.file("lines", &lines);
    let instance = Setup::binding(one).within(directory).start(["--file", &file.display().to_string()]);
    let told = instance.ctl("doctor").code(2);
    assert!(told.stdout.starts_with("broken groups bad: "), "{told}");
    assert_eq!(findings(&instance.ctl("doctor good"), "groups"), Vec::<String>::new());
    assert_eq!(findings(&instance.ctl("doctor bad"), "groups").len(), 1);
    let answer: Value = serde_json::from_str(&instance.ctl("doctor bad json").code(2).stdout).expect("JSON");
    let first = &answer["findings"][0];
    assert_eq!((&first["check"], &first["service"]), (&"groups".into(), &"bad".into()), "{answer}");
    instance.ctl("doctor nobody").code(65);
    let error: Value =
        serde_json::from_str(&instance.ctl("doctor nobody json").code(65).stdout).expect("JSON");
    assert_eq!(error["answer"], "error");
    instance.end();
}
