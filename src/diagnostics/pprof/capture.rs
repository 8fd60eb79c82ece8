//! Copies of interrupted threads' registers and stacks.
//!
//! The signal handler only copies: it takes a slot that was there from the start, without a lock, an
//! allocation or a call that is not async-signal-safe, and whoever asked unwinds the copy afterwards.
//! So no thread can be caught at a bad moment, be it inside the allocator or the unwinder.

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU8, AtomicU32, AtomicU64, AtomicUsize};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use std::{io, slice};

use rustix::event::Timespec;
use rustix::thread::futex;

use crate::sys::{self, Registers, Sender};

/// Copies of a kind that wait to be taken. At the kernel's highest rate, 1,000 a second for each of 64
/// cores, that is enough for a millisecond; at ours for a quarter of a second.
const SLOTS: usize = 64;

/// Of a stack, from its top: 64 KiB. What lies deeper is cut off.
const WORDS: usize = 8192;

/// Threads interrupted and not yet answered, at a time: the slots suffice beside late answers.
const ASKED_AT_ONCE: usize = SLOTS / 2;

/// How long no thread may answer before the rest is given up: those block the signal, or hang in
/// the kernel. Far above what a busy machine takes to give each of some hundred threads its turn.
const SILENCE: Duration = Duration::from_millis(100);

/// How long all answers may be waited for. What is done with them meanwhile does not count.
const PATIENCE: Duration = Duration::from_secs(1);

/// What the timer's signals copied, and what those of [`ask`] did: neither takes the other's room.
static SAMPLES: [Slot; SLOTS] = [const { Slot::new() }; SLOTS];
static ANSWERS: [Slot; SLOTS] = [const { Slot::new() }; SLOTS];

/// Whether the timer's signals are wanted, and those of [`ask`].
static SAMPLING: AtomicBool = AtomicBool::new(false);
static ASKING: AtomicBool = AtomicBool::new(false);

/// Rises with each answer to [`ask`], which sleeps on it.
static ANSWERED: AtomicU32 = AtomicU32::new(0);

/// Samples that found no slot.
static LOST: AtomicU64 = AtomicU64::new(0);

/// One at a time samples, and one asks.
static SAMPLER: AtomicBool = AtomicBool::new(false);
static ASKER: Mutex<()> = Mutex::new(());

/// A copy, or room for one. Untouched ones cost no memory: they are pages of zeros.
struct Slot {
    state: AtomicU8,
    thread: AtomicI32,
    name: [AtomicU64; 2],
    pc: AtomicU64,
    sp: AtomicU64,
    fp: AtomicU64,
    lr: AtomicU64,
    words: AtomicUsize,
    stack: [AtomicU64; WORDS],
}

const FREE: u8 = 0;
const WRITING: u8 = 1;
const WRITTEN: u8 = 2;

/// A thread as it was.
pub(super) struct Capture<'a> {
    pub thread: i32,
    pub name: ThreadName,
    pub registers: Registers,
    stack: &'a [AtomicU64],
}

/// Ended or filled up with zeros.
pub(super) type ThreadName = [u8; 16];

impl Slot {
    const fn new() -> Self {
        Self {
            state: AtomicU8::new(FREE),
            thread: AtomicI32::new(0),
            name: [const { AtomicU64::new(0) }; 2],
            pc: AtomicU64::new(0),
            sp: AtomicU64::new(0),
            fp: AtomicU64::new(0),
            lr: AtomicU64::new(0),
            words: AtomicUsize::new(0),
            stack: [const { AtomicU64::new(0) }; WORDS],
        }
    }

    fn write(&self, registers: Registers) {
        let name = sys::thread_name();
        for (to, from) in self.name.iter().zip(name.as_chunks::<8>().0) {
            to.store(u64::from_ne_bytes(*from), Relaxed);
        }
        self.thread
            .store(rustix::thread::gettid().as_raw_nonzero().get(), Relaxed);
        self.pc.store(registers.pc, Relaxed);
        self.sp.store(registers.sp, Relaxed);
        self.fp.store(registers.fp, Relaxed);
        self.lr.store(registers.lr, Relaxed);
        let read = sys::read_memory(registers.sp & !7, &self.stack);
        self.words.store(read / 8, Relaxed);
    }

    fn capture(&self) -> Capture<'_> {
        let mut name = [0; 16];
        for (to, from) in name.as_chunks_mut::<8>().0.iter_mut().zip(&self.name) {
            *to = from.load(Relaxed).to_ne_bytes();
        }
        Capture {
            thread: self.thread.load(Relaxed),
            name,
            registers: Registers {
                pc: self.pc.load(Relaxed),
                sp: self.sp.load(Relaxed),
                fp: self.fp.load(Relaxed),
                lr: self.lr.load(Relaxed),
            },
            stack: &self.stack[..self.words.load(Relaxed).min(WORDS)],
        }
    }
}

impl Capture<'_> {
    /// The word of the stack that lies at `address`, if it was copied.
    pub fn read(&self, address: u64) -> Result<u64, ()> {
        let offset = address.checked_sub(self.registers.sp & !7).ok_or(())?;
        let word = usize::try_from(offset / 8).ok();
        let word = word.and_then(|word| self.stack.get(word)).ok_or(())?;
        Ok(word.load(Relaxed))
    }
}

/// Makes this process copy its threads when asked. For ever: a late SIGPROF finds a handler that does
/// nothing, instead of the default one that kills. Where that failed once it is not tried again, and
/// nothing may be asked for: the signals would reach somebody else's handler.
pub(super) fn prepare() -> io::Result<()> {
    static PREPARED: OnceLock<Result<(), String>> = OnceLock::new();
    let prepared = PREPARED.get_or_init(|| {
        sys::catch_sigprof(on_sigprof).map_err(|error| error.to_string())?;
        // A filter of system calls may refuse; without it every stack would end at its first function.
        let (original, copy) = (AtomicU64::new(1), AtomicU64::new(0));
        sys::read_memory((&raw const original).addr() as u64, slice::from_ref(&copy));
        if copy.into_inner() != original.into_inner() {
            return Err("the system call process_vm_readv is refused".into());
        }
        Ok(())
    });
    prepared.clone().map_err(io::Error::other)
}

/// Runs in the signal handler.
fn on_sigprof(sender: Sender, registers: Registers) {
    let slots = match sender {
        Sender::Timer if SAMPLING.load(Relaxed) => &SAMPLES,
        Sender::Asked if ASKING.load(Relaxed) => &ANSWERS,
        _ => return,
    };
    let mut free = slots.iter().filter(|slot| {
        let taken = slot.state.compare_exchange(FREE, WRITING, Acquire, Relaxed);
        taken.is_ok()
    });
    let slot = free.next();
    if let Some(slot) = slot {
        slot.write(registers);
        slot.state.store(WRITTEN, Release);
    }
    if sender == Sender::Asked {
        ANSWERED.fetch_add(1, Release);
        let _ = futex::wake(&ANSWERED, futex::Flags::PRIVATE, 1);
    } else if slot.is_none() {
        LOST.fetch_add(1, Relaxed);
    }
}

/// Hands every copy to `each`, and frees its slot.
fn take(slots: &[Slot], mut each: impl FnMut(&Capture<'_>)) {
    for slot in slots {
        if slot.state.load(Acquire) != WRITTEN {
            continue;
        }
        each(&slot.capture());
        slot.state.store(FREE, Release);
    }
}

/// The timer, as long as this lives. There can be one.
pub(super) struct Sampling(());

impl Sampling {
    /// Interrupts a running thread each time the process has used `period` of CPU time. `None` if
    /// that is being done already.
    pub fn start(period: Duration) -> io::Result<Option<Self>> {
        prepare()?;
        if SAMPLER.swap(true, Acquire) {
            return Ok(None);
        }
        take(&SAMPLES, |_| {});
        LOST.store(0, Relaxed);
        // Dropped on failure, it gives its place back.
        let sampling = Self(());
        SAMPLING.store(true, Relaxed);
        sys::set_profiling_timer(period)?;
        Ok(Some(sampling))
    }

    /// The samples since the last call.
    pub fn take(&self, each: impl FnMut(&Capture<'_>)) {
        take(&SAMPLES, each);
    }

    /// How many there was no room for, because `take` was not called often enough.
    pub fn lost(&self) -> u64 {
        LOST.load(Relaxed)
    }
}

impl Drop for Sampling {
    fn drop(&mut self) {
        // Cannot fail: the kernel refuses only bad pointers and bad numbers (setitimer(2)).
        let _ = sys::set_profiling_timer(Duration::ZERO);
        SAMPLING.store(false, Relaxed);
        SAMPLER.store(false, Release);
    }
}

/// Interrupts these threads and hands each one's copy to `each`, in any order. Those that have ended
/// or do not answer in time are left out, and all of them unless `is_wanted` when the turn has come.
pub(super) fn ask(
    threads: &[i32],
    is_wanted: impl Fn() -> bool,
    mut each: impl FnMut(&Capture<'_>),
) -> io::Result<()> {
    prepare()?;
    let _one = ASKER.lock().unwrap_or_else(PoisonError::into_inner);
    if !is_wanted() {
        return Err(io::Error::other("nobody waits for them any more"));
    }
    // Answers that came too late for who asked before.
    take(&ANSWERS, |_| {});
    ASKING.store(true, Relaxed);
    let mut threads = threads.iter();
    let mut asked: Vec<i32> = Vec::with_capacity(ASKED_AT_ONCE);
    let mut heard = Instant::now();
    let mut patience = PATIENCE;
    loop {
        while asked.len() < ASKED_AT_ONCE
            && let Some(thread) = threads.next()
        {
            if sys::interrupt(*thread).is_ok() {
                asked.push(*thread);
            }
        }
        if asked.is_empty() {
            break;
        }
        let answers = ANSWERED.load(Acquire);
        let waiting = asked.len();
        take(&ANSWERS, |capture| {
            if let Some(at) = asked.iter().position(|thread| *thread == capture.thread) {
                asked.swap_remove(at);
                each(capture);
            }
        });
        let now = Instant::now();
        if asked.len() < waiting {
            heard = now;
            continue;
        }
        if patience.is_zero() {
            break;
        }
        let left = (heard + SILENCE).saturating_duration_since(now);
        if left.is_zero() {
            asked.clear();
            heard = now;
        } else if let Ok(left) = Timespec::try_from(left.min(patience)) {
            // Woken by an answer, by a signal, or too late: the loop finds out.
            let _ = futex::wait(&ANSWERED, futex::Flags::PRIVATE, answers, Some(&left));
            patience = patience.saturating_sub(now.elapsed());
        }
    }
    ASKING.store(false, Relaxed);
    Ok(())
}
