//! Answers as JSON: `show json`, `status json`, `sessions json`, `ended json`, `services json`, `events
//! json`, `doctor json`.
//!
//! Each is one line of ASCII, made from the same snapshots as the text. Reading order: [`document`](Document)
//! is the content of an answer, `take` gathers it, `frame` is what all answers have in common, and
//! `channels`, `sessions` and `events` are the rest. `reasons` counts by reason, `units` prints times and
//! numbers, and `ascii` escapes characters.
//! Source: docs/json.md; `dist/balance.schema.json` describes the same for programs.

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
