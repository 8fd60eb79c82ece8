//! The output service `identity`: credentials in files, for clients without an agent.
#![cfg(feature = "cli")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::Signal;
use tempfile::TempDir;

use common::mode;
use common::process::{Process, run, succeed};
use common::wait::until;

/// A directory with an authority's key and a configuration.
struct Room(TempDir);

impl Room {
    fn new(run_keys: &str) -> Self {
        let room = Self(tempfile::tempdir().expect("a directory"));
        let mut keygen = Command::new("ssh-keygen");
        keygen.args(["-q", "-t", "ed25519", "-N", "", "-f"]);
        succeed(keygen.arg(room.path("ca")));
        let yaml = format!(
            "version: v2\n{run_keys}onboarding:\n  join_method: ssh-ca\n  ca_key_path: {ca}\n  \
             principals: [deploy]\nservices:\n  - type: identity\n    name: files\n    host_ca: [{ca}.pub]\n    \
             destination: {{ type: directory, path: {out} }}\n",
            ca = room.path("ca").display(),
            out = room.out("").display(),
        );
        fs::write(room.path("tbot.yaml"), yaml).expect("the directory is ours");
        room
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn out(&self, name: &str) -> PathBuf {
        self.path("out").join(name)
    }

    fn tbot(&self) -> Command {
        let mut tbot = Command::new(env!("CARGO_BIN_EXE_tbot"));
        tbot.args(["start", "-c"])
            .arg(self.path("tbot.yaml"))
            .env_clear();
        tbot
    }
}

/// What `ssh-keygen -L` shows of a certificate.
fn certificate(path: &Path) -> String {
    succeed(Command::new("ssh-keygen").arg("-L").arg("-f").arg(path))
}

/// The fingerprint of a key, or of the key in a certificate.
fn fingerprint(path: &Path) -> Option<String> {
    let shown = run(Command::new("ssh-keygen").arg("-l").arg("-f").arg(path));
    shown.stdout.split(' ').nth(1).map(str::to_owned)
}

#[test]
fn once_means_written_and_ended() {
    let room = Room::new("oneshot: true\n");
    let end = run(&mut room.tbot());
    assert!(end.status.success(), "{end:?}");
    for name in [
        "key",
        "key.pub",
        "key-cert.pub",
        "ssh_config",
        "known_hosts",
    ] {
        assert_eq!(mode(&room.out(name)), 0o600, "{name}");
    }
    let shown = certificate(&room.out("key-cert.pub"));
    assert!(shown.contains("deploy"), "{shown}");
    let key = fingerprint(&room.out("key"));
    assert!(key.is_some());
    assert_eq!(fingerprint(&room.out("key-cert.pub")), key);
    assert_eq!(fingerprint(&room.out("key.pub")), key);
    let hosts = fs::read_to_string(room.out("known_hosts")).expect("it is there");
    assert!(
        hosts.contains("\n@cert-authority * ssh-ed25519 "),
        "{hosts}"
    );
    // As ssh understands it.
    let mut ssh = Command::new("ssh");
    let shown = succeed(
        ssh.args(["-G", "-F"])
            .arg(room.out("ssh_config"))
            .arg("host"),
    );
    for (option, value) in [
        ("identityfile", room.out("key")),
        ("certificatefile", room.out("key-cert.pub")),
        ("userknownhostsfile", room.out("known_hosts")),
        ("identityagent", "none".into()),
        ("identitiesonly", "yes".into()),
        ("stricthostkeychecking", "true".into()),
    ] {
        let line = format!("{option} {}\n", value.display());
        assert!(shown.contains(&line), "no {line} in {shown}");
    }
}

#[test]
fn once_fails_where_there_is_no_credential() {
    let room = Room::new("oneshot: true\n");
    common::set_mode(&room.path("ca"), 0o644);
    let end = run(&mut room.tbot());
    let error = end.error();
    assert!(
        error.contains("files") && error.contains("chmod 600"),
        "{error}"
    );
    assert!(!room.out("key").exists(), "nothing was written");
}

#[test]
fn a_reader_never_sees_a_key_with_another_key_s_certificate() {
    let room = Room::new("");
    let mut tbot = Process::spawn(&mut room.tbot());
    tbot.stderr.line("files: SHA256:");
    let first = certificate(&room.out("key-cert.pub"));
    let stop = AtomicBool::new(false);
    let looks = std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut looks = 0;
            while !stop.load(Ordering::Relaxed) {
                let key = fingerprint(&room.out("key"));
                let certified = fingerprint(&room.out("key-cert.pub"));
                assert!(key.is_some() && key == certified, "{key:?} {certified:?}");
                looks += 1;
            }
            looks
        });
        for renewal in 2..=10 {
            tbot.signal(Signal::HUP);
            until("one more renewal", || {
                let log = tbot.stderr.so_far();
                (log.matches("files: SHA256:").count() >= renewal).then_some(())
            });
        }
        stop.store(true, Ordering::Relaxed);
        reader.join().expect("the reader looked")
    });
    assert!(looks > 0);
    assert_ne!(
        certificate(&room.out("key-cert.pub")),
        first,
        "it was renewed"
    );
    tbot.signal(Signal::TERM);
    assert!(tbot.exit().success());
}

#[test]
fn it_needs_to_know_where_keys_come_from() {
    let room = Room::new("");
    let yaml = fs::read_to_string(room.path("tbot.yaml")).expect("it is ours");
    let at = yaml.find("onboarding").expect("it is there");
    let rest = yaml.find("services").expect("it is there");
    let without = yaml[..at].to_owned() + &yaml[rest..];
    fs::write(room.path("tbot.yaml"), without).expect("it is ours");
    let end = run(&mut room.tbot());
    assert!(
        end.error()
            .contains("tbot.yaml:3: services[0]: needs to know where keys"),
        "{end:?}"
    );
    assert!(!room.out("").exists());
}
