//! Threads that stand still.

use std::process::Command;

use rustix::process::Pid;

use super::process::Process;
use super::procfs;

/// A thread that a tracer (ptrace(2)) holds for as long as this lives.
pub struct Frozen(Process);

impl Frozen {
    /// `None` where that is not allowed.
    pub fn thread(process: Pid, name: &str) -> Option<Self> {
        const TRACER: &str = r#"
import ctypes, os, sys
SEIZE, INTERRUPT, WALL, thread = 0x4206, 0x4207, 0x40000000, int(sys.argv[1])
libc = ctypes.CDLL(None, use_errno=True)
for request in (SEIZE, INTERRUPT):
    if libc.ptrace(ctypes.c_long(request), ctypes.c_long(thread), None, None):
        print("refused:", os.strerror(ctypes.get_errno()), flush=True)
        sys.exit()
os.waitpid(thread, WALL)
print("frozen", flush=True)
sys.stdin.read()
"#;
        let thread = procfs::thread(process, name).to_string();
        let mut python = Command::new("/usr/bin/python3");
        let tracer = Process::spawn_with_input(python.args(["-c", TRACER, &thread]));
        let line = tracer.stdout.line("");
        (line == "frozen").then(|| Self(tracer))
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        // What it holds goes on when it ends.
        self.0.close_input();
        self.0.exit();
    }
}
