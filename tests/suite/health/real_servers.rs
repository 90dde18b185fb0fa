//! Checks of real server programs.

use std::fs;

use rustix::process::{Pid, Signal, kill_process};

use crate::harness::{Instance, Run, eventually};
use crate::real_programs::{Daemon, program, strings};

fn nginx() -> Daemon {
    Daemon::start("nginx", |port, dir| {
        let dir = dir.display();
        fs::write(format!("{dir}/index.html"), "welcome").expect("our own file");
        let user = if crate::harness::is_root() { "user root;" } else { "" };
        let temp: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("{kind}_temp_path {dir}/{kind};"))
            .concat();
        let conf = format!(
            "daemon off; {user} worker_processes 1; pid {dir}/pid; error_log {dir}/error.log info;
            events {{ }}
            http {{ access_log {dir}/access.log; {temp} root {dir}; server {{ listen 127.0.0.1:{port}; }} }}"
        );
        fs::write(format!("{dir}/nginx.conf"), conf).expect("our own file");
        strings(["-p", &dir.to_string(), "-c", &format!("{dir}/nginx.conf")])
    })
}

fn checked(check: &str, server: &Daemon, more: &[&str]) -> Instance {
    // The servers may be slow; whoever asks for it says for how long one may be.
    let patience = ["--check-timeout", "20s"].into_iter().filter(|_| !more.contains(&"--check-timeout"));
    let args = ["--check", check, "--check-interval", "50ms"]
        .into_iter()
        .chain(patience)
        .chain(more.iter().copied());
    Instance::start(args.map(String::from).chain(["PORT".into(), server.channel()]))
}

#[test]
fn nginx_by_its_pages() {
    let nginx = nginx();
    for (check, health, why) in [
        ("http:/", "up", "-"),
        ("http:/missing", "down", "http: status 404"),
        ("http:/missing=404", "up", "-"),
        ("http:/=300-399,204", "down", "http: status 200"),
        ("tcp", "up", "-"),
    ] {
        let instance = checked(check, &nginx, &[]);
        let status = instance.await_health(0, health);
        assert_eq!(status.why, why, "{check}");
        instance.end();
    }
    let log = |name: &str| fs::read_to_string(nginx.directory.path().join(name)).unwrap_or_default();
    let requests = eventually("it is logged", || {
        Some(log("access.log")).filter(|text| text.contains("\"GET /missing HTTP/1.1\" 404"))
    });
    assert!(!requests.contains("\" 400 ") && !requests.contains("\" 499 "), "{requests}");
    // What nginx says of a client that resets.
    let errors = log("error.log");
    assert!(!errors.contains("eset by peer") && !errors.contains("prematurely"), "{errors}");
}

#[test]
fn redis_that_hangs_is_down_by_its_dialogue_and_up_by_tcp() {
    let redis = Daemon::start("redis-server", |port, dir| {
        let dir = dir.display().to_string();
        strings(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--dir", &dir])
    });
    let signal = |signal| {
        let pid = Pid::from_raw(i32::try_from(redis.child.id()).expect("a pid")).expect("a pid is not 0");
        kill_process(pid, signal).expect("our own child");
    };
    let options = ["--check-timeout", "3s", "--check-rise", "1", "--check-fall", "2"];
    let dialogue = checked("send:PING\\r\\n;expect:+PONG", &redis, &options);
    let tcp = checked("tcp", &redis, &options);
    dialogue.await_health(0, "up");
    tcp.await_health(0, "up");
    signal(Signal::STOP);
    let status = dialogue.await_health(0, "down");
    assert!(status.why.contains("did not come within 3s"), "{status:?}");
    assert_eq!(tcp.health(), "up", "the kernel still takes connections for it");
    signal(Signal::CONT);
    dialogue.await_health(0, "up");
    let ping = Run::new(program("redis-cli")).args(["-p", &dialogue.port(), "ping"]).finish();
    ping.code(0).out("PONG\n");
    dialogue.await_told([("channel_down", 1), ("channel_up", 1)]);
    assert!(tcp.told("channel_down").is_empty());
    dialogue.end();
    tcp.end();
}

#[test]
fn a_mail_server_is_up_by_its_banner() {
    let mail = Daemon::start("python3", |port, _| {
        let at = format!("127.0.0.1:{port}");
        strings(["-W", "ignore", "-m", "smtpd", "-n", "-c", "DebuggingServer", &at])
    });
    for check in ["expect:220", "expect:220;send:QUIT\\r\\n;expect:221"] {
        let instance = checked(check, &mail, &[]);
        instance.await_health(0, "up");
        instance.end();
    }
    let instance = checked("expect:554", &mail, &["--check-timeout", "300ms"]);
    let status = instance.await_health(0, "down");
    assert_eq!(status.why, "\"554\" did not come within 300ms");
    instance.end();
}
