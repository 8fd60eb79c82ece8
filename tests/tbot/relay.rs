//! Bytes between clients and targets: nothing lost, nobody blocked, everything counted.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Mutex;
use std::time::Duration;

use rustix::process::Signal;

use crate::common::procfs;
use crate::common::server::{Server, echo};
use crate::common::tbot::{Counts, Start, Tbot};
use crate::common::v1::{
    Errors, assert_echoes, assert_refused, connect, dial, dial_with_stderr, read_to_end, request,
    send_with_descriptors,
};
use crate::common::wait::until;

#[test]
fn a_client_that_has_sent_all_still_gets_the_answer() {
    let (tbot, counting) = (Tbot::start(), Server::counting());
    let mut client = dial(&tbot, counting.address);
    client
        .write_all(&[1; 100_000])
        .expect("the multiplexer reads");
    client.shutdown(Shutdown::Write).expect("it is open");
    assert_eq!(read_to_end(&mut client), b"100000");
    tbot.await_counts(Counts {
        started: 1,
        ok: 1,
        ..Counts::default()
    });
}

#[test]
fn a_target_that_has_sent_all_still_gets_the_rest() {
    let (sender, received) = std::sync::mpsc::channel();
    let sender = Mutex::new(sender);
    let target = Server::start(move |mut stream| {
        stream.write_all(b"all I say").ok();
        stream.shutdown(Shutdown::Write).ok();
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).ok();
        let sender = sender.lock().expect("no other connection panicked");
        sender.send(rest).ok();
    });
    let tbot = Tbot::start();
    let mut client = dial(&tbot, target.address);
    assert_eq!(read_to_end(&mut client), b"all I say");
    let rest = vec![5; 100_000];
    client.write_all(&rest).expect("this direction is open");
    client.shutdown(Shutdown::Write).expect("it is open");
    let got = received
        .recv_timeout(crate::common::wait::PATIENCE)
        .expect("the target saw the end");
    assert!(got == rest, "{} of {} bytes", got.len(), rest.len());
    tbot.await_counts(Counts {
        started: 1,
        ok: 1,
        ..Counts::default()
    });
}

#[test]
fn request_bytes_and_end_may_come_at_once() {
    let (tbot, counting) = (Tbot::start(), Server::counting());
    let mut client = connect(&tbot);
    let mut bytes = request(counting.address);
    bytes.extend_from_slice(&[b'x'; 1000]);
    client.write_all(&bytes).expect("the multiplexer reads");
    client.shutdown(Shutdown::Write).expect("it is open");
    assert_eq!(read_to_end(&mut client), b"1000");
}

#[test]
fn sixty_four_megabytes_pass_both_ways_at_once_intact() {
    const LENGTH: usize = 64 << 20;
    let (tbot, echo) = (Tbot::start(), Server::echo());
    let mut client = dial(&tbot, echo.address);
    let mut sender = client.try_clone().expect("a second handle");
    let sending = std::thread::spawn(move || {
        send_noise(&mut sender, LENGTH);
        sender.shutdown(Shutdown::Write).expect("it is open");
    });
    assert_noise(&mut client, LENGTH);
    assert_eq!(read_to_end(&mut client), b"", "no more than was sent");
    sending.join().expect("everything was sent");
    tbot.await_counts(Counts {
        started: 1,
        ok: 1,
        ..Counts::default()
    });
    for direction in ["sent", "received"] {
        let series =
            format!("tbot_ssh_multiplexer_relayed_bytes_total{{direction=\"{direction}\"}}");
        assert_eq!(tbot.metric(&series), LENGTH as u64, "{direction}");
    }
}

#[test]
fn many_streams_at_once_stay_apart() {
    const STREAMS: usize = 40;
    const LENGTH: usize = 1 << 20;
    let (tbot, echo) = (Tbot::start(), Server::echo());
    std::thread::scope(|scope| {
        for stream in 1..=STREAMS {
            let mut client = dial(&tbot, echo.address);
            let mut sender = client.try_clone().expect("a second handle");
            // Each begins elsewhere in the noise, and sends in pieces of its own size.
            let first = stream * LENGTH / 16;
            let bytes: Vec<u8> = (first..first + LENGTH / 16).flat_map(noise).collect();
            scope.spawn(move || {
                for piece in bytes.chunks(stream * 777) {
                    sender.write_all(piece).expect("the multiplexer reads");
                }
                sender.shutdown(Shutdown::Write).expect("it is open");
            });
            scope.spawn(move || {
                assert_noise_from(&mut client, first, first * 16 + LENGTH);
                assert_eq!(read_to_end(&mut client), b"", "no more than was sent");
            });
        }
    });
    tbot.await_counts(Counts {
        started: STREAMS as u64,
        ok: STREAMS as u64,
        ..Counts::default()
    });
}

#[test]
fn a_client_that_does_not_read_loses_nothing_and_blocks_nobody() {
    const LENGTH: usize = 16 << 20;
    let (tbot, echo) = (Tbot::start(), Server::echo());
    let source = Server::start(|mut stream| send_noise(&mut stream, LENGTH));
    let mut slow: Vec<_> = (0..8).map(|_| dial(&tbot, source.address)).collect();
    for client in &mut slow {
        // Its stream is under way, and will fill every buffer.
        let mut first = [0; 16];
        client.read_exact(&mut first).expect("the source sends");
        assert_eq!(first, noise(0));
    }
    let mut fast = dial(&tbot, echo.address);
    let mut sender = fast.try_clone().expect("a second handle");
    let sending = std::thread::spawn(move || send_noise(&mut sender, LENGTH));
    assert_noise(&mut fast, LENGTH);
    sending.join().expect("everything was sent");
    drop(fast);
    for client in &mut slow {
        assert_noise_from(client, 1, LENGTH);
        assert_eq!(read_to_end(client), b"");
    }
    drop(slow);
    tbot.await_ended(9);
}

#[test]
fn bulk_for_more_clients_than_have_pipes_arrives_whole_and_goes_on_with_little() {
    const CLIENTS: usize = 20;
    const LENGTH: usize = 16 << 20;
    let source = Server::start(|mut stream| {
        send_noise(&mut stream, LENGTH);
        echo(stream);
    });
    let tbot = Tbot::start();
    let pipes = || {
        let all = procfs::descriptor_list(tbot.pid());
        all.iter().filter(|one| one.starts_with("pipe:")).count()
    };
    let before = pipes();
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| dial(&tbot, source.address)).collect();
    for client in &mut clients {
        assert_noise(client, LENGTH / 2);
    }
    // Those who do not read now have some in them, each two descriptors.
    until("pipes in use, and not too many", || {
        let now = pipes();
        (before < now && now <= before + 32).then_some(())
    });
    for client in &mut clients {
        assert_noise_from(client, LENGTH / 2 / 16, LENGTH);
        for _ in 0..100 {
            assert_echoes(client, b"little");
        }
    }
    // What is little needs none.
    assert_eq!(pipes(), before);
    for client in &mut clients {
        client.shutdown(Shutdown::Write).expect("it is open");
        assert_eq!(read_to_end(client), b"");
    }
    drop(clients);
    tbot.await_ended(CLIENTS as u64);
}

#[test]
fn a_client_that_goes_away_ends_a_target_that_sends_for_ever() {
    let (tbot, echo) = (Tbot::start(), Server::echo());
    assert_echoes(&mut dial(&tbot, echo.address), b"warm");
    tbot.await_ended(1);
    let before = procfs::descriptors(tbot.pid());
    let endless = Server::start(|mut stream| while stream.write_all(&[0; 4096]).is_ok() {});
    for _ in 0..5 {
        let mut client = dial(&tbot, endless.address);
        let mut some = [0; 4096];
        client.read_exact(&mut some).expect("it sends");
    }
    tbot.await_ended(6);
    tbot.await_descriptors(before);
}

/// Writes until every buffer up to the target is full, and leaves.
fn fill(tbot: &Tbot, target: &Server) {
    let mut client = dial(tbot, target.address);
    let short = Some(Duration::from_millis(300));
    client.set_write_timeout(short).expect("a good time-out");
    while client.write(&[0; 60_000]).is_ok() {}
}

#[test]
fn a_client_that_goes_away_unread_ends_a_target_that_waits_to_be_read() {
    let tbot = Tbot::start();
    let echo = Server::start(|stream| {
        stream.set_write_timeout(None).expect("it is open");
        echo(stream);
    });
    (0..3).for_each(|_| fill(&tbot, &echo));
    assert_eq!(tbot.await_ended(3).ok, 3);
    // All that it sent has arrived, and more than came back.
    let sent = "tbot_ssh_multiplexer_relayed_bytes_total{direction=\"sent\"}";
    assert!(tbot.metric(sent) >= 3 * 60_000);
}

#[test]
#[cfg(feature = "pprof")] // once: it takes its time
fn a_client_that_goes_away_ends_a_target_that_never_reads() {
    let tbot = Tbot::start();
    let (leave, left) = std::sync::mpsc::channel::<()>();
    let left = Mutex::new(left);
    let deaf = Server::start(move |mut stream| {
        stream.write_all(b"one thing, and no more").ok();
        // It is open until the test ends.
        left.lock().expect("nobody panics").recv().ok();
    });
    fill(&tbot, &deaf);
    let counts = tbot.await_ended(1);
    assert_eq!(counts.error, 1, "what it sent was not delivered");
    drop(leave);
}

#[test]
#[cfg(feature = "pprof")] // once: it takes its time
fn what_a_client_that_goes_away_has_sent_reaches_a_target_that_is_slow() {
    const BYTES: usize = 400_000;
    let tbot = Tbot::start();
    let (finish, finished) = std::sync::mpsc::channel();
    let finish = Mutex::new(finish);
    let slow = Server::start(move |mut stream| {
        let few = rustix::net::sockopt::set_socket_recv_buffer_size(&stream, 8192);
        few.expect("it is a socket");
        // Full windows all the way, for longer than the kernel would give it by TCP_USER_TIMEOUT of 20 s.
        let (mut some, mut read) = ([0; 8192], 0);
        while let Ok(n @ 1..) = stream.read(&mut some) {
            read += n;
            std::thread::sleep(Duration::from_millis(500));
        }
        finish.lock().expect("nobody panics").send(read).ok();
    });
    let mut client = dial(&tbot, slow.address);
    client.write_all(&vec![7; BYTES]).expect("tbot takes it");
    drop(client);
    assert_eq!(
        finished.recv_timeout(crate::common::wait::PATIENCE),
        Ok(BYTES)
    );
    assert_eq!(tbot.await_ended(1).ok, 1);
}

#[test]
fn a_target_that_resets_is_an_error_and_ends_the_client() {
    let resetting = Server::start(|mut stream| {
        stream.write_all(b"!").ok();
        stream.read_exact(&mut [0]).ok();
        let now = Some(std::time::Duration::ZERO);
        rustix::net::sockopt::set_socket_linger(&stream, now).ok();
    });
    let tbot = Tbot::start();
    let mut client = dial(&tbot, resetting.address);
    client.read_exact(&mut [0]).expect("it greets");
    client.write_all(b"x").expect("it reads");
    read_to_end(&mut client);
    tbot.await_counts(Counts {
        started: 1,
        error: 1,
        ..Counts::default()
    });
}

#[test]
fn two_thousand_connections_at_once_need_no_thread_each() {
    const CONNECTIONS: usize = 2000;
    crate::common::raise_descriptor_limit();
    let held = Mutex::new(Vec::new());
    // Greets and holds on without a thread that waits.
    let target = Server::start(move |mut stream| {
        stream.write_all(b"!").ok();
        held.lock().expect("nothing panics here").push(stream);
    });
    let tbot = Tbot::start();
    let at_rest = procfs::threads(tbot.pid()).len();
    let mut clients: Vec<_> = (0..CONNECTIONS)
        .map(|_| dial(&tbot, target.address))
        .collect();
    for client in &mut clients {
        client.read_exact(&mut [0]).expect("the target greets");
    }
    tbot.await_counts(Counts {
        started: CONNECTIONS as u64,
        in_flight: CONNECTIONS as u64,
        ..Counts::default()
    });
    let threads = procfs::threads(tbot.pid());
    let kinds: BTreeSet<&String> = threads.iter().collect();
    assert!(
        threads.len() <= at_rest + 64,
        "{at_rest} threads at rest, now {} of {kinds:?}",
        threads.len()
    );
    // One that comes on top is served like any.
    let echo = Server::echo();
    assert_echoes(&mut dial(&tbot, echo.address), b"one more");
}

#[test]
fn a_flood_of_connections_leaves_nothing_behind() {
    const CONNECTIONS: u64 = 2000;
    let (tbot, echo) = (Tbot::start(), Server::echo());
    assert_echoes(&mut dial(&tbot, echo.address), b"warm");
    tbot.await_ended(1);
    let before = procfs::descriptors(tbot.pid());
    for number in 0..CONNECTIONS {
        let mut client = connect(&tbot);
        // Some go before their request, some in it, some right behind it.
        let request = request(echo.address);
        let part = match number % 3 {
            0 => 0,
            1 => 5,
            _ => request.len(),
        };
        client
            .write_all(&request[..part])
            .expect("the multiplexer reads");
    }
    let counts = tbot.await_ended(CONNECTIONS + 1);
    assert!(
        counts.error >= CONNECTIONS * 2 / 3,
        "a request that never came is an error: {counts:?}"
    );
    tbot.await_descriptors(before);
    assert_echoes(&mut dial(&tbot, echo.address), b"served");
}

#[test]
fn a_connection_over_the_limit_is_told_so_and_the_next_is_served_again() {
    let (tbot, target) = (Tbot::with(&["--max-connections", "5"]), Server::greeting());
    let mut clients: Vec<_> = (0..5).map(|_| dial(&tbot, target.address)).collect();
    for client in &mut clients {
        client.read_exact(&mut [0]).expect("it greets");
    }
    let (mut sixth, errors) = dial_with_stderr(&tbot, target.address);
    let line = errors.one_line();
    assert!(line.contains('5'), "{line:?} names the limit");
    assert_refused(&mut sixth);
    tbot.await_counts(Counts {
        started: 6,
        error: 1,
        in_flight: 5,
        ..Counts::default()
    });
    assert_eq!(tbot.refused("limit"), 1);
    for client in &mut clients {
        assert_echoes(client, b"undisturbed");
    }
    drop(clients.pop());
    tbot.await_in_flight(4);
    let mut next = dial(&tbot, target.address);
    next.read_exact(&mut [0]).expect("it greets");
}

#[test]
fn out_of_descriptors_it_refuses_and_lives() {
    let tbot = Start::multiplexer()
        .through(&["prlimit", "--nofile=64:64"])
        .start();
    tbot.stderr
        .line_where("what a limit of 64 descriptors means", |line| {
            line.contains("64") && (line.contains("descriptor") || line.contains("file"))
        });
    let target = Server::greeting();
    // Each waits to be served or refused before the next comes, or it is one of the stalled.
    let mut served = Vec::new();
    let mut refused = 0;
    for _ in 0..100 {
        let mut client = connect(&tbot);
        let (errors, writer) = Errors::pipe();
        send_with_descriptors(&client, &request(target.address), &[writer.as_fd()]);
        drop(writer);
        let mut greeting = [0];
        match client.read(&mut greeting) {
            Ok(1) => served.push(client),
            Ok(_) => refused += 1,
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => refused += 1,
            Err(error) => panic!("neither served nor refused: {error}"),
        }
        let said = errors.all();
        assert!(
            said.is_empty() || said.starts_with("tbot: ") && said.lines().count() == 1,
            "{said:?}"
        );
    }
    assert!(
        served.len() >= 5 && refused >= 50,
        "{} served, {refused} refused",
        served.len()
    );
    for client in &mut served {
        assert_echoes(client, b"undisturbed");
    }
    let counts = tbot.counts();
    assert_eq!(counts.in_flight, served.len() as u64, "{counts:?}");
    drop(served);
    let counts = tbot.await_ended(100);
    assert_eq!(counts.error, refused, "{counts:?}");
    let mut next = dial(&tbot, target.address);
    next.read_exact(&mut [0]).expect("it greets");
}

/// The 16 bytes at place `16 * number` of a stream in which no two blocks are alike.
fn noise(number: usize) -> [u8; 16] {
    let mixed = (number as u128 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
    mixed.to_le_bytes()
}

/// Sends the first `length` bytes of the stream.
fn send_noise(to: &mut impl Write, length: usize) {
    for start in (0..length / 16).step_by(4096) {
        let page: Vec<u8> = (start..(start + 4096).min(length / 16))
            .flat_map(noise)
            .collect();
        if to.write_all(&page).is_err() {
            return;
        }
    }
}

/// Reads the first `length` bytes of the stream.
fn assert_noise(from: &mut impl Read, length: usize) {
    assert_noise_from(from, 0, length);
}

/// Reads them where some blocks were read before.
fn assert_noise_from(from: &mut impl Read, first: usize, length: usize) {
    for start in (first..length / 16).step_by(4096) {
        let wanted: Vec<u8> = (start..(start + 4096).min(length / 16))
            .flat_map(noise)
            .collect();
        let mut page = vec![0; wanted.len()];
        from.read_exact(&mut page).expect("the stream goes on");
        assert!(page == wanted, "differs within 64 KiB of {}", start * 16);
    }
}

#[test]
fn bytes_behind_those_that_came_with_a_descriptor_arrive_without_more() {
    // Says nothing that would have tbot look again.
    let target = Server::start(|mut stream| {
        stream.write_all(b"!").ok();
        let mut all = [0; 16];
        if stream.read_exact(&mut all).is_ok() {
            stream.write_all(&all).ok();
        }
    });
    let tbot = Tbot::start();
    let mut client = dial(&tbot, target.address);
    client.read_exact(&mut [0]).expect("it is relayed");
    let (_errors, writer) = Errors::pipe();
    // So that all of it is there when it looks: a read ends with what a descriptor came with.
    tbot.signal(Signal::STOP);
    until("it stands still", || {
        (procfs::state(tbot.pid()) == 'T').then_some(())
    });
    send_with_descriptors(&client, b"with", &[writer.as_fd()]);
    client.write_all(b" and without").expect("there is room");
    tbot.signal(Signal::CONT);
    let mut back = [0; 16];
    client.read_exact(&mut back).expect("all of it comes back");
    assert_eq!(&back, b"with and without");
}

#[test]
fn connections_are_shared_among_the_threads() {
    let (tbot, echo) = (Tbot::start(), Server::echo());
    let threads = procfs::serving(tbot.pid()).len();
    let watched = || {
        let mut watched = procfs::watched(tbot.pid());
        watched.retain(|sockets| *sockets > 4);
        watched
    };
    let mut clients: Vec<_> = (0..threads * 10)
        .map(|_| dial(&tbot, echo.address))
        .collect();
    for client in &mut clients {
        assert_echoes(client, b"relayed");
    }
    // Two sockets each, and two that are no connection's.
    assert_eq!(watched(), vec![22; threads]);
}

#[test]
fn a_crowd_at_once_gets_as_many_places_as_there_are() {
    const PLACES: usize = 10;
    let (tbot, target) = (
        Tbot::with(&["--max-connections", &PLACES.to_string()]),
        Server::greeting(),
    );
    for round in 1..=5 {
        let mut clients: Vec<_> = std::thread::scope(|scope| {
            let dial = || dial(&tbot, target.address);
            let dialling: Vec<_> = (0..50).map(|_| scope.spawn(dial)).collect();
            dialling
                .into_iter()
                .map(|one| one.join().expect("it dialled"))
                .collect()
        });
        let served = |client: &mut UnixStream| client.read(&mut [0]).is_ok_and(|read| read == 1);
        clients.retain_mut(served);
        assert_eq!(clients.len(), PLACES);
        assert_eq!(tbot.refused("limit"), round * 40);
        drop(clients);
        tbot.await_in_flight(0);
    }
}
