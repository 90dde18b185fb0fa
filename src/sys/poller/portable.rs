//! Readiness by `mio`: kqueue on the BSDs and macOS, event ports, epoll.
//!
//! Knows: mio's events. Never: what a token means.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll};

use super::interruptions::Interruptions;
use super::readiness::{Readiness, Seen};
use super::token::Token;
use crate::wire::relay::Ready;

/// How many events are taken from the kernel at once.
const BATCH: usize = 512;

/// How often a wake-up is tried again after an unexpected error.
const WAKE_TRIES: usize = 4;

/// The poller of one worker.
#[derive(Debug)]
pub(crate) struct Poller {
    poll: Poll,
    events: Events,
    interruptions: Interruptions,
    ready: Vec<(Token, Ready)>,
}

/// Wakes a sleeping poller from another thread.
#[derive(Debug, Clone)]
pub(crate) struct Waker(Arc<mio::Waker>);

impl Waker {
    /// Makes the poller report the waker's token.
    pub(crate) fn wake(&self) {
        for _ in 0..WAKE_TRIES {
            // Try again: without the wake-up the message would stay unread.
            if self.0.wake().is_ok() {
                return;
            }
        }
    }

    /// Resets the waker after a wake-up. `mio` does that itself.
    pub(crate) fn drain(&self) {}
}

#[cfg(not(target_pointer_width = "64"))]
compile_error!("the portable poller keeps a token of 64 bits in a pointer");

fn packed(token: Token) -> mio::Token {
    mio::Token(token.pack() as usize)
}

impl Poller {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            poll: Poll::new()?,
            events: Events::with_capacity(BATCH),
            interruptions: Interruptions::default(),
            ready: Vec::with_capacity(BATCH),
        })
    }

    /// Creates a waker that reports `token`.
    pub(crate) fn waker(&self, token: Token) -> io::Result<Waker> {
        Ok(Waker(Arc::new(mio::Waker::new(self.poll.registry(), packed(token))?)))
    }
}

impl Readiness for Poller {
    fn add(&self, fd: impl AsFd, token: Token) -> io::Result<()> {
        let interest = Interest::READABLE | Interest::WRITABLE;
        #[cfg(any(target_os = "linux", target_os = "android"))]
        let interest = interest | Interest::PRIORITY;
        self.poll.registry().register(&mut SourceFd(&fd.as_fd().as_raw_fd()), packed(token), interest)
    }

    /// `mio` cannot change one half of a watch in the same way on all systems.
    fn set_reading(&self, _fd: impl AsFd, _token: Token, _reading: bool) -> io::Result<()> {
        Ok(())
    }

    /// `mio` is edge-triggered: a worker that gets the event has to accept until no client is waiting.
    fn add_listener(&mut self, fd: impl AsFd, token: Token) -> io::Result<()> {
        let raw = fd.as_fd().as_raw_fd();
        self.poll.registry().register(&mut SourceFd(&raw), packed(token), Interest::READABLE)
    }

    fn remove(&mut self, fd: impl AsFd) {
        let _ = self.poll.registry().deregister(&mut SourceFd(&fd.as_fd().as_raw_fd()));
    }

    fn wait(&mut self, timeout: Option<Duration>) -> io::Result<Seen> {
        self.ready.clear();
        match self.poll.poll(&mut self.events, timeout) {
            Ok(()) => self.interruptions.over(),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {
                self.interruptions.another();
                return Ok(Seen::Interrupted);
            }
            Err(e) => return Err(e),
        }
        for event in &self.events {
            let ready = Ready {
                readable: event.is_readable(),
                writable: event.is_writable(),
                urgent: event.is_priority(),
                read_closed: event.is_read_closed(),
                error: event.is_error() || event.is_write_closed(),
            };
            self.ready.push((Token::unpack(event.token().0 as u64), ready));
        }
        Ok(if self.ready.len() < BATCH { Seen::All } else { Seen::Part })
    }

    fn events(&self) -> usize {
        self.ready.len()
    }

    fn event(&self, i: usize) -> Option<(Token, Ready)> {
        self.ready.get(i).copied()
    }
}
