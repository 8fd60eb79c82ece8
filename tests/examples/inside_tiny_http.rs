//! The diagnostics in a program that runs a `tiny_http` server already: one port for its pages and its health.

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tbot::diagnostics::Diagnostics;
use tbot::prometheus::register_int_counter;
use tbot::readyz;
use tbot::tiny_http::{Request, Response, Server};

fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    let services = readyz::Registry::new();
    let greeter = services.register("greeter");
    let builder = Diagnostics::builder().readyz(services).default_metrics();
    #[cfg(feature = "pprof")]
    let builder = builder.profiling(std::env::args().any(|argument| argument == "--debug"));
    let routes = builder.routes();
    let greetings = register_int_counter!("greetings_total", "Greetings.")?;

    let server = Arc::new(Server::http("127.0.0.1:0")?);
    println!("http://{}", server.server_addr());
    let stopping = Arc::new(AtomicBool::new(false));
    let (stopped, blocked) = (stopping.clone(), server.clone());
    thread::spawn(move || {
        signals.forever().next();
        stopped.store(true, Ordering::Relaxed);
        blocked.unblock();
    });

    greeter.healthy();
    for request in server.incoming_requests() {
        match request.url() {
            "/hello" => {
                greetings.inc();
                answer(request, Response::from_string("hello\n").boxed());
            }
            // These wait, on at most 16 threads of their own, each of which holds `stopping`.
            url if is_long(url) && Arc::strong_count(&stopping) < 2 + 16 => {
                let (routes, stopping) = (routes.clone(), stopping.clone());
                let wait = move || {
                    let goes_on = || !stopping.load(Ordering::Relaxed);
                    let response = routes.respond_while(request.method(), request.url(), goes_on);
                    answer(request, response);
                };
                if let Err(error) = thread::Builder::new().spawn(wait) {
                    eprintln!("cannot start a thread: {error}");
                }
            }
            url => {
                let response = routes.respond(request.method(), url);
                answer(request, response);
            }
        }
    }
    println!("stopped");
    Ok(())
}

fn is_long(url: &str) -> bool {
    url.starts_with("/wait") || url.starts_with("/debug/pprof/")
}

fn answer(request: Request, response: tbot::tiny_http::ResponseBox) {
    // A client that has gone needs none.
    let _ = request.respond(response);
}
