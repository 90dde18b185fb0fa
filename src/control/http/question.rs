//! Which part of the page is wanted: the query of its address.
//!
//! Knows: names and values in an address. Never: services, HTML.
//! Source: docs/observability.md, "The page".
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::fmt::Write;

/// The column by which sessions are sorted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SessionColumn {
    Id,
    Service,
    Client,
    Channel,
    Age,
    Idle,
    Sent,
    Rcvd,
}

impl SessionColumn {
    pub(crate) const ALL: [Self; 8] =
        [Self::Id, Self::Service, Self::Client, Self::Channel, Self::Age, Self::Idle, Self::Sent, Self::Rcvd];

    /// The name in the column's head and in the address.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Id => "id",
            Self::Service => "service",
            Self::Client => "client",
            Self::Channel => "channel",
            Self::Age => "age",
            Self::Idle => "idle",
            Self::Sent => "sent",
            Self::Rcvd => "rcvd",
        }
    }

    /// Does a first click on this column sort the largest first?
    fn is_amount(self) -> bool {
        matches!(self, Self::Age | Self::Idle | Self::Sent | Self::Rcvd)
    }
}

/// Which part of the page is wanted. Values that have no meaning are ignored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PageQuestion {
    /// Show only this service; `None`: all.
    pub(crate) service: Option<String>,
    pub(crate) sort: SessionColumn,
    pub(crate) is_descending: bool,
    /// List the sessions even if there are many.
    pub(crate) wants_sessions: bool,
}

impl PageQuestion {
    /// Reads `service=web&sort=sent&order=asc`.
    pub(crate) fn read(query: &str) -> Self {
        let value = |wanted: &str| pairs(query).find(|(name, _)| name == wanted).map(|(_, value)| value);
        let sort =
            value("sort").and_then(|word| SessionColumn::ALL.into_iter().find(|one| one.name() == word));
        let sort = sort.unwrap_or(SessionColumn::Age);
        let is_descending = match value("order").as_deref() {
            Some("asc") => false,
            Some("desc") => true,
            _ => sort.is_amount(),
        };
        Self {
            service: value("service").filter(|word| !word.is_empty()),
            sort,
            is_descending,
            wants_sessions: value("sessions").is_some(),
        }
    }

    /// The address that asks for the same.
    pub(crate) fn address(&self) -> String {
        let mut parts = Vec::new();
        parts.extend(self.service.as_deref().map(|service| format!("service={}", encoded(service))));
        if self.sort != SessionColumn::Age || !self.is_descending {
            parts.push(format!("sort={}", self.sort.name()));
            parts.push(format!("order={}", if self.is_descending { "desc" } else { "asc" }));
        }
        parts.extend(self.wants_sessions.then(|| "sessions=all".to_owned()));
        if parts.is_empty() { "/".to_owned() } else { format!("/?{}", parts.join("&")) }
    }

    /// The same question for this service only, or for all (`None`).
    pub(crate) fn of_service(&self, service: Option<&str>) -> Self {
        Self { service: service.map(str::to_owned), ..self.clone() }
    }

    /// The same question with all sessions, however many there are.
    pub(crate) fn with_sessions(&self) -> Self {
        Self { wants_sessions: true, ..self.clone() }
    }

    /// The same question sorted by this column. If it is sorted by it already, the order is reversed.
    pub(crate) fn sorted_by(&self, column: SessionColumn) -> Self {
        let is_descending = if self.sort == column { !self.is_descending } else { column.is_amount() };
        Self { sort: column, is_descending, ..self.clone() }
    }
}

/// The decoded names and values of a query or a form.
pub(crate) fn pairs(query: &str) -> impl Iterator<Item = (String, String)> {
    query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (plain(name), plain(value))
    })
}

/// Decodes a word: `a+b%41` is `a bA`. A `%` without two hex digits stays as it is.
fn plain(word: &str) -> String {
    let mut bytes = Vec::with_capacity(word.len());
    let mut rest = word.as_bytes();
    while let [first, behind @ ..] = rest {
        let digit = |at: usize| behind.get(at).and_then(|digit| char::from(*digit).to_digit(16));
        match (first, digit(0), digit(1)) {
            (b'%', Some(high), Some(low)) => {
                bytes.extend(u8::try_from(high * 16 + low));
                rest = &behind[2..];
                continue;
            }
            (b'+', ..) => bytes.push(b' '),
            _ => bytes.push(*first),
        }
        rest = behind;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn encoded(word: &str) -> String {
    let mut out = String::new();
    for byte in word.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b':' => {
                out.push(char::from(byte));
            }
            // Writing to a String cannot fail.
            _ => _ = write!(out, "%{byte:02X}"),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_means_nothing_is_as_if_it_were_not_said() {
        let plain = PageQuestion::read("");
        assert_eq!((plain.sort, plain.is_descending, &plain.service), (SessionColumn::Age, true, &None));
        for query in ["sort=x", "order=y", "service=", "&&=&", "sort", "%", "a=%zz", "sort=%ff"] {
            assert_eq!(PageQuestion::read(query), plain, "{query}");
        }
        let asked = PageQuestion::read("service=a%26b+c&sort=client&sessions=all");
        assert_eq!((asked.service.as_deref(), asked.is_descending), (Some("a&b c"), false));
        assert_eq!(asked.address(), "/?service=a%26b%20c&sort=client&order=asc&sessions=all");
        assert!(asked.sorted_by(SessionColumn::Client).is_descending);
        assert!(asked.sorted_by(SessionColumn::Sent).is_descending);
        assert_eq!(plain.address(), "/");
    }

    proptest! {
        #[test]
        fn an_address_asks_for_what_it_was_made_of(service in "\\PC{1,20}", column in 0_usize..8, flags: [bool; 2]) {
            let asked = PageQuestion {
                service: Some(service),
                sort: SessionColumn::ALL[column],
                is_descending: flags[0],
                wants_sessions: flags[1],
            };
            let address = asked.address();
            prop_assert!(address.bytes().all(|byte| (b'!'..=b'~').contains(&byte) && !b"\"<>'".contains(&byte)));
            prop_assert_eq!(PageQuestion::read(address.split_once('?').map_or("", |(_, query)| query)), asked);
        }
    }
}
