//! What the service manager is told: ready, reloading, stopping, how it goes, and that no thread hangs.
//!
//! The protocol is that of sd_notify(3): lines `NAME=value` in one datagram to the socket that NOTIFY_SOCKET names.
//! Sending never waits. A message that the manager has no room for is sent again, before any later one.

use std::collections::VecDeque;
use std::env::{var, var_os};
use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use crate::errors::plain;
use crate::logging::harmless;
use crate::readyz::{Overall, Status};

/// Between two looks at how the services are.
const LOOK: Duration = Duration::from_secs(2);

/// The same while something is expected any moment.
const SOON: Duration = Duration::from_millis(50);

/// Messages that wait for room, of which the last ones count.
const MOST_UNSENT: usize = 16;

/// Characters of a status. A datagram may have 4096 bytes (NOTIFY_BUFFER_MAX of systemd), of which a character
/// takes at most 4.
const LONGEST: usize = 900;

/// The way to the service manager, if there is one.
#[derive(Debug, Default)]
pub(super) struct Notify {
    to: Option<(UnixDatagram, SocketAddr)>,
    /// How often the manager wants a sign of life.
    watchdog: Option<Duration>,
    alive: Option<Instant>,
    state: State,
    status: String,
    unsent: VecDeque<String>,
    failed: bool,
    /// What is logged of a hang, once.
    hang: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Starting,
    Reloading,
    Ready,
    Stopping,
}

impl Notify {
    /// As the environment says; without NOTIFY_SOCKET nobody is told anything.
    pub fn from_environment() -> Self {
        let Some(path) = var_os("NOTIFY_SOCKET").filter(|path| !path.is_empty()) else {
            return Self::default();
        };
        let to = address(&path).and_then(|address| {
            let socket = UnixDatagram::unbound()?;
            socket.set_nonblocking(true)?;
            Ok((socket, address))
        });
        let to = to.inspect_err(|error| {
            tracing::warn!(
                "NOTIFY_SOCKET: the service manager cannot be told at {}: {}",
                path.to_string_lossy().escape_debug(),
                plain(error)
            );
        });
        // Meant for another process, of which this one has inherited it (sd_watchdog_enabled(3)).
        let is_ours = var("WATCHDOG_PID").map_or(true, |pid| pid == std::process::id().to_string());
        let watchdog = var("WATCHDOG_USEC").ok().filter(|_| is_ours);
        let watchdog = watchdog.and_then(|interval| interval.parse().ok());
        // No sooner than that is worth the messages.
        let watchdog = watchdog
            .filter(|interval| *interval > 0)
            .map(|interval: u64| interval.max(100_000));
        Self {
            to: to.ok(),
            watchdog: watchdog.map(Duration::from_micros),
            ..Self::default()
        }
    }

    /// Whether somebody wants to know of a thread that hangs.
    pub fn watches(&self) -> bool {
        self.to.is_some() && self.watchdog.is_some()
    }

    /// Until the next [`look`](Self::look).
    pub fn pause(&self) -> Duration {
        let expects = matches!(self.state, State::Starting | State::Reloading);
        match (&self.to, self.watchdog) {
            (None, _) => Duration::MAX,
            _ if expects || !self.unsent.is_empty() => SOON,
            // Half of what is allowed is advised; a quarter allows for a late one.
            (_, watchdog) => watchdog.map_or(LOOK, |interval| LOOK.min(interval / 4)),
        }
    }

    /// A signal asks for everything anew, until the next [`ready`](Self::ready).
    pub fn reloading(&mut self) {
        if self.state == State::Ready {
            let now = clock_gettime(ClockId::Monotonic);
            let now = Duration::new(now.tv_sec as u64, now.tv_nsec as u32).as_micros();
            self.state = State::Reloading;
            self.tell(format!("RELOADING=1\nMONOTONIC_USEC={now}"));
        }
    }

    /// Whether somebody is told how the services are.
    pub fn has_manager(&self) -> bool {
        self.to.is_some()
    }

    /// Everything is listened on, and written, or written anew. Told once.
    pub fn ready(&mut self) {
        if matches!(self.state, State::Starting | State::Reloading) {
            self.state = State::Ready;
            self.tell("READY=1".into());
        }
    }

    /// From here on to the end it takes at most `end`.
    pub fn stopping(&mut self, what: &str, end: Duration) {
        self.state = State::Stopping;
        let (what, end) = (one_line(what), end.as_micros());
        self.tell(format!(
            "STOPPING=1\nEXTEND_TIMEOUT_USEC={end}\nSTATUS={what}"
        ));
    }

    /// Says how the services are where that has changed, and gives a sign of life when it is time for one and
    /// nothing hangs.
    pub fn look(
        &mut self,
        services: impl FnOnce() -> Overall,
        hang: impl FnOnce() -> Option<String>,
    ) {
        self.send();
        if self.to.is_none() || !self.unsent.is_empty() {
            return;
        }
        if self.state != State::Stopping {
            let status = one_line(&status(&services()));
            if status != self.status {
                self.tell(format!("STATUS={status}"));
                self.status = status;
            }
        }
        if let Some(interval) = self.watchdog {
            // Each time: a thread that is asked answers the next one.
            let hang = hang();
            let is_time = |last: Instant| last.elapsed() >= interval / 4;
            if hang.is_none() && self.alive.is_none_or(is_time) {
                self.alive = Some(Instant::now());
                self.tell("WATCHDOG=1".into());
            }
            if let Some(hang) = hang.as_ref().filter(|_| self.hang.is_none()) {
                tracing::error!(
                    "{hang}; until it goes on, the service manager gets no sign of life"
                );
            }
            self.hang = hang;
        }
    }

    fn tell(&mut self, message: String) {
        if self.to.is_some() {
            if self.unsent.len() == MOST_UNSENT {
                self.unsent.pop_front();
            }
            self.unsent.push_back(message);
            self.send();
        }
    }

    fn send(&mut self) {
        let Some((socket, address)) = &self.to else {
            return;
        };
        while let Some(message) = self.unsent.front() {
            match socket.send_to_addr(message.as_bytes(), address) {
                Ok(_) => self.failed = false,
                // It is busy, or starts anew.
                Err(error) => {
                    if error.kind() != io::ErrorKind::WouldBlock && !self.failed {
                        tracing::warn!("the service manager cannot be told: {}", plain(error));
                    }
                    self.failed = true;
                    return;
                }
            }
            self.unsent.pop_front();
        }
    }
}

/// A path, or `@` and an abstract name (unix(7)).
fn address(text: &OsStr) -> io::Result<SocketAddr> {
    match text.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        [b'/', ..] => SocketAddr::from_pathname(text),
        _ => Err(io::Error::other("it is neither a path nor @NAME")),
    }
}

/// `healthy: a, b`, or each that is not, with the reason.
fn status(overall: &Overall) -> String {
    let bad = overall.services.iter().filter_map(|(name, service)| {
        let reason = match service.status {
            Status::Healthy => return None,
            Status::Initializing => "starting",
            Status::Unhealthy => &service.reason,
        };
        Some(format!("{name}: {reason}"))
    });
    let bad: Vec<String> = bad.collect();
    match bad.is_empty() {
        true => {
            let names: Vec<&str> = overall.services.keys().map(String::as_str).collect();
            format!("healthy: {}", names.join(", "))
        }
        false => format!("unhealthy: {}", bad.join("; ")),
    }
}

/// A reason may hold what other programs wrote: a line break in it would begin a message of theirs.
fn one_line(text: &str) -> String {
    harmless(text).chars().take(LONGEST).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::readyz::Registry;

    #[test]
    fn a_status_is_one_line_of_what_is_seen() {
        let shown = one_line("ssh says: a\nREADY=1\x1b\u{202e}b\u{2028}ü");
        assert_eq!(shown, r"ssh says: a\nREADY=1\u{1b}\u{202e}b\u{2028}ü");
    }

    #[test]
    fn a_status_is_one_line_of_bounded_length() {
        let services = Registry::new();
        let (a, b) = (services.register("a"), services.register("b"));
        assert_eq!(
            status(&services.overall()),
            "unhealthy: a: starting; b: starting"
        );
        a.healthy();
        b.healthy();
        assert_eq!(status(&services.overall()), "healthy: a, b");
        b.unhealthy(format!("no\nMAINPID=1{}", "ä\u{1b}".repeat(1000)));
        let status = one_line(&status(&services.overall()));
        assert!(
            status.starts_with(r"unhealthy: b: no\nMAINPID=1ä\u{1b}ä"),
            "{status}"
        );
        assert_eq!(status.chars().count(), LONGEST);
    }

    #[test]
    fn a_message_that_there_was_no_room_for_comes_later_and_in_order() {
        let name = format!("tbot-notify-test-{}", std::process::id());
        let manager = SocketAddr::from_abstract_name(&name).expect("a name");
        let manager = UnixDatagram::bind_addr(&manager).expect("nobody has it");
        let address = address(format!("@{name}").as_ref()).expect("a name");
        let socket = UnixDatagram::unbound().expect("a socket");
        socket.set_nonblocking(true).expect("it can be");
        let mut notify = Notify {
            to: Some((socket, address)),
            ..Notify::default()
        };
        // As many as the kernel queues (net.unix.max_dgram_qlen), and more.
        let mut filled = 0;
        while notify.unsent.is_empty() {
            notify.tell(format!("STATUS={filled}"));
            filled += 1;
        }
        notify.ready();
        assert_eq!(notify.unsent.len(), 2);
        let mut buffer = [0; 64];
        for n in 0..filled {
            let length = manager.recv(&mut buffer).expect("a message");
            assert_eq!(buffer[..length], *format!("STATUS={n}").as_bytes());
            notify.send();
        }
        let length = manager.recv(&mut buffer).expect("a message");
        assert_eq!(buffer[..length], *b"READY=1");
    }
}
