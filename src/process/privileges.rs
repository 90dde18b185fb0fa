//! Gives up privileges that the process does not need: root, capabilities, new privileges.
//!
//! Knows: users and groups of the system, capabilities(7), prctl(2). Never: which ports and files are needed,
//! when this is done.
//! Source: docs/systemd.md, "Without root".

use std::fmt;
use std::fs;

use nix::unistd::{Gid, Group, Uid, User};
use rustix::process::{Resource, getrlimit};

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
        source: std::io::Error,
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
        let number = user.parse().ok().map(Uid::from_raw);
        let known = User::from_name(user).ok().flatten();
        let known = known.or_else(|| number.and_then(|uid| User::from_uid(uid).ok().flatten()));
        let Some(uid) = known.as_ref().map(|known| known.uid).or(number) else {
            return Err(AccountError::NoUser(user.to_owned()));
        };
        let gid = match group {
            Some(group) => {
                let known = Group::from_name(group).ok().flatten().map(|known| known.gid);
                let found = known.or_else(|| group.parse().ok().map(Gid::from_raw));
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
    /// Call it before the first thread is started: capabilities belong to threads.
    ///
    /// # Errors
    /// It may not, or the system refuses. The process is then in an intermediate state and must end.
    pub fn assume(&self, takes_addresses: bool) -> Result<(), AccountError> {
        self.is_in_reach()?;
        let refused = |call| move |source: std::io::Error| AccountError::Refused { call, source };
        linux::before(self.uid.is_root(), takes_addresses).map_err(refused("prctl"))?;
        if !self.is_own() || Uid::effective().is_root() {
            let groups = match &self.name {
                Some(name) => std::ffi::CString::new(name.as_str())
                    .map_err(std::io::Error::from)
                    .and_then(|name| Ok(init_groups(&name, self.gid)?)),
                None => Ok(set_groups(self.gid)?),
            };
            groups.map_err(refused("setgroups"))?;
            set_gid(self.gid).map_err(|e| refused("setresgid")(e.into()))?;
            set_uid(self.uid).map_err(|e| refused("setresuid")(e.into()))?;
        }
        linux::after(takes_addresses).map_err(refused("capset"))
    }
}

impl From<nix::Error> for AccountError {
    fn from(error: nix::Error) -> Self {
        Self::Refused { call: "setgroups", source: error.into() }
    }
}

#[cfg(not(target_vendor = "apple"))]
fn init_groups(name: &std::ffi::CStr, gid: Gid) -> nix::Result<()> {
    nix::unistd::initgroups(name, gid)
}

#[cfg(target_vendor = "apple")]
fn init_groups(_: &std::ffi::CStr, _: Gid) -> nix::Result<()> {
    Ok(())
}

#[cfg(not(target_vendor = "apple"))]
fn set_groups(gid: Gid) -> nix::Result<()> {
    nix::unistd::setgroups(&[gid])
}

#[cfg(target_vendor = "apple")]
fn set_groups(_: Gid) -> nix::Result<()> {
    Ok(())
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

    use rustix::thread::{
        self, CapabilitiesSecureBits, CapabilitySet, CapabilitySets, capabilities, set_capabilities,
    };

    /// The capabilities that a reload and connections need.
    fn kept(takes_addresses: bool) -> CapabilitySet {
        let more = if takes_addresses { CapabilitySet::NET_ADMIN } else { CapabilitySet::empty() };
        CapabilitySet::NET_BIND_SERVICE | more
    }

    /// The steps that need the privileges of the start.
    pub(super) fn before(is_root: bool, takes_addresses: bool) -> io::Result<()> {
        let (has, kept) = (capabilities(None)?, kept(takes_addresses));
        if has.effective.contains(CapabilitySet::SETPCAP) {
            for one in CapabilitySet::all().iter().filter(|one| !kept.contains(*one)) {
                // An older kernel does not have every capability.
                if thread::capability_is_in_bounding_set(one).unwrap_or(false) {
                    thread::remove_capability_from_bounding_set(one)?;
                }
            }
            if is_root {
                // Otherwise exec would give root everything in the bounding set.
                let bits = thread::capabilities_secure_bits()? | CapabilitiesSecureBits::NO_ROOT;
                thread::set_capabilities_secure_bits(bits)?;
            }
        }
        Ok(thread::set_keep_capabilities(true)?)
    }

    /// The steps for the user that the process runs as now, and for its successor.
    pub(super) fn after(takes_addresses: bool) -> io::Result<()> {
        let has = capabilities(None)?;
        let kept = has.permitted & kept(takes_addresses);
        let wanted = CapabilitySets { effective: kept, permitted: kept, inheritable: kept };
        if has != wanted {
            // The call may be forbidden if a service manager has already set the capabilities.
            set_capabilities(None, wanted)?;
        }
        for one in kept.iter() {
            // The successor needs it, too.
            thread::configure_capability_in_ambient_set(one, true)?;
        }
        thread::set_no_new_privs(true)?;
        // The kernel makes /proc/PID root's after a change of user; the process belongs to its own user by
        // now. A limit forbids core files.
        Ok(nix::sys::prctl::set_dumpable(true)?)
    }
}

#[cfg(not(target_os = "linux"))]
mod linux {
    use std::io;

    pub(super) fn before(_: bool, _: bool) -> io::Result<()> {
        Ok(())
    }

    pub(super) fn after(_: bool) -> io::Result<()> {
        Ok(())
    }
}

/// The privileges that are in force, as far as the system reports them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Privileges {
    /// The user's name or number.
    pub user: String,
    /// Programs that it starts cannot gain more privileges than it has.
    pub no_new_privileges: bool,
    /// Its capabilities, by number.
    pub capabilities: Vec<u32>,
    /// It writes no core files.
    pub core_files_off: bool,
}

impl Privileges {
    /// The privileges of this process.
    pub fn now() -> Self {
        let uid = Uid::effective();
        let name = User::from_uid(uid).ok().flatten().map(|user| user.name);
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let set = |name| field(name).and_then(|text| u64::from_str_radix(text, 16).ok()).unwrap_or(0);
        let permitted = set("CapPrm:") | set("CapEff:");
        Self {
            user: name.unwrap_or_else(|| uid.to_string()),
            no_new_privileges: field("NoNewPrivs:") == Some("1"),
            capabilities: (0..64).filter(|number| permitted >> number & 1 == 1).collect(),
            core_files_off: getrlimit(Resource::Core).current.is_some_and(|bytes| bytes <= 1),
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
        assert_eq!(why("54321"), "the system does not know user 54321: say which group, such as 54321:54321");
    }
}
