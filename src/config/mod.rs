//! Reads text into specs and prints specs as text: the command line, a service as one line, files of lines.
//!
//! Pure: no socket, no file, no clock, no environment. Whether a host exists is asked later, elsewhere.
//! Reading order: `number`, `ports`, `duration`, `usage`, `wrong`, `host`, `channel_options`, `channel`, `asked`, `groups`, `check`, `policy`,
//! `values`, `nets`, `draft`, `row`, `options`, `split`, `quote`, `line`, `lex`, `places`, `file`, `page`, `man`, `invocation`. Imports go up this list only.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

mod asked;
mod channel;
mod channel_options;
mod check;
#[cfg(test)]
mod contract;
mod draft;
mod duration;
mod file;
mod groups;
mod host;
mod invocation;
mod lex;
mod line;
mod man;
mod meant;
mod nets;
#[cfg(test)]
mod new_options;
mod number;
mod options;
mod page;
mod places;
mod policy;
mod ports;
mod quote;
#[cfg(test)]
mod round_trip;
mod row;
mod senders;
mod split;
mod usage;
mod values;
mod wrong;

pub use asked::{print_asked, print_sections};
#[cfg(test)]
pub(crate) use channel::tests::any_manner;
pub use channel::{print_channel, read_channel};
pub use channel_options::{print_channel_check, print_manner, read_manner};
pub use draft::CHECK_DEFAULTS;
pub use duration::{DurationError, parse_duration, print_duration};
pub use file::{FileReader, print_file, read_file};
pub use groups::read_groups;
pub use host::is_host;
pub use invocation::{Files, Instance, Invocation, Serve, parse};
pub use line::{command_line, option_changes, print_line, print_process, process_changes, read_line};
pub use meant::what_was_meant;
pub use nets::{parse_net, parse_net_around, parse_nets, print_net};
pub use places::{ListenAddress, Places};
pub use policy::{policy_name, policy_named};
pub use ports::{read_port, read_ports};
pub use wrong::{LineError, Word, Wrong};
