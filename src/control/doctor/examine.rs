//! Gathers all signs and runs the checks on them.
//!
//! Knows: where each sign comes from, how long to wait for a name server. Never: what a sign means.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use super::exams::diagnose;
use super::finding::Diagnosis;
use super::kernel::KernelSigns;
use super::of_service::LONG_IDLE;
use super::signs::{AccessSign, Case, NameSign, ServiceSigns, SocketSign};
use crate::control::endpoint::{group_name, group_number};
use crate::control::services::{ListeningSocket, ManagedService, Services};
use crate::spec::{ListenSpan, ServiceSpec, SocketAccess, UnixName};

/// How long all lookups of names together may take. A name server that answers later counts as slow.
const PATIENCE: Duration = Duration::from_secs(3);
/// Maximum number of lookups at the same time, including those whose answer nobody waits for any more.
const MOST_LOOKUPS: usize = 16;
/// If a service has more connections, they are not looked at one by one.
const MOST_SESSIONS: usize = 10_000;
/// Maximum number of control socket files that are looked at.
const MOST_SOCKETS: usize = 16;

/// Number of threads that look up a name now.
static LOOKUPS: AtomicUsize = AtomicUsize::new(0);

/// A file of the control socket: its path, and its permissions if it is still ours.
type EntrySign = (PathBuf, Option<u32>);

/// Examines these services and the whole process. Takes the tables' locks piece by piece, and waits for name
/// servers for a limited time.
pub(crate) fn examine(
    services: &Services,
    chosen: &[Arc<ManagedService>],
    (entries, group_named, ungrouped): (Vec<EntrySign>, bool, Option<&str>),
) -> Diagnosis {
    let process = (services.process.signs)();
    let listens = services.present().into_iter().flat_map(|service| service.listen());
    let ports: Vec<u16> = listens.flat_map(ListenSpan::ports).collect();
    let kernel = KernelSigns::read(Path::new("/"), &ports);
    let services_seen: Vec<ServiceSigns> = chosen.iter().map(|service| look(service, services)).collect();
    let names = names(&services_seen, &services.process.look_up);
    let sockets = entries.into_iter().take(MOST_SOCKETS).map(|(path, mode)| SocketSign {
        path: path.display().to_string(),
        mode,
        group_named,
        ungrouped: ungrouped.map(str::to_owned),
    });
    let sockets = sockets.collect();
    let is_serving = !services.are_killed();
    diagnose(&Case { process, services: services_seen, names, sockets, kernel, is_serving })
}

fn look(service: &ManagedService, services: &Services) -> ServiceSigns {
    let is_draining = service.is_killed();
    let first = |service: &ManagedService| service.listen().first().map(|at| at.first());
    let asked_at = match is_draining {
        false => first(service),
        // Commands sent to where it listened may reach its successor.
        true => services.first().filter(|one| !one.is_killed()).and_then(|one| first(&one)),
    };
    let spec = (service.spec)();
    let connections = (service.plane.connections)();
    // No connection can have been silent for longer than the process runs.
    let may_be_idle = spec.idle_timeout.is_none() && (service.now)() > LONG_IDLE;
    let idle = (may_be_idle && connections <= MOST_SESSIONS).then(|| {
        let all = (service.plane.sessions)(None);
        let idle = all.iter().map(|session| session.idle).filter(|&idle| idle > LONG_IDLE);
        (idle.clone().count(), idle.max().unwrap_or_default())
    });
    ServiceSigns {
        label: service.label(),
        is_draining,
        asked_at,
        listen: if service.listens_nowhere() { Vec::new() } else { service.listen() },
        table: service.survey(),
        connections,
        access: service.with_socket(|socket| access(&spec, socket)),
        idle,
        spec,
    }
}

/// Who may connect to a Unix socket, against what was asked for. `None`: nothing was, or it has no file.
fn access(spec: &ServiceSpec, socket: &dyn ListeningSocket) -> Option<AccessSign> {
    let group = spec.socket_group.as_ref().map(|named| named.name.as_str());
    let wanted = SocketAccess { mode: spec.socket_mode, group: group.and_then(group_number) };
    if socket.lost().is_some() || spec.socket_mode.is_none() && group.is_none() {
        return None;
    }
    let words = |mode: Option<u32>, group: Option<String>| {
        let mode = mode.map(|mode| format!("{mode:03o}"));
        [mode, group].into_iter().flatten().collect::<Vec<_>>().join(" ")
    };
    // A group that is not there any more is nobody's.
    let is_known = group.is_none_or(|name| group_number(name).is_some());
    let now = socket.access()?;
    if socket.has_foreign_file() || !is_known || !wanted.holds(now) {
        let mode = spec.socket_mode.or_else(|| group.map(|_| SocketAccess::OF_GROUP));
        return Some(AccessSign {
            wanted: words(mode, group.map(str::to_owned)),
            now: words(
                now.mode.filter(|_| mode.is_some()),
                now.group.filter(|_| group.is_some()).map(group_name),
            ),
            is_foreign: socket.has_foreign_file(),
        });
    }
    None
}

type LookUp = Arc<dyn Fn(&str) -> Result<Vec<IpAddr>, String> + Send + Sync>;

/// Looks up the names of channels and compares them with the addresses in use.
fn names(services: &[ServiceSigns], look_up: &LookUp) -> Vec<NameSign> {
    let mut known: BTreeMap<String, Vec<IpAddr>> = BTreeMap::new();
    // A service that takes no clients any more does not look its names up again.
    let serving = services.iter().filter(|one| !one.is_draining);
    for channel in serving.flat_map(|one| &one.table.groups).flat_map(|group| &group.channels) {
        let is_name = |host: &&str| {
            !host.starts_with(UnixName::PREFIX) && host.trim_matches(['[', ']']).parse::<IpAddr>().is_err()
        };
        if let Some(host) = channel.addresses.host().filter(is_name) {
            let addresses = channel.addresses.as_slice().iter().filter_map(|at| Some(at.net()?.ip()));
            known.entry(host.to_owned()).or_insert_with(|| sorted(addresses.collect()));
        }
    }
    let mut found = found(known.keys(), look_up);
    let sign = |(host, known): (String, Vec<IpAddr>)| NameSign { found: found.remove(&host), host, known };
    known.into_iter().map(sign).collect()
}

fn sorted(mut addresses: Vec<IpAddr>) -> Vec<IpAddr> {
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}

type LookedUp = BTreeMap<String, Result<Vec<IpAddr>, String>>;

/// Looks names up, several at a time, until all have answered or the time is over. A resolver cannot be
/// interrupted: a thread that hangs is left alone, and counts until it ends.
fn found<'a>(hosts: impl Iterator<Item = &'a String>, look_up: &LookUp) -> LookedUp {
    let (send, answers) = mpsc::channel();
    let until = Instant::now() + PATIENCE;
    let mut found = LookedUp::new();
    let mut asked = 0;
    for host in hosts {
        while LOOKUPS.load(Ordering::SeqCst) >= MOST_LOOKUPS {
            let Some(left) = until.checked_duration_since(Instant::now()) else { return found };
            // A lookup of another `doctor` command may end and make room, too.
            if let Ok((host, answer)) = answers.recv_timeout(left.min(Duration::from_millis(20))) {
                found.insert(host, answer);
            }
        }
        LOOKUPS.fetch_add(1, Ordering::SeqCst);
        let (host, look_up, send) = (host.clone(), Arc::clone(look_up), send.clone());
        let started = thread::Builder::new().name("doctor".into()).spawn(move || {
            let answer = look_up(&host).map(sorted);
            LOOKUPS.fetch_sub(1, Ordering::SeqCst);
            // The receiver may be gone by now.
            let _ = send.send((host, answer));
        });
        match started {
            Ok(_) => asked += 1,
            Err(_) => _ = LOOKUPS.fetch_sub(1, Ordering::SeqCst),
        }
    }
    while found.len() < asked {
        let Some(left) = until.checked_duration_since(Instant::now()) else { break };
        match answers.recv_timeout(left) {
            Ok((host, answer)) => _ = found.insert(host, answer),
            Err(_) => break,
        }
    }
    found
}
