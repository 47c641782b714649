//! A store as the document describes it. Nothing is asked of it yet.

use std::sync::Arc;

use aap_runtime::SecretRef;
use aap_sinks::{Failure, tls};
use camino::Utf8Path;
use object_store::aws::{AmazonS3Builder, S3ConditionalPut};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ObjectStore, RetryConfig};

use super::chain::Chains;
use super::fail;
use super::spec::{Location, S3Spec};
use super::wire::Transport;

/// Reads secrets and authorities, anew each time: they are changed under a running daemon. Blocks for small files.
pub(super) fn open(spec: &S3Spec, uid: &str) -> Result<Chains, Failure> {
    spec.check().map_err(fail::setting)?;
    let (objects, prefix, is_ordered) = match spec.location().map_err(fail::setting)? {
        Location::Directory(directory) => (local(directory)?, "", false),
        Location::Bucket { name, prefix } => (bucket(spec, name)?, prefix, true),
    };
    let prefix = Path::parse(prefix).map_err(|error| fail::setting(error.to_string()))?;
    Ok(Chains { objects, prefix, uid: uid.to_owned(), is_ordered, is_conditional: !spec.allow_duplicates })
}

fn local(directory: &Utf8Path) -> Result<Arc<dyn ObjectStore>, Failure> {
    match LocalFileSystem::new_with_prefix(directory) {
        Ok(objects) => Ok(Arc::new(objects.with_fsync(true))),
        Err(error) => Err(fail::no_directory(directory, &error)),
    }
}

fn bucket(spec: &S3Spec, bucket: &str) -> Result<Arc<dyn ObjectStore>, Failure> {
    let tls = tls::client_config(spec.ca.as_deref()).map_err(|error| fail::setting(error.to_string()))?;
    let is_path_style = spec.has_path_style(bucket);
    let mut builder = AmazonS3Builder::new()
        .with_bucket_name(bucket)
        .with_region(spec.region())
        .with_conditional_put(S3ConditionalPut::ETagMatch)
        .with_virtual_hosted_style_request(!is_path_style)
        // What `spec.rs` lets through.
        .with_allow_http(true)
        // Whoever runs the sink tries again, and asks first what happened.
        .with_retry(RetryConfig { max_retries: 0, ..RetryConfig::default() })
        .with_http_connector(Transport::new(tls));
    if let Some(endpoint) = &spec.endpoint {
        let endpoint = endpoint.trim_end_matches('/');
        builder = builder.with_endpoint(match is_path_style {
            true => endpoint.to_owned(),
            false => endpoint.replacen("://", &format!("://{bucket}."), 1),
        });
    }
    if let (Some(access), Some(secret)) = (&spec.access_key, &spec.secret_key) {
        builder = builder.with_access_key_id(reveal(access)?).with_secret_access_key(reveal(secret)?);
    }
    if let Some(token) = &spec.session_token {
        builder = builder.with_token(reveal(token)?);
    }
    let built = builder.build().map_err(|error| fail::setting(error.to_string()))?;
    Ok(Arc::new(built))
}

fn reveal(reference: &SecretRef) -> Result<String, Failure> {
    match reference.read() {
        Ok(secret) => Ok(secret.reveal().to_owned()),
        Err(error) => Err(fail::unreadable(&error)),
    }
}
