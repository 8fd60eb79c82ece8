//! The dashboard for Grafana: every query of it is run by a real Prometheus that has scraped a real tbot.
#![cfg(feature = "pprof")]

use std::collections::BTreeSet;

use serde_json::Value;

use crate::common::keys::{Keys, await_healthy, with_identity};
use crate::common::readme::{README, is_of_a_name, words};
use crate::common::server::{ClosedPort, Server};
use crate::common::tbot::Tbot;
use crate::common::v1::{assert_echoes, assert_refused, dial};
use crate::common::wait::until;
use crate::common::{http, sshd::Sshd};
use crate::prometheus::Prometheus;

const DASHBOARD: &str = include_str!("../../src/dashboard.json");

/// What Grafana takes for the source that its user has chosen.
const SOURCE: &str = "${datasource}";

fn dashboard() -> Value {
    serde_json::from_str(DASHBOARD).expect("JSON")
}

fn list<'v>(value: &'v Value, key: &str) -> &'v [Value] {
    value[key]
        .as_array()
        .unwrap_or_else(|| panic!("no list {key} in {value}"))
}

fn text<'v>(value: &'v Value, key: &str) -> &'v str {
    value[key]
        .as_str()
        .unwrap_or_else(|| panic!("no text {key} in {value}"))
}

/// Those that are no headings.
fn panels(dashboard: &Value) -> impl Iterator<Item = &Value> {
    let panels = list(dashboard, "panels").iter();
    panels.filter(|panel| panel["type"] != "row")
}

fn queries(dashboard: &Value) -> Vec<(&str, &str)> {
    let of = |panel| {
        let targets = list(panel, "targets").iter();
        targets.map(move |target| (text(panel, "title"), text(target, "expr")))
    };
    panels(dashboard).flat_map(of).collect()
}

/// The values that Grafana would offer for a variable: of `label_values(metric, label)`.
fn offered(prometheus: &Prometheus, query: &str) -> Vec<String> {
    let inner = query.strip_prefix("label_values(");
    let inner = inner.and_then(|inner| inner.strip_suffix(')'));
    let (metric, label) = inner
        .and_then(|inner| inner.rsplit_once(", "))
        .expect(query);
    let data = prometheus.api("query", &format!("group by ({label}) ({metric})"));
    let data = data.expect("it is ready");
    let values = list(&data, "result").iter();
    values
        .map(|one| text(&one["metric"], label).to_owned())
        .collect()
}

/// A value in an expression of `=~`, as Grafana writes it.
fn escaped(values: &[String]) -> String {
    let values = values.iter().map(|value| value.replace('.', "\\\\."));
    format!("({})", values.collect::<Vec<_>>().join("|"))
}

#[test]
fn every_query_of_the_dashboard_finds_something_once_a_tbot_was_scraped() {
    let keys = Keys::with_ca();
    let bastion = keys.sshd();
    let tbot = with_identity(
        &keys.ssh_ca(&bastion.user),
        "",
        &format!(
            "    clusters:\n      - name: prod\n        proxy_server: '{}'\n        user: {}\n        \
             host_ca: [{}]\n      - name: near\n        hosts: ['*']",
            bastion.address,
            bastion.user,
            keys.path("ca.pub").display()
        ),
    )
    .start();
    await_healthy(&tbot, "mux");
    let prometheus = Prometheus::watching(&tbot);
    prometheus.await_value("tbot_ssh_multiplexer_requests_started_total", 0.0);
    // What is counted from here on has happened since the first scrape.
    use_everything(&tbot, &bastion);

    let dashboard = dashboard();
    let mut variables: Vec<(String, String)> = Vec::new();
    let substitute = |query: &str, variables: &[(String, String)]| {
        variables
            .iter()
            .fold(query.to_owned(), |query, (name, value)| {
                query.replace(&format!("${name}"), value)
            })
    };
    for variable in list(&dashboard["templating"], "list") {
        if variable["type"] == "query" {
            let query = substitute(text(&variable["query"], "query"), &variables);
            let values = offered(&prometheus, &query);
            assert_eq!(values.len(), 1, "{query}: {values:?}");
            variables.push((text(variable, "name").to_owned(), escaped(&values)));
        }
    }
    variables.push(("__rate_interval".into(), "5m".into()));
    let queries = queries(&dashboard);
    assert!(queries.len() > 30, "{}", queries.len());
    for (panel, query) in queries {
        let query = substitute(query, &variables);
        assert!(!query.contains('$'), "{query}");
        let mut last = Value::Null;
        until(&format!("{panel} has something: {query}"), || {
            last = prometheus.api("query", &query)?;
            let found = list(&last, "result");
            let number = |one: &Value| one["value"][1].as_str()?.parse::<f64>().ok();
            let is_number = |one| number(one).is_some_and(f64::is_finite);
            (!found.is_empty() && found.iter().all(is_number)).then_some(())
        });
    }
}

/// All that a tbot counts, at least once: sessions that go well and ones that do not, by each way; a bastion that is
/// lost; a renewal; a client of the diagnostics that is no such thing.
fn use_everything(tbot: &Tbot, bastion: &Sshd) {
    let (echo, closed) = (Server::echo(), ClosedPort::new());
    for cluster in ["near", "prod"] {
        for _ in 0..3 {
            let target = format!("{}|{cluster}", echo.address);
            assert_echoes(&mut dial(tbot, target), b"up");
        }
        let target = format!("{}|{cluster}", closed.address);
        assert_refused(&mut dial(tbot, target));
    }
    tbot.await_ended(8);
    bastion.kill_sessions();
    let reconnects = "tbot_ssh_bastion_reconnects_total{cluster=\"prod\"}";
    let ready = "tbot_ssh_bastion_masters{cluster=\"prod\",state=\"ready\"}";
    until("it is connected once more", || {
        let is_back = tbot.metric(reconnects) > 0 && tbot.metric(ready) > 0;
        is_back.then_some(())
    });
    let renewals = "tbot_task_iterations_total{name=\"renewal\",service=\"identity\"}";
    let before = tbot.metric(renewals);
    tbot.signal(rustix::process::Signal::HUP);
    until("it has renewed", || {
        (tbot.metric(renewals) > before).then_some(())
    });
    let answer = http::end(http::begin(tbot.address(), "nonsense\r\n\r\n"));
    assert_eq!(answer.status, 400);
}

#[test]
fn the_dashboard_shows_every_metric_that_the_readme_names() {
    let dashboard = dashboard();
    let shown: BTreeSet<&str> = queries(&dashboard)
        .into_iter()
        .flat_map(|(_, query)| words(query, "tbot_", is_of_a_name))
        .map(|name| {
            ["_bucket", "_sum", "_count"]
                .iter()
                .fold(name, |name, end| name.strip_suffix(end).unwrap_or(name))
        })
        .collect();
    let named: BTreeSet<&str> = words(README, "tbot_", is_of_a_name)
        .filter(|name| !name.ends_with('_'))
        .collect();
    assert_eq!(shown, named);
}

#[test]
fn the_dashboard_is_one_that_grafana_shows_well() {
    let dashboard = dashboard();
    // That of Grafana 10 and 11; later ones take it.
    assert_eq!(dashboard["schemaVersion"], 39);
    let (mut ids, mut titles) = (BTreeSet::new(), BTreeSet::new());
    let mut places = BTreeSet::new();
    for panel in list(&dashboard, "panels") {
        let title = text(panel, "title");
        assert!(
            ids.insert(panel["id"].as_u64().expect("a number")),
            "{title}"
        );
        let place = |key: &str| panel["gridPos"][key].as_u64().expect("a number");
        let (left, top) = (place("x"), place("y"));
        assert!(place("w") > 0 && left + place("w") <= 24, "{title}");
        for cell in
            (left..left + place("w")).flat_map(|x| (top..top + place("h")).map(move |y| (x, y)))
        {
            assert!(places.insert(cell), "{title} lies over another one");
        }
        if panel["type"] == "row" {
            continue;
        }
        assert!(titles.insert(title), "{title} twice");
        assert!(text(panel, "description").ends_with('.'), "{title}");
        assert!(
            !text(&panel["fieldConfig"]["defaults"], "unit").is_empty(),
            "{title}"
        );
        assert_eq!(panel["datasource"]["uid"], SOURCE, "{title}");
        let mut names = BTreeSet::new();
        for target in list(panel, "targets") {
            assert_eq!(target["datasource"]["uid"], SOURCE, "{title}");
            assert!(names.insert(text(target, "refId")), "{title}");
            assert!(
                text(target, "legendFormat").contains("{{instance}}"),
                "{title}"
            );
            let query = text(target, "expr");
            let selectors = query.matches('{').count();
            let ours = query
                .matches("{job=~\"$job\", instance=~\"$instance\"")
                .count();
            assert!(selectors > 0 && selectors == ours, "{query}");
        }
    }
    let rows = places.iter().map(|(_, y)| y).max().expect("there are some") + 1;
    assert_eq!(places.len() as u64, rows * 24, "there are holes in it");
    for variable in list(&dashboard["templating"], "list") {
        if variable["type"] == "query" {
            assert_eq!(variable["datasource"]["uid"], SOURCE, "{variable}");
            assert_eq!(variable["query"]["query"], variable["definition"]);
        }
    }
}
