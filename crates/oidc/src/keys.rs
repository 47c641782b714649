//! The public keys of a provider (RFC 7517): those that can sign ID tokens, and no others.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{
    self, ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, RsaParameters, RsaPublicKeyComponents,
    UnparsedPublicKey, VerificationAlgorithm,
};
use serde::Deserialize;
use serde_json::Value;

/// Keys of one provider that are kept: they have two or three, and some more while they change them.
const KEYS_MAX: usize = 64;

/// What signatures are made with. Whatever is not here is refused: `none`, and everything with a shared secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// RSA, PKCS #1 v1.5, SHA-256.
    Rs256,
    /// The same with SHA-384.
    Rs384,
    /// The same with SHA-512.
    Rs512,
    /// RSA, PSS, SHA-256.
    Ps256,
    /// The same with SHA-384.
    Ps384,
    /// The same with SHA-512.
    Ps512,
    /// ECDSA on P-256, SHA-256.
    Es256,
    /// ECDSA on P-384, SHA-384.
    Es384,
    /// Ed25519.
    EdDsa,
}

impl Algorithm {
    /// By its name in a token.
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "RS256" => Self::Rs256,
            "RS384" => Self::Rs384,
            "RS512" => Self::Rs512,
            "PS256" => Self::Ps256,
            "PS384" => Self::Ps384,
            "PS512" => Self::Ps512,
            "ES256" => Self::Es256,
            "ES384" => Self::Es384,
            "EdDSA" => Self::EdDsa,
            _ => return None,
        })
    }

    /// How ring checks it with an RSA key; keys of less than 2048 bits are refused by it.
    fn rsa(self) -> Option<&'static RsaParameters> {
        Some(match self {
            Self::Rs256 => &signature::RSA_PKCS1_2048_8192_SHA256,
            Self::Rs384 => &signature::RSA_PKCS1_2048_8192_SHA384,
            Self::Rs512 => &signature::RSA_PKCS1_2048_8192_SHA512,
            Self::Ps256 => &signature::RSA_PSS_2048_8192_SHA256,
            Self::Ps384 => &signature::RSA_PSS_2048_8192_SHA384,
            Self::Ps512 => &signature::RSA_PSS_2048_8192_SHA512,
            Self::Es256 | Self::Es384 | Self::EdDsa => return None,
        })
    }

    /// The same with a point on a curve.
    fn curve(self) -> Option<(&'static str, &'static dyn VerificationAlgorithm)> {
        let found: (&str, &dyn VerificationAlgorithm) = match self {
            Self::Es256 => ("P-256", &ECDSA_P256_SHA256_FIXED),
            Self::Es384 => ("P-384", &ECDSA_P384_SHA384_FIXED),
            Self::EdDsa => ("Ed25519", &signature::ED25519),
            _ => return None,
        };
        Some(found)
    }
}

/// One key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Key {
    id: Option<String>,
    /// The only algorithm that it is for, if the provider says so.
    only: Option<Algorithm>,
    material: Material,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Material {
    Rsa { n: Vec<u8>, e: Vec<u8> },
    Point { curve: String, bytes: Vec<u8> },
}

impl Key {
    /// Whether a token of that algorithm can be signed with it: an RSA key never checks a token of a curve.
    pub(crate) fn is_for(&self, algorithm: Algorithm) -> bool {
        let fits = match &self.material {
            Material::Rsa { .. } => algorithm.rsa().is_some(),
            Material::Point { curve, .. } => algorithm.curve().is_some_and(|(name, _)| name == curve),
        };
        fits && self.only.is_none_or(|only| only == algorithm)
    }

    /// Whether it signed a message.
    pub(crate) fn signed(&self, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> bool {
        match &self.material {
            Material::Rsa { n, e } => algorithm
                .rsa()
                .is_some_and(|how| RsaPublicKeyComponents { n, e }.verify(how, message, signature).is_ok()),
            Material::Point { bytes, .. } => algorithm.curve().is_some_and(|(_, how)| {
                UnparsedPublicKey::new(how, bytes).verify(message, signature).is_ok()
            }),
        }
    }
}

/// The keys that a provider lists.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeySet {
    keys: Vec<Key>,
}

impl KeySet {
    /// Those of a document (RFC 7517) that can sign; keys for encryption and of kinds that are not known are left out.
    ///
    /// # Errors
    /// What is wrong with the document.
    pub fn parse(document: &[u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Document {
            keys: Vec<Value>,
        }
        let document: Document = serde_json::from_slice(document).map_err(|error| error.to_string())?;
        if document.keys.len() > KEYS_MAX {
            return Err(format!("it lists more than {KEYS_MAX} keys"));
        }
        Ok(Self { keys: document.keys.into_iter().filter_map(key).collect() })
    }

    /// Those that a token can mean: the one with its id, or, where it names none, the only one of the kind.
    pub(crate) fn find(&self, id: Option<&str>, algorithm: Algorithm) -> Found<'_> {
        match id {
            Some(id) => match self.keys.iter().find(|key| key.id.as_deref() == Some(id)) {
                None => Found::Unknown,
                Some(key) if key.is_for(algorithm) => Found::Key(key),
                Some(_) => Found::OfAnotherKind,
            },
            None => {
                let mut fitting = self.keys.iter().filter(|key| key.is_for(algorithm));
                match (fitting.next(), fitting.next()) {
                    (Some(key), None) => Found::Key(key),
                    _ => Found::Unknown,
                }
            }
        }
    }
}

/// What was found for a token.
pub(crate) enum Found<'a> {
    Key(&'a Key),
    /// No such key, as far as is known.
    Unknown,
    /// A key that does not sign with the token's algorithm.
    OfAnotherKind,
}

fn key(document: Value) -> Option<Key> {
    #[derive(Deserialize)]
    struct Jwk {
        kty: String,
        kid: Option<String>,
        alg: Option<String>,
        #[serde(rename = "use")]
        purpose: Option<String>,
        crv: Option<String>,
        n: Option<String>,
        e: Option<String>,
        x: Option<String>,
        y: Option<String>,
    }
    let jwk: Jwk = serde_json::from_value(document).ok()?;
    if jwk.purpose.is_some_and(|purpose| purpose != "sig") {
        return None;
    }
    let only = match jwk.alg {
        Some(name) => Some(Algorithm::named(&name)?),
        None => None,
    };
    let bytes = |text: Option<String>| URL_SAFE_NO_PAD.decode(text?).ok();
    let material = match jwk.kty.as_str() {
        "RSA" => Material::Rsa { n: bytes(jwk.n)?, e: bytes(jwk.e)? },
        "EC" => {
            let (x, y) = (bytes(jwk.x)?, bytes(jwk.y)?);
            // An uncompressed point begins with 4 (SEC 1, 2.3.3).
            Material::Point { curve: jwk.crv?, bytes: [&[4], x.as_slice(), y.as_slice()].concat() }
        }
        "OKP" => Material::Point { curve: jwk.crv?, bytes: bytes(jwk.x)? },
        _ => return None,
    };
    Some(Key { id: jwk.kid, only, material })
}
