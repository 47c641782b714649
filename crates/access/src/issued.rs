//! Secrets that the platform issues: session tokens, API tokens and enrolment tokens, in one form.
//!
//! ```text
//!  aapt_ 7mKq03TzRw9e _ Vd…43 letters…x 2PqW0a
//!  kind  id             secret          CRC-32 of all before it
//! ```
//! The letters are 0-9, A-Z, a-z: a secret has 43 random ones, which is 256 bits. By the prefix a scanner of repositories knows one
//! that leaked, and by the checksum it knows that it is none that was made up; `parse` tells a mistyped one from a wrong one. The
//! record of a secret holds its id, and its hash under a key of the installation. Random as it is, it needs no slow hash.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

const LETTERS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
/// Random bytes from here on are thrown away, so that every letter is equally likely.
const FAIR_BYTES: u8 = 248;
/// 71 bits: no two of any number of secrets that will ever be issued have one id.
const ID_LETTERS: usize = 12;
/// 256 bits.
const SECRET_LETTERS: usize = 43;
/// As many as a CRC-32 needs.
pub(crate) const CHECK_LETTERS: usize = 6;
const PREFIX_LETTERS: usize = 5;
/// Every secret is as long as every other.
pub(crate) const ISSUED_LETTERS: usize = PREFIX_LETTERS + ID_LETTERS + 1 + SECRET_LETTERS + CHECK_LETTERS;
/// Of 64 bits: installations that share a server are a handful.
const NAME_DIGITS: usize = 16;
/// What the name of an installation is made with.
const NAME_CONTEXT: &str = "aap 2026-11 name of an installation";
/// What hashes of issued secrets are made with, apart from everything else that may come of the installation's key.
const HASH_CONTEXT: &str = "aap 2026-12 hashes of issued secrets";

/// What a secret is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum IssuedKind {
    /// For programs of a user.
    ApiToken,
    /// For a user who logged in.
    Session,
    /// For a machine that becomes a node.
    Enrolment,
}

impl IssuedKind {
    const ALL: [Self; 3] = [Self::ApiToken, Self::Session, Self::Enrolment];

    /// What every secret of the kind begins with.
    pub const fn prefix(self) -> &'static str {
        match self {
            Self::ApiToken => "aapt_",
            Self::Session => "aaps_",
            Self::Enrolment => "aape_",
        }
    }
}

/// The system gives no random numbers.
#[derive(Debug, thiserror::Error)]
#[error("the system gives no random numbers")]
pub struct RandomError(#[source] rustix::io::Errno);

/// Why a text is no secret of ours. It never repeats the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotIssued {
    /// Another form altogether.
    #[error("it is no token of this platform")]
    Form,
    /// One for something else.
    #[error("it is a token of another kind: it begins with `{}`", .0.prefix())]
    Kind(IssuedKind),
    /// Right form, wrong checksum.
    #[error("it was mistyped or cut off: its checksum is wrong")]
    Checksum,
}

/// What a secret is known by. No secret itself.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct IssuedId(String);

impl IssuedId {
    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for IssuedId {
    type Err = NotIssued;
    fn from_str(text: &str) -> Result<Self, NotIssued> {
        let is_one = text.len() == ID_LETTERS && is_letters(text);
        if is_one { Ok(Self(text.to_owned())) } else { Err(NotIssued::Form) }
    }
}

impl TryFrom<String> for IssuedId {
    type Error = NotIssued;
    fn try_from(text: String) -> Result<Self, NotIssued> {
        text.parse()
    }
}

impl From<IssuedId> for String {
    fn from(id: IssuedId) -> String {
        id.0
    }
}

impl fmt::Display for IssuedId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for IssuedId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An issued secret. Shown once, to whom it is issued; wiped from memory when it is dropped; prints without the secret part.
pub struct IssuedSecret {
    kind: IssuedKind,
    id: IssuedId,
    text: Zeroizing<String>,
}

impl IssuedSecret {
    /// A new one.
    ///
    /// # Errors
    /// [`RandomError`].
    pub fn mint(kind: IssuedKind) -> Result<Self, RandomError> {
        let mut text = Zeroizing::new(String::with_capacity(ISSUED_LETTERS));
        text.push_str(kind.prefix());
        push_random(&mut text, ID_LETTERS)?;
        let id = IssuedId(text[PREFIX_LETTERS..].to_owned());
        text.push('_');
        push_random(&mut text, SECRET_LETTERS)?;
        let check = checksum(&text);
        text.push_str(&check);
        Ok(Self { kind, id, text })
    }

    /// The secret that a text is.
    ///
    /// # Errors
    /// [`NotIssued`]; whether anybody issued it, only its record can tell.
    pub fn parse(kind: IssuedKind, text: &str) -> Result<Self, NotIssued> {
        let found = IssuedKind::ALL.into_iter().find(|kind| text.starts_with(kind.prefix()));
        if text.len() != ISSUED_LETTERS || !text.is_ascii() {
            return Err(NotIssued::Form);
        }
        let (id, rest) = text[PREFIX_LETTERS..].split_at(ID_LETTERS);
        let is_formed = rest.strip_prefix('_').is_some_and(is_letters);
        let (Some(found), Ok(id), true) = (found, id.parse(), is_formed) else { return Err(NotIssued::Form) };
        if found != kind {
            return Err(NotIssued::Kind(found));
        }
        let (body, check) = text.split_at(ISSUED_LETTERS - CHECK_LETTERS);
        if checksum(body) != check {
            return Err(NotIssued::Checksum);
        }
        Ok(Self { kind, id, text: Zeroizing::new(text.to_owned()) })
    }

    /// What it is for.
    pub fn kind(&self) -> IssuedKind {
        self.kind
    }

    /// What its record is found by.
    pub fn id(&self) -> &IssuedId {
        &self.id
    }

    /// The secret itself, to be shown once or handed to whoever checks it.
    pub fn reveal(&self) -> &str {
        &self.text
    }
}

impl fmt::Debug for IssuedSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}_***", self.kind.prefix(), self.id)
    }
}

/// The key of an installation under which issued secrets are hashed: hashes that leak are worth nothing elsewhere, and none can be
/// made without it.
pub struct HashKey(Zeroizing<[u8; 32]>);

impl HashKey {
    /// The key that follows from a secret of the installation, of at least 32 random bytes.
    pub fn derive(installation: &[u8]) -> Self {
        Self(Zeroizing::new(blake3::derive_key(HASH_CONTEXT, installation)))
    }

    /// What the record of a secret keeps. It covers kind and id too, so a hash is of one secret in one place.
    pub fn hash(&self, secret: &IssuedSecret) -> SecretHash {
        SecretHash(blake3::keyed_hash(&self.0, secret.text.as_bytes()))
    }

    /// What records of installations that share a server are told apart by: it follows from the key, and tells nothing of it.
    pub fn name(&self) -> String {
        let digest = blake3::Hash::from(blake3::derive_key(NAME_CONTEXT, self.0.as_slice()));
        digest.to_hex()[..NAME_DIGITS].to_owned()
    }
}

impl fmt::Debug for HashKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// The hash of an issued secret. Two are compared in constant time, as `blake3::Hash` promises.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SecretHash(blake3::Hash);

impl TryFrom<String> for SecretHash {
    type Error = blake3::HexError;
    fn try_from(text: String) -> Result<Self, blake3::HexError> {
        blake3::Hash::from_hex(text).map(Self)
    }
}

impl From<SecretHash> for String {
    fn from(hash: SecretHash) -> String {
        hash.0.to_string()
    }
}

impl fmt::Debug for SecretHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// A digest of 256 bits by which a public key or a certificate authority is known. No secret.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Fingerprint(pub [u8; 32]);

impl FromStr for Fingerprint {
    type Err = blake3::HexError;
    fn from_str(text: &str) -> Result<Self, blake3::HexError> {
        blake3::Hash::from_hex(text).map(|hash| Self(hash.into()))
    }
}

impl TryFrom<String> for Fingerprint {
    type Error = blake3::HexError;
    fn try_from(text: String) -> Result<Self, blake3::HexError> {
        text.parse()
    }
}

impl From<Fingerprint> for String {
    fn from(fingerprint: Fingerprint) -> String {
        fingerprint.to_string()
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

fn is_letters(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

/// Appends random letters. The text must have room: what it leaves behind when it grows is not wiped.
fn push_random(text: &mut String, letters: usize) -> Result<(), RandomError> {
    let end = text.len() + letters;
    let mut bytes = Zeroizing::new([0; SECRET_LETTERS]);
    while text.len() < end {
        fill_random(&mut bytes[..])?;
        let fair = bytes.iter().filter(|byte| **byte < FAIR_BYTES);
        let wanted = end - text.len();
        text.extend(fair.take(wanted).map(|byte| char::from(LETTERS[usize::from(byte % 62)])));
    }
    Ok(())
}

/// Fills `bytes` from the system, which gives so few of them whole.
pub(crate) fn fill_random(bytes: &mut [u8]) -> Result<(), RandomError> {
    let none = rustix::rand::GetRandomFlags::empty();
    let got =
        rustix::io::retry_on_intr(|| rustix::rand::getrandom(&mut *bytes, none)).map_err(RandomError)?;
    if got == bytes.len() { Ok(()) } else { Err(RandomError(rustix::io::Errno::IO)) }
}

/// The CRC-32 of a text (the one of zip and Ethernet) in letters, the highest first.
pub(crate) fn checksum(text: &str) -> String {
    let mut rest = crc32fast::hash(text.as_bytes());
    let mut letters = ['0'; CHECK_LETTERS];
    for letter in letters.iter_mut().rev() {
        *letter = char::from(LETTERS[(rest % 62) as usize]);
        rest /= 62;
    }
    letters.iter().collect()
}
