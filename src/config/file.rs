//! Files of services: each line is one service, as it would be typed, or `* OPTIONS` for all services.
//!
//! Knows: which kind a line is, what two lines cannot both have. Never: how a file is found and opened,
//! whether a host exists.
//! Source: docs/file.md.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::{IpAddr, Ipv4Addr};

use super::draft::Draft;
use super::lex::{SourceLine, SourceLines};
use super::line::{for_the_command_line, print_line, print_process, read_options, read_service};
use super::places::{ListenAddress, Places};
use super::row::Scope;
use super::split::{GivenOption, Split};
use super::wrong::{LineError, Word, Wrong};
use crate::spec::{Address, ListenHost, ListenSpec, Name, PortsSpec, ProcessSpec, ServiceSpec, Spot, Typed};

/// The word that begins a line for all services.
const ALL: &str = "*";
/// How many errors are reported at most; nobody reads more.
const MOST_ERRORS: usize = 100;

/// Reads several files as if they were one.
pub struct FileReader {
    /// Options of services that hold for each later line that does not give them, in the order in which they
    /// were read.
    defaults: Vec<GivenOption>,
    /// Options of the process from the files, ...
    process: Vec<GivenOption>,
    /// ... and from the command line, which override those.
    typed: Vec<GivenOption>,
    services: Vec<ServiceSpec>,
    names: BTreeMap<Name, Spot>,
    /// Where the services listen, by port.
    places: Places<Spot>,
    errors: Vec<LineError>,
    last: Option<Spot>,
}

impl FileReader {
    /// Makes a reader. `words` are the words of the command line; their options hold for all files.
    ///
    /// # Errors
    /// The first thing that is wrong on the command line.
    pub fn new(words: &[Word]) -> Result<Self, LineError> {
        let split = Split::of(words);
        let mut errors = split.errors.clone();
        let mut scratch = Draft::new(Draft::ANY_PORT, Typed::default());
        read_options(&split, &[], &mut scratch, &mut errors);
        if let Some(error) = errors.into_iter().next() {
            return Err(error);
        }
        let (mut defaults, mut typed) = (Vec::new(), Vec::new());
        for given in split.last_options() {
            match given.row.scope {
                Scope::Service => defaults.push(given.clone()),
                Scope::Process => typed.push(given.clone()),
                Scope::Ask => (),
            }
        }
        Ok(Self {
            defaults,
            process: Vec::new(),
            typed,
            services: Vec::new(),
            names: BTreeMap::new(),
            places: Places::default(),
            errors: Vec::new(),
            last: None,
        })
    }

    /// Reads one more file. `name` is its name in messages.
    pub fn read(&mut self, name: &str, text: &[u8]) {
        let start = Spot { file: name.into(), line: 1, column: 1 };
        self.last.get_or_insert_with(|| start.clone());
        if let Some(before) = text.iter().position(|byte| *byte == 0) {
            let line = text[..before].iter().filter(|byte| **byte == b'\n').count();
            let line = u32::try_from(line).map_or(u32::MAX, |n| n.saturating_add(1));
            let wrong = "this is not text: there is a zero byte in this line";
            self.wrong(Spot { line, ..start }, wrong);
            return;
        }
        for line in SourceLines::of(name, text) {
            if self.errors.len() > MOST_ERRORS {
                return;
            }
            self.line(line);
        }
    }

    /// Records a file that could not be read.
    pub fn unreadable(&mut self, error: LineError) {
        self.errors.push(error);
    }

    /// What the files define.
    ///
    /// # Errors
    /// Everything that is wrong, in the order of the files, lines and words; at most `MOST_ERRORS`, and
    /// then a line that says so.
    pub fn finish(mut self) -> Result<(ProcessSpec, Vec<ServiceSpec>), Vec<LineError>> {
        if self.services.is_empty() && self.errors.is_empty() {
            let wrong = "no service; write at least one line such as: 80 web1 web2";
            let wrong = Wrong::Usage(wrong.to_owned());
            self.errors.push(LineError { at: self.last.take(), wrong });
        }
        if !self.errors.is_empty() {
            if self.errors.len() > MOST_ERRORS {
                self.errors.truncate(MOST_ERRORS);
                let wrong = format!("there are more errors; these are the first {MOST_ERRORS}");
                let at = self.errors.last().and_then(|error| error.at.clone());
                self.errors.push(LineError { at, wrong: Wrong::Usage(wrong) });
            }
            return Err(self.errors);
        }
        let mut draft = Draft::new(Draft::ANY_PORT, Typed::default());
        for given in self.process.iter().chain(&self.typed) {
            let read = given.apply(&mut draft);
            debug_assert!(read.is_ok(), "it was judged where it stands");
        }
        Ok((draft.process, self.services))
    }

    fn wrong(&mut self, at: Spot, wrong: impl Into<String>) {
        self.errors.push(LineError { at: Some(at), wrong: Wrong::Usage(wrong.into()) });
    }

    fn line(&mut self, line: SourceLine) {
        if let Some(error) = line.error {
            self.errors.push(error);
            return;
        }
        let Some((first, rest)) = line.words.split_first() else { return };
        if first.text == ALL {
            self.all(first, rest);
            return;
        }
        let mut errors = Vec::new();
        let service = read_service(&line.words, &self.defaults, &mut errors);
        // In the order of the words, though they were not judged in this order.
        errors.sort_by_key(|error| error.at.as_ref().map(|at| (at.line, at.column)));
        self.errors.append(&mut errors);
        if let Some(service) = service {
            self.add(service, first);
        }
    }

    /// Reads a line `* OPTIONS`.
    fn all(&mut self, star: &Word, words: &[Word]) {
        let split = Split::of(words);
        let mut errors = split.errors.clone();
        for given in &split.options {
            if given.row.scope == Scope::Ask {
                errors.push(for_the_command_line(given));
            }
        }
        let wrong = "a line that begins with * has options only; services have lines of their own";
        errors.extend(
            split
                .positionals
                .first()
                .filter(|_| !split.is_unsure)
                .map(|word| word.wrong(Wrong::Usage(wrong.to_owned()))),
        );
        if words.is_empty() {
            let wrong = "a line that begins with * needs options, such as: * --workers 2";
            errors.push(star.wrong(Wrong::Usage(wrong.to_owned())));
        }
        let mut scratch = Draft::new(Draft::ANY_PORT, Typed::default());
        for given in split.last_options() {
            match given.apply(&mut scratch) {
                Ok(()) if given.row.scope == Scope::Process => self.process.push(given.clone()),
                Ok(()) if given.row.scope == Scope::Service => self.defaults.push(given.clone()),
                Ok(()) => (),
                Err(wrong) => errors.push(given.word.wrong(wrong)),
            }
        }
        errors.sort_by_key(|error| error.at.as_ref().map(|at| (at.line, at.column)));
        self.errors.append(&mut errors);
    }

    /// Adds a service whose own line is correct, unless its name or a port is taken.
    fn add(&mut self, service: ServiceSpec, first: &Word) {
        let Some(at) = first.at.clone() else { return };
        if let Some(name) = service.name.clone() {
            match self.names.entry(name) {
                Entry::Occupied(taken) => {
                    let (name, other) = (taken.key().as_str(), taken.get());
                    let wrong =
                        format!("the name '{name}' is taken by the service at {other}; give another one");
                    return self.wrong(at, wrong);
                }
                Entry::Vacant(free) => _ = free.insert(at.clone()),
            }
        }
        let ports: Vec<String> = match &service.listen.ports {
            PortsSpec::One(port) => vec![port.to_string()],
            PortsSpec::Unix(name) => vec![name.to_string()],
            PortsSpec::Range(range) => {
                (range.first().get()..=range.last().get()).map(|port| port.to_string()).collect()
            }
        };
        if let Some((port, other)) = self.places.take(&ports, &place(&service.listen), at.clone()) {
            let wrong = match service.listen.ports.unix() {
                Some(name) => format!("the service at {other} listens on {name}, too; give another path"),
                None => format!(
                    "the service at {other} listens on port {port} of the same address; give another port, or an address of \
                     its own with -b"
                ),
            };
            let at = service.listen.typed.at.clone().unwrap_or(at);
            return self.wrong(at, wrong);
        }
        self.services.push(service);
    }
}

/// Reads one file that needs no other. `file` is its name in messages.
///
/// # Errors
/// Everything that is wrong, in the order of the lines and words.
pub fn read_file(file: &str, text: &[u8]) -> Result<(ProcessSpec, Vec<ServiceSpec>), Vec<LineError>> {
    let mut reader = FileReader::new(&[]).map_err(|error| vec![error])?;
    reader.read(file, text);
    reader.finish()
}

/// The file that [`read_file`] reads as this process and these services.
pub fn print_file(process: &ProcessSpec, services: &[ServiceSpec]) -> String {
    let all = print_process(process);
    let all = (!all.is_empty()).then(|| format!("{ALL} {all}\n"));
    all.into_iter().chain(services.iter().map(|service| print_line(service) + "\n")).collect()
}

/// Where the service listens, as far as it can be known without a resolver.
fn place(listen: &ListenSpec) -> ListenAddress {
    if let Some(name) = listen.ports.unix() {
        return Address::from(name).into();
    }
    match &listen.host {
        ListenHost::AnyV4 => ListenAddress::of(Ipv4Addr::UNSPECIFIED.into(), 0),
        ListenHost::AnyV6 => ListenAddress::AnyAddress,
        ListenHost::Host(host) => match host.name.parse::<IpAddr>() {
            Ok(ip) => ListenAddress::of(ip, 0),
            Err(_) => ListenAddress::Name(host.name.to_ascii_lowercase()),
        },
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::channel::print_channel;
    use super::super::channel::tests::word;
    use super::*;
    use crate::spec::Member;

    fn read(text: &str) -> (ProcessSpec, Vec<ServiceSpec>) {
        read_file("f", text.as_bytes()).unwrap_or_else(|errors| panic!("{text}\n{}", told(&errors)))
    }

    fn told(errors: &[LineError]) -> String {
        errors.iter().map(|error| format!("{error}\n")).collect()
    }

    /// Each service as a line of its own.
    fn lines(text: &str) -> Vec<String> {
        read(text).1.iter().map(print_line).collect()
    }

    #[test]
    fn each_line_is_a_service_as_it_would_be_typed() {
        let text = "\
# The shop.
web:  80 web1 web2:8080 ! sorry      # the old one
      -T 5m -b 10.0.0.1 imap mail::16 \\
          mail2
balance 25 mx1
pop: balance -t2 110 'pop1' \"pop2\" %
";
        assert_eq!(
            lines(text),
            [
                "web: 80 web1 web2:8080 '!' sorry",
                "-b 10.0.0.1 -T 5m imap mail::16 mail2",
                "25 mx1",
                "pop: -t 2 110 pop1 pop2 %",
            ]
        );
    }

    #[test]
    fn a_star_begins_options_of_the_process_and_defaults_of_what_follows() {
        let text = "\
1 a
* --workers 2 -t 1 --check tcp -b 10.0.0.1
* --foreground -T 9 --check-interval 5s
2 b
3 -t 7 --check-rise 1 c
4 -6 d
* -t 5
5 e --check http:/
6 -b ::1 f
";
        let (process, services) = read(text);
        assert_eq!(print_process(&process), "-f --workers 2");
        let services: Vec<_> = services.iter().map(print_line).collect();
        let both = "--check tcp --check-interval 5s";
        assert_eq!(
            services,
            [
                "1 a".to_owned(),
                format!("-b 10.0.0.1 -t 1 -T 9 {both} 2 b"),
                format!("-b 10.0.0.1 -t 7 -T 9 {both} --check-rise 1 3 c"),
                format!("-6 -t 1 -T 9 {both} 4 d"),
                "-b 10.0.0.1 -T 9 --check http:/ --check-interval 5s 5 e".to_owned(),
                format!("-b ::1 -T 9 {both} 6 f"),
            ]
        );
        // Options that go with --check are no mistake where a line has no check.
        assert_eq!(lines("* --check-interval 5s --queue-timeout 9s --on-down kick\n80 a"), ["80 a"]);
    }

    #[test]
    fn options_of_the_command_line_hold_for_all_files_and_those_of_the_process_win() {
        let words: Vec<_> = "--file x -t 1 --workers 3 --file y".split(' ').map(word).collect();
        let mut reader = FileReader::new(&words).expect("legal");
        reader.read("x", b"* --workers 2 --busy-poll on\n80 a");
        reader.read("y", b"81 -t 2 b\n* -T 3\n");
        reader.read("z", b"82 c");
        let (process, services) = reader.finish().expect("legal");
        assert_eq!(print_process(&process), "--workers 3 --busy-poll on");
        let services: Vec<_> = services.iter().map(print_line).collect();
        assert_eq!(
            services,
            ["-t 1 80 a", "-t 2 81 b", "-t 1 -T 3 82 c"],
            "a later file goes on where the one before ends"
        );
        assert!(FileReader::new(&[word("--workers"), word("0")]).is_err());
    }

    #[test]
    fn words_of_a_service_know_where_they_stand() {
        let (_, services) = read("\n\nweb: -b lo -B src 80 \\\n  a b");
        let spot = |typed: &Typed| format!("{} {}", typed.text, typed.at.as_ref().expect("in a file"));
        let ListenSpec { host: ListenHost::Host(bind), typed: port, .. } = &services[0].listen else {
            panic!("-b")
        };
        let source = services[0].sources.first().expect("-B");
        assert_eq!(
            [spot(&bind.typed), spot(&source.typed), spot(port)],
            ["lo f:3:9", "src f:3:15", "80 f:3:19"]
        );
        let channels = services[0].groups[0].members.iter().map(|member| match member {
            Member::Channel(channel) => format!("{} {}", print_channel(channel), spot(&channel.typed)),
            Member::Gap => panic!("no gap"),
        });
        assert_eq!(channels.collect::<Vec<_>>(), ["a a f:4:3", "b b f:4:5"]);
    }

    #[test]
    fn whatever_is_wrong_is_told_with_its_place_and_what_would_be_right() {
        let port = "give a number from 1 to 65535 or the name of a service";
        let table: &[(&str, &[&str])] = &[
            ("", &["f:1:1: no service; write at least one line such as: 80 web1 web2"]),
            ("# nothing\n", &["f:1:1: no service; write at least one line such as: 80 web1 web2"]),
            ("70000 a", &[&format!("f:1:1: invalid port [70000]; {port}")]),
            (
                "web:80 a",
                &[
                    "f:1:1: invalid port [web:80]; for a service that is called web write web: 80, for port 80 of an address -b web 80",
                ],
            ),
            (
                "10.0.0.1:80 a",
                &["f:1:1: invalid port [10.0.0.1:80]; for port 80 of 10.0.0.1 write -b 10.0.0.1 80"],
            ),
            ("[::1]:80 a", &["f:1:1: invalid port [[::1]:80]; for port 80 of ::1 write -b ::1 80"]),
            (
                "*:80 a\n:81 a",
                &[
                    "f:1:1: invalid port [*:80]; for port 80 write 80",
                    "f:2:1: invalid port [:81]; for port 81 write 81",
                ],
            ),
            (
                "web:0 a\nweb:70000 a",
                &[
                    &format!("f:1:1: invalid port [web:0]; {port}"),
                    &format!("f:2:1: invalid port [web:70000]; {port}"),
                ],
            ),
            // Two files with byte order marks, joined into one; and a blank that is not ASCII.
            ("\u{feff}80 a\n\u{feff}81 a", &[&format!("f:2:1: invalid port [<U+FEFF>81]; {port}")]),
            ("80\u{a0}a", &[&format!("f:1:1: invalid port [80<U+00A0>a]; {port}")]),
            (
                "80 a\u{a0}b",
                &[
                    "f:1:4: unknown or invalid address [a<U+00A0>b]: a host has no blanks, brackets or control characters in it",
                ],
            ),
            (
                "80 a \\ \n81 b",
                &["f:1:6: blanks follow the backslash, so the line does not go on; remove them"],
            ),
            (
                "80 a \\\t\r\n",
                &["f:1:6: blanks follow the backslash, so the line does not go on; remove them"],
            ),
            ("80 a \\ ", &["f:1:6: blanks follow the backslash, so the line does not go on; remove them"]),
            ("web:", &[&format!("f:1:1: no PORT; {port}")]),
            (
                "web: -f",
                &[
                    &format!("f:1:1: no PORT; {port}"),
                    "f:1:6: -f (--foreground) is for the whole process; write it in a line of its own: * -f",
                ],
            ),
            ("-t 5", &[&format!("f:1:1: no PORT; {port}")]),
            (
                "web : 80 a",
                &[
                    "f:1:5: unknown or invalid address [:]: the colon stands right behind the name of a service; write web: 80",
                ],
            ),
            (
                "80 : 80",
                &[
                    "f:1:4: unknown or invalid address [:]: the host is missing; write host[:port[:maxc]]",
                    "f:1:6: unknown or invalid address [80]: '80' is a number where a host should be; for port 80 of this machine write localhost:80",
                ],
            ),
            (
                "db 5432 db1 db2",
                &[
                    "f:1:1: '5432' is a number where a channel should be; if db is the name of the service, write db: 5432 ...",
                ],
            ),
            (
                "ftp 30000-30010 [::1",
                &[
                    "f:1:1: '30000-30010' is a number where a channel should be; if ftp is the name of the service, write ftp: 30000-30010 ...",
                ],
            ),
            ("30000..30010 a", &["f:1:1: invalid port [30000..30010]; a range is written 30000-30010"]),
            ("/run/x a:1", &["f:1:1: invalid port [/run/x]; a Unix socket is written unix:/run/x"]),
            (
                "unix:/run/x,proxy a:1",
                &[
                    "f:1:1: invalid port [unix:/run/x,proxy]; options behind a comma are for a channel; write unix:/run/x, or unix:/run/x%2Cproxy if the comma is part of the name",
                ],
            ),
            (
                "80 /run/x:3",
                &["f:1:4: unknown or invalid address [/run/x:3]: a Unix socket is written unix:/run/x"],
            ),
            (
                "--conect-timeout 5 80 a",
                &["f:1:1: unknown option '--conect-timeout'; did you mean '--connect-timeout'?"],
            ),
            (
                "80 a --frobnicate 0",
                &["f:1:6: unknown option '--frobnicate'; 'balance --help' lists all options"],
            ),
            (
                "80 a:x:y --frobnicate=0",
                &[
                    "f:1:4: unknown or invalid address [a:x:y]: 'y' is not a maxc; give a number from 0 to 4294967295, 0 for no limit",
                    "f:1:10: unknown option '--frobnicate'; 'balance --help' lists all options",
                ],
            ),
            (
                "80 -z 5 -t 5x",
                &[
                    "f:1:4: unknown option '-z'; 'balance --help' lists all options",
                    "f:1:12: -t (--connect-timeout) '5x' is not a time; write seconds or a number with a unit, such as 5, 1.5, 250ms, 2m, 1h, 1d",
                ],
            ),
            ("* --workerz 2\n80 a", &["f:1:3: unknown option '--workerz'; did you mean '--workers'?"]),
            (
                "80 a --on-change",
                &["f:1:6: option --on-change (now --event-program) needs a value: --event-program PROG"],
            ),
            (
                "80 a --autodisable=1",
                &[
                    "f:1:6: option --autodisable (now --disable-on-failure) takes no value, but has '1'; write -a",
                ],
            ),
            ("80 a -t", &["f:1:6: option -t (--connect-timeout) needs a value: -t TIME"]),
            ("80 a --bind=::1 --binde x", &["f:1:17: unknown option '--binde'; did you mean '--bind'?"]),
            (
                "80 -t 5x a",
                &[
                    "f:1:7: -t (--connect-timeout) '5x' is not a time; write seconds or a number with a unit, such as 5, 1.5, 250ms, 2m, 1h, 1d",
                ],
            ),
            ("80 --on-down drop a", &["f:1:14: 'drop' is not a value of --on-down; it is one of keep, kick"]),
            (
                "80 --on-down kick a",
                &["f:1:14: --on-down kick needs --check; say how to check, such as --check tcp"],
            ),
            (
                "80 --queue-timeout 1s a",
                &[
                    "f:1:20: --queue-timeout needs --queue; say how many clients may wait, such as --queue 100",
                ],
            ),
            (
                "80 --workers 2 a",
                &["f:1:14: --workers is for the whole process; write it in a line of its own: * --workers N"],
            ),
            ("80 a --help", &["f:1:6: --help is for the command line only"]),
            ("* --file x\n80 a", &["f:1:10: --file is for the command line only"]),
            ("80 a -c show", &["f:1:9: -c (--command) is for the command line only"]),
            (
                "* 80 a\n81 b",
                &["f:1:3: a line that begins with * has options only; services have lines of their own"],
            ),
            ("*\n80 a", &["f:1:1: a line that begins with * needs options, such as: * --workers 2"]),
            (
                "* -t 0\n80 a",
                &["f:1:6: -t (--connect-timeout) must be more than 0; it is 5 seconds without -t"],
            ),
            (
                "* --policy rr,first\n80 a\n81 a ! b ! c",
                &[
                    "f:3:1: --policy 'rr,first' has 2 policies, but the number of groups is 3; give one for each group, or one word for all",
                ],
            ),
            (
                "80 --policy rr,first a ! b ! c",
                &[
                    "f:1:13: --policy 'rr,first' has 2 policies, but the number of groups is 3; give one for each group, or one word for all",
                ],
            ),
            ("80 ! a", &["f:1:4: no channels in group; write a channel before ! and %"]),
            (
                "80 a:x:y 8080 a,b -b [::1",
                &[
                    "f:1:4: unknown or invalid address [a:x:y]: 'y' is not a maxc; give a number from 0 to 4294967295, 0 for no limit",
                    "f:1:10: unknown or invalid address [8080]: '8080' is a number where a host should be; for port 8080 of this machine write localhost:8080",
                    "f:1:15: unknown option 'b' in [a,b]; a channel has weight=N, proxy, proxy=v1, check=SPEC, disabled, disabled=hard, each and lazy",
                    "f:1:22: unknown or invalid address [[::1]: give a host or an address here, without a port",
                ],
            ),
            (
                "9x!: 80 a",
                &[
                    "f:1:1: '9x!' is not the name of a service; a name has at most 63 letters, digits, '-', '_' and '.', and begins with a letter",
                ],
            ),
            (
                "web: 80 a\n\nweb: 81 b",
                &["f:3:1: the name 'web' is taken by the service at f:1:1; give another one"],
            ),
            (
                "80 a\n-b 0.0.0.0 80 b",
                &[
                    "f:2:12: the service at f:1:1 listens on port 80 of the same address; give another port, or an address of its own with -b",
                ],
            ),
            (
                "80 'a\n81 $b\n82 c",
                &[
                    "f:1:4: the quote is not closed on its line",
                    "f:2:4: $ is special to a shell, but not here; quote the word that has it: '...'",
                ],
            ),
            ("80 a\n81 b\0\n82 c", &["f:2:1: this is not text: there is a zero byte in this line"]),
            (
                "70000 a\n80 b:0\n81 c\nx: 81 d --workers 1",
                &[
                    &format!("f:1:1: invalid port [70000]; {port}"),
                    &format!("f:2:4: unknown or invalid address [b:0]: '0' is not a port; {port}"),
                    "f:4:19: --workers is for the whole process; write it in a line of its own: * --workers N",
                ],
            ),
        ];
        for (text, expected) in table {
            let errors = read_file("f", text.as_bytes()).expect_err(text);
            let expected: String = expected.iter().map(|line| format!("{line}\n")).collect();
            assert_eq!(told(&errors), expected, "{text}");
        }
    }

    #[test]
    fn services_that_would_meet_are_found_as_far_as_words_tell() {
        let table = [
            ("80 a\n80 b", true),
            ("80 a\n081 b\n081 c", true),
            ("80 a\n81 b", false),
            ("http a\nhttp b", true),
            ("80 a\n-b 10.0.0.1 80 b", true),
            ("-b 10.0.0.1 80 b\n80 a", true),
            ("-b 10.0.0.1 80 a\n-b 10.0.0.2 80 b", false),
            ("-b 10.0.0.1 80 a\n-b ::ffff:10.0.0.1 80 b", true),
            ("-6 80 a\n-b 10.0.0.1 80 b", true),
            ("-6 80 a\n80 b", true),
            ("-b :: 80 a\n80 b", true),
            ("80 a\n-b ::1 80 b", false),
            ("-b ::1 80 a\n-b 0:0::1 80 b", true),
            ("-b lo 80 a\n-b LO 80 b", true),
            ("-b lo 80 a\n-b 10.0.0.1 80 b", false),
        ];
        for (text, meet) in table {
            assert_eq!(read_file("f", text.as_bytes()).is_err(), meet, "{text}");
        }
    }

    #[test]
    fn the_first_hundred_errors_are_enough() {
        let errors = read_file("f", "0 a\n".repeat(5_000).as_bytes()).expect_err("all wrong");
        assert_eq!(errors.len(), MOST_ERRORS + 1);
        let last = errors.last().expect("many").to_string();
        assert_eq!(last, "f:100:1: there are more errors; these are the first 100");
    }

    #[test]
    fn a_file_that_is_none_of_ours_is_not_printed_in_full() {
        let long = "x".repeat(10_000);
        for text in [
            format!("{long}: 80"),
            format!("{long}! a"),
            format!("80 {long}:0!"),
            format!("80 h:{long}!,{long}"),
            format!("80 h,{long}"),
            format!("80 -t {long} a"),
            format!("80 --{long} a"),
            format!("80 -b {long}: a"),
        ] {
            let errors = read_file("f", text.as_bytes()).expect_err(&text);
            assert!(told(&errors).len() < 800, "{}", told(&errors));
        }
    }

    proptest! {
        #[test]
        fn any_file_is_answered(pieces in prop::collection::vec(piece(), 0..24)) {
            let text = pieces.concat();
            match read_file("f", &text) {
                Ok((process, services)) => {
                    let printed = print_file(&process, &services);
                    prop_assert_eq!(read_file("f", printed.as_bytes()), Ok((process, services)), "{}", printed);
                }
                Err(errors) => {
                    for error in errors {
                        let line = error.to_string();
                        prop_assert!(line.starts_with("f:") && !line.contains('\n'), "{}", line);
                    }
                }
            }
        }
    }

    fn piece() -> impl Strategy<Value = Vec<u8>> {
        let telling = "80| |\n|web: |* |-t 2 |--check tcp |--workers 2|-b ::1 |a |b:1:2,weight=3 |! |% |- |'|\"|\\|\\\n|#|$|;|balance |\
                       smtp |81 c\n|82 d\n|--policy rr,first |--file |--help |-6 |-f |\r\n|\u{0}|ü";
        let telling: Vec<_> = telling.split('|').map(|piece| piece.as_bytes().to_vec()).collect();
        prop_oneof![8 => prop::sample::select(telling), 1 => prop::collection::vec(any::<u8>(), 0..4)]
    }
}
