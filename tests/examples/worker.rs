//! A worker that shows its health: threads count the lines of the files named on its input, say how that goes, and
//! end in order at Ctrl-C or SIGTERM.

use std::error::Error;
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::{fs, io, thread};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tbot::diagnostics::{Diagnostics, Request};
use tbot::prometheus::{IntCounterVec, register_int_counter_vec};
use tbot::tiny_http::{Response, ResponseBox};
use tbot::{metrics, prometheus, readyz};

fn main() -> Result<(), Box<dyn Error>> {
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    let services = readyz::Registry::new();
    // Before anybody can ask: a service that is not known keeps nothing from being ready.
    let reporters = ["worker-0", "worker-1"].map(|name| services.register(name));
    metrics::register_service_status(prometheus::default_registry(), services.clone())?;
    let diagnostics = Diagnostics::builder()
        .readyz(services.clone())
        .default_metrics()
        .route("/version", version)
        .bind("127.0.0.1:0")?;
    println!("http://{}", diagnostics.local_addr());

    let jobs = register_int_counter_vec!("worker_jobs_total", "Jobs done.", &["result"])?;
    // Bounded: who names files faster than they are counted waits.
    let (queue, queued) = sync_channel(16);
    let queued = Arc::new(Mutex::new(queued));
    let worker = |reporter: readyz::Reporter| {
        let (queued, jobs) = (queued.clone(), jobs.clone());
        let named = thread::Builder::new().name(reporter.name().to_owned());
        named.spawn(move || work(&queued, &jobs, &reporter))
    };
    let workers = reporters
        .map(worker)
        .into_iter()
        .collect::<io::Result<Vec<_>>>()?;
    let input = queue.clone();
    // It may wait for input for ever, so nobody waits for it.
    thread::spawn(move || {
        let mut files = io::stdin().lines().map_while(Result::ok);
        files.all(|file| input.send(Some(file)).is_ok())
    });

    signals.forever().next();
    let main = services.register("main");
    main.unhealthy("stopping"); // /readyz is 503: nobody sends us anything more.
    for _ in &workers {
        queue.send(None)?; // Behind the jobs that are queued already.
    }
    for worker in workers {
        worker.join().map_err(|_| "a worker panicked")?;
    }
    diagnostics.shutdown(); // Last, so that the end can be watched.
    println!("stopped");
    Ok(())
}

fn work(
    queued: &Mutex<Receiver<Option<String>>>,
    jobs: &IntCounterVec,
    reporter: &readyz::Reporter,
) {
    let (done, failed) = (
        jobs.with_label_values(&["done"]),
        jobs.with_label_values(&["failed"]),
    );
    reporter.healthy();
    let next = || queued.lock().unwrap_or_else(PoisonError::into_inner).recv();
    while let Ok(Some(file)) = next() {
        match fs::read_to_string(&file) {
            Ok(text) => {
                println!("{file}: {} lines", text.lines().count());
                done.inc();
                reporter.healthy();
            }
            Err(error) => {
                failed.inc();
                reporter.unhealthy(format!("cannot read {file}: {error}"));
            }
        }
    }
}

fn version(_: &Request<'_>) -> ResponseBox {
    Response::from_string(env!("CARGO_PKG_VERSION")).boxed()
}
