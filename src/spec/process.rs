//! Settings of the process, which all its services share.
//!
//! Knows: these settings. Never: services, how a setting is carried out.

use std::net::SocketAddr;
use std::num::{NonZeroU16, NonZeroUsize};
use std::time::Duration;

use super::Typed;

/// A word that names something in the system, such as a group or a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// The name.
    pub name: String,
    /// The word as typed, for messages.
    pub typed: Typed,
}

impl From<&str> for Named {
    fn from(name: &str) -> Self {
        Self { name: name.to_owned(), typed: Typed::default() }
    }
}

/// The address and port that the process serves HTTP on. Not resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpSpec {
    /// The host name, or the address without brackets. `None`: only a port was given, and the address is
    /// loopback.
    pub host: Option<String>,
    /// The port.
    pub port: NonZeroU16,
    /// The word as typed, for messages.
    pub typed: Typed,
}

/// Where the access log goes, what its lines look like, and when they are written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessLogSpec {
    /// `--access-log`. The name is a path unless it is [`SYSLOG`](Self::SYSLOG) or [`STDOUT`](Self::STDOUT).
    pub target: Named,
    /// `--access-log-format`.
    pub format: LineFormat,
    /// `--access-log-at`.
    pub moments: LogMoments,
}

/// The format of a line in the access log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LineFormat {
    /// `key=value key=value`.
    #[default]
    Text,
    /// A JSON object.
    Json,
}

/// At which moments a connection gets a line in the access log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogMoments {
    /// When its channel has been chosen and connected.
    pub start: bool,
    /// When it has ended.
    pub end: bool,
    /// Again after each such period while it goes on. `None`: never.
    pub every: Option<Duration>,
}

impl Default for LogMoments {
    fn default() -> Self {
        Self { start: false, end: true, every: None }
    }
}

impl AccessLogSpec {
    /// The name that stands for syslog.
    pub const SYSLOG: &'static str = "syslog";
    /// The name that stands for standard output.
    pub const STDOUT: &'static str = "-";
}

/// The settings that all services of a process share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessSpec {
    /// `-f`: stay in the foreground.
    pub foreground: bool,
    /// `-d`: log debug messages.
    pub debug: bool,
    /// `--log-time`: lines on stderr begin with the time.
    pub log_time: bool,
    /// `-p`: print the traffic. It works only with `foreground`; without it, the option is legal and causes a
    /// warning.
    pub dump: bool,
    /// `--control-group`. Whether the group exists is checked later.
    pub control_group: Option<Named>,
    /// `--user`, as it was typed: `NAME[:GROUP]`. Whether the user exists is checked later. `None`: the
    /// process keeps its user.
    pub user: Option<Named>,
    /// `--landlock`. `None`: on if `--user` is given.
    pub landlock: Option<bool>,
    /// `--workers`, at most 1024. `None`: one per core.
    pub workers: Option<NonZeroUsize>,
    /// `--busy-poll`. `None`: on where there are cores to spare.
    pub busy_poll: Option<bool>,
    /// `--dns`: the name servers to ask. Empty: the system's resolver is used.
    pub dns: Vec<SocketAddr>,
    /// `--loopback-congestion`: the congestion control algorithm for bulk data within this host. Whether the
    /// system has it is checked later. `None`: the system's default.
    pub loopback_congestion: Option<Named>,
    /// `--drain-timeout`: how long connections may go on after SIGTERM; 0 means they are closed at once.
    pub drain_timeout: Duration,
    /// `--state`: the file that keeps operators' changes, as it was typed. `None`: changes are not kept.
    pub state: Option<Named>,
    /// `--http`: where metrics and probes are served. `None`: nowhere.
    pub http: Option<HttpSpec>,
    /// `--http-token-file`: the file with the token that permits commands by HTTP, as it was typed. `None`:
    /// HTTP accepts no commands.
    pub http_token_file: Option<Named>,
    /// `--access-log`. `None`: no access log.
    pub access_log: Option<Named>,
    /// `--access-log-format`.
    pub log_format: LineFormat,
    /// `--access-log-at`.
    pub log_at: LogMoments,
}

impl ProcessSpec {
    /// The default of `--drain-timeout`.
    pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);

    /// Is Landlock to limit the process to the files that it needs?
    pub fn is_fenced(&self) -> bool {
        self.landlock.unwrap_or(self.user.is_some())
    }

    /// All settings of the access log; `None` if there is none.
    pub fn access(&self) -> Option<AccessLogSpec> {
        let target = self.access_log.clone()?;
        Some(AccessLogSpec { target, format: self.log_format, moments: self.log_at })
    }
}

impl Default for ProcessSpec {
    fn default() -> Self {
        Self {
            foreground: false,
            debug: false,
            log_time: false,
            dump: false,
            control_group: None,
            user: None,
            landlock: None,
            workers: None,
            busy_poll: None,
            dns: Vec::new(),
            loopback_congestion: None,
            drain_timeout: Self::DRAIN_TIMEOUT,
            state: None,
            http: None,
            http_token_file: None,
            access_log: None,
            log_format: LineFormat::default(),
            log_at: LogMoments::default(),
        }
    }
}
