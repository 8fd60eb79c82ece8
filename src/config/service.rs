//! The services of a configuration: their types, names, and the ssh-multiplexer's keys.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::cursor::{Cursor, Map};
use super::settings::{Bastion, HostPort, IdentityOutput, Service, ServiceKind, SshMultiplexer};
use super::{Error, address, destination, did_you_mean, foreign, quoted, show_duration};
use crate::errors::plain;
use crate::identity;

const SSH_MULTIPLEXER: &str = "ssh-multiplexer";
const IDENTITY: &str = "identity";

/// What can be run.
const TYPES: [&str; 2] = [IDENTITY, SSH_MULTIPLEXER];

/// The original's own services; a readiness list that holds both would be ambiguous.
const RESERVED: [&str; 5] = [
    "ca-rotation",
    "crl-cache",
    "heartbeat",
    "identity",
    "spiffe-trust-bundle-cache",
];

/// Of a file with public keys; a key is at most a kilobyte.
const MAX_KEYS: u64 = 256 * 1024;

const KEYS: &[&str] = &[
    "type",
    "name",
    "destination",
    "cluster_name",
    "proxy_command",
    "enable_resumption",
    "connect_timeout",
    "max_connections",
    "allowed_uids",
    "host_ca",
    "known_hosts",
    "user",
    "identity_file",
    "ssh_config_path",
    "max_streams_per_connection",
    "credential_ttl",
    "renewal_interval",
];

/// Those of them that are about the bastion.
const BASTION_KEYS: [&str; 4] = [
    "user",
    "identity_file",
    "ssh_config_path",
    "max_streams_per_connection",
];

const IDENTITY_KEYS: &[&str] = &[
    "type",
    "name",
    "destination",
    "cluster_name",
    "host_ca",
    "known_hosts",
    "credential_ttl",
    "renewal_interval",
];

/// How long a credential lives and how often it is renewed.
#[derive(Clone, Copy)]
pub(super) struct Renewal {
    pub ttl: Duration,
    pub interval: Duration,
}

impl Renewal {
    /// What `map` says, else what `self` says; a credential must outlive its renewal.
    pub fn read(self, map: &Map) -> Result<Self, Error> {
        let ttl = map.optional("credential_ttl", ttl)?;
        let interval = map.optional("renewal_interval", Cursor::duration)?;
        let renewal = Self {
            ttl: ttl.unwrap_or(self.ttl),
            interval: interval.unwrap_or(self.interval),
        };
        if renewal.ttl > renewal.interval {
            return Ok(renewal);
        }
        let ttl = show_duration(renewal.ttl);
        let interval = show_duration(renewal.interval);
        Err(
            match (map.get("renewal_interval"), map.get("credential_ttl")) {
                (Some(at), _) => at.error(format!(
                    "{interval} is not shorter than the credential_ttl of {ttl}; \
                     a credential must be renewed before it ends"
                )),
                (None, at) => at.as_ref().unwrap_or(&map.cursor).error(format!(
                    "{ttl} is not longer than the renewal_interval of {interval}; \
                     a credential must be renewed before it ends"
                )),
            },
        )
    }
}

/// One of less could be over before the next is there.
fn ttl(cursor: &Cursor) -> Result<Duration, Error> {
    let ttl = cursor.duration()?;
    if ttl < Duration::from_secs(3) {
        return Err(cursor.error("must be at least 3s, as certificates count whole seconds"));
    }
    Ok(ttl)
}

/// The services at `cursors` and the outputs, each in their order.
pub(super) fn services(
    cursors: &[Cursor],
    renewal: Renewal,
    has_identity: bool,
    proxy_server: Option<&HostPort>,
) -> Result<(Vec<Service>, Vec<IdentityOutput>), Error> {
    let (mut services, mut outputs) = (Vec::new(), Vec::new());
    // Of each so far: its name, and the directory it has for itself.
    let mut taken: Vec<(String, PathBuf)> = Vec::new();
    for cursor in cursors {
        let kind = kind(cursor)?;
        let (keys, count) = match kind {
            IDENTITY => (IDENTITY_KEYS, outputs.len()),
            _ => (KEYS, services.len()),
        };
        let map = cursor.map("a mapping with a \"type\"", keys)?;
        let name = name(&map, &format!("{kind}-{}", count + 1))?;
        if let Some(other) = taken.iter().position(|(taken, _)| *taken == name) {
            let other = cursors[other].short_name();
            let at = map.get("name");
            let advice = match at {
                Some(_) => "each service needs its own",
                None => "it is this one's by default: write a \"name\" of its own",
            };
            return Err(at.as_ref().unwrap_or(cursor).error(format!(
                "the name {} is that of {other}; {advice}",
                quoted(&name)
            )));
        }
        let destination;
        if kind == IDENTITY {
            if !has_identity {
                return Err(cursor.error(
                    "needs to know where keys and certificates come from: write \"onboarding\" with a \
                     join_method",
                ));
            }
            let output = identity(&map, name.clone(), renewal)?;
            destination = real_path(&output.destination);
            outputs.push(output);
        } else {
            let multiplexer = ssh_multiplexer(&map, renewal, proxy_server)?;
            destination = real_path(&multiplexer.destination);
            services.push(Service {
                name: name.clone(),
                kind: ServiceKind::SshMultiplexer(multiplexer),
            });
        }
        if let Some(other) = taken.iter().position(|(_, taken)| *taken == destination) {
            let at = map.get("destination");
            return Err(at.as_ref().unwrap_or(cursor).error(format!(
                "{} is the destination of {}; each service needs its own",
                quoted(&destination.display().to_string()),
                cursors[other].short_name()
            )));
        }
        taken.push((name, destination));
    }
    Ok((services, outputs))
}

/// Looks at the type before any other key: another type has other keys.
fn kind(cursor: &Cursor) -> Result<&'static str, Error> {
    let map = cursor.map_of_any_keys("a mapping with a \"type\"")?;
    let at = map.required("type", "type: ssh-multiplexer")?;
    let kind = at.text()?;
    if let Some(known) = TYPES.into_iter().find(|known| *known == kind) {
        return Ok(known);
    }
    Err(at.error(foreign::service(kind).unwrap_or_else(|| {
        format!(
            "unknown service type {}{} (allowed: {})",
            quoted(kind),
            did_you_mean(kind, TYPES).unwrap_or_default(),
            TYPES.join(", ")
        )
    })))
}

fn identity(map: &Map, name: String, renewal: Renewal) -> Result<IdentityOutput, Error> {
    let destination = map.required(
        "destination",
        "destination: { type: directory, path: /etc/tbot-id }",
    )?;
    let renewal = renewal.read(map)?;
    Ok(IdentityOutput {
        name,
        destination: destination::destination(&destination)?,
        cluster_name: map.optional("cluster_name", address::cluster_name)?,
        host_ca: map.optional("host_ca", public_keys)?.unwrap_or_default(),
        known_hosts: map
            .optional("known_hosts", known_hosts)?
            .unwrap_or_default(),
        credential_ttl: renewal.ttl,
        renewal_interval: renewal.interval,
    })
}

fn name(map: &Map, default: &str) -> Result<String, Error> {
    let Some(cursor) = map.get("name") else {
        return Ok(default.to_owned());
    };
    let name = cursor.text()?;
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_-+".contains(&b);
    if name.is_empty() || !name.bytes().all(allowed) {
        return Err(cursor.error(format!(
            "{} is no service name; it must be of the characters a-z 0-9 _ - and +",
            quoted(name)
        )));
    }
    if RESERVED.contains(&name) {
        return Err(cursor.error(format!(
            "the name {} is reserved (reserved: {})",
            quoted(name),
            RESERVED.join(", ")
        )));
    }
    Ok(name.to_owned())
}

fn ssh_multiplexer(
    map: &Map,
    renewal: Renewal,
    proxy_server: Option<&HostPort>,
) -> Result<SshMultiplexer, Error> {
    let destination = map.required(
        "destination",
        "destination: { type: directory, path: /opt/machine-id }",
    )?;
    if let Some(cursor) = map.get("enable_resumption")
        && cursor.bool()?
    {
        cursor.warn("has no effect: resuming sessions needs the Teleport proxy");
    }
    let renewal = renewal.read(map)?;
    let bastion = bastion(map, proxy_server)?;
    let cluster_name = map.optional("cluster_name", address::cluster_name)?;
    // As in the original: a cluster without a name has its proxy's.
    let default = || Some(bastion.as_ref()?.server.host.to_ascii_lowercase());
    Ok(SshMultiplexer {
        destination: destination::destination(&destination)?,
        cluster_name: cluster_name.or_else(default),
        bastion,
        proxy_command: map.optional("proxy_command", words)?.unwrap_or_default(),
        connect_timeout: map
            .optional("connect_timeout", Cursor::duration)?
            .unwrap_or(Duration::from_secs(10)),
        max_connections: map
            .optional("max_connections", |at| at.number(1, 1_000_000))?
            .map_or(10_000, |number| number as usize),
        allowed_uids: map.optional("allowed_uids", uids)?.unwrap_or_default(),
        host_ca: map.optional("host_ca", public_keys)?.unwrap_or_default(),
        known_hosts: map
            .optional("known_hosts", known_hosts)?
            .unwrap_or_default(),
        credential_ttl: renewal.ttl,
        renewal_interval: renewal.interval,
    })
}

fn bastion(map: &Map, server: Option<&HostPort>) -> Result<Option<Bastion>, Error> {
    let user = map.optional("user", user)?;
    let identity_file = map.optional("identity_file", destination::file)?;
    let ssh_config_path = map.optional("ssh_config_path", destination::file)?;
    let streams = map.optional("max_streams_per_connection", |at| at.number(1, 1000))?;
    let Some(server) = server else {
        for at in BASTION_KEYS.iter().filter_map(|key| map.get(key)) {
            at.warn("has no effect: without \"proxy_server\" targets are dialled directly");
        }
        return Ok(None);
    };
    Ok(Some(Bastion {
        server: server.clone(),
        user,
        identity_file,
        ssh_config_path,
        max_streams_per_connection: streams.map_or(100, |number| number as usize),
    }))
}

fn user(cursor: &Cursor) -> Result<String, Error> {
    let user = cursor.text()?;
    if user.is_empty() || user.starts_with('-') || user.contains(char::is_whitespace) {
        return Err(cursor.error(format!("{} is no user's name", quoted(user))));
    }
    Ok(user.to_owned())
}

/// Public keys in OpenSSH's form, without their comments: each item is one, or the path of a file of them.
fn public_keys(cursor: &Cursor) -> Result<Vec<String>, Error> {
    let mut keys = Vec::new();
    for item in cursor.list("a list of public keys and paths such as [/etc/ssh/host_ca.pub]")? {
        let text = item.text()?;
        if !text.starts_with('/') {
            keys.push(public_key(&item, text, "")?);
            continue;
        }
        let mut file = String::new();
        let opened = identity::file::open(Path::new(text), MAX_KEYS);
        let read = opened.and_then(|opened| match opened {
            Some((from, _)) => from.take(MAX_KEYS).read_to_string(&mut file),
            None => Err(io::Error::other("it is no file of at most 256 KiB")),
        });
        read.map_err(|error| {
            item.error(format!(
                "{} cannot be read: {}",
                quoted(text),
                plain(&error)
            ))
        })?;
        let before = keys.len();
        for line in file.lines().map(str::trim) {
            if !line.is_empty() && !line.starts_with('#') {
                keys.push(public_key(&item, line, &format!(" in {text}"))?);
            }
        }
        if keys.len() == before {
            // Without a key ssh would go by its own files, which nobody means who names one.
            return Err(item.error(format!("{} has no public key", quoted(text))));
        }
    }
    Ok(keys)
}

fn public_key(cursor: &Cursor, text: &str, place: &str) -> Result<String, Error> {
    let mut key = ssh_key::PublicKey::from_openssh(text).map_err(|error| {
        cursor.error(format!(
            "{}{place} is no public key; write one as `cat host_ca.pub` shows it ({error})",
            quoted(text)
        ))
    })?;
    key.set_comment("");
    key.to_openssh()
        .map_err(|error| cursor.error(error.to_string()))
}

/// Hosts and their keys, each item as a line of ssh's own known_hosts.
fn known_hosts(cursor: &Cursor) -> Result<Vec<String>, Error> {
    let items = cursor.list("a list of lines such as [\"db1.example ssh-ed25519 AAAA...\"]")?;
    let line = |item: &Cursor| {
        let text = item.text()?;
        let is_line = text.parse::<ssh_key::known_hosts::Entry>().is_ok();
        is_line
            .then(|| text.to_owned())
            .ok_or_else(|| item.error(format!("{} is no line of a known_hosts file", quoted(text))))
    };
    items.iter().map(line).collect()
}

/// The words of a command, of which the first is the program.
pub(super) fn words(cursor: &Cursor) -> Result<Vec<String>, Error> {
    let items = cursor.list("a list of words such as [/usr/bin/fdpass-teleport]")?;
    if let Some(program) = items.first()
        && program.text()?.is_empty()
    {
        return Err(program.error("the program of the command is empty"));
    }
    items
        .iter()
        .map(|item| item.text().map(str::to_owned))
        .collect()
}

fn uids(cursor: &Cursor) -> Result<Vec<u32>, Error> {
    // The highest number, -1, is the system's word for no user.
    let most = i128::from(u32::MAX - 1);
    cursor
        .list("a list of user numbers such as [1000, 1001]")?
        .iter()
        .map(|item| item.number(0, most).map(|number| number as u32))
        .collect()
}

/// The path without links, as far as it exists, for telling two apart.
fn real_path(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}
