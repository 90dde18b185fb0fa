//! The documents are true: blocks marked as runnable are run as a reader would run them, one after another.
//!
//! A page marks its blocks by comments, which readers do not see:
//!
//! - `<!-- run -->` before a fenced block: the block is run, and must print what it shows. Lines that begin
//!   with `$ ` or `# ` are commands (a backslash at their end joins the next line), all others are output. A
//!   fence `sh` has commands only. `<!-- run, may differ: 28623 18230 -->` names words of the output that
//!   differ each time. Times may always differ.
//! - `<!-- file /etc/balance/shop.conf -->` before a fenced block: the block is that file.
//! - `<!-- hidden COMMAND -->`: the command is run, and its output is ignored. For things that a reader
//!   already has, such as servers.
//!
//!   `web NAME ADDRESS:PORT` starts a web server that answers with its name, on another machine in
//!   10.1.1.0/24, and `dies NAME` kills it. `listens ADDRESS:PORT ...` waits until something listens,
//!   `says PATTERN COMMAND` until the command prints the pattern. `holds N PORT [ALL]` opens N connections to
//!   a port, waits until the service has them (or ALL), and keeps them until `lets_go PORT`.
//!   `is_8840=$(pgrep -o balance)` says what the number 8840 is in commands of blocks in which it may differ.
//!
//! Each page has a network, a process namespace and an empty `/etc/balance`, `/var/lib/balance` and home of
//! its own.

use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::harness::{BALANCE, Directory, Run, needs_root};

/// What a page does, in order.
#[derive(Debug, PartialEq)]
enum Step {
    File { path: String, text: String },
    Hidden(String),
    Command { line: usize, command: String, output: Option<String>, may_differ: Vec<String> },
}

/// What the next block is for.
#[derive(Debug, Default)]
enum Mark {
    #[default]
    None,
    Run(Vec<String>),
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
            } else if let Some(path) = comment.strip_prefix("file ") {
                mark = Mark::File(path.to_owned());
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
            Mark::Run(may_differ) => commands(&block, language == "sh", &may_differ, &mut steps),
        }
    }
    steps
}

fn commands(block: &[(usize, &str)], is_script: bool, may_differ: &[String], steps: &mut Vec<Step>) {
    let mut continues = false;
    for &(line, text) in block {
        let prompted = text.strip_prefix("$ ").or_else(|| text.strip_prefix("# "));
        let command = if is_script { Some(text) } else { prompted };
        match (command, steps.last_mut()) {
            (_, Some(Step::Command { command, .. })) if continues => {
                command.push('\n');
                command.push_str(text);
            }
            (Some(command), _) => steps.push(Step::Command {
                line,
                command: command.to_owned(),
                output: (!is_script).then(String::new),
                may_differ: may_differ.to_owned(),
            }),
            (None, Some(Step::Command { output: Some(output), .. })) => {
                output.push_str(text);
                output.push('\n');
            }
            (None, _) => panic!("line {line} is output of no command: {text}"),
        }
        continues = text.ends_with('\\');
    }
}

/// Before the output of each step.
const MARKER: &str = "@@@ step";

const PRELUDE: &str = r#"
exec 2>&1 </dev/null
ip link set lo up
mount -t tmpfs none /etc/balance
mount -t tmpfs none /var/lib/balance
cd "$HOME"
cp /etc/hosts .hosts
mount --bind .hosts /etc/hosts
mount -t tmpfs none /run
mkdir /run/netns
mount -t tmpfs none /var/log
mkdir /var/log/nginx
ip netns add far
ip link add near type veth peer name far netns far
ip address add 10.1.1.254/24 dev near
ip link set near up
ip -n far link set far up
far() { nsenter --net=/run/netns/far "$@"; }
listens() { for place; do until { ss -Hltn "src $place"; far ss -Hltn "src $place"; } | grep -q .; do sleep 0.02; done; done; }
says() { until eval "$2" 2>&1 | grep -q "$1"; do sleep 0.02; done; }
web() {
  ip -n far address add "${2%:*}/24" dev far 2>/dev/null
  grep -q " $1\$" .hosts || echo "${2%:*} $1" >>/etc/hosts
  mkdir -p ".web/$1"
  echo "hello from $1" >".web/$1/index.html"
  nsenter --net=/run/netns/far python3 -m http.server --bind "${2%:*}" --directory ".web/$1" "${2#*:}" >/dev/null 2>&1 &
  eval "pid_$1=$!"
  listens "$2"
}
dies() { eval "kill -9 \$pid_$1; wait \$pid_$1"; }
holds() {
  python3 -c 'import socket, sys, time
held = [socket.create_connection(("127.0.0.1", int(sys.argv[2]))) for _ in range(int(sys.argv[1]))]
time.sleep(600)' "$@" &
  eval "pid_hold_$2=$!"
  says " ${3:-$1} serving" "balance -c services $2"
}
lets_go() { dies "hold_$1"; }
"#;

fn script(steps: &[Step]) -> String {
    let mut script = PRELUDE.to_owned();
    for step in steps {
        let what = match step {
            Step::File { path, text } => format!("cat >'{path}' <<'@@@ end'\n{text}@@@ end"),
            Step::Hidden(command) => command.clone(),
            Step::Command { command, may_differ, .. } => with_numbers(command, may_differ),
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

/// Directories to mount on, which the machine lacked. They go when this goes.
struct MountPoints(Vec<&'static str>);

impl MountPoints {
    fn make() -> Self {
        let places = ["/etc/balance", "/var/lib/balance"];
        Self(places.into_iter().filter(|place| fs::create_dir(place).is_ok()).collect())
    }
}

impl Drop for MountPoints {
    fn drop(&mut self) {
        for place in &self.0 {
            // One in which somebody has put something meanwhile stays.
            let _ = fs::remove_dir(place);
        }
    }
}

/// Runs a page, as root, in namespaces of its own.
fn follow(path: &Path) {
    let page = path.display();
    let steps = steps(&fs::read_to_string(path).expect("a page of ours"));
    let directory = Directory::new();
    let file = directory.file("page.sh", &script(&steps));
    let inside = format!(
        "exec unshare --net --mount --pid --fork --kill-child --mount-proc bash '{}'",
        file.display()
    );
    let finished = Run::script(&directory, &inside).within(Duration::from_secs(120)).finish();
    let mut outputs: Vec<&str> = finished.stdout.split(MARKER).skip(1).collect();
    outputs.resize(steps.len(), "");
    for (step, output) in steps.iter().zip(outputs) {
        let Step::Command { line, command, output: Some(shown), may_differ } = step else { continue };
        let printed = output.split_once('\n').map_or("", |(_, printed)| printed);
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
        .filter(|path| fs::read_to_string(path).expect("a page of ours").contains("<!-- run"))
        .collect();
    pages.sort();
    let _made = MountPoints::make();
    // Two at a time: a page mostly waits.
    let (first, second) = pages.split_at(pages.len() / 2);
    std::thread::scope(|scope| {
        scope.spawn(|| first.iter().for_each(|page| follow(page)));
        second.iter().for_each(|page| follow(page));
    });
    for page in ["README.md", "docs/start.md"] {
        assert!(pages.contains(&root.join(page)), "nothing of {page} is run");
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
                ```console\n$ echo a \\\n  b\na b\n$ echo 7\n7\n```\n```\n$ not run\n```\n";
    let command = |line, command: &str, output: &str| Step::Command {
        line,
        command: command.to_owned(),
        output: Some(output.to_owned()),
        may_differ: vec!["7".to_owned()],
    };
    let expected = [
        Step::File { path: "/etc/x".to_owned(), text: "a: 1\n".to_owned() },
        Step::Hidden("true".to_owned()),
        command(9, "echo a \\\n  b", "a b\n"),
        command(12, "echo 7", "7\n"),
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
