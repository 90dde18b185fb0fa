//! The system's resolver: `/etc/hosts`, nsswitch and search domains, as `ping` uses them.
//!
//! Knows: getaddrinfo, what its errors mean. Never: which names, how often, what an answer is for.
//!
//! The standard library uses it, too, but does not say whether a name does not exist or could not be looked
//! up.

#![allow(unsafe_code, reason = "getaddrinfo has no safe wrapper that tells its errors apart")]

use std::ffi::{CStr, CString, c_int};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::ptr;

/// The error "the name exists, but has no address". Some systems never return it.
const NO_DATA: Option<c_int> = if cfg!(target_os = "linux") { Some(-5) } else { None };

/// Why there are no addresses.
#[derive(Debug)]
pub(crate) enum HostError {
    /// The name does not exist or has no address; in the system's words.
    Absent(String),
    /// The lookup failed; in the system's words.
    Failed(io::Error),
    /// The name servers did not answer, refused, or reported an error: the system has the same words for all
    /// of these.
    TryAgain(String),
}

/// All TCP addresses of a host in the resolver's order, with port 0. Blocks while the resolver works; leaves
/// no descriptor open.
///
/// # Errors
/// What the resolver says.
pub(crate) fn look_up(host: &str) -> Result<Vec<SocketAddr>, HostError> {
    let name = CString::new(host).map_err(|e| HostError::Failed(e.into()))?;
    // SAFETY: all zeros is what the manual asks for: any family and protocol, no flags, null pointers.
    let mut hints: libc::addrinfo = unsafe { std::mem::zeroed() };
    hints.ai_socktype = libc::SOCK_STREAM;
    let mut list = ptr::null_mut();
    // SAFETY: the name ends with a zero byte, the hints are complete, and the list is ours if the call
    // returns 0.
    let code = unsafe { libc::getaddrinfo(name.as_ptr(), ptr::null(), &raw const hints, &raw mut list) };
    if code != 0 {
        return Err(error(code));
    }
    let mut found = Vec::new();
    let mut at: *const libc::addrinfo = list;
    // SAFETY: each member of the list is valid until `freeaddrinfo`, and the last one's successor is null.
    while let Some(one) = unsafe { at.as_ref() } {
        found.extend(address(one));
        at = one.ai_next;
    }
    // SAFETY: the list came from `getaddrinfo`, and nothing of it is used any more.
    unsafe { libc::freeaddrinfo(list) };
    Ok(found)
}

fn address(one: &libc::addrinfo) -> Option<SocketAddr> {
    let length = usize::try_from(one.ai_addrlen).ok()?;
    if one.ai_addr.is_null() {
        return None;
    }
    match one.ai_family {
        libc::AF_INET if length >= size_of::<libc::sockaddr_in>() => {
            // SAFETY: the resolver says that an address of this family and length is there.
            let v4 = unsafe { ptr::read_unaligned(one.ai_addr.cast::<libc::sockaddr_in>()) };
            Some(SocketAddr::from((Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr)), 0)))
        }
        libc::AF_INET6 if length >= size_of::<libc::sockaddr_in6>() => {
            // SAFETY: as above.
            let v6 = unsafe { ptr::read_unaligned(one.ai_addr.cast::<libc::sockaddr_in6>()) };
            let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
            Some(SocketAddr::V6(SocketAddrV6::new(ip, 0, v6.sin6_flowinfo, v6.sin6_scope_id)))
        }
        _ => None,
    }
}

fn error(code: c_int) -> HostError {
    if code == libc::EAI_SYSTEM {
        return HostError::Failed(io::Error::last_os_error());
    }
    // SAFETY: it returns a text for any number, which is never freed or changed.
    let words = unsafe { CStr::from_ptr(libc::gai_strerror(code)) }.to_string_lossy().into_owned();
    if code == libc::EAI_NONAME || Some(code) == NO_DATA {
        HostError::Absent(words)
    } else if code == libc::EAI_AGAIN {
        HostError::TryAgain(words)
    } else {
        HostError::Failed(io::Error::other(words))
    }
}
