//! `doctor`: looks for common problems and explains what to do.
//!
//! Reading order: `finding` is what an answer is made of. `signs` is what is known when it is asked; `kernel`
//! reads what the kernel knows; `examine` gathers all of it. `exams` is the table of checks; `of_process`,
//! `of_network`, `of_host` and `of_service` have its rows. `asking` is what the asking side can see by
//! itself.
//! Source: docs/observability.md, "Doctor".

pub(crate) mod asking;
mod examine;
mod exams;
mod finding;
mod kernel;
mod of_host;
mod of_network;
mod of_process;
mod of_service;
mod signs;
#[cfg(test)]
mod trials;

pub(crate) use examine::examine;
pub use finding::{Diagnosis, Finding, Gravity};
pub use kernel::KernelSigns;
pub use signs::{ClockSigns, PrivilegeSigns, ProcessSigns, WaySign};
