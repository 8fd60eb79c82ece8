//! Log lines to stderr, by a thread of their own.
//!
//! Nobody who logs waits for stderr: where it is a pipe whose reader stands still, lines are dropped
//! and their number is told later. So a stuck log collector never stops a connection.

use std::io::{self, IsTerminal, Write};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use prometheus::IntCounter;
use tracing::level_filters::LevelFilter;
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::{Context, SubscriberExt};

use crate::config::LogFormat;
use crate::metrics::LogMetrics;

/// Lines that wait for stderr.
const QUEUE: usize = 1024;

/// How long the end of the program waits for a stderr that takes nothing.
const PATIENCE: Duration = Duration::from_secs(1);

/// Keeps the log going; dropped, it writes what is left.
#[derive(Debug)]
pub struct Guard {
    lines: Lines,
    finished: Receiver<()>,
}

#[derive(Clone, Debug)]
struct Lines {
    queue: SyncSender<Message>,
    dropped: IntCounter,
}

enum Message {
    Line(Vec<u8>),
    Stop,
}

/// Sends this process's log lines to stderr, and counts them, from now on.
pub fn start(format: LogFormat, debug: bool, metrics: LogMetrics) -> io::Result<Guard> {
    let (queue, messages) = sync_channel(QUEUE);
    let (finish, finished) = sync_channel(1);
    let lines = Lines {
        queue,
        dropped: metrics.dropped.clone(),
    };
    let dropped = lines.dropped.clone();
    std::thread::Builder::new()
        .name("log".into())
        .stack_size(128 * 1024)
        .spawn(move || {
            write_lines(&messages, &dropped);
            let _ = finish.send(());
        })?;
    let level = if debug {
        LevelFilter::DEBUG
    } else {
        LevelFilter::INFO
    };
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_target(false)
        .with_ansi(io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none())
        .with_writer(move || writer.clone());
    let counted = Counted(metrics);
    let set = match format {
        LogFormat::Text => {
            tracing::subscriber::set_global_default(subscriber.finish().with(counted))
        }
        LogFormat::Json => tracing::subscriber::set_global_default(
            subscriber.json().flatten_event(true).finish().with(counted),
        ),
    };
    set.map_err(io::Error::other)?;
    log_panics();
    Ok(Guard { lines, finished })
}

/// Counts what is logged: events below the shown level do not come here.
struct Counted(LogMetrics);

impl<S: Subscriber> Layer<S> for Counted {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        self.0.messages(*event.metadata().level()).inc();
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // A full queue: stderr stands still, and the end of the process is the end of the thread.
        if self.lines.queue.try_send(Message::Stop).is_ok() {
            let _ = self.finished.recv_timeout(PATIENCE);
        }
    }
}

impl Write for Lines {
    /// Takes one whole line, as tracing's formatter writes them.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.queue.try_send(Message::Line(line.to_vec())).is_err() {
            self.dropped.inc();
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[inline(never)] // a frame with a name in profiles
fn write_lines(messages: &Receiver<Message>, dropped: &IntCounter) {
    let mut stderr = io::stderr();
    let mut told = 0;
    while let Ok(Message::Line(line)) = messages.recv() {
        // Nobody is left to tell where stderr is closed.
        let _ = stderr.write_all(&line);
        let dropped = dropped.get();
        if dropped > told {
            let n = dropped - told;
            told = dropped;
            let _ = writeln!(
                stderr,
                "WARN {n} log lines were dropped, as stderr took none"
            );
        }
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
