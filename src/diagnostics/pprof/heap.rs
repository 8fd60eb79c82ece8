//! Heap profiles: which memory is in use, by where it was allocated.
//!
//! jemalloc takes the samples and writes them into a file, in the text format of its tool `jeprof`
//! (`heap_v2`, jemalloc(3)); what is made of them here is what that tool makes of them.

use std::ffi::CString;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsRawFd;

use rustix::fs::{MemfdFlags, memfd_create};

use super::threads::show_stack;
use crate::sys;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Memory in use, reckoned from samples.
#[derive(Debug)]
pub(super) struct HeapProfile {
    /// Bytes allocated for each sample, on average.
    pub rate: u64,
    pub sites: Vec<Site>,
}

/// What was allocated at one place.
#[derive(Debug, PartialEq)]
pub(super) struct Site {
    /// As of a CPU profile.
    pub stack: Vec<u64>,
    pub objects: i64,
    pub bytes: i64,
}

impl HeapProfile {
    /// What is in use now, of what was allocated since profiles were turned on.
    pub fn take() -> io::Result<Self> {
        let file = File::from(memfd_create("heap", MemfdFlags::CLOEXEC)?);
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        sys::dump_allocations(&CString::new(path)?)?;
        let mut text = String::new();
        { &file }.read_to_string(&mut text)?;
        let bad = || io::Error::other("jemalloc wrote a profile in another format");
        Self::parse(&text).ok_or_else(bad)
    }

    /// The first line names the rate. Then comes for each place `@` with its return addresses, leaf
    /// first, and below it a line `t*: objects: bytes [...]` with the samples of all threads together.
    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        let rate: u64 = lines.next()?.strip_prefix("heap_v2/")?.parse().ok()?;
        let mut sites = Vec::new();
        let mut stack = None;
        for line in lines.map(str::trim_start) {
            if let Some(addresses) = line.strip_prefix("@ ") {
                let address = |word: &str| {
                    let address = u64::from_str_radix(word.strip_prefix("0x")?, 16).ok()?;
                    // Within the instruction that called.
                    address.checked_sub(1)
                };
                let addresses = addresses.split_ascii_whitespace();
                stack = Some(addresses.map(address).collect::<Option<Vec<u64>>>()?);
            } else if let Some(figures) = line.strip_prefix("t*: ")
                && let Some(stack) = stack.take()
            {
                let mut figures = figures.split([':', ' ']).filter(|word| !word.is_empty());
                let objects: u64 = figures.next()?.parse().ok()?;
                let bytes: u64 = figures.next()?.parse().ok()?;
                if objects > 0 {
                    // A small object is seldom met: each that was stands for many that were not.
                    let size = bytes as f64 / objects as f64;
                    let scale = 1.0 / (1.0 - (-size / rate as f64).exp());
                    sites.push(Site {
                        stack,
                        objects: (objects as f64 * scale) as i64,
                        bytes: (bytes as f64 * scale) as i64,
                    });
                }
            }
        }
        sites.sort_by_key(|site| std::cmp::Reverse(site.bytes));
        Some(Self { rate, sites })
    }

    /// As text, the largest first.
    pub fn show(&self) -> String {
        let objects: i64 = self.sites.iter().map(|site| site.objects).sum();
        let bytes: i64 = self.sites.iter().map(|site| site.bytes).sum();
        let mut text = format!("heap profile: {objects} objects, {bytes} bytes in use\n");
        for site in &self.sites {
            let _ = writeln!(text, "\n{} objects, {} bytes", site.objects, site.bytes);
            show_stack(&mut text, Some(&site.stack), "    ");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_stand_for_what_was_not_sampled() {
        let text = "heap_v2/1000\n  t*: 3: 2008 [0: 0]\n  t0: 3: 2008 [0: 0]\n\
                    @ 0x11 0x21\n  t*: 1: 8 [0: 0]\n  t0: 1: 8 [0: 0]\n\
                    @ 0x31\n  t*: 2: 2000 [0: 0]\n  t0: 2: 2000 [0: 0]\n\
                    @ 0x41\n  t*: 0: 0 [0: 0]\n\nMAPPED_LIBRARIES:\nabc\n";
        let profile = HeapProfile::parse(text).expect("the format is right");
        assert_eq!(profile.rate, 1000);
        // 1 / (1 - e^-1) = 1.58 and 1 / (1 - e^-0.008) = 125.5
        let sites = [
            Site {
                stack: vec![0x30],
                objects: 3,
                bytes: 3163,
            },
            Site {
                stack: vec![0x10, 0x20],
                objects: 125,
                bytes: 1004,
            },
        ];
        assert_eq!(profile.sites, sites);
        assert!(HeapProfile::parse("heap_v3/1\n").is_none());
    }
}
