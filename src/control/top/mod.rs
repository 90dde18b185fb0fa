//! `balance -c top PORT`: an instance, live in a terminal.
//!
//! Reading order: `facts` are what an instance answers, `samples` what that adds to what was seen before, `looked` both, filtered and
//! sorted; `keys` are bytes of a terminal, `verbs` commands, `target` what one is for, and `desk` what a key does; `paint`, `columns`, `figures`, `tables`, `channel_table`, `detail`, `help` and
//! `view` make a screen of it. All of that is pure. `asker` asks the instance on a thread of its own, `screen` is the terminal, and `run` the loop.

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
