//! Who a client is: the address that connected, and the client that it announced, if it did.
//!
//! Knows: which of the two identifies the client. Never: which sender is trusted, how it announced its
//! client.
//! Source: docs/proxy-protocol.md.

use std::fmt;
use std::net::SocketAddr;

use crate::spec::ClientSource;

/// Who a client is: as seen and as announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peers {
    /// The source of the connection.
    pub seen: ClientSource,
    /// The client that a trusted sender announced by a PROXY header. `None`: none was announced.
    pub claimed: Option<Announced>,
}

/// What a proxy in front of balance says about its client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Announced {
    /// The client's address.
    pub client: SocketAddr,
    /// The address that the client connected to.
    pub local: SocketAddr,
}

impl Peers {
    /// The client, for everything that depends on which client it is: the announced one, or else the source
    /// of the connection.
    pub fn client(&self) -> ClientSource {
        self.claimed.map_or(self.seen, |claim| claim.client.into())
    }

    /// The proxy through which the client came; `None` if there is none.
    pub fn via(&self) -> Option<ClientSource> {
        self.claimed.map(|_| self.seen)
    }
}

impl<C: Into<ClientSource>> From<C> for Peers {
    fn from(seen: C) -> Self {
        Self { seen: seen.into(), claimed: None }
    }
}

impl fmt::Display for Peers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.client().fmt(f)?;
        self.via().map_or(Ok(()), |via| write!(f, " via {via}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_called_by_the_address_that_its_proxy_gives() {
        let seen = SocketAddr::from(([10, 0, 0, 1], 5_000));
        let plain = Peers::from(seen);
        assert_eq!((plain.client(), plain.via(), &*plain.to_string()), (seen.into(), None, "10.0.0.1:5000"));
        let client = SocketAddr::from(([203, 0, 113, 7], 4_711));
        let claimed = Peers { seen: seen.into(), claimed: Some(Announced { client, local: seen }) };
        assert_eq!((claimed.client(), claimed.via()), (client.into(), Some(seen.into())));
        assert_eq!(claimed.to_string(), "203.0.113.7:4711 via 10.0.0.1:5000");
    }
}
