//! Optimised, static programs, as `make static` builds them.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// What builds them, without the tests that `make test` runs then.
const BUILD: &str = "`make static STATIC_TOO='--bins --example busy'`";

/// `tbot`, or `examples/busy`; no older than its sources.
pub fn static_program(name: &str) -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR"))
        .parent()
        .expect("cargo's directory for tests is in the one for everything");
    let program = target.join(env!("TBOT_TARGET")).join("release").join(name);
    let built = fs::metadata(&program).and_then(|file| file.modified());
    let built = built.unwrap_or_else(|error| {
        panic!("run {BUILD} first: {}: {error}", program.display());
    });
    let (changed, newest) = newest_source(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src")));
    assert!(
        built > changed,
        "run {BUILD} again: {} is older than {}",
        program.display(),
        newest.display()
    );
    program
}

fn newest_source(directory: &Path) -> (SystemTime, PathBuf) {
    fs::read_dir(directory)
        .expect("the sources are there")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.is_dir() || path.extension().is_some_and(|kind| kind == "rs"))
        .map(|path| {
            if path.is_dir() {
                return newest_source(&path);
            }
            let modified = fs::metadata(&path).and_then(|file| file.modified());
            (modified.expect("a time of modification"), path)
        })
        .max()
        .expect("no directory of sources is empty")
}
