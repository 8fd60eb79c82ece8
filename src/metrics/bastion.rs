//! The metrics of shared connections to bastions, by cluster.

use prometheus::{Registry, Result};

use super::{Family, Histogram, IntCounter, IntGauge, Refusal};

/// Why there is no shared connection: the label `reason` of `tbot_ssh_bastion_connect_failures_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Down {
    /// The bastion's name could not be resolved.
    Name,
    /// Nothing listens on its port.
    Refused,
    /// It cannot be reached.
    Unreachable,
    /// It did not answer in time.
    Timeout,
    /// It refused the login.
    Auth,
    /// Its host key is not the one that is known.
    HostKey,
    /// It, or `ssh`, ended the connection.
    Lost,
    /// Something is wrong on this machine, such as a missing `ssh`.
    Local,
}

impl Down {
    const ALL: [(Self, &'static str); 8] = [
        (Self::Name, "name"),
        (Self::Refused, "refused"),
        (Self::Unreachable, "unreachable"),
        (Self::Timeout, "timeout"),
        (Self::Auth, "auth"),
        (Self::HostKey, "host_key"),
        (Self::Lost, "lost"),
        (Self::Local, "local"),
    ];

    /// What a client that waited for the connection is refused for.
    pub fn refusal(self) -> Refusal {
        match self {
            Self::Auth => Refusal::Auth,
            Self::HostKey => Refusal::HostKey,
            Self::Local => Refusal::Local,
            _ => Refusal::BastionDown,
        }
    }
}

/// What a target may be refused for by way of a bastion.
const OPEN_FAILURES: [Refusal; 11] = [
    Refusal::Name,
    Refusal::Refused,
    Refusal::Unreachable,
    Refusal::Timeout,
    Refusal::Prohibited,
    Refusal::BastionDown,
    Refusal::Auth,
    Refusal::HostKey,
    Refusal::Limit,
    Refusal::Gone,
    Refusal::Local,
];

/// The families, without a cluster yet.
#[derive(Clone, Debug)]
pub struct BastionMetrics {
    masters: Family<IntGauge>,
    streams: Family<IntGauge>,
    opens: Family<IntCounter>,
    open_failures: Family<IntCounter>,
    open_time: Family<Histogram>,
    connect_failures: Family<IntCounter>,
    reconnects: Family<IntCounter>,
    handshake: Family<Histogram>,
    bytes: Family<IntCounter>,
}

/// The metrics of one cluster.
#[derive(Clone, Debug)]
pub struct ClusterMetrics {
    /// Connections that are being made, that take streams, and that take no more.
    pub starting: IntGauge,
    /// See `starting`.
    pub ready: IntGauge,
    /// See `starting`.
    pub retiring: IntGauge,
    /// Streams that are open or being opened.
    pub streams: IntGauge,
    /// Streams that were opened.
    pub opens: IntCounter,
    /// Seconds from asking for a stream to its target's answer.
    pub open_time: Histogram,
    /// Attempts at a connection after one that failed or was lost.
    pub reconnects: IntCounter,
    /// Seconds from the first look-up to a connection that takes streams.
    pub handshake: Histogram,
    /// Encrypted bytes to the bastion.
    pub sent: IntCounter,
    /// Encrypted bytes from it.
    pub received: IntCounter,
    open_failures: [IntCounter; OPEN_FAILURES.len()],
    connect_failures: [IntCounter; Down::ALL.len()],
}

impl BastionMetrics {
    /// Creates and registers the families.
    pub fn register(registry: &Registry) -> Result<Self> {
        let gauge = |name, help, labels: &[&str]| {
            Family::<IntGauge>::new(name, help, labels)?.register(registry)
        };
        let counter = |name, help, labels: &[&str]| {
            Family::<IntCounter>::new(name, help, labels)?.register(registry)
        };
        let histogram = |name, help| {
            // From a bastion in the next rack to a time-out.
            const BOUNDS: &[f64] = &[
                0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
            ];
            let family = Family::<Histogram>::with_bounds(name, help, &["cluster"], BOUNDS);
            family?.register(registry)
        };
        Ok(Self {
            masters: gauge(
                "tbot_ssh_bastion_masters",
                "Shared connections to the bastion, by state.",
                &["cluster", "state"],
            )?,
            streams: gauge(
                "tbot_ssh_bastion_streams",
                "Streams of shared connections that are open or being opened.",
                &["cluster"],
            )?,
            opens: counter(
                "tbot_ssh_bastion_opens_total",
                "Streams of shared connections opened.",
                &["cluster"],
            )?,
            open_failures: counter(
                "tbot_ssh_bastion_open_failures_total",
                "Streams of shared connections that were not opened, by reason.",
                &["cluster", "reason"],
            )?,
            open_time: histogram(
                "tbot_ssh_bastion_open_duration_seconds",
                "Time from asking a shared connection for a stream to the target's answer.",
            )?,
            connect_failures: counter(
                "tbot_ssh_bastion_connect_failures_total",
                "Shared connections that could not be made or were lost, by reason.",
                &["cluster", "reason"],
            )?,
            reconnects: counter(
                "tbot_ssh_bastion_reconnects_total",
                "Attempts at a shared connection after one that failed or was lost.",
                &["cluster"],
            )?,
            handshake: histogram(
                "tbot_ssh_bastion_handshake_duration_seconds",
                "Time from the look-up of the bastion to a shared connection that takes streams.",
            )?,
            bytes: counter(
                "tbot_ssh_bastion_link_bytes_total",
                "Encrypted bytes of shared connections, by direction.",
                &["cluster", "direction"],
            )?,
        })
    }

    /// The handles of one cluster, all at 0 where it is new.
    pub fn cluster(&self, name: &str) -> ClusterMetrics {
        let one = &[name];
        let state = |state| self.masters.with(&[name, state]);
        let bytes = |direction| self.bytes.with(&[name, direction]);
        ClusterMetrics {
            starting: state("starting"),
            ready: state("ready"),
            retiring: state("retiring"),
            streams: self.streams.with(one),
            opens: self.opens.with(one),
            open_time: self.open_time.with(one),
            reconnects: self.reconnects.with(one),
            handshake: self.handshake.with(one),
            sent: bytes("sent"),
            received: bytes("received"),
            open_failures: OPEN_FAILURES
                .map(|reason| self.open_failures.with(&[name, reason.label()])),
            connect_failures: Down::ALL
                .map(|(_, label)| self.connect_failures.with(&[name, label])),
        }
    }
}

impl ClusterMetrics {
    /// The counter of connections that failed for `reason`.
    pub fn connect_failed(&self, reason: Down) -> &IntCounter {
        &self.connect_failures[reason as usize]
    }

    /// Counts a stream that was not opened.
    pub fn open_failed(&self, reason: Refusal) {
        if let Some(place) = OPEN_FAILURES.iter().position(|known| *known == reason) {
            self.open_failures[place].inc();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_failure_counts_under_its_own_label() {
        for (place, (reason, _)) in Down::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, place);
        }
    }
}
