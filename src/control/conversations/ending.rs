//! What `kill` and the end of a process do to names and sessions.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::instance::{Instance, ask};
use crate::control::client::{AskError, Client};
use crate::control::find::{self, FindError, Wanted, Which};

/// The name of this process while it drains.
fn own_name() -> String {
    format!("process.{}", std::process::id())
}

fn process_entry() -> String {
    format!("service.{}", own_name())
}

fn by_name(instance: &Instance, name: &str) -> Result<Client, FindError> {
    find::find(
        &Wanted { service: Which::Name { name: name.to_owned(), port: None }, ..instance.wanted() },
        false,
    )
}

#[test]
fn kill_frees_the_name_then_the_port_and_then_answers() {
    let instance = Instance::start();
    let mut other = instance.client();
    let mut client = instance.client();
    assert_eq!(ask(&mut client, b"kill; show"), ("shutdown complete, exiting.\n".into(), 0, 0, true));
    assert_eq!(instance.killed.load(Ordering::SeqCst), 1);
    assert_eq!(instance.scratch.names(), [process_entry()], "its connections live on");
    assert_eq!(other.ask(b"version", |_| ()).expect("an answer").code, 0, "so do other sessions");
    let gone = find::find(&instance.wanted(), false).expect_err("gone").to_string();
    assert_eq!(gone, "no master process, exiting.");
    instance.stop();
}

#[test]
fn a_kill_that_fails_says_so_and_can_be_tried_again() {
    let instance = Instance::start();
    let mut client = instance.client();
    instance.kill_works.store(false, Ordering::SeqCst);
    assert_eq!(ask(&mut client, b"k"), ("shutdown failed.\n".into(), 69, 0, false));
    assert_eq!(ask(&mut instance.client(), b"version").1, 0, "found by others too");
    instance.kill_works.store(true, Ordering::SeqCst);
    assert_eq!(ask(&mut client, b"kill"), ("shutdown complete, exiting.\n".into(), 0, 0, true));
    assert_eq!(instance.scratch.names(), [process_entry()]);
}

#[test]
fn a_process_that_drains_is_asked_by_a_name_of_its_own_and_a_second_kill_is_the_end() {
    for by_kill in [true, false] {
        let instance = Instance::start();
        let mut before = instance.client();
        assert!(by_name(&instance, &own_name()).is_err(), "while it serves, its names are others");
        if by_kill {
            assert_eq!(ask(&mut instance.client(), b"kill").1, 0);
        } else {
            assert!(instance.control.drain().is_none());
        }
        assert_eq!(instance.scratch.names(), [process_entry()]);
        assert!(find::find(&instance.wanted(), false).is_err(), "the port is a successor's");
        let mut client = by_name(&instance, &own_name()).expect("it answers");
        let (list, code, ..) = ask(&mut client, b"services");
        assert!(code == 0 && list.contains(" 5 draining "), "{list}");
        assert_eq!(ask(&mut client, b"sessions").1, 0);
        // A session that began before the first kill says it once more.
        assert_eq!(ask(&mut before, b"kill"), ("shutdown complete, exiting.\n".into(), 0, 0, true));
        assert!(instance.ended.lock().expect("not poisoned").is_empty());
        assert_eq!(ask(&mut client, b"kill 2m").0, "shutdown complete, exiting.\n");
        let mut client = by_name(&instance, &own_name()).expect("it answers");
        assert_eq!(ask(&mut client, b"kill").0, "shutdown complete, exiting.\n");
        let times = [Duration::from_secs(120), Duration::ZERO];
        assert_eq!(*instance.ended.lock().expect("not poisoned"), times);
        instance.stop();
        assert!(instance.scratch.names().is_empty());
    }
}

#[test]
fn kill_with_a_time_says_when_the_rest_is_closed() {
    for (line, time) in [("kill 30", 30), ("k 5m", 300), ("kill 0", 0)] {
        let instance = Instance::start();
        let said = ask(&mut instance.client(), line.as_bytes());
        assert_eq!(said, ("shutdown complete, exiting.\n".into(), 0, 0, true), "{line}");
        assert_eq!(*instance.ended.lock().expect("not poisoned"), [Duration::from_secs(time)], "{line}");
    }
    let instance = Instance::start();
    instance.kill_works.store(false, Ordering::SeqCst);
    assert_eq!(ask(&mut instance.client(), b"kill 0").0, "shutdown failed.\n");
    assert!(instance.ended.lock().expect("not poisoned").is_empty(), "it serves");
}

#[test]
fn a_stop_ends_idle_sessions_and_removes_the_entry() {
    let instance = Instance::start();
    let mut client = instance.client();
    instance.control.remove();
    assert_eq!(ask(&mut client, b"group 1").2, 1, "sessions go on");
    instance.stop();
    assert!(instance.scratch.names().is_empty());
    assert!(matches!(client.ask(b"show", |_| ()), Err(AskError::Unheard)));
}
