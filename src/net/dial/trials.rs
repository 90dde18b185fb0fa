//! Searches for a channel, step by step, on sockets of this host.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::io::Errno;

use super::*;
use crate::sched::{Addresses, GroupId, HealthRules, Rules, Table};

fn dialer(channels: &[SocketAddr]) -> Dialer {
    let mut table = Table::new(Rules::CLASSIC);
    for &channel in channels {
        let added = table.create(GroupId::FIRST, Addresses::from(channel), None, AdminState::Enabled);
        added.expect("a slot");
    }
    Dialer {
        table: SharedTable::new(table),
        clock: Clock::start(),
        outgoing: ArcSwap::from_pointee(Outgoing::default()),
        log: Log::stderr(false),
        circle: Circle::new(Vec::new()),
        service: 0,
        chains: Arc::default(),
        leaving: Arc::default(),
        changed: Changed::new(|| ()),
        deliver: Deliver::new(|_| ()),
        foreign: Foreign::default(),
    }
}

fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    (listener, address)
}

fn begin(dialer: &Dialer) -> Box<Dial> {
    match Dial::begin(SocketAddr::from(([127, 0, 0, 1], 9)).into(), 1, GroupRange::ALL, 0, &[], dialer) {
        Begun::Dial(dial) => dial,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_socket_that_cannot_be_watched_for_want_of_memory_is_tried_again() {
    let ((_first, a), (_second, b)) = (listener(), listener());
    let dialer = dialer(&[a, b]);
    for (lack, waits) in [(Errno::NOMEM, true), (Errno::NOSPC, true), (Errno::PERM, false)] {
        let mut dial = begin(&dialer);
        let mut calls = 0;
        let mut attempt = |now, dial: &mut Dial| {
            let terms = Terms { tag: 0, now, patience: 100, watch: 0 };
            dial.attempt(&terms, &dialer, None, |_| {
                calls += 1;
                if calls == 1 { Err(lack.into()) } else { Ok(()) }
            })
        };
        let target = dial.target();
        if waits {
            assert!(matches!(attempt(0, &mut dial), Attempt::Wait), "{lack}");
        }
        assert!(matches!(attempt(50, &mut dial), Attempt::Started(_)), "{lack}");
        assert_eq!(
            dial.target() == target,
            waits,
            "{lack}: what is not for want of something is not waited for"
        );
    }
}

#[test]
fn an_address_that_means_nothing_here_is_not_the_channels_fault() {
    let ((_server, good), local) = (listener(), "[fe80::1]:9".parse::<SocketAddr>().expect("an address"));
    let error = match socket::connect(local.into(), &Outgoing::default(), HandshakeAck::AtOnce) {
        Err(ConnectError::Ours(e) | ConnectError::Target(e)) => e,
        other => panic!("{other:?}"),
    };
    assert_eq!(fault_of(&error), DialFailure::Local, "{error}");
    let dialer = dialer(&[local, good]);
    let mut dial = begin(&dialer);
    let terms = Terms { tag: 0, now: 0, patience: 100, watch: 0 };
    assert!(matches!(dial.attempt(&terms, &dialer, None, |_| Ok(())), Attempt::Started(_)));
    assert_eq!(dial.target(), Some(good.into()));
}

#[test]
fn what_is_missing_for_too_long_ends_the_search_after_one_try_of_each_channel() {
    let ((_first, a), (_second, b)) = (listener(), listener());
    let dialer = dialer(&[a, b]);
    let mut dial = begin(&dialer);
    let mut calls = 0;
    let mut attempt = |now| {
        let terms = Terms { tag: 0, now, patience: 100, watch: 0 };
        dial.attempt(&terms, &dialer, None, |_| {
            calls += 1;
            Err(Errno::NOMEM.into())
        })
    };
    assert!(matches!((attempt(7), attempt(57), attempt(106)), (Attempt::Wait, Attempt::Wait, Attempt::Wait)));
    assert!(matches!(attempt(107), Attempt::Over(FAILED)));
    // One of the first channel, then each of them, the other one meanwhile, and each for the last time.
    assert_eq!(calls, 6);
    assert_eq!(dialer.table.lock().active(), 0);
}

#[test]
fn the_time_is_for_the_channel_and_its_addresses_share_it() {
    let (servers, addresses): (Vec<_>, Vec<_>) = (0..3).map(|_| listener()).unzip();
    let mut table = Table::new(Rules::CLASSIC);
    let list = Addresses::new(addresses.into_iter().map(Address::from).collect()).expect("three");
    table.create(GroupId::FIRST, list, None, AdminState::Enabled).expect("a slot");
    let dialer = Dialer { table: SharedTable::new(table), ..dialer(&[]) };
    let mut dial = begin(&dialer);
    let attempt = |dial: &mut Dial, now| {
        let terms = Terms { tag: 0, now, patience: 900, watch: 0 };
        match dial.attempt(&terms, &dialer, None, |_| Ok(())) {
            Attempt::Started(wait) => Some(wait),
            Attempt::Over(_) => None,
            other => panic!("{other:?}"),
        }
    };
    let late = io::Error::from(io::ErrorKind::TimedOut);
    assert_eq!(attempt(&mut dial, 1_000), Some(300));
    assert!(matches!(dial.failed(&late, 0, &dialer, None), Next::Dial));
    assert_eq!(attempt(&mut dial, 1_100), Some(400), "what the first one left is for both");
    assert!(matches!(dial.failed(&late, 0, &dialer, None), Next::Dial));
    // It came back late: there is no time for the third.
    assert_eq!(attempt(&mut dial, 1_900), None);
    drop(servers);
}

#[test]
fn what_is_missing_towards_one_channel_only_does_not_keep_a_client_from_the_other() {
    let ((_first, a), (_second, b)) = (listener(), listener());
    let dialer = dialer(&[a, b]);
    let mut dial = begin(&dialer);
    let left = dial.target();
    let mut attempt = |now, calls| {
        let mut left = calls;
        let terms = Terms { tag: 0, now, patience: 60_000, watch: 0 };
        dial.attempt(&terms, &dialer, None, |_| {
            left -= 1;
            if left == 0 { Ok(()) } else { Err(Errno::NOBUFS.into()) }
        })
    };
    assert!(matches!(attempt(0, 9), Attempt::Wait), "it may be over in a moment");
    assert!(matches!(attempt(50, 2), Attempt::Started(_)), "no need to wait for longer");
    assert_ne!(dial.target(), left);
}

#[test]
fn a_channel_that_is_back_by_a_client_serves_the_line() {
    let ((_first, a), (_second, b)) = (listener(), listener());
    let health = HealthRules { eject: true, ..HealthRules::NONE };
    let mut table = Table::new(Rules { health, queue: NonZeroU32::new(1), ..Rules::CLASSIC });
    for (address, maxc) in [(a, 2), (b, 1)] {
        let maxc = NonZeroU32::new(maxc);
        table.create(GroupId::FIRST, address.into(), maxc, AdminState::Enabled).expect("a slot");
    }
    let mut route = table.begin(std::net::IpAddr::from([127, 0, 0, 1]).into());
    let lease = table.next(&mut route).expect("a");
    table.failed(lease, DialFailure::Channel, DialCause::Refused, "refused").expect("a is ejected");
    let granted = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&granted);
    let deliver = Deliver::new(move |grants| {
        count.fetch_add(grants.len(), Ordering::SeqCst);
    });
    let dialer = Dialer { table: SharedTable::new(table), deliver, ..dialer(&[]) };
    let begin =
        || Dial::begin(SocketAddr::from(([127, 0, 0, 1], 9)).into(), 1, GroupRange::ALL, 0, &[], &dialer);
    let (Begun::Dial(_holder), Begun::Line(_)) = (begin(), begin()) else { panic!("b has room for one") };
    // There is no room in line, so a is tried all the same.
    let Begun::Dial(mut dial) = begin() else { panic!("a is there") };
    let terms = Terms { tag: 0, now: 0, patience: 100, watch: 0 };
    assert!(matches!(dial.attempt(&terms, &dialer, None, |_| Ok(())), Attempt::Started(_)));
    assert_eq!((dial.target(), granted.load(Ordering::SeqCst)), (Some(a.into()), 0));
    let _served = dial.succeeded(&dialer, None).expect("it is connected");
    assert_eq!(granted.load(Ordering::SeqCst), 1, "a has room for one more");
}

#[test]
fn a_channel_that_accepts_too_late_hears_of_a_reset() {
    let (listener, address) = listener();
    let dialer = dialer(&[address]);
    let mut dial = begin(&dialer);
    let terms = Terms { tag: 0, now: 0, patience: 100, watch: 0 };
    assert!(matches!(dial.attempt(&terms, &dialer, None, |_| Ok(())), Attempt::Started(_)));
    let (mut accepted, _) = listener.accept().expect("it was dialled");
    let next = dial.failed(&io::ErrorKind::TimedOut.into(), 0, &dialer, None);
    assert_eq!(next, Next::Over(FAILED));
    let heard = io::Read::read(&mut accepted, &mut [0; 1]).map_err(|e| e.kind());
    assert_eq!(heard, Err(io::ErrorKind::ConnectionReset));
}
