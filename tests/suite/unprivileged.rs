//! `--user` and `--landlock`: what the process gives up, and that everything it needs still works.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::harness::{
    BALANCE, Client, Directory, Instance, Run, Server, Setup, copy_program, eventually, needs_root,
    own_address, run_number, script,
};

/// `nobody`, by number: no name has to be looked up for it.
pub(crate) const USER: u32 = 65_534;

/// An address with a port that only root may bind.
fn low_address() -> SocketAddr {
    SocketAddr::new(own_address().ip(), 81)
}

/// A directory that the user can write.
pub(crate) fn own_directory(inside: &Directory, name: &str) -> PathBuf {
    let path = inside.path().join(name);
    fs::create_dir(&path).expect("a new directory");
    std::os::unix::fs::chown(&path, Some(USER), Some(USER)).expect("root may");
    path
}

/// A directory where no program expects to be able to write.
pub(crate) struct Elsewhere(pub(crate) PathBuf);

impl Elsewhere {
    pub(crate) fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let path = Path::new("/srv").join(format!(
            "balance-suite-{:08x}-{}",
            run_number(),
            NUMBER.fetch_add(1, Ordering::Relaxed)
        ));
        fs::create_dir_all(&path).expect("root may");
        Self(path)
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
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

/// Runs the program from a place where any user may run it.
pub(crate) fn as_program(setup: Setup, more: &str) -> Setup {
    let copy = setup.directory().path().join("balance");
    copy_program(BALANCE, &copy);
    let open = |path: &Path| fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("our own");
    [setup.directory().path(), &copy].into_iter().for_each(open);
    let run = format!("{more} exec {} -f \"$@\";", copy.display());
    setup.shell(&run)
}

pub(crate) fn ask(instance: &Instance, command: &str) -> crate::harness::Finished {
    let process = format!("process.{}", instance.pid());
    Run::balance(&instance.directory).args(["-c", command, &process]).finish()
}

#[test]
fn an_unprivileged_process_does_all_that_root_did() {
    if needs_root("becoming another user") {
        return;
    }
    let server = Server::named("a");
    let (at, second) = (low_address(), low_address());
    let setup = as_program(Setup::binding(at), "umask 022;");
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
    let mut instance = setup.spawn(["--file".to_owned(), conf.display().to_string()]);
    eventually("it answers", || (ask(&instance, "version").code == 0).then_some(()));
    assert_unprivileged(instance.pid());
    assert_eq!(Client::connect(at).recv(1), b"a");

    // Checks have no capability at all.
    let check_saw = eventually("a check has run", || fs::read_to_string(&seen).ok());
    for set in ["CapPrm", "CapEff", "CapAmb"] {
        assert!(check_saw.contains(&format!("{set}:\t0000000000000000")), "{check_saw}");
    }
    assert!(check_saw.contains("NoNewPrivs:\t1"), "{check_saw}");

    // The doctor says what holds.
    let told = ask(&instance, "doctor").stdout;
    let fenced = rustix_has_landlock();
    let landlock = if fenced { ", Landlock" } else { "" };
    let holds = format!(
        "holds: user nobody, no new privileges, capability net_bind_service alone, core files off{landlock}\n"
    );
    assert!(told.ends_with(&holds), "{told}");

    for round in 0..2 {
        // A reload may take one more port below 1024.
        let more = format!("{first}-b {} 81 {server}\n", second.ip());
        fs::write(&file, if round == 0 { &more } else { &first }).expect("our own file");
        ask(&instance, "reload").code(0);
        if round == 0 {
            assert_eq!(Client::connect(second).recv(1), b"a");
        }
        // Logs are rotated, and the state is kept, by the user.
        fs::rename(logs.join("access"), logs.join(format!("access.{round}"))).expect("our own file");
        ask(&instance, "reopen").code(0);
        eventually("the log is there again", || {
            let made = fs::metadata(logs.join("access")).ok()?;
            assert_eq!(made.uid(), USER);
            Some(())
        });
        ask(&instance, if round == 0 { "disable 0" } else { "enable 0" }).code(0);
        let word = if round == 0 { "disabled" } else { "" };
        eventually("the state is kept", || {
            let text = fs::read_to_string(logs.join("state")).ok()?;
            text.contains(word).then_some(())
        });
        // A new process is unprivileged from its first moment, and can do the same.
        let told = ask(&instance, "upgrade").code(0).stdout;
        let pid = told.split(' ').nth(1).and_then(|pid| pid.parse().ok()).expect("it is named");
        instance.succeed(pid);
        assert_unprivileged(pid);
    }
    assert_eq!(Client::connect(at).recv(1), b"a");
    let told = ask(&instance, "doctor").stdout;
    assert!(told.ends_with(&holds), "{told}");

    if fenced {
        // What lies elsewhere is closed off, and this is what is said.
        let elsewhere = Elsewhere::new();
        let list = elsewhere.0.join("allow");
        fs::write(&list, "127.0.0.0/8\n").expect("our own file");
        for path in [&elsewhere.0, &list] {
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("our own");
        }
        fs::write(&file, format!("{first}-b {} --allow {} 81 {server}\n", second.ip(), list.display()))
            .expect("our own file");
        let told = ask(&instance, "reload");
        assert!(
            told.code != 0
                && told.to_string().contains("--landlock: balance can open only files in the directories"),
            "{told}"
        );
        // A program is closed off in the same way.
        let other = elsewhere.0.join("balance");
        copy_program(BALANCE, &other);
        fs::set_permissions(&other, fs::Permissions::from_mode(0o755)).expect("our own");
        let told = ask(&instance, &format!("upgrade {}", other.display()));
        assert!(told.code != 0 && told.to_string().contains("--landlock: "), "{told}");
    }
    instance.signal(rustix::process::Signal::TERM);
    assert_eq!(instance.wait(), 0);
}

/// Does this kernel have it?
pub(crate) fn rustix_has_landlock() -> bool {
    let features = Run::new("python3")
        .args(["-c", "import ctypes;print(ctypes.CDLL(None).syscall(444,None,0,1))"])
        .finish()
        .stdout;
    features.trim().parse().is_ok_and(|version: i32| version > 0)
}

#[test]
fn without_landlock_the_rest_holds_and_it_is_said() {
    if needs_root("becoming another user") {
        return;
    }
    let server = Server::named("a");
    let at = low_address();
    let trace = "exec strace -D -f -qq -o /dev/null -e trace=landlock_create_ruleset -e inject=landlock_create_ruleset:error=ENOSYS";
    let setup = as_program(Setup::binding(at), "");
    let copy = setup.directory().path().join("balance");
    let setup = setup.shell(&format!("{trace} {} -f \"$@\";", copy.display()));
    let user = format!("{USER}:{USER}");
    let args = ["--user", &user, "-b", &at.ip().to_string(), "81", &server.to_string()].map(str::to_owned);
    let instance = setup.spawn(args);
    eventually("it answers", || (ask(&instance, "version").code == 0).then_some(()));
    assert!(instance.stderr().contains("--landlock: this kernel has no Landlock"), "{}", instance.stderr());
    let told = ask(&instance, "doctor").stdout;
    assert!(told.contains("advice privileges: this kernel has no Landlock"), "{told}");
    assert!(told.ends_with("capability net_bind_service alone, core files off\n"), "{told}");
    assert_eq!(Client::connect(at).recv(1), b"a");
    ask(&instance, "kill").code(0);
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
    let copy = directory.path().join("balance");
    copy_program(BALANCE, &copy);
    for path in [directory.path(), &copy] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("our own file");
    }
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
    let setup = Setup::binding(at);
    // As tmpfiles.d makes it: the user may not, and root believes no directory of another user.
    let run = setup.directory().path().join("run");
    fs::create_dir(&run).expect("a new directory");
    fs::set_permissions(&run, fs::Permissions::from_mode(0o1777)).expect("our own");
    // As a unit with User= and AmbientCapabilities= has it, and with more.
    let setpriv = "exec setpriv --reuid=65534 --regid=65534 --clear-groups --inh-caps +net_bind_service,+net_raw \
                   --ambient-caps +net_bind_service,+net_raw";
    let setup = as_program(setup, "");
    let copy = setup.directory().path().join("balance");
    let setup = setup.shell(&format!("{setpriv} {} -f \"$@\";", copy.display()));
    let args = ["--user", "65534", "-b", &at.ip().to_string(), &at.port().to_string(), &server.to_string()];
    let instance = setup.spawn(args);
    eventually("it answers", || (ask(&instance, "version").code == 0).then_some(()));
    assert_eq!(status(instance.pid(), "CapEff:"), "0000000000000400");
    assert_eq!(status(instance.pid(), "CapAmb:"), "0000000000000400");
    assert_eq!(status(instance.pid(), "NoNewPrivs:"), "1");
    assert_eq!(Client::connect(at).recv(1), b"a");
    ask(&instance, "kill").code(0);
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
        let (ip, port, server) = (at.ip().to_string(), at.port().to_string(), server.to_string());
        let args = ["--user", "65534:65534", "--control-group", group, "-b", &ip, &port, &server];
        let instance = as_program(Setup::binding(at), "").spawn(args.map(str::to_owned));
        eventually("it answers", || (ask(&instance, "version").code == 0).then_some(()));
        let told = "--control-group 60: its members cannot give commands, since the user of balance may not give them the control socket: \
                    Operation not permitted";
        assert_eq!(instance.stderr().contains(told), !is_member, "{}", instance.stderr());
        assert!(!instance.stderr().contains("no_rendezvous"), "{}", instance.stderr());
        let doctor = ask(&instance, "doctor").stdout;
        let found = "the members of --control-group cannot give commands: Operation not permitted";
        assert_eq!(doctor.contains(found), !is_member, "{doctor}");
        ask(&instance, "kill").code(0);
    }
}

/// A shell command that runs `balance`, and for which a system call fails.
fn failing(setup: Setup, before: &str, call: &str) -> Setup {
    let setup = as_program(setup, "");
    let copy = setup.directory().path().join("balance");
    let strace = format!("strace -D -f -qq -o /dev/null -e trace={call} -e inject={call}:error=EPERM");
    setup.shell(&format!("exec {before} {strace} {} -f \"$@\";", copy.display()))
}

#[test]
fn privileges_that_the_system_does_not_take_away_stop_no_start() {
    if needs_root("starting as another user") {
        return;
    }
    let server = Server::named("a");
    let at = own_address();
    let setup = Setup::binding(at);
    let run = setup.directory().path().join("run");
    fs::create_dir(&run).expect("a new directory");
    fs::set_permissions(&run, fs::Permissions::from_mode(0o1777)).expect("our own");
    // As a unit has it that was made for --transparent, and forbids capset.
    let setpriv = "setpriv --reuid=65534 --regid=65534 --clear-groups --inh-caps +net_bind_service,+net_admin \
                   --ambient-caps +net_bind_service,+net_admin";
    let setup = failing(setup, setpriv, "capset");
    let args = ["--user", "65534", "-b", &at.ip().to_string(), &at.port().to_string(), &server.to_string()];
    let mut instance = setup.spawn(args);
    eventually("it answers", || (ask(&instance, "version").code == 0).then_some(()));
    let told =
        "--user: the system does not let balance give up all privileges: balance keeps net_admin (capset: ";
    assert!(instance.stderr().contains(told), "{}", instance.stderr());
    assert!(ask(&instance, "events").stdout.contains(told), "{}", ask(&instance, "events"));
    let advice = "advice privileges: balance has capabilities that it does not need: net_admin.";
    let doctor = ask(&instance, "doctor").stdout;
    assert!(
        doctor.contains(advice) && doctor.contains("leave CAP_NET_ADMIN out of AmbientCapabilities="),
        "{doctor}"
    );
    assert_eq!(Client::connect(at).recv(1), b"a");
    // It was not passed on to the next process.
    let told = ask(&instance, "upgrade").code(0).stdout;
    let pid = told.split(' ').nth(1).and_then(|pid| pid.parse().ok()).expect("it is named");
    instance.succeed(pid);
    for set in ["CapPrm:", "CapEff:", "CapAmb:"] {
        assert_eq!(status(pid, set), "0000000000000400", "{set} net_bind_service alone");
    }
    let doctor = ask(&instance, "doctor").stdout;
    assert!(
        !doctor.contains("does not need") && doctor.contains("capability net_bind_service alone"),
        "{doctor}"
    );
    ask(&instance, "kill").code(0);
}

#[test]
fn a_process_that_was_started_where_its_user_may_not_be_can_be_upgraded() {
    if needs_root("becoming another user") {
        return;
    }
    let server = Server::named("a");
    let at = own_address();
    let setup = as_program(Setup::binding(at), "");
    let closed = setup.directory().path().join("closed");
    fs::create_dir(&closed).expect("a new directory");
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).expect("our own");
    let copy = setup.directory().path().join("balance");
    let setup = setup.shell(&format!("cd {} && exec {} -f \"$@\";", closed.display(), copy.display()));
    let args = ["--user", "65534", "-b", &at.ip().to_string(), &at.port().to_string(), &server.to_string()];
    let mut instance = setup.spawn(args);
    eventually("it answers", || (ask(&instance, "version").code == 0).then_some(()));
    let told = ask(&instance, "upgrade").code(0).stdout;
    instance.succeed(told.split(' ').nth(1).and_then(|pid| pid.parse().ok()).expect("it is named"));
    assert_eq!(Client::connect(at).recv(1), b"a");
    ask(&instance, "kill").code(0);
}

#[test]
fn what_the_user_needs_is_asked_for_only_where_it_is_missing() {
    if needs_root("becoming another user") {
        return;
    }
    let server = Server::named("a");
    let at = own_address();
    let line = |user: &str| {
        ["--user", user, "-b", &at.ip().to_string(), &at.port().to_string(), &server.to_string()]
            .map(str::to_owned)
    };
    // Root stays root: nothing has to be called, so nothing can be refused.
    let setup = failing(Setup::binding(at), "setpriv --clear-groups", "setgroups,setresuid,setresgid");
    let instance = setup.spawn(line("0:0"));
    eventually("it answers", || (ask(&instance, "version").code == 0).then_some(()));
    assert!(!instance.stderr().contains("does not let balance give up"), "{}", instance.stderr());
    ask(&instance, "kill").code(0);
    drop(instance);
    // Without capset, the change of user drops all capabilities.
    let instance = failing(Setup::binding(at), "", "capset").spawn(line("65534:65534"));
    eventually("it answers", || (ask(&instance, "version").code == 0).then_some(()));
    for set in ["CapPrm:", "CapEff:", "CapAmb:"] {
        assert_eq!(status(instance.pid(), set), "0000000000000000", "{set}");
    }
    let told = "balance may not listen on ports below 1024 (capset: Operation not permitted";
    assert!(instance.stderr().contains(told), "{}", instance.stderr());
    ask(&instance, "kill").code(0);
    drop(instance);
    // But it serves as nobody else.
    for call in ["setgroups", "setresgid", "setresuid"] {
        let trace = format!("inject={call}:error=EPERM");
        let strace = ["-D", "-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={call}"), "-e", &trace];
        let told = Run::new("strace").args(strace).arg(BALANCE).arg("-f").args(line("65534:65534")).finish();
        assert!(
            told.code == 71 && told.to_string().contains(&format!("--user 65534:65534: {call}: ")),
            "{told}"
        );
    }
}
