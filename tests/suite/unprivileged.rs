//! `--user` and `--landlock`: what the process gives up, and that everything it needs still works.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;

use crate::harness::{
    BALANCE, Client, Directory, Elsewhere, Run, Server, USER, Unprivileged, copy_program, eventually,
    has_landlock, needs_root, open_to_all, own_address, own_directory, program_for_all, script, set_mode,
};

/// An address with a port that only root may bind.
fn low_address() -> SocketAddr {
    SocketAddr::new(own_address().ip(), 81)
}

fn status(pid: i32, field: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = text.lines().find_map(|line| line.strip_prefix(field)).expect("the field is there");
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// All of what `--user` promises of the process.
#[track_caller]
fn assert_unprivileged(pid: i32) {
    let all = format!("{USER} {USER} {USER} {USER}");
    assert_eq!((status(pid, "Uid:"), status(pid, "Gid:")), (all.clone(), all));
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
        assert_eq!(status(pid, set), "0000000000000400", "{set} net_bind_service alone");
    }
    assert_eq!(status(pid, "NoNewPrivs:"), "1");
    assert_eq!(status(pid, "Groups:"), if USER == 65_534 { "65534" } else { "" });
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).expect("it runs");
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).expect("there is one");
    assert_eq!(core.split_whitespace().nth(4), Some("1"), "{core}");
    for thread in fs::read_dir(format!("/proc/{pid}/task")).expect("it runs").flatten() {
        let text = fs::read_to_string(thread.path().join("status")).unwrap_or_default();
        let has = |line: &str| text.is_empty() || text.lines().any(|one| one == line);
        assert!(has("CapEff:\t0000000000000400") && has("NoNewPrivs:\t1"), "{text}");
    }
}

#[test]
fn an_unprivileged_process_does_all_that_root_did() {
    if needs_root("becoming another user") {
        return;
    }
    let server = Server::named("a");
    let (at, second) = (low_address(), low_address());
    let setup = Unprivileged::at(at).before("umask 022;");
    let directory = setup.directory();
    let logs = own_directory(directory, "log");
    let seen = logs.join("seen");
    let check = script(
        directory,
        "check",
        &format!("grep -E '^(Cap|NoNewPrivs)' /proc/self/status >{0}.new && mv {0}.new {0}", seen.display()),
    );
    let lists = own_directory(directory, "lists");
    fs::write(lists.join("deny"), "192.0.2.0/24\n").expect("our own file");
    let first = format!(
        "* --user {USER}:{USER} --access-log {log} --state {state} --deny {deny} --check exec:{check} --check-interval 1s\n\
         -b {} 81 {server}\n",
        at.ip(),
        log = logs.join("access").display(),
        state = logs.join("state").display(),
        deny = lists.join("deny").display(),
        check = check.display()
    );
    let conf = directory.path().join("conf");
    fs::create_dir(&conf).expect("a new directory");
    let file = conf.join("web.conf");
    fs::write(&file, &first).expect("our own file");
    let mut instance = setup.start(["--file".to_owned(), conf.display().to_string()]);
    assert_unprivileged(instance.pid());
    assert_eq!(Client::connect(at).recv(1), b"a");

    // Checks have no capability at all.
    let check_saw = eventually("a check has run", || fs::read_to_string(&seen).ok());
    for set in ["CapPrm", "CapEff", "CapAmb"] {
        assert!(check_saw.contains(&format!("{set}:\t0000000000000000")), "{check_saw}");
    }
    assert!(check_saw.contains("NoNewPrivs:\t1"), "{check_saw}");

    // The doctor says what holds.
    let told = instance.ask("doctor").stdout;
    let fenced = has_landlock();
    let landlock = if fenced { ", Landlock" } else { "" };
    let holds = format!(
        "holds: user nobody, no new privileges, capability net_bind_service alone, core files off{landlock}\n"
    );
    assert!(told.ends_with(&holds), "{told}");

    for round in 0..2 {
        // A reload may take one more port below 1024.
        let more = format!("{first}-b {} 81 {server}\n", second.ip());
        fs::write(&file, if round == 0 { &more } else { &first }).expect("our own file");
        instance.ask("reload").code(0);
        if round == 0 {
            assert_eq!(Client::connect(second).recv(1), b"a");
        }
        // Logs are rotated, and the state is kept, by the user.
        fs::rename(logs.join("access"), logs.join(format!("access.{round}"))).expect("our own file");
        instance.ask("reopen").code(0);
        eventually("the log is there again", || {
            let made = fs::metadata(logs.join("access")).ok()?;
            assert_eq!(made.uid(), USER);
            Some(())
        });
        instance.ask(if round == 0 { "disable 0" } else { "enable 0" }).code(0);
        let word = if round == 0 { "disabled" } else { "" };
        eventually("the state is kept", || {
            let text = fs::read_to_string(logs.join("state")).ok()?;
            text.contains(word).then_some(())
        });
        // A new process is unprivileged from its first moment, and can do the same.
        let told = instance.ask("upgrade").code(0).stdout;
        let pid = told.split(' ').nth(1).and_then(|pid| pid.parse().ok()).expect("it is named");
        instance.succeed(pid);
        assert_unprivileged(pid);
    }
    assert_eq!(Client::connect(at).recv(1), b"a");
    let told = instance.ask("doctor").stdout;
    assert!(told.ends_with(&holds), "{told}");

    if fenced {
        // What lies elsewhere is closed off, and this is what is said.
        let elsewhere = Elsewhere::new();
        let list = elsewhere.0.join("allow");
        fs::write(&list, "127.0.0.0/8\n").expect("our own file");
        [&elsewhere.0, &list].into_iter().for_each(|path| open_to_all(path));
        fs::write(&file, format!("{first}-b {} --allow {} 81 {server}\n", second.ip(), list.display()))
            .expect("our own file");
        let told = instance.ask("reload");
        assert!(
            told.code != 0
                && told.to_string().contains("--landlock: balance can open only files in the directories"),
            "{told}"
        );
        // A program is closed off in the same way.
        let other = elsewhere.0.join("balance");
        copy_program(BALANCE, &other);
        set_mode(&other, 0o755);
        let told = instance.ask(&format!("upgrade {}", other.display()));
        assert!(told.code != 0 && told.to_string().contains("--landlock: "), "{told}");
    }
    instance.signal(rustix::process::Signal::TERM);
    assert_eq!(instance.wait(), 0);
}

#[test]
fn without_landlock_the_rest_holds_and_it_is_said() {
    if needs_root("becoming another user") {
        return;
    }
    let server = Server::named("a");
    let at = low_address();
    let strace = failing("landlock_create_ruleset", "ENOSYS");
    let instance = Unprivileged::at(at).through(&strace).serve(&[], &server);
    assert!(instance.stderr().contains("--landlock: this kernel has no Landlock"), "{}", instance.stderr());
    let told = instance.ask("doctor").stdout;
    assert!(told.contains("advice privileges: this kernel has no Landlock"), "{told}");
    assert!(told.ends_with("capability net_bind_service alone, core files off\n"), "{told}");
    assert_eq!(Client::connect(at).recv(1), b"a");
    instance.ask("kill").code(0);
}

#[test]
fn who_cannot_be_the_user_says_why() {
    let check = |args: &[&str]| Run::balance(&Directory::new()).args(args).finish();
    check(&["--check-only", "--user", "no-such-user", "80", "127.0.0.1"])
        .code(65)
        .err("balance: --user no-such-user: unknown user \"no-such-user\"");
    check(&["-f", "--user", "root:no-such-group", "80", "127.0.0.1"])
        .code(65)
        .err("balance: --user root:no-such-group: unknown group \"no-such-group\"");
    check(&["-f", "--user", "54321", "80", "127.0.0.1"])
        .code(65)
        .err("the system does not know user 54321: say which group, such as 54321:54321");
    for word in ["", ":", "a:", ":b", "a:b:c"] {
        check(&["--check-only", "--user", word, "80", "127.0.0.1"]).code(64).err("is not a user");
    }
    if needs_root("asking as another user") {
        return;
    }
    let directory = Directory::new();
    let copy = program_for_all(&directory);
    let as_nobody = |args: &[&str]| {
        let nobody = ["--reuid=65534", "--regid=65534", "--clear-groups"];
        Run::new("setpriv").args(nobody).arg(&copy).args(args).finish()
    };
    let as_root = ["-f", "--user", "root", "18080", "127.0.0.1"];
    as_nobody(&as_root)
        .code(71)
        .err("--user root: this process runs as nobody, and only root can become another user");
    // Anybody may check what root is going to start.
    as_nobody(&["--check-only", "--user", "root", "18080", "127.0.0.1"])
        .code(0)
        .out("1 service, 1 channel\n");
}

#[test]
fn a_user_who_is_it_already_gives_up_the_rest() {
    if needs_root("starting as another user") {
        return;
    }
    let server = Server::named("a");
    let at = own_address();
    // As a unit with User= and AmbientCapabilities= has it, and with more.
    let setpriv = "setpriv --reuid=65534 --regid=65534 --clear-groups --inh-caps +net_bind_service,+net_raw \
                   --ambient-caps +net_bind_service,+net_raw";
    let setup = Unprivileged::at(at).user("65534").with_run_directory();
    let instance = setup.through(setpriv).serve(&[], &server);
    assert_eq!(status(instance.pid(), "CapEff:"), "0000000000000400");
    assert_eq!(status(instance.pid(), "CapAmb:"), "0000000000000400");
    assert_eq!(status(instance.pid(), "NoNewPrivs:"), "1");
    assert_eq!(Client::connect(at).recv(1), b"a");
    instance.ask("kill").code(0);
}

/// Only root may give a file to a group that it is not in. Without the group, root and the user can give commands all the same.
#[test]
fn a_control_group_that_the_user_is_not_in_is_told_and_leaves_a_control_socket() {
    if needs_root("becoming another user") {
        return;
    }
    let server = Server::named("a");
    for (group, is_member) in [("60", false), ("65534", true)] {
        let at = own_address();
        let instance = Unprivileged::at(at).serve(&["--control-group", group], &server);
        let told = "--control-group 60: its members cannot give commands, since the user of balance may not give them the control socket: \
                    Operation not permitted";
        assert_eq!(instance.stderr().contains(told), !is_member, "{}", instance.stderr());
        assert!(!instance.stderr().contains("no_rendezvous"), "{}", instance.stderr());
        let doctor = instance.ask("doctor").stdout;
        let found = "the members of --control-group cannot give commands: Operation not permitted";
        assert_eq!(doctor.contains(found), !is_member, "{doctor}");
        instance.ask("kill").code(0);
    }
}

/// A program that runs another one, and for which these system calls fail.
fn failing(calls: &str, error: &str) -> String {
    format!("strace -D -f -qq -o /dev/null -e trace={calls} -e inject={calls}:error={error}")
}

#[test]
fn privileges_that_the_system_does_not_take_away_stop_no_start() {
    if needs_root("starting as another user") {
        return;
    }
    let server = Server::named("a");
    let at = own_address();
    // As a unit has it that was made for --transparent, and forbids capset.
    let setpriv = "setpriv --reuid=65534 --regid=65534 --clear-groups --inh-caps +net_bind_service,+net_admin \
                   --ambient-caps +net_bind_service,+net_admin";
    let run_by = format!("{setpriv} {}", failing("capset", "EPERM"));
    let setup = Unprivileged::at(at).user("65534").with_run_directory();
    let mut instance = setup.through(&run_by).serve(&[], &server);
    let told =
        "--user: the system does not let balance give up all privileges: balance keeps net_admin (capset: ";
    assert!(instance.stderr().contains(told), "{}", instance.stderr());
    assert!(instance.ask("events").stdout.contains(told), "{}", instance.ask("events"));
    let advice = "advice privileges: balance has capabilities that it does not need: net_admin.";
    let doctor = instance.ask("doctor").stdout;
    assert!(
        doctor.contains(advice) && doctor.contains("leave CAP_NET_ADMIN out of AmbientCapabilities="),
        "{doctor}"
    );
    assert_eq!(Client::connect(at).recv(1), b"a");
    // It was not passed on to the next process.
    let told = instance.ask("upgrade").code(0).stdout;
    let pid = told.split(' ').nth(1).and_then(|pid| pid.parse().ok()).expect("it is named");
    instance.succeed(pid);
    for set in ["CapPrm:", "CapEff:", "CapAmb:"] {
        assert_eq!(status(pid, set), "0000000000000400", "{set} net_bind_service alone");
    }
    let doctor = instance.ask("doctor").stdout;
    assert!(
        !doctor.contains("does not need") && doctor.contains("capability net_bind_service alone"),
        "{doctor}"
    );
    instance.ask("kill").code(0);
}

#[test]
fn a_process_that_was_started_where_its_user_may_not_be_can_be_upgraded() {
    if needs_root("becoming another user") {
        return;
    }
    let server = Server::named("a");
    let at = own_address();
    let setup = Unprivileged::at(at).user("65534");
    let closed = setup.directory().path().join("closed");
    fs::create_dir(&closed).expect("a new directory");
    set_mode(&closed, 0o700);
    let mut instance = setup.before(&format!("cd {} &&", closed.display())).serve(&[], &server);
    let told = instance.ask("upgrade").code(0).stdout;
    instance.succeed(told.split(' ').nth(1).and_then(|pid| pid.parse().ok()).expect("it is named"));
    assert_eq!(Client::connect(at).recv(1), b"a");
    instance.ask("kill").code(0);
}

#[test]
fn what_the_user_needs_is_asked_for_only_where_it_is_missing() {
    if needs_root("becoming another user") {
        return;
    }
    let server = Server::named("a");
    let at = own_address();
    // Root stays root: nothing has to be called, so nothing can be refused.
    let run_by = format!("setpriv --clear-groups {}", failing("setgroups,setresuid,setresgid", "EPERM"));
    let instance = Unprivileged::at(at).user("0:0").through(&run_by).serve(&[], &server);
    assert!(!instance.stderr().contains("does not let balance give up"), "{}", instance.stderr());
    instance.ask("kill").code(0);
    drop(instance);
    // Without capset, the change of user drops all capabilities.
    let instance = Unprivileged::at(at).through(&failing("capset", "EPERM")).serve(&[], &server);
    for set in ["CapPrm:", "CapEff:", "CapAmb:"] {
        assert_eq!(status(instance.pid(), set), "0000000000000000", "{set}");
    }
    let told = "balance may not listen on ports below 1024 (capset: Operation not permitted";
    assert!(instance.stderr().contains(told), "{}", instance.stderr());
    instance.ask("kill").code(0);
    drop(instance);
    // But it serves as nobody else.
    for call in ["setgroups", "setresgid", "setresuid"] {
        let (ip, port) = (at.ip().to_string(), at.port().to_string());
        let line = ["-f", "--user", "65534:65534", "-b", &ip, &port, &server.to_string()];
        let strace = failing(call, "EPERM");
        let mut words = strace.split(' ').chain([BALANCE]).chain(line);
        let told = Run::new(words.next().expect("strace")).args(words).finish();
        assert!(
            told.code == 71 && told.to_string().contains(&format!("--user 65534:65534: {call}: ")),
            "{told}"
        );
    }
}
