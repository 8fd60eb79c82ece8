//! What renews credentials, and when.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use prometheus::Registry;

use super::{Error, system};
use crate::config::{self, ServiceKind};
use crate::identity::{Changed, Credential, Identity, Output, Source, Stop};
use crate::metrics::{IdentityMetrics, TaskMetricsFamily};
use crate::readyz::{self, Validity};
use crate::task::Task;

/// An identity, and what renews it.
pub(super) struct Renewal {
    /// `identity`, or the service that has one of its own.
    name: String,
    sink: Sink,
    source: Source,
    ttl: Duration,
    interval: Duration,
    pub(super) validity: Validity,
    reporter: readyz::Reporter,
    pub(super) task: Option<Task>,
    stop: Stop,
    /// Whether the last attempt failed; one that runs counts as such.
    failed: Arc<AtomicBool>,
    /// Its files at their last change, as far as was seen.
    files: Vec<Option<Changed>>,
    /// When the next renewal is due by the clock of the wall, in seconds since 1970. The task waits by another,
    /// which nobody sets, and which stands still while the machine sleeps.
    due: Arc<AtomicU64>,
    /// What was last said to be wrong.
    problem: Option<String>,
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

/// No renewal is to come: one runs.
const NOT_DUE: u64 = u64::MAX;

/// By how many seconds a renewal may be late before it is asked for: not because of a clock that is slewed.
const LATE: u64 = 5;

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
pub(super) fn renewals(
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
        let mut reporter = statuses.register(&*name).needing(validity.clone());
        if let Sink::Files(output) = &sink {
            let output = output.clone();
            reporter = reporter.checked_by(move || output.problem());
        }
        Renewal {
            sink,
            source: source.clone(),
            ttl,
            interval,
            reporter,
            validity,
            task: None,
            stop: Stop::default(),
            failed: Arc::default(),
            files: source.changed(),
            due: Arc::new(NOT_DUE.into()),
            problem: None,
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

pub(super) fn renewal_of<'a>(
    renewals: &'a [Renewal],
    service: &config::Service,
) -> Option<&'a Renewal> {
    let own = format!("identity.{}", service.name);
    let own = renewals.iter().find(|renewal| renewal.name == own);
    own.or(renewals.first())
}

/// The identity that a service's agent serves.
pub(super) fn identity_of(renewals: &[Renewal], service: &config::Service) -> Option<Identity> {
    match &renewal_of(renewals, service)?.sink {
        Sink::Agents(identity) => Some(identity.clone()),
        Sink::Files(_) => None,
    }
}

/// What is known of a new credential.
pub(super) struct Obtained {
    begins: SystemTime,
    expires: Option<SystemTime>,
    pub(super) about: String,
}

impl Obtained {
    pub(super) fn of(credential: &Credential) -> Self {
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

type Obtain = dyn FnMut(&Stop) -> Result<Obtained, String> + Send;

impl Renewal {
    /// Gets a first credential, and then one after the other. Until then the agent is empty.
    pub(super) fn start(&mut self, tasks: &TaskMetricsFamily) -> Result<(), Error> {
        let (interval, ttl) = (self.interval, self.ttl);
        let source = self.source.clone();
        let mut obtain: Box<Obtain> = match &self.sink {
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
        let (failed, has_failed) = (self.failed.clone(), self.failed.clone());
        let (due, runs) = (self.due.clone(), self.due.clone());
        let work = move || {
            runs.store(NOT_DUE, Ordering::Relaxed);
            failed.store(true, Ordering::Relaxed);
            let obtained = obtain(&stop)?;
            failed.store(false, Ordering::Relaxed);
            tracing::info!("{name}: {}", obtained.about);
            validity.set(obtained.begins, obtained.expires);
            Ok(())
        };
        let pause = move || {
            let now = since_1970();
            let left = Duration::from_secs(end.end()).saturating_sub(now);
            let pause = pause(interval, left, has_failed.load(Ordering::Relaxed));
            due.store(now.saturating_add(pause).as_secs(), Ordering::Relaxed);
            pause
        };
        let metrics = tasks.task(&self.name, "renewal");
        let task = Task::start("identity", pause, metrics, self.reporter.clone(), work);
        self.task = Some(task.map_err(system("start a thread"))?);
        Ok(())
    }

    /// Renews what comes from files that have changed, what a clock that was set has ended, and what clients
    /// do not find any more.
    pub(super) fn look(&mut self) {
        let Some(task) = &self.task else {
            return;
        };
        let name = &self.name;
        let files = self.source.changed();
        let changed = std::mem::replace(&mut self.files, files.clone()) != files;
        let problem = match &self.sink {
            _ if self.validity.end() == 0 => Some(String::new()),
            Sink::Files(output) => output.problem(),
            Sink::Agents(_) => None,
        };
        let problem = problem.or_else(|| self.validity.problem(SystemTime::now()));
        let is_late =
            since_1970().as_secs() > self.due.load(Ordering::Relaxed).saturating_add(LATE);
        if changed {
            tracing::info!("{name}: renewing, as its files have changed");
        } else if let Some(problem) = &problem {
            if !problem.is_empty() && self.problem.as_ref() != Some(problem) {
                tracing::warn!("{name}: renewing: {problem}");
            }
        } else if is_late {
            tracing::info!("{name}: renewing, as the clock was set, or this machine has slept");
        } else {
            self.problem = None;
            return;
        }
        self.problem = problem;
        // Where it failed it is tried again anyhow, after its pauses.
        if changed || is_late || !self.failed.load(Ordering::Relaxed) {
            task.run_now();
        }
    }
}

fn since_1970() -> Duration {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap_or_default()
}

impl Drop for Renewal {
    fn drop(&mut self) {
        self.stop.ask();
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
