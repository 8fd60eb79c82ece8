//! A real browser without a window, driven by the DevTools protocol over two pipes: what a page looks like, and what
//! the browser has to say of it.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::process::Command;

use base64::Engine;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::process::Process;
use super::procfs;
use super::wait::until;

/// Whether this machine has one; Ubuntu's packages have none.
pub fn is_there() -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join("chromium").exists())
}

/// Pixels of a screenshot for each of CSS: as on a good screen, where thin strokes have their full colour.
const SCALE: f64 = 2.0;

/// A browser with one page.
pub struct Chromium {
    process: Process,
    session: Option<String>,
    last: u64,
    _directory: TempDir,
}

/// A rectangle of a page with a word in it, or with a part of one that was broken, in pixels of CSS.
#[derive(Debug)]
pub struct Text {
    pub text: String,
    pub size: f64,
    pub left: f64,
    pub top: f64,
    pub right: f64,
    pub bottom: f64,
}

/// What a page looks like.
pub struct Picture {
    width: usize,
    /// Of one pixel.
    samples: usize,
    bytes: Vec<u8>,
}

impl Chromium {
    /// It knows this machine alone, and forgets everything at its end.
    pub fn start() -> Self {
        let directory = TempDir::new().expect("a directory for temporary files");
        let mut command = Command::new("sh");
        // It reads descriptor 3 and writes descriptor 4.
        command.args(["-c", "exec \"$@\" 3<&0 4>&1 </dev/null >&2", "sh"]);
        command.args([
            "chromium",
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-breakpad",
            "--disable-sync",
            "--no-first-run",
            "--no-proxy-server",
            "--hide-scrollbars",
            "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
            "--remote-debugging-pipe",
        ]);
        command.arg(format!(
            "--user-data-dir={}",
            directory.path().join("data").display()
        ));
        command.env_clear().env("LANG", "C.UTF-8");
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        for name in ["HOME", "TMPDIR", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"] {
            command.env(name, directory.path());
        }
        let process = Process::spawn_with_input(command.current_dir(directory.path()));
        let mut chromium = Self {
            process,
            session: None,
            last: 0,
            _directory: directory,
        };
        let target = chromium.call("Target.createTarget", json!({"url": "about:blank"}));
        let id = &target["targetId"];
        let attached = json!({"targetId": id, "flatten": true});
        let attached = chromium.call("Target.attachToTarget", attached);
        chromium.session = attached["sessionId"].as_str().map(str::to_owned);
        for domain in ["Page", "Runtime", "Log", "Network"] {
            chromium.call(&format!("{domain}.enable"), json!({}));
        }
        chromium
    }

    /// The result of a method.
    fn call(&mut self, method: &str, parameters: Value) -> Value {
        self.last += 1;
        let mut message = json!({"id": self.last, "method": method, "params": parameters});
        if let Some(session) = &self.session {
            message["sessionId"] = json!(session);
        }
        let input = self.process.input();
        write!(input, "{message}\0").expect("the browser runs");
        input.flush().expect("the browser runs");
        let begin = format!("{{\"id\":{},", self.last);
        let answer = until(method, || {
            let said = self.process.stdout.so_far();
            // The last one may not be whole yet.
            let (whole, _) = said.rsplit_once('\0')?;
            let answer = whole.split('\0').find(|one| one.starts_with(&begin))?;
            Some(serde_json::from_str::<Value>(answer).expect("JSON"))
        });
        assert!(answer.get("error").is_none(), "{method}: {answer}");
        answer["result"].clone()
    }

    /// What it has told by itself, by the name of the event.
    pub fn events(&self, method: &str) -> Vec<Value> {
        let said = self.process.stdout.so_far();
        let (whole, _) = said.rsplit_once('\0').expect("it has said something");
        let begin = format!("{{\"method\":\"{method}\",");
        let events = whole.split('\0').filter(|one| one.starts_with(&begin));
        let events = events.map(|one| serde_json::from_str::<Value>(one).expect("JSON"));
        events.map(|event| event["params"].clone()).collect()
    }

    /// What a developer would see in its console.
    pub fn console(&self) -> Vec<Value> {
        [
            "Log.entryAdded",
            "Runtime.consoleAPICalled",
            "Runtime.exceptionThrown",
        ]
        .into_iter()
        .flat_map(|method| self.events(method))
        .collect()
    }

    /// The addresses that it has asked for something.
    pub fn requests(&self) -> Vec<String> {
        let requests = self.events("Network.requestWillBeSent");
        let url = |request: &Value| request["request"]["url"].as_str().map(str::to_owned);
        requests.iter().filter_map(url).collect()
    }

    /// As a window, or a telephone, so wide, for somebody who likes pages dark or light.
    pub fn look(&mut self, width: u32, height: u32, dark: bool) {
        let size = json!({
            "width": width, "height": height, "deviceScaleFactor": SCALE, "mobile": width < 600,
        });
        self.call("Emulation.setDeviceMetricsOverride", size);
        let scheme = if dark { "dark" } else { "light" };
        let media = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.call("Emulation.setEmulatedMedia", media);
    }

    /// Goes to a page, and is back when that is there.
    pub fn open(&mut self, url: &str) {
        let before = self.events("Page.loadEventFired").len();
        let gone = self.call("Page.navigate", json!({"url": url}));
        assert!(gone.get("errorText").is_none(), "{url}: {gone}");
        until(&format!("{url} is loaded"), || {
            (self.events("Page.loadEventFired").len() > before).then_some(())
        });
    }

    /// The value of an expression in JavaScript, as of a developer's console.
    pub fn value(&mut self, expression: &str) -> Value {
        let call = json!({"expression": expression, "returnByValue": true});
        let answer = self.call("Runtime.evaluate", call);
        assert!(
            answer.get("exceptionDetails").is_none(),
            "{expression}: {answer}"
        );
        answer["result"]["value"].clone()
    }

    /// All words of the page, a piece for each line that they are on.
    pub fn texts(&mut self) -> Vec<Text> {
        let found = self.value(
            "(() => {
                const found = [], texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
                for (let text; text = texts.nextNode();) {
                    const size = parseFloat(getComputedStyle(text.parentElement).fontSize);
                    for (const word of text.data.matchAll(/[^\\s]+/g)) {
                        const range = document.createRange();
                        range.setStart(text, word.index);
                        range.setEnd(text, word.index + word[0].length);
                        for (const at of range.getClientRects())
                            if (at.width > 1) found.push([word[0], size, at.left + scrollX,
                                at.top + scrollY, at.right + scrollX, at.bottom + scrollY]);
                    }
                }
                return found;
            })()",
        );
        let found = found.as_array().expect("a list").iter();
        let texts = found.map(|one| {
            let number = |at: usize| one[at].as_f64().expect("a number");
            Text {
                text: one[0].as_str().expect("text").to_owned(),
                size: number(1),
                left: number(2),
                top: number(3),
                right: number(4),
                bottom: number(5),
            }
        });
        texts.collect()
    }

    /// A screenshot of the whole page.
    pub fn picture(&mut self) -> Picture {
        let call = json!({"format": "png", "captureBeyondViewport": true});
        let shot = self.call("Page.captureScreenshot", call);
        let data = shot["data"].as_str().expect("base64");
        let data = base64::engine::general_purpose::STANDARD.decode(data);
        Picture::decode(&data.expect("base64"))
    }

    /// Ends it, with everything that it has started.
    pub fn close(mut self) {
        let family = procfs::descendants(self.process.pid());
        self.call("Browser.close", json!({}));
        self.process.exit();
        for pid in family {
            let path = format!("/proc/{}", pid.as_raw_pid());
            until("its processes end", || {
                (!std::path::Path::new(&path).exists()).then_some(())
            });
        }
    }
}

/// Whichever is nearest to where the three lead (PNG, 9.4).
fn paeth(left: u8, up: u8, corner: u8) -> u8 {
    let to = i16::from(left) + i16::from(up) - i16::from(corner);
    let far = |one: u8| (to - i16::from(one)).abs();
    // Of equals the first.
    [left, up, corner]
        .into_iter()
        .min_by_key(|one| far(*one))
        .unwrap_or(0)
}

impl Picture {
    /// Of a PNG file as Chromium writes them: 8 bits a sample, not interlaced. By hand, as a crate for it would change the
    /// features of those that the static program is built with.
    fn decode(mut file: &[u8]) -> Self {
        file.split_off(..8).expect("a signature");
        let (mut header, mut packed) = (&[][..], Vec::new());
        while let Some(length) = file.split_off(..4) {
            let length = u32::from_be_bytes(length.try_into().expect("four")) as usize;
            let kind = file.split_off(..4).expect("a kind");
            let data = file.split_off(..length).expect("a whole chunk");
            file.split_off(..4).expect("a check sum");
            match kind {
                b"IHDR" => header = data,
                b"IDAT" => packed.extend_from_slice(data),
                _ => {}
            }
        }
        let width = u32::from_be_bytes(header[..4].try_into().expect("four")) as usize;
        let samples = match header[8..] {
            [8, 2, 0, 0, 0] => 3,
            [8, 6, 0, 0, 0] => 4,
            ref other => panic!("a picture of another kind: {other:?}"),
        };
        let mut rows = Vec::new();
        let mut unpacked = flate2::read::ZlibDecoder::new(&packed[..]);
        unpacked.read_to_end(&mut rows).expect("it is whole");
        let mut bytes: Vec<u8> = Vec::new();
        let mut above = vec![0; width * samples];
        for row in rows.chunks_exact(1 + width * samples) {
            let mut line = row[1..].to_vec();
            for at in 0..line.len() {
                let before = |line: &[u8]| at.checked_sub(samples).map_or(0, |at| line[at]);
                let (left, up, corner) = (before(&line), above[at], before(&above));
                // What the sample is a difference to (PNG, 9.2).
                let predicted = match row[0] {
                    0 => 0,
                    1 => left,
                    2 => up,
                    3 => left.midpoint(up),
                    _ => paeth(left, up, corner),
                };
                line[at] = line[at].wrapping_add(predicted);
            }
            bytes.extend_from_slice(&line);
            above = line;
        }
        Self {
            width,
            samples,
            bytes,
        }
    }

    /// Its height in pixels of CSS.
    pub fn height(&self) -> f64 {
        (self.bytes.len() / self.samples / self.width) as f64 / SCALE
    }

    /// The brightness of the colour that most of it has, from 0 to 1.
    pub fn ground(&self) -> f64 {
        // Some of its pixels are enough for that.
        let pixels = self.bytes.chunks_exact(self.samples).step_by(31);
        brightness(most(&colours(pixels)))
    }

    /// The contrast of what is painted where this text is, to what is around it: 1 for nothing at all.
    pub fn contrast(&self, text: &Text) -> f64 {
        let pixel = |at: f64| (at * SCALE).round() as usize;
        let columns = pixel(text.left) * self.samples..pixel(text.right) * self.samples;
        let rows = self.bytes.chunks_exact(self.width * self.samples);
        let rows = rows.skip(pixel(text.top));
        let colours = colours(
            rows.take(pixel(text.bottom - text.top))
                .flat_map(|row| row[columns.clone()].chunks_exact(self.samples)),
        );
        let ground = brightness(most(&colours));
        let to_ground = |colour: &[u8]| {
            let one = brightness(colour);
            (one.max(ground) + 0.05) / (one.min(ground) + 0.05)
        };
        colours.into_keys().map(to_ground).fold(1.0, f64::max)
    }
}

/// How many pixels there are of each colour.
fn colours<'p>(pixels: impl Iterator<Item = &'p [u8]>) -> HashMap<&'p [u8], u32> {
    let mut counts = HashMap::new();
    // Most are as the one before.
    let (mut last, mut run) = (&[][..], 0);
    for pixel in pixels.chain([&[][..]]) {
        if pixel != last && run > 0 {
            *counts.entry(last).or_insert(0) += run;
            run = 0;
        }
        (last, run) = (pixel, run + 1);
    }
    counts
}

fn most<'p>(colours: &HashMap<&'p [u8], u32>) -> &'p [u8] {
    let most = colours.iter().max_by_key(|(_, count)| **count);
    most.expect("there are some").0
}

/// The relative luminance of WCAG 2.
fn brightness(pixel: &[u8]) -> f64 {
    let part = |value: u8| {
        let value = f64::from(value) / 255.0;
        match value <= 0.03928 {
            true => value / 12.92,
            false => ((value + 0.055) / 1.055).powf(2.4),
        }
    };
    0.2126 * part(pixel[0]) + 0.7152 * part(pixel[1]) + 0.0722 * part(pixel[2])
}
