//! Programs as checks: good ones, and programs that fork, hang, flood their output, or do not exist.

use std::fs;
use std::path::Path;

use rustix::process::Signal;

use crate::harness::{
    Directory, Instance, Run, Server, Setup, alive, await_no_children, children, eventually, executable,
    mark, needs_root, own_address, script,
};

use super::names;

/// An instance whose one channel, a good one, is checked by this program, at once and then once a day.
fn checked_once(program: &Path, server: &Server, more: &[&str]) -> Instance {
    let check = format!("exec:{}", program.display());
    let patience: &[&str] = if more.contains(&"--check-timeout") { &[] } else { &["--check-timeout", "20s"] };
    let always = ["--check", &check, "--check-interval", "1d"];
    let args = always.iter().chain(patience).chain(more).copied();
    Instance::start(args.map(String::from).chain(["PORT".into(), server.to_string()]))
}

#[test]
fn a_program_decides_by_its_exit_code_and_gets_host_and_port() {
    let (directory, a, b) = (Directory::new(), Server::named("a"), Server::named("b"));
    let said = directory.path().join("said");
    let text = format!(
        r#"echo "$# $1 $2" >>{said}; pwd >>{said}; read line || echo "no input" >>{said}; test -e {up}.$2"#,
        said = said.display(),
        up = directory.path().join("up").display(),
    );
    let program = script(&directory, "check", &text);
    let up = |server: &Server| directory.path().join(format!("up.{}", server.addr.port()));
    fs::write(up(&a), "").expect("our own file");
    let check = format!("exec:{}", program.display());
    let args = ["--check", &check, "--check-interval", "30ms", "--check-rise", "1", "--check-timeout", "20s"];
    let args = args.into_iter().chain(["PORT"]).map(String::from);
    let instance = Instance::start(args.chain([a.to_string(), b.to_string()]));
    instance.await_health(0, "up");
    let status = instance.await_health(1, "down");
    assert_eq!(status.why, "exit code 1");
    assert_eq!(names(&instance, 4), "aaaa");
    let heard = fs::read_to_string(&said).expect("it was run");
    for line in [format!("2 127.0.0.1 {}", a.addr.port()), format!("2 127.0.0.1 {}", b.addr.port())] {
        assert!(heard.lines().any(|heard| heard == line), "{line} in {heard}");
    }
    assert!(heard.lines().any(|line| line == "/") && heard.contains("no input"), "{heard}");
    fs::write(up(&b), "").expect("our own file");
    instance.await_health(1, "up");
    fs::remove_file(up(&a)).expect("our own file");
    instance.await_health(0, "down");
    assert_eq!(names(&instance, 4), "bbbb");
    instance.await_told([("channel_down", 2), ("channel_up", 1)]);
    drop((a, b));
    instance.end();
}

#[test]
fn what_a_program_leaves_behind_is_killed_with_its_group() {
    let (directory, server, mark) = (Directory::new(), Server::named("a"), mark());
    let ran = directory.path().join("ran");
    let text = format!("sleep {mark} & (sleep {mark} & exec sleep {mark}) & : >{}; exit 0", ran.display());
    let program = script(&directory, "check", &text);
    let instance = checked_once(&program, &server, &[]);
    instance.await_health(0, "up");
    assert!(ran.exists());
    eventually("its offspring is gone", || (alive(&mark) == 0).then_some(()));
    await_no_children(&instance);
    assert_eq!(names(&instance, 2), "aa");
    instance.end();
}

#[test]
fn a_program_that_hangs_is_killed_at_the_timeout_with_its_group() {
    let (directory, server, mark) = (Directory::new(), Server::named("a"), mark());
    // The one that ignores what can be ignored.
    let text = format!("trap '' TERM INT HUP; sleep {mark} & sleep {mark} & wait; sleep {mark}");
    let program = script(&directory, "check", &text);
    let instance = checked_once(&program, &server, &["--check-timeout", "500ms"]);
    let status = instance.await_health(0, "down");
    assert_eq!(status.why, "killed at the timeout of 500ms");
    eventually("it is gone", || (alive(&mark) == 0).then_some(()));
    await_no_children(&instance);
    assert_eq!(names(&instance, 2), "aa", "the only channel is tried anyway");
    instance.end();
}

#[test]
fn a_program_may_say_as_much_as_it_likes() {
    let (directory, server) = (Directory::new(), Server::named("a"));
    let program =
        script(&directory, "check", "head -c 50000000 /dev/zero; head -c 50000000 /dev/zero >&2; exit 0");
    let instance = checked_once(&program, &server, &["--check-timeout", "20s"]);
    instance.await_health(0, "up");
    assert_eq!((instance.stdout(), instance.told("channel_down").len()), (String::new(), 0));
    assert!(instance.stderr().len() < 1_000, "nothing of it is ours");
    await_no_children(&instance);
    instance.end();
}

#[test]
fn a_program_that_cannot_be_run_is_a_cause_and_no_catastrophe() {
    let (directory, server) = (Directory::new(), Server::named("a"));
    let plain = directory.file("plain", "exit 0\n");
    let missing = directory.path().join("missing");
    let killed = script(&directory, "killed", "kill -9 $$");
    for (program, why) in [
        (&missing, "cannot run"),
        (&plain, "cannot run"),
        (&directory.path().to_owned(), "cannot run"),
        (&killed, "killed by signal 9"),
    ] {
        let instance = checked_once(program, &server, &[]);
        let status = instance.await_health(0, "down");
        assert!(status.why.contains(why), "{program:?}: {status:?}");
        instance.await_told([("channel_down", 1)]);
        assert_eq!(names(&instance, 2), "aa", "the only channel is tried anyway");
        await_no_children(&instance);
        instance.end();
    }
}

#[test]
fn no_program_survives_the_instance() {
    let (directory, server, mark) = (Directory::new(), Server::named("a"), mark());
    let program = script(&directory, "check", &format!("sleep {mark} & sleep {mark}"));
    for kill in [false, true] {
        let instance = checked_once(&program, &server, &["--check-timeout", "1h"]);
        eventually("it runs", || (alive(&mark) == 2).then_some(()));
        assert_eq!(names(&instance, 1), "a", "while it runs, clients are served");
        instance.await_show("no client", |rows| rows[0].c == 0);
        if kill {
            instance.ctl("kill");
            instance.killed();
        } else {
            instance.signal(Signal::TERM);
            instance.killed();
        }
        eventually("it is gone", || (alive(&mark) == 0).then_some(()));
    }
}

#[test]
fn many_programs_one_after_another_leave_nothing() {
    let (directory, server, mark) = (Directory::new(), Server::named("a"), mark());
    let ran = directory.path().join("ran");
    let text = format!("sleep {mark} & echo >>{}; exit 0", ran.display());
    let program = script(&directory, "check", &text);
    let check = format!("exec:{}", program.display());
    let args = ["--check", &check, "--check-interval", "10ms", "--check-timeout", "20s", "PORT"];
    let channels = (0..4).map(|_| server.to_string());
    let instance = Instance::start(args.map(String::from).into_iter().chain(channels));
    eventually("a hundred runs", || {
        let runs = fs::read(&ran).map_or(0, |said| said.len());
        (runs >= 100).then_some(())
    });
    // Those of this very moment are under way, or die just now.
    eventually("no heap of them", || (alive(&mark) <= 8 && children(&instance).len() <= 4).then_some(()));
    instance.terminate();
    eventually("none is left", || (alive(&mark) == 0).then_some(()));
}

/// The processes of this parent that have ended and were not waited for.
fn zombies(parent: i32) -> usize {
    let parent = parent.to_string();
    let is_one = |process: &fs::DirEntry| {
        let stat = fs::read_to_string(process.path().join("stat")).unwrap_or_default();
        let mut words = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
        (words.next(), words.next()) == (Some("Z"), Some(&parent))
    };
    fs::read_dir("/proc").expect("a process table").flatten().filter(is_one).count()
}

/// Writes what it was given to the file that it is made for: limits, signals (but for two of the C library), descriptors.
const LOOK: &str = r#"
import os, resource
with open("/proc/self/status") as status:
    masks = {line.split()[0]: int(line.split()[1], 16) & ~(3 << 31) for line in status
        if line.startswith(("SigBlk", "SigIgn"))}
lines = [resource.getrlimit(resource.RLIMIT_NOFILE), resource.getrlimit(resource.RLIMIT_CORE)]
lines += [hex(masks["SigBlk:"]), hex(masks["SigIgn:"])]
def is_open(fd):
    try:
        return os.fstat(fd) is not None
    except OSError:
        return False
descriptors = [fd for fd in range(3, 1000) if is_open(fd)]
streams = [os.readlink("/proc/self/fd/%d" % fd) for fd in range(3)]
"#;

#[test]
fn a_program_gets_what_the_operator_had_and_none_of_the_descriptors() {
    let (directory, server) = (Directory::new(), Server::named("a"));
    let looking = |name: &str| {
        let said = directory.path().join(format!("{name}.said"));
        // Moved into place at the end, so that it is whole when it is there.
        let tail = format!(
            "with open('{0}.new', 'w') as out: print(lines, file=out); print(descriptors, streams, file=out)\n\
             os.rename('{0}.new', '{0}')",
            said.display()
        );
        // Not by way of sh, which has a mask of its own.
        (executable(&directory, name, &format!("#!/usr/bin/env -S python3 -I\n{LOOK}{tail}\n")), said)
    };
    let ((operator, of_operator), (program, of_check)) = (looking("operator"), looking("check"));
    let start = "env --ignore-signal=HUP,INT,ALRM,USR1,TTOU --block-signal=WINCH,USR2,TERM";
    let shell = format!(
        "ulimit -Sn 100; exec 7</dev/null 9>&2; {start} {}; exec {start} \"$0\" -f \"$@\";",
        operator.display()
    );
    let check = format!("exec:{}", program.display());
    let args =
        ["--check", &check, "--check-interval", "1d", "--check-timeout", "20s", "PORT", &server.to_string()];
    let args = args.map(String::from);
    let instance = Setup::new().shell(&shell).start(args);
    instance.await_health(0, "up");
    let read = |path: &Path| fs::read_to_string(path).expect("it was run");
    let (operator, check) = (read(&of_operator), read(&of_check));
    assert_eq!(check.lines().next(), operator.lines().next());
    assert!(operator.contains("(100, ") && !operator.contains("'0x0'"), "{operator}");
    assert_eq!(check.lines().nth(1), Some("[] ['/dev/null', '/dev/null', '/dev/null']"));
    instance.end();
}

#[test]
fn a_program_does_not_outlive_an_instance_that_is_killed() {
    let (directory, server, mark) = (Directory::new(), Server::named("a"), mark());
    let program = script(&directory, "check", &format!("exec sleep {mark}"));
    let instance = checked_once(&program, &server, &["--check-timeout", "1h"]);
    eventually("it runs", || (alive(&mark) == 1).then_some(()));
    instance.signal(Signal::KILL);
    eventually("it is gone", || (alive(&mark) == 0).then_some(()));
}

#[test]
fn process_1_waits_for_orphans_wherever_they_went() {
    if needs_root("a pid namespace") {
        return;
    }
    let (directory, server) = (Directory::new(), Server::named("a"));
    let ran = directory.path().join("ran");
    // One helper in the group, which is killed, one in a session of its own, and a daemon's daemon.
    let text = format!(
        "sleep 9 & setsid sleep 0.02 & setsid sh -c 'sleep 0.03 & exit' & echo >>{}; exit 0",
        ran.display()
    );
    let program = script(&directory, "check", &text);
    let check = format!("exec:{}", program.display());
    let args = ["--check", &check, "--check-interval", "20ms", "--check-timeout", "20s"];
    let address = own_address();
    let (ip, channel) = (address.ip().to_string(), server.to_string());
    let args = args.into_iter().chain(["-b", &ip, "PORT", &channel]);
    let shell = "exec unshare -pf --kill-child \"$0\" \"$@\";";
    let mut instance = Setup::binding(address).shell(shell).start(args);
    let children = format!("/proc/{0}/task/{0}/children", instance.pid());
    let pid = fs::read_to_string(children).expect("our own child").trim().parse().expect("one child");
    eventually("thirty runs", || (fs::read(&ran).map_or(0, |said| said.len()) >= 30).then_some(()));
    eventually("no zombie is left", || (zombies(pid) == 0).then_some(()));
    Run::new("kill").arg(pid.to_string()).finish().code(0);
    assert_eq!(instance.wait(), 0);
}

#[test]
fn children_from_before_the_program_leave_no_zombies() {
    let server = Server::named("a");
    let instance = Setup::new().shell("sleep 0.3 &").start(["PORT", &server.to_string()]);
    await_no_children(&instance);
    instance.end();
}
