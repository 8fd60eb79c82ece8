//! A private key that signs, and forgets itself when dropped.

use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rsa::signature::Signer;
use rsa::{Pkcs1v15Sign, RsaPrivateKey};
use rustix::io::Errno;
use ssh_key::private::{KeypairData, RsaKeypair};
use ssh_key::public::KeyData;
use ssh_key::rand_core::OsRng;
use ssh_key::sha2::{Digest, Sha256, Sha512};
use ssh_key::{Algorithm, HashAlg, Kdf, PrivateKey, PublicKey, Signature};
use zeroize::Zeroizing;

use super::{file, scalar};
use crate::errors::plain;
use crate::sys::leaving_nothing;

/// A key file is some kilobytes; what is longer is none.
const MAX_FILE: u64 = 64 * 1024;

/// Some seconds; `ssh-keygen -a` has 24 by default, and a file can ask for days.
const MAX_ROUNDS: u32 = 1000;

/// A private key in memory, which is zeroed when it is dropped. It is never shown.
pub struct Key {
    /// In one place, as moving it would leave copies behind; there until it is dropped.
    secret: Option<Box<Secret>>,
}

struct Secret {
    private: PrivateKey,
    /// What signs, of an RSA key.
    rsa: Option<RsaPrivateKey>,
}

impl Key {
    /// A new ed25519 key.
    ///
    /// # Errors
    ///
    /// Where the system gives no random numbers: a sentence.
    pub fn generate() -> Result<Self, String> {
        leaving_nothing(|| {
            let key = PrivateKey::random(&mut OsRng, Algorithm::Ed25519);
            key.map_err(|error| error.to_string()).and_then(Self::new)
        })
        .map_err(|error| format!("cannot make a key: {error}"))
    }

    /// Reads a key in OpenSSH's format, encrypted or not. As ssh does, it refuses a file that others may
    /// read.
    ///
    /// # Errors
    ///
    /// Why the file cannot be used: a sentence with its path, and what mends it.
    pub fn read(path: &Path, passphrase: Option<&Path>) -> Result<Self, String> {
        leaving_nothing(|| Self::of_text(&read_secret(path)?, path, passphrase))
    }

    /// The key in a file, if it can be used. The error: that cannot be told now, for want of descriptors or
    /// memory.
    #[cfg(feature = "cli")]
    pub(crate) fn held(path: &Path) -> Result<Option<Self>, String> {
        leaving_nothing(|| match read_secret(path) {
            Ok(text) => Ok(Self::of_text(&text, path, None).ok()),
            Err(unread) if unread.for_now => Err(unread.problem),
            Err(_) => Ok(None),
        })
    }

    fn of_text(text: &str, path: &Path, passphrase: Option<&Path>) -> Result<Self, String> {
        let shown = path.display();
        let key = parse(text).map_err(|error| {
            format!(
                "{shown} is no private key in OpenSSH's format: {error} \
                 (`ssh-keygen -p -f FILE` converts older ones)"
            )
        })?;
        let key = match (key.is_encrypted(), passphrase) {
            (false, _) => key,
            (true, None) => {
                return Err(format!(
                    "{shown} is encrypted, and no passphrase file is given"
                ));
            }
            (true, Some(_))
                if let Kdf::Bcrypt { rounds, .. } = key.kdf()
                    && *rounds > MAX_ROUNDS =>
            {
                return Err(format!(
                    "{shown} is encrypted in {rounds} rounds, and more than {MAX_ROUNDS} take too long; \
                     `ssh-keygen -p -a 100 -f` it"
                ));
            }
            (true, Some(passphrase)) => {
                let words = read_secret(passphrase)?;
                let words = words.trim_end_matches(['\n', '\r']);
                let wrong = |_| {
                    format!(
                        "the passphrase in {} does not open {shown}",
                        passphrase.display()
                    )
                };
                decrypt(&key, words).map_err(wrong)?
            }
        };
        Self::new(key).map_err(|problem| format!("{shown} cannot be used: {problem}"))
    }

    pub(crate) fn new(private: PrivateKey) -> Result<Self, String> {
        let rsa = match private.key_data() {
            KeypairData::Ed25519(_) | KeypairData::Ecdsa(_) => None,
            KeypairData::Rsa(pair) => Some(rsa_key(pair)?),
            _ => {
                return Err(format!(
                    "it is a key of the type {}, which cannot sign here (ed25519, ecdsa and rsa can)",
                    private.algorithm()
                ));
            }
        };
        let secret = Box::new(Secret { private, rsa });
        crate::sys::lock_memory(&*secret);
        let secret = Some(secret);
        Ok(Self { secret })
    }

    fn secret(&self) -> &Secret {
        self.secret
            .as_ref()
            .expect("only dropping the key takes it")
    }

    /// It in OpenSSH's format, not encrypted.
    #[cfg(feature = "cli")]
    pub(crate) fn to_openssh(&self) -> Result<Zeroizing<String>, String> {
        leaving_nothing(|| {
            let text = self.secret().private.to_openssh(ssh_key::LineEnding::LF);
            text.map_err(|error| format!("cannot write a key: {error}"))
        })
    }

    /// Its public half.
    pub fn public(&self) -> &PublicKey {
        self.secret().private.public_key()
    }

    /// A signature; of an RSA key by `hash`, SHA-512 if `None`. RSA's SHA-1 is not made.
    ///
    /// # Errors
    ///
    /// Why there is none: a sentence.
    pub fn sign(&self, data: &[u8], hash: Option<HashAlg>) -> Result<Signature, String> {
        let signed = leaving_nothing(|| {
            let Secret { private, rsa } = self.secret();
            let signature = match rsa {
                Some(key) => sign_rsa(key, data, hash.unwrap_or(HashAlg::Sha512)),
                None => (private.key_data().try_sign(data)).map_err(|error| error.to_string()),
            };
            // As bytes, which have no unused room.
            Vec::try_from(signature?).map_err(|error| error.to_string())
        });
        signed
            .and_then(|bytes| Signature::try_from(&*bytes).map_err(|error| error.to_string()))
            .map_err(|error| format!("cannot sign: {error}"))
    }
}

/// With the unused room of a key, in which lies what moving it has left there.
impl Drop for Key {
    fn drop(&mut self) {
        leaving_nothing(|| drop(self.secret.take()));
    }
}

/// A key as the authority of certificates.
pub(super) struct Authority<'k>(pub &'k Key);

impl Signer<Signature> for Authority<'_> {
    fn try_sign(&self, data: &[u8]) -> Result<Signature, rsa::signature::Error> {
        self.0
            .sign(data, None)
            .map_err(rsa::signature::Error::from_source)
    }
}

impl ssh_key::SigningKey for Authority<'_> {
    fn public_key(&self) -> KeyData {
        self.0.public().key_data().clone()
    }
}

/// Without the secret.
impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Key")
            .field(&self.public().fingerprint(HashAlg::Sha256))
            .finish()
    }
}

fn parse(text: &str) -> Result<PrivateKey, ssh_key::Error> {
    let key = PrivateKey::from_openssh(text);
    if let Err(ssh_key::Error::Encoding(_)) = key {
        let lines = text.lines().filter(|line| !line.starts_with('-'));
        let mut base64 = Zeroizing::new(String::with_capacity(text.len()));
        base64.extend(lines);
        let bytes = STANDARD.decode(&*base64).map(Zeroizing::new);
        if let Some(key) = bytes.ok().and_then(|bytes| scalar::read(&bytes)) {
            return Ok(key);
        }
    }
    key
}

fn decrypt(key: &PrivateKey, words: &str) -> Result<PrivateKey, ssh_key::Error> {
    let decrypted = key.decrypt(words);
    if let (Err(ssh_key::Error::Encoding(_)), Some(secret)) =
        (&decrypted, key.key_data().encrypted())
    {
        let (cipher_key, iv) = key.kdf().derive_key_and_iv(key.cipher(), words)?;
        let mut section = Zeroizing::new(secret.to_vec());
        // Without a tag: of ciphers that have one, OpenSSH uses none unless told to.
        (key.cipher()).decrypt(&cipher_key, &iv, &mut section, None)?;
        let public = key.public_key().to_bytes()?;
        if let Some(key) = scalar::of_sections(&public, &section) {
            return Ok(key);
        }
    }
    decrypted
}

/// `ssh-key` 0.6.7 makes the key from one prime twice, and then nothing can be signed.
fn rsa_key(pair: &RsaKeypair) -> Result<RsaPrivateKey, String> {
    let number =
        |number: &ssh_key::Mpint| rsa::BigUint::try_from(number).map_err(|error| error.to_string());
    let primes = vec![number(&pair.private.p)?, number(&pair.private.q)?];
    let (n, e, d) = (
        number(&pair.public.n)?,
        number(&pair.public.e)?,
        number(&pair.private.d)?,
    );
    RsaPrivateKey::from_components(n, e, d, primes).map_err(|error| error.to_string())
}

/// Blinded, so that the time it takes tells nothing of the key.
fn sign_rsa(key: &RsaPrivateKey, data: &[u8], hash: HashAlg) -> Result<Signature, String> {
    let signature = match hash {
        HashAlg::Sha256 => key.sign_with_rng(
            &mut OsRng,
            Pkcs1v15Sign::new::<Sha256>(),
            &Sha256::digest(data),
        ),
        _ => key.sign_with_rng(
            &mut OsRng,
            Pkcs1v15Sign::new::<Sha512>(),
            &Sha512::digest(data),
        ),
    };
    let signature = signature.map_err(|error| error.to_string())?;
    Signature::new(Algorithm::Rsa { hash: Some(hash) }, signature)
        .map_err(|error| error.to_string())
}

/// Why a secret was not read.
struct Unread {
    problem: String,
    /// Not for what the file is.
    #[cfg_attr(not(feature = "cli"), expect(dead_code, reason = "outputs ask for it"))]
    for_now: bool,
}

impl From<Unread> for String {
    fn from(unread: Unread) -> Self {
        unread.problem
    }
}

/// A file with a secret, which nobody but its owner may read.
fn read_secret(path: &Path) -> Result<Zeroizing<String>, Unread> {
    let shown = path.display();
    let failed = |error: io::Error| Unread {
        problem: format!("cannot read {shown}: {}", plain(&error)),
        for_now: [Errno::MFILE, Errno::NFILE, Errno::NOMEM]
            .map(|short| short.raw_os_error())
            .contains(&error.raw_os_error().unwrap_or_default()),
    };
    let unfit = |problem| Unread {
        problem,
        for_now: false,
    };
    let Some((file, about)) = file::open(path, MAX_FILE).map_err(failed)? else {
        return Err(unfit(format!(
            "{shown} is no file with a secret of at most 64 KiB"
        )));
    };
    let mode = about.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(unfit(format!(
            "{shown} can be read or changed by others (mode {mode:04o}); `chmod 600` it"
        )));
    }
    // Room for all of it at once: growing would leave copies behind.
    let mut text = Zeroizing::new(String::with_capacity(about.len() as usize + 1));
    file.take(MAX_FILE)
        .read_to_string(&mut text)
        .map_err(failed)?;
    Ok(text)
}
