//! The settings of one run, and how a configuration file becomes them.
//!
//! YAML and everything that knows of it stays in this room. A [`Settings`] that exists is valid.

mod settings;

pub use settings::{LogFormat, Service, ServiceKind, Settings, SshMultiplexer};
