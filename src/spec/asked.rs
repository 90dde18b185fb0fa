//! What clients may ask for, and which groups serve each request.
//!
//! Knows: what can be asked for. Never: how it is typed, how it is read from a client.

/// What a client may ask for before it has a channel.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RouteName {
    /// TLS with this host as the server name (SNI), in lower case.
    Name(String),
    /// TLS with any host below this one as the server name, in lower case: `mail.example.com` matches
    /// `a.mail.example.com`.
    Under(String),
    /// TLS that offers this ALPN protocol.
    Alpn(String),
    /// Any TLS.
    Tls,
    /// HTTP without TLS.
    Http,
    /// SSH.
    Ssh,
    /// Anything that no other section matches.
    Else,
}

/// A protocol in which a client asks for TLS before the TLS handshake starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartTls {
    /// PostgreSQL: the client sends SSLRequest.
    Postgres,
}

/// The groups for clients that ask for something: from `group` up to the first group of the next section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    /// The number of the first group.
    pub group: usize,
    /// What these groups serve; at least one entry. No two sections of a service share an entry.
    pub asked: Vec<RouteName>,
}
