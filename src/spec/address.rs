//! Where connections come in and go to: a network address or a Unix socket.
//!
//! Knows: how each is written. Never: whether anything is there.
//! Source: docs/unix-sockets.md.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// An endpoint that can be connected to or listened on.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Address {
    /// A TCP address and port.
    Net(SocketAddr),
    /// A Unix stream socket on this machine.
    Unix(UnixName),
}

impl Address {
    /// A placeholder for an unknown address; nothing can connect to it.
    pub const NOWHERE: Self =
        Self::Net(SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), 0));

    /// The network address; `None` for a Unix socket.
    pub fn net(self) -> Option<SocketAddr> {
        match self {
            Self::Net(address) => Some(address),
            Self::Unix(_) => None,
        }
    }

    /// The Unix socket; `None` for a network address.
    pub fn unix(self) -> Option<UnixName> {
        match self {
            Self::Net(_) => None,
            Self::Unix(name) => Some(name),
        }
    }

    /// The port; 0 for a Unix socket, which has none.
    pub fn port(self) -> u16 {
        self.net().map_or(0, |address| address.port())
    }

    /// The address as text without its port.
    pub fn host(self) -> String {
        match self {
            Self::Net(address) => address.ip().to_string(),
            Self::Unix(name) => name.to_string(),
        }
    }

    /// The same address with another port. A Unix socket has no port and is returned as it is.
    #[must_use]
    pub fn with_port(self, port: u16) -> Self {
        match self {
            Self::Net(mut address) => {
                address.set_port(port);
                Self::Net(address)
            }
            Self::Unix(_) => self,
        }
    }

    /// Turns an IPv4-mapped IPv6 address into that IPv4 address; leaves others as they are.
    #[must_use]
    pub fn canonical(self) -> Self {
        match self {
            Self::Net(address) => Self::Net(SocketAddr::new(address.ip().to_canonical(), address.port())),
            Self::Unix(_) => self,
        }
    }

    /// Is it a loopback address of this machine?
    pub fn is_loopback(self) -> bool {
        self.net().is_some_and(|address| address.ip().to_canonical().is_loopback())
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self::Net(address)
    }
}

impl<I: Into<std::net::IpAddr>> From<(I, u16)> for Address {
    fn from(pair: (I, u16)) -> Self {
        Self::Net(pair.into())
    }
}

impl From<UnixName> for Address {
    fn from(name: UnixName) -> Self {
        Self::Unix(name)
    }
}

impl PartialEq<SocketAddr> for Address {
    fn eq(&self, other: &SocketAddr) -> bool {
        self.net() == Some(*other)
    }
}

impl PartialEq<Address> for SocketAddr {
    fn eq(&self, other: &Address) -> bool {
        other == self
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Net(address) => address.fmt(f),
            Self::Unix(name) => name.fmt(f),
        }
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.starts_with(UnixName::PREFIX) {
            true => text.parse().map(Self::Unix),
            false => text.parse().map(Self::Net).map_err(|_| format!("'{text}' is not an address")),
        }
    }
}

impl Serialize for Address {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Why clients do not find a Unix socket that listens by its path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LostSocket {
    /// True if another file is at its path, false if none is.
    pub is_replaced: bool,
    /// The service manager made the socket, and only it can make the file again.
    pub is_passed: bool,
}

impl fmt::Display for LostSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_replaced { "another file is at its path" } else { "its file is gone" })
    }
}

/// Who may connect to a Unix socket with a file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SocketAccess {
    /// The permissions of the file. `None`: those that the umask leaves, or 660 if there is a group.
    pub mode: Option<u32>,
    /// The group ID of the file. `None`: unchanged.
    pub group: Option<u32>,
}

impl SocketAccess {
    /// The permissions if a group but no mode is given.
    pub const OF_GROUP: u32 = 0o660;

    /// The permissions that it stands for; `None`: any.
    pub fn mode(self) -> Option<u32> {
        self.mode.or_else(|| self.group.map(|_| Self::OF_GROUP))
    }

    /// Does `now` have everything that is set here?
    pub fn holds(self, now: Self) -> bool {
        self.mode().is_none_or(|mode| now.mode == Some(mode))
            && self.group.is_none_or(|group| now.group == Some(group))
    }
}

/// The name of a Unix socket: an absolute path, or `@` and an abstract name. An abstract socket has no file.
///
/// The text form is one word without blanks, commas, colons or quotes. Such bytes, non-ASCII bytes and `%`
/// itself are written as `%` and two hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UnixName {
    is_abstract: bool,
    length: u8,
    /// Bytes after `length` are 0.
    bytes: [u8; Self::LONGEST],
}

impl UnixName {
    /// The prefix of the text form.
    pub const PREFIX: &str = "unix:";
    /// Maximum length of a name in bytes: the kernel's `sun_path` less one.
    pub const LONGEST: usize = 107;

    /// The socket at a path.
    ///
    /// # Errors
    /// A sentence that says why the path cannot be a Unix socket.
    pub fn path(path: &[u8]) -> Result<Self, String> {
        match path {
            [] => Err("the path is missing; write unix:/PATH, or unix:@NAME for an abstract name".to_owned()),
            [b'/', ..] if path.ends_with(b"/") => Err("the path is that of a directory".to_owned()),
            [b'/', ..] => Self::new(path, false),
            _ => Err("the path must be absolute, as in unix:/run/x.sock".to_owned()),
        }
    }

    /// Says how to write a Unix socket if the word is a bare path or spells the prefix in another case.
    /// `None` if the word does not look like a Unix socket, or is spelled correctly.
    pub fn meant_by(word: &str) -> Option<String> {
        let prefix = word.get(..Self::PREFIX.len()).filter(|start| start.eq_ignore_ascii_case(Self::PREFIX));
        let path = match prefix {
            Some(Self::PREFIX) => return None,
            Some(_) => &word[Self::PREFIX.len()..],
            None => word.starts_with('/').then_some(word)?,
        };
        let path = path.split_once(':').map_or(path, |(path, _)| path);
        Some(format!("a Unix socket is written {}{path}", Self::PREFIX))
    }

    /// An abstract socket; `name` is without the `@`.
    ///
    /// # Errors
    /// A sentence that says why the name cannot be used.
    pub fn abstracted(name: &[u8]) -> Result<Self, String> {
        if name.is_empty() {
            return Err("the name is missing behind the @".to_owned());
        }
        Self::new(name, true)
    }

    fn new(name: &[u8], is_abstract: bool) -> Result<Self, String> {
        if name.contains(&0) {
            return Err("a name cannot contain a zero byte".to_owned());
        }
        let mut bytes = [0; Self::LONGEST];
        let what = if is_abstract { "name" } else { "path" };
        let room = bytes.get_mut(..name.len()).ok_or_else(|| {
            format!("the {what} has {} bytes; a Unix socket may have {} at most", name.len(), Self::LONGEST)
        })?;
        room.copy_from_slice(name);
        Ok(Self { is_abstract, length: name.len() as u8, bytes })
    }

    /// Is it an abstract name, which has no file?
    pub fn is_abstract(&self) -> bool {
        self.is_abstract
    }

    /// The path, or the abstract name without its `@`.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}

impl fmt::Display for UnixName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Self::PREFIX)?;
        f.write_str(if self.is_abstract { "@" } else { "" })?;
        self.as_bytes().iter().try_for_each(|&byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => write!(f, "{}", char::from(byte)),
            b'/' | b'.' | b'_' | b'-' | b'+' | b'=' | b'@' | b'~' => write!(f, "{}", char::from(byte)),
            _ => write!(f, "%{byte:02X}"),
        })
    }
}

impl fmt::Debug for UnixName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for UnixName {
    type Err = String;

    /// Reads the text form. Bytes that need no escape are also accepted unescaped.
    fn from_str(text: &str) -> Result<Self, String> {
        let name =
            text.strip_prefix(Self::PREFIX).ok_or_else(|| format!("'{text}' does not begin with unix:"))?;
        let bytes = unescaped(name)?;
        // Only a literal `@` starts an abstract name: a path whose first byte is escaped is still a path.
        match name.starts_with('@') {
            true => Self::abstracted(&bytes[1..]),
            false => Self::path(&bytes),
        }
    }
}

fn unescaped(text: &str) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |digit: Option<u8>| digit.and_then(|digit| char::from(digit).to_digit(16));
        let (Some(high), Some(low)) = (digit(rest.next()), digit(rest.next())) else {
            return Err("write % itself as %25; otherwise two hexadecimal digits follow a %".to_owned());
        };
        bytes.push((high * 16 + low) as u8);
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_name_is_a_whole_path_or_behind_an_at_sign() {
        for (word, is_abstract, bytes) in [
            ("unix:/run/pg.sock", false, &b"/run/pg.sock"[..]),
            ("unix:/run/postgresql/.s.PGSQL.5432", false, b"/run/postgresql/.s.PGSQL.5432"),
            ("unix:@x", true, b"x"),
            ("unix:@/x y", true, b"/x y"),
            ("unix:/a%20b%2Cc%3ad%25", false, b"/a b,c:d%"),
            ("unix:/\u{e4}", false, b"/\xc3\xa4"),
        ] {
            let name: UnixName = word.parse().expect(word);
            assert_eq!((name.is_abstract(), name.as_bytes()), (is_abstract, bytes), "{word}");
        }
        let long = format!("unix:/{}", "x".repeat(107));
        for (word, why) in [
            ("unix:", "the path is missing"),
            ("unix:@", "the name is missing"),
            ("unix:run/x", "must be absolute"),
            ("unix:%40x", "must be absolute"),
            ("unix:/run/", "that of a directory"),
            ("unix:/a%00", "a zero byte"),
            ("unix:/a%2", "two hexadecimal digits"),
            ("unix:/a%zz", "two hexadecimal digits"),
            (&long, "the path has 108 bytes; a Unix socket may have 107 at most"),
        ] {
            let error = word.parse::<Address>().expect_err(word);
            assert!(error.contains(why), "{word}: {error}");
        }
    }

    proptest! {
        #[test]
        fn whatever_a_name_has_it_is_written_in_one_word_and_read_again(
            bytes in prop::collection::vec(1_u8.., 1..UnixName::LONGEST),
            is_abstract: bool,
        ) {
            let path = [&b"/"[..], &bytes[..], &b"x"[..]].concat();
            let name = if is_abstract { UnixName::abstracted(&bytes) } else { UnixName::path(&path[..path.len().min(107)]) };
            if let Ok(name) = name {
                let word = Address::from(name).to_string();
                prop_assert!(!word.contains(|c: char| c.is_whitespace() || c.is_control() || ",\"'\\".contains(c)), "{word}");
                prop_assert_eq!(word.matches(':').count(), 1);
                prop_assert_eq!(word.parse(), Ok(Address::from(name)));
                let json = serde_json::to_string(&Address::from(name)).expect("a string");
                prop_assert_eq!(serde_json::from_str::<Address>(&json).expect("the same"), Address::from(name));
            }
        }
    }
}
