//! The protocol of the control socket: greeting, status line, dot stuffing, and lines of a bounded length.
//!
//! Knows: bytes in, bytes out. Never: what a command means, who speaks, files.
//! Source: docs/control.md, "The protocol".

use std::fmt;
use std::io::{self, BufRead, ErrorKind, Write};

/// The version of the protocol. It rises with a change that older clients would misread.
pub const PROTOCOL: u32 = 1;

/// What stands before the cause in a status line.
const BECAUSE: &str = " because ";

/// Maximum length of a line, in bytes without its newline.
pub const MAX_LINE: usize = 64 * 1024;

/// The first line that a client gets: which instance answers, and which protocol it uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Greeting {
    /// The version of the instance.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// The version of its protocol.
    pub protocol: u32,
    /// Number of its services. If there are several, a client chooses one with `use`.
    pub services: usize,
    /// The network namespace that it listens in; `None`: not known.
    pub namespace: Option<u64>,
}

impl Greeting {
    /// `None` if the line is not a greeting. Words after the known ones are for later versions.
    pub fn parse(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        let mut named = |name| if words.next() == Some(name) { words.next() } else { None };
        let (version, pid, protocol) = (named("balance")?, named("pid")?, named("protocol")?);
        let pid = pid.parse().ok()?;
        let protocol = protocol.parse().ok()?;
        let mut greeting = Self { version: version.into(), pid, protocol, services: 1, namespace: None };
        while let (Some(word), Some(value)) = (words.next(), words.next()) {
            match word {
                "services" => greeting.services = value.parse().unwrap_or(1),
                "netns" => greeting.namespace = value.parse().ok(),
                _ => {}
            }
        }
        Some(greeting)
    }
}

impl fmt::Display for Greeting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "balance {} pid {} protocol {}", self.version, self.pid, self.protocol)?;
        if self.services != 1 {
            write!(f, " services {}", self.services)?;
        }
        self.namespace.map_or(Ok(()), |namespace| write!(f, " netns {namespace}"))
    }
}

/// The line that ends an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// Exit code of the first command that failed, else 0.
    pub code: u8,
    /// The session's current group.
    pub group: usize,
    /// Whether the instance ends the session after this line.
    pub end: bool,
    /// The session's current service; `None` if there is only one.
    pub service: Option<String>,
    /// Whether that service takes no clients any more.
    pub is_draining: bool,
    /// Why commands failed whose answers cannot say so.
    pub cause: Option<String>,
}

impl Status {
    /// `None` if the line is not a status line. Words after the known ones are for later versions.
    pub fn parse(line: &str) -> Option<Self> {
        let line = line.strip_prefix(". ")?;
        // The name of a service has no blanks in it.
        let rest = line.split_once(BECAUSE);
        let mut words = rest.map_or(line, |(words, _)| words).split(' ');
        let code = words.next()?.parse().ok()?;
        let group = words.next()?.parse().ok()?;
        let cause = rest.map(|(_, cause)| cause.to_owned());
        let mut word = words.next();
        let end = word == Some("end");
        if end {
            word = words.next();
        }
        let mut service = None;
        if word == Some("in") {
            service = words.next().map(str::to_owned);
            word = words.next();
        }
        Some(Self { code, group, end, service, is_draining: word == Some("draining"), cause })
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = if self.end { " end" } else { "" };
        write!(f, ". {} {}{end}", self.code, self.group)?;
        self.service.as_ref().map_or(Ok(()), |service| write!(f, " in {service}"))?;
        if self.is_draining {
            f.write_str(" draining")?;
        }
        self.cause.as_ref().map_or(Ok(()), |cause| write!(f, "{BECAUSE}{}", cause.replace('\n', " ")))
    }
}

/// Writes whole lines of an answer, with a dot doubled at the beginning of a line, so that none can be taken
/// for a status line.
///
/// # Errors
/// Those of `out`.
pub fn write_body(out: &mut impl Write, text: &str) -> io::Result<()> {
    for line in text.split_inclusive('\n') {
        if line.starts_with('.') {
            out.write_all(b".")?;
        }
        out.write_all(line.as_bytes())?;
    }
    Ok(())
}

/// The result of reading a line.
#[derive(Debug, PartialEq, Eq)]
pub enum LineRead<'a> {
    /// A line, without its newline.
    Whole(&'a [u8]),
    /// The line had more than [`MAX_LINE`] bytes and was dropped.
    TooLong,
    /// The input ended within this line, which is not empty and not too long.
    Rest(&'a [u8]),
    /// The input ended.
    End,
}

/// A line or a part of one. A part never ends within a character.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct LinePart<'a> {
    /// The bytes without the newline.
    pub(crate) bytes: &'a [u8],
    /// Whether the line ends after these bytes.
    pub(crate) is_last: bool,
}

/// Reads lines of any length in bounded memory.
#[derive(Debug)]
pub struct LineReader<R> {
    input: R,
    line: Vec<u8>,
    /// Number of bytes at the end of `line` that were not handed out yet.
    kept: usize,
}

impl<R: BufRead> LineReader<R> {
    /// Reads from `input`.
    pub fn new(input: R) -> Self {
        Self { input, line: Vec::new(), kept: 0 }
    }

    /// The input.
    pub(crate) fn input(&mut self) -> &mut R {
        &mut self.input
    }

    /// Reads the next line.
    ///
    /// # Errors
    /// Those of the input, except interruptions, after which it reads on.
    pub fn read(&mut self) -> io::Result<LineRead<'_>> {
        self.line.clear();
        self.kept = 0;
        let mut too_long = false;
        loop {
            let chunk = match self.input.fill_buf() {
                Ok(chunk) => chunk,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            if chunk.is_empty() {
                return Ok(if too_long {
                    LineRead::TooLong
                } else if self.line.is_empty() {
                    LineRead::End
                } else {
                    LineRead::Rest(&self.line)
                });
            }
            let newline = chunk.iter().position(|&byte| byte == b'\n');
            let part = newline.map_or(chunk, |end| &chunk[..end]);
            too_long |= self.line.len() + part.len() > MAX_LINE;
            if !too_long {
                self.line.extend_from_slice(part);
            }
            let used = part.len() + usize::from(newline.is_some());
            self.input.consume(used);
            if newline.is_some() {
                return Ok(if too_long { LineRead::TooLong } else { LineRead::Whole(&self.line) });
            }
        }
    }
}

impl<R: BufRead> LineReader<R> {
    /// Reads the next line, or the next part of one, of at most [`MAX_LINE`] bytes. `None`: the input has
    /// ended; a last line without a newline is dropped.
    ///
    /// # Errors
    /// Those of the input, except interruptions, after which it reads on.
    pub(crate) fn read_part(&mut self) -> io::Result<Option<LinePart<'_>>> {
        self.line.drain(..self.line.len() - self.kept);
        self.kept = 0;
        loop {
            let chunk = match self.input.fill_buf() {
                Ok(chunk) => chunk,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            if chunk.is_empty() {
                return Ok(None);
            }
            let room = MAX_LINE - self.line.len();
            let newline = chunk.iter().take(room + 1).position(|&byte| byte == b'\n');
            let part = &chunk[..newline.unwrap_or(chunk.len().min(room))];
            let used = part.len() + usize::from(newline.is_some());
            self.line.extend_from_slice(part);
            self.input.consume(used);
            if newline.is_some() {
                return Ok(Some(LinePart { bytes: &self.line, is_last: true }));
            }
            if self.line.len() == MAX_LINE {
                // Bytes that may be the beginning of a character are kept for the next part.
                let cut = self.line.iter().rev().take(3).position(|&byte| byte >= 0xc0);
                self.kept = cut.map_or(0, |behind| behind + 1);
                let bytes = &self.line[..self.line.len() - self.kept];
                return Ok(Some(LinePart { bytes, is_last: false }));
            }
        }
    }
}

/// Text from outside, made safe for a terminal: control characters except newline become `?`.
pub fn printable(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.chars().map(|c| if c.is_control() && c != '\n' { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn greeting_and_status_survive_the_wire() {
        let greeting =
            Greeting { version: "4.0".into(), pid: 8840, protocol: 1, services: 1, namespace: None };
        assert_eq!(greeting.to_string(), "balance 4.0 pid 8840 protocol 1");
        assert_eq!(Greeting::parse("balance 4.0 pid 8840 protocol 1"), Some(greeting.clone()));
        assert_eq!(Greeting::parse("balance 4.0 pid 8840 protocol 1 and more"), Some(greeting.clone()));
        let many = Greeting { services: 3, namespace: Some(4_026_531_840), ..greeting };
        assert_eq!(Greeting::parse(&many.to_string()), Some(many));
        for end in [false, true] {
            for service in [None, Some("web".to_owned())] {
                for is_draining in [false, true] {
                    for cause in
                        [None, Some("no address for end: SERVFAIL because of in draining".to_owned())]
                    {
                        let service = service.clone();
                        let status = Status { code: 65, group: 65_534, end, service, is_draining, cause };
                        assert_eq!(Status::parse(&status.to_string()), Some(status));
                    }
                }
            }
        }
    }

    #[test]
    fn other_first_lines_are_no_greeting_and_other_lines_no_status() {
        for line in
            ["", "SSH-2.0-OpenSSH", "balance", "balance 4 pid x protocol 1", "balance 4 pid 1", ". 0 0"]
        {
            assert_eq!(Greeting::parse(line), None, "{line:?}");
        }
        for line in ["", ".", ". ", ". 0", "..", ". x 0", ". 256 0", ".0 0", "show"] {
            assert_eq!(Status::parse(line), None, "{line:?}");
        }
    }

    #[test]
    fn a_body_line_is_never_taken_for_a_status_line() {
        let mut out = Vec::new();
        write_body(&mut out, "a\n. 0 0\n..\nb.\n").expect("a Vec takes all");
        assert_eq!(out, b"a\n.. 0 0\n...\nb.\n");
    }

    #[test]
    fn lines_of_any_length_are_read_in_bounded_memory() {
        let longest = vec![b'x'; MAX_LINE];
        let mut input = b"a\0\xff\n\n".to_vec();
        input.extend(
            [longest.as_slice(), b"\n", &longest, b"y\nshow\n", &longest, &longest, b"\nrest"].concat(),
        );
        let mut lines = LineReader::new(io::BufReader::with_capacity(7, input.as_slice()));
        assert_eq!(lines.read().expect("no error"), LineRead::Whole(b"a\0\xff"));
        assert_eq!(lines.read().expect("no error"), LineRead::Whole(b""));
        assert_eq!(lines.read().expect("no error"), LineRead::Whole(&longest));
        assert_eq!(lines.read().expect("no error"), LineRead::TooLong);
        assert_eq!(lines.read().expect("no error"), LineRead::Whole(b"show"));
        assert_eq!(lines.read().expect("no error"), LineRead::TooLong);
        assert_eq!(lines.read().expect("no error"), LineRead::Rest(b"rest"));
        assert_eq!(lines.read().expect("no error"), LineRead::End);
        assert!(lines.line.capacity() <= 2 * MAX_LINE, "{}", lines.line.capacity());
    }

    #[test]
    fn a_line_of_any_length_comes_in_parts_without_half_a_character() {
        for shift in 0..4 {
            for at_once in [7, MAX_LINE - 1, MAX_LINE, 3 * MAX_LINE] {
                let long = "x".repeat(shift) + &"\u{1f600}".repeat(MAX_LINE);
                let exact = "y".repeat(MAX_LINE);
                let input = format!("{long}\n\n{exact}\nshort\nrest");
                let mut lines = LineReader::new(io::BufReader::with_capacity(at_once, input.as_bytes()));
                let (mut text, mut parts) = (String::new(), 0);
                while let Some(part) = lines.read_part().expect("no error") {
                    text += std::str::from_utf8(part.bytes).expect("whole characters");
                    text += if part.is_last { "\n" } else { "" };
                    parts += 1;
                }
                assert!(text + "rest" == input, "shift {shift}, {at_once} at once");
                assert!(parts >= 7, "{parts}");
                assert!(lines.line.capacity() <= 2 * MAX_LINE, "{}", lines.line.capacity());
            }
        }
    }

    #[test]
    fn bytes_that_are_no_characters_come_in_parts_as_well() {
        for byte in [0x80, 0xbf, 0xc3, 0xff] {
            let input = [vec![byte; 3 * MAX_LINE], b"\n".to_vec()].concat();
            let (mut lines, mut all) = (LineReader::new(input.as_slice()), 0);
            while let Some(part) = lines.read_part().expect("no error") {
                all += part.bytes.len();
            }
            assert_eq!(all, 3 * MAX_LINE);
        }
    }

    #[test]
    fn a_too_long_line_without_an_end_is_told_once() {
        let input = vec![b'x'; MAX_LINE + 1];
        let mut lines = LineReader::new(input.as_slice());
        assert_eq!(lines.read().expect("no error"), LineRead::TooLong);
        assert_eq!(lines.read().expect("no error"), LineRead::End);
    }

    #[test]
    fn control_characters_of_strangers_are_not_printed() {
        assert_eq!(printable(b"a\x1b[2J\r\tb\n\xc2\x9b\xff"), "a?[2J??b\n?\u{fffd}");
    }
}
