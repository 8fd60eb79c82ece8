//! One stream of a master, asked for by OpenSSH's multiplexing protocol (PROTOCOL.mux, version 4).
//!
//! Everything is a packet: a length of 4 bytes, and that much; numbers are big-endian, and a string
//! is a length and that much. The conversation:
//!
//! | Who | Message | What follows its type |
//! |---|---|---|
//! | both | `MUX_MSG_HELLO` | version, and extensions that are ignored |
//! | we | `MUX_C_NEW_STDIO_FWD` | id, "", host, port (a number: PROTOCOL.mux calls it a string) |
//! | we | two single bytes | each with a descriptor: the stream's input and output |
//! | master | `MUX_S_SESSION_OPENED` | id, session: the target is connected |
//! | master | `MUX_S_FAILURE`, `MUX_S_PERMISSION_DENIED` | id, reason |
//!
//! All of ours is sent at once, since the master takes the descriptors with a read that blocks it. The
//! connection stays open as long as the stream; its end is the stream's end.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, recv, send, sendmsg,
};

const HELLO: u32 = 1;
const NEW_STDIO_FWD: u32 = 0x1000_0008;
const PERMISSION_DENIED: u32 = 0x8000_0002;
const FAILURE: u32 = 0x8000_0003;
const SESSION_OPENED: u32 = 0x8000_0006;

const VERSION: u32 = 4;

/// Each connection asks for one thing.
const REQUEST: u32 = 1;

/// A greeting and an answer have some tens of bytes.
const LONGEST: usize = 4096;

/// A stream that was asked for.
#[derive(Debug)]
pub struct Opening {
    control: OwnedFd,
    read: Vec<u8>,
    greeted: bool,
}

/// What the master said to it.
#[derive(Debug, PartialEq, Eq)]
pub enum Reply {
    /// Nothing yet.
    None,
    /// The target is connected, and the master carries its bytes.
    Opened,
    /// It is not; what the master said of it, which is always the same.
    Refused,
    /// The master is gone, and may have begun with it.
    Lost,
    /// It is gone, and has not even greeted.
    Unheard,
    /// It speaks another language: what is wrong with it.
    Wrong(&'static str),
}

impl Opening {
    /// Asks, by a connected non-blocking control connection, for `host` and `port` to be connected to
    /// `client`.
    pub fn begin(
        control: OwnedFd,
        host: &str,
        port: u16,
        client: BorrowedFd<'_>,
    ) -> Result<Self, Errno> {
        let mut bytes = packet(&[number(HELLO), number(VERSION)]);
        bytes.extend(packet(&[
            number(NEW_STDIO_FWD),
            number(REQUEST),
            string(""),
            string(host),
            number(port.into()),
        ]));
        // A fresh socket has room for all of it.
        if send(&control, &bytes, SendFlags::NOSIGNAL)? < bytes.len() {
            return Err(Errno::NOBUFS);
        }
        for _ in ["input", "output"] {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut message = SendAncillaryBuffer::new(&mut space);
            let descriptors = [client];
            message.push(SendAncillaryMessage::ScmRights(&descriptors));
            let byte = [IoSlice::new(&[0])];
            sendmsg(&control, &byte, &mut message, SendFlags::NOSIGNAL)?;
        }
        Ok(Self {
            control,
            read: Vec::new(),
            greeted: false,
        })
    }

    /// Reads what is there.
    pub fn read(&mut self) -> Reply {
        loop {
            match self.reply() {
                Reply::None => {}
                reply => return reply,
            }
            let mut buffer = [0; 512];
            match recv(&self.control, &mut buffer, RecvFlags::DONTWAIT) {
                Ok((_, 0)) => return self.lost(),
                Ok((_, length)) => self.read.extend_from_slice(&buffer[..length]),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Reply::None,
                Err(_) => return self.lost(),
            }
        }
    }

    fn lost(&self) -> Reply {
        match self.greeted {
            true => Reply::Lost,
            false => Reply::Unheard,
        }
    }

    /// The control connection, whose end is the stream's.
    pub fn into_control(self) -> OwnedFd {
        self.control
    }

    /// What the whole packets that were read say.
    fn reply(&mut self) -> Reply {
        while let Some((length, rest)) = self.read.split_first_chunk::<4>() {
            let length = u32::from_be_bytes(*length) as usize;
            if length > LONGEST {
                return Reply::Wrong("a message of it is too long");
            }
            let Some(body) = rest.get(..length) else {
                break;
            };
            let mut words = body.chunks_exact(4).map(|word| {
                u32::from_be_bytes(word.try_into().expect("chunks_exact gives four bytes"))
            });
            match (words.next(), words.next(), self.greeted) {
                (Some(HELLO), Some(VERSION), false) => self.greeted = true,
                (Some(HELLO), _, false) => return Reply::Wrong("it speaks another version"),
                (Some(SESSION_OPENED), Some(REQUEST), true) => return Reply::Opened,
                (Some(FAILURE | PERMISSION_DENIED), Some(REQUEST), true) => return Reply::Refused,
                _ => return Reply::Wrong("a message of it is not one of the protocol"),
            }
            self.read.drain(..4 + length);
        }
        Reply::None
    }
}

impl AsFd for Opening {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.control.as_fd()
    }
}

/// Throws away what a master says of an open stream; false once it has ended.
pub fn goes_on(control: BorrowedFd<'_>) -> bool {
    !matches!(
        recv(control, &mut [0; 512], RecvFlags::DONTWAIT),
        Ok((_, 0)) | Err(Errno::CONNRESET | Errno::PIPE)
    )
}

fn number(number: u32) -> Vec<u8> {
    number.to_be_bytes().to_vec()
}

fn string(text: &str) -> Vec<u8> {
    packet(&[text.into()])
}

fn packet(parts: &[Vec<u8>]) -> Vec<u8> {
    let body = parts.concat();
    [&(body.len() as u32).to_be_bytes(), &body[..]].concat()
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use super::*;

    /// A stream that was asked for, and the master's end.
    fn asked() -> (Opening, UnixStream) {
        let (ours, mut master) = UnixStream::pair().expect("a pair");
        let client = std::io::stdin();
        let opening = Opening::begin(ours.into(), "db1", 22, client.as_fd()).expect("room");
        let mut sent = [0; 41];
        master.read_exact(&mut sent).expect("all of it was sent");
        let expected = b"\0\0\0\x08\0\0\0\x01\0\0\0\x04\
            \0\0\0\x17\x10\0\0\x08\0\0\0\x01\0\0\0\0\0\0\0\x03db1\0\0\0\x16\0\0";
        assert_eq!(sent[..sent.len() - 2], expected[..expected.len() - 2]);
        (opening, master)
    }

    fn hello() -> Vec<u8> {
        packet(&[number(HELLO), number(VERSION), string("x"), string("y")])
    }

    #[test]
    fn an_answer_comes_in_many_pieces() {
        let (mut opening, mut master) = asked();
        let answer = [
            hello(),
            packet(&[number(SESSION_OPENED), number(REQUEST), number(7)]),
        ];
        let answer = answer.concat();
        for byte in &answer[..answer.len() - 1] {
            assert_eq!(opening.read(), Reply::None);
            master.write_all(&[*byte]).expect("room");
        }
        assert_eq!(opening.read(), Reply::None);
        master.write_all(&answer[answer.len() - 1..]).expect("room");
        assert_eq!(opening.read(), Reply::Opened);
    }

    #[test]
    fn a_refusal_and_an_end_are_told_apart() {
        for (kind, expected) in [
            (FAILURE, Reply::Refused),
            (PERMISSION_DENIED, Reply::Refused),
        ] {
            let (mut opening, mut master) = asked();
            let refused = packet(&[number(kind), number(REQUEST), string("no")]);
            master
                .write_all(&[hello(), refused].concat())
                .expect("room");
            assert_eq!(opening.read(), expected);
        }
        let (mut opening, mut master) = asked();
        master.write_all(&hello()).expect("room");
        drop(master);
        assert_eq!(opening.read(), Reply::Lost);
        let (mut opening, master) = asked();
        drop(master);
        assert_eq!(opening.read(), Reply::Unheard);
    }

    #[test]
    fn a_hostile_answer_is_none() {
        for bytes in [
            vec![0xff; 8],
            packet(&[number(HELLO), number(3)]),
            packet(&[number(HELLO)]),
            packet(&[]),
            // Opened before the greeting, for another one, and greeted twice.
            packet(&[number(SESSION_OPENED), number(REQUEST), number(7)]),
            [hello(), packet(&[number(SESSION_OPENED), number(2)])].concat(),
            [hello(), hello()].concat(),
            [hello(), packet(&[vec![1, 2, 3]])].concat(),
        ] {
            let (mut opening, mut master) = asked();
            master.write_all(&bytes).expect("room");
            let reply = opening.read();
            assert!(matches!(reply, Reply::Wrong(_)), "{bytes:?}: {reply:?}");
        }
    }
}
