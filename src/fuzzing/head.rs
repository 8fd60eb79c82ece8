//! Heads of HTTP requests.

use std::mem::MaybeUninit;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::cuts;
use crate::diagnostics::request::parse;

/// What was made of a request, without borrowing from it.
#[derive(Debug, PartialEq)]
enum Outcome {
    Taken(Taken),
    Refused(u16, String),
}

#[derive(Debug, PartialEq)]
struct Taken {
    length: usize,
    is_head: bool,
    keep_alive: bool,
    minor: u8,
    path: String,
    host: Option<String>,
    content: String,
}

/// `None` while the request is not complete.
fn outcome(input: &[u8]) -> Option<Outcome> {
    let mut headers = [const { MaybeUninit::uninit() }; 64];
    let head = match parse(input, &mut headers) {
        Ok(head) => head?,
        Err(refused) => return Some(Outcome::Refused(refused.status, refused.reason.into())),
    };
    let request = &head.request;
    Some(Outcome::Taken(Taken {
        length: head.length,
        is_head: request.is_head(),
        keep_alive: head.keep_alive,
        minor: head.version.1,
        path: request.path().to_owned(),
        host: request.host().map(str::to_owned),
        content: request.content().to_owned(),
    }))
}

/// However a request is cut, it comes out as it does in one piece; what comes out can be asked for again.
pub fn request_head(data: &[u8]) {
    let whole = outcome(data);
    for at in cuts(data) {
        let part = outcome(&data[..at]);
        assert!(
            part.is_none() || part == whole,
            "of the first {at} bytes: {part:?}, and of all: {whole:?}"
        );
    }
    match whole {
        None => {}
        Some(Outcome::Refused(status, reason)) => {
            assert!(matches!(status, 400 | 405 | 413 | 431 | 505), "{status}");
            assert!(!reason.contains(char::is_control), "{reason:?}");
        }
        Some(Outcome::Taken(taken)) => is_sound(&taken, data),
    }
}

fn is_sound(taken: &Taken, data: &[u8]) {
    let Taken { length, path, .. } = taken;
    assert!(*length <= data.len(), "{length} of {} bytes", data.len());
    // What follows is another request's.
    let alone = outcome(&data[..*length]);
    assert!(
        matches!(&alone, Some(Outcome::Taken(alone)) if alone == taken),
        "{alone:?}"
    );
    assert!(path.starts_with('/'), "{path:?}");
    assert!(taken.minor == 1 || taken.minor == 0);
    assert!(taken.minor == 0 || taken.host.is_some(), "{taken:?}");
    let host = taken.host.as_deref().filter(|host| host.is_ascii());
    // A body stands in its place, and could not be asked for so.
    let has_query = !data.trim_ascii_start().starts_with(b"POST ");
    let query = Some(&*taken.content).filter(|query| has_query && !query.is_empty());
    let mut again = format!(
        "{} /{}",
        if taken.is_head { "HEAD" } else { "GET" },
        utf8_percent_encode(&path[1..], NON_ALPHANUMERIC)
    );
    if let Some(query) = query {
        again += &format!("?{query}");
    }
    again += &format!(
        " HTTP/1.{}\r\nHost: {}\r\nConnection: {}\r\n\r\n",
        taken.minor,
        host.unwrap_or("localhost"),
        if taken.keep_alive {
            "keep-alive"
        } else {
            "close"
        }
    );
    let Some(Outcome::Taken(second)) = outcome(again.as_bytes()) else {
        panic!("{again:?} is not taken, and {taken:?} was");
    };
    assert_eq!((second.path, second.length), (path.clone(), again.len()));
    assert_eq!(
        (second.is_head, second.keep_alive, second.minor),
        (taken.is_head, taken.keep_alive, taken.minor)
    );
    assert_eq!(second.content, query.unwrap_or_default());
    if let Some(host) = host {
        assert_eq!(second.host.as_deref(), Some(host));
    }
}
