//! An SSH multiplexer that shows its own health, and the diagnostics service to embed in any
//! program that does not run an async runtime.

#[cfg(feature = "cli")]
pub mod bot;
#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod cli;
#[cfg(feature = "cli")]
pub mod config;
pub mod diagnostics;
pub mod metrics;
pub mod readyz;
#[cfg(feature = "multiplexer")]
pub mod multiplexer;
#[cfg(feature = "multiplexer")]
mod sys;
