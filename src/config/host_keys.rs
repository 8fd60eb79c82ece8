//! Whose host keys are good: `host_ca` and `known_hosts`.

use std::io::{self, Read};
use std::path::Path;

use super::cursor::{Cursor, Map};
use super::{Error, quoted};
use crate::errors::plain;
use crate::identity;

/// Of a file with public keys; a key is at most a kilobyte.
const MAX_KEYS: u64 = 256 * 1024;

/// The public keys of `host_ca`.
pub(super) fn authorities(map: &Map) -> Result<Vec<String>, Error> {
    Ok(map.optional("host_ca", public_keys)?.unwrap_or_default())
}

/// Hosts and their keys, each item as a line of ssh's own known_hosts.
pub(super) fn known_hosts(map: &Map) -> Result<Vec<String>, Error> {
    Ok(map.optional("known_hosts", lines)?.unwrap_or_default())
}

/// Public keys in OpenSSH's form, without their comments: each item is one, or the path of a file of them.
fn public_keys(cursor: &Cursor) -> Result<Vec<String>, Error> {
    let mut keys = Vec::new();
    for item in cursor.list("a list of public keys and paths such as [/etc/ssh/host_ca.pub]")? {
        let text = item.text()?;
        if !text.starts_with('/') {
            keys.push(public_key(&item, text, "")?);
            continue;
        }
        let mut file = String::new();
        let opened = identity::file::open(Path::new(text), MAX_KEYS);
        let read = opened.and_then(|opened| match opened {
            Some((from, _)) => from.take(MAX_KEYS).read_to_string(&mut file),
            None => Err(io::Error::other("it is no file of at most 256 KiB")),
        });
        read.map_err(|error| {
            item.error(format!(
                "{} cannot be read: {}",
                quoted(text),
                plain(&error)
            ))
        })?;
        let before = keys.len();
        for line in file.lines().map(str::trim) {
            if !line.is_empty() && !line.starts_with('#') {
                keys.push(public_key(&item, line, &format!(" in {text}"))?);
            }
        }
        if keys.len() == before {
            // Without a key ssh would go by its own files, which nobody means who names one.
            return Err(item.error(format!("{} has no public key", quoted(text))));
        }
    }
    Ok(keys)
}

fn public_key(cursor: &Cursor, text: &str, place: &str) -> Result<String, Error> {
    let mut key = ssh_key::PublicKey::from_openssh(text).map_err(|error| {
        cursor.error(format!(
            "{}{place} is no public key; write one as `cat host_ca.pub` shows it ({error})",
            quoted(text)
        ))
    })?;
    key.set_comment("");
    key.to_openssh()
        .map_err(|error| cursor.error(error.to_string()))
}

fn lines(cursor: &Cursor) -> Result<Vec<String>, Error> {
    let items = cursor.list("a list of lines such as [\"db1.example ssh-ed25519 AAAA...\"]")?;
    let line = |item: &Cursor| {
        let text = item.text()?;
        let is_line = text.parse::<ssh_key::known_hosts::Entry>().is_ok();
        is_line
            .then(|| text.to_owned())
            .ok_or_else(|| item.error(format!("{} is no line of a known_hosts file", quoted(text))))
    };
    items.iter().map(line).collect()
}
