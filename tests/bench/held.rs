//! Streams that are held open, and what memory each takes.

use std::sync::Mutex;

use crate::Plan;
use crate::cost::memory;
use crate::frame::{Of, Report, Unit, Wanted};
use crate::stage::Stage;
use crate::ways::{Stream, Way};

/// Opened at once.
const AT_ONCE: usize = 8;

/// Less than a page cannot be told from none.
pub const PAGE: f64 = 4096.0;

/// The streams of one way.
pub struct Held<'w> {
    pub way: &'w dyn Way,
    streams: Vec<Stream>,
    before: f64,
}

impl<'w> Held<'w> {
    /// None yet.
    pub fn by(way: &'w dyn Way) -> Self {
        way.settle();
        Self {
            way,
            streams: Vec::new(),
            before: memory(way.processes()),
        }
    }

    pub fn count(&self) -> usize {
        self.streams.len()
    }

    /// Opens more, up to `level`.
    pub fn grow(&mut self, level: usize, stage: &Stage, plan: &Plan, report: &mut Report) {
        let has_logins = self.way.processes().is_empty();
        if !has_logins || level <= plan.most_logins {
            let (wanted, way) = (Mutex::new(level - self.count()), self.way);
            let opened = Mutex::new(Vec::new());
            std::thread::scope(|scope| {
                for _ in 0..AT_ONCE {
                    scope.spawn(|| {
                        while take_one(&wanted) {
                            let mut stream = way.open(stage.greeting(), b"");
                            stream.first_byte();
                            opened.lock().expect("nobody panicked").push(stream);
                        }
                    });
                }
            });
            self.streams
                .extend(opened.into_inner().expect("nobody panicked"));
            self.way.settle();
            let own = self.streams.iter().filter_map(Stream::process);
            let all = memory(self.way.processes().into_iter().chain(own));
            let each = (all - self.before) / level as f64;
            report.add(&what(level), self.way.name(), each.max(PAGE));
        }
    }
}

/// The rows of the table.
pub fn rows(plan: &Plan, report: &mut Report) {
    for &level in plan.levels {
        report.row(&what(level), Unit::Bytes, Of::Median, Wanted::Ahead(1.0));
    }
}

fn what(level: usize) -> String {
    format!("memory per stream, {level} open")
}

fn take_one(left: &Mutex<usize>) -> bool {
    let mut left = left.lock().expect("nobody panicked");
    let is_left = *left > 0;
    *left = left.saturating_sub(1);
    is_left
}
