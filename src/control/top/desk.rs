//! The state of the display: which view, what is selected, what was typed; and what a key changes.
//!
//! Knows: keys, views, commands. Never: sockets, where anything stands on the screen, the clock.
//! Source: docs/observability.md, "Top".
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use super::facts::Shown;
use super::keys::TopKey;
use super::looked::{ChannelOrder, Looked, SessionOrder, SortOrder};
use super::samples::ChannelAt;
use super::verbs::{ChannelVerb, OrderPlace, TopOrder, UnfinishedOrder};

/// Maximum length of a typed text, in characters.
const LONGEST: usize = 60;

/// The message for a command while the instance does not answer.
pub(super) const NOT_ANSWERED: &str = "nothing was sent: the instance does not answer";

/// The table that fills the screen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TopView {
    Channels,
    Sessions,
    Events,
}

/// What keys do at the moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum TopMode {
    Tables,
    /// Show all details of the selected row.
    Detail,
    Help,
    /// Typing the filter; this was the filter before.
    Filter(String),
    /// Typing a number for this command.
    Number(UnfinishedOrder, String),
    /// Asking whether to send this command.
    Confirm(TopOrder),
}

/// What the loop has to do after a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum TopDeed {
    Leave,
    Suspend,
    /// Draw everything again, because other programs may have written to the terminal.
    Redraw,
    /// Fetch the state now.
    Look,
    Send(TopOrder),
}

/// The message in the bottom line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TopMessage {
    pub(super) text: String,
    pub(super) is_bad: bool,
}

#[derive(Debug)]
pub(super) struct TopDesk {
    pub(super) view: TopView,
    pub(super) mode: TopMode,
    pub(super) filter: String,
    /// Whether the display is frozen.
    pub(super) is_frozen: bool,
    /// The service to show; `None`: the one that a session begins with.
    pub(super) service: Option<String>,
    pub(super) channel_order: SortOrder<ChannelOrder>,
    pub(super) session_order: SortOrder<SessionOrder>,
    pub(super) message: Option<TopMessage>,
    /// Number of rows of a page; set when the screen is drawn.
    pub(super) page: usize,
    channel: Chosen<ChannelAt>,
    session: Chosen<u64>,
    event: Chosen<(Shown, Shown)>,
    /// How many lines of the help or the details are scrolled off the top.
    pub(super) scrolled: usize,
}

/// The selected row.
#[derive(Debug)]
struct Chosen<T> {
    row: Option<T>,
    /// Its last position.
    place: usize,
}

impl<T> Default for Chosen<T> {
    fn default() -> Self {
        Self { row: None, place: 0 }
    }
}

impl<T: PartialEq> Chosen<T> {
    /// The position of the selected row among these. If it is gone, its last position. `None`: there are no
    /// rows.
    fn place(&self, mut rows: impl ExactSizeIterator<Item = T>) -> Option<usize> {
        let last = rows.len().checked_sub(1)?;
        let found = self.row.as_ref().and_then(|row| rows.position(|one| one == *row));
        Some(found.unwrap_or(self.place.min(last)))
    }
}

impl Default for TopDesk {
    fn default() -> Self {
        Self {
            view: TopView::Channels,
            mode: TopMode::Tables,
            filter: String::new(),
            is_frozen: false,
            service: None,
            channel_order: SortOrder { column: ChannelOrder::Number, is_reversed: false },
            session_order: SortOrder { column: SessionOrder::Id, is_reversed: false },
            message: None,
            page: 10,
            channel: Chosen::default(),
            session: Chosen::default(),
            event: Chosen::default(),
            scrolled: 0,
        }
    }
}

impl TopDesk {
    /// Handles a key.
    pub(super) fn key(&mut self, key: TopKey, looked: &Looked) -> Option<TopDeed> {
        match key {
            TopKey::Ctrl('c') => return Some(TopDeed::Leave),
            TopKey::Ctrl('z') => return Some(TopDeed::Suspend),
            TopKey::Ctrl('l') => return Some(TopDeed::Redraw),
            _ => {}
        }
        self.message = None;
        match std::mem::replace(&mut self.mode, TopMode::Tables) {
            TopMode::Tables => self.table_key(key, looked),
            TopMode::Detail => self.detail_key(key, looked),
            TopMode::Help => {
                let stays = !matches!(key, TopKey::Esc | TopKey::Enter | TopKey::Char('q' | '?' | 'h'));
                self.scroll(key);
                if stays {
                    self.mode = TopMode::Help;
                }
                None
            }
            TopMode::Filter(before) => {
                self.filter_key(key, before);
                None
            }
            TopMode::Number(order, typed) => {
                self.number_key(key, order, typed);
                None
            }
            TopMode::Confirm(order) => self.confirm_key(key, order, looked),
        }
    }

    fn table_key(&mut self, key: TopKey, looked: &Looked) -> Option<TopDeed> {
        match key {
            TopKey::Char('q') => return Some(TopDeed::Leave),
            TopKey::Char('?' | 'h') => {
                (self.mode, self.scrolled) = (TopMode::Help, 0);
            }
            TopKey::Char('1' | 'c') => self.view = TopView::Channels,
            TopKey::Char('2' | 's') => return self.look_at(TopView::Sessions),
            TopKey::Char('3' | 'v') => return self.look_at(TopView::Events),
            TopKey::Tab | TopKey::Right => return self.other_service(looked, true),
            TopKey::BackTab | TopKey::Left => return self.other_service(looked, false),
            TopKey::Char('/') => self.mode = TopMode::Filter(self.filter.clone()),
            TopKey::Esc => self.filter.clear(),
            TopKey::Char('<') => self.sort_by(-1),
            TopKey::Char('>') => self.sort_by(1),
            TopKey::Char('o') => match self.view {
                TopView::Channels => self.channel_order.is_reversed ^= true,
                TopView::Sessions => self.session_order.is_reversed ^= true,
                TopView::Events => {}
            },
            TopKey::Char(' ') => {
                self.is_frozen ^= true;
                return (!self.is_frozen).then_some(TopDeed::Look);
            }
            TopKey::Enter => {
                if self.place(looked).is_some() {
                    (self.mode, self.scrolled) = (TopMode::Detail, 0);
                }
            }
            _ => {
                if !self.moves(key, looked) {
                    self.verb_key(key, looked);
                }
            }
        }
        None
    }

    fn detail_key(&mut self, key: TopKey, looked: &Looked) -> Option<TopDeed> {
        match key {
            TopKey::Esc | TopKey::Enter | TopKey::Char('q') => {}
            TopKey::Char('?' | 'h') => (self.mode, self.scrolled) = (TopMode::Help, 0),
            // The previous and the next row.
            TopKey::Left | TopKey::Right => {
                self.moves(if key == TopKey::Left { TopKey::Up } else { TopKey::Down }, looked);
                (self.mode, self.scrolled) = (TopMode::Detail, 0);
            }
            _ => {
                self.mode = TopMode::Detail;
                if !self.scroll(key) {
                    self.verb_key(key, looked);
                }
            }
        }
        None
    }

    fn look_at(&mut self, view: TopView) -> Option<TopDeed> {
        self.view = view;
        Some(TopDeed::Look)
    }

    fn filter_key(&mut self, key: TopKey, before: String) {
        match key {
            TopKey::Enter => return,
            TopKey::Esc => {
                self.filter = before;
                return;
            }
            TopKey::Backspace => drop(self.filter.pop()),
            TopKey::Ctrl('u') => self.filter.clear(),
            TopKey::Char(c) if self.filter.chars().count() < LONGEST => self.filter.push(c),
            _ => {}
        }
        self.mode = TopMode::Filter(before);
    }

    fn number_key(&mut self, key: TopKey, order: UnfinishedOrder, mut typed: String) {
        match key {
            TopKey::Esc => return self.tell_not_sent(),
            TopKey::Enter => match order.with(&typed) {
                Some(whole) => {
                    self.mode = TopMode::Confirm(whole);
                    return;
                }
                None => return self.tell_not_sent(),
            },
            TopKey::Backspace => drop(typed.pop()),
            TopKey::Ctrl('u') => typed.clear(),
            TopKey::Char(c) if c.is_ascii_digit() && typed.len() < 10 => typed.push(c),
            _ => {}
        }
        self.mode = TopMode::Number(order, typed);
    }

    fn confirm_key(&mut self, key: TopKey, order: TopOrder, looked: &Looked) -> Option<TopDeed> {
        match key {
            TopKey::Char('y') if looked.trouble.is_some() => self.tell(NOT_ANSWERED, true),
            TopKey::Char('y') => return Some(TopDeed::Send(order)),
            // Text typed blindly, or pasted in a terminal that does not mark pastes, must not confirm
            // anything.
            TopKey::Char(_) | TopKey::Esc => self.tell_not_sent(),
            // Other keys were meant for something else: they neither send nor drop the command.
            _ => self.mode = TopMode::Confirm(order),
        }
        None
    }

    fn tell_not_sent(&mut self) {
        self.tell("nothing was sent", false);
    }

    /// Shows a message in the bottom line until the next key.
    pub(super) fn tell(&mut self, text: &str, is_bad: bool) {
        self.message = Some(TopMessage { text: text.to_owned(), is_bad });
    }

    /// Asks the operator to confirm the command that a key means for the selected row.
    fn verb_key(&mut self, key: TopKey, looked: &Looked) {
        let TopKey::Char(c) = key else { return };
        let place = OrderPlace(&looked.last);
        let order = match (self.view, c) {
            (_, 'P') => place.of_service(ChannelVerb::Pause).map(Ok),
            (_, 'R') => place.of_service(ChannelVerb::Resume).map(Ok),
            (TopView::Channels, _) => {
                let Some(verb) = verb_of(c) else { return };
                let rows = looked.channels(&self.filter, self.channel_order);
                let Some(row) = self.place(looked).and_then(|at| rows.get(at)) else { return };
                place.of_channel(verb, row.at(), row.channel)
            }
            (TopView::Sessions, 'x') => {
                let rows = looked.sessions(&self.filter, self.session_order);
                let Some(row) = self.place(looked).and_then(|at| rows.get(at)) else { return };
                place.of_session(row.session).map(Ok)
            }
            _ => return,
        };
        let Some(order) = order else { return };
        if looked.trouble.is_some() {
            return self.tell(NOT_ANSWERED, true);
        }
        self.mode = match order {
            Ok(order) => TopMode::Confirm(order),
            Err(unfinished) => TopMode::Number(unfinished, String::new()),
        };
    }

    /// Moves the selection. `false`: the key has another meaning.
    fn moves(&mut self, key: TopKey, looked: &Looked) -> bool {
        let count = match self.view {
            TopView::Channels => looked.channels(&self.filter, self.channel_order).len(),
            TopView::Sessions => looked.sessions(&self.filter, self.session_order).len(),
            TopView::Events => looked.events(&self.filter).len(),
        };
        let now = self.place(looked).unwrap_or(0);
        let last = count.saturating_sub(1);
        let page = self.page.max(1);
        let next = match key {
            TopKey::Up | TopKey::Char('k') => now.saturating_sub(1),
            TopKey::Down | TopKey::Char('j') => now + 1,
            TopKey::PageUp | TopKey::Ctrl('b') => now.saturating_sub(page),
            TopKey::PageDown | TopKey::Ctrl('f') => now + page,
            TopKey::Home | TopKey::Char('g') => 0,
            TopKey::End | TopKey::Char('G') => last,
            _ => return false,
        };
        self.choose(next.min(last), looked);
        true
    }

    fn scroll(&mut self, key: TopKey) -> bool {
        let page = self.page.max(1);
        self.scrolled = match key {
            TopKey::Up | TopKey::Char('k') => self.scrolled.saturating_sub(1),
            TopKey::Down | TopKey::Char('j') => self.scrolled + 1,
            TopKey::PageUp => self.scrolled.saturating_sub(page),
            TopKey::PageDown | TopKey::Char(' ') => self.scrolled + page,
            TopKey::Home => 0,
            _ => return false,
        };
        true
    }

    /// The position of the selected row in the view; `None`: there are no rows.
    pub(super) fn place(&self, looked: &Looked) -> Option<usize> {
        match self.view {
            TopView::Channels => {
                let rows = looked.channels(&self.filter, self.channel_order);
                self.channel.place(rows.iter().map(|row| row.at()))
            }
            TopView::Sessions => {
                let rows = looked.sessions(&self.filter, self.session_order);
                self.session.place(rows.iter().map(|row| row.session.id))
            }
            TopView::Events => {
                let rows = looked.events(&self.filter);
                self.event.place(rows.iter().map(|row| (row.at.clone(), row.line.clone())))
            }
        }
    }

    fn choose(&mut self, place: usize, looked: &Looked) {
        match self.view {
            TopView::Channels => {
                let rows = looked.channels(&self.filter, self.channel_order);
                self.channel = Chosen { row: rows.get(place).map(|row| row.at()), place };
            }
            TopView::Sessions => {
                let rows = looked.sessions(&self.filter, self.session_order);
                self.session = Chosen { row: rows.get(place).map(|row| row.session.id), place };
            }
            TopView::Events => {
                let rows = looked.events(&self.filter);
                let row = rows.get(place).map(|row| (row.at.clone(), row.line.clone()));
                // If the top row is selected, the selection stays at the top when new events come.
                self.event = Chosen { row: row.filter(|_| place > 0), place };
            }
        }
    }

    fn sort_by(&mut self, step: isize) {
        match self.view {
            TopView::Channels => {
                let column = neighbour(&ChannelOrder::ALL, self.channel_order.column, step);
                self.channel_order = SortOrder { column, is_reversed: false };
            }
            TopView::Sessions => {
                let column = neighbour(&SessionOrder::ALL, self.session_order.column, step);
                self.session_order = SortOrder { column, is_reversed: false };
            }
            TopView::Events => {}
        }
    }

    fn other_service(&mut self, looked: &Looked, is_next: bool) -> Option<TopDeed> {
        let labels = looked.labels();
        let now = looked.label().and_then(|label| labels.iter().position(|one| one == label)).unwrap_or(0);
        let step = if is_next { 1 } else { labels.len().checked_sub(1)? };
        let next = labels.get((now + step) % labels.len().max(1))?.clone();
        if looked.label() == Some(next.as_str()) {
            return None;
        }
        (self.channel, self.session, self.event) = (Chosen::default(), Chosen::default(), Chosen::default());
        self.service = Some(next);
        Some(TopDeed::Look)
    }
}

/// The channel command of a key.
fn verb_of(c: char) -> Option<ChannelVerb> {
    Some(match c {
        'd' => ChannelVerb::Disable,
        'D' => ChannelVerb::DisableHard,
        'e' => ChannelVerb::Enable,
        'n' => ChannelVerb::Drain,
        'K' => ChannelVerb::Kick,
        'p' => ChannelVerb::Pause,
        'r' => ChannelVerb::Resume,
        'z' => ChannelVerb::Reset,
        'w' => ChannelVerb::Weight,
        'm' => ChannelVerb::Maxc,
        _ => return None,
    })
}

/// The neighbour of a column; after the last comes the first.
fn neighbour<C: PartialEq + Copy>(all: &[C], now: C, step: isize) -> C {
    let at = all.iter().position(|one| *one == now).unwrap_or(0);
    let next = (at as isize + step).rem_euclid(all.len().max(1) as isize) as usize;
    all.get(next).copied().unwrap_or(now)
}
