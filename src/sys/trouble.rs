//! What a test lets go wrong: an error of a system call, a panic. Nothing of it is there outside of tests.
//!
//! Knows: where something may go wrong, and what is to go wrong there. Never: what comes of it.

use std::cell::RefCell;
use std::io;

use rustix::io::Errno;

/// Where something may go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum FaultPoint {
    Accept,
    Clock,
    Connect,
    /// A socket is to listen again.
    Listen,
    Read,
    /// A reload goes on to the next service.
    Reload,
    /// A worker reads a message.
    Message,
    /// An event is told.
    Tell,
    Watch,
    Write,
}

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mishap {
    Error(Errno),
    Panic,
}

#[derive(Debug, Default)]
struct Trouble {
    /// Whose code is running: only that of the program can meet with anything.
    is_on: bool,
    /// What happens where, after so many times that it did not.
    ahead: Vec<(FaultPoint, u32, Mishap)>,
    happened: Vec<(FaultPoint, Mishap)>,
}

thread_local! {
    static TROUBLE: RefCell<Trouble> = RefCell::default();
}

/// Nothing goes wrong on this thread.
pub(crate) fn begin() {
    TROUBLE.set(Trouble::default());
}

/// Something is to go wrong on this thread.
pub(crate) fn plan(point: FaultPoint, after: u32, what: Mishap) {
    TROUBLE.with_borrow_mut(|all| all.ahead.push((point, after, what)));
}

/// Forgets what has not happened yet.
pub(crate) fn calm() {
    TROUBLE.with_borrow_mut(|all| all.ahead.clear());
}

/// Runs a part of the program, in which something may go wrong.
pub(crate) fn during<T>(act: impl FnOnce() -> T) -> T {
    struct Off;
    impl Drop for Off {
        fn drop(&mut self) {
            TROUBLE.with_borrow_mut(|all| all.is_on = false);
        }
    }
    TROUBLE.with_borrow_mut(|all| all.is_on = true);
    let _off = Off;
    act()
}

/// What went wrong since this was asked last.
pub(crate) fn happened() -> Vec<(FaultPoint, Mishap)> {
    TROUBLE.with_borrow_mut(|all| std::mem::take(&mut all.happened))
}

/// Does something go wrong here?
pub(crate) fn strike(point: FaultPoint) -> io::Result<()> {
    let what = TROUBLE.with_borrow_mut(|all| {
        if !all.is_on || std::thread::panicking() {
            return None;
        }
        let at = all.ahead.iter().position(|&(where_to, ..)| where_to == point)?;
        let (_, after, what) = &mut all.ahead[at];
        if *after > 0 {
            *after -= 1;
            return None;
        }
        let what = *what;
        all.ahead.swap_remove(at);
        all.happened.push((point, what));
        Some(what)
    });
    match what {
        None => Ok(()),
        Some(Mishap::Error(e)) => Err(e.into()),
        // Not by the macro: nobody needs to read of each.
        Some(Mishap::Panic) => std::panic::resume_unwind(Box::new("a panic that was asked for")),
    }
}
