//! An SSH multiplexer that shows its own health, and the diagnostics service to embed in any
//! program that does not run an async runtime: see [`diagnostics`].

#[cfg(feature = "cli")]
pub mod bot;
#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod cli;
#[cfg(feature = "cli")]
pub mod config;
pub mod diagnostics;
mod errors;
#[cfg(feature = "identity")]
pub mod identity;
#[cfg(feature = "cli")]
mod logging;
pub mod metrics;
#[cfg(feature = "multiplexer")]
pub mod multiplexer;
#[cfg(any(feature = "cli", feature = "pprof"))]
mod program;
pub mod readyz;
#[cfg(any(feature = "multiplexer", feature = "pprof"))]
mod sys;
pub mod task;
