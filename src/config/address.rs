//! Network names in a configuration: where to listen, where a bastion is, what a cluster is called.

use std::net::Ipv6Addr;

use super::cursor::{Cursor, Reading};
use super::node::{Node, Origin, Value};
use super::{Error, HostPort, quoted};

/// `host:port` to listen on, an IPv6 host in brackets. Nothing is resolved here.
pub(super) fn listen_address(cursor: &Cursor) -> Result<String, Error> {
    host_port(cursor, "127.0.0.1:3001").map(str::to_owned)
}

/// `host:port` of a bastion, an IPv6 host in brackets.
pub(super) fn proxy_server(cursor: &Cursor) -> Result<HostPort, Error> {
    server(cursor, "bastion.example.com:22")
}

/// The same from a flag that no configuration has a key for; `example` is one as it should be.
pub(crate) fn server_from_flag(
    flag: &'static str,
    text: &str,
    example: &str,
) -> Result<HostPort, Error> {
    let node = Node::new(Value::Text(text.to_owned()), Origin::Given(flag));
    server(&Cursor::new(&node, &Reading::default()), example)
}

fn server(cursor: &Cursor, example: &str) -> Result<HostPort, Error> {
    let text = host_port(cursor, example)?;
    let (host, port) = text.rsplit_once(':').expect("it has a port");
    let host = host.trim_start_matches('[').trim_end_matches(']');
    match port.parse() {
        // ssh would take it for an option.
        Ok(port) if port != 0 && !host.starts_with('-') => Ok(HostPort {
            host: host.to_owned(),
            port,
        }),
        _ => Err(cursor.error(format!(
            "{} is nothing to connect to; it must be host:port, such as {example}",
            quoted(text)
        ))),
    }
}

fn host_port<'a>(cursor: &Cursor<'a>, example: &str) -> Result<&'a str, Error> {
    let wrong = |text: &str, why: &str| {
        cursor.error(format!(
            "{} {why}; it must be host:port, such as {example}",
            quoted(text)
        ))
    };
    if let Value::Int(port) = cursor.node.value {
        return Err(wrong(&port.to_string(), "is a port without a host"));
    }
    let text = cursor.text()?;
    if text.contains("://") {
        return Err(wrong(text, "is a URL"));
    }
    if text.contains('/') {
        return Err(wrong(text, "has a path"));
    }
    let Some((host, port)) = text.rsplit_once(':') else {
        let what = match is_port(text) {
            true => "is a port without a host",
            false => "has no port",
        };
        return Err(wrong(text, what));
    };
    match host.strip_prefix('[') {
        Some(inner) => {
            let address = inner.strip_suffix(']').map(|inner| {
                // A zone, as in fe80::1%eth0, is the system's to judge.
                inner.split_once('%').map_or(inner, |(address, _)| address)
            });
            if address.is_none_or(|address| address.parse::<Ipv6Addr>().is_err()) {
                return Err(wrong(
                    text,
                    "has no IPv6 address and port behind the bracket",
                ));
            }
        }
        None if host.is_empty() => {
            let all = format!("has no host (for every address of this machine: 0.0.0.0:{port})");
            return Err(wrong(text, &all));
        }
        None if text.parse::<Ipv6Addr>().is_ok() || host.contains(':') => {
            return Err(wrong(
                text,
                "needs its IPv6 address in brackets, as in [::1]:3001",
            ));
        }
        None if !host.bytes().all(is_host_byte) => {
            return Err(wrong(text, "has a character that no host has"));
        }
        None => {}
    }
    if !is_port(port) {
        return Err(wrong(text, "has no port from 0 to 65535 at its end"));
    }
    Ok(text)
}

/// Digits only: Rust would read `+80`, too.
fn is_port(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit()) && text.parse::<u16>().is_ok()
}

fn is_host_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b".-_".contains(&byte)
}

/// A cluster's name: a DNS name or one label of it, in lower case, as ssh compares host names.
pub(super) fn cluster_name(cursor: &Cursor) -> Result<String, Error> {
    let text = cursor.text()?;
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    if text.len() > 253 || !text.split('.').all(label) {
        return Err(cursor.error(format!(
            "{} is no cluster name; it must be a DNS name or a label of one, such as prod or \
             prod.example.com, of the characters a-z 0-9 - and .",
            quoted(text)
        )));
    }
    Ok(text.to_owned())
}
