//! What a start would refuse beside words and names that mean nothing, found out without taking anything.
//!
//! Knows: what the system is asked for, how it is told that it has it not. Never: ports, files of services, how a check is run.
//! Source: docs/file.md, "When something is wrong".

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::Path;

use super::{Failure, exit};
use crate::control;
use crate::spec::{Check, CheckSpec, ProcessSpec, ServiceSpec, Typed};
use crate::sys::socket;

/// What the process is asked for and this system lacks.
pub(super) fn settings(process: &ProcessSpec) -> Vec<Failure> {
    let mut all = Vec::new();
    if let Some(group) = process.control_group.as_ref().filter(|group| !control::is_group(&group.name)) {
        let text = format!("--control-group: unknown group {:?}", group.name);
        all.push(failure(&group.typed, exit::BAD_DATA, &text));
    }
    if let Some(named) = &process.loopback_congestion
        && let Err(e) = socket::offers_congestion(&named.name)
    {
        let text = format!("--loopback-congestion {}: {e}", named.name);
        all.push(failure(&named.typed, exit::OS, &text));
    }
    all
}

/// The programs of checks that cannot be run, each once for each word that names it.
pub(super) fn programs(services: &[ServiceSpec]) -> Vec<Failure> {
    let mut told = HashSet::new();
    let checks = services.iter().filter_map(|service| service.check.as_ref());
    let failures =
        checks.filter_map(|check| Some(failure(&check.typed, exit::BAD_DATA, &why_no_program(check)?)));
    failures.filter(|failure| told.insert(failure.message.clone())).collect()
}

/// Why the program of a check cannot be run, if the check has one and it cannot be.
pub(super) fn why_no_program(check: &CheckSpec) -> Option<String> {
    let Check::Exec(path) = &check.check else { return None };
    let error = is_program(path).err()?;
    Some(format!("--check: cannot run {}: {error}", path.display()))
}

fn is_program(path: &Path) -> io::Result<()> {
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is not a file"));
    }
    Ok(rustix::fs::access(path, rustix::fs::Access::EXEC_OK)?)
}

/// Of a word of a file with its place, and by the code of files.
fn failure(typed: &Typed, code: u8, text: &str) -> Failure {
    match &typed.at {
        Some(at) => Failure::new(exit::CONFIG, format!("{at}: {text}")),
        None => Failure::new(code, format!("balance: {text}")),
    }
}
