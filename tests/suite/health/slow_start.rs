//! A channel that returns gets few clients at first.

use crate::harness::{Instance, Revivable, Server};

use super::names;

fn of(names: &str, name: char) -> usize {
    names.chars().filter(|got| *got == name).count()
}

#[test]
fn a_returning_channel_gets_few_clients_at_first_and_its_share_later() {
    // The first is so long that the test ends before it matters, the second so short that it soon is over.
    for (ramp, is_over) in [("10m", false), ("1s", true)] {
        let (mut a, b) = (Revivable::new("a"), Server::named("b"));
        let instance = Instance::before(&[&"--slow-start", &ramp, &a, &b]);
        let at_start = names(&instance, 40);
        assert_eq!((of(&at_start, 'a'), of(&at_start, 'b')), (20, 20), "no ramp at the start");
        a.stop();
        assert_eq!(names(&instance, 4), "bbbb");
        instance.await_health(0, "ejected");
        a.start();
        if is_over {
            instance.await_health(0, "up");
            let later = names(&instance, 40);
            assert!(of(&later, 'a').abs_diff(20) <= 1, "its full share: {later}");
        } else {
            let status = instance.await_health(0, "ramp:1%");
            assert_eq!(status.why.split(';').next().map(str::trim), Some(&status.why[..]), "{status:?}");
            let first = names(&instance, 130);
            // One of 65; two or three if the machine is very slow.
            assert!((1..=20).contains(&of(&first, 'a')), "{first}");
        }
        instance.end();
    }
}

#[test]
fn a_channel_that_is_enabled_again_ramps_up_too() {
    let (a, b) = (Server::named("a"), Server::named("b"));
    let instance = Instance::before(&[&"--slow-start", &"10m", &a, &b]);
    instance.ctl("disable 0; enable 0").code(0);
    assert_eq!(instance.health(), "ramp:1% untried");
    let first = names(&instance, 130);
    assert!((1..=20).contains(&of(&first, 'a')), "{first}");
    // Alone it gets everybody all the same.
    instance.ctl("disable 1").code(0);
    assert_eq!(names(&instance, 5), "aaaaa");
    instance.end();
}

#[test]
fn a_channel_that_comes_up_by_checks_ramps_up_too() {
    let (mut a, b) = (Revivable::new("a"), Server::named("b"));
    let args = ["--slow-start", "10m", "--check", "tcp", "--check-interval", "20ms", "PORT"];
    let args = args.map(String::from).into_iter().chain([a.to_string(), b.to_string()]);
    let instance = Instance::start(args);
    instance.await_health(0, "up");
    a.stop();
    instance.await_health(0, "down");
    a.start();
    instance.await_health(0, "ramp:1%");
    let first = names(&instance, 130);
    assert!((1..=20).contains(&of(&first, 'a')), "{first}");
    instance.end();
}
