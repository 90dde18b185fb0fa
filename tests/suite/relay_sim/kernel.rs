//! The virtual kernel: system calls as Linux answers them.
//!
//! Knows: what a call returns in which state of a socket, in which order data, end and error come. Never: the
//! caller, why.

use std::io::{self, ErrorKind};

use balance::wire::relay::{Input, Kernel, LITTLE, Output, PIPE_BYTES, Side};

use super::oracle::Kind;
use super::world::World;

/// So many calls in a row that come to nothing are a spin, even with interruptions in between.
const FRUITLESS: u32 = 300;

/// A pipe: it holds the bytes from `at` on of the stream it was filled from.
#[derive(Debug)]
pub(super) struct Pipe {
    number: u32,
    from: Side,
    at: u64,
    pub(super) length: u64,
    capacity: u64,
}

/// The kernel of one connection.
#[derive(Debug)]
pub(super) struct VirtualKernel<'a>(pub(super) &'a mut World);

impl VirtualKernel<'_> {
    /// What may come before any call on a side: other things happen, signals, a lack of memory, and errors that are no fault
    /// of anybody's.
    fn enter(&mut self, side: Side) -> io::Result<()> {
        let world = &mut *self.0;
        world.fruitless += 1;
        if world.fruitless > FRUITLESS {
            world.violate(Kind::Spin, || format!("{FRUITLESS} calls in a row came to nothing"));
        }
        if world.violation.is_some() {
            // Ends the turn.
            return Err(ErrorKind::Other.into());
        }
        if world.random.chance(world.weather.interleaves) {
            world.act();
        }
        if world.random.chance(world.weather.interrupts) {
            return Err(ErrorKind::Interrupted.into());
        }
        if world.random.chance(world.weather.shortages) {
            return Err(ErrorKind::OutOfMemory.into());
        }
        if world.random.chance(world.weather.failures) {
            world.ailing[side as usize] = true;
            world.stats.failures += 1;
            return Err(self.hard(side, ErrorKind::Other));
        }
        Ok(())
    }

    fn moved(&mut self, n: u64) -> usize {
        self.0.progress += n;
        self.0.fruitless = 0;
        usize::try_from(n).expect("it fitted into a buffer")
    }

    /// Why there is nothing to read.
    fn nothing_to_read(&mut self, side: Side) -> io::Result<Input> {
        let socket = &mut self.0.sockets[side as usize];
        // Linux: whoever has seen the end hears of no reset by reading.
        if socket.fin {
            return Ok(Input { bytes: 0, drained: true });
        }
        if let Some(error) = socket.error.take() {
            return Err(self.hard(side, error));
        }
        if socket.reset { Ok(Input { bytes: 0, drained: true }) } else { Err(ErrorKind::WouldBlock.into()) }
    }

    fn hard(&mut self, side: Side, error: ErrorKind) -> io::Error {
        self.0.trace(|_| format!("  error {error:?} on {side:?}"));
        self.0.broken[side as usize] = true;
        self.0.progress += 1;
        error.into()
    }

    /// Can this side be written to at all?
    fn check_writing(&mut self, side: Side) -> io::Result<()> {
        let socket = &mut self.0.sockets[side as usize];
        if let Some(error) = socket.error.take() {
            return Err(self.hard(side, error));
        }
        if socket.reset || socket.shut {
            return Err(self.hard(side, ErrorKind::BrokenPipe));
        }
        Ok(())
    }

    /// How many of `n` bytes a side takes now, and whether that is because it is full.
    fn takes(&mut self, side: Side, n: u64) -> io::Result<(u64, bool)> {
        self.check_writing(side)?;
        if self.0.random.chance(self.0.weather.denials) {
            // For want of memory. Linux wakes the poller when something is acknowledged, if anything is left to be.
            self.0.sockets[side as usize].wants_space = true;
            return Err(ErrorKind::WouldBlock.into());
        }
        let keeps = self.0.weather.keeps;
        if keeps > 0 && self.0.sockets[side as usize].kept >= keeps {
            self.push(side);
        }
        let socket = &mut self.0.sockets[side as usize];
        let room = if keeps > 0 { keeps.saturating_sub(socket.kept) } else { socket.space() };
        let taken = n.min(room);
        // What keeps bytes back says so only when it can pass none on.
        let full = taken < n && (keeps == 0 || taken == 0);
        if full {
            socket.wants_space = true;
        }
        if taken == 0 {
            return Err(ErrorKind::WouldBlock.into());
        }
        if self.0.random.chance(self.0.weather.short_writes) {
            return Ok((self.0.random.up_to(taken), false));
        }
        Ok((taken, full))
    }

    /// The next bytes to `side` are these, of its peer's stream.
    fn wrote(&mut self, side: Side, n: u64, full: bool) -> Output {
        let keeps = self.0.weather.keeps > 0;
        let socket = &mut self.0.sockets[side as usize];
        socket.written += n;
        socket.kept += if keeps { n } else { 0 };
        socket.corked_until = None;
        let written = socket.written;
        if side == Side::Server {
            self.0.first_write.get_or_insert(n);
        }
        self.0.trace(|_| format!("  {n} to {side:?}, {written} in all"));
        Output { bytes: self.moved(n), full }
    }

    /// What was kept back goes on as far as there is room.
    fn push(&mut self, side: Side) {
        let socket = &mut self.0.sockets[side as usize];
        let n = socket.kept.min(socket.space());
        socket.kept -= n;
        if socket.kept > 0 {
            socket.wants_space = true;
        }
        if n > 0 {
            self.0.trace(|_| format!("  {n} pushed to {side:?}"));
            self.moved(n);
        }
    }
}

impl Kernel for VirtualKernel<'_> {
    type Pipe = Pipe;

    fn read(&mut self, side: Side, buf: &mut [u8]) -> io::Result<Input> {
        self.enter(side)?;
        let mut n = self.0.sockets[side as usize].readable().min(buf.len() as u64);
        if n == 0 {
            return self.nothing_to_read(side);
        }
        let cut = self.0.random.chance(self.0.weather.short_reads);
        if cut {
            n = self.0.random.up_to(n);
        }
        let socket = &mut self.0.sockets[side as usize];
        let mut missed = false;
        if let Some(mark) = socket.mark {
            // In line, a read that begins at the mark takes it as any byte.
            if mark > socket.read {
                n = n.min(mark - socket.read);
            } else {
                socket.mark = None;
                // Who was told of it must have asked before.
                missed = socket.told_mark == Some(mark) && buf.len() > 1;
            }
        }
        let at = socket.read;
        socket.read += n;
        if missed {
            self.0.violate(Kind::Urgent, || format!("urgent byte {at} from {side:?} is read as any other"));
        }
        let length = self.moved(n);
        buf[..length].copy_from_slice(self.0.streams[side as usize].bytes(at, length));
        self.0.trace(|w| format!("  {n} read from {side:?}, {} left", w.sockets[side as usize].readable()));
        // What may cut may not know either, and a signal comes in between.
        Ok(Input { bytes: length, drained: length < buf.len() && !cut })
    }

    fn write(&mut self, side: Side, buf: &[u8]) -> io::Result<Output> {
        self.enter(side)?;
        let (n, full) = self.takes(side, buf.len() as u64)?;
        let length = usize::try_from(n).expect("at most the buffer");
        self.0.check_bytes(side, &buf[..length]);
        Ok(self.wrote(side, n, full))
    }

    fn write_last(&mut self, side: Side, buf: &[u8]) -> io::Result<Output> {
        let output = self.write(side, buf)?;
        // Linux sends it when nothing has followed for the time of a retransmission, or when the buffer is full.
        let socket = &mut self.0.sockets[side as usize];
        if output.bytes == buf.len() && socket.kept == 0 {
            socket.corked_until = Some(self.0.now + 200);
        }
        Ok(output)
    }

    fn flush(&mut self, side: Side) -> io::Result<()> {
        if self.0.sockets[side as usize].kept == 0 {
            return Ok(());
        }
        self.enter(side)?;
        self.check_writing(side)?;
        self.push(side);
        if self.0.sockets[side as usize].kept > 0 { Err(ErrorKind::WouldBlock.into()) } else { Ok(()) }
    }

    fn shutdown(&mut self, side: Side, closes: bool) -> io::Result<()> {
        if closes {
            // The close says it.
            return Ok(());
        }
        self.enter(side)?;
        if self.0.sockets[side as usize].reset {
            return Err(self.hard(side, ErrorKind::NotConnected));
        }
        self.0.check_end(side);
        self.0.trace(|_| format!("  end to {side:?}"));
        let socket = &mut self.0.sockets[side as usize];
        socket.shut = true;
        socket.corked_until = None;
        // Linux wakes the poller of the socket itself.
        socket.armed = true;
        self.moved(1);
        Ok(())
    }

    fn at_mark(&mut self, side: Side) -> io::Result<bool> {
        let socket = &self.0.sockets[side as usize];
        Ok(socket.mark == Some(socket.read))
    }

    fn write_urgent(&mut self, side: Side, byte: u8) -> io::Result<()> {
        self.enter(side)?;
        let (_, full) = self.takes(side, 1)?;
        self.0.check_bytes(side, &[byte]);
        self.0.check_urgent(side);
        self.0.stats.urgent += 1;
        self.wrote(side, 1, full);
        Ok(())
    }

    fn error(&mut self, side: Side) -> Option<io::Error> {
        let error = self.0.sockets[side as usize].error.take()?;
        Some(self.hard(side, error))
    }

    fn unsent(&mut self, side: Side) -> usize {
        let socket = &self.0.sockets[side as usize];
        let end = u64::from(socket.shut && !socket.fin_acked);
        usize::try_from(socket.written - socket.acked + end).expect("it fitted into a buffer")
    }

    fn unread(&mut self, side: Side) -> usize {
        usize::try_from(self.0.sockets[side as usize].readable()).expect("it fitted into a buffer")
    }

    fn will_tell_of_room(&mut self, side: Side) -> bool {
        self.0.sockets[side as usize].in_flight() > 0
    }

    fn expect_bulk(&mut self, to: Side) {
        if std::mem::replace(&mut self.0.bulk[to as usize], true) {
            self.0.violate(Kind::Release, || format!("what goes to {to:?} is told to be bulk twice"));
        }
    }

    fn open_pipe(&mut self, expected: usize, flows: bool) -> Option<Pipe> {
        // As for real sockets.
        if self.0.tapped.is_some() || self.0.random.chance(self.0.weather.no_pipe) {
            return None;
        }
        self.0.next_pipe += 1;
        let number = self.0.next_pipe;
        self.0.pipes.insert(number);
        // A large one is not always to be had.
        let most = if flows { PIPE_BYTES } else { expected };
        let bytes = if self.0.random.chance(500) { most } else { LITTLE };
        Some(Pipe {
            number,
            from: Side::Client,
            at: 0,
            length: 0,
            capacity: self.0.weather.pipe_bytes.min(bytes as u64),
        })
    }

    fn fill(&mut self, from: Side, pipe: &mut Pipe) -> io::Result<Input> {
        self.enter(from)?;
        if pipe.length > 0 {
            let held = pipe.length;
            self.0.violate(Kind::Release, || format!("a pipe with {held} bytes inside is filled again"));
        }
        if !self.0.bulk[from.peer() as usize] {
            self.0.violate(Kind::Release, || format!("{from:?} is spliced and nobody was told of bulk"));
        }
        if self.0.weather.unspliceable {
            return Err(ErrorKind::InvalidInput.into());
        }
        let socket = &mut self.0.sockets[from as usize];
        let mut n = socket.readable().min(pipe.capacity);
        // A splice does not cross the mark, and does not take it either.
        if let Some(mark) = socket.mark {
            n = n.min(mark - socket.read);
        }
        if n == 0 {
            return self.nothing_to_read(from);
        }
        if self.0.random.chance(self.0.weather.short_splice) {
            n = self.0.random.up_to(n);
        }
        let socket = &mut self.0.sockets[from as usize];
        (pipe.from, pipe.at, pipe.length) = (from, socket.read, n);
        socket.read += n;
        self.0.stats.spliced += n;
        self.0
            .trace(|w| format!("  {n} spliced from {from:?}, {} left", w.sockets[from as usize].readable()));
        Ok(Input { bytes: self.moved(n), drained: false })
    }

    fn drain(&mut self, pipe: &mut Pipe, to: Side, len: usize) -> io::Result<Output> {
        self.enter(to)?;
        let n = pipe.length.min(len as u64);
        if n == 0 {
            return Ok(Output { bytes: 0, full: false });
        }
        let (mut n, _) = self.takes(to, n)?;
        if self.0.random.chance(self.0.weather.short_splice) {
            n = self.0.random.up_to(n);
        }
        self.0.check_position(to, pipe.at);
        pipe.at += n;
        pipe.length -= n;
        Ok(self.wrote(to, n, false))
    }

    fn take_out(&mut self, pipe: &mut Pipe, len: usize) -> io::Result<Vec<u8>> {
        if self.0.random.chance(self.0.weather.shortages) {
            return Err(ErrorKind::OutOfMemory.into());
        }
        let held = pipe.length;
        if held != len as u64 {
            self.0.violate(Kind::Release, || format!("{len} bytes are to come out of a pipe with {held}"));
        }
        let length = usize::try_from(held).expect("it fitted into a pipe");
        let bytes = self.0.streams[pipe.from as usize].bytes(pipe.at, length).to_vec();
        (pipe.at, pipe.length) = (pipe.at + held, 0);
        Ok(bytes)
    }

    fn close_pipe(&mut self, pipe: Pipe, held: usize) {
        let Pipe { number, length, .. } = pipe;
        if held as u64 != length {
            self.0.violate(Kind::Release, || {
                format!("a pipe comes back with {length} bytes, said to be {held}")
            });
        }
        if !self.0.pipes.remove(&number) {
            self.0.violate(Kind::Release, || format!("pipe {number} comes back twice"));
        }
    }

    fn saw(&mut self, from: Side, bytes: &[u8]) {
        if let Some(seen) = &mut self.0.tapped {
            seen[from as usize] += bytes.len() as u64;
            self.0.stats.tapped_bytes += bytes.len() as u64;
        }
    }

    fn delivered(&mut self, to: Side, bytes: usize) {
        self.0.counted[to as usize] += bytes as u64;
    }
}
