//! An issuer with keys of its own.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair,
    RSA_PKCS1_SHA256, RSA_PKCS1_SHA512, RSA_PSS_SHA256, RsaKeyPair, RsaPublicKeyComponents,
};
use serde_json::{Value, json};

pub(super) const ISSUER: &str = "https://id.example/realms/aap";
pub(super) const CLIENT: &str = "aap-cli";
pub(super) const NONCE: &str = "c6e1f0d4a8b24b7e9a53";
pub(super) const NOW_S: i64 = 1_800_000_000;

pub(super) struct Issuer {
    rsa: RsaKeyPair,
    p256: EcdsaKeyPair,
    p384: EcdsaKeyPair,
    ed: Ed25519KeyPair,
    random: SystemRandom,
}

fn letters(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// A code under a shared secret.
pub(super) fn hmac_of(secret: &[u8], message: &[u8]) -> Vec<u8> {
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret);
    ring::hmac::sign(&key, message).as_ref().to_vec()
}

impl Issuer {
    /// ring makes no RSA keys: this one was made for these tests, and is good for nothing else.
    pub(super) fn new() -> Self {
        let random = SystemRandom::new();
        let curve = |how| {
            let document = EcdsaKeyPair::generate_pkcs8(how, &random).unwrap();
            EcdsaKeyPair::from_pkcs8(how, document.as_ref(), &random).unwrap()
        };
        let document = Ed25519KeyPair::generate_pkcs8(&random).unwrap();
        Self {
            rsa: RsaKeyPair::from_pkcs8(include_bytes!("rsa.pk8")).unwrap(),
            p256: curve(&ECDSA_P256_SHA256_FIXED_SIGNING),
            p384: curve(&ECDSA_P384_SHA384_FIXED_SIGNING),
            ed: Ed25519KeyPair::from_pkcs8(document.as_ref()).unwrap(),
            random: random.clone(),
        }
    }

    /// One with other keys on the curves, under the same names.
    pub(super) fn another() -> Self {
        Self::new()
    }

    fn rsa_public(&self) -> RsaPublicKeyComponents<Vec<u8>> {
        self.rsa.public().into()
    }

    pub(super) fn rsa_modulus(&self) -> Vec<u8> {
        self.rsa_public().n
    }

    /// A key as the issuer lists it.
    pub(super) fn jwk(&self, id: &str) -> Value {
        let rsa = json!({
            "kty": "RSA", "kid": id, "n": letters(&self.rsa_modulus()),
            "e": letters(&self.rsa_public().e),
        });
        let with = |mut key: Value, more: Value| {
            key.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            key
        };
        let point = |curve: &str, public: &[u8]| {
            let (x, y) = public[1..].split_at((public.len() - 1) / 2);
            json!({"kty": "EC", "kid": id, "crv": curve, "x": letters(x), "y": letters(y), "use": "sig"})
        };
        match id {
            "rsa" => rsa,
            "rsa-only-rs256" => with(rsa, json!({"alg": "RS256"})),
            "rsa-enc" => with(rsa, json!({"use": "enc"})),
            "oct" => json!({"kty": "oct", "kid": id, "k": "c2VjcmV0"}),
            "ec" => point("P-256", self.p256.public_key().as_ref()),
            "ec384" => point("P-384", self.p384.public_key().as_ref()),
            "ed" => {
                json!({"kty": "OKP", "kid": id, "crv": "Ed25519", "x": letters(self.ed.public_key().as_ref())})
            }
            other => panic!("no key {other}"),
        }
    }

    pub(super) fn jwks(&self) -> Value {
        let all = ["rsa", "rsa-only-rs256", "rsa-enc", "oct", "ec", "ec384", "ed"];
        json!({ "keys": all.map(|id| self.jwk(id)) })
    }

    pub(super) fn sign(&self, algorithm: &str, message: &[u8]) -> Vec<u8> {
        let rsa = |how: &'static dyn ring::signature::RsaEncoding| {
            let mut signature = vec![0; self.rsa.public().modulus_len()];
            self.rsa.sign(how, &self.random, message, &mut signature).unwrap();
            signature
        };
        match algorithm {
            "RS256" => rsa(&RSA_PKCS1_SHA256),
            "RS512" => rsa(&RSA_PKCS1_SHA512),
            "PS256" => rsa(&RSA_PSS_SHA256),
            "ES256" => self.p256.sign(&self.random, message).unwrap().as_ref().to_vec(),
            "ES384" => self.p384.sign(&self.random, message).unwrap().as_ref().to_vec(),
            "EdDSA" => self.ed.sign(message).as_ref().to_vec(),
            other => panic!("no algorithm {other}"),
        }
    }

    /// A token signed as its header says.
    pub(super) fn token(&self, header: &Value, claims: &Value) -> String {
        let algorithm = header["alg"].as_str().unwrap();
        self.token_with(header, claims, |signed| self.sign(algorithm, signed))
    }

    pub(super) fn token_with(
        &self,
        header: &Value,
        claims: &Value,
        sign: impl FnOnce(&[u8]) -> Vec<u8>,
    ) -> String {
        // In a stable order, so that a token of the same claims is the same text.
        let ordered: BTreeMap<String, Value> = serde_json::from_value(claims.clone()).unwrap();
        let claims = serde_json::to_string(&ordered).unwrap();
        let signed = format!("{}.{}", letters(header.to_string().as_bytes()), letters(claims.as_bytes()));
        let signature = letters(&sign(signed.as_bytes()));
        format!("{signed}.{signature}")
    }
}
