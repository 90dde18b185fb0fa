//! Which instance a client finds, and what it is told if none is the right one.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::Ordering;
use std::{fs, thread};

use super::instance::{Instance, all, ask, options, port_80, rest, service, service_at, wanted};
use crate::control::endpoint::Endpoint;
use crate::control::find::{self, FindError, Wanted, Which};
use crate::control::scratch::Scratch;
use crate::control::socket::serve;
use crate::control::wire::MAX_LINE;

#[test]
fn the_wildcard_instance_is_found_first_then_the_only_one_then_the_operator_is_asked() {
    let scratch = Scratch::new();
    let start = |address: &str| {
        let (endpoint, service) = (Endpoint::bind(&options(&scratch, address)), service_at(address));
        serve(endpoint.expect("bound"), all(vec![service])).expect("serving")
    };
    let find = |addresses: Option<&str>| {
        let addresses = addresses.map(|list| list.split(' ').map(|ip| port_80(ip).into()).collect());
        let service = Which::Port { port: 80, addresses, ipv6: false };
        find::find(&Wanted { service, ..wanted(&scratch) }, false).map(drop)
    };
    assert!(matches!(find(None), Err(FindError::None)));
    let one = start("127.0.0.1");
    drop(UnixListener::bind(scratch.path().join("balance.80.127.0.0.9")).expect("a stale entry"));
    assert!(find(None).is_ok());
    assert!(find(Some("::ffff:127.0.0.1")).is_ok());
    assert!(find(Some("::1 127.0.0.1")).is_ok());
    for other in ["127.0.0.2", "127.0.0.9"] {
        let expected = "no master process, exiting.\n\
            balance: port 80 is served on 127.0.0.1; to ask that instance, use -b 127.0.0.1";
        assert_eq!(find(Some(other)).expect_err("another address").to_string(), expected);
    }
    let two = start("::1");
    let message = find(None).expect_err("two of them").to_string();
    assert_eq!(message, "balance: several instances have port 80, say which with -b: 127.0.0.1, ::1");
    let any = start("::");
    assert!(find(None).is_ok());
    let other = find(Some("0.0.0.0")).expect_err("another address").to_string();
    let expected = "to ask that instance, use -b 127.0.0.1 or leave -b away or use -b ::1";
    assert!(other.ends_with(expected), "{other}");
    drop((one, two, any));
    assert!(matches!(find(None), Err(FindError::None)));
}

#[test]
fn without_an_address_what_changes_is_for_an_instance_on_all_addresses() {
    let scratch = Scratch::new();
    let start = |address: &str| {
        let (endpoint, service) = (Endpoint::bind(&options(&scratch, address)), service_at(address));
        serve(endpoint.expect("bound"), all(vec![service])).expect("serving")
    };
    let one = start("127.0.0.1");
    let message = find::find(&wanted(&scratch), true).expect_err("it is on one address").to_string();
    let expected = "no master process, exiting.\n\
        balance: port 80 is served on 127.0.0.1 only; to change that instance, add -b 127.0.0.1";
    assert_eq!(message, expected);
    // A session that was begun for reading can only read.
    let mut client = find::find(&wanted(&scratch), false).expect("found");
    assert_eq!(ask(&mut client, b"group 0").1, 0);
    let (text, code, _, end) = ask(&mut client, b"show; disable 0");
    assert_eq!((text.trim_end(), code, end), (expected, 69, true));
    let any = start("0.0.0.0");
    assert!(find::find(&wanted(&scratch), true).is_ok());
    drop((one, any));
}

#[test]
fn the_same_link_local_address_on_two_interfaces_is_two_instances() {
    let scratch = Scratch::new();
    let start = |address: &str| {
        let (endpoint, service) = (Endpoint::bind(&options(&scratch, address)), service_at(address));
        serve(endpoint.expect("bound"), all(vec![service])).expect("serving")
    };
    let find = |address: &str, is_change| {
        let addresses = Some(vec![port_80(address).into()]);
        let service = Which::Port { port: 80, addresses, ipv6: false };
        find::find(&Wanted { service, ..wanted(&scratch) }, is_change).map_err(|error| error.to_string())
    };
    // No machine has this many interfaces, so the numbers are not printed as names.
    let one = start("fe80::1%900001");
    assert!(find("fe80::1%900001", true).is_ok());
    assert_eq!(
        find("fe80::1%900002", true).expect_err("another one"),
        "no master process, exiting.\n\
        balance: port 80 is served on fe80::1%900001; to ask that instance, use -b fe80::1%900001"
    );
    assert!(find("fe80::1", false).is_ok(), "to look, the only one will do");
    let expected = "no master process, exiting.\n\
        balance: port 80 is served on fe80::1%900001 only; to change that instance, add -b fe80::1%900001";
    assert_eq!(find("fe80::1", true).expect_err("which?"), expected);
    let other = start("fe80::1%900002");
    let several = find("fe80::1", false).expect_err("which?");
    assert!(several.ends_with("say which with -b: fe80::1%900001, fe80::1%900002"), "{several}");
    drop((one, other));
}

#[test]
fn a_name_that_leads_to_another_instance_leads_nowhere() {
    let instance = Instance::start();
    // A hard link, which any user can make if the system does not restrict hard links.
    let names = ["balance.80.0.0.0.0", "balance.81.0.0.0.0"].map(|name| instance.scratch.path().join(name));
    fs::hard_link(&names[0], &names[1]).expect("linked");
    let service = Which::Port { port: 81, addresses: None, ipv6: false };
    for is_change in [false, true] {
        let found = find::find(&Wanted { service: service.clone(), ..instance.wanted() }, is_change);
        assert_eq!(found.expect_err("another one").to_string(), "no master process, exiting.");
    }
    assert_eq!(instance.killed.load(Ordering::SeqCst), 0);
}

/// A listener whose greeting is that of an instance in another network namespace.
#[test]
fn an_instance_in_another_network_namespace_is_another_one() {
    if crate::control::peer::own_namespace().is_none() {
        return;
    }
    let scratch = Scratch::new();
    let listener = UnixListener::bind(scratch.path().join("balance.80.0.0.0.0")).expect("bound");
    let server = thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            // A peer that only tested whether somebody listens is gone by now.
            let _ = stream.write_all(b"balance 4.0 pid 77 protocol 1 netns 7\n");
            let mut said = String::new();
            let _ = stream.read_to_string(&mut said);
            if said == "bye\n" {
                break;
            }
        }
    });
    let error = find::find(&wanted(&scratch), false).expect_err("not ours").to_string();
    assert!(error.starts_with("no master process, exiting.\nbalance: process 77 serves"), "{error}");
    // An instance of this namespace takes another name beside it, and is found.
    let ours = serve(Endpoint::bind(&options(&scratch, "0.0.0.0")).expect("bound"), all(vec![service()]))
        .expect("serving");
    assert_eq!(find::find(&wanted(&scratch), false).expect("ours").pid(), std::process::id());
    drop(ours);
    let mut last = UnixStream::connect(scratch.path().join("balance.80.0.0.0.0")).expect("connected");
    last.write_all(b"bye\n").expect("written");
    last.shutdown(Shutdown::Write).expect("shut");
    server.join().expect("no panic");
}

#[test]
fn whoever_speaks_something_else_is_named_and_left() {
    let meet = |first: &'static [u8]| {
        let scratch = Scratch::new();
        let listener = UnixListener::bind(scratch.path().join("balance.80.::")).expect("bound");
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a client");
            stream.write_all(first).expect("written");
            stream.shutdown(Shutdown::Write).expect("shut");
            rest(&mut stream)
        });
        let error = find::find(&wanted(&scratch), false).expect_err("not ours").to_string();
        assert_eq!(server.join().expect("no panic"), "", "nothing is sent to strangers");
        error
    };
    let newer = meet(b"balance 5.1 pid 8840 protocol 2\n");
    assert!(newer.contains("balance 5.1 (pid 8840) and speaks control protocol 2"), "{newer}");
    assert!(newer.contains("speaks 1: use the program of the instance, e.g. /proc/8840/exe"), "{newer}");
    let unknown = meet(b"SSH-2.0-x\x1b[2J\n");
    assert!(unknown.contains("greets with \"SSH-2.0-x?[2J\""), "{unknown}");
    assert!(meet(&[b'x'; 2 * MAX_LINE]).contains("a very long line"));
    assert!(meet(b"balance 4").contains("does not answer"));
    assert_eq!(meet(b""), "no master process, exiting.", "it died while we waited to be let in");
    assert!(meet(b". denied: no\n").contains("says: denied: no"));
}
