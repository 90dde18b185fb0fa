//! What a client asks for by its first bytes: TLS for a name, HTTP, SSH, or something else.
//!
//! Knows: a ClientHello in any number of records, how HTTP and SSH begin. Never: which groups serve what, TLS
//! beyond that message.
//! Source: RFC 8446, 4.1.2 and 5.1; RFC 6066, 3; RFC 7301, 3.1.
//!
//! A client with an invalid ClientHello counts as TLS without a name. The server then says what is wrong with
//! it.

/// Maximum length in bytes of a ClientHello that is read. A longer one counts as TLS without a name.
const LONGEST: usize = 64 * 1024;
/// Length in bytes of the header of a TLS record, and of a handshake message.
const RECORD_HEAD: usize = 5;
const MESSAGE_HEAD: usize = 4;
/// Maximum length of a record that is accepted, in bytes.
const LONGEST_RECORD: usize = 16 * 1024;
pub(super) const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: u16 = 0;
const ALPN: u16 = 16;
/// Longer than any HTTP method in use, in bytes.
const LONGEST_METHOD: usize = 20;
const SSH: &[u8] = b"SSH-";

/// What a client asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Asks {
    /// TLS.
    Tls {
        /// The server name (SNI), in lower case.
        name: Option<String>,
        /// The ALPN protocols, the preferred one first.
        protocols: Vec<Vec<u8>>,
    },
    /// HTTP without TLS.
    Http,
    /// SSH.
    Ssh,
    /// Something else, or nothing.
    #[default]
    Else,
}

/// TLS without a name or protocols.
const TLS: Asks = Asks::Tls { name: None, protocols: Vec::new() };

/// Reads a client's bytes until it is clear what the client asks for.
#[derive(Debug, Default)]
pub(crate) struct HelloReader {
    /// How many bytes have been examined.
    at: usize,
    /// How many bytes of the current record are still to come.
    left: usize,
    /// The part of the ClientHello received so far, without record headers.
    hello: Vec<u8>,
}

impl HelloReader {
    /// Maximum number of bytes kept per client, reached when each record carries one byte.
    pub(crate) const MOST: usize = (MESSAGE_HEAD + LONGEST) * (RECORD_HEAD + 1);

    /// Continues with `said`, everything that the client has sent since the beginning. `None`: more bytes are
    /// needed.
    pub(crate) fn look(&mut self, said: &[u8]) -> Option<Asks> {
        if said.first() != Some(&HANDSHAKE) {
            return plain(said);
        }
        loop {
            if self.left == 0 {
                let head = said.get(self.at..self.at + RECORD_HEAD);
                // An invalid record header is recognized before it is complete.
                let so_far = &said[self.at..said.len().min(self.at + RECORD_HEAD)];
                if so_far.first().is_some_and(|kind| *kind != HANDSHAKE)
                    || so_far.get(1).is_some_and(|major| *major != 3)
                {
                    return Some(TLS);
                }
                let head = head?;
                self.left = usize::from(u16::from_be_bytes([head[3], head[4]]));
                if self.left == 0 || self.left > LONGEST_RECORD {
                    return Some(TLS);
                }
                self.at += RECORD_HEAD;
            }
            let there = &said[self.at..said.len().min(self.at + self.left)];
            if there.is_empty() {
                return None;
            }
            self.hello.extend_from_slice(there);
            (self.at, self.left) = (self.at + there.len(), self.left - there.len());
            match self.hello[..] {
                [kind, ..] if kind != CLIENT_HELLO => return Some(TLS),
                [_, a, b, c, ref body @ ..] => {
                    let length = u32::from_be_bytes([0, a, b, c]) as usize;
                    if length > LONGEST {
                        return Some(TLS);
                    }
                    if let Some(body) = body.get(..length) {
                        return Some(asked(body).unwrap_or(TLS));
                    }
                }
                _ => {}
            }
        }
    }

    /// How many bytes it keeps itself, beside those of the caller.
    pub(crate) fn kept(&self) -> usize {
        self.hello.len()
    }
}

/// What a client asks for that does not begin with TLS. `None`: more bytes are needed.
fn plain(said: &[u8]) -> Option<Asks> {
    let begins = |with: &[u8]| said.iter().zip(with).all(|(a, b)| a == b);
    if begins(SSH) && said.len() >= SSH.len() {
        return Some(Asks::Ssh);
    }
    let method = said.iter().take_while(|byte| byte.is_ascii_uppercase()).count();
    match said.get(method) {
        _ if method > LONGEST_METHOD => Some(Asks::Else),
        Some(b' ') if method > 0 => Some(Asks::Http),
        None => None,
        Some(_) if begins(SSH) => None,
        Some(_) => Some(Asks::Else),
    }
}

/// The unread part of a message.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn short(&mut self) -> Option<u16> {
        self.take(2).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    /// Takes a vector with a length field of one byte.
    fn small(&mut self) -> Option<&'a [u8]> {
        let length = self.take(1)?[0];
        self.take(length.into())
    }

    /// Takes a vector with a length field of two bytes.
    fn large(&mut self) -> Option<&'a [u8]> {
        let length = self.short()?;
        self.take(length.into())
    }
}

/// What the body of a ClientHello asks for. `None` if it is malformed.
fn asked(body: &[u8]) -> Option<Asks> {
    let mut body = Rest(body);
    // Skips the version and the random bytes, then the session ID, cipher suites and compression methods.
    body.take(2 + 32)?;
    body.small()?;
    body.large()?;
    body.small()?;
    let (mut name, mut protocols) = (None, Vec::new());
    if body.0.is_empty() {
        return Some(Asks::Tls { name, protocols });
    }
    let mut extensions = Rest(body.large()?);
    while !extensions.0.is_empty() {
        let kind = extensions.short()?;
        let mut content = Rest(extensions.large()?);
        match kind {
            SERVER_NAME => name = host(&mut Rest(content.large()?))?,
            ALPN => {
                let mut list = Rest(content.large()?);
                while !list.0.is_empty() {
                    protocols.push(list.small()?.to_vec());
                }
            }
            _ => {}
        }
    }
    Some(Asks::Tls { name, protocols })
}

/// The first host name in a server name list; `Some(None)` if there is no valid one, `None` if the list is
/// malformed.
fn host(names: &mut Rest<'_>) -> Option<Option<String>> {
    let mut found = None;
    while !names.0.is_empty() {
        let kind = names.take(1)?[0];
        let name = names.large()?;
        if kind == 0 && found.is_none() {
            let name = name.strip_suffix(b".").unwrap_or(name);
            let is_name = !name.is_empty() && name.iter().all(u8::is_ascii_graphic);
            found = is_name.then(|| name.iter().map(|byte| char::from(byte.to_ascii_lowercase())).collect());
        }
    }
    Some(found)
}

/// The TLS alert `unrecognized_name` as a record: nobody serves the name that the client asked for.
pub const UNRECOGNIZED_NAME: [u8; 7] = [21, 3, 1, 0, 2, 2, 112];
/// The TLS alert `handshake_failure` as a record.
pub const HANDSHAKE_FAILURE: [u8; 7] = [21, 3, 1, 0, 2, 2, 40];

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    fn short(length: usize) -> [u8; 2] {
        u16::try_from(length).expect("it is short").to_be_bytes()
    }

    fn extension(kind: u16, content: &[u8]) -> Vec<u8> {
        [&kind.to_be_bytes()[..], &short(content.len()), content].concat()
    }

    fn server_name(name: &[u8]) -> Vec<u8> {
        let entry = [&[0][..], &short(name.len()), name].concat();
        extension(SERVER_NAME, &[&short(entry.len())[..], &entry].concat())
    }

    fn alpn(protocols: &[&[u8]]) -> Vec<u8> {
        let list: Vec<u8> = protocols.iter().flat_map(|one| [&[one.len() as u8][..], one].concat()).collect();
        extension(ALPN, &[&short(list.len())[..], &list].concat())
    }

    /// A ClientHello with these extensions.
    fn hello(extensions: &[u8]) -> Vec<u8> {
        let body = [
            &[3, 3][..],
            &[7; 32],
            &[2, 1, 2],
            &[0, 2, 0x13, 1],
            &[1, 0],
            &short(extensions.len()),
            extensions,
        ]
        .concat();
        let length = u32::try_from(body.len()).expect("it is short").to_be_bytes();
        [&[CLIENT_HELLO][..], &length[1..], &body].concat()
    }

    /// The message in records of `size` bytes.
    fn in_records(message: &[u8], size: usize) -> Vec<u8> {
        let record = |part: &[u8]| [&[HANDSHAKE, 3, 1][..], &short(part.len()), part].concat();
        message.chunks(size).flat_map(record).collect()
    }

    /// A ClientHello for this name.
    pub(in crate::wire) fn hello_for(name: &str) -> Vec<u8> {
        in_records(&hello(&server_name(name.as_bytes())), LONGEST_RECORD)
    }

    /// The result of reading `said` in pieces of these lengths, the last piece being the rest.
    fn looked(said: &[u8], lengths: &[usize]) -> Option<Asks> {
        let mut reader = HelloReader::default();
        let (mut at, mut lengths) = (0, lengths.iter().copied());
        while at < said.len() {
            at += lengths.next().unwrap_or(said.len()).clamp(1, said.len() - at);
            if let Some(asks) = reader.look(&said[..at]) {
                return Some(asks);
            }
        }
        None
    }

    fn for_name(name: &str) -> Asks {
        Asks::Tls { name: Some(name.to_owned()), protocols: Vec::new() }
    }

    #[test]
    fn a_hello_is_understood_at_every_split_and_in_records_of_every_size() {
        let all = [server_name(b"Shop.Example.COM"), extension(51, &[9; 200]), alpn(&[b"h2", b"http/1.1"])]
            .concat();
        let message = hello(&all);
        let asks = Asks::Tls {
            name: Some("shop.example.com".to_owned()),
            protocols: vec![b"h2".to_vec(), b"http/1.1".to_vec()],
        };
        for size in 1..=message.len() {
            let said = in_records(&message, size);
            assert_eq!(looked(&said, &[]), Some(asks.clone()), "records of {size}");
            assert_eq!(
                looked(&said, &vec![1; said.len()]),
                Some(asks.clone()),
                "records of {size}, byte by byte"
            );
            assert_eq!(looked(&said[..said.len() - 1], &[]), None, "records of {size}");
        }
        for at in 1..message.len() + RECORD_HEAD {
            assert_eq!(
                looked(&in_records(&message, LONGEST_RECORD), &[at]),
                Some(asks.clone()),
                "cut at {at}"
            );
        }
    }

    #[test]
    fn a_hello_of_64_kib_is_looked_into_and_no_longer_one() {
        let long = |length: usize| {
            let name = server_name(b"a.example");
            let around = hello(&[]).len() - MESSAGE_HEAD + name.len();
            let mut left = length - around;
            let mut filler = Vec::new();
            while left > 0 {
                let part = left.clamp(4, 60_000);
                filler.extend(extension(21, &vec![0; part - 4]));
                left -= part.min(left);
            }
            [filler, name].concat()
        };
        // Extensions have 65535 bytes at most.
        let most = hello(&long(65_535));
        for size in [1, 7, LONGEST_RECORD] {
            let said = in_records(&most, size);
            assert!(said.len() <= HelloReader::MOST);
            assert_eq!(looked(&said, &[4_096; 200]), Some(for_name("a.example")), "records of {size}");
        }
        let mut longer = hello(&[]);
        longer[1] = 1;
        longer[3] += 1;
        assert_eq!(looked(&in_records(&longer, 4), &[]), Some(TLS), "its length is told by its first bytes");
    }

    #[test]
    fn what_is_no_hello_asks_for_no_name() {
        let whole = |message: &[u8]| in_records(message, LONGEST_RECORD);
        for (said, asks) in [
            (&b"GET / HTTP/1.1\r\n"[..], Some(Asks::Http)),
            (b"POST ", Some(Asks::Http)),
            (b"PRI * HTTP/2.0\r\n", Some(Asks::Http)),
            (b"GET", None),
            (b"S", None),
            (b"SSH", None),
            (b"SSH-", Some(Asks::Ssh)),
            (b"SSH-2.0-OpenSSH_9.2\r\n", Some(Asks::Ssh)),
            (b"SSH ", Some(Asks::Http)),
            (b"SSHX", None),
            (b"SSHX-", Some(Asks::Else)),
            (b" ", Some(Asks::Else)),
            (b"GET\n", Some(Asks::Else)),
            (b"ABCDEFGHIJKLMNOPQRSTU", Some(Asks::Else)),
            (b"\0\0\0\x08\x04\xd2\x16\x2f", Some(Asks::Else)),
            (b"", None),
            (b"\x16", None),
            (b"\x16\x02", Some(TLS)),
            (b"\x16\x03\x01\0\0", Some(TLS)),
            (b"\x16\x03\x01\x40\x01", Some(TLS)),
            (b"\x16\x03\x01\0\x01\x02", Some(TLS)),
            (b"\x16\x03\x01\0\x01\x01\x15", Some(TLS)),
            (&whole(&hello(&[])), Some(TLS)),
            (&whole(&hello(&server_name(b""))), Some(TLS)),
            (&whole(&hello(&server_name(b"a b"))), Some(TLS)),
            (&whole(&hello(&server_name(b"a.example."))), Some(for_name("a.example"))),
            (&whole(&hello(&server_name(b"a.example")[..9])), Some(TLS)),
            (&whole(&hello(&extension(SERVER_NAME, &[0, 9, 0]))), Some(TLS)),
            (&whole(&hello(&alpn(&[b"x"])[..6])), Some(TLS)),
            (&whole(&[1, 0, 0, 3, 3, 3, 0]), Some(TLS)),
        ] {
            assert_eq!(looked(said, &[]), asks, "{said:?}");
            assert_eq!(looked(said, &vec![1; said.len()]), asks, "{said:?}");
        }
        // ClientHellos of old clients end before the extensions.
        let old = hello(&[]);
        let mut old = old[..old.len() - 2].to_vec();
        old[3] -= 2;
        assert_eq!(looked(&whole(&old), &[]), Some(TLS));
    }

    proptest! {
        #[test]
        fn any_split_says_the_same(
            message in prop_oneof![
                prop::collection::vec(any::<u8>(), 0..300),
                prop::collection::vec(any::<u8>(), 0..300).prop_map(|all| hello(&all)),
                "[a-z.]{0,30}".prop_map(|name| hello(&server_name(name.as_bytes()))),
            ],
            size in 1..90_usize,
            is_plain in any::<bool>(),
            change in prop::option::of((any::<prop::sample::Index>(), any::<u8>())),
            lengths in prop::collection::vec(1..60_usize, 0..40),
        ) {
            let mut said = if is_plain { message } else { in_records(&message, size) };
            if let (Some((at, byte)), false) = (change, said.is_empty()) {
                let at = at.index(said.len());
                said[at] = byte;
            }
            prop_assert_eq!(looked(&said, &lengths), looked(&said, &[]));
        }
    }
}
