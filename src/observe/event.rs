//! Every event that an operator is told, and its log line.
//!
//! Knows: names, severities, `key=value` text. Never: sinks, time, why an event happened.
//! Source: style.md, "Logs"; one event, one line, key=value.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use crate::sched::{
    Address, ChannelKey, ClientSource, End, Happened, ListenSpan, Peers, ShownAddress, Transition,
};

/// How much an event matters, with syslog's names and order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The service is impaired; somebody should act.
    Error,
    /// The service goes on, but something is missing.
    Warning,
    /// Normal, but worth an operator's attention: a channel went down.
    Notice,
    /// The life of the instance itself: started, stopping.
    Info,
    /// Details of a single client or connection. Logged only with `-d`.
    Debug,
}

impl Severity {
    /// The name in the log line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Notice => "notice",
            Self::Info => "info",
            Self::Debug => "debug",
        }
    }

    /// The severity with this name; `None` for another word.
    pub fn named(word: &str) -> Option<Self> {
        [Self::Error, Self::Warning, Self::Notice, Self::Info, Self::Debug]
            .into_iter()
            .find(|one| one.name() == word)
    }

    /// Syslog's number for it (RFC 5424, 6.2.1).
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

/// Maximum number of addresses in one line.
const MOST_LISTED: usize = 16;

/// Who gave a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Commander {
    /// A user of this host with this user ID, by the control socket.
    Uid(u32),
    /// A client at this address who has the token, by HTTP.
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

/// One event. `Display` prints its line: `event=NAME key=value ...`, printable and without line breaks,
/// whatever the causes contain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The instance has started to serve.
    Started {
        /// The addresses it listens on, service by service.
        listen: Vec<ListenSpan>,
        /// Its process ID.
        pid: u32,
    },
    /// `-a` disabled a channel because a connect to it failed.
    Autodisabled {
        /// The channel.
        channel: ChannelKey,
        /// The address that failed.
        address: Address,
    },
    /// A client's connect to a channel failed. The channel gets no clients until a probe succeeds.
    Ejected {
        /// The channel.
        channel: ChannelKey,
        /// Its address.
        address: Address,
        /// Why the connect failed.
        cause: String,
    },
    /// An ejected channel answers again and gets clients.
    Returned {
        /// The channel.
        channel: ChannelKey,
        /// Its address.
        address: Address,
        /// How long it was ejected.
        after: Duration,
    },
    /// One of a channel's addresses did not answer. It is tried after the others until a probe of it
    /// succeeds.
    AddressEjected {
        /// The channel.
        channel: ChannelKey,
        /// The address.
        address: Address,
        /// Why the attempt failed.
        cause: String,
    },
    /// One of a channel's addresses answers again.
    AddressReturned {
        /// The channel.
        channel: ChannelKey,
        /// The address.
        address: Address,
        /// How long it was ejected.
        after: Duration,
    },
    /// Health checks report a channel as down.
    ChannelDown {
        /// The channel.
        channel: ChannelKey,
        /// Its address.
        address: Address,
        /// Why the last check failed.
        cause: String,
    },
    /// Health checks report a channel as up again.
    ChannelUp {
        /// The channel.
        channel: ChannelKey,
        /// Its address.
        address: Address,
        /// How long it was down.
        after: Duration,
    },
    /// The name of a channel has other addresses now.
    Resolved {
        /// The channel.
        channel: ChannelKey,
        /// The name as it was typed.
        host: String,
        /// All its present addresses; for a word that stands for a set of channels, as `host:port`.
        now: Vec<String>,
        /// The new ones among them.
        added: Vec<String>,
        /// Addresses that were removed; they get no new connections.
        left: Vec<String>,
        /// What else the records of a service name changed about targets that remain.
        changed: Vec<String>,
    },
    /// The name of a channel has no address any more, which was confirmed by several answers.
    Unresolved {
        /// The channel.
        channel: ChannelKey,
        /// The name as it was typed.
        host: String,
        /// The resolver's words.
        cause: String,
    },
    /// A name cannot be looked up; its channels keep their addresses.
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
        /// How long it could not be looked up.
        after: Duration,
    },
    /// There are channels that should take clients, but none of them is up.
    NoChannelUp,
    /// A channel is up again after [`Event::NoChannelUp`].
    ChannelUpAgain {
        /// How long none was up.
        after: Duration,
    },
    /// No channel is up, so connects are refused from now on.
    Refusing,
    /// A channel is up again after [`Event::Refusing`].
    Welcoming,
    /// The maximum number of connections is reached; further clients wait to be accepted.
    MaxConnections {
        /// The limit.
        limit: u32,
    },
    /// Clients were not let in. Anyone can cause this as often as they like, so it is logged at most once a
    /// minute.
    ClientsRefused {
        /// How many clients since the last such event.
        clients: u64,
        /// The last of them.
        last: ClientSource,
        /// Why that one was refused.
        reason: End,
    },
    /// There is no room for the first bytes of a client, since too much of others, or of its own, is not
    /// complete. Anyone can cause this as often as they like, so it is logged at most once a minute.
    GreetingsFull {
        /// A client whose bytes wait.
        last: ClientSource,
        /// Which limit is reached.
        cause: String,
    },
    /// A connect to a channel failed; the next channel is tried for the client.
    ChannelFailed {
        /// The channel.
        channel: ChannelKey,
        /// The address that failed.
        address: Address,
        /// What the system said.
        cause: String,
    },
    /// A channel could not be tried for a reason on balance's side: no descriptor, no source port, `-B`
    /// cannot be bound.
    DialFailed {
        /// The channel that was to be tried.
        channel: ChannelKey,
        /// What the system said.
        cause: String,
    },
    /// A client was closed before it had a channel.
    ClientLost {
        /// The client.
        client: Peers,
        /// The reason.
        reason: End,
    },
    /// A client got its channel.
    Opened {
        /// The client.
        client: Peers,
        /// The channel.
        channel: ChannelKey,
        /// The channel's address that answered.
        address: Address,
    },
    /// The channel closed the connection before any byte went over it, so the client moves to another
    /// channel.
    MovedOn {
        /// The client.
        client: Peers,
        /// The channel that it left.
        channel: ChannelKey,
    },
    /// A connection ended.
    Closed {
        /// The client.
        client: Peers,
        /// Its channel.
        channel: ChannelKey,
        /// Bytes from client to channel.
        sent_bytes: u64,
        /// Bytes from channel to client.
        rcvd_bytes: u64,
        /// How it ended.
        how: End,
    },
    /// There is no descriptor for the next client; accept waits.
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
    /// The control socket or its directory could not be made, so commands cannot reach this instance.
    NoRendezvous {
        /// What was tried and what the system said.
        cause: String,
    },
    /// An operator gave commands that change something.
    Commanded {
        /// Who gave them.
        by: Commander,
        /// The commands as typed.
        command: String,
    },
    /// A command by HTTP was refused because its token was wrong. Anyone can cause this as often as they
    /// like.
    WrongToken {
        /// The client's address; unspecified if unknown.
        from: IpAddr,
    },
    /// Commands of an operator that were to change something failed.
    CommandFailed {
        /// Who gave them.
        by: Commander,
        /// The commands that failed.
        command: String,
        /// The exit code of the first one.
        exit_code: u8,
    },
    /// The packet dump was switched off because its output failed.
    DumpStopped {
        /// What the system said.
        cause: String,
    },
    /// Lines of the access log were lost.
    AccessLinesDropped {
        /// How many since the last such event.
        lines: u64,
        /// Why.
        cause: String,
    },
    /// The program of `--event-program` failed, or could not be run.
    HookFailed {
        /// The program.
        program: String,
        /// How it ended, or why it was not run.
        cause: String,
    },
    /// The program of `--event-program` is too slow for the number of events.
    HookBehind {
        /// How many events it was not run for.
        skipped: u64,
    },
    /// Lines of the log were lost because nobody read them.
    LinesDropped {
        /// How many.
        lines: u64,
    },
    /// A signal arrived that has no effect.
    SignalIgnored {
        /// Its name without `SIG`.
        signal: String,
        /// Why it has no effect.
        why: &'static str,
    },
    /// A signal or command stops the instance: it no longer listens, and connections go on.
    Stopping {
        /// How many connections there are.
        connections: u64,
        /// How long they may go on. `None`: without limit, after `kill`, or not at all.
        within: Option<Duration>,
    },
    /// The last connection has ended.
    Drained,
    /// A worker panicked. This is always a bug.
    WorkerPanic {
        /// Where it happened, or what.
        what: String,
    },
    /// An event that has no variant of its own.
    Note {
        /// How much it matters.
        severity: Severity,
        /// The text.
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
            | Self::GreetingsFull { .. }
            | Self::NoRendezvous { .. }
            | Self::DumpStopped { .. }
            | Self::WrongToken { .. }
            | Self::AccessLinesDropped { .. }
            | Self::ResolveFailed { .. }
            | Self::Unresolved { .. }
            | Self::HookFailed { .. }
            | Self::HookBehind { .. }
            | Self::LinesDropped { .. } => Severity::Warning,
            Self::NoChannelUp | Self::Refusing => Severity::Error,
            Self::Autodisabled { .. }
            | Self::Ejected { .. }
            | Self::Returned { .. }
            | Self::AddressEjected { .. }
            | Self::AddressReturned { .. }
            | Self::ChannelDown { .. }
            | Self::ChannelUp { .. }
            | Self::Resolved { .. }
            | Self::ResolveBack { .. }
            | Self::ChannelUpAgain { .. }
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

    /// Can anyone who reaches a port cause it as often as they like?
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
            Self::GreetingsFull { .. } => "greetings_full",
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
            Self::GreetingsFull { last, cause } => {
                let last = last.ip().map_or_else(|| last.to_string(), |ip| ip.to_string());
                write!(f, " last={last} cause={}", Quoted(cause))
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

/// Prints ` group=G channel=C`, with the blank in front.
struct Key(ChannelKey);

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, " group={} channel={}", self.0.group.index(), self.0.channel.index())
    }
}

/// Prints addresses with commas between them, at most [`MOST_LISTED`]; `-` if there are none.
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

/// Prints a client's address, or `-` if it is unknown.
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

/// Prints a value: bare if it is one plain word, otherwise quoted, with everything escaped that could end the
/// line or the quotes. So bytes from a client or server cannot forge an event.
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
