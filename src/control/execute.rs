//! A command carried out: names looked up first, then one edit of the table, then a [`Reply`].
//!
//! Knows: the edits of `Table`, the session's current group, a resolver that is handed in. Never: who asked, how the
//! answer is printed, sockets.
//! Source: docs/control.md, "Commands".
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::io;
use std::time::Duration;

use ipnet::IpNet;

use crate::control::argument::{HostPort, Number};
use crate::control::command::{Command, Form, SyntaxError};
use crate::control::doctor::Diagnosis;
use crate::control::json::Document;
use crate::control::ready::ReadyState;
use crate::control::services::{CarriedCount, ResolvedName, ServiceSnapshot};
use crate::control::tapping::{TapBounds, TapForm, TapStop, TapWanted};
use crate::observe::PastEvent;
use crate::sched::{
    Addresses, AdminState, ChannelId, ChannelKey, ChannelSnapshot, EditError, EndedSnapshot, GroupId, Policy,
    SessionSnapshot, Snapshot, Table, Weight,
};
use crate::spec::{ChannelManner, Section};

/// What one operator's session remembers between commands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Session {
    /// The group that commands work on. It need not exist yet.
    pub group: GroupId,
}

impl Default for Session {
    fn default() -> Self {
        Self { group: GroupId::FIRST }
    }
}

/// A command whose address, if it has one, has been looked up. A failed lookup travels inside, so that the order of
/// the checks, and with it of the answers, is decided in [`apply`].
#[derive(Debug)]
pub struct PreparedCommand {
    command: Command,
    addresses: Option<Addresses>,
}

/// The outcome of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// Done, nothing to say.
    Done,
    /// The session ends.
    Quit,
    /// The service is to be stopped, and what is left of it closed after so long; the door that carries it out answers with
    /// one of the next two.
    Kill(Option<Duration>),
    /// The instance serves no more.
    ShutdownComplete,
    /// The instance could not be stopped.
    ShutdownFailed,
    /// All channels.
    Table(Snapshot),
    /// `status`: the same, as seen by an operator, what is otherwise than the file has it, and what came from another process.
    Status(Snapshot, Vec<Section>, Vec<String>, Option<CarriedCount>),
    /// The data plane has to do it, or to be asked; the door that took the command knows what to answer then.
    Pending(Effect),
    /// A channel takes no more connections, and has so many.
    Draining(ChannelId, u32),
    /// A channel has no connections.
    Idle(ChannelId),
    /// A channel still has so many connections, and the time is over.
    StillBusy(ChannelId, u32),
    /// So many connections of a channel were closed.
    Kicked(ChannelId, usize),
    /// A channel is gone.
    Removed(ChannelId),
    /// A channel has a new weight.
    WeightChanged(ChannelId, Weight),
    /// Connections.
    Sessions(Vec<SessionSnapshot>),
    /// Connections that have ended, the last one last.
    Ended(Vec<EndedSnapshot>),
    /// One connection was closed.
    SessionClosed(u64),
    /// Nobody is let in from a network for so long, and so many connections were closed.
    NetDenied(IpNet, Option<Duration>, Option<usize>),
    /// A network is not denied any more.
    NetAllowed(IpNet),
    /// A network was not denied.
    NotDenied(IpNet),
    /// So many networks are denied, and there may be no more.
    TooManyDenied(usize),
    /// What is wrong with a word that should be a network.
    NoNetwork(String),
    /// Networks that are denied: the service that they are for, if there are several, and how much longer they are.
    Denied(Vec<(Option<String>, IpNet, Option<Duration>)>),
    /// Names were looked up; `None`: not all answers have come yet.
    LookedUp(Option<Vec<ResolvedName>>),
    /// A command line.
    CommandLine(String),
    /// The list of commands.
    Help,
    /// Version and limits.
    Version,
    /// A new channel exists.
    Created,
    /// A channel has a new address.
    Reassigned,
    /// A channel takes no more connections.
    Disabled(ChannelId),
    /// The same, and its connections are to be closed.
    DisabledHard(ChannelKey),
    /// A channel was disabled before.
    AlreadyDisabled(ChannelId),
    /// A channel takes connections.
    Enabled(ChannelId),
    /// A channel was enabled before.
    AlreadyEnabled(ChannelId),
    /// The counters of a channel are zero.
    CountersReset(ChannelId),
    /// A channel has a new limit, 0 = none.
    MaxcChanged(ChannelId, u32),
    /// A group has this policy now.
    PolicySet(GroupId, Policy),
    /// Byte counters for MRTG.
    MrtgBytes(GroupId, Box<ChannelSnapshot>),
    /// The connection counter for MRTG.
    MrtgConns(GroupId, Box<ChannelSnapshot>),
    /// No command, or not its arguments.
    NoCommand(SyntaxError),
    /// The current group has no channel of this number (`disable`, `enable`, `reset`).
    NoSuchChannel(Number),
    /// The group has no channel of this number (the other commands).
    UnknownChannel,
    /// There is no such group.
    UnknownGroup,
    /// Not a possible group.
    OutOfRange,
    /// The address cannot be one, or could not be looked up.
    InvalidAddress,
    /// An enabled channel keeps its address.
    MustBeDisabled,
    /// An enabled channel, or one with connections, cannot be removed.
    MustBeUnused,
    /// Options that no channel has; what is wrong.
    WrongOptions(String),
    /// The weights of these channels come from the records of their name.
    WeightOfRecords(ChannelId),
    /// Not a possible weight.
    WeightOutOfRange,
    /// There is no such policy.
    UnknownPolicy,
    /// There is no connection of this number.
    NoSuchSession(Number),
    /// All channel numbers of the group are taken.
    NoSlot,
    /// The services of the process.
    Services(Vec<ServiceSnapshot>),
    /// The session's service is this one now, if there are several.
    Using(String),
    /// No service of the process is meant by the word.
    UnknownService(String),
    /// Several services are.
    SeveralServices(Vec<String>),
    /// The files were read again: what has changed.
    Reloaded(Vec<String>),
    /// The access log was opened again, or why not; `None`: there is none.
    Reopened(Option<Result<(), String>>),
    /// Nothing has changed: something is wrong with the files.
    NotReloaded(String),
    /// Clients wait for a channel, or for all, from now on; or they did so already.
    Paused(Option<ChannelId>, Already),
    /// They do not any more, and so many wait for one channel or another; or they did not before.
    Resumed(Option<ChannelId>, Already, usize),
    /// Another process serves now: what was handed over to it.
    Upgraded(String),
    /// This process goes on: why no other one has taken over.
    NotUpgraded(String),
    /// What usually goes wrong, as far as it does.
    Doctor(Diagnosis),
    /// Which services are ready for clients, and why others are not.
    ReadyState(Vec<ReadyState>),
    /// Only root and the user of the instance, by this number, may say which program takes its place.
    NotYourProgram(u32),
    /// Nothing is changed while another process takes over.
    HandingOver,
    /// Another process has taken over since this session began.
    HandedOver,
    /// Why a tap shows no more of a connection.
    TapOver(u64, TapStop),
    /// Only root and the user of the instance, by this number, may see what clients send.
    NotYourTap(u32),
    /// So many taps are open, and there may not be more.
    TooManyTaps(usize),
    /// Whoever asks has to write the file.
    NoTapFile,
    /// What is asked for is made by the program that asks, at a terminal.
    NeedsTerminal,
    /// Events, oldest first.
    Events(Vec<PastEvent>),
    /// Debug events are logged from now on, or not.
    Debug(bool),
    /// The same as one of the others, in JSON.
    Json(Box<Document>),
    /// An error that is told to somebody who has asked for JSON.
    JsonError(Box<Self>),
}

/// Was it as wanted before?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Already {
    /// It was.
    So,
    /// It has changed.
    Not,
}

/// What is left to do for the door that took the command, outside the table's lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// End this session.
    Quit,
    /// `show`: tell of all channels. Left to the door, since so many are not looked at under one lock.
    Show(Form),
    /// `status`: the same.
    Status(Form),
    /// Stop the service, then answer; what is left of it is closed after so long.
    Kill(Option<Duration>),
    /// Close the connections of a channel.
    CloseConnections(ChannelKey),
    /// The same, and tell how many there were.
    Kick(ChannelKey),
    /// Wait until a channel has no connections; `None` = as long as it takes.
    Wait(ChannelKey, Option<Duration>),
    /// Ask for all connections, or those of a channel.
    Sessions(Option<ChannelKey>, Form),
    /// Show the last so many connections that have ended.
    Ended(usize, Form),
    /// Close one connection.
    CloseSession(u64),
    /// Make the command line of the instance as it is now.
    Save,
    /// Tell of all services.
    Services(Form),
    /// Change the session's service.
    Use(String),
    /// Look whether the current service has a usable channel; `true`: whether all have.
    Ready(bool),
    /// Read the files again; `true`: what operators have changed goes.
    Reload(bool),
    /// Open the access log again.
    Reopen,
    /// Hand everything over to a new process, of the program at this path; `None`: of our own.
    Upgrade(Option<Vec<u8>>),
    /// Tell of the last events, so many of them.
    Events(usize, Form),
    /// Look for what usually goes wrong, in all services or in the one that is meant.
    Doctor(Option<String>, Form),
    /// Log debug events from now on, or not; and tell whether they are.
    Debug(Option<bool>),
    /// Let nobody in from a network for so long, and close the connections that come from there; `all`: in all services.
    Deny {
        /// The network.
        net: IpNet,
        /// `None`: until it is ended.
        time: Option<Duration>,
        /// Close connections.
        kick: bool,
        /// In all services.
        all: bool,
    },
    /// End that.
    Undeny(IpNet, bool),
    /// Say what is denied, in the service or in all.
    Denied(bool),
    /// Look up the names of all channels, or of one, and tell what was found.
    Resolve(Option<ChannelKey>),
    /// Show what the connection of this number carries.
    Tap(u64, TapBounds, TapForm),
}

impl Reply {
    /// What is left to do.
    pub fn effect(&self) -> Option<Effect> {
        match self {
            Self::Quit => Some(Effect::Quit),
            Self::Kill(time) => Some(Effect::Kill(*time)),
            Self::DisabledHard(key) => Some(Effect::CloseConnections(*key)),
            Self::Pending(effect) => Some(effect.clone()),
            _ => None,
        }
    }
}

/// Looks up the address of a command that has one. May take as long as the resolver does: the table is not involved.
pub fn prepare(command: Command, resolve: impl Fn(&HostPort) -> io::Result<Addresses>) -> PreparedCommand {
    let target = match &command {
        Command::Create { target, .. } | Command::Assign { target, .. } => target.as_ref(),
        _ => None,
    };
    // The language has one answer for every cause of a failed lookup, `invalid address`, so the cause ends here.
    let addresses = target.and_then(|target| resolve(target).ok());
    PreparedCommand { command, addresses }
}

/// Carries a command out. Runs under the table's lock: nothing in here waits.
pub fn apply(prepared: PreparedCommand, session: &mut Session, table: &mut Table) -> Reply {
    let group = session.group;
    let PreparedCommand { command, addresses } = prepared;
    match command {
        Command::Quit => Reply::Quit,
        Command::Kill(time) => Reply::Kill(time),
        Command::Show(form) => Reply::Pending(Effect::Show(form)),
        Command::Status(form) => Reply::Pending(Effect::Status(form)),
        Command::Help => Reply::Help,
        Command::Version => Reply::Version,
        Command::Group(number) => change_group(&number, session),
        Command::SetPolicy(policy) => {
            table.set_policy(group, policy);
            Reply::PolicySet(group, policy)
        }
        Command::Create { manner, .. } => create(group, addresses, manner, table),
        Command::Assign { channel, .. } => assign(find(group, &channel, table), addresses, table),
        Command::Maxc { channel, maxc } => match find(group, &channel, table) {
            Some((key, _)) => edited(
                table.set_maxc(key, maxc),
                Reply::MaxcChanged(key.channel, maxc.map_or(0, std::num::NonZeroU32::get)),
            ),
            None => Reply::UnknownChannel,
        },
        Command::Disable { channel, hard } => match find(group, &channel, table) {
            Some((key, before)) => disable(key, before.state, hard, table),
            None => Reply::NoSuchChannel(channel),
        },
        Command::Enable(channel) => match find(group, &channel, table) {
            // Whoever enables one that is left alone for closing its connections at once says that it serves.
            // And whoever enables a word wants all of its channels.
            Some((key, before))
                if before.state == AdminState::Enabled
                    && !(table.end_rest(key) || table.bring_all_back(key)) =>
            {
                Reply::AlreadyEnabled(key.channel)
            }
            Some((key, _)) => {
                table.end_rest(key);
                table.bring_all_back(key);
                edited(table.set_state(key, AdminState::Enabled).map(drop), Reply::Enabled(key.channel))
            }
            // One of a set that was taken away keeps its number.
            None => match number_in(group, &channel).and_then(|key| table.bring_back(key)) {
                Some(key) => Reply::Enabled(key.channel),
                None => Reply::NoSuchChannel(channel),
            },
        },
        Command::Reset(channel) => match find(group, &channel, table) {
            Some((key, _)) => edited(table.reset_counters(key), Reply::CountersReset(key.channel)),
            None => Reply::NoSuchChannel(channel),
        },
        Command::Drain(channel) => match find(group, &channel, table) {
            Some((key, before)) => drain(key, &before, table),
            None => Reply::NoSuchChannel(channel),
        },
        Command::Wait { channel, patience } => match find(group, &channel, table) {
            Some((key, _)) => Reply::Pending(Effect::Wait(key, patience)),
            None => Reply::NoSuchChannel(channel),
        },
        Command::Kick(channel) => match find(group, &channel, table) {
            Some((key, _)) => Reply::Pending(Effect::Kick(key)),
            None => Reply::NoSuchChannel(channel),
        },
        Command::Remove(channel) => match find(group, &channel, table) {
            Some((key, _)) => match table.remove(key) {
                Err(EditError::NotDisabled | EditError::Busy) => Reply::MustBeUnused,
                outcome => edited(outcome, Reply::Removed(key.channel)),
            },
            None => Reply::NoSuchChannel(channel),
        },
        Command::Weight { channel, weight } => {
            match (find(group, &channel, table), weight.to_u32().and_then(Weight::new)) {
                (None, _) => Reply::NoSuchChannel(channel),
                (Some(_), None) => Reply::WeightOutOfRange,
                (Some((key, _)), _) if table.weighs_by_records(key) => Reply::WeightOfRecords(key.channel),
                (Some((key, _)), Some(weight)) => {
                    edited(table.set_weight(key, weight), Reply::WeightChanged(key.channel, weight))
                }
            }
        }
        Command::Policy(None) => Reply::UnknownPolicy,
        Command::Policy(Some(policy)) => {
            table.set_policy(group, policy);
            Reply::PolicySet(group, policy)
        }
        Command::Sessions(None, form) => Reply::Pending(Effect::Sessions(None, form)),
        Command::Sessions(Some(channel), form) => match find(group, &channel, table) {
            Some((key, _)) => Reply::Pending(Effect::Sessions(Some(key), form)),
            None if form == Form::Json => Reply::JsonError(Box::new(Reply::NoSuchChannel(channel))),
            None => Reply::NoSuchChannel(channel),
        },
        Command::Close(number) => match number.to_u64() {
            Some(id) => Reply::Pending(Effect::CloseSession(id)),
            None => Reply::NoSuchSession(number),
        },
        Command::Tap(TapWanted { form: TapForm::File(_), .. }) => Reply::NoTapFile,
        Command::Tap(TapWanted { session, bounds, form }) => match session.to_u64() {
            Some(id) => Reply::Pending(Effect::Tap(id, bounds, form)),
            None => Reply::NoSuchSession(session),
        },
        Command::Deny { net: Ok(net), time, kick, all } => {
            Reply::Pending(Effect::Deny { net, time, kick, all })
        }
        Command::Undeny { net: Ok(net), all } => Reply::Pending(Effect::Undeny(net, all)),
        Command::Deny { net: Err(why), .. } | Command::Undeny { net: Err(why), .. } => Reply::NoNetwork(why),
        Command::Denied { all } => Reply::Pending(Effect::Denied(all)),
        Command::Top => Reply::NeedsTerminal,
        Command::Resolve(None) => Reply::Pending(Effect::Resolve(None)),
        Command::Resolve(Some(channel)) => match find(group, &channel, table) {
            Some((key, _)) => Reply::Pending(Effect::Resolve(Some(key))),
            None => Reply::NoSuchChannel(channel),
        },
        Command::Save => Reply::Pending(Effect::Save),
        Command::Services(form) => Reply::Pending(Effect::Services(form)),
        Command::Use(word) => Reply::Pending(Effect::Use(word)),
        Command::Reopen => Reply::Pending(Effect::Reopen),
        Command::Reload { clean } => Reply::Pending(Effect::Reload(clean)),
        Command::Upgrade(path) => Reply::Pending(Effect::Upgrade(path)),
        Command::Debug(is_debug) => Reply::Pending(Effect::Debug(is_debug)),
        Command::Ended(most, form) => Reply::Pending(Effect::Ended(most, form)),
        Command::Events(most, form) => Reply::Pending(Effect::Events(most, form)),
        Command::Doctor(word, form) => Reply::Pending(Effect::Doctor(word, form)),
        Command::Ready { all } => Reply::Pending(Effect::Ready(all)),
        Command::Pause(None) => Reply::Paused(None, already(!table.pause_all())),
        Command::Pause(Some(channel)) => match find(group, &channel, table) {
            Some((key, _)) => match table.pause(key) {
                Ok(is_new) => Reply::Paused(Some(key.channel), already(!is_new)),
                Err(error) => edited(Err(error), Reply::Done),
            },
            None => Reply::NoSuchChannel(channel),
        },
        Command::Resume(None) => Reply::Resumed(None, already(!table.resume_all()), table.waiting()),
        Command::Resume(Some(channel)) => match find(group, &channel, table) {
            Some((key, _)) => match table.resume(key) {
                Ok(is_new) => Reply::Resumed(Some(key.channel), already(!is_new), table.waiting()),
                Err(error) => edited(Err(error), Reply::Done),
            },
            None => Reply::NoSuchChannel(channel),
        },
        Command::MrtgBytes { group, channel } => mrtg(&group, &channel, table, Reply::MrtgBytes),
        Command::MrtgConns { group, channel } => mrtg(&group, &channel, table, Reply::MrtgConns),
    }
}

fn already(was_so: bool) -> Already {
    if was_so { Already::So } else { Already::Not }
}

/// The channel that a typed number means.
fn find(group: GroupId, number: &Number, table: &Table) -> Option<(ChannelKey, ChannelSnapshot)> {
    let key = number_in(group, number)?;
    table.channel(key).map(|snapshot| (key, snapshot))
}

fn number_in(group: GroupId, number: &Number) -> Option<ChannelKey> {
    Some(ChannelKey { group, channel: number.index().and_then(ChannelId::new)? })
}

fn change_group(number: &Number, session: &mut Session) -> Reply {
    match number.index().and_then(GroupId::new) {
        Some(group) => {
            session.group = group;
            Reply::Done
        }
        None => Reply::OutOfRange,
    }
}

fn create(
    group: GroupId,
    addresses: Option<Addresses>,
    manner: Result<ChannelManner, String>,
    table: &mut Table,
) -> Reply {
    match (manner, addresses) {
        (Err(why), _) => Reply::WrongOptions(why),
        (_, None) => Reply::InvalidAddress,
        // It starts disabled, so that nobody is sent to an address with a typing error in it.
        (Ok(manner), Some(addresses)) => {
            let made = table.create(group, addresses, None, AdminState::Disabled);
            let set = made.and_then(|channel| table.set_manner(ChannelKey { group, channel }, manner));
            edited(set, Reply::Created)
        }
    }
}

fn assign(
    found: Option<(ChannelKey, ChannelSnapshot)>,
    addresses: Option<Addresses>,
    table: &mut Table,
) -> Reply {
    match (found, addresses) {
        (None, _) => Reply::UnknownChannel,
        (Some((_, before)), _) if before.state == AdminState::Enabled => Reply::MustBeDisabled,
        (Some(_), None) => Reply::InvalidAddress,
        (Some((key, _)), Some(addresses)) => edited(table.assign(key, addresses), Reply::Reassigned),
    }
}

fn disable(key: ChannelKey, before: AdminState, hard: bool, table: &mut Table) -> Reply {
    let (after, reply) = match (before, hard) {
        // A channel disabled hard is not made softer by disabling it again.
        (AdminState::DisabledHard, _) | (AdminState::Disabled, false) => {
            // If it was `-a` that disabled it, the operator has now.
            return edited(table.set_state(key, before).map(drop), Reply::AlreadyDisabled(key.channel));
        }
        (AdminState::Enabled, false) => (AdminState::Disabled, Reply::Disabled(key.channel)),
        (AdminState::Enabled | AdminState::Disabled, true) => {
            (AdminState::DisabledHard, Reply::DisabledHard(key))
        }
    };
    edited(table.set_state(key, after).map(drop), reply)
}

/// As `disable`, but it tells how much there is to wait for, and is no error on a channel that is disabled already.
fn drain(key: ChannelKey, before: &ChannelSnapshot, table: &mut Table) -> Reply {
    let reply = Reply::Draining(key.channel, before.active);
    let after = match before.state {
        AdminState::Enabled => AdminState::Disabled,
        // If it was `-a` that disabled it, the operator has now.
        AdminState::Disabled | AdminState::DisabledHard => before.state,
    };
    edited(table.set_state(key, after).map(drop), reply)
}

fn mrtg(
    group: &Number,
    channel: &Number,
    table: &Table,
    reply: fn(GroupId, Box<ChannelSnapshot>) -> Reply,
) -> Reply {
    match group.index().and_then(GroupId::new).filter(|group| table.has_group(*group)) {
        None => Reply::UnknownGroup,
        Some(group) => match find(group, channel, table) {
            None => Reply::UnknownChannel,
            Some((_, snapshot)) => reply(group, Box::new(snapshot)),
        },
    }
}

fn edited(outcome: Result<(), EditError>, reply: Reply) -> Reply {
    match outcome {
        Ok(()) => reply,
        Err(EditError::UnknownChannel) => Reply::UnknownChannel,
        Err(EditError::NoSlot) => Reply::NoSlot,
        Err(EditError::NotDisabled) => Reply::MustBeDisabled,
        Err(EditError::Busy) => Reply::MustBeUnused,
    }
}
