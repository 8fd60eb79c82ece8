//! Clients that are slow, silent, greedy or gone, and routes that fail.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt::set_socket_linger;
use tbot::diagnostics::{Builder, Diagnostics, Limits};
use tiny_http::Response;

use super::client::{Client, PATIENCE, ask, get, limits};

const LONG: Duration = Duration::from_secs(300);
const SHORT: Duration = Duration::from_millis(200);

/// Limits in which nothing ends by itself.
fn patient() -> Limits {
    limits(Limits::default(), |one| {
        one.head = LONG;
        one.idle = LONG;
        one.write = LONG;
        one.linger = LONG;
    })
}

fn start(builder: Builder, limits: Limits) -> Diagnostics {
    builder
        .limits(limits)
        .bind("127.0.0.1:0")
        .expect("a free port")
}

/// A service with a body that fits in no socket buffer.
fn with_big_body(base: Limits) -> Diagnostics {
    let builder = Diagnostics::builder().route("/big", |_| {
        Response::from_data(vec![b'x'; 32 * 1024 * 1024]).boxed()
    });
    // A reader that is stuck when the service ends is cut off at once.
    start(builder, limits(base, |one| one.shutdown = Duration::ZERO))
}

/// Waits until the service has cut the connection, without reading from it.
fn await_cut(client: &Client) {
    let mut ends = [PollFd::new(&client.stream, PollFlags::RDHUP)];
    let patience = Timespec::try_from(PATIENCE).expect("it fits");
    assert_eq!(
        poll(&mut ends, Some(&patience)),
        Ok(1),
        "the connection was not cut"
    );
}

#[test]
fn a_drip_feeder_meets_the_deadline_of_the_head() {
    let service = start(
        Diagnostics::builder(),
        limits(patient(), |one| one.head = SHORT),
    );
    let mut client = Client::of(&service);
    // A first request, so that the time-out of an idle connection is tried too.
    assert_eq!(client.send(get("/livez")).answer().status, 200);
    let begin = Instant::now();
    client
        .stream
        .set_read_timeout(Some(SHORT / 20))
        .expect("a good time-out");
    client.send("GET /livez HTTP/1.1\r\nX: ");
    // Each byte comes well before a time-out for single reads would end.
    while client
        .stream
        .peek(&mut [0])
        .is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
    {
        assert!(begin.elapsed() < PATIENCE, "it drips for ever");
        client.send("x");
    }
    assert_eq!(client.answer().status, 408);
}

#[test]
fn a_client_that_never_speaks_is_let_go() {
    let service = start(
        Diagnostics::builder(),
        limits(patient(), |one| one.head = SHORT),
    );
    Client::of(&service).assert_closed();
}

#[test]
fn an_idle_connection_is_closed_after_a_while() {
    let service = start(
        Diagnostics::builder(),
        limits(patient(), |one| one.idle = SHORT),
    );
    let mut client = Client::of(&service);
    assert_eq!(client.send(get("/livez")).answer().status, 200);
    client.assert_closed();
}

#[test]
fn an_idle_connection_gives_way_to_a_new_one() {
    let service = start(
        Diagnostics::builder(),
        limits(patient(), |one| one.max_connections = 1),
    );
    let mut idle = Client::of(&service);
    assert_eq!(idle.send(get("/livez")).answer().status, 200);
    assert_eq!(ask(&service, "/livez").status, 200);
    idle.assert_closed();
}

#[test]
fn the_one_longest_at_its_head_gives_way_never_the_newest() {
    let service = start(
        Diagnostics::builder(),
        limits(patient(), |one| one.max_connections = 2),
    );
    let (mut first, mut second) = (Client::of(&service), Client::of(&service));
    first.send("GET /livez");
    second.send("GET /livez");
    let third = "GET /livez HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    assert_eq!(Client::of(&service).send(third).answer().status, 200);
    first.assert_closed();
    assert_eq!(
        second.send(" HTTP/1.1\r\nHost: a\r\n\r\n").answer().status,
        200
    );
}

#[test]
fn one_who_asks_at_once_is_answered_however_many_others_come() {
    // Each of them takes the only place there is.
    let service = start(
        Diagnostics::builder(),
        limits(patient(), |one| one.max_connections = 1),
    );
    let other = |begins: &str| {
        let mut other = Client::of(&service);
        // It may be let go already.
        other.stream.write_all(begins.as_bytes()).ok();
        other
    };
    let mut prompt = 0;
    while prompt < 20 {
        let before = other("GET /livez");
        let connecting = Instant::now();
        let mut probe = Client::of(&service);
        let others = ["", "G", "", "GET /livez HTTP/1.1"].map(other);
        let request = "GET /livez HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
        let sent = probe.stream.write_all(request.as_bytes());
        // A machine that stood still for so long has made it one of those that are slow.
        if connecting.elapsed() > Duration::from_millis(20) {
            continue;
        }
        sent.expect("it has its time");
        assert_eq!(probe.answer().status, 200);
        drop((before, others));
        prompt += 1;
    }
}

#[test]
fn a_queue_of_silent_ones_is_not_waited_for_one_by_one() {
    let service = start(
        Diagnostics::builder(),
        limits(patient(), |one| one.max_connections = 1),
    );
    let begin = Instant::now();
    let silent: Vec<Client> = (0..200).map(|_| Client::of(&service)).collect();
    assert_eq!(ask(&service, "/livez").status, 200);
    // All of them had their time at once: one by one it would have been six seconds.
    let took = begin.elapsed();
    assert!(took < Duration::from_secs(5), "{took:?}");
    drop(silent);
}

#[test]
fn a_slow_reader_gets_all_of_its_answer_however_many_others_come() {
    let service = with_big_body(limits(patient(), |one| one.max_connections = 2));
    let mut reader = Client::of(&service);
    reader.send("GET /big HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    reader.stream.peek(&mut [0]).expect("the answer begins");
    let silent: Vec<Client> = (0..50).map(|_| Client::of(&service)).collect();
    assert_eq!(ask(&service, "/livez").status, 200);
    let mut all = Vec::new();
    reader.stream.read_to_end(&mut all).expect("it ends well");
    assert!(all.len() > 32 * 1024 * 1024 && all.ends_with(b"xxx"));
    drop(silent);
}

#[test]
fn a_refused_client_that_does_not_go_gives_way() {
    let service = start(
        Diagnostics::builder(),
        limits(patient(), |one| one.max_connections = 1),
    );
    let mut stays = Client::of(&service);
    assert_eq!(stays.send("nonsense\r\n\r\n").answer().status, 400);
    assert_eq!(ask(&service, "/livez").status, 200);
}

#[test]
fn a_refused_client_is_not_lingered_for_longer_than_allowed() {
    let service = start(
        Diagnostics::builder(),
        limits(patient(), |one| one.linger = SHORT),
    );
    let mut client = Client::of(&service);
    assert_eq!(client.send("nonsense\r\n\r\n").answer().status, 400);
    // What comes after the connection is closed is answered with a reset.
    let begin = Instant::now();
    while client.stream.write_all(b"x").is_ok() {
        assert!(begin.elapsed() < PATIENCE, "it lingers for ever");
        std::thread::yield_now();
    }
}

#[test]
fn a_reader_that_never_reads_is_cut_off_in_time() {
    let service = with_big_body(limits(patient(), |one| one.write = SHORT));
    let mut client = Client::of(&service);
    client.send(get("/big"));
    await_cut(&client);
}

#[test]
fn readers_that_never_read_do_not_hinder_others() {
    let service = with_big_body(patient());
    let mut stuck: Vec<Client> = (0..8).map(|_| Client::of(&service)).collect();
    for client in &mut stuck {
        client.send(get("/big").repeat(3));
    }
    assert_eq!(ask(&service, "/livez").status, 200);
}

#[test]
fn the_one_stuck_in_its_answer_gives_way_when_all_places_are_taken() {
    let service = with_big_body(limits(patient(), |one| one.max_connections = 1));
    let mut stuck = Client::of(&service);
    stuck.send(get("/big"));
    stuck.stream.peek(&mut [0]).expect("the answer begins");
    assert_eq!(ask(&service, "/livez").status, 200);
    await_cut(&stuck);
}

#[test]
fn a_slow_reader_gets_all_of_a_large_body() {
    let service = with_big_body(patient());
    let mut client = Client::of(&service);
    client.send("GET /big HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    let mut all = Vec::new();
    client.stream.read_to_end(&mut all).expect("it ends well");
    assert!(all.len() > 32 * 1024 * 1024 && all.ends_with(b"xxx"));
}

#[test]
fn a_panicking_route_costs_neither_the_worker_nor_its_place() {
    let builder = Diagnostics::builder()
        .route("/panic", |_| panic!("as the test wants it"))
        .long_route("/long-panic", |_, _| panic!("as the test wants it"));
    let service = start(
        builder,
        limits(patient(), |one| {
            one.max_connections = 1;
            one.max_waiting = 1;
        }),
    );
    for path in ["/panic", "/long-panic", "/panic", "/long-panic"] {
        let mut client = Client::of(&service);
        let answer = client.send(get(path)).answer();
        assert_eq!(answer.status, 500, "{path}");
        assert!(
            !answer.body.contains("as the test"),
            "what went wrong is for the log"
        );
        client.assert_closed();
        assert_eq!(ask(&service, "/livez").status, 200);
    }
}

#[test]
fn connections_reset_before_they_are_accepted_harm_nothing() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let addr = listener.local_addr().expect("it is bound");
    for _ in 0..50 {
        let client = TcpStream::connect(addr).expect("connects");
        set_socket_linger(&client, Some(Duration::ZERO)).expect("a socket");
    }
    let service = Diagnostics::builder().listen(listener).expect("it listens");
    assert_eq!(ask(&service, "/livez").status, 200);
}
