//! `-c` and `-i`: an operator at the keyboard, or a script, as a client of the control socket.
//!
//! Knows: prompt, banner, line reading, exit codes. Never: the table (it is in another process), what a
//! command means.
//! Source: docs/control.md, "The shell".

use std::io::{self, BufRead, Write};
use std::path::PathBuf;
use std::thread;
use std::time::Instant;

use crate::control::capture::Capture;
use crate::control::client::{AskError, Client};
use crate::control::command;
use crate::control::doctor::asking;
use crate::control::execute::Reply;
use crate::control::find::{self, ASK_AGAIN, FindError, HANDING_OVER, Wanted, Which};
use crate::control::interrupt::Interrupts;
use crate::control::json;
use crate::control::list;
use crate::control::peer;
use crate::control::printer::{IO_ERROR, Printer, complain};
use crate::control::render::{self, HANDED_OVER, VERSION};
use crate::control::tapping::{TapForm, TapWanted};
use crate::control::terminal::Terminal;
#[cfg(feature = "top")]
use crate::control::top;
use crate::control::watch::{AskedTap, TapWatch, WatchError, watch};
use crate::control::wire::{LineRead, LineReader, MAX_LINE};

/// Exit code: there is no instance, or it does not answer (sysexits: `EX_UNAVAILABLE`).
const UNAVAILABLE: u8 = 69;
/// Exit code: the command cannot be carried out here (sysexits: `EX_USAGE`).
const USAGE: u8 = 64;

/// Maximum number of wrong commands that are explained.
const MOST_EXPLAINED: usize = 3;

/// `balance -c TEXT PORT`.
#[derive(Debug)]
pub struct OneShot {
    /// The instance that is meant.
    pub wanted: Wanted,
    /// The commands, separated by `;` or newlines.
    pub text: Vec<u8>,
}

/// `balance -i PORT`.
#[derive(Debug)]
pub struct Interactive {
    /// The instance that is meant.
    pub wanted: Wanted,
    /// The file for the history of typed lines; `None` = no history.
    pub history: Option<PathBuf>,
}

/// Runs the commands in one session, prints the answers on stdout, and returns the exit code.
pub fn one_shot(options: &OneShot) -> u8 {
    // A newline separates commands as `;` does.
    let is_change = options.text.split(|&byte| byte == b'\n').any(command::is_change);
    // If an instance exists but refuses us, that is no finding of `doctor`.
    let not_found = |error: &FindError| match asking::is_doctor(&options.text) && !error.is_denial() {
        true => nobody(options, error),
        false => not_found(error, &options.wanted),
    };
    let is_top = command::is_top(&options.text);
    if let Some(obstacle) = obstacle_to_top().filter(|_| is_top) {
        complain(&format!("balance: {obstacle}"));
        return USAGE;
    }
    let mut client = match find(&options.wanted, is_change) {
        Ok(client) => client,
        Err(error) => return not_found(&error),
    };
    if is_top {
        return show_top(client, &options.wanted);
    }
    let until = Instant::now() + HANDING_OVER;
    // A `wait` is not repeated: its time began with the first attempt.
    let waits = options.text.split(|&byte| byte == b'\n').flat_map(command::split).any(command::is_wait);
    if command::has_tap(&options.text) {
        return watch_taps(client, options);
    }
    loop {
        let (outcome, mut printer) =
            ask_once(&mut client, &options.text, is_change, Printer::new(io::stdout().lock()));
        match outcome {
            AskOutcome::Answered(code, cause) => {
                let code = printer.end(code);
                if code == USAGE {
                    explain(options);
                }
                if let Some(cause) = cause {
                    complain(&format!("balance: {cause}"));
                }
                return code;
            }
            AskOutcome::NotDone(_) if !waits && Instant::now() < until => {}
            AskOutcome::NotDone(NotDone::HandedOver) => {
                printer.print(&render::text(&Reply::HandedOver));
                return printer.end(HANDED_OVER);
            }
            AskOutcome::NotDone(NotDone::Gone) => return printer.end(gone(&AskError::Gone)),
            AskOutcome::Unknown => {
                return printer.end(match find::find(&options.wanted, is_change) {
                    Ok(found) if found.pid() != client.pid() => {
                        complain(&format!("balance: {}", unknown(client.pid(), found.pid())));
                        HANDED_OVER
                    }
                    _ => gone(&AskError::Gone),
                });
            }
        }
        thread::sleep(ASK_AGAIN);
        client = match find::find(&options.wanted, is_change) {
            Ok(client) => client,
            Err(error) => return not_found(&error),
        };
    }
}

/// Says on stderr what is wrong with commands whose answer was `syntax error`.
fn explain(options: &OneShot) {
    let texts = options.text.split(|&byte| byte == b'\n').flat_map(command::split);
    let of_instance = options.wanted.service.typed();
    let meant = texts.filter_map(|text| command::what_was_meant(text, &of_instance));
    meant.take(MOST_EXPLAINED).for_each(|meant| complain(&format!("balance: {meant}")));
}

/// Why `top` cannot be shown here; `None`: it can.
fn obstacle_to_top() -> Option<String> {
    #[cfg(feature = "top")]
    return top::obstacle();
    #[cfg(not(feature = "top"))]
    Some("this program was built without `top`; use -c status, or -c \"status json\" in programs".into())
}

/// Shows `top` until the operator quits. Returns the exit code.
#[cfg(feature = "top")]
fn show_top(client: Client, wanted: &Wanted) -> u8 {
    match top::run(client, wanted) {
        Ok(()) => 0,
        Err(error) => {
            complain(&format!("balance: cannot use the terminal: {error}"));
            IO_ERROR
        }
    }
}

#[cfg(not(feature = "top"))]
fn show_top(_: Client, _: &Wanted) -> u8 {
    USAGE
}

/// Shows taps and the other answers as long as anybody reads them. If the text is one `tap` with a file,
/// writes that file.
fn watch_taps(client: Client, options: &OneShot) -> u8 {
    let only = command::only_tap(&options.text);
    if let Some(TapWanted { session, bounds, form: TapForm::File(file) }) = &only {
        let capture = match Capture::to(file, session) {
            Ok(capture) => capture,
            Err(error) => {
                complain(&format!("balance: {error}"));
                return USAGE;
            }
        };
        let text = format!("tap {session} {} pieces", bounds.words());
        let interrupts = Interrupts::catch();
        let asked = AskedTap { wanted: &options.wanted, text: text.as_bytes(), only: only.as_ref() };
        let mut watched = TapWatch { reads_stdout: capture.is_stdout(), sink: capture };
        let code = watch(client, &asked, &mut watched, interrupts.as_ref());
        return finish(code, |code| watched.sink.end(code));
    }
    let mut watched = TapWatch { reads_stdout: true, sink: Printer::new(io::stdout()) };
    let asked = AskedTap { wanted: &options.wanted, text: &options.text, only: only.as_ref() };
    let code = watch(client, &asked, &mut watched, None);
    finish(code, |code| watched.sink.end(code))
}

/// The exit code after watching.
fn finish(watched: Result<u8, WatchError>, end: impl FnOnce(u8) -> u8) -> u8 {
    let code = match &watched {
        Ok(code) => *code,
        Err(WatchError::Ask(error)) => gone(error),
        Err(WatchError::Find(error)) => {
            complain(&error.to_string());
            UNAVAILABLE
        }
        Err(WatchError::Unread) => {
            complain("balance: the answer was not read in time, and its end is missing");
            IO_ERROR
        }
    };
    end(code)
}

/// The outcome of sending the commands once.
enum AskOutcome {
    /// The exit code, and why commands failed whose answers do not say so.
    Answered(u8, Option<String>),
    /// Nothing was printed, and the commands were not carried out or may be carried out twice. So they can be
    /// sent to another process.
    NotDone(NotDone),
    /// It is not known whether they were carried out.
    Unknown,
}

enum NotDone {
    HandedOver,
    Gone,
}

fn ask_once<W: Write>(
    client: &mut Client,
    text: &[u8],
    is_change: bool,
    mut printer: Printer<W>,
) -> (AskOutcome, Printer<W>) {
    let handed_over = render::text(&Reply::HandedOver);
    // If this text is the whole answer, the commands were not carried out. So it is held back until more text
    // comes.
    let (mut held, mut is_printed) = (false, false);
    let asked = client.ask_at_once(text, |part| {
        if !is_printed && !held && part == handed_over {
            held = true;
            return;
        }
        if std::mem::take(&mut held) {
            printer.print(&handed_over);
        }
        is_printed = true;
        printer.print(part);
    });
    let outcome = match asked {
        Ok(status) if held && status.code == HANDED_OVER => AskOutcome::NotDone(NotDone::HandedOver),
        Ok(status) => AskOutcome::Answered(status.code, status.cause),
        Err(AskError::Unheard) if !is_printed => AskOutcome::NotDone(NotDone::Gone),
        Err(AskError::Gone) if !is_printed && !is_change => AskOutcome::NotDone(NotDone::Gone),
        Err(AskError::Gone | AskError::Unheard) if is_change => AskOutcome::Unknown,
        Err(error) => AskOutcome::Answered(gone(&error), None),
    };
    (outcome, printer)
}

/// The message if the process has gone without an answer, and another one serves now.
fn unknown(before: u32, now: u32) -> String {
    format!(
        "process {before} has gone, and process {now} serves now; whether the command was carried out is not known"
    )
}

/// Runs the shell on stdin and stdout, and returns the exit code. At a terminal it edits, completes and
/// remembers lines; through a pipe it behaves as 3.57, byte for byte.
pub fn interactive(options: &Interactive) -> u8 {
    let mut client = match find(&options.wanted, false) {
        Ok(client) => client,
        Err(error) => return not_found(&error, &options.wanted),
    };
    match Terminal::open(options.history.as_deref()) {
        Some(mut terminal) => at_terminal(client, &mut terminal, &options.wanted),
        None => through_pipe(&mut client, io::stdin().lock(), Printer::new(io::stdout().lock())),
    }
}

fn banner(client: &Client) -> String {
    format!("\nbalance {VERSION} interactive command shell\nPID of master process is {}\n\n", client.pid())
}

/// The prompt of 3.57. If there are several services, the service stands between its two words.
fn prompt(group: usize, service: Option<&str>) -> String {
    match service {
        None => format!("balance[{group}] "),
        Some(service) => format!("balance {service}[{group}] "),
    }
}

fn through_pipe(client: &mut Client, input: impl BufRead, mut printer: Printer<impl Write>) -> u8 {
    printer.print(&banner(client));
    let mut lines = LineReader::new(input);
    let (mut group, mut service) = (0, client.service().map(str::to_owned));
    loop {
        printer.print(&prompt(group, service.as_deref()));
        printer.flush();
        if printer.failure.is_some() {
            return printer.end(0);
        }
        let too_long;
        let line = match lines.read() {
            Ok(LineRead::Whole(line) | LineRead::Rest(line)) => line,
            // The line is sent as it is too long: the instance answers it with an error.
            Ok(LineRead::TooLong) => {
                too_long = vec![b'x'; MAX_LINE + 1];
                &too_long
            }
            Ok(LineRead::End) | Err(_) => {
                printer.print("\n");
                return printer.end(0);
            }
        };
        match client.ask_at_once(line, |part| printer.print(part)) {
            Ok(status) if status.end => return printer.end(leave(status.code)),
            Ok(status) => (group, service) = (status.group, status.service),
            Err(error) => return printer.end(gone(&error)),
        }
    }
}

fn at_terminal(mut client: Client, terminal: &mut Terminal, wanted: &Wanted) -> u8 {
    let mut printer = Printer::new(io::stdout());
    printer.print(&banner(&client));
    let interrupts = Interrupts::catch();
    let (mut group, mut service) = (0, client.service().map(str::to_owned));
    loop {
        printer.flush();
        let Some(line) = terminal.line(&prompt(group, service.as_deref())) else { return printer.end(0) };
        if command::is_top(line.as_bytes()) && obstacle_to_top().is_none() {
            // `top` uses a session of its own, and this one goes on afterwards.
            let shown = again(wanted, group, service.as_deref()).map(|client| show_top(client, wanted));
            match shown {
                Ok(_) => continue,
                Err(error) => return printer.end(not_found(&error, wanted)),
            }
        }
        let mut ask = |client: &mut Client| client.ask_at_once(line.as_bytes(), |part| printer.print(part));
        let (answer, is_interrupted) = match interrupts.as_ref().zip(client.socket().ok()) {
            Some((interrupts, socket)) => interrupts.during(socket, || ask(&mut client)),
            None => (ask(&mut client), false),
        };
        match answer {
            Ok(status) if status.end && status.code != HANDED_OVER => {
                return printer.end(leave(status.code));
            }
            Ok(status) if status.end => {
                match again(wanted, group, service.as_deref()) {
                    Ok(found) => client = found,
                    Err(error) => return printer.end(not_found(&error, wanted)),
                }
                printer.print(&format!("process {} serves now\n", client.pid()));
            }
            Ok(status) => (group, service) = (status.group, status.service),
            // Another process may have taken over.
            Err(error @ (AskError::Gone | AskError::Unheard)) if !is_interrupted => {
                match again(wanted, group, service.as_deref()) {
                    Ok(found) if found.pid() != client.pid() => {
                        let (before, now) = (client.pid(), found.pid());
                        printer.print(&match error {
                        AskError::Unheard => format!(
                            "process {before} has gone, and process {now} serves now; the command was not carried out\n"
                        ),
                        _ => unknown(before, now) + "\n",
                    });
                        client = found;
                    }
                    _ => return printer.end(gone(&AskError::Gone)),
                }
            }
            Err(error) if !is_interrupted => return printer.end(gone(&error)),
            Err(_) => {}
        }
        if is_interrupted {
            printer.print("\n");
            match again(wanted, group, service.as_deref()) {
                Ok(found) => client = found,
                Err(error) => return printer.end(not_found(&error, wanted)),
            }
        }
    }
}

/// Opens a session in place of one that was lost or given up, with the same service and group. The instance
/// ends a `wait` when the session that asked for it is gone.
fn again(wanted: &Wanted, group: usize, service: Option<&str>) -> Result<Client, FindError> {
    let mut client = find::find(wanted, false)?;
    if let Some(service) = service {
        // The next command is meant for this service. If it has gone meanwhile, no other one will do.
        match client.ask(format!("use {service}").as_bytes(), |_| ()) {
            Ok(status) if status.code == 0 => {}
            _ => return Err(FindError::None),
        }
    }
    // If the instance has gone meanwhile, the next command reports that.
    let _ = client.ask(format!("group {group}").as_bytes(), |_| ());
    Ok(client)
}

/// The exit code of the shell: not 0 only if the instance could not be stopped or another process has taken
/// over. Errors of other commands were shown.
fn leave(code: u8) -> u8 {
    if matches!(code, UNAVAILABLE | HANDED_OVER) { code } else { 0 }
}

/// Finds the instance. Root can talk to every user's instance, so a message says whose it is: it may be a
/// fake that a user has planted.
fn find(wanted: &Wanted, is_change: bool) -> Result<Client, FindError> {
    let client = find::find(wanted, is_change)?;
    let uid = client.uid();
    if uid != 0 && uid != peer::own_uid() {
        complain(&format!("balance: this is an instance of {}", peer::called(uid)));
    }
    Ok(client)
}

fn gone(error: &AskError) -> u8 {
    complain(&error.to_string());
    UNAVAILABLE
}

fn not_found(error: &FindError, wanted: &Wanted) -> u8 {
    complain(&error.to_string());
    if matches!(error, FindError::None) {
        complain(&format!("balance: {}", list::what_runs(wanted)));
    }
    UNAVAILABLE
}

/// The answer to `doctor` if no instance answers.
fn nobody(options: &OneShot, error: &FindError) -> u8 {
    let (port, addresses) = match &options.wanted.service {
        Which::Port { port, addresses, .. } => (Some(*port), addresses.as_deref()),
        Which::Name { port, .. } => (*port, None),
        Which::Process { .. } | Which::Unix { .. } => (None, None),
    };
    let diagnosis = asking::nobody(&error.to_string(), port, addresses);
    let code = diagnosis.exit_code();
    let mut printer = Printer::new(io::stdout().lock());
    match options.text.ends_with(b"json") {
        false => printer.print(&diagnosis.to_string()),
        true => {
            let mut text = String::new();
            let _ = json::write_error(&mut text, &diagnosis.to_string(), code);
            printer.print(&text);
        }
    }
    printer.end(code)
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use super::*;
    use crate::control::conversations::Instance;

    fn client(instance: &Instance) -> Client {
        find::find(&instance.wanted(), false).expect("an instance")
    }

    /// The exit code after this text is answered.
    fn answered(instance: &Instance, text: &[u8], printer: Printer<impl Write>) -> u8 {
        let (outcome, printer) = ask_once(&mut client(instance), text, command::is_change(text), printer);
        let AskOutcome::Answered(code, _) = outcome else { panic!("no answer to {text:?}") };
        printer.end(code)
    }

    /// What the shell prints, and its exit code, if its input is a pipe.
    fn piped(instance: &Instance, input: &[u8]) -> (String, u8) {
        let mut out = Vec::new();
        let code = through_pipe(&mut client(instance), input, Printer::new(&mut out));
        (String::from_utf8(out).expect("text"), code)
    }

    fn opening() -> String {
        format!(
            "\nbalance 4.0 interactive command shell\nPID of master process is {}\n\n",
            std::process::id()
        )
    }

    fn failing(kind: ErrorKind) -> impl Write {
        struct Failing(ErrorKind);
        impl Write for Failing {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(self.0.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        Failing(kind)
    }

    #[test]
    fn the_shell_prints_what_3_57_prints() {
        let instance = Instance::start();
        let (text, code) = piped(&instance, b"group 7\n\nhash\nx\n");
        let dialogue =
            "balance[0] balance[7] balance[7] group 7 set to hash\nbalance[7] syntax error\nbalance[7] \n";
        assert_eq!((text, code), (opening() + dialogue, 0));
    }

    #[test]
    fn a_last_line_without_a_newline_counts() {
        let (text, code) = piped(&Instance::start(), b"disable 0");
        assert_eq!((text, code), (opening() + "balance[0] channel 0 disabled\nbalance[0] \n", 0));
    }

    #[test]
    fn a_line_that_is_too_long_is_one_syntax_error() {
        let input = [&b"show;".repeat(MAX_LINE)[..], b"\nrr\n"].concat();
        let (text, _) = piped(&Instance::start(), &input);
        let dialogue = "balance[0] syntax error\nbalance[0] group 0 set to round robin\nbalance[0] \n";
        assert_eq!(text, opening() + dialogue);
    }

    #[test]
    fn quit_leaves_and_kill_says_how_it_went() {
        let instance = Instance::start();
        assert_eq!(piped(&instance, b"x; quit\nshow\n"), (opening() + "balance[0] syntax error\n", 0));
        let (text, code) = piped(&instance, b"kill\nshow\n");
        assert_eq!((text, code), (opening() + "balance[0] shutdown complete, exiting.\n", 0));
    }

    #[test]
    fn an_instance_that_went_away_is_noticed() {
        let instance = Instance::start();
        let mut client = client(&instance);
        instance.stop();
        let mut out = Vec::new();
        assert_eq!(through_pipe(&mut client, &b"show\n"[..], Printer::new(&mut out)), UNAVAILABLE);
        assert!(matches!(
            ask_once(&mut client, b"show", false, Printer::new(&mut out)).0,
            AskOutcome::NotDone(NotDone::Gone)
        ));
        let options = OneShot { wanted: instance.wanted(), text: b"show".to_vec() };
        assert_eq!(one_shot(&options), UNAVAILABLE);
    }

    #[test]
    fn after_an_interrupt_the_shell_goes_on_at_the_same_service_or_not_at_all() {
        let instance = Instance::start();
        let mut client = again(&instance.wanted(), 2, Some("0.0.0.0:80")).expect("an instance");
        assert_eq!(client.ask(b"", |_| ()).expect("an answer").group, 2);
        assert!(matches!(again(&instance.wanted(), 0, Some("mail")), Err(FindError::None)));
    }

    #[test]
    fn a_command_tells_its_caller_how_it_went() {
        let instance = Instance::start();
        let ask = |text: &[u8]| {
            let mut out = Vec::new();
            let code = answered(&instance, text, Printer::new(&mut out));
            (String::from_utf8(out).expect("text"), code)
        };
        assert_eq!(ask(b"group 1; disable 0"), ("no such channel 0\n".into(), 65));
        assert_eq!(ask(b"bogus"), ("syntax error\n".into(), 64));
        assert_eq!(ask(b"disable 0"), ("channel 0 disabled\n".into(), 0));
        assert_eq!(ask(b"quit"), (String::new(), 0));
        assert_eq!(ask(b""), (String::new(), 0));
    }

    #[test]
    fn a_long_answer_is_not_written_line_by_line() {
        struct Counting(usize, usize);
        impl Write for Counting {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                (self.0, self.1) = (self.0 + 1, self.1 + bytes.iter().filter(|byte| **byte == b'\n').count());
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let instance = Instance::start();
        let mut out = Counting(0, 0);
        let code = answered(&instance, &b"version;".repeat(500), Printer::new(&mut out));
        let Counting(writes, lines) = out;
        assert_eq!((code, lines), (0, 1_500));
        // What one read returns is written with one write.
        assert!(writes < lines / 10, "{writes} writes");
    }

    #[test]
    fn a_reader_that_went_away_is_no_error_and_a_full_disk_is_one() {
        let instance = Instance::start();
        let run = |text: &[u8], kind| answered(&instance, text, Printer::new(failing(kind)));
        assert_eq!(run(b"version; disable 0", ErrorKind::BrokenPipe), 0);
        assert_eq!(run(b"disable 0; x", ErrorKind::BrokenPipe), 64, "carried out all the same");
        assert_eq!(run(b"version", ErrorKind::StorageFull), IO_ERROR);
        let shell = through_pipe(
            &mut client(&instance),
            &b"show\n"[..],
            Printer::new(failing(ErrorKind::BrokenPipe)),
        );
        assert_eq!(shell, 0);
    }
}
