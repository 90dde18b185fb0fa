//! One channel as it was asked for.
//!
//! Knows: what can be said of a channel. Never: how that is written, whether its host exists.

use std::num::NonZeroU32;

use serde::{Deserialize, Serialize};

use super::{Check, PortWord, Typed, UnixName, Weight};

/// One channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChannelSpec {
    /// The whole word, for messages.
    pub typed: Typed,
    /// A name or an address, without brackets, or a Unix socket as [`UnixName`] writes it. Not resolved, never empty.
    pub host: String,
    /// `None`: the port that its client came to, or that of a Unix socket, which has none.
    pub port: Option<PortWord>,
    /// A start may go on though its name has no address yet.
    pub lazy: bool,
    /// It stands for a set of channels.
    pub family: Option<FamilyKind>,
    /// The most simultaneous connections. `None`: no limit.
    pub maxc: Option<NonZeroU32>,
    /// Its share of the clients of its group.
    pub weight: Weight,
    /// What it starts as.
    pub state: AdminState,
    /// How it is spoken to.
    pub manner: ChannelManner,
}

impl ChannelSpec {
    /// The Unix socket that it is; `None`: it is a host.
    pub fn unix(&self) -> Option<UnixName> {
        self.host.parse().ok()
    }
}

/// What a word stands for that is not one channel but as many as its name has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FamilyKind {
    /// `each`: a channel for each address.
    Each,
    /// `_ldap._tcp.corp`: a channel for each target of an SRV record.
    Service,
}

/// Is this the name of a service, for which there are SRV records: `_service._protocol.domain`?
pub fn is_service_name(host: &str) -> bool {
    let mut labels = host.strip_suffix('.').unwrap_or(host).split('.');
    let is_marked =
        |label: Option<&str>| label.is_some_and(|label| label.len() > 1 && label.starts_with('_'));
    is_marked(labels.next()) && is_marked(labels.next()) && labels.next().is_some_and(|rest| !rest.is_empty())
}

/// How a channel is spoken to, for all clients.
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
