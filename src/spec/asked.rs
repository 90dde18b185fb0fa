//! What clients ask for, and which groups are theirs.
//!
//! Knows: what can be asked for. Never: how it is typed, how it is heard of a client.

/// What a client may ask for before it has a channel.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RouteName {
    /// TLS for this host, in lower case.
    Name(String),
    /// TLS for any host below this one, in lower case: `mail.example.com` is for `a.mail.example.com`.
    Under(String),
    /// TLS with this protocol in it.
    Alpn(String),
    /// TLS.
    Tls,
    /// HTTP without TLS.
    Http,
    /// SSH.
    Ssh,
    /// Anything that nothing else is for.
    Else,
}

/// A protocol in which clients ask for TLS before they begin with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartTls {
    /// PostgreSQL's: SSLRequest.
    Postgres,
}

/// Groups for clients that ask for something: from one group up to the next one that begins such a part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    /// The number of the first group.
    pub group: usize,
    /// What they are for; at least one. No two sections of a service are for the same.
    pub asked: Vec<RouteName>,
}
