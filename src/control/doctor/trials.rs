//! Findings that no test can cause for real without harm to its host: clocks that are set, full kernel
//! tables, control groups. They are read from copies of `/proc` and `/sys` that the tests write.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::exams::{EXAMS, diagnose};
use super::finding::{Diagnosis, Gravity};
use super::kernel::{KernelSigns, ListenerSign};
use super::signs::{AccessSign, Case, ClockSigns, NameSign, ProcessSigns, ServiceSigns};
use crate::config::{Word, read_line};
use crate::control::scratch::Scratch;
use crate::sched::{
    AdminState, ChannelId, ChannelKey, ClientAddr, GroupId, GroupRange, Loss, Route, Rules, Table, Weight,
};
use crate::spec::LostSocket;

/// The files of a host without any finding.
const WELL: &[(&str, &str)] = &[
    ("proc/sys/net/core/somaxconn", "4096\n"),
    ("proc/sys/net/ipv4/ip_local_port_range", "32768\t60999\n"),
    ("proc/sys/net/ipv4/ip_local_reserved_ports", "40000-40009,50000\n"),
    ("proc/sys/net/ipv4/tcp_keepalive_time", "7200\n"),
    ("proc/sys/net/ipv4/tcp_congestion_control", "cubic\n"),
    ("proc/sys/net/ipv4/tcp_mem", "1000\t2000\t3000\n"),
    ("proc/sys/net/ipv4/tcp_max_orphans", "100\n"),
    ("proc/sys/net/ipv4/tcp_max_tw_buckets", "100\n"),
    ("proc/sys/net/netfilter/nf_conntrack_count", "10\n"),
    ("proc/sys/net/netfilter/nf_conntrack_max", "100\n"),
    ("proc/sys/fs/file-nr", "500\t0\t10000\n"),
    (
        "proc/self/net/sockstat",
        "sockets: used 9\nTCP: inuse 7 orphan 3 tw 5 alloc 10 mem 20\nUDP: inuse 0 mem 0\n",
    ),
    (
        "proc/self/net/netstat",
        "TcpExt: SyncookiesSent ListenOverflows ListenDrops TCPMemoryPressures TCPAbortOnMemory TCPTimeWaitOverflow\n\
         TcpExt: 0 3 4 0 0 0\nIpExt: InNoRoutes\nIpExt: 0\n",
    ),
    (
        "proc/self/net/tcp",
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
         0: 0100007F:0050 00000000:0000 0A 00000000:00000002 00:00000000 00000000  1000        0 4711 1\n   \
         1: 0100007F:0050 0100007F:1234 01 00000000:00000000 00:00000000 00000000  1000        0 4712 1\n",
    ),
    (
        "proc/self/net/tcp6",
        "  sl  local_address\n   \
         0: 00000000000000000000000001000000:0050 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 99 1\n",
    ),
    ("proc/self/status", "Name:\tbalance\nVmSwap:\t     0 kB\n"),
    ("proc/self/cgroup", "0::/system.slice/balance.service\n"),
    (
        "sys/fs/cgroup/system.slice/balance.service/cpu.stat",
        "usage_usec 5\nnr_periods 1000\nnr_throttled 1\n",
    ),
    ("sys/fs/cgroup/system.slice/balance.service/cpu.max", "50000 100000\n"),
    ("sys/fs/cgroup/system.slice/balance.service/memory.stat", "anon 100000\nfile 99999999\nsock 1\n"),
    ("sys/fs/cgroup/system.slice/balance.service/memory.max", "1000000\n"),
];

/// The signs of that host with these files changed.
fn host(otherwise: &[(&str, &str)]) -> KernelSigns {
    let scratch = Scratch::new();
    let root = scratch.path();
    for (path, text) in WELL.iter().chain(otherwise) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().expect("below the root")).expect("a directory of ours");
        fs::write(path, text).expect("a file of ours");
    }
    KernelSigns::read(root, &[80])
}

fn service(line: &str, maxc: Option<u32>) -> ServiceSigns {
    let mut table = Table::new(Rules::CLASSIC);
    let address = SocketAddr::from(([127, 0, 0, 1], 9));
    let maxc = maxc.and_then(NonZeroU32::new);
    table.create(GroupId::FIRST, address.into(), maxc, AdminState::Enabled).expect("a slot");
    let words: Vec<Word> = line.split(' ').map(|word| Word { text: word.into(), at: None }).collect();
    ServiceSigns {
        label: "web".into(),
        is_draining: false,
        asked_at: Some(SocketAddr::from(([127, 0, 0, 1], 80)).into()),
        listen: vec![SocketAddr::from(([127, 0, 0, 1], 80)).into()],
        spec: read_line(&words).expect("a line"),
        table: table.snapshot(),
        connections: 0,
        access: None,
        idle: None,
    }
}

fn case(kernel: KernelSigns) -> Case {
    let process = ProcessSigns {
        descriptor_limit: Some(20_000),
        descriptors_free: Some(19_900),
        workers: 2,
        before: host(&[]),
        ..ProcessSigns::default()
    };
    let services = vec![service("80 127.0.0.1:9", None)];
    let mut case =
        Case { process, services, names: Vec::new(), sockets: Vec::new(), kernel, is_serving: true };
    case.kernel.listeners.iter_mut().for_each(|one| one.is_ours = true);
    case
}

fn found(diagnosis: &Diagnosis) -> Vec<(&str, Gravity)> {
    diagnosis.findings.iter().map(|one| (one.check, one.gravity)).collect()
}

#[track_caller]
fn one(case: &Case, check: &str, gravity: Gravity, part: &str) {
    let diagnosis = diagnose(case);
    assert_eq!(found(&diagnosis), [(check, gravity)], "{diagnosis}");
    assert!(diagnosis.to_string().contains(part), "{diagnosis}");
}

#[test]
fn a_host_on_which_all_is_well_is_fine_and_so_is_one_of_which_nothing_is_known() {
    let well = case(host(&[]));
    assert_eq!(found(&diagnose(&well)), []);
    assert_eq!(well.kernel.source_ports(), Some(60_999 - 32_768 + 1 - 11));
    assert!(well.kernel.is_source_port(40_010) && !well.kernel.is_source_port(40_009));
    let nothing = KernelSigns::read(Path::new("/no/such/root"), &[80]);
    let mut unknown = case(nothing.clone());
    unknown.process = ProcessSigns { before: nothing, ..ProcessSigns::default() };
    assert_eq!(found(&diagnose(&unknown)), []);
}

#[test]
fn listening_sockets_are_read_with_their_queues_and_owners() {
    let read = host(&[]).listeners;
    let listener = |address: &str, queue, inode, uid| ListenerSign {
        address: address.parse().expect("an address"),
        queue,
        inode,
        uid,
        is_ours: false,
    };
    assert_eq!(read, [listener("127.0.0.1:80", 2, 4711, 1000), listener("[::1]:80", 0, 99, 0)]);
}

#[test]
fn files_that_make_no_sense_are_no_findings_and_no_panic() {
    for (path, _) in WELL {
        for text in [
            "",
            "\n",
            "x",
            "-1",
            "18446744073709551615 18446744073709551615 18446744073709551615",
            "TCP:",
            "0: 00:0 0 0A",
        ] {
            let read = case(host(&[(path, text)]));
            let _ = diagnose(&read).to_string();
        }
    }
}

#[test]
fn what_the_kernel_counts_is_held_against_its_limits() {
    let group = "sys/fs/cgroup/system.slice/balance.service";
    let (throttled, used) = (format!("{group}/cpu.stat"), format!("{group}/memory.stat"));
    let sockstat = "proc/self/net/sockstat";
    let netstat = "proc/self/net/netstat";
    let names = "TcpExt: ListenOverflows TCPMemoryPressures TCPAbortOnMemory TCPTimeWaitOverflow\nTcpExt: ";
    let counted = |numbers: &str| format!("{names}{numbers}\n");
    use Gravity::{Advice, Broken};
    for (path, text, check, gravity, part) in [
        ("proc/sys/net/core/somaxconn", "128", "backlog", Advice, "128 places"),
        (netstat, &counted("10 0 0 0"), "backlog", Advice, "7 connections did not fit"),
        (netstat, &counted("3 2 0 0"), "tcp-memory", Advice, "under pressure 2 times"),
        (netstat, &counted("3 0 1 0"), "tcp-memory", Broken, "reset 1 connection"),
        (netstat, &counted("3 0 0 8"), "time-wait", Advice, "8 did not fit"),
        (sockstat, "TCP: inuse 7 orphan 80 tw 5 alloc 10 mem 20", "orphans", Advice, "80 closed sockets"),
        (sockstat, "TCP: inuse 7 orphan 0 tw 80 alloc 10 mem 20", "time-wait", Advice, "80 sockets"),
        (sockstat, "TCP: inuse 7 orphan 0 tw 5 alloc 10 mem 2000", "tcp-memory", Advice, "2000 pages"),
        (sockstat, "TCP: inuse 7 orphan 0 tw 5 alloc 10 mem 3000", "tcp-memory", Broken, "3000 pages"),
        ("proc/sys/net/netfilter/nf_conntrack_count", "80", "conntrack", Advice, "80 connections, and 100"),
        ("proc/sys/net/netfilter/nf_conntrack_count", "99", "conntrack", Broken, "99 connections"),
        ("proc/sys/fs/file-nr", "9500 0 10000", "system-files", Advice, "9500 files"),
        ("proc/sys/net/ipv4/tcp_congestion_control", "bbr", "congestion", Advice, "bbr"),
        ("proc/self/status", "VmSwap: 20480 kB", "swap", Advice, "20 MiB"),
        (
            &throttled,
            "nr_periods 1100\nnr_throttled 51\n",
            "cpu-limit",
            Advice,
            "of 0.50 processors of the control group stopped balance in 50 of 100 periods",
        ),
        (
            &used,
            "anon 900000\nfile 9\nsock 50000\n",
            "memory-limit",
            Advice,
            "the control group uses 0 of 0 MiB",
        ),
    ] {
        one(&case(host(&[(path, text)])), check, gravity, part);
    }
}

#[test]
fn control_groups_of_the_old_kind_are_read_too() {
    let old = [
        ("proc/self/cgroup", "3:memory:/b\n2:cpu,cpuacct:/b\n1:name=systemd:/b\n0::/\n"),
        ("sys/fs/cgroup/cpu/b/cpu.stat", "nr_periods 1001\nnr_throttled 2\nthrottled_time 9\n"),
        ("sys/fs/cgroup/cpu/b/cpu.cfs_quota_us", "-1\n"),
        ("sys/fs/cgroup/cpu/b/cpu.cfs_period_us", "100000\n"),
        ("sys/fs/cgroup/memory/b/memory.stat", "cache 5\nrss 95\n"),
        ("sys/fs/cgroup/memory/b/memory.limit_in_bytes", "100\n"),
    ];
    let read = host(&old);
    assert_eq!(read.memory, Some((95, 100)));
    assert_eq!(read.cpu.map(|cpu| (cpu.periods, cpu.throttled, cpu.quota_millis)), Some((1001, 2, None)));
    let no_limit = host(
        &[&old[..], &[("sys/fs/cgroup/memory/b/memory.limit_in_bytes", "9223372036854771712\n")]].concat(),
    );
    assert_eq!(no_limit.memory, None);
}

#[test]
fn a_listen_queue_that_is_full_now_is_broken() {
    let tcp = "x\n 0: 0100007F:0050 00000000:0000 0A 00000000:00000E00 00:00000000 00000000 0 0 4711 1\n";
    one(
        &case(host(&[("proc/self/net/tcp", tcp)])),
        "backlog",
        Gravity::Broken,
        "3584 clients wait to be accepted",
    );
}

#[test]
fn clocks_and_pauses_are_told_apart() {
    let with = |clocks| {
        let mut case = case(host(&[]));
        case.process.clocks = clocks;
        case
    };
    let well = ClockSigns::default();
    let second = Duration::from_secs(1);
    assert_eq!(found(&diagnose(&with(ClockSigns { stepped_millis: 500, ..well }))), []);
    for (millis, words) in [(3_600_000, "forward by 3600.0 s"), (-5_000, "back by 5.0 s")] {
        one(&with(ClockSigns { stepped_millis: millis, ..well }), "clock", Gravity::Advice, words);
    }
    // The wall clock runs while a machine is suspended.
    let slept = ClockSigns { stepped_millis: 60_200, suspended: second * 60, ..well };
    one(&with(slept), "clock", Gravity::Advice, "suspended for 60.0 s");
    one(
        &with(ClockSigns { pauses: 2, longest_pause: second * 3, ..well }),
        "pauses",
        Gravity::Advice,
        "2 times",
    );
}

#[test]
fn connections_that_are_silent_for_long_want_keepalive() {
    let with = |line, idle, seconds| {
        let mut case = case(host(&[("proc/sys/net/ipv4/tcp_keepalive_time", seconds)]));
        case.services = vec![ServiceSigns { idle, ..service(line, None) }];
        case
    };
    let idle = Some((3, Duration::from_secs(4_000)));
    one(
        &with("80 127.0.0.1:9", idle, "7200"),
        "keepalive",
        Gravity::Advice,
        "3 connections have been silent",
    );
    one(
        &with("-K 60:10:6 80 127.0.0.1:9", idle, "7200"),
        "keepalive",
        Gravity::Advice,
        "start balance with -k 60:10:6,",
    );
    for (line, idle, seconds) in [
        ("80 127.0.0.1:9", None, "7200"),
        ("80 127.0.0.1:9", Some((0, Duration::ZERO)), "7200"),
        ("80 127.0.0.1:9", idle, "60"),
        ("-K 60:10:6 -k 60:10:6 80 127.0.0.1:9", idle, "7200"),
        ("-T 3600 80 127.0.0.1:9", idle, "7200"),
    ] {
        assert_eq!(found(&diagnose(&with(line, idle, seconds))), [], "{line}");
    }
}

#[test]
fn a_name_that_nobody_answers_for_is_advice() {
    let mut case = case(host(&[]));
    case.names = vec![NameSign { host: "web".into(), known: vec![[192, 0, 2, 1].into()], found: None }];
    one(&case, "names", Gravity::Advice, "no name server has answered for 'web'");
}

#[test]
fn little_room_for_more_clients_is_advice_and_none_is_broken() {
    let mut case = case(host(&[]));
    case.services[0].connections = 9_500;
    case.process.descriptors_free = Some(900);
    one(&case, "descriptors", Gravity::Advice, "900 of 20000 descriptors are left with 9500 clients");
    case.process.descriptors_free = Some(1);
    one(&case, "descriptors", Gravity::Broken, "1 of 20000");
    case.process.descriptor_limit = None;
    assert_eq!(found(&diagnose(&case)), []);
}

#[test]
fn files_that_cannot_be_written_are_broken_and_landlock_has_another_cure() {
    let mut case = case(host(&[]));
    case.process.state_trouble =
        Some("/s: make a new file: Permission denied (the user balance may not ...)".into());
    one(&case, "state-file", Gravity::Broken, "Do: correct that; balance tries again by itself");
    case.process.state_trouble = Some("/s: Permission denied (--landlock: ...)".into());
    one(&case, "state-file", Gravity::Broken, "Do: restart balance, since Landlock");
    case.process.state_trouble = None;
    (case.process.access_trouble, case.process.access_lines_dropped) = (Some("No space left".into()), 3);
    one(
        &case,
        "log",
        Gravity::Broken,
        "cannot be written: No space left. Why: it lacks clients; 3 lines lost so far.",
    );
    case.process.access_trouble = None;
    one(&case, "log", Gravity::Advice, "the access log has lost 3 lines");
    (case.process.access_lines_dropped, case.process.dropped_lines) = (0, 2);
    one(
        &case,
        "log",
        Gravity::Advice,
        "the log has lost 2 lines. Why: the reader of stderr does not read. Do: type Ctrl-Q",
    );
    case.process.logs_to_syslog = true;
    one(
        &case,
        "log",
        Gravity::Advice,
        "no syslog daemon takes them from /dev/log. Do: install one, such as rsyslog,",
    );
}

#[test]
fn every_check_has_a_name_of_its_own_and_is_explained() {
    let names: BTreeSet<_> = EXAMS.iter().map(|exam| exam.name).collect();
    assert_eq!(names.len(), EXAMS.len());
    let docs = include_str!("../../../docs/observability.md");
    for name in names {
        assert!(docs.contains(&format!("| `{name}` |")), "{name}");
    }
    assert!(docs.contains(&format!("fine: {} checks of 1 service", EXAMS.len())));
}

#[test]
fn a_process_that_drains_is_not_told_what_only_matters_to_new_clients() {
    let elsewhere =
        [("proc/sys/net/core/somaxconn", "128"), ("proc/sys/net/ipv4/ip_local_port_range", "80 90")];
    let mut case = case(host(&elsewhere));
    // What listens at its old address is its successor.
    case.kernel.listeners.iter_mut().for_each(|one| one.is_ours = false);
    case.kernel.is_program_gone = true;
    case.kernel.congestion = Some("bbr".into());
    (case.process.descriptors_free, case.process.dropped_lines) = (Some(1), 3);
    case.names =
        vec![NameSign { host: "web".into(), known: vec![[192, 0, 2, 1].into()], found: Some(Ok(vec![])) }];
    let idle = Some((3, Duration::from_secs(4_000)));
    case.services = vec![ServiceSigns { idle, ..service("80 127.0.0.1:9", Some(1)) }];
    let names = |case: &Case| diagnose(case).findings.iter().map(|one| one.check).collect::<BTreeSet<_>>();
    let serving = names(&case);
    let all = [
        "names",
        "descriptors",
        "listen-port",
        "shared-port",
        "backlog",
        "congestion",
        "program",
        "keepalive",
        "log",
    ];
    assert!(all.iter().all(|name| serving.contains(name)), "{serving:?}");
    // The caller gathers no signs about names for a process that does not serve.
    (case.is_serving, case.names) = (false, Vec::new());
    case.services[0].is_draining = true;
    case.services[0].asked_at = None;
    let diagnosis = diagnose(&case);
    assert_eq!(names(&case), BTreeSet::from(["keepalive", "log"]), "{diagnosis}");
    // Commands for its old address would reach another process.
    let process = format!(" process.{}", std::process::id());
    assert!(diagnosis.findings.iter().all(|one| one.cure.contains(&process)), "{diagnosis}");
}

#[test]
fn a_service_that_has_lost_its_port_is_broken_and_shares_it_with_nobody() {
    let mut case = case(host(&[]));
    case.kernel.listeners.iter_mut().for_each(|one| one.is_ours = false);
    case.services[0].listen = Vec::new();
    case.services[0].table.not_listening = Some(Arc::new("127.0.0.1:80".to_owned()));
    let said = "this service does not listen on 127.0.0.1:80, and lost it in a reload: another process (user 1000) listens on 127.0.0.1:80";
    one(&case, "not-listening", Gravity::Broken, said);
    case.kernel.listeners.clear();
    one(&case, "not-listening", Gravity::Broken, "lost it in a reload. Why: new clients are refused. Do: ");
}

#[test]
fn a_unix_socket_that_nobody_finds_is_broken_and_who_makes_it_anew_is_said() {
    let mut case = case(host(&[]));
    case.services[0] = service("unix:/run/x.sock 127.0.0.1:9", None);
    case.services[0].asked_at = "unix:/run/x.sock".parse().ok();
    let mut lost = |is_replaced, is_passed, words| {
        case.services[0].table.lost_socket = Some(LostSocket { is_replaced, is_passed });
        one(&case, "socket-file", Gravity::Broken, words);
    };
    let gone = "this service listens on unix:/run/x.sock, and its file is gone. Why: no new client finds the service. Do: balance -c reload \
                unix:/run/x.sock makes it anew";
    lost(false, false, gone);
    lost(
        true,
        false,
        "another file is at its path. Why: new clients reach something else, or are refused. Do: remove that file",
    );
    lost(false, true, "systemd has made it");
    case.services[0].table.lost_socket = None;
    case.services[0].access =
        Some(AccessSign { wanted: "660 www-data".into(), now: "644 root".into(), is_foreign: false });
    let other = "the permissions of unix:/run/x.sock are 644 root, and its line says 660 www-data. Why: ";
    one(&case, "socket-permissions", Gravity::Broken, other);
    case.services[0].access = Some(AccessSign { wanted: "660".into(), now: "600".into(), is_foreign: true });
    one(&case, "socket-permissions", Gravity::Advice, "Do: set SocketMode=");
}

#[test]
fn where_clients_of_a_dead_group_go_depends_on_whether_there_is_a_next_one() {
    let mut case = case(host(&[]));
    let mut table = Table::new(Rules::CLASSIC);
    let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
    for (group, state) in [(0, AdminState::Enabled), (1, AdminState::Disabled)] {
        let group = GroupId::new(group).expect("small");
        table.create(group, address(9).into(), None, state).expect("a slot");
    }
    case.services[0].table = table.snapshot();
    one(&case, "groups", Gravity::Advice, "clients that the groups before it cannot take are closed");
    let mut table = Table::new(Rules::CLASSIC);
    for (group, state) in [(0, AdminState::Disabled), (1, AdminState::Enabled)] {
        let group = GroupId::new(group).expect("small");
        table.create(group, address(9).into(), None, state).expect("a slot");
    }
    case.services[0].table = table.snapshot();
    one(&case, "groups", Gravity::Advice, "Why: clients go to the next group. Do:");
}

#[test]
fn a_group_that_was_removed_is_no_problem_while_a_connection_of_it_lives() {
    let mut case = case(host(&[]));
    let mut table = Table::new(Rules::CLASSIC);
    let address = SocketAddr::from(([127, 0, 0, 1], 9));
    let second = GroupId::new(1).expect("small");
    for group in [GroupId::FIRST, second] {
        table.create(group, address.into(), None, AdminState::Enabled).expect("a slot");
    }
    let within = GroupRange::new(1, None).expect("a range");
    let lease = table.next(&mut Route::past(ClientAddr::from(address.ip()), within, &[])).expect("it is up");
    let _ = table.retire(lease.key());
    case.services[0].table = table.snapshot();
    assert_eq!(case.services[0].table.groups.len(), 2, "the connection of it lives");
    assert_eq!(diagnose(&case).findings, []);
}

#[test]
fn first_bytes_that_had_no_room_are_told() {
    let mut case = case(host(&[]));
    case.services[0].table.losses = vec![(Loss::GreetingsFull, 2)];
    one(&case, "greetings", Gravity::Advice, "2 clients got no channel, since there was no memory left");
}

#[test]
fn a_service_whose_only_channel_is_to_have_no_client_sends_none_to_it() {
    let mut case = case(host(&[]));
    let mut table = Table::new(Rules::CLASSIC);
    let address = SocketAddr::from(([127, 0, 0, 1], 9));
    table.create(GroupId::FIRST, address.into(), None, AdminState::Enabled).expect("a slot");
    let channel = ChannelId::new(0).expect("the first");
    table.set_weight(ChannelKey { group: GroupId::FIRST, channel }, Weight::ZERO).expect("it is there");
    case.services[0].table = table.snapshot();
    assert!(case.services[0].spec.fail_open, "as most have it");
    one(
        &case,
        "groups",
        Gravity::Broken,
        "has weight 0. Why: no other group has one, and balance closes new clients. Do",
    );
}
