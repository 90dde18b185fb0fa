//! The documents are true: blocks marked as runnable are run as a reader would run them, one after another.
//!
//! A page marks its blocks by comments, which readers do not see:
//!
//! - `<!-- run -->` before a fenced block: the block is run, and must print what it shows. Lines that begin
//!   with `$ ` or `# ` are commands (a backslash at their end joins the next line), all others are output.
//!   `web1$ ` or `web1# ` before a command runs it on the machine web1. A fence `sh` has commands only, and
//!   each of them must succeed. `<!-- run, may differ: 28623 18230 -->` names words of the output that differ
//!   each time. Times may always differ.
//! - `<!-- accepted -->` before a block of examples: balance must accept each command line
//!   (`--check-only`). Lines with `-c` are not checked.
//! - `<!-- file /etc/balance/shop.conf -->` before a fenced block: the block is that file.
//! - `<!-- hidden COMMAND -->`: the command is run, and its output is ignored. For things that a reader
//!   already has, such as servers.
//! - `<!-- check COMMAND -->`: the command is run, and must succeed. For what the text says.
//!
//! `PAGE=start.md` in the environment runs that page alone.
//!
//! Each page has a machine of its own (`docs/machine.sh`): the files of this machine, with all changes in
//! memory, and a network and processes of its own. Its `systemctl` needs no systemd (`docs/systemctl`).
//! Commands for hidden steps (`docs/helpers.sh`):
//!
//! - `web NAME ADDRESS:PORT` starts a web server that answers with its name, on the machine `far` in
//!   10.1.1.0/24. `dies NAME` kills it.
//! - `machine NAME HERE THERE` makes another machine, and a network between it and the page's machine with
//!   these two addresses (`10.2.0.1/24 10.2.0.2/24`). `NAME COMMAND` runs a command there.
//! - `listens ADDRESS:PORT ...` waits until something listens there, on any of the machines.
//!   `says PATTERN COMMAND` waits until the command prints the pattern.
//! - `holds N PORT [ALL]` opens N connections to a port, waits until the service has them (or ALL), and keeps
//!   them until `lets_go PORT`.
//! - `answers 'ADDRESS NAME' '_SERVICE.NAME PRIORITY WEIGHT PORT HOST' ...` starts the machine's name server
//!   with these records and no others. `fails` ends it. `known NAME ...` puts names into `/etc/hosts` that only
//!   need some address.
//! - `package FILE` makes the Debian package of this program.
//! - `in_the_source` goes to a directory with the source and the program, as after a build.
//! - `is_8840=$(pgrep -o balance)` says what the number 8840 is in commands of blocks in which it may differ.

use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::harness::{BALANCE, Directory, Run, needs_root};

/// What a page does, in order.
#[derive(Debug, PartialEq)]
enum Step {
    File { path: String, text: String },
    Hidden(String),
    Command { line: usize, command: String, machine: String, output: Option<String>, may_differ: Vec<String> },
    Accepted { line: usize, command: String },
    Check { line: usize, command: String },
}

/// What the next block is for.
#[derive(Debug, Default)]
enum Mark {
    #[default]
    None,
    Run(Vec<String>),
    Accepted,
    File(String),
}

fn steps(page: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut mark = Mark::None;
    let mut lines = page.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        let text = line.trim();
        if let Some(comment) = text.strip_prefix("<!-- ").and_then(|text| text.strip_suffix(" -->")) {
            if let Some(command) = comment.strip_prefix("hidden ") {
                steps.push(Step::Hidden(command.to_owned()));
            } else if let Some(command) = comment.strip_prefix("check ") {
                steps.push(Step::Check { line: number + 1, command: command.to_owned() });
            } else if let Some(path) = comment.strip_prefix("file ") {
                mark = Mark::File(path.to_owned());
            } else if comment == "accepted" {
                mark = Mark::Accepted;
            } else if let Some(rest) = comment.strip_prefix("run") {
                let words = rest.strip_prefix(", may differ: ").unwrap_or_default();
                mark = Mark::Run(words.split_whitespace().map(str::to_owned).collect());
            }
            continue;
        }
        let Some(language) = text.strip_prefix("```") else {
            assert!(
                text.is_empty() || matches!(mark, Mark::None),
                "no block after the comment above line {}",
                number + 1
            );
            continue;
        };
        let indent = line.len() - line.trim_start().len();
        let block: Vec<(usize, &str)> = lines
            .by_ref()
            .map(|(number, line)| (number + 1, line.get(indent..).unwrap_or_default()))
            .take_while(|(_, line)| !line.starts_with("```"))
            .collect();
        match std::mem::take(&mut mark) {
            Mark::None => (),
            Mark::File(path) => {
                let text = block.iter().map(|(_, line)| format!("{line}\n")).collect();
                steps.push(Step::File { path, text });
            }
            Mark::Accepted => {
                let lines = whole_lines(&block).into_iter().map(|(line, text)| {
                    let (_, command) = prompted(&text).unwrap_or(("", &text));
                    Step::Accepted { line, command: command.to_owned() }
                });
                steps.extend(lines);
            }
            Mark::Run(may_differ) => commands(&block, language == "sh", &may_differ, &mut steps),
        }
    }
    steps
}

/// The lines of a block; a backslash joins two.
fn whole_lines(block: &[(usize, &str)]) -> Vec<(usize, String)> {
    let mut whole: Vec<(usize, String)> = Vec::new();
    for &(number, line) in block {
        match whole.last_mut().filter(|(_, before)| before.ends_with('\\')) {
            Some((_, before)) => *before += &format!("\n{line}"),
            None => whole.push((number, line.to_owned())),
        }
    }
    whole
}

/// The machine (none: that of the page) and the command behind a prompt.
fn prompted(line: &str) -> Option<(&str, &str)> {
    let at = line.find(['$', '#'])?;
    let (machine, command) = (&line[..at], line[at + 1..].strip_prefix(' ')?);
    machine.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit()).then_some((machine, command))
}

fn commands(block: &[(usize, &str)], is_script: bool, may_differ: &[String], steps: &mut Vec<Step>) {
    for (line, text) in whole_lines(block) {
        let found = if is_script { Some(("", text.as_str())) } else { prompted(&text) };
        match (found, steps.last_mut()) {
            (Some((machine, command)), _) => steps.push(Step::Command {
                line,
                command: command.to_owned(),
                machine: machine.to_owned(),
                output: (!is_script).then(String::new),
                may_differ: may_differ.to_owned(),
            }),
            (None, Some(Step::Command { output: Some(output), .. })) => *output += &format!("{text}\n"),
            (None, _) => panic!("line {line} is output of no command: {text}"),
        }
    }
}

/// Before the output of each step.
const MARKER: &str = "@@@ step";

/// Behind the output of a command that should have succeeded.
const FAILED: &str = "@@@ it failed";

/// Behind what a command reads.
const END: &str = "@@@ end";

/// What a page begins with.
const HELPERS: &str = include_str!("docs/helpers.sh");

fn script(steps: &[Step]) -> String {
    let mut script = HELPERS.to_owned();
    for step in steps {
        let what = match step {
            Step::File { path, text } => {
                format!("mkdir -p \"$(dirname '{path}')\"\ncat >'{path}' <<'{END}'\n{text}{END}")
            }
            Step::Hidden(command) => command.clone(),
            Step::Check { command, .. } => {
                format!("checked=$({{ {command}; }} 2>&1) || {{ echo \"$checked\"; echo '{FAILED}'; }}")
            }
            Step::Accepted { command, .. } => format!("accepted <<'{END}'\n{command}\n{END}"),
            Step::Command { command, may_differ, machine, output, .. } => {
                let command = with_numbers(command, may_differ);
                match (machine.as_str(), output) {
                    ("", Some(_)) => command,
                    ("", None) => format!("{command}\n[ $? -eq 0 ] || echo '{FAILED}'"),
                    _ => format!("on {machine} <<'{END}'\n{command}\n{END}"),
                }
            }
        };
        script += &format!("echo '{MARKER}'\n{what}\n");
    }
    script
}

/// The command with the numbers that this run has in place of those on the page.
fn with_numbers(command: &str, may_differ: &[String]) -> String {
    let numbers = may_differ.iter().filter(|word| word.chars().all(|c| c.is_ascii_digit()));
    let is_part = |c: char| c.is_ascii_alphanumeric();
    let mut text = command.to_owned();
    for number in numbers {
        let mut from = 0;
        while let Some(at) = text[from..].find(number.as_str()).map(|at| from + at) {
            let end = at + number.len();
            let is_word = !text[..at].ends_with(is_part) && !text[end..].starts_with(is_part);
            let now = if is_word { format!("${{is_{number}:-{number}}}") } else { number.clone() };
            text.replace_range(at..end, &now);
            from = at + now.len();
        }
    }
    text
}

/// A time that was measured, such as 12s, 160us or 1h10m.
fn is_time(word: &str) -> bool {
    word.starts_with(|c: char| c.is_ascii_digit())
        && word.ends_with(['s', 'm', 'h', 'd'])
        && word.chars().all(|c| c.is_ascii_digit() || "usmhd.".contains(c))
}

/// Blanks count as one: columns move with the width of what is in them. A time may be another one. Of how connections have ended
/// only the number counts: whether a client or its server closes first is a matter of microseconds.
fn is_shown(shown: &str, printed: &str, may_differ: &[String]) -> bool {
    let lines = |text: &str| text.trim_end().lines().map(str::to_owned).collect::<Vec<_>>();
    let (shown, printed) = (lines(shown), lines(printed));
    shown.len() == printed.len()
        && shown.iter().zip(&printed).all(|(shown, printed)| {
            let words = |line: &str| {
                let most = if line.starts_with("ended: ") { 2 } else { usize::MAX };
                line.split_whitespace().take(most).map(str::to_owned).collect::<Vec<_>>()
            };
            let (shown, printed) = (words(shown), words(printed));
            shown.len() == printed.len()
                && shown.iter().zip(&printed).all(|(shown, printed)| {
                    shown == printed
                        || is_time(shown) && is_time(printed)
                        || may_differ.iter().any(|word| word == shown)
                })
        })
}

/// So many pages are run side by side.
const AT_A_TIME: usize = 3;

/// Runs a page, as root, in namespaces of its own.
fn follow(path: &Path) {
    let page = path.display();
    let steps = steps(&fs::read_to_string(path).expect("a page of ours"));
    let directory = Directory::new();
    let file = directory.file("page.sh", &script(&steps));
    let source = env!("CARGO_MANIFEST_DIR");
    let program = Path::new(BALANCE).parent().expect("the program is in a directory");
    let inside = format!(
        "exec unshare --net --mount --pid --fork --kill-child bash '{source}/tests/suite/docs/machine.sh' '{}' '{source}' '{}'",
        file.display(),
        program.display()
    );
    let finished = Run::script(&directory, &inside).within(Duration::from_secs(240)).finish();
    let mut outputs: Vec<&str> = finished.stdout.split(MARKER).skip(1).collect();
    outputs.resize(steps.len(), "");
    for (step, output) in steps.iter().zip(outputs) {
        let printed = output.split_once('\n').map_or("", |(_, printed)| printed);
        let (line, command, shown, may_differ) = match step {
            Step::Command { line, command, output: Some(output), may_differ, .. } => {
                (line, command, output.as_str(), may_differ.as_slice())
            }
            Step::Command { line, command, output: None, .. } => {
                let failed = printed.trim_end().ends_with(FAILED);
                assert!(!failed, "{page}:{line}: {command}\n--- printed\n{printed}--- all\n{finished}");
                continue;
            }
            Step::Accepted { line, command } | Step::Check { line, command } => {
                (line, command, "", [].as_slice())
            }
            Step::File { .. } | Step::Hidden(_) => continue,
        };
        assert!(
            is_shown(shown, printed, may_differ),
            "{page}:{line}: {command}\n--- shown\n{shown}--- printed\n{printed}--- all\n{finished}"
        );
    }
}

#[test]
fn pages_do_what_they_show() {
    if needs_root("a page is followed in namespaces of its own") {
        return;
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut pages: Vec<_> = fs::read_dir(root.join("docs"))
        .expect("our documents")
        .map(|entry| entry.expect("a document").path())
        .chain([root.join("README.md")])
        .filter(|path| path.extension().is_some_and(|extension| extension == "md"))
        .filter(|path| {
            let text = fs::read_to_string(path).expect("a page of ours");
            ["<!-- run", "<!-- accepted"].iter().any(|mark| text.contains(mark))
        })
        .collect();
    pages.sort();
    // The one that waits for half a minute goes first. A page mostly waits.
    let one = std::env::var("PAGE");
    let is_one = one.is_ok();
    if let Ok(one) = one {
        pages.retain(|page| page.ends_with(&one));
        assert!(!pages.is_empty(), "no page {one}");
    }
    pages.sort_by_key(|page| !page.ends_with("docs/names.md"));
    let next = std::sync::atomic::AtomicUsize::new(0);
    let take = || pages.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
    std::thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| {
                while let Some(page) = take() {
                    follow(page)
                }
            });
        }
    });
    for page in ["README.md", "docs/start.md"] {
        assert!(pages.contains(&root.join(page)) || is_one, "nothing of {page} is run");
    }
}

#[test]
fn the_reference_is_the_one_the_program_prints() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let printed = Run::new("python3").args([root.join("docs/reference.py"), BALANCE.into()]).finish().code(0);
    let committed = fs::read_to_string(root.join("docs/reference.md")).expect("a page of ours");
    assert!(
        committed == printed.stdout,
        "docs/reference.md is out of date; make it anew: docs/reference.py balance.1 > docs/reference.md"
    );
}

#[test]
fn commands_outputs_and_files_of_a_page_are_found() {
    let page = "text\n<!-- file /etc/x -->\n```\na: 1\n```\n<!-- hidden true -->\n<!-- run, may differ: 7 -->\n\
                ```console\n$ echo a \\\n  b\na b\n$ echo 7\n7\n```\n```\n$ not run\n```\n\
                <!-- accepted -->\n```\nbalance 80 a \\\n  b\n```\n<!-- run -->\n```\nweb1# id\nroot\n```\n";
    let command = |line, command: &str, output: &str| Step::Command {
        line,
        command: command.to_owned(),
        machine: String::new(),
        output: Some(output.to_owned()),
        may_differ: vec!["7".to_owned()],
    };
    let expected = [
        Step::File { path: "/etc/x".to_owned(), text: "a: 1\n".to_owned() },
        Step::Hidden("true".to_owned()),
        command(9, "echo a \\\n  b", "a b\n"),
        command(12, "echo 7", "7\n"),
        Step::Accepted { line: 20, command: "balance 80 a \\\n  b".to_owned() },
        Step::Command {
            line: 25,
            command: "id".to_owned(),
            machine: "web1".to_owned(),
            output: Some("root\n".to_owned()),
            may_differ: Vec::new(),
        },
    ];
    assert_eq!(steps(page), expected);
}

#[test]
fn a_number_in_a_command_is_the_one_of_this_run() {
    let may_differ = ["8840", "80", "root"].map(str::to_owned);
    let command = with_numbers("kill 8840; balance -c show process.8840 8080 root 80", &may_differ);
    let pid = "${is_8840:-8840}";
    let expected = format!("kill {pid}; balance -c show process.{pid} 8080 root ${{is_80:-80}}");
    assert_eq!(command, expected);
}

#[test]
fn another_output_than_the_shown_one_is_noticed() {
    let may_differ = ["28623".to_owned()];
    assert!(is_shown("up   12s 28623 3\n", "up 4.1s 12  3\n\n", &may_differ));
    assert!(!is_shown("up 12s 3\n", "up 4.1s 4\n", &may_differ));
    assert!(!is_shown("up 12s 3\n", "up 4.1 3\n", &may_differ));
    assert!(!is_shown("up 12s 3\n", "down 4.1s 3\n", &may_differ));
    assert!(!is_shown("up 12s 3\n", "up 12s 3\nmore\n", &may_differ));
    assert!(!is_shown("up 12s 3\n", "", &may_differ));
    assert!(is_shown(
        "ended: 2 (client closed 2)\n",
        "ended: 2 (client closed 1, channel closed 1)\n",
        &may_differ
    ));
    assert!(!is_shown("ended: 2 (client closed 2)\n", "ended: 3 (client closed 3)\n", &may_differ));
}
