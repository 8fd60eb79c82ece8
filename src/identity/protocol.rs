//! The agent's protocol (draft-ietf-sshm-ssh-agent; OpenSSH's PROTOCOL.agent), the part of an agent that
//! nobody changes from outside: it lists and signs.
//!
//! | Request | Answer |
//! |---|---|
//! | 11 list | 12: number, then for each its blob and comment |
//! | 13 sign: blob, data, flags | 14: signature |
//! | 27 extension `session-bind@openssh.com`: host key, session, its signature, forwarded | 6 if it is right |
//! | anything else, or nonsense | 5 |

use std::sync::Arc;
use std::time::{Duration, Instant};

use rsa::signature::Verifier;
use ssh_key::sha2::{Digest, Sha256};
use ssh_key::{PublicKey, Signature};

use super::Credential;

const FAILURE: u8 = 5;
const SUCCESS: u8 = 6;
const LIST: u8 = 11;
const LISTED: u8 = 12;
const SIGN: u8 = 13;
const SIGNED: u8 = 14;
const EXTENSION: u8 = 27;

/// The longest message, as OpenSSH has it.
pub(crate) const MAX_MESSAGE: usize = 256 * 1024;

/// One connection's sessions.
#[derive(Debug, Default)]
pub(crate) struct Client {
    bound: Vec<Bound>,
    /// What it was last told of, and when: a renewal may come between list and signature.
    listed: Option<(Arc<Credential>, Instant)>,
}

/// A session of ssh, and what it was bound to.
#[derive(Debug)]
struct Bound {
    session: [u8; 32],
    host: [u8; 32],
    forwarded: bool,
}

/// Sessions that one connection may bind, as OpenSSH has it.
const MAX_SESSIONS: usize = 16;

/// From a list to the signature by what was in it: sshd's own time for a login.
const LOGIN: Duration = Duration::from_secs(120);

impl Client {
    /// The answer to a message, both without their length. Without a credential the agent is empty.
    pub(crate) fn answer(
        &mut self,
        credential: Option<Arc<Credential>>,
        message: &[u8],
    ) -> Vec<u8> {
        let Some((kind, body)) = message.split_first() else {
            return vec![FAILURE];
        };
        match *kind {
            LIST => {
                let answer = list(credential.as_deref());
                self.listed = credential.map(|credential| (credential, Instant::now()));
                answer
            }
            SIGN => {
                self.listed.take_if(|(_, when)| when.elapsed() > LOGIN);
                let listed = self.listed.as_ref().map(|(listed, _)| listed);
                let mut credentials = credential.iter().chain(listed);
                let answer = credentials.find_map(|credential| sign(credential, body));
                answer.unwrap_or_else(|| vec![FAILURE])
            }
            EXTENSION => match self.extension(body) {
                Some(()) => vec![SUCCESS],
                None => vec![FAILURE],
            },
            _ => vec![FAILURE],
        }
    }

    fn extension(&mut self, mut body: &[u8]) -> Option<()> {
        match take(&mut body)? {
            b"session-bind@openssh.com" => self.bind(body),
            _ => None,
        }
    }

    /// Binds a session that its host has signed. What an agent does with that, to keep some keys from some
    /// hosts, is for keys that are restricted so, and ours are not.
    fn bind(&mut self, mut body: &[u8]) -> Option<()> {
        let (host, session) = (take(&mut body)?, take(&mut body)?);
        let signature = take(&mut body)?;
        // What follows is not looked at, nor is it by OpenSSH.
        let forwarded = *body.first()?;
        let key = PublicKey::from_bytes(host).ok()?;
        let signature = Signature::try_from(signature).ok()?;
        key.key_data().verify(session, &signature).ok()?;
        let bound = Bound {
            session: Sha256::digest(session).into(),
            host: Sha256::digest(host).into(),
            forwarded: forwarded != 0,
        };
        for before in &self.bound {
            if !before.forwarded {
                // It was for a login, and is no way further.
                return None;
            }
            if before.session == bound.session {
                return (before.host == bound.host).then_some(());
            }
        }
        if self.bound.len() >= MAX_SESSIONS {
            return None;
        }
        self.bound.push(bound);
        Some(())
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

fn sign(credential: &Credential, mut body: &[u8]) -> Option<Vec<u8>> {
    let (blob, data) = (take(&mut body)?, take(&mut body)?);
    let flags = u32::from_be_bytes(*body.first_chunk()?);
    match credential.sign(blob, data, flags)? {
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

/// A string (RFC 4251, 5) from the front of `bytes`.
pub(crate) fn take<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let (string, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
    *bytes = rest;
    Some(string)
}

/// A string to the end of `into`.
pub(super) fn put(into: &mut Vec<u8>, string: &[u8]) {
    into.extend((string.len() as u32).to_be_bytes());
    into.extend(string);
}
