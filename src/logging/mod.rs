//! Log lines to stderr, by a thread of their own.
//!
//! Nobody who logs waits for stderr: where it is a pipe whose reader stands still, lines are dropped
//! and their number is told later. So a stuck log collector never stops a connection.

mod clock;
mod escape;
mod figure;
mod fold;
mod line;
mod queue;
mod said;
mod stderr;

use std::io::{self, IsTerminal};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::Interest;
use tracing::{Event, Level, Metadata, Subscriber};

pub(crate) use self::escape::harmless;
use self::fold::Folds;
use self::line::Style;
use self::queue::Queue;
use self::said::Said;
use self::stderr::Stderr;
use crate::config::{LogFormat, LogLevels};
use crate::metrics::LogMetrics;

/// How long the next lines gather behind those just written: a line that finds the thread busy need not wake it,
/// which costs more than the line.
const GATHER: Duration = Duration::from_millis(2);

/// How long the end of the program waits for a stderr that takes nothing.
const PATIENCE: Duration = Duration::from_secs(1);

/// Keeps the log going; dropped, it writes what is left.
pub struct Guard {
    shared: Arc<Shared>,
    finished: Receiver<()>,
}

/// What those who log and the thread that writes have in common.
struct Shared {
    style: Style,
    metrics: LogMetrics,
    folds: Mutex<Folds>,
    queue: Queue,
}

/// Where every event comes. There are no spans: a line says what it is about.
struct Log {
    levels: LogLevels,
    shared: Arc<Shared>,
}

/// Sends this process's log lines to stderr, and counts them, from now on; of parts for which `levels` has none,
/// those of `rest` and above.
pub fn start(
    format: LogFormat,
    levels: LogLevels,
    rest: LevelFilter,
    metrics: LogMetrics,
) -> io::Result<Guard> {
    let style = match format {
        LogFormat::Json => Style::Json,
        LogFormat::Text => Style::Text {
            colours: wants_colours(),
        },
    };
    let (finish, finished) = sync_channel(1);
    let shared = Arc::new(Shared {
        style,
        metrics,
        folds: Mutex::default(),
        queue: Queue::new(style.head()),
    });
    let writer = shared.clone();
    std::thread::Builder::new()
        .name("log".into())
        .stack_size(128 * 1024)
        .spawn(move || {
            writer.write();
            let _ = finish.send(());
        })?;
    let log = Log {
        levels: levels.or(rest),
        shared: shared.clone(),
    };
    tracing::subscriber::set_global_default(log).map_err(io::Error::other)?;
    log_panics();
    Ok(Guard { shared, finished })
}

/// Whether stderr is a terminal, and its user has nothing against colours (https://no-color.org).
fn wants_colours() -> bool {
    let refuses = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let cannot = std::env::var_os("TERM").is_some_and(|name| name == "dumb");
    io::stderr().is_terminal() && !refuses && !cannot
}

impl Subscriber for Log {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        // It never changes: what is not logged costs one load of an atomic.
        match self.enabled(metadata) {
            true => Interest::always(),
            false => Interest::never(),
        }
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && *metadata.level() <= self.levels.of(metadata.target())
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.levels.finest())
    }

    fn event(&self, event: &Event<'_>) {
        self.shared.event(event);
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

impl Guard {
    /// Has what was counted so far told before whatever is logged next.
    pub fn tell_counted(&self) {
        self.shared.tell_counted(true);
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.shared.queue.stop();
        let _ = self.finished.recv_timeout(PATIENCE);
    }
}

impl Shared {
    fn event(&self, event: &Event<'_>) {
        let metadata = event.metadata();
        let level = *metadata.level();
        self.metrics.messages(level).inc();
        let line = if level <= Level::WARN {
            let said = Said::of(event);
            let (at, target) = (metadata.callsite(), metadata.target());
            if self.folds().take(at, target, &said, Instant::now()) {
                return;
            }
            line::of_said(self.style, &said)
        } else {
            line::of_event(self.style, event)
        };
        if !self.queue.push(&line) {
            self.metrics.dropped.inc();
        }
        line::done(line);
    }

    /// What its thread does: writes lines as they come.
    #[inline(never)] // a frame with a name in profiles
    fn write(&self) {
        let (mut stderr, mut lines) = (Stderr::default(), Vec::new());
        let (mut told, mut stopped) = (0, false);
        while !stopped {
            // Whatever is counted began with a line that came here, so it is looked for in time.
            let due = self.folds().due();
            stopped = self.queue.take(&mut lines, due);
            let lost = stderr.write(&lines);
            self.metrics.dropped.inc_by(lost);
            self.tell_counted(stopped);
            let dropped = self.metrics.dropped.get();
            // Not where that would be lost, too, and be one more to tell of.
            if dropped > told && lost == 0 {
                let n = dropped - told;
                told = dropped;
                self.tell(&Said {
                    level: Level::WARN,
                    message: format!("{n} log lines were dropped, as stderr took none"),
                    fields: Vec::new(),
                    user: None,
                });
            }
            if !lines.is_empty() && !stopped {
                std::thread::sleep(GATHER);
            }
        }
        self.queue.take(&mut lines, None);
        stderr.write(&lines);
    }

    fn tell_counted(&self, all: bool) {
        let told = self.folds().told(Instant::now(), all);
        told.iter().for_each(|said| self.tell(said));
    }

    fn tell(&self, said: &Said) {
        self.queue.push_last(&line::of_said(self.style, said));
    }

    fn folds(&self) -> MutexGuard<'_, Folds> {
        // Nothing panics while it is held: that would be a line of the log.
        self.folds.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A thread that panics says so in the log, as one line.
fn log_panics() {
    static ONCE: OnceLock<()> = OnceLock::new();
    ONCE.get_or_init(|| {
        std::panic::set_hook(Box::new(|panic| {
            let thread = std::thread::current()
                .name()
                .unwrap_or("unnamed")
                .to_owned();
            tracing::error!(
                "thread {thread} panicked: {}",
                panic.to_string().replace('\n', " ")
            );
        }));
    });
}
