//! Which senders announce their clients by the PROXY protocol.
//!
//! Knows: their addresses. Never: the header, how it is read.

use ipnet::IpNet;

use super::ClientSource;

/// Senders that must begin a connection with a PROXY header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProxySenders {
    /// Every sender.
    Any,
    /// These senders; at least one.
    Of(Vec<ProxySender>),
}

/// One entry of `--accept-proxy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxySender {
    /// Senders in this network. All bits after its prefix are 0.
    Net(IpNet),
    /// Everyone who connects by a Unix socket.
    Unix,
}

impl ProxySenders {
    /// Can one of them connect to a Unix socket (`by_unix`), or to a port?
    pub fn can_come(&self, by_unix: bool) -> bool {
        match self {
            Self::Any => true,
            Self::Of(senders) => senders.iter().any(|one| matches!(one, ProxySender::Unix) == by_unix),
        }
    }

    /// Must this client begin with a header?
    pub fn includes(&self, client: ClientSource) -> bool {
        let ip = client.ip();
        let is_meant = |sender: &ProxySender| match sender {
            ProxySender::Net(network) => ip.is_some_and(|ip| network.contains(&ip)),
            ProxySender::Unix => ip.is_none(),
        };
        match self {
            Self::Any => true,
            Self::Of(senders) => senders.iter().any(is_meant),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, SocketAddr};

    use super::*;
    use crate::spec::LocalPeer;

    #[test]
    fn an_address_is_looked_for_in_all_networks() {
        let of = |networks: &[&str]| {
            let network = |text: &&str| ProxySender::Net(text.parse().expect("a network"));
            ProxySenders::Of(networks.iter().map(network).collect())
        };
        let ip = |text: &str| {
            let ip: IpAddr = text.parse().expect("an address");
            ClientSource::from(SocketAddr::new(ip, 1))
        };
        let some = of(&["10.0.0.0/8", "192.0.2.7/32", "2001:db8::/32"]);
        for inside in ["10.1.2.3", "192.0.2.7", "::ffff:192.0.2.7", "2001:db8::1"] {
            assert!(some.includes(ip(inside)) && ProxySenders::Any.includes(ip(inside)), "{inside}");
        }
        for outside in ["11.0.0.0", "192.0.2.8", "::ffff:192.0.2.8", "2001:db9::1", "::1"] {
            assert!(!some.includes(ip(outside)) && ProxySenders::Any.includes(ip(outside)), "{outside}");
        }
        assert!(
            of(&["0.0.0.0/0"]).includes(ip("::ffff:10.0.0.1")) && !of(&["0.0.0.0/0"]).includes(ip("::1"))
        );
        let local = ClientSource::from(LocalPeer { uid: Some(7), pid: None });
        let unix = ProxySenders::Of(vec![ProxySender::Unix]);
        assert!(ProxySenders::Any.includes(local) && unix.includes(local));
        assert!(!of(&["0.0.0.0/0", "::/0"]).includes(local) && !unix.includes(ip("10.1.2.3")));
    }
}
