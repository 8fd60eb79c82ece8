//! Responses: how the routes make them, and how one becomes bytes.

use std::borrow::Cow;
use std::io::{self, Cursor, Read};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;
use tiny_http::{HTTPVersion, Header, Response, ResponseBox, StatusCode};

/// A response with a body of a known length.
pub(super) fn response(
    status: u16,
    content_type: &'static str,
    body: impl Into<Cow<'static, [u8]>>,
) -> ResponseBox {
    let body = body.into();
    let length = body.len();
    let reader: Box<dyn Read + Send> = Box::new(Cursor::new(body));
    Response::new(StatusCode(status), Vec::new(), reader, Some(length), None)
        .with_header(header("Content-Type", content_type))
}

/// A response in plain text; the text ends its last line itself.
pub(super) fn text(status: u16, body: impl Into<Cow<'static, str>>) -> ResponseBox {
    let body = match body.into() {
        Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
        Cow::Owned(text) => Cow::Owned(text.into_bytes()),
    };
    response(status, "text/plain; charset=utf-8", body)
}

/// A response in JSON, indented, with a newline at its end as Go's encoder writes it.
pub(super) fn json(status: u16, value: &impl Serialize) -> ResponseBox {
    match serde_json::to_vec_pretty(value) {
        Ok(mut body) => {
            body.push(b'\n');
            // Without a charset: JSON is UTF-8 (RFC 8259, 8.1), and has no such parameter (11).
            response(status, "application/json", body)
        }
        Err(error) => text(500, format!("cannot write JSON: {error}\n")),
    }
}

/// A header of our own making.
pub(super) fn header(field: &'static str, value: &'static str) -> Header {
    Header::from_bytes(field, value).expect("our own headers are ASCII")
}

/// Adds what every answer of the service carries, unless the route set it.
pub(super) fn complete(mut response: ResponseBox) -> ResponseBox {
    for (field, value) in [
        ("Server", "tbot"),
        ("X-Content-Type-Options", "nosniff"),
        // A cached health is a wrong health.
        ("Cache-Control", "no-store"),
    ] {
        if !response
            .headers()
            .iter()
            .any(|header| header.field.equiv(field))
        {
            response.add_header(header(field, value));
        }
    }
    response
}

/// How a response goes onto the wire.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Form {
    pub version: HTTPVersion,
    pub head_only: bool,
    pub keep_alive: bool,
}

/// The last answer with a text that is always the same: within a second, that of its date, nothing else in it changes.
#[derive(Default)]
pub(super) struct Fixed {
    of: Option<(u64, &'static str, Form)>,
    printed: Vec<u8>,
}

impl Fixed {
    /// Writes 200 with `body`, which is shorter than what is compressed.
    pub fn print(
        &mut self,
        body: &'static str,
        form: &Form,
        output: &mut Vec<u8>,
    ) -> io::Result<()> {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let of = (since.unwrap_or_default().as_secs(), body, form.clone());
        if self.of.as_ref() != Some(&of) {
            self.of = None;
            self.printed.clear();
            print(complete(text(200, body)), form, &mut self.printed)?;
            self.of = Some(of);
        }
        output.extend_from_slice(&self.printed);
        Ok(())
    }
}

/// Writes head and body to the end of `output`. The error says what is wrong with the response,
/// and then `output` holds nothing to send.
pub(super) fn print(response: ResponseBox, form: &Form, output: &mut Vec<u8>) -> io::Result<()> {
    // `Header::from_bytes` takes CR and LF (tiny-http issue 288), which would end the head early.
    if let Some(bad) = response.headers().iter().find(|header| !is_clean(header)) {
        return Err(io::Error::other(format!(
            "its header {:?} holds a control character",
            bad.field
        )));
    }
    let response = with_length(response)?;
    let has_body = !form.head_only && !matches!(response.status_code().0, 100..=199 | 204 | 304);
    let length = response.data_length().unwrap_or_default();
    let start = output.len();
    // At once for what is usual, and not moved as it grows.
    output.reserve(512 + if has_body { length.min(64 * 1024) } else { 0 });
    response.with_chunked_threshold(usize::MAX).raw_print(
        &mut *output,
        form.version.clone(),
        &[],
        form.head_only,
        None,
    )?;
    // A body of another length than announced would be taken for the next response.
    let head_end = output.len().checked_sub(if has_body { length } else { 0 });
    if !head_end
        .and_then(|end| output.get(start..end))
        .is_some_and(|head| head.ends_with(b"\r\n\r\n"))
    {
        return Err(io::Error::other("its body is not as long as it says"));
    }
    let connection: &[u8] = match (form.keep_alive, &form.version) {
        (false, _) => b"Connection: close\r\n",
        (true, HTTPVersion(1, 0)) => b"Connection: keep-alive\r\n",
        (true, _) => return Ok(()),
    };
    // `raw_print` leaves this header to its own server, so it goes in behind the status line.
    let line = output[start..]
        .iter()
        .position(|byte| *byte == b'\n')
        .map_or(0, |at| start + at + 1);
    output.splice(line..line, connection.iter().copied());
    Ok(())
}

/// The response with its length known; a body of unknown length is read to its end here, since
/// chunks would need a client that speaks 1.1.
pub(super) fn with_length(response: ResponseBox) -> io::Result<ResponseBox> {
    if response.data_length().is_some() {
        return Ok(response);
    }
    with_body(response, |old| {
        let mut body = Vec::new();
        old.read_to_end(&mut body)?;
        Ok(body)
    })
}

/// The response with a body made of its own.
pub(super) fn with_body(
    response: ResponseBox,
    make: impl FnOnce(&mut dyn Read) -> io::Result<Vec<u8>>,
) -> io::Result<ResponseBox> {
    let (status, headers) = (response.status_code(), response.headers().to_vec());
    let body = make(&mut response.into_reader())?;
    let length = body.len();
    Ok(Response::new(
        status,
        headers,
        Box::new(Cursor::new(body)),
        Some(length),
        None,
    ))
}

fn is_clean(header: &Header) -> bool {
    let field = header.field.as_str().as_bytes();
    !field.is_empty()
        && field
            .iter()
            .all(|byte| byte.is_ascii_graphic() && *byte != b':')
        && header
            .value
            .as_bytes()
            .iter()
            .all(|byte| !byte.is_ascii_control() || *byte == b'\t')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(
        response: ResponseBox,
        version: (u8, u8),
        head_only: bool,
        keep_alive: bool,
    ) -> io::Result<String> {
        let form = Form {
            version: HTTPVersion(version.0, version.1),
            head_only,
            keep_alive,
        };
        let mut output = Vec::new();
        print(complete(response), &form, &mut output)?;
        Ok(String::from_utf8(output).expect("text"))
    }

    #[test]
    fn the_connection_header_says_what_happens_next() {
        let closes = printed(text(200, "OK"), (1, 1), false, false).expect("prints");
        assert!(
            closes.starts_with("HTTP/1.1 200 OK\r\nConnection: close\r\n"),
            "{closes}"
        );
        let stays = printed(text(200, "OK"), (1, 1), false, true).expect("prints");
        assert!(!stays.contains("Connection"), "{stays}");
        let old = printed(text(200, "OK"), (1, 0), false, true).expect("prints");
        assert!(
            old.starts_with("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n"),
            "{old}"
        );
    }

    #[test]
    fn a_fixed_answer_differs_with_how_it_is_sent() {
        let mut fixed = Fixed::default();
        for form in [
            (1, true, false),
            (1, true, false),
            (0, true, false),
            (1, false, false),
            (1, true, true),
        ] {
            let (minor, keep_alive, head_only) = form;
            let expected = || printed(text(200, "OK"), (1, minor), head_only, keep_alive);
            let form = Form {
                version: HTTPVersion(1, minor),
                head_only,
                keep_alive,
            };
            let mut output = Vec::new();
            let before = expected().expect("prints");
            fixed.print("OK", &form, &mut output).expect("prints");
            // The second may have passed.
            let both = [before, expected().expect("prints")];
            let output = String::from_utf8(output).expect("text");
            assert!(both.contains(&output), "{output}");
        }
    }

    #[test]
    fn a_large_body_and_one_of_unknown_length_are_sent_whole_not_in_chunks() {
        let large = "x".repeat(100_000);
        let unknown = || {
            Response::new(
                StatusCode(200),
                Vec::new(),
                io::repeat(b'x').take(100_000),
                None,
                None,
            )
        };
        for response in [text(200, large.clone()), unknown().boxed()] {
            let printed = printed(response, (1, 1), false, true).expect("prints");
            assert!(printed.contains("\r\nContent-Length: 100000\r\n"));
            assert!(!printed.contains("Transfer-Encoding"));
            assert!(printed.ends_with(&large));
        }
        let head = printed(unknown().boxed(), (1, 1), true, true).expect("prints");
        assert!(head.contains("\r\nContent-Length: 100000\r\n") && head.ends_with("\r\n\r\n"));
    }

    #[test]
    fn a_response_that_would_break_the_stream_is_not_sent() {
        let split = text(200, "OK")
            .with_header(Header::from_bytes("A", "b\r\nSet-Cookie: c").expect("ASCII"));
        assert!(printed(split, (1, 1), false, true).is_err());
        for length in [1, 3] {
            let lying = Response::new(StatusCode(200), Vec::new(), &b"OK"[..], Some(length), None);
            assert!(
                printed(lying.boxed(), (1, 1), false, true).is_err(),
                "{length}"
            );
        }
    }
}
