//! Bugs that a test may plant in the data plane, each of them one that it had or could have had. Outside of tests there
//! are none.
//!
//! Knows: which is planted on this thread. Never: what it does.

/// A known bug.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bug {
    /// Whoever leaves does not think of those in line.
    ForgetsLine,
    /// Whoever gives up the channel that it dials keeps to itself that others get its slot.
    ForgetsDropped,
    /// A connection counts as one because there is news of it.
    BelievesNews,
    /// A panic in one message loses those behind it.
    LosesMessages,
    /// A panic loses the count of the client that it happened to.
    LosesCount,
    /// What was lost by a fault of ours ends as if it were whole.
    EndsClean,
    /// Whoever leaves is watched still, as long as anybody has the socket.
    StaysWatched,
    /// Whoever leaves keeps its place among the connections of its client.
    KeepsPlace,
    /// Any channel is for anybody, whatever is asked for.
    ForgetsRoutes,
}

#[cfg(test)]
thread_local! {
    static PLANTED: std::cell::Cell<Option<Bug>> = const { std::cell::Cell::new(None) };
}

/// Plants a bug on this thread, or none.
#[cfg(test)]
pub(super) fn plant(bug: Option<Bug>) {
    PLANTED.set(bug);
}

/// Is it planted?
#[cfg(test)]
pub(super) fn has(bug: Bug) -> bool {
    PLANTED.get() == Some(bug)
}

/// Is it planted? It is not.
#[cfg(not(test))]
pub(super) const fn has(_: Bug) -> bool {
    false
}
