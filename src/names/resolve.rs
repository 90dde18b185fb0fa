//! Resolves host names to addresses and service names to ports, once.
//!
//! Knows: the system's resolver, that there may be name servers to query instead, the services database.
//! Never: channels, groups, caching.
//! Source: docs/compatibility.md, "Command line".

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use super::book::{NameAnswer, ToldName};
use super::servers;
use crate::sched::{FoundMember, is_name};
use crate::spec::is_service_name;
use crate::sys::hosts::{self, HostError};

/// How many targets of a service name are looked up at a time.
const AT_A_TIME: usize = 16;
/// How many names are looked up at a time when services start or are reloaded.
const AT_START: usize = 64;
/// The system's services database.
const SERVICES: &str = "/etc/services";

/// Resolves `host` to all its TCP addresses with `port`, in the resolver's order, without duplicates; never
/// empty. `host` is a name, an IPv4 address, or an IPv6 address with or without brackets, with or without a
/// zone (`fe80::1%eth0`).
///
/// Blocks while the resolver works, so call it where that delays nobody.
///
/// # Errors
/// What the resolver says, and which name server said it as far as that is known; `InvalidInput` for an empty
/// host.
pub fn addresses(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    let host = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    if host.is_empty() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "empty host"));
    }
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(ip, port)]);
    }
    let found = found(host).map_err(|error| match error {
        HostError::Absent(words) => io::Error::new(io::ErrorKind::NotFound, words),
        HostError::Failed(error) => error,
        HostError::TryAgain(words) => io::Error::other(format!("{words} ({})", servers::called())),
    })?;
    Ok(found
        .into_iter()
        .map(|mut address| {
            address.set_port(port);
            address
        })
        .collect())
}

/// Calls `ask` for each name and returns the answers by name. Many lookups run at the same time, because one
/// whose servers are silent takes long. A lookup that panics leaves no answer.
pub fn all_at_once<T: Send>(names: BTreeSet<String>, ask: impl Fn(&str) -> T + Sync) -> HashMap<String, T> {
    let threads = names.len().min(AT_START);
    let (left, said) = (Mutex::new(names), Mutex::new(HashMap::new()));
    // Nothing is locked while a name is looked up.
    let next = || locked(&left).pop_first();
    let work = || {
        while let Some(name) = next() {
            let answer = ask(&name);
            locked(&said).insert(name, answer);
        }
    };
    thread::scope(|scope| {
        for _ in 0..threads {
            // A name without an answer here is looked up by the caller that needs it.
            if thread::Builder::new()
                .name("name".into())
                .spawn_scoped(scope, || drop(catch_unwind(AssertUnwindSafe(work))))
                .is_err()
            {
                break;
            }
        }
    });
    said.into_inner().unwrap_or_else(PoisonError::into_inner)
}

fn locked<T>(what: &Mutex<T>) -> MutexGuard<'_, T> {
    // The value is consistent even after a panic: each change of it is a single call.
    what.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the system's resolver, or the name servers of `--dns`, say about a name now.
///
/// Blocks until the resolver answers, without a limit of its own.
pub fn answer(name: &str) -> ToldName {
    if is_service_name(name) {
        return servers::service(name, false);
    }
    if let Some(told) = by_servers(name, false) {
        return told;
    }
    let answer = match found(name) {
        Ok(found) => match why_no_zone(name, &found) {
            None => NameAnswer::Found(found),
            Some(why) => NameAnswer::Failed(why),
        },
        Err(HostError::Absent(words)) => NameAnswer::Absent(words),
        Err(HostError::Failed(error)) => NameAnswer::Failed(error.to_string()),
        Err(HostError::TryAgain(words)) => NameAnswer::Failed(words),
    };
    answer.into()
}

/// The targets of a service name (SRV) that have an address, with their addresses.
///
/// # Errors
/// The words of the name servers, or that no target has an address.
pub fn service(name: &str) -> Result<Vec<FoundMember>, String> {
    let mut members = match servers::service(name, true).answer {
        NameAnswer::Serves(members) => members,
        NameAnswer::Found(_) => Vec::new(),
        NameAnswer::Absent(why) | NameAnswer::Failed(why) => return Err(why),
    };
    let mut last = "it has no target".to_owned();
    for members in members.chunks_mut(AT_A_TIME) {
        let asked: Vec<String> = members.iter().map(|member| member.host.clone()).collect();
        let told = thread::scope(|scope| {
            let asked: Vec<_> = asked.iter().map(|host| scope.spawn(move || addresses(host, 0))).collect();
            asked.into_iter().map(thread::ScopedJoinHandle::join).collect::<Vec<_>>()
        });
        for (member, told) in members.iter_mut().zip(told) {
            match told {
                Ok(Ok(found)) => member.addresses = found,
                Ok(Err(error)) => last = format!("no host '{}': {error}", member.host),
                Err(_) => last = format!("the lookup of '{}' failed unexpectedly", member.host),
            }
        }
    }
    if members.iter().all(|member| member.addresses.is_empty()) { Err(last) } else { Ok(members) }
}

/// What the name servers of `--dns` say. `None`: there are none, or `name` is an address in an old notation.
fn by_servers(name: &str, names_server: bool) -> Option<ToldName> {
    if is_name(name) { servers::addresses(name, names_server) } else { None }
}

/// The addresses of a name without duplicates; at least one.
fn found(name: &str) -> Result<Vec<SocketAddr>, HostError> {
    if let Some(told) = by_servers(name, true) {
        return match told.answer {
            NameAnswer::Found(found) => Ok(found),
            NameAnswer::Absent(why) => Err(HostError::Absent(why)),
            NameAnswer::Failed(why) => Err(HostError::Failed(io::Error::other(why))),
            NameAnswer::Serves(_) => Err(HostError::Absent("it is a service".to_owned())),
        };
    }
    match hosts::look_up(name) {
        Ok(found) => {
            let mut list = Vec::new();
            for address in found {
                if !list.contains(&address) {
                    list.push(address);
                }
            }
            if list.is_empty() {
                Err(HostError::Absent("the name has no address".to_owned()))
            } else {
                Ok(list)
            }
        }
        // A container from scratch has no hosts file, and its resolver may not know `localhost`.
        Err(_) if name.eq_ignore_ascii_case("localhost") => {
            let loopback = [IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)];
            Ok(loopback.map(|ip| SocketAddr::new(ip, 0)).to_vec())
        }
        Err(error) => Err(error),
    }
}

/// Why the addresses found for a host cannot be used: a link-local address is useless without its interface,
/// since every interface has such addresses. `None`: they can be used.
pub fn why_no_zone(host: &str, found: &[SocketAddr]) -> Option<String> {
    let ip = found.iter().find_map(|address| match address {
        SocketAddr::V6(v6) if v6.ip().is_unicast_link_local() && v6.scope_id() == 0 => Some(v6.ip()),
        _ => None,
    })?;
    let is_typed = host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
    let host = if is_typed { String::new() } else { format!("'{host}' is ") };
    let kind = if is_typed { " is a link-local address" } else { ", a link-local address" };
    Some(format!("{host}{ip}{kind}; write it with its interface, such as {ip}%{}", some_interface()))
}

/// The name of an interface of this machine for the message, preferably not loopback.
fn some_interface() -> String {
    let all = nix::net::if_::if_nameindex();
    let names = all.iter().flatten().filter_map(|one| one.name().to_str().ok());
    names.max_by_key(|name| *name != "lo").unwrap_or("eth0").to_owned()
}

/// The TCP port of a service name or alias. It is read from the services database each time. If that has no
/// such name, a small table of well-known names is used, so that a container from scratch works. `None`:
/// unknown.
pub fn service_port(name: &str) -> Option<u16> {
    let found = std::fs::read(SERVICES).ok().and_then(|text| port_in(&String::from_utf8_lossy(&text), name));
    found.or_else(|| WELL_KNOWN.iter().find(|(known, _)| *known == name).map(|(_, port)| *port))
}

/// The port of every TCP service name that [`service_port`] knows, read once.
pub fn service_ports() -> HashMap<String, u16> {
    let text = std::fs::read(SERVICES).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let mut all: HashMap<String, u16> =
        WELL_KNOWN.iter().map(|&(name, port)| (name.to_owned(), port)).collect();
    // In reverse order, so that the first line with a name takes precedence.
    let lines: Vec<_> = text.lines().filter_map(entry).collect();
    for (port, names) in lines.into_iter().rev() {
        all.extend(names.map(|name| (name.to_owned(), port)));
    }
    all
}

/// Looks a service name up in the text of a services database.
fn port_in(services: &str, name: &str) -> Option<u16> {
    let mut found = services.lines().filter_map(entry);
    found.find_map(|(port, mut names)| names.any(|known| known == name).then_some(port))
}

/// The TCP port and the names in a line of a services database: `name port/protocol alias... # comment`.
/// `None` for other lines.
fn entry(line: &str) -> Option<(u16, impl Iterator<Item = &str>)> {
    let mut words = line.split('#').next().unwrap_or("").split_ascii_whitespace();
    let official = words.next()?;
    let (port, protocol) = words.next()?.split_once('/')?;
    let port = port.parse().ok().filter(|&port| port != 0 && protocol == "tcp")?;
    Some((port, std::iter::once(official).chain(words)))
}

/// Services that are often balanced, with their usual aliases.
const WELL_KNOWN: &[(&str, u16)] = &[
    ("amqp", 5672),
    ("amqps", 5671),
    ("domain", 53),
    ("finger", 79),
    ("ftp", 21),
    ("ftp-data", 20),
    ("ftps", 990),
    ("git", 9418),
    ("gopher", 70),
    ("http", 80),
    ("http-alt", 8080),
    ("https", 443),
    ("imap", 143),
    ("imap2", 143),
    ("imaps", 993),
    ("ircd", 6667),
    ("kerberos", 88),
    ("ldap", 389),
    ("ldaps", 636),
    ("mail", 25),
    ("memcached", 11211),
    ("mqtt", 1883),
    ("ms-sql-s", 1433),
    ("mysql", 3306),
    ("nntp", 119),
    ("nntps", 563),
    ("pop-3", 110),
    ("pop3", 110),
    ("pop3s", 995),
    ("postgres", 5432),
    ("postgresql", 5432),
    ("redis", 6379),
    ("rsync", 873),
    ("sieve", 4190),
    ("sip", 5060),
    ("sip-tls", 5061),
    ("smtp", 25),
    ("smtps", 465),
    ("socks", 1080),
    ("ssh", 22),
    ("submission", 587),
    ("submissions", 465),
    ("sunrpc", 111),
    ("svn", 3690),
    ("telnet", 23),
    ("telnets", 992),
    ("webcache", 8080),
    ("whois", 43),
    ("www", 80),
    ("xmpp-client", 5222),
    ("xmpp-server", 5269),
];

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn texts(host: &str) -> Vec<String> {
        addresses(host, 80).map(|list| list.iter().map(ToString::to_string).collect()).unwrap_or_default()
    }

    #[test]
    fn numeric_forms_need_no_resolver() {
        for (host, address) in [
            ("10.1.1.1", "10.1.1.1:80"),
            ("::1", "[::1]:80"),
            ("[::1]", "[::1]:80"),
            ("2001:DB8::1", "[2001:db8::1]:80"),
            ("::ffff:10.1.1.3", "[::ffff:10.1.1.3]:80"),
        ] {
            assert_eq!(texts(host), [address], "{host}");
        }
    }

    #[test]
    fn many_names_are_looked_up_at_the_same_time_but_not_too_many() {
        let names = |count: usize| (0..count).map(|n| n.to_string()).collect::<BTreeSet<String>>();
        // None of these returns before all of them have begun.
        let all = Barrier::new(AT_START);
        let said = all_at_once(names(AT_START), |name| {
            all.wait();
            name.len()
        });
        assert_eq!((said.len(), said["7"], said["63"]), (AT_START, 1, 2));
        let (now, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let said = all_at_once(names(1_000), |name| {
            most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            thread::yield_now();
            now.fetch_sub(1, Ordering::SeqCst);
            assert_ne!(name, "77", "on purpose");
        });
        assert_eq!(said.len(), 999, "one that breaks off says nothing");
        assert!(most.into_inner() <= AT_START);
        assert!(all_at_once(BTreeSet::new(), |_| ()).is_empty());
    }

    #[test]
    fn a_zone_survives() {
        let list = addresses("fe80::1%lo", 80).expect("the loopback interface is everywhere");
        match list[0] {
            SocketAddr::V6(address) => assert!(address.scope_id() > 0, "{address:?}"),
            other => panic!("{other:?}"),
        }
        assert_eq!(addresses("[fe80::1%lo]", 80).expect("the same in brackets"), list);
    }

    #[test]
    fn a_link_local_address_needs_a_zone_and_the_message_has_one() {
        let why = |host: &str, address: &str| why_no_zone(host, &[address.parse().expect("an address")]);
        let typed = why("fe80::1", "[fe80::1]:80").expect("it has none");
        assert!(
            typed.starts_with(
                "fe80::1 is a link-local address; write it with its interface, such as fe80::1%"
            )
        );
        assert_eq!(why("[fe80::1]", "[fe80::1]:80"), Some(typed));
        let named = why("db", "[fe80::1]:80").expect("it has none");
        assert!(named.starts_with("'db' is fe80::1, a link-local address; write it with its interface"));
        for (host, address) in [
            ("fe80::1%lo", "[fe80::1%1]:80"),
            ("::1", "[::1]:80"),
            ("fd00::1", "[fd00::1]:80"),
            ("169.254.1.1", "169.254.1.1:80"),
        ] {
            assert_eq!(why(host, address), None, "{host}");
        }
    }

    #[test]
    fn localhost_is_a_loopback_address_once() {
        let list = addresses("localhost", 80).expect("localhost needs no network");
        assert!(list.iter().all(|address| address.ip().is_loopback()), "{list:?}");
        for (i, address) in list.iter().enumerate() {
            assert!(!list[..i].contains(address), "{list:?}");
        }
    }

    #[test]
    fn what_is_no_host_is_an_error() {
        for host in ["", "[]", "no such host", "a\0b", "host.invalid", "::1]", "1.2.3.4.5"] {
            assert!(addresses(host, 80).is_err(), "{host:?}");
        }
    }

    #[test]
    fn a_services_database_knows_names_aliases_and_tcp_only() {
        let text = "# comment\nsmtp\t\t25/tcp\t\tmail # x 1/tcp\ntalk 517/udp\nbad\nworse x/tcp\nhuge 99999/tcp\n\
                    zero 0/tcp\nlast 7/tcp";
        for (name, port) in [
            ("smtp", Some(25)),
            ("mail", Some(25)),
            ("last", Some(7)),
            ("talk", None),
            ("x", None),
            ("bad", None),
            ("worse", None),
            ("huge", None),
            ("zero", None),
            ("SMTP", None),
            ("", None),
            ("#", None),
        ] {
            assert_eq!(port_in(text, name), port, "{name}");
        }
    }

    #[test]
    fn the_names_of_the_manual_work_with_any_database_or_none() {
        for (name, port) in
            [("smtp", 25), ("imap", 143), ("pop3", 110), ("telnet", 23), ("http", 80), ("redis", 6379)]
        {
            assert_eq!(service_port(name), Some(port), "{name}");
        }
        assert_eq!(service_port("no-such-service"), None);
        assert_eq!(service_port(""), None);
    }

    #[test]
    fn the_built_in_table_is_sorted_so_that_a_name_stands_once() {
        assert!(WELL_KNOWN.is_sorted_by(|(a, _), (b, _)| a < b));
    }
}
