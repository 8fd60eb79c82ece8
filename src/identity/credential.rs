//! A key with its certificate: what a client shows to a server.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ssh_key::HashAlg;

use super::Certificate;
use super::key::Key;
use crate::readyz::at_most_9999;

/// SSH_AGENT_RSA_SHA2_256 (draft-ietf-sshm-ssh-agent, "Signature flags").
const RSA_SHA2_256: u32 = 2;

/// A key, and a certificate of its public half if there is one. Both stay as they are: a renewed one
/// is another credential.
#[derive(Debug)]
pub struct Credential {
    key: Key,
    certificate: Option<Certificate>,
}

/// What an agent lists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listed {
    /// Public key or certificate, in its encoding for the wire.
    pub blob: Vec<u8>,
    /// For people.
    pub comment: String,
}

impl Credential {
    /// Puts the two together.
    ///
    /// # Errors
    ///
    /// A sentence: the certificate is not for this key, not one for users, or not valid now.
    pub fn new(key: Key, certificate: Option<Certificate>) -> Result<Self, String> {
        if let Some(certificate) = &certificate {
            check(&key, certificate, SystemTime::now())?;
        }
        Ok(Self { key, certificate })
    }

    /// Its certificate.
    pub fn certificate(&self) -> Option<&Certificate> {
        self.certificate.as_ref()
    }

    /// Its key.
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// When it ends; `None`: never.
    pub fn expires(&self) -> Option<SystemTime> {
        let end = self.certificate.as_ref()?.valid_before();
        // The protocol's "for ever" (PROTOCOL.certkeys) is no time that a clock shows.
        (end < i64::MAX as u64).then(|| at(end))
    }

    /// When it begins.
    pub fn begins(&self) -> SystemTime {
        let certificate = self.certificate.as_ref();
        certificate.map_or(UNIX_EPOCH, |certificate| at(certificate.valid_after()))
    }

    /// What an agent lists, the certificate first: a client tries them in this order.
    pub(crate) fn listed(&self) -> Vec<Listed> {
        let certificate = self.certificate.as_ref().map(|certificate| Listed {
            blob: certificate.blob().to_owned(),
            comment: certificate.key_id().to_owned(),
        });
        let key = self.key.public().to_bytes().ok().map(|blob| Listed {
            blob,
            comment: self.key.public().comment().to_owned(),
        });
        certificate.into_iter().chain(key).collect()
    }

    /// An agent's signature, in its encoding for the wire; `None` if `blob` is not listed. `flags` are
    /// those of the agent's protocol.
    pub(crate) fn sign(
        &self,
        blob: &[u8],
        data: &[u8],
        flags: u32,
    ) -> Option<Result<Vec<u8>, String>> {
        if !self.listed().iter().any(|listed| listed.blob == blob) {
            return None;
        }
        let hash = match flags & RSA_SHA2_256 != 0 {
            true => HashAlg::Sha256,
            false => HashAlg::Sha512,
        };
        let signature = self.key.sign(data, Some(hash));
        Some(signature.and_then(|signature| {
            Vec::try_from(signature).map_err(|error| format!("cannot write a signature: {error}"))
        }))
    }
}

fn check(key: &Key, certificate: &Certificate, now: SystemTime) -> Result<(), String> {
    if key.public().to_bytes().ok().as_deref() != Some(certificate.key()) {
        return Err("the certificate is for another key".into());
    }
    if !certificate.is_for_users() {
        return Err("the certificate is one for hosts, not for users".into());
    }
    let (start, end) = (certificate.valid_after(), certificate.valid_before());
    if !valid(certificate, now) {
        let when = |seconds| humantime::format_rfc3339_seconds(at(seconds));
        return Err(match at(start) > now {
            true => format!("the certificate is valid from {} on only", when(start)),
            false => format!("the certificate has been valid until {} only", when(end)),
        });
    }
    Ok(())
}

fn valid(certificate: &Certificate, now: SystemTime) -> bool {
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    (certificate.valid_after()..certificate.valid_before()).contains(&now)
}

/// A time of a certificate, at most the year 9999.
fn at(seconds: u64) -> SystemTime {
    at_most_9999(Duration::from_secs(seconds))
}
