//! A pause of the program under test says nothing about its channels.

use std::time::Duration;

use rustix::process::Signal;

use crate::harness::{Directory, Instance, Server, executable, pause, unless_held_up};

/// Stops the instance for longer than a check may take.
fn hold_up(instance: &Instance) {
    instance.signal(Signal::STOP);
    // Not a wait for anything: this is how long the pause is.
    std::thread::sleep(Duration::from_millis(2_300));
    instance.signal(Signal::CONT);
}

#[test]
fn a_pause_takes_no_healthy_channel_down_and_costs_no_connection() {
    unless_held_up(300, || {
        let directory = Directory::new();
        let program = executable(&directory, "good", "#!/bin/sh\nsleep 0.1\n");
        let exec = format!("exec:{}", program.display());
        for check in ["tcp", "expect:a", &exec] {
            let (a, b) = (Server::named("a"), Server::named("a"));
            let args = ["--check", check, "--check-interval", "10ms", "--check-timeout", "2s"];
            let args = args.into_iter().chain(["--check-fall", "1", "--on-down", "kick", "PORT"]);
            let instance = Instance::start(args.map(String::from).chain([a.to_string(), b.to_string()]));
            for line in [0, 1] {
                instance.await_health(line, "up");
            }
            let mut clients: Vec<_> = (0..10).map(|_| instance.named().0).collect();
            for _ in 0..2 {
                hold_up(&instance);
                // The checks that were under way are over, and others after them.
                let taken = [a.accepted(), b.accepted()];
                let more = || check == exec || a.accepted() > taken[0] + 3 && b.accepted() > taken[1] + 3;
                while !more() {
                    pause();
                }
                for client in &mut clients {
                    client.send("x");
                    assert_eq!(client.recv(1), b"x", "{check}");
                }
            }
            assert_eq!(instance.told("channel_down"), [""; 0], "{check}");
            assert_eq!(instance.health(), "up up", "{check}");
            drop(clients);
            instance.end();
        }
    });
}
