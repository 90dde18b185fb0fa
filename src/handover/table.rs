//! The table of a service as it is handed over.
//!
//! Knows: what operators decided and what was found out about channels. Never: how any of it is used. Times
//! are on the clock of the instance, which the successor continues.

use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::spec::{Address, ChannelManner, FamilyKind};

/// All groups of a service.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct TableRecord {
    /// The groups that have or had channels, or were changed.
    pub groups: Vec<GroupRecord>,
    /// Whether all channels are paused, later ones included.
    pub paused: bool,
    /// The clients that were lost before they had a channel, by the word for the reason.
    pub losses: Vec<(String, u64)>,
    /// How its clients ended, and how long they waited.
    #[serde(default)]
    pub tally: ServiceTallyRecord,
    /// All numbers of places in the wait queue below this one are used.
    pub next_ticket: u64,
    /// Since when it is logged that no channel is up. `None`: it is not.
    #[serde(default)]
    pub out_since: Option<Duration>,
    /// Whether it is logged that connects are refused.
    #[serde(default)]
    pub refusing: bool,
}

/// One group.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct GroupRecord {
    /// Its number.
    pub number: usize,
    /// Its policy, as commands write it.
    pub policy: String,
    /// Its channels by number. `None`: one that was removed.
    pub channels: Vec<Option<ChannelRecord>>,
    /// The channel whose turn is next.
    #[serde(default)]
    pub cursor: usize,
}

/// What an operator decided about a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DecidedRecord {
    /// It takes clients.
    Enabled,
    /// It takes no clients.
    Disabled,
    /// It takes no clients, and its connections were closed.
    DisabledHard,
}

/// One channel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChannelRecord {
    /// Its host as it was typed. `None`: it has an address only.
    pub host: Option<String>,
    /// Its addresses. Empty: its name could not be looked up yet.
    pub addresses: Vec<Address>,
    /// Its port; needed if it has no addresses.
    #[serde(default)]
    pub port: u16,
    /// Whether a start may succeed without its addresses.
    #[serde(default)]
    pub lazy: bool,
    /// The channels that it stands for. `None`: it is a single channel.
    #[serde(default)]
    pub family: Option<FamilyRecord>,
    /// If it is one of such channels: the group and the number of the word that they stand for, and the
    /// weight that its record gives.
    #[serde(default)]
    pub member: Option<(usize, usize, u32)>,
    /// What is known about the lookups of its name.
    #[serde(default)]
    pub naming: Option<NamingRecord>,
    /// What the operator decided.
    pub state: DecidedRecord,
    /// The limit of connections; 0: none.
    pub maxc: u32,
    /// Its share of clients.
    pub weight: u32,
    /// How it is connected to and checked.
    #[serde(default)]
    pub manner: ChannelManner,
    /// Whether it was removed and disappears with its last connection.
    pub retires: bool,
    /// Whether clients for it wait.
    pub paused: bool,
    /// Connections now, including attempts to connect.
    pub active: u32,
    /// Connections handed to it.
    pub totalc: u64,
    /// Failed attempts.
    pub failed: u64,
    /// The error of the last failed attempt, and its time.
    pub last_error: Option<(String, Duration)>,
    /// Bytes from clients to the channel.
    pub sent_bytes: u64,
    /// Bytes from the channel to clients.
    pub rcvd_bytes: u64,
    /// How its connections ended, and how long they took.
    #[serde(default)]
    pub tally: ChannelTallyRecord,
    /// Connect times: counts by the number of the bucket. Empty buckets are left out.
    #[serde(default)]
    pub connect_times: Vec<(usize, u16)>,
    /// Which of its addresses answered a client last.
    pub used: Option<u16>,
    /// With `-a`: whether no address answered in the last attempt.
    pub unanswered: bool,
    /// Whether `-a` disabled it, and no operator has changed that.
    #[serde(default)]
    pub autodisabled: bool,
    /// What is known of its health.
    pub health: HealthRecord,
    /// If it has several addresses: the health of each, and whether a check (not a connect) found it out of
    /// order.
    #[serde(default)]
    pub reach: Vec<(HealthRecord, bool)>,
}

/// A word that stands for several channels.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FamilyRecord {
    /// How its channels are found.
    pub kind: FamilyKind,
    /// The channels that the last lookup found. `None`: no lookup has succeeded yet.
    pub members: Option<Vec<FoundMemberRecord>>,
    /// What operators decided about channels that do not exist at the moment: host, port, state, limit,
    /// weight, and whether it was removed.
    #[serde(default)]
    pub decided: Vec<(String, u16, DecidedRecord, u32, Option<u32>, bool)>,
    /// The channels that do not exist at the moment: host, port, and the group and the number that each has
    /// again if it comes back.
    #[serde(default)]
    pub gone: Vec<(String, u16, usize, usize)>,
}

/// A channel as a lookup found it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FoundMemberRecord {
    /// Its address or its host name.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Its SRV priority.
    pub priority: u16,
    /// Its SRV weight.
    pub weight: u16,
    /// Its addresses.
    pub addresses: Vec<SocketAddr>,
}

/// What is known about the lookups of a name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamingRecord {
    /// When it was answered last. `None`: never.
    pub answered: Option<Duration>,
    /// Since when lookups fail, and why. `None`: they do not.
    pub failing: Option<(Duration, String)>,
    /// How many answers in a row have reported that it has no address, and since when. `None`: none has.
    #[serde(default)]
    pub absent: Option<(u32, Duration)>,
}

/// A histogram of durations.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimesRecord {
    /// Counts by the number of the bucket; empty if there are none.
    pub counts: Vec<u64>,
    /// The sum of all durations, in microseconds.
    pub micros: u64,
}

/// How a channel's connections ended, how long they lasted, and why attempts to connect failed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChannelTallyRecord {
    /// How many connections ended, by the words for how.
    pub ends: Vec<(String, u64)>,
    /// How many attempts failed, by the words for why.
    #[serde(default)]
    pub failures: Vec<(String, u64)>,
    /// How many attempts were given up because another channel had answered first.
    #[serde(default)]
    pub outrun: u64,
    /// How many of those had not answered by then.
    #[serde(default)]
    pub unanswered: u64,
    /// How long connects took.
    pub connects: TimesRecord,
    /// How long connections lasted.
    pub lasted: TimesRecord,
}

/// How a service's clients ended, and how long they waited.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceTallyRecord {
    /// How many ended, by the words for how.
    pub ends: Vec<(String, u64)>,
    /// How long clients were in the wait queue.
    pub waits: TimesRecord,
}

/// What is known of the health of a channel, or of one of its addresses. A probe in progress is not handed
/// over, but made again.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct HealthRecord {
    /// Since when it is ejected, and why. `None`: it is not.
    pub ejected: Option<(Duration, String)>,
    /// Whether it is ejected because it closed connections at once.
    #[serde(default)]
    pub closes: bool,
    /// How long it is not tried after such an ejection, or was not the last time.
    #[serde(default)]
    pub rest: Duration,
    /// The delay before the next probe, or before the last one.
    pub delay: Duration,
    /// What checks found.
    pub checked: CheckedRecord,
    /// Whether anything is known of it: a connect or a check has succeeded or failed.
    pub is_tried: bool,
    /// When it came back last.
    pub returned_at: Option<Duration>,
    /// Since when its health is as it is.
    pub since: Duration,
    /// Since when its weight grows (`--slow-start`). `None`: it has its full weight.
    pub ramp_from: Option<Duration>,
    /// When the next probe for a return is due. `None`: it is not ejected.
    #[serde(default)]
    pub return_due: Option<Duration>,
    /// When the next check is due, or was due if it is in progress.
    #[serde(default)]
    pub check_due: Option<Duration>,
    /// Since when its name has no such address any more, and the words of the resolver. `None`: it has one.
    #[serde(default)]
    pub absence: Option<(Duration, String)>,
}

/// What checks found.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckedRecord {
    /// Nothing yet.
    #[default]
    New,
    /// It is up.
    Up,
    /// It is up, after this many failures in a row; the text says why the last one failed.
    Failing(u32, String),
    /// It is down: since when, why, and after how many successes in a row.
    Down(Duration, String, u32),
}
