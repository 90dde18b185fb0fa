//! One channel as it was configured.
//!
//! Knows: the settings of a channel. Never: how they are written, whether the host exists.

use std::num::NonZeroU32;

use serde::{Deserialize, Serialize};

use super::{Check, PortWord, Typed, UnixName, Weight};

/// One channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChannelSpec {
    /// The whole word as typed, for messages.
    pub typed: Typed,
    /// A host name or an address without brackets, or a Unix socket in the text form of [`UnixName`]. Not
    /// resolved; never empty.
    pub host: String,
    /// The port. `None`: the port that the client connected to; a Unix socket has none either.
    pub port: Option<PortWord>,
    /// If true, balance may start although the name has no address yet.
    pub lazy: bool,
    /// What set of channels this word stands for. `None`: it is one channel.
    pub family: Option<FamilyKind>,
    /// Maximum number of simultaneous connections. `None`: no limit.
    pub maxc: Option<NonZeroU32>,
    /// The channel's share of its group's clients.
    pub weight: Weight,
    /// The state that the channel starts in.
    pub state: AdminState,
    /// How balance speaks to the channel.
    pub manner: ChannelManner,
}

impl ChannelSpec {
    /// The Unix socket of the channel; `None` if it is a network host.
    pub fn unix(&self) -> Option<UnixName> {
        self.host.parse().ok()
    }
}

/// What a word stands for that is not one channel but a set of channels from a name lookup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FamilyKind {
    /// `each`: one channel for each address of the name.
    Each,
    /// `_ldap._tcp.corp`: one channel for each target of the SRV records.
    Service,
}

/// Is this a service name that SRV records may exist for: `_service._protocol.domain`?
pub fn is_service_name(host: &str) -> bool {
    let mut labels = host.strip_suffix('.').unwrap_or(host).split('.');
    let is_marked =
        |label: Option<&str>| label.is_some_and(|label| label.len() > 1 && label.starts_with('_'));
    is_marked(labels.next()) && is_marked(labels.next()) && labels.next().is_some_and(|rest| !rest.is_empty())
}

/// How balance speaks to a channel, for all clients alike.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ChannelManner {
    /// `proxy`: the version of the PROXY header that balance sends before a client's bytes. `None`: no
    /// header.
    pub proxy: Option<ProxyVersion>,
    /// `check`: how balance probes the channel.
    pub check: ChannelCheck,
}

/// How a channel is probed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChannelCheck {
    /// As the service's `--check` says.
    #[default]
    AsService,
    /// Not at all.
    Never,
    /// With this check. The service says when and how often.
    Own(Check),
}

/// A version of the PROXY protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProxyVersion {
    /// Version 1: a line of text.
    V1,
    /// Version 2: binary.
    V2,
}

/// What a PROXY header of version 2 contains besides addresses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ProxyTlvs {
    /// A unique name of the connection (`PP2_TYPE_UNIQUE_ID`).
    pub unique_id: bool,
    /// A checksum of the header (`PP2_TYPE_CRC32C`).
    pub crc32c: bool,
}

/// What the operator decided about a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AdminState {
    /// The channel takes new connections. `ENA`.
    #[default]
    Enabled,
    /// The channel takes no new connections; existing ones stay open. `dis`.
    Disabled,
    /// The channel takes no new connections, and existing ones were closed. `DIS`.
    DisabledHard,
}
