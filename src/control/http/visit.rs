//! One client's connection: reads the request, sends the answer, and closes or waits for the next request.
//!
//! Knows: a non-blocking socket, deadlines. Never: what is answered, other clients.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, SystemTime};

use rustix::event::PollFlags;

use super::answer::Answer;
use super::head::{LONGEST, LONGEST_BODY, Parsed, Request, parse};

/// A request must be complete this long after its first byte; the first one, this long after the connect.
const HEAD_WITHIN: Duration = Duration::from_secs(5);
/// How long a client may keep the connection open until its next request.
const IDLE: Duration = Duration::from_secs(75);
/// A client must read its answer within this time.
const TAKEN_WITHIN: Duration = Duration::from_secs(30);
/// How long input is read and dropped after the last answer. Closing a socket with unread input sends a
/// reset, and the answer could be lost with it.
const LINGER: Duration = Duration::from_secs(2);
/// Maximum number of bytes that are read and dropped.
const MOST_LINGERED: usize = 256 * 1024;
/// Tells the client to send the body that it holds back.
const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
/// Maximum number of requests on one connection.
const MOST_SERVED: u32 = 1_000;

/// The stage of a visit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum VisitStage {
    /// Reading a request.
    Asking,
    /// Writing an answer; `true`: the client may send another request afterwards.
    Answered(bool),
    /// Reading and dropping the rest of the input.
    Lingering,
    Over,
}

/// One client's connection.
#[derive(Debug)]
pub(crate) struct Visit {
    stream: TcpStream,
    /// The client's address.
    from: Option<IpAddr>,
    stage: VisitStage,
    input: Vec<u8>,
    output: Vec<u8>,
    sent: usize,
    lingered: usize,
    served: u32,
    /// Whether `100 Continue` was sent for the request that is being read.
    has_continued: bool,
    until: Duration,
    /// When the stage began, or when it last made progress.
    since: Duration,
}

impl Visit {
    /// The connection of a new client.
    ///
    /// # Errors
    /// The socket cannot be made non-blocking.
    pub(crate) fn new(stream: TcpStream, now: Duration) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        // Answers are written as a whole, so the last segment should not wait for more.
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

    /// The client's address; `None`: the system does not know it any more.
    pub(crate) fn from(&self) -> Option<IpAddr> {
        self.from
    }

    /// The deadline of the current stage.
    pub(crate) fn until(&self) -> Duration {
        self.until
    }

    /// The events that it waits for.
    pub(crate) fn interest(&self) -> PollFlags {
        match self.stage {
            VisitStage::Answered(_) => PollFlags::OUT,
            _ => PollFlags::IN,
        }
    }

    /// Ends the visit at once.
    pub(crate) fn end(&mut self) {
        self.stage = VisitStage::Over;
    }

    /// Is it over?
    pub(crate) fn is_over(&self) -> bool {
        self.stage == VisitStage::Over
    }

    /// Bytes of the answer that are not written yet.
    pub(crate) fn unsent(&self) -> usize {
        self.output.len() - self.sent
    }

    /// When it last made progress.
    pub(crate) fn since(&self) -> Duration {
        self.since
    }

    /// Is it waiting for a further request of which nothing has come yet?
    pub(crate) fn is_idle(&self) -> bool {
        self.stage == VisitStage::Asking && self.input.is_empty() && self.served > 0
    }

    /// Is it being answered?
    pub(crate) fn is_being_answered(&self) -> bool {
        matches!(self.stage, VisitStage::Answered(_))
    }

    /// Goes on as far as possible without waiting. `answer` is called for each request; `stays`: the client
    /// may send another request afterwards.
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

    /// Ends the visit because its deadline has passed. If part of a request has come, the client gets a 408
    /// answer.
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
                        // If the socket has no room for this, the client sends its body after a time of its
                        // own.
                        let _ = self.stream.write(CONTINUE);
                    }
                }
                Parsed::Refused(refusal) => {
                    // It is not known where the next request would begin, so the connection is closed.
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
