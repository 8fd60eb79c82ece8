//! What is known of a connection, and the one line about it in the log, at its end.

use std::borrow::Cow;
use std::fmt::Arguments;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::relay::Carried;
use super::request::Request;
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

/// Where a connection leads.
pub trait Target {
    /// As it is told; the room is for those that need little.
    fn text<'r>(&self, room: &'r mut Room) -> Cow<'r, str>;
}

/// For an IPv4 address with its port, and a mark in front.
type Room = [u8; 22];

impl Target for Request {
    fn text<'r>(&self, _: &'r mut Room) -> Cow<'r, str> {
        self.to_string().into()
    }
}

impl Target for SocketAddr {
    /// By hand for IPv4, as `std::fmt` takes three times as long.
    fn text<'r>(&self, room: &'r mut Room) -> Cow<'r, str> {
        let Self::V4(address) = self else {
            return self.to_string().into();
        };
        let [a, b, c, d] = address.ip().octets().map(u16::from);
        let mut begin = room.len();
        for (mut value, mark) in [
            (address.port(), b':'),
            (d, b'.'),
            (c, b'.'),
            (b, b'.'),
            (a, 0),
        ] {
            loop {
                begin -= 1;
                room[begin] = b'0' + (value % 10) as u8;
                value /= 10;
                if value == 0 {
                    break;
                }
            }
            begin -= 1;
            room[begin] = mark;
        }
        let text = std::str::from_utf8(&room[begin + 1..]);
        text.expect("it is of digits and marks").into()
    }
}

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
        target: Option<&dyn Target>,
        carried: Option<Carried>,
        message: Arguments<'_>,
    ) {
        let route = self.route.as_ref();
        let mut room = Room::default();
        let bastion = || Some(&route?.cluster.as_ref()?.bastion);
        // A level has to be a constant.
        macro_rules! line {
            ($level:ident, $message:expr) => {
                tracing::event!(
                    target: "tbot::connection",
                    tracing::Level::$level,
                    message = $message,
                    request = self.request.as_deref(),
                    cluster = route.and_then(|route| route.name.as_deref()),
                    target = target.map(|target| target.text(&mut room)).as_deref(),
                    bastion = bastion().map(tracing::field::display),
                    outcome,
                    sent = carried.map(|carried| carried.sent),
                    received = carried.map(|carried| carried.received),
                    connect_ms = self.connect.map(milliseconds),
                    total_ms = milliseconds(self.begun.elapsed()),
                    uid = self.peer.map(|peer| peer.uid),
                    pid = self.peer.and_then(|peer| peer.pid)
                )
            };
        }
        match outcome {
            OK => line!(INFO, &*whole(message)),
            // A place of its own: others do not crowd out who may not connect.
            PEER => line!(WARN, tracing::field::display(message)),
            _ => line!(WARN, tracing::field::display(message)),
        }
    }
}

/// Of one that went well it is a constant.
fn whole(message: Arguments<'_>) -> Cow<'static, str> {
    message
        .as_str()
        .map_or_else(|| message.to_string().into(), Cow::Borrowed)
}

/// To the microsecond.
fn milliseconds(duration: Duration) -> f64 {
    duration.as_micros() as u64 as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_told_as_the_standard_library_writes_it() {
        for text in [
            "0.0.0.0:0",
            "1.20.100.255:22",
            "255.255.255.255:65535",
            "10.0.9.99:10000",
            "[::1]:22",
            "[fe80::1%3]:2222",
        ] {
            let address: SocketAddr = text.parse().expect("an address");
            assert_eq!(address.text(&mut Room::default()), text);
        }
    }
}
