//! Directories of a configuration: a service's `destination`, and `storage`.

use std::ffi::{OsStr, OsString};
use std::io::ErrorKind;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::cursor::{Cursor, Map};
use super::node::{Node, Origin, Value};
use super::{Error, did_you_mean, quoted};

const EXAMPLE: &str = "{ type: directory, path: /opt/machine-id }";

const STORAGE_EXAMPLE: &str = "{ type: memory }";

/// The types that a destination of the original can have.
const TYPES: [&str; 3] = ["directory", "memory", "kubernetes_secret"];

/// An absolute path at which there is a directory or nothing. Looks, but touches nothing.
pub(super) fn destination(cursor: &Cursor) -> Result<PathBuf, Error> {
    let map = directory_map(cursor, EXAMPLE)?;
    let kind = kind(&map, EXAMPLE, &["directory"])?;
    if kind != "directory" {
        return Err(map.required("type", EXAMPLE)?.error(format!(
            "{} cannot hold sockets and files of an ssh-multiplexer; use {EXAMPLE}",
            quoted(kind)
        )));
    }
    let at = map.required("path", "path: /opt/machine-id")?;
    let path = at.path()?;
    if path.as_encoded_bytes().starts_with(b"file:") {
        let path = quoted(&path.display().to_string());
        return Err(at.error(format!("{path} is a URL; write the path alone")));
    }
    if Path::new(&path).starts_with("~") {
        let path = quoted(&path.display().to_string());
        return Err(at.error(format!(
            "{path}: ~ is not expanded here; write the whole path"
        )));
    }
    let failed = |what: &str| {
        at.error(format!(
            "{} {what}; the destination must be a directory, or nothing yet",
            quoted(&path.display().to_string())
        ))
    };
    let absolute = std::path::absolute(&path)
        .map_err(|error| failed("cannot be made absolute").caused_by(error))?;
    match absolute.metadata() {
        Ok(there) if !there.is_dir() => Err(failed("is no directory")),
        Err(error) if error.kind() == ErrorKind::NotADirectory => {
            Err(failed("has a file where it needs a directory").caused_by(error))
        }
        Err(error) if error.kind() == ErrorKind::NotFound && absolute.is_symlink() => {
            Err(failed("is a symbolic link to nothing").caused_by(error))
        }
        // Whether it can be used shows when it is.
        _ => Ok(absolute),
    }
}

/// The absolute path of a file, which is read when it is needed.
pub(super) fn file(cursor: &Cursor) -> Result<PathBuf, Error> {
    let path = cursor.path()?;
    if Path::new(&path).starts_with("~") {
        let path = quoted(&path.display().to_string());
        return Err(cursor.error(format!(
            "{path}: ~ is not expanded here; write the whole path"
        )));
    }
    std::path::absolute(&path).map_err(|error| {
        let path = quoted(&path.display().to_string());
        let what = format!("{path} cannot be made absolute");
        cursor.error(what).caused_by(error)
    })
}

/// Where the original stores its identity: `None` is memory.
pub(super) fn storage(cursor: &Cursor) -> Result<Option<OsString>, Error> {
    let map = directory_map(cursor, STORAGE_EXAMPLE)?;
    match kind(&map, STORAGE_EXAMPLE, &["memory", "directory"])? {
        "memory" => match map.get("path") {
            Some(path) => Err(path.error("memory has no path; remove it")),
            None => Ok(None),
        },
        "directory" => Ok(Some(map.required("path", "path: /var/lib/tbot")?.path()?)),
        other => Err(map.required("type", STORAGE_EXAMPLE)?.error(format!(
            "{} is not in tbot-rs, which stores nothing; use {STORAGE_EXAMPLE}",
            quoted(other)
        ))),
    }
}

fn directory_map<'a>(cursor: &Cursor<'a>, example: &str) -> Result<Map<'a>, Error> {
    cursor.map(&format!("a mapping like {example}"), &["type", "path"])
}

/// One of the types there are, of which `allowed` are of use here.
fn kind<'a>(map: &Map<'a>, example: &str, allowed: &[&str]) -> Result<&'a str, Error> {
    let cursor = map.required("type", example)?;
    let kind = cursor.text()?;
    if TYPES.contains(&kind) {
        return Ok(kind);
    }
    let hint = did_you_mean(kind, allowed.iter().copied()).unwrap_or_default();
    let (kind, allowed) = (quoted(kind), allowed.join(", "));
    Err(cursor.error(format!("unknown type {kind}{hint} (allowed: {allowed})")))
}

/// What a flag for a directory says: a path, `file:///path`, or `memory:`.
pub(crate) fn directory_from_flag(flag: &'static str, given: OsString) -> Result<Node, Error> {
    let (kind, path) = match scheme(&given) {
        None => ("directory", Some(given)),
        Some(("file", rest)) => ("directory", Some(file_url(flag, rest)?)),
        Some(("memory", _)) => ("memory", None),
        Some(("kubernetes-secret", _)) => ("kubernetes_secret", None),
        Some((other, _)) => {
            return Err(Error::new(format!(
                "{flag}: {} is of an unknown scheme; write a path or file:///path",
                quoted(other)
            )));
        }
    };
    let origin = Origin::Given(flag);
    let mut entries = vec![("type".to_owned(), Value::Text(kind.into()))];
    entries.extend(path.map(|path| ("path".to_owned(), Value::Path(path))));
    let entries = entries
        .into_iter()
        .map(|(key, value)| (key, Node::new(value, origin)))
        .collect();
    Ok(Node::new(Value::Map(entries), origin))
}

/// `memory:` and `scheme://rest`; anything else is a path, even one with a colon.
fn scheme(given: &OsStr) -> Option<(&str, &OsStr)> {
    let bytes = given.as_bytes();
    if bytes == b"memory:" {
        return Some(("memory", OsStr::new("")));
    }
    let end = bytes.windows(3).position(|window| window == b"://")?;
    let name = std::str::from_utf8(&bytes[..end]).ok()?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"+.-".contains(&byte);
    (!name.is_empty() && name.bytes().all(plain))
        .then(|| (name, OsStr::from_bytes(&bytes[end + 3..])))
}

/// The path of `file:///path`, its `%20` decoded.
fn file_url(flag: &str, rest: &OsStr) -> Result<OsString, Error> {
    if !rest.as_bytes().starts_with(b"/") {
        return Err(Error::new(format!(
            "{flag}: {} names no absolute path; write file:///path",
            quoted(&format!("file://{}", rest.display()))
        )));
    }
    let decoded = percent_encoding::percent_decode(rest.as_bytes()).collect();
    Ok(OsString::from_vec(decoded))
}
