//! An HTTP answer as bytes.
//!
//! Knows: status lines, the header fields that every answer has. Never: sockets, what was asked.
//! Source: docs/observability.md, "Metrics and probes by HTTP".

use std::time::{Duration, SystemTime};

use super::head::Refusal;

/// The media type of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MediaType {
    /// Text for people and scripts.
    Plain,
    /// The Prometheus text format.
    Prometheus,
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// JSON for programs.
    Json,
    /// The HTML page.
    Html,
    /// The style of the page.
    Css,
    /// The script of the page.
    JavaScript,
    /// The icon of the page.
    Svg,
}

impl MediaType {
    fn name(self) -> &'static str {
        match self {
            Self::Plain => "text/plain; charset=utf-8",
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Json => "application/json",
            Self::Html => "text/html; charset=utf-8",
            Self::Css => "text/css; charset=utf-8",
            Self::JavaScript => "text/javascript; charset=utf-8",
            Self::Svg => "image/svg+xml",
        }
    }

    /// The Content-Security-Policy: what a browser may load for it. That is nothing, or for the page only
    /// files of this server.
    fn policy(self) -> &'static str {
        match self {
            Self::Html => {
                "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; \
                 form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
            }
            _ => "default-src 'none'; frame-ancestors 'none'",
        }
    }
}

/// The answer to one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    status: u16,
    content: MediaType,
    body: String,
    /// The exit code of a command; `None`: it answers no command.
    exit: Option<u8>,
    /// Whether the path takes only POST.
    is_for_post: bool,
}

impl Answer {
    pub(crate) fn new(status: u16, content: MediaType, body: impl Into<String>) -> Self {
        Self { status, content, body: body.into(), exit: None, is_for_post: false }
    }

    /// The same answer with the exit code of a command.
    pub(crate) fn ended(self, code: u8) -> Self {
        Self { exit: Some(code), ..self }
    }

    /// An answer of plain text.
    pub(crate) fn plain(status: u16, body: impl Into<String>) -> Self {
        Self::new(status, MediaType::Plain, body)
    }

    /// The answer to a request that is refused.
    pub(crate) fn of(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Malformed => {
                Self::plain(400, "this is not an HTTP/1.1 request that balance understands\n")
            }
            Refusal::TooLong => Self::plain(431, "the head of the request is too long\n"),
            Refusal::Method => Self::plain(405, "only GET and HEAD are served here\n"),
            Refusal::OnlyPost => Self { is_for_post: true, ..Self::plain(405, "only POST is served here\n") },
            Refusal::NoLength => Self::plain(411, "give the length of the body in Content-Length\n"),
            Refusal::TooLarge => Self::plain(413, "the body is too long\n"),
            Refusal::Version => Self::plain(505, "only HTTP/1.0 and HTTP/1.1 are supported here\n"),
            Refusal::OtherHost => Self::plain(
                421,
                "balance does not answer for this host; use an address, localhost, or the name given with --http\n",
            ),
        }
    }

    /// The whole answer. `is_head_only`: without the body. `keeps`: the connection may be used again.
    pub(crate) fn bytes(&self, now: SystemTime, is_head_only: bool, keeps: bool) -> Vec<u8> {
        let (kind, policy) = (self.content.name(), self.content.policy());
        let more = match (self.status, self.is_for_post) {
            (405, true) => "Allow: POST\r\n",
            (405, false) => "Allow: GET, HEAD\r\n",
            (401, _) => "WWW-Authenticate: Bearer realm=\"balance\"\r\n",
            _ => "",
        };
        let exit = self.exit.map_or_else(String::new, |code| format!("Balance-Exit-Code: {code}\r\n"));
        let connection = if keeps { "keep-alive" } else { "close" };
        let mut bytes = format!(
            "HTTP/1.1 {} {}\r\nDate: {}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n{more}{exit}\
             Cache-Control: no-store\r\nVary: Accept\r\nX-Content-Type-Options: nosniff\r\n\
             X-Frame-Options: DENY\r\nReferrer-Policy: same-origin\r\nCross-Origin-Resource-Policy: same-origin\r\n\
             Content-Security-Policy: {policy}\r\nConnection: {connection}\r\n\r\n",
            self.status,
            reason(self.status),
            date(now),
            self.body.len()
        )
        .into_bytes();
        if !is_head_only {
            bytes.extend_from_slice(self.body.as_bytes());
        }
        bytes
    }

    /// Length of the body in bytes.
    pub(crate) fn size(&self) -> usize {
        self.body.len()
    }
}

/// The time in the format of HTTP. A time before 1970 or after the year 9999 becomes the nearest possible
/// one.
fn date(now: SystemTime) -> String {
    const LAST: Duration = Duration::from_secs(253_402_300_799);
    let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().min(LAST);
    httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + since)
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        411 => "Length Required",
        413 => "Content Too Large",
        421 => "Misdirected Request",
        431 => "Request Header Fields Too Large",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        _ => "Internal Server Error",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_clock_has_a_date() {
        let (hour, epoch) = (Duration::from_secs(3_600), SystemTime::UNIX_EPOCH);
        assert_eq!(date(epoch - hour), "Thu, 01 Jan 1970 00:00:00 GMT");
        assert_eq!(date(epoch + hour), "Thu, 01 Jan 1970 01:00:00 GMT");
        assert_eq!(date(epoch + Duration::from_secs(1 << 40)), "Fri, 31 Dec 9999 23:59:59 GMT");
    }
}
