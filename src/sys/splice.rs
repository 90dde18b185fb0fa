//! Pipes for splice(2), and a worker's small store of them.
//!
//! Knows: two descriptors and a pipe, what pipes cost a user. Never: counters, timeouts, leases.
//!
//! A pipe pins kernel memory, and the kernel limits it per user over all programs: beyond the limit, every
//! new pipe of that user holds next to nothing. So all pipes of the process share a small budget of bytes
//! (`Budget` in `descriptors`), and there are two sizes. Small pipes are for data that may wait; large ones
//! cost less per byte and are only for data that flows. On systems without splice (or in a build with
//! `--cfg portable`) there are no pipes, and the relay copies.

#[cfg(all(target_os = "linux", not(portable)))]
pub(crate) use linux::{Pipe, Pipes, allowance, drain, fill, take_out};
#[cfg(any(not(target_os = "linux"), portable))]
pub(crate) use none::{Pipe, Pipes, allowance, drain, fill, take_out};

#[cfg(all(target_os = "linux", not(portable)))]
mod linux {
    use std::io;
    use std::os::fd::{AsFd, OwnedFd};
    use std::sync::Arc;

    use rustix::pipe::{PipeFlags, SpliceFlags};
    use rustix::thread::CapabilitySet;

    use crate::sys::descriptors::{Budget, PipeFor, TakenPipe};
    use crate::sys::fault::as_shortage;
    use crate::wire::relay::{LITTLE, PIPE_BYTES};

    /// How many idle pipes a worker keeps, small and large.
    const KEPT: [usize; 2] = [16, 1];
    /// Maximum number of bytes of all pipes of a process.
    const MOST: usize = 64 << 20;

    /// A pipe; its descriptors and bytes are counted in the budget.
    #[derive(Debug)]
    pub(crate) struct Pipe {
        read: OwnedFd,
        write: OwnedFd,
        size: Size,
        /// How much is put in at once, in bytes.
        most: usize,
        _taken: TakenPipe,
    }

    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Size {
        Little = 0,
        Large = 1,
    }

    impl Size {
        fn bytes(self) -> usize {
            match self {
                Self::Little => LITTLE,
                Self::Large => PIPE_BYTES,
            }
        }
    }

    /// The idle pipes of one worker.
    #[derive(Debug)]
    #[allow(
        clippy::vec_box,
        reason = "a connection owns its pipe by one pointer, and that box is what is kept"
    )]
    pub(crate) struct Pipes {
        /// Indexed by size.
        idle: [Vec<Box<Pipe>>; 2],
        budget: Arc<Budget>,
    }

    impl Pipes {
        pub(crate) fn new(budget: Arc<Budget>) -> Self {
            Self { idle: [Vec::new(), Vec::new()], budget }
        }

        /// Takes an empty pipe for a destination that is expected to take `expected` bytes. `None` if
        /// descriptors or pipe bytes are short. If the destination `flows` and there is plenty, the pipe may
        /// hold more.
        pub(crate) fn take(&mut self, expected: usize, flows: bool) -> Option<Box<Pipe>> {
            let most = if flows && self.budget.has_pipes_to_spare() { PIPE_BYTES } else { expected };
            let large = if most > LITTLE { self.sized(Size::Large, PipeFor::LargeFlow) } else { None };
            let what = if flows { PipeFor::Flow } else { PipeFor::Unproven };
            let mut pipe = large.or_else(|| self.sized(Size::Little, what))?;
            pipe.most = most.min(pipe.size.bytes());
            Some(pipe)
        }

        fn sized(&mut self, size: Size, what: PipeFor) -> Option<Box<Pipe>> {
            if let Some(pipe) = self.idle[size as usize].pop() {
                return Some(pipe);
            }
            let taken = self.budget.take_pipe(size.bytes(), what)?;
            let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).ok()?;
            // Beyond the user's limit on pipe memory, which other programs use, too, a new pipe has only a
            // page or two.
            let bytes = match rustix::pipe::fcntl_getpipe_size(&write) {
                Ok(bytes) if bytes == size.bytes() => bytes,
                _ => rustix::pipe::fcntl_setpipe_size(&write, size.bytes()).ok()?,
            };
            (bytes >= size.bytes()).then(|| Box::new(Pipe { read, write, size, most: bytes, _taken: taken }))
        }

        /// Takes a pipe back. If it still holds bytes, it is closed.
        pub(crate) fn give(&mut self, pipe: Box<Pipe>, held: usize) {
            let size = pipe.size;
            // One large pipe is enough for everything that flows through a worker, and creating one each turn
            // would be expensive.
            let is_kept = size == Size::Large || !self.budget.is_short();
            if held == 0 && self.idle[size as usize].len() < KEPT[size as usize] && is_kept {
                self.idle[size as usize].push(pipe);
            }
        }

        /// Closes the idle pipes, which frees their descriptors for connections.
        pub(crate) fn clear(&mut self) {
            self.idle.iter_mut().for_each(Vec::clear);
        }
    }

    /// How many bytes the pipes of this process may hold: a quarter of the user's limit over all programs, at
    /// most [`MOST`].
    pub(crate) fn allowance() -> usize {
        let may_exceed = rustix::thread::capabilities(None).is_ok_and(|sets| {
            sets.effective.intersects(CapabilitySet::SYS_RESOURCE | CapabilitySet::SYS_ADMIN)
        });
        let pages = std::fs::read_to_string("/proc/sys/fs/pipe-user-pages-soft");
        // Without /proc, the kernel's default. 0 means no limit.
        let pages = pages.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(16_384_usize);
        if may_exceed || pages == 0 {
            MOST
        } else {
            MOST.min(pages.saturating_mul(rustix::param::page_size()) / 4)
        }
    }

    const FLAGS: SpliceFlags = SpliceFlags::MOVE.union(SpliceFlags::NONBLOCK);

    /// Moves bytes from a socket into a pipe.
    pub(crate) fn fill(from: impl AsFd, pipe: &Pipe) -> io::Result<usize> {
        rustix::pipe::splice(from, None, &pipe.write, None, pipe.most, FLAGS).map_err(as_shortage)
    }

    /// Moves bytes from a pipe to a socket.
    pub(crate) fn drain(pipe: &Pipe, to: impl AsFd, len: usize) -> io::Result<usize> {
        rustix::pipe::splice(&pipe.read, None, to, None, len, FLAGS).map_err(as_shortage)
    }

    /// Reads the `len` bytes that are in a pipe. If there is no memory for them, none is read.
    pub(crate) fn take_out(pipe: &Pipe, len: usize) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(len)?;
        bytes.resize(len, 0);
        let mut at = 0;
        while at < len {
            // A pipe returns everything it has at once, or an error before the first byte.
            match rustix::io::read(&pipe.read, &mut bytes[at..]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => at += n,
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(as_shortage(e)),
            }
        }
        Ok(bytes)
    }
}

#[cfg(any(not(target_os = "linux"), portable))]
mod none {
    use std::io;
    use std::os::fd::AsFd;
    use std::sync::Arc;

    use crate::sys::descriptors::Budget;

    /// A pipe, which cannot exist on this system.
    #[derive(Debug)]
    pub(crate) enum Pipe {}

    /// A store that is always empty.
    #[derive(Debug)]
    pub(crate) struct Pipes;

    impl Pipes {
        pub(crate) fn new(_budget: Arc<Budget>) -> Self {
            Self
        }
        pub(crate) fn take(&mut self, _expected: usize, _flows: bool) -> Option<Box<Pipe>> {
            None
        }
        #[allow(clippy::boxed_local, reason = "the signature of the other kind")]
        pub(crate) fn give(&mut self, pipe: Box<Pipe>, _held: usize) {
            match *pipe {}
        }
        pub(crate) fn clear(&mut self) {}
    }

    pub(crate) fn allowance() -> usize {
        0
    }
    pub(crate) fn fill(_from: impl AsFd, pipe: &Pipe) -> io::Result<usize> {
        match *pipe {}
    }
    pub(crate) fn drain(pipe: &Pipe, _to: impl AsFd, _len: usize) -> io::Result<usize> {
        match *pipe {}
    }
    pub(crate) fn take_out(pipe: &Pipe, _len: usize) -> io::Result<Vec<u8>> {
        match *pipe {}
    }
}
