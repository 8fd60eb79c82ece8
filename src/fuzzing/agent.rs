//! Messages to `agent.sock`.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, OnceLock};

use rsa::signature::Verifier;
use ssh_key::private::{Ed25519Keypair, PrivateKey};
use ssh_key::{PublicKey, Signature};

use super::cuts;
use crate::identity::protocol::{Client, MAX_MESSAGE, take};
use crate::identity::{Credential, Identity, Key, agent};

/// Of a key that is in no use.
const SEED: [u8; 32] = *b"a key of fuzzing, never in use  ";

/// One whose credential is by that key.
fn identity() -> Identity {
    static IDENTITY: OnceLock<Identity> = OnceLock::new();
    let identity = IDENTITY.get_or_init(|| {
        let key = Key::new(PrivateKey::from(Ed25519Keypair::from_seed(&SEED)));
        let credential = Credential::new(key.expect("it can sign"), None);
        let identity = Identity::new();
        identity.replace(credential.expect("there is no certificate to be wrong"));
        identity
    });
    identity.clone()
}

fn credential() -> Arc<Credential> {
    identity().current().expect("it has one")
}

/// Every message has one answer, in its order and however the bytes were cut; signatures are right; nothing tells of
/// the key.
pub fn agent_messages(data: &[u8]) {
    let mut expected = Vec::new();
    let mut client = Client::default();
    for message in messages(data) {
        let answer = client.answer(Some(credential()), message);
        is_sound(message, &answer);
        expected.extend((answer.len() as u32).to_be_bytes());
        expected.extend(answer);
    }
    assert!(!expected.windows(SEED.len()).any(|bytes| bytes == SEED));
    // A thread each, so not everywhere.
    for at in cuts(data).into_iter().rev().step_by(4) {
        assert_eq!(served(&[&data[..at], &data[at..]]), expected, "cut at {at}");
    }
    // Without a credential there is nothing to sign by.
    let mut client = Client::default();
    for message in messages(data) {
        let answer = client.answer(None, message);
        assert!(
            matches!(answer[..], [5 | 6] | [12, 0, 0, 0, 0]),
            "{answer:?}"
        );
    }
}

/// The whole ones, up to one that ends a connection.
fn messages(mut data: &[u8]) -> Vec<&[u8]> {
    let mut messages = Vec::new();
    while let Some(message) = take(&mut data) {
        if message.is_empty() || message.len() > MAX_MESSAGE {
            break;
        }
        messages.push(message);
    }
    messages
}

/// What comes back from a connection.
fn served(pieces: &[&[u8]]) -> Vec<u8> {
    let (mut ours, its) = UnixStream::pair().expect("descriptors");
    let mut answers = Vec::new();
    std::thread::scope(|scope| {
        // It ends with the connection, which it closes then.
        scope.spawn(move || agent::serve(identity(), &its));
        for piece in pieces {
            // It may have hung up.
            ours.write_all(piece).ok();
        }
        ours.shutdown(Shutdown::Write).ok();
        // Over bytes that it has not read, its end is a reset.
        ours.read_to_end(&mut answers).ok();
    });
    answers
}

fn is_sound(message: &[u8], answer: &[u8]) {
    let key = credential().key().public().to_bytes().expect("a key");
    let mut body = &answer[1..];
    match (message[0], answer[0]) {
        (_, 5) | (27, 6) => assert_eq!(answer.len(), 1),
        (11, 12) => {
            body = &body[4..];
            assert_eq!(take(&mut body), Some(&key[..]));
            assert!(take(&mut body).is_some() && body.is_empty());
        }
        (13, 14) => {
            let mut asked = &message[1..];
            let blob = take(&mut asked).expect("it was read");
            let data = take(&mut asked).expect("it was read");
            assert_eq!(blob, key, "it signs by what it lists");
            let signature = Signature::try_from(take(&mut body).expect("a string"));
            let public = PublicKey::from_bytes(&key).expect("a key");
            let verified = public.key_data().verify(data, &signature.expect("one"));
            assert!(verified.is_ok() && body.is_empty());
        }
        (asked, answered) => panic!("{asked} is answered with {answered}"),
    }
}
