//! A credential in files, for clients that cannot use an agent.
//!
//! A client opens key and certificate one after the other, and may be interrupted between the two by a
//! renewal. So the key stays what it was, and only the certificate is renewed: at any time both belong
//! together. Where the key does change, there is no certificate before and after it, for as long as a client may
//! take from the one file to the other.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use super::{Credential, Key, Source, Stop};
use crate::config::IdentityOutput;
use crate::errors::plain;
use crate::multiplexer;
use crate::multiplexer::artifacts::{Artifacts, Hosts};
use crate::multiplexer::destination::Destination;

const KEY: &str = "key";
const PUBLIC: &str = "key.pub";
const CERTIFICATE: &str = "key-cert.pub";
const SSH_CONFIG: &str = "ssh_config";
const KNOWN_HOSTS: &str = "known_hosts";

/// For a client to open certificate and key, in either order.
const PAIR: Duration = Duration::from_secs(1);

/// The directory, and what goes there.
#[derive(Debug)]
pub(crate) struct Output {
    destination: Mutex<Arc<Destination>>,
    source: Source,
    ttl: Duration,
    artifacts: Artifacts,
    /// Whether there is a certificate among the files.
    certified: AtomicBool,
}

impl Output {
    /// Takes the directory, and writes nothing yet.
    pub(crate) fn open(
        settings: &IdentityOutput,
        source: Source,
    ) -> Result<Self, multiplexer::Error> {
        let destination = Destination::open(&settings.destination, false)?;
        Ok(Self {
            source,
            ttl: settings.credential_ttl,
            artifacts: Artifacts {
                destination: settings.destination.clone(),
                hosts: vec![Hosts {
                    cluster: settings.cluster_name.clone(),
                    proxy_host: None,
                    patterns: Vec::new(),
                    host_ca: settings.host_ca.clone(),
                    known_hosts: settings.known_hosts.clone(),
                }],
                proxy_command: Vec::new(),
                agent: false,
            },
            destination: Mutex::new(Arc::new(destination)),
            certified: AtomicBool::new(false),
        })
    }

    /// Gets a credential and writes it. The error is a sentence.
    pub(crate) fn renew(&self, stop: &Stop) -> Result<Credential, String> {
        let destination = self.in_place()?;
        let path = destination.path().join(KEY);
        // One that cannot be used is replaced.
        let held = Key::held(&path)?;
        let public = held.as_ref().map(|key| key.public().key_data().clone());
        let credential = self.source.obtain_for(held, self.ttl, stop)?;
        let key = credential.key();
        let certificate = credential.certificate();
        let is_new = public.as_ref() != Some(key.public().key_data());

        let public = key.public().to_openssh();
        let public = public.map_err(|error| error.to_string())? + "\n";
        let certified = certificate.map(|_| Path::new(CERTIFICATE));
        let config = self
            .artifacts
            .ssh_config_of_files(Path::new(KEY), certified);
        // All of them before any takes its place: a disk that is full leaves what was there.
        let mut staged = Vec::new();
        let mut stage = |name, content: &[u8]| {
            let file = destination.stage(name, content);
            staged.extend(file.map_err(|error| failed(&destination, "write", name, error))?);
            Ok::<_, String>(())
        };
        if is_new {
            stage(KEY, key.to_openssh()?.as_bytes())?;
        }
        stage(PUBLIC, public.as_bytes())?;
        if let Some(certificate) = certificate {
            stage(CERTIFICATE, (certificate.to_openssh() + "\n").as_bytes())?;
        }
        stage(SSH_CONFIG, config.as_bytes())?;
        stage(KNOWN_HOSTS, self.artifacts.known_hosts().as_bytes())?;
        let replaces = is_new && destination.has(KEY);
        if is_new || certificate.is_none() {
            let removed = destination.remove(CERTIFICATE);
            removed.map_err(|error| failed(&destination, "remove", CERTIFICATE, error))?;
        }
        for file in staged {
            let name = file.name().to_owned();
            if replaces && [KEY, CERTIFICATE].contains(&&*name) {
                thread::sleep(PAIR);
            }
            let placed = file.take_place();
            placed.map_err(|error| failed(&destination, "replace", &name, error))?;
        }
        self.certified
            .store(certificate.is_some(), Ordering::Relaxed);
        if destination.is_open_to_others() {
            let path = destination.path().display();
            return Err(format!("{path} can be written by others: chmod go-w it"));
        }
        Ok(credential)
    }

    /// Why a client would not find what was written: a sentence. It costs some system calls.
    pub(crate) fn problem(&self) -> Option<String> {
        let destination = self.destination();
        let path = destination.path();
        if !destination.is_in_place() {
            return Some(format!("{} was moved or deleted", path.display()));
        }
        let certificate = self
            .certified
            .load(Ordering::Relaxed)
            .then_some(CERTIFICATE);
        let files = [KEY, PUBLIC, SSH_CONFIG, KNOWN_HOSTS]
            .into_iter()
            .chain(certificate);
        let gone = files.into_iter().find(|name| !destination.has(name))?;
        Some(format!("{} is gone", path.join(gone).display()))
    }

    /// The directory, taken again where its path leads elsewhere by now.
    fn in_place(&self) -> Result<Arc<Destination>, String> {
        let before = self.destination();
        if before.is_in_place() {
            return Ok(before);
        }
        let opened = Destination::open(before.path(), false).map_err(|error| error.to_string())?;
        let opened = Arc::new(opened);
        *self
            .destination
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = opened.clone();
        Ok(opened)
    }

    fn destination(&self) -> Arc<Destination> {
        let destination = self.destination.lock();
        destination.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn failed(destination: &Destination, what: &str, name: &str, error: io::Error) -> String {
    let path = destination.path().join(name);
    format!("cannot {what} {}: {}", path.display(), plain(error))
}
