//! The program of `make static`: what it is made of, and its life in a root directory that holds
//! nothing else.

use std::fs;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Signal;
use tempfile::TempDir;

use crate::common::built::static_program;
use crate::common::process::{Process, copy_program, run, succeed};
use crate::common::server::Server;
use crate::common::tbot::Start;
use crate::common::v1::{Errors, assert_echoes, request, send_with_descriptors, try_connect};
use crate::common::{http, is_root, not_tested};

/// A root directory with the static program, for processes that see nothing else.
struct Root {
    directory: TempDir,
    /// The command that changes to it.
    enter: Vec<&'static str>,
}

impl Root {
    /// None, said aloud, where this machine lets nobody change the root directory.
    fn new() -> Option<Self> {
        let enter = if is_root() {
            vec!["unshare"]
        } else {
            vec!["unshare", "--map-root-user"]
        };
        let mut probe = Command::new(enter[0]);
        let probe = run(probe.args(&enter[1..]).args(["--root=/", "true"]));
        if !probe.status.success() {
            not_tested("the static program in an empty root", &probe.stderr);
            return None;
        }
        let directory = TempDir::new().expect("a directory for temporary files");
        copy_program(&static_program("tbot"), &directory.path().join("tbot"));
        Some(Self { directory, enter })
    }

    fn path(&self, inside: &str) -> PathBuf {
        self.directory.path().join(inside)
    }

    /// The program in it, without an environment.
    fn tbot(&self, arguments: &[&str]) -> Command {
        let mut command = self.command("/tbot");
        command.args(arguments);
        command
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.enter[0]);
        command
            .args(&self.enter[1..])
            .arg(format!("--root={}", self.directory.path().display()))
            .arg(program)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command
    }

    /// A multiplexer in it that serves, and where its diagnostics listen.
    fn serve(&self) -> (Process, SocketAddr) {
        let configuration = "
version: v2
diag_addr: 127.0.0.1:0
services:
  - type: ssh-multiplexer
    destination: { type: directory, path: /mux }
";
        fs::write(self.path("tbot.yaml"), configuration).expect("the directory is ours");
        let tbot = Process::spawn(&mut self.tbot(&["start", "-d", "-c", "/tbot.yaml"]));
        let line = tbot.stderr.line("diagnostics are served at ");
        let (_, url) = line.split_once("http://").expect("the line has a URL");
        let address = url.trim_end_matches('/').parse();
        tbot.stderr.line(" is ready at /mux/v1.sock");
        (tbot, address.expect("the URL has an address"))
    }

    fn dial(&self, target: impl ToString) -> (UnixStream, Errors) {
        let stream = try_connect(&self.path("mux/v1.sock")).expect("the multiplexer accepts");
        let (errors, writer) = Errors::pipe();
        send_with_descriptors(&stream, &request(target), &[writer.as_fd()]);
        (stream, errors)
    }
}

#[test]
fn it_needs_no_library_and_may_lie_anywhere_in_memory() {
    // elf(5): the head of a file of 64 bits, then its table of segments.
    const TYPE_DYNAMIC: u16 = 3;
    const SEGMENT_INTERPRETER: u32 = 3;
    let file = fs::read(static_program("tbot")).expect("it can be read");
    let u16_at = |at: usize| u16::from_ne_bytes([file[at], file[at + 1]]);
    let word = |at: usize| file[at..at + 4].try_into().expect("4 bytes");
    assert_eq!(file[..5], *b"\x7fELF\x02");
    assert_eq!(u16_at(16), TYPE_DYNAMIC, "not position-independent");
    let table = u32::from_ne_bytes(word(32)) as usize;
    let (size, count) = (u16_at(54) as usize, u16_at(56) as usize);
    let segments: Vec<u32> = (0..count)
        .map(|number| u32::from_ne_bytes(word(table + number * size)))
        .collect();
    assert!(count > 0 && !segments.contains(&SEGMENT_INTERPRETER));
}

/// Names come from the program's own file, found without `/proc`.
#[cfg(feature = "pprof")]
#[test]
fn it_profiles_itself_in_an_empty_root() {
    use std::io::Write;

    let Some(root) = Root::new() else { return };
    let server = Server::counting();
    let (_tbot, diagnostics) = root.serve();
    let (mut stream, _errors) = root.dial(server.address);
    let stop = std::sync::atomic::AtomicBool::new(false);
    let url = format!("http://{diagnostics}/debug/pprof/profile?seconds=2");
    let top = std::thread::scope(|scope| {
        scope.spawn(|| {
            let block = vec![0_u8; 256 * 1024];
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                stream.write_all(&block).expect("it is relayed");
            }
        });
        let mut go = Command::new("go");
        go.args(["tool", "pprof", "-symbolize=none", "-top", "-cum", &url]);
        let top = succeed(
            go.env("HOME", root.path(""))
                .env("PPROF_TMPDIR", root.path("")),
        );
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        top
    });
    for function in ["clone3", "tbot::multiplexer::flow::Flow::pump"] {
        let row = top.lines().find(|row| row.ends_with(function));
        assert!(row.is_some(), "no {function} in {top}");
    }
    assert!(top.contains("File: tbot"), "{top}");
    // The kernel's list of threads is what it cannot do without.
    let (status, body) = http::get(diagnostics, "/debug/pprof/threads");
    assert_eq!(status, 500, "{body}");
    assert!(body.contains("/proc/self/task"), "{body}");
}

#[test]
fn its_size_is_the_one_that_the_readme_gives() {
    let size = fs::metadata(static_program("tbot"))
        .expect("it is there")
        .len();
    let about = format!(" about {:.0} MB\n", size as f64 / 1e6);
    assert!(include_str!("../../README.md").contains(&about), "{about}");
}

/// The order of its functions, see `.ci/seldom.ld`: in that of the linker all of them are.
#[test]
fn less_than_two_thirds_of_its_code_is_resident_when_it_serves() {
    let program = static_program("tbot");
    let tbot = Start::multiplexer().program(program).start();
    assert_eq!(http::get(tbot.address(), "/metrics").0, 200);
    let smaps = format!("/proc/{}/smaps", tbot.pid().as_raw_pid());
    let smaps = fs::read_to_string(smaps).expect("it runs");
    let mut lines = smaps.lines();
    let code = |line: &str| line.contains(" r-xp ") && line.ends_with("/tbot");
    assert!(lines.any(code), "no code in {smaps}");
    let mut kilobytes = |key: &str| {
        let value = lines.find_map(|line| line.strip_prefix(key));
        let value = value.and_then(|value| value.trim().strip_suffix(" kB"));
        value.expect("proc_pid_smaps(5) has it").parse::<u64>()
    };
    let (Ok(size), Ok(resident)) = (kilobytes("Size:"), kilobytes("Rss:")) else {
        panic!("no numbers in {smaps}");
    };
    assert!(resident * 3 < size * 2, "{resident} of {size} kB");
}

#[test]
fn it_serves_from_an_empty_root() {
    let Some(root) = Root::new() else { return };
    let echo = Server::echo();
    let (mut tbot, diagnostics) = root.serve();

    let (status, body) = http::get(diagnostics, "/readyz");
    assert_eq!(status, 200, "{body}");
    let (mut stream, errors) = root.dial(echo.address);
    assert_echoes(&mut stream, b"hello");
    drop(stream);
    assert_eq!(errors.all(), "");
    // Names need files that an operator provides.
    let (_stream, errors) = root.dial(format!("localhost:{}", echo.address.port()));
    assert!(errors.one_line().contains("cannot connect to localhost:"));
    // There is no /proc that tells where the program is.
    let config = fs::read_to_string(root.path("mux/ssh_config")).expect("it was written");
    assert!(
        config.contains(" '/tbot' 'ssh-multiplexer-proxy-command' '/mux/v1.sock' "),
        "{config}"
    );
    assert_eq!(
        succeed(&mut root.tbot(&["version"])).split(' ').next(),
        Some("tbot")
    );

    tbot.signal(Signal::TERM);
    assert!(tbot.exit().success());
    assert!(!root.path("mux/v1.sock").exists());
    let files = fs::read_dir(root.path("")).expect("the directory is ours");
    assert_eq!(files.count(), 3, "it left more than its destination");
}

#[test]
fn without_proc_it_says_what_it_cannot_do() {
    let Some(root) = Root::new() else { return };
    let start = ["start", "ssh-multiplexer", "--destination"];
    let long = format!("/{}", "d".repeat(120));
    let end = run(root.tbot(&start).arg(long));
    assert!(
        end.error()
            .ends_with("v1.sock: a path of more than 107 bytes needs /proc, and it is not mounted"),
        "{end:?}"
    );
    // Found by PATH, it does not know where it lies.
    fs::create_dir(root.path("bin")).expect("the directory is ours");
    fs::rename(root.path("tbot"), root.path("bin/tbot")).expect("the directory is ours");
    let end = run(root
        .command("tbot")
        .args(start)
        .arg("/mux")
        .env("PATH", "/bin:/usr/bin"));
    assert!(
        end.error()
            .starts_with("ERROR: cannot find this program's own path (mount /proc, "),
        "{end:?}"
    );
}

#[test]
fn it_resolves_names_by_the_hosts_file_of_its_root() {
    let Some(root) = Root::new() else { return };
    fs::create_dir(root.path("etc")).expect("the directory is ours");
    fs::write(root.path("etc/hosts"), "127.0.0.1 echo.example\n").expect("the directory is ours");
    let echo = Server::echo();
    let (_tbot, _) = root.serve();
    let (mut stream, _errors) = root.dial(format!("echo.example:{}", echo.address.port()));
    assert_echoes(&mut stream, b"hello");
}

#[test]
fn its_archive_is_the_same_each_time_and_runs() {
    let program = static_program("tbot");
    let directories = [(); 2].map(|()| TempDir::new().expect("a directory for temporary files"));
    let archives = directories.each_ref().map(|directory| {
        let mut dist = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.ci/dist"));
        PathBuf::from(succeed(dist.arg(&program).arg(directory.path())).trim_end())
    });
    let [first, second] = archives.each_ref().map(fs::read);
    assert!(first.expect("the archive is there") == second.expect("the archive is there"));

    let directory = directories[0].path();
    let name = concat!("tbot-", env!("CARGO_PKG_VERSION"), "-", env!("TBOT_TARGET"));
    let archive = format!("{name}.tar.gz");
    assert_eq!(archives[0], directory.join(&archive));
    let mut check = Command::new("sha256sum");
    let check = succeed(
        check
            .args(["-c", &format!("{archive}.sha256")])
            .current_dir(directory),
    );
    assert_eq!(check, format!("{archive}: OK\n"));

    succeed(
        Command::new("tar")
            .args(["-xf", &archive])
            .current_dir(directory),
    );
    let unpacked = directory.join(name);
    for (file, there) in [
        ("LICENSE", "LICENSE"),
        ("README.md", "README.md"),
        ("src/dashboard.json", "tbot-dashboard.json"),
        ("src/tbot.rules.yaml", "tbot.rules.yaml"),
        ("src/tbot.service", "tbot.service"),
    ] {
        let ours = fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join(file));
        let theirs = fs::read(unpacked.join(there));
        assert_eq!(
            theirs.expect("it is in the archive"),
            ours.expect("it is here"),
            "{file}"
        );
    }
    let about = succeed(Command::new(unpacked.join("tbot")).arg("version"));
    assert!(
        about.contains(concat!("\ntarget: ", env!("TBOT_TARGET"), "\n")),
        "{about}"
    );
}
