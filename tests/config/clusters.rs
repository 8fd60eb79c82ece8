//! Several clusters of one service: what is read, and what an operator is told about a list that is wrong.

use std::time::Duration;

use super::{BASE, loaded, multiplexer, refused_lines};
use tbot::config::{Bastion, Cluster, HostPort};

const CLUSTER_KEYS: &str = "allowed: name, proxy_server, user, hosts, host_ca, known_hosts, identity_file, \
    ssh_config_path, ssh_options, connect_timeout, max_streams_per_connection";

#[test]
fn every_key_is_read_and_those_of_the_service_hold_for_all() {
    let (settings, warnings) = loaded(&format!(
        "{BASE}    connect_timeout: 3s
    max_streams_per_connection: 50
    clusters:
      - name: prod
        proxy_server: bastion.prod:2222
        user: deploy
        hosts: ['*.prod', 'DB?.Example', '!db9.example']
        host_ca: [ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEuZLKmiQ02L91A4NJ5wrqdV9d7yH9dxBk6/ti5c8Rpw]
        known_hosts: [\"db9.prod ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEuZLKmiQ02L91A4NJ5wrqdV9d7yH9dxBk6/ti5c8Rpw\"]
        identity_file: /etc/id
        ssh_config_path: /etc/ssh.conf
        ssh_options: [Compression=yes, Ciphers aes256-gcm@openssh.com, RekeyLimit = 1G 1h]
        connect_timeout: 1m
        max_streams_per_connection: 7
      - proxy_server: Other.example.com:22
      - name: near
"
    ));
    assert_eq!(warnings, [""; 0]);
    let clusters = &multiplexer(&settings, 0).clusters;
    let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEuZLKmiQ02L91A4NJ5wrqdV9d7yH9dxBk6/ti5c8Rpw";
    let first = Cluster {
        name: Some("prod".into()),
        bastion: Some(Bastion {
            server: HostPort {
                host: "bastion.prod".into(),
                port: 2222,
            },
            user: Some("deploy".into()),
            identity_file: Some("/etc/id".into()),
            ssh_config_path: Some("/etc/ssh.conf".into()),
            ssh_options: [
                "Compression=yes",
                "Ciphers=aes256-gcm@openssh.com",
                "RekeyLimit=1G 1h",
            ]
            .map(String::from)
            .into(),
            max_streams_per_connection: 7,
        }),
        hosts: ["*.prod", "db?.example", "!db9.example"]
            .map(String::from)
            .into(),
        host_ca: vec![key.into()],
        known_hosts: vec![format!("db9.prod {key}")],
        connect_timeout: Duration::from_secs(60),
    };
    assert_eq!(clusters[0], first);
    let second = &clusters[1];
    assert_eq!(second.name.as_deref(), Some("other.example.com"));
    assert_eq!(second.hosts, ["*.other.example.com"]);
    assert_eq!(second.connect_timeout, Duration::from_secs(3));
    let streams = second
        .bastion
        .as_ref()
        .map(|b| b.max_streams_per_connection);
    assert_eq!(streams, Some(50));
    let third = &clusters[2];
    assert_eq!(
        (third.name.as_deref(), &third.bastion),
        (Some("near"), &None)
    );
    assert_eq!(clusters.len(), 3);
}

#[test]
fn what_has_no_effect_in_a_cluster_is_a_warning() {
    let (settings, warnings) = loaded(&format!(
        "{BASE}    clusters:
      - name: near
        user: deploy
        ssh_options: [Compression=yes]
proxy_server: bastion.example.com:22
"
    ));
    assert_eq!(multiplexer(&settings, 0).clusters[0].bastion, None);
    assert_eq!(
        warnings,
        [
            "my-config.yaml:6: services[0].clusters[0]: is dialled directly: the \"proxy_server\" of the run is for \
             services without \"clusters\"",
            "my-config.yaml:7: services[0].clusters[0].user: has no effect: without \"proxy_server\" targets are \
             dialled directly",
            "my-config.yaml:8: services[0].clusters[0].ssh_options: has no effect: without \"proxy_server\" targets \
             are dialled directly",
        ]
    );
}

#[test]
fn a_list_that_is_wrong_is_told_where_and_why() {
    for (lines, message) in [
        (
            "    clusters: prod",
            ":5: services[0].clusters: must be a list of clusters such as [{ name: prod, proxy_server: \"bastion:22\" \
             }], and is the text \"prod\""
                .to_owned(),
        ),
        (
            "    clusters: []",
            ":5: services[0].clusters: the list is empty; name a cluster, or leave it out".into(),
        ),
        (
            "    clusters:",
            ":5: services[0].clusters: the list is empty; name a cluster, or leave it out".into(),
        ),
        (
            "    clusters: [prod]",
            ":5: services[0].clusters[0]: must be a mapping like { name: prod, proxy_server: \"bastion:22\" }, and is \
             the text \"prod\""
                .into(),
        ),
        (
            "    clusters:\n      - name: a\n      - name: b\n        proxy_servr: x:22",
            format!(
                ":8: services[0].clusters[1].proxy_servr: unknown key; did you mean \"proxy_server\"? ({CLUSTER_KEYS})"
            ),
        ),
        (
            "    clusters: [{ name: Prod }]",
            ":5: services[0].clusters[0].name: \"Prod\" is no cluster name; it must be a DNS name or a label of one, \
             such as prod or prod.example.com, of the characters a-z 0-9 - and ."
                .into(),
        ),
        (
            "    clusters: [{ user: x }]",
            ":5: services[0].clusters[0]: the key \"name\" is missing; write name: prod".into(),
        ),
        (
            "    clusters: [{ proxy_server: '[::1]:22' }]",
            ":5: services[0].clusters[0]: the key \"name\" is missing; write name: prod".into(),
        ),
        (
            "    clusters: [{ name: a, proxy_server: b }]",
            ":5: services[0].clusters[0].proxy_server: \"b\" has no port; it must be host:port, such as \
             bastion.example.com:22"
                .into(),
        ),
        (
            "    clusters:\n      - name: a\n      - name: b\n      - name: a",
            ":8: services[0].clusters[2].name: the name \"a\" is that of services[0].clusters[0]; each cluster needs \
             its own"
                .into(),
        ),
        (
            "    clusters:\n      - name: a.b\n      - proxy_server: A.b:22",
            ":7: services[0].clusters[1]: the name \"a.b\" is that of services[0].clusters[0]; it is this one's by \
             default: write a \"name\" of its own"
                .into(),
        ),
        (
            "    clusters:\n      - { name: a, hosts: ['*'] }\n      - name: b\n        hosts: [x, '*']",
            ":8: services[0].clusters[1].hosts: the pattern \"*\" is also one of services[0].clusters[0], and a host \
             can be of one cluster alone"
                .into(),
        ),
        (
            "    clusters:\n      - { name: a, hosts: ['*.b'] }\n      - name: b",
            ":7: services[0].clusters[1]: the pattern \"*.b\" is also one of services[0].clusters[0], and a host can \
             be of one cluster alone"
                .into(),
        ),
        (
            "    clusters: [{ name: a, hosts: ['!x'] }]",
            ":5: services[0].clusters[0].hosts: no host fits: name a pattern of hosts to take, or leave it out".into(),
        ),
        (
            "    clusters: [{ name: a, hosts: [] }]",
            ":5: services[0].clusters[0].hosts: no host fits: name a pattern of hosts to take, or leave it out".into(),
        ),
    ] {
        refused_lines(lines, &message);
    }
    for pattern in ["", "!", "a b", "a,b", "\"", "a|b", "ä", "#", "a'b"] {
        let yaml = serde_json::to_string(pattern).expect("text");
        refused_lines(
            &format!("    clusters: [{{ name: a, hosts: [{yaml}] }}]"),
            &format!(
                ":5: services[0].clusters[0].hosts[0]: {pattern:?} is no pattern of hosts; it must be of the \
                 characters of host names, * and ?, with ! before it for hosts to leave out"
            ),
        );
    }
}

#[test]
fn the_short_form_does_not_go_with_a_list() {
    for (key, value) in [
        ("cluster_name", "a"),
        ("user", "a"),
        ("identity_file", "/a"),
        ("ssh_config_path", "/a"),
        ("host_ca", "[]"),
        ("known_hosts", "[]"),
    ] {
        refused_lines(
            &format!("    clusters: [{{ name: a }}]\n    {key}: {value}"),
            &format!(
                ":6: services[0].{key}: stands beside \"clusters\", and is for a service of one cluster; write it in \
                 the cluster that it is meant for"
            ),
        );
    }
}

#[test]
fn options_of_ssh_that_the_connections_depend_on_are_refused_by_name() {
    const HOST_CA: &str = "host_ca: [ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEuZLKmiQ02L91A4NJ5wrqdV9d7yH9dxBk6/ti5c8Rpw], ";
    let ours = |name: &str| {
        format!(
            "{name} is not to be chosen: tbot sets it for the connections that it shares; remove it"
        )
    };
    for (more, option, why) in [
        ("", "controlmaster=no", ours("ControlMaster")),
        ("", "ProxyCommand nc %h %p", ours("ProxyCommand")),
        ("", "BatchMode = no", ours("BatchMode")),
        ("", "LogLevel=QUIET", ours("LogLevel")),
        (
            "",
            "IdentityFile=/x",
            "IdentityFile has a key of its own here: write \"identity_file\"".into(),
        ),
        (
            "",
            "Include x",
            "Include has a key of its own here: write \"ssh_config_path\"".into(),
        ),
        (
            HOST_CA,
            "StrictHostKeyChecking=no",
            "StrictHostKeyChecking has no effect beside \"host_ca\" and \"known_hosts\", which say whose host keys \
             are good; remove it"
                .into(),
        ),
        (
            HOST_CA,
            "knownhostscommand=/bin/true",
            "KnownHostsCommand has no effect beside \"host_ca\" and \"known_hosts\", which say whose host keys are \
             good; remove it"
                .into(),
        ),
        (
            "",
            "Compression",
            "\"Compression\" is no option of ssh; write Name=value, such as Compression=yes".into(),
        ),
        (
            "",
            "=yes",
            "\"=yes\" is no option of ssh; write Name=value, such as Compression=yes".into(),
        ),
        (
            "",
            "-oX=y",
            "\"-oX=y\" is no option of ssh; write Name=value, such as Compression=yes".into(),
        ),
    ] {
        refused_lines(
            &format!(
                "    clusters: [{{ name: a, proxy_server: 'b:22', {more}ssh_options: ['A=b', '{option}'] }}]"
            ),
            &format!(":5: services[0].clusters[0].ssh_options[1]: {why}"),
        );
    }
    let line = "    clusters: [{ name: a, proxy_server: 'b:22', ssh_options: [StrictHostKeyChecking=accept-new] }]";
    assert_eq!(loaded(&format!("{BASE}{line}\n")).1, [""; 0]);
}
