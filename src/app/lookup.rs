//! Hosts and services that somebody typed, looked up; what there is not is told with the word and its place.
//!
//! Knows: the words' own places, how a resolver's answer is put. Never: what an address is for.

use std::net::SocketAddr;

use crate::config::{LineError, Wrong};
use crate::names::resolve;
use crate::sched::Addresses;
use crate::spec::{ChannelSpec, HostSpec, PortWord, Typed};

/// The port of PORT.
pub(super) fn port_number(word: &PortWord, typed: &Typed) -> Result<u16, LineError> {
    let wrong = |name: &str| LineError::of(typed, Wrong::Port { word: name.to_owned() });
    service_port(word).map_err(wrong)
}

/// # Errors
/// The name of the service that there is not.
fn service_port(word: &PortWord) -> Result<u16, &str> {
    match word {
        PortWord::Number(n) => Ok(n.get()),
        PortWord::Name(name) => resolve::service_port(name).ok_or(name),
    }
}

pub(super) fn addresses(host: &str, port: u16, typed: &Typed) -> Result<Vec<SocketAddr>, LineError> {
    resolve::addresses(host, port).map_err(|e| {
        let cause = e.to_string();
        let cause = cause.strip_prefix("failed to lookup address information: ").unwrap_or(&cause);
        LineError::of(typed, Wrong::address(typed, format!("no host '{host}': {cause}")))
    })
}

/// Of a name with several addresses the first one.
pub(super) fn first_address(host: &HostSpec, port: u16) -> Result<SocketAddr, LineError> {
    let found = addresses(&host.name, port, &host.typed)?;
    let none = || LineError::of(&host.typed, Wrong::address(&host.typed, "the name has no address"));
    found.first().copied().ok_or_else(none)
}

/// Where a channel is. `default`: the port of its service.
pub(super) fn channel(channel: &ChannelSpec, default: u16) -> Result<Addresses, LineError> {
    let ChannelSpec { typed, host, port, .. } = channel;
    let port = port.as_ref().map_or(Ok(default), service_port).map_err(|name| {
        LineError::of(typed, Wrong::address(typed, format!("no service '{name}' is known; give a number")))
    })?;
    let none = || LineError::of(typed, Wrong::address(typed, "the name has no address"));
    Ok(Addresses::new(addresses(host, port, typed)?).ok_or_else(none)?.named(host))
}
