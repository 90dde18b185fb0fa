//! An instance to talk to: an endpoint in a directory of its own, services without a port, and what a
//! client asks.

use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use crate::config::{Word, read_line};
use crate::control::argument::HostPort;
use crate::control::client::Client;
use crate::control::doctor::ProcessSigns;
use crate::control::endpoint::{Endpoint, EndpointOptions, Names};
use crate::control::find::{self, Wanted, Which};
use crate::control::render;
use crate::control::scratch::Scratch;
use crate::control::services::{ManagedService, Plane, ProcessHands, ResolvedName, Services};
use crate::control::socket::{Control, serve};
use crate::observe::Log;
use crate::sched::{
    Addresses, AdminState, ChannelKey, ClientAddr, GroupId, Lease, Rules, SessionSnapshot, SharedTable, Table,
};

pub(super) const DEADLINE: Duration = Duration::from_secs(20);

/// A data plane without connections.
pub(super) fn idle_plane() -> Plane {
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
    pub(super) scratch: Scratch,
    pub(super) control: Control,
    /// How often the kill hook was called.
    pub(super) killed: Arc<AtomicU32>,
    /// What the kill hook returns.
    pub(super) kill_works: Arc<AtomicBool>,
    /// The times after which connections were to be closed.
    pub(super) ended: Arc<Mutex<Vec<Duration>>>,
    /// The channels whose connections were to be closed.
    pub(super) closed: Arc<Mutex<Vec<ChannelKey>>>,
    /// How often a change was reported to the data plane.
    pub(super) changed: Arc<AtomicU32>,
    /// The time since the start, in ms.
    pub(super) clock: Arc<AtomicU64>,
    pub(super) table: SharedTable,
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

    pub(super) fn client(&self) -> Client {
        find::find(&self.wanted(), false).expect("an instance")
    }

    pub(super) fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(self.scratch.path().join("balance.80.0.0.0.0")).expect("connected");
        stream.set_read_timeout(Some(DEADLINE)).expect("set");
        stream
    }

    /// A client's connection to the only channel.
    pub(super) fn lease(&self) -> Lease {
        let mut table = self.table.lock();
        let mut route = table.begin(ClientAddr::from(IpAddr::from([127, 0, 0, 1])));
        table.next(&mut route).expect("a channel")
    }

    /// What the instance answers to these bytes, until one side ends the connection.
    pub(super) fn says(&self, bytes: &[u8]) -> String {
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
pub(super) fn all(services: Vec<ManagedService>) -> Arc<Services> {
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

pub(super) fn service() -> ManagedService {
    let mut table = Table::new(Rules::CLASSIC);
    let address = SocketAddr::from(([127, 0, 0, 1], 9));
    table.create(GroupId::FIRST, address.into(), None, AdminState::Enabled).expect("a slot");
    let resolve = |target: &HostPort| -> Result<Addresses, String> {
        let ip: IpAddr = target.host.parse().map_err(|_| "no name is known here".to_owned())?;
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
pub(super) fn service_at(address: &str) -> ManagedService {
    ManagedService { listen: RwLock::new(vec![port_80(address).into()]), ..service() }
}

/// Port 80 of an address such as `127.0.0.1`, `::1` or `fe80::1%2`.
pub(super) fn port_80(address: &str) -> SocketAddr {
    let bracketed = if address.contains(':') { format!("[{address}]:80") } else { format!("{address}:80") };
    bracketed.parse().expect("an address")
}

pub(super) fn options(scratch: &Scratch, address: &str) -> EndpointOptions {
    let services = vec![Names { listen: vec![port_80(address).into()], name: None }];
    EndpointOptions { directories: vec![scratch.shared()], services, group: None }
}

pub(super) fn wanted(scratch: &Scratch) -> Wanted {
    let service = Which::Port { port: 80, addresses: None, ipv6: false };
    Wanted { directories: vec![scratch.shared(), scratch.private()], service }
}

pub(super) fn greeting() -> String {
    let namespace =
        crate::control::peer::own_namespace().map_or_else(String::new, |ns| format!(" netns {ns}"));
    format!("balance {} pid {} protocol 1{namespace}\n", render::VERSION, std::process::id())
}

pub(super) fn rest(stream: &mut UnixStream) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("an end in time");
    text
}

pub(super) fn ask(client: &mut Client, line: &[u8]) -> (String, u8, usize, bool) {
    let mut text = String::new();
    let status = client.ask(line, |part| text.push_str(part)).expect("an answer");
    (text, status.code, status.group, status.end)
}

pub(super) fn answer(client: &mut Client, line: &str) -> (u8, String) {
    let mut text = String::new();
    let status = client.ask(line.as_bytes(), |line| text.push_str(line)).expect("an answer");
    (status.code, text)
}
