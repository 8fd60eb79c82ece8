//! `tbot wait`: asks a tbot's diagnostics until its services are healthy.

use std::io::Write;
use std::time::{Duration, Instant};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::args::{Command, Given};
use super::flags::{DIAG_ADDR, SERVICE, TIMEOUT};
use super::http::{Answer, Server};
use super::start::{Env, from_env, utf8};
use crate::config::{Error, duration_from_flag, show_duration};
use crate::logging::harmless;

/// For one look: `/wait` answers once every service has reported, which may be never.
const REQUEST: Duration = Duration::from_secs(5);

/// Between requests; each is twice the one before.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// With less left, there is no time for another request.
const TOO_LATE: Duration = Duration::from_millis(10);

/// What a path's segment may hold as it is.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~');

/// Returns once the services are healthy, or says at the end of the time what kept them.
pub(super) fn run(command: &Command, given: &[Given], env: Env, debug: bool) -> Result<(), Error> {
    let from_env = from_env(command, given, env);
    let of = |long| {
        given
            .iter()
            .chain(&from_env)
            .find(|given| given.flag.long == long)
    };
    let Some(address) = of(DIAG_ADDR) else {
        return Err(Error::new(
            "tbot wait needs --diag-addr or TBOT_DIAG_ADDR: the address of a tbot's diagnostics, such \
             as 127.0.0.1:3001",
        ));
    };
    let mut server = Server::parse(address.origin, utf8(address)?)?;
    let service = of(SERVICE).map(utf8).transpose()?;
    let of_service = match service {
        None => String::new(),
        Some("") => return Err(Error::new(format!("{SERVICE}: the name is empty"))),
        Some(service) => format!("/{}", utf8_percent_encode(service, PLAIN)),
    };
    let timeout = of(TIMEOUT)
        .map(|given| match duration_from_flag(TIMEOUT, utf8(given)?)? {
            Duration::ZERO => Err(Error::new(format!(
                "{TIMEOUT}: must be longer than 0s; leave it out to wait for ever"
            ))),
            timeout => Ok(timeout),
        })
        .transpose()?;
    // A time too far for the clock never comes.
    let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    let (mut pause, mut last) = (FIRST_PAUSE, String::new());
    loop {
        let time = deadline.map_or(REQUEST, |deadline| left(deadline).min(REQUEST));
        // `/wait` is silent for as long as a service has not reported: `/readyz` tells which.
        let mut answer = server.get(&format!("/wait{of_service}"), Instant::now() + time * 3 / 4);
        // Where all places to wait are taken, that says nothing of any service.
        let mut is_full =
            matches!(&answer, Ok(none) if none.status == 503 && status(none).is_none());
        if is_full || matches!(&answer, Err(none) if none.late) {
            let seen = server.get(&format!("/readyz{of_service}"), Instant::now() + time / 4);
            // Another's 503 is as good as a second one; and what there was no time to see has been seen before.
            is_full &= match &seen {
                Ok(seen) => seen.status == 200 || status(seen).is_some(),
                Err(none) => none.late && !last.is_empty(),
            };
            if is_full || answer.is_err() {
                answer = seen;
            }
        }
        let seen = match answer {
            Ok(Answer { status: 200, .. }) => return Ok(()),
            Ok(answer) => Some(describe(&answer, &server.name(), service)),
            // A request that got no more than the rest of the time says less than the one before it.
            Err(none) if none.late && time < REQUEST && !last.is_empty() => None,
            Err(none) => Some(none.why),
        };
        if let Some(seen) = seen
            && seen != last
        {
            // Who waits for ever would never be told.
            if deadline.is_none() || debug {
                let _ = writeln!(std::io::stderr(), "tbot wait: {seen}");
            }
            last = seen;
        }
        if let Some(deadline) = deadline {
            let left = left(deadline);
            if left < TOO_LATE {
                let timeout = show_duration(timeout.unwrap_or_default());
                return Err(Error::new(format!("not ready within {timeout}: {last}")));
            }
            // So that what comes in the last moment is still seen.
            pause = pause.min(left / 2);
        }
        std::thread::sleep(pause);
        pause = match is_full {
            // Nobody tells when it is time.
            true => FIRST_PAUSE,
            false => (pause * 2).min(LONGEST_PAUSE),
        };
    }
}

/// What a tbot says of its services, or of the one that it was asked for; `None` for anything else.
fn status(answer: &Answer) -> Option<serde_json::Value> {
    let json: serde_json::Value = serde_json::from_slice(&answer.body).ok()?;
    json["status"].is_string().then_some(json)
}

fn left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now())
}

/// What an answer other than 200 says, in words for a terminal; `service` is the one it is about.
fn describe(answer: &Answer, server: &str, service: Option<&str>) -> String {
    /// Further services are counted.
    const SHOWN: usize = 3;
    let json: serde_json::Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let services: Vec<(&str, &serde_json::Value)> = match json["services"].as_object() {
        Some(services) => services
            .iter()
            .filter(|(_, service)| service["status"] != "healthy")
            .map(|(name, service)| (&**name, service))
            .collect(),
        None => match service {
            Some(name) if json["status"].is_string() => vec![(name, &json)],
            _ => Vec::new(),
        },
    };
    if services.is_empty() {
        let body = String::from_utf8_lossy(&answer.body);
        let first = body.trim_start().lines().next().unwrap_or_default();
        let why = printable(json["error"].as_str().unwrap_or(first));
        let colon = if why.is_empty() { "" } else { ": " };
        return format!("{server} answers {}{colon}{why}", answer.status);
    }
    let mut sentences: Vec<String> = services
        .iter()
        .take(SHOWN)
        .map(|(name, service)| {
            let name = printable(name);
            let status = printable(service["status"].as_str().unwrap_or("of no status"));
            match service["reason"].as_str() {
                Some(reason) => format!("{name} is {status}: {}", printable(reason)),
                None => format!("{name} is {status}"),
            }
        })
        .collect();
    if services.len() > SHOWN {
        sentences.push(format!("and {} more", services.len() - SHOWN));
    }
    sentences.join("; ")
}

/// A peer's words, for a terminal, and cut where they are too long for a line.
fn printable(text: &str) -> String {
    const LONGEST: usize = 500;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => harmless(&text[..end]) + "…",
        None => harmless(text),
    }
}
