//! The smallest HTTP client that can watch a metric; what users see is tested with curl.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use super::wait::PATIENCE;

/// Status and body of a GET.
pub fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let answer = fetch(address, path);
    (answer.status, answer.text().to_owned())
}

/// An answer as it came.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (found, value) = line.split_once(": ")?;
            found.eq_ignore_ascii_case(name).then_some(value)
        })
    }

    /// The body, which is text.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("text")
    }
}

/// Sends a request, to which the service answers and closes.
pub fn begin(address: SocketAddr, request: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).expect("diagnostics accept");
    stream
        .set_read_timeout(Some(PATIENCE))
        .expect("a non-zero time");
    stream
        .write_all(request.as_bytes())
        .expect("diagnostics read a request");
    stream
}

/// The answer to [`begin`].
pub fn end(mut stream: TcpStream) -> Answer {
    let mut response = Vec::new();
    stream
        .read_to_end(&mut response)
        .expect("diagnostics answer and close");
    let at = response
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .unwrap_or_else(|| panic!("no head in {:?}", String::from_utf8_lossy(&response)));
    let body = response.split_off(at + 4);
    let head = String::from_utf8(response).expect("a head is ASCII");
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    Answer {
        status: status.unwrap_or_else(|| panic!("no status in {head:?}")),
        head,
        body,
    }
}

/// A GET with further header lines, each with its line end.
pub fn request(address: SocketAddr, path: &str, headers: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n{headers}\r\n")
}

/// A whole GET.
pub fn fetch(address: SocketAddr, path: &str) -> Answer {
    end(begin(address, &request(address, path, "")))
}
