//! The real program, in a directory of its own, with a clean environment.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::net::SocketAddr;
use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use super::http;
use super::process::{Finished, Process};
use super::wait::until;

/// How to start it.
pub struct Start {
    directory: TempDir,
    destination: PathBuf,
    diagnostics: Option<String>,
    config: Option<PathBuf>,
    program: PathBuf,
    wrapper: Vec<OsString>,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
}

impl Start {
    /// `tbot start ssh-multiplexer`, diagnostics on a free port.
    pub fn multiplexer() -> Self {
        let directory = TempDir::new().expect("a directory for temporary files");
        let destination = directory.path().join("mux");
        Self {
            directory,
            destination,
            diagnostics: Some("127.0.0.1:0".into()),
            config: None,
            program: env!("CARGO_BIN_EXE_tbot").into(),
            wrapper: Vec::new(),
            arguments: Vec::new(),
            environment: Vec::new(),
        }
    }

    /// `tbot start -c` with the file that `yaml` makes for a destination directory.
    pub fn config(yaml: impl FnOnce(&Path) -> String) -> Self {
        let mut start = Self::multiplexer();
        let path = start.directory.path().join("tbot.yaml");
        fs::write(&path, yaml(&start.destination)).expect("the directory is ours");
        start.config = Some(path);
        start
    }

    /// With further arguments.
    pub fn args<S: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = S>) -> Self {
        self.arguments
            .extend(arguments.into_iter().map(|word| word.as_ref().to_owned()));
        self
    }

    /// Into this directory instead of a fresh one.
    pub fn destination(mut self, path: impl Into<PathBuf>) -> Self {
        self.destination = path.into();
        self
    }

    /// With `--diag-addr address`.
    pub fn diagnostics(mut self, address: impl ToString) -> Self {
        self.diagnostics = Some(address.to_string());
        self
    }

    /// Without `--diag-addr`.
    pub fn without_diagnostics(mut self) -> Self {
        self.diagnostics = None;
        self
    }

    /// With an environment variable.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Another build of it.
    pub fn program(mut self, path: PathBuf) -> Self {
        self.program = path;
        self
    }

    /// By another program that becomes it, such as `prlimit --nofile=64:64`.
    pub fn through(mut self, wrapper: &[&str]) -> Self {
        self.wrapper = wrapper.iter().map(Into::into).collect();
        self
    }

    /// The directory of its own, above the destination.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Starts it and waits until it serves.
    pub fn start(self) -> Tbot {
        let process = Process::spawn(&mut self.command());
        let log = process.stderr.clone();
        let address = self.diagnostics.as_ref().map(|_| {
            let line = log.line("diagnostics are served at http://");
            let (_, url) = line
                .split_once("http://")
                .expect("the line was found by it");
            url.split('/')
                .next()
                .and_then(|address| address.parse().ok())
                .unwrap_or_else(|| panic!("no address in {line:?}"))
        });
        log.line(" is ready at ");
        Tbot {
            process,
            destination: self.destination,
            address,
            _directory: self.directory,
        }
    }

    /// Starts it and waits for the end that it should come to by itself.
    pub fn finish(self) -> Finished {
        Process::spawn(&mut self.command()).finish()
    }

    fn command(&self) -> Command {
        let mut words = self.wrapper.clone();
        words.push(self.program.clone().into());
        words.push("start".into());
        match &self.config {
            Some(path) => words.extend(["-c".into(), path.into()]),
            None => words.extend([
                "ssh-multiplexer".into(),
                "--destination".into(),
                (&self.destination).into(),
            ]),
        }
        if let Some(address) = &self.diagnostics {
            words.extend(["--diag-addr".into(), address.into()]);
        }
        words.extend(self.arguments.iter().cloned());
        let mut command = Command::new(&words[0]);
        command
            .args(&words[1..])
            .env_clear()
            .env("HOME", self.directory.path())
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("RUST_BACKTRACE", "1")
            .envs(self.environment.iter().cloned())
            .current_dir(self.directory.path());
        command
    }
}

/// It runs and serves.
pub struct Tbot {
    process: Process,
    pub destination: PathBuf,
    address: Option<SocketAddr>,
    _directory: TempDir,
}

impl Tbot {
    /// A multiplexer with the defaults.
    pub fn start() -> Self {
        Start::multiplexer().start()
    }

    /// A multiplexer with further arguments.
    pub fn with(arguments: &[&str]) -> Self {
        Start::multiplexer().args(arguments).start()
    }

    /// Where its diagnostics listen.
    pub fn address(&self) -> SocketAddr {
        self.address.expect("started with diagnostics")
    }

    /// A URL of its diagnostics.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address())
    }

    pub fn socket(&self) -> PathBuf {
        self.destination.join("v1.sock")
    }

    pub fn ssh_config(&self) -> PathBuf {
        self.destination.join("ssh_config")
    }

    /// What its `known_hosts` holds.
    pub fn known_hosts(&self) -> String {
        let path = self.destination.join("known_hosts");
        fs::read_to_string(path).expect("it is written")
    }

    /// All metrics, as text.
    pub fn metrics(&self) -> String {
        let (status, body) = http::get(self.address(), "/metrics");
        assert_eq!(status, 200, "{body}");
        body
    }

    /// The value of one series, such as `name` or `name{label="value"}`.
    pub fn metric(&self, series: &str) -> u64 {
        let metrics = self.metrics();
        value(&metrics, series).unwrap_or_else(|| panic!("no {series} in\n{metrics}"))
    }

    /// Requests refused for `reason`.
    pub fn refused(&self, reason: &str) -> u64 {
        self.metric(&format!(
            "tbot_ssh_multiplexer_requests_refused_total{{reason=\"{reason}\"}}"
        ))
    }

    /// Its connections, from one scrape.
    pub fn counts(&self) -> Counts {
        let metrics = self.metrics();
        let read = |name: &str| {
            value(&metrics, &format!("tbot_ssh_multiplexer_requests_{name}"))
                .unwrap_or_else(|| panic!("no {name} in\n{metrics}"))
        };
        Counts {
            started: read("started_total"),
            ok: read("handled_total{status=\"OK\"}"),
            error: read("handled_total{status=\"ERROR\"}"),
            in_flight: read("in_flight"),
        }
    }

    /// Waits until its connections are counted so.
    pub fn await_counts(&self, wanted: Counts) {
        self.await_counts_where(&format!("{wanted:?}"), |counts| counts == wanted);
    }

    /// Waits until that many connections were started and all of them have ended. Clients that left
    /// may still wait to be accepted, so the number is part of it.
    pub fn await_ended(&self, started: u64) -> Counts {
        self.await_counts_where(&format!("{started} connections ended"), |counts| {
            counts.started == started
                && counts.in_flight == 0
                && counts.ok + counts.error == started
        })
    }

    /// Waits until that many connections are in flight.
    pub fn await_in_flight(&self, wanted: u64) {
        self.await_counts_where(&format!("{wanted} in flight"), |counts| {
            counts.in_flight == wanted
        });
    }

    fn await_counts_where(&self, what: &str, matches: impl Fn(Counts) -> bool) -> Counts {
        let mut last = None;
        let deadline = std::time::Instant::now() + super::wait::PATIENCE;
        while std::time::Instant::now() < deadline {
            let counts = self.counts();
            if matches(counts) {
                return counts;
            }
            last = Some(counts);
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        panic!("waited for {what}, got {last:?}");
    }

    /// Waits until it has as few descriptors as it had.
    pub fn await_descriptors(&self, wanted: usize) {
        let what = format!(
            "{wanted} descriptors open, now {:?}",
            super::procfs::descriptor_list(self.pid())
        );
        until(&what, || {
            // A scrape of another thread could be one of them, but every test has its own tbot.
            (super::procfs::descriptors(self.pid()) <= wanted).then_some(())
        });
    }
}

impl Deref for Tbot {
    type Target = Process;

    fn deref(&self) -> &Process {
        &self.process
    }
}

impl DerefMut for Tbot {
    fn deref_mut(&mut self) -> &mut Process {
        &mut self.process
    }
}

/// The connections of a multiplexer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub started: u64,
    pub ok: u64,
    pub error: u64,
    pub in_flight: u64,
}

fn value(metrics: &str, series: &str) -> Option<u64> {
    metrics
        .lines()
        .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))
        .and_then(|value| value.parse().ok())
}
