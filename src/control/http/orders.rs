//! Commands by HTTP: who may give them, and which.
//!
//! Knows: the token, the commands that are for HTTP. Never: how a request or an answer looks on the wire.
//! Source: docs/observability.md, "Commands by HTTP".

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::Weak;

use rustix::fs::OFlags;

use super::head::PostedBody;
use super::question::pairs;
use crate::control::command::{self, COMMANDS, Command, CommandWord, SyntaxError};
use crate::control::render::LONGER_FORMS;
use crate::control::services::{Services, Unclear};
use crate::control::socket::Control;
use crate::control::wire::printable;
use crate::observe::{Event, Owner};
use crate::sched::GroupId;

/// Minimum length of a token in bytes: a shorter one could be guessed.
const SHORTEST: usize = 16;
const LONGEST: usize = 1024;
/// Exit code of a syntax error (sysexits: `EX_USAGE`).
const USAGE: u8 = 64;
/// Exit code of other errors in a request (`EX_DATAERR`).
const DATA: u8 = 65;
/// Exit code if it may work later (`EX_TEMPFAIL`).
const AGAIN: u8 = 75;
/// Exit code if it is not allowed (`EX_NOPERM`).
const NOT_ALLOWED: u8 = 77;

/// How commands are carried out, and who may give them.
#[derive(Debug)]
pub struct OrderParts {
    /// The file with the token.
    pub token_file: TokenFile,
    /// What carries commands out; `None`: commands cannot be carried out.
    pub control: Option<Weak<Control>>,
}

/// The path of the file that holds the token.
#[derive(Debug)]
pub struct TokenFile(PathBuf);

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The system does not let us read the file.
    #[error("cannot read it: {0}")]
    Unreadable(#[from] io::Error),
    /// The file holds something else.
    #[error(
        "it does not hold a token: give it {SHORTEST} to {LONGEST} printable ASCII characters without blanks, such as `openssl rand -hex 16` makes"
    )]
    NoToken,
}

impl TokenFile {
    /// The token file at this path.
    pub fn new(path: PathBuf) -> Self {
        Self(path)
    }

    /// Reads the token.
    ///
    /// # Errors
    /// The file cannot be read, or does not hold a token.
    pub fn read(&self) -> Result<Vec<u8>, TokenError> {
        // Opening a pipe would wait for a writer.
        let without_waiting = OFlags::NONBLOCK.bits() as i32;
        let file = OpenOptions::new().read(true).custom_flags(without_waiting).open(&self.0)?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("not a regular file").into());
        }
        let mut bytes = Vec::new();
        file.take(LONGEST as u64 + 8).read_to_end(&mut bytes)?;
        let token = bytes.trim_ascii();
        let is_token = (SHORTEST..=LONGEST).contains(&token.len()) && token.iter().all(u8::is_ascii_graphic);
        if is_token { Ok(token.to_vec()) } else { Err(TokenError::NoToken) }
    }
}

/// A command given by HTTP, with the token of the sender.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct HttpOrder {
    token: Option<Vec<u8>>,
    service: Option<String>,
    group: Option<String>,
    command: Vec<u8>,
}

impl HttpOrder {
    /// Reads `POST /api/v1/command?service=web&group=0` with the command as the body.
    pub(crate) fn of_api(query: &str, posted: &PostedBody) -> Self {
        let value = |wanted: &str| pairs(query).find(|(name, _)| name == wanted).map(|(_, value)| value);
        Self {
            token: posted.bearer.clone(),
            service: value("service").filter(|word| !word.is_empty()),
            group: value("group").filter(|word| !word.is_empty()),
            command: posted.body.trim_ascii().to_vec(),
        }
    }

    /// Reads a form of the page. The token is in the form; a page of another site does not know it.
    pub(crate) fn of_form(body: &[u8]) -> Self {
        let body = String::from_utf8_lossy(body);
        let value = |wanted: &str| pairs(&body).find(|(name, _)| name == wanted).map(|(_, value)| value);
        Self {
            token: value("token").map(|token| token.trim().as_bytes().to_vec()),
            service: value("service").filter(|word| !word.is_empty()),
            group: value("group").filter(|word| !word.is_empty()),
            command: value("command").unwrap_or_default().trim().as_bytes().to_vec(),
        }
    }

    /// The command as text that is safe to show.
    pub(crate) fn command_text(&self) -> String {
        printable(&self.command)
    }
}

/// The result of an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OrderOutcome {
    /// The status code of HTTP.
    pub(crate) status: u16,
    /// The exit code that `-c` would have.
    pub(crate) code: u8,
    pub(crate) text: String,
    /// Whether the text is JSON.
    pub(crate) is_json: bool,
}

impl OrderOutcome {
    fn refused(status: u16, code: u8, text: impl Into<String>) -> Self {
        Self { status, code, text: text.into(), is_json: false }
    }
}

/// Carries an order out, if it is allowed.
pub(crate) fn carry_out(
    parts: Option<&OrderParts>,
    services: &Services,
    order: &HttpOrder,
    is_cross_site: bool,
    from: Option<IpAddr>,
) -> OrderOutcome {
    allowed(parts, services, order, is_cross_site, from)
        .and_then(|parts| done(parts, services, order, from))
        .unwrap_or_else(|refused| refused)
}

fn allowed<'a>(
    parts: Option<&'a OrderParts>,
    services: &Services,
    order: &HttpOrder,
    is_cross_site: bool,
    from: Option<IpAddr>,
) -> Result<&'a OrderParts, OrderOutcome> {
    let refused = |status, code, text: &str| Err(OrderOutcome::refused(status, code, text));
    let Some(parts) = parts else {
        return refused(
            403,
            NOT_ALLOWED,
            "HTTP is read-only here; --http-token-file lets operators give commands\n",
        );
    };
    if is_cross_site {
        return refused(403, NOT_ALLOWED, "a page of another site may not give commands\n");
    }
    let token = match parts.token_file.read() {
        Ok(token) => token,
        Err(error) => {
            return refused(503, AGAIN, &format!("no command is taken, --http-token-file: {error}\n"));
        }
    };
    match &order.token {
        None => refused(401, NOT_ALLOWED, "give the token: Authorization: Bearer TOKEN\n"),
        Some(given) if !is_same(given, &token) => {
            if let Some(service) = services.first() {
                let from = from.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
                service.log.of_service(Owner::PROCESS, None).tell(&Event::WrongToken { from });
            }
            refused(401, NOT_ALLOWED, "the token is wrong\n")
        }
        Some(_) => Ok(parts),
    }
}

/// Compares in a time that does not depend on where the two differ.
fn is_same(given: &[u8], token: &[u8]) -> bool {
    let differences = given.iter().zip(token).fold(0, |all, (a, b)| std::hint::black_box(all | (a ^ b)));
    std::hint::black_box(differences) == 0 && given.len() == token.len()
}

fn done(
    parts: &OrderParts,
    services: &Services,
    order: &HttpOrder,
    from: Option<IpAddr>,
) -> Result<OrderOutcome, OrderOutcome> {
    let refused = |status, code, text: &str| OrderOutcome::refused(status, code, text);
    let mut texts = command::split(&order.command);
    let text = match (texts.next(), texts.next()) {
        (Some(text), None) if !text.contains(&b'\n') => text,
        _ => return Err(refused(400, USAGE, "give one command, such as: disable 1\n")),
    };
    let parsed = command::parse(text);
    match &parsed {
        Ok(command) if !is_for_http(command) => {
            let text = "this command is not for HTTP; give it by balance -c on the host itself\n";
            return Err(refused(403, NOT_ALLOWED, text));
        }
        Ok(_) | Err(SyntaxError::Plain | SyntaxError::Usage { .. }) => {}
    }
    let service = match order.service.as_deref() {
        None => services.first().ok_or(Unclear::Unknown),
        Some(word) => services.find_labelled(word),
    };
    let service = service.map_err(|unclear| match unclear {
        Unclear::Unknown => refused(404, DATA, "no such service\n"),
        Unclear::Several(labels) => {
            refused(404, DATA, &format!("several services match: {}\n", labels.join(", ")))
        }
    })?;
    let group = order.group.as_deref().unwrap_or("0").parse().ok().and_then(GroupId::new);
    let group = group.ok_or_else(|| refused(400, DATA, "no such group\n"))?;
    if parsed == Ok(Command::Help) {
        return Ok(OrderOutcome { status: 200, code: 0, text: help(), is_json: false });
    }
    let control = parts.control.as_ref().and_then(Weak::upgrade);
    let control =
        control.ok_or_else(|| refused(503, AGAIN, "balance cannot carry out commands at the moment\n"))?;
    let from = from.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    let (answer, code) = control
        .carry_out(service, group, text, from)
        .map_err(|error| refused(503, AGAIN, &format!("the command was not carried out: {error}\n")))?;
    let status = match code {
        0 => 200,
        USAGE | DATA => 400,
        NOT_ALLOWED => 403,
        _ => 503,
    };
    let text = String::from_utf8_lossy(&answer).into_owned();
    Ok(OrderOutcome { status, code, is_json: text.starts_with('{'), text })
}

/// The names of the commands that HTTP takes, the same as in [`is_for_http`].
const WORDS: &[&str] = &[
    "show",
    "help",
    "disable",
    "enable",
    "maxc",
    "mrtg-bytes",
    "mrtg-conns",
    "version",
    "status",
    "drain",
    "kick",
    "weight",
    "sessions",
    "close",
    "services",
    "pause",
    "resume",
    "events",
    "debug",
    "ready",
    "ended",
    "deny",
    "undeny",
    "denied",
];

/// The answer to `help` by HTTP.
fn help() -> String {
    // By HTTP, `debug` shows the setting but cannot change it.
    let debug = ("debug".to_owned(), "shows whether debug messages are logged");
    let of_row =
        |row: &CommandWord| if row.name == debug.0 { debug.clone() } else { (row.usage(), row.help) };
    let rows = COMMANDS.iter().filter(|row| WORDS.contains(&row.name)).map(of_row);
    let word = |usage: &str| usage.split(' ').next().is_some_and(|word| WORDS.contains(&word));
    let longer = LONGER_FORMS.iter().filter(|(usage, _)| word(usage));
    let longer = longer.map(|&(usage, help)| (usage.to_owned(), help));
    let lines: String = rows.chain(longer).map(|(usage, help)| format!("  {usage:<30} {help}\n")).collect();
    format!("commands that HTTP takes:\n{lines}Give all others by balance -c on the host itself.\n")
}

/// May this command be given by HTTP? These are commands that somebody may need who is not on the host. None
/// of them waits, starts a program, or changes which channels there are.
fn is_for_http(command: &Command) -> bool {
    match command {
        Command::Show(_)
        | Command::Status(_)
        | Command::Help
        | Command::MrtgBytes { .. }
        | Command::MrtgConns { .. }
        | Command::Version
        | Command::Sessions(..)
        | Command::Services(_)
        | Command::Ended(..)
        | Command::Events(..)
        | Command::Ready { .. }
        | Command::Debug(None)
        | Command::Disable { .. }
        | Command::Enable(_)
        | Command::Drain(_)
        | Command::Kick(_)
        | Command::Weight { .. }
        | Command::Maxc { .. }
        | Command::Pause(_)
        | Command::Resume(_)
        | Command::Deny { .. }
        | Command::Undeny { .. }
        | Command::Denied { .. }
        | Command::Close(_) => true,
        Command::Quit
        | Command::Kill(_)
        | Command::Group(_)
        | Command::Reset(_)
        | Command::Create { .. }
        | Command::Assign { .. }
        | Command::SetPolicy(_)
        | Command::Policy(_)
        | Command::Wait { .. }
        | Command::Remove(_)
        | Command::Save
        | Command::Use(_)
        | Command::Reload { .. }
        | Command::Reopen
        | Command::Resolve(_)
        | Command::Upgrade(_)
        | Command::Tap(_)
        | Command::Top
        | Command::Doctor(..)
        | Command::Debug(Some(_)) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[test]
    fn only_the_same_token_is_the_same() {
        let token = b"0123456789abcdef";
        assert!(is_same(token, token));
        for other in [&b""[..], b"0", b"0123456789abcde", b"0123456789abcdef0", b"0123456789abcdeF"] {
            assert!(!is_same(other, token) && !is_same(token, other), "{other:?}");
        }
    }

    #[test]
    fn verbs_that_start_something_or_wait_are_not_for_http() {
        let allowed: Vec<&str> = COMMANDS
            .iter()
            .filter(|row| {
                let with = |arguments: &str| command::parse(format!("{} {arguments}", row.name).as_bytes());
                let found =
                    ["1", "1 1", "all", "", "h 1", "1 h 1", "rr"].iter().find_map(|one| with(one).ok());
                is_for_http(&found.unwrap_or_else(|| panic!("no arguments for {}", row.name)))
            })
            .map(|row| row.name)
            .collect();
        assert_eq!(allowed, WORDS);
        for refused in
            ["debug on", "debug off", "upgrade", "upgrade /bin/sh", "tap 1", "kill 0", "reload clean"]
        {
            let command = command::parse(refused.as_bytes()).expect("a command");
            assert!(!is_for_http(&command), "{refused}");
        }
    }

    #[test]
    fn help_lists_what_http_takes_and_nothing_else() {
        let help = help();
        let usages: Vec<&str> =
            help.lines().filter_map(|line| Some(line.strip_prefix("  ")?.get(..30)?.trim_end())).collect();
        assert_eq!(usages.len(), WORDS.len() + 2, "{help}");
        for usage in &usages {
            assert!(WORDS.contains(&usage.split(' ').next().unwrap_or_default()), "{usage}");
        }
        for there in ["disable <channel> hard", "show json", "debug", "weight <channel> <weight>"] {
            assert!(usages.contains(&there), "{there}: {help}");
        }
    }

    #[test]
    fn a_form_is_read_as_browsers_write_it() {
        let order = HttpOrder::of_form(b"token=a%2Bb+&service=w%C3%A9b&group=&command=disable+1");
        assert_eq!(order.token.as_deref(), Some(&b"a+b"[..]));
        assert_eq!(
            (order.service.as_deref(), order.group, &order.command[..]),
            (Some("wéb"), None, &b"disable 1"[..])
        );
        assert_eq!(HttpOrder::of_form(b"").token, None);
    }

    #[test]
    fn a_token_is_long_and_without_blanks() {
        let scratch = crate::control::scratch::Scratch::new();
        let path = scratch.path().join("token");
        let file = TokenFile::new(path.clone());
        assert!(matches!(file.read(), Err(TokenError::Unreadable(_))));
        for (text, is_token) in [
            ("0123456789abcdef\n", true),
            ("  0123456789abcdef\r\n\n", true),
            (&"x".repeat(LONGEST), true),
            (&"x".repeat(LONGEST + 1), false),
            ("0123456789abcde\n", false),
            ("0123456789 abcdef\n", false),
            ("0123456789abcdef\n0123456789abcdef\n", false),
            ("0123456789abcd\u{e9}f", false),
            ("", false),
        ] {
            std::fs::write(&path, text).expect("written");
            assert_eq!(file.read().is_ok(), is_token, "{text:?}");
        }
        assert!(matches!(TokenFile::new(scratch.path().to_owned()).read(), Err(TokenError::Unreadable(_))));
    }
}
