//! The agent's protocol (draft-ietf-sshm-ssh-agent; OpenSSH's PROTOCOL.agent), the part of an agent that
//! nobody changes from outside: it lists and signs.
//!
//! | Request | Answer |
//! |---|---|
//! | 11 list | 12: number, then for each its blob and comment |
//! | 13 sign: blob, data, flags | 14: signature |
//! | 27 extension `session-bind@openssh.com`: host key, session, its signature, forwarded | 6 if the signature is right |
//! | 27 any other extension | 28 |
//! | anything else, or nonsense | 5 |

use rsa::signature::Verifier;
use ssh_key::{PublicKey, Signature};

use super::Credential;

const FAILURE: u8 = 5;
const SUCCESS: u8 = 6;
const LIST: u8 = 11;
const LISTED: u8 = 12;
const SIGN: u8 = 13;
const SIGNED: u8 = 14;
const EXTENSION: u8 = 27;
const EXTENSION_FAILURE: u8 = 28;

/// The longest message, as OpenSSH has it.
pub(super) const MAX_MESSAGE: usize = 256 * 1024;

/// The answer to a message, both without their length. Without a credential the agent is empty.
pub(super) fn answer(credential: Option<&Credential>, message: &[u8]) -> Vec<u8> {
    let Some((kind, body)) = message.split_first() else {
        return vec![FAILURE];
    };
    match *kind {
        LIST if body.is_empty() => list(credential),
        SIGN => sign(credential, body).unwrap_or_else(|| vec![FAILURE]),
        EXTENSION => vec![extension(body)],
        _ => vec![FAILURE],
    }
}

fn list(credential: Option<&Credential>) -> Vec<u8> {
    let listed = credential.map(Credential::listed).unwrap_or_default();
    let mut answer = vec![LISTED];
    answer.extend((listed.len() as u32).to_be_bytes());
    for one in listed {
        put(&mut answer, &one.blob);
        put(&mut answer, one.comment.as_bytes());
    }
    answer
}

fn sign(credential: Option<&Credential>, mut body: &[u8]) -> Option<Vec<u8>> {
    let (blob, data) = (take(&mut body)?, take(&mut body)?);
    let flags = u32::from_be_bytes(body.try_into().ok()?);
    match credential?.sign(blob, data, flags)? {
        Ok(signature) => {
            let mut answer = vec![SIGNED];
            put(&mut answer, &signature);
            Some(answer)
        }
        Err(problem) => {
            tracing::warn!("agent: {problem}");
            None
        }
    }
}

fn extension(mut body: &[u8]) -> u8 {
    match take(&mut body) {
        Some(b"session-bind@openssh.com") => match session_is_bound(body) {
            Some(true) => SUCCESS,
            _ => FAILURE,
        },
        Some(_) => EXTENSION_FAILURE,
        None => FAILURE,
    }
}

/// Whether the host has signed the session, as it has to. What an agent does with it, to keep some keys
/// from some hosts, is for keys that are restricted so, and ours are not.
fn session_is_bound(mut body: &[u8]) -> Option<bool> {
    let (host, session) = (take(&mut body)?, take(&mut body)?);
    let (signature, rest) = (take(&mut body)?, body);
    let host = PublicKey::from_bytes(host).ok()?;
    let signature = Signature::try_from(signature).ok()?;
    Some(rest.len() == 1 && host.key_data().verify(session, &signature).is_ok())
}

/// A string (RFC 4251, 5) from the front of `bytes`.
fn take<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let (string, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
    *bytes = rest;
    Some(string)
}

fn put(into: &mut Vec<u8>, string: &[u8]) {
    into.extend((string.len() as u32).to_be_bytes());
    into.extend(string);
}
