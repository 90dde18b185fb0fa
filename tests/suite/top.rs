//! `-c top`: the instance, live in a terminal. The terminals are real ones, of tmux.
//!
//! Source: docs/observability.md, "Top".

use std::fs;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process};

use super::tap::number_of;
use crate::harness::{
    BALANCE, DEADLINE, Directory, Instance, Refusing, Run, Server, Setup, Terminal, eventually, isolate,
    own_address, pause, unique,
};

/// A terminal of tmux, on a server of its own.
struct Tmux {
    server: Child,
    socket: String,
}

impl Tmux {
    /// This size, and a shell that runs `script`.
    fn of(directory: &Directory, (width, height): (u16, u16), script: &str) -> Self {
        let socket = directory.path().join(format!("tmux.{}", unique())).display().to_string();
        let mut server = Command::new("tmux");
        isolate(&mut server, directory);
        // Not a daemon: nothing is left of it when this is over. Whoever runs the tests may have SIGINT ignored.
        server
            .args(["-D", "-S", &socket, "-f", "/dev/null"])
            .env("LC_ALL", "C.UTF-8")
            .env("SHELL", "/bin/sh");
        server.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        let server = server.spawn().expect("apt-get install tmux");
        let tmux = Self { server, socket };
        eventually("tmux listens", || UnixStream::connect(&tmux.socket).ok().map(drop));
        let script = format!("PATH={}:$PATH; cd {}; {script}", own(), directory.path().display());
        let size = [width.to_string(), height.to_string()];
        tmux.ask(&["new-session", "-d", "-x", &size[0], "-y", &size[1], &script]);
        tmux
    }

    /// `balance -c top` for this instance, alone.
    fn top(instance: &Instance, size: (u16, u16)) -> Self {
        let tmux =
            Self::of(&instance.directory, size, &format!("{}; echo code $?; read -r end", command(instance)));
        tmux.awaits("balance 4.");
        tmux
    }

    fn ask(&self, args: &[&str]) -> String {
        let mut tmux = Command::new("tmux");
        tmux.args(["-u", "-S", &self.socket]).args(args).env("LC_ALL", "C.UTF-8").env_remove("TMUX");
        let answer = tmux.stdin(Stdio::null()).output().expect("apt-get install tmux");
        assert!(answer.status.success(), "{args:?}: {}", String::from_utf8_lossy(&answer.stderr));
        String::from_utf8_lossy(&answer.stdout).into_owned()
    }

    /// What is on the screen.
    fn screen(&self) -> String {
        self.ask(&["capture-pane", "-p"])
    }

    fn types(&self, text: &str) {
        self.ask(&["send-keys", "-l", text]);
    }

    /// Keys by their names.
    fn presses(&self, keys: &[&str]) {
        self.ask(&[&["send-keys"], keys].concat());
    }

    /// Waits for what holds of the screen.
    #[track_caller]
    fn shows(&self, what: &str, fact: impl Fn(&str) -> bool) -> String {
        let end = Instant::now() + DEADLINE;
        loop {
            let screen = self.screen();
            if fact(&screen) {
                return screen;
            }
            assert!(Instant::now() < end, "not seen within {DEADLINE:?}: {what}\n{screen}");
            pause();
        }
    }

    #[track_caller]
    fn awaits(&self, text: &str) -> String {
        self.shows(text, |screen| screen.contains(text))
    }

    /// Waits for what holds of the line of the channel of this name. It may be looked at while it is being
    /// drawn.
    #[track_caller]
    fn line(&self, name: &str, what: &str, fact: impl Fn(&str) -> bool) {
        let is_it = |line: &&str| line.trim_start_matches(['>', ' ']).starts_with(name);
        self.shows(what, |screen| screen.lines().find(is_it).is_some_and(&fact));
    }

    /// The process of `balance -c top`.
    fn program(&self) -> Pid {
        let pane = self.ask(&["display-message", "-p", "#{pane_pid}"]);
        eventually("it runs", || {
            let children =
                fs::read_to_string(format!("/proc/{0}/task/{0}/children", pane.trim())).unwrap_or_default();
            children.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)).find(|pid| {
                let exe = fs::read_link(format!("/proc/{}/exe", pid.as_raw_nonzero()));
                exe.is_ok_and(|exe| exe.ends_with("balance"))
            })
        })
    }
}

impl Drop for Tmux {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let mut tmux = Command::new("tmux");
            tmux.args(["-u", "-S", &self.socket, "capture-pane", "-p"]);
            let screen = tmux.output().map(|answer| answer.stdout).unwrap_or_default();
            eprintln!("--- screen\n{}\n---", String::from_utf8_lossy(&screen));
        }
        // The server reaps what runs in its terminals.
        let ask = |command: &str| {
            let mut tmux = Command::new("tmux");
            tmux.args(["-S", &self.socket, command]).stdout(Stdio::null()).stderr(Stdio::null()).status()
        };
        let _ = ask("kill-session");
        let end = Instant::now() + DEADLINE;
        while ask("has-session").is_ok_and(|status| status.success()) && Instant::now() < end {
            pause();
        }
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// Where the program under test is.
fn own() -> String {
    std::path::Path::new(BALANCE).parent().expect("it is in a directory").display().to_string()
}

fn command(instance: &Instance) -> String {
    format!("balance {} -c top {} 2>errors", instance.bind_option().join(" "), instance.port())
}

const SIZES: [(u16, u16); 3] = [(80, 24), (200, 60), (40, 10)];

#[test]
fn channels_are_seen_and_disabled_at_every_size() {
    for size in SIZES {
        let (one, two, refusing) = (Server::echo(), Server::echo(), Refusing::new());
        let instance = Instance::before(&[&one, &two, &refusing]);
        // The third is refused, and goes on to the first.
        let clients: Vec<_> = (0..4)
            .map(|_| {
                let mut client = instance.connect();
                client.send("hello");
                assert_eq!(client.recv(5), b"hello");
                client
            })
            .collect();
        let top = Tmux::top(&instance, size);
        for (name, parts) in [
            ("0/0", vec![one.addr.to_string(), "up".into(), "2/-".into()]),
            ("0/1", vec![two.addr.to_string(), "up".into(), "2/-".into()]),
            ("0/2", vec![refusing.to_string(), "ejected".into(), "0/-".into()]),
        ] {
            let what = format!("{parts:?} in the line of {name}");
            top.line(name, &what, |line| parts.iter().all(|part| line.contains(part)));
        }
        if size.0 >= 80 {
            top.awaits("connect: connection refused");
            top.awaits("── 3 channels ── sorted by chan ──");
        }
        top.presses(&["Down"]);
        top.shows("the second is selected", |screen| screen.lines().any(|line| line.starts_with(">0/1")));
        top.types("d");
        // It may be broken into lines.
        top.shows("a box", |screen| screen.contains("disable 1") && screen.contains("y: send it"));
        assert_eq!(instance.show()[1].state, "ENA", "nothing is sent before it is confirmed");
        top.types("n");
        top.awaits("nothing was sent");
        top.types("dy");
        top.awaits("channel 1 disabled");
        instance.await_show("it is disabled", |rows| rows[1].state == "dis");
        top.line("0/1", "that is seen", |line| line.contains(" dis "));
        let commanded = format!("command=\"use {}; group 0; disable 1\"", instance.addr);
        eventually("it is told", || instance.stderr().contains(&commanded).then_some(()));
        top.types("q");
        top.awaits("code 0");
        drop(top);
        assert_eq!(fs::read_to_string(instance.directory.path().join("errors")).expect("stderr"), "");
        drop(clients);
        instance.end();
    }
}

#[test]
fn sessions_are_seen_filtered_sorted_and_closed() {
    let server = Server::echo();
    let instance = Instance::before(&[&server, &server]);
    let mut clients: Vec<_> = (0..3).map(|_| instance.connect()).collect();
    let ids: Vec<u64> = clients.iter().map(|client| number_of(&instance, client)).collect();
    let top = Tmux::top(&instance, (80, 24));
    top.types("2");
    let ours: Vec<String> =
        clients.iter().map(|client| client.0.local_addr().expect("connected").to_string()).collect();
    top.shows("all are there", |screen| ours.iter().all(|client| screen.contains(client.as_str())));
    top.types(&format!("/{}", ours[1]));
    top.presses(&["Enter"]);
    top.shows("one of them", |screen| {
        screen.contains("1 of 3 sessions") && screen.contains(&ours[1]) && !screen.contains(&ours[0])
    });
    top.types("x");
    let texts = [format!("session {} of client {}", ids[1], ours[1]), format!("close {}", ids[1])];
    top.shows("a box", |screen| texts.iter().all(|text| screen.contains(text)));
    top.types("y");
    top.awaits(&format!("session {} closed", ids[1]));
    assert_eq!(clients[1].ending(), crate::harness::Received::End);
    top.presses(&["Escape"]);
    top.awaits("── 2 sessions ── sorted by id");
    top.types(">o");
    top.awaits("sorted by client, reversed");
    top.types("3");
    let closed = format!("; close {}\"", ids[1]);
    top.shows("both events", |screen| screen.contains(&closed) && screen.contains("── 2 events ──"));
    top.types("?");
    top.awaits("Commands: each shows the line that is sent");
    top.presses(&["Escape"]);
    top.presses(&["C-c"]);
    top.awaits("code 0");
    drop(top);
    clients.clear();
    instance.end();
}

#[test]
fn sorting_puts_what_matters_first() {
    let (server, refusing) = (Server::echo(), Refusing::new());
    let instance = Instance::before(&[&server, &server, &refusing]);
    // Turns: the third is refused.
    let clients: Vec<_> = (0..3).map(|_| instance.connect()).collect();
    instance.await_show("all have a channel", |rows| rows.iter().map(|row| row.c).sum::<i64>() == 3);
    let top = Tmux::top(&instance, (80, 24));
    top.awaits("ejected");
    let first = |screen: &str| {
        let mut lines = screen.lines().skip_while(|line| !line.starts_with(" chan "));
        lines.nth(1).map(|line| line.trim_start_matches(['>', ' ']).to_owned()).unwrap_or_default()
    };
    top.shows("by number", |screen| first(screen).starts_with("0/0"));
    top.types(">>");
    top.awaits("sorted by state");
    top.shows("what is ejected comes first", |screen| first(screen).starts_with("0/2"));
    top.types("o");
    top.shows("or last", |screen| first(screen).starts_with("0/1"));
    top.types("/EJECTED");
    top.shows("only that", |screen| screen.contains("1 of 3 channels") && first(screen).starts_with("0/2"));
    drop(top);
    drop(clients);
    instance.end();
}

#[test]
fn an_instance_that_goes_away_is_told_of_and_its_successor_found() {
    let at = own_address();
    let server = Server::echo();
    let start = |setup: Setup| {
        let args = ["-b".into(), at.ip().to_string(), at.port().to_string()];
        setup.start(args.into_iter().chain((0..3).map(|_| server.to_string())))
    };
    let mut instance = start(Setup::binding(at));
    let client = instance.connect();
    instance.await_show("it has a channel", |rows| rows[0].c == 1);
    let top = Tmux::top(&instance, (80, 24));
    top.presses(&["Down"]);
    top.line("0/1", "the second is selected", |line| line.starts_with('>'));
    instance.signal(Signal::KILL);
    instance.wait();
    drop(client);
    top.awaits("no answer for ");
    top.awaits("no instance has this port or name");
    // Nothing can be sent to it, and keys work.
    top.types("d");
    top.awaits("nothing was sent: the instance does not answer");
    top.presses(&["Down"]);
    top.line("0/2", "the third is selected", |line| line.starts_with('>'));
    let directory = std::mem::replace(&mut instance.directory, Directory::new());
    drop(instance);
    let mut instance = start(Setup::binding(at).within(directory));
    let pid = format!("pid {}", instance.pid());
    top.shows("the successor, and the third is selected", |screen| {
        let is_selected = screen.lines().any(|line| line.starts_with(">0/2"));
        screen.contains(&pid) && !screen.contains("no answer") && is_selected
    });
    let clients: Vec<_> = (0..3).map(|_| instance.connect()).collect();
    instance.upgrade();
    top.awaits(&format!("pid {}", instance.pid()));
    top.line("0/2", "the same is selected, with its connection", |line| {
        line.starts_with('>') && line.contains("1/-") && !line.contains(" -1")
    });
    top.shows("nothing less than nothing", |screen| !screen.contains(" -1"));
    drop(top);
    drop(clients);
    instance.end();
}

#[test]
fn an_instance_that_is_stopped_holds_up_no_key() {
    let server = Server::echo();
    let instance = Instance::before(&[&server, &server]);
    let top = Tmux::top(&instance, (80, 24));
    top.awaits("── 2 channels");
    instance.signal(Signal::STOP);
    top.awaits("no answer for ");
    top.presses(&["Down"]);
    top.line("0/1", "the second is selected", |line| line.starts_with('>'));
    top.types("d");
    top.awaits("nothing was sent: the instance does not answer");
    top.types("?");
    top.awaits("Commands: each shows");
    top.types("q");
    instance.signal(Signal::CONT);
    top.shows("it answers again", |screen| screen.starts_with("balance 4.") && screen.contains("2 channels"));
    instance.signal(Signal::STOP);
    top.types("q");
    top.awaits("code 0");
    instance.signal(Signal::CONT);
    drop(top);
    instance.end();
}

#[test]
fn the_terminal_is_given_back_however_it_ends() {
    let server = Server::echo();
    let instance = Instance::before(&[&server]);
    for (name, end) in
        [("quit", None), ("TERM", Some(Signal::TERM)), ("HUP", Some(Signal::HUP)), ("INT", Some(Signal::INT))]
    {
        let top = command(&instance);
        // What was on the screen before is there again.
        let script = format!(
            "stty -a >before; echo was here; {top}; echo code $?; stty -a >after; cmp before after && echo same; read -r end"
        );
        let tmux = Tmux::of(&instance.directory, (80, 24), &script);
        tmux.shows("a screen of its own", |screen| {
            screen.contains("── 1 channel ") && !screen.contains("was here")
        });
        match end {
            None => tmux.types("q"),
            Some(signal) => kill_process(tmux.program(), signal).expect("it runs"),
        }
        let code = end.map_or(0, |signal| 128 + signal.as_raw());
        let screen = tmux.shows(name, |screen| screen.contains("\nsame"));
        assert!(screen.contains(&format!("was here\ncode {code}\n")), "{name}: {screen}");
        let told = fs::read_to_string(instance.directory.path().join("errors")).expect("stderr");
        assert!(!told.contains("balance"), "{name}: {told}");
    }
    instance.end();
}

#[test]
fn it_stops_and_goes_on_as_other_programs_do() {
    let server = Server::echo();
    let instance = Instance::before(&[&server]);
    let tmux = Tmux::of(&instance.directory, (80, 24), "PS1='shell> ' exec sh -i");
    tmux.awaits("shell>");
    tmux.types(&format!("stty -a >before; {}; echo code $?", command(&instance)));
    tmux.presses(&["Enter"]);
    tmux.awaits("── 1 channel ");
    tmux.presses(&["C-z"]);
    tmux.shows("the shell's screen", |screen| screen.trim_end().ends_with("shell>"));
    tmux.types("clear; stty -a >after; cmp before after && echo same");
    tmux.presses(&["Enter"]);
    tmux.awaits("\nshell>");
    tmux.awaits("same");
    tmux.types("fg");
    tmux.presses(&["Enter"]);
    tmux.awaits("── 1 channel ");
    tmux.types("q");
    tmux.shows("it is over", |screen| screen.trim_end().ends_with("shell>"));
    drop(tmux);
    // Where there is no shell above, to stop would be to stop for ever.
    let alone = Tmux::of(&instance.directory, (80, 24), &format!("exec {}", command(&instance)));
    alone.awaits("── 1 channel ");
    alone.presses(&["C-z"]);
    alone.awaits("there is no shell to come back from");
    alone.types("?");
    alone.awaits("Commands: each shows");
    drop(alone);
    instance.end();
}

#[test]
fn it_follows_the_size_of_the_terminal() {
    let server = Server::echo();
    let instance = Instance::before(&[&server, &server]);
    let top = Tmux::top(&instance, (80, 24));
    top.awaits("── 2 channels");
    for (width, height, text) in [
        (200, 60, "totalc failed"),
        (40, 10, "chan address"),
        (20, 3, "balance 4."),
        (80, 24, "── 2 channels"),
    ] {
        top.ask(&["resize-window", "-x", &width.to_string(), "-y", &height.to_string()]);
        top.shows(text, |screen| {
            screen.contains(text) && screen.lines().all(|line| line.chars().count() <= width)
        });
    }
    top.types("q");
    top.awaits("code 0");
    drop(top);
    instance.end();
}

#[test]
fn several_services_are_seen_and_each_is_commanded() {
    let server = Server::echo();
    let setup = Setup::binding(own_address());
    let (web, mail) = (own_address(), own_address());
    let line = |name: &str, at: std::net::SocketAddr| {
        format!("{name}: -b {} {} {server} {server}\n", at.ip(), at.port())
    };
    let file = setup.directory().file("services", &(line("web", web) + &line("mail", mail)));
    let mut instance = setup.spawn(["--file", &file.display().to_string()]);
    let ctl =
        |command: &str, name: &str| Run::balance(&instance.directory).args(["-c", command, name]).finish();
    eventually("it serves", || (ctl("show", "web").code == 0).then_some(()));
    let tmux = Tmux::of(&instance.directory, (80, 24), "balance -c top web; echo code $?; read -r end");
    tmux.shows("both", |screen| screen.contains("\n>web ") && screen.contains("\n mail "));
    tmux.presses(&["Tab"]);
    tmux.awaits("\n>mail ");
    tmux.types("p");
    tmux.awaits("use mail; group 0; pause 0");
    tmux.types("y");
    tmux.awaits("channel 0 paused");
    tmux.line("0/0", "that is seen", |line| line.contains(" paused "));
    assert!(ctl("status", "mail").stdout.contains("paused"));
    assert!(!ctl("status", "web").stdout.contains("paused"));
    tmux.presses(&["BTab"]);
    tmux.shows("the first again", |screen| screen.contains("\n>web ") && !screen.contains("paused"));
    tmux.types("q");
    tmux.awaits("code 0");
    drop(tmux);
    instance.signal(Signal::TERM);
    assert_eq!(instance.wait(), 0);
}

/// Services of a file, each with its channel.
fn services_file(directory: &Directory, services: &[(&str, std::net::SocketAddr, &Server)]) -> String {
    let line = |(name, at, server): &(&str, std::net::SocketAddr, &Server)| {
        format!("{name}: -b {} {} {server}\n", at.ip(), at.port())
    };
    directory.file("services", &services.iter().map(line).collect::<String>()).display().to_string()
}

#[test]
fn a_reload_that_adds_or_removes_a_service_misdirects_no_command() {
    let (one, other) = (Server::echo(), Server::echo());
    let setup = Setup::binding(own_address());
    let web = ("web", own_address(), &one);
    let mail = ("mail", own_address(), &other);
    let file = services_file(setup.directory(), &[web]);
    let mut instance = setup.spawn(["--file", &file]);
    let ctl =
        |command: &str, name: &str| Run::balance(&instance.directory).args(["-c", command, name]).finish();
    let reload = |services: &[(&str, std::net::SocketAddr, &Server)]| {
        services_file(&instance.directory, services);
        ctl("reload", "web").code(0);
    };
    let is_enabled = |name: &str| ctl("show", name).code(0).stdout.contains(" ENA ");
    eventually("it serves", || (ctl("show", "web").code == 0).then_some(()));
    let tmux = Tmux::of(&instance.directory, (80, 24), "balance -c top web; echo code $?; read -r end");
    tmux.awaits("── 1 channel ");
    // One more service while the box is open.
    tmux.types("d");
    tmux.awaits("use web; group 0; disable 0");
    reload(&[web, mail]);
    tmux.shows("both", |screen| screen.contains("\n mail ") && screen.contains("y: send it"));
    tmux.types("y");
    tmux.awaits("channel 0 disabled");
    assert!(!is_enabled("web") && is_enabled("mail"));
    tmux.types("e");
    tmux.awaits("use web; group 0; enable 0");
    tmux.types("y");
    tmux.awaits("channel 0 enabled");
    // The session's current service is the one that it looked at last: it goes, and nothing of it is shown as another's.
    reload(&[web]);
    tmux.shows("it has gone", |screen| screen.contains("\n>web ") && !screen.contains("\n mail "));
    ctl("maxc 0 7", "web").code(0);
    let [ours, others] = [&one, &other].map(|server| server.addr.to_string());
    tmux.shows("what is web's", |screen| {
        let is_it = |line: &&str| line.trim_start_matches(['>', ' ']).starts_with("0/0");
        let is_ours = screen.lines().find(is_it).is_some_and(|line| line.contains("0/7"));
        is_ours && screen.contains(&ours) && !screen.contains(&others)
    });
    // It goes while the box is open.
    reload(&[web, mail]);
    tmux.awaits("\n mail ");
    tmux.presses(&["Tab"]);
    tmux.awaits("\n>mail ");
    tmux.types("d");
    tmux.awaits("use mail; group 0; disable 0");
    reload(&[web]);
    tmux.awaits("\n>web ");
    tmux.types("y");
    tmux.awaits("nothing was sent: service mail is not there any more");
    assert!(is_enabled("web"));
    // It comes back with another channel.
    reload(&[web, ("mail", mail.1, &other)]);
    tmux.awaits("\n>mail ");
    tmux.types("K");
    tmux.awaits("use mail; group 0; kick 0");
    reload(&[web]);
    tmux.awaits("\n>web ");
    reload(&[web, ("mail", mail.1, &one)]);
    tmux.awaits("\n>mail ");
    tmux.types("y");
    tmux.awaits(&format!("nothing was sent: group 0 channel 0 is {one} now"));
    drop(tmux);
    instance.signal(Signal::TERM);
    assert_eq!(instance.wait(), 0);
}

#[test]
fn a_confirmed_command_is_for_the_process_that_was_shown_or_its_successor() {
    let at = own_address();
    let (server, other) = (Server::echo(), Server::echo());
    let start = |setup: Setup, server: &Server| {
        setup.start(["-b".into(), at.ip().to_string(), at.port().to_string(), server.to_string()])
    };
    let mut instance = start(Setup::binding(at), &server);
    let mut clients = Vec::new();
    let top = Tmux::top(&instance, (120, 24));
    top.awaits("── 1 channel ");
    for (keys, line) in [("D", "; group 0; disable 0 hard"), ("x", "; close ")] {
        top.types(keys);
        top.awaits(line);
        instance.signal(Signal::KILL);
        instance.wait();
        let directory = std::mem::replace(&mut instance.directory, Directory::new());
        drop(instance);
        instance = start(Setup::binding(at).within(directory), &other);
        top.awaits(&format!("pid {}", instance.pid()));
        // Among these is one with the number of the connection that is to be closed.
        clients = (0..12).map(|_| instance.connect()).collect();
        top.types("y");
        top.awaits(&format!("nothing was sent: another process answers now, {}", instance.pid()));
        assert_eq!(instance.show()[0].state, "ENA");
        for client in &mut clients {
            client.send("hello");
            assert_eq!(client.recv(5), b"hello");
        }
        if keys == "D" {
            top.types("2");
            let shown = clients[0].0.local_addr().expect("connected").to_string();
            top.awaits(&shown);
        }
    }
    // A successor carries on.
    top.types("1d");
    top.awaits("; group 0; disable 0");
    instance.upgrade();
    top.awaits(&format!("pid {}", instance.pid()));
    top.types("y");
    top.awaits("channel 0 disabled");
    instance.await_show("it is disabled", |rows| rows[0].state == "dis");
    drop(top);
    drop(clients);
    instance.end();
}

#[test]
fn what_was_confirmed_while_nothing_answers_is_not_carried_out_later() {
    let server = Server::echo();
    let instance = Instance::before(&[&server, &server]);
    let top = Tmux::top(&instance, (80, 24));
    top.awaits("── 2 channels");
    top.types("D");
    top.awaits("; group 0; disable 0 hard");
    instance.signal(Signal::STOP);
    top.types("y");
    top.awaits("nothing was sent: the instance does not answer");
    instance.signal(Signal::CONT);
    top.shows("it answers again", |screen| screen.starts_with("balance 4."));
    top.presses(&["Down"]);
    top.line("0/1", "the second is selected", |line| line.starts_with('>'));
    // What is asked after it is answered after it.
    top.types("d");
    top.awaits("; group 0; disable 1");
    top.types("y");
    top.awaits("channel 1 disabled");
    let states: Vec<String> = instance.show().iter().map(|row| row.state.clone()).collect();
    assert_eq!(states, ["ENA", "dis"]);
    // Text that begins to be pasted and does not end.
    top.types("\u{1b}[200~");
    top.presses(&["C-c"]);
    top.awaits("code 0");
    drop(top);
    instance.end();
}

#[test]
fn without_a_terminal_it_says_what_to_do_instead() {
    let server = Server::echo();
    let instance = Instance::before(&[&server]);
    let told = "balance: top needs a terminal as stdin and stdout; use -c status, or -c \"status json\" in programs\n";
    let asked = instance.ctl("top").code(64).out("");
    assert_eq!(asked.stderr, told);
    // Whether there is an instance or not.
    Run::balance(&instance.directory).args(["-c", "top", "nosuch"]).finish().code(64);
    for (term, told) in [("TERM=dumb", "of the type dumb"), ("TERM=", "TERM is not set")] {
        let tmux = Tmux::of(
            &instance.directory,
            (80, 24),
            &format!("env {term} balance -c top {}; echo code $?; read -r end", instance.port()),
        );
        let screen = tmux.awaits("code 64");
        assert!(screen.replace('\n', "").contains(told), "{screen}");
    }
    // One of several commands is for the instance, which has no terminal.
    let told = "top is shown by the program that asks for it: type balance -c top PORT at a terminal, without other commands\n";
    instance.ctl("top; top").code(64).out(&told.repeat(2));
    instance.ctl("top 1").code(64).out("usage: top\n");
    let piped = instance.shell("top\nquit\n").code(0).stdout;
    assert!(piped.contains(told), "{piped}");
    instance.end();
}

#[test]
fn the_shell_shows_it_and_goes_on() {
    let server = Server::echo();
    let instance = Instance::before(&[&server]);
    let mut shell = Terminal::shell(&instance);
    shell.awaits("balance[0] ");
    shell.types("top\r");
    shell.awaits("1 channel ");
    shell.types("q");
    shell.awaits("\u{1b}[?1049l");
    shell.types("version\r");
    shell.awaits("This is balance 4.0");
    shell.types("top\r");
    shell.types_until("", |said| said.matches("\u{1b}[?1049h").count() == 2);
    shell.types("q");
    shell.types_until("", |said| said.matches("\u{1b}[?1049l").count() == 2);
    shell.types("quit\r");
    assert!(shell.ends().success());
    instance.end();
}

#[test]
fn an_instance_that_was_not_named_exactly_is_looked_at_and_not_changed() {
    let server = Server::echo();
    let instance = Instance::before(&[&server]);
    let script = format!("balance -c top {}; echo code $?; read -r end", instance.port());
    let tmux = Tmux::of(&instance.directory, (120, 24), &script);
    tmux.awaits("── 1 channel ");
    tmux.types("dy");
    tmux.awaits("to change that instance, add -b 127.0.0.1");
    assert_eq!(instance.show()[0].state, "ENA");
    drop(tmux);
    let missing = Tmux::of(&instance.directory, (80, 24), "balance -c top 1; echo code $?; read -r end");
    let screen = missing.awaits("code 69");
    assert!(screen.contains("no master process, exiting."), "{screen}");
    drop(missing);
    instance.end();
}
