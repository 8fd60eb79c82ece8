//! Log lines to stderr, by a thread of their own.
//!
//! Nobody who logs waits for stderr: where it is a pipe whose reader stands still, lines are dropped
//! and their number is told later. So a stuck log collector never stops a connection.

mod fold;
mod line;

use std::io::{self, IsTerminal, Write};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::Interest;
use tracing::{Event, Level, Metadata, Subscriber};

use self::fold::Folds;
pub(crate) use self::line::harmless;
use self::line::{Said, Style};
use crate::config::{LogFormat, LogLevels};
use crate::metrics::{IntCounter, LogMetrics};

/// Lines that wait for stderr.
const QUEUE: usize = 1024;

/// Bytes of lines that are written at once.
const AT_ONCE: usize = 64 * 1024;

/// How long the next lines gather behind those just written: a line that finds the thread busy need not wake it,
/// which costs more than the line.
const GATHER: Duration = Duration::from_millis(2);

/// How long the end of the program waits for a stderr that takes nothing.
const PATIENCE: Duration = Duration::from_secs(1);

/// Keeps the log going; dropped, it writes what is left.
#[derive(Debug)]
pub struct Guard {
    queue: SyncSender<Message>,
    finished: Receiver<()>,
}

#[derive(Debug)]
enum Message {
    Line(Vec<u8>),
    Counted,
    Stop,
}

/// Where every event comes. There are no spans: a line says what it is about.
struct Log {
    levels: LogLevels,
    style: Style,
    metrics: LogMetrics,
    folds: Arc<Mutex<Folds>>,
    queue: SyncSender<Message>,
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
    let (queue, messages) = sync_channel(QUEUE);
    let (finish, finished) = sync_channel(1);
    let folds = Arc::default();
    let writer = Writer {
        style,
        folds: Arc::clone(&folds),
        dropped: metrics.dropped.clone(),
    };
    std::thread::Builder::new()
        .name("log".into())
        .stack_size(128 * 1024)
        .spawn(move || {
            writer.run(&messages);
            let _ = finish.send(());
        })?;
    let log = Log {
        levels: levels.or(rest),
        style,
        metrics,
        folds,
        queue: queue.clone(),
    };
    tracing::subscriber::set_global_default(log).map_err(io::Error::other)?;
    log_panics();
    Ok(Guard { queue, finished })
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
        let metadata = event.metadata();
        let said = Said::of(event);
        self.metrics.messages(said.level).inc();
        if said.level <= Level::WARN {
            let (at, target) = (metadata.callsite(), metadata.target());
            if lock(&self.folds).take(at, target, &said, Instant::now()) {
                return;
            }
        }
        let line = said.line(self.style, SystemTime::now());
        if self.queue.try_send(Message::Line(line)).is_err() {
            self.metrics.dropped.inc();
        }
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
        // A full queue: it is told at the end.
        let _ = self.queue.try_send(Message::Counted);
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // A full queue: stderr stands still, and the end of the process is the end of the thread.
        if self.queue.try_send(Message::Stop).is_ok() {
            let _ = self.finished.recv_timeout(PATIENCE);
        }
    }
}

/// What the thread has that writes.
struct Writer {
    style: Style,
    folds: Arc<Mutex<Folds>>,
    dropped: IntCounter,
}

impl Writer {
    #[inline(never)] // a frame with a name in profiles
    fn run(self, messages: &Receiver<Message>) {
        let mut told = 0;
        loop {
            // Whatever is counted began with a line that came here, so it is looked for in time.
            let due = lock(&self.folds).due();
            let message = match due {
                None => messages.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(due) => messages.recv_timeout(due.saturating_duration_since(Instant::now())),
            };
            let next = match message {
                Ok(Message::Line(line)) => write_all_of(line, messages),
                Ok(other) => Some(other),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => Some(Message::Stop),
            };
            if matches!(next, Some(Message::Stop)) {
                break;
            }
            self.tell_counted(matches!(next, Some(Message::Counted)));
            let dropped = self.dropped.get();
            if dropped > told {
                let n = dropped - told;
                told = dropped;
                self.tell(&Said {
                    level: Level::WARN,
                    message: format!("{n} log lines were dropped, as stderr took none"),
                    fields: Vec::new(),
                });
            }
        }
        self.tell_counted(true);
    }

    fn tell_counted(&self, all: bool) {
        let told = lock(&self.folds).told(Instant::now(), all);
        told.iter().for_each(|said| self.tell(said));
    }

    fn tell(&self, said: &Said) {
        write(&said.line(self.style, SystemTime::now()));
    }
}

/// Writes a line and those behind it, and waits for more of them; gives back what came that is no line.
fn write_all_of(mut lines: Vec<u8>, messages: &Receiver<Message>) -> Option<Message> {
    let mut next = None;
    while lines.len() < AT_ONCE && next.is_none() {
        match messages.try_recv() {
            Ok(Message::Line(line)) => lines.extend(line),
            Ok(other) => next = Some(other),
            Err(_) => break,
        }
    }
    write(&lines);
    if next.is_none() {
        std::thread::sleep(GATHER);
    }
    next
}

fn write(lines: &[u8]) {
    // Nobody is left to tell where stderr is closed.
    let _ = io::stderr().write_all(lines);
}

fn lock(folds: &Mutex<Folds>) -> MutexGuard<'_, Folds> {
    // Nothing panics while it is held: that would be a line of the log.
    folds.lock().unwrap_or_else(PoisonError::into_inner)
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
