//! What the diagnostics service does.

use std::sync::{Arc, OnceLock};

use prometheus::{Registry, Result};

use super::{Family, Histogram, IntCounter, IntGauge};

/// Why the diagnostics service did not serve a client: the label `reason` of
/// `tbot_diag_refused_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unserved {
    /// The request has a body.
    Body,
    /// Too many long requests are being answered already.
    Busy,
    /// Its connection was closed to make room for another one.
    Evicted,
    /// The request's head is too large, or has too many headers.
    Large,
    /// This machine or process is out of something (descriptors, memory, threads).
    Local,
    /// It is no HTTP request, or one that breaks the rules.
    Malformed,
    /// The method is not one that the path allows.
    Method,
    /// The request's head was not complete in time.
    Slow,
    /// The client did not take its answer in time.
    Unread,
    /// Another version of HTTP.
    Version,
}

impl Unserved {
    const ALL: [(Self, &'static str); 10] = [
        (Self::Body, "body"),
        (Self::Busy, "busy"),
        (Self::Evicted, "evicted"),
        (Self::Large, "large"),
        (Self::Local, "local"),
        (Self::Malformed, "malformed"),
        (Self::Method, "method"),
        (Self::Slow, "slow"),
        (Self::Unread, "unread"),
        (Self::Version, "version"),
    ];
}

/// The metrics of a diagnostics service; several services count together.
#[derive(Clone, Debug)]
pub struct DiagnosticsMetrics {
    /// Connections accepted.
    pub(crate) accepted: IntCounter,
    /// Connections between accept and end.
    pub(crate) open: IntGauge,
    requests: Family<IntCounter>,
    duration: Family<Histogram>,
    refused: [IntCounter; Unserved::ALL.len()],
}

/// The metrics of one path of a diagnostics service.
#[derive(Debug)]
pub(crate) struct PathMetrics {
    /// Seconds from a complete request to its answer.
    pub(crate) duration: Histogram,
    path: Arc<str>,
    requests: Family<IntCounter>,
    by_code: [OnceLock<IntCounter>; Self::CODES.len()],
}

impl DiagnosticsMetrics {
    /// The label `path` of what no path is known for.
    pub(crate) const OTHER: &str = "other";

    /// Creates and registers all of them, at 0, those of a path when that is first asked for.
    ///
    /// # Errors
    ///
    /// Where the registry has one of them already.
    pub fn register(registry: &Registry) -> Result<Self> {
        let counter = |name, help, labels: &[&str]| {
            Family::<IntCounter>::new(name, help, labels)?.register(registry)
        };
        let refused = counter(
            "tbot_diag_refused_total",
            "Requests and connections that the diagnostics service did not serve, by reason.",
            &["reason"],
        )?;
        let accepted = counter(
            "tbot_diag_connections_accepted_total",
            "Connections to the diagnostics service accepted.",
            &[],
        )?;
        let open = Family::<IntGauge>::new(
            "tbot_diag_connections",
            "Connections to the diagnostics service open now.",
            &[],
        )?;
        let requests = counter(
            "tbot_diag_http_requests_total",
            "Requests to the diagnostics service answered, by status code and path.",
            &["code", "path"],
        )?;
        let duration = Family::<Histogram>::with_bounds(
            "tbot_diag_http_request_duration_seconds",
            "Time from a complete request to its answer, before that is sent.",
            &["path"],
            // From /livez to a wait or a profile of minutes.
            &[0.0001, 0.001, 0.01, 0.1, 1.0, 10.0, 100.0],
        )?;
        Ok(Self {
            accepted: accepted.with(&[]),
            open: open.register(registry)?.with(&[]),
            requests,
            duration: duration.register(registry)?,
            refused: Unserved::ALL.map(|(_, label)| refused.with(&[label])),
        })
    }

    /// The counter of clients not served for `reason`.
    pub(crate) fn refused(&self, reason: Unserved) -> &IntCounter {
        &self.refused[reason as usize]
    }

    /// The handles of one path. It becomes a label, so it must not be a client's text.
    pub(crate) fn path(&self, path: &str) -> PathMetrics {
        let metrics = PathMetrics {
            duration: self.duration.with(&[path]),
            path: path.into(),
            requests: self.requests.clone(),
            by_code: [const { OnceLock::new() }; PathMetrics::CODES.len()],
        };
        let usual = if path == Self::OTHER { 404 } else { 200 };
        metrics.count(usual, 0);
        metrics
    }
}

/// They count, and are shown nowhere.
impl Default for DiagnosticsMetrics {
    fn default() -> Self {
        Self::register(&Registry::new()).expect("the registry is empty")
    }
}

impl PathMetrics {
    /// The status codes with a handle, which are those of the service's own answers.
    const CODES: [u16; 12] = [200, 301, 400, 403, 404, 405, 408, 413, 431, 500, 503, 505];

    /// Counts an answer with this status code.
    pub(crate) fn answered(&self, code: u16) {
        self.count(code, 1);
    }

    fn count(&self, code: u16, n: u64) {
        let find = || self.requests.with(&[&*code.to_string(), &*self.path]);
        match Self::CODES.iter().position(|known| *known == code) {
            Some(place) => self.by_code[place].get_or_init(find).inc_by(n),
            // A route of an embedder.
            None => find().inc_by(n),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_counts_under_its_own_label() {
        for (place, (reason, _)) in Unserved::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, place);
        }
    }
}
