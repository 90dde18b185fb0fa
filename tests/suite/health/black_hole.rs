//! A channel that never answers: how many clients wait for the timeout.

use std::time::Duration;

use crate::harness::{BlackHole, Got, Instance, Load, Server, eventually};

use super::{count, names};

#[test]
fn of_clients_one_after_another_only_the_first_pays_the_timeout() {
    let (hole, b) = (BlackHole::new(), Server::named("b"));
    let instance = Instance::before(&[&"-t", &"300ms", &hole, &b]);
    assert_eq!(names(&instance, 30), "b".repeat(30));
    let rows = instance.status();
    assert_eq!((rows[0].totalc, rows[0].failed, rows[1].totalc), (1, 1, 30), "{rows:?}");
    assert_eq!(rows[0].health, "ejected");
    assert!(rows[0].why.contains("no answer"), "{rows:?}");
    instance.end();
}

#[test]
fn of_clients_in_parallel_only_those_pay_that_were_dialling_when_the_first_timeout_struck() {
    const CLIENTS: usize = 6;
    let (hole, b) = (BlackHole::new(), Server::named("b"));
    let instance = Instance::before(&[&"-t", &"500ms", &hole, &b]);
    let load = Load::on(instance.addr, CLIENTS);
    instance.await_health(0, "ejected");
    load.await_more(200);
    let visits = load.finish();
    assert_eq!(count(&visits, Got::Name('b')), visits.len(), "nobody is lost");
    let row = &instance.status()[0];
    // One thread has one client at a time, and none of them comes back from the hole before the first timeout.
    assert!((1..=CLIENTS as u64).contains(&row.totalc), "{row:?}");
    assert_eq!(row.totalc, row.failed);
    instance.await_told([("ejected", 1)]);
    instance.end();
}

#[test]
fn probes_into_a_black_hole_cost_no_client_anything() {
    let (hole, b) = (BlackHole::new(), Server::named("b"));
    let instance = Instance::before(&[&"-t", &"1s", &hole, &b]);
    assert_eq!(names(&instance, 1), "b");
    for _ in 0..3 {
        eventually("a probe hangs", || (instance.dials(hole.addr()) == 1).then_some(()));
        assert_eq!(names(&instance, 20), "b".repeat(20));
        assert_eq!(instance.show()[0].totalc, 1, "no client was tried on it");
        eventually("it is given up", || (instance.dials(hole.addr()) == 0).then_some(()));
    }
    instance.await_told([("ejected", 1), ("returned", 0)]);
    instance.end();
}

#[test]
fn an_only_channel_that_never_answers_is_tried_by_everyone() {
    let hole = BlackHole::new();
    let instance = Instance::before(&[&"-t", &"200ms", &hole]);
    assert_eq!(names(&instance, 3), "---");
    assert_eq!(instance.show()[0].totalc, 3, "fail open");
    instance.end();
    let instance = Instance::before(&[&"-t", &"200ms", &"--fail-open=off", &hole]);
    assert_eq!(names(&instance, 5), "-----");
    assert_eq!(instance.show()[0].totalc, 1);
    let begin = std::time::Instant::now();
    assert_eq!(names(&instance, 20), "-".repeat(20));
    assert!(begin.elapsed() < Duration::from_secs(10), "they are closed at once: {:?}", begin.elapsed());
    instance.end();
}
