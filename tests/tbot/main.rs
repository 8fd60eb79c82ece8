//! The real program as its users drive it. In one file for the linker: these tests wait most of the time, and wait
//! together here.
#![cfg(feature = "cli")]

#[path = "../common/mod.rs"]
mod common;

mod agent;
mod agent_limits;
mod api;
mod artifacts;
mod clock;
mod configure;
mod curl;
mod dashboard;
mod dependencies;
mod front_page;
mod full_disk;
mod identity;
mod identity_files;
mod key_files;
mod known_hosts;
mod lifecycle;
mod log;
mod log_form;
mod log_metrics;
mod log_stderr;
mod notify;
mod prometheus;
mod protocol;
mod readiness;
mod readme;
mod relay;
mod renewal;
mod secrets;
mod shells;
mod signing_program;
mod ssh;
mod static_program;
mod systemd;
mod wait;
