//! The destination directory: what is written there, how, and what is refused.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, lchown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Signal;
use tempfile::TempDir;

use crate::common::process::{copy_program, succeed};
use crate::common::server::Server;
use crate::common::tbot::{Start, Tbot};
use crate::common::v1::{assert_echoes, dial};
use crate::common::wait::until;
use crate::common::{http, mode, set_mode};

#[test]
fn everything_is_private_and_nothing_else_is_left() {
    let tbot = Tbot::start();
    assert_eq!(mode(&tbot.destination), 0o700);
    for name in ["ssh_config", "known_hosts", "v1.sock", ".tbot.lock"] {
        assert_eq!(mode(&tbot.destination.join(name)), 0o600, "{name}");
    }
    assert_eq!(
        names(&tbot.destination),
        [".tbot.lock", "known_hosts", "ssh_config", "v1.sock"]
            .map(String::from)
            .into(),
        "no temporary file"
    );
}

#[test]
fn an_existing_directory_is_made_private() {
    let directory = directory();
    let destination = directory.path().join("mux");
    fs::create_dir(&destination).expect("the directory is ours");
    set_mode(&destination, 0o755);
    let tbot = Start::multiplexer().destination(&destination).start();
    assert_eq!(mode(&tbot.destination), 0o700);
}

#[test]
fn a_directory_with_other_files_keeps_its_mode() {
    let directory = directory();
    let destination = directory.path().join("etc");
    fs::create_dir(&destination).expect("the directory is ours");
    fs::write(destination.join("passwd"), "").expect("the directory is ours");
    set_mode(&destination, 0o755);
    let tbot = Start::multiplexer().destination(&destination).start();
    assert_eq!(mode(&tbot.destination), 0o755, "it is not tbot's alone");
    for name in ["ssh_config", "known_hosts", "v1.sock"] {
        assert_eq!(mode(&tbot.destination.join(name)), 0o600, "{name}");
    }
    tbot.stderr.line_where("a warning about the mode", |line| {
        line.contains("WARN") && line.contains("755")
    });
}

#[test]
fn files_are_for_their_owner_whatever_the_umask() {
    for mask in ["000", "077"] {
        let tbot = Start::multiplexer()
            .through(&["sh", "-c", "umask \"$0\" && exec \"$@\"", mask])
            .start();
        assert_eq!(mode(&tbot.destination), 0o700, "umask {mask}");
        for name in ["ssh_config", "known_hosts", "v1.sock"] {
            assert_eq!(mode(&tbot.destination.join(name)), 0o600, "{name}, {mask}");
        }
    }
}

#[test]
fn generated_files_say_so_at_both_ends() {
    let tbot = Tbot::start();
    for name in ["ssh_config", "known_hosts"] {
        let text = read(&tbot.destination.join(name));
        assert!(text.ends_with('\n'), "{name}: {text:?}");
        for line in [text.lines().next(), text.lines().last()] {
            assert!(
                line.is_some_and(|line| line.starts_with('#')),
                "{name}: {text}"
            );
        }
    }
}

#[test]
fn ssh_understands_the_ssh_config() {
    for (arguments, host) in [
        (&[][..], "host"),
        (&["--cluster-name", "prod"], "host.prod"),
    ] {
        let tbot = Tbot::with(arguments);
        let mut ssh = Command::new("ssh");
        let options = succeed(ssh.arg("-G").arg("-F").arg(tbot.ssh_config()).arg(host));
        let option = |name: &str| {
            options
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
                .unwrap_or_else(|| panic!("no {name} in\n{options}"))
        };
        assert_eq!(option("port"), "22");
        assert_eq!(option("proxyusefdpass"), "yes");
        assert!(option("proxycommand").contains("ssh-multiplexer-proxy-command"));
    }
}

#[test]
fn unchanged_files_are_not_written_again() {
    let directory = directory();
    let destination = directory.path().join("mux");
    let files = [
        destination.join("ssh_config"),
        destination.join("known_hosts"),
    ];
    let state = || {
        files.each_ref().map(|file| {
            let metadata = fs::metadata(file).expect("it was written");
            (metadata.ino(), metadata.mtime(), metadata.mtime_nsec())
        })
    };
    let mut tbot = Start::multiplexer().destination(&destination).start();
    let written = state();
    tbot.signal(Signal::TERM);
    tbot.exit();
    let tbot = Start::multiplexer().destination(&destination).start();
    assert_eq!(state(), written, "by a restart");

    // When the one is restored for the second time, the first signal was dealt with in full.
    for (restored, kept) in [(0, 1), (1, 0)] {
        let written = state();
        for _ in 0..2 {
            fs::remove_file(&files[restored]).expect("it is there");
            tbot.signal(Signal::HUP);
            until("the missing file is back", || {
                files[restored].exists().then_some(())
            });
        }
        assert_eq!(state()[kept], written[kept], "by SIGHUP");
    }
}

#[test]
fn sighup_restores_what_was_altered_or_deleted() {
    let tbot = Tbot::start();
    for name in ["ssh_config", "known_hosts"] {
        let path = tbot.destination.join(name);
        let original = read(&path);
        fs::write(&path, "altered\n").expect("the file is ours");
        set_mode(&path, 0o644);
        tbot.signal(Signal::HUP);
        until("the altered file is restored", || {
            (read(&path) == original).then_some(())
        });
        assert_eq!(mode(&path), 0o600);
        fs::remove_file(&path).expect("it is there");
        tbot.signal(Signal::HUP);
        until("the deleted file is restored", || {
            path.exists().then_some(())
        });
        assert_eq!(read(&path), original);
    }
    assert_eq!(names(&tbot.destination).len(), 4, "no temporary file");
}

#[test]
fn connections_live_through_sighup() {
    let (tbot, echo) = (Tbot::start(), Server::echo());
    let mut client = dial(&tbot, echo.address);
    assert_echoes(&mut client, b"before");
    fs::remove_file(tbot.ssh_config()).expect("it is there");
    tbot.signal(Signal::HUP);
    until("SIGHUP was dealt with", || {
        tbot.ssh_config().exists().then_some(())
    });
    assert_echoes(&mut client, b"behind");
    assert_echoes(&mut dial(&tbot, echo.address), b"new");
}

#[test]
fn a_socket_that_was_taken_away_shows_in_readyz_after_sighup() {
    let tbot = Tbot::start();
    fs::remove_file(tbot.socket()).expect("it is there");
    tbot.signal(Signal::HUP);
    let reason = until("readiness without a socket", || {
        let (status, body) = http::get(tbot.address(), "/readyz");
        (status == 503 || tbot.socket().exists()).then_some(body)
    });
    assert!(
        reason.contains("v1.sock") || tbot.socket().exists(),
        "{reason}"
    );
}

#[test]
fn readyz_says_when_ssh_has_no_program_to_connect_by() {
    let tbot = Start::multiplexer()
        .through(&[
            "sh",
            "-c",
            "cp \"$0\" \"$TMPDIR/own\" && exec \"$TMPDIR/own\" \"$@\"",
        ])
        .start();
    let own = fs::read_link(format!("/proc/{}/exe", tbot.pid())).expect("it runs");
    fs::remove_file(&own).expect("it is the test's");
    tbot.signal(Signal::HUP);
    await_unhealthy(&tbot, &format!("{} is gone", own.display()));
    copy_program(Path::new(env!("CARGO_BIN_EXE_tbot")), &own);
    tbot.signal(Signal::HUP);
    until("it is healthy again", || {
        (http::get(tbot.address(), "/readyz").0 == 200).then_some(())
    });
}

#[test]
fn readyz_says_when_others_may_write_into_the_destination() {
    let tbot = Tbot::start();
    set_mode(&tbot.destination, 0o777);
    tbot.signal(Signal::HUP);
    await_unhealthy(&tbot, "can be written by others");
}

#[test]
fn files_are_restored_even_where_the_socket_cannot_be_and_the_other_way_around() {
    let tbot = Tbot::start();
    fs::remove_file(tbot.socket()).expect("it is there");
    fs::create_dir(tbot.socket()).expect("the directory is ours");
    fs::remove_file(tbot.ssh_config()).expect("it is there");
    tbot.signal(Signal::HUP);
    until("the file", || tbot.ssh_config().exists().then_some(()));
    await_unhealthy(&tbot, "v1.sock again: there is something that is no socket");
    fs::remove_dir(tbot.socket()).expect("the directory is ours");
    fs::remove_file(tbot.ssh_config()).expect("it is there");
    fs::create_dir(tbot.ssh_config()).expect("the directory is ours");
    tbot.signal(Signal::HUP);
    until("the socket", || tbot.socket().exists().then_some(()));
    await_unhealthy(&tbot, "ssh_config: ");
}

fn await_unhealthy(tbot: &Tbot, reason: &str) {
    until(reason, || {
        let (status, body) = http::get(tbot.address(), "/readyz");
        (status == 503 && body.contains(reason)).then_some(())
    });
}

#[test]
fn a_symlink_of_the_same_user_is_followed() {
    let directory = directory();
    fs::create_dir(directory.path().join("real")).expect("the directory is ours");
    symlink("real", directory.path().join("link")).expect("the directory is ours");
    let destination = directory.path().join("link/mux");
    let tbot = Start::multiplexer().destination(&destination).start();
    assert!(tbot.socket().exists());
}

#[test]
fn a_symlink_of_someone_else_is_refused() {
    if !crate::common::is_root() {
        return crate::common::not_tested("foreign symlinks", "only root can make one");
    }
    let directory = directory();
    let link = directory.path().join("link");
    fs::create_dir(directory.path().join("real")).expect("the directory is ours");
    symlink("real", &link).expect("the directory is ours");
    lchown(&link, Some(crate::common::STRANGER), None).expect("root may");
    for destination in [link.join("mux"), link.clone()] {
        assert_refused(&destination, &link.display().to_string());
    }
    assert_eq!(names(&directory.path().join("real")), BTreeSet::new());
}

#[test]
fn a_directory_of_someone_else_is_refused() {
    if !crate::common::is_root() {
        return crate::common::not_tested("foreign directories", "only root can make one");
    }
    let directory = directory();
    let destination = directory.path().join("mux");
    fs::create_dir(&destination).expect("the directory is ours");
    lchown(&destination, Some(crate::common::STRANGER), None).expect("root may");
    assert_refused(&destination, &destination.display().to_string());
}

#[test]
fn a_directory_that_others_may_write_to_is_refused() {
    for writable in [0o770, 0o707, 0o777] {
        let directory = directory();
        let destination = directory.path().join("mux");
        fs::create_dir(&destination).expect("the directory is ours");
        set_mode(&destination, writable);
        assert_refused(&destination, &destination.display().to_string());
        assert_eq!(names(&destination), BTreeSet::new());
    }
}

#[test]
fn a_file_is_no_destination() {
    let directory = directory();
    let destination = directory.path().join("file");
    fs::write(&destination, "mine").expect("the directory is ours");
    assert_refused(&destination, &destination.display().to_string());
    assert_eq!(read(&destination), "mine");
}

#[test]
fn a_destination_below_a_file_is_refused() {
    let directory = directory();
    let file = directory.path().join("file");
    fs::write(&file, "mine").expect("the directory is ours");
    assert_refused(&file.join("mux"), &file.display().to_string());
}

#[test]
fn directories_on_the_way_are_made() {
    let directory = directory();
    let destination = directory.path().join("a/b/c");
    let tbot = Start::multiplexer().destination(&destination).start();
    assert!(tbot.socket().exists());
}

/// tbot does not start in `destination`, and its one message names `path`.
fn assert_refused(destination: &Path, path: &str) {
    let end = Start::multiplexer().destination(destination).finish();
    let error = end.error();
    assert!(error.contains(path), "{error} names {path}");
}

fn directory() -> TempDir {
    tempfile::tempdir().expect("a directory for temporary files")
}

fn read(path: &PathBuf) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn names(path: &Path) -> BTreeSet<String> {
    fs::read_dir(path)
        .expect("it is a directory")
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect()
}
