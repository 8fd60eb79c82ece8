//! Every metric of the program, in one place.
//!
//! Handles are looked up once, here: counting is an atomic addition, without a lock or a label
//! look-up (a look-up costs six times the addition). What must be there with 0 is created at start.
//! Registering fails only where the registry holds a metric of the same name already.

#[cfg(feature = "multiplexer")]
pub(crate) mod bastion;

use std::sync::{Arc, OnceLock};

use prometheus::core::Collector;
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, Result, exponential_buckets,
};

use crate::readyz::{self, Status};

/// Adds `tbot_build_info`, a constant 1 whose labels say what is running.
pub fn register_build_info(registry: &Registry) -> Result<()> {
    let opts = Opts::new(
        "tbot_build_info",
        "What this program was built from; always 1.",
    );
    let info = add(
        registry,
        IntGaugeVec::new(opts, &["version", "commit", "rustc", "target"]),
    )?;
    info.with_label_values(&[
        env!("CARGO_PKG_VERSION"),
        env!("TBOT_COMMIT"),
        env!("TBOT_RUSTC"),
        env!("TBOT_TARGET"),
    ])
    .set(1);
    Ok(())
}

/// Adds `tbot_service_status` with the labels `service` and `status`: 1 for the status each service has
/// at a scrape, as `/readyz` would show it, and 0 for the others.
pub fn register_service_status(registry: &Registry, services: readyz::Registry) -> Result<()> {
    let opts = Opts::new(
        "tbot_service_status",
        "1 for the status that a service has, 0 for the others.",
    );
    let status = IntGaugeVec::new(opts, &["service", "status"])?;
    registry.register(Box::new(ServiceStatus { services, status }))
}

struct ServiceStatus {
    services: readyz::Registry,
    status: IntGaugeVec,
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
                let gauge = self.status.with_label_values(&[&*name, label]);
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
    pub iterations: IntCounter,
    /// Iterations that succeeded, by the number of retries they took.
    pub successful: Histogram,
    /// Iterations that failed with their last retry.
    ///
    /// A gauge that only grows: its established name has no `_total`, which the text format's own
    /// checker (`promtool check metrics`) demands of a counter. Queries see no difference.
    pub failed: IntGauge,
    /// Seconds one iteration took with its retries.
    pub duration: Histogram,
}

/// The task metrics of a program, by `service` and `name`.
#[derive(Clone, Debug)]
pub struct TaskMetricsFamily {
    iterations: IntCounterVec,
    successful: HistogramVec,
    failed: IntGaugeVec,
    duration: HistogramVec,
}

impl TaskMetricsFamily {
    /// Creates and registers the four families, without a task yet.
    pub fn register(registry: &Registry) -> Result<Self> {
        const LABELS: &[&str] = &["service", "name"];
        let counter = |name: &str, help: &str| IntCounterVec::new(Opts::new(name, help), LABELS);
        let histogram = |name: &str, help: &str, buckets: Vec<f64>| {
            HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets), LABELS)
        };
        let seconds = exponential_buckets(0.1, 1.75, 6)?;
        Ok(Self {
            iterations: add(
                registry,
                counter(
                    "tbot_task_iterations_total",
                    "Task iterations, not counting retries.",
                ),
            )?,
            successful: add(
                registry,
                histogram(
                    "tbot_task_iterations_successful",
                    "Task iterations that succeeded, by the number of retries they took.",
                    vec![0.0, 1.0, 2.0, 3.0, 4.0, 5.0],
                ),
            )?,
            failed: add(
                registry,
                IntGaugeVec::new(
                    Opts::new(
                        "tbot_task_iterations_failed",
                        "Task iterations that ultimately failed.",
                    ),
                    LABELS,
                ),
            )?,
            duration: add(
                registry,
                histogram(
                    "tbot_task_iteration_duration_seconds",
                    "Time of one task iteration with its retries.",
                    seconds,
                ),
            )?,
        })
    }

    /// The handles of one task.
    pub fn task(&self, service: &str, name: &str) -> TaskMetrics {
        let labels = &[service, name];
        TaskMetrics {
            iterations: self.iterations.with_label_values(labels),
            successful: self.successful.with_label_values(labels),
            failed: self.failed.with_label_values(labels),
            duration: self.duration.with_label_values(labels),
        }
    }
}

/// Why the multiplexer ended a request before any byte was relayed: the label `reason` of
/// `tbot_ssh_multiplexer_requests_refused_total`.
#[cfg(feature = "multiplexer")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refusal {
    /// The peer belongs to a user who is not allowed.
    Peer,
    /// The connection limit is reached.
    Limit,
    /// The client went away before its request was answered.
    Gone,
    /// The request did not come in time.
    Slow,
    /// The request is not one of the v1 protocol.
    Malformed,
    /// The cluster is not one this multiplexer knows.
    Cluster,
    /// The target's name could not be resolved.
    Name,
    /// The target refused the connection.
    Refused,
    /// The target's network or host cannot be reached.
    Unreachable,
    /// The target did not answer in time.
    Timeout,
    /// This machine or process is out of something (descriptors, memory, ports), or it is stopping.
    Local,
    /// The bastion does not forward to the target.
    Prohibited,
    /// There is no connection to the bastion.
    BastionDown,
    /// The bastion refused the login.
    Auth,
    /// The bastion's host key is not the one that is known.
    HostKey,
}

#[cfg(feature = "multiplexer")]
impl Refusal {
    const ALL: [(Self, &'static str); 15] = [
        (Self::Peer, "peer"),
        (Self::Limit, "limit"),
        (Self::Gone, "gone"),
        (Self::Slow, "slow"),
        (Self::Malformed, "malformed"),
        (Self::Cluster, "cluster"),
        (Self::Name, "name"),
        (Self::Refused, "refused"),
        (Self::Unreachable, "unreachable"),
        (Self::Timeout, "timeout"),
        (Self::Local, "local"),
        (Self::Prohibited, "prohibited"),
        (Self::BastionDown, "bastion_down"),
        (Self::Auth, "auth"),
        (Self::HostKey, "host_key"),
    ];

    fn label(self) -> &'static str {
        Self::ALL[self as usize].1
    }
}

/// The metrics of the multiplexers of a program; several multiplexers count together.
#[cfg(feature = "multiplexer")]
#[derive(Clone, Debug)]
pub struct MultiplexerMetrics {
    /// Connections accepted.
    pub started: IntCounter,
    /// Connections that ended as they should.
    pub handled_ok: IntCounter,
    /// Connections that were refused or broke.
    pub handled_error: IntCounter,
    /// Connections between accept and end.
    pub in_flight: IntGauge,
    /// Seconds from the complete request to the connected target.
    pub setup: Histogram,
    /// Bytes from clients to targets.
    pub sent: IntCounter,
    /// Bytes from targets to clients.
    pub received: IntCounter,
    /// Of shared connections to bastions.
    pub(crate) bastions: bastion::BastionMetrics,
    refused: [IntCounter; Refusal::ALL.len()],
}

#[cfg(feature = "multiplexer")]
impl MultiplexerMetrics {
    /// Creates and registers all of them, at 0.
    pub fn register(registry: &Registry) -> Result<Self> {
        let handled = add(
            registry,
            IntCounterVec::new(
                Opts::new(
                    "tbot_ssh_multiplexer_requests_handled_total",
                    "SSH connections finished.",
                ),
                &["status"],
            ),
        )?;
        let refused = add(
            registry,
            IntCounterVec::new(
                Opts::new(
                    "tbot_ssh_multiplexer_requests_refused_total",
                    "SSH connections that ended before any byte was relayed, by reason.",
                ),
                &["reason"],
            ),
        )?;
        let bytes = add(
            registry,
            IntCounterVec::new(
                Opts::new(
                    "tbot_ssh_multiplexer_relayed_bytes_total",
                    "Bytes relayed: sent to targets, received from targets.",
                ),
                &["direction"],
            ),
        )?;
        let setup = HistogramOpts::new(
            "tbot_ssh_multiplexer_setup_duration_seconds",
            "Time from the complete request to the connected target.",
        )
        // From a target on this machine to the 10 s of the default time-out.
        .buckets(vec![
            0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0,
            2.5, 5.0, 10.0,
        ]);
        Ok(Self {
            started: add(
                registry,
                IntCounter::new(
                    "tbot_ssh_multiplexer_requests_started_total",
                    "SSH connections started.",
                ),
            )?,
            handled_ok: handled.with_label_values(&["OK"]),
            handled_error: handled.with_label_values(&["ERROR"]),
            in_flight: add(
                registry,
                IntGauge::new(
                    "tbot_ssh_multiplexer_requests_in_flight",
                    "SSH connections in progress now.",
                ),
            )?,
            setup: add(registry, Histogram::with_opts(setup))?,
            sent: bytes.with_label_values(&["sent"]),
            received: bytes.with_label_values(&["received"]),
            bastions: bastion::BastionMetrics::register(registry)?,
            refused: Refusal::ALL.map(|(_, label)| refused.with_label_values(&[label])),
        })
    }

    /// The counter of requests refused for `reason`.
    pub fn refused(&self, reason: Refusal) -> &IntCounter {
        &self.refused[reason as usize]
    }
}

/// Why the diagnostics service did not serve a client: the label `reason` of
/// `tbot_diag_refused_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unserved {
    /// The request has a body.
    Body,
    /// Too many long requests are being answered already.
    Busy,
    /// Its connection was closed to make room for another one.
    Evicted,
    /// The request's head is too large, or has too many headers.
    Large,
    /// This machine or process is out of something (descriptors, memory, threads).
    Local,
    /// It is no HTTP request, or one that breaks the rules.
    Malformed,
    /// The method is not one that the path allows.
    Method,
    /// The request's head was not complete in time.
    Slow,
    /// The client did not take its answer in time.
    Unread,
    /// Another version of HTTP.
    Version,
}

impl Unserved {
    const ALL: [(Self, &'static str); 10] = [
        (Self::Body, "body"),
        (Self::Busy, "busy"),
        (Self::Evicted, "evicted"),
        (Self::Large, "large"),
        (Self::Local, "local"),
        (Self::Malformed, "malformed"),
        (Self::Method, "method"),
        (Self::Slow, "slow"),
        (Self::Unread, "unread"),
        (Self::Version, "version"),
    ];
}

/// The metrics of a diagnostics service; several services count together.
#[derive(Clone, Debug)]
pub struct DiagnosticsMetrics {
    /// Connections accepted.
    pub(crate) accepted: IntCounter,
    /// Connections between accept and end.
    pub(crate) open: IntGauge,
    requests: IntCounterVec,
    duration: HistogramVec,
    refused: [IntCounter; Unserved::ALL.len()],
}

/// The metrics of one path of a diagnostics service.
#[derive(Debug)]
pub(crate) struct PathMetrics {
    /// Seconds from a complete request to its answer.
    pub(crate) duration: Histogram,
    path: Arc<str>,
    requests: IntCounterVec,
    by_code: [OnceLock<IntCounter>; Self::CODES.len()],
}

impl DiagnosticsMetrics {
    /// The label `path` of what no path is known for.
    pub(crate) const OTHER: &str = "other";

    /// Creates and registers all of them, at 0, those of a path when that is first asked for.
    pub fn register(registry: &Registry) -> Result<Self> {
        let refused = add(
            registry,
            IntCounterVec::new(
                Opts::new(
                    "tbot_diag_refused_total",
                    "Requests and connections that the diagnostics service did not serve, by reason.",
                ),
                &["reason"],
            ),
        )?;
        let duration = HistogramOpts::new(
            "tbot_diag_http_request_duration_seconds",
            "Time from a complete request to its answer, before that is sent.",
        )
        // From /livez to a wait or a profile of minutes.
        .buckets(vec![0.0001, 0.001, 0.01, 0.1, 1.0, 10.0, 100.0]);
        Ok(Self {
            accepted: add(
                registry,
                IntCounter::new(
                    "tbot_diag_connections_accepted_total",
                    "Connections to the diagnostics service accepted.",
                ),
            )?,
            open: add(
                registry,
                IntGauge::new(
                    "tbot_diag_connections",
                    "Connections to the diagnostics service open now.",
                ),
            )?,
            requests: add(
                registry,
                IntCounterVec::new(
                    Opts::new(
                        "tbot_diag_http_requests_total",
                        "Requests to the diagnostics service answered, by status code and path.",
                    ),
                    &["code", "path"],
                ),
            )?,
            duration: add(registry, HistogramVec::new(duration, &["path"]))?,
            refused: Unserved::ALL.map(|(_, label)| refused.with_label_values(&[label])),
        })
    }

    /// The counter of clients not served for `reason`.
    pub(crate) fn refused(&self, reason: Unserved) -> &IntCounter {
        &self.refused[reason as usize]
    }

    /// The handles of one path. It becomes a label, so it must not be a client's text.
    pub(crate) fn path(&self, path: &str) -> PathMetrics {
        let metrics = PathMetrics {
            duration: self.duration.with_label_values(&[path]),
            path: path.into(),
            requests: self.requests.clone(),
            by_code: [const { OnceLock::new() }; PathMetrics::CODES.len()],
        };
        let usual = if path == Self::OTHER { 404 } else { 200 };
        metrics.count(usual, 0);
        metrics
    }
}

/// They count, and are shown nowhere.
impl Default for DiagnosticsMetrics {
    fn default() -> Self {
        Self::register(&Registry::new()).expect("the registry is empty")
    }
}

impl PathMetrics {
    /// The status codes with a handle, which are those of the service's own answers.
    const CODES: [u16; 12] = [200, 301, 400, 403, 404, 405, 408, 413, 431, 500, 503, 505];

    /// Counts an answer with this status code.
    pub(crate) fn answered(&self, code: u16) {
        self.count(code, 1);
    }

    fn count(&self, code: u16, n: u64) {
        let find = || {
            self.requests
                .with_label_values(&[&*code.to_string(), &*self.path])
        };
        match Self::CODES.iter().position(|known| *known == code) {
            Some(place) => self.by_code[place].get_or_init(find).inc_by(n),
            // A route of an embedder.
            None => find().inc_by(n),
        }
    }
}

/// `tbot_allocator_bytes`: what the allocator holds from the system, by `state`. It is glibc's, which a Rust
/// program uses unless it names another, or jemalloc with the feature `heap`.
///
/// `used` are bytes in use on its heaps, `free` those kept there for reuse, `mapped` large blocks that
/// are mapped one by one.
#[cfg(feature = "multiplexer")]
#[derive(Clone, Debug)]
pub struct AllocatorMetrics {
    used: IntGauge,
    free: IntGauge,
    mapped: IntGauge,
}

#[cfg(feature = "multiplexer")]
impl AllocatorMetrics {
    /// Creates and registers them, as things are now; `None` for an allocator that does not tell.
    pub fn register(registry: &Registry) -> Result<Option<Self>> {
        if crate::sys::allocated().is_none() {
            return Ok(None);
        }
        let opts = Opts::new(
            "tbot_allocator_bytes",
            "Bytes that the allocator holds from the system, by state.",
        );
        let family = add(registry, IntGaugeVec::new(opts, &["state"]))?;
        let state = |state| family.with_label_values(&[state]);
        let metrics = Self {
            used: state("used"),
            free: state("free"),
            mapped: state("mapped"),
        };
        metrics.renew();
        Ok(Some(metrics))
    }

    /// Looks again. Not part of a scrape, since it may take long: 10 to 30 µs for a hundred free blocks,
    /// but 10 ms for a hundred thousand, and meanwhile one heap after the other is locked.
    pub fn renew(&self) {
        if let Some(allocated) = crate::sys::allocated() {
            self.used.set(allocated.used as i64);
            self.free.set(allocated.free as i64);
            self.mapped.set(allocated.mapped as i64);
        }
    }
}

/// Until when the credentials of identities are valid, and whether they are, as of each scrape.
#[cfg(feature = "cli")]
#[derive(Clone, Debug)]
pub(crate) struct IdentityMetrics {
    validities: Arc<std::sync::RwLock<Vec<(String, crate::readyz::Validity)>>>,
    expiry: IntGaugeVec,
    valid: IntGaugeVec,
}

#[cfg(feature = "cli")]
impl IdentityMetrics {
    /// Creates and registers them, without an identity yet.
    pub(crate) fn register(registry: &Registry) -> Result<Self> {
        let family = |name, help| IntGaugeVec::new(Opts::new(name, help), &["service"]);
        let metrics = Self {
            validities: Arc::default(),
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
            self.expiry.with_label_values(&[service]).set(end);
            let valid = validity.problem(now).is_none();
            self.valid.with_label_values(&[service]).set(valid.into());
        }
        [self.expiry.collect(), self.valid.collect()].concat()
    }
}

/// What went over the network, as Go's client counts it for a process: all of its network namespace.
#[cfg(feature = "cli")]
#[derive(Clone, Debug)]
pub(crate) struct NetworkMetrics {
    received: IntCounter,
    sent: IntCounter,
}

#[cfg(feature = "cli")]
impl NetworkMetrics {
    /// Creates and registers them, as things are now; `None` where the kernel does not tell.
    pub(crate) fn register(registry: &Registry) -> Result<Option<Self>> {
        if crate::diagnostics::network_bytes().is_none() {
            return Ok(None);
        }
        let counter = |name, help| add(registry, IntCounter::new(name, help));
        let metrics = Self {
            received: counter(
                "process_network_receive_bytes_total",
                "Number of bytes received by the process's network namespace.",
            )?,
            sent: counter(
                "process_network_transmit_bytes_total",
                "Number of bytes sent by the process's network namespace.",
            )?,
        };
        metrics.renew();
        Ok(Some(metrics))
    }

    /// Looks again. Not part of a scrape, since it takes 30 µs.
    pub(crate) fn renew(&self) {
        if let Some((received, sent)) = crate::diagnostics::network_bytes() {
            self.received
                .inc_by(received.saturating_sub(self.received.get()));
            self.sent.inc_by(sent.saturating_sub(self.sent.get()));
        }
    }
}

/// The metrics of a program's log.
#[cfg(feature = "cli")]
#[derive(Clone, Debug)]
pub(crate) struct LogMetrics {
    /// Lines that could not be written and were thrown away.
    pub(crate) dropped: IntCounter,
    messages: [IntCounter; 4],
}

#[cfg(feature = "cli")]
impl LogMetrics {
    /// Creates and registers all of them, at 0.
    pub(crate) fn register(registry: &Registry) -> Result<Self> {
        let messages = add(
            registry,
            IntCounterVec::new(
                Opts::new(
                    "tbot_log_messages_total",
                    "Messages logged, by level; those dropped are among them.",
                ),
                &["level"],
            ),
        )?;
        Ok(Self {
            dropped: add(
                registry,
                IntCounter::new(
                    "tbot_log_lines_dropped_total",
                    "Log lines dropped, as stderr took none.",
                ),
            )?,
            messages: ["error", "warn", "info", "debug"]
                .map(|level| messages.with_label_values(&[level])),
        })
    }

    /// The counter of messages of a level; what is finer than debug counts as that.
    pub(crate) fn messages(&self, level: tracing::Level) -> &IntCounter {
        &self.messages[match level {
            tracing::Level::ERROR => 0,
            tracing::Level::WARN => 1,
            tracing::Level::INFO => 2,
            _ => 3,
        }]
    }
}

/// Registers a collector that was just created.
fn add<C: Collector + Clone + 'static>(registry: &Registry, collector: Result<C>) -> Result<C> {
    let collector = collector?;
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}

#[cfg(all(test, feature = "multiplexer"))]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_counts_under_its_own_label() {
        for (place, (reason, _)) in Unserved::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, place);
        }
        for (place, (reason, _)) in Refusal::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, place);
        }
    }

    #[test]
    fn everything_is_there_with_0_from_the_start() {
        let registry = Registry::new();
        MultiplexerMetrics::register(&registry).expect("the registry is empty");
        let text = prometheus::TextEncoder::new()
            .encode_to_string(&registry.gather())
            .expect("encodes");
        for line in [
            "tbot_ssh_multiplexer_requests_started_total 0",
            "tbot_ssh_multiplexer_requests_handled_total{status=\"OK\"} 0",
            "tbot_ssh_multiplexer_requests_handled_total{status=\"ERROR\"} 0",
            "tbot_ssh_multiplexer_requests_in_flight 0",
            "tbot_ssh_multiplexer_requests_refused_total{reason=\"timeout\"} 0",
            "tbot_ssh_multiplexer_relayed_bytes_total{direction=\"sent\"} 0",
        ] {
            assert!(
                text.lines().any(|l| l == line),
                "no line {line:?} in\n{text}"
            );
        }
    }
}
