//! Finding a platform by its home, and connecting to its daemons when first asked.
//!
//! The coordinator is reached over TCP with the operator's bearer token, the agent over its unix socket. Both write
//! where they listen into `run/` themselves; nothing is guessed. A node without a coordinator answers operators itself,
//! on the same socket.

use std::time::Duration;

use aap_runtime::Home;
use aap_types::{ExitCode, Problem};
use camino::{Utf8Path, Utf8PathBuf};
use serde::Deserialize;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Uri};
use tonic::{Request, Status};

use crate::problems::{not_running, problem_of};
use crate::v1::NodeStatusRequest;
use crate::v1::access_client::AccessClient;
use crate::v1::audit_client::AuditClient;
use crate::v1::node_client::NodeClient;
use crate::v1::operator_client::OperatorClient;
use crate::v1::resources_client::ResourcesClient;

/// How long a connection to a daemon may take. Loopback answers in well under a millisecond.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A peer that does not answer a ping for this long is gone; long queries have no other sign of life.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// A killed daemon is started again within two seconds; this leaves it time to recover its buffer.
const RESTART_PATIENCE: Duration = Duration::from_secs(5);
/// Between two attempts meanwhile.
const RESTART_LOOK_EVERY: Duration = Duration::from_millis(50);

/// What the coordinator answers operators, or a node by itself.
pub type OperatorApi = OperatorClient<InterceptedService<Channel, Bearer>>;
/// Who may do what, which only a coordinator knows.
pub type AccessApi = AccessClient<InterceptedService<Channel, Bearer>>;
/// What was done with privilege, which only a coordinator records.
pub type AuditApi = AuditClient<InterceptedService<Channel, Bearer>>;
/// Declared objects and sinks, which only a coordinator has.
pub type ResourcesApi = ResourcesClient<InterceptedService<Channel, Bearer>>;
/// What an agent answers on its own machine.
pub type NodeApi = NodeClient<Channel>;

/// Where a coordinator listens, as it wrote into `run/coordinator.json`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct CoordinatorEndpoints {
    /// For operators: host and port.
    pub operator: String,
    /// The authority of the certificate there, PEM, from the home on. None: a version that speaks without TLS.
    #[serde(default)]
    pub operator_ca: Option<Utf8PathBuf>,
    /// For agents: host and port.
    #[serde(default)]
    pub agents: String,
}

/// One platform, known by its home. Cheap to make: it reads and connects only when asked.
#[derive(Debug, Clone)]
pub struct Platform {
    home: Home,
}

impl Platform {
    /// The platform at `home`.
    pub fn at(home: Home) -> Self {
        Self { home }
    }

    /// The platform that `--home`, `AAP_HOME` or the default names.
    pub fn find(home: Option<&Utf8Path>) -> Self {
        Self::at(Home::find(home.filter(|path| !path.as_str().is_empty())))
    }

    /// Where it keeps its files.
    pub fn home(&self) -> &Home {
        &self.home
    }

    /// `run/coordinator.json`.
    pub fn coordinator_file(&self) -> Utf8PathBuf {
        self.home.run().join("coordinator.json")
    }

    /// `run/agent.json`.
    pub fn agent_file(&self) -> Utf8PathBuf {
        self.home.run().join("agent.json")
    }

    /// Where the coordinator listens.
    ///
    /// # Errors
    /// `platform.not_running` where it never started here.
    pub fn coordinator_endpoints(&self) -> Result<CoordinatorEndpoints, Problem> {
        let path = self.coordinator_file();
        let text = std::fs::read_to_string(&path).map_err(|error| {
            not_running(&format!("the platform at `{}`", self.home.root())).caused_by(&error)
        })?;
        serde_json::from_str(&text).map_err(|error| {
            Problem::new("platform.run_file", ExitCode::Failed, format!("`{path}` cannot be read"))
                .caused_by(&error)
                .hint_command("restart the platform, which writes it anew", "aap down && aap up --detach")
        })
    }

    /// Connects to the coordinator, or to the node where there never was one in this home.
    ///
    /// # Errors
    /// `platform.not_running` (7) where nobody listens, `auth.token_unreadable` (4) without a token.
    pub async fn operator(&self) -> Result<OperatorApi, Problem> {
        if self.has_only_a_node() {
            return self.operator_of_node().await;
        }
        let (channel, bearer) = self.coordinator_channel().await?;
        let client = OperatorClient::with_interceptor(channel, bearer);
        Ok(client.max_decoding_message_size(crate::MESSAGE_BYTES_MAX))
    }

    /// Connects to the coordinator for declared objects and sinks, which no node has.
    ///
    /// # Errors
    /// As [`Self::operator`]; `platform.needs_coordinator` (7) where only a node runs.
    pub async fn resources(&self) -> Result<ResourcesApi, Problem> {
        self.needs_coordinator("declared objects and sinks are the coordinator's")?;
        let (channel, bearer) = self.coordinator_channel().await?;
        let client = ResourcesClient::with_interceptor(channel, bearer);
        Ok(client.max_decoding_message_size(crate::MESSAGE_BYTES_MAX))
    }

    /// Connects to the coordinator for who may do what.
    ///
    /// # Errors
    /// As [`Self::resources`].
    pub async fn access(&self) -> Result<AccessApi, Problem> {
        self.needs_coordinator("nodes and tokens are the coordinator's")?;
        let (channel, bearer) = self.coordinator_channel().await?;
        Ok(AccessClient::with_interceptor(channel, bearer))
    }

    /// Connects to the coordinator for what was done with privilege.
    ///
    /// # Errors
    /// As [`Self::resources`].
    pub async fn audit(&self) -> Result<AuditApi, Problem> {
        self.needs_coordinator("the audit log is the coordinator's")?;
        let (channel, bearer) = self.coordinator_channel().await?;
        Ok(AuditClient::with_interceptor(channel, bearer))
    }

    fn needs_coordinator(&self, what: &str) -> Result<(), Problem> {
        if !self.has_only_a_node() {
            return Ok(());
        }
        let message = format!("{what}, and only a node runs here");
        Err(Problem::new("platform.needs_coordinator", ExitCode::Unavailable, message)
            .hint("ask again where a coordinator runs, or give its home with `--home`"))
    }

    /// Whether an agent, and never a coordinator, ran in this home.
    fn has_only_a_node(&self) -> bool {
        !self.coordinator_file().exists() && self.agent_socket().exists()
    }

    async fn coordinator_channel(&self) -> Result<(Channel, Bearer), Problem> {
        let endpoints = self.coordinator_endpoints()?;
        let bearer = Bearer::read(&self.home.operator_token_file())?;
        let address = &endpoints.operator;
        let endpoint = self.endpoint(&endpoints)?;
        let channel = self
            .patiently(async || tuned(endpoint.clone()).connect().await)
            .await
            .map_err(|error| nobody_answers("the coordinator", address, &error))?;
        Ok((channel, bearer))
    }

    fn endpoint(&self, endpoints: &CoordinatorEndpoints) -> Result<Endpoint, Problem> {
        let address = &endpoints.operator;
        let scheme = if endpoints.operator_ca.is_some() { "https" } else { "http" };
        let endpoint = Endpoint::from_shared(format!("{scheme}://{address}")).map_err(|error| {
            Problem::new("platform.run_file", ExitCode::Failed, format!("`{address}` is not an address"))
                .caused_by(&error)
        })?;
        let Some(authority) = &endpoints.operator_ca else { return Ok(endpoint) };
        let path = self.home.root().join(authority);
        let fail = |error: &dyn std::error::Error| {
            let message = format!("the authority of the coordinator in `{path}` cannot be used");
            Problem::new("platform.authority", ExitCode::Failed, message)
                .cause(error.to_string())
                .hint_command("restart the platform, which writes it anew", "aap down && aap up --detach")
        };
        let pem = std::fs::read(&path).map_err(|error| fail(&error))?;
        let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem));
        endpoint.tls_config(tls).map_err(|error| fail(&error))
    }

    /// The same; but where the coordinator does not answer, the node of this home does if it alone is asked.
    ///
    /// # Errors
    /// As [`Self::operator`], with a hint where the node could answer.
    pub async fn operator_for(&self, nodes: &[String]) -> Result<OperatorApi, Problem> {
        let refused = match self.operator().await {
            Err(problem) if problem.exit == ExitCode::Unavailable => problem,
            other => return other,
        };
        let Ok(here) = self.node_here().await else { return Err(refused) };
        match nodes {
            [only] if *only == here => self.operator_of_node().await,
            _ => {
                let command = format!("aap query --node {here} 'select …'");
                Err(refused.hint_command("ask the node of this home, which answers by itself", command))
            }
        }
    }

    /// Connects to the agent on this machine, which answers operators by itself.
    ///
    /// # Errors
    /// `platform.not_running` (7) where nobody listens on its socket.
    pub async fn operator_of_node(&self) -> Result<OperatorApi, Problem> {
        let channel = self.agent_channel().await?;
        let client = OperatorClient::with_interceptor(channel, Bearer::none());
        Ok(client.max_decoding_message_size(crate::MESSAGE_BYTES_MAX))
    }

    /// The name of the node of this home, if its agent answers.
    async fn node_here(&self) -> Result<String, Problem> {
        let mut api = self.node().await?;
        Ok(call(CONNECT_TIMEOUT, api.status(NodeStatusRequest {})).await?.node)
    }

    /// Connects to the agent on this machine.
    ///
    /// # Errors
    /// `platform.not_running` (7) where nobody listens on its socket.
    pub async fn node(&self) -> Result<NodeApi, Problem> {
        let client = NodeClient::new(self.agent_channel().await?);
        Ok(client.max_decoding_message_size(crate::MESSAGE_BYTES_MAX))
    }

    async fn agent_channel(&self) -> Result<Channel, Problem> {
        let socket = self.agent_socket();
        // The name is only for the `:authority` header; the connector below ignores it.
        let endpoint = tuned(Endpoint::from_static("http://agent.local"));
        let path = socket.clone();
        let connector = tower::service_fn(move |_: Uri| {
            let path = path.clone();
            async move { tokio::net::UnixStream::connect(path).await.map(hyper_util::rt::TokioIo::new) }
        });
        self.patiently(async || endpoint.connect_with_connector(connector.clone()).await)
            .await
            .map_err(|error| nobody_answers("the agent", socket.as_str(), &error))
    }

    /// Connects again for a while where a supervisor is about to bring a killed daemon back.
    async fn patiently<T, E>(&self, mut connect: impl AsyncFnMut() -> Result<T, E>) -> Result<T, E> {
        let patience = tokio::time::sleep(RESTART_PATIENCE);
        tokio::pin!(patience);
        loop {
            match connect().await {
                Err(error) if patience.is_elapsed() || !self.is_supervised() => return Err(error),
                Err(_restarting) => tokio::select! {
                    () = &mut patience => {}
                    () = tokio::time::sleep(RESTART_LOOK_EVERY) => {}
                },
                connected => return connected,
            }
        }
    }

    /// Whether the process that `run/up.pid` names lives.
    fn is_supervised(&self) -> bool {
        let text = std::fs::read_to_string(self.home.run().join("up.pid")).unwrap_or_default();
        let pid = text.trim().parse().ok().and_then(rustix::process::Pid::from_raw);
        pid.is_some_and(|pid| rustix::process::test_kill_process(pid).is_ok())
    }

    /// The agent's socket: as it wrote into `run/agent.json`, else `run/agent.sock`.
    pub fn agent_socket(&self) -> Utf8PathBuf {
        #[derive(Deserialize)]
        struct AgentEndpoints {
            socket: Option<Utf8PathBuf>,
        }
        std::fs::read(self.agent_file())
            .ok()
            .and_then(|bytes| serde_json::from_slice::<AgentEndpoints>(&bytes).ok())
            .and_then(|endpoints| endpoints.socket)
            .unwrap_or_else(|| self.home.agent_socket())
    }
}

/// Of the layers of a failed connection only the innermost says anything.
fn nobody_answers(what: &str, place: &str, error: &(dyn std::error::Error + 'static)) -> Problem {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    not_running(what).cause(format!("nobody answers at {place}")).cause(innermost.to_string())
}

fn tuned(endpoint: Endpoint) -> Endpoint {
    endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        // Answers of queries are large and loopback is fast: small windows would only add round trips.
        .initial_stream_window_size(4 << 20)
        .initial_connection_window_size(8 << 20)
}

/// Awaits one call for at most `deadline`, and names what failed.
///
/// # Errors
/// The problem the call carries, or `platform.unreachable` (7) when the deadline passes.
pub async fn call<T>(
    deadline: Duration,
    pending: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> Result<T, Problem> {
    match tokio::time::timeout(deadline, pending).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(problem_of(&status)),
        Err(_) => Err(Problem::new(
            "platform.unreachable",
            ExitCode::Unavailable,
            format!("the platform did not answer within {} s", deadline.as_secs_f64()),
        )
        .hint_command("see what it is doing", "aap logs -n 20")
        .retry_after_ms(1000)),
    }
}

/// Puts the operator's token on every call; none on a socket, whose mode is the permission. Never prints it.
#[derive(Clone)]
pub struct Bearer {
    header: Option<MetadataValue<Ascii>>,
}

impl Bearer {
    fn none() -> Self {
        Self { header: None }
    }

    fn read(path: &Utf8Path) -> Result<Self, Problem> {
        let refused = |problem: Problem| {
            problem.hint("the coordinator writes this file when it starts; only its owner can read it")
        };
        let text = std::fs::read_to_string(path).map_err(|error| {
            let message = format!("the operator token `{path}` cannot be read");
            refused(Problem::new("auth.token_unreadable", ExitCode::LoginNeeded, message).caused_by(&error))
        })?;
        let mut header: MetadataValue<Ascii> = format!("Bearer {}", text.trim()).parse().map_err(|_| {
            let message = format!("`{path}` does not hold a token");
            refused(Problem::new("auth.token_unreadable", ExitCode::LoginNeeded, message))
        })?;
        header.set_sensitive(true);
        Ok(Self { header: Some(header) })
    }
}

impl std::fmt::Debug for Bearer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Bearer(…)")
    }
}

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(header) = &self.header {
            request.metadata_mut().insert("authorization", header.clone());
        }
        Ok(request)
    }
}
