//! One run of `tbot start`: from settings to services, and to an orderly stop.

use std::fmt;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant, SystemTime};

use prometheus::Registry;
use rustix::process::{DumpableBehavior, Resource, getrlimit};
use signal_hook::consts::{SIGHUP, SIGINT, SIGPROF, SIGTERM, SIGUSR1};
use signal_hook::iterator::Signals;

use crate::config::{self, ServiceKind, Settings};
use crate::diagnostics::{Diagnostics, ProcessCollector};
use crate::errors::plain;
use crate::identity::{Changed, Credential, Identity, Output, Source, Stop};
use crate::logging;
use crate::metrics::{
    self, AllocatorMetrics, DiagnosticsMetrics, IdentityMetrics, LogMetrics, MultiplexerMetrics,
    NetworkMetrics, TaskMetricsFamily,
};
use crate::multiplexer::{self, Multiplexer};
use crate::program;
use crate::readyz::{self, Validity};
use crate::task::{self, Task};

/// Why a run did not start.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// A multiplexer did not: the service's name and why.
    Multiplexer(String, multiplexer::Error),
    /// The directory of an output cannot be used: the service's name and why.
    Output(String, multiplexer::Error),
    /// The address for diagnostics cannot be used.
    Diagnostics(io::Error),
    /// The system refused something: what was attempted.
    System(String, Box<dyn std::error::Error + Send + Sync>),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Multiplexer(name, error) => write!(f, "ssh-multiplexer {name:?}: {error}"),
            Self::Output(name, error) => write!(f, "identity {name:?}: {error}"),
            Self::Diagnostics(error) => error.fmt(f),
            Self::System(what, error) => write!(f, "cannot {what}: {}", plain(error)),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Multiplexer(_, error) | Self::Output(_, error) => Some(error),
            Self::Diagnostics(error) => error.source(),
            Self::System(_, error) => Some(&**error),
        }
    }
}

fn system<E: Into<Box<dyn std::error::Error + Send + Sync>>>(
    what: &str,
) -> impl FnOnce(E) -> Error {
    let what = what.to_owned();
    move |error| Error::System(what, error.into())
}

/// What is counted, but for the log: that counts from before the first warning.
struct Metrics {
    multiplexer: MultiplexerMetrics,
    tasks: TaskMetricsFamily,
    diagnostics: DiagnosticsMetrics,
    allocator: Option<AllocatorMetrics>,
    network: Option<NetworkMetrics>,
}

impl Metrics {
    fn register(registry: &Registry) -> prometheus::Result<Self> {
        metrics::register_build_info(registry)?;
        registry.register(Box::new(ProcessCollector::new()))?;
        Ok(Self {
            multiplexer: MultiplexerMetrics::register(registry)?,
            tasks: TaskMetricsFamily::register(registry)?,
            diagnostics: DiagnosticsMetrics::register(registry)?,
            allocator: AllocatorMetrics::register(registry)?,
            network: NetworkMetrics::register(registry)?,
        })
    }

    /// Looks at what takes too long for a scrape.
    fn renew(&self) {
        self.allocator.iter().for_each(AllocatorMetrics::renew);
        self.network.iter().for_each(NetworkMetrics::renew);
    }
}

/// How often that is: a little oftener than Prometheus usually scrapes.
const LOOK: Duration = Duration::from_secs(10);

/// What the main thread waits for.
enum Event {
    Signal(i32),
    Idle,
}

/// A multiplexer that serves, and the task that keeps its files.
struct Service {
    name: String,
    multiplexer: Arc<Multiplexer>,
    artifacts: Option<Task>,
    renewal_interval: Duration,
    /// This program's path, where ssh_config names it.
    own_program: Option<PathBuf>,
    reporter: readyz::Reporter,
}

/// Runs the services of `settings` until SIGTERM or SIGINT; `warnings` go to the log first.
///
/// Everything that can be refused (an address, a directory) is taken before the first file is written;
/// an error means that nothing runs.
pub fn run(settings: &Settings, warnings: &[String]) -> Result<(), Error> {
    let registry = Registry::new();
    let log = LogMetrics::register(&registry).map_err(system("register metrics"))?;
    let _log = logging::start(settings.log_format, settings.debug, log)
        .map_err(system("start the log"))?;
    warnings
        .iter()
        .for_each(|warning| tracing::warn!("{warning}"));
    if settings.oneshot {
        return write_once(settings);
    }
    let profiling = cfg!(feature = "pprof") && settings.debug && settings.diag_addr.is_some();
    if !profiling {
        // By default it kills, which nobody means who sends it. Profiles bring a handler of their own.
        signal_hook::flag::register(SIGPROF, Arc::default()).map_err(system("catch SIGPROF"))?;
    }
    let (events_sender, events) = channel();
    let signals = watch_signals(events_sender.clone()).map_err(system("watch for signals"))?;

    let metrics = Metrics::register(&registry).map_err(system("register metrics"))?;

    let statuses = readyz::Registry::new();
    metrics::register_service_status(&registry, statuses.clone())
        .map_err(system("register metrics"))?;
    let mut renewals = renewals(settings, &statuses, &registry)?;
    if !renewals.is_empty() && !settings.debug {
        // No core dump and no debugger gets at the keys. It fails on no Linux.
        let _ = rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable);
    }
    let reporters: Vec<_> = settings
        .services
        .iter()
        .map(|service| {
            let reporter = statuses.register(service.name.as_str());
            match renewal_of(&renewals, service) {
                Some(renewal) => reporter.needing(renewal.validity.clone()),
                None => reporter,
            }
        })
        .collect();
    let diagnostics = settings
        .diag_addr
        .as_ref()
        .map(|address| {
            let builder = Diagnostics::builder()
                .readyz(statuses)
                .metrics(registry)
                .service_metrics(metrics.diagnostics.clone());
            #[cfg(feature = "pprof")]
            let builder = match profiling {
                true => builder.profiling(),
                false => builder,
            };
            builder.bind(address)
        })
        .transpose()
        .map_err(Error::Diagnostics)?;

    let affordable = multiplexer::affordable_connections(settings.services.len());
    let mut services = Vec::new();
    for (service, reporter) in settings.services.iter().zip(reporters) {
        let identity = identity_of(&renewals, service);
        let metrics = &metrics.multiplexer;
        services.push(start(service, identity, reporter, metrics, affordable)?);
    }
    let pid_file = settings
        .pid_file
        .as_deref()
        .map(PidFile::write)
        .transpose()?;
    // Nothing can be refused any more: now programs are run and files are written.
    for renewal in &mut renewals {
        renewal.start(&metrics.tasks)?;
    }
    for service in &mut services {
        service.keep_artifacts(&metrics.tasks)?;
    }
    if let Some(diagnostics) = &diagnostics {
        tracing::info!(
            "diagnostics are served at http://{}/",
            diagnostics.local_addr()
        );
        if profiling {
            tracing::info!(
                "profiles are served at http://{}/debug/pprof/",
                diagnostics.local_addr()
            );
        }
    }

    serve(&events, &services, &mut renewals, &metrics);
    stop(
        &events,
        events_sender,
        &mut services,
        settings.shutdown_grace,
    );
    drop((renewals, services, diagnostics, pid_file));
    drop(signals);
    tracing::info!("stopped");
    Ok(())
}

/// One-shot mode: writes every output, and ends.
fn write_once(settings: &Settings) -> Result<(), Error> {
    if !settings.services.is_empty() {
        tracing::info!("the ssh-multiplexer does not run in one-shot mode");
    }
    let Some(source) = &settings.onboarding else {
        tracing::info!("there is nothing else to do");
        return Ok(());
    };
    for output in &settings.outputs {
        let name = &output.name;
        let failed = |error| Error::Output(name.clone(), error);
        let files = Output::open(output, source.clone()).map_err(failed)?;
        let credential = task::attempt(name, || files.renew(&Stop::default()));
        let credential = credential.map_err(system(&format!("renew {name}")))?;
        tracing::info!("{name}: {}", Obtained::of(&credential).about);
    }
    Ok(())
}

fn start(
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
    options.cluster_name.clone_from(&settings.cluster_name);
    options.connect_timeout = settings.connect_timeout;
    options.max_connections = wanted.min(affordable);
    options.allowed_uids.clone_from(&settings.allowed_uids);
    options.bastion = settings
        .bastion
        .as_ref()
        .map(|bastion| multiplexer::Bastion {
            host: bastion.server.host.clone(),
            port: bastion.server.port,
            user: bastion.user.clone(),
            identity_file: bastion.identity_file.clone(),
            ssh_config_path: bastion.ssh_config_path.clone(),
            max_streams: bastion.max_streams_per_connection,
        });
    options.host_ca.clone_from(&settings.host_ca);
    options.known_hosts.clone_from(&settings.known_hosts);
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
    })
}

impl Service {
    /// Writes the files for clients, now and again; with them the service is ready.
    fn keep_artifacts(&mut self, tasks: &TaskMetricsFamily) -> Result<(), Error> {
        let (multiplexer, reporter) = (self.multiplexer.clone(), self.reporter.clone());
        let socket = multiplexer.socket_path();
        let own = self.own_program.clone();
        let mut ready = format!(
            "ssh-multiplexer {:?} is ready at {}",
            self.name,
            socket.display()
        );
        let work = move || {
            multiplexer.write_artifacts()?;
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

/// An identity, and what renews it.
struct Renewal {
    /// `identity`, or the service that has one of its own.
    name: String,
    sink: Sink,
    source: Source,
    ttl: Duration,
    interval: Duration,
    validity: Validity,
    reporter: readyz::Reporter,
    task: Option<Task>,
    stop: Stop,
    /// Its files at their last change, as far as was seen.
    files: Vec<Option<Changed>>,
}

/// Where a credential goes.
enum Sink {
    /// To agents.
    Agents(Identity),
    /// Into files.
    Files(Arc<Output>),
}

/// The shortest time between two renewals that nobody asked for.
const SHORTEST: Duration = Duration::from_secs(1);

/// The longest after five attempts that failed, and where nothing is left to lose.
const FAILED: Duration = Duration::from_secs(60);
const EXPIRED: Duration = Duration::from_secs(10);

/// Until the next renewal, for a credential that is valid for `left`: well before it ends, whatever the
/// interval is.
fn pause(interval: Duration, left: Duration, failed: bool) -> Duration {
    let most = if failed { FAILED } else { Duration::MAX };
    interval.min(most).min(match left {
        Duration::ZERO => EXPIRED,
        left => (left / 3 * 2).max(SHORTEST),
    })
}

/// The identity of all services, and one more for each that wants another life for its credential.
fn renewals(
    settings: &config::Settings,
    statuses: &readyz::Registry,
    registry: &Registry,
) -> Result<Vec<Renewal>, Error> {
    let Some(source) = &settings.onboarding else {
        return Ok(Vec::new());
    };
    let usual = (settings.credential_ttl, settings.renewal_interval);
    let own = settings.services.iter().filter_map(|service| {
        let life = life(service);
        (life != usual).then(|| (format!("identity.{}", service.name), life))
    });
    let agents = [("identity".to_owned(), usual)].into_iter().chain(own);
    let agents = agents.map(|(name, life)| (name, life, Sink::Agents(Identity::new())));
    let mut all: Vec<_> = agents.collect();
    for output in &settings.outputs {
        let sink = Output::open(output, source.clone());
        let sink = sink.map_err(|error| Error::Output(output.name.clone(), error))?;
        let life = (output.credential_ttl, output.renewal_interval);
        all.push((output.name.clone(), life, Sink::Files(Arc::new(sink))));
    }
    if settings.services.is_empty() {
        // Nobody would use an agent.
        all.retain(|(_, _, sink)| matches!(sink, Sink::Files(_)));
    }
    let family = IdentityMetrics::register(registry).map_err(system("register metrics"))?;
    let renewals = all.into_iter().map(|(name, (ttl, interval), sink)| {
        let validity = Validity::new("certificate");
        family.add(&name, validity.clone());
        Renewal {
            sink,
            source: source.clone(),
            ttl,
            interval,
            reporter: statuses.register(&*name).needing(validity.clone()),
            validity,
            task: None,
            stop: Stop::default(),
            files: source.changed(),
            name,
        }
    });
    Ok(renewals.collect())
}

/// How long a service's credential lives, and how often it is renewed.
fn life(service: &config::Service) -> (Duration, Duration) {
    let ServiceKind::SshMultiplexer(settings) = &service.kind;
    (settings.credential_ttl, settings.renewal_interval)
}

fn renewal_of<'a>(renewals: &'a [Renewal], service: &config::Service) -> Option<&'a Renewal> {
    let own = format!("identity.{}", service.name);
    let own = renewals.iter().find(|renewal| renewal.name == own);
    own.or(renewals.first())
}

/// The identity that a service's agent serves.
fn identity_of(renewals: &[Renewal], service: &config::Service) -> Option<Identity> {
    match &renewal_of(renewals, service)?.sink {
        Sink::Agents(identity) => Some(identity.clone()),
        Sink::Files(_) => None,
    }
}

/// What is known of a new credential.
struct Obtained {
    begins: SystemTime,
    expires: Option<SystemTime>,
    about: String,
}

impl Obtained {
    fn of(credential: &Credential) -> Self {
        let expires = credential.expires();
        let until = expires.map_or("for ever".into(), |expires| {
            format!("until {}", humantime::format_rfc3339_seconds(expires))
        });
        let print = credential.key().public().fingerprint(Default::default());
        Self {
            begins: credential.begins(),
            expires,
            about: format!("{print} is valid {until}"),
        }
    }
}

impl Renewal {
    /// Gets a first credential, and then one after the other. Until then the agent is empty.
    fn start(&mut self, tasks: &TaskMetricsFamily) -> Result<(), Error> {
        let (interval, ttl) = (self.interval, self.ttl);
        let source = self.source.clone();
        let mut obtain: Box<dyn FnMut(&Stop) -> Result<Obtained, String> + Send> = match &self.sink
        {
            Sink::Agents(identity) => {
                let identity = identity.clone();
                Box::new(move |stop| {
                    let credential = source.obtain(ttl, stop)?;
                    let obtained = Obtained::of(&credential);
                    identity.replace(credential);
                    Ok(obtained)
                })
            }
            Sink::Files(output) => {
                let output = output.clone();
                Box::new(move |stop| Ok(Obtained::of(&output.renew(stop)?)))
            }
        };
        let (name, stop) = (self.name.clone(), self.stop.clone());
        let (validity, end) = (self.validity.clone(), self.validity.clone());
        let failed = Arc::new(AtomicBool::new(false));
        let has_failed = failed.clone();
        let work = move || {
            failed.store(true, Ordering::Relaxed);
            let obtained = obtain(&stop)?;
            failed.store(false, Ordering::Relaxed);
            tracing::info!("{name}: {}", obtained.about);
            validity.set(obtained.begins, obtained.expires);
            Ok(())
        };
        let pause = move || {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
            let left = Duration::from_secs(end.end()).saturating_sub(now.unwrap_or_default());
            pause(interval, left, has_failed.load(Ordering::Relaxed))
        };
        let metrics = tasks.task(&self.name, "renewal");
        let task = Task::start("identity", pause, metrics, self.reporter.clone(), work);
        self.task = Some(task.map_err(system("start a thread"))?);
        Ok(())
    }

    /// Renews what comes from files that have changed, and what a clock that was set has ended.
    fn look(&mut self) {
        let Some(task) = &self.task else {
            return;
        };
        let files = self.source.changed();
        if std::mem::replace(&mut self.files, files.clone()) != files {
            tracing::info!("{}: renewing, as its files have changed", self.name);
            task.run_now();
        } else if self.validity.problem(SystemTime::now()).is_some() {
            task.run_now();
        }
    }
}

impl Drop for Renewal {
    fn drop(&mut self) {
        self.stop.ask();
    }
}

/// Answers signals until one says to stop.
fn serve(
    events: &Receiver<Event>,
    services: &[Service],
    renewals: &mut [Renewal],
    metrics: &Metrics,
) {
    loop {
        match events.recv_timeout(LOOK) {
            Ok(Event::Signal(SIGHUP | SIGUSR1)) => {
                tracing::info!("renewing everything, as a signal asked for");
                let artifacts = services
                    .iter()
                    .filter_map(|service| service.artifacts.as_ref());
                let identities = renewals.iter().filter_map(|renewal| renewal.task.as_ref());
                identities.chain(artifacts).for_each(Task::run_now);
            }
            Ok(Event::Signal(_)) | Err(RecvTimeoutError::Disconnected) => return,
            Ok(Event::Idle) => {}
            Err(RecvTimeoutError::Timeout) => {
                metrics.renew();
                renewals.iter_mut().for_each(Renewal::look);
            }
        }
    }
}

/// Lets connections end for `grace`, or until the next signal to stop; then closes them.
fn stop(
    events: &Receiver<Event>,
    events_sender: Sender<Event>,
    services: &mut [Service],
    grace: Duration,
) {
    let mut open = 0;
    for service in &mut *services {
        // It would report on its own.
        service.artifacts = None;
        service.reporter.unhealthy("tbot is stopping");
        service.multiplexer.stop_accepting();
        open += service.multiplexer.in_flight();
    }
    let services = &*services;
    let end = match open {
        0 => String::new(),
        _ => format!(
            " ({} to end; a second signal ends them at once)",
            config::show_duration(grace)
        ),
    };
    tracing::info!("stopping with {} open{end}", connections(open));
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let deadline = Instant::now() + grace;
            for service in services {
                service
                    .multiplexer
                    .wait_until_idle(deadline.saturating_duration_since(Instant::now()));
            }
            let _ = events_sender.send(Event::Idle);
        });
        while let Ok(Event::Signal(SIGHUP | SIGUSR1)) = events.recv() {}
        let left: usize = services
            .iter()
            .map(|service| service.multiplexer.in_flight())
            .sum();
        if left > 0 {
            tracing::warn!("closing {} still open", connections(left));
        }
        services
            .iter()
            .for_each(|service| service.multiplexer.close_all());
    });
}

fn connections(n: usize) -> String {
    format!("{n} connection{}", if n == 1 { "" } else { "s" })
}

/// Turns signals into events, on a thread that ends when this is dropped.
struct WatchedSignals {
    handle: signal_hook::iterator::Handle,
    thread: Option<std::thread::JoinHandle<()>>,
}

fn watch_signals(events: Sender<Event>) -> io::Result<WatchedSignals> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP, SIGUSR1])?;
    let handle = signals.handle();
    let thread = std::thread::Builder::new()
        .name("signals".into())
        .stack_size(128 * 1024)
        .spawn(move || {
            for signal in &mut signals {
                if events.send(Event::Signal(signal)).is_err() {
                    break;
                }
            }
        })?;
    Ok(WatchedSignals {
        handle,
        thread: Some(thread),
    })
}

impl Drop for WatchedSignals {
    fn drop(&mut self) {
        self.handle.close();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The process id in a file, for as long as this lives.
struct PidFile(PathBuf);

impl PidFile {
    /// Written whole: a reader never finds half a number. The temporary file is a new one: where others
    /// may write too, the one they left could be a link.
    fn write(path: &Path) -> Result<Self, Error> {
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(".tmp");
        let _ = std::fs::remove_file(&temporary);
        std::fs::File::create_new(&temporary)
            .and_then(|mut file| {
                writeln!(file, "{}", std::process::id())
                    .and_then(|()| std::fs::rename(&temporary, path))
                    .inspect_err(|_| drop(std::fs::remove_file(&temporary)))
            })
            .map_err(system(&format!("write the pid file {}", path.display())))?;
        Ok(Self(path.to_owned()))
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        // Another's by now, if it does not hold our number.
        let ours = std::fs::read_to_string(&self.0)
            .is_ok_and(|text| text.trim() == std::process::id().to_string());
        if ours {
            let _ = std::fs::remove_file(&self.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_is_renewed_before_it_ends_and_sooner_after_a_failure() {
        let seconds = Duration::from_secs;
        for (interval, left, failed, expected) in [
            (1200, 3600, false, 1200),
            (1200, 900, false, 600),
            (1200, 1, false, 1),
            (1200, 3600, true, 60),
            (20, 3600, true, 20),
            (1200, 6, true, 4),
            (1200, 0, true, 10),
            (3, 0, true, 3),
        ] {
            assert_eq!(
                pause(seconds(interval), seconds(left), failed),
                seconds(expected)
            );
        }
        assert_eq!(
            pause(seconds(9), seconds(u64::MAX), false),
            seconds(9),
            "for ever"
        );
    }
}
