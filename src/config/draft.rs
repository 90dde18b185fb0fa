//! The settings of one line while its options are read, before they are judged together. All defaults are
//! here.
//!
//! Knows: defaults and their reasons. Never: words, names of options.
//! Source: docs/compatibility.md, "Command line".

use std::num::NonZeroU16;
use std::path::PathBuf;
use std::time::Duration;

use super::policy::PolicyWord;
use crate::spec::{
    ChannelCheck, Check, CheckSpec, ClientPrefix, HostSpec, ListenHost, ListenSpec, Member, OnDown, Policy,
    PortWord, PortsSpec, ProcessSpec, ProxyTlvs, ServiceSpec, Typed,
};

/// Long enough for one or two retransmissions of a SYN. The original `balance` has the same default.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Many DNS records have a time to live of about this; a new address is found soon.
const RESOLVE: Duration = Duration::from_secs(30);
/// A peer that vanished after the other side had closed must not keep its slot for ever.
const HALF_CLOSE_TIMEOUT: Duration = Duration::from_secs(600);
/// How long a client waits for a full channel: as long as a connect may take.
const QUEUE_TIMEOUT: Duration = Duration::from_secs(5);
/// A PROXY header or a first request comes with the connection; this allows for two retransmissions of a lost
/// segment.
const GREETING_TIMEOUT: Duration = Duration::from_secs(3);
const PAUSE_TIMEOUT: Duration = Duration::from_secs(60);
/// The defaults of the options that go with `--check`. Rise: one success may be luck. Fall: one lost packet
/// must not disable a channel, and a retransmission may be late twice.
pub const CHECK_DEFAULTS: CheckSpec = CheckSpec {
    check: None,
    typed: Typed { text: String::new(), at: None },
    interval: Duration::from_secs(2),
    timeout: Duration::from_secs(1),
    rise: 2,
    fall: 3,
    port: None,
};

/// The settings of a line.
#[derive(Debug, Clone)]
pub(super) struct Draft {
    pub(super) process: ProcessSpec,
    /// The service, except for what the other fields hold: its listen address, the policies of its groups,
    /// its check.
    pub(super) service: ServiceSpec,
    pub(super) bind: Option<HostSpec>,
    pub(super) ipv6: bool,
    /// Whether names (`@NAME`) are among its channels.
    pub(super) has_names: bool,
    pub(super) policy: PolicyWord,
    /// The value of `--check`. `None`: not given.
    pub(super) check: Option<Check>,
    /// The options that go with `--check`; its field `check` is not used.
    pub(super) probe: CheckSpec,
    pub(super) ask: Ask,
}

/// What the command line asks for instead of serving.
#[derive(Debug, Clone, Default)]
pub(super) struct Ask {
    pub(super) command: Option<String>,
    pub(super) interactive: bool,
    pub(super) help: bool,
    pub(super) version: bool,
    pub(super) man: bool,
    pub(super) completions: Option<Shell>,
    /// The values of `--file`, in order.
    pub(super) files: Vec<PathBuf>,
    pub(super) check_only: bool,
    pub(super) replace: bool,
    pub(super) list: bool,
}

/// A shell that `--completions` can write completions for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shell {
    Bash,
    Zsh,
    Fish,
}

impl Draft {
    /// A port for drafts whose port is never used.
    pub(super) const ANY_PORT: PortsSpec = PortsSpec::One(PortWord::Number(NonZeroU16::MIN));

    /// The settings of a line that has a port and nothing else.
    pub(super) fn new(ports: PortsSpec, typed: Typed) -> Self {
        Self {
            process: ProcessSpec::default(),
            service: ServiceSpec {
                name: None,
                listen: ListenSpec { host: ListenHost::AnyV4, ports, typed },
                groups: Vec::new(),
                sections: Vec::new(),
                sources: Vec::new(),
                transparent: false,
                connect_timeout: CONNECT_TIMEOUT,
                race: None,
                first_byte: None,
                resolve: Some(RESOLVE),
                idle_timeout: None,
                half_close_timeout: Some(HALF_CLOSE_TIMEOUT),
                autodisable: false,
                hash_failover: false,
                client_keepalive: None,
                server_keepalive: None,
                proxy_tlvs: ProxyTlvs::default(),
                later_policy: Policy::RoundRobin,
                hash_balance: None,
                slow_start: None,
                eject: true,
                check: None,
                fail_open: true,
                on_down: OnDown::Keep,
                on_remove: OnDown::Keep,
                on_change: None,
                refuse_when_down: false,
                freebind: false,
                socket_mode: None,
                socket_group: None,
                allow: None,
                deny: None,
                client_max: None,
                client_rate: None,
                client_prefix: ClientPrefix::default(),
                max_connections: None,
                queue: None,
                queue_timeout: QUEUE_TIMEOUT,
                pause_timeout: PAUSE_TIMEOUT,
                accept_proxy: None,
                starttls: None,
                greeting_timeout: GREETING_TIMEOUT,
                max_lifetime: None,
            },
            bind: None,
            ipv6: false,
            has_names: false,
            policy: PolicyWord::All(Policy::RoundRobin),
            check: None,
            probe: CHECK_DEFAULTS,
            ask: Ask::default(),
        }
    }

    /// The draft that a line for this service would be read into.
    pub(super) fn of(service: ServiceSpec) -> Self {
        let plain = Self::new(service.listen.ports.clone(), Typed::default());
        let (bind, ipv6) = match service.listen.host.clone() {
            ListenHost::AnyV4 => (None, false),
            ListenHost::AnyV6 => (None, true),
            ListenHost::Host(host) => (Some(host), false),
        };
        let mut draft = Self {
            bind,
            ipv6,
            has_names: !service.sections.is_empty(),
            policy: PolicyWord::of(&service.groups, service.later_policy),
            check: service.check.as_ref().and_then(|check| check.check.clone()),
            probe: service.check.clone().unwrap_or(CHECK_DEFAULTS),
            service,
            ..plain
        };
        draft.forget_idle_settings();
        draft
    }

    /// The process and the service that the line asks for, except for the groups and their policies.
    pub(super) fn settle(mut self) -> (ProcessSpec, ServiceSpec) {
        self.forget_idle_settings();
        let host = match (self.bind, self.ipv6) {
            (Some(host), _) => ListenHost::Host(host),
            (None, true) => ListenHost::AnyV6,
            (None, false) => ListenHost::AnyV4,
        };
        let listen = ListenSpec { host, ..self.service.listen };
        let check =
            Some(CheckSpec { check: self.check, ..self.probe }).filter(|check| *check != CHECK_DEFAULTS);
        (self.process, ServiceSpec { listen, check, ..self.service })
    }

    /// Whether any channel of the line is checked.
    pub(super) fn is_checked(&self) -> bool {
        let has_own = |member: &Member| match member {
            Member::Channel(channel) => matches!(channel.manner.check, ChannelCheck::Own(_)),
            Member::Gap => false,
        };
        self.check.is_some() || self.service.groups.iter().flat_map(|group| &group.members).any(has_own)
    }

    /// Whether a client of some group is given another channel there if its first one does not answer.
    pub(super) fn has_next_channels(&self) -> bool {
        let groups = &self.service.groups;
        let hashes = |policy: Policy| policy == Policy::Hash;
        let all_hash = match groups.is_empty() {
            true => hashes(self.service.later_policy),
            false => groups.iter().all(|group| hashes(group.policy)),
        };
        self.service.hash_failover || !all_hash
    }

    /// Whether the service listens on a Unix socket.
    pub(super) fn is_unix(&self) -> bool {
        self.service.listen.ports.unix().is_some()
    }

    /// Whether its clients can have IP addresses: on a Unix socket only those that a PROXY header names.
    pub(super) fn has_addresses(&self) -> bool {
        !self.is_unix() || self.service.accept_proxy.is_some()
    }

    /// Whether any of the senders of `--accept-proxy` can connect to the service.
    pub(super) fn hears_senders(&self) -> bool {
        self.service.accept_proxy.as_ref().is_none_or(|senders| senders.can_come(self.is_unix()))
    }

    /// Sets each option that has no effect beside the others back to its default.
    fn forget_idle_settings(&mut self) {
        let (is_unix, hears_senders) = (self.is_unix(), self.hears_senders());
        let service = &mut self.service;
        if !hears_senders {
            service.accept_proxy = None;
        }
        if is_unix {
            (self.bind, self.ipv6) = (None, false);
            (service.freebind, service.refuse_when_down, service.client_keepalive) = (false, false, None);
            if service.accept_proxy.is_none() {
                (service.allow, service.deny, service.transparent) = (None, None, false);
            }
        } else {
            (service.socket_mode, service.socket_group) = (None, None);
        }
        if self.service.queue.is_none() {
            self.service.queue_timeout = QUEUE_TIMEOUT;
        }
        if self.service.accept_proxy.is_none() && self.service.sections.is_empty() {
            self.service.greeting_timeout = GREETING_TIMEOUT;
        }
        if self.service.sections.is_empty() {
            self.service.starttls = None;
        }
        if self.service.client_max.is_none() && self.service.client_rate.is_none() {
            self.service.client_prefix = ClientPrefix::default();
        }
        if !self.is_checked() {
            (self.probe, self.service.on_down) = (CHECK_DEFAULTS, OnDown::Keep);
        }
    }
}
