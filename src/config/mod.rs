//! Text becomes types: the command line and the grammar of destinations.
//!
//! Pure: no socket, no file, no clock, no environment. Whether a host exists is asked later, elsewhere.
//! Reading order: `target`, `channel_options`, `groups`, `duration`, `usage`, `cli`, `man`, `values`, `check`, `health`,
//! `choosing`, `limits`, `settings`, and the way back: `line`.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

mod channel_options;
mod check;
mod choosing;
mod cli;
#[cfg(test)]
mod contract;
mod duration;
mod groups;
mod health;
mod limits;
mod line;
mod man;
#[cfg(test)]
mod new_options;
#[cfg(test)]
mod round_trip;
mod settings;
mod target;
mod usage;
mod values;

pub use choosing::{policy_name, policy_named};
pub use cli::{CliError, RawArgs, Shell, parse};
pub use duration::{DurationError, parse_duration};
pub use groups::parse_groups;
pub use line::command_line;
pub use man::{completions, man_page};
pub use settings::{Instance, Invocation, Serve, SettingsError};
pub use target::{TargetError, is_host};
