//! The text of a configuration and the name it has in messages.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD_PAD_INDIFFERENT;

use crate::errors::plain;

use super::Error;

/// More than any configuration needs; a wrong path (`/dev/zero`, a core file) ends here.
const MAX_BYTES: usize = 1 << 20;

/// The text of a configuration.
#[derive(Debug)]
pub struct Source {
    /// What messages call it: the path as it was given, a flag, or an environment variable.
    pub(super) label: String,
    pub(super) text: String,
}

impl Source {
    /// Reads a file.
    pub fn file(path: &Path) -> Result<Self, Error> {
        let label = path.display().to_string();
        let failed = |error: std::io::Error| {
            let advice = match error.kind() {
                std::io::ErrorKind::NotFound => " (is the path right?)",
                std::io::ErrorKind::PermissionDenied => " (who may read it?)",
                _ => "",
            };
            let what = as_part(&error);
            Error::new(format!("cannot read {label}: {what}{advice}")).caused_by(error)
        };
        if path.as_os_str().is_empty() {
            return Err(Error::new("the path of the configuration file is empty"));
        }
        let file = File::open(path).map_err(failed)?;
        if file.metadata().map_err(failed)?.is_dir() {
            return Err(Error::new(format!(
                "cannot read {label}: it is a directory, not a configuration file"
            )));
        }
        let mut bytes = Vec::new();
        file.take(MAX_BYTES as u64 + 1)
            .read_to_end(&mut bytes)
            .map_err(failed)?;
        Self::bytes(label, bytes)
    }

    /// Decodes base64; `label` is the flag or variable it was given by.
    pub fn base64(label: &str, encoded: &str) -> Result<Self, Error> {
        let encoded: Vec<u8> = encoded
            .bytes()
            .filter(|byte| !byte.is_ascii_whitespace())
            .collect();
        let bytes = STANDARD_PAD_INDIFFERENT.decode(encoded).map_err(|error| {
            // The error names symbols of what may be a secret: only the chain has it.
            Error::new(format!(
                "{label}: not base64; encode the configuration with: base64 -w0 my-config.yaml"
            ))
            .caused_by(error)
        })?;
        Self::bytes(label.to_owned(), bytes)
    }

    /// Takes a configuration that was read already; `label` is what messages call it.
    pub fn bytes(label: String, bytes: Vec<u8>) -> Result<Self, Error> {
        if bytes.len() > MAX_BYTES {
            return Err(Error::new(format!(
                "{label}: larger than 1 MiB, which no configuration is"
            )));
        }
        match String::from_utf8(bytes) {
            Ok(text) => Ok(Self { label, text }),
            Err(error) => {
                let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
                let line = valid.iter().filter(|&&byte| byte == b'\n').count() + 1;
                Err(Error::new(format!("{label}:{line}: not UTF-8 text")).caused_by(error))
            }
        }
    }
}

/// The text of a system error as a part of a sentence.
fn as_part(error: &std::io::Error) -> String {
    let text = plain(error);
    let mut letters = text.chars();
    letters
        .next()
        .map(|first| first.to_lowercase().chain(letters).collect())
        .unwrap_or_default()
}
