//! Finds, opens and reads the files of services.
//!
//! Knows: directories, what is not a regular file, how much is read. Never: the contents.
//! Source: docs/file.md.
//!
//! A path is opened without blocking, and read only if it is a regular file.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags};

use super::denied::{self, FileUse};
use crate::config::{FileReader, Files, LineError, Wrong};
use crate::spec::{ProcessSpec, ServiceSpec};

/// Maximum size of a file in bytes, enough for more than a hundred thousand services.
const LARGEST: u64 = 16 << 20;

/// Reads all files. `directory`: the one that paths are relative to.
///
/// # Errors
/// All errors in them.
pub(super) fn read(
    files: &Files,
    directory: &Path,
) -> Result<(ProcessSpec, Vec<ServiceSpec>), Vec<LineError>> {
    let mut reader = FileReader::new(&files.words).map_err(|error| vec![error])?;
    for path in &files.paths {
        match members(path, directory) {
            Ok(paths) => paths.iter().for_each(|path| read_one(path, directory, &mut reader)),
            Err(e) => reader.unreadable(unreadable(path, directory, &e)),
        }
    }
    reader.finish()
}

fn read_one(path: &Path, directory: &Path, reader: &mut FileReader) {
    match contents(&directory.join(path), LARGEST) {
        Ok(text) => reader.read(&path.to_string_lossy(), &text),
        Err(e) => reader.unreadable(unreadable(path, directory, &e)),
    }
}

fn unreadable(path: &Path, directory: &Path, error: &io::Error) -> LineError {
    let cause = denied::told(error, &directory.join(path), FileUse::Read);
    let wrong = Wrong::File { path: path.to_string_lossy().into_owned(), cause };
    LineError { at: None, wrong }
}

/// The path itself, or the `*.conf` files of a directory, sorted by name.
pub(super) fn members(path: &Path, directory: &Path) -> io::Result<Vec<PathBuf>> {
    if path.as_os_str().is_empty() {
        return Err(rustix::io::Errno::NOENT.into());
    }
    if !fs::metadata(directory.join(path))?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut members = Vec::new();
    for entry in fs::read_dir(directory.join(path))? {
        let name = entry?.file_name();
        let bytes = name.as_encoded_bytes();
        // Hidden files are often left by editors.
        if bytes.ends_with(b".conf") && !bytes.starts_with(b".") {
            members.push(path.join(name));
        }
    }
    members.sort();
    match members.is_empty() {
        true => Err(io::Error::other("the directory has no file whose name ends with .conf")),
        false => Ok(members),
    }
}

/// The contents of a regular file of at most this many bytes.
///
/// # Errors
/// It cannot be read, is not a regular file, or is larger.
pub(super) fn contents(path: &Path, largest: u64) -> io::Result<Vec<u8>> {
    // Without NONBLOCK, opening a fifo would wait for a writer.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let fd = rustix::fs::open(path, flags, Mode::empty())?;
    let kind = match FileType::from_raw_mode(rustix::fs::fstat(&fd)?.st_mode) {
        FileType::RegularFile => None,
        FileType::Directory => Some("a directory"),
        FileType::Fifo => Some("a fifo"),
        FileType::CharacterDevice | FileType::BlockDevice => Some("a device"),
        _ => Some("something else"),
    };
    if let Some(kind) = kind {
        return Err(io::Error::other(format!("it is {kind}, not a file")));
    }
    let mut text = Vec::new();
    File::from(fd).take(largest + 1).read_to_end(&mut text)?;
    if text.len() as u64 > largest {
        let most = largest >> 20;
        return Err(io::Error::other(format!("it is larger than {most} MiB; split it")));
    }
    Ok(text)
}
