//! Requests with deadlines, and answers of bounded length.

use std::io::Write;
use std::time::Duration;

use aap_runtime::{SecretError, SecretRef};
use aap_sinks::tls;
use bytes::Bytes;
use camino::Utf8PathBuf;
use reqwest::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, StatusCode};
use serde::{Deserialize, Serialize};

use crate::fail::HttpError;

/// Longest time to a connection, with DNS, TCP and TLS.
const CONNECT_MAX: Duration = Duration::from_secs(10);
/// The level of gzip and zstd: rows shrink to a tenth at the fastest already.
const LEVEL: i32 = 1;

/// How bodies are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// Not at all.
    #[default]
    None,
    /// gzip.
    Gzip,
    /// Zstandard.
    Zstd,
}

impl Compression {
    /// The body as it is sent. Takes processor time: call it on the blocking pool.
    pub(crate) fn of(self, body: Vec<u8>) -> std::io::Result<Bytes> {
        Ok(match self {
            Self::None => body.into(),
            Self::Gzip => {
                let level = flate2::Compression::new(LEVEL.unsigned_abs());
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), level);
                encoder.write_all(&body)?;
                encoder.finish()?.into()
            }
            Self::Zstd => zstd::encode_all(body.as_slice(), LEVEL)?.into(),
        })
    }

    fn name(self) -> Option<&'static str> {
        match self {
            Self::None => None,
            Self::Gzip => Some("gzip"),
            Self::Zstd => Some("zstd"),
        }
    }
}

/// What proves who we are.
#[derive(Debug, Clone)]
pub(crate) enum Login {
    Nobody,
    Basic(String, SecretRef),
    /// The word before the secret, as in `Bearer …`.
    Token(&'static str, SecretRef),
}

impl Login {
    /// Of a spec's `username` and `password`, or another secret.
    pub(crate) fn of(
        username: Option<&String>,
        password: Option<&SecretRef>,
        token: Option<(&'static str, &SecretRef)>,
    ) -> Self {
        match (username.zip(password), token) {
            (Some((user, password)), _) => Self::Basic(user.clone(), password.clone()),
            (None, Some((word, secret))) => Self::Token(word, secret.clone()),
            (None, None) => Self::Nobody,
        }
    }

    /// Blocks, for a small file.
    fn header(&self) -> Result<Option<HeaderValue>, SecretError> {
        let text = match self {
            Self::Nobody => return Ok(None),
            Self::Basic(user, password) => {
                let both = format!("{user}:{}", password.read()?.reveal());
                format!("Basic {}", base64(both.as_bytes()))
            }
            Self::Token(word, secret) => format!("{word} {}", secret.read()?.reveal()),
        };
        // A secret with a line end in it is no header; the server will say that it does not know us.
        let header = HeaderValue::from_str(&text).ok().map(|mut header| {
            header.set_sensitive(true);
            header
        });
        Ok(header)
    }
}

/// One request.
#[derive(Debug, Clone)]
pub(crate) struct Ask<'a> {
    pub(crate) method: Method,
    pub(crate) url: &'a str,
    pub(crate) content_type: &'static str,
    pub(crate) compression: Compression,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    /// Until the whole answer is there.
    pub(crate) deadline: Duration,
    /// Bytes of the answer that are of interest; a longer one is cut.
    pub(crate) answer_max: usize,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) body: Vec<u8>,
}

/// Connections to a server. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    login: Option<HeaderValue>,
}

impl Client {
    /// Reads secret and authorities anew: they are changed under a running daemon.
    pub(crate) async fn new(ca: Option<Utf8PathBuf>, login: Login) -> Result<Self, HttpError> {
        let read = tokio::task::spawn_blocking(move || {
            let tls = tls::client_config(ca.as_deref()).map_err(HttpError::Tls)?;
            Ok::<_, HttpError>((tls, login.header().map_err(HttpError::Secret)?))
        });
        let (tls, login) = read.await.map_err(|_panic| HttpError::Answer("reading failed".to_owned()))??;
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .connect_timeout(CONNECT_MAX)
            // Where rows go is said in the document, and nowhere else.
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .user_agent(concat!("aap/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(HttpError::of)?;
        Ok(Self { http, login })
    }

    /// Sends a request and reads its answer. Whatever has no answer with a status fails.
    pub(crate) async fn ask(&self, ask: Ask<'_>) -> Result<Answer, HttpError> {
        let deadline = ask.deadline;
        let answer = tokio::time::timeout(deadline, self.exchange(ask)).await;
        answer.unwrap_or(Err(HttpError::Late(deadline)))
    }

    async fn exchange(&self, ask: Ask<'_>) -> Result<Answer, HttpError> {
        let mut request = self.http.request(ask.method, ask.url).headers(ask.headers);
        if !ask.content_type.is_empty() {
            request = request.header(CONTENT_TYPE, ask.content_type);
        }
        if let Some(encoding) = ask.compression.name().filter(|_| !ask.body.is_empty()) {
            request = request.header(CONTENT_ENCODING, encoding);
        }
        if let Some(login) = &self.login {
            request = request.header(AUTHORIZATION, login.clone());
        }
        let mut response = request.body(ask.body).send().await.map_err(HttpError::of)?;
        let status = response.status();
        let mut body = vec![];
        while body.len() < ask.answer_max {
            match response.chunk().await {
                Ok(Some(chunk)) => body.extend_from_slice(&chunk),
                Ok(None) => break,
                // What matters was said where only a beginning is of interest.
                Err(_) if status.is_success() && ask.answer_max <= ANSWER_START => break,
                Err(error) => return Err(HttpError::of(error)),
            }
        }
        Ok(Answer { status, body })
    }
}

/// As much of an answer as is worth showing.
pub(crate) const ANSWER_START: usize = 2 << 10;

/// A header's name and value from a spec.
pub(crate) fn header(name: &str, value: &str) -> Option<(HeaderName, HeaderValue)> {
    Some((HeaderName::from_bytes(name.as_bytes()).ok()?, HeaderValue::from_str(value).ok()?))
}

/// Whether a text is the URL of a server, without secrets in it. What is wrong, otherwise.
pub(crate) fn check_url(text: &str) -> Result<(), String> {
    let url = reqwest::Url::parse(text).map_err(|error| format!("`{text}` is no URL: {error}"))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        return Err(format!("`{text}` is no URL of a server: write `https://HOST:PORT/…`"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("a user or password stands in a URL: give them by `username` and `password`".to_owned());
    }
    Ok(())
}

/// As `Basic` wants it.
fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let number =
            chunk.iter().chain([&0, &0]).take(3).fold(0_u32, |number, byte| number << 8 | u32::from(*byte));
        for place in 0..4 {
            let letter = LETTERS[(number >> (18 - 6 * place)) as usize & 63];
            text.push(if place <= chunk.len() { char::from(letter) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_is_told_as_the_standard_says() {
        // The vectors of RFC 4648.
        for (text, expected) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
        ] {
            assert_eq!(base64(text.as_bytes()), expected);
        }
    }

    #[test]
    fn urls_hold_no_secret_and_name_a_server() {
        assert_eq!(check_url("https://a.example:9200/x"), Ok(()));
        assert!(check_url("ftp://a.example").unwrap_err().contains("no URL of a server"));
        assert!(check_url("a.example:9200").is_err());
        let told = check_url("https://me:hunter2@a.example").unwrap_err();
        assert!(told.contains("`username`") && !told.contains("hunter2"), "{told}");
    }
}
