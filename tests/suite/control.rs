//! Finding and asking an instance: the control socket's place, credentials, invalid input, `kill`.
//!
//! Source: docs/compatibility.md, "Process" and "The command language".

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use rustix::process::Signal;

use crate::harness::{
    BALANCE, Client, Directory, Instance, Run, Server, Setup, Terminal, eventually, needs_root, own_address,
    own_directory, private_network, program_for_all, set_mode,
};

fn rendezvous(directory: &Directory) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory.path().join("run")).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

fn socket(instance: &Instance) -> PathBuf {
    let sockets: Vec<_> = rendezvous(&instance.directory)
        .into_iter()
        .filter(|path| fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket()))
        .collect();
    assert_eq!(sockets.len(), 1, "one socket per instance: {sockets:?}");
    sockets.into_iter().next().expect("just counted")
}

#[test]
fn the_rendezvous_is_named_after_port_and_address_and_gone_at_the_end() {
    let instance = Instance::start(["-b", "127.0.0.1", "PORT"]);
    let name = socket(&instance).file_name().expect("a file").to_string_lossy().into_owned();
    assert_eq!(name, format!("balance.{}.127.0.0.1", instance.port()));
    let run = instance.directory.path().join("run");
    instance.ctl("kill").code(0).out("shutdown complete, exiting.\n");
    assert!(!run.join(&name).exists(), "the control endpoint is gone when kill has answered");
    instance.killed();
}

#[test]
fn an_instance_is_found_however_its_address_is_spelled() {
    let instance = Instance::start(["-b", "127.0.0.1", "PORT"]);
    let port = instance.port();
    let run = |args: &[&str]| Run::balance(&instance.directory).args(args).finish();
    for bind in ["127.0.0.1", "localhost", "::ffff:127.0.0.1", "::ffff:7f00:1"] {
        run(&["-b", bind, "-c", "show", &port]).code(0);
    }
    run(&["-c", "show", &port]).code(0);
    run(&["-b", "127.0.0.2", "-c", "show", &port]).code(69);
    instance.end();
}

#[test]
fn an_instance_on_all_addresses_is_found_with_and_without_saying_so() {
    private_network("a port that is free on all addresses", || {
        let mut instance = Setup::binding(([0, 0, 0, 0], 20_000).into()).start(["PORT"]);
        instance.addr.set_ip([127, 0, 0, 1].into());
        let port = instance.port();
        let run = |args: &[&str]| Run::balance(&instance.directory).args(args).finish();
        run(&["-c", "show", &port]).code(0);
        run(&["-b", "0.0.0.0", "-c", "show", &port]).code(0);
        instance.end();
    });
}

#[test]
fn two_instances_of_one_port_are_told_apart() {
    let first = own_address();
    let mut second = own_address();
    second.set_port(first.port());
    let directory = Directory::new();
    let start = |address: std::net::SocketAddr, channel: &str| {
        let args =
            ["-b".to_owned(), address.ip().to_string(), address.port().to_string(), channel.to_owned()];
        Run::balance(&directory).args(args).finish().code(0).out("");
    };
    start(first, "127.0.0.1:9");
    start(second, "127.0.0.1:11");
    let run = |args: &[&str]| Run::balance(&directory).args(args).finish();
    let port = first.port().to_string();
    for (address, channel) in [(first, " 9 "), (second, " 11 ")] {
        let shown = run(&["-b", &address.ip().to_string(), "-c", "show", &port]).code(0);
        assert!(shown.stdout.contains(channel), "{shown}");
    }
    let ambiguous = run(&["-c", "show", &port]);
    assert_ne!(ambiguous.code, 0, "{ambiguous}");
    for address in [first, second] {
        run(&["-b", &address.ip().to_string(), "-c", "kill", &port]).code(0);
    }
    run(&["-c", "show", &port]).code(69);
}

#[test]
fn nothing_stale_is_left_by_a_kill_9() {
    let address = own_address();
    let (ip, port) = (address.ip().to_string(), address.port().to_string());
    let mut instance = Setup::binding(address).start(["-b", &ip, "PORT", "127.0.0.1:9"]);
    instance.signal(Signal::KILL);
    assert_eq!(instance.wait(), 137);
    let gone = instance.ctl("show").code(69);
    assert!(format!("{}{}", gone.stdout, gone.stderr).contains("no master process, exiting."), "{gone}");
    // A new start in the same place just works.
    let run = |args: &[&str]| Run::balance(&instance.directory).args(args).finish();
    run(&["-b", &ip, &port, "127.0.0.1:11"]).code(0).out("");
    let shown = run(&["-c", "show", &port]).code(0);
    assert!(shown.stdout.contains(" 11 ") && !shown.stdout.contains(" 9 "), "{shown}");
    run(&["-b", &ip, "-c", "kill", &port]).code(0);
}

#[test]
fn a_symlink_in_the_way_is_never_followed() {
    let address = own_address();
    let (ip, port) = (address.ip().to_string(), address.port().to_string());
    let directory = Directory::new();
    let run = directory.path().join("run");
    fs::create_dir(&run).expect("a fresh directory");
    fs::set_permissions(&run, fs::Permissions::from_mode(0o1777)).expect("our own directory");
    let victim = directory.file("victim", "precious");
    symlink(&victim, run.join(format!("balance.{port}.{ip}"))).expect("a fresh directory");
    let started = Run::balance(&directory).args(["-b", &ip, &port, "127.0.0.1:9"]).finish();
    assert_eq!(fs::read_to_string(&victim).expect("still there"), "precious");
    // Taken away or refused, it must not be followed; an instance that serves must be reachable.
    if started.code == 0 {
        Client::connect(address);
        let _ = Run::balance(&directory).args(["-b", &ip, "-c", "kill", &port]).finish();
    }
    let nowhere = directory.path().join("nowhere");
    assert!(!nowhere.exists());
}

#[test]
fn a_dangling_symlink_creates_nothing_elsewhere() {
    let address = own_address();
    let (ip, port) = (address.ip().to_string(), address.port().to_string());
    let directory = Directory::new();
    let run = directory.path().join("run");
    fs::create_dir(&run).expect("a fresh directory");
    let nowhere = directory.path().join("nowhere");
    symlink(&nowhere, run.join(format!("balance.{port}.{ip}"))).expect("a fresh directory");
    let started = Run::balance(&directory).args(["-b", &ip, &port, "127.0.0.1:9"]).finish();
    assert!(!nowhere.exists(), "{started}");
    if started.code == 0 {
        let _ = Run::balance(&directory).args(["-b", &ip, "-c", "kill", &port]).finish();
        // Killed or not reachable: it must not outlive the test.
        eventually("the port is free", || TcpListener::bind(address).ok());
    }
}

#[test]
fn a_socket_planted_by_somebody_else_is_not_trusted() {
    if needs_root("planting as another user") {
        return;
    }
    let directory = Directory::new();
    let run = directory.path().join("run");
    fs::create_dir(&run).expect("a fresh directory");
    fs::set_permissions(&run, fs::Permissions::from_mode(0o1777)).expect("our own directory");
    let port = own_address().port().to_string();
    let path = run.join(format!("balance.{port}.127.0.0.1"));
    // A server of nobody's that answers everything with a lie.
    let mut liar = std::process::Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "socat"])
        .arg(format!("UNIX-LISTEN:{},fork,mode=777", path.display()))
        .arg("SYSTEM:printf lie")
        .spawn()
        .expect("setpriv and socat: apt-get install util-linux socat");
    eventually("the planted socket", || path.exists().then_some(()));
    let asked = Run::balance(&directory).args(["-b", "127.0.0.1", "-c", "kill", &port]).finish();
    let _ = liar.kill();
    let _ = liar.wait();
    assert_ne!(asked.code, 0, "{asked}");
    assert!(!asked.stdout.contains("lie"), "{asked}");
}

#[test]
fn another_user_cannot_steer_an_instance() {
    if needs_root("asking as another user") {
        return;
    }
    let instance = Instance::start(["PORT", "127.0.0.1:9"]);
    fs::set_permissions(instance.directory.path(), fs::Permissions::from_mode(0o755))
        .expect("our own directory");
    // Whatever the socket's mode is, the peer's credentials decide.
    let path = socket(&instance);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).expect("root may");
    if let Some(parent) = path.parent() {
        fs::set_permissions(parent, fs::Permissions::from_mode(0o1777)).expect("root may");
    }
    // The program under test lives where nobody may not look.
    let copy = program_for_all(&instance.directory);
    for command in ["show", "disable 0", "kill"] {
        let asked = Run::new("setpriv")
            .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
            .arg(&copy)
            .args(instance.bind_option())
            .args(["-c", command, &instance.port()])
            .env("BALANCE_RUN_DIR", instance.directory.path().join("run"))
            .finish();
        assert_ne!(asked.code, 0, "{asked}");
        assert!(!asked.stdout.contains("disabled") && !asked.stdout.contains("complete"), "{asked}");
    }
    assert_eq!(instance.show()[0].state, "ENA");
    instance.end();
}

#[test]
fn another_user_runs_an_instance_of_his_own() {
    if needs_root("starting as another user") {
        return;
    }
    let address = own_address();
    let (ip, port) = (address.ip().to_string(), address.port().to_string());
    let directory = Directory::new();
    let copy = program_for_all(&directory);
    let home = own_directory(&directory, "home");
    set_mode(&home, 0o700);
    // No directory of ours: /run/balance may not exist or not be his, so he falls back to his own runtime directory.
    let run = |args: &[&str]| {
        let as_nobody = Run::new("setpriv").args(["--reuid=65534", "--regid=65534", "--clear-groups", "env"]);
        let as_nobody = as_nobody.args(["-u", "BALANCE_RUN_DIR"]).arg(&copy).args(args);
        as_nobody.env("XDG_RUNTIME_DIR", &home).env("HOME", &home).finish()
    };
    run(&["-b", &ip, &port, "127.0.0.1:9"]).code(0).out("");
    let shown = run(&["-b", &ip, "-c", "show", &port]).code(0);
    assert!(shown.stdout.contains(" 9 "), "{shown}");
    run(&["-b", &ip, "-c", "kill", &port]).code(0).out("shutdown complete, exiting.\n");
}

#[test]
fn an_upgrade_gives_the_control_socket_to_the_group_that_is_named_now() {
    if needs_root("giving a file to a group") {
        return;
    }
    let server = Server::named("a");
    let at = own_address();
    let setup = Setup::binding(at);
    let line = format!("-b {} {} {server}\n", at.ip(), at.port());
    let file = setup.directory().file("services", &line);
    let mut instance = setup.start(["--file", &file.display().to_string()]);
    let run = instance.directory.path().join("run");
    let sockets = || {
        let files = fs::read_dir(&run).expect("the run directory");
        let of_sockets = files.map(|file| file.expect("a file").metadata().expect("its data"));
        let of_sockets = of_sockets.filter(|data| data.file_type().is_socket());
        of_sockets.map(|data| (data.mode() & 0o777, data.gid())).collect::<BTreeSet<_>>()
    };
    let own = rustix::process::getegid().as_raw();
    assert_eq!(sockets(), [(0o600, own)].into());
    for (options, expected) in
        [("* --control-group 60\n", (0o660, 60)), ("* --control-group 61\n", (0o660, 61)), ("", (0o600, 61))]
    {
        fs::write(&file, format!("{options}{line}")).expect("our own file");
        let told = instance.ctl("upgrade").code(0).stdout;
        let pid = told.split(' ').nth(1).and_then(|pid| pid.parse().ok()).expect("it is named");
        assert_eq!(sockets(), [expected].into(), "{options}");
        instance.succeed(pid);
    }
    instance.end();
}

#[test]
fn members_of_the_control_group_are_served_and_others_are_not() {
    if needs_root("asking as other users") {
        return;
    }
    // 60 is `games` in every Debian; that nobody is a member of it does not matter, since the group is given by hand.
    let server = Server::echo();
    let mut instance = Instance::start(["--control-group", "60", "PORT", &server.to_string()]);
    let client = instance.connect();
    let id = crate::tap::number_of(&instance, &client);
    let directory = instance.directory.path().to_owned();
    let directory = &*directory;
    let copy = program_for_all(&instance.directory);
    let ask_as = |group: &str, command: &str| {
        Run::new("setpriv")
            .args(["--reuid=65534", &format!("--regid={group}"), "--clear-groups"])
            .arg(&copy)
            .args(instance.bind_option())
            .args(["-c", command, &instance.port()])
            .env("BALANCE_RUN_DIR", directory.join("run"))
            .finish()
    };
    assert_ne!(ask_as("65534", "disable 0").code, 0);
    assert_eq!(instance.show()[0].state, "ENA");
    ask_as("60", "disable 0").code(0).out("channel 0 disabled\n");
    // What it may not do is to run programs of its own as the user of the instance.
    let mark = directory.join("mark");
    let program = instance.directory.file("program", &format!("#!/bin/sh\n: >{}\n", mark.display()));
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("our own file");
    let allowed = match rustix::process::geteuid().as_raw() {
        0 => "root".to_owned(),
        own => format!("root and user {own}"),
    };
    let refused = format!(
        "upgrade with a path is for {allowed} only, since it runs that program as this user; use upgrade without a path\n"
    );
    ask_as("60", &format!("upgrade {}", program.display())).code(77).out(&refused);
    assert!(!mark.exists());
    // Nor may it see what clients send, in whatever form.
    let refused = format!("tap is for {allowed} only, since it shows what clients send\n");
    let file = directory.join("x.pcapng").display().to_string();
    for text in
        [format!("tap {id}"), format!("tap {id} pieces"), format!("tap {id} {file}"), "tap 4711".into()]
    {
        ask_as("60", &text).code(77).out(&refused);
    }
    assert!(!instance.told("commanded").iter().any(|line| line.contains("tap")));
    drop(client);
    let told = ask_as("60", "upgrade").code(0).stdout;
    let pid = told.split(' ').nth(1).and_then(|pid| pid.parse().ok()).expect("it is named");
    assert_eq!(instance.show()[0].state, "dis");
    instance.succeed(pid);
    instance.end();
}

#[test]
fn a_hangup_brings_a_control_socket_back_that_was_deleted() {
    let server = Server::named("a");
    let mut instance = Instance::before(&[&server]);
    let directory = instance.directory.path().join("run");
    for round in 1..=2 {
        // What cleans up may take the directory away, too.
        match round {
            1 => fs::remove_file(socket(&instance)).expect("it is there"),
            _ => fs::remove_dir_all(&directory).expect("it is there"),
        }
        instance.ctl("show").code(69);
        instance.signal(Signal::HUP);
        eventually("it can be asked", || (instance.ctl("show").code == 0).then_some(()));
        let text = "the control socket was deleted; balance has made it again";
        eventually("that is logged", || {
            let told = instance.told("note");
            (told.iter().any(|line| line.contains(text))).then_some(())
        });
        assert_eq!(fs::metadata(socket(&instance)).expect("it is there").mode() & 0o777, 0o600);
    }
    instance.upgrade();
    assert_eq!(instance.names(1), "a");
    instance.ctl("kill").code(0);
    eventually("it ends", || (!instance.is_running()).then_some(()));
    assert_eq!(fs::read_dir(directory).expect("a directory").count(), 0);
}

#[test]
fn the_rendezvous_is_made_for_its_owner_only() {
    let instance = Instance::start(["PORT"]);
    let path = socket(&instance);
    let meta = fs::symlink_metadata(&path).expect("it is there");
    assert_eq!(meta.uid(), rustix::process::geteuid().as_raw());
    let parent = fs::metadata(path.parent().expect("a directory")).expect("it is there");
    let (socket_mode, directory_mode) = (meta.permissions().mode(), parent.permissions().mode());
    assert!(socket_mode & 0o007 == 0 || directory_mode & 0o1000 != 0 || directory_mode & 0o007 == 0);
    instance.end();
}

#[test]
fn a_directory_that_cannot_be_made_is_a_warning_and_the_instance_serves() {
    let server = Server::named("a");
    let directory = Directory::new();
    let file = directory.file("file", "");
    let script = format!("export BALANCE_RUN_DIR={0}/run XDG_RUNTIME_DIR={0}/x;", file.display());
    let instance = Setup::new().within(directory).shell(&script).spawn(["PORT", &server.to_string()]);
    assert_eq!(instance.names(2), "aa");
    eventually("a line that says so", || instance.stderr().contains("rendezvous").then_some(()));
    instance.terminate();
}

#[test]
fn lines_of_any_length_are_one_command() {
    let instance = Instance::start(["PORT", "127.0.0.1:9"]);
    let before = instance.show();
    for length in [100, 1000, 4096, 65_536, 1_000_000] {
        // Cut anywhere, its tail would be a command.
        let line = format!("{}\n{}disable 0\n", "x".repeat(length), "disable 0 ".repeat(length / 10));
        let finished = instance.shell(line).code(0);
        assert_eq!(
            finished.stdout.matches("syntax error").count(),
            2,
            "length {length}: two lines, two answers"
        );
    }
    assert_eq!(before, instance.show());
    instance.end();
}

#[test]
fn lines_of_any_bytes_are_answered() {
    let instance = Instance::start(["PORT", "127.0.0.1:9"]);
    let mut input = Vec::new();
    for byte in (0..=255).filter(|byte| *byte != b'\n') {
        input.extend_from_slice(&[b'z', byte, byte, b'\n']);
    }
    let finished = instance.shell(input).code(0);
    let answers = finished.stdout.matches("syntax error").count();
    assert_eq!(answers, 255, "{finished}");
    assert_eq!(instance.show()[0].state, "ENA");
    instance.end();
}

#[test]
fn strangers_on_the_socket_hurt_nobody() {
    let server = Server::named("a");
    let instance = Instance::before(&[&server]);
    let path = socket(&instance);
    let connect = || UnixStream::connect(&path).expect("the instance is there");
    // Bytes of all kinds, halves of frames, connections that say nothing and ones that go.
    let mut idle: Vec<_> = (0..8).map(|_| connect()).collect();
    for round in 0_u8..64 {
        let mut stream = connect();
        let noise: Vec<u8> = (0..200_u32).map(|i| (i * 7 + u32::from(round) * 31) as u8).collect();
        let _ = stream.write_all(&noise);
        let _ = stream.set_read_timeout(Some(Duration::from_millis(1)));
        let _ = stream.read(&mut [0; 64]);
    }
    assert_eq!(instance.names(2), "aa");
    instance.ctl("show").code(0);
    idle.clear();
    instance.end();
}

#[test]
fn many_shells_at_once_see_one_table() {
    let instance = Instance::start(["PORT"]);
    std::thread::scope(|scope| {
        for _ in 0..12 {
            scope.spawn(|| {
                let finished = instance.shell("create 127.0.0.1 9\n".repeat(20)).code(0);
                assert_eq!(finished.stdout.matches("channel created").count(), 20);
            });
        }
    });
    let rows = instance.show();
    assert_eq!(rows.len(), 240);
    assert!(rows.iter().enumerate().all(|(i, row)| row.channel == i), "numbered without gaps");
    instance.end();
}

#[test]
fn a_lookup_that_takes_its_time_holds_up_no_traffic() {
    let server = Server::named("a");
    let instance = Instance::before(&[&server]);
    std::thread::scope(|scope| {
        scope.spawn(|| instance.ctl("create no-such-host.invalid 80").code(65));
        for _ in 0..20 {
            assert_eq!(instance.names(1), "a");
        }
    });
    instance.end();
}

#[test]
fn kill_frees_the_port_and_lets_connections_live_on() {
    let server = Server::echo();
    let address = own_address();
    let (ip, port) = (address.ip().to_string(), address.port().to_string());
    let mut instance = Setup::binding(address).start(["-b", &ip, &port, &server.to_string()]);
    let mut client = instance.connect();
    client.send("before");
    assert_eq!(client.recv(6), b"before");
    instance.ctl("kill").code(0).out("shutdown complete, exiting.\n");
    // At once: listener and control endpoint are gone with the answer.
    assert!(TcpStream::connect(address).is_err(), "the listener is gone");
    instance.ctl("show").code(69);
    assert!(instance.is_running());
    client.send("after");
    assert_eq!(client.recv(5), b"after", "the connection lives on");
    // Its successor takes the port while the old connection still lives.
    let successor = Setup::binding(address).start(["-b", &ip, &port, &server.to_string()]);
    client.send("still");
    assert_eq!(client.recv(5), b"still");
    drop(client);
    instance.killed();
    successor.end();
}

#[test]
fn kill_in_the_shell_leaves_the_shell() {
    let instance = Instance::start(["PORT"]);
    let finished = instance.shell("k\nshow\n").code(0);
    assert!(finished.stdout.ends_with("balance[0] shutdown complete, exiting.\n"), "{finished}");
    instance.killed();
}

#[test]
fn a_shell_whose_instance_dies_says_so_and_ends() {
    let mut instance = Instance::start(["PORT"]);
    let port = instance.port();
    let mut shell = std::process::Command::new(BALANCE);
    shell.args(["-i", &port]).env("BALANCE_RUN_DIR", instance.directory.path().join("run"));
    shell
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null());
    let mut shell = shell.spawn().expect("the program under test");
    let mut stdout = shell.stdout.take().expect("a pipe");
    // The greeting is unbuffered, also into a pipe.
    let mut said = Vec::new();
    while !said.ends_with(b"balance[0] ") {
        let mut byte = [0];
        stdout.read_exact(&mut byte).expect("the greeting");
        said.push(byte[0]);
    }
    instance.signal(Signal::KILL);
    instance.wait();
    let _ = shell.stdin.take().expect("a pipe").write_all(b"show\n");
    let status = eventually("the shell's end", || shell.try_wait().expect("our own child"));
    assert_ne!(status.code(), Some(0));
    assert!(!matches!(status.code(), None | Some(101)), "{status:?}");
}

#[test]
fn a_controller_whose_reader_is_gone_does_not_crash() {
    let instance = Instance::start(["PORT"]);
    let script =
        format!("balance -c help {0} | true; echo show | balance -i {0} | true; echo done", instance.port());
    Run::script(&instance.directory, &script).finish().code(0).out("done\n");
    instance.end();
}

#[test]
fn tables_of_thousands_of_channels_are_shown_whole() {
    let instance = Instance::start(["PORT"]);
    instance.shell("create 127.0.0.1 9\n".repeat(3000)).code(0);
    assert_eq!(instance.show().len(), 3000);
    instance.end();
}

#[test]
fn the_shell_on_a_terminal_completes_words_and_takes_lines_typed_ahead() {
    let instance = Instance::start(["PORT", "127.0.0.1:9"]);
    let mut shell = Terminal::shell(&instance);
    // All at once, faster than anybody types: completion of `sh`, then two more lines.
    shell.types("sho\t\nmaxc 0 7\nquit\n");
    assert_eq!(shell.ends().code(), Some(0), "{}", shell.said());
    shell.awaits("GRP Type");
    shell.awaits("maxc of channel 0 changed to 7");
    instance.await_show("it was done", |rows| rows[0].maxc == 7);
    let history = instance.directory.path().join(".local/state/balance/history");
    let text = fs::read_to_string(&history).expect("a history");
    assert!(text.contains("maxc 0 7"), "{text}");
    assert_eq!(fs::metadata(&history).expect("it is there").permissions().mode() & 0o777, 0o600);
    instance.end();
}

#[test]
fn ctrl_c_ends_a_wait_of_the_shell_and_not_the_shell() {
    let (a, b) = (Server::named("a"), Server::named("b"));
    let instance = Instance::start(["PORT".into(), format!("{a},disabled"), "!".into(), b.to_string()]);
    let (client, name) = instance.named();
    assert_eq!(name, "b");
    let mut shell = Terminal::shell(&instance);
    shell.types("group 1\n");
    shell.awaits("balance[1]");
    shell.types("wait 0\n");
    // A Ctrl-C may come before the terminal makes a signal of it, and shows it as "^C".
    shell.types_until("\x03", |said| {
        said.rsplit_once("^C").is_some_and(|(_, rest)| rest.contains("balance[1]"))
    });
    shell.types_until("drain 0\n", |said| said.contains("channel 0 draining, 1 connection left"));
    shell.types("quit\n");
    assert_eq!(shell.ends().code(), Some(0), "{}", shell.said());
    drop(client);
    instance.end();
}

/// An instance with two services of these names before one server. The harness asks the second one.
fn two_services(names: [&str; 2], server: &Server) -> (Instance, [SocketAddr; 2]) {
    let addresses = [(); 2].map(|()| own_address());
    let setup = Setup::binding(addresses[1]);
    let lines: Vec<_> = names
        .iter()
        .zip(addresses)
        .map(|(name, at)| format!("{name}: -b {} {} {server}\n", at.ip(), at.port()))
        .collect();
    let file = setup.directory().file("services", &lines.concat());
    (setup.start(["--file", &file.display().to_string()]), addresses)
}

#[test]
fn a_killed_service_is_gone_with_its_last_client_and_changes_are_logged_by_their_service() {
    let server = Server::named("a");
    let (instance, [web, _]) = two_services(["web", "mail"], &server);
    let mut client = Client::connect(web);
    assert_eq!(client.recv(1), b"a");
    instance.ctl("use web; kill").code(0).out("using service web\nshutdown complete, exiting.\n");
    let services = || {
        let list = instance.ctl("services").code(0).stdout;
        list.lines()
            .skip(1)
            .map(|line| line.split_whitespace().nth(4).unwrap_or_default().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(services(), ["draining", "serving"]);
    // A session that does not say which begins with the one that takes clients.
    let entry = instance.directory.path().join("run/service.mail");
    let mut session = UnixStream::connect(entry).expect("an instance");
    session.write_all(b"disable 0; quit\n").expect("written");
    let mut said = String::new();
    session.read_to_string(&mut said).expect("its end");
    assert!(said.ends_with("channel 0 disabled\n. 0 0 end in mail\n"), "{said}");
    drop(client);
    eventually("web is gone", || (services() == ["serving"]).then_some(()));
    instance.ctl("use web").code(65).out("no such service web\n");
    let log = instance.stderr();
    let logged: Vec<&str> = log.lines().filter(|line| line.contains("event=commanded")).collect();
    let [kill, disable] = logged[..] else { panic!("{log}") };
    assert!(kill.contains("service=web") && disable.contains("service=mail"), "{log}");
    instance.terminate();
}

#[test]
fn a_service_that_was_stopped_is_not_running_and_its_name_is_nobody_elses() {
    let server = Server::named("a");
    let (mut instance, [smtp, web]) = two_services(["smtp", "web"], &server);
    let mut client = Client::connect(smtp);
    assert_eq!(client.recv(1), b"a");
    let ctl = |args: &[&str]| Run::balance(&instance.directory).args(args).finish();
    ctl(&["-c", "kill", "smtp"]).code(0).out("shutdown complete, exiting.\n");
    // Draining, and then gone: a command for it must not reach whoever has the port of that name.
    let gone = "no service smtp is running; for port 25, which has the same name, type 25\n";
    for command in ["show", "kill", "status"] {
        ctl(&["-c", command, "smtp"]).code(69).out("").err(gone);
    }
    drop(client);
    eventually("smtp is gone", || {
        (ctl(&["-c", "services", "web"]).code(0).stdout.lines().count() == 2).then_some(())
    });
    ctl(&["-c", "kill", "smtp"]).code(69).out("").err(gone);
    ctl(&["-i", "smtp"]).code(69).out("").err(gone);
    let neither = "invalid port [no-such], exiting.\nbalance: no port and no running service has this name; balance --list shows those that run\n";
    assert_eq!(ctl(&["-c", "show", "no-such"]).code(64).out("").stderr, neither);
    // Another process may take the name.
    let again = format!("smtp: -b {} {} {server}\n", smtp.ip(), smtp.port());
    let file = instance.directory.file("again", &again).display().to_string();
    let started = ctl(&["--file", &file]).code(0);
    assert!(!started.stderr.contains("no_rendezvous"), "{started}");
    assert!(ctl(&["-c", "save", "smtp"]).code(0).stdout.starts_with("smtp: -b "), "the new one");
    ctl(&["-c", "kill", "smtp"]).code(0);
    ctl(&["-b", &web.ip().to_string(), "-c", "kill", &web.port().to_string()]).code(0);
    assert_eq!(instance.wait(), 0);
}

#[test]
fn of_two_services_of_one_name_in_two_processes_none_is_taken_silently() {
    let server = Server::named("a");
    let (instance, [web, _]) = two_services(["web", "mail"], &server);
    let other = own_address();
    let line = format!("web: -b {} {} {server}\n", other.ip(), other.port());
    let file = instance.directory.file("other", &line).display().to_string();
    let ctl = |args: &[&str]| Run::balance(&instance.directory).args(args).finish();
    ctl(&["--file", &file]).code(0).err("another instance has a service of this name");
    let of = |at: SocketAddr| format!("-b {} {} (process ", at.ip(), at.port());
    for command in ["show", "kill"] {
        let said = ctl(&["-c", command, "web"]).code(69).out("").stderr;
        let start = "balance: several services are called web, say which by address and port: ";
        assert!(said.starts_with(start), "{said}");
        for at in [web, other] {
            assert!(said.contains(&of(at)), "{at}: {said}");
        }
    }
    // What is to be typed works, and leaves one of them.
    ctl(&["-b", &web.ip().to_string(), "-c", "kill", &web.port().to_string()]).code(0);
    let saved = ctl(&["-c", "save", "web"]).code(0).stdout;
    assert!(saved.starts_with(&format!("web: -b {} {} ", other.ip(), other.port())), "{saved}");
    ctl(&["-c", "kill", "web"]).code(0);
    ctl(&["-c", "show", "web"]).code(69).err("no service web is running\n");
    instance.terminate();
}

#[test]
fn a_name_is_meant_without_an_address_and_with_one_a_port() {
    let server = Server::named("a");
    let (instance, [_, smtp]) = two_services(["web", "smtp"], &server);
    let ctl = |args: &[&str]| Run::balance(&instance.directory).args(args).finish();
    ctl(&["-c", "use smtp", "web"]).code(0).out("using service smtp\n");
    // A name and an address that is not its own: nobody is meant.
    ctl(&["-b", "127.0.0.1", "-c", "disable 0", "web"]).code(64).err("invalid port [web]");
    ctl(&["-b", &smtp.ip().to_string(), "-c", "disable 0", "web"]).code(64);
    // What follows a mistyped name is meant for nobody else.
    let said = "no such service smpt\nthe rest of the line was not carried out\n";
    ctl(&["-c", "use smpt; kill", "web"]).code(65).out(said);
    ctl(&["-c", "services", "web"]).code(0);
    let told = instance.told("note");
    let [note] = &told[..] else { panic!("{told:#?}") };
    assert!(note.contains("service smtp: this is also the name of port 25"), "{note}");
    instance.terminate();
}
