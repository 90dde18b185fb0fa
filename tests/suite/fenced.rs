//! Files that Landlock or permissions refuse: what still works, and what operators are told.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use crate::harness::{
    Client, Elsewhere, Run, Server, USER, Unprivileged, eventually, has_landlock, needs_root, open_to_all,
    own_address, own_directory, set_mode,
};

/// Puts a link to the new target in place of the old one.
fn relink(link: &Path, target: &Path) {
    let new = link.with_extension("new");
    symlink(target, &new).and_then(|()| fs::rename(&new, link)).expect("our own directory");
}

/// /etc/resolv.conf and its neighbours often link to a file of a service that is started later than balance. Here it is
/// /etc/hosts, so that no name server is needed.
#[test]
fn names_are_looked_up_though_a_file_of_the_system_now_lies_elsewhere() {
    if needs_root("a mount namespace") || !has_landlock() {
        return;
    }
    let (server, at) = (Server::named("a"), own_address());
    let setup = Unprivileged::at(at);
    let top = setup.directory().path().to_owned();
    let [etc, run] = ["etc", "run-of-the-system"].map(|name| top.join(name));
    [&etc, &run].into_iter().for_each(|path| fs::create_dir(path).expect("a new directory"));
    fs::write(etc.join("nsswitch.conf"), "hosts: files\n").expect("our own file");
    fs::write(etc.join("hosts"), "127.0.0.9 web.test\n").expect("our own file");
    let mounts = format!(
        "unshare -m sh -ec 'mount --bind {} /etc; mount --bind {} /run; exec \"$@\"' sh",
        etc.display(),
        run.display()
    );
    let channel = format!("web.test:{}", server.addr.port());
    let instance = setup.through(&mounts).serve(&[], &channel);
    assert!(instance.ask("status").stdout.contains("127.0.0.9"), "{}", instance.ask("status"));
    // A directory in /run that was not there at the start.
    let late = run.join("late");
    fs::create_dir(&late).expect("a new directory");
    fs::write(late.join("hosts"), "127.0.0.8 web.test\n").expect("our own file");
    relink(&etc.join("hosts"), Path::new("/run/late/hosts"));
    instance.ask("resolve").code(0);
    eventually("the new address", || instance.ask("status").stdout.contains("127.0.0.8").then_some(()));
    // One that Landlock closes off. The doctor says so.
    let elsewhere = Elsewhere::new();
    let hosts = elsewhere.0.join("hosts");
    fs::write(&hosts, "127.0.0.7 web.test\n").expect("our own file");
    [&elsewhere.0, &hosts].into_iter().for_each(|path| open_to_all(path));
    relink(&etc.join("hosts"), &hosts);
    let doctor = instance.ask("doctor").stdout;
    assert!(
        doctor.contains("broken names: ")
            && doctor.contains("the name 'web.test' cannot be looked up now: ")
            && doctor.contains("/etc/hosts: Permission denied (os error 13) (--landlock: ")
            && doctor.contains("Do: restart balance"),
        "{doctor}"
    );
    // One that this user may not read.
    let own = etc.join("hosts.new");
    fs::write(&own, "127.0.0.6 web.test\n").expect("our own file");
    fs::set_permissions(&own, fs::Permissions::from_mode(0o600)).expect("our own file");
    fs::rename(&own, etc.join("hosts")).expect("our own files");
    let doctor = instance.ask("doctor").stdout;
    assert!(
        doctor.contains("/etc/hosts: Permission denied (os error 13) (the user ")
            && doctor.contains("Do: let this user read that file"),
        "{doctor}"
    );
    instance.ask("kill").code(0);
}

#[test]
fn where_landlock_refuses_a_file_it_is_named() {
    if needs_root("becoming another user") || !has_landlock() {
        return;
    }
    let (server, at) = (Server::named("a"), own_address());
    let setup = Unprivileged::at(at);
    let lists = own_directory(setup.directory(), "lists");
    let logs = own_directory(setup.directory(), "logs");
    let states = own_directory(setup.directory(), "states");
    let (list, log, state) = (lists.join("deny"), logs.join("access"), states.join("state"));
    fs::write(lists.join("real"), "192.0.2.0/24\n").expect("our own file");
    symlink("real", &list).expect("our own directory");
    let [list_text, log_text, state_text] = [&list, &log, &state].map(|path| path.display().to_string());
    let options = ["--deny", &list_text, "--access-log", &log_text, "--state", &state_text];
    let instance = setup.serve(&options, &server);
    let elsewhere = Elsewhere::new();
    let moved = elsewhere.0.join("deny");
    fs::write(&moved, "198.51.100.0/24\n").expect("our own file");
    [&elsewhere.0, &moved].into_iter().for_each(|path| open_to_all(path));
    relink(&list, &moved);
    let found = eventually("it is told", || {
        let doctor = instance.ask("doctor").stdout;
        doctor.lines().find(|line| line.starts_with("broken lists ")).map(str::to_owned)
    });
    assert!(
        found.contains("(--landlock: ")
            && found.contains("Do: restart balance, or put the file into a directory"),
        "{found}"
    );
    // Directories that were made again are others for Landlock, though their names are the same.
    for directory in [&logs, &states] {
        fs::remove_dir_all(directory).expect("our own");
    }
    own_directory(&instance.directory, "logs");
    own_directory(&instance.directory, "states");
    let told = instance.ask("reopen");
    assert!(told.code != 0 && told.to_string().contains("(--landlock: "), "{told}");
    let told = instance.ask("upgrade");
    assert!(told.code != 0 && told.to_string().contains("(--landlock: "), "{told}");
    instance.ask("disable 0").code(0);
    eventually("the state cannot be written", || {
        let events = instance.ask("events").stdout;
        let told = "cannot write the changes: make a new file: Permission denied (os error 13) (--landlock: ";
        let other = "cannot write the changes: lock ";
        events
            .lines()
            .find(|line| (line.contains(told) || line.contains(other)) && line.contains("(--landlock: "))
            .map(drop)
    });
    let doctor = instance.ask("doctor").stdout;
    let of = |check: &str| doctor.lines().find(|line| line.starts_with(check)).unwrap_or_default().to_owned();
    for (check, what) in [
        ("broken state-file: ", "the file of --state cannot be written: "),
        ("broken log: ", "the access log cannot be written: "),
    ] {
        let found = of(check);
        assert!(
            found.contains(what) && found.contains("Do: restart balance, since Landlock closes"),
            "{doctor}"
        );
    }
    instance.ask("enable 0").code(0);
    assert_eq!(Client::connect(at).recv(1), b"a");
    instance.ask("kill").code(0);
}

#[test]
fn a_file_that_permissions_refuse_is_told_with_its_owner() {
    if needs_root("becoming another user") {
        return;
    }
    let (server, at) = (Server::named("a"), own_address());
    let line = |more: &[&str]| {
        let user = format!("{USER}:{USER}");
        let (ip, port, server) = (at.ip().to_string(), at.port().to_string(), server.to_string());
        let all = [&["-f", "--user", &user], more, &["-b", &ip, &port, &server]].concat();
        all.into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let elsewhere = Elsewhere::new();
    open_to_all(&elsewhere.0);
    let place = elsewhere.0.display();
    let run = |args: &[&str]| Run::new(crate::harness::BALANCE).args(line(args)).finish();
    let told = run(&["--access-log", &format!("{place}/access")]).code(71);
    assert!(
        told.stderr
            .contains(&format!("(the user nobody may not make files in {place}, which belongs to root)")),
        "{told}"
    );
    let closed = elsewhere.0.join("closed");
    fs::create_dir(&closed).expect("a new directory");
    fs::write(closed.join("deny"), "192.0.2.0/24\n").expect("our own file");
    set_mode(&closed, 0o700);
    let told = run(&["--deny", &format!("{place}/closed/deny")]);
    assert!(
        told.code != 0
            && told.stderr.contains(&format!(
                "the user nobody may not look into {place}/closed, which belongs to root"
            )),
        "{told}"
    );
}

#[test]
fn a_state_file_that_cannot_be_written_is_broken_until_it_can() {
    if needs_root("becoming another user") {
        return;
    }
    let (server, at) = (Server::named("a"), own_address());
    let setup = Unprivileged::at(at);
    let states = own_directory(setup.directory(), "states");
    let http = own_address();
    let state = states.join("st").display().to_string();
    let instance = setup.serve(&["--state", &state, "--http", &http.to_string()], &server);
    let mode = |name: &str| Some(fs::metadata(states.join(name)).ok()?.permissions().mode() & 0o777);
    eventually("it is written", || mode("st"));
    assert_eq!((mode("st"), mode("st.lock")), (Some(0o600), Some(0o600)));
    let failing = || {
        let metrics = Run::new("curl")
            .args(["-sS", "--noproxy", "*", &format!("http://{http}/metrics")])
            .finish()
            .stdout;
        let line =
            metrics.lines().find_map(|line| line.strip_prefix("balance_file_failing{file=\"state\"} "));
        line.map(str::to_owned)
    };
    assert_eq!(failing().as_deref(), Some("0"));
    std::os::unix::fs::chown(&states, Some(0), Some(0)).expect("root may");
    instance.ask("disable 0").code(0);
    let why = "(the user nobody may not ";
    let doctor = eventually("the doctor knows", || {
        let doctor = instance.ask("doctor").stdout;
        doctor.contains("broken state-file: ").then_some(doctor)
    });
    assert!(doctor.contains(why) && doctor.contains("states, which belongs to root)"), "{doctor}");
    assert_eq!(failing().as_deref(), Some("1"));
    std::os::unix::fs::chown(&states, Some(USER), Some(USER)).expect("root may");
    eventually("it is written again", || (failing().as_deref() == Some("0")).then_some(()));
    assert!(!instance.ask("doctor").stdout.contains("state-file"), "it is cured");
    instance.ask("kill").code(0);
}
