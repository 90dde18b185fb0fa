//! Servers that go down and come back under load: which clients are lost, how soon the servers get clients
//! again, and that nothing flaps.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::harness::{Got, Instance, Load, Refusing, Revivable, Server, Visit, eventually};

use super::count;

/// Clients at a time.
const CLIENTS: usize = 4;
/// Several times what a return takes after a short outage (a probe after 250 ms, or 500 ms, or 1 s).
const SOON: Duration = Duration::from_secs(8);

/// Every client that got no name must have been connected to a server that may have been stopped. The instance says so: with
/// `-d` it tells whom it gave to which channel.
#[track_caller]
fn assert_lost_only_by(instance: &Instance, visits: &[Visit], channels: &[usize]) {
    assert_eq!(count(visits, Got::Refused), 0);
    let opened = instance.told("opened");
    let channel_of = |client: SocketAddr| {
        let key = format!(" client={client} ");
        let line = opened.iter().find(|line| line.contains(&key))?;
        let number = line.split("channel=").nth(1)?.split_whitespace().next()?;
        number.parse::<usize>().ok()
    };
    for visit in visits.iter().filter(|visit| visit.got == Got::Closed) {
        // One that was reset before its connect came back has no address to be looked up by, but it was given to somebody.
        let Some(client) = visit.from else { continue };
        let channel = channel_of(client);
        assert!(channel.is_some_and(|c| channels.contains(&c)), "{client} was lost, and had {channel:?}");
    }
}

#[test]
fn servers_that_stop_and_start_lose_only_those_connected_to_them() {
    const OUTAGES: usize = 6;
    let mut servers = ["a", "b", "c"].map(Revivable::new);
    let instance = Instance::before(&[&"-d", &servers[0], &servers[1], &servers[2]]);
    let load = Load::on(instance.addr, CLIENTS);
    for outage in 0..OUTAGES {
        let which = outage % servers.len();
        load.await_more(60);
        servers[which].stop();
        let status = instance.await_health(which, "ejected");
        // A client that was in the server's queue when it went may have been the last straw.
        assert!(status.why.contains("connect: ") || status.why.contains("without a byte"), "{status:?}");
        assert_eq!(instance.show()[which].state, "ENA");
        load.await_more(60);
        servers[which].start();
        let begin = Instant::now();
        instance.await_health(which, "up");
        assert!(begin.elapsed() < SOON, "{:?}", begin.elapsed());
        let before = servers[which].accepted();
        eventually("clients at the server that is back", || {
            (servers[which].accepted() >= before + 5).then_some(())
        });
    }
    let visits = load.finish();
    instance.await_told([("ejected", OUTAGES), ("returned", OUTAGES)]);
    assert_lost_only_by(&instance, &visits, &[0, 1, 2]);
    let lost = count(&visits, Got::Closed);
    assert!(lost <= OUTAGES * CLIENTS, "{lost} of {} clients", visits.len());
    for (which, row) in instance.status().iter().enumerate() {
        let of = |event| {
            let lines = instance.told(event);
            lines.iter().filter(|line| line.contains(&format!("channel={which} "))).count()
        };
        let outages = OUTAGES / servers.len();
        assert_eq!((of("ejected"), of("returned")), (outages, outages), "once per outage: channel {which}");
        // Only those who were on their way when the first one failed.
        assert!(row.failed as usize <= outages * CLIENTS, "{row:?}");
    }
    instance.end();
}

#[test]
fn connections_of_a_channel_that_is_ejected_live_on() {
    let (server, b) = (Server::echo(), Server::named("b"));
    let dead = Refusing::new();
    let instance = Instance::before(&[&server, &b]);
    let mut client = instance.connect();
    client.send("x");
    assert_eq!(client.recv(1), b"x");
    instance.ctl(&format!("disable 0; assign 0 127.0.0.1 {}; enable 0", dead.addr().port())).code(0);
    assert_eq!(super::names(&instance, 4), "bbbb");
    assert_eq!(instance.health(), "ejected up");
    client.send("y");
    assert_eq!(client.recv(1), b"y", "it lives on");
    assert_eq!(instance.show()[0].c, 1);
    drop(client);
    instance.end();
}

#[test]
fn a_server_that_flaps_costs_few_ejections_and_nobody_but_its_own_clients() {
    let (mut a, b) = (Revivable::new("a"), Server::named("b"));
    let instance = Instance::before(&[&"-d", &a, &b]);
    let load = Load::on(instance.addr, CLIENTS);
    load.await_more(40);
    let begin = Instant::now();
    let mut toggles = 0_u64;
    while begin.elapsed() < Duration::from_secs(3) {
        // 50 to 100 ms, in a pattern that is not in step with anything.
        std::thread::sleep(Duration::from_millis(50 + toggles * 37 % 51));
        if toggles.is_multiple_of(2) {
            a.stop()
        } else {
            a.start()
        }
        toggles += 1;
    }
    a.start();
    instance.await_health(0, "up");
    load.await_more(40);
    let visits = load.finish();
    let took = begin.elapsed();
    assert_lost_only_by(&instance, &visits, &[0]);
    // The last refusal may be heard of late.
    let ejected = eventually("it has come back for good", || {
        let ejected = instance.told("ejected");
        (instance.told("returned").len() == ejected.len()).then_some(ejected)
    });
    assert!(ejected.iter().all(|line| line.contains("channel=0 ")), "{ejected:?}");
    // An ejection lasts for 225 ms at least. If the channel then stays for less than twice its delay (250 ms), the next lasts
    // for 450 ms at least; if it stays for longer, that is 725 ms from one to the next.
    let most = 3 + took.as_millis() / 725;
    assert!((1..=most).contains(&(ejected.len() as u128)), "{} ejections in {took:?}", ejected.len());
    // Each ejection was paid for by those who were on their way.
    let failed = instance.status()[0].failed as usize;
    assert!(failed <= ejected.len() * CLIENTS, "{failed} failed connects, {} ejections", ejected.len());
    instance.end();
}
