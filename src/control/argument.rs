//! What the arguments of commands are made of: numbers and addresses, as typed.
//!
//! Knows: digits, words. Never: which command they belong to, what exists, DNS.
//! Source: docs/control.md, "Commands".
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::fmt;
use std::num::NonZeroU16;

use crate::spec::UnixName;

/// A whole number of any size, as typed but without leading zeros. Answers repeat it, so it is kept as digits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Number(String);

impl Number {
    /// `None` if the word is not one.
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

    /// Its value, if it fits.
    pub(crate) fn to_u32(&self) -> Option<u32> {
        self.0.parse().ok()
    }

    /// Its value, if it fits.
    pub(crate) fn to_u64(&self) -> Option<u64> {
        self.0.parse().ok()
    }

    /// Its value, if that could be the number of a group or a channel.
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
    /// A number.
    Number(NonZeroU16),
    /// A name of the services database, not looked up yet.
    Service(String),
    /// `-`: that of the service, or that which each client came to where it has several.
    OfService,
}

/// An address as typed, not looked up yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    /// A name or a numeric address, v6 with or without brackets.
    pub host: String,
    /// The port.
    pub port: Port,
}

impl HostPort {
    /// A Unix socket. `None` if the word cannot be one.
    pub(crate) fn unix(name: &[u8]) -> Option<Self> {
        let host = word_text(name)?;
        // A colon of the name is written as %3A, as in a line: so no maxc or port is taken for a part of the name.
        if host.strip_prefix(UnixName::PREFIX)?.contains(':') {
            return None;
        }
        Some(Self { host: host.into(), port: Port::OfService })
    }

    /// `None` if the words cannot be one.
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

/// A word that can be handed to a resolver.
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
