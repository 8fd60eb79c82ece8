//! How services, their tasks and their certificates are.

use prometheus::core::Collector;
use prometheus::{Registry, Result};

use super::{Family, Histogram, IntCounter, IntGauge};
use crate::readyz::{self, Status};

/// Adds `tbot_service_status` with the labels `service` and `status`: 1 for the status each service has
/// at a scrape, as `/readyz` would show it, and 0 for the others.
///
/// # Errors
///
/// Where the registry has it already.
pub fn register_service_status(registry: &Registry, services: readyz::Registry) -> Result<()> {
    let status = Family::new(
        "tbot_service_status",
        "1 for the status that a service has, 0 for the others.",
        &["service", "status"],
    )?;
    registry.register(Box::new(ServiceStatus { services, status }))
}

struct ServiceStatus {
    services: readyz::Registry,
    status: Family<IntGauge>,
}

impl Collector for ServiceStatus {
    fn desc(&self) -> Vec<&prometheus::core::Desc> {
        self.status.desc()
    }

    fn collect(&self) -> Vec<prometheus::proto::MetricFamily> {
        for (name, service) in self.services.overall().services {
            for (status, label) in [
                (Status::Initializing, "initializing"),
                (Status::Healthy, "healthy"),
                (Status::Unhealthy, "unhealthy"),
            ] {
                let gauge = self.status.with(&[&*name, label]);
                gauge.set((service.status == status).into());
            }
        }
        self.status.collect()
    }
}

/// The metrics of one task of one service.
#[derive(Clone, Debug)]
pub struct TaskMetrics {
    /// Iterations, not counting retries.
    pub(crate) iterations: IntCounter,
    /// Iterations that succeeded, by the number of retries they took.
    pub(crate) successful: Histogram,
    /// Iterations that failed with their last retry.
    ///
    /// A gauge that only grows: its established name has no `_total`, which the text format's own
    /// checker (`promtool check metrics`) demands of a counter. Queries see no difference.
    pub(crate) failed: IntGauge,
    /// Seconds one iteration took with its retries.
    pub(crate) duration: Histogram,
}

/// The task metrics of a program, by `service` and `name`.
#[derive(Clone, Debug)]
pub struct TaskMetricsFamily {
    iterations: Family<IntCounter>,
    successful: Family<Histogram>,
    failed: Family<IntGauge>,
    duration: Family<Histogram>,
}

impl TaskMetricsFamily {
    /// Creates and registers the four families, without a task yet.
    ///
    /// # Errors
    ///
    /// Where the registry has one of them already.
    pub fn register(registry: &Registry) -> Result<Self> {
        const LABELS: &[&str] = &["service", "name"];
        let histogram = |name, help, bounds| {
            let family = Family::<Histogram>::with_bounds(name, help, LABELS, bounds);
            family?.register(registry)
        };
        let iterations = Family::new(
            "tbot_task_iterations_total",
            "Task iterations, not counting retries.",
            LABELS,
        )?;
        let failed = Family::new(
            "tbot_task_iterations_failed",
            "Task iterations that ultimately failed.",
            LABELS,
        )?;
        Ok(Self {
            iterations: iterations.register(registry)?,
            successful: histogram(
                "tbot_task_iterations_successful",
                "Task iterations that succeeded, by the number of retries they took.",
                &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0],
            )?,
            failed: failed.register(registry)?,
            duration: histogram(
                "tbot_task_iteration_duration_seconds",
                "Time of one task iteration with its retries.",
                // Each 1.75 times the one before.
                &[
                    0.1,
                    0.17500000000000002,
                    0.30625,
                    0.5359375000000001,
                    0.9378906250000001,
                    1.6413085937500003,
                ],
            )?,
        })
    }

    /// The handles of one task.
    pub fn task(&self, service: &str, name: &str) -> TaskMetrics {
        let labels = &[service, name];
        TaskMetrics {
            iterations: self.iterations.with(labels),
            successful: self.successful.with(labels),
            failed: self.failed.with(labels),
            duration: self.duration.with(labels),
        }
    }
}

/// Until when the credentials of identities are valid, and whether they are, as of each scrape.
#[cfg(feature = "cli")]
#[derive(Clone, Debug)]
pub(crate) struct IdentityMetrics {
    validities: std::sync::Arc<std::sync::RwLock<Vec<(String, crate::readyz::Validity)>>>,
    expiry: Family<IntGauge>,
    valid: Family<IntGauge>,
}

#[cfg(feature = "cli")]
impl IdentityMetrics {
    /// Creates and registers them, without an identity yet.
    pub(crate) fn register(registry: &Registry) -> Result<Self> {
        let family = |name, help| Family::new(name, help, &["service"]);
        let metrics = Self {
            validities: std::sync::Arc::default(),
            expiry: family(
                "tbot_identity_certificate_expiry_timestamp_seconds",
                "End of the certificate's validity since unix epoch; 0 before the first one.",
            )?,
            valid: family(
                "tbot_identity_certificate_valid",
                "Whether the certificate is valid now, 1 or 0.",
            )?,
        };
        registry.register(Box::new(metrics.clone()))?;
        Ok(metrics)
    }

    /// From now on this one is shown, too.
    pub(crate) fn add(&self, service: &str, validity: crate::readyz::Validity) {
        // Nothing panics while it is held.
        let list = self.validities.write();
        let mut list = list.unwrap_or_else(std::sync::PoisonError::into_inner);
        list.push((service.to_owned(), validity));
    }
}

#[cfg(feature = "cli")]
impl Collector for IdentityMetrics {
    fn desc(&self) -> Vec<&prometheus::core::Desc> {
        [self.expiry.desc(), self.valid.desc()].concat()
    }

    fn collect(&self) -> Vec<prometheus::proto::MetricFamily> {
        let now = std::time::SystemTime::now();
        let list = self.validities.read();
        for (service, validity) in &*list.unwrap_or_else(std::sync::PoisonError::into_inner) {
            let end = i64::try_from(validity.end()).unwrap_or(i64::MAX);
            self.expiry.with(&[service]).set(end);
            let valid = validity.problem(now).is_none();
            self.valid.with(&[service]).set(valid.into());
        }
        [self.expiry.collect(), self.valid.collect()].concat()
    }
}
