//! The client of a store. Nothing is asked of it yet.

use std::io;
use std::sync::Arc;

use aap_runtime::{SecretError, SecretRef};
use aap_sinks::tls;
use camino::{Utf8Path, Utf8PathBuf};
use object_store::aws::{AmazonS3Builder, S3ConditionalPut};
use object_store::local::LocalFileSystem;
use object_store::path::{self, Path};
use object_store::{ObjectStore, RetryConfig};

use super::wire::Transport;
use super::{Access, Location};

/// A store, and where in it the objects of a document stand.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) objects: Arc<dyn ObjectStore>,
    pub(crate) prefix: Path,
    /// Whether names come in their order when they are listed.
    pub(crate) is_ordered: bool,
}

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    /// A document that says what cannot be; the text says what to write instead.
    #[error("{0}")]
    Setting(String),
    /// The prefix in a url.
    #[error("use the prefix in `url`")]
    Prefix(#[source] path::Error),
    /// The authorities that signed the store's certificate.
    #[error("read the authorities that are trusted")]
    Authorities(#[source] io::Error),
    /// A key is not where the document says.
    #[error("read a key of the store")]
    Secret(#[source] SecretError),
    /// The client library refuses.
    #[error("make a client of the store")]
    Client(#[source] object_store::Error),
    /// The directory is not there, or not ours.
    #[error("use the directory `{directory}`")]
    Directory {
        /// In the place of a bucket.
        directory: Utf8PathBuf,
        /// Why not.
        #[source]
        source: object_store::Error,
    },
}

/// Reads secrets and authorities, anew each time: they are changed under a running daemon. Blocks for small files.
pub(crate) fn open(access: &Access<'_>, retry: RetryConfig) -> Result<Opened, OpenError> {
    access.check().map_err(OpenError::Setting)?;
    let (objects, prefix, is_ordered) = match access.location().map_err(OpenError::Setting)? {
        Location::Directory(directory) => (local(directory)?, "", false),
        Location::Bucket { name, prefix } => (bucket(access, name, retry)?, prefix, true),
    };
    Ok(Opened { objects, prefix: Path::parse(prefix).map_err(OpenError::Prefix)?, is_ordered })
}

fn local(directory: &Utf8Path) -> Result<Arc<dyn ObjectStore>, OpenError> {
    match LocalFileSystem::new_with_prefix(directory) {
        Ok(objects) => Ok(Arc::new(objects.with_fsync(true))),
        Err(source) => Err(OpenError::Directory { directory: directory.to_owned(), source }),
    }
}

fn bucket(access: &Access<'_>, bucket: &str, retry: RetryConfig) -> Result<Arc<dyn ObjectStore>, OpenError> {
    let tls = tls::client_config(access.ca).map_err(OpenError::Authorities)?;
    let is_path_style = access.has_path_style(bucket);
    let mut builder = AmazonS3Builder::new()
        .with_bucket_name(bucket)
        .with_region(access.region())
        .with_conditional_put(S3ConditionalPut::ETagMatch)
        .with_virtual_hosted_style_request(!is_path_style)
        // What `access.rs` lets through.
        .with_allow_http(true)
        .with_retry(retry)
        .with_http_connector(Transport::new(tls));
    if let Some(endpoint) = access.endpoint {
        let endpoint = endpoint.trim_end_matches('/');
        builder = builder.with_endpoint(match is_path_style {
            true => endpoint.to_owned(),
            false => endpoint.replacen("://", &format!("://{bucket}."), 1),
        });
    }
    if let (Some(key), Some(secret)) = (access.access_key, access.secret_key) {
        builder = builder.with_access_key_id(reveal(key)?).with_secret_access_key(reveal(secret)?);
    }
    if let Some(token) = access.session_token {
        builder = builder.with_token(reveal(token)?);
    }
    Ok(Arc::new(builder.build().map_err(OpenError::Client)?))
}

fn reveal(reference: &SecretRef) -> Result<String, OpenError> {
    Ok(reference.read().map_err(OpenError::Secret)?.reveal().to_owned())
}
