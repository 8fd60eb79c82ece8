//! Where an identity's keys and certificates come from, with OpenSSH's ssh-keygen, ssh and sshd.
#![cfg(feature = "pprof")]

use std::fs;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tbot::identity::{Certificate, Key};

use crate::common::keys::{
    Keys, await_healthy, client, listed, readyz, refused_with, shown, signed_by, ssh, with_identity,
};
use crate::common::process::{run, succeed};
use crate::common::set_mode;
use crate::common::sshd::Sshd;

#[test]
fn an_authority_of_every_kind_signs_what_is_asked_for() {
    let keys = Keys::new();
    keys.write("passphrase", "correct horse\n");
    let kinds: [(&str, &[&str], &str); 9] = [
        ("ed25519", &["-t", "ed25519"], ""),
        ("ecdsa256", &["-t", "ecdsa", "-b", "256"], ""),
        ("ecdsa384", &["-t", "ecdsa", "-b", "384"], ""),
        ("ecdsa521", &["-t", "ecdsa", "-b", "521"], ""),
        ("rsa", &["-t", "rsa", "-b", "2048"], ""),
        ("rsa4096", &["-t", "rsa", "-b", "4096"], ""),
        (
            "encrypted521",
            &["-t", "ecdsa", "-b", "521"],
            "correct horse",
        ),
        ("encrypted", &["-t", "ed25519"], "correct horse"),
        (
            "encrypted-rsa",
            &["-t", "rsa", "-b", "2048"],
            "correct horse",
        ),
    ];
    let hostname = succeed(Command::new("uname").arg("-n"));
    for (name, kind, passphrase) in kinds {
        let ca = keys.generate(name, kind, passphrase);
        let mut onboarding = format!(
            "{{ join_method: ssh-ca, ca_key_path: {}, principals: [deploy, root], key_id: 'bot of {{hostname}}', \
             extensions: [permit-pty, permit-port-forwarding], \
             critical_options: {{ source-address: '127.0.0.0/8,::1', force-command: uptime }}",
            ca.display()
        );
        if !passphrase.is_empty() {
            let path = keys.path("passphrase");
            onboarding += &format!(", ca_key_passphrase_path: {}", path.display());
        }
        let begun = SystemTime::now();
        let tbot = with_identity(&(onboarding + " }"), "credential_ttl: 45m", "").start();
        await_healthy(&tbot, "identity");
        let lines = listed(&tbot);
        assert_eq!(lines.len(), 2, "{lines:?}");
        let path = keys.write(&format!("of-{name}.pub"), &lines[0]);
        let shown = shown(&path);
        let section = |heading: &str, end: &str| {
            let mut lines = shown.iter().skip_while(|line| *line != heading).skip(1);
            let mut section = Vec::new();
            while let Some(line) = lines.next().filter(|line| *line != end) {
                section.push(line.as_str());
            }
            section
        };
        assert!(
            shown[1].starts_with("Type: ssh-ed25519-cert-v01@openssh.com user"),
            "{shown:?}"
        );
        let authority = keys.fingerprint(&format!("{name}.pub"));
        assert!(
            shown
                .iter()
                .any(|line| line.starts_with("Signing CA: ") && line.contains(&authority)),
            "{authority} in {shown:?}"
        );
        let id = format!("Key ID: \"bot of {}\"", hostname.trim());
        assert!(shown.contains(&id), "{shown:?}");
        assert_eq!(
            section("Principals:", "Critical Options:"),
            ["deploy", "root"]
        );
        assert_eq!(
            section("Critical Options:", "Extensions:"),
            ["force-command uptime", "source-address 127.0.0.0/8,::1"]
        );
        assert_eq!(
            section("Extensions:", ""),
            ["permit-port-forwarding", "permit-pty"]
        );
        let certificate = Certificate::from_openssh(&lines[0]).expect("ssh-keygen read it");
        let (start, end) = (certificate.valid_after(), certificate.valid_before());
        assert_eq!(end - start, 60 + 45 * 60);
        let since = |time: SystemTime| time.duration_since(UNIX_EPOCH).expect("now").as_secs();
        let made = since(begun)..=since(SystemTime::now());
        assert!(made.contains(&(start + 60)), "{start} + 60 in {made:?}");
        let secret = keys.text(name);
        for line in secret.lines().filter(|line| !line.starts_with('-')) {
            assert!(
                !tbot.stderr.so_far().contains(line),
                "the log shows the key"
            );
        }
        assert!(!tbot.stderr.so_far().contains("correct horse"));
    }
}

#[test]
fn ssh_logs_in_by_the_written_configuration_alone() {
    let keys = Keys::with_ca();
    let sshd = keys.sshd();
    let ca = keys.text("ca.pub");
    for (lines, host) in [
        (format!("    host_ca: ['{}']", ca.trim()), "127.0.0.1"),
        (
            format!(
                "    host_ca: [{}]\n    cluster_name: prod",
                keys.path("ca.pub").display()
            ),
            "127.0.0.1.prod",
        ),
        (
            format!(
                "    known_hosts: ['[127.0.0.1]:{} {}']",
                sshd.address.port(),
                fs::read_to_string(sshd.directory.path().join("host_key.pub"))
                    .expect("it has one")
                    .trim()
            ),
            "127.0.0.1",
        ),
    ] {
        let tbot = with_identity(&keys.ssh_ca(&sshd.user), "", &lines).start();
        await_healthy(&tbot, "identity");
        let end = run(&mut ssh(&tbot, &sshd, host, "echo in as $(id -un)"));
        assert_eq!(end.stdout, format!("in as {}\n", sshd.user), "{end:?}");
        // Another server, whose key nobody vouches for.
        let stranger = Sshd::start();
        let end = run(&mut ssh(&tbot, &stranger, host, "echo in"));
        assert_eq!(
            (end.status.code(), end.stdout.as_str()),
            (Some(255), ""),
            "{end:?}"
        );
        assert!(
            end.stderr.contains("Host key verification failed"),
            "{end:?}"
        );
        tbot.await_ended(2);
    }
}

/// Half of them have a private number that begins with a zero.
#[test]
fn a_key_of_p521_signs_whatever_its_number() {
    let keys = Keys::new();
    keys.write("passphrase", "correct horse");
    for n in 0..12 {
        let name = format!("id{n}");
        let passphrase = if n % 2 == 0 { "" } else { "correct horse" };
        let key = keys.generate(&name, &["-t", "ecdsa", "-b", "521"], passphrase);
        let key = Key::read(&key, Some(&keys.path("passphrase")))
            .unwrap_or_else(|error| panic!("{error}"));
        let signature = key.sign(b"data", None).expect("it signs");
        let public = key.public();
        assert!(
            ssh_key::PublicKey::from_openssh(&keys.text(&format!("{name}.pub")))
                .expect("ssh-keygen wrote it")
                .key_data()
                == public.key_data()
        );
        rsa::signature::Verifier::verify(public.key_data(), b"data", &signature)
            .expect("it is right");
    }
}

#[test]
fn a_certificate_for_another_user_does_not_log_in() {
    let keys = Keys::with_ca();
    let sshd = keys.sshd();
    let lines = format!("    host_ca: [{}]", keys.path("ca.pub").display());
    let tbot = with_identity(&keys.ssh_ca("nobody-else"), "", &lines).start();
    await_healthy(&tbot, "identity");
    let end = run(&mut ssh(&tbot, &sshd, "127.0.0.1", "echo in"));
    assert!(
        end.stderr.contains("Permission denied") && end.stdout.is_empty(),
        "{end:?}"
    );
}

#[test]
fn without_onboarding_there_is_no_agent() {
    for run in ["onboarding: { join_method: none }", ""] {
        let tbot = with_identity("", run, "").start();
        let config = fs::read_to_string(tbot.ssh_config()).expect("it is written");
        assert!(
            !config.contains("Identity") && !config.contains("HostKey"),
            "{config}"
        );
        assert!(!tbot.destination.join("agent.sock").exists());
        assert!(!tbot.metrics().contains("tbot_identity_"));
    }
}

#[test]
fn a_program_signs_keys() {
    let keys = Keys::with_ca();
    let script = keys.script(
        "sign",
        &format!(
            "set -e\ncd {}\ncat >new.pub\necho 'some remark' >&2\nssh-keygen -q -s ca -I by-script -n \"$1\" -V +1h new.pub\necho\ncat new-cert.pub\n",
            keys.path("").display()
        ),
    );
    let sshd = keys.sshd();
    let tbot = with_identity(
        &format!(
            "{{ join_method: command, command: [{}, {}] }}",
            script.display(),
            sshd.user
        ),
        "",
        &format!("    host_ca: [{}]", keys.path("ca.pub").display()),
    )
    .start();
    await_healthy(&tbot, "identity");
    let end = run(&mut ssh(&tbot, &sshd, "127.0.0.1", "echo in"));
    assert_eq!(end.stdout, "in\n", "{end:?}");
    assert!(tbot.metric("tbot_identity_certificate_valid{service=\"identity\"}") == 1);
}

#[test]
fn a_program_that_fails_is_told_of() {
    let keys = Keys::with_ca();
    keys.generate("other", &["-t", "ed25519"], "");
    fs::copy(
        keys.certify("other", &["-I", "x", "-n", "root"]),
        keys.path("other.cert"),
    )
    .expect("ours");
    let at = keys.path("").display().to_string();
    let sign = |options: &str| {
        format!(
            "d=$(mktemp -d {at}/XXXXXX)\ncat >$d/k.pub\nssh-keygen -q -s {at}/ca -I x {options} $d/k.pub && cat $d/k-cert.pub"
        )
    };
    let cases: [(&str, String, &str); 14] = [
        (
            "hangs",
            "echo waiting for a token >&2\nsleep 600".into(),
            "/hangs did not end within 300ms: waiting for a token",
        ),
        (
            "childhangs",
            "sleep 600 &\nexit 3".into(),
            "/childhangs failed (exit status 3)",
        ),
        (
            "childholds",
            "sleep 600 &\nexit 0".into(),
            "/childholds did not print a certificate: it is empty",
        ),
        (
            "much",
            "exec head -c 100000000 /dev/zero".into(),
            "/much printed more than 65536 bytes, which is no certificate",
        ),
        (
            "complains",
            "head -c 100000000 /dev/zero >&2\nexit 1".into(),
            "/complains failed (exit status 1)",
        ),
        (
            "another",
            format!("cat {at}/other.cert"),
            "is of no use: the certificate is for another key",
        ),
        (
            "host",
            sign("-h -n db1"),
            "is of no use: the certificate is one for hosts, not for users",
        ),
        (
            "expired",
            sign("-n root -V 20200101:20200102"),
            "is of no use: the certificate has been valid until 2020-01-0",
        ),
        (
            "early",
            sign("-n root -V 20700101:20700102"),
            "is of no use: the certificate is valid from 20",
        ),
        (
            "nothing",
            "true".into(),
            "/nothing did not print a certificate: it is empty",
        ),
        (
            "two",
            format!("{}\ncat {at}/other.cert", sign("-n root")),
            "/two did not print a certificate: it has more than one line",
        ),
        (
            "nonsense",
            "echo hello".into(),
            "/nonsense did not print a certificate: ",
        ),
        (
            "bytes",
            "printf '\\377\\376'".into(),
            "/bytes did not print a certificate: it is not text",
        ),
        (
            "fails",
            "echo first >&2; echo 'no token: log in' >&2; exit 7".into(),
            "/fails failed (exit status 7): no token: log in",
        ),
    ];
    for (name, lines, reason) in &cases {
        let script = keys.script(name, lines);
        refused_with(
            &format!(
                "{{ join_method: command, command: [{}], command_timeout: {} }}",
                script.display(),
                if *name == "hangs" { "300ms" } else { "30s" }
            ),
            reason,
        );
    }
    refused_with(
        "{ join_method: command, command: [/nowhere/sign] }",
        "cannot run /nowhere/sign: no such file",
    );
    let plain = keys.write("plain", "x");
    refused_with(&signed_by(&plain), "/plain: permission denied");
    let killed = keys.script("killed", "kill -9 $$");
    refused_with(&signed_by(&killed), "/killed failed (signal: 9 (SIGKILL))");
}

#[test]
fn a_program_that_hangs_delays_no_stop_and_is_gone_with_it() {
    let keys = Keys::new();
    let pids = keys.path("pids");
    let script = keys.script(
        "hangs",
        &format!(
            "echo $$ >{0}\nsleep 600 &\necho $! >>{0}\nwait",
            pids.display()
        ),
    );
    let onboarding = format!(
        "{{ join_method: command, command: [{}], command_timeout: 1h }}",
        script.display()
    );
    let mut tbot = with_identity(&onboarding, "", "").start();
    let pids = crate::common::wait::until("the program runs", || {
        let text = fs::read_to_string(&pids).ok()?;
        (text.lines().count() == 2).then_some(text)
    });
    tbot.signal(rustix::process::Signal::TERM);
    assert!(tbot.exit().success());
    for pid in pids.lines() {
        crate::common::wait::until("its processes are gone", || {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            (stat.is_empty() || stat.contains(") Z ")).then_some(())
        });
    }
}

#[test]
fn a_key_from_a_file_is_served_with_and_without_certificate() {
    let keys = Keys::with_ca();
    keys.write("passphrase", "correct horse\n");
    let kinds: [(&str, &[&str], &str); 4] = [
        ("ed", &["-t", "ed25519"], ""),
        ("ec", &["-t", "ecdsa", "-b", "384"], ""),
        ("rsa", &["-t", "rsa"], ""),
        ("locked", &["-t", "rsa", "-b", "2048"], "correct horse"),
    ];
    for (name, kind, passphrase) in kinds {
        let key = keys.generate(name, kind, passphrase);
        let mut onboarding = format!("{{ join_method: key-file, key_path: {}", key.display());
        if !passphrase.is_empty() {
            onboarding += &format!(
                ", key_passphrase_path: {}",
                keys.path("passphrase").display()
            );
        }
        onboarding += " }";
        let public = keys.text(&format!("{name}.pub"));
        let (kind, public) = public.trim().split_once(' ').expect("kind and key");
        let tbot = with_identity(&onboarding, "", "").start();
        await_healthy(&tbot, "identity");
        let lines = listed(&tbot);
        assert!(
            lines.len() == 1 && lines[0] == format!("{kind} {public}"),
            "{lines:?}"
        );
        // It is renewed when a certificate comes to lie beside the key, or at once when asked.
        keys.certify(name, &["-I", "beside", "-n", "root"]);
        tbot.signal(rustix::process::Signal::HUP);
        let lines = crate::common::wait::until("the certificate is served", || {
            Some(listed(&tbot)).filter(|lines| lines.len() == 2)
        });
        assert!(
            lines[0].starts_with(&format!("{kind}-cert-v01@openssh.com ")),
            "{lines:?}"
        );
        assert!(lines[1].starts_with(&format!("{kind} ")), "{lines:?}");
        succeed(
            client(&tbot, "ssh-add")
                .arg("-T")
                .arg(keys.path(&format!("{name}.pub"))),
        );
    }
}

#[test]
fn a_key_file_that_changes_is_read_again() {
    let keys = Keys::new();
    let key = keys.generate("id", &["-t", "ed25519"], "");
    keys.generate("next", &["-t", "ed25519"], "");
    let tbot = with_identity(
        &format!("{{ join_method: key-file, key_path: {} }}", key.display()),
        "",
        "",
    )
    .start();
    await_healthy(&tbot, "identity");
    fs::rename(keys.path("next"), &key).expect("ours");
    let next = keys.text("next.pub");
    crate::common::wait::within(Duration::from_secs(20), "the new key is served", || {
        (listed(&tbot) == [next.trim()]).then_some(())
    });
    tbot.stderr.line("renewing, as its files have changed");
    // Forbidden, it is told of, and the key that was read serves on.
    set_mode(&key, 0o644);
    let reason = crate::common::wait::until("the mode is noticed", || {
        Some(readyz(&tbot, "identity")).filter(|(code, ..)| *code == 503)
    });
    assert!(reason.2.contains("mode 0644"), "{reason:?}");
    assert_eq!(listed(&tbot), [next.trim()]);
    assert_eq!(readyz(&tbot, "mux").0, 200);
    set_mode(&key, 0o600);
    await_healthy(&tbot, "identity");
}

#[test]
fn a_source_address_is_right_where_openssh_says_so() {
    let keys = Keys::with_ca();
    keys.generate("id", &["-t", "ed25519"], "");
    let mut right = 0;
    for address in [
        "10.0.0.0/8",
        "10.0.0.0/08",
        "10.1.0.0/8",
        "10.0.0.0/+8",
        "10.0.0.0/33",
        "10.0.0.1/",
        "10.0.0.1",
        "10.0.0.1,10.0.0.2/32",
        "10.0.0.1, 10.0.0.2",
        "10.0.0.1,",
        "::1",
        "::/0",
        "FE80::/64",
        "fe80::1/64",
        "fe80::1%lo",
        "::ffff:192.0.2.1/128",
        "::1/129",
        "1.2.3.4/128",
        "0.0.0.0/0",
        "0.0.0.1/0",
        "0x0a.0.0.1",
        "",
    ] {
        let mut keygen = Command::new("ssh-keygen");
        keygen
            .args(["-q", "-I", "x", "-n", "root", "-s"])
            .arg(keys.path("ca"));
        keygen.args(["-O", &format!("source-address={address}")]);
        let theirs = run(keygen.arg(keys.path("id.pub"))).status.success();
        let onboarding = keys.ssh_ca("root");
        let onboarding = onboarding.replace(
            " }",
            &format!(", critical_options: {{ source-address: '{address}' }} }}"),
        );
        // Without a service of files, once does nothing more than read its configuration.
        let ours = with_identity(&onboarding, "oneshot: true", "").finish();
        assert_eq!(ours.status.success(), theirs, "{address:?}: {ours:?}");
        right += usize::from(theirs);
    }
    assert!(right > 5, "{right}");
}
