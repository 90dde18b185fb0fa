//! What was configured: services with their groups and channels, and the settings of the process. Plain
//! values.
//!
//! This room parses, prints and does nothing: `config` turns text into these values and back, and the rooms
//! that act read them. A value that exists is legal. Reading order: `typed`, `address`, `client`, `policy`,
//! `check`, `keepalive`, `access`, `channel`, `group`, `asked`, `listen`, `senders`, `service`, `process`.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

mod access;
mod address;
mod asked;
mod channel;
mod check;
mod client;
mod group;
mod keepalive;
mod listen;
mod policy;
mod process;
mod senders;
mod service;
mod typed;

pub use access::{ClientPrefix, ClientRate, NetItem, NetList};
pub use address::{Address, LostSocket, SocketAccess, UnixName};
pub use asked::{RouteName, Section, StartTls};
pub use channel::{
    AdminState, ChannelCheck, ChannelManner, ChannelSpec, FamilyKind, ProxyTlvs, ProxyVersion,
    is_service_name,
};
pub use check::{Check, CheckSpec, OnDown, Step};
pub use client::{ClientSource, LocalPeer};
pub use group::{GroupSpec, Member, TIERS, last_tier, reserved_groups};
pub use keepalive::Keepalive;
pub use listen::{HostSpec, ListenHost, ListenSpan, ListenSpec, PortRange, PortWord, PortsSpec};
pub use policy::{Policy, Weight};
pub use process::{AccessLogSpec, HttpSpec, LineFormat, LogMoments, Named, ProcessSpec};
pub use senders::{ProxySender, ProxySenders};
pub use service::{Name, ServiceSpec};
pub use typed::{Spot, Typed};
