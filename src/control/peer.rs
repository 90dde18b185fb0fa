//! Who is at the other end of a control socket, and may they be there?
//!
//! Knows: uids. Never: files, commands, sessions.
//! Source: docs/control.md, "Who may control an instance".

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::RawMode;

pub(crate) const ROOT: u32 = 0;

/// The effective user of the process.
pub(crate) fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// The effective group of the process.
pub(crate) fn own_gid() -> u32 {
    rustix::process::getegid().as_raw()
}

/// The user who connected, or who listens, at the other end.
///
/// # Errors
/// Those of the system call.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) fn uid(stream: impl AsFd) -> io::Result<u32> {
    // Not rustix: its type has no place for the pid 0 that a peer in a pid namespace of its own has here, and takes the
    // answer for an error.
    Ok(nix::sys::socket::getsockopt(&stream, nix::sys::socket::sockopt::PeerCredentials)?.uid())
}

/// The same where there is no `SO_PEERCRED`.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) fn uid(stream: impl AsFd) -> io::Result<u32> {
    Ok(nix::unistd::getpeereid(stream)?.0.as_raw())
}

/// What a user is called, if it has a name.
pub(crate) fn user_name(uid: u32) -> Option<String> {
    Some(nix::unistd::User::from_uid(uid.into()).ok()??.name)
}

/// A user in a message: `user 1000 (ann)`.
pub(crate) fn called(uid: u32) -> String {
    let name = user_name(uid).map_or_else(String::new, |name| format!(" ({name})"));
    format!("user {uid}{name}")
}

/// The process at the other end, as it is called here; `None` where that is not known, or it is no more.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) fn pid(stream: impl AsFd) -> Option<u32> {
    let peer = nix::sys::socket::getsockopt(&stream, nix::sys::socket::sockopt::PeerCredentials).ok()?;
    u32::try_from(peer.pid()).ok().filter(|pid| is_alive(*pid))
}

/// The same where there is no `SO_PEERCRED`.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) fn pid(_: impl AsFd) -> Option<u32> {
    None
}

/// Has the client closed its socket? Waits for that as long as `timeout`. One that has only said all it wanted to say is
/// still there.
pub(crate) fn has_gone(stream: &UnixStream, timeout: &Timespec) -> bool {
    let mut polled = [PollFd::new(stream, PollFlags::empty())];
    let _ = rustix::event::poll(&mut polled, Some(timeout));
    polled[0].revents().intersects(PollFlags::HUP | PollFlags::ERR)
}

/// Is there a process of this number?
pub(crate) fn is_alive(pid: u32) -> bool {
    let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
    // What we may not signal is there.
    pid.is_some_and(|pid| rustix::process::test_kill_process(pid) != Err(rustix::io::Errno::SRCH))
}

/// Is this another network namespace than ours?
pub(crate) fn is_elsewhere(theirs: Option<u64>) -> bool {
    theirs.is_some_and(|theirs| own_namespace().is_some_and(|ours| ours != theirs))
}

/// The network namespace of this process; `None` where that cannot be told.
pub(crate) fn own_namespace() -> Option<u64> {
    rustix::fs::stat("/proc/self/ns/net").ok().map(|stat| stat.st_ino)
}

/// May this user control an instance of `owner`? With a control group, the mode of the socket's file has already
/// decided who could connect: owner and group. Group membership is not asked again, because a peer's credentials do
/// not carry its supplementary groups.
pub(crate) fn may_control(peer: u32, owner: u32, group_named: bool) -> bool {
    peer == ROOT || peer == owner || group_named
}

/// May this user say which program is run as `owner`? Whom a group lets in may do what can be done to an instance, which is less than what its
/// user can do.
pub(crate) fn may_choose_program(peer: u32, owner: u32) -> bool {
    peer == ROOT || peer == owner
}

/// May this user see what clients of an instance of `owner` send? The user of the process could read it in the process's memory; whom a group
/// lets in could not.
pub(crate) fn may_see_bytes(peer: u32, owner: u32) -> bool {
    peer == ROOT || peer == owner
}

/// Should a client of user `own` believe an instance of user `server`? Anybody may plant a socket in a directory that
/// all may write to. A stranger's is believed only by root, who has nothing to fear from it, and by those whom its
/// owner let in by name, which shows in a file that is closed to all others.
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
