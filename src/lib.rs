//! An SSH multiplexer that shows its own health, and the diagnostics service to embed in any
//! program that does not run an async runtime.
//!
//! To embed it, depend on it with `default-features = false` and begin with [`diagnostics`], which has an
//! example and serves health, readiness, metrics and profiles over HTTP. [`readyz`] is how services say
//! how they are, [`metrics`] has what can be counted, and [`task`] repeats work and reports on it.
//!
//! | Cargo feature | What it adds |
//! |---|---|
//! | `gzip` | Answers compressed for clients that ask for it |
//! | `pprof` | Profiles and stacks of the process, below `/debug/pprof/`; includes `gzip` |
//! | `heap` | Heap profiles: the whole program allocates by jemalloc; includes `pprof` |
//! | `identity` | Keys and certificates that renew, and the agent that serves them |
//! | `multiplexer` | The SSH multiplexer as a library |
//! | `cli` | The program `tbot`: arguments, configuration, logs, signals; includes `gzip`, `identity` and `multiplexer` |
//!
//! `cli`, `multiplexer` and `pprof` are on by default. What the library logs goes to `tracing`.

#[cfg(feature = "cli")]
pub mod bot;
#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod cli;
#[cfg(feature = "cli")]
pub mod config;
pub mod diagnostics;
mod errors;
#[cfg(all(feature = "cli", feature = "pprof", any(fuzzing, test)))]
#[doc(hidden)]
pub mod fuzzing;
#[cfg(feature = "identity")]
pub mod identity;
#[cfg(feature = "cli")]
mod logging;
pub mod metrics;
#[cfg(feature = "multiplexer")]
pub mod multiplexer;
#[cfg(any(feature = "identity", feature = "multiplexer", feature = "pprof"))]
mod program;
#[cfg(any(feature = "identity", feature = "multiplexer"))]
mod pulse;
pub mod readyz;
#[cfg(any(feature = "identity", feature = "multiplexer", feature = "pprof"))]
mod sys;
pub mod task;
