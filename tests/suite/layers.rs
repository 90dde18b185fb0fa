//! The wall between the rooms.
//!
//! ARCHITECTURE.md shows the same table; this is the one that bites.

use std::fs;
use std::path::{Path, PathBuf};

/// Rooms and what each may import.
const ALLOWED: &[(&str, &[&str])] = &[
    ("spec", &[]),
    ("sched", &["spec"]),
    ("observe", &["sched"]),
    ("config", &["spec", "sched"]),
    ("wire", &["spec"]),
    ("sys", &["spec", "wire"]),
    ("net", &["spec", "sched", "wire", "observe", "sys"]),
    ("probe", &["spec", "sched", "wire", "observe", "sys"]),
    ("names", &["spec", "sched", "observe", "sys"]),
    ("control", &["spec", "sched", "observe", "config"]),
    ("process", &["observe"]),
    (
        "app",
        &["spec", "sched", "observe", "wire", "sys", "config", "net", "probe", "names", "control", "process"],
    ),
    ("main", &["app"]),
    ("lib", &[]),
];

/// Rooms that decide or tell: the words of a system call have no place in them.
const PURE: &[&str] = &["spec", "sched", "wire", "config"];
/// Pure files of rooms that act.
const PURE_FILES: &[&str] = &[
    "control/argument.rs",
    "control/command.rs",
    "control/execute.rs",
    "control/render.rs",
    "control/status.rs",
    "observe/event.rs",
    "sys/timers.rs",
    "sys/descriptors.rs",
    "probe/door.rs",
    "probe/order.rs",
    "probe/walk.rs",
];
/// The only files that may hold unsafe code. ARCHITECTURE.md has their reasons.
const UNSAFE: &[&str] = &[
    "sys/given.rs",
    "sys/program.rs",
    "sys/socket.rs",
    "sys/scheduling.rs",
    "process/daemon.rs",
    "process/dispositions.rs",
    "process/inherit.rs",
];

fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("the source tree is here").flatten() {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|ext| ext == "rs") {
            found.push(path);
        }
    }
}

/// Each source file with its room, its path from `src` and its text.
fn files() -> Vec<(String, PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    sources(&root, &mut paths);
    assert!(paths.len() > 20, "this is not the source tree: {paths:?}");
    let room_and_text = |path: PathBuf| {
        let inside = path.strip_prefix(&root).expect("found below it").to_owned();
        let first = inside.components().next().expect("a file has a name").as_os_str().to_string_lossy();
        let room = first.trim_end_matches(".rs").to_owned();
        (room, inside, fs::read_to_string(path).expect("sources are text"))
    };
    paths.into_iter().map(room_and_text).collect()
}

/// The word after each occurrence of `root`, such as `crate::`, as a path of its own.
fn imports<'a>(text: &'a str, root: &'a str) -> impl Iterator<Item = &'a str> {
    text.match_indices(root).filter_map(move |(at, _)| {
        // `other_crate::x` and `pub(in crate::x)` are not imports of ours; the latter does not occur.
        let before = text[..at].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || c == '_') {
            return None;
        }
        let rest = &text[at + root.len()..];
        let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        Some(&rest[..end])
    })
}

fn code(text: &str) -> String {
    // Comments may name whom they like.
    text.lines().map(|line| line.split("//").next().unwrap_or("")).collect::<Vec<_>>().join("\n")
}

#[test]
fn rooms_import_only_what_their_layer_allows() {
    let mut breaches = Vec::new();
    for (room, path, text) in files() {
        let Some((_, allowed)) = ALLOWED.iter().find(|(name, _)| *name == room) else {
            breaches.push(format!("{}: room {room:?} has no line in ALLOWED", path.display()));
            continue;
        };
        let root = if room == "main" { "balance::" } else { "crate::" };
        for import in imports(&code(&text), root) {
            if import.is_empty() {
                breaches.push(format!("{}: a `{root}{{` group hides imports from this scan", path.display()));
            } else if import != room && !allowed.contains(&import) {
                breaches.push(format!("{}: {room} must not import {import}", path.display()));
            }
        }
    }
    assert!(breaches.is_empty(), "{breaches:#?}");
}

#[test]
fn a_door_plate_holds_no_code() {
    for (_, path, text) in files() {
        let is_door = path.file_name().is_some_and(|name| name == "mod.rs" || name == "lib.rs");
        assert!(!is_door || !code(&text).contains("fn "), "{} has a function in it", path.display());
    }
}

#[test]
fn pure_rooms_name_no_system() {
    for (room, path, text) in files() {
        for word in ["rustix::", "nix::", "libc::", "mio::", "std::fs", "std::thread::sleep", "SystemTime"] {
            let is_named = imports(&code(&text), word).next().is_some();
            let is_pure = PURE.contains(&room.as_str()) || PURE_FILES.iter().any(|file| path.ends_with(file));
            let breach = is_named && is_pure;
            assert!(!breach, "{} is in a pure room and names {word}", path.display());
        }
    }
}

#[test]
fn unsafe_code_stays_where_it_is_accounted_for() {
    for (_, path, text) in files() {
        let is_listed = UNSAFE.iter().any(|listed| path.ends_with(listed));
        // With a reason behind it or without: the crate denies unsafe code, so each use needs this attribute.
        let has = code(&text).contains("allow(unsafe_code");
        assert_eq!(is_listed, has, "{}: unsafe code and its list differ", path.display());
    }
}
