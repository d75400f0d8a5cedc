//! Signatures: ed25519, with keys and signatures in minisign's format (<https://jedisct1.github.io/minisign/>).
//!
//! What this signs, the `minisign` program verifies, and the other way round. Written is the prehashed kind (`ED`, of the
//! BLAKE2b-512 digest of the file); read is the older one too (`Ed`, of the file itself). Secret keys with a password aren't
//! read: a build has nobody to ask. `minisign -C -W` takes the password away, `minisign -G -W` makes a key without one.

use super::hash::Digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use blake2::{Blake2b512, Digest as _};
use ed25519_dalek::{Signature as Ed25519, Signer as _, SigningKey, VerifyingKey};
use sha2::Sha256;
use std::fmt;
use std::io::{self, Read};

/// The ending of a signature beside what it signs.
pub const ENDING: &str = ".minisig";
/// Bytes of the largest file with a key or a signature.
pub const MAX_BYTES: u64 = 16 * 1024;

/// ed25519 of the file, which minisign made until version 0.9.
const LEGACY: &[u8] = b"Ed";
/// ed25519 of the file's BLAKE2b-512 digest.
const PREHASHED: &[u8] = b"ED";

/// Why a key or a signature is no good.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// The text isn't what minisign writes.
    #[error("not a {what} in minisign's format: {why}")]
    Format {
        /// What was expected.
        what: &'static str,
        /// What is wrong.
        why: &'static str,
    },
    /// The secret key is encrypted.
    #[error("the secret key has a password")]
    Password,
    /// Another key made the signature.
    #[error("signed with the key {signed}, not with {expected}")]
    OtherKey {
        /// Whose signature it is.
        signed: KeyId,
        /// Whose was asked for.
        expected: KeyId,
    },
    /// The file isn't what was signed.
    #[error("the signature is not of this file: it was changed, or the signature belongs to another")]
    Wrong,
    /// The comment isn't what was signed.
    #[error("the comment of the signature was changed")]
    Comment,
    /// The file can't be read.
    #[error("can't read it")]
    Read(#[source] io::Error),
}

/// Tells keys apart; it proves nothing.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct KeyId([u8; 8]);

impl fmt::Display for KeyId {
    /// As minisign shows it: a number, little-endian.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016X}", u64::from_le_bytes(self.0))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Who may have signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublicKey {
    id: KeyId,
    key: VerifyingKey,
}

/// Signs.
pub struct SecretKey {
    id: KeyId,
    key: SigningKey,
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretKey").field("id", &self.id).finish_non_exhaustive()
    }
}

impl PublicKey {
    /// Reads a key's file, or only its second line, as `minisign -P` takes it.
    ///
    /// # Errors
    ///
    /// [`SignError::Format`].
    pub fn parse(text: &str) -> Result<Self, SignError> {
        let wrong = |why| SignError::Format { what: "public key", why };
        let line = text.lines().map(str::trim).rfind(|line| !line.is_empty()).ok_or(wrong("it is empty"))?;
        let bytes = STANDARD.decode(line).map_err(|_| wrong("its last line is not base64"))?;
        let Some((kind, id, key)) = parts::<32>(&bytes) else { return Err(wrong("expected 42 bytes")) };
        if kind != LEGACY {
            return Err(wrong("not an ed25519 key"));
        }
        let key = VerifyingKey::from_bytes(&key).ok().filter(|key| !key.is_weak());
        Ok(Self { id: KeyId(id), key: key.ok_or(wrong("not a point of the curve, or a weak one"))? })
    }

    /// Which key it is.
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// The file that `minisign -p` reads.
    pub fn to_text(&self) -> String {
        let bytes = [LEGACY, &self.id.0, self.key.as_bytes()].concat();
        format!("untrusted comment: minisign public key {}\n{}\n", self.id, STANDARD.encode(bytes))
    }

    /// Whether the signature is this key's and the file's. Reads the file to its end; the answer has its SHA-256 digest, by
    /// which a later reader knows that it reads the same.
    ///
    /// # Errors
    ///
    /// What doesn't fit.
    pub fn verify(&self, signature: &Signature, file: &mut impl Read) -> Result<Digest, SignError> {
        if signature.id != self.id {
            return Err(SignError::OtherKey { signed: signature.id, expected: self.id });
        }
        let wrong = |_| SignError::Wrong;
        let mut tee = Tee { file, digest: Sha256::new() };
        if signature.prehashed {
            let hash = blake2b(&mut tee).map_err(SignError::Read)?;
            self.key.verify_strict(&hash, &signature.of_file).map_err(wrong)?;
        } else {
            let mut stream = self.key.verify_stream(&signature.of_file).map_err(wrong)?;
            each_part(&mut tee, |part| stream.update(part)).map_err(SignError::Read)?;
            stream.finalize_and_verify().map_err(wrong)?;
        }
        let signed = [&signature.of_file.to_bytes()[..], signature.comment.as_bytes()].concat();
        self.key.verify_strict(&signed, &signature.of_comment).map_err(|_| SignError::Comment)?;
        Ok(Digest::from_hash(tee.digest))
    }
}

impl SecretKey {
    /// A key from randomness: 32 bytes that nobody else may know, and 8 that tell it apart.
    pub fn new(seed: &[u8; 32], id: [u8; 8]) -> Self {
        Self { id: KeyId(id), key: SigningKey::from_bytes(seed) }
    }

    /// Its public key.
    pub fn public(&self) -> PublicKey {
        PublicKey { id: self.id, key: self.key.verifying_key() }
    }

    /// Reads a key's file.
    ///
    /// # Errors
    ///
    /// [`SignError::Password`] for a key that is encrypted, [`SignError::Format`].
    pub fn parse(text: &str) -> Result<Self, SignError> {
        let wrong = |why| SignError::Format { what: "secret key", why };
        let line = text.lines().map(str::trim).rfind(|line| !line.is_empty()).ok_or(wrong("it is empty"))?;
        let bytes = STANDARD.decode(line).map_err(|_| wrong("its last line is not base64"))?;
        // Kind, derivation of the password, checksum's kind, then salt and costs, of no use without a password.
        let head = bytes.get(..6).ok_or(wrong("too short"))?;
        match head {
            b"EdScB2" => return Err(SignError::Password),
            b"Ed\0\0B2" => {}
            _ => return Err(wrong("not an ed25519 key of a known kind")),
        }
        let rest: &[u8; 104] =
            bytes.get(54..).and_then(|rest| rest.try_into().ok()).ok_or(wrong("expected 158 bytes"))?;
        // The checksum at the end tells whether a password was right; without one, minisign writes zeros.
        let (id, rest) = rest.split_first_chunk::<8>().ok_or(wrong("too short"))?;
        let (key, _) = rest.split_first_chunk::<64>().ok_or(wrong("too short"))?;
        let key =
            SigningKey::from_keypair_bytes(key).map_err(|_| wrong("its halves don't belong together"))?;
        Ok(Self { id: KeyId(*id), key })
    }

    /// The file that `minisign -s` reads. Whoever has it can sign: only its owner may read it.
    pub fn to_text(&self) -> String {
        let pair = self.key.to_keypair_bytes();
        let bytes = [LEGACY, b"\0\0B2", &[0; 48], &self.id.0, &pair, &[0; 32]].concat();
        format!(
            "untrusted comment: minisign secret key without a password {}\n{}\n",
            self.id,
            STANDARD.encode(bytes)
        )
    }

    /// Signs a file: the text of its `.minisig`. The same file, key and comment give the same text.
    /// The comment is a line; it is signed too.
    ///
    /// # Errors
    ///
    /// [`SignError::Read`].
    pub fn sign(&self, file: &mut impl Read, comment: &str) -> Result<String, SignError> {
        let comment: String = comment.chars().filter(|c| !matches!(c, '\n' | '\r')).collect();
        let of_file = self.key.sign(&blake2b(file).map_err(SignError::Read)?).to_bytes();
        let of_comment = self.key.sign(&[&of_file[..], comment.as_bytes()].concat()).to_bytes();
        Ok(format!(
            "untrusted comment: signature from the key {}\n{}\ntrusted comment: {comment}\n{}\n",
            self.id,
            STANDARD.encode([PREHASHED, &self.id.0, &of_file].concat()),
            STANDARD.encode(of_comment),
        ))
    }
}

/// A signature, as a `.minisig` has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    id: KeyId,
    prehashed: bool,
    of_file: Ed25519,
    comment: String,
    of_comment: Ed25519,
}

impl Signature {
    /// Reads the four lines of a signature.
    ///
    /// # Errors
    ///
    /// [`SignError::Format`].
    pub fn parse(text: &str) -> Result<Self, SignError> {
        let wrong = |why| SignError::Format { what: "signature", why };
        let mut lines = text.lines();
        let (Some(_), Some(first), Some(comment), Some(second)) =
            (lines.next(), lines.next(), lines.next(), lines.next())
        else {
            return Err(wrong("expected four lines"));
        };
        let bytes = STANDARD.decode(first.trim()).map_err(|_| wrong("its second line is not base64"))?;
        let Some((kind, id, of_file)) = parts::<64>(&bytes) else { return Err(wrong("expected 74 bytes")) };
        if kind != LEGACY && kind != PREHASHED {
            return Err(wrong("not an ed25519 signature"));
        }
        let comment = comment.strip_prefix("trusted comment: ").ok_or(wrong("it has no trusted comment"))?;
        let second = STANDARD.decode(second.trim()).ok().and_then(|bytes| bytes.try_into().ok());
        Ok(Self {
            id: KeyId(id),
            prehashed: kind == PREHASHED,
            of_file: Ed25519::from_bytes(&of_file),
            comment: comment.to_owned(),
            of_comment: Ed25519::from_bytes(
                &second.ok_or(wrong("its fourth line is not 64 bytes of base64"))?,
            ),
        })
    }

    /// Whose it says it is.
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// The comment that was signed with the file; to be believed after [`PublicKey::verify`].
    pub fn comment(&self) -> &str {
        &self.comment
    }
}

/// Kind, key's number, and the rest.
fn parts<const N: usize>(bytes: &[u8]) -> Option<(&[u8], [u8; 8], [u8; N])> {
    let (kind, rest) = bytes.split_at_checked(2)?;
    let (id, rest) = rest.split_first_chunk::<8>()?;
    Some((kind, *id, rest.try_into().ok()?))
}

fn blake2b(file: &mut impl Read) -> io::Result<[u8; 64]> {
    let mut hash = Blake2b512::new();
    each_part(file, |part| hash.update(part))?;
    Ok(hash.finalize().into())
}

fn each_part(file: &mut impl Read, mut each: impl FnMut(&[u8])) -> io::Result<()> {
    let mut buffer = vec![0; 128 * 1024];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => each(buffer.get(..count).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Hashes what is read through it.
struct Tee<'a, R> {
    file: &'a mut R,
    digest: Sha256,
}

impl<R: Read> Read for Tee<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer)?;
        self.digest.update(buffer.get(..count).unwrap_or_default());
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> SecretKey {
        SecretKey::new(&[7; 32], *b"\x01\x02\x03\x04\x05\x06\x07\x08")
    }

    #[test]
    fn what_is_signed_verifies_and_nothing_else_does() {
        let key = key();
        let text = key.sign(&mut &b"content"[..], "file:a").unwrap();
        assert_eq!(text, key.sign(&mut &b"content"[..], "file:a").unwrap(), "the same each time");
        let signature = Signature::parse(&text).unwrap();
        let digest = key.public().verify(&signature, &mut &b"content"[..]).unwrap();
        assert_eq!(digest, Digest::of(b"content"));
        assert!(matches!(key.public().verify(&signature, &mut &b"Content"[..]), Err(SignError::Wrong)));
        let changed = Signature::parse(&text.replace("file:a", "file:b")).unwrap();
        assert!(matches!(key.public().verify(&changed, &mut &b"content"[..]), Err(SignError::Comment)));
        let other = SecretKey::new(&[8; 32], [9; 8]).public();
        assert!(matches!(other.verify(&signature, &mut &b"content"[..]), Err(SignError::OtherKey { .. })));
        // The same number doesn't make it the same key.
        let twin = SecretKey::new(&[8; 32], key.id.0).public();
        assert!(matches!(twin.verify(&signature, &mut &b"content"[..]), Err(SignError::Wrong)));
    }

    #[test]
    fn keys_survive_their_files() {
        let key = key();
        assert_eq!(key.public().id().to_string(), "0807060504030201");
        assert_eq!(SecretKey::parse(&key.to_text()).unwrap().public(), key.public());
        assert_eq!(PublicKey::parse(&key.public().to_text()).unwrap(), key.public());
        let line = key.public().to_text().lines().nth(1).unwrap().to_owned();
        assert_eq!(PublicKey::parse(&line).unwrap(), key.public());
        assert!(!format!("{key:?}").contains("07, 07"), "{key:?}");
    }

    #[test]
    fn what_is_no_key_is_refused() {
        let text = key().to_text();
        let line = text.lines().nth(1).unwrap();
        let mut bytes = STANDARD.decode(line).unwrap();
        bytes[2..4].copy_from_slice(b"Sc");
        assert!(matches!(SecretKey::parse(&STANDARD.encode(&bytes)), Err(SignError::Password)));
        for at in [0, 5, 62, 125] {
            let mut bytes = STANDARD.decode(line).unwrap();
            bytes[at] ^= 1;
            assert!(SecretKey::parse(&STANDARD.encode(bytes)).is_err(), "{at}");
        }
        for bad in ["", "x", "RWQ=", "untrusted comment: x\n"] {
            assert!(
                SecretKey::parse(bad).is_err()
                    && PublicKey::parse(bad).is_err()
                    && Signature::parse(bad).is_err()
            );
        }
        // The neutral element, for which every message verifies.
        let mut weak = [b"Ed".as_slice(), &[0; 8], &[0; 32]].concat();
        weak[10] = 1;
        assert!(PublicKey::parse(&STANDARD.encode(weak)).is_err());
    }
}
