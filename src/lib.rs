//! An SSH multiplexer that shows its own health, and the diagnostics service to embed in any
//! program that does not run an async runtime.
//!
//! To embed it, depend on it with `default-features = false` and begin with [`diagnostics`], which has an
//! example and serves health, readiness, metrics and profiles over HTTP. [`readyz`] is how services say
//! how they are, [`metrics`] has what can be counted, and [`task`] repeats work and reports on it. With the
//! feature `multiplexer` there is `multiplexer`, too.
//!
//! [`prometheus`], [`tiny_http`] and, with `identity`, `ssh_key` are here in the versions whose types this
//! crate's functions take and return. Times are `std::time`'s, sizes are bytes. No public function panics, whatever it is given.
//!
//! | Cargo feature | What it adds |
//! |---|---|
//! | `gzip` | Answers compressed for clients that ask for it |
//! | `pprof` | Profiles and stacks of the process, below `/debug/pprof/`; includes `gzip` |
//! | `lines` | Files and lines in profiles, for a program with debug information; includes `pprof` |
//! | `heap` | Heap profiles: the whole program allocates by jemalloc; includes `pprof` |
//! | `identity` | Keys and certificates that renew, and the agent that serves them |
//! | `multiplexer` | The SSH multiplexer as a library |
//! | `cli` | The program `tbot`: arguments, configuration, logs, signals; includes `gzip`, `identity` and `multiplexer` |
//!
//! `cli`, `lines`, `multiplexer` and `pprof` are on by default. What the library logs goes to `tracing`.
//!
//! What is not in this documentation is no part of the public API, such as the modules of `cli`.

// Here and not for the whole package: tests are no library.
#![warn(
    missing_debug_implementations,
    clippy::missing_errors_doc,
    clippy::missing_panics_doc
)]

#[cfg(feature = "cli")]
mod bot;
#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod cli;
// For the tests: the configuration is an interface as a file, not as a library.
#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod config;
pub mod diagnostics;
mod errors;
#[cfg(all(feature = "cli", feature = "pprof", any(fuzzing, test)))]
#[doc(hidden)]
pub mod fuzzing;
#[cfg(feature = "multiplexer")]
mod harmful;
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
mod sys;
pub mod task;

pub use prometheus;
#[cfg(feature = "identity")]
pub use ssh_key;
pub use tiny_http;
