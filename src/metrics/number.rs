//! The number of a counter or a gauge that was gathered.
//!
//! The `prometheus` crate has two models of what it gathers, and a crate that takes it with its default features
//! (`protobuf`) chooses the other one for all of a program. That has the number by `value`, ours has it by `get_value`.
//! Either comes before the method of a trait, so that the trait of the one that is missing is as the one that is there.
//! `cargo test --lib --features prometheus/protobuf metrics` shows it; `make test` does not, as that takes a crate that
//! Cargo.lock does not have.

use prometheus::proto::{Counter, Gauge, Metric};

pub(crate) fn counted(metric: &Metric) -> f64 {
    metric.get_counter().value()
}

pub(crate) fn gauged(metric: &Metric) -> f64 {
    metric.get_gauge().value()
}

#[allow(dead_code, reason = "in one of the models")]
trait ByValue {
    fn value(&self) -> f64;
}

#[allow(dead_code, reason = "in the other one")]
trait ByGetValue {
    fn get_value(&self) -> f64;
}

macro_rules! both_ways {
    ($($kind:ty),+) => {$(
        impl ByValue for $kind {
            fn value(&self) -> f64 {
                self.get_value()
            }
        }

        impl ByGetValue for $kind {
            fn get_value(&self) -> f64 {
                self.value()
            }
        }
    )+};
}

both_ways!(Counter, Gauge);
