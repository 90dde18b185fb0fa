//! Which privileges the process has given up, described for operators.
//!
//! Knows: what was asked for, what the system says of the process. Never: how privileges are given up.
//! Source: docs/systemd.md, "Without root".

use crate::control::PrivilegeSigns;
use crate::process::{FenceState, Privileges};
use crate::spec::ProcessSpec;

/// CAP_NET_BIND_SERVICE: may bind ports below 1024.
const NET_BIND_SERVICE: u32 = 10;
/// CAP_NET_ADMIN: may use clients' addresses.
const NET_ADMIN: u32 = 12;
/// The hint if Landlock refuses a file that was not known at the start.
const FENCED: &str = "--landlock: balance can open only files in the directories that it was started with; put it into one of these, or restart balance";

/// The hint to add to a message about a file, if Landlock may be the cause.
pub(super) fn hint(message: &str) -> Option<&'static str> {
    let is_fenced = FenceState::now().is_some_and(FenceState::holds);
    (is_fenced && message.contains("Permission denied")).then_some(FENCED)
}

/// The state of the privileges for `doctor`. `None`: nothing was asked for.
pub(super) fn signs(settings: &ProcessSpec) -> Option<PrivilegeSigns> {
    if settings.user.is_none() && !settings.is_fenced() {
        return None;
    }
    let now = Privileges::now();
    let fence = FenceState::now().filter(|state| state.holds());
    let mut holds = vec![format!("user {}", now.user)];
    let mut lacks = Vec::new();
    if now.no_new_privileges {
        holds.push("no new privileges".to_owned());
    }
    match now.capabilities.as_slice() {
        [] => holds.push("no capabilities".to_owned()),
        [NET_BIND_SERVICE] => holds.push("capability net_bind_service alone".to_owned()),
        [NET_ADMIN] => holds.push("capability net_admin alone".to_owned()),
        [NET_BIND_SERVICE, NET_ADMIN] => {
            holds.push("capabilities net_bind_service and net_admin (for --transparent) alone".to_owned());
        }
        more => holds.push(format!("{} capabilities", more.len())),
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
    if settings.user.is_some() && !now.no_new_privileges && cfg!(target_os = "linux") {
        lacks.push((
            "programs that balance starts can gain privileges".to_owned(),
            "--user is there to prevent that".to_owned(),
            "restart balance".to_owned(),
        ));
    }
    Some(PrivilegeSigns { holds: holds.join(", "), lacks })
}
