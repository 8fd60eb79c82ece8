//! Clients of every kind. `None`: it did not come to the end that it would have come to on a quiet day.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use super::{Random, Stage};
use crate::common::keys::ssh;
use crate::common::process::Process;
use crate::common::v1::{request, try_send_with_descriptors};

pub type Client = fn(&Stage, &mut Random) -> Option<()>;

/// Each with how many of them there are at once.
pub const CLIENTS: [(&str, Client, usize); 15] = [
    ("direct", direct, 3),
    ("by bastion", by_bastion, 3),
    ("ssh", session, 1),
    ("half-closing", half_closing, 2),
    ("dribbling", dribbling, 4),
    ("never reading", never_reading, 2),
    ("no target", no_target, 1),
    ("garbage", garbage, 1),
    ("descriptors", descriptors, 1),
    ("leaving", leaving, 3),
    ("agent", agent, 2),
    ("http garbage", http_garbage, 1),
    ("slowloris", slowloris, 1),
    ("waiting", waiting, 1),
    ("scraping", scraping, 1),
];

const PATIENCE: Duration = Duration::from_secs(10);

fn connect(stage: &Stage, socket: &str) -> Option<UnixStream> {
    let stream = UnixStream::connect(stage.tbot.destination.join(socket)).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    stream.set_write_timeout(Some(PATIENCE)).ok()?;
    Some(stream)
}

/// A connection to the echo.
fn dial_by(stage: &Stage, cluster: &str) -> Option<UnixStream> {
    let mut stream = connect(stage, "v1.sock")?;
    let target = request(format!("{}|{cluster}", stage.echo.address));
    stream.write_all(&target).ok()?;
    Some(stream)
}

/// One connection for some messages of any size that a socket has room for.
fn echoes(stream: &mut UnixStream, random: &mut Random) -> Option<()> {
    for _ in 0..=random.below(8) {
        let bytes = random.bytes(30_000);
        stream.write_all(&bytes).ok()?;
        let mut back = vec![0; bytes.len()];
        stream.read_exact(&mut back).ok()?;
        assert!(back == bytes, "something else came back");
    }
    Some(())
}

fn direct(stage: &Stage, random: &mut Random) -> Option<()> {
    echoes(&mut dial_by(stage, "near")?, random)
}

fn by_bastion(stage: &Stage, random: &mut Random) -> Option<()> {
    echoes(&mut dial_by(stage, "prod")?, random)
}

/// A real one, by the bastion or not.
fn session(stage: &Stage, random: &mut Random) -> Option<()> {
    let host = ["127.0.0.1.near", "127.0.0.1.prod"][random.below(2)];
    let mut ssh = ssh(&stage.tbot, &stage.target, host, "echo up");
    let (mut session, began) = (Process::spawn(&mut ssh), Instant::now());
    while session.ended().is_none() && began.elapsed() < 2 * PATIENCE {
        random.pause(20);
    }
    random.pause(1000);
    let went_well = session.ended()?.success() && session.stdout.all() == "up\n";
    went_well.then_some(())
}

fn half_closing(stage: &Stage, random: &mut Random) -> Option<()> {
    // A master closes both ways, once its target has closed one.
    let mut stream = dial_by(stage, "near")?;
    let bytes = random.bytes(30_000);
    stream.write_all(&bytes).ok()?;
    stream.shutdown(Shutdown::Write).ok()?;
    let mut back = Vec::new();
    stream.read_to_end(&mut back).ok()?;
    (back == bytes).then_some(())
}

/// The request byte by byte, and as often as not only some of it.
fn dribbling(stage: &Stage, random: &mut Random) -> Option<()> {
    let mut stream = connect(stage, "v1.sock")?;
    let whole = request(format!("{}|near", stage.echo.address));
    let some = random.below(2 * whole.len()).min(whole.len());
    for byte in &whole[..some] {
        stream.write_all(&[*byte]).ok()?;
        random.pause(60);
        if !stage.goes_on() {
            return None;
        }
    }
    match some == whole.len() {
        true => echoes(&mut stream, random),
        false => Some(()),
    }
}

/// Writes until nobody takes more, and leaves.
fn never_reading(stage: &Stage, random: &mut Random) -> Option<()> {
    // By a bastion, OpenSSH holds such a stream until the target gives up, and tbot has no hand in it.
    let mut stream = dial_by(stage, "near")?;
    stream
        .set_write_timeout(Some(Duration::from_millis(300)))
        .ok()?;
    let bytes = random.bytes(60_000);
    loop {
        match stream.write(&bytes) {
            Ok(_) if stage.goes_on() => {}
            Ok(_) => return None,
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(_) => return None,
        }
    }
    random.pause(500);
    Some(())
}

/// One line of why, on a stderr that came along.
fn no_target(stage: &Stage, random: &mut Random) -> Option<()> {
    let (mut reader, writer) = std::io::pipe().ok()?;
    let mut stream = connect(stage, "v1.sock")?;
    let cluster = ["near", "prod", "nowhere"][random.below(3)];
    let target = request(format!("{}|{cluster}", stage.closed.address));
    try_send_with_descriptors(&stream, &target, &[writer.as_fd()]).ok()?;
    drop(writer);
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).ok()?;
    assert!(rest.is_empty(), "a refused client gets no bytes");
    let mut line = String::new();
    reader.read_to_string(&mut line).ok()?;
    let is_one = line.starts_with("tbot: ") && line.lines().count() == 1;
    is_one.then_some(())
}

/// Any bytes, with a NUL among them or none in what a request may have.
fn garbage(stage: &Stage, random: &mut Random) -> Option<()> {
    let mut stream = connect(stage, "v1.sock")?;
    let mut bytes = random.bytes(8000);
    if random.below(2) == 0 {
        bytes.iter_mut().for_each(|byte| *byte |= 1);
        bytes.resize(5000, b'a');
    }
    bytes.push(0);
    // It may be refused before the end.
    stream.write_all(&bytes).ok();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).ok();
    assert!(rest.is_empty(), "nobody answers to garbage");
    Some(())
}

/// As many as one message takes, with bytes that are a request or none.
fn descriptors(stage: &Stage, random: &mut Random) -> Option<()> {
    let stream = connect(stage, "v1.sock")?;
    let null = File::open("/dev/null").ok()?;
    let (pair, _other) = UnixStream::pair().ok()?;
    let (reader, writer) = std::io::pipe().ok()?;
    let kinds = [
        null.as_fd(),
        pair.as_fd(),
        reader.as_fd(),
        writer.as_fd(),
        stream.as_fd(),
    ];
    let any = |_| kinds[random.below(kinds.len())];
    let many: Vec<_> = (0..200).map(any).collect();
    let target = request(format!("{}|near", stage.echo.address));
    let bytes: &[u8] = if random.below(2) == 0 { b"x" } else { &target };
    for _ in 0..=random.below(5) {
        try_send_with_descriptors(&stream, bytes, &many[..1 + random.below(200)]).ok()?;
    }
    Some(())
}

/// At any moment: before a byte, in a request, behind it, in the answer.
fn leaving(stage: &Stage, random: &mut Random) -> Option<()> {
    let mut stream = connect(stage, "v1.sock")?;
    let cluster = ["near", "prod"][random.below(2)];
    let mut bytes = request(format!("{}|{cluster}", stage.echo.address));
    bytes.extend(random.bytes(20_000));
    let most = [30.min(bytes.len()), bytes.len()][random.below(2)];
    let some = random.below(most);
    stream.write_all(&bytes[..some]).ok()?;
    if random.below(2) == 0 {
        random.pause(5);
    }
    Some(())
}

/// A list, and then nonsense: a message that is cut, or too long, or of nobody's protocol.
fn agent(stage: &Stage, random: &mut Random) -> Option<()> {
    let mut stream = connect(stage, "agent.sock")?;
    stream.write_all(&[0, 0, 0, 1, 11]).ok()?;
    let mut length = [0; 4];
    stream.read_exact(&mut length).ok()?;
    let mut list = vec![0; u32::from_be_bytes(length) as usize];
    stream.read_exact(&mut list).ok()?;
    stream
        .set_read_timeout(Some(Duration::from_millis(300)))
        .ok()?;
    let mut bytes = random.bytes(300);
    if random.below(2) == 0 {
        bytes.splice(
            ..0,
            [
                0,
                0,
                0,
                bytes.len() as u8,
                [11, 13, 17, 27][random.below(4)],
            ],
        );
    }
    stream.write_all(&bytes).ok()?;
    while stream.read(&mut [0; 1000]).is_ok_and(|length| length > 0) {}
    (list[0] == 12).then_some(())
}

fn http(stage: &Stage) -> Option<TcpStream> {
    let stream = TcpStream::connect(stage.tbot.address()).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    stream.set_write_timeout(Some(PATIENCE)).ok()?;
    Some(stream)
}

fn http_garbage(stage: &Stage, random: &mut Random) -> Option<()> {
    let mut stream = http(stage)?;
    let bytes: Vec<u8> = match random.below(6) {
        0 => random.bytes(3000),
        1 => b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03".to_vec(),
        2 => b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        3 => format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(20_000)).into(),
        4 => b"POST /debug/pprof/symbol HTTP/1.0\r\nContent-Length: 4000\r\n\r\n0x1".to_vec(),
        _ => b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n".repeat(50),
    };
    stream.write_all(&bytes).ok();
    stream.shutdown(Shutdown::Write).ok();
    stream.read_to_end(&mut Vec::new()).ok();
    Some(())
}

/// Many heads that never come to an end.
fn slowloris(stage: &Stage, random: &mut Random) -> Option<()> {
    let mut streams: Vec<TcpStream> = (0..20).filter_map(|_| http(stage)).collect();
    for byte in b"GET /livez HTTP/1.1\r\nX: xxxxxxxxxxxxxxx" {
        streams.retain_mut(|stream| stream.write_all(&[*byte]).is_ok());
        random.pause(100);
        if !stage.goes_on() {
            break;
        }
    }
    Some(())
}

/// Many who ask, and read no answer.
fn waiting(stage: &Stage, random: &mut Random) -> Option<()> {
    let mut streams: Vec<TcpStream> = (0..30).filter_map(|_| http(stage)).collect();
    for stream in &mut streams {
        stream
            .write_all(b"GET /wait HTTP/1.1\r\nHost: localhost\r\n\r\n")
            .ok();
    }
    random.pause(1000);
    Some(())
}

fn scraping(stage: &Stage, random: &mut Random) -> Option<()> {
    const PATHS: [&str; 9] = [
        "/metrics",
        "/metrics",
        "/readyz",
        "/readyz/mux",
        "/wait",
        "/debug/pprof/",
        "/debug/pprof/threads?debug=1",
        "/debug/pprof/flamegraph?seconds=1",
        "/debug/pprof/profile?seconds=1",
    ];
    let mut stream = http(stage)?;
    let path = PATHS[random.below(PATHS.len())];
    let head = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    let is_whole = answer.starts_with(b"HTTP/1.1 200 ") || answer.starts_with(b"HTTP/1.1 503 ");
    random.pause(300);
    is_whole.then_some(())
}
