//! `--event-program`: programs that are run for events, good ones and programs that hang, fork, flood their
//! output, or do not exist.
//!
//! Source: docs/observability.md, "A program for events".

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use rustix::process::Signal;

use crate::harness::{
    Directory, Instance, Refusing, Revivable, Run, Server, Setup, alive, await_no_children, eventually, mark,
    own_address, script,
};

/// A program that writes down what it is told, and the file that it writes to: a block for each run.
fn clerk(directory: &Directory, name: &str, more: &str) -> (PathBuf, PathBuf) {
    let book = directory.path().join(format!("{name}.book"));
    let text = format!("{more}\n{{ env | grep ^BALANCE_ | sort; echo --; }} >>{}", book.display());
    (script(directory, name, &text), book)
}

/// The runs that are in the book, each as its lines without `BALANCE_`.
fn runs(book: &Path) -> Vec<Vec<String>> {
    let text = fs::read_to_string(book).unwrap_or_default();
    let mut blocks: Vec<_> = text.split("--\n").collect();
    // What is behind the last mark is being written.
    blocks.pop();
    let lines = |block: &str| {
        let lines = block.lines().filter_map(|line| line.strip_prefix("BALANCE_"));
        lines.filter(|line| !line.starts_with("RUN_DIR=")).map(str::to_owned).collect()
    };
    blocks.into_iter().map(lines).collect()
}

/// Of a run, the value of this variable.
fn told<'a>(run: &'a [String], name: &str) -> Option<&'a str> {
    run.iter().find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
}

#[track_caller]
fn await_run(book: &Path, what: &str, is_it: impl Fn(&[String]) -> bool) -> Vec<String> {
    eventually(what, || runs(book).into_iter().find(|run| is_it(run)))
}

/// Waits for the run of this command.
#[track_caller]
fn await_command(book: &Path, command: &str) -> Vec<String> {
    await_run(book, command, |run| told(run, "COMMAND") == Some(command))
}

fn start(program: &Path, args: &[&dyn std::fmt::Display]) -> Instance {
    start_by(Setup::new(), program, args)
}

fn start_by(setup: Setup, program: &Path, args: &[&dyn std::fmt::Display]) -> Instance {
    let first = ["--event-program".to_owned(), program.display().to_string(), "PORT".to_owned()];
    setup.start(first.into_iter().chain(args.iter().map(ToString::to_string)))
}

#[test]
fn an_event_is_in_the_environment_and_nothing_of_ours_beside_it() {
    let directory = Directory::new();
    let seen = directory.path().join("seen");
    let more = format!(
        "{{ echo $#; pwd; for fd in /proc/self/fd/*; do readlink $fd; done; ulimit -n; }} >{seen}.new </dev/null; mv {seen}.new {seen}",
        seen = seen.display()
    );
    let (program, book) = clerk(&directory, "clerk", &more);
    let refusing = Refusing::new();
    let server = Server::named("a");
    let setup =
        Setup::new().shell("export BALANCE_CAUSE=stray BALANCE_SKIPPED=9 NOTIFY_SOCKET=/x; ulimit -Sn 200;");
    let instance = start_by(setup, &program, &[&refusing, &server]);
    assert_eq!(instance.named().1, "a");
    let run = await_run(&book, "the ejection", |run| told(run, "EVENT") == Some("ejected"));
    let time = told(&run, "TIME").expect("a time").to_owned();
    assert!(time.len() == 24 && time.ends_with('Z'), "{time}");
    let line = format!(
        "{time} notice event=ejected group=0 channel=0 address={refusing} cause=\"connect: connection refused\""
    );
    let expected = [
        format!("ADDRESS={refusing}"),
        "CAUSE=connect: connection refused".to_owned(),
        "CHANNEL=0".to_owned(),
        "EVENT=ejected".to_owned(),
        "GROUP=0".to_owned(),
        "LEVEL=notice".to_owned(),
        format!("LINE={line}"),
        format!("SERVICE={}", instance.addr),
        format!("TIME={time}"),
    ];
    assert_eq!(run, expected);
    assert!(instance.ctl("events").stdout.contains(&format!("{line}\n")), "the same words and time");
    // The start is an event of the process.
    let started = await_run(&book, "the start", |run| told(run, "EVENT") == Some("started"));
    assert_eq!((told(&started, "SERVICE"), told(&started, "CAUSE")), (None, None));
    assert_eq!(told(&started, "PID"), Some(&instance.pid().to_string()[..]));
    let text = fs::read_to_string(&seen).expect("it was run");
    let lines: Vec<_> = text.lines().collect();
    assert_eq!((lines[0], lines[1], lines.last().copied()), ("0", "/", Some("200")), "{text}");
    let is_own = |line: &&&str| {
        line.contains("socket:") || line.contains("anon_inode") || line.contains("balance-suite")
    };
    let ours: Vec<_> = lines
        .iter()
        .filter(is_own)
        .filter(|line| !line.ends_with("/seen.new") && !line.ends_with("/clerk"))
        .collect();
    assert!(ours.is_empty(), "{text}");
    await_no_children(&instance);
    instance.end();
}

#[test]
fn what_an_operator_types_comes_whole_and_escaped() {
    let directory = Directory::new();
    let (program, book) = clerk(&directory, "clerk", "");
    let server = Server::echo();
    let instance = start(&program, &[&server]);
    let command = "reset 0 \"a=b\" \\x $(id) `id` ;\tshow";
    instance.ctl(command);
    let run = await_run(&book, "the command", |run| told(run, "EVENT") == Some("commanded"));
    // As the log has it: a tab is nothing that a line could have in it.
    let command = told(&run, "COMMAND").expect("a command");
    assert!(command.starts_with("reset 0 \"a=b\" \\x $(id) `id` ;"), "{command}");
    assert_eq!(runs(&book).iter().flatten().filter(|line| line.contains("uid=0(")).count(), 0);
    instance.end();
}

#[test]
fn each_service_has_its_own_program_also_after_a_reload_and_an_upgrade() {
    let directory = Directory::new();
    let [(one, one_book), (two, two_book)] = ["one", "two"].map(|name| clerk(&directory, name, ""));
    let server = Server::echo();
    let [web, shop] = [own_address(), own_address()];
    let setup = Setup::binding(web);
    let line = |name: &str, at: SocketAddr, options: &str| {
        format!("{name}: {options} -b {} {} {server}\n", at.ip(), at.port())
    };
    let with = |program: &Path| format!("--event-program {}", program.display());
    let write = |directory: &Directory, web_has: &str, shop_has: &str| {
        directory.file("services", &(line("web", web, web_has) + &line("shop", shop, shop_has)))
    };
    let file = write(setup.directory(), &with(&one), &with(&two));
    let mut instance = setup.start(["--file".to_owned(), file.display().to_string()]);
    let say = |instance: &Instance, name: &str, command: &str| {
        Run::balance(&instance.directory).args(["-c", command, name]).finish().code(0).stdout
    };
    for (name, command) in [("web", "maxc 0 1"), ("shop", "maxc 0 2")] {
        say(&instance, name, command);
    }
    assert_eq!(told(&await_command(&one_book, "maxc 0 1"), "SERVICE"), Some("web"));
    assert_eq!(told(&await_command(&two_book, "maxc 0 2"), "SERVICE"), Some("shop"));
    // `save` has it, a reload changes it, and what the reload tells is for both.
    assert!(say(&instance, "web", "save").contains(&with(&one)));
    write(&instance.directory, &with(&two), "");
    let changes = say(&instance, "web", "reload");
    let change = format!("service web: --event-program is {}, was {}", two.display(), one.display());
    assert_eq!(changes, format!("{change}\nservice shop: --event-program is none, was {}\n", two.display()));
    for (name, command) in [("web", "maxc 0 3"), ("shop", "maxc 0 4"), ("web", "maxc 0 5")] {
        say(&instance, name, command);
    }
    await_command(&two_book, "maxc 0 5");
    let commands = |book: &Path| -> Vec<String> {
        // Which of its two programs hears of the command that changes it, is chance.
        let commands: Vec<_> =
            runs(book).iter().filter_map(|run| told(run, "COMMAND").map(str::to_owned)).collect();
        commands.into_iter().filter(|command| !command.starts_with("reload")).collect()
    };
    assert_eq!(commands(&two_book), ["maxc 0 2", "maxc 0 3", "maxc 0 5"]);
    assert_eq!(commands(&one_book), ["maxc 0 1"]);
    let note = format!("reload: {change}");
    let run = await_run(&two_book, "the note", |run| told(run, "TEXT") == Some(&note));
    assert_eq!((told(&run, "EVENT"), told(&run, "SERVICE")), (Some("note"), None));
    // In the process that takes over it goes on, and its own events are heard.
    let text = Run::balance(&instance.directory).args(["-c", "upgrade", "web"]).finish().code(0).stdout;
    instance.succeed(text.split(' ').nth(1).and_then(|pid| pid.parse().ok()).expect("it is named"));
    say(&instance, "web", "maxc 0 6");
    await_command(&two_book, "maxc 0 6");
    // A service that comes has its own at once, and one that is gone has none.
    directory.file("unused", "");
    write(&instance.directory, "", &with(&one));
    say(&instance, "web", "reload");
    for (name, command) in [("web", "maxc 0 7"), ("shop", "maxc 0 8")] {
        say(&instance, name, command);
    }
    await_command(&one_book, "maxc 0 8");
    instance.directory.file("services", &line("shop", shop, ""));
    say(&instance, "shop", "reload; maxc 0 9");
    instance.signal(Signal::TERM);
    assert_eq!(instance.wait(), 0);
    for book in [&one_book, &two_book] {
        let commands = commands(book);
        assert!(
            !commands.iter().any(|one| ["maxc 0 4", "maxc 0 7", "maxc 0 9"].contains(&&one[..])),
            "{commands:?}"
        );
    }
}

#[test]
fn a_program_that_hangs_is_killed_with_its_group_and_the_next_event_is_heard() {
    let directory = Directory::new();
    let mark = mark();
    let begun = directory.path().join("begun");
    // It hangs the first time, with a child; it ignores what asks it to go.
    let more = format!(
        "trap '' TERM HUP; if [ \"$BALANCE_EVENT\" = started ]; then sleep {mark} & : >{}; sleep {mark}; fi",
        begun.display()
    );
    let (program, book) = clerk(&directory, "clerk", &more);
    let server = Server::named("a");
    let instance = start(&program, &[&server]);
    eventually("it hangs", || (begun.exists() && alive(&mark) == 2).then_some(()));
    instance.ctl("reset 0").code(0);
    assert_eq!(instance.named().1, "a");
    assert_eq!(runs(&book), [[""; 0]; 0], "one at a time");
    await_command(&book, "reset 0");
    eventually("nothing of it is left", || (alive(&mark) == 0).then_some(()));
    let failed = format!(
        "balance: level=warning event=hook_failed program={} cause=\"killed after 10 s\"\n",
        program.display()
    );
    eventually("it is told", || instance.stderr().contains(&failed).then_some(()));
    assert_eq!(runs(&book).len(), 1, "what became of a program is no event for it");
    assert!(instance.ctl("events").stdout.contains("warning event=hook_failed program="));
    await_no_children(&instance);
    instance.end();
}

#[test]
fn what_a_program_leaves_behind_is_killed_and_a_flood_of_output_goes_nowhere() {
    let directory = Directory::new();
    let [mark, apart] = [mark(), mark()];
    let pid = directory.path().join("pid");
    let more = format!(
        "if [ \"$BALANCE_EVENT\" = started ]; then\n\
           head -c 50000000 /dev/zero; head -c 50000000 /dev/zero >&2\n\
           sleep {mark} & (sleep {mark} &) ; setsid sh -c 'echo $$ >{}; exec sleep {apart}' &\n\
           while ! [ -s {} ]; do sleep 0.01; done\n\
         fi",
        pid.display(),
        pid.display()
    );
    let (program, book) = clerk(&directory, "clerk", &more);
    let server = Server::echo();
    let instance = start(&program, &[&server]);
    await_run(&book, "the start", |run| told(run, "EVENT") == Some("started"));
    eventually("what it left in its group is gone", || (alive(&mark) == 0).then_some(()));
    // One that has left the group is a daemon of its own.
    eventually("it lives", || (alive(&apart) == 1).then_some(()));
    Run::new("kill").arg(fs::read_to_string(&pid).expect("it is there").trim()).finish().code(0);
    assert_eq!((instance.stdout(), instance.stderr().contains("hook_failed")), (String::new(), false));
    await_no_children(&instance);
    instance.end();
}

#[test]
fn of_a_burst_the_last_hundred_are_heard_and_the_rest_is_counted() {
    let directory = Directory::new();
    let go = directory.path().join("go");
    let begun = directory.path().join("begun");
    let wait = format!(": >{}; while ! [ -e {} ]; do sleep 0.02; done", begun.display(), go.display());
    let (program, book) = clerk(&directory, "clerk", &wait);
    let server = Server::named("a");
    let instance = start(&program, &[&server]);
    eventually("the first run", || begun.exists().then_some(()));
    let burst: String = (1..=200).map(|n| format!("maxc 0 {n}\n")).collect();
    instance.shell(burst);
    assert_eq!(instance.named().1, "a");
    fs::write(&go, "").expect("our own");
    await_command(&book, "maxc 0 200");
    let all = runs(&book);
    assert_eq!(all.len(), 101, "the one that ran, and a hundred");
    assert_eq!(told(&all[0], "EVENT"), Some("started"));
    let commands: Vec<_> = all[1..].iter().filter_map(|run| told(run, "COMMAND")).collect();
    assert_eq!(commands, (101..=200).map(|n| format!("maxc 0 {n}")).collect::<Vec<_>>(), "in order");
    assert_eq!(all.iter().map(|run| told(run, "SKIPPED")).filter(Option::is_some).count(), 1);
    assert_eq!(told(&all[1], "SKIPPED"), Some("100"));
    let behind = "balance: level=warning event=hook_behind skipped=100\n";
    eventually("it is told", || instance.stderr().contains(behind).then_some(()));
    instance.end();
}

#[test]
fn a_program_that_is_not_there_is_told_of_at_the_start_and_may_come_later() {
    let directory = Directory::new();
    let program = directory.path().join("later");
    let missing = format!("cannot run {}: No such file or directory (os error 2)", program.display());
    let check = Run::balance(&directory)
        .args(["--check-only", "--event-program"])
        .arg(&program)
        .args(["80", "127.0.0.1:9"]);
    check.finish().code(65).out("").err(&format!("balance: --event-program: {missing}\n"));
    let file = directory.file(
        "services",
        &format!(
            "80 --event-program {} 127.0.0.1:9\n81 --event-program /etc 127.0.0.1:9\n",
            program.display()
        ),
    );
    let said = Run::balance(&directory).args(["--check-only", "--file"]).arg(&file).finish().code(78).stderr;
    assert!(said.contains(&format!("{}:1:20: --event-program: {missing}\n", file.display())), "{said}");
    assert!(said.contains(":2:20: --event-program: cannot run /etc: it is not a file\n"), "{said}");
    let server = Server::echo();
    let instance = start(&program, &[&server]);
    assert!(
        instance
            .stderr()
            .contains(&format!("level=warning event=note text=\"--event-program: {missing}\"\n"))
    );
    let failed =
        format!("level=warning event=hook_failed program={} cause=\"No such file", program.display());
    eventually("it is told that it was not run", || instance.stderr().contains(&failed).then_some(()));
    let (_, book) = clerk(&directory, "later", "");
    instance.ctl("reset 0").code(0);
    await_command(&book, "reset 0");
    // One that fails is told of by its exit code.
    script(&directory, "next", "exit 3");
    fs::rename(directory.path().join("next"), &program).expect("our own");
    instance.ctl("reset 0").code(0);
    let failed = format!("event=hook_failed program={} cause=\"exit code 3\"\n", program.display());
    eventually("the exit code is told", || instance.stderr().contains(&failed).then_some(()));
    instance.end();
}

#[test]
fn an_upgrade_neither_ends_the_service_nor_begins_an_outage_again() {
    let directory = Directory::new();
    let (program, book) = clerk(&directory, "clerk", "");
    let mut server = Revivable::stopped("a");
    let mut instance = start(
        &program,
        &[&"--refuse-when-down", &"--check", &"tcp", &"--check-interval", &"50ms", &server.addr],
    );
    let heard = |event: &str| runs(&book).iter().filter(|run| told(run, "EVENT") == Some(event)).count();
    let events = |instance: &Instance, event: &str| {
        let all = instance.ctl("events 1000").code(0).stdout;
        all.lines().filter(|line| line.split(' ').any(|word| word == format!("event={event}"))).count()
    };
    let outage = ["no_channel_up", "refusing"];
    eventually("the outage is known", || outage.iter().all(|event| heard(event) == 1).then_some(()));
    for round in 1..=2 {
        instance.upgrade();
        // It has looked at its channels, and the program has heard of all that came before this.
        let checked = format!("maxc 0 {round}");
        instance.ctl(&checked).code(0);
        await_command(&book, &checked);
        for event in outage {
            assert_eq!((heard(event), events(&instance, event)), (1, 1), "{event}: {}", instance.stderr());
        }
        assert_eq!((heard("drained"), events(&instance, "drained")), (0, 0), "{}", instance.stderr());
        assert_eq!(instance.told("drained").len(), 0, "{}", instance.stderr());
    }
    server.start();
    eventually("it is over", || {
        let over = ["channel_up_again", "welcoming"];
        over.iter().all(|event| heard(event) == 1 && events(&instance, event) == 1).then_some(())
    });
    // One that takes clients again tells of the next outage.
    server.stop();
    eventually("the next one", || outage.iter().all(|event| heard(event) == 2).then_some(()));
    instance.signal(Signal::TERM);
    assert_eq!(instance.wait(), 0);
    // Unless the machine had no time for the program.
    assert!(heard("drained") == 1 || had_no_time(&instance), "{}", instance.stderr());
}

/// Was a program cut short by the end of its process?
fn had_no_time(instance: &Instance) -> bool {
    ["since the process ends", "the process ends, and"].iter().any(|told| instance.stderr().contains(told))
}

#[test]
fn the_end_waits_a_moment_for_the_last_events_and_for_no_program_that_hangs() {
    let directory = Directory::new();
    let (program, book) = clerk(&directory, "clerk", "");
    let server = Server::echo();
    // A busy machine may have no time for the program in that moment, but hardly ten times.
    eventually("the last event was heard", || {
        let _ = fs::remove_file(&book);
        let mut instance = start(&program, &[&server]);
        await_run(&book, "the start", |run| told(run, "EVENT") == Some("started"));
        instance.signal(Signal::TERM);
        assert_eq!(instance.wait(), 0);
        let heard = runs(&book).last().and_then(|run| told(run, "EVENT").map(str::to_owned));
        let is_heard = heard.as_deref() == Some("drained");
        assert!(is_heard || had_no_time(&instance), "{heard:?}: {}", instance.stderr());
        is_heard.then_some(())
    });
    let mark = mark();
    // With what it has started; and when the instance is killed, so is it.
    for signal in [Signal::TERM, Signal::INT, Signal::KILL] {
        let program = script(&directory, "hangs", &format!("exec sleep {mark}"));
        let mut instance = start(&program, &[&server]);
        eventually("it hangs", || (alive(&mark) == 1).then_some(()));
        instance.ctl("reset 0; reset 0").code(0);
        instance.signal(signal);
        instance.wait();
        eventually("it is gone", || (alive(&mark) == 0).then_some(()));
        if signal != Signal::KILL {
            let killed = "cause=\"killed, since the process ends\"\n";
            assert!(instance.stderr().contains(killed), "{}", instance.stderr());
        }
        let left = "level=warning event=note text=\"--event-program: the process ends, and ";
        assert_eq!(instance.stderr().contains(left), signal != Signal::KILL, "{}", instance.stderr());
    }
}
