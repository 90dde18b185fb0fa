//! A resolver of balance's own: which server it asks when, how often, until when, and what all servers
//! together have said.
//!
//! Knows: servers, attempts, deadlines, aliases from one answer to the next. Never: sockets (`servers` has
//! them), what an answer changes.
//! Source: docs/names.md, "Ask name servers directly".

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use super::book::{NameAnswer, ToldName};
use crate::sched::FoundMember;
use crate::wire::dns::{DnsKind, DnsName, DnsQuery, DnsReply, DnsTarget};

/// How long each server has to answer, in each round.
const ROUNDS: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(3)];
/// Everything is over after this time, whatever the servers do. It is below the 15 s after which `book`
/// counts a lookup as failed.
const DEADLINE: Duration = Duration::from_secs(12);
/// Maximum number of aliases followed, each to a name that the server said nothing about.
const MOST_STEPS: usize = 8;

/// How messages reach a server.
pub(super) trait Exchange {
    /// The time since some fixed moment.
    fn now(&self) -> Duration;
    /// A number that nobody else can guess.
    fn secret(&mut self) -> u16;
    /// Sends a message in a datagram and waits until `until` for one that `is_ours` accepts. `None`: none
    /// came.
    ///
    /// # Errors
    /// The server cannot be reached.
    fn by_datagram(
        &mut self,
        server: SocketAddr,
        message: &[u8],
        until: Duration,
        is_ours: &dyn Fn(&[u8]) -> bool,
    ) -> io::Result<Option<Vec<u8>>>;
    /// Does the same over a TCP connection.
    ///
    /// # Errors
    /// The server cannot be reached, or ends the connection.
    fn by_stream(
        &mut self,
        server: SocketAddr,
        message: &[u8],
        until: Duration,
        is_ours: &dyn Fn(&[u8]) -> bool,
    ) -> io::Result<Option<Vec<u8>>>;
}

/// What all servers together say.
enum StubSaid {
    Found(Vec<std::net::IpAddr>, Vec<DnsTarget>, u32),
    Absent(String),
    Failed(String),
}

/// Queries a list of servers.
pub(super) struct Stub<'a, X> {
    servers: &'a [SocketAddr],
    exchange: X,
    until: Duration,
    /// Failures and absences say which server reported them, even if there is only one.
    names_server: bool,
}

impl<'a, X: Exchange> Stub<'a, X> {
    pub(super) fn new(servers: &'a [SocketAddr], exchange: X) -> Self {
        let until = exchange.now() + DEADLINE;
        Self { servers, exchange, until, names_server: false }
    }

    /// The same, for an operator who has to learn which server said so.
    pub(super) fn naming_server(self) -> Self {
        Self { names_server: true, ..self }
    }

    /// The addresses of a name. Both A and AAAA must be answered: with one kind unknown, addresses would
    /// wrongly be removed.
    pub(super) fn addresses(&mut self, name: &str) -> ToldName {
        let Some(name) = DnsName::read(name) else { return bad_name(name) };
        let (mut all, mut least) = (Vec::new(), u32::MAX);
        let mut absent = None;
        for kind in [DnsKind::A, DnsKind::Aaaa] {
            match self.ask(name.clone(), kind) {
                StubSaid::Found(addresses, _, ttl) => {
                    // Each address once, even if a server repeats it.
                    for address in addresses.into_iter().map(|ip| SocketAddr::new(ip, 0)) {
                        if !all.contains(&address) {
                            all.push(address);
                        }
                    }
                    least = least.min(ttl);
                }
                StubSaid::Absent(why) => absent = Some(why),
                // The message says which kind failed, since an operator who looks the name up by hand sees an
                // address.
                StubSaid::Failed(why) if !all.is_empty() => {
                    return NameAnswer::Failed(format!("{why} for its IPv6 addresses")).into();
                }
                StubSaid::Failed(why) => return NameAnswer::Failed(why).into(),
            }
        }
        match absent {
            Some(why) if all.is_empty() => NameAnswer::Absent(why).into(),
            _ => ToldName { answer: NameAnswer::Found(all), holds: Some(Duration::from_secs(least.into())) },
        }
    }

    /// The targets of a service name.
    pub(super) fn service(&mut self, name: &str) -> ToldName {
        let Some(name) = DnsName::read(name) else { return bad_name(name) };
        match self.ask(name, DnsKind::Srv) {
            StubSaid::Found(_, targets, ttl) => {
                let member = |DnsTarget { priority, weight, port, host }: DnsTarget| FoundMember {
                    host,
                    port,
                    priority,
                    weight,
                    addresses: Vec::new(),
                };
                let answer = NameAnswer::Serves(targets.into_iter().map(member).collect());
                ToldName { answer, holds: Some(Duration::from_secs(ttl.into())) }
            }
            StubSaid::Absent(why) => NameAnswer::Absent(why).into(),
            StubSaid::Failed(why) => NameAnswer::Failed(why).into(),
        }
    }

    /// Follows aliases that a server does not follow itself.
    fn ask(&mut self, name: DnsName, kind: DnsKind) -> StubSaid {
        let (mut name, mut least) = (name, u32::MAX);
        let mut seen = Vec::new();
        for _ in 0..MOST_STEPS {
            let (reply, server) = match self.ask_all(&name, kind) {
                Ok(told) => told,
                Err(why) => return StubSaid::Failed(why),
            };
            let absent = match reply {
                DnsReply::Found { addresses, targets, ttl } => {
                    return StubSaid::Found(addresses, targets, least.min(ttl));
                }
                DnsReply::Alias { to, ttl } => {
                    seen.push(std::mem::replace(&mut name, to));
                    least = least.min(ttl);
                    if seen.contains(&name) {
                        break;
                    }
                    continue;
                }
                DnsReply::NoSuchName => "no such name",
                DnsReply::NotOffered => "the service is not offered",
                _ if kind == DnsKind::Srv => "no SRV record",
                _ => "no address",
            };
            return StubSaid::Absent(match self.names_server {
                true => format!("{absent} ({})", server.ip()),
                false => absent.to_owned(),
            });
        }
        StubSaid::Failed("its aliases form a loop".to_owned())
    }

    /// Asks one server after another until one gives an answer, and returns that with the server. A server
    /// that has said that it cannot answer is not asked again.
    ///
    /// # Errors
    /// No server gave an answer; the text has what each one said.
    fn ask_all(&mut self, name: &DnsName, kind: DnsKind) -> Result<(DnsReply, SocketAddr), String> {
        let mut said: Vec<Option<(String, bool)>> = vec![None; self.servers.len()];
        for time in ROUNDS {
            for (number, &server) in self.servers.iter().enumerate() {
                if matches!(said[number], Some((_, true))) {
                    continue;
                }
                let now = self.exchange.now();
                if now >= self.until {
                    break;
                }
                let query = DnsQuery { id: self.exchange.secret(), name: name.clone(), kind };
                said[number] = Some(match self.ask_one(server, &query, (now + time).min(self.until)) {
                    Ok(Some(DnsReply::Failed(why))) => (why, true),
                    Ok(Some(reply)) => return Ok((reply, server)),
                    Ok(None) => (format!("no answer from name server {}", server.ip()), false),
                    Err(error) => (format!("name server {}: {}", server.ip(), words_of(&error)), false),
                });
            }
        }
        let names_server = self.names_server || self.servers.len() > 1;
        let told = said.into_iter().zip(self.servers).filter_map(|(said, server)| {
            let (why, has_spoken) = said?;
            // With a single server, `status` need not say which one.
            Some(if has_spoken && names_server { format!("{why} ({})", server.ip()) } else { why })
        });
        let told: Vec<String> = told.collect();
        Err(if told.is_empty() { "no answer in time".to_owned() } else { told.join(", ") })
    }

    fn ask_one(
        &mut self,
        server: SocketAddr,
        query: &DnsQuery,
        until: Duration,
    ) -> io::Result<Option<DnsReply>> {
        let message = query.message();
        let is_ours = |bytes: &[u8]| query.read(bytes) != DnsReply::NotOurs;
        let heard = self.exchange.by_datagram(server, &message, until, &is_ours)?;
        let reply = heard.map(|bytes| query.read(&bytes));
        if reply != Some(DnsReply::Truncated) {
            return Ok(reply);
        }
        let heard = self.exchange.by_stream(server, &message, until, &is_ours)?;
        Ok(heard.map(|bytes| match query.read(&bytes) {
            DnsReply::Truncated => DnsReply::Failed("too long an answer".to_owned()),
            reply => reply,
        }))
    }
}

fn bad_name(name: &str) -> ToldName {
    NameAnswer::Failed(format!("'{name}' is not a valid DNS name")).into()
}

/// The system's words without the error number after them.
fn words_of(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_lowercase().chain(letters).collect())
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    const A: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1)), 53);
    const B: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2)), 53);

    /// What a server does next.
    #[derive(Debug, Clone, Copy)]
    enum Does {
        Silent,
        Refuses,
        /// It answers with this code.
        Code(u8),
        Truncates,
        /// It answers queries for IPv4 with this address and TTL, and does not answer others.
        Says(u8, u32),
        /// It sends one address twice.
        SaysTwice(u8),
        /// It first sends something that is not an answer.
        LiesThen(u8),
        /// It answers that the name is an alias of another one.
        Alias(u8, u32),
    }

    #[derive(Default)]
    struct Fake {
        time: Duration,
        asked: Vec<(SocketAddr, bool)>,
        does: VecDeque<Does>,
        last: u16,
    }

    fn reply(message: &[u8], code: u8, tc: bool, record: Option<Vec<u8>>) -> Vec<u8> {
        let mut bytes = message.to_vec();
        bytes[2] = 0x81 | u8::from(tc) << 1;
        bytes[3] = code;
        if let Some(record) = record {
            bytes[7] = 1;
            bytes[3] |= 0x80;
            bytes.extend(record);
        } else if code == 0 && !tc {
            bytes[3] |= 0x80;
        }
        bytes
    }

    fn record(kind: u8, ttl: u32, data: &[u8]) -> Vec<u8> {
        [&[0xc0, 12, 0, kind, 0, 1][..], &ttl.to_be_bytes(), &[0, data.len() as u8], data].concat()
    }

    impl Fake {
        fn answer(
            &mut self,
            server: SocketAddr,
            message: &[u8],
            until: Duration,
            is_ours: &dyn Fn(&[u8]) -> bool,
            by_stream: bool,
        ) -> io::Result<Option<Vec<u8>>> {
            self.asked.push((server, by_stream));
            let is_v4 = message[message.len() - 3] == 1;
            let says = |last, ttl| {
                let data = record(1, ttl, &[10, 9, 9, last]);
                reply(message, 0, false, is_v4.then_some(data))
            };
            let bytes = match self.does.pop_front().expect("it is asked no more") {
                Does::Silent => {
                    self.time = until;
                    return Ok(None);
                }
                Does::Refuses => return Err(io::Error::from_raw_os_error(111)),
                Does::Code(code) => reply(message, code, false, None),
                Does::Truncates => reply(message, 0, true, None),
                Does::Says(last, ttl) => says(last, ttl),
                Does::SaysTwice(last) => {
                    let mut bytes = says(last, 60);
                    bytes[7] = 2;
                    bytes.extend(record(1, 60, &[10, 9, 9, last]));
                    bytes
                }
                Does::LiesThen(last) => {
                    let mut wrong = says(last, 1);
                    wrong[0] ^= 1;
                    assert!(!is_ours(&wrong), "a wrong id");
                    let mut wrong = says(last, 1);
                    wrong[13] ^= 1;
                    assert!(!is_ours(&wrong), "a wrong question");
                    says(last, 60)
                }
                Does::Alias(to, ttl) => {
                    let mut bytes = reply(message, 0, false, Some(record(5, ttl, &[1, to, 0])));
                    bytes[3] = 0;
                    bytes
                }
            };
            assert!(is_ours(&bytes));
            Ok(Some(bytes))
        }
    }

    impl Exchange for &mut Fake {
        fn now(&self) -> Duration {
            self.time
        }
        fn secret(&mut self) -> u16 {
            self.last += 1;
            self.last
        }
        fn by_datagram(
            &mut self,
            server: SocketAddr,
            message: &[u8],
            until: Duration,
            is_ours: &dyn Fn(&[u8]) -> bool,
        ) -> io::Result<Option<Vec<u8>>> {
            self.answer(server, message, until, is_ours, false)
        }
        fn by_stream(
            &mut self,
            server: SocketAddr,
            message: &[u8],
            until: Duration,
            is_ours: &dyn Fn(&[u8]) -> bool,
        ) -> io::Result<Option<Vec<u8>>> {
            self.answer(server, message, until, is_ours, true)
        }
    }

    fn ask(servers: &[SocketAddr], does: &[Does]) -> (ToldName, Fake) {
        let mut fake = Fake { does: does.iter().copied().collect(), ..Fake::default() };
        let told = Stub::new(servers, &mut fake).addresses("db.x");
        assert!(fake.does.is_empty(), "left: {:?}", fake.does);
        (told, fake)
    }

    fn found(last: u8, ttl: u64) -> ToldName {
        let answer = NameAnswer::Found(vec![SocketAddr::from(([10, 9, 9, last], 0))]);
        ToldName { answer, holds: Some(Duration::from_secs(ttl)) }
    }

    fn failed(why: &str) -> ToldName {
        NameAnswer::Failed(why.to_owned()).into()
    }

    #[test]
    fn a_server_that_is_silent_is_asked_again_and_one_that_failed_is_not() {
        use Does::{Code, LiesThen, Refuses, Says, Silent, Truncates};
        assert_eq!(ask(&[A], &[Says(1, 30), Says(1, 30)]).0, found(1, 30));
        assert_eq!(ask(&[A], &[LiesThen(1), Says(1, 30)]).0, found(1, 60));
        assert_eq!(ask(&[A], &[Silent, Says(1, 30), Says(1, 30)]).0, found(1, 30));
        assert_eq!(ask(&[A], &[Code(2)]).0, failed("SERVFAIL"));
        assert_eq!(ask(&[A], &[Refuses; 3]).0, failed("name server 10.0.0.1: connection refused"));
        let (told, fake) = ask(&[A, B], &[Code(2), Silent, Silent, Says(2, 9), Says(2, 9)]);
        assert_eq!(told, found(2, 9));
        let asked: Vec<SocketAddr> = fake.asked.iter().map(|(server, _)| *server).collect();
        assert_eq!(asked, [A, B, B, B, A]);
        let (told, _) = ask(&[A, B], &[Code(5), Code(2)]);
        assert_eq!(told, failed("REFUSED (10.0.0.1), SERVFAIL (10.0.0.2)"));
        let (told, fake) = ask(&[A], &[Truncates, Says(1, 30), Says(1, 30)]);
        assert_eq!((told, &fake.asked[..2]), (found(1, 30), &[(A, false), (A, true)][..]));
        assert_eq!(ask(&[A], &[Code(3), Code(3)]).0, NameAnswer::Absent("no such name".to_owned()).into());
        let whose = |servers: &[SocketAddr], does: &[Does]| {
            let mut fake = Fake { does: does.iter().copied().collect(), ..Fake::default() };
            match Stub::new(servers, &mut fake).naming_server().addresses("db.x").answer {
                NameAnswer::Absent(why) | NameAnswer::Failed(why) => why,
                found => panic!("{found:?}"),
            }
        };
        assert_eq!(whose(&[A], &[Code(2)]), "SERVFAIL (10.0.0.1)");
        assert_eq!(whose(&[A, B], &[Code(2), Code(3), Code(2), Code(3)]), "no such name (10.0.0.2)");
        assert_eq!(whose(&[A], &[Silent; 3]), "no answer from name server 10.0.0.1");
        // Knowing only one kind of address removes no addresses.
        assert_eq!(ask(&[A], &[Says(1, 30), Code(2)]).0, failed("SERVFAIL for its IPv6 addresses"));
        assert_eq!(ask(&[A], &[Does::SaysTwice(1), Code(0)]).0, found(1, 60));
    }

    #[test]
    fn it_is_over_in_time() {
        let (told, fake) = ask(&[A, B], &[Does::Silent; 6]);
        assert_eq!(told, failed("no answer from name server 10.0.0.1, no answer from name server 10.0.0.2"));
        assert_eq!(fake.time, DEADLINE);
        let (told, fake) = ask(&[A, B, B, B], &[Does::Silent; 8]);
        assert!(told.answer != found(1, 1).answer && fake.time == DEADLINE);
    }

    #[test]
    fn aliases_that_a_server_does_not_follow_are_followed_but_not_in_a_circle() {
        use Does::{Alias, Code, Says};
        let (told, _) = ask(&[A], &[Alias(b'a', 5), Alias(b'b', 9), Says(1, 30), Says(1, 30)]);
        assert_eq!(told, found(1, 5));
        let (told, _) = ask(&[A], &[Alias(b'a', 5), Alias(b'b', 9), Alias(b'a', 9)]);
        assert_eq!(told, failed("its aliases form a loop"));
        let (told, _) = ask(&[A], &[Alias(b'a', 5), Code(3), Alias(b'a', 5), Code(3)]);
        assert_eq!(told, NameAnswer::Absent("no such name".to_owned()).into());
    }
}
