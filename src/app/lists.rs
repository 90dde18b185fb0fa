//! Files of networks: read at a start or reload, and by a thread of their own after they have changed.
//!
//! Knows: paths, what a file looked like when it was read. Never: what a line of a file means, who is let in.
//! Source: docs/access.md.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use ipnet::IpNet;

use super::denied::{self, FileUse};
use super::{counted, files};
use crate::config::{LineError, Wrong, parse_nets};
use crate::observe::{Event, Log, Severity};
use crate::sched::{Lists, RuleSet, Ruling, SharedTable};
use crate::spec::{NetItem, NetList, Spot};

/// How often the files are checked. A changed file is read when it is the same at two checks, since a program
/// may still be writing it.
const LOOK: Duration = Duration::from_millis(500);
/// After this number of checks since a change, the file is read in any case: some files change all the time.
const LONGEST: u32 = 10;
/// After this number of checks, opening a file is tried again.
const AGAIN: u32 = 4;
/// Maximum size of a file in bytes, enough for more than a million networks.
const LARGEST: u64 = 64 << 20;

/// Reads lists, and each file only once.
#[derive(Default)]
pub(super) struct ListReader {
    read: HashMap<PathBuf, Result<Arc<[IpNet]>, LineError>>,
    stamps: HashMap<PathBuf, u64>,
    made: Vec<Lists>,
}

impl ListReader {
    /// Makes lists from these, with the present contents of their files.
    ///
    /// # Errors
    /// A file cannot be read, or a line of it is not a network.
    pub(super) fn lists(
        &mut self,
        allow: Option<&NetList>,
        deny: Option<&NetList>,
    ) -> Result<Lists, Vec<LineError>> {
        let has_files = [allow, deny].into_iter().flatten().any(|list| list.files().next().is_some());
        // Lists without files are made as quickly as found, so they are not stored.
        let is_same = |made: &&Lists| made.allow.as_ref() == allow && made.deny.as_ref() == deny;
        if let Some(made) = self.made.iter().find(is_same).filter(|_| has_files) {
            return Ok(made.clone());
        }
        let (allow, deny) = (allow.cloned(), deny.cloned());
        if allow.is_none() && deny.is_none() {
            return Ok(Lists::default());
        }
        // This comes before reading, so that a change during reading is noticed afterwards.
        let stamp = self.stamp([&allow, &deny]);
        let mut errors = Vec::new();
        let mut nets = Vec::new();
        for (list, verdict) in [(&allow, Ruling::Allow), (&deny, Ruling::Deny)] {
            for item in list.iter().flat_map(|list| &list.items) {
                match item {
                    NetItem::Net(net) => nets.push((*net, verdict)),
                    NetItem::File(path) => match self.file(path) {
                        Ok(all) => nets.extend(all.iter().map(|&net| (net, verdict))),
                        Err(error) if errors.contains(&error) => {}
                        Err(error) => errors.push(error),
                    },
                }
            }
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        let networks = nets.len();
        let rules = Arc::new(RuleSet::new(nets, allow.is_some()));
        let lists = Lists { allow, deny, rules, networks, stamp };
        if has_files {
            self.made.push(lists.clone());
        }
        Ok(lists)
    }

    fn file(&mut self, path: &Path) -> Result<Arc<[IpNet]>, LineError> {
        let read = self.read.entry(path.to_owned()).or_insert_with(|| read(path));
        read.clone()
    }

    /// A hash of the metadata of the lists' files.
    fn stamp(&mut self, lists: [&Option<NetList>; 2]) -> u64 {
        let mut all = DefaultHasher::new();
        for path in lists.into_iter().flatten().flat_map(NetList::files) {
            self.stamps.entry(path.clone()).or_insert_with(|| look(path)).hash(&mut all);
        }
        all.finish()
    }
}

/// Lists whose files could not be read. With --allow nobody from the files is let in; of --deny only the
/// typed networks are in force.
pub(super) fn without_files(allow: Option<&NetList>, deny: Option<&NetList>) -> Lists {
    let typed = |list: Option<&NetList>, verdict| {
        let items = list.map_or_else(Vec::new, |list| list.items.clone());
        items.into_iter().filter_map(move |item| match item {
            NetItem::Net(net) => Some((net, verdict)),
            NetItem::File(_) => None,
        })
    };
    let nets: Vec<_> = typed(allow, Ruling::Allow).chain(typed(deny, Ruling::Deny)).collect();
    let networks = nets.len();
    let rules = Arc::new(RuleSet::new(nets, allow.is_some()));
    Lists { allow: allow.cloned(), deny: deny.cloned(), rules, networks, stamp: 0 }
}

fn read(path: &Path) -> Result<Arc<[IpNet]>, LineError> {
    let shown = path.to_string_lossy();
    let text = files::contents(path, LARGEST).map_err(|e| {
        let wrong =
            Wrong::File { path: shown.clone().into_owned(), cause: denied::told(&e, path, FileUse::Read) };
        LineError { at: None, wrong }
    })?;
    parse_nets(&text).map(Arc::from).map_err(|(line, column, why)| {
        let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let at = Spot { file: shown.into(), line: number(line), column: number(column) };
        LineError { at: Some(at), wrong: Wrong::Usage(why) }
    })
}

/// A hash of a file's metadata.
fn look(path: &Path) -> u64 {
    let mut looks = DefaultHasher::new();
    if let Ok(found) = std::fs::metadata(path) {
        (found.dev(), found.ino(), found.size()).hash(&mut looks);
        (found.mtime(), found.mtime_nsec(), found.ctime(), found.ctime_nsec()).hash(&mut looks);
    }
    looks.finish()
}

/// Reads files of networks again when they change. Its thread exists only while there are such files.
#[derive(Clone)]
pub(super) struct ListWatch {
    watched: Arc<Mutex<WatchedLists>>,
    log: Log,
}

#[derive(Default)]
struct WatchedLists {
    tables: Vec<SharedTable>,
    has_thread: bool,
}

impl ListWatch {
    /// A watch without files.
    pub(super) fn new(log: &Log) -> Self {
        Self { watched: Arc::default(), log: log.clone() }
    }

    fn watched(&self) -> MutexGuard<'_, WatchedLists> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Watches the files of these services from now on.
    pub(super) fn watch(&self, tables: impl Iterator<Item = SharedTable>) {
        let mut watched = self.watched();
        watched.tables = tables.filter(has_files).collect();
        if watched.tables.is_empty() || watched.has_thread {
            return;
        }
        let of = self.clone();
        match thread::Builder::new().name("lists".into()).spawn(move || of.run()) {
            Ok(_) => watched.has_thread = true,
            Err(e) => {
                let text = format!(
                    "files of --allow and --deny are read on reload only: cannot start a thread: {e}"
                );
                self.log.tell(&Event::Note { severity: Severity::Error, text });
            }
        }
    }

    fn run(&self) {
        let mut looks = Looks::default();
        loop {
            thread::sleep(LOOK);
            let tables = {
                let mut watched = self.watched();
                watched.tables.retain(has_files);
                if watched.tables.is_empty() {
                    watched.has_thread = false;
                    return;
                }
                watched.tables.clone()
            };
            looks.look(&tables, &self.log);
        }
    }
}

/// Does a service have files of networks?
pub(super) fn has_files(table: &SharedTable) -> bool {
    let lists = table.gate().lists();
    [&lists.allow, &lists.deny].into_iter().flatten().any(|list| list.files().next().is_some())
}

/// Lists whose files have changed since they were read. The key is the names of the files and their hash at
/// that time.
#[derive(Default)]
struct Looks(HashMap<(String, u64), Pending>);

/// Lists that are to be read again.
#[derive(Default)]
struct Pending {
    /// The hash of the files at the last check.
    stamp: Option<u64>,
    /// Number of checks since the files have changed, or since they could not be read.
    looks: u32,
    /// The hash of the files when they could not be read.
    failed: Option<u64>,
    /// Whether the reason of that failure may pass.
    may_pass: bool,
    /// The messages that were logged about that failure.
    told: Vec<String>,
}

impl Pending {
    /// Notes the present hash. Returns whether the files should be read now.
    fn is_due(&mut self, stamp: u64) -> bool {
        let has_settled = self.stamp.replace(stamp) == Some(stamp);
        self.looks += 1;
        if self.failed == Some(stamp) {
            return self.may_pass && self.looks >= AGAIN;
        }
        has_settled || self.looks >= LONGEST
    }

    /// Notes that files with this hash could not be read. Returns the messages that are new.
    fn fail(&mut self, stamp: u64, errors: &[LineError]) -> Vec<String> {
        self.looks = 0;
        self.failed = Some(stamp);
        // A wrong line stays wrong. But a file that cannot be opened may only be out of reach for a while.
        self.may_pass = errors.iter().any(|error| error.at.is_none());
        let of = |error: &LineError| {
            let error = error.to_string();
            error.trim_end().trim_start_matches("balance: ").to_owned()
        };
        let told: Vec<String> = errors.iter().map(of).collect();
        let before = std::mem::replace(&mut self.told, told.clone());
        told.into_iter().filter(|error| !before.contains(error)).collect()
    }
}

impl Looks {
    fn look(&mut self, tables: &[SharedTable], log: &Log) {
        let mut reader = ListReader::default();
        let (mut before, mut told) = (std::mem::take(&mut self.0), Vec::new());
        // Several services may have the same lists.
        let mut due = HashMap::new();
        for table in tables {
            let lists = table.gate().lists();
            let stamp = reader.stamp([&lists.allow, &lists.deny]);
            if stamp == lists.stamp {
                if table.gate().stale_lists().is_some() {
                    table.gate().set_stale(None);
                }
                continue;
            }
            let key = (names(&lists), lists.stamp);
            let is_due = *due.entry(key.clone()).or_insert_with(|| {
                let pending = self.0.entry(key.clone()).or_insert(before.remove(&key).unwrap_or_default());
                pending.is_due(stamp)
            });
            if !is_due {
                continue;
            }
            match reader.lists(lists.allow.as_ref(), lists.deny.as_ref()) {
                Ok(new) => {
                    let networks = counted(new.networks, "network");
                    if table.gate().reread_lists(&lists, new) {
                        told.push((Severity::Notice, format!("{}: read again, {networks}", names(&lists))));
                    }
                }
                Err(errors) => {
                    let pending = self.0.entry(key).or_default();
                    let new = pending.fail(stamp, &errors);
                    table.gate().set_stale(pending.told.first().map(|error| stay(error)));
                    told.extend(new.iter().map(|error| (Severity::Error, stay(error))));
                }
            }
        }
        told.sort();
        told.dedup();
        for (severity, text) in told {
            log.tell(&Event::Note { severity, text });
        }
    }
}

/// The message if files cannot be read.
fn stay(error: &str) -> String {
    format!("{error}; the old networks stay in force")
}

/// The names of the lists' files, for messages.
fn names(lists: &Lists) -> String {
    let files = [&lists.allow, &lists.deny].into_iter().flatten().flat_map(NetList::files);
    files.map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::net::IpAddr;

    use super::*;
    use crate::control::scratch::Scratch;
    use crate::sched::{Rules, Table};
    use crate::spec::Typed;

    fn list(path: &Path) -> NetList {
        NetList { items: vec![NetItem::File(path.to_owned())], typed: Typed::default() }
    }

    fn log() -> (Log, impl Fn() -> Vec<String>) {
        let log = Log::stderr(false);
        let told = log.clone();
        (log, move || told.events(100).iter().map(|event| event.line.to_string()).collect())
    }

    #[test]
    fn a_file_is_read_again_when_it_has_changed_and_not_while_it_changes() {
        let scratch = Scratch::new();
        let path = scratch.path().join("bad");
        fs::write(&path, "192.0.2.1\n").expect("written");
        let table = SharedTable::new(Table::new(Rules::CLASSIC));
        let read = ListReader::default().lists(None, Some(&list(&path))).expect("all is right");
        table.gate().set_lists(read);
        let denies =
            |address: &str| table.gate().denies(address.parse::<IpAddr>().expect(address), Duration::ZERO);
        assert!(denies("192.0.2.1") && !denies("192.0.2.2"));
        let (log, told) = log();
        let mut looks = Looks::default();
        let mut look = |text: Option<&str>| {
            text.iter().for_each(|text| fs::write(&path, text).expect("written"));
            looks.look(std::slice::from_ref(&table), &log);
        };
        look(None);
        look(Some("192.0.2.2\n192.0.2.4"));
        assert!(denies("192.0.2.1"), "it is seen for the first time like this");
        look(Some("192.0.2.2\n192.0.2.3\n192.0.2.4\n"));
        assert!(denies("192.0.2.1"), "and like this");
        look(None);
        assert!(!denies("192.0.2.1") && denies("192.0.2.3"));
        look(Some("192.0.2.7\nnonsense\n"));
        look(None);
        look(None);
        assert!(denies("192.0.2.3") && !denies("192.0.2.7"), "nothing has changed");
        let stale = table.gate().stale_lists().expect("it cannot be read");
        assert!(
            stale.contains(":2:1: 'nonsense' is not") && stale.ends_with("; the old networks stay in force")
        );
        fs::remove_file(&path).expect("there");
        look(None);
        look(None);
        look(None);
        assert!(denies("192.0.2.3"));
        look(Some("192.0.2.8"));
        look(None);
        assert!(denies("192.0.2.8") && !denies("192.0.2.3"));
        assert_eq!(table.gate().stale_lists(), None);
        let told = told();
        let name = path.display();
        let wanted = [
            format!("{name}: read again, 3 networks"),
            format!("{name}:2:1: 'nonsense' is not an address or a network"),
            format!("{name}: cannot be read: "),
            format!("{name}: read again, 1 network"),
        ];
        assert_eq!(told.len(), wanted.len(), "{told:#?}");
        for (line, wanted) in told.iter().zip(wanted) {
            assert!(line.contains(&wanted), "{line} {wanted}");
        }
    }

    #[test]
    fn a_file_that_never_rests_is_read_all_the_same_and_so_are_those_beside_it() {
        let scratch = Scratch::new();
        let [quiet, busy] = ["quiet", "busy"].map(|name| scratch.path().join(name));
        fs::write(&quiet, "192.0.2.1\n").expect("written");
        fs::write(&busy, "").expect("written");
        let both = NetList {
            items: [&quiet, &busy].map(|path| NetItem::File(path.clone())).to_vec(),
            typed: Typed::default(),
        };
        let table = SharedTable::new(Table::new(Rules::CLASSIC));
        table.gate().set_lists(ListReader::default().lists(None, Some(&both)).expect("all is right"));
        let denies =
            |address: &str| table.gate().denies(address.parse::<IpAddr>().expect(address), Duration::ZERO);
        fs::write(&quiet, "192.0.2.2\n").expect("written");
        let (log, told) = log();
        let (mut looks, mut text) = (Looks::default(), String::new());
        let mut count = 0;
        while !denies("192.0.2.2") {
            count += 1;
            assert!(count <= LONGEST, "{count} looks");
            text += &format!("198.51.100.{count}\n");
            fs::write(&busy, &text).expect("written");
            looks.look(std::slice::from_ref(&table), &log);
        }
        assert!(denies("198.51.100.1") && !denies("192.0.2.1"));
        // A wrong line is logged once, however often it is read again.
        for n in 0..3 * LONGEST {
            fs::write(&busy, format!("nonsense\n{}", "\n".repeat(n as usize))).expect("written");
            looks.look(std::slice::from_ref(&table), &log);
        }
        let told = told();
        assert!(told.len() == 2 && told[1].contains("'nonsense' is not an address"), "{told:#?}");
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        let scratch = Scratch::new();
        let path = scratch.path().join("bad");
        fs::write(&path, "192.0.2.1\n  10.0.0.1/8 # ours\n").expect("written");
        let list = list(&path);
        let errors = ListReader::default().lists(Some(&list), Some(&list)).expect_err("a wrong line");
        let why = "has bits set behind its prefix; write 10.0.0.0/8, or 10.0.0.1 for the one address";
        let told: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].starts_with(&format!("{}:2:3: '10.0.0.1/8' {why}", path.display())), "{told:?}");
        let unknown = without_files(Some(&list), None);
        assert!(*unknown.rules != RuleSet::default() && unknown.stamp == 0);
    }
}
