//! A real systemd, process 1 of namespaces of its own, which knows no unit but a test's.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Pid;

use super::process::{Finished, Process, run, succeed};
use super::wait::until;
use super::{is_root, not_tested, procfs};

/// What is needed before it starts: its control groups, and what it and the test may change, apart from the
/// machine's own. `$1` is the program, `$2` the targets that every service needs.
const PREPARE: &str = r#"
mount --make-rprivate /
umount -R /sys/fs/cgroup 2>/dev/null || umount -l /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs /run
mkdir /run/upper /run/work
mount -t overlay -o lowerdir=/etc,upperdir=/run/upper,workdir=/run/work overlay /etc
for directory in /etc/systemd/system /var/lib /usr/local/bin; do
    mount -t tmpfs -o mode=755 tmpfs $directory
done
for target in sysinit basic shutdown; do
    printf '[Unit]\nDescription=Nothing\n' >/etc/systemd/system/$target.target
done
touch /usr/local/bin/tbot
mount --bind "$1" /usr/local/bin/tbot
exec env -i container=test PATH="$PATH" SYSTEMD_UNIT_PATH=/etc/systemd/system \
    /lib/systemd/systemd --system --unit=basic.target --log-target=null --show-status=no
"#;

pub struct Systemd {
    _namespaces: Process,
    /// Process 1, as it is seen from outside.
    init: Pid,
    cgroup: Cgroup,
}

impl Systemd {
    /// With this program as `/usr/local/bin/tbot`. `None`, said aloud, where this machine does not allow it.
    pub fn start(program: &Path) -> Option<Self> {
        let refused = |why: &str| not_tested("a unit that runs", why);
        if !is_root() || !Path::new("/lib/systemd/systemd").exists() {
            refused("it takes root, and systemd installed");
            return None;
        }
        let Some(cgroup) = Cgroup::new() else {
            refused("no control group can be made");
            return None;
        };
        let enter = format!("echo $$ >{}/cgroup.procs; exec \"$@\"", cgroup.0.display());
        let mut unshare = Command::new("sh");
        unshare.args(["-c", &enter, "sh", "unshare"]);
        unshare.args(["--mount", "--pid", "--fork", "--mount-proc", "--cgroup"]);
        unshare.args(["--uts", "--ipc", "--kill-child", "sh", "-ec", PREPARE, "sh"]);
        let mut namespaces = Process::spawn(unshare.arg(program));
        let init = until("systemd serves", || {
            if namespaces.ended().is_some() {
                return Some(None);
            }
            let init = *procfs::descendants(namespaces.pid()).first()?;
            let socket = format!("/proc/{init}/root/run/systemd/private");
            let name = fs::read_to_string(format!("/proc/{init}/comm")).ok()?;
            (name == "systemd\n" && Path::new(&socket).exists()).then_some(Some(init))
        });
        let Some(init) = init else {
            refused(&namespaces.stderr.all());
            return None;
        };
        Some(Self {
            _namespaces: namespaces,
            init,
            cgroup,
        })
    }

    /// A path in there, from outside.
    pub fn path(&self, inside: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{inside}", self.init))
    }

    /// A command in there.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--target={}", self.init));
        command.args(["--mount", "--pid", "--uts", "--ipc", "--cgroup", program]);
        command
    }

    /// The same as the user that a unit's processes are.
    pub fn command_as(&self, user: &str, program: &str) -> Command {
        let mut command = self.command("setpriv");
        command.args([&format!("--reuid={user}"), &format!("--regid={user}")]);
        command.args(["--clear-groups", program]);
        command
    }

    pub fn systemctl(&self, words: &[&str]) -> Finished {
        run(self.command("systemctl").args(words))
    }

    /// A property of a unit.
    pub fn property(&self, unit: &str, name: &str) -> String {
        let property = format!("--property={name}");
        let mut show = self.command("systemctl");
        let value = succeed(show.args(["show", "--value", &property, unit]));
        value.trim_end().to_owned()
    }

    /// The main process of a unit, as it is seen from outside.
    pub fn main_pid(&self, unit: &str) -> Option<Pid> {
        let inside = self.property(unit, "MainPID");
        procfs::descendants(self.init).into_iter().find(|pid| {
            let status = fs::read_to_string(format!("/proc/{pid}/status"));
            let status = status.unwrap_or_default();
            let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
            numbers.is_some_and(|numbers| numbers.split_whitespace().last() == Some(&*inside))
        })
    }
}

impl Drop for Systemd {
    fn drop(&mut self) {
        // Before its control group goes: the kernel ends all processes of a namespace with its first one.
        if rustix::process::kill_process(self.init, rustix::process::Signal::KILL).is_ok() {
            let processes = self.cgroup.0.join("cgroup.events");
            until("its processes have ended", || {
                let events = fs::read_to_string(&processes).unwrap_or_default();
                (!events.contains("populated 1")).then_some(())
            });
        }
    }
}

/// A control group, with all below it.
struct Cgroup(PathBuf);

impl Cgroup {
    fn new() -> Option<Self> {
        let mounts = fs::read_to_string("/proc/mounts").ok()?;
        let all = mounts.lines().find_map(|line| {
            let mut words = line.split(' ');
            let path = words.nth(1)?;
            (words.next() == Some("cgroup2")).then_some(path)
        })?;
        static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let name = format!("tbot-test-{}-{number}", std::process::id());
        let path = Path::new(all).join(name);
        fs::create_dir(&path).ok()?;
        Some(Self(path))
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        fn remove(directory: &Path) {
            for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
                if entry.path().is_dir() {
                    remove(&entry.path());
                }
            }
            let _ = fs::remove_dir(directory);
        }
        remove(&self.0);
    }
}
