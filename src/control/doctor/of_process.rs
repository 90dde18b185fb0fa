//! Problems of the process: descriptors, clocks, log, program file, control socket.
//!
//! Knows: signs. Never: where they come from.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use super::finding::Finding;
use super::of_service::{LANDLOCK, counted};
use super::signs::{Case, ServiceSigns};
use crate::sched::AdminState;

/// Room for fewer clients than this is little for a server.
const FEW_CLIENTS: u64 = 500;
/// If less than this percentage of the room is free, clients may soon have to wait.
const LITTLE_FREE: u64 = 10;
/// Smaller steps of the wall clock, in milliseconds, are usual corrections.
const STEP_MILLIS: i64 = 2_000;

/// The maximum number of clients of a service; `None`: nothing limits it.
fn most_clients(service: &ServiceSigns) -> Option<u64> {
    if service.is_draining {
        return Some(service.connections as u64);
    }
    let channels = service.table.groups.iter().flat_map(|group| &group.channels);
    let enabled = channels.filter(|one| one.state == AdminState::Enabled);
    let maxc = enabled.map(|one| one.maxc.map(|maxc| u64::from(maxc.get()))).sum::<Option<u64>>();
    let limit = service.spec.max_connections.map(|limit| u64::from(limit.get()));
    match (maxc, limit) {
        (Some(maxc), Some(limit)) => Some(maxc.min(limit)),
        (maxc, limit) => maxc.or(limit),
    }
}

pub(super) fn descriptors(case: &Case) -> Vec<Finding> {
    let (Some(limit), Some(free)) = (case.process.descriptor_limit, case.process.descriptors_free) else {
        return Vec::new();
    };
    if !case.is_serving {
        return Vec::new();
    }
    let clients: usize = case.services.iter().map(|service| service.connections).sum();
    let room = clients as u64 + free / 2;
    let raise = |clients: u64| {
        let files = (limit.saturating_sub(room * 2) + clients * 2).next_multiple_of(1_024);
        format!("ulimit -n {files} before the start, or LimitNOFILE={files} in the unit")
    };
    let used = format!("{} of {limit} descriptors are left with {}", free, counted(clients, "client"));
    if free < 2 {
        return vec![Finding::broken(
            used,
            "each client needs two, and new clients wait until others have gone",
            raise(room.max(FEW_CLIENTS) * 4),
        )];
    }
    if clients > 0 && free / 2 * 100 < room * LITTLE_FREE {
        return vec![Finding::advice(
            used,
            format!("there is room for {} more, then new clients wait", free / 2),
            raise(room.max(FEW_CLIENTS) * 4),
        )];
    }
    let wanted: Option<u64> = case.services.iter().map(most_clients).sum();
    match wanted {
        Some(wanted) if wanted > room => vec![Finding::advice(
            format!(
                "maxc and --max-connections allow {wanted} clients, and {limit} descriptors are enough for {room}"
            ),
            "the limits that you have set are never reached: before that, new clients wait for a descriptor",
            raise(wanted),
        )],
        None if room < FEW_CLIENTS => vec![Finding::advice(
            format!("{limit} descriptors are enough for {room} clients"),
            "nothing else limits them, and more wait until others have gone",
            raise(FEW_CLIENTS * 4),
        )],
        _ => Vec::new(),
    }
}

pub(super) fn clock(case: &Case) -> Vec<Finding> {
    let clocks = case.process.clocks;
    let mut findings = Vec::new();
    // The wall clock goes on while the machine is suspended, so that time is no step.
    let stepped = clocks.stepped_millis - i64::try_from(clocks.suspended.as_millis()).unwrap_or(i64::MAX);
    if stepped.abs() >= STEP_MILLIS {
        let way = if stepped > 0 { "forward" } else { "back" };
        findings.push(Finding::advice(
            format!("the wall clock was set {way} by {:.1} s since balance serves", stepped.abs() as f64 / 1_000.0),
            "no timeout of balance depends on it, but the times in logs and events before and after do not fit together",
            "chronyc tracking (or timedatectl), and let NTP correct the clock in small steps",
        ));
    }
    if clocks.suspended.as_millis() >= STEP_MILLIS.unsigned_abs().into() {
        findings.push(Finding::advice(
            format!(
                "the machine was suspended for {:.1} s since balance serves",
                clocks.suspended.as_secs_f64()
            ),
            "clients and servers have closed connections meanwhile, or have given them up",
            "systemctl mask sleep.target suspend.target hibernate.target",
        ));
    }
    findings
}

pub(super) fn pauses(case: &Case) -> Vec<Finding> {
    let clocks = case.process.clocks;
    if clocks.pauses == 0 {
        return Vec::new();
    }
    vec![Finding::advice(
        format!(
            "balance could not run for more than a second {} since it serves, at most for {:.1} s",
            if clocks.pauses == 1 { "once".to_owned() } else { format!("{} times", clocks.pauses) },
            clocks.longest_pause.as_secs_f64()
        ),
        "all clients waited meanwhile: it was stopped (SIGSTOP, a debugger, a paused virtual machine), or other programs had all processors",
        "vmstat 1 (columns st and r), and dmesg for a host that is out of memory",
    )]
}

pub(super) fn privileges(case: &Case) -> Vec<Finding> {
    let lacks = case.process.privileges.iter().flat_map(|signs| &signs.lacks);
    lacks.map(|(found, why, cure)| Finding::advice(found, why, cure)).collect()
}

pub(super) fn log(case: &Case) -> Vec<Finding> {
    let events = || case.command("events 1000");
    let mut found = Vec::new();
    match case.process.dropped_lines {
        0 => {}
        lines => {
            let (why, cure) = match case.process.logs_to_syslog {
                true => (
                    "no syslog daemon takes them from /dev/log",
                    "install one, such as rsyslog, or start it again",
                ),
                false => (
                    "the reader of stderr does not read",
                    "type Ctrl-Q in the terminal of balance, or restart the log's reader",
                ),
            };
            found.push(Finding::advice(
                format!("the log has lost {}", counted(lines, "line")),
                why,
                format!("{cure}; until then read the last events with {}", events()),
            ));
        }
    }
    let lost = case.process.access_lines_dropped;
    match (lost, &case.process.access_trouble) {
        (_, Some(why)) => found.push(Finding::broken(
            format!("the access log cannot be written: {why}"),
            format!("it lacks clients; {} lost so far", counted(lost, "line")),
            cure(why, "correct that, then type reopen"),
        )),
        (0, None) => {}
        (lines, None) => found.push(Finding::advice(
            format!("the access log has lost {}", counted(lines, "line")),
            "its disk is full or too slow, or its reader does not read",
            format!("df shows the disk; the events access_lines_dropped say why and when: {}", events()),
        )),
    }
    found
}

pub(super) fn state(case: &Case) -> Vec<Finding> {
    let finding = |why: &String| {
        Finding::broken(
            format!("the file of --state cannot be written: {why}"),
            "the next start knows nothing of what operators have changed since then",
            cure(why, "correct that; balance tries again by itself"),
        )
    };
    case.process.state_trouble.iter().map(finding).collect()
}

/// What to do if a file cannot be used for this reason.
fn cure(why: &str, usual: &str) -> String {
    let is_fenced = why.contains(LANDLOCK);
    if is_fenced { "restart balance, since Landlock closes that file off" } else { usual }.to_owned()
}

pub(super) fn program(case: &Case) -> Vec<Finding> {
    // A process that only serves its last connections is meant to stay the old program.
    if !case.kernel.is_program_gone || !case.is_serving {
        return Vec::new();
    }
    vec![Finding::advice(
        "the file of the program that runs was replaced or deleted",
        "this process is not the version that a restart would run, and lacks its fixes",
        case.command("upgrade"),
    )]
}

pub(super) fn socket(case: &Case) -> Vec<Finding> {
    let mut findings = Vec::new();
    for socket in &case.sockets {
        let path = &socket.path;
        let expected = if socket.group_named { 0o660 } else { 0o600 };
        match socket.mode {
            None => findings.push(Finding::broken(
                format!("{path} is gone, or is not the control socket of this process any more"),
                "commands for it reach no process, or another one",
                match case.is_serving {
                    true => format!("keep cleaners (systemd-tmpfiles, tmpreaper) away from it, then {}", case.command("upgrade")),
                    false => "keep cleaners (systemd-tmpfiles, tmpreaper) away from it".to_owned(),
                },
            )),
            Some(mode) if socket.group_named && mode & 0o007 != 0 => findings.push(Finding::broken(
                format!("{path} has mode {mode:04o}, and with --control-group its mode decides who may control balance"),
                "every user of this host has full control",
                format!("chmod 0660 {path}"),
            )),
            Some(mode) if mode & expected != expected => findings.push(Finding::advice(
                format!("{path} has mode {mode:04o}, and balance has made it with {expected:04o}"),
                "users who should control balance cannot connect",
                format!("chmod {expected:04o} {path}"),
            )),
            Some(_) => findings.extend(socket.ungrouped.as_ref().map(|cause| {
                Finding::advice(
                    format!("the members of --control-group cannot give commands: {cause}"),
                    "the user of balance is not in the group, and so may not give it the control socket",
                    "make the user a member of the group, and restart balance",
                )
            })),
        }
    }
    // All paths are names of one socket, so one finding is enough.
    findings.truncate(1);
    findings
}
