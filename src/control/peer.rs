//! Who is at the other end of a control socket, and what this user may do.
//!
//! Knows: uids. Never: files, commands, sessions.
//! Source: docs/control.md, "Who may control an instance".

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::RawMode;

pub(crate) const ROOT: u32 = 0;

/// The effective user id of the process.
pub(crate) fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// The effective group id of the process.
pub(crate) fn own_gid() -> u32 {
    rustix::process::getegid().as_raw()
}

/// The user id of the process at the other end, be it the client or the server.
///
/// # Errors
/// Those of the system call.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) fn uid(stream: impl AsFd) -> io::Result<u32> {
    // rustix cannot be used here: a peer in its own pid namespace has pid 0 for us, which its type cannot
    // hold, and it returns an error.
    Ok(nix::sys::socket::getsockopt(&stream, nix::sys::socket::sockopt::PeerCredentials)?.uid())
}

/// The same for systems without `SO_PEERCRED`.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) fn uid(stream: impl AsFd) -> io::Result<u32> {
    Ok(nix::unistd::getpeereid(stream)?.0.as_raw())
}

/// The name of a user; `None` if there is none.
pub(crate) fn user_name(uid: u32) -> Option<String> {
    Some(nix::unistd::User::from_uid(uid.into()).ok()??.name)
}

/// A user in a message: `user 1000 (ann)`.
pub(crate) fn called(uid: u32) -> String {
    let name = user_name(uid).map_or_else(String::new, |name| format!(" ({name})"));
    format!("user {uid}{name}")
}

/// The id of the process at the other end, in our pid namespace; `None` if it is not known, or the process
/// has ended.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) fn pid(stream: impl AsFd) -> Option<u32> {
    let peer = nix::sys::socket::getsockopt(&stream, nix::sys::socket::sockopt::PeerCredentials).ok()?;
    u32::try_from(peer.pid()).ok().filter(|pid| is_alive(*pid))
}

/// The same for systems without `SO_PEERCRED`.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) fn pid(_: impl AsFd) -> Option<u32> {
    None
}

/// Has the client closed its socket? Waits for that, at most for `timeout`. A client that has only shut down
/// its sending side is still there.
pub(crate) fn has_gone(stream: &UnixStream, timeout: &Timespec) -> bool {
    let mut polled = [PollFd::new(stream, PollFlags::empty())];
    let _ = rustix::event::poll(&mut polled, Some(timeout));
    polled[0].revents().intersects(PollFlags::HUP | PollFlags::ERR)
}

/// Does a process with this id exist?
pub(crate) fn is_alive(pid: u32) -> bool {
    let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
    // A process that we may not signal exists, too.
    pid.is_some_and(|pid| rustix::process::test_kill_process(pid) != Err(rustix::io::Errno::SRCH))
}

/// Is this a network namespace other than ours? `None` counts as ours.
pub(crate) fn is_elsewhere(theirs: Option<u64>) -> bool {
    theirs.is_some_and(|theirs| own_namespace().is_some_and(|ours| ours != theirs))
}

/// The network namespace of this process; `None` if it is not known.
pub(crate) fn own_namespace() -> Option<u64> {
    rustix::fs::stat("/proc/self/ns/net").ok().map(|stat| stat.st_ino)
}

/// May this user control an instance of `owner`? With a control group, the mode of the socket's file has
/// already decided who could connect: owner and group. Group membership is not checked again, because the
/// credentials of a peer do not contain its supplementary groups.
pub(crate) fn may_control(peer: u32, owner: u32, group_named: bool) -> bool {
    peer == ROOT || peer == owner || group_named
}

/// May this user choose a program that is run as `owner`? Members of the control group may control the
/// instance, but not do everything that its user may do.
pub(crate) fn may_choose_program(peer: u32, owner: u32) -> bool {
    peer == ROOT || peer == owner
}

/// May this user see what clients of an instance of `owner` send? The user of the process could read it from
/// the process's memory anyway; members of the control group could not.
pub(crate) fn may_see_bytes(peer: u32, owner: u32) -> bool {
    peer == ROOT || peer == owner
}

/// Should a client of user `own` trust an instance of user `server`? In a directory that all may write to,
/// every user can plant a socket. An instance of another user is trusted only by root, who has nothing to
/// fear from it, and by members of the group that its owner has let in: then the file's mode excludes all
/// other users.
pub(crate) fn may_trust(server: u32, own: u32, file_mode: RawMode) -> bool {
    let by_group = file_mode & 0o007 == 0;
    server == ROOT || server == own || own == ROOT || by_group
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_the_owner_and_a_named_group_may_control() {
        assert!(may_control(0, 1000, false));
        assert!(may_control(1000, 1000, false));
        assert!(!may_control(1001, 1000, false));
        assert!(!may_control(1001, 0, false));
        assert!(may_control(1001, 1000, true));
    }

    #[test]
    fn what_runs_as_the_owner_is_for_root_and_the_owner_to_say() {
        assert!(may_choose_program(0, 1000) && may_choose_program(1000, 1000));
        assert!(!may_choose_program(1001, 1000) && !may_choose_program(1000, 0));
        assert!(may_see_bytes(0, 1000) && may_see_bytes(1000, 1000));
        assert!(!may_see_bytes(1001, 1000) && !may_see_bytes(1000, 0));
    }

    #[test]
    fn a_strangers_open_socket_is_not_believed() {
        assert!(may_trust(0, 1000, 0o666));
        assert!(may_trust(1000, 1000, 0o600));
        assert!(may_trust(1001, 0, 0o666));
        assert!(may_trust(1001, 1000, 0o660));
        assert!(!may_trust(1001, 1000, 0o666));
    }

    #[test]
    fn both_ends_of_a_pair_are_ours() {
        let (one, _other) = std::os::unix::net::UnixStream::pair().expect("a pair");
        assert_eq!(uid(&one).expect("credentials"), own_uid());
    }
}
