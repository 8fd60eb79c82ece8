//! One run of `tbot start`: from settings to services, and to an orderly stop.

mod notify;
mod pid_file;
mod renewal;
pub(crate) mod service;
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

use self::notify::Notify;
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

const MULTIPLEXER: &str = "SSH multiplexer";

/// The shortest time between two renewals that signals ask for: of a storm of them the first is answered at once, and
/// those that come until then together.
const BETWEEN: Duration = Duration::from_millis(100);

/// The headings of the page at `/`, with the metrics below each.
const PAGE: [(&str, &str); 7] = [
    // In the order in which things happen.
    (MULTIPLEXER, "tbot_ssh_multiplexer_requests_started"),
    (MULTIPLEXER, "tbot_ssh_multiplexer_requests_in_flight"),
    (MULTIPLEXER, "tbot_ssh_multiplexer_requests_"),
    (MULTIPLEXER, "tbot_ssh_multiplexer_setup_"),
    (MULTIPLEXER, "tbot_ssh_multiplexer_"),
    ("Certificates", "tbot_identity_"),
    ("Connections to bastions", "tbot_ssh_bastion_"),
];

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
    let counts = LogMetrics::register(&registry).map_err(system("register metrics"))?;
    let level = match settings.debug {
        true => LevelFilter::DEBUG,
        false => LevelFilter::INFO,
    };
    let levels = settings.log_levels.clone();
    let log = logging::start(settings.log_format, levels, level, counts)
        .map_err(system("start the log"))?;
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
    let mut notify = Notify::from_environment();
    if settings.oneshot {
        return write_once(settings).inspect(|()| notify.ready());
    }
    let profiling = cfg!(feature = "pprof") && settings.debug && settings.diag_addr.is_some();
    if !profiling {
        // By default it kills, which nobody means who sends it. Profiles bring a handler of their own.
        signal_hook::flag::register(SIGPROF, Arc::default()).map_err(system("catch SIGPROF"))?;
    }
    let (events_sender, events) = channel();
    let signalled = events_sender.clone();
    let mut grace = settings.shutdown_grace;
    let pid_file = PidFile::default();
    let remove = pid_file.remover();
    let signals = signals::watch(move |signal| {
        if !matches!(signal, SIGHUP | SIGUSR1) {
            signals::end_after(std::mem::take(&mut grace), remove.clone());
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
                .readyz(statuses.clone())
                .metrics(registry)
                .service_metrics(metrics.diagnostics.clone())
                .watched(notify.watches())
                .front_page("tbot", PAGE);
            #[cfg(feature = "pprof")]
            let builder = builder.profiling(profiling);
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
    if let Some(path) = &settings.pid_file {
        pid_file.write(path)?;
    }
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

    let mut running = Running {
        services,
        renewals,
        diagnostics,
        statuses,
        notify,
        pid_file,
    };
    running.serve(&events, &metrics);
    running.stop(&events, events_sender, settings.shutdown_grace);
    drop(running);
    drop(signals);
    log.tell_counted();
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
        signals::end_after(Duration::ZERO, || ());
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

/// What runs, in the order in which it ends.
struct Running {
    renewals: Vec<Renewal>,
    services: Vec<Service>,
    diagnostics: Option<Diagnostics>,
    statuses: readyz::Registry,
    notify: Notify,
    pid_file: PidFile,
}

impl Running {
    /// Answers signals until one says to stop.
    fn serve(&mut self, events: &Receiver<Event>, metrics: &Metrics) {
        let mut look = Instant::now() + LOOK;
        // Signals that are not answered yet, and when they may be.
        let (mut asked, mut next) = (0_u64, Instant::now());
        loop {
            let until = if asked > 0 { look.min(next) } else { look };
            let left = until.saturating_duration_since(Instant::now());
            match events.recv_timeout(left.min(self.notify.pause())) {
                Ok(Event::Signal(SIGHUP | SIGUSR1)) => {
                    asked += 1;
                    self.notify.reloading();
                }
                Ok(Event::Signal(_)) | Err(RecvTimeoutError::Disconnected) => return,
                Ok(Event::Idle) | Err(RecvTimeoutError::Timeout) => {}
            }
            if asked > 0 && Instant::now() >= next {
                match asked {
                    1 => tracing::info!("renewing everything, as a signal asked for"),
                    _ => tracing::info!("renewing everything, as {asked} signals asked for"),
                }
                self.tasks().for_each(Task::run_now);
                (asked, next) = (0, Instant::now() + BETWEEN);
            }
            if Instant::now() >= look {
                metrics.renew();
                self.renewals.iter_mut().for_each(Renewal::look);
                self.services.iter_mut().for_each(Service::look);
                self.pid_file.look();
                // Nobody else may be looking, and then nobody knows since when. For a manager it is done below.
                if !self.notify.has_manager() {
                    self.statuses.overall();
                }
                look = Instant::now() + LOOK;
            }
            if asked == 0 && self.is_ready() {
                self.notify.ready();
            }
            self.report();
        }
    }

    /// Whether the files for clients were written, or could not be, and what a signal asked for is done. Who
    /// waits for a service waits for that, not for whoever signs certificates.
    fn is_ready(&self) -> bool {
        let written = |service: &Service| self.statuses.wait(Some(&service.name), Duration::ZERO);
        self.services.iter().all(written) && self.tasks().all(Task::has_run)
    }

    fn tasks(&self) -> impl Iterator<Item = &Task> {
        let identities = self.renewals.iter().filter_map(|one| one.task.as_ref());
        let artifacts = self
            .services
            .iter()
            .filter_map(|one| one.artifacts.as_ref());
        identities.chain(artifacts)
    }

    /// To the service manager.
    fn report(&mut self) {
        let Self {
            services,
            diagnostics,
            ..
        } = self;
        let hang = || {
            let mut multiplexers = services.iter().map(|service| &service.multiplexer);
            let hang = multiplexers.find_map(|multiplexer| multiplexer.hang());
            hang.or_else(|| diagnostics.as_ref()?.hang())
        };
        self.notify.look(|| self.statuses.overall(), hang);
    }

    /// Lets connections end for `grace`, or until the next signal to stop; then closes them.
    fn stop(&mut self, events: &Receiver<Event>, idle: Sender<Event>, grace: Duration) {
        let mut open = 0;
        for service in &mut self.services {
            // It would report on its own.
            service.artifacts = None;
            service.reporter.unhealthy("tbot is stopping");
            service.multiplexer.stop_accepting();
            open += service.multiplexer.in_flight();
        }
        let end = match open {
            0 => String::new(),
            _ => format!(
                " ({} to end; a second signal ends them at once)",
                config::show_duration(grace)
            ),
        };
        let stopping = format!("stopping with {} open{end}", connections(open));
        tracing::info!("{stopping}");
        // Threads get a while to end behind the grace.
        self.notify
            .stopping(&stopping, grace + 2 * signals::PATIENCE);
        let multiplexers: Vec<_> = self
            .services
            .iter()
            .map(|one| one.multiplexer.clone())
            .collect();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let deadline = Instant::now() + grace;
                for multiplexer in &multiplexers {
                    multiplexer.wait_until_idle(deadline.saturating_duration_since(Instant::now()));
                }
                let _ = idle.send(Event::Idle);
            });
            loop {
                match events.recv_timeout(self.notify.pause()) {
                    Ok(Event::Signal(SIGHUP | SIGUSR1)) => {}
                    Err(RecvTimeoutError::Timeout) => self.report(),
                    _ => break,
                }
            }
            let left: usize = multiplexers.iter().map(|one| one.in_flight()).sum();
            if left > 0 {
                tracing::warn!("closing {} still open", connections(left));
            }
            multiplexers.iter().for_each(|one| one.close_all());
        });
    }
}

fn connections(n: usize) -> String {
    format!("{n} connection{}", if n == 1 { "" } else { "s" })
}
