//! Parses the head of a request, and decides whether it may be asked this way.
//!
//! Knows: RFC 9112 as far as GET, HEAD and small POSTs need it, which hosts are ours. Never: sockets, what
//! there is to answer.
//! Source: docs/observability.md, "Metrics and probes by HTTP".
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::net::{IpAddr, Ipv6Addr};

/// Maximum length of a head, in bytes.
pub(crate) const LONGEST: usize = 8 * 1024;
/// Maximum length of a body, in bytes: a command, or a form with one.
pub(crate) const LONGEST_BODY: usize = 4 * 1024;
/// The paths that take POST, and nothing else.
const POSTED: [&str; 2] = ["/api/v1/command", "/command"];
/// Maximum number of header fields.
const MOST_LINES: usize = 64;

/// A request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Request {
    /// Whether the method is HEAD: the answer has no body.
    pub(crate) is_head_only: bool,
    /// The path, percent-decoded, without its query.
    pub(crate) path: String,
    /// The query as it was sent, without the `?`.
    pub(crate) query: String,
    /// Whether the client prefers OpenMetrics to the older text format, or likes both equally.
    pub(crate) wants_openmetrics: bool,
    /// Whether the client accepts JSON.
    pub(crate) wants_json: bool,
    /// The body of a POST; `None` for other methods.
    pub(crate) posted: Option<PostedBody>,
    /// Whether the connection may be used again.
    pub(crate) keeps: bool,
    /// Length of the head and the body together, in bytes.
    pub(crate) length: usize,
}

/// The body of a POST, and what its head says about the sender.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct PostedBody {
    pub(crate) body: Vec<u8>,
    /// The token of `Authorization: Bearer`, if given.
    pub(crate) bearer: Option<Vec<u8>>,
    /// Whether a browser says that a page of another site sent it.
    pub(crate) is_cross_site: bool,
    /// Whether the client waits for `100 Continue` before it sends the body.
    pub(crate) is_awaited: bool,
}

impl std::fmt::Debug for PostedBody {
    // Without the token and the body: they do not belong in messages.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PostedBody").field("is_cross_site", &self.is_cross_site).finish_non_exhaustive()
    }
}

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// It is not an HTTP/1 request, or an ambiguous one.
    Malformed,
    /// Its head is too long.
    TooLong,
    /// Its method is neither GET nor HEAD.
    Method,
    /// The path takes only POST.
    OnlyPost,
    /// A POST without Content-Length.
    NoLength,
    /// Its body is too long.
    TooLarge,
    /// It uses another version of HTTP.
    Version,
    /// It names a host that is not ours.
    OtherHost,
}

/// What the bytes read so far are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Parsed {
    /// The beginning of a head.
    Partial,
    /// A head whose body is not complete. `true`: the client waits for `100 Continue` before it sends the
    /// body.
    Bodiless(bool),
    /// A whole request.
    Whole(Request),
    /// A request that is refused.
    Refused(Refusal),
}

/// Parses a request. `name`: the host name given with --http, if it was a name.
pub(crate) fn parse(bytes: &[u8], name: Option<&str>) -> Parsed {
    let mut lines = [httparse::EMPTY_HEADER; MOST_LINES];
    let mut request = httparse::Request::new(&mut lines);
    let window = &bytes[..bytes.len().min(LONGEST)];
    let length = match request.parse(window) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) if bytes.len() >= LONGEST => return Parsed::Refused(Refusal::TooLong),
        Ok(httparse::Status::Partial) => return Parsed::Partial,
        Err(httparse::Error::TooManyHeaders) => return Parsed::Refused(Refusal::TooLong),
        Err(httparse::Error::Version) => return Parsed::Refused(Refusal::Version),
        Err(_) => return Parsed::Refused(Refusal::Malformed),
    };
    match read(&request, length, name) {
        Err(refusal) => Parsed::Refused(refusal),
        Ok(mut whole) => {
            if let Some(posted) = &mut whole.posted {
                let Some(body) = bytes.get(length..whole.length) else {
                    return Parsed::Bodiless(posted.is_awaited && bytes.len() == length);
                };
                posted.body = body.to_vec();
            }
            Parsed::Whole(whole)
        }
    }
}

fn read(request: &httparse::Request<'_, '_>, length: usize, name: Option<&str>) -> Result<Request, Refusal> {
    let values = |wanted: &'static str| {
        let lines = request.headers.iter().filter(move |line| line.name.eq_ignore_ascii_case(wanted));
        lines.map(|line| line.value)
    };
    let is_head_only = request.method == Some("HEAD");
    let is_post = request.method == Some("POST");
    let is_known = is_head_only || is_post || request.method == Some("GET");
    let is_1_1 = request.version == Some(1);
    let mut hosts = values("host");
    let host = match (hosts.next(), hosts.next()) {
        (None, _) if is_1_1 => return Err(Refusal::Malformed),
        (Some(_), Some(_)) => return Err(Refusal::Malformed),
        (host, _) => host,
    };
    // `OPTIONS *` has no path, but the fault to report is its method.
    let target = split_target(request.path.unwrap_or_default());
    let (authority, target) = target.map_err(|why| if is_known { why } else { Refusal::Method })?;
    let asked = [host, authority.map(str::as_bytes)];
    if !asked.into_iter().flatten().all(|host| is_ours(host, name)) {
        return Err(Refusal::OtherHost);
    }
    let target = target.split('#').next().unwrap_or_default();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let path = decoded(path)?;
    match (POSTED.contains(&path.as_str()), is_post) {
        (true, false) => return Err(Refusal::OnlyPost),
        (false, true) => return Err(Refusal::Method),
        _ if !is_known => return Err(Refusal::Method),
        _ => {}
    }
    let mut lengths = values("content-length");
    let is_coded = values("transfer-encoding").next().is_some();
    let body = match (is_post, lengths.next(), lengths.next()) {
        (false, ..) => 0,
        (_, Some(_), Some(_)) => return Err(Refusal::Malformed),
        (_, Some(_), _) if is_coded => return Err(Refusal::Malformed),
        (_, None, _) => return Err(Refusal::NoLength),
        (_, Some(length), None) => body_length(length)?,
    };
    let posted = is_post.then(|| PostedBody {
        body: Vec::new(),
        bearer: values("authorization").find_map(bearer),
        is_cross_site: values("origin").any(|origin| !is_origin(origin, host))
            || values("sec-fetch-site").any(|site| !matches!(site, b"same-origin" | b"none")),
        is_awaited: is_1_1 && values("expect").any(|what| what.eq_ignore_ascii_case(b"100-continue")),
    });
    // A GET or HEAD with a body: the connection is closed after it, so we need not find out where the body
    // ends.
    let has_body = !is_post && (is_coded || values("content-length").any(|length| length != b"0"));
    let closes = tokens(values("connection")).any(|token| token.eq_ignore_ascii_case("close"));
    Ok(Request {
        is_head_only,
        path,
        query: query.to_owned(),
        wants_openmetrics: wants_openmetrics(values("accept")),
        wants_json: wants_json(values("accept")),
        posted,
        keeps: is_1_1 && !has_body && !closes,
        length: length + body,
    })
}

fn body_length(word: &[u8]) -> Result<usize, Refusal> {
    let digits = std::str::from_utf8(word).ok().filter(|word| word.bytes().all(|byte| byte.is_ascii_digit()));
    match digits.filter(|digits| !digits.is_empty()).map(str::parse) {
        None => Err(Refusal::Malformed),
        Some(Ok(length)) if length <= LONGEST_BODY => Ok(length),
        // A number that does not fit is too large as well.
        Some(_) => Err(Refusal::TooLarge),
    }
}

fn bearer(value: &[u8]) -> Option<Vec<u8>> {
    let (scheme, token) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii().to_vec())
}

/// Is this the origin of our own page, by the host name that the client uses for us?
fn is_origin(origin: &[u8], host: Option<&[u8]>) -> bool {
    let ours = [&b"http://"[..], b"https://"].iter().find_map(|scheme| origin.strip_prefix(*scheme));
    ours.zip(host).is_some_and(|(ours, host)| ours.eq_ignore_ascii_case(host.trim_ascii()))
}

/// The items of header fields that hold lists.
fn tokens<'a>(values: impl Iterator<Item = &'a [u8]>) -> impl Iterator<Item = &'a str> {
    values
        .filter_map(|value| std::str::from_utf8(value).ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
}

/// Splits the target, `/path` or `http://host/path`, into the host, if any, and the rest.
fn split_target(target: &str) -> Result<(Option<&str>, &str), Refusal> {
    if target.starts_with('/') {
        return Ok((None, target));
    }
    let scheme = target.get(..7).filter(|scheme| scheme.eq_ignore_ascii_case("http://"));
    let rest = scheme.and_then(|_| target.get(7..)).ok_or(Refusal::Malformed)?;
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    // A query without a path has no meaning here.
    Ok((Some(authority), if path.starts_with('/') { path } else { "/" }))
}

/// Is this a host that only we can be called by: an address, localhost, or the name that we were given? This
/// stops DNS rebinding: a browser that shows a page of another site sends the name of that site, whatever
/// address it has.
fn is_ours(host: &[u8], name: Option<&str>) -> bool {
    let Ok(host) = std::str::from_utf8(host) else { return false };
    let host = host.trim();
    if let Some(rest) = host.strip_prefix('[') {
        let Some((inside, port)) = rest.split_once(']') else { return false };
        return is_port(port) && is_ipv6(inside);
    }
    let (bare, port) = host.find(':').map_or((host, ""), |at| host.split_at(at));
    let bare = bare.strip_suffix('.').unwrap_or(bare);
    let is_named = |name: &str| bare.eq_ignore_ascii_case(name.strip_suffix('.').unwrap_or(name));
    is_port(port) && (bare.parse::<IpAddr>().is_ok() || is_named("localhost") || name.is_some_and(is_named))
}

fn is_port(word: &str) -> bool {
    word.is_empty() || word.strip_prefix(':').is_some_and(|port| port.bytes().all(|b| b.is_ascii_digit()))
}

/// Is this an IPv6 address, with or without a zone?
fn is_ipv6(word: &str) -> bool {
    word.split('%').next().is_some_and(|address| address.parse::<Ipv6Addr>().is_ok())
}

/// Decodes percent-encoding: `%41` is `A`.
fn decoded(path: &str) -> Result<String, Refusal> {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || rest.next().and_then(|digit| char::from(digit).to_digit(16));
        let (Some(high), Some(low)) = (digit(), digit()) else { return Err(Refusal::Malformed) };
        bytes.push(u8::try_from(high * 16 + low).map_err(|_| Refusal::Malformed)?);
    }
    String::from_utf8(bytes).map_err(|_| Refusal::Malformed)
}

/// One element of an `Accept` header.
struct MediaRange<'a> {
    /// Type and subtype in lower case.
    kind: String,
    /// How much the client prefers it, from 0 ("not acceptable") to 1 (RFC 9110, 12.4.2).
    weight: f32,
    version: Option<&'a str>,
}

fn media_ranges<'a>(accept: impl Iterator<Item = &'a [u8]>) -> impl Iterator<Item = MediaRange<'a>> {
    tokens(accept).map(|one| {
        let mut parts = one.split(';').map(str::trim);
        let kind = parts.next().unwrap_or_default().to_ascii_lowercase();
        let parts: Vec<(&str, &str)> = parts.filter_map(|part| part.split_once('=')).collect();
        let value = |wanted: &str| {
            parts
                .iter()
                .find(|(name, _)| name.trim().eq_ignore_ascii_case(wanted))
                .map(|(_, value)| value.trim())
        };
        MediaRange {
            kind,
            weight: value("q").map_or(1.0, |q| q.parse().unwrap_or(0.0)),
            version: value("version").map(|version| version.trim_matches('"')),
        }
    })
}

/// Does the client name JSON as acceptable?
fn wants_json<'a>(accept: impl Iterator<Item = &'a [u8]>) -> bool {
    media_ranges(accept).any(|range| range.kind == "application/json" && range.weight > 0.0)
}

/// Does the client accept OpenMetrics 1.0, and prefer no other format? A client that does not say gets the
/// older text format.
fn wants_openmetrics<'a>(accept: impl Iterator<Item = &'a [u8]>) -> bool {
    let (mut open, mut text) = (0.0_f32, 0.0_f32);
    for range in media_ranges(accept) {
        match range.kind.as_str() {
            "application/openmetrics-text" if range.version.is_none_or(|version| version == "1.0.0") => {
                open = open.max(range.weight);
            }
            "text/plain" if range.version.is_none_or(|version| version == "0.0.4") => {
                text = text.max(range.weight);
            }
            _ => {}
        }
    }
    open > 0.0 && open >= text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(head: &str) -> Request {
        match parse(head.as_bytes(), Some("lb.example.org")) {
            Parsed::Whole(request) => request,
            other => panic!("{other:?} is {head:?}"),
        }
    }

    fn refused(head: &str) -> Refusal {
        match parse(head.as_bytes(), Some("lb.example.org")) {
            Parsed::Refused(refusal) => refusal,
            other => panic!("{other:?} is {head:?}"),
        }
    }

    #[test]
    fn a_path_is_what_it_decodes_to_without_its_query() {
        for (target, path) in [
            ("/metrics", "/metrics"),
            ("/metrics?x", "/metrics"),
            ("/metrics?x=/healthz", "/metrics"),
            ("//metrics", "//metrics"),
            ("/%6detrics", "/metrics"),
            ("/readyz/%5B%3A%3A%5D%3A80", "/readyz/[::]:80"),
            ("/a%3Fb", "/a?b"),
            ("/%2e%2e/x", "/../x"),
            ("http://127.0.0.1:9100/metrics", "/metrics"),
            ("HTTP://localhost/metrics?x", "/metrics"),
            ("http://127.0.0.1", "/"),
            ("http://127.0.0.1?x", "/"),
        ] {
            assert_eq!(
                whole(&format!("GET {target} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")).path,
                path,
                "{target}"
            );
        }
        for target in ["metrics", "*", "/%", "/%4", "/%zz", "/%ff", "ftp://127.0.0.1/", "http:/x", "é"] {
            let head = format!("GET {target} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n");
            assert_eq!(refused(&head), Refusal::Malformed, "{target}");
        }
    }

    #[test]
    fn only_a_host_that_is_ours_is_answered() {
        for host in [
            "127.0.0.1",
            "127.0.0.1:9100",
            "10.1.2.3:80",
            "[::1]:9100",
            "[::1]",
            "[fe80::1%eth0]:9100",
            "localhost",
            "LocalHost:9100",
            "localhost.",
            "lb.example.org",
            "LB.example.org.:9100",
        ] {
            whole(&format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        }
        for host in [
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "example.org",
            "x.lb.example.org",
            "",
            ":80",
            "127.0.0.1:80:90",
            "127.0.0.1@evil",
            "[::1",
            "[::1]x",
            "::1",
            "2130706433",
        ] {
            let head = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
            assert_eq!(refused(&head), Refusal::OtherHost, "{host:?}");
            let absolute = format!("GET http://{host}/ HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n");
            let refusal = refused(&absolute);
            assert!(matches!(refusal, Refusal::OtherHost | Refusal::Malformed), "{host:?}: {refusal:?}");
        }
        assert_eq!(
            refused("GET http://127.0.0.1/ HTTP/1.1\r\nHost: evil.example\r\n\r\n"),
            Refusal::OtherHost
        );
    }

    #[test]
    fn what_is_ambiguous_or_no_request_is_refused() {
        for (head, refusal) in [
            ("GET / HTTP/1.1\r\n\r\n", Refusal::Malformed),
            ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", Refusal::Malformed),
            ("GET / HTTP/1.0\r\nHost: ::1\r\nHost: ::1\r\n\r\n", Refusal::Malformed),
            ("GET /\r\n\r\n", Refusal::Malformed),
            ("GET / HTTP/2.0\r\n\r\n", Refusal::Version),
            ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Refusal::Version),
            ("POST / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", Refusal::Method),
            ("get / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", Refusal::Method),
            ("PUT /command HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", Refusal::OnlyPost),
            ("HEAD /api/v1/command HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", Refusal::OnlyPost),
            ("\x16\x03\x01\x02\x00\x01", Refusal::Malformed),
            ("GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n folded: x\r\n\r\n", Refusal::Malformed),
            ("GET / HTTP/1.1\r\nHost : 127.0.0.1\r\n\r\n", Refusal::Malformed),
        ] {
            assert_eq!(refused(head), refusal, "{head:?}");
        }
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(MOST_LINES + 1));
        assert_eq!(refused(&many), Refusal::TooLong);
        assert_eq!(refused(&format!("GET /{} HTTP/1.1\r\n", "x".repeat(LONGEST))), Refusal::TooLong);
    }

    #[test]
    fn a_head_in_any_pieces_is_the_same_head() {
        let head = b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: */*\r\n\r\nGET";
        let length = head.len() - 3;
        for end in 0..length {
            assert_eq!(parse(&head[..end], None), Parsed::Partial, "{end}");
        }
        for end in length..=head.len() {
            let Parsed::Whole(request) = parse(&head[..end], None) else { panic!("it is whole at {end}") };
            assert_eq!((request.length, request.keeps, request.is_head_only), (length, true, false));
        }
    }

    #[test]
    fn a_body_that_is_held_back_is_asked_for_once_its_head_is_whole() {
        let head = |version: &str| {
            format!(
                "POST /command HTTP/{version}\r\nHost: [::1]\r\nExpect: 100-Continue\r\nContent-Length: 2\r\n\r\n"
            )
        };
        for (version, is_awaited) in [("1.1", true), ("1.0", false)] {
            let head = head(version);
            for end in 0..head.len() {
                assert_eq!(parse(&head.as_bytes()[..end], None), Parsed::Partial, "{end}");
            }
            assert_eq!(parse(head.as_bytes(), None), Parsed::Bodiless(is_awaited));
            assert_eq!(parse(format!("{head}a").as_bytes(), None), Parsed::Bodiless(false));
            assert!(matches!(parse(format!("{head}ab").as_bytes(), None), Parsed::Whole(_)));
        }
    }

    #[test]
    fn a_connection_is_used_again_only_where_nothing_is_in_doubt() {
        for (lines, keeps) in [
            ("HTTP/1.1\r\nHost: ::1", None),
            ("HTTP/1.1\r\nHost: [::1]", Some(true)),
            ("HTTP/1.1\r\nHost: [::1]\r\nConnection: close", Some(false)),
            ("HTTP/1.1\r\nHost: [::1]\r\nConnection: x, Close", Some(false)),
            ("HTTP/1.1\r\nHost: [::1]\r\nContent-Length: 0", Some(true)),
            ("HTTP/1.1\r\nHost: [::1]\r\nContent-Length: 5", Some(false)),
            ("HTTP/1.1\r\nHost: [::1]\r\nTransfer-Encoding: chunked", Some(false)),
            ("HTTP/1.0", Some(false)),
            ("HTTP/1.0\r\nConnection: keep-alive", Some(false)),
        ] {
            let head = format!("HEAD / {lines}\r\n\r\n");
            let found = match parse(head.as_bytes(), None) {
                Parsed::Whole(request) => Some(request.keeps),
                _ => None,
            };
            assert_eq!(found, keeps, "{lines}");
        }
    }

    #[test]
    fn openmetrics_is_for_those_who_ask_for_it() {
        let prometheus = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
                          text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        let newer = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
                     application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,\
                     text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        for (accept, wants) in [
            (prometheus, true),
            (newer, true),
            ("application/openmetrics-text", true),
            ("Application/OpenMetrics-Text; Version=\"1.0.0\"", true),
            ("application/openmetrics-text; version=2.0.0", false),
            ("application/openmetrics-text;q=0", false),
            ("application/openmetrics-text;q=x", false),
            ("text/plain, application/openmetrics-text;q=0.9", false),
            ("*/*", false),
            ("text/html,*/*;q=0.8", false),
            ("", false),
        ] {
            let head = format!("GET / HTTP/1.0\r\nAccept: {accept}\r\n\r\n");
            assert_eq!(whole(&head).wants_openmetrics, wants, "{accept}");
        }
    }

    #[test]
    fn json_is_for_those_who_ask_for_it() {
        for (accept, wants) in [
            ("application/json", true),
            ("Application/JSON; charset=utf-8", true),
            ("text/html, application/json;q=0.1", true),
            ("application/json;q=0", false),
            ("application/json; Q=0.0", false),
            ("application/jsonl", false),
            ("*/*", false),
        ] {
            let head = format!("GET / HTTP/1.0\r\nAccept: {accept}\r\n\r\n");
            assert_eq!(whole(&head).wants_json, wants, "{accept}");
        }
    }
}
