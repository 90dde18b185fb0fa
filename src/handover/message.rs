//! All that a process and its successor say to each other.
//!
//! Knows: the messages and what each promises. Never: when one is sent, descriptors as such.
//!
//! Values may be added that have a default; whatever is changed otherwise needs another [`FORMAT`]. What [`Offer`] and [`Acceptance`] have
//! today stays for ever: by them two processes of any versions agree how much they can hand over.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::connection::ConnectionRecord;
use super::table::{ChannelTallyRecord, HealthRecord, ServiceTallyRecord, TableRecord};
use crate::spec::Address;

/// What this version writes and understands.
pub const FORMAT: u32 = 1;

/// From the process that is there to the one that comes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FromPredecessor {
    /// The first message: what there is to take over.
    Offer(Offer),
    /// In place of an offer: nothing can be taken over, for this reason.
    Unwilling(String),
    /// Serve from now on. The process that sends this accepts no more clients.
    Go(Box<Go>),
    /// Connections; their descriptors come with it, and the bytes they hold behind it.
    Batch(Batch),
    /// How many connections the predecessor still has.
    Left(Vec<LeftCount>),
    /// That was all.
    Done(Done),
}

/// From the process that comes to the one that is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FromSuccessor {
    /// It has looked at what is offered and at its own configuration, and can serve.
    Ready(Acceptance),
    /// It accepts clients.
    Serving,
    /// The connections of this batch are its own from now on. It has touched none of them before it said so.
    Taken(u64),
    /// It cannot have this batch now, for this reason, and has closed its descriptors untouched.
    Refused(u64, String),
    /// It has heard that this was all. The process that gets this may end.
    Settled,
    /// It cannot serve, for this reason, and ends.
    Failed(String),
}

/// What there is to take over. With it come the descriptors of all listeners, service by service, then that of the control socket,
/// then that of HTTP.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// The [`FORMAT`] of everything that is to come.
    pub format: u32,
    /// What the predecessor calls its version.
    pub version: String,
    /// The services, in order.
    pub services: Vec<OfferedService>,
    /// The control socket, if there is one.
    pub control: Option<OfferedControl>,
    /// Only listeners are offered: connections stay where they are.
    #[serde(default)]
    pub listeners_only: bool,
    /// When the predecessor's time began, by the system's clock that only goes forward: the successor's goes on from there.
    #[serde(default)]
    pub began: Duration,
    /// What hosts meant when they were looked up last.
    #[serde(default)]
    pub hosts: BTreeMap<String, Vec<SocketAddr>>,
    /// Where the program was started from, links and all; any bytes.
    #[serde(default)]
    pub program: Vec<u8>,
    /// Where HTTP is answered.
    #[serde(default)]
    pub http: Option<SocketAddr>,
    /// The predecessor could not have its state file, and keeps nothing.
    #[serde(default)]
    pub keeps_no_state: bool,
    /// The kernel keeps it to the files that it was started with (`--landlock`), and so its successor.
    #[serde(default)]
    pub is_fenced: bool,
}

/// One service of the predecessor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OfferedService {
    /// What it is called.
    pub name: Option<String>,
    /// Where its line has it listen.
    pub place: Address,
    /// Where its listeners listen: one descriptor each.
    pub listen: Vec<Address>,
    /// The device and the number of its Unix socket's file, which the successor is to take away at its end. `None`: there is none, or it is
    /// somebody else's.
    #[serde(default)]
    pub file: Option<(u64, u64)>,
    /// The ports of listeners that the service manager has, too.
    #[serde(default)]
    pub passed: Vec<u16>,
    /// Its line as it was given, as a file of lines has it.
    pub line: String,
    /// The addresses that connections come from, where its line gives some.
    #[serde(default)]
    pub sources: Vec<SocketAddr>,
}

/// The control socket and its names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OfferedControl {
    /// Where they are.
    pub directory: PathBuf,
    /// May all users have entries there?
    pub is_shared: bool,
    /// Each with the name of the file that it is just now.
    pub names: Vec<(String, String)>,
    /// Those of services that were stopped.
    pub stopped: Vec<String>,
    /// A group may use it, too.
    pub group_named: bool,
}

/// The answer to an offer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acceptance {
    /// The [`FORMAT`] that the successor understands: if it is not the one offered, only listeners change hands.
    pub format: u32,
    /// What the successor calls its version.
    pub version: String,
    /// Which of the services offered it serves, by their numbers in the offer.
    pub services: Vec<usize>,
}

/// The state of everything at the moment when the predecessor stopped accepting clients.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Go {
    /// Numbers of connections below this one are taken.
    pub next_id: u64,
    /// How many connections the predecessor has.
    pub connections: u64,
    /// The services, in the order of the offer. Empty where only listeners change hands.
    pub services: Vec<ServiceRecord>,
    /// The last events, oldest first.
    #[serde(default)]
    pub events: Vec<EventRecord>,
    /// Are debug events logged, if an operator has said so?
    #[serde(default)]
    pub debug: Option<bool>,
}

/// An event that was told.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventRecord {
    /// When, in milliseconds since 1970.
    pub at: u64,
    /// How much it matters, in a word.
    pub level: String,
    /// Whose it is: `None`: the process's; otherwise the service's of this number in the offer. A number that none has there is
    /// that of a service which is gone.
    pub service: Option<usize>,
    /// What the log says of it.
    pub line: String,
}

/// A service as it is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ServiceRecord {
    /// Its channels.
    pub table: TableRecord,
    /// The channels of its line, by group: which of the table each one is.
    pub lined: Vec<LinedGroupRecord>,
    /// It takes no clients any more.
    #[serde(default)]
    pub killed: bool,
    /// Its clients, those that wait included.
    #[serde(default)]
    pub connections: usize,
    /// Networks that operators have denied.
    #[serde(default)]
    pub denied: Vec<DenialRecord>,
    /// How many connections each client has, where those are counted.
    #[serde(default)]
    pub clients: Vec<(IpAddr, u32)>,
}

/// A network that an operator has denied.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DenialRecord {
    /// As operators type it.
    pub net: String,
    /// Until when: by the clock of the instance, which goes on, and in seconds since 1970. `None`: for good.
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
    /// Its number in the table; `None`: an operator has taken it away.
    pub number: Option<usize>,
    /// What its host meant when the line was read.
    pub addresses: Vec<Address>,
    /// Its port, which is told where it meant nothing.
    #[serde(default)]
    pub port: u16,
}

/// Some connections.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    /// Counts from 1.
    pub number: u64,
    /// One or two descriptors each: the client's, then the channel's if it has one.
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
    /// So many, those that are dialled included. Those in batches that were sent are not.
    pub active: u32,
}

/// The end of the hand-over.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Done {
    /// What the predecessor has counted since [`Go`], to be added.
    pub counted: Vec<Counted>,
    /// The same for what is counted of whole services.
    #[serde(default)]
    pub served: Vec<ServiceCounted>,
    /// How many connections stay with the predecessor, which has no service for them any more in its successor.
    pub draining: u64,
    /// What the predecessor was asked to do in the meantime, and its successor is to do.
    #[serde(default)]
    pub asked: Option<EndAsked>,
    /// The channels that are ejected: attempts that began before [`Go`] may have failed since.
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
    /// What is known of it.
    pub health: HealthRecord,
}

/// What a process is asked to do that is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndAsked {
    /// Take no clients any more, and end with the last connection.
    Drain,
    /// End at once.
    AtOnce,
}

/// What was counted of a channel.
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
    /// Bytes client -> channel.
    pub sent_bytes: u64,
    /// Bytes channel -> client.
    pub rcvd_bytes: u64,
    /// How its connections ended, and how long they took.
    #[serde(default)]
    pub tally: ChannelTallyRecord,
}

/// What was counted of a service's clients, whatever channel they had.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceCounted {
    /// The service's number in the offer.
    pub service: usize,
    /// How they ended, and how long they waited in line.
    pub tally: ServiceTallyRecord,
    /// Clients lost before they had a channel, by the word for why.
    pub losses: Vec<(String, u64)>,
}
