//! Who announces the clients it connects for, by the PROXY protocol.
//!
//! Knows: their addresses. Never: the header, how it is read.

use std::net::IpAddr;

use ipnet::IpNet;

/// Those of whom a header of the PROXY protocol has to come first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProxySenders {
    /// Everybody.
    Any,
    /// Those of these networks; at least one. A network's address has no bits behind its prefix.
    Of(Vec<IpNet>),
}

impl ProxySenders {
    /// Is this address one of theirs?
    pub fn includes(&self, address: IpAddr) -> bool {
        match self {
            Self::Any => true,
            Self::Of(networks) => {
                let address = address.to_canonical();
                networks.iter().any(|network| network.contains(&address))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_looked_for_in_all_networks() {
        let of = |networks: &[&str]| {
            ProxySenders::Of(networks.iter().map(|network| network.parse().expect("a network")).collect())
        };
        let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
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
    }
}
