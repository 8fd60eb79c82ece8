//! An SSH identity: a key and a certificate that renew, for clients that never see the key.
//!
//! ```no_run
//! use tbot::identity::{Agent, Identity, KeyFile, Source, Stop};
//! # use std::{os::unix::net::UnixListener, sync::Arc, time::Duration};
//!
//! let key = "/etc/worker/id_ed25519".into();
//! let source = Source::KeyFile(KeyFile { key, passphrase: None, certificate: None });
//! let identity = Identity::new();
//! // Again, whenever it is to be renewed.
//! identity.replace(source.obtain(Duration::from_secs(3600), &Stop::default())?);
//! let socket = UnixListener::bind("/run/worker/agent.sock")?;
//! let agent = Agent::start(Arc::new(socket), identity, vec![1000])?; // For SSH_AUTH_SOCK of user 1000.
//! # Ok::<_, Box<dyn std::error::Error>>(())
//! ```

pub(crate) mod agent;
mod certificate;
mod command;
mod credential;
pub(crate) mod file;
mod key;
#[cfg(feature = "cli")]
mod output;
pub(crate) mod protocol;
mod scalar;
mod source;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

pub use agent::Agent;
pub use certificate::Certificate;
pub use credential::Credential;
pub use key::Key;
#[cfg(feature = "cli")]
pub(crate) use output::Output;
#[cfg(feature = "cli")]
pub(crate) use source::Changed;
pub use source::{Command, KeyFile, Source, SshCa};

/// The credential that is used now. Clones share it; whoever has taken one keeps it until done.
#[derive(Clone, Debug, Default)]
pub struct Identity {
    current: Arc<RwLock<Option<Arc<Credential>>>>,
}

impl Identity {
    /// One without a credential yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The credential now, valid or not any more.
    pub fn current(&self) -> Option<Arc<Credential>> {
        self.current
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// From now on it is this one.
    pub fn replace(&self, credential: Credential) {
        let credential = Some(Arc::new(credential));
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = credential;
    }
}

/// Asks whoever obtains a credential to give up. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Ends what runs and whatever begins after it.
    pub fn ask(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether it was asked for.
    pub fn is_asked(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
