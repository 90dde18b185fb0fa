//! The thread that looks up channels' names again and applies the answers.
//!
//! Knows: which service has which names, which operator waits for an answer. Never: when a name is due and
//! what an answer means (`book`), which addresses stay (the table decides), sockets.
//! Source: docs/names.md.
//!
//! The thread exists only if some channel has a name. Each lookup has a thread of its own, since a resolver
//! call cannot be cancelled. A lookup that hangs delays only its own name; `book` limits how many may hang.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use super::book::{AnswerMeaning, NameAnswer, NameBook, NameTerms, ToldName};
use super::resident::Resident;
use super::servers;
use crate::observe::{Event, Log, Severity};
use crate::sched::{
    Address, AddressesMoved, ChannelKey, FamilyMoved, FoundMember, NameSnapshot, SharedTable, ShownAddress,
    Table,
};
use crate::spec::is_service_name;
use crate::sys::Clock;
use crate::sys::clock::OwnTime;

/// How many channels are read or changed under one lock, since clients wait for the table meanwhile.
const PIECE: usize = 256;
/// The pause between two such pieces, in which clients get the lock.
const LET_IN: Duration = Duration::from_micros(100);

/// Asks a resolver about a name. May block for any time.
type AskResolver = Arc<dyn Fn(&str) -> ToldName + Send + Sync>;

/// Messages to the thread that it has not read yet.
#[derive(Default)]
struct NameMail {
    /// Services that are new or have new settings.
    minded: BTreeMap<u64, Resident>,
    removed: BTreeSet<u64>,
    /// Services whose tables have changed.
    rung: BTreeSet<u64>,
    doubts: BTreeSet<String>,
    /// Services that have a usable channel now, so that channels which stayed only for want of one can be
    /// removed.
    another: BTreeSet<u64>,
    answers: Vec<(Arc<str>, ToldName)>,
    questions: Vec<NameQuestion>,
    last: u64,
    /// How many callers want no table to be changed now.
    held: usize,
    has_ended: bool,
    /// There is a thread that reads this.
    is_read: bool,
}

/// An operator's request to look names up.
struct NameQuestion {
    resident: u64,
    /// `None`: all names of the service.
    channel: Option<ChannelKey>,
    answer: SyncSender<Vec<NameReport>>,
}

/// The result of a lookup that an operator asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameReport {
    /// The name as it was typed.
    pub name: String,
    /// Its addresses or targets in order, or why there are none.
    pub answer: Result<Vec<String>, String>,
}

/// What the thread needs when it starts.
struct RoundMeans {
    clock: Clock,
    log: Log,
    seed: u64,
    ask: AskResolver,
}

struct ResolverInbox {
    means: RoundMeans,
    mail: Mutex<NameMail>,
    bell: Condvar,
    /// Held while tables are changed.
    work: Mutex<()>,
    /// Number of running lookup threads.
    alive: AtomicUsize,
}

impl ResolverInbox {
    fn mail(&self) -> MutexGuard<'_, NameMail> {
        // The value is consistent even after a panic: each change of it is a single call.
        self.mail.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn say(&self, say: impl FnOnce(&mut NameMail)) {
        say(&mut self.mail());
        self.bell.notify_one();
    }

    /// Starts the thread if it does not run and this table has a name for it.
    fn start_for(self: &Arc<Self>, table: &SharedTable) {
        if self.mail().is_read || !has_names(table) {
            return;
        }
        let mut mail = self.mail();
        if mail.is_read || mail.has_ended {
            return;
        }
        let RoundMeans { clock, log, seed, ask } = &self.means;
        let mut rounds = NameRounds {
            shared: Arc::clone(self),
            ask: Arc::clone(ask),
            clock: *clock,
            own: OwnTime::at(clock.now()),
            log: log.clone(),
            book: NameBook::new(*seed),
            residents: HashMap::new(),
            users: BTreeMap::new(),
            waiting: Vec::new(),
            gone: BTreeMap::new(),
            another: BTreeSet::new(),
        };
        match thread::Builder::new().name("names".into()).spawn(move || rounds.run()) {
            Ok(_) => mail.is_read = true,
            Err(e) => {
                let text = format!("names are not looked up again: cannot start a thread: {e}");
                log.tell(&Event::Note { severity: Severity::Error, text });
            }
        }
    }
}

/// Does any channel have a name? Stops at the first one.
fn has_names(table: &SharedTable) -> bool {
    let mut from = ChannelKey::new(0, 0);
    while let Some(at) = from {
        let (found, next) = table.lock().named(at, PIECE);
        if !found.is_empty() {
            return true;
        }
        from = next;
    }
    false
}

/// The handle of the thread that looks names up again. All clones refer to the same thread.
#[derive(Clone)]
pub struct Resolver(Arc<ResolverInbox>);

/// A service's registration with the thread. All clones refer to the same one.
#[derive(Clone)]
pub struct Residence {
    shared: Arc<ResolverInbox>,
    id: u64,
    table: SharedTable,
}

/// While this value exists, the resolver changes no table and starts no lookup.
pub struct HeldNames(Arc<ResolverInbox>);

impl Drop for HeldNames {
    fn drop(&mut self) {
        self.0.say(|mail| mail.held -= 1);
    }
}

impl std::fmt::Debug for Residence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Residence").field(&self.id).finish()
    }
}

impl Residence {
    /// Tells the thread that the table's channels or their names have changed.
    pub fn ring(&self) {
        self.shared.say(|mail| _ = mail.rung.insert(self.id));
        self.shared.start_for(&self.table);
    }

    /// Tells the thread that channels with these names have failed: their addresses may have changed.
    pub fn doubt(&self, names: BTreeSet<String>) {
        if !names.is_empty() {
            self.shared.say(|mail| mail.doubts.extend(names));
        }
    }

    /// Tells the thread that there is a usable channel now, so that channels which stayed only for want of
    /// one can be removed.
    pub fn another(&self) {
        self.shared.say(|mail| _ = mail.another.insert(self.id));
    }

    /// Looks up the name of a channel, or every name of the service once, and waits for the answers up to
    /// `patience`. `None`: not all answers came in time.
    pub fn ask(&self, channel: Option<ChannelKey>, patience: Duration) -> Option<Vec<NameReport>> {
        if !self.shared.mail().is_read {
            // No channel has a name.
            return Some(Vec::new());
        }
        // A channel that stands for one address of a name is looked up by that name.
        let of_word = |key: ChannelKey| {
            let table = self.table.lock();
            let is_named = table.channel(key).is_some_and(|one| one.naming.is_some());
            if is_named { key } else { table.head_of(key).unwrap_or(key) }
        };
        let channel = channel.map(of_word);
        let (answer, answered) = sync_channel(1);
        let question = NameQuestion { resident: self.id, channel, answer };
        self.shared.say(|mail| mail.questions.push(question));
        answered.recv_timeout(patience).ok()
    }
}

impl Resolver {
    /// A resolver without services. `seed` determines the jitter of lookups.
    pub fn new(
        clock: Clock,
        log: &Log,
        seed: u64,
        ask: impl Fn(&str) -> ToldName + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(ResolverInbox {
            means: RoundMeans { clock, log: log.clone(), seed, ask: Arc::new(ask) },
            mail: Mutex::default(),
            bell: Condvar::new(),
            work: Mutex::default(),
            alive: AtomicUsize::new(0),
        }))
    }

    /// Registers a service with this table. It has no effect before [`mind`](Self::mind) is called for it.
    pub fn residence(&self, table: &SharedTable) -> Residence {
        let mut mail = self.0.mail();
        mail.last += 1;
        Residence { shared: Arc::clone(&self.0), id: mail.last, table: table.clone() }
    }

    /// Starts to look after a service's names, or changes its settings.
    pub fn mind(&self, residence: &Residence, resident: Resident) {
        resident.table.lock().set_ranges(resident.ranges.clone());
        self.0.say(|mail| {
            // A removal may have been requested a moment ago.
            mail.removed.remove(&residence.id);
            mail.minded.insert(residence.id, resident);
        });
        self.0.start_for(&residence.table);
    }

    /// Stops looking after a service's names.
    pub fn leave(&self, residence: &Residence) {
        self.0.say(|mail| {
            mail.minded.remove(&residence.id);
            mail.removed.insert(residence.id);
        });
        self.rest();
    }

    /// Prevents changes to tables. Once this call returns, no table is changed until the returned value is
    /// dropped.
    pub fn hold(&self) -> HeldNames {
        self.0.say(|mail| mail.held += 1);
        self.rest();
        HeldNames(Arc::clone(&self.0))
    }

    /// Waits until the change in progress is finished.
    fn rest(&self) {
        drop(self.0.work.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Ends the thread. Running lookups are not waited for.
    pub fn stop(&self) {
        self.0.say(|mail| mail.has_ended = true);
    }
}

/// A service and the names of its channels.
struct SettledNames {
    resident: Resident,
    names: Vec<(ChannelKey, Arc<str>, bool)>,
    /// What the channels know about their names: after an upgrade, what the predecessor knew.
    known: BTreeMap<Arc<str>, NameSnapshot>,
}

/// An operator's command that waits for answers.
struct NameAsker {
    /// The names that are still missing, and how many answers for each have to come.
    left: BTreeMap<Arc<str>, u8>,
    reports: Vec<NameReport>,
    answer: SyncSender<Vec<NameReport>>,
}

/// The state of the thread.
struct NameRounds {
    shared: Arc<ResolverInbox>,
    ask: AskResolver,
    clock: Clock,
    own: OwnTime,
    log: Log,
    book: NameBook,
    residents: HashMap<u64, SettledNames>,
    /// For each name, the services and channels that use it.
    users: BTreeMap<Arc<str>, BTreeMap<u64, Vec<ChannelKey>>>,
    waiting: Vec<NameAsker>,
    /// Names that are known to have no address any more, and why.
    gone: BTreeMap<Arc<str>, String>,
    /// Services in which channels that stayed only for want of a usable one can be removed now.
    another: BTreeSet<u64>,
}

impl NameRounds {
    fn run(&mut self) {
        while !self.shared.mail().has_ended {
            if catch_unwind(AssertUnwindSafe(|| self.work())).is_err() {
                self.log.tell(&Event::WorkerPanic { what: "names".into() });
            }
        }
    }

    fn work(&mut self) {
        loop {
            self.wait();
            let shared = Arc::clone(&self.shared);
            // Nothing may be applied after `hold` has returned, so tables are changed only under this lock.
            let _work = shared.work.lock().unwrap_or_else(PoisonError::into_inner);
            let now = self.own.reading(self.clock.now());
            let Some((mail, is_held)) = self.take_mail() else { return };
            self.learn(mail, now);
            if is_held {
                // No answer is looked at before the hold is over, or ever.
                self.waiting.clear();
                continue;
            }
            while let Some((name, meaning)) = self.book.late(now) {
                self.apply(&name, meaning);
            }
            while let Some(id) = self.another.pop_first() {
                self.see_off(id);
            }
            while let Some(name) = self.book.begin(now, self.threads()) {
                self.look_up(name);
            }
        }
    }

    fn threads(&self) -> usize {
        self.shared.alive.load(Ordering::SeqCst)
    }

    /// Waits until there is a message or something is due. May return early.
    fn wait(&mut self) {
        let shared = Arc::clone(&self.shared);
        let mail = shared.mail();
        let due =
            if self.another.is_empty() { self.book.next_due(self.threads()) } else { Some(Duration::ZERO) };
        let due = due.filter(|_| mail.held == 0);
        let patience = due.map(|due| due.saturating_sub(self.own.reading(self.clock.now())));
        let asked = if mail.is_empty() { patience } else { Some(Duration::ZERO) };
        drop(match asked {
            Some(Duration::ZERO) => mail,
            Some(patience) => {
                shared.bell.wait_timeout(mail, patience).unwrap_or_else(PoisonError::into_inner).0
            }
            None => shared.bell.wait(mail).unwrap_or_else(PoisonError::into_inner),
        });
        self.own.waited(asked, self.clock.now());
    }

    /// Takes all messages, and whether tables may not be changed now; answers stay in the mailbox then.
    /// `None`: the thread has to end.
    fn take_mail(&self) -> Option<(NameMail, bool)> {
        let mut mail = self.shared.mail();
        if mail.has_ended {
            return None;
        }
        let is_held = mail.held > 0;
        let answers = if is_held { std::mem::take(&mut mail.answers) } else { Vec::new() };
        let (last, held, is_read) = (mail.last, mail.held, mail.is_read);
        let stays = NameMail { answers, last, held, is_read, ..NameMail::default() };
        Some((std::mem::replace(&mut *mail, stays), is_held))
    }

    fn learn(&mut self, mail: NameMail, now: Duration) {
        let NameMail { minded, removed, mut rung, doubts, another, answers, questions, .. } = mail;
        self.another.extend(another.into_iter().chain(rung.iter().copied()));
        for (id, resident) in minded {
            let names = self.residents.remove(&id).map_or_else(Vec::new, |before| before.names);
            self.residents.insert(id, SettledNames { resident, names, known: BTreeMap::new() });
            rung.insert(id);
        }
        rung.extend(questions.iter().map(|question| question.resident));
        self.residents.retain(|id, _| !removed.contains(id));
        if !rung.is_empty() || !removed.is_empty() {
            rung.into_iter().for_each(|id| self.scan(id));
            self.index(now);
        }
        for name in doubts {
            self.book.doubt(&name, now);
        }
        for question in questions {
            self.begin_to_answer(question, now);
        }
        for (name, ToldName { answer, holds }) in answers {
            let report = report(&name, &answer);
            if let Some(meaning) = self.book.answered(&name, answer, holds, now) {
                self.apply(&name, meaning);
            }
            self.tell(&name, &report);
        }
    }

    /// Reads which names the channels of a service have.
    fn scan(&mut self, id: u64) {
        let Some(SettledNames { resident, names, known }) = self.residents.get_mut(&id) else { return };
        names.clear();
        known.clear();
        let mut from = ChannelKey::new(0, 0);
        while let Some(at) = from.take() {
            let table = resident.table.lock_at(self.clock.now());
            let (found, next) = table.named(at, PIECE);
            for (key, addresses) in found {
                let Some(name) = addresses.name().map(Arc::<str>::from) else { continue };
                // Of a name that does not fail, nothing has to be remembered.
                let fails = table.naming(key).filter(|naming| naming.failing.is_some());
                known.extend(fails.map(|naming| (Arc::clone(&name), naming)));
                names.push((key, name, !addresses.is_known()));
            }
            drop(table);
            from = next;
            if from.is_some() {
                thread::sleep(LET_IN);
            }
        }
    }

    /// Rebuilds the index of names, and tells the book on which terms to look each one up.
    fn index(&mut self, now: Duration) {
        self.users.clear();
        let mut terms: BTreeMap<Arc<str>, NameTerms> = BTreeMap::new();
        for (&id, SettledNames { resident, names, .. }) in &self.residents {
            for (key, name, is_unknown) in names {
                self.users.entry(Arc::clone(name)).or_default().entry(id).or_default().push(*key);
                let terms = terms.entry(Arc::clone(name)).or_insert_with(|| NameTerms {
                    every: None,
                    is_unknown: false,
                    is_told: servers::tell_how_long(name),
                });
                terms.every = [terms.every, resident.every].into_iter().flatten().min();
                terms.is_unknown |= is_unknown;
            }
        }
        self.gone.retain(|name, _| terms.contains_key(name));
        self.book.keep(&terms.keys().cloned().collect());
        for (name, terms) in terms {
            let known = self.residents.values().find_map(|settled| settled.known.get(&name));
            self.book.want(&name, terms, known, now);
        }
    }

    fn look_up(&self, name: Arc<str>) {
        self.shared.alive.fetch_add(1, Ordering::SeqCst);
        let lookup = OneLookup {
            shared: Arc::clone(&self.shared),
            name,
            answer: NameAnswer::Failed("the lookup failed unexpectedly".to_owned()).into(),
        };
        let ask = Arc::clone(&self.ask);
        let work = move || {
            let mut lookup = lookup;
            lookup.answer = ask(&lookup.name);
        };
        // Without a thread the lookup is dropped, which reports a failure.
        if let Err(e) = thread::Builder::new().name("name".into()).spawn(work) {
            let text = format!("cannot start a thread to look a name up: {e}");
            self.log.tell(&Event::Note { severity: Severity::Debug, text });
        }
    }

    /// Removes channels of a service that stayed only for want of a usable one, if there is one now.
    fn see_off(&mut self, id: u64) {
        let Some(SettledNames { resident, .. }) = self.residents.get(&id) else { return };
        let families = {
            let mut table = resident.table.lock_at(self.clock.now());
            if !table.take_another() {
                return;
            }
            table.see_off_all()
        };
        let mut has_others = !families.is_empty();
        if has_others {
            (resident.changed)();
        }
        for moved in families {
            let name = resident
                .table
                .lock()
                .channel(moved.head)
                .and_then(|one| one.addresses.host().map(str::to_owned));
            tell_of_family(resident, &name.unwrap_or_default(), moved);
        }
        for (name, why) in &self.gone {
            if let Some(keys) = self.users.get(name).and_then(|users| users.get(&id)) {
                has_others |= gone(resident, name, keys, why, self.clock);
            }
        }
        if has_others {
            self.scan(id);
            self.index(self.own.reading(self.clock.now()));
        }
    }

    /// Applies the meaning of an answer to all tables.
    fn apply(&mut self, name: &Arc<str>, meaning: AnswerMeaning) {
        match &meaning {
            AnswerMeaning::Has(..) | AnswerMeaning::Serves(..) => _ = self.gone.remove(name),
            AnswerMeaning::Gone(why, _) => _ = self.gone.insert(Arc::clone(name), why.clone()),
            // The name may have been gone before and still be.
            AnswerMeaning::Keeps(..) => {}
        }
        let Some(users) = self.users.get(name) else { return };
        let (mut is_known_otherwise, mut others) = (false, BTreeSet::new());
        let absent = self.book.absent(name, self.own.reading(self.clock.now()));
        for (id, keys) in users {
            let Some(SettledNames { resident, names, .. }) = self.residents.get_mut(id) else { continue };
            match &meaning {
                AnswerMeaning::Has(_, after) | AnswerMeaning::Serves(_, after) => {
                    if let Some(after) = *after {
                        resident.log.tell(&Event::ResolveBack { host: name.to_string(), after });
                    }
                    if has(resident, name, keys, &meaning, self.clock) {
                        others.insert(*id);
                    }
                    for (_, known, is_unknown) in names.iter_mut().filter(|(.., is_unknown)| *is_unknown) {
                        if known == name {
                            (*is_unknown, is_known_otherwise) = (false, true);
                        }
                    }
                }
                AnswerMeaning::Keeps(why, is_new) | AnswerMeaning::Gone(why, is_new) => {
                    if *is_new {
                        let (host, cause) = (name.to_string(), why.clone());
                        resident.log.tell(&Event::ResolveFailed { host, cause });
                    }
                    in_pieces(resident, keys, self.clock, |table, keys| {
                        keys.iter().for_each(|&key| table.name_failed(key, name, why, absent));
                    });
                    if !matches!(meaning, AnswerMeaning::Gone(..)) {
                        continue;
                    }
                    if gone(resident, name, keys, why, self.clock) {
                        others.insert(*id);
                    }
                    // A service name without targets is looked up as often as a name without a known address.
                    for (_, known, is_unknown) in names.iter_mut().filter(|_| is_service_name(name)) {
                        if known == name && !std::mem::replace(is_unknown, true) {
                            is_known_otherwise = true;
                        }
                    }
                }
            }
        }
        // Channels with names of their own were added or removed.
        others.iter().for_each(|&id| self.scan(id));
        if is_known_otherwise || !others.is_empty() {
            self.index(self.own.reading(self.clock.now()));
        }
    }

    fn begin_to_answer(&mut self, question: NameQuestion, now: Duration) {
        let NameQuestion { resident, channel, answer } = question;
        let names = self.residents.get(&resident).map_or(&[][..], |settled| &settled.names);
        let wanted = names.iter().filter(|(key, ..)| channel.is_none_or(|wanted| wanted == *key));
        let left: BTreeSet<Arc<str>> = wanted.map(|(_, name, _)| Arc::clone(name)).collect();
        // A lookup that already runs may return an older answer, so a second one is waited for.
        let left: BTreeMap<Arc<str>, u8> = left
            .into_iter()
            .map(|name| {
                let answers = if self.book.is_under_way(&name) { 2 } else { 1 };
                self.book.ask(&name, now);
                (name, answers)
            })
            .collect();
        let waiting = NameAsker { left, reports: Vec::new(), answer };
        if let Some(waiting) = waiting.told_if_done() {
            self.waiting.push(waiting);
        }
    }

    /// Passes the report on a name to all operators' commands that wait for it.
    fn tell(&mut self, name: &Arc<str>, report: &NameReport) {
        let waiting = std::mem::take(&mut self.waiting);
        self.waiting = waiting
            .into_iter()
            .filter_map(|mut one| {
                // Commands that wait for more names go on waiting.
                if let Some(count) = one.left.get_mut(name) {
                    *count -= 1;
                    if *count == 0 {
                        one.left.remove(name);
                        one.reports.push(report.clone());
                    }
                }
                one.told_if_done()
            })
            .collect();
    }
}

/// A running lookup. It always sends an answer when it is dropped.
struct OneLookup {
    shared: Arc<ResolverInbox>,
    name: Arc<str>,
    answer: ToldName,
}

impl Drop for OneLookup {
    fn drop(&mut self) {
        self.shared.alive.fetch_sub(1, Ordering::SeqCst);
        let answer = std::mem::replace(&mut self.answer, NameAnswer::Failed(String::new()).into());
        self.shared.say(|mail| mail.answers.push((Arc::clone(&self.name), answer)));
    }
}

impl NameAsker {
    /// Sends the reports if all have come. Returns itself if some are missing.
    fn told_if_done(mut self) -> Option<Self> {
        if !self.left.is_empty() {
            return Some(self);
        }
        self.reports.sort_by(|one, other| one.name.cmp(&other.name));
        // The receiver may have given up; that is no error.
        let _ = self.answer.send(self.reports);
        None
    }
}

impl NameMail {
    fn is_empty(&self) -> bool {
        let has_answers = !self.answers.is_empty() && self.held == 0;
        let has_news = !self.minded.is_empty() || !self.removed.is_empty();
        let has_more = !self.rung.is_empty() || !self.doubts.is_empty() || !self.questions.is_empty();
        !(has_answers || has_news || has_more || !self.another.is_empty() || self.has_ended)
    }
}

fn report(name: &Arc<str>, answer: &NameAnswer) -> NameReport {
    let answer = match answer {
        NameAnswer::Found(found) => {
            let mut all: Vec<IpAddr> = found.iter().map(SocketAddr::ip).collect();
            all.sort_unstable();
            all.dedup();
            Ok(all.iter().map(IpAddr::to_string).collect())
        }
        NameAnswer::Serves(targets) => {
            let mut all = targets.clone();
            all.sort_by(|one, other| {
                (one.priority, &one.host, one.port).cmp(&(other.priority, &other.host, other.port))
            });
            let text = |one: &FoundMember| {
                format!("{}:{} priority {} weight {}", one.host, one.port, one.priority, one.weight)
            };
            Ok(all.iter().map(text).collect())
        }
        NameAnswer::Absent(why) | NameAnswer::Failed(why) => Err(why.clone()),
    };
    NameReport { name: name.to_string(), answer }
}

/// Calls `work` with the keys in pieces, each under one lock.
fn in_pieces(
    resident: &Resident,
    keys: &[ChannelKey],
    clock: Clock,
    mut work: impl FnMut(&mut Table, &[ChannelKey]),
) {
    for (number, piece) in keys.chunks(PIECE).enumerate() {
        if number > 0 {
            thread::sleep(LET_IN);
        }
        work(&mut resident.table.lock_at(clock.now()), piece);
    }
}

/// Gives the channels of a name the addresses or targets that a resolver reported. `true` if channels were
/// added or removed.
fn has(resident: &Resident, name: &str, keys: &[ChannelKey], meaning: &AnswerMeaning, clock: Clock) -> bool {
    let (found, members) = match meaning {
        AnswerMeaning::Has(found, _) => (&found[..], found.iter().copied().map(FoundMember::of).collect()),
        AnswerMeaning::Serves(members, _) => (&[][..], members.clone()),
        AnswerMeaning::Keeps(..) | AnswerMeaning::Gone(..) => return false,
    };
    let (mut moved, mut families) = (Vec::new(), Vec::new());
    let net: Vec<_> = found.iter().map(|&address| address.into()).collect();
    in_pieces(resident, keys, clock, |table, keys| {
        for &key in keys {
            if table.is_head(key) {
                families.extend(table.family_found(key, name, &members));
            } else if !found.is_empty() {
                let one = table.name_found(key, name, &net);
                families.extend(one.as_ref().and_then(|_| table.see_off_for(key)));
                moved.extend(one);
            }
        }
    });
    if moved.is_empty() && families.is_empty() {
        return false;
    }
    (resident.changed)();
    let text =
        |all: Vec<Address>| all.into_iter().map(|one| ShownAddress(one).to_string()).collect::<Vec<_>>();
    for one in moved {
        let AddressesMoved { channel, now, added, left, ejected, .. } = one;
        if let Some(kick) = resident.kick.as_ref().filter(|_| !left.is_empty()) {
            kick(channel, left.clone());
        }
        let (host, now, added, left) = (name.to_owned(), text(now), text(added), text(left));
        resident.log.tell(&Event::Resolved { channel, host, now, added, left, changed: Vec::new() });
        ejected.into_iter().for_each(|transition| resident.log.tell(&Event::from(transition)));
    }
    let has_others = !families.is_empty();
    families.into_iter().for_each(|moved| tell_of_family(resident, name, moved));
    has_others
}

/// Logs which channels of a word were added and removed, and closes connections to removed ones.
fn tell_of_family(resident: &Resident, name: &str, moved: FamilyMoved) {
    let FamilyMoved { head: channel, now, joined: added, left, other: changed, is_short, .. } = moved;
    let kick = resident.kick.as_ref();
    let left: Vec<String> = left
        .into_iter()
        .map(|(one, label, addresses)| {
            if let Some(kick) = kick {
                kick(one, addresses);
            }
            label
        })
        .collect();
    if is_short {
        let text = format!(
            "group {} has used up its numbers, so some channels of {name} are missing; restart balance to use them again",
            channel.group.index()
        );
        resident.log.tell(&Event::Note { severity: Severity::Error, text });
    }
    if !added.is_empty() || !left.is_empty() || !changed.is_empty() {
        resident.log.tell(&Event::Resolved { channel, host: name.to_owned(), now, added, left, changed });
    }
}

/// Removes the channels of a name that has no address any more, as far as the service keeps other channels.
/// `true` if channels of a family were removed.
fn gone(resident: &Resident, name: &str, keys: &[ChannelKey], why: &str, clock: Clock) -> bool {
    // Targets of a service name have names of their own, which may still resolve. They are removed as if the
    // service had other targets.
    let of_services: Vec<FamilyMoved> = {
        let mut table = resident.table.lock_at(clock.now());
        keys.iter().filter_map(|&key| table.service_gone(key, name)).collect()
    };
    let has_others = !of_services.is_empty();
    if has_others {
        (resident.changed)();
    }
    of_services.into_iter().for_each(|moved| tell_of_family(resident, name, moved));
    let gone = resident.table.lock_at(clock.now()).name_gone(keys, name, why);
    if gone.is_empty() {
        return has_others;
    }
    (resident.changed)();
    let (many, rest): (Vec<_>, Vec<_>) = {
        let table = resident.table.lock();
        gone.into_iter().partition(|&key| table.is_head(key))
    };
    // A word with many channels is logged once.
    for channel in many {
        resident.log.tell(&Event::Unresolved { channel, host: name.to_owned(), cause: why.to_owned() });
    }
    for channel in rest {
        let (one, head) = {
            let table = resident.table.lock();
            (table.channel(channel), table.head_of(channel))
        };
        // A target of a service name has a name of its own.
        let is_one_of_many = head.is_some() && one.as_ref().is_some_and(|one| one.naming.is_none());
        let addresses = one.map(|one| one.addresses.as_slice().to_vec());
        if let (Some(kick), Some(addresses)) = (&resident.kick, addresses) {
            kick(channel, addresses);
        }
        if !is_one_of_many {
            resident.log.tell(&Event::Unresolved { channel, host: name.to_owned(), cause: why.to_owned() });
        }
    }
    has_others
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, channel};

    use super::*;
    use crate::sched::{Addresses, AdminState, GroupId, HealthState, Rules};
    use crate::spec::{Address, FamilyKind};
    use crate::sys::clock::Told;

    const DEADLINE: Duration = Duration::from_secs(20);
    const A_DAY: Duration = Duration::from_secs(86_400);

    fn at(last: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, last], 80))
    }

    fn table(names: &[(&str, u8)]) -> SharedTable {
        let mut table = Table::new(Rules::CLASSIC);
        for &(name, last) in names {
            let addresses = Addresses::from(at(last)).named(name);
            table.create(GroupId::FIRST, addresses, None, AdminState::Enabled).expect("a number");
        }
        SharedTable::new(table)
    }

    fn key(number: usize) -> ChannelKey {
        ChannelKey::new(0, number).expect("a key")
    }

    fn first(table: &SharedTable, number: usize) -> SocketAddr {
        table
            .lock()
            .channel(key(number))
            .expect("it is there")
            .addresses
            .first()
            .net()
            .expect("of the network")
    }

    type Kicked = (ChannelKey, Vec<Address>);

    /// A service with this table, and the kicks that it gets.
    fn settle(resolver: &Resolver, table: &SharedTable, log: &Log) -> (Residence, Receiver<Kicked>) {
        let residence = resolver.residence(table);
        let (kicks, kicked) = channel();
        let resident = Resident {
            table: table.clone(),
            log: log.clone(),
            every: Some(A_DAY),
            ranges: Vec::new(),
            kick: Some(Box::new(move |channel, addresses| _ = kicks.send((channel, addresses)))),
            changed: Box::new(|| ()),
        };
        resolver.mind(&residence, resident);
        (residence, kicked)
    }

    #[test]
    fn a_name_that_is_gone_is_believed_after_a_while_and_comes_back() {
        static TIME: std::sync::LazyLock<Told> = std::sync::LazyLock::new(Told::default);
        let answer = Arc::new(Mutex::new(NameAnswer::Absent("no such name".to_owned())));
        let (log, said) = (Log::kept(|| ()), Arc::clone(&answer));
        let resolver = Resolver::new(Clock::told(&TIME), &log, 1, move |_: &str| {
            said.lock().expect("whole").clone().into()
        });
        let table = table(&[("web", 1), ("10.0.0.9", 9)]);
        let (residence, kicked) = settle(&resolver, &table, &log);
        let state = || table.lock().channel(key(0)).expect("it is there").health.state;
        // In steps that the thread does not take for a pause of its own.
        for tick in 0..=200 {
            TIME.set(tick * 200_000);
            let reports = residence.ask(None, DEADLINE).expect("an answer");
            let answer = Err("no such name".to_owned());
            assert_eq!(reports, [NameReport { name: "web".to_owned(), answer }]);
            assert!(tick >= 150 || state() == HealthState::Untried, "after {tick} fifths of a second");
        }
        assert_eq!(state(), HealthState::Down);
        assert_eq!(kicked.recv_timeout(DEADLINE), Ok((key(0), vec![at(1).into()])));
        *answer.lock().expect("whole") = NameAnswer::Found(vec![at(2), at(3)]);
        let reports = residence.ask(Some(key(0)), DEADLINE).expect("an answer");
        assert_eq!(reports[0].answer, Ok(vec![at(2).ip().to_string(), at(3).ip().to_string()]));
        assert_eq!((state(), first(&table, 0)), (HealthState::Untried, at(2)));
        assert_eq!(kicked.recv_timeout(DEADLINE), Ok((key(0), vec![at(1).into()])));
        // An address is not a name.
        assert_eq!(residence.ask(Some(key(1)), DEADLINE), Some(Vec::new()));
        resolver.stop();
    }

    #[test]
    fn what_was_kept_for_want_of_another_goes_as_soon_as_there_is_one() {
        static TIME: std::sync::LazyLock<Told> = std::sync::LazyLock::new(Told::default);
        let log = Log::kept(|| ());
        let resolver = Resolver::new(Clock::told(&TIME), &log, 1, |_: &str| {
            NameAnswer::Absent("no such name".to_owned()).into()
        });
        let table = table(&[("web", 1), ("10.0.0.9", 9)]);
        table.lock().set_state(key(1), AdminState::Disabled).expect("it is there");
        let (residence, kicked) = settle(&resolver, &table, &log);
        for tick in 0..=200 {
            TIME.set(tick * 200_000);
            residence.ask(None, DEADLINE).expect("an answer");
        }
        let state = || table.lock().channel(key(0)).expect("it is there").health.state;
        assert_eq!(state(), HealthState::Untried, "it is the last one");
        table.lock().set_state(key(1), AdminState::Enabled).expect("it is there");
        assert!(table.lock().has_another());
        // While another process takes over, nothing changes.
        let held = resolver.hold();
        residence.another();
        let begun = std::time::Instant::now();
        assert_eq!(residence.ask(None, DEADLINE), None);
        assert!(begun.elapsed() < DEADLINE, "nobody waits for what does not come");
        assert_eq!(state(), HealthState::Untried);
        drop(held);
        assert_eq!(kicked.recv_timeout(DEADLINE), Ok((key(0), vec![at(1).into()])));
        assert_eq!(state(), HealthState::Down);
        resolver.stop();
    }

    #[test]
    fn a_target_whose_name_is_gone_is_told_of() {
        static TIME: std::sync::LazyLock<Told> = std::sync::LazyLock::new(Told::default);
        let log = Log::kept(|| ());
        let targets = ["a", "b"].map(|host| FoundMember { host: host.to_owned(), ..FoundMember::of(at(1)) });
        let serves = targets.to_vec();
        let resolver = Resolver::new(Clock::told(&TIME), &log, 1, move |name: &str| {
            let answer = match name {
                "a" => NameAnswer::Absent("no such name".to_owned()),
                "b" => NameAnswer::Found(vec![at(1)]),
                _ => NameAnswer::Serves(serves.clone()),
            };
            answer.into()
        });
        let mut service = Table::new(Rules::CLASSIC);
        let word = Addresses::of_family(FamilyKind::Service, "_x._tcp.t", 0, Some(targets.to_vec()));
        service.create(GroupId::FIRST, word, None, AdminState::Enabled).expect("a number");
        service.settle_families();
        let table = SharedTable::new(service);
        let (residence, _kicked) = settle(&resolver, &table, &log);
        for tick in 0..=160 {
            TIME.set(tick * 200_000);
            assert_eq!(residence.ask(None, DEADLINE).expect("an answer").len(), 3);
        }
        let told: Vec<Event> =
            log.take().into_iter().filter(|one| matches!(one, Event::Unresolved { .. })).collect();
        let (host, cause) = ("a".to_owned(), "no such name".to_owned());
        assert_eq!(told, [Event::Unresolved { channel: key(1), host, cause }]);
        resolver.stop();
    }

    #[test]
    fn a_service_that_has_lost_its_targets_is_looked_up_often_until_it_has_some() {
        static TIME: std::sync::LazyLock<Told> = std::sync::LazyLock::new(Told::default);
        let asked = Arc::new(AtomicUsize::new(0));
        let (log, counts) = (Log::kept(|| ()), Arc::clone(&asked));
        let resolver = Resolver::new(Clock::told(&TIME), &log, 1, move |_: &str| {
            counts.fetch_add(1, Ordering::SeqCst);
            NameAnswer::Absent("no SRV record".to_owned()).into()
        });
        let mut now = 0;
        for is_last in [false, true] {
            let mut service = Table::new(Rules::CLASSIC);
            let target = FoundMember { host: "a".to_owned(), ..FoundMember::of(at(1)) };
            let name = format!("_x._tcp.t{is_last}");
            let word = Addresses::of_family(FamilyKind::Service, &name, 0, Some(vec![target])).lazily(true);
            service.create(GroupId::FIRST, word, None, AdminState::Enabled).expect("a number");
            if !is_last {
                service.create(GroupId::FIRST, at(9).into(), None, AdminState::Enabled).expect("a number");
            }
            service.settle_families();
            let table = SharedTable::new(service);
            let residence = resolver.residence(&table);
            let resident = Resident {
                table: table.clone(),
                log: log.clone(),
                every: None,
                ranges: Vec::new(),
                kick: None,
                changed: Box::new(|| ()),
            };
            resolver.mind(&residence, resident);
            for _ in 0..=160 {
                now += 200_000;
                TIME.set(now);
                residence.ask(Some(key(0)), DEADLINE).expect("an answer");
            }
            let before = asked.load(Ordering::SeqCst);
            // Once more within 2 s plus a tenth, without anybody asking. The rings only make the thread look
            // at the clock.
            for _ in 0..12 {
                now += 200_000;
                TIME.set(now);
                residence.ask(Some(key(7)), DEADLINE).expect("nobody has that number");
            }
            let begun = std::time::Instant::now();
            while asked.load(Ordering::SeqCst) == before {
                assert!(begun.elapsed() < DEADLINE, "it is looked up: the last one {is_last}");
                thread::yield_now();
            }
            resolver.leave(&residence);
        }
        resolver.stop();
    }

    #[test]
    fn a_resolver_that_hangs_or_panics_holds_up_no_other_name() {
        let log = Log::kept(|| ());
        let (go_on, waits) = channel::<()>();
        let waits = Mutex::new(waits);
        let resolver = Resolver::new(Clock::start(), &log, 1, move |name: &str| match name {
            "hangs" => {
                let _ = waits.lock().expect("whole").recv();
                NameAnswer::Found(vec![at(7)]).into()
            }
            "breaks" => panic!("on purpose"),
            _ => NameAnswer::Found(vec![at(8)]).into(),
        });
        let table = table(&[("hangs", 1), ("breaks", 2), ("web", 3)]);
        let (residence, _kicked) = settle(&resolver, &table, &log);
        assert_eq!(residence.ask(Some(key(0)), Duration::from_millis(20)), None);
        let broken = residence.ask(Some(key(1)), DEADLINE).expect("an answer");
        assert_eq!(broken[0].answer, Err("the lookup failed unexpectedly".to_owned()));
        assert!(residence.ask(Some(key(2)), DEADLINE).expect("an answer")[0].answer.is_ok());
        assert_eq!([0, 1, 2].map(|number| first(&table, number)), [at(1), at(2), at(8)]);
        // While changes are held, nothing changes.
        let held = resolver.hold();
        go_on.send(()).expect("it waits");
        assert_eq!(residence.ask(Some(key(2)), Duration::from_millis(20)), None);
        assert_eq!(first(&table, 0), at(1));
        drop(held);
        drop(go_on);
        assert!(residence.ask(Some(key(0)), DEADLINE).is_some());
        assert_eq!(first(&table, 0), at(7));
        resolver.stop();
    }

    #[test]
    fn many_that_hang_hold_up_no_name_that_is_answered() {
        let log = Log::kept(|| ());
        let (go_on, waits) = channel::<()>();
        let waits = Arc::new(Mutex::new(waits));
        let resolver = Resolver::new(Clock::start(), &log, 1, move |name: &str| {
            if name.starts_with("hangs") {
                let _ = waits.lock().expect("whole").recv();
            }
            NameAnswer::Found(vec![at(8)]).into()
        });
        let names: Vec<String> = (0..40).map(|n| format!("hangs{n}")).chain(["web".to_owned()]).collect();
        let table = table(&names.iter().map(|name| (&**name, 1)).collect::<Vec<_>>());
        let (residence, _kicked) = settle(&resolver, &table, &log);
        assert_eq!(residence.ask(None, Duration::from_millis(20)), None, "they hang");
        assert!(residence.ask(Some(key(40)), DEADLINE).expect("an answer")[0].answer.is_ok());
        assert_eq!([0, 40].map(|number| first(&table, number)), [at(1), at(8)]);
        drop(go_on);
        resolver.stop();
    }

    #[test]
    fn what_is_left_is_not_looked_up_and_what_is_minded_again_is() {
        let log = Log::kept(|| ());
        let resolver =
            Resolver::new(Clock::start(), &log, 1, |_: &str| NameAnswer::Found(vec![at(8)]).into());
        let table = table(&[("web", 1)]);
        let (residence, _kicked) = settle(&resolver, &table, &log);
        resolver.leave(&residence);
        assert_eq!(residence.ask(None, DEADLINE), Some(Vec::new()));
        residence.doubt(BTreeSet::from(["web".to_owned()]));
        assert_eq!(residence.ask(None, DEADLINE), Some(Vec::new()));
        assert_eq!(first(&table, 0), at(1));
        let resident = |every| Resident {
            table: table.clone(),
            log: log.clone(),
            every,
            ranges: Vec::new(),
            kick: None,
            changed: Box::new(|| ()),
        };
        // Removed and added again before the thread has read of either.
        resolver.leave(&residence);
        resolver.mind(&residence, resident(None));
        assert_eq!(residence.ask(None, DEADLINE).map(|reports| reports.len()), Some(1));
        assert_eq!(first(&table, 0), at(8));
        resolver.stop();
    }

    #[test]
    fn there_is_no_thread_without_a_name() {
        let log = Log::kept(|| ());
        let resolver =
            Resolver::new(Clock::start(), &log, 1, |_: &str| NameAnswer::Found(vec![at(8)]).into());
        let table = table(&[("10.0.0.1", 1), ("::1", 2)]);
        let (residence, _kicked) = settle(&resolver, &table, &log);
        residence.ring();
        assert!(!resolver.0.mail().is_read);
        assert_eq!(residence.ask(None, DEADLINE), Some(Vec::new()));
        let addresses = Addresses::from(at(3)).named("web");
        table.lock().create(GroupId::FIRST, addresses, None, AdminState::Enabled).expect("a number");
        residence.ring();
        assert!(resolver.0.mail().is_read);
        assert_eq!(residence.ask(None, DEADLINE).map(|reports| reports.len()), Some(1));
        resolver.stop();
    }
}
