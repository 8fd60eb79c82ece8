//! The program and its libraries: how their stacks unwind, and what their addresses are called.
//!
//! Unwind tables are copied from memory, and names are read from files that stay open. Both are there
//! from the start, so that neither a root without `/proc` nor a program that was replaced or deleted
//! since takes the names away.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use framehop::{
    CacheNative, ExplicitModuleSectionInfo, MayAllocateDuringUnwind, UnwindRegsNative, Unwinder,
    UnwinderNative,
};

use super::capture::Capture;
use super::names::Names;
use crate::program;
use crate::sys::{self, LoadedModule, Segment};

/// Frames of a stack; what is deeper is cut off.
const MAX_DEPTH: usize = 256;

/// What is known of this process.
pub(super) struct Modules {
    unwinder: UnwinderNative<Vec<u8>, MayAllocateDuringUnwind>,
    cache: CacheNative<MayAllocateDuringUnwind>,
    modules: Vec<Module>,
    /// As the list was then.
    loads_and_unloads: Option<(u64, u64)>,
}

/// The program or a library.
pub(super) struct Module {
    pub path: PathBuf,
    pub build_id: String,
    bias: u64,
    segments: Vec<Segment>,
    names: Option<Names>,
}

/// Where an address is: a function, and the place in its source if that is known. An address in code
/// that was inlined has several, the innermost first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub function: String,
    /// As the linker knows it.
    pub symbol: String,
    pub file: Option<String>,
    pub line: u32,
}

/// The modules of this process, as they are loaded now.
pub(super) fn modules() -> MutexGuard<'static, Modules> {
    static MODULES: LazyLock<Mutex<Modules>> = LazyLock::new(|| Mutex::new(Modules::new()));
    let mut modules = MODULES.lock().unwrap_or_else(PoisonError::into_inner);
    modules.refresh();
    modules
}

impl Modules {
    fn new() -> Self {
        Self {
            unwinder: UnwinderNative::new(),
            cache: CacheNative::new(),
            modules: Vec::new(),
            loads_and_unloads: None,
        }
    }

    /// The return addresses of a copied stack, leaf first, each within the instruction that called.
    /// Returns whether they reach the thread's beginning.
    pub fn unwind(&mut self, capture: &Capture<'_>, stack: &mut Vec<u64>) -> bool {
        stack.clear();
        let registers = capture.registers;
        #[cfg(target_arch = "x86_64")]
        let start = UnwindRegsNative::new(registers.pc, registers.sp, registers.fp);
        #[cfg(target_arch = "aarch64")]
        let start = UnwindRegsNative::new(registers.lr, registers.sp, registers.fp);
        let mut read = |address| capture.read(address);
        let mut frames = self
            .unwinder
            .iter_frames(registers.pc, start, &mut self.cache, &mut read);
        while stack.len() < MAX_DEPTH {
            match frames.next() {
                Ok(Some(frame)) => stack.push(frame.address_for_lookup()),
                Ok(None) => return true,
                // The stack cannot be followed further; what was found so far holds.
                Err(_) => return false,
            }
        }
        false
    }

    /// What an address of [`unwind`](Self::unwind) is called; empty if nothing is known.
    pub fn frames(&self, address: u64) -> Vec<Frame> {
        let Some((_, module)) = self.module(address) else {
            return Vec::new();
        };
        module.frames(address.wrapping_sub(module.bias))
    }

    /// The module with this code address, and its number.
    pub fn module(&self, address: u64) -> Option<(usize, &Module)> {
        let mut modules = self.modules.iter().enumerate();
        modules.find(|(_, module)| module.segment(address).is_some())
    }

    /// All modules, by number.
    pub fn all(&self) -> &[Module] {
        &self.modules
    }

    /// Learns what was loaded since the last time, and forgets what was unloaded.
    fn refresh(&mut self) {
        let now = Some(sys::loads_and_unloads());
        if std::mem::replace(&mut self.loads_and_unloads, now) == now {
            return;
        }
        let loaded = sys::loaded_modules();
        let is = |module: &Module, loaded: &LoadedModule| {
            module.bias == loaded.bias && module.build_id == hex(&loaded.build_id)
        };
        let unwinder = &mut self.unwinder;
        self.modules.retain(|module| {
            let stays = loaded.iter().any(|loaded| is(module, loaded));
            if !stays {
                unwinder.remove_module(module.range().start);
            }
            stays
        });
        for new in loaded {
            if !self.modules.iter().any(|module| is(module, &new)) {
                self.add(new);
            }
        }
    }

    fn add(&mut self, loaded: LoadedModule) {
        let mut sections = ExplicitModuleSectionInfo::default();
        if !loaded.eh_frame.is_empty() {
            let range = |start: u64, bytes: &[u8]| Some(start..start + bytes.len() as u64);
            sections.eh_frame_svma = range(loaded.eh_frame_address, &loaded.eh_frame);
            sections.eh_frame_hdr_svma = range(loaded.eh_frame_hdr_address, &loaded.eh_frame_hdr);
            sections.eh_frame = Some(loaded.eh_frame);
            sections.eh_frame_hdr = Some(loaded.eh_frame_hdr);
        }
        // The program itself has no path here. The link leads to what runs, even if it was deleted.
        let (path, file) = match loaded.path.as_os_str().is_empty() {
            false => (loaded.path.clone(), loaded.path),
            true => {
                let link = Path::new("/proc/self/exe");
                let path = program::path().unwrap_or_default();
                let file = if link.exists() {
                    link.into()
                } else {
                    path.clone()
                };
                (path, file)
            }
        };
        let module = Module {
            path,
            build_id: hex(&loaded.build_id),
            bias: loaded.bias,
            segments: loaded.segments,
            // Without its file, as the vdso is, a module has no names.
            names: file
                .is_absolute()
                .then(|| Names::open(&file).ok())
                .flatten(),
        };
        let name = module.path.display().to_string();
        let unwind = framehop::Module::new(name, module.range(), module.bias, sections);
        self.unwinder.add_module(unwind);
        self.modules.push(module);
    }
}

impl Module {
    /// The loaded code that holds `address`, in addresses of this process and in the file.
    pub fn segment(&self, address: u64) -> Option<&Segment> {
        let address = address.wrapping_sub(self.bias);
        self.segments.iter().find(|segment| {
            segment.is_code
                && (segment.address..segment.address + segment.length).contains(&address)
        })
    }

    /// The first of its code in memory: start, end, and where it is in the file.
    pub fn code(&self) -> (std::ops::Range<u64>, u64) {
        let code = self.segments.iter().find(|segment| segment.is_code);
        let Some(code) = code else {
            return (0..0, 0);
        };
        let start = self.bias.wrapping_add(code.address);
        (start..start + code.length, code.file_offset)
    }

    /// Whether [`Modules::frames`] can name what is in it.
    pub fn has_names(&self) -> bool {
        self.names.is_some()
    }

    /// Start and end in memory.
    fn range(&self) -> std::ops::Range<u64> {
        let start = self.segments.iter().map(|s| s.address).min().unwrap_or(0);
        let end = self.segments.iter().map(|s| s.address + s.length).max();
        self.bias.wrapping_add(start)..self.bias.wrapping_add(end.unwrap_or(0))
    }
}

impl Module {
    fn frames(&self, address: u64) -> Vec<Frame> {
        self.names
            .as_ref()
            .map_or_else(Vec::new, |names| names.frames(address))
    }
}

impl Frame {
    /// One by the linker's name for it.
    pub fn new(symbol: &str, file: Option<&str>, line: Option<u32>) -> Self {
        Self {
            function: readable(symbol),
            symbol: symbol.to_owned(),
            file: file.map(str::to_owned),
            line: line.unwrap_or(0),
        }
    }
}

/// A symbol as people write it, without the compiler's hash.
fn readable(symbol: &str) -> String {
    match rustc_demangle::try_demangle(symbol) {
        Ok(name) => format!("{name:#}"),
        Err(_) => symbol.to_owned(),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
