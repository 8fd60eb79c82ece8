//! What a master says on its stderr: why it could not log in, why it ended, and why a target was refused,
//! which its answer to a stream does not tell ("Session open refused by peer", whatever it was).
//!
//! It runs with `-v`, of which three lines tell whose refusal it is:
//!
//! ```text
//! debug1: channel_connect_stdio_fwd: db1:22
//! debug1: channel 2: new stdio-forward [stdio-forward] (inactive timeout: 0)
//! channel 2: open failed: connect failed: Connection refused
//! ```
//!
//! They are written before the answer, so who reads them when it is there finds the reason.

use std::collections::{HashMap, VecDeque};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;

use crate::metrics::Refusal;
use crate::metrics::bastion::Down;
use crate::multiplexer::upstream::Failure;

/// Of a line that is longer, the rest is not kept; ssh cuts its own at 1024.
const LONGEST: usize = 1024;

/// Lines that are not for debugging: a changed host key has 12, and a server's banner comes before.
const MOST_LINES: usize = 40;

/// Lines that tell of nothing wrong.
const NEWS: [&str; 5] = [
    "debug",
    "Authenticated to ",
    "Warning: Permanently added ",
    // What it counted, which it says last.
    "Transferred: ",
    "Bytes per second: ",
];

/// Refusals that nobody has asked for yet: a stream has one at most, and a master 1000 streams.
const MOST_REFUSALS: usize = 1024;

/// Channels at once, and then some: a stream has two.
const MOST_CHANNELS: usize = 4096;

/// Before the number of such a line, and what it is.
const PREFACE: &str = "kex_exchange_identification: banner line ";

/// How ssh names a server that it did not connect to itself.
const UNKNOWN: [&str; 2] = [
    " by UNKNOWN port 65535",
    "Connection to UNKNOWN port 65535: ",
];

/// The oldest OpenSSH that knows every option a master is given (IdentityAgent came with 7.3).
const OLDEST: (u32, u32) = (7, 4);

/// A master's stderr, as far as it was read.
#[derive(Debug)]
pub struct Complaints {
    pipe: OwnedFd,
    line: Vec<u8>,
    lines: VecDeque<String>,
    version: Option<String>,
    /// What the bastion said before it spoke SSH: mostly that it has no room, or that it is another kind of server.
    preface: Option<String>,
    /// The target whose channel is named next.
    target: Option<String>,
    channels: HashMap<u32, String>,
    /// Targets with why they were refused, the latest last.
    refusals: VecDeque<(Option<String>, String)>,
}

impl Complaints {
    /// To be read from a non-blocking pipe.
    pub fn new(pipe: OwnedFd) -> Self {
        Self {
            pipe,
            line: Vec::new(),
            lines: VecDeque::new(),
            version: None,
            preface: None,
            target: None,
            channels: HashMap::new(),
            refusals: VecDeque::new(),
        }
    }

    /// Takes what is there; false once there will be no more.
    pub fn read(&mut self) -> bool {
        let mut buffer = [0; 4096];
        // Bounded: a master that writes without end does not keep us.
        for _ in 0..64 {
            match rustix::io::read(&self.pipe, &mut buffer) {
                Ok(0) => return false,
                Ok(length) => self.take(&buffer[..length]),
                Err(Errno::AGAIN) => return true,
                Err(Errno::INTR) => {}
                Err(_) => return false,
            }
        }
        true
    }

    fn take(&mut self, bytes: &[u8]) {
        for byte in bytes {
            match byte {
                b'\n' => {
                    let line = std::mem::take(&mut self.line);
                    self.on_line(String::from_utf8_lossy(&line).trim());
                }
                _ if self.line.len() < LONGEST => self.line.push(*byte),
                _ => {}
            }
        }
    }

    fn on_line(&mut self, line: &str) {
        if let Some(line) = line.strip_prefix("debug1: ") {
            // Older ones have no colon behind the name.
            if line.starts_with("channel_connect_stdio_fwd") {
                self.target = line.rsplit(' ').next().map(str::to_owned);
            } else if let Some((_, said)) = line
                .strip_prefix(PREFACE)
                .and_then(|rest| rest.split_once(": "))
            {
                self.preface.get_or_insert_with(|| said.to_owned());
            } else if let Some((channel, what)) = channel(line) {
                if what.starts_with("free") {
                    self.channels.remove(&channel);
                } else if what.starts_with("new")
                    && let Some(target) = self.target.take()
                    && self.channels.len() < MOST_CHANNELS
                {
                    self.channels.insert(channel, target);
                }
            }
        } else if let Some((channel, what)) = channel(line)
            && let Some(why) = what.strip_prefix("open failed: ")
        {
            if self.refusals.len() == MOST_REFUSALS {
                self.refusals.pop_front();
            }
            let target = self.channels.remove(&channel);
            self.refusals.push_back((target, why.to_owned()));
        } else if self.version.is_none() && line.starts_with("OpenSSH_") {
            self.version = Some(line.to_owned());
        } else if !line.is_empty() && !NEWS.iter().any(|start| line.starts_with(start)) {
            if self.lines.len() == MOST_LINES {
                self.lines.pop_front();
            }
            self.lines.push_back(line.to_owned());
        }
    }

    /// Why a stream to `host` and `port` was refused, as of now.
    pub fn refusal(&mut self, host: &str, port: u16) -> Failure {
        self.read();
        let target = format!("{host}:{port}");
        let is_its = |(of, _): &(Option<String>, String)| of.as_ref() == Some(&target);
        // Of two that were refused at once either may take the other's reason: it is as true.
        let place = self.refusals.iter().rposition(is_its);
        let unknown = || self.refusals.iter().rposition(|(of, _)| of.is_none());
        let why = place
            .or_else(unknown)
            .and_then(|place| self.refusals.remove(place));
        let Some((_, why)) = why else {
            let message = "the bastion refused it and did not say why";
            return Failure::new(Refusal::Unreachable, message);
        };
        refusal_of(&why)
    }

    /// The login went well: what was said of it is no reason for what comes later.
    pub fn forget(&mut self) {
        self.preface = None;
        self.lines.clear();
    }

    /// Whether this ssh is too old, and what it is.
    pub fn too_old(&self) -> Option<String> {
        let version = self.version.as_ref()?;
        let number = version.strip_prefix("OpenSSH_")?;
        let digits = |text: &str| -> u32 {
            let end = text.find(|c: char| !c.is_ascii_digit());
            text[..end.unwrap_or(text.len())].parse().unwrap_or(0)
        };
        let (major, minor) = number.split_once('.')?;
        ((digits(major), digits(minor)) < OLDEST).then(|| {
            let version = version.split([' ', ',']).next().unwrap_or(version);
            format!(
                "ssh is {version}, and must be OpenSSH {}.{} or newer",
                OLDEST.0, OLDEST.1
            )
        })
    }

    /// Why there is no login, or none any more: what kind of failure, and a sentence without its subject.
    pub fn reason(&self) -> Option<(Down, String)> {
        let find = |part: &str| self.lines.iter().rev().find(|line| line.contains(part));
        if find("REMOTE HOST IDENTIFICATION HAS CHANGED").is_some() {
            let what = "its host key is not the one that is known (known_hosts, host_ca): it has changed, or \
                this is another server";
            return Some((Down::HostKey, what.into()));
        }
        for part in [
            "host key is known for",
            "Host key verification failed",
            "revoked",
        ] {
            if let Some(line) = find(part) {
                return Some((
                    Down::HostKey,
                    format!("its host key is not trusted: {line}"),
                ));
            }
        }
        for part in ["Permission denied (", "Too many authentication failures"] {
            if let Some(line) = find(part) {
                // Without a key, for which there may be a reason here.
                let about_key = ["no such identity: ", "Load key ", "sign_and_send_pubkey: "];
                let why = about_key.iter().find_map(|part| find(part));
                let why = why.map_or_else(String::new, |why| format!("; {why}"));
                return Some((Down::Auth, format!("it refused the login: {line}{why}")));
            }
        }
        let local = [
            "onfiguration option",
            "Bad owner or permissions",
            "Can't open user config file",
            "terminating",
            "No user exists",
        ];
        if let Some(line) = local.iter().find_map(|part| find(part)) {
            return Some((Down::Local, format!("ssh cannot start: {line}")));
        }
        let line = self.lines.back()?;
        let line = UNKNOWN
            .iter()
            .fold(line.clone(), |line, name| line.replace(name, ""));
        let preface = self.preface().unwrap_or_default();
        Some((Down::Lost, format!("ssh says: {line}{preface}")))
    }

    /// What it said before SSH, as the end of a sentence.
    pub fn preface(&self) -> Option<String> {
        let said = self.preface.as_ref()?;
        Some(format!(" (it began with {said:?})"))
    }
}

impl AsFd for Complaints {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }
}

/// `channel 2: what`.
fn channel(line: &str) -> Option<(u32, &str)> {
    let (number, what) = line.strip_prefix("channel ")?.split_once(": ")?;
    Some((number.parse().ok()?, what))
}

/// What a server's words mean (RFC 4254 5.1, and the system's for a connect that failed).
fn refusal_of(why: &str) -> Failure {
    let has = |parts: &[&str]| parts.iter().any(|part| why.contains(part));
    let (reason, advice) = if why.starts_with("administratively prohibited") {
        let advice = " (AllowTcpForwarding and PermitOpen there, or a certificate without \
            permit-port-forwarding)";
        (Refusal::Prohibited, advice)
    } else if has(&["refused", "reset"]) {
        (Refusal::Refused, "")
    } else if has(&["timed out"]) {
        (Refusal::Timeout, "")
    } else if has(&[
        "not known",
        "name resolution",
        "No address",
        "nodename",
        "lookup",
    ]) {
        (Refusal::Name, "")
    } else {
        (Refusal::Unreachable, "")
    };
    let why = why.strip_prefix("connect failed: ").unwrap_or(why);
    Failure::new(reason, format!("the bastion says: {why}{advice}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> Complaints {
        let (pipe, _) = rustix::pipe::pipe().expect("a pipe");
        let mut complaints = Complaints::new(pipe);
        complaints.take(text.as_bytes());
        complaints
    }

    #[test]
    fn each_target_gets_its_own_reason() {
        let mut text = String::new();
        for n in 0..50 {
            text += &format!(
                "debug1: channel_connect_stdio_fwd: db{n}:22\r\ndebug1: channel {n}: new [stdio-forward]\r\n"
            );
        }
        for n in (0..50).rev() {
            let why = match n % 3 {
                0 => "connect failed: Connection refused",
                1 => "administratively prohibited: open failed",
                _ => "connect failed: Name or service not known",
            };
            text += &format!("channel {n}: open failed: {why}\r\ndebug1: channel {n}: free: x\r\n");
        }
        let mut complaints = said(&text);
        for n in 0..50 {
            let expected = [Refusal::Refused, Refusal::Prohibited, Refusal::Name][n % 3];
            let failure = complaints.refusal(&format!("db{n}"), 22);
            assert_eq!(failure.reason, expected, "db{n}: {}", failure.message);
        }
        assert!(complaints.channels.is_empty());
    }

    #[test]
    fn what_it_says_is_bounded() {
        let mut text = "x".repeat(100_000);
        for n in 0..10_000 {
            text += &format!("\nline {n}\ndebug1: channel_connect_stdio_fwd h:{n}\n");
            text += &format!(
                "debug1: channel {n}: new x\nchannel {}: open failed: y\n",
                n + 1
            );
        }
        let complaints = said(&text);
        assert_eq!(complaints.channels.len(), MOST_CHANNELS);
        assert_eq!(complaints.refusals.len(), MOST_REFUSALS);
        assert_eq!(complaints.lines.len(), MOST_LINES);
        assert!(complaints.line.len() <= LONGEST);
    }

    #[test]
    fn a_server_is_not_called_unknown() {
        for (text, expected) in [
            (
                "Connection closed by UNKNOWN port 65535\r\n",
                "ssh says: Connection closed",
            ),
            (
                "debug1: kex_exchange_identification: banner line 0: HTTP/1.1 400 Bad\r\n\
                 debug1: kex_exchange_identification: banner line 1: \r\n\
                 banner exchange: Connection to UNKNOWN port 65535: invalid format\r\n",
                "ssh says: banner exchange: invalid format (it began with \"HTTP/1.1 400 Bad\")",
            ),
        ] {
            let reason = said(text).reason().expect("it said something");
            assert_eq!(reason, (Down::Lost, expected.to_owned()));
        }
    }

    #[test]
    fn an_old_ssh_is_told_from_a_new_one() {
        for (line, old) in [
            ("OpenSSH_6.6.1p1, OpenSSL 1.0.1e", true),
            ("OpenSSH_7.3p1 x", true),
            ("OpenSSH_7.4p1, OpenSSL", false),
            ("OpenSSH_9.2p1 Debian-2", false),
            ("OpenSSH_10.0p2 Debian-7", false),
        ] {
            let complaints = said(&format!("{line}\r\n"));
            assert_eq!(complaints.too_old().is_some(), old, "{line}");
        }
    }
}
