//! From a request to the cluster that serves it, and to the target as it is called there.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::request::{Request, host_port};
use super::templates::{Rewritten, Template};
use super::upstream::Failure;
use super::upstream::openssh::lease::Cluster;
use crate::metrics::Refusal;

/// The clusters of one multiplexer; the first serves who names none.
#[derive(Debug)]
pub struct Routes {
    /// Not empty. A connection holds its own.
    pub clusters: Vec<Arc<Route>>,
    /// The first that matches counts.
    pub templates: Vec<Template>,
}

/// The way to one cluster.
#[derive(Debug)]
pub struct Route {
    /// `None`: the only cluster, which no request may name.
    pub name: Option<String>,
    /// From the complete request to the connected target.
    pub connect_timeout: Duration,
    /// By way of a bastion; `None`: its targets are dialled.
    pub cluster: Option<Arc<Cluster>>,
}

impl Routes {
    /// Whether any target is reached by way of a bastion.
    pub fn have_bastions(&self) -> bool {
        self.clusters.iter().any(|route| route.cluster.is_some())
    }

    /// The place of the cluster that `request` is for, and the request as it is to be asked there.
    pub fn choose(&self, request: &Request) -> Result<(usize, Request), Failure> {
        let mut target = request.clone();
        let mut place = None;
        let rewritten = match self.templates.is_empty() {
            true => None,
            false => self.rewritten(&request.to_string())?,
        };
        if let Some((template, rewritten)) = rewritten {
            if let Some((host, port)) = rewritten.host {
                target.host = host;
                target.port = port.unwrap_or(request.port);
            }
            let (name, proxy) = (rewritten.cluster.as_deref(), rewritten.proxy.as_deref());
            if name.is_some() || proxy.is_some() {
                place = Some(self.named(name, proxy).ok_or_else(|| {
                    let what = [
                        name.map(|name| format!("cluster {name:?}")),
                        proxy.map(|proxy| format!("proxy {proxy:?}")),
                    ];
                    let what: Vec<_> = what.into_iter().flatten().collect();
                    let message = format!(
                        "{template} leads to the unknown {}; {}",
                        what.join(" with "),
                        self.known()
                    );
                    Failure::new(Refusal::Cluster, message)
                })?);
            }
        }
        let place = match (place, &request.cluster) {
            (Some(place), _) => place,
            (None, None) => 0,
            (None, Some(name)) => self.named(Some(name), None).ok_or_else(|| {
                let message = format!("unknown cluster {name:?}; {}", self.known());
                Failure::new(Refusal::Cluster, message)
            })?,
        };
        self.clusters[place].strip(&mut target.host);
        Ok((place, target))
    }

    /// What the first template that matches makes of `target`.
    fn rewritten(&self, target: &str) -> Result<Option<(&Template, Rewritten)>, Failure> {
        for template in &self.templates {
            match template.apply(target) {
                None => {}
                Some(Ok(rewritten)) => return Ok(Some((template, rewritten))),
                Some(Err(why)) => return Err(Failure::new(Refusal::Malformed, why)),
            }
        }
        Ok(None)
    }

    /// The first cluster of that name, or with that bastion, or both.
    fn named(&self, name: Option<&str>, proxy: Option<&str>) -> Option<usize> {
        self.clusters.iter().position(|route| {
            name.is_none_or(|name| route.name.as_deref() == Some(name))
                && proxy.is_none_or(|proxy| {
                    route.cluster.as_ref().is_some_and(|cluster| {
                        is_server(proxy, &cluster.bastion.host, cluster.bastion.port)
                    })
                })
        })
    }

    /// For those who named another one.
    fn known(&self) -> String {
        let names: Vec<&str> = self
            .clusters
            .iter()
            .filter_map(|route| route.name.as_deref())
            .collect();
        match names[..] {
            [] => "none is named here, so leave it out".to_owned(),
            [name] => format!("the known one is {name}"),
            _ => format!("the known ones are {}", names.join(", ")),
        }
    }
}

impl Route {
    /// Takes what stands for the cluster off the end of a host's name: its bastion's name, then its own.
    fn strip(&self, host: &mut String) {
        if host.parse::<IpAddr>().is_ok() {
            return;
        }
        let bastion = self
            .cluster
            .as_ref()
            .map(|cluster| cluster.bastion.host.as_str());
        let own = self
            .name
            .as_deref()
            .filter(|name| bastion.is_none_or(|host| !host.eq_ignore_ascii_case(name)));
        for name in [bastion, own].into_iter().flatten() {
            let length = host.len().saturating_sub(name.len() + 1);
            let is_its = |end: &str| {
                end.strip_prefix('.')
                    .is_some_and(|end| end.eq_ignore_ascii_case(name))
            };
            if length > 0 && host.get(length..).is_some_and(is_its) {
                host.truncate(length);
            }
        }
    }
}

/// Whether `text` names the server at `host` and `port`, with its port or without.
pub(crate) fn is_server(text: &str, host: &str, port: u16) -> bool {
    text.eq_ignore_ascii_case(host) || text.eq_ignore_ascii_case(&host_port(host, port))
}
