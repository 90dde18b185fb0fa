//! The server of the control socket: one thread that accepts, and one thread per session.
//!
//! Knows: who may connect, sessions, the order of a shutdown. Never: what a command means, how an answer
//! looks.
//! Source: docs/control.md, "The protocol".

use std::io::{self, BufReader, BufWriter, Write};
use std::net::{IpAddr, Shutdown};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};

use crate::control::argument::Number;
use crate::control::command::{self, Command, Form, SyntaxError, WaitGoal};
use crate::control::denying::{denials, denied, deny, undeny};
use crate::control::directory::{process_name, service_entry_name};
use crate::control::doctor;
use crate::control::endpoint::{BACKLOG, Endpoint, EndpointError, Entries};
use crate::control::entry::Entry;
use crate::control::execute::{Effect, Reply, Session, apply, prepare};
use crate::control::json::{self, Question};
use crate::control::peer::{self, has_gone};
use crate::control::ready::ReadyState;
use crate::control::render;
use crate::control::services::{ManagedService, Services, Unclear};
use crate::control::sessions::{Full, MAX_SESSIONS, Sessions};
use crate::control::takeover::TAKE_OVER;
use crate::control::tapping::{MAX_TAPS, TapBounds, TapForm, TapPlace, TapStop};
use crate::control::viewer::{Viewer, show};
use crate::control::wire::{Greeting, LineRead, LineReader, PROTOCOL, Status, printable, write_body};
use crate::handover::message::OfferedControl;
use crate::observe::{Commander, Event};
use crate::sched::{ChannelKey, GroupId};

/// A client that does not read its answer for this long is disconnected.
const WRITE_PATIENCE: Duration = Duration::from_secs(10);
/// Up to this many failed commands of a line say why.
const MOST_CAUSES: usize = 3;
/// The pause before waiting again if poll(2) fails.
const POLL_RETRY: Duration = Duration::from_millis(5);
/// The pause before accepting again if there are no descriptors.
const BACK_OFF: Timespec = Timespec { tv_sec: 0, tv_nsec: 200_000_000 };
/// How often `wait` looks at the channel.
const LOOK_AGAIN: Timespec = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };

/// The running server. Dropping it stops the server.
#[derive(Debug)]
#[must_use = "dropped, the control socket is gone"]
pub struct Control {
    shared: Arc<ControlState>,
}

impl Control {
    /// Removes the entries at once. Call this before closing the TCP listeners: until then no successor can
    /// have put its own there. Sessions go on.
    pub fn remove(&self) {
        self.shared.remove_entries();
    }

    /// Carries out a command that came by HTTP as if it had come by the socket. Returns the text of the
    /// answer and the exit code. The command must not be one that waits.
    ///
    /// # Errors
    /// There is no descriptor for it.
    pub(crate) fn carry_out(
        &self,
        service: Arc<ManagedService>,
        group: GroupId,
        command: &[u8],
        from: IpAddr,
    ) -> io::Result<(Vec<u8>, u8)> {
        // A session has a stream to its client. Here there is no client, so the other end is not used.
        let (stream, _end) = UnixStream::pair()?;
        let mut conversation = Conversation::at(service, false, self.shared.owner);
        (conversation.session.group, conversation.by) = (group, Commander::Http(from));
        let mut text = Vec::new();
        let status = answer_line(&self.shared, command, &mut conversation, &stream, &mut text)?;
        // In a session, a dot in front of a line of the answer is doubled to tell it from the status.
        let lines = text.split_inclusive(|&byte| byte == b'\n');
        Ok((lines.flat_map(|line| line.strip_prefix(b".").unwrap_or(line)).copied().collect(), status.code))
    }

    /// A handle to change which services there are.
    pub fn register(&self) -> Register {
        Register { services: Arc::clone(&self.shared.services), shared: Some(Arc::clone(&self.shared)) }
    }

    /// Removes the names at once, and gives the process its own name, since it takes no clients any more.
    /// Call this before closing the TCP listeners. Sessions go on, and new ones may begin. Returns why the
    /// process's own name could not be had, if so.
    pub fn drain(&self) -> Option<(PathBuf, io::Error)> {
        self.shared.drain()
    }

    /// What another process needs to take the socket over, and its descriptor.
    ///
    /// # Errors
    /// The descriptor cannot be duplicated.
    pub fn offer(&self) -> io::Result<(OfferedControl, OwnedFd)> {
        let listener = self.shared.listener().as_fd().try_clone_to_owned()?;
        Ok((self.shared.entries().offer(self.shared.group_named), listener))
    }

    /// From now on, opens no session and changes nothing, since another process is about to take over.
    /// Returns when changes in progress are done.
    pub fn hold(&self) {
        self.shared.set_hold(Hold::Held);
    }

    /// Undoes [`Control::hold`] because the other process did not take over. Returns names that could not be
    /// restored, and why.
    pub fn release(&self) -> Vec<(PathBuf, io::Error)> {
        let mut missed = self.shared.entries().restore();
        // Clients see the credentials of the process that called listen(2) last, so we call it again.
        let _ = rustix::net::listen(self.shared.listener().as_ref(), BACKLOG);
        if self.shared.entries().are_all_lost() {
            // The other process has removed all names, and a socket without a name cannot get one again.
            let begun = self.shared.entries().begin_again_all();
            match begun.and_then(|(listener, more)| self.shared.listen_by(listener).map(|()| more)) {
                Ok(more) => missed.extend(more),
                Err(error) => missed.extend(self.shared.entries().path().map(|path| (path, error))),
            }
        }
        self.shared.set_hold(Hold::Ours);
        missed
    }

    /// Restores names that somebody has deleted. If none is left, `bind` makes a new socket. `None`: all
    /// names are there. Returns those that could not be restored, and why.
    ///
    /// # Errors
    /// The socket cannot be made, or there is no thread to serve it.
    pub fn come_back(
        &self,
        bind: impl FnOnce() -> Result<Endpoint, EndpointError>,
    ) -> Option<Result<Vec<(PathBuf, io::Error)>, io::Error>> {
        let mut entries = self.shared.entries();
        if self.shared.drains.load(Ordering::SeqCst) || entries.are_all_there() {
            return None;
        }
        if !entries.are_all_lost() {
            return Some(Ok(entries.restore()));
        }
        let Endpoint { listener, entries: new, missed, .. } = match bind() {
            Ok(endpoint) => endpoint,
            Err(error) => return Some(Err(io::Error::other(error))),
        };
        // They must not be removed: they may be somebody else's by now.
        std::mem::replace(&mut *entries, new).forget_all();
        Some(self.shared.listen_by(listener).map(|()| missed))
    }

    /// Leaves the socket and its names to another process: they stay when this one ends. Sessions go on.
    pub fn yield_names(&self) {
        let mut entries = self.shared.entries();
        self.shared.drains.store(true, Ordering::SeqCst);
        self.shared.services.retire();
        entries.forget_all();
        self.shared.set_hold(Hold::Theirs);
    }

    /// After [`Control::yield_names`], accepts sessions on a new socket with the name of this process.
    ///
    /// # Errors
    /// The socket cannot be made.
    pub fn go_apart(&self) -> io::Result<()> {
        let name = service_entry_name(&process_name(std::process::id()));
        let listener = self.shared.entries().begin_apart(name)?;
        listener.set_nonblocking(true)?;
        let acceptor = Arc::clone(&self.shared);
        let accept = move || accept_all(&acceptor, &listener, true);
        thread::Builder::new().name("control".into()).spawn(accept)?;
        Ok(())
    }

    /// Removes the entries and ends the sessions. An answer that is being sent gets as long as `patience`, so
    /// that the operator who sent `kill` sees the result. Call this last, before the process ends.
    pub fn stop(&self, patience: Duration) {
        self.shared.remove_entries();
        let sessions = self.shared.end_sessions();
        // Whether they ended in time makes no difference.
        drop(self.shared.ended.wait_timeout_while(sessions, patience, |now| !now.is_empty()));
    }
}

/// A handle to set the services that operators find. It may outlive its [`Control`]; then it does nothing to
/// the names.
#[derive(Debug, Clone)]
pub struct Register {
    services: Arc<Services>,
    /// `None`: there is no control socket.
    shared: Option<Arc<ControlState>>,
}

impl Register {
    /// A handle for a process without a control socket, and so without names.
    pub fn without_names(services: Arc<Services>) -> Self {
        Self { services, shared: None }
    }

    /// Sets the services in this order. Removed ones that still have connections are listed after them.
    /// Returns names that could not be had, and why.
    pub fn set(&self, services: Vec<Arc<ManagedService>>) -> Vec<(PathBuf, io::Error)> {
        let Some(shared) = &self.shared else {
            self.services.set(services);
            return Vec::new();
        };
        // The lock on the entries keeps services from being killed meanwhile.
        let mut entries = shared.entries();
        let names: Vec<String> =
            services.iter().filter(|one| !one.is_killed()).flat_map(|one| one.entries()).collect();
        // A reload that began before the process was told to drain may end after that.
        let drains = shared.drains.load(Ordering::SeqCst);
        services.iter().filter(|_| drains).for_each(|one| one.killed.store(true, Ordering::SeqCst));
        self.services.set(services);
        if drains || shared.sessions().is_stopped() {
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

/// Starts the server. Call this in the process that serves, after any fork.
///
/// # Errors
/// There are no descriptors or no thread for it. The endpoint is removed then.
pub fn serve(endpoint: Endpoint, services: Arc<Services>) -> io::Result<Control> {
    let Endpoint { listener, entries, owner, group_named, ungrouped, .. } = endpoint;
    listener.set_nonblocking(true)?;
    // Clients see the credentials of the process that called listen(2) last. So it is called here: a parent
    // that forked may have ended.
    rustix::net::listen(&listener, BACKLOG)?;
    let (wake, woken) = UnixStream::pair()?;
    let shared = Arc::new(ControlState {
        services,
        namespace: peer::own_namespace(),
        owner,
        group_named,
        ungrouped: ungrouped.map(|cause| cause.to_string()),
        entries: Mutex::new(entries),
        drains: AtomicBool::new(false),
        sessions: Mutex::default(),
        taps: AtomicUsize::new(0),
        ended: Condvar::new(),
        wake,
        listener: RwLock::new(Arc::new(listener)),
        hold: RwLock::new(Hold::Ours),
        woken,
    });
    shared.accept_by(Arc::clone(&shared.listener()))?;
    Ok(Control { shared })
}

#[derive(Debug)]
struct ControlState {
    services: Arc<Services>,
    /// The network namespace in which the instance listens.
    namespace: Option<u64>,
    owner: u32,
    group_named: bool,
    /// Why the members of the control group may not use it.
    ungrouped: Option<String>,
    entries: Mutex<Entries>,
    /// Whether the process drains: no service takes clients any more, whatever operators do. Changed under
    /// the lock of `entries`.
    drains: AtomicBool,
    sessions: Mutex<Sessions>,
    /// Number of open taps.
    taps: AtomicUsize,
    /// Notified whenever a session ends.
    ended: Condvar,
    /// Writing a byte, or closing it, wakes the threads that accept.
    wake: UnixStream,
    listener: RwLock<Arc<UnixListener>>,
    /// A thread that carries out a change holds this lock for reading meanwhile.
    hold: RwLock<Hold>,
    /// Readable when the threads that accept must end.
    woken: UnixStream,
}

/// Which process has the control socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hold {
    /// This process.
    Ours,
    /// Another process is taking over: no session begins, and nothing is changed.
    Held,
    /// Another process.
    Theirs,
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

    /// No session begins from now on, and open ones end after their current command.
    fn end_sessions(&self) -> MutexGuard<'_, Sessions> {
        let mut sessions = self.sessions();
        if sessions.stop() {
            let _ = self.wake.shutdown(Shutdown::Both);
        }
        sessions
    }

    fn listener(&self) -> Arc<UnixListener> {
        Arc::clone(&self.listener.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Accepts sessions on this socket from now on.
    fn listen_by(self: &Arc<Self>, listener: UnixListener) -> io::Result<()> {
        listener.set_nonblocking(true)?;
        let listener = Arc::new(listener);
        self.accept_by(Arc::clone(&listener))?;
        *self.listener.write().unwrap_or_else(PoisonError::into_inner) = listener;
        Ok(())
    }

    fn accept_by(self: &Arc<Self>, listener: Arc<UnixListener>) -> io::Result<()> {
        let acceptor = Arc::clone(self);
        let accept = move || accept_all(&acceptor, &listener, false);
        thread::Builder::new().name("control".into()).spawn(accept).map(drop)
    }

    fn hold(&self) -> Hold {
        *self.hold.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_hold(&self, hold: Hold) {
        *self.hold.write().unwrap_or_else(PoisonError::into_inner) = hold;
    }

    fn drain(&self) -> Option<(PathBuf, io::Error)> {
        let mut entries = self.entries();
        self.drains.store(true, Ordering::SeqCst);
        self.services.retire();
        entries.become_this(service_entry_name(&process_name(std::process::id())))
    }

    /// Carries out `kill`: removes the entries, then closes the listeners, then answers. If that fails, the
    /// entries come back for the next try. After the last service, the process has a name of its own until
    /// its last connection ends. Until then the names of stopped services stay taken: a command for `smtp`
    /// must not reach another program that listens on the port of that name.
    fn kill(&self, conversation: &Conversation, time: Option<Duration>) -> Reply {
        let service = &conversation.service;
        if conversation.is_draining {
            // A second `kill` ends the connections at once. In a process that drains, it ends those of all
            // services.
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
        if is_last {
            // A process that is about to take over has the ports, too.
            (self.services.process.call_off)();
        }
        if !(service.kill)() {
            entries.named(&hidden).for_each(Entry::show);
            return Reply::ShutdownFailed;
        }
        // If the service was killed before, it may have a successor by now, and these are the names of that
        // one.
        match service.killed.swap(true, Ordering::SeqCst) {
            true => {}
            false if is_last && self.services.present().is_empty() => entries.remove_all(),
            // If this name cannot be had, the stop has not failed.
            false if is_last => {
                _ = entries.become_this(service_entry_name(&process_name(std::process::id())))
            }
            false => entries.retire(&ours),
        }
        drop(entries);
        if is_last {
            (self.services.process.stopped)();
        }
        if let Some(time) = time {
            (service.end)(time);
        }
        Reply::ShutdownComplete
    }

    /// Carries a command out. Returns the answer, and whether the session ends with it.
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
            Some(Effect::Show(Form::Text)) => (Reply::Table(service.survey()), false),
            Some(Effect::Show(Form::Json)) => (self.report(&service, Question::Show), false),
            Some(Effect::Status(Form::Text)) => {
                let table = service.survey();
                let differences = (service.differences)(&table);
                let sections = (service.spec)().sections;
                (Reply::Status(table, sections, differences, (self.services.process.carried)()), false)
            }
            Some(Effect::Status(Form::Json)) => (self.report(&service, Question::Status), false),
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
            Some(Effect::Wait(key, until, patience)) => {
                let reply = self.wait(conversation, key, (until, patience), stream);
                let last = matches!(reply, Reply::HandedOver);
                (reply, last)
            }
            Some(Effect::Sessions(channel, Form::Text)) => {
                (Reply::Sessions((plane.sessions)(channel)), false)
            }
            Some(Effect::Sessions(channel, Form::Json)) => {
                (self.report(&service, Question::Sessions(channel)), false)
            }
            Some(Effect::CloseSession(id)) => {
                let reply = match (plane.close_session)(id) {
                    true => Reply::SessionClosed(id),
                    false => Reply::NoSuchSession(id.into()),
                };
                (reply, false)
            }
            Some(Effect::Save) => (Reply::CommandLine((service.command_line)(&service.survey())), false),
            Some(Effect::Services(Form::Json)) => (self.report(&service, Question::Services), false),
            Some(Effect::Services(Form::Text)) => {
                let all = self.services.present();
                (Reply::Services(all.iter().map(|one| one.snapshot()).collect()), false)
            }
            Some(Effect::Reopen) => (Reply::Reopened((self.services.process.reopen)()), false),
            Some(Effect::Reload(clean)) => match (self.services.process.reload)(clean) {
                Ok(changes) => (Reply::Reloaded(changes), false),
                Err(Some(why)) => (Reply::NotReloaded(why), false),
                Err(None) => (Reply::HandingOver, false),
            },
            Some(Effect::Upgrade(Some(_))) if !peer::may_choose_program(conversation.uid, self.owner) => {
                (Reply::NotYourProgram(self.owner), false)
            }
            Some(Effect::Upgrade(path)) => match (self.services.process.upgrade)(path) {
                Ok(what) => (Reply::Upgraded(what), false),
                Err(why) => (Reply::NotUpgraded(why), false),
            },
            Some(Effect::Debug(is_debug)) => {
                if is_debug.is_some() {
                    service.log.set_debug(is_debug);
                }
                (Reply::Debug(service.log.is_debug()), false)
            }
            Some(Effect::Resolve(channel)) => match (plane.look_up)(channel) {
                // It began before the other process did.
                None if self.is_handing_over() => (Reply::HandingOver, false),
                found => (Reply::LookedUp(found), false),
            },
            Some(Effect::Ended(most, Form::Json)) => (self.report(&service, Question::Ended(most)), false),
            Some(Effect::Ended(most, Form::Text)) => (Reply::Ended((plane.ended)(most)), false),
            Some(Effect::Events(most, Form::Json)) => (self.report(&service, Question::Events(most)), false),
            Some(Effect::Events(most, Form::Text)) => (Reply::Events(service.log.events(most)), false),
            Some(Effect::Doctor(word, form)) => (self.doctor(word.as_deref(), &service, form), false),
            Some(Effect::Ready(all)) => {
                let asked = match all {
                    true => ReadyState::of_all(&self.services),
                    false => vec![ReadyState::of(&service)],
                };
                (Reply::ReadyState(asked), false)
            }
            Some(Effect::Deny { net, time, kick, all }) => {
                let services = self.asked_of(&service, all);
                (deny(&services, net, time, kick), false)
            }
            Some(Effect::Undeny(net, all)) => (undeny(&self.asked_of(&service, all), net), false),
            Some(Effect::Denied(all, Form::Text)) => (denied(&self.asked_of(&service, all), all), false),
            Some(Effect::Denied(all, Form::Json)) => {
                let list = denials(&self.asked_of(&service, all));
                (self.report(&service, Question::Denied(list)), false)
            }
            Some(Effect::Tap(id, bounds, form)) => {
                let last = |reply: &Reply| matches!(reply, Reply::TapOver(_, TapStop::Unread));
                let reply = self.tap(conversation, id, bounds, &form, stream);
                let last = last(&reply);
                (reply, last)
            }
            Some(Effect::Use(word)) => (self.change_service(&word, conversation), false),
        }
    }
}

impl ControlState {
    /// The label of the session's service; `None` if there is only one service.
    fn label_of(&self, conversation: &Conversation) -> Option<String> {
        self.services.are_several().then(|| conversation.service.label())
    }

    /// Has the session's service stopped taking clients, while there are several services?
    fn is_draining(&self, conversation: &Conversation) -> bool {
        conversation.service.is_killed() && self.services.are_several()
    }

    /// The session's service, or all services.
    fn asked_of(&self, service: &Arc<ManagedService>, all: bool) -> Vec<Arc<ManagedService>> {
        if all { self.services.present() } else { vec![Arc::clone(service)] }
    }

    /// The answer in JSON.
    fn report(&self, service: &ManagedService, asked: Question) -> Reply {
        Reply::Json(Box::new(json::take(&self.services, service, asked)))
    }

    /// Carries out `doctor`.
    fn doctor(&self, word: Option<&str>, service: &ManagedService, form: Form) -> Reply {
        let chosen = match word {
            None => self.services.present(),
            Some(word) => match self.services.find(word) {
                Ok(one) => vec![one],
                Err(unclear) => return in_form(unclear_reply(unclear, word), form),
            },
        };
        let entries = self.entries().look();
        let diagnosis =
            doctor::examine(&self.services, &chosen, (entries, self.group_named, self.ungrouped.as_deref()));
        match form {
            Form::Text => Reply::Doctor(diagnosis),
            Form::Json => self.report(service, Question::Doctor(diagnosis)),
        }
    }

    /// Carries out `use`. The current group becomes the first one.
    fn change_service(&self, word: &str, conversation: &mut Conversation) -> Reply {
        match self.services.find(word) {
            Ok(service) => {
                let label = service.label();
                *conversation = Conversation::at(service, conversation.is_late, conversation.uid);
                Reply::Using(label)
            }
            Err(unclear) => unclear_reply(unclear, word),
        }
    }

    /// Carries out `tap`: shows what a connection carries until it ends, the limit is reached, or the client
    /// has gone.
    fn tap(
        &self,
        conversation: &Conversation,
        id: u64,
        bounds: TapBounds,
        form: &TapForm,
        stream: &UnixStream,
    ) -> Reply {
        let Conversation { service, uid, .. } = conversation;
        if !peer::may_see_bytes(*uid, self.owner) {
            return Reply::NotYourTap(self.owner);
        }
        let Some(_place) = TapPlace::take(&self.taps) else { return Reply::TooManyTaps(MAX_TAPS) };
        let Some((start, tap)) = (service.plane.tap)(id) else { return Reply::NoSuchSession(id.into()) };
        service.log.tell(&Event::Commanded { by: Commander::Uid(*uid), command: format!("tap {id}") });
        let is_stopped = || self.sessions().is_stopped();
        Reply::TapOver(
            id,
            show(&tap, (id, &start), bounds, form, &Viewer { stream, is_stopped: &is_stopped }),
        )
    }

    /// Is another process taking over?
    fn is_handing_over(&self) -> bool {
        *self.hold.read().unwrap_or_else(PoisonError::into_inner) != Hold::Ours
    }

    /// Carries out `wait`: looks at the channel from time to time until it has no connections or works, the
    /// time is over, the client has gone, or the instance stops.
    fn wait(
        &self,
        conversation: &Conversation,
        key: ChannelKey,
        (until, patience): (WaitGoal, Option<Duration>),
        stream: &UnixStream,
    ) -> Reply {
        let service = &conversation.service;
        let begun = (service.now)();
        let mut is_last = false;
        loop {
            let now = (service.now)();
            let is_over = patience.is_some_and(|patience| now.saturating_sub(begun) >= patience);
            // This is checked before the last look: the instance may stop because the last connection has
            // just ended.
            is_last |= is_over || self.sessions().is_stopped();
            let hold = self.hold.read().unwrap_or_else(PoisonError::into_inner);
            // Nobody checks the channels of a service that has been stopped.
            is_last |= until == WaitGoal::Up && service.is_killed();
            let (reply, is_done) = match until {
                WaitGoal::Idle => is_idle(service, key, now),
                WaitGoal::Up => is_up(service, key, (begun, now)),
            };
            match *hold {
                Hold::Theirs if !conversation.is_late => return Reply::HandedOver,
                // Connections that are not here any more may live on in the other process.
                Hold::Held => {}
                Hold::Ours | Hold::Theirs if is_done => return reply,
                Hold::Ours | Hold::Theirs => {}
            }
            drop(hold);
            if is_last {
                return reply;
            }
            is_last = has_gone(stream, &LOOK_AGAIN);
        }
    }
}

/// Has the channel no connections? Returns the answer for now, and whether that was what is waited for.
fn is_idle(service: &ManagedService, key: ChannelKey, now: Duration) -> (Reply, bool) {
    let active = service.table.lock_at(now).channel(key).map_or(0, |channel| channel.active);
    match active {
        0 => (Reply::Idle(key.channel), true),
        _ => (Reply::StillBusy(key.channel, active), false),
    }
}

/// Has the channel worked since `begun`? Returns the answer for now, and whether that was what is waited for.
fn is_up(service: &ManagedService, key: ChannelKey, (begun, now): (Duration, Duration)) -> (Reply, bool) {
    let (is_proven, why) = {
        let mut table = service.table.lock_at(now);
        (table.ask(key, begun), table.channel(key).and_then(|channel| channel.health.why))
    };
    let ends = service.is_killed().then(|| "the service ends, so its channels are not tried".to_owned());
    let why = ends.or(why);
    match is_proven {
        None => (Reply::NoSuchChannel(Number::from(key.channel.index() as u64)), true),
        Some(true) => (Reply::Works(key.channel), true),
        Some(false) => {
            (service.plane.asked)();
            (Reply::WorksNotYet(key.channel, why), false)
        }
    }
}

/// The error for a word that does not name a service.
fn unclear_reply(unclear: Unclear, word: &str) -> Reply {
    match unclear {
        Unclear::Unknown => Reply::UnknownService(word.to_owned()),
        Unclear::Several(labels) => Reply::SeveralServices(labels),
    }
}

fn in_form(error: Reply, form: Form) -> Reply {
    match form {
        Form::Text => error,
        Form::Json => Reply::JsonError(Box::new(error)),
    }
}

/// Accepts sessions until the end. `is_late`: another process has taken over, and this socket is for what is
/// left here.
fn accept_all(shared: &Arc<ControlState>, listener: &UnixListener, is_late: bool) {
    let woken = &shared.woken;
    loop {
        if wait(&[listener.as_fd(), woken.as_fd()], None) == Some(1) {
            return;
        }
        match shared.hold() {
            _ if is_late => {}
            Hold::Ours => {}
            Hold::Theirs => return,
            // New clients wait in the queue: they are for the other process, or for us if it does not take
            // over.
            Hold::Held => match wait(&[woken.as_fd()], Some(&LOOK_AGAIN)) {
                Some(_) => return,
                None => continue,
            },
        }
        match listener.accept() {
            Ok((stream, _)) => admit(shared, stream, is_late),
            // Mostly there are no descriptors left. The data plane logs that, since it is affected too.
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
                if wait(&[woken.as_fd()], Some(&BACK_OFF)).is_some() {
                    return;
                }
            }
            Err(_) => {}
        }
    }
}

/// Waits until one of these can be read, and returns the index of the last one that can. `None`: the time is
/// over, or waiting failed.
fn wait(fds: &[std::os::fd::BorrowedFd<'_>], timeout: Option<&Timespec>) -> Option<usize> {
    let mut polled: Vec<PollFd<'_>> =
        fds.iter().map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN)).collect();
    // After an error nothing is ready. If memory is short, that may last, so pause instead of burning a core.
    if rustix::event::poll(&mut polled, timeout).is_err() {
        thread::sleep(POLL_RETRY);
    }
    polled.iter().rposition(|fd| !fd.revents().is_empty())
}

fn admit(shared: &Arc<ControlState>, stream: UnixStream, is_late: bool) {
    // A peer whose user is not known is refused.
    let allowed =
        peer::uid(&stream).ok().filter(|&peer| peer::may_control(peer, shared.owner, shared.group_named));
    let Some(uid) = allowed else {
        return refuse(
            &stream,
            &format!("denied: only root and user {} may control this instance", shared.owner),
        );
    };
    // On BSD an accepted socket is non-blocking if the listener is.
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
        // A client that has gone away is normal and is not reported.
        let _ = converse(&open, &served, uid, is_late);
        // In this order, the socket is closed before the session counts as ended.
        drop(served);
        drop(open);
    });
    // The closure was dropped, and the session with it.
    if let Err(error) = spawned {
        refuse(&stream, &format!("busy: cannot start a thread for one more session: {error}"));
    }
}

/// Sends one line instead of the greeting. This never waits: a new socket has room for it.
fn refuse(mut stream: &UnixStream, why: &str) {
    let _ = stream.set_nonblocking(true);
    let _ = writeln!(stream, ". {why}");
}

/// A session in the list of sessions; dropping it removes the session.
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

/// The state of a session.
struct Conversation {
    session: Session,
    service: Arc<ManagedService>,
    /// Whether the service had been stopped already when the session chose it.
    is_draining: bool,
    /// Whether the session came by this process's own name, after another process took over. It is for what
    /// is left here.
    is_late: bool,
    /// The user id of the client.
    uid: u32,
    /// The one who gives the commands, for the log.
    by: Commander,
}

impl Conversation {
    fn at(service: Arc<ManagedService>, is_late: bool, uid: u32) -> Self {
        let is_draining = service.is_killed();
        Self { session: Session::default(), is_draining, service, is_late, uid, by: Commander::Uid(uid) }
    }
}

fn converse(open: &SessionGuard, stream: &UnixStream, uid: u32, is_late: bool) -> io::Result<()> {
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
    let mut conversation = Conversation::at(service, is_late, uid);
    loop {
        let line = input.read()?;
        if !shared.sessions().begin_work(*number) {
            return Ok(());
        }
        let status = match line {
            // From here on the stream carries another protocol.
            LineRead::Whole(line)
                if line == TAKE_OVER.as_bytes() && peer::may_choose_program(uid, shared.owner) =>
            {
                let peer = peer::pid(stream).unwrap_or_default();
                let _ = (shared.services.process.give)(stream.try_clone()?, peer);
                return Ok(());
            }
            LineRead::Whole(line) => answer_line(shared, line, &mut conversation, stream, &mut output)?,
            LineRead::TooLong => {
                let reply = Reply::NoCommand(SyntaxError::Plain);
                write_body(&mut output, &render::text(&reply))?;
                Status {
                    code: render::exit_code(&reply),
                    group: conversation.session.group.index(),
                    end: false,
                    service: shared.label_of(&conversation),
                    is_draining: shared.is_draining(&conversation),
                    cause: None,
                }
            }
            // A line without its newline may be half a command: `disable 1` of `disable 12`.
            LineRead::Rest(_) | LineRead::End => return Ok(()),
        };
        writeln!(output, "{status}")?;
        output.flush()?;
        if !shared.sessions().end_work(*number) || status.end {
            return Ok(());
        }
    }
}

/// Commands of a line that should have changed something and failed. Dropping this logs them, service by
/// service.
struct FailedChanges {
    by: Commander,
    /// For each service: its commands, and the exit code of the first.
    all: Vec<(Arc<ManagedService>, String, u8)>,
}

impl FailedChanges {
    fn add(&mut self, service: &Arc<ManagedService>, text: &[u8], code: u8) {
        let command = printable(text);
        match self.all.last_mut() {
            Some((last, commands, _)) if Arc::ptr_eq(last, service) => {
                commands.push_str("; ");
                commands.push_str(command.trim());
            }
            _ => self.all.push((Arc::clone(service), command.trim().to_owned(), code)),
        }
    }
}

impl Drop for FailedChanges {
    fn drop(&mut self) {
        for (service, command, exit_code) in self.all.drain(..) {
            service.log.tell(&Event::CommandFailed { by: self.by, command, exit_code });
        }
    }
}

/// Carries out all commands of a line, also after one that fails. It stops after the end of the session, and
/// after a `use` that fails, since the rest is meant for another service. Each answer is sent before the next
/// command, so that a line with thousands of `show` needs the memory of one.
fn answer_line(
    shared: &ControlState,
    line: &[u8],
    conversation: &mut Conversation,
    stream: &UnixStream,
    output: &mut impl Write,
) -> io::Result<Status> {
    let (mut code, mut end) = (0, false);
    let mut told: Option<Arc<ManagedService>> = None;
    let mut failed = FailedChanges { by: conversation.by, all: Vec::new() };
    let mut causes: Vec<String> = Vec::new();
    let mut texts = command::split(line).peekable();
    while let Some(text) = texts.next() {
        let service = Arc::clone(&conversation.service);
        let is_change = command::is_change(text);
        // The whole line is logged once for each service that it changes. If another process has the service
        // by now, that one logs it.
        let is_gone = || {
            !conversation.is_late
                && matches!(*shared.hold.read().unwrap_or_else(PoisonError::into_inner), Hold::Theirs)
        };
        if is_change && told.as_ref().is_none_or(|told| !Arc::ptr_eq(told, &service)) && !is_gone() {
            service.log.tell(&Event::Commanded { by: conversation.by, command: printable(line) });
            told = Some(Arc::clone(&service));
        }
        let command = command::parse(text);
        if matches!(command, Ok(Command::Wait { .. } | Command::Tap(_))) {
            // The client must see the earlier answers while this one waits.
            output.flush()?;
        }
        let hold = shared.hold.read().unwrap_or_else(PoisonError::into_inner);
        let (reply, last) = match *hold {
            // The table that is left here does not count any more.
            Hold::Theirs if !conversation.is_late => (Reply::HandedOver, true),
            Hold::Held if is_change && !matches!(command, Ok(Command::Upgrade(_))) => {
                (Reply::HandingOver, false)
            }
            // The connection is about to be handed over.
            Hold::Held if matches!(command, Ok(Command::Tap(_))) => (Reply::HandingOver, false),
            // Names are not looked up until then.
            Hold::Held if matches!(command, Ok(Command::Resolve(_))) => (Reply::HandingOver, false),
            Hold::Ours | Hold::Held | Hold::Theirs => {
                // Only changes keep the lock. Commands that can take long must not block others, and an
                // `upgrade` itself waits until no change holds it.
                let _guard = (is_change && !matches!(command, Ok(Command::Upgrade(_)))).then_some(hold);
                shared.answer(command, conversation, stream)
            }
        };
        if is_change {
            (service.plane.changed)();
        }
        if matches!(reply, Reply::ShutdownComplete) {
            // The answer comes after the other process has stopped listening, too. Calling an upgrade off
            // needs the lock released above.
            (shared.services.process.await_called_off)();
        }
        write_body(output, &render::text(&reply))?;
        if let Some(cause) = reply.cause().filter(|_| causes.len() < MOST_CAUSES) {
            causes.push(printable(cause.as_bytes()));
        }
        let its_code = render::exit_code(&reply);
        if code == 0 {
            code = its_code;
        }
        if is_change && its_code != 0 && !matches!(reply, Reply::HandedOver) {
            failed.add(&service, text, its_code);
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
        cause: (!causes.is_empty()).then(|| causes.join("; ")),
    })
}
