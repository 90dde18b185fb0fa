//! Tests of times that a machine at its limit does not keep.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How often a test is run at most.
const TIMES: usize = 6;

/// Runs a test in which a client or a server of ours has to do something in time. If it fails, and this process stood still meanwhile
/// for so many milliseconds, that says nothing about the program, and it is run again. A failure without such a pause is one.
pub(crate) fn unless_held_up(millis: u64, test: impl Fn()) {
    for time in 1.. {
        let watch = Watch::start();
        let ended = catch_unwind(AssertUnwindSafe(&test));
        let longest = watch.stop();
        let Err(panic) = ended else { return };
        if longest < Duration::from_millis(millis) || time == TIMES {
            resume_unwind(panic);
        }
        eprintln!("the test was held up for {longest:.1?}, so its failure says nothing: once more");
    }
}

/// Measures how late a thread of ours comes round.
struct Watch {
    is_over: Arc<AtomicBool>,
    thread: JoinHandle<Duration>,
}

impl Watch {
    fn start() -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&is_over);
        let thread = thread::spawn(move || {
            let (mut last, mut longest) = (Instant::now(), Duration::ZERO);
            while !told.load(Ordering::SeqCst) {
                super::pause();
                let now = Instant::now();
                longest = longest.max(now - last);
                last = now;
            }
            longest
        });
        Self { is_over, thread }
    }

    fn stop(self) -> Duration {
        self.is_over.store(true, Ordering::SeqCst);
        self.thread.join().expect("it does nothing that fails")
    }
}

#[test]
fn a_failure_counts_unless_the_test_was_held_up() {
    let times = std::cell::Cell::new(0);
    let count = || times.set(times.get() + 1);
    // Not a wait for anything: so long is nobody held up here, even if all the machine is.
    let never = 3_600_000;
    let failed = catch_unwind(AssertUnwindSafe(|| {
        unless_held_up(never, || {
            count();
            panic!("on purpose");
        });
    }));
    assert_eq!((failed.is_err(), times.get()), (true, 1), "it is no excuse for what fails by itself");
    unless_held_up(0, || {
        count();
        assert!(times.get() > 3, "on purpose");
    });
    assert_eq!(times.get(), 4, "until it does not fail");
    let failed = catch_unwind(AssertUnwindSafe(|| unless_held_up(0, || panic!("on purpose, each time"))));
    assert!(failed.is_err(), "and not for ever");
}
