//! Files with keys and certificates that are not right: each is told of, and none hangs or breaks tbot.
#![cfg(feature = "pprof")]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustix::process::Signal;
use tbot::identity::{Certificate, Key};

use crate::common::keys::{Keys, await_healthy, await_reason, listed, refused_with, with_identity};
use crate::common::process::succeed;
use crate::common::tbot::Start;
use crate::common::wait::until;
use crate::common::{is_root, set_mode};

#[test]
fn a_key_file_that_is_not_right_is_told_of() {
    let keys = Keys::with_ca();
    let of = |path: &std::path::Path| {
        format!("{{ join_method: key-file, key_path: {} }}", path.display())
    };
    refused_with(&of(&keys.path("none")), "/none: no such file");
    let key = keys.generate("open", &["-t", "ed25519"], "");
    set_mode(&key, 0o644);
    refused_with(
        &of(&key),
        "/open can be read or changed by others (mode 0644); `chmod 600` it",
    );
    let pem = keys.generate("pem", &["-t", "rsa", "-b", "2048", "-m", "PEM"], "");
    refused_with(&of(&pem), "/pem is no private key in OpenSSH's format");
    refused_with(
        &of(&keys.write("text", "hello")),
        "/text is no private key in OpenSSH's format",
    );
    refused_with(
        &of(&keys.write("large", vec![b'x'; 70_000])),
        "/large is no file with a secret of at most 64 KiB",
    );
    refused_with(
        &of(&keys.write("empty", "")),
        "/empty is no private key in OpenSSH's format",
    );
    let locked = keys.generate("locked", &["-t", "ed25519"], "correct horse");
    refused_with(
        &of(&locked),
        "/locked is encrypted, and no passphrase file is given",
    );
    let with = |passphrase: &std::path::Path| {
        format!(
            "{{ join_method: key-file, key_path: {}, key_passphrase_path: {} }}",
            locked.display(),
            passphrase.display()
        )
    };
    let wrong = keys.write("wrong", "battery staple");
    refused_with(&with(&wrong), "/wrong does not open ");
    set_mode(&wrong, 0o640);
    refused_with(
        &with(&wrong),
        "/wrong can be read or changed by others (mode 0640)",
    );
    // Certificates.
    keys.generate("a", &["-t", "ed25519"], "");
    keys.generate("b", &["-t", "ed25519"], "");
    fs::rename(
        keys.certify("b", &["-I", "x", "-n", "root"]),
        keys.path("a-cert.pub"),
    )
    .expect("ours");
    refused_with(
        &of(&keys.path("a")),
        "/a-cert.pub: the certificate is for another key",
    );
    keys.certify("b", &["-I", "x", "-n", "root", "-V", "20200101:20200102"]);
    refused_with(
        &of(&keys.path("b")),
        "/b-cert.pub: the certificate has been valid until 2020",
    );
    keys.write("b-cert.pub", "ssh-ed25519 AAAA");
    refused_with(&of(&keys.path("b")), "/b-cert.pub is no certificate: ");
    // The authority's.
    let ca =
        |path: &str| format!("{{ join_method: ssh-ca, ca_key_path: {path}, principals: [root] }}");
    refused_with(&ca("/nowhere/ca"), "cannot read /nowhere/ca: no such file");
    refused_with(
        &ca(&keys.path("ca.pub").display().to_string()),
        "/ca.pub can be read or changed by others",
    );
    set_mode(&keys.path("ca"), 0o604);
    refused_with(
        &ca(&keys.path("ca").display().to_string()),
        "/ca can be read or changed by others (mode 0604)",
    );
    set_mode(&keys.path("ca.pub"), 0o600);
    refused_with(
        &ca(&keys.path("ca.pub").display().to_string()),
        "/ca.pub is no private key in OpenSSH's format",
    );
}

fn of(key: &Path) -> String {
    format!("{{ join_method: key-file, key_path: {} }}", key.display())
}

fn ca_of(key: &Path) -> String {
    format!(
        "{{ join_method: ssh-ca, ca_key_path: {}, principals: [root] }}",
        key.display()
    )
}

/// A pipe with a name, to which nobody writes.
fn fifo(keys: &Keys, name: &str) -> std::path::PathBuf {
    let path = keys.path(name);
    succeed(Command::new("mkfifo").args(["-m", "600"]).arg(&path));
    path
}

#[test]
fn what_is_no_file_is_not_waited_for() {
    let keys = Keys::with_ca();
    let pipe = fifo(&keys, "pipe");
    let none = "is no file with a secret of at most 64 KiB";
    refused_with(&of(&pipe), &format!("/pipe {none}"));
    refused_with(&ca_of(&pipe), &format!("/pipe {none}"));
    refused_with(&of(&keys.path("")), none);
    refused_with(&of(Path::new("/dev/zero")), &format!("/dev/zero {none}"));
    let locked = keys.generate("locked", &["-t", "ed25519"], "words");
    refused_with(
        &format!(
            "{{ join_method: key-file, key_path: {}, key_passphrase_path: {} }}",
            locked.display(),
            pipe.display()
        ),
        &format!("/pipe {none}"),
    );
    let key = keys.generate("id", &["-t", "ed25519"], "");
    for path in [&*pipe, &*keys.path(""), Path::new("/dev/zero")] {
        refused_with(
            &format!(
                "{{ join_method: key-file, key_path: {}, certificate_path: {} }}",
                key.display(),
                path.display()
            ),
            &format!(
                "{} is no file with a certificate of at most 64 KiB",
                path.display()
            ),
        );
    }
    // One that takes a gigabyte of disk would take none of memory either.
    let large = keys.write("large", "");
    fs::File::options()
        .write(true)
        .open(&large)
        .and_then(|file| file.set_len(1 << 30))
        .expect("ours");
    refused_with(&of(&large), &format!("/large {none}"));
}

#[test]
fn host_keys_in_what_is_no_file_are_not_waited_for() {
    let keys = Keys::with_ca();
    let pipe = fifo(&keys, "pipe");
    for path in [&*pipe, Path::new("/dev/zero"), &*keys.path("")] {
        let start = with_identity("", "", &format!("    host_ca: [{}]", path.display()));
        let end = start.finish();
        assert!(
            end.error()
                .contains(" cannot be read: it is no file of at most 256 KiB"),
            "{end:?}"
        );
    }
}

#[test]
fn links_are_followed_and_one_that_turns_is_noticed() {
    let keys = Keys::new();
    keys.generate("a", &["-t", "ed25519"], "");
    keys.generate("b", &["-t", "ed25519"], "");
    symlink("a", keys.path("id")).expect("ours");
    let tbot = with_identity(&of(&keys.path("id")), "", "").start();
    await_healthy(&tbot, "identity");
    assert_eq!(listed(&tbot), [keys.text("a.pub").trim()]);
    symlink("b", keys.path("new")).expect("ours");
    fs::rename(keys.path("new"), keys.path("id")).expect("ours");
    let next = keys.text("b.pub");
    until("the other key is served", || {
        (listed(&tbot) == [next.trim()]).then_some(())
    });
    symlink("id2", keys.path("id2")).expect("ours");
    refused_with(
        &of(&keys.path("id2")),
        "/id2: too many levels of symbolic links",
    );
}

#[test]
fn an_authority_that_may_not_be_read_is_told_of() {
    let keys = Keys::with_ca();
    set_mode(&keys.path("ca"), 0);
    let mut start: Start = with_identity(&ca_of(&keys.path("ca")), "", "");
    if is_root() {
        // As every other user, by giving up what makes root read everything.
        start = start.through(&["setpriv", "--bounding-set=-dac_override,-dac_read_search"]);
    }
    let tbot = start.start();
    let reason = await_reason(&tbot, "identity");
    assert!(reason.ends_with("/ca: Permission denied"), "{reason}");
    tbot.stderr.line(&reason);
}

#[test]
fn a_key_of_a_kind_that_cannot_sign_here_is_told_of() {
    use ssh_key::private::{KeypairData, SkEd25519};
    let keys = Keys::with_ca();
    let public =
        ssh_key::PublicKey::from_openssh(&keys.text("ca.pub")).expect("ssh-keygen wrote it");
    let public = *public.key_data().ed25519().expect("it is one");
    let public = ssh_key::public::SkEd25519::new(public, "ssh:");
    // The part of a security key's that is in a file.
    let key = SkEd25519::new(public, 1, [7; 64]).expect("a key");
    let key = ssh_key::PrivateKey::new(KeypairData::SkEd25519(key), "").expect("a key");
    let text = key.to_openssh(ssh_key::LineEnding::LF).expect("it encodes");
    let path = keys.write("sk", text.as_bytes());
    let reason = "/sk cannot be used: it is a key of the type sk-ssh-ed25519@openssh.com, which cannot sign here \
                  (ed25519, ecdsa and rsa can)";
    refused_with(&of(&path), reason);
    refused_with(&ca_of(&path), reason);
}

#[test]
fn a_passphrase_that_takes_hours_to_try_is_not_tried() {
    let keys = Keys::new();
    let key = keys.generate("id", &["-t", "ed25519"], "words");
    keys.write("words", "words");
    let with = |key: &Path| {
        format!(
            "{{ join_method: key-file, key_path: {}, key_passphrase_path: {} }}",
            key.display(),
            keys.path("words").display()
        )
    };
    let tbot = with_identity(&with(&key), "", "").start();
    await_healthy(&tbot, "identity");
    // The number of rounds follows the salt (PROTOCOL.key).
    let text = keys.text("id");
    let body: String = text.lines().filter(|line| !line.starts_with('-')).collect();
    let mut bytes = STANDARD.decode(body).expect("ssh-keygen wrote it");
    let at = bytes
        .windows(4)
        .position(|bytes| bytes == [0, 0, 0, 2])
        .expect("two rounds");
    bytes[at..at + 4].copy_from_slice(&u32::MAX.to_be_bytes());
    let hard = keys.write("hard", openssh(&bytes));
    refused_with(
        &with(&hard),
        "/hard is encrypted in 4294967295 rounds, and more than 1000 take too long; `ssh-keygen -p -a 100 -f` it",
    );
}

#[test]
fn other_formats_of_keys_are_told_from_nonsense() {
    let keys = Keys::with_ca();
    let format = "is no private key in OpenSSH's format";
    for (name, kind) in [
        ("pkcs1", ["-t", "rsa", "-m", "PEM"]),
        ("pkcs8", ["-t", "rsa", "-m", "PKCS8"]),
        ("sec1", ["-t", "ecdsa", "-m", "PEM"]),
        ("ec8", ["-t", "ecdsa", "-m", "PKCS8"]),
    ] {
        for passphrase in ["", "words"] {
            let name = format!("{name}{passphrase}");
            let key = keys.generate(&name, &kind, passphrase);
            let reason = format!("/{name} {format}");
            refused_with(&of(&key), &reason);
            refused_with(
                &ca_of(&key),
                "(`ssh-keygen -p -f FILE` converts older ones)",
            );
        }
    }
    let putty =
        "PuTTY-User-Key-File-3: ssh-ed25519\nEncryption: none\nComment: x\nPublic-Lines: 2\n";
    refused_with(
        &of(&keys.write("putty", putty)),
        &format!("/putty {format}"),
    );
    refused_with(&of(&keys.write("bytes", [0xff; 400])), "/bytes");
    // As an editor of Windows leaves it, it is one all the same.
    for name in ["ca", "p521", "words"] {
        match name {
            "p521" => drop(keys.generate(name, &["-t", "ecdsa", "-b", "521"], "")),
            "words" => drop(keys.generate(name, &["-t", "rsa"], "words")),
            _ => {}
        }
        let text = keys.text(name);
        keys.write("phrase", "words\r\n");
        let crlf = keys.write(&format!("{name}.crlf"), text.replace('\n', "\r\n"));
        let more = format!(
            ", key_passphrase_path: {} }}",
            keys.path("phrase").display()
        );
        let tbot = with_identity(&of(&crlf).replace(" }", &more), "", "").start();
        await_healthy(&tbot, "identity");
        let public = keys.text(&format!("{name}.pub"));
        assert_eq!(listed(&tbot)[0].split(' ').nth(1), public.split(' ').nth(1));
    }
}

/// A key file of these bytes, in lines as `ssh-key` has them.
fn openssh(blob: &[u8]) -> String {
    let body = STANDARD.encode(blob);
    let lines = body.as_bytes().chunks(70);
    let lines: Vec<&str> = lines
        .map(|line| str::from_utf8(line).expect("ASCII"))
        .collect();
    let lines = lines.join("\n");
    format!("-----BEGIN OPENSSH PRIVATE KEY-----\n{lines}\n-----END OPENSSH PRIVATE KEY-----\n")
}

#[test]
fn no_file_makes_it_panic() {
    let keys = Keys::with_ca();
    keys.generate("id", &["-t", "ecdsa", "-b", "521"], "");
    keys.certify("id", &["-I", "x", "-n", "root"]);
    let line = keys.text("id-cert.pub");
    let mut words = line.split(' ');
    let (kind, base64) = (words.next().expect("a type"), words.next().expect("base64"));
    let blob = STANDARD.decode(base64).expect("ssh-keygen wrote it");
    let read =
        |blob: &[u8]| Certificate::from_openssh(&format!("{kind} {}", STANDARD.encode(blob)));
    let whole = read(&blob).expect("it is one");
    assert_eq!((whole.blob(), whole.valid_before()), (&blob[..], u64::MAX));
    for end in 0..blob.len() {
        assert!(read(&blob[..end]).is_err(), "cut off at {end}");
        let mut changed = blob.clone();
        changed[end] ^= 0x80;
        // It may well be one: the authority's signature is for servers to check.
        let _ = read(&changed);
    }
    assert!(read(&[&blob[..], &[0]].concat()).is_err());

    let text = keys.text("id");
    let begin = text.find('\n').expect("lines") + 1;
    let body: String = text[begin..text.rfind("-----END").expect("an end")]
        .split('\n')
        .collect();
    let blob = STANDARD.decode(body).expect("ssh-keygen wrote it");
    let write = |blob: &[u8]| keys.write("changed", openssh(blob));
    Key::read(&write(&blob), None).expect("it is one");
    for end in 0..blob.len() {
        assert!(
            Key::read(&write(&blob[..end]), None).is_err(),
            "cut off at {end}"
        );
        let mut changed = blob.clone();
        changed[end] ^= 0x80;
        let _ = Key::read(&write(&changed), None);
    }
}

/// A library by which a look at `ca` does not come back while the file of a name is there; a look that hangs says so
/// by a file beside it.
const HANGS: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
int statx(int at, const char *path, int flags, unsigned mask, struct statx *to) {
    static int (*real)(int, const char *, int, unsigned, struct statx *);
    if (!real) real = dlsym(RTLD_NEXT, "statx");
    int length = strlen(path);
    if (length > 3 && !strcmp(path + length - 3, "/ca") && !access(getenv("HANGS"), F_OK)) {
        char told[4096];
        snprintf(told, sizeof told, "%s.told", getenv("HANGS"));
        close(creat(told, 0600));
        for (;;) pause();
    }
    return real(at, path, flags, mask, to);
}
"#;

#[test]
fn a_file_system_that_hangs_keeps_it_from_no_end() {
    let keys = Keys::with_ca();
    let (library, hangs) = (keys.library("hangs", HANGS), keys.path("hangs"));
    let mut tbot = with_identity(&keys.ssh_ca("root"), "shutdown_grace: 1s", "")
        .env("LD_PRELOAD", &library.display().to_string())
        .env("HANGS", &hangs.display().to_string())
        .start();
    await_healthy(&tbot, "identity");
    keys.write("hangs", "");
    until("a look that hangs", || {
        keys.path("hangs.told").exists().then_some(())
    });
    await_healthy(&tbot, "mux");
    tbot.signal(Signal::TERM);
    let status = tbot.exit();
    assert_eq!(status.code(), Some(1), "{status:?}");
    tbot.stderr
        .line("ERROR something hangs, such as a file system");
}
