//! Measures how many lines per second are written: records go into the queue at a given rate and come out in
//! a file.
//!
//! Knows: the queue that workers use, the thread, a file. Never: connections. `bench/lines` runs it at full
//! size.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::*;
use crate::observe::{AccessMoment, AttemptError, ConnectionTrace, FailedAttempt, PathInfo, ServiceLabel};
use crate::sched::{ChannelKey, DialCause, End};

/// The interval of the bursts of records. A worker, which checks its sockets from time to time, also writes
/// in bursts.
const BURST: Duration = Duration::from_millis(1);
/// How long the thread may take for the waiting lines at the end. It is less than its wait for a line.
const LAST_LINES: Duration = Duration::from_secs(8);

/// The load to make: `BALANCE_LINES=PER_SECOND,MILLISECONDS[,DIRECTORY]`; 0 per second means as many as
/// possible.
struct LineLoad {
    per_second: u64,
    lasts: Duration,
    directory: PathBuf,
    is_told: bool,
}

impl LineLoad {
    fn asked() -> Self {
        let asked = std::env::var("BALANCE_LINES").ok();
        let mut words = asked.as_deref().unwrap_or("0,50").splitn(3, ',');
        let mut number =
            || words.next().and_then(|word| word.parse().ok()).expect("a rate and a time in milliseconds");
        let (per_second, lasts) = (number(), Duration::from_millis(number()));
        let directory = words.next().map_or_else(std::env::temp_dir, PathBuf::from);
        Self { per_second, lasts, directory, is_told: asked.is_some() }
    }
}

/// A record of a usual connection: one attempt failed, both paths are known.
fn record(service: &ServiceLabel, id: u64) -> Box<AccessRecord> {
    let client = std::net::SocketAddr::from(([192, 0, 2, id as u8], 10_000 + (id % 50_000) as u16)).into();
    let mut trace = ConnectionTrace::new(client, 80, SystemTime::now(), Duration::ZERO);
    let key = |number| ChannelKey::new(0, number).expect("a small number");
    let address = ([10, 0, 0, 1], 80).into();
    trace.failed = Vec::from([FailedAttempt {
        channel: key(0),
        address,
        error: AttemptError::Known(DialCause::Refused),
    }]);
    trace.attempts = 1;
    trace.connected(Some(([10, 0, 0, 2], 80).into()), Duration::from_micros(105));
    trace.first_byte = Some(Duration::from_micros(17_009));
    let path = |micros| Some(PathInfo { rtt: Duration::from_micros(micros), retransmits: 0 });
    Box::new(AccessRecord {
        service: Arc::clone(service),
        id,
        trace,
        channel: Some(key(1)),
        lasted: Duration::from_micros(21_712),
        sent_bytes: 79,
        rcvd_bytes: 27_080,
        paths: [path(427), path(116)],
        moment: AccessMoment::End(End::ChannelClosed),
    })
}

/// Writes records, in bursts if there is a rate. Returns how many.
fn leave(access: &AccessLog, load: &LineLoad) -> u64 {
    let label = ServiceLabel::default();
    let began = Instant::now();
    let mut left = 0;
    loop {
        let passed = began.elapsed();
        if passed >= load.lasts {
            return left;
        }
        let due = if load.per_second == 0 {
            left + 64
        } else {
            (u128::from(load.per_second) * passed.as_micros() / 1_000_000) as u64
        };
        while left < due {
            access.tell(record(&label, left));
            left += 1;
        }
        if load.per_second > 0 {
            thread::sleep(BURST);
        }
    }
}

/// Counts the lines, and checks that all are whole and in order.
fn count(path: &Path, style: LineStyle) -> u64 {
    let (before, after, end) = match style {
        LineStyle::Text => (" id=", " service=", "end=\"channel closed\" via=- port=80"),
        LineStyle::Json => {
            ("\"id\":", ",\"service\"", "\"end\":\"channel closed\",\"via\":null,\"port\":80}")
        }
    };
    let (mut lines, mut last) = (0, None);
    for line in BufReader::new(File::open(path).expect("it was written")).lines() {
        let line = line.expect("text");
        let id = line.split_once(before).and_then(|(_, rest)| rest.split_once(after));
        let id: u64 = id.and_then(|(id, _)| id.parse().ok()).unwrap_or_else(|| panic!("{line}"));
        assert!(line.ends_with(end), "{line}");
        assert!(last.is_none_or(|last| last < id), "{id} after {last:?}");
        (lines, last) = (lines + 1, Some(id));
    }
    lines
}

/// The CPU time of the writing thread; `None`: not known on this system.
fn processor_time() -> Option<Duration> {
    let tasks = std::fs::read_dir("/proc/self/task").ok()?.flatten().map(|task| task.path());
    let ours = tasks.filter(|task| std::fs::read(task.join("comm")).is_ok_and(|name| name == b"access\n"));
    let times = ours.filter_map(|task| {
        let text = std::fs::read_to_string(task.join("schedstat")).ok()?;
        text.split(' ').next()?.parse().ok().map(Duration::from_nanos)
    });
    Some(times.sum())
}

fn measure(load: &LineLoad, style: LineStyle) -> io::Result<()> {
    let path = load.directory.join(format!("balance-rate-{}-{style:?}", std::process::id()));
    let moments = AccessMoments { start: false, end: true, every: None };
    let opened = OpenedLog { sink: LineSink::file(&path)?, style, moments };
    let log = Log::kept(|| ());
    let scribe = opened.start(&log)?;
    let began = Instant::now();
    let left = leave(&scribe.access(), load);
    let used = processor_time();
    let took = began.elapsed();
    let dropped_meanwhile = scribe.access().dropped();
    scribe.stop(LAST_LINES, &log);
    let told = log.take();
    let is_late = told.iter().any(|event| !matches!(event, Event::AccessLinesDropped { .. }));
    assert!(!is_late, "the thread ends when it has written what there is: {told:?}");
    let (dropped, length) = (scribe.access().dropped(), std::fs::metadata(&path)?.len());
    let written = count(&path, style);
    std::fs::remove_file(&path)?;
    assert_eq!(written + dropped, left, "no line is lost that is not counted");
    assert_eq!(dropped, dropped_meanwhile, "what waits at the end is written");
    assert!(written > 0);
    if load.is_told {
        let per_second = |lines: u64| lines as f64 / took.as_secs_f64();
        let micros = used.map_or(0.0, |used| used.as_secs_f64() * 1e6 / written as f64);
        writeln!(
            io::stdout(),
            "lines style={style:?} left={:.0} written={:.0} dropped={dropped} cpu_us={micros:.2} bytes={:.0}",
            per_second(left),
            per_second(written),
            length as f64 / written as f64
        )?;
    }
    Ok(())
}

#[test]
fn every_line_is_written_or_counted_however_fast_they_come() {
    let load = LineLoad::asked();
    for style in [LineStyle::Text, LineStyle::Json] {
        measure(&load, style).expect("files in a temporary directory");
    }
}
