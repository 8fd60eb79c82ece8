//! What an operator is told about a configuration: by the real program where it is wrong, by the
//! library where it is right (there the program would run).
#![cfg(feature = "cli")]

mod clusters;
mod files;
mod onboarding;
#[path = "../program/mod.rs"]
mod program;
mod templates;
mod values;

use program::Room;
use tbot::config::{Overrides, ServiceKind, Settings, Source, SshMultiplexer, load};

/// Lines 1 to 4 of most configurations here; what follows is of the service or of the run.
const BASE: &str = "version: v2
services:
  - type: ssh-multiplexer
    destination: { type: directory, path: ./out }
";

const KEYS: &str = "allowed: version, debug, log_format, diag_addr, credential_ttl, \
    renewal_interval, oneshot, shutdown_grace, storage, onboarding, proxy_server, services, outputs";
const SERVICE_KEYS: &str = "allowed: type, name, destination, clusters, cluster_name, proxy_templates, \
    proxy_templates_path, proxy_command, enable_resumption, connect_timeout, max_connections, allowed_uids, host_ca, \
    known_hosts, user, identity_file, ssh_config_path, max_streams_per_connection, credential_ttl, renewal_interval";

/// The same for lines of the service, or of the run, behind [`BASE`].
#[track_caller]
fn refused_lines(lines: &str, message: &str) {
    refused(format!("{BASE}{lines}\n"), message);
}

/// The settings and warnings of a configuration that is right.
#[track_caller]
fn loaded(config: &str) -> (Settings, Vec<String>) {
    let room = Room::new();
    let path = room.write("my-config.yaml", config);
    let source = Source::file(&path).expect("the file can be read");
    let (settings, warnings) =
        load(Some(&source), Overrides::default()).unwrap_or_else(|error| panic!("{error}"));
    let label = path.display().to_string();
    let warnings = warnings
        .iter()
        .map(|warning| warning.replace(&label, "my-config.yaml"));
    (settings, warnings.collect())
}

fn multiplexer(settings: &Settings, n: usize) -> &SshMultiplexer {
    match &settings.services[n].kind {
        ServiceKind::SshMultiplexer(multiplexer) => multiplexer,
        other => panic!("{other:?}"),
    }
}

/// The program refuses `config` with this message behind the file's name, and writes nothing.
#[track_caller]
fn refused(config: impl AsRef<[u8]>, message: &str) {
    let room = Room::new();
    room.write("my-config.yaml", config);
    room.tbot(["start", "-c", "my-config.yaml"])
        .failed_with(&format!("my-config.yaml{message}"));
    assert_eq!(room.names(), ["my-config.yaml"]);
}
