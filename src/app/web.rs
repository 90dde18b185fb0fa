//! The port for HTTP: it is bound before anything else can fail, or taken over from the predecessor.
//!
//! Knows: the option, the socket. Never: what is answered.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::denied::{self, FileUse};
use super::keeper::Bell;
use super::scribe::Scribe;
use super::{Failure, exit};
use crate::control::{
    Control, HttpParts, HttpServer, OrderParts, Services, SystemVitals, TokenError, TokenFile, Vitals,
};
use crate::names::resolve;
use crate::net::server::Server;
use crate::observe::{Event, Log, Severity};
use crate::spec::{HttpSpec, ProcessSpec};
use crate::sys::{Clock, scheduling, socket};

/// How long a start waits for a port that the previous process is just closing.
const BIND_PATIENCE: Duration = Duration::from_millis(500);
const BIND_RETRY: Duration = Duration::from_millis(5);

/// The open port and its settings.
pub(super) struct Web {
    listener: TcpListener,
    name: Option<String>,
    token_file: Option<TokenFile>,
}

/// The addresses that the option means, in the order in which they are tried.
///
/// # Errors
/// The host is unknown.
pub(super) fn addresses(http: &HttpSpec) -> Result<Vec<SocketAddr>, Failure> {
    let port = http.port.get();
    let Some(host) = &http.host else { return Ok(vec![SocketAddr::from((Ipv4Addr::LOCALHOST, port))]) };
    let found = resolve::addresses(host, port).map_err(|e| failure(http, exit::BAD_DATA, &e.to_string()))?;
    match resolve::why_no_zone(host, &found) {
        Some(why) => Err(failure(http, exit::BAD_DATA, &why)),
        None => Ok(found),
    }
}

/// Which listener is wanted from the predecessor.
pub(super) enum HttpWanted<'a> {
    /// Its listener at one of these addresses.
    At(&'a [SocketAddr]),
    /// Its listener on this port at any address, because it is in the way.
    InTheWay(u16),
}

/// Opens the port of `--http`, if given. `got` returns a listener of the predecessor. A listener of the
/// predecessor that is in the way is shut down; if this process does not take over after all, the predecessor
/// [opens it again](HttpServer::release).
///
/// # Errors
/// The port cannot be bound.
pub(super) fn open(
    settings: &ProcessSpec,
    mut got: impl FnMut(HttpWanted<'_>) -> Option<OwnedFd>,
) -> Result<Option<Web>, Failure> {
    let Some(http) = &settings.http else { return Ok(None) };
    let token_file = token_file(settings)?;
    let addresses = addresses(http)?;
    let listener = match got(HttpWanted::At(&addresses)) {
        Some(fd) => TcpListener::from(fd),
        None => {
            if let Some(fd) = got(HttpWanted::InTheWay(http.port.get())) {
                // Both processes share this socket. If it cannot be shut down, binding fails and reports
                // that.
                let _ = rustix::net::shutdown(&fd, rustix::net::Shutdown::Read);
            }
            bind(&addresses).map_err(|e| failure(http, exit::OS, &why_not_bound(&e)))?
        }
    };
    let name = http.host.clone().filter(|host| host.parse::<std::net::IpAddr>().is_err());
    Ok(Some(Web { listener, name, token_file }))
}

/// Why a start could not open the port of `--http` at any address; `None`: this host has one of them. Takes
/// no port. An unknown host is another failure.
pub(super) fn why_not(settings: &ProcessSpec) -> Option<Failure> {
    let http = settings.http.as_ref()?;
    let tried = addresses(http).ok()?.into_iter().map(|mut address| {
        address.set_port(0);
        socket::may_come_from(address)
    });
    let error = tried.reduce(Result::or)?.err()?;
    Some(failure(http, exit::OS, &why_not_bound(&error)))
}

/// The file of `--http-token-file`, after checking that it holds a token.
///
/// # Errors
/// It holds none.
pub(super) fn token_file(settings: &ProcessSpec) -> Result<Option<TokenFile>, Failure> {
    let Some(named) = &settings.http_token_file else { return Ok(None) };
    // In the background the process changes its directory, so the path is made absolute.
    let path = std::path::absolute(&named.name).unwrap_or_else(|_| named.name.clone().into());
    let file = TokenFile::new(path);
    match file.read() {
        Ok(_) => Ok(Some(file)),
        Err(error) => {
            let why = match &error {
                TokenError::Unreadable(e) => denied::reason(e, named.name.as_ref(), FileUse::Read),
                TokenError::NoToken => None,
            };
            let why = why.map_or_else(String::new, |why| format!(" ({why})"));
            let text = format!("--http-token-file {}: {error}{why}", named.name);
            Err(match &named.typed.at {
                Some(at) => Failure::new(exit::CONFIG, format!("{at}: {text}")),
                None => Failure::new(exit::BAD_DATA, format!("balance: {text}")),
            })
        }
    }
}

fn bind(addresses: &[SocketAddr]) -> io::Result<TcpListener> {
    let mut left = BIND_PATIENCE;
    loop {
        match TcpListener::bind(addresses) {
            Err(e) if e.kind() == io::ErrorKind::AddrInUse && !left.is_zero() => {
                let pause = left.min(BIND_RETRY);
                thread::sleep(pause);
                left -= pause;
            }
            result => return result,
        }
    }
}

fn why_not_bound(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            format!(
                "{error}; another process has this port: give each instance a port of its own, or upgrade the one that has it"
            )
        }
        _ => error.to_string(),
    }
}

fn failure(http: &HttpSpec, code: u8, text: &str) -> Failure {
    let text = format!("--http {}: {text}", http.typed.text);
    match &http.typed.at {
        Some(at) => Failure::new(exit::CONFIG, format!("{at}: {text}")),
        None => Failure::new(code, format!("balance: {text}")),
    }
}

/// Starts the HTTP server. If that fails, balance serves all the same.
pub(super) fn serve(
    web: Option<Web>,
    services: &Arc<Services>,
    (server, control): (&Server, Option<&Arc<Control>>),
    (scribe, kept): (Option<&Scribe>, Option<Arc<Bell>>),
    clock: Clock,
    log: &Log,
) -> Option<Arc<HttpServer>> {
    let Web { listener, name, token_file } = web?;
    let (asked, told) = (server.clone(), log.clone());
    let access = scribe.cloned();
    let vitals = move || Vitals {
        access_lines_dropped: access.as_ref().map(|scribe| scribe.access().dropped()),
        is_access_failing: access.as_ref().map(|scribe| scribe.trouble().is_some()),
        is_state_failing: kept.as_ref().map(|bell| bell.trouble().is_some()),
        worker_connections: asked.loads(),
        descriptor_limit: Some(asked.descriptor_limit()).filter(|&limit| limit != u64::MAX),
        descriptors_free: Some(asked.budget().left() as u64),
        dropped_lines: told.dropped_lines(),
        uptime: clock.now(),
        system: SystemVitals::now(),
    };
    let parts = HttpParts {
        listener,
        name,
        descriptor_limit: server.descriptor_limit(),
        services: Arc::clone(services),
        orders: token_file.map(|token_file| OrderParts { token_file, control: control.map(Arc::downgrade) }),
        vitals: Box::new(vitals),
        // HTTP clients, however many, must not slow down the served clients.
        begins: scheduling::stand_back,
    };
    let started = HttpServer::start(parts).map(Arc::new);
    started
        .map_err(|e| {
            let text = format!("--http: balance answers no requests: {e}");
            log.tell(&Event::Note { severity: Severity::Error, text });
        })
        .ok()
}
