//! That the text is what the crate would write.

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
    let changes: [(bool, Change); 6] = [
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
        (true, |mut families| {
            families[0].set_help("Elsewhere.".into());
            families
        }),
        // It looks at what it has gathered by the crate's encoder.
        (true, |families| {
            let text = TextEncoder::new().encode_to_string(&families);
            assert!(text.is_ok_and(|text| text.contains("inner{a=\"1\"} 7")));
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
