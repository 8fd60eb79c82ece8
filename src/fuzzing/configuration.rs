//! Configuration files.

use std::collections::HashSet;
use std::time::Duration;

use crate::bot::service::cluster;
use crate::config::{Error, Overrides, ServiceKind, Settings, Source, SshMultiplexer, load};
use crate::multiplexer::artifacts::{Artifacts, Hosts};

/// A file is refused with one line, or it is settings that can be run: and then nothing in it makes more of the files
/// that clients read than is meant.
pub fn configuration(data: &[u8]) {
    let loaded = Source::bytes("fuzz.yaml".into(), data.to_owned())
        .and_then(|source| load(Some(&source), Overrides::default()));
    match loaded {
        Err(error) => is_one_line(&error),
        Ok((settings, warnings)) => {
            for warning in warnings {
                assert!(!warning.contains(char::is_control), "{warning:?}");
            }
            is_sound(&settings);
        }
    }
}

fn is_one_line(error: &Error) {
    let text = error.to_string();
    assert!(text.starts_with("fuzz.yaml:"), "{text:?}");
    assert!(!text.contains(char::is_control), "{text:?}");
}

fn is_sound(settings: &Settings) {
    let Settings {
        services, outputs, ..
    } = settings;
    assert!(!services.is_empty() || !outputs.is_empty());
    let mut names = HashSet::new();
    let all = services.iter().map(|service| &service.name);
    for name in all.chain(outputs.iter().map(|output| &output.name)) {
        let is_good = |c| matches!(c, 'a'..='z' | '0'..='9' | '_' | '-' | '+');
        assert!(!name.is_empty() && name.chars().all(is_good), "{name:?}");
        assert!(names.insert(name), "{name:?} twice");
    }
    renews(settings.credential_ttl, settings.renewal_interval);
    for output in outputs {
        renews(output.credential_ttl, output.renewal_interval);
        assert!(output.destination.is_absolute());
    }
    for service in services {
        let ServiceKind::SshMultiplexer(multiplexer) = &service.kind;
        is_sound_multiplexer(multiplexer);
    }
}

fn renews(ttl: Duration, interval: Duration) {
    assert!(
        !interval.is_zero() && interval < ttl,
        "{interval:?} of {ttl:?}"
    );
    assert!(ttl <= Duration::from_secs(24 * 60 * 60), "{ttl:?}");
}

fn is_sound_multiplexer(service: &SshMultiplexer) {
    renews(service.credential_ttl, service.renewal_interval);
    assert!((1..=1_000_000).contains(&service.max_connections));
    assert!(service.destination.is_absolute() && !service.clusters.is_empty());
    let mut names = HashSet::new();
    for cluster in &service.clusters {
        assert!(!cluster.connect_timeout.is_zero());
        assert!(names.insert(&cluster.name), "{:?} twice", cluster.name);
        if let Some(bastion) = &cluster.bastion {
            assert!(!bastion.server.host.is_empty() && bastion.server.port != 0);
            assert!(bastion.max_streams_per_connection > 0);
        }
    }
    let clusters: Vec<_> = service.clusters.iter().map(cluster).collect();
    let artifacts = Artifacts {
        destination: service.destination.clone(),
        hosts: clusters.iter().map(Hosts::of).collect(),
        proxy_command: service.proxy_command.clone(),
        agent: true,
    };
    for (name, text) in artifacts.files() {
        assert!(text.ends_with('\n'), "{name}: {text:?}");
        let is_odd = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
        assert!(!text.contains(is_odd), "{name}: {text:?}");
        match &*name {
            "ssh_config" => is_sound_config(&text, clusters.len()),
            _ => is_sound_known_hosts(&text, service),
        }
    }
}

/// No line of it but ours: what is in the configuration adds words, never lines.
fn is_sound_config(text: &str, clusters: usize) {
    const OURS: [&str; 7] = [
        "ProxyCommand '",
        "ProxyUseFdpass yes",
        "UserKnownHostsFile \"",
        "StrictHostKeyChecking yes",
        "IdentityAgent \"",
        "IdentityFile none",
        "# ",
    ];
    let mut hosts = 0;
    for line in text.lines() {
        match line.strip_prefix("Host ") {
            Some(patterns) => {
                hosts += 1;
                assert!(
                    !patterns.is_empty() && !patterns.contains(['"', '#', '\'']),
                    "{line}"
                );
            }
            None => {
                let line = line.strip_prefix("    ").unwrap_or(line);
                assert!(OURS.iter().any(|ours| line.starts_with(ours)), "{line}");
            }
        }
    }
    assert_eq!(hosts, clusters, "{text}");
}

fn is_sound_known_hosts(text: &str, service: &SshMultiplexer) {
    let mut lines = text.lines();
    assert!(
        lines
            .next()
            .is_some_and(|line| line.starts_with("# Written by tbot"))
    );
    for line in lines {
        let is_host = |known: &String| known == line;
        let mut clusters = service.clusters.iter();
        let is_given = clusters.any(|cluster| cluster.known_hosts.iter().any(is_host));
        let words = line
            .strip_prefix("@cert-authority ")
            .map(|rest| rest.split(' '));
        // Names, type and key; a comment may follow.
        let is_authority = words.is_some_and(|words| words.take(3).all(|word| !word.is_empty()));
        assert!(is_given || is_authority, "{line:?}");
    }
}
