//! The ways to a target behind a bastion: tbot, a stream of a bare master by an `ssh -W` each, and a login each,
//! as `ssh -J` does.

use std::io::{PipeReader, PipeWriter, Read, Write, pipe};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use rustix::process::Pid;

use crate::common::process::Process;
use crate::common::procfs;
use crate::common::sshd::Sshd;
use crate::common::tbot::Tbot;
use crate::common::v1::request;
use crate::common::wait::PATIENCE;

/// One who connects to targets.
pub trait Way: Sync {
    fn name(&self) -> &'static str;

    /// Asks for a stream to `target`, and sends `first` as soon as it may.
    fn open(&self, target: SocketAddr, first: &[u8]) -> Stream;

    /// The processes that all streams share.
    fn processes(&self) -> Vec<Pid>;

    /// Waits until nothing is being prepared.
    fn settle(&self) {}

    /// `ssh` to the real server behind the bastion, ready for the remote command.
    fn ssh(&self) -> Command;
}

/// A stream, with the process that is its own.
pub struct Stream {
    pub reader: Box<dyn Read + Send>,
    pub writer: Box<dyn Write + Send>,
    child: Option<Child>,
}

impl Stream {
    pub fn process(&self) -> Option<Pid> {
        self.child.as_ref().map(Pid::from_child)
    }

    /// Waits for the first byte.
    pub fn first_byte(&mut self) {
        let mut byte = [0];
        self.reader
            .read_exact(&mut byte)
            .expect("the target speaks first");
    }
}

impl Drop for Stream {
    /// At once: an `ssh -W` that only begins to wait for its master does not hear a SIGHUP, by which ssh ends its
    /// ProxyCommand, and lives on.
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            child.kill().ok();
            child.wait().ok();
        }
    }
}

/// Asked by the v1 protocol.
pub struct Ours<'s> {
    pub tbot: Tbot,
    pub target: &'s Sshd,
}

impl Way for Ours<'_> {
    fn name(&self) -> &'static str {
        "tbot"
    }

    fn open(&self, target: SocketAddr, first: &[u8]) -> Stream {
        let mut stream = UnixStream::connect(self.tbot.socket()).expect("tbot accepts");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time");
        let request = [&request(target), first].concat();
        stream.write_all(&request).expect("tbot reads");
        Stream {
            writer: Box::new(stream.try_clone().expect("descriptors")),
            reader: Box::new(stream),
            child: None,
        }
    }

    fn processes(&self) -> Vec<Pid> {
        let mut all = procfs::descendants(self.tbot.pid());
        all.push(self.tbot.pid());
        all
    }

    fn settle(&self) {
        let starting = "tbot_ssh_bastion_masters{cluster=\"prod\",state=\"starting\"}";
        crate::common::wait::until("no master starts", || {
            (self.tbot.metric(starting) == 0).then_some(())
        });
    }

    fn ssh(&self) -> Command {
        let config = self.tbot.ssh_config();
        self.target.ssh_to(&config, "127.0.0.1.prod")
    }
}

/// A master as `ssh -M` makes one, and an `ssh -W` for each stream.
pub struct Master {
    pub process: Process,
    pub config: PathBuf,
    pub control: PathBuf,
}

impl Way for Master {
    fn name(&self) -> &'static str {
        "ssh -W"
    }

    fn open(&self, target: SocketAddr, first: &[u8]) -> Stream {
        let mut ssh = ssh(&self.config);
        forward(ssh.arg("-S").arg(&self.control), target, first)
    }

    fn processes(&self) -> Vec<Pid> {
        vec![self.process.pid()]
    }

    fn ssh(&self) -> Command {
        let proxy = format!(
            "ProxyCommand=ssh -F {} -S {} -W %h:%p bastion",
            self.config.display(),
            self.control.display()
        );
        let mut ssh = ssh(&self.config);
        ssh.args(["-o", &proxy, "target"]);
        ssh
    }
}

/// A login each.
pub struct Jump {
    pub config: PathBuf,
}

impl Way for Jump {
    fn name(&self) -> &'static str {
        "ssh -J"
    }

    /// By what `ssh -J` starts for itself.
    fn open(&self, target: SocketAddr, first: &[u8]) -> Stream {
        forward(&mut ssh(&self.config), target, first)
    }

    fn processes(&self) -> Vec<Pid> {
        Vec::new()
    }

    fn ssh(&self) -> Command {
        let mut ssh = ssh(&self.config);
        ssh.args(["-J", "bastion", "target"]);
        ssh
    }
}

/// By this configuration alone.
pub fn ssh(config: &PathBuf) -> Command {
    let mut ssh = Command::new("ssh");
    ssh.arg("-F").arg(config).env_remove("SSH_AUTH_SOCK");
    ssh
}

fn forward(ssh: &mut Command, target: SocketAddr, first: &[u8]) -> Stream {
    let target = target.to_string();
    let (input, mut writer): (PipeReader, PipeWriter) = pipe().expect("descriptors");
    writer.write_all(first).expect("a pipe has room");
    let mut child = ssh
        .args(["-W", &target, "bastion"])
        .stdin(input)
        .stdout(Stdio::piped())
        .spawn()
        .expect("`make tools` installs ssh");
    Stream {
        reader: Box::new(child.stdout.take().expect("it is a pipe")),
        writer: Box::new(writer),
        child: Some(child),
    }
}
