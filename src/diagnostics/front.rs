//! The page at `/` for people: how the services are, what the metrics say in words, what else is served.
//!
//! It knows no metric of any program: captions are their help texts, units are in their names. Everything on it is
//! bounded, whatever is registered.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::SystemTime;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use prometheus::proto::MetricFamily;
use tiny_http::ResponseBox;

use super::figures::{self, Rows, moment, span};
use super::page::{escape, page, shortened};
use super::process;
use super::request::Request;
use super::routes::Routes;
use crate::readyz::{Service, Status};

/// How many services are shown, those that are not healthy first.
const SERVICES: usize = 100;

/// How long a name, and the reason of a status, may be.
const NAME: usize = 100;
const REASON: usize = 1000;

/// What the metrics of every program are called that are about its process or this service; they come last.
const OWN: [&str; 5] = [
    "process_",
    "tbot_allocator_",
    "tbot_diag_",
    "tbot_log_",
    "tbot_task_",
];

/// What a page is about, and under which headings its metrics stand, by how their names begin.
#[derive(Clone, Debug)]
pub(super) struct Front {
    pub title: String,
    pub sections: Vec<(String, String)>,
}

impl Default for Front {
    fn default() -> Self {
        Self {
            title: "Diagnostics".into(),
            sections: Vec::new(),
        }
    }
}

impl Routes {
    pub(super) fn front_page(&self, request: &Request<'_>) -> ResponseBox {
        let refresh = match request.parameter::<u32>("refresh") {
            Ok(seconds) => seconds.map(|seconds| seconds.clamp(2, 3600)),
            Err(refused) => return refused,
        };
        let now = SystemTime::now();
        let title = &self.front.title;
        let services = self.readyz.overall().services;
        let bad = services.values().filter(|one| !one.is_healthy()).count();
        let status = match bad {
            0 => Status::Healthy,
            _ => Status::Unhealthy,
        };
        let headline = match (bad, services.len()) {
            (_, 0) => "Running".into(),
            (0, 1) => "The service is healthy".into(),
            (0, all) => format!("All {all} services are healthy"),
            (1, 1) => "The service is not healthy".into(),
            (bad, all) => format!("{bad} of {all} services not healthy"),
        };
        let (mark, class) = look(status);
        let uptime = process::uptime().map_or(String::new(), |up| format!("up {} · ", span(up)));
        let reload = match refresh {
            Some(seconds) => format!("reloads every {seconds} s, <a href=\"/\">stop</a>"),
            None => "<a href=\"/?refresh=10\">reload every 10 s</a>".into(),
        };
        let mut body = format!(
            "<header>\n<p>{title} on {host}</p>\n<h1><span class=\"{class}\" aria-hidden=\"true\">{mark}</span> \
             {headline}</h1>\n<p>{uptime}as of {time} · {reload}</p>\n</header>\n<main>\n",
            title = escape(title),
            host = escape(&rustix::system::uname().nodename().to_string_lossy()),
            time = moment(now),
        );
        push_services(&mut body, &services, now);
        let families = self.metrics.registry.gather();
        self.push_figures(&mut body, &families, now);
        self.push_paths(&mut body);
        body.push_str("</main>\n");
        if let Some(build) = figures::build(&families) {
            let _ = writeln!(body, "<footer>{build}</footer>");
        }
        let mut head = icon(status);
        if let Some(seconds) = refresh {
            let _ = writeln!(head, "<meta http-equiv=\"refresh\" content=\"{seconds}\">");
        }
        page(&format!("{mark} {headline} – {title}"), &head, &body)
    }

    fn push_paths(&self, body: &mut String) {
        body.push_str("<section>\n<h2>Paths</h2>\n<dl>\n");
        for (path, about) in self.endpoints() {
            let path = escape(path);
            // A path with a place to fill in leads nowhere.
            let (open, close) = match path.contains('{') {
                true => (String::new(), ""),
                false => (format!("<a href=\"{path}\">"), "</a>"),
            };
            // One that was added says nothing of itself.
            let about = match about {
                "" => String::new(),
                about => format!("<dd>{about}"),
            };
            let _ = writeln!(body, "<dt>{open}<code>{path}</code>{close}{about}");
        }
        body.push_str("</dl>\n</section>\n");
    }

    fn push_figures(&self, body: &mut String, families: &[MetricFamily], now: SystemTime) {
        let mut rows = Rows::new(now);
        let is_own = |name: &str| OWN.iter().any(|own| name.starts_with(own));
        let sections = &self.front.sections;
        let listed = |name: &str| {
            let mut prefixes = sections.iter().map(|(_, prefix)| &**prefix);
            prefixes.position(|prefix| name.starts_with(prefix))
        };
        let mut headings: Vec<&str> = Vec::new();
        for (heading, _) in sections {
            if !headings.contains(&&**heading) {
                headings.push(heading);
            }
        }
        for heading in headings {
            let place = |name: &str| listed(name).filter(|&place| sections[place].0 == heading);
            push_section(body, heading, &rows.table(families, place));
        }
        let mut others = |own| {
            rows.table(families, |name| {
                (is_own(name) == own && listed(name).is_none()).then_some(0)
            })
        };
        push_section(body, "Metrics", &others(false));
        let table = others(true);
        if !table.is_empty() {
            let _ = write!(
                body,
                "<details>\n<summary>The process</summary>\n{table}</details>\n"
            );
        }
        if rows.left_out() {
            body.push_str("<p class=\"dim\">More is in <a href=\"/metrics\">/metrics</a>.</p>\n");
        }
    }
}

fn push_section(body: &mut String, heading: &str, table: &str) {
    if !table.is_empty() {
        let heading = escape(heading);
        let _ = write!(body, "<section>\n<h2>{heading}</h2>\n{table}</section>\n");
    }
}

fn push_services(body: &mut String, services: &BTreeMap<String, Service>, now: SystemTime) {
    if services.is_empty() {
        return;
    }
    body.push_str("<section>\n<h2>Services</h2>\n<ul>\n");
    // Sorted by name, and so they stay.
    let (good, wrong): (Vec<_>, Vec<_>) = services
        .iter()
        .partition(|(_, service)| service.is_healthy());
    for (name, service) in wrong.into_iter().chain(good).take(SERVICES) {
        push_service(body, name, service, now);
    }
    body.push_str("</ul>\n");
    let more = services.len().saturating_sub(SERVICES);
    if more > 0 {
        let _ = writeln!(
            body,
            "<p>and {more} more: <a href=\"/readyz\">/readyz</a></p>"
        );
    }
    body.push_str("</section>\n");
}

fn push_service(body: &mut String, name: &str, service: &Service, now: SystemTime) {
    let (mark, class) = look(service.status);
    let shown = shortened(name, NAME);
    let link = utf8_percent_encode(name, NON_ALPHANUMERIC);
    let name = match name.len() <= NAME {
        true => format!("<a href=\"/readyz/{link}\">{shown}</a>"),
        false => shown,
    };
    let _ = write!(
        body,
        "<li><h3>{name}</h3><b class=\"{class}\"><span aria-hidden=\"true\">{mark}</span> {class}</b>",
    );
    if !service.reason.is_empty() {
        let _ = write!(body, "<p>{}</p>", shortened(&service.reason, REASON));
    }
    if let Some(since) = service.since {
        let passed = span(now.duration_since(since).unwrap_or_default());
        let _ = write!(body, "<small>for {passed}, since {}</small>", moment(since));
    }
    body.push_str("</li>\n");
}

/// A status by its shape, for it must not be told by colour alone, and by its word.
fn look(status: Status) -> (char, &'static str) {
    match status {
        Status::Healthy => ('✓', "healthy"),
        Status::Unhealthy => ('✗', "unhealthy"),
        Status::Initializing => ('…', "initializing"),
    }
}

/// What the browser's tab shows; without one, browsers ask for `/favicon.ico`.
fn icon(status: Status) -> String {
    let (colour, shape) = match status {
        Status::Healthy => ("2b9a4d", "M3 9l3 3 7-8"),
        _ => ("d0342c", "M4 4l8 8M12 4l-8 8"),
    };
    format!(
        "<link rel=\"icon\" href=\"data:image/svg+xml,%3Csvg xmlns='http%3A//www.w3.org/2000/svg' viewBox='0 0 16 \
         16'%3E%3Crect width='16' height='16' rx='4' fill='%23{colour}'/%3E%3Cpath d='{shape}' fill='none' \
         stroke='white' stroke-width='2'/%3E%3C/svg%3E\">\n"
    )
}

impl Service {
    fn is_healthy(&self) -> bool {
        self.status == Status::Healthy
    }
}
