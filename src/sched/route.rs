//! One client's failover walk over the groups.

/// The state of one client's walk: which channels were tried, which group comes next.
#[derive(Debug)]
pub struct Route {
    _todo: (),
}
