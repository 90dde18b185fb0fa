//! Configuration files that are read again while clients are served: `reload`, SIGHUP.
//!
//! Source: docs/reload.md.

use std::net::SocketAddr;

use rustix::process::Signal;

use crate::harness::{
    Client, Direction, Directory, Finished, Instance, Refusing, Run, Server, Setup, Stream, eventually,
    own_address,
};

/// An instance that was started with one file, and the way to write another one.
struct Filed {
    instance: Instance,
    listen: SocketAddr,
}

impl Filed {
    /// `LISTEN` in the text is where the first service listens.
    #[track_caller]
    fn start(text: &str) -> Self {
        let listen = own_address();
        let setup = Setup::binding(listen);
        let file = setup.directory().file("services", &filled(text, listen));
        let instance = setup.start(["--file".to_owned(), file.display().to_string()]);
        Self { instance, listen }
    }

    fn write(&self, text: &str) {
        self.instance.directory.file("services", &filled(text, self.listen));
    }

    /// Writes the file and has it read again.
    #[track_caller]
    fn reload(&self, text: &str) -> Finished {
        self.write(text);
        self.instance.ctl("reload")
    }

    fn name(&self) -> String {
        name_at(self.listen)
    }
}

fn filled(text: &str, listen: SocketAddr) -> String {
    text.replace("LISTEN", &format!("-b {} {}", listen.ip(), listen.port()))
}

fn line(name: &str, at: SocketAddr, rest: &str) -> String {
    format!("{name}-b {} {} {rest}\n", at.ip(), at.port())
}

/// The name of the server behind a service.
fn name_at(address: SocketAddr) -> String {
    String::from_utf8(Client::connect(address).recv(1)).expect("a letter")
}

#[test]
fn nothing_that_has_not_changed_is_touched() {
    let (a, b) = (Server::echo(), Server::echo());
    let text = format!("web: LISTEN -T 60 {a} {b} # the two\n");
    let filed = Filed::start(&text);
    let mut clients: Vec<Client> = (0..4).map(|_| filed.instance.connect()).collect();
    let stream = Stream::new(3, Direction::Sent);
    let mut serve = |from: u64| {
        for client in &mut clients {
            client.send(stream.bytes(from, 10_000));
            stream.check(from, &client.recv(10_000));
        }
    };
    serve(0);
    let before = filed.instance.show();
    filed.reload(&text).code(0).out("nothing has changed\n");
    // Spelled otherwise it is the same.
    filed
        .reload(&text.replace("-T 60", "-T 1m").replace("# the two", ""))
        .code(0)
        .out("nothing has changed\n");
    serve(10_000);
    let after = filed.instance.show();
    assert_eq!(before.len(), after.len());
    for (before, after) in before.iter().zip(&after) {
        assert_eq!((&before.address, before.c, before.totalc), (&after.address, after.c, after.totalc));
        assert!(after.sent > before.sent, "its counters go on");
    }
    drop(clients);
    filed.instance.end();
}

#[test]
fn channels_come_and_go_and_connections_live_on() {
    let [a, b, c] = ["a", "b", "c"].map(Server::named);
    let filed = Filed::start(&format!("web: LISTEN {a} {b}\n"));
    let held = filed.instance.named();
    assert_eq!(held.1, "a");
    let told = filed.reload(&format!("web: LISTEN {b}:5,weight=2 {c}\n")).code(0).stdout;
    let expected = format!(
        "service web: group 0 channel 2: {c} is added\nservice web: group 0 channel 1: {b}: maxc 5, weight 2\n\
         service web: group 0 channel 0: {a} is removed, 1 connection left\n"
    );
    assert_eq!(told, expected);
    assert_eq!(filed.instance.names(6).matches('b').count(), 4);
    let rows = filed.instance.show();
    assert_eq!(rows.iter().map(|row| row.channel).collect::<Vec<_>>(), [0, 1, 2]);
    assert_eq!((rows[0].state.as_str(), rows[0].c), ("dis", 1));
    // With its last connection it is gone.
    drop(held);
    filed.instance.await_show("channel 0 is gone", |rows| rows.iter().all(|row| row.channel != 0));
    // Who comes back while it is still going goes on.
    let (held, name) = filed.instance.named();
    let numbers = |finished: Finished| finished.code(0).stdout.lines().count();
    assert_eq!(
        numbers(filed.reload(&format!("web: LISTEN {a}\n"))),
        3,
        "one comes, two go ({name} has a client)"
    );
    assert_eq!(numbers(filed.reload(&format!("web: LISTEN {b}:5,weight=2 {c}\n"))), 3);
    let left: Vec<_> = filed.instance.show();
    let with_client = left.iter().find(|row| row.c == 1).expect("it has its client");
    assert_eq!(with_client.state, "ENA");
    drop(held);
    filed.instance.end();
}

#[test]
fn on_remove_kick_closes_what_is_removed() {
    let (a, b) = (Server::named("a"), Server::named("b"));
    let second = own_address();
    let other = line("other: ", second, &format!("--on-remove kick {b}"));
    let filed = Filed::start(&format!("web: LISTEN --on-remove kick {a} {b}\n{other}"));
    let mut of_a = filed.instance.named();
    assert_eq!(of_a.1, "a");
    let mut of_other = Client::connect(second);
    of_other.recv(1);
    let told = filed.reload(&format!("web: LISTEN --on-remove kick {b}\n")).code(0).stdout;
    let expected = format!(
        "service web: group 0 channel 0: {a} is removed, 1 connection closed\nservice other is removed, 1 connection closed\n"
    );
    assert_eq!(told, expected);
    of_a.0.recv_all();
    of_other.recv_all();
    assert_eq!(filed.name(), "b");
    filed.instance.end();
}

#[test]
fn services_come_go_move_and_are_renamed() {
    let [a, b] = ["a", "b"].map(Server::named);
    let (second, third) = (own_address(), own_address());
    let filed = Filed::start(&format!("web: LISTEN {a}\n{}", line("mail: ", second, &b.to_string())));
    let mut held = Client::connect(second);
    held.recv(1);
    let told =
        filed.reload(&format!("{}shop: LISTEN {a}\n", line("mail: ", third, &b.to_string()))).code(0).stdout;
    let expected = format!(
        "service mail is added, on {third}\nservice web: is called shop\nservice mail is removed, 1 connection still open\n"
    );
    assert_eq!(told, expected);
    assert_eq!((filed.name(), name_at(third)), ("a".to_owned(), "b".to_owned()));
    std::net::TcpStream::connect(second).expect_err("nobody listens there");
    // They are found by what they are called now, and not by what they were.
    let run = |args: &[&str]| Run::balance(&filed.instance.directory).args(args).finish();
    run(&["-c", "show", "shop"]).code(0);
    run(&["-c", "show", "mail"]).code(0);
    assert_ne!(run(&["-c", "show", "web"]).code, 0);
    let services = run(&["-c", "services", "shop"]).code(0).stdout;
    let states: Vec<Vec<&str>> =
        services.lines().skip(1).map(|line| line.split_whitespace().collect()).collect();
    let state = |n: usize| (states[n][0], states[n][4]);
    assert_eq!(
        [state(0), state(1), state(2)],
        [("mail", "serving"), ("shop", "serving"), ("mail", "draining")]
    );
    drop(held);
    eventually("the one that is gone is listed no more", || {
        (run(&["-c", "services", "shop"]).stdout.lines().count() == 3).then_some(())
    });
    filed.instance.terminate();
}

#[test]
fn a_port_that_has_to_be_left_first_is_kept_if_the_new_one_cannot_be_had() {
    let [a, b] = ["a", "b"].map(Server::named);
    // Nobody else has this port at any address of this test's.
    let taken = std::net::TcpListener::bind((own_address().ip(), 0)).expect("an address of our own");
    let port = taken.local_addr().expect("it has one").port();
    let place = SocketAddr::new(own_address().ip(), port);
    let (second, third) = (own_address(), own_address());
    let setup = Setup::binding(place);
    let before = line("s: ", place, &a.to_string()) + &line("t: ", second, &b.to_string());
    let file = setup.directory().file("services", &before);
    let mut instance = setup.start(["--file".to_owned(), file.display().to_string()]);
    let mut held = Client::connect(place);
    assert_eq!(held.recv(1), b"a");
    // Of all addresses it cannot be had while another has it.
    let after = format!("s: {port} {b}\n")
        + &line("t: ", second, &a.to_string())
        + &line("u: ", third, &a.to_string());
    for only in [false, true] {
        let after = if only { format!("s: {port} {b}\n") } else { after.clone() };
        instance.directory.file("services", &after);
        let failed = instance.ctl("reload").code(78);
        let said = &failed.stdout;
        assert!(
            said.contains(&format!("services:1:4: bind(): Address already in use (0.0.0.0:{port})")),
            "{said}"
        );
        assert!(said.ends_with("nothing was changed\n"), "{said}");
        assert_eq!([name_at(place), name_at(second)], ["a", "b"], "as before");
        std::net::TcpStream::connect(third).expect_err("nobody listens there");
    }
    assert!(instance.is_running(), "it goes on");
    instance.directory.file("services", &before);
    instance.ctl("reload").code(0).out("nothing has changed\n");
    held.shut_wr();
    held.ending();
    instance.end();
}

/// Whoever passed it has it still: shut down it would be useless to both, and to the next process.
#[test]
fn a_socket_that_was_passed_is_never_shut_down() {
    let [a, b] = ["a", "b"].map(Server::named);
    let (place, other) = (own_address(), own_address());
    let listener = std::net::TcpListener::bind(place).expect("an address of our own");
    let held = listener.try_clone().expect("a descriptor");
    let listens = || rustix::net::sockopt::socket_acceptconn(&held).expect("a socket");
    let t = line("t: ", other, &b.to_string());
    let setup = Setup::passing(listener);
    let file = setup.directory().file("services", &(line("s: ", place, &a.to_string()) + &t));
    let mut instance = setup.start(["--file".to_owned(), file.display().to_string()]);
    let port = place.port();
    for _ in ["passed", "and handed over"] {
        instance.directory.file("services", &(format!("s: {port} {a}\n") + &t));
        let failed = instance.ctl("reload").code(78);
        assert_eq!(failed.stdout.lines().last(), Some("balance: nothing was changed"), "{}", failed.stdout);
        let why = format!(
            "services:1:4: systemd has this port: LISTEN_FDS passed {place}; change its .socket unit"
        );
        assert!(failed.stdout.contains(&why), "{}", failed.stdout);
        assert!(listens(), "it is the other's, too");
        assert_eq!([name_at(place), name_at(other)], ["a", "b"], "as before");
        instance.directory.file("services", &(line("s: ", place, &a.to_string()) + &t));
        instance.upgrade();
    }
    instance.directory.file("services", &t);
    let removed = instance.ctl("reload").code(0).stdout;
    let why =
        format!("service s is removed; systemd still listens on {place}, and clients get no answer there");
    assert!(removed.contains(&why), "{removed}");
    assert!(listens(), "it is the other's now");
    let waits = std::net::TcpStream::connect(place).expect("the kernel lets it in");
    held.accept().expect("it is there");
    drop(waits);
    instance.terminate();
}

#[test]
fn one_wrong_line_changes_nothing() {
    let (a, b) = (Server::named("a"), Server::named("b"));
    let taken = Refusing::new();
    let good = format!("web: LISTEN -T 60 {a}\n");
    let filed = Filed::start(&good);
    let occupied = own_address();
    let _occupant = std::net::TcpListener::bind(occupied).expect("a port of our own");
    let table = [
        (format!("web: LISTEN {b}\n80x a\n"), "services:2:1: invalid port [80x]"),
        (format!("web: LISTEN {b} no-such.invalid\n"), "no host 'no-such.invalid'"),
        (
            format!("web: LISTEN {b}\n{}", line("x: ", occupied, "127.0.0.1")),
            "bind(): Address already in use",
        ),
        (String::new(), "no service"),
        ("* --workers nine\n".to_owned(), "services:1:"),
    ];
    for (text, why) in table {
        let failed = filed.reload(&text);
        assert!(failed.code > 0, "{failed:?}");
        assert!(failed.stdout.contains(why), "{text:?}: {failed:?}");
        assert!(failed.stdout.ends_with("nothing was changed\n"), "{text:?}: {failed:?}");
        assert_eq!(filed.name(), "a", "{text:?}");
    }
    std::fs::remove_file(filed.instance.directory.path().join("services")).expect("a file of our own");
    filed.instance.ctl("reload").code(78);
    assert_eq!(filed.name(), "a");
    filed.reload(&good).code(0).out("nothing has changed\n");
    drop(taken);
    filed.instance.end();
}

#[test]
fn a_failure_is_told_with_its_reason_each_time() {
    let a = Server::named("a");
    let filed = Filed::start(&format!("web: LISTEN {a}\n"));
    for times in 1..=3 {
        filed.reload(&format!("web: LISTEN {a}x\n")).code(78);
        let told = || filed.instance.stderr().matches("reload failed, nothing was changed: ").count();
        eventually("the reason is told again", || (told() == times).then_some(()));
    }
    filed.instance.end();
}

#[test]
fn what_operators_changed_stays_until_the_line_of_its_channel_changes() {
    let [a, b, c, d] = ["a", "b", "c", "d"].map(Server::named);
    let filed = Filed::start(&format!("web: LISTEN {a} {b} {c}\n"));
    let (port, ip) = (d.addr.port(), d.addr.ip());
    let commands = format!("disable 0; weight 1 7; maxc 2 9; create {ip} {port}; enable 3");
    filed.instance.ctl(&commands).code(0);
    let text = format!("web: LISTEN -t 3 {a} {b} {c}\n");
    filed.reload(&text).code(0).out("service web: --connect-timeout is 3, was 5\n");
    let status = filed.instance.ctl("status").code(0).stdout;
    let told: Vec<&str> = status.lines().filter_map(|line| line.strip_prefix("changed by hand: ")).collect();
    let expected = [
        "group 0 channel 0: disabled, in the file enabled".to_owned(),
        "group 0 channel 1: weight 7, in the file 1".to_owned(),
        "group 0 channel 2: maxc 9, in the file 0".to_owned(),
        format!("group 0 channel 3: {d} is not in the file"),
    ];
    assert_eq!(told, expected);
    let file_column = |instance: &Instance| {
        let services = instance.ctl("services").code(0).stdout;
        services.lines().nth(1).expect("one").split_whitespace().last().expect("columns").to_owned()
    };
    assert_eq!(file_column(&filed.instance), "changed");
    // The line of one of them changes.
    let told = filed.reload(&text.replace(&b.to_string(), &format!("{b},weight=3"))).code(0).stdout;
    assert_eq!(told, format!("service web: group 0 channel 1: {b}: weight 3\n"));
    // And all of it goes.
    let told = filed.instance.ctl("reload clean").code(0).stdout;
    let expected = format!(
        "service web: group 0 channel 0: {a}: enabled\nservice web: group 0 channel 2: {c}: maxc 0\n\
         service web: group 0 channel 3: {d} is removed\n"
    );
    assert_eq!(told, expected);
    assert_eq!(file_column(&filed.instance), "same");
    filed.instance.ctl("reload clean").code(0).out("nothing has changed\n");
    // What was removed by hand stays away, until it is wanted clean.
    filed.instance.ctl("disable 0; remove 0").code(0);
    filed.instance.ctl("reload").code(0).out("nothing has changed\n");
    let told = filed.instance.ctl("reload clean").code(0).stdout;
    assert_eq!(told, format!("service web: group 0 channel 4: {a} is added\n"));
    filed.instance.end();
}

#[test]
fn timeouts_hold_for_those_who_are_connected() {
    let server = Server::silent();
    let filed = Filed::start(&format!("web: LISTEN {server}\n"));
    let mut client = filed.instance.connect();
    server.await_accepted(1);
    filed.reload(&format!("web: LISTEN -T 200ms {server}\n")).code(0);
    // It was to live for ever.
    client.recv_all();
    filed.instance.end();
}

#[test]
fn checks_come_and_go() {
    let (a, refusing) = (Server::named("a"), Refusing::new());
    let filed = Filed::start(&format!("web: LISTEN {refusing} {a}\n"));
    let health = |word: &str| {
        eventually(word, || {
            let status = filed.instance.ctl("status").code(0).stdout;
            status
                .lines()
                .nth(1)
                .expect("a channel")
                .split_whitespace()
                .any(|cell| cell == word)
                .then_some(())
        });
    };
    health("untried");
    let told = filed
        .reload(&format!("web: LISTEN --check tcp --check-interval 20ms {refusing} {a}\n"))
        .code(0)
        .stdout;
    assert!(told.contains("--check is tcp, was none"), "{told}");
    health("down");
    assert_eq!(filed.instance.names(4), "aaaa");
    filed.reload(&format!("web: LISTEN --no-eject {refusing} {a}\n")).code(0);
    health("up");
    filed.instance.end();
}

#[test]
fn a_hangup_reloads_and_says_so() {
    let (a, b) = (Server::named("a"), Server::named("b"));
    let listen = own_address();
    let setup = Setup::binding(listen).shell("exec setsid \"$0\" -f \"$@\";");
    let text = |server: &Server| format!("web: -b {} {} {server}\n", listen.ip(), listen.port());
    let file = setup.directory().file("services", &text(&a));
    // As a service manager starts it: there is no terminal to lose.
    let instance = setup.start(["-d".to_owned(), "--file".to_owned(), file.display().to_string()]);
    instance.directory.file("services", &text(&b));
    instance.signal(Signal::HUP);
    eventually("the other server", || (name_at(listen) == "b").then_some(()));
    instance.directory.file("services", "nonsense\n");
    instance.signal(Signal::HUP);
    let told = eventually("it is told", || {
        instance.told("note").into_iter().find(|line| line.contains("reload failed, nothing was changed: "))
    });
    assert!(told.contains("level=error") && told.contains("services:1:1: "), "{told}");
    assert!(!told.contains("\\n"), "one line for each thing that is wrong: {told}");
    assert_eq!(name_at(listen), "b");
    // A storm of them is gone through, and the last one counts.
    for round in 0..200 {
        instance.directory.file("services", &text(if round % 2 == 0 { &b } else { &a }));
        instance.signal(Signal::HUP);
    }
    instance.directory.file("services", &text(&a));
    instance.signal(Signal::HUP);
    eventually("the last one", || (name_at(listen) == "a").then_some(()));
    instance.terminate();
}

#[test]
fn without_a_file_there_is_nothing_to_reload() {
    let server = Server::named("a");
    let instance = Instance::before(&[&server]);
    let failed = instance.ctl("reload").code(78);
    assert!(failed.stdout.contains("there is no file to read again"), "{failed:?}");
    assert!(!instance.ctl("status").code(0).stdout.contains("changed by hand"));
    instance.ctl("disable 0; pause").code(0);
    let told = instance.ctl("status").code(0).stdout;
    let by_hand: Vec<_> = told.lines().filter_map(|line| line.strip_prefix("changed by hand: ")).collect();
    assert_eq!(by_hand, ["paused", "group 0 channel 0: disabled, on the command line enabled"]);
    instance.ctl("create 127.0.0.1 9; enable 1").code(0);
    let told = instance.ctl("reload clean").code(0).stdout;
    let label = format!("service {}: ", instance.addr);
    let expected = format!(
        "{label}is not paused any more\n{label}group 0 channel 0: {server}: enabled\n{label}group 0 channel 1: 127.0.0.1:9 is removed\n"
    );
    assert_eq!(told, expected);
    assert_eq!(instance.names(2), "aa");
    assert_eq!(instance.show().len(), 1);
    instance.ctl("reload clean").code(0).out("nothing has changed\n");
    instance.ctl("reload now").code(64).out("usage: reload [clean]\n");
    instance.end();
}

#[test]
fn the_file_is_found_again_from_another_directory() {
    let (a, b) = (Server::named("a"), Server::named("b"));
    let listen = own_address();
    let directory = Directory::new();
    let text = |server: &Server| format!("web: -b {} {} {server}\n", listen.ip(), listen.port());
    directory.file("services", &text(&a));
    // In the background the process is in /.
    let script = format!("cd {}; exec balance --file services", directory.path().display());
    Run::script(&directory, &script).finish().code(0);
    assert_eq!(name_at(listen), "a");
    directory.file("services", &text(&b));
    let run = |args: &[&str]| Run::balance(&directory).args(args).finish();
    run(&["-c", "reload", "web"]).code(0);
    assert_eq!(name_at(listen), "b");
    run(&["-c", "kill", "web"]).code(0);
}
