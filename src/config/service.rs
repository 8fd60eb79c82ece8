//! The services of a configuration: their types, names, and the ssh-multiplexer's keys.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::cursor::{Cursor, Map};
use super::settings::{HostPort, IdentityOutput, Service, ServiceKind, SshMultiplexer};
use super::{
    Error, address, cluster, destination, did_you_mean, foreign, host_keys, quoted, show_duration,
    template,
};

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

const KEYS: &[&str] = &[
    "type",
    "name",
    "destination",
    "clusters",
    "cluster_name",
    "proxy_templates",
    "proxy_templates_path",
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
            return Err(map.name_taken(&name, &cursors[other], "service"));
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
        host_ca: host_keys::authorities(map)?,
        known_hosts: host_keys::known_hosts(map)?,
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
    let clusters = cluster::clusters(map, proxy_server)?;
    Ok(SshMultiplexer {
        destination: destination::destination(&destination)?,
        templates: template::templates(map, &clusters)?,
        clusters,
        proxy_command: map.optional("proxy_command", words)?.unwrap_or_default(),
        max_connections: map
            .optional("max_connections", |at| at.number(1, 1_000_000))?
            .map_or(10_000, |number| number as usize),
        allowed_uids: map.optional("allowed_uids", uids)?.unwrap_or_default(),
        credential_ttl: renewal.ttl,
        renewal_interval: renewal.interval,
    })
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
