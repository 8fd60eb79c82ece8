//! A client of the v1 protocol, byte by byte where a test wants it.

use std::io::{ErrorKind, IoSlice, PipeReader, PipeWriter, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use super::tbot::Tbot;
use super::wait::{PATIENCE, finishes};

/// A connection without a request yet.
pub fn connect(tbot: &Tbot) -> UnixStream {
    try_connect(&tbot.socket()).expect("the multiplexer accepts")
}

/// A connection without a request yet, where it may be refused.
pub fn try_connect(socket: &Path) -> std::io::Result<UnixStream> {
    let stream = UnixStream::connect(socket)?;
    // So that a test that fails ends all the same.
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// A connection that asks for `target`: `host:port` or `host:port|cluster`.
pub fn dial(tbot: &Tbot, target: impl ToString) -> UnixStream {
    let mut stream = connect(tbot);
    stream
        .write_all(&request(target))
        .expect("the multiplexer reads");
    stream
}

/// A connection that asks for `target` and hands over where errors go.
pub fn dial_with_stderr(tbot: &Tbot, target: impl ToString) -> (UnixStream, Errors) {
    let stream = connect(tbot);
    let (errors, writer) = Errors::pipe();
    send_with_descriptors(&stream, &request(target), &[writer.as_fd()]);
    (stream, errors)
}

/// The bytes that ask for `target`.
pub fn request(target: impl ToString) -> Vec<u8> {
    let mut bytes = target.to_string().into_bytes();
    bytes.push(0);
    bytes
}

/// Sends `bytes`, with `descriptors` on the first of them.
pub fn send_with_descriptors(stream: &UnixStream, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) {
    let sent = try_send_with_descriptors(stream, bytes, descriptors);
    assert_eq!(sent, Ok(bytes.len()), "a request fits into the socket");
}

/// The same where it may fail.
pub fn try_send_with_descriptors(
    stream: &UnixStream,
    bytes: &[u8],
    descriptors: &[BorrowedFd<'_>],
) -> rustix::io::Result<usize> {
    const MOST: usize = 253;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(
        control.push(SendAncillaryMessage::ScmRights(descriptors)),
        "more than the kernel takes in one message"
    );
    sendmsg(
        stream,
        &[IoSlice::new(bytes)],
        &mut control,
        SendFlags::NOSIGNAL,
    )
}

/// The reading end of the pipe that stands for a client's stderr.
pub struct Errors(PipeReader);

impl Errors {
    /// With the writing end, of which the test keeps no copy once it is handed over.
    pub fn pipe() -> (Self, PipeWriter) {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        (Self(reader), writer)
    }

    /// Everything written there, once nobody has the writing end open any more.
    pub fn all(mut self) -> String {
        finishes(
            "the multiplexer closes the stderr it was given",
            move || {
                let mut text = String::new();
                self.0
                    .read_to_string(&mut text)
                    .expect("errors are in UTF-8");
                text
            },
        )
    }

    /// The one line a refused client gets, without anything in it that moves a terminal's cursor.
    /// Its end may be that of ssh's own messages, CR LF.
    pub fn one_line(self) -> String {
        let text = self.all();
        let line = text
            .strip_suffix('\n')
            .map(|line| line.trim_end_matches('\r'));
        let line = line.unwrap_or_else(|| panic!("{text:?} is no whole line"));
        assert!(
            line.starts_with("tbot: ") && !line.contains(char::is_control),
            "{text:?} is not one line of ours"
        );
        line.to_owned()
    }
}

/// Everything that comes until the other side ends; a connection closed over unread bytes ends too.
pub fn read_to_end(stream: &mut UnixStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        Err(error) => panic!("after {} bytes: {error}", bytes.len()),
    }
    bytes
}

/// Asserts that the multiplexer ends the connection without a byte.
pub fn assert_refused(stream: &mut UnixStream) {
    let bytes = read_to_end(stream);
    assert_eq!(bytes, b"", "a refused client gets no bytes");
}

/// Asserts that `bytes` sent on `stream` come back from an echoing target.
pub fn assert_echoes(stream: &mut UnixStream, bytes: &[u8]) {
    stream.write_all(bytes).expect("the multiplexer reads");
    let mut back = vec![0; bytes.len()];
    stream.read_exact(&mut back).expect("the target answers");
    assert_eq!(back, bytes);
}
