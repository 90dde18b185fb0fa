//! Carries a command out: looks names up first, then makes one edit of the table, then returns a [`Reply`].
//!
//! Knows: the edits of `Table`, the session's current group, a resolver that is handed in. Never: who asked,
//! how the answer is printed, sockets.
//! Source: docs/control.md, "Commands".
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::time::Duration;

use ipnet::IpNet;

use crate::control::argument::{HostPort, Number};
use crate::control::command::{Command, Form, SyntaxError, WaitGoal};
use crate::control::doctor::Diagnosis;
use crate::control::json::Document;
use crate::control::ready::ReadyState;
use crate::control::services::{CarriedCount, ResolvedName, ServiceSnapshot};
use crate::control::tapping::{TapBounds, TapForm, TapStop, TapWanted};
use crate::control::wire::printable;
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

/// A command whose address, if it has one, has been looked up. A failed lookup is carried along, so that
/// [`apply`] decides the order of the checks, and with it which error is reported.
#[derive(Debug)]
pub struct PreparedCommand {
    command: Command,
    /// An error is why there is no address.
    addresses: Result<Addresses, String>,
}

/// The result of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// The command succeeded and prints nothing.
    Done,
    /// The session ends.
    Quit,
    /// The service must be stopped, and its connections closed after this time. The caller does that and
    /// answers with one of the next two.
    Kill(Option<Duration>),
    /// The instance has stopped serving.
    ShutdownComplete,
    /// The instance could not be stopped.
    ShutdownFailed,
    /// All channels.
    Table(Snapshot),
    /// The answer to `status`: the channels, the sections of the file, what differs from the file, and what
    /// was taken over from another process.
    Status(Snapshot, Vec<Section>, Vec<String>, Option<CarriedCount>),
    /// The data plane has to do it or be asked. The caller that took the command does that and makes the
    /// answer.
    Pending(Effect),
    /// A channel takes no new connections, and has this many.
    Draining(ChannelId, u32),
    /// A channel has no connections any more.
    Idle(ChannelId),
    /// A channel still has this many connections, and the time is over.
    StillBusy(ChannelId, u32),
    /// The program of an upgrade is not an absolute path.
    RelativeProgram(String),
    /// A channel works.
    Works(ChannelId),
    /// A channel does not work yet, and the time is over. The text says why, if that is known.
    WorksNotYet(ChannelId, Option<String>),
    /// This many connections of a channel were closed.
    Kicked(ChannelId, usize),
    /// A channel was removed.
    Removed(ChannelId),
    /// A channel has a new weight.
    WeightChanged(ChannelId, Weight),
    /// Connections.
    Sessions(Vec<SessionSnapshot>),
    /// Connections that have ended, the latest last.
    Ended(Vec<EndedSnapshot>),
    /// One connection was closed.
    SessionClosed(u64),
    /// Clients from a network are refused, for this time or (`None`) until `undeny`; and how many connections
    /// were closed, if that was asked for.
    NetDenied(IpNet, Option<Duration>, Option<usize>),
    /// A network is not denied any more.
    NetAllowed(IpNet),
    /// A network was not denied.
    NotDenied(IpNet),
    /// This many networks are denied, which is the maximum.
    TooManyDenied(usize),
    /// A word is not a network. The text says why.
    NoNetwork(String),
    /// Denied networks: the service of each if there are several, and the time that is left (`None`: until
    /// `undeny`).
    Denied(Vec<(Option<String>, IpNet, Option<Duration>)>),
    /// Names were looked up, with these results; `None`: not all answers have come yet.
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
    /// A channel takes no more connections, and its connections are to be closed.
    DisabledHard(ChannelKey),
    /// A channel is disabled already.
    AlreadyDisabled(ChannelId),
    /// A channel takes connections again.
    Enabled(ChannelId),
    /// A channel is enabled already.
    AlreadyEnabled(ChannelId),
    /// The counters of a channel are zero.
    CountersReset(ChannelId),
    /// A channel has a new limit; 0 = no limit.
    MaxcChanged(ChannelId, u32),
    /// A group has this policy now.
    PolicySet(GroupId, Policy),
    /// Byte counters for MRTG.
    MrtgBytes(GroupId, Box<ChannelSnapshot>),
    /// The connection counter for MRTG.
    MrtgConns(GroupId, Box<ChannelSnapshot>),
    /// The text is not a command, or its arguments are wrong.
    NoCommand(SyntaxError),
    /// The current group has no channel of this number (`disable`, `enable`, `reset`).
    NoSuchChannel(Number),
    /// The group has no channel of this number (the other commands).
    UnknownChannel,
    /// There is no such group.
    UnknownGroup,
    /// The number is not possible for a group.
    OutOfRange,
    /// The word is not an address, or its name could not be looked up, for this reason. 3.57 has one answer
    /// for all reasons, so this one goes elsewhere: see [`Reply::cause`].
    InvalidAddress(String),
    /// Only a disabled channel can get another address.
    MustBeDisabled,
    /// An enabled channel, or one with connections, cannot be removed.
    MustBeUnused,
    /// The options of the channel are wrong. The text says why.
    WrongOptions(String),
    /// The weights of this name's channels come from its DNS records and cannot be set.
    WeightOfRecords(ChannelId),
    /// The number is not possible for a weight.
    WeightOutOfRange,
    /// There is no such policy.
    UnknownPolicy,
    /// There is no connection of this number.
    NoSuchSession(Number),
    /// The group has no number left for another channel.
    NoSlot,
    /// The services of the process.
    Services(Vec<ServiceSnapshot>),
    /// The session's current service; its label is printed only if there are several.
    Using(String),
    /// No service of the process matches the word.
    UnknownService(String),
    /// Several services match the word. These are their labels.
    SeveralServices(Vec<String>),
    /// The files were read again. The lines say what has changed.
    Reloaded(Vec<String>),
    /// The access log was opened again, or why it could not be; `None`: there is no access log.
    Reopened(Option<Result<(), String>>),
    /// Nothing has changed, because something is wrong with the files. The text says what.
    NotReloaded(String),
    /// New clients wait for a channel, or (`None`) for all; and whether they did so already.
    Paused(Option<ChannelId>, Already),
    /// They do not wait any more; whether they did before; and how many clients are in the wait queue now.
    Resumed(Option<ChannelId>, Already, usize),
    /// Another process serves now. The text says what was handed over to it.
    Upgraded(String),
    /// This process goes on. The text says why no other one has taken over.
    NotUpgraded(String),
    /// The findings of `doctor`.
    Doctor(Diagnosis),
    /// Which services are ready for clients, and why others are not.
    ReadyState(Vec<ReadyState>),
    /// Only root and the user of the instance (this user id) may choose the program that takes its place.
    NotYourProgram(u32),
    /// Nothing can be changed while another process takes over.
    HandingOver,
    /// Another process has taken over since this session began.
    HandedOver,
    /// The tap of this connection has ended, and why.
    TapOver(u64, TapStop),
    /// Only root and the user of the instance (this user id) may see what clients send.
    NotYourTap(u32),
    /// This many taps are open, which is the maximum.
    TooManyTaps(usize),
    /// The program that asks has to write the file, not the instance.
    NoTapFile,
    /// The command needs a terminal: the program that asks carries it out.
    NeedsTerminal,
    /// Events, oldest first.
    Events(Vec<PastEvent>),
    /// Whether debug messages are logged now.
    Debug(bool),
    /// One of the other answers, in JSON.
    Json(Box<Document>),
    /// An error, in JSON because the command asked for that.
    JsonError(Box<Self>),
}

/// Whether a setting was as wanted before the command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Already {
    /// The setting was so already.
    So,
    /// The setting was different and has been changed.
    Not,
}

/// What the caller that took the command still has to do, without the table's lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// End this session.
    Quit,
    /// Answer `show`. This is left to the caller because so many channels are not looked at under one lock.
    Show(Form),
    /// Answer `status`; left to the caller for the same reason.
    Status(Form),
    /// Stop the service, close its connections after this time (`None`: never), and answer.
    Kill(Option<Duration>),
    /// Close the connections of a channel.
    CloseConnections(ChannelKey),
    /// Close the connections of a channel and report how many there were.
    Kick(ChannelKey),
    /// Wait until a channel has no connections or works, at most for this time; `None` = without a limit.
    Wait(ChannelKey, WaitGoal, Option<Duration>),
    /// List all connections, or those of a channel.
    Sessions(Option<ChannelKey>, Form),
    /// List this many of the connections that ended last.
    Ended(usize, Form),
    /// Close one connection.
    CloseSession(u64),
    /// Make the command line of the instance as it is now.
    Save,
    /// Describe all services.
    Services(Form),
    /// Change the session's service.
    Use(String),
    /// Report whether the current service has a usable channel; `true`: whether each service has one.
    Ready(bool),
    /// Read the files again; `true`: also drop what operators have changed.
    Reload(bool),
    /// Open the access log again.
    Reopen,
    /// Hand everything over to a new process that runs the program at this path; `None`: our own program.
    Upgrade(Option<Vec<u8>>),
    /// Show this many of the last events.
    Events(usize, Form),
    /// Look for common problems in all services, or in the one that this word names.
    Doctor(Option<String>, Form),
    /// Switch debug messages on or off, or leave them (`None`); and report the setting.
    Debug(Option<bool>),
    /// Refuse clients from a network.
    Deny {
        /// The network.
        net: IpNet,
        /// For how long; `None`: until `undeny`.
        time: Option<Duration>,
        /// Also close the connections that come from there.
        kick: bool,
        /// In all services, not only in the current one.
        all: bool,
    },
    /// End a `deny` of this network; `true`: in all services.
    Undeny(IpNet, bool),
    /// List what is denied in the current service; `true`: in all services.
    Denied(bool, Form),
    /// Look up the names of all channels, or of one, and report what was found.
    Resolve(Option<ChannelKey>),
    /// Show what the connection with this number carries.
    Tap(u64, TapBounds, TapForm),
}

impl Reply {
    /// Why the command failed, if the answer cannot say so because it is that of 3.57. `balance -c` prints it
    /// on stderr.
    pub fn cause(&self) -> Option<&str> {
        match self {
            Self::InvalidAddress(why) => Some(why),
            _ => None,
        }
    }

    /// What the caller still has to do for this reply; `None`: nothing.
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

/// Looks up the address of a command that has one. This can take as long as the resolver takes, and does not
/// touch the table.
pub fn prepare(
    command: Command,
    resolve: impl Fn(&HostPort) -> Result<Addresses, String>,
) -> PreparedCommand {
    let target = match &command {
        Command::Create { target, .. } | Command::Assign { target, .. } => target.as_ref(),
        _ => None,
    };
    let none = || Err("write HOST PORT with a port from 1 to 65535, or unix:/PATH".to_owned());
    let addresses = target.map_or_else(none, resolve);
    PreparedCommand { command, addresses }
}

/// Carries a command out. Runs under the table's lock, so nothing in here waits.
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
            // Such a channel is enabled already, but may be left alone for closing connections at once:
            // `enable` ends that. If the channel stands for a set, `enable` also brings back its removed
            // members.
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
            // A member of a set that was removed keeps its number.
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
        Command::Wait { channel, until, patience } => match find(group, &channel, table) {
            Some((key, _)) => Reply::Pending(Effect::Wait(key, until, patience)),
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
        Command::Denied { all, form } => Reply::Pending(Effect::Denied(all, form)),
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
        Command::Upgrade(Some(path)) if !path.starts_with(b"/") => Reply::RelativeProgram(printable(&path)),
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

/// The channel of the current group that a typed number means.
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
    addresses: Result<Addresses, String>,
    manner: Result<ChannelManner, String>,
    table: &mut Table,
) -> Reply {
    match (manner, addresses) {
        (Err(why), _) => Reply::WrongOptions(why),
        (_, Err(why)) => Reply::InvalidAddress(why),
        // A new channel starts disabled, so that a typing error in its address costs no client.
        (Ok(manner), Ok(addresses)) => {
            let made = table.create(group, addresses, None, AdminState::Disabled);
            let set = made.and_then(|channel| table.set_manner(ChannelKey { group, channel }, manner));
            edited(set, Reply::Created)
        }
    }
}

fn assign(
    found: Option<(ChannelKey, ChannelSnapshot)>,
    addresses: Result<Addresses, String>,
    table: &mut Table,
) -> Reply {
    match (found, addresses) {
        (None, _) => Reply::UnknownChannel,
        (Some((_, before)), _) if before.state == AdminState::Enabled => Reply::MustBeDisabled,
        (Some(_), Err(why)) => Reply::InvalidAddress(why),
        (Some((key, _)), Ok(addresses)) => edited(table.assign(key, addresses), Reply::Reassigned),
    }
}

fn disable(key: ChannelKey, before: AdminState, hard: bool, table: &mut Table) -> Reply {
    let (after, reply) = match (before, hard) {
        // Disabling again does not change `DisabledHard` to the softer state.
        (AdminState::DisabledHard, _) | (AdminState::Disabled, false) => {
            // If `-a` disabled it, it counts as disabled by the operator from now on.
            return edited(table.set_state(key, before).map(drop), Reply::AlreadyDisabled(key.channel));
        }
        (AdminState::Enabled, false) => (AdminState::Disabled, Reply::Disabled(key.channel)),
        (AdminState::Enabled | AdminState::Disabled, true) => {
            (AdminState::DisabledHard, Reply::DisabledHard(key))
        }
    };
    edited(table.set_state(key, after).map(drop), reply)
}

/// Like `disable`, but the answer says how many connections are left, and a channel that is already disabled
/// is no error.
fn drain(key: ChannelKey, before: &ChannelSnapshot, table: &mut Table) -> Reply {
    let reply = Reply::Draining(key.channel, before.active);
    let after = match before.state {
        AdminState::Enabled => AdminState::Disabled,
        // If `-a` disabled it, it counts as disabled by the operator from now on.
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
