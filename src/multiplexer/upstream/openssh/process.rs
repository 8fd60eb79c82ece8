//! One `ssh` process that is a master: how it is started, and how it ends.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, ExitStatus, Stdio};

use rustix::fs::{OFlags, fcntl_setfl};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::{Pid, Signal, kill_process};

use super::Bastion;
use super::complaints::Complaints;
use super::control::Control;

/// The agent of the destination, as it is named from the directory that masters start in.
const AGENT: &str = "../agent.sock";

/// What a master is started with.
#[derive(Clone, Debug)]
pub struct Login {
    /// Where to.
    pub bastion: Bastion,
    /// Whether there is an agent in the destination.
    pub has_agent: bool,
    /// The file there that names hosts, and no other is to; `None`: ssh goes by its own.
    pub known_hosts: Option<String>,
}

/// A master that was started.
#[derive(Debug)]
pub struct Process {
    child: Child,
    /// The name of its control socket.
    pub name: String,
}

/// What it leaves to us.
#[derive(Debug)]
pub struct Ends {
    /// Our end of its link, non-blocking.
    pub link: OwnedFd,
    /// Its stderr.
    pub complaints: Complaints,
}

impl Process {
    /// Starts one, which dies with the calling thread.
    pub fn start(login: &Login, control: &Control, name: String) -> io::Result<(Self, Ends)> {
        let (link, its) = socketpair(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::CLOEXEC,
            None,
        )?;
        fcntl_setfl(&link, OFlags::NONBLOCK)?;
        let mut command = crate::program::command("ssh");
        command
            .args(login.arguments(&name))
            .current_dir(control.path())
            .stdin(its.try_clone()?)
            .stdout(its)
            .stderr(Stdio::piped())
            // Who asks something finds nobody.
            .env_remove("DISPLAY")
            .env_remove("SSH_ASKPASS")
            .env("SSH_ASKPASS_REQUIRE", "never");
        crate::sys::die_with_this_thread(&mut command);
        let mut child = command.spawn()?;
        let stderr: OwnedFd = child.stderr.take().expect("it is a pipe").into();
        fcntl_setfl(&stderr, OFlags::NONBLOCK)?;
        let complaints = Complaints::new(stderr);
        Ok((Self { child, name }, Ends { link, complaints }))
    }

    /// Its number.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        // Where the process ignores SIGCHLD, the kernel keeps no status for us (waitpid(2)).
        let unknown = |_| Some(ExitStatus::from_raw(255 << 8));
        self.child.try_wait().unwrap_or_else(unknown)
    }

    /// Asks it to end, or makes it.
    pub fn end(&mut self, how: Signal) {
        // Once it was waited for, the number may be another's.
        if self.ended().is_none() {
            let _ = kill_process(Pid::from_child(&self.child), how);
        }
    }
}

impl Drop for Process {
    /// None outlives us, nor stays a zombie.
    fn drop(&mut self) {
        if self.ended().is_none() {
            self.end(Signal::KILL);
            let _ = self.child.wait();
        }
    }
}

impl Login {
    /// What stands first wins over later options and over the user's file (ssh_config(5)).
    fn arguments(&self, name: &str) -> Vec<OsString> {
        let Bastion {
            host,
            port,
            user,
            identity_file,
            ssh_config_path,
            ssh_options,
            ..
        } = &self.bastion;
        let file = ssh_config_path
            .clone()
            .unwrap_or(PathBuf::from("/dev/null"));
        let mut words: Vec<OsString> = ["-v", "-N", "-T", "-M", "-S", name, "-F"]
            .map(OsString::from)
            .into();
        words.push(file.into());
        words.extend(["-p".into(), port.to_string().into()]);
        if let Some(user) = user {
            words.extend(["-l".into(), user.into()]);
        }
        let mut options = vec![
            // Newer than some of ours: it would go to the background, where nobody would find it, or refuse to
            // start.
            "IgnoreUnknown=ForkAfterAuthentication,KnownHostsCommand,RemoteCommand",
            "ForkAfterAuthentication=no",
            "RemoteCommand=none",
            "ProxyCommand=-",
            "ProxyUseFdpass=no",
            "BatchMode=yes",
            "ControlPersist=no",
            // Silence ends it after 15 to 20 s.
            "ServerAliveInterval=5",
            "ServerAliveCountMax=3",
            "ClearAllForwardings=yes",
            "ForwardAgent=no",
            "ForwardX11=no",
            "PermitLocalCommand=no",
            "Tunnel=no",
            "CheckHostIP=no",
        ];
        let known_hosts = self
            .known_hosts
            .as_ref()
            .map(|file| format!("UserKnownHostsFile=../{file}"));
        if let Some(known_hosts) = &known_hosts {
            options.extend([
                "StrictHostKeyChecking=yes",
                known_hosts,
                "GlobalKnownHostsFile=/dev/null",
                "KnownHostsCommand=none",
                "VerifyHostKeyDNS=no",
                "NoHostAuthenticationForLocalhost=no",
                // Their content is the configuration's.
                "UpdateHostKeys=no",
            ]);
        }
        let agent = format!("IdentityAgent={AGENT}");
        // Not by -i: that is ignored where the file is missing, and ssh's default keys are tried.
        let file = identity_file.as_ref().map(|file| {
            let file = file.to_string_lossy().replace('%', "%%");
            let file = file.replace('\\', "\\\\").replace('"', "\\\"");
            format!("IdentityFile=\"{file}\"")
        });
        if let Some(file) = &file {
            options.extend(["IdentitiesOnly=yes", "IdentityAgent=none", file]);
        } else if self.has_agent {
            options.push(&agent);
            if ssh_config_path.is_none() {
                options.push("IdentityFile=none");
            }
        }
        options.extend(ssh_options.iter().map(String::as_str));
        for option in options {
            words.extend(["-o".into(), option.into()]);
        }
        words.extend(["--".into(), host.into()]);
        words
    }
}
