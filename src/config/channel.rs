//! The grammar of one channel: `host[:port[:maxc]]` or `unix:/PATH[::maxc]`, followed by its options, each
//! behind a comma.
//!
//! Knows: the order of the parts of the word. Never: DNS, the services database, defaults, groups.
//! Source: docs/compatibility.md, "Command line".

use std::num::NonZeroU32;

use super::channel_options::{print_channel_options, read_channel_options};
use super::host::{NOT_UTF8, is_bare_ipv6, port_taken_for_address, why_no_host};
use super::number::whole_number;
use super::ports::{read_port, read_ports, why_no_range};
use super::wrong::{Word, Wrong};
use crate::sched::is_name;
use crate::spec::{
    AdminState, ChannelManner, ChannelSpec, FamilyKind, PortWord, UnixName, Weight, is_service_name,
};

/// The host, the port and the limit of a channel's word. `None`: not given; a limit of 0 is also `None`.
type HostPortLimit = (String, Option<PortWord>, Option<NonZeroU32>);

/// Reads `host[:port[:maxc]]`, `[v6][:port[:maxc]]`, a bare IPv6 address that can be nothing else, or
/// `unix:NAME[::maxc]`. The channel's options follow the first comma.
///
/// # Errors
/// `Address` for a bad or empty host, a bad port, a bad limit, or bytes that are not UTF-8; `Usage` for a bad
/// option of a good address.
pub fn read_channel(word: &Word) -> Result<ChannelSpec, Wrong> {
    let typed = word.typed();
    let Some(text) = word.as_str() else { return Err(Wrong::address(&typed, NOT_UTF8)) };
    let (address, options) = match text.split_once(',') {
        Some((address, options)) => (address, Some(options)),
        None => (text, None),
    };
    let found = if address.starts_with(UnixName::PREFIX) { split_unix(address) } else { split(address) };
    let (host, port, maxc) = found.map_err(|why| Wrong::address(&typed, why))?;
    let mut channel = ChannelSpec {
        typed,
        host: host.clone(),
        port,
        lazy: false,
        family: None,
        maxc,
        weight: Weight::ONE,
        state: AdminState::Enabled,
        manner: ChannelManner::default(),
    };
    if let Some(options) = options {
        read_channel_options(&mut channel, options, text).map_err(Wrong::Usage)?;
    }
    let is_service = is_service_name(&host);
    match channel.family {
        Some(_) if is_service => {
            let why = format!(
                "each in [{text}] is for names of machines; a service has a channel for each target anyway"
            );
            return Err(Wrong::Usage(why));
        }
        Some(_) if !is_name(&host) => {
            return Err(Wrong::Usage(format!("each in [{text}] is for names, and '{host}' is an address")));
        }
        None if is_service => channel.family = Some(FamilyKind::Service),
        _ => {}
    }
    Ok(channel)
}

/// The shortest word that [`read_channel`] reads as this channel.
pub fn print_channel(channel: &ChannelSpec) -> String {
    let mut word = match channel.host.contains(':') && channel.unix().is_none() {
        true => format!("[{}]", channel.host),
        false => channel.host.clone(),
    };
    match (&channel.port, channel.maxc) {
        // Without a colon, these words mean something else in a list of channels.
        (None, None) if matches!(word.as_str(), "!" | "%" | "-") => word.push(':'),
        (None, None) => (),
        (Some(port), None) => word += &format!(":{port}"),
        (None, Some(maxc)) => word += &format!("::{maxc}"),
        (Some(port), Some(maxc)) => word += &format!(":{port}:{maxc}"),
    }
    word + &print_channel_options(channel)
}

/// Splits the address of a channel on TCP, without its options.
///
/// # Errors
/// One line that says what is wrong and what would be right.
fn split(word: &str) -> Result<HostPortLimit, String> {
    if let Some(why) = UnixName::meant_by(word) {
        return Err(why);
    }
    if let Some(why) = port_taken_for_address(word) {
        return Err(why);
    }
    if is_bare_ipv6(word) {
        return Ok((word.to_owned(), None, None));
    }
    let (host, rest) = match word.strip_prefix('[') {
        Some(inside) => match inside.split_once(']') {
            Some((host, rest)) if host.contains(':') => (host, rest),
            Some(_) => return Err("brackets are for IPv6 addresses, such as [2001:db8::1]:80".to_owned()),
            None => return Err("the bracket is not closed; write [2001:db8::1]:80".to_owned()),
        },
        None => word.split_at(word.find(':').unwrap_or(word.len())),
    };
    if rest.matches(':').count() > 2 || (!word.starts_with('[') && rest.ends_with("::")) {
        return Err(
            "it has too many colons; an IPv6 address with a port is written [2001:db8::1]:80".to_owned()
        );
    }
    if let Some(why) = why_no_host(host) {
        return Err(why);
    }
    if rest.is_empty() {
        return Ok((host.to_owned(), None, None));
    }
    let Some(rest) = rest.strip_prefix(':') else {
        return Err("a port stands behind a colon, such as [2001:db8::1]:80".to_owned());
    };
    let (port, maxc) = match rest.split_once(':') {
        // An empty limit is an error, not "no limit": the user may have meant a limit and lost it.
        Some((port, maxc)) => (port, read_maxc(maxc)?),
        None => (rest, 0),
    };
    let port = if port.is_empty() { None } else { Some(read_port(port).ok_or_else(|| why_no_port(port))?) };
    Ok((host.to_owned(), port, NonZeroU32::new(maxc)))
}

/// Splits `unix:/PATH` or `unix:@NAME`, with `::maxc` behind it or not.
///
/// # Errors
/// One line that says what is wrong and what would be right.
fn split_unix(word: &str) -> Result<HostPortLimit, String> {
    let rest = word.strip_prefix(UnixName::PREFIX).unwrap_or(word);
    let (name, maxc) = match rest.split_once(':') {
        None => (word, 0),
        Some((name, behind)) => {
            let maxc = behind.strip_prefix(':').ok_or_else(|| {
                "a Unix socket has no port; a limit stands behind two colons (unix:/PATH::MAXC), and a colon in its name is \
                 written %3A"
                    .to_owned()
            })?;
            (&word[..UnixName::PREFIX.len() + name.len()], read_maxc(maxc)?)
        }
    };
    let name: UnixName = name.parse()?;
    Ok((name.to_string(), None, NonZeroU32::new(maxc)))
}

fn why_no_port(word: &str) -> String {
    if read_ports(word).is_some() || why_no_range(word).is_some() {
        return format!(
            "'{word}' is not a port: a channel has one port, or none to be connected to at the port that its client came to"
        );
    }
    format!("'{word}' is not a port; give a number from 1 to 65535 or the name of a service")
}

fn read_maxc(word: &str) -> Result<u32, String> {
    let number = whole_number(word).flatten().and_then(|n| u32::try_from(n).ok());
    number.ok_or_else(|| {
        format!("'{word}' is not a maxc; give a number from 0 to {}, 0 for no limit", u32::MAX)
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};
    use std::num::NonZeroU16;

    use proptest::prelude::*;

    use super::super::host::is_host;
    use super::*;
    use crate::spec::{ChannelCheck, Check, ProxyVersion, Step, Typed};

    pub(in super::super) fn word(text: &str) -> Word {
        Word { text: text.into(), at: None }
    }

    fn read(text: &str) -> Result<ChannelSpec, Wrong> {
        read_channel(&word(text))
    }

    /// The message as it appears for a file, without its place.
    fn refused(text: &str) -> String {
        match read(text) {
            Err(Wrong::Usage(why)) => why,
            Err(Wrong::Address { word, why }) => {
                assert_eq!(word, text);
                why
            }
            other => panic!("{text}: {other:?}"),
        }
    }

    fn number(n: u16) -> Option<PortWord> {
        NonZeroU16::new(n).map(PortWord::Number)
    }

    fn name(word: &str) -> Option<PortWord> {
        Some(PortWord::Name(word.to_owned()))
    }

    #[test]
    fn every_legal_shape_of_a_channel_is_read() {
        let table: &[(&str, &str, Option<PortWord>, u32)] = &[
            ("host1", "host1", None, 0),
            ("10.1.1.1:8000", "10.1.1.1", number(8000), 0),
            ("host:imap", "host", name("imap"), 0),
            ("host:http-alt:7", "host", name("http-alt"), 7),
            ("host:", "host", None, 0),
            ("host::0", "host", None, 0),
            ("localhost::12", "localhost", None, 12),
            ("localhost:25:4294967295", "localhost", number(25), u32::MAX),
            ("h:0080:007", "h", number(80), 7),
            ("[::1]", "::1", None, 0),
            ("[::1]:80", "::1", number(80), 0),
            ("[2001:db8::1]:80:3", "2001:db8::1", number(80), 3),
            ("[2001:db8::1]::3", "2001:db8::1", None, 3),
            ("[fe80::1%eth0]:80", "fe80::1%eth0", number(80), 0),
            ("fe80::1%eth0", "fe80::1%eth0", None, 0),
            ("::1", "::1", None, 0),
            ("::", "::", None, 0),
            ("2001:DB8::1", "2001:DB8::1", None, 0),
            ("::ffff:10.1.1.3", "::ffff:10.1.1.3", None, 0),
            ("1:2:3:4:5:6:7:8", "1:2:3:4:5:6:7:8", None, 0),
            ("a::12", "a", None, 12),
            ("0:2:3", "0", number(2), 3),
            ("unix:/run/x.sock", "unix:/run/x.sock", None, 0),
            ("unix:@x::12", "unix:@x", None, 12),
            ("unix:/a%20b", "unix:/a%20b", None, 0),
            ("unix:/a b;", "unix:/a%20b%3B", None, 0),
        ];
        for (word, host, port, maxc) in table {
            let target = read(word).unwrap_or_else(|e| panic!("{word}: {e:?}"));
            assert_eq!((target.weight, target.state), (Weight::ONE, AdminState::Enabled), "{word}");
            assert_eq!(target.typed.text, *word);
            assert_eq!(target.host, *host, "{word}");
            assert_eq!(target.port, *port, "{word}");
            assert_eq!(target.maxc, NonZeroU32::new(*maxc), "{word}");
        }
    }

    #[test]
    fn what_is_no_channel_is_told_with_the_reason() {
        let missing = "the host is missing; write host[:port[:maxc]]";
        let port = |word: &str| {
            format!("'{word}' is not a port; give a number from 1 to 65535 or the name of a service")
        };
        let maxc = |word: &str| {
            format!("'{word}' is not a maxc; give a number from 0 to 4294967295, 0 for no limit")
        };
        let colons = "it has too many colons; an IPv6 address with a port is written [2001:db8::1]:80";
        let odd = "a host has no blanks, brackets or control characters in it";
        let brackets = "brackets are for IPv6 addresses, such as [2001:db8::1]:80";
        let behind = "a port stands behind a colon, such as [2001:db8::1]:80";
        let number = |n: &str| {
            format!(
                "'{n}' is a number where a host should be; for port {n} of this machine write localhost:{n}"
            )
        };
        let table: &[(&str, &str)] = &[
            ("", missing),
            (":", missing),
            (":80", missing),
            (":80:1", missing),
            ("host:0", &port("0")),
            ("host:65536", &port("65536")),
            ("host:99999999999", &port("99999999999")),
            ("host:+5", &port("+5")),
            ("host: 5", &port(" 5")),
            ("host:5 ", &port("5 ")),
            ("host:-1", &port("-1")),
            ("host:a b", &port("a b")),
            ("host:-x", &port("-x")),
            ("host:ä", &port("ä")),
            ("host:80:", &maxc("")),
            ("host:80:-1", &maxc("-1")),
            ("host:80:x", &maxc("x")),
            ("host:80:5x", &maxc("5x")),
            ("host:80:4294967296", &maxc("4294967296")),
            ("host:80:+5", &maxc("+5")),
            ("host:80:1:2", colons),
            ("host:::", colons),
            (
                "unix:/x:80",
                "a Unix socket has no port; a limit stands behind two colons (unix:/PATH::MAXC), and a colon in its name is written %3A",
            ),
            ("unix:x", "the path must be absolute, as in unix:/run/x.sock"),
            ("/run/app.sock", "a Unix socket is written unix:/run/app.sock"),
            ("/run/app.sock:80", "a Unix socket is written unix:/run/app.sock"),
            ("Unix:/x::3", "a Unix socket is written unix:/x"),
            ("UNIX:@x", "a Unix socket is written unix:@x"),
            ("2001:db8::g", colons),
            ("2001:db8::1:http", colons),
            ("a b", odd),
            ("a\tb", odd),
            ("a\0b", odd),
            ("[::1", "the bracket is not closed; write [2001:db8::1]:80"),
            ("[::1,weight=1]", "the bracket is not closed; write [2001:db8::1]:80"),
            ("::1]", missing),
            ("[]", brackets),
            ("[]:80", brackets),
            ("[host]:80", brackets),
            ("[10.1.1.1]:80", brackets),
            ("[::1]80", behind),
            ("[::1]x:80", behind),
            ("[[::1]]", "'[::1' is not an IPv6 address"),
            ("[fe80::1%]", "'fe80::1%' is not an IPv6 address"),
            ("[fe80::1%a b]", "'fe80::1%a b' is not an IPv6 address"),
            (",", missing),
            (",weight=1", missing),
            (":80,weight=1", missing),
            ("host:0,weight=1", &port("0")),
            ("host:0,colour=red", &port("0")),
            ("8080", &number("8080")),
            ("8080:80", &number("8080")),
            ("80::5,weight=2", &number("80")),
            ("99999", "'99999' is a number where a host should be; write host[:port[:maxc]]"),
            ("::1:80", "no host has the address ::1:80; for port 80 of ::1 write [::1]:80"),
        ];
        for (word, why) in table {
            assert_eq!(refused(word), *why, "{word:?}");
        }
    }

    #[test]
    fn options_of_a_channel_stand_behind_the_first_comma() {
        use AdminState::{Disabled, DisabledHard, Enabled};
        let table = [
            ("h,weight=3", "h,weight=3", 3, Enabled),
            ("h:80:4,weight=0", "h:80:4,weight=0", 0, Enabled),
            ("h:80,weight=256", "h:80,weight=256", 256, Enabled),
            ("h::0,weight=001", "h", 1, Enabled),
            ("h,disabled", "h,disabled", 1, Disabled),
            ("h,disabled=hard", "h,disabled=hard", 1, DisabledHard),
            ("h,disabled,weight=2", "h,weight=2,disabled", 2, Disabled),
            ("2001:db8::1,weight=2", "[2001:db8::1],weight=2", 2, Enabled),
            ("[::1]:80,disabled", "[::1]:80,disabled", 1, Disabled),
            ("-,weight=2", "-:,weight=2", 2, Enabled),
            ("h:80,proxy=v2,weight=2", "h:80,weight=2,proxy", 2, Enabled),
            ("h:80,disabled,proxy=v1", "h:80,proxy=v1,disabled", 1, Disabled),
            ("h:80,check=none", "h:80,check=none", 1, Enabled),
            ("h:80,check=http:/x=200-299,proxy", "h:80,proxy,check=http:/x=200-299", 1, Enabled),
            (r"h:80,check=expect:a\x2cb c", r"h:80,check=expect:a\x2cb c", 1, Enabled),
            ("h:80,check=exec:/x y", "h:80,check=exec:/x y", 1, Enabled),
        ];
        for (word, printed, weight, state) in table {
            let target = read(word).unwrap_or_else(|e| panic!("{word}: {e:?}"));
            assert_eq!((target.weight.get(), target.state), (weight, state), "{word}");
            assert_eq!((target.typed.text.as_str(), print_channel(&target).as_str()), (word, printed));
        }
    }

    #[test]
    fn a_wrong_option_of_a_channel_is_named_with_what_would_be_right() {
        let unknown =
            "; a channel has weight=N, proxy, proxy=v1, check=SPEC, disabled, disabled=hard, each and lazy";
        let comma = r". A comma ends a channel's check; in send: and expect: write \x2c";
        let table = [
            ("host:80,weight=300", "weight=300 in [host:80,weight=300] is out of range; give 0 to 256".to_owned()),
            ("h,weight=257", "weight=257 in [h,weight=257] is out of range; give 0 to 256".to_owned()),
            (
                "h,weight=99999999999999999999999",
                "weight=99999999999999999999999 in [h,weight=99999999999999999999999] is out of range; give 0 to 256"
                    .to_owned(),
            ),
            ("h,weight=-1", "weight=-1 in [h,weight=-1] is not a number; give 0 to 256".to_owned()),
            ("h,weight=", "weight= in [h,weight=] is not a number; give 0 to 256".to_owned()),
            ("h,weight", "weight in [h,weight] needs a number; give weight=0 to weight=256".to_owned()),
            ("h,weight=1,weight=1", "weight is there twice in [h,weight=1,weight=1]; give it once".to_owned()),
            (
                "h,disabled,disabled=hard",
                "disabled is there twice in [h,disabled,disabled=hard]; give it once".to_owned(),
            ),
            (
                "h,disabled=soft",
                "disabled=soft in [h,disabled=soft] is not known; give disabled or disabled=hard".to_owned(),
            ),
            (
                "h,proxy=3",
                "proxy=3 in [h,proxy=3] is not known; give proxy for version 2 or proxy=v1".to_owned(),
            ),
            (
                "h,check",
                "check in [h,check] needs a value; give one such as check=tcp, check=http:/healthz or check=none"
                    .to_owned(),
            ),
            ("h,check=http:x", "check=http:x in [h,check=http:x] needs a path that begins with / and has no blanks in it, such as http:/healthz".to_owned()),
            ("h,check=http:/x=200,404", format!("unknown option '404' in [h,check=http:/x=200,404]{unknown}{comma}")),
            ("h,check=tcp,check=none", "check is there twice in [h,check=tcp,check=none]; give it once".to_owned()),
            ("h,proxy,proxy=v1", "proxy is there twice in [h,proxy,proxy=v1]; give it once".to_owned()),
            ("h,", format!("unknown option '' in [h,]{unknown}")),
            ("h,maxc=3", format!("unknown option 'maxc=3' in [h,maxc=3]{unknown}")),
            ("h,Weight=3", format!("unknown option 'Weight=3' in [h,Weight=3]{unknown}")),
            ("h, weight=3", format!("unknown option ' weight=3' in [h, weight=3]{unknown}")),
        ];
        for (word, message) in table {
            assert_eq!(refused(word), message);
        }
    }

    prop_compose! {
        pub(crate) fn any_manner()(
            proxy in prop::sample::select(vec![None, Some(ProxyVersion::V1), Some(ProxyVersion::V2)]),
            check in prop_oneof![
                Just(ChannelCheck::AsService),
                Just(ChannelCheck::Never),
                Just(ChannelCheck::Own(Check::Tcp)),
                "/[a-z%? ]{0,6}".prop_map(|path| ChannelCheck::Own(Check::Exec(path.into()))),
                "/[a-z%?&]{0,6}".prop_map(|path| {
                    ChannelCheck::Own(Check::Http { host: None, path, statuses: vec![200..=399] })
                }),
                "[ -~\\n]{1,8}".prop_map(|text| {
                    ChannelCheck::Own(Check::Dialogue(vec![Step::Expect(text.into())]))
                }),
            ],
        ) -> ChannelManner {
            ChannelManner { proxy, check }
        }
    }

    prop_compose! {
        pub(in super::super) fn any_target()(
            host in prop_oneof![
                "[a-z0-9!%~*$'\"-][a-z0-9.-]{0,20}".prop_filter("a bare number is no host", |host| is_host(host)),
                any::<u128>().prop_map(|bits| Ipv6Addr::from(bits).to_string()),
                any::<[u8; 4]>().prop_map(|bytes| Ipv4Addr::from(bytes).to_string()),
            ],
            port in prop_oneof![
                Just(None),
                any::<NonZeroU16>().prop_map(|n| Some(PortWord::Number(n))),
                "[0-9]{0,3}[a-z][a-z0-9+-]{0,8}".prop_map(|name| Some(PortWord::Name(name))),
            ],
            maxc in any::<Option<NonZeroU32>>(),
            weight in (0..=Weight::MAX).prop_map(|n| Weight::new(n).expect("in range")),
            state in prop::sample::select(vec![
                AdminState::Enabled,
                AdminState::Disabled,
                AdminState::DisabledHard,
            ]),
            manner in any_manner(),
            [lazy, each] in any::<[bool; 2]>(),
        ) -> ChannelSpec {
            let family = (each && is_name(&host)).then_some(FamilyKind::Each);
            ChannelSpec { typed: Typed::default(), host, port, lazy, family, maxc, weight, state, manner }
        }
    }

    proptest! {
        #[test]
        fn a_printed_target_reads_as_itself(target in any_target()) {
            prop_assert_eq!(read(&print_channel(&target)), Ok(target));
        }

        #[test]
        fn what_was_read_prints_and_reads_the_same(word in "[a-f0-9:.%!\\[\\]-]{0,24}(,weight=[0-9]{0,3}|,disabled|,disabled=hard){0,2}") {
            if let Ok(target) = read(&word) {
                let again = read(&print_channel(&target)).expect("printed from a legal one");
                prop_assert_eq!(again, target);
            }
        }
    }
}
