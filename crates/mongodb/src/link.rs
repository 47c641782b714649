//! The client: whom it believes, who we are, and how long it may take.

use std::future::{Future, IntoFuture};
use std::time::Duration;

use aap_sinks::tls;
use mongodb::bson::{Document, RawDocumentBuf};
use mongodb::options::{
    Acknowledgment, ClientOptions, CollectionOptions, Credential, Tls, TlsOptions, WriteConcern,
};
use mongodb::{Client, Collection, Database};

use crate::fail::MongoError;
use crate::spec::MongoDbSpec;

/// Longest time to find a server that takes writes. An election takes some ten seconds; whoever meets one tries again.
const FIND_MAX: Duration = Duration::from_secs(5);
/// Longest time to a connection.
const CONNECT_MAX: Duration = Duration::from_secs(10);
/// Longest time until a majority has what was written.
const MAJORITY_MAX: Duration = Duration::from_secs(20);
/// Longest time for one command; the server says before that what kept it waiting.
const ANSWER_MAX: Duration = Duration::from_secs(30);
/// How the server's logs call us.
const APP_NAME: &str = "aap";

/// The server, or the set of them. Dropped, it closes.
#[derive(Debug)]
pub(crate) struct Link {
    database: Database,
}

impl Link {
    /// Reads what lies in files, anew each time. The first call connects.
    pub(crate) async fn to(spec: &MongoDbSpec) -> Result<Self, MongoError> {
        let mut options = ClientOptions::parse(&spec.url).await?;
        options.app_name = Some(APP_NAME.to_owned());
        options.server_selection_timeout = Some(FIND_MAX);
        options.connect_timeout = Some(CONNECT_MAX);
        let read = {
            let spec = spec.clone();
            tokio::task::spawn_blocking(move || Ok::<_, MongoError>((credential(&spec)?, encryption(&spec)?)))
        };
        let (credential, tls) = read.await.map_err(|panic| MongoError::Answer(panic.to_string()))??;
        options.credential = credential.map(|mut credential| {
            credential.source = options.default_database.clone();
            credential
        });
        options.tls = tls;
        Ok(Self { database: Client::with_options(options)?.database(&spec.database) })
    }

    /// Runs a command on the sink's database.
    pub(crate) async fn command(&self, command: Document) -> Result<Document, MongoError> {
        within(self.database.run_command(command)).await
    }

    /// Documents of a collection, whose writes are acknowledged by a majority and its disks.
    pub(crate) fn collection(&self, name: &str) -> Collection<RawDocumentBuf> {
        let options = CollectionOptions::builder().write_concern(majority()).build();
        self.database.collection_with_options(name, options)
    }

    pub(crate) fn database(&self) -> &Database {
        &self.database
    }
}

/// How everything is written.
pub(crate) fn majority() -> WriteConcern {
    WriteConcern::builder().w(Acknowledgment::Majority).journal(true).w_timeout(MAJORITY_MAX).build()
}

/// An action of the driver, with a deadline.
pub(crate) async fn within<T>(
    action: impl IntoFuture<IntoFuture: Future<Output = mongodb::error::Result<T>>>,
) -> Result<T, MongoError> {
    let answer = tokio::time::timeout(ANSWER_MAX, action.into_future()).await;
    Ok(answer.map_err(|_elapsed| MongoError::Late(ANSWER_MAX))??)
}

fn credential(spec: &MongoDbSpec) -> Result<Option<Credential>, MongoError> {
    let (Some(username), Some(password)) = (&spec.username, &spec.password) else { return Ok(None) };
    let password = password.read().map_err(MongoError::Secret)?;
    Ok(Some(Credential::builder().username(username.clone()).password(password.reveal().to_owned()).build()))
}

fn encryption(spec: &MongoDbSpec) -> Result<Option<Tls>, MongoError> {
    let Some(tls) = &spec.tls else { return Ok(None) };
    let file = tls::authorities_file(tls.ca.as_deref()).map_err(MongoError::Tls)?;
    // The driver reads it again, and passes over what it cannot read.
    tls::authorities(Some(file)).map_err(MongoError::Tls)?;
    Ok(Some(Tls::Enabled(TlsOptions::builder().ca_file_path(file.to_path_buf().into_std_path_buf()).build())))
}
