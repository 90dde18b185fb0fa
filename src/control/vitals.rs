//! Values of the process itself, for metrics and the page.
//!
//! Knows: `/proc`, if there is one. Never: services, how they are shown.

use std::fs;
use std::time::Duration;

/// Values of the process. `None`: not known.
#[derive(Debug, Clone, Default)]
pub struct Vitals {
    /// Number of clients of each worker.
    pub worker_connections: Vec<usize>,
    /// The limit of open files.
    pub descriptor_limit: Option<u64>,
    /// Descriptors that are still free for clients.
    pub descriptors_free: Option<u64>,
    /// Lines of the log that were lost because nobody read them.
    pub dropped_lines: u64,
    /// Lines of the access log that were lost; `None`: there is no access log.
    pub access_lines_dropped: Option<u64>,
    /// Whether the access log cannot be written now; `None`: there is none.
    pub is_access_failing: Option<bool>,
    /// Whether the state file cannot be written now; `None`: there is none.
    pub is_state_failing: Option<bool>,
    /// The time since the first process of this instance was started, earlier ones before upgrades included.
    pub uptime: Duration,
    /// Values that the kernel counts.
    pub system: SystemVitals,
}

/// Values that the kernel counts for a process. `None`: not known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SystemVitals {
    /// CPU time in user mode and in the kernel.
    pub cpu: Option<Duration>,
    /// Memory that is in RAM, in bytes.
    pub resident_bytes: Option<u64>,
    /// Address space, in bytes.
    pub virtual_bytes: Option<u64>,
    /// Number of open descriptors.
    pub open_descriptors: Option<u64>,
    /// Number of threads.
    pub threads: Option<u64>,
    /// When the process was started, as time since 1970.
    pub started: Option<Duration>,
}

impl SystemVitals {
    /// The values of this process now. Needs one free descriptor for a moment.
    pub fn now() -> Self {
        let counted = fs::read_to_string("/proc/self/stat").map(|stat| Self::read(&stat)).unwrap_or_default();
        let boot = || {
            let stat = fs::read_to_string("/proc/stat").ok()?;
            let line = stat.lines().find_map(|line| line.strip_prefix("btime "))?;
            Some(Duration::from_secs(line.trim().parse().ok()?))
        };
        let started = counted.started.and_then(|since| Some(boot()? + since));
        Self { open_descriptors: open_descriptors(), started, ..counted }
    }

    /// Reads `/proc/self/stat`. Here `started` is the time from the boot to the start.
    fn read(stat: &str) -> Self {
        // The name in front may contain anything, blanks and brackets too.
        let Some((_, rest)) = stat.rsplit_once(") ") else { return Self::default() };
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        // proc(5) counts fields from 1, and `rest` begins with field 3.
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        let ticks = rustix::param::clock_ticks_per_second().max(1);
        let time = |field: u64| {
            Duration::from_secs(field / ticks) + Duration::from_millis(field % ticks * 1_000 / ticks)
        };
        let page = rustix::param::page_size() as u64;
        Self {
            cpu: field(14).zip(field(15)).map(|(user, system)| time(user + system)),
            threads: field(20),
            started: field(22).map(time),
            virtual_bytes: field(23),
            resident_bytes: field(24).map(|pages| pages * page),
            open_descriptors: None,
        }
    }
}

/// Number of open descriptors. New kernels have the count; with older ones each descriptor is listed.
fn open_descriptors() -> Option<u64> {
    use std::os::unix::fs::MetadataExt;
    let counted = fs::metadata("/proc/self/fd").ok()?.size();
    if counted > 0 {
        return Some(counted);
    }
    // The descriptor used for listing does not count.
    Some((fs::read_dir("/proc/self/fd").ok()?.count() as u64).saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_says_of_a_process_is_read_whatever_its_name() {
        let name = ") R 1 2 3";
        let stat = format!(
            "42 ({name}) S 1 42 42 0 -1 4194304 100 0 0 0 150 250 0 0 20 0 7 0 123456 1000000 300 1844674407370"
        );
        let page = rustix::param::page_size() as u64;
        let ticks = rustix::param::clock_ticks_per_second();
        let read = SystemVitals::read(&stat);
        assert_eq!(read.cpu, Some(Duration::from_millis(400 * 1_000 / ticks)));
        assert_eq!((read.threads, read.virtual_bytes), (Some(7), Some(1_000_000)));
        assert_eq!(read.resident_bytes, Some(300 * page));
        for broken in ["", "42", "42 (x) ", "42 (x) S x y"] {
            assert_eq!(SystemVitals::read(broken).cpu, None, "{broken:?}");
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_has_memory_descriptors_and_a_beginning() {
        let now = SystemVitals::now();
        assert!(now.resident_bytes > Some(100_000), "{now:?}");
        assert!(now.open_descriptors >= Some(3), "{now:?}");
        assert!(now.started > Some(Duration::from_secs(1_600_000_000)), "{now:?}");
    }
}
