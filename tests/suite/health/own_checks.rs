//! A channel with a check of its own: `web1:80,check=http:/x`.

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::harness::{Directory, Instance, Server, Setup, eventually, own_address};

/// Answers any request with this status.
fn page(status: &'static str) -> Server {
    Server::with(move |mut stream, _| {
        if stream.read(&mut [0; 1024]).is_ok() {
            let _ = stream.write_all(format!("HTTP/1.1 {status} x\r\nContent-Length: 0\r\n\r\n").as_bytes());
        }
    })
}

fn start(options: &[&str], channels: &[String]) -> Instance {
    let words = options.iter().map(|word| (*word).to_owned());
    Instance::start(words.chain(["PORT".to_owned()]).chain(channels.iter().cloned()))
}

#[test]
fn each_channel_is_asked_its_own_question_without_any_of_the_service() {
    let (good, bad) = (page("200"), page("503"));
    let channels = [
        format!("{good},check=http:/a"),
        format!("{bad},check=http:/b"),
        format!("{bad},check=tcp"),
        format!("{bad}"),
    ];
    let instance = start(&["--check-interval", "20ms"], &channels);
    instance.await_health(0, "up");
    let down = instance.await_health(1, "down");
    assert_eq!(down.why, "http: status 503");
    instance.await_health(2, "up");
    let rows = instance.status();
    assert_eq!(rows[3].health, "untried", "it has no check: {rows:?}");
    let options: Vec<_> = rows.iter().map(|row| &row.options[..]).collect();
    assert_eq!(options, ["check=http:/a", "check=http:/b", "check=tcp", "-"]);
    let saved = instance.ctl("save").code(0).stdout;
    assert!(
        saved.contains(&format!("--check-interval 20ms {} {}", instance.port(), channels.join(" "))),
        "{saved}"
    );
    instance.end();
}

#[test]
fn it_stands_before_the_check_of_the_service() {
    let bad = page("503");
    let channels = [format!("{bad}"), format!("{bad},check=tcp"), format!("{bad},check=none")];
    let instance = start(&["--check", "http:/", "--check-interval", "20ms"], &channels);
    instance.await_health(0, "down");
    instance.await_health(1, "up");
    assert_eq!(instance.status()[2].health, "untried");
    instance.end();
}

#[test]
fn it_can_be_changed_created_kept_and_handed_over() {
    let is_good = Arc::new(AtomicBool::new(false));
    let its = Arc::clone(&is_good);
    let server = Server::with(move |mut stream, _| {
        let said: &[u8] = if its.load(Ordering::SeqCst) { b"220 a, b" } else { b"554 no" };
        let _ = stream.write_all(said);
        let _ = stream.read(&mut [0; 64]);
    });
    let (listen, directory) = (own_address(), Directory::new());
    let line = |options: &str| {
        format!(
            "-b {} --check-interval 20ms --check tcp {} '{server}{options}'\n",
            listen.ip(),
            listen.port()
        )
    };
    let file = directory.file("services", &line(""));
    let state = directory.path().join("state");
    let words =
        ["--state", &state.display().to_string(), "--file", &file.display().to_string()].map(String::from);
    let mut instance = Setup::binding(listen).start(words.clone());
    instance.await_health(0, "up");
    directory.file("services", &line(r",check=expect:220 a\x2c"));
    let told = instance.ctl("reload").code(0).stdout;
    assert!(told.contains(r"options check=expect:220 a\x2c"), "{told}");
    let down = instance.await_health(0, "down");
    assert_eq!(down.options, r"check=expect:220\x20a\x2c");
    is_good.store(true, Ordering::SeqCst);
    instance.await_health(0, "up");
    // Without a check nothing is down, and what there was is forgotten.
    is_good.store(false, Ordering::SeqCst);
    instance.await_health(0, "down");
    directory.file("services", &line(",check=none"));
    instance.ctl("reload").code(0);
    assert_ne!(instance.status()[0].health, "down");
    // By hand; a program cannot be given so.
    let port = server.addr.port();
    let refused = instance.ctl(&format!("create 127.0.0.1 {port},check=exec:/bin/true"));
    assert!(refused.stdout.contains("check=exec: cannot be given at run time"), "{refused}");
    instance.ctl(&format!("create 127.0.0.1 {port},check=expect:220")).code(0);
    instance.await_health(1, "down");
    instance.upgrade();
    instance.await_health(1, "down");
    is_good.store(true, Ordering::SeqCst);
    instance.await_health(1, "up");
    let json = instance.ctl("status json").code(0).stdout;
    assert!(json.contains(r#""check":"none""#) && json.contains(r#""check":"expect:220""#), "{json}");
    eventually("it is kept", || {
        let text = std::fs::read_to_string(&state).unwrap_or_default();
        text.contains(" options check=expect:220 at ").then_some(())
    });
    instance.terminate();
    let instance = Setup::binding(listen).start(words);
    instance.await_health(1, "up");
    instance.end();
}

#[test]
fn what_is_wrong_with_it_is_told_at_the_start() {
    let balance = |words: &[&str]| {
        let directory = Directory::new();
        crate::harness::Run::balance(&directory).args(words).finish()
    };
    let wrong = balance(&["-f", "80", "h:1,check=http:/x=200,404"]);
    assert!(wrong.stderr.contains("A comma ends a channel's check"), "{wrong}");
    let alone = balance(&["-f", "--check-interval", "1s", "80", "h:1"]);
    assert!(alone.stderr.contains("--check-interval needs --check"), "{alone}");
    let directory = Directory::new();
    let file = directory.file("services", "80 127.0.0.1:9,check=exec:/nowhere/prog\n");
    let file = file.display().to_string();
    let missing = balance(&["--file", &file, "--check-only"]);
    assert!(missing.stderr.contains("1:4: check: cannot run /nowhere/prog"), "{missing}");
}
