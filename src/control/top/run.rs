//! The loop: handles keys, answers, signals and time, one after the other.
//!
//! Knows: when to fetch the state, when to draw. Never: what stands where, what a key means.
//! Source: docs/observability.md, "Top".

use std::io;
use std::time::{Duration, Instant};

use ratatui_core::buffer::Buffer;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Signal, kill_current_process_group};
use rustix::stdio::stdin;

use super::asker::{Asker, LookWanted, OrderTicket};
use super::desk::{NOT_ANSWERED, TopDeed, TopDesk, TopView};
use super::keys::KeyReader;
use super::looked::Looked;
use super::news::{TopNews, news_box};
use super::screen::Screen;
use super::stops::{self, Signalled};
use super::view::paint;
use crate::control::client::Client;
use crate::control::find::Wanted;

/// The interval between two fetches.
const EVERY: Duration = Duration::from_secs(1);
/// After a fetch, the pause is at least this many times as long as the fetch took, so that fetching costs
/// little.
const PAUSE: u32 = 10;
/// The longest pause between two fetches.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// After this time without an answer, a message says so.
const PATIENCE: Duration = Duration::from_secs(3);

/// Why the loop ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TopEnd {
    Left,
    Signalled(i32),
    /// The terminal is gone.
    Gone,
}

/// Shows the instance until the operator quits.
///
/// # Errors
/// The terminal cannot be read or written.
pub(in crate::control) fn run(client: Client, wanted: &Wanted) -> io::Result<()> {
    let (news, teller) = news_box()?;
    let begun = Instant::now();
    let asker = Asker::start(client, wanted, teller.clone(), begun)?;
    let signalled = Signalled::to(teller)?;
    let screen = Screen::enter()?;
    let mut top = Top {
        desk: TopDesk::default(),
        looked: Looked::default(),
        asker,
        screen,
        begun,
        next_look: Duration::ZERO,
        asked_at: None,
        took: Duration::ZERO,
        asks_again: false,
        ordered: None,
    };
    let mut keys = KeyReader::default();
    let mut typed_at = Instant::now();
    let end = loop {
        top.look_if_due();
        top.tell_if_late();
        top.draw()?;
        let until = top.until_next(keys.patience().map(|most| most.saturating_sub(typed_at.elapsed())));
        let mut polled = [
            PollFd::from_borrowed_fd(stdin(), PollFlags::IN),
            PollFd::from_borrowed_fd(news.bell(), PollFlags::IN),
        ];
        let timeout = Timespec {
            tv_sec: until.as_secs().try_into().unwrap_or(1),
            tv_nsec: until.subsec_nanos().into(),
        };
        // After an error nothing is ready: either the time is over, or a signal has come as a message.
        poll(&mut polled, Some(&timeout)).unwrap_or(0);
        let is_typed = !polled[0].revents().is_empty();
        let mut typed = Vec::new();
        if is_typed {
            let mut bytes = [0; 1024];
            match rustix::io::read(stdin(), &mut bytes) {
                Ok(0) => break TopEnd::Gone,
                Ok(count) => {
                    typed = keys.take(bytes.get(..count).unwrap_or_default());
                    typed_at = Instant::now();
                }
                Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => {}
                Err(rustix::io::Errno::IO) => break TopEnd::Gone,
                Err(error) => return Err(error.into()),
            }
        } else if keys.patience().is_some_and(|most| typed_at.elapsed() >= most) {
            typed.extend(keys.is_late());
        }
        let ends = typed.into_iter().find_map(|key| {
            let deed = top.desk.key(key, &top.looked)?;
            top.act(deed).transpose()
        });
        if let Some(end) = ends.transpose()? {
            break end;
        }
        let mut over = None;
        for one in news.take() {
            over = over.or(top.hear(one)?);
        }
        if let Some(end) = over {
            break end;
        }
    };
    drop(top);
    drop(signalled);
    if let TopEnd::Signalled(signal) = end {
        stops::obey(signal);
    }
    Ok(())
}

struct Top {
    desk: TopDesk,
    looked: Looked,
    asker: Asker,
    screen: Screen,
    begun: Instant,
    /// When to fetch next, on our clock.
    next_look: Duration,
    /// Since when an answer is awaited; `None`: none is.
    asked_at: Option<Duration>,
    /// How long the last fetch took.
    took: Duration,
    /// Whether to fetch again at once, because the operator wants to see something else.
    asks_again: bool,
    /// A command without an answer yet, and its line.
    ordered: Option<(OrderTicket, String)>,
}

impl Top {
    fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    fn look_if_due(&mut self) {
        let now = self.now();
        match self.asked_at {
            Some(asked_at) if now.saturating_sub(asked_at) >= PATIENCE && self.looked.trouble.is_none() => {
                self.looked.fails(asked_at, "the instance does not answer".into());
            }
            Some(_) => {}
            None if self.asks_again || (!self.desk.is_frozen && now >= self.next_look) => self.look(),
            None => {}
        }
    }

    fn look(&mut self) {
        self.asks_again = false;
        self.asked_at = Some(self.now());
        let sessions = self.desk.view == TopView::Sessions;
        self.asker.look(LookWanted { service: self.desk.service.clone(), sessions });
    }

    /// Gives up a command that could not be sent in time.
    fn tell_if_late(&mut self) {
        let Some((ticket, line)) = self.ordered.take_if(|(ticket, _)| ticket.is_late()) else { return };
        match ticket.give_up() {
            true => self.desk.tell(NOT_ANSWERED, true),
            false => self.desk.tell(&format!("sent, not answered yet: {line}"), true),
        }
    }

    /// How long the loop may wait for events. `inside`: how long to wait for the rest of a key.
    fn until_next(&self, inside: Option<Duration>) -> Duration {
        let look = match self.asked_at {
            None if !self.desk.is_frozen => self.next_look.saturating_sub(self.now()),
            _ => EVERY,
        };
        let most = inside.unwrap_or(EVERY);
        // A shorter wait would be a busy loop.
        look.min(most).max(Duration::from_millis(1))
    }

    fn draw(&mut self) -> io::Result<()> {
        let mut cells = Buffer::empty(Screen::area());
        let (powers, now) = (self.screen.powers, self.now());
        paint(&mut cells, powers, &mut self.desk, &self.looked, now);
        self.screen.show(cells)
    }

    fn act(&mut self, deed: TopDeed) -> io::Result<Option<TopEnd>> {
        match deed {
            TopDeed::Leave => return Ok(Some(TopEnd::Left)),
            TopDeed::Suspend if stops::can_stop() => {
                // This stops all processes of the job, also the one that started us. We stop when we get the
                // signal.
                let _ = kill_current_process_group(Signal::TSTP);
            }
            TopDeed::Suspend => self.desk.tell("there is no shell to come back from", true),
            TopDeed::Redraw => self.screen.forget()?,
            TopDeed::Look => self.asks_again = true,
            TopDeed::Send(order) => {
                self.desk.tell(&format!("sending: {}", order.line), false);
                let line = order.line.clone();
                self.ordered = Some((self.asker.order(order), line));
            }
        }
        Ok(None)
    }

    fn hear(&mut self, news: TopNews) -> io::Result<Option<TopEnd>> {
        let now = self.now();
        match news {
            TopNews::Look(look, took) => {
                self.asked_at = None;
                self.looked.take(now, *look);
                // A single slow fetch, such as one that was held up, does not count: the smaller of the last
                // two does.
                let cost = took.min(std::mem::replace(&mut self.took, took));
                self.next_look = now + (cost * PAUSE).clamp(EVERY, LONGEST_PAUSE);
            }
            TopNews::NoLook(why) => {
                self.asked_at = None;
                self.looked.fails(now, why);
                self.next_look = now + EVERY;
            }
            TopNews::Answer(text, code) => {
                self.ordered = None;
                let text = if text.is_empty() { "done" } else { &text };
                self.desk.tell(text, code != 0);
                self.asks_again = true;
            }
            TopNews::Signal(signal) if stops::is_end(signal) => return Ok(Some(TopEnd::Signalled(signal))),
            TopNews::Signal(signal) if stops::is_stop(signal) => {
                if stops::can_stop() {
                    self.screen.leave();
                    stops::obey(signal);
                    self.screen.resume()?;
                }
            }
            TopNews::Signal(signal) if stops::is_continued(signal) => self.screen.resume()?,
            // The size may have changed; it is read at each drawing.
            TopNews::Signal(_) => {}
        }
        Ok(None)
    }
}
