//! What the kernel knows of this process and its network.
//!
//! Knows: the files of `/proc` and `/sys`. Never: services, what a value means. What cannot be read is `None`
//! or empty.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

/// Values read from the kernel. Counters start with the system, the network namespace or the control group.
#[derive(Debug, Clone, Default)]
pub struct KernelSigns {
    pub(crate) somaxconn: Option<u64>,
    /// The first and the last source port (`ip_local_port_range`).
    pub(crate) port_range: Option<(u16, u16)>,
    /// Ranges of ports that the kernel does not use as source ports.
    pub(crate) reserved_ports: Vec<(u16, u16)>,
    /// `tcp_keepalive_time`, in seconds.
    pub(crate) keepalive_time: Option<u64>,
    pub(crate) congestion: Option<String>,
    /// Memory limits of all TCP sockets, in pages: where pressure begins, and the maximum.
    pub(crate) tcp_mem: Option<(u64, u64)>,
    pub(crate) tcp_mem_used: Option<u64>,
    pub(crate) orphans: Option<u64>,
    pub(crate) max_orphans: Option<u64>,
    pub(crate) time_waits: Option<u64>,
    pub(crate) max_time_waits: Option<u64>,
    /// Tracked connections now, and the maximum.
    pub(crate) conntrack: Option<(u64, u64)>,
    /// Open files of the whole system now, and the maximum.
    pub(crate) files: Option<(u64, u64)>,
    pub(crate) listen_overflows: u64,
    pub(crate) memory_pressures: u64,
    pub(crate) memory_aborts: u64,
    pub(crate) time_wait_overflows: u64,
    /// Sockets that listen on one of the ports asked about.
    pub(crate) listeners: Vec<ListenerSign>,
    pub(crate) cpu: Option<CpuSign>,
    /// Memory of the control group that cannot be reclaimed, and its limit, in bytes.
    pub(crate) memory: Option<(u64, u64)>,
    pub(crate) swapped_bytes: u64,
    /// Whether the file of the running program was replaced or deleted.
    pub(crate) is_program_gone: bool,
}

/// A listening socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ListenerSign {
    pub(crate) address: SocketAddr,
    /// The number of connections in the listen queue.
    pub(crate) queue: u64,
    pub(crate) inode: u64,
    /// The user id of its owner.
    pub(crate) uid: u32,
    /// Whether this process has it.
    pub(crate) is_ours: bool,
}

/// CPU time of the control group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CpuSign {
    /// Number of periods in which the group had something to run.
    pub(crate) periods: u64,
    /// Number of periods in which the group had used up its quota.
    pub(crate) throttled: u64,
    /// The quota in thousandths of a processor; `None`: no limit.
    pub(crate) quota_millis: Option<u64>,
}

impl KernelSigns {
    /// Reads the values of now; of listening sockets those on these ports. `root` is `/`, except in tests.
    pub fn read(root: &Path, ports: &[u16]) -> Self {
        let reader = SystemFiles(root);
        let sockstat = reader.text("proc/self/net/sockstat");
        let tcp = |key| word_after(sockstat.lines().find_map(|line| line.strip_prefix("TCP:"))?, key);
        let netstat = reader.text("proc/self/net/netstat");
        let counted = |key| counter(&netstat, key);
        let mem: Vec<u64> = numbers(&reader.text("proc/sys/net/ipv4/tcp_mem"));
        let range: Vec<u64> = numbers(&reader.text("proc/sys/net/ipv4/ip_local_port_range"));
        let files = numbers(&reader.text("proc/sys/fs/file-nr"));
        let status = reader.text("proc/self/status");
        let swapped = status.lines().find_map(|line| line.strip_prefix("VmSwap:"));
        let program = fs::read_link(root.join("proc/self/exe")).unwrap_or_default();
        let groups = reader.text("proc/self/cgroup");
        Self {
            somaxconn: reader.number("proc/sys/net/core/somaxconn"),
            port_range: match range[..] {
                [first, last] => Some((first as u16, last as u16)),
                _ => None,
            },
            reserved_ports: ranges(&reader.text("proc/sys/net/ipv4/ip_local_reserved_ports")),
            keepalive_time: reader.number("proc/sys/net/ipv4/tcp_keepalive_time"),
            congestion: reader.word("proc/sys/net/ipv4/tcp_congestion_control"),
            tcp_mem: match mem[..] {
                [_, pressure, most] => Some((pressure, most)),
                _ => None,
            },
            tcp_mem_used: tcp("mem"),
            orphans: tcp("orphan"),
            max_orphans: reader.number("proc/sys/net/ipv4/tcp_max_orphans"),
            time_waits: tcp("tw"),
            max_time_waits: reader.number("proc/sys/net/ipv4/tcp_max_tw_buckets"),
            conntrack: reader
                .number("proc/sys/net/netfilter/nf_conntrack_count")
                .zip(reader.number("proc/sys/net/netfilter/nf_conntrack_max")),
            files: match files[..] {
                [used, _, most] => Some((used, most)),
                _ => None,
            },
            listen_overflows: counted("ListenOverflows"),
            memory_pressures: counted("TCPMemoryPressures"),
            memory_aborts: counted("TCPAbortOnMemory"),
            time_wait_overflows: counted("TCPTimeWaitOverflow"),
            listeners: reader.listeners(ports),
            cpu: reader.cpu(&groups),
            memory: reader.memory(&groups),
            swapped_bytes: swapped.and_then(|rest| numbers(rest).first().copied()).unwrap_or(0) * 1_024,
            is_program_gone: program.to_string_lossy().ends_with(" (deleted)"),
        }
    }

    /// Number of source ports that connections can get; `None` if it cannot be read.
    pub(crate) fn source_ports(&self) -> Option<u64> {
        let (first, last) = self.port_range.map(|(first, last)| (u64::from(first), u64::from(last)))?;
        let reserved = |&(from, to): &(u16, u16)| {
            let (from, to) = (u64::from(from).max(first), u64::from(to).min(last));
            (to + 1).saturating_sub(from)
        };
        let reserved: u64 = self.reserved_ports.iter().map(reserved).sum();
        Some((last + 1).saturating_sub(first).saturating_sub(reserved))
    }

    /// Can a connection get this port as its source port?
    pub(crate) fn is_source_port(&self, port: u16) -> bool {
        let is_in = |(first, last): (u16, u16)| (first..=last).contains(&port);
        self.port_range.is_some_and(is_in) && !self.reserved_ports.iter().any(|&range| is_in(range))
    }
}

struct SystemFiles<'a>(&'a Path);

impl SystemFiles<'_> {
    fn text(&self, path: &str) -> String {
        fs::read_to_string(self.0.join(path)).unwrap_or_default()
    }

    fn number(&self, path: &str) -> Option<u64> {
        self.text(path).trim().parse().ok()
    }

    fn word(&self, path: &str) -> Option<String> {
        Some(self.text(path).trim().to_owned()).filter(|word| !word.is_empty())
    }

    fn listeners(&self, ports: &[u16]) -> Vec<ListenerSign> {
        let mut found = Vec::new();
        for table in ["proc/self/net/tcp", "proc/self/net/tcp6"] {
            let Ok(file) = File::open(self.0.join(table)) else { continue };
            // Listening sockets come first in these tables, and up to a million others follow.
            let lines = BufReader::new(file).lines().map_while(Result::ok).skip(1);
            let lines = lines.map_while(|line| listener(&line));
            found.extend(lines.filter(|one| ports.contains(&one.address.port())));
        }
        if !found.is_empty() {
            let ours = self.own_sockets();
            found.iter_mut().for_each(|one| one.is_ours = ours.contains(&one.inode));
        }
        found
    }

    fn own_sockets(&self) -> HashSet<u64> {
        let entries = fs::read_dir(self.0.join("proc/self/fd")).into_iter().flatten().flatten();
        let inode =
            |link: PathBuf| link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse::<u64>().ok();
        entries.filter_map(|entry| inode(fs::read_link(entry.path()).ok()?)).collect()
    }

    /// The directory of the process's control group that has this controller and file: in cgroup v2 one for
    /// all controllers, in v1 one for each.
    fn group(&self, groups: &str, controller: &str, file: &str) -> Option<PathBuf> {
        let mut places = Vec::new();
        for line in groups.lines() {
            let mut parts = line.splitn(3, ':');
            let (Some(_), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) else {
                continue;
            };
            let path = if path.contains("..") { "" } else { path.trim_start_matches('/') };
            let mount = match controllers {
                "" => "sys/fs/cgroup".to_owned(),
                several if several.split(',').any(|one| one == controller) => {
                    format!("sys/fs/cgroup/{controller}")
                }
                _ => continue,
            };
            places.push(self.0.join(&mount).join(path));
            // In a container, the path may be that of the host, while only the container's own group is
            // mounted.
            places.push(self.0.join(&mount));
        }
        places.into_iter().find(|place| place.join(file).exists())
    }

    fn cpu(&self, groups: &str) -> Option<CpuSign> {
        let place = self.group(groups, "cpu", "cpu.stat")?;
        let read = |name: &str| fs::read_to_string(place.join(name)).unwrap_or_default();
        let stat = read("cpu.stat");
        let (periods, throttled) = word_after(&stat, "nr_periods").zip(word_after(&stat, "nr_throttled"))?;
        let limit = match read("cpu.max") {
            new if !new.is_empty() => numbers(&new),
            _ => [numbers(&read("cpu.cfs_quota_us")), numbers(&read("cpu.cfs_period_us"))].concat(),
        };
        // `max` and -1 (no limit) are not read as numbers.
        let quota_millis = match limit[..] {
            [quota, period] if period > 0 => Some(quota.saturating_mul(1_000) / period),
            _ => None,
        };
        Some(CpuSign { periods, throttled, quota_millis })
    }

    fn memory(&self, groups: &str) -> Option<(u64, u64)> {
        /// No machine has this many bytes. In cgroup v1 a larger number stands for no limit.
        const NO_LIMIT: u64 = 1 << 60;
        let place = self.group(groups, "memory", "memory.stat")?;
        let read = |name: &str| fs::read_to_string(place.join(name)).unwrap_or_default();
        let stat = read("memory.stat");
        let lines = |key: &str| {
            let line = stat.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
            line.and_then(|rest| rest.trim().parse::<u64>().ok()).unwrap_or(0)
        };
        // Cached pages can be reclaimed and do not count.
        let used = ["anon", "rss", "kernel", "sock", "shmem"].into_iter().map(lines).sum();
        let most = ["memory.max", "memory.limit_in_bytes"]
            .into_iter()
            .find_map(|name| read(name).trim().parse().ok());
        most.filter(|&most| most < NO_LIMIT).map(|most| (used, most))
    }
}

fn numbers(text: &str) -> Vec<u64> {
    text.split_whitespace().filter_map(|word| word.parse().ok()).collect()
}

/// The number after `key` in `key value key value`.
fn word_after(text: &str, key: &str) -> Option<u64> {
    let mut words = text.split_whitespace();
    words.find(|word| *word == key)?;
    words.next()?.parse().ok()
}

/// Reads ranges such as `1-2,3`.
fn ranges(text: &str) -> Vec<(u16, u16)> {
    let range = |word: &str| {
        let (first, last) = word.split_once('-').unwrap_or((word, word));
        Some((first.parse().ok()?, last.parse().ok()?))
    };
    text.trim().split(',').filter_map(range).collect()
}

/// The value of a counter. Each pair of lines has the names and the numbers of one kind.
fn counter(netstat: &str, key: &str) -> u64 {
    let lines: Vec<&str> = netstat.lines().collect();
    let value = |pair: &[&str]| {
        let at = pair.first()?.split_whitespace().position(|name| name == key)?;
        pair.get(1)?.split_whitespace().nth(at)?.parse().ok()
    };
    lines.chunks(2).find_map(value).unwrap_or(0)
}

/// Reads a line of `/proc/net/tcp`; `None` if its socket does not listen.
fn listener(line: &str) -> Option<ListenerSign> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let [_, local, _, "0A", queues, _, _, uid, _, inode, ..] = fields[..] else { return None };
    let (ip, port) = local.split_once(':')?;
    let ip = match ip.len() {
        8 => IpAddr::V4(Ipv4Addr::from(u32::from_str_radix(ip, 16).ok()?.to_ne_bytes())),
        32 => {
            let mut bytes = [0; 16];
            for (word, place) in bytes.chunks_mut(4).enumerate() {
                let word = ip.get(word * 8..word * 8 + 8)?;
                place.copy_from_slice(&u32::from_str_radix(word, 16).ok()?.to_ne_bytes());
            }
            IpAddr::V6(Ipv6Addr::from(bytes))
        }
        _ => return None,
    };
    let queue = u64::from_str_radix(queues.split_once(':')?.1, 16).ok()?;
    Some(ListenerSign {
        address: SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?),
        queue,
        inode: inode.parse().ok()?,
        uid: uid.parse().ok()?,
        is_ours: false,
    })
}
