//! What is asked of the process, whatever services it has.
//!
//! Knows: its settings. Never: services, how a setting is carried out.

use std::net::SocketAddr;
use std::num::{NonZeroU16, NonZeroUsize};
use std::time::Duration;

use super::Typed;

/// A word that names something of the system, such as a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// What it is called.
    pub name: String,
    /// The word, for messages.
    pub typed: Typed,
}

impl From<&str> for Named {
    fn from(name: &str) -> Self {
        Self { name: name.to_owned(), typed: Typed::default() }
    }
}

/// Where the process answers HTTP. Not resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpSpec {
    /// The name or address, without brackets. `None`: loopback, since only a port was given.
    pub host: Option<String>,
    /// The port.
    pub port: NonZeroU16,
    /// The word, for messages.
    pub typed: Typed,
}

/// Where a line for each connection goes, what it looks like, and when it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessLogSpec {
    /// `--access-log`. The name is a path if it stands for nothing else.
    pub target: Named,
    /// `--access-log-format`.
    pub format: LineFormat,
    /// `--access-log-at`.
    pub moments: LogMoments,
}

/// What a line of the access log looks like.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LineFormat {
    /// `key=value key=value`.
    #[default]
    Text,
    /// An object of JSON.
    Json,
}

/// When the access log has a line of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogMoments {
    /// When it has got its channel.
    pub start: bool,
    /// When it has ended.
    pub end: bool,
    /// Each time that it has gone on for so long. `None`: never.
    pub every: Option<Duration>,
}

impl Default for LogMoments {
    fn default() -> Self {
        Self { start: false, end: true, every: None }
    }
}

impl AccessLogSpec {
    /// The word for syslog.
    pub const SYSLOG: &'static str = "syslog";
    /// The word for standard output.
    pub const STDOUT: &'static str = "-";
}

/// The settings that all services of a process share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessSpec {
    /// `-f`.
    pub foreground: bool,
    /// `-d`.
    pub debug: bool,
    /// `--log-time`: lines on stderr begin with the time.
    pub log_time: bool,
    /// `-p`. Only of use with `foreground`; the combination is legal and worth a warning.
    pub dump: bool,
    /// `--control-group`; whether there is such a group is asked later.
    pub control_group: Option<Named>,
    /// `--user`, as it was typed: `NAME[:GROUP]`. Whether there is one is checked later. `None`: the process keeps its user.
    pub user: Option<Named>,
    /// `--landlock`. `None`: with `--user`.
    pub landlock: Option<bool>,
    /// `--workers`, at most 1024. `None`: one per core.
    pub workers: Option<NonZeroUsize>,
    /// `--busy-poll`. `None`: where cores can be spared.
    pub busy_poll: Option<bool>,
    /// `--dns`: the name servers that are asked. None: the system's resolver is.
    pub dns: Vec<SocketAddr>,
    /// `--loopback-congestion`: the congestion control of bulk within this host; whether the system has it is asked later.
    /// `None`: the system's own.
    pub loopback_congestion: Option<Named>,
    /// `--drain-timeout`: how long connections may go on after SIGTERM; 0 = not at all.
    pub drain_timeout: Duration,
    /// `--state`: the file that keeps what operators change, as it was typed. `None`: nothing is kept.
    pub state: Option<Named>,
    /// `--http`: where metrics and probes are answered. `None`: nowhere.
    pub http: Option<HttpSpec>,
    /// `--http-token-file`: the file with the token for commands by HTTP, as it was typed. `None`: no commands by HTTP.
    pub http_token_file: Option<Named>,
    /// `--access-log`. `None`: there is none.
    pub access_log: Option<Named>,
    /// `--access-log-format`.
    pub log_format: LineFormat,
    /// `--access-log-at`.
    pub log_at: LogMoments,
}

impl ProcessSpec {
    /// The default of `--drain-timeout`.
    pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);

    /// Is the process to open no files but those that it needs?
    pub fn is_fenced(&self) -> bool {
        self.landlock.unwrap_or(self.user.is_some())
    }

    /// All of the access log, if there is to be one.
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
