//! What is said and heard on the connection of a check: bytes in, bytes to send and a verdict out.
//!
//! Knows: which kinds of talk there are. Never: sockets, time, the channel.

use std::net::{SocketAddr, SocketAddrV6};
use std::time::Duration;

use super::dialogue::Dialogue;
use super::http::Http;
use crate::spec::Check;

/// The talk of one connection. It is over when a call answers with a verdict; its error is the cause of being down, for the
/// operator.
#[derive(Debug)]
pub(crate) enum Talk {
    Http(Http),
    Dialogue(Dialogue),
}

impl Talk {
    /// `None`: a connection is all that was asked for.
    pub(crate) fn new(check: &Check, target: SocketAddr) -> Option<Self> {
        match check {
            Check::Tcp | Check::Exec(_) => None,
            Check::Http { host: named, path, statuses } => {
                let host = named.clone().unwrap_or_else(|| host(target));
                Some(Self::Http(Http::new(path, &host, statuses.clone())))
            }
            Check::Dialogue(steps) => Some(Self::Dialogue(Dialogue::new(steps.clone()))),
        }
    }

    /// Is it over before anything was heard or can be said?
    pub(crate) fn begin(&mut self) -> Option<Result<(), String>> {
        match self {
            Self::Http(_) => None,
            Self::Dialogue(dialogue) => dialogue.begin(),
        }
    }

    /// What can be sent now; empty = nothing until something is heard.
    pub(crate) fn outgoing(&self) -> &[u8] {
        match self {
            Self::Http(http) => http.outgoing(),
            Self::Dialogue(dialogue) => dialogue.outgoing(),
        }
    }

    /// So many bytes of [`Self::outgoing`] are on their way.
    pub(crate) fn sent(&mut self, count: usize) -> Option<Result<(), String>> {
        match self {
            Self::Http(http) => {
                http.sent(count);
                None
            }
            Self::Dialogue(dialogue) => dialogue.sent(count),
        }
    }

    /// Nothing can be sent any more, for this reason. What has come already may still be read.
    pub(crate) fn unsendable(&mut self, why: &str) -> Option<Result<(), String>> {
        match self {
            Self::Http(http) => {
                http.unsendable();
                None
            }
            Self::Dialogue(dialogue) => dialogue.unsendable(why),
        }
    }

    /// The server has said this.
    pub(crate) fn heard(&mut self, bytes: &[u8]) -> Option<Result<(), String>> {
        match self {
            Self::Http(http) => http.heard(bytes),
            Self::Dialogue(dialogue) => dialogue.heard(bytes),
        }
    }

    /// The server says nothing any more: `closed`, `reset`, or what else the system calls it.
    pub(crate) fn ended(&mut self, how: &str) -> Option<Result<(), String>> {
        match self {
            Self::Http(_) => Some(Err(format!("http: {how} before an answer came"))),
            Self::Dialogue(dialogue) => dialogue.ended(how),
        }
    }

    /// The cause when time is up.
    pub(crate) fn overdue(&self, timeout: Duration) -> String {
        match self {
            Self::Http(_) => format!("http: no answer within {timeout:?}"),
            Self::Dialogue(dialogue) => dialogue.overdue(timeout),
        }
    }
}

/// The address as a `Host` field may have it: a zone means nothing to anybody else.
fn host(target: SocketAddr) -> String {
    match target {
        SocketAddr::V4(v4) => v4.to_string(),
        SocketAddr::V6(v6) => SocketAddrV6::new(*v6.ip(), v6.port(), 0, 0).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_field_has_brackets_and_no_zone() {
        assert_eq!(host(([127, 0, 0, 1], 80).into()), "127.0.0.1:80");
        let scoped = SocketAddrV6::new("fe80::1".parse().expect("an address"), 80, 0, 3);
        assert_eq!(host(scoped.into()), "[fe80::1]:80");
    }

    #[test]
    fn a_plain_connection_needs_no_talk() {
        assert!(Talk::new(&Check::Tcp, ([127, 0, 0, 1], 80).into()).is_none());
    }
}
