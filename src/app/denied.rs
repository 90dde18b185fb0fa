//! Says why the system refuses a file: Landlock, or the permissions of a file or directory.
//!
//! Knows: users, owners, whether Landlock is in force. Never: what a file is for.
//! Source: docs/systemd.md, "Without root".
//!
//! access(2) asks for permissions alone, and Landlock does not change its answer. So if it allows what the
//! kernel has refused, Landlock is the reason.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::unistd::{Uid, User};
use rustix::fs::{Access, AtFlags, CWD};

use crate::process::FenceState;

/// The hint if Landlock refuses a file that was not known at the start.
const FENCED: &str = "--landlock: balance can open only files in the directories that it was started with; put the file \
                      into one of these, or restart balance. If you have created one of these directories again, restart balance";
/// The mark of that hint.
const MARK: &str = "--landlock: ";
/// Files that lookups of names read. The system's resolver does not say which of them it could not open.
const LOOKUP: &[&str] =
    &["/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf", "/etc/host.conf", "/etc/gai.conf"];

/// What was to be done with a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FileUse {
    /// To read it.
    Read,
    /// To write it, and to make it if it is missing.
    Write,
    /// To replace it by a new file.
    Replace,
    /// To run it.
    Run,
}

/// The error with its reason, as far as that can be found.
pub(super) fn told(error: &io::Error, path: &Path, wanted: FileUse) -> String {
    match reason(error, path, wanted) {
        Some(why) => format!("{error} ({why})"),
        None => error.to_string(),
    }
}

/// Why the system refuses this file. `None`: for another reason than permissions, or it is not known.
pub(super) fn reason(error: &io::Error, path: &Path, wanted: FileUse) -> Option<String> {
    if error.kind() != io::ErrorKind::PermissionDenied {
        return None;
    }
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    // From the root on: without a directory, nothing is known of what lies below.
    let mut above: Vec<&Path> = path.ancestors().skip(1).collect();
    above.reverse();
    if let Some(closed) = above.into_iter().find(|one| !allows(one, Access::EXEC_OK)) {
        return Some(forbidden("look into", closed));
    }
    let parent = path.parent().unwrap_or(&path);
    let is_there = fs::symlink_metadata(&path).is_ok();
    let make = Access::WRITE_OK | Access::EXEC_OK;
    let (asked, access, verb) = match wanted {
        FileUse::Read => (path.as_path(), Access::READ_OK, "read"),
        FileUse::Run => (path.as_path(), Access::EXEC_OK, "run"),
        FileUse::Write if is_there => (path.as_path(), Access::WRITE_OK, "write"),
        FileUse::Write | FileUse::Replace => (parent, make, "make files in"),
    };
    match allows(asked, access) {
        false => Some(forbidden(verb, asked)),
        true => FenceState::now().is_some_and(FenceState::holds).then(|| FENCED.to_owned()),
    }
}

/// Is Landlock the reason in this message?
pub(super) fn is_fenced(message: &str) -> bool {
    message.contains(MARK)
}

/// Why a name cannot be looked up, if Landlock or permissions close a file off that the lookup needs.
pub(super) fn of_lookup() -> Option<String> {
    LOOKUP.iter().find_map(|path| {
        let error = fs::File::open(path).err()?;
        let why = reason(&error, path.as_ref(), FileUse::Read)?;
        Some(format!("{path}: {error} ({why})"))
    })
}

fn allows(path: &Path, access: Access) -> bool {
    rustix::fs::accessat(CWD, path, access, AtFlags::EACCESS).is_ok()
}

fn forbidden(verb: &str, path: &Path) -> String {
    let name = |uid: Uid| {
        let user = User::from_uid(uid).ok().flatten();
        user.map_or_else(|| uid.to_string(), |user| user.name)
    };
    let own = Uid::effective();
    let why = match fs::metadata(path) {
        Ok(of) if of.uid() == own.as_raw() => format!(", whose mode is {:04o}", of.mode() & 0o7777),
        Ok(of) => format!(", which belongs to {}", name(Uid::from_raw(of.uid()))),
        Err(_) => String::new(),
    };
    format!("the user {} may not {verb} {}{why}", name(own), path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_refusals_have_a_reason() {
        let refused = io::Error::from(io::ErrorKind::PermissionDenied);
        let missing = io::Error::from(io::ErrorKind::NotFound);
        let none = Path::new("/nowhere/at/all");
        assert_eq!(reason(&missing, none, FileUse::Read), None);
        assert_eq!(told(&missing, none, FileUse::Read), missing.to_string());
        // Who runs the tests may read every file, and nothing is closed off.
        assert_eq!(reason(&refused, &std::env::temp_dir().join("x"), FileUse::Replace), None);
        let why = reason(&refused, none, FileUse::Read).expect("its directory is missing");
        assert!(why.ends_with(" may not look into /nowhere"), "{why}");
    }
}
