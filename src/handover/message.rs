//! All messages between a process and its successor.
//!
//! Knows: the messages and what each one promises. Never: when a message is sent, descriptors as such.
//!
//! A value may be added if it has a default; any other change needs another [`FORMAT`]. The fields that
//! [`Offer`] and [`Acceptance`] have today must stay for ever: with them, two processes of any versions agree
//! on what they can hand over.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::connection::ConnectionRecord;
use super::table::{ChannelTallyRecord, HealthRecord, ServiceTallyRecord, TableRecord};
use crate::spec::Address;

/// The format that this version writes and reads.
pub const FORMAT: u32 = 1;

/// From the predecessor to the successor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FromPredecessor {
    /// The first message: what can be taken over.
    Offer(Offer),
    /// Sent instead of an offer: nothing can be taken over, for this reason.
    Unwilling(String),
    /// The successor must serve from now on. The sender accepts no more clients.
    Go(Box<Go>),
    /// Connections. Their descriptors come with the message, and the bytes that they hold follow it.
    Batch(Batch),
    /// How many connections the predecessor still has.
    Left(Vec<LeftCount>),
    /// Nothing more will come.
    Done(Done),
}

/// From the successor to the predecessor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FromSuccessor {
    /// The successor has looked at the offer and at its own configuration, and can serve.
    Ready(Acceptance),
    /// The successor accepts clients.
    Serving,
    /// The connections of the batch with this number belong to the successor from now on. It has not touched
    /// any of them before it sent this.
    Taken(u64),
    /// The successor cannot take the batch with this number now, for this reason. It has closed the
    /// descriptors without touching the connections.
    Refused(u64, String),
    /// The successor has received [`FromPredecessor::Done`]. The predecessor may end.
    Settled,
    /// The successor cannot serve, for this reason, and ends.
    Failed(String),
}

/// What can be taken over. The descriptors come with it: all listening sockets, service by service, then the
/// control socket, then that of HTTP.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// The [`FORMAT`] of all messages that follow.
    pub format: u32,
    /// The predecessor's version.
    pub version: String,
    /// The services, in order.
    pub services: Vec<OfferedService>,
    /// The control socket. `None`: there is none.
    pub control: Option<OfferedControl>,
    /// Whether only listening sockets are offered; connections stay with the predecessor.
    #[serde(default)]
    pub listeners_only: bool,
    /// The predecessor's start on the monotonic clock of the system. The successor counts its times from
    /// there.
    #[serde(default)]
    pub began: Duration,
    /// The results of the last lookups of host names.
    #[serde(default)]
    pub hosts: BTreeMap<String, Vec<SocketAddr>>,
    /// The path that the program was started from, with its links; it may be any bytes.
    #[serde(default)]
    pub program: Vec<u8>,
    /// The address of HTTP. `None`: off.
    #[serde(default)]
    pub http: Option<SocketAddr>,
    /// Whether the predecessor could not open its state file, and saves nothing.
    #[serde(default)]
    pub keeps_no_state: bool,
    /// Whether the kernel restricts the predecessor to its own files (`--landlock`). Its successor inherits
    /// the restriction.
    #[serde(default)]
    pub is_fenced: bool,
}

/// One service of the predecessor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OfferedService {
    /// Its name. `None`: it has none.
    pub name: Option<String>,
    /// The listen address of its line.
    pub place: Address,
    /// The addresses of its listening sockets; one descriptor comes for each.
    pub listen: Vec<Address>,
    /// The device and the inode of its Unix socket's file, which the successor must remove when it ends.
    /// `None`: it has none, or another process owns it.
    #[serde(default)]
    pub file: Option<(u64, u64)>,
    /// The ports whose listening sockets the service manager holds, too (socket activation).
    #[serde(default)]
    pub passed: Vec<u16>,
    /// Its line as a file of services has it, without what commands changed.
    pub line: String,
    /// The source addresses (`-B`). Empty: not given.
    #[serde(default)]
    pub sources: Vec<SocketAddr>,
}

/// The control socket and its names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OfferedControl {
    /// The directory of the names.
    pub directory: PathBuf,
    /// Whether the directory is shared by all users.
    pub is_shared: bool,
    /// Each name, and the name of the file that it refers to at the moment.
    pub names: Vec<(String, String)>,
    /// The names of services that were stopped.
    pub stopped: Vec<String>,
    /// Whether a group may use it, too (`--control-group`).
    pub group_named: bool,
}

/// The answer to an offer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acceptance {
    /// The [`FORMAT`] that the successor reads. If it differs from the offered one, only listening sockets
    /// are handed over.
    pub format: u32,
    /// The successor's version.
    pub version: String,
    /// Which of the offered services the successor serves, by their numbers in the offer.
    pub services: Vec<usize>,
}

/// The whole state at the moment when the predecessor stopped accepting clients.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Go {
    /// All connection numbers below this one are used.
    pub next_id: u64,
    /// How many connections the predecessor has.
    pub connections: u64,
    /// The services, in the order of the offer. Empty if only listening sockets are handed over.
    pub services: Vec<ServiceRecord>,
    /// The last events, oldest first.
    #[serde(default)]
    pub events: Vec<EventRecord>,
    /// Whether debug events are logged, by the command `debug`. `None`: the command was not used.
    #[serde(default)]
    pub debug: Option<bool>,
}

/// An event that was logged.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventRecord {
    /// Its time, in milliseconds since 1970.
    pub at: u64,
    /// The word of its level.
    pub level: String,
    /// The service that it is about, by its number in the offer; a number that is not in the offer is that of
    /// a service that no longer exists. `None`: the whole process.
    pub service: Option<usize>,
    /// Its text in the log.
    pub line: String,
}

/// The state of a service.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ServiceRecord {
    /// Its channels.
    pub table: TableRecord,
    /// The channels of its line, by group: which channel of the table each one is.
    pub lined: Vec<LinedGroupRecord>,
    /// Whether the command `kill` stopped it.
    #[serde(default)]
    pub killed: bool,
    /// The number of its clients, waiting ones included.
    #[serde(default)]
    pub connections: usize,
    /// Networks that the command `deny` refuses.
    #[serde(default)]
    pub denied: Vec<DenialRecord>,
    /// How many connections each client has. Empty if they are not counted.
    #[serde(default)]
    pub clients: Vec<(IpAddr, u32)>,
}

/// A network that the command `deny` refuses.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DenialRecord {
    /// The network as it is typed.
    pub net: String,
    /// The end of the denial: on the clock of the instance, which the successor continues, and in seconds
    /// since 1970. `None`: it has no end.
    pub until: Option<(Duration, u64)>,
}

/// A group of a line.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinedGroupRecord {
    /// Its channels, in the order of the line.
    pub channels: Vec<LinedChannelRecord>,
}

/// A channel of a line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinedChannelRecord {
    /// Its number in the table. `None`: a command removed it.
    pub number: Option<usize>,
    /// The addresses that its host had when the line was read.
    pub addresses: Vec<Address>,
    /// Its port; needed if there are no addresses.
    #[serde(default)]
    pub port: u16,
}

/// A batch of connections.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    /// The number of the batch, from 1.
    pub number: u64,
    /// The connections. One or two descriptors come for each: the client's, then the channel's if it has one.
    pub connections: Vec<ConnectionRecord>,
}

/// How many connections of a channel the predecessor has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftCount {
    /// The service's number in the offer.
    pub service: usize,
    /// The group's number.
    pub group: usize,
    /// The channel's number.
    pub channel: usize,
    /// The number of connections, including attempts to connect. Those in batches that were sent do not
    /// count.
    pub active: u32,
}

/// The end of the handover.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Done {
    /// What the predecessor has counted for each channel since [`Go`]. The successor adds it.
    pub counted: Vec<Counted>,
    /// The same for whole services.
    #[serde(default)]
    pub served: Vec<ServiceCounted>,
    /// How many connections stay with the predecessor because the successor does not have their service.
    pub draining: u64,
    /// What the predecessor was asked to do meanwhile, and the successor must do. `None`: nothing.
    #[serde(default)]
    pub asked: Option<EndAsked>,
    /// The channels that are ejected: connects that began before [`Go`] may have failed since then.
    #[serde(default)]
    pub ejected: Vec<EjectedRecord>,
}

/// A channel that is ejected.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct EjectedRecord {
    /// The service's number in the offer.
    pub service: usize,
    /// The number of the channel's group.
    pub group: usize,
    /// Its number in the group.
    pub channel: usize,
    /// What is known of its health.
    pub health: HealthRecord,
}

/// How a process was asked to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndAsked {
    /// Accept no more clients, and end with the last connection.
    Drain,
    /// End at once.
    AtOnce,
}

/// What was counted for a channel.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counted {
    /// The service's number in the offer.
    pub service: usize,
    /// The group's number.
    pub group: usize,
    /// The channel's number.
    pub channel: usize,
    /// Connections handed to it.
    pub totalc: u64,
    /// Failed attempts.
    pub failed: u64,
    /// Bytes from clients to the channel.
    pub sent_bytes: u64,
    /// Bytes from the channel to clients.
    pub rcvd_bytes: u64,
    /// How its connections ended, and how long they took.
    #[serde(default)]
    pub tally: ChannelTallyRecord,
}

/// What was counted for the clients of a service, whatever channel they had.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceCounted {
    /// The service's number in the offer.
    pub service: usize,
    /// How the clients ended, and how long they waited.
    pub tally: ServiceTallyRecord,
    /// The clients that were lost before they had a channel, by the word for the reason.
    pub losses: Vec<(String, u64)>,
}
