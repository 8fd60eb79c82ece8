//! Bodies compressed for clients that ask for it.

#![cfg(feature = "gzip")]

use std::io::Read;

use flate2::read::GzDecoder;
use prometheus::{IntCounterVec, Opts, Registry};
use tbot::diagnostics::Diagnostics;
use tiny_http::{Header, Response};

use super::client::{Answer, Client};

/// A service with metrics of some kilobytes, and bodies that are not to be compressed.
fn service() -> Diagnostics {
    let registry = Registry::new();
    let jobs = IntCounterVec::new(Opts::new("jobs_total", "Jobs."), &["name"]).expect("good names");
    registry
        .register(Box::new(jobs.clone()))
        .expect("the first of its name");
    for name in 0..200 {
        jobs.with_label_values(&[name.to_string()]).inc();
    }
    let typed = |kind: &str, length: usize| {
        Response::from_data(vec![b'x'; length])
            .with_header(Header::from_bytes("Content-Type", kind).expect("ASCII"))
    };
    Diagnostics::builder()
        .metrics(registry)
        .route("/binary", move |_| {
            typed("application/octet-stream", 5000).boxed()
        })
        .route("/packed", move |_| {
            let packed = Header::from_bytes("Content-Encoding", "br").expect("ASCII");
            typed("text/plain", 5000).with_header(packed).boxed()
        })
        .route("/json", move |_| typed("application/json", 5000).boxed())
        .route("/svg", move |_| typed("image/svg+xml", 5000).boxed())
        .route("/html", move |_| {
            typed("Text/HTML; charset=utf-8", 5000).boxed()
        })
        .route("/stream", |_| {
            let body = std::io::repeat(b'x').take(5000);
            let kind = Header::from_bytes("Content-Type", "text/plain").expect("ASCII");
            Response::new(200.into(), vec![kind], body, None, None).boxed()
        })
        .route("/noise", |request| {
            let length = request.parameter("length").ok().flatten();
            let noise = noise(length.unwrap_or_default());
            let kind = Header::from_bytes("Content-Type", "text/plain").expect("ASCII");
            Response::from_data(noise).with_header(kind).boxed()
        })
        .long_route("/long", move |_, _| typed("text/plain", 5000).boxed())
        .bind("127.0.0.1:0")
        .expect("a free port")
}

/// Bytes that no compressor makes fewer.
fn noise(length: usize) -> Vec<u8> {
    let next = |state: &mut u64| {
        *state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        Some((*state >> 56) as u8)
    };
    let mut state = length as u64;
    let bytes = std::iter::from_fn(|| next(&mut state));
    bytes.take(length).collect()
}

/// Head and body of the answer to a request with these header lines.
fn ask(service: &Diagnostics, path: &str, headers: &str) -> (Answer, Vec<u8>) {
    Client::of(service)
        .send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n{headers}\r\n"))
        .answer_in_bytes()
}

fn is_packed(answer: &Answer) -> bool {
    answer.header("Content-Encoding") == Some("gzip")
}

fn unpacked(body: &[u8]) -> String {
    let mut text = String::new();
    GzDecoder::new(body)
        .read_to_string(&mut text)
        .expect("gzip of UTF-8");
    text
}

#[test]
fn metrics_are_compressed_for_who_asks_and_the_same_inside() {
    let service = service();
    let (plain, text) = ask(&service, "/metrics", "");
    assert!(!is_packed(&plain));
    let (packed, body) = ask(&service, "/metrics", "Accept-Encoding: gzip\r\n");
    assert!(is_packed(&packed));
    assert_eq!(unpacked(&body).as_bytes(), text);
    assert!(body.len() * 4 < text.len(), "{} bytes", body.len());
    for answer in [plain, packed] {
        assert_eq!(answer.header("Vary"), Some("Accept-Encoding"));
        assert_eq!(
            answer.header("Content-Type"),
            Some("text/plain; version=0.0.4; charset=utf-8")
        );
    }
}

#[test]
fn bodies_of_all_sizes_at_once_are_what_they_were() {
    let service = service();
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let service = &service;
            scope.spawn(move || {
                // Below and above what the compressor holds, and several of each by the same one.
                for length in [1401, 20_000, 65_536, 70_000, 300_000, 2_000_000] {
                    let path = format!("/noise?length={}", length + thread);
                    let (answer, body) = ask(service, &path, "Accept-Encoding: gzip\r\n");
                    assert!(is_packed(&answer));
                    let mut unpacked = Vec::new();
                    let mut gzip = GzDecoder::new(&*body);
                    gzip.read_to_end(&mut unpacked).expect("gzip");
                    assert!(unpacked == noise(length + thread), "{length}");
                }
                let (_, body) = ask(service, "/json", "Accept-Encoding: gzip\r\n");
                assert_eq!(unpacked(&body), "x".repeat(5000));
            });
        }
    });
}

#[test]
fn head_says_what_get_does() {
    let service = service();
    for accept in ["gzip", "identity"] {
        let mut client = Client::of(&service);
        let rest = format!("/metrics HTTP/1.1\r\nHost: a\r\nAccept-Encoding: {accept}\r\n\r\n");
        client.send(format!("HEAD {rest}"));
        let head = client.answer_to_head();
        let (get, _) = client.send(format!("GET {rest}")).answer_in_bytes();
        for header in ["Content-Length", "Content-Encoding", "Vary", "Content-Type"] {
            assert_eq!(head.header(header), get.header(header), "{accept} {header}");
        }
    }
}

#[test]
fn what_a_client_accepts_is_weighed() {
    let service = service();
    for (accept, expected) in [
        ("gzip", true),
        ("GZip", true),
        ("x-gzip", true),
        ("deflate, gzip;q=1.0, *;q=0.5", true),
        ("gzip ; q=0.001", true),
        ("*", true),
        ("br, *;q=0.1", true),
        ("identity;q=0.5, gzip;q=0.5", true),
        ("identity;q=0, gzip;q=0.1", true),
        ("gzip\t;\tQ=1.000", true),
        (", ,gzip,", true),
        ("", false),
        ("deflate, br", false),
        ("gzip;q=0", false),
        ("gzip;q=0.000", false),
        ("gzip;q=0, *", false),
        ("*;q=0", false),
        ("identity", false),
        ("identity, gzip;q=0.5", false),
        ("identity;q=1, *;q=0.5", false),
        ("gzip;q=2", false),
        ("gzip;q=0.0001", false),
        ("gzip;q=", false),
        ("gzip;q=x", false),
        ("gzip;level=9", false),
        ("gzipped", false),
    ] {
        let (answer, _) = ask(
            &service,
            "/metrics",
            &format!("Accept-Encoding: {accept}\r\n"),
        );
        assert_eq!(is_packed(&answer), expected, "{accept:?}");
        assert_eq!(answer.header("Vary"), Some("Accept-Encoding"), "{accept:?}");
    }
    // A list may stand on several lines (RFC 9110, 5.3).
    for (lines, expected) in [
        ("Accept-Encoding: br\r\naccept-encoding: gzip\r\n", true),
        ("Accept-Encoding: *\r\nAccept-Encoding: gzip;q=0\r\n", false),
    ] {
        assert_eq!(
            is_packed(&ask(&service, "/metrics", lines).0),
            expected,
            "{lines:?}"
        );
    }
}

#[test]
fn only_text_that_is_worth_it_is_compressed() {
    let service = service();
    for (path, expected) in [
        ("/json", true),
        ("/svg", true),
        ("/html", true),
        ("/stream", true),
        ("/long", true),
        ("/binary", false),
        ("/packed", false),
        ("/livez", false),
        ("/readyz", false),
        ("/none", false),
    ] {
        let (answer, body) = ask(&service, path, "Accept-Encoding: gzip\r\n");
        assert_eq!(is_packed(&answer), expected, "{path}");
        assert_eq!(answer.header("Vary").is_some(), expected, "{path}");
        if expected {
            assert_eq!(unpacked(&body), "x".repeat(5000), "{path}");
        }
    }
}
