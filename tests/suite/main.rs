//! The one integration binary: it drives the real program over real sockets.
//!
//! Every test starts its own instance with its own rendezvous directory, on a port the kernel chose, and ends it with the
//! same epilogue (`harness::Instance::end`). Tests wait for facts with a deadline, never for time.

// Tests talk through the test runner, which captures what they print.
#![allow(clippy::print_stderr, clippy::print_stdout)]

mod access;
mod agree;
mod capture;
mod carried;
mod causes;
mod circles;
mod compat;
mod control;
mod crowd;
mod data;
mod docs;
mod doctor;
mod drain;
mod ending;
mod equality;
mod events;
mod failover;
mod fenced;
mod files;
mod harness;
mod health;
mod hooks;
mod http;
mod json;
mod layers;
mod limits;
mod list;
mod looks;
mod manager;
mod names;
mod options;
mod package;
mod page;
mod pair;
mod pauses;
mod pausing;
mod policies;
mod port_ranges;
mod ports;
mod process;
mod proxy_in;
mod proxy_out;
mod queue;
mod real_programs;
mod refusals;
mod regression;
mod reload;
mod routing;
mod save;
mod schedule_sim;
mod signals;
mod soak;
mod sources;
mod stale;
mod starttls;
mod state;
mod strangers;

mod relay_sim;
mod tap;
mod told;
mod top;
mod torture;
mod transparent;
mod unix;
mod unix_sockets;
mod unprivileged;
mod unread;
mod upgrade;
mod upgrade_kills;
mod upgrade_operators;
mod upgrade_real;
mod upgrade_storm;
mod upgrade_window;
mod verbs;
