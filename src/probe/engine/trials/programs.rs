//! Tests of the engine with real programs.

use super::*;

/// A directory with test programs and the files that they write.
struct Shop(PathBuf);

impl Drop for Shop {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Shop {
    fn new() -> Self {
        let name = format!(
            "balance-check-{:016x}",
            std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0)
        );
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).expect("a directory of ours");
        Self(path)
    }

    /// Creates a program. Another process writes it: if this one did, a forked child could still hold it open
    /// for writing, and it could not be run.
    fn program(&self, text: &str) -> Check {
        let path = self.0.join("check");
        let mut writer = Command::new("/bin/sh")
            .args(["-c", "cat >\"$1\" && chmod 700 \"$1\"", "sh"])
            .arg(&path)
            .stdin(Stdio::piped())
            .spawn()
            .expect("a shell");
        let text = format!("#!/bin/sh\n{text}\n");
        writer.stdin.take().expect("it is piped").write_all(text.as_bytes()).expect("it reads");
        assert!(writer.wait().expect("it ends").success());
        Check::Exec(path)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

/// The process ID in this file, once its line is complete.
fn pid_in(file: &Path) -> Option<Pid> {
    let text = fs::read_to_string(file).ok()?;
    Pid::from_raw(text.strip_suffix('\n')?.parse().ok()?)
}

/// Is not even a zombie left?
fn is_gone(pid: Pid) -> bool {
    test_kill_process(pid).is_err()
}

/// Is the process dead, even if its new parent has not reaped it yet?
fn is_dead(pid: Pid) -> bool {
    if !cfg!(target_os = "linux") {
        return is_gone(pid);
    }
    let Ok(stat) = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())) else { return true };
    stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with(['Z', 'X']))
}

const TARGET: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8_080);

#[test]
fn an_exit_code_is_the_outcome() {
    let mut lab = Lab::new();
    let shop = Shop::new();
    let table = [
        ("exit 0", Outcome::Up),
        ("exit 3", down("exit code 3")),
        ("kill -TERM $$", down("killed by signal 15")),
        ("[ \"$# $1 $2\" = '2 127.0.0.1 8080' ]", Outcome::Up),
        ("[ \"$(pwd)\" = / ] && [ -z \"$(cat)\" ]", Outcome::Up),
    ];
    for (text, expected) in table {
        assert_eq!(lab.outcome(&[TARGET], shop.program(text), LONG), expected, "{text}");
        assert!(lab.has_all_back());
    }
}

#[test]
fn a_program_that_cannot_be_run_is_down() {
    let mut lab = Lab::new();
    let shop = Shop::new();
    let missing = Check::Exec("/no/such/check".into());
    let cause = "cannot run /no/such/check: No such file or directory (os error 2)";
    assert_eq!(lab.outcome(&[TARGET], missing, LONG), down(cause));
    let directory = Check::Exec(shop.0.clone());
    let cause = format!("cannot run {}: Permission denied (os error 13)", shop.0.display());
    assert_eq!(lab.outcome(&[TARGET], directory, LONG), down(&cause));
    assert!(lab.has_all_back());
}

#[test]
fn a_late_program_is_killed_with_its_children() {
    let mut lab = Lab::new();
    let shop = Shop::new();
    let (own, child) = (shop.file("own"), shop.file("child"));
    let text = format!("sleep 1000 & echo $! >{}\necho $$ >{}\nsleep 1000", child.display(), own.display());
    let check = shop.program(&text);
    // On a busy machine it may take a while to start.
    let pids = [250, 2_000, 15_000].into_iter().find_map(|ms| {
        let timeout = Duration::from_millis(ms);
        let outcome = lab.outcome(&[TARGET], check.clone(), timeout);
        assert_eq!(outcome, down(&format!("killed at the timeout of {timeout:?}")));
        pid_in(&own).zip(pid_in(&child))
    });
    let (own, child) = pids.expect("it ran");
    lab.run_until(|lab| is_gone(own) && is_dead(child) && lab.engine.programs.running == 0);
}

#[test]
fn a_program_that_floods_its_output_holds_up_nobody() {
    let mut lab = Lab::new();
    let shop = Shop::new();
    let outcome = lab.outcome(&[TARGET], shop.program("yes; exit 0"), SHORT);
    assert_eq!(outcome, down("killed at the timeout of 250ms"));
    let outcome = lab.outcome(&[TARGET], shop.program("yes | head -c 10000000\nexit 0"), LONG);
    assert_eq!(outcome, Outcome::Up);
}

#[test]
fn what_a_program_leaves_behind_is_killed() {
    let mut lab = Lab::new();
    let shop = Shop::new();
    let (own, child) = (shop.file("own"), shop.file("child"));
    let text = format!("sleep 1000 & echo $! >{}\necho $$ >{}\nexit 0", child.display(), own.display());
    assert_eq!(lab.outcome(&[TARGET], shop.program(&text), LONG), Outcome::Up);
    let (own, child) = pid_in(&own).zip(pid_in(&child)).expect("it has written them");
    assert!(is_gone(own), "it was reaped before the outcome was told");
    lab.run_until(|_| is_dead(child));
}

#[test]
fn programs_of_a_dropped_engine_are_killed() {
    let mut lab = Lab::new();
    let shop = Shop::new();
    let own = shop.file("own");
    let check = shop.program(&format!("echo $$ >{}\nexec sleep 1000", own.display()));
    lab.start(1, &[TARGET], check.clone(), LONG);
    // Never begun, or only just.
    lab.start(2, &[TARGET], check, LONG);
    // Looked at once: the other one may be about to write its own.
    let mut pid = None;
    lab.run_until(|_| {
        pid = pid_in(&own);
        pid.is_some()
    });
    drop(lab);
    assert!(is_gone(pid.expect("it runs")), "the process may end now");
}

#[test]
fn programs_wait_for_a_place_and_hold_up_no_sockets() {
    let mut lab = Lab::new();
    let (_listener, address) = listener();
    let shop = Shop::new();
    let check = shop.program("exec sleep 1000");
    for id in 0..40 {
        lab.start(id, &[TARGET], check.clone(), Duration::from_secs(5));
    }
    lab.start(100, &[address], Check::Tcp, LONG);
    assert_eq!(lab.outcomes(1), [(100, Outcome::Up)]);
    assert!(lab.engine.programs.is_full());
    assert_eq!(lab.engine.waiting_programs.len(), 8);
    let late: Vec<_> = (0..40).map(|id| (id, down("killed at the timeout of 5s"))).collect();
    assert_eq!(lab.outcomes(40), late);
    lab.run_until(|lab| lab.engine.programs.running == 0 && lab.has_all_back());
}

/// Not in a portable build, where the sockets of tests that run at the same time get their close-on-exec flag
/// only in a second step.
#[cfg(all(target_os = "linux", not(portable)))]
#[test]
fn programs_inherit_no_descriptor() {
    const CLOEXEC: u32 = 0o2_000_000;
    let mut lab = Lab::new();
    let (_silent, address) = listener();
    lab.start(2, &[address], http("/"), LONG);
    // The harness may have got some from whoever started it.
    let is_inherited = |entry: &fs::DirEntry| {
        let text = fs::read_to_string(entry.path()).unwrap_or_default();
        let flags = text.lines().find_map(|line| line.strip_prefix("flags:"));
        flags.is_some_and(|octal| u32::from_str_radix(octal.trim(), 8).is_ok_and(|f| f & CLOEXEC == 0))
    };
    let entries = fs::read_dir("/proc/self/fdinfo").expect("there is one").flatten();
    let inherited = entries.filter(is_inherited).count();
    let shop = Shop::new();
    let seen = shop.file("seen");
    let text = format!(
        "ls -l /proc/self/fd >{}\n[ \"$(ls /proc/self/fd | wc -l)\" -eq {} ]",
        seen.display(),
        inherited + 1
    );
    let outcome = lab.outcome(&[TARGET], shop.program(&text), LONG);
    assert_eq!(outcome, Outcome::Up, "{}", fs::read_to_string(&seen).unwrap_or_default());
}
