//! What the service counts of itself.

use std::time::Duration;

use prometheus::{Registry, TextEncoder};
use tbot::diagnostics::{Builder, Diagnostics, Limits};
use tbot::metrics::DiagnosticsMetrics;
use tbot::readyz;
use tiny_http::Response;

use super::client::{Client, PATIENCE, ask, get, limits};

/// A service that counts, and what it counts, in Prometheus' text.
struct Counted {
    service: Diagnostics,
    registry: Registry,
}

fn start(builder: Builder) -> Counted {
    let registry = Registry::new();
    let metrics = DiagnosticsMetrics::register(&registry).expect("the registry is empty");
    let service = builder.service_metrics(metrics).bind("127.0.0.1:0");
    Counted {
        service: service.expect("a free port"),
        registry,
    }
}

impl Counted {
    fn text(&self) -> String {
        TextEncoder::new()
            .encode_to_string(&self.registry.gather())
            .expect("encodes")
    }

    fn value(&self, series: &str) -> Option<u64> {
        let text = self.text();
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.map(|value| value.parse().expect("a whole number"))
    }

    fn requests(&self, code: u16, path: &str) -> Option<u64> {
        self.value(&format!(
            "tbot_diag_http_requests_total{{code=\"{code}\",path=\"{path}\"}}"
        ))
    }

    fn refused(&self, reason: &str) -> Option<u64> {
        self.value(&format!("tbot_diag_refused_total{{reason=\"{reason}\"}}"))
    }

    fn await_value(&self, series: &str, wanted: u64) {
        let begin = std::time::Instant::now();
        while self.value(series) != Some(wanted) {
            assert!(
                begin.elapsed() < PATIENCE,
                "no {series} {wanted} in\n{}",
                self.text()
            );
            std::thread::yield_now();
        }
    }
}

#[test]
fn everything_is_there_with_0_before_the_first_client() {
    let counted = start(Diagnostics::builder());
    for path in [
        "/",
        "/livez",
        "/metrics",
        "/readyz",
        "/readyz/{service}",
        "/wait",
        "/wait/{service}",
    ] {
        assert_eq!(counted.requests(200, path), Some(0), "{path}");
    }
    assert_eq!(counted.requests(404, "other"), Some(0));
    for reason in [
        "body",
        "busy",
        "evicted",
        "large",
        "local",
        "malformed",
        "method",
        "slow",
        "unread",
        "version",
    ] {
        assert_eq!(counted.refused(reason), Some(0), "{reason}");
    }
    assert_eq!(counted.value("tbot_diag_connections"), Some(0));
    assert_eq!(
        counted.value("tbot_diag_connections_accepted_total"),
        Some(0)
    );
}

#[test]
fn requests_are_counted_by_code_and_by_the_pattern_of_their_path() {
    let services = readyz::Registry::new();
    services.register("a/b").healthy();
    let builder = Diagnostics::builder()
        .readyz(services)
        .route("/teapot", |_| Response::empty(418).boxed())
        .route("/panic", |_| panic!("as the test wants it"))
        .long_route("/long", |_, _| Response::empty(200).boxed());
    let counted = start(builder);
    for path in [
        "/",
        "/livez",
        "/livez?a=b",
        "/%6civez",
        "/readyz",
        "/readyz/a%2Fb",
        "/readyz/secret",
        "/wait/a/b",
        "/secret",
        "/readyz/",
        "/teapot",
        "/teapot",
        "/panic",
        "/long",
    ] {
        ask(&counted.service, path);
    }
    let head = "HEAD /livez HTTP/1.0\r\n\r\n";
    Client::of(&counted.service).send(head).answer_to_head();
    for (code, path, count) in [
        (200, "/", 1),
        (200, "/livez", 4),
        (200, "/readyz", 1),
        (200, "/readyz/{service}", 1),
        (404, "/readyz/{service}", 2),
        (200, "/wait/{service}", 1),
        (404, "other", 1),
        (418, "/teapot", 2),
        (500, "/panic", 1),
        (200, "/long", 1),
    ] {
        assert_eq!(counted.requests(code, path), Some(count), "{code} {path}");
    }
    let took = "tbot_diag_http_request_duration_seconds_count{path=\"/livez\"}";
    assert_eq!(counted.value(took), Some(4));
    let text = counted.text();
    assert!(!text.contains("secret"), "a client's text in\n{text}");
}

#[test]
fn connections_are_counted_from_accept_to_end() {
    let counted = start(Diagnostics::builder());
    let mut clients: Vec<Client> = (0..3).map(|_| Client::of(&counted.service)).collect();
    for client in &mut clients {
        assert_eq!(client.send(get("/livez")).answer().status, 200);
    }
    assert_eq!(counted.value("tbot_diag_connections"), Some(3));
    drop(clients);
    counted.await_value("tbot_diag_connections", 0);
    assert_eq!(
        counted.value("tbot_diag_connections_accepted_total"),
        Some(3)
    );
}

#[test]
fn refused_heads_are_counted_by_reason_and_as_requests_of_no_path() {
    let limits = limits(Limits::default(), |one| {
        one.head = Duration::from_millis(200)
    });
    let counted = start(Diagnostics::builder().limits(limits));
    let large = format!("GET / HTTP/1.1\r\nX: {}", "x".repeat(9000));
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "X: x\r\n".repeat(65));
    for (head, code, reason) in [
        ("nonsense\r\n\r\n", 400, "malformed"),
        ("PUT / HTTP/1.1\r\nHost: a\r\n\r\n", 405, "method"),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n",
            413,
            "body",
        ),
        (&large, 431, "large"),
        (&many, 431, "large"),
        ("GET / HTTP/2.0\r\n\r\n", 505, "version"),
        ("GET /", 408, "slow"),
    ] {
        let counts = || {
            (
                counted.refused(reason).expect("it is there from the start"),
                counted.requests(code, "other").unwrap_or(0),
            )
        };
        let (refused, requests) = counts();
        assert_eq!(
            Client::of(&counted.service).send(head).answer().status,
            code
        );
        assert_eq!(counts(), (refused + 1, requests + 1), "{reason}");
    }
}

#[test]
fn clients_that_cannot_be_served_are_counted_by_reason() {
    let limits = limits(Limits::default(), |one| {
        one.max_connections = 1;
        one.max_waiting = 0;
        one.write = Duration::from_millis(200);
    });
    let services = readyz::Registry::new();
    let _mux = services.register("mux");
    let builder = Diagnostics::builder()
        .readyz(services)
        .limits(limits)
        .route("/big", |_| {
            Response::from_data(vec![b'x'; 32 << 20]).boxed()
        });
    let counted = start(builder);
    let mut idle = Client::of(&counted.service);
    assert_eq!(idle.send(get("/livez")).answer().status, 200);
    assert_eq!(ask(&counted.service, "/wait").status, 503);
    assert_eq!(counted.refused("evicted"), Some(1));
    assert_eq!(counted.refused("busy"), Some(1));
    assert_eq!(counted.requests(503, "/wait"), Some(1));
    let mut stuck = Client::of(&counted.service);
    stuck.send(get("/big"));
    counted.await_value("tbot_diag_refused_total{reason=\"unread\"}", 1);
}
