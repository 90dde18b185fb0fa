//! The open sessions, and which of them is closed when there are too many.
//!
//! Knows: whose sessions they are, which of them are idle. Never: what is said in them.
//! Source: docs/control.md, "The protocol".

use std::collections::BTreeMap;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use rustix::net::SendFlags;

/// Maximum number of sessions at one time.
pub(crate) const MAX_SESSIONS: usize = 64;
/// If all of those are busy, root may have this many more.
const ROOMS_FOR_ROOT: usize = 8;
const ROOT: u32 = 0;

/// All open sessions.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    is_stopped: bool,
    next: u64,
    /// Counts how often a session became idle; orders sessions by idle time.
    moments: u64,
    open: BTreeMap<u64, Open>,
}

#[derive(Debug)]
struct Open {
    stream: Arc<UnixStream>,
    uid: u32,
    /// When it became idle, on the count of `moments`; `None` = it is carrying out a line.
    idle_since: Option<u64>,
}

/// Why no session can begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Full {
    /// The instance is ending.
    Stopped,
    /// All sessions are carrying out commands.
    Busy,
}

impl Sessions {
    /// Opens a session and returns its number. If there are too many, the one that has been idle for the
    /// longest time is closed; root's go last. Its client is told why, if it reads.
    pub(crate) fn enter(&mut self, stream: &Arc<UnixStream>, uid: u32) -> Result<u64, Full> {
        if self.is_stopped {
            return Err(Full::Stopped);
        }
        if self.open.len() >= MAX_SESSIONS && !self.make_room() {
            // Root always gets in, whatever others do.
            let is_let_in = uid == ROOT && self.open.len() < MAX_SESSIONS + ROOMS_FOR_ROOT;
            if !is_let_in {
                return Err(Full::Busy);
            }
        }
        let number = self.next;
        self.next += 1;
        let idle_since = Some(self.moment());
        self.open.insert(number, Open { stream: Arc::clone(stream), uid, idle_since });
        Ok(number)
    }

    fn make_room(&mut self) -> bool {
        let idle =
            self.open.iter().filter_map(|(number, open)| Some((open.uid == ROOT, open.idle_since?, *number)));
        let Some((_, _, number)) = idle.min() else { return false };
        if let Some(gone) = self.open.remove(&number) {
            let why = format!(". closed: {MAX_SESSIONS} sessions are open, and this one was idle\n");
            // Its client may not even have read earlier answers, so this does not wait.
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            let _ = rustix::net::send(&*gone.stream, why.as_bytes(), flags);
            let _ = gone.stream.shutdown(Shutdown::Both);
        }
        true
    }

    fn moment(&mut self) -> u64 {
        self.moments += 1;
        self.moments
    }

    /// A line has come in. `false`: the session has just been closed for another one, so the line must not be
    /// carried out.
    pub(crate) fn begin_work(&mut self, number: u64) -> bool {
        match self.open.get_mut(&number) {
            Some(open) => {
                open.idle_since = None;
                true
            }
            None => false,
        }
    }

    /// Records that the session has sent its answer. `false`: the session has been closed.
    pub(crate) fn end_work(&mut self, number: u64) -> bool {
        let now = self.moment();
        match self.open.get_mut(&number) {
            Some(open) if !self.is_stopped => {
                open.idle_since = Some(now);
                true
            }
            _ => false,
        }
    }

    /// Removes a session that has ended.
    pub(crate) fn leave(&mut self, number: u64) {
        self.open.remove(&number);
    }

    /// Opens no more sessions. Those that are open end after their current command. Returns `true` the first
    /// time.
    pub(crate) fn stop(&mut self) -> bool {
        let is_first = !std::mem::replace(&mut self.is_stopped, true);
        for open in self.open.values().filter(|_| is_first) {
            // An error means that the socket is closed already.
            let _ = open.stream.shutdown(Shutdown::Read);
        }
        is_first
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.is_stopped
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    const USER: u32 = 1000;

    fn stream() -> (Arc<UnixStream>, UnixStream) {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        (Arc::new(ours), theirs)
    }

    /// This many sessions; the first one is root's.
    fn full(count: usize) -> (Sessions, Vec<UnixStream>) {
        let mut sessions = Sessions::default();
        let clients = (0..count).map(|number| {
            let (ours, theirs) = stream();
            sessions.enter(&ours, if number == 0 { ROOT } else { USER }).expect("room");
            theirs
        });
        let clients = clients.collect();
        (sessions, clients)
    }

    fn enter(sessions: &mut Sessions, uid: u32) -> Result<u64, Full> {
        sessions.enter(&stream().0, uid)
    }

    #[test]
    fn who_has_been_idle_for_the_longest_time_gives_way_and_root_last() {
        let (mut sessions, mut clients) = full(MAX_SESSIONS);
        // The oldest session that is not root's was busy a moment ago, and the next one still is.
        assert!(sessions.begin_work(1) && sessions.end_work(1) && sessions.begin_work(2));
        assert_eq!(enter(&mut sessions, USER), Ok(64));
        assert!(!sessions.begin_work(3), "it is gone, and does nothing any more");
        assert!([0, 1, 2, 4].iter().all(|number| sessions.open.contains_key(number)));
        let mut said = String::new();
        clients[3].read_to_string(&mut said).expect("the end");
        assert_eq!(said, ". closed: 64 sessions are open, and this one was idle\n");
        for _ in 4..MAX_SESSIONS {
            enter(&mut sessions, USER).expect("room");
        }
        enter(&mut sessions, USER).expect("room");
        assert!(!sessions.open.contains_key(&1), "its turn came");
        assert!(sessions.open.contains_key(&0), "root's is the last");
    }

    #[test]
    fn root_gets_in_where_all_are_at_work() {
        let (mut sessions, _clients) = full(MAX_SESSIONS);
        assert!((0..64).all(|number| sessions.begin_work(number)));
        assert_eq!(enter(&mut sessions, USER), Err(Full::Busy));
        for number in 64..72 {
            assert_eq!(enter(&mut sessions, ROOT), Ok(number));
            assert!(sessions.begin_work(number));
        }
        assert_eq!(enter(&mut sessions, ROOT), Err(Full::Busy), "there is an end to it");
    }

    #[test]
    fn who_reads_nothing_holds_up_nobody() {
        let mut sessions = Sessions::default();
        let mut clients = Vec::new();
        for _ in 0..MAX_SESSIONS {
            let (ours, theirs) = stream();
            // No further byte fits into the socket's buffer.
            let full = |size: usize| {
                let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
                while rustix::net::send(&*ours, &vec![b'x'; size], flags).is_ok() {}
            };
            full(4096);
            full(1);
            sessions.enter(&ours, USER).expect("room");
            clients.push(theirs);
        }
        assert_eq!(enter(&mut sessions, USER), Ok(64));
    }

    #[test]
    fn nobody_gets_in_after_the_end() {
        let (mut sessions, _clients) = full(2);
        assert!(sessions.begin_work(1));
        assert!(sessions.stop());
        assert!(!sessions.stop());
        assert!(!sessions.end_work(1));
        assert_eq!(enter(&mut sessions, ROOT), Err(Full::Stopped));
        sessions.leave(0);
        sessions.leave(1);
        assert!(sessions.is_empty());
    }
}
