//! The words that begin the groups that are for some clients only: `@NAME`, `@*.NAME`, `@alpn:NAME`, `@tls`,
//! `@http`, `@ssh`, and `@` for all other clients.
//!
//! Knows: which names are legal. Never: groups, how a client asks for a name.
//! Source: docs/routing.md.

use crate::spec::{RouteName, Section};

/// The first character of these words. No channel begins with it.
pub(super) const MARK: char = '@';
/// The most bytes of a host name and of one of its labels (RFC 1035, 2.3.4; 253 is a full name's 255 bytes as
/// text).
const LONGEST: usize = 253;
const LONGEST_LABEL: usize = 63;
/// The most bytes of an ALPN protocol's name: its length is one byte (RFC 7301, 3.1).
const LONGEST_ALPN: usize = 255;

/// Reads what follows [`MARK`].
///
/// # Errors
/// One line that says what is wrong and what would be right.
pub(super) fn read_asked(word: &str) -> Result<RouteName, String> {
    if let Some(protocol) = word.strip_prefix("alpn:") {
        let is_name = (1..=LONGEST_ALPN).contains(&protocol.len())
            && protocol.bytes().all(|byte| byte.is_ascii_graphic());
        return match is_name {
            true => Ok(RouteName::Alpn(protocol.to_owned())),
            false => Err(format!("'@{word}' is not a protocol; write one such as @alpn:h2")),
        };
    }
    let name = word.to_ascii_lowercase();
    match &*name {
        "" => return Ok(RouteName::Else),
        "tls" => return Ok(RouteName::Tls),
        "http" => return Ok(RouteName::Http),
        "ssh" => return Ok(RouteName::Ssh),
        _ => {}
    }
    if let Some(under) = name.strip_prefix("*.") {
        return host(under, word).map(RouteName::Under);
    }
    host(&name, word).map(RouteName::Name)
}

fn host(name: &str, word: &str) -> Result<String, String> {
    if !name.is_ascii() {
        return Err(format!("'@{word}' is not written as clients ask for it; write its xn-- form"));
    }
    let is_label = |label: &str| {
        (1..=LONGEST_LABEL).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    let is_host = name.len() <= LONGEST && name.split('.').all(is_label);
    // TLS and HTTP clients ask for names. An IPv4 address here is a typing mistake.
    if is_host && name.parse::<std::net::Ipv4Addr>().is_err() {
        return Ok(name.to_owned());
    }
    Err(format!(
        "'@{word}' is not a name that a client can ask for; write @shop.example.com, @*.example.com, @alpn:h2, @tls, @http, @ssh, or @ for all others"
    ))
}

/// The word that `read_asked` would read as this, with its mark.
pub fn print_asked(asked: &RouteName) -> String {
    match asked {
        RouteName::Name(name) => format!("@{name}"),
        RouteName::Under(name) => format!("@*.{name}"),
        RouteName::Alpn(name) => format!("@alpn:{name}"),
        RouteName::Tls => "@tls".to_owned(),
        RouteName::Http => "@http".to_owned(),
        RouteName::Ssh => "@ssh".to_owned(),
        RouteName::Else => "@".to_owned(),
    }
}

/// Which groups are for which clients, such as `0 @a.example @b.example, 2 @`; `-` if all groups are for all
/// clients.
pub fn print_sections(sections: &[Section]) -> String {
    let section = |Section { group, asked }: &Section| {
        let asked: Vec<_> = asked.iter().map(print_asked).collect();
        format!("{group} {}", asked.join(" "))
    };
    match sections {
        [] => "-".to_owned(),
        _ => sections.iter().map(section).collect::<Vec<_>>().join(", "),
    }
}
