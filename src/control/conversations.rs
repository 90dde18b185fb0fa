//! Whole sessions over real sockets: a server, and clients that follow the protocol or do not.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::thread;
use std::time::Duration;

use crate::config::{Word, read_line};
use crate::control::argument::HostPort;
use crate::control::client::{AskError, Client};
use crate::control::doctor::ProcessSigns;
use crate::control::endpoint::{Endpoint, EndpointOptions, Names};
use crate::control::execute::Reply;
use crate::control::find::{self, FindError, Wanted, Which};
use crate::control::ready::ReadyState;
use crate::control::render;
use crate::control::scratch::Scratch;
use crate::control::services::{
    ListeningSocket, ManagedService, Plane, ProcessHands, ResolvedName, Services,
};
use crate::control::socket::{Control, serve};
use crate::control::wire::MAX_LINE;
use crate::observe::Log;
use crate::sched::{
    Addresses, AdminState, ChannelKey, ClientAddr, GroupId, Lease, Rules, SessionSnapshot, SharedTable, Table,
};
use crate::spec::{ListenSpan, LostSocket, SocketAccess, UnixName};

const DEADLINE: Duration = Duration::from_secs(20);

/// A data plane without connections.
fn idle_plane() -> Plane {
    Plane {
        close_connections: Arc::new(|_| 0),
        close_session: Arc::new(|_| false),
        close_clients: Arc::new(|_| 0),
        tap: Arc::new(|_| None),
        sessions: Arc::new(|_| Vec::new()),
        ended: Arc::new(|_| Vec::new()),
        look_up: Arc::new(|_| Some(Vec::new())),
        changed: Arc::new(|| ()),
        asked: Arc::new(|| ()),
        connections: Arc::new(|| 0),
    }
}

/// The result of looking up all names or one: of all names, one is not found.
#[allow(clippy::unnecessary_wraps, reason = "the answers of others may be late")]
fn looked_up(channel: Option<ChannelKey>) -> Option<Vec<ResolvedName>> {
    let name = |name: &str, addresses| ResolvedName { name: name.to_owned(), addresses };
    let web = name("web", Ok(vec!["10.0.0.7".to_owned(), "10.0.0.8".to_owned()]));
    Some(match channel {
        Some(_) => vec![web],
        None => vec![name("db", Err("Name or service not known".to_owned())), web],
    })
}

/// An instance that serves one enabled channel, in a directory of its own.
pub(crate) struct Instance {
    scratch: Scratch,
    control: Control,
    /// How often the kill hook was called.
    killed: Arc<AtomicU32>,
    /// What the kill hook returns.
    kill_works: Arc<AtomicBool>,
    /// The times after which connections were to be closed.
    ended: Arc<Mutex<Vec<Duration>>>,
    /// The channels whose connections were to be closed.
    closed: Arc<Mutex<Vec<ChannelKey>>>,
    /// How often a change was reported to the data plane.
    changed: Arc<AtomicU32>,
    /// The time since the start, in ms.
    clock: Arc<AtomicU64>,
    table: SharedTable,
}

impl Instance {
    pub(crate) fn start() -> Self {
        let (killed, kill_works) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicBool::new(true)));
        let closed = Arc::new(Mutex::new(Vec::new()));
        let (changed, clock) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU64::new(0)));
        let (count, works, closing) = (Arc::clone(&killed), Arc::clone(&kill_works), Arc::clone(&closed));
        let ended = Arc::new(Mutex::new(Vec::new()));
        let ends = Arc::clone(&ended);
        let (changes, time) = (Arc::clone(&changed), Arc::clone(&clock));
        let service = ManagedService {
            kill: Arc::new(move || {
                count.fetch_add(1, Ordering::SeqCst);
                works.load(Ordering::SeqCst)
            }),
            end: Arc::new(move |time| ends.lock().expect("not poisoned").push(time)),
            plane: Plane {
                close_connections: Arc::new(move |key| {
                    closing.lock().expect("not poisoned").push(key);
                    3
                }),
                close_session: Arc::new(|id| id == 7),
                close_clients: Arc::new(|_| 2),
                tap: Arc::new(|_| None),
                sessions: Arc::new(|only| vec![session(only)]),
                ended: Arc::new(|_| Vec::new()),
                look_up: Arc::new(looked_up),
                changed: Arc::new(move || {
                    changes.fetch_add(1, Ordering::SeqCst);
                }),
                asked: Arc::new(|| ()),
                connections: Arc::new(|| 5),
            },
            command_line: Arc::new(|now| format!("balance 1 # {} groups", now.groups.len())),
            now: Arc::new(move || Duration::from_millis(time.load(Ordering::SeqCst))),
            ..service()
        };
        let table = service.table.clone();
        let scratch = Scratch::new();
        let endpoint = Endpoint::bind(&options(&scratch, "0.0.0.0")).expect("bound");
        let control = serve(endpoint, all(vec![service])).expect("serving");
        Self { scratch, control, killed, kill_works, ended, closed, changed, clock, table }
    }

    pub(crate) fn wanted(&self) -> Wanted {
        wanted(&self.scratch)
    }

    pub(crate) fn stop(&self) {
        self.control.stop(Duration::from_secs(1));
    }

    fn client(&self) -> Client {
        find::find(&self.wanted(), false).expect("an instance")
    }

    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(self.scratch.path().join("balance.80.0.0.0.0")).expect("connected");
        stream.set_read_timeout(Some(DEADLINE)).expect("set");
        stream
    }

    /// A client's connection to the only channel.
    fn lease(&self) -> Lease {
        let mut table = self.table.lock();
        let mut route = table.begin(ClientAddr::from(IpAddr::from([127, 0, 0, 1])));
        table.next(&mut route).expect("a channel")
    }

    /// What the instance answers to these bytes, until one side ends the connection.
    fn says(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect();
        stream.write_all(bytes).expect("written");
        stream.shutdown(Shutdown::Write).expect("shut");
        rest(&mut stream)
    }
}

/// A connection of the given channel.
fn session(channel: Option<ChannelKey>) -> SessionSnapshot {
    let (age, idle) = (Duration::from_secs(75), Duration::ZERO);
    let client = Some(SocketAddr::from(([127, 0, 0, 1], 4711)).into());
    SessionSnapshot {
        id: 7,
        client,
        port: None,
        channel,
        begun: Duration::ZERO,
        age,
        idle,
        half_closed: None,
        sent_bytes: 1,
        rcvd_bytes: 2,
    }
}

/// A process with these services.
fn all(services: Vec<ManagedService>) -> Arc<Services> {
    let hands = ProcessHands {
        stopped: Arc::new(|| ()),
        reopen: Arc::new(|| None),
        reload: Arc::new(|clean| match clean {
            false => Ok(vec!["service web: --idle-timeout is 5, was 0".to_owned()]),
            true => Err(Some("f:1:1: invalid port [x]\nbalance: 1 error; nothing was changed".to_owned())),
        }),
        upgrade: Arc::new(|path| match path {
            None => Ok("process 2 (4.0.0) serves now: carried 0, draining 0".to_owned()),
            Some(path) => Err(format!("{}: no such file", String::from_utf8_lossy(&path))),
        }),
        give: Arc::new(|_, _| Err("nobody takes it".to_owned())),
        call_off: Arc::new(|| ()),
        await_called_off: Arc::new(|| ()),
        carried: Arc::new(|| None),
        signs: Arc::new(ProcessSigns::default),
        look_up: Arc::new(|_| Err("no such name".to_owned())),
    };
    Arc::new(Services::new(services.into_iter().map(Arc::new).collect(), hands))
}

fn service() -> ManagedService {
    let mut table = Table::new(Rules::CLASSIC);
    let address = SocketAddr::from(([127, 0, 0, 1], 9));
    table.create(GroupId::FIRST, address.into(), None, AdminState::Enabled).expect("a slot");
    let resolve = |target: &HostPort| -> io::Result<Addresses> {
        let ip: IpAddr = target.host.parse().map_err(io::Error::other)?;
        Ok(SocketAddr::new(ip, 80).into())
    };
    ManagedService {
        name: Default::default(),
        listen: RwLock::new(vec![SocketAddr::from(([0, 0, 0, 0], 80)).into()]),
        not_listening: RwLock::default(),
        listens_nowhere: AtomicBool::new(false),
        socket: Arc::default(),
        differences: Arc::new(|_| Vec::new()),
        has_file: false,
        killed: AtomicBool::new(false),
        table: SharedTable::new(table),
        resolve: Arc::new(resolve),
        kill: Arc::new(|| true),
        end: Arc::new(|_| ()),
        plane: idle_plane(),
        command_line: Arc::new(|_| "balance 1".into()),
        spec: Arc::new(|| {
            let words = ["80", "127.0.0.1:9"].map(|word| Word { text: word.into(), at: None });
            read_line(&words).expect("a line")
        }),
        now: Arc::new(|| Duration::ZERO),
        log: Log::stderr(false),
    }
}

/// The same service on port 80 of this address.
fn service_at(address: &str) -> ManagedService {
    ManagedService { listen: RwLock::new(vec![port_80(address).into()]), ..service() }
}

/// Port 80 of an address such as `127.0.0.1`, `::1` or `fe80::1%2`.
fn port_80(address: &str) -> SocketAddr {
    let bracketed = if address.contains(':') { format!("[{address}]:80") } else { format!("{address}:80") };
    bracketed.parse().expect("an address")
}

fn options(scratch: &Scratch, address: &str) -> EndpointOptions {
    let services = vec![Names { listen: vec![port_80(address).into()], name: None }];
    EndpointOptions { directories: vec![scratch.shared()], services, group: None }
}

fn wanted(scratch: &Scratch) -> Wanted {
    let service = Which::Port { port: 80, addresses: None, ipv6: false };
    Wanted { directories: vec![scratch.shared(), scratch.private()], service }
}

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

fn greeting() -> String {
    let namespace = super::peer::own_namespace().map_or_else(String::new, |ns| format!(" netns {ns}"));
    format!("balance {} pid {} protocol 1{namespace}\n", super::render::VERSION, std::process::id())
}

fn rest(stream: &mut UnixStream) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("an end in time");
    text
}

fn ask(client: &mut Client, line: &[u8]) -> (String, u8, usize, bool) {
    let mut text = String::new();
    let status = client.ask(line, |part| text.push_str(part)).expect("an answer");
    (text, status.code, status.group, status.end)
}

#[test]
fn a_service_that_has_lost_its_port_is_not_ready_and_does_not_serve() {
    let service = service();
    let place: ListenSpan = SocketAddr::from(([0, 0, 0, 0], 80)).into();
    let told = || render::text(&Reply::Services(vec![service.snapshot()]));
    service.set_listen(Vec::new(), place, &[place]);
    assert!(told().contains(" not-listening "), "{}", told());
    assert_eq!(ReadyState::of(&service).why_not.as_deref(), Some("not listening on 0.0.0.0:80"));
    assert!(!service.is_ready());
    // One refused socket of several makes the service not ready, though the others serve.
    service.set_listen(vec![place], place, &[SocketAddr::from(([0, 0, 0, 0], 81)).into()]);
    assert!(!service.is_ready() && told().contains(" serving "));
    service.set_listen(vec![place], place, &[]);
    assert!(service.is_ready() && ReadyState::of(&service).why_not.is_none());
}

/// A Unix socket of which this is known.
#[derive(Debug)]
struct KnownSocket(Option<LostSocket>);

impl ListeningSocket for KnownSocket {
    fn lost(&self) -> Option<LostSocket> {
        self.0
    }

    fn access(&self) -> Option<SocketAccess> {
        None
    }

    fn has_foreign_file(&self) -> bool {
        false
    }
}

#[test]
fn a_service_whose_unix_socket_nobody_finds_is_not_ready_and_does_not_serve() {
    let service = service();
    let place: ListenSpan = UnixName::path(b"/run/x").expect("a short one").into();
    service.set_listen(vec![place], place, &[]);
    let services = || render::text(&Reply::Services(vec![service.snapshot()]));
    let becomes = |lost| *service.socket.write().expect("not poisoned") = Some(Arc::new(KnownSocket(lost)));
    becomes(None);
    assert!(service.is_ready() && services().contains(" serving "));
    for (is_replaced, why) in [(false, "its file is gone"), (true, "another file is at its path")] {
        becomes(Some(LostSocket { is_replaced, is_passed: false }));
        let why = format!("no client finds unix:/run/x: {why}");
        assert_eq!(ReadyState::of(&service).why_not, Some(why));
        assert!(!service.is_ready() && services().contains(" not-listening "), "{}", services());
    }
    becomes(None);
    assert!(service.is_ready());
}

#[test]
fn a_session_is_greeting_answers_and_status_lines() {
    let said = Instance::start().says(b"disable 0\r\n\ngroup 7\nx\nquit\nshow\n");
    let body = "channel 0 disabled\n. 0 0\n. 0 0\n. 0 7\nsyntax error\n. 64 7\n. 0 7 end\n";
    assert_eq!(said, greeting() + body);
}

#[test]
fn commands_of_one_line_share_a_status_and_the_first_error_counts() {
    let instance = Instance::start();
    let mut client = instance.client();
    assert_eq!(
        ask(&mut client, b"group 1; create ::1 80; x; disable 0; quit; show"),
        ("channel created\nsyntax error\nchannel 0 already disabled\n".into(), 64, 1, true)
    );
    let mut client = instance.client();
    assert_eq!(ask(&mut client, b"disable 5;x").1, 65);
    assert_eq!(ask(&mut client, b"group 3\nrr"), ("group 3 set to round robin\n".into(), 0, 3, false));
    assert_eq!(ask(&mut client, b""), (String::new(), 0, 3, false));
}

#[test]
fn long_lines_nul_bytes_and_half_lines_are_answered_or_dropped_as_a_whole() {
    let instance = Instance::start();
    let long =
        [&b"disable 0 ;"[..], &vec![b'x'; 3 * MAX_LINE], b"\nversion\0\n\xff\xfe\n", b"disable 0"].concat();
    assert_eq!(instance.says(&long), greeting() + &"syntax error\n. 64 0\n".repeat(3));
    assert_eq!(instance.says(b"disable 0\n"), greeting() + "channel 0 disabled\n. 0 0\n");
}

#[test]
fn a_line_may_come_in_pieces() {
    let instance = Instance::start();
    let mut stream = instance.connect();
    for byte in b"mrtg-conns 0 0\n" {
        stream.write_all(&[*byte]).expect("written");
    }
    stream.shutdown(Shutdown::Write).expect("shut");
    let body = "0\nUNKNOWN\nUNKNOWN\ngroup 0 channel 0\n. 0 0\n";
    assert_eq!(rest(&mut stream), greeting() + body);
}

#[test]
fn clients_that_leave_early_harm_nobody() {
    let instance = Instance::start();
    for bytes in [&b""[..], b"show", b"show\n", b"show;show;show\nshow\n"] {
        let mut stream = instance.connect();
        stream.write_all(bytes).expect("written");
        drop(stream);
    }
    assert_eq!(ask(&mut instance.client(), b"disable 0").0, "channel 0 disabled\n");
}

#[test]
fn a_client_that_does_not_read_holds_up_nobody() {
    let instance = Instance::start();
    let mut stuck = instance.connect();
    // Its answer of about 5 MB fits into no socket buffer.
    stuck.write_all(&[&b"s;".repeat(30_000)[..], b"\n"].concat()).expect("written");
    assert_eq!(ask(&mut instance.client(), b"disable 0").0, "channel 0 disabled\n");
    // The session still exists: only it waits, for itself.
    drop(stuck);
}

#[test]
fn among_too_many_sessions_the_oldest_idle_one_gives_way() {
    let instance = Instance::start();
    let mut clients: Vec<Client> = (0..64).map(|_| instance.client()).collect();
    // Each session has answered before the next one begins.
    for client in &mut clients {
        assert_eq!(ask(client, b"version").1, 0);
    }
    let mut late = instance.client();
    assert_eq!(ask(&mut late, b"group 1").2, 1);
    let gone = clients[0].ask(b"show", |_| ()).expect_err("it was closed").to_string();
    assert_eq!(
        gone,
        "balance: the instance closed this session: 64 sessions are open, and this one was idle"
    );
    assert_eq!(ask(&mut clients[1], b"group 1").2, 1, "the others are still there");
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
fn disabling_hard_closes_the_connections_of_the_channel_once() {
    let instance = Instance::start();
    let text = ask(&mut instance.client(), b"disable 0 hard; disable 0 hard; disable 0").0;
    assert_eq!(text, "channel 0 disabled\nchannel 0 already disabled\nchannel 0 already disabled\n");
    assert_eq!(instance.closed.lock().expect("not poisoned").len(), 1);
}

#[test]
fn what_the_data_plane_did_or_knows_is_the_answer() {
    let instance = Instance::start();
    let mut client = instance.client();
    let mut hears = |line: &[u8], answer: &str, code| {
        let (text, status, ..) = ask(&mut client, line);
        assert_eq!((text.as_str(), status), (answer, code), "{}", line.escape_ascii());
    };
    hears(b"kick 0", "channel 0 kicked, 3 connections closed\n", 0);
    hears(b"kick 1", "no such channel 1\n", 65);
    hears(b"resolve 0", "web: 10.0.0.7, 10.0.0.8\n", 0);
    let all = "db: not found: Name or service not known; see status for the addresses in use\nweb: 10.0.0.7, 10.0.0.8\n";
    hears(b"reso", all, 75);
    hears(b"resolve 7", "no such channel 7\n", 65);
    hears(b"resolve 0 1", "usage: resolve [<channel>]\n", 64);
    hears(b"close 7", "session 7 closed\n", 0);
    hears(b"close 8", "no such session 8\n", 65);
    hears(b"save", "balance 1 # 1 groups\n", 0);
    let header =
        "      id client                     group  chan     age    idle        sent        rcvd state\n";
    let line = |group, channel| {
        format!(
            "{header}       7 127.0.0.1:4711             {group:>5} {channel:>5}   1m15s    0.0s           1           2 -\n"
        )
    };
    hears(b"sessions", &line("-", "-"), 0);
    hears(b"sessions 0", &line("0", "0"), 0);
    hears(b"group 1; sessions 0", "no such channel 0\n", 65);
    assert_eq!(instance.closed.lock().expect("not poisoned").len(), 1);
}

#[test]
fn the_data_plane_is_told_of_changes_and_not_of_looks() {
    let instance = Instance::start();
    let mut client = instance.client();
    let mut changes = |line: &[u8]| {
        ask(&mut client, line);
        instance.changed.swap(0, Ordering::SeqCst) > 0
    };
    for look in [&b"show"[..], b"status", b"sessions", b"save", b"wait 0", b"group 1", b"help", b"x", b""] {
        assert!(!changes(look), "{}", look.escape_ascii());
    }
    for change in [
        &b"group 0; drain 0"[..],
        b"enable 0",
        b"weight 0 2",
        b"maxc 0 2",
        b"policy first",
        b"rr",
        b"kick 0",
        b"close 7",
        b"create ::1 80",
        b"remove 1",
    ] {
        assert!(changes(change), "{}", change.escape_ascii());
    }
}

#[test]
fn wait_answers_when_the_last_connection_is_over_and_holds_up_nobody() {
    let instance = Instance::start();
    assert_eq!(ask(&mut instance.client(), b"wait 0"), ("channel 0 idle\n".into(), 0, 0, false));
    let leases = [instance.lease(), instance.lease()];
    let mut stream = instance.connect();
    stream.write_all(b"drain 0; wait 0; version; x\n").expect("written");
    let mut first = vec![0; (greeting() + "channel 0 draining, 2 connections left\n").len()];
    stream.read_exact(&mut first).expect("told before the wait begins");
    // Other sessions work meanwhile, and a client that has ended its direction still gets its answer.
    stream.shutdown(Shutdown::Write).expect("shut");
    let [one, other] = leases;
    drop(one);
    assert_eq!(
        ask(&mut instance.client(), b"wait 0 0"),
        ("channel 0 still has 1 connection\n".into(), 75, 0, false)
    );
    assert_eq!(
        ask(&mut instance.client(), b"enable 0; drain 0").0,
        "channel 0 enabled\nchannel 0 draining, 1 connection left\n"
    );
    drop(other);
    let said = rest(&mut stream);
    assert!(said.starts_with("channel 0 idle\n  This is balance "), "{said}");
    assert!(said.ends_with("syntax error\n. 64 0\n"), "{said}");
}

#[test]
fn wait_in_vain_ends_when_its_time_is_over_and_not_before() {
    let instance = Instance::start();
    let lease = instance.lease();
    let mut stream = instance.connect();
    stream.write_all(b"wait 0 30\n").expect("written");
    stream.shutdown(Shutdown::Write).expect("shut");
    let mut greeted = vec![0; greeting().len()];
    stream.read_exact(&mut greeted).expect("a greeting");
    // The session began to wait at some time after now. Slightly less than its time is too little.
    instance.clock.store(29_999, Ordering::SeqCst);
    stream.set_read_timeout(Some(Duration::from_millis(100))).expect("set");
    assert!(stream.read(&mut [0]).is_err(), "it goes on waiting");
    stream.set_read_timeout(Some(DEADLINE)).expect("set");
    instance.clock.store(60_000, Ordering::SeqCst);
    assert_eq!(rest(&mut stream), "channel 0 still has 1 connection\n. 75 0\n");
    drop(lease);
}

#[test]
fn a_channel_that_is_gone_is_waited_for_by_nobody() {
    let instance = Instance::start();
    let mut client = instance.client();
    assert_eq!(ask(&mut client, b"drain 0; remove 0; wait 0").1, 65);
    assert_eq!(ask(&mut client, b"group 9; wait 0"), ("no such channel 0\n".into(), 65, 9, false));
}

#[test]
fn clients_that_leave_while_they_wait_take_their_sessions_with_them() {
    let instance = Instance::start();
    let lease = instance.lease();
    // Root may have more sessions than others.
    let most = if super::peer::own_uid() == 0 { 72 } else { 64 };
    let mut waiting = Vec::new();
    for _ in 0..most {
        let mut stream = instance.connect();
        stream.write_all(b"drain 0; wait 0\n").expect("written");
        let mut first = vec![0; (greeting() + "channel 0 draining, 1 connection left\n").len()];
        stream.read_exact(&mut first).expect("it waits");
        waiting.push(stream);
    }
    assert!(rest(&mut instance.connect()).starts_with(". busy: "), "all sessions are taken");
    drop(waiting);
    let end = std::time::Instant::now() + DEADLINE;
    while find::find(&instance.wanted(), false).is_err() {
        assert!(std::time::Instant::now() < end, "their sessions are still taken");
        thread::yield_now();
    }
    drop(lease);
}

#[test]
fn a_kill_leaves_those_who_wait_alone_and_a_stop_waits_for_nobody() {
    let instance = Instance::start();
    let lease = instance.lease();
    let mut stream = instance.connect();
    stream.write_all(b"drain 0; wait 0\n").expect("written");
    let mut first = vec![0; (greeting() + "channel 0 draining, 1 connection left\n").len()];
    stream.read_exact(&mut first).expect("it waits");
    assert_eq!(ask(&mut instance.client(), b"kill").0, "shutdown complete, exiting.\n");
    stream.set_read_timeout(Some(Duration::from_millis(50))).expect("set");
    assert!(stream.read(&mut [0]).is_err(), "there is something to wait for still");
    stream.set_read_timeout(Some(DEADLINE)).expect("set");
    instance.control.stop(DEADLINE);
    assert_eq!(rest(&mut stream), "channel 0 still has 1 connection\n. 75 0\n");
    drop(lease);
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
    if super::peer::own_namespace().is_none() {
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

/// Two services of one process: `web` on port 80, and one without a name on port 25. Also how often each was
/// killed, and how many connections `web` has.
fn two_services() -> (Scratch, Control, [Arc<AtomicU32>; 2], Arc<AtomicUsize>) {
    let kills = [(); 2].map(|()| Arc::new(AtomicU32::new(0)));
    let connections = Arc::new(AtomicUsize::new(0));
    let made = |name: Option<&str>, port: u16, kills: &Arc<AtomicU32>| {
        let count = Arc::clone(kills);
        let connected = Arc::clone(&connections);
        let connected = move || if port == 80 { connected.load(Ordering::SeqCst) } else { 0 };
        ManagedService {
            name: RwLock::new(name.map(str::to_owned)),
            listen: RwLock::new(vec![SocketAddr::from(([0, 0, 0, 0], port)).into()]),
            kill: Arc::new(move || {
                count.fetch_add(1, Ordering::SeqCst);
                true
            }),
            plane: Plane { connections: Arc::new(connected), ..idle_plane() },
            ..service()
        }
    };
    let services = vec![made(Some("web"), 80, &kills[0]), made(None, 25, &kills[1])];
    let names = services.iter().map(|one| Names { listen: one.listen(), name: one.name() });
    let scratch = Scratch::new();
    let options =
        EndpointOptions { directories: vec![scratch.shared()], services: names.collect(), group: None };
    let endpoint = Endpoint::bind(&options).expect("bound");
    let control = serve(endpoint, all(services)).expect("serving");
    (scratch, control, kills, connections)
}

fn find(scratch: &Scratch, service: Which) -> Result<Client, FindError> {
    find::find(&Wanted { directories: vec![scratch.shared()], service }, false)
}

fn by_port(port: u16) -> Which {
    Which::Port { port, addresses: None, ipv6: false }
}

fn answer(client: &mut Client, line: &str) -> (u8, String) {
    let mut text = String::new();
    let status = client.ask(line.as_bytes(), |line| text.push_str(line)).expect("an answer");
    (status.code, text)
}

#[test]
fn a_client_is_at_the_service_that_it_asked_for() {
    let (scratch, _control, ..) = two_services();
    let mut web = find(&scratch, Which::Name { name: "web".into(), port: None }).expect("found");
    let mut mail = find(&scratch, by_port(25)).expect("found");
    assert_eq!((web.service(), mail.service()), (Some("web"), Some("0.0.0.0:25")));
    assert!(matches!(
        find(&scratch, Which::Name { name: "mail".into(), port: None }),
        Err(FindError::NoService { .. })
    ));
    // A change of one service does not change the other.
    assert_eq!(answer(&mut web, "disable 0").0, 0);
    assert!(answer(&mut web, "show").1.contains("dis"));
    assert!(answer(&mut mail, "show").1.contains("ENA"));
    let list = "\
name             listen                 up/channels connections state    file
web              0.0.0.0:80                     0/1           0 serving  -
-                0.0.0.0:25                     1/1           0 serving  -
";
    assert_eq!(answer(&mut mail, "services"), (0, list.into()));
    for (word, code, text) in [
        ("web", 0, "using service web\n"),
        ("25", 0, "using service 0.0.0.0:25\n"),
        ("0.0.0.0:80", 0, "using service web\n"),
        ("[::ffff:0.0.0.0]:80", 0, "using service web\n"),
        ("443", 65, "no such service 443\n"),
        ("mail", 65, "no such service mail\n"),
    ] {
        assert_eq!(answer(&mut mail, &format!("use {word}")), (code, text.into()));
    }
    // The commands that follow are meant for a service that does not exist.
    let rest = "no such service mial\nthe rest of the line was not carried out\n";
    for line in ["use mial; kill", "use mial; disable 0; use web"] {
        assert_eq!(answer(&mut mail, line), (65, rest.into()), "{line}");
    }
    assert_eq!(answer(&mut mail, "use mial;"), (65, "no such service mial\n".into()));
    assert_eq!(answer(&mut mail, "services"), (0, list.into()), "nothing has changed");
}

#[test]
fn kill_ends_the_current_service_and_the_end_of_the_last_one_all_sessions() {
    let (scratch, control, kills, connections) = two_services();
    let count = || [0, 1].map(|i| kills[i].load(Ordering::SeqCst));
    connections.store(1, Ordering::SeqCst);
    let mut stays = find(&scratch, by_port(25)).expect("found");
    let mut web = find(&scratch, by_port(80)).expect("found");
    assert_eq!(answer(&mut web, "kill"), (0, "shutdown complete, exiting.\n".into()));
    assert_eq!(count(), [1, 0]);
    // Its name stays, so that commands for it do not reach another service.
    assert_eq!(scratch.names(), ["balance.25.0.0.0.0", "service.web"]);
    assert!(matches!(find(&scratch, by_port(80)), Err(FindError::None)));
    let by_name = || find(&scratch, Which::Name { name: "web".into(), port: None });
    assert!(matches!(by_name(), Err(FindError::NoService { .. })), "it is draining");
    // The service is listed until its last client has left, but no session begins with it.
    assert!(answer(&mut stays, "services").1.contains("1 draining -\n"));
    assert_eq!(answer(&mut stays, "use web; show").0, 0);
    let mut begun = UnixStream::connect(scratch.path().join("balance.25.0.0.0.0")).expect("connected");
    begun.write_all(b"group 0\nquit\n").expect("written");
    let said = rest(&mut begun);
    assert!(said.contains(" services 2 ") && said.contains(". 0 0 in 0.0.0.0:25\n"), "{said}");
    connections.store(0, Ordering::SeqCst);
    let (code, list) = answer(&mut stays, "services; use web");
    assert!(code == 65 && list.ends_with("0 serving  -\nno such service web\n"), "{list}");
    assert_eq!(list.lines().count(), 3, "{list}");
    assert!(matches!(by_name(), Err(FindError::NoService { .. })), "it is gone");
    let mut other = find(&scratch, by_port(25)).expect("found");
    assert_eq!(answer(&mut other, "kill").0, 0);
    assert_eq!(count(), [1, 1]);
    assert!(scratch.names().is_empty(), "nobody has connections left");
    assert_eq!(answer(&mut stays, "version").0, 0);
    drop(control);
    assert!(matches!(stays.ask(b"version", |_| ()), Err(AskError::Unheard)));
}
