//! A store as the document describes it. Nothing is asked of it yet.

use aap_sinks::Failure;
use object_store::RetryConfig;

use super::chain::Chains;
use super::fail;
use super::spec::S3Spec;
use crate::s3::{self, OpenError, Opened};

/// Reads secrets and authorities, anew each time: they are changed under a running daemon. Blocks for small files.
pub(super) fn open(spec: &S3Spec, uid: &str) -> Result<Chains, Failure> {
    // Whoever runs the sink tries again, and asks first what happened.
    let retry = RetryConfig { max_retries: 0, ..RetryConfig::default() };
    let Opened { objects, prefix, is_ordered } = s3::open(&spec.access(), retry).map_err(failed)?;
    Ok(Chains { objects, prefix, uid: uid.to_owned(), is_ordered, is_conditional: !spec.allow_duplicates })
}

fn failed(error: OpenError) -> Failure {
    match error {
        OpenError::Secret(error) => fail::unreadable(&error),
        OpenError::Directory { directory, source } => fail::no_directory(&directory, &source),
        OpenError::Setting(why) => fail::setting(why),
        OpenError::Authorities(error) => fail::setting(error.to_string()),
        OpenError::Prefix(error) => fail::setting(error.to_string()),
        OpenError::Client(error) => fail::setting(error.to_string()),
    }
}
