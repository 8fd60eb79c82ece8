//! Keys and certificates by OpenSSH's own tools, and a tbot that has an identity.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use super::process::{copy_program, run, succeed};
use super::sshd::Sshd;
use super::tbot::{Start, Tbot};
use super::wait::until;
use super::{http, set_mode};

/// A library by which no thread begins while the file of a name is there.
pub const THREADS: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>
int pthread_create(pthread_t *to, const pthread_attr_t *how, void *(*start)(void *), void *with) {
    int (*real)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
    real = dlsym(RTLD_NEXT, "pthread_create");
    return access(getenv("NO_THREADS"), F_OK) ? real(to, how, start, with) : EAGAIN;
}
"#;

/// A directory of keys.
pub struct Keys(TempDir);

impl Keys {
    pub fn new() -> Self {
        Self(TempDir::new().expect("a directory for temporary files"))
    }

    /// With an ed25519 key `ca`.
    pub fn with_ca() -> Self {
        let keys = Self::new();
        keys.generate("ca", &["-t", "ed25519"], "");
        keys
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn text(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// A file that its owner alone may read.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, content).expect("the directory is ours");
        set_mode(&path, 0o600);
        path
    }

    /// A program.
    pub fn script(&self, name: &str, lines: &str) -> PathBuf {
        let path = self.write(&format!("{name}.new"), format!("#!/bin/sh\n{lines}\n"));
        set_mode(&path, 0o755);
        let place = self.path(name);
        copy_program(&path, &place);
        place
    }

    /// Two keys with certificates, `a` and `b`, of which [`Keys::place_pair`] puts one in the place of `id`.
    pub fn with_pairs() -> Self {
        let keys = Self::with_ca();
        for name in ["a", "b"] {
            keys.generate(name, &["-t", "ed25519"], "");
            keys.certify(name, &["-I", name, "-n", "root"]);
        }
        keys
    }

    /// See [`Keys::with_pairs`].
    pub fn place_pair(&self, name: &str) {
        for (from, to) in [
            (format!("{name}-cert.pub"), "id-cert.pub"),
            (name.to_owned(), "id"),
        ] {
            fs::copy(self.path(&from), self.path("new")).expect("ours");
            fs::rename(self.path("new"), self.path(to)).expect("ours");
        }
    }

    /// A library of C, for LD_PRELOAD.
    pub fn library(&self, name: &str, lines: &str) -> PathBuf {
        let source = self.write(&format!("{name}.c"), lines);
        let library = self.path(&format!("{name}.so"));
        let mut cc = Command::new("cc");
        cc.args(["-shared", "-fPIC", "-o"])
            .arg(&library)
            .arg(source);
        succeed(cc.arg("-ldl"));
        library
    }

    /// `ssh-keygen` with a passphrase and what kind of key.
    pub fn generate(&self, name: &str, kind: &[&str], passphrase: &str) -> PathBuf {
        let path = self.path(name);
        let mut keygen = Command::new("ssh-keygen");
        keygen.args(["-q", "-C", name, "-N", passphrase, "-a", "2"]);
        succeed(keygen.args(kind).arg("-f").arg(&path));
        path
    }

    /// The certificate `NAME-cert.pub` of the key `name` by `ca`.
    pub fn certify(&self, name: &str, options: &[&str]) -> PathBuf {
        let mut keygen = Command::new("ssh-keygen");
        keygen.args(["-q", "-s"]).arg(self.path("ca")).args(options);
        succeed(keygen.arg(self.path(&format!("{name}.pub"))));
        self.path(&format!("{name}-cert.pub"))
    }

    /// `SHA256:…` of a public key or certificate's key.
    pub fn fingerprint(&self, name: &str) -> String {
        let line = succeed(Command::new("ssh-keygen").arg("-lf").arg(self.path(name)));
        line.split(' ').nth(1).expect("a fingerprint").to_owned()
    }

    /// Lines of `onboarding` for certificates by `ca`.
    pub fn ssh_ca(&self, principal: &str) -> String {
        format!(
            "{{ join_method: ssh-ca, ca_key_path: {}, principals: [{principal}] }}",
            self.path("ca").display()
        )
    }

    /// A server that trusts `ca` for users, and whose host key `ca` has certified for every name.
    pub fn sshd(&self) -> Sshd {
        self.sshd_on(Ipv4Addr::LOCALHOST.into())
    }

    /// The same on a free port of `ip`.
    pub fn sshd_on(&self, ip: IpAddr) -> Sshd {
        Sshd::start_with(ip, |directory| {
            let mut keygen = Command::new("ssh-keygen");
            keygen.args(["-q", "-h", "-I", "host", "-s"]);
            keygen.arg(self.path("ca"));
            succeed(keygen.arg(directory.join("host_key.pub")));
            // No key of a user is good, only certificates.
            fs::write(directory.join("authorized_keys"), "").expect("the directory is ours");
            format!(
                "TrustedUserCAKeys {}\nHostCertificate {}\n",
                self.path("ca.pub").display(),
                directory.join("host_key-cert.pub").display()
            )
        })
    }
}

/// A tbot with one multiplexer `mux`: `onboarding`, further lines of the run and of the service.
pub fn with_identity(onboarding: &str, run: &str, service: &str) -> Start {
    let onboarding = match onboarding {
        "" => String::new(),
        _ => format!("onboarding: {onboarding}"),
    };
    Start::config(|destination| {
        format!(
            "version: v2\n{run}\n{onboarding}\nservices:\n  - type: ssh-multiplexer\n    \
             name: mux\n    destination: {{ type: directory, path: {} }}\n{service}\n",
            destination.display()
        )
    })
}

/// The onboarding by which `program` signs.
pub fn signed_by(program: &Path) -> String {
    format!(
        "{{ join_method: command, command: [{}] }}",
        program.display()
    )
}

/// Status and reason of a service.
pub fn readyz(tbot: &Tbot, service: &str) -> (u16, String, String) {
    let (code, body) = http::get(tbot.address(), &format!("/readyz/{service}"));
    let json: serde_json::Value = serde_json::from_str(&body).expect("JSON");
    let text = |key: &str| json[key].as_str().unwrap_or_default().to_owned();
    (code, text("status"), text("reason"))
}

/// Waits until a service is healthy.
pub fn await_healthy(tbot: &Tbot, service: &str) {
    until(
        &format!("{service} healthy: {:?}", readyz(tbot, service)),
        || (readyz(tbot, service).0 == 200).then_some(()),
    );
}

/// Waits until a service is not healthy, and gives the reason.
pub fn await_reason(tbot: &Tbot, service: &str) -> String {
    until(
        &format!("{service} unhealthy: {:?}", readyz(tbot, service)),
        || {
            let (code, status, reason) = readyz(tbot, service);
            (code == 503 && status == "unhealthy").then_some(reason)
        },
    )
}

/// `program` as a client of the agent.
pub fn client(tbot: &Tbot, program: &str) -> Command {
    let mut command = Command::new(program);
    command.env("SSH_AUTH_SOCK", tbot.destination.join("agent.sock"));
    command
}

/// What the agent lists, a line each: a certificate first.
pub fn listed(tbot: &Tbot) -> Vec<String> {
    let list = succeed(client(tbot, "ssh-add").arg("-L"));
    list.lines().map(str::to_owned).collect()
}

/// `ssh-keygen -L` of a certificate, a trimmed line each.
pub fn shown(certificate: &Path) -> Vec<String> {
    let shown = succeed(Command::new("ssh-keygen").arg("-Lf").arg(certificate));
    shown.lines().map(|line| line.trim().to_owned()).collect()
}

/// `ssh` by the written configuration alone, to run `command` on `host`.
pub fn ssh(tbot: &Tbot, sshd: &Sshd, host: &str, command: &str) -> Command {
    let mut ssh = Command::new("ssh");
    ssh.arg("-F").arg(tbot.ssh_config());
    ssh.args(["-p", &sshd.address.port().to_string(), "-l", &sshd.user]);
    ssh.args([host, command]).env_remove("SSH_AUTH_SOCK");
    // Whoever asks something finds nobody.
    ssh.env_remove("DISPLAY");
    ssh
}

/// The identity that `onboarding` describes is unhealthy with this reason, which the log has too; the
/// multiplexer is, having no certificate; and it stops at once nevertheless.
#[track_caller]
pub fn refused_with(onboarding: &str, reason: &str) {
    let mut tbot = with_identity(onboarding, "", "").start();
    let found = await_reason(&tbot, "identity");
    assert!(
        found.to_lowercase().contains(&reason.to_lowercase()) && !found.contains('\n'),
        "{found:?} has {reason:?}"
    );
    let line = tbot.stderr.line("attempt 1 of 5: ");
    assert!(
        line.contains(" WARN identity: ") && line.ends_with(&found),
        "{line:?} has {found:?}"
    );
    let (code, _, mux) = readyz(&tbot, "mux");
    assert_eq!((code, mux.as_str()), (503, "there is no certificate yet"));
    assert_eq!(
        tbot.metric("tbot_identity_certificate_valid{service=\"identity\"}"),
        0
    );
    let list = run(client(&tbot, "ssh-add").arg("-l"));
    assert_eq!(list.stdout, "The agent has no identities.\n", "{list:?}");
    tbot.signal(rustix::process::Signal::TERM);
    assert!(tbot.exit().success());
}
