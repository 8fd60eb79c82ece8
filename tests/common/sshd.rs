//! A real OpenSSH server with its own keys, and the ssh commands that reach it.

use std::ffi::OsString;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::{Signal, kill_process};
use tempfile::TempDir;

use super::process::{Process, succeed};
use super::{is_root, procfs};

/// A server that runs, as root or as whoever runs the tests.
pub struct Sshd {
    process: Process,
    pub address: SocketAddr,
    /// Keys and configuration; tests may put files here.
    pub directory: TempDir,
    pub user: String,
    more: String,
}

impl Sshd {
    /// On 127.0.0.1.
    pub fn start() -> Self {
        Self::start_on(Ipv4Addr::LOCALHOST.into())
    }

    /// On a free port of `ip`.
    pub fn start_on(ip: IpAddr) -> Self {
        Self::start_with(ip, |_| String::new())
    }

    /// On 127.0.0.1, with the lines that `more` gives for the directory with the host key.
    pub fn configured(more: impl FnOnce(&Path) -> String) -> Self {
        Self::start_with(Ipv4Addr::LOCALHOST.into(), more)
    }

    /// Both.
    pub fn start_with(ip: IpAddr, more: impl FnOnce(&Path) -> String) -> Self {
        let directory = TempDir::new().expect("a directory for temporary files");
        let at = |name: &str| directory.path().join(name);
        for key in ["host_key", "client_key"] {
            succeed(
                Command::new("ssh-keygen")
                    .args(["-q", "-t", "ed25519", "-N", "", "-f"])
                    .arg(at(key)),
            );
        }
        fs::copy(at("client_key.pub"), at("authorized_keys")).expect("ssh-keygen wrote it");
        let host_key = fs::read_to_string(at("host_key.pub")).expect("ssh-keygen wrote it");
        fs::write(at("known_hosts"), format!("{ALIAS} {host_key}")).expect("the directory is ours");
        let more = more(directory.path());
        if is_root() {
            // Where the server's unprivileged half is locked in; the service's start would make it.
            fs::create_dir_all("/run/sshd").expect("root may");
        }
        for _ in 0..10 {
            let address = free_address(ip);
            let process = launch(directory.path(), address, &more);
            let line = process.stderr.line_where("how the start went", |line| {
                line.starts_with("Server listening") || line.contains("fatal")
            });
            if line.starts_with("Server listening") {
                return Self {
                    process,
                    address,
                    user: succeed(Command::new("id").arg("-un")).trim().to_owned(),
                    directory,
                    more,
                };
            }
            let log = process.stderr.so_far();
            assert!(log.contains("Address already in use"), "sshd: {log}");
        }
        panic!("ten free ports were taken by someone else in between");
    }

    /// `ssh` to this server with the configuration at `config`, ready for the remote command.
    pub fn ssh(&self, config: &Path) -> Command {
        self.ssh_to(config, &self.address.ip().to_string())
    }

    /// `ssh` to this server by another of its names.
    pub fn ssh_to(&self, config: &Path, host: &str) -> Command {
        let mut command = self.client("ssh", config);
        command.arg(host);
        command
    }

    /// `ssh`, `scp` or `sftp` with the options that reach this server as its user.
    pub fn client(&self, program: &str, config: &Path) -> Command {
        self.client_for_port(program, config, self.address.port())
    }

    /// The same with another port, for targets that are not there.
    pub fn client_for_port(&self, program: &str, config: &Path, port: u16) -> Command {
        let option = |name: &str, value: &dyn AsRef<std::ffi::OsStr>| {
            let mut word = OsString::from(format!("{name}="));
            word.push(value.as_ref());
            word
        };
        let mut command = Command::new(program);
        command.arg("-F").arg(config);
        for word in [
            option("BatchMode", &"yes"),
            option("GlobalKnownHostsFile", &"/dev/null"),
            option("HostKeyAlias", &ALIAS),
            option("IdentitiesOnly", &"yes"),
            option("IdentityAgent", &"none"),
            option("IdentityFile", &self.file("client_key")),
            option("Port", &port.to_string()),
            option("StrictHostKeyChecking", &"yes"),
            option("User", &self.user),
            option("UserKnownHostsFile", &self.file("known_hosts")),
        ] {
            command.arg("-o").arg(word);
        }
        command.env_remove("SSH_AUTH_SOCK");
        command
    }

    /// Kills the server and all its sessions at once, with SIGKILL.
    pub fn kill(&mut self) {
        self.kill_sessions();
        self.process.signal(Signal::KILL);
        self.process.exit();
    }

    /// Starts it again where it was, after [`Self::kill`], with `more` in place of its own lines.
    pub fn restart(&mut self, more: Option<&str>) {
        let more = more.unwrap_or(&self.more);
        self.process = launch(self.directory.path(), self.address, more);
        self.process.stderr.line("Server listening");
    }

    /// What it has logged since it was started.
    pub fn log(&self) -> String {
        self.process.stderr.so_far()
    }

    /// The line of a known_hosts file that holds its key.
    pub fn known_host(&self) -> String {
        let key = fs::read_to_string(self.file("host_key.pub")).expect("it has one");
        format!(
            "[{}]:{} {}",
            self.address.ip(),
            self.address.port(),
            key.trim()
        )
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Stops all its sessions, which then say nothing.
    pub fn freeze_sessions(&self) {
        for pid in procfs::descendants(self.process.pid()) {
            kill_process(pid, Signal::STOP).ok();
        }
    }

    /// Stops the process that accepts, or lets it go on.
    pub fn freeze_listener(&self, frozen: bool) {
        self.process.signal(match frozen {
            true => Signal::STOP,
            false => Signal::CONT,
        });
    }

    /// They have process groups of their own, so their parents lead to them.
    pub fn kill_sessions(&self) {
        for pid in procfs::descendants(self.process.pid()) {
            // It may have ended in between.
            kill_process(pid, Signal::KILL).ok();
        }
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        self.kill_sessions();
    }
}

/// The name under which clients know the host key, whatever name leads to the server.
const ALIAS: &str = "sshd-under-test";

fn launch(directory: &Path, address: SocketAddr, more: &str) -> Process {
    let at = |name: &str| directory.join(name).display().to_string();
    // Of two values of this one the last counts.
    let startups = match more.contains("MaxStartups") {
        true => "",
        false => "MaxStartups 1000",
    };
    let config = format!(
        // Of two values of any other the first counts (sshd_config(5)).
        "{more}\n\
         ListenAddress {address}\n\
         HostKey {}\n\
         AuthorizedKeysFile {}\n\
         PidFile none\n\
         StrictModes no\n\
         UsePAM no\n\
         PermitRootLogin yes\n\
         PasswordAuthentication no\n\
         KbdInteractiveAuthentication no\n\
         {startups}\n\
         UseDNS no\n\
         PermitUserRC no\n\
         Subsystem sftp internal-sftp\n",
        at("host_key"),
        at("authorized_keys"),
    );
    fs::write(directory.join("sshd_config"), config).expect("the directory is ours");
    // It starts itself again for each connection, so it wants its absolute path.
    Process::spawn(
        Command::new("/usr/sbin/sshd")
            .args(["-D", "-e", "-f"])
            .arg(directory.join("sshd_config")),
    )
}

fn free_address(ip: IpAddr) -> SocketAddr {
    TcpListener::bind((ip, 0))
        .and_then(|listener| listener.local_addr())
        .unwrap_or_else(|error| panic!("cannot listen on {ip}: {error}"))
}
