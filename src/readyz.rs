//! Who is healthy, and since when: the statuses behind `/readyz` and `/wait`.
//!
//! A program registers each of its services once and keeps the [`Reporter`]; the diagnostics
//! service reads the [`Registry`]. Readers copy what they need under a short lock and format it
//! outside, so a slow HTTP client never holds up a service that reports.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use serde::{Serialize, Serializer};

/// What a service says of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Status {
    /// Registered, no report yet.
    #[default]
    Initializing,
    /// Ready to serve.
    Healthy,
    /// Not ready to serve.
    Unhealthy,
}

/// One service as `/readyz/{service}` shows it.
#[derive(Clone, Default, Serialize)]
#[non_exhaustive]
pub struct Service {
    /// The last reported status.
    pub status: Status,
    /// Why it is unhealthy; left out of the JSON when empty.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// When it last reported (RFC 3339, UTC, whole seconds), `null` before the first report.
    #[serde(serialize_with = "show")]
    pub updated_at: Option<SystemTime>,
    /// Since when it has this status. What else has to hold is looked at only when the status is read,
    /// so a change of that counts from the first reader who saw it.
    #[serde(skip)]
    pub since: Option<SystemTime>,
    /// The status that `since` is about: the one reported, or the one a reader saw instead.
    #[serde(skip)]
    shown: Status,
    #[serde(skip)]
    checks: Checks,
}

/// What else has to hold for a service to be ready; each says why it does not.
type Checks = Vec<Arc<dyn Fn() -> Option<String> + Send + Sync>>;

/// Until when something holds that services need, such as a credential. Clones share it.
///
/// It is looked at when a status is read: a service that needs it turns unhealthy in the second in
/// which it ends, whoever is stuck meanwhile, and healthy again with a new end.
#[derive(Clone, Debug)]
pub struct Validity {
    /// Seconds since 1970.
    begin: Arc<AtomicU64>,
    end: Arc<AtomicU64>,
    what: Arc<str>,
}

impl Validity {
    /// Of `what`, as in "the certificate"; it has ended until [`set`](Self::set) says else.
    pub fn new(what: &str) -> Self {
        Self {
            begin: Arc::default(),
            end: Arc::default(),
            what: what.into(),
        }
    }

    /// It holds from `begin` until `end`; `None`: for ever.
    pub fn set(&self, begin: SystemTime, end: Option<SystemTime>) {
        let end = end.map_or(u64::MAX, seconds);
        self.begin.store(seconds(begin), Ordering::Relaxed);
        self.end.store(end, Ordering::Relaxed);
    }

    /// When it ends, in seconds since 1970: 0 before there was any, `u64::MAX` for never.
    pub fn end(&self) -> u64 {
        self.end.load(Ordering::Relaxed)
    }

    /// Why it does not hold at `now`.
    pub(crate) fn problem(&self, now: SystemTime) -> Option<String> {
        let (begin, end) = (self.begin.load(Ordering::Relaxed), self.end());
        let now = seconds(now);
        match (begin..end).contains(&now) {
            true => None,
            false if end == 0 => Some(format!("there is no {} yet", self.what)),
            false if now < begin => Some(format!(
                "the {} is valid from {} on only: this machine's clock was set back",
                self.what,
                rfc3339(begin)
            )),
            false => Some(format!(
                "the {} has expired at {}, and there is no new one",
                self.what,
                rfc3339(end)
            )),
        }
    }
}

/// Since 1970.
fn seconds(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap_or_default().as_secs()
}

impl Service {
    /// As it is now: one that has reported well may be kept from being ready meanwhile.
    fn checked(mut self) -> Self {
        if self.status == Status::Healthy
            && let Some(problem) = self.checks.iter().find_map(|check| check())
        {
            self.status = Status::Unhealthy;
            self.reason = problem;
        }
        self
    }
}

impl std::fmt::Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Service")
            .field("status", &self.status)
            .field("reason", &self.reason)
            .field("updated_at", &self.updated_at)
            .field("since", &self.since)
            .finish_non_exhaustive()
    }
}

/// Every service, as `/readyz` shows it.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Overall {
    /// [`Status::Healthy`] if every service is, else [`Status::Unhealthy`].
    pub status: Status,
    /// By name, sorted.
    pub services: BTreeMap<String, Service>,
}

/// The services of one program. Clones share the same list.
#[derive(Clone, Debug, Default)]
pub struct Registry {
    shared: Arc<Shared>,
}

/// The reporting end of one service. Clones report for the same service.
#[derive(Clone)]
pub struct Reporter {
    shared: Arc<Shared>,
    name: Arc<str>,
    checks: Checks,
}

#[derive(Debug, Default)]
struct Shared {
    services: Mutex<BTreeMap<Arc<str>, Service>>,
    reported: Condvar,
}

impl Registry {
    /// A registry without services: healthy, as nothing in it is not.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a service, `initializing` until it reports. A name registered before starts anew.
    pub fn register(&self, name: impl Into<Arc<str>>) -> Reporter {
        let name = name.into();
        let service = Service {
            since: Some(SystemTime::now()),
            ..Service::default()
        };
        self.shared.lock().insert(name.clone(), service);
        Reporter {
            shared: self.shared.clone(),
            name,
            checks: Vec::new(),
        }
    }

    /// All services now.
    pub fn overall(&self) -> Overall {
        let reported = self.shared.lock().clone();
        let services: BTreeMap<String, Service> = reported
            .into_iter()
            // Without the lock: who reports does not wait for a check.
            .map(|(name, service)| (name.to_string(), self.shared.checked(&name, service)))
            .collect();
        let healthy = services
            .values()
            .all(|service| service.status == Status::Healthy);
        Overall {
            status: if healthy {
                Status::Healthy
            } else {
                Status::Unhealthy
            },
            services,
        }
    }

    /// One service now, `None` if no service has that name.
    pub fn service(&self, name: &str) -> Option<Service> {
        let service = self.shared.lock().get(name).cloned();
        Some(self.shared.checked(name, service?))
    }

    /// Blocks until the first report of `service`, or of every service for `None`, at most `timeout`.
    /// True if it is in; an unknown service counts as reported, since waiting cannot help.
    pub fn wait(&self, service: Option<&str>, timeout: Duration) -> bool {
        let waiting = |services: &mut BTreeMap<Arc<str>, Service>| match service {
            Some(name) => services
                .get(name)
                .is_some_and(|service| service.updated_at.is_none()),
            None => services
                .values()
                .any(|service| service.updated_at.is_none()),
        };
        let services = self.shared.lock();
        let waited = self
            .shared
            .reported
            .wait_timeout_while(services, timeout, waiting);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }
}

impl std::fmt::Debug for Reporter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Reporter").field(&self.name).finish()
    }
}

impl Reporter {
    /// The service's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// From its next report on, the service is ready only where `check` gives no reason against it.
    ///
    /// It runs whenever the status is read, on the reader's thread: it must be quick and wait for
    /// nobody.
    #[must_use = "this reporter is the one that knows"]
    pub fn checked_by(
        mut self,
        check: impl Fn() -> Option<String> + Send + Sync + 'static,
    ) -> Self {
        self.checks.push(Arc::new(check));
        self
    }

    /// From its next report on, the service is not ready where this does not hold.
    #[must_use = "this reporter is the one that knows"]
    pub fn needing(self, validity: Validity) -> Self {
        self.checked_by(move || validity.problem(SystemTime::now()))
    }

    /// The service is ready.
    pub fn healthy(&self) {
        self.report(Status::Healthy, String::new());
    }

    /// The service is not ready, and why: one sentence for an operator.
    pub fn unhealthy(&self, reason: impl Into<String>) {
        self.report(Status::Unhealthy, reason.into());
    }

    fn report(&self, status: Status, reason: String) {
        let now = Some(SystemTime::now());
        let mut services = self.shared.lock();
        let (shown, since) = match services.get(&self.name) {
            // The same once more, or what readers have seen already.
            Some(old) if old.status == status || old.shown == status => (old.shown, old.since),
            _ => (status, now),
        };
        let report = Service {
            status,
            reason,
            updated_at: now,
            since,
            shown,
            checks: self.checks.clone(),
        };
        services.insert(self.name.clone(), report);
        drop(services);
        self.shared.reported.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, Service>> {
        // A panic elsewhere cannot leave the map half-changed: every change is one insert, or two fields.
        self.services.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A copy of a service as it is now, with the time of the change if this reader is the first to see one.
    fn checked(&self, name: &str, reported: Service) -> Service {
        let (shown, since) = (reported.shown, reported.since);
        let mut service = reported.checked();
        if service.status == shown {
            return service;
        }
        service.shown = service.status;
        service.since = Some(SystemTime::now());
        // Unless it has changed again meanwhile.
        if let Some(kept) = self.lock().get_mut(name)
            && (kept.shown, kept.since) == (shown, since)
            && kept.updated_at == service.updated_at
        {
            (kept.shown, kept.since) = (service.shown, service.since);
        }
        service
    }
}

fn show<S: Serializer>(at: &Option<SystemTime>, serializer: S) -> Result<S::Ok, S::Error> {
    match at {
        Some(at) => serializer.collect_str(&rfc3339(seconds(*at))),
        None => serializer.serialize_none(),
    }
}

/// A time in seconds since 1970, in UTC; at most [`at_most_9999`].
pub(crate) fn rfc3339(seconds: u64) -> impl std::fmt::Display {
    humantime::format_rfc3339_seconds(at_most_9999(Duration::from_secs(seconds)))
}

/// The time that long after 1970. One that has more than four digits for its year is the last of these: `humantime`
/// fails for it, as for one before 1970, and who formats it panics then.
pub(crate) fn at_most_9999(since: Duration) -> SystemTime {
    const LAST: Duration = Duration::from_secs(253_402_300_799);
    SystemTime::UNIX_EPOCH + since.min(LAST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overall_is_healthy_only_if_every_service_is() {
        let registry = Registry::new();
        assert_eq!(registry.overall().status, Status::Healthy);
        let a = registry.register("a");
        let b = registry.register("b");
        a.healthy();
        assert_eq!(
            registry.overall().status,
            Status::Unhealthy,
            "b has not reported"
        );
        b.unhealthy("no route");
        assert_eq!(registry.overall().status, Status::Unhealthy);
        b.healthy();
        assert_eq!(registry.overall().status, Status::Healthy);
    }

    #[test]
    fn json_leaves_out_an_empty_reason_and_shows_null_before_the_first_report() {
        let registry = Registry::new();
        let reporter = registry.register("mux");
        let json = |registry: &Registry| {
            serde_json::to_value(registry.service("mux")).expect("serialises")
        };
        assert_eq!(
            json(&registry),
            serde_json::json!({"status": "initializing", "updated_at": null})
        );
        reporter.unhealthy("no route");
        let shown = json(&registry);
        assert_eq!(shown["reason"], "no route");
        let at = shown["updated_at"].as_str().expect("a time");
        assert!(
            at.len() == 20 && at.ends_with('Z'),
            "{at} is RFC 3339 in whole seconds"
        );
    }

    #[test]
    fn since_is_when_the_status_became_another_one_not_when_it_was_last_told() {
        let registry = Registry::new();
        let problem = Arc::new(Mutex::new(None::<String>));
        let looked_at = problem.clone();
        let reporter = registry.register("mux");
        let reporter = reporter.checked_by(move || looked_at.lock().expect("no panic").clone());
        let since = || registry.service("mux").expect("registered").since;
        let set = |reason: Option<&str>| {
            *problem.lock().expect("no panic") = reason.map(str::to_owned);
        };
        // Each step, and whether the status is another one afterwards.
        let steps: [(&str, bool, &dyn Fn()); 8] = [
            ("the first report", true, &|| reporter.healthy()),
            ("the same again", false, &|| reporter.healthy()),
            ("a check that fails", true, &|| set(Some("no route"))),
            ("for another reason", false, &|| set(Some("no way"))),
            ("the task is well", false, &|| reporter.healthy()),
            ("the task fails, too", false, &|| reporter.unhealthy("full")),
            ("one of both is well", false, &|| set(None)),
            ("all is well", true, &|| reporter.healthy()),
        ];
        let mut last = since();
        assert!(last.is_some(), "from its registration");
        for (what, changes, step) in steps {
            // Times of this clock differ.
            while last.is_some_and(|last| SystemTime::now() <= last) {}
            let before = SystemTime::now();
            step();
            let now = since();
            assert_eq!(now, since(), "{what}: who looks changes nothing");
            match changes {
                true => assert!(now.is_some_and(|now| now >= before), "{what}"),
                false => assert_eq!(now, last, "{what}"),
            }
            last = now;
        }
        let overall = registry.overall().services;
        assert_eq!(overall["mux"].since, last);
    }

    #[test]
    fn a_check_that_hangs_holds_up_its_reader_and_no_reporter() {
        let registry = Registry::new();
        let (go_on, hangs) = std::sync::mpsc::channel::<()>();
        let (begun, begins) = std::sync::mpsc::channel();
        let hangs = Mutex::new((hangs, begun));
        let reporter = registry.register("mux").checked_by(move || {
            let hangs = hangs.lock().expect("one reader");
            hangs.1.send(()).expect("the test waits");
            hangs.0.recv().err().map(|_| "it hung".into())
        });
        reporter.healthy();
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| registry.overall());
            begins.recv().expect("the check runs");
            reporter.unhealthy("no route");
            let now = registry.service("mux").expect("registered");
            assert_eq!(now.reason, "no route");
            drop(go_on);
            let read = reader.join().expect("no panic");
            assert_eq!(read.services["mux"].reason, "it hung");
        });
    }

    #[test]
    fn times_that_no_date_has_are_told_all_the_same() {
        assert_eq!(rfc3339(0).to_string(), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(u64::MAX).to_string(), "9999-12-31T23:59:59Z");
        let validity = Validity::new("certificate");
        let registry = Registry::new();
        registry.register("mux").needing(validity.clone()).healthy();
        let late = SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 40);
        for (begin, end) in [
            (late, None),
            (late, Some(late)),
            (late, Some(SystemTime::now())),
        ] {
            validity.set(begin, end);
            let service = registry.service("mux").expect("registered");
            assert!(service.reason.contains("9999-12-31"), "{}", service.reason);
        }
        let early = Service {
            updated_at: Some(SystemTime::UNIX_EPOCH - Duration::from_secs(1)),
            ..Service::default()
        };
        let json = serde_json::to_value(early).expect("serialises");
        assert_eq!(json["updated_at"], "1970-01-01T00:00:00Z");
    }

    #[test]
    fn wait_ends_with_the_first_report_and_never_later_than_its_timeout() {
        let registry = Registry::new();
        let reporter = registry.register("mux");
        assert!(!registry.wait(None, Duration::ZERO));
        assert!(registry.wait(Some("unknown"), Duration::ZERO));
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| registry.wait(Some("mux"), Duration::from_secs(60)));
            reporter.unhealthy("not yet");
            assert!(waiting.join().expect("no panic"));
        });
        assert!(registry.wait(None, Duration::ZERO));
    }
}
