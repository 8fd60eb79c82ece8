//! Values: of the run and of its services.

use std::os::unix::fs::symlink;
use std::time::Duration;

use super::program::Room;
use super::{BASE, KEYS, SERVICE_KEYS, loaded, multiplexer, refused, refused_lines};
use tbot::config::{Bastion, Cluster, HostPort, LogFormat, SshMultiplexer};

#[test]
fn defaults_hold_where_a_configuration_is_silent() {
    let (settings, warnings) = loaded(BASE);
    assert_eq!(warnings, [""; 0]);
    assert_eq!(settings.log_format, LogFormat::Text);
    assert_eq!(settings.diag_addr, None);
    assert_eq!(settings.credential_ttl, Duration::from_secs(3600));
    assert_eq!(settings.renewal_interval, Duration::from_secs(1200));
    assert_eq!(settings.shutdown_grace, Duration::from_secs(10));
    assert!(!settings.debug && !settings.oneshot);
    assert_eq!(settings.services[0].name, "ssh-multiplexer-1");
    let here = std::env::current_dir().expect("a working directory");
    assert_eq!(
        multiplexer(&settings, 0),
        &SshMultiplexer {
            destination: here.join("out"),
            clusters: vec![Cluster {
                name: None,
                bastion: None,
                hosts: vec![],
                host_ca: vec![],
                known_hosts: vec![],
                connect_timeout: Duration::from_secs(10),
            }],
            templates: vec![],
            proxy_command: vec![],
            max_connections: 10_000,
            allowed_uids: vec![],
            credential_ttl: Duration::from_secs(3600),
            renewal_interval: Duration::from_secs(1200),
        }
    );
}

#[test]
fn every_key_is_read() {
    let (settings, warnings) = loaded(
        "version: v2
debug: true
log_format: json
diag_addr: '[::1]:3001'
credential_ttl: 1h30m
renewal_interval: 90s
oneshot: true
shutdown_grace: 0s
storage: { type: memory }
services:
  - type: ssh-multiplexer
    name: mux
    destination: { type: directory, path: /nowhere/machine-id/ }
    cluster_name: prod.example.com
    proxy_command: [/usr/local/bin/fdpass-teleport, --an, '']
    enable_resumption: false
    connect_timeout: 1.5s
    max_connections: 1000000
    allowed_uids: [0, 4294967294]
    credential_ttl: 30m
    renewal_interval: 10m
  - type: ssh-multiplexer
    destination: { type: directory, path: /nowhere/b }
    credential_ttl: 2h
outputs: []
",
    );
    assert_eq!(warnings, [""; 0]);
    assert!(settings.debug && settings.oneshot);
    assert_eq!(settings.log_format, LogFormat::Json);
    assert_eq!(settings.diag_addr.as_deref(), Some("[::1]:3001"));
    assert_eq!(settings.credential_ttl, Duration::from_secs(5400));
    assert_eq!(settings.renewal_interval, Duration::from_secs(90));
    assert_eq!(settings.shutdown_grace, Duration::ZERO);
    let names: Vec<&str> = settings
        .services
        .iter()
        .map(|service| &*service.name)
        .collect();
    assert_eq!(names, ["mux", "ssh-multiplexer-2"]);
    let mux = multiplexer(&settings, 0);
    assert_eq!(mux.clusters[0].name.as_deref(), Some("prod.example.com"));
    assert_eq!(
        mux.proxy_command,
        ["/usr/local/bin/fdpass-teleport", "--an", ""]
    );
    assert_eq!(mux.clusters[0].connect_timeout, Duration::from_millis(1500));
    assert_eq!(mux.max_connections, 1_000_000);
    assert_eq!(mux.allowed_uids, [0, 4_294_967_294]);
    assert_eq!(mux.credential_ttl, Duration::from_secs(1800));
    assert_eq!(mux.renewal_interval, Duration::from_secs(600));
    let second = multiplexer(&settings, 1);
    assert_eq!(second.credential_ttl, Duration::from_secs(7200));
    assert_eq!(second.renewal_interval, Duration::from_secs(90));
}

#[test]
fn what_has_no_effect_is_a_warning() {
    let (_, warnings) = loaded(&format!(
        "{BASE}    enable_resumption: true\nstorage:\n  type: directory\n  path: /var/lib/tbot\n"
    ));
    assert_eq!(
        warnings,
        [
            "my-config.yaml:6: storage: nothing is stored there: keys live in memory alone",
            "my-config.yaml:5: services[0].enable_resumption: has no effect: resuming sessions \
             needs the Teleport proxy",
        ]
    );
}

#[test]
fn a_bastion_is_named_by_the_run_and_used_by_each_service() {
    let lines = "    user: deploy
    identity_file: id
    ssh_config_path: /etc/tbot/ssh
    max_streams_per_connection: 7
  - type: ssh-multiplexer
    destination: { type: directory, path: /nowhere/b }
    cluster_name: prod
proxy_server: Bastion_1.example.com:2222
";
    let (settings, warnings) = loaded(&format!("{BASE}{lines}"));
    assert_eq!(warnings, [""; 0]);
    let server = HostPort {
        host: "Bastion_1.example.com".into(),
        port: 2222,
    };
    let here = std::env::current_dir().expect("a working directory");
    let first = &multiplexer(&settings, 0).clusters[0];
    assert_eq!(first.name.as_deref(), Some("bastion_1.example.com"));
    assert_eq!(
        first.bastion,
        Some(Bastion {
            server: server.clone(),
            user: Some("deploy".into()),
            identity_file: Some(here.join("id")),
            ssh_config_path: Some("/etc/tbot/ssh".into()),
            ssh_options: vec![],
            max_streams_per_connection: 7,
        })
    );
    let second = &multiplexer(&settings, 1).clusters[0];
    assert_eq!(second.name.as_deref(), Some("prod"));
    assert_eq!(
        second.bastion,
        Some(Bastion {
            server,
            user: None,
            identity_file: None,
            ssh_config_path: None,
            ssh_options: vec![],
            max_streams_per_connection: 100,
        })
    );
    let (settings, _) = loaded(&format!("{BASE}proxy_server: '[::1]:22'\n"));
    let bastion = multiplexer(&settings, 0).clusters[0].bastion.as_ref();
    assert_eq!(bastion.map(|bastion| &*bastion.server.host), Some("::1"));
    let (settings, warnings) = loaded(&format!("{BASE}    user: deploy\n"));
    assert_eq!(multiplexer(&settings, 0).clusters[0].bastion, None);
    assert_eq!(
        warnings,
        [
            "my-config.yaml:5: services[0].user: has no effect: without \"proxy_server\" targets are dialled directly"
        ]
    );
}

#[test]
fn what_is_no_bastion_is_told_why() {
    const FORM: &str = "it must be host:port, such as bastion.example.com:22";
    for (value, why) in [
        ("example.com", "has no port"),
        ("'[::1]'", "has no IPv6 address and port behind the bracket"),
        (
            "'::1'",
            "needs its IPv6 address in brackets, as in [::1]:3001",
        ),
        ("https://example.com:443", "is a URL"),
        ("example.com:0", "is nothing to connect to"),
        ("-oProxyCommand:22", "is nothing to connect to"),
    ] {
        let shown = value.trim_matches('\'');
        refused_lines(
            &format!("proxy_server: {value}"),
            &format!(":5: proxy_server: \"{shown}\" {why}; {FORM}"),
        );
    }
    refused_lines(
        "    user: -x",
        ":5: services[0].user: \"-x\" is no user's name",
    );
    refused_lines(
        "    identity_file: ~/.ssh/id",
        ":5: services[0].identity_file: \"~/.ssh/id\": ~ is not expanded here; write the whole path",
    );
    refused_lines(
        "    max_streams_per_connection: 1001",
        ":5: services[0].max_streams_per_connection: must be a whole number from 1 to 1000, and is the number 1001",
    );
}

#[test]
fn outputs_come_behind_services() {
    let (settings, _) = loaded(
        "version: v2
outputs:
  - { type: ssh-multiplexer, destination: { type: directory, path: /nowhere/a } }
services:
  - { type: ssh-multiplexer, destination: { type: directory, path: /nowhere/b }, name: first }
",
    );
    let names: Vec<&str> = settings
        .services
        .iter()
        .map(|service| &*service.name)
        .collect();
    assert_eq!(names, ["first", "ssh-multiplexer-2"]);
}

#[test]
fn an_unknown_key_is_told_with_its_line_and_a_near_miss() {
    refused_lines(
        "    proxy_comand: [a]",
        &format!(
            ":5: services[0].proxy_comand: unknown key; did you mean \"proxy_command\"? \
             ({SERVICE_KEYS})"
        ),
    );
    refused_lines("colour: red", &format!(":5: colour: unknown key ({KEYS})"));
    refused_lines(
        "diag-addr: 127.0.0.1:3001",
        &format!(":5: diag-addr: unknown key; did you mean \"diag_addr\"? ({KEYS})"),
    );
    refused_lines(
        "storage: { type: memory, pth: x }",
        ":5: storage.pth: unknown key; did you mean \"path\"? (allowed: type, path)",
    );
    refused_lines("? a b\n: 1", &format!(":5: \"a b\": unknown key ({KEYS})"));
    refused_lines("1: 1", &format!(":5: 1: unknown key ({KEYS})"));
    // A key of the run that was indented too far.
    refused_lines(
        "    debug: true",
        &format!(":5: services[0].debug: unknown key ({SERVICE_KEYS})"),
    );
}

#[test]
fn a_wrong_type_is_told_with_the_right_one() {
    for (lines, message) in [
        (
            "debug: yes",
            "debug: must be true or false, and is the text \"yes\"",
        ),
        (
            "debug: 1",
            "debug: must be true or false, and is the number 1",
        ),
        ("oneshot:", "oneshot: must be true or false, and is nothing"),
        (
            "log_format: [text]",
            "log_format: must be text, and is a list",
        ),
        (
            "log_format: true",
            "log_format: must be text, and is true; put it in quotes",
        ),
        (
            "credential_ttl: {}",
            "credential_ttl: must be a duration such as 1h30m, and is a mapping",
        ),
        (
            "storage: memory",
            "storage: must be a mapping like { type: memory }, and is the text \"memory\"",
        ),
        (
            "outputs: {}",
            "outputs: must be a list of services, and is a mapping",
        ),
        (
            "outputs: [1]",
            "outputs[0]: must be a mapping with a \"type\", and is the number 1",
        ),
        (
            "    name: 5",
            "services[0].name: must be text, and is the number 5; put it in quotes",
        ),
        (
            "    name: !secret x",
            "services[0].name: the tag \"!secret\" has no meaning here",
        ),
        (
            "    proxy_command: /bin/x",
            "services[0].proxy_command: must be a list of words such as [/usr/bin/fdpass-teleport], and is the text \"/bin/x\"",
        ),
        (
            "    proxy_command: [/bin/x, 5]",
            "services[0].proxy_command[1]: must be text, and is the number 5; put it in quotes",
        ),
        (
            "    proxy_command: ['']",
            "services[0].proxy_command[0]: the program of the command is empty",
        ),
        (
            "    proxy_command: [\"a\\nb\"]",
            "services[0].proxy_command[0]: has a control character: \"a\\nb\"",
        ),
        (
            "    enable_resumption: on",
            "services[0].enable_resumption: must be true or false, and is the text \"on\"",
        ),
        (
            "    max_connections: 0",
            "services[0].max_connections: must be a whole number from 1 to 1000000, and is the number 0",
        ),
        (
            "    max_connections: 1000001",
            "services[0].max_connections: must be a whole number from 1 to 1000000, and is the number 1000001",
        ),
        (
            "    max_connections: 1.5",
            "services[0].max_connections: must be a whole number from 1 to 1000000, and is the number 1.5",
        ),
        (
            "    max_connections: 340282366920938463463374607431768211455",
            "services[0].max_connections: must be a whole number from 1 to 1000000, and is the number 340282366920938500000000000000000000000",
        ),
        (
            "    allowed_uids: 5",
            "services[0].allowed_uids: must be a list of user numbers such as [1000, 1001], and is the number 5",
        ),
        (
            "    allowed_uids: [1, -1]",
            "services[0].allowed_uids[1]: must be a whole number from 0 to 4294967294, and is the number -1",
        ),
        (
            "    allowed_uids: [root]",
            "services[0].allowed_uids[0]: must be a whole number from 0 to 4294967294, and is the text \"root\"",
        ),
        (
            "    cluster_name: Prod",
            "services[0].cluster_name: \"Prod\" is no cluster name; it must be a DNS name or a label of one, such as prod or prod.example.com, of the characters a-z 0-9 - and .",
        ),
        (
            "log_format: jsno",
            "log_format: unknown value \"jsno\"; did you mean \"json\"? (allowed: text, json)",
        ),
        (
            "log_format: xml",
            "log_format: unknown value \"xml\" (allowed: text, json)",
        ),
    ] {
        refused_lines(lines, &format!(":5: {message}"));
    }
    refused(
        "version: v2\nservices: ssh-multiplexer\n",
        ":2: services: must be a list of services, and is the text \"ssh-multiplexer\"",
    );
}

#[test]
fn a_cluster_name_is_a_dns_name() {
    for name in [
        "", ".", "a.", ".a", "a..b", "-a", "a-", "a_b", "a b", "ä", "*", "a|b", "a:1",
    ] {
        let room = Room::new();
        room.write("c.yaml", format!("{BASE}    cluster_name: '{name}'\n"));
        let run = room.tbot(["start", "-c", "c.yaml"]);
        assert!(
            run.stderr.contains(&format!("{name:?} is no cluster name")),
            "{run:?}"
        );
    }
    for name in ["a", "prod", "a-b.c1", "0"] {
        let (settings, _) = loaded(&format!("{BASE}    cluster_name: '{name}'\n"));
        assert_eq!(
            multiplexer(&settings, 0).clusters[0].name.as_deref(),
            Some(name)
        );
    }
}

#[test]
fn a_bad_duration_is_told_with_what_is_wrong_with_it() {
    const FORM: &str = "(a duration is written like 1h30m, 90s or 100ms)";
    for (value, message) in [
        (
            "60",
            "60 is a bare number, and has to have a unit: write 60s or 60m".to_owned(),
        ),
        (
            "'60'",
            format!("\"60\" has a number without a unit: ns, us, ms, s, m or h {FORM}"),
        ),
        (
            "1d",
            format!("\"1d\" has the unknown unit \"d\"; there are ns, us, ms, s, m and h {FORM}"),
        ),
        ("soon", format!("\"soon\" is no duration {FORM}")),
        ("''", format!("\"\" is no duration {FORM}")),
        ("-5m", format!("\"-5m\" is negative {FORM}")),
        ("0s", "must be longer than 0s".to_owned()),
        ("'0'", "must be longer than 0s".to_owned()),
        (
            "24h1ns",
            "24h0.000000001s is too long; the longest is 24h".to_owned(),
        ),
        (
            "9999999h",
            format!("\"9999999h\" is longer than 292 years {FORM}"),
        ),
    ] {
        for (indent, key) in [("", "credential_ttl"), ("    ", "connect_timeout")] {
            let place = if indent.is_empty() {
                ""
            } else {
                "services[0]."
            };
            refused_lines(
                &format!("{indent}{key}: {value}"),
                &format!(":5: {place}{key}: {message}"),
            );
        }
    }
    refused_lines(
        "shutdown_grace: -1s",
        &format!(":5: shutdown_grace: \"-1s\" is negative {FORM}"),
    );
}

#[test]
fn a_credential_outlives_its_renewal() {
    const WHY: &str = "a credential must be renewed before it ends";
    for (lines, message) in [
        (
            "credential_ttl: 10m",
            format!(
                ":5: credential_ttl: 10m is not longer than the renewal_interval of 20m; {WHY}"
            ),
        ),
        (
            "renewal_interval: 1h",
            format!(":5: renewal_interval: 1h is not shorter than the credential_ttl of 1h; {WHY}"),
        ),
        (
            "credential_ttl: 5m\nrenewal_interval: 300s",
            format!(":6: renewal_interval: 5m is not shorter than the credential_ttl of 5m; {WHY}"),
        ),
        (
            "    credential_ttl: 20m",
            format!(
                ":5: services[0].credential_ttl: 20m is not longer than the renewal_interval of 20m; {WHY}"
            ),
        ),
        (
            "    renewal_interval: 2h\ncredential_ttl: 90m",
            format!(
                ":5: services[0].renewal_interval: 2h is not shorter than the credential_ttl of 1h30m; {WHY}"
            ),
        ),
        (
            "credential_ttl: 2999ms\nrenewal_interval: 100ms",
            ":5: credential_ttl: must be at least 3s, as certificates count whole seconds".into(),
        ),
    ] {
        refused_lines(lines, &message);
    }
}

#[test]
fn a_service_name_is_safe_in_a_url_and_unique() {
    for name in ["", "Mux", "a b", "a/b", "ä", "a.b", "%2e"] {
        refused_lines(
            &format!("    name: '{name}'"),
            &format!(
                ":5: services[0].name: {name:?} is no service name; it must be of the characters a-z 0-9 _ - and +"
            ),
        );
    }
    for name in ["identity", "heartbeat", "ca-rotation"] {
        refused_lines(
            &format!("    name: {name}"),
            &format!(
                ":5: services[0].name: the name {name:?} is reserved (reserved: ca-rotation, crl-cache, heartbeat, identity, spiffe-trust-bundle-cache)"
            ),
        );
    }
    let second = "  - type: ssh-multiplexer\n    destination: { type: directory, path: ./b }\n";
    refused_lines(
        &format!("    name: mux\n{second}    name: mux"),
        ":8: services[1].name: the name \"mux\" is that of services[0]; each service needs its own",
    );
    refused_lines(
        &format!("{second}    name: ssh-multiplexer-1"),
        ":7: services[1].name: the name \"ssh-multiplexer-1\" is that of services[0]; each service needs its own",
    );
    refused_lines(
        &format!("    name: ssh-multiplexer-2\n{second}"),
        ":6: services[1]: the name \"ssh-multiplexer-2\" is that of services[0]; it is this one's by default: write a \"name\" of its own",
    );
    let (settings, _) = loaded(&format!("{BASE}    name: a-z_0+9\n"));
    assert_eq!(settings.services[0].name, "a-z_0+9");
}

#[test]
fn a_service_of_another_type_is_told_why_not() {
    refused(
        "version: v2\nservices:\n  - type: ssh-multiplexor\n    colour: red\n",
        ":3: services[0].type: unknown service type \"ssh-multiplexor\"; did you mean \"ssh-multiplexer\"? (allowed: identity, ssh-multiplexer)",
    );
    refused(
        "version: v2\nservices:\n  - type: web\n",
        ":3: services[0].type: unknown service type \"web\" (allowed: identity, ssh-multiplexer)",
    );
    refused(
        "version: v2\nservices:\n  - destination: x\n",
        ":3: services[0]: the key \"type\" is missing; write type: ssh-multiplexer",
    );
    for kind in [
        "application",
        "application-tunnel",
        "database",
        "database-tunnel",
        "kubernetes",
        "kubernetes/v2",
        "spiffe-workload-api",
        "ssh_host",
        "workload-identity-api",
    ] {
        for list in ["services", "outputs"] {
            refused(
                format!("version: v2\n{list}:\n  - type: {kind}\n    roles: [x]\n"),
                &format!(
                    ":3: {list}[0].type: \"{kind}\" needs a Teleport cluster, which tbot-rs does without; remove it (tbot-rs serves: identity, ssh-multiplexer)"
                ),
            );
        }
    }
}

#[test]
fn a_key_of_the_original_is_told_why_not() {
    const CLUSTER: &str = "needs a Teleport cluster, which tbot-rs does without; remove it";
    const ELSEWHERE: &str = "is a key of a service of type ssh-multiplexer; write it there";
    for (key, why) in [
        ("auth_server", CLUSTER),
        ("proxy_templates", ELSEWHERE),
        ("clusters", ELSEWHERE),
        (
            "certificate_ttl",
            "is named \"credential_ttl\" in version v2",
        ),
    ] {
        refused_lines(&format!("{key}: x"), &format!(":5: {key}: {why}"));
    }
    refused_lines(
        "onboarding: { join_method: token, token: x }",
        ":5: onboarding.join_method: \"token\" needs a Teleport cluster, which tbot-rs does without (allowed: \
         ssh-ca, command, key-file, none)",
    );
    refused_lines(
        "storage: { type: memry }",
        ":5: storage.type: unknown type \"memry\"; did you mean \"memory\"? (allowed: memory, directory)",
    );
    refused_lines(
        "storage: { type: kubernetes_secret }",
        ":5: storage.type: \"kubernetes_secret\" is not in tbot-rs, which stores nothing; use { type: memory }",
    );
}

#[test]
fn a_destination_is_a_directory_or_nothing_yet() {
    const FORM: &str = "{ type: directory, path: /opt/machine-id }";
    for (destination, message) in [
        ("/opt/x", format!("destination: must be a mapping like {FORM}, and is the text \"/opt/x\"")),
        ("{ path: x }", format!("destination: the key \"type\" is missing; write {FORM}")),
        ("{ type: directory }", "destination: the key \"path\" is missing; write path: /opt/machine-id".into()),
        ("{ type: directory, path: '' }", "destination.path: the path is empty".into()),
        ("{ type: directory, path: }", "destination.path: must be text, and is nothing".into()),
        ("{ type: directory, path: \"a\\0b\" }", "destination.path: has a control character: \"a\\0b\"".into()),
        ("{ type: directory, path: \"file:///opt\" }", "destination.path: \"file:///opt\" is a URL; write the path alone".into()),
        ("{ type: directory, path: ~/mux }", "destination.path: \"~/mux\": ~ is not expanded here; write the whole path".to_owned()),
        ("{ type: memory }", format!("destination.type: \"memory\" cannot hold sockets and files of an ssh-multiplexer; use {FORM}")),
        ("{ type: kubernetes_secret, path: x }", format!("destination.type: \"kubernetes_secret\" cannot hold sockets and files of an ssh-multiplexer; use {FORM}")),
        ("{ type: direktory, path: x }", "destination.type: unknown type \"direktory\"; did you mean \"directory\"? (allowed: directory)".into()),
        ("{ type: directory, path: my-config.yaml }", "destination.path: \"my-config.yaml\" is no directory; the destination must be a directory, or nothing yet".into()),
        ("{ type: directory, path: my-config.yaml/x }", "destination.path: \"my-config.yaml/x\" has a file where it needs a directory; the destination must be a directory, or nothing yet".into()),
        ("{ type: directory, path: x, symlinks: secure }", "destination.symlinks: is not a choice here; remove it: tbot-rs always refuses a symbolic link that another user owns".into()),
    ] {
        refused(
            format!("version: v2\nservices:\n  - type: ssh-multiplexer\n    destination: {destination}\n"),
            &format!(":4: services[0].{message}"),
        );
    }
    refused(
        "version: v2\nservices:\n  - type: ssh-multiplexer\n",
        ":3: services[0]: the key \"destination\" is missing; write destination: { type: directory, path: /opt/machine-id }",
    );
}

#[test]
fn a_link_to_nothing_is_no_destination() {
    let room = Room::new();
    room.write("my-config.yaml", BASE);
    symlink("gone", room.path().join("out")).expect("a link is made");
    room.tbot(["start", "-c", "my-config.yaml"]).failed_with(
        "my-config.yaml:4: services[0].destination.path: \"./out\" is a symbolic link to nothing; \
         the destination must be a directory, or nothing yet",
    );
}

#[test]
fn two_services_do_not_share_a_destination() {
    let room = Room::new();
    std::fs::create_dir(room.path().join("real")).expect("a directory is made");
    symlink("real", room.path().join("out")).expect("a link is made");
    let second = "  - type: ssh-multiplexer\n    destination: { type: directory, path: real/ }\n";
    room.write("my-config.yaml", format!("{BASE}{second}"));
    let shown = room.path().join("real").canonicalize().expect("it exists");
    room.tbot(["start", "-c", "my-config.yaml"]).failed_with(&format!(
        "my-config.yaml:6: services[1].destination: {shown:?} is the destination of services[0]; \
         each service needs its own"
    ));
}

#[test]
fn diag_addr_is_a_host_and_a_port() {
    const FORM: &str = "it must be host:port, such as 127.0.0.1:3001";
    for (address, why) in [
        ("http://127.0.0.1:3001", "is a URL"),
        ("127.0.0.1:3001/", "has a path"),
        ("127.0.0.1", "has no port"),
        ("", "has no port"),
        ("3001", "is a port without a host"),
        (
            ":3001",
            "has no host (for every address of this machine: 0.0.0.0:3001)",
        ),
        (
            "::1:3001",
            "needs its IPv6 address in brackets, as in [::1]:3001",
        ),
        (
            "::1",
            "needs its IPv6 address in brackets, as in [::1]:3001",
        ),
        ("[::1]", "has no IPv6 address and port behind the bracket"),
        (
            "[127.0.0.1]:1",
            "has no IPv6 address and port behind the bracket",
        ),
        ("localhost:", "has no port from 0 to 65535 at its end"),
        ("localhost:http", "has no port from 0 to 65535 at its end"),
        ("localhost:65536", "has no port from 0 to 65535 at its end"),
        ("localhost:+80", "has no port from 0 to 65535 at its end"),
        ("local host:80", "has a character that no host has"),
        ("me@localhost:80", "has a character that no host has"),
    ] {
        refused_lines(
            &format!("diag_addr: '{address}'"),
            &format!(":5: diag_addr: {address:?} {why}; {FORM}"),
        );
    }
    refused_lines(
        "diag_addr: 3001",
        &format!(":5: diag_addr: \"3001\" is a port without a host; {FORM}"),
    );
    for address in [
        "127.0.0.1:0",
        "localhost:65535",
        "[::]:3001",
        "[fe80::1%eth0]:1",
    ] {
        let (settings, _) = loaded(&format!("{BASE}diag_addr: '{address}'\n"));
        assert_eq!(settings.diag_addr.as_deref(), Some(address));
    }
}
