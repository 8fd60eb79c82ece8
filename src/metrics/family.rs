//! What our own metrics are made of: numbers that are counted by an atomic, and families of them by label.
//!
//! A [`Family`] is a collector of the `prometheus` crate, so that whoever gathers a registry finds it there. For
//! `/metrics` it prints itself (see `exposition`): all text but the numbers is made once, with the series.
//!
//! Not by that crate's own counters, each of which holds name and help text of its family, too.

use std::cmp::Ordering;
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

    fn gathered(&self) -> prometheus::proto::Histogram {
        let counts: Vec<u64> = self.cumulative().collect();
        let buckets = self.0.bounds.iter().zip(&counts).map(|(bound, count)| {
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(*bound);
            bucket.set_cumulative_count(*count);
            bucket
        });
        let mut histogram = prometheus::proto::Histogram::default();
        histogram.set_bucket(buckets.collect());
        histogram.set_sample_count(counts.last().copied().unwrap_or_default());
        histogram.set_sample_sum(self.sum());
        histogram
    }

    #[cfg(test)]
    pub fn count(&self) -> u64 {
        self.cumulative().last().unwrap_or_default()
    }

    pub fn sum(&self) -> f64 {
        f64::from_bits(self.0.sum.load(Relaxed))
    }
}

/// What a [`Family`] can be of.
pub trait Kind: Clone + Send + Sync + 'static {
    const KIND: MetricType;

    /// At 0; a histogram has these bounds.
    fn new(bounds: &'static [f64]) -> Self;

    /// Its numbers, in the order in which the text has them.
    fn numbers(&self, each: &mut impl FnMut(f64));

    /// The same for who gathers.
    fn metric(&self) -> Metric;
}

impl Kind for IntCounter {
    const KIND: MetricType = MetricType::COUNTER;

    fn new(_: &'static [f64]) -> Self {
        Self::default()
    }

    fn numbers(&self, each: &mut impl FnMut(f64)) {
        each(self.get() as f64);
    }

    fn metric(&self) -> Metric {
        let mut number = Counter::default();
        number.set_value(self.get() as f64);
        let mut metric = Metric::default();
        metric.set_counter(number);
        metric
    }
}

impl Kind for IntGauge {
    const KIND: MetricType = MetricType::GAUGE;

    fn new(_: &'static [f64]) -> Self {
        Self::default()
    }

    fn numbers(&self, each: &mut impl FnMut(f64)) {
        each(self.get() as f64);
    }

    fn metric(&self) -> Metric {
        let mut number = Gauge::default();
        number.set_value(self.get() as f64);
        let mut metric = Metric::default();
        metric.set_gauge(number);
        metric
    }
}

impl Kind for Histogram {
    const KIND: MetricType = MetricType::HISTOGRAM;

    fn new(bounds: &'static [f64]) -> Self {
        Self(Arc::new(Observed {
            bounds,
            counts: (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect(),
            sum: AtomicU64::new(0.0_f64.to_bits()),
        }))
    }

    fn numbers(&self, each: &mut impl FnMut(f64)) {
        let mut all = 0.0;
        for count in self.cumulative() {
            all = count as f64;
            each(all);
        }
        each(self.sum());
        each(all);
    }

    fn metric(&self) -> Metric {
        let mut metric = Metric::default();
        metric.set_histogram(self.gathered());
        metric
    }
}

/// The series of one name. Clones share them.
#[derive(Clone, Debug)]
pub struct Family<K> {
    shared: Arc<Shared<K>>,
}

#[derive(Debug)]
struct Shared<K> {
    desc: Desc,
    /// What comes before the series in the text.
    head: Vec<u8>,
    /// The places of the labels' values among those that [`Family::with`] is given, in the order of their names.
    order: Vec<usize>,
    bounds: &'static [f64],
    /// Sorted by the values of the labels.
    series: RwLock<Vec<Series<K>>>,
}

#[derive(Debug)]
struct Series<K> {
    labels: Box<[Box<str>]>,
    form: Form,
    value: K,
}

impl<K: Kind> Family<K> {
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
        let shared = Shared::new(name, help, labels, bounds).map(Arc::new)?;
        Ok(Self { shared })
    }

    /// The same in a registry.
    pub fn register(self, registry: &Registry) -> Result<Self> {
        registry.register(Box::new(Shown(self.shared.clone())))?;
        Ok(self)
    }

    /// The series with these labels, of which there is one for each name; made at 0 where it is new.
    pub fn with(&self, labels: &[&str]) -> K {
        self.shared.with(labels)
    }

    pub fn desc(&self) -> Vec<&Desc> {
        vec![&self.shared.desc]
    }

    /// As a [`Collector`] does.
    pub fn collect(&self) -> Vec<MetricFamily> {
        self.shared.collect()
    }
}

/// A family as its registry has it.
struct Shown<K>(Arc<Shared<K>>);

impl<K: Kind> Collector for Shown<K> {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.0.desc]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.0.collect()
    }
}

impl<K: Kind> Shared<K> {
    fn new(name: &str, help: &str, labels: &[&str], bounds: &'static [f64]) -> Result<Self> {
        let names = labels.iter().map(|label| (*label).to_owned()).collect();
        let mut order: Vec<usize> = (0..labels.len()).collect();
        order.sort_unstable_by_key(|place| labels[*place]);
        let mut shared = Self {
            desc: Desc::new(name.into(), help.into(), names, Default::default())?,
            head: Vec::new(),
            order,
            bounds,
            series: RwLock::default(),
        };
        shared.head = exposition::head(&shared.family(Vec::new()));
        Ok(shared)
    }

    fn with(&self, labels: &[&str]) -> K {
        // Nothing that can panic leaves it half-changed.
        let series = self.series.write();
        let mut series = series.unwrap_or_else(PoisonError::into_inner);
        let known = |one: &Series<K>| {
            let pairs = one.labels.iter().zip(&self.order);
            let mut orders = pairs.map(|(known, place)| (**known).cmp(labels[*place]));
            orders
                .find(|order| order.is_ne())
                .unwrap_or(Ordering::Equal)
        };
        let place = match series.binary_search_by(known) {
            Ok(place) => place,
            Err(place) => {
                let labels = self.order.iter().map(|place| labels[*place].into());
                let labels: Box<[Box<str>]> = labels.collect();
                let value = K::new(self.bounds);
                let one = self.metric(&labels, &value);
                let form = Form::of(&self.family(vec![one]));
                let one = Series {
                    labels,
                    form,
                    value,
                };
                series.insert(place, one);
                place
            }
        };
        series[place].value.clone()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let series = self.series.read().unwrap_or_else(PoisonError::into_inner);
        if series.is_empty() {
            return Vec::new();
        }
        let printed = exposition::print(&self.desc.fq_name, |text| {
            text.extend_from_slice(&self.head);
            for one in &*series {
                one.value.numbers(&mut one.form.numbers(text));
            }
        });
        vec![printed.unwrap_or_else(|| {
            let all = series
                .iter()
                .map(|one| self.metric(&one.labels, &one.value));
            self.family(all.collect())
        })]
    }

    fn metric(&self, labels: &[Box<str>], value: &K) -> Metric {
        let pairs = self.order.iter().zip(labels).map(|(place, value)| {
            let mut pair = LabelPair::default();
            pair.set_name(self.desc.variable_labels[*place].clone());
            pair.set_value(value.to_string());
            pair
        });
        let mut metric = value.metric();
        metric.set_label(pairs.collect());
        metric
    }

    fn family(&self, metrics: Vec<Metric>) -> MetricFamily {
        let mut family = MetricFamily::default();
        family.set_name(self.desc.fq_name.clone());
        family.set_help(self.desc.help.clone());
        family.set_field_type(K::KIND);
        family.set_metric(metrics);
        family
    }
}
