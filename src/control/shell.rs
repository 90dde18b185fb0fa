//! `-c` and `-i`: an operator at the keyboard, or a script, as a client of the control socket.
//!
//! Knows: prompt, banner, line reading, exit codes. Never: the table (it is another process), what a command means.
//! Source: docs/control.md, "The shell".

use std::io::{self, BufRead, ErrorKind, Write};
use std::path::PathBuf;

use crate::control::client::{AskError, Client, FindError, Wanted};
use crate::control::render::VERSION;
use crate::control::terminal::Terminal;
use crate::control::wire::{Line, Lines, MAX_LINE};

/// No instance, or it cannot be talked to (sysexits: `EX_UNAVAILABLE`).
const UNAVAILABLE: u8 = 69;
/// The answer could not be printed (sysexits: `EX_IOERR`).
const IO_ERROR: u8 = 74;

/// `balance -c TEXT PORT`.
#[derive(Debug)]
pub struct OneShot {
    /// Which instance.
    pub wanted: Wanted,
    /// The commands, separated by `;` or newlines.
    pub text: Vec<u8>,
}

/// `balance -i PORT`.
#[derive(Debug)]
pub struct Interactive {
    /// Which instance.
    pub wanted: Wanted,
    /// Where to keep what was typed at a terminal; `None` = nowhere.
    pub history: Option<PathBuf>,
}

/// Runs the commands in one session, prints the answers on stdout, and answers with the exit code.
pub fn one_shot(options: &OneShot) -> u8 {
    match Client::find(&options.wanted) {
        Ok(mut client) => ask_once(&mut client, &options.text, Printer::new(io::stdout().lock())),
        Err(error) => not_found(&error),
    }
}

fn ask_once(client: &mut Client, text: &[u8], mut printer: Printer<impl Write>) -> u8 {
    let asked = client.ask(text, |line| printer.print(line));
    let code = asked.map_or_else(|error| gone(&error), |status| status.code);
    printer.end(code)
}

/// Runs the shell on stdin and stdout, and answers with the exit code. At a terminal it edits, completes and
/// remembers lines; through a pipe it is 3.57's, byte for byte.
pub fn interactive(options: &Interactive) -> u8 {
    let mut client = match Client::find(&options.wanted) {
        Ok(client) => client,
        Err(error) => return not_found(&error),
    };
    match Terminal::open(options.history.as_deref()) {
        Some(mut terminal) => at_terminal(&mut client, &mut terminal),
        None => through_pipe(&mut client, io::stdin().lock(), Printer::new(io::stdout().lock())),
    }
}

fn banner(client: &Client) -> String {
    format!("\nbalance {VERSION} interactive command shell\nPID of master process is {}\n\n", client.pid())
}

fn prompt(group: usize) -> String {
    format!("balance[{group}] ")
}

fn through_pipe(client: &mut Client, input: impl BufRead, mut printer: Printer<impl Write>) -> u8 {
    printer.print(&banner(client));
    let mut lines = Lines::new(input);
    let mut group = 0;
    loop {
        printer.print(&prompt(group));
        printer.flush();
        if printer.failure.is_some() {
            return printer.end(0);
        }
        let too_long;
        let line = match lines.read() {
            Ok(Line::Whole(line) | Line::Rest(line)) => line,
            // The instance has the answer to it, too.
            Ok(Line::TooLong) => {
                too_long = vec![b'x'; MAX_LINE + 1];
                &too_long
            }
            Ok(Line::End) | Err(_) => {
                printer.print("\n");
                return printer.end(0);
            }
        };
        match client.ask(line, |line| printer.print(line)) {
            Ok(status) if status.end => return printer.end(leave(status.code)),
            Ok(status) => group = status.group,
            Err(error) => return printer.end(gone(&error)),
        }
    }
}

fn at_terminal(client: &mut Client, terminal: &mut Terminal) -> u8 {
    let mut printer = Printer::new(io::stdout());
    printer.print(&banner(client));
    let mut group = 0;
    loop {
        printer.flush();
        let Some(line) = terminal.line(&prompt(group)) else { return printer.end(0) };
        match client.ask(line.as_bytes(), |line| printer.print(line)) {
            Ok(status) if status.end => return printer.end(leave(status.code)),
            Ok(status) => group = status.group,
            Err(error) => return printer.end(gone(&error)),
        }
    }
}

/// What a shell that was left tells its caller: only whether the instance was stopped if that was asked for. Errors of
/// commands were seen.
fn leave(code: u8) -> u8 {
    if code == UNAVAILABLE { code } else { 0 }
}

fn gone(error: &AskError) -> u8 {
    complain(&error.to_string());
    UNAVAILABLE
}

fn not_found(error: &FindError) -> u8 {
    complain(&error.to_string());
    UNAVAILABLE
}

fn complain(text: &str) {
    // Nobody is left to tell that stderr is closed.
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Writes until that fails, and then no more: what was asked of the instance is done all the same.
struct Printer<W: Write> {
    out: W,
    failure: Option<io::Error>,
}

impl<W: Write> Printer<W> {
    fn new(out: W) -> Self {
        Self { out, failure: None }
    }

    fn print(&mut self, text: &str) {
        if self.failure.is_none() {
            self.failure = self.out.write_all(text.as_bytes()).err();
        }
    }

    fn flush(&mut self) {
        if self.failure.is_none() {
            self.failure = self.out.flush().err();
        }
    }

    /// The exit code: a reader that went away has seen what it wanted, a full disk is an error.
    fn end(mut self, code: u8) -> u8 {
        self.flush();
        match self.failure {
            Some(error) if error.kind() != ErrorKind::BrokenPipe && code == 0 => {
                complain(&format!("balance: cannot write the answer: {error}"));
                IO_ERROR
            }
            _ => code,
        }
    }
}
