//! Bugs that a test can plant in the data plane. Each is one that it had or could have had. Outside tests
//! there are none.
//!
//! Knows: which bug is planted on this thread. Never: what it does.

/// A known bug.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bug {
    /// A client that leaves does not serve waiting clients.
    ForgetsLine,
    /// A client that gives up its dial does not tell others that its slot is free.
    ForgetsDropped,
    /// A connection counts as established because there was an event for it.
    BelievesNews,
    /// A panic in one message loses the messages after it.
    LosesMessages,
    /// A panic does not give back the counts of its client.
    LosesCount,
    /// A connection that lost bytes by our fault ends cleanly.
    EndsClean,
    /// A connection that moved to another process is still watched, as long as any process has the socket.
    StaysWatched,
    /// A client that leaves keeps its place in the count of its connections.
    KeepsPlace,
    /// Every group serves every client, whatever it asks for.
    ForgetsRoutes,
    /// What a proxy has said is kept and not counted.
    ForgetsHeld,
}

#[cfg(test)]
thread_local! {
    static PLANTED: std::cell::Cell<Option<Bug>> = const { std::cell::Cell::new(None) };
}

/// Plants a bug on this thread; `None` removes it.
#[cfg(test)]
pub(super) fn plant(bug: Option<Bug>) {
    PLANTED.set(bug);
}

/// Is this bug planted?
#[cfg(test)]
pub(super) fn has(bug: Bug) -> bool {
    PLANTED.get() == Some(bug)
}

/// Is this bug planted? Never outside tests.
#[cfg(not(test))]
pub(super) const fn has(_: Bug) -> bool {
    false
}
