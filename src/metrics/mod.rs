//! Every metric of the program, in one place.
//!
//! Handles are looked up once, here: counting is an atomic addition, without a lock or a label
//! look-up (a look-up costs six times the addition). What must be there with 0 is created at start.
//! Registering fails only where the registry holds a metric of the same name already. What they are made of is in
//! `family`, and how they become text in `exposition`.

#[cfg(feature = "multiplexer")]
pub(crate) mod bastion;
mod diagnostics;
mod exposition;
mod family;
#[cfg(feature = "multiplexer")]
mod multiplexer;
mod number;
#[cfg(feature = "cli")]
mod program;
mod services;

#[cfg(feature = "cli")]
use prometheus::{Registry, Result};

pub use self::diagnostics::DiagnosticsMetrics;
pub(crate) use self::diagnostics::{PathMetrics, Unserved};
pub(crate) use self::exposition::{Exposition, Form, head, print};
pub(crate) use self::family::{Family, Histogram, IntCounter, IntGauge};
#[cfg(feature = "multiplexer")]
pub use self::multiplexer::MultiplexerMetrics;
#[cfg(feature = "multiplexer")]
pub(crate) use self::multiplexer::Refusal;
pub(crate) use self::number::{counted, gauged};
#[cfg(feature = "cli")]
pub(crate) use self::program::{AllocatorMetrics, LogMetrics, NetworkMetrics};
#[cfg(feature = "cli")]
pub(crate) use self::services::IdentityMetrics;
pub use self::services::{TaskMetrics, TaskMetricsFamily, register_service_status};

/// Adds `tbot_build_info`, a constant 1 whose labels say what is running.
#[cfg(feature = "cli")]
pub(crate) fn register_build_info(registry: &Registry) -> Result<()> {
    let labels = ["version", "commit", "rustc", "target"];
    let info = Family::<IntGauge>::new(
        "tbot_build_info",
        "What this program was built from; always 1.",
        &labels,
    )?;
    info.register(registry)?
        .with(&[
            env!("CARGO_PKG_VERSION"),
            env!("TBOT_COMMIT"),
            env!("TBOT_RUSTC"),
            env!("TBOT_TARGET"),
        ])
        .set(1);
    Ok(())
}
