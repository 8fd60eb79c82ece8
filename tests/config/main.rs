//! What an operator is told about a configuration: by the real program where it is wrong, by the
//! library where it is right (there the program would run).
#![cfg(feature = "cli")]

mod files;
mod onboarding;
#[path = "../program/mod.rs"]
mod program;
mod values;

use program::Room;

/// Lines 1 to 4 of most configurations here; what follows is of the service or of the run.
const BASE: &str = "version: v2
services:
  - type: ssh-multiplexer
    destination: { type: directory, path: ./out }
";

const KEYS: &str = "allowed: version, debug, log_format, diag_addr, credential_ttl, \
    renewal_interval, oneshot, shutdown_grace, storage, onboarding, proxy_server, services, outputs";
const SERVICE_KEYS: &str = "allowed: type, name, destination, cluster_name, proxy_command, \
    enable_resumption, connect_timeout, max_connections, allowed_uids, host_ca, known_hosts, user, identity_file, \
    ssh_config_path, max_streams_per_connection, credential_ttl, renewal_interval";

/// The program refuses `config` with this message behind the file's name, and writes nothing.
#[track_caller]
fn refused(config: impl AsRef<[u8]>, message: &str) {
    let room = Room::new();
    room.write("my-config.yaml", config);
    room.tbot(["start", "-c", "my-config.yaml"])
        .failed_with(&format!("my-config.yaml{message}"));
    assert_eq!(room.names(), ["my-config.yaml"]);
}
