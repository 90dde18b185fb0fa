//! Resource limits of this process, and keeping its memory out of core files.
//!
//! Knows: resource limits. Never: what descriptors are used for.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the soft limit on open descriptors to the hard limit, since each connection takes two. Returns the
/// limit in force afterwards; `u64::MAX` means none.
pub fn raise_descriptor_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        // Whether it was refused or not, the limit in force is read back below.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    }
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Keeps balance's memory, which holds customers' data, out of core files.
///
/// The limit is 1 and not 0: the kernel ignores 0 when cores are piped to a program (`core_pattern` with
/// `|`), while 1 stops that, too, and is smaller than any core file. `PR_SET_DUMPABLE` would also work, but
/// then `/proc/PID` belongs to root, and an operator who is not root can no longer inspect their own
/// instance. The hard limit stays, so that programs of checks can have the operator's.
pub fn forbid_core_files() {
    let maximum = getrlimit(Resource::Core).maximum.map(|bytes| bytes.max(1));
    if setrlimit(Resource::Core, Rlimit { current: Some(1), maximum }).is_ok() {
        return;
    }
    // The hard limit is already 0, and only root may raise it. That stops core files; against a program that
    // takes cores from a pipe only this flag helps, with the drawback above.
    #[cfg(target_os = "linux")]
    let _ = nix::sys::prctl::set_dumpable(false);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_descriptor_limit_becomes_the_hard_one() {
        let granted = raise_descriptor_limit();
        let limit = getrlimit(Resource::Nofile);
        assert_eq!(limit.current, limit.maximum);
        assert_eq!(granted, limit.current.unwrap_or(u64::MAX));
    }

    #[test]
    fn core_files_are_forbidden_and_the_hard_limit_stays() {
        let before = getrlimit(Resource::Core);
        forbid_core_files();
        let limit = getrlimit(Resource::Core);
        assert!(limit.current.is_some_and(|bytes| bytes <= 1), "{limit:?}");
        assert_eq!(limit.maximum, before.maximum.map(|bytes| bytes.max(1)));
    }
}
