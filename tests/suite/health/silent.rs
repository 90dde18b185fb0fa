//! `--first-byte`: a server that accepts connections and stays silent, while other channels answer.
//!
//! Source: docs/health.md, "A server that stays silent".

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::harness::{Client, Instance, Server, eventually};

/// It answers what it is asked, as long as it is well.
fn server(name: &'static str, is_well: &Arc<AtomicBool>) -> Server {
    let is_well = Arc::clone(is_well);
    Server::with(move |mut stream, _| {
        let mut byte = [0];
        while matches!(stream.read(&mut byte), Ok(1)) {
            if is_well.load(Ordering::SeqCst) && stream.write_all(name.as_bytes()).is_err() {
                return;
            }
        }
    })
}

fn flag(value: bool) -> Arc<AtomicBool> {
    Arc::new(AtomicBool::new(value))
}

/// A client of its own address that asks something.
fn asks(instance: &Instance, last: u8) -> Client {
    let mut client = Client::connect_from([127, 0, 0, last], instance.addr);
    client.send("?");
    client
}

/// A client that is answered by this server; those whom others have are kept, so that they wait.
fn answered(instance: &Instance, kept: &mut Vec<Client>, by: &[u8]) {
    eventually("an answer", || {
        let client = Client::connect_from([127, 0, 0, 99], instance.addr);
        let mut client = client;
        client.send("?");
        let got = (!client.is_quiet_for(std::time::Duration::from_millis(200))).then(|| client.recv(1));
        match got {
            Some(got) if got == by => Some(()),
            _ => {
                kept.push(client);
                None
            }
        }
    });
}

fn held(state: &str, instance: &Instance) -> bool {
    instance.status()[0].health == state
}

#[test]
fn a_server_that_is_silent_while_another_one_answers_is_ejected_and_returns() {
    let (a_is_well, b_is_well) = (flag(false), flag(true));
    let (a, b) = (server("a", &a_is_well), server("b", &b_is_well));
    let instance = Instance::before(&[&"--first-byte", &"300ms", &a, &b]);
    let mut clients = Vec::new();
    let mut last = 1;
    let told = eventually("it is ejected", || {
        // Three clients of its own, and in between one of the other, again and again.
        clients.push(asks(&instance, last));
        last = last % 90 + 1;
        instance.told("ejected").pop()
    });
    assert!(told.contains("group=0 channel=0"), "{told}");
    assert!(told.contains(r#"cause="no byte within 300ms for 3 clients in a row""#), "{told}");
    a_is_well.store(true, Ordering::SeqCst);
    drop(clients);
    instance.await_health(0, "up");
    instance.end();
}

#[test]
fn one_client_alone_and_clients_without_a_request_eject_nobody() {
    let (a, b) = (server("a", &flag(false)), server("b", &flag(true)));
    let instance = Instance::before(&[&"--first-byte", &"100ms", &a, &b]);
    let mut kept = Vec::new();
    for _ in 0..3 {
        answered(&instance, &mut kept, b"b");
    }
    // Idle ones, of many addresses, as a browser opens in advance.
    let idle: Vec<_> = (1..=12).map(|last| Client::connect_from([127, 0, 0, last], instance.addr)).collect();
    answered(&instance, &mut kept, b"b");
    std::thread::sleep(std::time::Duration::from_millis(400));
    answered(&instance, &mut kept, b"b");
    assert!(instance.told("ejected").is_empty(), "{}", instance.stderr());
    // Those who then say something count from then on.
    let mut idle = idle;
    idle.iter_mut().for_each(|client| client.send("?"));
    eventually("it is ejected", || {
        answered(&instance, &mut kept, b"b");
        held("ejected", &instance).then_some(())
    });
    drop((idle, kept));
    instance.end();
}

#[test]
fn where_all_are_slow_nobody_is_ejected() {
    let slow = |name: &'static str| {
        Server::with(move |mut stream, _| {
            while matches!(stream.read(&mut [0]), Ok(1)) {
                std::thread::sleep(std::time::Duration::from_millis(400));
                if stream.write_all(name.as_bytes()).is_err() {
                    return;
                }
            }
        })
    };
    let (a, b) = (slow("a"), slow("b"));
    let instance = Instance::before(&[&"--first-byte", &"100ms", &a, &b]);
    for _ in 0..3 {
        let mut clients: Vec<_> = (1..=8).map(|last| asks(&instance, last)).collect();
        for client in &mut clients {
            client.recv(1);
        }
    }
    assert!(instance.told("ejected").is_empty(), "{}", instance.stderr());
    instance.end();
}

#[test]
fn never_more_than_half_of_a_group_is_ejected() {
    let (ill, well) = (flag(false), flag(true));
    let servers = [server("a", &ill), server("b", &ill), server("c", &ill), server("d", &well)];
    let instance =
        Instance::before(&[&"--first-byte", &"200ms", &servers[0], &servers[1], &servers[2], &servers[3]]);
    let mut clients = Vec::new();
    let mut last = 1;
    eventually("two are ejected", || {
        clients.push(asks(&instance, last));
        last = last % 90 + 1;
        (instance.told("ejected").len() >= 2).then_some(())
    });
    for _ in 0..20 {
        clients.push(asks(&instance, last));
        last = last % 90 + 1;
    }
    std::thread::sleep(std::time::Duration::from_millis(600));
    let ejected = instance.status().iter().filter(|row| row.health == "ejected").count();
    assert!(ejected <= 2, "{:?}", instance.status());
    drop(clients);
    instance.end();
}

#[test]
fn where_servers_speak_first_a_silent_one_is_found_without_a_word_of_clients() {
    let (silent, b) = (Server::silent(), Server::named("b"));
    let instance = Instance::before(&[&"--first-byte", &"200ms", &silent, &b]);
    let mut clients = Vec::new();
    eventually("it is ejected", || {
        clients.push(instance.connect());
        held("ejected", &instance).then_some(())
    });
    drop(clients);
    instance.end();
}

#[test]
fn it_is_off_unless_it_is_asked_for() {
    let (a, b) = (server("a", &flag(false)), server("b", &flag(true)));
    let instance = Instance::before(&[&a, &b]);
    let clients: Vec<_> = (1..=12).map(|last| asks(&instance, last)).collect();
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert!(instance.told("ejected").is_empty());
    drop(clients);
    instance.end();
}
