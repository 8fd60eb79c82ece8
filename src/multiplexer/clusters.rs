//! The clusters of a multiplexer at its start: a pool of masters for each with a bastion, and the ways to all.

use std::sync::Arc;

use super::Error;
use super::artifacts::Artifacts;
use super::destination::Destination;
use super::error::system;
use super::limits::affordable_streams;
use super::options::{Cluster, Options};
use super::routes::{Route, Routes};
use super::threads::{Handle, Message};
use super::upstream::openssh::pool::{Plan, Pool};
use super::upstream::openssh::{Bastion, Control, DIRECTORY, Login};
use crate::metrics::MultiplexerMetrics;

/// Starts the pools, which wait for their files.
pub fn start(
    options: &Options,
    clusters: &[Cluster],
    artifacts: &Artifacts,
    metrics: &MultiplexerMetrics,
    (destination, threads): (&Destination, &Handle),
) -> Result<(Routes, Vec<Pool>), Error> {
    let control = match clusters.iter().any(|cluster| cluster.bastion.is_some()) {
        false => None,
        true => {
            let directory = destination.path().join(DIRECTORY);
            let control = Control::open(destination).map(Arc::new);
            Some(control.map_err(system(&format!("make {}", directory.display())))?)
        }
    };
    let pool = |place: usize, cluster: &Cluster, bastion: &Bastion, control: &Arc<Control>| {
        let name = cluster.known_as().unwrap_or_default();
        let tell = threads.clone();
        let plan = Plan {
            metrics: metrics.bastions.cluster(&name),
            name,
            place,
            control: control.clone(),
            login: Login {
                bastion: bastion.clone(),
                has_agent: artifacts.agent,
                known_hosts: artifacts.known_hosts_file(place),
            },
            most_streams: affordable_streams(bastion.max_streams),
            dial_timeout: cluster.connect_timeout,
            credential: options.generation(bastion),
            tell: Box::new(move |who, failure| {
                tell.tell(&who, |who| Message::Places(place, who, failure.clone()));
            }),
        };
        let pool = Pool::start(plan, threads.clone());
        pool.map_err(system("start the thread of shared connections"))
    };
    let mut pools = Vec::new();
    let mut routes = Vec::new();
    for (place, cluster) in clusters.iter().enumerate() {
        let started = match (&cluster.bastion, &control) {
            (Some(bastion), Some(control)) => Some(pool(place, cluster, bastion, control)?),
            _ => None,
        };
        routes.push(Arc::new(Route {
            name: cluster.known_as(),
            connect_timeout: cluster.connect_timeout,
            cluster: started.as_ref().map(Pool::cluster),
        }));
        pools.extend(started);
    }
    let routes = Routes {
        clusters: routes,
        templates: options.templates.clone(),
    };
    Ok((routes, pools))
}
