//! One run of `tbot start`: from settings to services, and to an orderly stop.

mod pid_file;
mod renewal;
mod service;
mod signals;

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use prometheus::Registry;
use rustix::process::DumpableBehavior;
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGPROF, SIGUSR1, SIGXFSZ};
use tracing::level_filters::LevelFilter;

use self::pid_file::PidFile;
use self::renewal::{Obtained, Renewal, identity_of, renewal_of, renewals};
use self::service::Service;
use crate::config::{self, ServiceKind, Settings};
use crate::diagnostics::{Diagnostics, ProcessCollector};
use crate::errors::plain;
use crate::identity::{Output, Stop};
use crate::logging;
use crate::metrics::{
    self, AllocatorMetrics, DiagnosticsMetrics, LogMetrics, MultiplexerMetrics, NetworkMetrics,
    TaskMetricsFamily,
};
use crate::multiplexer;
use crate::readyz;
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

/// Runs the services of `settings` until SIGTERM or SIGINT; `warnings` go to the log first.
///
/// Everything that can be refused (an address, a directory) is taken before the first file is written;
/// an error means that nothing runs.
pub fn run(settings: &Settings, warnings: &[String]) -> Result<(), Error> {
    let registry = Registry::new();
    let log = LogMetrics::register(&registry).map_err(system("register metrics"))?;
    let level = match settings.debug {
        true => LevelFilter::DEBUG,
        false => LevelFilter::INFO,
    };
    let levels = settings.log_levels.clone();
    let _log =
        logging::start(settings.log_format, levels, level, log).map_err(system("start the log"))?;
    warnings
        .iter()
        .for_each(|warning| tracing::warn!("{warning}"));
    if settings.onboarding.is_some() && !settings.debug {
        // No core dump and no debugger gets at the keys. It fails on no Linux.
        let _ = rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable);
    }
    // Ignored, as whoever started tbot may have it, it hides how programs end (waitpid(2)).
    signal_hook::flag::register(SIGCHLD, Arc::default()).map_err(system("catch SIGCHLD"))?;
    // By default it kills, instead of an error to tell of, where a file grows beyond RLIMIT_FSIZE.
    signal_hook::flag::register(SIGXFSZ, Arc::default()).map_err(system("catch SIGXFSZ"))?;
    if settings.oneshot {
        return write_once(settings);
    }
    let profiling = cfg!(feature = "pprof") && settings.debug && settings.diag_addr.is_some();
    if !profiling {
        // By default it kills, which nobody means who sends it. Profiles bring a handler of their own.
        signal_hook::flag::register(SIGPROF, Arc::default()).map_err(system("catch SIGPROF"))?;
    }
    let (events_sender, events) = channel();
    let signalled = events_sender.clone();
    let mut grace = settings.shutdown_grace;
    let signals = signals::watch(move |signal| {
        if !matches!(signal, SIGHUP | SIGUSR1) {
            signals::end_after(std::mem::take(&mut grace));
        }
        signalled.send(Event::Signal(signal)).is_ok()
    })?;

    let metrics = Metrics::register(&registry).map_err(system("register metrics"))?;

    let statuses = readyz::Registry::new();
    metrics::register_service_status(&registry, statuses.clone())
        .map_err(system("register metrics"))?;
    let mut renewals = renewals(settings, &statuses, &registry)?;
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

    let clusters = settings.services.iter().flat_map(|service| {
        let ServiceKind::SshMultiplexer(settings) = &service.kind;
        &settings.clusters
    });
    let bastions = clusters.filter(|cluster| cluster.bastion.is_some()).count();
    let affordable = multiplexer::affordable_connections(settings.services.len(), bastions);
    let mut services = Vec::new();
    for (service, reporter) in settings.services.iter().zip(reporters) {
        let identity = identity_of(&renewals, service);
        let metrics = &metrics.multiplexer;
        services.push(service::start(
            service, identity, reporter, metrics, affordable,
        )?);
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

    serve(&events, &mut services, &mut renewals, &metrics);
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
    // A signal ends it, and with it the program that it waits for.
    let (stop, (sender, stopped)) = (Stop::default(), channel());
    let asked = stop.clone();
    let _signals = signals::watch(move |_| {
        asked.ask();
        signals::end_after(Duration::ZERO);
        sender.send(()).is_ok()
    })?;
    let wait = |pause| matches!(stopped.recv_timeout(pause), Err(RecvTimeoutError::Timeout));
    let write = |output: &config::IdentityOutput| {
        let name = &output.name;
        let failed = |error| Error::Output(name.clone(), error);
        let files = Output::open(output, source.clone()).map_err(failed)?;
        let credential = task::attempt(name, wait, || files.renew(&stop));
        let credential = credential.map_err(system(&format!("renew {name}")))?;
        tracing::info!("{name}: {}", Obtained::of(&credential).about);
        Ok(())
    };
    // One that fails keeps nothing from the others; the first is what is said at the end.
    let mut written = Ok(());
    for output in &settings.outputs {
        match write(output) {
            Err(error) if written.is_ok() => written = Err(error),
            Err(error) => tracing::error!("{error}"),
            Ok(()) => {}
        }
        if stop.is_asked() {
            break;
        }
    }
    written
}

/// Answers signals until one says to stop.
fn serve(
    events: &Receiver<Event>,
    services: &mut [Service],
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
                services.iter_mut().for_each(Service::look);
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
