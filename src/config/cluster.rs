//! The clusters of an ssh-multiplexer: each of the list `clusters`, or the one that keys of the service itself
//! describe, which is the short form.

use std::time::Duration;

use super::cursor::{Cursor, Map};
use super::settings::{Bastion, Cluster, HostPort};
use super::{Error, address, destination, host_keys, quoted, ssh_options};

const KEYS: &[&str] = &[
    "name",
    "proxy_server",
    "user",
    "hosts",
    "host_ca",
    "known_hosts",
    "identity_file",
    "ssh_config_path",
    "ssh_options",
    "connect_timeout",
    "max_streams_per_connection",
];

/// Keys of a service that are about its one cluster. Its other two, `connect_timeout` and
/// `max_streams_per_connection`, are also what holds for each of a list that says nothing else.
const SHORT_FORM: [&str; 6] = [
    "cluster_name",
    "user",
    "identity_file",
    "ssh_config_path",
    "host_ca",
    "known_hosts",
];

/// Those that are about a bastion.
const BASTION_KEYS: [&str; 5] = [
    "user",
    "identity_file",
    "ssh_config_path",
    "ssh_options",
    "max_streams_per_connection",
];

/// What holds where a cluster says nothing else.
#[derive(Clone, Copy)]
struct Defaults {
    connect_timeout: Duration,
    max_streams: usize,
}

impl Defaults {
    /// What `map` says, else what `self` says.
    fn read(self, map: &Map) -> Result<Self, Error> {
        let timeout = map.optional("connect_timeout", Cursor::duration)?;
        let streams = map.optional("max_streams_per_connection", |at| at.number(1, 1000))?;
        Ok(Self {
            connect_timeout: timeout.unwrap_or(self.connect_timeout),
            max_streams: streams.map_or(self.max_streams, |number| number as usize),
        })
    }
}

/// The clusters of the service at `map`, at least one; `proxy_server` is the run's.
pub(super) fn clusters(map: &Map, proxy_server: Option<&HostPort>) -> Result<Vec<Cluster>, Error> {
    let defaults = Defaults {
        connect_timeout: Duration::from_secs(10),
        max_streams: 100,
    };
    if let Some(list) = map.get("clusters") {
        return listed(map, &list, defaults.read(map)?, proxy_server.is_some());
    }
    let name = map.optional("cluster_name", address::cluster_name)?;
    let mut cluster = cluster(map, defaults, proxy_server)?;
    // As in the original: a cluster without a name has its proxy's.
    let default = || Some(cluster.bastion.as_ref()?.server.host.to_ascii_lowercase());
    cluster.name = name.or_else(default);
    Ok(vec![cluster])
}

fn listed(
    service: &Map,
    list: &Cursor,
    defaults: Defaults,
    run_has_proxy: bool,
) -> Result<Vec<Cluster>, Error> {
    if let Some(at) = SHORT_FORM.iter().find_map(|key| service.get(key)) {
        return Err(at.error(
            "stands beside \"clusters\", and is for a service of one cluster; write it in the cluster that it is \
             meant for",
        ));
    }
    let items =
        list.list("a list of clusters such as [{ name: prod, proxy_server: \"bastion:22\" }]")?;
    if items.is_empty() {
        return Err(list.error("the list is empty; name a cluster, or leave it out"));
    }
    let mut clusters: Vec<Cluster> = Vec::new();
    for item in &items {
        let map = item.map(
            "a mapping like { name: prod, proxy_server: \"bastion:22\" }",
            KEYS,
        )?;
        let server = map.optional("proxy_server", address::proxy_server)?;
        if server.is_none() && run_has_proxy {
            item.warn(
                "is dialled directly: the \"proxy_server\" of the run is for services without \"clusters\"",
            );
        }
        let mut cluster = cluster(&map, defaults, server.as_ref())?;
        let name = name(&map, server.as_ref())?;
        let same = |other: &Cluster| other.name.as_ref() == Some(&name);
        if let Some(other) = clusters.iter().position(same) {
            return Err(map.name_taken(&name, &items[other], "cluster"));
        }
        cluster.hosts = match map.optional("hosts", patterns)? {
            Some(hosts) => hosts,
            None => vec![format!("*.{name}")],
        };
        cluster.name = Some(name);
        for (other, at) in clusters.iter().zip(&items) {
            let shared = cluster.hosts.iter().find(|host| other.hosts.contains(host));
            if let Some(shared) = shared {
                let hosts = map.get("hosts");
                return Err(hosts.as_ref().unwrap_or(item).error(format!(
                    "the pattern {} is also one of {}, and a host can be of one cluster alone",
                    quoted(shared),
                    at.short_name()
                )));
            }
        }
        clusters.push(cluster);
    }
    Ok(clusters)
}

/// What is the same in both forms.
fn cluster(map: &Map, defaults: Defaults, server: Option<&HostPort>) -> Result<Cluster, Error> {
    let defaults = defaults.read(map)?;
    let host_ca = host_keys::authorities(map)?;
    let known_hosts = host_keys::known_hosts(map)?;
    let knows_hosts = !(host_ca.is_empty() && known_hosts.is_empty());
    Ok(Cluster {
        name: None,
        bastion: bastion(map, defaults.max_streams, server, knows_hosts)?,
        hosts: Vec::new(),
        host_ca,
        known_hosts,
        connect_timeout: defaults.connect_timeout,
    })
}

fn bastion(
    map: &Map,
    max_streams_per_connection: usize,
    server: Option<&HostPort>,
    knows_hosts: bool,
) -> Result<Option<Bastion>, Error> {
    let user = map.optional("user", user)?;
    let identity_file = map.optional("identity_file", destination::file)?;
    let ssh_config_path = map.optional("ssh_config_path", destination::file)?;
    let options = map.optional("ssh_options", |at| ssh_options::options(at, knows_hosts))?;
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
        ssh_options: options.unwrap_or_default(),
        max_streams_per_connection,
    }))
}

/// A cluster's own, or its bastion's host; an address of IPv6 is none that a host's name could end in.
fn name(map: &Map, server: Option<&HostPort>) -> Result<String, Error> {
    match (map.optional("name", address::cluster_name)?, server) {
        (Some(name), _) => Ok(name),
        (None, Some(server)) if !server.host.contains(':') => Ok(server.host.to_ascii_lowercase()),
        _ => map.required("name", "name: prod").map(|_| String::new()),
    }
}

fn user(cursor: &Cursor) -> Result<String, Error> {
    let user = cursor.text()?;
    if user.is_empty() || user.starts_with('-') || user.contains(char::is_whitespace) {
        return Err(cursor.error(format!("{} is no user's name", quoted(user))));
    }
    Ok(user.to_owned())
}

/// Patterns of ssh_config(5), in lower case as ssh makes host names.
fn patterns(cursor: &Cursor) -> Result<Vec<String>, Error> {
    let mut patterns = Vec::new();
    for item in cursor.list("a list of patterns such as [\"*.prod.example.com\", \"db?\"]")? {
        let text = item.text()?;
        let host = text.strip_prefix('!').unwrap_or(text);
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:%*?".contains(&byte);
        if host.is_empty() || !host.bytes().all(allowed) {
            return Err(item.error(format!(
                "{} is no pattern of hosts; it must be of the characters of host names, * and ?, with ! before \
                 it for hosts to leave out",
                quoted(text)
            )));
        }
        patterns.push(text.to_ascii_lowercase());
    }
    if patterns.iter().all(|pattern| pattern.starts_with('!')) {
        return Err(cursor.error("no host fits: name a pattern of hosts to take, or leave it out"));
    }
    Ok(patterns)
}
