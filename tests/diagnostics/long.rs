//! `/wait` and other long requests, which must not get into the way of `/livez`.

use std::sync::mpsc::channel;
use std::time::Instant;

use tbot::diagnostics::{Diagnostics, Limits};
use tbot::readyz::Registry;
use tiny_http::Response;

use super::client::{Client, PATIENCE, ask, get, limits};

#[test]
fn wait_answers_with_the_first_report() {
    let services = Registry::new();
    let (a, b) = (services.register("a"), services.register("b"));
    let service = Diagnostics::builder()
        .readyz(services)
        .bind("127.0.0.1:0")
        .expect("a free port");
    let (mut all, mut one) = (Client::of(&service), Client::of(&service));
    all.send(get("/wait"));
    one.send(get("/wait/a"));
    a.healthy();
    assert_eq!(one.answer().status, 200);
    b.unhealthy("no route");
    let answer = all.answer();
    assert_eq!(answer.status, 503, "it has reported, if nothing good");
    assert!(answer.body.contains("no route"), "{}", answer.body);
    // From now on nothing is waited for, so the connection is kept.
    let mut client = Client::of(&service);
    for path in ["/wait", "/wait/a", "/wait/b"] {
        assert!(!client.send(get(path)).answer().closes());
    }
}

#[test]
fn long_requests_are_bounded_and_leave_room_for_others() {
    let services = Registry::new();
    let mux = services.register("mux");
    let (begun, begins) = channel();
    let service = Diagnostics::builder()
        .readyz(services)
        // They do not count against the connections, of which there is one.
        .limits(limits(Limits::default(), |one| one.max_connections = 1))
        .long_route("/hold", move |_, client| {
            begun.send(()).expect("the test listens");
            while client.is_there() {
                std::thread::yield_now();
            }
            Response::empty(200).boxed()
        })
        .bind("127.0.0.1:0")
        .expect("a free port");
    let mut held = Vec::new();
    for _ in 0..16 {
        let mut client = Client::of(&service);
        client.send(get("/hold"));
        begins.recv().expect("it begins");
        held.push(client);
    }
    assert_eq!(ask(&service, "/livez").status, 200);
    let answer = ask(&service, "/wait");
    assert_eq!(answer.status, 503);
    assert!(answer.body.contains("16 long requests"), "{}", answer.body);
    mux.healthy();
    assert_eq!(
        ask(&service, "/wait").status,
        200,
        "what needs no waiting needs no place"
    );
}

#[test]
fn a_client_that_stops_waiting_frees_its_place() {
    let services = Registry::new();
    let _mux = services.register("mux");
    let service = Diagnostics::builder()
        .readyz(services)
        .limits(limits(Limits::default(), |one| one.max_waiting = 1))
        .long_route("/place", |_, _| Response::empty(200).boxed())
        .bind("127.0.0.1:0")
        .expect("a free port");
    // The probe and the waiting client race for the place, until the latter has it.
    let waiting = loop {
        let mut client = Client::of(&service);
        client.send(get("/wait"));
        if ask(&service, "/place").status == 503 {
            break client;
        }
    };
    // What it sent in advance must not hide that it is gone.
    let mut waiting = waiting;
    waiting.send(get("/livez"));
    drop(waiting);
    let begin = Instant::now();
    while ask(&service, "/place").status == 503 {
        assert!(begin.elapsed() < PATIENCE, "the place stays taken");
        std::thread::yield_now();
    }
}

#[test]
fn whoever_waits_is_answered_at_shutdown() {
    let services = Registry::new();
    let _mux = services.register("mux");
    let service = Diagnostics::builder()
        .readyz(services)
        .bind("127.0.0.1:0")
        .expect("a free port");
    let mut client = Client::of(&service);
    assert_eq!(client.send(get("/livez")).answer().status, 200);
    client.send(get("/wait"));
    service.shutdown();
    let answer = client.answer();
    assert_eq!(answer.status, 503);
    assert!(answer.closes());
    client.assert_closed();
}
