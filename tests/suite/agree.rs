//! Reads the counts that each form of output shows, so that they can be compared.
//!
//! A count has the same name in every form: `web 0/1 sent`, `web 0/1 end client closed`,
//! `web 0/1 failed connection refused`, `web end queue timeout`. Something that was never counted has no
//! name.

use std::collections::BTreeMap;

use serde_json::Value;

use super::access::Line;

/// Numbers by their names.
pub(super) type Numbers = BTreeMap<String, u64>;

fn add(numbers: &mut Numbers, name: String, more: u64) {
    if more > 0 {
        *numbers.entry(name).or_default() += more;
    }
}

/// What the lines of an access log say, by the services' names; that of the only service of a process is empty.
pub(super) fn of_log(lines: &[Line]) -> Numbers {
    let mut all = Numbers::new();
    for line in lines.iter().filter(|line| line["event"] == "end") {
        let service = line["service"].trim_start_matches('-');
        add(&mut all, format!("{service} end {}", line["end"]), 1);
        if line["channel"] != "-" {
            let channel = format!("{service} {}/{}", line["group"], line["channel"]);
            add(&mut all, format!("{channel} end {}", line["end"]), 1);
            for key in ["sent", "rcvd"] {
                add(&mut all, format!("{channel} {key}"), line[key].parse().expect("a number"));
            }
        }
        for one in line["failed"].split("; ").filter(|&one| one != "-") {
            let [channel, _address, error] = one.splitn(3, ' ').collect::<Vec<_>>()[..] else {
                panic!("no attempt: {one:?}");
            };
            let cause = error.split(": ").next().expect("there is always a first one");
            add(&mut all, format!("{service} {channel} failed {cause}"), 1);
        }
    }
    all
}

/// What `show json` or `status json` says of a service. Sums have to be what they are of.
pub(super) fn of_json(answer: &Value, service: &str) -> Numbers {
    let mut all = Numbers::new();
    let number = |value: &Value| value.as_u64().unwrap_or_else(|| panic!("no number: {value}"));
    let mut reasons = |of: &Value, what: String| {
        let reasons = of["reasons"].as_object().expect("reasons");
        let sum: u64 = reasons.values().map(number).sum();
        assert_eq!(number(&of["total"]), sum, "{what}: {of}");
        reasons.iter().for_each(|(why, count)| add(&mut all, format!("{what} {why}"), number(count)));
    };
    reasons(&answer["ended"], format!("{service} end"));
    let groups = answer["groups"].as_array().expect("groups").iter();
    let channels = groups
        .flat_map(|group| group["channels"].as_array().expect("channels").iter().map(move |c| (group, c)));
    let channels: Vec<_> = channels
        .map(|(group, channel)| (format!("{service} {}/{}", group["group"], channel["channel"]), channel))
        .collect();
    for (name, channel) in &channels {
        reasons(&channel["ended"], format!("{name} end"));
        reasons(&channel["failures"], format!("{name} failed"));
        assert_eq!(channel["failures"]["total"], channel["failed"], "{name}: {channel}");
    }
    for (name, channel) in channels {
        for (key, field) in [("sent", "sent_bytes"), ("rcvd", "rcvd_bytes"), ("totalc", "totalc")] {
            add(&mut all, format!("{name} {key}"), number(&channel[field]));
        }
    }
    all
}

/// What `/metrics` says of all services. `names`: how a service is called that it is labelled as.
pub(super) fn of_metrics(text: &str, name: impl Fn(&str) -> String) -> Numbers {
    let (mut all, mut sums) = (Numbers::new(), Numbers::new());
    for line in text.lines().filter(|line| line.starts_with("balance_")) {
        let (series, value) = line.rsplit_once(' ').expect("a sample");
        let (family, labels) = series.split_once('{').unwrap_or((series, ""));
        let label = |key: &str| {
            let (_, rest) = labels.split_once(&format!("{key}=\""))?;
            rest.split_once('"').map(|(value, _)| value)
        };
        let Some(service) = label("service").map(&name) else { continue };
        let channel =
            label("channel").map(|channel| format!("{service} {}/{channel}", label("group").unwrap_or("?")));
        let why = |key| label(key).unwrap_or_else(|| panic!("no {key}: {line}"));
        let count = || value.parse::<u64>().unwrap_or_else(|_| panic!("no count: {line}"));
        match (family, channel) {
            ("balance_service_ends_total", None) => {
                add(&mut all, format!("{service} end {}", why("reason")), count());
            }
            ("balance_channel_ends_total", Some(channel)) => {
                add(&mut all, format!("{channel} end {}", why("reason")), count());
                add(&mut sums, format!("{channel} ends"), count());
            }
            ("balance_channel_dial_failures_total", Some(channel)) => {
                add(&mut all, format!("{channel} failed {}", why("cause")), count());
                add(&mut sums, format!("{channel} failures"), count());
            }
            ("balance_channel_sent_bytes_total", Some(channel)) => {
                add(&mut all, format!("{channel} sent"), count());
            }
            ("balance_channel_received_bytes_total", Some(channel)) => {
                add(&mut all, format!("{channel} rcvd"), count());
            }
            ("balance_channel_connections_total", Some(channel)) => {
                add(&mut all, format!("{channel} totalc"), count());
            }
            _ => {}
        }
    }
    // The same things counted otherwise.
    for line in text.lines() {
        let Some((series, value)) = line.rsplit_once(' ') else { continue };
        let Some((family, labels)) = series.split_once('{') else { continue };
        let what = match family {
            "balance_channel_connect_failures_total" => "failures",
            "balance_channel_connection_duration_seconds_count" => "ends",
            _ => continue,
        };
        let label =
            |key: &str| labels.split_once(&format!("{key}=\"")).and_then(|(_, rest)| rest.split('"').next());
        let (Some(service), Some(group), Some(channel)) =
            (label("service"), label("group"), label("channel"))
        else {
            panic!("no channel: {line}");
        };
        let sum = sums.get(&format!("{} {group}/{channel} {what}", name(service))).copied().unwrap_or(0);
        assert_eq!(value.parse(), Ok(sum), "{line}: {sums:?}");
    }
    all
}

/// Those of the numbers that an access log has, too.
pub(super) fn logged(numbers: &Numbers) -> Numbers {
    let logged = numbers.iter().filter(|(name, _)| !name.ends_with(" totalc"));
    logged.map(|(name, count)| (name.clone(), *count)).collect()
}

/// What is only on one side, or differs.
pub(super) fn difference(one: &Numbers, other: &Numbers) -> Vec<String> {
    let names: std::collections::BTreeSet<_> = one.keys().chain(other.keys()).collect();
    let differing = names.into_iter().filter(|&name| one.get(name) != other.get(name));
    differing
        .map(|name| {
            format!("{name}: {:?} and {:?}", one.get(name).unwrap_or(&0), other.get(name).unwrap_or(&0))
        })
        .collect()
}
