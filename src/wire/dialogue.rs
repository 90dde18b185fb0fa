//! The dialogue of a check: texts to send and texts to expect, in order.
//!
//! Knows: the steps and how many of them are done. Never: sockets, time, what the texts mean.
//!
//! Two positions in the list advance separately: the next text to expect, and the next text to send, which
//! waits for every expected text before it. So a text that comes early counts, and only the beginning of a
//! possible match has to be kept.

use std::time::Duration;

use crate::spec::Step;

/// A check fails after this many received bytes without the expected text.
const PATIENCE: usize = 1_024 * 1_024;
/// How many characters of a text a cause quotes.
const QUOTED: usize = 40;

/// The steps, and how far they are done.
#[derive(Debug)]
pub(crate) struct Dialogue {
    steps: Vec<Step>,
    /// Index of the first expected text that has not come; the number of steps if all have.
    expected: usize,
    /// Index of the first text that is not sent completely; the number of steps if all are.
    unsent: usize,
    /// How many bytes of it are sent.
    sent: usize,
    /// The last bytes received that may begin a match.
    tail: Vec<u8>,
    heard_bytes: usize,
    /// The cause of failure once sending is impossible. It counts only if the expected texts do not come.
    cut_short: Option<String>,
}

impl Dialogue {
    pub(super) fn new(steps: Vec<Step>) -> Self {
        Self { steps, expected: 0, unsent: 0, sent: 0, tail: Vec::new(), heard_bytes: 0, cut_short: None }
    }

    /// Returns the verdict at once if there is nothing to do.
    pub(super) fn begin(&mut self) -> Option<Result<(), String>> {
        self.listen();
        self.sent(0)
    }

    pub(super) fn outgoing(&self) -> &[u8] {
        match self.steps.get(self.unsent) {
            Some(Step::Send(text)) if self.unsent < self.expected => text.get(self.sent..).unwrap_or(&[]),
            _ => &[],
        }
    }

    pub(super) fn sent(&mut self, count: usize) -> Option<Result<(), String>> {
        self.sent += count;
        while let Some(step) = self.steps.get(self.unsent) {
            if matches!(step, Step::Send(text) if self.sent < text.len() || self.unsent > self.expected) {
                break;
            }
            self.unsent += 1;
            if matches!(step, Step::Send(_)) {
                self.sent = 0;
            }
        }
        self.verdict()
    }

    pub(super) fn heard(&mut self, bytes: &[u8]) -> Option<Result<(), String>> {
        self.heard_bytes = self.heard_bytes.saturating_add(bytes.len());
        self.tail.extend_from_slice(bytes);
        self.listen();
        // An empty text to send is done when its turn comes.
        let verdict = self.sent(0);
        if verdict.is_none() && self.heard_bytes >= PATIENCE {
            let cause = match self.missing() {
                Some(text) => format!("{} not in the first {} MiB", quoted(text), PATIENCE >> 20),
                None => self.broken("flooded"),
            };
            return Some(Err(cause));
        }
        verdict
    }

    /// Sending is impossible from now on. A server that has sent what is expected and then resets still
    /// passes the check.
    pub(super) fn unsendable(&mut self, how: &str) -> Option<Result<(), String>> {
        let cause = self.broken(how);
        if !self.steps.iter().any(|step| matches!(step, Step::Expect(_))) {
            return Some(Err(cause));
        }
        self.cut_short = Some(cause);
        self.unsent = self.steps.len();
        // Texts that can no longer be sent must not hold up the texts expected after them.
        self.listen();
        self.verdict()
    }

    /// Nothing more will be received. Texts that are left to send can still be sent.
    pub(super) fn ended(&mut self, how: &str) -> Option<Result<(), String>> {
        let text = self.missing()?;
        let cause = self.cut_short.clone();
        Some(Err(cause.unwrap_or_else(|| format!("{how} before {} came", quoted(text)))))
    }

    /// The cause of failure when sending is impossible.
    fn broken(&self, how: &str) -> String {
        match (self.missing(), self.waiting()) {
            (_, Some(text)) if !self.outgoing().is_empty() => {
                format!("{how} before {} was sent", quoted(text))
            }
            (Some(text), _) => format!("{how} before {} came", quoted(text)),
            (None, Some(text)) => format!("{how} before {} was sent", quoted(text)),
            (None, None) => how.into(),
        }
    }

    pub(super) fn overdue(&self, timeout: Duration) -> String {
        match (self.missing(), self.waiting()) {
            (_, Some(text)) if !self.outgoing().is_empty() => {
                format!("{} could not be sent within {timeout:?}", quoted(text))
            }
            (Some(text), _) => format!("{} did not come within {timeout:?}", quoted(text)),
            (None, _) => format!("no answer within {timeout:?}"),
        }
    }

    /// Searches the received bytes for the next expected texts.
    fn listen(&mut self) {
        let mut from = 0;
        while let Some(step) = self.steps.get(self.expected) {
            if let Step::Expect(text) = step {
                let Some(at) = find(text, &self.tail[from..]) else {
                    // A match may have begun in the last bytes.
                    from = from.max((self.tail.len() + 1).saturating_sub(text.len()));
                    break;
                };
                from += at + text.len();
            }
            self.expected += 1;
        }
        if self.expected == self.steps.len() {
            from = self.tail.len();
        }
        self.tail.drain(..from);
    }

    fn verdict(&self) -> Option<Result<(), String>> {
        let is_done = self.expected == self.steps.len() && self.unsent == self.steps.len();
        is_done.then_some(Ok(()))
    }

    fn missing(&self) -> Option<&[u8]> {
        match self.steps.get(self.expected) {
            Some(Step::Expect(text)) => Some(text),
            _ => None,
        }
    }

    fn waiting(&self) -> Option<&[u8]> {
        match self.steps.get(self.unsent) {
            Some(Step::Send(text)) => Some(text),
            _ => None,
        }
    }
}

fn find(text: &[u8], within: &[u8]) -> Option<usize> {
    if text.is_empty() {
        return Some(0);
    }
    within.windows(text.len()).position(|window| window == text)
}

/// The operator's text, escaped to be printable and cut to [`QUOTED`] characters.
fn quoted(text: &[u8]) -> String {
    let escaped = text.escape_ascii().to_string();
    match escaped.char_indices().nth(QUOTED) {
        None => format!("\"{escaped}\""),
        Some((end, _)) => format!("\"{}...\"", &escaped[..end]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn send(text: &str) -> Step {
        Step::Send(text.into())
    }

    fn expect(text: &str) -> Step {
        Step::Expect(text.into())
    }

    fn second() -> Duration {
        Duration::from_secs(1)
    }

    #[test]
    fn steps_are_done_in_order() {
        let mut smtp = Dialogue::new(vec![expect("220"), send("QUIT\r\n"), expect("221")]);
        assert_eq!(smtp.begin(), None);
        assert_eq!(smtp.outgoing(), b"", "the banner comes first");
        assert_eq!(smtp.heard(b"220 mail\r\n"), None);
        assert_eq!(smtp.outgoing(), b"QUIT\r\n");
        assert_eq!(smtp.sent(2), None);
        assert_eq!(smtp.outgoing(), b"IT\r\n");
        assert_eq!(smtp.sent(4), None);
        assert_eq!(smtp.outgoing(), b"");
        assert_eq!(smtp.heard(b"221 bye\r\n"), Some(Ok(())));
    }

    #[test]
    fn a_text_is_found_in_any_chunking_and_used_once() {
        let steps = || vec![expect("aab"), expect("aab"), send("x"), expect("b")];
        let text = b"..aaaab.aab";
        for split in 0..text.len() {
            let mut dialogue = Dialogue::new(steps());
            let (first, rest) = text.split_at(split);
            assert_eq!((dialogue.begin(), dialogue.heard(first), dialogue.heard(rest)), (None, None, None));
            assert_eq!(dialogue.outgoing(), b"x", "split at {split}");
            assert_eq!(dialogue.sent(1), None, "no byte serves two steps");
            assert_eq!(dialogue.heard(b"b"), Some(Ok(())));
        }
    }

    #[test]
    fn an_answer_that_comes_before_all_is_sent_counts() {
        let mut dialogue = Dialogue::new(vec![send("PING"), expect("PONG"), send("BYE")]);
        assert_eq!(dialogue.begin(), None);
        assert_eq!(dialogue.sent(1), None);
        assert_eq!(dialogue.heard(b"PONG"), None);
        assert_eq!(dialogue.outgoing(), b"ING");
        assert_eq!(dialogue.sent(3), None);
        assert_eq!(dialogue.outgoing(), b"BYE");
        assert_eq!(dialogue.ended("closed"), None, "who says nothing more may still listen");
        assert_eq!(dialogue.sent(3), Some(Ok(())));
    }

    #[test]
    fn nothing_to_do_is_up() {
        assert_eq!(Dialogue::new(Vec::new()).begin(), Some(Ok(())));
        assert_eq!(Dialogue::new(vec![send(""), expect(""), send("")]).begin(), Some(Ok(())));
        let mut mixed = Dialogue::new(vec![send(""), expect("a"), send("")]);
        assert_eq!(mixed.begin(), None);
        assert_eq!(mixed.heard(b"a"), Some(Ok(())));
    }

    #[test]
    fn causes_name_the_step() {
        let mut dialogue = Dialogue::new(vec![send("PING\r\n"), expect("+PONG")]);
        assert_eq!(dialogue.begin(), None);
        assert_eq!(dialogue.overdue(second()), "\"PING\\r\\n\" could not be sent within 1s");
        assert_eq!(dialogue.broken("reset"), "reset before \"PING\\r\\n\" was sent");
        assert_eq!(dialogue.sent(6), None);
        assert_eq!(dialogue.overdue(second()), "\"+PONG\" did not come within 1s");
        assert_eq!(dialogue.ended("closed"), Some(Err("closed before \"+PONG\" came".into())));
        let long = quoted(&[0x1b; 1_000]);
        assert!(long.len() < QUOTED + 8 && long.is_ascii() && !long.contains('\x1b'), "{long}");
    }

    #[test]
    fn a_flood_is_neither_kept_nor_endured_for_ever() {
        let mut dialogue = Dialogue::new(vec![send("x"), expect("never")]);
        assert_eq!(dialogue.begin(), None);
        let chunk = [b'n'; 4_096];
        let verdict = (0..=PATIENCE / chunk.len()).find_map(|_| {
            let verdict = dialogue.heard(&chunk);
            assert!(dialogue.tail.len() < 5, "only what may begin a match is kept");
            verdict
        });
        assert_eq!(verdict, Some(Err("\"never\" not in the first 1 MiB".into())));
    }
}
