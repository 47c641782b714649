//! Finding a platform by its home or a context, and connecting to its daemons when first asked.
//!
//! The coordinator is reached over TCP with a bearer token, the agent over its unix socket. Both write where they listen into `run/` of
//! their home themselves; nothing is guessed. A context says where a coordinator elsewhere is, and by which authority it is known. A node
//! without a coordinator answers operators itself, on the same socket.

use std::time::Duration;

use aap_runtime::Home;
use aap_types::{ExitCode, Problem};
use camino::{Utf8Path, Utf8PathBuf};
use serde::Deserialize;
use tonic::Status;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Uri};

use crate::authority::Authority;
use crate::bearer::Bearer;
use crate::contexts::{self, ContextName};
use crate::credentials::{Credential, Credentials, context_key};
use crate::environment::{self, Environment};
use crate::found;
use crate::problems::{not_running, problem_of};
use crate::roots;
use crate::target::Target;
use crate::v1::NodeStatusRequest;
use crate::v1::access_client::AccessClient;
use crate::v1::audit_client::AuditClient;
use crate::v1::node_client::NodeClient;
use crate::v1::operator_client::OperatorClient;
use crate::v1::resources_client::ResourcesClient;
use crate::v1::secrets_client::SecretsClient;

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
/// Secrets that the platform keeps, which only a coordinator does.
pub type SecretsApi = SecretsClient<InterceptedService<Channel, Bearer>>;
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

/// One platform. Cheap to make: it reads and connects only when asked.
#[derive(Debug, Clone)]
pub struct Platform {
    /// Where it keeps its files; none where it is elsewhere.
    home: Option<Home>,
    /// The context by which it was found.
    context: Option<ContextName>,
    /// Where the coordinator is, where the home does not say.
    endpoint: Option<String>,
    /// By which authority the coordinator is known, where it is not that of the home.
    authority: Option<Authority>,
    /// The context's own file of it, in which it learns of other roots.
    learns: Option<Utf8PathBuf>,
    credentials: Credentials,
    /// Why something is done there, for its audit log.
    reason: Option<String>,
}

impl Platform {
    /// The platform at `home`, for programs that act for it: with its own token, whoever is logged in.
    pub fn at(home: Home) -> Self {
        let credentials = Credentials::of_home(home.operator_token_file());
        let (home, reason) = (Some(home), None);
        Self { home, context: None, endpoint: None, authority: None, learns: None, credentials, reason }
    }

    /// The platform that is meant, as whoever types reaches it.
    ///
    /// # Errors
    /// `context.bad_endpoint` (2), `context.bad_authority` (2), `auth.store_unknown` (2).
    pub fn find(target: Target, environment: &Environment) -> Result<Self, Problem> {
        let (context, facts) = match target {
            Target::Home(home) => (None, contexts::OperatorContext { home, ..Default::default() }),
            Target::Context(name, facts) => (Some(name), facts),
        };
        let endpoint =
            environment.get(environment::ENDPOINT).map(contexts::endpoint).transpose()?.or(facts.endpoint);
        let own = context.as_ref().map(|name| contexts::authority_in(&environment.config_folder(), name));
        let ca = environment.get(environment::AUTHORITY).map(Utf8PathBuf::from).or(facts.ca);
        let learns = own.filter(|own| ca.as_ref() == Some(own));
        let authority = ca.as_deref().map(Authority::read).transpose()?;
        let has_home = context.is_none() || facts.home.is_some();
        let home = has_home.then(|| Home::find(facts.home.as_deref()));
        let home_token = home.as_ref().filter(|_| authority.is_none()).map(Home::operator_token_file);
        let fingerprints = authority.as_ref().map(|authority| authority.fingerprints().to_vec());
        let key = match (&context, &home) {
            (Some(name), _) => context_key(name),
            (None, Some(home)) => home_key(home),
            (None, None) => unreachable!("without a context there is a home"),
        };
        let credentials = Credentials::new(environment, key, fingerprints.unwrap_or_default(), home_token)?;
        Ok(Self { home, context, endpoint, authority, learns, credentials, reason: None })
    }

    /// From now on every call says why it is made.
    pub fn give_reason(&mut self, reason: &str) {
        self.reason = Some(reason.to_owned());
    }

    /// The context by which it was found.
    pub fn context(&self) -> Option<&ContextName> {
        self.context.as_ref()
    }

    /// A name for files about it: the same for the same way to it.
    pub fn key(&self) -> String {
        let context = self.context.as_ref().map_or("", ContextName::as_str);
        let home = self.home.as_ref().map(home_key).unwrap_or_default();
        let way = format!("{context}\n{home}\n{}", self.endpoint.as_deref().unwrap_or_default());
        blake3::hash(way.as_bytes()).to_hex()[..32].to_owned()
    }

    /// Where it keeps its files.
    ///
    /// # Errors
    /// `context.no_home` (2): it is elsewhere.
    pub fn home(&self) -> Result<&Home, Problem> {
        self.home.as_ref().ok_or_else(|| {
            let name = self.context.as_ref().map_or("", ContextName::as_str);
            let message =
                format!("this works on files of this machine, and the context `{name}` leads elsewhere");
            Problem::new("context.no_home", ExitCode::Usage, message)
                .hint("name the home with --home, or type it where the platform runs")
        })
    }

    /// Who is known to it here, and by what.
    pub fn credentials(&self) -> &Credentials {
        &self.credentials
    }

    /// Where its coordinator answers operators: HOST:PORT.
    ///
    /// # Errors
    /// `platform.not_running` (7) where it is one of this machine that never started.
    pub fn operator_endpoint(&self) -> Result<String, Problem> {
        match &self.endpoint {
            Some(endpoint) => Ok(endpoint.clone()),
            None => Ok(self.coordinator_endpoints()?.operator),
        }
    }

    /// The authority by which its coordinator is known.
    ///
    /// # Errors
    /// `platform.not_running` (7); `platform.authority` (1); `context.bad_authority` (2) where nobody said.
    pub fn authority(&self) -> Result<Authority, Problem> {
        if let Some(authority) = &self.authority {
            return Ok(authority.clone());
        }
        let of_home = self.home.as_ref().and_then(|home| {
            let file = self.coordinator_endpoints().map(|endpoints| endpoints.operator_ca).transpose()?;
            Some(file.map(|file| home.root().join(file)))
        });
        match of_home {
            Some(path) => {
                let path = path?;
                Authority::read(&path).map_err(|problem| unusable_authority(&path, &problem))
            }
            None => Err(unknown_authority(self.endpoint.as_deref().unwrap_or_default())),
        }
    }

    /// `run/coordinator.json`.
    fn coordinator_file(&self) -> Option<Utf8PathBuf> {
        self.home.as_ref().map(|home| home.run().join("coordinator.json"))
    }

    /// `run/agent.json`.
    pub fn agent_file(&self) -> Option<Utf8PathBuf> {
        self.home.as_ref().map(|home| home.run().join("agent.json"))
    }

    /// Where the coordinator listens.
    ///
    /// # Errors
    /// `platform.not_running` where it never started here.
    pub fn coordinator_endpoints(&self) -> Result<CoordinatorEndpoints, Problem> {
        let home = self.home()?;
        let path = home.run().join("coordinator.json");
        let text = std::fs::read_to_string(&path)
            .map_err(|error| not_running(&format!("the platform at `{}`", home.root())).caused_by(&error))?;
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
        let (channel, bearer) = self.coordinator().await?;
        let client = OperatorClient::with_interceptor(channel, bearer);
        Ok(client.max_decoding_message_size(crate::MESSAGE_BYTES_MAX))
    }

    /// Connects to the coordinator for declared objects and sinks, which no node has.
    ///
    /// # Errors
    /// As [`Self::operator`]; `platform.needs_coordinator` (7) where only a node runs.
    pub async fn resources(&self) -> Result<ResourcesApi, Problem> {
        self.needs_coordinator("declared objects and sinks are the coordinator's")?;
        let (channel, bearer) = self.coordinator().await?;
        let client = ResourcesClient::with_interceptor(channel, bearer);
        Ok(client.max_decoding_message_size(crate::MESSAGE_BYTES_MAX))
    }

    /// Connects to the coordinator for who may do what.
    ///
    /// # Errors
    /// As [`Self::resources`].
    pub async fn access(&self) -> Result<AccessApi, Problem> {
        self.needs_coordinator("nodes and tokens are the coordinator's")?;
        let (channel, bearer) = self.coordinator().await?;
        Ok(AccessClient::with_interceptor(channel, bearer))
    }

    /// Connects to the coordinator for what was done with privilege.
    ///
    /// # Errors
    /// As [`Self::resources`].
    pub async fn audit(&self) -> Result<AuditApi, Problem> {
        self.needs_coordinator("the audit log is the coordinator's")?;
        let (channel, bearer) = self.coordinator().await?;
        Ok(AuditClient::with_interceptor(channel, bearer))
    }

    /// Connects to the coordinator for the secrets that it keeps.
    ///
    /// # Errors
    /// As [`Self::resources`].
    pub async fn secrets(&self) -> Result<SecretsApi, Problem> {
        self.needs_coordinator("secrets are kept by the coordinator")?;
        let (channel, bearer) = self.coordinator().await?;
        Ok(SecretsClient::with_interceptor(channel, bearer))
    }

    /// The same with another token than the one that was found, or with none, as for a log-in.
    ///
    /// # Errors
    /// As [`Self::resources`].
    pub async fn access_as(&self, bearer: Option<Bearer>) -> Result<AccessApi, Problem> {
        self.needs_coordinator("users and their logins are the coordinator's")?;
        let channel = self.coordinator_channel().await?;
        Ok(AccessClient::with_interceptor(channel, bearer.unwrap_or_else(Bearer::none)))
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
        let is_there = |path: Option<Utf8PathBuf>| path.is_some_and(|path| path.exists());
        self.endpoint.is_none() && !is_there(self.coordinator_file()) && is_there(self.agent_socket())
    }

    /// Channel and token. Whether a platform runs here is said before who is logged in.
    async fn coordinator(&self) -> Result<(Channel, Bearer), Problem> {
        if self.endpoint.is_none() {
            self.coordinator_endpoints()?;
        }
        let Credential { bearer, .. } = self.credentials.find()?;
        let channel = self.coordinator_channel().await?;
        if let Some(path) = &self.learns {
            roots::learn(path, &channel, &bearer).await;
        }
        Ok((channel, bearer.because(self.reason.as_deref())))
    }

    /// To the first that answers, where there are several.
    async fn coordinator_channel(&self) -> Result<Channel, Problem> {
        let mut failure = None;
        for address in found::addresses(self.operator_endpoint()?).await? {
            match self.channel_at(&address).await {
                Ok(channel) => return Ok(channel),
                Err(problem) => failure = Some(problem),
            }
        }
        Err(failure.expect("there is one address at least"))
    }

    async fn channel_at(&self, address: &str) -> Result<Channel, Problem> {
        let endpoint = self.endpoint_at(address)?;
        let connected = self.patiently(async || tuned(endpoint.clone()).connect().await).await;
        connected.map_err(|error| match (&self.endpoint, &self.context) {
            (None, _) => nobody_answers("the coordinator", address, &error),
            (Some(_), context) => unreachable_at(address, context.as_ref(), &error),
        })
    }

    fn endpoint_at(&self, address: &str) -> Result<Endpoint, Problem> {
        let is_plain = self.endpoint.is_none() && self.coordinator_endpoints()?.operator_ca.is_none();
        let scheme = if is_plain { "http" } else { "https" };
        let endpoint = Endpoint::from_shared(format!("{scheme}://{address}")).map_err(|error| {
            Problem::new("platform.run_file", ExitCode::Failed, format!("`{address}` is not an address"))
                .caused_by(&error)
        })?;
        if is_plain {
            return Ok(endpoint);
        }
        let certificate = Certificate::from_pem(self.authority()?.pem());
        endpoint.tls_config(ClientTlsConfig::new().ca_certificate(certificate)).map_err(|error| {
            let message = "the authority of the coordinator cannot be used";
            Problem::new("platform.authority", ExitCode::Failed, message)
                .caused_by(&error)
                .hint_command("see which it is", "aap context show")
        })
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
        let home = self.home()?;
        let socket = self.agent_socket().unwrap_or_else(|| home.agent_socket());
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
        let file = self.home.as_ref().map(|home| home.run().join("up.pid"));
        let text = file.and_then(|file| std::fs::read_to_string(file).ok()).unwrap_or_default();
        let pid = text.trim().parse().ok().and_then(rustix::process::Pid::from_raw);
        pid.is_some_and(|pid| rustix::process::test_kill_process(pid).is_ok())
    }

    /// The agent's socket: as it wrote into `run/agent.json`, else `run/agent.sock`.
    pub fn agent_socket(&self) -> Option<Utf8PathBuf> {
        #[derive(Deserialize)]
        struct AgentEndpoints {
            socket: Option<Utf8PathBuf>,
        }
        let home = self.home.as_ref()?;
        let written = std::fs::read(home.run().join("agent.json"))
            .ok()
            .and_then(|bytes| serde_json::from_slice::<AgentEndpoints>(&bytes).ok())
            .and_then(|endpoints| endpoints.socket);
        Some(written.unwrap_or_else(|| home.agent_socket()))
    }
}

/// What the login of a home is stored under, whatever the way to it is called.
fn home_key(home: &Home) -> String {
    let path = home.root().canonicalize_utf8().unwrap_or_else(|_not_there| home.root().to_owned());
    let digest = blake3::hash(path.as_str().as_bytes()).to_hex();
    format!("home-{}", &digest[..32])
}

fn unusable_authority(path: &Utf8Path, problem: &Problem) -> Problem {
    let message = format!("the authority of the coordinator in `{path}` cannot be used");
    let mut unusable = Problem::new("platform.authority", ExitCode::Failed, message);
    unusable.causes.clone_from(&problem.causes);
    unusable.hint_command("restart the platform, which writes it anew", "aap down && aap up --detach")
}

fn unknown_authority(endpoint: &str) -> Problem {
    let message =
        format!("nobody said by which certificate authority the coordinator at {endpoint} is known");
    Problem::new("context.bad_authority", ExitCode::Usage, message)
        .hint("name its file in AAP_CA; it is `tls/root.pem` of the coordinator's home")
        .hint_command(
            "or keep both in a context",
            format!("aap context add NAME --endpoint {endpoint} --ca FILE"),
        )
}

/// Nobody answers in a home.
fn nobody_answers(what: &str, place: &str, error: &(dyn std::error::Error + 'static)) -> Problem {
    not_running(what).cause(format!("nobody answers at {place}")).cause(innermost(error))
}

/// Nobody whom we believe answers elsewhere.
fn unreachable_at(
    place: &str,
    context: Option<&ContextName>,
    error: &(dyn std::error::Error + 'static),
) -> Problem {
    let message = format!("the coordinator at {place} cannot be reached");
    let problem =
        Problem::new("platform.unreachable", ExitCode::Unavailable, message).cause(innermost(error));
    let problem = match context {
        Some(name) => problem.hint_command("see where the context leads", format!("aap context show {name}")),
        None => problem.hint("AAP_ENDPOINT says that it is there"),
    };
    problem.retry_after_ms(1000)
}

/// Of the layers of a failed connection only the innermost says anything.
pub(crate) fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
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
