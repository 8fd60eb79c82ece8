//! What is known of a connection, and the one line about it in the log, at its end.

use std::fmt::{Arguments, Display};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::relay::Carried;
use super::routes::Route;
use crate::sys::Peer;

/// The outcome of one that ended as it should.
pub const OK: &str = "ok";
/// Of one whose target, or the way to it, broke.
pub const BROKEN: &str = "broken";
/// Of one that the end of tbot ended.
pub const CUT: &str = "cut";

/// Of one by a user who is not allowed.
const PEER: &str = "peer";

/// What is known of a connection so far. Its strings are those that came with the request: nothing is put together
/// before the line is written, and then only if it is.
#[derive(Debug)]
pub struct Record {
    begun: Instant,
    /// Who connected.
    pub peer: Option<Peer>,
    /// The request as it came.
    pub request: Option<String>,
    /// The way it took.
    pub route: Option<Arc<Route>>,
    /// From the complete request to the connected target.
    pub connect: Option<Duration>,
}

impl Record {
    /// Of one that was accepted just now.
    pub fn new() -> Self {
        Self {
            begun: Instant::now(),
            peer: None,
            request: None,
            route: None,
            connect: None,
        }
    }

    /// Writes the line.
    pub fn log(
        &self,
        outcome: &str,
        target: Option<&dyn Display>,
        carried: Option<Carried>,
        message: Arguments<'_>,
    ) {
        let route = self.route.as_ref();
        let bastion = || Some(&route?.cluster.as_ref()?.bastion);
        // A level has to be a constant.
        macro_rules! line {
            ($level:ident) => {
                tracing::event!(
                    target: "tbot::connection",
                    tracing::Level::$level,
                    request = self.request.as_deref(),
                    cluster = route.and_then(|route| route.name.as_deref()),
                    target = target.map(tracing::field::display),
                    bastion = bastion().map(tracing::field::display),
                    outcome,
                    sent = carried.map(|carried| carried.sent),
                    received = carried.map(|carried| carried.received),
                    connect_ms = self.connect.map(milliseconds),
                    total_ms = milliseconds(self.begun.elapsed()),
                    uid = self.peer.map(|peer| peer.uid),
                    pid = self.peer.and_then(|peer| peer.pid),
                    "{message}"
                )
            };
        }
        match outcome {
            OK => line!(INFO),
            // A place of its own: others do not crowd out who may not connect.
            PEER => line!(WARN),
            _ => line!(WARN),
        }
    }
}

/// To the microsecond.
fn milliseconds(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1000.0
}
