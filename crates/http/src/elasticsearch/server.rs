//! Questions to the cluster, and its answers.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use aap_sinks::Failure;
use bytes::Bytes;
use reqwest::header::HeaderMap;
use reqwest::{Method, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::spec::ElasticsearchSpec;
use crate::client::{Ask, Client, Compression};
use crate::fail::{HttpError, Words, excerpt};

/// Longest time for a request: the server itself gives up waiting for a shard after a minute.
const ANSWER_MAX: Duration = Duration::from_secs(75);
/// Largest answer: that to a request with thousands of rows, each of them refused at length.
const ANSWER_BYTES_MAX: usize = 32 << 20;
const JSON: &str = "application/json";
const NDJSON: &str = "application/x-ndjson";

/// The cluster, through one of its nodes.
#[derive(Debug)]
pub(crate) struct Server {
    client: Client,
    urls: Vec<String>,
    /// Which of them answered last.
    current: AtomicUsize,
    compression: Compression,
    pub(crate) words: Words,
}

/// An answer whose status says that it was done.
#[derive(Debug)]
pub(crate) struct Done(Vec<u8>);

impl Done {
    /// What it says.
    pub(crate) fn read<T: DeserializeOwned>(&self) -> Result<T, HttpError> {
        serde_json::from_slice(&self.0)
            .map_err(|error| HttpError::Answer(format!("{error} in `{}`", excerpt(&self.0))))
    }
}

/// An error as the server puts it.
#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct Said {
    /// `mapper_parsing_exception` and the like.
    #[serde(rename = "type", default)]
    pub(crate) kind: String,
    #[serde(default)]
    reason: Option<String>,
    #[serde(default)]
    caused_by: Option<Box<Said>>,
}

impl Said {
    /// On one line, from the outside in.
    pub(crate) fn text(&self) -> String {
        let mut text = self.kind.clone();
        for part in
            [self.reason.clone(), self.caused_by.as_ref().map(|cause| cause.text())].into_iter().flatten()
        {
            if !text.contains(&part) {
                text = format!("{text}: {part}");
            }
        }
        text
    }
}

impl Server {
    /// For the cluster of a spec. Asks nothing yet.
    pub(crate) async fn of(spec: &ElasticsearchSpec, words: Words) -> Result<Self, Failure> {
        let client = Client::new(spec.ca.clone(), spec.login()).await;
        Ok(Self {
            client: client.map_err(|error| words.failure(&error))?,
            urls: spec.urls.iter().map(|url| url.trim_end_matches('/').to_owned()).collect(),
            current: AtomicUsize::new(0),
            compression: spec.compression,
            words,
        })
    }

    /// A question whose answer must say that it was done.
    pub(crate) async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<String>,
    ) -> Result<Done, HttpError> {
        let (status, body) =
            self.send(method, path, JSON, Compression::None, body.unwrap_or_default().into()).await?;
        done(status, body)
    }

    /// The same where it may be that there is no such thing.
    pub(crate) async fn find(&self, path: &str) -> Result<Option<Done>, HttpError> {
        match self.ask(Method::GET, path, None).await {
            Err(HttpError::Status { status: StatusCode::NOT_FOUND, .. }) => Ok(None),
            other => other.map(Some),
        }
    }

    /// A bulk request, compressed already as the spec wants it.
    pub(crate) async fn bulk(&self, path: &str, body: Bytes) -> Result<Done, HttpError> {
        let (status, body) = self.send(Method::POST, path, NDJSON, self.compression, body).await?;
        done(status, body)
    }

    /// A bulk request that is not compressed.
    pub(crate) async fn plain_bulk(&self, path: &str, body: String) -> Result<Done, HttpError> {
        let (status, body) = self.send(Method::POST, path, NDJSON, Compression::None, body.into()).await?;
        done(status, body)
    }

    /// Asks the nodes one after another until one can be reached.
    async fn send(
        &self,
        method: Method,
        path: &str,
        content_type: &'static str,
        compression: Compression,
        body: Bytes,
    ) -> Result<(StatusCode, Vec<u8>), HttpError> {
        let first = self.current.load(Ordering::Relaxed);
        let mut last = None;
        for turn in 0..self.urls.len() {
            let place = (first + turn) % self.urls.len();
            let url = format!("{}/{path}", self.urls[place]);
            let ask = Ask {
                method: method.clone(),
                url: &url,
                content_type: if body.is_empty() { "" } else { content_type },
                compression,
                headers: HeaderMap::new(),
                body: body.clone(),
                deadline: ANSWER_MAX,
                answer_max: ANSWER_BYTES_MAX,
            };
            match self.client.ask(ask).await {
                Ok(answer) => {
                    self.current.store(place, Ordering::Relaxed);
                    return Ok((answer.status, answer.body));
                }
                // Nothing was sent yet.
                Err(error) if error.is_connect() => last = Some(error),
                Err(error) => return Err(error),
            }
        }
        Err(last.unwrap_or_else(|| HttpError::Answer("there is nobody to ask".to_owned())))
    }
}

fn done(status: StatusCode, body: Vec<u8>) -> Result<Done, HttpError> {
    #[derive(Deserialize)]
    struct Refusal {
        error: Said,
    }
    if status.is_success() {
        return Ok(Done(body));
    }
    let reason = match serde_json::from_slice::<Refusal>(&body) {
        Ok(refusal) => refusal.error.text(),
        Err(_) => excerpt(&body),
    };
    Err(HttpError::Status { status, reason })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_told_once_from_the_outside_in() {
        let text = r#"{"error":{"type":"mapper_parsing_exception","reason":"failed to parse field [n]",
            "caused_by":{"type":"number_format_exception","reason":"For input string: \"x\""}},"status":400}"#;
        let error = done(StatusCode::BAD_REQUEST, text.as_bytes().to_vec()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "HTTP 400 Bad Request: mapper_parsing_exception: failed to parse field [n]: number_format_exception: For \
             input string: \"x\""
        );
        let error = done(StatusCode::BAD_GATEWAY, b"<html>\n  gone </html>".to_vec()).unwrap_err();
        assert_eq!(error.to_string(), "HTTP 502 Bad Gateway: <html> gone </html>");
    }
}
