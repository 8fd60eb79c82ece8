//! The answers: statuses, headers and bodies.

use tbot::diagnostics::Diagnostics;
use tbot::readyz::Registry;

use super::client::{Client, ask};

fn with(services: &Registry) -> Diagnostics {
    Diagnostics::builder()
        .readyz(services.clone())
        .bind("127.0.0.1:0")
        .expect("a free port")
}

#[test]
fn every_answer_has_its_standard_headers() {
    let service = with(&Registry::new());
    for path in [
        "/",
        "/livez",
        "/readyz",
        "/readyz/none",
        "/wait",
        "/metrics",
        "/none",
        "/debug/pprof/",
    ] {
        let answer = ask(&service, path);
        assert_eq!(
            answer.header("X-Content-Type-Options"),
            Some("nosniff"),
            "{path}"
        );
        assert_eq!(answer.header("Cache-Control"), Some("no-store"), "{path}");
        assert!(
            answer
                .header("Content-Type")
                .is_some_and(|t| t == "application/json" || t.ends_with("; charset=utf-8")),
            "{path}"
        );
        assert!(
            answer
                .header("Date")
                .is_some_and(|date| date.ends_with(" GMT")),
            "{path}"
        );
        let server = answer.header("Server").unwrap_or_default();
        assert!(
            !server.contains(|c: char| c.is_ascii_digit()),
            "{server} tells a version"
        );
    }
}

#[test]
fn livez_is_ok() {
    let answer = ask(&with(&Registry::new()), "/livez");
    assert_eq!((answer.status, &*answer.body), (200, "OK"));
    assert_eq!(
        answer.header("Content-Type"),
        Some("text/plain; charset=utf-8")
    );
}

#[test]
fn readyz_follows_its_services() {
    let services = Registry::new();
    let service = with(&services);
    assert_eq!(
        ask(&service, "/readyz").status,
        200,
        "without services nothing is unready"
    );
    let mux = services.register("mux");
    let answer = ask(&service, "/readyz");
    assert_eq!(answer.status, 503);
    assert_eq!(
        answer.body,
        "{\n  \"status\": \"unhealthy\",\n  \"services\": {\n    \"mux\": {\n      \
         \"status\": \"initializing\",\n      \"updated_at\": null\n    }\n  }\n}\n"
    );
    mux.healthy();
    let answer = ask(&service, "/readyz");
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("Content-Type"), Some("application/json"));
    mux.unhealthy("no route");
    assert_eq!(ask(&service, "/readyz").status, 503);
}

#[test]
fn readyz_of_one_service_shows_that_one() {
    let services = Registry::new();
    let service = with(&services);
    services.register("a").healthy();
    services.register("b/c d").unhealthy("no \"route\"");
    assert_eq!(ask(&service, "/readyz/a").status, 200);
    let answer = ask(&service, "/readyz/b%2Fc%20d");
    assert_eq!(answer.status, 503);
    assert!(
        answer
            .body
            .starts_with("{\n  \"status\": \"unhealthy\",\n  \"reason\": \"no \\\"route\\\"\",\n")
    );
    for path in ["/readyz/none", "/wait/none"] {
        let answer = ask(&service, path);
        assert_eq!(answer.status, 404);
        assert_eq!(
            answer.body,
            "{\n  \"error\": \"Service named \\\"none\\\" not found.\"\n}\n"
        );
    }
}

#[test]
fn metrics_are_those_of_the_registry() {
    let registry = prometheus::Registry::new();
    let counter = prometheus::IntCounter::new("embedder_jobs_total", "Jobs.").expect("a good name");
    registry
        .register(Box::new(counter.clone()))
        .expect("the first of its name");
    let service = Diagnostics::builder()
        .metrics(registry)
        .bind("127.0.0.1:0")
        .expect("a free port");
    counter.inc();
    let answer = ask(&service, "/metrics");
    assert_eq!(answer.status, 200);
    assert_eq!(
        answer.header("Content-Type"),
        Some("text/plain; version=0.0.4; charset=utf-8")
    );
    assert!(
        answer
            .body
            .ends_with("# TYPE embedder_jobs_total counter\nembedder_jobs_total 1\n")
    );
}

#[test]
fn anything_else_is_not_found_and_says_what_is() {
    let service = with(&Registry::new());
    for path in [
        "/none",
        "/livez/",
        "//livez",
        "/LIVEZ",
        "/readyz/",
        "/debug/pprof/",
        "/%00",
    ] {
        let answer = ask(&service, path);
        assert_eq!(answer.status, 404, "{path}");
        assert!(answer.body.contains("README") && answer.body.contains("/readyz/{service}"));
    }
}

#[test]
fn the_front_page_is_text_for_tools_and_html_for_browsers() {
    let service = Diagnostics::builder()
        .route("/jobs?<b>", |_| tiny_http::Response::empty(200).boxed())
        .bind("127.0.0.1:0")
        .expect("a free port");
    let text = ask(&service, "/");
    assert_eq!(
        text.header("Content-Type"),
        Some("text/plain; charset=utf-8")
    );
    assert!(text.body.contains("/livez ") && text.body.contains("/jobs?<b>"));
    let request = "GET / HTTP/1.1\r\nHost: a\r\nAccept: text/html,*/*;q=0.8\r\n\r\n";
    let html = Client::of(&service).send(request).answer();
    assert_eq!(
        html.header("Content-Type"),
        Some("text/html; charset=utf-8")
    );
    assert!(html.body.contains("<a href=\"/livez\">") && html.body.contains("/jobs?&lt;b&gt;"));
    for unwanted in ["<script", "src=", "http:", "https:", "<b>"] {
        assert!(!html.body.contains(unwanted), "{unwanted}");
    }
}
