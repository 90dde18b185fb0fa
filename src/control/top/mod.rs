//! `balance -c top PORT` shows an instance live in a terminal.
//!
//! Reading order: `facts` is what an instance answers, `samples` what was learned from earlier answers, and
//! `looked` both, filtered and sorted. `keys` reads the terminal's bytes, `verbs` makes commands, `target` is
//! what a command is for, and `desk` what a key does. `paint`, `columns`, `figures`, `tables`,
//! `channel_table`, `detail`, `help` and `view` draw the screen. All of these are pure. `asker` asks the
//! instance on a thread of its own, `screen` is the terminal, and `run` the loop.

mod asker;
mod channel_table;
mod columns;
mod desk;
mod detail;
mod facts;
mod figures;
mod help;
mod keys;
mod looked;
mod news;
mod paint;
mod run;
mod samples;
mod screen;
mod stops;
mod tables;
mod target;
#[cfg(test)]
mod trials;
mod verbs;
mod view;

pub(super) use run::run;
pub(super) use screen::obstacle;
