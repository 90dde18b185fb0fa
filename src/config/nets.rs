//! Networks as they are typed: a single one, a list, a file; and the limits of one client.
//!
//! Knows: how each is written. Never: which files exist, which clients are accepted.
//! Source: docs/access.md.

use std::fmt::Write;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net};

use super::duration::{parse_duration, print_duration};
use super::number::whole_number;
use super::values::Bad;
use super::wrong::Word;
use crate::spec::{ClientPrefix, ClientRate, NetItem, NetList};

/// How much of a word of a file a message shows, in characters.
const LONGEST_SHOWN: usize = 60;
/// The highest number of connections in a rate. More would be no limit.
const MOST_IN_A_TIME: u64 = 1_000_000;
/// The times that a rate may have.
const RATE_TIMES: std::ops::RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(86_400);

/// Reads an address or a network, such as `192.0.2.7` or `2001:db8::/32`. An IPv4-mapped IPv6 address becomes
/// an IPv4 address.
///
/// # Errors
/// What is wrong with it, and what would be right.
pub fn parse_net(word: &str) -> Result<IpNet, String> {
    let net = parse_typed(word)?;
    if net.trunc() != net {
        let (whole, one) = (net.trunc(), net.addr());
        return Err(format!("has bits set behind its prefix; write {whole}, or {one} for the one address"));
    }
    Ok(net)
}

/// Like [`parse_net`], but reads an address with a prefix as the network around it: `2001:db8::5/64` is
/// `2001:db8::/64`. For programs that know an address and a prefix; the answer has to show the network.
///
/// # Errors
/// What is wrong with it, and what would be right.
pub fn parse_net_around(word: &str) -> Result<IpNet, String> {
    parse_typed(word).map(|net| net.trunc())
}

/// As typed, with the bits behind the prefix.
fn parse_typed(word: &str) -> Result<IpNet, String> {
    const FORM: &str = "give one like 192.0.2.7, 192.0.2.0/24 or 2001:db8::/32";
    let net = match word.parse::<IpAddr>() {
        Ok(address) => IpNet::from(address),
        Err(_) => word.parse::<IpNet>().map_err(|_| format!("is not an address or a network; {FORM}"))?,
    };
    Ok(match net {
        IpNet::V6(v6) => match v6.addr().to_ipv4_mapped() {
            // A shorter prefix covers other addresses than IPv4-mapped ones, too.
            Some(v4) if v6.prefix_len() >= 96 => {
                Ipv4Net::new(v4, v6.prefix_len() - 96).map(IpNet::V4).unwrap_or(net)
            }
            _ => net,
        },
        IpNet::V4(_) => net,
    })
}

/// The text that [`parse_net`] reads as this network; a single address has no prefix.
pub fn print_net(net: IpNet) -> String {
    if net.prefix_len() == net.max_prefix_len() { net.addr().to_string() } else { net.to_string() }
}

/// Reads the networks of a file: one on each line; blank lines are allowed, and comments begin with `#` or
/// `;`.
///
/// # Errors
/// The line and the column (both from 1) of the first word that is wrong, and what is wrong with it.
pub fn parse_nets(text: &[u8]) -> Result<Vec<IpNet>, (usize, usize, String)> {
    let mut nets = Vec::new();
    // Some editors write a byte order mark at the start of a file.
    let text = text.strip_prefix("\u{feff}".as_bytes()).unwrap_or(text);
    for (number, line) in text.split(|&b| b == b'\n').enumerate() {
        let end = line.iter().position(|b| b"#;".contains(b)).unwrap_or(line.len());
        let line = &line[..end];
        let word = line.trim_ascii();
        if word.is_empty() {
            continue;
        }
        let net = std::str::from_utf8(word).map_err(|_| "is not UTF-8".to_owned()).and_then(parse_net);
        let column = line.len() - line.trim_ascii_start().len() + 1;
        nets.push(net.map_err(|why| (number + 1, column, format!("'{}' {why}", shown(word))))?);
    }
    Ok(nets)
}

/// A word of a file as messages show it.
fn shown(word: &[u8]) -> String {
    let text = String::from_utf8_lossy(word);
    let mut shown: String = text.chars().take(LONGEST_SHOWN).flat_map(char::escape_debug).collect();
    if text.chars().nth(LONGEST_SHOWN).is_some() {
        shown.push_str("...");
    }
    shown
}

/// Reads a list, separated by commas. `everybody` is the word for no list, which is read as `None`.
///
/// # Errors
/// What is wrong with an item.
pub(super) fn read_list(word: &Word, everybody: &str) -> Result<Option<NetList>, Bad> {
    let wrong = |why: String| Bad::Value(why);
    let text = word.as_str().ok_or_else(|| wrong("is not UTF-8".to_owned()))?;
    if text == everybody {
        return Ok(None);
    }
    let mut items = Vec::new();
    for one in text.split(',') {
        items.push(match one.starts_with('/') {
            true => NetItem::File(PathBuf::from(one)),
            false => NetItem::Net(parse_net(one).map_err(|why| match (text == one, one.contains('/')) {
                (false, _) => wrong(format!("has '{one}', which {why}")),
                (true, false) if one.contains('.') => {
                    wrong(format!("{why}; a file is given by its whole path, as /etc/balance/{one}"))
                }
                (true, _) => wrong(why),
            })?),
        });
    }
    Ok(Some(NetList { items, typed: word.typed() }))
}

/// The list as it would be typed; empty for `None`.
pub(super) fn print_list(list: Option<&NetList>) -> String {
    let mut text = String::new();
    for (number, item) in list.into_iter().flat_map(|list| &list.items).enumerate() {
        let comma = if number > 0 { "," } else { "" };
        // Writing to a string cannot fail.
        let _ = match item {
            NetItem::Net(net) => write!(text, "{comma}{}", print_net(*net)),
            NetItem::File(path) => write!(text, "{comma}{}", path.display()),
        };
    }
    text
}

/// Reads a rate such as `10/10s`. `None`: 0, no limit.
///
/// # Errors
/// What is wrong with it, and what would be right.
pub(super) fn read_rate(word: &Word) -> Result<Option<ClientRate>, Bad> {
    let text = word.lossy();
    if text == "0" {
        return Ok(None);
    }
    let form = "a number of connections and a time, as in 10/10s; 0 means no limit";
    let (count, per) = text.split_once('/').ok_or_else(|| Bad::Value(format!("is not {form}")))?;
    let count = whole_number(count).flatten().filter(|n| (1..=MOST_IN_A_TIME).contains(n));
    let count = count.and_then(|n| u32::try_from(n).ok()).and_then(NonZeroU32::new);
    let per = parse_duration(per).ok().filter(|per| RATE_TIMES.contains(per));
    match (count, per) {
        (Some(count), Some(per)) => Ok(Some(ClientRate { count, per })),
        (None, _) => {
            Err(Bad::Value(format!("has no number from 1 to {MOST_IN_A_TIME} in front of '/'; give {form}")))
        }
        (_, None) => Err(Bad::Value(format!("has no time from 1ms to 1d behind '/'; give {form}"))),
    }
}

/// The rate as it would be typed; 0 for `None`.
pub(super) fn print_rate(rate: Option<ClientRate>) -> String {
    rate.map_or_else(|| "0".to_owned(), |rate| format!("{}/{}", rate.count, print_duration(rate.per)))
}

/// Reads two prefix lengths such as `32,64`.
///
/// # Errors
/// What is wrong with them, and what would be right.
pub(super) fn read_prefix(word: &Word) -> Result<ClientPrefix, Bad> {
    let text = word.lossy();
    let bits = |part: &str, most| {
        whole_number(part).flatten().filter(|n| (1..=most).contains(n)).and_then(|n| u8::try_from(n).ok())
    };
    let parts = text.split_once(',').and_then(|(v4, v6)| Some((bits(v4, 32)?, bits(v6, 128)?)));
    let (v4, v6) = parts.ok_or_else(|| {
        Bad::Value("is not two prefixes, 1 to 32 bits of IPv4 and 1 to 128 of IPv6, as in 32,64".to_owned())
    })?;
    Ok(ClientPrefix { v4, v6 })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn word(text: &str) -> Word {
        Word { text: text.into(), at: None }
    }

    #[test]
    fn the_network_around_an_address() {
        for (word, net) in [
            ("2001:db8::5/64", "2001:db8::/64"),
            ("192.0.2.7/24", "192.0.2.0/24"),
            ("::ffff:192.0.2.7/120", "192.0.2.0/24"),
            ("192.0.2.7", "192.0.2.7/32"),
        ] {
            assert_eq!(parse_net_around(word).map(|net| net.to_string()).as_deref(), Ok(net));
        }
        assert!(parse_net_around("192.0.2.7/33").is_err());
    }

    #[test]
    fn a_network_is_an_address_or_a_prefix() {
        for (word, net) in [
            ("192.0.2.7", "192.0.2.7/32"),
            ("192.0.2.7/32", "192.0.2.7/32"),
            ("192.0.2.0/24", "192.0.2.0/24"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("::", "::/128"),
            ("2001:db8::/32", "2001:db8::/32"),
            ("::ffff:192.0.2.7", "192.0.2.7/32"),
            ("::ffff:192.0.2.0/120", "192.0.2.0/24"),
            ("::ffff:0:0/96", "0.0.0.0/0"),
        ] {
            let parsed = parse_net(word).expect(word);
            assert_eq!(parsed.to_string(), net);
            assert_eq!(parse_net(&print_net(parsed)), Ok(parsed));
        }
        for (word, why) in [
            (
                "192.0.2.7/24",
                "has bits set behind its prefix; write 192.0.2.0/24, or 192.0.2.7 for the one address",
            ),
            (
                "2001:db8::1/64",
                "has bits set behind its prefix; write 2001:db8::/64, or 2001:db8::1 for the one address",
            ),
        ] {
            assert_eq!(parse_net(word), Err(why.to_owned()), "{word}");
        }
        for word in [
            "",
            "x",
            "192.0.2",
            "192.0.2.0/33",
            "192.0.2.0/",
            "192.0.2.0/-1",
            "192.0.2.0/24/",
            " 192.0.2.7",
            "::/129",
            "fe80::1%lo",
            "/24",
        ] {
            assert!(
                parse_net(word)
                    .is_err_and(|why| why.starts_with("is not an address or a network; give one like")),
                "{word}"
            );
        }
    }

    #[test]
    fn a_file_has_a_network_on_a_line() {
        let text = b"# Spamhaus\r\n192.0.2.0/24 ; SBL1\r\n\n  2001:db8::/32\t# ours\n;\n198.51.100.1";
        let nets = parse_nets(text).expect("all are right");
        assert_eq!(
            nets.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["192.0.2.0/24", "2001:db8::/32", "198.51.100.1/32"]
        );
        assert_eq!(parse_nets(b""), Ok(vec![]));
        for (text, line, begin) in [
            (&b"192.0.2.1\n\n192.0.2.x # no\n"[..], 3, "'192.0.2.x' is not an address"),
            (b"192.0.2.1 192.0.2.2\n", 1, "'192.0.2.1 192.0.2.2' is not an address"),
            (b"192.0.2.1/24", 1, "'192.0.2.1/24' has bits set behind its prefix; write 192.0.2.0/24"),
            (b"\n\xff\x1b", 2, "'\u{fffd}\\u{1b}' is not UTF-8"),
        ] {
            let (number, _, why) = parse_nets(text).expect_err("one is wrong");
            assert_eq!(number, line);
            assert!(why.starts_with(begin), "{why}");
        }
        let (_, _, why) = parse_nets(&[b'x'; 1_000]).expect_err("that is none");
        assert!(why.len() < 200, "{why}");
    }

    #[test]
    fn a_list_has_networks_and_files() {
        let list = read_list(&word("192.0.2.0/24,/etc/bad nets,::1"), "none").expect("a list");
        assert_eq!(print_list(list.as_ref()), "192.0.2.0/24,/etc/bad nets,::1");
        assert_eq!(list.expect("one").files().count(), 1);
        assert_eq!(read_list(&word("none"), "none"), Ok(None));
        for (text, why) in [
            ("none", "is not an address or a network"),
            ("192.0.2.1,", "has '', which is not an address or a network"),
            (
                "192.0.2.1,10.0.0.1/8",
                "has '10.0.0.1/8', which has bits set behind its prefix; write 10.0.0.0/8",
            ),
            (
                "bad.txt",
                "is not an address or a network; give one like 192.0.2.7, 192.0.2.0/24 or 2001:db8::/32; a file is given by its whole path, as /etc/balance/bad.txt",
            ),
            ("etc/bad.txt", "is not an address or a network"),
        ] {
            match read_list(&word(text), "any") {
                Err(Bad::Value(told)) => assert!(told.starts_with(why), "{text}: {told}"),
                other => panic!("{text}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_rate_is_a_number_and_a_time() {
        for (text, same) in [
            ("10/10s", "10/10s"),
            ("1/1ms", "1/1ms"),
            ("007/60s", "7/1m"),
            ("1000000/1d", "1000000/1d"),
            ("0", "0"),
        ] {
            assert_eq!(print_rate(read_rate(&word(text)).expect(text)), same);
        }
        for text in ["", "10", "10/", "/10s", "0/10s", "10/0s", "10/2d", "1000001/1s", "-1/1s", "1/1/1s"] {
            assert!(read_rate(&word(text)).is_err(), "{text}");
        }
        for (text, prefix) in [
            ("32,64", Some((32, 64))),
            ("24,128", Some((24, 128))),
            ("0,64", None),
            ("32", None),
            ("33,64", None),
            ("32,129", None),
            ("32,64,", None),
        ] {
            let read = read_prefix(&word(text)).ok();
            assert_eq!(read, prefix.map(|(v4, v6)| ClientPrefix { v4, v6 }), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_file_is_too_much_for_it(text in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse_nets(&text);
        }

        #[test]
        fn what_is_printed_is_read(v6 in any::<u128>(), length in 0..=128_u8) {
            let net = IpNet::new(IpAddr::from(v6.to_be_bytes()).to_canonical(), length.min(32)).expect("short").trunc();
            prop_assert_eq!(parse_nets(print_net(net).as_bytes()), Ok(vec![net]));
        }
    }
}
