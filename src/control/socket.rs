//! The control socket's server: one thread that lets operators in, one thread per session.
//!
//! Knows: who may connect, sessions, the order of a shutdown. Never: what a command means, how an answer looks.
//! Source: docs/control.md, "The protocol".

use std::collections::HashMap;
use std::fmt;
use std::io::{self, BufReader, BufWriter, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};

use crate::control::argument::HostPort;
use crate::control::command::{self, Command, SyntaxError};
use crate::control::endpoint::{Endpoint, Entry};
use crate::control::execute::{Effect, Reply, Session, apply, prepare};
use crate::control::peer;
use crate::control::render;
use crate::control::wire::{Greeting, Line, Lines, PROTOCOL, Status, printable, write_body};
use crate::observe::{Event, Log};
use crate::sched::{Addresses, ChannelKey, SessionSnapshot, SharedTable, Snapshot};

/// Sessions at one time.
const MAX_SESSIONS: usize = 64;
/// A client that does not take its answer for so long is let go.
const WRITE_PATIENCE: Duration = Duration::from_secs(10);
/// Between two attempts to accept when there are no descriptors.
const BACK_OFF: Timespec = Timespec { tv_sec: 0, tv_nsec: 200_000_000 };
/// Between two looks of `wait`.
const LOOK_AGAIN: Timespec = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };

/// What sessions work with. The closures are called without the table's lock.
#[derive(Clone)]
#[allow(clippy::type_complexity, reason = "a closure's type is plainest where it is used")]
pub struct Context {
    /// The one table.
    pub table: SharedTable,
    /// Looks up an address; may take its time.
    pub resolve: Arc<dyn Fn(&HostPort) -> io::Result<Addresses> + Send + Sync>,
    /// Closes the TCP listeners and lets the connections live on; `true` = done. Called with the entry gone already, and
    /// perhaps more than once.
    pub kill: Arc<dyn Fn() -> bool + Send + Sync>,
    /// What only the data plane can do.
    pub plane: Plane,
    /// The command line that starts the instance with the channels of the snapshot.
    pub command_line: Arc<dyn Fn(&Snapshot) -> String + Send + Sync>,
    /// The time since the start of the instance.
    pub now: Arc<dyn Fn() -> Duration + Send + Sync>,
    /// Where changes are told, with the uid of who made them.
    pub log: Log,
}

/// What only the data plane can do. Called without the table's lock.
#[derive(Clone)]
#[allow(clippy::type_complexity, reason = "a closure's type is plainest where it is used")]
pub struct Plane {
    /// Closes the connections of a channel; how many there were.
    pub close_connections: Arc<dyn Fn(ChannelKey) -> usize + Send + Sync>,
    /// Closes one connection; `false` = there is none of that number.
    pub close_session: Arc<dyn Fn(u64) -> bool + Send + Sync>,
    /// All connections, or those of a channel.
    pub sessions: Arc<dyn Fn(Option<ChannelKey>) -> Vec<SessionSnapshot> + Send + Sync>,
    /// The table was changed.
    pub changed: Arc<dyn Fn() + Send + Sync>,
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context").finish_non_exhaustive()
    }
}

/// The running server. Dropped, it stops.
#[derive(Debug)]
#[must_use = "dropped, the control socket is gone"]
pub struct Control {
    shared: Arc<Shared>,
}

impl Control {
    /// Removes the entry, at once. To be called before the TCP listener is closed: until then no successor can have put
    /// its own there. Sessions go on.
    pub fn remove(&self) {
        self.shared.remove_entry();
    }

    /// Removes the entry and ends the sessions; an answer that is under way gets as long as `patience`, so that the operator
    /// who sent `kill` hears how it went. To be called last, before the process goes.
    pub fn stop(&self, patience: Duration) {
        self.shared.remove_entry();
        let sessions = self.shared.end_sessions();
        // Whether they ended in time makes no difference.
        drop(self.shared.ended.wait_timeout_while(sessions, patience, |now| !now.open.is_empty()));
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.stop(Duration::ZERO);
    }
}

/// Starts to serve. To be called in the process that serves, after any fork.
///
/// # Errors
/// When there are no descriptors or no thread for it; the endpoint is gone then.
pub fn serve(endpoint: Endpoint, context: Context) -> io::Result<Control> {
    let Endpoint { listener, entry, owner, group_named } = endpoint;
    listener.set_nonblocking(true)?;
    let (wake, woken) = UnixStream::pair()?;
    let shared = Arc::new(Shared {
        context,
        owner,
        group_named,
        entry: Mutex::new(entry),
        sessions: Mutex::new(Sessions { stopped: false, next: 0, open: HashMap::new() }),
        ended: Condvar::new(),
        wake,
    });
    let acceptor = Arc::clone(&shared);
    thread::Builder::new().name("control".into()).spawn(move || accept_all(&acceptor, &listener, &woken))?;
    Ok(Control { shared })
}

#[derive(Debug)]
struct Shared {
    context: Context,
    owner: u32,
    group_named: bool,
    entry: Mutex<Entry>,
    sessions: Mutex<Sessions>,
    /// Told whenever a session ends.
    ended: Condvar,
    /// A byte, or the end, wakes the thread that accepts.
    wake: UnixStream,
}

#[derive(Debug)]
struct Sessions {
    stopped: bool,
    next: u64,
    open: HashMap<u64, Arc<UnixStream>>,
}

impl Shared {
    fn sessions(&self) -> MutexGuard<'_, Sessions> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remove_entry(&self) {
        self.entry.lock().unwrap_or_else(PoisonError::into_inner).remove();
    }

    /// No session starts from now on, and those that are open end after the command that they are at.
    fn end_sessions(&self) -> MutexGuard<'_, Sessions> {
        let mut sessions = self.sessions();
        if !sessions.stopped {
            sessions.stopped = true;
            // Errors here are of sockets that are closed by now.
            let _ = self.wake.shutdown(Shutdown::Both);
            for stream in sessions.open.values() {
                let _ = stream.shutdown(Shutdown::Read);
            }
        }
        sessions
    }

    /// `kill`: entry, then listeners, then the answer. If it fails the entry is back, for the next try.
    fn kill(&self) -> Reply {
        let mut entry = self.entry.lock().unwrap_or_else(PoisonError::into_inner);
        entry.hide();
        if !(self.context.kill)() {
            entry.show();
            return Reply::ShutdownFailed;
        }
        entry.remove();
        drop(entry);
        drop(self.end_sessions());
        Reply::ShutdownComplete
    }

    /// The answer, and whether the session ends with it.
    fn answer(
        &self,
        command: Result<Command, SyntaxError>,
        session: &mut Session,
        stream: &UnixStream,
    ) -> (Reply, bool) {
        let Ok(command) = command else { return (Reply::SyntaxError, false) };
        let prepared = prepare(command, |target| (self.context.resolve)(target));
        let now = (self.context.now)();
        let reply = apply(prepared, session, &mut self.context.table.lock_at(now));
        let plane = &self.context.plane;
        match reply.effect() {
            None => (reply, false),
            Some(Effect::Quit) => (reply, true),
            Some(Effect::Kill) => {
                let reply = self.kill();
                let done = matches!(reply, Reply::ShutdownComplete);
                (reply, done)
            }
            Some(Effect::CloseConnections(key)) => {
                (plane.close_connections)(key);
                (reply, false)
            }
            Some(Effect::Kick(key)) => (Reply::Kicked(key.channel, (plane.close_connections)(key)), false),
            Some(Effect::Wait(key, patience)) => (self.wait_until_idle(key, patience, stream), false),
            Some(Effect::Sessions(channel)) => (Reply::Sessions((plane.sessions)(channel)), false),
            Some(Effect::CloseSession(id)) => {
                let reply = match (plane.close_session)(id) {
                    true => Reply::SessionClosed(id),
                    false => Reply::NoSuchSession(id.into()),
                };
                (reply, false)
            }
            Some(Effect::Save) => {
                let snapshot = self.context.table.lock_at(now).snapshot();
                (Reply::CommandLine((self.context.command_line)(&snapshot)), false)
            }
        }
    }
}

impl Shared {
    /// Looks at the channel now and then until it has no connections, the time is over, the client has gone, or the
    /// instance stops.
    fn wait_until_idle(&self, key: ChannelKey, patience: Option<Duration>, stream: &UnixStream) -> Reply {
        let begun = (self.context.now)();
        loop {
            let now = (self.context.now)();
            let active = self.context.table.lock_at(now).channel(key).map_or(0, |channel| channel.active);
            if active == 0 {
                return Reply::Idle(key.channel);
            }
            let is_over = patience.is_some_and(|patience| now.saturating_sub(begun) >= patience);
            if is_over || has_gone(stream, &LOOK_AGAIN) || self.sessions().stopped {
                return Reply::StillBusy(key.channel, active);
            }
        }
    }
}

/// Has the client closed its socket? Waits for that as long as `timeout`. One that has only said all it wanted to say is
/// still there.
fn has_gone(stream: &UnixStream, timeout: &Timespec) -> bool {
    let mut polled = [PollFd::new(stream, PollFlags::empty())];
    let _ = rustix::event::poll(&mut polled, Some(timeout));
    polled[0].revents().intersects(PollFlags::HUP | PollFlags::ERR)
}

fn accept_all(shared: &Arc<Shared>, listener: &UnixListener, woken: &UnixStream) {
    loop {
        if wait(&[listener.as_fd(), woken.as_fd()], None) == Some(1) {
            return;
        }
        match listener.accept() {
            Ok((stream, _)) => admit(shared, stream),
            // Out of descriptors, mostly; told by the data plane, which suffers from it too.
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
                if wait(&[woken.as_fd()], Some(&BACK_OFF)).is_some() {
                    return;
                }
            }
            Err(_) => {}
        }
    }
}

/// The last of these that is ready; `None` if the time is over.
fn wait(fds: &[std::os::fd::BorrowedFd<'_>], timeout: Option<&Timespec>) -> Option<usize> {
    let mut polled: Vec<PollFd<'_>> =
        fds.iter().map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN)).collect();
    // Interrupted: nothing is ready.
    let _ = rustix::event::poll(&mut polled, timeout);
    polled.iter().rposition(|fd| !fd.revents().is_empty())
}

fn admit(shared: &Arc<Shared>, stream: UnixStream) {
    // A peer of unknown name is nobody.
    let allowed =
        peer::uid(&stream).ok().filter(|&peer| peer::may_control(peer, shared.owner, shared.group_named));
    let Some(uid) = allowed else {
        return refuse(
            &stream,
            &format!("denied: only root and user {} may control this instance", shared.owner),
        );
    };
    // On BSD an accepted socket inherits the listener's mode.
    if stream.set_nonblocking(false).and_then(|()| stream.set_write_timeout(Some(WRITE_PATIENCE))).is_err() {
        return;
    }
    let stream = Arc::new(stream);
    let mut sessions = shared.sessions();
    if sessions.stopped {
        return;
    }
    if sessions.open.len() >= MAX_SESSIONS {
        drop(sessions);
        return refuse(&stream, &format!("busy: {MAX_SESSIONS} sessions are open, try again later"));
    }
    let number = sessions.next;
    sessions.next += 1;
    sessions.open.insert(number, Arc::clone(&stream));
    drop(sessions);
    let open = Open { shared: Arc::clone(shared), number };
    // Without a thread the closure is dropped, and with it the session.
    let _ = thread::Builder::new().name("session".into()).spawn(move || {
        // A client that went away is no event.
        let _ = converse(&open.shared, &stream, uid);
        // In this order the socket is closed by the time that the session counts as ended.
        drop(stream);
        drop(open);
    });
}

/// One line in place of the greeting. Never waits: a new socket has room for it.
fn refuse(mut stream: &UnixStream, why: &str) {
    let _ = stream.set_nonblocking(true);
    let _ = writeln!(stream, ". {why}");
}

/// A session in the table of sessions, leaving it when dropped.
struct Open {
    shared: Arc<Shared>,
    number: u64,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.shared.sessions().open.remove(&self.number);
        self.shared.ended.notify_all();
    }
}

fn converse(shared: &Shared, stream: &UnixStream, uid: u32) -> io::Result<()> {
    let mut input = Lines::new(BufReader::new(stream));
    let mut output = BufWriter::new(stream);
    let greeting = Greeting { version: render::VERSION.into(), pid: std::process::id(), protocol: PROTOCOL };
    writeln!(output, "{greeting}")?;
    output.flush()?;
    let mut session = Session::default();
    loop {
        let status = match input.read()? {
            Line::Whole(line) => answer_line(shared, line, uid, &mut session, stream, &mut output)?,
            Line::TooLong => {
                write_body(&mut output, &render::text(&Reply::SyntaxError))?;
                Status {
                    code: render::exit_code(&Reply::SyntaxError),
                    group: session.group.index(),
                    end: false,
                }
            }
            // A line that the client did not end may be half a command: `disable 1` of `disable 12`.
            Line::Rest(_) | Line::End => return Ok(()),
        };
        writeln!(output, "{status}")?;
        output.flush()?;
        if status.end || shared.sessions().stopped {
            return Ok(());
        }
    }
}

/// All commands of a line, also after one that failed, but not after the end of the session. Each answer is sent
/// before the next command, so that a line of thousands of `show` needs the memory of one.
fn answer_line(
    shared: &Shared,
    line: &[u8],
    uid: u32,
    session: &mut Session,
    stream: &UnixStream,
    output: &mut impl Write,
) -> io::Result<Status> {
    let mut code = 0;
    let mut end = false;
    let changes = command::is_change(line);
    if changes {
        shared.context.log.tell(&Event::Commanded { uid, command: printable(line) });
    }
    for command in command::parse_line(line) {
        if matches!(command, Ok(Command::Wait { .. })) {
            // What was answered before is to be read meanwhile.
            output.flush()?;
        }
        let (reply, last) = shared.answer(command, session, stream);
        if changes {
            (shared.context.plane.changed)();
        }
        write_body(output, &render::text(&reply))?;
        if code == 0 {
            code = render::exit_code(&reply);
        }
        end = last;
        if end {
            break;
        }
    }
    Ok(Status { code, group: session.group.index(), end })
}
