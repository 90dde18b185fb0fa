//! Handles Ctrl-C while the shell waits for an answer.
//!
//! Knows: SIGINT, the socket that the answer comes by. Never: what was asked.

use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use signal_hook::consts::SIGINT;
use signal_hook::iterator::Signals;

/// Catches SIGINT as long as the process lives.
#[derive(Debug)]
pub(crate) struct Interrupts(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    awaited: Option<UnixStream>,
    is_interrupted: bool,
}

impl Interrupts {
    /// Starts to catch SIGINT. `None`: the system does not allow it; then SIGINT ends the shell as usual.
    pub(crate) fn catch() -> Option<Self> {
        let mut signals = Signals::new([SIGINT]).ok()?;
        let shared = Arc::new(Mutex::new(State::default()));
        let state = Arc::clone(&shared);
        let watch = move || {
            for _ in signals.forever() {
                let mut state = lock(&state);
                // If no answer is awaited, there is nothing to interrupt.
                if let Some(socket) = state.awaited.take() {
                    // This fails if the instance has closed the socket, and then nobody waits.
                    let _ = socket.shutdown(Shutdown::Both);
                    state.is_interrupted = true;
                }
            }
        };
        thread::Builder::new().name("interrupts".into()).spawn(watch).ok()?;
        Some(Self(shared))
    }

    /// Calls `act`, which waits for an answer on `socket`. Returns whether it was interrupted; then the
    /// socket is shut down.
    pub(crate) fn during<T>(&self, socket: UnixStream, act: impl FnOnce() -> T) -> (T, bool) {
        *lock(&self.0) = State { awaited: Some(socket), is_interrupted: false };
        let result = act();
        let state = std::mem::take(&mut *lock(&self.0));
        (result, state.is_interrupted)
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
