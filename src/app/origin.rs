//! How a process was started, and what the previous one has left to it.
//!
//! Knows: `argv`, an environment variable. Never: how this is used.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Duration;

use crate::handover::message::EndAsked;

/// The environment variable with the process id of the predecessor, whose stream is our stdin.
pub(super) use crate::sys::program::HANDOVER;

/// How this process was started.
#[derive(Debug, Clone)]
pub(super) struct Origin {
    pub(super) argv: Vec<OsString>,
    /// The path of its program.
    pub(super) program: Option<PathBuf>,
    /// The directory that its paths are relative to, if that matters.
    pub(super) directory: Option<PathBuf>,
}

impl Origin {
    /// Call this at the start: later the program's file may have been replaced.
    pub(super) fn of_this_process(argv: &[OsString]) -> Self {
        let program = argv.first().and_then(|name| called(name)).or_else(|| std::env::current_exe().ok());
        Self { argv: argv.to_vec(), program, directory: None }
    }

    /// Uses the path by which the predecessor started this program, if it still leads to it.
    pub(super) fn started_by(&mut self, path: &[u8]) {
        let path = PathBuf::from(OsStr::from_bytes(path));
        if is_own(&path) {
            self.program = Some(path);
        }
    }
}

/// The path by which the program was called, if it leads to this program. It may be a link: links are a usual
/// way to install a new version.
fn called(name: &OsStr) -> Option<PathBuf> {
    let absolute = |path: PathBuf| std::path::absolute(path).ok().filter(|path| is_own(path));
    if name.as_bytes().contains(&b'/') {
        return absolute(name.into());
    }
    std::env::split_paths(&std::env::var_os("PATH")?).find_map(|directory| absolute(directory.join(name)))
}

/// Does this path lead to the program of this process?
fn is_own(path: &Path) -> bool {
    let own = std::env::current_exe().and_then(fs::metadata);
    let is_same =
        |own: fs::Metadata, there: fs::Metadata| (own.dev(), own.ino()) == (there.dev(), there.ino());
    own.is_ok_and(|own| fs::metadata(path).is_ok_and(|there| is_same(own, there)))
}

/// What was taken over from another process.
#[derive(Debug, Default)]
pub(super) struct Inheritance {
    pub(super) pid: u32,
    pub(super) carried: AtomicU64,
    /// Connections that it still has; `u64::MAX`: unknown.
    pub(super) draining: AtomicU64,
    /// Whether more connections may come.
    pub(super) is_coming: AtomicBool,
    /// What the predecessor was asked to do while it handed over.
    pub(super) asked: Mutex<Option<EndAsked>>,
}

/// The time since a moment that is the same for all processes of the machine.
pub(super) fn monotonic() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    Duration::try_from(now).unwrap_or_default()
}
