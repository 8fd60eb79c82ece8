//! The diagnostics service of the real program, seen by curl and promtool.

use std::fs;
use std::process::Command;

use crate::common::process::succeed;
use crate::common::procfs;
use crate::common::server::{ClosedPort, Server};
use crate::common::tbot::{Start, Tbot};
use crate::common::v1::{assert_echoes, assert_refused, dial};

#[test]
fn livez_says_ok() {
    let tbot = Tbot::start();
    let answer = curl(&tbot, "/livez");
    assert_eq!((answer.status, answer.body.trim_end()), (200, "OK"));
    assert!(answer.content_type.starts_with("text/plain"));
}

#[test]
fn readyz_shows_every_service() {
    let tbot = Tbot::start();
    let answer = curl(&tbot, "/readyz");
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert!(answer.content_type.starts_with("application/json"));
    let json: serde_json::Value = serde_json::from_str(&answer.body).expect("it is JSON");
    assert_eq!(json["status"], "healthy");
    let services = json["services"].as_object().expect("an object");
    assert_eq!(
        services.keys().collect::<Vec<_>>(),
        ["ssh-multiplexer-1"],
        "diagnostics do not list themselves"
    );
    assert_eq!(services["ssh-multiplexer-1"]["status"], "healthy");
    assert!(services["ssh-multiplexer-1"].get("reason").is_none());
    assert!(services["ssh-multiplexer-1"]["updated_at"].is_string());
    assert!(
        answer.body.contains("\n  \"status\": \"healthy\""),
        "two spaces of indent: {}",
        answer.body
    );
}

#[test]
fn one_service_is_shown_and_waited_for_by_its_name() {
    let tbot = Tbot::start();
    for path in ["/readyz/ssh-multiplexer-1", "/wait/ssh-multiplexer-1"] {
        let answer = curl(&tbot, path);
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
        let json: serde_json::Value = serde_json::from_str(&answer.body).expect("it is JSON");
        assert_eq!(json["status"], "healthy", "{path}");
    }
    let answer = curl(&tbot, "/wait");
    assert_eq!(answer.status, 200, "{}", answer.body);
}

#[test]
fn a_service_that_is_not_there_is_a_404_that_names_it() {
    let tbot = Tbot::start();
    for path in ["/readyz/nope", "/wait/nope"] {
        let answer = curl(&tbot, path);
        assert_eq!(answer.status, 404, "{path}");
        assert!(answer.content_type.starts_with("application/json"));
        let json: serde_json::Value = serde_json::from_str(&answer.body).expect("it is JSON");
        assert_eq!(json["error"], "Service named \"nope\" not found.");
    }
}

#[test]
fn the_front_page_lists_what_there_is() {
    let tbot = Tbot::start();
    let plain = curl(&tbot, "/");
    assert_eq!(plain.status, 200);
    assert!(plain.content_type.starts_with("text/plain"));
    let page = curl_with(&tbot, "/", &["-H", "Accept: text/html,*/*;q=0.8"]);
    assert_eq!(page.status, 200);
    assert!(page.content_type.starts_with("text/html"));
    for path in ["/livez", "/readyz", "/wait", "/metrics"] {
        for answer in [&plain, &page] {
            assert!(
                answer.body.contains(path),
                "no {path} in\n{body}",
                body = answer.body
            );
        }
    }
}

#[test]
fn anything_else_is_a_404() {
    let tbot = Tbot::start();
    for path in ["/nope", "/debug/pprof/", "/readyz/a/b"] {
        assert_eq!(curl(&tbot, path).status, 404, "{path}");
    }
}

#[test]
fn head_is_answered_and_other_methods_are_not() {
    let tbot = Tbot::start();
    for path in ["/livez", "/readyz", "/metrics"] {
        let answer = curl_with(&tbot, path, &["--head"]);
        assert_eq!(answer.status, 200, "{path}");
    }
    assert_eq!(
        curl_with(&tbot, "/livez", &["-X", "DELETE"]).status,
        405,
        "only GET and HEAD"
    );
}

#[test]
fn a_compressed_scrape_is_the_same_scrape() {
    let tbot = Tbot::start();
    let answer = curl_with(&tbot, "/metrics", &["--compressed"]);
    assert!(
        answer.body.contains("\ntbot_build_info{"),
        "{}",
        answer.body
    );
    let head = curl_with(&tbot, "/metrics", &["--compressed", "--head"]).body;
    assert!(head.contains("Content-Encoding: gzip"), "{head}");
}

#[test]
fn promtool_has_nothing_to_say_about_the_metrics() {
    let tbot = Tbot::start();
    let answer = curl(&tbot, "/metrics");
    assert_eq!(answer.status, 200);
    assert!(
        answer.content_type.starts_with("text/plain; version=0.0.4"),
        "{}",
        answer.content_type
    );
    let directory = tempfile::tempdir().expect("a directory for temporary files");
    let file = directory.path().join("metrics");
    fs::write(&file, &answer.body).expect("the directory is ours");
    let input = fs::File::open(&file).expect("it was written");
    let output = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(input)
        .output()
        .expect("`make test` installs promtool");
    let said = [output.stdout, output.stderr].concat();
    assert_eq!(
        String::from_utf8_lossy(&said),
        "",
        "for\n{body}",
        body = answer.body
    );
    assert!(output.status.success());
}

#[test]
fn every_metric_is_there_before_the_first_connection() {
    let tbot = Tbot::start();
    let metrics = curl(&tbot, "/metrics").body;
    for line in [
        "tbot_ssh_multiplexer_requests_started_total 0",
        "tbot_ssh_multiplexer_requests_handled_total{status=\"OK\"} 0",
        "tbot_ssh_multiplexer_requests_handled_total{status=\"ERROR\"} 0",
        "tbot_ssh_multiplexer_requests_in_flight 0",
        "tbot_ssh_multiplexer_setup_duration_seconds_count 0",
        "tbot_ssh_multiplexer_relayed_bytes_total{direction=\"sent\"} 0",
        "tbot_ssh_multiplexer_relayed_bytes_total{direction=\"received\"} 0",
    ] {
        assert!(
            metrics.lines().any(|have| have == line),
            "no {line} in\n{metrics}"
        );
    }
    for reason in [
        "peer",
        "limit",
        "gone",
        "slow",
        "malformed",
        "cluster",
        "name",
        "refused",
        "unreachable",
        "timeout",
        "local",
    ] {
        assert_eq!(tbot.refused(reason), 0);
    }
    assert!(
        metrics
            .lines()
            .any(|line| line.starts_with("tbot_build_info{")),
        "{metrics}"
    );
    assert!(!metrics.contains("go_"), "there is no Go in it");
}

#[test]
fn connections_that_reach_their_target_are_in_the_setup_histogram() {
    let (tbot, echo) = (Tbot::start(), Server::echo());
    for _ in 0..3 {
        assert_echoes(&mut dial(&tbot, echo.address), b"up");
    }
    assert_refused(&mut dial(&tbot, ClosedPort::new().address));
    tbot.await_ended(4);
    let series = "tbot_ssh_multiplexer_setup_duration_seconds";
    assert_eq!(tbot.metric(&format!("{series}_count")), 3);
    assert_eq!(tbot.metric(&format!("{series}_bucket{{le=\"+Inf\"}}")), 3);
}

#[test]
fn without_an_address_nothing_listens() {
    let tbot = Start::multiplexer().without_diagnostics().start();
    // Neither does a thread of it run.
    let threads = procfs::threads(tbot.pid());
    assert!(
        !threads.iter().any(|name| name.starts_with("diag")),
        "{threads:?}"
    );
    assert_eq!(procfs::listeners(tbot.pid()), []);
}

#[test]
fn the_file_s_address_is_used() {
    let tbot = with_diag_addr("127.0.0.1:0").without_diagnostics().start();
    let line = tbot.stderr.line("diagnostics are served at http://");
    let (_, rest) = line.split_once("http://").expect("found by it");
    let url = format!(
        "http://{}livez",
        rest.split_inclusive('/').next().unwrap_or_default()
    );
    assert_eq!(
        succeed(Command::new("curl").args(["-sS", &url])).trim(),
        "OK"
    );
}

#[test]
fn the_flag_s_address_wins_over_the_file_s_with_a_warning_that_names_both() {
    let tbot = with_diag_addr("127.0.0.1:3001")
        .diagnostics("127.0.0.1:0")
        .start();
    tbot.stderr
        .line_where("a warning with flag and both values", |line| {
            line.contains("WARN")
                && line.contains("--diag-addr")
                && line.contains("127.0.0.1:0")
                && line.contains("127.0.0.1:3001")
        });
    assert_eq!(curl(&tbot, "/livez").status, 200);
}

#[test]
fn an_address_that_others_reach_is_served_with_a_warning() {
    const WARNING: &str = "can be read by other machines";
    let tbot = Start::multiplexer().diagnostics("0.0.0.0:0").start();
    // To this machine, 0.0.0.0 is itself.
    assert_eq!(curl(&tbot, "/livez").status, 200);
    let address = tbot.address().to_string();
    tbot.stderr.line_where("who can read it", |line| {
        line.contains("WARN") && line.contains(&address) && line.contains(WARNING)
    });
    assert!(!tbot.stderr.so_far().contains("profiles"));
    assert!(!Tbot::start().stderr.so_far().contains(WARNING));

    if cfg!(feature = "pprof") {
        let profiled = Start::multiplexer()
            .diagnostics("0.0.0.0:0")
            .args(["--debug"])
            .start();
        profiled
            .stderr
            .line_where("that profiles are among it", |line| {
                line.contains("WARN")
                    && line.contains("diagnostics and profiles on")
                    && line.contains(WARNING)
            });
    }
}

#[test]
fn a_taken_address_is_an_error_that_names_it() {
    let first = Tbot::start();
    let taken = first.address().to_string();
    let end = Start::multiplexer().diagnostics(&taken).finish();
    let error = end.error();
    assert!(error.contains(&taken), "{error} names {taken}");
    assert!(!end.stderr.contains("is ready at"), "nothing was started");
}

/// A configuration file with `diag_addr`.
fn with_diag_addr(address: &str) -> Start {
    Start::config(|destination| {
        format!(
            "version: v2\n\
             diag_addr: {address}\n\
             services:\n\
             - type: ssh-multiplexer\n\
             \x20 destination: {{ type: directory, path: {} }}\n",
            destination.display()
        )
    })
}

struct Answer {
    status: u16,
    content_type: String,
    body: String,
}

fn curl(tbot: &Tbot, path: &str) -> Answer {
    curl_with(tbot, path, &[])
}

fn curl_with(tbot: &Tbot, path: &str, options: &[&str]) -> Answer {
    let said = succeed(
        Command::new("curl")
            .args(["-sS", "--max-time", "60", "--noproxy", "*"])
            .args(["-w", "\n%{http_code} %{content_type}"])
            .args(options)
            .arg(tbot.url(path)),
    );
    let (body, last) = said.rsplit_once('\n').expect("curl writes it");
    let (status, content_type) = last.split_once(' ').expect("curl writes both");
    Answer {
        status: status.parse().expect("curl writes a number"),
        content_type: content_type.to_owned(),
        body: body.to_owned(),
    }
}
