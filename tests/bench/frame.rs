//! What every measurement hands in its figures to, and the table and the file that come of them.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Instant, SystemTime};

use crate::peers::{haproxy, results};

/// Our name among those who are compared.
pub const OURS: &str = "tbot";

/// All figures, and the rows of the table.
pub struct Report {
    /// Of what was measured, those of each, in the order in which they came.
    figures: BTreeMap<String, Vec<(&'static str, Vec<f64>)>>,
    rows: Vec<[String; 6]>,
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
    Count,
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
            Unit::Count => digits(value),
            Unit::Times => format!("{} x", digits(value)),
        }
    }
}

impl Wanted {
    /// The goal in words, and whether it is met.
    fn judge(self, unit: Unit, value: f64, ahead: Option<f64>) -> (String, String) {
        let (goal, is_met) = match self {
            Wanted::Nothing => return Default::default(),
            Wanted::Ahead(least) => (
                format!("{} x", digits(least)),
                ahead.is_some_and(|ahead| ahead >= least),
            ),
            Wanted::AtMost(most) => (format!("at most {}", unit.show(most)), value <= most),
        };
        (goal, if is_met { "yes" } else { "NO" }.to_owned())
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
    pub fn begin() -> Self {
        let machine = machine();
        println!("{machine}");
        Self {
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
        let all = self.figures.entry(what.to_owned()).or_default();
        match all.iter_mut().find(|(known, _)| *known == name) {
            Some((_, figures)) => figures.push(figure),
            None => all.push((name, vec![figure])),
        }
    }

    /// A line of the table for each peer; what is wanted is wanted of the first.
    pub fn row(&mut self, what: &str, unit: Unit, of: Of, wanted: Wanted) {
        let Some(all) = self.figures.get(what) else {
            return;
        };
        let Some((_, ours)) = all.iter().find(|(name, _)| *name == OURS) else {
            return;
        };
        let what = match of {
            Of::Median => what.to_owned(),
            Of::Percentile99 => format!("{what}, p99"),
        };
        let value = of.take(&mut ours.clone());
        let peers = all.iter().filter(|(name, _)| *name != OURS);
        let mut rows: Vec<[String; 6]> = Vec::new();
        for (name, theirs) in peers {
            let ahead = ahead(ours, theirs, of, unit);
            let shown = format!("{name}: {}", unit.show(of.take(&mut theirs.clone())));
            let (goal, met) = match rows.is_empty() {
                true => wanted.judge(unit, value, Some(ahead)),
                false => Default::default(),
            };
            let times = Unit::Times.show(ahead);
            rows.push([what.clone(), unit.show(value), shown, times, goal, met]);
        }
        if rows.is_empty() {
            let (goal, met) = wanted.judge(unit, value, None);
            let nobody = String::new();
            rows.push([what, unit.show(value), nobody.clone(), nobody, goal, met]);
        }
        self.rows.extend(rows);
    }

    /// Prints the table, and writes the file.
    pub fn end(self) {
        let head = ["", OURS, "measured against", "ahead", "goal", "met"].map(str::to_owned);
        let lines: Vec<[String; 6]> = [head].into_iter().chain(self.rows.clone()).collect();
        let table = table(&lines);
        let took = self.began.elapsed().as_secs();
        println!("\n{table}\n{took} s; load now {}", load());
        let path = self.write(&table);
        println!("every figure: {}", path.display());
    }

    fn write(&self, table: &str) -> PathBuf {
        let now = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        let path = results().join(format!("{}.tsv", now.replace(':', "")));
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

/// By how much we are ahead of another. Of figures that were taken in turns it is the median of the turns' own
/// ratios: a turn that met something else on this machine met it on both sides.
fn ahead(ours: &[f64], theirs: &[f64], of: Of, unit: Unit) -> f64 {
    let ratio = |ours: f64, theirs: f64| match unit.is_more_better() {
        true => ours / theirs,
        false => theirs / ours,
    };
    if matches!(of, Of::Median) && ours.len() == theirs.len() {
        let turns = ours.iter().zip(theirs);
        let mut ratios: Vec<f64> = turns.map(|(ours, theirs)| ratio(*ours, *theirs)).collect();
        return of.take(&mut ratios);
    }
    ratio(of.take(&mut ours.to_vec()), of.take(&mut theirs.to_vec()))
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
fn table(lines: &[[String; 6]]) -> String {
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
    let peers = [
        said(Command::new("ssh").arg("-V")),
        said(haproxy().arg("-v")),
        said(Command::new("go").arg("version")),
        said(Command::new("valgrind").arg("--version")),
    ];
    format!(
        "{cores} cores ({model}), load {}; Linux {}; {}",
        load(),
        kernel.trim(),
        peers.join("; ")
    )
}

/// The first line that a program says.
fn said(command: &mut Command) -> String {
    let Ok(output) = command.output() else {
        return format!("no {}", command.get_program().display());
    };
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    text.lines().next().unwrap_or_default().trim().to_owned()
}

/// Of the last minute, with what others do.
fn load() -> String {
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    load.split(' ').next().unwrap_or_default().to_owned()
}
