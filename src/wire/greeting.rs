//! What balance reads from a client before it chooses a channel: the PROXY header that announces the client,
//! and what the client asks for.
//!
//! Knows: when enough has come, how many bytes are kept until then. Never: the socket, the clock, what is
//! done with the result.
//! Source: docs/proxy-protocol.md, docs/routing.md.

use std::net::SocketAddr;

use super::hello::{Asks, HANDSHAKE, HelloReader};
use super::postgres::{NO, Opening, SSL_REQUEST, YES};
use super::proxy::decode::{Decoded, HeaderContent, HeaderError, LONGEST, decode};

/// How many bytes are read at a time, unless more are known to be missing. It is small because all bytes
/// after the greeting are held until there is a channel.
const AT_ONCE: usize = 4 * 1024;

/// What has to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wants {
    /// A PROXY header, before anything else.
    pub header: bool,
    /// What the client asks for.
    pub hello: bool,
    /// The state of a request for TLS in another protocol.
    pub tls: TlsRequest,
}

/// Whether a client may ask for TLS in another protocol before the TLS handshake, and how far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TlsRequest {
    /// Such requests are not recognized.
    #[default]
    Never,
    /// The client may ask for TLS by PostgreSQL's request.
    Awaited,
    /// The client has asked and was told to start TLS.
    Granted,
}

/// Collects a client's bytes until enough has come to choose a channel.
#[derive(Debug)]
pub struct GreetingReader {
    wants: Wants,
    /// The bytes received so far; without the header once that is complete.
    bytes: Vec<u8>,
    /// At least this many bytes are missing; 0 if that is not known yet.
    missing: usize,
    header: Option<Introduced>,
    hello: HelloReader,
}

/// What a PROXY header says about the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Introduced {
    /// The client's address and the address it connected to; `None` if the header has no addresses.
    pub addresses: Option<[SocketAddr; 2]>,
    /// The TLVs of the header as they came.
    pub tlvs: Box<[u8]>,
}

/// The result of a complete greeting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Greeted {
    /// What the client asks for; [`Asks::Else`] if that was not wanted.
    pub asks: Asks,
    /// What the client sent, without the PROXY header and without its request for TLS.
    pub rest: Box<[u8]>,
    /// The client was told to start TLS. The server has not been asked for that yet.
    pub was_granted: bool,
}

/// Why a greeting can never become complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GreetingError {
    /// The connection does not begin with a PROXY header.
    NoHeader,
    /// The PROXY header is invalid, or the client sent more than is allowed before TLS.
    Malformed,
}

impl GreetingReader {
    /// Maximum number of bytes kept per client.
    pub const MOST: usize = if LONGEST > HelloReader::MOST { LONGEST } else { HelloReader::MOST } + AT_ONCE;

    /// A reader of `wants` that has received `bytes` of it so far.
    pub fn new(wants: Wants, bytes: Vec<u8>) -> Self {
        Self { wants, bytes, missing: 0, header: None, hello: HelloReader::default() }
    }

    /// What still has to be read.
    pub fn wants(&self) -> Wants {
        self.wants
    }

    /// The bytes received so far and not used up.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// How many bytes may be read next.
    pub fn room(&self) -> usize {
        self.missing.max(AT_ONCE)
    }

    /// How many bytes are kept in memory.
    pub fn kept(&self) -> usize {
        self.bytes.len() + self.hello.kept()
    }

    /// Takes what the PROXY header said; `None` if the header is not complete or was taken before.
    pub fn take_header(&mut self) -> Option<Introduced> {
        self.header.take()
    }

    /// Adds received bytes. `None`: more bytes are needed.
    ///
    /// # Errors
    /// The greeting can never become complete, whatever follows.
    pub fn feed(&mut self, chunk: &[u8]) -> Result<Option<Greeted>, GreetingError> {
        self.bytes.extend_from_slice(chunk);
        self.missing = 0;
        if self.wants.header {
            match decode(&self.bytes) {
                Ok(Decoded::Whole(HeaderContent { addresses, tlvs }, length)) => {
                    // The memory of the header is given back, too.
                    self.bytes = self.bytes.split_off(length);
                    self.header = Some(Introduced { addresses, tlvs });
                    self.wants.header = false;
                }
                Ok(Decoded::More(missing)) => {
                    self.missing = missing;
                    return Ok(None);
                }
                Err(HeaderError::None) => return Err(GreetingError::NoHeader),
                Err(HeaderError::Malformed) => return Err(GreetingError::Malformed),
            }
        }
        match self.wants.tls {
            // Bytes that come before our answer are not protected and could be injected; they would then
            // count as sent by TLS.
            TlsRequest::Awaited => match Opening::of(&self.bytes) {
                Opening::Tls if self.bytes.len() > SSL_REQUEST.len() => return Err(GreetingError::Malformed),
                Opening::Tls | Opening::Gss | Opening::Begun => return Ok(None),
                Opening::None => {}
            },
            TlsRequest::Granted if self.bytes.first().is_some_and(|first| *first != HANDSHAKE) => {
                return Err(GreetingError::Malformed);
            }
            TlsRequest::Granted | TlsRequest::Never => {}
        }
        let asks = if self.wants.hello { self.hello.look(&self.bytes) } else { Some(Asks::Else) };
        Ok(asks.map(|asks| self.greeted(asks)))
    }

    /// The byte that the client waits for before it sends more. `None` if it waits for nothing. After this
    /// byte is sent, call [`GreetingReader::answered`].
    pub fn answer(&self) -> Option<u8> {
        if self.wants.header || self.wants.tls != TlsRequest::Awaited {
            return None;
        }
        match Opening::of(&self.bytes) {
            Opening::Tls => Some(YES),
            Opening::Gss => Some(NO),
            Opening::Begun | Opening::None => None,
        }
    }

    /// Notes that the answer was sent. `None`: more bytes are needed.
    ///
    /// # Errors
    /// The greeting can never become complete, whatever follows.
    pub fn answered(&mut self) -> Result<Option<Greeted>, GreetingError> {
        if self.answer() == Some(YES) {
            self.wants.tls = TlsRequest::Granted;
        }
        self.bytes.drain(..SSL_REQUEST.len().min(self.bytes.len()));
        self.feed(&[])
    }

    /// Ends the greeting because nothing more comes, or not in time. `None` if the PROXY header is still
    /// missing.
    pub fn give_up(&mut self) -> Option<Greeted> {
        (!self.wants.header).then(|| self.greeted(Asks::Else))
    }

    fn greeted(&mut self, asks: Asks) -> Greeted {
        let was_granted = self.wants.tls == TlsRequest::Granted;
        Greeted { asks, rest: std::mem::take(&mut self.bytes).into(), was_granted }
    }
}

/// What a client asks for with these first bytes, even if they are incomplete.
pub fn asks_of(said: &[u8]) -> Asks {
    HelloReader::default().look(said).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use proptest::prelude::*;

    use super::*;

    fn wants(header: bool, hello: bool) -> Wants {
        Wants { header, hello, tls: TlsRequest::Never }
    }

    /// What was read from a client that must send a header.
    type Heard = (Option<[SocketAddr; 2]>, Box<[u8]>, Box<[u8]>);

    fn reader() -> GreetingReader {
        GreetingReader::new(wants(true, false), Vec::new())
    }

    /// The result of feeding pieces of these lengths, the last piece being the rest.
    fn fed(bytes: &[u8], lengths: &[usize]) -> Result<Option<Heard>, GreetingError> {
        let mut reader = reader();
        let (mut rest, mut lengths) = (bytes, lengths.iter().copied());
        while !rest.is_empty() {
            let piece = lengths.next().unwrap_or(rest.len()).clamp(1, rest.len());
            let (chunk, behind) = rest.split_at(piece);
            rest = behind;
            if let Some(greeted) = reader.feed(chunk)? {
                let Introduced { addresses, tlvs } = reader.take_header().expect("it was wanted");
                return Ok(Some((addresses, tlvs, [&greeted.rest, rest].concat().into())));
            }
        }
        Ok(None)
    }

    fn at_every_split(bytes: &[u8], check: impl Fn(Result<Option<Heard>, GreetingError>)) {
        check(fed(bytes, &vec![1; bytes.len()]));
        (1..=bytes.len()).for_each(|at| check(fed(bytes, &[at])));
    }

    fn binary(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
        let length = u16::try_from(block.len()).expect("a short block").to_be_bytes();
        [&b"\r\n\r\n\0\r\nQUIT\n"[..], &[command, family], &length, block].concat()
    }

    fn tlv(kind: u8, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(value.len()).expect("a short value").to_be_bytes();
        [&[kind][..], &length, value].concat()
    }

    const INET: &[u8] = &[203, 0, 113, 7, 10, 0, 0, 1, 0x12, 0x67, 1, 0xbb];

    fn inet6() -> Vec<u8> {
        let mut block = vec![0; 32];
        (block[0], block[1], block[15]) = (0x20, 0x01, 7);
        (block[26], block[27], block[28], block[31]) = (0xff, 0xff, 192, 2);
        block.extend_from_slice(&[0, 80, 1, 187]);
        block
    }

    fn with_checksum(mut header: Vec<u8>) -> Vec<u8> {
        let length = u16::from_be_bytes([header[14], header[15]]) + 7;
        header[14..16].copy_from_slice(&length.to_be_bytes());
        header.extend_from_slice(&[3, 0, 4, 0, 0, 0, 0]);
        let sum = crate::wire::crc32c::crc32c([&header[..]]).to_be_bytes();
        let at = header.len() - 4;
        header[at..].copy_from_slice(&sum);
        header
    }

    #[test]
    fn every_header_is_understood_at_every_split() {
        let inet = Some(["203.0.113.7:4711", "10.0.0.1:443"]);
        let kept = tlv(5, b"an id");
        type Row<'a> = (Vec<u8>, Option<[&'a str; 2]>, &'a [u8]);
        let rows: Vec<Row> = vec![
            (b"PROXY TCP4 203.0.113.7 10.0.0.1 4711 443\r\n".into(), inet, b""),
            (
                b"PROXY TCP6 2001:db8::7 2001:DB8:0:0:0:0:0:1 0 65535\r\n".into(),
                Some(["[2001:db8::7]:0", "[2001:db8::1]:65535"]),
                b"",
            ),
            (
                b"PROXY TCP6 ::ffff:203.0.113.7 ::ffff:10.0.0.1 4711 443\r\n".into(),
                Some(["203.0.113.7:4711", "10.0.0.1:443"]),
                b"",
            ),
            (b"PROXY UNKNOWN\r\n".into(), None, b""),
            (b"PROXY UNKNOWN whatever \r that \xff is\r\n".into(), None, b""),
            (
                b"PROXY UNKNOWN ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n".into(),
                None,
                b"",
            ),
            (binary(0x21, 0x11, INET), inet, b""),
            (binary(0x21, 0x21, &inet6()), Some(["[2001::7]:80", "192.0.0.2:443"]), b""),
            (binary(0x21, 0x11, &[INET, &kept].concat()), inet, &kept),
            (binary(0x21, 0x11, &[INET, &tlv(4, b"..."), &kept, &tlv(4, b"")].concat()), inet, &kept),
            (with_checksum(binary(0x21, 0x11, &[INET, &kept].concat())), inet, &kept),
            (with_checksum(binary(0x21, 0x21, &inet6())), Some(["[2001::7]:80", "192.0.0.2:443"]), b""),
            (with_checksum(binary(0x20, 0x00, b"")), None, b""),
            // A Unix socket has no address that can be used, and a datagram has no connection.
            (binary(0x21, 0x31, &[vec![b'x'; 216], kept.clone()].concat()), None, &kept),
            (binary(0x21, 0x12, &[INET, &kept].concat()), None, &kept),
            (binary(0x21, 0x00, b""), None, b""),
            (binary(0x21, 0x00, &kept), None, &kept),
            (binary(0x21, 0x00, b"whatever"), None, b""),
            (binary(0x21, 0x10, b"x"), None, b""),
            (binary(0x20, 0x00, b""), None, b""),
            (binary(0x20, 0x11, &[INET, &kept].concat()), None, b""),
            (binary(0x20, 0x21, b"short"), None, b""),
            (binary(0x20, 0xff, b"whatever"), None, b""),
        ];
        for (header, addresses, tlvs) in rows {
            for rest in [&b""[..], b"x", b"GET / HTTP/1.1\r\n\r\n"] {
                at_every_split(&[&header, rest].concat(), |heard| {
                    let heard = heard.expect("it is a header").expect("it is whole");
                    let said = heard.0.map(|both| both.map(|address| address.to_string()));
                    assert_eq!(said, addresses.map(|both| both.map(str::to_owned)), "{header:?}");
                    assert_eq!((&*heard.1, &*heard.2), (tlvs, rest), "{header:?}");
                });
            }
            for end in 0..header.len() {
                assert_eq!(fed(&header[..end], &[]), Ok(None), "{header:?} up to {end}");
            }
        }
    }

    #[test]
    fn what_is_no_header_is_refused_at_every_split() {
        let mut wrong_sum = with_checksum(binary(0x21, 0x11, INET));
        wrong_sum[16] ^= 1;
        let mut wrong_sum_of_local = with_checksum(binary(0x20, 0x00, b""));
        wrong_sum_of_local[19] ^= 1;
        let mut long = String::from("PROXY UNKNOWN ");
        write!(long, "{}\r\n", "x".repeat(108 - 16)).expect("a string");
        let malformed: &[&[u8]] = &[
            b"PROXY TCP4 203.0.113.7 10.0.0.1 4711 443\n",
            b"PROXY TCP4 203.0.113.7 10.0.0.1 4711\n443\r\n",
            b"PROXY TCP4 203.0.113.7 10.0.0.1 4711 443 \r\n",
            b"PROXY TCP4  203.0.113.7 10.0.0.1 4711 443\r\n",
            b"PROXY  TCP4 203.0.113.7 10.0.0.1 4711 443\r\n",
            b"PROXY TCP4 203.0.113.07 10.0.0.1 4711 443\r\n",
            b"PROXY TCP4 203.0.113.7 10.0.0.1 04711 443\r\n",
            b"PROXY TCP4 203.0.113.7 10.0.0.1 +4711 443\r\n",
            b"PROXY TCP4 203.0.113.7 10.0.0.1 65536 443\r\n",
            b"PROXY TCP4 203.0.113.7 10.0.0.1  443\r\n",
            b"PROXY TCP4 203.0.113.256 10.0.0.1 4711 443\r\n",
            b"PROXY TCP4 2001:db8::7 2001:db8::1 4711 443\r\n",
            b"PROXY TCP6 203.0.113.7 10.0.0.1 4711 443\r\n",
            b"PROXY TCP6 fe80::1%lo fe80::2 4711 443\r\n",
            b"PROXY TCP5 203.0.113.7 10.0.0.1 4711 443\r\n",
            b"PROXY UDP4 203.0.113.7 10.0.0.1 4711 443\r\n",
            b"PROXY UNKNOWNS\r\n",
            b"PROXY unknown\r\n",
            b"PROXY \r\n",
            b"PROXY UNKNOWN\n",
            long.as_bytes(),
            &wrong_sum,
            &wrong_sum_of_local,
            &binary(0x11, 0x11, INET),
            &binary(0x22, 0x11, INET),
            &binary(0x31, 0x11, INET),
            &binary(0x21, 0x41, INET),
            &binary(0x21, 0x13, INET),
            &binary(0x21, 0x11, &INET[1..]),
            &binary(0x21, 0x21, INET),
            &binary(0x21, 0x31, INET),
            &binary(0x21, 0x11, &[INET, b"x"].concat()),
            &binary(0x21, 0x11, &[INET, &[5, 0, 2, 1]].concat()),
            &binary(0x21, 0x11, &[INET, &tlv(3, b"123")].concat()),
            &binary(0x21, 0x11, &[INET, &tlv(3, b"12345")].concat()),
        ];
        for &bytes in malformed {
            let name = String::from_utf8_lossy(bytes).into_owned();
            at_every_split(bytes, |heard| assert_eq!(heard, Err(GreetingError::Malformed), "{name:?}"));
        }
        let other: &[&[u8]] = &[
            b"GET / HTTP/1.1\r\n\r\n",
            b"\x16\x03\x01",
            b"PROXX",
            b"\r\n\r\n\r\n",
            b"Proxy TCP4",
            b"PROXYTCP4",
        ];
        for &bytes in other {
            at_every_split(bytes, |heard| assert_eq!(heard, Err(GreetingError::NoHeader), "{bytes:?}"));
        }
    }

    #[test]
    fn it_is_refused_as_soon_as_it_is_wrong() {
        for (bytes, error) in [
            (&b"G"[..], GreetingError::NoHeader),
            (b"PROXYX", GreetingError::NoHeader),
            (b"\r\n\r\n\0\r\nQUIT\n\x11", GreetingError::Malformed),
            (b"\r\n\r\n\0\r\nQUIT\n\x21\x71", GreetingError::Malformed),
        ] {
            let (last, before) = bytes.split_last().expect("there are some");
            let mut reader = reader();
            if !before.is_empty() {
                assert_eq!(reader.feed(before), Ok(None));
            }
            assert_eq!(reader.feed(&[*last]), Err(error), "{bytes:?}");
        }
    }

    #[test]
    fn no_more_is_kept_than_a_header_can_have() {
        let header = binary(0x21, 0x00, &vec![0xff; usize::from(u16::MAX)]);
        assert!(header.len() <= GreetingReader::MOST);
        let mut reader = reader();
        let mut sent = 0;
        while let Some(chunk) =
            header.get(sent..header.len().min(sent + reader.room())).filter(|c| !c.is_empty())
        {
            sent += chunk.len();
            let is_whole = reader.feed(chunk).expect("it is a header").is_some();
            assert_eq!(is_whole, sent == header.len());
            assert!(is_whole || reader.bytes().len() + reader.room() <= header.len().max(sent + AT_ONCE));
        }
        assert_eq!(sent, header.len());
    }

    #[test]
    fn a_header_and_what_is_asked_for_behind_it_are_heard_at_every_split() {
        let header = b"PROXY TCP4 203.0.113.7 10.0.0.1 4711 443\r\n";
        let hello = crate::wire::hello::tests::hello_for("a.example");
        let all = [&header[..], &hello].concat();
        for at in 1..all.len() {
            let mut reader = GreetingReader::new(wants(true, true), Vec::new());
            assert_eq!(reader.feed(&all[..at]), Ok(None), "cut at {at}");
            assert_eq!(reader.take_header().is_some(), at >= header.len());
            assert_eq!(reader.wants().header, at < header.len());
            // As after an upgrade to another process.
            let mut reader = GreetingReader::new(reader.wants(), reader.bytes().to_vec());
            let greeted = reader.feed(&all[at..]).expect("it is right").expect("it is whole");
            assert_eq!(greeted.asks, Asks::Tls { name: Some("a.example".to_owned()), protocols: Vec::new() });
            assert_eq!((&*greeted.rest, asks_of(&greeted.rest)), (&*hello, greeted.asks));
        }
        let mut reader = GreetingReader::new(wants(true, true), all[..9].to_vec());
        assert_eq!(reader.give_up(), None);
        let mut reader = GreetingReader::new(wants(false, true), hello[..9].to_vec());
        assert_eq!(
            reader.give_up().map(|greeted| (greeted.asks, greeted.rest)),
            Some((Asks::Else, hello[..9].into()))
        );
    }

    const GSS_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 0xd2, 0x16, 0x30];

    /// The result for a client that may ask for TLS and waits for its answers, if each part is fed in pieces
    /// of `piece` bytes; and the answers that it got.
    fn asked(parts: &[&[u8]], piece: usize) -> (Result<Option<Greeted>, GreetingError>, String) {
        let tls = TlsRequest::Awaited;
        let mut reader = GreetingReader::new(Wants { header: false, hello: true, tls }, Vec::new());
        let mut answers = String::new();
        for part in parts {
            for chunk in part.chunks(piece) {
                let mut heard = reader.feed(chunk);
                while let (Ok(None), Some(answer)) = (&heard, reader.answer()) {
                    answers.push(char::from(answer));
                    heard = reader.answered();
                }
                // As after an upgrade to another process.
                let mut next = GreetingReader::new(reader.wants(), reader.bytes().to_vec());
                match heard {
                    Ok(None) => {
                        assert_eq!(next.feed(&[]), Ok(None));
                        reader = next;
                    }
                    heard => return (heard, answers),
                }
            }
        }
        (Ok(None), answers)
    }

    #[test]
    fn a_request_for_tls_is_answered_and_the_hello_behind_it_heard_at_every_split() {
        let hello = crate::wire::hello::tests::hello_for("db1.example");
        let startup = b"\0\0\0\x09\0\x03\0\0\0";
        let cancel = b"\0\0\0\x10\x04\xd2\x16\x2e\0\0\0\x01\0\0\0\x02";
        let named = Asks::Tls { name: Some("db1.example".to_owned()), protocols: Vec::new() };
        type Row<'a> = (&'a [&'a [u8]], &'a str, &'a Asks, &'a [u8]);
        let rows: &[Row] = &[
            (&[&SSL_REQUEST, &hello], "S", &named, &hello),
            (&[&GSS_REQUEST, &SSL_REQUEST, &hello], "NS", &named, &hello),
            (&[&GSS_REQUEST, startup], "N", &Asks::Else, startup),
            (&[&[&GSS_REQUEST[..], startup].concat()], "N", &Asks::Else, startup),
            (&[&hello], "", &named, &hello),
            (&[startup], "", &Asks::Else, startup),
            (&[cancel], "", &Asks::Else, cancel),
        ];
        for &(parts, answers, asks, rest) in rows {
            for piece in 1..=hello.len() {
                let (heard, got) = asked(parts, piece);
                let greeted = heard.expect("it is right").expect("it is whole");
                assert_eq!((&*got, &greeted.asks), (answers, asks), "{parts:?} by {piece}");
                assert_eq!(greeted.was_granted, answers.ends_with('S'));
                assert!(rest.starts_with(&greeted.rest), "{parts:?} by {piece}");
                // Unexpected bytes are recognized by their beginning.
                assert!(greeted.rest.len() == rest.len() || *asks == Asks::Else);
            }
        }
    }

    #[test]
    fn nothing_may_come_between_the_request_for_tls_and_its_answer() {
        let hello = crate::wire::hello::tests::hello_for("db1.example");
        for behind in [&hello[..], b"x", &SSL_REQUEST, &GSS_REQUEST] {
            let at_once = [&SSL_REQUEST, behind].concat();
            assert_eq!(asked(&[&at_once], at_once.len()), (Err(GreetingError::Malformed), String::new()));
        }
        // Only TLS may follow the answer.
        for behind in [&b"\0"[..], b"GET / HTTP/1.1\r\n\r\n", &SSL_REQUEST] {
            for piece in [1, 100] {
                let heard = asked(&[&SSL_REQUEST, behind], piece);
                assert_eq!(heard, (Err(GreetingError::Malformed), "S".to_owned()), "{behind:?}");
            }
        }
        // Without `--starttls` such a request means nothing.
        let mut reader = GreetingReader::new(wants(false, true), Vec::new());
        let greeted = reader.feed(&SSL_REQUEST).expect("it is right").expect("it is whole");
        assert_eq!((reader.answer(), greeted.was_granted, &*greeted.rest), (None, false, &SSL_REQUEST[..]));
    }

    #[test]
    fn a_client_that_has_asked_for_tls_and_says_no_more_goes_to_the_others() {
        let tls = TlsRequest::Awaited;
        let mut reader = GreetingReader::new(Wants { header: false, hello: true, tls }, Vec::new());
        assert_eq!(reader.feed(&SSL_REQUEST), Ok(None));
        assert_eq!((reader.answer(), reader.answered(), reader.answer()), (Some(YES), Ok(None), None));
        let greeted = reader.give_up().expect("nothing else is wanted");
        assert_eq!((greeted.asks, &*greeted.rest, greeted.was_granted), (Asks::Else, &[][..], true));
    }

    proptest! {
        #[test]
        fn any_split_says_the_same(
            bytes in prop_oneof![
                prop::collection::vec(any::<u8>(), 0..400),
                prop::collection::vec(any::<u8>(), 0..300).prop_map(|block| binary(0x21, 0x11, &block)),
                (any::<u8>(), any::<u8>(), prop::collection::vec(any::<u8>(), 0..300))
                    .prop_map(|(command, family, block)| binary(command, family, &block)),
                "PROXY (TCP4|TCP6|UNKNOWN)( [0-9a-f.:]{1,15}){0,3}( [0-9]{1,6}){0,3}\r?\n?.{0,9}"
                    .prop_map(String::into_bytes),
            ],
            lengths in prop::collection::vec(1..40_usize, 0..40),
        ) {
            prop_assert_eq!(fed(&bytes, &lengths), fed(&bytes, &[]));
        }

        #[test]
        fn what_is_written_is_read(from in any::<[u8; 4]>(), to in any::<[u8; 4]>(), ports in any::<[u16; 2]>()) {
            let sockets = [(from, ports[0]), (to, ports[1])].map(|(ip, port)| SocketAddr::from((ip, port)));
            let [source, destination] = sockets.map(|one| one.ip());
            let line = format!("PROXY TCP4 {source} {destination} {} {}\r\n", ports[0], ports[1]);
            let block = [&from[..], &to, &ports[0].to_be_bytes(), &ports[1].to_be_bytes()].concat();
            for header in [line.into_bytes(), binary(0x21, 0x11, &block)] {
                let greeted = fed(&header, &[]).expect("a header").expect("a whole one");
                prop_assert_eq!(greeted.0, Some(sockets));
            }
        }
    }
}
