//! Which privileges the process has given up, described for operators.
//!
//! Knows: what was asked for, what the system says of the process. Never: how privileges are given up.
//! Source: docs/systemd.md, "Without root".

use crate::control::PrivilegeSigns;
use crate::observe::{Event, Log, Severity};
use crate::process::{FenceState, Privileges};
use crate::spec::ProcessSpec;

/// May bind ports below 1024.
const NET_BIND_SERVICE: &str = "net_bind_service";
/// May use clients' addresses.
const NET_ADMIN: &str = "net_admin";
/// Maximum number of capabilities that a message names.
const MOST_NAMED: usize = 4;
/// Logs what the system refused when the process gave its privileges up.
pub(super) fn tell_refused(log: &Log) {
    for what in Privileges::now().refused {
        let text = format!("--user: the system does not let balance give up all privileges: {what}");
        log.tell(&Event::Note { severity: Severity::Warning, text });
    }
}

/// The state of the privileges for `doctor`. `None`: nothing was asked for. `takes_addresses`: a service has
/// `--transparent`.
pub(super) fn signs(settings: &ProcessSpec, takes_addresses: bool) -> Option<PrivilegeSigns> {
    if settings.user.is_none() && !settings.is_fenced() {
        return None;
    }
    let now = Privileges::now();
    let fence = FenceState::now().filter(|state| state.holds());
    let mut holds = vec![format!("user {}", now.user)];
    let mut lacks = Vec::new();
    if now.no_new_privileges == Some(true) {
        holds.push("no new privileges".to_owned());
    }
    if let Some(capabilities) = &now.capabilities {
        let names: Vec<&str> = capabilities.iter().map(String::as_str).collect();
        holds.push(match names.as_slice() {
            [] => "no capabilities".to_owned(),
            [one] => format!("capability {one} alone"),
            [NET_BIND_SERVICE, NET_ADMIN] if takes_addresses => {
                "capabilities net_bind_service and net_admin (for --transparent) alone".to_owned()
            }
            [first, second] => format!("capabilities {first} and {second} alone"),
            more => format!("{} capabilities", more.len()),
        });
        let is_needed = |name: &&str| *name == NET_BIND_SERVICE || (*name == NET_ADMIN && takes_addresses);
        let more: Vec<&str> = names.into_iter().filter(|name| !is_needed(name)).collect();
        if settings.user.is_some() && !more.is_empty() {
            lacks.push(too_many(&more, !now.refused.is_empty()));
        }
    }
    if now.core_files_off {
        holds.push("core files off".to_owned());
    }
    match fence {
        Some(FenceState::InPart) => holds.push("Landlock in part".to_owned()),
        Some(_) => holds.push("Landlock".to_owned()),
        None if settings.is_fenced() => lacks.push((
            "this kernel has no Landlock, or refuses it".to_owned(),
            "balance can open every file that its user may open".to_owned(),
            "a kernel from 5.13 on, without an lsm= in its command line that leaves landlock out".to_owned(),
        )),
        None => holds.push("no Landlock".to_owned()),
    }
    if settings.user.is_some() && now.no_new_privileges == Some(false) {
        lacks.push((
            "programs that balance starts can gain privileges".to_owned(),
            "--user is there to prevent that".to_owned(),
            "restart balance".to_owned(),
        ));
    }
    Some(PrivilegeSigns { holds: holds.join(", "), lacks })
}

/// The finding about capabilities that nothing needs.
fn too_many(names: &[&str], was_refused: bool) -> (String, String, String) {
    let shown = match names.split_at_checked(MOST_NAMED) {
        Some((first, more)) if !more.is_empty() => format!("{} and {} more", first.join(", "), more.len()),
        _ => names.join(", "),
    };
    let cure = if was_refused {
        let list: Vec<String> =
            names.iter().take(MOST_NAMED).map(|name| format!("CAP_{}", name.to_ascii_uppercase())).collect();
        format!(
            "the system refused to take them away: allow capset (SystemCallFilter=capset in the unit), or start balance without them \
             (leave {} out of AmbientCapabilities=), then restart it",
            list.join(" ")
        )
    } else {
        format!("balance -c upgrade process.{}", std::process::id())
    };
    (
        format!("balance has capabilities that it does not need: {shown}"),
        "--user is there to give them up".to_owned(),
        cure,
    )
}
