//! The page at `/` of any program: its own services and metrics in words, whatever they are called and how many
//! there are. How it looks is seen in a browser (`tests/tbot/front_page.rs`).

use prometheus::{
    Gauge, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
};
use tbot::diagnostics::{Builder, Diagnostics, ProcessCollector};
use tbot::readyz::Registry;

use super::client::{Answer, Client};

fn browse(service: &Diagnostics, path: &str) -> Answer {
    let accept = "text/html,application/xhtml+xml;q=0.9,*/*;q=0.8";
    let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\nAccept: {accept}\r\n\r\n");
    Client::of(service).send(request).answer()
}

fn bind(builder: Builder) -> Diagnostics {
    builder.bind("127.0.0.1:0").expect("a free port")
}

fn register(
    registry: &prometheus::Registry,
    metric: impl prometheus::core::Collector + Clone + 'static,
) {
    registry
        .register(Box::new(metric))
        .expect("the first of its name");
}

/// The text of a page, without its marks.
fn text(html: &str) -> String {
    let (_, body) = html.split_once("<body>").expect("a body");
    let parts = body.split('<').filter_map(|part| part.split_once('>'));
    let words: Vec<&str> = parts
        .flat_map(|(_, text)| text.split_whitespace())
        .collect();
    words.join(" ")
}

#[test]
fn a_browser_may_do_nothing_with_it_but_show_it() {
    let service = bind(Diagnostics::builder());
    let page = browse(&service, "/");
    let policy = page.header("Content-Security-Policy").unwrap_or_default();
    for rule in [
        "default-src 'none'; ",
        "style-src 'sha256-",
        "base-uri 'none'; ",
        "form-action 'none'; ",
        "frame-ancestors 'none'",
    ] {
        assert!(policy.contains(rule), "{policy}");
    }
    assert!(!policy.contains("unsafe"), "{policy}");
    for (header, value) in [
        ("Referrer-Policy", "no-referrer"),
        ("X-Content-Type-Options", "nosniff"),
        ("Cache-Control", "no-store"),
        // A cache that heeds this alone would show it to curl.
        ("Vary", "Accept"),
    ] {
        assert_eq!(page.header(header), Some(value), "{header}");
    }
    for mark in [
        "<html lang=\"en\">",
        "<meta name=\"viewport\"",
        "<h1>",
        "<main>",
    ] {
        assert!(page.body.contains(mark), "{mark}");
    }
    let (_, style) = page.body.split_once("<style>").expect("a style");
    let (style, _) = style.split_once("</style>").expect("it ends");
    assert!(style.len() < 2048, "{} bytes", style.len());
}

#[test]
fn services_are_there_with_status_reason_and_since_when_the_bad_ones_first() {
    let services = Registry::new();
    let service = bind(Diagnostics::builder().readyz(services.clone()));
    assert!(text(&browse(&service, "/").body).contains("Running"));
    services.register("api").healthy();
    assert!(text(&browse(&service, "/").body).contains("✓ The service is healthy"));
    services.register("mail").healthy();
    assert!(text(&browse(&service, "/").body).contains("✓ All 2 services are healthy"));
    services.register("store").unhealthy("the disk is full");
    services.register("watch");
    let page = browse(&service, "/").body;
    let shown = text(&page);
    let wanted = [
        "✗ 2 of 4 services not healthy",
        "store ✗ unhealthy the disk is full for 0 s, since 2",
        "watch … initializing for 0 s, since 2",
        "api ✓ healthy for ",
        "mail ✓ healthy for ",
        "Paths",
    ];
    let mut rest = &*shown;
    for part in wanted {
        let found = rest.split_once(part);
        rest = found.unwrap_or_else(|| panic!("no {part} in {rest}")).1;
    }
    let since = services.service("store").and_then(|store| store.since);
    let since = humantime::format_rfc3339_seconds(since.expect("it is registered"));
    assert!(
        page.contains(&format!("<time datetime=\"{since}\">")),
        "{page}"
    );
    assert!(page.contains("<a href=\"/readyz/store\">store</a>"));
}

#[test]
fn metrics_are_there_in_the_words_of_their_help_texts_and_in_the_units_of_their_names() {
    let registry = prometheus::Registry::new();
    let jobs = IntCounter::new("backup_jobs_total", "Jobs done.").expect("a good name");
    jobs.inc_by(1_234_567);
    register(&registry, jobs);
    let sent = IntCounter::new("backup_sent_bytes_total", "Sent.").expect("a good name");
    sent.inc_by(12_345_678);
    register(&registry, sent);
    let queue = IntGauge::new("backup_queue", "Files that wait now.").expect("a good name");
    register(&registry, queue);
    let opts = Opts::new("backup_failures_total", "Failures, by reason.");
    let failures = IntCounterVec::new(opts, &["reason"]).expect("a good name");
    for (reason, count) in [("disk", 2), ("network", 1), ("never", 0)] {
        failures.with_label_values(&[reason]).inc_by(count);
    }
    register(&registry, failures);
    let opts = Opts::new("backup_retries_total", "Retries.");
    let retries = IntCounterVec::new(opts, &["host"]).expect("a good name");
    retries.with_label_values(&["db1"]).inc();
    register(&registry, retries);
    let opts = HistogramOpts::new("backup_run_duration_seconds", "Time of one run.");
    let run = Histogram::with_opts(opts.buckets(vec![0.5, 5.0])).expect("a good name");
    run.observe(0.25);
    register(&registry, run);
    let next = Gauge::new("backup_next_timestamp_seconds", "The next run.").expect("a good name");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    next.set(now.expect("after 1970").as_secs_f64() + 7230.0);
    register(&registry, next);
    register(&registry, ProcessCollector::new());
    let opts = Opts::new("backup_build_info", "What it was built from.");
    let build = IntGaugeVec::new(opts, &["commit", "version"]).expect("a good name");
    build.with_label_values(&["abc", "1.2.3"]).set(1);
    register(&registry, build);
    let builder = Diagnostics::builder().metrics(registry);
    let builder = builder.route("/report", |_| tiny_http::Response::from_string("").boxed());
    let service = bind(builder.front_page(
        "backup",
        [
            ("Transfers", "backup_sent_"),
            ("Runs", "backup_run_"),
            ("Runs", "backup_queue"),
            ("Transfers", "backup_jobs_"),
        ],
    ));
    let page = browse(&service, "/").body;
    let shown = text(&page);
    assert!(page.contains(" – backup</title>"), "{page}");
    // A row of its own, so that caption and label are not one phrase.
    let alone = ">Retries\n<tr class=\"of\"><th scope=\"row\">db1<td>1\n";
    assert!(page.contains(alone), "{page}");
    // Nobody has said what it is.
    let path = "<dt><a href=\"/report\"><code>/report</code></a>\n</dl>";
    assert!(page.contains(path), "{page}");
    for part in [
        "backup on ",
        " up ",
        "Transfers Sent 12.3 MB Jobs done 1,234,567 Runs Time of one run 250 ms mean of 1 99 % ≤ 500 ms Files that wait \
         now 0 Metrics ",
        "Failures, by reason disk 2 network 1 ",
        "The next run in 2 h 0 min 2",
        "The process Maximum number of open file descriptors ",
        "version 1.2.3 · commit abc",
    ] {
        assert!(shown.contains(part), "no {part:?} in {shown}");
    }
    assert!(!shown.contains("never"), "nothing has failed for that");
}

#[test]
fn it_stays_short_whatever_there_is_and_says_where_the_rest_is() {
    let services = Registry::new();
    let long = "x".repeat(10_000);
    let reporters: Vec<_> = (0..10_000)
        .map(|place| services.register(format!("s{place:05}{long}")))
        .collect();
    reporters.iter().for_each(|service| service.healthy());
    reporters[9_999].unhealthy(&*long);
    let registry = prometheus::Registry::new();
    let opts = Opts::new("jobs_total", "Jobs.");
    let jobs = IntCounterVec::new(opts, &["kind"]).expect("a good name");
    for kind in 0..10_000 {
        jobs.with_label_values(&[&*format!("k{kind:05}{long}")])
            .inc();
    }
    register(&registry, jobs);
    for place in 0..1000 {
        let name = format!("more_{place}_total");
        register(
            &registry,
            IntCounter::new(name, &*long).expect("a good name"),
        );
    }
    let service = bind(Diagnostics::builder().readyz(services).metrics(registry));
    let page = browse(&service, "/").body;
    assert!(page.len() < 250_000, "{} bytes", page.len());
    let shown = text(&page);
    for part in [
        "1 of 10000 services not healthy",
        "Services s09999",
        "and 9900 more: /readyz",
        "Jobs k00000",
        "k00019",
        "More is in /metrics",
    ] {
        assert!(shown.contains(part), "no {part:?}");
    }
    assert!(!shown.contains("k00020"));
}

#[test]
fn it_is_read_again_by_itself_only_for_those_who_ask() {
    let service = bind(Diagnostics::builder());
    assert!(!browse(&service, "/").body.contains("http-equiv"));
    for (asked, done) in [("10", "10"), ("0", "2"), ("99999", "3600")] {
        let page = browse(&service, &format!("/?refresh={asked}")).body;
        let mark = format!("<meta http-equiv=\"refresh\" content=\"{done}\">");
        assert!(page.contains(&mark), "{page}");
    }
    assert_eq!(browse(&service, "/?refresh=often").status, 400);
}
