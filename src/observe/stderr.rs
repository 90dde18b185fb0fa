//! Writes lines to standard error without ever waiting for a reader.
//!
//! Knows: how to write without blocking to each kind of stderr, the rest of a line that was written in part,
//! how many lines are lost.
//! Never: events, what a line says.
//!
//! That a descriptor polls as writable does not mean that a line fits. A terminal takes the first bytes and
//! blocks the writer for the rest after somebody has typed Ctrl-S, or in a stalled ssh session; and another
//! writer can fill a pipe in between. The non-blocking flag of a descriptor belongs to all processes that
//! share it, including the operator's shell, so balance must not set it. It opens the file anew where that is
//! possible, and so has an open file description of its own.

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
    /// The rest of a line that was written in part. No other line is written before it.
    rest: Vec<u8>,
    /// Lines that were lost and not reported to the reader yet.
    unsaid: u64,
}

/// How bytes are written.
#[derive(Debug, Default)]
enum Way {
    /// To the shared descriptor, if it polls as writable.
    #[default]
    Shared,
    /// To an open file description of our own, which does not block.
    Own(OwnedFd),
    /// To a socket, usually the service manager's. A call can say that it must not block.
    Socket,
}

impl Stderr {
    /// Makes all later writes non-blocking, whatever stderr is. Keeps a descriptor open, so call it only when
    /// the process no longer closes descriptors that it does not know.
    pub(super) fn open_anew(&mut self) {
        self.way = best_way(io::stderr().as_fd());
    }

    /// Would [`open_anew`](Self::open_anew) keep a descriptor open?
    pub(super) fn takes_descriptor() -> bool {
        matches!(best_way(io::stderr().as_fd()), Way::Own(_))
    }

    /// Writes a line, in one piece if possible. If only a part fits, the rest is written before anything
    /// else. Before the first line after a loss, it writes what `lost` returns for the number of lost lines.
    /// `false`: the line is lost.
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

    /// Writes the rest of an earlier line. `true` if nothing is left of it.
    fn write_rest(&mut self) -> bool {
        if self.rest.is_empty() {
            return true;
        }
        match self.write_some(&self.rest) {
            Ok(written) => drop(self.rest.drain(..written.min(self.rest.len()))),
            Err(Errno::AGAIN) => {}
            // The reader is gone, so nobody will see the rest of that line.
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
            // Under sudo or su, the terminal may belong to another user and cannot be opened by its name; but
            // every process may open its controlling terminal.
            let is_controlling = rustix::termios::tcgetsid(stderr).is_ok();
            reopened("/proc/self/fd/2").or_else(|| reopened("/dev/tty").filter(|_| is_controlling))
        }
        // A file takes everything, and opening it anew would give it a second write position.
        _ => None,
    };
    own.map_or(Way::Shared, Way::Own)
}

fn is_writable(fd: BorrowedFd<'_>) -> bool {
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    matches!(poll(&mut [PollFd::new(&fd, PollFlags::OUT)], Some(&at_once)), Ok(1))
}
