//! A bastion, what is behind it, and everybody's way there.

use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::common::keys::{await_healthy, with_identity};
use crate::common::process::Process;
use crate::common::server::Server;
use crate::common::sshd::Sshd;
use crate::common::tbot::Tbot;
use crate::common::wait::until;
use crate::targets::{drain, flood};
use crate::ways::{Jump, Master, Ours, Way, ssh};

/// What the ways have in common.
pub struct Stage {
    bastion: Sshd,
    target: Sshd,
    greeting: Server,
    flood: Server,
    drain: Server,
    masters: AtomicUsize,
}

impl Stage {
    pub fn set_up() -> Self {
        let roomy = |_: &std::path::Path| "MaxStartups 10000\nMaxSessions 10000".to_owned();
        Self {
            bastion: Sshd::configured(roomy),
            target: Sshd::configured(roomy),
            greeting: Server::start(|mut stream| {
                // Held for as long as all takes.
                stream.set_read_timeout(None).ok();
                stream.write_all(b"!").ok();
                std::io::copy(&mut stream, &mut std::io::sink()).ok();
            }),
            flood: Server::start(flood),
            drain: Server::start(drain),
            masters: AtomicUsize::new(0),
        }
    }

    /// Speaks first, a byte, and holds the stream.
    pub fn greeting(&self) -> SocketAddr {
        self.greeting.address
    }

    /// A real SSH server.
    pub fn sshd(&self) -> SocketAddr {
        self.target.address
    }

    /// Sends as many bytes as it is told to by eight.
    pub fn flood(&self) -> SocketAddr {
        self.flood.address
    }

    /// Takes as many bytes as it is told to by the first eight, and then says so by one.
    pub fn drain(&self) -> SocketAddr {
        self.drain.address
    }

    /// New ones: we first, and then who is measured against us.
    pub fn ways(&self) -> Vec<Box<dyn Way + '_>> {
        let config = self.configuration();
        let tbot = self.tbot();
        let number = self.masters.fetch_add(1, Ordering::Relaxed);
        let control = self.bastion.file(&format!("ctl{number}"));
        let mut master = ssh(&config);
        master.args(["-N", "-T", "-M", "-S"]).arg(&control);
        let process = Process::spawn(master.arg("bastion"));
        until("the bare master listens", || {
            std::os::unix::net::UnixStream::connect(&control).ok()
        });
        let (target, jump) = (
            &self.target,
            Jump {
                config: config.clone(),
            },
        );
        let master = Master {
            process,
            config,
            control,
        };
        vec![
            Box::new(Ours { tbot, target }),
            Box::new(master),
            Box::new(jump),
        ]
    }

    fn tbot(&self) -> Tbot {
        let Self { bastion, .. } = self;
        let service = format!(
            "    cluster_name: prod\n    user: {}\n    identity_file: {}\n    known_hosts: ['{}']\n    \
             max_connections: 10000\n",
            bastion.user,
            bastion.file("client_key").display(),
            bastion.known_host()
        );
        let run = format!("proxy_server: '{}'", bastion.address);
        let tbot = crate::chosen(with_identity("", &run, &service)).start();
        await_healthy(&tbot, "mux");
        tbot
    }

    /// OpenSSH's for the bastion and the target.
    fn configuration(&self) -> PathBuf {
        let block = |name: &str, sshd: &Sshd| {
            format!(
                "Host {name}\n  HostName {}\n  Port {}\n  User {}\n  IdentityFile {}\n  HostKeyAlias \
                 sshd-under-test\n  UserKnownHostsFile {}\n",
                sshd.address.ip(),
                sshd.address.port(),
                sshd.user,
                sshd.file("client_key").display(),
                sshd.file("known_hosts").display()
            )
        };
        let text = format!(
            "{}{}Host *\n  BatchMode yes\n  IdentitiesOnly yes\n  IdentityAgent none\n  \
             GlobalKnownHostsFile /dev/null\n  StrictHostKeyChecking yes\n",
            block("bastion", &self.bastion),
            block("target", &self.target)
        );
        let path = self.bastion.file("ssh_config");
        fs::write(&path, text).expect("the directory is ours");
        path
    }
}
