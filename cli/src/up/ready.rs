//! When a platform is ready: the coordinator answers operators, and the agent answers and is connected to it.

use std::time::Duration;

use aap_client::v1::{NodeStatusRequest, StatusRequest};
use aap_client::{Platform, call};
use aap_types::{ExitCode, Problem};
use serde::{Deserialize, Serialize};

/// Between two looks. A warm start takes a few hundred milliseconds.
const LOOK_EVERY: Duration = Duration::from_millis(50);
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// Where a platform that is ready can be reached.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Ready {
    pub(crate) home: String,
    pub(crate) node: String,
    pub(crate) operator: String,
    pub(crate) agents: String,
    pub(crate) http: Option<String>,
    pub(crate) already_running: bool,
    pub(crate) tail_added: Vec<String>,
}

/// Waits until the platform is ready.
///
/// # Errors
/// `up.not_ready` (8): it is still starting after `limit`.
pub(crate) async fn wait(platform: &Platform, limit: Duration) -> Result<Ready, Problem> {
    let deadline = tokio::time::Instant::now() + limit;
    loop {
        let missing = match look(platform).await {
            Ok(ready) => return Ok(ready),
            Err(missing) => missing,
        };
        if tokio::time::Instant::now() >= deadline {
            return Err(not_ready(limit, &missing));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn look(platform: &Platform) -> Result<Ready, Problem> {
    let endpoints = platform.coordinator_endpoints()?;
    let mut operator = platform.operator().await?;
    call(CALL_TIMEOUT, operator.status(StatusRequest {})).await?;
    let mut node = platform.node().await?;
    let status = call(CALL_TIMEOUT, node.status(NodeStatusRequest {})).await?;
    if !status.connected {
        return Err(Problem::new(
            "up.not_connected",
            ExitCode::Unavailable,
            "the agent is not connected to the coordinator",
        ));
    }
    if !platform.agent_file().is_some_and(|file| file.exists()) {
        return Err(Problem::new("up.not_listening", ExitCode::Unavailable, "the agent does not listen yet"));
    }
    Ok(Ready {
        home: platform.home()?.root().to_string(),
        node: status.node,
        operator: endpoints.operator,
        agents: endpoints.agents,
        http: http_address(platform),
        already_running: false,
        tail_added: vec![],
    })
}

/// Where the agent takes HTTP, if it does.
fn http_address(platform: &Platform) -> Option<String> {
    let bytes = std::fs::read(platform.agent_file()?).ok()?;
    let value: serde_json::Value = serde_json::from_slice(&bytes).ok()?;
    value.get("http").and_then(serde_json::Value::as_str).filter(|text| !text.is_empty()).map(str::to_owned)
}

fn not_ready(limit: Duration, missing: &Problem) -> Problem {
    let message = format!("the platform is not ready after {} s; it goes on starting", limit.as_secs());
    let mut problem = Problem::new("up.not_ready", ExitCode::Pending, message).cause(&missing.message);
    problem.causes.extend(missing.causes.iter().cloned());
    problem.hint_command("see what it is doing", "aap logs -n 20").retry_after_ms(1000)
}
