//! From a target to a connected stream, or to a refusal that says why.
//!
//! There are two ways: the target is dialled from here ([`direct`]), after its name was looked up
//! ([`resolver`]); or it is a stream of a shared connection to a bastion ([`openssh`]).

pub mod direct;
pub mod openssh;
pub mod resolver;

use crate::metrics::Refusal;

/// Why there is no stream: for the metrics, and one sentence for the user and the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The label it counts under.
    pub reason: Refusal,
    /// What happened, without the target's name.
    pub message: String,
}

impl Failure {
    /// A refusal for `reason`.
    pub fn new(reason: Refusal, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { reason, message }
    }
}
