//! Metrics as Prometheus' text format has them (version 0.0.4).
//!
//! What `prometheus::TextEncoder` writes, byte by byte, for half of what that costs: it builds a string for each
//! number, formats whole ones as fractions, and writes the labels of a histogram anew for each bucket.

use std::fmt::Write;

use prometheus::proto::{LabelPair, Metric, MetricFamily, MetricType};

/// A family and series take about as many bytes: a text that does not move as it grows.
const FAMILY: usize = 200;
const SERIES: usize = 100;

/// The text of all families.
pub(super) fn text(families: &[MetricFamily]) -> String {
    let series = |family: &MetricFamily| -> usize {
        let of_metric = |metric: &Metric| match family.get_field_type() {
            MetricType::HISTOGRAM => metric.get_histogram().get_bucket().len() + 3,
            MetricType::SUMMARY => metric.get_summary().get_quantile().len() + 2,
            _ => 1,
        };
        family.get_metric().iter().map(of_metric).sum()
    };
    let all: usize = families.iter().map(series).sum();
    let mut text = String::with_capacity(families.len() * FAMILY + all * SERIES);
    // Name and labels of a metric, up to what differs from one of its series to the next.
    let mut labels = String::new();
    for family in families {
        head(&mut text, family);
        for metric in family.get_metric() {
            labels.clear();
            write_labels(&mut labels, metric.get_label());
            write_metric(&mut text, family, metric, &labels);
        }
    }
    text
}

fn head(text: &mut String, family: &MetricFamily) {
    let name = family.name();
    if !family.help().is_empty() {
        text.push_str("# HELP ");
        text.push_str(name);
        *text += " ";
        escape(text, family.help(), false);
        *text += "\n";
    }
    text.push_str("# TYPE ");
    text.push_str(name);
    text.push_str(match family.get_field_type() {
        MetricType::COUNTER => " counter\n",
        MetricType::GAUGE => " gauge\n",
        MetricType::HISTOGRAM => " histogram\n",
        MetricType::SUMMARY => " summary\n",
        MetricType::UNTYPED => " untyped\n",
    });
}

fn write_metric(text: &mut String, family: &MetricFamily, metric: &Metric, labels: &str) {
    let name = family.name();
    let mut line = |suffix: &str, extra: Option<(&str, f64)>, value: f64| {
        text.push_str(name);
        text.push_str(suffix);
        if extra.is_some() || !labels.is_empty() {
            *text += "{";
            text.push_str(labels);
            if let Some((label, bound)) = extra {
                if !labels.is_empty() {
                    *text += ",";
                }
                text.push_str(label);
                text.push_str("=\"");
                match bound == f64::INFINITY {
                    true => text.push_str("+Inf"),
                    false => number(text, bound),
                }
                *text += "\"";
            }
            *text += "}";
        }
        *text += " ";
        number(text, value);
        if metric.timestamp_ms() != 0 {
            let _ = write!(text, " {}", metric.timestamp_ms());
        }
        *text += "\n";
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

fn write_labels(text: &mut String, labels: &[LabelPair]) {
    for (place, label) in labels.iter().enumerate() {
        if place > 0 {
            *text += ",";
        }
        text.push_str(label.name());
        text.push_str("=\"");
        escape(text, label.value(), true);
        *text += "\"";
    }
}

/// Most values are whole, and the formatting that finds the shortest digits of a fraction takes ten times as long.
fn number(text: &mut String, value: f64) {
    // Up to here a fraction has nothing to say, and 0 has a sign.
    const WHOLE: f64 = 1e15;
    let whole = value as i64;
    let is_whole = whole as f64 == value && value.abs() < WHOLE;
    match is_whole && value.is_sign_positive() {
        true => digits(text, whole.unsigned_abs()),
        false => drop(write!(text, "{value}")),
    }
}

fn digits(text: &mut String, mut number: u64) {
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
    text.push_str(std::str::from_utf8(&all[first..]).unwrap_or_default());
}

fn escape(text: &mut String, value: &str, quotes: bool) {
    let is_special = |byte: u8| byte == b'\\' || byte == b'\n' || (quotes && byte == b'"');
    let mut rest = value;
    while let Some(at) = rest.bytes().position(is_special) {
        text.push_str(&rest[..at]);
        text.push_str(match rest.as_bytes()[at] {
            b'\\' => "\\\\",
            b'\n' => "\\n",
            _ => "\\\"",
        });
        rest = &rest[at + 1..];
    }
    text.push_str(rest);
}

#[cfg(test)]
mod tests {
    use prometheus::{
        Counter, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, Opts, Registry,
        TextEncoder,
    };

    fn assert_same(registry: &Registry) {
        let families = registry.gather();
        let expected = TextEncoder::new().encode_to_string(&families);
        assert_eq!(super::text(&families), expected.expect("it encodes"));
    }

    #[test]
    fn it_is_what_the_crate_writes() {
        let registry = Registry::new();
        assert_same(&registry);
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
            registry.register(Box::new(Gauge::new("g", "g").expect("a metric"))),
        ];
        assert!(all.into_iter().all(|result| result.is_ok()));
        assert_same(&registry);
    }
}
