//! TEMPORARY
use super::Failure;
use crate::net::server::Server;
use crate::observe::Log;
use crate::sched::SharedTable;
pub(super) struct Environment {
    pub(super) listen_pid: Option<String>,
    pub(super) listen_fds: Option<String>,
}
impl Environment {
    pub(super) fn read() -> Self {
        Self { listen_pid: std::env::var("LISTEN_PID").ok(), listen_fds: std::env::var("LISTEN_FDS").ok() }
    }
}
pub(super) fn one_shot(
    _i: &crate::config::Instance,
    _p: u16,
    _t: &str,
    _e: &Environment,
) -> Result<u8, Failure> {
    Ok(0)
}
pub(super) fn shell(_i: &crate::config::Instance, _p: u16, _e: &Environment) -> Result<u8, Failure> {
    Ok(0)
}
pub(super) fn bind(_a: std::net::SocketAddr, _g: Option<&str>, _e: &Environment, _l: &Log) -> Option<()> {
    None
}
pub(super) struct C(Server);
impl C {
    pub(super) fn remove(&self) {
        let _ = self.0.connections();
    }
}
pub(super) fn serve(_e: Option<()>, _t: SharedTable, _p: u16, s: Server, _l: &Log) -> C {
    C(s)
}
