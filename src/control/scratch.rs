//! A temporary directory for a test.

use std::fs;
use std::path::{Path, PathBuf};

use crate::control::directory::Directory;

/// A directory that is removed when this value is dropped.
#[derive(Debug)]
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    /// Creates an empty directory.
    pub(crate) fn new() -> Self {
        let name = format!(
            "balance-test-{:016x}",
            std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0)
        );
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).expect("a scratch directory");
        Self(path)
    }

    /// Its path.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// The directory as a place of entries for all users.
    pub(crate) fn shared(&self) -> Directory {
        Directory::Shared(self.0.clone())
    }

    /// A place of entries for one user, inside this directory; it does not exist yet.
    pub(crate) fn private(&self) -> Directory {
        Directory::Private(self.0.join("private"))
    }

    /// The names of the files in it, sorted.
    pub(crate) fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.0).expect("readable");
        let mut names: Vec<String> = entries
            .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
