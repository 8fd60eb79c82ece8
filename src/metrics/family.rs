//! What our own metrics are made of: numbers that are counted by an atomic, and families of them by label.
//!
//! A [`Family`] is a collector of the `prometheus` crate, so that whoever gathers a registry finds it there. For
//! `/metrics` it prints itself: all text but the numbers is made once, with the series. To gather copies each name,
//! label and number of a scrape, which takes four times what all the rest of the scrape does.
//!
//! Not by that crate's own counters, each of which holds name and help text of its family, too.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, PoisonError, RwLock};

use prometheus::core::{Collector, Desc};
use prometheus::proto::{Bucket, Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType};
use prometheus::{Registry, Result};

use super::exposition::{self, Form};

/// A number that only grows. Clones are the same one.
#[derive(Clone, Debug, Default)]
pub struct IntCounter(Arc<AtomicU64>);

impl IntCounter {
    pub fn inc(&self) {
        self.inc_by(1);
    }

    pub fn inc_by(&self, n: u64) {
        self.0.fetch_add(n, Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A number that goes up and down. Clones are the same one.
#[derive(Clone, Debug, Default)]
pub struct IntGauge(Arc<AtomicI64>);

impl IntGauge {
    pub fn inc(&self) {
        self.0.fetch_add(1, Relaxed);
    }

    pub fn dec(&self) {
        self.0.fetch_sub(1, Relaxed);
    }

    pub fn set(&self, n: i64) {
        self.0.store(n, Relaxed);
    }

    pub fn get(&self) -> i64 {
        self.0.load(Relaxed)
    }
}

/// How often values were at most each of some bounds, and their sum. Clones are the same one.
///
/// What is read while others observe is a moment's count, and a sum that may be ahead of it by what they observe.
#[derive(Clone, Debug)]
pub struct Histogram(Arc<Observed>);

#[derive(Debug)]
struct Observed {
    bounds: &'static [f64],
    /// By the first bound that a value is not above, and a last one for those above all.
    counts: Box<[AtomicU64]>,
    /// The bits of a fraction.
    sum: AtomicU64,
}

impl Histogram {
    pub fn observe(&self, value: f64) {
        let Observed {
            bounds,
            counts,
            sum,
        } = &*self.0;
        let add = |sum: u64| Some((f64::from_bits(sum) + value).to_bits());
        let _ = sum.fetch_update(Relaxed, Relaxed, add);
        let place = bounds.iter().position(|bound| value <= *bound);
        counts[place.unwrap_or(bounds.len())].fetch_add(1, Relaxed);
    }

    /// How many values are at most each bound, and at last how many there are.
    fn cumulative(&self) -> impl Iterator<Item = u64> {
        self.0.counts.iter().scan(0, |sum, count| {
            *sum += count.load(Relaxed);
            Some(*sum)
        })
    }

    #[cfg(test)]
    pub fn count(&self) -> u64 {
        self.cumulative().last().unwrap_or_default()
    }

    pub fn sum(&self) -> f64 {
        f64::from_bits(self.0.sum.load(Relaxed))
    }
}

/// What a series of a family is.
pub trait Value: Clone + Send + Sync + 'static {
    const KIND: MetricType;

    /// At 0; a histogram has these bounds.
    fn new(bounds: &'static [f64]) -> Self;

    /// Its numbers, in the order in which the text has them.
    fn numbers(&self, each: impl FnMut(f64));

    /// The same for who gathers.
    fn metric(&self) -> Metric;
}

impl Value for IntCounter {
    const KIND: MetricType = MetricType::COUNTER;

    fn new(_: &'static [f64]) -> Self {
        Self::default()
    }

    fn numbers(&self, mut each: impl FnMut(f64)) {
        each(self.get() as f64);
    }

    fn metric(&self) -> Metric {
        let (mut metric, mut counter) = (Metric::default(), Counter::default());
        counter.set_value(self.get() as f64);
        metric.set_counter(counter);
        metric
    }
}

impl Value for IntGauge {
    const KIND: MetricType = MetricType::GAUGE;

    fn new(_: &'static [f64]) -> Self {
        Self::default()
    }

    fn numbers(&self, mut each: impl FnMut(f64)) {
        each(self.get() as f64);
    }

    fn metric(&self) -> Metric {
        let (mut metric, mut gauge) = (Metric::default(), Gauge::default());
        gauge.set_value(self.get() as f64);
        metric.set_gauge(gauge);
        metric
    }
}

impl Value for Histogram {
    const KIND: MetricType = MetricType::HISTOGRAM;

    fn new(bounds: &'static [f64]) -> Self {
        Self(Arc::new(Observed {
            bounds,
            counts: (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect(),
            sum: AtomicU64::new(0.0_f64.to_bits()),
        }))
    }

    fn numbers(&self, mut each: impl FnMut(f64)) {
        let mut all = 0.0;
        self.cumulative().for_each(|count| {
            all = count as f64;
            each(all);
        });
        each(self.sum());
        each(all);
    }

    fn metric(&self) -> Metric {
        let counts: Vec<u64> = self.cumulative().collect();
        let bounds = self.0.bounds.iter().zip(&counts);
        let buckets = bounds.map(|(bound, count)| {
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(*bound);
            bucket.set_cumulative_count(*count);
            bucket
        });
        let mut histogram = prometheus::proto::Histogram::default();
        histogram.set_bucket(buckets.collect());
        histogram.set_sample_count(counts.last().copied().unwrap_or_default());
        histogram.set_sample_sum(self.sum());
        let mut metric = Metric::default();
        metric.set_histogram(histogram);
        metric
    }
}

/// The series of one name. Clones share them.
#[derive(Clone, Debug)]
pub struct Family<V> {
    shared: Arc<Shared<V>>,
}

#[derive(Debug)]
struct Shared<V> {
    desc: Desc,
    /// Of its text.
    head: Box<str>,
    /// The places of the labels' values among those that [`Family::with`] is given, in the order of their names.
    order: Vec<usize>,
    bounds: &'static [f64],
    /// Sorted by the values of the labels.
    series: RwLock<Vec<Series<V>>>,
}

#[derive(Debug)]
struct Series<V> {
    labels: Box<[Box<str>]>,
    form: Form,
    value: V,
}

impl<V: Value> Family<V> {
    /// A family without a series.
    pub fn new(name: &str, help: &str, labels: &[&str]) -> Result<Self> {
        Self::with_bounds(name, help, labels, &[])
    }

    /// The same for histograms, whose bounds are sorted.
    pub fn with_bounds(
        name: &str,
        help: &str,
        labels: &[&str],
        bounds: &'static [f64],
    ) -> Result<Self> {
        let names = labels.iter().map(|label| (*label).to_owned()).collect();
        let mut order: Vec<usize> = (0..labels.len()).collect();
        order.sort_by_key(|place| labels[*place]);
        let desc = Desc::new(name.into(), help.into(), names, Default::default())?;
        let mut head = String::new();
        exposition::write_head(&mut head, &family::<V>(&desc, Vec::new()));
        let shared = Shared {
            desc,
            head: head.into(),
            order,
            bounds,
            series: RwLock::default(),
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// The same in a registry.
    pub fn register(self, registry: &Registry) -> Result<Self> {
        registry.register(Box::new(self.clone()))?;
        Ok(self)
    }

    /// The series with these labels, made at 0 where it is new. There must be one for each name.
    pub fn with(&self, labels: &[&str]) -> V {
        let Shared { order, bounds, .. } = &*self.shared;
        let labels: Box<[Box<str>]> = order.iter().map(|place| labels[*place].into()).collect();
        // Nothing that can panic leaves it half-changed.
        let series = self.shared.series.write();
        let mut series = series.unwrap_or_else(PoisonError::into_inner);
        match series.binary_search_by(|one| one.labels.cmp(&labels)) {
            Ok(place) => series[place].value.clone(),
            Err(place) => {
                let value = V::new(bounds);
                let one = self.metric(&labels, &value);
                let form = Form::of(&family::<V>(&self.shared.desc, vec![one]));
                let one = Series {
                    labels,
                    form,
                    value: value.clone(),
                };
                series.insert(place, one);
                value
            }
        }
    }

    fn metric(&self, labels: &[Box<str>], value: &V) -> Metric {
        let Shared { desc, order, .. } = &*self.shared;
        let pairs = order.iter().zip(labels).map(|(place, value)| {
            let mut pair = LabelPair::default();
            pair.set_name(desc.variable_labels[*place].clone());
            pair.set_value(value.to_string());
            pair
        });
        let mut metric = value.metric();
        metric.set_label(pairs.collect());
        metric
    }
}

fn family<V: Value>(desc: &Desc, metrics: Vec<Metric>) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(desc.fq_name.clone());
    family.set_help(desc.help.clone());
    family.set_field_type(V::KIND);
    family.set_metric(metrics);
    family
}

impl<V: Value> Collector for Family<V> {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.shared.desc]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let Shared {
            desc, head, series, ..
        } = &*self.shared;
        let series = series.read().unwrap_or_else(PoisonError::into_inner);
        if series.is_empty() {
            return Vec::new();
        }
        let printed = exposition::print(&desc.fq_name, |text| {
            text.push_str(head);
            for one in &*series {
                one.value.numbers(one.form.numbers(text));
            }
        });
        vec![printed.unwrap_or_else(|| {
            let all = series
                .iter()
                .map(|one| self.metric(&one.labels, &one.value));
            family::<V>(desc, all.collect())
        })]
    }
}
