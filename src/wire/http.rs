//! The HTTP request of a check, and the status of its answer.
//!
//! Knows: request and status line, interim answers. Never: sockets, time, what follows the status line.
//! Source: RFC 9112, sections 3 and 4; RFC 9110, section 15.2.

use std::ops::RangeInclusive;

/// Maximum length of a status line in bytes. Anything longer is not HTTP.
const LINE: usize = 1_024;
/// Maximum length in bytes of all interim answers with their fields.
const PATIENCE: usize = 64 * 1_024;
const NOT_HTTP: &str = "http: not an HTTP answer";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// The status line of an interim or final answer.
    Status,
    /// The fields of an interim answer; they end with an empty line.
    Fields,
}

/// The request, and how far its answer has been read.
#[derive(Debug)]
pub(crate) struct Http {
    request: Vec<u8>,
    sent: usize,
    statuses: Vec<RangeInclusive<u16>>,
    part: Part,
    /// The current line so far, without its end.
    line: Vec<u8>,
    heard_bytes: usize,
}

impl Http {
    /// Requests `path` with `host` as the `Host` field; the statuses in `statuses` count as up.
    pub(super) fn new(path: &str, host: &str, statuses: Vec<RangeInclusive<u16>>) -> Self {
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: balance\r\nAccept: */*\r\nConnection: close\r\n\r\n"
        );
        Self {
            request: request.into(),
            sent: 0,
            statuses,
            part: Part::Status,
            line: Vec::new(),
            heard_bytes: 0,
        }
    }

    pub(super) fn outgoing(&self) -> &[u8] {
        &self.request[self.sent..]
    }

    pub(super) fn sent(&mut self, count: usize) {
        self.sent = (self.sent + count).min(self.request.len());
    }

    /// Nothing more can be sent. A server may answer and close before it has read the whole request, so its
    /// answer still counts.
    pub(super) fn unsendable(&mut self) {
        self.sent = self.request.len();
    }

    pub(super) fn heard(&mut self, bytes: &[u8]) -> Option<Result<(), String>> {
        for &byte in bytes {
            self.heard_bytes += 1;
            let verdict = match self.part {
                Part::Status => self.status_byte(byte),
                Part::Fields => self.field_byte(byte),
            };
            if verdict.is_some() {
                return verdict;
            }
            if self.heard_bytes >= PATIENCE {
                return Some(Err("http: no end of what comes before the answer".into()));
            }
        }
        None
    }

    fn status_byte(&mut self, byte: u8) -> Option<Result<(), String>> {
        // RFC 9112, 2.2 says that a reader skips an empty line at the beginning. Some servers end an earlier
        // body with one too many.
        if byte == b'\n' && matches!(&self.line[..], b"" | b"\r") {
            self.line.clear();
            return None;
        }
        if byte != b'\n' {
            self.line.push(byte);
            let is_http = self.line.len() <= LINE && may_begin_status(&self.line);
            return if is_http { None } else { Some(Err(NOT_HTTP.into())) };
        }
        let Some(status) = status(&self.line) else { return Some(Err(NOT_HTTP.into())) };
        if self.statuses.iter().any(|range| range.contains(&status)) {
            return Some(Ok(()));
        }
        // 101 switches protocols, which nobody asked for; what follows would not be HTTP.
        if (100..200).contains(&status) && status != 101 {
            self.part = Part::Fields;
            self.line.clear();
            return None;
        }
        Some(Err(format!("http: status {status}")))
    }

    /// Only an empty line matters, so only the first byte of a field is kept.
    fn field_byte(&mut self, byte: u8) -> Option<Result<(), String>> {
        match byte {
            b'\n' if self.line.is_empty() => self.part = Part::Status,
            b'\n' => self.line.clear(),
            b'\r' => {}
            _ if self.line.is_empty() => self.line.push(byte),
            _ => {}
        }
        None
    }
}

/// Could the line still become a status line? So garbage is recognized by its first bytes, not only at the
/// end of its line.
fn may_begin_status(line: &[u8]) -> bool {
    const VERSION: &[u8] = b"HTTP/1.";
    if line == b"\r" {
        return true;
    }
    let common = line.len().min(VERSION.len());
    line[..common] == VERSION[..common]
        && line.get(VERSION.len()).is_none_or(|minor| matches!(minor, b'0' | b'1'))
}

/// The status in a status line, which is without its LF. `None` if it is not a status line.
fn status(line: &[u8]) -> Option<u16> {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let rest = line.strip_prefix(b"HTTP/1.0 ").or_else(|| line.strip_prefix(b"HTTP/1.1 "))?;
    let (digits, reason) = rest.split_at_checked(3)?;
    let is_status = digits[0] != b'0' && digits.iter().all(u8::is_ascii_digit);
    // Some servers omit the space together with the reason phrase.
    if !is_status || !matches!(reason.first(), None | Some(b' ')) {
        return None;
    }
    Some(digits.iter().fold(0, |status, digit| status * 10 + u16::from(digit - b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn http(statuses: &[RangeInclusive<u16>]) -> Http {
        Http::new("/health", "127.0.0.1:80", statuses.to_vec())
    }

    /// The verdict on this answer. It is the same whether the answer comes at once or byte by byte.
    fn verdict(statuses: &[RangeInclusive<u16>], answer: &[u8]) -> Option<Result<(), String>> {
        let at_once = http(statuses).heard(answer);
        let mut slow = http(statuses);
        let byte_by_byte = answer.iter().find_map(|&byte| slow.heard(&[byte]));
        assert_eq!(at_once, byte_by_byte, "{}", answer.escape_ascii());
        at_once
    }

    #[test]
    fn the_request_is_sent_in_pieces_of_any_size() {
        let mut http = http(&[]);
        let mut sent = Vec::new();
        while !http.outgoing().is_empty() {
            let count = http.outgoing().len().min(7);
            sent.extend_from_slice(&http.outgoing()[..count]);
            http.sent(count);
        }
        let expected = "GET /health HTTP/1.1\r\nHost: 127.0.0.1:80\r\nUser-Agent: balance\r\nAccept: */*\r\n\
                        Connection: close\r\n\r\n";
        assert_eq!(String::from_utf8(sent).expect("text"), expected);
    }

    #[test]
    fn listed_statuses_are_up_and_others_are_named() {
        let good: &[RangeInclusive<u16>] = &[200..=299, 401..=401];
        let table: &[(&[u8], Result<(), String>)] = &[
            (b"HTTP/1.1 200 OK\r\n", Ok(())),
            (b"HTTP/1.0 204 \r\n", Ok(())),
            (b"HTTP/1.1 299\r\n", Ok(())),
            (b"HTTP/1.1 401 Who are you\n", Ok(())),
            (b"HTTP/1.1 300 Many\r\n", Err("http: status 300".into())),
            (b"HTTP/1.1 400 Bad\r\n", Err("http: status 400".into())),
            (b"HTTP/1.1 503 No \x1b[31m\r\n", Err("http: status 503".into())),
        ];
        for (answer, expected) in table {
            assert_eq!(verdict(good, answer).as_ref(), Some(expected), "{}", answer.escape_ascii());
        }
        let none = verdict(&[], b"HTTP/1.1 200 OK\r\n");
        assert_eq!(none, Some(Err("http: status 200".into())), "no list, nothing is up");
    }

    #[test]
    fn what_is_no_status_line_is_not_http() {
        let garbage: &[&[u8]] = &[
            b"S",
            b"\r\r",
            b"\r\nS",
            b" \r\n",
            b"HTTP/2",
            b"HTTP/1.2",
            b"http/1.1 200 OK\r\n",
            b"HTTP/1.1\r\n",
            b"HTTP/1.1 20\r\n",
            b"HTTP/1.1 2000 OK\r\n",
            b"HTTP/1.1 099 OK\r\n",
            b"HTTP/1.1  200 OK\r\n",
            b"HTTP/1.1 +20 OK\r\n",
            b"HTTP/1.1 200OK\r\n",
        ];
        for answer in garbage {
            assert_eq!(
                verdict(&[200..=200], answer),
                Some(Err(NOT_HTTP.into())),
                "{}",
                answer.escape_ascii()
            );
        }
        let long = [&b"HTTP/1.1 200 "[..], &[b'x'; LINE]].concat();
        assert_eq!(verdict(&[200..=200], &long), Some(Err(NOT_HTTP.into())));
        assert_eq!(verdict(&[200..=200], b"HTTP/1.1 200 O"), None, "the line is not over yet");
    }

    #[test]
    fn empty_lines_in_front_of_an_answer_are_passed_over() {
        for front in ["\r\n", "\n", "\r\n\r\n"] {
            let answer = format!("{front}HTTP/1.1 200 OK\r\n");
            assert_eq!(verdict(&[200..=200], answer.as_bytes()), Some(Ok(())), "{front:?}");
            assert_eq!(verdict(&[200..=200], front.as_bytes()), None, "nothing is known yet");
        }
        let late = b"HTTP/1.1 100 Continue\r\n\r\n\r\nHTTP/1.1 503 No\r\n";
        assert_eq!(verdict(&[200..=200], late), Some(Err("http: status 503".into())));
    }

    #[test]
    fn interim_answers_are_passed_over() {
        let answer = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\nX: y\r\n\r\n\
                       HTTP/1.1 200 OK\r\n";
        assert_eq!(verdict(&[200..=200], answer), Some(Ok(())));
        let bad = b"HTTP/1.1 103 Early Hints\nLink: HTTP/1.1 200 OK\n\nHTTP/1.1 503 No\n";
        assert_eq!(verdict(&[200..=200], bad), Some(Err("http: status 503".into())));
        assert_eq!(verdict(&[103..=103], bad), Some(Ok(())), "unless one was asked for");
        let switched = b"HTTP/1.1 101 Switching Protocols\r\n";
        assert_eq!(verdict(&[200..=200], switched), Some(Err("http: status 101".into())));
    }

    #[test]
    fn interim_answers_without_end_come_to_one() {
        let flood = b"HTTP/1.1 100 Continue\r\n\r\n".repeat(PATIENCE);
        let fields = [&b"HTTP/1.1 100 Continue\r\n"[..], &vec![b'x'; 2 * PATIENCE]].concat();
        for endless in [flood, fields, b"\r\n".repeat(PATIENCE)] {
            let mut http = http(&[200..=200]);
            assert_eq!(
                http.heard(&endless),
                Some(Err("http: no end of what comes before the answer".into()))
            );
            assert!(http.line.capacity() <= 2 * LINE);
        }
    }
}
