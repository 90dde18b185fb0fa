//! One channel as it was asked for.
//!
//! Knows: what can be said of a channel. Never: how that is written, whether its host exists.

use std::num::NonZeroU32;

use serde::{Deserialize, Serialize};

use super::{Check, PortWord, Typed, Weight};

/// One channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChannelSpec {
    /// The whole word, for messages.
    pub typed: Typed,
    /// A name or an address, without brackets. Not resolved, never empty.
    pub host: String,
    /// `None`: the port that its client came to.
    pub port: Option<PortWord>,
    /// A start may go on though its name has no address yet.
    pub lazy: bool,
    /// The most simultaneous connections. `None`: no limit.
    pub maxc: Option<NonZeroU32>,
    /// Its share of the clients of its group.
    pub weight: Weight,
    /// What it starts as.
    pub state: AdminState,
    /// How it is spoken to.
    pub manner: ChannelManner,
}

/// How a channel is spoken to, whoever is sent to it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ChannelManner {
    /// `proxy`: the header that goes in front of a client's bytes. `None`: none.
    pub proxy: Option<ProxyVersion>,
    /// `check`: how it is probed.
    pub check: ChannelCheck,
}

/// How a channel is probed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChannelCheck {
    /// As its service says.
    #[default]
    AsService,
    /// Not at all.
    Never,
    /// So. When, and how often, its service says.
    Own(Check),
}

/// The version of the PROXY protocol that a channel is spoken to in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProxyVersion {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

/// What headers of version 2 have besides addresses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ProxyTlvs {
    /// A name of the connection.
    pub unique_id: bool,
    /// A checksum of the header.
    pub crc32c: bool,
}

/// What the operator decided about a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AdminState {
    /// Takes connections. `ENA`.
    #[default]
    Enabled,
    /// Takes no new connections, existing ones live on. `dis`.
    Disabled,
    /// Takes no new connections and existing ones were closed. `DIS`.
    DisabledHard,
}
