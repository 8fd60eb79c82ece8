//! `ssh_options`: further options for the connections to a bastion, but for those that make these work.

use super::cursor::Cursor;
use super::{Error, quoted};

/// What tbot gives `ssh` itself: the first value of an option counts, so another would have no effect, or there
/// would be no connection to share.
const OURS: [&str; 26] = [
    "BatchMode",
    "CheckHostIP",
    "ClearAllForwardings",
    "ControlMaster",
    "ControlPath",
    "ControlPersist",
    "DynamicForward",
    "ForkAfterAuthentication",
    "ForwardAgent",
    "ForwardX11",
    "IgnoreUnknown",
    "LocalCommand",
    "LocalForward",
    "LogLevel",
    "PermitLocalCommand",
    "ProxyCommand",
    "ProxyJump",
    "ProxyUseFdpass",
    "RemoteCommand",
    "RemoteForward",
    "RequestTTY",
    "ServerAliveCountMax",
    "ServerAliveInterval",
    "SessionType",
    "StdinNull",
    "Tunnel",
];

/// What has a key of its own.
const KEYS: [(&str, &str); 7] = [
    ("Host", "\"ssh_config_path\""),
    ("IdentityAgent", "\"onboarding\", or \"ssh_config_path\""),
    ("IdentityFile", "\"identity_file\""),
    ("Include", "\"ssh_config_path\""),
    ("Match", "\"ssh_config_path\""),
    ("Port", "\"proxy_server\""),
    ("User", "\"user\""),
];

/// What `host_ca` and `known_hosts` decide, where either is there.
const HOST_KEYS: [&str; 7] = [
    "GlobalKnownHostsFile",
    "KnownHostsCommand",
    "NoHostAuthenticationForLocalhost",
    "StrictHostKeyChecking",
    "UpdateHostKeys",
    "UserKnownHostsFile",
    "VerifyHostKeyDNS",
];

/// Each as `Name=value`, as `ssh -o` takes it.
pub(super) fn options(cursor: &Cursor, knows_hosts: bool) -> Result<Vec<String>, Error> {
    let items = cursor.list("a list of options such as [Ciphers=aes256-gcm@openssh.com]")?;
    items.iter().map(|item| option(item, knows_hosts)).collect()
}

fn option(cursor: &Cursor, knows_hosts: bool) -> Result<String, Error> {
    let text = cursor.text()?;
    let end = text.find([' ', '=']).unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    let value = rest.trim_start_matches(' ');
    let value = value.strip_prefix('=').unwrap_or(value).trim();
    if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric()) || value.is_empty() {
        return Err(cursor.error(format!(
            "{} is no option of ssh; write Name=value, such as Compression=yes",
            quoted(text)
        )));
    }
    let is_named = |known: &&str| known.eq_ignore_ascii_case(name);
    if let Some(known) = OURS.iter().find(|known| is_named(known)) {
        return Err(cursor.error(format!(
            "{known} is not to be chosen: tbot sets it for the connections that it shares; remove it"
        )));
    }
    if let Some((known, key)) = KEYS.iter().find(|(known, _)| is_named(known)) {
        return Err(cursor.error(format!("{known} has a key of its own here: write {key}")));
    }
    if let Some(known) = HOST_KEYS
        .iter()
        .find(|known| knows_hosts && is_named(known))
    {
        return Err(cursor.error(format!(
            "{known} has no effect beside \"host_ca\" and \"known_hosts\", which say whose host keys are good; \
             remove it"
        )));
    }
    Ok(format!("{name}={value}"))
}
