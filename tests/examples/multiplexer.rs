//! The multiplexer inside a program of one's own: `multiplexer DIRECTORY TBOT` serves `DIRECTORY/v1.sock` until Ctrl-C
//! or SIGTERM. TBOT is the program by which ssh connects to it.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tbot::diagnostics::Diagnostics;
use tbot::metrics::{MultiplexerMetrics, TaskMetricsFamily};
use tbot::multiplexer::{Multiplexer, Options, PROXY_COMMAND};
use tbot::prometheus::Registry;
use tbot::readyz;
use tbot::task::Task;

fn main() -> Result<(), Box<dyn Error>> {
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    let mut arguments = std::env::args().skip(1);
    let (Some(directory), Some(tbot)) = (arguments.next(), arguments.next()) else {
        return Err("give the directory to serve from, and the path of tbot".into());
    };
    let (services, registry) = (readyz::Registry::new(), Registry::new());
    let mux = services.register("mux"); // Before anybody can ask.
    let diagnostics = Diagnostics::builder()
        .readyz(services.clone())
        .metrics(registry.clone())
        .bind("127.0.0.1:0")?;

    let options = Options::new(directory, vec![tbot, PROXY_COMMAND.into()]);
    let metrics = MultiplexerMetrics::register(&registry)?;
    let multiplexer = Arc::new(Multiplexer::start(&options, &metrics)?);
    // Looked at with every /readyz. Weak: a status keeps nothing running.
    let looked_at = Arc::downgrade(&multiplexer);
    let mux = mux.checked_by(move || looked_at.upgrade()?.problem());
    let tasks = TaskMetricsFamily::register(&registry)?.task("mux", "files");
    let (kept, every) = (multiplexer.clone(), || Duration::from_secs(60));
    let files = Task::start("mux-files", every, tasks, mux.clone(), move || {
        kept.maintain()
    })?;
    println!("http://{}", diagnostics.local_addr());

    signals.forever().next();
    drop(files); // It would report on its own.
    mux.unhealthy("stopping");
    multiplexer.shutdown(Duration::from_secs(10));
    drop(multiplexer);
    diagnostics.shutdown();
    println!("stopped");
    Ok(())
}
