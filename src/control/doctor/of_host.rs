//! Problems of the host: processors, memory, files of the whole system.
//!
//! Knows: signs. Never: where they come from.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use super::finding::Finding;
use super::of_service::counted;
use super::signs::Case;

/// Usage in percent of the limit from which there is advice.
const NEARLY_FULL: u64 = 90;
/// Fewer bytes in swap do not matter.
const MUCH_SWAPPED: u64 = 16 << 20;

pub(super) fn files(case: &Case) -> Vec<Finding> {
    let Some((used, most)) = case.kernel.files else { return Vec::new() };
    if most == 0 || used < most / 100 * NEARLY_FULL {
        return Vec::new();
    }
    vec![Finding::advice(
        format!("{used} files are open on the whole system, and {most} are the limit"),
        "beyond it no program can accept or open anything",
        format!("sysctl -w fs.file-max={} (and in /etc/sysctl.d)", most.saturating_mul(2)),
    )]
}

pub(super) fn cpu(case: &Case) -> Vec<Finding> {
    let Some(cpu) = case.kernel.cpu else { return Vec::new() };
    let before = case.process.before.cpu.map_or((0, 0), |before| (before.periods, before.throttled));
    let periods = cpu.periods.saturating_sub(before.0);
    let throttled = cpu.throttled.saturating_sub(before.1);
    if throttled == 0 || throttled * 100 < periods {
        return Vec::new();
    }
    let quota = cpu.quota_millis.map_or_else(String::new, |millis| {
        format!(" of {}.{:02} processors", millis / 1_000, millis % 1_000 / 10)
    });
    vec![Finding::advice(
        format!(
            "the limit{quota} of the control group stopped balance in {throttled} of {periods} periods, with {}",
            counted(case.process.workers, "worker")
        ),
        "each time all clients wait until the period of 100 ms is over",
        "raise the limit (CPUQuota= of the unit, resources.limits.cpu), or start balance with as many --workers as processors are allowed",
    )]
}

pub(super) fn memory(case: &Case) -> Vec<Finding> {
    let Some((used, most)) = case.kernel.memory else { return Vec::new() };
    if most == 0 || used < most / 100 * NEARLY_FULL {
        return Vec::new();
    }
    vec![Finding::advice(
        format!("the control group uses {} of {} MiB, without what is cached", used >> 20, most >> 20),
        "at the limit the system kills balance and cuts all clients",
        "raise the limit (MemoryMax= of the unit, resources.limits.memory), or lower --max-connections",
    )]
}

pub(super) fn swap(case: &Case) -> Vec<Finding> {
    let swapped = case.kernel.swapped_bytes;
    if swapped < MUCH_SWAPPED {
        return Vec::new();
    }
    vec![Finding::advice(
        format!("{} MiB of balance are in swap", swapped >> 20),
        "clients whose memory is there wait for the disk",
        "find out what uses the memory (top, free), or set MemorySwapMax=0 in the unit",
    )]
}
