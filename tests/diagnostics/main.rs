//! The diagnostics service as its clients see it, over raw sockets.

#![allow(missing_docs, reason = "these are tests")]

mod abuse;
mod client;
mod compression;
mod endpoints;
mod front_page;
mod lifetime;
mod long;
mod metered;
mod requests;
