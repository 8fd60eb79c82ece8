//! Metrics in words: a table of captions and figures, with the units that Prometheus' naming conventions tell.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use prometheus::proto::{Histogram, Metric, MetricFamily, MetricType};

use super::page::{escape, shortened};
use crate::metrics::{counted, gauged};

/// How many rows there are on a page, and of one metric.
const ALL: usize = 300;
const SERIES: usize = 20;

/// How long a caption and the labels of a figure may be.
const CAPTION: usize = 200;
const LABELS: usize = 120;

/// Numbers from here on mean "none" to those who set them.
const ENDLESS: f64 = (1_u64 << 63) as f64;

/// Makes the tables of one page, until it is long enough.
pub(super) struct Rows {
    now: SystemTime,
    left: usize,
    left_out: bool,
}

impl Rows {
    pub fn new(now: SystemTime) -> Self {
        Self {
            now,
            left: ALL,
            left_out: false,
        }
    }

    /// Whether there was more than is shown.
    pub fn left_out(&self) -> bool {
        self.left_out
    }

    /// The metrics whose names have a place as HTML, sorted by it; nothing if there are none.
    pub fn table(
        &mut self,
        families: &[MetricFamily],
        place: impl Fn(&str) -> Option<usize>,
    ) -> String {
        // The services are shown in words, and what was built at the foot.
        let mut wanted: Vec<_> = families
            .iter()
            .filter(|family| !family.get_metric().is_empty())
            .filter(|family| family.name() != "tbot_service_status" && !is_build(family))
            .filter_map(|family| Some((place(family.name())?, family)))
            .collect();
        wanted.sort_by_key(|(place, family)| {
            // How things are, before what has happened.
            let kind = match family.get_field_type() {
                MetricType::GAUGE => 0,
                MetricType::COUNTER => 1,
                _ => 2,
            };
            (*place, kind)
        });
        let mut rows = String::new();
        for (_, family) in wanted {
            self.push(&mut rows, family);
        }
        match rows.is_empty() {
            true => rows,
            false => format!("<table>\n{rows}</table>\n"),
        }
    }

    fn push(&mut self, rows: &mut String, family: &MetricFamily) {
        if self.left == 0 {
            self.left_out = true;
            return;
        }
        self.left -= 1;
        let caption = caption(family);
        // What has not happened is not worth a line for each way in which it may.
        let mut left = family
            .get_metric()
            .iter()
            .filter(|one| !is_idle(family, one));
        let shown: Vec<_> = left.by_ref().take(SERIES).collect();
        let alone = match shown[..] {
            [] => Some("0".into()),
            [one] if one.get_label().is_empty() => Some(self.figure(family, one)),
            _ => None,
        };
        if let Some(figure) = alone {
            let _ = writeln!(rows, "<tr><th scope=\"row\">{caption}<td>{figure}");
            return;
        }
        let _ = writeln!(rows, "<tr><th scope=\"rowgroup\" colspan=\"2\">{caption}");
        for one in shown {
            self.left = self.left.saturating_sub(1);
            let (labels, figure) = (labels(one), self.figure(family, one));
            let _ = writeln!(
                rows,
                "<tr class=\"of\"><th scope=\"row\">{labels}<td>{figure}"
            );
        }
        self.left_out |= left.next().is_some();
    }

    fn figure(&self, family: &MetricFamily, one: &Metric) -> String {
        let name = family.name();
        match family.get_field_type() {
            MetricType::COUNTER => number(name, counted(one)),
            MetricType::GAUGE if name.ends_with("_timestamp_seconds") || name == START => {
                self.time(gauged(one))
            }
            MetricType::GAUGE if family.help().starts_with("Whether ") => match gauged(one) {
                0.0 => "no".into(),
                _ => "yes".into(),
            },
            MetricType::GAUGE => number(name, gauged(one)),
            MetricType::HISTOGRAM => distribution(name, one.get_histogram()),
            _ => "–".into(),
        }
    }

    /// A time in seconds since 1970.
    fn time(&self, seconds: f64) -> String {
        // The last second that has four digits for its year.
        if !(1.0..253_402_300_800.0).contains(&seconds) {
            return if seconds >= ENDLESS { "never" } else { "none" }.into();
        }
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs_f64(seconds);
        let distance = match time.duration_since(self.now) {
            Ok(left) => format!("in {}", span(left)),
            Err(past) => format!("{} ago", span(past.duration())),
        };
        format!("{distance}<small>{}</small>", moment(time))
    }
}

/// The one gauge that is a time and does not say so.
const START: &str = "process_start_time_seconds";

/// What a metric is about, without the units that the figures are in.
fn caption(family: &MetricFamily) -> String {
    let help = family.help();
    let help = help.split(';').next().unwrap_or_default();
    let help = help.trim().trim_end_matches('.');
    let units = ["since unix epoch", "in seconds", "in bytes", ", 1 or 0"];
    let words = units.iter().fold(help, |words, unit| {
        words.strip_suffix(unit).unwrap_or(words).trim_end()
    });
    match words {
        "" => escape(family.name()),
        _ => shortened(words, CAPTION),
    }
}

fn labels(one: &Metric) -> String {
    let values = one.get_label().iter().map(|label| label.value());
    shortened(&values.collect::<Vec<_>>().join(" · "), LABELS)
}

/// A counter or histogram at 0. That a gauge is at 0 may be what one looks for.
fn is_idle(family: &MetricFamily, one: &Metric) -> bool {
    match family.get_field_type() {
        MetricType::COUNTER => counted(one) == 0.0,
        MetricType::HISTOGRAM => one.get_histogram().get_sample_count() == 0,
        _ => false,
    }
}

fn is_build(family: &MetricFamily) -> bool {
    family.name().ends_with("_build_info")
}

/// What the program was built from, as HTML.
pub(super) fn build(families: &[MetricFamily]) -> Option<String> {
    let one = families.iter().find(|family| is_build(family))?;
    let labels = one.get_metric().first()?.get_label();
    let (version, rest): (Vec<_>, Vec<_>) =
        labels.iter().partition(|label| label.name() == "version");
    let words = version.into_iter().chain(rest).map(|label| {
        // `rustc --version` begins with its own name.
        match label.value().starts_with(label.name()) {
            true => shortened(label.value(), LABELS),
            false => format!(
                "{} {}",
                escape(label.name()),
                shortened(label.value(), LABELS)
            ),
        }
    });
    Some(words.collect::<Vec<_>>().join(" · "))
}

/// A number in the unit that its metric's name ends with.
fn number(name: &str, value: f64) -> String {
    let name = name.strip_suffix("_total").unwrap_or(name);
    if value >= ENDLESS {
        "no limit".into()
    } else if name.ends_with("_bytes") {
        scaled(value, 1000.0, &["B", "kB", "MB", "GB", "TB", "PB", "EB"])
    } else if name.ends_with("_seconds") {
        seconds(value)
    } else {
        grouped(value)
    }
}

/// Mean, of how many, and what 99 of 100 are within.
fn distribution(name: &str, histogram: &Histogram) -> String {
    let count = histogram.get_sample_count();
    if count == 0 {
        return "0".into();
    }
    let mean = number(name, histogram.get_sample_sum() / count as f64);
    let most = histogram.get_bucket().iter().find(|bucket| {
        bucket.cumulative_count() as f64 >= 0.99 * count as f64 && bucket.upper_bound().is_finite()
    });
    let most = most.map_or(String::new(), |bucket| {
        let most = number(name, bucket.upper_bound());
        format!("<small>99 % ≤ {most}</small>")
    });
    let count = grouped(count as f64);
    format!("{mean}<small>mean of {count}</small>{most}")
}

fn seconds(value: f64) -> String {
    match value {
        0.0 => "0 s".into(),
        _ if value < 1e-3 => format!("{:.0} µs", value * 1e6),
        _ if value < 1.0 => format!("{} ms", rounded(value * 1e3)),
        _ if value < 60.0 => format!("{} s", rounded(value)),
        _ => Duration::try_from_secs_f64(value).map_or_else(|_| value.to_string(), span),
    }
}

/// In the largest unit of which there is one.
fn scaled(mut value: f64, step: f64, units: &[&str]) -> String {
    let mut unit = 0;
    while value >= step && unit + 1 < units.len() {
        value /= step;
        unit += 1;
    }
    format!("{} {}", rounded(value), units[unit])
}

/// Three digits are enough to look at.
fn rounded(value: f64) -> String {
    let digits = match value {
        _ if value.fract() == 0.0 || value >= 100.0 => 0,
        _ if value >= 10.0 => 1,
        _ => 2,
    };
    format!("{value:.digits$}")
}

/// A number with its thousands apart.
fn grouped(value: f64) -> String {
    if value.fract() != 0.0 || value.abs() >= 1e15 {
        return value.to_string();
    }
    let digits = format!("{}", value as i64);
    let (sign, digits) = match digits.strip_prefix('-') {
        Some(digits) => ("−", digits),
        None => ("", &*digits),
    };
    let mut text = sign.to_owned();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A time that passes, in its two largest units.
pub(super) fn span(time: Duration) -> String {
    let seconds = time.as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, ..) => format!("{hours} h {} min", minutes % 60),
        _ => format!("{} d {} h", grouped(days as f64), hours % 24),
    }
}

/// A point in time as HTML: for people, and exactly for programs.
pub(super) fn moment(time: SystemTime) -> String {
    let exact = humantime::format_rfc3339_seconds(time).to_string();
    let (day, rest) = exact.split_once('T').unwrap_or((&exact, ""));
    let rest = rest.trim_end_matches('Z');
    format!("<time datetime=\"{exact}\">{day} {rest} UTC</time>")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_in_the_unit_that_the_name_tells() {
        for (name, value, shown) in [
            ("jobs_total", 1234567.0, "1,234,567"),
            ("jobs", -1000.0, "−1,000"),
            ("ratio", 0.25, "0.25"),
            ("sent_bytes_total", 0.0, "0 B"),
            ("sent_bytes_total", 1536.0, "1.54 kB"),
            ("sent_bytes", 999e18, "no limit"),
            ("sent_bytes", 12.3e9, "12.3 GB"),
            ("wait_seconds", 0.00025, "250 µs"),
            ("wait_seconds", 0.0125, "12.5 ms"),
            ("wait_seconds", 3.0, "3 s"),
            ("cpu_seconds_total", 3725.0, "1 h 2 min"),
            ("cpu_seconds_total", f64::NAN, "NaN"),
            ("jobs", f64::INFINITY, "no limit"),
        ] {
            assert_eq!(number(name, value), shown, "{name} {value}");
        }
    }

    #[test]
    fn times_are_told_from_now() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let rows = Rows::new(now);
        let exact = "1970-01-12T13:47:40Z\">1970-01-12 13:47:40 UTC</time></small>";
        let shown = rows.time(1_000_060.0);
        assert_eq!(
            shown,
            format!("in 1 min 0 s<small><time datetime=\"{exact}")
        );
        assert!(rows.time(827_200.0).starts_with("2 d 0 h ago<"));
        for (none, shown) in [
            (0.0, "none"),
            (9.3e18, "never"),
            (f64::NAN, "none"),
            (-1.0, "none"),
        ] {
            assert_eq!(rows.time(none), shown);
        }
    }
}
