//! The terminal: set up at the start, and restored in any case.
//!
//! Knows: raw mode, the alternate screen, escape sequences. Never: what is shown, what a key means.

use std::env;
use std::io::{self, IsTerminal};
use std::sync::{Mutex, Once, PoisonError, TryLockError};
use std::thread::{self, ThreadId};

use ratatui_core::buffer::{Buffer, Cell};
use ratatui_core::layout::Rect;
use ratatui_core::style::{Color, Modifier};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::stdio::{stdin, stdout};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

use super::paint::TerminalPowers;

/// Switches to the alternate screen, hides the cursor, marks pastes.
const ENTER: &str = "\x1b[?1049h\x1b[?25l\x1b[?2004h\x1b[0m\x1b[2J";
/// Undoes that. It also clears the screen, for terminals without an alternate one.
const LEAVE: &str = "\x1b[?2004l\x1b[0m\x1b[2J\x1b[H\x1b[?25h\x1b[?1049l";

/// The terminal's earlier modes, and the thread that has changed them.
static BEFORE: Mutex<Option<(Termios, ThreadId)>> = Mutex::new(None);
static HOOK: Once = Once::new();

/// The terminal in our modes; dropping this restores it.
#[derive(Debug)]
pub(super) struct Screen {
    shown: Buffer,
    pub(super) powers: TerminalPowers,
}

/// Why `top` cannot be drawn here, as a message; `None`: it can.
pub(in crate::control) fn obstacle() -> Option<String> {
    const INSTEAD: &str = "use -c status, or -c \"status json\" in programs";
    if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
        return Some(format!("top needs a terminal as stdin and stdout; {INSTEAD}"));
    }
    match env::var("TERM").unwrap_or_default().as_str() {
        "" => Some(format!("top needs to know the terminal, and TERM is not set; {INSTEAD}")),
        name @ ("dumb" | "unknown") => {
            Some(format!("top cannot draw on a terminal of the type {name} (TERM); {INSTEAD}"))
        }
        _ => None,
    }
}

fn powers() -> TerminalPowers {
    let is_set = |name: &str| env::var_os(name).is_some_and(|value| !value.is_empty());
    // The first of these that is set counts.
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find(|name| is_set(name));
    let locale = locale.and_then(|name| env::var(name).ok()).unwrap_or_default().to_lowercase();
    TerminalPowers {
        has_color: !is_set("NO_COLOR"),
        has_unicode: locale.contains("utf-8") || locale.contains("utf8"),
    }
}

impl Screen {
    /// Sets the terminal up.
    pub(super) fn enter() -> io::Result<Self> {
        HOOK.call_once(|| {
            let before = std::panic::take_hook();
            // The message of a panic must not be lost with the alternate screen.
            std::panic::set_hook(Box::new(move |info| {
                give_back_after_panic();
                before(info);
            }));
        });
        let mut screen = Self { shown: Buffer::default(), powers: powers() };
        screen.resume()?;
        Ok(screen)
    }

    /// Sets the terminal up again, after it was restored or another program has used it.
    pub(super) fn resume(&mut self) -> io::Result<()> {
        let now = tcgetattr(stdin())?;
        let mut raw = now.clone();
        raw.make_raw();
        {
            let mut before = BEFORE.lock().unwrap_or_else(PoisonError::into_inner);
            if before.is_none() {
                *before = Some((now, thread::current().id()));
            }
        }
        tcsetattr(stdin(), OptionalActions::Now, &raw)?;
        write(ENTER.as_bytes())?;
        self.shown = Buffer::default();
        Ok(())
    }

    /// Restores the terminal for a while.
    pub(super) fn leave(&mut self) {
        give_back();
    }

    /// Has everything drawn again.
    pub(super) fn forget(&mut self) -> io::Result<()> {
        self.shown = Buffer::default();
        write(b"\x1b[0m\x1b[2J")
    }

    /// The size of the terminal; 80 by 24 if it is not known.
    pub(super) fn area() -> Rect {
        let size = tcgetwinsize(stdout()).map(|size| (size.ws_col, size.ws_row)).unwrap_or((0, 0));
        let (width, height) = if size.0 == 0 || size.1 == 0 { (80, 24) } else { size };
        // No terminal is larger than this.
        Rect::new(0, 0, width.min(1_000), height.min(500))
    }

    /// Writes these cells to the terminal, as far as they differ from what it shows.
    pub(super) fn show(&mut self, cells: Buffer) -> io::Result<()> {
        let mut out = String::new();
        if self.shown.area != cells.area {
            out.push_str("\x1b[0m\x1b[2J");
            self.shown = Buffer::empty(cells.area);
        }
        encode(&self.shown.diff(&cells), self.powers, &mut out);
        self.shown = cells;
        write(out.as_bytes())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        give_back();
    }
}

/// Restores the terminal, if we have changed it.
fn give_back() {
    let before = BEFORE.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some((modes, _)) = before {
        // If the terminal is gone, both fail.
        let _ = write(LEAVE.as_bytes());
        let _ = tcsetattr(stdin(), OptionalActions::Now, &modes);
    }
}

/// Restores only the modes. This works even if the terminal takes no output and a thread hangs in a write.
pub(super) fn give_back_modes() {
    let before = match BEFORE.try_lock() {
        Ok(mut before) => before.take(),
        Err(TryLockError::Poisoned(before)) => before.into_inner().take(),
        Err(TryLockError::WouldBlock) => None,
    };
    if let Some((modes, _)) = before {
        let _ = tcsetattr(stdin(), OptionalActions::Now, &modes);
    }
}

fn give_back_after_panic() {
    let is_ours = BEFORE
        .try_lock()
        .is_ok_and(|before| before.as_ref().is_some_and(|(_, thread)| *thread == thread::current().id()));
    if is_ours {
        give_back();
    }
}

/// Writes all bytes, however long that takes.
fn write(mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(stdout(), bytes) {
            Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::AGAIN) => {
                let _ = poll(&mut [PollFd::from_borrowed_fd(stdout(), PollFlags::OUT)], None);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Writes the escape sequences and characters that show these cells.
fn encode(changed: &[(u16, u16, &Cell)], powers: TerminalPowers, out: &mut String) {
    let mut at = None;
    let mut look = None;
    for (x, y, cell) in changed {
        if at != Some((*x, *y)) {
            out.push_str(&format!("\x1b[{};{}H", y + 1, x + 1));
        }
        at = Some((x + 1, *y));
        if look != Some((cell.fg, cell.modifier)) {
            look = Some((cell.fg, cell.modifier));
            out.push_str("\x1b[0");
            for (modifier, code) in [
                (Modifier::BOLD, ";1"),
                (Modifier::DIM, ";2"),
                (Modifier::UNDERLINED, ";4"),
                (Modifier::REVERSED, ";7"),
            ] {
                if cell.modifier.contains(modifier) {
                    out.push_str(code);
                }
            }
            if let Some(code) = color_code(cell.fg).filter(|_| powers.has_color) {
                out.push_str(code);
            }
            out.push('m');
        }
        out.push_str(cell.symbol());
    }
    if look.is_some() {
        out.push_str("\x1b[0m");
    }
}

/// The codes of the colors in use.
fn color_code(color: Color) -> Option<&'static str> {
    match color {
        Color::Red => Some(";31"),
        Color::Green => Some(";32"),
        Color::Yellow => Some(";33"),
        Color::Cyan => Some(";36"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use ratatui_core::style::Style;

    use super::*;

    #[test]
    fn only_what_changed_is_sent_and_no_colour_where_none_is_wanted() {
        let area = Rect::new(0, 0, 6, 2);
        let before = Buffer::empty(area);
        let mut after = before.clone();
        after.set_string(1, 1, "abc", Style::new().fg(Color::Red).add_modifier(Modifier::BOLD));
        let sent = |has_color| {
            let mut out = String::new();
            encode(&before.diff(&after), TerminalPowers { has_color, has_unicode: true }, &mut out);
            out
        };
        assert_eq!(sent(true), "\x1b[2;2H\x1b[0;1;31mabc\x1b[0m");
        assert_eq!(sent(false), "\x1b[2;2H\x1b[0;1mabc\x1b[0m");
        let mut out = String::new();
        encode(&after.diff(&after), TerminalPowers { has_color: true, has_unicode: true }, &mut out);
        assert_eq!(out, "");
    }
}
