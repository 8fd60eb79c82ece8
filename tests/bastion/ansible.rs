//! Ansible, which opens a connection for each host and more for each task, through the written `ssh_config` alone.

use std::fmt::Write;
use std::fs;
use std::net::Ipv4Addr;
use std::process::Command;

use crate::common::keys::{Keys, await_healthy, with_identity};
use crate::common::process::run;
use crate::common::sshd::Sshd;
use crate::common::tbot::{Counts, Tbot};
use crate::{cluster, masters};

const HOSTS: usize = 20;

/// One task that looks, one that writes, one that fetches, one that sends a file by `sftp`.
const PLAYBOOK: &str = "
- hosts: all
  gather_facts: no
  tasks:
    - command: 'echo {{ inventory_hostname }}'
      register: said
    - assert: { that: said.stdout == inventory_hostname }
    - copy: { content: '{{ inventory_hostname }}', dest: '{{ room }}/{{ inventory_hostname }}' }
    - slurp: { src: '{{ room }}/{{ inventory_hostname }}' }
      register: read
    - assert: { that: (read.content | b64decode) == inventory_hostname }
";

#[test]
fn ansible_reaches_twenty_hosts_at_once() {
    let keys = Keys::with_ca();
    let bastion = keys.sshd();
    let target = keys.sshd_on(Ipv4Addr::UNSPECIFIED.into());
    let tbot = with_identity(
        &keys.ssh_ca(&bastion.user),
        &format!("proxy_server: '{}'", bastion.address),
        &format!(
            "    cluster_name: prod\n    user: {}\n    host_ca: [{}]\n",
            bastion.user,
            keys.path("ca.pub").display()
        ),
    )
    .start();
    await_healthy(&tbot, "mux");
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
            "[defaults]\nforks = {HOSTS}\nhost_key_checking = yes\n[ssh_connection]\nssh_args = -F {}\n",
            tbot.ssh_config().display()
        ),
    );
    let ping = run(ansible(&keys, "ansible").args(["all", "-m", "ping"]));
    assert!(ping.status.success(), "{ping:?}\n{}", tbot.stderr.so_far());
    assert_eq!(ping.stdout.matches(" | SUCCESS => ").count(), HOSTS, "{ping:?}");
    let room = keys.path("room");
    fs::create_dir(&room).expect("it is free");
    let mut play = ansible(&keys, "ansible-playbook");
    play.args(["play.yml", "-e"]).arg(format!("room={}", room.display()));
    let play = run(&mut play);
    assert!(play.status.success(), "{play:?}\n{}", tbot.stderr.so_far());
    for n in 1..=HOSTS {
        let host = format!("127.0.1.{n}.prod");
        let row = play.stdout.lines().rev().find(|line| line.starts_with(&host));
        let row = row.unwrap_or_else(|| panic!("no {host} in {}", play.stdout));
        for part in ["ok=5 ", "unreachable=0 ", "failed=0 "] {
            assert!(row.contains(part), "{row}");
        }
        assert_eq!(fs::read_to_string(room.join(&host)).expect("it was copied"), host);
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
