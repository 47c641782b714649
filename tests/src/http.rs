//! Requests to the agent's HTTP source.

use std::time::Duration;

use serde_json::Value;

/// Nobody waits longer for an answer; a killed agent answers with a closed connection.
const DEADLINE: Duration = Duration::from_secs(30);

/// The HTTP source of one agent.
#[derive(Debug, Clone)]
pub struct Http {
    agent: ureq::Agent,
    base: String,
    token: String,
}

/// What the source answered.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The body; text that is not JSON as a string.
    pub body: Value,
    /// `Retry-After`, if it came.
    pub retry_after: Option<String>,
}

impl Http {
    /// At `address` (`host:port`) with the bearer token `token`.
    pub fn new(address: &str, token: &str) -> Self {
        Self { agent: agent(DEADLINE), base: format!("http://{address}"), token: token.to_owned() }
    }

    /// The same source; answers are awaited only so long.
    pub fn with_deadline(&self, deadline: Duration) -> Self {
        Self { agent: agent(deadline), ..self.clone() }
    }

    /// `host:port`.
    pub fn address(&self) -> &str {
        self.base.trim_start_matches("http://")
    }

    /// The same source, with another token.
    pub fn with_token(&self, token: &str) -> Self {
        Self { token: token.to_owned(), ..self.clone() }
    }

    /// Posts `body` to a stream; `target` is what follows `/v1/streams/`.
    ///
    /// # Errors
    /// The connection broke: nobody knows whether the rows are stored.
    pub fn post(&self, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Result<Answer, ureq::Error> {
        let mut request = self
            .agent
            .post(format!("{}/v1/streams/{target}", self.base))
            .header("authorization", format!("Bearer {}", self.token));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        answer(request.send(body)?)
    }

    /// Gets a path, such as `/readyz`.
    ///
    /// # Errors
    /// The connection broke.
    pub fn get(&self, path: &str) -> Result<Answer, ureq::Error> {
        answer(self.agent.get(format!("{}{path}", self.base)).call()?)
    }
}

fn agent(deadline: Duration) -> ureq::Agent {
    ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(deadline)).build().into()
}

fn answer(mut response: ureq::http::Response<ureq::Body>) -> Result<Answer, ureq::Error> {
    let status = response.status().as_u16();
    let retry_after =
        response.headers().get("retry-after").and_then(|value| value.to_str().ok()).map(str::to_owned);
    let text = response.body_mut().read_to_string()?;
    let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
    Ok(Answer { status, body, retry_after })
}
