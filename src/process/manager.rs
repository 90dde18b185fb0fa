//! Messages to the service manager, and listeners that it keeps.
//!
//! Knows: the socket of sd_notify(3), its messages, the watchdog's variables. Never: what is served, when a
//! message is sent, what is handed over.
//!
//! Without a service manager no message is sent, and nothing else differs. Only the main process of the
//! service sends messages; after an upgrade that is the new one.

use std::collections::BTreeMap;
use std::env;
use std::ffi::OsString;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixDatagram;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix};
use rustix::time::{ClockId, clock_gettime};

/// The beginning of the name under which the manager keeps a listener for us. The blank keeps it apart from
/// names of services, which have none.
pub const KEPT_PREFIX: &str = "listener ";
/// Maximum number of listeners that the manager keeps. The unit says how many systemd accepts, and a service
/// may have a port for each customer.
const MOST_KEPT: usize = 1_024;
/// A message is given up if the manager does not take it within this time.
const HEARD_WITHIN: Duration = Duration::from_secs(1);

/// How often the manager is told which process is the main one, if it does not take this: when the process that it
/// takes for the main one ends, it ends all others.
const MAIN_TOLD: usize = 30;

/// The manager did not take the last message in time. Until it takes one again, messages about single
/// listeners do not wait for it.
static IS_DEAF: AtomicBool = AtomicBool::new(false);
/// Another process is the main process of the service.
static IS_ANOTHER: AtomicBool = AtomicBool::new(false);
/// The status that was sent last.
static STATUS: Mutex<LastStatus> =
    Mutex::new(LastStatus { text: String::new(), is_told: false, lacks_ready: false });
/// The listeners that the manager has taken: their names, and the inode number of each socket.
static KEPT: Mutex<BTreeMap<String, u64>> = Mutex::new(BTreeMap::new());

/// The status that the manager has, or should have.
struct LastStatus {
    text: String,
    /// The manager has taken it.
    is_told: bool,
    /// It has not taken the message that clients are served.
    lacks_ready: bool,
}

/// Is there a service manager that wants messages?
pub fn has_manager() -> bool {
    socket().is_some()
}

/// Tells the manager which process is the main process of the service from now on.
pub fn tell_main_process(pid: u32) {
    let is_own = pid == std::process::id();
    if is_own {
        IS_ANOTHER.store(false, Ordering::SeqCst);
    }
    let _ = (0..MAIN_TOLD).any(|_| tell(&format!("MAINPID={pid}"), &[]));
    if !is_own {
        IS_ANOTHER.store(true, Ordering::SeqCst);
    }
}

/// Tells the manager that clients are served with the present configuration. If it does not take this now,
/// [`tell_status`] tells it again.
pub fn tell_ready(status: &str) {
    let mut last = last_status();
    let is_told = tell(&format!("READY=1\nSTATUS={}", one_line(status)), &[]);
    *last = LastStatus { text: status.to_owned(), is_told, lacks_ready: !is_told };
}

/// Sets the text that `systemctl status` shows. An unchanged text that the manager has taken is not sent again.
pub fn tell_status(status: &str) {
    let mut last = last_status();
    if last.is_told && last.text == status {
        return;
    }
    let ready = if last.lacks_ready { "READY=1\n" } else { "" };
    last.is_told = tell(&format!("{ready}STATUS={}", one_line(status)), &[]);
    last.lacks_ready &= !last.is_told;
    status.clone_into(&mut last.text);
}

/// Tells the manager that the configuration is about to be read again; [`tell_ready`] ends this state.
pub fn tell_reloading() {
    let now = Duration::try_from(clock_gettime(ClockId::Monotonic)).unwrap_or_default();
    last_status().lacks_ready = false;
    tell(
        &format!("RELOADING=1\nMONOTONIC_USEC={}\nSTATUS=reading the configuration again", now.as_micros()),
        &[],
    );
}

/// Tells the manager that the process is stopping, and extends its timeout to `within`, if that is not zero.
pub fn tell_stopping(status: &str, within: Duration) {
    let more = if within.is_zero() {
        String::new()
    } else {
        format!("\nEXTEND_TIMEOUT_USEC={}", within.as_micros())
    };
    tell(&format!("STOPPING=1\nSTATUS={}{more}", one_line(status)), &[]);
}

/// Tells the manager's watchdog that all is well.
pub fn feed_watchdog() {
    tell("WATCHDOG=1", &[]);
}

/// How often the watchdog wants a message. `None`: never.
pub fn watchdog_interval() -> Option<Duration> {
    let text = |name| env::var(name).ok();
    has_manager().then_some(())?;
    interval(text("WATCHDOG_USEC").as_deref(), text("WATCHDOG_PID").as_deref(), std::process::id())
}

fn interval(micros: Option<&str>, pid: Option<&str>, me: u32) -> Option<Duration> {
    let micros: u64 = micros?.parse().ok().filter(|&micros| micros > 0)?;
    let is_ours = pid.is_none_or(|pid| pid.parse() == Ok(me));
    is_ours.then(|| Duration::from_micros(micros))
}

/// Makes the manager keep these listeners, and none of our others, by the words that say where each one listens.
/// If this process dies, the manager passes them to the next one, and clients wait meanwhile. Listeners that it
/// already keeps are not sent again; what it does not take now is sent with the next call.
pub fn keep_listeners<F: AsFd>(listeners: &[(String, F)]) {
    if !has_manager() {
        return;
    }
    let listeners = &listeners[..listeners.len().min(MOST_KEPT)];
    let mut kept = kept();
    let wanted: BTreeMap<String, u64> = listeners
        .iter()
        .filter_map(|(at, fd)| Some((kept_name(at), rustix::fs::fstat(fd.as_fd()).ok()?.st_ino)))
        .collect();
    let mut hears = true;
    kept.retain(|name, number| {
        wanted.get(name) == Some(number) || !hears || {
            hears = forget(name);
            !hears
        }
    });
    for (at, fd) in listeners {
        let name = kept_name(at);
        if let Some(&number) = wanted.get(&name).filter(|_| !kept.contains_key(&name)) {
            // FDPOLL=0: the socket may be shut down for a while (--refuse-when-down), and the manager must
            // not discard it then.
            if !hears || !tell(&format!("FDSTORE=1\nFDNAME={name}\nFDPOLL=0"), &[fd.as_fd()]) {
                return;
            }
            kept.insert(name, number);
        }
    }
}

/// Makes the manager drop the listener that it may keep for this place: what [`keep_listeners`] was told, or its
/// first word.
pub fn forget_listener(at: &str) {
    let name = kept_name(at);
    let is_it =
        |kept: &str| kept.strip_prefix(&name).is_some_and(|more| more.is_empty() || more.starts_with(' '));
    let mut kept = kept();
    let mut names: Vec<String> = kept.keys().filter(|one| is_it(one)).cloned().collect();
    if names.is_empty() {
        names.push(name);
    }
    for name in names {
        if forget(&name) {
            kept.remove(&name);
        } else if has_manager() {
            // No socket has this number: the manager is told again.
            kept.entry(name).or_insert(0);
        }
    }
}

/// Makes the manager drop all listeners that it keeps for this process.
pub fn forget_listeners() {
    std::mem::take(&mut *kept()).keys().for_each(|name| _ = forget(name));
}

/// `false`: the manager has not taken this.
fn forget(name: &str) -> bool {
    tell(&format!("FDSTOREREMOVE=1\nFDNAME={name}"), &[])
}

fn last_status() -> MutexGuard<'static, LastStatus> {
    STATUS.lock().unwrap_or_else(PoisonError::into_inner)
}

fn kept() -> MutexGuard<'static, BTreeMap<String, u64>> {
    KEPT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A colon would end the name.
fn kept_name(at: &str) -> String {
    format!("{KEPT_PREFIX}{}", at.replace(':', "_"))
}

/// A line break would begin another field.
fn one_line(text: &str) -> String {
    text.replace(|c: char| c.is_control(), " ")
}

/// The path of the manager's socket.
fn socket() -> Option<&'static OsString> {
    static SOCKET: OnceLock<Option<OsString>> = OnceLock::new();
    SOCKET.get_or_init(|| env::var_os("NOTIFY_SOCKET").filter(|path| !path.is_empty())).as_ref()
}

/// Sends a message. `false`: the manager has not taken it. Nothing can be done about a manager that does not
/// listen, and it notices by itself when this process ends.
fn tell(text: &str, fds: &[BorrowedFd<'_>]) -> bool {
    socket().is_some_and(|path| !IS_ANOTHER.load(Ordering::SeqCst) && send(path, text, fds).is_ok())
}

fn send(path: &OsString, text: &str, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let socket = UnixDatagram::unbound()?;
    socket.set_write_timeout(Some(HEARD_WITHIN))?;
    let to = match path.as_bytes() {
        #[cfg(target_os = "linux")]
        [b'@', name @ ..] => SocketAddrUnix::new_abstract_name(name)?,
        path => SocketAddrUnix::new(path)?,
    };
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut with = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        with.push(SendAncillaryMessage::ScmRights(fds));
    }
    let words = [IoSlice::new(text.as_bytes())];
    // There may be a thousand of these, so they do not wait for a deaf manager. Other messages, on which the
    // service's life depends, wait each time.
    let is_of_many = text.starts_with("FDSTORE");
    let patience = match is_of_many && IS_DEAF.load(Ordering::SeqCst) {
        true => SendFlags::DONTWAIT,
        false => SendFlags::empty(),
    };
    let sent = rustix::net::sendmsg_addr(&socket, &to, &words, &mut with, SendFlags::NOSIGNAL | patience);
    IS_DEAF.store(sent == Err(rustix::io::Errno::AGAIN), Ordering::SeqCst);
    sent?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_is_called_by_its_address_and_no_status_has_a_second_line() {
        assert_eq!(kept_name("10.0.0.1:80"), "listener 10.0.0.1_80");
        assert_eq!(kept_name("[::1]:80"), "listener [__1]_80");
        assert_eq!(kept_name("unix:/run/pg.sock 5.77"), "listener unix_/run/pg.sock 5.77");
        assert_eq!(one_line("a\nREADY=1\tb"), "a READY=1 b");
    }

    #[test]
    fn a_watchdog_of_another_process_is_none_of_ours() {
        assert_eq!(interval(None, None, 7), None);
        assert_eq!(interval(Some("0"), None, 7), None);
        assert_eq!(interval(Some("many"), None, 7), None);
        assert_eq!(interval(Some("1000"), Some("8"), 7), None);
        for ours in [None, Some("7")] {
            assert_eq!(interval(Some("1000"), ours, 7), Some(Duration::from_millis(1)));
        }
    }
}
