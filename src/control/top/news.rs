//! What the loop waits for besides keys: answers and signals, sent by other threads.
//!
//! Knows: a queue, and a socket that poll(2) watches. Never: what is asked, what a signal means.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use super::looked::TopLook;

/// A message to the loop.
#[derive(Debug)]
pub(super) enum TopNews {
    /// A fetched state, and how long fetching took.
    Look(Box<TopLook>, Duration),
    /// There was no answer, and why.
    NoLook(String),
    /// The answer to a command, and its exit code.
    Answer(String, u8),
    /// A signal was received.
    Signal(i32),
}

/// The receiving end.
#[derive(Debug)]
pub(super) struct NewsBox {
    news: Receiver<TopNews>,
    bell: UnixStream,
}

/// The sending end.
#[derive(Debug, Clone)]
pub(super) struct NewsTeller {
    news: Sender<TopNews>,
    bell: Arc<UnixStream>,
}

/// Makes both ends.
pub(super) fn news_box() -> io::Result<(NewsBox, NewsTeller)> {
    let (bell, ringer) = UnixStream::pair()?;
    // One byte in the socket is enough, so a full socket does no harm.
    bell.set_nonblocking(true)?;
    ringer.set_nonblocking(true)?;
    let (sender, news) = channel();
    Ok((NewsBox { news, bell }, NewsTeller { news: sender, bell: Arc::new(ringer) }))
}

impl NewsTeller {
    pub(super) fn tell(&self, news: TopNews) {
        // This fails if nobody receives any more.
        let _ = self.news.send(news);
        let _ = (&*self.bell).write(&[1]);
    }
}

impl NewsBox {
    /// The descriptor to wait for.
    pub(super) fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    /// All messages received so far.
    pub(super) fn take(&self) -> Vec<TopNews> {
        let mut rung = [0; 64];
        while (&self.bell).read(&mut rung).is_ok_and(|count| count == rung.len()) {}
        self.news.try_iter().collect()
    }
}
