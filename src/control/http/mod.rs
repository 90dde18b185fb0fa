//! The HTTP server of a process: what monitoring and probes ask for, and the page for operators.
//!
//! Reading order: `head` is what a client asks, `answer` what it gets, `routes` what leads from one to the other, all pure of
//! sockets; `visit` is one client's connection, and `listen` the thread that serves them. `orders` is who may change something by HTTP, and what; `question` is what of the page is wanted, `sight`
//! what it is made of, `history` the last hour, `plot` its lines, and `page` puts them into the templates.

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
