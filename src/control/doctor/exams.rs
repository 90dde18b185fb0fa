//! The table of checks. A new check is a row here.
//!
//! Knows: all checks. Never: what any of them finds, where the signs come from.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use super::finding::{Diagnosis, Finding};
use super::signs::Case;
use super::{of_host, of_network, of_process, of_service};

/// One check.
pub(super) struct Exam {
    /// Its name in answers. It never changes, because scripts look for it.
    pub(super) name: &'static str,
    /// The check itself; no finding means that all is well.
    look: fn(&Case) -> Vec<Finding>,
}

const fn exam(name: &'static str, look: fn(&Case) -> Vec<Finding>) -> Exam {
    Exam { name, look }
}

/// All checks.
pub(super) const EXAMS: &[Exam] = &[
    exam("groups", of_service::groups),
    exam("channels", of_service::channels),
    exam("slow-connects", of_service::slow_connects),
    exam("names", of_service::names),
    exam("circles", of_service::circles),
    exam("lists", of_service::lists),
    exam("full", of_service::full),
    exam("greetings", of_service::greetings),
    exam("limit", of_service::limit),
    exam("keepalive", of_service::keepalive),
    exam("descriptors", of_process::descriptors),
    exam("system-files", of_host::files),
    exam("source-addresses", of_network::source_addresses),
    exam("transparent", of_network::transparent),
    exam("source-ports", of_network::source_ports),
    exam("listen-port", of_network::listen_port),
    exam("not-listening", of_network::not_listening),
    exam("socket-file", of_network::socket_file),
    exam("socket-permissions", of_network::socket_permissions),
    exam("shared-port", of_network::shared_port),
    exam("backlog", of_network::backlog),
    exam("tcp-memory", of_network::memory),
    exam("orphans", of_network::orphans),
    exam("time-wait", of_network::time_wait),
    exam("conntrack", of_network::conntrack),
    exam("congestion", of_network::congestion),
    exam("clock", of_process::clock),
    exam("pauses", of_process::pauses),
    exam("cpu-limit", of_host::cpu),
    exam("memory-limit", of_host::memory),
    exam("swap", of_host::swap),
    exam("log", of_process::log),
    exam("state-file", of_process::state),
    exam("program", of_process::program),
    exam("privileges", of_process::privileges),
    exam("control-socket", of_process::socket),
];

/// Runs all checks. The findings are sorted, the worst first.
pub(super) fn diagnose(case: &Case) -> Diagnosis {
    let look = |exam: &'static Exam| {
        (exam.look)(case).into_iter().map(|found| Finding { check: exam.name, ..found })
    };
    let mut findings: Vec<Finding> = EXAMS.iter().flat_map(look).collect();
    let holds = case.process.privileges.as_ref().map(|signs| signs.holds.clone());
    findings.sort_by_key(|one| std::cmp::Reverse(one.gravity));
    Diagnosis { checks: EXAMS.len(), services: case.services.len(), findings, holds }
}
