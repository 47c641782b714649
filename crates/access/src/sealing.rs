//! Texts that are kept sealed: under a key of 256 bits, or under one that comes of a passphrase.
//!
//! ```text
//!  sealed = nonce (12, random) ‖ AES-256-GCM(key, nonce, text, with what it is) ‖ tag (16), in hexadecimal digits
//! ```
//! What the text is, its kind and its name, is sealed with it: in the place of another it does not open. A key has an id, by which one
//! that is not the right one is told from damage.

use std::fmt;

use aap_runtime::Secret;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use zeroize::Zeroizing;

use crate::issued::fill_random;
use crate::{RandomError, password};

/// AES-256.
const KEY_BYTES: usize = 32;
/// Of a digest, to tell a handful of keys apart.
const KEY_ID_BYTES: usize = 8;
/// What ids of keys are made with, apart from everything else that may come of them.
const KEY_ID_CONTEXT: &str = "aap 2026-12 ids of keys that seal secrets";

/// What texts are sealed and opened with.
pub struct SealingKey {
    id: String,
    key: LessSafeKey,
}

/// Its id only.
impl fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.id)
    }
}

/// With what a passphrase is made a key: as random as it is public, and kept beside what is sealed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Salt([u8; password::SALT_BYTES]);

impl Salt {
    /// A new one.
    ///
    /// # Errors
    /// [`RandomError`].
    pub fn mint() -> Result<Self, RandomError> {
        let mut salt = [0; password::SALT_BYTES];
        fill_random(&mut salt)?;
        Ok(Self(salt))
    }

    /// As it is kept.
    pub fn text(&self) -> String {
        hex(&self.0)
    }

    /// Reads what was kept; `None`: it is no salt.
    pub fn parse(text: &str) -> Option<Self> {
        Some(Self(unhex(text)?.try_into().ok()?))
    }
}

impl SealingKey {
    /// Makes the text of a new key: 64 hexadecimal digits and a line end.
    ///
    /// # Errors
    /// [`RandomError`].
    pub fn mint() -> Result<Zeroizing<String>, RandomError> {
        let mut key = Zeroizing::new([0; KEY_BYTES]);
        fill_random(key.as_mut_slice())?;
        Ok(Zeroizing::new(hex(key.as_slice()) + "\n"))
    }

    /// The key in a text; `None`: there is none in it.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = Zeroizing::new(unhex(text.trim())?);
        Some(Self::of(bytes.as_slice().try_into().ok()?))
    }

    /// The key that comes of a passphrase, by Argon2id at the cost of a password: some 30 ms, and 19 MiB of memory.
    pub fn of_passphrase(passphrase: &Secret, salt: &Salt) -> Self {
        let mut key = Zeroizing::new([0; KEY_BYTES]);
        password::stretch(passphrase, &salt.0, key.as_mut_slice());
        Self::of(&key)
    }

    fn of(bytes: &[u8; KEY_BYTES]) -> Self {
        let id = blake3::derive_key(KEY_ID_CONTEXT, bytes);
        let key = UnboundKey::new(&AES_256_GCM, bytes).expect("the length is that of the cipher");
        Self { id: hex(&id[..KEY_ID_BYTES]), key: LessSafeKey::new(key) }
    }

    /// Which key it is.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Seals a text as what it is.
    ///
    /// # Errors
    /// [`RandomError`].
    pub fn seal(&self, as_what: &str, text: &Secret) -> Result<String, RandomError> {
        let mut nonce = [0; NONCE_LEN];
        fill_random(&mut nonce)?;
        let mut bytes = Zeroizing::new(text.reveal().as_bytes().to_vec());
        let tag = self
            .key
            .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), aad(as_what), &mut bytes)
            .expect("a text in memory is less than the cipher takes");
        Ok([hex(&nonce), hex(&bytes), hex(tag.as_ref())].concat())
    }

    /// The text that was sealed as this; `None`: it was changed, is something else, or was sealed under another key.
    pub fn open(&self, as_what: &str, sealed: &str) -> Option<Secret> {
        let mut bytes = Zeroizing::new(unhex(sealed)?);
        let (nonce, sealed) = bytes.split_at_mut_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let opened = self.key.open_in_place(nonce, aad(as_what), sealed).ok()?;
        Some(Secret::from(std::str::from_utf8(opened).ok()?.to_owned()))
    }
}

fn aad(as_what: &str) -> Aad<&[u8]> {
    Aad::from(as_what.as_bytes())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let pairs = text.as_bytes().chunks(2);
    pairs
        .map(|pair| match pair {
            [high, low] => Some(digit(high)? << 4 | digit(low)?),
            _ => None,
        })
        .collect()
}
