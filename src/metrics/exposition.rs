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
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use prometheus::Registry;
use prometheus::proto::{LabelPair, Metric, MetricFamily, MetricType};

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
            let (families, printed) = Printed::while_(length, || self.registry.gather());
            if let Some(text) = printed.among(&families) {
                // Numbers become longer.
                self.length.store(text.len() + 256, Ordering::Relaxed);
                return text;
            }
            self.in_full.store(true, Ordering::Relaxed);
        }
        let mut text = Vec::new();
        for family in self.registry.gather() {
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
        (named.starts_with(b" ") && metric.get_label().is_empty()).then_some(text)
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
        MetricType::COUNTER => line("", None, metric.get_counter().get_value()),
        MetricType::GAUGE => line("", None, metric.get_gauge().get_value()),
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
        true if whole < 10 => text.push(b'0' + whole as u8),
        true => digits(text, whole.unsigned_abs()),
        false => drop(write!(text, "{value}")),
    }
}

fn digits(text: &mut Vec<u8>, mut number: u64) {
    // As many as the largest has.
    let mut all = [b'0'; 20];
    let mut first = all.len() - 1;
    loop {
        all[first] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
        first -= 1;
    }
    text.extend_from_slice(&all[first..]);
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
mod tests {
    use std::collections::HashMap;

    use prometheus::core::{Collector, Desc};
    use prometheus::{
        Counter, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, Opts, TextEncoder,
    };

    use super::*;
    use crate::metrics::{DiagnosticsMetrics, Family, IntGauge};

    /// Numbers of the process are other ones a moment later.
    fn without_process<'t>(text: &'t str) -> Vec<&'t str> {
        let line = |line: &'t str| match line {
            _ if line.trim_start_matches("my_").starts_with("process_") => {
                line.split(' ').next().unwrap_or(line)
            }
            _ => line,
        };
        text.split('\n').map(line).collect()
    }

    fn assert_same(registry: &Registry) -> Exposition {
        let exposition = Exposition::of(registry.clone());
        let expected = TextEncoder::new().encode_to_string(&registry.gather());
        let expected = expected.expect("it encodes");
        for _ in 0..2 {
            let text = String::from_utf8(exposition.text()).expect("it is text");
            assert_eq!(without_process(&text), without_process(&expected));
        }
        exposition
    }

    fn in_full(exposition: &Exposition) -> bool {
        exposition.in_full.load(Ordering::Relaxed)
    }

    /// Metrics of the crate's own types, as a program that embeds the service has them.
    fn foreign(registry: &Registry) {
        let values = [
            0.0,
            -0.0,
            1.0,
            -17.0,
            0.1,
            1e-7,
            999_999_999_999_999.0,
            1e15,
            1e21,
            9_007_199_254_740_993.0,
            f64::INFINITY,
            f64::NEG_INFINITY,
            f64::NAN,
            f64::MIN_POSITIVE,
            f64::MAX,
        ];
        let opts = Opts::new("some", "a \\ and \"quotes\"\nand a line");
        let some = GaugeVec::new(opts, &["n", "text"]).expect("a metric");
        for (n, value) in values.into_iter().enumerate() {
            let text = ["", "a\\b", "\"", "\n", "größer"][n % 5];
            let one = some.with_label_values(&[&n.to_string(), &text.to_owned()]);
            one.set(value);
        }
        let histogram = |name: &str| HistogramOpts::new(name, "h").buckets(vec![0.001, 0.5, 2.0]);
        let plain = Histogram::with_opts(histogram("plain_seconds")).expect("a metric");
        plain.observe(0.1);
        let by_path = HistogramVec::new(histogram("by_path_seconds"), &["path"]).expect("a metric");
        by_path.with_label_values(&["/a"]).observe(7.0);
        by_path.with_label_values(&["/b"]).observe(0.0001);
        let all = [
            registry.register(Box::new(some)),
            registry.register(Box::new(plain)),
            registry.register(Box::new(by_path)),
            registry.register(Box::new(Counter::new("c_total", "c").expect("a metric"))),
            registry.register(Box::new(Gauge::new("z", "last").expect("a metric"))),
        ];
        assert!(all.into_iter().all(|result| result.is_ok()));
    }

    /// Everything that the program has, counted.
    fn ours(registry: &Registry) -> Result<(), prometheus::Error> {
        registry.register(Box::new(crate::diagnostics::ProcessCollector::new()))?;
        let diagnostics = DiagnosticsMetrics::register(registry)?;
        diagnostics.accepted.inc_by(u64::MAX);
        let path = diagnostics.path("/\"a\\\n b\r\n");
        for took in [0.0, 0.0001, 0.5, 1e9, f64::NAN] {
            path.duration.observe(took);
            path.answered(418);
        }
        let services = crate::readyz::Registry::new();
        services.register("b").unhealthy("no route");
        services.register("a").healthy();
        crate::metrics::register_service_status(registry, services)?;
        let tasks = crate::metrics::TaskMetricsFamily::register(registry)?;
        let task = tasks.task("z", "a");
        tasks.task("a", "z").duration.observe(0.175);
        task.failed.inc();
        task.successful.observe(2.0);
        #[cfg(feature = "multiplexer")]
        {
            let metrics = crate::metrics::MultiplexerMetrics::register(registry)?;
            metrics.in_flight.dec();
            metrics.setup.observe(0.3);
            let cluster = metrics.bastions.cluster("prod");
            cluster.open_time.observe(3.0);
            cluster.sent.inc_by(1 << 60);
        }
        #[cfg(feature = "cli")]
        {
            crate::metrics::register_build_info(registry)?;
            crate::metrics::AllocatorMetrics::register(registry)?;
            crate::metrics::LogMetrics::register(registry)?
                .dropped
                .inc();
            let identity = crate::metrics::IdentityMetrics::register(registry)?;
            identity.add("i", crate::readyz::Validity::new("certificate"));
        }
        Ok(())
    }

    #[test]
    fn it_is_what_the_crate_writes() {
        let registry = Registry::new();
        assert_same(&registry);
        foreign(&registry);
        assert_same(&registry);
        ours(&registry).expect("other names");
        let exposition = assert_same(&registry);
        assert!(!in_full(&exposition), "ours came back as they were given");
        // Who gathers for himself finds all of it.
        let names = registry.gather();
        assert!(
            names
                .iter()
                .any(|family| family.name() == "tbot_diag_http_requests_total")
        );
    }

    #[test]
    fn what_a_registry_adds_to_all_is_there() {
        let labels = HashMap::from([("site".to_owned(), "a\"b".to_owned())]);
        for (prefix, labels) in [
            (Some("my".to_owned()), None),
            (None, Some(labels.clone())),
            (Some("my".to_owned()), Some(labels)),
        ] {
            let registry = Registry::new_custom(prefix, labels).expect("well-formed");
            ours(&registry).expect("it is empty");
            foreign(&registry);
            assert!(in_full(&assert_same(&registry)));
        }
    }

    type Change = fn(Vec<MetricFamily>) -> Vec<MetricFamily>;

    /// Gathers another registry, and changes what that has.
    struct Changed(Registry, Desc, Change);

    impl Collector for Changed {
        fn desc(&self) -> Vec<&Desc> {
            vec![&self.1]
        }

        fn collect(&self) -> Vec<MetricFamily> {
            self.2(self.0.gather())
        }
    }

    #[test]
    fn a_collector_that_gathers_another_registry_has_what_that_has() {
        let changes: [(bool, Change); 4] = [
            (false, |families| families),
            (true, |_| Vec::new()),
            (true, |mut families| {
                families[0].set_name("renamed".into());
                families
            }),
            (true, |mut families| {
                families.truncate(1);
                let mut sum = families[0].clone();
                sum.set_name("summed".into());
                families.push(sum);
                families
            }),
        ];
        for (changed, change) in changes {
            let inner = Registry::new();
            let gauge = Family::<IntGauge>::new("inner", "Inside.", &["a"]).expect("a family");
            let gauge = gauge.register(&inner).expect("it is empty");
            gauge.with(&["1"]).set(7);
            gauge.with(&["0"]).set(-7);
            let desc = Desc::new("d".into(), "d".into(), Vec::new(), HashMap::new());
            let outer = Registry::new();
            let collector = Changed(inner, desc.expect("well-formed"), change);
            outer.register(Box::new(collector)).expect("it is empty");
            ours(&outer).expect("other names");
            assert_eq!(in_full(&assert_same(&outer)), changed);
        }
    }

    #[test]
    fn a_collector_that_panics_spoils_no_other_gathering() {
        let (broken, registry) = (Registry::new(), Registry::new());
        ours(&broken).expect("it is empty");
        ours(&registry).expect("it is empty");
        let desc = Desc::new("d".into(), "d".into(), Vec::new(), HashMap::new());
        let collector = Changed(Registry::new(), desc.expect("well-formed"), |_| panic!());
        broken.register(Box::new(collector)).expect("another name");
        let text = || Exposition::of(broken.clone()).text();
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(text)).is_err());
        let gathered = registry.gather();
        assert!(
            gathered
                .iter()
                .all(|one| one.get_field_type() != MetricType::UNTYPED)
        );
        assert_same(&registry);
    }
}
