//! ECDSA keys as OpenSSH writes them, for `ssh-key` to read.
//!
//! The private number is written without leading zeros, and `ssh-key` 0.6.7 reads it at its full length only:
//! it refuses every second P-521 key, and one in 256 of the others. Here the zeros are put back.

use ssh_key::PrivateKey;
use zeroize::Zeroizing;

use super::protocol::{put, take};

const MAGIC: &[u8] = b"openssh-key-v1\0";

/// The key of a file that is not encrypted, from the bytes behind its base64 (PROTOCOL.key).
pub(super) fn read(bytes: &[u8]) -> Option<PrivateKey> {
    let mut rest = bytes.strip_prefix(MAGIC)?;
    let (cipher, kdf, options) = (take(&mut rest)?, take(&mut rest)?, take(&mut rest)?);
    let one = rest.split_off(..4)?;
    let (public, private) = (take(&mut rest)?, take(&mut rest)?);
    let is_plain = (cipher, kdf, options, one) == (b"none", b"none", b"", &[0, 0, 0, 1]);
    is_plain.then(|| of_sections(public, private))?
}

/// The key of the two sections of a file, the private one decrypted.
pub(super) fn of_sections(public: &[u8], private: &[u8]) -> Option<PrivateKey> {
    let mut rest = private;
    let checks = rest.split_off(..8)?;
    let (kind, curve) = (take(&mut rest)?, take(&mut rest)?);
    let (point, scalar) = (take(&mut rest)?, take(&mut rest)?);
    let comment = take(&mut rest)?;
    let length: usize = match curve {
        b"nistp256" => 32,
        b"nistp384" => 48,
        b"nistp521" => 66,
        _ => return None,
    };
    // Room for all of it at once: growing would leave copies behind.
    let room = || Zeroizing::new(Vec::with_capacity(private.len() + public.len() + 256));
    let mut section = room();
    section.extend(checks);
    put(&mut section, kind);
    put(&mut section, curve);
    put(&mut section, point);
    section.extend((length as u32).to_be_bytes());
    section.extend(std::iter::repeat_n(0, length.checked_sub(scalar.len())?));
    section.extend(scalar);
    put(&mut section, comment);
    for byte in 1..=(8 - section.len() % 8) % 8 {
        section.push(byte as u8);
    }
    let mut file = room();
    file.extend(MAGIC);
    put(&mut file, b"none");
    put(&mut file, b"none");
    put(&mut file, b"");
    file.extend(1_u32.to_be_bytes());
    put(&mut file, public);
    put(&mut file, &section);
    PrivateKey::from_bytes(&file).ok()
}
