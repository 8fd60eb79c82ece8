//! The proxy command as ssh runs it: against a real listener, with a socket for its stdout.
#![cfg(all(feature = "cli", feature = "pprof"))]

mod program;

use std::fs::File;
use std::io::{IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use program::{Room, run};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, Shutdown, recvmsg,
};

const NAME: &str = "ssh-multiplexer-proxy-command";

/// What one message brought: its bytes, and the descriptors on them.
fn receive(from: impl AsFd, length: usize) -> (Vec<u8>, Vec<OwnedFd>) {
    let mut bytes = vec![0; length];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(&mut bytes)];
    let message =
        recvmsg(from, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC).expect("a message comes");
    assert!(!message.flags.contains(ReturnFlags::CTRUNC));
    let mut descriptors = Vec::new();
    for part in control.drain() {
        if let RecvAncillaryMessage::ScmRights(passed) = part {
            descriptors.extend(passed);
        }
    }
    bytes.truncate(message.bytes);
    (bytes, descriptors)
}

/// The whole way: `socket` is what the program is given, `listener` what is behind it. Returns the
/// request as the multiplexer reads it.
fn passes(command: &mut Command, listener: &UnixListener) -> String {
    let (ours, theirs) = UnixStream::pair().expect("a pair of sockets");
    let (mut errors, stderr) = std::io::pipe().expect("a pipe");
    let status = command
        .stdout(OwnedFd::from(theirs))
        .stderr(stderr)
        .status();
    assert_eq!(status.expect("the program runs").code(), Some(0));
    // The command keeps its ends until it is built anew.
    command.stdout(Stdio::null()).stderr(Stdio::null());

    let (mut multiplexer, _) = listener.accept().expect("a connection");
    let (request, mut descriptors) = receive(&multiplexer, 8192);
    assert_eq!(descriptors.len(), 1, "stderr comes with the request");
    let stderr = descriptors.remove(0);
    File::from(stderr)
        .write_all(b"no route\n")
        .expect("stderr can be written to");
    let mut line = String::new();
    errors.read_to_string(&mut line).expect("and read");
    assert_eq!(line, "no route\n");

    let (byte, mut descriptors) = receive(&ours, 16);
    assert_eq!((byte.as_slice(), descriptors.len()), (&b"\0"[..], 1));
    let mut ssh = UnixStream::from(descriptors.remove(0));
    assert_eq!(
        ssh.write_timeout().expect("an option"),
        None,
        "no limit is left on it"
    );
    ssh.write_all(b"SSH-2.0-ssh\r\n").expect("sent");
    multiplexer.write_all(b"SSH-2.0-sshd\r\n").expect("sent");
    rustix::net::shutdown(&multiplexer, Shutdown::Write).expect("shut");
    let mut banner = String::new();
    ssh.read_to_string(&mut banner).expect("read");
    assert_eq!(banner, "SSH-2.0-sshd\r\n");
    drop(ssh);
    banner.clear();
    multiplexer.read_to_string(&mut banner).expect("read");
    assert_eq!(banner, "SSH-2.0-ssh\r\n");
    // Nothing but these was ever sent to ssh.
    let mut rest = Vec::new();
    (&ours).read_to_end(&mut rest).expect("read");
    assert_eq!(rest, b"");
    String::from_utf8(request).expect("UTF-8")
}

fn listen(path: &Path) -> UnixListener {
    UnixListener::bind(path).expect("a socket is bound")
}

#[test]
fn ssh_gets_the_connection_and_the_multiplexer_the_request() {
    let room = Room::new();
    let socket = room.path().join("v1.sock");
    let listener = listen(&socket);
    for (target, request) in [
        ("db1:22", "db1:22\0"),
        ("db1.prod:22|prod", "db1.prod:22|prod\0"),
        ("192.0.2.1:65535|a.b", "192.0.2.1:65535|a.b\0"),
        ("[::1]:22|prod", "[::1]:22|prod\0"),
        // ssh's %h:%p has no brackets.
        ("::1:22|prod", "[::1]:22|prod\0"),
        ("2001:db8::2:1:22", "[2001:db8::2:1]:22\0"),
        ("fe80::1%eth0:22", "[fe80::1%eth0]:22\0"),
        ("host:22|", "host:22|\0"),
    ] {
        let socket = socket.to_str().expect("UTF-8");
        assert_eq!(
            passes(&mut room.command([NAME, socket, target]), &listener),
            request
        );
    }
}

#[test]
fn a_relative_path_and_a_long_one_are_reached() {
    let room = Room::new();
    let near = listen(&room.path().join("v1.sock"));
    assert_eq!(
        passes(&mut room.command([NAME, "v1.sock", "a:22"]), &near),
        "a:22\0"
    );

    let deep = room.path().join("a".repeat(100)).join("b".repeat(200));
    std::fs::create_dir_all(&deep).expect("directories are made");
    let far = {
        // Bound under a short name; a socket may be moved.
        let listener = listen(&room.path().join("short"));
        std::fs::rename(room.path().join("short"), deep.join("v1.sock")).expect("moved");
        listener
    };
    let path = deep.join("v1.sock");
    let path = path.to_str().expect("UTF-8");
    assert_eq!(
        passes(&mut room.command([NAME, path, "a:22"]), &far),
        "a:22\0"
    );
    let relative = format!("{}/{}/v1.sock", "a".repeat(100), "b".repeat(200));
    assert_eq!(
        passes(&mut room.command([NAME, &relative, "a:22"]), &far),
        "a:22\0"
    );
}

#[test]
fn a_path_of_exactly_the_longest_address_is_reached() {
    let room = Room::new();
    let left = 107 - room.path().as_os_str().len() - 1;
    for length in [left, left + 1] {
        let name = "s".repeat(length);
        let listener = listen(&room.path().join("short"));
        let path = room.path().join(&name);
        std::fs::rename(room.path().join("short"), &path).expect("moved");
        let path = path.to_str().expect("UTF-8");
        assert_eq!(
            passes(&mut room.command([NAME, path, "a:22"]), &listener),
            "a:22\0"
        );
    }
}

#[test]
fn nothing_in_the_environment_or_directory_matters() {
    let room = Room::new();
    let listener = listen(&room.path().join("v1.sock"));
    let mut command = room.command([NAME, "v1.sock", "a:22"]);
    command
        .env("TBOT_DEBUG", "perhaps")
        .env("TBOT_CONFIG_PATH", "/nowhere");
    assert_eq!(passes(&mut command, &listener), "a:22\0");
}

/// With a socket for stdout, as ssh has it, the command fails with one line.
#[track_caller]
fn refused(room: &Room, args: &[&str], message: &str) {
    let (ours, theirs) = UnixStream::pair().expect("a pair of sockets");
    let mut command = room.command([&[NAME], args].concat());
    command.stdout(OwnedFd::from(theirs));
    run(&mut command).failed_with(message);
    drop(command);
    let mut sent = Vec::new();
    (&ours).read_to_end(&mut sent).expect("read");
    assert_eq!(sent, b"", "ssh is not given anything");
}

#[test]
fn a_socket_that_cannot_be_reached_is_told_why() {
    let room = Room::new();
    let cannot = |path: &str, why: &str| {
        refused(
            &room,
            &[path, "a:22"],
            &format!("cannot reach tbot at {path}: {why}"),
        );
    };
    cannot(
        "v1.sock",
        "there is no such socket (is tbot stopped, or stopping?)",
    );
    refused(
        &room,
        &["", "a:22"],
        "the path of the multiplexer's socket is empty",
    );
    let long = format!("{}/v1.sock", "x".repeat(200));
    cannot(
        &long,
        "there is no such socket (is tbot stopped, or stopping?)",
    );
    let long = format!("./{}", "x".repeat(200));
    cannot(&long, "File name too long (os error 36)");
    drop(listen(&room.path().join("stale")));
    cannot(
        "stale",
        "nobody listens on it (tbot has ended; start it again)",
    );
    room.write("file", "");
    cannot(
        "file",
        "nobody listens on it (tbot has ended; start it again)",
    );
}

#[test]
fn a_stdout_that_ssh_did_not_make_is_told_what_to_set() {
    const WHY: &str = "stdout is no Unix socket to pass the connection over; ssh needs \
        `ProxyUseFdpass yes` beside this ProxyCommand";
    let room = Room::new();
    let listener = listen(&room.path().join("v1.sock"));
    // A pipe, as it is without ProxyUseFdpass.
    room.tbot([NAME, "v1.sock", "a:22"]).failed_with(WHY);
    let tcp = std::net::TcpListener::bind("127.0.0.1:0").expect("a listener");
    let stdout = std::net::TcpStream::connect(tcp.local_addr().expect("an address"));
    let stdout = OwnedFd::from(stdout.expect("a connection"));
    run(room.command([NAME, "v1.sock", "a:22"]).stdout(stdout)).failed_with(WHY);
    // The multiplexer heard nothing of it.
    listener.set_nonblocking(true).expect("an option");
    assert!(listener.accept().is_err());
}

#[test]
fn a_malformed_target_is_told_what_is_wrong_with_it() {
    let room = Room::new();
    let long = format!("{}:22", "a".repeat(4096));
    for (target, why) in [
        ("", "has no port"),
        ("host", "has no port"),
        ("host|prod", "has no port"),
        (":22", "has no host"),
        ("host:", "has no port from 1 to 65535"),
        ("host:0", "has no port from 1 to 65535"),
        ("host:65536", "has no port from 1 to 65535"),
        ("host:+22", "has no port from 1 to 65535"),
        ("host:ssh", "has no port from 1 to 65535"),
        ("a:b:22", "has a host that is neither a name nor an address"),
        (
            "[host]:22",
            "has a host that is neither a name nor an address",
        ),
        (
            "[::1:22",
            "has a host that is neither a name nor an address",
        ),
        ("::22", "has a host that is neither a name nor an address"),
        ("host:22|a|b", "has more than one |"),
        ("ho st:22", "has a space or control character"),
        ("host:22\n", "has a space or control character"),
    ] {
        let message = format!("the target {target:?} {why}; it must be HOST:PORT[|CLUSTER]");
        refused(&room, &["v1.sock", target], &message);
    }
    let message = format!(
        "the target {:?}… is longer than 4 KiB; it must be HOST:PORT[|CLUSTER]",
        "a".repeat(60)
    );
    refused(&room, &["v1.sock", &long], &message);
    for args in [&["v1.sock"][..], &[], &["v1.sock", "a:22", "b"]] {
        let message = format!(
            "{NAME} takes two arguments, SOCKET and HOST:PORT[|CLUSTER], and has {}",
            args.len()
        );
        refused(&room, args, &message);
    }
}

#[test]
fn a_multiplexer_that_does_not_answer_ends_at_the_deadline() {
    let room = Room::new();
    let listener = listen(&room.path().join("v1.sock"));
    // A queue of one, and full: the next connection would wait for ever.
    rustix::net::listen(&listener, 0).expect("listening again shortens the queue");
    let _waiting = UnixStream::connect(room.path().join("v1.sock")).expect("the queue has room");
    let begin = Instant::now();
    refused(
        &room,
        &["v1.sock", "a:22"],
        "cannot reach tbot at v1.sock: no answer in 10s",
    );
    let took = begin.elapsed();
    assert!(
        took >= Duration::from_secs(9) && took < Duration::from_secs(20),
        "{took:?}"
    );
}
