//! Sends a tap to the client of a control session.
//!
//! Knows: when the limit is reached, when nobody reads any more. Never: how a piece looks, who may look.
//! Source: docs/observability.md, "One session's bytes".

use std::io::{self, ErrorKind};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::SendFlags;

use crate::control::peer::has_gone;
use crate::control::tapping::{TapBounds, TapForm, TapStop, TapText};
use crate::control::wire::write_body;
use crate::observe::{Tap, TapLook, TapStart};

/// How often to check that the client is still there.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
const AT_ONCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };
/// After the end of the tap, the client gets this much time to read the rest.
const PATIENCE: Duration = Duration::from_secs(5);
/// Pieces that come together are written together, up to this many bytes of text.
const TOGETHER: usize = 64 << 10;

/// The client of a tap.
pub(crate) struct Viewer<'a> {
    pub(crate) stream: &'a UnixStream,
    /// Must control sessions end?
    pub(crate) is_stopped: &'a dyn Fn() -> bool,
}

impl Viewer<'_> {
    /// Writes all bytes as the client takes them. `Err`: it does not take them.
    fn write(&self, mut bytes: &[u8], until: Instant) -> io::Result<()> {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        while !bytes.is_empty() {
            match rustix::net::send(self.stream, bytes, flags) {
                Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) if (self.is_stopped)() || Instant::now() >= until => {
                    return Err(ErrorKind::TimedOut.into());
                }
                Err(rustix::io::Errno::AGAIN) => {
                    let mut polled = [PollFd::new(self.stream, PollFlags::OUT)];
                    let patience = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
                    let _ = rustix::event::poll(&mut polled, Some(&patience));
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

/// Sends pieces until the connection ends, the limit is reached, or nobody reads any more.
pub(crate) fn show(
    tap: &Tap,
    (id, start): (u64, &TapStart),
    bounds: TapBounds,
    form: &TapForm,
    viewer: &Viewer<'_>,
) -> TapStop {
    let text = TapText::of(form);
    let begun = Instant::now();
    // A time that our clock cannot represent becomes one year.
    let until = begun.checked_add(bounds.time).unwrap_or(begun + Duration::from_secs(86_400 * 365));
    let mut out = Vec::new();
    text.start(id, start, &mut out);
    let mut left = bounds.bytes;
    loop {
        let time_left = until.saturating_duration_since(Instant::now());
        let patience = if out.is_empty() { LOOK_AGAIN.min(time_left) } else { Duration::ZERO };
        let (stop, is_all) = match tap.look(patience) {
            TapLook::Piece(mut piece) => {
                piece.bytes.truncate(usize::try_from(left).unwrap_or(usize::MAX));
                left -= piece.bytes.len() as u64;
                text.piece(&piece, &mut out);
                ((left == 0).then_some(TapStop::Bytes(bounds.bytes)), false)
            }
            TapLook::Over(last) => {
                last.iter().for_each(|last| text.last(last, &mut out));
                (Some(TapStop::from(last)), true)
            }
            TapLook::Nothing => (None, true),
        };
        let stop = stop.or_else(|| time_left.is_zero().then_some(TapStop::Time(bounds.time)));
        let stop = stop.or_else(|| (viewer.is_stopped)().then_some(TapStop::Stopped));
        if stop.is_none() && !is_all && out.len() < TOGETHER {
            continue;
        }
        let mut body = Vec::new();
        // Writing to a `Vec` cannot fail.
        let _ = write_body(&mut body, &String::from_utf8_lossy(&out));
        out.clear();
        let is_read = viewer.write(&body, until + PATIENCE).is_ok() && !has_gone(viewer.stream, &AT_ONCE);
        match stop {
            _ if !is_read => {
                // Half a line may have been sent, so nothing may follow it.
                let _ = viewer.stream.shutdown(Shutdown::Both);
                return TapStop::Unread;
            }
            Some(stop) => return stop,
            None => {}
        }
    }
}
