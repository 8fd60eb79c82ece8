//! Profiles in pprof's format (profile.proto), gzip-compressed as its tools expect, and as flame graphs.

use std::collections::HashMap;
use std::io::{self, Write};
use std::time::SystemTime;

use flate2::Compression;
use flate2::write::GzEncoder;
use pprof::flamegraph;
use pprof::protos::{
    Function, Label, Line, Location, Mapping, Message, Profile, Sample, ValueType,
};

use super::cpu::CpuProfile;
use super::modules::{Frame, Modules, modules};

/// Builds a profile; what is named twice is stored once.
pub(super) struct Builder<'a> {
    profile: Profile,
    modules: &'a Modules,
    strings: HashMap<String, i64>,
    /// By address.
    locations: HashMap<u64, u64>,
    /// By symbol and file.
    functions: HashMap<(i64, i64), u64>,
}

/// What a value means, as `("cpu", "nanoseconds")`.
pub(super) type Unit = (&'static str, &'static str);

impl<'a> Builder<'a> {
    /// A profile whose samples have a value for each of `values`.
    pub fn new(modules: &'a Modules, values: &[Unit]) -> Self {
        let mut builder = Self {
            profile: Profile::default(),
            modules,
            strings: HashMap::new(),
            locations: HashMap::new(),
            functions: HashMap::new(),
        };
        // The format wants the empty string first.
        builder.string("");
        builder.profile.sample_type = values.iter().map(|unit| builder.unit(*unit)).collect();
        builder.profile.mapping = builder.mappings();
        builder
    }

    /// When it was taken; what one sample stands for.
    pub fn taken(&mut self, at: SystemTime, period: Unit, each: i64) {
        let since = at
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        self.profile.time_nanos = since.as_nanos() as i64;
        self.profile.period_type = Some(self.unit(period));
        self.profile.period = each;
    }

    /// One stack, leaf first, with its values and labels.
    pub fn sample(&mut self, stack: &[u64], value: Vec<i64>, labels: &[(&str, &str)]) {
        let location_id = stack
            .iter()
            .map(|address| self.location(*address))
            .collect();
        let label = labels.iter().map(|(key, text)| Label {
            key: self.string(key),
            str: self.string(text),
            ..Label::default()
        });
        let label = label.collect();
        self.profile.sample.push(Sample {
            location_id,
            value,
            label,
        });
    }

    /// A remark that the tools show.
    pub fn comment(&mut self, text: &str) {
        let text = self.string(text);
        self.profile.comment.push(text);
    }

    /// The profile in bytes.
    pub fn finish(self) -> io::Result<Vec<u8>> {
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        gzip.write_all(&self.profile.encode_to_vec())?;
        gzip.finish()
    }

    fn string(&mut self, text: &str) -> i64 {
        if let Some(index) = self.strings.get(text) {
            return *index;
        }
        let index = self.profile.string_table.len() as i64;
        self.profile.string_table.push(text.to_owned());
        self.strings.insert(text.to_owned(), index);
        index
    }

    fn unit(&mut self, (kind, unit): Unit) -> ValueType {
        ValueType {
            ty: self.string(kind),
            unit: self.string(unit),
        }
    }

    /// One for each module, at the module's place in the list.
    fn mappings(&mut self) -> Vec<Mapping> {
        let all = self.modules.all().iter().enumerate();
        all.map(|(index, module)| {
            let (code, file_offset) = module.code();
            Mapping {
                id: index as u64 + 1,
                memory_start: code.start,
                memory_limit: code.end,
                file_offset,
                filename: self.string(&module.path.to_string_lossy()),
                build_id: self.string(&module.build_id),
                // Otherwise the tools would look for the file to find names themselves.
                has_functions: module.has_names(),
                has_filenames: module.has_names(),
                has_line_numbers: module.has_names(),
                has_inline_frames: module.has_names(),
            }
        })
        .collect()
    }

    fn location(&mut self, address: u64) -> u64 {
        if let Some(id) = self.locations.get(&address) {
            return *id;
        }
        let frames = self.modules.frames(address);
        let line = frames.iter().map(|frame| Line {
            function_id: self.function(frame),
            line: frame.line.into(),
        });
        let line = line.collect();
        let id = self.profile.location.len() as u64 + 1;
        let module = self.modules.module(address);
        self.profile.location.push(Location {
            id,
            mapping_id: module.map_or(0, |(index, _)| index as u64 + 1),
            address,
            line,
            is_folded: false,
        });
        self.locations.insert(address, id);
        id
    }

    fn function(&mut self, frame: &Frame) -> u64 {
        let system_name = self.string(&frame.symbol);
        let filename = self.string(frame.file.as_deref().unwrap_or_default());
        if let Some(id) = self.functions.get(&(system_name, filename)) {
            return *id;
        }
        let id = self.profile.function.len() as u64 + 1;
        let name = self.string(&frame.function);
        self.profile.function.push(Function {
            id,
            name,
            system_name,
            filename,
            start_line: 0,
        });
        self.functions.insert((system_name, filename), id);
        id
    }
}

/// A CPU profile as `go tool pprof` reads it.
pub(super) fn cpu(profile: &CpuProfile) -> io::Result<Vec<u8>> {
    const CPU: Unit = ("cpu", "nanoseconds");
    let modules = modules();
    let mut builder = Builder::new(&modules, &[("samples", "count"), CPU]);
    builder.taken(profile.start, CPU, profile.period.as_nanos() as i64);
    let each = profile.each();
    builder.profile.duration_nanos = profile.duration.as_nanos() as i64;
    for ((thread, stack), count) in &profile.stacks {
        let value = vec![*count as i64, (*count as f64 * each) as i64];
        let labels = [("thread", &*name(thread))];
        builder.sample(stack, value, &labels);
    }
    if profile.lost > 0 {
        builder.comment(&format!("{} samples were lost", profile.lost));
    }
    builder.finish()
}

/// A heap profile as `go tool pprof` reads it.
#[cfg(feature = "heap")]
pub(super) fn heap(profile: &super::heap::HeapProfile) -> io::Result<Vec<u8>> {
    const SPACE: Unit = ("space", "bytes");
    let modules = modules();
    let units = [("inuse_objects", "count"), ("inuse_space", "bytes")];
    let mut builder = Builder::new(&modules, &units);
    builder.taken(SystemTime::now(), SPACE, profile.rate as i64);
    for site in &profile.sites {
        builder.sample(&site.stack, vec![site.objects, site.bytes], &[]);
    }
    builder.finish()
}

/// A CPU profile as a picture for a browser (SVG).
pub(super) fn flame_graph(profile: &CpuProfile) -> io::Result<Vec<u8>> {
    let modules = modules();
    // An address is in many stacks, and its names take a search.
    let mut names: HashMap<u64, String> = HashMap::new();
    let mut lines = Vec::new();
    for ((thread, stack), count) in &profile.stacks {
        let mut line = flame_name(&name(thread));
        for address in stack.iter().rev() {
            let frames = names.entry(*address);
            line.push_str(frames.or_insert_with(|| flame_frames(&modules, *address)));
        }
        lines.push(format!("{line} {count}"));
    }
    drop(modules);
    let seconds = profile.duration.as_secs();
    if lines.is_empty() {
        return Ok(format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"640\" height=\"48\">\
             <text x=\"16\" y=\"30\" font-family=\"sans-serif\">No samples: \
             hardly any CPU time was used in {seconds} s</text></svg>\n"
        )
        .into_bytes());
    }
    let mut options = flamegraph::Options::default();
    options.title = format!("CPU time, {seconds} s");
    options.hash = true;
    let mut svg = Vec::new();
    flamegraph::from_lines(&mut options, lines.iter().map(String::as_str), &mut svg)
        .map_err(io::Error::other)?;
    Ok(svg)
}

/// The frames of an address, outermost first, each behind its separator.
fn flame_frames(modules: &Modules, address: u64) -> String {
    let frames = modules.frames(address);
    if frames.is_empty() {
        return format!(";{address:#x}");
    }
    let names = frames.iter().rev();
    names
        .map(|frame| format!(";{}", flame_name(&frame.function)))
        .collect()
}

/// A name that does not end its frame or its line.
fn flame_name(name: &str) -> String {
    name.replace(|c: char| c == ';' || c.is_control(), ":")
}

/// A thread's name as text.
pub(super) fn name(thread: &[u8; 16]) -> String {
    let end = thread
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(thread.len());
    String::from_utf8_lossy(&thread[..end]).into_owned()
}
