//! What the operator has before him: which view, what is selected, what was typed; and what a key does about it.
//!
//! Knows: keys, views, commands. Never: sockets, where anything stands on the screen, the clock.
//! Source: docs/observability.md, "Top".
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use super::facts::Shown;
use super::keys::TopKey;
use super::looked::{ChannelOrder, Looked, SessionOrder, SortOrder};
use super::samples::ChannelAt;
use super::verbs::{ChannelVerb, OrderPlace, TopOrder, UnfinishedOrder};

/// Longer texts are not typed.
const LONGEST: usize = 60;

/// What is said of a command while there is no answer.
pub(super) const NOT_ANSWERED: &str = "nothing was sent: the instance does not answer";

/// Which table fills the screen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TopView {
    Channels,
    Sessions,
    Events,
}

/// What keys are for at the moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum TopMode {
    Tables,
    /// All about the row that is selected.
    Detail,
    Help,
    /// The filter is being typed; before, it was this.
    Filter(String),
    /// A number is being typed.
    Number(UnfinishedOrder, String),
    /// Shall this be sent?
    Confirm(TopOrder),
}

/// What is to be done beside showing it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum TopDeed {
    Leave,
    Suspend,
    /// Everything is drawn again, the terminal may have been written to by others.
    Redraw,
    /// Look at once.
    Look,
    Send(TopOrder),
}

/// One line at the bottom.
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
    /// The refresh is paused.
    pub(super) is_frozen: bool,
    /// The service that is to be shown; `None`: the one that the instance begins with.
    pub(super) service: Option<String>,
    pub(super) channel_order: SortOrder<ChannelOrder>,
    pub(super) session_order: SortOrder<SessionOrder>,
    pub(super) message: Option<TopMessage>,
    /// So many rows a page has; whoever draws says it.
    pub(super) page: usize,
    channel: Chosen<ChannelAt>,
    session: Chosen<u64>,
    event: Chosen<(Shown, Shown)>,
    /// So many lines of the help, or of the detail, are above the screen.
    pub(super) scrolled: usize,
}

/// The row that is selected.
#[derive(Debug)]
struct Chosen<T> {
    row: Option<T>,
    /// Where it was.
    place: usize,
}

impl<T> Default for Chosen<T> {
    fn default() -> Self {
        Self { row: None, place: 0 }
    }
}

impl<T: PartialEq> Chosen<T> {
    /// Where it is among these; where it was, if it is not there any more. `None`: there is none.
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
    /// What a key does.
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
            // The row before, and after.
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
            // Words that were typed blindly, or pasted where the terminal does not mark that, must confirm nothing.
            TopKey::Char(_) | TopKey::Esc => self.tell_not_sent(),
            // What was meant for something else neither sends it nor drops it.
            _ => self.mode = TopMode::Confirm(order),
        }
        None
    }

    fn tell_not_sent(&mut self) {
        self.tell("nothing was sent", false);
    }

    /// Says something at the bottom, until the next key.
    pub(super) fn tell(&mut self, text: &str, is_bad: bool) {
        self.message = Some(TopMessage { text: text.to_owned(), is_bad });
    }

    /// Asks for a confirmation of what a key means for the row that is selected.
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

    /// Moves the selection. `false`: the key does something else.
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

    /// Where the row is that is selected, in the view; `None`: there is no row.
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
                // At the top, what is new pushes the rest down.
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

/// The command of a key, for a channel.
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

/// The one beside it, round the ends.
fn neighbour<C: PartialEq + Copy>(all: &[C], now: C, step: isize) -> C {
    let at = all.iter().position(|one| *one == now).unwrap_or(0);
    let next = (at as isize + step).rem_euclid(all.len().max(1) as isize) as usize;
    all.get(next).copied().unwrap_or(now)
}
