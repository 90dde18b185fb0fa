//! Reads the answer to a `tap`, which lasts as long as the connection. The reader of our output may go away,
//! and another process may take the connection over.
//!
//! Knows: where a tap goes on when its session was handed over. Never: what happens with the output.
//! Source: docs/observability.md, "One session's bytes".

use std::thread;
use std::time::{Duration, Instant};

use crate::control::client::{AskError, Client};
use crate::control::execute::Reply;
use crate::control::find::{self, ASK_AGAIN, FindError, Wanted};
use crate::control::interrupt::Interrupts;
use crate::control::reader::Reader;
use crate::control::render;
use crate::control::tapping::{TapStop, TapWanted};

/// How long handing a session over to another process may take.
const ON_ITS_WAY: Duration = Duration::from_secs(10);

/// The target that the answer is written to.
pub(crate) trait AnswerSink {
    /// Takes a part of the answer, in whole lines.
    fn take(&mut self, part: &str);
    /// Has writing failed? Then it takes no more.
    fn has_failed(&self) -> bool;
}

/// The output of a watched tap.
pub(crate) struct TapWatch<S> {
    /// Whether the output goes to stdout, so that watching ends when nobody reads stdout.
    pub(crate) reads_stdout: bool,
    pub(crate) sink: S,
}

/// The command to send.
pub(crate) struct AskedTap<'a> {
    pub(crate) wanted: &'a Wanted,
    pub(crate) text: &'a [u8],
    /// The tap, if the command is nothing else. Then it is sent again to the process that has the session.
    pub(crate) only: Option<&'a TapWanted>,
}

/// Why the answer is not complete.
pub(crate) enum WatchError {
    /// The instance failed to answer.
    Ask(AskError),
    /// No instance was found to go on with.
    Find(FindError),
    /// The instance gave up because the answer was read too slowly.
    Unread,
}

/// Passes the answer on until it ends, is interrupted, or nobody reads it. Returns the exit code.
pub(crate) fn watch<S: AnswerSink>(
    mut client: Client,
    asked: &AskedTap<'_>,
    watched: &mut TapWatch<S>,
    interrupts: Option<&Interrupts>,
) -> Result<u8, WatchError> {
    let left = asked.only.and_then(|tap| tap.session.to_u64()).map(|id| Reply::TapOver(id, TapStop::Left));
    let left = left.map(|reply| render::text(&reply));
    let mut on_its_way = [Reply::HandedOver, Reply::HandingOver].map(|reply| render::text(&reply)).to_vec();
    // Since when the session is on its way to another process.
    let mut since = None;
    let mut has_begun = false;
    loop {
        let socket = || client.socket().ok();
        let reader = socket().filter(|_| watched.reads_stdout).map(Reader::watch);
        let (giving_up, interrupted) = (socket(), socket());
        let (mut held, mut has_left) = (String::new(), false);
        let sink = &mut watched.sink;
        let mut ask = || {
            client.ask_at_once(asked.text, |part| {
                // The command will be sent again, and the reader should not see this message each time.
                if asked.only.is_some() && held.is_empty() && on_its_way.iter().any(|text| text == part) {
                    held.push_str(part);
                    return;
                }
                has_left = left.as_ref().is_some_and(|left| part.ends_with(left));
                since = None;
                has_begun = true;
                let before = std::mem::take(&mut held);
                if !before.is_empty() {
                    sink.take(&before);
                }
                sink.take(part);
                if sink.has_failed() {
                    // The socket may be shut down already.
                    giving_up.iter().for_each(|socket| drop(socket.shutdown(std::net::Shutdown::Both)));
                }
            })
        };
        let (answer, is_interrupted) = match interrupts.zip(interrupted) {
            Some((interrupts, socket)) => interrupts.during(socket, ask),
            None => (ask(), false),
        };
        let is_unread = watched.sink.has_failed() || reader.as_ref().is_some_and(Reader::has_gone);
        let now = Instant::now();
        let goes_on = now.saturating_duration_since(*since.get_or_insert(now)) < ON_ITS_WAY;
        match answer {
            _ if is_unread || is_interrupted => return Ok(0),
            Ok(_) if goes_on && (has_left || !held.is_empty()) => {}
            // The process may have ended as soon as everything was handed over.
            Err(AskError::Gone | AskError::Unheard) if goes_on && has_left => {}
            Ok(status) => {
                if !held.is_empty() {
                    watched.sink.take(&held);
                }
                return Ok(status.code);
            }
            Err(AskError::Gone) if has_begun => {
                // If the process is still there, it ended the answer because it was read too slowly.
                let found = find::find(asked.wanted, false).ok();
                let is_there = found.is_some_and(|found| found.pid() == client.pid());
                return Err(if is_there { WatchError::Unread } else { WatchError::Ask(AskError::Gone) });
            }
            Err(error) => return Err(WatchError::Ask(error)),
        }
        if let Some(tap) = asked.only.filter(|_| has_left) {
            on_its_way.push(render::text(&Reply::NoSuchSession(tap.session.clone())));
        }
        thread::sleep(ASK_AGAIN);
        client = find::find(asked.wanted, false).map_err(WatchError::Find)?;
    }
}
