//! Who is let in: lists, what operators deny, the limits per client; seen from outside.
//!
//! Source: docs/access.md.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use crate::harness::{BALANCE, Client, Directory, Instance, Received, Run, Server, Setup, eventually};

fn from(last: u8) -> IpAddr {
    Ipv4Addr::new(127, 7, 7, last).into()
}

/// A client that comes from there, if it is let in: it has got the name of its server.
fn come(instance: &Instance, from: IpAddr) -> Option<Client> {
    let mut client = match Client::try_connect(instance.addr, Some(from), None) {
        Err(e) if e.kind() == ErrorKind::ConnectionReset => return None,
        client => client.expect("a connection"),
    };
    let mut name = [0; 1];
    match client.read(&mut name) {
        Ok(1) => Some(client),
        Ok(_) => panic!("{from}: a clean end"),
        Err(e) if e.kind() == ErrorKind::ConnectionReset => None,
        Err(e) => panic!("{from}: {e}"),
    }
}

#[track_caller]
fn assert_let_in(instance: &Instance, who: &[(u8, bool)]) {
    for &(last, is_let_in) in who {
        assert_eq!(come(instance, from(last)).is_some(), is_let_in, "{}", from(last));
    }
}

/// How many ended like this.
fn ended(instance: &Instance, how: &str) -> u64 {
    let status = instance.ctl("status").code(0).stdout;
    let counted = status.split_once(&format!("{how} ")).map(|(_, rest)| rest);
    let digits = counted.and_then(|rest| rest.split(|c: char| !c.is_ascii_digit()).next());
    digits.map_or(0, |digits| digits.parse().expect("a number"))
}

#[test]
fn lists_say_who_may_come_and_those_who_may_not_get_a_reset_and_are_counted() {
    let directory = Directory::new();
    let bad = directory.file("bad", "# ours\n127.7.7.2\n127.7.7.8/29 ; a few\n\n").display().to_string();
    let log = directory.path().join("log");
    let a = Server::named("a");
    let setup = Setup::new().within(directory);
    let deny = format!("127.7.7.3,{bad}");
    let instance = setup.start([
        "--allow",
        "127.7.0.0/16,::ffff:127.7.7.9",
        "--deny",
        &deny,
        "--access-log",
        &log.display().to_string(),
        "PORT",
        &a.to_string(),
    ]);
    assert_let_in(
        &instance,
        &[(1, true), (2, false), (3, false), (4, true), (8, false), (9, true), (15, false)],
    );
    assert!(come(&instance, Ipv4Addr::new(127, 8, 0, 1).into()).is_none(), "it is in no list");
    for _ in 0..50 {
        assert!(come(&instance, from(2)).is_none());
    }
    a.await_idle();
    assert_eq!(a.accepted(), 3, "nobody was dialled for the others");
    assert_eq!(ended(&instance, "refused: denied"), 55);
    assert_eq!(instance.losses(), "", "they are not lost");
    let told = instance.told("clients_refused");
    assert_eq!(told.len(), 1, "{told:?}");
    // Of the first ones, whichever a worker came to tell of first.
    let is_of = |n: u8| told[0].contains(&format!(r#"clients=1 last=127.7.7.{n} reason="refused: denied""#));
    assert!([2, 3, 8, 15].into_iter().any(is_of), "{told:?}");
    let last = instance.ctl("ended").code(0).stdout;
    let is_told = |line: &str| line.contains(" 127.7.7.2:") && line.ends_with(" refused: denied");
    assert!(last.lines().any(is_told), "{last}");
    let lines = || std::fs::read_to_string(&log).unwrap_or_default();
    eventually("all lines of the access log", || {
        (lines().lines().count() == 58 && lines().ends_with('\n')).then_some(())
    });
    assert_eq!(lines().matches(r#"end="refused: denied""#).count(), 55, "{}", lines());
    let json = instance.ctl("status json").code(0).stdout;
    assert!(json.contains(r#""refused: denied":55"#), "{json}");
    instance.end();
}

#[test]
fn a_file_is_read_again_when_it_changes_and_a_wrong_line_changes_nothing() {
    let directory = Directory::new();
    let bad = directory.file("bad", "127.7.7.2\n");
    // In one step: half a file might be read, and told of.
    let new = directory.path().join("new");
    let write = |text: &str| {
        std::fs::write(&new, text).and_then(|()| std::fs::rename(&new, &bad)).expect("ours");
    };
    let a = Server::named("a");
    let mut instance =
        Setup::new().within(directory).start(["--deny", &bad.display().to_string(), "PORT", &a.to_string()]);
    assert_let_in(&instance, &[(1, true), (2, false)]);
    write("127.7.7.1\n");
    eventually("the new list", || come(&instance, from(1)).is_none().then_some(()));
    assert_let_in(&instance, &[(1, false), (2, true)]);
    write("127.7.7.2\n127.7.7.0/24 # wrong it is not\n 127.7.7.1/24\n");
    let wrong =
        format!("{}:3:2: '127.7.7.1/24' has bits set behind its prefix; write 127.7.7.0/24", bad.display());
    eventually("word of it", || instance.stderr().contains(&wrong).then_some(()));
    assert_let_in(&instance, &[(1, false), (2, true)]);
    let status = instance.ctl("status").code(0).stdout;
    assert!(status.contains(&format!("\nlists: {wrong}")), "{status}");
    let doctor = instance.ctl("doctor").stdout;
    assert!(doctor.contains("balance uses an older version of the file"), "{doctor}");
    let refused = instance.ctl("reload").code(78).stdout;
    assert!(refused.contains(&wrong) && refused.contains("nothing was changed"), "{refused}");
    assert_let_in(&instance, &[(1, false), (2, true)]);
    write("127.7.7.3\n127.7.7.4\n");
    // At once, and even where there is no file of services.
    let told = instance.ctl("reload").code(0).stdout;
    assert!(
        told.contains("files of --allow and --deny have changed: 2 networks")
            || told.contains("nothing has changed"),
        "{told}"
    );
    assert_let_in(&instance, &[(1, true), (2, true), (3, false), (4, false)]);
    let status = instance.ctl("status").code(0).stdout;
    assert!(!status.contains("lists:"), "{status}");
    std::fs::remove_file(&bad).expect("ours");
    eventually("word of that", || instance.stderr().contains("bad: cannot be read: ").then_some(()));
    assert_let_in(&instance, &[(1, true), (3, false)]);
    let stays = instance.ctl("upgrade").code(69).stdout;
    assert!(stays.contains("bad: cannot be read: "), "{stays}");
    assert_let_in(&instance, &[(1, true), (3, false)]);
    write("127.7.7.5\n");
    instance.signal(rustix::process::Signal::HUP);
    eventually("a signal is a reload", || come(&instance, from(5)).is_none().then_some(()));
    instance.upgrade();
    assert_let_in(&instance, &[(1, true), (3, true), (5, false)]);
    write("127.7.7.6\n");
    eventually("the new process looks, too", || come(&instance, from(6)).is_none().then_some(()));
    instance.end();
}

#[test]
fn a_list_that_is_wrong_starts_nothing_and_says_where() {
    let directory = Directory::new();
    let bad = directory.file("bad", "127.7.7.2\nlocalhost\n").display().to_string();
    let missing = directory.path().join("missing").display().to_string();
    for (args, code, why) in [
        (
            ["--deny", &bad],
            78,
            format!("{bad}:2:1: 'localhost' is not an address or a network; give one like 192.0.2.7"),
        ),
        (["--allow", &missing], 78, format!("{missing}: cannot be read: No such file")),
        (
            ["--allow", "10.0.0.1/8"],
            64,
            "--allow '10.0.0.1/8' has bits set behind its prefix; write 10.0.0.0/8".to_owned(),
        ),
        (["--deny", "bad.txt"], 64, "--deny 'bad.txt' is not an address or a network".to_owned()),
        (
            ["--client-rate", "10"],
            64,
            "--client-rate '10' is not a number of connections and a time, as in 10/10s".to_owned(),
        ),
        (["--client-max", "x"], 64, "--client-max 'x' is not a number".to_owned()),
        (["--client-prefix", "24,56"], 64, "--client-prefix needs --client-max or --client-rate".to_owned()),
    ] {
        Run::balance(&directory)
            .args(["-f"])
            .args(args)
            .args(["1", "127.0.0.1:1"])
            .finish()
            .code(code)
            .err(&why);
    }
}

#[test]
fn an_operator_denies_a_network_for_a_while_and_closes_its_connections() {
    let a = Server::named("a");
    let instance = Instance::before(&[&"--queue", &"5", &"--queue-timeout", &"1m", &format!("{a}:2")]);
    let says = |command: &str, code, text: &str| _ = instance.ctl(command).code(code).out(text);
    let mut mine = come(&instance, from(1)).expect("served");
    let other = come(&instance, from(2)).expect("served");
    let mut waits = Client::connect_from(from(1), instance.addr);
    eventually("it waits", || (instance.status()[0].queue == 1).then_some(()));
    says("deny 127.7.7.1 10m kick", 0, "127.7.7.1 denied for 10m, 2 connections closed\n");
    assert!(matches!(mine.ending(), Received::End | Received::Reset));
    assert!(matches!(waits.ending(), Received::End | Received::Reset));
    eventually("one is left", || (instance.show()[0].c == 1).then_some(()));
    assert_let_in(&instance, &[(1, false), (3, true)]);
    assert!(other.is_quiet_for(Duration::from_millis(50)), "it lives on");
    says("deny 127.7.7.0/24", 0, "127.7.7.0/24 denied\n");
    assert_let_in(&instance, &[(1, false), (3, false)]);
    let list = instance.ctl("denied").code(0).stdout;
    let rows: Vec<Vec<&str>> = list.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(
        (&rows[0][..], &rows[1][..], rows.len()),
        (&["left", "network"][..], &["-", "127.7.7.0/24"][..], 3),
        "{list}"
    );
    assert!(
        rows[2] == ["10m00s", "127.7.7.1"] || (rows[2][0].starts_with("9m5") && rows[2][1] == "127.7.7.1"),
        "{list}"
    );
    says("undeny 127.7.7.0/24", 0, "127.7.7.0/24 not denied any more\n");
    says(
        "undeny 127.7.7.0/24",
        65,
        "127.7.7.0/24 was not denied by the command deny; denied lists what was\n",
    );
    assert_let_in(&instance, &[(1, false), (3, true)]);
    // What is said last holds.
    says("deny 127.7.7.1 200ms", 0, "127.7.7.1 denied for 200ms\n");
    eventually("its time is over", || come(&instance, from(1)));
    says("denied", 0, "    left network\n");
    // An address and a prefix, as programs know them, are the network around it.
    says("deny 2001:db8::5/64", 0, "2001:db8::/64 denied\n");
    says("undeny 2001:db8::7/64", 0, "2001:db8::/64 not denied any more\n");
    says(
        "deny 10.0.0.1/33",
        65,
        "10.0.0.1/33 is not an address or a network; give one like 192.0.2.7, 192.0.2.0/24 or 2001:db8::/32\n",
    );
    drop(other);
    instance.end();
}

#[test]
fn what_is_denied_survives_reload_upgrade_and_restart_and_all_means_every_service() {
    let a = Server::named("a");
    let directory = Directory::new();
    let [services, state] =
        ["services", "state"].map(|name| directory.path().join(name).display().to_string());
    let (one, other) = (crate::harness::own_address(), crate::harness::own_address());
    let line = |name: &str, at: SocketAddr| format!("{name}: -b {} {} {a}\n", at.ip(), at.port());
    directory.file("services", &(line("one", one) + &line("other", other)));
    let args = ["--file", &services, "--state", &state];
    let mut instance = Setup::binding(one).within(directory).start(args);
    let comes = |to: SocketAddr| {
        let client = Client::try_connect(to, Some(from(1)), None);
        client.is_ok_and(|mut client| client.read(&mut [0]).is_ok_and(|n| n == 1))
    };
    assert!(comes(one) && comes(other));
    instance.ctl("deny 127.7.7.1 1h").code(0);
    assert!(!comes(one) && comes(other), "this service only");
    instance.ctl("deny 127.7.7.1 1h all").code(0);
    instance.ctl("deny 127.7.7.2").code(0);
    let holds = |instance: &Instance| {
        assert!(!comes(one) && !comes(other));
        let list = instance.ctl("denied all").code(0).stdout;
        let rows: Vec<Vec<&str>> =
            list.lines().skip(1).map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(rows.len(), 3, "{list}");
        assert!(rows[0][0] == "one" && rows[0][2] == "127.7.7.1", "{list}");
        assert!(["1h00m", "59m"].iter().any(|left| rows[0][1].starts_with(left)), "{list}");
        assert_eq!(rows[1], ["one", "-", "127.7.7.2"], "{list}");
        assert!(rows[2][0] == "other" && rows[2][2] == "127.7.7.1", "{list}");
    };
    holds(&instance);
    instance.ctl("reload").code(0);
    holds(&instance);
    instance.upgrade();
    holds(&instance);
    eventually("it is kept", || {
        let text = std::fs::read_to_string(&state).unwrap_or_default();
        (text.matches("\ndenied 127.7.7.").count() == 3).then_some(())
    });
    let directory = std::mem::replace(&mut instance.directory, Directory::new());
    instance.signal(rustix::process::Signal::KILL);
    instance.wait();
    let instance = Setup::binding(one).within(directory).start(args);
    holds(&instance);
    instance.ctl("reload clean").code(0);
    assert!(comes(one) && comes(other), "that drops what was changed by hand");
    instance.end();
}

#[test]
fn a_client_has_so_many_connections_at_a_time_wherever_they_are_and_whoever_serves_it() {
    let a = Server::named("a");
    let args = [
        "--workers",
        "2",
        "--client-max",
        "3",
        "--queue",
        "9",
        "--queue-timeout",
        "1m",
        "PORT",
        &format!("{a}:2"),
    ];
    let mut instance = Instance::start(args);
    let full = |instance: &Instance| {
        for _ in 0..5 {
            assert!(come(instance, from(1)).is_none(), "a fourth one");
        }
    };
    let mut held: Vec<Client> = (0..2).map(|_| come(&instance, from(1)).expect("below the limit")).collect();
    let waits = Client::connect_from(from(1), instance.addr);
    eventually("it waits", || (instance.status()[0].queue == 1).then_some(()));
    full(&instance);
    assert_eq!(ended(&instance, "refused: client max"), 5);
    for carried in ["carried 3", "carried 3"] {
        let told = instance.upgrade();
        assert!(told.contains(carried), "{told}");
        full(&instance);
    }
    assert_eq!(ended(&instance, "refused: client max"), 15);
    drop(held.pop());
    // The one that waited has its place, and there is one for a third.
    let mut waited = waits;
    assert_eq!(waited.recv(1), b"a");
    let another = Client::connect_from(from(1), instance.addr);
    eventually("it waits", || (instance.status()[0].queue == 1).then_some(()));
    full(&instance);
    drop((held, waited, another));
    instance.await_show("all have gone", |rows| rows[0].c == 0);
    let held: Vec<Client> =
        (0..2).map(|_| come(&instance, from(1)).expect("all places are free again")).collect();
    drop(held);
    instance.end();
}

#[test]
fn a_limit_that_comes_with_a_reload_counts_who_is_there_already() {
    let a = Server::named("a");
    let directory = Directory::new();
    let at = crate::harness::own_address();
    let write = |directory: &Directory, options: &str| {
        directory.file("services", &format!("one: -b {} {options} {} {a}\n", at.ip(), at.port()))
    };
    let services = write(&directory, "").display().to_string();
    let instance = Setup::binding(at).within(directory).start(["--workers", "2", "--file", &services]);
    let held: Vec<Client> = (0..4).map(|_| come(&instance, from(1)).expect("no limit")).collect();
    write(&instance.directory, "--client-max 5");
    instance.ctl("reload").code(0);
    let fifth = eventually("there is a limit", || {
        let fifth = come(&instance, from(1));
        come(&instance, from(1)).is_none().then_some(fifth)
    });
    assert!(fifth.is_some(), "four were there");
    assert!(come(&instance, from(2)).is_some(), "another client");
    // Of all of the network.
    write(&instance.directory, "--client-max 5 --client-prefix 24,64");
    instance.ctl("reload").code(0);
    eventually("its neighbours are the same client", || come(&instance, from(2)).is_none().then_some(()));
    drop((held, fifth));
    instance.await_show("all have gone", |rows| rows[0].c == 0);
    let free = |last| eventually("a free place", || come(&instance, from(last)));
    let held: Vec<Client> = (1..=5).map(free).collect();
    assert!(come(&instance, from(6)).is_none());
    write(&instance.directory, "");
    instance.ctl("reload").code(0);
    assert!(come(&instance, from(1)).is_some(), "no limit any more");
    drop(held);
    instance.end();
}

#[test]
fn a_client_opens_so_many_connections_in_a_time_and_no_other_pays_for_it() {
    let a = Server::named("a");
    let instance = Instance::before(&[&"--client-rate", &"5/1h", &a]);
    let comes = |last: u8| come(&instance, from(last)).is_some();
    assert_eq!((0..20).filter(|_| comes(1)).count(), 5);
    assert_eq!((0..7).filter(|_| comes(2)).count(), 5);
    assert_eq!(ended(&instance, "refused: client rate"), 17);
    assert!((10..60).all(comes));
    assert!(!comes(1) && !comes(2));
    let command_line = instance.ctl("save").code(0).stdout;
    assert!(command_line.contains(" --client-rate 5/1h "), "{command_line}");
    instance.end();
    // One place comes back after each part of the time.
    let instance = Instance::before(&[&"--client-rate", &"4/2s", &a]);
    while come(&instance, from(1)).is_some() {}
    eventually("its next turn", || come(&instance, from(1)));
    instance.end();
}

#[test]
fn an_ipv6_client_is_a_64_and_an_ipv4_client_of_an_ipv6_service_is_ipv4() {
    let a = Server::named("a");
    let everywhere = SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, 0));
    let args = ["-6", "--client-max", "1", "--deny", "127.7.7.0/24", "PORT", &a.to_string()];
    let mut instance = Setup::listening(everywhere).start(args);
    instance.addr = SocketAddr::from(([127, 7, 6, 1], instance.addr.port()));
    assert!(come(&instance, from(1)).is_none());
    let held = come(&instance, Ipv4Addr::new(127, 7, 6, 2).into()).expect("the first");
    assert!(come(&instance, Ipv4Addr::new(127, 7, 6, 2).into()).is_none(), "the second");
    let sessions = instance.ctl("sessions").code(0).stdout;
    assert!(sessions.contains("127.7.6.2"), "{sessions}");
    instance.ctl("deny ::/0").code(0);
    assert!(come(&instance, Ipv4Addr::new(127, 7, 6, 3).into()).is_some(), "that is for IPv6");
    instance.ctl("deny ::ffff:127.7.6.0/120 kick").code(0).out("127.7.6.0/24 denied, 1 connection closed\n");
    assert!(come(&instance, Ipv4Addr::new(127, 7, 6, 3).into()).is_none());
    drop(held);
    instance.end();
}

/// A client that comes by a proxy is the one that the proxy announces.
#[test]
fn rules_are_for_the_client_that_a_proxy_announces() {
    let a = Server::named("a");
    let mut instance = Instance::start([
        "--accept-proxy",
        "127.7.7.1",
        "--deny",
        "127.7.7.0/24,192.0.2.7",
        "--client-max",
        "2",
        "PORT",
        &a.to_string(),
    ]);
    let by_proxy = |instance: &Instance, client: &str| {
        let mut proxy = Client::connect_from(from(1), instance.addr);
        proxy.send(format!("PROXY TCP4 {client} 192.0.2.1 1000 80\r\n"));
        match proxy.read(&mut [0]) {
            Ok(1) => Some(proxy),
            Err(e) if e.kind() == ErrorKind::ConnectionReset => None,
            other => panic!("{client}: {other:?}"),
        }
    };
    assert!(come(&instance, from(2)).is_none(), "it announces nobody, and is denied itself");
    assert!(by_proxy(&instance, "192.0.2.7").is_none(), "the one it announces is denied");
    let held = [(); 2].map(|()| by_proxy(&instance, "192.0.2.8").expect("let in"));
    assert!(by_proxy(&instance, "192.0.2.8").is_none(), "a third one");
    assert!(by_proxy(&instance, "192.0.2.9").is_some(), "another client of the same proxy");
    let ended = instance.ctl("ended").code(0).stdout;
    assert!(ended.contains("refused: denied") && ended.contains("refused: client max"), "{ended}");
    assert!(ended.contains("192.0.2.7:1000"), "{ended}");
    let told = instance.upgrade();
    assert!(told.contains("carried 2"), "{told}");
    assert!(by_proxy(&instance, "192.0.2.8").is_none(), "they count on");
    instance.ctl("deny 192.0.2.8 kick").code(0).out("192.0.2.8 denied, 2 connections closed\n");
    for mut client in held {
        assert!(matches!(client.ending(), Received::End | Received::Reset));
    }
    instance.end();
}

/// The action that is shipped, driven by the real program.
#[test]
fn fail2ban_bans_by_one_line() {
    if !crate::http::has("fail2ban-server") {
        return;
    }
    let directory = Directory::new();
    let a = Server::named("a");
    let instance = Setup::new().start(["PORT", &a.to_string()]);
    let path = |name: &str| directory.path().join(name).display().to_string();
    for inside in ["action.d", "filter.d", "jail.d"] {
        std::fs::create_dir(directory.path().join(inside)).expect("a directory");
    }
    let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/dist/fail2ban-balance.conf");
    std::fs::copy(shipped, directory.path().join("action.d/balance.conf")).expect("it is shipped");
    directory.file(
        "filter.d/shop.conf",
        "[Definition]\nfailregex = ^ login failed from <HOST>$\ndatepattern = ^EPOCH\n",
    );
    let log = directory.file("shop.log", "");
    let fail2ban = "[Definition]\nloglevel = INFO\nlogtarget = STDOUT\nsyslogsocket = auto\ndbfile = None\ndbpurgeage = 1d\ndbmaxmatches = 1\n";
    directory.file("fail2ban.conf", fail2ban);
    let run_dir = instance.directory.path().join("run");
    // Every second call is answered as while another process takes over.
    let busy = directory.path().join("busy");
    let wrapper = format!(
        "if mkdir '{0}' 2>/dev/null; then exit 75; fi; rmdir '{0}'; exec '{BALANCE}' \"$@\"\n",
        busy.display()
    );
    let wrapper = directory.file("wrapper", &wrapper);
    let program = format!("env BALANCE_RUN_DIR={} sh {}", run_dir.display(), wrapper.display());
    let jail = format!(
        "[shop]\nenabled = true\nbackend = polling\nfilter = shop\nlogpath = {}\nmaxretry = 2\nfindtime = 1h\nbantime = 1h\nusedns = no\nignoreself = false\n\
         action = balance[program=\"{program}\", service=\"{}\", all=all, bind=\"-b {}\"]\n",
        log.display(),
        instance.port(),
        instance.addr.ip(),
    );
    directory.file("jail.conf", &jail);
    let common =
        ["-c", &path(""), "-s", &path("sock"), "-p", &path("pid"), "--pname", "t"].map(str::to_owned);
    let ask = |words: &[&str]| {
        let run = Run::new("fail2ban-client").args(&common[..6]).args(words);
        run.within(Duration::from_secs(30)).finish()
    };
    let mut server = std::process::Command::new("fail2ban-server");
    server.args(&common[..6]).args(["-f", "start"]).stdin(std::process::Stdio::null());
    server.stdout(std::fs::File::create(directory.path().join("out")).expect("a file"));
    server.stderr(std::fs::File::create(directory.path().join("err")).expect("a file"));
    let mut server = server.spawn().expect("fail2ban is installed");
    let out = || {
        std::fs::read_to_string(path("out")).unwrap_or_default()
            + &std::fs::read_to_string(path("err")).unwrap_or_default()
    };
    eventually("fail2ban watches", || out().contains("Jail 'shop' started").then_some(()));
    assert!(come(&instance, from(9)).is_some());
    let held = come(&instance, from(9)).expect("served");
    let now =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs();
    let line = format!("{now} login failed from 127.7.7.9\n").repeat(2);
    std::io::Write::write_all(
        &mut std::fs::OpenOptions::new().append(true).open(&log).expect("ours"),
        line.as_bytes(),
    )
    .expect("written");
    eventually("fail2ban acts", || out().contains("Ban 127.7.7.9").then_some(()));
    eventually("the ban, or an error", || {
        let is_denied = instance.ctl("denied").code(0).stdout.contains("127.7.7.9");
        (is_denied || out().contains("ERROR")).then_some(())
    });
    assert!(come(&instance, from(9)).is_none(), "{}", out());
    let mut held = held;
    assert!(matches!(held.ending(), Received::End | Received::Reset), "its connections are closed");
    let unbanned = ask(&["unban", "127.7.7.9"]).code(0).stdout;
    assert_eq!(unbanned.trim(), "1");
    assert!(come(&instance, from(9)).is_some(), "{}", out());
    ask(&["stop"]).code(0);
    server.wait().expect("it ends");
    drop(held);
    instance.end();
}

#[test]
fn the_rest_of_a_flood_is_told_though_nobody_comes_any_more() {
    let a = Server::named("a");
    let instance = Instance::start(["--deny", "127.7.7.3", "PORT", &a.to_string()]);
    for _ in 0..4 {
        assert!(come(&instance, from(3)).is_none());
    }
    // One line a minute, so this takes as long.
    let begin = Instant::now();
    let told = loop {
        let told = instance.told("clients_refused");
        if told.len() > 1 || begin.elapsed() > Duration::from_secs(120) {
            break told;
        }
        std::thread::sleep(Duration::from_millis(200));
    };
    let of = |line: &String| {
        let word = line.split_whitespace().find_map(|word| word.strip_prefix("clients="));
        word.and_then(|word| word.parse::<u32>().ok()).expect("a number")
    };
    // Which of them were told first is up to the workers.
    assert_eq!((told.len(), told.iter().map(of).sum::<u32>()), (2, 4), "{told:?}");
    instance.end();
}
