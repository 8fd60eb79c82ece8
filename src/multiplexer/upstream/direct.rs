//! Connecting to one of a target's addresses without blocking: Happy Eyeballs (RFC 8305).
//!
//! The next address is tried when one fails, or after 250 ms without an answer while the earlier
//! ones go on; the first that connects wins. So an address that swallows packets delays the others
//! and never keeps them from being tried.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};
use rustix::io::Errno;
use rustix::net::sockopt::{set_socket_keepalive, set_tcp_nodelay, socket_error};
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with};

use super::Failure;
use crate::errors::plain;
use crate::metrics::Refusal;

/// RFC 8305 section 8, "Connection Attempt Delay".
pub const STAGGER: Duration = Duration::from_millis(250);

/// Addresses of one name that are tried; more are no use within a connect time-out.
pub const MOST_ADDRESSES: usize = 16;

/// Connection attempts to one target. Its sockets are in the epoll instance it was given, under
/// `data` plus 1, 2, … for each attempt.
#[derive(Debug)]
pub struct Dial {
    untried: VecDeque<SocketAddr>,
    attempts: Vec<Option<(SocketAddr, OwnedFd)>>,
    failed: Vec<(SocketAddr, Errno)>,
    next_at: Instant,
}

/// Where a dial stands.
#[derive(Debug)]
pub enum Step {
    /// No attempt has ended well yet, and there is hope.
    Waiting,
    /// The stream, non-blocking and out of epoll, and where it leads.
    Connected(OwnedFd, SocketAddr),
    /// No address is left.
    Failed(Failure),
}

impl Dial {
    /// Prepares attempts to `addresses`, the families in turn (RFC 8305 section 4).
    pub fn new(addresses: impl Iterator<Item = SocketAddr>) -> Self {
        let mut addresses = addresses.peekable();
        let first_is_v6 = addresses.peek().is_some_and(SocketAddr::is_ipv6);
        let (mut same, mut other): (VecDeque<_>, VecDeque<_>) =
            addresses.partition(|address| address.is_ipv6() == first_is_v6);
        let mut untried = VecDeque::new();
        while !(same.is_empty() && other.is_empty()) {
            untried.extend(same.pop_front());
            untried.extend(other.pop_front());
        }
        untried.truncate(MOST_ADDRESSES);
        Self {
            untried,
            attempts: Vec::new(),
            failed: Vec::new(),
            next_at: Instant::now(),
        }
    }

    /// Starts the next attempt if it is time for it.
    pub fn advance(&mut self, epoll: BorrowedFd<'_>, data: u64, now: Instant) -> Step {
        while now >= self.next_at || self.attempts.iter().all(Option::is_none) {
            let Some(address) = self.untried.pop_front() else {
                break;
            };
            match attempt(address, epoll, data + 1 + self.attempts.len() as u64) {
                Ok((socket, true)) => return Step::Connected(socket, address),
                Ok((socket, false)) => {
                    self.attempts.push(Some((address, socket)));
                    self.next_at = now + STAGGER;
                }
                Err(error) => self.failed.push((address, error)),
            }
        }
        if self.attempts.iter().any(Option::is_some) {
            Step::Waiting
        } else {
            Step::Failed(self.failure())
        }
    }

    /// Looks at attempt `number` (from 1), about which epoll had something to say.
    pub fn ended(&mut self, number: usize, epoll: BorrowedFd<'_>, data: u64, now: Instant) -> Step {
        let Some(attempt) = number.checked_sub(1).and_then(|n| self.attempts.get_mut(n)) else {
            return Step::Waiting;
        };
        let Some((address, socket)) = attempt.take() else {
            return Step::Waiting;
        };
        match socket_error(&socket).unwrap_or_else(Err) {
            // Attempts go on as long as they live: the others end here.
            Ok(()) => match epoll::delete(epoll, &socket) {
                Ok(()) => Step::Connected(socket, address),
                Err(error) => Step::Failed(failure_of(address, error)),
            },
            Err(error) => {
                self.failed.push((address, error));
                self.next_at = now;
                self.advance(epoll, data, now)
            }
        }
    }

    /// What to say when time is up.
    pub fn timed_out(&self, timeout: Duration) -> Failure {
        let waiting: Vec<String> = self
            .attempts
            .iter()
            .flatten()
            .map(|(address, _)| address.ip().to_string())
            .collect();
        let message = format!("no answer within {timeout:?} from {}", waiting.join(", "));
        Failure::new(Refusal::Timeout, message)
    }

    /// All addresses failed: every distinct error with its addresses, the reason of the first.
    fn failure(&self) -> Failure {
        let Some((address, error)) = self.failed.first() else {
            return Failure::new(Refusal::Name, "its name has no address");
        };
        let mut failure = failure_of(*address, *error);
        for (address, error) in &self.failed[1..] {
            failure.message = format!(
                "{}; {}",
                failure.message,
                failure_of(*address, *error).message
            );
        }
        failure
    }
}

/// A socket in epoll, or one that is connected already.
fn attempt(
    address: SocketAddr,
    epoll: BorrowedFd<'_>,
    data: u64,
) -> Result<(OwnedFd, bool), Errno> {
    let family = if address.is_ipv6() {
        AddressFamily::INET6
    } else {
        AddressFamily::INET
    };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(family, SocketType::STREAM, flags, None)?;
    // ssh sets both on a connection of its own, and cannot on one that we hold.
    set_tcp_nodelay(&socket, true)?;
    set_socket_keepalive(&socket, true)?;
    match connect(&socket, &address) {
        Ok(()) | Err(Errno::INPROGRESS | Errno::INTR) => {}
        Err(error) => return Err(error),
    }
    // A target on this machine has answered within the call: three calls fewer.
    let mut answered = [PollFd::new(&socket, PollFlags::OUT)];
    if matches!(poll(&mut answered, Some(&Timespec::default())), Ok(1)) {
        if answered[0].revents() != PollFlags::OUT {
            socket_error(&socket)??;
        }
        return Ok((socket, true));
    }
    epoll::add(
        epoll,
        &socket,
        epoll::EventData::new_u64(data),
        epoll::EventFlags::OUT,
    )?;
    Ok((socket, false))
}

fn failure_of(address: SocketAddr, error: Errno) -> Failure {
    let (reason, what) = match error {
        Errno::CONNREFUSED => (Refusal::Refused, "connection refused".to_owned()),
        Errno::CONNRESET => (Refusal::Refused, "connection reset".to_owned()),
        Errno::TIMEDOUT => (Refusal::Timeout, "no answer".to_owned()),
        Errno::NETUNREACH | Errno::NETDOWN => {
            (Refusal::Unreachable, "network unreachable".to_owned())
        }
        Errno::HOSTUNREACH | Errno::HOSTDOWN => {
            (Refusal::Unreachable, "host unreachable".to_owned())
        }
        Errno::ACCESS | Errno::PERM => (
            Refusal::Unreachable,
            "forbidden by this machine's firewall".to_owned(),
        ),
        Errno::INVAL | Errno::AFNOSUPPORT => (
            Refusal::Unreachable,
            "no such kind of address here".to_owned(),
        ),
        Errno::MFILE | Errno::NFILE => {
            (Refusal::Local, "tbot is out of file descriptors".to_owned())
        }
        error => (Refusal::Local, plain(error)),
    };
    Failure {
        reason,
        message: format!("{what} by {}", address.ip()).replace("unreachable by", "unreachable for"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    fn addresses(list: &[&str]) -> impl Iterator<Item = SocketAddr> {
        list.iter().map(|a| a.parse().expect("an address"))
    }

    #[test]
    fn families_take_turns_and_their_number_is_bounded() {
        let dial = Dial::new(addresses(&["[::1]:1", "[::2]:1", "[::3]:1", "1.1.1.1:1"]));
        assert!(dial.untried.into_iter().eq(addresses(&[
            "[::1]:1",
            "1.1.1.1:1",
            "[::2]:1",
            "[::3]:1"
        ])));
        assert_eq!(
            Dial::new(addresses(&["1.1.1.1:1"; 40])).untried.len(),
            MOST_ADDRESSES
        );
    }

    #[test]
    fn no_address_is_a_failure_of_the_name() {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).expect("an epoll instance");
        let step = Dial::new(std::iter::empty()).advance(epoll.as_fd(), 0, Instant::now());
        assert!(
            matches!(
                step,
                Step::Failed(Failure {
                    reason: Refusal::Name,
                    ..
                })
            ),
            "{step:?}"
        );
    }
}
