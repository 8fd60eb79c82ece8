//! Start and end of the service.

use std::io::ErrorKind;
use std::net::TcpStream;
use std::sync::Mutex;
use std::sync::mpsc::channel;

use tbot::diagnostics::Diagnostics;
use tiny_http::Response;

use super::client::{Client, ask, get};

#[test]
fn a_taken_port_is_an_error_that_names_it() {
    let first = Diagnostics::builder()
        .bind("127.0.0.1:0")
        .expect("a free port");
    let addr = first.local_addr().to_string();
    let error = Diagnostics::builder().bind(&addr).expect_err("it is taken");
    assert_eq!(error.kind(), ErrorKind::AddrInUse);
    assert_eq!(
        error.to_string(),
        format!("cannot listen on {addr}: address in use (is another tbot running?)")
    );
    let error = Diagnostics::builder()
        .bind("3001")
        .expect_err("not an address");
    assert!(
        error.to_string().starts_with("cannot listen on 3001: "),
        "{error}"
    );
    assert!(
        error
            .to_string()
            .ends_with("(expected HOST:PORT, as in 127.0.0.1:3001)"),
        "{error}"
    );
}

#[test]
fn the_port_is_free_again_after_the_end() {
    let first = Diagnostics::builder()
        .bind("127.0.0.1:0")
        .expect("a free port");
    let addr = first.local_addr().to_string();
    let mut idle = Client::of(&first);
    assert_eq!(idle.send(get("/livez")).answer().status, 200);
    first.shutdown();
    idle.assert_closed();
    let second = Diagnostics::builder()
        .bind(&addr)
        .expect("the port is free");
    assert_eq!(ask(&second, "/livez").status, 200);
}

#[test]
fn an_answer_in_progress_is_finished_at_shutdown() {
    let (begun, begins) = channel();
    let (release, released) = channel::<()>();
    let released = Mutex::new(released);
    let service = Diagnostics::builder()
        .route("/slow", move |_| {
            begun.send(()).expect("the test listens");
            released
                .lock()
                .expect("one at a time")
                .recv()
                .expect("the test releases it");
            Response::from_string("done").boxed()
        })
        .bind("127.0.0.1:0")
        .expect("a free port");
    let addr = service.local_addr();
    let mut client = Client::of(&service);
    client.send(get("/slow"));
    begins.recv().expect("it begins");
    std::thread::scope(|scope| {
        scope.spawn(move || service.shutdown());
        // Once connections are refused, the shutdown is under way.
        while TcpStream::connect(addr).is_ok() {
            std::thread::yield_now();
        }
        release.send(()).expect("the route waits");
        let answer = client.answer();
        assert_eq!((answer.status, &*answer.body), (200, "done"));
        assert!(answer.closes());
        client.assert_closed();
    });
}
