//! One line for each service: words are read into a [`ServiceSpec`], and it is printed as a line.
//!
//! Knows: what each word of a line is, and in which order wrong ones are reported. Never: single options,
//! files, `argv`.
//! Source: docs/compatibility.md, "Command line".

use super::asked::{MARK, print_sections};
use super::draft::Draft;
use super::groups::{print_groups, read_groups};
use super::options::{changed_names, changes, print_options};
use super::ports::read_ports;
use super::quote::quoted;
use super::row::Scope;
use super::split::{GivenOption, Split};
use super::wrong::{LineError, Word, Wrong};
use crate::spec::{Name, ProcessSpec, ServiceSpec, Typed};

/// The program's name. A line may begin with it, so that a command line can be pasted.
const PROGRAM: &str = "balance";
/// The message about a line without PORT.
pub(super) const NO_PORT: &str = "no PORT; give a number from 1 to 65535 or the name of a service";

/// Reads the words of one service: `[NAME:] [balance] [OPTIONS] PORT [CHANNEL ...]`.
///
/// # Errors
/// The first thing wrong, in this order: an unknown option or a missing value, PORT, the options, the
/// channels.
pub fn read_line(words: &[Word]) -> Result<ServiceSpec, LineError> {
    let mut errors = Vec::new();
    let service = read_service(words, &[], &mut errors);
    let nothing = || LineError { at: None, wrong: Wrong::Usage(NO_PORT.to_owned()) };
    service.ok_or_else(|| errors.into_iter().next().unwrap_or_else(nothing))
}

/// Like [`read_line`], but adds everything that is wrong to `errors`. `defaults` hold where the line says
/// nothing; they were judged before.
pub(super) fn read_service(
    words: &[Word],
    defaults: &[GivenOption],
    errors: &mut Vec<LineError>,
) -> Option<ServiceSpec> {
    let first = words.first()?;
    let (name, mut words) = match first.lossy().strip_suffix(':') {
        Some(name) => {
            let read = Name::new(name).ok_or_else(|| no_name(first));
            (Some(read.map_err(|wrong| errors.push(first.wrong(wrong)))), &words[1..])
        }
        None => (None, words),
    };
    if words.first().is_some_and(|word| word.text == PROGRAM) {
        words = &words[1..];
    }
    let split = Split::of(words);
    errors.extend(split.errors.iter().cloned());
    for given in &split.options {
        match given.row.scope {
            Scope::Service => (),
            Scope::Process => {
                let (name, example) = (given.name(), given.row.example());
                errors.push(given.word.wrong(Wrong::Usage(format!(
                    "{name} is for the whole process; write it in a line of its own: * {example}"
                ))));
            }
            Scope::Ask => errors.push(for_the_command_line(given)),
        }
    }
    let draft = read_draft(&split, defaults, errors);
    // An option without a value may have taken PORT as its value, and the missing value is reported already.
    let is_told = matches!(name, Some(Err(()))) || !split.errors.is_empty();
    if split.positionals.is_empty() && !is_told {
        errors.push(first.wrong(Wrong::Usage(NO_PORT.to_owned())));
    }
    let name = name.and_then(Result::ok);
    draft.filter(|_| errors.is_empty()).map(|draft| ServiceSpec { name, ..draft.settle().1 })
}

fn no_name(word: &Word) -> Wrong {
    let (shown, most) = (word.shown(), Name::LONGEST);
    let name = shown.trim_end_matches(':');
    Wrong::Usage(format!(
        "'{name}' is not the name of a service; a name has at most {most} letters, digits, '-', '_' and '.', and begins with a letter"
    ))
}

pub(super) fn for_the_command_line(given: &GivenOption) -> LineError {
    given.word.wrong(Wrong::Usage(format!("{} is for the command line only", given.name())))
}

/// Reads PORT, the options and the channels. `defaults` hold where the line says nothing; they were judged
/// before.
///
/// `None` if PORT is missing or wrong; the options and the channels are judged nevertheless. Behind an
/// unknown option it is not known which word is PORT and which are channels, so nothing is reported about
/// them.
pub(super) fn read_draft(
    split: &Split,
    defaults: &[GivenOption],
    errors: &mut Vec<LineError>,
) -> Option<Draft> {
    if split.is_unsure {
        let mut scratch = Draft::new(Draft::ANY_PORT, Typed::default());
        read_options(split, defaults, &mut scratch, errors);
        return None;
    }
    let port = split.positionals.first();
    let read = port.and_then(Word::as_str).and_then(read_ports);
    if let (Some(word), None) = (port, &read) {
        errors.push(word.wrong(Wrong::Port { word: word.shown() }));
    }
    let typed = port.map_or_else(Typed::default, Word::typed);
    let is_good = read.is_some();
    let mut draft = Draft::new(read.unwrap_or(Draft::ANY_PORT), typed);
    let channels = split.positionals.get(1..).unwrap_or_default();
    draft.has_names = channels.iter().any(|word| word.lossy().starts_with(MARK));
    read_options(split, defaults, &mut draft, errors);
    let mut groups = match name_apart(port, channels) {
        Some(error) => {
            errors.push(error);
            Vec::new()
        }
        None => {
            let (groups, sections) = read_groups(channels, errors);
            draft.service.sections = sections;
            groups
        }
    };
    if errors.is_empty() {
        match draft.policy.apply(&mut groups) {
            Ok(later) => draft.service.later_policy = later,
            Err(wrong) => {
                let wrong = Wrong::Usage(format!("--policy '{}' {wrong}", draft.policy.print()));
                let own = split.options.iter().rfind(|given| given.row.long == "policy");
                errors.extend(own.map(|given| &given.word).or(port).map(|word| word.wrong(wrong)));
            }
        }
    }
    draft.service.groups = groups;
    judge_needs(split, &draft, errors);
    is_good.then_some(draft)
}

/// The error for `web : 80 web1` and `web 80 web1`: the colon behind the name of a service is a word of its
/// own, or is missing. This reports one mistake once.
fn name_apart(port: Option<&Word>, channels: &[Word]) -> Option<LineError> {
    let name = port?.as_str().filter(|word| Name::new(word).is_some())?;
    let next = channels.first().and_then(Word::as_str);
    // A number alone is not a channel, whatever the first word is.
    if let (Some(port), Some(next)) = (port.filter(|port| port.at.is_some()), next)
        && next.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-')
        && next != "0"
        && read_ports(next).is_some()
    {
        let wrong = format!(
            "'{next}' is a number where a channel should be; if {name} is the name of the service, write {name}: {next} ..."
        );
        return Some(port.wrong(Wrong::Usage(wrong)));
    }
    let (colon, rest) = channels.split_first().filter(|(first, _)| first.text == ":")?;
    let next = rest.first().and_then(Word::as_str).filter(|word| read_ports(word).is_some()).unwrap_or("80");
    let why = match colon.at {
        Some(_) => format!("the colon stands right behind the name of a service; write {name}: {next}"),
        None => format!(
            "the host is missing; write host[:port[:maxc]]. Only a line of a file (--file) has a name in front, as in {name}: {next}"
        ),
    };
    Some(colon.wrong(Wrong::address(&colon.typed(), why)))
}

/// Reads the options in the order of the words. Of an option that is repeated, the last one counts.
pub(super) fn read_options(
    split: &Split,
    defaults: &[GivenOption],
    draft: &mut Draft,
    errors: &mut Vec<LineError>,
) {
    for given in defaults {
        let read = given.apply(draft);
        debug_assert!(read.is_ok(), "it was judged where it stands");
    }
    let own = split.last_options();
    let has = |long| own.iter().any(|given| given.row.long == long);
    // On one line -b overrides -6. But -6 on a line overrides a -b that holds for all lines.
    if has("ipv6") && !has("bind") {
        draft.bind = None;
    }
    for given in &own {
        if let Err(wrong) = given.apply(draft) {
            errors.push(given.word.wrong(wrong));
        }
    }
}

/// Reports options that have no effect without others. If the line has channels, the draft must have them by
/// now.
pub(super) fn judge_needs(split: &Split, draft: &Draft, errors: &mut Vec<LineError>) {
    for given in &split.last_options() {
        let unmet = given.row.needs.iter().find(|need| !(need.is_met)(draft));
        errors.extend(
            unmet.map(|need| given.word.wrong(Wrong::Usage(format!("{} {}", given.name(), need.wrong)))),
        );
    }
}

/// The line that [`read_line`] reads as this service: `NAME:` if it has a name, its options, PORT, its
/// channels, quoted for a POSIX shell. Options with default values are left out.
pub fn print_line(service: &ServiceSpec) -> String {
    let name = service.name.as_ref().map(|name| format!("{}:", name.as_str()));
    let words = service_words(service);
    // Behind the program's name, a port of that name is not taken for it.
    let program = words.first().filter(|word| *word == PROGRAM).cloned();
    join(name.into_iter().chain(program).chain(words))
}

/// The options of a process, quoted for a POSIX shell; empty if all have default values.
pub fn print_process(process: &ProcessSpec) -> String {
    join(process_words(process))
}

/// The options in which two services differ, in words: `--idle-timeout is 30, was 0`. Listen addresses and
/// channels are left out.
pub fn option_changes(before: &ServiceSpec, after: &ServiceSpec) -> Vec<String> {
    // A change of a group's policy is reported with the groups. The sections stay: some options exist only with
    // them.
    let plain = |service: &ServiceSpec| ServiceSpec { groups: Vec::new(), ..service.clone() };
    let mut told = changes(&Draft::of(plain(before)), &Draft::of(plain(after)));
    if before.sections != after.sections {
        let [now, was] = [after, before].map(|service| print_sections(&service.sections));
        told.push(format!("names are {now}, were {was}"));
    }
    told
}

/// The names of the process's options that have other values in `after`.
pub fn process_changes(before: &ProcessSpec, after: &ProcessSpec) -> Vec<String> {
    let draft = |process: &ProcessSpec| Draft {
        process: process.clone(),
        ..Draft::new(Draft::ANY_PORT, Typed::default())
    };
    changed_names(&draft(before), &draft(after))
}

/// The command line that starts an instance with exactly these settings: one line, without a newline, for any
/// POSIX shell, including an interactive one.
pub fn command_line(process: &ProcessSpec, service: &ServiceSpec) -> String {
    let program = std::iter::once(PROGRAM.to_owned());
    join(program.chain(process_words(process)).chain(service_words(service)))
}

fn join(words: impl IntoIterator<Item = String>) -> String {
    words.into_iter().map(|word| quoted(&word)).collect::<Vec<_>>().join(" ")
}

fn process_words(process: &ProcessSpec) -> Vec<String> {
    let plain = Draft::new(Draft::ANY_PORT, Typed::default());
    let draft = Draft { process: process.clone(), ..plain.clone() };
    print_options(&draft, &plain, Scope::Process)
}

fn service_words(service: &ServiceSpec) -> Vec<String> {
    let plain = Draft::new(Draft::ANY_PORT, Typed::default());
    let mut words = print_options(&Draft::of(service.clone()), &plain, Scope::Service);
    let channels = print_groups(&service.groups, &service.sections);
    // A dash alone is not an option. Any other word that begins with a dash would be read as one.
    if channels.iter().any(|word| word.starts_with('-') && word != "-") {
        words.push("--".to_owned());
    }
    words.push(service.listen.ports.to_string());
    words.extend(channels);
    words
}

#[cfg(test)]
mod tests {
    use super::super::Serve;
    use super::super::contract::{plain, serve};
    use super::*;
    use crate::spec::{GroupSpec, Member, Policy};

    fn said(serve: &Serve) -> String {
        command_line(&serve.process, &serve.service)
    }

    #[test]
    fn a_line_has_what_differs_from_the_defaults_and_nothing_else() {
        // Command lines in any order and spelling, and how each is printed.
        let table = [
            ("80", "balance 80"),
            ("-t 5 -T 0 --policy rr --fail-open on --queue 0 --half-close-timeout 10m 80", "balance 80"),
            ("80 a ! b ! -fd -t2 --bind ::1", "balance -f -d -b ::1 -t 2 80 a '!' b"),
            ("-6pM -t .25 -T 90s 80 a %", "balance -p -6 -t 250ms -T 90 80 a %"),
            ("-t 1.5 -T 1h --half-close-timeout 0 80", "balance -t 1.5 -T 1h --half-close-timeout 0 80"),
            (
                "-aH -K 60:10:6 -k 1:2:3 --workers 4 --control-group adm -B 10.0.0.1 smtp a::12",
                "balance --workers 4 --control-group adm -K 60:10:6 -B 10.0.0.1 -k 1:2:3 -a -H smtp a::12",
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
            assert_eq!(said(&serve(typed)), printed, "{typed}");
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
            said(&serve)
        };
        use Policy::{First, Hash, LeastConnections, RoundRobin};
        assert_eq!(
            with(First, &[(RoundRobin, 1), (RoundRobin, 1)]),
            "balance --policy rr,rr,first 80 - '!' -"
        );
        assert_eq!(with(First, &[(LeastConnections, 1)]), "balance --policy leastconn,first 80 -");
        assert_eq!(with(Hash, &[(First, 1), (Hash, 1)]), "balance --policy first,hash,hash 80 - '!' - %");
        assert_eq!(with(RoundRobin, &[(RoundRobin, 0), (RoundRobin, 2)]), "balance 80 - '!' - -");
    }
}
