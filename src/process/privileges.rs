//! Gives up privileges that the process does not need: root, capabilities, new privileges.
//!
//! Knows: users and groups of the system, capabilities(7), prctl(2). Never: which ports and files are needed,
//! when this is done.
//! Source: docs/systemd.md, "Without root".

use std::ffi::CStr;
use std::fmt;
use std::io;
use std::sync::OnceLock;

use nix::unistd::{Gid, Group, Uid, User};
use rustix::process::{Resource, getrlimit};

/// What the system refused when the process gave its privileges up.
static REFUSED: OnceLock<Vec<String>> = OnceLock::new();

/// A user that the process is to run as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    uid: Uid,
    gid: Gid,
    /// The user's name. `None`: it is a number that the user database does not have.
    name: Option<String>,
}

/// Why the process cannot run as this user.
#[derive(Debug, thiserror::Error)]
pub enum AccountError {
    /// The user does not exist.
    #[error("unknown user {0:?}")]
    NoUser(String),
    /// The group does not exist.
    #[error("unknown group {0:?}")]
    NoGroup(String),
    /// A user ID was given that the user database does not have, and no group.
    #[error("the system does not know user {0}: say which group, such as {0}:{0}")]
    WhichGroup(String),
    /// Only root may become another user.
    #[error("this process runs as {is}, and only root can become another user")]
    NotRoot {
        /// The user the process runs as.
        is: String,
    },
    /// The system refused.
    #[error("{call}: {source}")]
    Refused {
        /// The call that failed.
        call: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

impl Account {
    /// Finds the user given as `NAME` or `NAME:GROUP`; numbers may stand in place of names.
    ///
    /// # Errors
    /// The user or group does not exist, or the group is not known.
    pub fn find(word: &str) -> Result<Self, AccountError> {
        let (user, group) = match word.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (word, None),
        };
        let number = id(user).map(Uid::from_raw);
        let known = User::from_name(user).ok().flatten();
        let known = known.or_else(|| number.and_then(|uid| User::from_uid(uid).ok().flatten()));
        let Some(uid) = known.as_ref().map(|known| known.uid).or(number) else {
            return Err(AccountError::NoUser(user.to_owned()));
        };
        let gid = match group {
            Some(group) => {
                let known = Group::from_name(group).ok().flatten().map(|known| known.gid);
                let found = known.or_else(|| id(group).map(Gid::from_raw));
                found.ok_or_else(|| AccountError::NoGroup(group.to_owned()))?
            }
            None => known
                .as_ref()
                .map(|known| known.gid)
                .ok_or_else(|| AccountError::WhichGroup(user.to_owned()))?,
        };
        Ok(Self { uid, gid, name: known.map(|known| known.name) })
    }

    /// Does the process already run as this user?
    pub fn is_own(&self) -> bool {
        Uid::effective() == self.uid && Uid::current() == self.uid
    }

    /// Checks whether the process could become this user.
    ///
    /// # Errors
    /// It is not root.
    pub fn is_in_reach(&self) -> Result<(), AccountError> {
        if self.is_own() || Uid::effective().is_root() {
            return Ok(());
        }
        let own = Uid::effective();
        let name = User::from_uid(own).ok().flatten().map_or_else(|| format!("user {own}"), |user| user.name);
        Err(AccountError::NotRoot { is: name })
    }

    /// Makes the process run as this user, for good. It keeps the right to bind ports below 1024, if it had
    /// it, because a reload may need one. With `takes_addresses` it also keeps the right to use other hosts'
    /// addresses, which is part of CAP_NET_ADMIN. From now on no program that it starts can gain more
    /// privileges than it has itself.
    ///
    /// If the system refuses to take privileges away, the process goes on with them, as this user:
    /// [`Privileges`] has what was refused.
    ///
    /// Call it before the first thread is started: capabilities belong to threads.
    ///
    /// # Errors
    /// It may not become this user. The process is then in an intermediate state and must end.
    pub fn assume(&self, takes_addresses: bool) -> Result<(), AccountError> {
        self.is_in_reach()?;
        let refused = |call| move |source: nix::Error| AccountError::Refused { call, source: source.into() };
        let was_own = self.is_own();
        let mut missed = linux::before(self.uid.is_root(), !was_own, takes_addresses);
        if !was_own || Uid::effective().is_root() {
            match self.set_groups() {
                Ok(()) => {}
                // The user is the same as before, and may have had these groups before.
                Err(e) if was_own => missed
                    .push(format!("balance stays in its other groups (setgroups: {})", io::Error::from(e))),
                Err(e) => return Err(refused("setgroups")(e)),
            }
            if !has_gid(self.gid) {
                set_gid(self.gid).map_err(refused("setresgid"))?;
            }
            if !has_uid(self.uid) {
                set_uid(self.uid).map_err(refused("setresuid"))?;
            }
        }
        missed.extend(linux::after(takes_addresses));
        let _ = REFUSED.set(missed);
        Ok(())
    }

    /// Gives the process the user's groups and no others. Calls nothing if it has them: the system may refuse
    /// the call although it would change nothing.
    fn set_groups(&self) -> nix::Result<()> {
        let name = self.name.as_ref().and_then(|name| std::ffi::CString::new(name.as_str()).ok());
        match (groups_of(name.as_deref(), self.gid), groups_now()) {
            (Ok(mut wanted), Ok(mut now)) => {
                wanted.sort_unstable_by_key(|gid| gid.as_raw());
                // The list may leave the process's own group out.
                now.push(Gid::effective());
                now.sort_unstable_by_key(|gid| gid.as_raw());
                now.dedup();
                wanted.dedup();
                if now == wanted { Ok(()) } else { set_groups(name.as_deref(), self.gid) }
            }
            _ => set_groups(name.as_deref(), self.gid),
        }
    }
}

/// The ID of a user or group that was given as a number. The greatest number is none: where it is given as an ID,
/// the system changes nothing, and the process would stay root.
fn id(word: &str) -> Option<u32> {
    word.parse().ok().filter(|&id| id != u32::MAX)
}

#[cfg(not(target_vendor = "apple"))]
fn set_groups(name: Option<&CStr>, gid: Gid) -> nix::Result<()> {
    match name {
        Some(name) => nix::unistd::initgroups(name, gid),
        None => nix::unistd::setgroups(&[gid]),
    }
}

#[cfg(not(target_vendor = "apple"))]
fn groups_of(name: Option<&CStr>, gid: Gid) -> nix::Result<Vec<Gid>> {
    name.map_or_else(|| Ok(vec![gid]), |name| nix::unistd::getgrouplist(name, gid))
}

#[cfg(not(target_vendor = "apple"))]
fn groups_now() -> nix::Result<Vec<Gid>> {
    nix::unistd::getgroups()
}

#[cfg(target_vendor = "apple")]
fn set_groups(_: Option<&CStr>, _: Gid) -> nix::Result<()> {
    Ok(())
}

#[cfg(target_vendor = "apple")]
fn groups_of(_: Option<&CStr>, gid: Gid) -> nix::Result<Vec<Gid>> {
    Ok(vec![gid])
}

#[cfg(target_vendor = "apple")]
fn groups_now() -> nix::Result<Vec<Gid>> {
    Ok(Vec::new())
}

/// Has the process this group alone, with no other one to return to?
#[cfg(any(target_os = "linux", target_os = "freebsd", target_os = "openbsd"))]
fn has_gid(gid: Gid) -> bool {
    nix::unistd::getresgid()
        .is_ok_and(|now| [now.real, now.effective, now.saved].iter().all(|one| *one == gid))
}

/// Has the process this user alone, with no other one to return to?
#[cfg(any(target_os = "linux", target_os = "freebsd", target_os = "openbsd"))]
fn has_uid(uid: Uid) -> bool {
    nix::unistd::getresuid()
        .is_ok_and(|now| [now.real, now.effective, now.saved].iter().all(|one| *one == uid))
}

#[cfg(not(any(target_os = "linux", target_os = "freebsd", target_os = "openbsd")))]
fn has_gid(_: Gid) -> bool {
    false
}

#[cfg(not(any(target_os = "linux", target_os = "freebsd", target_os = "openbsd")))]
fn has_uid(_: Uid) -> bool {
    false
}

#[cfg(any(target_os = "linux", target_os = "freebsd", target_os = "openbsd"))]
fn set_gid(gid: Gid) -> nix::Result<()> {
    nix::unistd::setresgid(gid, gid, gid)
}

#[cfg(any(target_os = "linux", target_os = "freebsd", target_os = "openbsd"))]
fn set_uid(uid: Uid) -> nix::Result<()> {
    nix::unistd::setresuid(uid, uid, uid)
}

#[cfg(not(any(target_os = "linux", target_os = "freebsd", target_os = "openbsd")))]
fn set_gid(gid: Gid) -> nix::Result<()> {
    nix::unistd::setgid(gid)
}

#[cfg(not(any(target_os = "linux", target_os = "freebsd", target_os = "openbsd")))]
fn set_uid(uid: Uid) -> nix::Result<()> {
    nix::unistd::setuid(uid)
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => f.write_str(name),
            None => self.uid.fmt(f),
        }
    }
}

#[cfg(target_os = "linux")]
mod linux {
    use std::io;

    use rustix::io::Errno;
    use rustix::thread::{
        self, CapabilitiesSecureBits, CapabilitySet, CapabilitySets, capabilities, set_capabilities,
    };

    /// The capabilities that a reload and connections need.
    fn kept(takes_addresses: bool) -> CapabilitySet {
        let more = if takes_addresses { CapabilitySet::NET_ADMIN } else { CapabilitySet::empty() };
        CapabilitySet::NET_BIND_SERVICE | more
    }

    /// The steps that need the privileges of the start. Returns those that were refused.
    pub(super) fn before(is_root: bool, changes_user: bool, takes_addresses: bool) -> Vec<String> {
        let has = match capabilities(None) {
            Ok(has) => has,
            Err(e) => return vec![refusal("the capabilities are not known", "capget", e)],
        };
        let kept = kept(takes_addresses);
        let mut missed = Vec::new();
        if has.effective.contains(CapabilitySet::SETPCAP) {
            for one in CapabilitySet::all().iter().filter(|one| !kept.contains(*one)) {
                // An older kernel does not have every capability.
                if thread::capability_is_in_bounding_set(one).unwrap_or(false)
                    && let Err(e) = thread::remove_capability_from_bounding_set(one)
                {
                    missed.push(refusal("the bounding set of capabilities stays as it is", "prctl", e));
                    break;
                }
            }
            if is_root {
                // Otherwise exec would give root everything in the bounding set.
                let bits = thread::capabilities_secure_bits().and_then(|bits| {
                    thread::set_capabilities_secure_bits(bits | CapabilitiesSecureBits::NO_ROOT)
                });
                missed
                    .extend(bits.err().map(|e| refusal("programs of root get all capabilities", "prctl", e)));
            }
        }
        if changes_user {
            // If capabilities cannot be dropped one by one later, the change of user has to drop all of them.
            let keeps = set_capabilities(None, has).map_err(|e| ("capset", e));
            let keeps = keeps.and_then(|()| thread::set_keep_capabilities(true).map_err(|e| ("prctl", e)));
            if let Err((call, e)) = keeps {
                missed.push(refusal("balance may not listen on ports below 1024", call, e));
            }
        }
        missed
    }

    /// The steps for the user that the process runs as now, and for its successor. Returns those that were
    /// refused.
    pub(super) fn after(takes_addresses: bool) -> Vec<String> {
        let mut missed = Vec::new();
        match capabilities(None) {
            Ok(has) => limit(has, kept(takes_addresses), &mut missed),
            Err(e) => missed.push(refusal("the capabilities are not known", "capget", e)),
        }
        let no_new = thread::set_no_new_privs(true);
        missed.extend(
            no_new.err().map(|e| refusal("programs that balance starts can gain privileges", "prctl", e)),
        );
        // The kernel makes /proc/PID root's after a change of user; the process belongs to its own user by
        // now. A limit forbids core files.
        if let Err(e) = nix::sys::prctl::set_dumpable(true) {
            missed.push(format!(
                "the files of balance in /proc belong to root (prctl: {})",
                io::Error::from(e)
            ));
        }
        missed
    }

    /// Gives up all capabilities but these, as far as possible.
    fn limit(has: CapabilitySets, kept: CapabilitySet, missed: &mut Vec<String>) {
        let kept = has.permitted & kept;
        let wanted = CapabilitySets { effective: kept, permitted: kept, inheritable: kept };
        // The call may be forbidden if a service manager has already set the capabilities.
        if has != wanted
            && let Err(e) = set_capabilities(None, wanted)
        {
            let more = has.permitted & !kept;
            let names = more.iter().map(name).collect::<Vec<_>>().join(", ");
            if more.is_empty() {
                missed.push(refusal("the capabilities stay as they are", "capset", e));
            } else {
                missed.push(refusal(&format!("balance keeps {names}"), "capset", e));
            }
        }
        for one in CapabilitySet::all().iter() {
            // The successor needs those that are kept, and nobody needs the others.
            let is_kept = kept.contains(one);
            let is_set = thread::capability_is_in_ambient_set(one).unwrap_or(false);
            if is_kept != is_set
                && let Err(e) = thread::configure_capability_in_ambient_set(one, is_kept)
            {
                let what = if is_kept {
                    "an upgrade loses the right to listen on ports below 1024"
                } else {
                    "an upgrade keeps all these capabilities"
                };
                missed.push(refusal(what, "prctl", e));
                break;
            }
        }
    }

    pub(super) fn no_new_privileges() -> Option<bool> {
        thread::no_new_privs().ok()
    }

    pub(super) fn capabilities_now() -> Option<Vec<String>> {
        let has = capabilities(None).ok()?;
        Some((has.permitted | has.effective).iter().map(name).collect())
    }

    fn name(one: CapabilitySet) -> String {
        let named = one.iter_names().next().map(|(name, _)| name.to_ascii_lowercase());
        named.unwrap_or_else(|| one.bits().trailing_zeros().to_string())
    }

    fn refusal(what: &str, call: &str, error: Errno) -> String {
        format!("{what} ({call}: {})", io::Error::from(error))
    }
}

#[cfg(not(target_os = "linux"))]
mod linux {
    pub(super) fn before(_: bool, _: bool, _: bool) -> Vec<String> {
        Vec::new()
    }

    pub(super) fn after(_: bool) -> Vec<String> {
        Vec::new()
    }

    pub(super) fn no_new_privileges() -> Option<bool> {
        None
    }

    pub(super) fn capabilities_now() -> Option<Vec<String>> {
        None
    }
}

/// The privileges that are in force. The kernel is asked itself: there may be no /proc.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Privileges {
    /// The user's name or number.
    pub user: String,
    /// Programs that it starts cannot gain more privileges than it has; `None`: not known.
    pub no_new_privileges: Option<bool>,
    /// Its capabilities, as in `net_admin`; `None`: not known.
    pub capabilities: Option<Vec<String>>,
    /// It writes no core files.
    pub core_files_off: bool,
    /// What the system refused when the process gave its privileges up.
    pub refused: &'static [String],
}

impl Privileges {
    /// The privileges of this process.
    pub fn now() -> Self {
        let uid = Uid::effective();
        let name = User::from_uid(uid).ok().flatten().map(|user| user.name);
        Self {
            user: name.unwrap_or_else(|| uid.to_string()),
            no_new_privileges: linux::no_new_privileges(),
            capabilities: linux::capabilities_now(),
            core_files_off: getrlimit(Resource::Core).current.is_some_and(|bytes| bytes <= 1),
            refused: REFUSED.get().map_or(&[], Vec::as_slice),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_found_by_name_and_by_number() {
        let root = Account::find("root").expect("every system has it");
        assert_eq!((root.uid.as_raw(), root.gid.as_raw(), root.to_string()), (0, 0, "root".to_owned()));
        assert_eq!(Account::find("0").expect("root"), root);
        let stranger = Account::find("54321:54322").expect("a number needs no name");
        assert_eq!((stranger.uid.as_raw(), stranger.gid.as_raw()), (54_321, 54_322));
        assert_eq!(stranger.to_string(), "54321");
        let why = |word| Account::find(word).expect_err("there is none").to_string();
        assert_eq!(why("no-such-user"), "unknown user \"no-such-user\"");
        assert_eq!(why("root:no-such-group"), "unknown group \"no-such-group\"");
        assert_eq!(why("4294967295:0"), "unknown user \"4294967295\"", "it would stay root");
        assert_eq!(why("0:4294967295"), "unknown group \"4294967295\"");
        assert_eq!(why("54321"), "the system does not know user 54321: say which group, such as 54321:54321");
    }
}
