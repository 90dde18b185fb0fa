//! Which room may import which.
//!
//! ARCHITECTURE.md shows the same table; this test enforces it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Rooms and what each may import.
const ALLOWED: &[(&str, &[&str])] = &[
    ("spec", &[]),
    ("handover", &["spec"]),
    ("sched", &["spec", "handover"]),
    ("observe", &["sched"]),
    ("config", &["spec", "sched"]),
    ("wire", &["spec", "handover"]),
    ("sys", &["spec", "wire", "handover"]),
    ("net", &["spec", "handover", "sched", "wire", "observe", "sys"]),
    ("probe", &["spec", "sched", "wire", "observe", "sys"]),
    ("names", &["spec", "sched", "observe", "sys", "wire"]),
    ("control", &["spec", "handover", "sched", "observe", "config"]),
    ("process", &["observe"]),
    (
        "app",
        &[
            "spec", "handover", "sched", "observe", "wire", "sys", "config", "net", "probe", "names",
            "control", "process",
        ],
    ),
    ("main", &["app"]),
    ("lib", &[]),
];

/// Rooms that decide or tell: the words of a system call have no place in them.
const PURE: &[&str] = &["spec", "handover", "sched", "wire", "config"];
/// Pure files of rooms that act.
const PURE_FILES: &[&str] = &[
    "control/argument.rs",
    "control/command.rs",
    "control/command/arguments.rs",
    "control/command/meaning.rs",
    "control/command/table.rs",
    "control/doctor/exams.rs",
    "control/doctor/finding.rs",
    "control/doctor/of_host.rs",
    "control/doctor/of_network.rs",
    "control/doctor/of_process.rs",
    "control/doctor/of_service.rs",
    "control/doctor/signs.rs",
    "control/execute.rs",
    "control/http/history.rs",
    "control/http/page.rs",
    "control/http/plot.rs",
    "control/http/question.rs",
    "control/json/ascii.rs",
    "control/json/channels.rs",
    "control/json/reasons.rs",
    "control/json/frame.rs",
    "control/json/document.rs",
    "control/json/events.rs",
    "control/json/sessions.rs",
    "control/json/units.rs",
    "control/render.rs",
    "control/status.rs",
    "control/top/channel_table.rs",
    "control/top/columns.rs",
    "control/top/desk.rs",
    "control/top/detail.rs",
    "control/top/facts.rs",
    "control/top/figures.rs",
    "control/top/help.rs",
    "control/top/keys.rs",
    "control/top/looked.rs",
    "control/top/paint.rs",
    "control/top/samples.rs",
    "control/top/tables.rs",
    "control/top/verbs.rs",
    "control/top/view.rs",
    "observe/event.rs",
    "sys/timers.rs",
    "sys/descriptors.rs",
    "probe/shutter.rs",
    "probe/order.rs",
    "probe/walk.rs",
];
/// The only files that may hold unsafe code. ARCHITECTURE.md has their reasons.
const UNSAFE: &[&str] = &[
    "sys/given.rs",
    "sys/hosts.rs",
    "sys/program.rs",
    "sys/socket.rs",
    "sys/scheduling.rs",
    "process/daemon.rs",
    "process/dispositions.rs",
    "process/passed.rs",
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

/// The text without what is compiled for tests only: a `mod tests { ... }` at its end, whatever attributes it has.
fn production(text: &str) -> String {
    let is_start = |line: &str| line == "mod tests {" || line == "pub(super) mod tests {";
    code(&text.lines().take_while(|line| !is_start(line)).map(|line| format!("{line}\n")).collect::<String>())
}

/// A module of the crate, such as `["net", "worker", "dialing"]`.
type ModulePath = Vec<String>;

fn module_of(inside: &Path) -> ModulePath {
    let mut path: ModulePath =
        inside.with_extension("").iter().map(|part| part.to_string_lossy().into_owned()).collect();
    path.pop_if(|last| *last == "mod" || *last == "lib");
    path
}

/// What a tree of a `use` names: `a::{b, c::d as e}` is `a::b` and `a::c::d`, each with the name it has here.
fn leaves(tree: &str, prefix: &[String], found: &mut Vec<(ModulePath, String)>) {
    let tree = tree.trim();
    if let Some((head, rest)) = tree.split_once('{') {
        let mut prefix = prefix.to_vec();
        prefix.extend(head.split("::").map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned));
        let inside = rest.rsplit_once('}').map_or(rest, |(inside, _)| inside);
        let (mut depth, mut start) = (0, 0);
        for (at, c) in inside.char_indices() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 0 => {
                    leaves(&inside[start..at], &prefix, found);
                    start = at + 1;
                }
                _ => (),
            }
        }
        leaves(&inside[start..], &prefix, found);
    } else if !tree.is_empty() {
        let (path, name) = tree.split_once(" as ").unwrap_or((tree, ""));
        let mut full = prefix.to_vec();
        full.extend(
            path.split("::")
                .map(|part| part.trim().to_owned())
                .filter(|part| part != "self" || prefix.is_empty()),
        );
        let name =
            if name.is_empty() { full.last().cloned().unwrap_or_default() } else { name.trim().to_owned() };
        found.push((full, name));
    }
}

/// Every path of the crate that a text names, with the name that a `use` gives it.
fn named(text: &str) -> Vec<(ModulePath, String)> {
    let mut found = Vec::new();
    for statement in text.split(';') {
        let uses = statement.rfind("use ").filter(|at| {
            let before = statement[..*at].trim_end();
            before.is_empty() || before.ends_with([')', '}', ']', '{', '\n']) || before.ends_with("pub")
        });
        match uses {
            Some(at) => leaves(&statement[at + 4..], &[], &mut found),
            None => {
                for root in ["crate::", "super::", "self::"] {
                    for (at, _) in statement.match_indices(root) {
                        let before = statement[..at].chars().next_back();
                        if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
                            continue;
                        }
                        let rest = &statement[at..];
                        let end = rest
                            .find(|c: char| !c.is_alphanumeric() && c != '_' && c != ':')
                            .unwrap_or(rest.len());
                        let path = rest[..end].split("::").filter(|part| !part.is_empty()).map(str::to_owned);
                        found.push((path.collect(), String::new()));
                    }
                }
            }
        }
    }
    found
}

/// The crate's modules and what each names.
struct Modules(BTreeMap<ModulePath, Vec<(ModulePath, String)>>);

impl Modules {
    fn of(files: &[(String, PathBuf, String)]) -> Self {
        let tests: Vec<ModulePath> = files
            .iter()
            .flat_map(|(_, path, text)| {
                let parent = module_of(path);
                let lines: Vec<&str> = text.lines().collect();
                let only_for_tests = lines.iter().enumerate().filter_map(|(at, line)| {
                    if !line.starts_with("#[cfg(test)]") && !line.starts_with("#[cfg(all(test,") {
                        return None;
                    }
                    let named = lines[at + 1..].iter().find(|line| !line.starts_with("#["))?;
                    let name = named.rsplit("mod ").next()?.strip_suffix(';')?;
                    Some([&parent[..], &[name.to_owned()]].concat())
                });
                only_for_tests.collect::<Vec<ModulePath>>()
            })
            .collect();
        let is_for_tests = |path: &ModulePath| tests.iter().any(|test| path.starts_with(test));
        let all = files.iter().map(|(_, path, text)| (module_of(path), named(&production(text))));
        Self(all.filter(|(path, _)| !is_for_tests(path)).collect())
    }

    /// The module that an absolute path leads to, through re-exports.
    fn target(&self, path: &[String], depth: usize) -> Option<ModulePath> {
        let mut at =
            (1..=path.len()).rev().map(|n| &path[..n]).find(|part| self.0.contains_key(*part))?.to_vec();
        let Some(name) = path.get(at.len()) else { return Some(at) };
        let uses = self.0.get(&at)?;
        if let Some((used, _)) = uses.iter().find(|(_, known)| known == name)
            && depth < 8
        {
            let mut next = self.absolute(&at, used)?;
            next.extend_from_slice(&path[at.len() + 1..]);
            return self.target(&next, depth + 1);
        }
        at.shrink_to_fit();
        Some(at)
    }

    /// `None` for a path out of the crate.
    fn absolute(&self, from: &ModulePath, path: &[String]) -> Option<ModulePath> {
        let mut base = from.clone();
        let mut rest = path;
        match path.first()?.as_str() {
            "crate" => {
                base.clear();
                rest = &path[1..];
            }
            "self" => rest = &path[1..],
            "super" => {
                while rest.first().is_some_and(|part| part == "super") {
                    base.pop();
                    rest = &rest[1..];
                }
            }
            child if self.0.contains_key(&[&base[..], &[child.to_owned()]].concat()) => (),
            _ => return None,
        }
        base.extend_from_slice(rest);
        Some(base)
    }

    /// The modules that one imports from, of its own room.
    fn imports(&self, from: &ModulePath) -> BTreeSet<ModulePath> {
        let paths = self.0[from].iter().filter_map(|(path, _)| self.absolute(from, path));
        let targets = paths.filter_map(|path| self.target(&path, 0));
        targets.filter(|to| to != from && to.len() > 1 && to[0] == from[0]).collect()
    }

    fn reaches(&self, from: &ModulePath) -> BTreeSet<ModulePath> {
        let mut seen = BTreeSet::new();
        let mut next = vec![from.clone()];
        while let Some(module) = next.pop() {
            next.extend(self.imports(&module).into_iter().filter(|to| seen.insert(to.clone())));
        }
        seen
    }
}

#[test]
fn imports_inside_a_room_run_one_way() {
    let modules = Modules::of(&files());
    let reach: BTreeMap<_, _> =
        modules.0.keys().filter(|path| path.len() > 1).map(|path| (path, modules.reaches(path))).collect();
    let circles: BTreeSet<BTreeSet<&ModulePath>> = reach
        .iter()
        .filter(|(path, reached)| reached.contains(**path))
        .map(|(path, reached)| {
            let back = reached.iter().filter(|to| reach.get(to).is_some_and(|back| back.contains(*path)));
            back.collect()
        })
        .collect();
    assert!(circles.is_empty(), "files that import each other in a circle: {circles:#?}");
}

/// Files of which only one is compiled.
const TWINS: &[[&str; 2]] = &[["sys/poller/epoll.rs", "sys/poller/portable.rs"]];

/// The types that a text defines, but for those that an `impl` names for a trait's sake.
fn types(text: &str) -> BTreeSet<&str> {
    let define = |line: &'_ str| -> Option<(usize, usize)> {
        let mut rest = line.trim_start();
        let is_inside = rest.len() < line.len();
        if let Some(public) = rest.strip_prefix("pub") {
            rest = match public.strip_prefix('(') {
                Some(scope) => scope.split_once(") ")?.1,
                None => public.strip_prefix(' ')?,
            };
        }
        rest = rest.strip_prefix("unsafe ").unwrap_or(rest);
        let (keyword, rest) = rest.split_once(' ')?;
        let is_type = match keyword {
            "struct" | "enum" | "trait" | "union" => true,
            "type" => !is_inside,
            _ => false,
        };
        let length = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        (is_type && length > 0).then_some((line.len() - rest.len(), length))
    };
    text.lines().filter_map(|line| define(line).map(|(at, length)| &line[at..at + length])).collect()
}

#[test]
fn a_name_means_one_type() {
    let files = files();
    let modules = Modules::of(&files);
    let mut seen: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (_, path, text) in &files {
        if modules.0.contains_key(&module_of(path)) {
            for name in types(&production(text)) {
                seen.entry(name.to_owned()).or_default().insert(path.display().to_string());
            }
        }
    }
    assert!(seen.len() > 300, "only {} types were found", seen.len());
    let is_twin = |paths: &BTreeSet<String>| TWINS.iter().any(|twins| paths.iter().eq(twins.iter()));
    let doubles: Vec<_> = seen.iter().filter(|(_, paths)| paths.len() > 1 && !is_twin(paths)).collect();
    assert!(doubles.is_empty(), "types of one name: {doubles:#?}");
}
