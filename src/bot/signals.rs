//! Signals to this process.

use std::time::Duration;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook::iterator::Signals;

use super::{Error, system};

/// Tells of signals, on a thread that ends when this is dropped.
pub(super) struct WatchedSignals {
    handle: signal_hook::iterator::Handle,
    thread: Option<std::thread::JoinHandle<()>>,
}

/// Calls `tell` for each, until that is false.
pub(super) fn watch(
    mut tell: impl FnMut(i32) -> bool + Send + 'static,
) -> Result<WatchedSignals, Error> {
    let failed = || system("watch for signals");
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP, SIGUSR1]).map_err(failed())?;
    let handle = signals.handle();
    let thread = std::thread::Builder::new()
        .name("signals".into())
        .stack_size(128 * 1024)
        .spawn(move || {
            for signal in &mut signals {
                if !tell(signal) {
                    break;
                }
            }
        })
        .map_err(failed())?;
    Ok(WatchedSignals {
        handle,
        thread: Some(thread),
    })
}

/// For threads to end that are told to.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// Ends the process a while after `grace`, whoever hangs by then: a file system that does not answer has no
/// time-out, and stops whoever looks at a file in it. `last` is done before, if it can be.
pub(super) fn end_after(grace: Duration, last: impl FnOnce() + Send + 'static) {
    let end = move || {
        std::thread::sleep(grace + PATIENCE);
        tracing::error!("something hangs, such as a file system: ending without waiting for it");
        // That may hang, too.
        let _ = std::thread::Builder::new().spawn(last);
        // For both, and the line to be written.
        std::thread::sleep(Duration::from_millis(100));
        std::process::exit(1);
    };
    let thread = std::thread::Builder::new().name("end".into());
    // Without a thread the end is as orderly as it can be.
    let _ = thread.stack_size(128 * 1024).spawn(end);
}

impl Drop for WatchedSignals {
    fn drop(&mut self) {
        self.handle.close();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
