//! The one integration binary.

// Tests talk through the test runner, which captures what they print.
#![allow(clippy::print_stderr, clippy::print_stdout)]

mod relay_sim;
