//! Messages with descriptors between a process and its successor.
//!
//! Knows: how frames and descriptors go through a stream socket, completely or not at all. Never: what a
//! message means.
//!
//! The kernel attaches descriptors to a byte and takes a limited number of them per call. The first load goes
//! with the first bytes of a frame, each further load with one extra byte after the frame.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::de::DeserializeOwned;

use super::clock::{Clock, OwnTime};
use crate::handover::frame::{self, HEAD, Head, MOST_DESCRIPTORS};

/// How many bytes are read at a time.
const PIECE: usize = 64 << 10;
/// How long to wait before trying again when the kernel has no room for more descriptors in flight, or no
/// memory.
const PAUSE: Duration = Duration::from_millis(10);
/// The kernel's limit on descriptors per call (`SCM_MAX_FD`). The sender may send more at a time than we do.
const MOST_AT_ONCE: usize = 253;

/// One end of the stream between the two processes.
#[derive(Debug)]
pub struct HandoverStream {
    stream: UnixStream,
    /// Only a part of a frame could be sent.
    is_cut: AtomicBool,
    /// The received part of a frame that was incomplete at the last timeout.
    partial: Partial,
}

/// A message with everything that came with it.
#[derive(Debug)]
pub struct Received {
    head: Head,
    /// The message, followed by the attached bytes.
    body: Vec<u8>,
    /// The descriptors in order, or an error if the descriptor table had no room for all of them.
    pub descriptors: Result<Vec<OwnedFd>, DescriptorsLost>,
}

/// The descriptor table was full when some descriptors came. Those that fitted were closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too few descriptors are free: raise the limit on open files (ulimit -n)")]
pub struct DescriptorsLost;

impl Received {
    /// Reads the message as a value of type `M`.
    ///
    /// # Errors
    /// The message is not of this type.
    pub fn message<M: DeserializeOwned>(&self) -> io::Result<M> {
        frame::read(&self.body[..self.head.message])
    }

    /// The bytes attached to the message.
    pub fn attached(&self) -> &[u8] {
        &self.body[self.head.message..]
    }
}

impl From<UnixStream> for HandoverStream {
    fn from(stream: UnixStream) -> Self {
        Self { stream, is_cut: AtomicBool::new(false), partial: Partial::default() }
    }
}

impl AsFd for HandoverStream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

impl HandoverStream {
    /// Sends a frame with as many descriptors as its head says. The caller's descriptors stay open.
    ///
    /// # Errors
    /// `TimedOut`: the other end does not read. If only a part of the frame could be sent, every later send
    /// fails with `BrokenPipe`. The stream still stays open, because its end would tell the other process
    /// that this one is dead.
    pub fn send(&self, frame: &[u8], descriptors: &[BorrowedFd<'_>], patience: Duration) -> io::Result<()> {
        let head = frame.first_chunk::<HEAD>().map(|head| Head::read(*head)).transpose()?;
        let whole = |head: &Head| {
            HEAD + head.message + head.attached == frame.len() && head.descriptors == descriptors.len()
        };
        let Some(head) = head.filter(whole) else {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the head of the frame is of another frame",
            ));
        };
        if self.is_cut.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let mut patience = Forbearance::new(Clock::start(), Some(patience));
        let mut is_begun = false;
        let sent = self.send_all(frame, descriptors, head.trailer(), &mut patience, &mut is_begun);
        if sent.is_err() && is_begun {
            self.is_cut.store(true, Ordering::SeqCst);
        }
        sent
    }

    fn send_all(
        &self,
        frame: &[u8],
        descriptors: &[BorrowedFd<'_>],
        trailer: usize,
        patience: &mut Forbearance,
        is_begun: &mut bool,
    ) -> io::Result<()> {
        let mut loads = descriptors.chunks(MOST_DESCRIPTORS);
        let mut rest = frame;
        let mut load = loads.next().unwrap_or_default();
        while !rest.is_empty() {
            let sent = self.send_some(rest, load, patience)?;
            *is_begun = true;
            // The load went with the first of these bytes.
            load = &[];
            rest = &rest[sent..];
        }
        debug_assert_eq!(loads.len(), trailer, "each further load has its byte");
        for load in loads {
            self.send_some(&[0], load, patience)?;
        }
        Ok(())
    }

    /// Sends at least one byte, and these descriptors with it.
    fn send_some(
        &self,
        bytes: &[u8],
        load: &[BorrowedFd<'_>],
        patience: &mut Forbearance,
    ) -> io::Result<usize> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
        loop {
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !load.is_empty() {
                let fits = control.push(SendAncillaryMessage::ScmRights(load));
                debug_assert!(fits, "a load is never larger");
            }
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            match sendmsg(&self.stream, &[IoSlice::new(bytes)], &mut control, flags) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(sent) => return Ok(sent),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => patience.wait_for(&self.stream, PollFlags::OUT)?,
                Err(e @ (Errno::TOOMANYREFS | Errno::NOBUFS | Errno::NOMEM)) => {
                    patience.pause().map_err(|_| e)?;
                }
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// Waits for the next message. `None`: the stream has ended after a complete message.
    ///
    /// # Errors
    /// `TimedOut`: the message has not come, or only a part of it, which is kept for the next call.
    /// `UnexpectedEof`: the stream ended inside a message. `InvalidData`: the bytes are not a message, and no
    /// other message can be read from this stream. Descriptors that came are closed.
    pub fn receive(&mut self, patience: Option<Duration>) -> io::Result<Option<Received>> {
        let mut patience = Forbearance::new(Clock::start(), patience);
        loop {
            let Some(missing) = self.partial.missing()? else {
                return std::mem::take(&mut self.partial).whole().map(Some);
            };
            match self.receive_some(missing) {
                Ok(0) if self.partial.bytes.is_empty() => return Ok(None),
                Ok(0) => {
                    self.partial = Partial::default();
                    let why = "the stream has ended inside a message";
                    return Err(io::Error::new(io::ErrorKind::UnexpectedEof, why));
                }
                Ok(_) | Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => patience.wait_for(&self.stream, PollFlags::IN)?,
                // The other end was closed before it had read everything we sent.
                Err(Errno::CONNRESET) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// Throws away what has come and was not read, and closes all descriptors in it. Returns whether there was
    /// anything.
    pub fn drain(&mut self) -> bool {
        let mut was_full = !self.partial.bytes.is_empty();
        self.partial = Partial::default();
        loop {
            let received = self.receive_some(PIECE);
            self.partial = Partial::default();
            match received {
                Err(Errno::INTR) => {}
                Ok(0) | Err(_) => return was_full,
                Ok(_) => was_full = true,
            }
        }
    }

    /// Reads at most `most` bytes and the descriptors that came with them. 0: the stream has ended.
    fn receive_some(&mut self, most: usize) -> Result<usize, Errno> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_AT_ONCE))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let bytes = &mut self.partial.bytes;
        let before = bytes.len();
        // Memory is taken only for what has come: the bytes that a head announces may never come.
        bytes.resize(before + most.min(PIECE), 0);
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        let received =
            recvmsg(&self.stream, &mut [IoSliceMut::new(&mut bytes[before..])], &mut control, flags);
        bytes.truncate(before + received.as_ref().map_or(0, |received| received.bytes));
        let received = received?;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                self.partial.descriptors.extend(descriptors);
            }
        }
        self.partial.are_lost |= received.flags.contains(ReturnFlags::CTRUNC);
        if self.partial.are_lost {
            self.partial.descriptors.clear();
        }
        Ok(received.bytes)
    }
}

/// The received part of a frame.
#[derive(Debug, Default)]
struct Partial {
    bytes: Vec<u8>,
    descriptors: Vec<OwnedFd>,
    /// Some descriptors did not fit into the descriptor table.
    are_lost: bool,
}

impl Partial {
    fn head(&self) -> io::Result<Option<Head>> {
        self.bytes.first_chunk::<HEAD>().map(|head| Head::read(*head)).transpose()
    }

    /// How many bytes are missing until more is known. `None`: the frame is complete.
    fn missing(&mut self) -> io::Result<Option<usize>> {
        let checked = self.head().and_then(|head| {
            let promised = head.map_or(MOST_DESCRIPTORS, |head| head.descriptors);
            if self.descriptors.len() > promised {
                return Err(wrong("more descriptors came than were announced"));
            }
            Ok(head)
        });
        match checked {
            Ok(None) => Ok(Some(HEAD - self.bytes.len())),
            Ok(Some(head)) => {
                let missing = frame_length(head) + head.trailer() - self.bytes.len();
                Ok(Some(missing).filter(|&missing| missing > 0))
            }
            Err(e) => {
                // What follows cannot be interpreted any more, so all descriptors that came are closed at
                // once.
                self.descriptors.clear();
                Err(e)
            }
        }
    }

    fn whole(mut self) -> io::Result<Received> {
        let Some(head) = self.head()? else { return Err(wrong("a message without a head")) };
        let descriptors = if self.are_lost {
            Err(DescriptorsLost)
        } else if self.descriptors.len() == head.descriptors {
            Ok(self.descriptors)
        } else {
            return Err(wrong("fewer descriptors came than were announced"));
        };
        self.bytes.truncate(frame_length(head));
        self.bytes.drain(..HEAD);
        Ok(Received { head, body: self.bytes, descriptors })
    }
}

const fn frame_length(head: Head) -> usize {
    HEAD + head.message + head.attached
}

fn wrong(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.to_owned())
}

/// How much longer to wait for the other end. The time runs out only after a look that began later than its
/// end, because this process may itself have been stopped meanwhile.
#[derive(Debug)]
struct Forbearance {
    clock: Clock,
    time: OwnTime,
    /// The deadline in the thread's own time. `None`: no deadline.
    until: Option<Duration>,
    /// The own time at which the last look began, at the latest.
    looked: Duration,
}

impl Forbearance {
    fn new(clock: Clock, patience: Option<Duration>) -> Self {
        let now = clock.now();
        Self {
            clock,
            time: OwnTime::at(now),
            until: patience.map(|patience| now.saturating_add(patience)),
            looked: now,
        }
    }

    /// How much time is left. Call it after a look that found nothing.
    fn left(&self) -> io::Result<Option<Duration>> {
        let left = self.until.map(|until| until.saturating_sub(self.looked));
        if left == Some(Duration::ZERO) { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
    }

    /// Notes a wait that was to take at most `asked`. The next look comes after this call.
    fn waited(&mut self, asked: Option<Duration>) {
        self.looked = self.time.waited(asked, self.clock.now());
    }

    /// Waits until the socket is ready or the time is up; the next look finds out which.
    fn wait_for(&mut self, socket: &impl AsFd, news: PollFlags) -> io::Result<()> {
        let left = self.left()?;
        // A time that is too long for the type counts as unlimited.
        let timeout = left.and_then(|left| Timespec::try_from(left).ok());
        match poll(&mut [PollFd::new(socket, news)], timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => self.waited(left),
            Err(e) => return Err(e.into()),
        }
        Ok(())
    }

    /// Waits for [`PAUSE`] at most.
    fn pause(&mut self) -> io::Result<()> {
        let left = self.left()?;
        let pause = left.map_or(PAUSE, |left| left.min(PAUSE));
        std::thread::sleep(pause);
        self.waited(Some(pause));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;
    use std::os::fd::AsRawFd;
    use std::process::Command;
    use std::thread;

    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

    use super::super::clock::Told;
    use super::*;

    const LONG: Duration = Duration::from_secs(60);
    /// Set in the process that a test starts for itself.
    const INNER: &str = "BALANCE_TEST_PASSING";

    fn pair() -> (HandoverStream, HandoverStream) {
        let (a, b) = UnixStream::pair().expect("a pair of sockets");
        (a.into(), b.into())
    }

    fn frame(message: &str, attached: &[u8], descriptors: usize) -> Vec<u8> {
        frame::write(&message, attached, descriptors).expect("a frame")
    }

    fn bytes(count: usize) -> Vec<u8> {
        (0..count as u64).map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect()
    }

    /// Files that can be told apart.
    fn files(count: usize) -> Vec<File> {
        let two = [File::open("/dev/null"), File::open("/dev/zero")].map(|file| file.expect("a device"));
        let is_zero = |i: usize| usize::from(i * i % 7 == 2 || i % 250 == 1);
        (0..count).map(|i| two[is_zero(i)].try_clone().expect("a copy")).collect()
    }

    fn devices(files: &[impl AsFd]) -> Vec<u64> {
        files.iter().map(|file| rustix::fs::fstat(file).expect("a file").st_rdev).collect()
    }

    /// Is the other end of this pipe closed in every process?
    fn is_closed(read: &OwnedFd) -> bool {
        let mut fds = [PollFd::new(read, PollFlags::IN)];
        poll(&mut fds, Some(&Timespec { tv_sec: 60, tv_nsec: 0 })).expect("a poll");
        fds[0].revents().contains(PollFlags::HUP)
    }

    fn send(from: &HandoverStream, frame: &[u8], files: &[impl AsFd]) -> io::Result<()> {
        from.send(frame, &files.iter().map(AsFd::as_fd).collect::<Vec<_>>(), LONG)
    }

    #[test]
    fn descriptors_come_in_order_however_many_they_are() {
        let (from, mut to) = pair();
        for count in [0, 1, 2, 249, 250, 251, 500, 501, 1000] {
            let sent = files(count);
            let text = format!("{count} of them");
            thread::scope(|scope| {
                // Twice, to see that what follows a frame is taken with it.
                let twice = || (0..2).try_for_each(|_| send(&from, &frame(&text, b"xyz", count), &sent));
                let sending = scope.spawn(twice);
                for _ in 0..2 {
                    let got = to.receive(Some(LONG)).expect("a message").expect("no end");
                    assert_eq!(got.message::<String>().expect("a text"), text);
                    assert_eq!(got.attached(), b"xyz");
                    let fds = got.descriptors.expect("room for all");
                    assert_eq!(devices(&fds), devices(&sent));
                    let is_private = |fd: &OwnedFd| {
                        rustix::io::fcntl_getfd(fd).expect("open").contains(rustix::io::FdFlags::CLOEXEC)
                    };
                    assert!(fds.iter().all(is_private));
                }
                sending.join().expect("no panic").expect("sent");
            });
        }
        drop(from);
        assert!(to.receive(Some(LONG)).expect("an end").is_none());
    }

    #[test]
    fn large_messages_come_whole() {
        let (from, mut to) = pair();
        let attached = bytes(1 << 20);
        let sent = files(3);
        thread::scope(|scope| {
            let sending = scope.spawn(|| send(&from, &frame("large", &attached, 3), &sent));
            let got = to.receive(Some(LONG)).expect("a message").expect("no end");
            assert!(got.attached() == attached);
            assert_eq!(devices(&got.descriptors.expect("room")), devices(&sent));
            sending.join().expect("no panic").expect("sent");
        });
    }

    #[test]
    fn a_stream_that_ends_anywhere_closes_what_came() {
        let whole = frame("a message", b"and more", 1);
        for cut in 0..=whole.len() {
            let (read, write) = rustix::pipe::pipe().expect("a pipe");
            let (from, mut to) = pair();
            if cut > 0 {
                let mut patience = Forbearance::new(Clock::start(), Some(LONG));
                from.send_some(&whole[..cut], &[write.as_fd()], &mut patience).expect("sent");
            }
            drop((from, write));
            let got = to.receive(Some(LONG));
            match cut {
                0 => assert!(got.expect("an end").is_none()),
                _ if cut == whole.len() => {
                    assert!(got.expect("all came").is_some_and(|got| got.descriptors.is_ok()));
                    assert!(to.receive(Some(LONG)).expect("an end").is_none());
                }
                _ => assert_eq!(got.expect_err("cut").kind(), io::ErrorKind::UnexpectedEof, "at {cut}"),
            }
            assert!(is_closed(&read), "at {cut}");
        }
    }

    #[test]
    fn a_message_may_come_byte_by_byte_and_over_many_looks() {
        let (from, mut to) = pair();
        let whole = frame("slow", b"slower", 251);
        let sent = files(251);
        let mut patience = Forbearance::new(Clock::start(), Some(LONG));
        for (at, byte) in whole.iter().chain(&[0]).enumerate() {
            let waiting = to.receive(Some(Duration::ZERO)).expect_err("not whole yet");
            assert_eq!(waiting.kind(), io::ErrorKind::TimedOut);
            let load: Vec<_> = match at {
                0 => sent[..250].iter().map(AsFd::as_fd).collect(),
                _ if at == whole.len() => vec![sent[250].as_fd()],
                _ => Vec::new(),
            };
            from.send_some(&[*byte], &load, &mut patience).expect("sent");
        }
        let got = to.receive(Some(Duration::ZERO)).expect("a message").expect("no end");
        assert_eq!(got.attached(), b"slower");
        assert_eq!(devices(&got.descriptors.expect("room")), devices(&sent));
    }

    #[test]
    fn what_is_no_message_is_refused_and_its_descriptors_closed() {
        let huge = |at: usize| {
            let mut head = frame("x", b"", 1);
            head[at..at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
            head
        };
        let short = |promised| frame("x", b"", promised);
        let all = [
            vec![b'G'; 64],
            b"HTTP/1.1 400 Bad Request".to_vec(),
            huge(4),
            huge(8),
            huge(12),
            short(0),
            short(2),
        ];
        for bytes in all {
            let (read, write) = rustix::pipe::pipe().expect("a pipe");
            let (from, mut to) = pair();
            let mut patience = Forbearance::new(Clock::start(), Some(LONG));
            from.send_some(&bytes, &[write.as_fd()], &mut patience).expect("sent");
            drop(write);
            let error = to.receive(Some(LONG)).expect_err("no message");
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{bytes:?}: {error}");
            assert!(is_closed(&read), "{bytes:?}");
        }
        let (from, _to) = pair();
        let none: [File; 0] = [];
        let lie = send(&from, &frame("x", b"", 1), &none).expect_err("a wrong head");
        assert_eq!(lie.kind(), io::ErrorKind::InvalidInput);
    }

    /// As long as a process that does not read has the other end, descriptors in it are open.
    #[test]
    fn what_nobody_reads_is_taken_back_by_a_copy_of_the_other_end() {
        let (read, write) = rustix::pipe::pipe().expect("a pipe");
        let (from, to) = UnixStream::pair().expect("a pair of sockets");
        let from = HandoverStream::from(from);
        let mut copy = HandoverStream::from(to.try_clone().expect("a copy"));
        assert!(!copy.drain());
        let count = 2 * MOST_DESCRIPTORS + 1;
        let all = vec![write.as_fd(); count];
        for attached in [1, 2 * PIECE] {
            from.send(&frame("unread", &bytes(attached), count), &all, LONG).expect("sent");
        }
        drop(write);
        let mut open = [PollFd::new(&read, PollFlags::IN)];
        assert_eq!(poll(&mut open, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).expect("a poll"), 0);
        assert!(copy.drain() && is_closed(&read) && !copy.drain());
        drop((from, to));
        assert!(!copy.drain());
    }

    #[test]
    fn what_a_head_promises_takes_no_room() {
        let (from, mut to) = pair();
        let mut promise = frame("x", b"", 0);
        promise[8..12].copy_from_slice(&(1_u32 << 30).to_le_bytes());
        (&from.stream).write_all(&promise).expect("sent");
        assert_eq!(to.receive(Some(Duration::ZERO)).expect_err("not whole").kind(), io::ErrorKind::TimedOut);
        assert!(to.partial.bytes.capacity() <= 4 * PIECE);
    }

    #[test]
    fn nobody_is_waited_for_for_longer_than_asked() {
        let (from, mut to) = pair();
        let large = frame("large", &bytes(4 << 20), 0);
        let stuck = from.send(&large, &[], Duration::from_millis(10)).expect_err("nobody reads");
        assert_eq!(stuck.kind(), io::ErrorKind::TimedOut);
        let cut = to.receive(Some(Duration::ZERO)).expect_err("the frame has no end");
        assert_eq!(cut.kind(), io::ErrorKind::TimedOut, "the sender lives");
        let after = from.send(&frame("more", b"", 0), &[], LONG).expect_err("the stream has ended");
        assert_eq!(after.kind(), io::ErrorKind::BrokenPipe);
        drop(from);
        let cut = to.receive(Some(LONG)).expect_err("the sender is gone");
        assert_eq!(cut.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn what_was_said_before_the_end_is_heard_though_the_other_heard_nothing() {
        let (from, mut to) = pair();
        to.send(&frame("unheard", b"", 0), &[], LONG).expect("sent");
        send(&from, &frame("last", b"", 1), &files(1)).expect("sent");
        drop(from);
        let got = to.receive(Some(LONG)).expect("a message").expect("no end");
        assert_eq!(got.message::<String>().expect("a text"), "last");
        assert!(to.receive(Some(LONG)).expect("an end").is_none());
        assert!(to.send(&frame("x", b"", 0), &[], LONG).is_err());
    }

    #[test]
    fn patience_does_not_run_out_while_nobody_looks() {
        static TOLD: std::sync::LazyLock<Told> = std::sync::LazyLock::new(Told::default);
        let second = Duration::from_secs(1);
        let mut patience = Forbearance::new(Clock::told(&TOLD), Some(second));
        // Stopped for a minute after a look that found nothing: there has to be another look.
        TOLD.set(60_000_000);
        assert_eq!(patience.left().expect("time is left"), Some(second));
        patience.waited(Some(second));
        let left = patience.left().expect("a look that began then can still bring something");
        assert!(left > Some(second / 2), "{left:?}");
        TOLD.set(60_500_000);
        patience.waited(Some(second));
        assert!(patience.left().is_ok());
        TOLD.set(61_500_000);
        patience.waited(Some(second));
        assert!(patience.left().is_err());
        TOLD.set(90_000_000);
        assert!(Forbearance::new(Clock::told(&TOLD), None).left().is_ok());
    }

    /// The limit on descriptors belongs to the whole process, so this test runs in a process of its own.
    #[test]
    fn descriptors_that_do_not_fit_are_told_of_and_the_stream_goes_on() {
        if std::env::var_os(INNER).is_none() {
            let me = std::env::current_exe().expect("a test binary");
            let name = "sys::passing::tests::descriptors_that_do_not_fit_are_told_of_and_the_stream_goes_on";
            let inner = Command::new(me).args(["--exact", name, "--nocapture"]).env(INNER, "1").output();
            let inner = inner.expect("it starts");
            assert!(inner.status.success(), "{}", String::from_utf8_lossy(&inner.stderr));
            assert!(String::from_utf8_lossy(&inner.stdout).contains("1 passed"), "{inner:?}");
            return;
        }
        let (from, mut to) = pair();
        let (read, write) = rustix::pipe::pipe().expect("a pipe");
        let before = getrlimit(Resource::Nofile);
        for (count, room) in [(1, 0), (10, 3), (600, 300), (600, 599)] {
            let top = File::open("/dev/null").expect("a device").as_raw_fd();
            let sent = vec![write.as_fd(); count];
            from.send(&frame("many", b"bytes", count), &sent, LONG).expect("sent");
            from.send(&frame("next", b"", 1), &sent[..1], LONG).expect("sent");
            let limit = Some(u64::try_from(top).expect("a descriptor") + room);
            setrlimit(Resource::Nofile, Rlimit { current: limit, maximum: before.maximum }).expect("a limit");
            let got = to.receive(Some(LONG));
            setrlimit(Resource::Nofile, before).expect("a limit");
            let got = got.expect("a message").expect("no end");
            assert_eq!(got.message::<String>().expect("a text"), "many");
            assert_eq!(got.attached(), b"bytes");
            assert_eq!(got.descriptors.expect_err("no room"), DescriptorsLost, "{room} of {count}");
            let next = to.receive(Some(LONG)).expect("a message").expect("no end");
            assert_eq!(next.message::<String>().expect("a text"), "next");
            assert_eq!(next.descriptors.expect("room").len(), 1);
        }
        drop(write);
        assert!(is_closed(&read), "all that came was closed");
    }
}
