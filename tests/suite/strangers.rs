//! One machine, several users and several networks: no user is locked out of their own instance, and none
//! reaches another user's.
//!
//! Source: docs/control.md, "Where the socket is", "Finding the instance" and "Who may control an instance".

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::harness::{
    BALANCE, Directory, Run, eventually, needs_root, own_address, private_network, program_for_all, set_mode,
};

/// Who attacks: nobody.
const MALLORY: u32 = 65_534;
/// Who has an instance: daemon, in every Debian.
const ANN: u32 = 1;

/// A run directory for all users, and a copy of the program where all can get at it.
struct Commons {
    directory: Directory,
    run: PathBuf,
    balance: PathBuf,
}

impl Commons {
    fn new() -> Self {
        let directory = Directory::new();
        let run = directory.path().join("run");
        fs::create_dir(&run).expect("a fresh directory");
        set_mode(&run, 0o1777);
        let balance = program_for_all(&directory);
        Self { directory, run, balance }
    }

    /// The program as this user, who has no runtime directory of its own.
    fn balance(&self, uid: u32, args: &[&str]) -> Run {
        let user = [format!("--reuid={uid}"), format!("--regid={uid}"), "--clear-groups".into()];
        let run = Run::new("setpriv").args(user).args(["env", "-u", "XDG_RUNTIME_DIR"]).arg(&self.balance);
        run.args(args).env("BALANCE_RUN_DIR", &self.run).env("HOME", "/nonexistent")
    }

    /// A shell in the run directory, as this user.
    fn shell(&self, uid: u32, script: &str) -> Command {
        let mut command = Command::new("setpriv");
        command.args([&format!("--reuid={uid}"), &format!("--regid={uid}"), "--clear-groups"]);
        command.args(["sh", "-ec", script]).current_dir(&self.run).stdin(Stdio::null());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    /// Plants something under this name, and waits until it is there.
    fn plant(&self, plant: &str, name: &str) -> Fake {
        let mut fake = Fake(self.shell(MALLORY, plant).env("NAME", name).spawn().expect("util-linux"));
        let path = self.run.join(name);
        let is_there = || fs::symlink_metadata(&path).is_ok();
        eventually("what was planted", || {
            let is_ready = match plant.starts_with("exec") {
                true => UnixStream::connect(&path).is_ok(),
                false => fake.0.try_wait().expect("our own child").is_some(),
            };
            (is_there() && is_ready).then_some(())
        });
        fake
    }

    /// The names that an instance on this port of 127.0.0.1 goes by, if it can.
    fn names(&self, uid: u32, port: &str) -> [String; 2] {
        use std::os::unix::fs::MetadataExt;
        let namespace = fs::metadata("/proc/self/ns/net").expect("/proc").ino();
        let plain = format!("balance.{port}.127.0.0.1");
        [plain.clone(), format!("{plain}~{uid}.{namespace}")]
    }

    fn is_empty(&self) -> bool {
        fs::read_dir(&self.run).expect("our own directory").next().is_none()
    }

    fn clear(&self) {
        fs::remove_dir_all(&self.run).expect("our own directory");
        fs::create_dir(&self.run).expect("a fresh directory");
        fs::set_permissions(&self.run, fs::Permissions::from_mode(0o1777)).expect("our own directory");
    }
}

/// A program of an attacker's, gone at the end.
struct Fake(Child);

impl Drop for Fake {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Lets everybody in, and never says a word.
const SILENT: &str = "exec python3 -c 'import os, socket, time
s = socket.socket(socket.AF_UNIX)
s.bind(os.environ[\"NAME\"])
os.chmod(os.environ[\"NAME\"], 0o777)
s.listen(8)
time.sleep(600)'";
/// Greets as an instance does, and says yes to everything.
const LIAR: &str = "exec python3 -c 'import os, socketserver
class Liar(socketserver.StreamRequestHandler):
    def handle(self):
        self.wfile.write(b\"balance 4.0 pid 1 protocol 1\\n\")
        for line in self.rfile: self.wfile.write(b\"lie\\n. 0 0\\n\")
class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer): daemon_threads = True
s = Server(os.environ[\"NAME\"], Liar)
os.chmod(os.environ[\"NAME\"], 0o777)
s.serve_forever()'";

/// 699 that let everybody in, and never say a word; the last one has the name.
const CROWD: &str = "exec python3 -c 'import os, socket, time
held = [socket.socket(socket.AF_UNIX) for port in range(2, 701)]
for port, s in enumerate(held, 2):
    os.umask(0)
    s.bind(f\"balance.{port}.::\")
    s.listen(8)
time.sleep(600)'";
/// A socket that nobody listens on any more, as an instance leaves it that was killed.
const DEAD: &str = "python3 -c 'import os, socket
socket.socket(socket.AF_UNIX).bind(os.environ[\"NAME\"])
os.chmod(os.environ[\"NAME\"], 0o777)'";

const PLANTS: [&str; 9] = [
    "mkdir $NAME",
    "mkdir $NAME; touch $NAME/file",
    "touch $NAME; chmod 777 $NAME",
    "mkfifo -m 777 $NAME",
    "ln -s /nonexistent/x $NAME",
    "ln -s /run $NAME",
    DEAD,
    SILENT,
    LIAR,
];

#[test]
fn nothing_that_is_planted_locks_root_or_a_user_out() {
    if needs_root("planting as another user") {
        return;
    }
    let commons = Commons::new();
    for uid in [0, ANN] {
        for plant in PLANTS {
            let port = own_address().port().to_string();
            let planted: Vec<Fake> =
                commons.names(uid, &port).iter().map(|name| commons.plant(plant, name)).collect();
            let balance = |args: &[&str]| commons.balance(uid, args).finish();
            let started = balance(&["-b", "127.0.0.1", &port, "127.0.0.1:9"]).code(0);
            assert_eq!(started.stderr, "", "{plant} for user {uid}: {started}");
            let asked = balance(&["-b", "127.0.0.1", "-c", "create ::1 11; show", &port]).code(0);
            assert!(asked.stdout.contains("channel created") && asked.stdout.contains("::1"), "{asked}");
            assert_eq!(asked.stderr, "", "its own: {asked}");
            balance(&["-b", "127.0.0.1", "-c", "kill", &port]).code(0).out("shutdown complete, exiting.\n");
            drop(planted);
            commons.clear();
        }
    }
}

#[test]
fn names_that_could_be_foreseen_are_taken_in_vain() {
    if needs_root("planting as another user") {
        return;
    }
    let commons = Commons::new();
    let port = own_address().port().to_string();
    // One at a time they would cost minutes, and `finish` gives up long before that.
    let silent = commons.plant(SILENT, "fake");
    let [plain, beside] = commons.names(0, &port);
    let script =
        format!("for n in $(seq 300); do ln fake {plain}~$n; done; ln fake {plain}; ln fake {beside}");
    assert!(commons.shell(MALLORY, &script).status().expect("util-linux").success());
    for uid in [ANN, 0] {
        let balance = |args: &[&str]| commons.balance(uid, args).finish();
        balance(&["-b", "127.0.0.1", &port, "127.0.0.1:9"]).code(if uid == ANN { 0 } else { 71 });
        balance(&["-b", "127.0.0.1", "-c", "show", &port]).code(0);
    }
    commons.balance(ANN, &["-b", "127.0.0.1", "-c", "kill", &port]).finish().code(0);
    drop(silent);
}

#[test]
fn an_entry_that_its_user_left_behind_locks_nobody_out() {
    if needs_root("starting as other users") {
        return;
    }
    let commons = Commons::new();
    let port = own_address().port().to_string();
    let start = |uid| commons.balance(uid, &["-b", "127.0.0.1", &port, "127.0.0.1:9"]).finish().code(0);
    let ask = |uid, command| commons.balance(uid, &["-b", "127.0.0.1", "-c", command, &port]).finish();
    start(MALLORY);
    let banner = commons.balance(MALLORY, &["-b", "127.0.0.1", "-i", &port]).finish().code(0).stdout;
    let pid = banner.split_whitespace().skip_while(|word| *word != "is").nth(1).expect("its pid");
    let pid = rustix::process::Pid::from_raw(pid.parse().expect("a number")).expect("not 0");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("root may");
    eventually("its end", || {
        // Whoever started it has gone, so it may be ours to take note of.
        let _ = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::NOHANG);
        rustix::process::test_kill_process(pid).is_err().then_some(())
    });
    assert!(!commons.is_empty(), "its entry is still there");
    assert_eq!(start(ANN).stderr, "");
    ask(ANN, "show").code(0);
    // Who is neither root nor its user has nothing to say to it.
    ask(MALLORY, "show").code(69);
    let asked = ask(0, "show").code(0);
    assert_eq!(asked.stderr, "balance: this is an instance of user 1 (daemon)\n", "{asked}");
    ask(ANN, "kill").code(0).out("shutdown complete, exiting.\n");
    // And its own user's next one takes the place of the old one.
    start(MALLORY);
    ask(MALLORY, "kill").code(0);
    assert!(commons.is_empty());
}

#[test]
fn root_is_told_whose_instance_it_talks_to() {
    if needs_root("planting as another user") {
        return;
    }
    let commons = Commons::new();
    let port = own_address().port().to_string();
    let [plain, _] = commons.names(0, &port);
    let _liar = commons.plant(LIAR, &plain);
    let ask = |uid, args: &[&str]| commons.balance(uid, args).finish();
    let asked = ask(0, &["-b", "127.0.0.1", "-c", "show", &port]).code(0).out("lie\n");
    assert_eq!(asked.stderr, "balance: this is an instance of user 65534 (nobody)\n", "{asked}");
    ask(0, &["-b", "127.0.0.1", "-i", &port]).code(0).err("user 65534 (nobody)");
    // Other users do not talk to it at all.
    let asked = ask(ANN, &["-b", "127.0.0.1", "-c", "show", &port]).code(69).out("");
    assert!(asked.stderr.contains("user 65534"), "{asked}");
    // Beside a real one of another user's, root is not the one to decide which is which.
    ask(ANN, &["-b", "127.0.0.1", &port, "127.0.0.1:9"]).code(0);
    let asked = ask(0, &["-b", "127.0.0.1", "-c", "kill", &port]).code(69).out("");
    assert!(asked.stderr.contains("user 65534 (nobody) and user 1 (daemon)"), "{asked}");
    ask(ANN, &["-b", "127.0.0.1", "-c", "kill", &port]).code(0).out("shutdown complete, exiting.\n");
}

#[test]
fn a_list_shows_others_as_far_as_they_may_be_seen_and_takes_away_nothing_of_theirs() {
    if needs_root("starting as other users") {
        return;
    }
    let commons = Commons::new();
    let [ann, dead] = [(); 2].map(|()| own_address().port().to_string());
    let list = |uid| commons.balance(uid, &["--list"]).finish().code(0);
    // One that has no time to answer is one that does not answer.
    let await_row = |uid, port: &str, wanted: &str| {
        eventually(&format!("user {uid} sees {port}: {wanted}"), || {
            let list = list(uid).stdout;
            let row = list.lines().find(|line| line.split_whitespace().next() == Some(port))?;
            (row.split_whitespace().skip(3).collect::<Vec<_>>().join(" ") == wanted).then_some(())
        });
    };
    commons.balance(ANN, &["-b", "127.0.0.1", &ann, "127.0.0.1:9"]).finish().code(0);
    await_row(ANN, &ann, "daemon 1/1 0 serving -");
    await_row(0, &ann, "daemon 1/1 0 serving -");
    await_row(MALLORY, &ann, "daemon - - no-access -");
    // What is dead is taken away by its user only; all may see that it is there.
    let [name, _] = commons.names(0, &dead);
    drop(commons.plant(DEAD, &name));
    for uid in [ANN, 0] {
        assert_eq!(list(uid).stderr, "");
        assert!(commons.run.join(&name).exists());
    }
    let said = list(MALLORY).stderr;
    assert_eq!(said, format!("balance: removed 1 dead entry from {}\n", commons.run.display()));
    assert!(!commons.run.join(&name).exists());
    // Root asks whom it does not know, too, but does not wait for each of a crowd.
    let _liar = commons.plant(LIAR, "balance.1.::");
    await_row(0, "1", "nobody - - unknown -");
    let _crowd = commons.plant(CROWD, "balance.700.::");
    for port in ["2", "700"] {
        await_row(0, port, "nobody - - not-answering -");
    }
    await_row(ANN, "700", "nobody - - no-access -");
    commons.balance(ANN, &["-b", "127.0.0.1", "-c", "kill", &ann]).finish().code(0);
}

#[test]
fn silent_sessions_lock_nobody_out() {
    if needs_root("asking as other users") {
        return;
    }
    let commons = Commons::new();
    let port = own_address().port().to_string();
    let group = MALLORY.to_string();
    commons
        .balance(0, &["--control-group", &group, "-b", "127.0.0.1", &port, "127.0.0.1:9"])
        .finish()
        .code(0);
    let path = commons.run.join(&commons.names(0, &port)[0]);
    // Root's shell has been open for the longest time, and is not what gives way.
    let mut shell = Command::new(BALANCE);
    shell.args(["-b", "127.0.0.1", "-i", &port]).env("BALANCE_RUN_DIR", &commons.run);
    let mut shell = shell.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the program");
    let mut banner = [0; 10];
    std::io::Read::read_exact(shell.stdout.as_mut().expect("a pipe"), &mut banner).expect("a banner");
    let script = format!(
        "import socket, time\nheld = []\nfor _ in range(200):\n s = socket.socket(socket.AF_UNIX)\n \
         s.connect('{}')\n held.append(s)\nopen('{}', 'w').close()\ntime.sleep(600)",
        path.display(),
        commons.run.join("done").display()
    );
    let _silent = Fake(
        commons.shell(MALLORY, "exec python3 -c \"$SCRIPT\"").env("SCRIPT", script).spawn().expect("python3"),
    );
    eventually("all are open", || commons.run.join("done").exists().then_some(()));
    for uid in [0, MALLORY, 0] {
        commons.balance(uid, &["-b", "127.0.0.1", "-c", "show", &port]).finish().code(0);
    }
    drop(shell.stdin.take());
    assert!(shell.wait_with_output().expect("its end").status.success());
    commons.balance(0, &["-b", "127.0.0.1", "-c", "kill", &port]).finish().code(0);
}

#[test]
fn a_directory_that_others_may_change_is_not_used_and_that_is_said() {
    let commons = Commons::new();
    let set = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("our own directory");
    };
    let outer = commons.directory.path().join("outer");
    fs::create_dir(&outer).expect("a fresh directory");
    set(&outer, 0o777);
    set(&commons.run, 0o777);
    for run in [commons.run.clone(), outer.join("run")] {
        let port = own_address().port().to_string();
        let balance = |args: &[&str]| {
            let run = Run::new(BALANCE).args(args).env("BALANCE_RUN_DIR", &run);
            run.env("XDG_RUNTIME_DIR", "relative").env("HOME", "/nonexistent").finish()
        };
        // It serves all the same, and is found by nobody.
        let started = balance(&["-b", "127.0.0.1", &port, "127.0.0.1:9"]).code(0);
        let is_told = started.stderr.contains("event=no_rendezvous") && started.stderr.contains("chmod +t");
        assert!(is_told && started.stderr.contains("find its pid by ss -ltnp"), "{started}");
        let asked = balance(&["-b", "127.0.0.1", "-c", "show", &port]).code(69);
        assert!(asked.stderr.starts_with("no master process, exiting.\n"), "{asked}");
        if run == commons.run {
            assert!(asked.stderr.contains("is skipped") && asked.stderr.contains("chmod +t"), "{asked}");
            assert!(commons.is_empty());
        }
        // Nobody can be asked to end it.
        let owner = Run::new("sh").args(["-c", &format!("ss -Hltnp sport = :{port}")]).finish().stdout;
        let pid = owner.split("pid=").nth(1).and_then(|rest| rest.split(',').next()).expect("its pid");
        let pid = rustix::process::Pid::from_raw(pid.parse().expect("a number")).expect("not 0");
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("our own process");
    }
}

#[test]
fn the_same_port_in_two_networks_is_two_instances() {
    if needs_root("network namespaces") {
        return;
    }
    let directory = Directory::new();
    let port = own_address().port().to_string();
    let balance = |args: &[&str]| Run::balance(&directory).args(args).finish();
    for bind in [&["-b", "127.0.0.1"][..], &[]] {
        let here = |args: &[&str]| balance(&[bind, args].concat());
        here(&[&port, "127.0.0.1:9"]).code(0);
        let bind = bind.join(" ");
        let there = Run::script(
            &directory,
            &format!(
                "exec unshare -n sh -ec 'ip link set lo up; balance {bind} {port} 127.0.0.1:11; \
                 balance {bind} -c \"maxc 0 7; show\" {port}'"
            ),
        );
        let there = there.finish().code(0);
        assert!(there.stdout.contains(" 11 ") && there.stderr.is_empty(), "{there}");
        assert!(here(&["-c", "show", &port]).code(0).stdout.contains(" 9 "));
        here(&["-c", "kill", &port]).code(0).out("shutdown complete, exiting.\n");
        // The other one is not meant, and the answer says how to mean it.
        for command in ["kill", "show"] {
            let asked = here(&["-c", command, &port]).code(69).out("");
            let mut lines = asked.stderr.lines();
            assert_eq!(lines.next(), Some("no master process, exiting."), "{asked}");
            let pid = asked.stderr.split("/proc/").nth(1).and_then(|rest| rest.split('/').next());
            let pid = pid.unwrap_or_else(|| panic!("{asked}"));
            let list = balance(&["--list"]).code(0);
            let elsewhere = list.stdout.lines().find(|line| line.contains(" other-network "));
            assert!(elsewhere.is_some_and(|line| line.split_whitespace().nth(2) == Some(pid)), "{list}");
            if command == "show" {
                let ask = format!("nsenter --net=/proc/{pid}/ns/net balance {bind} -c 'show; kill' {port}");
                let there = Run::script(&directory, &ask).finish().code(0);
                let is_it = there.stdout.contains(" 11 ") && there.stdout.ends_with("complete, exiting.\n");
                assert!(is_it, "{there}");
            }
        }
        here(&["-c", "show", &port]).code(69);
    }
}

#[test]
fn the_same_link_local_address_on_two_interfaces_is_two_instances() {
    private_network("two interfaces", || {
        let directory = Directory::new();
        let ip = |args: &str| Run::new("ip").args(args.split(' ')).finish().code(0);
        ip("link add left type veth peer name right");
        for interface in ["left", "right"] {
            ip(&format!("link set {interface} up"));
            ip(&format!("addr add fe80::1/64 dev {interface} nodad"));
        }
        let balance = |args: &[&str]| Run::balance(&directory).args(args).finish();
        balance(&["-b", "fe80::1%left", "8080", "127.0.0.1:9"]).code(0);
        balance(&["-b", "fe80::1%right", "-c", "kill", "8080"]).code(69).err("no master process, exiting.");
        balance(&["-b", "fe80::1", "-c", "show", "8080"]).code(0);
        balance(&["-b", "fe80::1", "-c", "kill", "8080"]).code(69).err("add -b fe80::1%left");
        balance(&["-b", "fe80::1%right", "8080", "127.0.0.1:11"]).code(0);
        let which = balance(&["-b", "fe80::1", "-c", "show", "8080"]).code(69);
        which.err("fe80::1%left").err("fe80::1%right");
        for (bind, channel) in [("fe80::1%left", " 9 "), ("fe80::1%right", " 11 ")] {
            let shown = balance(&["-b", bind, "-c", "show; kill", "8080"]).code(0);
            assert!(shown.stdout.contains(channel) && shown.stdout.ends_with("exiting.\n"), "{shown}");
        }
    });
}

#[test]
fn one_who_is_not_let_in_is_told_who_is_and_not_that_anything_is_broken() {
    if needs_root("two users") {
        return;
    }
    let commons = Commons::new();
    let at = own_address();
    let (ip, port) = (at.ip().to_string(), at.port().to_string());
    commons.balance(0, &["-b", &ip, &port, "127.0.0.1:9"]).finish().code(0);
    let said = "Permission denied (os error 13); only root and those in its --control-group may control this instance\n";
    for command in ["show", "doctor", "doctor json", "disable 0"] {
        let asked = commons.balance(MALLORY, &["-b", &ip, "-c", command, &port]).finish().code(69).out("");
        assert!(asked.stderr.ends_with(said) && asked.stderr.lines().count() == 1, "{asked}");
    }
    commons.balance(0, &["-b", &ip, "-c", "kill", &port]).finish().code(0);
}

#[test]
fn with_another_address_than_the_instance_has_the_message_says_what_to_type() {
    private_network("all ports free", || {
        let directory = Directory::new();
        let balance = |args: &[&str]| Run::balance(&directory).args(args).finish();
        balance(&["9011", "127.0.0.1:9"]).code(0);
        for command in ["show", "disable 0", "events"] {
            let asked = balance(&["-b", "127.0.0.1", "-c", command, "9011"]).code(69).out("");
            let said = "no master process, exiting.\n\
                balance: port 9011 is served on 0.0.0.0; to ask that instance, leave -b away\n";
            assert_eq!(asked.stderr, said, "{command}");
        }
        let told = balance(&["-b", "127.0.0.1", "-c", "doctor", "9011"]).code(2);
        assert!(told.stdout.contains("to ask that instance, leave -b away"), "{told}");
        balance(&["-c", "kill", "9011"]).code(0);
        let gone = balance(&["-b", "127.0.0.1", "-c", "show", "9011"]).code(69);
        let place = directory.path().join("run").display().to_string();
        let said = format!("no master process, exiting.\nbalance: no instance has its socket in {place}");
        assert!(gone.stderr.starts_with(&said) && gone.stderr.lines().count() == 2, "{gone}");
        balance(&["-b", "127.0.0.2", "9011", "127.0.0.1:9"]).code(0);
        balance(&["-b", "127.0.0.3", "-c", "show", "9011"]).code(69).err("use -b 127.0.0.2\n");
        balance(&["-b", "127.0.0.2", "-c", "kill", "9011"]).code(0);
    });
}

#[test]
fn without_b_what_changes_is_for_an_instance_on_all_addresses() {
    private_network("all ports free", || {
        let directory = Directory::new();
        let balance = |args: &[&str]| Run::balance(&directory).args(args).finish();
        let said = "no master process, exiting.\n\
            balance: port 9011 is served on 127.0.0.2 only; to change that instance, add -b 127.0.0.2\n";
        balance(&["-b", "127.0.0.2", "9011", "127.0.0.1:9"]).code(0);
        for command in ["kill", "k", "disable 0", "show; enable 0", "show\ncreate ::1 80", "weight 0 2"] {
            let asked = balance(&["-c", command, "9011"]).code(69).out("");
            assert_eq!(asked.stderr, said, "{command}");
        }
        balance(&["-c", "show; group 1; status; sessions; save", "9011"]).code(0);
        // A shell can look, too; a change ends it, as if there were no instance.
        let shell =
            Run::balance(&directory).args(["-i", "9011"]).stdin("group 3\nkill\nshow\n").finish().code(69);
        assert!(
            shell.stdout.ends_with(
                "balance[0] balance[3] no master process, exiting.\n\
            balance: port 9011 is served on 127.0.0.2 only; to change that instance, add -b 127.0.0.2\n"
            ),
            "{shell}"
        );
        // One on all addresses is what is meant.
        balance(&["9011", "127.0.0.1:11"]).code(71);
        let others = balance(&["-b", "127.0.0.3", "9011", "127.0.0.1:11"]);
        others.code(0);
        balance(&["-c", "kill", "9011"]).code(69).err("add -b 127.0.0.2 or -b 127.0.0.3");
        balance(&["-c", "show", "9011"]).code(69).err("127.0.0.2, 127.0.0.3");
        for bind in ["127.0.0.2", "127.0.0.3"] {
            balance(&["-b", bind, "-c", "kill", "9011"]).code(0);
        }
        balance(&["9011", "127.0.0.1:11"]).code(0);
        assert!(balance(&["-c", "show; kill", "9011"]).code(0).stdout.contains(" 11 "));
        let gone = balance(&["-c", "kill", "9011"]).code(69);
        assert!(
            gone.stderr.starts_with("no master process, exiting.\nbalance: no instance has its socket in "),
            "{gone}"
        );
    });
}
