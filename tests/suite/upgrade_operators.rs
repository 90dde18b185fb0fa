//! What operators do around an upgrade: links, changed files, open sessions, commands at the wrong moment.
//!
//! Source: docs/upgrade.md.

use std::fs;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use rustix::process::Signal;

use crate::harness::{
    BALANCE, Client, Instance, Over, Run, Server, Setup, Terminal, copy_program, eventually, executable,
    needs_root, own_address,
};

/// A program that waits until the file `go` is there, and is `balance` then.
fn hesitating(instance: &Instance) -> (PathBuf, PathBuf) {
    let directory = instance.directory.path();
    let [begun, go] = ["begun", "go"].map(|name| directory.join(name));
    let text = format!(
        "#!/bin/sh\n: >{}\nwhile ! [ -e {} ]; do sleep 0.02; done\nexec {BALANCE} \"$@\"\n",
        begun.display(),
        go.display()
    );
    let program = executable(&instance.directory, "hesitating", &text);
    (program, begun)
}

fn line(name: &str, at: SocketAddr, to: &Server) -> String {
    format!("{name}: -b {} {} {to}\n", at.ip(), at.port())
}

/// An instance of a file with `web` and `mail`, and where they listen.
fn two_services(a: &Server, b: &Server) -> (Instance, [SocketAddr; 2]) {
    let [web, mail] = [own_address(), own_address()];
    let setup = Setup::binding(web);
    let file = setup.directory().file("services", &(line("web", web, a) + &line("mail", mail, b)));
    (setup.start(["--file".to_owned(), file.display().to_string()]), [web, mail])
}

fn is_refused(at: SocketAddr) -> bool {
    TcpStream::connect(at).is_err_and(|e| e.kind() == ErrorKind::ConnectionRefused)
}

fn program_of(pid: i32) -> PathBuf {
    fs::read_link(format!("/proc/{pid}/exe")).expect("it runs")
}

#[test]
fn a_link_to_another_version_is_followed() {
    let server = Server::echo();
    let setup = Setup::new();
    let directory = setup.directory().path().to_owned();
    for version in ["1", "2", "3"] {
        fs::create_dir(directory.join(version)).expect("our own");
        copy_program(BALANCE, &directory.join(version).join("balance"));
    }
    let point = |to: &str| {
        symlink(Path::new(to).join("balance"), directory.join("new")).expect("a link");
        fs::rename(directory.join("new"), directory.join("balance")).expect("our own");
    };
    point("1");
    let link = directory.join("balance").display().to_string();
    let mut instance =
        setup.shell(&format!("exec {link} -f \"$@\";")).start(["PORT".to_owned(), server.to_string()]);
    for version in ["2", "3"] {
        point(version);
        instance.upgrade();
        assert_eq!(program_of(instance.pid()), directory.join(version).join("balance"));
    }
    // The path of an upgrade is where the next one looks.
    point("1");
    let other = directory.join("2").join("balance");
    let told = instance.ctl(&format!("upgrade {}", other.display())).code(0).stdout;
    assert!(told.contains(&format!("(4.0.0, {}) serves now: ", other.display())), "{told}");
    let pid = told.split(' ').nth(1).and_then(|pid| pid.parse().ok()).expect("it is named");
    instance.succeed(pid);
    instance.upgrade();
    assert_eq!(program_of(instance.pid()), other);
    instance.end();
}

#[test]
fn a_service_that_the_file_has_no_more_frees_its_port_and_keeps_its_clients() {
    let (a, b) = (Server::echo(), Server::echo());
    let (mut instance, [web, mail]) = two_services(&a, &b);
    let mut stays = Client::connect(mail);
    let mut goes = instance.connect();
    for client in [&mut stays, &mut goes] {
        client.send("x");
        assert_eq!(client.recv(1), b"x");
    }
    instance.directory.file("services", &line("web", web, &a));
    let before = instance.pid();
    let told = instance.ctl("upgrade").code(0).stdout;
    assert!(told.ends_with("carried 1, draining 1\n"), "{told}");
    eventually("the port of the service that is gone is free", || is_refused(mail).then_some(()));
    let ask = |text: &str| {
        let name = format!("process.{before}");
        Run::balance(&instance.directory).args(["-c", text, &name]).finish()
    };
    let sessions =
        eventually("the old process can be asked", || Some(ask("sessions")).filter(|asked| asked.code == 0));
    assert_eq!(sessions.stdout.lines().count(), 2, "{}", sessions.stdout);
    for client in [&mut stays, &mut goes] {
        client.send("y");
        assert_eq!(client.recv(1), b"y");
    }
    drop(stays);
    let pid = told.split(' ').nth(1).and_then(|pid| pid.parse().ok()).expect("it is named");
    instance.succeed(pid);
    goes.send("z");
    assert_eq!(goes.recv(1), b"z");
    drop(goes);
    instance.end();
}

#[test]
fn what_comes_behind_an_upgrade_in_a_line_is_not_for_the_process_that_is_gone() {
    let server = Server::echo();
    let mut instance = Instance::before(&[&server]);
    let told = instance.ctl("upgrade; disable 0; show").code(75).stdout;
    let pid = told.split(' ').nth(1).and_then(|pid| pid.parse().ok()).expect("it is named");
    let lines: Vec<&str> = told.lines().skip(1).collect();
    assert_eq!(lines, ["another process has taken over, and this was not carried out; ask again"]);
    instance.succeed(pid);
    assert_eq!(instance.show()[0].state, "ENA");
    instance.end();
}

#[test]
fn a_wait_does_not_take_clients_that_were_carried_for_clients_that_have_gone() {
    let server = Server::echo();
    let mut instance = Instance::before(&[&server]);
    let mut client = instance.connect();
    client.send("x");
    assert_eq!(client.recv(1), b"x");
    let waiting = thread::scope(|scope| {
        let waiting = scope.spawn(|| instance.ctl("wait 0 30s"));
        eventually("it waits", || {
            // Its session, and the one of this question.
            let names = fs::read_dir(format!("/proc/{}/task", instance.pid())).ok()?.flatten();
            let is_session = |task: &fs::DirEntry| {
                fs::read_to_string(task.path().join("comm")).is_ok_and(|name| name == "session\n")
            };
            (names.filter(is_session).count() == 1).then_some(())
        });
        instance.signal(Signal::USR2);
        waiting.join().expect("it comes back")
    });
    assert_eq!(waiting.code, 75, "{}", waiting.stdout);
    instance.find_successor();
    assert_eq!(instance.show()[0].c, 1);
    drop(client);
    instance.end();
}

#[test]
fn a_shell_goes_on_with_the_process_that_has_taken_over() {
    let server = Server::echo();
    let mut instance = Instance::before(&[&server]);
    let mut shell = Terminal::shell(&instance);
    shell.awaits("balance[0]");
    let told = instance.upgrade();
    assert!(told.contains("serves now"), "{told}");
    shell.types("show\r");
    shell.awaits(&format!("process {} serves now", instance.pid()));
    shell.types("disable 0\r");
    shell.awaits("channel 0 disabled");
    assert_eq!(instance.show()[0].state, "dis");
    shell.types("quit\r");
    instance.end();
}

#[test]
fn a_service_that_is_stopped_meanwhile_stays_so() {
    let (a, b) = (Server::echo(), Server::echo());
    let (mut instance, [_, mail]) = two_services(&a, &b);
    let (program, begun) = hesitating(&instance);
    let told = thread::scope(|scope| {
        let upgrade = scope.spawn(|| instance.ctl(&format!("upgrade {}", program.display())));
        eventually("the new process begins", || begun.exists().then_some(()));
        instance.ctl("use mail; kill").code(0);
        instance.directory.file("go", "");
        upgrade.join().expect("it comes back")
    });
    let told = told.code(0).stdout;
    let pid = told.split(' ').nth(1).and_then(|pid| pid.parse().ok()).expect("it is named");
    instance.succeed(pid);
    assert!(is_refused(mail));
    let services = instance.ctl("services").code(0).stdout;
    assert!(services.contains("web") && !services.contains("mail"), "{services}");
    instance.end();
}

#[test]
fn kill_calls_off_an_upgrade_that_is_being_prepared_and_frees_the_port_before_it_answers() {
    for command in ["kill", "kill 5"] {
        let server = Server::echo();
        let mut instance = Instance::before(&[&server]);
        let begun = instance.directory.path().join("begun");
        let text = format!("#!/bin/sh\n: >{}\nexec sleep 300\n", begun.display());
        let program = executable(&instance.directory, "hanging", &text);
        thread::scope(|scope| {
            scope.spawn(|| instance.ctl(&format!("upgrade {}", program.display())));
            eventually("the new process begins", || begun.exists().then_some(()));
            instance.ctl(command).code(0).out("shutdown complete, exiting.\n");
            assert!(is_refused(instance.addr), "after {command}");
        });
        assert_eq!(instance.wait(), 0);
    }
}

#[test]
fn checks_go_on_when_they_are_due_and_programs_learn_nothing_of_an_upgrade() {
    let server = Server::echo();
    let setup = Setup::new();
    let said = setup.directory().path().join("said");
    let text = format!("#!/bin/sh\nenv >>{0}\necho over >>{0}\n", said.display());
    let program = executable(setup.directory(), "check", &text);
    let check = format!("exec:{}", program.display());
    let start = ["--check", &check, "--check-interval", "1h", "PORT"].map(str::to_owned);
    let mut instance = setup.start(start.into_iter().chain([server.to_string()]));
    let runs = || fs::read_to_string(&said).unwrap_or_default().matches("over\n").count();
    instance.await_health(0, "up");
    for _ in 0..10 {
        instance.upgrade();
        assert_eq!(instance.health(), "up");
    }
    assert_eq!(runs(), 1, "the next one is due in a minute");
    // A channel that is new has a check of its own.
    instance.ctl(&format!("create {} {}; enable 1", server.addr.ip(), server.addr.port())).code(0);
    instance.await_health(1, "up");
    assert_eq!(runs(), 2);
    let text = fs::read_to_string(&said).expect("it was run");
    assert!(!text.contains("BALANCE_HANDOVER"), "{text}");
    instance.end();
}

#[test]
fn commands_reach_one_process_or_the_other_while_one_takes_over() {
    let server = Server::echo();
    let mut instance = Instance::before(&[&server]);
    let is_over = AtomicBool::new(false);
    let addr = instance.addr;
    let directory = instance.directory.path().to_owned();
    let ask = |command: &[&str]| {
        let bind = ["-b".to_owned(), addr.ip().to_string()];
        let run = Run::new(BALANCE).args(&bind).args(command).env("BALANCE_RUN_DIR", directory.join("run"));
        run.finish()
    };
    thread::scope(|scope| {
        let _over = Over(&is_over);
        let asks = ["version", "show", "maxc 0 7"].map(|command| {
            let (is_over, ask) = (&is_over, &ask);
            scope.spawn(move || {
                let mut all = Vec::new();
                while !is_over.load(Ordering::SeqCst) {
                    all.push(ask(&["-c", command, &addr.port().to_string()]));
                }
                all
            })
        });
        for _ in 0..40 {
            instance.upgrade();
        }
        is_over.store(true, Ordering::SeqCst);
        for (number, asked) in asks.into_iter().enumerate() {
            for one in asked.join().expect("they come back") {
                // What would change something is refused for a moment, in so many words.
                let is_refused = number == 2 && one.code == 75 && one.stdout.contains("nothing was changed");
                assert!(one.code == 0 || is_refused, "{one}");
            }
        }
    });
    instance.end();
}

// As a container has it that is started without a terminal: no process there leads the session.
#[test]
fn an_upgrade_works_where_the_leader_of_the_session_is_out_of_sight() {
    if needs_root("a pid namespace") {
        return;
    }
    let server = Server::named("a");
    let shell = "exec unshare -pf --kill-child sh -c '\"$0\" -f \"$@\" & exec sleep 1000' \"$0\" \"$@\";";
    let address = own_address();
    let (ip, channel) = (address.ip().to_string(), server.to_string());
    let instance = Setup::binding(address).shell(shell).start(["-b", &ip, "PORT", &channel]);
    for _ in 0..2 {
        let told = instance.ctl("upgrade").code(0).stdout;
        assert!(told.contains(" serves now"), "{told}");
        assert_eq!(instance.names(3), "aaa");
    }
    instance.ctl("kill").code(0);
}

#[test]
fn clients_of_both_processes_count_for_max_connections() {
    let server = Server::echo();
    let mut instance = Instance::start(["--max-connections", "5", "PORT", &server.to_string()]);
    let mut held: Vec<Client> = (0..5).map(|_| instance.connect()).collect();
    for client in &mut held {
        client.send("x");
        assert_eq!(client.recv(1), b"x");
    }
    let mut more: Vec<Client> = (0..5).map(|_| instance.connect()).collect();
    more.iter_mut().for_each(|client| client.send("y"));
    for _ in 0..3 {
        let told = instance.upgrade();
        assert!(told.ends_with("carried 5, draining 0\n"), "{told}");
        assert_eq!(instance.ctl("sessions").code(0).stdout.lines().count(), 6);
    }
    drop(held);
    for client in &mut more {
        assert_eq!(client.recv(1), b"y");
    }
    drop(more);
    instance.end();
}

#[test]
fn what_there_is_no_room_for_stays_where_it_is() {
    let server = Server::echo();
    let setup = Setup::new().shell("ulimit -n 120;");
    let mut instance = setup.start(["PORT", &server.to_string()]);
    let mut clients: Vec<Client> = (0..30).map(|_| instance.connect()).collect();
    let echo = |clients: &mut [Client], byte: u8| {
        for client in clients {
            client.send([byte]);
            assert_eq!(client.recv(1), [byte]);
        }
    };
    echo(&mut clients, 1);
    // The new process may have fewer descriptors than the old one.
    let script = format!("#!/bin/sh\nulimit -n 70\nexec {BALANCE} \"$@\"\n");
    let path = executable(&instance.directory, "small", &script);
    let told = instance.ctl(&format!("upgrade {}", path.display())).code(0).stdout;
    let number = |word: &str| {
        let rest = told.split(word).nth(1).unwrap_or_else(|| panic!("{told}"));
        rest.trim_start().split(|c: char| !c.is_ascii_digit()).next().and_then(|n| n.parse::<i32>().ok())
    };
    let (pid, carried, draining) = (number("process"), number("carried"), number("draining"));
    assert_eq!(carried.zip(draining).map(|(carried, draining)| carried + draining), Some(30), "{told}");
    assert!(carried > Some(0) && draining > Some(0), "{told}");
    echo(&mut clients, 2);
    drop(clients);
    instance.succeed(pid.expect("its number"));
    instance.terminate();
}

#[test]
fn a_path_that_is_not_absolute_is_refused_because_the_process_has_another_directory() {
    let server = Server::echo();
    let instance = Instance::before(&[&server]);
    for (path, shown) in [("bin/true", "bin/true"), ("./bin/true", "bin/true"), ("true", "true")] {
        let said = instance.ctl(&format!("upgrade {path}")).code(64).stdout;
        assert_eq!(
            said,
            format!(
                "upgrade: \"{path}\" is not an absolute path, and balance runs in another directory than you; give an absolute \
                 one, such as $PWD/{shown}\n"
            )
        );
    }
    assert_eq!(instance.processes().len(), 1, "nothing was started");
    instance.end();
}
