//! The way back: settings become the command line that means them, quoted for a POSIX shell.
//!
//! Knows: which option says what, defaults, what a shell would not leave alone. Never: where the settings came from.

use super::choosing::policy_name;
use super::duration::print_duration;
use super::health::{FALL, INTERVAL, RISE, TIMEOUT};
use super::limits::QUEUE_TIMEOUT;
use super::settings::{CONNECT_TIMEOUT, HALF_CLOSE_TIMEOUT, Serve};
use crate::spec::{CheckSpec, GroupSpec, Keepalive, ListenHost, OnDown, Policy, ProcessSpec, ServiceSpec};

/// The command line that starts an instance with exactly these settings: one line, without a newline, for any POSIX shell,
/// also an interactive one. Options first, and only those that say something else than the default.
///
/// One thing has no words: a policy for later groups other than round robin, where the groups of the line have several. The
/// later groups are then round robin.
pub fn command_line(serve: &Serve) -> String {
    let words = words(serve);
    words.iter().fold(String::from("balance"), |line, word| line + " " + &quoted(word))
}

/// Without the name of the program, and not quoted.
fn words(serve: &Serve) -> Vec<String> {
    let mut words = Words(Vec::new());
    let Serve { process, service } = serve;
    words.running(process);
    words.addresses(service);
    words.times(service);
    words.choosing(service);
    words.health(service);
    words.limits(service);
    let channels = channels(&service.groups);
    // A lone dash is no option to anybody; all else that begins with one is.
    if channels.iter().any(|word| word.starts_with('-') && word != "-") {
        words.0.push("--".to_owned());
    }
    words.0.push(service.listen.port.to_string());
    words.0.extend(channels);
    words.0
}

struct Words(Vec<String>);

impl Words {
    fn flag(&mut self, option: &str, is_on: bool) {
        if is_on {
            self.0.push(option.to_owned());
        }
    }

    fn value(&mut self, option: &str, value: Option<String>) {
        if let Some(value) = value {
            self.0.extend([option.to_owned(), value]);
        }
    }

    fn running(&mut self, process: &ProcessSpec) {
        self.flag("-f", process.foreground);
        self.flag("-d", process.debug);
        self.flag("-p", process.dump);
        self.value("--workers", process.workers.map(|n| n.to_string()));
        let busy_poll = process.busy_poll.map(|is_on| if is_on { "on" } else { "off" });
        self.value("--busy-poll", busy_poll.map(str::to_owned));
        self.value("--control-group", process.control_group.clone());
    }

    fn addresses(&mut self, service: &ServiceSpec) {
        match &service.listen.host {
            ListenHost::AnyV4 => (),
            ListenHost::AnyV6 => self.flag("-6", true),
            ListenHost::Host(host) => self.value("-b", Some(host.clone())),
        }
        self.value("-B", service.source.clone());
    }

    fn times(&mut self, service: &ServiceSpec) {
        let timeout = service.connect_timeout;
        self.value("-t", (timeout != CONNECT_TIMEOUT).then(|| seconds(&print_duration(timeout))));
        self.value("-T", service.idle_timeout.map(|timeout| seconds(&print_duration(timeout))));
        let half_close = service.half_close_timeout.unwrap_or_default();
        self.value(
            "--half-close-timeout",
            (half_close != HALF_CLOSE_TIMEOUT).then(|| print_duration(half_close)),
        );
        self.value("-K", service.client_keepalive.map(keepalive));
        self.value("-k", service.server_keepalive.map(keepalive));
    }

    fn choosing(&mut self, service: &ServiceSpec) {
        self.flag("-a", service.autodisable);
        self.flag("-H", service.hash_failover);
        self.value("--policy", policies(service));
        self.value("--hash-balance", service.hash_balance.map(decimal));
        self.value("--slow-start", service.slow_start.map(print_duration));
    }

    fn health(&mut self, service: &ServiceSpec) {
        self.flag("--no-eject", !service.eject);
        if let Some(check) = &service.check {
            self.check(check);
        }
        self.value("--fail-open", (!service.fail_open).then(|| "off".to_owned()));
        self.value("--on-down", (service.on_down == OnDown::Kick).then(|| "kick".to_owned()));
        self.flag("--refuse-when-down", service.refuse_when_down);
    }

    fn check(&mut self, check: &CheckSpec) {
        self.value("--check", Some(check.check.to_string()));
        let time = |time, default| (time != default).then(|| print_duration(time));
        self.value("--check-interval", time(check.interval, INTERVAL));
        self.value("--check-timeout", time(check.timeout, TIMEOUT));
        self.value("--check-rise", (check.rise != RISE).then(|| check.rise.to_string()));
        self.value("--check-fall", (check.fall != FALL).then(|| check.fall.to_string()));
        self.value("--check-port", check.port.map(|port| port.to_string()));
    }

    fn limits(&mut self, service: &ServiceSpec) {
        self.value("--max-connections", service.max_connections.map(|n| n.to_string()));
        if let Some(queue) = service.queue {
            self.value("--queue", Some(queue.to_string()));
            let timeout = service.queue_timeout;
            self.value("--queue-timeout", (timeout != QUEUE_TIMEOUT).then(|| print_duration(timeout)));
        }
        self.value("--max-lifetime", service.max_lifetime.map(print_duration));
    }
}

/// `!` stands between groups, `%` behind each hash group.
fn channels(groups: &[GroupSpec]) -> Vec<String> {
    let mut words = Vec::new();
    for (index, group) in groups.iter().enumerate() {
        if group.members.is_empty() {
            // No line can say "nothing"; a gap at least lets the groups behind it keep their numbers.
            words.push("-".to_owned());
        }
        words.extend(group.members.iter().map(ToString::to_string));
        let is_last = index + 1 == groups.len();
        match group.policy {
            Policy::Hash => words.push("%".to_owned()),
            _ if is_last => (),
            _ => words.push("!".to_owned()),
        }
    }
    words
}

/// The word for `--policy`, if one is needed.
fn policies(service: &ServiceSpec) -> Option<String> {
    let mut turning =
        service.groups.iter().map(|group| group.policy).filter(|policy| *policy != Policy::Hash);
    let later = service.later_policy;
    if turning.clone().all(|policy| policy == later) {
        return (later != Policy::RoundRobin).then(|| policy_name(later).to_owned());
    }
    // From here on no word keeps `later` if it is not round robin: a list says nothing about groups that come later, and a
    // word would change those that are there.
    if turning.all(|policy| policy == Policy::RoundRobin) {
        return None;
    }
    let names: Vec<_> = service.groups.iter().map(|group| policy_name(group.policy)).collect();
    Some(names.join(","))
}

/// The old options take bare seconds, and so does everybody who reads them.
fn seconds(word: &str) -> String {
    let bare =
        word.strip_suffix('s').filter(|number| number.bytes().all(|b| b.is_ascii_digit() || b == b'.'));
    bare.unwrap_or(word).to_owned()
}

fn keepalive(of: Keepalive) -> String {
    format!("{}:{}:{}", of.idle.as_secs(), of.interval.as_secs(), of.count)
}

fn decimal(thousandths: u32) -> String {
    let digits = format!("{}.{:03}", thousandths / 1_000, thousandths % 1_000);
    digits.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// The word as a shell reads it back. Between single quotes nothing is special to any of them, not even the `!` of an
/// interactive one's history.
fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:,+@%=".contains(c);
    // `=ls` is the path of ls to some shells.
    if !word.is_empty() && !word.starts_with('=') && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::super::contract::{plain, serve};
    use super::*;
    use crate::spec::Member;

    #[test]
    fn a_line_has_what_differs_from_the_defaults_and_nothing_else() {
        // What is typed here in any order and spelling, and what is printed.
        let table = [
            ("80", "balance 80"),
            ("-t 5 -T 0 --policy rr --fail-open on --queue 0 --half-close-timeout 1h 80", "balance 80"),
            ("80 a ! b ! -fd -t2 --bind ::1", "balance -f -d -b ::1 -t 2 80 a '!' b"),
            ("-6pM -t .25 -T 90s 80 a %", "balance -p -6 -t 250ms -T 90 80 a %"),
            ("-t 1.5 -T 1h --half-close-timeout 0 80", "balance -t 1.5 -T 1h --half-close-timeout 0 80"),
            (
                "-aH -K 60:10:6 -k 1:2:3 --workers 4 --control-group adm -B 10.0.0.1 smtp a::12",
                "balance --workers 4 --control-group adm -B 10.0.0.1 -K 60:10:6 -k 1:2:3 -a -H smtp a::12",
            ),
            ("80 [::1] - h:80:3,disabled,weight=2", "balance 80 '[::1]' - h:80:3,weight=2,disabled"),
            ("80 -- -a -", "balance -- 80 -a -"),
            ("-- 80 -: !: %: - ! x", "balance -- 80 -: '!:' %: - '!' x"),
            ("--policy leastconn 80 a ! b % c", "balance --policy leastconn 80 a '!' b % c"),
            ("--policy rr,hash,p2c 80 a ! b ! c", "balance --policy rr,hash,p2c 80 a '!' b % c"),
            ("--policy first,first 80 a ! b", "balance --policy first,first 80 a '!' b"),
            ("--policy rr,hash 80 a ! b", "balance 80 a '!' b %"),
            ("--policy hash 80 a ! b", "balance --policy hash 80 a % b %"),
            ("--policy first 80", "balance --policy first 80"),
            (
                "--hash-balance 1.250 --slow-start 90 --max-lifetime 60m 80",
                "balance --hash-balance 1.25 --slow-start 90s --max-lifetime 1h 80",
            ),
            ("--hash-balance 10.0 80", "balance --hash-balance 10 80"),
            (
                "--max-connections 9 --queue 5 --queue-timeout 5s 80",
                "balance --max-connections 9 --queue 5 80",
            ),
            ("--queue 5 --queue-timeout 250ms 80", "balance --queue 5 --queue-timeout 250ms 80"),
            (
                "--check tcp --no-eject --fail-open off --on-down kick --refuse-when-down 80",
                "balance --no-eject --check tcp --fail-open off --on-down kick --refuse-when-down 80",
            ),
            ("--check tcp --check-interval 2 --check-rise 2 --check-fall 3 80", "balance --check tcp 80"),
            (
                "--check http:/x=200-299,404 --check-interval 1 --check-timeout 2 --check-rise 3 --check-fall 4 \
                 --check-port 5 80",
                "balance --check http:/x=200-299,404 --check-interval 1s --check-timeout 2s --check-rise 3 \
                 --check-fall 4 --check-port 5 80",
            ),
            (r"--check send:PING\r\n;expect:+PONG 80", r"balance --check 'send:PING\r\n;expect:+PONG' 80"),
        ];
        for (typed, printed) in table {
            assert_eq!(command_line(&serve(typed)), printed, "{typed}");
        }
    }

    #[test]
    fn what_only_a_running_instance_can_be_is_printed_as_near_as_can_be() {
        let with = |later, groups: &[(Policy, usize)]| {
            let group = |(policy, gaps): &(Policy, usize)| GroupSpec {
                policy: *policy,
                members: vec![Member::Gap; *gaps],
            };
            let mut serve = plain();
            serve.service.later_policy = later;
            serve.service.groups = groups.iter().map(group).collect();
            command_line(&serve)
        };
        use Policy::{First, Hash, LeastConnections, RoundRobin};
        assert_eq!(with(First, &[(RoundRobin, 1), (RoundRobin, 1)]), "balance 80 - '!' -");
        assert_eq!(with(First, &[(LeastConnections, 1)]), "balance --policy leastconn 80 -");
        assert_eq!(with(Hash, &[(First, 1), (Hash, 1)]), "balance --policy first,hash 80 - '!' - %");
        assert_eq!(with(RoundRobin, &[(RoundRobin, 0), (RoundRobin, 2)]), "balance 80 - '!' - -");
    }

    #[test]
    fn a_shell_reads_each_word_as_it_was() {
        let hostile = [
            "",
            " ",
            "plain",
            "a b",
            "it's",
            "'",
            "''",
            "\"",
            "$HOME",
            "$(echo x)",
            "`echo x`",
            "*",
            "?",
            "[a-z]",
            "!",
            "!!",
            "%",
            "-",
            "--",
            "-n",
            "a\nb",
            "\n",
            "a\tb",
            "\\",
            "a\\nb",
            "a\\'b",
            "~",
            "~root",
            "#",
            "a#b",
            "a;b",
            "a|b&c",
            "<x>y",
            "{a,b}",
            "=ls",
            "a=b",
            "x^y",
            "ü",
            "\u{a0}",
        ];
        let words: Vec<_> = hostile.iter().map(|word| quoted(word)).collect();
        let script = format!(r#"printf "%s\\0" {}"#, words.join(" "));
        let output = Command::new("sh").args(["-c", &script]).output().expect("there is a shell");
        let printed = String::from_utf8(output.stdout).expect("as it was given");
        let read: Vec<_> = printed.split_terminator('\0').collect();
        assert_eq!(read, hostile, "{script}");
        assert_eq!((quoted("!"), quoted("")), ("'!'".to_owned(), "''".to_owned()));
    }
}
