//! One service: where it listens, how it chooses, its channels.
//!
//! Knows: its settings and their ranges. Never: defaults (`config` has those), other services, how a setting
//! is carried out.

use std::num::NonZeroU32;
use std::time::Duration;

use super::{
    CheckSpec, ClientPrefix, ClientRate, GroupSpec, HostSpec, Keepalive, ListenSpec, Named, NetList, OnDown,
    Policy, ProxySenders, ProxyTlvs, Section, StartTls,
};

/// One service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceSpec {
    /// The name that operators use. `None`: the service is called by the address it listens on.
    pub name: Option<Name>,
    /// `-b`, `-6`, PORT.
    pub listen: ListenSpec,
    /// `--freebind`: the service may listen on an address that this host does not have.
    pub freebind: bool,
    /// `--socket-mode`, at most 0o777: the permissions of the service's Unix socket. `None`: those that the
    /// umask leaves.
    pub socket_mode: Option<u32>,
    /// `--socket-group`: the group of the service's Unix socket. Whether the group exists is checked later.
    pub socket_group: Option<Named>,
    /// The groups with their channels. Empty: the service starts without any.
    pub groups: Vec<GroupSpec>,
    /// `@NAME`: which groups serve whom, ordered by group. The first section begins at group 0, and each
    /// begins at an existing group. Empty: all groups serve everyone.
    pub sections: Vec<Section>,
    /// `-B`: source addresses towards channels, in the order given. Empty: the system chooses.
    pub sources: Vec<HostSpec>,
    /// `--transparent`: connect to channels from the client's own address. `sources` is empty then.
    pub transparent: bool,
    /// `-t`, at least 1 ms: how long a connect to a channel may take.
    pub connect_timeout: Duration,
    /// `--race`, at least 1 ms: after this time without an answer, balance also tries the next channel.
    /// `None`: it tries the next one only after a failure.
    pub race: Option<Duration>,
    /// `--first-byte`, at least 1 ms: a channel is ejected if it stays silent for this long while others
    /// answer. `None`: it is not.
    pub first_byte: Option<Duration>,
    /// `--resolve`, at least 100 ms: how often names of channels are looked up again. `None`: only at the
    /// start.
    pub resolve: Option<Duration>,
    /// `-T`: how long a connection may be idle. `None`: without limit.
    pub idle_timeout: Option<Duration>,
    /// `--half-close-timeout`: how long a connection may stay half-closed. `None`: without limit.
    pub half_close_timeout: Option<Duration>,
    /// `-a`: disable a channel when a connect to it fails.
    pub autodisable: bool,
    /// `-H`: a client of a hash group fails over to other channels.
    pub hash_failover: bool,
    /// `-K`: keepalive towards clients. `None`: the system's settings.
    pub client_keepalive: Option<Keepalive>,
    /// `-k`: keepalive towards channels. `None`: the system's settings.
    pub server_keepalive: Option<Keepalive>,
    /// `--proxy-tlv`. Has an effect only with channels that get a PROXY header of version 2.
    pub proxy_tlvs: ProxyTlvs,
    /// `--policy`: the policy of groups that are created later. Each of `groups` has its own.
    pub later_policy: Policy,
    /// `--hash-balance` in thousandths, 1000..=100000: the maximum load of one channel in a hash group
    /// relative to the average. `None`: no maximum.
    pub hash_balance: Option<u32>,
    /// `--slow-start`: how long the share of a returning channel rises before it is full. `None`: it is full
    /// at once.
    pub slow_start: Option<Duration>,
    /// True unless `--no-eject` is given: a channel whose connect failed gets no clients while another
    /// channel is usable.
    pub eject: bool,
    /// `--check` and the options that belong to it. `None`: balance probes only ejected channels, and
    /// channels with a check of their own, at the default times.
    pub check: Option<CheckSpec>,
    /// `--fail-open`: channels are tried even if all of them are ejected or down.
    pub fail_open: bool,
    /// `--on-down`: what happens to the connections of a channel that goes down.
    pub on_down: OnDown,
    /// `--on-remove`: what happens to the connections of a channel that is removed.
    pub on_remove: OnDown,
    /// `--event-program`: the absolute path of the program to run for events. Whether it can be run is
    /// checked later. `None`: no program.
    pub on_change: Option<Named>,
    /// `--refuse-when-down`: the port is closed while no channel is up.
    pub refuse_when_down: bool,
    /// `--allow`: the only clients that may connect. `None`: all may.
    pub allow: Option<NetList>,
    /// `--deny`: clients that may not connect. `None`: nobody is denied.
    pub deny: Option<NetList>,
    /// `--client-max`: maximum number of connections of one client. `None`: no limit.
    pub client_max: Option<NonZeroU32>,
    /// `--client-rate`: maximum rate of new connections of one client. `None`: no limit.
    pub client_rate: Option<ClientRate>,
    /// `--client-prefix`: which addresses count as one client. Has an effect only with `client_max` or
    /// `client_rate`.
    pub client_prefix: ClientPrefix,
    /// `--max-connections`: maximum number of connections of the service. `None`: no limit.
    pub max_connections: Option<NonZeroU32>,
    /// `--queue`, at most 1000000: how many clients may wait for a full channel. `None`: none.
    pub queue: Option<NonZeroU32>,
    /// `--queue-timeout`, at least 1 ms: how long a client may wait. Has an effect only with `queue`.
    pub queue_timeout: Duration,
    /// `--pause-timeout`, at least 1 ms: how long a client of a paused channel may wait.
    pub pause_timeout: Duration,
    /// `--accept-proxy`: senders that must begin with a PROXY header. `None`: none.
    pub accept_proxy: Option<ProxySenders>,
    /// `--starttls`: the protocol in which clients may ask for TLS first. `None`: none. Has an effect only
    /// with `sections`.
    pub starttls: Option<StartTls>,
    /// `--greeting-timeout`, at least 1 ms: how long a client may take to send what balance has to read
    /// before it chooses a channel. Has an effect only with `accept_proxy` or `sections`.
    pub greeting_timeout: Duration,
    /// `--max-lifetime`: how long a connection may last, before jitter. `None`: without limit.
    pub max_lifetime: Option<Duration>,
}

/// The name of a service: 1 to 63 ASCII letters, digits, `-`, `_` and `.`, beginning with a letter.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Box<str>);

impl Name {
    /// Maximum length of a name in bytes.
    pub const LONGEST: usize = 63;

    /// `None` if `word` is not a legal name.
    pub fn new(word: &str) -> Option<Self> {
        let is_legal = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        let is_name = word.starts_with(|c: char| c.is_ascii_alphabetic())
            && word.len() <= Self::LONGEST
            && word.chars().all(is_legal);
        is_name.then(|| Self(word.into()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::Name;

    #[test]
    fn a_name_begins_with_a_letter_and_is_short() {
        for word in ["web", "a", "web-1", "Web_2.old", &"x".repeat(63)] {
            assert_eq!(Name::new(word).expect(word).as_str(), word);
        }
        for word in ["", "1", "80", "-a", ".a", "a b", "a:", "ä", "a/b", "*", "!", &"x".repeat(64)] {
            assert_eq!(Name::new(word), None, "{word:?}");
        }
    }
}
