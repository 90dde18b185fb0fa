//! One client's connection: its head is read, it is answered, and it goes or asks again.
//!
//! Knows: a socket that never waits, deadlines. Never: what is answered, other clients.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, SystemTime};

use rustix::event::PollFlags;

use super::answer::Answer;
use super::head::{LONGEST, LONGEST_BODY, Parsed, Request, parse};

/// A head is there within this time, from its first byte or from the connect.
const HEAD_WITHIN: Duration = Duration::from_secs(5);
/// So long a client may keep a connection for its next request.
const IDLE: Duration = Duration::from_secs(75);
/// An answer is taken within this time.
const TAKEN_WITHIN: Duration = Duration::from_secs(30);
/// After the last answer, what a client still sends is read for this long: a close with bytes unread would be a reset, and the answer
/// might be lost with it.
const LINGER: Duration = Duration::from_secs(2);
/// As much of it is read.
const MOST_LINGERED: usize = 256 * 1024;
/// The client may send what it holds back.
const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
/// As many requests of one connection are answered.
const MOST_SERVED: u32 = 1_000;

/// Where a visit is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum VisitStage {
    /// A head is read.
    Asking,
    /// An answer is written; `true`: it may ask again afterwards.
    Answered(bool),
    /// The rest is thrown away.
    Lingering,
    Over,
}

/// One client's connection.
#[derive(Debug)]
pub(crate) struct Visit {
    stream: TcpStream,
    /// Whose it is.
    from: Option<IpAddr>,
    stage: VisitStage,
    input: Vec<u8>,
    output: Vec<u8>,
    sent: usize,
    lingered: usize,
    served: u32,
    /// Of the request that is read: the client was told to go on.
    has_continued: bool,
    until: Duration,
    /// Of its stage, or of the last progress.
    since: Duration,
}

impl Visit {
    /// A new client.
    pub(crate) fn new(stream: TcpStream, now: Duration) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        // Answers are written at once, and the last segment of one waits for nothing.
        let _ = stream.set_nodelay(true);
        let from = stream.peer_addr().ok().map(|at| at.ip().to_canonical());
        Ok(Self {
            stream,
            from,
            stage: VisitStage::Asking,
            input: Vec::new(),
            output: Vec::new(),
            sent: 0,
            lingered: 0,
            served: 0,
            has_continued: false,
            until: now + HEAD_WITHIN,
            since: now,
        })
    }

    /// Whose it is; `None`: the system does not know any more.
    pub(crate) fn from(&self) -> Option<IpAddr> {
        self.from
    }

    /// When its patience ends.
    pub(crate) fn until(&self) -> Duration {
        self.until
    }

    /// What it waits for.
    pub(crate) fn interest(&self) -> PollFlags {
        match self.stage {
            VisitStage::Answered(_) => PollFlags::OUT,
            _ => PollFlags::IN,
        }
    }

    /// Whatever it waits for, it is over.
    pub(crate) fn end(&mut self) {
        self.stage = VisitStage::Over;
    }

    /// Is it over?
    pub(crate) fn is_over(&self) -> bool {
        self.stage == VisitStage::Over
    }

    /// How many bytes of an answer wait to be taken.
    pub(crate) fn unsent(&self) -> usize {
        self.output.len() - self.sent
    }

    /// Since when it has not come on.
    pub(crate) fn since(&self) -> Duration {
        self.since
    }

    /// Does it keep a place for a request that it has not begun?
    pub(crate) fn is_idle(&self) -> bool {
        self.stage == VisitStage::Asking && self.input.is_empty() && self.served > 0
    }

    /// Is it being answered?
    pub(crate) fn is_being_answered(&self) -> bool {
        matches!(self.stage, VisitStage::Answered(_))
    }

    /// Goes on as far as it can without waiting. `answer` is called for each request; `stays`: it may ask again.
    pub(crate) fn go_on(
        &mut self,
        now: Duration,
        name: Option<&str>,
        stays: bool,
        answer: &mut dyn FnMut(&Request) -> Answer,
    ) {
        loop {
            let before = (self.stage, self.served);
            match self.stage {
                VisitStage::Asking => self.ask(now, name, stays, answer),
                VisitStage::Answered(keeps) => self.write(now, keeps),
                VisitStage::Lingering => self.linger(),
                VisitStage::Over => return,
            }
            if (self.stage, self.served) == before {
                return;
            }
        }
    }

    /// Its time is over: who has begun to ask hears why.
    pub(crate) fn time_out(&mut self, now: Duration) {
        match self.stage {
            VisitStage::Asking if !self.input.is_empty() => {
                let late = Answer::plain(408, "the request took too long\n");
                self.say(now, late.bytes(SystemTime::now(), false, false), false);
                self.write(now, false);
                self.stage = VisitStage::Over;
            }
            _ => self.stage = VisitStage::Over,
        }
    }

    fn ask(
        &mut self,
        now: Duration,
        name: Option<&str>,
        stays: bool,
        answer: &mut dyn FnMut(&Request) -> Answer,
    ) {
        loop {
            match parse(&self.input, name) {
                Parsed::Partial if self.input.is_empty() => {}
                Parsed::Partial => self.until = self.until.min(self.since + HEAD_WITHIN),
                Parsed::Bodiless(is_awaited) => {
                    self.until = self.until.min(self.since + HEAD_WITHIN);
                    if is_awaited && !self.has_continued {
                        self.has_continued = true;
                        // A client that has no room for so little waits as long as it has said it would.
                        let _ = self.stream.write(CONTINUE);
                    }
                }
                Parsed::Refused(refusal) => {
                    // Where the next request would begin is not known.
                    let is_head_only = self.input.starts_with(b"HEAD ");
                    let bytes = Answer::of(refusal).bytes(SystemTime::now(), is_head_only, false);
                    return self.say(now, bytes, false);
                }
                Parsed::Whole(request) => {
                    let keeps = request.keeps && stays && self.served + 1 < MOST_SERVED;
                    let bytes = answer(&request).bytes(SystemTime::now(), request.is_head_only, keeps);
                    self.input.drain(..request.length);
                    return self.say(now, bytes, keeps);
                }
            }
            let mut buffer = [0; 2048];
            match self.stream.read(&mut buffer) {
                Ok(0) => return self.stage = VisitStage::Over,
                Ok(count) => {
                    if self.input.is_empty() {
                        self.since = now;
                    }
                    self.input.extend_from_slice(&buffer[..count]);
                    debug_assert!(self.input.len() < LONGEST + LONGEST_BODY + buffer.len());
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => return,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(_) => return self.stage = VisitStage::Over,
            }
        }
    }

    fn say(&mut self, now: Duration, bytes: Vec<u8>, keeps: bool) {
        (self.output, self.sent) = (bytes, 0);
        self.served += 1;
        self.has_continued = false;
        self.stage = VisitStage::Answered(keeps);
        (self.since, self.until) = (now, now + TAKEN_WITHIN);
    }

    fn write(&mut self, now: Duration, keeps: bool) {
        while self.sent < self.output.len() {
            match self.stream.write(&self.output[self.sent..]) {
                Ok(0) => return self.stage = VisitStage::Over,
                Ok(count) => {
                    self.sent += count;
                    self.since = now;
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => return,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(_) => return self.stage = VisitStage::Over,
            }
        }
        (self.output, self.sent) = (Vec::new(), 0);
        self.since = now;
        if keeps {
            self.stage = VisitStage::Asking;
            self.until = now + IDLE;
        } else if self.stream.shutdown(Shutdown::Write).is_ok() {
            self.stage = VisitStage::Lingering;
            self.until = now + LINGER;
        } else {
            self.stage = VisitStage::Over;
        }
    }

    fn linger(&mut self) {
        let mut buffer = [0; 4096];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(count) if count > 0 && self.lingered < MOST_LINGERED => self.lingered += count,
                Err(e) if e.kind() == ErrorKind::WouldBlock => return,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Ok(_) | Err(_) => return self.stage = VisitStage::Over,
            }
        }
    }
}

impl AsFd for Visit {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}
