//! What is served: the one table from path to response.

use std::fmt::{Display, Write as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Once};
use std::time::Duration;

use tiny_http::ResponseBox;

use super::connection::{Client, NO_ANSWER, message};
use super::front::Front;
use super::pprof::{self, Profiling};
use super::request::{Refused, Request};
use super::response::{complete, header, json, response, text};
use crate::metrics::{DiagnosticsMetrics, Exposition};
use crate::readyz::{self, Status};

/// The paths of the table below, for people: `/` and 404 list them.
const ENDPOINTS: [(&str, &str); 6] = [
    ("/livez", "200 while the program runs"),
    ("/readyz", "200 if every service is healthy, else 503"),
    ("/readyz/{service}", "the same for one service"),
    (
        "/wait",
        "as /readyz, answered once every service has reported",
    ),
    ("/wait/{service}", "the same for one service"),
    ("/metrics", "metrics for Prometheus"),
];

/// The same, where profiles are on.
const PROFILES: (&str, &str) = ("/debug/pprof/", "profiles and stacks of this process");

/// The paths of the table below, as metrics name them; one that ends in a place to fill in stands
/// for every path that begins so.
const PATTERNS: [&str; 8] = [
    "/livez",
    "/readyz",
    "/metrics",
    "/readyz/{service}",
    "/wait",
    "/wait/{service}",
    "/debug/pprof/{profile}",
    "/",
];

/// How often a waiting request looks whether its client is still there.
const LOOK: Duration = Duration::from_millis(200);

/// The endpoints of the diagnostics service, without a listener: see
/// [`respond`](Routes::respond). Clones share everything.
#[derive(Clone, Default)]
pub struct Routes {
    pub(super) readyz: readyz::Registry,
    pub(super) metrics: Exposition,
    pub(super) profiling: Option<Profiling>,
    pub(super) extra: Vec<(Arc<str>, Handler)>,
    pub(super) front: Front,
}

#[derive(Clone)]
pub(super) enum Handler {
    Quick(Arc<Quick>),
    Long(Arc<Long>),
}

type Quick = dyn Fn(&Request<'_>) -> ResponseBox + Send + Sync;
type Long = dyn Fn(&Request<'_>, &Client<'_>) -> ResponseBox + Send + Sync;

/// What a route says to a request.
pub(super) enum Answer<'a> {
    /// 200, with this text: always the same, so that no response need be made of it.
    Fixed(&'static str),
    /// The answer.
    Ready(ResponseBox),
    /// It takes long: seconds of work or of waiting, bounded in number.
    Long(Box<dyn FnOnce(&Client<'_>) -> ResponseBox + 'a>),
}

impl Routes {
    /// Answers for a program that runs an HTTP server of its own. `method` is whatever shows itself as the
    /// method's name, and `url` the request's target, with its query.
    ///
    /// ```no_run
    /// use tbot::{diagnostics::Diagnostics, tiny_http};
    ///
    /// let routes = Diagnostics::builder().default_metrics().routes();
    /// let server = tiny_http::Server::http("127.0.0.1:3001")?;
    /// for request in server.incoming_requests() {
    ///     let answer = routes.respond(request.method(), request.url());
    ///     request.respond(answer).ok();
    /// }
    /// # Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
    /// ```
    ///
    /// It never waits, so that a server with one thread goes on: `/wait` says how things are now, with 503
    /// for "not yet"; CPU profiles are 503; other [long routes](super::Builder::long_route) run with a
    /// client who [is not there](Client::is_there). [`respond_while`](Self::respond_while) waits.
    ///
    /// Headers are not seen here. So `/` is plain text, nothing is compressed, and profiles are not kept
    /// from web pages of others (DNS rebinding): a server that answers browsers looks at `Host` itself.
    /// The answer to HEAD has its body, which the server leaves out, as `tiny_http` does.
    ///
    /// In `rouille`, whose responses are types of its own, `request.method()` and `request.raw_url()` go
    /// in, and `status_code()`, `headers()` and `into_reader()` of the answer go out.
    pub fn respond<M: Display + ?Sized>(&self, method: &M, url: &str) -> ResponseBox {
        self.respond_to(method, url, &Client::gone())
    }

    /// The same, but what takes long is waited for on this thread, for as long as `goes_on`: `/wait`,
    /// profiles of at most 300 s, long routes. That is asked several times a second, and says for instance
    /// whether the server is stopping.
    ///
    /// How many wait at once is for the caller to bound.
    pub fn respond_while<M: Display + ?Sized>(
        &self,
        method: &M,
        url: &str,
        goes_on: impl Fn() -> bool + Sync,
    ) -> ResponseBox {
        self.respond_to(method, url, &Client::of(&goes_on))
    }

    fn respond_to<M: Display + ?Sized>(
        &self,
        method: &M,
        url: &str,
        client: &Client<'_>,
    ) -> ResponseBox {
        let mut name = String::new();
        // A method that cannot be shown is none that is served.
        let _ = write!(name, "{method}");
        let request = match Request::new(&name, url) {
            Ok(request) => request,
            Err(refused) => return refusal(&refused),
        };
        let answered = catch_unwind(AssertUnwindSafe(|| match self.answer(&request) {
            Answer::Fixed(body) => complete(text(200, body)),
            Answer::Ready(response) => response,
            Answer::Long(run) => run(client),
        }));
        answered.unwrap_or_else(|panic| {
            let path = request.path();
            tracing::error!(
                "diagnostics: no answer for {path:?}: it panicked: {}",
                message(&*panic)
            );
            complete(text(500, NO_ANSWER))
        })
    }

    /// The table.
    pub(super) fn answer<'a>(&'a self, request: &'a Request<'a>) -> Answer<'a> {
        match self.find(request) {
            Answer::Fixed(body) => Answer::Fixed(body),
            Answer::Ready(response) => Answer::Ready(complete(response)),
            Answer::Long(run) => Answer::Long(Box::new(move |client| complete(run(client)))),
        }
    }

    fn find<'a>(&'a self, request: &'a Request<'a>) -> Answer<'a> {
        let path = request.path();
        let response = match path {
            "/" => self.index(request),
            "/livez" => return Answer::Fixed("OK"),
            "/readyz" => self.readyz(None),
            "/metrics" => self.metrics(),
            "/wait" => return self.wait(None),
            _ if is_below(path, "/debug/pprof") => return self.profiles(request),
            _ => match path
                .match_indices('/')
                .nth(1)
                .map(|(at, _)| path.split_at(at + 1))
            {
                Some(("/readyz/", service)) if !service.is_empty() => self.readyz(Some(service)),
                Some(("/wait/", service)) if !service.is_empty() => {
                    return self.wait(Some(service));
                }
                _ => match self.extra.iter().find(|(known, _)| **known == *path) {
                    Some((_, Handler::Quick(handler))) => handler(request),
                    Some((_, Handler::Long(handler))) => {
                        return Answer::Long(Box::new(move |client| handler(request, client)));
                    }
                    None => self.not_found(),
                },
            },
        };
        Answer::Ready(response)
    }

    /// Every path that is served, as metrics name it, and a last one for all others.
    pub(super) fn patterns(&self) -> impl Iterator<Item = &str> {
        let extra = self.extra.iter().map(|(path, _)| &**path);
        PATTERNS
            .into_iter()
            .chain(extra)
            .chain([DiagnosticsMetrics::OTHER])
    }

    /// The place of a path among the patterns.
    pub(super) fn place(&self, path: &str) -> usize {
        let is_it = |pattern: &&str| match pattern.find('{') {
            Some(at) => path.starts_with(&pattern[..at]),
            None => path == *pattern,
        };
        let own = PATTERNS.iter().position(is_it);
        own.unwrap_or_else(|| {
            let extra = self.extra.iter().position(|(known, _)| **known == *path);
            PATTERNS.len() + extra.unwrap_or(self.extra.len())
        })
    }

    fn readyz(&self, service: Option<&str>) -> ResponseBox {
        let code = |status| if status == Status::Healthy { 200 } else { 503 };
        let Some(name) = service else {
            let overall = self.readyz.overall();
            return json(code(overall.status), &overall);
        };
        match self.readyz.service(name) {
            Some(service) => json(code(service.status), &service),
            None => {
                let error = format!("Service named \"{name}\" not found.");
                json(404, &serde_json::json!({ "error": error }))
            }
        }
    }

    fn wait<'a>(&'a self, service: Option<&'a str>) -> Answer<'a> {
        if self.readyz.wait(service, Duration::ZERO) {
            return Answer::Ready(self.readyz(service));
        }
        Answer::Long(Box::new(move |client| {
            while client.is_there() {
                if self.readyz.wait(service, LOOK) {
                    return self.readyz(service);
                }
            }
            text(
                503,
                "not every service waited for has reported, and this program will not wait longer\n",
            )
        }))
    }

    fn profiles<'a>(&'a self, request: &'a Request<'a>) -> Answer<'a> {
        if let Some(profiling) = &self.profiling {
            return profiling.answer(request);
        }
        // Once: a scanner does not fill the log.
        static SAID: Once = Once::new();
        SAID.call_once(|| {
            tracing::info!(
                "diagnostics: /debug/pprof was asked for and is off: {}",
                pprof::HOW_TO_ENABLE
            );
        });
        Answer::Ready(self.not_found())
    }

    fn metrics(&self) -> ResponseBox {
        let metrics = self.metrics.text();
        response(200, "text/plain; version=0.0.4; charset=utf-8", metrics)
    }

    fn index(&self, request: &Request<'_>) -> ResponseBox {
        let html = request
            .header("accept")
            .is_some_and(|accept| accept.contains("text/html"));
        let answer = match html {
            true => self.front_page(request),
            false => text(200, self.list()),
        };
        answer.with_header(header("Vary", "Accept"))
    }

    fn not_found(&self) -> ResponseBox {
        text(
            404,
            format!("Nothing is served here. These are:\n\n{}", self.list()),
        )
    }

    fn list(&self) -> String {
        self.endpoints()
            .fold(String::new(), |mut list, (path, about)| {
                let _ = writeln!(list, "{}", format!("{path:<20}{about}").trim_end());
                list
            })
    }

    pub(super) fn endpoints(&self) -> impl Iterator<Item = (&str, &str)> {
        ENDPOINTS
            .into_iter()
            .chain(self.profiling.is_some().then_some(PROFILES))
            .chain(self.extra.iter().map(|(path, _)| (&**path, "")))
    }
}

/// Whether a path is `above`, or below it.
fn is_below(path: &str, above: &str) -> bool {
    let rest = path.strip_prefix(above);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The answer to a request that is not answered as asked.
pub(super) fn refusal(refused: &Refused) -> ResponseBox {
    let response = complete(text(refused.status, format!("{}\n", refused.reason)));
    match refused.status {
        405 => response.with_header(header("Allow", "GET, HEAD")),
        _ => response,
    }
}

impl std::fmt::Debug for Routes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Routes")
            .field("readyz", &self.readyz)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_on_the_list_is_counted_by_its_pattern() {
        let routes = Routes::default();
        let others = routes.patterns().count() - 1;
        for (path, _) in ENDPOINTS.into_iter().chain([PROFILES]) {
            assert_ne!(routes.place(path), others, "{path} has no pattern");
        }
        assert_eq!(routes.place("/none"), others);
    }
}
