//! What every measurement hands in its figures to, and the table and the file that come of them.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Instant, SystemTime};

/// All figures, and the rows of the table.
pub struct Report {
    /// Who is compared, we first.
    names: Vec<&'static str>,
    figures: BTreeMap<String, BTreeMap<&'static str, Vec<f64>>>,
    rows: Vec<Vec<String>>,
    machine: String,
    began: Instant,
}

/// What a figure is in.
#[derive(Clone, Copy)]
pub enum Unit {
    Seconds,
    PerSecond,
    Bytes,
    BytesPerSecond,
    Times,
}

/// What of many figures stands in the table.
#[derive(Clone, Copy)]
pub enum Of {
    Median,
    Percentile99,
}

/// What was promised.
#[derive(Clone, Copy)]
pub enum Wanted {
    Nothing,
    /// Ahead of the first of the others by this.
    Ahead(f64),
    /// Of ours alone.
    AtMost(f64),
}

impl Unit {
    /// Whether more of it is better.
    fn is_more_better(self) -> bool {
        matches!(self, Unit::PerSecond | Unit::BytesPerSecond)
    }

    fn show(self, value: f64) -> String {
        match self {
            Unit::Seconds if value < 1e-3 => format!("{} µs", digits(value * 1e6)),
            Unit::Seconds if value < 1.0 => format!("{} ms", digits(value * 1e3)),
            Unit::Seconds => format!("{} s", digits(value)),
            Unit::PerSecond => format!("{} /s", digits(value)),
            Unit::Bytes => format!("{} KiB", digits(value / 1024.0)),
            Unit::BytesPerSecond => format!("{} MB/s", digits(value / 1e6)),
            Unit::Times => format!("{} x", digits(value)),
        }
    }
}

impl Of {
    /// From one figure at least.
    pub fn take(self, figures: &mut [f64]) -> f64 {
        figures.sort_by(f64::total_cmp);
        let last = figures.len() - 1;
        match self {
            Of::Median => (figures[last / 2] + figures[last.div_ceil(2)]) / 2.0,
            Of::Percentile99 => figures[(last as f64 * 0.99).round() as usize],
        }
    }
}

impl Report {
    pub fn begin(names: Vec<&'static str>) -> Self {
        let machine = machine();
        println!("{machine}");
        Self {
            names,
            figures: BTreeMap::new(),
            rows: Vec::new(),
            machine,
            began: Instant::now(),
        }
    }

    /// What is measured next.
    pub fn say(&self, what: &str) {
        println!("{:4} s  {what}", self.began.elapsed().as_secs());
    }

    /// One more figure of `what`.
    pub fn add(&mut self, what: &str, name: &'static str, figure: f64) {
        let by_name = self.figures.entry(what.to_owned()).or_default();
        by_name.entry(name).or_default().push(figure);
    }

    /// What stands for all figures of `what`, if there are any.
    fn value(&self, what: &str, name: &str, of: Of) -> Option<f64> {
        let mut figures = self.figures.get(what)?.get(name)?.clone();
        Some(of.take(&mut figures))
    }

    /// A line of the table.
    pub fn row(&mut self, what: &str, unit: Unit, of: Of, wanted: Wanted) {
        let of_name = |name: &&'static str| self.value(what, name, of);
        let values: Vec<Option<f64>> = self.names.iter().map(of_name).collect();
        let others = self.names[1..].iter();
        let ahead: Vec<Option<f64>> = others
            .map(|other| self.ahead(what, other, of, unit))
            .collect();
        let show = |value: &Option<f64>| value.map_or("–".into(), |value| unit.show(value));
        let times =
            |value: &Option<f64>| value.map_or("–".into(), |value| Unit::Times.show(value));
        let (wanted, is_met) = match wanted {
            Wanted::Nothing => (String::new(), true),
            Wanted::Ahead(least) => {
                let is_met = ahead[0].is_some_and(|ahead| ahead >= least);
                (format!("{least} x"), is_met)
            }
            Wanted::AtMost(most) => {
                let is_met = values[0].is_some_and(|value| value <= most);
                (format!("at most {}", unit.show(most)), is_met)
            }
        };
        let mut cells = vec![match of {
            Of::Median => what.to_owned(),
            Of::Percentile99 => format!("{what}, p99"),
        }];
        cells.extend(values.iter().map(show));
        cells.extend(ahead.iter().map(times));
        cells.push(wanted + if is_met { "" } else { ": MISSED" });
        self.rows.push(cells);
    }

    /// By how much we are ahead of another. Of figures that were taken in turns it is the median of the turns'
    /// own ratios: a turn that met something else on this machine met it on both sides.
    fn ahead(&self, what: &str, other: &str, of: Of, unit: Unit) -> Option<f64> {
        let ratio = |ours: f64, other: f64| match unit.is_more_better() {
            true => ours / other,
            false => other / ours,
        };
        let by_name = self.figures.get(what)?;
        let (ours, others) = (by_name.get(self.names[0])?, by_name.get(other)?);
        if matches!(of, Of::Median) && ours.len() == others.len() {
            let ratios = ours.iter().zip(others);
            let mut ratios: Vec<f64> = ratios.map(|(ours, other)| ratio(*ours, *other)).collect();
            return Some(of.take(&mut ratios));
        }
        let value = |name| self.value(what, name, of);
        Some(ratio(value(self.names[0])?, value(other)?))
    }

    /// Prints the table, and writes the file.
    pub fn end(self) {
        let mut head = vec![String::new()];
        head.extend(self.names.iter().map(|name| (*name).to_owned()));
        let others = self.names[1..].iter();
        head.extend(others.map(|name| format!("ahead of {name}")));
        head.push("wanted".into());
        let lines: Vec<Vec<String>> = [head].into_iter().chain(self.rows.clone()).collect();
        let table = table(&lines);
        let took = self.began.elapsed().as_secs();
        println!("\n{table}\n{took} s; load now {}", load());
        let path = self.write(&table);
        println!("every figure: {}", path.display());
    }

    fn write(&self, table: &str) -> PathBuf {
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("bench");
        fs::create_dir_all(&directory).expect("it is below cargo's own directory");
        let now = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        let path = directory.join(format!("{}.tsv", now.replace(':', "")));
        let mut text = String::new();
        for line in self.machine.lines().chain([""]).chain(table.lines()) {
            writeln!(text, "# {line}").expect("a string takes all");
        }
        for (what, by_name) in &self.figures {
            for (name, figures) in by_name {
                let list: Vec<String> = figures.iter().map(f64::to_string).collect();
                writeln!(text, "{what}\t{name}\t{}", list.join("\t")).expect("a string takes all");
            }
        }
        fs::write(&path, text).expect("the directory is ours");
        path
    }
}

/// Three digits of it that count.
fn digits(value: f64) -> String {
    match value.abs() {
        value if value >= 99.95 => format!("{value:.0}"),
        value if value >= 9.995 => format!("{value:.1}"),
        value => format!("{value:.2}"),
    }
}

/// With columns as wide as their widest cell.
fn table(lines: &[Vec<String>]) -> String {
    let widest = |column: usize| lines.iter().map(|line| line[column].chars().count()).max();
    let widths: Vec<usize> = (0..lines[0].len()).filter_map(widest).collect();
    let mut text = String::new();
    for (n, line) in lines.iter().enumerate() {
        for (cell, width) in line.iter().zip(&widths) {
            write!(text, "| {cell:width$} ").expect("a string takes all");
        }
        text += "|\n";
        if n == 0 {
            let rules: Vec<String> = widths.iter().map(|width| "-".repeat(width + 2)).collect();
            writeln!(text, "|{}|", rules.join("|")).expect("a string takes all");
        }
    }
    text
}

/// What the figures are of.
fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info
        .lines()
        .find_map(|line| line.strip_prefix("model name"));
    let model = model.map_or("unknown", |model| {
        model.trim_start_matches([' ', '\t', ':'])
    });
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let ssh = Command::new("ssh").arg("-V").output();
    let ssh = ssh.map_or(Vec::new(), |output| output.stderr);
    format!(
        "{cores} cores ({model}), load {}; Linux {}; {}",
        load(),
        kernel.trim(),
        String::from_utf8_lossy(&ssh).trim()
    )
}

/// Of the last minute, with what others do.
fn load() -> String {
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    load.split(' ').next().unwrap_or_default().to_owned()
}
