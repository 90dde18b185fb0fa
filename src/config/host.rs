//! The grammar of hosts.
//!
//! Knows: their forms, and what is often mistaken for one. Never: DNS, the services database, defaults.
//! Source: docs/compatibility.md, "Command line".
//!
//! An IPv6 address with a port is written in brackets. Without brackets it is accepted if it can be nothing
//! else: a whole word that is an IPv6 address and has more than two colons or begins with `::`
//! (`2001:db8::1`, `::1`). `a::12` has two colons; as in the original `balance`, it is host `a` with at most
//! 12 connections.

use std::net::Ipv6Addr;
use std::num::NonZeroU16;

use super::number::whole_number;
use super::values::Bad;
use super::wrong::{Word, Wrong};
use crate::spec::{HostSpec, HttpSpec};

/// Numbers below this are addresses in 0.0.0.0/8, which no host has (RFC 1122, 3.2.1.3).
const NO_HOST: u64 = 1 << 24;

/// Whether this may be a host: an IPv6 address, with a zone or without, or a word without colons, brackets,
/// blanks and control characters that is not a bare number. Whether the host exists is asked later.
pub fn is_host(word: &str) -> bool {
    why_no_host(word).is_none()
}

/// Why a word cannot be a host. `None`: it may be one.
pub(super) fn why_no_host(word: &str) -> Option<String> {
    if word.is_empty() {
        return Some("the host is missing; write host[:port[:maxc]]".to_owned());
    }
    if word.contains(':') {
        return (!is_ipv6(word)).then(|| format!("'{word}' is not an IPv6 address"));
    }
    if word.contains(|c: char| c.is_whitespace() || c.is_control() || "[]".contains(c)) {
        return Some("a host has no blanks, brackets or control characters in it".to_owned());
    }
    // The resolver would take 8080 for 0.0.31.144. 0 is left out: it is an old way to write this machine.
    let number = whole_number(word).flatten().filter(|n| (1..NO_HOST).contains(n))?;
    Some(match u16::try_from(number) {
        Ok(port) => {
            format!(
                "'{word}' is a number where a host should be; for port {port} of this machine write localhost:{port}"
            )
        }
        Err(_) => format!("'{word}' is a number where a host should be; write host[:port[:maxc]]"),
    })
}

/// Whether a word without brackets can be nothing but an IPv6 address.
pub(super) fn is_bare_ipv6(word: &str) -> bool {
    let unmistakable = word.starts_with("::") || word.contains('%') || word.matches(':').count() > 2;
    unmistakable && is_ipv6(word)
}

/// Why a word such as `::1:80` is refused: it has the form of an address, but of a deprecated kind that no
/// host has (RFC 4291, 2.5.5.1), so a port was meant. `None`: it is not such a word.
pub(super) fn port_taken_for_address(word: &str) -> Option<String> {
    let address: Ipv6Addr = word.parse().ok()?;
    let is_old = address.segments()[..6] == [0; 6] && !address.is_unspecified() && !address.is_loopback();
    let (host, port) = word.rsplit_once(':').filter(|(_, last)| is_old && !last.contains('.'))?;
    Some(match host {
        ":" => format!("no host has the address {word}; an IPv6 address with a port is written [::1]:{port}"),
        _ => format!("no host has the address {word}; for port {port} of {host} write [{host}]:{port}"),
    })
}

/// Whether this is an IPv6 address; it may have a zone, as in `fe80::1%eth0`.
fn is_ipv6(word: &str) -> bool {
    let (address, zone) = word.split_once('%').unwrap_or((word, "0"));
    let zone_is_name = zone.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
    address.parse::<Ipv6Addr>().is_ok() && !zone.is_empty() && zone_is_name
}

/// Reads the address of `-b` or `-B`. Brackets around an IPv6 address are allowed.
///
/// # Errors
/// `Address` for what is not a host, or is one with a port.
pub(super) fn read_host(word: &Word) -> Result<HostSpec, Wrong> {
    let typed = word.typed();
    let Some(text) = word.as_str() else { return Err(Wrong::address(&typed, NOT_UTF8)) };
    let inside = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let bare = inside.filter(|inside| inside.contains(':')).unwrap_or(text);
    match why_no_host(bare) {
        Some(_) if bare.is_empty() || bare.contains(':') => {
            Err(Wrong::address(&typed, "give a host or an address here, without a port"))
        }
        Some(why) => Err(Wrong::address(&typed, why)),
        None => Ok(HostSpec { name: bare.to_owned(), typed }),
    }
}

/// Reads hosts, separated by commas.
///
/// # Errors
/// `Address` for the first that is not a host, or is given twice.
pub(super) fn read_hosts(word: &Word) -> Result<Vec<HostSpec>, Wrong> {
    let Some(text) = word.as_str().filter(|text| text.contains(',')) else {
        return Ok(vec![read_host(word)?]);
    };
    let mut hosts: Vec<HostSpec> = Vec::new();
    for one in text.split(',') {
        if one.is_empty() {
            return Err(Wrong::address(&word.typed(), "a host is missing beside a comma"));
        }
        let host = read_host(&Word { text: one.into(), at: word.at.clone() })?;
        if hosts.iter().any(|known| known.name == host.name) {
            return Err(Wrong::address(&host.typed, "it is there twice; give each once"));
        }
        hosts.push(host);
    }
    Ok(hosts)
}

/// Reads the value of `--http`: `PORT`, `ADDRESS:PORT`, `[IPv6]:PORT` or `NAME:PORT`.
///
/// # Errors
/// `Value`: what is wrong, and what would be right.
pub(super) fn read_http(word: &Word) -> Result<HttpSpec, Bad> {
    let wrong = |why: &str| {
        Bad::Value(format!("{why}; give a port, or ADDRESS:PORT as in 127.0.0.1:7780 or [::1]:7780"))
    };
    let text = word.as_str().ok_or_else(|| wrong("is not UTF-8"))?;
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) => (Some(host), port),
        None => (None, text),
    };
    let is_bracketed = |host: &&str| host.starts_with('[') && host.ends_with(']');
    let bare =
        host.map(|host| host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host));
    match (host, bare) {
        (Some(host), Some(bare)) if host.contains(':') && !(is_bracketed(&host) && is_ipv6(bare)) => {
            return Err(wrong("is not an address and a port"));
        }
        (Some(host), Some(bare)) if why_no_host(bare).is_some() || (host != bare && !is_ipv6(bare)) => {
            return Err(wrong("has no host in front of its port"));
        }
        _ => {}
    }
    let number =
        whole_number(port).flatten().and_then(|port| u16::try_from(port).ok()).and_then(NonZeroU16::new);
    let port = number.ok_or_else(|| wrong("has no port from 1 to 65535"))?;
    Ok(HttpSpec { host: bare.map(str::to_owned), port, typed: word.typed() })
}

/// The value of `--http` that [`read_http`] reads as this.
pub(super) fn print_http(http: &HttpSpec) -> String {
    match &http.host {
        None => http.port.to_string(),
        Some(host) if host.contains(':') => format!("[{host}]:{}", http.port),
        Some(host) => format!("{host}:{}", http.port),
    }
}

/// The message about a word whose bytes are not UTF-8.
pub(super) const NOT_UTF8: &str = "the word is not UTF-8";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_number_is_no_host_unless_it_can_be_an_address() {
        for word in ["1", "80", "8080", "65536", "16777215", "0080"] {
            assert!(!is_host(word), "{word}");
        }
        for word in ["0", "16777216", "2130706433", "127.1", "10.1.1.1", "8080x", "x8080"] {
            assert!(is_host(word), "{word}");
        }
    }

    #[test]
    fn a_port_at_the_end_of_an_address_is_found_where_no_host_could_have_it() {
        for (word, cure) in
            [("::1:80", "[::1]:80"), ("::1:8080", "[::1]:8080"), ("::80", "[::1]:80"), ("::2:1:3", "")]
        {
            let why = port_taken_for_address(word);
            assert_eq!(why.is_some(), !cure.is_empty(), "{word}");
            assert!(why.is_none_or(|why| why.ends_with(cure)), "{word}");
        }
        for word in
            ["::1", "::", "::ffff:10.1.1.3", "::10.1.1.3", "2001:db8::1:80", "fe80::1:80", "a::12", "80"]
        {
            assert_eq!(port_taken_for_address(word), None, "{word}");
        }
    }
}
