//! The diagnostics service as its clients see it, over raw sockets, and as programs embed it.

#![allow(missing_docs, reason = "these are tests")]

/// The part of what the tests share that needs no program of ours.
#[path = "../common"]
#[allow(dead_code, reason = "these tests use a part of it")]
mod common {
    pub mod http;
    pub mod process;
    pub mod server;
    pub mod wait;
}

mod abuse;
mod client;
mod compression;
mod embedding;
mod endpoints;
mod examples;
mod front_page;
mod lifetime;
mod long;
mod metered;
mod requests;
