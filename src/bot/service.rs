//! A multiplexer as a service: its settings, its files, its health.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Resource, getrlimit};

use super::{Error, system};
use crate::config::{self, ServiceKind};
use crate::identity::Identity;
use crate::metrics::{MultiplexerMetrics, TaskMetricsFamily};
use crate::multiplexer::{self, Multiplexer};
use crate::program;
use crate::readyz;
use crate::task::Task;

/// A multiplexer that serves, and the task that keeps its files.
pub(super) struct Service {
    pub(super) name: String,
    pub(super) multiplexer: Arc<Multiplexer>,
    pub(super) artifacts: Option<Task>,
    renewal_interval: Duration,
    /// This program's path, where ssh_config names it.
    own_program: Option<PathBuf>,
    pub(super) reporter: readyz::Reporter,
    /// Whether clients did not find its sockets when that was last looked at.
    has_lost_sockets: bool,
}

/// Starts a multiplexer; its files are not written yet.
pub(super) fn start(
    service: &config::Service,
    identity: Option<Identity>,
    reporter: readyz::Reporter,
    metrics: &MultiplexerMetrics,
    affordable: usize,
) -> Result<Service, Error> {
    let ServiceKind::SshMultiplexer(settings) = &service.kind;
    let mut proxy_command = settings.proxy_command.clone();
    let mut own_program = None;
    if let Some(program) = proxy_command.first().map(Path::new) {
        // Only said: ssh may run where the file system is another one, as in a container.
        if program.is_absolute() && !program.exists() {
            tracing::warn!(
                "ssh-multiplexer {:?}: there is no {} here, by which ssh is to connect (proxy_command)",
                service.name,
                program.display()
            );
        }
    } else {
        let path = program::path().map_err(system(
            "find this program's own path (mount /proc, start tbot by its path, or give proxy_command)",
        ))?;
        let program = path
            .to_str()
            .map(str::to_owned)
            .ok_or("its path is not UTF-8");
        let program = program.map_err(system("name this program in ssh_config"))?;
        own_program = Some(path);
        proxy_command = vec![program, multiplexer::PROXY_COMMAND.to_owned()];
    }
    let name = &service.name;
    let wanted = settings.max_connections;
    if affordable < wanted {
        let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        tracing::warn!(
            "ssh-multiplexer {name:?} serves at most {affordable} connections at once instead of {wanted}, by \
             the limit of {descriptors} file descriptors (raise it by LimitNOFILE= or ulimit -Hn)"
        );
    }
    let mut options = multiplexer::Options::new(&settings.destination, proxy_command);
    options.max_connections = wanted.min(affordable);
    options.allowed_uids.clone_from(&settings.allowed_uids);
    options.clusters = settings.clusters.iter().map(cluster).collect();
    options.templates.clone_from(&settings.templates);
    options.identity = identity;
    let multiplexer = Multiplexer::start(&options, metrics);
    let multiplexer = multiplexer.map_err(|error| Error::Multiplexer(name.clone(), error))?;
    let multiplexer = Arc::new(multiplexer);
    let looked_at = Arc::downgrade(&multiplexer);
    let reporter = reporter.checked_by(move || looked_at.upgrade()?.problem());
    Ok(Service {
        name: name.clone(),
        multiplexer,
        artifacts: None,
        renewal_interval: settings.renewal_interval,
        own_program,
        reporter,
        has_lost_sockets: false,
    })
}

pub(crate) fn cluster(settings: &config::Cluster) -> multiplexer::Cluster {
    let bastion = |bastion: &config::Bastion| multiplexer::Bastion {
        host: bastion.server.host.clone(),
        port: bastion.server.port,
        user: bastion.user.clone(),
        identity_file: bastion.identity_file.clone(),
        ssh_config_path: bastion.ssh_config_path.clone(),
        ssh_options: bastion.ssh_options.clone(),
        max_streams: bastion.max_streams_per_connection,
    };
    let mut cluster = multiplexer::Cluster::default();
    cluster.name.clone_from(&settings.name);
    cluster.bastion = settings.bastion.as_ref().map(bastion);
    cluster.hosts.clone_from(&settings.hosts);
    cluster.connect_timeout = settings.connect_timeout;
    cluster.host_ca.clone_from(&settings.host_ca);
    cluster.known_hosts.clone_from(&settings.known_hosts);
    cluster
}

impl Service {
    /// Sees to sockets that were taken away. Of a directory that was, it is told once, and once of its return.
    pub(super) fn look(&mut self) {
        let lost = self.multiplexer.has_lost_sockets();
        let changed = std::mem::replace(&mut self.has_lost_sockets, lost) != lost;
        if let Some(task) = &self.artifacts
            && (changed || lost && self.multiplexer.is_in_place())
        {
            task.run_now();
        }
    }

    /// Writes the files for clients, now and again; with them the service is ready.
    pub(super) fn keep_artifacts(&mut self, tasks: &TaskMetricsFamily) -> Result<(), Error> {
        let (multiplexer, reporter) = (self.multiplexer.clone(), self.reporter.clone());
        let socket = multiplexer.socket_path();
        let own = self.own_program.clone();
        let mut ready = format!(
            "ssh-multiplexer {:?} is ready at {}",
            self.name,
            socket.display()
        );
        let work = move || {
            multiplexer.maintain()?;
            if let Some(own) = own.as_ref().filter(|own| !own.exists()) {
                return Err(format!(
                    "{} is gone, by which ssh connects: put it back, or restart tbot from its new place",
                    own.display()
                ));
            }
            if !ready.is_empty() {
                // Who reads the line finds it so in /readyz.
                reporter.healthy();
                tracing::info!("{}", std::mem::take(&mut ready));
            }
            Ok(())
        };
        let metrics = tasks.task(&self.name, "artifacts");
        let task = Task::start(
            "mux-artifacts",
            {
                let interval = self.renewal_interval;
                move || interval
            },
            metrics,
            self.reporter.clone(),
            work,
        );
        self.artifacts = Some(task.map_err(system("start a thread"))?);
        Ok(())
    }
}
