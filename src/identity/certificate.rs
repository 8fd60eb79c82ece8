//! A certificate (OpenSSH's PROTOCOL.certkeys), as far as its holder needs it.
//!
//! Not by `ssh-key`: 0.6.7 refuses a certificate without an end, which `ssh-keygen -s` makes by default.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::protocol::{put, take};

const USER: u32 = 1;

/// A certificate of a public key.
#[derive(Clone, Debug)]
pub struct Certificate {
    algorithm: String,
    blob: Vec<u8>,
    comment: String,
    key: Vec<u8>,
    kind: u32,
    key_id: String,
    after: u64,
    before: u64,
}

impl Certificate {
    /// Reads OpenSSH's one line.
    ///
    /// # Errors
    ///
    /// Goes on from "it is no certificate:".
    pub fn from_openssh(line: &str) -> Result<Self, String> {
        let mut words = line.trim().splitn(3, [' ', '\t']);
        let (algorithm, base64) = (words.next(), words.next());
        let (Some(algorithm), Some(base64)) = (algorithm, base64) else {
            return Err("it is not a line of a type and a certificate in base64".into());
        };
        let Some(plain) = algorithm.strip_suffix("-cert-v01@openssh.com") else {
            return Err(format!(
                "it is of the type {}, and certificates end in -cert-v01@openssh.com",
                algorithm.escape_debug().take(60).collect::<String>()
            ));
        };
        let blob = (STANDARD.decode(base64)).map_err(|_| "its base64 is broken")?;
        let comment = words.next().unwrap_or_default().trim().to_owned();
        Self::decode(algorithm, plain, &blob, comment)
            .ok_or_else(|| "it is cut off, or of a type that is not known here".into())
    }

    fn decode(algorithm: &str, plain: &str, blob: &[u8], comment: String) -> Option<Self> {
        let fields = match plain {
            "ssh-ed25519" => 1,
            "ssh-rsa" | "ecdsa-sha2-nistp256" | "ecdsa-sha2-nistp384" | "ecdsa-sha2-nistp521" => 2,
            _ => return None,
        };
        let mut rest = blob;
        let named = take(&mut rest)?;
        let _nonce = take(&mut rest)?;
        let mut key = Vec::new();
        put(&mut key, plain.as_bytes());
        for _ in 0..fields {
            put(&mut key, take(&mut rest)?);
        }
        let _serial = number(&mut rest)?;
        let (kind, after_kind) = rest.split_first_chunk::<4>()?;
        rest = after_kind;
        let key_id = String::from_utf8_lossy(take(&mut rest)?).into_owned();
        let _principals = take(&mut rest)?;
        let (after, before) = (number(&mut rest)?, number(&mut rest)?);
        // Critical options, extensions, reserved, the authority's key and its signature.
        for _ in 0..5 {
            take(&mut rest)?;
        }
        let whole = named == algorithm.as_bytes() && rest.is_empty();
        whole.then(|| Self {
            algorithm: algorithm.to_owned(),
            blob: blob.to_owned(),
            comment,
            key,
            kind: u32::from_be_bytes(*kind),
            key_id,
            after,
            before,
        })
    }

    /// OpenSSH's one line, without its end.
    pub fn to_openssh(&self) -> String {
        let line = format!(
            "{} {} {}",
            self.algorithm,
            STANDARD.encode(&self.blob),
            self.comment
        );
        line.trim_end().to_owned()
    }

    /// Its encoding for the wire.
    pub fn blob(&self) -> &[u8] {
        &self.blob
    }

    /// The public key that it is for, in its encoding for the wire.
    pub fn key(&self) -> &[u8] {
        &self.key
    }

    /// Whether it is one for users, not for hosts.
    pub(crate) fn is_for_users(&self) -> bool {
        self.kind == USER
    }

    /// What servers log of it.
    pub fn key_id(&self) -> &str {
        &self.key_id
    }

    /// From when it is valid, in seconds since 1970.
    pub fn valid_after(&self) -> u64 {
        self.after
    }

    /// When it ends, in seconds since 1970; `u64::MAX`: never.
    pub fn valid_before(&self) -> u64 {
        self.before
    }
}

fn number(bytes: &mut &[u8]) -> Option<u64> {
    let (number, rest) = bytes.split_first_chunk::<8>()?;
    *bytes = rest;
    Some(u64::from_be_bytes(*number))
}
