//! What the integration tests share: the real program and the real parts around it, each behind a
//! guard that leaves no process behind.

// Every test file is a crate of its own and uses its part of this.
#![allow(dead_code)]

pub mod agent;
pub mod black_hole;
pub mod built;
#[cfg(feature = "pprof")]
pub mod chromium;
pub mod clock;
pub mod frozen;
pub mod http;
pub mod keys;
pub mod manager;
pub mod network;
pub mod output;
pub mod process;
pub mod procfs;
pub mod readme;
pub mod server;
pub mod sshd;
pub mod systemd;
pub mod tbot;
pub mod v1;
pub mod wait;

use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

/// A user who is not the one that runs the tests, and whom no test needs to exist by name.
pub const STRANGER: u32 = 65534;

/// True if the tests run as root, which alone can be someone else too.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Says aloud that this machine does not allow a test. The test runner captures what a test that
/// passes prints through the macros, so this goes around them.
pub fn not_tested(what: &str, why: &str) {
    let mut stderr = std::io::stderr().lock();
    writeln!(stderr, "\nNOT TESTED: {what}: {why}").ok();
}

/// True if this machine has `::1`; containers often have not.
pub fn has_ipv6() -> bool {
    std::net::TcpListener::bind(("::1", 0)).is_ok()
}

/// Raises this process's soft limit of open files to the hard one, for tests that hold thousands.
pub fn raise_descriptor_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).expect("a soft limit may rise to the hard one");
}

/// Runs `work` on a thread that is another user for as long as it lives: identities are a thread's
/// to the kernel, so the other tests of this process stay who they are. Root only.
pub fn as_user<T: Send>(uid: u32, work: impl FnOnce() -> T + Send) -> T {
    use rustix::process::{Gid, Uid};
    std::thread::scope(|scope| {
        let worker = scope.spawn(|| {
            let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(uid));
            rustix::thread::set_thread_groups(&[]).expect("root may leave its groups");
            rustix::thread::set_thread_res_gid(gid, gid, gid).expect("root may change its group");
            rustix::thread::set_thread_res_uid(uid, uid, uid).expect("root may become anyone");
            work()
        });
        worker
            .join()
            .expect("the thread of the other user did its work")
    })
}

/// The permissions of a file, of a symbolic link its own.
pub fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        .mode()
        & 0o7777
}

/// Gives a file of the test's other permissions.
pub fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("it is the test's");
}
