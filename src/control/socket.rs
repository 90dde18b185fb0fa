//! The control socket's server: one thread that lets operators in, one thread per session.
//!
//! Knows: who may connect, sessions, the order of a shutdown. Never: what a command means, how an answer looks.
//! Source: docs/control.md, "The protocol".

use std::io::{self, BufReader, BufWriter, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};

use crate::control::command::{self, Command, SyntaxError};
use crate::control::directory::{process_name, service_entry_name};
use crate::control::endpoint::{BACKLOG, Endpoint, Entries};
use crate::control::entry::Entry;
use crate::control::execute::{Effect, Reply, Session, apply, prepare};
use crate::control::peer;
use crate::control::render;
use crate::control::services::{ManagedService, Services, Unclear};
use crate::control::sessions::{Full, MAX_SESSIONS, Sessions};
use crate::control::wire::{Greeting, LineRead, LineReader, PROTOCOL, Status, printable, write_body};
use crate::observe::Event;
use crate::sched::ChannelKey;

/// A client that does not take its answer for so long is let go.
const WRITE_PATIENCE: Duration = Duration::from_secs(10);
/// Between two attempts to wait when the system does not let us.
const POLL_RETRY: Duration = Duration::from_millis(5);
/// Between two attempts to accept when there are no descriptors.
const BACK_OFF: Timespec = Timespec { tv_sec: 0, tv_nsec: 200_000_000 };
/// Between two looks of `wait`.
const LOOK_AGAIN: Timespec = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };

/// The running server. Dropped, it stops.
#[derive(Debug)]
#[must_use = "dropped, the control socket is gone"]
pub struct Control {
    shared: Arc<ControlState>,
}

impl Control {
    /// Removes the entry, at once. To be called before the TCP listener is closed: until then no successor can have put
    /// its own there. Sessions go on.
    pub fn remove(&self) {
        self.shared.remove_entries();
    }

    /// A way to change what services there are.
    pub fn register(&self) -> Register {
        Register { shared: Arc::clone(&self.shared) }
    }

    /// Removes the names, at once, but the one that a process goes by which takes no clients any more. To be called before the
    /// TCP listeners are closed. Sessions go on, and new ones may begin. Answers why there is no such name, if it cannot be had.
    pub fn drain(&self) -> Option<(PathBuf, io::Error)> {
        self.shared.drain()
    }

    /// Removes the entry and ends the sessions; an answer that is under way gets as long as `patience`, so that the operator
    /// who sent `kill` hears how it went. To be called last, before the process goes.
    pub fn stop(&self, patience: Duration) {
        self.shared.remove_entries();
        let sessions = self.shared.end_sessions();
        // Whether they ended in time makes no difference.
        drop(self.shared.ended.wait_timeout_while(sessions, patience, |now| !now.is_empty()));
    }
}

/// Says which services operators find. It may outlive the [`Control`] that it is of, and then comes to nothing.
#[derive(Debug, Clone)]
pub struct Register {
    shared: Arc<ControlState>,
}

impl Register {
    /// Makes these the services, in this order; those that were taken away and still have connections are listed behind them.
    /// Answers names that could not be had, and why.
    pub fn set(&self, services: Vec<Arc<ManagedService>>) -> Vec<(PathBuf, io::Error)> {
        // With the names in hand no service can be killed meanwhile.
        let mut entries = self.shared.entries();
        let names: Vec<String> =
            services.iter().filter(|one| !one.is_killed()).flat_map(|one| one.entries()).collect();
        // What was begun before the end was asked for may come after it.
        let drains = self.shared.drains.load(Ordering::SeqCst);
        services.iter().filter(|_| drains).for_each(|one| one.killed.store(true, Ordering::SeqCst));
        self.shared.services.set(services);
        if drains || self.shared.sessions().is_stopped() {
            return Vec::new();
        }
        entries.become_these(&names)
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
pub fn serve(endpoint: Endpoint, services: Services) -> io::Result<Control> {
    let Endpoint { listener, entries, owner, group_named, .. } = endpoint;
    listener.set_nonblocking(true)?;
    // Whoever listens last is the process that clients are told is at the other end: not a parent that is gone.
    rustix::net::listen(&listener, BACKLOG)?;
    let (wake, woken) = UnixStream::pair()?;
    let shared = Arc::new(ControlState {
        services,
        namespace: peer::own_namespace(),
        owner,
        group_named,
        entries: Mutex::new(entries),
        drains: AtomicBool::new(false),
        sessions: Mutex::default(),
        ended: Condvar::new(),
        wake,
    });
    let acceptor = Arc::clone(&shared);
    thread::Builder::new().name("control".into()).spawn(move || accept_all(&acceptor, &listener, &woken))?;
    Ok(Control { shared })
}

#[derive(Debug)]
struct ControlState {
    services: Services,
    /// Where it listens.
    namespace: Option<u64>,
    owner: u32,
    group_named: bool,
    entries: Mutex<Entries>,
    /// No service takes clients any more, whatever it is told. Changed with the entries in hand.
    drains: AtomicBool,
    sessions: Mutex<Sessions>,
    /// Told whenever a session ends.
    ended: Condvar,
    /// A byte, or the end, wakes the thread that accepts.
    wake: UnixStream,
}

impl ControlState {
    fn sessions(&self) -> MutexGuard<'_, Sessions> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remove_entries(&self) {
        self.entries().remove_all();
    }

    /// No session starts from now on, and those that are open end after the command that they are at.
    fn end_sessions(&self) -> MutexGuard<'_, Sessions> {
        let mut sessions = self.sessions();
        if sessions.stop() {
            let _ = self.wake.shutdown(Shutdown::Both);
        }
        sessions
    }

    fn drain(&self) -> Option<(PathBuf, io::Error)> {
        let mut entries = self.entries();
        self.drains.store(true, Ordering::SeqCst);
        self.services.all().iter().for_each(|one| one.killed.store(true, Ordering::SeqCst));
        entries.become_this(service_entry_name(&process_name(std::process::id())))
    }

    /// `kill`: entries, then listeners, then the answer. If it fails the entries are back, for the next try. After the last
    /// service the process goes by a name of its own until its last connection has ended. Until then the name of a service that
    /// was stopped stays taken: a command for `smtp` must not reach whoever listens on the port of that name.
    fn kill(&self, conversation: &Conversation, time: Option<Duration>) -> Reply {
        let service = &conversation.service;
        if conversation.is_draining {
            // Asked to stop once more, it does so at once. Of a process that drains, all of it.
            let all =
                if self.services.are_killed() { self.services.present() } else { vec![Arc::clone(service)] };
            all.iter().for_each(|one| (one.end)(time.unwrap_or_default()));
            return Reply::ShutdownComplete;
        }
        let ours = service.entries();
        let mut entries = self.entries();
        let is_last = self.services.all().iter().all(|one| Arc::ptr_eq(one, service) || one.is_killed());
        let hidden: Vec<String> =
            ours.iter().filter(|name| is_last || !Entries::stays(name)).cloned().collect();
        if !service.is_killed() {
            entries.named(&hidden).for_each(Entry::hide);
        }
        if !(service.kill)() {
            entries.named(&hidden).for_each(Entry::show);
            return Reply::ShutdownFailed;
        }
        // A service that was killed before may have a successor by now, whose names these are.
        match service.killed.swap(true, Ordering::SeqCst) {
            true => {}
            false if is_last && self.services.present().is_empty() => entries.remove_all(),
            // That it cannot be had is no reason to say that the end has failed.
            false if is_last => {
                _ = entries.become_this(service_entry_name(&process_name(std::process::id())))
            }
            false => entries.retire(&ours),
        }
        drop(entries);
        if let Some(time) = time {
            (service.end)(time);
        }
        Reply::ShutdownComplete
    }

    /// The answer, and whether the session ends with it.
    fn answer(
        &self,
        command: Result<Command, SyntaxError>,
        conversation: &mut Conversation,
        stream: &UnixStream,
    ) -> (Reply, bool) {
        let command = match command {
            Ok(command) => command,
            Err(error) => return (Reply::NoCommand(error), false),
        };
        let service = Arc::clone(&conversation.service);
        let prepared = prepare(command, |target| (service.resolve)(target));
        let now = (service.now)();
        let reply = apply(prepared, &mut conversation.session, &mut service.table.lock_at(now));
        let plane = &service.plane;
        match reply.effect() {
            None => (reply, false),
            Some(Effect::Quit) => (reply, true),
            Some(Effect::Show) => (Reply::Table(service.survey()), false),
            Some(Effect::Status) => {
                let table = service.survey();
                let differences = service.differences.as_ref().map_or_else(Vec::new, |of| of(&table));
                (Reply::Status(table, differences), false)
            }
            Some(Effect::Kill(time)) => {
                let reply = self.kill(conversation, time);
                let done = matches!(reply, Reply::ShutdownComplete);
                (reply, done)
            }
            Some(Effect::CloseConnections(key)) => {
                (plane.close_connections)(key);
                (reply, false)
            }
            Some(Effect::Kick(key)) => (Reply::Kicked(key.channel, (plane.close_connections)(key)), false),
            Some(Effect::Wait(key, patience)) => {
                (self.wait_until_idle(&service, key, patience, stream), false)
            }
            Some(Effect::Sessions(channel)) => (Reply::Sessions((plane.sessions)(channel)), false),
            Some(Effect::CloseSession(id)) => {
                let reply = match (plane.close_session)(id) {
                    true => Reply::SessionClosed(id),
                    false => Reply::NoSuchSession(id.into()),
                };
                (reply, false)
            }
            Some(Effect::Save) => (Reply::CommandLine((service.command_line)(&service.survey())), false),
            Some(Effect::Services) => {
                let all = self.services.present();
                (Reply::Services(all.iter().map(|one| one.snapshot()).collect()), false)
            }
            Some(Effect::Reload(clean)) => match (self.services.process.reload)(clean) {
                Ok(changes) => (Reply::Reloaded(changes), false),
                Err(why) => (Reply::NotReloaded(why), false),
            },
            Some(Effect::Use(word)) => (self.change_service(&word, conversation), false),
        }
    }
}

impl ControlState {
    /// What the session's service is called, where there are several.
    fn label_of(&self, conversation: &Conversation) -> Option<String> {
        self.services.are_several().then(|| conversation.service.label())
    }

    /// Does the session's service take no clients any more, where there are several?
    fn is_draining(&self, conversation: &Conversation) -> bool {
        conversation.service.is_killed() && self.services.are_several()
    }

    /// `use`: the group is the first one again.
    fn change_service(&self, word: &str, conversation: &mut Conversation) -> Reply {
        match self.services.find(word) {
            Ok(service) => {
                let label = service.label();
                *conversation = Conversation::at(service);
                Reply::Using(label)
            }
            Err(Unclear::Unknown) => Reply::UnknownService(word.to_owned()),
            Err(Unclear::Several(labels)) => Reply::SeveralServices(labels),
        }
    }

    /// Looks at the channel now and then until it has no connections, the time is over, the client has gone, or the
    /// instance stops.
    fn wait_until_idle(
        &self,
        service: &ManagedService,
        key: ChannelKey,
        patience: Option<Duration>,
        stream: &UnixStream,
    ) -> Reply {
        let begun = (service.now)();
        let mut is_last = false;
        loop {
            let now = (service.now)();
            let is_over = patience.is_some_and(|patience| now.saturating_sub(begun) >= patience);
            // Whether it stops is asked before the last look: it may do so because the last connection has just ended.
            is_last |= is_over || self.sessions().is_stopped();
            let active = service.table.lock_at(now).channel(key).map_or(0, |channel| channel.active);
            if active == 0 {
                return Reply::Idle(key.channel);
            }
            if is_last {
                return Reply::StillBusy(key.channel, active);
            }
            is_last = has_gone(stream, &LOOK_AGAIN);
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

fn accept_all(shared: &Arc<ControlState>, listener: &UnixListener, woken: &UnixStream) {
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
    // Interrupted: nothing is ready. Without memory it may be the same for long, and is no reason to burn a core.
    if rustix::event::poll(&mut polled, timeout).is_err() {
        thread::sleep(POLL_RETRY);
    }
    polled.iter().rposition(|fd| !fd.revents().is_empty())
}

fn admit(shared: &Arc<ControlState>, stream: UnixStream) {
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
    let entered = shared.sessions().enter(&stream, uid);
    let number = match entered {
        Ok(number) => number,
        Err(Full::Stopped) => return,
        Err(Full::Busy) => {
            return refuse(&stream, &format!("busy: {MAX_SESSIONS} sessions are at work, try again later"));
        }
    };
    let open = SessionGuard { shared: Arc::clone(shared), number };
    let served = Arc::clone(&stream);
    let spawned = thread::Builder::new().name("session".into()).spawn(move || {
        // A client that went away is no event.
        let _ = converse(&open, &served, uid);
        // In this order the socket is closed by the time that the session counts as ended.
        drop(served);
        drop(open);
    });
    // The closure is dropped then, and with it the session.
    if let Err(error) = spawned {
        refuse(&stream, &format!("busy: no thread for one more session: {error}"));
    }
}

/// One line in place of the greeting. Never waits: a new socket has room for it.
fn refuse(mut stream: &UnixStream, why: &str) {
    let _ = stream.set_nonblocking(true);
    let _ = writeln!(stream, ". {why}");
}

/// A session in the table of sessions, leaving it when dropped.
struct SessionGuard {
    shared: Arc<ControlState>,
    number: u64,
}

impl Drop for SessionGuard {
    fn drop(&mut self) {
        self.shared.sessions().leave(self.number);
        self.shared.ended.notify_all();
    }
}

/// Where an operator's session is.
struct Conversation {
    session: Session,
    service: Arc<ManagedService>,
    /// The service took no clients any more when the session came to it.
    is_draining: bool,
}

impl Conversation {
    fn at(service: Arc<ManagedService>) -> Self {
        Self { session: Session::default(), is_draining: service.is_killed(), service }
    }
}

fn converse(open: &SessionGuard, stream: &UnixStream, uid: u32) -> io::Result<()> {
    let SessionGuard { shared, number } = open;
    let mut input = LineReader::new(BufReader::new(stream));
    let mut output = BufWriter::new(stream);
    let Some(service) = shared.services.first() else { return Ok(()) };
    let greeting = Greeting {
        version: render::VERSION.into(),
        pid: std::process::id(),
        protocol: PROTOCOL,
        services: shared.services.present().len(),
        namespace: shared.namespace,
    };
    writeln!(output, "{greeting}")?;
    output.flush()?;
    let mut conversation = Conversation::at(service);
    loop {
        let line = input.read()?;
        if !shared.sessions().begin_work(*number) {
            return Ok(());
        }
        let status = match line {
            LineRead::Whole(line) => answer_line(shared, line, uid, &mut conversation, stream, &mut output)?,
            LineRead::TooLong => {
                let reply = Reply::NoCommand(SyntaxError::Plain);
                write_body(&mut output, &render::text(&reply))?;
                Status {
                    code: render::exit_code(&reply),
                    group: conversation.session.group.index(),
                    end: false,
                    service: shared.label_of(&conversation),
                    is_draining: shared.is_draining(&conversation),
                }
            }
            // A line that the client did not end may be half a command: `disable 1` of `disable 12`.
            LineRead::Rest(_) | LineRead::End => return Ok(()),
        };
        writeln!(output, "{status}")?;
        output.flush()?;
        if !shared.sessions().end_work(*number) || status.end {
            return Ok(());
        }
    }
}

/// All commands of a line, also after one that failed, but not after the end of the session, nor after a `use` that failed:
/// what follows is meant for another service. Each answer is sent
/// before the next command, so that a line of thousands of `show` needs the memory of one.
fn answer_line(
    shared: &ControlState,
    line: &[u8],
    uid: u32,
    conversation: &mut Conversation,
    stream: &UnixStream,
    output: &mut impl Write,
) -> io::Result<Status> {
    let (mut code, mut end) = (0, false);
    let mut told: Option<Arc<ManagedService>> = None;
    let mut texts = command::split(line).peekable();
    while let Some(text) = texts.next() {
        let service = Arc::clone(&conversation.service);
        let is_change = command::is_change(text);
        // Once, with the whole line, for each service that it changes.
        if is_change && told.as_ref().is_none_or(|told| !Arc::ptr_eq(told, &service)) {
            service.log.tell(&Event::Commanded { uid, command: printable(line) });
            told = Some(Arc::clone(&service));
        }
        let command = command::parse(text);
        if matches!(command, Ok(Command::Wait { .. })) {
            // What was answered before is to be read meanwhile.
            output.flush()?;
        }
        let (reply, last) = shared.answer(command, conversation, stream);
        if is_change {
            (service.plane.changed)();
        }
        write_body(output, &render::text(&reply))?;
        if code == 0 {
            code = render::exit_code(&reply);
        }
        end = last;
        if end {
            break;
        }
        if matches!(reply, Reply::UnknownService(_) | Reply::SeveralServices(_)) && texts.peek().is_some() {
            write_body(output, "the rest of the line was not carried out\n")?;
            break;
        }
    }
    Ok(Status {
        code,
        group: conversation.session.group.index(),
        end,
        service: shared.label_of(conversation),
        is_draining: shared.is_draining(conversation),
    })
}
