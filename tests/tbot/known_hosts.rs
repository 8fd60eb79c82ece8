//! Whose host keys ssh believes, by the written files.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::common::keys::{Keys, await_healthy, ssh, with_identity};
use crate::common::process::run;
use crate::common::tbot::Tbot;

#[test]
fn without_host_keys_ssh_goes_by_its_own_and_with_both_kinds_by_each() {
    let keys = Keys::with_ca();
    let sshd = keys.sshd();
    let own = format!(
        "[127.0.0.1]:{} {}",
        sshd.address.port(),
        fs::read_to_string(sshd.directory.path().join("host_key.pub")).expect("it has one")
    );
    let (own, none) = (keys.write("own", &own), keys.write("none", ""));
    // What a user's own file says.
    let login = |tbot: &Tbot, file: &Path| {
        let mut login = Command::new("ssh");
        login.arg("-o").arg("GlobalKnownHostsFile=/dev/null");
        if tbot.known_hosts().contains("no host authorities") {
            login
                .arg("-o")
                .arg(format!("UserKnownHostsFile={}", file.display()));
        }
        login.args(ssh(tbot, &sshd, "127.0.0.1", "echo in").get_args());
        run(login.env_remove("SSH_AUTH_SOCK").env_remove("DISPLAY"))
    };
    let tbot = with_identity(&keys.ssh_ca(&sshd.user), "", "").start();
    await_healthy(&tbot, "identity");
    let config = fs::read_to_string(tbot.ssh_config()).expect("it is written");
    assert!(!config.contains("KnownHosts") && !config.contains("StrictHost"));
    assert_eq!(login(&tbot, &own).stdout, "in\n");
    let end = login(&tbot, &none);
    // It would ask, and nobody is there.
    assert!(
        end.stderr.contains("Host key verification failed") && end.stdout.is_empty(),
        "{end:?}"
    );

    // An authority that signed nothing here, and the key itself; then the other way around.
    keys.generate("other", &["-t", "ed25519"], "");
    let pinned = keys.text("own");
    let other = format!(
        "[127.0.0.1]:{} {}",
        sshd.address.port(),
        keys.text("other.pub")
    );
    for (authority, pinned) in [("other.pub", pinned.trim()), ("ca.pub", other.trim())] {
        let lines = format!(
            "    host_ca: [{}]\n    known_hosts: ['{pinned}']",
            keys.path(authority).display()
        );
        let tbot = with_identity(&keys.ssh_ca(&sshd.user), "", &lines).start();
        await_healthy(&tbot, "identity");
        let known = tbot.known_hosts();
        let words = |line: &str, number| {
            let words: Vec<_> = line.split(' ').take(number).map(str::to_owned).collect();
            words.join(" ")
        };
        let authority = format!("@cert-authority * {}", words(&keys.text(authority), 2));
        assert!(
            known.contains(&authority) && known.contains(&words(pinned, 3)),
            "{known}"
        );
        let end = login(&tbot, &none);
        assert_eq!(end.stdout, "in\n", "{authority}: {end:?}");
    }
}
