//! `onboarding`: where the identity's credentials come from.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::cursor::{Cursor, Map};
use super::service::words;
use super::{Error, did_you_mean, foreign, quoted};
use crate::identity::{Command, KeyFile, Source, SshCa};

const EXAMPLE: &str = "join_method: ssh-ca";

/// What `ssh-keygen -s` puts into a user's certificate, too.
const EXTENSIONS: [&str; 5] = [
    "permit-X11-forwarding",
    "permit-agent-forwarding",
    "permit-port-forwarding",
    "permit-pty",
    "permit-user-rc",
];

/// OpenSSH's SSHKEY_CERT_MAX_PRINCIPALS.
const MAX_PRINCIPALS: usize = 256;

/// Of what is a line in a log.
const MAX_KEY_ID: usize = 1024;

/// The source at `cursor`; `None` for `join_method: none`.
pub(super) fn onboarding(cursor: &Cursor) -> Result<Option<Source>, Error> {
    let any = cursor.map_of_any_keys("a mapping with a \"join_method\"")?;
    let at = any.required("join_method", EXAMPLE)?;
    let methods = ["ssh-ca", "command", "key-file", "none"];
    let method = at.text()?;
    let map = |keys: &[&str]| {
        let keys: Vec<&str> = [&["join_method"], keys].concat();
        cursor.map("a mapping with a \"join_method\"", &keys)
    };
    match method {
        "ssh-ca" => ssh_ca(&map(&[
            "ca_key_path",
            "ca_key_passphrase_path",
            "principals",
            "key_id",
            "extensions",
            "critical_options",
        ])?)
        .map(Some),
        "command" => command(&map(&["command", "command_timeout"])?).map(Some),
        "key-file" => key_file(&map(&[
            "key_path",
            "key_passphrase_path",
            "certificate_path",
        ])?)
        .map(Some),
        "none" => map(&[]).map(|_| None),
        other => Err(at.error(foreign::join_method(other).unwrap_or_else(|| {
            format!(
                "unknown method {}{} (allowed: {})",
                quoted(other),
                did_you_mean(other, methods).unwrap_or_default(),
                methods.join(", ")
            )
        }))),
    }
}

fn ssh_ca(map: &Map) -> Result<Source, Error> {
    let principals = map.required("principals", "principals: [deploy]")?;
    let names = texts(&principals, principal)?;
    if names.is_empty() {
        return Err(principals.error(
            "a certificate without principals would be good for every user; name at least one",
        ));
    }
    if names.len() > MAX_PRINCIPALS {
        return Err(principals.error(format!(
            "has {} names, and servers refuse a certificate with more than {MAX_PRINCIPALS}",
            names.len()
        )));
    }
    let extensions = map.optional("extensions", |at| texts(at, extension))?;
    let options = match map.get("critical_options") {
        None => Vec::new(),
        Some(at) => critical_options(&at)?,
    };
    Ok(Source::SshCa(SshCa {
        key: path(&map.required("ca_key_path", "ca_key_path: /etc/ssh/user_ca")?)?,
        passphrase: map.optional("ca_key_passphrase_path", path)?,
        principals: names,
        key_id: match map.optional("key_id", key_id)? {
            Some(text) => text,
            None => "tbot@{hostname}".into(),
        },
        extensions: extensions.unwrap_or_else(|| EXTENSIONS.map(str::to_owned).into()),
        critical_options: options,
    }))
}

/// A name by itself, as servers compare it.
fn principal(cursor: &Cursor, name: &str) -> Result<(), Error> {
    if name.is_empty() {
        return Err(cursor.error("is empty; name a user as servers know them"));
    }
    if name.contains(',') || name.trim() != name {
        return Err(cursor.error(format!(
            "{} is no name of a user; write each as an item of its own, as in [deploy, root]",
            quoted(name)
        )));
    }
    Ok(())
}

/// Servers log it whole.
fn key_id(cursor: &Cursor) -> Result<String, Error> {
    let text = cursor.text()?;
    if text.len() > MAX_KEY_ID {
        return Err(cursor.error(format!("is longer than {MAX_KEY_ID} bytes")));
    }
    Ok(text.to_owned())
}

/// The two that OpenSSH knows and that make sense without a security key.
fn critical_options(cursor: &Cursor) -> Result<Vec<(String, String)>, Error> {
    let names = ["force-command", "source-address"];
    let map = cursor.map("a mapping such as { source-address: 10.0.0.0/8 }", &names)?;
    let mut options = Vec::new();
    for name in names {
        if let Some(at) = map.get(name) {
            let value = at.text()?;
            if name == "source-address" {
                source_address(&at, value)?;
            } else if value.is_empty() {
                return Err(at.error("is empty; give a command, or leave it out"));
            }
            options.push((name.to_owned(), value.to_owned()));
        }
    }
    Ok(options)
}

fn command(map: &Map) -> Result<Source, Error> {
    let at = map.required("command", "command: [/usr/local/bin/sign-my-key]")?;
    let words = words(&at)?;
    if words.is_empty() {
        return Err(at.error("there is no program in the list"));
    }
    let timeout = map.optional("command_timeout", Cursor::duration)?;
    Ok(Source::Command(Command {
        words,
        timeout: timeout.unwrap_or(Duration::from_secs(30)),
    }))
}

fn key_file(map: &Map) -> Result<Source, Error> {
    Ok(Source::KeyFile(KeyFile {
        key: path(&map.required("key_path", "key_path: /etc/tbot/id_ed25519")?)?,
        passphrase: map.optional("key_passphrase_path", path)?,
        certificate: map.optional("certificate_path", path)?,
    }))
}

/// The words of a list, each fit for `check` and there once.
fn texts(
    cursor: &Cursor,
    check: impl Fn(&Cursor, &str) -> Result<(), Error>,
) -> Result<Vec<String>, Error> {
    let mut texts = Vec::new();
    for item in cursor.list("a list of words")? {
        let text = item.text()?;
        check(&item, text)?;
        if texts.iter().any(|other| other == text) {
            return Err(item.error(format!("{} is in the list already", quoted(text))));
        }
        texts.push(text.to_owned());
    }
    Ok(texts)
}

/// OpenSSH's, or one of somebody else's, which has a domain (PROTOCOL.certkeys).
fn extension(cursor: &Cursor, name: &str) -> Result<(), Error> {
    let theirs = |(name, domain): (&str, &str)| {
        !name.is_empty()
            && !domain.is_empty()
            && !domain.contains([' ', '@'])
            && !name.contains(' ')
    };
    let ours = EXTENSIONS.contains(&name) || name == "no-touch-required";
    if ours || name.split_once('@').is_some_and(theirs) {
        return Ok(());
    }
    Err(cursor.error(format!(
        "unknown extension {}{} (allowed: {}, and others as NAME@DOMAIN)",
        quoted(name),
        did_you_mean(name, EXTENSIONS).unwrap_or_default(),
        EXTENSIONS.join(", ")
    )))
}

/// Addresses and networks, as servers read them (OpenSSH's addr_match_cidr_list): they refuse a certificate with
/// any other.
fn source_address(cursor: &Cursor, text: &str) -> Result<(), Error> {
    for one in text.split(',') {
        let (address, bits) = match one.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (one, None),
        };
        let (width, value) = match address.parse() {
            Ok(IpAddr::V4(ip)) => (32, u32::from(ip).into()),
            Ok(IpAddr::V6(ip)) => (128, u128::from(ip)),
            Err(_) => (0, 0),
        };
        // A number may have a sign, to Rust.
        let bits = bits.map(|bits| bits.parse::<u32>().ok().filter(|_| !bits.starts_with('+')));
        let bits = bits
            .unwrap_or(Some(width))
            .filter(|bits| *bits <= width && width > 0);
        let Some(bits) = bits else {
            return Err(cursor.error(format!(
                "{} is no list of addresses and networks such as 10.0.0.0/8,192.0.2.7",
                quoted(text)
            )));
        };
        if value.trailing_zeros() < width - bits {
            return Err(cursor.error(format!(
                "{} is no network, as its address goes on after {bits} bits; servers would refuse the certificate",
                quoted(one)
            )));
        }
    }
    Ok(())
}

/// An absolute path; whether it can be read shows at each renewal.
fn path(cursor: &Cursor) -> Result<PathBuf, Error> {
    let path = cursor.path()?;
    std::path::absolute(&path).map_err(|error| {
        cursor
            .error(format!(
                "{} is no path",
                quoted(&path.display().to_string())
            ))
            .caused_by(error)
    })
}
