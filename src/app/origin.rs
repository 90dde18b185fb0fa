//! Where a process comes from: how it was started, and what it was left by the one before it.
//!
//! Knows: `argv`, an environment variable. Never: what becomes of it.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Duration;

use crate::handover::message::EndAsked;

/// Says who left us something, by the number of its process; it comes by our input.
pub(super) use crate::sys::program::HANDOVER;

/// How this process was started.
#[derive(Debug, Clone)]
pub(super) struct Origin {
    pub(super) argv: Vec<OsString>,
    /// Where its program was.
    pub(super) program: Option<PathBuf>,
    /// What its paths are relative to, if that matters.
    pub(super) directory: Option<PathBuf>,
}

impl Origin {
    /// To be asked at the start: afterwards the program may have been replaced.
    pub(super) fn of_this_process(argv: &[OsString]) -> Self {
        let program = argv.first().and_then(|name| called(name)).or_else(|| std::env::current_exe().ok());
        Self { argv: argv.to_vec(), program, directory: None }
    }

    /// Whoever started it knows better by which path, if that is still so.
    pub(super) fn started_by(&mut self, path: &[u8]) {
        let path = PathBuf::from(OsStr::from_bytes(path));
        if is_own(&path) {
            self.program = Some(path);
        }
    }
}

/// The path that the program was called by, if it is this one's: links are how a new version is put in its place.
fn called(name: &OsStr) -> Option<PathBuf> {
    let absolute = |path: PathBuf| std::path::absolute(path).ok().filter(|path| is_own(path));
    if name.as_bytes().contains(&b'/') {
        return absolute(name.into());
    }
    std::env::split_paths(&std::env::var_os("PATH")?).find_map(|directory| absolute(directory.join(name)))
}

/// Is this program there?
fn is_own(path: &Path) -> bool {
    let own = std::env::current_exe().and_then(fs::metadata);
    let is_same =
        |own: fs::Metadata, there: fs::Metadata| (own.dev(), own.ino()) == (there.dev(), there.ino());
    own.is_ok_and(|own| fs::metadata(path).is_ok_and(|there| is_same(own, there)))
}

/// What came from another process.
#[derive(Debug, Default)]
pub(super) struct Inheritance {
    pub(super) pid: u32,
    pub(super) carried: AtomicU64,
    /// `u64::MAX`: unknown.
    pub(super) draining: AtomicU64,
    /// More may come.
    pub(super) is_coming: AtomicBool,
    /// What the process before was asked to do while it handed over.
    pub(super) asked: Mutex<Option<EndAsked>>,
}

/// Since some moment that is the same for all processes of the machine.
pub(super) fn monotonic() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    Duration::try_from(now).unwrap_or_default()
}
