//! From the bytes of a request head to a [`Request`]: the only place that reads what a client wrote.
//!
//! `httparse` takes the head apart; the rules on top are RFC 9112's, cut down to what a read-only
//! service needs: GET and HEAD, no bodies, but for one path. Whatever is refused here also ends the connection, since
//! where the next request would begin is no longer certain.

use std::borrow::Cow;
use std::fmt::Display;
use std::mem::MaybeUninit;
use std::str::FromStr;

use percent_encoding::percent_decode_str;
use tiny_http::{HTTPVersion, ResponseBox};

use super::response::text;

/// The longest body, of addresses; it comes into the same buffer as the head.
const MAX_BODY: usize = 4096;

/// A GET or HEAD request, decoded.
#[derive(Debug)]
pub struct Request<'a> {
    head_only: bool,
    host: Option<&'a str>,
    path: Cow<'a, str>,
    query: &'a str,
    headers: &'a [httparse::Header<'a>],
    body: &'a str,
}

/// A request with what the connection needs to know of it.
#[derive(Debug)]
pub(crate) struct Head<'a> {
    pub request: Request<'a>,
    /// Bytes of the head, its final empty line included.
    pub length: usize,
    pub version: HTTPVersion,
    pub keep_alive: bool,
}

/// Why a request is not answered as asked.
#[derive(Debug, PartialEq)]
pub(crate) struct Refused {
    pub status: u16,
    pub reason: Cow<'static, str>,
}

impl<'a> Request<'a> {
    /// A request without headers.
    pub(super) fn new(method: &str, target: &'a str) -> Result<Self, Refused> {
        let head_only = match method {
            "GET" => false,
            "HEAD" => true,
            "POST" if takes_body(target) => false,
            _ => return Err(refused(405, "only GET and HEAD are served")),
        };
        let (host, path, query) = split(target).ok_or(refused(
            400,
            "the request target is neither a path nor a URL",
        ))?;
        let request = Self {
            head_only,
            host,
            path: decode(path).ok_or(refused(400, "the path is not percent-encoded UTF-8"))?,
            query,
            headers: &[],
            body: "",
        };
        match pairs(query).find(|(_, name, value)| name.is_none() || value.is_none()) {
            None => Ok(request),
            Some((raw, ..)) => Err(refused(
                400,
                format!("query parameter {raw:?} is not percent-encoded UTF-8"),
            )),
        }
    }

    /// True for HEAD. The listener leaves the body out; a route needs this only to save work.
    pub fn is_head(&self) -> bool {
        self.head_only
    }

    /// The path, percent-decoded. It may hold any character.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Host and port the client believes it talks to: of the target in absolute form, else of the
    /// `Host` header.
    pub fn host(&self) -> Option<&str> {
        self.host.or_else(|| self.header("host"))
    }

    /// What was sent: the body, or else the query, not decoded.
    #[cfg(feature = "pprof")]
    pub(crate) fn content(&self) -> &str {
        if self.body.is_empty() {
            self.query
        } else {
            self.body
        }
    }

    /// The value of the first header of that name (in any case), if it is UTF-8.
    pub fn header(&self, name: &str) -> Option<&str> {
        let header = self.named(name).next()?;
        std::str::from_utf8(header.value).ok()
    }

    /// The values of all headers of that name that are UTF-8: a list may stand on several lines.
    #[cfg(feature = "gzip")]
    pub(super) fn header_values(&self, name: &str) -> impl Iterator<Item = &str> {
        self.named(name)
            .filter_map(|header| std::str::from_utf8(header.value).ok())
    }

    fn named(&self, name: &str) -> impl Iterator<Item = &httparse::Header<'a>> {
        let headers = self.headers.iter();
        headers.filter(move |header| header.name.eq_ignore_ascii_case(name))
    }

    /// The value of the first query parameter of that name, `None` if there is none.
    ///
    /// # Errors
    ///
    /// For a value that is no `T`: the answer to send, a 400 that names the parameter.
    pub fn parameter<T: FromStr<Err: Display>>(
        &self,
        name: &str,
    ) -> Result<Option<T>, ResponseBox> {
        let value = pairs(self.query).find(|(_, found, _)| found.as_deref() == Some(name));
        let Some((_, _, Some(value))) = value else {
            return Ok(None);
        };
        value.parse().map(Some).map_err(|error| {
            text(
                400,
                format!("query parameter {name:?}: {value:?} is not allowed: {error}\n"),
            )
        })
    }
}

/// The request at the start of `input`, `None` while it is not complete.
pub(crate) fn parse<'h, 'b: 'h>(
    input: &'b [u8],
    headers: &'h mut [MaybeUninit<httparse::Header<'b>>],
) -> Result<Option<Head<'h>>, Refused> {
    let mut parsed = httparse::Request::new(&mut []);
    let length = match parsed.parse_with_uninit_headers(input, headers) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(refused(431, "too many headers")),
        // Which of the two it is shows at the line's end.
        Err(httparse::Error::Version) if !has_a_line(input) => return Ok(None),
        Err(httparse::Error::Version) if names_a_version(input) => {
            return Err(refused(505, "only HTTP/1.0 and HTTP/1.1 are spoken here"));
        }
        Err(error) => return Err(refused(400, format!("not an HTTP request: {error}"))),
    };
    let (Some(method), Some(target), Some(minor)) = (parsed.method, parsed.path, parsed.version)
    else {
        return Err(refused(400, "not an HTTP request"));
    };
    let headers: &'h [httparse::Header<'b>] = parsed.headers;

    let (mut close, mut keep_alive, mut hosts) = (false, false, 0);
    // `None`: one whose length is not plain.
    let (mut lengths, mut body) = (0, Some(0));
    for header in headers {
        let is = |name: &str| header.name.eq_ignore_ascii_case(name);
        if is("connection") {
            close |= has_token(header.value, "close");
            keep_alive |= has_token(header.value, "keep-alive");
        } else if is("host") {
            // One that is no text must not pass for none.
            hosts += if header.value.is_ascii() { 1 } else { 2 };
        } else if is("transfer-encoding") {
            body = None;
        } else if is("content-length") {
            // A second one, or anything but digits, is an attempt at smuggling a body past somebody.
            lengths += 1;
            body = body.filter(|_| lengths == 1).and(number(header.value));
        }
    }
    let mut request = Request::new(method, target)?;
    // RFC 9112, 3.2: exactly one in HTTP/1.1.
    if hosts > 1 || (minor == 1 && hosts == 0) {
        return Err(refused(
            400,
            "an HTTP/1.1 request has exactly one Host header, in ASCII",
        ));
    }
    let length = match body {
        Some(0) => length,
        Some(body) if method == "POST" && body <= MAX_BODY => {
            let Some(bytes) = input.get(length..length + body) else {
                return Ok(None);
            };
            let text = std::str::from_utf8(bytes);
            request.body = text.map_err(|_| refused(400, "the body is not UTF-8"))?;
            length + body
        }
        _ => return Err(refused(413, "requests with a body are not served")),
    };
    request.headers = headers;
    Ok(Some(Head {
        request,
        length,
        version: HTTPVersion(1, minor),
        keep_alive: !close && (minor == 1 || keep_alive),
    }))
}

/// Whether a target is the one that takes addresses in a body, as gperftools' tools send them.
fn takes_body(target: &str) -> bool {
    cfg!(feature = "pprof")
        && split(target).is_some_and(|(_, path, _)| path == "/debug/pprof/symbol")
}

/// A number of digits only, which `parse` alone would not see to.
fn number(digits: &[u8]) -> Option<usize> {
    let text = std::str::from_utf8(digits).ok()?;
    text.bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| text.parse().ok())?
}

fn refused(status: u16, reason: impl Into<Cow<'static, str>>) -> Refused {
    Refused {
        status,
        reason: reason.into(),
    }
}

/// Host, path and query of a target in origin or absolute form (RFC 9112, 3.2).
fn split(target: &str) -> Option<(Option<&str>, &str, &str)> {
    let (host, rest) = if target.starts_with('/') {
        (None, target)
    } else {
        let (scheme, rest) = target.split_once("://")?;
        if !["http", "https"]
            .iter()
            .any(|known| scheme.eq_ignore_ascii_case(known))
        {
            return None;
        }
        let (host, rest) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        (Some(host), rest)
    };
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    Some((host, if path.is_empty() { "/" } else { path }, query))
}

/// Each parameter: its name as sent, then name and value decoded, `None` where that fails.
fn pairs(query: &str) -> impl Iterator<Item = (&str, Option<Cow<'_, str>>, Option<Cow<'_, str>>)> {
    query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (name, decode_plus(name), decode_plus(value))
        })
}

/// Percent-decodes; `None` for a `%` without two hex digits behind it, and for what is not UTF-8.
fn decode(text: &str) -> Option<Cow<'_, str>> {
    let hex = |at: usize| text.as_bytes().get(at).is_some_and(u8::is_ascii_hexdigit);
    let whole = text
        .match_indices('%')
        .all(|(at, _)| hex(at + 1) && hex(at + 2));
    whole
        .then(|| percent_decode_str(text).decode_utf8().ok())
        .flatten()
}

/// [`decode`], with `+` for a space as in forms.
fn decode_plus(text: &str) -> Option<Cow<'_, str>> {
    if !text.contains('+') {
        return decode(text);
    }
    Some(Cow::Owned(decode(&text.replace('+', " "))?.into_owned()))
}

/// Whether the first line is whole.
fn has_a_line(input: &[u8]) -> bool {
    let line = input.trim_ascii_start();
    line.iter().any(|byte| matches!(byte, b'\r' | b'\n'))
}

/// Whether the first line ends in `HTTP/x.y`: a version we do not speak, rather than nonsense.
fn names_a_version(input: &[u8]) -> bool {
    let line = input
        .split(|byte| matches!(byte, b'\r' | b'\n'))
        .find(|line| !line.is_empty());
    let word = line.and_then(|line| line.rsplit(|byte| *byte == b' ').next());
    matches!(word, Some([b'H', b'T', b'T', b'P', b'/', major, b'.', minor])
        if major.is_ascii_digit() && minor.is_ascii_digit())
}

/// Whether a comma-separated list holds `token`, in any case.
fn has_token(list: &[u8], token: &str) -> bool {
    list.split(|byte| *byte == b',')
        .any(|item| item.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Status of the refusal of `head`, 0 if it is taken.
    fn status(head: &str) -> u16 {
        let mut headers = [const { MaybeUninit::uninit() }; 64];
        match parse(head.as_bytes(), &mut headers) {
            Ok(Some(_)) => 0,
            Ok(None) => panic!("{head:?} counts as incomplete"),
            Err(refused) => refused.status,
        }
    }

    #[test]
    fn a_head_is_incomplete_until_its_empty_line() {
        let whole = b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n";
        for length in 0..whole.len() {
            let mut headers = [const { MaybeUninit::uninit() }; 64];
            let head = parse(&whole[..length], &mut headers).expect("no error");
            assert!(head.is_none(), "{length} bytes are enough");
        }
        let mut headers = [const { MaybeUninit::uninit() }; 64];
        let head = parse(whole, &mut headers)
            .expect("no error")
            .expect("complete");
        assert_eq!((head.length, head.request.path()), (whole.len(), "/livez"));
        assert!(head.keep_alive);
    }

    #[test]
    fn another_version_is_told_apart_from_nonsense_however_it_arrives() {
        for (whole, expected) in [("GET / HTTP/2.0\r", 505), ("GET / SMTP/1.0\n", 400)] {
            for length in 0..whole.len() {
                let mut headers = [const { MaybeUninit::uninit() }; 64];
                let head = parse(&whole.as_bytes()[..length], &mut headers);
                assert!(matches!(head, Ok(None)), "{:?}", &whole[..length]);
            }
            assert_eq!(status(whole), expected);
        }
    }

    #[test]
    fn what_is_refused_has_its_own_status() {
        for (line, expected) in [
            ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", 0),
            ("GET / HTTP/1.0\r\n\r\n", 0),
            ("GET / HTTP/1.1\r\n\r\n", 400),
            ("GET / HTTP/1.0\r\nHost: localhost\u{ff}\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
            ("GET / HTTP/2.0\r\n\r\n", 505),
            ("PRI * HTTP/2.0\r\n\r\n", 505),
            ("GET / HTTP/x\r\n\r\n", 400),
            ("GET / SMTP/1.0\r\n\r\n", 400),
            ("\x16\x03\x01", 400),
            ("GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400),
            ("GET * HTTP/1.0\r\n\r\n", 400),
            ("GET ftp://a/ HTTP/1.0\r\n\r\n", 400),
            ("GET /%zz HTTP/1.0\r\n\r\n", 400),
            ("GET /%ff HTTP/1.0\r\n\r\n", 400),
            ("GET /?a=%f HTTP/1.0\r\n\r\n", 400),
            ("CONNECT a:80 HTTP/1.0\r\n\r\n", 405),
            ("POST / HTTP/1.0\r\n\r\n", 405),
            ("POST / HTTP/1.0\r\nContent-Length: 5\r\n\r\n", 405),
            ("GET / HTTP/1.0\r\nContent-Length: 0\r\n\r\n", 0),
            ("GET / HTTP/1.0\r\nContent-Length: 1\r\n\r\n", 413),
            ("GET / HTTP/1.0\r\nContent-Length: -1\r\n\r\n", 413),
            ("GET / HTTP/1.0\r\nContent-Length: 0, 5\r\n\r\n", 413),
            (
                "GET / HTTP/1.0\r\nContent-Length: 0\r\nContent-Length: 5\r\n\r\n",
                413,
            ),
            ("GET / HTTP/1.0\r\nTransfer-Encoding: identity\r\n\r\n", 413),
        ] {
            assert_eq!(status(line), expected, "{line:?}");
        }
    }

    #[test]
    fn targets_are_taken_apart_and_decoded() {
        for (target, host, path) in [
            ("/", None, "/"),
            ("/readyz/a%2Fb%20c?x=1", None, "/readyz/a/b c"),
            (
                "http://example.org:80/livez",
                Some("example.org:80"),
                "/livez",
            ),
            ("HTTP://example.org", Some("example.org"), "/"),
            ("https://[::1]?x=1", Some("[::1]"), "/"),
        ] {
            let request = Request::new("GET", target).expect("a good target");
            assert_eq!((request.host(), request.path()), (host, path), "{target}");
        }
    }

    #[test]
    fn parameters_are_decoded_and_typed() {
        let request = Request::new("GET", "/?n=5&&s=a+b%26&n=6&flag").expect("a good target");
        assert_eq!(request.parameter::<u8>("n").ok(), Some(Some(5)));
        assert_eq!(
            request.parameter::<String>("s").ok().flatten().as_deref(),
            Some("a b&")
        );
        assert_eq!(
            request
                .parameter::<String>("flag")
                .ok()
                .flatten()
                .as_deref(),
            Some("")
        );
        assert_eq!(request.parameter::<u8>("other").ok(), Some(None));
        assert_eq!(
            request
                .parameter::<u8>("s")
                .err()
                .map(|r| r.status_code().0),
            Some(400)
        );
    }
}
