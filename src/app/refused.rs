//! Finds out what a start would refuse besides wrong words and unknown names, without taking anything.
//!
//! Knows: what the system is asked for, how to say that it is missing. Never: ports, files of services, how a
//! check is run.
//! Source: docs/file.md, "When something is wrong".

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::roster::Source;
use super::{Failure, exit, kept, web};
use crate::control;
use crate::process::Account;
use crate::spec::{
    ChannelCheck, ChannelSpec, Check, ListenSpan, Member, Named, ProcessSpec, ServiceSpec, Typed, UnixName,
};
use crate::sys::listen::ListenError;
use crate::sys::socket;
use crate::sys::socket_file::{self, SocketPlace};

/// Settings of the process that this system cannot provide.
pub(super) fn settings(process: &ProcessSpec) -> Vec<Failure> {
    let mut all = Vec::new();
    if let Some(group) = process.control_group.as_ref().filter(|group| !control::is_group(&group.name)) {
        let text = format!("--control-group: unknown group {:?}", group.name);
        all.push(failure(&group.typed, exit::BAD_DATA, &text));
    }
    if let Some(named) = &process.user
        && let Err(e) = Account::find(&named.name)
    {
        all.push(failure(&named.typed, exit::BAD_DATA, &format!("--user {}: {e}", named.name)));
    }
    all.extend(process.http.as_ref().and_then(|http| web::addresses(http).err()));
    all.extend(web::token_file(process).err());
    if let Some(named) = &process.loopback_congestion
        && let Err(e) = socket::offers_congestion(&named.name)
    {
        let text = format!("--loopback-congestion {}: {e}", named.name);
        all.push(failure(&named.typed, exit::OS, &text));
    }
    all
}

/// Groups of Unix sockets that do not exist.
pub(super) fn socket_groups<'a>(services: impl Iterator<Item = &'a ServiceSpec>) -> Vec<Failure> {
    let groups = services.filter_map(|service| service.socket_group.as_ref());
    let unknown = groups.filter(|group| !control::is_group(&group.name));
    let text = |group: &Named| format!("--socket-group: unknown group {:?}", group.name);
    unknown.map(|group| failure(&group.typed, exit::BAD_DATA, &text(group))).collect()
}

/// Unix sockets that could not be made at their paths, whoever listens there now, and two lines for one path.
pub(super) fn socket_paths(services: &[ServiceSpec]) -> Vec<Failure> {
    let mut taken: HashMap<SocketPlace, UnixName> = HashMap::new();
    let mut wrong = Vec::new();
    for service in services {
        let Some(name) = service.listen.ports.unix().filter(|name| !name.is_abstract()) else { continue };
        match socket_file::place_of(name) {
            Ok(place) => {
                if let Some(other) = place.and_then(|place| taken.insert(place, name)) {
                    let text = format!("{name} and {other} are the same path; give another one");
                    wrong.push(failure(&service.listen.typed, exit::OS, &text));
                }
            }
            Err((call, source)) => {
                let error = ListenError { call, address: Box::new(name.into()), source };
                wrong.push(Failure::at(&service.listen.typed, error.into()));
            }
        }
    }
    wrong
}

/// Addresses to listen on that this host does not have. Takes no port.
pub(super) fn addresses<'a>(services: impl Iterator<Item = (&'a ServiceSpec, ListenSpan)>) -> Vec<Failure> {
    let mut told = HashSet::new();
    let missing = services.filter(|(spec, _)| !spec.freebind).filter_map(|(spec, span)| {
        let address = span.first().net()?;
        let mut any_port = address;
        any_port.set_port(0);
        let source = socket::may_come_from(any_port).err()?;
        let error = ListenError { call: "bind", address: Box::new(address.into()), source };
        Some(Failure::at(&spec.listen.typed, error.into()))
    });
    missing.filter(|failure: &Failure| told.insert(failure.message.clone())).collect()
}

/// Programs of checks and events that cannot be run, each once for each word that names it.
pub(super) fn programs(services: &[ServiceSpec]) -> Vec<Failure> {
    let mut told = HashSet::new();
    let checks = services.iter().flat_map(why_no_programs);
    let checks = checks.map(|(typed, why)| failure(typed, exit::BAD_DATA, &why));
    let hooks = services.iter().filter_map(|service| service.on_change.as_ref());
    let hooks = hooks.filter_map(|hook| Some(failure(&hook.typed, exit::BAD_DATA, &why_no_hook(hook)?)));
    checks.chain(hooks).filter(|failure| told.insert(failure.message.clone())).collect()
}

/// Why the state file could not be read or written; `None`: it could.
pub(super) fn state_file(process: &ProcessSpec, source: Option<&Source>) -> Option<Failure> {
    let named = process.state.as_ref()?;
    let why = kept::why_not(named, source)?;
    Some(failure(&named.typed, exit::BAD_DATA, &format!("--state {}: {why}", named.name)))
}

/// Why programs of a service's checks cannot be run, including those of its channels, with the words that
/// name them.
pub(super) fn why_no_programs(service: &ServiceSpec) -> Vec<(&Typed, String)> {
    let why = |option: &str, check: &Check| {
        let Check::Exec(path) = check else { return None };
        let error = is_program(path).err()?;
        Some(format!("{option}: cannot run {}: {error}", path.display()))
    };
    let of_all = service.check.as_ref();
    let of_all = of_all.and_then(|spec| Some((&spec.typed, why("--check", spec.check.as_ref()?)?)));
    let channels = service.groups.iter().flat_map(|group| &group.members);
    let own = channels.filter_map(|member| match member {
        Member::Channel(ChannelSpec { typed, manner, .. }) => match &manner.check {
            ChannelCheck::Own(check) => Some((typed, why("check", check)?)),
            ChannelCheck::AsService | ChannelCheck::Never => None,
        },
        Member::Gap => None,
    });
    of_all.into_iter().chain(own).collect()
}

/// Why the program of `--event-program` cannot be run; `None`: it can.
pub(super) fn why_no_hook(program: &Named) -> Option<String> {
    let error = is_program(Path::new(&program.name)).err()?;
    Some(format!("--event-program: cannot run {}: {error}", program.name))
}

fn is_program(path: &Path) -> io::Result<()> {
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is not a file"));
    }
    Ok(rustix::fs::access(path, rustix::fs::Access::EXEC_OK)?)
}

/// The programs that a service may start.
pub(super) fn programs_of(service: &ServiceSpec) -> Vec<PathBuf> {
    let of_all = service.check.as_ref().and_then(|spec| spec.check.as_ref());
    let channels = service.groups.iter().flat_map(|group| &group.members);
    let own = channels.filter_map(|member| match member {
        Member::Channel(ChannelSpec { manner, .. }) => match &manner.check {
            ChannelCheck::Own(check) => Some(check),
            ChannelCheck::AsService | ChannelCheck::Never => None,
        },
        Member::Gap => None,
    });
    let checks = of_all.into_iter().chain(own).filter_map(|check| match check {
        Check::Exec(path) => Some(path.clone()),
        _ => None,
    });
    checks.chain(service.on_change.iter().map(|named| PathBuf::from(&named.name))).collect()
}

/// A failure about a word. For a word in a file, it names the place and has the exit code for files.
pub(super) fn failure(typed: &Typed, code: u8, text: &str) -> Failure {
    match &typed.at {
        Some(at) => Failure::new(exit::CONFIG, format!("{at}: {text}")),
        None => Failure::new(code, format!("balance: {text}")),
    }
}
