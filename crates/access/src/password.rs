//! Passwords: how they are kept, and which are taken.
//!
//! Argon2id with 19 MiB and two passes, as OWASP asks for: some 30 ms of one core. Whoever checks passwords for strangers bounds how many
//! are checked at once, by the memory that each takes ([`Passwords::MEMORY_BYTES`]).

use std::fmt;

use aap_runtime::Secret;
use argon2::password_hash::phc;
use argon2::{Algorithm, Argon2, Params, PasswordHasher, PasswordVerifier, Version};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::{RandomError, UserName};

/// Memory, in KiB.
const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;
const LANES: u32 = 1;
/// 128 bits, so that no two users share a salt.
pub(crate) const SALT_BYTES: usize = 16;
/// Fewest characters: with rules about kinds of characters instead, people choose `Password1!`.
const CHARACTERS_MIN: usize = 12;
/// Longest password: a passphrase of many words, and no means to keep the machine busy.
const BYTES_MAX: usize = 1_024;
/// Fewest different characters: below it the length is a pretence.
const DIFFERENT_MIN: usize = 5;
/// Shortest name of a user that must not stand in a password: shorter ones are part of many words.
const NAME_BYTES_MIN: usize = 4;

/// Of the commonest passwords those that are long enough to be taken otherwise, and what people make of short ones when they must
/// be longer. In lower case.
const COMMONEST: [&str; 40] = [
    "123456789012",
    "1234567890123",
    "12345678901234",
    "123456789abc",
    "1q2w3e4r5t6y",
    "1qaz2wsx3edc",
    "abcd12345678",
    "abcdefghijkl",
    "abcdefghijklm",
    "administrator",
    "administrator1",
    "adminadmin123",
    "changeme1234",
    "changemenow!",
    "correct horse battery staple",
    "correcthorsebatterystaple",
    "iloveyou1234",
    "iloveyouforever",
    "letmeinletmein",
    "letmeinplease",
    "letmein12345",
    "password1234",
    "password12345",
    "password123456",
    "password123!",
    "passwordpassword",
    "p@ssw0rd1234",
    "p@ssword1234",
    "passw0rd1234",
    "q1w2e3r4t5y6",
    "qazwsxedcrfv",
    "qwerty123456",
    "qwertyqwerty",
    "qwertyuiop12",
    "qwertyuiop123",
    "qwertyuiopasdf",
    "qwertyuiop[]",
    "secretsecret",
    "welcome12345",
    "zaq12wsxcde3",
];

/// Why a password is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PasswordFault {
    /// Too short.
    #[error("the password has fewer than {CHARACTERS_MIN} characters")]
    TooShort,
    /// Too long.
    #[error("the password has more than {BYTES_MAX} bytes")]
    TooLong,
    /// The user's name, or a part of it, is in it.
    #[error("the password contains the name of its user")]
    UserName,
    /// It is one that everybody tries first.
    #[error("the password is one of the commonest")]
    TooCommon,
}

/// A hash of a password with its parameters and salt, in the PHC form. Prints as `***`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PasswordHash(String);

impl PasswordHash {
    /// What stands before salt and hash: algorithm, version, parameters.
    fn parameters(&self) -> Option<&str> {
        self.0.rsplitn(3, '$').nth(2)
    }
}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// What a password turned out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verified {
    /// The right one. The hash to keep from now on, where the one that is kept was made with other parameters.
    Right(Option<PasswordHash>),
    /// Not the right one; or there is none.
    Wrong,
}

/// Makes and checks hashes of passwords. Both take a while: call them on the blocking pool.
#[derive(Debug)]
pub struct Passwords {
    cost: Params,
    /// Checked where there is no user, so that this takes as long.
    nobodys: PasswordHash,
}

impl Passwords {
    /// Memory that checking one password takes.
    pub const MEMORY_BYTES: usize = MEMORY_KIB as usize * 1024;

    /// With the parameters of this version.
    ///
    /// # Errors
    /// [`RandomError`].
    pub fn new() -> Result<Self, RandomError> {
        Self::with(cost())
    }

    pub(crate) fn with(cost: Params) -> Result<Self, RandomError> {
        let nobodys = hash(&cost, "nobody's password")?;
        Ok(Self { cost, nobodys })
    }

    /// The hash of a password.
    ///
    /// # Errors
    /// [`RandomError`].
    pub fn hash(&self, password: &Secret) -> Result<PasswordHash, RandomError> {
        hash(&self.cost, password.reveal())
    }

    /// Checks a password against what is kept of it; `None`: there is no such user, or none with a password.
    ///
    /// # Errors
    /// [`RandomError`], where a new hash was to be made.
    pub fn verify(&self, password: &Secret, kept: Option<&PasswordHash>) -> Result<Verified, RandomError> {
        let text = password.reveal();
        let is_right = text.len() <= BYTES_MAX && is_of(kept.unwrap_or(&self.nobodys), text);
        let Some(kept) = kept.filter(|_| is_right) else { return Ok(Verified::Wrong) };
        let newer = if self.is_current(kept) { None } else { Some(self.hash(password)?) };
        Ok(Verified::Right(newer))
    }

    /// Whether a hash was made with the parameters of today.
    fn is_current(&self, kept: &PasswordHash) -> bool {
        kept.parameters() == self.nobodys.parameters()
    }

    /// Whether a user may have a password, which is not about kinds of characters: long, not their name, and not what everybody
    /// tries first (NIST SP 800-63B).
    ///
    /// # Errors
    /// [`PasswordFault`].
    pub fn check(password: &Secret, user: &UserName) -> Result<(), PasswordFault> {
        let text = password.reveal();
        if text.len() > BYTES_MAX {
            return Err(PasswordFault::TooLong);
        }
        if text.chars().count() < CHARACTERS_MIN {
            return Err(PasswordFault::TooShort);
        }
        let lower = Zeroizing::new(text.to_lowercase());
        let name = user.as_str().split('@').next().unwrap_or_default();
        if name.len() >= NAME_BYTES_MIN && lower.contains(name) {
            return Err(PasswordFault::UserName);
        }
        let mut different: Zeroizing<Vec<char>> = Zeroizing::new(lower.chars().collect());
        different.sort_unstable();
        different.dedup();
        if different.len() < DIFFERENT_MIN || COMMONEST.contains(&lower.as_str()) {
            return Err(PasswordFault::TooCommon);
        }
        Ok(())
    }
}

/// The parameters of today.
fn cost() -> Params {
    Params::new(MEMORY_KIB, PASSES, LANES, None).expect("the parameters are within Argon2's limits")
}

/// Fills a key with what comes of a passphrase.
pub(crate) fn stretch(passphrase: &Secret, salt: &[u8; SALT_BYTES], key: &mut [u8]) {
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, cost());
    let stretched = argon2.hash_password_into(passphrase.reveal().as_bytes(), salt, key);
    stretched.expect("parameters, salt and length of the key are within Argon2's limits");
}

fn hash(cost: &Params, password: &str) -> Result<PasswordHash, RandomError> {
    let mut salt = [0; SALT_BYTES];
    crate::issued::fill_random(&mut salt)?;
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, cost.clone());
    let hashed: phc::PasswordHash = argon2
        .hash_password_with_salt(password.as_bytes(), &salt)
        .expect("parameters and salt are within Argon2's limits");
    Ok(PasswordHash(hashed.to_string()))
}

/// With the parameters that stand in the hash.
fn is_of(kept: &PasswordHash, password: &str) -> bool {
    phc::PasswordHash::new(&kept.0)
        .is_ok_and(|kept| Argon2::default().verify_password(password.as_bytes(), &kept).is_ok())
}
