//! Asking a running instance for its ports.
//!
//! Knows: where its control socket is, the line that asks for it. Never: what is handed over, and how.
//! Source: docs/upgrade.md, "--replace".

use std::io::{self, BufReader, ErrorKind, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use crate::control::directory::{Directory, entry_name};
use crate::control::entry::connect;
use crate::control::patience::Patient;
use crate::control::peer;
use crate::control::wire::{Greeting, LineRead, LineReader, printable};

/// What the process says that wants to take over. No command is spelled so.
pub(crate) const TAKE_OVER: &str = "take-over";
/// How long an instance may take to let us in and to say who it is.
const PATIENCE: Duration = Duration::from_secs(5);
/// ... where it is only asked for its number.
const SOON: Duration = Duration::from_secs(1);

/// Asks the instance of ours that listens at this place to hand it over: the stream on which it does, and its process. `None`:
/// there is none.
///
/// # Errors
/// It is not of our user, or does not answer.
pub fn ask_for(directories: &[Directory], place: SocketAddr) -> io::Result<Option<(UnixStream, u32)>> {
    let found = greeted(directories, place, PATIENCE)?;
    if let Some((stream, _)) = &found {
        writeln!(&mut &*stream, "{TAKE_OVER}")?;
    }
    Ok(found)
}

/// The process of our user that listens at this place, if it answers soon.
pub fn holder(directories: &[Directory], place: SocketAddr) -> Option<u32> {
    greeted(directories, place, SOON).ok()?.map(|(_, pid)| pid)
}

fn greeted(
    directories: &[Directory],
    place: SocketAddr,
    patience: Duration,
) -> io::Result<Option<(UnixStream, u32)>> {
    let name = entry_name(place.port(), place.into());
    for directory in directories {
        let Ok(opened) = directory.open() else { continue };
        let stream = match connect(&opened, &name, patience) {
            Ok((stream, _)) => stream,
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => continue,
            Err(e) => return Err(e),
        };
        let user = peer::uid(&stream)?;
        if user != peer::own_uid() {
            return Err(io::Error::new(
                ErrorKind::PermissionDenied,
                format!("it is of {}", peer::called(user)),
            ));
        }
        let mut lines = LineReader::new(BufReader::new(Patient::new(&stream, patience)?));
        let LineRead::Whole(line) = lines.read()? else { return Err(ErrorKind::UnexpectedEof.into()) };
        let line = printable(line);
        let Some(greeting) = Greeting::parse(&line) else { return Err(io::Error::other(line)) };
        return Ok(Some((stream, greeting.pid)));
    }
    Ok(None)
}
