//! No channel is left: what is logged, once for each outage, and what `status` counts.

use crate::harness::{
    Client, Instance, Received, Refusing, Revivable, Server, eventually, pause, unless_held_up,
};
use crate::queue::{wait_as, with_line};

use super::{name, names};

#[track_caller]
fn await_told(instance: &Instance, event: &str, count: usize) {
    eventually(&format!("{event} is told {count} times"), || {
        (instance.told(event).len() >= count).then_some(())
    });
    assert_eq!(instance.told(event).len(), count, "{}", instance.stderr());
}

#[test]
fn an_outage_of_all_channels_is_told_once_and_its_end_once() {
    let (mut a, mut b) = (Revivable::new("a"), Revivable::new("b"));
    let instance = Instance::before(&[&a, &b]);
    assert_eq!(names(&instance, 2), "ab");
    a.stop();
    for outage in 1..=2 {
        while instance.told("ejected").len() < 2 * outage - 1 {
            let _ = name(&instance);
        }
        instance.await_told([("no_channel_up", outage - 1)]);
        b.stop();
        eventually("both are out", || {
            let _ = name(&instance);
            (instance.health() == "ejected ejected").then_some(())
        });
        assert_eq!(names(&instance, 5), "-----");
        await_told(&instance, "no_channel_up", outage);
        b.start();
        await_told(&instance, "channel_up_again", outage);
        a.start();
        eventually("both are up", || (instance.health() == "up up").then_some(()));
        a.stop();
    }
    instance.await_told([("no_channel_up", 2)]);
    for (event, key) in [("no_channel_up", ""), ("channel_up_again", " after=")] {
        let lines = instance.told(event);
        let level = if key.is_empty() { "level=error" } else { "level=notice" };
        assert!(lines.iter().all(|line| line.contains(level) && line.contains(key)), "{lines:?}");
    }
    instance.end();
}

#[test]
fn what_an_operator_or_autodisable_does_is_told_where_it_is_an_outage() {
    let a = Server::named("a");
    let instance = Instance::before(&[&a]);
    instance.ctl("disable 0").code(0);
    instance.ctl("enable 0").code(0);
    assert_eq!(name(&instance), 'a');
    assert_eq!(instance.told("no_channel_up"), [""; 0], "who disables the only channel knows it");
    instance.end();
    let dead = Refusing::new();
    let instance = Instance::before(&[&"-a", &dead]);
    assert_eq!(name(&instance), '-');
    await_told(&instance, "no_channel_up", 1);
    instance.end();
}

#[test]
fn lost_clients_are_counted_by_why() {
    unless_held_up(500, || {
        let a = Server::named("a");
        let instance = with_line("1", "2s", &[&format!("{a}:1")]);
        assert_eq!(instance.losses(), "");
        let holder = instance.named();
        let mut waiting = wait_as(&instance, 1);
        for _ in 0..2 {
            assert_eq!(instance.connect().ending(), Received::End);
        }
        assert_eq!(waiting.ending(), Received::End);
        // One that goes away by itself while it waits.
        let gone = wait_as(&instance, 1);
        drop(gone);
        eventually("all are counted", || {
            let losses = instance.losses();
            (losses == "4 (queue full 2, queue timeout 1, client left 1)"
                || losses == "4 (queue full 2, queue timeout 2)")
                .then_some(())
        });
        drop(holder);
        instance.end();

        let dead = Refusing::new();
        let instance = Instance::before(&[&"--no-eject", &dead]);
        assert_eq!(names(&instance, 3), "---");
        eventually("they are counted", || (instance.losses() == "3 (all channels failed 3)").then_some(()));
        instance.ctl("disable 0").code(0);
        assert_eq!(name(&instance), '-');
        let counted = "4 (all channels disabled 1, all channels failed 3)";
        eventually("they are counted", || (instance.losses() == counted).then_some(()));
        instance.end();
    });
}

#[test]
fn clients_that_are_served_are_not_lost_however_they_end() {
    let a = Server::named("a");
    let instance = Instance::before(&[&a]);
    let clients: Vec<Client> = (0..4).map(|_| instance.named().0).collect();
    instance.ctl("kick 0").code(0);
    drop(clients);
    eventually("all have ended", || (instance.show()[0].c == 0).then_some(()));
    pause();
    assert_eq!(instance.losses(), "");
    instance.end();
}
