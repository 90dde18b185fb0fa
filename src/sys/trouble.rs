//! What a test lets go wrong: an error of a system call, a panic. It exists only in tests.
//!
//! Knows: where something may go wrong, and what. Never: what follows from it.

use std::cell::RefCell;
use std::io;

use rustix::io::Errno;

/// Where something may go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum FaultPoint {
    Accept,
    Clock,
    Connect,
    /// When a socket is to listen again.
    Listen,
    Read,
    /// When a reload goes on to the next service.
    Reload,
    /// When a worker reads a message.
    Message,
    /// When an event is logged.
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
    /// The program's code is running, not the test's; only then anything goes wrong.
    is_on: bool,
    /// What will go wrong where, and after how many calls without trouble.
    ahead: Vec<(FaultPoint, u32, Mishap)>,
    happened: Vec<(FaultPoint, Mishap)>,
}

thread_local! {
    static TROUBLE: RefCell<Trouble> = RefCell::default();
}

/// Resets this thread: nothing goes wrong.
pub(crate) fn begin() {
    TROUBLE.set(Trouble::default());
}

/// Plans a mishap on this thread, after `after` calls at `point` without trouble.
pub(crate) fn plan(point: FaultPoint, after: u32, what: Mishap) {
    TROUBLE.with_borrow_mut(|all| all.ahead.push((point, after, what)));
}

/// Cancels what has not happened yet.
pub(crate) fn calm() {
    TROUBLE.with_borrow_mut(|all| all.ahead.clear());
}

/// Runs a part of the program in which planned mishaps may happen.
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

/// The mishaps that have happened since the last call.
pub(crate) fn happened() -> Vec<(FaultPoint, Mishap)> {
    TROUBLE.with_borrow_mut(|all| std::mem::take(&mut all.happened))
}

/// Lets a planned mishap happen at this point, if it is its turn.
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
        // Without the panic hook, so that it prints nothing.
        Some(Mishap::Panic) => std::panic::resume_unwind(Box::new("a panic that was asked for")),
    }
}
