//! `/debug/pprof/`: profiles and stacks of the running process, as `go tool pprof` and people read them.
//!
//! Status codes, headers and texts are those of Go's `net/http/pprof`, as far as there is a
//! counterpart: its tools and its users' scripts work. What there is:
//!
//! | Path | Answer |
//! |---|---|
//! | `profile?seconds=30&frequency=99` | CPU profile, pprof's format |
//! | `flamegraph?seconds=30&frequency=99` | the same as a picture |
//! | `threads?debug=2` | every thread with its stack |
//! | `threadcreate` | how many threads there are |
//! | `heap?debug=0` | memory in use, by where it was allocated (cargo feature `heap`) |
//! | `cmdline` | the command line |
//! | `symbol` | names of addresses |
//!
//! A profile costs what a few thousand signals cost. Long answers are
//! [long routes](super::Builder::long_route): bounded in number, and over when their client is.

mod capture;
mod cpu;
mod encode;
#[cfg(feature = "heap")]
mod heap;
mod modules;
mod names;
mod threads;

use std::fmt::Write as _;
use std::io;
use std::net::IpAddr;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use tiny_http::ResponseBox;

use super::connection::Client;
use super::request::Request;
use super::response::{header, response, text};
use super::routes::Answer;
use cpu::{CpuProfile, NoProfile};
use threads::Form;

/// What turns profiles on.
pub(super) const HOW_TO_ENABLE: &str = "start tbot with --debug (-d); a program that embeds the \
                                        diagnostics calls Builder::profiling";

/// Where everything is.
const PREFIX: &str = "/debug/pprof";

/// The longest profile, in seconds.
const MAX_SECONDS: u32 = 300;

/// The kernel looks at CPU timers once a tick, on most systems 250 times a second.
const MAX_FREQUENCY: u32 = 250;

/// What there is below [`PREFIX`], for the index.
const PROFILES: &[(&str, &str)] = &[
    (
        "profile",
        "CPU profile of the next seconds (<code>seconds=</code>1 to 300, 30 if not given; \
      <code>frequency=</code>1 to 250 samples a second, 99), for <code>go tool pprof</code>",
    ),
    ("flamegraph", "the same as a picture (SVG)"),
    (
        "threads",
        "every thread with its state and stack (<code>debug=2</code>); threads with one stack \
      together (<code>debug=1</code>); for <code>go tool pprof</code> (<code>debug=0</code>)",
    ),
    ("threadcreate", "how many threads there are"),
    #[cfg(feature = "heap")]
    (
        "heap",
        "memory in use by where it was allocated, reckoned from samples since the start, for \
         <code>go tool pprof</code>, or as text (<code>debug=1</code>)",
    ),
    ("cmdline", "the command line, its words joined by NUL"),
    (
        "symbol",
        "the names of addresses (<code>?0x…+0x…</code>, or by POST)",
    ),
];

/// That profiling is on.
#[derive(Clone, Debug, Default)]
pub(super) struct Profiling {
    /// Name or address that the service was told to listen at.
    host: Option<String>,
}

impl Profiling {
    /// Gets everything ready that could be missing later: the handler of SIGPROF, unwind tables, names.
    pub fn start() -> Self {
        if let Err(error) = capture::prepare() {
            tracing::warn!("diagnostics: there will be no profiles: {error}");
        }
        drop(modules::modules());
        #[cfg(feature = "heap")]
        if let Err(error) = crate::sys::record_allocations() {
            tracing::warn!("diagnostics: there will be no heap profiles: {error}");
        }
        Self::default()
    }

    /// Takes the address that the service listens at, as `host:port`, for one's own.
    pub fn set_host(&mut self, address: &str) {
        self.host = Some(name_of(address).to_owned());
    }

    /// The answer for a path below [`PREFIX`].
    pub fn answer<'a>(&self, request: &'a Request<'a>) -> Answer<'a> {
        if !self.is_own(request) {
            return Answer::Ready(error(403, FOREIGN));
        }
        let Some(name) = request.path().strip_prefix(PREFIX) else {
            return Answer::Ready(unknown());
        };
        let long: fn(&Request<'_>, &Client<'_>) -> ResponseBox = match name {
            "" => {
                let moved = text(301, "Moved Permanently\n");
                let moved = moved.with_header(header("Location", "/debug/pprof/"));
                return Answer::Ready(moved);
            }
            "/" => return Answer::Ready(index()),
            "/cmdline" => return Answer::Ready(command_line()),
            "/threadcreate" => return Answer::Ready(thread_count()),
            "/profile" => |request, client| {
                cpu_profile(request, client, "application/octet-stream", encode::cpu)
            },
            "/flamegraph" => {
                |request, client| cpu_profile(request, client, "image/svg+xml", encode::flame_graph)
            }
            "/threads" => all_threads,
            "/symbol" => |request, _| symbols(request),
            #[cfg(feature = "heap")]
            "/heap" => |request, _| memory(request),
            #[cfg(not(feature = "heap"))]
            "/heap" => {
                let reason = "Unknown profile: heap needs a build with the cargo feature heap";
                return Answer::Ready(error(404, reason));
            }
            _ => return Answer::Ready(unknown()),
        };
        if request.is_head() {
            // What it would say is not worth its seconds.
            return Answer::Ready(text(200, ""));
        }
        Answer::Long(Box::new(move |client| long(request, client)))
    }

    /// False for what a browser sends for a page from elsewhere: by a name that a stranger has pointed
    /// here (DNS rebinding), or as a part of their page.
    fn is_own(&self, request: &Request<'_>) -> bool {
        // No tool sends it; of a browser, what the user typed and what is our own page's.
        if !matches!(
            request.header("sec-fetch-site"),
            None | Some("none" | "same-origin")
        ) {
            return false;
        }
        let Some(host) = request.host() else {
            // No browser leaves it out.
            return true;
        };
        let host = name_of(host);
        let is = |name: &str| host.eq_ignore_ascii_case(name);
        host.parse::<IpAddr>().is_ok() || is("localhost") || self.host.as_deref().is_some_and(is)
    }
}

const FOREIGN: &str = "profiles are served to requests for an IP address, localhost or the configured \
                       address, and not to other sites' pages";

/// The name or address in `host:port`, without the brackets of an IPv6 address.
fn name_of(host: &str) -> &str {
    if let Some((address, port)) = host.strip_prefix('[').and_then(|rest| rest.split_once(']'))
        && (port.is_empty() || port.starts_with(':'))
    {
        return address;
    }
    match host.rsplit_once(':') {
        Some((name, _)) if !name.contains(':') => name,
        _ => host,
    }
}

/// An error as `go tool pprof` shows it.
fn error(status: u16, reason: &str) -> ResponseBox {
    mark(text(status, format!("{reason}\n")))
}

fn mark(response: ResponseBox) -> ResponseBox {
    response.with_header(header("X-Go-Pprof", "1"))
}

fn unknown() -> ResponseBox {
    error(404, "Unknown profile")
}

fn failed(what: &str, why: &io::Error) -> ResponseBox {
    error(500, &format!("{what}: {}", crate::errors::plain(why)))
}

/// A file for a tool.
fn attachment(body: Vec<u8>, disposition: &'static str) -> ResponseBox {
    response(200, "application/octet-stream", body)
        .with_header(header("Content-Disposition", disposition))
}

/// A parameter between 1 and `most`.
fn number(request: &Request<'_>, name: &str, default: u32, most: u32) -> Result<u32, ResponseBox> {
    match request.parameter(name) {
        Ok(value) => match value.unwrap_or(default) {
            value if (1..=most).contains(&value) => Ok(value),
            value => Err(error(400, &format!("{name} is 1 to {most}, not {value}"))),
        },
        Err(bad) => Err(mark(bad)),
    }
}

fn cpu_profile(
    request: &Request<'_>,
    client: &Client<'_>,
    content_type: &'static str,
    encode: fn(&CpuProfile) -> io::Result<Vec<u8>>,
) -> ResponseBox {
    let parameters = number(request, "seconds", 30, MAX_SECONDS)
        .and_then(|seconds| Ok((seconds, number(request, "frequency", 99, MAX_FREQUENCY)?)));
    let (seconds, frequency) = match parameters {
        Ok(parameters) => parameters,
        Err(bad) => return bad,
    };
    let length = Duration::from_secs(seconds.into());
    let profile = match cpu::record(length, frequency, || client.is_there()) {
        Ok(profile) => profile,
        Err(NoProfile::Busy) => {
            return error(
                500,
                "Could not enable CPU profiling: cpu profiling already in use",
            );
        }
        Err(NoProfile::System(why)) => return failed("Could not enable CPU profiling", &why),
        Err(NoProfile::Gone) => {
            return error(
                503,
                "no profile: this server is stopping, or does not wait for one",
            );
        }
    };
    match encode(&profile) {
        Ok(body) => {
            let response = response(200, content_type, body);
            if content_type == "image/svg+xml" {
                return response;
            }
            response.with_header(header(
                "Content-Disposition",
                "attachment; filename=\"profile\"",
            ))
        }
        Err(why) => failed("Could not write the profile", &why),
    }
}

fn all_threads(request: &Request<'_>, client: &Client<'_>) -> ResponseBox {
    let form = match request.parameter::<u32>("debug") {
        Ok(Some(0)) => Form::Profile,
        Ok(Some(1)) => Form::Grouped,
        Ok(_) => Form::Each,
        Err(bad) => return mark(bad),
    };
    match threads::show(form, || !client.has_left()) {
        Ok(body) if form == Form::Profile => attachment(body, "attachment; filename=\"threads\""),
        Ok(body) => response(200, "text/plain; charset=utf-8", body),
        Err(why) => failed("Could not show the threads of /proc/self/task", &why),
    }
}

#[cfg(feature = "heap")]
fn memory(request: &Request<'_>) -> ResponseBox {
    let as_text = match request.parameter::<u32>("debug") {
        Ok(debug) => debug.unwrap_or(0) > 0,
        Err(bad) => return mark(bad),
    };
    let body = heap::HeapProfile::take().and_then(|profile| match as_text {
        true => Ok(profile.show().into_bytes()),
        false => encode::heap(&profile),
    });
    match body {
        Ok(body) if as_text => response(200, "text/plain; charset=utf-8", body),
        Ok(body) => attachment(body, "attachment; filename=\"heap\""),
        Err(why) => failed("Could not take the heap profile", &why),
    }
}

fn thread_count() -> ResponseBox {
    match threads::count() {
        Ok(count) => text(200, format!("threadcreate profile: total {count}\n")),
        Err(why) => failed("Could not count the threads in /proc/self/task", &why),
    }
}

fn command_line() -> ResponseBox {
    let words: Vec<_> = std::env::args_os().collect();
    let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
    response(200, "text/plain; charset=utf-8", words.join(&0))
}

/// Names of the addresses in the query or the body, as gperftools' `symbolz` protocol has it.
fn symbols(request: &Request<'_>) -> ResponseBox {
    let mut answer = String::from("num_symbols: 1\n");
    let modules = modules::modules();
    for word in request.content().split(['+', ' ', '\n']) {
        let address = word
            .strip_prefix("0x")
            .map(|digits| u64::from_str_radix(digits, 16));
        if let Some(Ok(address)) = address
            && let Some(frame) = modules.frames(address).first()
        {
            let _ = writeln!(answer, "{address:#x} {}", frame.function);
        }
    }
    text(200, answer)
}

fn index() -> ResponseBox {
    let count = threads::count().map_or_else(|_| "?".into(), |count| count.to_string());
    let mut items = String::new();
    for (name, about) in PROFILES {
        let _ = writeln!(
            items,
            "<dt><a href=\"{name}\"><code>{name}</code></a><dd>{about}"
        );
    }
    let page = format!(
        "<h1>Profiles</h1>\n<p>This process has {count} threads.\n<dl>\n{items}</dl>\n\
         <p>With Go's tool, where this page's address is the one of your browser:\n\
         <pre>go tool pprof -http=: http://127.0.0.1:3001/debug/pprof/profile?seconds=10\n\
         curl -o flame.svg 'http://127.0.0.1:3001/debug/pprof/flamegraph?seconds=10'\n\
         curl http://127.0.0.1:3001/debug/pprof/threads</pre>\n"
    );
    super::page::page("Profiles", "", &page)
}
