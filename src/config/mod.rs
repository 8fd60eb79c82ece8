//! The settings of one run, and how a configuration file becomes them.
//!
//! YAML and everything that knows of it stays in this room. What the command line and the
//! environment say is laid over the file's tree before it is read ([`Overrides`]), so that both go
//! through one reader and its one set of rules. A [`Settings`] that exists is valid.
//!
//! The way of a file: [`Source`] (bounded text with a name) → `yaml` (tree of [`Node`]s) → `cursor`
//! (typed reading, errors with line and key) → `schema`, `service`, `cluster`, `template`, `destination`, `address`.

mod address;
mod cluster;
mod cursor;
mod destination;
mod duration;
mod error;
pub(crate) mod foreign;
mod host_keys;
mod levels;
mod nearest;
mod node;
mod onboarding;
mod print;
mod schema;
mod service;
mod settings;
mod source;
mod ssh_options;
mod template;
mod yaml;

pub use duration::show_duration;
pub use error::Error;
pub use levels::LogLevels;
pub use node::{Node, Origin, Value};
pub use schema::{Overrides, load};
pub use settings::{
    Bastion, Cluster, HostPort, IdentityOutput, LogFormat, Service, ServiceKind, Settings,
    SshMultiplexer,
};
pub use source::Source;

pub(crate) use address::server_from_flag;
pub(crate) use destination::directory_from_flag;
pub(crate) use duration::duration_from_flag;
pub(crate) use nearest::{did_you_mean, quoted};
pub(crate) use print::entry;

/// What one run is to do, with what the operator should be told about it.
pub type Loaded = (Settings, Vec<String>);
