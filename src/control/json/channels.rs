//! Groups and channels in JSON.
//!
//! Knows: names of fields. Never: the live table, the clock.
//! Source: docs/json.md. Names are part of the interface and do not change.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::num::{NonZeroU16, NonZeroU32};
use std::time::Duration;

use serde::Serialize;

use super::reasons::ReasonsObject;
use super::units::{ago, seconds, short_seconds};
use crate::config::{print_asked, print_channel_check};
use crate::control::status::removed_members;
use crate::control::status::{health_name, ramp_percent, state_word};
use crate::sched::{
    AdminState, ChannelKey, ChannelSnapshot, DialCause, End, FamilySnapshot, GroupSnapshot, NameSnapshot,
    ShownAddress,
};
use crate::spec::{Address, FamilyKind, ProxyVersion, Section};

#[derive(Serialize)]
pub(super) struct GroupObject<'a> {
    group: usize,
    policy: &'static str,
    names: Vec<String>,
    channels: Vec<ChannelObject<'a>>,
    families: Vec<FamilyObject<'a>>,
}

/// A name that stands for a set of channels (`each`, SRV).
#[derive(Serialize)]
struct FamilyObject<'a> {
    channel: usize,
    host: Option<&'a str>,
    port: u16,
    kind: &'static str,
    enabled: bool,
    weight: u32,
    maxc: Option<NonZeroU32>,
    resolve: Option<ResolveObject<'a>>,
    members: Vec<KeyObject>,
    removed: Vec<String>,
}

/// The number of a channel and of its group.
#[derive(Serialize)]
struct KeyObject {
    group: usize,
    channel: usize,
}

impl From<ChannelKey> for KeyObject {
    fn from(key: ChannelKey) -> Self {
        Self { group: key.group.index(), channel: key.channel.index() }
    }
}

impl<'a> FamilyObject<'a> {
    fn of(family: &'a FamilySnapshot, now: Duration) -> Self {
        let FamilySnapshot { head, members, .. } = family;
        Self {
            channel: head.id.index(),
            host: head.addresses.host(),
            port: head.addresses.port(),
            kind: match head.addresses.family() {
                Some(FamilyKind::Service) => "srv",
                Some(FamilyKind::Each) | None => "each",
            },
            enabled: head.state == AdminState::Enabled,
            weight: head.weight.get(),
            maxc: head.maxc,
            resolve: head.naming.as_ref().map(|naming| ResolveObject::of(naming, now)),
            members: members.iter().copied().map(KeyObject::from).collect(),
            removed: removed_members(family),
        }
    }
}

#[derive(Serialize)]
struct ChannelObject<'a> {
    channel: usize,
    host: Option<&'a str>,
    port: Option<NonZeroU16>,
    address: Option<String>,
    addresses: Vec<AddressObject<'a>>,
    used: Option<String>,
    resolve: Option<ResolveObject<'a>>,
    member_of: Option<KeyObject>,
    state: &'static str,
    enabled: bool,
    autodisabled: bool,
    removing: bool,
    paused: bool,
    up: bool,
    health: &'static str,
    ramp_percent: Option<u32>,
    health_changed_at: String,
    health_age_seconds: f64,
    why: Option<&'a str>,
    failing: Option<FailingObject>,
    weight: u32,
    maxc: Option<NonZeroU32>,
    proxy: Option<&'static str>,
    check: Option<String>,
    c: u32,
    queue: u32,
    totalc: u64,
    failed: u64,
    sent_bytes: u64,
    rcvd_bytes: u64,
    connect_p50_seconds: Option<f64>,
    connect_p99_seconds: Option<f64>,
    failures: ReasonsObject,
    outrun: u64,
    outrun_unanswered: u64,
    ended: ReasonsObject,
    last_error: Option<LastErrorObject<'a>>,
}

#[derive(Serialize)]
struct AddressObject<'a> {
    address: String,
    up: bool,
    why: Option<&'a str>,
}

#[derive(Serialize)]
struct FailingObject {
    checks: u32,
    fall: u32,
}

#[derive(Serialize)]
struct LastErrorObject<'a> {
    error: &'a str,
    at: String,
    age_seconds: f64,
}

#[derive(Serialize)]
struct ResolveObject<'a> {
    answered_at: Option<String>,
    answered_age_seconds: Option<f64>,
    error: Option<&'a str>,
    failing_since: Option<String>,
    failing_age_seconds: Option<f64>,
}

impl<'a> ResolveObject<'a> {
    fn of(naming: &'a NameSnapshot, now: Duration) -> Self {
        let failing = naming.failing.as_ref();
        Self {
            answered_at: naming.answered.map(|age| ago(now, age)),
            answered_age_seconds: naming.answered.map(seconds),
            error: failing.map(|(why, _)| why.as_str()),
            failing_since: failing.map(|(_, age)| ago(now, *age)),
            failing_age_seconds: failing.map(|(_, age)| seconds(*age)),
        }
    }
}

impl<'a> GroupObject<'a> {
    pub(super) fn of(group: &'a GroupSnapshot, sections: &[Section], now: Duration) -> Self {
        let channels = group.channels.iter().map(|channel| ChannelObject::of(channel, now)).collect();
        let section = sections.iter().find(|section| section.group == group.id.index());
        let names = section.map_or_else(Vec::new, |section| section.asked.iter().map(print_asked).collect());
        let families = group.families.iter().map(|family| FamilyObject::of(family, now)).collect();
        Self { group: group.id.index(), policy: group.policy.name(), names, channels, families }
    }
}

impl<'a> ChannelObject<'a> {
    fn of(channel: &'a ChannelSnapshot, now: Duration) -> Self {
        let last_error = channel.last_error.as_ref().map(|(error, age)| LastErrorObject {
            error,
            at: ago(now, *age),
            age_seconds: seconds(*age),
        });
        Self {
            channel: channel.id.index(),
            host: channel.addresses.host(),
            port: NonZeroU16::new(channel.addresses.port()),
            address: channel.addresses.is_known().then(|| shown(channel.addresses.first())),
            addresses: addresses(channel),
            used: channel.used.map(shown),
            resolve: channel.naming.as_ref().map(|naming| ResolveObject::of(naming, now)),
            member_of: channel.member_of.map(|member| member.head.into()),
            state: state_word(channel.state),
            enabled: channel.state == AdminState::Enabled,
            autodisabled: channel.autodisabled,
            removing: channel.retires,
            paused: channel.paused,
            up: channel.is_up(),
            health: health_name(channel.health.state),
            ramp_percent: ramp_percent(channel.health.state),
            health_changed_at: ago(now, channel.health.age),
            health_age_seconds: seconds(channel.health.age),
            why: channel.health.why.as_deref(),
            failing: channel.health.failing.map(|(checks, fall)| FailingObject { checks, fall }),
            weight: channel.weight.get(),
            maxc: channel.maxc,
            proxy: channel.manner.proxy.map(proxy_word),
            check: print_channel_check(&channel.manner.check),
            c: channel.active,
            queue: channel.waiting,
            totalc: channel.totalc,
            failed: channel.failed,
            sent_bytes: channel.sent_bytes,
            rcvd_bytes: channel.rcvd_bytes,
            connect_p50_seconds: channel.connect_p50.map(short_seconds),
            connect_p99_seconds: channel.connect_p99.map(short_seconds),
            failures: ReasonsObject::of(&DialCause::ALL, &channel.ended.failures),
            outrun: channel.ended.outrun,
            outrun_unanswered: channel.ended.unanswered,
            ended: ReasonsObject::of(&End::ALL[..End::WITH_CHANNEL], &channel.ended.ends),
            last_error,
        }
    }
}

fn proxy_word(version: ProxyVersion) -> &'static str {
    match version {
        ProxyVersion::V1 => "v1",
        ProxyVersion::V2 => "v2",
    }
}

fn shown(address: Address) -> String {
    ShownAddress(address).to_string()
}

/// As many addresses are up here as `status` counts.
fn addresses(channel: &ChannelSnapshot) -> Vec<AddressObject<'_>> {
    let is_any_up = channel.addresses_up() > 0;
    let address = |&address: &Address| {
        let out = channel.addresses_out.iter().find(|(one, _)| *one == address);
        AddressObject {
            address: shown(address),
            up: is_any_up && out.is_none(),
            why: out.map(|(_, why)| why.as_str()),
        }
    };
    channel.addresses.as_slice().iter().map(address).collect()
}
