//! What a client may send, and what is answered to anything else.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tbot::diagnostics::Diagnostics;
use tiny_http::Response;

use super::client::{Client, ask, get};

fn service() -> Diagnostics {
    Diagnostics::builder()
        .bind("127.0.0.1:0")
        .expect("a free port")
}

/// Sends `request`, checks that it is refused with `status` and that the connection ends, and that
/// others are served as before.
fn refused(request: impl AsRef<[u8]>, status: u16) -> super::client::Answer {
    let service = service();
    let mut client = Client::of(&service);
    let answer = client.send(request).answer();
    assert_eq!(answer.status, status, "{answer:?}");
    assert!(answer.closes(), "{answer:?}");
    client.assert_closed();
    assert_eq!(ask(&service, "/livez").status, 200);
    answer
}

#[test]
fn a_kept_connection_answers_one_request_after_the_other() {
    let service = service();
    let mut client = Client::of(&service);
    for _ in 0..100 {
        let answer = client.send(get("/livez")).answer();
        assert_eq!((answer.status, &*answer.body), (200, "OK"));
        assert_eq!(answer.header("Connection"), None);
    }
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let service = service();
    let mut client = Client::of(&service);
    let head = "HEAD /livez HTTP/1.1\r\nHost: localhost\r\n\r\n";
    client.send([get("/livez"), get("/none"), head.into(), get("/readyz")].concat());
    assert_eq!(client.answer().body, "OK");
    assert_eq!(client.answer().status, 404);
    assert_eq!(client.answer_to_head().header("Content-Length"), Some("2"));
    assert!(client.answer().body.contains("services"));
    // More than the input buffer holds, so that requests are cut in two by its end.
    client.send(get("/livez").repeat(1000));
    for _ in 0..1000 {
        assert_eq!(client.answer().body, "OK");
    }
}

#[test]
fn a_request_that_comes_in_single_bytes_is_answered() {
    let service = service();
    let mut client = Client::of(&service);
    client.stream.set_nodelay(true).expect("a TCP socket");
    for _ in 0..2 {
        for byte in get("/livez").bytes() {
            client.send([byte]);
        }
        assert_eq!(client.answer().body, "OK");
    }
}

#[test]
fn a_connection_ends_when_the_client_asks_for_it() {
    let service = service();
    let mut client = Client::of(&service);
    client.send("GET /livez HTTP/1.1\r\nHost: a\r\nConnection: Keep-Alive, Close\r\n\r\n");
    assert!(client.answer().closes());
    client.assert_closed();
    // The answer arrives even if more was sent than is answered.
    let mut client = Client::of(&service);
    client.send(
        [
            "GET /livez HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
            &get("/none"),
        ]
        .concat(),
    );
    assert_eq!(client.answer().body, "OK");
    client.assert_closed();
}

#[test]
fn http_1_0_ends_the_connection_unless_asked_to_keep_it() {
    let service = service();
    let mut client = Client::of(&service);
    let answer = client.send("GET /livez HTTP/1.0\r\n\r\n").answer();
    assert!(
        answer.head.starts_with("HTTP/1.0 200 OK\r\n") && answer.closes(),
        "{answer:?}"
    );
    client.assert_closed();

    let mut client = Client::of(&service);
    for _ in 0..2 {
        let answer = client
            .send("GET /livez HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
            .answer();
        assert_eq!(answer.header("Connection"), Some("keep-alive"));
    }
}

#[test]
fn head_is_answered_like_get_without_the_body() {
    let service = service();
    for path in [
        "/",
        "/livez",
        "/readyz",
        "/readyz/x",
        "/wait",
        "/metrics",
        "/none",
    ] {
        let mut client = Client::of(&service);
        let got = client.send(get(path)).answer();
        let head = client
            .send(get(path).replace("GET", "HEAD"))
            .answer_to_head();
        let fields = |head: &str| {
            head.lines()
                .filter(|line| !line.starts_with("Date"))
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        assert_eq!(fields(&head.head), fields(&got.head), "{path}");
        assert_eq!(
            client.send(get("/livez")).answer().body,
            "OK",
            "no body was sent for {path}"
        );
    }
}

#[test]
fn targets_in_absolute_form_and_percent_encoded_paths_are_understood() {
    let service = service();
    for target in [
        "http://example.org:80/livez",
        "HTTP://example.org/livez?x=1",
        "/%6Civ%65z",
    ] {
        assert_eq!(ask(&service, target).body, "OK", "{target}");
    }
}

#[test]
fn a_bad_query_is_refused_by_the_name_of_its_parameter() {
    let answer = refused(get("/livez?fine=1&wrong=%zz"), 400);
    assert!(answer.body.contains("\"wrong\""), "{}", answer.body);

    let service = Diagnostics::builder()
        .route("/profile", |request| {
            match request.parameter::<u32>("seconds") {
                Ok(seconds) => Response::from_string(format!("{seconds:?}")).boxed(),
                Err(refusal) => refusal,
            }
        })
        .bind("127.0.0.1:0")
        .expect("a free port");
    assert_eq!(ask(&service, "/profile?seconds=%35").body, "Some(5)");
    let answer = ask(&service, "/profile?seconds=five");
    assert_eq!(answer.status, 400);
    assert!(
        answer.body.contains("\"seconds\"") && answer.body.contains("\"five\""),
        "{}",
        answer.body
    );
}

#[test]
fn other_methods_are_told_which_ones_are_allowed() {
    for method in [
        "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH", "CONNECT", "BREW",
    ] {
        let answer = refused(get("/livez").replace("GET", method), 405);
        assert_eq!(answer.header("Allow"), Some("GET, HEAD"));
    }
}

#[test]
fn what_is_not_http_is_refused_at_once() {
    for nonsense in [
        "hello\r\n\r\n",
        "GET /\r\n\r\n",
        "GET / HTTP/1.1\r\nno colon\r\n\r\n",
        "\x16\x03\x01\x02",
    ] {
        refused(nonsense, 400);
    }
    refused("GET / HTTP/1.1\r\nHost: a\x00b\r\n\r\n", 400);
    refused("GET /livez HTTP/1.1\r\n\r\n", 400);
}

#[test]
fn other_versions_are_refused_without_waiting_for_the_rest() {
    refused("GET /livez HTTP/2.0\r\n", 505);
    refused("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505);
}

#[test]
fn a_head_that_is_too_large_is_refused() {
    refused(
        format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(8192)),
        431,
    );
    refused(
        format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "A: b\r\n".repeat(64)),
        431,
    );
    let service = service();
    let fits = format!(
        "GET /livez HTTP/1.1\r\nHost: a\r\n{}\r\n",
        "A: b\r\n".repeat(63)
    );
    assert_eq!(Client::of(&service).send(fits).answer().body, "OK");
    let frame = get("/").len();
    let fits = get(&format!("/{}", "x".repeat(8192 - frame)));
    assert_eq!(Client::of(&service).send(fits).answer().status, 404);
}

#[test]
fn a_body_is_refused_whatever_its_length_claims() {
    for length in [
        "30000000000",
        "1",
        "-1",
        "18446744073709551616",
        "x",
        "0, 1",
    ] {
        refused(
            format!("GET /livez HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n"),
            413,
        );
    }
    let service = service();
    let none = "GET /livez HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(Client::of(&service).send(none).answer().status, 200);
}

#[test]
fn a_body_never_becomes_the_next_request() {
    let hits = Arc::new(AtomicUsize::new(0));
    let counted = hits.clone();
    let service = Diagnostics::builder()
        .route("/smuggled", move |_| {
            counted.fetch_add(1, Ordering::SeqCst);
            Response::empty(200).boxed()
        })
        .bind("127.0.0.1:0")
        .expect("a free port");
    for header in [
        "Transfer-Encoding: chunked",
        "Transfer-Encoding: x",
        "Content-Length: 50",
    ] {
        let mut client = Client::of(&service);
        client.send(format!(
            "GET /livez HTTP/1.1\r\nHost: a\r\n{header}\r\n\r\n{}",
            get("/smuggled")
        ));
        assert_eq!(client.answer().status, 413);
        client.assert_closed();
    }
    assert_eq!(hits.load(Ordering::SeqCst), 0);
}

#[test]
fn a_client_that_uploads_still_gets_to_read_the_refusal() {
    let head = "GET /livez HTTP/1.1\r\nHost: a\r\nContent-Length: 524288\r\n\r\n";
    refused([head.as_bytes(), &[b'x'; 512 * 1024]].concat(), 413);
}

#[test]
fn what_a_client_sends_cannot_forge_a_header() {
    let service = service();
    let answer = ask(&service, "/readyz/a%0d%0aSet-Cookie:%20b%22");
    assert_eq!(answer.status, 404);
    assert_eq!(answer.header("Set-Cookie"), None);
    let body: serde_json::Value = serde_json::from_str(&answer.body).expect("JSON");
    assert_eq!(
        body["error"],
        "Service named \"a\r\nSet-Cookie: b\"\" not found."
    );

    let service = Diagnostics::builder()
        .route("/echo", |request| {
            let value = request
                .parameter::<String>("value")
                .ok()
                .flatten()
                .unwrap_or_default();
            let header = tiny_http::Header::from_bytes("X-Echo", value).expect("ASCII");
            Response::empty(200).with_header(header).boxed()
        })
        .bind("127.0.0.1:0")
        .expect("a free port");
    assert_eq!(
        ask(&service, "/echo?value=fine").header("X-Echo"),
        Some("fine")
    );
    let answer = ask(&service, "/echo?value=a%0d%0aSet-Cookie:%20b");
    assert_eq!((answer.status, answer.header("Set-Cookie")), (500, None));
}
