//! The composition root: what was typed leads to a start, a command or a shell; how it ends, to an exit code.
//!
//! Knows: every room's front door, exit codes. Never: scheduling rules, command syntax, byte copying.
//! Reading order: `files` reads services from files, `lookup` finds hosts and ports, `passed` says which socket that was passed in
//! is whose, `refused` finds what the system lacks, `prepared` makes a service of what was asked for, `circles` finds channels that lead back, `start` starts the process
//! that serves it, `controllers` lets operators in, `saved` is the way back from a table to what could have been asked for.

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;

use self::roster::Source;
use crate::config::{self, Invocation, LineError, Serve, Wrong};
use crate::process::{PassedError, PassedListener};
use crate::spec::{ProcessSpec, ServiceSpec, Typed};
use crate::sys::given;
use crate::sys::listen::ListenError;

mod circles;
mod controllers;
mod deadlines;
mod files;
mod lookup;
mod passed;
mod plan;
mod prepared;
mod refused;
mod roster;
mod saved;
mod start;
mod stop;

/// Exit codes of sysexits.h.
mod exit {
    pub(super) const USAGE: u8 = 64;
    pub(super) const BAD_DATA: u8 = 65;
    pub(super) const UNAVAILABLE: u8 = 69;
    pub(super) const OS: u8 = 71;
    pub(super) const CONFIG: u8 = 78;
}

/// As many failures as anybody will read.
const MOST_TOLD: usize = 100;

/// Why the program ends early: the exit code and what stderr gets.
#[derive(Debug)]
struct Failure {
    code: u8,
    message: String,
}

impl Failure {
    fn new(code: u8, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// With the place of what was asked for, if that is in a file.
    fn at(typed: &Typed, failure: Self) -> Self {
        match &typed.at {
            Some(at) => Self::new(failure.code, format!("{at}: {}", failure.message)),
            None => failure,
        }
    }
}

impl Failure {
    /// Several that have nothing to do with each other, told together. `None`: there is none. `so`: what comes of it.
    fn several(failures: Vec<Self>, so: &str) -> Option<Self> {
        match failures.len() {
            0 | 1 => failures.into_iter().next(),
            _ => Some(Self::list(&failures, failures[0].code, so)),
        }
    }

    /// What is wrong with files is told all at once; of a command line only the first thing. `None`: nothing is.
    fn first_or_all(failures: Vec<Self>, so: &str) -> Option<Self> {
        match failures.iter().any(|failure| failure.code == exit::CONFIG) {
            true => Some(Self::list(&failures, exit::CONFIG, so)),
            false => failures.into_iter().next(),
        }
    }

    fn list(failures: &[Self], code: u8, so: &str) -> Self {
        let count = failures.len();
        let lines: String = failures.iter().take(MOST_TOLD).map(|one| format!("{}\n", one.message)).collect();
        let first = if count > MOST_TOLD {
            format!(", of which these are the first {MOST_TOLD}")
        } else {
            String::new()
        };
        let wrong = counted(count, "error");
        Self::new(code, format!("{lines}balance: {wrong}{first}; {so}"))
    }
}

/// What comes of a failure at the start.
const NOT_STARTED: &str = "nothing was started";

impl From<LineError> for Failure {
    fn from(error: LineError) -> Self {
        let code = match error.wrong {
            Wrong::Usage(_) | Wrong::Port { .. } => exit::USAGE,
            Wrong::Address { .. } => exit::BAD_DATA,
            Wrong::EmptyGroup => exit::UNAVAILABLE,
            Wrong::File { .. } => exit::CONFIG,
        };
        let code = if error.is_of_file() { exit::CONFIG } else { code };
        Self::new(code, error.to_string())
    }
}

impl From<PassedError> for Failure {
    fn from(error: PassedError) -> Self {
        Self::new(exit::OS, format!("balance: {error}"))
    }
}

impl Failure {
    /// All that is wrong with files; of a command line the first thing. `so`: what comes of it.
    fn told(errors: Vec<LineError>, so: &str) -> Self {
        let failures = errors.into_iter().map(Self::from).collect();
        Self::first_or_all(failures, so).unwrap_or_else(|| Self::new(exit::USAGE, ""))
    }
}

impl From<Vec<LineError>> for Failure {
    fn from(errors: Vec<LineError>) -> Self {
        Self::told(errors, NOT_STARTED)
    }
}

impl From<ListenError> for Failure {
    fn from(error: ListenError) -> Self {
        Self::new(exit::OS, error.to_string())
    }
}

/// Runs the program with the given `argv` (program name first) and says how it ended.
pub fn run(argv: Vec<OsString>) -> ExitCode {
    match dispatch(&argv) {
        Ok(code) => ExitCode::from(code),
        Err(Failure { code, message }) => {
            let end = if message.ends_with('\n') || message.is_empty() { "" } else { "\n" };
            // Whoever closed stderr does not want to know.
            let _ = write!(io::stderr(), "{message}{end}");
            ExitCode::from(code)
        }
    }
}

fn dispatch(argv: &[OsString]) -> Result<u8, Failure> {
    // First of all: what was inherited can be told from what is ours only now.
    given::record();
    let environment = controllers::Environment::read();
    let passed = environment.passed_listeners();
    match config::parse(argv)? {
        Invocation::Serve(serve) => {
            let Serve { process, service, check_only } = *serve;
            serve_all(&process, vec![service], check_only, passed, None, &environment)
        }
        Invocation::Files(asked) => {
            // In the background the process has another directory; the files are where they were.
            let directory = std::env::current_dir().unwrap_or_default();
            let (process, services) = files::read(&asked, &directory)?;
            let check_only = asked.check_only;
            let source = Some(Source { files: asked, directory });
            serve_all(&process, services, check_only, passed, source, &environment)
        }
        Invocation::Command { instance, text } => controllers::one_shot(&instance, &text, &environment),
        Invocation::Shell { instance } => controllers::shell(&instance, &environment),
        Invocation::List => Ok(controllers::list(&environment)),
        Invocation::Print(page) => print(&page),
    }
}

/// Looks all names up, and starts to serve unless only a check was asked for.
fn serve_all(
    process: &ProcessSpec,
    services: Vec<ServiceSpec>,
    check_only: bool,
    passed: Result<Vec<PassedListener>, PassedError>,
    source: Option<Source>,
    environment: &controllers::Environment,
) -> Result<u8, Failure> {
    let mut wrong: Vec<Failure> = Vec::new();
    let found = lookup::services(&services);
    let found = found.map_err(|errors| wrong.extend(errors.into_iter().map(Failure::from)));
    let passed = passed.map_err(|error| wrong.push(error.into()));
    wrong.extend(refused::settings(process));
    if check_only {
        wrong.extend(refused::programs(&services));
    }
    let (Ok(found), Ok(passed)) = (found, passed) else {
        return Err(Failure::first_or_all(wrong, NOT_STARTED).unwrap_or_else(|| Failure::new(exit::OS, "")));
    };
    let channels = found.iter().flat_map(|found| &found.channels).flatten().flatten().count();
    let services: Vec<_> = services.into_iter().zip(found).collect();
    let text = format!("{}, {}\n", counted(services.len(), "service"), counted(channels, "channel"));
    if check_only {
        wrong.extend(start::means(process, services.len(), &passed).err());
        wrong.extend(passed::assign(passed, &services).err());
        return Failure::first_or_all(wrong, NOT_STARTED).map_or_else(|| print(text.as_bytes()), Err);
    }
    match Failure::first_or_all(wrong, NOT_STARTED) {
        Some(failure) => Err(failure),
        None => start::start(process, services, passed, source, environment),
    }
}

fn counted(number: usize, noun: &str) -> String {
    let end = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{end}")
}

/// A reader that went away has seen what it wanted.
fn print(text: &[u8]) -> Result<u8, Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text).and_then(|()| out.flush()) {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::new(exit::OS, format!("balance: cannot write to stdout: {e}")))
        }
        _ => Ok(0),
    }
}
