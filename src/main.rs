//! The exit code and nothing else.
use std::process::ExitCode;

fn main() -> ExitCode {
    balance::app::run(std::env::args_os().collect())
}
