//! What the loop waits for beside keys: answers and signals, told by other threads.
//!
//! Knows: a queue, and a bell that a poll hears. Never: what is asked, what a signal means.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use super::looked::TopLook;

/// One thing that has happened.
#[derive(Debug)]
pub(super) enum TopNews {
    /// A look, and how long it took.
    Look(Box<TopLook>, Duration),
    /// There was no answer: why.
    NoLook(String),
    /// What was answered to a command, and its exit code.
    Answer(String, u8),
    /// A signal.
    Signal(i32),
}

/// Where news come in.
#[derive(Debug)]
pub(super) struct NewsBox {
    news: Receiver<TopNews>,
    bell: UnixStream,
}

/// Who brings them.
#[derive(Debug, Clone)]
pub(super) struct NewsTeller {
    news: Sender<TopNews>,
    bell: Arc<UnixStream>,
}

/// A box, and who fills it.
pub(super) fn news_box() -> io::Result<(NewsBox, NewsTeller)> {
    let (bell, ringer) = UnixStream::pair()?;
    // A bell that has rung need not ring again.
    bell.set_nonblocking(true)?;
    ringer.set_nonblocking(true)?;
    let (sender, news) = channel();
    Ok((NewsBox { news, bell }, NewsTeller { news: sender, bell: Arc::new(ringer) }))
}

impl NewsTeller {
    pub(super) fn tell(&self, news: TopNews) {
        // Fails when nobody waits any more.
        let _ = self.news.send(news);
        let _ = (&*self.bell).write(&[1]);
    }
}

impl NewsBox {
    /// What can be waited for.
    pub(super) fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    /// All that is there.
    pub(super) fn take(&self) -> Vec<TopNews> {
        let mut rung = [0; 64];
        while (&self.bell).read(&mut rung).is_ok_and(|count| count == rung.len()) {}
        self.news.try_iter().collect()
    }
}
