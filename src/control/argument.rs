//! Arguments of commands as they were typed: numbers and addresses.
//!
//! Knows: digits, words. Never: which command they belong to, what exists, DNS.
//! Source: docs/control.md, "Commands".
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::fmt;
use std::num::NonZeroU16;

use crate::spec::UnixName;

/// A whole number of any size, without leading zeros. It is kept as digits because answers repeat it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Number(String);

impl Number {
    /// Reads decimal digits with an optional minus sign. `None` if the word is anything else.
    pub(crate) fn parse(word: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(word).ok()?;
        let (minus, digits) = text.strip_prefix('-').map_or(("", text), |digits| ("-", digits));
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        match digits.trim_start_matches('0') {
            "" => Some(Self("0".into())),
            digits => Some(Self(format!("{minus}{digits}"))),
        }
    }

    /// The value; `None` if it does not fit into 32 bits or is negative.
    pub(crate) fn to_u32(&self) -> Option<u32> {
        self.0.parse().ok()
    }

    /// The value; `None` if it does not fit into 64 bits or is negative.
    pub(crate) fn to_u64(&self) -> Option<u64> {
        self.0.parse().ok()
    }

    /// The value as the number of a group or channel; `None` if it is too large or negative.
    pub fn index(&self) -> Option<usize> {
        self.0.parse().ok()
    }
}

impl From<u64> for Number {
    fn from(number: u64) -> Self {
        Self(number.to_string())
    }
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A port as typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Port {
    /// A port number.
    Number(NonZeroU16),
    /// A name from the services database (`/etc/services`), not looked up yet.
    Service(String),
    /// `-`: the port of the service. In a service with a range of ports, the port that each client came to.
    OfService,
}

/// An address as typed, not looked up yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    /// A name or a numeric address; IPv6 with or without brackets.
    pub host: String,
    /// The port as typed.
    pub port: Port,
}

impl HostPort {
    /// The name of a Unix socket (`unix:...`). `None` if the word cannot be one.
    pub(crate) fn unix(name: &[u8]) -> Option<Self> {
        let host = word_text(name)?;
        // In a name, a colon is written as %3A and a comma as %2C, as in a line. So a maxc, a port or an option
        // is never taken for a part of it.
        if host.strip_prefix(UnixName::PREFIX)?.contains([':', ',']) {
            return None;
        }
        Some(Self { host: host.into(), port: Port::OfService })
    }

    /// A host and a port. `None` if they are not UTF-8, contain a control character or the port is out of
    /// range.
    pub(crate) fn parse(host: &[u8], port: &[u8]) -> Option<Self> {
        let port = word_text(port)?;
        let port = if port == "-" {
            Port::OfService
        } else if port.bytes().all(|byte| byte.is_ascii_digit()) {
            Port::Number(port.parse().ok()?)
        } else {
            Port::Service(port.into())
        };
        Some(Self { host: word_text(host)?.into(), port })
    }
}

/// The word as text that can be handed to a resolver; `None` if it is not UTF-8 or has a control character.
fn word_text(word: &[u8]) -> Option<&str> {
    std::str::from_utf8(word).ok().filter(|text| !text.chars().any(char::is_control))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_whole_and_lose_their_leading_zeros() {
        let digits = |word: &str| Number::parse(word.as_bytes()).map(|number| number.to_string());
        for (word, number) in [("0", "0"), ("000", "0"), ("-0", "0"), ("007", "7"), ("-01", "-1")] {
            assert_eq!(digits(word).as_deref(), Some(number));
        }
        assert_eq!(digits(&"9".repeat(99)), Some("9".repeat(99)));
        for word in ["", "-", "+1", "1x", "x", "1.0", "--1", "\u{663}"] {
            assert_eq!(digits(word), None, "{word:?}");
        }
    }

    #[test]
    fn a_port_is_a_legal_number_or_a_name() {
        let port = |word: &[u8]| HostPort::parse(b"h", word).map(|target| target.port);
        assert_eq!(port(b"25"), NonZeroU16::new(25).map(Port::Number));
        assert_eq!(port(b"smtp"), Some(Port::Service("smtp".into())));
        assert_eq!(port(b"-"), Some(Port::OfService));
        for word in [&b"0"[..], b"65536", b"99999999999999999999", b"\xff", b"a\x00b"] {
            assert_eq!(port(word), None, "{word:?}");
        }
    }
}
