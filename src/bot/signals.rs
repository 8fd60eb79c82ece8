//! Signals to this process.

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook::iterator::Signals;

use super::{Error, system};

/// Tells of signals, on a thread that ends when this is dropped.
pub(super) struct WatchedSignals {
    handle: signal_hook::iterator::Handle,
    thread: Option<std::thread::JoinHandle<()>>,
}

/// Calls `tell` for each, until that is false.
pub(super) fn watch(tell: impl Fn(i32) -> bool + Send + 'static) -> Result<WatchedSignals, Error> {
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

impl Drop for WatchedSignals {
    fn drop(&mut self) {
        self.handle.close();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
