//! `deny`, `undeny` and `denied`: networks whose clients operators refuse.
//!
//! Knows: the gates of services. Never: which services are meant, how an answer looks.
//! Source: docs/access.md.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ipnet::IpNet;

use crate::control::execute::Reply;
use crate::control::services::{DeniedNet, ManagedService};
use crate::sched::{Denial, TooManyDenials, Until};

/// Refuses clients from a network, for `time` or until `undeny`. With `kick`, also closes their connections.
pub(crate) fn deny(
    services: &[Arc<ManagedService>],
    net: IpNet,
    time: Option<Duration>,
    kick: bool,
) -> Reply {
    let mut closed = 0;
    for service in services {
        let now = (service.now)();
        let until = time.map(|time| Until { at: now.saturating_add(time), since_1970: since_1970(time) });
        if let Err(TooManyDenials(count)) = service.table.gate().deny(Denial { net, until }, now) {
            return Reply::TooManyDenied(count);
        }
        // New clients are refused from now on, so these are all connections from there.
        if kick {
            closed += (service.plane.close_clients)(net);
        }
        (service.plane.changed)();
    }
    Reply::NetDenied(net, time, kick.then_some(closed))
}

/// Ends a `deny` of exactly this network.
pub(crate) fn undeny(services: &[Arc<ManagedService>], net: IpNet) -> Reply {
    let mut was_denied = false;
    for service in services {
        if service.table.gate().undeny(net, (service.now)()) {
            was_denied = true;
            (service.plane.changed)();
        }
    }
    if was_denied { Reply::NetAllowed(net) } else { Reply::NotDenied(net) }
}

/// Lists what is denied. `all`: with the service of each.
pub(crate) fn denied(services: &[Arc<ManagedService>], all: bool) -> Reply {
    let told = |one: DeniedNet| (Some(one.service).filter(|_| all), one.net, one.left);
    Reply::Denied(denials(services).into_iter().map(told).collect())
}

/// The same, with the service of each.
pub(crate) fn denials(services: &[Arc<ManagedService>]) -> Vec<DeniedNet> {
    let of = |service: &Arc<ManagedService>| {
        let (now, service_label) = ((service.now)(), service.label());
        let left = move |until: Until| until.at.saturating_sub(now);
        let denials = service.table.gate().denied(now);
        denials.into_iter().map(move |Denial { net, until }| DeniedNet {
            service: service_label.clone(),
            net,
            left: until.map(left),
        })
    };
    services.iter().flat_map(of).collect()
}

/// The time that is this long after now, in seconds since 1970.
fn since_1970(time: Duration) -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    now.saturating_add(time).as_secs()
}
