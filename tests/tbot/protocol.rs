//! The v1 protocol over the socket: requests, the bytes behind them, and refusals.
#![cfg(feature = "pprof")]

use std::io::{PipeWriter, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::mpsc;
use std::time::Duration;

use rustix::process::Signal;

use crate::common::black_hole::BlackHole;
use crate::common::procfs;
use crate::common::server::{ClosedPort, Server, echo, listen_on};
use crate::common::tbot::{Counts, Start, Tbot};
use crate::common::v1::{
    Errors, assert_echoes, assert_refused, connect, dial, dial_with_stderr, read_to_end, request,
    send_with_descriptors,
};
use crate::common::wait::finishes;

#[test]
fn a_request_may_come_byte_by_byte() {
    let (tbot, echo) = (Tbot::start(), Server::echo());
    let mut client = connect(&tbot);
    for byte in request(echo.address) {
        client.write_all(&[byte]).expect("the multiplexer reads");
        // Nothing tells that a byte was read; giving way makes it likely that each read sees one.
        std::thread::yield_now();
    }
    assert_echoes(&mut client, b"SSH-2.0-test\r\n");
}

#[test]
fn bytes_right_behind_the_request_belong_to_the_stream() {
    let (tbot, echo) = (Tbot::start(), Server::echo());
    let mut client = connect(&tbot);
    let mut bytes = request(echo.address);
    // NUL bytes and a second request among them mean nothing any more.
    bytes.extend_from_slice(b"SSH-2.0-test\r\n\0\0other:22\0");
    client.write_all(&bytes).expect("the multiplexer reads");
    client.shutdown(Shutdown::Write).expect("it is open");
    assert_eq!(
        read_to_end(&mut client),
        b"SSH-2.0-test\r\n\0\0other:22\0",
        "all of them, and no more"
    );
    tbot.await_counts(Counts {
        started: 1,
        ok: 1,
        ..Counts::default()
    });
}

#[test]
fn bytes_sent_long_before_the_target_is_connected_arrive() {
    let (tbot, counting) = (Tbot::start(), Server::counting());
    let mut client = connect(&tbot);
    // More than any buffer on the way: it must wait in the client, not be lost.
    let early = vec![7; 3_000_000];
    let (sender, request) = (client.try_clone(), request(counting.address));
    let sending = std::thread::spawn(move || {
        let mut sender = sender.expect("a second handle");
        sender.write_all(&request).expect("the multiplexer reads");
        sender.write_all(&early).expect("the multiplexer reads");
        sender.shutdown(Shutdown::Write).expect("it is open");
    });
    assert_eq!(read_to_end(&mut client), b"3000000");
    sending.join().expect("everything was sent");
}

#[test]
fn a_dial_error_is_one_line_on_the_client_s_stderr() {
    let (tbot, closed) = (Tbot::start(), ClosedPort::new());
    let (mut client, errors) = dial_with_stderr(&tbot, closed.address);
    let line = errors.one_line();
    assert!(line.contains(&closed.address.to_string()), "{line}");
    assert_refused(&mut client);
    assert_eq!(tbot.await_ended(1).error, 1);
    // The operator sees it too.
    tbot.stderr
        .line_where("the refused target in the log", |line| {
            line.contains(&closed.address.to_string())
        });
}

#[test]
fn a_dial_error_without_a_stderr_closes_the_connection() {
    let (tbot, closed) = (Tbot::start(), ClosedPort::new());
    assert_refused(&mut dial(&tbot, closed.address));
    assert_eq!(tbot.await_ended(1).error, 1);
    assert_eq!(tbot.refused("refused"), 1);
}

#[test]
fn the_client_s_stderr_is_closed_untouched_when_proxying_begins() {
    let (tbot, echo) = (Tbot::start(), Server::echo());
    let (mut client, errors) = dial_with_stderr(&tbot, echo.address);
    assert_echoes(&mut client, b"up");
    assert_eq!(errors.all(), "");
    assert_echoes(&mut client, b"still up");
}

#[test]
fn a_stderr_may_come_with_the_first_byte_alone() {
    let (tbot, closed) = (Tbot::start(), ClosedPort::new());
    let mut client = connect(&tbot);
    let (errors, writer) = Errors::pipe();
    let bytes = request(closed.address);
    send_with_descriptors(&client, &bytes[..1], &[writer.as_fd()]);
    drop(writer);
    client
        .write_all(&bytes[1..])
        .expect("the multiplexer reads");
    errors.one_line();
    assert_refused(&mut client);
}

#[test]
fn a_stderr_that_is_a_full_pipe_blocks_nobody() {
    let (tbot, closed, echo) = (Tbot::start(), ClosedPort::new(), Server::echo());
    let (unread, writer) = Errors::pipe();
    fill(&writer);
    let mut stuck: Vec<_> = (0..50)
        .map(|_| {
            let client = connect(&tbot);
            send_with_descriptors(&client, &request(closed.address), &[writer.as_fd()]);
            client
        })
        .collect();
    for client in &mut stuck {
        assert_refused(client);
    }
    assert_echoes(&mut dial(&tbot, echo.address), b"served");
    assert_eq!(tbot.await_ended(51).error, 50);
    drop(unread);
}

#[test]
fn a_stderr_that_nobody_reads_any_more_does_no_harm() {
    let (tbot, closed, echo) = (Tbot::start(), ClosedPort::new(), Server::echo());
    let (reader, writer) = Errors::pipe();
    drop(reader);
    let mut client = connect(&tbot);
    send_with_descriptors(&client, &request(closed.address), &[writer.as_fd()]);
    assert_refused(&mut client);
    assert_echoes(&mut dial(&tbot, echo.address), b"no SIGPIPE");
}

#[test]
fn a_stderr_that_cannot_be_written_to_does_no_harm() {
    let (tbot, closed, echo) = (Tbot::start(), ClosedPort::new(), Server::echo());
    let read_only = std::fs::File::open("/dev/null").expect("every system has it");
    let mut client = connect(&tbot);
    send_with_descriptors(&client, &request(closed.address), &[read_only.as_fd()]);
    assert_refused(&mut client);
    assert_echoes(&mut dial(&tbot, echo.address), b"served");
}

#[test]
fn a_stderr_that_takes_its_time_to_close_blocks_nobody() {
    let (tbot, closed, echo) = (Tbot::start(), ClosedPort::new(), Server::echo());
    for target in [closed.address, echo.address] {
        for before in [0, 1, 7] {
            let client = connect(&tbot);
            let _unread = pass_lingering(&tbot, &client, before, &request(target));
            let mut other = dial(&tbot, echo.address);
            finishes("another client is served", move || {
                assert_echoes(&mut other, b"served")
            });
        }
    }
}

#[test]
fn descriptors_in_the_stream_that_take_their_time_to_close_block_nobody() {
    let (tbot, hole, echo) = (Tbot::start(), BlackHole::open(), Server::echo());
    // Read, on every thread that relays; and thrown away unread with a client that is given up.
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut unread = Vec::new();
    for target in [echo.address, hole.address] {
        for _ in 0..threads {
            let mut client = dial(&tbot, target);
            if target == echo.address {
                assert_echoes(&mut client, b"up");
            }
            unread.push(pass_lingering(&tbot, &client, 0, b"x"));
            if target == hole.address {
                client.shutdown(Shutdown::Both).expect("it is connected");
            }
        }
        let others: Vec<_> = (0..threads).map(|_| dial(&tbot, echo.address)).collect();
        finishes("other clients are served", move || {
            for mut other in others {
                assert_echoes(&mut other, b"served");
            }
        });
    }
}

/// Sends `bytes` with descriptors of which the last takes its time, as long as what this returns lives,
/// and which only tbot has then.
#[must_use]
fn pass_lingering(tbot: &Tbot, client: &UnixStream, before: usize, bytes: &[u8]) -> TcpListener {
    let null = std::fs::File::open("/dev/null").expect("every system has it");
    let (unread, lingering) = lingering();
    // Were it closed there before it is here, we would wait.
    tbot.signal(Signal::STOP);
    let mut descriptors = vec![null.as_fd(); before];
    descriptors.push(lingering.as_fd());
    send_with_descriptors(client, bytes, &descriptors);
    drop(lingering);
    tbot.signal(Signal::CONT);
    unread
}

/// A connection that waits for an hour when the last who has it closes it, and its other end.
fn lingering() -> (TcpListener, TcpStream) {
    let listener = listen_on(Ipv4Addr::LOCALHOST.into(), 1);
    let address = listener.local_addr().expect("it is bound");
    let mut stream = TcpStream::connect(address).expect("it listens");
    stream.set_nonblocking(true).expect("a socket can be");
    while stream.write(&[0; 65536]).is_ok() {}
    let hour = Some(Duration::from_secs(3600));
    rustix::net::sockopt::set_socket_linger(&stream, hour).expect("a socket can");
    (listener, stream)
}

#[test]
fn descriptors_beyond_the_one_are_closed() {
    let (tbot, echo) = (Tbot::start(), Server::echo());
    assert_echoes(&mut dial(&tbot, echo.address), b"warm");
    tbot.await_ended(1);
    let before = procfs::descriptors(tbot.pid());
    let (unread, writer) = Errors::pipe();
    for count in [2, 10, 253] {
        let mut client = connect(&tbot);
        let many = vec![writer.as_fd(); count];
        send_with_descriptors(&client, &request(echo.address), &many);
        // Served or refused, it ends.
        client.shutdown(Shutdown::Write).ok();
        read_to_end(&mut client);
    }
    // Nor do they stay when they come one by one, or in the middle of the stream.
    let mut client = connect(&tbot);
    for byte in request(echo.address) {
        send_with_descriptors(&client, &[byte], &[writer.as_fd()]);
    }
    assert_echoes(&mut client, b"up");
    send_with_descriptors(&client, b"x", &[writer.as_fd()]);
    let mut back = [0];
    client.read_exact(&mut back).expect("the target answers");
    drop(client);
    tbot.await_ended(5);
    tbot.await_descriptors(before);
    drop(unread);
}

#[test]
fn an_ipv6_target_is_in_brackets() {
    if !crate::common::has_ipv6() {
        return crate::common::not_tested("IPv6 targets", "this machine has no ::1");
    }
    let tbot = Tbot::start();
    let echo = Server::start_on(Ipv6Addr::LOCALHOST.into(), echo);
    let target = format!("[::1]:{}", echo.address.port());
    assert_echoes(&mut dial(&tbot, target), b"six");
}

#[test]
fn localhost_is_reached_whichever_family_listens() {
    if !crate::common::has_ipv6() {
        return crate::common::not_tested("localhost by IPv6", "this machine has no ::1");
    }
    let Some(start) = with_hosts("127.0.0.1 localhost\n::1 localhost\n") else {
        return crate::common::not_tested("localhost by IPv6", "no mount namespace allowed here");
    };
    let tbot = start.start();
    for ip in [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()] {
        let echo = Server::start_on(ip, echo);
        let target = format!("localhost:{}", echo.address.port());
        assert_echoes(&mut dial(&tbot, target), b"whichever");
    }
}

#[test]
fn every_address_of_a_name_is_tried() {
    let hosts = "127.0.0.2 many.test\n127.0.0.3 many.test\n127.0.0.1 many.test\n";
    let Some(start) = with_hosts(hosts) else {
        return crate::common::not_tested("all addresses", "no mount namespace allowed here");
    };
    let tbot = start.start();
    let echo = Server::echo();
    let target = format!("many.test:{}", echo.address.port());
    let (mut client, errors) = dial_with_stderr(&tbot, target);
    assert_echoes(&mut client, b"one of them");
    assert_eq!(errors.all(), "", "addresses that fail are no news");

    let closed = ClosedPort::new();
    let target = format!("many.test:{}", closed.address.port());
    let (mut client, errors) = dial_with_stderr(&tbot, &target);
    let line = errors.one_line();
    assert!(line.contains(&target), "{line} names {target}");
    assert_refused(&mut client);
}

/// A tbot that knows these hosts: a mount that it alone sees. `None` where that is not allowed.
#[test]
fn an_address_that_fails_makes_way_for_the_next_at_once() {
    let hole = BlackHole::open();
    let port = hole.address.port();
    let good = Ipv4Addr::new(127, 128, 0, 1);
    let _listener = TcpListener::bind((good, port)).expect("a port that is free elsewhere");
    // In the order of getaddrinfo, which has what is near to our own address first.
    let addresses = (1..=15).map(|n| Ipv4Addr::new(127, 0, 0, n)).chain([good]);
    let hosts: String = addresses.map(|ip| format!("{ip} mixed.test\n")).collect();
    let Some(start) = with_hosts(&hosts) else {
        return crate::common::not_tested("addresses that fail", "no mount namespace allowed here");
    };
    // Less than 14 times the 250 ms that an address without an answer may take.
    let tbot = start.args(["--connect-timeout", "3s"]).start();
    let (client, errors) = dial_with_stderr(&tbot, format!("mixed.test:{port}"));
    assert_eq!(errors.all(), "", "the last address is reached in time");
    drop(client);
}

fn with_hosts(hosts: &str) -> Option<Start> {
    const BECOME_IT: &str = "mount --bind \"$0\" /etc/hosts && exec \"$@\"";
    let enter: &[&str] = if crate::common::is_root() {
        &["unshare", "--mount", "sh", "-c", BECOME_IT]
    } else {
        &[
            "unshare",
            "--map-current-user",
            "--keep-caps",
            "--mount",
            "sh",
            "-c",
            BECOME_IT,
        ]
    };
    let start = Start::multiplexer();
    let file = start.directory().join("hosts");
    std::fs::write(&file, hosts).expect("the directory is ours");
    let file = file.display().to_string();
    std::process::Command::new(enter[0])
        .args(&enter[1..])
        .args([&file, "true"])
        .output()
        .is_ok_and(|output| output.status.success())
        .then(|| start.through(&[enter, &[&file]].concat()))
}

#[test]
fn malformed_requests_are_refused_with_a_line_that_says_so() {
    let tbot = Tbot::start();
    let too_long = format!("{}:22\0", "a".repeat(5000));
    let cases: &[(&str, &str)] = &[
        ("nothing", "\0"),
        ("no port", "host\0"),
        ("empty port", "host:\0"),
        ("empty host", ":22\0"),
        ("port 0", "host:0\0"),
        ("port 65536", "host:65536\0"),
        ("port abc", "host:abc\0"),
        ("signed port", "host:+22\0"),
        ("spaced port", "host: 22\0"),
        ("two clusters", "host:22|a|b\0"),
        ("no end of the bracket", "[::1:22\0"),
        ("empty brackets", "[]:22\0"),
        ("IPv6 without brackets", "::1:22\0"),
        ("a newline", "ho\nst:22\0"),
        ("an escape", "ho\x1b[2Jst:22\0"),
        ("a space", "ho st:22\0"),
        ("over 4 KiB", &too_long),
    ];
    for (number, (what, bytes)) in cases.iter().enumerate() {
        let mut client = connect(&tbot);
        let (errors, writer) = Errors::pipe();
        send_with_descriptors(&client, bytes.as_bytes(), &[writer.as_fd()]);
        drop(writer);
        assert_refused(&mut client);
        println!("{what}: {}", errors.one_line());
        tbot.await_counts(Counts {
            started: number as u64 + 1,
            error: number as u64 + 1,
            ..Counts::default()
        });
        assert_eq!(tbot.refused("malformed"), number as u64 + 1, "{what}");
    }
}

#[test]
fn a_name_is_shown_as_it_was_sent() {
    let tbot = Start::multiplexer()
        .env("RES_OPTIONS", "timeout:1 attempts:1")
        .start();
    let (mut client, errors) = dial_with_stderr(&tbot, "h\u{f4}te..invalid:22");
    let line = errors.one_line();
    assert!(line.contains("h\u{f4}te..invalid"), "{line}");
    assert_refused(&mut client);
}

#[test]
fn a_request_that_is_not_text_is_refused() {
    let tbot = Tbot::start();
    for bytes in [&b"\xff\xfe:22\0"[..], b"\x80\0", b"\x01\x02\x03\0"] {
        let mut client = connect(&tbot);
        client.write_all(bytes).expect("the multiplexer reads");
        assert_refused(&mut client);
    }
    assert_eq!(tbot.await_ended(3).error, 3);
}

#[test]
fn a_request_without_an_end_of_4_kib_is_refused_while_the_client_still_sends() {
    let tbot = Tbot::start();
    let mut client = connect(&tbot);
    // It is refused somewhere in the middle, so the rest cannot be written.
    client.write_all(&vec![b'a'; 1 << 20]).ok();
    assert_refused(&mut client);
    assert_eq!(tbot.await_ended(1).error, 1);
}

#[test]
fn a_client_that_ends_before_its_request_does_is_refused() {
    let tbot = Tbot::start();
    for part in [&b""[..], b"127.0.0.1:2"] {
        let mut client = connect(&tbot);
        client.write_all(part).expect("the multiplexer reads");
        client.shutdown(Shutdown::Write).expect("it is open");
        assert_refused(&mut client);
    }
    assert_eq!(tbot.await_ended(2).error, 2);
}

#[test]
fn a_request_that_does_not_come_in_time_is_refused() {
    let tbot = Tbot::start();
    let mut silent = connect(&tbot);
    let mut begun = connect(&tbot);
    begun.write_all(b"127.0.0.1:2").expect("it reads");
    // A byte now and then is no reason for more time.
    let dripping = connect(&tbot);
    let mut drip = dripping.try_clone().expect("a second handle");
    let (stop, stopped) = mpsc::channel::<()>();
    let dripper = std::thread::spawn(move || {
        let pause = std::time::Duration::from_millis(500);
        while stopped.recv_timeout(pause) == Err(mpsc::RecvTimeoutError::Timeout) {
            drip.write_all(b"a").ok();
        }
    });
    let mut dripping = dripping;
    for client in [&mut silent, &mut begun, &mut dripping] {
        assert_refused(client);
    }
    drop(stop);
    dripper.join().expect("it only writes");
    assert_eq!(tbot.await_ended(3).error, 3);
    assert_eq!(tbot.refused("slow"), 3);
}

#[test]
fn an_unknown_cluster_is_refused_by_name() {
    let tbot = Tbot::with(&["--cluster-name", "prod"]);
    let echo = Server::echo();
    let (mut client, errors) = dial_with_stderr(&tbot, format!("{}|staging", echo.address));
    let line = errors.one_line();
    assert!(line.contains("staging"), "{line}");
    assert_refused(&mut client);
    assert_eq!(tbot.refused("cluster"), 1);
    // Its own, and the one it is for want of another, are served.
    for target in [
        format!("{}|prod", echo.address),
        format!("{}", echo.address),
        format!("127.0.0.1.prod:{}|prod", echo.address.port()),
    ] {
        assert_echoes(&mut dial(&tbot, target), b"prod");
    }
}

#[test]
fn a_black_hole_is_given_up_after_the_connect_timeout() {
    let tbot = Tbot::with(&["--connect-timeout", "500ms"]);
    let hole = BlackHole::open();
    let (mut client, errors) = dial_with_stderr(&tbot, hole.address);
    let line = errors.one_line();
    assert!(line.contains(&hole.address.to_string()), "{line}");
    assert_refused(&mut client);
    assert_eq!(tbot.await_ended(1).error, 1);
    assert_eq!(tbot.refused("timeout"), 1);
}

#[test]
fn a_client_that_goes_away_while_its_target_is_dialled_is_forgotten() {
    let tbot = Tbot::with(&["--connect-timeout", "1h"]);
    let hole = BlackHole::open();
    let before = procfs::descriptors(tbot.pid());
    let clients: Vec<_> = (0..20).map(|_| dial(&tbot, hole.address)).collect();
    let (last, errors) = dial_with_stderr(&tbot, hole.address);
    tbot.await_in_flight(21);
    drop((clients, last));
    assert_eq!(tbot.await_ended(21).error, 21);
    assert_eq!(tbot.refused("gone"), 21);
    tbot.await_descriptors(before);
    assert_eq!(errors.all(), "", "who left on purpose is told nothing");
}

/// Fills a pipe, so that the next write to it blocks.
fn fill(writer: &PipeWriter) {
    use rustix::pipe::{fcntl_getpipe_size, fcntl_setpipe_size};
    fcntl_setpipe_size(writer, 4096).expect("the smallest pipe");
    let size = fcntl_getpipe_size(writer).expect("it is a pipe");
    (&mut &*writer)
        .write_all(&vec![b'-'; size])
        .expect("it is empty");
}
