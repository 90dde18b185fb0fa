//! Answers as JSON: `show json`, `status json`, `sessions json`, `services json`, `events json`.
//!
//! One line of ASCII each, made from the same snapshots as the text. Reading order: [`document`](Document) is what an answer is made of,
//! `take` gathers it, `frame` is what all answers have in common, `channels`, `sessions` and `events` the rest; `reasons` counts by reason, `units` times and numbers,
//! `ascii` what a character becomes.
//! Source: docs/json.md; `dist/balance.schema.json` is the same for programs.

mod ascii;
mod channels;
#[cfg(test)]
mod conform;
mod document;
mod events;
mod frame;
mod reasons;
mod sessions;
mod take;
mod units;

pub use document::{Content, Document, ProcessFacts};
pub(crate) use frame::command_answer;
pub use frame::{SCHEMA, write, write_error};
pub(crate) use take::{Question, take};
