//! Who a client is: a network address, or a process on this machine that connected by a Unix socket.
//!
//! Knows: how each is written. Never: how the kernel is asked, who is let in.
//! Source: docs/unix-sockets.md.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Where a client connects from.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ClientSource {
    /// It connected by TCP from this address.
    Net(SocketAddr),
    /// It connected by a Unix socket.
    Local(LocalPeer),
}

/// The process that connected by a Unix socket, as the kernel reported it at that moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LocalPeer {
    /// The user ID of the process. `None`: the system does not report it.
    pub uid: Option<u32>,
    /// The process ID. `None`: the system does not report it, or the process has no number in this PID
    /// namespace.
    pub pid: Option<u32>,
}

impl ClientSource {
    /// An unknown client.
    pub const UNKNOWN: Self = Self::Net(SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), 0));

    /// The client's address and port; `None` if it connected by a Unix socket.
    pub fn net(self) -> Option<SocketAddr> {
        match self {
            Self::Net(address) => Some(address),
            Self::Local(_) => None,
        }
    }

    /// The client's IP address as rules about networks see it (IPv4-mapped as IPv4); `None` if it connected
    /// by a Unix socket.
    pub fn ip(self) -> Option<IpAddr> {
        self.net().map(|address| address.ip().to_canonical())
    }

    /// Is the client unknown?
    pub fn is_unknown(self) -> bool {
        self.net().is_some_and(|address| address.ip().is_unspecified())
    }

    /// An IP address that identifies the client where one is needed: its own, or one that stands for its user
    /// ID. The latter is a multicast address, which no TCP client can have. User IDs differ within the first
    /// 48 bits, so a prefix of 48 bits or more keeps users apart.
    pub fn key(self) -> IpAddr {
        match self {
            Self::Net(address) => address.ip(),
            Self::Local(peer) => {
                // The greatest number is never a valid user ID, so it stands for an unknown user.
                let [a, b, c, d] = peer.uid.unwrap_or(u32::MAX).to_be_bytes();
                let pair = |high, low| u16::from_be_bytes([high, low]);
                Ipv6Addr::new(0xff0f, pair(a, b), pair(c, d), 0, 0, 0, 0, 0).into()
            }
        }
    }
}

impl From<SocketAddr> for ClientSource {
    fn from(address: SocketAddr) -> Self {
        Self::Net(address)
    }
}

impl From<LocalPeer> for ClientSource {
    fn from(peer: LocalPeer) -> Self {
        Self::Local(peer)
    }
}

impl PartialEq<SocketAddr> for ClientSource {
    fn eq(&self, other: &SocketAddr) -> bool {
        self.net() == Some(*other)
    }
}

/// The prefixes of a user ID and of a process ID in the text form.
const UID: &str = "uid:";
const PID: &str = "pid:";
/// The text form of a client on a Unix socket whose user is unknown.
const NAMELESS: &str = "unix";

impl fmt::Display for ClientSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Net(address) => address.fmt(f),
            Self::Local(peer) => peer.fmt(f),
        }
    }
}

/// `uid:1000,pid:4711`
impl fmt::Display for LocalPeer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match (self.uid, self.pid) {
            (Some(uid), Some(pid)) => format!("{UID}{uid},{PID}{pid}"),
            (Some(uid), None) => format!("{UID}{uid}"),
            (None, _) => NAMELESS.to_owned(),
        };
        f.pad(&text)
    }
}

impl fmt::Debug for ClientSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for ClientSource {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("'{text}' is no client");
        let number = |text: &str| text.parse().map_err(|_| wrong());
        if text == NAMELESS {
            return Ok(LocalPeer::default().into());
        }
        let Some(user) = text.strip_prefix(UID) else {
            return text.parse().map(Self::Net).map_err(|_| wrong());
        };
        let (uid, pid) = match user.split_once(',') {
            Some((uid, pid)) => (uid, Some(number(pid.strip_prefix(PID).ok_or_else(wrong)?)?)),
            None => (user, None),
        };
        Ok(LocalPeer { uid: Some(number(uid)?), pid }.into())
    }
}

impl Serialize for ClientSource {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ClientSource {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn local(uid: impl Into<Option<u32>>, pid: impl Into<Option<u32>>) -> ClientSource {
        LocalPeer { uid: uid.into(), pid: pid.into() }.into()
    }

    #[test]
    fn a_client_is_read_as_it_is_written() {
        let net: SocketAddr = "[2001:db8::1]:80".parse().expect("an address");
        for (client, text) in [
            (net.into(), "[2001:db8::1]:80"),
            (local(0, 1), "uid:0,pid:1"),
            (local(65_534, None), "uid:65534"),
            (local(None, None), "unix"),
        ] {
            assert_eq!((client.to_string(), text.parse()), (text.to_owned(), Ok(client)));
            let json = serde_json::to_string(&client).expect("it is text");
            assert_eq!(serde_json::from_str::<ClientSource>(&json).expect("the same"), client);
        }
        // The form in which earlier versions record their clients.
        assert_eq!(serde_json::from_str::<ClientSource>("\"192.0.2.7:1\"").ok(), "192.0.2.7:1".parse().ok());
        for text in
            ["", "uid:", "uid:x", "uid:1,", "uid:1,pid:", "uid:1,2", "pid:1", "uid:4294967296", "1.2.3.4"]
        {
            assert!(text.parse::<ClientSource>().is_err(), "{text}");
        }
    }

    #[test]
    fn users_are_told_apart_and_taken_for_nobody_elses_address() {
        let (one, same, other) = (local(1000, 1), local(1000, 2), local(1001, 1));
        assert_eq!(one.key(), same.key());
        assert_ne!(one.key(), other.key());
        assert_ne!(local(0, 1).key(), local(None, None).key());
        assert!([one, other, local(None, None)].iter().all(|client| client.key().is_multicast()));
        assert_eq!((one.ip(), one.net(), one.is_unknown()), (None, None, false));
        assert!(ClientSource::UNKNOWN.is_unknown());
    }
}
