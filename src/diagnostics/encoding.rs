//! Bodies compressed by gzip for clients that ask for it: what goes into a scrape is text that says
//! the same again and again, and shrinks to a tenth.

use std::io;
use std::sync::{Mutex, PoisonError};

use flate2::{Compress, Compression, Crc, FlushCompress, Status};
use tiny_http::ResponseBox;

use super::request::Request;
use super::response::{header, with_body, with_length};

/// A body up to this many bytes fits into one packet with its head, compressed or not.
const WORTH: usize = 1400;

/// The response as its client wants it. The error is that of its body.
pub(super) fn encoded(response: ResponseBox, request: &Request<'_>) -> io::Result<ResponseBox> {
    if !is_text(&response) {
        return Ok(response);
    }
    let mut response = with_length(response)?;
    let length = response.data_length().unwrap_or_default();
    if length <= WORTH {
        return Ok(response);
    }
    response.add_header(header("Vary", "Accept-Encoding"));
    if !wants_gzip(request.header_values("accept-encoding")) {
        return Ok(response);
    }
    response.add_header(header("Content-Encoding", "gzip"));
    with_body(response, |body| {
        let mut plain = Vec::with_capacity(length);
        body.read_to_end(&mut plain)?;
        compressed(&plain)
    })
}

/// Compressors for the next bodies. One takes 300 KiB, and a quarter of its time to be made.
static IDLE: Mutex<Vec<Compress>> = Mutex::new(Vec::new());

/// How many of them are kept: a body takes some microseconds, so that hardly more are at work at once.
const KEPT: usize = 2;

/// A whole gzip file (RFC 1952).
fn compressed(plain: &[u8]) -> io::Result<Vec<u8>> {
    let idle = || IDLE.lock().unwrap_or_else(PoisonError::into_inner);
    let kept = idle().pop();
    // Level 1: higher ones take much longer for a few percent.
    let mut compress = kept.unwrap_or_else(|| Compress::new(Compression::fast(), false));
    // Method deflate, no flags, no time, the fastest algorithm, a system that is not told.
    let mut packed = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 4, 255];
    loop {
        // What repeats itself as metrics do needs a sixth; if it does not suffice, it goes on behind that.
        packed.reserve(plain.len() / 4 + 64);
        let done = compress.total_in() as usize;
        let rest = plain.get(done..).unwrap_or_default();
        let status = compress.compress_vec(rest, &mut packed, FlushCompress::Finish)?;
        if status == Status::StreamEnd {
            break;
        }
    }
    compress.reset();
    let mut idle = idle();
    if idle.len() < KEPT {
        idle.push(compress);
    }
    drop(idle);
    let mut sum = Crc::new();
    sum.update(plain);
    packed.extend_from_slice(&sum.sum().to_le_bytes());
    packed.extend_from_slice(&(plain.len() as u32).to_le_bytes());
    Ok(packed)
}

/// Whether it is of a type that compresses well, and is not compressed yet.
fn is_text(response: &ResponseBox) -> bool {
    let value = |name: &'static str| {
        let mut headers = response.headers().iter();
        headers
            .find(|header| header.field.equiv(name))
            .map(|header| header.value.as_str())
    };
    let kind = value("Content-Type").unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    let is = |known: &str| kind.eq_ignore_ascii_case(known);
    let is_text = kind
        .get(..5)
        .is_some_and(|start| start.eq_ignore_ascii_case("text/"));
    (is_text || is("application/json") || is("image/svg+xml"))
        && value("Content-Encoding").is_none()
}

/// Whether gzip is accepted, and no less than the body as it is (RFC 9110, 12.5.3).
fn wants_gzip<'a>(fields: impl Iterator<Item = &'a str>) -> bool {
    let (mut gzip, mut identity, mut any) = (None, None, None);
    for item in fields.flat_map(|field| field.split(',')) {
        let (coding, weight) = match item.split_once(';') {
            Some((coding, parameter)) => (coding, thousandths(parameter)),
            None => (item, Some(1000)),
        };
        let place = match coding.trim() {
            "*" => &mut any,
            coding if coding.eq_ignore_ascii_case("gzip") => &mut gzip,
            // The same, by an older name (8.4.1.3).
            coding if coding.eq_ignore_ascii_case("x-gzip") => &mut gzip,
            coding if coding.eq_ignore_ascii_case("identity") => &mut identity,
            _ => continue,
        };
        // What is not well-formed is as if it were not there.
        *place = weight.or(*place);
    }
    let gzip = gzip.or(any).unwrap_or(0);
    gzip > 0 && gzip >= identity.or(any).unwrap_or(0)
}

/// The weight `q=…` (12.4.2): 0 to 1 with at most three digits behind the point.
fn thousandths(parameter: &str) -> Option<u32> {
    let (name, value) = parameter.trim().split_once('=')?;
    let (whole, fraction) = value.split_once('.').unwrap_or((value, ""));
    let is_short = fraction.len() <= 3 && fraction.bytes().all(|byte| byte.is_ascii_digit());
    if !name.eq_ignore_ascii_case("q") || !is_short {
        return None;
    }
    let digits = fraction.bytes().chain([b'0'; 3]).take(3);
    let fraction = digits.fold(0, |sum, digit| sum * 10 + u32::from(digit - b'0'));
    match whole {
        "0" => Some(fraction),
        "1" if fraction == 0 => Some(1000),
        _ => None,
    }
}
