//! The HTTP server of a process: metrics and probes, and the page for operators.
//!
//! Reading order: `head` is what a client asks, `answer` what it gets, and `routes` makes one from the other,
//! all without sockets. `visit` is one client's connection, and `listen` the thread that serves them.
//! `orders` decides who may change something by HTTP, and what. `question` says which part of the page is
//! wanted, `sight` gathers what it shows, `history` is the last hour, `plot` draws its lines, and `page` puts
//! all into the templates.

pub(crate) mod answer;
pub(crate) mod head;
pub(crate) mod history;
pub mod listen;
pub mod orders;
pub(crate) mod page;
pub(crate) mod plot;
pub(crate) mod question;
pub mod routes;
pub(crate) mod sight;
pub(crate) mod visit;
