//! A service's table as it goes from process to process.
//!
//! Knows: what operators decided and what was found out about channels. Never: how any of it is used. Times are those of the instance,
//! which goes on.

use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::spec::{Address, ChannelManner, FamilyKind};

/// All groups.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct TableRecord {
    /// Those that were touched.
    pub groups: Vec<GroupRecord>,
    /// All channels are paused, those that come as well.
    pub paused: bool,
    /// Clients lost before they had a channel, by the word for why.
    pub losses: Vec<(String, u64)>,
    /// How its clients ended, and how long they waited in line.
    #[serde(default)]
    pub tally: ServiceTallyRecord,
    /// Places in line below this one were given out.
    pub next_ticket: u64,
    /// Operators have been told that no channel is up since then, ...
    #[serde(default)]
    pub out_since: Option<Duration>,
    /// ... and that connects are refused.
    #[serde(default)]
    pub refusing: bool,
}

/// One group.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct GroupRecord {
    /// Its number.
    pub number: usize,
    /// Its policy, as operators write it.
    pub policy: String,
    /// Its channels by their numbers; `None`: one that was removed.
    pub channels: Vec<Option<ChannelRecord>>,
    /// The channel whose turn it is.
    #[serde(default)]
    pub cursor: usize,
}

/// What an operator decided about a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DecidedRecord {
    /// It takes clients.
    Enabled,
    /// It takes none.
    Disabled,
    /// It takes none, and its connections were closed.
    DisabledHard,
}

/// One channel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChannelRecord {
    /// Its host as it was typed.
    pub host: Option<String>,
    /// Its addresses; none of a name that nobody could look up yet.
    pub addresses: Vec<Address>,
    /// Their port, which is told where there are none.
    #[serde(default)]
    pub port: u16,
    /// A start may go on without them.
    #[serde(default)]
    pub lazy: bool,
    /// It stands for a set of channels.
    #[serde(default)]
    pub family: Option<FamilyRecord>,
    /// It is one of those: of which word, by its group and number, and the weight that is said for it.
    #[serde(default)]
    pub member: Option<(usize, usize, u32)>,
    /// What is known of its name.
    #[serde(default)]
    pub naming: Option<NamingRecord>,
    /// What the operator decided.
    pub state: DecidedRecord,
    /// The limit of connections; 0 = none.
    pub maxc: u32,
    /// Its share of clients.
    pub weight: u32,
    /// How it is spoken to.
    #[serde(default)]
    pub manner: ChannelManner,
    /// It was taken away and goes with its last connection.
    pub retires: bool,
    /// Clients that would be sent to it wait.
    pub paused: bool,
    /// Connections now, those that are dialled included.
    pub active: u32,
    /// Connections handed to it.
    pub totalc: u64,
    /// Failed attempts.
    pub failed: u64,
    /// What the last one met, and when.
    pub last_error: Option<(String, Duration)>,
    /// Bytes client -> channel.
    pub sent_bytes: u64,
    /// Bytes channel -> client.
    pub rcvd_bytes: u64,
    /// How its connections ended, and how long they took.
    #[serde(default)]
    pub tally: ChannelTallyRecord,
    /// Connect times: counts by the number of the bucket; empty ones are left out.
    #[serde(default)]
    pub connect_times: Vec<(usize, u16)>,
    /// Which address answered a client last.
    pub used: Option<u16>,
    /// With `-a`: no address answered the last attempt.
    pub unanswered: bool,
    /// `-a` has disabled it, and no operator has spoken since.
    #[serde(default)]
    pub autodisabled: bool,
    /// What is known of it.
    pub health: HealthRecord,
    /// What is known of each of several addresses, and was it a check that it was found wanting by?
    #[serde(default)]
    pub reach: Vec<(HealthRecord, bool)>,
}

/// A word that stands for a set of channels.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FamilyRecord {
    /// What it stands for.
    pub kind: FamilyKind,
    /// What was found last; `None`: nothing was yet.
    pub members: Option<Vec<FoundMemberRecord>>,
    /// What operators decided about some that are not there now: host, port, state, limit, weight, and whether it was taken away.
    #[serde(default)]
    pub decided: Vec<(String, u16, DecidedRecord, u32, Option<u32>, bool)>,
    /// Those that are not there now, and the group and the number that they have again if they come back.
    #[serde(default)]
    pub gone: Vec<(String, u16, usize, usize)>,
}

/// One of a set, as it was found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FoundMemberRecord {
    /// Its address or the name of its machine.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Its priority.
    pub priority: u16,
    /// Its weight.
    pub weight: u16,
    /// Its addresses.
    pub addresses: Vec<SocketAddr>,
}

/// What is known of a name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamingRecord {
    /// When it was answered last.
    pub answered: Option<Duration>,
    /// It cannot be looked up: since when, and why.
    pub failing: Option<(Duration, String)>,
}

/// How many times something took how long.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimesRecord {
    /// Counts by the number of the bucket; empty if there are none.
    pub counts: Vec<u64>,
    /// All together, in microseconds.
    pub micros: u64,
}

/// How a channel's connections ended, how long they took, and why attempts to make one failed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChannelTallyRecord {
    /// How many, by the words for how.
    pub ends: Vec<(String, u64)>,
    /// How many attempts failed, by the words for why.
    #[serde(default)]
    pub failures: Vec<(String, u64)>,
    /// How many attempts were given up since another channel had answered first.
    #[serde(default)]
    pub outrun: u64,
    /// How many of them had not answered at all by then.
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
    /// How many, by the words for how.
    pub ends: Vec<(String, u64)>,
    /// How long those waited who were in line.
    pub waits: TimesRecord,
}

/// What is known of a channel, or of one of its addresses. A probe under way is forgotten, and made again at once.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct HealthRecord {
    /// It is ejected: since when, and why.
    pub ejected: Option<(Duration, String)>,
    /// It is ejected since it closes its connections at once.
    #[serde(default)]
    pub closes: bool,
    /// For how long it was left alone for that, the last time.
    #[serde(default)]
    pub rest: Duration,
    /// The delay before the probe that is due, or was last.
    pub delay: Duration,
    /// What checks have found.
    pub checked: CheckedRecord,
    /// Has anything been learned of it?
    pub is_tried: bool,
    /// When it came back.
    pub returned_at: Option<Duration>,
    /// Since when it is as it is.
    pub since: Duration,
    /// Since when its weight grows.
    pub ramp_from: Option<Duration>,
    /// When the probe for a return is due.
    #[serde(default)]
    pub return_due: Option<Duration>,
    /// When the next check is due, or was that is under way.
    #[serde(default)]
    pub check_due: Option<Duration>,
    /// Its name has no address any more: since when, and in whose words.
    #[serde(default)]
    pub absence: Option<(Duration, String)>,
}

/// What checks have found.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckedRecord {
    /// Nothing yet.
    #[default]
    New,
    /// It is up.
    Up,
    /// It is up, with so many failures in a row; why the last one failed.
    Failing(u32, String),
    /// It is down: since when, why, and so many successes in a row.
    Down(Duration, String, u32),
}
