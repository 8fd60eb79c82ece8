//! The only `unsafe` of the program: system calls that `rustix` does not cover soundly.
#![allow(unsafe_code)]

#[cfg(feature = "pprof")]
pub use profiling::*;

/// Who is at the other end of a connected Unix socket.
#[cfg(any(feature = "identity", feature = "multiplexer"))]
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    /// The user.
    pub uid: u32,
    /// The process that connected; `None` where it is in a pid namespace that this one cannot see.
    #[cfg_attr(not(feature = "multiplexer"), expect(dead_code))]
    pub pid: Option<u32>,
}

/// Who that is (SO_PEERCRED, unix(7)).
///
/// Not by `rustix`: its type for the answer has a process id that is never 0, and the kernel's is 0
/// for a peer in another pid namespace, such as a container that mounts the socket.
#[cfg(any(feature = "identity", feature = "multiplexer"))]
pub fn peer(socket: std::os::fd::BorrowedFd<'_>) -> std::io::Result<Peer> {
    use std::os::fd::AsRawFd;
    let mut credentials = libc::ucred {
        pid: 0,
        uid: u32::MAX,
        gid: u32::MAX,
    };
    let mut len = std::mem::size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: the pointers are to a live `ucred` and its length, which the kernel does not exceed.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut credentials).cast(),
            &raw mut len,
        )
    };
    if result == 0 {
        Ok(Peer {
            uid: credentials.uid,
            pid: u32::try_from(credentials.pid).ok().filter(|pid| *pid != 0),
        })
    } else {
        Err(std::io::Error::last_os_error())
    }
}

/// How much of what was written to a connected TCP socket its peer has not taken (SIOCOUTQ in tcp(7)), in bytes; 0 where
/// that cannot be told.
#[cfg(feature = "multiplexer")]
pub fn unacknowledged(socket: std::os::fd::BorrowedFd<'_>) -> u64 {
    use std::os::fd::AsRawFd;
    let mut bytes: libc::c_int = 0;
    // SAFETY: the pointer is to a live number, of the type that this request fills (TIOCOUTQ is the same).
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    if result == 0 { bytes.max(0) as u64 } else { 0 }
}

/// How often in a row what was sent by a connected TCP socket had to be sent again, as nothing of it was
/// acknowledged; 0 where that cannot be told.
#[cfg(feature = "multiplexer")]
pub fn sent_again(socket: std::os::fd::BorrowedFd<'_>) -> u8 {
    use std::os::fd::AsRawFd;
    // The beginning of `struct tcp_info` (linux/tcp.h): state, phase of congestion, retransmits, …
    let mut info = [0_u8; 8];
    let mut len = info.len() as libc::socklen_t;
    // SAFETY: the pointers are to a live array and its length, which the kernel does not exceed.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut len,
        )
    };
    if result == 0 { info[2] } else { 0 }
}

/// Has `command` start a process without a terminal, which may open as many files as the system allows, and
/// which is killed when the calling thread ends, however that comes (PR_SET_PDEATHSIG in prctl(2)).
#[cfg(feature = "multiplexer")]
pub fn die_with_this_thread(command: &mut std::process::Command) {
    use std::io::{Error, Result};
    use std::os::unix::process::CommandExt;
    let parent = std::process::id();
    let prepare = move || -> Result<()> {
        // SAFETY: system calls on numbers and on a live `rlimit`, all of them async-signal-safe.
        unsafe {
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as libc::c_ulong) != 0 {
                return Err(Error::last_os_error());
            }
            // It may have ended before.
            if libc::getppid() as u32 != parent {
                return Err(Error::from_raw_os_error(libc::ESRCH));
            }
            // Nothing can be asked on a terminal, and its ^C is for us to act on.
            libc::setsid();
            let mut limit: libc::rlimit = std::mem::zeroed();
            if libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0 {
                limit.rlim_cur = limit.rlim_max;
                libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
            }
        }
        Ok(())
    };
    // SAFETY: between fork and exec it makes system calls, and neither locks nor allocates.
    unsafe { command.pre_exec(prepare) };
}

/// Keeps memory out of swap, where the system allows it (RLIMIT_MEMLOCK). It stays so until it is given back to
/// the system: another secret may lie in the same page.
#[cfg(feature = "identity")]
pub fn lock_memory<T>(secret: &T) {
    // SAFETY: the range is that of a live value, and nothing is read or written.
    unsafe { libc::mlock((&raw const *secret).cast(), size_of::<T>()) };
}

/// Runs `work` on secrets, and zeroes what it leaves behind: on the stack and, where [`Wiping`] allocates, in memory
/// that it gives back, which crates that calculate with big numbers do not. What it returns is moved with whatever lay
/// in its unused room, such as that of an absent value: let it have none.
#[cfg(feature = "identity")]
pub fn leaving_nothing<T>(work: impl FnOnce() -> T) -> T {
    struct Until(bool);
    impl Drop for Until {
        fn drop(&mut self) {
            clear_stack();
            WIPES.set(self.0);
        }
    }
    let _until = Until(WIPES.replace(true));
    let work: &mut dyn FnMut() -> T = &mut {
        let mut work = Some(work);
        move || work.take().map(|work| work()).expect("it is called once")
    };
    std::hint::black_box(work)()
}

/// Values that were moved, secrets too, below the caller's own.
#[cfg(feature = "identity")]
#[inline(never)]
fn clear_stack() {
    use zeroize::Zeroize;
    [0_u8; 64 * 1024].zeroize();
}

#[cfg(feature = "identity")]
thread_local! {
    static WIPES: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// The system's allocator, which zeroes what [`leaving_nothing`] gives back.
#[cfg(feature = "cli")]
#[cfg_attr(feature = "heap", expect(dead_code, reason = "jemalloc allocates"))]
pub struct Wiping;

// SAFETY: it is the system's, and `realloc` does what its contract says by the others.
#[cfg(feature = "cli")]
unsafe impl std::alloc::GlobalAlloc for Wiping {
    unsafe fn alloc(&self, layout: std::alloc::Layout) -> *mut u8 {
        // SAFETY: the caller keeps the contract.
        unsafe { std::alloc::System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: std::alloc::Layout) -> *mut u8 {
        // SAFETY: the caller keeps the contract.
        unsafe { std::alloc::System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: std::alloc::Layout) {
        use std::mem::MaybeUninit;
        use zeroize::Zeroize;
        // SAFETY: the caller keeps the contract: `at` is of this layout and nobody's any more.
        unsafe {
            if WIPES.get() {
                let bytes = at.cast::<MaybeUninit<u8>>();
                std::slice::from_raw_parts_mut(bytes, layout.size()).zeroize();
            }
            std::alloc::System.dealloc(at, layout);
        }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: std::alloc::Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller keeps the contract: `size` is right for the alignment. The copy is as long as the
        // shorter of two that are apart.
        unsafe {
            if !WIPES.get() {
                return std::alloc::System.realloc(at, layout, size);
            }
            let to = std::alloc::Layout::from_size_align_unchecked(size, layout.align());
            let new = self.alloc(to);
            if !new.is_null() {
                std::ptr::copy_nonoverlapping(at, new, layout.size().min(size));
                self.dealloc(at, layout);
            }
            new
        }
    }
}

/// Has threads share two heaps instead of up to eight for each core, of which every one keeps what it once had:
/// a service whose threads mostly wait would hold a multiple of what it uses. To be called before there are any.
#[cfg(all(feature = "cli", target_env = "gnu"))]
pub fn share_heaps() {
    // SAFETY: it only sets a number of the allocator's (mallopt(3)).
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 2) };
}

/// What profiles and stacks need of the system.
#[cfg(feature = "pprof")]
mod profiling {
    use std::ffi::{CStr, OsStr, c_int, c_void};
    use std::os::unix::ffi::OsStrExt;
    use std::path::PathBuf;
    use std::ptr::{null, null_mut};
    use std::sync::OnceLock;
    use std::sync::atomic::AtomicU64;
    use std::time::Duration;
    use std::{io, slice};

    /// Where an interrupted thread was: what unwinding a stack begins with.
    #[derive(Clone, Copy, Debug, Default)]
    pub struct Registers {
        pub pc: u64,
        pub sp: u64,
        pub fp: u64,
        /// The return address of a leaf function; 0 on x86_64, where it lies on the stack.
        pub lr: u64,
    }

    /// Who sent a SIGPROF.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Sender {
        /// The timer of [`set_profiling_timer`].
        Timer,
        /// [`interrupt`].
        Asked,
        /// Some other process, or code that is not ours.
        Stranger,
    }

    type OnSigprof = fn(Sender, Registers);

    static ON_SIGPROF: OnceLock<OnSigprof> = OnceLock::new();

    /// Calls `handler` on the interrupted thread at each SIGPROF from now on, for ever: the default
    /// action, death, can never come back. It must be async-signal-safe (signal-safety(7)): no lock,
    /// no allocation, no panic. Fails where somebody else handles SIGPROF already.
    pub fn catch_sigprof(handler: OnSigprof) -> io::Result<()> {
        let ours = on_sigprof as *const () as libc::sighandler_t;
        // SAFETY: all zeros is a valid `sigaction`, with an empty mask, and a valid set; the pointers are to live ones;
        // the handler has the signature that SA_SIGINFO asks for and does what signal-safety(7) allows.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            if libc::sigaction(libc::SIGPROF, null(), &raw mut action) != 0 {
                return Err(io::Error::last_os_error());
            }
            if ![libc::SIG_DFL, libc::SIG_IGN, ours].contains(&action.sa_sigaction) {
                return Err(io::Error::other(
                    "other code of this process handles SIGPROF",
                ));
            }
            ON_SIGPROF.get_or_init(|| handler);
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = ours;
            // Without SA_ONSTACK: an alternative stack may be as small as the kernel's own frame on it.
            action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART;
            if libc::sigaction(libc::SIGPROF, &raw const action, null_mut()) != 0 {
                return Err(io::Error::last_os_error());
            }
            // Whoever started this process may have left it blocked; threads inherit from this one.
            let mut signals: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut signals);
            libc::sigaddset(&raw mut signals, libc::SIGPROF);
            libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const signals, null_mut());
        }
        Ok(())
    }

    extern "C" fn on_sigprof(_: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
        // SAFETY: the kernel hands both pointers to a handler with SA_SIGINFO, and `si_pid` is there for
        // every signal that a process sent; errno is this thread's own.
        unsafe {
            let errno = *libc::__errno_location();
            let sender = match (*info).si_code {
                libc::SI_KERNEL => Sender::Timer,
                libc::SI_TKILL if (*info).si_pid() == libc::getpid() => Sender::Asked,
                // The kernel had no room to note the sender (RLIMIT_SIGPENDING, which all processes of
                // a user share): it may well be us.
                libc::SI_USER if (*info).si_pid() == 0 => Sender::Asked,
                _ => Sender::Stranger,
            };
            if let Some(handler) = ON_SIGPROF.get() {
                // Only this part of the context: the kernel writes no whole `ucontext_t`.
                let context = context.cast::<libc::ucontext_t>();
                handler(sender, registers(&(*context).uc_mcontext));
            }
            *libc::__errno_location() = errno;
        }
    }

    #[cfg(target_arch = "x86_64")]
    fn registers(machine: &libc::mcontext_t) -> Registers {
        let registers = &machine.gregs;
        Registers {
            pc: registers[libc::REG_RIP as usize] as u64,
            sp: registers[libc::REG_RSP as usize] as u64,
            fp: registers[libc::REG_RBP as usize] as u64,
            lr: 0,
        }
    }

    #[cfg(target_arch = "aarch64")]
    fn registers(machine: &libc::mcontext_t) -> Registers {
        Registers {
            pc: machine.pc,
            sp: machine.sp,
            fp: machine.regs[29],
            lr: machine.regs[30],
        }
    }

    /// Sends SIGPROF to a thread of this process. Fails for one that has ended.
    pub fn interrupt(thread: i32) -> io::Result<()> {
        // SAFETY: a system call on numbers; with our own process id it reaches no other process.
        let result =
            unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, libc::SIGPROF) };
        if result == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    }

    /// Sends SIGPROF whenever the process has used `period` of CPU time, to a thread that runs; zero
    /// ends it.
    pub fn set_profiling_timer(period: Duration) -> io::Result<()> {
        let period = libc::timeval {
            tv_sec: period.as_secs() as libc::time_t,
            tv_usec: libc::suseconds_t::from(period.subsec_micros() as i32),
        };
        let timer = libc::itimerval {
            it_interval: period,
            it_value: period,
        };
        // SAFETY: a pointer to a live `itimerval`, which the call reads.
        let result = unsafe { libc::setitimer(libc::ITIMER_PROF, &raw const timer, null_mut()) };
        if result == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    }

    /// The calling thread's name, ended or filled up with zeros. Async-signal-safe.
    pub fn thread_name() -> [u8; 16] {
        let mut name = [0; 16];
        // SAFETY: PR_GET_NAME writes at most 16 bytes (prctl(2)).
        unsafe { libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr()) };
        name
    }

    /// Copies this process's own memory from `from` on, as far as it is mapped and `into` reaches;
    /// returns the number of bytes. Async-signal-safe, and no address makes it fault.
    pub fn read_memory(from: u64, into: &[AtomicU64]) -> usize {
        // A transfer stops at a whole element (process_vm_readv(2)), so each page is one.
        const PAGE: usize = 4096;
        const MOST: usize = 17;
        let mut pages = [libc::iovec {
            iov_base: null_mut(),
            iov_len: 0,
        }; MOST];
        let (mut at, mut left, mut count) = (from as usize, size_of_val(into), 0);
        while left > 0 && count < MOST {
            let length = left.min(PAGE - at % PAGE);
            pages[count] = libc::iovec {
                iov_base: at as *mut c_void,
                iov_len: length,
            };
            (at, left, count) = (at.wrapping_add(length), left - length, count + 1);
        }
        let local = libc::iovec {
            iov_base: into.as_ptr().cast_mut().cast(),
            iov_len: size_of_val(into),
        };
        // SAFETY: the kernel writes into `into` and no further, whose atomics allow being written
        // through a shared reference; what it reads it checks itself.
        let copied = unsafe {
            libc::process_vm_readv(
                libc::getpid(),
                &raw const local,
                1,
                pages.as_ptr(),
                count as libc::c_ulong,
                0,
            )
        };
        usize::try_from(copied).unwrap_or(0)
    }

    /// A program or library in memory.
    #[derive(Debug, Default)]
    pub struct LoadedModule {
        /// Its file; empty for the program itself.
        pub path: PathBuf,
        /// What is added to the addresses in the file.
        pub bias: u64,
        pub segments: Vec<Segment>,
        pub eh_frame_hdr: Vec<u8>,
        /// From the start of `.eh_frame` to the end of its segment.
        pub eh_frame: Vec<u8>,
        /// Addresses of the two in the file.
        pub eh_frame_hdr_address: u64,
        pub eh_frame_address: u64,
        pub build_id: Vec<u8>,
    }

    /// A loaded part of a module, in the addresses of its file.
    #[derive(Clone, Debug)]
    pub struct Segment {
        pub address: u64,
        pub length: u64,
        pub file_offset: u64,
        pub is_code: bool,
    }

    /// How often something was loaded, and unloaded, until now.
    pub fn loads_and_unloads() -> (u64, u64) {
        extern "C" fn read(info: *mut libc::dl_phdr_info, _: usize, counts: *mut c_void) -> c_int {
            // SAFETY: `info` is valid during the call, and `counts` is what was given below.
            unsafe { *counts.cast::<(u64, u64)>() = ((*info).dlpi_adds, (*info).dlpi_subs) };
            1
        }
        let mut counts = (0, 0);
        // SAFETY: the callback is called before this returns, with the pointer given here.
        unsafe { libc::dl_iterate_phdr(Some(read), (&raw mut counts).cast()) };
        counts
    }

    /// Everything that is loaded now.
    pub fn loaded_modules() -> Vec<LoadedModule> {
        let mut modules: Vec<LoadedModule> = Vec::new();
        // SAFETY: the callback is called before this returns, with the pointer given here.
        unsafe { libc::dl_iterate_phdr(Some(add_module), (&raw mut modules).cast()) };
        modules
    }

    extern "C" fn add_module(
        info: *mut libc::dl_phdr_info,
        _: libc::size_t,
        modules: *mut c_void,
    ) -> c_int {
        // SAFETY: `modules` is what `loaded_modules` gave; `info` is valid during the call, and with it
        // its name, its headers and the segments they tell of, which nobody unloads meanwhile.
        unsafe {
            let info = &*info;
            let modules = &mut *modules.cast::<Vec<LoadedModule>>();
            let headers = match info.dlpi_phdr.is_null() {
                true => &[],
                false => slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum.into()),
            };
            let path = match info.dlpi_name.is_null() {
                true => OsStr::new(""),
                false => OsStr::from_bytes(CStr::from_ptr(info.dlpi_name).to_bytes()),
            };
            let memory = |address: u64, length: u64| {
                let start = info.dlpi_addr.wrapping_add(address) as *const u8;
                slice::from_raw_parts(start, length as usize)
            };
            modules.push(describe(path, info.dlpi_addr, headers, memory));
        }
        0
    }

    /// `memory` gives what is loaded at an address of the file; it may be asked for what lies within a
    /// segment only.
    fn describe<'a>(
        path: &OsStr,
        bias: u64,
        headers: &[libc::Elf64_Phdr],
        memory: impl Fn(u64, u64) -> &'a [u8],
    ) -> LoadedModule {
        let mut module = LoadedModule {
            path: path.into(),
            bias,
            ..LoadedModule::default()
        };
        let readable = |header: &&libc::Elf64_Phdr| {
            header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_R != 0
        };
        for header in headers {
            let (address, length) = (header.p_vaddr, header.p_memsz);
            match header.p_type {
                libc::PT_LOAD => module.segments.push(Segment {
                    address,
                    length,
                    file_offset: header.p_offset,
                    is_code: header.p_flags & libc::PF_X != 0,
                }),
                libc::PT_NOTE if module.build_id.is_empty() => {
                    module.build_id = build_id(memory(address, length)).unwrap_or_default().into();
                }
                libc::PT_GNU_EH_FRAME => {
                    let table = memory(address, length);
                    let Some(eh_frame) = eh_frame_address(table, address) else {
                        continue;
                    };
                    let end = headers.iter().filter(readable).find_map(|segment| {
                        let end = segment.p_vaddr + segment.p_filesz;
                        (segment.p_vaddr..end).contains(&eh_frame).then_some(end)
                    });
                    if let Some(end) = end {
                        module.eh_frame_hdr = table.into();
                        module.eh_frame_hdr_address = address;
                        module.eh_frame = memory(eh_frame, end - eh_frame).into();
                        module.eh_frame_address = eh_frame;
                    }
                }
                _ => {}
            }
        }
        module
    }

    /// Where `.eh_frame` is, as the start of `.eh_frame_hdr` says (LSB Core 5.0, 10.6.2): version 1, and
    /// a 4-byte offset from where it stands, the one encoding that linkers write.
    fn eh_frame_address(table: &[u8], address: u64) -> Option<u64> {
        let [1, 0x1b, _, _, offset @ ..] = table.first_chunk::<8>()? else {
            return None;
        };
        let offset = i32::from_le_bytes(*offset);
        address.checked_add(4)?.checked_add_signed(offset.into())
    }

    /// The build id among the notes of a module (elf(5), "Notes").
    fn build_id(mut notes: &[u8]) -> Option<&[u8]> {
        const NT_GNU_BUILD_ID: u32 = 3;
        loop {
            let (head, rest) = notes.split_first_chunk::<12>()?;
            let word = |at: usize| Some(u32::from_le_bytes(head[at..at + 4].try_into().ok()?));
            let (name_length, length, kind) = (word(0)? as usize, word(4)? as usize, word(8)?);
            let (name, rest) = rest.split_at_checked(name_length.next_multiple_of(4))?;
            let content = rest.get(..length)?;
            if kind == NT_GNU_BUILD_ID && name.starts_with(b"GNU\0") {
                return Some(content);
            }
            notes = rest.get(length.next_multiple_of(4)..)?;
        }
    }
}

/// What the allocator holds, in bytes.
#[cfg(feature = "cli")]
pub struct Allocated {
    /// In use on its heaps; what threads keep to themselves for reuse counts too.
    pub used: usize,
    /// Free on its heaps.
    pub free: usize,
    /// In blocks so large that each is mapped from the system.
    pub mapped: usize,
}

/// Walks the lists of free blocks, each heap under its lock; `None` where the C library is not glibc.
#[cfg(all(feature = "cli", not(feature = "heap")))]
pub fn allocated() -> Option<Allocated> {
    #[cfg(not(target_env = "gnu"))]
    return None;
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: it takes no argument, and locks what it reads.
        let info = unsafe { libc::mallinfo2() };
        Some(Allocated {
            used: info.uordblks,
            free: info.fordblks,
            mapped: info.hblkhd,
        })
    }
}

#[cfg(feature = "heap")]
pub use jemalloc::*;

/// The allocator that knows who allocated what.
#[cfg(feature = "heap")]
mod jemalloc {
    use std::ffi::{CStr, c_char};
    use std::io;

    use tikv_jemalloc_ctl::{Error, raw};
    #[cfg(feature = "cli")]
    use tikv_jemalloc_ctl::{epoch, stats};

    #[cfg(feature = "cli")]
    use super::Allocated;

    #[repr(transparent)]
    pub struct Options(*const c_char);

    // SAFETY: it points to a constant.
    unsafe impl Sync for Options {}

    /// What jemalloc reads when it starts: profiling can be turned on later, and then one allocation in
    /// 512 KiB is recorded, as in Go.
    #[used]
    #[unsafe(export_name = "_rjem_malloc_conf")]
    pub static OPTIONS: Options =
        Options(c"prof:true,prof_active:false,lg_prof_sample:19".as_ptr());

    /// What it holds.
    #[cfg(feature = "cli")]
    pub fn allocated() -> Option<Allocated> {
        // Only a jemalloc built without statistics refuses, and ours is built with them.
        let read = || -> Result<Allocated, Error> {
            epoch::advance()?;
            let used = stats::allocated::read()?;
            Ok(Allocated {
                used,
                free: stats::resident::read()?.saturating_sub(used),
                mapped: 0,
            })
        };
        read().ok()
    }

    /// Records allocations from now on.
    pub fn record_allocations() -> io::Result<()> {
        // SAFETY: "prof.active" is a bool (jemalloc(3)).
        unsafe { raw::write(b"prof.active\0", true) }.map_err(failed)
    }

    /// Writes what was recorded and is in use to a file, in jemalloc's own format.
    pub fn dump_allocations(file: &CStr) -> io::Result<()> {
        // SAFETY: "prof.dump" is a string (jemalloc(3)), and `file` lives until the call returns.
        unsafe { raw::write(b"prof.dump\0", file.as_ptr()) }.map_err(failed)
    }

    fn failed(error: Error) -> io::Error {
        io::Error::other(format!("jemalloc: {error}"))
    }
}
