//! A credential in files, for clients that cannot use an agent.
//!
//! A client opens key and certificate one after the other, and may be interrupted between the two by a
//! renewal. So the key stays what it was, and only the certificate is renewed: at any time both belong
//! together. Where the key does change, there is no certificate until the new one is there.

use std::io;
use std::path::Path;
use std::time::Duration;

use super::{Credential, Key, Source, Stop};
use crate::config::IdentityOutput;
use crate::errors::plain;
use crate::multiplexer::artifacts::Artifacts;
use crate::multiplexer::destination::Destination;

const KEY: &str = "key";
const PUBLIC: &str = "key.pub";
const CERTIFICATE: &str = "key-cert.pub";

/// The directory, and what goes there.
#[derive(Debug)]
pub struct Output {
    destination: Destination,
    source: Source,
    ttl: Duration,
    artifacts: Artifacts,
}

impl Output {
    /// Takes the directory, and writes nothing yet.
    pub fn open(
        settings: &IdentityOutput,
        source: Source,
    ) -> Result<Self, crate::multiplexer::Error> {
        let destination = Destination::open(&settings.destination, false)?;
        Ok(Self {
            source,
            ttl: settings.credential_ttl,
            artifacts: Artifacts {
                proxy_host: None,
                destination: settings.destination.clone(),
                cluster: settings.cluster_name.clone(),
                proxy_command: Vec::new(),
                host_ca: settings.host_ca.clone(),
                known_hosts: settings.known_hosts.clone(),
                agent: false,
            },
            destination,
        })
    }

    /// Gets a credential and writes it. The error is a sentence.
    pub fn renew(&self, stop: &Stop) -> Result<Credential, String> {
        let path = self.destination.path().join(KEY);
        // One that cannot be used is replaced.
        let held = path.exists().then(|| Key::read(&path, None).ok()).flatten();
        let public = held.as_ref().map(|key| key.public().key_data().clone());
        let credential = self.source.obtain_for(held, self.ttl, stop)?;
        let key = credential.key();
        if public.as_ref() != Some(key.public().key_data()) {
            self.remove(CERTIFICATE)?;
            self.write(KEY, key.to_openssh()?.as_bytes())?;
        }
        let line = key
            .public()
            .to_openssh()
            .map_err(|error| error.to_string())?;
        self.write(PUBLIC, format!("{line}\n").as_bytes())?;
        match credential.certificate() {
            Some(certificate) => {
                let line = certificate.to_openssh();
                self.write(CERTIFICATE, format!("{line}\n").as_bytes())?;
            }
            None => self.remove(CERTIFICATE)?,
        }
        let files = [KEY, CERTIFICATE].map(Path::new);
        let certified = credential.certificate().is_some();
        let config = self
            .artifacts
            .ssh_config_of_files(files[0], certified.then_some(files[1]));
        self.write("ssh_config", config.as_bytes())?;
        self.write("known_hosts", self.artifacts.known_hosts().as_bytes())?;
        Ok(credential)
    }

    fn write(&self, name: &str, content: &[u8]) -> Result<(), String> {
        let written = self.destination.write(name, content);
        written
            .map(drop)
            .map_err(|error| self.failed("write", name, error))
    }

    fn remove(&self, name: &str) -> Result<(), String> {
        let removed = self.destination.remove(name);
        removed.map_err(|error| self.failed("remove", name, error))
    }

    fn failed(&self, what: &str, name: &str, error: io::Error) -> String {
        let path = self.destination.path().join(name);
        format!("cannot {what} {}: {}", path.display(), plain(error))
    }
}
