//! Everything an operator is told, and the one line each of it becomes.
//!
//! Knows: names, severities, `key=value` text. Never: sinks, time, why an event happened.
//! Source: style.md, "Logs"; one event, one line, key=value.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use crate::sched::{
    Address, ChannelKey, ClientSource, End, Happened, ListenSpan, Peers, ShownAddress, Transition,
};

/// How much an event matters, in the words and the order of syslog.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Service is impaired; somebody should act.
    Error,
    /// Service goes on, with something missing.
    Warning,
    /// Normal, but an operator wants to know: a channel went.
    Notice,
    /// The instance's own life: started, stopping.
    Info,
    /// One client, one connection. Only with `-d`.
    Debug,
}

impl Severity {
    /// The word in the log line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Notice => "notice",
            Self::Info => "info",
            Self::Debug => "debug",
        }
    }

    /// The one that this word stands for.
    pub fn named(word: &str) -> Option<Self> {
        [Self::Error, Self::Warning, Self::Notice, Self::Info, Self::Debug]
            .into_iter()
            .find(|one| one.name() == word)
    }

    /// The number syslog has for it (RFC 5424, 6.2.1).
    pub fn syslog(self) -> u8 {
        match self {
            Self::Error => 3,
            Self::Warning => 4,
            Self::Notice => 5,
            Self::Info => 6,
            Self::Debug => 7,
        }
    }
}

/// As many addresses as one line has.
const MOST_LISTED: usize = 16;

/// The one that gives commands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Commander {
    /// A user of this host, by the control socket.
    Uid(u32),
    /// Somebody at this address who has the token, by HTTP.
    Http(IpAddr),
}

impl fmt::Display for Commander {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uid(uid) => write!(f, "uid={uid}"),
            Self::Http(address) => write!(f, "http={address}"),
        }
    }
}

/// One thing that happened. `Display` is its line: `event=NAME key=value ...`, printable and free of line breaks
/// whatever the causes contain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The instance serves.
    Started {
        /// Where it listens, service by service.
        listen: Vec<ListenSpan>,
        /// Its process.
        pid: u32,
    },
    /// `-a` disabled a channel because a connect to it failed.
    Autodisabled {
        /// Which one.
        channel: ChannelKey,
        /// The address that failed.
        address: Address,
    },
    /// A client's connect to a channel failed: it is left out until a probe succeeds.
    Ejected {
        /// Which one.
        channel: ChannelKey,
        /// Its address.
        address: Address,
        /// What the connect met.
        cause: String,
    },
    /// A channel that was ejected takes connections again.
    Returned {
        /// Which one.
        channel: ChannelKey,
        /// Its address.
        address: Address,
        /// How long it was out.
        after: Duration,
    },
    /// One of a channel's addresses did not answer: it is tried behind the others until a probe of it succeeds.
    AddressEjected {
        /// Which one.
        channel: ChannelKey,
        /// The address.
        address: Address,
        /// What the attempt met.
        cause: String,
    },
    /// One of a channel's addresses answers again.
    AddressReturned {
        /// Which one.
        channel: ChannelKey,
        /// The address.
        address: Address,
        /// How long it did not.
        after: Duration,
    },
    /// Checks say that a channel is down.
    ChannelDown {
        /// Which one.
        channel: ChannelKey,
        /// Its address.
        address: Address,
        /// What the last check met.
        cause: String,
    },
    /// Checks say that a channel is up again.
    ChannelUp {
        /// Which one.
        channel: ChannelKey,
        /// Its address.
        address: Address,
        /// How long it was down.
        after: Duration,
    },
    /// The name of a channel has other addresses.
    Resolved {
        /// Which one.
        channel: ChannelKey,
        /// The name as it was typed.
        host: String,
        /// All addresses that it has now; of a word that stands for many channels, those as `host:port`.
        now: Vec<String>,
        /// Those of them that are new.
        added: Vec<String>,
        /// Those that it has no more: they get no new connections.
        left: Vec<String>,
        /// What the records of a service say otherwise of those that stay.
        changed: Vec<String>,
    },
    /// The name of a channel has no address any more, and that is believed.
    Unresolved {
        /// Which one.
        channel: ChannelKey,
        /// The name as it was typed.
        host: String,
        /// The resolver's words.
        cause: String,
    },
    /// A name cannot be looked up any more; its channels keep the addresses that they have.
    ResolveFailed {
        /// The name as it was typed.
        host: String,
        /// The resolver's words.
        cause: String,
    },
    /// A name can be looked up again.
    ResolveBack {
        /// The name as it was typed.
        host: String,
        /// For how long it could not.
        after: Duration,
    },
    /// Channels are to take clients, and not one is up.
    NoChannelUp,
    /// A channel is up again after [`Event::NoChannelUp`].
    ChannelUpAgain {
        /// How long none was.
        after: Duration,
    },
    /// No channel is up: connects are refused.
    Refusing,
    /// A channel is up again after [`Event::Refusing`].
    Welcoming,
    /// There are as many clients as there may be; the next ones wait to be accepted.
    MaxConnections {
        /// The limit that was reached.
        limit: u32,
    },
    /// Clients were not let in. Strangers can cause as many as they like, so this is told once a minute at most.
    ClientsRefused {
        /// How many, since this was told last.
        clients: u64,
        /// The last one of them.
        last: ClientSource,
        /// Why that one.
        reason: End,
    },
    /// A connect to a channel failed; the client's walk goes on.
    ChannelFailed {
        /// Which one.
        channel: ChannelKey,
        /// The address that failed.
        address: Address,
        /// What the system said.
        cause: String,
    },
    /// We could not even try a channel: no descriptor, no source port, `-B` not bindable.
    DialFailed {
        /// Which one was due.
        channel: ChannelKey,
        /// What the system said.
        cause: String,
    },
    /// A client was closed without a channel.
    ClientLost {
        /// Whose connection.
        client: Peers,
        /// Why.
        reason: End,
    },
    /// A client got its channel.
    Opened {
        /// Its address.
        client: Peers,
        /// The channel it got.
        channel: ChannelKey,
        /// The channel's address that answered.
        address: Address,
    },
    /// Its channel closed the connection before anything went over it: the client goes on to another one.
    MovedOn {
        /// Its address.
        client: Peers,
        /// The channel that it had.
        channel: ChannelKey,
    },
    /// A connection ended.
    Closed {
        /// Whose connection.
        client: Peers,
        /// The channel it had.
        channel: ChannelKey,
        /// Bytes client -> channel.
        sent_bytes: u64,
        /// Bytes channel -> client.
        rcvd_bytes: u64,
        /// How.
        how: End,
    },
    /// No descriptor for the next client; accept waits.
    OutOfDescriptors {
        /// The limit that was reached.
        limit: u64,
    },
    /// Accept goes on after [`Event::OutOfDescriptors`].
    DescriptorsBack,
    /// Accept failed for another reason.
    AcceptFailed {
        /// What the system said.
        cause: String,
    },
    /// Nobody will be able to control this instance: no directory or no socket for the rendezvous.
    NoRendezvous {
        /// What was tried and what the system said.
        cause: String,
    },
    /// An operator gave commands that change something.
    Commanded {
        /// Who.
        by: Commander,
        /// The command as typed.
        command: String,
    },
    /// A command by HTTP was refused, since its token was wrong. Strangers can cause as many as they like.
    WrongToken {
        /// Who gave it; unspecified if nobody knows.
        from: IpAddr,
    },
    /// An operator's commands were to change something, and failed.
    CommandFailed {
        /// Who gave them.
        by: Commander,
        /// Those that failed.
        command: String,
        /// How the first one ended.
        exit_code: u8,
    },
    /// The packet dump was switched off because its output went away.
    DumpStopped {
        /// What the system said.
        cause: String,
    },
    /// Lines of the access log are lost.
    AccessLinesDropped {
        /// How many, since this was told last.
        lines: u64,
        /// Why.
        cause: String,
    },
    /// The program of `--event-program` has not done what it was run for.
    HookFailed {
        /// Which program.
        program: String,
        /// How it ended, or why it was not run.
        cause: String,
    },
    /// The program of `--event-program` is too slow for all that happens.
    HookBehind {
        /// So many events it did not hear of.
        skipped: u64,
    },
    /// Nobody read the log, and lines of it are lost.
    LinesDropped {
        /// How many.
        lines: u64,
    },
    /// A signal came that does nothing.
    SignalIgnored {
        /// Its name, without `SIG`.
        signal: String,
        /// Why nothing was done.
        why: &'static str,
    },
    /// A signal or a command ends the instance; the listener is closed, connections live on.
    Stopping {
        /// How many connections there are.
        connections: u64,
        /// How long they may go on; `None`: as long as they like, after `kill`, or not at all.
        within: Option<Duration>,
    },
    /// The last connection ended.
    Drained,
    /// A worker panicked. Always a bug.
    WorkerPanic {
        /// Where or what.
        what: String,
    },
    /// Anything that deserves a line but no variant yet.
    Note {
        /// How much it matters.
        severity: Severity,
        /// The sentence.
        text: String,
    },
}

impl Event {
    /// How much it matters.
    pub fn severity(&self) -> Severity {
        match self {
            Self::OutOfDescriptors { .. } | Self::AcceptFailed { .. } | Self::WorkerPanic { .. } => {
                Severity::Error
            }
            Self::DialFailed { .. }
            | Self::NoRendezvous { .. }
            | Self::DumpStopped { .. }
            | Self::WrongToken { .. }
            | Self::AccessLinesDropped { .. }
            | Self::ResolveFailed { .. }
            | Self::Unresolved { .. }
            | Self::HookFailed { .. }
            | Self::HookBehind { .. }
            | Self::LinesDropped { .. } => Severity::Warning,
            Self::NoChannelUp | Self::ChannelUpAgain { .. } | Self::Refusing => Severity::Error,
            Self::Autodisabled { .. }
            | Self::Ejected { .. }
            | Self::Returned { .. }
            | Self::AddressEjected { .. }
            | Self::AddressReturned { .. }
            | Self::ChannelDown { .. }
            | Self::ChannelUp { .. }
            | Self::Resolved { .. }
            | Self::ResolveBack { .. }
            | Self::Welcoming
            | Self::MaxConnections { .. }
            | Self::ClientsRefused { .. }
            | Self::Commanded { .. }
            | Self::CommandFailed { .. }
            | Self::SignalIgnored { .. }
            | Self::DescriptorsBack => Severity::Notice,
            Self::Started { .. } | Self::Stopping { .. } | Self::Drained => Severity::Info,
            Self::ChannelFailed { .. }
            | Self::ClientLost { .. }
            | Self::Opened { .. }
            | Self::MovedOn { .. }
            | Self::Closed { .. } => Severity::Debug,
            Self::Note { severity, .. } => *severity,
        }
    }

    /// Can anybody cause it who reaches a port of ours, as often as they like?
    pub(super) fn is_by_strangers(&self) -> bool {
        matches!(self, Self::WrongToken { .. })
    }

    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Started { .. } => "started",
            Self::Autodisabled { .. } => "autodisabled",
            Self::Ejected { .. } => "ejected",
            Self::Returned { .. } => "returned",
            Self::AddressEjected { .. } => "address_ejected",
            Self::AddressReturned { .. } => "address_returned",
            Self::ChannelDown { .. } => "channel_down",
            Self::ChannelUp { .. } => "channel_up",
            Self::Resolved { .. } => "resolved",
            Self::Unresolved { .. } => "unresolved",
            Self::ResolveFailed { .. } => "resolve_failed",
            Self::ResolveBack { .. } => "resolve_back",
            Self::NoChannelUp => "no_channel_up",
            Self::ChannelUpAgain { .. } => "channel_up_again",
            Self::Refusing => "refusing",
            Self::Welcoming => "welcoming",
            Self::MaxConnections { .. } => "max_connections",
            Self::ClientsRefused { .. } => "clients_refused",
            Self::ChannelFailed { .. } => "channel_failed",
            Self::DialFailed { .. } => "dial_failed",
            Self::ClientLost { .. } => "client_lost",
            Self::Opened { .. } => "opened",
            Self::MovedOn { .. } => "moved_on",
            Self::Closed { .. } => "closed",
            Self::OutOfDescriptors { .. } => "out_of_descriptors",
            Self::DescriptorsBack => "descriptors_back",
            Self::AcceptFailed { .. } => "accept_failed",
            Self::NoRendezvous { .. } => "no_rendezvous",
            Self::Commanded { .. } => "commanded",
            Self::WrongToken { .. } => "wrong_token",
            Self::CommandFailed { .. } => "command_failed",
            Self::DumpStopped { .. } => "dump_stopped",
            Self::AccessLinesDropped { .. } => "access_lines_dropped",
            Self::HookFailed { .. } => "hook_failed",
            Self::HookBehind { .. } => "hook_behind",
            Self::LinesDropped { .. } => "lines_dropped",
            Self::SignalIgnored { .. } => "signal_ignored",
            Self::Stopping { .. } => "stopping",
            Self::Drained => "drained",
            Self::WorkerPanic { .. } => "worker_panic",
            Self::Note { .. } => "note",
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "event={}", self.name())?;
        match self {
            Self::Started { listen, pid } => {
                let first: Vec<_> = listen.iter().take(MOST_LISTED).map(ToString::to_string).collect();
                write!(f, " listen={}", first.join(","))?;
                match listen.len() {
                    0 | 1 => write!(f, " pid={pid}"),
                    services if services > MOST_LISTED => write!(f, ",... services={services} pid={pid}"),
                    services => write!(f, " services={services} pid={pid}"),
                }
            }
            Self::Autodisabled { channel, address } => {
                write!(f, "{} address={}", Key(*channel), ShownAddress(*address))
            }
            Self::Returned { channel, address, after }
            | Self::AddressReturned { channel, address, after }
            | Self::ChannelUp { channel, address, after } => {
                let (key, address) = (Key(*channel), ShownAddress(*address));
                write!(f, "{key} address={address} after={:.1}s", after.as_secs_f64())
            }
            Self::Resolved { channel, host, now, added, left, changed } => {
                write!(f, "{} host={} addresses={}", Key(*channel), Quoted(host), AddressWords(now))?;
                write!(f, " added={} left={}", AddressWords(added), AddressWords(left))?;
                if changed.is_empty() {
                    Ok(())
                } else {
                    write!(f, " changed={}", Quoted(&changed.join(", ")))
                }
            }
            Self::Unresolved { channel, host, cause } => {
                write!(f, "{} host={} cause={}", Key(*channel), Quoted(host), Quoted(cause))
            }
            Self::ResolveFailed { host, cause } => {
                write!(f, " host={} cause={}", Quoted(host), Quoted(cause))
            }
            Self::ResolveBack { host, after } => {
                write!(f, " host={} after={:.1}s", Quoted(host), after.as_secs_f64())
            }
            Self::MaxConnections { limit } => write!(f, " limit={limit}"),
            Self::ClientsRefused { clients, last, reason } => {
                let last = last.ip().map_or_else(|| last.to_string(), |ip| ip.to_string());
                write!(f, " clients={clients} last={last} reason={}", Quoted(&reason.to_string()))
            }
            Self::ChannelFailed { channel, address, cause }
            | Self::Ejected { channel, address, cause }
            | Self::AddressEjected { channel, address, cause }
            | Self::ChannelDown { channel, address, cause } => {
                let (key, address) = (Key(*channel), ShownAddress(*address));
                write!(f, "{key} address={address} cause={}", Quoted(cause))
            }
            Self::DialFailed { channel, cause } => write!(f, "{} cause={}", Key(*channel), Quoted(cause)),
            Self::ClientLost { client, reason } => {
                write!(f, " client={} reason={}", ClientName(client), Quoted(&reason.to_string()))
            }
            Self::Opened { client, channel, address } => {
                write!(f, " client={}{} address={address}", ClientName(client), Key(*channel))
            }
            Self::MovedOn { client, channel } => {
                write!(f, " client={}{}", ClientName(client), Key(*channel))
            }
            Self::Closed { client, channel, sent_bytes, rcvd_bytes, how } => {
                let (key, how) = (Key(*channel), how.to_string());
                let how = Quoted(&how);
                let client = ClientName(client);
                write!(f, " client={client}{key} sent_bytes={sent_bytes} rcvd_bytes={rcvd_bytes} how={how}")
            }
            Self::OutOfDescriptors { limit } => write!(f, " limit={limit}"),
            Self::AcceptFailed { cause } | Self::NoRendezvous { cause } | Self::DumpStopped { cause } => {
                write!(f, " cause={}", Quoted(cause))
            }
            Self::Commanded { by, command } => write!(f, " {by} command={}", Quoted(command)),
            Self::WrongToken { from } => write!(f, " http={}", ClientName(from)),
            Self::CommandFailed { by, command, exit_code } => {
                write!(f, " {by} exit_code={exit_code} command={}", Quoted(command))
            }
            Self::AccessLinesDropped { lines, cause } => write!(f, " lines={lines} cause={}", Quoted(cause)),
            Self::HookFailed { program, cause } => {
                write!(f, " program={} cause={}", Quoted(program), Quoted(cause))
            }
            Self::HookBehind { skipped } => write!(f, " skipped={skipped}"),
            Self::LinesDropped { lines } => write!(f, " lines={lines}"),
            Self::SignalIgnored { signal, why } => {
                write!(f, " signal={} why={}", Quoted(signal), Quoted(why))
            }
            Self::Stopping { connections, within } => {
                write!(f, " connections={connections}")?;
                within.map_or(Ok(()), |within| write!(f, " within={:.1}s", within.as_secs_f64()))
            }
            Self::WorkerPanic { what } => write!(f, " what={}", Quoted(what)),
            Self::Note { text, .. } => write!(f, " text={}", Quoted(text)),
            Self::ChannelUpAgain { after } => write!(f, " after={:.1}s", after.as_secs_f64()),
            Self::DescriptorsBack | Self::Drained | Self::NoChannelUp | Self::Refusing | Self::Welcoming => {
                Ok(())
            }
        }
    }
}

impl From<Transition> for Event {
    fn from(transition: Transition) -> Self {
        let Transition { channel, address, what } = transition;
        match what {
            Happened::Autodisabled => Self::Autodisabled { channel, address },
            Happened::Ejected(cause) => Self::Ejected { channel, address, cause },
            Happened::Returned(after) => Self::Returned { channel, address, after },
            Happened::Down(cause) => Self::ChannelDown { channel, address, cause },
            Happened::Up(after) => Self::ChannelUp { channel, address, after },
            Happened::AddressEjected(cause) => Self::AddressEjected { channel, address, cause },
            Happened::AddressReturned(after) => Self::AddressReturned { channel, address, after },
        }
    }
}

/// ` group=G channel=C`, with the blank in front.
struct Key(ChannelKey);

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, " group={} channel={}", self.0.group.index(), self.0.channel.index())
    }
}

/// Addresses with commas between, as far as one line has room for them; `-` for none.
struct AddressWords<'a>(&'a [String]);

impl fmt::Display for AddressWords<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, address) in self.0.iter().take(MOST_LISTED).enumerate() {
            write!(f, "{}{address}", if number > 0 { "," } else { "" })?;
        }
        match self.0.len() {
            0 => f.write_str("-"),
            1..=MOST_LISTED => Ok(()),
            _ => f.write_str(",..."),
        }
    }
}

/// A client's address, or `-` if nobody knows it.
pub(super) struct ClientName<'a, T>(pub(super) &'a T);

impl fmt::Display for ClientName<'_, IpAddr> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_unspecified() { f.write_str("-") } else { self.0.fmt(f) }
    }
}

impl fmt::Display for ClientName<'_, ClientSource> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_unknown() { f.write_str("-") } else { self.0.fmt(f) }
    }
}

impl fmt::Display for ClientName<'_, Peers> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        ClientName(&self.0.client()).fmt(f)?;
        self.0.via().map_or(Ok(()), |via| write!(f, " via={via}"))
    }
}

/// A value of any text: bare if it is one plain word, otherwise quoted, with everything escaped that could end the line
/// or the quotes. A stranger's bytes must not be able to forge a second event.
pub(super) struct Quoted<'a>(pub(super) &'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_plain = |c: char| c.is_ascii_graphic() && !matches!(c, '"' | '\\' | '=');
        if !self.0.is_empty() && self.0.chars().all(is_plain) {
            f.write_str(self.0)
        } else {
            write!(f, "{:?}", self.0)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sched::{ChannelId, GroupId, Loss};
    use std::net::SocketAddr;

    fn key(group: usize, channel: usize) -> ChannelKey {
        let group = GroupId::new(group).expect("a small number");
        ChannelKey { group, channel: ChannelId::new(channel).expect("a small number") }
    }

    #[test]
    fn an_event_is_one_line_of_keys_and_values() {
        let address = SocketAddr::from(([10, 0, 0, 1], 80));
        for (event, line) in [
            (
                Event::Started { listen: vec![address.into()], pid: 7 },
                "event=started listen=10.0.0.1:80 pid=7",
            ),
            (
                Event::Started {
                    listen: vec![address.into(), SocketAddr::from(([10, 0, 0, 2], 25)).into()],
                    pid: 7,
                },
                "event=started listen=10.0.0.1:80,10.0.0.2:25 services=2 pid=7",
            ),
            (
                Event::Started { listen: vec![address.into(); 10_000], pid: 7 },
                &format!("event=started listen={}... services=10000 pid=7", "10.0.0.1:80,".repeat(16)),
            ),
            (
                Event::Autodisabled { channel: key(1, 2), address: address.into() },
                "event=autodisabled group=1 channel=2 address=10.0.0.1:80",
            ),
            (
                Event::Ejected {
                    channel: key(0, 1),
                    address: ([10, 0, 0, 1], 0).into(),
                    cause: "refused".into(),
                },
                "event=ejected group=0 channel=1 address=10.0.0.1 cause=refused",
            ),
            (
                Event::ChannelFailed {
                    channel: key(0, 3),
                    address: address.into(),
                    cause: "timed out".into(),
                },
                r#"event=channel_failed group=0 channel=3 address=10.0.0.1:80 cause="timed out""#,
            ),
            (
                Event::ClientLost { client: address.into(), reason: End::Lost(Loss::QueueFull) },
                "event=client_lost client=10.0.0.1:80 reason=\"queue full\"",
            ),
            (Event::OutOfDescriptors { limit: 20_000 }, "event=out_of_descriptors limit=20000"),
            (Event::Stopping { connections: 3, within: None }, "event=stopping connections=3"),
            (
                Event::Stopping { connections: 3, within: Some(Duration::from_secs(30)) },
                "event=stopping connections=3 within=30.0s",
            ),
            (Event::Drained, "event=drained"),
        ] {
            assert_eq!(event.to_string(), line);
        }
    }

    #[test]
    fn no_text_can_forge_a_second_line_or_key() {
        for hostile in ["a\nevent=drained", "a\r", "\u{1b}[2J", "x\" limit=1", "", "a=b", "\u{2028}"] {
            let line = Event::AcceptFailed { cause: hostile.into() }.to_string();
            assert!(!line.chars().any(char::is_control), "{line:?}");
            assert!(line.starts_with("event=accept_failed cause=\"") && line.ends_with('"'), "{line:?}");
            assert_eq!(line.replace("\\\"", "").matches('"').count(), 2, "{line:?}");
        }
    }

    #[test]
    fn a_lost_client_is_debug_and_a_lack_of_descriptors_an_error() {
        let client = SocketAddr::from(([10, 0, 0, 1], 80)).into();
        assert_eq!(Event::ClientLost { client, reason: End::Idle }.severity(), Severity::Debug);
        assert_eq!(Event::OutOfDescriptors { limit: 1 }.severity(), Severity::Error);
        assert_eq!(
            Event::Note { severity: Severity::Notice, text: String::new() }.severity(),
            Severity::Notice
        );
    }
}
