//! Secrets stay in memory as long as they are needed, and go nowhere else.
#![cfg(feature = "pprof")]

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::Command;

use rustix::process::{Pid, Signal};
use ssh_key::private::{EcdsaKeypair, KeypairData};

use crate::common::built::static_program;
use crate::common::http;
use crate::common::keys::{Keys, await_healthy, listed, readyz, signed_by, ssh, with_identity};
use crate::common::output::{self, Room};
use crate::common::process::{Process, succeed};
use crate::common::sshd::Sshd;
use crate::common::wait::until;
use crate::common::{is_root, not_tested, set_mode};

/// What must not be found, of a private key: each number that alone gives the key away.
fn secrets(key: &std::path::Path) -> Vec<Vec<u8>> {
    let key = ssh_key::PrivateKey::read_openssh_file(key).expect("ssh-keygen wrote it");
    match key.key_data() {
        KeypairData::Ed25519(pair) => vec![pair.private.to_bytes().to_vec()],
        KeypairData::Ecdsa(EcdsaKeypair::NistP256 { private, .. }) => {
            vec![private.as_slice().to_vec()]
        }
        KeypairData::Rsa(pair) => [&pair.private.d, &pair.private.p, &pair.private.q]
            .map(|number| number.as_positive_bytes().expect("positive").to_vec())
            .into(),
        other => panic!("{other:?}"),
    }
}

/// A line of a key file that is not of its public half, which comes first.
fn secret_line(text: &str) -> &str {
    let mut lines = text.lines().filter(|line| line.len() > 44);
    lines.next_back().expect("a key has lines")
}

#[test]
fn nothing_of_a_key_is_left_when_another_takes_its_place() {
    if !is_root() {
        return not_tested("the memory of another process", "only root may read it");
    }
    for program in builds() {
        leaves_nothing_of_a_key(program);
    }
}

fn leaves_nothing_of_a_key(program: PathBuf) {
    let keys = Keys::new();
    keys.write("passphrase", "correct horse battery staple of 2026\n");
    let kinds: [(&str, &[&str], &str); 5] = [
        ("ed", &["-t", "ed25519"], ""),
        ("ec", &["-t", "ecdsa"], ""),
        ("rsa", &["-t", "rsa", "-b", "2048"], ""),
        (
            "locked",
            &["-t", "rsa", "-b", "2048"],
            "correct horse battery staple of 2026",
        ),
        ("last", &["-t", "ed25519"], ""),
    ];
    let mut needles = Vec::new();
    for (name, kind, passphrase) in kinds {
        let key = keys.generate(name, kind, "");
        needles.push(secrets(&key));
        if !passphrase.is_empty() {
            let mut keygen = Command::new("ssh-keygen");
            keygen.args(["-q", "-p", "-a", "2", "-N", passphrase, "-f"]);
            succeed(keygen.arg(&key));
        }
    }
    let at = keys.path("id");
    let place = |name: &str| {
        fs::copy(keys.path(name), keys.path("new")).expect("ours");
        set_mode(&keys.path("new"), 0o600);
        fs::rename(keys.path("new"), &at).expect("ours");
    };
    place("ed");
    let onboarding = format!(
        "{{ join_method: key-file, key_path: {}, key_passphrase_path: {} }}",
        at.display(),
        keys.path("passphrase").display()
    );
    let tbot = with_identity(&onboarding, "", "").program(program).start();
    await_healthy(&tbot, "identity");
    assert!(
        halves(tbot.pid(), &needles[0][0]) > 0,
        "the key in use is found where it is"
    );
    for pair in kinds.windows(2) {
        let ((name, ..), (next, ..)) = (pair[0], pair[1]);
        // It signs, too.
        let public = keys.path(&format!("{name}.pub"));
        succeed(
            crate::common::keys::client(&tbot, "ssh-add")
                .arg("-T")
                .arg(public),
        );
        place(next);
        tbot.signal(Signal::HUP);
        let public = keys.text(&format!("{next}.pub"));
        let public: Vec<&str> = public.split(' ').take(2).collect();
        until("the next key serves", || {
            listed(&tbot)[0]
                .starts_with(&public.join(" "))
                .then_some(())
        });
    }
    let done = |log: &str| log.matches("identity: SHA256:").count() == kinds.len();
    until("the renewal is over", || {
        done(&tbot.stderr.so_far()).then_some(())
    });
    for ((name, ..), needles) in kinds.iter().zip(&needles).take(4) {
        let left: Vec<usize> = needles
            .iter()
            .map(|needle| halves(tbot.pid(), needle))
            .collect();
        assert!(
            left.iter().all(|left| *left == 0),
            "{name}: {left:?} copies"
        );
    }
    assert_eq!(
        copies(tbot.pid(), b"correct horse battery staple of 2026"),
        0
    );
    for (name, ..) in kinds {
        let text = keys.text(name);
        let line = secret_line(&text);
        assert!(!tbot.stderr.so_far().contains(line), "the log shows a key");
        assert_eq!(
            copies(tbot.pid(), line.as_bytes()),
            0,
            "the file's text of {name}"
        );
    }
    assert!(!tbot.stderr.so_far().contains("correct horse"));
}

#[test]
fn nothing_secret_is_logged_at_the_finest_level() {
    const PASSPHRASE: &str = "correct horse battery staple of 2026";
    let keys = Keys::with_ca();
    let (bastion, target) = (Sshd::start(), keys.sshd());
    keys.write("passphrase", format!("{PASSPHRASE}\n"));
    let mut keygen = Command::new("ssh-keygen");
    keygen.args(["-q", "-p", "-a", "2", "-N", PASSPHRASE, "-f"]);
    let mut needles = secrets(&keys.path("ca"));
    succeed(keygen.arg(keys.path("ca")));
    needles.extend(secrets(&bastion.file("client_key")));
    let onboarding = format!(
        "{{ join_method: ssh-ca, ca_key_path: {}, ca_key_passphrase_path: {}, principals: [{}] }}",
        keys.path("ca").display(),
        keys.path("passphrase").display(),
        target.user
    );
    let service = format!(
        "    user: {}\n    host_ca: [{}]\n    known_hosts: ['{}']\n    cluster_name: prod\n    identity_file: {}\n  - type: identity\n    \
         name: files\n    destination: {{ type: directory, path: {} }}\n",
        bastion.user,
        keys.path("ca.pub").display(),
        bastion.known_host(),
        bastion.file("client_key").display(),
        keys.path("out").display()
    );
    let run = format!("proxy_server: '{}'", bastion.address);
    let tbot = with_identity(&onboarding, &run, &service)
        .env("TBOT_LOG", "trace")
        .start();
    for service in ["identity", "files", "mux"] {
        await_healthy(&tbot, service);
    }
    let mut ssh = ssh(&tbot, &target, "127.0.0.1.prod", "echo between-us");
    assert_eq!(succeed(&mut ssh), "between-us\n");
    http::get(tbot.address(), "/readyz?token=hunter2");
    // What goes wrong is told, too.
    keys.write("passphrase", "another, which is wrong\n");
    tbot.signal(Signal::HUP);
    tbot.stderr.line("identity: attempt 1 of 5: ");
    let log = tbot.stderr.so_far();
    assert!(log.contains(" TRACE ") && log.contains(" connection ended "));
    for text in [PASSPHRASE, "another, which", "between-us", "hunter2"] {
        assert!(!log.contains(text), "{text}");
    }
    let file = |path: PathBuf| fs::read_to_string(path).expect("a key");
    for text in [
        keys.text("ca"),
        keys.text("out/key"),
        file(bastion.file("client_key")),
    ] {
        assert!(!log.contains(secret_line(&text)), "a line of a key");
    }
    needles.extend(secrets(&keys.path("out/key")));
    for needle in needles {
        let hex: String = needle.iter().map(|byte| format!("{byte:02x}")).collect();
        assert!(!log.to_lowercase().contains(&hex[..16]), "a key's number");
    }
}

/// What the compiler leaves on a stack is another matter in each build of it.
fn builds() -> [PathBuf; 2] {
    [env!("CARGO_BIN_EXE_tbot").into(), static_program("tbot")]
}

#[test]
fn an_authority_s_key_and_one_that_is_in_a_file_are_not_kept() {
    if !is_root() {
        return not_tested("the memory of another process", "only root may read it");
    }
    let kinds = [("ed25519", "256"), ("ecdsa", "256"), ("rsa", "2048")];
    for (program, (kind, bits)) in builds()
        .iter()
        .flat_map(|program| kinds.map(|kind| (program, kind)))
    {
        let keys = Keys::new();
        let ca = keys.generate("ca", &["-t", kind, "-b", bits], "");
        let needles = secrets(&ca);
        let onboarding = keys.ssh_ca("deploy");
        // Once with the most that is logged.
        let run_lines = if kind == "ecdsa" { "debug: true\n" } else { "" };
        let room = Room::of(keys, &onboarding, run_lines);
        let tbot = Process::spawn(&mut room.command(program));
        output::await_healthy(&tbot);
        tbot.signal(Signal::HUP);
        until("renewed", || {
            (tbot.stderr.so_far().matches("files: SHA256:").count() > 1).then_some(())
        });
        for needle in needles.iter().chain(&secrets(&room.out("key"))) {
            assert_eq!(
                halves(tbot.pid(), needle),
                0,
                "{kind}, {}",
                program.display()
            );
        }
        for name in ["ca", "out/key"] {
            let text = room.keys.text(name);
            let line = secret_line(&text);
            assert!(!tbot.stderr.so_far().contains(line), "the log shows {name}");
            assert_eq!(copies(tbot.pid(), line.as_bytes()), 0, "the text of {name}");
        }
    }
}

#[test]
fn a_key_is_kept_from_swap_where_that_is_allowed() {
    let keys = Keys::with_ca();
    let locked = |limit: &str| {
        let limit = format!("--memlock={limit}");
        let mut through = vec!["prlimit", &limit];
        if is_root() {
            // Root may lock as much as it likes.
            through.extend(["setpriv", "--bounding-set=-ipc_lock"]);
        }
        let tbot = with_identity(&keys.ssh_ca("root"), "", "")
            .through(&through)
            .start();
        await_healthy(&tbot, "identity");
        assert_eq!(readyz(&tbot, "mux").0, 200);
        let status = fs::read_to_string(format!("/proc/{}/status", tbot.pid())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmLck:"));
        line.expect("every process has it").trim().to_owned()
    };
    assert_ne!(locked("65536:65536"), "0 kB");
    assert_eq!(locked("0:0"), "0 kB");
}

/// How often half of a number is in the process's memory; more than that is too much.
fn halves(pid: Pid, number: &[u8]) -> usize {
    // Big numbers lie the other way around.
    let reversed: Vec<u8> = number.iter().rev().copied().collect();
    let ends = [number, &reversed].map(|number| [&number[..16], &number[number.len() - 16..]]);
    ends.as_flattened()
        .iter()
        .map(|half| copies(pid, half))
        .sum()
}

/// How often `needle`, of at least 16 bytes, is in the process's memory.
fn copies(pid: Pid, needle: &[u8]) -> usize {
    use std::io::{Read, Seek, SeekFrom};
    let pid = pid.as_raw_pid();
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).expect("root may");
    let mut memory = fs::File::open(format!("/proc/{pid}/mem")).expect("root may");
    let mut found = 0;
    for line in maps.lines().filter(|line| line.contains(" rw")) {
        let (start, end) = line
            .split(' ')
            .next()
            .and_then(|range| range.split_once('-'))
            .expect("a range");
        let number = |text| u64::from_str_radix(text, 16).expect("hexadecimal");
        let (start, end) = (number(start), number(end));
        let mut bytes = vec![0; (end - start) as usize];
        memory.seek(SeekFrom::Start(start)).expect("it can");
        if memory.read_exact(&mut bytes).is_ok() {
            found += memchr::memmem::find_iter(&bytes, needle).count();
        }
    }
    found
}

#[test]
fn a_core_is_dumped_with_debug_only() {
    let keys = Keys::with_ca();
    let dumped = |arguments: &[&str]| {
        let mut tbot = with_identity(&keys.ssh_ca("root"), "", "")
            .args(arguments)
            .through(&["prlimit", "--core=unlimited"])
            .start();
        await_healthy(&tbot, "identity");
        tbot.signal(Signal::ABORT);
        let status = tbot.exit();
        assert_eq!(status.signal(), Some(6), "{status:?}");
        status.core_dumped()
    };
    assert!(!dumped(&[]));
    if !dumped(&["--debug"]) {
        not_tested(
            "that a core is dumped with --debug",
            "this system dumps none",
        );
    }
}

#[test]
fn a_run_of_once_dumps_none() {
    let keys = Keys::with_ca();
    let script = keys.script(
        "waits",
        &format!("touch {}\nsleep 600", keys.path("runs").display()),
    );
    let onboarding = signed_by(&script);
    let room = Room::of(keys, &onboarding, "oneshot: true\n");
    let tbot = room.tbot();
    let mut limited = Command::new("prlimit");
    limited
        .arg("--core=unlimited")
        .arg(tbot.get_program())
        .args(tbot.get_args());
    let mut tbot = Process::spawn(limited.current_dir(room.path("")));
    until("the program runs", || {
        room.path("runs").exists().then_some(())
    });
    let started = crate::common::procfs::descendants(tbot.pid());
    tbot.signal(Signal::ABORT);
    let status = tbot.exit();
    for pid in started {
        rustix::process::kill_process(pid, Signal::KILL).ok();
    }
    assert_eq!(status.signal(), Some(6), "{status:?}");
    assert!(!status.core_dumped());
}
