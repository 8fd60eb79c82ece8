//! Metrics as Prometheus' text format has them (version 0.0.4).
//!
//! What `prometheus::TextEncoder` writes of what `Registry::gather` gives, byte by byte. The crate's encoder builds a
//! string for each number, formats whole ones as fractions, and writes the labels of a histogram anew for each bucket;
//! and what is gathered is a copy of everything, names and labels too.
//!
//! So a collector of ours that is gathered for the text [`print`]s it, and gives a family in its place that says no more
//! than where it belongs. Others are written from what they give. If not every one of ours comes back as it was given,
//! as from a registry that adds a prefix or labels to all, or by a collector that gathers another registry and changes
//! what that has, then everything is gathered as others do it.

use std::cell::RefCell;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use prometheus::Registry;
use prometheus::proto::{LabelPair, Metric, MetricFamily, MetricType};

use super::{counted, gauged};

/// A registry and how its text is made.
#[derive(Clone, Debug, Default)]
pub(crate) struct Exposition {
    pub registry: Registry,
    /// It changes what it gathers.
    in_full: Arc<AtomicBool>,
    /// How long its text was the last time: the next one need not be moved as it grows.
    length: Arc<AtomicUsize>,
}

impl Exposition {
    pub fn of(registry: Registry) -> Self {
        Self {
            registry,
            ..Self::default()
        }
    }

    /// The text of everything in the registry.
    pub fn text(&self) -> Vec<u8> {
        if !self.in_full.load(Ordering::Relaxed) {
            let length = self.length.load(Ordering::Relaxed);
            let gather = || Printed::while_(length, || self.registry.gather());
            // The crate's encoder panics where a collector has it write what was printed.
            let gathered = catch_unwind(AssertUnwindSafe(gather)).ok();
            let text = gathered.and_then(|(families, printed)| printed.among(&families));
            if let Some(text) = text {
                // Numbers become longer.
                self.length.store(text.len() + 256, Ordering::Relaxed);
                return text;
            }
        }
        let families = self.registry.gather();
        // Not where that panics, too.
        self.in_full.store(true, Ordering::Relaxed);
        let mut text = Vec::new();
        for family in families {
            write_family(&mut text, &family);
        }
        text
    }
}

/// What has been printed by the collectors that this thread gathers.
#[derive(Default)]
struct Printed {
    text: Vec<u8>,
    /// Where the text of each family ends.
    ends: Vec<usize>,
}

thread_local! {
    static PRINTED: RefCell<Option<Printed>> = const { RefCell::new(None) };
}

/// Has the text of a family written, if it is gathered for that, and gives what to collect instead.
pub(crate) fn print(name: &str, write: impl FnOnce(&mut Vec<u8>)) -> Option<MetricFamily> {
    PRINTED.with_borrow_mut(|printed| {
        let Printed { text, ends } = printed.as_mut()?;
        let mut metric = Metric::default();
        metric.set_timestamp_ms(ends.len() as i64);
        write(text);
        ends.push(text.len());
        let mut family = MetricFamily::default();
        family.set_name(name.to_owned());
        // No other is.
        family.set_field_type(MetricType::UNTYPED);
        family.set_metric(vec![metric]);
        Some(family)
    })
}

impl Printed {
    /// What is printed during `gather`, about so many bytes.
    fn while_<T>(length: usize, gather: impl FnOnce() -> T) -> (T, Self) {
        /// Also after a panic of a collector.
        struct Until;
        impl Drop for Until {
            fn drop(&mut self) {
                PRINTED.take();
            }
        }
        let _until = Until;
        PRINTED.set(Some(Self {
            text: Vec::with_capacity(length),
            ends: Vec::new(),
        }));
        let gathered = gather();
        (gathered, PRINTED.take().unwrap_or_default())
    }

    /// The text of these families, among which those that were printed are as [`print`] gave them; `None` where they
    /// are not.
    fn among(self, gathered: &[MetricFamily]) -> Option<Vec<u8>> {
        let mut text = Vec::with_capacity(self.text.len());
        let mut left = self.ends.len();
        for family in gathered {
            if family.get_field_type() != MetricType::UNTYPED {
                write_family(&mut text, family);
                continue;
            }
            let printed = self.printed(family)?;
            text.extend_from_slice(printed);
            left = left.checked_sub(1)?;
        }
        // Two of one name would be one family with two metrics.
        (left == 0).then_some(text)
    }

    /// What was printed in the place of this one.
    fn printed(&self, family: &MetricFamily) -> Option<&[u8]> {
        let [metric] = family.get_metric() else {
            return None;
        };
        let place = usize::try_from(metric.timestamp_ms()).ok()?;
        let begin = place
            .checked_sub(1)
            .map_or(Some(&0), |before| self.ends.get(before))?;
        let text = self.text.get(*begin..*self.ends.get(place)?)?;
        let named = text
            .strip_prefix(HELP)?
            .strip_prefix(family.name().as_bytes())?;
        let is_bare = family.help().is_empty() && metric.get_label().is_empty();
        (named.starts_with(b" ") && is_bare).then_some(text)
    }
}

/// The lines of a metric's text without their numbers.
#[derive(Debug)]
pub(crate) struct Form {
    /// Each but the first one begins with the end of the line before.
    text: Box<[u8]>,
    ends: Box<[u32]>,
}

impl Form {
    /// The form of a family that has one metric, whatever its numbers are.
    pub fn of(family: &MetricFamily) -> Self {
        let mut printed = Vec::new();
        for metric in family.get_metric() {
            let mut labels = Vec::new();
            write_labels(&mut labels, metric.get_label());
            write_metric(&mut printed, family, metric, &labels);
        }
        let (mut text, mut ends) = (Vec::new(), Vec::new());
        // A line ends with its number; labels may have spaces, but no newline.
        for line in printed.split_inclusive(|byte| *byte == b'\n') {
            if !ends.is_empty() {
                text.push(b'\n');
            }
            let end = line.iter().rposition(|byte| *byte == b' ');
            text.extend_from_slice(&line[..end.map_or(0, |space| space + 1)]);
            ends.push(text.len() as u32);
        }
        Self {
            text: text.into(),
            ends: ends.into(),
        }
    }

    /// A writer of the text with other numbers, which it is given one after the other, all of them.
    pub fn numbers<'a>(&'a self, text: &'a mut Vec<u8>) -> impl FnMut(f64) + 'a {
        let mut begin = 0;
        let mut ends = self.ends.iter();
        move |value| {
            if let Some(&end) = ends.next() {
                let end = end as usize;
                text.extend_from_slice(&self.text[begin..end]);
                number(text, value);
                begin = end;
                if begin == self.text.len() {
                    text.push(b'\n');
                }
            }
        }
    }
}

fn write_family(text: &mut Vec<u8>, family: &MetricFamily) {
    text.extend_from_slice(&head(family));
    // Name and labels of a metric, up to what differs from one of its series to the next.
    let mut labels = Vec::new();
    for metric in family.get_metric() {
        labels.clear();
        write_labels(&mut labels, metric.get_label());
        write_metric(text, family, metric, &labels);
    }
}

const HELP: &[u8] = b"# HELP ";

/// The lines that come before those of the series.
pub(crate) fn head(family: &MetricFamily) -> Vec<u8> {
    let mut text = Vec::new();
    let name = family.name().as_bytes();
    if !family.help().is_empty() {
        text.extend_from_slice(HELP);
        text.extend_from_slice(name);
        text.push(b' ');
        escape(&mut text, family.help(), false);
        text.push(b'\n');
    }
    text.extend_from_slice(b"# TYPE ");
    text.extend_from_slice(name);
    text.extend_from_slice(match family.get_field_type() {
        MetricType::COUNTER => b" counter\n",
        MetricType::GAUGE => b" gauge\n",
        MetricType::HISTOGRAM => b" histogram\n",
        MetricType::SUMMARY => b" summary\n",
        MetricType::UNTYPED => b" untyped\n",
    });
    text
}

fn write_metric(text: &mut Vec<u8>, family: &MetricFamily, metric: &Metric, labels: &[u8]) {
    let name = family.name();
    let mut line = |suffix: &str, extra: Option<(&str, f64)>, value: f64| {
        text.extend_from_slice(name.as_bytes());
        text.extend_from_slice(suffix.as_bytes());
        if extra.is_some() || !labels.is_empty() {
            text.push(b'{');
            text.extend_from_slice(labels);
            if let Some((label, bound)) = extra {
                if !labels.is_empty() {
                    text.push(b',');
                }
                text.extend_from_slice(label.as_bytes());
                text.extend_from_slice(b"=\"");
                match bound == f64::INFINITY {
                    true => text.extend_from_slice(b"+Inf"),
                    false => number(text, bound),
                }
                text.push(b'"');
            }
            text.push(b'}');
        }
        text.push(b' ');
        number(text, value);
        if metric.timestamp_ms() != 0 {
            let _ = write!(text, " {}", metric.timestamp_ms());
        }
        text.push(b'\n');
    };
    match family.get_field_type() {
        MetricType::COUNTER => line("", None, counted(metric)),
        MetricType::GAUGE => line("", None, gauged(metric)),
        MetricType::HISTOGRAM => {
            let histogram = metric.get_histogram();
            let count = histogram.get_sample_count() as f64;
            let mut is_whole = false;
            for bucket in histogram.get_bucket() {
                let bound = bucket.upper_bound();
                is_whole |= bound == f64::INFINITY;
                let count = bucket.cumulative_count() as f64;
                line("_bucket", Some(("le", bound)), count);
            }
            if !is_whole {
                line("_bucket", Some(("le", f64::INFINITY)), count);
            }
            line("_sum", None, histogram.get_sample_sum());
            line("_count", None, count);
        }
        MetricType::SUMMARY => {
            let summary = metric.get_summary();
            for quantile in summary.get_quantile() {
                line(
                    "",
                    Some(("quantile", quantile.quantile())),
                    quantile.value(),
                );
            }
            line("_sum", None, summary.sample_sum());
            line("_count", None, summary.sample_count() as f64);
        }
        // No metric of the crate is.
        MetricType::UNTYPED => {}
    }
}

fn write_labels(text: &mut Vec<u8>, labels: &[LabelPair]) {
    for (place, label) in labels.iter().enumerate() {
        if place > 0 {
            text.push(b',');
        }
        text.extend_from_slice(label.name().as_bytes());
        text.extend_from_slice(b"=\"");
        escape(text, label.value(), true);
        text.push(b'"');
    }
}

/// Most values are whole, and the formatting that finds the shortest digits of a fraction takes ten times as long.
fn number(text: &mut Vec<u8>, value: f64) {
    // Up to here a fraction has nothing to say, and 0 has a sign.
    const WHOLE: f64 = 1e15;
    let whole = value as i64;
    let is_whole = whole as f64 == value && value.abs() < WHOLE;
    match is_whole && value.is_sign_positive() {
        true => text.extend_from_slice(itoa::Buffer::new().format(whole).as_bytes()),
        false => drop(write!(text, "{value}")),
    }
}

fn escape(text: &mut Vec<u8>, value: &str, quotes: bool) {
    let is_special = |byte: &u8| *byte == b'\\' || *byte == b'\n' || (quotes && *byte == b'"');
    let mut rest = value.as_bytes();
    while let Some(at) = rest.iter().position(is_special) {
        text.extend_from_slice(&rest[..at]);
        text.extend_from_slice(match rest[at] {
            b'\\' => b"\\\\",
            b'\n' => b"\\n",
            _ => b"\\\"",
        });
        rest = &rest[at + 1..];
    }
    text.extend_from_slice(rest);
}

#[cfg(test)]
mod tests;
