//! The programs in `tests/examples/` that show how to embed this library, run as their users would.

use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Signal;

use crate::common::http;
use crate::common::process::Process;
use crate::common::wait::until;

/// A running example, and where it answers.
struct Example {
    process: Process,
    address: SocketAddr,
}

impl Example {
    fn start(name: &str, arguments: &[&Path]) -> Self {
        let mut command = Command::new(built(name));
        let process = Process::spawn_with_input(command.args(arguments));
        let line = process.stdout.line("http://");
        let address = line.trim_start_matches("http://").parse();
        Self {
            process,
            address: address.expect("an address and a port"),
        }
    }

    fn get(&self, path: &str) -> (u16, String) {
        http::get(self.address, path)
    }

    /// It ends in order when asked to.
    fn stop(mut self, signal: Signal) -> String {
        self.process.signal(signal);
        let status = self.process.exit();
        assert!(status.success(), "{status}");
        let stdout = self.process.stdout.all();
        assert!(stdout.ends_with("stopped\n"), "{stdout}");
        stdout
    }
}

/// What cargo built beside this test, no older than what it says that it was built from.
fn built(name: &str) -> PathBuf {
    let own = std::env::current_exe().expect("Linux");
    let target = own.ancestors().nth(2).expect("it is in target/…/deps");
    let program = target.join("examples").join(name);
    let time = |path: &Path| fs::metadata(path).and_then(|file| file.modified());
    let sources = fs::read_to_string(program.with_extension("d"));
    let is_new = |sources: &String| {
        let mut sources = sources.split(' ').filter(|file| file.ends_with(".rs"));
        sources.all(|file| time(Path::new(file)).ok() < time(&program).ok())
    };
    assert!(
        sources.as_ref().is_ok_and(is_new),
        "run `cargo build --examples` with the features of this test first, as `cargo test` alone does: there is no \
         new {}",
        program.display()
    );
    program
}

#[test]
fn a_worker_reports_counts_and_ends_in_order() {
    let directory = tempfile::tempdir().expect("a directory for temporary files");
    let (good, missing) = (
        directory.path().join("good"),
        directory.path().join("missing"),
    );
    fs::write(&good, "one\ntwo\n").expect("the directory is ours");
    let mut worker = Example::start("worker", &[]);
    until("both workers have reported", || {
        (worker.get("/readyz").0 == 200).then_some(())
    });
    assert_eq!(worker.get("/version").1, env!("CARGO_PKG_VERSION"));

    let input = worker.process.input();
    writeln!(input, "{}", missing.display()).expect("it reads");
    let reason = format!("cannot read {}: ", missing.display());
    until("the failure is reported", || {
        let (status, body) = worker.get("/readyz");
        (status == 503 && body.contains(&reason)).then_some(())
    });
    let metrics = worker.get("/metrics").1;
    for line in [
        "worker_jobs_total{result=\"failed\"} 1",
        "tbot_service_status{service=\"worker-0\",status=\"initializing\"} 0",
    ] {
        assert!(
            metrics.lines().any(|found| found == line),
            "{line} in {metrics}"
        );
    }

    // What is queued when it is told to stop is done.
    let input = worker.process.input();
    for _ in 0..3 {
        writeln!(input, "{}", good.display()).expect("it reads");
    }
    worker.process.stdout.line("good: 2 lines");
    let stdout = worker.stop(Signal::TERM);
    let counted = stdout
        .lines()
        .filter(|line| line.ends_with("/good: 2 lines"))
        .count();
    assert!((1..=3).contains(&counted), "{stdout}");
}

#[test]
fn a_server_of_tiny_http_has_its_own_pages_and_the_diagnostics() {
    let server = Example::start("inside_tiny_http", &[]);
    assert_eq!(server.get("/hello"), (200, "hello\n".into()));
    assert_eq!(server.get("/livez"), (200, "OK".into()));
    assert_eq!(server.get("/readyz/greeter").0, 200);
    assert_eq!(server.get("/wait").0, 200);
    let metrics = server.get("/metrics").1;
    assert!(metrics.contains("\ngreetings_total 1\n"), "{metrics}");
    assert_eq!(server.get("/none").0, 404);
    assert_eq!(server.get("/debug/pprof/profile").0, 404, "it is off");
    server.stop(Signal::INT);
}

#[cfg(feature = "pprof")]
#[test]
fn such_a_server_serves_profiles_beside_its_pages() {
    let server = Example::start("inside_tiny_http", &[Path::new("--debug")]);
    let path = "/debug/pprof/profile?seconds=60";
    let profile = http::begin(server.address, &http::request(server.address, path, ""));
    let threads = until("the profile is being taken", || {
        let (_, threads) = server.get("/debug/pprof/threads");
        threads.contains("cpu_profile").then_some(threads)
    });
    assert!(threads.contains("inside_tiny_http::main"), "{threads}");
    let short = http::fetch(server.address, "/debug/pprof/profile?seconds=1");
    assert_eq!(
        (short.status, short.text().contains("already in use")),
        (500, true)
    );
    assert_eq!(server.get("/hello").0, 200);
    // It ends with the server, long before its time.
    server.stop(Signal::TERM);
    drop(profile);
}

#[cfg(feature = "multiplexer")]
#[test]
fn a_multiplexer_in_another_program_relays_and_shows_it() {
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    use crate::common::server::Server;
    use crate::common::wait::PATIENCE;

    let directory = tempfile::tempdir().expect("a directory for temporary files");
    let destination = directory.path().join("mux");
    // Only named in ssh_config here.
    let program = Path::new("/usr/local/bin/tbot");
    let embedder = Example::start("multiplexer", &[&destination, program]);
    until("it is ready", || {
        (embedder.get("/readyz").0 == 200).then_some(())
    });
    let ssh_config = fs::read_to_string(destination.join("ssh_config")).expect("it is written");
    assert!(
        ssh_config.contains("ssh-multiplexer-proxy-command"),
        "{ssh_config}"
    );

    let target = Server::echo();
    let socket = destination.join("v1.sock");
    let mut client = UnixStream::connect(&socket).expect("it accepts");
    client
        .set_read_timeout(Some(PATIENCE))
        .expect("a good time");
    let request = format!("{}\0hello", target.address);
    client.write_all(request.as_bytes()).expect("it reads");
    let mut back = [0; 5];
    client.read_exact(&mut back).expect("the target answers");
    assert_eq!(&back, b"hello");
    drop(client);
    until("it is counted", || {
        let metrics = embedder.get("/metrics").1;
        let handled = "\ntbot_ssh_multiplexer_requests_handled_total{status=\"OK\"} 1\n";
        metrics.contains(handled).then_some(())
    });
    fs::remove_file(&socket).expect("it is there");
    let (status, body) = embedder.get("/readyz");
    assert!(
        status == 503 && body.contains("v1.sock is not this tbot's socket"),
        "{body}"
    );
    embedder.stop(Signal::TERM);
}
