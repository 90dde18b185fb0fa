//! Connections that lead back: to themselves, or to the instance that they come from.

use std::net::SocketAddr;

use crate::harness::{
    Client, Instance, Received, Run, Server, Setup, eventually, own_address, port_range, private_network,
};

/// Ends an instance whose connections ended within.
#[track_caller]
fn end(instance: Instance) {
    instance.await_show("nobody is left", |rows| rows.iter().all(|row| row.c == 0));
    instance.end();
}

/// Adds a channel in group 0 and enables it.
#[track_caller]
fn add(instance: &Instance, number: usize, channel: SocketAddr) {
    instance.ctl(&format!("create {} {}", channel.ip(), channel.port())).code(0).out("channel created\n");
    instance.ctl(&format!("enable {number}")).code(0);
}

#[test]
fn a_dial_that_connects_to_itself_was_refused() {
    private_network("a range of ports of its own", || {
        // One port for all connections: a dial to it, where nobody listens, can only meet itself.
        let dead = SocketAddr::from(([127, 0, 0, 1], 40_000));
        port_range(dead.port(), dead.port());
        let other = Server::at(([127, 0, 0, 2], 20_001).into(), |stream, _| Client(stream).send("b"));
        let setup = Setup::listening(([127, 0, 0, 1], 20_000).into());
        let instance = setup.start(["--no-eject", "PORT", &dead.to_string(), &other.addr.to_string()]);
        let mut client = Client::connect_by(20_100, instance.addr);
        assert_eq!(client.recv(1), b"b", "nobody is there, so it is the next one's turn");
        drop(client);
        instance.ctl("disable 1").code(0);
        let mut client = Client::connect_by(20_101, instance.addr);
        assert_eq!(client.ending(), Received::End, "and not its own echo");
        drop(client);
        let rows = instance.await_show("it is over", |rows| rows[0].c == 0);
        assert_eq!((rows[0].totalc, rows[0].sent, rows[0].rcvd), (2, 0, 0));
        // The port is free for the server that may come back.
        port_range(30_000, 39_999);
        let back = Server::at(dead, |stream, _| Client(stream).send("a"));
        assert_eq!(instance.names(1), "a");
        drop(back);
        end(instance);
    });
}

#[test]
fn a_channel_that_leads_back_gets_nobody() {
    let other = Server::named("b");
    let instance = Instance::before(&[&"--workers", &"2", &other]);
    add(&instance, 1, instance.addr);
    assert_eq!(instance.names(4), "bbbb", "those who would go round go to the next one");
    instance.ctl("disable 0").code(0);
    assert_eq!(instance.connect().ending(), Received::End);
    let rows = instance.await_show("it is over", |rows| rows[1].c == 0);
    assert_eq!((&rows[1].state[..], rows[0].totalc), ("ENA", 4), "nobody came back");
    let lines = || {
        let told = instance.told("dial_failed");
        told.iter().filter(|line| line.contains("is where this instance listens")).count()
    };
    assert_eq!(eventually("a line that says so", || Some(lines()).filter(|&n| n > 0)), 1);
    end(instance);
}

#[test]
fn a_service_whose_only_channel_leads_back_is_not_ready() {
    let instance = Instance::start(["PORT"]);
    add(&instance, 0, instance.addr);
    instance.ctl("ready").code(0);
    assert_eq!(instance.connect().ending(), Received::End);
    let why = "is where this instance listens; a channel that leads back needs a maxc";
    eventually("it is known by now", || {
        let ready = instance.ctl("ready");
        (ready.code == 69 && ready.stdout.contains(why)).then_some(())
    });
    let doctor = instance.ctl("doctor");
    assert!(doctor.stdout.contains("group 0 has no usable channel: channel 0"), "{}", doctor.stdout);
    // With a limit it is a channel like others.
    instance.ctl("maxc 0 2").code(0);
    instance.await_health(0, "up");
    end(instance);
}

#[test]
fn a_channel_that_leads_back_is_not_checked_by_clients_of_its_own_service() {
    let other = Server::named("b");
    let checks =
        ["--check", "expect:b", "--check-interval", "10ms", "--check-fall", "1", "--check-rise", "1", "PORT"];
    let instance = Instance::start(checks.into_iter().chain([&other.to_string()[..]]));
    add(&instance, 1, instance.addr);
    let down = instance.await_health(1, "down");
    let why =
        format!("{} is where this instance listens; a channel that leads back needs a maxc", instance.addr);
    assert!(down.why.contains(&why), "{}", down.why);
    let checked = other.accepted();
    eventually("the other one is checked", || (other.accepted() > checked + 10).then_some(()));
    let totals = || instance.show().iter().map(|row| row.totalc).sum::<u64>();
    assert_eq!(totals(), 0, "no check was a client");
    // A limit makes it finite, and then it is a channel like others.
    instance.ctl("maxc 1 4").code(0);
    instance.await_health(1, "up");
    assert!(totals() > 0);
    instance.ctl("maxc 1 0").code(0);
    instance.await_health(1, "down");
    end(instance);
}

#[test]
fn what_leads_back_by_an_address_of_this_host_is_not_checked_either() {
    private_network("an address of its own", || {
        Run::new("ip").args(["addr", "add", "10.9.9.9/32", "dev", "lo"]).finish().code(0);
        let address = SocketAddr::from(([10, 9, 9, 9], 20_000));
        let other = Server::named_on([127, 0, 0, 1], "b");
        let setup = Setup::listening(([0, 0, 0, 0], address.port()).into());
        let checks = ["--check", "tcp", "--check-interval", "10ms", "--check-fall", "1", "PORT"];
        let instance = setup.start(checks.into_iter().chain([&other.to_string()[..]]));
        add(&instance, 1, address);
        instance.await_health(1, "down");
        let checked = other.accepted();
        eventually("the other one is checked", || (other.accepted() > checked + 10).then_some(()));
        assert_eq!(instance.show().iter().map(|row| row.totalc).sum::<u64>(), 0);
        end(instance);
    });
}

#[test]
fn what_leads_back_by_an_address_of_this_host_is_found_out() {
    private_network("an address of its own", || {
        Run::new("ip").args(["addr", "add", "10.9.9.9/32", "dev", "lo"]).finish().code(0);
        for options in [&[][..], &["-B", "127.0.0.7"]] {
            let address = SocketAddr::from(([10, 9, 9, 9], 20_000));
            let setup = Setup::listening(([0, 0, 0, 0], address.port()).into());
            let instance = setup.start(options.iter().copied().chain(["PORT"]));
            add(&instance, 0, address);
            for _ in 0..3 {
                let mut client = Client::connect(address);
                assert_eq!(client.ending(), Received::End, "{options:?}");
            }
            // The first one may be let in once before it is found out.
            let rows = instance.await_show("it is over", |rows| rows[0].c == 0);
            assert!((3..=4).contains(&rows[0].totalc), "{options:?}: {rows:?}");
            end(instance);
        }
    });
}

#[test]
fn a_limit_makes_a_way_round_finite_as_in_the_manual() {
    let address = own_address();
    let server = Server::named("s");
    let port = address.port();
    let back = |maxc: u32| format!("{}:{port}:{maxc}", address.ip());
    let args = ["-b", &address.ip().to_string(), "PORT"].map(String::from);
    let channels =
        [back(12), "!".into(), back(4), "!".into(), back(2), back(2), "!".into(), server.to_string()];
    let instance = Setup::binding(address).start(args.into_iter().chain(channels));
    let (client, name) = instance.named();
    assert_eq!(name, "s", "twenty times round, and then to the server");
    let rows =
        instance.await_show("all of it stands", |rows| rows.iter().map(|row| row.c).sum::<i64>() == 21);
    assert_eq!(rows.iter().map(|row| row.c).collect::<Vec<_>>(), [12, 4, 2, 2, 1]);
    drop(client);
    end(instance);
}

/// What an instance warned of before it served.
#[track_caller]
fn warned(setup: Setup, args: &[&str]) -> Vec<String> {
    let instance = setup.start(args);
    let lines = instance.stderr().lines().filter(|line| line.contains("leads ")).map(String::from).collect();
    instance.end();
    lines
}

#[test]
fn a_channel_that_leads_back_is_said_at_the_start() {
    let server = Server::named("s");
    let server = server.to_string();
    let warning = |group: usize, channel: usize, address: &str| {
        format!(
            "event=note text=\"channel {channel} of group {group} leads back to this service ({address}): without a \
             maxc balance does not connect to it\""
        )
    };
    // Behind one address, and behind a wildcard of either kind.
    for (listen, channel, leads) in [
        ([127, 0, 0, 1].into(), "127.0.0.1", true),
        ([127, 0, 0, 1].into(), "localhost", true),
        ([127, 0, 0, 1].into(), "0.0.0.0", true),
        ([127, 0, 0, 1].into(), "127.0.0.2", false),
        ([0, 0, 0, 0].into(), "127.9.9.9", true),
        (std::net::IpAddr::from([0; 16]), "127.0.0.1", true),
    ] {
        let setup = || Setup::listening((listen, 0).into());
        let lines = warned(setup(), &["PORT", &server, "!", "127.0.0.1:1", channel]);
        assert_eq!(lines.len(), usize::from(leads), "{channel} behind {listen}: {lines:?}");
        let of_channel = |line: &String| line.contains("channel 1 of group 1 leads back to this service (");
        assert!(lines.iter().all(of_channel), "{channel} behind {listen}: {lines:?}");
        assert_eq!(warned(setup(), &["PORT", &server, &format!("{channel}::4")]), [""; 0], "{channel}");
    }
    let address = own_address();
    let (ip, port) = (address.ip().to_string(), address.port().to_string());
    let lines = warned(Setup::binding(address), &["-b", &ip, &port, &ip, &server]);
    let [line] = &lines[..] else { panic!("{lines:?}") };
    assert!(line.contains(&warning(0, 0, &address.to_string())), "{line}");
}

#[test]
fn an_address_of_an_interface_is_known_at_the_start() {
    private_network("an address of its own", || {
        Run::new("ip").args(["addr", "add", "10.9.9.9/32", "dev", "lo"]).finish().code(0);
        Run::new("ip").args(["route", "add", "default", "dev", "lo"]).finish().code(0);
        let setup = || Setup::listening(([0, 0, 0, 0], 20_000).into());
        let lines = warned(setup(), &["PORT", "10.9.9.8", "10.9.9.9", "10.9.9.9:20001"]);
        let [line] = &lines[..] else { panic!("{lines:?}") };
        assert!(line.contains("channel 1 of group 0 leads back to this service (10.9.9.9:20000)"), "{line}");
    });
}

#[test]
fn a_circle_through_other_services_of_the_process_is_said_at_the_start() {
    let server = Server::named("s");
    let [first, second, third] = [(); 3].map(|()| own_address());
    let start = |maxc: &str| {
        let setup = Setup::binding(first);
        let line = |address: SocketAddr| format!("-b {} {}", address.ip(), address.port());
        // The third one leads into the circle, but nothing leads to it.
        let text = format!(
            "front: {} {second}\n{} {first}{maxc} {server}\n{} {first}\n",
            line(first),
            line(second),
            line(third)
        );
        let file = setup.directory().file("services", &text);
        warned(setup, &["--file", &file.display().to_string()])
    };
    let lines = start("");
    let [one, other] = &lines[..] else { panic!("{lines:?}") };
    let rest =
        "which leads back here: if no channel on the way has a maxc, a client is connected there only once\"";
    let way = format!(
        "event=note service=front text=\"channel 0 of group 0 leads to the service on {second} ({second}), {rest}"
    );
    assert!(one.contains(&way), "{one}");
    let way = format!(
        "event=note service={second} text=\"channel 0 of group 0 leads to service front ({first}), {rest}"
    );
    assert!(other.contains(&way), "{other}");
    assert_eq!(start(":4"), [""; 0], "a limit anywhere makes it finite");
}

#[test]
fn a_client_that_comes_round_through_another_service_goes_to_the_next_channel() {
    let server = Server::named("s");
    let (first, second) = (own_address(), own_address());
    let start = |last: &str| {
        let setup = Setup::binding(first);
        let [one, other] = [first, second].map(|address| format!("-b {} {}", address.ip(), address.port()));
        let file = setup.directory().file("services", &format!("{one} {second}\n{other} {first} {last}\n"));
        setup.start(["--file", &file.display().to_string()])
    };
    let instance = start(&server.to_string());
    let before = instance.descriptors();
    let mut clients: Vec<_> = (0..10).map(|_| Client::connect(first)).collect();
    for client in &mut clients {
        client.send("x");
        assert_eq!(client.recv(1), b"s");
    }
    // Three connections each, and two descriptors for each connection but the server's own.
    assert!(instance.descriptors() <= before + 10 * 2 * 2 + 4, "nobody went round");
    assert_eq!(instance.told("ejected"), [""; 0], "no channel is to blame");
    drop(clients);
    eventually("all is given back", || (instance.descriptors() <= before + 4).then_some(()));
    instance.terminate();
    // With nothing but the circle, a client gets nothing, and costs nothing.
    let instance = start("");
    let before = instance.descriptors();
    let _ = Client::connect(first).ending();
    eventually("all is given back", || (instance.descriptors() <= before + 4).then_some(()));
    instance.terminate();
}
