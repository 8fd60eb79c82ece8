//! A destination on a disk that is full or may not be written to: what was there stays whole, the reason is told,
//! and with room again all is well again.
#![cfg(feature = "pprof")]

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use rustix::process::Signal;

use crate::common::keys::{Keys, readyz};
use crate::common::output::{FILES, Room, await_healthy, await_unhealthy, fingerprint};
use crate::common::process::{run, succeed};
use crate::common::tbot::{Start, Tbot};
use crate::common::wait::until;
use crate::common::{is_root, not_tested};

/// Runs `test` where the directory is a disk of 256 KiB, which nobody else sees and which goes with the test.
fn on_a_small_disk(directory: &Path, test: impl FnOnce() + Send) {
    if !is_root() {
        return not_tested("a disk that is full", "only root may mount one");
    }
    fs::create_dir(directory).expect("the room is ours");
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            use rustix::thread::UnshareFlags;
            // It is unsafe to share no more descriptors, which is not asked for: a thread's own view of the
            // file system, which the programs that it starts have too.
            #[allow(deprecated)]
            let own = rustix::thread::unshare(UnshareFlags::FS | UnshareFlags::NEWNS);
            if own.is_err() {
                return not_tested("a disk that is full", "no mount namespace allowed here");
            }
            succeed(Command::new("mount").args(["--make-rprivate", "/"]));
            let mut mount = Command::new("mount");
            mount.args(["-t", "tmpfs", "-o", "size=256k,mode=700", "none"]);
            succeed(mount.arg(directory));
            test();
        });
        thread.join().expect("the test went well");
    });
}

/// Takes all the room there is.
fn fill(directory: &Path) {
    let mut file = fs::File::create(directory.join("fill")).expect("a name needs no room");
    while file.write(&[0; 512]).is_ok_and(|length| length > 0) {}
}

fn empty(directory: &Path) {
    fs::remove_file(directory.join("fill")).expect("it is there");
}

fn remount(directory: &Path, how: &str) {
    succeed(
        Command::new("mount")
            .args(["-o", &format!("remount,{how}")])
            .arg(directory),
    );
}

#[test]
fn a_credential_in_files_stays_what_it_was() {
    let room = Room::new("");
    on_a_small_disk(&room.path("out"), || {
        let mut tbot = room.start();
        await_healthy(&tbot);
        let first = room.contents();
        fill(&room.path("out"));
        for _ in 0..2 {
            let (before, names) = (room.contents(), room.names());
            tbot.signal(Signal::HUP);
            let path = room.out("key-cert.pub");
            await_unhealthy(
                &tbot,
                &format!("cannot write {}: No space left on device", path.display()),
            );
            assert_eq!((room.contents(), room.names()), (before, names));
            empty(&room.path("out"));
            // By itself.
            await_healthy(&tbot);
            fill(&room.path("out"));
        }
        empty(&room.path("out"));
        let after = room.contents();
        assert!(after[0] == first[0] && after[2] != first[2], "renewed");
        tbot.signal(Signal::TERM);
        assert!(tbot.exit().success());
    });
}

#[test]
fn a_limit_of_file_sizes_is_an_error_like_any_other() {
    let room = Room::new("");
    let mut tbot = room.start();
    await_healthy(&tbot);
    let before = room.contents();
    let limit = |size: &str| {
        let mut prlimit = Command::new("prlimit");
        succeed(prlimit.args([
            "--pid",
            &tbot.pid().to_string(),
            &format!("--fsize={size}:"),
        ]));
    };
    limit("100");
    tbot.signal(Signal::HUP);
    let path = room.out("key-cert.pub");
    let problem = format!("cannot write {}: File too large", path.display());
    await_unhealthy(&tbot, &problem);
    assert_eq!(room.contents(), before);
    limit("unlimited");
    await_healthy(&tbot);
    tbot.signal(Signal::TERM);
    assert!(tbot.exit().success());
}

#[test]
fn a_new_key_takes_the_old_one_s_place_with_its_certificate_or_not_at_all() {
    let keys = Keys::with_pairs();
    let onboarding = format!(
        "{{ join_method: key-file, key_path: {} }}",
        keys.path("id").display()
    );
    let room = Room::of(keys, &onboarding, "");
    room.keys.place_pair("a");
    on_a_small_disk(&room.path("out"), || {
        let tbot = room.start();
        await_healthy(&tbot);
        let before = room.contents();
        fill(&room.path("out"));
        room.keys.place_pair("b");
        tbot.signal(Signal::HUP);
        let path = room.out("key");
        await_unhealthy(&tbot, &format!("cannot write {}: No space", path.display()));
        assert_eq!(room.contents(), before);
        empty(&room.path("out"));
        await_healthy(&tbot);
        let next = fingerprint(&room.path("b"));
        for name in ["key", "key.pub", "key-cert.pub"] {
            assert_eq!(fingerprint(&room.out(name)), next, "{name}");
        }
    });
}

#[test]
fn one_that_is_full_from_the_start_is_waited_for_and_once_is_an_error() {
    let room = Room::new("");
    on_a_small_disk(&room.path("out"), || {
        remount(&room.path("out"), "ro");
        let end = run(&mut room.tbot());
        assert!(
            end.error()
                .ends_with("/out: cannot be locked: Read-only file system"),
            "{end:?}"
        );
        remount(&room.path("out"), "rw");
        fill(&room.path("out"));
        let mut tbot = room.start();
        await_unhealthy(&tbot, "cannot write ");
        assert_eq!(room.contents(), vec![None; FILES.len()]);
        tbot.signal(Signal::TERM);
        assert!(tbot.exit().success());

        let yaml = room.keys.text("tbot.yaml");
        room.keys.write(
            "tbot.yaml",
            yaml.replace("onboarding:", "oneshot: true\nonboarding:"),
        );
        let end = run(&mut room.tbot());
        let error = end.error();
        assert!(
            error.contains("files: cannot write ") && error.ends_with("No space left on device"),
            "{error}"
        );
        assert_eq!(room.names(), [".tbot.lock", "fill"]);
        empty(&room.path("out"));
        assert!(run(&mut room.tbot()).status.success());
        assert!(room.contents().iter().all(Option::is_some));
    });
}

#[test]
fn a_multiplexer_s_files_stay_what_they_were() {
    let keys = Keys::new();
    let directory = keys.path("disk");
    on_a_small_disk(&directory, || {
        let destination = directory.join("mux");
        let tbot = Start::multiplexer().destination(&destination).start();
        let hosts = destination.join("known_hosts");
        let before = fs::read(&hosts).expect("it was written");
        fs::remove_file(tbot.ssh_config()).expect("it is there");
        fill(&directory);
        tbot.signal(Signal::HUP);
        let reason = format!(
            "cannot write {}: No space left on device",
            tbot.ssh_config().display()
        );
        await_reason(&tbot, &reason);
        assert!(!tbot.ssh_config().exists());
        assert_eq!(fs::read(&hosts).expect("it is there"), before);
        let names = fs::read_dir(&destination).expect("it is there").count();
        assert_eq!(names, 3, "no temporary file beside lock, hosts and socket");
        empty(&directory);
        until("it is healthy by itself", || {
            (readyz(&tbot, "ssh-multiplexer-1").0 == 200).then_some(())
        });
        assert!(tbot.ssh_config().exists());
    });
}

fn await_reason(tbot: &Tbot, reason: &str) {
    until(reason, || {
        let (code, _, found) = readyz(tbot, "ssh-multiplexer-1");
        (code == 503 && found == reason).then_some(())
    });
    tbot.stderr.line(reason);
}
