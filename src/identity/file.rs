//! Opening files that somebody named: none is waited for, and none is longer than it may be.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::OFlags;

/// A file of at most `most` bytes, to read; `None` for one that is longer, or that is no file: a pipe would have
/// us wait for somebody to write, and a device may have no end.
pub(crate) fn open(path: &Path, most: u64) -> io::Result<Option<(File, Metadata)>> {
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    let mut options = OpenOptions::new();
    let file = options.read(true).custom_flags(flags.bits() as i32);
    let file = file.open(path)?;
    let about = file.metadata()?;
    Ok((about.is_file() && about.len() <= most).then_some((file, about)))
}
