//! The page at `/` in a real browser: what a person sees of a real tbot, on a telephone and on a screen, in a light
//! and in a dark room.
#![cfg(feature = "pprof")]

use std::process::Command;

use base64::Engine;
use rustix::process::Signal;
use serde_json::json;
use tbot::diagnostics::Diagnostics;
use tbot::readyz::Registry;

use crate::common::chromium::{self, Chromium, Text};
use crate::common::keys::{Keys, await_healthy, await_reason, signed_by, with_identity};
use crate::common::process::succeed;
use crate::common::server::{ClosedPort, Server};
use crate::common::tbot::Tbot;
use crate::common::v1::{assert_echoes, assert_refused, dial};
use crate::common::wait::until;
use crate::common::{http, not_tested};

/// What somebody else says, who would like to say more.
const HOSTILE: &str = "<script>document.title='owned'</script><img src=http://192.0.2.1/x onerror=alert(1)>\
     \"'&amp;<style>*{display:none}</style></p></main> it is not a valid request: the policy of this machine does not \
     allow to sign for deploy@db1.prod.example.com, and a_word_that_is_much_longer_than_any_telephone_is_wide_so_that_\
     it_has_to_be_broken_somewhere_or_else_the_page_would_have_to_be_moved_sideways_to_be_read";

/// The page, as it has to be wherever it is seen: whole, with texts that can be read. Gives the texts.
fn assert_readable(chromium: &mut Chromium, url: &str, width: u32, dark: bool) -> Vec<Text> {
    let case = format!("{width} wide, dark: {dark}");
    chromium.look(width, 800, dark);
    chromium.open(url);
    // All of it, also what is folded up at first.
    chromium.value("document.querySelectorAll('details').forEach(one => one.open = true)");
    let page = chromium.value("[document.documentElement.scrollWidth, innerWidth]");
    assert_eq!(page, json!([width, width]), "{case}: it does not fit");
    let texts = chromium.texts();
    let picture = chromium.picture();
    match dark {
        true => assert!(picture.ground() < 0.05, "{case}: {}", picture.ground()),
        false => assert!(picture.ground() > 0.9, "{case}: {}", picture.ground()),
    }
    for text in &texts {
        assert!(
            text.left >= 0.0 && text.right <= width.into() && text.bottom <= picture.height(),
            "{case}: cut off: {text:?}"
        );
        assert!(text.size >= 13.0, "{case}: small: {text:?}");
        // AA of WCAG 2 for texts of this size.
        let contrast = picture.contrast(text);
        assert!(contrast >= 4.5, "{case}: contrast {contrast}: {text:?}");
    }
    texts
}

/// What is said by the page, without what is between the words.
fn said(texts: &[Text]) -> String {
    let mut words: Vec<&str> = texts.iter().map(|text| &*text.text).collect();
    // A word that was broken is there once for each part.
    words.dedup();
    words.join(" ")
}

fn assert_says(texts: &[Text], all: &[&str]) {
    let said = said(texts);
    for wanted in all {
        assert!(said.contains(wanted), "no {wanted:?} in: {said}");
    }
}

/// Nothing came from elsewhere, nothing ran, and the browser had nothing to complain of.
fn assert_quiet(chromium: &mut Chromium, origin: &str) {
    let console = chromium.console();
    assert!(console.is_empty(), "{console:#?}");
    let requests = chromium.requests();
    assert!(!requests.is_empty());
    for url in requests {
        assert!(
            url.starts_with(origin) || url.starts_with("data:"),
            "it asked for {url}"
        );
    }
    let counts = chromium.value("[document.scripts.length, document.images.length]");
    assert_eq!(counts, json!([0, 0]));
}

#[test]
fn a_person_sees_how_tbot_is_on_any_screen() {
    if !chromium::is_there() {
        return not_tested("the page in a browser", "there is no chromium");
    }
    let keys = Keys::with_ca();
    let broken = keys.path("broken");
    keys.write("said", HOSTILE);
    let sign = keys.script(
        "sign",
        &format!(
            "[ -e {broken} ] && {{ cat {said} >&2; exit 1; }}\ncat >{key}\n\
             ssh-keygen -q -s {ca} -I x -n root -V +50m {key} && cat {certificate}",
            broken = broken.display(),
            said = keys.path("said").display(),
            key = keys.path("new.pub").display(),
            ca = keys.path("ca").display(),
            certificate = keys.path("new-cert.pub").display(),
        ),
    );
    let second = format!(
        "  - type: ssh-multiplexer\n    name: far\n    destination: {{ type: directory, path: {} }}\n    \
         clusters: [{{ name: prod, proxy_server: '{}' }}]",
        keys.path("far").display(),
        ClosedPort::new().address
    );
    let tbot = with_identity(&signed_by(&sign), "", &second).start();
    await_healthy(&tbot, "mux");
    let echo = Server::echo();
    for _ in 0..3 {
        assert_echoes(&mut dial(&tbot, echo.address), b"up");
    }
    assert_refused(&mut dial(&tbot, ClosedPort::new().address));
    tbot.await_ended(4);
    let mut open = dial(&tbot, echo.address);
    assert_echoes(&mut open, &[b'x'; 94]);
    await_reason(&tbot, "far");
    // From now on its certificate, which is still good, cannot be renewed.
    keys.write("broken", "");
    tbot.signal(Signal::HUP);
    await_reason(&tbot, "identity");

    let mut chromium = Chromium::start();
    for (width, dark) in [(360, false), (360, true), (1280, false), (1280, true)] {
        let texts = assert_readable(&mut chromium, &tbot.url("/"), width, dark);
        assert_says(
            &texts,
            &[
                "tbot on ",
                "✗ 2 of 3 services not healthy",
                "far ✗ unhealthy cluster prod: no connection to the bastion 127.0.0.1:",
                "identity ✗ unhealthy ",
                "mux ✓ healthy for ",
                "<script>document.title=",
                "moved_sideways_",
                "SSH connections in progress now 1",
                "SSH connections finished ERROR 1 OK 3",
                "SSH connections started 5",
                "by reason refused 1",
                "received 100 B sent 100 B",
                "End of the certificate's validity identity in 4",
                "Whether the certificate is valid now identity yes",
                "prod · ready 0",
                "Paths /livez 200 while the program runs",
                concat!("version ", env!("CARGO_PKG_VERSION"), " · commit "),
            ],
        );
        let since = "document.querySelector('li time').dateTime";
        let age = chromium.value(&format!("(Date.now() - new Date({since})) / 1000"));
        let age = age.as_f64().expect("a number");
        assert!((-1.0..600.0).contains(&age), "since {age} s");
        assert!(said(&texts).contains(" up "), "{}", said(&texts));
        assert_eq!(
            chromium.value("document.title"),
            "✗ 2 of 3 services not healthy – tbot"
        );
    }
    assert_quiet(&mut chromium, &tbot.url("/"));

    // What has been looked for here would have been found.
    chromium.value("document.querySelector('h2').style.color = 'var(--paper)'");
    let texts = chromium.texts();
    let hidden = texts.iter().find(|text| text.text == "Services");
    let contrast = chromium.picture().contrast(hidden.expect("it is there"));
    assert!(contrast < 1.1, "{contrast}");
    for element in [
        "<img src=/livez>",
        "<p style=color:red>",
        "<style>p{}</style>",
    ] {
        let before = chromium.console().len();
        let add = format!("document.body.insertAdjacentHTML('beforeend', '{element}')");
        chromium.value(&add);
        until("the browser refuses it", || {
            (chromium.console().len() > before).then_some(())
        });
    }

    // It can be read again by itself, if somebody asks for that.
    let url = tbot.url("/?refresh=2");
    chromium.open(&url);
    until("it is loaded anew", || {
        let requests = chromium.requests();
        (requests.iter().filter(|one| **one == url).count() > 1).then_some(())
    });
    chromium.close();
}

#[test]
fn the_page_of_profiles_is_as_good() {
    if !chromium::is_there() {
        return not_tested("the page of profiles in a browser", "there is no chromium");
    }
    let tbot = Tbot::with(&["-d"]);
    let mut chromium = Chromium::start();
    for dark in [false, true] {
        let texts = assert_readable(&mut chromium, &tbot.url("/debug/pprof/"), 360, dark);
        assert_says(
            &texts,
            &["Profiles This process has ", "go tool pprof -http=:"],
        );
    }
    assert_quiet(&mut chromium, &tbot.url("/"));
    chromium.close();
}

#[test]
fn a_page_of_another_program_is_as_good_whatever_its_services_are_called() {
    if !chromium::is_there() {
        return not_tested("the page in a browser", "there is no chromium");
    }
    let (services, registry) = (Registry::new(), prometheus::Registry::new());
    services.register(HOSTILE).unhealthy(HOSTILE);
    let reporter = services.register("\u{202e}\0 né ñ 日本");
    reporter.healthy();
    services.register("later");
    let opts = prometheus::Opts::new("jobs_total", HOSTILE);
    let jobs = prometheus::IntCounterVec::new(opts, &["kind"]).expect("a good name");
    registry
        .register(Box::new(jobs.clone()))
        .expect("the first of its name");
    jobs.with_label_values(&[HOSTILE]).inc_by(1234);
    let diagnostics = Diagnostics::builder()
        .readyz(services)
        .metrics(registry)
        .front_page(HOSTILE, [])
        .bind("127.0.0.1:0")
        .expect("a free port");
    let url = format!("http://{}/", diagnostics.local_addr());
    let mut chromium = Chromium::start();
    for (width, dark) in [(360, true), (1280, false)] {
        let texts = assert_readable(&mut chromium, &url, width, dark);
        assert_says(
            &texts,
            &[
                "2 of 3 services not healthy",
                "<style>*{display:none}</style></p></main>",
                "later … initializing for ",
                "né ñ",
                "✓ healthy",
                "Metrics <script>",
                "1,234",
            ],
        );
    }
    assert_quiet(&mut chromium, &url);
    chromium.close();
}

#[test]
fn the_style_is_the_one_that_the_browser_is_allowed() {
    let tbot = Tbot::start();
    let request = http::request(tbot.address(), "/", "Accept: text/html\r\n");
    let page = http::end(http::begin(tbot.address(), &request));
    let (_, style) = page.text().split_once("<style>").expect("a style");
    let (style, _) = style.split_once("</style>").expect("it ends");
    let directory = tempfile::tempdir().expect("a directory for temporary files");
    let path = directory.path().join("style");
    std::fs::write(&path, style).expect("the directory is ours");
    let sum = succeed(Command::new("sha256sum").arg(&path));
    let digits = sum.split(' ').next().unwrap_or_default();
    let bytes: Vec<u8> = (0..32)
        .map(|at| u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).expect("two digits"))
        .collect();
    let hash = base64::engine::general_purpose::STANDARD.encode(bytes);
    let policy = page.header("Content-Security-Policy").unwrap_or_default();
    assert!(
        policy.contains(&format!("style-src 'sha256-{hash}';")),
        "{policy} is to have {hash}"
    );
}
