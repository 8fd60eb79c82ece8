//! What the program holds, and what it says.

use prometheus::{Registry, Result};

use super::{Family, IntCounter, IntGauge};

/// `tbot_allocator_bytes`: what the allocator holds from the system, by `state`. It is glibc's, which a Rust
/// program uses unless it names another, or jemalloc with the feature `heap`.
///
/// `used` are bytes in use on its heaps, `free` those kept there for reuse, `mapped` large blocks that
/// are mapped one by one.
#[derive(Clone, Debug)]
pub(crate) struct AllocatorMetrics {
    used: IntGauge,
    free: IntGauge,
    mapped: IntGauge,
}

impl AllocatorMetrics {
    /// Creates and registers them, as things are now; `None` for an allocator that does not tell.
    pub(crate) fn register(registry: &Registry) -> Result<Option<Self>> {
        if crate::sys::allocated().is_none() {
            return Ok(None);
        }
        let family = Family::<IntGauge>::new(
            "tbot_allocator_bytes",
            "Bytes that the allocator holds from the system, by state.",
            &["state"],
        )?;
        let family = family.register(registry)?;
        let state = |state| family.with(&[state]);
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
    pub(crate) fn renew(&self) {
        if let Some(allocated) = crate::sys::allocated() {
            self.used.set(allocated.used as i64);
            self.free.set(allocated.free as i64);
            self.mapped.set(allocated.mapped as i64);
        }
    }
}

/// What went over the network, as Go's client counts it for a process: all of its network namespace.
#[derive(Clone, Debug)]
pub(crate) struct NetworkMetrics {
    received: IntCounter,
    sent: IntCounter,
}

impl NetworkMetrics {
    /// Creates and registers them, as things are now; `None` where the kernel does not tell.
    pub(crate) fn register(registry: &Registry) -> Result<Option<Self>> {
        if crate::diagnostics::network_bytes().is_none() {
            return Ok(None);
        }
        let counter = |name, help| {
            let family = Family::<IntCounter>::new(name, help, &[])?;
            family.register(registry).map(|family| family.with(&[]))
        };
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
#[derive(Clone, Debug)]
pub(crate) struct LogMetrics {
    /// Lines that could not be written and were thrown away.
    pub(crate) dropped: IntCounter,
    messages: [IntCounter; 4],
}

impl LogMetrics {
    /// Creates and registers all of them, at 0.
    pub(crate) fn register(registry: &Registry) -> Result<Self> {
        let counter = |name, help, labels: &[&str]| {
            Family::<IntCounter>::new(name, help, labels)?.register(registry)
        };
        let messages = counter(
            "tbot_log_messages_total",
            "Messages logged, by level; those dropped are among them.",
            &["level"],
        )?;
        let dropped = counter(
            "tbot_log_lines_dropped_total",
            "Log lines dropped, as stderr took none.",
            &[],
        )?;
        Ok(Self {
            dropped: dropped.with(&[]),
            messages: ["error", "warn", "info", "debug"].map(|level| messages.with(&[level])),
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
