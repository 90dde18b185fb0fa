//! DNS queries, and what the answers say.
//!
//! Knows: DNS messages, chains of aliases, TTLs. Never: sockets, servers, retries, channels.
//! Source: RFC 1035, RFC 2308 (no such name, no such record), RFC 2782 (SRV).
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use domain::base::iana::{Class, Opcode, Rcode};
use domain::base::{Message, MessageBuilder, Name, ParsedName, Rtype, ToName};
use domain::rdata::{A, Aaaa, Cname, Srv};

/// Maximum length of a chain of aliases (CNAME).
const MOST_ALIASES: usize = 16;
/// Maximum length of a DNS message over TCP, in bytes: its length field has 16 bits.
const MOST_BYTES: usize = u16::MAX as usize;

/// A DNS name. Upper and lower case are equal.
#[derive(Debug, Clone)]
pub struct DnsName(Name<Vec<u8>>);

impl DnsName {
    /// Reads a name. `None` if it is not a valid DNS name.
    pub fn read(text: &str) -> Option<Self> {
        Name::from_str(text).ok().map(Self)
    }
}

impl PartialEq for DnsName {
    fn eq(&self, other: &Self) -> bool {
        self.0.name_eq(&other.0)
    }
}

impl Eq for DnsName {}

impl fmt::Display for DnsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The type of record that a query asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DnsKind {
    /// IPv4 addresses.
    A,
    /// IPv6 addresses.
    Aaaa,
    /// The targets of a service.
    Srv,
}

impl DnsKind {
    fn rtype(self) -> Rtype {
        match self {
            Self::A => Rtype::A,
            Self::Aaaa => Rtype::AAAA,
            Self::Srv => Rtype::SRV,
        }
    }
}

/// A query. Its `id` must be unpredictable, so that nobody can forge an answer.
#[derive(Debug, Clone)]
pub struct DnsQuery {
    /// The number that the answer must repeat.
    pub id: u16,
    /// The name to look up.
    pub name: DnsName,
    /// The type of record.
    pub kind: DnsKind,
}

/// One target of an SRV record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnsTarget {
    /// Targets with a lower number are used first.
    pub priority: u16,
    /// The target's share among targets of the same priority.
    pub weight: u16,
    /// The target's port.
    pub port: u16,
    /// The target's host name, in lower case.
    pub host: String,
}

/// What a DNS message says about a query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DnsReply {
    /// The message is not an answer to this query.
    NotOurs,
    /// The answer was truncated; ask again by TCP.
    Truncated,
    /// The records exist.
    Found {
        /// The addresses, if the query asked for addresses.
        addresses: Vec<IpAddr>,
        /// The targets, if the query asked for targets; unusable ones are left out.
        targets: Vec<DnsTarget>,
        /// The least TTL of all records in the chain, in seconds.
        ttl: u32,
    },
    /// The name is an alias, and the server says nothing about the name it stands for.
    Alias {
        /// The name to ask for next.
        to: DnsName,
        /// The TTL of the alias in seconds.
        ttl: u32,
    },
    /// The name does not exist.
    NoSuchName,
    /// The name exists but has no record of this type.
    NoRecord,
    /// The service is not offered: its only target is `.`.
    NotOffered,
    /// The server gave no usable answer, and why.
    Failed(String),
}

impl DnsQuery {
    /// The query as a datagram carries it.
    pub fn message(&self) -> Vec<u8> {
        let mut builder = MessageBuilder::new_vec();
        builder.header_mut().set_id(self.id);
        builder.header_mut().set_rd(true);
        let mut question = builder.question();
        // A DNS name always fits into a message, so this cannot fail.
        let _ = question.push((&self.name.0, self.kind.rtype()));
        question.finish()
    }

    /// Reads a message as an answer to this query.
    pub fn read(&self, message: &[u8]) -> DnsReply {
        let Ok(message) = Message::from_octets(message) else { return DnsReply::NotOurs };
        let header = message.header();
        if header.id() != self.id || !header.qr() || header.opcode() != Opcode::QUERY {
            return DnsReply::NotOurs;
        }
        let rcode = header.rcode();
        let asked = message.sole_question();
        let is_asked = asked.is_ok_and(|asked| {
            asked.qtype() == self.kind.rtype()
                && asked.qclass() == Class::IN
                && asked.qname().name_eq(&self.name.0)
        });
        // A server that did not understand the query need not repeat the question.
        let is_bare = message.header_counts().qdcount() == 0 && rcode != Rcode::NOERROR;
        if !is_asked && !is_bare {
            return DnsReply::NotOurs;
        }
        match rcode {
            Rcode::NOERROR if header.tc() => DnsReply::Truncated,
            Rcode::NOERROR => {
                self.records(&message).unwrap_or_else(|| DnsReply::Failed("a garbled answer".to_owned()))
            }
            // NXDOMAIN without our question may be about another name.
            Rcode::NXDOMAIN if is_asked => DnsReply::NoSuchName,
            rcode => DnsReply::Failed(rcode_word(rcode)),
        }
    }

    /// Evaluates the answer section. `None` if the message cannot be parsed to its end.
    fn records(&self, message: &Message<&[u8]>) -> Option<DnsReply> {
        let mut aliases: Vec<(DnsName, DnsName, u32)> = Vec::new();
        let mut found: Vec<(DnsName, FoundRecord, u32)> = Vec::new();
        for record in message.answer().ok()? {
            let record = record.ok()?;
            if record.class() != Class::IN {
                continue;
            }
            let owner = DnsName(record.owner().to_vec());
            let ttl = record.ttl().as_secs();
            if record.rtype() == Rtype::CNAME {
                let record = record.to_record::<Cname<ParsedName<&[u8]>>>().ok()??;
                aliases.push((owner, DnsName(record.data().cname().to_vec()), ttl));
            } else if record.rtype() == self.kind.rtype() {
                let data = match self.kind {
                    DnsKind::A => {
                        FoundRecord::Address(IpAddr::V4(record.to_record::<A>().ok()??.data().addr()))
                    }
                    DnsKind::Aaaa => {
                        FoundRecord::Address(IpAddr::V6(record.to_record::<Aaaa>().ok()??.data().addr()))
                    }
                    DnsKind::Srv => {
                        let record = record.to_record::<Srv<ParsedName<&[u8]>>>().ok()??;
                        let data = record.data();
                        let host = data.target().to_vec();
                        FoundRecord::Target {
                            priority: data.priority(),
                            weight: data.weight(),
                            port: data.port(),
                            host: DnsName(host),
                        }
                    }
                };
                found.push((owner, data, ttl));
            }
        }
        let (mut name, mut ttl) = (self.name.clone(), u32::MAX);
        let mut steps = 0;
        while let Some((_, to, holds)) = aliases.iter().find(|(owner, ..)| *owner == name) {
            steps += 1;
            if steps > MOST_ALIASES || *to == self.name {
                return Some(DnsReply::Failed("its aliases form a loop".to_owned()));
            }
            (name, ttl) = (to.clone(), ttl.min(*holds));
        }
        found.retain(|(owner, ..)| *owner == name);
        if found.is_empty() {
            let (is_recursive, is_authority) = (message.header().ra(), message.header().aa());
            return Some(match (steps > 0, is_recursive || is_authority) {
                // A server that neither recurses nor is authoritative has not said that there is nothing.
                (true, _) if !is_recursive => DnsReply::Alias { to: name, ttl },
                (_, true) => DnsReply::NoRecord,
                (_, false) => DnsReply::Failed(
                    "the server is not authoritative for it and does not ask others".to_owned(),
                ),
            });
        }
        let ttl = found.iter().map(|(.., ttl)| *ttl).fold(ttl, u32::min);
        let (mut addresses, mut targets, mut is_refused) = (Vec::new(), Vec::new(), false);
        for (_, record, _) in found {
            match record {
                FoundRecord::Address(ip) => addresses.push(ip),
                FoundRecord::Target { host, .. } if host.0.is_root() => is_refused = true,
                FoundRecord::Target { priority, weight, port, host } => {
                    let host = host.to_string().to_ascii_lowercase();
                    // A target that is not a valid host name could not be looked up, and its text must not
                    // reach logs.
                    let is_plain = host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
                    if is_plain && port != 0 {
                        targets.push(DnsTarget { priority, weight, port, host });
                    }
                }
            }
        }
        Some(match (addresses.is_empty() && targets.is_empty(), is_refused) {
            (true, true) => DnsReply::NotOffered,
            (true, false) => DnsReply::Failed("none of its targets can be used".to_owned()),
            (false, _) => DnsReply::Found { addresses, targets, ttl },
        })
    }
}

enum FoundRecord {
    Address(IpAddr),
    Target { priority: u16, weight: u16, port: u16, host: DnsName },
}

fn rcode_word(rcode: Rcode) -> String {
    match rcode {
        Rcode::SERVFAIL => "SERVFAIL".to_owned(),
        Rcode::REFUSED => "REFUSED".to_owned(),
        Rcode::FORMERR => "FORMERR".to_owned(),
        Rcode::NOTIMP => "NOTIMP".to_owned(),
        Rcode::NXDOMAIN => "NXDOMAIN".to_owned(),
        other => format!("error {}", other.to_int()),
    }
}

/// A message with its length in front, as it is sent over TCP.
pub fn dns_frame(message: &[u8]) -> Vec<u8> {
    let length = u16::try_from(message.len()).unwrap_or(u16::MAX);
    let message = &message[..message.len().min(MOST_BYTES)];
    [&length.to_be_bytes()[..], message].concat()
}

/// Splits a TCP stream into messages, however it is cut into pieces.
#[derive(Debug, Default)]
pub struct DnsFrames {
    held: Vec<u8>,
}

impl DnsFrames {
    /// Adds received bytes.
    pub fn add(&mut self, bytes: &[u8]) {
        self.held.extend_from_slice(bytes);
    }

    /// Takes the next complete message. `None` if more bytes are needed.
    pub fn take(&mut self) -> Option<Vec<u8>> {
        let (head, rest) = self.held.split_at_checked(2)?;
        let length = usize::from(u16::from_be_bytes([head[0], head[1]]));
        let message = rest.get(..length)?.to_vec();
        self.held.drain(..2 + length);
        Some(message)
    }
}

#[cfg(test)]
mod tests {
    use domain::base::Ttl;
    use proptest::prelude::*;

    use super::*;

    fn query(name: &str, kind: DnsKind) -> DnsQuery {
        DnsQuery { id: 7, name: DnsName::read(name).expect("a name"), kind }
    }

    enum Say<'a> {
        A([u8; 4]),
        Alias(&'a str),
        Srv(u16, u16, u16, &'a str),
    }

    /// An answer to a query with these records, by owner and TTL.
    fn answer(query: &DnsQuery, rcode: Rcode, ra: bool, records: &[(&str, u32, Say<'_>)]) -> Vec<u8> {
        let question = query.message();
        let question = Message::from_octets(&question[..]).expect("ours");
        let mut answer = MessageBuilder::new_vec().start_answer(&question, rcode).expect("it fits in");
        answer.header_mut().set_ra(ra);
        for (owner, ttl, say) in records {
            let owner = DnsName::read(owner).expect("a name").0;
            let (class, ttl) = (Class::IN, Ttl::from_secs(*ttl));
            let name = |name: &str| DnsName::read(name).expect("a name").0;
            match say {
                Say::A(ip) => answer.push((owner, class, ttl, A::from_octets(ip[0], ip[1], ip[2], ip[3]))),
                Say::Alias(to) => answer.push((owner, class, ttl, Cname::new(name(to)))),
                Say::Srv(priority, weight, port, host) => {
                    answer.push((owner, class, ttl, Srv::new(*priority, *weight, *port, name(host))))
                }
            }
            .expect("it fits in");
        }
        answer.finish()
    }

    #[test]
    fn an_answer_holds_as_long_as_the_shortest_of_its_chain() {
        let asks = query("Db.internal", DnsKind::A);
        let records = [
            ("db.INTERNAL", 60, Say::Alias("a.example")),
            ("a.example", 5, Say::Alias("b.example")),
            ("other.example", 1, Say::A([9, 9, 9, 9])),
            ("b.example", 30, Say::A([10, 0, 0, 1])),
            ("b.example", 20, Say::A([10, 0, 0, 2])),
        ];
        let found = asks.read(&answer(&asks, Rcode::NOERROR, true, &records));
        let addresses = vec![IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2])];
        assert_eq!(found, DnsReply::Found { addresses, targets: Vec::new(), ttl: 5 });
    }

    #[test]
    fn what_is_no_answer_to_the_question_is_none() {
        let asks = query("db.internal", DnsKind::A);
        let good = answer(&asks, Rcode::NOERROR, true, &[("db.internal", 60, Say::A([10, 0, 0, 1]))]);
        assert!(matches!(asks.read(&good), DnsReply::Found { .. }));
        let others = [
            DnsQuery { id: 8, ..asks.clone() },
            query("db2.internal", DnsKind::A),
            query("db.internal", DnsKind::Aaaa),
        ];
        for other in others {
            assert_eq!(other.read(&good), DnsReply::NotOurs, "{other:?}");
        }
        assert_eq!(asks.read(&asks.message()), DnsReply::NotOurs, "a question");
        assert_eq!(asks.read(&[]), DnsReply::NotOurs);
        // A failure counts without the question, absence does not.
        for (rcode, wanted) in
            [(2, DnsReply::Failed("SERVFAIL".to_owned())), (3, DnsReply::Failed("NXDOMAIN".to_owned()))]
        {
            assert_eq!(asks.read(&[0, 7, 0x81, 0x80 | rcode, 0, 0, 0, 0, 0, 0, 0, 0]), wanted);
        }
    }

    #[test]
    fn nothing_is_told_from_not_knowing() {
        let asks = query("db.internal", DnsKind::Aaaa);
        let read =
            |rcode, ra, records: &[(&str, u32, Say<'_>)]| asks.read(&answer(&asks, rcode, ra, records));
        assert_eq!(read(Rcode::NXDOMAIN, true, &[]), DnsReply::NoSuchName);
        assert_eq!(read(Rcode::NOERROR, true, &[]), DnsReply::NoRecord);
        assert!(matches!(read(Rcode::NOERROR, false, &[]), DnsReply::Failed(_)), "lame");
        let alias = [("db.internal", 9, Say::Alias("a.example"))];
        assert_eq!(read(Rcode::NOERROR, true, &alias), DnsReply::NoRecord);
        let to = DnsName::read("a.example").expect("a name");
        assert_eq!(read(Rcode::NOERROR, false, &alias), DnsReply::Alias { to, ttl: 9 });
        for rcode in [Rcode::SERVFAIL, Rcode::REFUSED, Rcode::NOTIMP, Rcode::NOTAUTH] {
            assert!(matches!(read(rcode, true, &[]), DnsReply::Failed(_)), "{rcode}");
        }
        for records in [
            &[("db.internal", 9, Say::Alias("db.internal"))][..],
            &[
                ("db.internal", 9, Say::Alias("a.x")),
                ("a.x", 9, Say::Alias("b.x")),
                ("b.x", 9, Say::Alias("a.x")),
            ],
        ] {
            assert!(matches!(read(Rcode::NOERROR, true, records), DnsReply::Failed(_)), "a circle");
        }
    }

    #[test]
    fn targets_of_a_service_are_read_and_a_dot_is_none() {
        let asks = query("_ldap._tcp.corp", DnsKind::Srv);
        let owner = "_ldap._tcp.corp";
        let records = [
            (owner, 60, Say::Srv(10, 5, 389, "A.corp")),
            (owner, 60, Say::Srv(20, 0, 636, "b.corp")),
            (owner, 60, Say::Srv(0, 0, 0, ".")),
            (owner, 60, Say::Srv(0, 0, 1, "a\\032b.corp")),
        ];
        let target =
            |priority, weight, port, host: &str| DnsTarget { priority, weight, port, host: host.to_owned() };
        let targets = vec![target(10, 5, 389, "a.corp"), target(20, 0, 636, "b.corp")];
        let read =
            |records: &[(&str, u32, Say<'_>)]| asks.read(&answer(&asks, Rcode::NOERROR, true, records));
        assert_eq!(read(&records), DnsReply::Found { addresses: Vec::new(), targets, ttl: 60 });
        assert_eq!(read(&records[2..3]), DnsReply::NotOffered);
    }

    #[test]
    fn a_truncated_answer_is_asked_for_again() {
        let asks = query("db.internal", DnsKind::A);
        let mut message = answer(&asks, Rcode::NOERROR, true, &[]);
        message[2] |= 2;
        assert_eq!(asks.read(&message), DnsReply::Truncated);
    }

    proptest! {
        #[test]
        fn no_bytes_break_it(bytes in prop::collection::vec(any::<u8>(), 0..300), kind in 0..3_usize) {
            let asks = query("db.internal", [DnsKind::A, DnsKind::Aaaa, DnsKind::Srv][kind]);
            let _ = asks.read(&bytes);
            // And with the right header.
            let mut message = asks.message();
            message[2] = 0x81;
            message[7] = bytes.first().copied().unwrap_or(1);
            let _ = asks.read(&[message, bytes].concat());
        }

        #[test]
        fn every_cut_and_every_flip_is_an_answer_or_none(at in any::<prop::sample::Index>(), bit in 0..8_u8) {
            let asks = query("_a._b.c", DnsKind::Srv);
            let records = [
                ("_a._b.c", 60, Say::Alias("d.e")),
                ("d.e", 60, Say::Srv(1, 2, 3, "f.g")),
            ];
            let whole = answer(&asks, Rcode::NOERROR, true, &records);
            let cut = asks.read(&whole[..at.index(whole.len())]);
            prop_assert!(!matches!(cut, DnsReply::Found { .. }), "{cut:?}");
            let mut flipped = whole.clone();
            flipped[at.index(whole.len())] ^= 1 << bit;
            let _ = asks.read(&flipped);
        }

        #[test]
        fn a_stream_is_the_same_in_any_pieces(
            messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..4),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
        ) {
            let stream: Vec<u8> = messages.iter().flat_map(|message| dns_frame(message)).collect();
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).chain([0, stream.len()]).collect();
            cuts.sort_unstable();
            let mut frames = DnsFrames::default();
            let mut seen = Vec::new();
            for pair in cuts.windows(2) {
                frames.add(&stream[pair[0]..pair[1]]);
                while let Some(message) = frames.take() {
                    seen.push(message);
                }
            }
            prop_assert_eq!(seen, messages);
        }

        #[test]
        fn a_stream_is_the_same_at_every_split(message in prop::collection::vec(any::<u8>(), 0..40)) {
            let stream = dns_frame(&message);
            for at in 0..=stream.len() {
                let mut frames = DnsFrames::default();
                frames.add(&stream[..at]);
                let early = frames.take();
                prop_assert_eq!(early.is_some(), at == stream.len());
                frames.add(&stream[at..]);
                prop_assert_eq!(early.or_else(|| frames.take()), Some(message.clone()));
            }
        }
    }
}
