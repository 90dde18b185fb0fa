//! Writes what `tap` shows to a pcapng file for Wireshark, on the side of the program that asks.
//!
//! Knows: the lines of `tap ID pieces`, the file. Never: how a segment or a block looks, who may tap.
//! Source: docs/observability.md, "For Wireshark".

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use crate::control::argument::Number;
use crate::control::pcapng;
use crate::control::render::VERSION;
use crate::control::segments::{LARGEST_GAP, Segments};
use crate::control::tapping::MARK;
use crate::control::watch::AnswerSink;
use crate::observe::Direction;

/// Exit code: the file cannot be written (sysexits: `EX_IOERR`).
const IO_ERROR: u8 = 74;
/// Mode of the file: it contains data of clients, so only its owner may read it.
const MODE: u32 = 0o600;

/// Why nothing is captured: the output would go to a terminal.
#[derive(Debug, thiserror::Error)]
#[error(
    "a capture is not for a terminal; write it to a file, or pipe it: balance -c 'tap ID -' PORT | wireshark -k -i -"
)]
pub(crate) struct ToTerminal;

/// A capture that is being written.
#[derive(Debug)]
pub(crate) struct Capture {
    session: Number,
    /// The path of the file; `None`: stdout.
    path: Option<PathBuf>,
    file: Option<File>,
    /// How many bytes at the beginning of the file are whole blocks.
    whole: u64,
    talk: Option<CapturedTalk>,
    /// Other lines of the instance's answer, such as an error.
    said: String,
    failure: Option<io::Error>,
}

/// The state of the captured session.
#[derive(Debug)]
struct CapturedTalk {
    segments: Segments,
    /// How far each direction is, in bytes from the beginning of the session.
    at: [u64; 2],
    /// Bytes of each direction that are in the file.
    written: [u64; 2],
    /// Bytes of each direction that passed during the tap and are not in the file.
    left_out: [u64; 2],
    /// Those of `left_out` that no packet's comment has mentioned yet.
    untold: [u64; 2],
    /// How and when the session ended; `None` while it is open.
    over: Option<(String, Duration)>,
    /// The time of the last packet, since 1970.
    last: Duration,
    /// Whether the closing packet with the reason has been written.
    is_told: bool,
    /// Blocks that are not written to the file yet.
    out: Vec<u8>,
}

impl Capture {
    /// A capture to this file, which must not exist yet, or to stdout (`-`).
    ///
    /// # Errors
    /// Stdout is a terminal.
    pub(crate) fn to(file: &[u8], session: &Number) -> Result<Self, ToTerminal> {
        let path = (file != b"-").then(|| PathBuf::from(OsStr::from_bytes(file)));
        if path.is_none() && io::stdout().is_terminal() {
            return Err(ToTerminal);
        }
        let session = session.clone();
        Ok(Self { session, path, file: None, whole: 0, talk: None, said: String::new(), failure: None })
    }

    pub(crate) fn is_stdout(&self) -> bool {
        self.path.is_none()
    }

    fn name(&self) -> String {
        self.path.as_ref().map_or_else(|| "stdout".to_owned(), |path| path.display().to_string())
    }

    /// Ends the capture: prints a summary or the failure to stderr and returns the exit code.
    pub(crate) fn end(mut self, code: u8) -> u8 {
        let interrupted = self.talk.as_ref().is_some_and(|talk| !talk.is_told) && self.failure.is_none();
        if interrupted {
            let words = match code {
                0 => format!("interrupted; session {} was open", self.session),
                IO_ERROR => format!("not written in time; session {} was open", self.session),
                _ => format!("the instance has gone; session {} was open", self.session),
            };
            self.last_words(&words);
            self.flush();
        }
        match (&self.talk, &self.path) {
            (Some(_), _) => {}
            _ if self.said.is_empty() => {}
            // Without a session, what was said is the answer itself, such as an error.
            (None, Some(_)) => _ = writeln!(io::stdout().lock(), "{}", self.said),
            (None, None) => complain(&self.said),
        }
        match &self.failure {
            Some(error) if error.kind() == ErrorKind::BrokenPipe && self.path.is_none() => return code,
            Some(error) if error.kind() == ErrorKind::AlreadyExists => {
                complain(&format!(
                    "balance: cannot write {}: it exists already; remove it, or give another name",
                    self.name()
                ));
                return IO_ERROR;
            }
            Some(error) => {
                let whole = match self.whole {
                    0 => String::new(),
                    whole => format!("; its {whole} bytes are whole packets"),
                };
                complain(&format!("balance: cannot write {}: {error}{whole}", self.name()));
                return IO_ERROR;
            }
            None => {}
        }
        if let Some(CapturedTalk { written: [sent, rcvd], left_out: [no_sent, no_rcvd], .. }) = &self.talk {
            let name = self.name();
            complain(&format!(
                "balance: {}; {name} has {sent} bytes sent and {rcvd} received, left out: {no_sent} and {no_rcvd}",
                self.said.replace('\n', "; ")
            ));
        }
        code
    }

    fn line(&mut self, line: &str) -> Result<(), io::Error> {
        if let Some(words) = line.strip_prefix(MARK) {
            self.last_words(words);
            return Ok(());
        }
        let mut words = line.split(' ');
        let kind = words.next().unwrap_or_default();
        let rest: Vec<&str> = words.collect();
        match (kind, rest.as_slice(), &mut self.talk) {
            ("start", [at, client, service, channel, sent, rcvd], talk) => {
                let at = time(at).ok_or_else(|| nonsense(line))?;
                let before = numbers([sent, rcvd]).ok_or_else(|| nonsense(line))?;
                match talk {
                    // After an upgrade, another process goes on with the tap and says how much has passed
                    // meanwhile.
                    Some(talk) => {
                        let gap = [0, 1].map(|way| before[way].saturating_sub(talk.at[way]));
                        talk.skip(gap);
                        talk.is_told = false;
                        self.said.clear();
                    }
                    None => {
                        self.file = self
                            .path
                            .as_ref()
                            .map(|path| OpenOptions::new().write(true).create_new(true).mode(MODE).open(path))
                            .transpose()?;
                        let ends = [*client, *service].map(|end| end.parse::<SocketAddr>().ok());
                        self.talk = Some(CapturedTalk::begin(at, ends, before, channel, &self.session));
                    }
                }
            }
            ("bytes", [arrow, at, hex], Some(talk)) => {
                let bytes = from_hex(hex).ok_or_else(|| nonsense(line))?;
                let (way, at) = way(arrow).zip(time(at)).ok_or_else(|| nonsense(line))?;
                talk.at[way as usize] += bytes.len() as u64;
                talk.written[way as usize] += bytes.len() as u64;
                let packets = talk.segments.data(way, &bytes);
                talk.tell(at, packets, None);
            }
            ("left-out", [sent, rcvd], Some(talk)) => {
                talk.skip(numbers([sent, rcvd]).ok_or_else(|| nonsense(line))?);
            }
            ("ended", [arrow, at], Some(talk)) => {
                let (way, at) = way(arrow).zip(time(at)).ok_or_else(|| nonsense(line))?;
                let packets = talk.segments.finish(way);
                talk.tell(at, packets, None);
            }
            ("over", [how, at], Some(talk)) => {
                talk.over = Some(((*how).to_owned(), time(at).ok_or_else(|| nonsense(line))?));
            }
            _ => {
                let between = if self.said.is_empty() { "" } else { "\n" };
                self.said = format!("{}{between}{line}", self.said);
            }
        }
        Ok(())
    }

    /// Closes the session in the file. The last packet carries `words`, which say why there is no more.
    fn last_words(&mut self, words: &str) {
        words.clone_into(&mut self.said);
        let Some(talk) = &mut self.talk else { return };
        let (how, at) = talk.over.take().unwrap_or_else(|| (String::new(), now()));
        talk.is_told = true;
        let mut packets = Vec::new();
        match how.as_str() {
            "closed" => {
                packets.extend(talk.segments.finish(Direction::Sent));
                packets.extend(talk.segments.finish(Direction::Rcvd));
            }
            "client-reset" => packets.push(talk.segments.reset(Direction::Sent)),
            "cut" => packets.push(talk.segments.reset(Direction::Rcvd)),
            _ => {}
        }
        if packets.is_empty() {
            packets.push(talk.segments.idle(Direction::Sent));
        }
        talk.tell(at, packets, Some(words));
    }

    /// Writes the finished blocks.
    fn flush(&mut self) {
        let Some(talk) = &mut self.talk else { return };
        let blocks = std::mem::take(&mut talk.out);
        let written = match &mut self.file {
            Some(file) => file.write_all(&blocks),
            None => {
                let mut stdout = io::stdout().lock();
                stdout.write_all(&blocks).and_then(|()| stdout.flush())
            }
        };
        match written {
            Ok(()) => self.whole += blocks.len() as u64,
            Err(error) => {
                // Half a block would make the whole file look broken, so it is cut off. This does nothing for
                // a pipe.
                self.file.iter().for_each(|file| drop(file.set_len(self.whole)));
                self.failure.get_or_insert(error);
            }
        }
    }
}

impl AnswerSink for Capture {
    fn take(&mut self, part: &str) {
        if self.failure.is_some() {
            return;
        }
        if let Err(error) = part.lines().try_for_each(|line| self.line(line)) {
            self.failure = Some(error);
        }
        if self.failure.is_none() {
            self.flush();
        }
    }

    fn has_failed(&self) -> bool {
        self.failure.is_some()
    }
}

impl CapturedTalk {
    fn begin(
        at: Duration,
        ends: [Option<SocketAddr>; 2],
        before: [u64; 2],
        channel: &str,
        session: &Number,
    ) -> Self {
        let [client, service] = ends;
        let mut talk = Self {
            segments: Segments::between(client, service),
            at: before,
            written: [0; 2],
            left_out: [0; 2],
            untold: [0; 2],
            over: None,
            last: Duration::ZERO,
            is_told: false,
            out: Vec::new(),
        };
        let [sent, rcvd] = before;
        let comment = format!(
            "session {session} of balance, channel {channel}. Bytes, times and addresses are real; the segments are made up. Not here: {sent} bytes sent and {rcvd} received before this"
        );
        pcapng::head(&format!("balance {VERSION}"), &comment, &format!("session {session}"), &mut talk.out);
        let packets = talk.segments.open();
        talk.tell(at, packets, None);
        talk
    }

    /// Counts these bytes of each direction as missing.
    fn skip(&mut self, bytes: [u64; 2]) {
        for way in [Direction::Sent, Direction::Rcvd] {
            let missing = bytes[way as usize];
            self.segments.skip(way, missing);
            for count in [&mut self.at, &mut self.left_out, &mut self.untold] {
                count[way as usize] = count[way as usize].saturating_add(missing);
            }
        }
    }

    /// Writes packets with this time. The first one's comment says what is missing before it, the last one's
    /// has `comment`.
    fn tell(&mut self, at: Duration, packets: impl IntoIterator<Item = Vec<u8>>, comment: Option<&str>) {
        // The wall clock can be set back; the times of packets must not go back.
        self.last = self.last.max(at);
        let mut packets = packets.into_iter().peekable();
        while let Some(packet) = packets.next() {
            let [sent, rcvd] = std::mem::take(&mut self.untold);
            let mut said = Vec::new();
            if [sent, rcvd] != [0; 2] {
                said.push(format!("left out before this: {sent} bytes sent and {rcvd} received"));
                if sent.max(rcvd) > LARGEST_GAP {
                    said.push(format!("in sequence numbers a gap is {LARGEST_GAP} bytes at most"));
                }
            }
            said.extend(comment.filter(|_| packets.peek().is_none()).map(str::to_owned));
            let comment = (!said.is_empty()).then(|| said.join("; "));
            pcapng::packet(self.last, &packet, comment.as_deref(), &mut self.out);
        }
    }
}

fn nonsense(line: &str) -> io::Error {
    let some: String = line.chars().take(80).collect();
    io::Error::new(ErrorKind::InvalidData, format!("the instance gave an unexpected answer: {some:?}"))
}

fn way(arrow: &str) -> Option<Direction> {
    match arrow {
        "->" => Some(Direction::Sent),
        "-<" => Some(Direction::Rcvd),
        _ => None,
    }
}

fn numbers(words: [&str; 2]) -> Option<[u64; 2]> {
    Some([words[0].parse().ok()?, words[1].parse().ok()?])
}

/// Reads a time as seconds and nanoseconds since 1970.
fn time(word: &str) -> Option<Duration> {
    let (seconds, nanos) = word.split_once('.')?;
    let nanos: u32 = nanos.parse().ok().filter(|nanos| *nanos < 1_000_000_000)?;
    Some(Duration::new(seconds.parse().ok()?, nanos))
}

fn now() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| (byte as char).to_digit(16).map(|digit| digit as u8);
    let pairs = text.as_bytes().chunks(2);
    pairs
        .map(|pair| if let [high, low] = pair { Some(digit(*high)? << 4 | digit(*low)?) } else { None })
        .collect()
}

fn complain(text: &str) {
    // If stderr is closed, there is nowhere to report that.
    let _ = writeln!(io::stderr().lock(), "{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_an_instance_are_read_and_nonsense_is_an_error() {
        let mut capture = Capture::to(b"/nonexistent/x.pcapng", &Number::from(7)).expect("a file");
        capture.talk = Some(CapturedTalk::begin(Duration::ZERO, [None; 2], [5, 6], "-", &Number::from(7)));
        for line in [
            "bytes -> 7.5 616",
            "bytes => 7.000000005 61",
            "bytes -> x 61",
            "left-out 1 x",
            "ended -> 7",
            "over cut -",
        ] {
            assert_eq!(capture.line(line).expect_err(line).kind(), ErrorKind::InvalidData, "{line}");
        }
        for line in
            ["bytes -> 7.000000005 6162", "left-out 3 4", "ended -> 7.000000006", "bytes -< 7.000000007 61"]
        {
            capture.line(line).expect(line);
        }
        let talk = capture.talk.as_ref().expect("it began");
        assert_eq!((talk.at, talk.written, talk.left_out), ([10, 11], [2, 1], [3, 4]));
        // The state of another process: it has more bytes of one side, and not fewer of the other.
        capture.line("start 8.000000000 - - - 12 11").expect("a line");
        let talk = capture.talk.as_ref().expect("it began");
        assert_eq!((talk.at, talk.left_out, talk.untold), ([12, 11], [5, 4], [2, 0]));
    }

    #[test]
    fn a_directory_that_is_not_there_is_a_failure_to_write() {
        let mut capture = Capture::to(b"/nonexistent/x.pcapng", &Number::from(7)).expect("a file");
        capture.take("start 8.000000000 - - - 12 11\n");
        assert!(capture.has_failed());
        assert_eq!(capture.end(0), IO_ERROR);
    }

    #[test]
    fn an_answer_that_is_no_tap_makes_no_file() {
        let mut capture = Capture::to(b"/nonexistent/x.pcapng", &Number::from(7)).expect("a file");
        capture.take("no such session 7\n");
        assert!(!capture.has_failed() && capture.file.is_none());
        assert_eq!(capture.end(65), 65);
    }
}
