//! The target of the access log's lines: a file, standard output, or the local syslog.
//!
//! Knows: which lines of a batch were written, that a file may be moved away. Never: what a line says, who
//! hears of a failure.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Access, AtFlags, CWD, OFlags};
use rustix::io::Errno;

use super::super::denied::{self, FileUse};

/// Mode of a new file: readable for its owner and group only, since it names clients.
const MODE: u32 = 0o640;
/// Never block: neither to open a FIFO without a reader, nor to write to a full one.
const FLAGS: OFlags = OFlags::NONBLOCK.union(OFlags::NOCTTY);
/// How often to check that the path still means the open file.
const LOOK: Duration = Duration::from_secs(1);
/// How long a reader may take nothing before lines are lost.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often a wait checks whether the process ends.
const ASKED_EVERY: Duration = Duration::from_millis(50);
/// How many bytes a pipe takes at once after poll(2) reports it as writable (PIPE_BUF).
const PIECE: usize = 4096;
/// The socket of the local syslog.
const SYSLOG: &str = "/dev/log";
/// Facility daemon and severity info as in RFC 3164, and the tag that all log lines of balance have in
/// syslog.
const PRIORITY: &str = "<30>Balance";

/// Lines that were lost, and why.
#[derive(Debug)]
pub(super) struct LostLines {
    pub(super) lines: u64,
    pub(super) cause: String,
}

pub(super) enum LineSink {
    File(FileSink),
    Stdout(Torn),
    Syslog(Option<UnixDatagram>),
}

impl LineSink {
    /// Appends to the file at this path.
    ///
    /// # Errors
    /// It cannot be opened for writing.
    pub(super) fn file(path: &Path) -> io::Result<Self> {
        // Absolute, since the working directory may change.
        let path = std::path::absolute(path)?;
        let file = open(&path)?;
        Ok(Self::File(FileSink {
            path,
            file,
            torn: Torn::default(),
            end: None,
            looked: Instant::now(),
            is_missed: false,
            trouble: None,
        }))
    }

    pub(super) fn stdout() -> Self {
        Self::Stdout(Torn::default())
    }

    pub(super) fn syslog() -> Self {
        Self::Syslog(None)
    }

    /// Writes whole lines. Waits for a slow reader for a limited time, but not once `is_over` is true.
    ///
    /// # Errors
    /// Some lines were lost.
    pub(super) fn write(&mut self, lines: &[u8], is_over: &dyn Fn() -> bool) -> Result<(), LostLines> {
        match self {
            Self::File(file) => file.write(lines, is_over),
            Self::Stdout(torn) => torn.write(io::stdout().as_fd(), lines, is_over),
            Self::Syslog(socket) => send(socket, lines, is_over),
        }
    }

    /// A new problem that should be reported, if there is one.
    pub(super) fn take_trouble(&mut self) -> Option<String> {
        match self {
            Self::File(file) => file.trouble.take(),
            Self::Stdout(_) | Self::Syslog(_) => None,
        }
    }

    /// Do lines still go to a file that was moved away, since the new one cannot be opened?
    pub(super) fn is_missed(&self) -> bool {
        matches!(self, Self::File(file) if file.is_missed)
    }

    /// Ends writing. Returns how many lines are lost by that.
    pub(super) fn close(&mut self) -> u64 {
        match self {
            Self::File(FileSink { torn, .. }) | Self::Stdout(torn) => torn.forget(),
            Self::Syslog(_) => 0,
        }
    }

    /// Opens the target again. Returns how many lines are lost by that.
    ///
    /// # Errors
    /// It cannot be opened; the old one stays open.
    pub(super) fn reopen(&mut self) -> io::Result<u64> {
        match self {
            Self::File(file) => file.reopen(),
            Self::Stdout(_) => Ok(0),
            Self::Syslog(socket) => {
                *socket = None;
                Ok(0)
            }
        }
    }
}

/// A file that lines are appended to.
pub(super) struct FileSink {
    path: PathBuf,
    file: File,
    torn: Torn,
    /// The length of the file after our last write; `None`: nothing was written yet.
    end: Option<u64>,
    /// When it was last checked that the path means this file.
    looked: Instant,
    /// Whether the path does not mean this file any more and could not be opened again. This was reported.
    is_missed: bool,
    /// The reason for that, until it is reported.
    trouble: Option<String>,
}

fn open(path: &Path) -> io::Result<File> {
    open_with(path, true)
}

/// Finds out whether the file could be opened, without making it.
///
/// # Errors
/// It could not.
pub(super) fn try_open(path: &Path) -> io::Result<()> {
    let path = std::path::absolute(path)?;
    match open_with(&path, false) {
        // There is nothing yet, so the directory counts.
        Err(e) if e.kind() == ErrorKind::NotFound => {
            let directory = path.parent().unwrap_or(&path);
            let access = Access::WRITE_OK | Access::EXEC_OK;
            Ok(rustix::fs::accessat(CWD, directory, access, AtFlags::EACCESS)?)
        }
        opened => opened.map(drop),
    }
}

fn open_with(path: &Path, create: bool) -> io::Result<File> {
    let opened = OpenOptions::new()
        .append(true)
        .create(create)
        .mode(MODE)
        .custom_flags(FLAGS.bits().cast_signed())
        .open(path);
    opened.map_err(|e| {
        let is_socket = std::fs::metadata(path).is_ok_and(|file| file.file_type().is_socket());
        let text = match Errno::from_io_error(&e) {
            Some(Errno::NXIO) if is_socket => {
                format!("{e} (a socket cannot be opened as a file)")
            }
            Some(Errno::NXIO) => "this FIFO has no reader; start its reader first".to_owned(),
            _ => denied::told(&e, path, FileUse::Write),
        };
        let advice = match path.to_str() {
            Some("/dev/stdout" | "/dev/fd/1" | "/proc/self/fd/1") => {
                "; for standard output write --access-log -"
            }
            _ => "",
        };
        io::Error::new(e.kind(), format!("{text}{advice}"))
    })
}

impl FileSink {
    fn write(&mut self, lines: &[u8], is_over: &dyn Fn() -> bool) -> Result<(), LostLines> {
        let mut lost = 0;
        // Lines written to a deleted file are lost, so this is checked at each write and not only once per
        // second.
        let is_deleted = self.file.metadata().is_ok_and(|file| file.is_file() && file.nlink() == 0);
        if is_deleted || self.looked.elapsed() >= LOOK {
            self.looked = Instant::now();
            if is_deleted || !self.is_current() {
                let what = if is_deleted { "deleted" } else { "moved" };
                match self.reopen() {
                    Ok(lines) => lost = lines,
                    Err(e) if is_deleted => {
                        let cause =
                            format!("{} was {what} and cannot be opened again: {e}", self.path.display());
                        return Err(LostLines { lines: self.torn.forget() + count(lines), cause });
                    }
                    // Lines still go to the moved file, since somebody may have it open.
                    Err(e) if !self.is_missed => {
                        self.is_missed = true;
                        self.trouble = Some(format!(
                            "{} was {what} and cannot be opened again: {e}; lines go to the old file",
                            self.path.display()
                        ));
                    }
                    Err(_) => {}
                }
            }
        }
        lost += self.begin_line();
        let written = self.torn.write(self.file.as_fd(), lines, is_over);
        self.end = self.length();
        match (written, lost) {
            (Err(more), lost) => Err(LostLines { lines: more.lines + lost, ..more }),
            (Ok(()), 0) => Ok(()),
            (Ok(()), lines) => Err(LostLines { lines, cause: "the file was moved away or truncated".into() }),
        }
    }

    /// Makes sure that the next line begins on a new line. Returns how many lines are lost by that.
    fn begin_line(&mut self) -> u64 {
        let length = self.length();
        if length.is_none() || length == self.end {
            return 0;
        }
        // The file is new here, was truncated, or another program has written to it. So the rest of our line
        // is useless, and the file may end within a line.
        let lost = self.torn.forget();
        if self.ends_within_a_line() {
            self.torn = Torn(b"\n".to_vec());
        }
        lost
    }

    /// The length in bytes; `None`: it is not a regular file.
    fn length(&self) -> Option<u64> {
        self.file.metadata().ok().filter(|file| file.is_file()).map(|file| file.len())
    }

    fn ends_within_a_line(&self) -> bool {
        let Some(last) = self.length().and_then(|length| length.checked_sub(1)) else { return false };
        let mut byte = [0];
        // Our descriptor can only write. If the file may not be read, this is not known.
        let opened = OpenOptions::new().read(true).custom_flags(FLAGS.bits().cast_signed()).open(&self.path);
        let read = opened.and_then(|file| {
            let is_same = file.metadata()?.ino() == self.file.metadata()?.ino();
            Ok(is_same && file.read_at(&mut byte, last)? == 1)
        });
        matches!(read, Ok(true)) && byte != *b"\n"
    }

    /// Does the path still mean the open file?
    fn is_current(&self) -> bool {
        let same = |ours: std::fs::Metadata, named: std::fs::Metadata| {
            (ours.dev(), ours.ino()) == (named.dev(), named.ino())
        };
        match (self.file.metadata(), std::fs::metadata(&self.path)) {
            (Ok(ours), Ok(named)) => same(ours, named),
            (Ok(_), Err(_)) => false,
            (Err(_), _) => true,
        }
    }

    fn reopen(&mut self) -> io::Result<u64> {
        let before = std::mem::replace(&mut self.file, open(&self.path)?);
        self.is_missed = false;
        self.looked = Instant::now();
        let id = |file: &File| file.metadata().ok().map(|file| (file.dev(), file.ino()));
        if id(&before) == id(&self.file) {
            return Ok(0);
        }
        self.end = None;
        Ok(self.torn.forget())
    }
}

fn count(lines: &[u8]) -> u64 {
    lines.iter().filter(|&&byte| byte == b'\n').count() as u64
}

/// The rest of a line whose beginning is written already. It goes first, so that two lines are never mixed.
#[derive(Default)]
pub(super) struct Torn(Vec<u8>);

impl Torn {
    fn write(
        &mut self,
        fd: BorrowedFd<'_>,
        lines: &[u8],
        is_over: &dyn Fn() -> bool,
    ) -> Result<(), LostLines> {
        let mut rest = std::mem::take(&mut self.0);
        rest.extend_from_slice(lines);
        let Err((written, error)) = write_all(fd, &rest, is_over) else { return Ok(()) };
        let left = &rest[written..];
        let is_within =
            written > 0 && rest[written - 1] != b'\n' || (written == 0 && lines.len() < rest.len());
        let mut lost = left;
        if is_within {
            let end = left.iter().position(|&byte| byte == b'\n').map_or(left.len(), |at| at + 1);
            self.0 = left[..end].to_vec();
            lost = &left[end..];
        }
        Err(LostLines { lines: count(lost), cause: error.to_string() })
    }

    /// Drops the rest. Returns how many lines are lost by that.
    fn forget(&mut self) -> u64 {
        // A single newline only ends a line of another program.
        u64::from(std::mem::take(&mut self.0).len() > 1)
    }
}

/// Writes all bytes. On an error, also says how many were written.
fn write_all(fd: BorrowedFd<'_>, bytes: &[u8], is_over: &dyn Fn() -> bool) -> Result<(), (usize, io::Error)> {
    let mut written = 0;
    let mut until = Instant::now() + PATIENCE;
    let takes_all = is_file(fd);
    while written < bytes.len() {
        match await_room(fd, until, is_over) {
            Ok(true) => {}
            Ok(false) => {
                return Err((written, io::Error::new(ErrorKind::TimedOut, "its reader takes no more")));
            }
            Err(e) => return Err((written, e)),
        }
        let end = if takes_all { bytes.len() } else { written + piece(&bytes[written..]) };
        match rustix::io::write(fd, &bytes[written..end]) {
            Ok(0) => return Err((written, ErrorKind::WriteZero.into())),
            Ok(length) => (written, until) = (written + length, Instant::now() + PATIENCE),
            Err(Errno::INTR) => {}
            // Another program has filled the pipe meanwhile.
            Err(Errno::AGAIN) => std::thread::sleep(Duration::from_millis(1)),
            Err(e) => return Err((written, e.into())),
        }
    }
    Ok(())
}

/// The number of bytes to write to a pipe at once. They end with a line if one fits, so that the reader gets
/// no half lines if we end.
fn piece(bytes: &[u8]) -> usize {
    let most = bytes.len().min(PIECE);
    bytes[..most].iter().rposition(|&byte| byte == b'\n').map_or(most, |last| last + 1)
}

/// Is it a regular file, which takes all bytes at once?
fn is_file(fd: BorrowedFd<'_>) -> bool {
    rustix::fs::fstat(fd).is_ok_and(|stat| rustix::fs::FileType::from_raw_mode(stat.st_mode).is_file())
}

/// Waits until the descriptor is writable. `false`: the time is over.
fn await_room(fd: BorrowedFd<'_>, until: Instant, is_over: &dyn Fn() -> bool) -> io::Result<bool> {
    loop {
        let left = until.saturating_duration_since(Instant::now()).min(ASKED_EVERY);
        let timeout = Timespec::try_from(left).map_err(io::Error::other)?;
        match poll(&mut [PollFd::new(&fd, PollFlags::OUT)], Some(&timeout)) {
            Ok(0) if left.is_zero() || is_over() => return Ok(false),
            Ok(0) | Err(Errno::INTR) => {}
            Ok(_) => return Ok(true),
            Err(e) => return Err(e.into()),
        }
    }
}

/// Sends each line as a datagram.
fn send(
    socket: &mut Option<UnixDatagram>,
    lines: &[u8],
    is_over: &dyn Fn() -> bool,
) -> Result<(), LostLines> {
    let (mut lost, mut cause) = (0, String::new());
    let mut datagram = Vec::new();
    for line in lines.split_inclusive(|&byte| byte == b'\n') {
        datagram.clear();
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        // Writing to memory cannot fail.
        let _ = write!(datagram, "{PRIORITY}[{}]: ", std::process::id());
        datagram.extend_from_slice(line);
        // After one failure, the other lines are not waited for.
        if let Err(e) = send_one(socket, &datagram, &|| lost > 0 || is_over()) {
            (lost, cause) = (lost + 1, format!("{SYSLOG}: {e}"));
        }
    }
    if lost > 0 { Err(LostLines { lines: lost, cause }) } else { Ok(()) }
}

fn send_one(
    socket: &mut Option<UnixDatagram>,
    datagram: &[u8],
    is_over: &dyn Fn() -> bool,
) -> io::Result<()> {
    let until = Instant::now() + PATIENCE;
    let mut is_second = false;
    loop {
        let connected = match socket {
            Some(connected) => connected,
            None => socket.insert(connect()?),
        };
        match connected.send(datagram) {
            Ok(_) => return Ok(()),
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            // The receiver's queue is full, and poll(2) does not work for that.
            Err(e) if e.kind() == ErrorKind::WouldBlock => {
                if Instant::now() >= until || is_over() {
                    return Err(e);
                }
                std::thread::sleep(Duration::from_millis(2));
            }
            // If syslog was restarted, the old socket is dead.
            Err(e) => {
                *socket = None;
                if std::mem::replace(&mut is_second, true) {
                    return Err(e);
                }
            }
        }
    }
}

fn connect() -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.connect(SYSLOG)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::OwnedFd;

    use super::*;

    fn pipe() -> (File, OwnedFd) {
        let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::NONBLOCK).expect("a pipe");
        (reader.into(), writer)
    }

    fn drain(reader: &mut File) -> Vec<u8> {
        let mut all = Vec::new();
        // An error means that there is nothing more to read now.
        let _ = reader.read_to_end(&mut all);
        all
    }

    #[test]
    fn a_line_that_was_torn_is_finished_first_and_those_behind_it_are_counted() {
        let (mut reader, writer) = pipe();
        let mut torn = Torn::default();
        let lines: Vec<u8> = (0..3_000)
            .flat_map(|number| format!("line {number:06} {}\n", "x".repeat(20)).into_bytes())
            .collect();
        let lost = torn.write(writer.as_fd(), &lines, &|| true).expect_err("a pipe holds less");
        assert!(lost.lines > 0 && lost.cause == "its reader takes no more", "{lost:?}");
        let mut all = drain(&mut reader);
        torn.write(writer.as_fd(), b"after\n", &|| true).expect("there is room");
        all.extend(drain(&mut reader));
        let text = String::from_utf8(all).expect("text");
        let whole = |line: &&str| line.len() == 32 && line.starts_with("line ") || *line == "after";
        assert!(text.lines().all(|line| whole(&line)), "{:?}", text.lines().find(|line| !whole(line)));
        assert_eq!(text.lines().count() as u64 + lost.lines, 3_001);
        assert_eq!(torn.forget(), 0);
    }

    #[test]
    fn a_pipe_that_fills_up_has_whole_lines_only() {
        let (mut reader, writer) = pipe();
        let lines: Vec<u8> = (0..9_000)
            .flat_map(|number| format!("{number:0width$}\n", width = number % 50 + 9).into_bytes())
            .collect();
        let mut torn = Torn::default();
        let lost = torn.write(writer.as_fd(), &lines, &|| true).expect_err("a pipe holds less");
        assert_eq!(torn.forget(), 0);
        let text = drain(&mut reader);
        assert_eq!(text.last(), Some(&b'\n'));
        assert_eq!(text.iter().filter(|&&byte| byte == b'\n').count() as u64 + lost.lines, 9_000);
    }

    /// Writes to a file that has room for this many bytes; the rest of the write fails.
    fn tear(sink: &mut LineSink, lines: &str, room: usize) {
        let LineSink::File(file) = sink else { panic!("a file") };
        file.begin_line();
        let rest = [&std::mem::take(&mut file.torn.0)[..], lines.as_bytes()].concat();
        file.file.write_all(&rest[..room]).expect("there is room");
        let end = rest[room..].iter().position(|&byte| byte == b'\n').map_or(rest.len(), |at| room + at + 1);
        file.torn = Torn(rest[room..end].to_vec());
        file.end = file.length();
    }

    #[test]
    fn no_line_is_ever_a_mixture_of_two_whoever_wrote_the_half_of_it() {
        let scratch = std::env::temp_dir().join(format!(
            "balance-halves-{:016x}",
            std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0)
        ));
        std::fs::create_dir_all(&scratch).expect("a temporary directory");
        let path = scratch.join("access.log");
        let write = |sink: &mut LineSink, text: &str| sink.write(text.as_bytes(), &|| false);
        let begin = || {
            let _ = std::fs::remove_file(&path);
            let mut sink = LineSink::file(&path).expect("a new file");
            tear(&mut sink, "one\ntwo\n", 5);
            sink
        };
        let read = || std::fs::read_to_string(&path).expect("it is there");
        // There is room again.
        let mut sink = begin();
        write(&mut sink, "three\n").expect("it is written");
        assert_eq!(read(), "one\ntwo\nthree\n");
        // The file is opened again, and is the same.
        let mut sink = begin();
        assert_eq!(sink.reopen().expect("it is there"), 0);
        write(&mut sink, "three\n").expect("it is written");
        assert_eq!(read(), "one\ntwo\nthree\n");
        // The file is truncated.
        let mut sink = begin();
        File::options().write(true).open(&path).and_then(|file| file.set_len(0)).expect("copytruncate");
        assert_eq!(write(&mut sink, "three\n").expect_err("one is lost").lines, 1);
        assert_eq!(read(), "three\n");
        // Another process writes to the file, and then this one again.
        let mut sink = begin();
        let mut next = LineSink::file(&path).expect("it is there");
        write(&mut next, "three\n").expect("it is written");
        assert_eq!(write(&mut sink, "four\n").expect_err("one is lost").lines, 1);
        write(&mut next, "five\n").expect("it is written");
        assert_eq!(read(), "one\nt\nthree\nfour\nfive\n");
        assert_eq!((begin().close(), next.close()), (1, 0));
        std::fs::remove_dir_all(&scratch).expect("ours");
    }

    #[test]
    fn what_goes_to_a_deleted_file_is_lost_and_counted() {
        let scratch = std::env::temp_dir().join(format!(
            "balance-deleted-{:016x}",
            std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0)
        ));
        let (directory, moved) = (scratch.join("logs"), scratch.join("moved"));
        std::fs::create_dir_all(&directory).expect("a temporary directory");
        let path = directory.join("access.log");
        let mut sink = LineSink::file(&path).expect("a new file");
        let write = |sink: &mut LineSink, text: &str| sink.write(text.as_bytes(), &|| false);
        write(&mut sink, "one\n").expect("it is written");
        // A line is not lost if the directory was renamed.
        std::fs::rename(&directory, &moved).expect("ours");
        let LineSink::File(file) = &mut sink else { panic!("a file") };
        file.looked = file.looked.checked_sub(LOOK).expect("a clock that runs");
        write(&mut sink, "two\n").expect("it is written");
        assert!(sink.take_trouble().is_some_and(|text| text.contains("lines go to the old file")));
        std::fs::remove_dir_all(&moved).expect("ours");
        let lost = write(&mut sink, "three\nfour\n").expect_err("there is no such directory");
        assert_eq!(lost.lines, 2);
        assert!(lost.cause.contains("was deleted and cannot be opened again"), "{lost:?}");
        // A missing directory is reported, also when another file has its name.
        std::fs::write(&directory, "no directory").expect("ours");
        assert_eq!(write(&mut sink, "five\n").expect_err("no directory").lines, 1);
        std::fs::remove_file(&directory).and_then(|()| std::fs::create_dir(&directory)).expect("ours");
        write(&mut sink, "six\n").expect("it is there again");
        assert_eq!(std::fs::read_to_string(&path).expect("it is there"), "six\n");
        std::fs::remove_dir_all(&scratch).expect("ours");
    }

    #[test]
    fn a_reader_that_is_gone_is_an_error_and_no_signal() {
        let (reader, writer) = pipe();
        drop(reader);
        let lost = Torn::default().write(writer.as_fd(), b"a\nb\n", &|| false).expect_err("nobody reads");
        assert_eq!(lost.lines, 2);
    }

    #[test]
    fn a_file_that_was_moved_away_is_left_and_one_that_was_truncated_goes_on() {
        let directory = std::env::temp_dir().join(format!(
            "balance-sink-{:016x}",
            std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0)
        ));
        std::fs::create_dir_all(&directory).expect("a temporary directory");
        let path = directory.join("access.log");
        let mut sink = LineSink::file(&path).expect("a new file");
        let mut write = |text: &str, is_looked: bool| {
            if let LineSink::File(file) = &mut sink
                && is_looked
                && let Some(before) = file.looked.checked_sub(LOOK)
            {
                file.looked = before;
            }
            sink.write(text.as_bytes(), &|| false).expect("it is written");
        };
        let read = |path: &Path| std::fs::read_to_string(path).expect("it is there");
        write("one\n", false);
        assert_eq!(std::fs::metadata(&path).expect("it is there").mode() & 0o137, 0);
        File::options().write(true).open(&path).and_then(|file| file.set_len(0)).expect("copytruncate");
        write("two\n", false);
        assert_eq!(read(&path), "two\n");
        let moved = directory.join("access.log.1");
        std::fs::rename(&path, &moved).expect("a file of ours");
        write("three\n", false);
        write("four\n", true);
        assert_eq!((read(&moved), read(&path)), ("two\nthree\n".into(), "four\n".into()));
        std::fs::remove_file(&path).expect("it is there");
        write("five\n", true);
        assert_eq!(read(&path), "five\n");
        std::fs::remove_dir_all(&directory).expect("ours");
    }
}
