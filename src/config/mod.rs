//! Text becomes types: the command line and the grammar of destinations.
//!
//! Pure: no socket, no file, no clock, no environment. Whether a host exists is asked later, elsewhere.
//! Reading order: `target`, `channel_options`, `groups`, `duration`, `usage`, `cli`, `man`, `settings`.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

mod channel_options;
mod cli;
#[cfg(test)]
mod contract;
mod duration;
mod groups;
mod man;
mod settings;
mod target;
mod usage;

pub use cli::{CliError, RawArgs, Shell, parse};
pub use groups::{GroupDecl, Place, parse_groups};
pub use man::{completions, man_page};
pub use settings::{Instance, Invocation, Keepalive, Listen, Serve, SettingsError};
pub use target::{PortWord, Target, TargetError, is_host};
