//! Asks a running instance for its ports.
//!
//! Knows: where its control socket is, the line that asks for it. Never: what is handed over, and how.
//! Source: docs/upgrade.md, "--replace".

use std::io::{self, BufReader, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use crate::control::directory::{Directory, OpenDirectory, Place, entry_name, entry_place, plain_name};
use crate::control::entry::connect;
use crate::control::patience::Patient;
use crate::control::peer;
use crate::control::wire::{Greeting, LineRead, LineReader, printable};
use crate::spec::{Address, ListenSpan};

/// The line that a process sends to take over. No command is spelled like this.
pub(crate) const TAKE_OVER: &str = "take-over";
/// How long connecting to an instance may take, and again its greeting.
const PATIENCE: Duration = Duration::from_secs(5);
/// The same if it is only asked for its process id.
const SOON: Duration = Duration::from_secs(1);

/// Asks our instance that listens at this place to hand it over. Returns the stream for that, and the id of
/// its process. `None`: there is no instance.
///
/// # Errors
/// The instance belongs to another user, or does not answer.
pub fn ask_for(directories: &[Directory], place: Address) -> io::Result<Option<(UnixStream, u32)>> {
    let found = greeted(directories, place, PATIENCE)?;
    if let Some((stream, _)) = &found {
        writeln!(&mut &*stream, "{TAKE_OVER}")?;
    }
    Ok(found)
}

/// The first of these addresses at which a process of our user listens, and its process id, if it answers
/// soon.
pub fn holder(directories: &[Directory], span: ListenSpan) -> Option<(Address, u32)> {
    let mut places = entries_on(directories, span).into_iter();
    places.find_map(|place| Some((place, greeted(directories, place, SOON).ok()??.1)))
}

/// For each entry that overlaps these addresses, the lowest address in common. It is not known whether any
/// process listens there.
pub fn entries_on(directories: &[Directory], span: ListenSpan) -> Vec<Address> {
    let Some(first) = span.first().net().map(Place::from) else { return vec![span.first()] };
    let names = directories.iter().filter_map(|directory| directory.open().ok());
    let names = names.flat_map(|opened| opened.names().collect::<Vec<_>>());
    let lowest = |name: String| {
        let (ports, at) = entry_place(&name)?;
        let lowest = *ports.start().max(span.ports().start());
        let meets = at == first && lowest <= *ports.end().min(span.ports().end());
        meets.then(|| span.at(lowest))
    };
    // Where a directory cannot be listed, an entry can still be found by its usual name.
    let mut places: Vec<Address> = names.filter_map(lowest).chain([span.first()]).collect();
    places.sort_unstable();
    places.dedup();
    places
}

/// The names of entries that may be for this place, the most likely first.
fn names_of(directory: &OpenDirectory, place: Address) -> Vec<String> {
    let is_it = |name: &String| {
        let of_range = entry_place(name)
            .filter(|(ports, at)| Some(*at) == place.net().map(Place::from) && ports.contains(&place.port()));
        of_range.is_some_and(|(ports, _)| ports.len() > 1) && plain_name(name) == name
    };
    std::iter::once(entry_name(place.into())).chain(directory.names().filter(is_it)).collect()
}

fn greeted(
    directories: &[Directory],
    place: Address,
    patience: Duration,
) -> io::Result<Option<(UnixStream, u32)>> {
    let opened = directories.iter().filter_map(|directory| directory.open().ok());
    let names = opened.flat_map(|opened| {
        let names = names_of(&opened, place);
        let opened = Arc::new(opened);
        names.into_iter().map(move |name| (Arc::clone(&opened), name))
    });
    for (opened, name) in names {
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
