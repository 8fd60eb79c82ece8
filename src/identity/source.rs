//! Where credentials come from.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ssh_key::PublicKey;
use ssh_key::certificate::{Builder, CertType};
use ssh_key::rand_core::{OsRng, RngCore};

use super::key::Authority;
use super::{Certificate, Credential, Key, Stop};
use super::{command, file};
use crate::errors::plain;

/// How far back a certificate begins: other machines' clocks are not ours.
const BEFORE: Duration = Duration::from_secs(60);

/// A certificate and its comment are some kilobytes.
const MAX_CERTIFICATE: u64 = 64 * 1024;

/// A way to a new credential.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Source {
    /// A fresh key, and a certificate signed by an authority's key on this machine.
    SshCa(SshCa),
    /// A fresh key, and a certificate that a program prints.
    Command(Command),
    /// A key from a file, and its certificate if there is one.
    KeyFile(KeyFile),
}

/// `join_method: ssh-ca`.
#[derive(Clone, Debug, PartialEq)]
pub struct SshCa {
    /// The authority's private key.
    pub key: PathBuf,
    /// A file with its passphrase.
    pub passphrase: Option<PathBuf>,
    /// Users that the certificate stands for.
    pub principals: Vec<String>,
    /// What servers log; `{hostname}` is this machine's name.
    pub key_id: String,
    /// What the certificate allows, such as `permit-pty`.
    pub extensions: Vec<String>,
    /// What it demands, by name, such as `source-address`.
    pub critical_options: Vec<(String, String)>,
}

/// `join_method: command`.
#[derive(Clone, Debug, PartialEq)]
pub struct Command {
    /// The program and its arguments. The public key comes by its standard input.
    pub words: Vec<String>,
    /// How long it may take, at most a day.
    pub timeout: Duration,
}

/// `join_method: key-file`.
#[derive(Clone, Debug, PartialEq)]
pub struct KeyFile {
    /// The private key.
    pub key: PathBuf,
    /// A file with its passphrase.
    pub passphrase: Option<PathBuf>,
    /// Its certificate; `None`: the file beside it with `-cert.pub` behind its name, if there is one.
    pub certificate: Option<PathBuf>,
}

impl Source {
    /// A credential, one that lives for `ttl` where that is ours to say. It may wait for a program, which `stop`
    /// ends.
    ///
    /// # Errors
    ///
    /// A sentence: which file cannot be read, what the program said, or why key and certificate do not go together.
    pub fn obtain(&self, ttl: Duration, stop: &Stop) -> Result<Credential, String> {
        self.obtain_for(None, ttl, stop)
    }

    /// The same for a key that is there, where the key is ours to choose.
    pub(crate) fn obtain_for(
        &self,
        key: Option<Key>,
        ttl: Duration,
        stop: &Stop,
    ) -> Result<Credential, String> {
        let key = || key.map_or_else(Key::generate, Ok);
        match self {
            Self::SshCa(ca) => ca.obtain(key()?, ttl),
            Self::Command(command) => command.obtain(key()?, stop),
            Self::KeyFile(file) => file.obtain(),
        }
    }

    /// What its files were when they were last changed, to find out whether they are again. By the time of the
    /// change, which permissions count for and which nobody sets.
    #[cfg(feature = "cli")]
    pub(crate) fn changed(&self) -> Vec<Option<Changed>> {
        use std::os::unix::fs::MetadataExt;

        let paths = match self {
            Self::SshCa(ca) => vec![Some(ca.key.clone()), ca.passphrase.clone()],
            Self::Command(_) => Vec::new(),
            Self::KeyFile(file) => {
                let certificate = file.certificate.clone().unwrap_or(file.beside());
                vec![
                    Some(file.key.clone()),
                    file.passphrase.clone(),
                    Some(certificate),
                ]
            }
        };
        let changed = |path: PathBuf| {
            let file = std::fs::metadata(path).ok()?;
            Some(Changed(file.ino(), file.ctime(), file.ctime_nsec()))
        };
        paths
            .into_iter()
            .map(|path| path.and_then(changed))
            .collect()
    }
}

/// A file at its last change.
#[cfg(feature = "cli")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Changed(u64, i64, i64);

impl SshCa {
    fn obtain(&self, key: Key, ttl: Duration) -> Result<Credential, String> {
        let authority = Key::read(&self.key, self.passphrase.as_deref())?;
        let certificate = self
            .certify(&authority, key.public(), ttl)
            .map_err(|error| {
                format!(
                    "cannot sign a certificate by {}: {error}",
                    self.key.display()
                )
            })?;
        Credential::new(key, Some(certificate))
    }

    fn certify(
        &self,
        authority: &Key,
        key: &PublicKey,
        ttl: Duration,
    ) -> Result<Certificate, String> {
        let certificate = self.build(authority, key, ttl);
        let line = certificate.and_then(|certificate| certificate.to_openssh());
        Certificate::from_openssh(&line.map_err(|error| error.to_string())?)
    }

    fn build(
        &self,
        authority: &Key,
        key: &PublicKey,
        ttl: Duration,
    ) -> ssh_key::Result<ssh_key::Certificate> {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let start = now.saturating_sub(BEFORE).as_secs();
        let end = now.saturating_add(ttl).as_secs();
        let mut builder = Builder::new_with_random_nonce(&mut OsRng, key, start, end)?;
        builder
            .serial(OsRng.next_u64())?
            .cert_type(CertType::User)?;
        let name = rustix::system::uname();
        builder.key_id(
            self.key_id
                .replace("{hostname}", &name.nodename().to_string_lossy()),
        )?;
        for principal in &self.principals {
            builder.valid_principal(principal)?;
        }
        for name in &self.extensions {
            builder.extension(name, "")?;
        }
        for (name, value) in &self.critical_options {
            builder.critical_option(name, value)?;
        }
        builder.sign(&Authority(authority))
    }
}

impl Command {
    fn obtain(&self, key: Key, stop: &Stop) -> Result<Credential, String> {
        let public = key
            .public()
            .to_openssh()
            .map_err(|error| error.to_string())?;
        let input = format!("{public}\n");
        let output = command::run(&self.words, input.as_bytes(), self.timeout, stop)?;
        // Without its arguments, among which may be a token.
        let program = &self.words[0];
        let certificate = parse(&output)
            .map_err(|error| format!("{program} did not print a certificate: {error}"))?;
        Credential::new(key, Some(certificate))
            .map_err(|problem| format!("what {program} printed is of no use: {problem}"))
    }
}

impl KeyFile {
    /// Where ssh looks for a key's certificate.
    fn beside(&self) -> PathBuf {
        let mut name = self.key.clone().into_os_string();
        name.push("-cert.pub");
        name.into()
    }

    fn obtain(&self) -> Result<Credential, String> {
        let key = Key::read(&self.key, self.passphrase.as_deref())?;
        let beside = || Some(self.beside()).filter(|path| path.exists());
        let Some(path) = self.certificate.clone().or_else(beside) else {
            return Credential::new(key, None);
        };
        let text = read_public(&path)?;
        let certificate = parse(text.as_bytes())
            .map_err(|error| format!("{} is no certificate: {error}", path.display()))?;
        Credential::new(key, Some(certificate))
            .map_err(|problem| format!("{}: {problem}", path.display()))
    }
}

/// A certificate in OpenSSH's one line, among blank ones.
fn parse(text: &[u8]) -> Result<Certificate, String> {
    let text = std::str::from_utf8(text).map_err(|_| "it is not text")?;
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    match (lines.next(), lines.next()) {
        (Some(line), None) => Certificate::from_openssh(line),
        (None, _) => Err("it is empty".into()),
        (Some(_), Some(_)) => Err("it has more than one line".into()),
    }
}

fn read_public(path: &Path) -> Result<String, String> {
    let failed = |error| format!("cannot read {}: {}", path.display(), plain(&error));
    let Some((file, _)) = file::open(path, MAX_CERTIFICATE).map_err(failed)? else {
        return Err(format!(
            "{} is no file with a certificate of at most 64 KiB",
            path.display()
        ));
    };
    let mut text = String::new();
    let read = file.take(MAX_CERTIFICATE).read_to_string(&mut text);
    read.map(|_| text).map_err(failed)
}
