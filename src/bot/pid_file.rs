//! The pid file.

use std::io::Write;
use std::path::{Path, PathBuf};

use super::{Error, system};

/// The process id in a file, for as long as this lives.
pub(super) struct PidFile(PathBuf);

impl PidFile {
    /// Written whole: a reader never finds half a number. The temporary file is a new one: where others
    /// may write too, the one they left could be a link.
    pub(super) fn write(path: &Path) -> Result<Self, Error> {
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(".tmp");
        let _ = std::fs::remove_file(&temporary);
        std::fs::File::create_new(&temporary)
            .and_then(|mut file| {
                writeln!(file, "{}", std::process::id())
                    .and_then(|()| std::fs::rename(&temporary, path))
                    .inspect_err(|_| drop(std::fs::remove_file(&temporary)))
            })
            .map_err(system(&format!("write the pid file {}", path.display())))?;
        Ok(Self(path.to_owned()))
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        // Another's by now, if it does not hold our number.
        let ours = std::fs::read_to_string(&self.0)
            .is_ok_and(|text| text.trim() == std::process::id().to_string());
        if ours {
            let _ = std::fs::remove_file(&self.0);
        }
    }
}
