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
    let routes = Diagnostics::builder()
        .readyz(services)
        .default_metrics()
        .routes();
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
            // The one path that waits does so on a thread of its own; the others are answered at once.
            "/wait" => {
                let (routes, stopping) = (routes.clone(), stopping.clone());
                thread::spawn(move || {
                    let goes_on = || !stopping.load(Ordering::Relaxed);
                    let response = routes.respond_while(request.method(), request.url(), goes_on);
                    answer(request, response);
                });
            }
            _ => {
                let response = routes.respond(request.method(), request.url());
                answer(request, response);
            }
        }
    }
    println!("stopped");
    Ok(())
}

fn answer(request: Request, response: tbot::tiny_http::ResponseBox) {
    // A client that has gone needs none.
    let _ = request.respond(response);
}
