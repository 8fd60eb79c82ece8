//! The output service `identity`: credentials in files, for clients without an agent.
#![cfg(feature = "pprof")]

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::common::keys::Keys;
use crate::common::output::{FILES, Room, await_healthy, await_unhealthy, fingerprint};
use crate::common::process::{Process, run, succeed};
use crate::common::wait::until;
use crate::common::{is_root, mode, set_mode};
use rustix::process::Signal;

/// What `ssh-keygen -L` shows of a certificate.
fn certificate(path: &Path) -> String {
    succeed(Command::new("ssh-keygen").arg("-L").arg("-f").arg(path))
}

#[test]
fn once_means_written_and_ended() {
    let room = Room::new("oneshot: true\n");
    let end = run(&mut room.tbot());
    assert!(end.status.success(), "{end:?}");
    for name in FILES {
        assert_eq!(mode(&room.out(name)), 0o600, "{name}");
    }
    let shown = certificate(&room.out("key-cert.pub"));
    assert!(shown.contains("deploy"), "{shown}");
    let key = fingerprint(&room.out("key"));
    assert!(key.is_some());
    assert_eq!(fingerprint(&room.out("key-cert.pub")), key);
    assert_eq!(fingerprint(&room.out("key.pub")), key);
    let hosts = fs::read_to_string(room.out("known_hosts")).expect("it is there");
    assert!(
        hosts.contains("\n@cert-authority * ssh-ed25519 "),
        "{hosts}"
    );
    // As ssh understands it.
    let mut ssh = Command::new("ssh");
    let shown = succeed(
        ssh.args(["-G", "-F"])
            .arg(room.out("ssh_config"))
            .arg("host"),
    );
    for (option, value) in [
        ("identityfile", room.out("key")),
        ("certificatefile", room.out("key-cert.pub")),
        ("userknownhostsfile", room.out("known_hosts")),
        ("identityagent", "none".into()),
        ("identitiesonly", "yes".into()),
        ("stricthostkeychecking", "true".into()),
    ] {
        let line = format!("{option} {}\n", value.display());
        assert!(shown.contains(&line), "no {line} in {shown}");
    }
}

#[test]
fn once_fails_where_there_is_no_credential() {
    let room = Room::new("oneshot: true\n");
    crate::common::set_mode(&room.path("ca"), 0o644);
    let end = run(&mut room.tbot());
    let error = end.error();
    assert!(
        error.contains("files") && error.contains("chmod 600"),
        "{error}"
    );
    assert!(!room.out("key").exists(), "nothing was written");
}

#[test]
fn one_that_fails_keeps_nothing_from_the_others() {
    let room = Room::new("oneshot: true\n");
    let yaml = room.keys.text("tbot.yaml");
    let unfit = room.path("unfit");
    fs::create_dir(&unfit).expect("the room is ours");
    crate::common::set_mode(&unfit, 0o777);
    let before = format!(
        "services:\n  - type: identity\n    name: unfit\n    destination: {{ type: directory, path: {} }}\n",
        unfit.display()
    );
    room.keys
        .write("tbot.yaml", yaml.replace("services:\n", &before));
    let end = run(&mut room.tbot());
    let error = end.error();
    assert!(
        error.contains("identity \"unfit\": ") && error.contains("others"),
        "{error}"
    );
    for name in FILES {
        assert!(room.out(name).exists(), "{name}");
    }
}

#[test]
fn a_reader_never_sees_a_key_with_another_key_s_certificate() {
    let room = Room::new("");
    let mut tbot = room.start();
    tbot.stderr.line("files: SHA256:");
    let first = certificate(&room.out("key-cert.pub"));
    let stop = AtomicBool::new(false);
    let looks = std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut looks = 0;
            while !stop.load(Ordering::Relaxed) {
                let key = fingerprint(&room.out("key"));
                let certified = fingerprint(&room.out("key-cert.pub"));
                assert!(key.is_some() && key == certified, "{key:?} {certified:?}");
                looks += 1;
            }
            looks
        });
        for renewal in 2..=10 {
            tbot.signal(Signal::HUP);
            until("one more renewal", || {
                let log = tbot.stderr.so_far();
                (log.matches("files: SHA256:").count() >= renewal).then_some(())
            });
        }
        stop.store(true, Ordering::Relaxed);
        reader.join().expect("the reader looked")
    });
    assert!(looks > 0);
    assert_ne!(
        certificate(&room.out("key-cert.pub")),
        first,
        "it was renewed"
    );
    tbot.signal(Signal::TERM);
    assert!(tbot.exit().success());
}

#[test]
fn it_needs_to_know_where_keys_come_from() {
    let room = Room::new("");
    let yaml = fs::read_to_string(room.path("tbot.yaml")).expect("it is ours");
    let at = yaml.find("onboarding").expect("it is there");
    let rest = yaml.find("services").expect("it is there");
    let without = yaml[..at].to_owned() + &yaml[rest..];
    fs::write(room.path("tbot.yaml"), without).expect("it is ours");
    let end = run(&mut room.tbot());
    assert!(
        end.error()
            .contains("tbot.yaml:4: services[0]: needs to know where keys"),
        "{end:?}"
    );
    assert!(!room.out("").exists());
}

#[test]
fn ssh_logs_in_by_the_files_alone_wherever_they_are() {
    let keys = Keys::with_ca();
    let sshd = keys.sshd();
    let onboarding = keys.ssh_ca(&sshd.user);
    let room = Room::of(keys, &onboarding, "oneshot: true\n");
    let yaml = room.keys.text("tbot.yaml");
    for name in ["out", "o ut%h #", "it''s \"out\"", "back\\slash\\\"\\"] {
        let path = room.path(name).display().to_string();
        let line = format!("path: '{path}' }}");
        let out = room.path("out");
        room.keys.write(
            "tbot.yaml",
            yaml.replace(&format!("path: {} }}", out.display()), &line),
        );
        succeed(&mut room.tbot());
        let mut ssh = Command::new("ssh");
        ssh.arg("-F")
            .arg(room.path(&name.replace("''", "'")).join("ssh_config"));
        ssh.args(["-p", &sshd.address.port().to_string(), "-l", &sshd.user])
            .env_clear();
        let end = run(ssh.args(["127.0.0.1", "echo in"]));
        assert_eq!(end.stdout, "in\n", "{name}: {end:?}");
    }
}

#[test]
fn a_reader_sees_no_mixture_while_another_key_takes_the_place_of_one() {
    let keys = Keys::with_pairs();
    let id = keys.path("id");
    let onboarding = format!("{{ join_method: key-file, key_path: {} }}", id.display());
    let room = Room::of(keys, &onboarding, "");
    room.keys.place_pair("a");
    let tbot = room.start();
    await_healthy(&tbot);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        if let Err(problem) = is_a_pair(&room) {
                            assert!(problem.contains("No such file"), "{problem}");
                        }
                    }
                })
            })
            .collect();
        for name in ["b", "a", "b", "a", "b"] {
            room.keys.place_pair(name);
            tbot.signal(Signal::HUP);
            let next = fingerprint(&room.path(name));
            until("the next pair", || {
                let is_there = fingerprint(&room.out("key-cert.pub")) == next;
                (is_there || readers.iter().any(|reader| reader.is_finished())).then_some(())
            });
        }
        stop.store(true, Ordering::Relaxed);
        readers
            .into_iter()
            .for_each(|reader| reader.join().expect("no mixture"));
    });
    await_healthy(&tbot);
    assert_eq!(is_a_pair(&room), Ok(()));
}

/// Key and certificate as a client reads them: one after the other.
fn is_a_pair(room: &Room) -> Result<(), String> {
    let key = tbot::identity::Key::read(&room.out("key"), None)?;
    let text = fs::read_to_string(room.out("key-cert.pub")).map_err(|error| error.to_string())?;
    let certificate = tbot::identity::Certificate::from_openssh(&text)?;
    match key.public().to_bytes().expect("it encodes") == certificate.key() {
        true => Ok(()),
        false => Err("the certificate is another key's".into()),
    }
}

#[test]
fn killed_at_any_moment_it_leaves_a_key_with_its_certificate() {
    let room = Room::new("");
    let (stop, looks) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let pair = is_a_pair(&room);
                let before = looks.load(Ordering::Relaxed);
                // Before the first of them there is none.
                if before > 0 || pair.is_ok() {
                    assert_eq!(pair, Ok(()), "after {before} looks");
                    looks.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        for round in 0..30 {
            let mut tbot = room.start();
            // Each time a little later in the middle of what it writes, and at first before there is a key.
            tbot.stderr.line("diagnostics are served");
            if round > 5 {
                tbot.stderr.line("files: SHA256:");
            }
            let kill = Instant::now() + Duration::from_millis(round);
            while Instant::now() < kill && !reader.is_finished() {
                tbot.signal(Signal::HUP);
                std::thread::yield_now();
            }
            tbot.signal(Signal::KILL);
            tbot.exit();
        }
        let tbot = room.start();
        await_healthy(&tbot);
        until("many looks", || {
            (reader.is_finished() || looks.load(Ordering::Relaxed) > 100).then_some(())
        });
        stop.store(true, Ordering::Relaxed);
        reader.join().expect("each look was good");
    });
    let mut names = FILES.map(String::from).to_vec();
    names.push(".tbot.lock".into());
    names.sort();
    assert_eq!(room.names(), names, "no temporary file");
}

#[test]
fn what_is_taken_away_comes_back() {
    let room = Room::new("");
    let tbot = room.start();
    await_healthy(&tbot);
    for name in FILES {
        fs::remove_file(room.out(name)).expect("it is there");
    }
    await_unhealthy(&tbot, &format!("{} is gone", room.out("key").display()));
    await_healthy(&tbot);
    assert_eq!(is_a_pair(&room), Ok(()));
    // The whole directory, too.
    fs::rename(room.path("out"), room.path("away")).expect("ours");
    await_unhealthy(
        &tbot,
        &format!("{} was moved or deleted", room.path("out").display()),
    );
    await_healthy(&tbot);
    assert_eq!((is_a_pair(&room), mode(&room.path("out"))), (Ok(()), 0o700));
    assert_ne!(
        fingerprint(&room.path("away/key")),
        fingerprint(&room.out("key"))
    );
    fs::remove_dir_all(room.path("out")).expect("ours");
    tbot.signal(Signal::HUP);
    until("it is there again", || is_a_pair(&room).ok());
    await_healthy(&tbot);
}

#[test]
fn what_lies_in_the_way_is_told_of_and_a_key_that_others_read_is_replaced() {
    let room = Room::new("");
    let mut tbot = room.tbot();
    if is_root() {
        // Without what makes root write everywhere.
        let mut limited = Command::new("setpriv");
        limited.args(["--bounding-set=-dac_override,-dac_read_search"]);
        limited.arg(tbot.get_program()).args(tbot.get_args());
        tbot = limited;
    }
    let tbot = crate::common::process::Process::spawn(&mut tbot);
    await_healthy(&tbot);
    let first = fingerprint(&room.out("key"));
    set_mode(&room.path("out"), 0o500);
    tbot.signal(Signal::HUP);
    await_unhealthy(
        &tbot,
        &format!(
            "cannot write {}: Permission denied",
            room.out("key-cert.pub").display()
        ),
    );
    tbot.stderr
        .line("WARN files: attempt 1 of 5: cannot write ");
    assert_eq!(is_a_pair(&room), Ok(()));
    set_mode(&room.path("out"), 0o777);
    tbot.signal(Signal::HUP);
    await_unhealthy(
        &tbot,
        &format!(
            "{} can be written by others: chmod go-w it",
            room.path("out").display()
        ),
    );
    set_mode(&room.path("out"), 0o700);
    await_healthy(&tbot);
    assert_eq!(fingerprint(&room.out("key")), first);

    set_mode(&room.out("key"), 0o644);
    tbot.signal(Signal::HUP);
    until("another key", || {
        (fingerprint(&room.out("key")) != first).then_some(())
    });
    await_healthy(&tbot);
    assert_eq!((is_a_pair(&room), mode(&room.out("key"))), (Ok(()), 0o600));

    // A pipe is replaced, without a wait for it; a directory is not.
    fs::remove_file(room.out("key")).expect("it is there");
    succeed(
        Command::new("mkfifo")
            .args(["-m", "600"])
            .arg(room.out("key")),
    );
    tbot.signal(Signal::HUP);
    until("a key again", || is_a_pair(&room).ok());
    fs::remove_file(room.out("ssh_config")).expect("it is there");
    fs::create_dir(room.out("ssh_config")).expect("ours");
    tbot.signal(Signal::HUP);
    await_unhealthy(
        &tbot,
        &format!(
            "cannot replace {}: Is a directory",
            room.out("ssh_config").display()
        ),
    );
    assert_eq!(is_a_pair(&room), Ok(()));
    fs::remove_dir(room.out("ssh_config")).expect("ours");
    await_healthy(&tbot);
}

/// A library by which nothing called `out/key` can be opened while the file of a name is there.
const SHORTAGE: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
int open64(const char *path, int flags, ...) {
    static int (*real)(const char *, int, ...);
    if (!real) real = dlsym(RTLD_NEXT, "open64");
    va_list more;
    va_start(more, flags);
    int mode = va_arg(more, int), length = strlen(path);
    va_end(more);
    int is_key = length > 8 && !strcmp(path + length - 8, "/out/key");
    if (is_key && !access(getenv("SHORTAGE"), F_OK)) return errno = EMFILE, -1;
    return real(path, flags, mode);
}
"#;

#[test]
fn a_key_that_cannot_be_read_for_the_moment_is_not_replaced() {
    let room = Room::new("");
    let library = room.keys.library("shortage", SHORTAGE);
    let shortage = room.path("shortage");
    let mut tbot = room.tbot();
    tbot.env("LD_PRELOAD", library).env("SHORTAGE", &shortage);
    let tbot = Process::spawn(&mut tbot);
    await_healthy(&tbot);
    let before = room.contents();
    fs::write(&shortage, "").expect("ours");
    tbot.signal(Signal::HUP);
    let path = room.out("key");
    await_unhealthy(
        &tbot,
        &format!("cannot read {}: Too many open files", path.display()),
    );
    assert_eq!(room.contents(), before);
    fs::remove_file(&shortage).expect("ours");
    tbot.signal(Signal::HUP);
    await_healthy(&tbot);
    let after = room.contents();
    assert!(after[0] == before[0] && after[2] != before[2], "renewed");
}

#[test]
fn a_directory_is_one_service_s_alone() {
    let room = Room::new("");
    let tbot = room.start();
    await_healthy(&tbot);
    let before = room.contents();
    let end = run(&mut room.tbot());
    let error = end.error();
    assert!(
        error.contains("identity \"files\": ") && error.contains(&tbot.pid().to_string()),
        "{error}"
    );
    assert_eq!(room.contents(), before);
    // By another way to it, in one configuration.
    std::os::unix::fs::symlink("out", room.path("link")).expect("ours");
    let yaml = room.keys.text("tbot.yaml");
    let link = room.path("link");
    let second = format!(
        "  - {{ type: identity, destination: {{ type: directory, path: {} }} }}\n",
        link.display()
    );
    room.keys.write("tbot.yaml", yaml + &second);
    let end = run(&mut room.tbot());
    assert!(
        end.error()
            .contains("is the destination of services[0]; each service needs its own"),
        "{end:?}"
    );
}
