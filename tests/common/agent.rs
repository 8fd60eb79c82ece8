//! The agent's protocol byte by byte (draft-ietf-sshm-ssh-agent).

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use super::keys::{Keys, await_healthy, with_identity};
use super::tbot::Tbot;
use super::wait::PATIENCE;

/// A tbot with a fresh key by `keys`' authority.
pub fn started(keys: &Keys) -> Tbot {
    let tbot = with_identity(&keys.ssh_ca("root"), "", "").start();
    await_healthy(&tbot, "identity");
    tbot
}

/// A connection by hand.
pub struct Raw(pub UnixStream);

impl Raw {
    pub fn to(tbot: &Tbot) -> Self {
        Self::to_path(&tbot.destination.join("agent.sock"))
    }

    pub fn to_path(path: &Path) -> Self {
        let stream = UnixStream::connect(path).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time");
        Self(stream)
    }

    pub fn ask(&mut self, message: &[u8]) -> Vec<u8> {
        self.0.write_all(&string(message)).expect("it is read");
        self.answer()
    }

    pub fn answer(&mut self) -> Vec<u8> {
        let mut length = [0; 4];
        self.0.read_exact(&mut length).expect("an answer");
        let mut answer = vec![0; u32::from_be_bytes(length) as usize];
        self.0.read_exact(&mut answer).expect("all of it");
        answer
    }

    /// The keys it lists.
    pub fn list(&mut self) -> Vec<Vec<u8>> {
        let answer = self.ask(&[11]);
        assert_eq!(answer[0], 12);
        let mut rest = &answer[5..];
        let mut strings = Vec::new();
        while let Some((length, after)) = rest.split_first_chunk::<4>() {
            let (string, after) = after.split_at(u32::from_be_bytes(*length) as usize);
            strings.push(string.to_vec());
            rest = after;
        }
        strings.into_iter().step_by(2).collect()
    }

    pub fn is_closed(&mut self) -> bool {
        let mut rest = Vec::new();
        self.0.read_to_end(&mut rest).is_ok() && rest.is_empty()
    }
}

/// RFC 4251, 5.
pub fn string(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u32).to_be_bytes()[..], bytes].concat()
}
