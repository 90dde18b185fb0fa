//! Pipes for splice(2), and a worker's small store of them.
//!
//! Knows: two descriptors and a pipe. Never: counters, timeouts, leases.
//! Where there is no splice (or in a build with `--cfg portable`) no pipe can be had, and the relay copies.

#[cfg(all(target_os = "linux", not(portable)))]
pub(crate) use linux::{Pipe, Pipes, drain, fill};
#[cfg(any(not(target_os = "linux"), portable))]
pub(crate) use none::{Pipe, Pipes, drain, fill};

#[cfg(all(target_os = "linux", not(portable)))]
mod linux {
    use std::io;
    use std::os::fd::{AsFd, OwnedFd};
    use std::sync::Arc;

    use rustix::pipe::{PipeFlags, SpliceFlags};

    use crate::sys::descriptors::{Budget, Taken};
    use crate::sys::fault::as_shortage;
    use crate::wire::relay::PIPE_BYTES;

    /// Idle pipes that a worker keeps.
    const KEPT: usize = 16;

    /// A pipe of our own; its descriptors are counted.
    #[derive(Debug)]
    pub(crate) struct Pipe {
        read: OwnedFd,
        write: OwnedFd,
        _taken: Taken,
    }

    /// One worker's idle pipes.
    #[derive(Debug)]
    #[allow(
        clippy::vec_box,
        reason = "a connection owns its pipe by one pointer, and that box is what is kept"
    )]
    pub(crate) struct Pipes {
        idle: Vec<Box<Pipe>>,
        budget: Arc<Budget>,
    }

    impl Pipes {
        pub(crate) fn new(budget: Arc<Budget>) -> Self {
            Self { idle: Vec::new(), budget }
        }

        /// An empty pipe, or `None` while descriptors are short.
        pub(crate) fn take(&mut self) -> Option<Box<Pipe>> {
            if let Some(pipe) = self.idle.pop() {
                return Some(pipe);
            }
            let taken = self.budget.take_spare(2)?;
            let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).ok()?;
            // Past the user's share of pipe memory this is refused, and a smaller pipe works too.
            let _ = rustix::pipe::fcntl_setpipe_size(&write, PIPE_BYTES);
            Some(Box::new(Pipe { read, write, _taken: taken }))
        }

        /// Takes a pipe back. One that still holds bytes is closed with them.
        pub(crate) fn give(&mut self, pipe: Box<Pipe>, held: usize) {
            if held == 0 && self.idle.len() < KEPT && !self.budget.is_short() {
                self.idle.push(pipe);
            }
        }

        /// Gives the idle ones' descriptors back to connections.
        pub(crate) fn clear(&mut self) {
            self.idle.clear();
        }
    }

    const FLAGS: SpliceFlags = SpliceFlags::MOVE.union(SpliceFlags::NONBLOCK);

    /// Moves bytes from a socket into a pipe.
    pub(crate) fn fill(from: impl AsFd, pipe: &Pipe, max: usize) -> io::Result<usize> {
        rustix::pipe::splice(from, None, &pipe.write, None, max, FLAGS).map_err(as_shortage)
    }

    /// Moves bytes from a pipe to a socket.
    pub(crate) fn drain(pipe: &Pipe, to: impl AsFd, len: usize) -> io::Result<usize> {
        rustix::pipe::splice(&pipe.read, None, to, None, len, FLAGS).map_err(as_shortage)
    }
}

#[cfg(any(not(target_os = "linux"), portable))]
mod none {
    use std::io;
    use std::os::fd::AsFd;
    use std::sync::Arc;

    use crate::sys::descriptors::Budget;

    /// No pipe exists here.
    #[derive(Debug)]
    pub(crate) enum Pipe {}

    /// A store that is always empty.
    #[derive(Debug)]
    pub(crate) struct Pipes;

    impl Pipes {
        pub(crate) fn new(_budget: Arc<Budget>) -> Self {
            Self
        }
        pub(crate) fn take(&mut self) -> Option<Box<Pipe>> {
            None
        }
        #[allow(clippy::boxed_local, reason = "the signature of the other kind")]
        pub(crate) fn give(&mut self, pipe: Box<Pipe>, _held: usize) {
            match *pipe {}
        }
        pub(crate) fn clear(&mut self) {}
    }

    pub(crate) fn fill(_from: impl AsFd, pipe: &Pipe, _max: usize) -> io::Result<usize> {
        match *pipe {}
    }
    pub(crate) fn drain(pipe: &Pipe, _to: impl AsFd, _len: usize) -> io::Result<usize> {
        match *pipe {}
    }
}
