//! What a check sends and receives on its connection: bytes in, bytes to send and a verdict out.
//!
//! Knows: which kinds of checks talk. Never: sockets, time, the channel.

use std::net::{SocketAddr, SocketAddrV6};
use std::time::Duration;

use super::dialogue::Dialogue;
use super::http::Http;
use crate::spec::{Address, Check};

/// The talk on one check connection. It is over when a call returns a verdict. An error is the cause of
/// failure, in words for the operator.
#[derive(Debug)]
pub(crate) struct Talk {
    /// The bytes that go first, such as a PROXY header, as far as they are not sent yet.
    front: Vec<u8>,
    /// What follows. `None`: nothing.
    then: Option<Speech>,
}

/// What is sent and expected after the first bytes.
#[derive(Debug)]
enum Speech {
    Http(Http),
    Dialogue(Dialogue),
}

impl Talk {
    /// The talk of `check` with `target`; `front` is sent first. `None` if a connection is all the check asks
    /// for and `front` is empty.
    pub(crate) fn new(check: &Check, target: Address, front: Vec<u8>) -> Option<Self> {
        let then = match check {
            Check::Tcp | Check::Exec(_) => None,
            Check::Http { host: named, path, statuses } => {
                let host = named.clone().unwrap_or_else(|| host(target));
                Some(Speech::Http(Http::new(path, &host, statuses.clone())))
            }
            Check::Dialogue(steps) => Some(Speech::Dialogue(Dialogue::new(steps.clone()))),
        };
        (then.is_some() || !front.is_empty()).then_some(Self { front, then })
    }

    /// Starts the talk. Returns a verdict if nothing has to be sent or received.
    pub(crate) fn begin(&mut self) -> Option<Result<(), String>> {
        if !self.front.is_empty() {
            return None;
        }
        match &mut self.then {
            None => Some(Ok(())),
            Some(Speech::Http(_)) => None,
            Some(Speech::Dialogue(dialogue)) => dialogue.begin(),
        }
    }

    /// What can be sent now. Empty: nothing until more is received.
    pub(crate) fn outgoing(&self) -> &[u8] {
        match &self.then {
            _ if !self.front.is_empty() => &self.front,
            None => &[],
            Some(Speech::Http(http)) => http.outgoing(),
            Some(Speech::Dialogue(dialogue)) => dialogue.outgoing(),
        }
    }

    /// Notes that `count` bytes of [`Self::outgoing`] were sent.
    pub(crate) fn sent(&mut self, count: usize) -> Option<Result<(), String>> {
        if !self.front.is_empty() {
            self.front.drain(..count.min(self.front.len()));
            return self.begin();
        }
        match &mut self.then {
            None => None,
            Some(Speech::Http(http)) => {
                http.sent(count);
                None
            }
            Some(Speech::Dialogue(dialogue)) => dialogue.sent(count),
        }
    }

    /// Nothing more can be sent, for the reason `why`. Bytes that have already come may still be read.
    pub(crate) fn unsendable(&mut self, why: &str) -> Option<Result<(), String>> {
        self.front.clear();
        match &mut self.then {
            // The connect succeeded, and nothing else was asked for.
            None => Some(Ok(())),
            Some(Speech::Http(http)) => {
                http.unsendable();
                None
            }
            Some(Speech::Dialogue(dialogue)) => dialogue.unsendable(why),
        }
    }

    /// Notes bytes that the server sent.
    pub(crate) fn heard(&mut self, bytes: &[u8]) -> Option<Result<(), String>> {
        match &mut self.then {
            None => None,
            Some(Speech::Http(http)) => http.heard(bytes),
            Some(Speech::Dialogue(dialogue)) => dialogue.heard(bytes),
        }
    }

    /// The server sends nothing more. `how` is `closed`, `reset`, or the system's word for another error.
    pub(crate) fn ended(&mut self, how: &str) -> Option<Result<(), String>> {
        match &mut self.then {
            None => Some(Ok(())),
            Some(Speech::Http(_)) => Some(Err(format!("http: {how} before an answer came"))),
            Some(Speech::Dialogue(dialogue)) => dialogue.ended(how),
        }
    }

    /// The cause when the timeout is over.
    pub(crate) fn overdue(&self, timeout: Duration) -> String {
        match &self.then {
            None => format!("proxy: the header was not taken within {timeout:?}"),
            Some(Speech::Http(_)) => format!("http: no answer within {timeout:?}"),
            Some(Speech::Dialogue(dialogue)) => dialogue.overdue(timeout),
        }
    }
}

/// The address as a `Host` field may have it, without the zone, which means nothing to the other host.
fn host(target: Address) -> String {
    match target {
        Address::Net(SocketAddr::V6(v6)) => SocketAddrV6::new(*v6.ip(), v6.port(), 0, 0).to_string(),
        Address::Net(SocketAddr::V4(v4)) => v4.to_string(),
        // A path is not a host.
        Address::Unix(_) => "localhost".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Step;

    #[test]
    fn a_host_field_has_brackets_and_no_zone() {
        assert_eq!(host(([127, 0, 0, 1], 80).into()), "127.0.0.1:80");
        let scoped = SocketAddrV6::new("fe80::1".parse().expect("an address"), 80, 0, 3);
        assert_eq!(host(SocketAddr::from(scoped).into()), "[fe80::1]:80");
    }

    #[test]
    fn a_plain_connection_needs_no_talk() {
        assert!(Talk::new(&Check::Tcp, ([127, 0, 0, 1], 80).into(), Vec::new()).is_none());
    }

    #[test]
    fn what_goes_first_goes_before_anything_else() {
        let target = ([127, 0, 0, 1], 80).into();
        let mut tcp = Talk::new(&Check::Tcp, target, b"header".to_vec()).expect("there is something to say");
        assert_eq!((tcp.begin(), tcp.outgoing()), (None, &b"header"[..]));
        assert_eq!((tcp.sent(2), tcp.outgoing()), (None, &b"ader"[..]));
        assert_eq!(tcp.heard(b"220 welcome"), None);
        assert_eq!(tcp.sent(4), Some(Ok(())));
        let mut nobody = Talk::new(&Check::Tcp, target, b"header".to_vec()).expect("there is");
        assert_eq!(nobody.ended("closed"), Some(Ok(())), "it was connected");
        let steps = vec![Step::Send(b"PING".to_vec()), Step::Expect(b"PONG".to_vec())];
        let mut said = Talk::new(&Check::Dialogue(steps), target, b"header".to_vec()).expect("there is");
        assert_eq!(said.begin(), None);
        assert_eq!((said.sent(6), said.outgoing()), (None, &b"PING"[..]));
        assert_eq!((said.sent(4), said.heard(b"PONG")), (None, Some(Ok(()))));
        // Without steps, only the header is sent.
        let mut none = Talk::new(&Check::Dialogue(Vec::new()), target, b"header".to_vec()).expect("there is");
        assert_eq!((none.begin(), none.sent(6)), (None, Some(Ok(()))));
    }
}
