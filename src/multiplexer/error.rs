//! Why a multiplexer does not start, as one sentence.

use std::fmt;
use std::io;
use std::path::PathBuf;

use crate::errors::plain;

/// Why a multiplexer does not start.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The options cannot be served together: what about them, as a sentence.
    Options(String),
    /// The destination cannot be used: what about it.
    Destination {
        /// As configured.
        path: PathBuf,
        /// A sentence without its subject.
        problem: String,
    },
    /// Another tbot serves from the destination.
    InUse {
        /// As configured.
        path: PathBuf,
        /// The other's process id; empty if it has not written it yet.
        pid: String,
    },
    /// The system refused something.
    System {
        /// What was attempted.
        what: String,
        /// What came back.
        source: io::Error,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Options(problem) => f.write_str(problem),
            Self::Destination { path, problem } => {
                write!(f, "destination {}: {problem}", path.display())
            }
            Self::InUse { path, pid } if pid.is_empty() => {
                write!(
                    f,
                    "destination {}: another tbot has just started to serve from it",
                    path.display()
                )
            }
            Self::InUse { path, pid } => write!(
                f,
                "destination {}: another tbot (pid {pid}) serves from it, or is stopping; wait, stop that one or name another directory",
                path.display()
            ),
            Self::System { what, source } => write!(f, "cannot {what}: {}", plain(source)),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::System { source, .. } => Some(source),
            _ => None,
        }
    }
}

/// For what the system refused while this was attempted.
pub(super) fn system(what: &str) -> impl FnOnce(io::Error) -> Error + use<> {
    let what = what.to_owned();
    move |source| Error::System { what, source }
}
