//! `--replace`: takes ports over from running instances.
//!
//! Knows: who has which port, what of it can be had. Never: the order of a handover, how a service is made.
//! Source: docs/upgrade.md, "--replace".

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::thread;

use super::environment::{self, Environment};
use super::heir::{Heir, span_of};
use super::lookup::Resolved;
use super::prepared::{self, BIND_PATIENCE, BIND_RETRY};
use super::{Failure, exit};
use crate::spec::{ListenSpan, ServiceSpec};

/// What to do about a port that another instance of ours has; `None`: it is not ours. `is_asked`: `--replace`
/// was given.
pub(super) fn advice(wanted: &[ListenSpan], is_asked: bool, environment: &Environment) -> Option<String> {
    wanted.iter().find_map(|&span| {
        if !is_asked && let Some((place, pid)) = environment::holder(span, environment) {
            return Some(format!("balance: process {pid} serves {place}; --replace takes the port over from it"));
        }
        let all = [IpAddr::from(Ipv4Addr::UNSPECIFIED), Ipv6Addr::UNSPECIFIED.into()];
        let all = all.into_iter().map(|ip| SocketAddr::new(ip, span.first().port()));
        let all = all.filter(|_| span.unix().is_none());
        let all = all.map(|first| ListenSpan::new(first, *span.ports().end()));
        let mut all = all.filter(|&other| other != span);
        all.find_map(|other| {
            let (other, pid) = environment::holder(other, environment)?;
            Some(format!(
                "balance: process {pid} serves {other}, and --replace takes over the same address only; stop that one first \
                 (kill {pid})"
            ))
        })
    })
}

/// Refuses to start if an instance of ours still listens on a Unix socket whose file was removed. The path
/// could be bound again, but then clients would reach one process and commands the other.
///
/// # Errors
/// There is such an instance, and it does not end within a moment.
pub(super) fn refuse_hidden(
    services: &[(ServiceSpec, Resolved)],
    environment: &Environment,
) -> Result<(), Failure> {
    let mut patience = BIND_PATIENCE;
    for (spec, found) in services {
        let span = found.span();
        if span.unix().is_none_or(|name| name.is_abstract()) {
            continue;
        }
        while let Some((place, pid)) = environment::holder(span, environment) {
            if patience.is_zero() {
                let text = format!(
                    "balance: process {pid} serves {place}; --replace takes the port over from it, and makes its file anew if it is gone"
                );
                return Err(Failure::at(&spec.listen.typed, Failure::new(exit::OS, text)));
            }
            thread::sleep(BIND_RETRY);
            patience = patience.saturating_sub(BIND_RETRY);
        }
    }
    Ok(())
}

/// Asks the instances that have the ports of these services to hand them over. If no instance has one, none
/// is asked.
///
/// # Errors
/// An instance does not hand its port over, or would lose other services as well.
pub(super) fn ask(
    services: &[(ServiceSpec, Resolved)],
    environment: &Environment,
) -> Result<Vec<Heir>, Failure> {
    // Otherwise this would fail only after the other instance has let go.
    for (spec, _) in services {
        prepared::access(spec).map_err(|e| Failure::at(&spec.listen.typed, e.into()))?;
    }
    let spans: Vec<ListenSpan> = services.iter().map(|(_, found)| found.span()).collect();
    let failed = |text: String| Err(Failure::new(exit::OS, format!("balance: --replace: {text}")));
    let mut heirs: Vec<Heir> = Vec::new();
    let wanted = spans.iter().flat_map(|&span| environment::entries_on(span, environment));
    for place in wanted {
        if heirs.iter().any(|heir| heir.services().iter().any(|one| span_of(one).contains(place))) {
            continue;
        }
        let (stream, pid) = match environment::ask_for(place, environment) {
            Ok(Some(found)) => found,
            Ok(None) => continue,
            Err(e) => {
                let why = match e.kind() {
                    ErrorKind::PermissionDenied => {
                        format!("{e}; start the new one as that user, or stop the old one first")
                    }
                    _ => format!("{e}; stop it first"),
                };
                return failed(format!("the instance on {place} cannot be asked: {why}"));
            }
        };
        let heir = match Heir::of(stream, pid) {
            Ok(heir) => heir,
            Err(Some(why)) => {
                return failed(format!("process {pid} on {place} does not hand its port over: {why}"));
            }
            Err(None) => {
                return failed(format!(
                    "process {pid} on {place} does not hand its port over. If it is being upgraded or is about to end, try again in a \
                 few seconds. If it is the first process of a container, start another container. Otherwise it is of another \
                 version: stop it first (kill {pid})"
                ));
            }
        };
        if let Some(other) =
            heir.services().iter().find(|one| !spans.iter().any(|span| span.meets(span_of(one))))
        {
            let name = other.name.clone().unwrap_or_else(|| other.place.to_string());
            return failed(format!(
                "process {pid} on {place} also serves {name}, which would end; start all its services, or use reload or upgrade"
            ));
        }
        heirs.push(heir);
    }
    if let [first, second, ..] = &heirs[..] {
        let (first, second) = (first.predecessor(), second.predecessor());
        return failed(format!(
            "the ports belong to several processes ({first}, {second}), and one start replaces one process; stop the others first \
             (kill {second})"
        ));
    }
    Ok(heirs)
}
