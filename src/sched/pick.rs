//! One group's choice.

/// How a group distributes clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// In turn. `RR`.
    RoundRobin,
    /// By the client's address. `Hash`.
    Hash,
}
