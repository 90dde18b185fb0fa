//! Asks the instance, on a thread of its own, so that keys work while it does not answer.
//!
//! Knows: which commands a look consists of, an instance that ends or is replaced. Never: the screen, keys.
//! Source: docs/json.md; docs/control.md, "The protocol".

use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::facts::{AnswerFacts, ServiceFacts, TableFacts, read_answer};
use super::looked::{StartSpan, TopLook};
use super::news::{NewsTeller, TopNews};
use super::target::{TopTarget, is_called};
use super::verbs::TopOrder;
use crate::control::client::{AskError, Client};
use crate::control::find::{self, Wanted};
use crate::control::render::HANDED_OVER;

/// Of this many services besides the shown one, the tables are fetched, too.
const OTHERS: usize = 15;
/// Maximum number of channels that those services may have together; with more, none is fetched.
const CHANNELS_OF_OTHERS: u64 = 1_000;
/// Number of events that are fetched.
const EVENTS: usize = 200;
/// Maximum length of an answer, in bytes.
const LONGEST: usize = 256 << 20;
/// A confirmed command that could not be sent within this time is not sent at all.
pub(super) const SOON: Duration = Duration::from_secs(2);
/// The first line of 3.57's message if there is no instance.
const NO_MASTER: &str = "no master process, exiting.";

/// What to look at.
#[derive(Debug, Clone)]
pub(super) struct LookWanted {
    /// The service to show; `None`: the one that a session begins with.
    pub(super) service: Option<String>,
    pub(super) sessions: bool,
}

enum TopQuestion {
    Look(LookWanted),
    /// A command that the operator has confirmed.
    Order(TopOrder, OrderTicket),
}

/// Decides whether a confirmed command is sent or given up. Both threads see the same decision.
#[derive(Debug, Clone)]
pub(super) struct OrderTicket {
    fate: Arc<AtomicU8>,
    given_at: Instant,
}

impl OrderTicket {
    const OPEN: u8 = 0;
    const SENT: u8 = 1;
    const GIVEN_UP: u8 = 2;

    fn new() -> Self {
        Self { fate: Arc::new(AtomicU8::new(Self::OPEN)), given_at: Instant::now() }
    }

    /// Is it too late to send the command?
    pub(super) fn is_late(&self) -> bool {
        self.given_at.elapsed() >= SOON
    }

    fn decide(&self, fate: u8) -> bool {
        self.fate.compare_exchange(Self::OPEN, fate, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    /// Gives the command up. `false`: it was sent, or was given up before.
    pub(super) fn give_up(&self) -> bool {
        self.decide(Self::GIVEN_UP)
    }

    /// Marks the command as sent. `false`: it must not be sent any more.
    fn send(&self) -> bool {
        !self.is_late() && self.decide(Self::SENT)
    }
}

/// The asking thread. Dropping this ends it, even while it waits for an answer.
pub(super) struct Asker {
    questions: Sender<TopQuestion>,
    session: Arc<Mutex<Option<UnixStream>>>,
}

impl Asker {
    /// Starts the thread with this session.
    pub(super) fn start(
        client: Client,
        wanted: &Wanted,
        teller: NewsTeller,
        begun: Instant,
    ) -> std::io::Result<Self> {
        let (questions, asked) = channel();
        let session = Arc::new(Mutex::new(client.socket().ok()));
        let mut asking = Asking {
            client: Some(client),
            wanted: wanted.clone(),
            first: None,
            begun,
            session: Arc::clone(&session),
        };
        let work = move || {
            for question in asked {
                let asked_at = Instant::now();
                teller.tell(match question {
                    TopQuestion::Look(wanted) => match asking.look_or_again(&wanted) {
                        Ok(look) => TopNews::Look(Box::new(look), asked_at.elapsed()),
                        Err(why) => TopNews::NoLook(why),
                    },
                    TopQuestion::Order(order, ticket) => match asking.order(&order, &ticket) {
                        Some((text, code)) => TopNews::Answer(text, code),
                        None => continue,
                    },
                });
            }
        };
        thread::Builder::new().name("asker".into()).spawn(work)?;
        Ok(Self { questions, session })
    }

    pub(super) fn look(&self, wanted: LookWanted) {
        // The thread lives as long as this value.
        let _ = self.questions.send(TopQuestion::Look(wanted));
    }

    /// Sends a command soon or never, and only if its target still exists.
    pub(super) fn order(&self, order: TopOrder) -> OrderTicket {
        let ticket = OrderTicket::new();
        let _ = self.questions.send(TopQuestion::Order(order, ticket.clone()));
        ticket
    }
}

impl Drop for Asker {
    fn drop(&mut self) {
        if let Some(socket) = &*self.session.lock().unwrap_or_else(PoisonError::into_inner) {
            // The socket may be shut down already.
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

struct Asking {
    client: Option<Client>,
    wanted: Wanted,
    /// The label of the service that the session began with.
    first: Option<String>,
    /// The start of our clock.
    begun: Instant,
    session: Arc<Mutex<Option<UnixStream>>>,
}

/// Why a look failed.
enum NoLook {
    /// The instance closed the connection. Another process may answer.
    Gone,
    /// The service disappeared between two answers.
    Changed,
    Why(String),
}

impl Asking {
    /// Looks; if the instance goes away meanwhile, tries its successor once.
    fn look_or_again(&mut self, wanted: &LookWanted) -> Result<TopLook, String> {
        let mut last = String::new();
        for _ in 0..2 {
            match self.look(wanted) {
                Ok(look) => return Ok(look),
                Err(NoLook::Why(why)) => {
                    self.client = None;
                    return Err(why);
                }
                Err(NoLook::Gone) => {
                    self.client = None;
                    "the instance has gone".clone_into(&mut last);
                }
                Err(NoLook::Changed) => "its services change".clone_into(&mut last),
            }
        }
        Err(last)
    }

    fn client(&mut self) -> Result<&mut Client, String> {
        let client = match self.client.take() {
            Some(client) => client,
            None => {
                let client =
                    find::find(&self.wanted, false).map_err(|error| without_formula(&error.to_string()))?;
                *self.session.lock().unwrap_or_else(PoisonError::into_inner) = client.socket().ok();
                client
            }
        };
        if let Some(service) = client.service() {
            self.first = Some(service.to_owned());
        }
        Ok(self.client.insert(client))
    }

    fn look(&mut self, wanted: &LookWanted) -> Result<TopLook, NoLook> {
        let first = |asking: &Self| asking.first.clone();
        let begun = self.begun;
        let client = self.client().map_err(NoLook::Why)?;
        let mut look = TopLook::default();
        let before = begun.elapsed();
        for answer in ask(client, "services json")? {
            if let AnswerFacts::Services(one) = answer {
                (look.taken_at, look.process, look.services) = (one.taken_at, one.process, one.services);
            }
        }
        look.started = StartSpan::new(before, begun.elapsed(), look.process.uptime_seconds);
        // A label with blanks or `;` cannot be used in a command, so it is ignored.
        let is_word = |label: &String| !label.contains(|c: char| c == ';' || c.is_whitespace());
        let labels: Vec<String> = look.services.iter().map(ServiceFacts::label).filter(is_word).collect();
        let is_there = |label: &String| labels.contains(label);
        let shown = wanted.service.clone().filter(is_there);
        let shown = shown.or_else(|| first(self).filter(is_there)).or_else(|| labels.first().cloned());
        let Some(shown) = shown else { return Err(NoLook::Why("it has no service".into())) };
        let client = self.client().map_err(NoLook::Why)?;
        let more = if wanted.sessions { "; sessions json" } else { "" };
        // The session's current service may have gone, so it is always named.
        let line = format!("use {shown}; status json{more}; events {EVENTS} json");
        let mut table = None;
        for answer in ask(client, &line)? {
            match answer {
                AnswerFacts::Table(one) if is_called(&one.service, &shown) => table = Some(*one),
                AnswerFacts::Table(_) => {}
                AnswerFacts::Sessions(list) => look.sessions = Some(list),
                AnswerFacts::Events(list) => look.events = Some(list),
                AnswerFacts::Failure(why) => return Err(NoLook::Why(why)),
                AnswerFacts::Services(_) => {}
            }
        }
        // The service disappeared between the two answers.
        let Some(table) = table else { return Err(NoLook::Changed) };
        look.tables.push((shown.clone(), table));
        let is_other =
            |one: &&ServiceFacts| one.is_serving() && one.label() != shown && labels.contains(&one.label());
        let others = look.services.iter().filter(is_other);
        let channels: u64 = others.clone().map(|one| one.channels).sum();
        if channels <= CHANNELS_OF_OTHERS {
            let others: Vec<String> = others.take(OTHERS).map(ServiceFacts::label).collect();
            for label in others {
                if let Some(table) = other_table(client, &label)? {
                    look.tables.push((label, table));
                }
            }
        }
        Ok(look)
    }

    /// Fetches the present state of a command's target.
    fn look_at(&mut self, target: &TopTarget) -> Result<TopLook, NoLook> {
        let begun = self.begun;
        let client = self.client().map_err(NoLook::Why)?;
        let more = if target.wants_sessions() { "; sessions json" } else { "" };
        let mut look = TopLook::default();
        let before = begun.elapsed();
        // If the service does not exist, nothing after `use` is answered.
        for answer in ask(client, &format!("services json; use {}; status json{more}", target.label))? {
            match answer {
                AnswerFacts::Services(one) => (look.process, look.services) = (one.process, one.services),
                AnswerFacts::Table(table) => look.tables.push((target.label.clone(), *table)),
                AnswerFacts::Sessions(list) => look.sessions = Some(list),
                AnswerFacts::Failure(why) => return Err(NoLook::Why(why)),
                AnswerFacts::Events(_) => {}
            }
        }
        look.started = StartSpan::new(before, begun.elapsed(), look.process.uptime_seconds);
        Ok(look)
    }

    /// Why a command would reach something else than was meant. `None`: it would not.
    fn obstacle(&mut self, target: &TopTarget) -> Option<String> {
        let mut looked = self.look_at(target);
        if matches!(looked, Err(NoLook::Gone)) {
            // The instance may have a successor.
            self.client = None;
            looked = self.look_at(target);
        }
        match looked {
            Ok(look) => target.difference(&look),
            Err(NoLook::Why(why)) => {
                self.client = None;
                Some(why)
            }
            Err(NoLook::Gone | NoLook::Changed) => {
                self.client = None;
                Some("the instance has gone".into())
            }
        }
    }

    /// The answer to a command, and its exit code. `None`: the command was given up before.
    fn order(&mut self, order: &TopOrder, ticket: &OrderTicket) -> Option<(String, u8)> {
        let not_sent = |why: &str| (format!("nothing was sent: {why}"), 69);
        // If the operator has not been told yet that it was given up, this tells it.
        let given_up = || ticket.give_up().then(|| not_sent("the instance does not answer"));
        if ticket.is_late() {
            return given_up();
        }
        if let Some(why) = self.obstacle(&order.target) {
            return ticket.give_up().then(|| not_sent(&why));
        }
        // The instance has just answered, so it will take this command at once.
        if !ticket.send() {
            return given_up();
        }
        Some(self.send(&order.line))
    }

    fn send(&mut self, line: &str) -> (String, u8) {
        // Never sends to a process that was not just looked at.
        let Some(client) = &mut self.client else {
            return ("nothing was sent: the instance has gone".into(), 69);
        };
        let mut text = String::new();
        match client.ask(line.as_bytes(), |line| text.push_str(line)) {
            Ok(status) => {
                if status.end {
                    self.client = None;
                }
                // The answer to `use` is left out.
                let told: Vec<&str> =
                    text.lines().filter(|line| !line.starts_with("using service ")).collect();
                (without_formula(&told.join("\n")), status.code)
            }
            Err(error) => {
                self.client = None;
                let why = match error {
                    AskError::Unheard => "the instance has gone; the command was not carried out".into(),
                    AskError::Gone => {
                        "the instance has gone; whether the command was carried out is not known".into()
                    }
                    AskError::Closed(_) | AskError::Garbled(_) => error.to_string(),
                };
                (why, 69)
            }
        }
    }
}

/// The table of a service that is not shown. `None`: it has just gone.
fn other_table(client: &mut Client, label: &str) -> Result<Option<TableFacts>, NoLook> {
    let answers = ask(client, &format!("use {label}; status json"))?;
    Ok(answers.into_iter().find_map(|one| match one {
        AnswerFacts::Table(table) if is_called(&table.service, label) => Some(*table),
        _ => None,
    }))
}

/// All JSON answers to a line of commands.
fn ask(client: &mut Client, line: &str) -> Result<Vec<AnswerFacts>, NoLook> {
    let mut text = String::new();
    let mut is_too_long = false;
    let asked = client.ask_at_once(line.as_bytes(), |part| {
        is_too_long |= text.len() + part.len() > LONGEST;
        if !is_too_long {
            text.push_str(part);
        }
    });
    match asked {
        _ if is_too_long => Err(NoLook::Why("its answer is too long".into())),
        Ok(status) if status.end || status.code == HANDED_OVER => Err(NoLook::Gone),
        Ok(_) => Ok(text.lines().filter_map(read_answer).collect()),
        Err(AskError::Gone | AskError::Unheard) => Err(NoLook::Gone),
        Err(error @ (AskError::Closed(_) | AskError::Garbled(_))) => Err(NoLook::Why(error.to_string())),
    }
}

/// Removes the first line of 3.57's message if more follows.
fn without_formula(text: &str) -> String {
    let text = text.trim_end();
    match text.strip_prefix(NO_MASTER).map(str::trim_start) {
        Some("") => "no instance has this port or name".to_owned(),
        Some(more) => more.strip_prefix("balance: ").unwrap_or(more).to_owned(),
        None => text.strip_prefix("balance: ").unwrap_or(text).to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_sent_soon_or_given_up_and_never_both() {
        let ticket = OrderTicket::new();
        assert!(ticket.clone().send());
        assert!(!ticket.give_up() && !ticket.send());
        let ticket = OrderTicket::new();
        assert!(ticket.clone().give_up());
        assert!(!ticket.send() && !ticket.give_up());
        let mut late = OrderTicket::new();
        late.given_at -= SOON;
        assert!(late.is_late() && !late.send());
        assert!(late.give_up(), "whoever waits is told once");
    }
}
