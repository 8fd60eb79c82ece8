//! A service `identity` alone: an authority's key, a configuration, and the directory that is written to.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::http;
use super::keys::Keys;
use super::process::{Process, run};
use super::wait::{PATIENCE, within};

/// The files that it writes.
pub const FILES: [&str; 5] = [
    "key",
    "key.pub",
    "key-cert.pub",
    "ssh_config",
    "known_hosts",
];

pub struct Room {
    pub keys: Keys,
}

impl Room {
    /// With certificates by `ca` and these lines for the run.
    pub fn new(run_lines: &str) -> Self {
        let keys = Keys::with_ca();
        let onboarding = keys.ssh_ca("deploy");
        Self::of(keys, &onboarding, run_lines)
    }

    pub fn of(keys: Keys, onboarding: &str, run_lines: &str) -> Self {
        let room = Self { keys };
        let yaml = format!(
            "version: v2\ndiag_addr: 127.0.0.1:0\n{run_lines}onboarding: {onboarding}\nservices:\n  \
             - type: identity\n    name: files\n    host_ca: [{ca}.pub]\n    \
             destination: {{ type: directory, path: {out} }}\n",
            ca = room.path("ca").display(),
            out = room.path("out").display(),
        );
        room.keys.write("tbot.yaml", yaml);
        room
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.keys.path(name)
    }

    pub fn out(&self, name: &str) -> PathBuf {
        self.path("out").join(name)
    }

    pub fn tbot(&self) -> Command {
        self.command(Path::new(env!("CARGO_BIN_EXE_tbot")))
    }

    /// Another build of it.
    pub fn command(&self, program: &Path) -> Command {
        let mut tbot = Command::new(program);
        tbot.args(["start", "-c"])
            .arg(self.path("tbot.yaml"))
            .env_clear();
        tbot.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        tbot
    }

    /// Starts it.
    pub fn start(&self) -> Process {
        Process::spawn(&mut self.tbot())
    }

    /// What is in the files now.
    pub fn contents(&self) -> Vec<Option<String>> {
        let content = |name: &&str| fs::read_to_string(self.out(name)).ok();
        FILES.iter().map(content).collect()
    }

    /// All that is in the directory, in order.
    pub fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.path("out")).expect("it is there");
        let name =
            |entry: std::io::Result<fs::DirEntry>| entry.ok()?.file_name().into_string().ok();
        let mut names: Vec<String> = entries.filter_map(name).collect();
        names.sort();
        names
    }
}

/// Status and body of `path` of a tbot's diagnostics.
pub fn get(tbot: &Process, path: &str) -> (u16, String) {
    let line = tbot.stderr.line("diagnostics are served at http://");
    let (_, address) = line.split_once("http://").expect("it was found by it");
    let address = address.trim_end_matches('/').parse().expect("an address");
    http::get(address, path)
}

/// Waits until the service is unhealthy with this reason, which the log has too.
#[track_caller]
pub fn await_unhealthy(tbot: &Process, reason: &str) {
    within(PATIENCE, reason, || {
        let (code, body) = get(tbot, "/readyz/files");
        (code == 503 && body.contains(reason)).then_some(())
    });
    tbot.stderr.line(reason);
}

/// Waits until it is healthy.
#[track_caller]
pub fn await_healthy(tbot: &Process) {
    within(PATIENCE, "healthy", || {
        (get(tbot, "/readyz/files").0 == 200).then_some(())
    });
}

/// The fingerprint of a key, or of the key in a certificate.
pub fn fingerprint(path: &Path) -> Option<String> {
    let shown = run(Command::new("ssh-keygen").arg("-l").arg("-f").arg(path));
    shown.stdout.split(' ').nth(1).map(str::to_owned)
}
