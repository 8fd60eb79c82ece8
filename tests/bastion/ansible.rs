//! Ansible, which opens a connection for each host and more for each task, through the written `ssh_config` alone.

use std::fmt::Write;
use std::fs;
use std::net::Ipv4Addr;
use std::process::Command;

use crate::common::keys::Keys;
use crate::common::process::run;
use crate::common::sshd::Sshd;
use crate::common::tbot::{Counts, Tbot};
use crate::{certified, cluster, masters};

const HOSTS: usize = 20;

/// A task that runs something, and one that sends a file, which takes six sessions and so is not for all.
const PLAYBOOK: &str = "
- hosts: all
  gather_facts: no
  tasks:
    - command: 'echo {{ inventory_hostname }}'
      register: said
    - assert: { that: said.stdout == inventory_hostname }
- hosts: all[0:3]
  gather_facts: no
  tasks:
    - copy: { content: '{{ inventory_hostname }}', dest: '{{ room }}/{{ inventory_hostname }}' }
";

#[test]
fn ansible_reaches_twenty_hosts_at_once() {
    let keys = Keys::with_ca();
    let bastion = keys.sshd();
    let target = keys.sshd_on(Ipv4Addr::UNSPECIFIED.into());
    let tbot = certified(&keys, &bastion, "");
    let mut inventory = format!(
        "[all:vars]\nansible_user={}\nansible_port={}\nansible_python_interpreter=/usr/bin/python3\n\
         ansible_remote_tmp={}\n[all]\n",
        bastion.user,
        target.address.port(),
        keys.path("remote").display()
    );
    for n in 1..=HOSTS {
        let _ = writeln!(inventory, "127.0.1.{n}.prod");
    }
    keys.write("hosts", inventory);
    keys.write("play.yml", PLAYBOOK);
    keys.write(
        "ansible.cfg",
        format!(
            "[defaults]\nforks = {HOSTS}\nhost_key_checking = yes\n[ssh_connection]\npipelining = yes\nssh_args = -F {}\n",
            tbot.ssh_config().display()
        ),
    );
    let ping = run(ansible(&keys, "ansible").args(["all", "-m", "ping"]));
    assert!(ping.status.success(), "{ping:?}\n{}", tbot.stderr.so_far());
    assert_eq!(
        ping.stdout.matches(" | SUCCESS => ").count(),
        HOSTS,
        "{ping:?}"
    );
    let room = keys.path("room");
    fs::create_dir(&room).expect("it is free");
    let mut play = ansible(&keys, "ansible-playbook");
    play.args(["play.yml", "-e"])
        .arg(format!("room={}", room.display()));
    let play = run(&mut play);
    assert!(play.status.success(), "{play:?}\n{}", tbot.stderr.so_far());
    for n in 1..=HOSTS {
        let (host, sent) = (format!("127.0.1.{n}.prod"), n <= 4);
        let row = play
            .stdout
            .lines()
            .rev()
            .find(|line| line.starts_with(&host));
        let row = row.unwrap_or_else(|| panic!("no {host} in {}", play.stdout));
        let ok = format!("ok={} ", 2 + u8::from(sent));
        for part in [ok.as_str(), "unreachable=0 ", "failed=0 "] {
            assert!(row.contains(part), "{row}");
        }
        let copy = fs::read_to_string(room.join(&host)).ok();
        assert_eq!(copy, sent.then_some(host));
    }
    adds_up(&tbot, &bastion, &target);
}

/// Every session that the target saw is a stream that went well, and the bastion saw few.
fn adds_up(tbot: &Tbot, bastion: &Sshd, target: &Sshd) {
    let sessions = target.log().matches("Accepted publickey").count() as u64;
    assert!(sessions > 2 * HOSTS as u64, "{sessions}");
    tbot.await_counts(Counts {
        started: sessions,
        ok: sessions,
        ..Counts::default()
    });
    assert_eq!(cluster(tbot, "opens_total"), sessions);
    assert_eq!(cluster(tbot, "streams"), 0);
    let logins = bastion.log().matches("Accepted publickey").count();
    assert!((1..=4).contains(&logins), "{logins} logins");
    assert!(masters(tbot).len() <= logins);
}

/// One of its programs, which finds and leaves nothing outside of the test's directory.
fn ansible(keys: &Keys, program: &str) -> Command {
    let mut command = Command::new(program);
    command
        .current_dir(keys.path(""))
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", keys.path("home"))
        .env("LC_ALL", "C.UTF-8")
        .env("TMPDIR", keys.path(""))
        .env("ANSIBLE_CONFIG", keys.path("ansible.cfg"))
        .env("ANSIBLE_LOCAL_TEMP", keys.path("local"))
        .args(["-i", "hosts"]);
    command
}
