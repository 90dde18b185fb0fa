//! `deny`, `undeny` and `denied`: networks that operators keep out.
//!
//! Knows: the gates of services. Never: which services are meant, how an answer looks.
//! Source: docs/access.md.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ipnet::IpNet;

use crate::control::execute::Reply;
use crate::control::services::ManagedService;
use crate::sched::{Denial, TooManyDenials, Until};

/// Lets nobody in from a network.
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
        // Whoever comes from now on is not let in, so this is all of them.
        if kick {
            closed += (service.plane.close_clients)(net);
        }
        (service.plane.changed)();
    }
    Reply::NetDenied(net, time, kick.then_some(closed))
}

/// Ends that.
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

/// What is denied. `all`: say of which service each is.
pub(crate) fn denied(services: &[Arc<ManagedService>], all: bool) -> Reply {
    let of = |service: &Arc<ManagedService>| {
        let now = (service.now)();
        let label = all.then(|| service.label());
        let left = move |until: Until| until.at.saturating_sub(now);
        let denials = service.table.gate().denied(now);
        denials.into_iter().map(move |denial| (label.clone(), denial.net, denial.until.map(left)))
    };
    Reply::Denied(services.iter().flat_map(of).collect())
}

/// So long after now.
fn since_1970(time: Duration) -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    now.saturating_add(time).as_secs()
}
