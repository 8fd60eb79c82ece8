//! `onboarding`, `host_ca` and `known_hosts`: what is wrong in them is told at its line, and nothing is written.

use std::time::Duration;

use super::{BASE, refused};
use tbot::config::{Overrides, Source, load};
use tbot::identity::{self, Command, KeyFile, SshCa};

const CA: &str = "ca_key_path: /ca, principals: [root]";

/// Line 5 of a configuration.
#[track_caller]
fn refused_onboarding(value: &str, message: &str) {
    refused(
        format!("{BASE}onboarding: {value}\n"),
        &format!(":5: onboarding{message}"),
    );
}

#[track_caller]
fn refused_service(line: &str, message: &str) {
    refused(
        format!("{BASE}    {line}\n"),
        &format!(":5: services[0].{message}"),
    );
}

fn source(value: &str) -> Option<identity::Source> {
    let room = super::program::Room::new();
    let path = room.write("my-config.yaml", format!("{BASE}onboarding: {value}\n"));
    let file = Source::file(&path).expect("the file can be read");
    let (settings, warnings) =
        load(Some(&file), Overrides::default()).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(warnings, [""; 0]);
    settings.onboarding
}

#[test]
fn each_method_has_its_keys_and_defaults() {
    assert_eq!(source("{ join_method: none }"), None);
    let texts = |texts: &[&str]| {
        texts
            .iter()
            .map(|text| (*text).to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        source(&format!("{{ join_method: ssh-ca, {CA} }}")),
        Some(identity::Source::SshCa(SshCa {
            key: "/ca".into(),
            passphrase: None,
            principals: texts(&["root"]),
            key_id: "tbot@{hostname}".into(),
            extensions: texts(&[
                "permit-X11-forwarding",
                "permit-agent-forwarding",
                "permit-port-forwarding",
                "permit-pty",
                "permit-user-rc",
            ]),
            critical_options: vec![],
        }))
    );
    assert_eq!(
        source(
            "{ join_method: ssh-ca, ca_key_path: /ca, ca_key_passphrase_path: /pass, principals: [a, b], key_id: x, extensions: [], critical_options: { source-address: '10.0.0.0/8,::1', force-command: id } }"
        ),
        Some(identity::Source::SshCa(SshCa {
            key: "/ca".into(),
            passphrase: Some("/pass".into()),
            principals: texts(&["a", "b"]),
            key_id: "x".into(),
            extensions: vec![],
            critical_options: vec![
                ("force-command".into(), "id".into()),
                ("source-address".into(), "10.0.0.0/8,::1".into()),
            ],
        }))
    );
    assert_eq!(
        source("{ join_method: command, command: [/bin/sign, '-'] }"),
        Some(identity::Source::Command(Command {
            words: texts(&["/bin/sign", "-"]),
            timeout: Duration::from_secs(30),
        }))
    );
    assert_eq!(
        source(
            "{ join_method: key-file, key_path: /id, key_passphrase_path: /pass, certificate_path: /cert }"
        ),
        Some(identity::Source::KeyFile(KeyFile {
            key: "/id".into(),
            passphrase: Some("/pass".into()),
            certificate: Some("/cert".into()),
        }))
    );
}

#[test]
fn a_wrong_method_is_told_of() {
    const ALLOWED: &str = "(allowed: ssh-ca, command, key-file, none)";
    refused_onboarding(
        "",
        ": must be a mapping with a \"join_method\", and is nothing",
    );
    refused_onboarding(
        "ssh-ca",
        ": must be a mapping with a \"join_method\", and is the text \"ssh-ca\"",
    );
    refused_onboarding(
        "{ ca_key_path: /ca }",
        ": the key \"join_method\" is missing; write join_method: ssh-ca",
    );
    refused_onboarding(
        "{ join_method: ssh_ca }",
        &format!(".join_method: unknown method \"ssh_ca\"; did you mean \"ssh-ca\"? {ALLOWED}"),
    );
    refused_onboarding(
        "{ join_method: vault }",
        &format!(".join_method: unknown method \"vault\" {ALLOWED}"),
    );
    refused_onboarding(
        "{ join_method: iam }",
        &format!(
            ".join_method: \"iam\" needs a Teleport cluster, which tbot-rs does without {ALLOWED}"
        ),
    );
    refused_onboarding(
        "{ join_method: none, principals: [a] }",
        ".principals: unknown key (allowed: join_method)",
    );
}

#[test]
fn wrong_keys_of_ssh_ca_are_told_of() {
    let refused = |keys: &str, message: &str| {
        refused_onboarding(&format!("{{ join_method: ssh-ca, {keys} }}"), message);
    };
    refused(
        &format!("{CA}, extension: []"),
        ".extension: unknown key; did you mean \"extensions\"? (allowed: join_method, ca_key_path, \
         ca_key_passphrase_path, principals, key_id, extensions, critical_options)",
    );
    refused(
        "principals: [a]",
        ": the key \"ca_key_path\" is missing; write ca_key_path: /etc/ssh/user_ca",
    );
    refused(
        "ca_key_path: /ca",
        ": the key \"principals\" is missing; write principals: [deploy]",
    );
    refused(
        "ca_key_path: '', principals: [a]",
        ".ca_key_path: the path is empty",
    );
    refused(
        "ca_key_path: /ca, principals: root",
        ".principals: must be a list of words, and is the text \"root\"",
    );
    refused(
        "ca_key_path: /ca, principals: []",
        ".principals: a certificate without principals would be good for every user; name at least one",
    );
    refused(
        "ca_key_path: /ca, principals: [a, '']",
        ".principals[1]: is empty; name a user as servers know them",
    );
    refused(
        "ca_key_path: /ca, principals: [a, a]",
        ".principals[1]: \"a\" is in the list already",
    );
    refused(
        "ca_key_path: /ca, principals: [\"a\\nb\"]",
        ".principals[0]: has a control character: \"a\\nb\"",
    );
    refused(
        &format!("{CA}, key_id: 7"),
        ".key_id: must be text, and is the number 7; put it in quotes",
    );
    refused(
        &format!("{CA}, extensions: [permit-ptty]"),
        ".extensions[0]: unknown extension \"permit-ptty\"; did you mean \"permit-pty\"? (allowed: \
         permit-X11-forwarding, permit-agent-forwarding, permit-port-forwarding, permit-pty, permit-user-rc, \
         and others as NAME@DOMAIN)",
    );
    refused(
        &format!("{CA}, critical_options: {{ source-adress: 10.0.0.1 }}"),
        ".critical_options.source-adress: unknown key; did you mean \"source-address\"? (allowed: \
         force-command, source-address)",
    );
    for address in [
        "localhost",
        "10.0.0.0/33",
        "10.0.0.0/8 ::1",
        "::1/129",
        "10.0.0.1,",
        "10.0.0.0/+8",
        "10.0.0.0/",
        "fe80::1%lo",
        "",
    ] {
        refused(
            &format!("{CA}, critical_options: {{ source-address: '{address}' }}"),
            &format!(
                ".critical_options.source-address: {address:?} is no list of addresses and networks such as \
                 10.0.0.0/8,192.0.2.7"
            ),
        );
    }
    for address in ["10.1.0.0/8", "::1,192.0.2.1/31", "fe80::1/64", "0.0.0.1/0"] {
        let network = address.rsplit(',').next().expect("one at least");
        let bits = network.rsplit('/').next().expect("one at least");
        refused(
            &format!("{CA}, critical_options: {{ source-address: '{address}' }}"),
            &format!(
                ".critical_options.source-address: {network:?} is no network, as its address goes on after \
                 {bits} bits; servers would refuse the certificate"
            ),
        );
    }
    for name in ["a,b", " a", "a "] {
        refused(
            &format!("ca_key_path: /ca, principals: ['{name}']"),
            &format!(
                ".principals[0]: {name:?} is no name of a user; write each as an item of its own, as in \
                 [deploy, root]"
            ),
        );
    }
    let many: Vec<String> = (0..257).map(|n| format!("u{n}")).collect();
    refused(
        &format!("ca_key_path: /ca, principals: [{}]", many.join(", ")),
        ".principals: has 257 names, and servers refuse a certificate with more than 256",
    );
    refused(
        &format!("{CA}, key_id: {}", "x".repeat(1025)),
        ".key_id: is longer than 1024 bytes",
    );
    for name in ["@", "a@", "@b", "a b@c", "a@b c"] {
        refused(
            &format!("{CA}, extensions: [permit-pty, '{name}']"),
            &format!(
                ".extensions[1]: unknown extension {name:?} (allowed: permit-X11-forwarding, permit-agent-forwarding, permit-port-forwarding, permit-pty, permit-user-rc, and others as NAME@DOMAIN)"
            ),
        );
    }
    refused(
        &format!("{CA}, extensions: [permit-pty, permit-pty]"),
        ".extensions[1]: \"permit-pty\" is in the list already",
    );
    refused(
        &format!("{CA}, critical_options: {{ force-command: '' }}"),
        ".critical_options.force-command: is empty; give a command, or leave it out",
    );
}

#[test]
fn wrong_keys_of_command_and_key_file_are_told_of() {
    let command = |keys: &str, message: &str| {
        refused_onboarding(&format!("{{ join_method: command{keys} }}"), message);
    };
    command(
        "",
        ": the key \"command\" is missing; write command: [/usr/local/bin/sign-my-key]",
    );
    command(", command: []", ".command: there is no program in the list");
    command(
        ", command: ['']",
        ".command[0]: the program of the command is empty",
    );
    command(
        ", command: [a], command_timeout: 0s",
        ".command_timeout: must be longer than 0s",
    );
    command(
        ", command: [a], timeout: 3s",
        ".timeout: unknown key (allowed: join_method, command, command_timeout)",
    );
    let key_file = |keys: &str, message: &str| {
        refused_onboarding(&format!("{{ join_method: key-file{keys} }}"), message);
    };
    key_file(
        "",
        ": the key \"key_path\" is missing; write key_path: /etc/tbot/id_ed25519",
    );
    key_file(
        ", key_path: /id, certificat_path: /c",
        ".certificat_path: unknown key; did you mean \"certificate_path\"? (allowed: join_method, key_path, \
         key_passphrase_path, certificate_path)",
    );
}

#[test]
fn keys_of_hosts_must_be_keys() {
    let room = super::program::Room::new();
    let empty = room.write("empty", "# nothing\n");
    let empty = empty.display();
    refused_service(
        &format!("host_ca: [{empty}]"),
        &format!("host_ca[0]: {:?} has no public key", empty.to_string()),
    );
    refused_service(
        "host_ca: ssh-ed25519",
        "host_ca: must be a list of public keys and paths such as [/etc/ssh/host_ca.pub], and is the text \"ssh-ed25519\"",
    );
    refused_service(
        "host_ca: [/nowhere/ca.pub]",
        "host_ca[0]: \"/nowhere/ca.pub\" cannot be read: No such file or directory",
    );
    refused_service(
        "host_ca: [ssh-ed25519 AAAA]",
        "host_ca[0]: \"ssh-ed25519 AAAA\" is no public key; write one as `cat host_ca.pub` shows it (Base64 encoding error: invalid Base64 length)",
    );
    refused_service(
        "known_hosts: [db1]",
        "known_hosts[0]: \"db1\" is no line of a known_hosts file",
    );
}
