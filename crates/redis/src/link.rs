//! Connections: one to the node of the URL, and to other nodes of a cluster as it sends us to them.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use aap_sinks::tls;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Cmd, FromRedisValue, RedisConnectionInfo, RedisResult};
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;

use crate::fail::LinkError;
use crate::spec::{Address, RedisServer};

/// Longest time to a connection, with DNS, TCP, TLS and login.
const CONNECT_MAX: Duration = Duration::from_secs(10);
/// Longest time for one command. A script with all rows of a group takes some hundredths of a second.
const ANSWER_MAX: Duration = Duration::from_secs(30);
/// How often a cluster may send us on: once for a key that moved, once more where it moves just now.
const REDIRECTS_MAX: usize = 4;

/// The server, or the cluster.
pub(crate) struct Link {
    home: Address,
    user: RedisConnectionInfo,
    tls: Option<TlsConnector>,
    nodes: HashMap<String, Session>,
    /// Which node a key was found at, where it is not at home.
    routes: HashMap<String, String>,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").field("home", &self.home).finish_non_exhaustive()
    }
}

/// A connection. Dropped, it closes.
struct Session {
    connection: MultiplexedConnection,
    driver: JoinHandle<()>,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Link {
    /// Reads what lies in files, anew each time, and connects.
    pub(crate) async fn to(server: &RedisServer) -> Result<Self, LinkError> {
        let home = Address::of(&server.url).map_err(LinkError::Answer)?;
        let (is_tls, ca, password) = (home.is_tls, server.ca.clone(), server.password.clone());
        let read = tokio::task::spawn_blocking(move || {
            let password = password.map(|password| password.read()).transpose().map_err(LinkError::Secret)?;
            let tls =
                is_tls.then(|| tls::client_config(ca.as_deref())).transpose().map_err(LinkError::Tls)?;
            Ok::<_, LinkError>((password, tls))
        });
        let (password, tls) = read.await.map_err(|panic| LinkError::Answer(panic.to_string()))??;
        let mut user = RedisConnectionInfo::default().set_db(home.database).set_skip_set_lib_name();
        if let Some(name) = &server.username {
            user = user.set_username(name);
        }
        if let Some(password) = &password {
            user = user.set_password(password.reveal());
        }
        let tls = tls.map(|config| TlsConnector::from(Arc::new(config)));
        let mut link = Self { home, user, tls, nodes: HashMap::new(), routes: HashMap::new() };
        let home = link.home.clone();
        link.connect(&home).await?;
        Ok(link)
    }

    /// Runs a command where `key` is.
    pub(crate) async fn call<T: FromRedisValue>(&mut self, key: &str, command: &Cmd) -> Result<T, LinkError> {
        let mut node = self.routes.get(key).cloned().unwrap_or_else(|| self.home.node());
        for _ in 0..REDIRECTS_MAX {
            if !self.nodes.contains_key(&node) {
                let address = self.home.at(&node).ok_or_else(|| LinkError::Astray(key.to_owned()))?;
                self.connect(&address).await?;
            }
            let session = self.nodes.get_mut(&node).expect("it was connected");
            let answer = within(ANSWER_MAX, command.query_async(&mut session.connection)).await?;
            let error = match answer {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            let Some((other, _slot)) = error.redirect_node().filter(|_| error.code() == Some("MOVED")) else {
                return Err(error.into());
            };
            node = match other.strip_prefix(':') {
                None => other.to_owned(),
                // A node that does not know its own name leaves the host out: it is the one that we asked.
                Some(port) => {
                    let host = node.rsplit_once(':').map_or(node.as_str(), |(host, _)| host);
                    format!("{host}:{port}")
                }
            };
            self.routes.insert(key.to_owned(), node.clone());
        }
        Err(LinkError::Astray(key.to_owned()))
    }

    async fn connect(&mut self, address: &Address) -> Result<(), LinkError> {
        let session = tokio::time::timeout(CONNECT_MAX, self.open(address)).await;
        let session = session.map_err(|_elapsed| LinkError::Late(CONNECT_MAX))??;
        self.nodes.insert(address.node(), session);
        Ok(())
    }

    async fn open(&self, address: &Address) -> Result<Session, LinkError> {
        let failed = |source| LinkError::Connect { node: address.node(), source };
        let stream = TcpStream::connect((address.host.as_str(), address.port)).await.map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        // Deadlines are ours.
        let config = AsyncConnectionConfig::new().set_response_timeout(None).set_connection_timeout(None);
        Ok(match &self.tls {
            None => {
                let (connection, driver) =
                    MultiplexedConnection::new_with_config(&self.user, stream, config).await?;
                drive(connection, driver)
            }
            Some(tls) => {
                let name = ServerName::try_from(address.host.clone())
                    .map_err(|error| failed(std::io::Error::other(error)))?;
                let stream = tls.connect(name, stream).await.map_err(failed)?;
                let (connection, driver) =
                    MultiplexedConnection::new_with_config(&self.user, stream, config).await?;
                drive(connection, driver)
            }
        })
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the task is a part of its session: it is aborted with it, and what it meets every caller of the session is told"
)]
fn drive(connection: MultiplexedConnection, driver: impl Future<Output = ()> + Send + 'static) -> Session {
    Session { connection, driver: tokio::spawn(driver) }
}

async fn within<T>(
    deadline: Duration,
    call: impl Future<Output = RedisResult<T>>,
) -> Result<RedisResult<T>, LinkError> {
    tokio::time::timeout(deadline, call).await.map_err(|_elapsed| LinkError::Late(deadline))
}
