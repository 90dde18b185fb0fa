//! One client's connection as it goes from process to process.
//!
//! Knows: what cannot be asked of its sockets. Never: the sockets, the bytes themselves (they come behind the message).

use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::spec::{Address, ClientSource};

/// What is known of a connection. Times are ages, so that no clock has to agree with another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionRecord {
    /// The service's number in the offer.
    pub service: usize,
    /// What operators call it by.
    pub id: u64,
    /// Who has connected to us.
    pub client: ClientSource,
    /// What that one has said of the client that it speaks for.
    #[serde(default)]
    pub announced: Option<Box<AnnouncedRecord>>,
    /// How far it is.
    pub stage: StageRecord,
    /// If it has no channel: so many bytes were read of it. They come behind the message, in the order of connections.
    #[serde(default)]
    pub held: usize,
    /// Since it was accepted.
    pub age: Duration,
    /// Since bytes moved last.
    pub idle: Duration,
    /// Since one direction has ended, if one has.
    pub half_closed: Option<Duration>,
    /// After which it has lived for long enough; `None`: no limit.
    pub expires_in: Option<Duration>,
    /// Bytes delivered to the client and to the channel.
    pub delivered: [u64; 2],
    /// Bytes that both had acknowledged when that was asked last.
    pub acknowledged: u64,
    /// Its peers are asked whether they are still there.
    pub asked_often: bool,
    /// It was told to begin with TLS, so its channel is to be asked for that first.
    #[serde(default)]
    pub asks_for_tls: bool,
    /// The channels that have closed its connection at once: the numbers of each one's group and of itself.
    #[serde(default)]
    pub past: Vec<(usize, usize)>,
    /// What was gathered for the access log.
    #[serde(default)]
    pub trace: Option<Box<TraceRecord>>,
}

/// What the access log will tell of a connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceRecord {
    /// When it was accepted, since 1970.
    pub began: Duration,
    /// Attempts that came to nothing.
    pub failed: Vec<FailedAttemptRecord>,
    /// How many attempts were made.
    pub attempts: u32,
    /// How long it waited in line.
    pub queued: Option<Duration>,
    /// How long the attempt took that succeeded.
    pub connect: Option<Duration>,
    /// The address that answered.
    pub address: Option<Address>,
    /// From the beginning until the channel's first byte was delivered.
    pub first_byte: Option<Duration>,
}

/// An attempt that came to nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedAttemptRecord {
    /// The group's number.
    pub group: usize,
    /// The channel's number.
    pub channel: usize,
    /// At which address.
    pub address: Address,
    /// Why.
    pub error: AttemptErrorRecord,
}

/// Why an attempt came to nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AttemptErrorRecord {
    /// A cause, by its words.
    Known(String),
    /// The error number of the system.
    System(i32),
}

/// How far a client is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StageRecord {
    /// It has no channel, and waits for none: it is to be served as one that comes anew. What it holds goes to its channel first.
    Greeting,
    /// What has to be heard of it first has not come as a whole; what has come is what it holds.
    Unheard(UnheardRecord),
    /// In line.
    Waiting(WaitingRecord),
    /// Connected to a channel.
    Relaying(Box<RelayingRecord>),
}

/// A client whose first bytes have to be read before a channel is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnheardRecord {
    /// How much longer that is waited for.
    pub left: Duration,
    /// A header of the PROXY protocol is to come first.
    #[serde(default = "yes")]
    pub header: bool,
    /// What it asks for is to be known.
    #[serde(default)]
    pub hello: bool,
    /// It may ask for TLS before it begins with it.
    #[serde(default)]
    pub may_ask: bool,
}

fn yes() -> bool {
    true
}

/// What a proxy has said of its client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnnouncedRecord {
    /// The client and the address that it came to, if it has said that.
    pub addresses: Option<[SocketAddr; 2]>,
    /// What else it has said, as it came.
    pub tlvs: Vec<u8>,
}

/// A place in line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaitingRecord {
    /// Places are served in this order.
    pub ticket: u64,
    /// How much longer it would wait.
    pub left: Duration,
    /// How long it has waited.
    #[serde(default)]
    pub waited: Duration,
    /// It waits because of a pause.
    pub in_pause: bool,
}

/// A connection to a channel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayingRecord {
    /// The group's number.
    pub group: usize,
    /// The channel's number.
    pub channel: usize,
    /// Its relay.
    pub relay: RelayRecord,
}

/// What a relay knows that the kernel does not. Sides are the client (0) and the channel (1).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayRecord {
    /// `flows[s]` carries bytes from side `s` to the other.
    pub flows: [FlowRecord; 2],
    /// Which sides are gone.
    pub gone: [bool; 2],
    /// Which sides have an end or an error to be read that was announced.
    pub closed: [bool; 2],
    /// Which sides have an urgent byte on its way that was announced.
    #[serde(default)]
    pub marked: [bool; 2],
    /// One direction has ended.
    pub half_closed: bool,
    /// Which side ended first, and was that by being gone?
    pub first_end: Option<(u8, bool)>,
}

/// One direction.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowRecord {
    /// How far it is.
    pub stage: FlowStageRecord,
    /// So many bytes were read and not delivered. They come behind the message, in the order of connections and directions.
    pub held: usize,
    /// Those came before the relay began, and nobody who looks on was told of them.
    #[serde(default)]
    pub untold: bool,
    /// So many of those, the first ones, are a header of ours: they are not counted.
    #[serde(default)]
    pub lead: usize,
    /// An urgent byte behind those.
    pub urgent: Option<u8>,
    /// Something was written and not flushed.
    pub unflushed: bool,
    /// It has turned out to be bulk, and the destination was told.
    pub is_bulk: bool,
}

/// How far a direction is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FlowStageRecord {
    /// The source may send more.
    #[default]
    Open,
    /// The source has ended; the end is to be passed on.
    Draining,
    /// The end was passed on.
    Ended,
    /// The destination is gone.
    Dropped,
}
