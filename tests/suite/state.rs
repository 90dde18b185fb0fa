//! Operators' changes survive a restart: `--state`.
//!
//! Source: docs/state.md.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Instant;

use rustix::fs::inotify;
use rustix::process::Signal;

use crate::harness::{
    Client, Directory, Finished, Instance, Refusing, Row, Run, Server, Setup, eventually, needs_root,
    own_address, unless_held_up,
};

/// An instance of `web: LISTEN CHANNELS` with a state file, started again and again.
struct Kept {
    instance: Instance,
    listen: SocketAddr,
}

impl Kept {
    #[track_caller]
    fn start(line: &str) -> Self {
        let listen = own_address();
        Self::start_in(Directory::new(), listen, line)
    }

    #[track_caller]
    fn start_in(directory: Directory, listen: SocketAddr, line: &str) -> Self {
        let [services, state] =
            ["services", "state"].map(|name| directory.path().join(name).display().to_string());
        directory.file("services", &format!("web: -b {} {} {line}\n", listen.ip(), listen.port()));
        let setup = Setup::binding(listen).within(directory);
        let instance = setup.start(["--file", &services, "--state", &state]);
        Self { instance, listen }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.instance.directory.path().join(name)
    }

    fn text(&self) -> String {
        fs::read_to_string(self.path("state")).unwrap_or_default()
    }

    /// Waits until the file says all of this.
    #[track_caller]
    fn await_text(&self, parts: &[&str]) {
        eventually(&format!("{parts:?} in the state file"), || {
            let text = self.text();
            parts.iter().all(|part| text.contains(part)).then_some(())
        });
    }

    fn show(&self) -> Vec<Row> {
        self.instance.show()
    }

    #[track_caller]
    fn command(&self, command: &str) {
        self.instance.ctl(command).code(0);
    }

    /// Ends it in the middle of whatever it does.
    fn crash(mut self) -> (Directory, SocketAddr) {
        self.instance.signal(Signal::KILL);
        self.instance.wait();
        self.leave()
    }

    /// The directory of one that has ended.
    fn leave(mut self) -> (Directory, SocketAddr) {
        (std::mem::replace(&mut self.instance.directory, Directory::new()), self.listen)
    }
}

fn said(instance: &Instance, what: &str) -> usize {
    instance.stderr().lines().filter(|line| line.contains(what)).count()
}

#[test]
fn what_operators_changed_is_there_again_after_a_crash() {
    let line = "127.0.0.1:9 127.0.0.2:9:5 127.0.0.3:9,disabled 127.0.0.4:9 127.0.0.5:9 ! 127.0.0.6:9";
    let kept = Kept::start(line);
    let untouched = kept.show();
    kept.command("disable 0; disable 1 hard; weight 1 7; enable 2; maxc 3 9; policy leastconn");
    kept.command("disable 4; remove 4; create 127.0.0.7 99; create localhost 99; group 1; hash");
    kept.command(
        "group 1; disable 0; assign 0 localhost 77; group 5; create 127.0.0.8 1; enable 0; maxc 0 3",
    );
    let (before, status) = (kept.show(), changed(&kept));
    assert_ne!(before, untouched);
    assert_eq!(before.iter().filter(|row| row.group == 0).count(), 6, "{before:?}");
    // What was changed last is in it: a file that is written meanwhile has only what came before.
    kept.await_text(&["group 5 number 0", "maxc 3", "removed group 0 127.0.0.5:9", "at localhost:77 "]);
    let (directory, listen) = kept.crash();
    let kept = Kept::start_in(directory, listen, line);
    assert_eq!((kept.show(), changed(&kept)), (before, status));
    assert_eq!(said(&kept.instance, "from before the restart applied"), 1);
    // And once more, though nobody has changed anything since.
    let before = kept.show();
    let (directory, listen) = kept.crash();
    let kept = Kept::start_in(directory, listen, line);
    assert_eq!(kept.show(), before);
    // What is changed back is not kept any more.
    kept.command("reload clean");
    eventually("an empty state", || (kept.text().lines().count() == 2).then_some(()));
    let (directory, listen) = kept.crash();
    let kept = Kept::start_in(directory, listen, line);
    let values = |rows: &[Row]| -> Vec<_> {
        rows.iter()
            .map(|row| (row.group, row.policy.clone(), row.state.clone(), row.address.clone()))
            .collect()
    };
    assert_eq!(values(&kept.show()), values(&untouched));
    kept.instance.end();
}

/// What `status` says that differs from the file.
fn changed(kept: &Kept) -> Vec<String> {
    let status = kept.instance.ctl("status").code(0).stdout;
    status.lines().filter(|line| line.starts_with("changed by hand")).map(str::to_owned).collect()
}

#[test]
fn a_line_that_was_edited_since_holds() {
    let kept = Kept::start("127.0.0.1:9 127.0.0.2:9 127.0.0.3:9 127.0.0.4:9 127.0.0.5:9");
    kept.command("disable 0; disable 1; disable 2; disable 3; remove 3; weight 4 3; create 127.0.0.6 9; create 127.0.0.7 9");
    kept.await_text(&["127.0.0.7:9"]);
    let (directory, listen) = kept.crash();
    // The first is as it was, one has another limit, one is gone, the one that was removed is edited and so is there again,
    // one is disabled, and one that was created by hand is in the file by now.
    let kept = Kept::start_in(
        directory,
        listen,
        "127.0.0.1:9 127.0.0.2:9:4 127.0.0.4:9,weight=2 127.0.0.5:9,disabled 127.0.0.6:9",
    );
    let rows: Vec<_> =
        kept.show().into_iter().map(|row| (row.channel, row.state, row.address, row.maxc)).collect();
    let row = |channel, state: &str, n: u8, maxc| (channel, state.to_owned(), format!("127.0.0.{n}:9"), maxc);
    let expected = vec![
        row(0, "dis", 1, 0),
        row(1, "ENA", 2, 4),
        row(2, "ENA", 4, 0),
        row(3, "dis", 5, 0),
        row(4, "ENA", 6, 0),
        row(6, "dis", 7, 0),
    ];
    assert_eq!(rows, expected);
    let stderr = kept.instance.stderr();
    for told in [
        "127.0.0.2:9 was edited in its line since, and the line wins",
        "127.0.0.3:9 is not in the line any more",
        "127.0.0.4:9 was edited in its line since, and the line wins",
        "127.0.0.6:9 is in the line now, and the line wins",
    ] {
        assert!(stderr.contains(told), "no {told:?} in {stderr}");
    }
    // What does not hold is forgotten: with the old line it does not come back.
    eventually("it is forgotten", || (!kept.text().contains("127.0.0.3")).then_some(()));
    let (directory, listen) = kept.crash();
    let kept = Kept::start_in(directory, listen, "127.0.0.1:9 127.0.0.2:9");
    let states: Vec<_> = kept.show().into_iter().map(|row| row.state).collect();
    assert_eq!(states, ["dis", "ENA", "dis"]);
    kept.instance.end();
}

#[test]
fn a_service_that_moved_is_another_one() {
    let kept = Kept::start("127.0.0.1:9");
    kept.command("disable 0");
    kept.await_text(&["disabled"]);
    let (directory, listen) = kept.crash();
    let kept = Kept::start_in(directory, own_address(), "127.0.0.1:9");
    assert_eq!(kept.show()[0].state, "ENA");
    let told = format!("service web: nothing listens on {listen} any more");
    assert_eq!(said(&kept.instance, &told), 1, "{}", kept.instance.stderr());
    kept.instance.end();
}

#[test]
fn what_was_changed_in_the_last_moment_is_kept_by_every_orderly_end() {
    type End = fn(&mut Kept);
    let ends: [(&str, End); 4] = [
        ("TERM", |kept| kept.instance.signal(Signal::TERM)),
        ("INT", |kept| kept.instance.signal(Signal::INT)),
        ("kill", |kept| drop(kept.instance.ctl("kill"))),
        ("kill in the same line", |kept| drop(kept.instance.ctl("weight 0 9; kill"))),
    ];
    for (name, end) in ends {
        let mut kept = Kept::start("127.0.0.1:9 127.0.0.2:9");
        // The second is not written before a second has passed.
        kept.command("weight 0 2");
        kept.command("weight 0 9");
        end(&mut kept);
        assert_eq!(kept.instance.wait(), 0, "{name}");
        assert!(kept.text().contains("now enabled weight 9"), "{name}: {}", kept.text());
        let (directory, listen) = kept.leave();
        let kept = Kept::start_in(directory, listen, "127.0.0.1:9 127.0.0.2:9");
        assert_eq!(changed(&kept).len(), 1, "{name}");
        kept.instance.end();
    }
}

#[test]
fn an_instance_that_drains_leaves_the_file_to_its_successor() {
    unless_held_up(300, || {
        for end in ["TERM", "kill"] {
            let server = Server::named("a");
            let line = format!("{server} 127.0.0.1:9");
            let mut old = Kept::start(&line);
            let held = old.instance.named();
            old.command("weight 0 2");
            old.command("disable 1");
            match end {
                "TERM" => old.instance.signal(Signal::TERM),
                _ => drop(old.instance.ctl("kill").code(0)),
            }
            let (directory, listen) = (Directory::new(), old.listen);
            let [services, state] = ["services", "state"].map(|name| old.path(name).display().to_string());
            let mut setup = Setup::binding(listen).within(directory);
            // A start waits for the port.
            setup = setup.shell("");
            let mut new = setup.start(["--file", &services, "--state", &state]);
            assert_eq!(said(&new, "another instance"), 0, "{}", new.stderr());
            let states: Vec<_> = new.show().into_iter().map(|row| row.state).collect();
            assert_eq!(states, ["ENA", "dis"], "{end}");
            new.ctl("enable 1; weight 1 4").code(0);
            // What is done to the one that ends is not written over that.
            let pid = old.instance.pid();
            let name = format!("process.{pid}");
            Run::balance(&old.instance.directory).args(["-c", "disable 0", &name]).finish().code(0);
            drop(held);
            assert_eq!(old.instance.wait(), 0);
            new.signal(Signal::TERM);
            assert_eq!(new.wait(), 0);
            let text = old.text();
            assert!(text.contains("weight 4") && !text.contains("now disabled"), "{end}: {text}");
        }
    });
}

#[test]
fn one_of_several_services_that_is_killed_leaves_the_file_with_the_others() {
    let (first, second) = (own_address(), own_address());
    let setup = Setup::binding(first);
    let line = |name: &str, at: SocketAddr| format!("{name}: -b {} {} 127.0.0.1:9\n", at.ip(), at.port());
    let services = setup.directory().file("services", &(line("web", first) + &line("mail", second)));
    let state = setup.directory().path().join("state");
    let mut instance =
        setup.start(["--file", &services.display().to_string(), "--state", &state.display().to_string()]);
    instance.ctl("use mail; weight 0 3; kill").code(0);
    instance.ctl("weight 0 5").code(0);
    eventually("both are kept", || {
        let text = fs::read_to_string(&state).unwrap_or_default();
        (text.contains("weight 3") && text.contains("weight 5")).then_some(())
    });
    // It is opened again as its line has it, and what was changed of the one that was killed goes.
    instance.ctl("reload").code(0);
    eventually("the new one has no changes", || {
        let text = fs::read_to_string(&state).unwrap_or_default();
        (!text.contains("weight 3") && text.contains("weight 5")).then_some(())
    });
    instance.signal(Signal::TERM);
    assert_eq!(instance.wait(), 0);
}

#[test]
fn what_autodisable_did_is_not_kept_and_what_an_operator_said_of_it_is() {
    let [dead, other] = [(); 2].map(|()| Refusing::new());
    let line = format!("-a {dead} {other}");
    let kept = Kept::start(&line);
    let mut client = kept.instance.connect();
    client.ending();
    assert_eq!(kept.show().iter().map(|row| &row.state[..]).collect::<Vec<_>>(), ["dis", "dis"]);
    let told = kept.instance.ctl("disable 1; weight 0 2").code(0).stdout;
    assert!(told.starts_with("channel 1 already disabled"), "{told}");
    kept.await_text(&["now disabled", "weight 2"]);
    assert_eq!(kept.text().matches("now disabled").count(), 1, "{}", kept.text());
    let (directory, listen) = kept.crash();
    let kept = Kept::start_in(directory, listen, &line);
    assert_eq!(kept.show().iter().map(|row| &row.state[..]).collect::<Vec<_>>(), ["ENA", "dis"]);
    kept.instance.end();
}

#[test]
fn a_reload_and_its_changes_are_followed() {
    let kept = Kept::start("127.0.0.1:9 127.0.0.2:9");
    kept.command("disable 0; disable 1");
    kept.await_text(&["127.0.0.1", "127.0.0.2"]);
    let at = (kept.listen.ip(), kept.listen.port());
    let line = "127.0.0.1:9:3 127.0.0.2:9";
    kept.instance.directory.file("services", &format!("web: -b {} {} {line}\n", at.0, at.1));
    kept.command("reload");
    eventually("the edited channel is as its line", || (!kept.text().contains("127.0.0.1:9")).then_some(()));
    assert!(kept.text().contains("127.0.0.2:9"));
    let (directory, listen) = kept.crash();
    let kept = Kept::start_in(directory, listen, line);
    assert_eq!(kept.show().iter().map(|row| &row.state[..]).collect::<Vec<_>>(), ["ENA", "dis"]);
    kept.instance.end();
}

/// Instances in the background, as an operator starts them in this directory.
struct Background(Directory, SocketAddr);

impl Background {
    fn start(&self, state: &str) -> Finished {
        let (ip, port) = (self.1.ip(), self.1.port());
        let script =
            format!("cd {}; balance --state {state} -b {ip} {port} 127.0.0.1:9", self.0.path().display());
        Run::script(&self.0, &script).finish()
    }

    fn command(&self, command: &str) -> Finished {
        let (ip, port) = (self.1.ip().to_string(), self.1.port().to_string());
        Run::balance(&self.0).args(["-b", &ip, "-c", command, &port]).finish()
    }
}

#[test]
fn in_the_background_a_relative_file_is_where_it_was_said_and_locked() {
    let background = Background(Directory::new(), own_address());
    assert_eq!(background.start("web.state").code(0).stderr, "");
    background.command("weight 0 3").code(0);
    let path = background.0.path().join("web.state");
    eventually("it is written", || fs::read_to_string(&path).ok()?.contains("weight 3").then_some(()));
    let mode = fs::metadata(&path).expect("it is there").permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
    // On another port, with the same file.
    let other = Background(Directory::new(), own_address());
    let finished = other.start(&path.display().to_string()).code(0);
    assert!(finished.stderr.contains("another instance keeps its state there"), "{finished}");
    assert_eq!(other.command("status").code(0).stdout.lines().count(), 2, "it serves");
    other.command("weight 0 9; kill").code(0);
    background.command("kill").code(0);
    let text = fs::read_to_string(&path).expect("it is there");
    assert!(text.contains("weight 3") && !text.contains("weight 9"), "{text}");
    assert_eq!(background.start("web.state").code(0).stderr, "");
    background.command("kill").code(0);
}

#[test]
fn a_bad_file_is_set_aside_and_stops_no_start() {
    let kept = Kept::start("127.0.0.1:9");
    kept.command("disable 0");
    kept.await_text(&["now disabled"]);
    let (mut directory, listen) = kept.crash();
    let whole = fs::read(directory.path().join("state")).expect("it is there");
    let mut edited = whole.clone();
    let at = edited.windows(3).position(|bytes| bytes == b"now").expect("there is one");
    edited[at] = b'N';
    let table: [(&[u8], &str); 7] = [
        (b"", "it is not a state file of balance"),
        (b"# shop\nweb: 80 web1\n", "it is not a state file of balance"),
        (b"\x7fELF\0\0", "it is not a state file of balance"),
        (&whole[..whole.len() - 1], "it is damaged or incomplete"),
        (&whole[..whole.len() / 2], "it is damaged or incomplete"),
        (&edited, "it is damaged or incomplete"),
        (b"balance-state 0\n127.0.0.1:9 disabled\n", "it has format 0, and this version reads format 1"),
    ];
    for (bytes, why) in table {
        fs::write(directory.path().join("state"), bytes).expect("a file");
        let services = directory.path().join("services").display().to_string();
        let state = directory.path().join("state").display().to_string();
        let check = ["--check-only", "--file", &services, "--state", &state];
        let checked = Run::balance(&directory).args(check).finish().code(65);
        assert!(checked.stderr.contains(why) && checked.stderr.contains("state.bad"), "{checked}");
        assert_eq!(fs::read(&state).expect("it is there"), bytes, "a check changes nothing");
        let kept = Kept::start_in(directory, listen, "127.0.0.1:9");
        assert_eq!(kept.show()[0].state, "ENA");
        let stderr = kept.instance.stderr();
        assert!(stderr.contains(why) && stderr.contains("state.bad"), "{stderr}");
        assert_eq!(fs::read(kept.path("state.bad")).expect("it is set aside"), bytes);
        kept.command("disable 0");
        kept.await_text(&["now disabled"]);
        (directory, _) = kept.crash();
        let checked = Run::balance(&directory).args(check).finish().code(0);
        assert_eq!(checked.stdout, "1 service, 1 channel\n");
    }
}

#[test]
fn a_file_of_services_is_never_taken_for_a_state_file() {
    let kept = Kept::start("127.0.0.1:9");
    let (directory, listen) = kept.crash();
    let line = format!("web: -b {} {} 127.0.0.1:9\n", listen.ip(), listen.port());
    let conf = directory.file("shop.conf", &line).display().to_string();
    let folder = directory.path().display().to_string();
    let mut directory = directory;
    for (file, state) in [(&conf, &conf), (&folder, &conf), (&folder, &format!("{folder}/run/../shop.conf"))]
    {
        let check = ["--check-only", "--file", file, "--state", state];
        Run::balance(&directory).args(check).finish().code(65).err("this is a configuration file of --file");
        let instance = Setup::binding(listen).within(directory).start(["--file", file, "--state", state]);
        instance.ctl("disable 0").code(0);
        assert_eq!(said(&instance, "this is a configuration file of --file; balance keeps no changes"), 1);
        let mut kept = Kept { instance, listen };
        kept.instance.signal(Signal::TERM);
        assert_eq!(kept.instance.wait(), 0);
        assert_eq!(fs::read_to_string(&conf).expect("it is there"), line);
        (directory, _) = kept.leave();
        assert!(!directory.path().join("shop.conf.bad").exists());
    }
}

#[test]
fn what_is_no_file_is_neither_read_nor_replaced() {
    type Make = fn(&Path);
    let make: [(&str, Make); 4] = [
        ("a directory", |path| fs::create_dir(path).expect("a directory")),
        ("a symbolic link", |path| symlink("planted", path).expect("a link")),
        ("a fifo", |path| {
            Run::new("mkfifo").arg(path).finish().code(0);
        }),
        ("a device", |path| {
            Run::new("mknod").arg(path).args(["c", "1", "3"]).finish().code(0);
        }),
    ];
    for (kind, make) in make {
        if kind == "a device" && needs_root("to make a device") {
            continue;
        }
        let directory = Directory::new();
        let path = directory.path().join("state");
        make(&path);
        let before = fs::symlink_metadata(&path).expect("it was made");
        let kept = Kept::start_in(directory, own_address(), "127.0.0.1:9");
        kept.command("disable 0");
        assert_eq!(said(&kept.instance, &format!("it is {kind}, not a file")), 1, "told once");
        let after = fs::symlink_metadata(&path).expect("it is there");
        assert_eq!((before.ino(), before.mode()), (after.ino(), after.mode()), "{kind}");
        assert!(!kept.path("planted").exists());
        let state = path.display().to_string();
        let check = ["--check-only", "--state", &state, "80", "127.0.0.1"];
        let checked = Run::balance(&kept.instance.directory).args(check).finish().code(65);
        assert!(checked.stderr.contains(kind), "{checked}");
        // Once it is gone, state is kept; an end does not wait for that.
        let _ = fs::remove_dir(&path).or_else(|_| fs::remove_file(&path));
        let mut kept = kept;
        kept.instance.signal(Signal::TERM);
        assert_eq!(kept.instance.wait(), 0);
        assert!(kept.text().contains("now disabled"), "the last try");
    }
}

#[test]
fn links_that_are_planted_beside_the_file_are_not_followed() {
    let directory = Directory::new();
    directory.file("victim", "precious");
    for name in ["state.lock", "state.bad"] {
        symlink("victim", directory.path().join(name)).expect("a link");
    }
    directory.file("state", "something else");
    let listen = own_address();
    let kept = Kept::start_in(directory, listen, "127.0.0.1:9");
    assert!(kept.instance.stderr().contains("lock"), "{}", kept.instance.stderr());
    fs::remove_file(kept.path("state.lock")).expect("it was there");
    kept.command("disable 0");
    kept.await_text(&["now disabled"]);
    // While it runs a link takes the file's place: it is told, and not followed.
    fs::remove_file(kept.path("state")).expect("it was there");
    symlink("victim", kept.path("state")).expect("a link");
    kept.command("enable 0; weight 0 2");
    eventually("it is told", || (said(&kept.instance, "a symbolic link") > 0).then_some(()));
    assert_eq!(fs::read_to_string(kept.path("victim")).expect("it is there"), "precious");
    fs::remove_file(kept.path("state")).expect("it was there");
    kept.await_text(&["weight 2"]);
    eventually("that is told", || (said(&kept.instance, "balance can write it again") == 2).then_some(()));
    kept.instance.terminate();
}

#[test]
fn a_file_of_another_user_in_a_shared_directory_is_not_believed() {
    if needs_root("to give a file away") {
        return;
    }
    let kept = Kept::start("127.0.0.1:9");
    kept.command("create 127.0.0.66 66; enable 1");
    kept.await_text(&["127.0.0.66:66 "]);
    let (directory, listen) = kept.crash();
    let state = directory.path().join("state");
    std::os::unix::fs::chown(&state, Some(12_345), None).expect("root may");
    // In a directory of our own it is ours, whoever a network file system says that it belongs to.
    let kept = Kept::start_in(directory, listen, "127.0.0.1:9");
    assert_eq!(kept.show().len(), 2);
    let (directory, listen) = kept.crash();
    std::os::unix::fs::chown(&state, Some(12_345), None).expect("root may");
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o1777)).expect("it is ours");
    let kept = Kept::start_in(directory, listen, "127.0.0.1:9");
    assert_eq!(kept.show().len(), 1);
    assert_eq!(
        said(&kept.instance, "it belongs to another user (uid 12345)"),
        1,
        "{}",
        kept.instance.stderr()
    );
    assert!(kept.path("state.bad").exists());
    kept.instance.end();
}

#[test]
fn a_directory_that_is_not_there_is_told_once_and_used_when_it_is() {
    let directory = Directory::new();
    let state = directory.path().join("state/of/web");
    let setup = Setup::new().within(directory);
    let instance = setup.start(["--state", &state.display().to_string(), "PORT", "127.0.0.1:9"]);
    for weight in 2..6 {
        instance.ctl(&format!("weight 0 {weight}")).code(0);
    }
    assert_eq!(said(&instance, "No such file or directory"), 1, "told once: {}", instance.stderr());
    fs::create_dir_all(state.parent().expect("it has one")).expect("directories");
    eventually("it is written", || fs::read_to_string(&state).ok()?.contains("weight 5").then_some(()));
    eventually("that is told", || (said(&instance, "balance can write it again") == 1).then_some(()));
    assert_eq!(said(&instance, "No such file or directory"), 1, "told once: {}", instance.stderr());
    instance.terminate();
}

#[test]
fn a_full_disk_loses_nothing_that_was_kept() {
    if needs_root("to mount a small disk") {
        return;
    }
    let server = Server::echo();
    let setup = Setup::new();
    let disk = setup.directory().path().join("disk");
    fs::create_dir(&disk).expect("a directory");
    let setup = setup.mounting(&format!("mount -t tmpfs -o size=16k none {};", disk.display()));
    let state = disk.join("state").display().to_string();
    let instance = setup.start(["--state", &state, "PORT", &server.to_string(), "127.0.0.1:9"]);
    // The disk is in a mount namespace of its own.
    let disk = PathBuf::from(format!("/proc/{}/root{}", instance.pid(), disk.display()));
    let text = || fs::read_to_string(disk.join("state")).unwrap_or_default();
    instance.ctl("disable 1").code(0);
    eventually("it is kept", || text().contains("now disabled").then_some(()));
    let mut held = instance.connect();
    held.send("x");
    assert_eq!(held.recv(1), b"x");
    let descriptors = instance.descriptors();
    fs::write(disk.join("rest"), vec![1; 1 << 20]).expect_err("the disk is full");
    let kept = text();
    for round in 0..10 {
        instance.ctl(&format!("weight 1 {}; create 127.0.0.1 {}", 2 + round, 100 + round)).code(0);
        held.send("x");
        assert_eq!(held.recv(1), b"x", "clients are served");
    }
    eventually("it is told", || (said(&instance, "No space left on device") > 0).then_some(()));
    // More changes and more tries: nothing more is told, and nothing is left on the disk or in the process.
    for round in 0..300 {
        instance.ctl(&format!("weight 1 {}", 1 + round % 200)).code(0);
    }
    assert_eq!(said(&instance, "No space left on device"), 1, "{}", instance.stderr());
    assert_eq!(text(), kept, "what was kept is still whole");
    eventually("nothing else is left", || {
        let mut names: Vec<_> =
            fs::read_dir(&disk).expect("it is there").flatten().map(|one| one.file_name()).collect();
        names.sort();
        (names == ["rest", "state", "state.lock"]).then_some(())
    });
    eventually("no descriptor is left open", || (instance.descriptors() <= descriptors).then_some(()));
    fs::remove_file(disk.join("rest")).expect("it was there");
    eventually("it is kept again", || text().contains("127.0.0.1:109").then_some(()));
    assert!(text().contains("weight 100 "), "{}", text());
    eventually("that is told", || (said(&instance, "balance can write it again") == 1).then_some(()));
    drop(held);
    instance.end();
}

#[test]
fn a_storm_of_changes_is_written_once_a_second_at_most() {
    let kept = Kept::start("127.0.0.1:9");
    eventually("the first one", || kept.path("state").exists().then_some(()));
    let watch =
        inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK).expect("inotify");
    inotify::add_watch(&watch, kept.instance.directory.path(), inotify::WatchFlags::MOVED_TO)
        .expect("a watch");
    let begun = Instant::now();
    for round in 0..400 {
        kept.command(&format!("weight 0 {}", 2 + round % 200));
    }
    kept.await_text(&["now enabled weight 201"]);
    let mut buffer = [std::mem::MaybeUninit::uninit(); 4096];
    let mut reader = inotify::Reader::new(watch, &mut buffer);
    let mut renames = 0;
    while let Ok(event) = reader.next() {
        renames += u64::from(event.file_name().is_some_and(|name| name.to_bytes() == b"state"));
    }
    let seconds = begun.elapsed().as_secs();
    assert!((1..=seconds + 2).contains(&renames), "{renames} in {seconds} s");
    // What has not changed is not written again.
    let inode = || fs::metadata(kept.path("state")).expect("it is there").ino();
    let before = inode();
    kept.command("weight 0 201; reset 0; disable 0; enable 0; show");
    kept.command("maxc 0 5");
    kept.await_text(&["maxc 5"]);
    assert_ne!(inode(), before);
    kept.instance.end();
}

#[test]
fn a_crash_at_any_moment_leaves_a_whole_file() {
    let line = "127.0.0.1:9 127.0.0.2:9";
    let mut kept = Kept::start(line);
    let (mut last, mut before) = (1_u64, 0);
    for round in 0..12 {
        let begun = Instant::now();
        let mut sure = 0;
        // A moment that differs from round to round, at which it writes or does not.
        while begun.elapsed().as_millis() < 700 + 97 * round {
            last += 1;
            kept.command(&format!("maxc 0 {last}; maxc 1 {last}"));
            if kept.text().contains(&format!("now enabled weight 1 maxc {last}")) {
                sure = last;
            }
        }
        let (directory, listen) = kept.crash();
        kept = Kept::start_in(directory, listen, line);
        assert!(!kept.path("state.bad").exists(), "round {round}: {}", kept.instance.stderr());
        // What was seen in the file, or what came after it: never anything older.
        let found: Vec<u64> = kept.show().iter().map(|row| row.maxc).collect();
        let told = format!("round {round}: {found:?} of {last}, and {sure} was written");
        // The last writing may come between the two commands of a line, and of the first line, too.
        let is_near = found[1] == found[0] || found[1] + 1 == found[0] || found[1] == before;
        before = found[1];
        assert!((sure..=last).contains(&found[0]) && is_near, "{told}");
        assert!(found[0] > 0 || round == 0, "{told}");
        let names = fs::read_dir(kept.instance.directory.path()).expect("it is there").flatten();
        let left = names.filter(|name| name.file_name().to_string_lossy().contains(".tmp-")).count();
        assert!(left <= 1, "what a crash leaves is swept");
    }
    kept.instance.end();
}

#[test]
fn a_crash_between_any_two_steps_of_writing_keeps_the_old_or_the_new() {
    let line = "127.0.0.1:9 127.0.0.2:9";
    // The new file is written, on disk, renamed, and the directory is on disk.
    let steps =
        [("write", 1, false), ("fsync", 1, false), ("renameat,renameat2", 1, false), ("fsync", 2, true)];
    for (call, when, is_new) in steps {
        let kept = Kept::start(line);
        kept.command("weight 0 2");
        kept.await_text(&["weight 2 "]);
        let path = kept.path("state").display().to_string();
        let inject = format!("inject={call}:signal=KILL:when={when}");
        let pid = state_thread(&kept.instance).to_string();
        eventually("the last write is done with", || {
            // Its directory is brought to the disk after the new text can be seen.
            let waits = fs::read_to_string(format!("/proc/{pid}/wchan")).ok()?;
            waits.contains("futex").then_some(())
        });
        let mut strace = std::process::Command::new("strace")
            .args(["-qq", "-o", "/dev/null", "-e", &format!("trace={call}"), "-e", &inject, "-p", &pid])
            .spawn()
            .expect("strace: apt-get install strace");
        eventually("it is traced", || {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
            status.contains(&format!("TracerPid:\t{}", strace.id())).then_some(())
        });
        let _ = kept.instance.ctl("weight 0 3");
        strace.wait().expect("it ends with the instance");
        let mut kept = kept;
        assert_eq!(kept.instance.wait(), 128 + 9, "{call} {when}");
        let (directory, listen) = kept.leave();
        assert!(Path::new(&path) != directory.path());
        let kept = Kept::start_in(directory, listen, line);
        let weight = if is_new { "weight 3," } else { "weight 2," };
        let told = changed(&kept);
        assert!(told.len() == 1 && told[0].contains(weight), "{call} {when}: {told:?}");
        assert!(!kept.path("state.bad").exists());
        kept.instance.end();
    }
}

#[test]
fn a_process_that_takes_over_keeps_what_the_one_before_kept() {
    let line = "127.0.0.1:9 127.0.0.2:9";
    let mut kept = Kept::start(line);
    kept.command("disable 0");
    kept.instance.ctl("upgrade /bin/true").code(69);
    kept.command("weight 1 2");
    kept.await_text(&["now disabled", "weight 2 "]);
    for weight in 3..6 {
        // The old one has not written this yet.
        kept.command(&format!("weight 1 {weight}"));
        kept.instance.upgrade();
        kept.command(&format!("maxc 1 {weight}"));
        kept.await_text(&["now disabled", &format!("weight {weight} maxc {weight}")]);
        let troubles = ["another instance", "cannot write the changes", "state.bad"];
        assert!(
            !troubles.iter().any(|what| kept.instance.stderr().contains(what)),
            "{}",
            kept.instance.stderr()
        );
    }
    assert!(!kept.path("state.bad").exists());
    let (directory, listen) = kept.crash();
    let kept = Kept::start_in(directory, listen, line);
    let rows: Vec<_> = kept.show().into_iter().map(|row| (row.state, row.maxc)).collect();
    assert_eq!(rows, [("dis".to_owned(), 0), ("ENA".to_owned(), 5)]);
    kept.instance.end();
}

#[test]
fn the_file_of_another_instance_is_not_taken_by_an_upgrade() {
    let server = Server::echo();
    let mut first = Kept::start(&server.to_string());
    first.command("weight 0 7");
    first.await_text(&["weight 7"]);
    let before = first.text();
    let listen = own_address();
    let line = format!("other: -b {} {} {server}\n", listen.ip(), listen.port());
    let setup = Setup::binding(listen);
    let services = setup.directory().file("services", &line).display().to_string();
    let state = first.path("state").display().to_string();
    let mut second = setup.start(["--file", &services, "--state", &state]);
    assert_eq!(said(&second, "neither reads nor keeps any state"), 1);
    second.upgrade();
    second.ctl("weight 0 3").code(0);
    assert_eq!(said(&second, "neither reads nor keeps any state"), 2);
    // Nobody writes while nothing changes there.
    first.instance.signal(Signal::KILL);
    first.instance.wait();
    second.upgrade();
    first.await_text(&["weight 3"]);
    assert_ne!(first.text(), before);
    second.terminate();
}

#[test]
fn an_instance_that_replaces_another_keeps_what_that_one_kept() {
    let background = Background(Directory::new(), own_address());
    background.start("web.state").code(0);
    // At once: the second change is not written yet.
    background.command("disable 0; weight 0 3").code(0);
    background.command("weight 0 4").code(0);
    let said = background.start("web.state --replace").code(0).err("the ports were taken over from process ");
    assert_eq!(said.stderr.lines().count(), 1, "{said}");
    let table = background.command("status").code(0).stdout;
    assert!(table.lines().any(|line| line.contains(" dis ") && line.contains("      4 ")), "{table}");
    background.command("maxc 0 4").code(0);
    let path = background.0.path().join("web.state");
    eventually("it is written", || {
        fs::read_to_string(&path).ok()?.contains("now disabled weight 4 maxc 4").then_some(())
    });
    background.command("kill").code(0);
}

#[test]
fn a_process_in_the_background_that_takes_over_finds_a_relative_file() {
    let background = Background(Directory::new(), own_address());
    background.start("web.state").code(0);
    background.command("weight 0 3; upgrade").code(0);
    background.command("maxc 0 4").code(0);
    let path = background.0.path().join("web.state");
    eventually("it is written", || fs::read_to_string(&path).ok()?.contains("weight 3 maxc 4").then_some(()));
    background.command("kill").code(0);
}

/// The thread that writes.
fn state_thread(instance: &Instance) -> i32 {
    let tasks = fs::read_dir(format!("/proc/{}/task", instance.pid())).expect("our own child").flatten();
    let is_it = |task: &fs::DirEntry| {
        fs::read_to_string(task.path().join("comm")).is_ok_and(|name| name.trim() == "state")
    };
    let found = tasks.filter(is_it).filter_map(|task| task.file_name().to_str()?.parse().ok()).next();
    found.expect("there is one")
}

#[test]
fn with_the_fewest_descriptors_all_in_use_state_is_kept_all_the_same() {
    let server = Server::named("a");
    let directory = Directory::new();
    let state = directory.path().join("state");
    let args = |limit: usize| {
        let words = ["--workers", "1", "--state"].map(String::from);
        let setup = Setup::new().shell(&format!("ulimit -n {limit};"));
        (setup, words.into_iter().chain([state.display().to_string(), "PORT".into(), server.to_string()]))
    };
    let (setup, words) = args(13);
    let mut instance = setup.spawn(words);
    assert_eq!(instance.wait(), 71);
    let said = instance.stderr();
    let needed = said.strip_prefix("balance: the limit of open files is 13, but ").expect("it says how many");
    let needed: usize = needed.split(' ').next().and_then(|number| number.parse().ok()).expect("a number");
    let (setup, words) = args(needed);
    let instance = setup.start(words);
    let (held, _) = instance.named();
    // The next ones wait, and every command takes a descriptor.
    let waiting: Vec<Client> = (0..4).map(|_| instance.connect()).collect();
    for weight in 2..20 {
        instance.ctl(&format!("weight 0 {weight}")).code(0);
    }
    eventually("it is kept", || fs::read_to_string(&state).ok()?.contains("weight 19").then_some(()));
    assert_eq!(said_of_trouble(&instance), 0, "{}", instance.stderr());
    drop((held, waiting));
    instance.end();
}

fn said_of_trouble(instance: &Instance) -> usize {
    said(instance, "cannot write the changes")
}

#[test]
fn a_name_that_cannot_be_looked_up_any_more_keeps_what_it_meant() {
    if needs_root("a hosts file of its own") {
        return;
    }
    let listen = own_address();
    let start = |directory: Directory, hosts: &str| {
        let state = directory.path().join("state").display().to_string();
        let setup = Setup::binding(listen).within(directory).hosts(hosts);
        let (ip, port) = (listen.ip().to_string(), listen.port().to_string());
        setup.start(["--state", &state, "-b", &ip, &port, "127.0.0.1:9"])
    };
    let instance = start(Directory::new(), "127.0.0.9 there.test moved.test\n127.0.0.1 localhost\n");
    instance.ctl("create there.test 80; create moved.test 80").code(0);
    let path = instance.directory.path().join("state");
    eventually("it is kept", || fs::read_to_string(&path).ok()?.contains("moved.test").then_some(()));
    let mut kept = Kept { instance, listen };
    kept.instance.signal(Signal::TERM);
    assert_eq!(kept.instance.wait(), 0);
    let (directory, _) = kept.leave();
    let instance = start(directory, "127.0.0.8 moved.test\n127.0.0.1 localhost\n");
    let rows = instance.show();
    let addresses: Vec<&str> = rows.iter().map(|row| &row.address[..]).collect();
    assert_eq!(addresses, ["127.0.0.1:9", "127.0.0.9:80", "127.0.0.8:80"]);
    assert_eq!(said(&instance, "no host 'there.test'"), 1, "{}", instance.stderr());
    instance.end();
}
