//! Programs that an instance runs, and what remains of them.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use super::{Directory, Instance, Run, eventually, run_number, unique};

/// Writes an executable script. Another process writes it: a file that this process, or a fork of it for
/// another test, has open for writing could not be run.
pub(crate) fn script(directory: &Directory, name: &str, text: &str) -> PathBuf {
    executable(directory, name, &format!("#!/bin/sh\n{text}\n"))
}

pub(crate) fn executable(directory: &Directory, name: &str, text: &str) -> PathBuf {
    let path = directory.path().join(name);
    // In one step: it may be run already.
    let write = r#"cat >"$1.new"; chmod 755 "$1.new"; mv "$1.new" "$1""#;
    Run::new("sh").args(["-ec", write, "sh"]).arg(&path).stdin(text).finish().code(0);
    path
}

/// Copies a program, to run it from there. Another process copies it, for the same reason.
pub(crate) fn copy_program(from: impl AsRef<OsStr>, to: &Path) {
    Run::new("cp").arg(from).arg(to).finish().code(0);
}

/// An argument for `sleep` that no other process has.
pub(crate) fn mark() -> String {
    format!("86400.{}{}", run_number(), unique())
}

/// How many processes have this argument.
pub(crate) fn alive(mark: &str) -> usize {
    let has_it = |process: &fs::DirEntry| {
        let line = fs::read(process.path().join("cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0).any(|word| word == mark.as_bytes())
    };
    fs::read_dir("/proc").expect("a process table").flatten().filter(has_it).count()
}

/// The instance's children, dead or alive.
pub(crate) fn children(instance: &Instance) -> Vec<String> {
    let stat_of = |process: fs::DirEntry| fs::read_to_string(process.path().join("stat")).ok();
    let parent = instance.pid().to_string();
    let is_child = |stat: &String| {
        let after_name = stat.rsplit(')').next().unwrap_or_default();
        after_name.split_whitespace().nth(1) == Some(&parent)
    };
    fs::read_dir("/proc").expect("a process table").flatten().filter_map(stat_of).filter(is_child).collect()
}

#[track_caller]
pub(crate) fn await_no_children(instance: &Instance) {
    let mut left = Vec::new();
    eventually("no child is left, not even a zombie", || {
        left = children(instance);
        left.is_empty().then_some(())
    });
}
