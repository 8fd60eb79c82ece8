//! What a program that embeds the service writes down, and what it may rely on.

use std::net::{Ipv4Addr, Ipv6Addr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use tbot::diagnostics::{
    Builder, Client as Waiting, Diagnostics, Limits, ProcessCollector, Request, Routes,
};
use tbot::metrics::{DiagnosticsMetrics, TaskMetrics, TaskMetricsFamily};
use tbot::tiny_http::{Method, Response, ResponseBox, Server};
use tbot::{prometheus, readyz, task};

use super::client::{Client, PATIENCE, ask, get, limits};

/// Whatever a thread holds may go to another one, and be used by several.
#[test]
fn all_of_it_can_be_shared_by_threads() {
    fn shared<T: Send + Sync + 'static>() {}
    shared::<Builder>();
    shared::<Diagnostics>();
    shared::<Limits>();
    shared::<ProcessCollector>();
    shared::<Routes>();
    shared::<readyz::Registry>();
    shared::<readyz::Reporter>();
    shared::<readyz::Overall>();
    shared::<readyz::Validity>();
    shared::<DiagnosticsMetrics>();
    shared::<TaskMetrics>();
    shared::<TaskMetricsFamily>();
    shared::<task::Task>();
    #[cfg(feature = "multiplexer")]
    {
        use tbot::multiplexer;
        shared::<multiplexer::Multiplexer>();
        shared::<multiplexer::Options>();
        shared::<multiplexer::Template>();
        shared::<multiplexer::Error>();
        shared::<tbot::metrics::MultiplexerMetrics>();
    }
    #[cfg(feature = "identity")]
    {
        use tbot::identity;
        shared::<identity::Identity>();
        shared::<identity::Credential>();
        shared::<identity::Source>();
        shared::<identity::Stop>();
        shared::<identity::Agent<std::os::unix::net::UnixListener>>();
    }
    fn within<T: Send + Sync>() {}
    within::<Request<'_>>();
    within::<Waiting<'_>>();
}

/// What a program pushes or writes by an exporter of its own is what is scraped, our metrics and its own.
#[test]
fn an_exporter_of_the_program_has_what_is_scraped() {
    let registry = prometheus::Registry::new();
    let metrics = DiagnosticsMetrics::register(&registry).expect("the registry is empty");
    let tasks = TaskMetricsFamily::register(&registry).expect("other names");
    tasks.task("backup", "a \"task\"");
    let services = readyz::Registry::new();
    services.register("backup").unhealthy("no space");
    tbot::metrics::register_service_status(&registry, services).expect("other names");
    let jobs = prometheus::Counter::new("jobs_total", "Jobs.").expect("a good name");
    let registered = registry.register(Box::new(jobs.clone()));
    registered.expect("the first of its name");
    jobs.inc_by(0.5);
    let service = Diagnostics::builder()
        .metrics(registry.clone())
        .service_metrics(metrics)
        .bind("127.0.0.1:0")
        .expect("a free port");
    assert_eq!(ask(&service, "/livez").status, 200);
    let mut client = Client::of(&service);
    let scraped = client.send(get("/metrics")).answer().body;
    let exported = prometheus::TextEncoder::new().encode_to_string(&registry.gather());
    // The scrape itself was counted behind it.
    let others = |text: &str| {
        let scrape =
            |line: &&str| !line.contains("path=\"/metrics\"") && !line.contains("connections");
        let lines = text.lines().filter(scrape);
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(others(&scraped), others(&exported.expect("encodes")));
    for line in [
        "jobs_total 0.5",
        "tbot_service_status{service=\"backup\",status=\"unhealthy\"} 1",
        "tbot_task_iterations_total{name=\"a \\\"task\\\"\",service=\"backup\"} 0",
        "tbot_diag_http_requests_total{code=\"200\",path=\"/livez\"} 1",
    ] {
        assert!(
            scraped.lines().any(|one| one == line),
            "{line} in {scraped}"
        );
    }
}

#[cfg(feature = "multiplexer")]
#[test]
fn a_multiplexer_that_ends_is_not_brought_back_by_whoever_maintains_it() {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;
    use tbot::multiplexer::{Multiplexer, Options};

    use crate::common::server::Server;
    use crate::common::wait::until;

    let directory = tempfile::tempdir().expect("a directory for temporary files");
    let options = Options::new(directory.path().join("mux"), vec!["/bin/false".into()]);
    let metrics = tbot::metrics::MultiplexerMetrics::register(&prometheus::Registry::new());
    let metrics = metrics.expect("a registry of its own");
    let multiplexer = Multiplexer::start(&options, &metrics).expect("it starts");
    multiplexer.maintain().expect("it serves");
    let target = Server::greeting();
    let socket = multiplexer.socket_path();
    let mut client = UnixStream::connect(&socket).expect("it accepts");
    let request = format!("{}\0", target.address);
    client.write_all(request.as_bytes()).expect("it reads");
    client.read_exact(&mut [0]).expect("the target greets");
    thread::scope(|scope| {
        let ended = scope.spawn(|| multiplexer.shutdown(PATIENCE));
        until("it accepts nothing more", || {
            (!socket.exists()).then_some(())
        });
        assert!(multiplexer.maintain().is_err());
        assert!(!socket.exists(), "nobody would serve who connects");
        drop(client);
        assert!(ended.join().expect("it ends"), "the one has ended");
    });
    assert!(multiplexer.maintain().is_err());
    assert!(!socket.exists());
}

#[test]
fn metrics_of_the_process_are_those_of_the_macros() {
    let jobs =
        prometheus::register_int_counter!("embedding_default_jobs_total", "Jobs.").expect("once");
    let service = Diagnostics::builder()
        .default_metrics()
        .bind("127.0.0.1:0")
        .expect("a free port");
    jobs.inc_by(3);
    let metrics = ask(&service, "/metrics").body;
    assert!(
        metrics.contains("\nembedding_default_jobs_total 3\n"),
        "{metrics}"
    );
}

fn version(request: &Request<'_>) -> ResponseBox {
    Response::from_string(format!("1.2.3 of {}", request.path())).boxed()
}

#[test]
fn a_plain_function_is_a_route() {
    let as_pointer: fn(&Request<'_>) -> ResponseBox = version;
    let service = Diagnostics::builder()
        .route("/version", version)
        .route("/pointer", as_pointer)
        .route("/version", |_| Response::empty(500).boxed())
        .route("/livez", |_| Response::empty(500).boxed())
        .bind("127.0.0.1:0")
        .expect("a free port");
    for (path, body) in [
        ("/version", "1.2.3 of /version"),
        ("/pointer", "1.2.3 of /pointer"),
        ("/livez", "OK"),
    ] {
        let answer = ask(&service, path);
        assert_eq!((answer.status, &*answer.body), (200, body));
    }
}

#[test]
fn a_listener_that_is_open_already_is_served_also_by_ipv6() {
    let mut listeners = vec![TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port")];
    // A container may be without.
    listeners.extend(TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).ok());
    listeners.extend(TcpListener::bind((Ipv4Addr::LOCALHOST.to_ipv6_mapped(), 0)).ok());
    for listener in listeners {
        // As an event loop leaves it.
        listener.set_nonblocking(true).expect("it is ours");
        let addr = listener.local_addr().expect("it is bound");
        let service = Diagnostics::builder()
            .listen(listener)
            .expect("it listens already");
        assert_eq!(service.local_addr(), addr);
        assert_eq!(ask(&service, "/livez").status, 200, "{addr}");
    }
}

#[test]
fn nobody_waits_for_a_reader_to_report() {
    let services = readyz::Registry::new();
    let (begun, begins) = channel();
    let (go_on, hangs) = channel::<()>();
    let hangs = std::sync::Mutex::new((begun, hangs));
    let stuck = services.register("stuck").checked_by(move || {
        let hangs = hangs.lock().expect("one reader");
        hangs.0.send(()).expect("the test waits");
        hangs.1.recv().err().map(|_| "it hung".into())
    });
    stuck.healthy();
    let service = Diagnostics::builder()
        .readyz(services.clone())
        .bind("127.0.0.1:0")
        .expect("a free port");
    let mut client = Client::of(&service);
    client.send(get("/readyz"));
    begins.recv_timeout(PATIENCE).expect("the check runs");
    // While that reader hangs, in as many threads as there are services.
    let names: Vec<String> = (0..4).map(|n| format!("worker-{n}")).collect();
    thread::scope(|scope| {
        for name in &names {
            scope.spawn(|| {
                let reporter = services.register(name.as_str());
                for _ in 0..1000 {
                    reporter.unhealthy("busy");
                    reporter.clone().healthy();
                }
            });
        }
    });
    drop(go_on);
    assert_eq!(client.answer().status, 503);
    let others = services.overall().services.into_values();
    assert!(
        others
            .filter(|one| one.status == readyz::Status::Healthy)
            .count()
            == 4
    );
}

#[test]
fn no_limit_is_too_large_or_too_small_to_serve_with() {
    let largest = limits(Limits::default(), |one| {
        one.max_connections = usize::MAX;
        one.max_waiting = usize::MAX;
        one.head_bytes = usize::MAX;
        for time in [
            &mut one.head,
            &mut one.idle,
            &mut one.write,
            &mut one.linger,
            &mut one.shutdown,
        ] {
            *time = Duration::MAX;
        }
    });
    let smallest = limits(Limits::default(), |one| {
        one.max_connections = 0;
        one.max_waiting = 0;
        one.head_bytes = 0;
        one.idle = Duration::ZERO;
        one.linger = Duration::ZERO;
        one.shutdown = Duration::ZERO;
    });
    for limits in [largest, smallest] {
        let service = Diagnostics::builder()
            .limits(limits)
            .bind("127.0.0.1:0")
            .expect("a free port");
        assert_eq!(ask(&service, "/livez").body, "OK");
        let mut refused = Client::of(&service);
        assert_eq!(refused.send("nonsense\r\n\r\n").answer().status, 400);
        drop(refused);
        service.shutdown();
    }
}

/// A `tiny_http` server that answers `requests` of a client, and what that got.
fn of_tiny_http(routes: &Routes, requests: &[&str]) -> Vec<(u16, String)> {
    let server = Server::http("127.0.0.1:0").expect("a free port");
    let addr = server.server_addr().to_ip().expect("TCP");
    thread::scope(|scope| {
        scope.spawn(|| {
            for _ in requests {
                let request = server.recv().expect("a request");
                let answer = routes.respond(request.method(), request.url());
                request.respond(answer).expect("the client reads");
            }
        });
        let mut client = Client::from(TcpStream::connect(addr).expect("connects"));
        let ask = |line: &&str| {
            client.send(format!("{line} HTTP/1.1\r\nHost: a\r\n\r\n"));
            if line.starts_with("HEAD ") {
                let answer = client.answer_to_head();
                return (answer.status, String::new());
            }
            let answer = client.answer();
            (answer.status, answer.body)
        };
        requests.iter().map(ask).collect()
    })
}

#[test]
fn a_tiny_http_server_answers_the_same_and_never_waits() {
    let services = readyz::Registry::new();
    services.register("mux");
    let routes = Diagnostics::builder()
        .readyz(services.clone())
        .route("/version", version)
        .route("/panic", |_| panic!("as asked"))
        .long_route("/long", |_, client| {
            let there = if client.is_there() { 200 } else { 503 };
            Response::empty(there).boxed()
        })
        .routes();
    let answers = of_tiny_http(
        &routes,
        &[
            "GET /livez?x=1",
            // A body after it would be the beginning of the next answer.
            "HEAD /livez",
            "GET /version",
            "POST /",
            "BREW /",
            "GET /wait",
            "GET /wait/none",
            "GET /long",
            "GET /panic",
            "GET /%ff",
            "GET /readyz",
        ],
    );
    let codes: Vec<u16> = answers.iter().map(|(status, _)| *status).collect();
    assert_eq!(
        codes,
        [200, 200, 200, 405, 405, 503, 404, 503, 500, 400, 503]
    );
    assert_eq!(answers[0].1, "OK");
    assert_eq!(answers[2].1, "1.2.3 of /version");
}

#[test]
fn a_method_is_whatever_shows_its_name() {
    struct Broken;
    impl std::fmt::Display for Broken {
        fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            Err(std::fmt::Error)
        }
    }
    let routes = Diagnostics::builder().routes();
    let code = |answer: ResponseBox| answer.status_code().0;
    assert_eq!(code(routes.respond(&Method::Get, "/livez")), 200);
    assert_eq!(code(routes.respond("GET", "/livez")), 200);
    assert_eq!(code(routes.respond(&String::from("get"), "/livez")), 405);
    assert_eq!(code(routes.respond(&Broken, "/livez")), 405);
    assert_eq!(code(routes.respond("GET", "")), 400);
}

#[test]
fn a_server_with_a_thread_to_spare_waits_and_ends_when_told() {
    let services = readyz::Registry::new();
    let mux = services.register("mux");
    let routes = Diagnostics::builder().readyz(services).routes();
    let goes_on = AtomicBool::new(true);
    let wait = || routes.respond_while("GET", "/wait", || goes_on.load(Ordering::Relaxed));
    thread::scope(|scope| {
        let stopped = scope.spawn(wait);
        goes_on.store(false, Ordering::Relaxed);
        let stopped = stopped.join().expect("no panic");
        assert_eq!(stopped.status_code().0, 503);
        goes_on.store(true, Ordering::Relaxed);
        let waits = scope.spawn(wait);
        mux.healthy();
        assert_eq!(waits.join().expect("no panic").status_code().0, 200);
    });
}
