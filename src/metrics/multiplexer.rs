//! What the multiplexers do.

use prometheus::{Registry, Result};

use super::bastion::BastionMetrics;
use super::{Family, Histogram, IntCounter, IntGauge};

/// Why the multiplexer ended a request before any byte was relayed: the label `reason` of
/// `tbot_ssh_multiplexer_requests_refused_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Refusal {
    /// The peer belongs to a user who is not allowed.
    Peer,
    /// The connection limit is reached.
    Limit,
    /// The client went away before its request was answered.
    Gone,
    /// The request did not come in time.
    Slow,
    /// The request is not one of the v1 protocol.
    Malformed,
    /// The cluster is not one this multiplexer knows.
    Cluster,
    /// The target's name could not be resolved.
    Name,
    /// The target refused the connection.
    Refused,
    /// The target's network or host cannot be reached.
    Unreachable,
    /// The target did not answer in time.
    Timeout,
    /// This machine or process is out of something (descriptors, memory, ports), or it is stopping.
    Local,
    /// The bastion does not forward to the target.
    Prohibited,
    /// There is no connection to the bastion.
    BastionDown,
    /// The bastion refused the login.
    Auth,
    /// The bastion's host key is not the one that is known.
    HostKey,
}

impl Refusal {
    const ALL: [(Self, &'static str); 15] = [
        (Self::Peer, "peer"),
        (Self::Limit, "limit"),
        (Self::Gone, "gone"),
        (Self::Slow, "slow"),
        (Self::Malformed, "malformed"),
        (Self::Cluster, "cluster"),
        (Self::Name, "name"),
        (Self::Refused, "refused"),
        (Self::Unreachable, "unreachable"),
        (Self::Timeout, "timeout"),
        (Self::Local, "local"),
        (Self::Prohibited, "prohibited"),
        (Self::BastionDown, "bastion_down"),
        (Self::Auth, "auth"),
        (Self::HostKey, "host_key"),
    ];

    pub(crate) fn label(self) -> &'static str {
        Self::ALL[self as usize].1
    }
}

/// The metrics of the multiplexers of a program; several multiplexers count together.
#[derive(Clone, Debug)]
pub struct MultiplexerMetrics {
    /// Connections accepted.
    pub(crate) started: IntCounter,
    /// Connections that ended as they should.
    pub(crate) handled_ok: IntCounter,
    /// Connections that were refused or broke.
    pub(crate) handled_error: IntCounter,
    /// Connections between accept and end.
    pub(crate) in_flight: IntGauge,
    /// Seconds from the complete request to the connected target.
    pub(crate) setup: Histogram,
    /// Bytes from clients to targets.
    pub(crate) sent: IntCounter,
    /// Bytes from targets to clients.
    pub(crate) received: IntCounter,
    /// Of shared connections to bastions.
    pub(crate) bastions: BastionMetrics,
    refused: [IntCounter; Refusal::ALL.len()],
}

impl MultiplexerMetrics {
    /// Creates and registers all of them, at 0.
    ///
    /// # Errors
    ///
    /// Where the registry has one of them already.
    pub fn register(registry: &Registry) -> Result<Self> {
        let counter = |name, help, labels: &[&str]| {
            Family::<IntCounter>::new(name, help, labels)?.register(registry)
        };
        let handled = counter(
            "tbot_ssh_multiplexer_requests_handled_total",
            "SSH connections finished.",
            &["status"],
        )?;
        let refused = counter(
            "tbot_ssh_multiplexer_requests_refused_total",
            "SSH connections that ended before any byte was relayed, by reason.",
            &["reason"],
        )?;
        let bytes = counter(
            "tbot_ssh_multiplexer_relayed_bytes_total",
            "Bytes relayed: sent to targets, received from targets.",
            &["direction"],
        )?;
        let started = counter(
            "tbot_ssh_multiplexer_requests_started_total",
            "SSH connections started.",
            &[],
        )?;
        let in_flight = Family::<IntGauge>::new(
            "tbot_ssh_multiplexer_requests_in_flight",
            "SSH connections in progress now.",
            &[],
        )?;
        let setup = Family::<Histogram>::with_bounds(
            "tbot_ssh_multiplexer_setup_duration_seconds",
            "Time from the complete request to the connected target.",
            &[],
            // From a target on this machine to the 10 s of the default time-out.
            &[
                0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5,
                1.0, 2.5, 5.0, 10.0,
            ],
        )?;
        Ok(Self {
            started: started.with(&[]),
            handled_ok: handled.with(&["OK"]),
            handled_error: handled.with(&["ERROR"]),
            in_flight: in_flight.register(registry)?.with(&[]),
            setup: setup.register(registry)?.with(&[]),
            sent: bytes.with(&["sent"]),
            received: bytes.with(&["received"]),
            bastions: BastionMetrics::register(registry)?,
            refused: Refusal::ALL.map(|(_, label)| refused.with(&[label])),
        })
    }

    /// The counter of requests refused for `reason`.
    pub(crate) fn refused(&self, reason: Refusal) -> &IntCounter {
        &self.refused[reason as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_counts_under_its_own_label() {
        for (place, (reason, _)) in Refusal::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, place);
        }
    }

    #[test]
    fn everything_is_there_with_0_from_the_start() {
        let registry = Registry::new();
        MultiplexerMetrics::register(&registry).expect("the registry is empty");
        let text = prometheus::TextEncoder::new()
            .encode_to_string(&registry.gather())
            .expect("encodes");
        for line in [
            "tbot_ssh_multiplexer_requests_started_total 0",
            "tbot_ssh_multiplexer_requests_handled_total{status=\"OK\"} 0",
            "tbot_ssh_multiplexer_requests_handled_total{status=\"ERROR\"} 0",
            "tbot_ssh_multiplexer_requests_in_flight 0",
            "tbot_ssh_multiplexer_requests_refused_total{reason=\"timeout\"} 0",
            "tbot_ssh_multiplexer_relayed_bytes_total{direction=\"sent\"} 0",
        ] {
            assert!(
                text.lines().any(|l| l == line),
                "no line {line:?} in\n{text}"
            );
        }
    }
}
