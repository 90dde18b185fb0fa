//! Lines to standard error that never wait for a reader.
//!
//! Knows: how to write without blocking to each kind of stderr, the rest of a line that fitted in part, how many lines are lost.
//! Never: events, what a line says.
//!
//! That a descriptor polls as writable does not say that a line fits. A terminal takes the first bytes and blocks the writer for the
//! others when somebody has typed Ctrl-S, or has an ssh session that hangs; another writer can fill a pipe in between. The flag that makes a
//! descriptor non-blocking belongs to all processes that share it, the operator's shell among them, so it is not ours to set. What can be
//! opened anew is: then we have a description of our own.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::SendFlags;

/// Standard error.
#[derive(Debug, Default)]
pub(super) struct Stderr {
    way: Way,
    /// Of a line that was written in part. No other line is written before it.
    rest: Vec<u8>,
    /// Lines that were lost since the reader was told of lost lines.
    unsaid: u64,
}

/// How bytes go out.
#[derive(Debug, Default)]
enum Way {
    /// By the descriptor that others share, if it polls as writable.
    #[default]
    Shared,
    /// By a description of our own, which does not block.
    Own(OwnedFd),
    /// The service manager's, usually. A call can say that it must not block.
    Socket,
}

impl Stderr {
    /// From now on no write waits, whatever stderr is. Keeps a descriptor open. To be called when the process closes no descriptors any
    /// more that it does not know.
    pub(super) fn open_anew(&mut self) {
        self.way = best_way(io::stderr().as_fd());
    }

    /// Does [`open_anew`](Self::open_anew) keep a descriptor open here?
    pub(super) fn takes_descriptor() -> bool {
        matches!(best_way(io::stderr().as_fd()), Way::Own(_))
    }

    /// Writes a line, in one piece if possible. If only a part fits, the rest comes before anything else. In front of the first one after
    /// lines were lost comes what `lost` makes of their number. `false`: it is lost.
    pub(super) fn say(&mut self, line: &str, lost: impl FnOnce(u64) -> String) -> bool {
        let is_taken = self.write_rest() && {
            if self.unsaid > 0 && self.write(&lost(self.unsaid)) {
                self.unsaid = 0;
            }
            self.unsaid == 0 && self.write_rest() && self.write(line)
        };
        self.unsaid += u64::from(!is_taken);
        is_taken
    }

    fn write(&mut self, line: &str) -> bool {
        let Ok(written) = self.write_some(line.as_bytes()) else { return false };
        self.rest.extend_from_slice(line.as_bytes().get(written..).unwrap_or_default());
        true
    }

    /// Is nothing left of an earlier line?
    fn write_rest(&mut self) -> bool {
        if self.rest.is_empty() {
            return true;
        }
        match self.write_some(&self.rest) {
            Ok(written) => drop(self.rest.drain(..written.min(self.rest.len()))),
            Err(Errno::AGAIN) => {}
            // The reader has gone, and nobody will see the end of that line.
            Err(_) => self.rest.clear(),
        }
        self.rest.is_empty()
    }

    fn write_some(&self, bytes: &[u8]) -> Result<usize, Errno> {
        let stderr = io::stderr();
        loop {
            let written = match &self.way {
                Way::Shared if !is_writable(stderr.as_fd()) => Err(Errno::AGAIN),
                Way::Shared => rustix::io::write(&stderr, bytes),
                Way::Own(fd) => rustix::io::write(fd, bytes),
                Way::Socket => {
                    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
                    rustix::net::send(&stderr, bytes, flags)
                }
            };
            if written != Err(Errno::INTR) {
                return written;
            }
        }
    }
}

fn best_way(stderr: BorrowedFd<'_>) -> Way {
    let Ok(status) = rustix::fs::fstat(stderr) else { return Way::Shared };
    let reopened = |path: &str| {
        let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        rustix::fs::open(path, flags, Mode::empty()).ok()
    };
    let own = match FileType::from_raw_mode(status.st_mode) {
        FileType::Socket => return Way::Socket,
        FileType::Fifo => reopened("/proc/self/fd/2"),
        FileType::CharacterDevice if rustix::termios::isatty(stderr) => {
            // The terminal of another user, under sudo or su, is not ours to open by its name; everybody may open the one they are at.
            let is_controlling = rustix::termios::tcgetsid(stderr).is_ok();
            reopened("/proc/self/fd/2").or_else(|| reopened("/dev/tty").filter(|_| is_controlling))
        }
        // A file takes everything, and opened anew it would have a position of its own.
        _ => None,
    };
    own.map_or(Way::Shared, Way::Own)
}

fn is_writable(fd: BorrowedFd<'_>) -> bool {
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    matches!(poll(&mut [PollFd::new(&fd, PollFlags::OUT)], Some(&at_once)), Ok(1))
}
