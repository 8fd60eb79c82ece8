//! `tbot ssh-multiplexer-proxy-command SOCKET TARGET`: ssh's ProxyCommand.
//!
//! Connects to the multiplexer, sends the request, hands the connected socket to ssh over stdout
//! (`ProxyUseFdpass yes`) and ends: ssh owns the connection, and no process stands in between.
//! It runs once for every ssh connection, so it does nothing else.

use std::ffi::{OsStr, OsString};
use std::io::{IoSlice, stderr, stdout};
use std::mem::MaybeUninit;
use std::net::Ipv6Addr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::io::{Errno, Result as SysResult};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType,
    sockopt::{Timeout, set_socket_timeout, socket_domain},
};

use crate::config::quoted;

/// The command's name.
pub(super) use crate::multiplexer::PROXY_COMMAND as NAME;

/// The whole way may take this long: the multiplexer is on this machine.
const DEADLINE: Duration = Duration::from_secs(10);

/// The longest request, its NUL included, that a multiplexer reads.
const MAX_REQUEST: usize = 4096;

/// The longest path that a socket's address can hold.
const MAX_PATH: usize = 107;

/// Runs the command with its two arguments.
pub(super) fn run(args: &[OsString]) -> Result<(), String> {
    let [socket, target] = args else {
        return Err(format!(
            "{NAME} takes two arguments, SOCKET and HOST:PORT[|CLUSTER], and has {}",
            args.len()
        ));
    };
    if socket.is_empty() {
        // To the system an empty path would be an address without a name.
        return Err("the path of the multiplexer's socket is empty".into());
    }
    let request = request(target)?;
    // Before the multiplexer hears of it: there is nobody to give the connection to.
    let not_a_socket = "stdout is no Unix socket to pass the connection over; \
                        ssh needs `ProxyUseFdpass yes` beside this ProxyCommand";
    if socket_domain(stdout()) != Ok(AddressFamily::UNIX) {
        return Err(not_a_socket.into());
    }
    let deadline = Instant::now() + DEADLINE;
    let path = Path::new(socket);
    let failed = |error| cannot_reach(path, error);
    let connection = connect(path, deadline).map_err(failed)?;
    send(&connection, &request, stderr().as_fd(), deadline).map_err(failed)?;
    // The option belongs to the connection, which ssh goes on to use.
    set_socket_timeout(&connection, Timeout::Send, None).map_err(failed)?;
    send(stdout(), b"\0", connection.as_fd(), deadline)
        .map_err(|error| format!("cannot pass the connection to ssh: {}", describe(error)))
}

/// The v1 request for `target`, which is `host:port` or `host:port|cluster`.
fn request(target: &OsStr) -> Result<Vec<u8>, String> {
    let shown = quoted(&target.to_string_lossy());
    let malformed = |why: &str| format!("the target {shown} {why}; it must be HOST:PORT[|CLUSTER]");
    let text = target.to_str().ok_or_else(|| malformed("is not UTF-8"))?;
    if text.len() + 3 > MAX_REQUEST {
        return Err(malformed("is longer than 4 KiB"));
    }
    if text.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Err(malformed("has a space or control character"));
    }
    let (address, cluster) = match text.split_once('|') {
        Some((_, cluster)) if cluster.contains('|') => {
            return Err(malformed("has more than one |"));
        }
        Some((address, cluster)) => (address, Some(cluster)),
        None => (text, None),
    };
    let Some((host, port)) = address.rsplit_once(':') else {
        return Err(malformed("has no port"));
    };
    let digits = port.bytes().all(|byte| byte.is_ascii_digit());
    if !digits || !port.parse::<u16>().is_ok_and(|port| port > 0) {
        return Err(malformed("has no port from 1 to 65535"));
    }
    let inner = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    let host = match inner {
        None if host.is_empty() => return Err(malformed("has no host")),
        Some(inner) if is_ipv6(inner) => host.to_owned(),
        // ssh's %h is an IPv6 address without brackets.
        None if is_ipv6(host) => format!("[{host}]"),
        None if !host.contains([':', '[', ']']) => host.to_owned(),
        _ => {
            return Err(malformed(
                "has a host that is neither a name nor an address",
            ));
        }
    };
    let cluster = cluster.map(|cluster| format!("|{cluster}"));
    Ok(format!("{host}:{port}{}\0", cluster.unwrap_or_default()).into_bytes())
}

/// An IPv6 address, maybe with a zone: `fe80::1%eth0`.
fn is_ipv6(host: &str) -> bool {
    let address = host.split_once('%').map_or(host, |(address, _)| address);
    address.parse::<Ipv6Addr>().is_ok()
}

fn connect(path: &Path, deadline: Instant) -> SysResult<OwnedFd> {
    let address = match path.as_os_str().len() {
        ..=MAX_PATH => SocketAddrUnix::new(path)?,
        // Too long for an address, unless it is looked at from its own directory.
        _ => {
            let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
                return Err(Errno::NAMETOOLONG);
            };
            rustix::process::chdir(directory)?;
            SocketAddrUnix::new(name)?
        }
    };
    let flags = SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    // A listener with a full queue makes connect wait for as long as a send may.
    retry(&socket, deadline, || {
        rustix::net::connect(&socket, &address)
    })?;
    Ok(socket)
}

/// Sends all of `bytes`, with `passed` on the first.
fn send(to: impl AsFd, bytes: &[u8], passed: BorrowedFd, deadline: Instant) -> SysResult<()> {
    let passed = [passed];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut with = SendAncillaryBuffer::new(&mut space);
    with.push(SendAncillaryMessage::ScmRights(&passed));
    let mut rest = bytes;
    while !rest.is_empty() {
        let sent = retry(&to, deadline, || {
            let flags = SendFlags::NOSIGNAL;
            rustix::net::sendmsg(&to, &[IoSlice::new(rest)], &mut with, flags)
        })?;
        rest = &rest[sent..];
        with.clear();
    }
    Ok(())
}

/// Calls again after a signal, with what is left of the time as the socket's own limit.
fn retry<T>(
    socket: impl AsFd,
    deadline: Instant,
    mut call: impl FnMut() -> SysResult<T>,
) -> SysResult<T> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Errno::TIMEDOUT);
        }
        set_socket_timeout(&socket, Timeout::Send, Some(left))?;
        match call() {
            Err(Errno::INTR) => {}
            done => return done,
        }
    }
}

/// One line for the user of ssh.
fn cannot_reach(path: &Path, error: Errno) -> String {
    let advice = match error {
        Errno::NOENT => "there is no such socket (is tbot stopped, or stopping?)".into(),
        Errno::CONNREFUSED => "nobody listens on it (tbot has ended; start it again)".into(),
        Errno::ACCESS | Errno::PERM => {
            "permission denied (tbot may run as another user)".to_owned()
        }
        Errno::NOTSOCK | Errno::PROTOTYPE => "it is no socket of tbot".into(),
        Errno::PIPE | Errno::CONNRESET => "it closed the connection (tbot's log says why)".into(),
        error => describe(error),
    };
    format!("cannot reach tbot at {}: {advice}", path.display())
}

fn describe(error: Errno) -> String {
    match error {
        Errno::AGAIN | Errno::TIMEDOUT => "no answer in 10s".into(),
        error => std::io::Error::from(error).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_is_one_request_or_refused() {
        let mut targets = vec![String::new()];
        for _ in 0..6 {
            targets = targets
                .iter()
                .flat_map(|target| {
                    ["a", "1", ":", "[", "]", "|", "%"].map(|c| format!("{target}{c}"))
                })
                .collect();
            for target in &targets {
                if let Ok(request) = request(OsStr::new(target)) {
                    let (end, rest) = request.split_last().expect("it is not empty");
                    assert!(*end == 0 && !rest.contains(&0), "{target}");
                    let text = std::str::from_utf8(rest).expect("it is text");
                    assert_eq!(text.replace(['[', ']'], ""), target.replace(['[', ']'], ""));
                }
            }
        }
    }
}
