//! One connection as it is handed over.
//!
//! Knows: what the sockets themselves cannot tell. Never: the sockets, the bytes that are held (they follow
//! the message).

use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::spec::{Address, ClientSource};

/// What a process knows of a connection. Times are ages, so that two clocks need not agree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionRecord {
    /// The service's number in the offer.
    pub service: usize,
    /// The number that commands show and take.
    pub id: u64,
    /// The address that has connected to this host: a client or a proxy.
    pub client: ClientSource,
    /// What the PROXY header says of the client, if there was one.
    #[serde(default)]
    pub announced: Option<Box<AnnouncedRecord>>,
    /// How far it has come.
    pub stage: StageRecord,
    /// If it has no channel: how many bytes were read from it. They follow the message, in the order of the
    /// connections.
    #[serde(default)]
    pub held: usize,
    /// The time since it was accepted.
    pub age: Duration,
    /// The time since the last byte was moved.
    pub idle: Duration,
    /// The time since one direction ended. `None`: both are open.
    pub half_closed: Option<Duration>,
    /// The time until its maximum lifetime is over. `None`: there is no limit.
    pub expires_in: Option<Duration>,
    /// Bytes delivered to the client and to the channel.
    pub delivered: [u64; 2],
    /// Bytes that both peers had acknowledged when the kernel was asked last.
    pub acknowledged: u64,
    /// Whether keepalive probes were made more frequent, to notice peers that are gone.
    pub asked_often: bool,
    /// Whether the client asked for TLS and was told to begin (`--starttls`), so that its channel must be
    /// asked for TLS first.
    #[serde(default)]
    pub asks_for_tls: bool,
    /// The channels that closed its connection at once: for each the number of its group and its own.
    #[serde(default)]
    pub past: Vec<(usize, usize)>,
    /// What was recorded for the access log.
    #[serde(default)]
    pub trace: Option<Box<TraceRecord>>,
}

/// What the access log will say of a connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceRecord {
    /// When it was accepted, since 1970.
    pub began: Duration,
    /// The attempts that failed.
    pub failed: Vec<FailedAttemptRecord>,
    /// How many attempts were made.
    pub attempts: u32,
    /// How long it was in the wait queue.
    pub queued: Option<Duration>,
    /// How long the successful attempt took.
    pub connect: Option<Duration>,
    /// The address that answered.
    pub address: Option<Address>,
    /// The time from its start until the channel's first byte was delivered.
    pub first_byte: Option<Duration>,
}

/// An attempt that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedAttemptRecord {
    /// The group's number.
    pub group: usize,
    /// The channel's number.
    pub channel: usize,
    /// The address that was tried.
    pub address: Address,
    /// Why it failed.
    pub error: AttemptErrorRecord,
}

/// Why an attempt failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AttemptErrorRecord {
    /// A cause, by the word that `balance` uses for it.
    Known(String),
    /// The system's error number.
    System(i32),
}

/// How far a client has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StageRecord {
    /// It has no channel and waits for nothing, so it is served like a new client. The held bytes go to its
    /// channel first.
    Greeting,
    /// Its first bytes are not complete; those that have come are held.
    Unheard(UnheardRecord),
    /// It is in the wait queue.
    Waiting(WaitingRecord),
    /// It is connected to a channel.
    Relaying(Box<RelayingRecord>),
}

/// A client whose first bytes must be read before a channel is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnheardRecord {
    /// How much longer the rest is waited for.
    pub left: Duration,
    /// Whether a PROXY header must come first.
    #[serde(default = "yes")]
    pub header: bool,
    /// Whether what the client asks for is needed, to choose its groups.
    #[serde(default)]
    pub hello: bool,
    /// Whether it may ask for TLS before it begins TLS (`--starttls`).
    #[serde(default)]
    pub may_ask: bool,
}

fn yes() -> bool {
    true
}

/// What a PROXY header says of the client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnnouncedRecord {
    /// The client's address and the address that it connected to. `None`: the header has none.
    pub addresses: Option<[SocketAddr; 2]>,
    /// The header's further fields (TLVs), as they came.
    pub tlvs: Vec<u8>,
}

/// A place in the wait queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaitingRecord {
    /// Places are served in the order of these numbers.
    pub ticket: u64,
    /// How much longer it may wait.
    pub left: Duration,
    /// How long it has waited.
    #[serde(default)]
    pub waited: Duration,
    /// Whether it waits because of a pause.
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

/// What a relay knows and the kernel does not. Arrays by side have the client at 0 and the channel at 1.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayRecord {
    /// `flows[s]` carries bytes from side `s` to the other.
    pub flows: [FlowRecord; 2],
    /// Which sides are gone.
    pub gone: [bool; 2],
    /// Which sides have an end or an error to be read that the poller has reported.
    pub closed: [bool; 2],
    /// Which sides have an urgent byte on its way that the poller has reported.
    #[serde(default)]
    pub marked: [bool; 2],
    /// Whether one direction has ended.
    pub half_closed: bool,
    /// Which side ended first, and whether by an error rather than an orderly end.
    pub first_end: Option<(u8, bool)>,
}

/// One direction of a relay.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowRecord {
    /// How far it has come.
    pub stage: FlowStageRecord,
    /// How many bytes were read and not yet delivered. They follow the message, in the order of connections
    /// and directions.
    pub held: usize,
    /// Whether these bytes came before the relay began, so that observers (`-p`, `tap`) have not seen them.
    #[serde(default)]
    pub untold: bool,
    /// How many of the held bytes, from the first on, are a header that `balance` added. They do not count as
    /// the client's.
    #[serde(default)]
    pub lead: usize,
    /// An urgent byte that follows the held bytes.
    pub urgent: Option<u8>,
    /// Whether something was written that the kernel may still keep back (not flushed).
    pub unflushed: bool,
    /// Whether it carries bulk data, and the destination's socket was set up for that.
    pub is_bulk: bool,
}

/// How far a direction has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FlowStageRecord {
    /// The source may send more.
    #[default]
    Open,
    /// The source has ended; its end must be passed on.
    Draining,
    /// The end was passed on.
    Ended,
    /// The destination is gone.
    Dropped,
}
