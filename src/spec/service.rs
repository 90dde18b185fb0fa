//! One service: where it listens, how it chooses, its channels.
//!
//! Knows: its settings and their ranges. Never: defaults (those are `config`'s), other services, how a setting is carried out.

use std::num::NonZeroU32;
use std::time::Duration;

use super::{
    CheckSpec, ClientPrefix, ClientRate, GroupSpec, HostSpec, Keepalive, ListenSpec, Named, NetList, OnDown,
    Policy, ProxySenders, ProxyTlvs, Section, StartTls,
};

/// One service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceSpec {
    /// What operators call it. `None`: by where it listens.
    pub name: Option<Name>,
    /// `-b`, `-6`, PORT.
    pub listen: ListenSpec,
    /// `--freebind`: it may listen on an address that this host does not have.
    pub freebind: bool,
    /// `--socket-mode`, at most 0o777: the permissions of its Unix socket. `None`: what the system leaves of them.
    pub socket_mode: Option<u32>,
    /// `--socket-group`: the group of its Unix socket; whether there is one is asked later.
    pub socket_group: Option<Named>,
    /// The channels. Empty: it starts with none.
    pub groups: Vec<GroupSpec>,
    /// `@NAME`: which groups are for whom, in the order of their groups, the first one beginning at group 0, each at a group that there is. Empty: all groups are for everybody.
    pub sections: Vec<Section>,
    /// `-B`, in their order. Empty: the system chooses.
    pub sources: Vec<HostSpec>,
    /// `--transparent`: from the clients' own addresses. Then there are no `sources`.
    pub transparent: bool,
    /// `-t`, at least 1 ms.
    pub connect_timeout: Duration,
    /// `--race`, at least 1 ms: so soon the next channel is tried beside one that has not answered. `None`: not before it has failed.
    pub race: Option<Duration>,
    /// `--first-byte`, at least 1 ms: a channel that is silent for so long while others answer is ejected. `None`: it is not.
    pub first_byte: Option<Duration>,
    /// `--resolve`, at least 100 ms: how often names of channels are looked up. `None`: only at the start.
    pub resolve: Option<Duration>,
    /// `-T`. `None`: never.
    pub idle_timeout: Option<Duration>,
    /// `--half-close-timeout`. `None`: never.
    pub half_close_timeout: Option<Duration>,
    /// `-a`.
    pub autodisable: bool,
    /// `-H`.
    pub hash_failover: bool,
    /// `-K`. `None`: the system's numbers.
    pub client_keepalive: Option<Keepalive>,
    /// `-k`. `None`: the system's numbers.
    pub server_keepalive: Option<Keepalive>,
    /// `--proxy-tlv`. Of no weight without channels that get a header of version 2.
    pub proxy_tlvs: ProxyTlvs,
    /// `--policy`: that of groups that come into being later. `groups` have their own.
    pub later_policy: Policy,
    /// `--hash-balance` in thousandths, 1000..=100000: the most load of a hash group's channel against the average.
    /// `None`: whatever comes.
    pub hash_balance: Option<u32>,
    /// `--slow-start`: how long a returning channel ramps up. `None`: not at all.
    pub slow_start: Option<Duration>,
    /// Without `--no-eject`: a channel whose connect fails is not offered while another is usable.
    pub eject: bool,
    /// `--check` and what goes with it. `None`: no probes but those of ejected channels, and of channels that have a check of their own,
    /// with the default times.
    pub check: Option<CheckSpec>,
    /// `--fail-open`: channels are tried even if all are ejected or down.
    pub fail_open: bool,
    /// `--on-down`.
    pub on_down: OnDown,
    /// `--on-remove`.
    pub on_remove: OnDown,
    /// `--event-program`: the program that is run for events, an absolute path; whether it can be run is checked later. `None`: none.
    pub on_change: Option<Named>,
    /// `--refuse-when-down`: the port is closed while no channel is up.
    pub refuse_when_down: bool,
    /// `--allow`. `None`: any.
    pub allow: Option<NetList>,
    /// `--deny`. `None`: none.
    pub deny: Option<NetList>,
    /// `--client-max`. `None`: no limit.
    pub client_max: Option<NonZeroU32>,
    /// `--client-rate`. `None`: no limit.
    pub client_rate: Option<ClientRate>,
    /// `--client-prefix`. Of no weight without one of the two.
    pub client_prefix: ClientPrefix,
    /// `--max-connections`. `None`: no limit.
    pub max_connections: Option<NonZeroU32>,
    /// `--queue`, at most 1000000: clients that may wait for a full channel. `None`: none.
    pub queue: Option<NonZeroU32>,
    /// `--queue-timeout`, at least 1 ms. Of no weight without `queue`.
    pub queue_timeout: Duration,
    /// `--pause-timeout`, at least 1 ms.
    pub pause_timeout: Duration,
    /// `--accept-proxy`: senders that must begin with a header of the PROXY protocol. `None`: none.
    pub accept_proxy: Option<ProxySenders>,
    /// `--starttls`: the words in which clients may ask for TLS first. `None`: none. Of no weight without `sections`.
    pub starttls: Option<StartTls>,
    /// `--greeting-timeout`, at least 1 ms: how long a client may take for what it has to say first. Of no weight without
    /// `accept_proxy` and `sections`.
    pub greeting_timeout: Duration,
    /// `--max-lifetime` of a connection, before jitter. `None`: for ever.
    pub max_lifetime: Option<Duration>,
}

/// The name of a service: ASCII letters, digits, `-`, `_` and `.`, at most 63 of them, with a letter first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Box<str>);

impl Name {
    /// The most bytes of a name.
    pub const LONGEST: usize = 63;

    /// `None` for what is no name.
    pub fn new(word: &str) -> Option<Self> {
        let is_legal = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        let is_name = word.starts_with(|c: char| c.is_ascii_alphabetic())
            && word.len() <= Self::LONGEST
            && word.chars().all(is_legal);
        is_name.then(|| Self(word.into()))
    }

    /// The name itself.
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
