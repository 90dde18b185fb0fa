//! Crowds in the wait queue: many clients, few slots, everything at the same time.
//!
//! Source: docs/compatibility.md, "Limits".

use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::process::Signal;

use crate::failover::{burst, name_of};
use crate::harness::{Client, Direction, Received, Server, Stream, eventually};
use crate::queue::{wait_as, waiting, with_line};

#[test]
fn a_crowd_through_two_slots_is_served_exactly_once_each() {
    const CLIENTS: usize = 200;
    let a = Server::named("a");
    let instance = with_line("200", "2m", &[&format!("{a}:2")]);
    let answers = burst(&instance, CLIENTS, |mut client, i| {
        let text = format!("I am client {i}.");
        client.send(&text);
        assert_eq!(client.recv(1 + text.len()), format!("a{text}").as_bytes());
        // Endings of both kinds keep the slots changing hands.
        if i % 3 == 0 {
            client.rst();
        } else {
            client.shut_wr();
            assert_eq!(client.ending(), Received::End);
        }
        1
    });
    assert_eq!(answers.iter().sum::<usize>(), CLIENTS);
    assert_eq!((a.accepted(), instance.show()[0].totalc), (CLIENTS, CLIENTS as u64));
    assert_eq!(waiting(&instance), [0]);
    instance.end();
}

#[test]
fn those_who_leave_in_a_crowd_cost_no_slot() {
    const CLIENTS: usize = 120;
    let a = Server::named("a");
    let instance = with_line("200", "2m", &[&format!("{a}:2")]);
    let holders = [instance.named(), instance.named()];
    let served = std::thread::scope(|scope| {
        let crowd = scope.spawn(|| {
            burst(&instance, CLIENTS, |mut client, i| {
                if i % 2 == 0 {
                    client.rst();
                    return 0;
                }
                let served = usize::from(name_of(&mut client) == Some('a'));
                client.shut_wr();
                assert_eq!(client.ending(), Received::End);
                served
            })
        });
        // Half of the leavers have left while the channel was full, the others meet its opening.
        eventually("a line", || (waiting(&instance)[0] > CLIENTS / 4).then_some(()));
        drop(holders);
        crowd.join().expect("the crowd").into_iter().sum::<usize>()
    });
    assert_eq!(served, CLIENTS / 2, "everybody who stayed");
    instance.end();
}

#[test]
fn turns_that_come_as_the_time_ends_cost_no_slot() {
    const CLIENTS: usize = 150;
    let a = Server::named("a");
    // Slots change hands about as fast as waiting times end.
    let instance = with_line("1000", "20ms", &[&format!("{a}:2")]);
    for _ in 0..3 {
        let served: usize =
            burst(&instance, CLIENTS, |mut client, _| usize::from(name_of(&mut client).is_some()))
                .into_iter()
                .sum();
        assert!(served >= 2, "two found free slots");
        instance.await_show("all slots free", |rows| rows[0].c == 0);
        assert_eq!(waiting(&instance), [0]);
    }
    let both = [instance.named(), instance.named()];
    assert_eq!(instance.show()[0].c, 2, "both slots are there");
    drop(both);
    instance.end();
}

#[test]
fn a_turn_that_finds_its_client_gone_is_the_next_ones() {
    let a = Server::named("a");
    let instance = with_line("9", "1m", &[&format!("{a}:1")]);
    for _ in 0..30 {
        let holder = instance.named();
        let leaves = wait_as(&instance, 1);
        let mut stays = wait_as(&instance, 2);
        // While nothing runs, the first in line leaves and a slot comes free: both are met in the same moment.
        instance.signal(Signal::STOP);
        drop(holder);
        leaves.rst();
        instance.signal(Signal::CONT);
        assert_eq!(name_of(&mut stays), Some('a'));
        drop(stays);
        instance.await_show("idle", |rows| rows[0].c == 0);
    }
    instance.end();
}

#[test]
fn what_was_sent_while_waiting_arrives_whole() {
    const BYTES: u64 = 3 << 20;
    let server = Server::echo();
    let instance = with_line("9", "1m", &[&format!("{server}:1")]);
    let holder = instance.connect();
    instance.await_show("it has the slot", |rows| rows[0].c == 1);
    let mut clients: Vec<_> = (1..=3).map(|n| wait_as(&instance, n)).collect();
    let talk = |client: &mut Client, number: u64| {
        let stream = Stream::new(number, Direction::Sent);
        let mut twin = Client(client.0.try_clone().expect("a descriptor"));
        std::thread::scope(|scope| {
            scope.spawn(move || {
                twin.send_stream(stream, BYTES);
                twin.shut_wr();
            });
            client.recv_stream(stream, BYTES);
            assert_eq!(client.ending(), Received::End);
        });
    };
    let begun = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for (number, client) in clients.iter_mut().enumerate() {
            let begun = &begun;
            scope.spawn(move || {
                // Something is on its way before the turn comes.
                begun.fetch_add(1, Ordering::SeqCst);
                talk(client, number as u64);
            });
        }
        eventually("all talk", || (begun.load(Ordering::SeqCst) == 3).then_some(()));
        drop(holder);
    });
    let row = instance.await_show("idle", |rows| rows[0].c == 0).remove(0);
    assert_eq!((row.sent, row.rcvd), (3 * BYTES, 3 * BYTES));
    drop(clients);
    instance.end();
}

#[test]
fn an_operator_at_work_in_a_crowd_loses_nobody() {
    const CLIENTS: usize = 150;
    let (a, b) = (Server::named("a"), Server::named("b"));
    let instance = with_line("500", "2m", &[&format!("{a}:2"), &format!("{b}:1")]);
    let left = AtomicUsize::new(CLIENTS);
    let served = std::thread::scope(|scope| {
        let crowd = scope.spawn(|| {
            burst(&instance, CLIENTS, |mut client, _| {
                let served = name_of(&mut client).is_some();
                client.shut_wr();
                assert_eq!(client.ending(), Received::End);
                left.fetch_sub(1, Ordering::SeqCst);
                usize::from(served)
            })
        });
        while left.load(Ordering::SeqCst) > 0 {
            // The first channel always has room some day, so nobody is sent away for want of one.
            for command in [
                "disable 1",
                "maxc 0 1",
                "enable 1",
                "weight 1 0",
                "maxc 0 3",
                "weight 1 4",
                "policy leastconn",
                "rr",
            ] {
                instance.ctl(command).code(0);
            }
        }
        crowd.join().expect("the crowd").into_iter().sum::<usize>()
    });
    assert_eq!(served, CLIENTS);
    assert_eq!(a.accepted() + b.accepted(), CLIENTS);
    instance.end();
}
