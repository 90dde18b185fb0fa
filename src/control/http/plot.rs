//! Draws the last hour as lines: makes SVG paths of samples, and a description for those who cannot see them.
//!
//! Knows: coordinates, units. Never: the clock, how a page looks.
//! Source: docs/observability.md, "The page".
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::fmt::Write;
use std::time::Duration;

use super::history::{STEP, STEPS, Sample, ServiceHistory};

/// Height of a plot in its own units.
const HEIGHT: u32 = 100;
/// Number of steps drawn for a process that has been watched for less than this.
const SHORT_STEPS: u32 = STEPS / 6;
/// Free space above the highest point, in units of the plot.
const MARGIN: f64 = 6.0;

/// One plot of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plot {
    pub(crate) title: &'static str,
    /// Width in its own units; one unit is one step.
    pub(crate) width: u32,
    pub(crate) height: u32,
    /// How many minutes the plot goes back.
    pub(crate) minutes: u64,
    /// The value at the top, as text.
    pub(crate) top: String,
    pub(crate) lines: Vec<PlotLine>,
    /// The whole plot described in words.
    pub(crate) words: String,
}

/// One line of a plot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PlotLine {
    pub(crate) name: &'static str,
    /// The last value, as text.
    pub(crate) now: String,
    pub(crate) path: String,
    /// The same line, closed along the bottom so that the area can be filled.
    pub(crate) area: String,
}

type PlotUnit = fn(f64) -> String;
type PlotReading = fn(&Sample) -> Option<f64>;

/// What a plot shows.
struct PlotPlan {
    title: &'static str,
    unit: PlotUnit,
    /// The minimum value of the top.
    least: f64,
    lines: [(&'static str, PlotReading); 2],
}

const PLOTS: [PlotPlan; 4] = [
    PlotPlan {
        title: "Throughput",
        unit: byte_rate,
        least: 1_000.0,
        lines: [("to clients", |one| Some(one.rcvd_rate)), ("from clients", |one| Some(one.sent_rate))],
    },
    PlotPlan {
        title: "Connections",
        unit: count,
        least: 10.0,
        lines: [("open", |one| Some(f64::from(one.open))), ("new per second", |one| Some(one.new_rate))],
    },
    PlotPlan {
        title: "Connect time",
        unit: seconds,
        least: 0.001,
        lines: [("mean", |one| one.connect_mean), ("p99", |one| one.connect_p99)],
    },
    PlotPlan {
        title: "Errors per 10 s",
        unit: count,
        least: 5.0,
        lines: [
            ("failed connects", |one| Some(one.failed as f64)),
            ("lost clients", |one| Some(one.lost as f64)),
        ],
    },
];

/// The plots of a service, with the right edge at `now`.
pub(crate) fn plots(history: Option<&ServiceHistory>, now: Duration) -> Vec<Plot> {
    let samples: Vec<&Sample> = history.iter().flat_map(|history| history.samples()).collect();
    PLOTS.iter().map(|plan| plan.draw(&samples, now)).collect()
}

impl PlotPlan {
    fn draw(&self, samples: &[&Sample], now: Duration) -> Plot {
        let &Self { title, unit, least, lines } = self;
        let all = || lines.iter().flat_map(|(_, read)| samples.iter().filter_map(|sample| read(sample)));
        let top = rounded_up(all().fold(least, f64::max));
        let is_young = samples.first().is_none_or(|first| now.saturating_sub(first.at) < STEP * SHORT_STEPS);
        let width = if is_young { SHORT_STEPS } else { STEPS };
        let minutes = (STEP * width).as_secs() / 60;
        let mut words = format!("{title}, the last {minutes} minutes.");
        let lines = lines.iter().map(|&(name, read)| {
            let last = samples.last().and_then(|sample| read(sample));
            let peak = samples.iter().filter_map(|sample| read(sample)).fold(0.0, f64::max);
            let said = last.map_or_else(|| "-".to_owned(), unit);
            // Writing to a String cannot fail.
            let _ = write!(words, " {name}: now {said}, at most {}.", unit(peak));
            let (path, area) = paths(samples, read, (top, width), now);
            PlotLine { name, now: said, path, area }
        });
        let lines = lines.collect();
        Plot { title, width, height: HEIGHT, minutes, top: unit(top), lines, words }
    }
}

/// The path of a line and the area below it. A step that is missing or has no value makes a gap.
fn paths(
    samples: &[&Sample],
    read: PlotReading,
    (top, width): (f64, u32),
    now: Duration,
) -> (String, String) {
    let (mut path, mut area) = (String::new(), String::new());
    let mut begun: Option<(f64, Duration)> = None;
    let close = |area: &mut String, begun: Option<(f64, Duration)>, last: f64| {
        if let Some((first, _)) = begun {
            let _ = write!(area, "L{last:.1} {HEIGHT}L{first:.1} {HEIGHT}Z");
        }
    };
    let mut last_x = 0.0;
    for sample in samples {
        let steps = now.saturating_sub(sample.at).as_secs_f64() / STEP.as_secs_f64();
        let x = f64::from(width) - steps;
        let Some(value) = read(sample).filter(|_| x >= 0.0) else {
            close(&mut area, begun.take(), last_x);
            continue;
        };
        let y = f64::from(HEIGHT) - value / top * (f64::from(HEIGHT) - MARGIN);
        if begun.is_some_and(|(_, at)| sample.at.saturating_sub(at) > STEP * 3) {
            close(&mut area, begun.take(), last_x);
        }
        let first = match begun {
            Some((first, _)) => {
                let _ = write!(path, "L{x:.1} {y:.1}");
                let _ = write!(area, "L{x:.1} {y:.1}");
                first
            }
            None => {
                // A single point is visible, too.
                let _ = write!(path, "M{x:.1} {y:.1}h0.5");
                let _ = write!(area, "M{x:.1} {y:.1}");
                x
            }
        };
        begun = Some((first, sample.at));
        last_x = x;
    }
    close(&mut area, begun, last_x);
    (path, area)
}

/// Rounds up to 1, 2 or 5 times a power of ten.
fn rounded_up(value: f64) -> f64 {
    let power = 10_f64.powf(value.log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0].map(|step| step * power);
    steps.into_iter().find(|step| *step >= value * 0.999_999).unwrap_or(value)
}

/// A rate in bytes per second as text, such as `12 kB/s`.
pub(crate) fn byte_rate(rate: f64) -> String {
    const UNITS: [&str; 5] = ["B/s", "kB/s", "MB/s", "GB/s", "TB/s"];
    let mut scaled = rate.max(0.0);
    let mut unit = 0;
    while scaled >= 999.5 && unit + 1 < UNITS.len() {
        scaled /= 1_000.0;
        unit += 1;
    }
    let digits = usize::from(scaled < 9.95 && unit > 0);
    format!("{scaled:.digits$} {}", UNITS[unit])
}

fn seconds(seconds: f64) -> String {
    crate::control::status::short_time(Duration::try_from_secs_f64(seconds).unwrap_or_default())
}

/// Small numbers get one decimal, because they can be rates.
fn count(count: f64) -> String {
    if count < 10.0 && count.fract() >= 0.05 { format!("{count:.1}") } else { format!("{count:.0}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_short_and_never_wide() {
        for (rate, said) in [
            (0.0, "0 B/s"),
            (999.4, "999 B/s"),
            (999.6, "1.0 kB/s"),
            (12_345.0, "12 kB/s"),
            (9_940_000.0, "9.9 MB/s"),
            (9_960_000.0, "10 MB/s"),
            (1e20, "100000000 TB/s"),
        ] {
            assert_eq!(byte_rate(rate), said);
        }
        assert_eq!([0.0, 0.04, 0.5, 9.99, 10.4].map(count), ["0", "0", "0.5", "10.0", "10"]);
        assert_eq!([0.000_08, 0.001, 2.5].map(seconds), ["80us", "1.0ms", "2.5s"]);
    }

    #[test]
    fn the_top_is_a_round_number() {
        for (value, top) in
            [(1.0, 1.0), (1.1, 2.0), (3.0, 5.0), (5.1, 10.0), (1_000.0, 1_000.0), (0.001, 0.001)]
        {
            assert!((rounded_up(value) / top - 1.0).abs() < 1e-9, "{value}: {}", rounded_up(value));
        }
    }

    fn sample(at: u64, connect_mean: Option<f64>) -> Sample {
        Sample {
            at: Duration::from_secs(at),
            sent_rate: 0.0,
            rcvd_rate: 500.0,
            open: 0,
            new_rate: 0.0,
            connect_mean,
            connect_p99: None,
            failed: 0,
            lost: 0,
        }
    }

    #[test]
    fn what_is_not_known_is_a_gap() {
        let all = [
            sample(10, None),
            sample(20, Some(0.001)),
            sample(30, Some(0.001)),
            sample(40, None),
            sample(50, Some(0.001)),
            sample(500, Some(0.0005)),
        ];
        let samples: Vec<&Sample> = all.iter().collect();
        let now = Duration::from_secs(500);
        let (path, area) = paths(&samples, |one| one.connect_mean, (0.001, STEPS), now);
        assert_eq!(path, "M312.0 6.0h0.5L313.0 6.0M315.0 6.0h0.5M360.0 53.0h0.5");
        assert_eq!(
            area,
            "M312.0 6.0L313.0 6.0L313.0 100L312.0 100ZM315.0 6.0L315.0 100L315.0 100ZM360.0 53.0L360.0 100L360.0 100Z"
        );
        // These samples are older than an hour.
        let (path, _) =
            paths(&samples[..3], |one| Some(one.rcvd_rate), (1_000.0, STEPS), Duration::from_secs(3_625));
        assert_eq!(path, "M0.5 53.0h0.5");
        assert_eq!(paths(&[], |one| Some(one.rcvd_rate), (1.0, STEPS), now), Default::default());
    }

    #[test]
    fn words_say_what_the_lines_show() {
        let four = plots(None, Duration::ZERO);
        assert_eq!(four.len(), 4);
        assert_eq!(
            four[0].words,
            "Throughput, the last 10 minutes. to clients: now -, at most 0 B/s. from clients: now -, at most 0 B/s."
        );
        assert_eq!(four[2].top, "1.0ms");
    }
}
