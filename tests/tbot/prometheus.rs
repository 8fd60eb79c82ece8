//! A real Prometheus with the configuration of README.md and the alert rules beside the sources, scraping a real tbot.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use crate::common::keys::{Keys, with_identity};
use crate::common::process::{Process, succeed};
use crate::common::procfs;
use crate::common::readme::{block, is_of_a_name, words};
use crate::common::server::{ClosedPort, Server};
use crate::common::tbot::{Start, Tbot};
use crate::common::v1::{assert_echoes, assert_refused, dial};
use crate::common::wait::until;
use serde_json::Value;
use tempfile::TempDir;

/// Writes both files; returns the path of the first.
fn write_files(directory: &Path, config: &str) -> std::path::PathBuf {
    fs::write(directory.join("tbot.rules.yaml"), rules()).expect("the directory is ours");
    let path = directory.join("prometheus.yaml");
    fs::write(&path, config).expect("the directory is ours");
    path
}

fn config() -> &'static str {
    block("yaml", "scrape_configs:")
}

fn rules() -> &'static str {
    include_str!("../../src/tbot.rules.yaml")
}

/// The names of the alerts.
fn alerts() -> Vec<&'static str> {
    let names = rules()
        .lines()
        .filter_map(|line| line.split_once("- alert: ")?.1.split(' ').next());
    names.collect()
}

/// It scrapes, and ends with this.
pub struct Prometheus {
    _process: Process,
    address: SocketAddr,
    _directory: TempDir,
}

impl Prometheus {
    /// As README.md has it, but for the target and the pace.
    pub fn watching(tbot: &Tbot) -> Self {
        let directory = TempDir::new().expect("a directory for temporary files");
        let config = config().replace("127.0.0.1:3001", &tbot.address().to_string());
        assert_ne!(config, self::config(), "README.md names the usual address");
        let pace = "global: { scrape_interval: 200ms, evaluation_interval: 200ms }\n";
        let path = write_files(directory.path(), &(pace.to_owned() + &config));
        let mut command = Command::new("prometheus");
        command
            .arg(format!("--config.file={}", path.display()))
            .arg("--storage.tsdb.path=data")
            .arg("--web.listen-address=127.0.0.1:0")
            .current_dir(directory.path());
        let mut process = Process::spawn(&mut command);
        // It does not say which port it got, but the kernel knows.
        let address = until("Prometheus listens", || {
            let ended = process.ended();
            assert!(ended.is_none(), "{}", process.stderr.so_far());
            procfs::listeners(process.pid()).pop()
        });
        Self {
            _process: process,
            address,
            _directory: directory,
        }
    }

    /// What its API says, `None` while it is not ready.
    pub fn api(&self, path: &str, query: &str) -> Option<Value> {
        let mut curl = Command::new("curl");
        curl.args(["-sS", "--max-time", "60", "--noproxy", "*", "--get"])
            .arg("--data-urlencode")
            .arg(format!("query={query}"))
            .arg(format!("http://{}/api/v1/{path}", self.address));
        let answer: Value = serde_json::from_str(&succeed(&mut curl)).ok()?;
        assert_eq!(answer["status"], "success", "{query}: {answer}");
        Some(answer["data"].clone())
    }

    /// The value of an expression that gives one series.
    fn value(&self, query: &str) -> Option<f64> {
        let data = self.api("query", query)?;
        let series = data["result"].as_array()?;
        assert!(series.len() <= 1, "{query}: {data}");
        series.first()?["value"][1].as_str()?.parse().ok()
    }

    pub fn await_value(&self, query: &str, wanted: f64) {
        until(&format!("{query} is {wanted}"), || {
            (self.value(query) == Some(wanted)).then_some(())
        });
    }

    /// Waits until an alert is raised, or would be after its time.
    fn await_alert(&self, name: &str) {
        assert!(alerts().contains(&name), "there is no alert {name}");
        let query = format!("count(ALERTS{{alertname=\"{name}\"}})");
        until(&query, || self.value(&query));
    }
}

#[test]
fn what_goes_through_is_what_prometheus_sees() {
    let (tbot, echo) = (Tbot::start(), Server::echo());
    let prometheus = Prometheus::watching(&tbot);
    prometheus.await_value("up{job=\"tbot\"}", 1.0);
    let started = "tbot_ssh_multiplexer_requests_started_total";
    prometheus.await_value(started, 0.0);
    for length in [1, 1000, 100_000] {
        assert_echoes(&mut dial(&tbot, echo.address), &vec![b'x'; length]);
    }
    tbot.await_ended(3);
    prometheus.await_value(started, 3.0);
    for direction in ["sent", "received"] {
        let bytes =
            format!("tbot_ssh_multiplexer_relayed_bytes_total{{direction=\"{direction}\"}}");
        prometheus.await_value(&bytes, 101_001.0);
    }
}

#[test]
fn the_alerts_are_raised_by_what_they_name_and_by_nothing_else() {
    let (tbot, echo) = (Tbot::start(), Server::echo());
    let prometheus = Prometheus::watching(&tbot);
    assert_echoes(&mut dial(&tbot, echo.address), b"up");
    prometheus.await_value("tbot_ssh_multiplexer_requests_started_total", 1.0);
    until("all rules are evaluated, without an error", || {
        let data = prometheus.api("rules", "")?;
        let rules = data["groups"][0]["rules"].as_array()?;
        assert_eq!(rules.len(), alerts().len(), "{data}");
        let is = |health: &str| rules.iter().all(|rule| rule["health"] == health);
        assert!(!rules.iter().any(|rule| rule["health"] == "err"), "{data}");
        is("ok").then_some(())
    });
    assert_eq!(prometheus.value("count(ALERTS)"), None, "nothing is wrong");

    let closed = ClosedPort::new();
    until("refusals are more than a tenth", || {
        assert_refused(&mut dial(&tbot, closed.address));
        prometheus.value("count(ALERTS{alertname=\"TbotRefuses\",reason=\"refused\"})")
    });
    assert_eq!(
        prometheus.value("count(ALERTS)"),
        Some(1.0),
        "and only that"
    );
    fs::remove_dir_all(&tbot.destination).expect("it is the test's");
    fs::write(&tbot.destination, "in the way").expect("the directory is ours");
    tbot.signal(rustix::process::Signal::HUP);
    prometheus.await_alert("TbotUnready");
    prometheus.await_alert("TbotTaskFails");
    drop(tbot);
    prometheus.await_alert("TbotDown");
}

#[test]
fn a_bastion_that_is_down_is_told_of() {
    let closed = ClosedPort::new();
    let bastion = ["--proxy-server", &closed.address.to_string()];
    let tbot = Start::multiplexer().args(bastion).start();
    Prometheus::watching(&tbot).await_alert("TbotBastion");
}

#[test]
fn promtool_takes_the_configuration_and_the_rules() {
    let directory = TempDir::new().expect("a directory for temporary files");
    let path = write_files(directory.path(), config());
    for (kind, file) in [
        ("config", path.as_path()),
        ("rules", &directory.path().join("tbot.rules.yaml")),
    ] {
        let said = succeed(Command::new("promtool").args(["check", kind]).arg(file));
        let found = format!("SUCCESS: {} rules found", alerts().len());
        assert!(said.contains(&found), "{said}");
    }
}

#[test]
fn the_alerts_ask_for_metrics_that_are_there() {
    let keys = Keys::with_ca();
    let bastion = format!("proxy_server: {}", ClosedPort::new().address);
    let metrics = with_identity(&keys.ssh_ca("root"), &bastion, "")
        .start()
        .metrics();
    let is_there = |name: &str| metrics.contains(&format!("\n# TYPE {name} "));
    for prefix in ["tbot_", "process_"] {
        let mut names = words(rules(), prefix, is_of_a_name).peekable();
        assert!(names.peek().is_some(), "no {prefix} in\n{}", rules());
        names.for_each(|name| assert!(is_there(name), "no {name} in\n{metrics}"));
    }
    // And for values of labels that are there.
    for (_, rest) in rules()
        .match_indices("reason=")
        .map(|(at, _)| rules().split_at(at))
    {
        let values = rest.split('"').nth(1).expect("a value in quotes");
        for value in values.split('|') {
            assert!(
                metrics.contains(&format!("{{reason=\"{value}\"}}")),
                "no reason {value}"
            );
        }
    }
}

#[test]
fn listeners_are_found_where_they_are() {
    let tbot = Tbot::start();
    assert_eq!(procfs::listeners(tbot.pid()), [tbot.address()]);
}
