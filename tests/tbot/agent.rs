//! The agent, with OpenSSH's clients and Paramiko.
#![cfg(feature = "pprof")]

use std::fs;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;

use rsa::signature::Signer;
use rustix::process::Signal;
use ssh_key::rand_core::OsRng;
use ssh_key::{Algorithm, PrivateKey};

use crate::common::agent::{Raw, started, string};
use crate::common::keys::{Keys, await_healthy, client, listed, ssh, with_identity};
use crate::common::process::{Process, run, succeed};
use crate::common::sshd::Sshd;
use crate::common::wait::until;

fn key_file(path: &Path) -> String {
    format!("{{ join_method: key-file, key_path: {} }}", path.display())
}

#[test]
fn opensshs_tools_list_try_and_sign() {
    let keys = Keys::with_ca();
    let kinds: [(&str, &[&str]); 7] = [
        ("ed25519", &["-t", "ed25519"]),
        ("ecdsa256", &["-t", "ecdsa", "-b", "256"]),
        ("ecdsa384", &["-t", "ecdsa", "-b", "384"]),
        ("ecdsa521", &["-t", "ecdsa", "-b", "521"]),
        ("rsa2048", &["-t", "rsa", "-b", "2048"]),
        ("rsa3072", &["-t", "rsa", "-b", "3072"]),
        ("rsa4096", &["-t", "rsa", "-b", "4096"]),
    ];
    for (name, kind) in kinds {
        let key = keys.generate(name, kind, "");
        let certificate = keys.certify(name, &["-I", "an id", "-n", "root", "-V", "+1h"]);
        let public = keys.path(&format!("{name}.pub"));
        let tbot = with_identity(&key_file(&key), "", "").start();
        await_healthy(&tbot, "identity");
        let list = succeed(client(&tbot, "ssh-add").arg("-l"));
        let print = keys.fingerprint(&format!("{name}.pub"));
        let lines: Vec<&str> = list.lines().collect();
        assert_eq!(lines.len(), 2, "{list}");
        assert!(
            lines[0].contains(&format!(" {print} an id (")) && lines[0].ends_with("-CERT)"),
            "{list}"
        );
        assert!(lines[1].contains(&format!(" {print} {name} (")), "{list}");
        let list = listed(&tbot);
        let words = |text: &str| {
            text.split(' ')
                .take(2)
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        assert_eq!(
            words(&list[0]),
            words(&fs::read_to_string(&certificate).expect("it is there"))
        );
        assert_eq!(
            words(&list[1]),
            words(&fs::read_to_string(&public).expect("it is there"))
        );
        // Signs a random challenge and verifies it.
        succeed(
            client(&tbot, "ssh-add")
                .arg("-T")
                .arg(&public)
                .arg(&certificate),
        );
        let message = keys.write("message", "text to sign");
        // It finds the agent's key by the public one: without the private file, to be sure.
        fs::rename(&key, keys.path("away")).expect("ours");
        let mut sign = client(&tbot, "ssh-keygen");
        sign.args(["-Y", "sign", "-n", "file", "-f"]).arg(&public);
        let _ = fs::remove_file(keys.path("message.sig"));
        succeed(sign.arg(&message));
        keys.write(
            "allowed",
            format!("someone {}", keys.text(&format!("{name}.pub"))),
        );
        let verify = |message: &str| {
            let mut verify = Process::spawn_with_input(
                Command::new("ssh-keygen")
                    .args(["-Y", "verify", "-n", "file", "-I", "someone", "-f"])
                    .arg(keys.path("allowed"))
                    .arg("-s")
                    .arg(keys.path("message.sig")),
            );
            verify
                .input()
                .write_all(message.as_bytes())
                .expect("it reads");
            verify.close_input();
            verify.finish()
        };
        let good = verify("text to sign");
        assert!(
            good.status.success() && good.stdout.contains(&print),
            "{good:?}"
        );
        assert!(!verify("other text").status.success());
    }
}

#[test]
fn rsa_logs_in_by_each_hash() {
    let keys = Keys::with_ca();
    let key = keys.generate("id", &["-t", "rsa", "-b", "3072"], "");
    let sshd = keys.sshd();
    keys.certify("id", &["-I", "x", "-n", &sshd.user, "-V", "+1h"]);
    let host_ca = format!("    host_ca: [{}]", keys.path("ca.pub").display());
    let tbot = with_identity(&key_file(&key), "", &host_ca).start();
    await_healthy(&tbot, "identity");
    for hash in ["256", "512"] {
        // Options go before the host.
        let mut login = Command::new("ssh");
        login.arg("-o").arg(format!(
            "PubkeyAcceptedAlgorithms=rsa-sha2-{hash}-cert-v01@openssh.com"
        ));
        login.args(ssh(&tbot, &sshd, "127.0.0.1", "echo in").get_args());
        let end = run(login.env_remove("SSH_AUTH_SOCK"));
        assert_eq!(end.stdout, "in\n", "{end:?}");
    }
}

#[test]
fn paramiko_uses_it() {
    let script = r#"
import paramiko, socket, sys
path, host, port, user = sys.argv[1:]
stream = socket.socket(socket.AF_UNIX)
stream.connect(path)
stream.sendall(f"{host}:{port}\0".encode())
client = paramiko.SSHClient()
client.set_missing_host_key_policy(paramiko.AutoAddPolicy())
client.connect(host, sock=stream, username=user, allow_agent=True, look_for_keys=False)
print(client.exec_command("echo in by agent")[1].read().decode(), end="")
client.close()
"#;
    // By a certificate, and by a key alone.
    for is_certified in [true, false] {
        let keys = Keys::with_ca();
        let sshd = keys.sshd();
        let key = keys.generate("id", &["-t", "ed25519"], "");
        let mut source = keys.ssh_ca(&sshd.user);
        if !is_certified {
            let authorized = sshd.directory.path().join("authorized_keys");
            fs::copy(keys.path("id.pub"), authorized).expect("ours");
            source = key_file(&key);
        }
        let tbot = with_identity(&source, "", "").start();
        await_healthy(&tbot, "identity");
        // The system's, as its package is.
        let mut python = client(&tbot, "/usr/bin/python3");
        python
            .args(["-W", "ignore", "-c", script])
            .arg(tbot.socket());
        python.args([
            sshd.address.ip().to_string(),
            sshd.address.port().to_string(),
            sshd.user.clone(),
        ]);
        let end = run(&mut python);
        assert_eq!(
            end.stdout, "in by agent\n",
            "{end:?} (`make tools` installs python3-paramiko)"
        );
    }
}

#[test]
fn nobody_changes_it() {
    let keys = Keys::with_ca();
    let tbot = started(&keys);
    let before = listed(&tbot);
    keys.generate("other", &["-t", "ed25519"], "");
    keys.write("ours.pub", &before[1]);
    // Answers what ssh-add asks for: a passphrase, a PIN.
    let answers = keys.script("askpass", "echo secret");
    for arguments in [
        "other",
        "-t 60 other",
        "-c other",
        "-D",
        "-d ours.pub",
        "-x",
        "-X",
        "-s /usr/lib/libpkcs11.so",
        "-e /usr/lib/libpkcs11.so",
    ] {
        let mut add = client(&tbot, "ssh-add");
        add.args(arguments.split(' ')).current_dir(keys.path(""));
        add.env("SSH_ASKPASS", &answers)
            .env("SSH_ASKPASS_REQUIRE", "force");
        let end = run(&mut add);
        let refused = ["refused", "failed", "Failed", "Could not"]
            .iter()
            .any(|word| end.stderr.contains(word));
        assert!(!end.status.success() && refused, "{arguments}: {end:?}");
    }
    // Add, remove, remove all, of smartcards, lock, unlock, constrained ones, unknown, and the old protocol's.
    for kind in [17, 18, 19, 20, 21, 22, 23, 25, 26, 1, 3, 7, 9, 0, 200, 255] {
        let mut message = vec![kind];
        message.extend(string(b"locked"));
        assert_eq!(Raw::to(&tbot).ask(&message), [5], "{kind}");
    }
    assert_eq!(listed(&tbot), before);
}

#[test]
fn it_answers_as_opensshs_agent_does() {
    let keys = Keys::new();
    let key = keys.generate("id", &["-t", "ed25519"], "");
    let tbot = with_identity(&key_file(&key), "", "").start();
    await_healthy(&tbot, "identity");
    let socket = keys.path("theirs");
    let _agent = Process::spawn(Command::new("ssh-agent").arg("-D").arg("-a").arg(&socket));
    until("OpenSSH's agent listens", || {
        UnixStream::connect(&socket).ok()
    });
    succeed(
        Command::new("ssh-add")
            .env("SSH_AUTH_SOCK", &socket)
            .arg("-q")
            .arg(&key),
    );

    let host = PrivateKey::random(&mut OsRng, Algorithm::Ed25519).expect("a key");
    let other = PrivateKey::random(&mut OsRng, Algorithm::Ed25519).expect("a key");
    let bind = |host: &PrivateKey, session: &[u8], signed: &[u8], forwarded: &[u8]| {
        let signature: Vec<u8> = host
            .try_sign(signed)
            .and_then(|s| Ok(s.try_into()?))
            .expect("it signs");
        let blob = host.public_key().to_bytes().expect("it encodes");
        let name = string(b"session-bind@openssh.com");
        [
            &[27][..],
            &name,
            &string(&blob),
            &string(session),
            &string(&signature),
            forwarded,
        ]
        .concat()
    };
    let public = ssh_key::PublicKey::from_openssh(&keys.text("id.pub"))
        .expect("a key")
        .to_bytes()
        .expect("it encodes");
    let sign = |blob: &[u8], flags: u32| {
        [
            &[13][..],
            &string(blob),
            &string(b"data"),
            &flags.to_be_bytes(),
        ]
        .concat()
    };
    let sessions: Vec<Vec<u8>> = (0..17_u8)
        .map(|n| bind(&host, &[n; 32], &[n; 32], &[1]))
        .collect();
    // Each list is one connection's.
    let conversations = [
        vec![vec![11], vec![11, 0, 0]],
        vec![
            sign(&public, 0),
            sign(&public, 6),
            sign(b"unknown", 0),
            sign(&public[..9], 0),
        ],
        vec![[sign(&public, 0), vec![1, 2]].concat()],
        vec![
            vec![13],
            vec![13, 0, 0, 0, 9],
            vec![13, 255, 255, 255, 255],
            sign(&public, 0)[..60].to_vec(),
        ],
        vec![
            [&[27][..], &string(b"query")].concat(),
            [&[27][..], &string(b"")].concat(),
            vec![27],
            vec![27, 0, 0, 1],
        ],
        vec![
            bind(&host, b"one", b"one", &[0]),
            bind(&host, b"two", b"two", &[0]),
            bind(&host, b"one", b"one", &[0]),
        ],
        vec![
            bind(&host, b"one", b"one", &[1]),
            bind(&host, b"one", b"one", &[1]),
            bind(&other, b"one", b"one", &[1]),
            bind(&other, b"two", b"two", &[1]),
        ],
        vec![
            bind(&host, b"one", b"other", &[0]),
            bind(&host, b"one", b"one", &[]),
            bind(&host, b"one", b"one", &[0, 0]),
        ],
        sessions,
        vec![vec![2], vec![5], vec![99, 1, 2, 3]],
    ];
    for (number, messages) in conversations.iter().enumerate() {
        let (mut ours, mut theirs) = (Raw::to(&tbot), Raw::to_path(&socket));
        for (place, message) in messages.iter().enumerate() {
            assert_eq!(
                ours.ask(message),
                theirs.ask(message),
                "conversation {number}, message {place}"
            );
        }
    }
}

#[test]
fn a_connection_from_before_a_renewal_signs_with_the_new_key() {
    let keys = Keys::with_ca();
    let tbot = started(&keys);
    let mut connection = Raw::to(&tbot);
    let before = connection.list();
    // One that is in the middle of a login, between list and signature, gets its signature.
    let mut in_between = Raw::to(&tbot);
    assert_eq!(in_between.list(), before);
    tbot.signal(Signal::HUP);
    let after = until("the key is another one", || {
        Some(connection.list()).filter(|list| *list != before)
    });
    assert_eq!((before.len(), after.len()), (2, 2));
    for blob in &after {
        let mut sign = [&[13][..], &string(blob), &string(b"data")].concat();
        sign.extend([0; 4]);
        let answer = connection.ask(&sign);
        assert_eq!(answer[0], 14, "{answer:?}");
        let signature = ssh_key::Signature::try_from(&answer[5..]).expect("a signature");
        let key = ssh_key::PublicKey::from_bytes(&after[1]).expect("the bare key is second");
        rsa::signature::Verifier::verify(key.key_data(), b"data", &signature)
            .expect("by the new key");
    }
    // The old one is gone.
    let mut sign = [&[13][..], &string(&before[1]), &string(b"data")].concat();
    sign.extend([0; 4]);
    assert_eq!(connection.ask(&sign), [5]);
    assert_eq!(Raw::to(&tbot).ask(&sign), [5]);
    assert_eq!(in_between.ask(&sign)[0], 14);
    assert_eq!(in_between.list(), after);
    assert_eq!(in_between.ask(&sign), [5]);
}

#[test]
fn a_forwarded_agent_logs_in_at_the_next_server_and_a_jump_passes_one() {
    let keys = Keys::with_ca();
    let (first, second) = (keys.sshd(), keys.sshd());
    let host_ca = format!("    host_ca: [{}]", keys.path("ca.pub").display());
    let tbot = with_identity(&keys.ssh_ca(&first.user), "", &host_ca).start();
    await_healthy(&tbot, "identity");
    // What the first server's user has: who is trusted, and no key.
    let known = format!("@cert-authority * {}", keys.text("ca.pub"));
    let known = keys.write("known_hosts", known);
    let (known, port) = (known.display(), second.address.port());
    let onward = format!(
        "ssh-add -l && ssh -F none -o UserKnownHostsFile={known} -o StrictHostKeyChecking=yes \
         -o IdentityFile=none -p {port} 127.0.0.1 echo in at the second"
    );
    let with = |options: &[&str], to: &Sshd, command: &str| {
        let mut login = Command::new("ssh");
        login.args(options);
        login.args(ssh(&tbot, to, "127.0.0.1", command).get_args());
        run(login.env_remove("SSH_AUTH_SOCK"))
    };
    for _ in 0..2 {
        let end = with(&["-A"], &first, &onward);
        assert!(
            end.stdout.contains("ED25519-CERT") && end.stdout.ends_with("in at the second\n"),
            "{end:?}"
        );
        // Each session is bound to its host, and what is forwarded from there too.
        tbot.signal(Signal::HUP);
    }
    let jump = format!("{}@127.0.0.1:{}", first.user, first.address.port());
    let end = with(&["-J", &jump], &second, "echo in by the first");
    assert_eq!(end.stdout, "in by the first\n", "{end:?}");
}
