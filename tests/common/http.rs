//! The smallest HTTP client that can watch a metric; what users see is tested with curl.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use super::wait::PATIENCE;

/// Status and body of a GET.
pub fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).expect("diagnostics accept");
    stream
        .set_read_timeout(Some(PATIENCE))
        .expect("a non-zero time");
    let head = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream
        .write_all(head.as_bytes())
        .expect("diagnostics read a request");
    let mut response = String::new();
    stream
        .read_to_string(&mut response)
        .expect("diagnostics answer in UTF-8 and close");
    let (head, body) = response
        .split_once("\r\n\r\n")
        .expect("a response has a head");
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .unwrap_or_else(|| panic!("no status in {head:?}"));
    (status, body.to_owned())
}
