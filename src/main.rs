//! The program: gives the arguments to [`balance::app::run`] and ends with its exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    balance::app::run(std::env::args_os().collect())
}
