//! The composition root: turns the command line into a start, a command or a shell, and the outcome into an
//! exit code.
//!
//! Knows: the public interface of every room, exit codes. Never: scheduling rules, command syntax, byte
//! copying.
//! Reading order: `files` reads services from files, `lookup` finds hosts and ports, `passed` assigns sockets
//! of socket activation, `refused` finds what the system lacks, `lockdown` gives up privileges, `prepared`
//! makes a service from its line, `circles` finds channels that lead back. `start` starts the process that
//! serves; `kept` restores what operators changed before the last end, and `keeper` writes such changes down.
//! `environment` says where operators find instances, `controllers` lets them in, and `reporter` reports to the
//! service manager. `upgrade` hands everything over to another process, and `succession` takes it over from
//! one. `web` opens the port of HTTP, and `saved` turns a table back into lines.

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use self::heir::Heir;
use self::origin::Origin;
use self::roster::Source;
use crate::config::{self, Files, Invocation, LineError, Serve, Wrong};
use crate::observe::{Event, Log, Severity};
use crate::process::{self, Hangup, PassedError, PassedListener};
use crate::spec::{ProcessSpec, ServiceSpec, Typed};
use crate::sys::given;
use crate::sys::listen::ListenError;

mod assembly;
mod circles;
mod controllers;
mod deadlines;
mod denied;
mod doctor;
mod environment;
mod fenced;
mod files;
mod heir;
mod hooks;
mod keeper;
mod kept;
mod lists;
mod lockdown;
mod lookup;
mod origin;
mod passed;
mod past;
mod plan;
mod prepared;
mod refused;
mod replace;
mod reporter;
mod restore;
mod roster;
mod saved;
mod scribe;
mod start;
mod state;
mod statefile;
mod stop;
mod succession;
mod surveyed;
mod upgrade;
mod way_watch;
mod ways;
mod web;

/// Exit codes from sysexits.h.
mod exit {
    pub(super) const USAGE: u8 = 64;
    pub(super) const BAD_DATA: u8 = 65;
    pub(super) const UNAVAILABLE: u8 = 69;
    pub(super) const OS: u8 = 71;
    /// Only for what an operator asks of an instance that runs.
    pub(super) const LATER: u8 = 75;
    pub(super) const CONFIG: u8 = 78;
}

/// Maximum number of failures printed at once.
const MOST_TOLD: usize = 100;

/// Why the program ends early: the exit code and the message for stderr.
#[derive(Debug)]
struct Failure {
    code: u8,
    message: String,
    /// Whether another process listens where this one was to listen.
    is_place_taken: bool,
}

impl Failure {
    fn new(code: u8, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), is_place_taken: false }
    }

    /// The failure with the place in its file in front, if the words come from a file.
    fn at(typed: &Typed, failure: Self) -> Self {
        match &typed.at {
            Some(at) => Self { message: format!("{at}: {}", failure.message), ..failure },
            None => failure,
        }
    }
}

impl Failure {
    /// Combines independent failures into one message. `None`: there is none. `so`: the consequence.
    fn several(failures: Vec<Self>, so: &str) -> Option<Self> {
        match failures.len() {
            0 | 1 => failures.into_iter().next(),
            _ => Some(Self::list(&failures, failures[0].code, so)),
        }
    }

    /// For files, combines all failures; for a command line, returns only the first. `None`: there is none.
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
        let message = format!("{lines}balance: {wrong}{first}; {so}");
        Self { code, message, is_place_taken: failures.iter().any(|failure| failure.is_place_taken) }
    }
}

/// The consequence of a failure at the start.
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
    /// A failure from all errors in files, or from the first error in a command line. `so`: the consequence.
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
        let hint = match error.source.kind() {
            // The hint is for addresses that move between hosts. A reader who knows of the option would have
            // typed it.
            io::ErrorKind::AddrNotAvailable => {
                "; this host does not have the address. If it comes later, as with keepalived, give --freebind"
            }
            _ => "",
        };
        let is_place_taken = error.source.kind() == io::ErrorKind::AddrInUse;
        let port = error.address.net().map(|address| address.port());
        let hint = match error.source.kind() {
            io::ErrorKind::PermissionDenied if port.is_some_and(|port| (1..1024).contains(&port)) => {
                "\nbalance: ports below 1024 need root or CAP_NET_BIND_SERVICE"
            }
            _ => hint,
        };
        Self { is_place_taken, ..Self::new(exit::OS, format!("{error}{hint}")) }
    }
}

/// Runs the program with the given `argv` (program name first) and returns its exit code.
pub fn run(argv: Vec<OsString>) -> ExitCode {
    match dispatch(&argv) {
        Ok(code) => ExitCode::from(code),
        Err(Failure { code, message, .. }) => {
            let message = with_what_was_meant(message, &argv);
            let end = if message.ends_with('\n') || message.is_empty() { "" } else { "\n" };
            // If stderr is closed, nobody wants the message.
            let _ = write!(io::stderr(), "{message}{end}");
            ExitCode::from(code)
        }
    }
}

/// Adds what the command line probably means, if PORT or a channel is wrong. For both, the first line is that
/// of 3.57.
fn with_what_was_meant(message: String, argv: &[OsString]) -> String {
    let first = message.lines().next().unwrap_or_default();
    let is_port_wrong = first.starts_with("invalid port [");
    if !is_port_wrong && !first.starts_with("unknown or invalid address [") {
        return message;
    }
    match config::what_was_meant(argv, is_port_wrong) {
        Some(meant) => format!("{first}\nbalance: {meant}"),
        None => message,
    }
}

fn dispatch(argv: &[OsString]) -> Result<u8, Failure> {
    // This comes first: later, inherited descriptors could not be told from our own.
    given::record();
    let parsed = config::parse(argv);
    let is_start = match &parsed {
        Ok(Invocation::Serve(serve)) => !serve.check_only,
        Ok(Invocation::Files(files)) => !files.check_only,
        _ => false,
    };
    if is_start {
        process::expect_signals();
    }
    let mut origin = Origin::of_this_process(argv);
    let mut heir = Heir::of_this_process();
    heir.iter().for_each(|heir| origin.started_by(heir.program()));
    let environment = environment::Environment::read();
    let passed = environment.passed_listeners();
    match parsed? {
        Invocation::Serve(serve) => {
            let Serve { process, service, check_only, replace } = *serve;
            // A successor must find the same file, whatever its working directory is.
            let mut named = process.state.iter().chain(&process.http_token_file);
            let is_relative = named.any(|named| Path::new(&named.name).is_relative());
            origin.directory = if is_relative { std::env::current_dir().ok() } else { None };
            let asked =
                StartRequest { process, services: vec![service], check_only, replace, source: None, origin };
            serve_all(asked, passed, heir.as_mut(), &environment)
        }
        Invocation::Files(asked) => {
            // In the background the process changes its directory, but the files are relative to this one.
            let directory = std::env::current_dir().unwrap_or_default();
            let read = files::read(&asked, &directory).map_err(Failure::from);
            let (process, services) = read.inspect_err(|failure| refused_to(heir.as_mut(), failure))?;
            let Files { check_only, replace, .. } = asked;
            origin.directory = Some(directory.clone());
            let source = Some(Source { files: asked, directory });
            serve_all(
                StartRequest { process, services, check_only, replace, source, origin },
                passed,
                heir.as_mut(),
                &environment,
            )
        }
        Invocation::Command { instance, text } => {
            // The command may write a capture file.
            process::expect_full_files();
            environment::one_shot(&instance, &text, &environment)
        }
        Invocation::Shell { instance } => environment::shell(&instance, &environment),
        Invocation::List => Ok(environment::list(&environment)),
        Invocation::Print(page) => print(&page),
    }
}

/// What to start, and how this process was started.
struct StartRequest {
    process: ProcessSpec,
    services: Vec<ServiceSpec>,
    check_only: bool,
    replace: bool,
    source: Option<Source>,
    origin: Origin,
}

/// Tells the process that this one was to replace why that failed.
fn refused_to(heir: Option<&mut Heir>, failure: &Failure) {
    if let Some(heir) = heir {
        heir.fail(&failure.message);
    }
}

/// Looks all names up, and starts to serve unless only a check was asked for.
fn serve_all(
    asked: StartRequest,
    passed: Result<Vec<PassedListener>, PassedError>,
    mut heir: Option<&mut Heir>,
    environment: &environment::Environment,
) -> Result<u8, Failure> {
    let foreground = start::is_foreground(&asked.process);
    if !asked.check_only && (foreground || heir.is_some()) {
        process::expect_the_end(Hangup::of_this_process(foreground, given::ignores(process::HANGUP)));
    }
    let result = serve_asked(asked, passed, heir.as_deref_mut(), environment);
    result.inspect_err(|failure| refused_to(heir, failure))
}

fn serve_asked(
    StartRequest { process, services, check_only, replace, source, origin }: StartRequest,
    passed: Result<Vec<PassedListener>, PassedError>,
    heir: Option<&mut Heir>,
    environment: &environment::Environment,
) -> Result<u8, Failure> {
    let process = &process;
    let mut wrong: Vec<Failure> = Vec::new();
    if process.user.is_some() && !check_only {
        // Only root can make the directory for all users, so this comes before the change of user.
        environment.make_shared_directory();
    }
    let as_user = lockdown::become_user(process, &services, check_only)?;
    // The new user has other directories.
    let as_user = as_user.then(|| environment.of_another_user());
    let environment = as_user.as_ref().unwrap_or(environment);
    if let Some(source) = source.as_ref().filter(|_| as_user.is_some()) {
        lockdown::warn_of_closed_files(source, &Log::stderr(false).timed(process.log_time));
    }
    crate::names::ask_servers(&process.dns);
    let known = heir.as_ref().map_or_else(lookup::Known::default, |heir| heir.hosts());
    let found = lookup::services(&services, known).map(|(found, _)| found);
    let found = found.map_err(|errors| wrong.extend(errors.into_iter().map(Failure::from)));
    let passed = passed.map_err(|error| wrong.push(error.into()));
    wrong.extend(refused::settings(process));
    if check_only {
        wrong.extend(refused::programs(&services));
        wrong.extend(refused::socket_groups(services.iter()));
        wrong.extend(refused::socket_paths(&services));
        wrong.extend(refused::state_file(process, source.as_ref()));
        wrong.extend(web::why_not(process));
        let is_its_user = lockdown::is_of_the_user(process);
        wrong.extend(scribe::why_not(process, start::is_foreground(process), is_its_user));
    }
    let (Ok(found), Ok(passed)) = (found, passed) else {
        return Err(Failure::first_or_all(wrong, NOT_STARTED).unwrap_or_else(|| Failure::new(exit::OS, "")));
    };
    wrong.extend(ways::refused(services.iter().zip(&found), check_only));
    let channels = found.iter().flat_map(|found| &found.channels).flatten().flatten().count();
    let services: Vec<_> = services.into_iter().zip(found).collect();
    let text = format!("{}, {}\n", counted(services.len(), "service"), counted(channels, "channel"));
    if check_only {
        if passed.is_empty() {
            let places = services.iter().map(|(spec, found)| (spec, found.span()));
            wrong.extend(refused::addresses(places));
        }
        wrong.extend(start::means(process, &services, &passed, 0).err());
        wrong.extend(passed::assign(passed, &services).err());
        return Failure::first_or_all(wrong, NOT_STARTED).map_or_else(|| print(text.as_bytes()), Err);
    }
    match (Failure::first_or_all(wrong, NOT_STARTED), heir) {
        (Some(failure), _) => Err(failure),
        (None, Some(heir)) => succession::start(process, services, source, origin, environment, heir),
        (None, None) => {
            let mut heirs = if replace { replace::ask(&services, environment)? } else { Vec::new() };
            if replace && heirs.is_empty() {
                let text =
                    "--replace: no instance of yours serves these addresses; this is a start like any other";
                let note = Event::Note { severity: Severity::Notice, text: text.to_owned() };
                Log::stderr(false).timed(process.log_time).tell(&note);
            }
            let result = start::start(process, services, passed, source, origin, environment, &mut heirs);
            result.inspect_err(|failure| heirs.iter_mut().for_each(|heir| heir.fail(&failure.message)))
        }
    }
}

fn counted(number: usize, noun: &str) -> String {
    let end = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{end}")
}

/// Prints to stdout. A reader that has gone away has seen what it wanted, so that is no failure.
fn print(text: &[u8]) -> Result<u8, Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text).and_then(|()| out.flush()) {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::new(exit::OS, format!("balance: cannot write to stdout: {e}")))
        }
        _ => Ok(0),
    }
}
