//! What addresses of a program or library are called, from its file.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::OnceLock;

use lzma_rust2::XzReader;
use object::read::elf::ElfFile64;
use object::{Object, ObjectSection, ObjectSymbol, ReadCache, ReadRef, SymbolKind};

use super::modules::Frame;

/// The most that the packed symbols of a program may unpack to; tbot's are half a megabyte.
const MAX_UNPACKED: u64 = 64 * 1024 * 1024;

/// The file of a module. It stays open, so that names are there after it was replaced or deleted.
pub(super) struct Names {
    file: File,
    /// Read when the first name is asked for.
    symbols: OnceLock<Vec<Symbol>>,
    #[cfg(feature = "lines")]
    lines: Option<addr2line::Loader>,
}

/// A function, by its place in the file.
struct Symbol {
    start: u64,
    end: u64,
    name: Box<str>,
}

impl Names {
    /// Opens a module's file.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self {
            file: File::open(path)?,
            symbols: OnceLock::new(),
            #[cfg(feature = "lines")]
            lines: addr2line::Loader::new(path).ok(),
        })
    }

    /// What is known of an address: where code was inlined, the innermost function first.
    pub fn frames(&self, address: u64) -> Vec<Frame> {
        #[cfg(feature = "lines")]
        if let Some(frames) = self.lines.as_ref().and_then(|lines| known(lines, address)) {
            return frames;
        }
        let symbols = self.symbols.get_or_init(|| symbols(&self.file));
        let next = symbols.partition_point(|symbol| symbol.start <= address);
        let symbol = next.checked_sub(1).map(|last| &symbols[last]);
        symbol
            .filter(|symbol| address < symbol.end)
            .map(|symbol| Frame::new(&symbol.name, None, None))
            .into_iter()
            .collect()
    }
}

/// Functions and lines by the file's debug information.
#[cfg(feature = "lines")]
fn known(lines: &addr2line::Loader, address: u64) -> Option<Vec<Frame>> {
    let mut found = lines.find_frames(address).ok()?;
    let mut frames = Vec::new();
    while let Ok(Some(frame)) = found.next() {
        let Some(symbol) = frame.function.as_ref().and_then(|f| f.raw_name().ok()) else {
            continue;
        };
        let place = frame.location.as_ref();
        let line = place.and_then(|place| place.line);
        frames.push(Frame::new(&symbol, place.and_then(|p| p.file), line));
    }
    Some(frames).filter(|frames| !frames.is_empty())
}

/// The functions of a file in the order of their addresses; none of what is no ELF file.
fn symbols(file: &File) -> Vec<Symbol> {
    let mut symbols = Vec::new();
    let cache = ReadCache::new(file);
    if let Ok(elf) = ElfFile64::<object::Endianness, _>::parse(&cache) {
        add(&elf, &mut symbols);
        // A static program has them packed, at an eighth of the size, as gdb reads them, too ("MiniDebugInfo"
        // in its manual): an ELF file compressed by xz.
        if let Some(packed) = elf.section_by_name(".gnu_debugdata")
            && let Ok(packed) = packed.data()
            && let Some(bytes) = unpacked(packed)
            && let Ok(elf) = ElfFile64::<object::Endianness>::parse(&*bytes)
        {
            add(&elf, &mut symbols);
        }
    }
    // Of a function with several names the shortest, as libc has `read` and `__libc_read`.
    symbols.sort_by_key(|symbol| (symbol.start, symbol.name.len()));
    symbols.dedup_by_key(|symbol| symbol.start);
    symbols
}

fn unpacked(packed: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut xz = XzReader::new(packed, false).take(MAX_UNPACKED);
    xz.read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

fn add<'d>(elf: &ElfFile64<'d, object::Endianness, impl ReadRef<'d>>, to: &mut Vec<Symbol>) {
    let all = elf.symbols().chain(elf.dynamic_symbols());
    // Those written in assembler may have no size; then it is up to the next.
    to.extend(
        all.filter(|symbol| symbol.kind() == SymbolKind::Text && symbol.is_definition())
            .filter_map(|symbol| {
                Some(Symbol {
                    start: symbol.address(),
                    end: match symbol.size() {
                        0 => u64::MAX,
                        size => symbol.address().saturating_add(size),
                    },
                    name: symbol.name().ok()?.into(),
                })
            }),
    );
}
